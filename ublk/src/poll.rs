// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting for several descriptors at once, for loops of one's own that write no `unsafe`.

use core::time::Duration;

use crate::errno::Errno;
use crate::error::{Error, SystemCall};
use crate::syscall;

/// Waits until one of `fds` can be read or has failed, for `timeout` at most, and says which of them (`poll(2)`).
///
/// A negative number is passed over: where the number of descriptors is known only at run time, an array is filled up with -1. Where a signal was handled, none may be ready although the time is not over: whoever
/// waits in a loop looks around, and calls again. `timeout` is counted in milliseconds, a part of one as a whole.
///
/// ```no_run
/// # fn wait(queue: &ublk::Queue, signals: &ublk::Signals) -> Result<(), ublk::Error> {
/// let [requests, signal] = ublk::poll([queue.ring_fd(), signals.fd().raw()], None)?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`Error::System`] with [`SystemCall::Poll`]: `ENOMEM`, or `EINVAL` for more descriptors than the process may have open.
pub fn poll<const N: usize>(fds: [i32; N], timeout: Option<Duration>) -> Result<[bool; N], Error> {
    match syscall::poll(fds, timeout) {
        Ok(ready) => Ok(ready),
        Err(Errno::EINTR) => Ok([false; N]),
        Err(errno) => Err(SystemCall::Poll.failed(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::poll;
    use crate::syscall;
    use core::time::Duration;

    #[test]
    fn only_what_can_be_read_is_ready() {
        let (quiet, loud) = (syscall::eventfd().unwrap(), syscall::eventfd().unwrap());
        assert_eq!(poll([quiet.raw(), loud.raw()], Some(Duration::ZERO)), Ok([false, false]));
        syscall::write_event(&loud).unwrap();
        assert_eq!(poll([quiet.raw(), -1, loud.raw()], None), Ok([false, false, true]));
        assert_eq!(poll([], Some(Duration::from_micros(1))), Ok([]));
    }
}
