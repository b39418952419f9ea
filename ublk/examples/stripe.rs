// SPDX-License-Identifier: MIT OR Apache-2.0
//! A disk whose blocks lie in several files or block devices by turns.
//!
//! ```text
//! stripe [--chunk BYTES] [--mode auto|copy|get-data|user-copy|zero-copy|auto-register] [--direct auto|on|off] [--queues N]
//!        [--depth N] [--max-io BYTES] [--id N] FILE...
//! ```
//!
//! Chunk 0 is the start of the first file, chunk 1 that of the second, and so on. What a request has in one file is one piece of
//! that file, from several places of the request's data: one vectored operation of the queue's ring moves it, or several where
//! it has more than 16 places. They run beside each other, and the request is answered when the last is back.
//!
//! The files are equal: each counts with the chunks that the smallest has. A file that is shortened while it is served is an error
//! of the disk. A FLUSH is an `fdatasync(2)` of every file, and so is what follows a write with FUA ([`backing::syncs`]).
//!
//! It prints the path of the block device once that can be used, then how the data goes and why so, and serves until SIGINT or
//! SIGTERM.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

mod backing;
mod program;

use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use backing::choice::Choice;
use backing::syncs::{Syncs, Verdict};
use backing::{Backing, Direct};
use program::parse_bytes;
use ublk::mode::{self, Mode};
use ublk::{
    Cache, Completed, Control, DeviceId, Errno, Event, NewDevice, Operation, Operations, Params, Request, RequestFlags,
    RingFile, Sectors, Server,
};

const USAGE: &str = "\
usage: stripe [--chunk BYTES] [--mode MODE] [--direct auto|on|off] [--queues N]
              [--depth N] [--max-io BYTES] [--id N] FILE...

A disk whose blocks lie in 1 to 16 files or block devices by turns. Prints the
path of the block device once it can be used, and serves until SIGINT or SIGTERM.

  --chunk BYTES[K]    what lies in one file before the next has its turn, a power
                      of two of 4K to 512K (64K)
  --mode MODE         how the data goes: copy, get-data, user-copy (Linux 6.5),
                      zero-copy (6.15), auto-register (6.16), or the best there
                      is (auto)
  --direct WHETHER    past the page cache: on, off, or where it can be (auto)
  --queues N          hardware queues, a thread for each (1)
  --depth N           requests that a queue holds at once (128)
  --max-io BYTES[K|M] the largest request, 4K to 32M (1M)
  --id N              be /dev/ublkbN (the driver's choice)
";

const MOST_FILES: usize = 16;

/// Places of a request's data that one operation takes.
const PLACES: usize = 16;

/// Operations that a request can have under way.
const MOST_OPERATIONS: usize = 64;

/// The label of a step that makes durable; that of any other says how far the ones before it came.
const SYNCING: u64 = u64::MAX;

/// How chunks and files go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    chunk_bytes: usize,
    files: usize,
}

/// What of a request's data lies in one file, in one piece there.
#[derive(Debug)]
struct Piece {
    offset: u64,
    places: [Range<usize>; PLACES],
    count: usize,
}

impl Layout {
    /// Operations that a request of this size takes, wherever it starts.
    fn operations(self, len: usize) -> usize {
        // One more than it has where it starts within a chunk.
        let chunks = len.div_ceil(self.chunk_bytes) + 1;
        let in_one_file = chunks.div_ceil(self.files);
        in_one_file.div_ceil(PLACES) * self.files.min(chunks)
    }

    /// The pieces, 16 chunks at most in each, of the bytes `rest` of a request that starts at `start` of the disk.
    fn pieces(self, start: usize, rest: &Range<usize>, mut found: impl FnMut(usize, &Piece) -> bool) -> bool {
        let (first, end) = (start + rest.start, start + rest.end);
        let chunks = first / self.chunk_bytes..end.div_ceil(self.chunk_bytes);
        (0..self.files.min(chunks.len())).all(|turn| {
            let mut chunk = chunks.start + turn;
            let file = chunk % self.files;
            while chunk < chunks.end {
                let within = first.max(chunk * self.chunk_bytes) - chunk * self.chunk_bytes;
                let offset = chunk / self.files * self.chunk_bytes + within;
                let Ok(offset) = u64::try_from(offset) else { return false };
                let mut piece = Piece { offset, places: [const { 0..0 }; PLACES], count: 0 };
                while chunk < chunks.end && piece.count < PLACES {
                    let place = first.max(chunk * self.chunk_bytes)..end.min((chunk + 1) * self.chunk_bytes);
                    piece.places[piece.count] = place.start - start..place.end - start;
                    piece.count += 1;
                    chunk += self.files;
                }
                if !found(file, &piece) {
                    return false;
                }
            }
            true
        })
    }
}

