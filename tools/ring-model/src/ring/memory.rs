// SPDX-License-Identifier: MIT OR Apache-2.0
//! In place of the crate's `ring/memory.rs`: the same words, slots and buffers, each watched by loom.

use std::sync::Arc;

use loom::sync::atomic::{AtomicU16, AtomicU32};

use super::cq::Completion;
use super::op::{Entry, Op};
use super::position::Position;
use crate::slot::Slot;

/// What one ring shares, and the buffers that operations on it name. A clone is the other side's view of the same.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    words: Arc<Words>,
}

#[derive(Debug)]
struct Words {
    submission_head: AtomicU32,
    submission_tail: AtomicU32,
    submission_mask: AtomicU32,
    submission_flags: AtomicU32,
    submission_array: Vec<AtomicU32>,
    submissions: Vec<Slot<Op>>,
    completion_head: AtomicU32,
    completion_tail: AtomicU32,
    completion_mask: AtomicU32,
    completion_overflow: AtomicU32,
    completions: Vec<Slot<Completion>>,
    buffers: Vec<Slot<u64>>,
}

fn place(value: u32) -> usize {
    usize::try_from(value).expect("32 bits fit")
}

impl Memory {
    /// A ring of this many entries, both counts powers of two, with its counters at `start`.
    pub(super) fn new(submissions: u32, completions: u32, buffers: u32, start: u32) -> Memory {
        let word = AtomicU32::new;
        let words = Words {
            submission_head: word(start),
            submission_tail: word(start),
            submission_mask: word(submissions - 1),
            submission_flags: word(0),
            // What is no index: an element that is read too early is found out.
            submission_array: (0..submissions).map(|_| word(u32::MAX)).collect(),
            submissions: Slot::several(submissions, Op::default()),
            completion_head: word(start),
            completion_tail: word(start),
            completion_mask: word(completions - 1),
            completion_overflow: word(0),
            completions: Slot::several(completions, Completion { user_data: u64::MAX, result: 0, flags: 0 }),
            buffers: Slot::several(buffers, 0),
        };
        Memory { words: Arc::new(words) }
    }

    fn submission_slot(&self, position: Position) -> usize {
        place(position.slot(self.submission_entries() - 1))
    }

    fn completion_slot(&self, position: Position) -> usize {
        place(position.slot(self.completion_entries() - 1))
    }
}

/// What the crate's own memory offers.
impl Memory {
    pub(super) fn submission_entries(&self) -> u32 {
        u32::try_from(self.words.submissions.len()).expect("a small ring")
    }

    pub(super) fn completion_entries(&self) -> u32 {
        u32::try_from(self.words.completions.len()).expect("a small ring")
    }

    pub(super) fn submission_head(&self) -> &AtomicU32 {
        &self.words.submission_head
    }

    pub(super) fn submission_tail(&self) -> &AtomicU32 {
        &self.words.submission_tail
    }

    pub(super) fn submission_mask(&self) -> &AtomicU32 {
        &self.words.submission_mask
    }

    pub(super) fn submission_flags(&self) -> &AtomicU32 {
        &self.words.submission_flags
    }

    pub(super) fn submission_index(&self, position: Position) -> Option<&AtomicU32> {
        self.words.submission_array.get(self.submission_slot(position))
    }

    pub(super) fn completion_head(&self) -> &AtomicU32 {
        &self.words.completion_head
    }

    pub(super) fn completion_tail(&self) -> &AtomicU32 {
        &self.words.completion_tail
    }

    pub(super) fn completion_mask(&self) -> &AtomicU32 {
        &self.words.completion_mask
    }

    pub(super) fn completion_overflow(&self) -> &AtomicU32 {
        &self.words.completion_overflow
    }

    pub(super) fn write_submission<E: Entry>(&self, position: Position, entry: &E) {
        self.words.submissions[self.submission_slot(position)].set(entry.op());
    }

    pub(super) fn read_completion(&self, position: Position) -> Completion {
        self.words.completions[self.completion_slot(position)].get()
    }
}

/// What only the kernel does, and what both do with a buffer.
impl Memory {
    pub(super) fn read_submission(&self, index: u32) -> Op {
        self.words.submissions[place(index)].get()
    }

    pub(super) fn write_completion(&self, position: Position, completion: Completion) {
        self.words.completions[self.completion_slot(position)].set(completion);
    }

    pub(super) fn read_buffer(&self, buffer: usize) -> u64 {
        self.words.buffers[buffer].get()
    }

    pub(super) fn write_buffer(&self, buffer: usize, value: u64) {
        self.words.buffers[buffer].set(value);
    }
}

/// What a ring of provided buffers shares. A clone is the other side's view of the same.
#[derive(Clone, Debug)]
pub(super) struct BufferMemory {
    words: Arc<BufferWords>,
}

#[derive(Debug)]
struct BufferWords {
    tail: AtomicU16,
    /// The buffer that each entry names.
    entries: Vec<Slot<u16>>,
    buffers: Vec<Slot<u64>>,
}

impl BufferMemory {
    /// This many entries, a power of two, and as many buffers.
    pub(super) fn new(entries: u16) -> BufferMemory {
        let words = BufferWords {
            tail: AtomicU16::new(0),
            // What is no buffer: an entry that is read too early is found out.
            entries: Slot::several(entries.into(), u16::MAX),
            buffers: Slot::several(entries.into(), 0),
        };
        BufferMemory { words: Arc::new(words) }
    }
}

/// What the crate's own memory offers.
impl BufferMemory {
    pub(super) fn entries(&self) -> u16 {
        u16::try_from(self.words.entries.len()).expect("a small ring")
    }

    pub(super) fn tail(&self) -> &AtomicU16 {
        &self.words.tail
    }

    pub(super) fn write_entry(&self, slot: u16, buffer: u16) -> Option<()> {
        self.words.entries.get(usize::from(slot))?.set(buffer);
        Some(())
    }
}

/// What only the kernel does, and what both do with a buffer.
impl BufferMemory {
    pub(super) fn read_entry(&self, slot: u16) -> u16 {
        self.words.entries[usize::from(slot)].get()
    }

    pub(super) fn read_buffer(&self, buffer: u16) -> u64 {
        self.words.buffers[usize::from(buffer)].get()
    }

    pub(super) fn write_buffer(&self, buffer: u16, value: u64) {
        self.words.buffers[usize::from(buffer)].set(value);
    }
}
