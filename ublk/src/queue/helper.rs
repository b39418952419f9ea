// SPDX-License-Identifier: MIT OR Apache-2.0
//! Zero copy off the queue's thread: another thread registers a request's pages with a ring of its own, and works on them there
//! (`UBLK_F_BUF_REG_OFF_DAEMON`).
//!
//! ```text
//!   the queue's thread                          any other
//!   Request ── detach_pages() ──> DetachedPages ── Helper::serve() ──> HelpedRequest: read, write, fdatasync
//!                                                                        │ complete(), fail(), or dropped:
//!   the commit <── the letter box of the tag <───────────────────────────┘ the pages are given back first
//! ```
//!
//! A request is not answered as done before a helper has its pages, and so can zero what was not read:
//!
//! ```compile_fail,E0599
//! fn answer(request: ublk::DetachedPages, helper: &mut ublk::Helper) -> Result<(), ublk::Error> {
//!     request.complete()
//! }
//! ```
//!
//! ```no_run
//! fn answer(request: ublk::DetachedPages, helper: &mut ublk::Helper) -> Result<(), ublk::Error> {
//!     helper.serve(request)?.complete()
//! }
//! ```
//!
//! No address of this process is named anywhere: an operation says the place of its bytes in the pages that the ring has, which the
//! kernel checks. A ring that ends gives back what it has.

use core::fmt;
use core::ops::Range;

use crate::device_info::DeviceInfo;
use crate::errno::Errno;
use crate::error::{Command, Error, Sent};
use crate::features::Features;
use crate::id::{QueueId, Tag};
use crate::mode;
use crate::queue::RingFile;
use crate::queue::operating::{pages_op, registration};
use crate::queue::prepared::{Files, PreparedQueue};
use crate::queue::request::{DetachedPages, Operation, failed};
use crate::queue::user_copy::zero_out;
use crate::ring::{Op, OpFile, Plain, Ring};
use crate::syscall::Fd;
use crate::units::u64_from;

/// The buffer of the helper's ring that a request's pages are.
const PAGES: u16 = 0;

/// One operation is under way at a time.
const ENTRIES: u32 = 2;

impl PreparedQueue<mode::ZeroCopy> {
    /// A ring for a thread that serves no queue of the device, and is handed requests by those that do
    /// ([`Request::detach_pages`](crate::Request::detach_pages)), by this queue or by others of the device.
    ///
    /// It has the char device open, as a queue has: the device is deleted when it was dropped too.
    ///
    /// # Errors
    ///
    /// - [`Error::Unsupported`]: the driver wants a request's pages registered by the thread that fetched its tag.
    /// - [`Error::System`]: no memory, or no descriptor is left.
    ///
    /// # Kernel
    ///
    /// Since Linux 6.17. `UBLK_F_BUF_REG_OFF_DAEMON`.
    pub fn helper(&self) -> Result<Helper, Error> {
        let offered = self.device().features();
        if !offered.contains(Features::BUF_REG_OFF_DAEMON) {
            return Err(Error::Unsupported { missing: Features::BUF_REG_OFF_DAEMON, offered });
        }
        let ring = Ring::plain(ENTRIES, ENTRIES)?;
        ring.register_buffers(u32::from(PAGES) + 1)?;
        let (char_device, device) = (self.another_char_device()?, *self.device());
        Ok(Helper { ring, files: Files::NONE, char_device, device, lent: None, fault: None })
    }
}

/// A ring of a thread that serves no queue: registers the pages of one request at a time, and works on them.
///
/// Each operation is waited for. A program has as many helpers as it wants requests worked on at once.
///
/// A request is over for its client when the kernel is through with its pages too, which may be after its answer: where a thread of
/// the kernel's did an operation, and drops the last reference, the thread that started it is interrupted to see to it. A system call
/// that it is in by then goes on, or ends with `EINTR` where that is its way (`epoll_wait(2)`).
pub struct Helper {
    /// Plain: what a ring of one thread has left to do would wait until that enters it again, for its next request, and the client of
    /// the last one with it.
    ring: Ring<Plain>,
    files: Files,
    char_device: Fd,
    device: DeviceInfo,
    /// Whose pages are registered, and not given back.
    lent: Option<(QueueId, Tag)>,
    /// Why the ring cannot go on: what it did last may still be under way.
    fault: Option<Error>,
}

