// SPDX-License-Identifier: MIT OR Apache-2.0
//! SIGINT, SIGTERM and SIGUSR2 as something to wait for.

use core::cell::Cell;
use core::marker::PhantomData;

use crate::error::{Error, SystemCall};
use crate::syscall::{self, Fd};

/// SIGINT and SIGTERM, blocked in this thread and taken from a descriptor instead (`signalfd(2)`).
///
/// Threads that are made after [`block`](Signals::block) inherit it, and so do programs that are run, which ignore both unless
/// they unblock them. A thread that was made before still has its own mask, and lets the signal take its course: this is called
/// first of all in `main`. Dropping it lets those through again that it has blocked. Of several in one thread the
/// first is the one that blocks: it is to be dropped last.
///
/// It stays in the thread whose mask it has changed:
///
/// ```compile_fail,E0277
/// fn look(signals: ublk::Signals) {
///     let signals = signals;
///     std::thread::scope(|scope| drop(scope.spawn(move || signals)));
/// }
/// ```
///
/// ```no_run
/// fn look(signals: ublk::Signals) {
///     let signals = signals.fd().raw();
///     std::thread::scope(|scope| drop(scope.spawn(move || signals)));
/// }
/// ```
#[derive(Debug)]
#[must_use = "they are let through again when it is dropped"]
pub struct Signals {
    fd: Fd,
    /// Which of them this has blocked.
    blocked: [bool; 3],
    /// Whether one was taken.
    heard: Cell<bool>,
    /// What is blocked is blocked in one thread.
    thread: PhantomData<*const ()>,
}

static_assertions::assert_not_impl_any!(Signals: Send, Sync);

impl Signals {
    /// Blocks both in the calling thread, and opens a descriptor for them.
    ///
    /// # Errors
    ///
    /// [`Error::System`] with [`SystemCall::Signalfd`]: the process has no descriptor left.
    pub fn block() -> Result<Signals, Error> {
        Signals::block_these([true, true, false])
    }

    /// As [`block`](Signals::block), and SIGUSR2 with them, by which a server can be told to
    /// hand over to its successor (`Server::hand_over_on_signal`).
    ///
    /// # Errors
    ///
    /// Those of [`block`](Signals::block).
    pub fn block_with_hand_over() -> Result<Signals, Error> {
        Signals::block_these([true; 3])
    }

    fn block_these(these: [bool; 3]) -> Result<Signals, Error> {
        let blocked = syscall::block_signals(these).map_err(|errno| SystemCall::Sigmask.failed(errno))?;
        match syscall::signalfd(these) {
            Ok(fd) => Ok(Signals { fd, blocked, heard: Cell::new(false), thread: PhantomData }),
            Err(errno) => {
                syscall::unblock_signals(blocked);
                Err(SystemCall::Signalfd.failed(errno))
            }
        }
    }

    /// A descriptor to be polled: readable when a signal has come.
    #[must_use]
    pub const fn fd(&self) -> &Fd {
        &self.fd
    }

    /// Takes a signal that has come, if one has: 2 is SIGINT, 15 is SIGTERM, 12 is SIGUSR2. It waits for nothing.
    pub fn take(&self) -> Option<i32> {
        let signal = syscall::read_signal(&self.fd).ok()?;
        self.heard.set(true);
        Some(signal)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // A signal that came twice would end the process the moment it is let through, though its wish was granted. One that
        // came too late to be heard takes its course.
        if self.heard.get() {
            while self.take().is_some() {}
        }
        syscall::unblock_signals(self.blocked);
    }
}

#[cfg(test)]
mod tests {
    use super::Signals;
    use std::borrow::ToOwned;
    use std::string::String;

    /// What this thread, which runs one test, has blocked.
    fn blocked() -> String {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        status.lines().find_map(|line| line.strip_prefix("SigBlk:\t")).unwrap().to_owned()
    }

    #[test]
    fn what_was_blocked_is_let_through_when_every_guard_is_gone_in_whichever_order() {
        let before = blocked();
        let (first, second) = (Signals::block().unwrap(), Signals::block().unwrap());
        assert_ne!(blocked(), before);
        drop(second);
        assert_ne!(blocked(), before);
        let third = Signals::block().unwrap();
        drop(first);
        drop(third);
        assert_eq!(blocked(), before);
    }
}
