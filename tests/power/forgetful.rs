// SPDX-License-Identifier: MIT OR Apache-2.0
//! A disk that is a file, and whose FLUSH does nothing: what `cargo xtask power` has to find out. Called as `loop` is:
//! `forgetful --direct on|off FILE`, past the page cache or through it.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a program")]

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

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
    let mut arguments = std::env::args().skip(2);
    let flags = if arguments.next().as_deref() == Some("on") { libc::O_DIRECT } else { 0 };
    let path = arguments.next().unwrap_or_default();
    let mut file = File::options().read(true).write(true).custom_flags(flags).open(path)?;
    let size = Sectors::new(file.seek(SeekFrom::End(0))? / 512);
    let disk = Disk::with_volatile_cache(size, Forgetful(file));
    let server = Server::new(NewDevice::new(), *disk.params()).stop_on_signals();
    server.run(|request| disk.answer(request), |device| println!("/dev/ublkb{}", device.id()))?;
    Ok(())
}
