// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a thread that serves no queue sees of the requests that one holds.

use core::time::Duration;

use crate::id::Tag;
use crate::queue::memory::Memory;

/// Looks into the letter boxes of a queue. It keeps the queue's mapping alive.
#[derive(Debug)]
pub(crate) struct Watch {
    memory: Memory,
}

impl Watch {
    pub(super) fn of(memory: &Memory) -> Watch {
        Watch { memory: memory.clone() }
    }

    /// How many requests are not answered that were [noted](super::Queue::note_held) as held by then, in time of the monotonic clock.
    pub(crate) fn held_since(&self, then: Duration) -> usize {
        let boxes = (0..).map_while(|tag| self.memory.letter_box(Tag::new(tag)));
        boxes.filter(|letter_box| letter_box.held_since().is_some_and(|since| since <= then)).count()
    }
}
