// SPDX-License-Identifier: MIT OR Apache-2.0
//! What ends a server: a handle in another thread, or a signal.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
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

/// Stops a [`Server`](super::Server) from another thread, or from a signal handler: [`stop`](StopHandle::stop) is one store
/// and one `write(2)`.
#[derive(Clone, Debug)]
pub struct StopHandle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    event: Event,
    stopped: AtomicBool,
}

impl StopHandle {
    /// Makes a handle, for one server.
    ///
    /// # Errors
    ///
    /// [`Error::System`] with [`SystemCall::Eventfd`]: the process has no descriptor left.
    pub fn new() -> Result<StopHandle, Error> {
        Ok(StopHandle { inner: Arc::new(Inner { event: Event::new()?, stopped: AtomicBool::new(false) }) })
    }

    /// Asks the server to stop. It returns at once; the server's `run` returns when the device is gone.
    pub fn stop(&self) {
        self.inner.stopped.store(true, Ordering::Release);
        self.notify();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.inner.stopped.load(Ordering::Acquire)
    }

    /// Wakes the server without asking it to stop.
    pub(super) fn notify(&self) {
        self.inner.event.notify();
    }

    /// Waits until notified, or until a signal comes, which is returned.
    pub(super) fn wait(&self, signals: Option<&Signals>) -> Result<Option<i32>, Error> {
        let event = self.inner.event.fd();
        loop {
            match syscall::poll(event, signals.map(|signals| &signals.fd)) {
                Ok(()) => {}
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(SystemCall::Poll.failed(errno)),
            }
            if let Some(signal) = signals.and_then(Signals::take) {
                return Ok(Some(signal));
            }
            if syscall::read_event(event).is_ok() {
                return Ok(None);
            }
        }
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
