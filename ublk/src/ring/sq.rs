// SPDX-License-Identifier: MIT OR Apache-2.0
//! The submission queue, as its only writer sees it.

use crate::error::Error;
use crate::ring::op::Entry;
use crate::ring::position::Position;
use crate::ring::shared::Shared;

/// Where this side of the submission queue stands. The kernel moves the head, we move the tail.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, PartialEq, Eq, Hash))]
pub(super) struct SubmissionQueue {
    /// One past the last entry written.
    tail: Position,
}

impl SubmissionQueue {
    pub(super) fn new(shared: &Shared) -> SubmissionQueue {
        // A new ring is empty: both ends stand at the head.
        SubmissionQueue { tail: shared.submission_head() }
    }

    /// Entries that the kernel has not taken yet.
    pub(super) fn staged(&self, shared: &Shared) -> u32 {
        // A head that has overtaken the tail gives a huge distance, which no caller submits: it is at most all entries.
        self.tail.since(shared.submission_head()).min(shared.submission_entries())
    }

    /// Writes one entry; the kernel takes it at the next enter.
    pub(super) fn push<E: Entry>(&mut self, shared: &Shared, entry: &E) -> Result<(), Error> {
        if self.staged(shared) == shared.submission_entries() {
            return Err(Error::RingFull);
        }
        shared.write_submission(self.tail, entry);
        self.tail = self.tail.advanced(1);
        shared.publish_submissions(self.tail);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::SubmissionQueue;
    use crate::error::Error;
    use crate::ring::cq::CompletionQueue;
    use crate::ring::op::{Entry, Op, WideOp};
    use crate::ring::shared::Shared;

    /// Five at a time through a ring whose counters start at `start`: none is lost, doubled or reordered.
    fn all_come_through<E: Entry>(start: u32) {
        let shared = Shared::fake(size_of::<E>(), start);
        let (mut sq, mut cq) = (SubmissionQueue::new(&shared), CompletionQueue::new(&shared));
        let mut next = 0;
        for round in 0..8_u64 {
            for index in 0..5 {
                let mut entry = E::nop();
                entry.set_user_data(round * 5 + index);
                sq.push(&shared, &entry).unwrap();
            }
            assert_eq!(sq.staged(&shared), 5);
            assert_eq!(shared.kernel().complete_all(), 5);
            assert_eq!(sq.staged(&shared), 0);
            while let Some(completion) = cq.next(&shared) {
                assert_eq!(completion.user_data, next);
                next += 1;
            }
        }
        assert_eq!(next, 40);
    }

    #[test]
    fn entries_come_through_in_order_across_the_wrap_of_the_counters() {
        for start in [0, u32::MAX, u32::MAX - 1, u32::MAX - 17, u32::MAX / 2] {
            all_come_through::<Op>(start);
            all_come_through::<WideOp>(start);
        }
    }

    #[test]
    fn a_full_queue_refuses_and_keeps_what_it_has_across_the_wrap() {
        let shared = Shared::fake(64, u32::MAX - 3);
        let mut sq = SubmissionQueue::new(&shared);
        for _ in 0..8 {
            sq.push(&shared, &Op::nop()).unwrap();
        }
        assert_eq!(sq.push(&shared, &Op::nop()), Err(Error::RingFull));
        assert_eq!(sq.staged(&shared), 8);
        assert_eq!(shared.kernel().complete_all(), 8);
        sq.push(&shared, &Op::nop()).unwrap();
    }

    #[test]
    fn a_head_ahead_of_the_tail_makes_the_queue_full_and_writes_nothing() {
        let shared = Shared::fake(64, 5);
        let mut sq = SubmissionQueue::new(&shared);
        shared.kernel().move_submission_head(1);
        assert_eq!(sq.push(&shared, &Op::nop()), Err(Error::RingFull));
    }
}
