// SPDX-License-Identifier: MIT OR Apache-2.0
//! A zoned disk in memory.
//!
//! ```text
//! zoned [--size 256M] [--zone-size 4M] [--conventional N] [--max-open N] [--max-active N] [--mode MODE]
//!       [--queues N] [--depth N] [--block-size N] [--id N]
//! ```
//!
//! It prints the path of the block device once that can be used, and serves until SIGINT or SIGTERM. A zone is written at its
//! write pointer only, and a reset returns its memory to the system. What fails does so with the errnos that the block layer knows:
//! a write elsewhere with `EIO`, one zone too many open with `ETOOMANYREFS`, and active with `EOVERFLOW`.
//!
//! The memory is a file of `/dev/shm` without a name, and the ring of each queue reads and writes it, in every mode alike: from and to
//! the client's own pages where they are registered, else through the tag's buffer.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

mod program;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};

use program::parse_bytes;
use ublk::mode::{self, UserCopied};
use ublk::{
    Cache, Completed, DeviceId, Errno, Event, Fd, NewDevice, Operation, Params, Request, RingFile, Sectors, Server,
    Zone, ZoneCondition, Zones,
};

const USAGE: &str = "\
usage: zoned [--size BYTES[K|M|G]] [--zone-size BYTES] [--conventional N] [--max-open N] [--max-active N]
             [--mode user-copy|zero-copy|auto-register] [--queues N] [--depth N] [--block-size BYTES] [--id N]

