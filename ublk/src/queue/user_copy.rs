// SPDX-License-Identifier: MIT OR Apache-2.0
//! Copying a request's data by calls on the char device (`UBLK_F_USER_COPY`).

use core::ops::Range;

use ublk_sys::{UBLK_QID_OFF, UBLK_TAG_OFF, UBLKSRV_IO_BUF_OFFSET, UBLKSRV_IO_INTEGRITY_FLAG};

use crate::errno::Errno;
use crate::id::{QueueId, Tag};
use crate::mode::Mode;
use crate::queue::Queue;
use crate::syscall::{self, Fd};
use crate::units::u64_from;

/// What a READ is filled with where nobody did.
static ZEROES: [u8; 4096] = [0; 4096];

/// Where the char device has the bytes of a request from `offset` on.
pub(super) fn position(queue: QueueId, tag: Tag, offset: usize) -> u64 {
    UBLKSRV_IO_BUF_OFFSET
        + (u64::from(queue.raw()) << UBLK_QID_OFF)
        + (u64::from(tag.raw()) << UBLK_TAG_OFF)
        + u64_from(offset)
}

/// Where the char device has the metadata beside the bytes of a request, from `offset` on.
fn integrity_position(queue: QueueId, tag: Tag, offset: usize) -> u64 {
    position(queue, tag, offset) | UBLKSRV_IO_INTEGRITY_FLAG
}

impl<M: Mode> Queue<M> {
    /// Copies bytes of a WRITE into `into`, which is as long as `range`.
    pub(super) fn copy_in(&self, tag: Tag, range: Range<usize>, into: &mut [u8]) -> Result<(), Errno> {
        self.read_all(position(self.id, tag, range.start), into)
    }

    /// Copies `from` into a READ, from `offset` on.
    pub(super) fn copy_out(&self, tag: Tag, offset: usize, from: &[u8]) -> Result<(), Errno> {
        self.write_all(position(self.id, tag, offset), from)
    }

    /// Copies metadata of a WRITE into `into`, from `offset` on.
    pub(super) fn copy_integrity_in(&self, tag: Tag, offset: usize, into: &mut [u8]) -> Result<(), Errno> {
        self.read_all(integrity_position(self.id, tag, offset), into)
    }

    /// Copies `from` into the metadata of a READ, from `offset` on.
    pub(super) fn copy_integrity_out(&self, tag: Tag, offset: usize, from: &[u8]) -> Result<(), Errno> {
        self.write_all(integrity_position(self.id, tag, offset), from)
    }

    fn read_all(&self, position: u64, into: &mut [u8]) -> Result<(), Errno> {
        let (mut at, mut into) = (position, into);
        while !into.is_empty() {
            let count = syscall::pread(&self.char_device, into, at)?;
            into = rest_after(count, into.len()).and_then(|count| into.get_mut(count..)).ok_or(Errno::EFAULT)?;
            at += u64_from(count);
        }
        Ok(())
    }

    fn write_all(&self, position: u64, from: &[u8]) -> Result<(), Errno> {
        let (mut at, mut from) = (position, from);
        while !from.is_empty() {
            let count = syscall::pwrite(&self.char_device, &[from], at)?;
            from = rest_after(count, from.len()).and_then(|count| from.get(count..)).ok_or(Errno::EFAULT)?;
            at += u64_from(count);
        }
        Ok(())
    }

    /// Zeroes a range of a READ.
    pub(super) fn zero_out(&self, tag: Tag, range: Range<usize>) -> Result<(), Errno> {
        zero_out(&self.char_device, self.id, tag, range)
    }
}

/// Zeroes a range of a READ of this queue.
pub(super) fn zero_out(char_device: &Fd, queue: QueueId, tag: Tag, range: Range<usize>) -> Result<(), Errno> {
    let mut at = range.start;
    while at < range.end {
        let mut left = range.end - at;
        let pieces: [&[u8]; 32] = core::array::from_fn(|_| {
            let piece = ZEROES.get(..left.min(ZEROES.len())).unwrap_or_default();
            left -= piece.len();
            piece
        });
        let count = syscall::pwrite(char_device, &pieces, position(queue, tag, at))?;
        at += rest_after(count, range.end - at).ok_or(Errno::EFAULT)?;
    }
    Ok(())
}

/// What a copy has moved, of as much as there was. The driver says 0 where it could move nothing, because memory could not be
/// reached, and never EFAULT.
fn rest_after(count: usize, of: usize) -> Option<usize> {
    (1..=of).contains(&count).then_some(count)
}
