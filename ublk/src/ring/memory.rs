// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory that a ring shares with the kernel: which byte is what. How accesses are ordered stands in `shared`.
#![expect(unsafe_code, reason = "memory that the kernel reads and writes; the geometry was checked")]

use core::sync::atomic::AtomicU32;

use ublk_sys::{IORING_OFF_SQ_RING, IORING_OFF_SQES, io_uring_cqe, io_uring_params};

use crate::error::{Error, SystemCall};
use crate::mapping::Mapping;
use crate::ring::cq::Completion;
use crate::ring::geometry::Geometry;
use crate::ring::op::Entry;
use crate::ring::position::Position;
use crate::syscall::{Access, Fd};
use crate::units::usize_from;

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

#[cfg(test)]
mod fake;
