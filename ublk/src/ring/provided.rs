// SPDX-License-Identifier: MIT OR Apache-2.0
//! The queue of provided buffers, as its only writer sees it, and how its one shared word is ordered.
//!
//! The kernel keeps its own end of this queue to itself: which buffers it has taken, completions say.
//!
//! `tools/ring-model` compiles this file too, and weakens its ordering: see `shared`.

use core::sync::atomic::Ordering;

use crate::ring::memory::BufferMemory;

/// Where this side of the queue stands. We move the tail; a counter of 16 bits that only goes forward and wraps at 2^16.
#[derive(Debug)]
pub(super) struct ProvidedQueue {
    pub(super) memory: BufferMemory,
    /// One past the last entry written.
    tail: u16,
}

impl ProvidedQueue {
    /// The empty queue in new memory.
    pub(super) fn new(memory: BufferMemory) -> ProvidedQueue {
        ProvidedQueue { memory, tail: 0 }
    }

    /// Gives the kernel this buffer; `None` where there is no such buffer.
    ///
    /// There is room for each buffer once. Where one is given twice, the kernel may use it twice.
    pub(super) fn provide(&mut self, buffer: u16) -> Option<()> {
        // The number of entries is a power of two, and divides 2^16.
        self.memory.write_entry(self.tail & (self.memory.entries() - 1), buffer)?;
        self.tail = self.tail.wrapping_add(1);
        // ORDERING: Release pairs with the kernel's acquire in io_ring_buffer_select(): it sees the entry whole, and writes
        // over the buffer only after we have read it.
        self.memory.tail().store(self.tail, Ordering::Release);
        Some(())
    }

    /// Begins anew, with nothing provided, while the kernel has no such queue.
    pub(super) fn restart(&mut self) {
        self.tail = 0;
        // ORDERING: nobody looks before the system call that gives the memory to the kernel.
        self.memory.tail().store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::ProvidedQueue;
    use crate::ring::memory::BufferMemory;
    use core::sync::atomic::Ordering;
    use std::vec::Vec;

    #[test]
    fn buffers_are_given_in_order_across_the_wrap_of_the_counter() {
        for start in [0, u16::MAX, u16::MAX - 1, u16::MAX - 6, u16::MAX / 2] {
            let memory = BufferMemory::map(4, 64).unwrap();
            memory.tail().store(start, Ordering::Relaxed);
            let mut queue = ProvidedQueue { memory, tail: start };
            let mut head = start;
            for round in 0..5_u16 {
                let given = [round % 4, (round + 1) % 4, (round + 2) % 4];
                for buffer in given {
                    queue.provide(buffer).unwrap();
                }
                // As the kernel takes them: until its own counter is where the tail is. Here one thread is both sides, so that
                // nothing has to be ordered.
                let mut taken = Vec::new();
                while head != queue.memory.tail().load(Ordering::Relaxed) {
                    taken.push(queue.memory.entry(head & 3).0);
                    head = head.wrapping_add(1);
                }
                assert_eq!(taken, given);
            }
            queue.memory.end();
        }
    }

    #[test]
    fn a_buffer_that_there_is_not_moves_nothing() {
        let mut queue = ProvidedQueue::new(BufferMemory::map(4, 64).unwrap());
        assert_eq!(queue.provide(4), None);
        assert_eq!((queue.tail, queue.memory.tail().load(Ordering::Relaxed)), (0, 0));
        queue.memory.end();
    }
}
