// SPDX-License-Identifier: MIT OR Apache-2.0
//! A hardware queue: fetch its requests, serve them, commit the answers. It knows nothing of control.
//!
//! ```text
//!   PreparedQueue ── fetch() in the thread that serves ──> Queue
//!                                                            │ wait():         submits what was answered, waits
//!                                                            │ next_request(): a Request for each completion
//!                                                            └ is_finished():  the device was stopped
//! ```
//!
//! How data travels is the [`mode`]. In copy mode each tag has a buffer of its own. It belongs to the kernel while a command of the
//! tag is in flight, or an operation that names it, and to the [`Request`] otherwise. No call of this module takes an address from
//! outside.
//!
//! Where requests come in batches ([`NewDevice::batch`](crate::NewDevice::batch)) the same types serve them: one completion brings
//! many requests, and one command takes all answers since the last wait. A queue may then be [shared](PreparedQueue::share) among threads.
//!
//! What the kernel would answer with corrupted memory does not compile. Each of these stands beside one that does, and differs in a
//! line. A queue stays with the thread that fetched it; before that it may be sent:
//!
//! ```compile_fail,E0277
//! fn serve_elsewhere(queue: ublk::Queue) {
//!     std::thread::spawn(move || drop(queue));
//! }
//! ```
//!
//! ```no_run
//! fn serve_elsewhere(queue: ublk::PreparedQueue) {
//!     std::thread::spawn(move || drop(queue));
//! }
//! ```
//!
//! It is fetched once:
//!
//! ```compile_fail,E0382
//! fn fetch(queue: ublk::PreparedQueue) -> Result<(), ublk::Error> {
//!     drop(queue.fetch()?);
//!     drop(queue.fetch()?);
//!     Ok(())
//! }
//! ```
//!
//! ```no_run
//! fn fetch(queue: ublk::PreparedQueue) -> Result<(), ublk::Error> {
//!     println!("{}", queue.id());
//!     drop(queue.fetch()?);
//!     Ok(())
//! }
//! ```
//!
//! A request does not outlive its queue, unless it is detached:
//!
//! ```compile_fail,E0505
//! fn keep(queue: ublk::Queue) -> Result<(), ublk::Error> {
//!     let request = queue.next_request()?;
//!     drop(queue);
//!     drop(request);
//!     Ok(())
//! }
//! ```
//!
//! ```no_run
//! fn keep(queue: ublk::Queue) -> Result<(), ublk::Error> {
//!     let request = queue.next_request()?.map(ublk::Request::detach);
//!     drop(queue);
//!     drop(request);
//!     Ok(())
//! }
//! ```
//!
//! Nor do its data outlive the answer:
//!
//! ```compile_fail,E0505
//! fn look_after_the_answer(request: ublk::Request<'_>) -> u8 {
//!     let data = request.data();
//!     request.complete();
//!     data[0]
//! }
//! ```
//!
//! ```no_run
//! fn look_after_the_answer(request: ublk::Request<'_>) -> u8 {
//!     let data = request.data().to_vec();
//!     request.complete();
//!     data[0]
//! }
//! ```
//!
//! The same of a request that was detached:
//!
//! ```compile_fail,E0505
//! fn look_after_the_answer(request: ublk::DetachedRequest) -> Result<u8, ublk::Error> {
//!     let data = request.data();
//!     request.complete()?;
//!     Ok(data[0])
//! }
//! ```
//!
//! ```no_run
//! fn look_after_the_answer(request: ublk::DetachedRequest) -> Result<u8, ublk::Error> {
//!     let data = request.data().to_vec();
//!     request.complete()?;
//!     Ok(data[0])
//! }
//! ```
//!
//! A READ is not filled after the answer:
//!
//! ```compile_fail,E0505
//! fn fill_after_the_answer(mut request: ublk::Request<'_>) {
//!     let mut cursor = request.cursor();
//!     request.complete();
//!     cursor.write(&[1; 512]);
//! }
//! ```
//!
//! ```no_run
//! fn fill_after_the_answer(mut request: ublk::Request<'_>) {
//!     let mut cursor = request.cursor();
//!     cursor.write_zeroes(512);
//!     cursor.write(&[1; 512]);
//! }
//! ```
//!
//! It is answered once:
//!
//! ```compile_fail,E0382
//! fn twice(request: ublk::Request<'_>) {
//!     request.complete();
//!     request.fail(ublk::Errno::EIO);
//! }
//! ```
//!
//! ```no_run
//! fn twice(request: ublk::Request<'_>) {
//!     println!("{:?}", request.operation());
//!     request.fail(ublk::Errno::EIO);
//! }
//! ```
//!
//! And so is one that was detached:
//!
//! ```compile_fail,E0382
//! fn twice(request: ublk::DetachedRequest) -> Result<(), ublk::Error> {
//!     request.complete()?;
//!     request.fail(ublk::Errno::EIO)
//! }
//! ```
//!
//! ```no_run
//! fn twice(request: ublk::DetachedRequest) -> Result<(), ublk::Error> {
//!     println!("{:?}", request.operation());
//!     request.fail(ublk::Errno::EIO)
//! }
//! ```
//!
//! There are no two of one request:
//!
//! ```compile_fail,E0308
//! fn copy(request: &ublk::DetachedRequest) -> Option<ublk::DetachedRequest> {
//!     Some(request.clone())
//! }
//! ```
//!
//! ```no_run
//! fn copy(request: &ublk::DetachedRequest) -> Option<ublk::DetachedRequest> {
//!     None.filter(|_| request.data().is_empty())
//! }
//! ```
//!
//! Another thread gets it detached or not at all:
//!
//! ```compile_fail,E0277
//! fn elsewhere(request: ublk::Request<'_>) {
//!     std::thread::scope(|scope| drop(scope.spawn(move || drop(request))));
//! }
//! ```
//!
//! ```no_run
//! fn elsewhere(request: ublk::DetachedRequest) {
//!     std::thread::scope(|scope| drop(scope.spawn(move || drop(request))));
//! }
//! ```
//!
//! What was forgotten is failed when nobody can have it any more:
//!
//! ```compile_fail,E0502
//! fn fail(mut queue: ublk::Queue) -> Result<(), ublk::Error> {
//!     let request = queue.next_request()?;
//!     queue.fail_forgotten()?;
//!     drop(request);
//!     Ok(())
//! }
//! ```
//!
//! ```no_run
//! fn fail(mut queue: ublk::Queue) -> Result<(), ublk::Error> {
//!     let request = queue.next_request()?.map(ublk::Request::detach);
//!     queue.fail_forgotten()?;
//!     drop(request);
//!     Ok(())
//! }
//! ```
//!
//! The ring's descriptor is lent; a descriptor of one's own may stay, and does not keep the queue's memory in use:
//!
//! ```compile_fail,E0505
//! use std::os::fd::AsFd;
//! fn keep(queue: ublk::Queue) -> std::io::Result<()> {
//!     let ring = queue.as_fd();
//!     drop(queue);
//!     drop(ring);
//!     Ok(())
//! }
//! ```
//!
//! ```no_run
//! use std::os::fd::AsFd;
//! fn keep(queue: ublk::Queue) -> std::io::Result<()> {
//!     let ring = queue.as_fd().try_clone_to_owned()?;
//!     drop(queue);
//!     drop(ring);
//!     Ok(())
//! }
//! ```
#![expect(unsafe_code, reason = "names buffers in commands and lends them to requests; Invariants Q1 and Q2 say when")]

