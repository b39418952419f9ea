// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory that a ring shares with the kernel: which byte is what. How accesses are ordered stands in `shared`.
#![expect(unsafe_code, reason = "memory that the kernel reads and writes; the geometry was checked")]

use core::mem::{ManuallyDrop, offset_of};
use core::sync::atomic::{AtomicU16, AtomicU32};

use ublk_sys::{IORING_OFF_SQ_RING, IORING_OFF_SQES, io_uring_buf, io_uring_buf_ring, io_uring_cqe, io_uring_params};

use crate::error::{Error, SystemCall};
use crate::hosting::BufferLock;
use crate::mapping::Mapping;
use crate::ring::cq::Completion;
use crate::ring::geometry::Geometry;
use crate::ring::op::Entry;
use crate::ring::position::Position;
use crate::syscall::{self, Access, Fd};
use crate::units::{round_up, usize_from};

/// The words of both queues, the submission entries and the completions of one ring.
///
/// Invariant S1: `rings` is as long as `geometry.ring_bytes`, `submissions` as `geometry.submissions_bytes`, which is
/// `submission_entries` entries of `entry_bytes`.
///
/// Only this file knows where anything lies, and `tools/ring-model` puts a memory of its own in its place, in which each
/// access is watched.
#[derive(Debug)]
pub(super) struct Memory {
    rings: Mapping,
    submissions: Mapping,
    geometry: Geometry,
    entry_bytes: usize,
}

impl Memory {
    /// Maps the memory of the ring that `io_uring_setup` made.
    pub(super) fn map(
        fd: &Fd,
        params: &io_uring_params,
        submissions: u32,
        completions: u32,
        entry_bytes: usize,
    ) -> Result<Memory, Error> {
        let geometry = Geometry::check(params, submissions, completions, entry_bytes)?;
        let map = |offset, len| Mapping::of_file(fd, offset, len, Access::ReadWrite, SystemCall::MmapRing);
        let rings = map(IORING_OFF_SQ_RING, geometry.ring_bytes)?;
        let submissions = map(IORING_OFF_SQES, geometry.submissions_bytes)?;
        Ok(Memory { rings, submissions, geometry, entry_bytes })
    }

    pub(super) fn submission_entries(&self) -> u32 {
        self.geometry.submission_entries
    }

    pub(super) fn completion_entries(&self) -> u32 {
        self.geometry.completion_entries
    }

    pub(super) fn submission_head(&self) -> &AtomicU32 {
        self.word(self.geometry.submission_head)
    }

    pub(super) fn submission_tail(&self) -> &AtomicU32 {
        self.word(self.geometry.submission_tail)
    }

    pub(super) fn submission_mask(&self) -> &AtomicU32 {
        self.word(self.geometry.submission_mask)
    }

    pub(super) fn submission_flags(&self) -> &AtomicU32 {
        self.word(self.geometry.submission_flags)
    }

    /// The element of the index array that tells the kernel which entry is meant by `position`; `None` where the ring
    /// has no such array.
    pub(super) fn submission_index(&self, position: Position) -> Option<&AtomicU32> {
        let slot = usize_from(position.slot(self.geometry.submission_entries - 1));
        Some(self.word(self.geometry.submission_array? + slot * size_of::<u32>()))
    }

    pub(super) fn completion_head(&self) -> &AtomicU32 {
        self.word(self.geometry.completion_head)
    }

    pub(super) fn completion_tail(&self) -> &AtomicU32 {
        self.word(self.geometry.completion_tail)
    }

    pub(super) fn completion_mask(&self) -> &AtomicU32 {
        self.word(self.geometry.completion_mask)
    }

    pub(super) fn completion_overflow(&self) -> &AtomicU32 {
        self.word(self.geometry.completion_overflow)
    }

    /// The word at `offset`, which is one of the geometry's words or an element of its index array.
    fn word(&self, offset: usize) -> &AtomicU32 {
        debug_assert!(offset + size_of::<u32>() <= self.rings.len());
        let address = self.rings.start().as_ptr().wrapping_add(offset).cast::<u32>();
        // SAFETY: `offset` is one of the geometry's, so the word is 4-aligned and lies within `rings` (G1, S1), which lives as
        // long as the borrow of `self`. The kernel accesses it atomically, and so does whoever gets it here.
        unsafe { AtomicU32::from_ptr(address) }
    }

    /// Writes the whole entry at `position`.
    ///
    /// `E` has the size that the ring was set up with. The slot has to be one that the kernel has given back; where it is
    /// not, the kernel reads a mixture.
    pub(super) fn write_submission<E: Entry>(&self, position: Position, entry: &E) {
        debug_assert_eq!(size_of::<E>(), self.entry_bytes);
        let slot = usize_from(position.slot(self.geometry.submission_entries - 1));
        let place = self.submissions.start().as_ptr().wrapping_add(slot * size_of::<E>()).cast::<E>();
        // SAFETY: the slot is below `submission_entries` (G2), and the ring was set up for entries of E's size, so the
        // place lies within `submissions` (S1); a slot's offset is a multiple of E's size and the mapping starts at a
        // page, so it is aligned. No reference to it exists.
        unsafe { place.write_volatile(*entry) };
    }

