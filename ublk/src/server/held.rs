// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether the target has answered what it had at some moment, as the thread that is to stop the device sees it.
//!
//! A process that asks for the stop of its own device while a request is not answered, and is killed then, hangs for good, and the device
//! with it. So the thread that stops waits here before it asks, where a process that is killed is gone.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::sync::Arc;
use std::vec::Vec;

use crate::queue::Watch;
use crate::syscall;

/// What a thread that serves shows of itself. Nothing else stands in its line of the cache.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Rounds {
    /// How often it has begun to wait, and to go on: odd where it goes on, and knows of requests that it has noted nowhere yet.
    rounds: AtomicU64,
    /// How often the target has returned.
    returns: AtomicU64,
}

/// What `rounds` is of a thread that serves no more.
const ENDED: u64 = u64::MAX - 1;

impl Rounds {
    /// The thread begins to wait, and has noted what it holds; or it goes on.
    pub(super) fn step(&self) {
        // ORDERING: the thread alone writes it. Release, so that whoever sees that it waits sees what it has noted.
        self.rounds.store(self.rounds.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
    }

    /// The target has returned.
    pub(super) fn note_return(&self) {
        // ORDERING: as above; nothing is read because of it.
        self.returns.store(self.returns.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        // ORDERING: as in `step`.
        self.rounds.store(ENDED, Ordering::Release);
    }
}

/// What is seen of one thread that serves, and what it is asked.
#[derive(Debug)]
pub(super) struct Watched {
    queues: Vec<Watch>,
    rounds: Arc<Rounds>,
    /// Its rounds when it was asked, as long as it has not waited since.
    busy: Option<u64>,
    /// What it has held since then is asked about, in time of the monotonic clock.
    asked: Duration,
}

/// What is left of that which is asked about. As long as it changes, there is progress, and it changes for so long only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Left {
    /// Requests.
    held: usize,
    /// Threads that have not waited since: in a call of the target, or between two.
    pub(super) busy: usize,
    /// How often the target has returned to these.
    returns: u64,
}

impl Left {
    pub(super) const fn is_nothing(&self) -> bool {
        self.held == 0 && self.busy == 0
    }
}

impl Watched {
    pub(super) fn new(queues: Vec<Watch>, rounds: &Arc<Rounds>) -> Watched {
        Watched { queues, rounds: Arc::clone(rounds), busy: None, asked: Duration::ZERO }
    }

    fn rounds(&self) -> u64 {
        // ORDERING: Acquire pairs with the Release of `step`.
        self.rounds.rounds.load(Ordering::Acquire)
    }

    fn ask(&mut self) {
        let rounds = self.rounds();
        self.busy = (rounds % 2 == 1).then_some(rounds);
        self.asked = syscall::monotonic();
    }

    fn look(&mut self, left: &mut Left) {
        let rounds = self.rounds();
        if rounds == ENDED {
            return;
        }
        if let Some(then) = self.busy {
            if rounds == then {
                left.busy += 1;
                // ORDERING: nothing is read because of it.
                left.returns = left.returns.wrapping_add(self.rounds.returns.load(Ordering::Relaxed));
                return;
            }
            // What it had and has not answered it has noted as it began to wait, later than it was asked.
            (self.busy, self.asked) = (None, syscall::monotonic());
        }
        left.held += self.queues.iter().map(|queue| queue.held_since(self.asked)).sum::<usize>();
    }
}

/// What is seen of all threads that serve.
#[derive(Debug)]
pub(super) struct Held {
    threads: Vec<Watched>,
}

impl Held {
    pub(super) const fn new(threads: Vec<Watched>) -> Held {
        Held { threads }
    }

    /// Asks about what the target has now.
    pub(super) fn ask(&mut self) {
        self.threads.iter_mut().for_each(Watched::ask);
    }

    /// What it has not answered of that. What came later does not count.
    pub(super) fn left(&mut self) -> Left {
        let mut left = Left { held: 0, busy: 0, returns: 0 };
        self.threads.iter_mut().for_each(|thread| thread.look(&mut left));
        left
    }
}