mod atomic;
mod batch;
mod descriptors;
mod helper;
#[cfg(test)]
mod hostile;
mod mailbox;
mod memory;
mod operating;
mod operations;
mod pool;
mod prepared;
mod protection;
mod references;
mod request;
mod ring_operation;
mod shares;
mod table;
mod tag_set;
mod turn;
mod user_copy;
#[cfg(feature = "std")]
mod watch;
mod zoned;

use core::cell::{Cell, RefCell, RefMut};
use core::fmt;
use core::marker::PhantomData;
use core::task::Poll;
use core::time::Duration;

use ublk_sys::{
    IORING_CQE_F_MORE, UBLK_AUTO_BUF_REG_FALLBACK, UBLK_IO_RES_ABORT, UBLK_IO_RES_NEED_GET_DATA, UBLK_IO_RES_OK,
    ublk_auto_buf_reg, ublk_auto_buf_reg_to_sqe_addr, ublk_batch_io, ublksrv_io_cmd, ublksrv_io_desc,
};

pub use helper::{HelpedRequest, Helper};
pub use operations::{Completed, Operations, RingFile};
pub use prepared::PreparedQueue;
pub use request::{DetachedPages, DetachedRequest, Operation, ReadCursor, Request, RequestFlags, SharedPlace};
pub use ring_operation::RingOperation;

use crate::device_info::DeviceInfo;
use crate::errno::Errno;
use crate::error::{Command, Error, Sent, SystemCall};
use crate::features::Features;
use crate::id::{QueueId, Tag};
use crate::mode::{self, Data, Mode};
use crate::overlays::Overlays;
use crate::ring::{Completion, Local, Op, Ring, Wake};
use crate::syscall::{self, Fd};
use crate::units::Sectors;
use batch::{Batch, Elements, Piece};
use descriptors::Descriptors;
use mailbox::{Letter, LetterBox};
use memory::{Memory, TagBuffer};
use operating::OPERATION_BIT;
use pool::Pool;
use request::{Held, Moved, Work, failed};
use shares::Shares;
use table::{Mark, Record, Table};
use tag_set::TagSet;
#[cfg(feature = "std")]
pub(crate) use watch::Watch;

/// User data of a command is its tag, with this bit where it is a commit and not the first fetch.
const COMMIT_BIT: u64 = 1 << 16;

/// And with this one where it asks for the data of a WRITE.
const GET_DATA_BIT: u64 = 1 << 17;

/// User data of the poll of [`Queue::wake_on`].
const WAKE_USER_DATA: u64 = 1 << 32;

/// User data of the poll of the mailbox's bell.
const BELL_USER_DATA: u64 = 1 << 33;

/// `POLLIN`: the descriptor can be read.
const POLL_IN: u16 = 1;

/// A queue that is served by the thread that fetched it. It is neither `Send` nor `Sync`: a [`PreparedQueue`] is sent instead.
///
/// Dropping it submits the answers that are still staged. Its buffers are unmapped only if no command is in flight any
/// more, which is so once [`is_finished`](Queue::is_finished): otherwise they stay mapped until the process ends, because
/// the kernel may still write to them. A pending fetch cannot be withdrawn; only the end of the device ends it. So a
/// server stops its device first.
///
/// Where that cannot be, the thread has to end, and everybody has to let go of the char device. On Linux 6.12 a request that is
/// under way while the ring ends is given to the thread if that lives on, and nobody ever answers it: its client waits for good, and
/// so does a stop. A duplicate of the ring's descriptor (`as_fd().try_clone_to_owned()`), closed when the thread was joined,
/// excludes that. Linux 7.3 fails such requests. A queue that is forgotten (`mem::forget`) holds its device until the process ends.
///
/// Invariant Q1: a tag is in `in_flight` from before its command is staged until the command's completion was taken.
/// Its buffer is then the kernel's. So it is while the tag is operating: from before the first of a request's operations is staged
/// until the completion of the last was taken. The buffers are unmapped only while `in_flight` is empty and no tag is operating.
///
/// Invariant Q2: a tag is in `owned` from the completion that delivers its request until the answer is staged. For each
/// there is at most one [`Request`] (or [`Operations`] or [`Completed`], which hold one) or [`DetachedRequest`], made when the tag
/// came into `owned`; answering consumes it. So does starting its operations, and while the tag is operating there is none: it is made
/// again, once, when the tag comes out of `completed`. No tag is in both sets. A tag is in `detached` too from when its request was detached until the answer is staged.
///
/// Invariant Q3: in batches a fetch takes the place of `in_flight`. The buffers of all threads that serve the queue are unmapped only
/// if none ended with a fetch or a commit in flight, and of these threads one has a tag in `owned`: the one that has its turn.
pub struct Queue<M: Mode = mode::Copy> {
    state: RefCell<State>,
    unanswered: Cell<u64>,
    unmoved_shared: Cell<u64>,
    info: DeviceInfo,
    descriptors: Descriptors,
    memory: Memory,
    table: Table,
    /// The memory that operations can name; `None` for a device without it.
    shares: Option<Shares>,
    /// The buffers of a queue that chooses them.
    pool: Option<Pool>,
    /// Where else the device's requests can have their data.
    places: RequestFlags,
    depth: u16,
    /// Bytes of the device's largest request.
    largest: usize,
    overlays: Overlays,
    char_device: Fd,
    /// The number of the ring's descriptor, which is the ring's in `state`.
    ring_fd: i32,
    id: QueueId,
    mode: PhantomData<M>,
}