    /// Copies out the completion at `position`. Where the kernel has not written it, any bytes.
    pub(super) fn read_completion(&self, position: Position) -> Completion {
        let slot = usize_from(position.slot(self.geometry.completion_entries - 1));
        let offset = self.geometry.completions + slot * size_of::<io_uring_cqe>();
        let place = self.rings.start().as_ptr().wrapping_add(offset).cast::<io_uring_cqe>();
        // SAFETY: the slot is below `completion_entries` (G2), so the place lies within `rings` and is 8-aligned (G1, S1).
        // Any bytes are a valid io_uring_cqe, and no reference to it exists.
        let cqe = unsafe { place.read_volatile() };
        Completion { user_data: cqe.user_data, result: cqe.res, flags: cqe.flags }
    }
}

/// A ring of provided buffers: their entries, and behind them the buffers.
///
/// Invariant S2: the mapping holds `entries` entries from its start, and from `buffers` on as many buffers of `buffer_bytes`;
/// `entries` is a power of two from 1 to [`MAX_ENTRIES`](BufferMemory::MAX_ENTRIES).
///
/// It is not unmapped when dropped, since the kernel writes to it when it likes (P1).
#[derive(Debug)]
pub(super) struct BufferMemory {
    mapping: ManuallyDrop<Mapping>,
    entries: u16,
    buffers: usize,
    buffer_bytes: u32,
}

impl BufferMemory {
    /// The most that the kernel takes.
    const MAX_ENTRIES: u16 = 1 << 15;

    /// Maps `entries` entries and as many buffers.
    pub(super) fn map(entries: u16, buffer_bytes: u32) -> Result<BufferMemory, Error> {
        if !entries.is_power_of_two() || entries > BufferMemory::MAX_ENTRIES || buffer_bytes == 0 {
            return Err(Error::Invalid {
                what: "provided buffers are 1 to 32768, a power of two, of at least one byte",
            });
        }
        let too_large = Error::Invalid { what: "provided buffers fit into the address space" };
        let buffers = round_up(usize::from(entries) * size_of::<io_uring_buf>(), syscall::page_bytes());
        let buffers = buffers.ok_or(too_large)?;
        let all = usize::from(entries).checked_mul(usize_from(buffer_bytes)).and_then(|all| all.checked_add(buffers));
        let mapping = ManuallyDrop::new(Mapping::anonymous(all.ok_or(too_large)?)?);
        Ok(BufferMemory { mapping, entries, buffers, buffer_bytes })
    }

    /// Has the kernel leave the buffers in memory.
    pub(super) fn lock(&self, when: BufferLock) -> Result<(), Error> {
        self.mapping.lock(when)
    }

    pub(super) fn entries(&self) -> u16 {
        self.entries
    }

    pub(super) fn buffer_bytes(&self) -> u32 {
        self.buffer_bytes
    }

    /// Where the kernel finds the entries.
    pub(super) fn address(&self) -> Option<u64> {
        self.mapping.address(0, self.buffers)
    }

    /// How many entries were ever published, a counter that wraps. It lies within the first entry.
    pub(super) fn tail(&self) -> &AtomicU16 {
        let address = self.mapping.start().as_ptr().wrapping_add(offset_of!(io_uring_buf_ring, tail)).cast::<u16>();
        // SAFETY: the mapping starts at a page and has at least one entry of 16 bytes (S2), so the word is 2-aligned and lies
        // within it; it lives as long as the borrow of `self`. The kernel accesses it atomically, and so does whoever gets
        // it here; `write_entry` leaves it alone.
        unsafe { AtomicU16::from_ptr(address) }
    }

    /// Writes the entry at `slot`, for this buffer; `None` where there is no such slot or buffer, which is not written. The slot
    /// has to be one that the kernel has taken; where it is not, the kernel reads a mixture.
    pub(super) fn write_entry(&self, slot: u16, buffer: u16) -> Option<()> {
        if slot >= self.entries {
            return None;
        }
        let offset = self.buffer_offset(buffer)?;
        let address = self.mapping.address(offset, usize_from(self.buffer_bytes))?;
        let entry = usize::from(slot) * size_of::<io_uring_buf>();
        // What is left of the entry is the tail's place in the first one.
        self.mapping.write(entry + offset_of!(io_uring_buf, addr), address)?;
        self.mapping.write(entry + offset_of!(io_uring_buf, len), self.buffer_bytes)?;
        self.mapping.write(entry + offset_of!(io_uring_buf, bid), buffer)
    }

    /// Copies out what a buffer has at `offset`, as many bytes as `into` has; `None` where it has no such bytes.
    pub(super) fn read(&self, buffer: u16, offset: u32, into: &mut [u8]) -> Option<()> {
        let start = usize_from(offset);
        if start.checked_add(into.len())? > usize_from(self.buffer_bytes) {
            return None;
        }
        self.mapping.read_bytes(self.buffer_offset(buffer)?.checked_add(start)?, into)
    }

    fn buffer_offset(&self, buffer: u16) -> Option<usize> {
        (buffer < self.entries).then(|| self.buffers + usize::from(buffer) * usize_from(self.buffer_bytes))
    }

    /// Ends the mapping.
    ///
    /// # Safety
    ///
    /// The kernel uses it no more.
    pub(super) unsafe fn unmap(self) {
        drop(ManuallyDrop::into_inner(self.mapping));
    }
}

#[cfg(test)]
mod fake;
