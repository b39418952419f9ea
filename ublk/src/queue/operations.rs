// SPDX-License-Identifier: MIT OR Apache-2.0
//! The target's own I/O on the queue's ring, on behalf of a request, which comes back when all of it has completed.
//!
//! ```text
//!   Request ── operations() ──> Operations ── submit() ──> the ring
//!                                                            │ every operation has completed
//!   answered <── Completed <── Queue::next_event() <─────────┘
//! ```
//!
//! While operations are under way nobody has the request: it cannot be answered before the last of them, and nobody else reaches
//! its data.
//!
//! ```compile_fail,E0382
//! use ublk::{Error, Request, RingFile};
//! fn early(request: Request<'_>, file: RingFile) -> Result<(), Error> {
//!     let mut operations = request.operations();
//!     operations.read(file, 0, 0..4096)?;
//!     operations.submit();
//!     request.complete();
//!     Ok(())
//! }
//! ```
//!
//! ```no_run
//! use ublk::{Error, Request, RingFile};
//! fn early(request: Request<'_>, file: RingFile) -> Result<(), Error> {
//!     let mut operations = request.operations();
//!     operations.read(file, 0, 0..4096)?;
//!     operations.submit();
//!     println!("{file:?}");
//!     Ok(())
//! }
//! ```

use core::fmt;
use core::ops::Range;
use core::time::Duration;

use ublk_sys::{IOSQE_ASYNC, IOSQE_IO_LINK};

use crate::errno::Errno;
use crate::error::Error;
use crate::mode::{self, Mode, ThroughBuffer};
use crate::queue::request::{Operation, Request};
use crate::queue::table::{Entry, Kind, SEGMENTS, Segment};
use crate::ring::{Op, OpFile};
use crate::units::u64_from;

/// A file that the ring of one queue holds open ([`PreparedQueue::register_file`](crate::PreparedQueue::register_file)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingFile {
    /// The number of the ring's descriptor.
    pub(super) ring: i32,
    pub(super) index: u32,
}

static_assertions::assert_impl_all!(RingFile: Send, Sync);

/// Operations of the queue's ring that are being put together for one request.
///
/// They are started by [`submit`](Operations::submit), all at once and in no order, unless one is
/// [linked](Operations::link) to the next. Dropped before, none is started, and the request fails with `EIO`.
///
/// `range` is in bytes of the request's data. Where that is: in copy mode and user copy in the tag's buffer, else the client's
/// own pages. A READ is filled, and a WRITE is read from; the other way round is refused.
///
/// A disk that is a file:
///
/// ```no_run
/// use ublk::{Cache, Event, Fd, NewDevice, Operation, Params, Sectors, Server, mode};
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let file = std::fs::File::options().read(true).write(true).open("disk.img")?;
///     let params = Params::new(Sectors::new(file.metadata()?.len() / 512), Cache::Volatile);
///     let fd = Fd::from(std::os::fd::OwnedFd::from(file));
///     let device = NewDevice::new().mode::<mode::UserCopy>().operations(1);
///     let serve = |file: &ublk::RingFile, event: Event<'_, mode::UserCopy>| {
///         let request = match event {
///             Event::Completed(completed) => return completed.finish(),
///             Event::Request(request) => request,
///         };
///         let (operation, at, len) = (request.operation(), request.offset_bytes(), request.len_bytes() as usize);
///         let mut operations = request.operations();
///         let added = match operation {
///             Operation::READ => operations.read(*file, at, 0..len),
///             Operation::WRITE => operations.write(*file, at, 0..len),
///             Operation::FLUSH => operations.fdatasync(*file),
///             _ => return, // An unanswered request fails with EIO.
///         };
///         if added.is_ok() {
///             operations.submit();
///         }
///     };
///     let server = Server::new(device, params).stop_on_signals();
///     server.run_events(|queue| queue.register_file(&fd), serve, |device| println!("/dev/ublkb{}", device.id()))?;
///     Ok(())
/// }
/// ```
///
/// Here a WRITE that comes short fails; [`Completed::rest`] says where to go on.
#[must_use = "a request whose operations are not submitted fails with EIO"]
pub struct Operations<'q, M: Mode = mode::Copy> {
    request: Request<'q, M>,
    count: u16,
    label: u64,
}