static_assertions::assert_not_impl_any!(Event<'static>: Send, Sync);

/// Something that a queue has to say.
#[derive(Debug)]
#[must_use = "a request that is dropped unanswered fails with EIO"]
pub enum Event<'q, M: Mode = mode::Copy> {
    /// The block layer sent a request.
    Request(Request<'q, M>),
    /// All operations of a request have completed.
    Completed(Completed<'q, M>),
}

/// What changes while a queue is served. It is borrowed for the length of one call of this file, never while code of the
/// target runs.
#[derive(Debug)]
struct State {
    ring: Ring<Local>,
    in_flight: TagSet,
    owned: TagSet,
    detached: TagSet,
    /// How many tags in `owned` have operations under way.
    operating: usize,
    /// The tags in `owned` whose operations have all completed, and whose token was not made again yet.
    completed: TagSet,
    /// The tags in `owned` whose requests have been held through a wait, so that it was noted when.
    timed: TagSet,
    /// The tags in `owned` whose requests are READs.
    reads: TagSet,
    answered: Answered,
    /// In the batch transport, what takes the place of `in_flight`.
    batch: Option<Batch>,
    wake: Wakeup,
    /// Whether the ring polls the mailbox's bell.
    bell_polled: bool,
    /// What an answer ran into; every `wait` reports it from then on.
    fault: Option<Error>,
}

/// How many requests were answered, whatever the answer was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answered {
    /// READs.
    pub reads: u64,
    /// All others: WRITE, FLUSH, DISCARD, WRITE_ZEROES.
    pub others: u64,
}

static_assertions::assert_impl_all!(Answered: Send, Sync);

/// The poll of [`Queue::wake_on`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wakeup {
    None,
    Armed,
    Came,
}

static_assertions::assert_not_impl_any!(Queue: Send, Sync);

impl<M: Mode> fmt::Debug for Queue<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("id", &self.id).field("ring_fd", &self.ring_fd).finish_non_exhaustive()
    }
}

impl<M: Mode> Queue<M> {
    /// The queue's number.
    #[must_use]
    pub const fn id(&self) -> QueueId {
        self.id
    }

