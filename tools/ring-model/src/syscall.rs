// SPDX-License-Identifier: MIT OR Apache-2.0
//! In place of the crate's system calls: an eventfd, and a ring that polls it.

use std::convert::Infallible;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use loom::sync::atomic::AtomicBool;
use loom::thread::{self, Thread};

/// An eventfd that a ring polls edge by edge: what counts is whether it was written since the ring last said so.
///
/// Loom changes threads at what is loom's alone, so that each function's access to `written` and what follows are one step.
/// In the kernel both take the eventfd's lock (`eventfd_write()` calls `io_poll_wake()` under it): whoever was woken by a
/// write sees what was there before it.
#[derive(Debug)]
pub(crate) struct Fd {
    written: AtomicBool,
    sleeper: Mutex<Option<Thread>>,
}

pub(crate) fn eventfd() -> Result<Fd, Infallible> {
    Ok(Fd { written: AtomicBool::new(false), sleeper: Mutex::new(None) })
}

pub(crate) fn write_event(event: &Fd) -> Result<(), Infallible> {
    event.written.swap(true, Ordering::AcqRel);
    if let Some(sleeper) = event.sleeper.lock().expect("no thread fails").take() {
        sleeper.unpark();
    }
    Ok(())
}

/// Sleeps until it is written, if it was not already; whether this slept. Where nobody is left to write it, loom says
/// "deadlock".
pub(crate) fn wait_for_event(event: &Fd) -> bool {
    let mut slept = false;
    while !event.written.swap(false, Ordering::AcqRel) {
        *event.sleeper.lock().expect("no thread fails") = Some(thread::current());
        thread::park();
        slept = true;
    }
    slept
}
