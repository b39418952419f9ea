// SPDX-License-Identifier: MIT OR Apache-2.0
//! An io_uring of our own: set-up, both queues, entering the kernel. It knows nothing of ublk.
//!
//! ```text
//!   push(op) ──> submission queue ──┐                        one io_uring_enter
//!                                   ├── submit_and_wait() ── takes what is staged,
//!   next_completion() <── CQ  <─────┘                        waits for completions
//! ```
//!
//! There are two kinds, because ublk needs two:
//!
//! - [`Wide`]: entries of 128 bytes, usable from whichever thread owns it. For control commands, whose 32-byte struct
//!   does not fit into 64 bytes behind byte 48.
//! - [`Local`]: entries of 64 bytes, bound to the one thread that enabled it, with `IORING_SETUP_SINGLE_ISSUER` and
//!   `IORING_SETUP_DEFER_TASKRUN`. That pair is not an optimisation here: without it the kernel writes a request's data
//!   whenever it likes, into the buffers of a ring that was closed already too; with it only while this thread is inside
//!   `io_uring_enter`, as long as the ring lives. A kernel that does not have the pair gets an error, never a ring without it.
//!
//! SQPOLL is not offered: the thread that polls would become the daemon of every tag, and `DEFER_TASKRUN` excludes it.
//! IOPOLL is not offered: control commands are refused on such a ring.

mod buffer_ring;
mod cq;
mod geometry;
mod memory;
mod op;
mod position;
mod provided;
pub(crate) mod registered;
mod restrictions;
mod shared;
mod sq;
#[cfg(test)]
mod walk;

use core::fmt;
use core::marker::PhantomData;
use core::time::Duration;

use ublk_sys::{
    IORING_ENTER_GETEVENTS, IORING_SETUP_CQSIZE, IORING_SETUP_DEFER_TASKRUN, IORING_SETUP_NO_SQARRAY,
    IORING_SETUP_R_DISABLED, IORING_SETUP_SINGLE_ISSUER, IORING_SETUP_SQE128, IORING_SETUP_SUBMIT_ALL,
    IORING_SQ_CQ_OVERFLOW, io_uring_params,
};

pub use buffer_ring::{BufferRing, BufferUse};
pub use cq::Completion;
pub use op::{Entry, Op, OpFile, WideOp};
pub use restrictions::Restrictions;

use crate::errno::Errno;
use crate::error::{Error, SystemCall};
use crate::syscall::{self, Fd, RingHandle};
use cq::CompletionQueue;
use memory::Memory;
use shared::Shared;
use sq::SubmissionQueue;

/// A kind of ring: [`Wide`] or [`Local`].
pub trait Kind: sealed::Sealed {
    /// Its submission entries.
    type Entry: Entry;
}

/// Entries of 128 bytes, plain: no flag that ties it to a thread (`IORING_SETUP_SQE128`).
#[derive(Debug)]
pub enum Wide {}

/// Entries of 64 bytes, served by the one thread that enabled it (`IORING_SETUP_SINGLE_ISSUER`,
/// `IORING_SETUP_DEFER_TASKRUN`, both in Linux 6.1).
#[derive(Debug)]
pub enum Local {}

/// Entries of 64 bytes, plain: what an operation has left to be done is done by the thread that submitted it, wherever that is by then.
#[derive(Debug)]
pub(crate) enum Plain {}

impl Kind for Wide {
    type Entry = WideOp;
}

impl Kind for Local {
    type Entry = Op;
}

impl Kind for Plain {
    type Entry = Op;
}

mod sealed {
    use super::{IORING_SETUP_DEFER_TASKRUN, IORING_SETUP_R_DISABLED, IORING_SETUP_SINGLE_ISSUER, IORING_SETUP_SQE128};

    pub trait Sealed {
        /// The set-up flags that make the kind.
        const SETUP: u32;
        /// A type that is `Send` where the ring may be.
        type Thread;
    }

    impl Sealed for super::Wide {
        const SETUP: u32 = IORING_SETUP_SQE128;
        type Thread = ();
    }

    impl Sealed for super::Plain {
        const SETUP: u32 = 0;
        type Thread = ();
    }

    impl Sealed for super::Local {
        const SETUP: u32 = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_R_DISABLED;
        type Thread = *const ();
    }
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// There is at least one completion to take.
    Completions,
    /// The time is over, and there is none.
    TimedOut,
    /// A signal was handled, and there is none. Also where the time is over in a call that submitted something: the
    /// kernel then says how much it took, and not why the wait ended.
    Interrupted,
}

