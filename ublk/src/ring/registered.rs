// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a ring has registered: files, buffers, groups of provided buffers, and what it may do at all.
//!
//! A disabled ring takes registrations from any thread; once it is enabled, only from its own.

use crate::error::{Error, SystemCall};
use crate::ring::buffer_ring::{BufferRing, BufferUse};
use crate::ring::restrictions::Restrictions;
use crate::ring::{DisabledRing, Kind, Op, Ring};
use crate::syscall::{self, Fd, Registered};

fn register_sparse(ring: &Fd, table: Registered, count: u32) -> Result<(), Error> {
    let call = match table {
        Registered::Files => SystemCall::RegisterFiles,
        Registered::Buffers => SystemCall::RegisterBuffers,
    };
    syscall::register_sparse(ring, table, count).map_err(|errno| call.failed(errno))
}

/// A table of files for a ring, in whichever state it is.
pub(crate) fn register_files(ring: &Fd, count: u32) -> Result<(), Error> {
    register_sparse(ring, Registered::Files, count)
}

/// Puts a file into a slot of that table.
pub(crate) fn set_file(ring: &Fd, index: u32, file: &Fd) -> Result<(), Error> {
    update_file(ring, index, Some(file))
}

fn update_file(ring: &Fd, index: u32, file: Option<&Fd>) -> Result<(), Error> {
    match syscall::update_file(ring, index, file) {
        Ok(1) => Ok(()),
        Ok(other) => Err(Error::Implausible { what: "the count of changed files, of one", value: other.into() }),
        Err(errno) => Err(SystemCall::UpdateFiles.failed(errno)),
    }
}

fn update_buffer(ring: &Fd, index: u32, address: u64, len: u64) -> Result<(), Error> {
    match syscall::update_buffer(ring, index, address, len) {
        Ok(1) => Ok(()),
        Ok(other) => Err(Error::Implausible { what: "the count of changed buffers, of one", value: other.into() }),
        Err(errno) => Err(SystemCall::RegisterBuffers.failed(errno)),
    }
}

impl DisabledRing {
    /// Gives the ring a table of `count` slots for files, all empty.
    ///
    /// # Errors
    ///
    /// [`Error::System`] with [`SystemCall::RegisterFiles`].
    ///
    /// # Kernel
    ///
    /// `IORING_REGISTER_FILES2` with `IORING_RSRC_REGISTER_SPARSE`, Linux 5.19. In liburing:
    /// `io_uring_register_files_sparse()`.
    pub fn register_files(&self, count: u32) -> Result<(), Error> {
        register_files(&self.fd, count)
    }

    /// Puts a file into a slot of the table, in place of the one that was there:
    /// [`OpFile::Registered`](super::OpFile::Registered) names it from then on.
    ///
    /// The ring keeps the file open, whatever becomes of `file`, until the slot gets another or is emptied, or the ring has ended;
    /// that is some time after it was closed. Operations that are under way keep the file that they began with.
    ///
    /// # Errors
    ///
    /// [`Error::System`] with [`SystemCall::UpdateFiles`].
    ///
    /// # Kernel
    ///
    /// `IORING_REGISTER_FILES_UPDATE`, Linux 5.5. In liburing: `io_uring_register_files_update()`.
    pub fn set_file(&self, index: u32, file: &Fd) -> Result<(), Error> {
        set_file(&self.fd, index, file)
    }

    /// Empties a slot of the table of files.
    ///
    /// # Errors
    ///
    /// As for [`set_file`](DisabledRing::set_file).
    pub fn clear_file(&self, index: u32) -> Result<(), Error> {
        update_file(&self.fd, index, None)
    }

    /// Gives the ring a table of `count` slots for buffers, all empty: a driver can put there what it has, such as a request's
    /// data.
    ///
    /// # Errors
    ///
    /// [`Error::System`] with [`SystemCall::RegisterBuffers`].
    ///
    /// # Kernel
    ///
    /// `IORING_REGISTER_BUFFERS2` with `IORING_RSRC_REGISTER_SPARSE`, Linux 5.19. In liburing:
    /// `io_uring_register_buffers_sparse()`.
    pub fn register_buffers(&self, count: u32) -> Result<(), Error> {
        register_sparse(&self.fd, Registered::Buffers, count)
    }

