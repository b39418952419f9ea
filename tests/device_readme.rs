// SPDX-License-Identifier: MIT OR Apache-2.0
//! The README's servers as programs, on a real driver. `tests/readme.rs` says that they are the README's own text.
#![cfg_attr(not(have_ublk), allow(dead_code, reason = "the tests are ignored, not left out"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]

mod harness;

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use harness::{Aligned, nodes};
use ublk::{Control, DeviceId};

/// A program of the README whose disk can be used.
struct Server {
    program: Child,
    path: String,
}

impl Server {
    fn start(name: &str) -> Server {
        let mut program = Command::new(name)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut path = String::new();
        BufReader::new(program.stdout.take().unwrap()).read_line(&mut path).unwrap();
        let path = path.trim_end().to_owned();
        assert!(path.starts_with("/dev/ublkb"), "{name} said {path:?}, and ended with {:?}", program.try_wait());
        let mut server = Server { program, path };
        // One of them says its path before the disk is there.
        while File::open(&server.path).is_err() {
            let ended = server.program.try_wait().unwrap();
            assert!(ended.is_none(), "{name} ended without a disk: {ended:?}");
            thread::yield_now();
        }
        server
    }

    fn attribute(&self, file: &str) -> String {
        let name = Path::new(&self.path).file_name().unwrap().to_str().unwrap();
        fs::read_to_string(format!("/sys/block/{name}/{file}")).unwrap().trim().to_owned()
    }

    /// The disk past the page cache.
    fn open(&self, write: bool) -> File {
        OpenOptions::new().read(true).write(write).custom_flags(libc::O_DIRECT).open(&self.path).unwrap()
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.program.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// Waits for its end, which has to be a good one.
    fn ended(&mut self) {
        let status = self.program.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{status}");
    }

    /// Sends the signal, and expects the program to end well and to leave nothing.
    fn stop(mut self, signal: &str) {
        self.signal(signal);
        self.ended();
        assert_eq!(nodes(), [""; 0]);
    }
}

impl Drop for Server {
    /// A test that fails leaves no server behind for the next to stumble over.
    fn drop(&mut self) {
        if let Ok(None) = self.program.try_wait() {
            // The test has failed by now, and says why; there is nothing to add if this fails too.
            let _ = self.program.kill().and_then(|()| self.program.wait());
            let id = self.path.trim_start_matches("/dev/ublkb").parse().map(DeviceId::new);
            let _ = id.map(|id| Control::open().and_then(|mut control| control.delete(id)));
        }
    }
}

/// Writes all of a disk, reads it back, and leaves something in the page cache for the stop to write.
fn stores(name: &str) {
    let server = Server::start(name);
    assert_eq!(server.attribute("size"), (64 * 2048).to_string());
    assert_eq!((server.attribute("ro"), server.attribute("queue/write_cache")), ("0".into(), "write through".into()));
    let disk = server.open(true);
    let mib = |number: u8| Aligned::filled(1 << 20, number.wrapping_mul(37) + 1);
    for number in 0..64 {
        disk.write_all_at(&mib(number), u64::from(number) << 20).unwrap();
    }
    // An end of the disk that is one sector.
    disk.write_all_at(&Aligned::filled(512, 0xee), (64 << 20) - 512).unwrap();
    let mut read = Aligned::filled(1 << 20, 0);
    for number in 0..64 {
        disk.read_exact_at(&mut read, u64::from(number) << 20).unwrap();
        let own = if number == 63 { (1 << 20) - 512 } else { 1 << 20 };
        assert!(read[..own] == mib(number)[..own], "MiB {number}");
    }
    assert_eq!(read[(1 << 20) - 512..], [0xee; 512]);
    drop(disk);
    let cached = OpenOptions::new().write(true).open(&server.path).unwrap();
    cached.write_all_at(&[1; 5 << 20], 4096).unwrap();
    drop(cached);
    server.stop("TERM");
}

/// Reads a MiB here and there of a disk that is zeroes, and goes on until the disk is gone.
fn reads_zeroes(name: &str) {
    let mut server = Server::start(name);
    assert_eq!((server.attribute("size"), server.attribute("ro")), ((1 << 20).to_string(), "1".into()));
    let disk = server.open(false);
    let mut read = Aligned::filled(1 << 20, 1);
    for number in (0..512).step_by(73) {
        disk.read_exact_at(&mut read, number << 20).unwrap();
        assert!(read.iter().all(|byte| *byte == 0), "MiB {number}");
        read.fill(1);
    }
    let reader = thread::spawn(move || while disk.read_exact_at(&mut read, 0).is_ok() {});
    // Its client has the disk open, and is in the middle of a read; the nodes are looked for when it is through.
    server.signal("TERM");
    server.ended();
    reader.join().unwrap();
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_type_that_reads_and_writes_at_an_offset_keeps_what_is_written() {
    stores("readme-type");
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_closure_over_requests_keeps_what_is_written() {
    stores("readme-closure");
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_loop_of_its_own_serves_its_disk_from_one_thread() {
    let server = Server::start("readme-poll");
    let tasks = fs::read_dir(format!("/proc/{}/task", server.program.id())).unwrap();
    let names = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap());
    // The kernel has workers of its own for control commands that sleep.
    let own = names.filter(|name| !name.starts_with("iou-wrk")).count();
    assert_eq!(own, 1);
    server.stop("TERM");
    reads_zeroes("readme-poll");
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn an_executor_written_by_hand_drives_a_queue() {
    reads_zeroes("readme-block-on");
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn sigint_ends_each_as_well_and_the_next_begins_with_the_same_id() {
    for name in ["readme-type", "readme-closure", "readme-poll", "readme-block-on"].repeat(3) {
        let server = Server::start(name);
        assert_eq!(server.path, "/dev/ublkb0", "{name}");
        server.stop("INT");
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_loop_of_its_own_ends_when_somebody_else_stops_its_device() {
    let mut server = Server::start("readme-poll");
    Control::open().unwrap().stop(DeviceId::new(0)).unwrap();
    server.ended();
    assert_eq!(nodes(), [""; 0]);
}
