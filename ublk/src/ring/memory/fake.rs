// SPDX-License-Identifier: MIT OR Apache-2.0
//! A ring without a kernel behind it: the test plays the kernel. For what no kernel can be made to do, counters that wrap
//! and words that lie.

use core::sync::atomic::Ordering;
use std::vec;
use std::vec::Vec;

use super::{BufferMemory, Memory};
use crate::error::Error;
use crate::mapping::Mapping;
use crate::ring::cq::Completion;
use crate::ring::geometry::{Geometry, tests};
use crate::ring::position::Position;
use crate::ring::shared::Shared;
use crate::ring::{Kind, Ring};
use crate::syscall::Fd;

/// The kernel's side of a [`Memory`].
pub(in crate::ring) struct Kernel<'m> {
    memory: &'m Memory,
}

impl Memory {
    /// A ring with this many entries, the counters of both its queues at `counters_start`.
    pub(in crate::ring) fn fake(submissions: u32, completions: u32, entry_bytes: usize, counters_start: u32) -> Memory {
        let params = tests::plausible(submissions, completions);
        let geometry = Geometry::check(&params, submissions, completions, entry_bytes).unwrap();
        let rings = Mapping::anonymous(geometry.ring_bytes).unwrap();
        let entries = Mapping::anonymous(geometry.submissions_bytes).unwrap();
        let memory = Memory { rings, submissions: entries, geometry, entry_bytes };
        memory.submission_mask().store(submissions - 1, Ordering::Relaxed);
        memory.completion_mask().store(completions - 1, Ordering::Relaxed);
        let counters = [
            memory.submission_head(),
            memory.submission_tail(),
            memory.completion_head(),
            memory.completion_tail(),
            memory.completion_overflow(),
        ];
        for counter in counters {
            counter.store(counters_start, Ordering::Relaxed);
        }
        memory
    }

    /// All that is in it.
    pub(in crate::ring) fn bytes(&self) -> [Vec<u8>; 2] {
        [&self.rings, &self.submissions].map(|mapping| {
            let mut bytes = vec![0; mapping.len()];
            mapping.read_bytes(0, &mut bytes).unwrap();
            bytes
        })
    }

    /// Makes it what it was when `bytes` were taken.
    pub(in crate::ring) fn set_bytes(&self, [rings, submissions]: &[Vec<u8>; 2]) {
        self.rings.write_bytes(0, rings).unwrap();
        self.submissions.write_bytes(0, submissions).unwrap();
    }
}

impl Shared {
    /// A ring of 8 submissions and 16 completions.
    pub(in crate::ring) fn fake(entry_bytes: usize, counters_start: u32) -> Shared {
        Shared::over(Memory::fake(8, 16, entry_bytes, counters_start)).unwrap()
    }

    pub(in crate::ring) fn kernel(&self) -> Kernel<'_> {
        Kernel { memory: self.memory() }
    }
}

impl<K: Kind> Ring<K> {
    /// A ring that nobody serves, since its descriptor is none of a ring: every submit fails, and what was pushed stays.
    pub(crate) fn fake() -> Ring<K> {
        Ring::over(Fd::open(c"/dev/null").unwrap(), Shared::fake(size_of::<K::Entry>(), 0), None)
    }

    /// A completion is there.
    pub(crate) fn bring(&self, completion: Completion) {
        self.shared.kernel().complete_with(completion);
    }

    /// The bytes of the entries that are staged, the oldest first. They have not gone around the end.
    pub(crate) fn staged_bytes(&self) -> Vec<Vec<u8>> {
        let [_, entries] = self.shared.memory().bytes();
        let staged = usize::try_from(self.staged()).unwrap();
        entries.chunks(size_of::<K::Entry>()).take(staged).map(<[u8]>::to_vec).collect()
    }
}