static_assertions::assert_impl_all!(Wake: Send, Sync);

/// An io_uring.
///
/// Dropping it closes it. The kernel ends what is under way later, on its own time: memory that an operation names is
/// free for another use only once that operation's completion was taken.
pub struct Ring<K: Kind> {
    sq: SubmissionQueue,
    cq: CompletionQueue,
    shared: Shared,
    /// The ring's index among this thread's registered rings, where it has one.
    registered: Option<u32>,
    fd: Fd,
    thread: PhantomData<K::Thread>,
}

/// A [`Local`] ring that no thread has taken yet. Unlike the ring it becomes, it can be sent to the thread that serves.
#[derive(Debug)]
pub struct DisabledRing {
    fd: Fd,
    shared: Shared,
}

impl<K: Kind> fmt::Debug for Ring<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("fd", &self.fd)
            .field("registered", &self.registered)
            .field("submission_entries", &self.shared.submission_entries())
            .field("completion_entries", &self.shared.completion_entries())
            .finish_non_exhaustive()
    }
}

/// The kernel says so of a whole queue only where head and tail contradict each other; it would be asked for ever.
const TOOK_NOTHING: Error =
    Error::Implausible { what: "the count of entries taken from a queue that has some", value: 0 };

/// Sets up a ring of kind `K` and maps it.
fn set_up<K: Kind>(submissions: u32, completions: u32) -> Result<(Fd, Shared), Error> {
    let wanted = K::SETUP | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE;
    // NO_SQARRAY came with Linux 6.6 and a kernel refuses a flag that it does not know, so it is tried first.
    let mut last = Errno::EINVAL;
    for flags in [wanted | IORING_SETUP_NO_SQARRAY, wanted] {
        let mut params = io_uring_params::default();
        params.flags = flags;
        params.cq_entries = completions;
        match syscall::io_uring_setup(submissions, &mut params) {
            Ok(fd) => {
                let memory = Memory::map(&fd, &params, submissions, completions, size_of::<K::Entry>())?;
                return Ok((fd, Shared::over(memory)?));
            }
            Err(Errno::EINVAL) => last = Errno::EINVAL,
            Err(errno) => {
                last = errno;
                break;
            }
        }
    }
    Err(SystemCall::IoUringSetup.failed(last))
}

impl Ring<Wide> {
    /// Makes a ring with at least this many entries.
    ///
    /// # Errors
    ///
    /// - [`Error::System`]: see [`SystemCall::IoUringSetup`] and [`SystemCall::MmapRing`].
    /// - [`Error::Implausible`]: the kernel described a ring that cannot be one.
    ///
    /// # Kernel
    ///
    /// `IORING_SETUP_SQE128` since Linux 5.19. In liburing: `io_uring_queue_init_params()`.
    pub fn wide(submissions: u32, completions: u32) -> Result<Ring<Wide>, Error> {
        let (fd, shared) = set_up::<Wide>(submissions, completions)?;
        Ok(Ring::over(fd, shared, None))
    }
}

impl Ring<Plain> {
    /// Makes a ring with at least this many entries.
    pub(crate) fn plain(submissions: u32, completions: u32) -> Result<Ring<Plain>, Error> {
        let (fd, shared) = set_up::<Plain>(submissions, completions)?;
        Ok(Ring::over(fd, shared, None))
    }
}

impl Ring<Local> {
    /// Makes a ring with at least this many entries, which does nothing until it is enabled.
    ///
    /// # Errors
    ///
    /// As for [`Ring::wide`]; `EINVAL` from `io_uring_setup` also where the kernel is older than Linux 6.1.
    ///
    /// # Kernel
    ///
    /// `IORING_SETUP_R_DISABLED` since Linux 5.10, `IORING_SETUP_DEFER_TASKRUN` since 6.1.
    pub fn local(submissions: u32, completions: u32) -> Result<DisabledRing, Error> {
        let (fd, shared) = set_up::<Local>(submissions, completions)?;
        Ok(DisabledRing { fd, shared })
    }
}

impl DisabledRing {
    /// Enables the ring: from now on it belongs to the calling thread, and to no other.
    ///
    /// The ring is also registered with the thread, which spares the kernel looking up its descriptor at every enter.
    /// Where the thread has no place left for that, the ring works without.
    ///
    /// # Errors
    ///
    /// [`Error::System`] with [`SystemCall::EnableRings`].
    ///
    /// # Kernel
    ///
    /// `IORING_REGISTER_ENABLE_RINGS` (Linux 5.10) and `IORING_REGISTER_RING_FDS` (5.18).
    pub fn enable(self) -> Result<Ring<Local>, Error> {
        syscall::enable_ring(&self.fd).map_err(|errno| SystemCall::EnableRings.failed(errno))?;
        let registered = syscall::register_ring(&self.fd).ok();
        Ok(Ring::over(self.fd, self.shared, registered))
    }

