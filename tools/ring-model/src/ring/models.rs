// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is run: the user's side on one thread, the kernel's on another.
//!
//! No side waits for the other. Each tries as often as the model says and goes on, and when both have ended, the rest is
//! done in order. So loom comes to an end, and sees every amount that either can be ahead.

use loom::thread;

use super::cq::CompletionQueue;
use super::kernel::{BufferList, CQ_OVERFLOW, Kernel};
use super::memory::{BufferMemory, Memory};
use super::op::Op;
use super::provided::ProvidedQueue;
use super::shared::Shared;
use super::sq::SubmissionQueue;
use crate::error::Error;
use crate::explore::{Model, explore};

/// Each model with its name, the shortest first.
pub(crate) const ALL: [(&str, Model); 4] = [
    ("ring: an operation hands its buffer over, and its completion hands it back", round_trips),
    ("ring: submissions arrive in order, and none is written over before it was read", submissions),
    ("ring: completions arrive in order, and none is written over before it was read", completions),
    ("provided: a buffer is given when its entry is whole, and written over only after it was read", provided),
];

/// Where counters start: they wrap in the middle of each model. What loom does is the same from any other start, and whole
/// steps from others are walked in the crate's own tests.
const START: u32 = u32::MAX - 1;

/// Both sides did all their work without waiting for the end of the other.
const BESIDE: &str = "beside each other to the end";

fn op(user_data: u64) -> Op {
    Op { user_data, buffer: 0 }
}

/// Up to five entries through a queue of two.
fn submissions() -> String {
    explore(BESIDE, || {
        const TRIES: usize = 5;
        let memory = Memory::new(2, 2, 0, START);
        let mut kernel = Kernel::new(memory.clone(), START);
        let kernel = thread::spawn(move || {
            // One, then whatever is there.
            let mut taken = kernel.take(1);
            taken.extend(kernel.take(u32::MAX));
            taken.extend(kernel.take(u32::MAX));
            (kernel, taken)
        });
        let shared = Shared::over(memory).expect("the masks are right");
        let mut sq = SubmissionQueue::new(&shared);
        let mut pushed = 0;
        for _ in 0..TRIES {
            match sq.push(&shared, &op(pushed)) {
                Ok(()) => pushed += 1,
                Err(error) => assert_eq!(error, Error::RingFull),
            }
        }
        let (mut kernel, mut taken) = kernel.join().expect("the kernel does not fail");
        let in_time = taken.len();
        taken.extend(kernel.take(u32::MAX));
        assert_eq!(sq.staged(&shared), 0);
        assert!(taken.iter().map(|op| op.user_data).eq(0..pushed), "{taken:?} of {pushed}");
        in_time >= 4
    })
}

/// Four completions through a queue of two.
fn completions() -> String {
    explore(BESIDE, || {
        const POSTED: u64 = 4;
        let memory = Memory::new(2, 2, 0, START);
        let mut kernel = Kernel::new(memory.clone(), START);
        let shared = Shared::over(memory).expect("the masks are right");
        let mut cq = CompletionQueue::new(&shared);
        // Nothing completes before the ring is there.
        let kernel = thread::spawn(move || {
            (0..POSTED).for_each(|user_data| kernel.complete(user_data));
            kernel
        });
        let mut taken = Vec::new();
        for _ in 0..POSTED {
            taken.extend(cq.next(&shared));
        }
        let mut kernel = kernel.join().expect("the kernel does not fail");
        let in_time = taken.len();
        let overflowed = shared.submission_flags() & CQ_OVERFLOW != 0;
        kernel.flush_overflow();
        while cq.has_some(&shared) {
            taken.extend(cq.next(&shared));
            kernel.flush_overflow();
        }
        assert!(taken.iter().map(|completion| completion.user_data).eq(0..POSTED), "{taken:?}");
        assert_eq!(cq.check_lost(&shared), Ok(()));
        in_time >= 3 && !overflowed
    })
}

/// Each operation names the one buffer, so that it is submitted when the one before it has completed.
///
/// The user writes the buffer and the kernel reads it, and then the other way round, and nothing but the queues orders that.
fn round_trips() -> String {
    explore(BESIDE, || {
        const TRIES: usize = 4;
        let memory = Memory::new(2, 2, 1, START);
        let mut kernel = Kernel::new(memory.clone(), START);
        let buffers = memory.clone();
        let serve = |kernel: &mut Kernel, memory: &Memory| {
            for op in kernel.take(u32::MAX) {
                assert_eq!(memory.read_buffer(op.buffer), op.user_data);
                memory.write_buffer(op.buffer, op.user_data + 100);
                kernel.complete(op.user_data);
            }
        };
        let kernel = thread::spawn(move || {
            (0..TRIES).for_each(|_| serve(&mut kernel, &buffers));
            (kernel, buffers)
        });
        let shared = Shared::over(memory.clone()).expect("the masks are right");
        let (mut sq, mut cq) = (SubmissionQueue::new(&shared), CompletionQueue::new(&shared));
        let submit = |sq: &mut SubmissionQueue, user_data| {
            memory.write_buffer(0, user_data);
            sq.push(&shared, &op(user_data)).expect("one at a time finds room");
        };
        let mut next = 0;
        submit(&mut sq, next);
        let mut reap = |cq: &mut CompletionQueue| {
            let completion = cq.next(&shared)?;
            assert_eq!(completion.user_data, next);
            assert_eq!(memory.read_buffer(0), next + 100);
            next += 1;
            Some(next)
        };
        for _ in 0..TRIES {
            if let Some(user_data) = reap(&mut cq) {
                submit(&mut sq, user_data);
            }
        }
        let (mut kernel, buffers) = kernel.join().expect("the kernel does not fail");
        serve(&mut kernel, &buffers);
        let last = reap(&mut cq);
        assert!(last.is_some(), "the last one came back");
        last >= Some(3)
    })
}

/// One buffer, filled by the kernel, read, and given back.
///
/// Completions bring what the kernel has put into it, the buffer's id in their user data.
fn provided() -> String {
    explore(BESIDE, || {
        const TRIES: u64 = 2;
        const BASE: u64 = 100;
        let memory = Memory::new(1, 2, 0, START);
        let buffers = BufferMemory::new(2);
        let mut kernel = Kernel::new(memory.clone(), START);
        let mut list = BufferList::new(buffers.clone());
        let shared = Shared::over(memory).expect("the masks are right");
        let mut cq = CompletionQueue::new(&shared);
        let kernel = thread::spawn(move || {
            let mut filled = 0;
            for _ in 0..TRIES {
                if let Some(buffer) = list.fill(BASE + filled) {
                    filled += 1;
                    kernel.complete(buffer.into());
                }
            }
            filled
        });
        let mut queue = ProvidedQueue::new(buffers);
        queue.provide(1).expect("there are two");
        let mut taken = 0;
        let mut take = |cq: &mut CompletionQueue| {
            let completion = cq.next(&shared)?;
            let buffer = u16::try_from(completion.user_data).expect("it is a buffer's id");
            assert_eq!(queue.memory.read_buffer(buffer), BASE + taken);
            taken += 1;
            queue.provide(buffer)
        };
        for _ in 0..TRIES {
            let _ = take(&mut cq);
        }
        let filled = kernel.join().expect("the kernel does not fail");
        while take(&mut cq).is_some() {}
        assert_eq!(taken, filled);
        // It was given back in time, and filled again.
        filled == 2
    })
}
