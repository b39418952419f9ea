// SPDX-License-Identifier: MIT OR Apache-2.0
//! A server that is a program on the PATH, as whoever calls it sees it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};

use ublk::{Control, DeviceId, Features};

use super::open_direct;

/// A program whose disk can be used.
pub struct Program {
    pub process: Child,
    says: BufReader<ChildStdout>,
    pub path: String,
}

impl Program {
    /// Starts it and waits until it prints the path of its disk.
    pub fn start(name: &str, arguments: &[&str]) -> Program {
        Program::start_as(Command::new(name).args(arguments))
    }

    /// As [`start`](Program::start), and what it complains of can be read.
    pub fn start_heard(name: &str, arguments: &[&str]) -> (Program, BufReader<ChildStderr>) {
        let mut program = Program::start_as(Command::new(name).args(arguments).stderr(Stdio::piped()));
        let complaints = BufReader::new(program.process.stderr.take().unwrap());
        (program, complaints)
    }

    /// The same of a command that is to be started in some way.
    pub fn start_as(command: &mut Command) -> Program {
        let name = command.get_program().to_string_lossy().into_owned();
        let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut process = started.unwrap_or_else(|error| panic!("{name} on the PATH: {error}"));
        let mut says = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        // A test program that plays the server says before that it runs a test.
        while says.read_line(&mut line).unwrap() > 0 {
            if line != "\n" && !line.starts_with("running ") && !line.starts_with("test ") {
                break;
            }
            line.clear();
        }
        let path = line.strip_suffix('\n').unwrap_or(&line).to_owned();
        assert!(path.starts_with("/dev/ublkb"), "{name} said {line:?}, and ended with {:?}", process.try_wait());
        Program { process, says, path }
    }

    pub fn id(&self) -> DeviceId {
        DeviceId::new(self.path.strip_prefix("/dev/ublkb").unwrap().parse().unwrap())
    }

    /// What the block layer says in this file of `/sys/block/ublkbN`.
    pub fn attribute(&self, file: &str) -> String {
        let path = format!("/sys/block/ublkb{}/{file}", self.id());
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}")).trim().to_owned()
    }

    /// What the kernel says in this file of the process.
    pub fn about(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.process.id())).unwrap()
    }

    /// The block device past the page cache.
    pub fn open(&self) -> File {
        open_direct(self.id())
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.process.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// Sends a second signal to a server that was told to end and whose disk is open: where the driver can tell, it waits for that.
    pub fn signal_if_in_use(&self, name: &str) {
        if Control::open().unwrap().features().unwrap().contains(Features::SAFE_STOP_DEV) {
            self.signal(name);
        }
    }

    /// Waits for its end; the status, and what it printed after its path.
    pub fn ended(mut self) -> (ExitStatus, String) {
        let mut rest = String::new();
        self.says.read_to_string(&mut rest).unwrap();
        (self.process.wait().unwrap(), rest)
    }

    /// Closes its standard input, and waits for its end; the status, and what it printed after its path.
    pub fn hang_up(mut self) -> (ExitStatus, String) {
        drop(self.process.stdin.take());
        self.ended()
    }

    /// Stops it and waits for its end.
    pub fn stop(self) {
        self.signal("TERM");
        let (status, says) = self.ended();
        assert!(status.success(), "{status}: {says}");
    }
}

impl Drop for Program {
    /// A test that fails leaves no server behind for the next to stumble over.
    fn drop(&mut self) {
        if let Ok(None) = self.process.try_wait() {
            // The test has failed by now, and says why; there is nothing to add if this fails too.
            let _ = self.process.kill().and_then(|()| self.process.wait());
            let _ = Control::open().and_then(|mut control| control.delete(self.id()));
        }
    }
}