    /// Submits the answers given since the last time, and waits until something has completed.
    ///
    /// One system call for all of them. `timeout` is the longest wait; `None` waits for as long as it takes. A signal ends
    /// the wait with [`Wake::Interrupted`] and ends nothing else.
    ///
    /// # Errors
    ///
    /// [`Error::System`] or [`Error::CompletionsLost`]: the kernel is out of memory, or the ring cannot go on. A thread that
    /// ends over it has to end its hold on the device, and so has the whole server.
    ///
    /// # Kernel
    ///
    /// `io_uring_enter()` with `IORING_ENTER_GETEVENTS`, in which alone the driver delivers requests to this thread.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<Wake, Error> {
        let mut state = self.state()?;
        if !state.detached.is_empty() {
            self.collect(&mut state)?;
        }
        self.note_held_in(&mut state);
        if let Some(fault) = state.fault {
            return Err(fault);
        }
        self.serve_waiting(&mut state)?;
        let has_ready = self.pool.as_ref().is_some_and(Pool::has_ready);
        let count = if has_ready { 0 } else { self.send_batch(&mut state)? };
        let wake = state.ring.submit_and_wait_for(count, timeout)?;
        if let Some(pool) = self.pool.as_ref().filter(|_| state.ring.staged() == 0) {
            pool.release();
        }
        // There is a request already: its buffer has come, or it is one of a batch that is not used up.
        Ok(if count == 0 { Wake::Completions } else { wake })
    }

    /// Takes the next request that was delivered, if there is one. It makes no system call.
    ///
    /// # Errors
    ///
    /// - [`Error::Io`]: the driver refused a command. `EINVAL` or `EBUSY` for a fetch: the tag was fetched already, or the
    ///   device is served by somebody else. `EINVAL` for a commit: another thread fetched the tag.
    /// - [`Error::Implausible`]: a descriptor cannot be true, and that request was answered with `EIO`; or a completion
    ///   belongs to no command of this queue.
    /// - [`Error::System`] with [`SystemCall::Poll`]: the event of [`wake_on`](Queue::wake_on) cannot be polled.
    ///
    /// # Kernel
    ///
    /// The completion of `UBLK_U_IO_FETCH_REQ` or `UBLK_U_IO_COMMIT_AND_FETCH_REQ` is the delivery.
    pub fn next_request(&self) -> Result<Option<Request<'_, M>>, Error> {
        let Some(tag) = self.next_delivery()? else { return Ok(None) };
        match self.delivered(tag) {
            Ok(request) => Ok(Some(request)),
            Err((what, value)) => {
                self.commit(tag, Errno::EIO.raw().saturating_neg());
                Err(Error::Implausible { what, value })
            }
        }
    }

    /// Takes the next request as a loop or an executor of one's own wants it, and waits for nothing.
    ///
    /// - `Ready(Some(..))`: a request, or why there is none.
    /// - `Ready(None)`: the queue [is finished](Queue::is_finished).
    /// - `Pending`: every answer was submitted, and [`ring_fd`](Queue::ring_fd) can be read as soon as there is more. No waker is
    ///   registered: whoever waits for that descriptor asks again.
    ///
    /// ```
    /// use std::future::poll_fn;
    /// use ublk::{Error, Queue};
    ///
    /// async fn serve(queue: &Queue) -> Result<(), Error> {
    ///     while let Some(request) = poll_fn(|_| queue.poll_request()).await {
    ///         request?.complete();
    ///     }
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`next_request`](Queue::next_request) and of [`wait`](Queue::wait).
    pub fn poll_request(&self) -> Poll<Option<Result<Request<'_, M>, Error>>> {
        self.poll_with(|queue| queue.next_request())
    }

    /// As [`poll_request`](Queue::poll_request), of what [`next_event`](Queue::next_event) gives.
    ///
    /// # Errors
    ///
    /// Those of [`next_event`](Queue::next_event) and of [`wait`](Queue::wait).
    pub fn poll_event(&self) -> Poll<Option<Result<Event<'_, M>, Error>>> {
        self.poll_with(|queue| queue.next_event())
    }

    fn poll_with<'q, T>(
        &'q self,
        next: impl Fn(&'q Queue<M>) -> Result<Option<T>, Error>,
    ) -> Poll<Option<Result<T, Error>>> {
        loop {
            match next(self).transpose() {
                None if self.is_finished() => return Poll::Ready(None),
                // The wait comes last: `next` itself stages answers that have come from other threads.
                None => match self.wait(Some(Duration::ZERO)) {
                    Ok(Wake::Completions) => {}
                    Ok(_) => return Poll::Pending,
                    Err(error) => return Poll::Ready(Some(Err(error))),
                },
                event => return Poll::Ready(event),
            }
        }
    }

    /// Takes the next thing that has happened, if there is one: a request that was delivered, or one whose
    /// [operations](Operations) have all completed. It makes no system call.
    ///
    /// Who uses operations asks for events, and not by [`next_request`](Queue::next_request), which passes over the latter.
    ///
    /// # Errors
    ///
    /// Those of [`next_request`](Queue::next_request).
    pub fn next_event(&self) -> Result<Option<Event<'_, M>>, Error> {
        if let Some(completed) = self.next_completed()? {
            return Ok(Some(Event::Completed(completed)));
        }
        if let Some(request) = self.next_request()? {
            return Ok(Some(Event::Request(request)));
        }
        // On the way to a request there may have been completions.
        Ok(self.next_completed()?.map(Event::Completed))
    }

    /// What a descriptor of this queue says; `Err` with the name and the value of what in it cannot be true.
    fn work(&self, descriptor: &ublksrv_io_desc) -> Result<Work, (&'static str, u64)> {
        Work::read(descriptor, self.largest, self.places, self.overlays)
    }

    fn overlays(&self) -> Overlays {
        self.overlays
    }

    /// The tag's buffer as far as it is the request's data: in copy mode, if that is not in shared memory.
    ///
    /// # Safety
    ///
    /// As for [`Memory::lend`].
    unsafe fn lend_to_request(&self, tag: Tag, work: &Work, shared: Option<SharedPlace>) -> Option<TagBuffer> {
        let len = if M::DATA.is_in_buffer() && shared.is_none() { work.data_len() } else { 0 };
        if len == 0 {
            return Some(TagBuffer::empty());
        }
        // SAFETY: the caller promises what it takes. A buffer that was chosen is this tag's alone from then to the commit.
        unsafe { self.memory.lend(self.buffer_of(tag)?, len) }
    }

    /// Which of the queue's buffers is the tag's.
    fn buffer_of(&self, tag: Tag) -> Option<Tag> {
        if M::DATA == Data::Chosen { self.table.buffer(tag) } else { Some(tag) }
    }

    /// Where the kernel finds the tag's buffer.
    fn buffer_address(&self, tag: Tag) -> Result<u64, Error> {
        self.buffer_of(tag).and_then(|buffer| self.memory.buffer_address(buffer)).ok_or(NO_TAG)
    }

    /// Has a request go on that needs a buffer, or wait for one. Whether it can be delivered.
    fn choose(&self, state: &mut State, pool: &Pool, tag: Tag) -> Result<bool, Error> {
        if self.table.buffer(tag).is_some() {
            return Ok(true);
        }
        let descriptor = self.descriptors.read(tag).ok_or(NO_TAG)?;
        // What is not believed is refused where it is delivered.
        if !self.work(&descriptor).is_ok_and(|work| work.has_data()) {
            return Ok(true);
        }
        let Some(buffer) = pool.take() else {
            pool.wait(tag);
            return Ok(false);
        };
        self.go_on(state, tag, buffer)
    }

    /// Gives a buffer to a request that needs one. Whether it can be delivered: a WRITE has its data fetched first.
    fn go_on(&self, state: &mut State, tag: Tag, buffer: Tag) -> Result<bool, Error> {
        self.table.set_buffer(tag, Some(buffer));
        let descriptor = self.descriptors.read(tag).ok_or(NO_TAG)?;
        if self.work(&descriptor).is_ok_and(|work| work.operation == Operation::READ) {
            return Ok(true);
        }
        // Where the data is in shared memory the driver fetches nothing, and still puts the buffer's address in the place of where.
        self.table.set_record(tag, Record { addr: descriptor.addr, ..Record::default() }).ok_or(NO_TAG)?;
        state.owned.remove(tag);
        self.hold_no_more(state, tag);
        self.stage(state, Command::NEED_GET_DATA, tag, 0)?;
        Ok(false)
    }

    /// Gives buffers that are free to requests that wait. What was answered is submitted first where that makes some free.
    fn serve_waiting(&self, state: &mut State) -> Result<(), Error> {
        let Some(pool) = &self.pool else { return Ok(()) };
        if pool.is_starved() {
            state.ring.submit()?;
            pool.release();
        }
        while let Some((tag, buffer)) = pool.serve() {
            if self.go_on(state, tag, buffer)? {
                pool.make_ready(tag);
            }
        }
        Ok(())
    }

    /// The request of a tag that `next_delivery` has just returned; `Err` with the name and the value of what in its
    /// descriptor cannot be true.
    fn delivered(&self, tag: Tag) -> Result<Request<'_, M>, (&'static str, u64)> {
        let outside = ("tag", tag.raw().into());
        let descriptor = self.descriptors.read(tag).ok_or(outside)?;
        let work = self.work(&descriptor)?;
        let addr = match M::DATA {
            // Of a WRITE as it was before its data was fetched.
            Data::Chosen if work.is_write() => self.table.record(tag).ok_or(outside)?.addr,
            _ => descriptor.addr,
        };
        let shared = if work.has_data() { SharedPlace::of(work.flags, addr) } else { None };
        // SAFETY: `next_delivery` has just moved the tag from `in_flight` to `owned`: no command of it is in flight (Q1),
        // and none is staged before the token of this request is answered, which consumes it: this TagBuffer is not used any
        // more then. Nor is any other of the tag (Q2). The token borrows this queue, or has a Memory of its own.
        let buffer = unsafe { self.lend_to_request(tag, &work, shared) }.ok_or(outside)?;
        let mut state = self.state().map_err(|_| outside)?;
        if work.operation == Operation::READ {
            state.reads.insert(tag);
        }
        if work.flags.contains(RequestFlags::NEED_REG_BUF) {
            self.table.set(tag, Mark::UNREGISTERED);
        }
        drop(state);
        let moved = Moved { must_be_whole: shared.is_some(), ..Moved::default() };
        Ok(Request::new(Held { tag, work, buffer, moved, shared }, self))
    }

    /// Takes completions until one delivers a request.
    fn next_delivery(&self) -> Result<Option<Tag>, Error> {
        let mut state = self.state()?;
        if let Some(ready) = self.pool.as_ref().and_then(Pool::take_ready) {
            return Ok(Some(ready));
        }
        loop {
            let delivered = self.next_of_batch(&mut state)?;
            if delivered.is_some() {
                return Ok(delivered);
            }
            let Some(completion) = state.ring.next_completion() else { return Ok(None) };
            match completion.user_data {
                WAKE_USER_DATA => {
                    state.wake = Wakeup::None;
                    Errno::check(completion.result).map_err(|errno| SystemCall::Poll.failed(errno))?;
                    state.wake = Wakeup::Came;
                }
                BELL_USER_DATA => self.rung(&mut state, completion)?,
                data if data & OPERATION_BIT != 0 => self.operation_ended(&mut state, completion)?,
                _ => {
                    let delivered = self.delivery(&mut state, completion)?;
                    if delivered.is_some() {
                        return Ok(delivered);
                    }
                }
            }
        }
    }

    /// What the completion of a fetch or a commit brings: a request, or the end of its tag.
    fn delivery(&self, state: &mut State, completion: Completion) -> Result<Option<Tag>, Error> {
        if let Some(batch) = &mut state.batch {
            // What tags it has brought are taken one by one.
            return self.batch_ended(batch, completion).map(|()| None);
        }
        // User data is looked up, not believed: only a tag that has a command in flight can complete.
        let tag = u16::try_from(completion.user_data & !(COMMIT_BIT | GET_DATA_BIT)).ok().map(Tag::new);
        let Some(tag) = tag.filter(|tag| state.in_flight.remove(*tag)) else {
            return Err(Error::Implausible { what: "a completion's user data", value: completion.user_data });
        };
        match completion.result {
            UBLK_IO_RES_OK => {
                state.owned.insert(tag);
                match &self.pool {
                    Some(pool) => Ok(self.choose(state, pool, tag)?.then_some(tag)),
                    None => Ok(Some(tag)),
                }
            }
            UBLK_IO_RES_NEED_GET_DATA if self.pool.is_some() => {
                state.owned.insert(tag);
                let deliverable = self.pool.as_ref().map(|pool| self.choose(state, pool, tag)).transpose()?;
                // It is a WRITE, unless the driver contradicts itself.
                if deliverable == Some(true) {
                    return Err(Error::Implausible {
                        what: "a request without data whose data is to be fetched",
                        value: 1,
                    });
                }
                Ok(None)
            }
            // The device was stopped; this tag is not fetched again.
            UBLK_IO_RES_ABORT => {
                if let (Some(pool), Some(buffer)) = (&self.pool, self.table.buffer(tag)) {
                    self.table.set_buffer(tag, None);
                    pool.free(buffer);
                }
                Ok(None)
            }
            other => {
                let command = match completion.user_data & (COMMIT_BIT | GET_DATA_BIT) {
                    0 => Command::FETCH_REQ,
                    GET_DATA_BIT => Command::NEED_GET_DATA,
                    _ => Command::COMMIT_AND_FETCH_REQ,
                };
                Err(self.refused(command, tag, Errno::from_raw(other)))
            }
        }
    }

    fn refused(&self, command: Command, tag: Tag, errno: Errno) -> Error {
        let sent = self.fetch_sent(tag).unwrap_or_default();
        Error::Io { command, queue: self.id, tag, errno, sent }
    }

    /// An answer came from another thread.
    fn rung(&self, state: &mut State, completion: Completion) -> Result<(), Error> {
        self.collect(state)?;
        if completion.flags & IORING_CQE_F_MORE == 0 {
            // The kernel has ended the poll, for want of room for its completions. A new one is told of what came meanwhile.
            state.bell_polled = false;
            Errno::check(completion.result).map_err(|errno| SystemCall::Poll.failed(errno))?;
            self.poll_bell(state)?;
        }
        Ok(())
    }

    fn poll_bell(&self, state: &mut State) -> Result<(), Error> {
        if !state.bell_polled {
            state.ring.push(Op::poll_add_multishot(self.memory.mailbox().bell(), POLL_IN), BELL_USER_DATA)?;
            state.bell_polled = true;
        }
        Ok(())
    }

    /// Commits the answers that have come from other threads.
    fn collect(&self, state: &mut State) -> Result<(), Error> {
        if !self.memory.mailbox().open() {
            return Ok(());
        }
        let answered = state.detached.clone();
        for tag in answered.without(&TagSet::EMPTY) {
            let letter = self.memory.letter_box(tag).and_then(LetterBox::collect);
            self.commit_letter(state, tag, letter)?;
        }
        Ok(())
    }

    fn commit_letter(&self, state: &mut State, tag: Tag, letter: Option<Letter>) -> Result<(), Error> {
        let Some(letter) = letter else { return Ok(()) };
        if letter.unanswered {
            self.count_unanswered();
        }
        self.answer(state, tag, letter.result)
    }

    /// Notes what is held, for a [`Watch`].
    #[cfg(feature = "std")]
    pub(crate) fn note_held(&self) {
        if let Ok(mut state) = self.state() {
            self.note_held_in(&mut state);
        }
    }

    /// Notes when the requests that are held through a wait for the first time were.
    fn note_held_in(&self, state: &mut State) {
        // Those that are timed are owned.
        if state.timed.len() == state.owned.len() {
            return;
        }
        let mut now = None;
        for tag in state.owned.without(&state.timed) {
            let now = *now.get_or_insert_with(syscall::monotonic);
            if let Some(letter_box) = self.memory.letter_box(tag) {
                letter_box.hold_since(now);
            }
        }
        if now.is_some() {
            state.timed = state.owned.clone();
        }
    }

    fn hold_no_more(&self, state: &mut State, tag: Tag) {
        if state.timed.remove(tag) {
            if let Some(letter_box) = self.memory.letter_box(tag) {
                letter_box.hold_no_more();
            }
        }
    }

    /// The request that has been held longest, and for how long: since the first [`wait`](Queue::wait) through which it was.
    #[must_use]
    pub fn oldest(&self) -> Option<(Tag, Duration)> {
        let state = self.state().ok()?;
        let since = |tag| self.memory.letter_box(tag)?.held_since().map(|since| (since, tag));
        let (since, tag) = state.timed.without(&TagSet::EMPTY).filter_map(since).min_by_key(|(since, _)| *since)?;
        Some((tag, syscall::monotonic().saturating_sub(since)))
    }

    /// Whether nothing is left to be served: every fetch has ended, because the device was stopped or the driver refused it
    /// ([`Error::Io`]), and every request was answered.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.state().is_ok_and(|state| {
            let idle = state.in_flight.is_empty() && state.batch.as_ref().is_none_or(Batch::is_over);
            idle && state.owned.is_empty()
        })
    }

    /// In batches, how often a fetch was sent again because its buffer was used up ([`PreparedQueue::fetch_room`]).
    #[must_use]
    pub fn fetches_sent_again(&self) -> u64 {
        self.state().map_or(0, |state| state.batch.as_ref().map_or(0, Batch::rearmed))
    }

    /// Requests that were delivered and not answered yet.
    #[must_use]
    pub fn owned(&self) -> usize {
        self.state().map_or(0, |state| state.owned.len())
    }

    /// Requests that were delivered, or are about to be, and not answered yet; without those that wait for a buffer.
    #[cfg(feature = "std")]
    pub(crate) fn owned_by_target(&self) -> usize {
        self.owned().saturating_sub(self.pool.as_ref().map_or(0, Pool::waiting))
    }

    /// Requests that were answered so far, those that were dropped or forgotten included: what shows that a target gets on.
    #[must_use]
    pub fn answered(&self) -> Answered {
        self.state().map_or_else(|_| Answered::default(), |state| state.answered)
    }

    /// Requests that were dropped without an answer, and so failed with `EIO`.
    #[must_use]
    pub fn unanswered(&self) -> u64 {
        self.unanswered.get()
    }

    /// Makes [`wait`](Queue::wait) return when `event`, an eventfd for instance, can be read. Once: to be woken again, call
    /// it again. `event` has to stay open until the next `wait` has begun.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: the event of an earlier call has not come yet.
    pub fn wake_on(&self, event: &Fd) -> Result<(), Error> {
        let mut state = self.state()?;
        if state.wake == Wakeup::Armed {
            return Err(Error::Invalid { what: "a queue waits for one event at a time" });
        }
        state.ring.push(Op::poll_add(event, POLL_IN), WAKE_USER_DATA)?;
        state.wake = Wakeup::Armed;
        Ok(())
    }

    /// Whether the event of the last [`wake_on`](Queue::wake_on) has come.
    #[must_use]
    pub fn is_woken(&self) -> bool {
        self.state().is_ok_and(|state| state.wake == Wakeup::Came)
    }

    /// The ring's descriptor, to be polled with others: readable when [`next_request`](Queue::next_request) may have
    /// something. Every answer has to be submitted first, which is so when [`poll_request`](Queue::poll_request) is pending, or
    /// [`wait`](Queue::wait) with a time-out of zero has brought nothing. `next_request` is not to come in between: it stages
    /// answers of other threads.
    ///
    /// Use it for nothing but polling: it is lent as long as the queue lives.
    #[must_use]
    pub const fn ring_fd(&self) -> i32 {
        self.ring_fd
    }

    /// Answers with `EIO` every request that was delivered and forgotten (`mem::forget`), so that its client goes on. No
    /// [`Request`] of the queue lives here: it would borrow the queue. What was detached is left alone, as whoever has it may
    /// still answer; and so is what has operations under way, until they have completed.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Queue::wait): the ring cannot go on.
    pub fn fail_forgotten(&mut self) -> Result<(), Error> {
        let mut state = self.state()?;
        let (owned, detached) = (state.owned.clone(), state.detached.clone());
        let is_waiting = |tag: Tag| self.pool.as_ref().is_some_and(|pool| pool.is_waiting(tag));
        for tag in owned.without(&detached).filter(|tag| !self.table.has(*tag, Mark::OPERATING) && !is_waiting(*tag)) {
            state.completed.remove(tag);
            self.answer(&mut state, tag, failed(Errno::EIO))?;
        }
        Ok(())
    }

    /// What changes. It cannot be borrowed already, since no call of this file makes another that borrows it.
    fn state(&self) -> Result<RefMut<'_, State>, Error> {
        let busy = Error::Invalid { what: "a queue is used by one call at a time" };
        self.state.try_borrow_mut().map_err(|_| busy)
    }

    /// Answers a request that the server owns, and fetches the tag's next.
    fn commit(&self, tag: Tag, result: i32) {
        let Ok(mut state) = self.state() else { return };
        if let Err(fault) = self.answer(&mut state, tag, result) {
            state.fault.get_or_insert(fault);
        }
    }

    /// Answers a ZONE_APPEND, which went to this sector, and fetches the tag's next.
    fn commit_append(&self, tag: Tag, result: i32, at: Sectors) {
        let Ok(mut state) = self.state() else { return };
        let sent = self.append_command(tag, result, at);
        if let Err(fault) = sent.and_then(|sent| self.answer_with(&mut state, tag, sent)) {
            state.fault.get_or_insert(fault);
        }
    }

    /// Stages the answer to a request whose token is gone.
    fn answer(&self, state: &mut State, tag: Tag, result: i32) -> Result<(), Error> {
        let sent = self.io_command(tag, result)?;
        self.answer_with(state, tag, sent)
    }

    fn answer_with(&self, state: &mut State, tag: Tag, sent: ublksrv_io_cmd) -> Result<(), Error> {
        self.hold_no_more(state, tag);
        state.release(tag);
        self.give_back(state, tag)?;
        match &mut state.batch {
            Some(batch) => self.collect_answer(batch, tag, &sent),
            None => self.stage_command(state, Command::COMMIT_AND_FETCH_REQ, tag, sent),
        }
    }

    /// Has a request's answer come through the mailbox from now on.
    fn detach(&self, tag: Tag) -> Memory {
        if let Ok(mut state) = self.state() {
            if let Some(letter_box) = self.memory.letter_box(tag) {
                letter_box.hand_out();
            }
            state.detached.insert(tag);
            if let Err(fault) = self.poll_bell(&mut state) {
                state.fault.get_or_insert(fault);
            }
        }
        self.memory.clone()
    }

    /// Requests with their data in memory that is shared, which were completed and yet failed with `EIO`, as nobody has moved that
    /// data: after a [recovery](crate::Device::recover), those that name memory which only the last server knew.
    #[must_use]
    pub fn unmoved_shared(&self) -> u64 {
        self.unmoved_shared.get()
    }

    fn count_unmoved(&self) {
        self.unmoved_shared.set(self.unmoved_shared.get().wrapping_add(1));
    }

    fn count_unanswered(&self) {
        self.unanswered.set(self.unanswered.get().wrapping_add(1));
    }

    /// What the fetch of a tag said in its entry; `None` for a tag that the queue has not, and in batches, where no tag is fetched alone.
    /// For programs that show what they do.
    #[must_use]
    pub fn fetch_sent(&self, tag: Tag) -> Option<Sent> {
        if self.state().ok()?.batch.is_some() {
            return None;
        }
        let [first, second] = words(&self.io_command(tag, 0).ok()?);
        Some(Sent::of_words([first, second, 0, 0], None))
    }

    /// What a fetch or a commit of a tag says: in copy mode its buffer is the tag's own.
    fn io_command(&self, tag: Tag, result: i32) -> Result<ublksrv_io_cmd, Error> {
        let mut sent = ublksrv_io_cmd::default();
        (sent.q_id, sent.tag, sent.result) = (self.id.raw(), tag.raw(), result);
        if M::DATA == Data::Buffer || self.table.buffer(tag).is_some() {
            sent.addr = self.buffer_address(tag)?;
        }
        Ok(sent)
    }

    /// What a commit of a ZONE_APPEND says that went to this sector. The driver takes that for no address: only modes without buffers
    /// have zones. Where there is one, it stays.
    fn append_command(&self, tag: Tag, result: i32, at: Sectors) -> Result<ublksrv_io_cmd, Error> {
        let mut sent = self.io_command(tag, result)?;
        if sent.addr == 0 {
            // In C it is a union with `zone_append_lba`.
            sent.addr = at.raw();
        }
        Ok(sent)
    }

    /// Stages a fetch or a commit of a tag that no request is out for.
    fn stage(&self, state: &mut State, command: Command, tag: Tag, result: i32) -> Result<(), Error> {
        let sent = self.io_command(tag, result)?;
        self.stage_command(state, command, tag, sent)
    }

    fn stage_command(&self, state: &mut State, command: Command, tag: Tag, sent: ublksrv_io_cmd) -> Result<(), Error> {
        if !state.in_flight.insert(tag) {
            return Err(Error::Invalid { what: "a tag has one command in flight at a time" });
        }
        let mut addr = 0;
        if M::DATA == Data::Registered {
            let mut place = ublk_auto_buf_reg::default();
            (place.index, place.flags) = (tag.raw(), UBLK_AUTO_BUF_REG_FALLBACK);
            addr = ublk_auto_buf_reg_to_sqe_addr(&place);
        }
        // SAFETY: the driver uses the tag's buffer because of this command, if any. The tag is in `in_flight` from here on, so by
        // Q1 the buffer stays mapped until the completion was taken. No TagBuffer of it is used any more, and no operation that
        // names it is under way: `commit` and `commit_append` are called by the request that is being consumed, `commit_letter`
        // when the detached one has been answered, `fetch` before there is any, and `fail_forgotten` for a tag that is neither
        // detached nor operating when no Request can live (Q2). A buffer is as long as the device's largest request (`new`), or as
        // any device's (`adopt`). The char device is open as long as `self`.
        let op = unsafe { Op::uring_cmd_addr(&self.char_device, command.raw(), words(&sent), addr) };
        let which = match command {
            Command::COMMIT_AND_FETCH_REQ => COMMIT_BIT,
            Command::NEED_GET_DATA => GET_DATA_BIT,
            _ => 0,
        };
        push(&mut state.ring, op, u64::from(tag.raw()) | which)?;
        if let (Command::COMMIT_AND_FETCH_REQ, Some(pool), Some(buffer)) = (command, &self.pool, self.table.buffer(tag))
        {
            self.table.set_buffer(tag, None);
            pool.give(buffer);
        }
        Ok(())
    }
}

