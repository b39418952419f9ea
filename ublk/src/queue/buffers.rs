// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory through which a queue's data goes: a buffer for each tag.
#![expect(unsafe_code, reason = "hands out slices of memory that the kernel writes at other times")]

use core::marker::PhantomData;
use core::ptr::NonNull;

use crate::device_info::DeviceInfo;
use crate::error::Error;
use crate::id::Tag;
use crate::mapping::Mapping;
use crate::syscall;
use crate::units::{round_up, usize_from};

/// One mapping with a buffer for each tag.
///
/// A buffer has one user at a time. While a command of its tag is in flight that is the kernel, which writes a WRITE's
/// data into it before the completion and reads a READ's data out of it during the commit. From the completion to the
/// next commit it is whoever holds the tag's [`TagBuffer`].
#[derive(Debug)]
pub(super) struct Buffers {
    mapping: Mapping,
    /// Bytes from one buffer to the next.
    stride: usize,
    /// Bytes of a buffer that the kernel uses: the device's largest request.
    len: usize,
}

impl Buffers {
    pub(super) fn allocate(info: &DeviceInfo) -> Result<Buffers, Error> {
        let too_large = Error::Implausible { what: "max_io_buf_bytes", value: info.max_io_bytes().into() };
        let len = usize_from(info.max_io_bytes());
        let stride = round_up(len, syscall::page_bytes()).ok_or(too_large)?;
        let bytes = stride.checked_mul(info.depth().into()).ok_or(too_large)?;
        Ok(Buffers { mapping: Mapping::anonymous(bytes)?, stride, len })
    }

    /// Bytes of each buffer.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Where the kernel finds the buffer of `tag`.
    pub(super) fn address(&self, tag: Tag) -> Option<u64> {
        self.mapping.address(usize::from(tag.raw()) * self.stride, self.len)
    }

    /// The first `len` bytes of the buffer of `tag`, for one user alone.
    ///
    /// # Safety
    ///
    /// No command of `tag` is in flight, and none is submitted, as long as the result lives; no other [`TagBuffer`] of
    /// `tag` lives at the same time.
    pub(super) unsafe fn lend(&self, tag: Tag, len: usize) -> Option<TagBuffer<'_>> {
        let offset = usize::from(tag.raw()) * self.stride;
        if len > self.len || offset.checked_add(self.stride)? > self.mapping.len() {
            return None;
        }
        // SAFETY: `offset` lies within the mapping, as just checked.
        let start = unsafe { self.mapping.start().add(offset) };
        Some(TagBuffer { start, len, mapping: PhantomData })
    }

    /// Leaves the memory mapped for ever, for a kernel that may still use it.
    pub(super) fn leak(self) {
        self.mapping.leak();
    }
}

/// The buffer of one tag, while it is the server's.
///
/// Invariant B1: the `len` bytes at `start` are initialised memory of a live mapping, and nobody else uses them as long
/// as this value lives ([`Buffers::lend`]).
#[derive(Debug)]
pub(super) struct TagBuffer<'q> {
    start: NonNull<u8>,
    len: usize,
    mapping: PhantomData<&'q mut [u8]>,
}

impl TagBuffer<'_> {
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: B1, and while the result lives `self` is borrowed, so that nobody writes.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: B1, and while the result lives `self` is borrowed exclusively, so that it is the only access.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}
