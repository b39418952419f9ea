// SPDX-License-Identifier: MIT OR Apache-2.0
//! What keeps a server from waiting for its own disk. Nothing here is done unless it is called.
//!
//! A server whose memory the kernel takes away, or whose allocations the kernel serves by writing to the server's own disk, waits for
//! itself. It can happen where the disk holds swap, or a filesystem whose files fill the page cache of the same machine. Against it:
//!
//! - [`mark_io_flusher`], in each thread that serves: its allocations start no I/O. A thread's children have the mark too.
//! - [`PreparedQueue::lock_buffers`](crate::PreparedQueue::lock_buffers): the buffers of requests stay in memory.
//! - [`adjust_oom_score`]: the kernel, out of memory, ends another process.
//!
//! [`Server`](crate::Server) does the first two in its own threads and queues, where it is told to.
//!
//! The rest is the program's. Its code, its stacks and what its target has are locked by `mlockall(2)`, of which a unit file knows
//! nothing; it reads no file of its own disk, writes no log there, and opens the disk from no thread that serves. Where anything mounts
//! the disk, the server has a mount namespace of its own: the last process that has a mount ends it with its own end, and a server that
//! so unmounts its own disk waits for itself to write it back. `unshare --mount --propagation slave SERVER` gives it one in which
//! later mounts of the host appear, and vanish when the host unmounts them; `--propagation private` one in which they do not appear.

use core::fmt::{self, Write};

use crate::error::{Error, SystemCall};
use crate::syscall::{self, Fd};

/// Marks the calling thread, and the threads and processes that it makes from then on, as part of the I/O of a disk: no allocation
/// on its behalf starts I/O, and it is not held up where others have to wait for dirty pages to be written.
///
/// The right that it needs is `CAP_SYS_RESOURCE`, in the initial user namespace. The mark stays when that is given up. It ends with the
/// thread.
///
/// # Errors
///
/// [`Error::System`] with [`SystemCall::IoFlusher`]: `EPERM`, the thread has no `CAP_SYS_RESOURCE`.
///
/// # Kernel
///
/// Since Linux 5.6. `PR_SET_IO_FLUSHER`, prctl(2): sets `PF_MEMALLOC_NOIO` and `PF_LOCAL_THROTTLE`.
pub fn mark_io_flusher() -> Result<(), Error> {
    syscall::set_io_flusher().map_err(|errno| SystemCall::IoFlusher.failed(errno))
}

/// Says how much sooner, or later, than others this process is to be ended when the kernel is out of memory: from -1000, never, to
/// 1000. The processes that it makes from then on have the same.
///
/// Anybody may make it larger; the right to make it smaller than it was set by somebody who had it is `CAP_SYS_RESOURCE`, in the
/// initial user namespace. A unit file has it as `OOMScoreAdjust=`.
///
/// # Errors
///
/// - [`Error::Invalid`]: `score` is not from -1000 to 1000.
/// - [`Error::System`] with [`SystemCall::OomScore`]: `EACCES`, it would get smaller, and the process has no `CAP_SYS_RESOURCE`, or the
///   file is another user's because the process has changed its own; `ENOENT`, `/proc` is not there.
///
/// # Kernel
///
/// Since Linux 2.6.36. `/proc/self/oom_score_adj`, proc_pid_oom_score_adj(5).
pub fn adjust_oom_score(score: i16) -> Result<(), Error> {
    if !(-1000..=1000).contains(&score) {
        return Err(Error::Invalid { what: "an OOM score is adjusted by -1000 to 1000" });
    }
    let failed = |errno| SystemCall::OomScore.failed(errno);
    let file = Fd::open(c"/proc/self/oom_score_adj").map_err(failed)?;
    let mut text = Text { bytes: [0; 8], len: 0 };
    // It has room for every number of that range.
    let _ = write!(text, "{score}");
    syscall::pwrite(&file, &[text.bytes.get(..text.len).unwrap_or_default()], 0).map_err(failed)?;
    Ok(())
}

/// A few characters, without an allocator.
struct Text {
    bytes: [u8; 8],
    len: usize,
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            *self.bytes.get_mut(self.len).ok_or(fmt::Error)? = byte;
            self.len += 1;
        }
        Ok(())
    }
}

/// When memory that is locked is given to the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BufferLock {
    /// All of it at once: nothing is left to be found later, when there may be none.
    Prefaulted,
    /// Page by page, as they are used, and never taken away from then on (`MLOCK_ONFAULT`, Linux 4.4).
    Lazy,
}

static_assertions::assert_impl_all!(BufferLock: Send, Sync);

#[cfg(test)]
mod tests {
    use super::{Text, adjust_oom_score};
    use crate::error::Error;
    use core::fmt::Write;

    #[test]
    fn every_score_fits_and_no_other_is_written() {
        for score in -1000..=1000_i16 {
            let mut text = Text { bytes: [0; 8], len: 0 };
            write!(text, "{score}").unwrap();
            assert_eq!(&text.bytes[..text.len], std::format!("{score}").as_bytes());
        }
        let before = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
        for score in [-1001, 1001, i16::MIN, i16::MAX] {
            assert!(matches!(adjust_oom_score(score), Err(Error::Invalid { .. })), "{score}");
        }
        assert_eq!(std::fs::read_to_string("/proc/self/oom_score_adj").unwrap(), before);
    }
}
