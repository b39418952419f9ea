// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every system call of a server fails once, at every place where it is made: by strace, which tampers with the call. Whatever fails,
//! the server comes to its end, says why, and leaves no device.
#![cfg_attr(not(have_ublk), allow(dead_code, reason = "the tests are ignored, not left out"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]
#![allow(clippy::print_stdout, reason = "what was counted is shown")]

mod harness;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use harness::nodes;
use ublk::{Control, DeviceId};

const ID: DeviceId = DeviceId::new(43);

/// A server that takes longer hangs.
const DEADLINE: Duration = Duration::from_secs(60);

/// The calls, each with what it can answer.
const FAULTS: [(&str, &[&str]); 14] = [
    ("io_uring_setup", &["EPERM", "ENOMEM", "EMFILE"]),
    ("io_uring_enter", &["EBUSY", "EAGAIN", "ENOMEM", "EINTR"]),
    ("io_uring_register", &["EINVAL", "ENOMEM"]),
    ("mmap", &["ENOMEM"]),
    ("madvise", &["EINVAL"]),
    ("openat", &["EMFILE", "EACCES"]),
    ("open", &["EMFILE", "EACCES"]),
    ("fcntl", &["EMFILE"]),
    ("eventfd2", &["EMFILE"]),
    ("signalfd4", &["EMFILE"]),
    ("poll", &["ENOMEM", "EINTR"]),
    ("clone3", &["EAGAIN"]),
    ("rt_sigprocmask", &["EINVAL"]),
    ("fstat", &["EIO"]),
];

/// What came of a run.
struct Run {
    /// The call that failed, as strace writes it, if it was made so often.
    failed: Option<String>,
    /// Whether there was a disk before the end.
    served: bool,
    status: Option<i32>,
    said: String,
}

/// Ends the server, and whoever traces it.
struct Ending {
    tracer: Child,
}

impl Drop for Ending {
    fn drop(&mut self) {
        // It may be gone.
        let _ = self.tracer.kill().and_then(|()| self.tracer.wait().map(drop));
    }
}

/// Serves a RAM disk until it can be used, and stops it, while one call fails.
fn run(call: &str, errno: &str, time: u32) -> Run {
    let log = std::env::temp_dir().join("faults");
    let inject = format!("inject={call}:error={errno}:when={time}");
    let started = Command::new("strace")
        .args(["-f", "-qq", "-e", &format!("trace={call}"), "-e", &inject, "-o", log.to_str().unwrap()])
        .args(["ramdisk", "--size", "1M", "--queues", "2", "--id", &ID.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut ending = Ending { tracer: started.unwrap_or_else(|error| panic!("strace on the PATH: {error}")) };
    let (heard, hears) = mpsc::channel();
    let mut output = BufReader::new(ending.tracer.stdout.take().unwrap());
    let mut errors = ending.tracer.stderr.take().unwrap();
    let reader = thread::spawn(move || {
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        heard.send(line.starts_with("/dev/ublkb")).unwrap();
        // To the end, which whoever waits for it hears, too.
        output.read_to_string(&mut line).unwrap();
        heard.send(false).unwrap();
    });
    let complaints = thread::spawn(move || {
        let mut said = String::new();
        errors.read_to_string(&mut said).unwrap();
        said
    });
    let hangs =
        |_| panic!("{call} {errno} number {time}: the server hangs; the trace: {}", fs::read_to_string(&log).unwrap());
    let served = hears.recv_timeout(DEADLINE).unwrap_or_else(hangs);
    if served {
        let mut ended = false;
        let begun = Instant::now();
        // A signal is heard by the server, not by its tracer; one may be lost to the call that fails.
        while !ended {
            assert!(begun.elapsed() < DEADLINE, "{call} {errno} number {time}: the server does not stop");
            let _ = Command::new("killall").args(["-TERM", "ramdisk"]).stderr(Stdio::null()).status();
            ended = hears.recv_timeout(Duration::from_secs(5)).is_ok();
        }
    } else {
        hears.recv_timeout(DEADLINE).unwrap_or_else(hangs);
    }
    reader.join().unwrap();
    let status = ending.tracer.wait().unwrap().code();
    let said = complaints.join().unwrap();
    let failed = fs::read_to_string(&log).unwrap().lines().find(|line| line.contains("(INJECTED)")).map(str::to_owned);
    Run { failed, served, status, said }
}

impl Run {
    /// Whether it was for the standard library, or the C library, to go on.
    fn is_out_of_hand(&self, failed: &str) -> bool {
        // There is no memory for a thread's stack of signal handlers, and the process is ended.
        let has_no_stack = self.said.contains("failed to allocate an alternative stack");
        // The C library asks nothing of the answer as it makes a thread, which is given a mask that nobody has set then, and dies of the
        // signal that stops the server. The crate's own call names its signals.
        let has_no_mask = failed.contains("rt_sigprocmask(") && !failed.contains("[INT TERM]") && self.status.is_none();
        has_no_stack || has_no_mask
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn whichever_system_call_fails_once_the_server_ends_says_why_and_leaves_nothing_slow() {
    // All of them in full; in short one in a few, with the first of what the call can answer.
    let full = std::env::var("UBLK_TORTURE").is_ok_and(|text| text == "full");
    let (step, most) = if full { (1, usize::MAX) } else { (3, 1) };
    let (mut all, mut survived, mut refused, mut within_std) = (0, 0, 0, 0);
    for (call, errnos) in FAULTS {
        for errno in errnos.iter().take(most) {
            for time in (1..).step_by(step) {
                let run = run(call, errno, time);
                let Some(failed) = &run.failed else { break };
                all += 1;
                let is_std = run.is_out_of_hand(failed);
                assert!(is_std || !run.said.contains("panicked"), "{call} {errno} number {time}: {}", run.said);
                let left = nodes();
                if !left.is_empty() {
                    Control::open().unwrap().delete(ID).unwrap();
                    assert!(
                        is_std,
                        "{call} {errno} number {time} left {left:?}: {failed}, {:?}, {}",
                        run.status, run.said
                    );
                }
                if is_std {
                    within_std += 1;
                    continue;
                }
                if run.served && run.status == Some(0) {
                    survived += 1;
                } else {
                    refused += 1;
                    // Of a call before `main` the C library dies as it likes: by a signal, or with 127.
                    let in_main = run.status.is_some_and(|status| status != 127);
                    let is_told = !run.said.trim().is_empty();
                    assert!(is_told || !in_main, "{call} {errno} number {time}: {:?} without a word", run.status);
                }
            }
        }
    }
    println!(
        "figure: {all} system calls failed once: {survived} the server did without, {refused} ended it with a sentence, {within_std} within the standard library or the C library; left by the others: 0"
    );
}
