// SPDX-License-Identifier: MIT OR Apache-2.0
//! The metadata beside the data of a request (`UBLK_F_INTEGRITY`).
//!
//! The driver gives it to the modes that can copy by call, and to no other:
//!
//! ```compile_fail,E0599
//! use ublk::{Errno, Request, mode};
//! fn first(request: &Request<'_, mode::Copy>, into: &mut [u8]) -> Result<(), Errno> {
//!     request.read_integrity_at(0, into)
//! }
//! ```
//!
//! ```no_run
//! use ublk::{Errno, Request, mode};
//! fn first(request: &Request<'_, mode::UserCopy>, into: &mut [u8]) -> Result<(), Errno> {
//!     request.read_integrity_at(0, into)
//! }
//! ```

use core::ops::Range;

use crate::errno::Errno;
use crate::mode::UserCopied;
use crate::queue::request::{Held, Operation, Request};

impl Held {
    /// `len` bytes of metadata from `offset` on, where they come with a write, or are wanted by a READ.
    fn integrity_range(&self, is_write: bool, offset: usize, len: usize) -> Result<Range<usize>, Errno> {
        let is_it = if is_write { self.work.is_write() } else { self.work.operation == Operation::READ };
        let end = offset.checked_add(len).filter(|end| is_it && *end <= self.work.integrity_len);
        end.map(|end| offset..end).ok_or(Errno::EINVAL)
    }
}

impl<M: UserCopied> Request<'_, M> {
    /// Bytes of metadata that come with the data of a WRITE or a ZONE_APPEND, or are wanted with that of a READ: as many for each
    /// interval as [`Integrity`](crate::Integrity) says. 0 where the request has not
    /// [`INTEGRITY`](crate::RequestFlags::INTEGRITY).
    #[must_use]
    pub const fn integrity_len(&self) -> usize {
        self.held.work.integrity_len
    }

    /// Copies metadata of a WRITE or a ZONE_APPEND, from `offset` in it on, as many bytes as `into` has.
    ///
    /// # Errors
    ///
    /// `EINVAL`: the request is no such, or has not so many bytes of metadata. `EFAULT`: the kernel could not copy all of it.
    ///
    /// # Kernel
    ///
    /// Since Linux 7.0. `pread(2)` on the char device with `UBLKSRV_IO_INTEGRITY_FLAG`, `ublk_copy_user_integrity()`.
    pub fn read_integrity_at(&self, offset: usize, into: &mut [u8]) -> Result<(), Errno> {
        let range = self.held.integrity_range(true, offset, into.len())?;
        self.queue.copy_integrity_in(self.held.tag, range.start, into)
    }

    /// Copies metadata into a READ, from `offset` in it on. It is to come front to back, without a hole, and all of it: the request
    /// fails with `EIO` otherwise.
    ///
    /// # Errors
    ///
    /// `EINVAL`: the request is no READ, or has not so many bytes of metadata. `EFAULT`: the kernel could not copy all of it.
    ///
    /// # Kernel
    ///
    /// Since Linux 7.0. `pwrite(2)` on the char device with `UBLKSRV_IO_INTEGRITY_FLAG`, `ublk_copy_user_integrity()`.
    pub fn write_integrity_at(&mut self, offset: usize, from: &[u8]) -> Result<(), Errno> {
        let range = self.held.integrity_range(false, offset, from.len())?;
        self.queue.copy_integrity_out(self.held.tag, range.start, from)?;
        self.held.moved.add_integrity(range);
        Ok(())
    }
}
