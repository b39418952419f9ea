// SPDX-License-Identifier: MIT OR Apache-2.0
//! A disk that is a file, or another block device.
//!
//! ```text
//! loop [--mode auto|copy|user-copy|zero-copy|auto-register] [--direct auto|on|off] [--queues N] [--depth N] [--max-io BYTES]
//!      [--read-only] [--id N] [--recovery plain|reissue|fail-io] FILE
//! loop --recover N [--direct auto|on|off] [--read-only] FILE
//! loop --take-over N [--direct auto|on|off] [--read-only] FILE
//! ```
//!
//! It prints the path of the block device once that can be used, then how the data goes and why so, and serves until SIGINT or
//! SIGTERM: it ends as soon as nobody has the disk open, or on a second signal at once. With `--recovery` the disk outlives it: killed,
//! or told to hand over by SIGUSR2, it leaves the disk waiting for `loop --recover N FILE`. `--take-over` relieves one that serves.
//!
//! Reads, writes, `fdatasync(2)` and `fallocate(2)` are operations of the queues' rings: no thread waits for one, and in
//! the zero-copy modes no byte is copied.
//!
//! - A FLUSH is an fdatasync, and a write with FUA is followed by one before it is answered. When one has failed, all later ones
//!   fail until the server is started again ([`backing::syncs`]).
//! - The disk has the whole blocks of what is behind it. Bytes at the end that are not a block are left alone, and it says so.
//!   Where a file is shortened while it is served, what is missing reads as zeroes, and a write makes it longer again.
//! - A discard punches a hole in a file, and discards on a block device. What is behind the disk need not be able to do either: the
//!   client then gets EOPNOTSUPP, as from any disk that cannot, or the block layer writes zeroes.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

mod backing;

use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use backing::choice::{Choice, MODES};
use backing::syncs::{Syncs, Verdict};
use backing::{Backing, Direct, parse_bytes};
use ublk::mode::{self, Mode};
use ublk::{
    Cache, Completed, Control, DeviceId, DeviceInfo, Errno, Error, Event, Features, NewDevice, Operation, Params,
    Recovery, Request, RequestFlags, RingFile, RingOperation, Sectors, Server,
};

const USAGE: &str = "\
usage: loop [--mode MODE] [--direct auto|on|off] [--queues N] [--depth N]
            [--max-io BYTES] [--read-only] [--id N]
            [--recovery plain|reissue|fail-io] FILE
       loop --recover N|--take-over N [--direct auto|on|off] FILE

A disk that is FILE, a file or a block device. Prints the path of the block
device once it can be used, and serves until SIGINT or SIGTERM: the first ends
it as soon as nobody has the disk open, the second at once.

  --mode MODE         how the data goes: copy, user-copy (Linux 6.5), zero-copy
                      (6.15), auto-register (6.16), or the best there is (auto)
  --direct WHETHER    past the page cache: on, off, or where it can be (auto)
  --queues N          hardware queues, a thread for each (1)
  --depth N           requests that a queue holds at once (128)
  --max-io BYTES[K|M] the largest request, 4K to 32M (1M)
  --read-only         refuse writes
  --id N              be /dev/ublkbN (the driver's choice)
  --recovery KIND     the disk outlives its server: requests that a dead server
                      owned fail (plain), go to the next one (reissue), or
                      everything fails meanwhile (fail-io). SIGUSR2 hands over
  --recover N         be the next server of /dev/ublkbN, which has lost its last
  --take-over N       the same, of one that has a server (Linux 6.16)
";

/// The most that is discarded or zeroed at once: 1 GiB.
const MOST: Sectors = Sectors::new(1 << 21);

/// The label of a step that makes durable; that of any other says how far the ones before it came.
const SYNCING: u64 = u64::MAX;

/// Steps of a WRITE_ZEROES, by label: the first, and the one behind it where that cannot be done.
const FIRST: u64 = 0;
const ZEROES_WRITTEN: u64 = 1;

const PUNCH_HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const ZERO_RANGE: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;

/// What one queue does with requests.
#[derive(Debug)]
struct Target<'a> {
    file: RingFile,
    syncs: Syncs<'a>,
    block_bytes: usize,
    is_device: bool,
}