    /// Puts memory of this process into a slot of the table of buffers, whose pages the kernel pins until the slot is emptied or the
    /// ring has ended: `len` bytes at `address`.
    ///
    /// In liburing: `io_uring_register_buffers_update_tag()`.
    pub(crate) fn set_buffer(&self, index: u32, address: u64, len: u64) -> Result<(), Error> {
        update_buffer(&self.fd, index, address, len)
    }

    /// Gives the ring `count` buffers, a power of two up to 32,768, each of `buffer_bytes`, as the group `group`, which
    /// operations take for themselves.
    ///
    /// # Errors
    ///
    /// - [`Error::Invalid`]: `count` is no such number, or `buffer_bytes` is 0.
    /// - [`Error::System`]: see [`SystemCall::MmapAnonymous`] and [`SystemCall::RegisterBufferRing`].
    ///
    /// # Kernel
    ///
    /// `IORING_REGISTER_PBUF_RING`, Linux 5.19, and for [`BufferUse::Piecewise`] 6.12. In liburing:
    /// `io_uring_setup_buf_ring()`.
    pub fn register_buffer_ring(
        &self,
        group: u16,
        count: u16,
        buffer_bytes: u32,
        used: BufferUse,
    ) -> Result<BufferRing, Error> {
        BufferRing::register(&self.fd, group, count, buffer_bytes, used)
    }

    /// From when the ring is enabled, it does nothing but what is allowed here; an operation that is not fails with `EACCES`, and so
    /// does a registration.
    ///
    /// # Errors
    ///
    /// - [`Error::Invalid`]: there are more rules than [`Restrictions::MAX`].
    /// - [`Error::System`] with [`SystemCall::Restrict`].
    ///
    /// # Kernel
    ///
    /// `IORING_REGISTER_RESTRICTIONS`, Linux 5.10. In liburing: `io_uring_register_restrictions()`.
    pub fn restrict(&self, restrictions: &Restrictions) -> Result<(), Error> {
        let rules = restrictions.rules()?;
        syscall::restrict_ring(&self.fd, rules).map_err(|errno| SystemCall::Restrict.failed(errno))
    }
}

/// As for a [`DisabledRing`], of a ring that serves.
impl<K: Kind<Entry = Op>> Ring<K> {
    /// As [`DisabledRing::register_files`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn register_files(&self, count: u32) -> Result<(), Error> {
        register_files(&self.fd, count)
    }

    /// As [`DisabledRing::set_file`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn set_file(&self, index: u32, file: &Fd) -> Result<(), Error> {
        set_file(&self.fd, index, file)
    }

    /// As [`DisabledRing::clear_file`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn clear_file(&self, index: u32) -> Result<(), Error> {
        update_file(&self.fd, index, None)
    }

    /// As [`DisabledRing::register_buffers`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn register_buffers(&self, count: u32) -> Result<(), Error> {
        register_sparse(&self.fd, Registered::Buffers, count)
    }

    /// As [`DisabledRing::set_buffer`].
    pub(crate) fn set_buffer(&self, index: u32, address: u64, len: u64) -> Result<(), Error> {
        update_buffer(&self.fd, index, address, len)
    }

    /// Empties a slot of the table of buffers.
    pub(crate) fn clear_buffer(&self, index: u32) -> Result<(), Error> {
        self.set_buffer(index, 0, 0)
    }

    /// As [`DisabledRing::register_buffer_ring`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn register_buffer_ring(
        &self,
        group: u16,
        count: u16,
        buffer_bytes: u32,
        used: BufferUse,
    ) -> Result<BufferRing, Error> {
        BufferRing::register(&self.fd, group, count, buffer_bytes, used)
    }

    /// Has the kernel begin anew with a group of provided buffers: none is used, and all are provided. For a group of which it is not
    /// known how far they are used.
    ///
    /// Operations that select from the group, of which none should be under way, find no buffer meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error::System`] with [`SystemCall::RegisterBufferRing`]. The ring then may have no such group.
    ///
    /// # Kernel
    ///
    /// `IORING_UNREGISTER_PBUF_RING` and `IORING_REGISTER_PBUF_RING`, Linux 5.19.
    pub fn reset_buffer_ring(&self, buffers: &mut BufferRing) -> Result<(), Error> {
        buffers.reset(&self.fd)
    }
}
