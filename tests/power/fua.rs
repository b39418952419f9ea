// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writes blocks to a disk with FUA, and with no FLUSH behind it: `fua DISK`.
//!
//! write(2) with O_DSYNC sends both, and so a disk that ignores FUA would never be found out. What io_uring does without waiting is
//! acknowledged by FUA alone. Each block comes on standard input, behind the 8 bytes of its offset, and a byte on standard output
//! says that it is durable.
#![expect(unsafe_code, reason = "an operation that names memory")]
#![allow(clippy::print_stdout, reason = "a program")]

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;

use ublk::Fd;
use ublk::ring::{Op, Ring};

const BLOCK: usize = 4096;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("fua DISK")?;
    let disk = File::options().write(true).custom_flags(libc::O_DIRECT | libc::O_DSYNC).open(path)?;
    let disk = Fd::from(OwnedFd::from(disk));
    let mut ring = Ring::local(8, 8)?.enable()?;
    // For ever: the kernel may read it for as long as it likes.
    let memory = vec![0; 2 * BLOCK].leak();
    let start = memory.as_ptr().align_offset(BLOCK);
    let block = &mut memory[start..start + BLOCK];
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    loop {
        let mut offset = [0; 8];
        match input.read_exact(&mut offset) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        input.read_exact(block)?;
        let address = u64::try_from(block.as_mut_ptr().expose_provenance())?;
        // SAFETY: the memory is never freed, and not written to before the operation has completed.
        let write = unsafe { Op::write(&disk, u64::from_le_bytes(offset), address, BLOCK.try_into()?) };
        ring.push(write, 0)?;
        let completion = loop {
            ring.submit_and_wait(None)?;
            if let Some(completion) = ring.next_completion() {
                break completion;
            }
        };
        if usize::try_from(completion.result) != Ok(BLOCK) {
            return Err(format!("the write's result is {}", completion.result).into());
        }
        output.write_all(b"d")?;
        output.flush()?;
    }
}
