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

/// Counts the calls of the target by one thread, and those that have returned. Nothing else stands in its line of the cache.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Calls {
    count: AtomicU64,
}

impl Calls {
    /// Counts a call. By one thread at a time.
    pub(super) fn count<R>(&self, call: impl FnOnce() -> R) -> R {
        // ORDERING: one thread writes it. Whoever else reads it looks again, and touches nothing because of it.
        let before = self.count.load(Ordering::Relaxed);
        self.count.store(before.wrapping_add(1), Ordering::Relaxed);
        let returned = call();
        // ORDERING: as above.
        self.count.store(before.wrapping_add(2), Ordering::Relaxed);
        returned
    }

    fn so_far(&self) -> u64 {
        // ORDERING: as above.
        self.count.load(Ordering::Relaxed)
    }
}

/// What is seen of one thread that serves.
#[derive(Debug)]
pub(super) struct Watched {
    queues: Vec<Watch>,
    calls: Arc<Calls>,
    /// The calls so far at the moment that is asked about: an odd number where the target was called and had not returned.
    asked: u64,
}

impl Watched {
    pub(super) fn new(queues: Vec<Watch>, calls: &Arc<Calls>) -> Watched {
        Watched { queues, calls: Arc::clone(calls), asked: 0 }
    }
}

/// What is seen of all threads that serve.
#[derive(Debug)]
pub(super) struct Held {
    threads: Vec<Watched>,
    /// The moment that is asked about, in time of the monotonic clock.
    asked: Duration,
}

impl Held {
    pub(super) const fn new(threads: Vec<Watched>) -> Held {
        Held { threads, asked: Duration::ZERO }
    }

    /// Asks about what the target has now.
    pub(super) fn ask(&mut self) {
        self.asked = syscall::monotonic();
        for thread in &mut self.threads {
            thread.asked = thread.calls.so_far();
        }
    }

    /// Whether it has answered that. What came later does not count.
    pub(super) fn is_answered(&self) -> bool {
        self.threads.iter().all(|thread| {
            let is_over = thread.asked % 2 == 0 || thread.calls.so_far() != thread.asked;
            is_over && !thread.queues.iter().any(|queue| queue.holds_since(self.asked))
        })
    }
}
