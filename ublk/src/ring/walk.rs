// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every interleaving of a small ring, walked: whatever the user and the kernel do in turn, the ring is two plain queues.
//!
//! The walk has each state of the ring once (memory, both sides' counters, what the plain queues hold) and from there takes
//! every step that is possible. That is about whole steps; what the halves of two steps do to each other is the matter of
//! `tools/ring-model`.

use std::collections::{HashSet, VecDeque};
use std::vec::Vec;

use crate::error::Error;
use crate::ring::cq::CompletionQueue;
use crate::ring::memory::Memory;
use crate::ring::op::{Entry, Op, sealed::Sealed};
use crate::ring::shared::Shared;
use crate::ring::sq::SubmissionQueue;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The user's: push the next operation, take a completion.
    Push,
    Next,
    /// The kernel's: take one submission, or all that there are.
    TakeOne,
    TakeAll,
    /// The kernel completes an operation; puts the completion aside where the queue is full.
    Complete,
    /// The kernel has no memory to put a completion aside, and counts it as lost.
    Lose,
    /// The kernel moves one completion from aside into the queue.
    Flush,
}

const STEPS: [Step; 7] =
    [Step::Push, Step::Next, Step::TakeOne, Step::TakeAll, Step::Complete, Step::Lose, Step::Flush];

/// Each that is lost leaves a different trace in the memory, so that the states are many; a third would show nothing new.
const MOST_LOST: u32 = 2;

/// What a ring should come to: user data in plain queues.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Plain {
    pushed: u64,
    staged: VecDeque<u64>,
    in_kernel: VecDeque<u64>,
    aside: VecDeque<u64>,
    ready: VecDeque<u64>,
    lost: u32,
}

/// A whole state, to come back to.
#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    memory: [Vec<u8>; 2],
    sq: SubmissionQueue,
    cq: CompletionQueue,
    plain: Plain,
}

/// What the walk must have met, lest it shows nothing.
#[derive(Debug, Default)]
struct Met {
    refused: bool,
    lap_behind: bool,
    aside: bool,
    lost: bool,
}

/// The sides of one ring, as they stand.
struct Ring {
    shared: Shared,
    sq: SubmissionQueue,
    cq: CompletionQueue,
    plain: Plain,
}

impl Ring {
    fn new(submissions: u32, completions: u32, start: u32) -> Ring {
        let shared = Shared::over(Memory::fake(submissions, completions, size_of::<Op>(), start)).unwrap();
        let (sq, cq) = (SubmissionQueue::new(&shared), CompletionQueue::new(&shared));
        Ring { shared, sq, cq, plain: Plain::default() }
    }

    fn state(&self) -> State {
        let memory = self.shared.memory().bytes();
        State { memory, sq: self.sq.clone(), cq: self.cq.clone(), plain: self.plain.clone() }
    }

    fn return_to(&mut self, state: &State) {
        self.shared.memory().set_bytes(&state.memory);
        (self.sq, self.cq, self.plain) = (state.sq.clone(), state.cq.clone(), state.plain.clone());
    }

    /// Takes a step on the ring and on the plain queues; `false` where it is not possible now.
    fn take(&mut self, step: Step, most_pushes: u64, met: &mut Met) -> bool {
        let kernel = self.shared.kernel();
        let plain = &mut self.plain;
        let has_room = kernel.has_room();
        assert_eq!(has_room, plain.ready.len() < length(self.shared.completion_entries()), "slots given back");
        match step {
            Step::Push if plain.pushed == most_pushes => return false,
            Step::Push => {
                let mut op = Op::nop();
                op.set_user_data(plain.pushed);
                let pushed = self.sq.push(&self.shared, &op);
                if plain.staged.len() == length(self.shared.submission_entries()) {
                    assert_eq!(pushed, Err(Error::RingFull));
                    met.refused = true;
                } else {
                    assert_eq!(pushed, Ok(()));
                    plain.staged.push_back(plain.pushed);
                    plain.pushed += 1;
                }
            }
            Step::Next => {
                let user_data = self.cq.next(&self.shared).map(|completion| completion.user_data);
                assert_eq!(user_data, plain.ready.pop_front());
            }
            Step::TakeOne | Step::TakeAll if plain.staged.is_empty() => return false,
            Step::TakeOne => {
                assert_eq!(kernel.take(1).first(), plain.staged.front());
                plain.in_kernel.extend(plain.staged.pop_front());
            }
            Step::TakeAll => {
                assert_eq!(plain.staged, kernel.take(kernel.published()));
                plain.in_kernel.append(&mut plain.staged);
            }
            Step::Complete => {
                let Some(user_data) = plain.in_kernel.pop_front() else { return false };
                if has_room && plain.aside.is_empty() {
                    kernel.complete(user_data);
                    plain.ready.push_back(user_data);
                } else {
                    plain.aside.push_back(user_data);
                    met.aside = true;
                }
            }
            Step::Lose if has_room || plain.in_kernel.is_empty() || plain.lost == MOST_LOST => return false,
            Step::Lose => {
                kernel.lose();
                plain.in_kernel.pop_front();
                plain.lost += 1;
                met.lost = true;
            }
            Step::Flush if !has_room => return false,
            Step::Flush => {
                let Some(user_data) = plain.aside.pop_front() else { return false };
                kernel.complete(user_data);
                plain.ready.push_back(user_data);
            }
        }
        self.compare();
        met.lap_behind |= self.plain.ready.len() == length(self.shared.completion_entries());
        true
    }

    /// What each side can ask about.
    fn compare(&self) {
        let plain = &self.plain;
        assert_eq!(length(self.shared.kernel().published()), plain.staged.len());
        assert_eq!(length(self.sq.staged(&self.shared)), plain.staged.len());
        assert_eq!(self.cq.has_some(&self.shared), !plain.ready.is_empty());
        let lost = if plain.lost == 0 { Ok(()) } else { Err(Error::CompletionsLost { lost: plain.lost }) };
        assert_eq!(self.cq.check_lost(&self.shared), lost);
    }
}

fn length(count: u32) -> usize {
    usize::try_from(count).unwrap()
}

/// Walks a ring of this many entries, from counters at `start` to `most_pushes`; how many states it has.
fn walk(submissions: u32, completions: u32, start: u32, most_pushes: u64) -> usize {
    let mut ring = Ring::new(submissions, completions, start);
    let mut met = Met::default();
    let mut seen = HashSet::from([ring.state()]);
    let mut open = Vec::from_iter(seen.clone());
    while let Some(state) = open.pop() {
        for step in STEPS {
            ring.return_to(&state);
            if ring.take(step, most_pushes, &mut met) {
                let next = ring.state();
                if seen.insert(next.clone()) {
                    open.push(next);
                }
            }
        }
    }
    assert!(met.refused && met.lap_behind && met.aside && met.lost, "{met:?}");
    seen.len()
}

#[test]
fn every_interleaving_of_a_small_ring_is_two_plain_queues_across_the_wrap() {
    // From each start but the first the counters wrap after another step: empty, full, or between.
    for start in [0, u32::MAX, u32::MAX - 1, u32::MAX - 2, u32::MAX - 4] {
        assert!(walk(2, 2, start, 7) > 1_000);
        assert!(walk(2, 4, start, 8) > 1_000);
    }
    assert!(walk(4, 4, u32::MAX - 3, 9) > 4_000);
}