/// A command about the elements of a batch that stand in `piece`, and what it says of them; `None` where they do not lie in the array.
fn elements_op(
    char_device: &Fd,
    command: Command,
    queue: QueueId,
    elements: &Elements,
    piece: Piece,
) -> Option<(Op, ublk_batch_io)> {
    let (address, sent) = elements.sent(queue, piece)?;
    // SAFETY: the driver reads the elements, which lie in a mapping that ends only when no such command is in flight (`Batch::end`).
    // It uses the buffers that they name as Q3 says, from which they are unmapped only when no fetch is with it. They are those of the
    // tags, as long as the device's largest request (`new`).
    let op = unsafe { Op::uring_cmd_addr(char_device, command.raw(), batch::area(&sent), address) };
    Some((op, sent))
}

/// A fetch, for whatever tags come: they are written to buffers of this group, and their requests' data to the tags' own.
fn tags_op(char_device: &Fd, sent: &ublk_batch_io, group: u16) -> Op {
    // SAFETY: the group is a BufferRing's. By Q3 the tags' buffers stay mapped until the completion that says that no more come was
    // taken, and the driver writes to none that a thread has.
    unsafe { Op::uring_cmd_multishot(char_device, Command::FETCH_IO_CMDS.raw(), batch::area(sent), group) }
}