A zoned disk in memory. Prints the path of the block device once it can be
used, and serves until SIGINT or SIGTERM.

  --size BYTES        size of the disk, whole zones (256M)
  --zone-size BYTES   size of a zone, a power of two (4M)
  --conventional N    so many zones from the start on are written in any order (0)
  --max-open N        zones that are open at once, 0 for any number (0)
  --max-active N      zones that are open or closed at once, 0 for any number (0)
  --mode MODE         how data travels: user-copy, zero-copy (Linux 6.15) or
                      auto-register (Linux 6.16) (user-copy)
  --queues N          hardware queues, a thread for each (1)
  --depth N           requests that a queue holds at once (128)
  --block-size BYTES  logical block: 512, 1024, 2048 or 4096 (512)
  --id N              be /dev/ublkbN (the driver's choice)
";

/// `FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE`.
const PUNCH_HOLE: u32 = 1 | 2;

/// A zone as it is now. Its numbers are sectors from its start on.
#[derive(Clone, Copy)]
struct State {
    condition: ZoneCondition,
    /// Where it is to be written next; its length where it is full.
    pointer: u64,
    /// What is behind this was not written since the last reset, and reads as zeroes.
    written: u64,
}

const EMPTY: State = State { condition: ZoneCondition::EMPTY, pointer: 0, written: 0 };

impl State {
    fn is_open(&self) -> bool {
        [ZoneCondition::IMPLICITLY_OPEN, ZoneCondition::EXPLICITLY_OPEN].contains(&self.condition)
    }

    fn is_active(&self) -> bool {
        self.is_open() || self.condition == ZoneCondition::CLOSED
    }

    fn is_conventional(&self) -> bool {
        self.condition == ZoneCondition::NOT_WRITE_POINTER
    }

    fn close(&mut self) {
        self.condition = if self.pointer == 0 { ZoneCondition::EMPTY } else { ZoneCondition::CLOSED };
    }
}

/// All zones, and how they are written.
struct States {
    zones: Vec<State>,
    /// Sectors of a zone.
    size: u64,
    max_open: usize,
    max_active: usize,
}

impl States {
    fn new(options: &Options, size: u64) -> States {
        let conventional = State { condition: ZoneCondition::NOT_WRITE_POINTER, pointer: 0, written: size };
        let count = usize::try_from(options.size / options.zone_bytes).unwrap_or(usize::MAX);
        let zones = (0..count).map(|index| if index < options.conventional { conventional } else { EMPTY }).collect();
        let most = |zones: u32| if zones == 0 { usize::MAX } else { usize::try_from(zones).unwrap_or(usize::MAX) };
        States { zones, size, max_open: most(options.max_open), max_active: most(options.max_active) }
    }

    /// The zone that a sector is in, and how far from its start.
    fn find(&self, at: Sectors) -> Result<(usize, u64), Errno> {
        let index = usize::try_from(at.raw() / self.size).ok().filter(|index| *index < self.zones.len());
        Ok((index.ok_or(Errno::EIO)?, at.raw() % self.size))
    }

    /// The zone that starts here and has a write pointer.
    fn sequential(&self, start: Sectors) -> Result<usize, Errno> {
        match self.find(start)? {
            (index, 0) if !self.zones[index].is_conventional() => Ok(index),
            _ => Err(Errno::EIO),
        }
    }

    /// Makes a zone open, for a write or because it was asked for.
    fn open(&mut self, index: usize, wanted: ZoneCondition) -> Result<(), Errno> {
        let condition = self.zones[index].condition;
        if condition == ZoneCondition::FULL {
            return Err(Errno::EIO);
        }
        if !self.zones[index].is_active()
            && self.zones.iter().filter(|zone| zone.is_active()).count() >= self.max_active
        {
            return Err(Errno::EOVERFLOW);
        }
        if !self.zones[index].is_open() && self.zones.iter().filter(|zone| zone.is_open()).count() >= self.max_open {
            // One that was opened by a write makes room.
            let other = self.zones.iter_mut().find(|zone| zone.condition == ZoneCondition::IMPLICITLY_OPEN);
            other.ok_or(Errno::ETOOMANYREFS)?.close();
        }
        if condition != ZoneCondition::EXPLICITLY_OPEN {
            self.zones[index].condition = wanted;
        }
        Ok(())
    }

    fn close(&mut self, index: usize) -> Result<(), Errno> {
        match self.zones[index].condition {
            ZoneCondition::EMPTY | ZoneCondition::FULL => Err(Errno::EIO),
            _ => {
                self.zones[index].close();
                Ok(())
            }
        }
    }

    fn finish(&mut self, index: usize) {
        (self.zones[index].condition, self.zones[index].pointer) = (ZoneCondition::FULL, self.size);
    }

    /// Moves the write pointer over what is written from now on, and returns where that starts: at `at`, which has to be where the
    /// pointer is, or wherever that is.
    fn write(&mut self, index: usize, at: Option<u64>, count: u64) -> Result<u64, Errno> {
        let zone = self.zones[index];
        if zone.is_conventional() {
            return at.filter(|at| at + count <= self.size).ok_or(Errno::EIO);
        }
        if at.is_some_and(|at| at != zone.pointer) || zone.pointer + count > self.size {
            return Err(Errno::EIO);
        }
        self.open(index, ZoneCondition::IMPLICITLY_OPEN)?;
        let end = zone.pointer + count;
        (self.zones[index].pointer, self.zones[index].written) = (end, end);
        if end == self.size {
            self.zones[index].condition = ZoneCondition::FULL;
        }
        Ok(zone.pointer)
    }

    /// The zone as it is reported.
    fn report(&self, index: usize) -> Zone {
        let (state, size) = (self.zones[index], Sectors::new(self.size));
        let first = u64::try_from(index).unwrap_or(u64::MAX) * self.size;
        if state.is_conventional() {
            return Zone::conventional(Sectors::new(first), size);
        }
        Zone::sequential(Sectors::new(first), size).written_to(state.condition, Sectors::new(first + state.pointer))
    }
}

/// The disk.
struct Disk {
    states: Mutex<States>,
    /// Bytes in front of the first zone with a write pointer, and behind the last.
    sequential: (u64, u64),
}

impl Disk {
    fn states(&self) -> MutexGuard<'_, States> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer<M: UserCopied>(&self, file: RingFile, event: Event<'_, M>) {
        match event {
            Event::Request(request) => self.begin(file, request),
            Event::Completed(completed) => self.end(completed),
        }
    }

    fn begin<M: UserCopied>(&self, file: RingFile, mut request: Request<'_, M>) {
        let (operation, start) = (request.operation(), request.start());
        let begun = match operation {
            Operation::READ => self.readable(&request),
            Operation::WRITE | Operation::ZONE_APPEND => self.writable(&request),
            Operation::REPORT_ZONES => self.report(&mut request).map(|()| None),
            Operation::ZONE_RESET => self.states().sequential(start).map(|_| Some(start)),
            Operation::ZONE_RESET_ALL => Ok(Some(start)),
            _ => self.manage(operation, start).map(|()| None),
        };
        let at = match begun {
            Ok(Some(at)) => at,
            Ok(None) => return request.complete(),
            Err(errno) => return request.fail(errno),
        };
        let len = usize::try_from(request.len_bytes()).unwrap_or(usize::MAX);
        let mut operations = request.operations();
        operations.label(at.raw());
        let (from, to) = self.sequential;
        let size = self.states().size;
        let started = match operation {
            // The label of a READ is how much of it is there.
            Operation::READ => operations.read(file, start.bytes(), 0..usize::try_from(at.bytes()).unwrap_or(0)),
            Operation::ZONE_RESET => operations.fallocate(file, PUNCH_HOLE, start.bytes(), Sectors::new(size).bytes()),
            Operation::ZONE_RESET_ALL => operations.fallocate(file, PUNCH_HOLE, from, to - from),
            _ => operations.write(file, at.bytes(), 0..len),
        };
        match started {
            Ok(()) => operations.submit(),
            // Dropped, it fails with EIO.
            Err(error) => eprintln!("zoned: {error}"),
        }
    }

    /// How much of a READ was written; none where the rest, zeroes, is all of it.
    fn readable<M: UserCopied>(&self, request: &Request<'_, M>) -> Result<Option<Sectors>, Errno> {
        let states = self.states();
        let (index, at) = states.find(request.start())?;
        let count = Sectors::from_bytes(request.len_bytes()).ok_or(Errno::EIO)?.raw();
        // The block layer lets no request cross the end of a zone.
        if at + count > states.size {
            return Err(Errno::EIO);
        }
        let written = states.zones[index].written.saturating_sub(at).min(count);
        Ok((written > 0).then_some(Sectors::new(written)))
    }

    /// Where the data of a WRITE or a ZONE_APPEND goes.
    fn writable<M: UserCopied>(&self, request: &Request<'_, M>) -> Result<Option<Sectors>, Errno> {
        let mut states = self.states();
        let count = Sectors::from_bytes(request.len_bytes()).ok_or(Errno::EIO)?.raw();
        let (index, at) = states.find(request.start())?;
        let at = if request.operation() == Operation::WRITE { Some(at) } else { None };
        let written = states.write(index, at, count)?;
        let first = u64::try_from(index).map_err(|_| Errno::EIO)? * states.size;
        Ok(Some(Sectors::new(first + written)))
    }

    fn report<M: UserCopied>(&self, request: &mut Request<'_, M>) -> Result<(), Errno> {
        let states = self.states();
        let (first, _) = states.find(request.start())?;
        request.report_zones((first..states.zones.len()).map(|index| states.report(index)))
    }

    fn manage(&self, operation: Operation, start: Sectors) -> Result<(), Errno> {
        let mut states = self.states();
        let index = states.sequential(start)?;
        match operation {
            Operation::ZONE_OPEN => states.open(index, ZoneCondition::EXPLICITLY_OPEN),
            Operation::ZONE_CLOSE => states.close(index),
            Operation::ZONE_FINISH => {
                states.finish(index);
                Ok(())
            }
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    fn end<M: UserCopied>(&self, completed: Completed<'_, M>) {
        let (operation, start) = (completed.request().operation(), completed.request().start());
        if completed.error().is_some() {
            return completed.finish();
        }
        let label = Sectors::new(completed.label());
        match operation {
            // Where less was read than is there, the rest would be zeroed.
            Operation::READ if completed.results().next() != Some(Ok(u32::try_from(label.bytes()).unwrap_or(0))) => {
                completed.into_request().fail(Errno::EIO);
            }
            Operation::ZONE_APPEND => completed.into_request().complete_append(label),
            // Only now, so that the hole is not punched into what is written next.
            Operation::ZONE_RESET => {
                let mut states = self.states();
                if let Ok(index) = states.sequential(start) {
                    states.zones[index] = EMPTY;
                }
                drop(states);
                completed.finish();
            }
            Operation::ZONE_RESET_ALL => {
                self.states().zones.iter_mut().filter(|zone| !zone.is_conventional()).for_each(|zone| *zone = EMPTY);
                completed.finish();
            }
            _ => completed.finish(),
        }
    }
}

struct Options {
    size: u64,
    zone_bytes: u64,
    conventional: usize,
    max_open: u32,
    max_active: u32,
    mode: String,
    queues: u16,
    depth: u16,
    block_bytes: u32,
    id: Option<u32>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options {
            size: 256 << 20,
            zone_bytes: 4 << 20,
            conventional: 0,
            max_open: 0,
            max_active: 0,
            mode: "user-copy".to_owned(),
            queues: 1,
            depth: 128,
            block_bytes: 512,
            id: None,
        };
        while let Some(option) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("unknown option {option}, or it needs a value"))?;
            if option == "--mode" {
                options.mode = value;
                continue;
            }
            let bad = || format!("{option} {value} is not a number that it takes");
            let number = parse_bytes(&value).ok_or_else(bad)?;
            match option.as_str() {
                "--size" => options.size = number,
                "--zone-size" => options.zone_bytes = number,
                "--conventional" => options.conventional = number.try_into().map_err(|_| bad())?,
                "--max-open" => options.max_open = number.try_into().map_err(|_| bad())?,
                "--max-active" => options.max_active = number.try_into().map_err(|_| bad())?,
                "--queues" => options.queues = number.try_into().map_err(|_| bad())?,
                "--depth" => options.depth = number.try_into().map_err(|_| bad())?,
                "--block-size" => options.block_bytes = number.try_into().map_err(|_| bad())?,
                "--id" => options.id = Some(number.try_into().map_err(|_| bad())?),
                _ => return Err(format!("unknown option {option}")),
            }
        }
        if options.zone_bytes == 0 || options.size % options.zone_bytes != 0 {
            return Err("--size is a multiple of --zone-size".to_owned());
        }
        Ok(options)
    }
}