impl Target<'_> {
    fn answer<M: Mode>(&self, event: Event<'_, M>) {
        match event {
            Event::Request(request) => self.begin(request),
            Event::Completed(completed) if completed.label() == SYNCING => self.synced(completed),
            Event::Completed(completed) => self.go_on(completed),
        }
    }

    // Operations that could not be added are dropped, and the request fails with EIO then.

    fn begin<M: Mode>(&self, request: Request<'_, M>) {
        match request.operation() {
            Operation::READ | Operation::WRITE => {
                let len = usize::try_from(request.len_bytes()).unwrap_or(usize::MAX);
                self.transfer(request, 0..len);
            }
            Operation::FLUSH => self.sync(request),
            Operation::DISCARD if self.is_device => {
                let (offset, len) = (request.offset_bytes(), request.len_bytes());
                let mut operations = request.operations();
                if operations.block_discard(self.file, offset, len).is_ok() {
                    operations.submit();
                }
            }
            Operation::DISCARD => self.allocate(request, PUNCH_HOLE, FIRST),
            Operation::WRITE_ZEROES if request.flags().contains(RequestFlags::NOUNMAP) => {
                self.allocate(request, ZERO_RANGE, ZEROES_WRITTEN);
            }
            Operation::WRITE_ZEROES => self.allocate(request, PUNCH_HOLE, FIRST),
            _ => request.fail(Errno::EOPNOTSUPP),
        }
    }

    /// Moves what is left of a READ or a WRITE. Direct I/O starts at a block, also where what was moved last ended within one.
    fn transfer<M: Mode>(&self, request: Request<'_, M>, rest: Range<usize>) {
        let start = rest.start - rest.start % self.block_bytes;
        let (operation, Ok(skipped)) = (request.operation(), u64::try_from(start)) else { return };
        let offset = request.offset_bytes() + skipped;
        let mut operations = request.operations();
        operations.label(u64::try_from(rest.start).unwrap_or(0));
        let added = match operation {
            Operation::READ => operations.read(self.file, offset, start..rest.end),
            _ => operations.write(self.file, offset, start..rest.end),
        };
        if added.is_ok() {
            operations.submit();
        }
    }

    fn allocate<M: Mode>(&self, request: Request<'_, M>, mode: i32, label: u64) {
        let (offset, len) = (request.offset_bytes(), request.len_bytes());
        let mut operations = request.operations();
        operations.label(label);
        if operations.fallocate(self.file, mode.unsigned_abs(), offset, len).is_ok() {
            operations.submit();
        }
    }

    fn go_on<M: Mode>(&self, completed: Completed<'_, M>) {
        let operation = completed.request().operation();
        if let Some(errno) = completed.error() {
            // A block device that cannot punch holes can be written zeroes to, which is another fallocate(2).
            let is_first = operation == Operation::WRITE_ZEROES && completed.label() == FIRST;
            return if is_first && self.is_device && errno == Errno::EOPNOTSUPP {
                self.allocate(completed.into_request(), ZERO_RANGE, ZEROES_WRITTEN);
            } else {
                completed.finish();
            };
        }
        let rest = completed.rest();
        let came_further = u64::try_from(rest.start).is_ok_and(|start| start > completed.label());
        if !rest.is_empty() && came_further {
            self.transfer(completed.into_request(), rest);
        } else if rest.is_empty() && completed.request().flags().contains(RequestFlags::FUA) {
            self.sync(completed.into_request());
        } else {
            // Behind the end of the file a READ gets zeroes. A WRITE that comes no further fails.
            completed.finish();
        }
    }

    fn sync<M: Mode>(&self, request: Request<'_, M>) {
        if !self.syncs.begin(request.tag()) {
            return request.fail(Errno::EIO);
        }
        let mut operations = request.operations();
        operations.label(SYNCING);
        if operations.fdatasync(self.file).is_ok() {
            operations.submit();
        }
    }

    fn synced<M: Mode>(&self, completed: Completed<'_, M>) {
        let errno = completed.error();
        match self.syncs.end(completed.request().tag(), errno.is_some()) {
            Verdict::Durable => completed.finish(),
            Verdict::Again => self.sync(completed.into_request()),
            Verdict::Lost => completed.into_request().fail(errno.unwrap_or(Errno::EIO)),
        }
    }
}

