// SPDX-License-Identifier: MIT OR Apache-2.0
//! In place of the crate's `queue/memory.rs`: a mailbox, and a letter box and a buffer for each tag.

use std::sync::Arc;

use super::mailbox::{Gone, Letter, LetterBox, Mailbox};
use crate::slot::Slot;
use crate::syscall;

/// A clone is another thread's view of the same.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    parts: Arc<Parts>,
}

#[derive(Debug)]
struct Parts {
    mailbox: Mailbox,
    boxes: Vec<LetterBox>,
    buffers: Vec<Slot<u64>>,
}

impl Memory {
    pub(super) fn new(depth: u32) -> Memory {
        let mailbox = Mailbox::new().expect("there is always an eventfd");
        let boxes = (0..depth).map(|_| LetterBox::default()).collect();
        Memory { parts: Arc::new(Parts { mailbox, boxes, buffers: Slot::several(depth, 0) }) }
    }

    pub(super) fn mailbox(&self) -> &Mailbox {
        &self.parts.mailbox
    }

    pub(super) fn letter_box(&self, tag: usize) -> &LetterBox {
        &self.parts.boxes[tag]
    }

    pub(super) fn buffer(&self, tag: usize) -> &Slot<u64> {
        &self.parts.buffers[tag]
    }

    /// Answers as `DetachedRequest::answer` does.
    pub(super) fn answer(&self, tag: usize, letter: Letter) -> Result<(), Gone> {
        self.letter_box(tag).post(letter)?;
        self.mailbox().ring();
        Ok(())
    }

    /// The answers that have come to `outstanding`, as `Queue::collect` takes them.
    pub(super) fn collect(&self, outstanding: &mut Vec<usize>) -> Vec<(usize, Letter)> {
        let mut letters = Vec::new();
        if self.mailbox().open() {
            outstanding.retain(|tag| {
                let letter = self.letter_box(*tag).collect();
                letters.extend(letter.map(|letter| (*tag, letter)));
                letter.is_none()
            });
        }
        letters
    }

    /// Sleeps as `Queue::wait` does, unless the bell has rung since it last did; whether it slept.
    pub(super) fn sleep(&self) -> bool {
        syscall::wait_for_event(self.mailbox().bell())
    }
}