/// What one queue does with requests.
#[derive(Debug)]
struct Target<'a> {
    files: Vec<RingFile>,
    layout: Layout,
    syncs: Syncs<'a>,
    block_bytes: usize,
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
            _ => request.fail(Errno::EOPNOTSUPP),
        }
    }

    /// Moves what is left, from the end of what was moved without a gap on: what lies behind that is moved once more.
    fn transfer<M: Mode>(&self, request: Request<'_, M>, rest: Range<usize>) {
        let rest = rest.start - rest.start % self.block_bytes..rest.end;
        let Ok(start) = usize::try_from(request.offset_bytes()) else { return };
        let operation = request.operation();
        let mut operations = request.operations();
        operations.label(u64::try_from(rest.start).unwrap_or(0));
        let add = |file: usize, piece: &Piece| self.add(&mut operations, operation, file, piece);
        if self.layout.pieces(start, &rest, add) {
            operations.submit();
        }
    }

    fn add<M: Mode>(&self, to: &mut Operations<'_, M>, operation: Operation, file: usize, piece: &Piece) -> bool {
        let (file, places) = (self.files[file], &piece.places[..piece.count]);
        let added = match operation {
            Operation::READ => to.read_vectored(file, piece.offset, places),
            _ => to.write_vectored(file, piece.offset, places),
        };
        added.is_ok()
    }

    fn go_on<M: Mode>(&self, completed: Completed<'_, M>) {
        let rest = completed.rest();
        let came_further = u64::try_from(rest.start).is_ok_and(|start| start > completed.label());
        if completed.error().is_none() && !rest.is_empty() && came_further {
            self.transfer(completed.into_request(), rest);
        } else if completed.error().is_none() && !rest.is_empty() {
            // A file has become shorter.
            completed.into_request().fail(Errno::EIO);
        } else if completed.error().is_none() && completed.request().flags().contains(RequestFlags::FUA) {
            self.sync(completed.into_request());
        } else {
            completed.finish();
        }
    }

    fn sync<M: Mode>(&self, request: Request<'_, M>) {
        if !self.syncs.begin(request.tag()) {
            return request.fail(Errno::EIO);
        }
        let mut operations = request.operations();
        operations.label(SYNCING);
        if self.files.iter().all(|file| operations.fdatasync(*file).is_ok()) {
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
    paths: Vec<String>,
    chunk_bytes: usize,
    mode: Option<Choice>,
    direct: Direct,
    queues: u16,
    depth: u16,
    max_io_bytes: u32,
    id: Option<u32>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options {
            paths: Vec::new(),
            chunk_bytes: 64 << 10,
            mode: None,
            direct: Direct::Auto,
            queues: 1,
            depth: 128,
            max_io_bytes: 1 << 20,
            id: None,
        };
        while let Some(option) = arguments.next() {
            if !option.starts_with("--") {
                options.paths.push(option);
                continue;
            }
            if !["--chunk", "--mode", "--direct", "--queues", "--depth", "--max-io", "--id"].contains(&option.as_str())
            {
                return Err(format!("unknown option {option}"));
            }
            let value = arguments.next().ok_or_else(|| format!("{option} needs a value"))?;
            let bad = || format!("{option} {value} is nothing that it takes");
            let number = || parse_bytes(&value).ok_or_else(bad);
            match option.as_str() {
                "--chunk" => options.chunk_bytes = number()?.try_into().map_err(|_| bad())?,
                "--mode" => options.mode = Choice::parse(&value).ok_or_else(bad)?,
                "--direct" => options.direct = Direct::parse(&value).ok_or_else(bad)?,
                "--queues" => options.queues = number()?.try_into().map_err(|_| bad())?,
                "--depth" => options.depth = number()?.try_into().map_err(|_| bad())?,
                "--max-io" => options.max_io_bytes = number()?.try_into().map_err(|_| bad())?,
                _ => options.id = Some(number()?.try_into().map_err(|_| bad())?),
            }
        }
        if !options.chunk_bytes.is_power_of_two() || !(4096..=512 << 10).contains(&options.chunk_bytes) {
            return Err("--chunk is a power of two of 4K to 512K".to_owned());
        }
        match options.paths.len() {
            1..=MOST_FILES => Ok(options),
            0 => Err("which FILEs?".to_owned()),
            _ => Err(format!("at most {MOST_FILES} files")),
        }
    }
}

