// SPDX-License-Identifier: MIT OR Apache-2.0
//! How an answer comes from another thread: into the letter box of its tag, with a ring of the bell.
//!
//! ```text
//!   any thread                                        the queue's thread
//!   LetterBox::post: HELD -> ANSWERED                 LetterBox::hand_out: EMPTY -> HELD
//!   Mailbox::ring:   posted false -> true, eventfd    Mailbox::open: posted -> false, then
//!                                                     LetterBox::collect: ANSWERED -> EMPTY
//!   LetterBox::post: GONE, and says so                LetterBox::close: HELD -> GONE
//! ```
//!
//! A box has one writer on each side: the one token of its tag, and the queue's thread.
//!
//! `tools/ring-model` compiles this file with loom's atomics, and once more for each Acquire and Release in it, weakened: every
//! such copy has to fail.

use core::sync::atomic::Ordering;
use core::time::Duration;

use crate::error::{Error, SystemCall};
use crate::queue::atomic::{AtomicBool, AtomicU64};
use crate::syscall::{self, Fd};

/// An answer: what the driver is to be told, and whether nobody gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Letter {
    /// Bytes done, or a negative errno.
    pub(super) result: i32,
    /// The request was dropped.
    pub(super) unanswered: bool,
}

// What is in a box, at the bits above those of the result.
const EMPTY: u64 = 0;
const HELD: u64 = 1 << 32;
const ANSWERED: u64 = 2 << 32;
const UNANSWERED: u64 = 3 << 32;
const GONE: u64 = 4 << 32;

impl Letter {
    fn to_bits(self) -> u64 {
        let [b0, b1, b2, b3] = self.result.to_ne_bytes();
        let result = u32::from_ne_bytes([b0, b1, b2, b3]);
        u64::from(result) | if self.unanswered { UNANSWERED } else { ANSWERED }
    }

    fn from_bits(bits: u64) -> Option<Letter> {
        let unanswered = match bits & !u64::from(u32::MAX) {
            ANSWERED => false,
            UNANSWERED => true,
            _ => return None,
        };
        let low = u32::try_from(bits & u64::from(u32::MAX)).ok()?;
        Some(Letter { result: i32::from_ne_bytes(low.to_ne_bytes()), unanswered })
    }
}

/// The queue is gone: nobody takes the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone;

/// The place for the answer to one tag's request. All zeroes is one that is empty.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct LetterBox {
    content: AtomicU64,
    /// Since when the request is held, in nanoseconds of the monotonic clock; 0 where none is known to be.
    since: AtomicU64,
}

impl LetterBox {
    /// The tag's request leaves the queue's thread. Called there.
    pub(super) fn hand_out(&self) {
        // ORDERING: whoever gets the token gets it from this thread, by means that order this before.
        self.content.store(HELD, Ordering::Relaxed);
    }

    /// Puts the answer in. Called by whoever has the token, once.
    pub(super) fn post(&self, letter: Letter) -> Result<(), Gone> {
        // ORDERING: Release, so that the queue's thread, which reads it with Acquire, has the buffer's bytes too before it
        // lends them to the kernel.
        let put = self.content.compare_exchange(HELD, letter.to_bits(), Ordering::Release, Ordering::Relaxed);
        put.map(|_| ()).map_err(|_| Gone)
    }

    /// Takes the answer out, if it is there. Called by the queue's thread.
    pub(super) fn collect(&self) -> Option<Letter> {
        // ORDERING: Acquire pairs with the Release of `post`.
        let letter = Letter::from_bits(self.content.load(Ordering::Acquire))?;
        // ORDERING: the token is spent, so that nobody else looks at the box until it is handed out again.
        self.content.store(EMPTY, Ordering::Relaxed);
        Some(letter)
    }

    /// Takes the answer out, or closes the box for good. Called by the queue's thread.
    pub(super) fn close(&self) -> Option<Letter> {
        // ORDERING: Acquire pairs with the Release of `post`. Either the answer was in before, and is found, or the one who
        // comes with it finds the box closed.
        Letter::from_bits(self.content.swap(GONE, Ordering::Acquire))
    }

    /// Notes when the request was found to be held.
    pub(super) fn hold_since(&self, now: Duration) {
        let nanoseconds = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        // ORDERING: written by the queue's thread alone, which says to whoever else reads it when it has.
        self.since.store(nanoseconds, Ordering::Relaxed);
    }