static_assertions::assert_impl_all!(Helper: Send);
static_assertions::assert_not_impl_any!(Helper: Sync);

impl fmt::Debug for Helper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Helper").field("device", &self.device.id()).field("fault", &self.fault).finish_non_exhaustive()
    }
}

impl Helper {
    /// Gives a file to the helper's ring: see [`PreparedQueue::register_file`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn register_file(&mut self, file: &Fd) -> Result<RingFile, Error> {
        self.files.register(self.ring.fd(), file)
    }

    /// Registers a request's pages with the helper's ring, if it has some.
    ///
    /// Where the one before was forgotten (`mem::forget`), its pages are given back first; it stays unanswered.
    ///
    /// # Errors
    ///
    /// The request fails with `EIO` where this does.
    ///
    /// - [`Error::Invalid`]: it is a request of another device.
    /// - [`Error::Io`]: `EINVAL`, the driver has taken the request back, because its queue is gone. `ENOMEM`: no memory is left.
    /// - [`Error::System`], [`Error::CompletionsLost`]: the ring cannot go on. It says the same of every further request, and is to
    ///   be dropped.
    ///
    /// # Kernel
    ///
    /// `UBLK_U_IO_REGISTER_IO_BUF`, from another thread since Linux 6.17.
    pub fn serve(&mut self, request: DetachedPages) -> Result<HelpedRequest<'_>, Error> {
        if !request.device().is_same_device(&self.device) {
            return Err(Error::Invalid { what: "a helper serves requests of the device that it was made for" });
        }
        self.give_back()?;
        if request.held().work.data_len() > 0 && request.held().shared.is_none() {
            let (queue, tag) = (request.queue(), request.tag());
            // It may be done where the ring fails behind it.
            self.lent = Some((queue, tag));
            let registered = self.command(Command::REGISTER_IO_BUF, queue, tag)?;
            if registered.is_err() {
                self.lent = None;
            }
            registered?;
        }
        Ok(HelpedRequest { helper: self, request })
    }

    /// Takes the pages out of the ring's hands. Where the driver refuses, the ring keeps them, and their request waits for its end.
    fn give_back(&mut self) -> Result<(), Error> {
        let Some((queue, tag)) = self.lent.take() else { return Ok(()) };
        let given_back = self.command(Command::UNREGISTER_IO_BUF, queue, tag)?;
        self.fault = given_back.err();
        given_back
    }

    /// Whether the ring could send it, and what the driver said.
    fn command(&mut self, command: Command, queue: QueueId, tag: Tag) -> Result<Result<(), Error>, Error> {
        let result = self.call(registration(&self.char_device, command, queue, tag, PAGES))?;
        let refused = |errno| Error::Io { command, queue, tag, errno, sent: Sent::default() };
        Ok(Errno::check(result).map(drop).map_err(refused))
    }

    /// Has the ring do one thing, and waits for it.
    fn call(&mut self, op: Op) -> Result<i32, Error> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let called = self.push_and_wait(op);
        self.fault = called.err();
        called
    }

    fn push_and_wait(&mut self, op: Op) -> Result<i32, Error> {
        self.ring.push(op, 0)?;
        loop {
            // A signal ends a wait.
            self.ring.submit_and_wait(None)?;
            if let Some(completion) = self.ring.next_completion() {
                return Ok(completion.result);
            }
        }
    }
}

/// A request whose pages a [`Helper`]'s ring has.
///
/// They are given back before it is answered. Dropped unanswered, it fails with `EIO`.
#[must_use = "a request that is dropped unanswered fails with EIO"]
pub struct HelpedRequest<'h> {
    helper: &'h mut Helper,
    request: DetachedPages,
}

static_assertions::assert_impl_all!(HelpedRequest<'static>: Send);
static_assertions::assert_not_impl_any!(HelpedRequest<'static>: Sync);

impl fmt::Debug for HelpedRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HelpedRequest").field("request", &self.request).finish_non_exhaustive()
    }
}