const NO_TAG: Error = Error::Invalid { what: "a tag is below the queue's depth" };

/// Where the requests of such a device can have their data, other than where its mode has it.
fn places<M: Mode>(features: Features) -> RequestFlags {
    let mut places = RequestFlags::NONE;
    if M::DATA == Data::Registered {
        places = places | RequestFlags::NEED_REG_BUF;
    }
    if features.contains(Features::SHMEM_ZC) {
        places = places | RequestFlags::SHMEM_ZC;
    }
    places
}

/// Stages an entry. Where the ring is full, what is staged is submitted first.
fn push(ring: &mut Ring<Local>, op: Op, user_data: u64) -> Result<(), Error> {
    if !ring.has_room(1) {
        ring.submit()?;
    }
    ring.push(op, user_data)
}

impl State {
    /// Nothing is fetched yet.
    fn over(ring: Ring<Local>, batch: Option<Batch>) -> State {
        State {
            ring,
            in_flight: TagSet::EMPTY,
            owned: TagSet::EMPTY,
            detached: TagSet::EMPTY,
            operating: 0,
            completed: TagSet::EMPTY,
            timed: TagSet::EMPTY,
            reads: TagSet::EMPTY,
            answered: Answered::default(),
            batch,
            wake: Wakeup::None,
            bell_polled: false,
            fault: None,
        }
    }

