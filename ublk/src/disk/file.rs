// SPDX-License-Identifier: MIT OR Apache-2.0
//! A file, or another block device, as the target of a disk.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use crate::disk::{Discard, Flush, ReadAt, WriteAt, WriteZeroes};
use crate::errno::Errno;
use crate::queue::{ReadCursor, RequestFlags};
use crate::syscall;
use crate::units::u64_from;

/// Where the file is shorter than the disk it reads as zeroes.
impl ReadAt for File {
    fn read_into(&self, offset: u64, into: &mut ReadCursor<'_>) -> Result<(), Errno> {
        let mut rest = into.zeroed();
        let mut at = offset;
        while !rest.is_empty() {
            match self.read_at(rest, at) {
                Ok(0) => break,
                Ok(count) => {
                    rest = rest.get_mut(count..).unwrap_or_default();
                    at = at.saturating_add(u64_from(count));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// A file that is shorter than the disk grows.
impl WriteAt for File {
    fn write_from(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        Ok(self.write_all_at(data, offset)?)
    }
}

/// `fdatasync(2)`. Without it completed writes are in the page cache alone: a disk of a file has a volatile cache, unless the
/// file was opened with `O_DSYNC`.
impl Flush for File {
    fn flush(&self) -> Result<(), Errno> {
        Ok(self.sync_data()?)
    }
}

/// A hole (`fallocate(2)` with `FALLOC_FL_PUNCH_HOLE`), where the filesystem can; `EOPNOTSUPP` where it cannot.
impl Discard for File {
    fn discard(&self, offset: u64, len: u64) -> Result<(), Errno> {
        syscall::fallocate(self.as_raw_fd(), syscall::PUNCH_HOLE, offset, len)
    }
}

/// A hole, or, where the space has to stay, `FALLOC_FL_ZERO_RANGE`. The block layer writes zeroes itself where the filesystem can
/// do neither.
impl WriteZeroes for File {
    fn write_zeroes(&self, offset: u64, len: u64, flags: RequestFlags) -> Result<(), Errno> {
        let mode = if flags.contains(RequestFlags::NOUNMAP) { syscall::ZERO_RANGE } else { syscall::PUNCH_HOLE };
        syscall::fallocate(self.as_raw_fd(), mode, offset, len)
    }
}
