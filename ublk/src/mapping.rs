// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that is shared with the kernel, owned, and looked at through checked views.
#![expect(unsafe_code, reason = "memory that the kernel writes; each view is checked against the mapping's length")]

use core::fmt;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use ublk_sys::{io_uring_sqe, ublk_params, ublk_shmem_buf_reg, ublksrv_ctrl_dev_info, ublksrv_io_desc};

use crate::error::{Error, SystemCall};
use crate::hosting::BufferLock;
use crate::syscall::{self, Access, Fd};

/// An owned mapping: page-aligned, not inherited by a forked child, unmapped when dropped.
///
/// Invariant M1: the `len` bytes at `start` are one mapping that this value owns, readable as long as it lives, and
/// writable unless it was made with [`Access::Read`].
///
/// Invariant M2: this type makes no reference into the memory. Its own reads and writes are volatile, through raw
/// pointers, so that the kernel may write at the same time.
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
    access: Access,
}

// SAFETY: the memory belongs to this value alone (M1) and to no thread. It is not Sync: two threads could write through
// `write` at once.
unsafe impl Send for Mapping {}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mapping({:p}, {} bytes)", self.start, self.len)
    }
}

/// A type that any bytes are a valid value of, and that has no padding whose bytes would be undefined.
///
/// # Safety
///
/// Both must be true.
pub(crate) unsafe trait Plain: Copy {}

// SAFETY: an integer.
unsafe impl Plain for u16 {}
// SAFETY: an integer.
unsafe impl Plain for u32 {}
// SAFETY: an integer.
unsafe impl Plain for u64 {}
// SAFETY: integers, one behind the other.
unsafe impl<const N: usize> Plain for [u64; N] {}
// SAFETY: integers only, and assert_layout! in ublk-sys shows that they fill the struct.
unsafe impl Plain for io_uring_sqe {}
// SAFETY: integers only, and assert_layout! in ublk-sys shows that they fill the struct.
unsafe impl Plain for ublksrv_ctrl_dev_info {}
// SAFETY: integers only, and assert_layout! in ublk-sys shows that they fill the struct.
unsafe impl Plain for ublksrv_io_desc {}
// SAFETY: integers and structs of integers, and assert_layout! in ublk-sys shows that they fill the struct.
unsafe impl Plain for ublk_params {}
// SAFETY: integers only, and assert_layout! in ublk-sys shows that they fill the struct.
unsafe impl Plain for ublk_shmem_buf_reg {}

impl Mapping {
    /// `len` bytes of zeroed memory, given to the process page by page as they are touched.
    pub(crate) fn anonymous(len: usize) -> Result<Mapping, Error> {
        let start = syscall::mmap_anonymous(len).map_err(|errno| SystemCall::MmapAnonymous.failed(errno))?;
        Mapping { start, len, access: Access::ReadWrite }.kept_from_children()
    }

    /// `len` bytes of `file` from `offset`; `call` is the name that an error gets.
    pub(crate) fn of_file(
        file: &Fd,
        offset: u64,
        len: usize,
        access: Access,
        call: SystemCall,
    ) -> Result<Mapping, Error> {
        let start = syscall::mmap_file(file, offset, len, access).map_err(|errno| call.failed(errno))?;
        Mapping { start, len, access }.kept_from_children()
    }

    /// A child that inherited a mapping would keep its ring or its char device alive.
    fn kept_from_children(self) -> Result<Mapping, Error> {
        // SAFETY: M1.
        unsafe { syscall::dont_fork(self.start, self.len) }.map_err(|errno| SystemCall::Madvise.failed(errno))?;
        Ok(self)
    }

    /// Has the kernel leave the mapping in memory for as long as it lives.
    pub(crate) fn lock(&self, when: BufferLock) -> Result<(), Error> {
        // SAFETY: M1.
        let locked = unsafe { syscall::lock_memory(self.start, self.len, when == BufferLock::Lazy) };
        locked.map_err(|errno| SystemCall::LockMemory.failed(errno))
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.access == Access::ReadWrite
    }

    /// The first byte. What is done through it is the caller's to prove.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// The address of the byte at `offset`, for the kernel; `None` unless `len` bytes follow it in this mapping.
    pub(crate) fn address(&self, offset: usize, len: usize) -> Option<u64> {
        self.range_start(offset, len)?;
        // What the kernel writes there is read through pointers made from `start`, so its provenance is exposed.
        Some(crate::units::u64_from(self.start.as_ptr().expose_provenance() + offset))
    }