    /// The tag's request is answered, and not timed any more.
    fn release(&mut self, tag: Tag) {
        self.owned.remove(tag);
        self.detached.remove(tag);
        let count = if self.reads.remove(tag) { &mut self.answered.reads } else { &mut self.answered.others };
        *count = count.wrapping_add(1);
    }
}

impl<M: Mode> Drop for Queue<M> {
    fn drop(&mut self) {
        // Answers that were given are sent, and what has ended meanwhile is taken. Requests that this delivers stay with
        // the driver, unanswered. If the ring fails, so be it: then the tags stay in flight.
        let mut idle = false;
        if let Ok(mut state) = self.state() {
            let detached = state.detached.clone();
            for tag in detached.without(&TagSet::EMPTY) {
                let letter = self.memory.letter_box(tag).and_then(LetterBox::close);
                // Its tag then stays in flight, or with the driver.
                let _ = self.commit_letter(&mut state, tag, letter);
            }
            // In batches, answers may be collected while others are with the driver.
            let mut more = true;
            while more {
                more = self.send_commit(&mut state).unwrap_or(false);
                if state.ring.submit_and_wait(Some(Duration::ZERO)).is_err() {
                    break;
                }
                while let Some(completion) = state.ring.next_completion() {
                    match completion.user_data {
                        WAKE_USER_DATA | BELL_USER_DATA => {}
                        data if data & OPERATION_BIT != 0 => drop(self.operation_ended(&mut state, completion)),
                        _ => drop(self.delivery(&mut state, completion)),
                    }
                }
            }
            idle = state.in_flight.is_empty() && state.operating == 0;
            if let Some(batch) = state.batch.take() {
                idle &= !batch.is_in_flight();
                batch.end(|buffers| {
                    // SAFETY: the fetch that selects from this group is not with the driver: the completion that said that no more
                    // come was taken, or it was never sent.
                    unsafe { buffers.unmap() };
                });
            }
        }
        // By Q1 an idle queue's buffers are nobody's, but for a token's, which has a Memory of its own. Any other queue's may
        // still be the kernel's: the end of the ring, which comes when its descriptor is closed, proves nothing, because the
        // kernel works it off later.
        if !idle {
            self.memory.leak();
            self.table.leak();
        }
    }
}