static_assertions::assert_not_impl_any!(Operations<'static>: Send, Sync);

impl<M: Mode> fmt::Debug for Operations<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operations").field("request", &self.request).field("count", &self.count).finish_non_exhaustive()
    }
}

const OUTSIDE: Error =
    Error::Invalid { what: "an operation moves bytes of the request's own data, into a READ or out of a WRITE" };

impl<'q, M: Mode> Operations<'q, M> {
    pub(super) fn new(request: Request<'q, M>) -> Operations<'q, M> {
        Operations { request, count: 0, label: 0 }
    }

    /// The request.
    pub const fn request(&self) -> &Request<'q, M> {
        &self.request
    }

    /// How many operations there are.
    #[must_use]
    pub const fn count(&self) -> u16 {
        self.count
    }

    /// A number that comes back with the request ([`Completed::label`]): which step of its work this is.
    pub const fn label(&mut self, label: u64) {
        self.label = label;
    }

    /// Reads from `offset` of a file on into `range` of a READ.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: `range` is not data of a READ; the file is another queue's; the request has as many operations as the
    /// device was asked for ([`NewDevice::operations`](crate::NewDevice::operations)). Nothing was added, and the same goes for
    /// every other method here.
    ///
    /// # Kernel
    ///
    /// `IORING_OP_READ` (Linux 5.6), or `IORING_OP_READ_FIXED` (5.1) into the client's pages. Its result is the bytes that were
    /// read; less than asked for where the file ends, and possibly elsewhere.
    pub fn read(&mut self, file: RingFile, offset: u64, range: Range<usize>) -> Result<(), Error> {
        self.data(Operation::READ, file, offset, &[range])
    }

    /// Writes `range` of a WRITE to a file, from `offset` on.
    ///
    /// # Errors
    ///
    /// As for [`read`](Operations::read).
    ///
    /// # Kernel
    ///
    /// `IORING_OP_WRITE` (Linux 5.6), or `IORING_OP_WRITE_FIXED` (5.1) from the client's pages. Its result is the bytes that were
    /// written, possibly less than asked for.
    pub fn write(&mut self, file: RingFile, offset: u64, range: Range<usize>) -> Result<(), Error> {
        self.data(Operation::WRITE, file, offset, &[range])
    }

    /// Reads from `offset` of a file on into several ranges of a READ, one after the other: at most 16.
    ///
    /// # Errors
    ///
    /// As for [`read`](Operations::read).
    ///
    /// # Kernel
    ///
    /// `IORING_OP_READV` (Linux 5.1), or `IORING_OP_READV_FIXED` (6.15).
    pub fn read_vectored(&mut self, file: RingFile, offset: u64, ranges: &[Range<usize>]) -> Result<(), Error> {
        self.data(Operation::READ, file, offset, ranges)
    }

    /// Writes several ranges of a WRITE to a file, one after the other, from `offset` on: at most 16.
    ///
    /// # Errors
    ///
    /// As for [`read`](Operations::read).
    ///
    /// # Kernel
    ///
    /// `IORING_OP_WRITEV` (Linux 5.1), or `IORING_OP_WRITEV_FIXED` (6.15).
    pub fn write_vectored(&mut self, file: RingFile, offset: u64, ranges: &[Range<usize>]) -> Result<(), Error> {
        self.data(Operation::WRITE, file, offset, ranges)
    }

    /// Makes durable what was written to a file, with its metadata.
    ///
    /// # Errors
    ///
    /// As for [`read`](Operations::read).
    ///
    /// # Kernel
    ///
    /// `IORING_OP_FSYNC` (Linux 5.1).
    pub fn fsync(&mut self, file: RingFile) -> Result<(), Error> {
        self.plain(file, |file| Op::fsync(file, false))
    }