    /// This mapping, if it may be written to.
    fn writable(&self) -> Option<&Mapping> {
        self.is_writable().then_some(self)
    }

    /// The place of `len` bytes at `offset`; `None` where they do not lie within the mapping.
    fn range_start(&self, offset: usize, len: usize) -> Option<NonNull<u8>> {
        if offset.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: `offset` is at most `self.len`, so the result lies within or just behind the mapping (M1).
        Some(unsafe { self.start.add(offset) })
    }

    /// The place of a `T` at `offset`; `None` where it does not lie within the mapping or is not aligned.
    fn place<T>(&self, offset: usize) -> Option<NonNull<T>> {
        let place = self.range_start(offset, size_of::<T>())?.cast::<T>();
        place.is_aligned().then_some(place)
    }

    /// Copies a `T` out of the mapping.
    pub(crate) fn read<T: Plain>(&self, offset: usize) -> Option<T> {
        let place = self.place::<T>(offset)?;
        // SAFETY: `place` is a whole aligned T within readable memory (M1), any bytes are a T (Plain), and no reference
        // to it exists (M2).
        Some(unsafe { place.read_volatile() })
    }

    /// Copies `value` into the mapping.
    pub(crate) fn write<T: Plain>(&self, offset: usize, value: T) -> Option<()> {
        let place = self.writable()?.place::<T>(offset)?;
        // SAFETY: `place` is a whole aligned T within writable memory (M1), and no reference to it exists (M2).
        unsafe { place.write_volatile(value) };
        Some(())
    }

    /// Copies bytes out of the mapping, as many as `into` has.
    pub(crate) fn read_bytes(&self, offset: usize, into: &mut [u8]) -> Option<()> {
        let place = self.range_start(offset, into.len())?;
        for (index, byte) in into.iter_mut().enumerate() {
            // SAFETY: `place` is followed by `into.len()` bytes of the mapping, and `index` is below that.
            let source = unsafe { place.add(index) };
            // SAFETY: a byte within readable memory (M1), to which no reference exists (M2).
            *byte = unsafe { source.read_volatile() };
        }
        Some(())
    }

    /// Copies `bytes` into the mapping.
    pub(crate) fn write_bytes(&self, offset: usize, bytes: &[u8]) -> Option<()> {
        let place = self.writable()?.range_start(offset, bytes.len())?;
        for (index, byte) in bytes.iter().enumerate() {
            // SAFETY: `place` is followed by `bytes.len()` bytes of the mapping, and `index` is below that.
            let target = unsafe { place.add(index) };
            // SAFETY: a byte within writable memory (M1), to which no reference exists (M2).
            unsafe { target.write_volatile(*byte) };
        }
        Some(())
    }

    /// Never unmaps: what the kernel may still write to stays memory of its own until the process ends.
    pub(crate) fn leak(self) {
        let _ = ManuallyDrop::new(self);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: M1, and the value ends here; whoever holds an address into it keeps it from being dropped.
        unsafe { syscall::munmap(self.start, self.len) };
    }
}

static_assertions::assert_impl_all!(Mapping: Send);
static_assertions::assert_not_impl_any!(Mapping: Sync, Clone);

#[cfg(test)]
mod tests {
    use super::Mapping;

    #[test]
    fn a_view_past_the_end_or_out_of_step_is_refused() {
        let mapping = Mapping::anonymous(4096).unwrap();
        assert_eq!(mapping.read::<u64>(4088), Some(0));
        assert_eq!(mapping.read::<u64>(4089), None);
        assert_eq!(mapping.read::<u64>(1), None);
        assert_eq!(mapping.read::<u64>(usize::MAX), None);
        assert_eq!(mapping.write::<u64>(4096, 1), None);
        assert_eq!(mapping.write_bytes(4095, &[1, 2]), None);
        assert_eq!(mapping.address(4096, 1), None);
    }

    #[test]
    fn what_was_written_is_read_back() {
        let mapping = Mapping::anonymous(4096).unwrap();
        mapping.write::<u64>(8, 0x0102_0304).unwrap();
        mapping.write_bytes(100, b"ublk").unwrap();
        let mut bytes = [0; 4];
        mapping.read_bytes(100, &mut bytes).unwrap();
        assert_eq!((mapping.read::<u64>(8), &bytes), (Some(0x0102_0304), b"ublk"));
    }
}
