// SPDX-License-Identifier: MIT OR Apache-2.0
//! A disk in memory, which takes only as much of it as was written.
//!
//! ```text
//! ramdisk [--size 256M] [--queues N] [--depth N] [--block-size N] [--read-only] [--id N]
//! ```
//!
//! It prints the path of the block device once that can be used, and serves until SIGINT or SIGTERM. Memory is taken in
//! chunks of 64 KiB when they are written for the first time. A discard of a whole chunk frees it, as does a write-zeroes that may,
//! and once enough is free the system gets it back.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

mod program;

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};

use program::parse_bytes;
use ublk::{
    DeviceId, Discard, Disk, Errno, NewDevice, ReadAt, ReadCursor, RequestFlags, Sectors, Server, WriteAt, WriteZeroes,
};

const USAGE: &str = "\
usage: ramdisk [--size BYTES[K|M|G|T]] [--queues N] [--depth N] [--block-size BYTES] [--read-only] [--id N]

A disk in memory. Prints the path of the block device once it can be used, and
serves until SIGINT or SIGTERM.

  --size BYTES        size of the disk (256M)
  --queues N          hardware queues, a thread for each (1)
  --depth N           requests that a queue holds at once (128)
  --block-size BYTES  logical block: 512, 1024, 2048 or 4096 (512)
  --read-only         refuse writes
  --id N              be /dev/ublkbN (the driver's choice)
";

/// Bytes of a chunk: what is taken and freed at once.
const CHUNK: usize = 64 << 10;

/// Freed bytes that are worth asking the allocator to return them to the system.
const WORTH_RETURNING: usize = 16 << 20;

/// The most that is discarded or zeroed at once: 1 GiB.
const MOST: Sectors = Sectors::new(1 << 21);

/// The memory: its chunks, each absent while it reads as zeroes. A lock for each lets queues work side by side.
struct Memory {
    chunks: Vec<RwLock<Option<Box<[u8]>>>>,
    /// Bytes freed since the allocator was last asked to return some.
    freed: AtomicUsize,
}

/// A part of one chunk.
struct Piece {
    chunk: usize,
    start: usize,
    len: usize,
}

impl Memory {
    fn new(bytes: usize) -> Memory {
        let chunks = (0..bytes.div_ceil(CHUNK)).map(|_| RwLock::new(None)).collect();
        Memory { chunks, freed: AtomicUsize::new(0) }
    }

    /// The pieces of the `len` bytes at `offset`, chunk by chunk. A `Disk` asks for nothing behind its end.
    fn pieces(offset: usize, len: usize) -> impl Iterator<Item = Piece> {
        let end = offset + len;
        let mut at = offset;
        std::iter::from_fn(move || {
            let start = at % CHUNK;
            let piece = Piece { chunk: at / CHUNK, start, len: (CHUNK - start).min(end - at) };
            at += piece.len;
            (piece.len > 0).then_some(piece)
        })
    }

    /// Makes the range read as zeroes, and frees the memory of every whole chunk if `free` says so.
    fn clear(&self, offset: u64, len: u64, free: bool) -> Result<(), Errno> {
        let mut freed = 0;
        for piece in Memory::pieces(in_memory(offset)?, in_memory(len)?) {
            let mut chunk = self.chunks[piece.chunk].write().unwrap_or_else(PoisonError::into_inner);
            if free && piece.len == CHUNK {
                freed += chunk.take().map_or(0, |bytes| bytes.len());
            } else if let Some(bytes) = chunk.as_mut() {
                bytes[piece.start..piece.start + piece.len].fill(0);
            }
        }
        if freed > 0 && self.freed.fetch_add(freed, Ordering::Relaxed) + freed >= WORTH_RETURNING {
            self.freed.store(0, Ordering::Relaxed);
            return_memory();
        }
        Ok(())
    }
}

/// An offset or a length that fits into memory, which all of a disk in memory does.
fn in_memory(bytes: u64) -> Result<usize, Errno> {
    usize::try_from(bytes).map_err(|_| Errno::EIO)
}

impl ReadAt for Memory {
    fn read_into(&self, offset: u64, into: &mut ReadCursor<'_>) -> Result<(), Errno> {
        for piece in Memory::pieces(in_memory(offset)?, into.remaining()) {
            let chunk = self.chunks[piece.chunk].read().unwrap_or_else(PoisonError::into_inner);
            match chunk.as_ref() {
                Some(bytes) => into.write(&bytes[piece.start..piece.start + piece.len]),
                None => into.write_zeroes(piece.len),
            };
        }
        Ok(())
    }
}

impl WriteAt for Memory {
    fn write_from(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let mut rest = data;
        for piece in Memory::pieces(in_memory(offset)?, data.len()) {
            let (part, behind) = rest.split_at(piece.len);
            rest = behind;
            let mut chunk = self.chunks[piece.chunk].write().unwrap_or_else(PoisonError::into_inner);
            let bytes = chunk.get_or_insert_with(|| vec![0; CHUNK].into_boxed_slice());
            bytes[piece.start..piece.start + piece.len].copy_from_slice(part);
        }
        Ok(())
    }
}

impl Discard for Memory {
    fn discard(&self, offset: u64, len: u64) -> Result<(), Errno> {
        self.clear(offset, len, true)
    }
}

impl WriteZeroes for Memory {
    fn write_zeroes(&self, offset: u64, len: u64, flags: RequestFlags) -> Result<(), Errno> {
        self.clear(offset, len, !flags.contains(RequestFlags::NOUNMAP))
    }
}

/// Returns free memory to the system. glibc keeps what is free behind something that is in use, unless it is asked.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "a call of libc's that takes and gives no memory of ours")]
fn return_memory() {
    // SAFETY: it has no precondition, and touches only memory that is free.
    unsafe { libc::malloc_trim(0) };
}

/// Returns free memory to the system, which other allocators do by themselves.
#[cfg(not(target_env = "gnu"))]
fn return_memory() {}

struct Options {
    size: u64,
    queues: u16,
    depth: u16,
    block_bytes: u32,
    read_only: bool,
    id: Option<u32>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options =
            Options { size: 256 << 20, queues: 1, depth: 128, block_bytes: 512, read_only: false, id: None };
        while let Some(option) = arguments.next() {
            if option == "--read-only" {
                options.read_only = true;
                continue;
            }
            if !["--size", "--queues", "--depth", "--block-size", "--id"].contains(&option.as_str()) {
                return Err(format!("unknown option {option}"));
            }
            let value = arguments.next().ok_or_else(|| format!("{option} needs a value"))?;
            let bad = || format!("{option} {value} is not a number that it takes");
            let number = parse_bytes(&value).ok_or_else(bad)?;
            match option.as_str() {
                "--size" => options.size = number,
                "--queues" => options.queues = number.try_into().map_err(|_| bad())?,
                "--depth" => options.depth = number.try_into().map_err(|_| bad())?,
                "--block-size" => options.block_bytes = number.try_into().map_err(|_| bad())?,
                _ => options.id = Some(number.try_into().map_err(|_| bad())?),
            }
        }
        Ok(options)
    }
}

