// SPDX-License-Identifier: MIT OR Apache-2.0
//! SIGINT and SIGTERM as something to wait for.

use core::marker::PhantomData;
use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::MutexGuard;

use crate::error::{Error, SystemCall};
use crate::syscall::{self, Fd, SignalMask};

/// SIGINT and SIGTERM, blocked in this thread and taken from a descriptor instead (`signalfd(2)`).
///
/// Threads that are made after [`block`](Signals::block) inherit it; one that was made before still has its own mask, and a
/// signal that it gets takes its course. Dropping it lets them through again.
///
/// The thread that blocked them lets them through again; others may look:
///
/// ```compile_fail,E0277
/// fn look(signals: ublk::Signals) {
///     let signals = signals;
///     std::thread::scope(|scope| drop(scope.spawn(move || signals.take())));
/// }
/// ```
///
/// ```no_run
/// fn look(signals: ublk::Signals) {
///     let signals = &signals;
///     std::thread::scope(|scope| drop(scope.spawn(move || signals.take())));
/// }
/// ```
#[derive(Debug)]
pub struct Signals {
    fd: Fd,
    before: SignalMask,
    /// Whether one was taken.
    heard: AtomicBool,
    /// What is blocked is blocked in one thread, so that this is dropped there: shared, and not sent, as such a guard is.
    thread: PhantomData<MutexGuard<'static, ()>>,
}

static_assertions::assert_impl_all!(Signals: Sync);
static_assertions::assert_not_impl_any!(Signals: Send);

impl Signals {
    /// Blocks both in the calling thread, and opens a descriptor for them.
    ///
    /// # Errors
    ///
    /// [`Error::System`] with [`SystemCall::Signalfd`]: the process has no descriptor left.
    pub fn block() -> Result<Signals, Error> {
        let before = syscall::block_stop_signals().map_err(|errno| SystemCall::Sigmask.failed(errno))?;
        match syscall::stop_signalfd() {
            Ok(fd) => Ok(Signals { fd, before, heard: AtomicBool::new(false), thread: PhantomData }),
            Err(errno) => {
                let _ = syscall::restore_signals(&before);
                Err(SystemCall::Signalfd.failed(errno))
            }
        }
    }

    /// A descriptor to be polled: readable when a signal has come.
    #[must_use]
    pub fn fd(&self) -> &Fd {
        &self.fd
    }

    /// Takes a signal that has come, if one has: 2 is SIGINT, 15 is SIGTERM. It waits for nothing.
    pub fn take(&self) -> Option<i32> {
        let signal = syscall::read_signal(&self.fd).ok()?;
        self.heard.store(true, Ordering::Relaxed);
        Some(signal)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // A signal that came twice would end the process the moment it is let through, though its wish was granted. One that
        // came too late to be heard takes its course.
        if self.heard.load(Ordering::Relaxed) {
            while self.take().is_some() {}
        }
        let _ = syscall::restore_signals(&self.before);
    }
}
