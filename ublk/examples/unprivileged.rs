// SPDX-License-Identifier: MIT OR Apache-2.0
//! A disk in memory that is served without any privilege.
//!
//! ```text
//! unprivileged [--size 64M] [--queues N] [--depth N] [--user UID]
//! ```
//!
//! Run by root it is the helper: it adds the device, opens its char device, and runs itself once more as another user, with the
//! char device as standard input. That is the server: it has no capability, cannot open `/dev/ublk-control`, and so can neither
//! stop nor delete, whatever its clients make it do. The helper starts the device, prints the path of the block device, and waits
//! for SIGINT, SIGTERM or the server's end; then it takes the device away. What it never does is to read a request.
//!
//! A server that dies takes its disk with it, and the helper fails. If the helper is killed, the server serves on: whoever may add
//! devices can stop and delete this one. The kernel looks for no partitions on a disk that such a server serves.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

use std::error::Error;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::panic::{self, AssertUnwindSafe};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{PoisonError, RwLock};
use std::thread;

use ublk::{
    Cache, Control, Device, DeviceInfo, Disk, Errno, Fd, Features, InFlight, NewDevice, Params, PreparedQueue, QueueId,
    ReadAt, ReadCursor, Sectors, Signals, WriteAt, poll,
};

const USAGE: &str = "\
usage: unprivileged [--size BYTES[K|M|G]] [--queues N] [--depth N] [--user UID]

A disk in memory, served by a process of user UID (65534) that has no privilege.
Prints the path of the block device once that can be used, and serves until
SIGINT or SIGTERM.
";

/// The first argument of the server.
const SERVE: &str = "--serve";

type Failure = Box<dyn Error>;

/// The server, as the helper sees it.
struct Server {
    process: Child,
    /// Its standard output, to which nothing is written: it can be read when the server has ended. -1 when that was heard.
    end: i32,
}

impl Server {
    /// Runs this program as `user`, with the device that it is to serve.
    fn spawn(device: &Device, size: Sectors, user: u32) -> Result<Server, Failure> {
        let info = device.info();
        let numbers = [size.raw(), info.queues().into(), info.depth().into(), info.features().bits()];
        let process = Command::new(std::env::current_exe()?)
            .arg(SERVE)
            .args(numbers.map(|number| number.to_string()))
            .stdin(Stdio::from(OwnedFd::from(device.char_device()?)))
            .stdout(Stdio::piped())
            // Without a user's privileges every capability is gone, and its further groups too.
            .uid(user)
            .gid(user)
            // A terminal's SIGINT is for the helper, which stops the device while the server still serves.
            .process_group(0)
            .spawn()?;
        let end = process.stdout.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        Ok(Server { process, end })
    }

    /// It has ended; by itself, or so that nobody serves any more.
    fn ended(&mut self) -> Result<(), Failure> {
        self.end = -1;
        let status = self.process.wait()?;
        if status.success() { Ok(()) } else { Err(format!("the server has died: {status}").into()) }
    }
}

/// Waits for the driver's answer. It may never come if the server has died: the driver waits for the server.
fn answered(mut command: InFlight<'_>, server: &mut Server) -> Result<(), Failure> {
    while !command.poll()? {
        let [_, ended] = poll([command.fd().raw(), server.end], command.time_left())?;
        if ended {
            server.ended()?;
        }
    }
    Ok(())
}

/// Starts the device, and stops it when a signal comes or somebody else has stopped it.
fn run(device: &mut Device, server: &mut Server, signals: &Signals) -> Result<(), Failure> {
    answered(device.begin_start()?, server)?;
    println!("/dev/ublkb{}", device.info().id());
    loop {
        let [signal, ended] = poll([signals.fd().raw(), server.end], None)?;
        if ended {
            return server.ended();
        }
        if signal && signals.take().is_some() {
            return answered(device.begin_stop()?, server);
        }
    }
}