    /// Makes durable what was written to a file, with the metadata that it takes to find it again.
    ///
    /// # Errors
    ///
    /// As for [`read`](Operations::read).
    ///
    /// # Kernel
    ///
    /// `IORING_OP_FSYNC` with `IORING_FSYNC_DATASYNC` (Linux 5.1).
    pub fn fdatasync(&mut self, file: RingFile) -> Result<(), Error> {
        self.plain(file, |file| Op::fsync(file, true))
    }

    /// Changes the space of `len` bytes of a file from `offset` on (`fallocate(2)`): `mode` is made of `FALLOC_FL_*`.
    ///
    /// # Errors
    ///
    /// As for [`read`](Operations::read).
    ///
    /// # Kernel
    ///
    /// `IORING_OP_FALLOCATE` (Linux 5.6).
    pub fn fallocate(&mut self, file: RingFile, mode: u32, offset: u64, len: u64) -> Result<(), Error> {
        self.plain(file, |file| Op::fallocate(file, mode, offset, len))
    }

    /// Tells a block device that the `len` bytes from `offset` on are not needed any more.
    ///
    /// # Errors
    ///
    /// As for [`read`](Operations::read).
    ///
    /// # Kernel
    ///
    /// `IORING_OP_URING_CMD` with `BLOCK_URING_CMD_DISCARD` (Linux 6.12).
    pub fn block_discard(&mut self, file: RingFile, offset: u64, len: u64) -> Result<(), Error> {
        self.plain(file, |file| Op::block_discard(file, offset, len))
    }

    /// Waits until one of `events` (`POLLIN` ...) is there.
    ///
    /// # Errors
    ///
    /// As for [`read`](Operations::read).
    ///
    /// # Kernel
    ///
    /// `IORING_OP_POLL_ADD` (Linux 5.1). Its result is the events that came.
    pub fn poll(&mut self, file: RingFile, events: u16) -> Result<(), Error> {
        self.plain(file, |file| Op::poll_add(file, events))
    }

    /// Waits for this time.
    ///
    /// # Errors
    ///
    /// As for [`read`](Operations::read).
    ///
    /// # Kernel
    ///
    /// `IORING_OP_TIMEOUT` (Linux 5.4). Its result is `ETIME` when the time is over.
    pub fn timeout(&mut self, time: Duration) -> Result<(), Error> {
        let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        // In a segment's place, a `struct __kernel_timespec`: seconds and nanoseconds, 64 bits each.
        let timespec = Segment { address: u64::from_ne_bytes(seconds.to_ne_bytes()), len: time.subsec_nanos().into() };
        let (tag, index) = (self.request.tag(), self.count);
        let address = self.request.queue().table().segments_address(tag, index).ok_or(TOO_MANY)?;
        let op = self.request.queue().timeout_op(address);
        self.add(other(&op), &[timespec])
    }

    /// Starts the operation that is added next only when the one before has succeeded: whole, where it moves bytes. If it has
    /// not, the next, and all that are linked to that, end with `ECANCELED`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: there is no operation yet.
    ///
    /// # Kernel
    ///
    /// `IOSQE_IO_LINK` (Linux 5.3).
    pub fn link(&mut self) -> Result<(), Error> {
        self.flag_last(IOSQE_IO_LINK)
    }

    /// Has the operation that was added last done by a thread of the kernel's from the start. Unless told so, this thread tries it
    /// first, inside its wait: a file that has to be read from a slow disk, and says so only by blocking, would hold it up.
    ///
    /// # Errors
    ///
    /// As for [`link`](Operations::link).
    ///
    /// # Kernel
    ///
    /// `IOSQE_ASYNC` (Linux 5.6).
    pub fn in_worker(&mut self) -> Result<(), Error> {
        self.flag_last(IOSQE_ASYNC)
    }

