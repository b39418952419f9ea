// SPDX-License-Identifier: MIT OR Apache-2.0
//! SIGINT and SIGTERM as something to wait for. (`ublk::Signals` is the standard library's.)

use core::ffi::c_int;
use core::mem::MaybeUninit;
use core::ptr;

use ublk::{Errno, Error, SystemCall};

/// Both signals, blocked in this thread and in those that it makes, and a descriptor that can be read when one has come.
#[derive(Debug)]
pub struct StopSignals {
    fd: c_int,
}

impl StopSignals {
    /// Blocks both for the rest of the program.
    ///
    /// # Errors
    ///
    /// [`Error::System`] with [`SystemCall::Signalfd`]: the process has no descriptor left.
    pub fn block() -> Result<StopSignals, Error> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: there is one sigset_t at the pointer, ours alone; the call initialises it.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: sigemptyset has initialised it, and cannot fail.
        let mut set = unsafe { set.assume_init() };
        // SAFETY: the set is initialised, and borrowed for the call.
        unsafe { libc::sigaddset(&mut set, libc::SIGINT) };
        // SAFETY: as above.
        unsafe { libc::sigaddset(&mut set, libc::SIGTERM) };
        // SAFETY: the set lives through the call, which reads it; the mask from before is not asked for.
        let errno = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, ptr::null_mut()) };
        if errno != 0 {
            return Err(Error::System { call: SystemCall::Sigmask, errno: Errno::from_raw(errno) });
        }
        // SAFETY: the set lives through the call, which reads it.
        let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            // SAFETY: the function has no precondition.
            let errno = unsafe { libc::__errno_location() };
            // SAFETY: it returned the place of this thread's errno, which lives as long as the thread.
            let errno = unsafe { *errno };
            return Err(Error::System { call: SystemCall::Signalfd, errno: Errno::from_raw(errno) });
        }
        Ok(StopSignals { fd })
    }

    /// A descriptor to be polled. It is open until the program ends.
    pub fn fd(&self) -> c_int {
        self.fd
    }
}
