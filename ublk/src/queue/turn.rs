// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which of the threads that serve one queue has a tag, in the batch transport, where the driver gives each to any of them.
//!
//! The driver gives a tag to one thread at a time, and to another only when it was committed. That it does is not relied on: a
//! thread that is given a tag takes its turn first, and refuses the tag where somebody has that.
//!
//! `tools/ring-model` compiles this file with loom's atomics, and weakens its orderings: every such copy has to fail.

use core::sync::atomic::Ordering;

use crate::queue::atomic::AtomicBool;

/// Whose a tag's buffer is: somebody's or nobody's. All zeroes is nobody's.
#[derive(Debug, Default)]
#[repr(transparent)]
pub(super) struct Turn {
    taken: AtomicBool,
}

impl Turn {
    /// Takes the turn; false where somebody has it.
    #[must_use]
    pub(super) fn take(&self) -> bool {
        // ORDERING: Acquire pairs with the Release of `give_back`: what the last one did with the buffer is done. Where it
        // fails, nothing is looked at because of it.
        !self.taken.swap(true, Ordering::Acquire)
    }

    /// Gives the turn back. Called by whoever took it, who uses the buffer no more.
    pub(super) fn give_back(&self) {
        // ORDERING: Release, so that whoever takes the turn next comes after all that was done in this one.
        self.taken.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::Turn;

    #[test]
    fn a_turn_is_one_threads_until_it_is_given_back() {
        let turn = Turn::default();
        assert!(turn.take());
        assert!(!turn.take() && !turn.take());
        turn.give_back();
        assert!(turn.take());
    }
}
