// SPDX-License-Identifier: MIT OR Apache-2.0
//! A disk that is a file, or another block device.
//!
//! ```text
//! loop [--mode auto|copy|get-data|user-copy|zero-copy|auto-register] [--batch] [--shared-memory BYTES] [--direct auto|on|off]
//!      [--queues N] [--threads N] [--depth N] [--max-io BYTES] [--read-only] [--id N] [--recovery plain|reissue|fail-io] FILE
//! loop --recover N|--take-over N [--shared-memory BYTES] [--direct auto|on|off] [--threads N] [--read-only] FILE
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
//! - With `--shared-memory` it makes a memfd, and says where a client finds that. What a client reads into that memory, or writes from
//!   it, past the page cache, goes between it and the file: nobody copies it, whatever the mode is.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

mod backing;
mod program;

use std::cell::Cell;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use backing::choice::{Choice, need};
use backing::syncs::{Syncs, Verdict};
use backing::{Backing, Direct};
use program::parse_bytes;
use ublk::mode::{self, Mode};
use ublk::{
    Cache, Completed, Control, DeviceId, DeviceInfo, Errno, Event, Features, NewDevice, Operation, Params,
    PreparedQueue, Recovery, Request, RequestFlags, RingFile, RingOperation, Sectors, Server, SharedIndex,
    SharedMemory,
};

const USAGE: &str = "\
usage: loop [--mode MODE] [--batch] [--shared-memory BYTES]
            [--direct auto|on|off] [--queues N] [--threads N] [--depth N]
            [--max-io BYTES] [--read-only] [--id N]
            [--recovery plain|reissue|fail-io] FILE
       loop --recover N|--take-over N [--direct auto|on|off] FILE

A disk that is FILE, a file or a block device. Prints the path of the block
device once it can be used, and serves until SIGINT or SIGTERM: the first ends
it as soon as nobody has the disk open, the second at once.

  --mode MODE         how the data goes: copy, get-data, user-copy (Linux 6.5),
                      zero-copy (6.15), auto-register (6.16), or the best there
                      is (auto)
  --batch             requests come and are answered many at a time (Linux 7.0)
  --shared-memory BYTES[K|M]
                      memory that clients can do their I/O from and to, so that
                      nobody copies (Linux 7.1): up to 1024M
  --direct WHETHER    past the page cache: on, off, or where it can be (auto)
  --queues N          hardware queues (1)
  --threads N         threads that serve them (one for each queue)
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
    /// How many requests had their data in shared memory, on all queues.
    shared: &'a AtomicU64,
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
                if request.shared().is_some() {
                    self.shared.fetch_add(1, Ordering::Relaxed);
                }
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

#[derive(Clone, Debug)]
struct Options {
    path: String,
    mode: Option<Choice>,
    in_batches: bool,
    shared_bytes: Option<usize>,
    direct: Direct,
    queues: u16,
    threads: Option<u16>,
    depth: u16,
    max_io_bytes: u32,
    read_only: bool,
    id: Option<u32>,
    recovery: Option<Recovery>,
    /// The disk of another server, and whether that is to be relieved.
    inherits: Option<(u32, bool)>,
}

