// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which answers may say "it is durable".
//!
//! Linux reports that writing back has failed once, to one `fdatasync(2)`, forgets what could not be written, and lets the next
//! succeed. So one failure counts for good: every FLUSH and every write with FUA behind it fails, on all queues, until the server is
//! started again. And as it is told to one of those that are under way on an open file, the others are not answered before
//! that one is back: whoever succeeds while an older one is under way goes round once more. Each queue has opened the file for
//! itself, so that this goes for each queue alone.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

use ublk::Tag;

/// What is durable on one queue.
#[derive(Debug)]
pub(crate) struct Syncs<'a> {
    /// Something that was answered for is lost. All queues share it.
    lost: &'a AtomicBool,
    /// For each tag.
    requests: Vec<Sync>,
    /// The number of the next to begin, from 1 on.
    next: Cell<u64>,
}

/// A request that waits for what was written to be durable.
#[derive(Debug, Default)]
struct Sync {
    /// Its number, if it is under way; else 0.
    begun: Cell<u64>,
    /// It waits for all with numbers below this one; 0 until it has succeeded.
    until: Cell<u64>,
}

/// What is to be done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is durable, as is all that was answered before it began.
    Durable,
    /// Sync once more: an older one is under way, which may have been told of a failure in its place.
    Again,
    /// Something is lost.
    Lost,
}

impl<'a> Syncs<'a> {
    /// For a queue with this many tags.
    pub(crate) fn new(lost: &'a AtomicBool, depth: u16) -> Syncs<'a> {
        Syncs { lost, requests: (0..depth).map(|_| Sync::default()).collect(), next: Cell::new(1) }
    }

    /// Whether a request may sync at all.
    pub(crate) fn begin(&self, tag: Tag) -> bool {
        let Some(sync) = self.requests.get(usize::from(tag.raw())) else { return false };
        let number = self.next.replace(self.next.get() + 1);
        sync.begun.set(number);
        !self.lost.load(Ordering::SeqCst) || self.forget(sync)
    }

    /// A sync is back.
    pub(crate) fn end(&self, tag: Tag, has_failed: bool) -> Verdict {
        let Some(sync) = self.requests.get(usize::from(tag.raw())) else { return Verdict::Lost };
        if has_failed {
            self.lost.store(true, Ordering::SeqCst);
        }
        sync.begun.set(0);
        if self.lost.load(Ordering::SeqCst) {
            self.forget(sync);
            return Verdict::Lost;
        }
        if sync.until.get() == 0 {
            sync.until.set(self.next.get());
        }
        let is_older = |other: &Sync| (1..sync.until.get()).contains(&other.begun.get());
        if self.requests.iter().any(is_older) {
            return Verdict::Again;
        }
        self.forget(sync);
        Verdict::Durable
    }

    fn forget(&self, sync: &Sync) -> bool {
        sync.begun.set(0);
        sync.until.set(0);
        false
    }
}
