// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is run: the queue's thread, and those that have its tokens.
//!
//! A buffer is written and read by whoever has it. The queue's thread does so for the kernel too, which uses its buffers only in
//! system calls of that thread. It sleeps as soon as it has looked and found nothing, and nothing but the bell wakes it: a
//! wake-up that is lost is a deadlock.

use std::sync::Arc;

use loom::sync::mpsc;
use loom::thread;

use super::mailbox::Letter;
use super::memory::Memory;
use super::references::References;
use super::turn::Turn;
use crate::explore::{Model, explore};
use crate::slot::Slot;

/// Each model with its name, the shortest first of each file.
pub(crate) const ALL: [(&str, Model); 5] = [
    ("mailbox: an answer is taken or refused when the queue ends, never both and never neither", ends),
    ("mailbox: a tag's buffer goes to another thread and comes back with the answer, again and again", hand_over),
    ("mailbox: every answer of several threads is collected, however few wake-ups there are", wake_ups),
    ("references: the last one ends what was shared, once, after all that the others did", references),
    ("turn: a tag's buffer goes from one thread to another, however they hear of it", turns),
];

fn letter(tag: usize) -> Letter {
    Letter { result: i32::try_from(tag).expect("a small queue") - 5, unanswered: tag == 1 }
}

/// The token of `tag` does its work.
fn work(memory: &Memory, tag: usize, round: u64) {
    assert_eq!(memory.buffer(tag).get(), round);
    memory.buffer(tag).set(round + 100);
}

/// The answer to `tag` has come: the buffer is the kernel's.
fn check(memory: &Memory, tag: usize, found: Letter, round: u64) {
    assert_eq!(found, letter(tag));
    assert_eq!(memory.buffer(tag).get(), round + 100);
    memory.buffer(tag).set(round + 1);
}

/// One token and a queue that ends: its thread may have looked before, and closes the box.
fn ends() -> String {
    explore("with the answer taken", || {
        let memory = Memory::new(1);
        let theirs = memory.clone();
        memory.letter_box(0).hand_out();
        let token = thread::spawn(move || {
            work(&theirs, 0, 0);
            let answered = theirs.answer(0, letter(0)).is_ok();
            if !answered {
                // The buffer was not given back.
                theirs.buffer(0).set(1);
            }
            answered
        });
        let mut outstanding = vec![0];
        let collected = memory.collect(&mut outstanding).pop();
        let found = match collected {
            Some((_, letter)) => Some(letter),
            None => memory.letter_box(0).close(),
        };
        if let Some(found) = found {
            check(&memory, 0, found, 0);
        }
        assert_eq!(token.join().expect("the token does not fail"), found.is_some());
        found.is_some()
    })
}

/// One tag, whose requests another thread gets one after the other.
fn hand_over() -> String {
    explore("in which the queue's thread slept", || {
        const ROUNDS: u64 = 2;
        let memory = Memory::new(1);
        let theirs = memory.clone();
        let (give, tokens) = mpsc::channel();
        let other = thread::spawn(move || {
            for _ in 0..ROUNDS {
                let round = tokens.recv().expect("a token comes");
                work(&theirs, 0, round);
                theirs.answer(0, letter(0)).expect("the queue has not ended");
            }
        });
        let mut slept = false;
        for round in 0..ROUNDS {
            memory.letter_box(0).hand_out();
            give.send(round).expect("the other thread takes it");
            let mut outstanding = vec![0];
            loop {
                if let Some((tag, found)) = memory.collect(&mut outstanding).pop() {
                    check(&memory, tag, found, round);
                    break;
                }
                slept |= memory.sleep();
            }
        }
        other.join().expect("the other thread does not fail");
        slept
    })
}

/// Two tags, and a thread for each of their tokens.
fn wake_ups() -> String {
    explore("with one wake-up for both", || {
        const TAGS: usize = 2;
        let memory = Memory::new(2);
        let mut outstanding: Vec<usize> = (0..TAGS).collect();
        let tokens = outstanding.clone().into_iter().map(|tag| {
            memory.letter_box(tag).hand_out();
            let theirs = memory.clone();
            thread::spawn(move || {
                work(&theirs, tag, 0);
                theirs.answer(tag, letter(tag)).expect("the queue has not ended");
            })
        });
        let tokens: Vec<_> = tokens.collect();
        let mut sleeps = 0;
        loop {
            for (tag, found) in memory.collect(&mut outstanding) {
                check(&memory, tag, found, 0);
            }
            if outstanding.is_empty() {
                break;
            }
            memory.sleep();
            sleeps += 1;
        }
        tokens.into_iter().for_each(|token| token.join().expect("a token does not fail"));
        sleeps == 1
    })
}

/// Three references, each of which does something of its own to what is shared. The third comes from the second.
fn references() -> String {
    struct Mapping {
        references: References,
        parts: Vec<Slot<u64>>,
    }

    impl Mapping {
        /// Uses a part and lets go. Whether this ended the mapping, after which no part may be used.
        fn release(&self, part: usize) -> bool {
            assert_eq!(self.parts[part].get(), 0);
            self.parts[part].set(1);
            let last = self.references.remove();
            if last {
                for part in &self.parts {
                    assert_eq!(part.get(), 1);
                    part.set(2);
                }
            }
            last
        }
    }

    explore("in which the queue was the last", || {
        let mapping = Arc::new(Mapping { references: References::one(), parts: Slot::several(3, 0) });
        mapping.references.add();
        let second = Arc::clone(&mapping);
        let second = thread::spawn(move || {
            second.references.add();
            let third = Arc::clone(&second);
            let third = thread::spawn(move || third.release(2));
            (second.release(1), third)
        });
        let first = mapping.release(0);
        let (second, third) = second.join().expect("it does not fail");
        let third = third.join().expect("it does not fail");
        assert_eq!([first, second, third].into_iter().filter(|last| *last).count(), 1);
        first
    })
}

/// Two threads that serve one queue. The first is done with a tag, and the second hears of that in a way that orders nothing; it may
/// not hear of it at all, and try too early.
fn turns() -> String {
    struct Tag {
        turn: Turn,
        buffer: Vec<Slot<u64>>,
    }

    explore("in which the second had its turn too", || {
        let tag = Arc::new(Tag { turn: Turn::default(), buffer: Slot::several(1, 0) });
        assert!(tag.turn.take());
        let theirs = Arc::clone(&tag);
        let second = thread::spawn(move || {
            let mine = theirs.turn.take();
            if mine {
                assert_eq!(theirs.buffer[0].get(), 1);
                theirs.buffer[0].set(2);
            }
            mine
        });
        tag.buffer[0].set(1);
        tag.turn.give_back();
        second.join().expect("it does not fail")
    })
}