/// What takes a value.
const VALUED: [&str; 11] = [
    "--mode",
    "--shared-memory",
    "--direct",
    "--queues",
    "--threads",
    "--depth",
    "--max-io",
    "--id",
    "--recovery",
    "--recover",
    "--take-over",
];

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options {
            path: String::new(),
            mode: None,
            in_batches: false,
            shared_bytes: None,
            direct: Direct::Auto,
            queues: 1,
            threads: None,
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
            match option.as_str() {
                "--read-only" => options.read_only = true,
                "--batch" => options.in_batches = true,
                valued if VALUED.contains(&valued) => options.take(valued, arguments.next())?,
                _ => return Err(format!("unknown option {option}")),
            }
        }
        if options.path.is_empty() { Err("which FILE?".to_owned()) } else { Ok(options) }
    }

    fn take(&mut self, option: &str, value: Option<String>) -> Result<(), String> {
        let value = value.ok_or_else(|| format!("{option} needs a value"))?;
        let bad = || format!("{option} {value} is nothing that it takes");
        let number = || parse_bytes(&value).ok_or_else(bad);
        match option {
            "--mode" => self.mode = Choice::parse(&value).ok_or_else(bad)?,
            "--shared-memory" => self.shared_bytes = Some(number()?.try_into().map_err(|_| bad())?),
            "--direct" => self.direct = Direct::parse(&value).ok_or_else(bad)?,
            "--queues" => self.queues = number()?.try_into().map_err(|_| bad())?,
            "--threads" => self.threads = Some(number()?.try_into().map_err(|_| bad())?),
            "--depth" => self.depth = number()?.try_into().map_err(|_| bad())?,
            "--max-io" => self.max_io_bytes = number()?.try_into().map_err(|_| bad())?,
            "--recovery" => self.recovery = Some(parse_recovery(&value).ok_or_else(bad)?),
            "--recover" | "--take-over" => {
                self.inherits = Some((number()?.try_into().map_err(|_| bad())?, option == "--take-over"));
            }
            _ => self.id = Some(number()?.try_into().map_err(|_| bad())?),
        }
        Ok(())
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

/// Memory that clients share.
struct Shared {
    memory: SharedMemory,
    /// The device's number for it.
    index: Cell<Option<SharedIndex>>,
}

impl Shared {
    /// Before the device is started, so that no request comes whose data the ring does not find.
    fn register<M: Mode>(&self, queue: &mut PreparedQueue<M>) -> Result<(), ublk::Error> {
        let index = match self.index.get() {
            Some(index) => index,
            None => Control::open()?.register_shared(queue.device().id(), &self.memory)?,
        };
        self.index.set(Some(index));
        queue.register_shared(index, &self.memory)
    }
}

/// What is known before there is a server.
struct Source {
    offered: Features,
    /// The disk whose next server this is, and what its clients know of it.
    found: Option<(DeviceInfo, Params)>,
}

impl Source {
    fn find(id: Option<DeviceId>) -> Result<Source, ublk::Error> {
        let mut control = Control::open()?;
        let offered = control.features()?;
        let found = id.map(|id| Ok((control.info(id)?, control.params(id)?))).transpose()?;
        Ok(Source { offered, found })
    }

    /// The features that the device has, or could have.
    fn features(&self) -> Features {
        self.found.map_or(self.offered, |(found, _)| found.features())
    }

    /// The mode, and why it is this one.
    fn choose(&self, options: &Options) -> Result<(Choice, String), String> {
        let Some((found, _)) = self.found else { return Choice::make(options.mode, self.offered) };
        // What the first two ask for has user copy with it.
        let all = [Choice::AutoRegister, Choice::ZeroCopy, Choice::UserCopy, Choice::GetData, Choice::Copy];
        let its = all.into_iter().find_map(|choice| Choice::make(Some(choice), found.features()).ok());
        let (choice, why) = its.ok_or("the disk has no mode that is known")?;
        Ok((choice, why.replace("asked for", "as the disk was added")))
    }

    /// A server of a new disk, or of this one, if the file is behind it as far as can be told.
    fn server<M: Mode>(&self, options: &Options, device: NewDevice<M>, params: Params) -> Result<Server<M>, String> {
        let Some((found, has)) = self.found else { return Ok(Server::new(device, params)) };
        let block = |params: &Params| params.as_raw().basic.logical_bs_shift;
        if (has.size(), block(&has)) != (params.size(), block(&params)) {
            return Err(format!("the file does not have the {} of /dev/ublkb{}", has.size(), found.id()));
        }
        let relieves = options.inherits.is_some_and(|(_, relieves)| relieves);
        Ok(if relieves { Server::take_over(device, found) } else { Server::recover(device, found) })
    }
}

fn serve<M: Mode>(
    device: NewDevice<M>,
    options: &Options,
    backing: &Backing,
    choice: Choice,
    source: &Source,
    why: &str,
) -> Result<(), String> {
    let device = device.queues(options.queues).depth(options.depth);
    let mut device = device.max_io_bytes(options.max_io_bytes).operations(1);
    if let Some(id) = options.id {
        device = device.id(DeviceId::new(id));
    }
    let mut why = why.to_owned();
    let mut features = Features::NONE;
    if let Some(recovery) = options.recovery {
        device = device.recovery(recovery);
        // So that it can be relieved without an error, where that is possible.
        if source.offered.contains(Features::QUIESCE) {
            features = Features::QUIESCE;
        }
    }
    let mut shared = None;
    if let Some(len) = options.shared_bytes {
        let memory = SharedMemory::new(len).map_err(|error| format!("--shared-memory {len}: {error}"))?;
        why += &format!("; clients share /proc/{}/fd/{}", std::process::id(), memory.fd().raw());
        shared = Some(Shared { memory, index: Cell::new(None) });
        features = features | Features::SHMEM_ZC;
    }
    device = device.features(features);
    if options.in_batches {
        device = device.batch();
        why += "; in batches";
    }
    let block_bytes = usize::try_from(backing.block_bytes).map_err(|error| error.to_string())?;
    // One for each queue or each thread, of whichever there are more: a queue that several threads serve is prepared for each of them.
    let parts = options.queues.max(options.threads.unwrap_or(1));
    let files = (0..parts).map(|_| backing.reopen()).collect::<Result<Vec<_>, _>>()?;
    let prepared = Cell::new(0);
    let (lost, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut server = source
        .server(options, device, params(backing, choice)?)?
        .stop_on_signals()
        .when_in_use(|device| {
            eprintln!("loop: /dev/ublkb{} is in use: a second signal ends it all the same", device.id());
        })
        .restrict(&[RingOperation::Read, RingOperation::Write, RingOperation::Sync, RingOperation::Fallocate]);
    let has = features | options.recovery.map_or(Features::NONE, Recovery::features);
    let has = source.found.map_or(has, |(found, _)| found.features());
    if [Features::QUIESCE, Features::USER_RECOVERY_REISSUE].iter().any(|way| has.contains(*way)) {
        server = server.hand_over_on_signal();
    }
    if let Some(threads) = options.threads {
        server = server.threads(threads);
    }
    let stopped = server
        .run_events(
            |queue| {
                // The driver gives no more queues than were asked for.
                let file = queue.register_file(&files[prepared.replace(prepared.get() + 1)])?;
                if let Some(shared) = &shared {
                    shared.register(queue)?;
                }
                let syncs = Syncs::new(&lost, options.depth);
                Ok(Target { file, syncs, block_bytes, is_device: backing.queue.is_some(), shared: &count })
            },
            |target, event| target.answer(event),
            |device| {
                println!("/dev/ublkb{}", device.id());
                println!("loop: {why}");
                if source.found.is_some() && device.features().contains(Features::SHMEM_ZC) {
                    let own = shared.as_ref().and_then(|shared| shared.index.get());
                    let taken_back = Control::open()
                        .and_then(|mut control| control.unregister_shared_but(device.id(), own.as_slice()));
                    match taken_back {
                        Ok(0) => {}
                        Ok(count) => {
                            println!("loop: {count} memories that servers before this one shared are taken back")
                        }
                        Err(error) => eprintln!("loop: what servers before this one shared stays: {error}"),
                    }
                }
            },
        )
        .map_err(|error| error.to_string())?;
    if shared.is_some() {
        println!("loop: {} requests in shared memory", count.load(Ordering::Relaxed));
    }
    println!("loop: {stopped}");
    Ok(())
}

fn run(options: &Options) -> Result<(), String> {
    let source = Source::find(options.inherits.map(|(id, _)| DeviceId::new(id))).map_err(|error| error.to_string())?;
    let (choice, why) = source.choose(options)?;
    let mut options = options.clone();
    if let Some((found, _)) = source.found {
        (options.queues, options.depth) = (found.queues(), found.depth());
        options.in_batches = found.features().contains(Features::BATCH_IO);
    }
    let options = &options;
    if options.in_batches {
        need("--batch", Features::BATCH_IO, source.features())?;
    }
    if options.shared_bytes.is_some() {
        need("--shared-memory", Features::SHMEM_ZC, source.features())?;
    }
    let backing = Backing::open(&options.path, options.direct, options.read_only)?;
    if backing.cut_bytes > 0 {
        eprintln!(
            "loop: the last {} bytes are not a block of {}, and left alone",
            backing.cut_bytes, backing.block_bytes
        );
    }
    let cache = if backing.is_direct { "past the page cache" } else { "through the page cache" };
    let why = format!("{why}; {cache}, blocks of {}", backing.block_bytes);
    let (device, backing, source) = (NewDevice::new(), &backing, &source);
    match choice {
        Choice::AutoRegister => serve(device.mode::<mode::AutoRegister>(), options, backing, choice, source, &why),
        Choice::ZeroCopy => serve(device.mode::<mode::ZeroCopy>(), options, backing, choice, source, &why),
        Choice::UserCopy => serve(device.mode::<mode::UserCopy>(), options, backing, choice, source, &why),
        Choice::Copy => serve(device, options, backing, choice, source, &why),
        Choice::GetData => {
            // What this mode is for: requests that have no buffer yet wait for one.
            let device = device.mode::<mode::GetData>().buffers(options.depth.div_ceil(4));
            serve(device, options, backing, choice, source, &why)
        }
    }
}

fn main() -> ExitCode {
    program::run("loop", USAGE, Options::parse, run)
}
