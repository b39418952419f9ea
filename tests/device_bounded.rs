// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands that the driver does not answer in time, because a server sits on a request: what the handle that gave up on one
//! does from then on, what becomes of its process, and what an abandoned command still does. And that a server that is to stop
//! does not send such a command.
#![cfg_attr(not(have_ublk), allow(dead_code, reason = "the tests are ignored, not left out"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]

mod harness;

use core::time::Duration;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, ChildStdout, Command as Program, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use harness::held::HeldWrite;
use harness::{Aligned, nodes, open_direct, quiet_device};
use ublk::{
    Cache, Command, Control, DeviceId, Error, NewDevice, Operation, Params, QueueId, Recovery, Request, Sectors,
    Server, State, StopHandle, Stopped,
};

/// Ids are given from 0 up; nobody else has these.
const HELD: DeviceId = DeviceId::new(4711);
const ABANDONED: DeviceId = DeviceId::new(4712);

/// How long the commands are waited for that cannot be answered.
const SHORT: Duration = Duration::from_secs(2);

fn params() -> Params {
    Params::new(Sectors::new(2048), Cache::None)
}

fn timed_out(command: Command, device: DeviceId) -> Error {
    Error::TimedOut { command, device: Some(device), waited: SHORT }
}

/// What a process of its own does: the same test, which finds its part in a variable. It tells each step on its standard
/// output, and goes on when its standard input ends.
const PART: &str = "UBLK_TEST_PART";

fn part() -> Option<String> {
    std::env::var(PART).ok()
}

fn say(step: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "\nstep {step}").unwrap();
    out.flush().unwrap();
}

/// Tells that a part has failed: its process may not be able to end.
struct Failing;

impl Drop for Failing {
    fn drop(&mut self) {
        if thread::panicking() {
            say(FAILED);
        }
    }
}

const FAILED: &str = "failed";

fn wait_for_the_end_of_input() {
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(test: &str, part: &str) -> Process {
        let mut again = Program::new(std::env::current_exe().unwrap());
        again.args(["--exact", test, "--include-ignored", "--nocapture", "--test-threads=1"]).env(PART, part);
        let mut child = again.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Process { child, input, output }
    }

    /// Waits until the process has come so far.
    fn has_come_to(&mut self, step: &str) {
        let wanted = format!("step {step}\n");
        let mut line = String::new();
        while line != wanted {
            line.clear();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "it ended before {step}");
            assert_ne!(line, format!("step {FAILED}\n"), "before {step}");
        }
    }

    /// Lets it go on, and waits for its end.
    fn ended(mut self) -> ExitStatus {
        drop(self.input.take());
        // What it prints is read, so that it does not wait for room.
        self.output.read_to_string(&mut String::new()).unwrap();
        self.child.wait().unwrap()
    }
}

/// Bytes of this process's own memory that no child of it would have: buffers that are, or were, lent to the kernel.
fn lent_bytes() -> u64 {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut bytes, mut size, mut anonymous) = (0, 0, false);
    for line in smaps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["Size:", kib, "kB"] => size = kib.parse::<u64>().unwrap() * 1024,
            ["VmFlags:", ref flags @ ..] if anonymous && flags.contains(&"dc") => bytes += size,
            // The line that starts a mapping: range, access, offset, device, file, and its path.
            [range, _, _, _, file, ..] if range.contains('-') => anonymous = file == "0" && words.len() == 5,
            _ => {}
        }
    }
    bytes
}

/// The part of a process that gives up on `command`, for a device whose server sits on a request.
fn give_up(command: Command) {
    let _failing = Failing;
    drop(Control::open().unwrap());
    assert_eq!(lent_bytes(), 0);
    let mut control = Control::open().unwrap();
    let info = control.info(HELD).unwrap();
    control.set_patience(SHORT, SHORT);
    control.set_stop_patience(SHORT);
    let given_up = match command {
        Command::STOP_DEV => control.stop(HELD),
        _ => control.delete(HELD),
    };
    let error = given_up.unwrap_err();
    assert_eq!(error, timed_out(command, HELD));
    let sentence = error.to_string();
    for said in ["it may still be done", "this process cannot exit before, not even by SIGKILL"] {
        assert!(sentence.contains(said), "{sentence}");
    }
    // It takes no other command, of any kind.
    assert!(control.is_abandoned());
    let abandoned = Err(Error::ControlAbandoned);
    assert_eq!(control.features().map(drop), abandoned);
    assert_eq!(control.add(&NewDevice::new()).map(drop), abandoned);
    assert_eq!(control.info(HELD).map(drop), abandoned);
    assert_eq!(control.info_at(HELD, c"/dev/null").map(drop), abandoned);
    assert_eq!(control.set_params(&info, &params()), abandoned);
    assert_eq!(control.params(HELD).map(drop), abandoned);
    assert_eq!(control.start(HELD), abandoned);
    assert_eq!(control.stop(HELD), abandoned);
    assert_eq!(control.delete(HELD), abandoned);
    assert_eq!(control.delete_async(HELD), abandoned);
    assert_eq!(control.queue_affinity(HELD, QueueId::new(0)).map(drop), abandoned);
    // The buffer is never given back.
    assert_eq!(lent_bytes(), 8192);
    drop(control);
    assert_eq!(lent_bytes(), 8192);
    say("gave up");
    wait_for_the_end_of_input();
}

