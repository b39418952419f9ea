// SPDX-License-Identifier: MIT OR Apache-2.0
//! The completion queue, as its only reader sees it.

use crate::error::Error;
use crate::ring::position::Position;
use crate::ring::shared::Shared;

/// One completion, copied out of the ring (`struct io_uring_cqe`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// What the submission said. Who gave out addresses or indices here looks them up; none is to be trusted.
    pub user_data: u64,
    /// The operation's answer: a value, or a negative errno (`res`).
    pub result: i32,
    /// `IORING_CQE_F_*`.
    pub flags: u32,
}

static_assertions::assert_impl_all!(Completion: Send, Sync);

/// Where this side of the completion queue stands. The kernel moves the tail, we move the head.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, PartialEq, Eq, Hash))]
pub(super) struct CompletionQueue {
    head: Position,
    /// The kernel's tail, as last seen.
    tail: Position,
    /// The count of dropped completions when the ring was made.
    lost_before: Position,
}

impl CompletionQueue {
    pub(super) fn new(shared: &Shared) -> CompletionQueue {
        let tail = shared.completion_tail();
        CompletionQueue { head: tail, tail, lost_before: shared.completions_lost() }
    }

    /// Whether a completion is there to be taken.
    pub(super) fn has_some(&self, shared: &Shared) -> bool {
        self.head != self.tail || shared.completion_tail() != self.head
    }

    /// Takes one completion.
    pub(super) fn next(&mut self, shared: &Shared) -> Option<Completion> {
        if self.head == self.tail {
            let tail = shared.completion_tail();
            // A tail that has run further than the queue is long is not believed: there is at most one lap to read.
            let ready = tail.since(self.head).min(shared.completion_entries());
            self.tail = self.head.advanced(ready);
            if ready == 0 {
                return None;
            }
        }
        let completion = shared.read_completion(self.head);
        self.head = self.head.advanced(1);
        shared.release_completions(self.head);
        Some(completion)
    }

    /// An error once the kernel has dropped a completion, for good.
    pub(super) fn check_lost(&self, shared: &Shared) -> Result<(), Error> {
        match shared.completions_lost().since(self.lost_before) {
            0 => Ok(()),
            lost => Err(Error::CompletionsLost { lost }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::CompletionQueue;
    use crate::ring::shared::Shared;

    #[test]
    fn a_tail_that_runs_away_gives_at_most_one_lap() {
        let shared = Shared::fake(64, u32::MAX - 2);
        let mut cq = CompletionQueue::new(&shared);
        shared.kernel().move_completion_tail(1_000_000);
        for _ in 0..16 {
            assert!(cq.next(&shared).is_some());
        }
        assert_eq!(cq.head.since(crate::ring::position::Position::new(u32::MAX - 2)), 16);
    }
}
