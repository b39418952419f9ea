// SPDX-License-Identifier: MIT OR Apache-2.0
//! A disk that is a file, and whose FLUSH does nothing: what `cargo xtask power` has to find out. Called as `loop` is:
//! `forgetful --direct off FILE`.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a program")]

use std::fs::File;

use ublk::{Disk, Errno, Flush, NewDevice, ReadAt, ReadCursor, Sectors, Server, WriteAt};

struct Forgetful(File);

impl ReadAt for Forgetful {
    fn read_into(&self, offset: u64, into: &mut ReadCursor<'_>) -> Result<(), Errno> {
        self.0.read_into(offset, into)
    }
}

impl WriteAt for Forgetful {
    fn write_from(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.0.write_from(offset, data)
    }
}

impl Flush for Forgetful {
    fn flush(&self) -> Result<(), Errno> {
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().next_back().unwrap_or_default();
    let file = File::options().read(true).write(true).open(path)?;
    let size = Sectors::new(file.metadata()?.len() / 512);
    let disk = Disk::with_volatile_cache(size, Forgetful(file));
    let server = Server::new(NewDevice::new(), *disk.params()).stop_on_signals();
    server.run(|request| disk.answer(request), |device| println!("/dev/ublkb{}", device.id()))?;
    Ok(())
}