    fn flag_last(&mut self, flag: u8) -> Result<(), Error> {
        let nothing = Error::Invalid { what: "there is an operation to which this applies" };
        let index = self.count.checked_sub(1).ok_or(nothing)?;
        let (table, tag) = (self.request.queue().table(), self.request.tag());
        let mut entry = table.entry(tag, index).ok_or(nothing)?;
        entry.sqe.flags |= flag;
        table.set_entry(tag, index, entry).ok_or(nothing)
    }

    /// Starts the operations. The request comes back with [`Event::Completed`](crate::Event::Completed) when all of them have
    /// completed; at once where there are none.
    ///
    /// They go to the kernel with the next [`Queue::wait`](crate::Queue::wait), in the one system call that it makes. In user copy the data of a
    /// WRITE is copied here, which is a `pread(2)`: the char device does not complete such an operation of the ring at once,
    /// so that a thread of the kernel's would have to.
    pub fn submit(self) {
        let Operations { request, count, label } = self;
        let queue = request.queue();
        queue.start(request.into_held(), count, label);
    }

    fn data(
        &mut self,
        operation: Operation,
        file: RingFile,
        offset: u64,
        ranges: &[Range<usize>],
    ) -> Result<(), Error> {
        let held = self.request.held();
        if ranges.is_empty() || ranges.len() > SEGMENTS {
            return Err(Error::Invalid { what: "an operation moves 1 to 16 ranges" });
        }
        let mut segments = [Segment::EMPTY; SEGMENTS];
        let place = self.request.queue().place(held)?;
        for (segment, range) in segments.iter_mut().zip(ranges) {
            let len = range.end.checked_sub(range.start).filter(|len| *len > 0).ok_or(OUTSIDE)?;
            held.range(operation, range.start, len).map_err(|_| OUTSIDE)?;
            *segment = Segment { address: place.base + u64_from(range.start), len: u64_from(len) };
        }
        let segments = segments.get(..ranges.len()).unwrap_or_default();
        let file = self.file(file)?;
        let (target, data) = ((file, offset), (place.buffer, segments));
        let op = self.request.queue().data_op(held.tag, self.count, operation, target, data)?;
        let (start, len) = ranges.first().map_or((0, 0), |range| (range.start, range.len()));
        let entry = Entry { kind: Kind::Data, sqe: *op.as_raw(), start, len, segments: segments.len() };
        self.add(entry, segments)
    }

    fn plain(&mut self, file: RingFile, op: impl FnOnce(OpFile<'_>) -> Op) -> Result<(), Error> {
        let op = op(self.file(file)?);
        self.add(other(&op), &[])
    }

    /// The file as the ring knows it.
    fn file(&self, file: RingFile) -> Result<OpFile<'static>, Error> {
        if file.ring != self.request.queue().ring_fd() {
            return Err(Error::Invalid { what: "a file is registered with the ring of one queue" });
        }
        Ok(OpFile::Registered(file.index))
    }

    fn add(&mut self, entry: Entry, segments: &[Segment]) -> Result<(), Error> {
        let (tag, index) = (self.request.tag(), self.count);
        let table = self.request.queue().table();
        table.set_segments(tag, index, segments).ok_or(TOO_MANY)?;
        table.set_entry(tag, index, entry).ok_or(TOO_MANY)?;
        self.count += 1;
        Ok(())
    }
}

/// An operation that moves no bytes of the request.
fn other(op: &Op) -> Entry {
    Entry { kind: Kind::Other, sqe: *op.as_raw(), start: 0, len: 0, segments: 0 }
}

const TOO_MANY: Error =
    Error::Invalid { what: "a request has at most as many operations under way as NewDevice::operations says" };