#[derive(Debug)]
struct Options {
    path: String,
    mode: Option<Choice>,
    direct: Direct,
    queues: u16,
    depth: u16,
    max_io_bytes: u32,
    read_only: bool,
    id: Option<u32>,
    recovery: Option<Recovery>,
    /// The disk of another server, and whether that is to be relieved.
    inherits: Option<(u32, bool)>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options {
            path: String::new(),
            mode: None,
            direct: Direct::Auto,
            queues: 1,
            depth: 128,
            max_io_bytes: 1 << 20,
            read_only: false,
            id: None,
            recovery: None,
            inherits: None,
        };
        while let Some(option) = arguments.next() {
            if !option.starts_with("--") && options.path.is_empty() {
                options.path = option;
                continue;
            }
            if option == "--read-only" {
                options.read_only = true;
                continue;
            }
            let known = [
                "--mode",
                "--direct",
                "--queues",
                "--depth",
                "--max-io",
                "--id",
                "--recovery",
                "--recover",
                "--take-over",
            ];
            if !known.contains(&option.as_str()) {
                return Err(format!("unknown option {option}"));
            }
            let value = arguments.next().ok_or_else(|| format!("{option} needs a value"))?;
            let bad = || format!("{option} {value} is nothing that it takes");
            let number = || parse_bytes(&value).ok_or_else(bad);
            match option.as_str() {
                "--mode" => options.mode = Choice::parse(&value).ok_or_else(bad)?,
                "--direct" => options.direct = Direct::parse(&value).ok_or_else(bad)?,
                "--queues" => options.queues = number()?.try_into().map_err(|_| bad())?,
                "--depth" => options.depth = number()?.try_into().map_err(|_| bad())?,
                "--max-io" => options.max_io_bytes = number()?.try_into().map_err(|_| bad())?,
                "--recovery" => options.recovery = Some(parse_recovery(&value).ok_or_else(bad)?),
                "--recover" | "--take-over" => {
                    options.inherits = Some((number()?.try_into().map_err(|_| bad())?, option == "--take-over"));
                }
                _ => options.id = Some(number()?.try_into().map_err(|_| bad())?),
            }
        }
        if options.path.is_empty() { Err("which FILE?".to_owned()) } else { Ok(options) }
    }
}

fn parse_recovery(word: &str) -> Option<Recovery> {
    [Recovery::Plain, Recovery::Reissue, Recovery::FailIo].into_iter().find(|kind| kind.to_string() == word)
}

/// The disk that this backing makes.
fn params(backing: &Backing, choice: Choice) -> Result<Params, String> {
    let size = Sectors::from_bytes(backing.len_bytes).ok_or("a block is not a whole number of sectors")?;
    let cache = if backing.is_read_only { Cache::None } else { Cache::VolatileWithFua };
    let mut params = Params::new(size, cache).block_bytes(backing.block_bytes);
    if let Some(bytes) = backing.limit("physical_block_size") {
        params = params.physical_block_bytes(bytes.max(backing.block_bytes));
    }
    if backing.limit("rotational") == Some(1) {
        params = params.rotational();
    }
    if choice.is_zero_copy() && backing.is_direct {
        // The pages of clients are what the kernel reads and writes behind us.
        params = params.dma_alignment(backing.block_bytes);
    }
    if backing.is_read_only {
        return Ok(params.read_only());
    }
    let forgets = if backing.queue.is_some() {
        backing.limit("discard_granularity").filter(|bytes| *bytes > 0)
    } else {
        Some(backing.block_bytes.max(4096))
    };
    if let Some(granularity) = forgets {
        params = params.discard(granularity, MOST);
    }
    Ok(params.write_zeroes(MOST))
}

/// What is known before there is a server.
struct Source {
    control: Control,
    offered: Features,
    /// The disk whose next server this is.
    found: Option<DeviceInfo>,
}

impl Source {
    fn find(id: Option<DeviceId>) -> Result<Source, Error> {
        let mut control = Control::open()?;
        let (offered, found) = (control.features()?, id.map(|id| control.info(id)).transpose()?);
        Ok(Source { control, offered, found })
    }

    /// Refuses a file that is not behind this disk, as far as can be told: what its clients know of it has to stay true.
    fn check(&mut self, found: &DeviceInfo, params: &Params) -> Result<(), String> {
        let has = self.control.params(found.id()).map_err(|error| error.to_string())?;
        let same = has.size() == params.size()
            && has.as_raw().basic.logical_bs_shift == params.as_raw().basic.logical_bs_shift;
        if same {
            Ok(())
        } else {
            Err(format!("the file does not have the {} of /dev/ublkb{}", has.size(), found.id()))
        }
    }
}