    /// The ring's descriptor, which is that of the ring that it becomes.
    pub(crate) fn fd(&self) -> &Fd {
        &self.fd
    }
}

impl<K: Kind> Ring<K> {
    fn over(fd: Fd, shared: Shared, registered: Option<u32>) -> Ring<K> {
        Ring {
            sq: SubmissionQueue::new(&shared),
            cq: CompletionQueue::new(&shared),
            shared,
            registered,
            fd,
            thread: PhantomData,
        }
    }

    /// The ring's descriptor: readable, for `poll(2)`, when there is a completion to take.
    #[must_use]
    pub fn fd(&self) -> &Fd {
        &self.fd
    }

    /// How many entries can be staged at once.
    #[must_use]
    pub fn submission_entries(&self) -> u32 {
        self.shared.submission_entries()
    }

    /// How many completions the ring holds; more than that the kernel keeps aside until there is room.
    #[must_use]
    pub fn completion_entries(&self) -> u32 {
        self.shared.completion_entries()
    }

    /// Entries pushed and not yet taken by the kernel.
    #[must_use]
    pub fn staged(&self) -> u32 {
        self.sq.staged(&self.shared)
    }

    /// Whether `count` more operations can be staged.
    ///
    /// To be asked before the first operation of a chain ([`Op::linked`]) is pushed: a chain ends where a submission does, so it
    /// has to be staged whole. Where it is not, submit first. (The kernel takes only a part of what is staged, and may cut a chain, where it
    /// has no memory.)
    #[must_use]
    pub fn has_room(&self, count: u32) -> bool {
        // The queue never has more staged than it has entries.
        count <= self.submission_entries() - self.staged()
    }

    /// Stages an operation. The kernel sees it at the next [`submit`](Self::submit) or
    /// [`submit_and_wait`](Self::submit_and_wait).
    ///
    /// # Errors
    ///
    /// [`Error::RingFull`]: every slot is staged; submit, and push again.
    pub fn push(&mut self, mut op: K::Entry, user_data: u64) -> Result<(), Error> {
        op::sealed::Sealed::set_user_data(&mut op, user_data);
        self.sq.push(&self.shared, &op)
    }

    /// Takes one completion, without entering the kernel.
    pub fn next_completion(&mut self) -> Option<Completion> {
        self.cq.next(&self.shared)
    }

    /// Submits all that is staged, and waits for nothing.
    ///
    /// # Errors
    ///
    /// - [`Error::System`] with [`SystemCall::IoUringEnter`]: `EEXIST` where another thread enabled this ring, `EAGAIN` and
    ///   `ENOMEM` where the kernel is out of memory. What was not taken stays staged.
    /// - [`Error::CompletionsLost`].
    ///
    /// # Kernel
    ///
    /// `io_uring_enter()` without `IORING_ENTER_GETEVENTS`. In liburing: `io_uring_submit()`.
    pub fn submit(&mut self) -> Result<(), Error> {
        while self.staged() > 0 {
            match syscall::io_uring_enter(self.handle(), self.staged(), 0, 0, None) {
                Ok(0) => return Err(TOOK_NOTHING),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(SystemCall::IoUringEnter.failed(errno)),
            }
        }
        self.cq.check_lost(&self.shared)
    }

    /// Submits all that is staged and waits until there is a completion to take, for `timeout` at most.
    ///
    /// One system call, unless the kernel takes only a part of what is staged. With a completion there already, what is
    /// staged is submitted and nothing waited for.
    ///
    /// # Errors
    ///
    /// As for [`submit`](Self::submit).
    ///
    /// # Kernel
    ///
    /// `io_uring_enter()` with `IORING_ENTER_GETEVENTS`, and `IORING_ENTER_EXT_ARG` (Linux 5.11) for the timeout. In
    /// liburing: `io_uring_submit_and_wait_timeout()`.
    pub fn submit_and_wait(&mut self, timeout: Option<Duration>) -> Result<Wake, Error> {
        self.submit_and_wait_for(1, timeout)
    }

