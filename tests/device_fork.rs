// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the children of a server have of its device: nothing once they run a program, the descriptors before.
#![cfg_attr(not(have_ublk), allow(dead_code, reason = "the tests are ignored, not left out"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]
#![expect(unsafe_code, reason = "forks without running a program, which is what the documents forbid")]

mod harness;

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use harness::{Aligned, exists, is_mapped, nodes, open_direct, quiet_device};
use ublk::{Cache, Control, DeletedId, Device, Operation, Params, PreparedQueue, QueueId, Sectors};

fn params() -> Params {
    Params::new(Sectors::new(2048), Cache::None)
}

/// Serves until the device is stopped, and says where the buffer of the first WRITE is; `at_write` is called in the middle of it.
fn serve(prepared: PreparedQueue, at: &mpsc::Sender<usize>, at_write: impl Fn()) {
    let queue = prepared.fetch().unwrap();
    let mut disk = Aligned::filled(4096, 0);
    while !queue.is_finished() {
        queue.wait(None).unwrap();
        while let Some(mut request) = queue.next_request().unwrap() {
            if request.operation() == Operation::WRITE {
                at_write();
                disk.copy_from_slice(request.data());
                at.send(request.data().as_ptr().addr()).unwrap();
            } else {
                request.cursor().write(&disk);
            }
            request.complete();
        }
    }
}

/// What the descriptors of a process are, by number.
fn files(process: u32) -> Vec<(i32, String)> {
    let entries = fs::read_dir(format!("/proc/{process}/fd")).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<(i32, String)> = entries
        .map(|entry| {
            let number = entry.file_name().to_string_lossy().parse().unwrap();
            (number, fs::read_link(entry.path()).unwrap().display().to_string())
        })
        .collect();
    files.sort();
    files
}

/// Lines of a process's map that name a file of the driver's or of io_uring's.
fn mapped_files(process: u32) -> Vec<String> {
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let ours = |line: &&str| line.contains("ublk") && line.contains("/dev/") || line.contains("io_uring");
    maps.lines().filter(ours).map(str::to_owned).collect()
}

/// A program that runs until its standard input is closed.
fn cat() -> Child {
    Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_program_that_a_server_starts_holds_nothing_of_the_device() {
    let mut device = Device::add(Control::open().unwrap(), &quiet_device(4), &params()).unwrap();
    let prepared = device.queue(QueueId::new(0)).unwrap();
    let (at, wrote) = mpsc::channel();
    let (started, starts) = mpsc::channel();
    let children = thread::scope(|scope| {
        // One from the thread that serves, with a request in its hands.
        let server = scope.spawn(|| serve(prepared, &at, move || started.send(cat()).unwrap()));
        device.start().unwrap();
        let disk = open_direct(device.info().id());
        disk.write_all_at(&Aligned::filled(4096, 1), 0).unwrap();
        wrote.recv().unwrap();
        // One from another.
        let children = [starts.recv().unwrap(), cat()];
        for child in &children {
            let files = files(child.id());
            assert_eq!(files.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 1, 2], "{files:?}");
            assert!(!files.iter().any(|(_, file)| file.contains("ublk") || file.contains("io_uring")), "{files:?}");
            assert_eq!(mapped_files(child.id()), [""; 0]);
        }
        drop(disk);
        device.stop().unwrap();
        server.join().unwrap();
        children
    });
    assert_eq!(device.delete(), Ok(DeletedId::Free));
    assert_eq!(nodes(), [""; 0]);
    for mut child in children {
        assert!(child.try_wait().unwrap().is_none());
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }
}

/// A child of this process that runs no program, and ends when `end` is closed.
fn fork(waits: &UnixStream, end: &UnixStream) -> libc::pid_t {
    let (waits, end) = (waits.as_raw_fd(), end.as_raw_fd());
    let mut byte = 0_u8;
    let pointer: *mut u8 = &mut byte;
    // SAFETY: the child calls nothing but close, read and _exit until it ends, which may be called after a fork.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: a descriptor of the child's own.
        unsafe { libc::close(end) };
        // SAFETY: one byte of the child's own stack.
        unsafe { libc::read(waits, pointer.cast(), 1) };
        // SAFETY: it ends the child at once.
        unsafe { libc::_exit(0) };
    }
    assert!(child > 0);
    child
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_child_that_runs_no_program_has_no_mapping_and_holds_the_id_until_it_ends() {
    let mut device = Device::add(Control::open().unwrap(), &quiet_device(4), &params()).unwrap();
    let prepared = device.queue(QueueId::new(0)).unwrap();
    let id = device.info().id();
    let (at, wrote) = mpsc::channel();
    let (waits, end) = UnixStream::pair().unwrap();
    let child = thread::scope(|scope| {
        let server = scope.spawn(|| serve(prepared, &at, || ()));
        device.start().unwrap();
        let disk = open_direct(id);
        disk.write_all_at(&Aligned::filled(4096, 1), 0).unwrap();
        let buffer = wrote.recv().unwrap();

        let child = fork(&waits, &end);
        let process = u32::try_from(child).unwrap();
        // The child's map is read as this process's was: what is looked for is here, and not there.
        assert!(is_mapped(buffer) && mapped_files(std::process::id()).len() >= 3);
        assert_eq!(mapped_files(process), [""; 0]);
        assert!(!harness::is_mapped_in(process, buffer));
        // What it has are the descriptors.
        let char_device = format!("/dev/ublkc{id}");
        assert!(files(process).iter().any(|(_, file)| *file == char_device));

        // The kernel goes on writing to the server's pages, and not to copies that the fork has made of them.
        for round in 2..10 {
            disk.write_all_at(&Aligned::filled(4096, round), 0).unwrap();
            wrote.recv().unwrap();
            let mut read = Aligned::filled(4096, 0);
            disk.read_exact_at(&mut read, 0).unwrap();
            assert!(read.iter().all(|byte| *byte == round));
        }
        drop(disk);
        device.stop().unwrap();
        server.join().unwrap();
        child
    });
    // The device goes, but what the child holds is held: its id.
    assert_eq!(device.delete(), Ok(DeletedId::Held));
    assert_eq!(nodes(), [""; 0]);
    let mut control = Control::open().unwrap();
    assert!(exists(&mut control, id));
    drop(end);
    let mut status = 0;
    let pointer: *mut i32 = &mut status;
    // SAFETY: the pointer is one to an i32 that lives through the call.
    assert_eq!(unsafe { libc::waitpid(child, pointer, 0) }, child);
    assert_eq!(status, 0);
    // The kernel frees it on its own time, and tells nobody.
    let deadline = Instant::now() + Duration::from_secs(60);
    while exists(&mut control, id) {
        assert!(Instant::now() < deadline);
        thread::sleep(Duration::from_millis(5));
    }
}
