// SPDX-License-Identifier: MIT OR Apache-2.0
//! A whole server under what the world does to it: signals that mean nothing, a CPU that is gone.
#![cfg_attr(not(have_ublk), allow(dead_code, reason = "the tests are ignored, not left out"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]
#![expect(
    unsafe_code,
    clippy::as_conversions,
    reason = "a signal handler and tgkill(2): neither has a safe equivalent in std"
)]

mod harness;
mod signals;

use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use harness::{Aligned, Ends, nodes, open_direct};
use signals::{HANDLED, handle_sigusr1};
use ublk::{Cache, Control, Errno, Error, NewDevice, Params, Sectors, Server, StopHandle, Stopped, SystemCall};

fn params() -> Params {
    Params::new(Sectors::new(2048), Cache::None)
}

/// Sends SIGUSR1 to every thread of this process but the calling one.
fn signal_every_thread() {
    let own = fs::read_link("/proc/thread-self").unwrap();
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let name = task.unwrap().file_name();
        if Some(name.as_os_str()) == own.file_name() {
            continue;
        }
        let thread: libc::pid_t = name.to_str().unwrap().parse().unwrap();
        let process = libc::pid_t::try_from(std::process::id()).unwrap();
        // SAFETY: tgkill touches no memory. A thread that has ended meanwhile gets nothing.
        unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGUSR1) };
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn stray_signals_end_nothing_from_the_start_to_the_stop() {
    handle_sigusr1();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ends = Ends(&over);
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                signal_every_thread();
                // So that the others come to do something between two signals.
                thread::yield_now();
            }
        });
        for _ in 0..3 {
            let handle = StopHandle::new().unwrap();
            let server = Server::new(NewDevice::new().queues(2).depth(8), params()).stop_on(&handle);
            let stopped = server.run(
                |request| request.complete(),
                |info| {
                    let disk = open_direct(info.id());
                    for block in 0..32 {
                        let mut read = Aligned::filled(4096, 1);
                        while disk.read_exact_at(&mut read, block * 4096).is_err() {}
                        assert!(read.iter().all(|byte| *byte == 0));
                    }
                    handle.stop();
                },
            );
            assert_eq!(stopped, Ok(Stopped::Handle));
        }
    });
    assert!(HANDLED.load(Ordering::Relaxed) > 100);
    assert_eq!(nodes(), Vec::<String>::new());
}

/// A CPU that is offline while this value lives.
struct Offline(&'static str);

impl Offline {
    fn cpu1() -> Offline {
        let file = "/sys/devices/system/cpu/cpu1/online";
        fs::write(file, "0").unwrap();
        Offline(file)
    }
}

impl Drop for Offline {
    fn drop(&mut self) {
        fs::write(self.0, "1").unwrap();
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_queue_that_cannot_start_ends_the_start_with_its_error() {
    // The second queue belongs to the CPU that is gone, so that its thread cannot go there. The first one is fetched and waits.
    let _offline = Offline::cpu1();
    let server = Server::new(NewDevice::new().queues(2).depth(8), params()).pin_queues();
    let ended = server.run(|request| request.complete(), |_| panic!("it started"));
    assert_eq!(ended, Err(Error::System { call: SystemCall::SetAffinity, errno: Errno::EINVAL }));
    assert_eq!(nodes(), Vec::<String>::new());
    assert!(Control::open().is_ok());
}