fn serve(options: &Options) -> Result<(), String> {
    let size = Sectors::from_bytes(options.size).ok_or("--size is a multiple of 512")?;
    let bytes = usize::try_from(options.size).map_err(|_| "--size does not fit into memory")?;
    let memory = Memory::new(bytes);
    // Everything is durable as far as memory ever is: there is no cache to flush.
    let disk = if options.read_only {
        Disk::read_only(size, memory)
    } else {
        Disk::without_cache(size, memory).discard(options.block_bytes, MOST).write_zeroes(MOST)
    };
    let disk = disk.with_params(|params| params.block_bytes(options.block_bytes));
    let mut device = NewDevice::new().queues(options.queues).depth(options.depth);
    if let Some(id) = options.id {
        device = device.id(DeviceId::new(id));
    }
    let stopped = Server::new(device, *disk.params())
        .stop_on_signals()
        .when_in_use(|device| {
            eprintln!("ramdisk: /dev/ublkb{} is in use: a second signal ends it all the same", device.id())
        })
        .restrict(&[])
        .run(|request| disk.answer(request), |device| println!("/dev/ublkb{}", device.id()))
        .map_err(|error| error.to_string())?;
    println!("ramdisk: {stopped}");
    Ok(())
}

fn main() -> ExitCode {
    program::run("ramdisk", USAGE, Options::parse, serve)
}
