// SPDX-License-Identifier: MIT OR Apache-2.0
//! A signal that is handled, and means nothing.
#![allow(unreachable_pub, reason = "a part of several test programs")]

use std::sync::atomic::{AtomicU64, Ordering};

/// How often SIGUSR1 was handled.
pub static HANDLED: AtomicU64 = AtomicU64::new(0);

extern "C" fn count(_signal: libc::c_int) {
    HANDLED.fetch_add(1, Ordering::Relaxed);
}

/// Handles SIGUSR1 without SA_RESTART, so that it ends a wait.
pub fn handle_sigusr1() {
    let mut action = core::mem::MaybeUninit::<libc::sigaction>::zeroed();
    let handler: extern "C" fn(libc::c_int) = count;
    // SAFETY: all zeroes are a sigaction: the default handler, no flags, nothing blocked.
    let action = unsafe { action.assume_init_mut() };
    action.sa_sigaction = handler as libc::sighandler_t;
    // SAFETY: `action` is initialised, and its handler does nothing but an atomic addition.
    let installed = unsafe { libc::sigaction(libc::SIGUSR1, action, core::ptr::null_mut()) };
    assert_eq!(installed, 0);
}
