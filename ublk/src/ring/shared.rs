// SPDX-License-Identifier: MIT OR Apache-2.0
//! Both queues of a ring as they are shared with the kernel: every access to their words, and how it is ordered.
//!
//! `tools/ring-model` compiles this file with a memory that notices each data race, and once more for each Acquire and
//! Release in it, weakened: every such copy has to fail. On x86 no plain run could show a difference.

use core::sync::atomic::Ordering;

use crate::error::Error;
use crate::ring::cq::Completion;
use crate::ring::memory::Memory;
use crate::ring::op::Entry;
use crate::ring::position::Position;

/// Both queues of one ring.
#[derive(Debug)]
pub(super) struct Shared {
    memory: Memory,
}

impl Shared {
    /// The queues in `memory`. Their masks stand there too; where those contradict the counts, an offset is wrong.
    pub(super) fn over(memory: Memory) -> Result<Shared, Error> {
        let masks = [
            ("the submission queue's mask", memory.submission_mask(), memory.submission_entries()),
            ("the completion queue's mask", memory.completion_mask(), memory.completion_entries()),
        ];
        for (what, mask, entries) in masks {
            // ORDERING: written once, before io_uring_setup returned.
            let mask = mask.load(Ordering::Relaxed);
            if mask != entries - 1 {
                return Err(Error::Implausible { what, value: mask.into() });
            }
        }
        // Where the ring has an index array, element `i` of it names entry `i` once and for all.
        for index in 0..memory.submission_entries() {
            if let Some(element) = memory.submission_index(Position::new(index)) {
                // ORDERING: the first release of the submission tail publishes the array with the first entries.
                element.store(index, Ordering::Relaxed);
            }
        }
        Ok(Shared { memory })
    }

    pub(super) fn submission_entries(&self) -> u32 {
        self.memory.submission_entries()
    }

    pub(super) fn completion_entries(&self) -> u32 {
        self.memory.completion_entries()
    }

    /// How far the kernel has taken submissions.
    pub(super) fn submission_head(&self) -> Position {
        // ORDERING: Acquire pairs with the kernel's release in io_commit_sqring(): a slot that it gave back is read no more.
        Position::new(self.memory.submission_head().load(Ordering::Acquire))
    }

    /// Gives the kernel every entry before `tail`.
    pub(super) fn publish_submissions(&self, tail: Position) {
        // ORDERING: Release pairs with the kernel's acquire in io_sqring_entries(): it sees the entries whole.
        self.memory.submission_tail().store(tail.raw(), Ordering::Release);
    }

    /// `IORING_SQ_*`: what the kernel wants of the submitter.
    pub(super) fn submission_flags(&self) -> u32 {
        // ORDERING: a hint; what it hints at is found out by entering the kernel.
        self.memory.submission_flags().load(Ordering::Relaxed)
    }

    /// How far the kernel has written completions.
    pub(super) fn completion_tail(&self) -> Position {
        // ORDERING: Acquire pairs with the kernel's release in io_commit_cqring(): the completions before it are whole, and
        // so is what the kernel wrote before them, the I/O descriptors and the data of a WRITE included.
        Position::new(self.memory.completion_tail().load(Ordering::Acquire))
    }

    /// Gives back every completion before `head`.
    pub(super) fn release_completions(&self, head: Position) {
        // ORDERING: Release pairs with the control dependency in io_get_cqe(), from its load of the head to its writes: it
        // writes over a slot only after we read it.
        self.memory.completion_head().store(head.raw(), Ordering::Release);
    }

    /// How many completions the kernel dropped, a counter that wraps.
    pub(super) fn completions_lost(&self) -> Position {
        // ORDERING: a counter; nothing is read because of it.
        Position::new(self.memory.completion_overflow().load(Ordering::Relaxed))
    }

    /// Writes the whole entry at `position`, a slot that the kernel has given back. It reads it once the tail is
    /// published.
    pub(super) fn write_submission<E: Entry>(&self, position: Position, entry: &E) {
        self.memory.write_submission(position, entry);
    }

    /// Copies out the completion at `position`, which the kernel has written.
    pub(super) fn read_completion(&self, position: Position) -> Completion {
        self.memory.read_completion(position)
    }

    #[cfg(test)]
    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }
}