impl<M: ThroughBuffer> Operations<'_, M> {
    /// Sends `range` of a WRITE on a socket.
    ///
    /// # Errors
    ///
    /// As for [`read`](Operations::read).
    ///
    /// # Kernel
    ///
    /// `IORING_OP_SEND` (Linux 5.6), with `MSG_WAITALL`, so that all of it is sent unless the connection ends, and with
    /// `MSG_NOSIGNAL`.
    pub fn send(&mut self, socket: RingFile, range: Range<usize>) -> Result<(), Error> {
        self.transfer(Operation::WRITE, socket, range)
    }

    /// Receives `range` of a READ from a socket.
    ///
    /// # Errors
    ///
    /// As for [`read`](Operations::read).
    ///
    /// # Kernel
    ///
    /// `IORING_OP_RECV` (Linux 5.6), with `MSG_WAITALL`: as much as `range` has, unless the connection ends.
    pub fn receive(&mut self, socket: RingFile, range: Range<usize>) -> Result<(), Error> {
        self.transfer(Operation::READ, socket, range)
    }

    fn transfer(&mut self, operation: Operation, socket: RingFile, range: Range<usize>) -> Result<(), Error> {
        let held = self.request.held();
        let range = held.range(operation, range.start, range.len()).map_err(|_| OUTSIDE)?;
        let file = self.file(socket)?;
        let op = self.request.queue().socket_op(held, operation, file, range.clone())?;
        let entry = Entry { kind: Kind::Data, sqe: *op.as_raw(), start: range.start, len: range.len(), segments: 1 };
        self.add(entry, &[])
    }
}

/// A request whose operations have all completed.
#[derive(Debug)]
#[must_use = "a request that is dropped unanswered fails with EIO"]
pub struct Completed<'q, M: Mode = mode::Copy> {
    request: Request<'q, M>,
    count: u16,
    label: u64,
}

static_assertions::assert_not_impl_any!(Completed<'static>: Send, Sync);

impl<'q, M: Mode> Completed<'q, M> {
    pub(super) fn new(request: Request<'q, M>, count: u16, label: u64) -> Completed<'q, M> {
        Completed { request, count, label }
    }

    /// The request.
    pub const fn request(&self) -> &Request<'q, M> {
        &self.request
    }

    /// The request, to be answered or to go on with.
    pub fn into_request(self) -> Request<'q, M> {
        self.request
    }

    /// The number that [`Operations::label`] gave.
    #[must_use]
    pub const fn label(&self) -> u64 {
        self.label
    }

    /// What became of the operations, in the order in which they were added: a value, or why it failed.
    pub fn results(&self) -> impl Iterator<Item = Result<u32, Errno>> {
        let tag = self.request.tag();
        let table = self.request.queue().table();
        (0..self.count).map(move |index| {
            let result = table.result(tag, index).unwrap_or(Errno::ECANCELED.raw().saturating_neg());
            u32::try_from(result).map_err(|_| Errno::from_raw(result.saturating_neg()))
        })
    }

    /// Why the first of the operations that failed did. An operation that was cancelled because of another counts only where there
    /// is no other.
    #[must_use]
    pub fn error(&self) -> Option<Errno> {
        let mut first = None;
        for errno in self.results().filter_map(Result::err) {
            if errno != Errno::ECANCELED {
                return Some(errno);
            }
            first = first.or(Some(errno));
        }
        first
    }

    /// What of the request's data is still to be moved: from the end of what was moved without a gap, by all its operations so
    /// far, to the end. Empty where all was moved, and for an operation without data.
    #[must_use]
    pub fn rest(&self) -> Range<usize> {
        let held = self.request.held();
        let len = held.work.data_len();
        held.moved.mark.min(len)..len
    }

    /// Answers: with the [`error`](Completed::error), if there is one; that all was done, where all was moved; of a READ, that what
    /// is left reads as zeroes, as behind the end of a file; and `EIO` where a WRITE came short.
    pub fn finish(self) {
        match self.error() {
            Some(errno) => self.request.fail(errno),
            None => self.request.complete(),
        }
    }
}
