// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every system call of a server fails once, at every place where it is made: by strace, which tampers with the call. Whatever fails,
//! the server comes to its end, says why, and leaves no device; one that recovers a device leaves it to the next.
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

use harness::backing::Backing;
use harness::nodes;
use harness::program::Program;
use ublk::{Control, DeviceId, Errno, Error, State};

const ID: DeviceId = DeviceId::new(43);

/// A server that takes longer hangs.
const DEADLINE: Duration = Duration::from_secs(60);

/// The calls, each with what it can answer.
const FAULTS: [(&str, &[&str]); 15] = [
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
    ("fsync", &["EIO"]),
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

/// Serves a disk until it can be used, and stops it, while one call fails.
fn run(server: &[&str], call: &str, errno: &str, time: u32) -> Run {
    let log = std::env::temp_dir().join("faults");
    let inject = format!("inject={call}:error={errno}:when={time}");
    let started = Command::new("strace")
        .args(["-f", "-qq", "-e", &format!("trace={call}"), "-e", &inject, "-o", log.to_str().unwrap()])
        .args(server)
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
            let _ = Command::new("killall").args(["-TERM", server[0]]).stderr(Stdio::null()).status();
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

    /// Whether a server that has ended with an error has said something.
    fn is_told(&self) -> bool {
        // Of a call before `main` the C library dies as it likes: by a signal, or with 127.
        let in_main = self.status.is_some_and(|status| status != 127);
        !in_main || !self.said.trim().is_empty()
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn whichever_system_call_fails_once_the_server_ends_says_why_and_leaves_nothing_slow() {
    // All of them in full; in short one in a few, with the first of what the call can answer.
    let full = std::env::var("UBLK_TORTURE").is_ok_and(|text| text == "full");
    let (step, most) = if full { (1, usize::MAX) } else { (3, 1) };
    let (mut all, mut survived, mut refused, mut within_std) = (0, 0, 0, 0);
    let id = ID.to_string();
    let server = ["ramdisk", "--size", "1M", "--queues", "2", "--id", &id];
    for (call, errnos) in FAULTS {
        for errno in errnos.iter().take(most) {
            for time in (1..).step_by(step) {
                let run = run(&server, call, errno, time);
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
                    assert!(run.is_told(), "{call} {errno} number {time}: {:?} without a word", run.status);
                }
            }
        }
    }
    assert!(refused > 0, "strace has failed no call of {all}");
    println!(
        "figure: {all} system calls failed once: {survived} the server did without, {refused} ended it with a sentence, {within_std} within the standard library or the C library; left by the others: 0"
    );
}

/// What has become of the device when its server is gone; `None` if that has deleted it.
fn state() -> Option<State> {
    let (mut control, begun) = (Control::open().unwrap(), Instant::now());
    loop {
        match control.info(ID) {
            Ok(info) if info.state() != State::LIVE => return Some(info.state()),
            // The driver is on it.
            Ok(_) => assert!(begun.elapsed() < DEADLINE, "the device stays live"),
            Err(Error::Control { errno: Errno::ENODEV, .. }) => return None,
            Err(error) => panic!("{error}"),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn whichever_system_call_fails_once_a_server_that_recovers_a_device_leaves_it_to_the_next_slow() {
    let full = std::env::var("UBLK_TORTURE").is_ok_and(|text| text == "full");
    let (step, most) = if full { (1, usize::MAX) } else { (5, 1) };
    let (backing, id) = (Backing::new(1 << 20), ID.to_string());
    let server = ["loop", "--recover", &id, backing.path()];
    let (mut all, mut survived, mut left, mut stopped) = (0, 0, 0, 0);
    for (call, errnos) in FAULTS {
        for errno in errnos.iter().take(most) {
            for time in (1..).step_by(step) {
                if state().is_none() {
                    let mut first = Program::start("loop", &["--id", &id, "--recovery", "plain", backing.path()]);
                    first.process.kill().unwrap();
                    first.process.wait().unwrap();
                    assert_eq!(state(), Some(State::QUIESCED));
                }
                let run = run(&server, call, errno, time);
                let Some(failed) = &run.failed else { break };
                all += 1;
                let what = format!("{call} {errno} number {time}: {failed}, {:?}, {}", run.status, run.said);
                assert!(run.is_out_of_hand(failed) || !run.said.contains("panicked"), "{what}");
                match (run.status, state()) {
                    (Some(0), None) if run.served => survived += 1,
                    (_, Some(State::QUIESCED)) => left += 1,
                    // Something failed as it was stopped.
                    (_, None) if run.served => stopped += 1,
                    (_, state) => panic!("{state:?}: {what}"),
                }
                assert!(run.status == Some(0) || run.is_told(), "{what}");
            }
        }
    }
    if state().is_some() {
        Control::open().unwrap().delete(ID).unwrap();
    }
    assert_eq!(nodes(), [""; 0]);
    assert!(left > 0, "strace has failed no call of {all}");
    println!(
        "figure: {all} system calls of a server that recovers failed once: {survived} it did without, {stopped} were told of after the stop, {left} left the device to the next"
    );
}