/// The helper.
fn help(options: &Options) -> Result<(), Failure> {
    let size = Sectors::from_bytes(options.size).ok_or("--size is a multiple of 512")?;
    let signals = Signals::block()?;
    let wanted = NewDevice::new().queues(options.queues).depth(options.depth);
    let mut device = Device::add(Control::open()?, &wanted, &Params::new(size, Cache::None))?;
    let mut server = Server::spawn(&device, size, options.user)?;
    let served = run(&mut device, &mut server, &signals);
    if served.is_err() {
        // It may have ended long ago.
        let _ = server.process.kill();
    }
    // What the server has not answered fails when both have let go of the char device.
    let ended = server.ended();
    device.let_go();
    let deleted = device.delete();
    served.and(ended)?;
    deleted?;
    Ok(())
}

/// The memory of the disk.
struct Memory(RwLock<Vec<u8>>);

impl ReadAt for Memory {
    fn read_into(&self, offset: u64, into: &mut ReadCursor<'_>) -> Result<(), Errno> {
        let start = usize::try_from(offset).map_err(|_| Errno::EIO)?;
        let bytes = self.0.read().unwrap_or_else(PoisonError::into_inner);
        into.write(&bytes[start..start + into.remaining()]);
        Ok(())
    }
}

impl WriteAt for Memory {
    fn write_from(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let start = usize::try_from(offset).map_err(|_| Errno::EIO)?;
        let mut bytes = self.0.write().unwrap_or_else(PoisonError::into_inner);
        bytes[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }
}

/// The server: it serves the device whose char device is its standard input, until that is stopped.
fn serve(numbers: &[String]) -> Result<(), Failure> {
    let numbers = numbers.iter().map(|number| number.parse()).collect::<Result<Vec<u64>, _>>()?;
    let [sectors, queues, depth, features] = numbers[..] else { return Err("the helper says four numbers".into()) };
    let info = DeviceInfo::told(queues.try_into()?, depth.try_into()?, Features::from_bits(features));
    let size = Sectors::new(sectors);
    let disk = Disk::without_cache(size, Memory(RwLock::new(vec![0; usize::try_from(size.bytes())?])));
    let char_device = Fd::from(io::stdin().as_fd().try_clone_to_owned()?);
    let queue = |id| PreparedQueue::adopt(char_device.try_clone()?, &info, QueueId::new(id)).map_err(Failure::from);
    let queues = (0..info.queues()).map(queue).collect::<Result<Vec<PreparedQueue>, Failure>>()?;
    thread::scope(|scope| {
        for queue in queues {
            scope.spawn(|| {
                let served = panic::catch_unwind(AssertUnwindSafe(|| serve_queue(queue, &disk)));
                if !matches!(served, Ok(Ok(()))) {
                    // Nobody else can answer what this thread owned, and the driver waits until the char device is let go.
                    eprintln!("unprivileged: the server ends: {served:?}");
                    std::process::exit(1);
                }
            });
        }
    });
    Ok(())
}

fn serve_queue(queue: PreparedQueue, disk: &Disk<Memory>) -> Result<(), ublk::Error> {
    let queue = queue.fetch()?;
    while !queue.is_finished() {
        queue.wait(None)?;
        while let Some(request) = queue.next_request()? {
            disk.answer(request);
        }
    }
    Ok(())
}

struct Options {
    size: u64,
    queues: u16,
    depth: u16,
    user: u32,
}

/// A number, with K, M or G behind it for powers of 1024.
fn parse_bytes(text: &str) -> Option<u64> {
    let (digits, shift) = match text.bytes().last()?.to_ascii_uppercase() {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

impl Options {
    fn parse(arguments: &[String]) -> Option<Options> {
        let mut options = Options { size: 64 << 20, queues: 1, depth: 64, user: 65534 };
        for pair in arguments.chunks(2) {
            let [option, value] = pair else { return None };
            let number = parse_bytes(value)?;
            match option.as_str() {
                "--size" => options.size = number,
                "--queues" => options.queues = number.try_into().ok()?,
                "--depth" => options.depth = number.try_into().ok()?,
                "--user" => options.user = number.try_into().ok()?,
                _ => return None,
            }
        }
        Some(options)
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.split_first() {
        Some((first, numbers)) if first == SERVE => serve(numbers),
        _ => match Options::parse(&arguments) {
            Some(options) => help(&options),
            None => {
                eprint!("{USAGE}");
                return ExitCode::from(2);
            }
        },
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("unprivileged: {error}");
            ExitCode::FAILURE
        }
    }
}
