// SPDX-License-Identifier: MIT OR Apache-2.0
//! A file, or another block device, as the target of a disk.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;

use crate::disk::{Flush, ReadAt, WriteAt};
use crate::errno::Errno;
use crate::queue::ReadCursor;
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
