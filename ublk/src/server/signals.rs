// SPDX-License-Identifier: MIT OR Apache-2.0
//! SIGINT and SIGTERM as something to wait for.

use core::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, SystemCall};
use crate::syscall::{self, Fd, SignalMask};

/// SIGINT and SIGTERM, blocked in this thread and read from a descriptor instead.
#[derive(Debug)]
pub(super) struct Signals {
    fd: Fd,
    before: SignalMask,
    /// Whether one was taken.
    heard: AtomicBool,
}

impl Signals {
    pub(super) fn block() -> Result<Signals, Error> {
        let before = syscall::block_stop_signals().map_err(|errno| SystemCall::Sigmask.failed(errno))?;
        match syscall::stop_signalfd() {
            Ok(fd) => Ok(Signals { fd, before, heard: AtomicBool::new(false) }),
            Err(errno) => {
                let _ = syscall::restore_signals(&before);
                Err(SystemCall::Signalfd.failed(errno))
            }
        }
    }

    /// Readable when a signal has come.
    pub(super) fn fd(&self) -> &Fd {
        &self.fd
    }

    /// Takes a signal that has come.
    pub(super) fn take(&self) -> Option<i32> {
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