#[cfg(feature = "std")]
impl<M: Mode> std::os::fd::AsFd for Queue<M> {
    /// The ring's descriptor; see [`ring_fd`](Queue::ring_fd).
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        // SAFETY: the ring in `state` has it open, and is replaced by no call, as long as `self` is borrowed.
        unsafe { std::os::fd::BorrowedFd::borrow_raw(self.ring_fd) }
    }
}

/// The 16 bytes of the struct, as the words of the command area.
fn words(sent: &ublksrv_io_cmd) -> [u64; 2] {
    let [q0, q1] = sent.q_id.to_ne_bytes();
    let [t0, t1] = sent.tag.to_ne_bytes();
    let [r0, r1, r2, r3] = sent.result.to_ne_bytes();
    [u64::from_ne_bytes([q0, q1, t0, t1, r0, r1, r2, r3]), sent.addr]
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{
        Cell, Completion, Descriptors, Mark, Memory, Mode, OPERATION_BIT, Overlays, PhantomData, Queue, RefCell,
        RequestFlags, State, Table, words,
    };
    use crate::golden::Golden;
    use crate::queue::table::Record;
    use crate::ring::Ring;
    use crate::{Command, DeviceInfo, Error, Fd, QueueId, Sectors, Tag, mode};
    use ublk_sys::{ublksrv_ctrl_dev_info, ublksrv_io_cmd};

    #[test]
    fn each_field_of_an_io_command_stands_at_its_byte() {
        let mut sent = ublksrv_io_cmd::default();
        (sent.q_id, sent.tag, sent.result, sent.addr) = (0x0201, 0x0403, -19, 0x1112_1314_1516_1718);
        let bytes: std::vec::Vec<u8> = words(&sent).iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(bytes[0..2], sent.q_id.to_ne_bytes());
        assert_eq!(bytes[2..4], sent.tag.to_ne_bytes());
        assert_eq!(bytes[4..8], sent.result.to_ne_bytes());
        assert_eq!(bytes[8..16], sent.addr.to_ne_bytes());
    }

    /// A queue of four tags over files and a ring that are none of a driver's.
    pub(crate) fn queue<M: Mode>() -> Queue<M> {
        queue_over(Fd::open(c"/dev/zero").unwrap())
    }

    /// The same over a file whose first page is the descriptors'.
    pub(super) fn queue_over<M: Mode>(char_device: Fd) -> Queue<M> {
        let mut info = ublksrv_ctrl_dev_info::default();
        (info.nr_hw_queues, info.queue_depth, info.max_io_buf_bytes) = (1, 4, 512 << 10);
        let id = QueueId::new(0);
        let info = DeviceInfo::from_raw(info);
        Queue {
            ring_fd: -1,
            state: RefCell::new(State::over(Ring::fake(), None)),
            unanswered: Cell::new(0),
            unmoved_shared: Cell::new(0),
            info,
            descriptors: Descriptors::map(&char_device, &info, id).unwrap(),
            memory: Memory::map(4, 512 << 10).unwrap(),
            table: Table::map(4, 0).unwrap(),
            shares: None,
            pool: None,
            places: RequestFlags::NONE,
            depth: 4,
            largest: 512 << 10,
            overlays: Overlays::default(),
            char_device,
            id,
            mode: PhantomData,
        }
    }

    /// What the queue makes of a completion of an operation.
    fn ended(queue: &Queue, user_data: u64) -> Result<(), Error> {
        let mut state = queue.state().unwrap();
        queue.operation_ended(&mut state, Completion { user_data, result: 0, flags: 0 })
    }

    #[test]
    fn a_completion_of_an_operation_that_was_not_started_is_not_believed() {
        let queue = queue();
        let operation = |index: u64, tag: u64| OPERATION_BIT | index << 16 | tag;
        let unknown = |user_data| matches!(ended(&queue, user_data), Err(Error::Implausible { .. }));
        for index in [0, 1, 63, 64, u64::from(u16::MAX) - 1, u64::from(u16::MAX)] {
            for tag in [0, 3, 4, u64::from(u16::MAX)] {
                assert!(unknown(operation(index, tag)), "index {index}, tag {tag}");
            }
        }
        assert!(unknown(OPERATION_BIT | 1 << 40) && unknown(u64::MAX));
        // Of a tag that is operating, an operation that it has not.
        let tag = Tag::new(2);
        queue.table.set(tag, Mark::OPERATING);
        queue.table.set_record(tag, Record { count: 1, left: 1, ..Record::default() }).unwrap();
        assert!(unknown(operation(0, 2)) && unknown(operation(u64::from(u16::MAX), 2)));
        assert_eq!(queue.table.record(tag).unwrap().left, 1, "nothing was counted");
    }

    #[test]
    #[cfg_attr(not(target_endian = "little"), ignore = "the goldens are those of a little-endian machine")]
    fn each_io_command_in_the_ring_is_the_golden_that_a_driver_has_accepted() {
        let fetch = include_str!("../../tests/goldens/UBLK_U_IO_FETCH_REQ.txt");
        let commit = include_str!("../../tests/goldens/UBLK_U_IO_COMMIT_AND_FETCH_REQ.txt");
        let commands = [(Command::FETCH_REQ, 0, fetch), (Command::COMMIT_AND_FETCH_REQ, 4096, commit)];
        for (command, result, golden) in commands {
            let (queue, tag) = (queue::<mode::Copy>(), Tag::new(3));
            let mut state = queue.state().unwrap();
            queue.stage(&mut state, command, tag, result).unwrap();
            let sqe = state.ring.staged_bytes().concat();
            assert_eq!(Golden::compare(&Golden::parse(golden).sqe, &sqe), Ok(()), "{command:?}");
            assert_eq!(sqe[4..8], queue.char_device.raw().to_ne_bytes());
            assert_eq!(sqe[56..64], queue.memory.buffer_address(tag).unwrap().to_ne_bytes());
        }
    }

    #[test]
    fn the_sector_of_an_append_is_sent_and_is_never_taken_for_an_address() {
        let tag = Tag::new(3);
        assert_eq!(queue::<mode::UserCopy>().append_command(tag, 4096, Sectors::new(77)).unwrap().addr, 77);
        let queue = queue::<mode::Copy>();
        let sent = queue.append_command(tag, 4096, Sectors::new(77)).unwrap();
        assert_eq!(Some(sent.addr), queue.memory.buffer_address(tag));
    }
}