fn serve<M: Mode>(options: &Options, backings: &[Backing], choice: Choice, why: &str) -> Result<(), String> {
    let text = |error: std::num::TryFromIntError| error.to_string();
    let layout = Layout { chunk_bytes: options.chunk_bytes, files: backings.len() };
    let chunk_bytes = u64::try_from(options.chunk_bytes).map_err(text)?;
    let smallest = backings.iter().map(|backing| backing.len_bytes).min().unwrap_or(0);
    let chunks = smallest / chunk_bytes * u64::try_from(backings.len()).map_err(text)?;
    let size = Sectors::from_bytes(chunks.saturating_mul(chunk_bytes)).filter(|size| size.raw() > 0);
    let size = size.ok_or("a file has not one chunk")?;
    usize::try_from(size.bytes()).map_err(text)?;
    let block_bytes = backings.iter().map(|backing| backing.block_bytes).max().unwrap_or(512);

    let largest = usize::try_from(options.max_io_bytes).map_err(text)?;
    let operations = layout.operations(largest).max(backings.len());
    if operations > MOST_OPERATIONS {
        return Err(format!(
            "--max-io {largest} takes {operations} operations of the ring, and a request has {MOST_OPERATIONS}: less, or larger chunks"
        ));
    }
    let mut params = Params::new(size, Cache::VolatileWithFua).block_bytes(block_bytes);
    if let Some(bytes) = backings.iter().filter_map(|backing| backing.limit("physical_block_size")).max() {
        params = params.physical_block_bytes(bytes.max(block_bytes));
    }
    if backings.iter().any(|backing| backing.limit("rotational") == Some(1)) {
        params = params.rotational();
    }
    if choice.is_zero_copy() && backings.iter().any(|backing| backing.is_direct) {
        params = params.dma_alignment(block_bytes);
    }
    let device = NewDevice::new().mode::<M>().queues(options.queues).depth(options.depth);
    let mut device = device.max_io_bytes(options.max_io_bytes).operations(operations.try_into().map_err(text)?);
    if let Some(id) = options.id {
        device = device.id(DeviceId::new(id));
    }
    let reopened = |_| backings.iter().map(Backing::reopen).collect::<Result<Vec<_>, _>>();
    let files = (0..options.queues).map(reopened).collect::<Result<Vec<_>, _>>()?;
    let block_bytes = usize::try_from(block_bytes).map_err(text)?;
    let lost = AtomicBool::new(false);
    let stopped = Server::new(device, params)
        .stop_on_signals()
        .when_in_use(|device| {
            eprintln!("stripe: /dev/ublkb{} is in use: a second signal ends it all the same", device.id())
        })
        .run_events(
            |queue| {
                // The driver gives no more queues than were asked for.
                let files = &files[usize::from(queue.id().raw())];
                let files = files.iter().map(|file| queue.register_file(file)).collect::<Result<_, _>>()?;
                Ok(Target { files, layout, syncs: Syncs::new(&lost, options.depth), block_bytes })
            },
            |target, event| target.answer(event),
            |device| {
                println!("/dev/ublkb{}", device.id());
                println!("stripe: {why}");
            },
        )
        .map_err(|error| error.to_string())?;
    println!("stripe: {stopped}");
    Ok(())
}

fn run(options: &Options) -> Result<(), String> {
    let offered = Control::open().and_then(|mut control| control.features()).map_err(|error| error.to_string())?;
    let (choice, why) = Choice::make(options.mode, offered)?;
    let open = |path: &String| Backing::open(path, options.direct, false);
    let backings = options.paths.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    if let Some(index) = backings.iter().position(|backing| backing.is_read_only) {
        return Err(format!("{}: it cannot be written", options.paths[index]));
    }
    match choice {
        Choice::AutoRegister => serve::<mode::AutoRegister>(options, &backings, choice, &why),
        Choice::ZeroCopy => serve::<mode::ZeroCopy>(options, &backings, choice, &why),
        Choice::UserCopy => serve::<mode::UserCopy>(options, &backings, choice, &why),
        Choice::Copy => serve::<mode::Copy>(options, &backings, choice, &why),
        Choice::GetData => serve::<mode::GetData>(options, &backings, choice, &why),
    }
}

fn main() -> ExitCode {
    program::run("stripe", USAGE, Options::parse, run)
}
