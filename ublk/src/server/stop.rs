// SPDX-License-Identifier: MIT OR Apache-2.0
//! What ends a server: a handle in another thread, or a signal.

use core::fmt;
use std::sync::Arc;

use crate::errno::Errno;
use crate::error::{Error, SystemCall};
use crate::syscall::{self, Fd, SignalMask};

/// Why a server stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stopped {
    /// A [`StopHandle`] said so.
    Handle,
    /// This signal came: 2 is SIGINT, 15 is SIGTERM.
    Signal(i32),
    /// The device ended: another process stopped or deleted it.
    ByItself,
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stopped::Handle => f.write_str("stopped"),
            Stopped::Signal(2) => f.write_str("stopped by SIGINT"),
            Stopped::Signal(15) => f.write_str("stopped by SIGTERM"),
            Stopped::Signal(other) => write!(f, "stopped by signal {other}"),
            Stopped::ByItself => f.write_str("stopped from outside"),
        }
    }
}

/// An eventfd: readable once notified.
#[derive(Debug)]
pub(super) struct Event {
    fd: Fd,
}

impl Event {
    pub(super) fn new() -> Result<Event, Error> {
        let fd = syscall::eventfd().map_err(|errno| SystemCall::Eventfd.failed(errno))?;
        Ok(Event { fd })
    }

    pub(super) fn fd(&self) -> &Fd {
        &self.fd
    }

    pub(super) fn notify(&self) {
        // It fails only where the counter is full, and then it is readable.
        let _ = syscall::write_event(&self.fd);
    }
}

/// Stops a [`Server`](super::Server) from another thread, or from a signal handler: [`stop`](StopHandle::stop) is one
/// `write(2)`. Several servers may have the same handle, and all of them stop.
#[derive(Clone, Debug)]
pub struct StopHandle {
    /// Never read, so that it stays readable.
    event: Arc<Event>,
}

impl StopHandle {
    /// Makes a handle.
    ///
    /// # Errors
    ///
    /// [`Error::System`] with [`SystemCall::Eventfd`]: the process has no descriptor left.
    pub fn new() -> Result<StopHandle, Error> {
        Ok(StopHandle { event: Arc::new(Event::new()?) })
    }

    /// Asks the server to stop. It returns at once; the server's `run` returns when the device is gone.
    pub fn stop(&self) {
        self.event.notify();
    }
}

/// Everything that a server waits for.
#[derive(Debug)]
pub(super) struct Wakeups {
    /// Notified when a thread of the server has something to say.
    pub(super) news: Event,
    pub(super) handle: Option<StopHandle>,
    pub(super) signals: Option<Signals>,
}

impl Wakeups {
    /// Waits for news, or for a reason to stop, which is returned.
    pub(super) fn wait(&self) -> Result<Option<Stopped>, Error> {
        let handle = self.handle.as_ref().map(|handle| handle.event.fd());
        let signals = self.signals.as_ref().map(|signals| &signals.fd);
        let [news, stopped, _] = loop {
            match syscall::poll([Some(self.news.fd()), handle, signals]) {
                Ok(readable) => break readable,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(SystemCall::Poll.failed(errno)),
            }
        };
        if news {
            // What is said is looked for elsewhere; the next wait is for what comes after.
            let _ = syscall::read_event(self.news.fd());
        }
        let signal = self.signals.as_ref().and_then(Signals::take);
        Ok(signal.map(Stopped::Signal).or(stopped.then_some(Stopped::Handle)))
    }
}

/// SIGINT and SIGTERM, blocked in this thread and read from a descriptor instead.
#[derive(Debug)]
pub(super) struct Signals {
    fd: Fd,
    before: SignalMask,
}

impl Signals {
    pub(super) fn block() -> Result<Signals, Error> {
        let before = syscall::block_stop_signals().map_err(|errno| SystemCall::Sigmask.failed(errno))?;
        match syscall::stop_signalfd() {
            Ok(fd) => Ok(Signals { fd, before }),
            Err(errno) => {
                let _ = syscall::restore_signals(&before);
                Err(SystemCall::Signalfd.failed(errno))
            }
        }
    }

    /// Takes a signal that has come.
    fn take(&self) -> Option<i32> {
        syscall::read_signal(&self.fd).ok()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // A signal that came twice would end the process the moment it is let through, though its wish was granted.
        while self.take().is_some() {}
        let _ = syscall::restore_signals(&self.before);
    }
}
