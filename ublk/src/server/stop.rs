// SPDX-License-Identifier: MIT OR Apache-2.0
//! What ends a server's service: a handle in another thread, or a signal.

use core::fmt;
use core::time::Duration;
use std::sync::Arc;

use crate::errno::Errno;
use crate::error::{Error, SystemCall};
use crate::poll::poll;
use crate::signals::Signals;
use crate::syscall::{self, Fd};

/// SIGUSR2, the last of the signals that are taken.
const HAND_OVER_SIGNAL: i32 = {
    let [_, _, hand_over] = syscall::SIGNALS;
    hand_over
};

/// How soon what could not be asked is asked again.
const HEAR_AGAIN: Duration = Duration::from_millis(10);

/// Why a server stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stopped {
    /// A [`StopHandle`] said so.
    Handle,
    /// This signal came: 2 is SIGINT, 15 is SIGTERM.
    Signal(i32),
    /// Another process stopped or deleted the device.
    FromOutside,
    /// The device waits for its next server, or has it: this one was told to [hand over](super::Server::hand_over_on), or another process
    /// has had the device [quiesced](crate::Control::quiesce).
    HandedOver,
}

static_assertions::assert_impl_all!(Stopped: Send, Sync);

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stopped::Handle => f.write_str("stopped"),
            Stopped::Signal(2) => f.write_str("stopped by SIGINT"),
            Stopped::Signal(15) => f.write_str("stopped by SIGTERM"),
            Stopped::Signal(other) => write!(f, "stopped by signal {other}"),
            Stopped::FromOutside => f.write_str("stopped from outside"),
            Stopped::HandedOver => f.write_str("handed over"),
        }
    }
}

/// An eventfd: readable once notified.
#[derive(Debug)]
pub(super) struct Bell {
    fd: Fd,
}

impl Bell {
    pub(super) fn new() -> Result<Bell, Error> {
        let fd = syscall::eventfd().map_err(|errno| SystemCall::Eventfd.failed(errno))?;
        Ok(Bell { fd })
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
#[must_use]
pub struct StopHandle {
    /// Never read, so that it stays readable.
    event: Arc<Bell>,
}

static_assertions::assert_impl_all!(StopHandle: Send, Sync);

impl StopHandle {
    /// Makes a handle.
    ///
    /// # Errors
    ///
    /// [`Error::System`] with [`SystemCall::Eventfd`]: the process has no descriptor left.
    pub fn new() -> Result<StopHandle, Error> {
        Ok(StopHandle { event: Arc::new(Bell::new()?) })
    }

    /// Asks the server to stop. It returns at once; the server's `run` returns when the device is gone.
    pub fn stop(&self) {
        self.event.notify();
    }
}

/// As [`poll`]; where the kernel has no memory for it just then, nothing has come, and it is asked again a moment later. A server that ended
/// over that would leave a stop, or a sync, that is under way.
pub(super) fn hear<const N: usize>(fds: [i32; N], time: Option<Duration>) -> Result<[bool; N], Error> {
    match poll(fds, time) {
        Err(Error::System { errno: Errno::ENOMEM, .. }) => {
            syscall::sleep(HEAR_AGAIN);
            Ok([false; N])
        }
        heard => heard,
    }
}

/// What ends a server from outside.
#[derive(Debug)]
pub(super) struct Wakeups {
    pub(super) handle: Option<StopHandle>,
    pub(super) hand_over: Option<StopHandle>,
    pub(super) signals: Option<Signals>,
}

impl Wakeups {
    /// Waits for news of a thread, or for a reason to stop, which is returned.
    pub(super) fn wait(&self, news: &Bell) -> Result<Option<Stopped>, Error> {
        self.poll(news, None, None, true)
    }

    /// As [`wait`](Wakeups::wait), for this long at most. Reasons to stop are waited for only with `stops`.
    pub(super) fn wait_for(&self, news: &Bell, time: Duration, stops: bool) -> Result<Option<Stopped>, Error> {
        self.poll(news, None, Some(time), stops)
    }

    /// As [`wait_for`](Wakeups::wait_for), and until `other` can be read.
    pub(super) fn wait_or(
        &self,
        news: &Bell,
        other: &Fd,
        time: Option<Duration>,
        stops: bool,
    ) -> Result<Option<Stopped>, Error> {
        self.poll(news, Some(other), time, stops)
    }

    fn poll(
        &self,
        news: &Bell,
        other: Option<&Fd>,
        time: Option<Duration>,
        stops: bool,
    ) -> Result<Option<Stopped>, Error> {
        let event = |handle: &'_ Option<StopHandle>| {
            handle.as_ref().filter(|_| stops).map_or(-1, |handle| handle.event.fd().raw())
        };
        let signals = self.signals.as_ref().filter(|_| stops).map(Signals::fd);
        let raw = |fd: Option<&Fd>| fd.map_or(-1, Fd::raw);
        // Whoever waits for a time looks at the clock, and calls again.
        let fds = [news.fd().raw(), event(&self.handle), event(&self.hand_over), raw(signals), raw(other)];
        let [heard, stopped, handed_over, _, _] = hear(fds, time)?;
        if heard {
            // What is said is looked for elsewhere; the next wait is for what comes after.
            let _ = syscall::read_event(news.fd());
        }
        let signal = self.signals.as_ref().filter(|_| stops).and_then(Signals::take);
        let signalled = signal.map(|signal| match signal {
            HAND_OVER_SIGNAL => Stopped::HandedOver,
            other => Stopped::Signal(other),
        });
        // A stop is the end of a device, and goes before what is not.
        let handled = stopped.then_some(Stopped::Handle).or(handed_over.then_some(Stopped::HandedOver));
        Ok(signalled.or(handled))
    }
}