/// A file of memory without a name, which reads as zeroes.
fn memory(len_bytes: u64) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE).open("/dev/shm")?;
    file.set_len(len_bytes)?;
    Ok(file)
}

fn serve<M: UserCopied>(options: &Options) -> Result<(), String> {
    let size = Sectors::from_bytes(options.size).ok_or("--size is a multiple of 512")?;
    let zone = Sectors::from_bytes(options.zone_bytes).ok_or("--zone-size is a power of two of 512 or more")?;
    let memory = memory(options.size).map_err(|error| format!("no memory of {size} in /dev/shm: {error}"))?;
    let memory = Fd::from(OwnedFd::from(memory));
    let first = u64::try_from(options.conventional).unwrap_or(u64::MAX).saturating_mul(options.zone_bytes);
    if first >= options.size {
        return Err("a zoned disk has a zone with a write pointer".to_owned());
    }
    let disk = Disk { states: Mutex::new(States::new(options, zone.raw())), sequential: (first, options.size) };
    // Everything is durable as far as memory ever is: there is no cache to flush.
    let zones = Zones::new(zone, zone).max_open(options.max_open).max_active(options.max_active);
    let params = Params::new(size, Cache::None).block_bytes(options.block_bytes).zoned(zones);
    let mut device = NewDevice::new().queues(options.queues).depth(options.depth).operations(1).mode::<M>().zoned();
    if let Some(id) = options.id {
        device = device.id(DeviceId::new(id));
    }
    let stopped = Server::new(device, params)
        .stop_on_signals()
        .when_in_use(|device| {
            eprintln!("zoned: /dev/ublkb{} is in use: a second signal ends it all the same", device.id())
        })
        .run_events(
            |queue| queue.register_file(&memory),
            |file, event| disk.answer(*file, event),
            |device| println!("/dev/ublkb{}", device.id()),
        )
        .map_err(|error| error.to_string())?;
    println!("zoned: {stopped}");
    Ok(())
}

fn serve_in_mode(options: &Options) -> Result<(), String> {
    match options.mode.as_str() {
        "user-copy" => serve::<mode::UserCopy>(options),
        "zero-copy" => serve::<mode::ZeroCopy>(options),
        "auto-register" => serve::<mode::AutoRegister>(options),
        other => Err(format!("--mode {other} is none of user-copy, zero-copy and auto-register")),
    }
}

fn main() -> ExitCode {
    program::run("zoned", USAGE, Options::parse, serve_in_mode)
}
