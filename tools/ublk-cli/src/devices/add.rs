// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ublkctl add`: a device that is served here, until a signal comes.

use std::fs::File;
use std::io::{self, Write};

use clap::ArgMatches;
use rustix::fs::{MemfdFlags, memfd_create};
use serde_json::json;
use ublk::{
    DeviceId, DeviceInfo, Discard, Disk, Errno, NewDevice, ReadAt, ReadCursor, RequestFlags, Sectors, Server, WriteAt,
    WriteZeroes,
};

use crate::devices::Failure;
use crate::devices::list::{block_device, char_device};

/// The most that is discarded or zeroed at once: 1 GiB.
const MOST: Sectors = Sectors::new(1 << 21);

/// What stands behind the disk. One type, so that there is one server in the program.
enum Target {
    /// It keeps nothing: reads give zeroes, and what is written is forgotten.
    Null,
    /// A file in memory, which takes as much as was written and not discarded.
    Memory(File),
}

impl Target {
    fn memory(bytes: u64) -> io::Result<Target> {
        let file = File::from(memfd_create("ublkctl", MemfdFlags::CLOEXEC)?);
        file.set_len(bytes)?;
        Ok(Target::Memory(file))
    }

    /// The file, if there is one to do something with.
    fn file(&self) -> Option<&File> {
        match self {
            Target::Null => None,
            Target::Memory(file) => Some(file),
        }
    }
}

impl ReadAt for Target {
    fn read_into(&self, offset: u64, into: &mut ReadCursor<'_>) -> Result<(), Errno> {
        // What is not filled of a READ is zeroes.
        self.file().map_or(Ok(()), |file| file.read_into(offset, into))
    }
}

impl WriteAt for Target {
    fn write_from(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.file().map_or(Ok(()), |file| file.write_from(offset, data))
    }
}

impl Discard for Target {
    fn discard(&self, offset: u64, len: u64) -> Result<(), Errno> {
        self.file().map_or(Ok(()), |file| file.discard(offset, len))
    }
}

impl WriteZeroes for Target {
    fn write_zeroes(&self, offset: u64, len: u64, flags: RequestFlags) -> Result<(), Errno> {
        self.file().map_or(Ok(()), |file| file.write_zeroes(offset, len, flags))
    }
}

/// Makes the device that was asked for and serves it.
pub(super) fn run(matches: &ArgMatches, as_json: bool) -> Result<(), Failure> {
    // Each has a default.
    let bytes = matches.get_one("size").copied().unwrap_or_default();
    let block_bytes = matches.get_one("block-size").copied().unwrap_or_default();
    let mut device = NewDevice::new()
        .queues(matches.get_one("queues").copied().unwrap_or_default())
        .depth(matches.get_one("depth").copied().unwrap_or_default());
    if let Some(id) = matches.get_one("id") {
        device = device.id(DeviceId::new(*id));
    }
    let target = if matches.get_one::<String>("TARGET").is_some_and(|target| target == "null") {
        Target::Null
    } else {
        Target::memory(bytes).map_err(|error| Failure::Device(format!("there is no memory for a disk: {error}")))?
    };
    let size = Sectors::new(bytes / ublk::SECTOR_BYTES);
    let disk = if matches.get_flag("read-only") {
        Disk::read_only(size, target)
    } else {
        // Nothing outlives the process, so there is nothing to flush.
        Disk::without_cache(size, target).discard(block_bytes, MOST).write_zeroes(MOST)
    };
    serve(device, &disk.with_params(|params| params.block_bytes(block_bytes)), as_json)
}

fn serve(device: NewDevice, disk: &Disk<Target>, as_json: bool) -> Result<(), Failure> {
    let mut live = None;
    let started = |info: &DeviceInfo| {
        live = Some(info.id());
        let (id, size_bytes) = (info.id(), disk.params().size().bytes());
        let line = if as_json {
            json!({
                "id": id.raw(),
                "block_device": block_device(id),
                "char_device": char_device(id),
                "pid": std::process::id(),
                "queues": info.queues(),
                "depth": info.depth(),
                "size_bytes": size_bytes,
            })
            .to_string()
        } else {
            block_device(id)
        };
        // Who does not listen is served all the same.
        let _ = writeln!(io::stdout(), "{line}");
    };
    let server = Server::new(device, *disk.params()).stop_on_signals().when_in_use(|device| {
        // Whoever closed standard error does not want to hear it.
        let _ = writeln!(
            io::stderr(),
            "ublkctl add: /dev/ublkb{} is in use: a second signal ends it all the same",
            device.id()
        );
    });
    let stopped = server.run(|request| disk.answer(request), started)?;
    if as_json {
        let line = json!({"id": live.map(DeviceId::raw), "stopped": stopped.to_string()});
        let _ = writeln!(io::stdout(), "{line}");
    } else {
        let _ = writeln!(io::stderr(), "ublkctl add: {stopped}");
    }
    Ok(())
}
