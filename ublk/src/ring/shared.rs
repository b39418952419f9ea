// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory that a ring shares with the kernel, and every atomic access to it.
#![expect(unsafe_code, reason = "memory that the kernel reads and writes; the geometry was checked")]

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};

use ublk_sys::{IORING_OFF_SQ_RING, IORING_OFF_SQES, io_uring_cqe, io_uring_params};

use crate::error::{Error, SystemCall};
use crate::mapping::Mapping;
use crate::ring::cq::Completion;
use crate::ring::geometry::Geometry;
use crate::ring::op::Entry;
use crate::ring::position::Position;
use crate::syscall::{Access, Fd};
use crate::units::usize_from;

/// Both queues of one ring.
///
/// Invariant S1: `rings` is as long as `geometry.ring_bytes`, `submissions` as `geometry.submissions_bytes`, which is
/// `submission_entries` entries of `entry_bytes`.
#[derive(Debug)]
pub(super) struct Shared {
    rings: Mapping,
    submissions: Mapping,
    geometry: Geometry,
    entry_bytes: usize,
}

impl Shared {
    /// Maps the memory of the ring that `io_uring_setup` made.
    pub(super) fn map(
        fd: &Fd,
        params: &io_uring_params,
        submissions: u32,
        completions: u32,
        entry_bytes: usize,
    ) -> Result<Shared, Error> {
        let geometry = Geometry::check(params, submissions, completions, entry_bytes)?;
        let map = |offset, len| Mapping::of_file(fd, offset, len, Access::ReadWrite, SystemCall::MmapRing);
        let rings = map(IORING_OFF_SQ_RING, geometry.ring_bytes)?;
        let entries = map(IORING_OFF_SQES, geometry.submissions_bytes)?;
        Shared { rings, submissions: entries, geometry, entry_bytes }.with_masks_checked()
    }

    /// The masks stand in the shared memory too; where they contradict the counts, an offset is wrong.
    fn with_masks_checked(self) -> Result<Shared, Error> {
        let masks = [
            ("the submission queue's mask", self.geometry.submission_mask, self.submission_mask()),
            ("the completion queue's mask", self.geometry.completion_mask, self.completion_mask()),
        ];
        for (what, offset, expected) in masks {
            // ORDERING: written once, before io_uring_setup returned.
            let mask = self.word(offset).load(Ordering::Relaxed);
            if mask != expected {
                return Err(Error::Implausible { what, value: mask.into() });
            }
        }
        self.with_identity_array();
        Ok(self)
    }

    /// Where the ring has an index array, slot `i` of it names entry `i` once and for all.
    fn with_identity_array(&self) {
        if let Some(array) = self.geometry.submission_array {
            for index in 0..self.geometry.submission_entries {
                // ORDERING: the first release of the submission tail publishes the array with the first entries.
                self.word(array + usize_from(index) * size_of::<u32>()).store(index, Ordering::Relaxed);
            }
        }
    }

    pub(super) fn submission_entries(&self) -> u32 {
        self.geometry.submission_entries
    }

    pub(super) fn completion_entries(&self) -> u32 {
        self.geometry.completion_entries
    }

    fn submission_mask(&self) -> u32 {
        self.geometry.submission_entries - 1
    }

    fn completion_mask(&self) -> u32 {
        self.geometry.completion_entries - 1
    }

    /// The shared word at `offset`, one of the geometry's.
    fn word(&self, offset: usize) -> &AtomicU32 {
        debug_assert!(offset + size_of::<u32>() <= self.rings.len());
        let address = self.rings.start().as_ptr().wrapping_add(offset).cast::<u32>();
        // SAFETY: `offset` is one of the geometry's words or an element of its array, so the word is 4-aligned and lies
        // within `rings` (G1, S1), which lives as long as the borrow of `self`. The kernel and this file access it
        // atomically only.
        unsafe { AtomicU32::from_ptr(address) }
    }

    /// How far the kernel has taken submissions.
    pub(super) fn submission_head(&self) -> Position {
        // ORDERING: Acquire pairs with the kernel's release in io_commit_sqring(): a slot that it gave back is read no more.
        Position::new(self.word(self.geometry.submission_head).load(Ordering::Acquire))
    }

    /// Gives the kernel every entry before `tail`.
    pub(super) fn publish_submissions(&self, tail: Position) {
        // ORDERING: Release pairs with the kernel's acquire in io_sqring_entries(): it sees the entries whole.
        self.word(self.geometry.submission_tail).store(tail.raw(), Ordering::Release);
    }

    /// `IORING_SQ_*`: what the kernel wants of the submitter.
    pub(super) fn submission_flags(&self) -> u32 {
        // ORDERING: a hint; what it hints at is found out by entering the kernel.
        self.word(self.geometry.submission_flags).load(Ordering::Relaxed)
    }

    /// How far the kernel has written completions.
    pub(super) fn completion_tail(&self) -> Position {
        // ORDERING: Acquire pairs with the kernel's release in io_commit_cqring(): the completions before it are whole, and
        // so is what the kernel wrote before them, the I/O descriptors and the data of a WRITE included.
        Position::new(self.word(self.geometry.completion_tail).load(Ordering::Acquire))
    }

    /// Gives back every completion before `head`.
    pub(super) fn release_completions(&self, head: Position) {
        // ORDERING: Release pairs with the kernel's acquire in io_get_cqe(): it writes over a slot only after we read it.
        self.word(self.geometry.completion_head).store(head.raw(), Ordering::Release);
    }

