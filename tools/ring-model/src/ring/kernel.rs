// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's side of a ring, as `io_uring/io_uring.c` documents and does it.
//!
//! It is freer than the kernel: it takes submissions while the user pushes more, as only SQPOLL would, and completes them
//! from elsewhere. What holds against it holds against a kernel that works inside `io_uring_enter`.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use super::cq::Completion;
use super::memory::{BufferMemory, Memory};
use super::op::Op;
use super::position::Position;

/// `IORING_SQ_CQ_OVERFLOW`.
pub(super) const CQ_OVERFLOW: u32 = 1 << 1;

/// `struct io_ring_ctx`.
#[derive(Debug)]
pub(super) struct Kernel {
    memory: Memory,
    /// `cached_sq_head`, `cached_cq_tail`: the shared words are only ever written by the kernel.
    submission_head: Position,
    completion_tail: Position,
    /// `cq_overflow_list`: completions that found no room.
    overflow: VecDeque<u64>,
}

impl Kernel {
    pub(super) fn new(memory: Memory, start: u32) -> Kernel {
        let start = Position::new(start);
        Kernel { memory, submission_head: start, completion_tail: start, overflow: VecDeque::new() }
    }

    /// Takes at most `count` submissions, and gives their slots back together: `io_submit_sqes()`.
    pub(super) fn take(&mut self, count: u32) -> Vec<Op> {
        // io_sqring_entries(): smp_load_acquire(&rings->sq.tail).
        let tail = Position::new(self.memory.submission_tail().load(Ordering::Acquire));
        let ready = tail.since(self.submission_head).min(self.memory.submission_entries());
        let taken: Vec<Op> = (0..ready.min(count)).map(|_| self.next_submission()).collect();
        if !taken.is_empty() {
            // io_commit_sqring(): smp_store_release(&rings->sq.head).
            self.memory.submission_head().store(self.submission_head.raw(), Ordering::Release);
        }
        taken
    }

    /// `io_get_sqe()`.
    fn next_submission(&mut self) -> Op {
        let index = self.memory.submission_index(self.submission_head).expect("the model's ring has an array");
        // READ_ONCE(ctx->sq_array[head]); one past the entries is dropped by the kernel, and here a failure.
        let index = index.load(Ordering::Relaxed);
        assert!(index < self.memory.submission_entries(), "the kernel read element {index:#x} of the index array");
        self.submission_head = self.submission_head.advanced(1);
        self.memory.read_submission(index)
    }

    /// Completes an operation, or puts its completion aside: `io_cqring_event_overflow()`.
    pub(super) fn complete(&mut self, user_data: u64) {
        self.flush_overflow();
        if !self.overflow.is_empty() || !self.has_room() {
            self.overflow.push_back(user_data);
            self.memory.submission_flags().store(CQ_OVERFLOW, Ordering::Relaxed);
        } else {
            self.write_completion(user_data);
        }
    }

    /// `__io_cqring_overflow_flush()`.
    pub(super) fn flush_overflow(&mut self) {
        while !self.overflow.is_empty() && self.has_room() {
            if let Some(user_data) = self.overflow.pop_front() {
                self.write_completion(user_data);
            }
            if self.overflow.is_empty() {
                self.memory.submission_flags().store(0, Ordering::Relaxed);
            }
        }
    }

    /// `io_cqe_cache_refill()`.
    fn has_room(&self) -> bool {
        // READ_ONCE(rings->cq.head), and a control dependency from it to the writes that follow. C11 has none of that kind;
        // its name for the order is Acquire.
        let head = Position::new(self.memory.completion_head().load(Ordering::Acquire));
        self.completion_tail.since(head) < self.memory.completion_entries()
    }

    fn write_completion(&mut self, user_data: u64) {
        self.memory.write_completion(self.completion_tail, Completion { user_data, result: 0, flags: 0 });
        self.completion_tail = self.completion_tail.advanced(1);
        // io_commit_cqring(): smp_store_release(&rings->cq.tail).
        self.memory.completion_tail().store(self.completion_tail.raw(), Ordering::Release);
    }
}

/// The kernel's side of a ring of provided buffers: `struct io_buffer_list`.
#[derive(Debug)]
pub(super) struct BufferList {
    memory: BufferMemory,
    /// It stands nowhere but here.
    head: u16,
}

impl BufferList {
    pub(super) fn new(memory: BufferMemory) -> BufferList {
        BufferList { memory, head: 0 }
    }

    /// Takes the next buffer and writes to it; which one, or that there was none: `io_ring_buffer_select()`.
    pub(super) fn fill(&mut self, value: u64) -> Option<u16> {
        // smp_load_acquire(&br->tail).
        if self.memory.tail().load(Ordering::Acquire) == self.head {
            return None;
        }
        let buffer = self.memory.read_entry(self.head & (self.memory.entries() - 1));
        assert!(buffer < self.memory.entries(), "the kernel read entry {buffer:#x} of the provided buffers");
        self.head = self.head.wrapping_add(1);
        self.memory.write_buffer(buffer, value);
        Some(buffer)
    }
}