    /// As [`submit_and_wait`](Self::submit_and_wait), until there are `count` completions to take: for who knows that some of them
    /// come at once, and waits for another. With one there already, nothing is waited for.
    ///
    /// # Errors
    ///
    /// As for [`submit`](Self::submit).
    pub fn submit_and_wait_for(&mut self, count: u32, timeout: Option<Duration>) -> Result<Wake, Error> {
        loop {
            let staged = self.staged();
            let want = if self.cq.has_some(&self.shared) { 0 } else { count };
            let entered = syscall::io_uring_enter(self.handle(), staged, want, IORING_ENTER_GETEVENTS, timeout);
            self.cq.check_lost(&self.shared)?;
            // Where something was submitted, the kernel does not say how the wait ended: the queue itself does.
            let ready = self.cq.has_some(&self.shared);
            if let Some(outcome) = after_enter(entered, staged, ready) {
                return outcome;
            }
        }
    }

    /// Whether the kernel holds completions that found no room in the queue. They arrive at the next
    /// [`submit_and_wait`](Self::submit_and_wait).
    #[must_use]
    pub fn has_overflow(&self) -> bool {
        self.shared.submission_flags() & IORING_SQ_CQ_OVERFLOW != 0
    }

    fn handle(&self) -> RingHandle {
        match self.registered {
            Some(index) => RingHandle::Registered(index),
            None => RingHandle::Fd(self.fd.raw()),
        }
    }
}

impl<K: Kind> Drop for Ring<K> {
    fn drop(&mut self) {
        if let Some(index) = self.registered {
            // A registered ring stays open whatever becomes of its descriptor. Only this thread registered it (the ring is
            // not Send then), so only an index that is no longer there could fail, and that is what is wanted.
            let _ = syscall::unregister_ring(&self.fd, index);
        }
    }
}

/// What an `io_uring_enter` that was to take `staged` entries and then wait comes to, where a completion is `ready` after it
/// or not. `None`: enter again.
fn after_enter(entered: Result<u32, Errno>, staged: u32, ready: bool) -> Option<Result<Wake, Error>> {
    match entered {
        Ok(_) | Err(Errno::EINTR | Errno::ETIME) if ready => Some(Ok(Wake::Completions)),
        Ok(0) if staged > 0 => Some(Err(TOOK_NOTHING)),
        // The kernel took a part and did not wait.
        Ok(taken) if taken < staged => None,
        Ok(_) | Err(Errno::EINTR) => Some(Ok(Wake::Interrupted)),
        Err(Errno::ETIME) => Some(Ok(Wake::TimedOut)),
        Err(errno) => Some(Err(SystemCall::IoUringEnter.failed(errno))),
    }
}

static_assertions::assert_impl_all!(Ring<Wide>: Send);
static_assertions::assert_impl_all!(DisabledRing: Send);
static_assertions::assert_not_impl_any!(DisabledRing: Sync);
static_assertions::assert_not_impl_any!(Ring<Local>: Send, Sync);
static_assertions::assert_not_impl_any!(Ring<Wide>: Sync);

#[cfg(test)]
mod tests {
    use super::{Wake, after_enter};
    use crate::{Errno, Error, SystemCall};

    #[test]
    fn a_part_that_was_submitted_is_followed_by_the_rest() {
        assert_eq!(after_enter(Ok(3), 8, false), None);
        // With a completion to take, the rest goes with the next enter.
        assert_eq!(after_enter(Ok(3), 8, true), Some(Ok(Wake::Completions)));
    }

    #[test]
    fn a_wait_that_ended_early_is_told_from_one_that_brought_something() {
        assert_eq!(after_enter(Err(Errno::EINTR), 0, false), Some(Ok(Wake::Interrupted)));
        // Where something was submitted, the kernel says how much, and not that a signal came.
        assert_eq!(after_enter(Ok(8), 8, false), Some(Ok(Wake::Interrupted)));
        assert_eq!(after_enter(Err(Errno::EINTR), 0, true), Some(Ok(Wake::Completions)));
        assert_eq!(after_enter(Err(Errno::ETIME), 0, false), Some(Ok(Wake::TimedOut)));
        assert_eq!(after_enter(Err(Errno::ETIME), 0, true), Some(Ok(Wake::Completions)));
    }

    #[test]
    fn what_cannot_go_on_is_an_error() {
        let failed = |errno| Some(Err(SystemCall::IoUringEnter.failed(errno)));
        assert_eq!(after_enter(Err(Errno::EEXIST), 1, true), failed(Errno::EEXIST));
        assert_eq!(after_enter(Err(Errno::EAGAIN), 1, false), failed(Errno::EAGAIN));
        assert!(matches!(after_enter(Ok(0), 1, false), Some(Err(Error::Implausible { .. }))));
    }
}