    /// How many completions the kernel dropped, a counter that wraps.
    pub(super) fn completions_lost(&self) -> Position {
        // ORDERING: a counter; nothing is read because of it.
        Position::new(self.word(self.geometry.completion_overflow).load(Ordering::Relaxed))
    }

    /// Writes the whole entry at `position`, a slot that the kernel has given back.
    pub(super) fn write_submission<E: Entry>(&self, position: Position, entry: &E) {
        debug_assert_eq!(size_of::<E>(), self.entry_bytes);
        let slot = usize_from(position.slot(self.submission_mask()));
        let place = self.submissions.start().as_ptr().wrapping_add(slot * size_of::<E>()).cast::<E>();
        // SAFETY: the slot is below `submission_entries` (G2), and the ring was set up for entries of E's size, so the
        // place lies within `submissions` (S1); a slot's offset is a multiple of E's size and the mapping starts at a
        // page, so it is aligned. The kernel does not read it before the tail is published, and no reference to it exists.
        unsafe { place.write_volatile(*entry) };
    }

    /// Copies out the completion at `position`, which the kernel has written.
    pub(super) fn read_completion(&self, position: Position) -> Completion {
        let slot = usize_from(position.slot(self.completion_mask()));
        let offset = self.geometry.completions + slot * size_of::<io_uring_cqe>();
        let place: NonNull<u8> = self.rings.start();
        let place = place.as_ptr().wrapping_add(offset).cast::<io_uring_cqe>();
        // SAFETY: the slot is below `completion_entries` (G2), so the place lies within `rings` and is 8-aligned (G1, S1).
        // Any bytes are a valid io_uring_cqe, and no reference to it exists.
        let cqe = unsafe { place.read_volatile() };
        Completion { user_data: cqe.user_data, result: cqe.res, flags: cqe.flags }
    }
}

#[cfg(test)]
pub(super) mod fake {
    //! A ring without a kernel behind it: the test plays the kernel. For what no kernel can be made to do, counters that
    //! wrap and words that lie.

    use super::{Geometry, Mapping, Position, Shared};
    use core::sync::atomic::Ordering;

    impl Shared {
        pub(in crate::ring) fn fake(entry_bytes: usize, counters_start: u32) -> Shared {
            let geometry = Geometry::check(&crate::ring::geometry::tests::plausible(), 8, 16, entry_bytes).unwrap();
            let rings = Mapping::anonymous(geometry.ring_bytes).unwrap();
            let submissions = Mapping::anonymous(geometry.submissions_bytes).unwrap();
            let shared = Shared { rings, submissions, geometry, entry_bytes };
            shared.word(geometry.submission_mask).store(7, Ordering::Relaxed);
            shared.word(geometry.completion_mask).store(15, Ordering::Relaxed);
            let counters = [
                geometry.submission_head,
                geometry.submission_tail,
                geometry.completion_head,
                geometry.completion_tail,
                geometry.completion_overflow,
            ];
            for counter in counters {
                shared.word(counter).store(counters_start, Ordering::Relaxed);
            }
            shared.with_masks_checked().unwrap()
        }

        /// The kernel takes every published submission, and completes each with its user data.
        pub(in crate::ring) fn fake_kernel_completes_all(&self) -> u32 {
            let tail = Position::new(self.word(self.geometry.submission_tail).load(Ordering::Acquire));
            let mut head = self.submission_head();
            let mut completion = self.completion_tail();
            let mut taken = 0;
            while head != tail {
                let slot = usize::try_from(head.slot(7)).unwrap();
                let user_data: u64 = self.submissions.read(slot * self.entry_bytes + 32).unwrap();
                let place = usize::try_from(completion.slot(15)).unwrap();
                self.rings.write(self.geometry.completions + place * 16, user_data).unwrap();
                self.rings.write(self.geometry.completions + place * 16 + 8, 0_u64).unwrap();
                (head, completion, taken) = (head.advanced(1), completion.advanced(1), taken + 1);
            }
            self.word(self.geometry.submission_head).store(head.raw(), Ordering::Release);
            self.word(self.geometry.completion_tail).store(completion.raw(), Ordering::Release);
            taken
        }

        pub(in crate::ring) fn fake_kernel_moves_completion_tail(&self, by: u32) {
            let tail = self.completion_tail().advanced(by);
            self.word(self.geometry.completion_tail).store(tail.raw(), Ordering::Release);
        }

        pub(in crate::ring) fn fake_kernel_moves_submission_head(&self, by: u32) {
            let head = self.submission_head().advanced(by);
            self.word(self.geometry.submission_head).store(head.raw(), Ordering::Release);
        }
    }

    #[test]
    fn a_mask_that_contradicts_the_count_is_refused() {
        let shared = Shared::fake(64, 0);
        shared.word(shared.geometry.completion_mask).store(16, Ordering::Relaxed);
        let error = shared.with_masks_checked().unwrap_err();
        assert_eq!(error, super::Error::Implausible { what: "the completion queue's mask", value: 16 });
    }

    #[test]
    fn the_index_array_names_each_entry_once() {
        let shared = Shared::fake(64, 0);
        let array = shared.geometry.submission_array.unwrap();
        let indices: std::vec::Vec<u32> =
            (0..8).map(|index| shared.word(array + index * 4).load(Ordering::Relaxed)).collect();
        assert_eq!(indices, [0, 1, 2, 3, 4, 5, 6, 7]);
    }
}