    /// Notes that the request that was found to be held is answered.
    pub(super) fn hold_no_more(&self) {
        // ORDERING: as above.
        self.since.store(0, Ordering::Relaxed);
    }

    /// When the request was found to be held, if it was.
    pub(super) fn held_since(&self) -> Option<Duration> {
        // ORDERING: as above.
        let nanoseconds = self.since.load(Ordering::Relaxed);
        (nanoseconds != 0).then(|| Duration::from_nanos(nanoseconds))
    }
}

/// The bell of all boxes of a queue.
#[derive(Debug)]
pub(super) struct Mailbox {
    /// Readable once there was an answer. The queue's ring polls it, edge by edge, so that nobody ever reads it.
    bell: Fd,
    /// An answer was put in since the queue's thread last looked, and the bell has rung for it.
    posted: AtomicBool,
}

impl Mailbox {
    pub(super) fn new() -> Result<Mailbox, Error> {
        let bell = syscall::eventfd().map_err(|errno| SystemCall::Eventfd.failed(errno))?;
        Ok(Mailbox { bell, posted: AtomicBool::new(false) })
    }

    /// What the queue's ring polls.
    pub(super) fn bell(&self) -> &Fd {
        &self.bell
    }

    /// Wakes the queue's thread, which has to look into the boxes: one system call for all answers that come before it has.
    /// Called after [`LetterBox::post`].
    pub(super) fn ring(&self) {
        // ORDERING: Release. Where it was true already, the bell rings for another answer; the queue's thread, which takes it back
        // with Acquire, sees this one in its box, too: it was put there before this. Nothing is read here because of it.
        if !self.posted.swap(true, Ordering::Release) {
            // It fails only where the counter is full, and then the bell has rung.
            let _ = syscall::write_event(&self.bell);
        }
    }

    /// Whether there may be answers. Whoever is told so has to look into every box that was handed out.
    pub(super) fn open(&self) -> bool {
        // ORDERING: a hint; an answer that it overlooks rings the bell, and the thread that this wakes sees it: the
        // kernel orders what precedes an eventfd's write before what follows the wake-up.
        if !self.posted.load(Ordering::Relaxed) {
            return false;
        }
        // ORDERING: Acquire pairs with the Release of each `ring` that it takes back. An answer that comes after this finds it
        // false, and rings.
        self.posted.swap(false, Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::{Gone, Letter, LetterBox, Mailbox};
    use crate::syscall;
    use core::time::Duration;

    const DONE: Letter = Letter { result: 4096, unanswered: false };

    #[test]
    fn an_answer_is_taken_out_as_it_was_put_in() {
        let place = LetterBox::default();
        assert_eq!(place.collect(), None);
        for letter in [DONE, Letter { result: -5, unanswered: true }, Letter { result: i32::MIN, unanswered: false }] {
            place.hand_out();
            assert_eq!(place.collect(), None);
            assert_eq!(place.post(letter), Ok(()));
            assert_eq!(place.collect(), Some(letter));
            assert_eq!(place.collect(), None);
        }
    }

    #[test]
    fn an_answer_to_a_queue_that_is_gone_says_so_and_one_before_is_found() {
        let (late, early) = (LetterBox::default(), LetterBox::default());
        late.hand_out();
        early.hand_out();
        assert_eq!(early.post(DONE), Ok(()));
        assert_eq!((early.close(), late.close()), (Some(DONE), None));
        assert_eq!(late.post(DONE), Err(Gone));
    }

    #[test]
    fn the_bell_rings_once_for_all_answers_before_the_box_is_opened() {
        let rung = |mailbox: &Mailbox| syscall::poll([mailbox.bell().raw()], Some(Duration::ZERO)).unwrap() == [true];
        let mailbox = Mailbox::new().unwrap();
        assert!(!mailbox.open() && !rung(&mailbox));
        mailbox.ring();
        assert!(rung(&mailbox));
        syscall::read_event(mailbox.bell()).unwrap();
        mailbox.ring();
        assert!(!rung(&mailbox));
        assert!(mailbox.open());
        assert!(!mailbox.open());
        mailbox.ring();
        assert!(rung(&mailbox));
    }
}
