// SPDX-License-Identifier: MIT OR Apache-2.0
//! A thread with a stack of a given size.

use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use core::ptr;

use ublk::Errno;

/// Runs `body` on a stack of `stack_bytes` with a guard page below it, so that one byte more is a crash; what it returned.
///
/// # Errors
///
/// What `pthread_create(3)` gives: `EAGAIN` for want of memory or threads, `EINVAL` for a stack that is too small.
pub fn run<F: FnOnce() -> c_int + Send>(stack_bytes: usize, body: F) -> Result<c_int, Errno> {
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    // SAFETY: there is one pthread_attr_t at the pointer, ours alone; the call initialises it.
    check(unsafe { libc::pthread_attr_init(attributes.as_mut_ptr()) })?;
    // SAFETY: pthread_attr_init has initialised it.
    let mut attributes = unsafe { attributes.assume_init() };
    // SAFETY: the attributes are initialised, and borrowed for the call.
    check(unsafe { libc::pthread_attr_setstacksize(&mut attributes, stack_bytes) })?;
    // SAFETY: as above. The guard is no part of the stack's size.
    check(unsafe { libc::pthread_attr_setguardsize(&mut attributes, 4096) })?;

    let mut task = Task { body: Some(body), status: 0 };
    let argument: *mut Task<F> = &mut task;
    let mut thread = MaybeUninit::<libc::pthread_t>::uninit();
    // SAFETY: `thread` is written and the attributes are read in the call. `start` takes a Task of this F; it lives until the
    // thread is joined below, and is not touched here before.
    check(unsafe { libc::pthread_create(thread.as_mut_ptr(), &attributes, start::<F>, argument.cast()) })?;
    // SAFETY: the call succeeded, so it has written the thread.
    let thread = unsafe { thread.assume_init() };
    // SAFETY: the thread was made above, and is joined once. What it returns is not asked for.
    check(unsafe { libc::pthread_join(thread, ptr::null_mut()) })?;
    Ok(task.status)
}

/// What is run, and what it returned.
struct Task<F> {
    body: Option<F>,
    status: c_int,
}

extern "C" fn start<F: FnOnce() -> c_int>(argument: *mut c_void) -> *mut c_void {
    let task: *mut Task<F> = argument.cast();
    // SAFETY: `run` gives its own Task, which nobody else touches until this thread has ended.
    let task = unsafe { &mut *task };
    if let Some(body) = task.body.take() {
        task.status = body();
    }
    ptr::null_mut()
}

/// The functions of pthreads return their errno.
fn check(errno: c_int) -> Result<(), Errno> {
    if errno == 0 { Ok(()) } else { Err(Errno::from_raw(errno)) }
}
