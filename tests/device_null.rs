// SPDX-License-Identifier: MIT OR Apache-2.0
//! `null` and `null-no-std`, the static null servers, as programs on the PATH: `cargo xtask test` puts them there.
#![cfg_attr(not(have_ublk), allow(dead_code, reason = "the tests are ignored, not left out"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]

mod harness;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::process::Command;

use harness::program::Program;
use harness::{Aligned, exists, nodes};
use ublk::{Control, DeviceId};

const MIB: u64 = 1 << 20;

/// Each server with the most bytes that its file may have.
const SERVERS: [(&str, u64); 2] = [("null", 408 << 10), ("null-no-std", 72 << 10)];

/// Whether these bytes of the disk are zeroes.
fn reads_zeroes(disk: &File, offset: u64, len: usize) -> bool {
    let mut bytes = Aligned::filled(len, 0xee);
    disk.read_exact_at(&mut bytes, offset).unwrap();
    bytes.iter().all(|byte| *byte == 0)
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn reads_give_zeroes_also_where_other_bytes_were_written() {
    for (name, _) in SERVERS {
        let null = Program::start(name, &[]);
        assert_eq!(null.attribute("size"), "524288", "{name}");
        let disk = null.open();
        // More requests than there are tags, so that every buffer has held other bytes by the time it is read into.
        let ones = Aligned::filled(1 << 19, 0xff);
        for number in 0..256 {
            disk.write_all_at(&ones, number * MIB).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        for number in 0..256 {
            assert!(reads_zeroes(&disk, number * MIB, 1 << 19), "{name}, MiB {number}");
        }
        assert!(reads_zeroes(&disk, 256 * MIB - 512, 512), "{name}");
        assert_eq!(disk.write_at(&ones[..512], 256 * MIB).unwrap_err().raw_os_error(), Some(libc::ENOSPC), "{name}");
        drop(disk);
        null.stop();
        assert_eq!(nodes(), [""; 0], "{name}");
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_full_queue_of_reads_and_writes_is_served() {
    for (name, _) in SERVERS {
        let null = Program::start(name, &[]);
        let job =
            ["--name=job", "--direct=1", "--ioengine=libaio", "--rw=randrw", "--bsrange=512-64k", "--norandommap"];
        let deep = ["--iodepth=128", "--numjobs=2", "--number_ios=4000", "--size=128M", "--offset_increment=128M"];
        let output =
            Command::new("fio").arg(format!("--filename={}", null.path)).args(job).args(deep).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {printed}");
        assert!(reads_zeroes(&null.open(), 0, 1 << 20), "{name}");
        null.stop();
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn sigint_and_sigterm_end_it_with_requests_under_way_and_leave_no_node() {
    for (name, _) in SERVERS {
        for (signal, second) in [("INT", "TERM"), ("TERM", "INT")] {
            let null = Program::start(name, &[]);
            let id = null.id();
            // Through the page cache, and not synced: the server gets it while it stops.
            let client = OpenOptions::new().write(true).open(&null.path).unwrap();
            client.write_all_at(&vec![7; 4 << 20], 0).unwrap();
            null.signal(signal);
            if name == "null" {
                null.signal_if_in_use(second);
            }
            let (status, said) = null.ended();
            assert!(status.success(), "{name}, {signal}: {status}");
            assert!(if name == "null" { said.starts_with("null: stopped by SIG") } else { said.is_empty() }, "{said}");
            assert_eq!(nodes(), [""; 0], "{name}, {signal}");
            assert_eq!(client.sync_all().map_err(|error| error.raw_os_error()), Ok(()), "{name}, {signal}");
            drop(client);
            assert!(!exists(&mut Control::open().unwrap(), id), "{name}, {signal}");
        }
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_device_that_is_deleted_from_outside_ends_it() {
    for (name, _) in SERVERS {
        let null = Program::start(name, &[]);
        Control::open().unwrap().delete(null.id()).unwrap();
        let (status, _) = null.ended();
        assert_eq!(status.code(), Some(0), "{name}");
        assert_eq!(nodes(), [""; 0], "{name}");
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn what_keeps_it_from_serving_is_said_and_leaves_no_node() {
    for (name, _) in SERVERS {
        // Enough descriptors for its start, and too few for its rings.
        let output = Command::new("sh").args(["-c", &format!("ulimit -n 5; exec {name}")]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{name}: {said}");
        assert!(said.starts_with(&format!("{name}: ")) && said.contains("EMFILE"), "{said}");
        assert_eq!(output.stdout, b"", "{name}");
        assert_eq!(nodes(), [""; 0], "{name}");
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn it_is_one_small_file_with_no_library_beside_it() {
    for (name, most_bytes) in SERVERS {
        let null = Program::start(name, &[]);
        let maps = null.about("maps");
        let files: Vec<&str> = maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..])).collect();
        let program = fs::read_link(format!("/proc/{}/exe", null.process.id())).unwrap();
        for file in files {
            let own = [program.to_str().unwrap(), &format!("/dev/ublkc{}", null.id())].contains(&file);
            assert!(own || file.contains("[io_uring]"), "{name} has mapped {file}");
        }
        let bytes = fs::metadata(&program).unwrap().len();
        assert!(bytes <= most_bytes, "{name} has {bytes} bytes");
        null.stop();
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn the_server_without_std_runs_on_a_stack_of_16_kib_with_a_guard_below() {
    let null = Program::start("null-no-std", &[]);
    let process = null.process.id();
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap().map(|entry| entry.unwrap().file_name());
    let threads: Vec<String> = threads.map(|name| name.into_string().unwrap()).collect();
    // The kernel has threads of its own in the process, which run its control commands.
    let is_servers = |thread: &&String| {
        **thread != process.to_string() && null.about(&format!("task/{thread}/comm")).trim() == "null-no-std"
    };
    let server: Vec<&String> = threads.iter().filter(is_servers).collect();
    assert_eq!(server.len(), 1, "{threads:?}");
    // A thread that waits has nine words: the system call, its arguments, the stack pointer, the program counter.
    let stack_pointer = loop {
        let words = null.about(&format!("task/{}/syscall", server[0]));
        if let Some(word) = words.split(' ').nth(7) {
            break hexadecimal(word.trim_start_matches("0x"));
        }
    };
    let maps = null.about("maps");
    let areas: Vec<(u64, u64, &str)> = maps.lines().map(area).collect();
    let stack = areas.iter().position(|(start, end, _)| (*start..*end).contains(&stack_pointer)).unwrap();
    let (start, end, rights) = areas[stack];
    assert_eq!(rights, "rw-p");
    // What the C library keeps about the thread lies above its stack.
    assert!((16 << 10..=20 << 10).contains(&(end - start)), "{} bytes", end - start);
    assert_eq!((areas[stack - 1].1, areas[stack - 1].2), (start, "---p"), "{maps}");
    null.stop();
}

fn hexadecimal(digits: &str) -> u64 {
    u64::from_str_radix(digits, 16).unwrap_or_else(|error| panic!("{digits}: {error}"))
}

/// Start, end and rights of a line of `/proc/PID/maps`.
fn area(line: &str) -> (u64, u64, &str) {
    let mut words = line.split(' ');
    let (start, end) = words.next().unwrap().split_once('-').unwrap();
    (hexadecimal(start), hexadecimal(end), words.next().unwrap())
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn options_of_the_server_with_std_are_what_the_block_layer_reports() {
    let null = Program::start(
        "null",
        &["--size", "17M", "--block-size", "4096", "--queues", "2", "--depth", "32", "--id", "11"],
    );
    assert_eq!(null.path, "/dev/ublkb11");
    assert_eq!(null.attribute("size"), (17 * 2048).to_string());
    assert_eq!(null.attribute("queue/logical_block_size"), "4096");
    let info = Control::open().unwrap().info(DeviceId::new(11)).unwrap();
    let queues = fs::read_dir("/sys/block/ublkb11/mq").unwrap().count();
    assert_eq!((queues, info.depth()), (info.queues().into(), 32));
    // The driver gives no more than there are CPUs.
    assert_eq!(queues, std::thread::available_parallelism().unwrap().get().min(2));
    null.stop();

    let wrong: [&[&str]; 6] =
        [&["disk"], &["--size"], &["--size", "much"], &["--size", ""], &["--queues", "65536"], &["--read-only"]];
    for arguments in wrong {
        let output = Command::new("null").args(arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.starts_with("null: ") && said.contains("usage: null"), "{arguments:?}: {said}");
    }
    let help = Command::new("null").arg("--help").output().unwrap();
    assert!(help.status.success() && help.stdout.starts_with(b"usage: null"));
    assert_eq!(nodes(), [""; 0]);
}