impl HelpedRequest<'_> {
    /// The request.
    pub const fn request(&self) -> &DetachedPages {
        &self.request
    }

    /// Reads from `offset` of a file on into `range` of a READ; how many bytes that were: less than asked for where the file ends,
    /// and possibly elsewhere. Several are to come front to back, without a hole: [`complete`](HelpedRequest::complete) fails otherwise.
    ///
    /// # Errors
    ///
    /// What the kernel says of it. `EINVAL` too: `range` is not data of a READ, or is in memory that the client shares; the file is
    /// another ring's. `EIO` too: the ring cannot go on.
    ///
    /// # Kernel
    ///
    /// `IORING_OP_READ_FIXED` (Linux 5.1).
    pub fn read(&mut self, file: RingFile, offset: u64, range: Range<usize>) -> Result<usize, Errno> {
        self.data(Operation::READ, file, offset, range)
    }

    /// Writes `range` of a WRITE to a file, from `offset` on; how many bytes that were, possibly less than asked for. Several are to
    /// come front to back too.
    ///
    /// # Errors
    ///
    /// As for [`read`](HelpedRequest::read), of a WRITE.
    ///
    /// # Kernel
    ///
    /// `IORING_OP_WRITE_FIXED` (Linux 5.1).
    pub fn write(&mut self, file: RingFile, offset: u64, range: Range<usize>) -> Result<usize, Errno> {
        self.data(Operation::WRITE, file, offset, range)
    }

    /// Makes durable what was written to a file, with the metadata that it takes to find it again.
    ///
    /// # Errors
    ///
    /// What the kernel says of it; `EINVAL` and `EIO` as for [`read`](HelpedRequest::read).
    ///
    /// # Kernel
    ///
    /// `IORING_OP_FSYNC` with `IORING_FSYNC_DATASYNC` (Linux 5.1).
    pub fn fdatasync(&mut self, file: RingFile) -> Result<(), Errno> {
        let op = Op::fsync(self.file(file)?, true);
        self.call(op).map(drop)
    }

    /// Gives the pages back and answers that all of it was done, as [`Request::complete`](crate::Request::complete) does: what of a
    /// READ was not read is zeroed first, and a part of a WRITE, or a READ with a hole or an operation that failed, is `EIO`.
    ///
    /// # Errors
    ///
    /// [`Error::QueueGone`]: nobody hears the answer. Those of [`Helper::serve`]: the pages could not be given back, and the request
    /// fails.
    pub fn complete(self) -> Result<(), Error> {
        let (held, queue) = (self.request.held(), self.request.queue());
        let settled = held.completed().and_then(|(result, rest)| {
            zero_out(&self.helper.char_device, queue, held.tag, rest)?;
            Ok(result)
        });
        self.end(settled.unwrap_or_else(failed))
    }

    /// Gives the pages back and answers that it was not done, and why, as [`Request::fail`](crate::Request::fail) does.
    ///
    /// # Errors
    ///
    /// As for [`complete`](HelpedRequest::complete).
    pub fn fail(self, errno: Errno) -> Result<(), Error> {
        self.end(failed(errno))
    }

    fn end(mut self, result: i32) -> Result<(), Error> {
        let given_back = self.helper.give_back();
        let result = if given_back.is_ok() { result } else { failed(Errno::EIO) };
        given_back.and(self.request.answer(result))
    }

    fn data(&mut self, operation: Operation, file: RingFile, offset: u64, range: Range<usize>) -> Result<usize, Errno> {
        let len = range.end.checked_sub(range.start).filter(|len| *len > 0).ok_or(Errno::EINVAL)?;
        let range = self.request.held().own_range(operation, range.start, len)?;
        let file = self.file(file)?;
        let sent_len = u32::try_from(len).map_err(|_| Errno::EINVAL)?;
        let op = pages_op(operation == Operation::READ, file, offset, u64_from(range.start), sent_len, PAGES);
        let moved = self.call(op).map(|moved| usize::try_from(moved).unwrap_or(0).min(len));
        let held = self.request.held_mut();
        held.moved.must_be_whole |= held.work.is_write() || moved.is_err();
        if let Ok(moved) = moved {
            held.moved.add(range.start..range.start + moved);
        }
        moved
    }

    fn call(&mut self, op: Op) -> Result<i32, Errno> {
        let result = self.helper.call(op).map_err(|_| Errno::EIO)?;
        Errno::check(result).map(|_| result)
    }

    fn file(&self, file: RingFile) -> Result<OpFile<'static>, Errno> {
        if file.ring == self.helper.ring.fd().raw() { Ok(OpFile::Registered(file.index)) } else { Err(Errno::EINVAL) }
    }
}

impl Drop for HelpedRequest<'_> {
    fn drop(&mut self) {
        // Before the request itself is dropped, which answers it. There is nobody to tell.
        let _ = self.helper.give_back();
    }
}
