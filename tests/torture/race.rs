// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands of whoever likes, to one id.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use ublk::{Cache, Control, Device, DeviceId, Errno, Error, Params, QueueId, Sectors};

use crate::chance::Chance;
use crate::harness::quiet_device;

/// The commands of one racer in a round.
const COMMANDS: usize = 4;

/// Whether whoever reads this knows that another one was faster.
pub fn is_clear(error: &Error) -> bool {
    matches!(
        error,
        Error::Control { errno: Errno::EEXIST | Errno::ENODEV | Errno::EBUSY | Errno::EINTR, .. }
            | Error::Replaced { .. }
            | Error::OpenCharDevice { errno: Errno::ENOENT | Errno::ENXIO | Errno::ENODEV, .. }
            | Error::Io { .. }
    )
}

/// Sends commands to the device of that id, or adds it; what was sent, and what came of it.
pub fn race(id: DeviceId, chance: &mut Chance) -> Vec<String> {
    let mut control = Control::open().unwrap();
    let mut one = || {
        let (name, answer) = match chance.below(9) {
            0 => ("try-stop", control.try_stop(id)),
            1 => ("resize", control.resize(id, Sectors::new(8 * (1 + chance.below(256))))),
            2 => ("info", control.info(id).map(drop)),
            3 => ("params", control.params(id).map(drop)),
            4 if chance.below(2) == 0 => ("delete", control.delete_async(id)),
            5 => {
                let params = Params::new(Sectors::new(2048), Cache::None);
                let added = Device::add(Control::open().unwrap(), &quiet_device(4).id(id), &params);
                ("add", added.and_then(|device| device.delete().map(drop)))
            }
            6 if chance.below(2) == 0 => ("stop", control.stop(id)),
            _ => ("affinity", control.queue_affinity(id, QueueId::new(1)).map(drop)),
        };
        let answer = match answer {
            Ok(()) => "done".to_owned(),
            Err(Error::Control { errno, .. }) => errno.to_string(),
            Err(Error::Unsupported { .. }) => "not in this driver".to_owned(),
            Err(Error::Invalid { what }) => what.to_owned(),
            Err(error) if is_clear(&error) => error.to_string(),
            Err(error) => panic!("{name}: {error:?}"),
        };
        format!("{name}: {answer}")
    };
    (0..COMMANDS).map(|_| one()).collect()
}

/// Set in a process that races: the id.
const RACES: &str = "UBLK_TORTURE_RACES";

/// Whether this process is a racer: then it races once for each seed that it reads, says what came of it, and ends with its input.
pub fn raced() -> bool {
    let Ok(id) = std::env::var(RACES) else { return false };
    let id = DeviceId::new(id.parse().unwrap());
    println!();
    for seed in std::io::stdin().lines() {
        let answers = race(id, &mut Chance::new(seed.unwrap().parse().unwrap()));
        println!("{}", answers.join("\t"));
    }
    true
}

/// A process that races.
pub struct Racer {
    process: Child,
    says: BufReader<ChildStdout>,
}

impl Racer {
    /// `test` is the one that calls [`raced`].
    pub fn start(id: DeviceId, test: &str) -> Racer {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--include-ignored", "--nocapture", "--test-threads=1"])
            .env(RACES, id.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut says = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        // What the test program says of itself.
        while !line.starts_with("test ") {
            line.clear();
            assert!(says.read_line(&mut line).unwrap() > 0, "a racer ended before it began");
        }
        Racer { process, says }
    }

    pub fn go(&mut self, seed: u64) {
        writeln!(self.process.stdin.as_mut().unwrap(), "{seed}").unwrap();
    }

    /// Waits for what it was told last.
    pub fn answers(&mut self) -> Vec<String> {
        let mut line = String::new();
        assert!(self.says.read_line(&mut line).unwrap() > 0, "a racer has ended");
        line.trim_end().split('\t').map(str::to_owned).collect()
    }

    pub fn end(mut self) {
        drop(self.process.stdin.take());
        assert!(self.process.wait().unwrap().success());
    }
}