/// That a process that gave up on `command` stays, though it was killed, until the request is answered.
fn assert_stays(stuck: &mut Process) {
    stuck.child.kill().unwrap();
    // It has had as long as another process takes to start, to have commands answered, and to end.
    let mut other = Process::start("a_process_that_gave_up_cannot_exit_until_the_request_is_answered", "look");
    other.has_come_to("looked");
    assert!(other.ended().success());
    assert_eq!(stuck.child.try_wait().unwrap(), None);
    let status = fs::read_to_string(format!("/proc/{}/status", stuck.child.id())).unwrap();
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap();
    let pending = u64::from_str_radix(pending.trim(), 16).unwrap();
    assert_eq!(pending >> (libc::SIGKILL - 1) & 1, 1, "{status}");
}

/// Waits until somebody's device of this id is there; nothing tells when.
fn wait_for_device(control: &mut Control, id: DeviceId) {
    let patience = Instant::now() + Duration::from_secs(60);
    while control.info(id).is_err() {
        assert!(Instant::now() < patience, "there is no device {id}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_process_that_gave_up_cannot_exit_until_the_request_is_answered() {
    const NAME: &str = "a_process_that_gave_up_cannot_exit_until_the_request_is_answered";
    match part().as_deref() {
        Some("stop") => return give_up(Command::STOP_DEV),
        Some("look") => {
            let mut control = Control::open().unwrap();
            control.features().unwrap();
            control.info(HELD).unwrap();
            return say("looked");
        }
        _ => {}
    }
    let held = HeldWrite::new(HELD);
    let mut stop = Process::start(NAME, "stop");
    stop.has_come_to("gave up");
    assert_stays(&mut stop);

    drop(held.release);
    assert!(held.client.join().unwrap().is_ok());
    assert_eq!(stop.ended().signal(), Some(libc::SIGKILL));
    // The stop that was given up on has been done.
    assert_eq!(held.served.join(), Ok(Stopped::FromOutside));
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_device_that_cannot_be_deleted_holds_up_every_new_one_and_an_abandoned_add_leaves_a_device() {
    const NAME: &str = "a_device_that_cannot_be_deleted_holds_up_every_new_one_and_an_abandoned_add_leaves_a_device";
    match part().as_deref() {
        Some("delete") => return give_up(Command::DEL_DEV),
        Some("add") => {
            let _failing = Failing;
            let mut control = Control::open().unwrap();
            control.set_patience(SHORT, SHORT);
            let error = control.add(&NewDevice::new().id(ABANDONED)).unwrap_err();
            assert_eq!(error, timed_out(Command::ADD_DEV, ABANDONED));
            let sentence = error.to_string();
            assert!(sentence.contains("it may still be done and leave a device"), "{sentence}");
            assert_eq!(control.add(&NewDevice::new().id(ABANDONED)), Err(Error::ControlAbandoned));
            say("gave up");
            return wait_for_the_end_of_input();
        }
        _ => {}
    }
    let held = HeldWrite::new(HELD);
    let mut delete = Process::start(NAME, "delete");
    delete.has_come_to("gave up");
    let mut add = Process::start(NAME, "add");
    add.has_come_to("gave up");
    assert_stays(&mut delete);
    let mut control = Control::open().unwrap();
    assert!(control.info(ABANDONED).is_err());

    drop(held.release);
    assert!(held.client.join().unwrap().is_ok());
    assert_eq!(held.served.join(), Ok(Stopped::FromOutside));
    assert_eq!(delete.ended().signal(), Some(libc::SIGKILL));
    // Nobody knows of the device that the abandoned command added.
    wait_for_device(&mut control, ABANDONED);
    assert!(add.ended().success());
    assert_eq!(control.info(ABANDONED).unwrap().state(), State::DEAD);
    assert_eq!(nodes(), [format!("ublkc{ABANDONED}")]);
    control.delete(ABANDONED).unwrap();
    assert_eq!(nodes(), [""; 0]);
}

/// The part of a server whose target has a request that it does not answer, and which is told to stop then, or left alone.
fn hold_a_request(how: &str) {
    let _failing = Failing;
    let (arrived, has_arrived) = mpsc::channel();
    let is_detached = how.contains("detached");
    let target = move |request: Request<'_>| {
        if request.operation() != Operation::WRITE {
            return request.complete();
        }
        arrived.send(()).unwrap();
        if is_detached {
            core::mem::forget(request.detach());
        } else {
            wait_for_the_end_of_input();
        }
    };
    let device = quiet_device(4).id(HELD);
    let device = if how.contains("recovers") { device.recovery(Recovery::Plain) } else { device };
    let stop = StopHandle::new().unwrap();
    let server = Server::new(device, params()).stop_on(&stop);
    let server = if how.contains("late") { server.stop_patience(Duration::from_millis(100)) } else { server };
    let served = thread::spawn(move || server.run(target, |_| say("live")));
    has_arrived.recv().unwrap();
    if !how.contains("left alone") {
        stop.stop();
    }
    say("over a request");
    let _ = served.join();
}

/// A server in a process of its own that is over a request of a client's in this one.
struct OverARequest {
    server: Process,
    client: JoinHandle<std::io::Result<()>>,
}

impl OverARequest {
    fn start(test: &str, how: &str) -> OverARequest {
        let mut server = Process::start(test, how);
        server.has_come_to("live");
        let client = thread::spawn(|| open_direct(HELD).write_all_at(&Aligned::filled(4096, 1), 0));
        server.has_come_to("over a request");
        OverARequest { server, client }
    }

    /// Kills the server, which has to be gone then; its client has been told so.
    fn kill(self) {
        let OverARequest { mut server, client } = self;
        server.child.kill().unwrap();
        let patience = Instant::now() + Duration::from_secs(60);
        while server.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < patience, "it does not end");
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(client.join().unwrap().unwrap_err().raw_os_error(), Some(libc::EIO));
    }
}

/// The threads of the process that wait in the kernel for something that SIGKILL does not end.
fn stuck(process: &Child) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.id())).unwrap();
    let states = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok());
    states.filter(|status| status.contains("\nState:\tD")).collect()
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_server_that_is_told_to_stop_over_a_request_that_nobody_answers_can_be_killed_and_its_device_deleted() {
    const NAME: &str =
        "a_server_that_is_told_to_stop_over_a_request_that_nobody_answers_can_be_killed_and_its_device_deleted";
    if let Some(how) = part() {
        return hold_a_request(&how);
    }
    let late = ["in a call, late", "in a call, recovers, late"];
    for how in ["detached", "in a call", "detached, recovers", "in a call, recovers"].into_iter().chain(late) {
        let held = OverARequest::start(NAME, how);
        // A command that it sent would wait for the request, as would a sync.
        let looks = 50;
        let mut in_a_row = 0;
        for _ in 0..looks {
            thread::sleep(Duration::from_millis(10));
            in_a_row = if stuck(&held.server.child).is_empty() { 0 } else { in_a_row + 1 };
        }
        assert!(in_a_row < looks / 4, "{how}: a thread waits in the driver");
        held.kill();
        Control::open().unwrap().delete(HELD).unwrap();
        assert_eq!(nodes(), [""; 0], "{how}");
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_server_that_another_process_stops_can_be_killed_over_a_request_and_the_stop_is_done() {
    const NAME: &str = "a_server_that_another_process_stops_can_be_killed_over_a_request_and_the_stop_is_done";
    match part().as_deref() {
        Some("stop") => {
            let _failing = Failing;
            say("stopping");
            return Control::open().unwrap().stop(HELD).unwrap();
        }
        Some(how) => return hold_a_request(how),
        None => {}
    }
    for how in ["detached, left alone", "in a call, left alone"] {
        let held = OverARequest::start(NAME, how);
        let mut stop = Process::start(NAME, "stop");
        stop.has_come_to("stopping");
        let patience = Instant::now() + Duration::from_secs(60);
        // Of its threads that one which works on the command.
        while !stuck(&stop.child).iter().any(|status| status.starts_with("Name:\tiou-wrk")) {
            assert!(Instant::now() < patience, "{how}: the driver does not wait for the request");
            thread::sleep(Duration::from_millis(10));
        }
        held.kill();
        assert!(stop.ended().success(), "{how}");
        Control::open().unwrap().delete(HELD).unwrap();
        assert_eq!(nodes(), [""; 0], "{how}");
    }
}