impl Kernel<'_> {
    /// How many submissions it is given.
    pub(in crate::ring) fn published(&self) -> u32 {
        let tail = Position::new(self.memory.submission_tail().load(Ordering::Acquire));
        tail.since(Position::new(self.memory.submission_head().load(Ordering::Relaxed)))
    }

    /// Takes the next `count` submissions, which are published, and gives their slots back together; their user data.
    pub(in crate::ring) fn take(&self, count: u32) -> Vec<u64> {
        let memory = self.memory;
        let head = Position::new(memory.submission_head().load(Ordering::Relaxed));
        assert!(count <= self.published(), "nothing more is published");
        let user_data = |position: Position| {
            let index = memory.submission_index(position).unwrap().load(Ordering::Relaxed);
            let entry = usize::try_from(index).unwrap() * memory.entry_bytes;
            memory.submissions.read(entry + 32).unwrap()
        };
        let taken = (0..count).map(|ahead| user_data(head.advanced(ahead))).collect();
        memory.submission_head().store(head.advanced(count).raw(), Ordering::Release);
        taken
    }

    /// Whether the user has given back a slot for a completion.
    pub(in crate::ring) fn has_room(&self) -> bool {
        let tail = Position::new(self.memory.completion_tail().load(Ordering::Relaxed));
        let head = Position::new(self.memory.completion_head().load(Ordering::Acquire));
        tail.since(head) < self.memory.completion_entries()
    }

    /// Drops a completion for good.
    pub(in crate::ring) fn lose(&self) {
        self.memory.completion_overflow().fetch_add(1, Ordering::Relaxed);
    }

    /// Completes an operation. The caller knows that there is room.
    pub(in crate::ring) fn complete(&self, user_data: u64) {
        self.complete_with(Completion { user_data, result: 0, flags: 0 });
    }

    /// As [`complete`](Kernel::complete), with whatever the completion says.
    fn complete_with(&self, completion: Completion) {
        let memory = self.memory;
        let tail = Position::new(memory.completion_tail().load(Ordering::Relaxed));
        let slot = usize::try_from(tail.slot(memory.completion_entries() - 1)).unwrap();
        let place = memory.geometry.completions + slot * 16;
        let ([r0, r1, r2, r3], [f0, f1, f2, f3]) = (completion.result.to_ne_bytes(), completion.flags.to_ne_bytes());
        memory.rings.write(place, completion.user_data).unwrap();
        memory.rings.write(place + 8, u64::from_ne_bytes([r0, r1, r2, r3, f0, f1, f2, f3])).unwrap();
        memory.completion_tail().store(tail.advanced(1).raw(), Ordering::Release);
    }

    /// Takes every published submission, and completes each with its user data; how many.
    pub(in crate::ring) fn complete_all(&self) -> u32 {
        let count = self.published();
        for user_data in self.take(count) {
            self.complete(user_data);
        }
        count
    }

    /// Moves the completion tail past slots that it has not written.
    pub(in crate::ring) fn move_completion_tail(&self, by: u32) {
        self.memory.completion_tail().fetch_add(by, Ordering::Release);
    }

    /// Moves the submission head, over the tail too.
    pub(in crate::ring) fn move_submission_head(&self, by: u32) {
        self.memory.submission_head().fetch_add(by, Ordering::Release);
    }
}

/// The kernel's side.
impl BufferMemory {
    /// Ends it when the test does, as no ring has it.
    pub(in crate::ring) fn end(self) {
        drop(core::mem::ManuallyDrop::into_inner(self.mapping));
    }

    /// The entry at `slot`: the buffer's id, where the kernel would write, and how much.
    pub(in crate::ring) fn entry(&self, slot: u16) -> (u16, u64, u32) {
        let entry = usize::from(slot) * 16;
        let read = |at| self.mapping.read::<u64>(entry + at).unwrap();
        let [n0, n1, n2, n3, b0, b1, ..] = read(8).to_ne_bytes();
        (u16::from_ne_bytes([b0, b1]), read(0), u32::from_ne_bytes([n0, n1, n2, n3]))
    }

    /// Writes to a buffer at `offset`.
    pub(in crate::ring) fn fill(&self, buffer: u16, offset: usize, bytes: &[u8]) {
        self.mapping.write_bytes(self.buffer_offset(buffer).unwrap() + offset, bytes).unwrap();
    }
}

#[test]
fn each_provided_buffer_has_its_own_bytes_behind_every_entry() {
    let memory = BufferMemory::map(512, 100).unwrap();
    for buffer in 0..512 {
        memory.write_entry(buffer, buffer).unwrap();
    }
    let entries = memory.address().unwrap();
    for buffer in 0..512 {
        // 512 entries of 16 bytes are two pages.
        assert_eq!(memory.entry(buffer), (buffer, entries + 8192 + u64::from(buffer) * 100, 100));
    }
    assert_eq!(memory.tail().load(Ordering::Relaxed), 0, "an entry leaves the tail alone");
    memory.end();
}

#[test]
fn a_slot_or_a_buffer_that_there_is_not_is_neither_written_nor_read() {
    let memory = BufferMemory::map(2, 4096).unwrap();
    assert_eq!(memory.write_entry(2, 0), None);
    assert_eq!(memory.write_entry(0, 2), None);
    assert_eq!(memory.entry(0), (0, 0, 0));
    assert_eq!(memory.read(2, 0, &mut [0; 1]), None);
    assert_eq!(memory.read(0, 4096, &mut [0; 1]), None);
    assert_eq!(memory.read(1, 4095, &mut [0; 2]), None);
    assert_eq!(memory.read(1, u32::MAX, &mut [0; 2]), None);
    assert_eq!(memory.read(1, 4095, &mut [0; 1]), Some(()));
    memory.end();
}

#[test]
fn provided_buffers_of_a_number_that_no_kernel_takes_are_refused() {
    for (entries, bytes) in [(0, 1), (3, 1), (u16::MAX, 1), (4, 0)] {
        assert!(matches!(BufferMemory::map(entries, bytes), Err(Error::Invalid { .. })), "{entries}, {bytes}");
    }
    BufferMemory::map(1 << 15, 1).unwrap().end();
}

#[test]
fn a_mask_that_contradicts_the_count_is_refused() {
    let memory = Memory::fake(8, 16, 64, 0);
    memory.completion_mask().store(16, Ordering::Relaxed);
    let error = Shared::over(memory).unwrap_err();
    assert_eq!(error, Error::Implausible { what: "the completion queue's mask", value: 16 });
}

#[test]
fn the_index_array_names_each_entry_once() {
    let shared = Shared::fake(64, 0);
    let element = |index| shared.memory().submission_index(Position::new(index)).unwrap().load(Ordering::Relaxed);
    assert_eq!((0..8).map(element).collect::<Vec<u32>>(), [0, 1, 2, 3, 4, 5, 6, 7]);
}