fn serve<M: Mode>(
    options: &Options,
    backing: &Backing,
    choice: Choice,
    why: &str,
    mut source: Source,
) -> Result<(), String> {
    let device = NewDevice::new().mode::<M>().queues(options.queues).depth(options.depth);
    let mut device = device.max_io_bytes(options.max_io_bytes).operations(1);
    if let Some(id) = options.id {
        device = device.id(DeviceId::new(id));
    }
    if let Some(recovery) = options.recovery {
        device = device.recovery(recovery);
        if source.offered.contains(Features::QUIESCE) {
            device = device.features(Features::QUIESCE);
        }
    }
    let block_bytes = usize::try_from(backing.block_bytes).map_err(|error| error.to_string())?;
    let params = params(backing, choice)?;
    let (queues, depth) = source.found.map_or((options.queues, options.depth), |found| (found.queues(), found.depth()));
    let files = (0..queues).map(|_| backing.reopen()).collect::<Result<Vec<_>, _>>()?;
    let lost = AtomicBool::new(false);
    let mut server = match (source.found, options.inherits) {
        (Some(found), Some((_, relieves))) => {
            source.check(&found, &params)?;
            if relieves { Server::take_over(device, found) } else { Server::recover(device, found) }
        }
        _ => Server::new(device, params),
    };
    let can_hand_over = match source.found {
        Some(found) => found.features(),
        None if source.offered.contains(Features::QUIESCE) && options.recovery.is_some() => Features::QUIESCE,
        None => options.recovery.map_or(Features::NONE, Recovery::features),
    };
    if [Features::QUIESCE, Features::USER_RECOVERY_REISSUE].iter().any(|way| can_hand_over.contains(*way)) {
        server = server.hand_over_on_signal();
    }
    let stopped = server
        .stop_on_signals()
        .when_in_use(|device| {
            eprintln!("loop: /dev/ublkb{} is in use: a second signal ends it all the same", device.id())
        })
        .restrict(&[RingOperation::Read, RingOperation::Write, RingOperation::Sync, RingOperation::Fallocate])
        .run_events(
            // The driver gives no more queues than were asked for.
            |queue| {
                let file = queue.register_file(&files[usize::from(queue.id().raw())])?;
                let syncs = Syncs::new(&lost, depth);
                Ok(Target { file, syncs, block_bytes, is_device: backing.queue.is_some() })
            },
            |target, event| target.answer(event),
            |device| {
                println!("/dev/ublkb{}", device.id());
                println!("loop: {why}");
            },
        )
        .map_err(|error| error.to_string())?;
    println!("loop: {stopped}");
    Ok(())
}

fn run(options: &Options) -> Result<(), String> {
    let source = Source::find(options.inherits.map(|(id, _)| DeviceId::new(id))).map_err(|error| error.to_string())?;
    let (choice, why) = match source.found {
        Some(found) => {
            let is_its = |mode: &&(Choice, _, Features)| found.features().contains(mode.2);
            let (choice, name, _) = MODES.iter().find(is_its).ok_or("the disk has no mode that is known")?;
            (*choice, format!("{name}: as the disk was added"))
        }
        None => Choice::make(options.mode, source.offered)?,
    };
    let backing = Backing::open(&options.path, options.direct, options.read_only)?;
    if backing.cut_bytes > 0 {
        eprintln!(
            "loop: the last {} bytes are not a block of {}, and left alone",
            backing.cut_bytes, backing.block_bytes
        );
    }
    let cache = if backing.is_direct { "past the page cache" } else { "through the page cache" };
    let why = format!("{why}; {cache}, blocks of {}", backing.block_bytes);
    match choice {
        Choice::AutoRegister => serve::<mode::AutoRegister>(options, &backing, choice, &why, source),
        Choice::ZeroCopy => serve::<mode::ZeroCopy>(options, &backing, choice, &why, source),
        Choice::UserCopy => serve::<mode::UserCopy>(options, &backing, choice, &why, source),
        Choice::Copy => serve::<mode::Copy>(options, &backing, choice, &why, source),
    }
}

fn main() -> ExitCode {
    if std::env::args().skip(1).any(|argument| argument == "--help" || argument == "-h") {
        print!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprint!("loop: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loop: {error}");
            ExitCode::FAILURE
        }
    }
}
