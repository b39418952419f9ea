// SPDX-License-Identifier: MIT OR Apache-2.0
//! A hardware queue in copy mode: fetch its requests, serve them, commit the answers. It knows nothing of control.
//!
//! ```text
//!   PreparedQueue ── fetch() in the thread that serves ──> Queue
//!                                                            │ wait():         submits what was answered, waits
//!                                                            │ next_request(): a Request for each completion
//!                                                            └ is_finished():  the device was stopped
//! ```
//!
//! Each tag has a buffer of its own. It belongs to the kernel while a command of the tag is in flight, and to the
//! [`Request`] from its delivery to its answer. No call of this module takes an address from outside.
//!
//! What the kernel would answer with corrupted memory does not compile. A queue stays with the thread that fetched it:
//!
//! ```compile_fail,E0277
//! fn serve_elsewhere(queue: ublk::Queue) {
//!     std::thread::spawn(move || queue.wait(None));
//! }
//! ```
//!
//! A request does not outlive its queue, and its data not the request:
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
//! ```compile_fail,E0505
//! fn look_after_the_answer(request: ublk::Request<'_>) -> u8 {
//!     let data = request.data();
//!     request.complete();
//!     data[0]
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
#![expect(unsafe_code, reason = "names buffers in commands and lends them to requests; Invariants Q1 and Q2 say when")]

mod buffers;
mod descriptors;
mod request;
mod tag_set;

use core::cell::{Cell, RefCell};
use core::fmt;
use core::mem::ManuallyDrop;
use core::time::Duration;

use ublk_sys::{UBLK_IO_RES_ABORT, UBLK_IO_RES_OK, ublksrv_io_cmd};

pub use request::{Operation, ReadCursor, Request, RequestFlags};

use crate::char_device::CharDevice;
use crate::device_info::DeviceInfo;
use crate::errno::Errno;
use crate::error::{Command, Error, SystemCall};
use crate::features::Features;
use crate::id::{QueueId, Tag};
use crate::ring::{DisabledRing, Local, Op, Ring, Wake};
use crate::syscall::Fd;
use buffers::Buffers;
use descriptors::Descriptors;
use request::Work;
use tag_set::TagSet;

/// Features whose devices move data in another way than through the server's buffers.
const OTHER_DATA_MODES: [Features; 6] = [
    Features::SUPPORT_ZERO_COPY,
    Features::NEED_GET_DATA,
    Features::USER_COPY,
    Features::AUTO_BUF_REG,
    Features::BATCH_IO,
    Features::SHMEM_ZC,
];

/// User data of a command is its tag, with this bit where it is a commit and not the first fetch.
const COMMIT_BIT: u64 = 1 << 16;

/// User data of the poll that wakes the queue.
const WAKE_USER_DATA: u64 = 1 << 32;

/// `POLLIN`: the descriptor can be read.
const POLL_IN: u16 = 1;

/// A queue with all its memory, made in one thread and sent to the one that will serve it.
#[derive(Debug)]
pub struct PreparedQueue {
    id: QueueId,
    depth: u16,
    ring: DisabledRing,
    descriptors: Descriptors,
    buffers: Buffers,
    char_device: Fd,
}

static_assertions::assert_impl_all!(PreparedQueue: Send);

impl PreparedQueue {
    /// Makes the ring and maps the descriptors and the buffers of one queue.
    ///
    /// `info` is what the driver answered to the command that made the device of `char_device`. Nobody but
    /// [`Device`](crate::Device) can say so, which is why this is not public: with the buffers of another device's size
    /// the driver would write past their ends.
    pub(crate) fn new(char_device: &CharDevice, info: &DeviceInfo, id: QueueId) -> Result<PreparedQueue, Error> {
        let invalid = |what| Err(Error::Invalid { what });
        if id.raw() >= info.queues() {
            return invalid("a queue's number is below the number of the device's queues");
        }
        if OTHER_DATA_MODES.iter().any(|mode| info.features().contains(*mode)) {
            return invalid("a device for this queue moves data through the server's buffers (copy mode)");
        }
        let depth = u32::from(info.depth());
        // Each tag has at most one command staged or in flight; one more is the poll that wakes the queue.
        let entries = depth + 1;
        Ok(PreparedQueue {
            id,
            depth: info.depth(),
            ring: Ring::local(entries, entries)?,
            descriptors: Descriptors::map(char_device.fd(), info, id)?,
            buffers: Buffers::allocate(info)?,
            char_device: char_device.duplicate()?,
        })
    }

    /// The queue's number.
    #[must_use]
    pub const fn id(&self) -> QueueId {
        self.id
    }

    /// Makes the calling thread the daemon of every tag of the queue, by fetching each.
    ///
    /// When every queue of the device has returned from this, the device can be started. A daemon that ends leaves its
    /// requests unanswered until the whole server lets go of the char device.
    ///
    /// # Errors
    ///
    /// - [`Error::System`]: the ring could not be enabled or entered.
    ///
    /// What the driver thinks of a fetch comes from [`Queue::next_request`].
    ///
    /// # Kernel
    ///
    /// Since Linux 6.0. `UBLK_U_IO_FETCH_REQ`, `ublk_fetch()`.
    pub fn fetch(self) -> Result<Queue, Error> {
        let state = State {
            ring: self.ring.enable()?,
            in_flight: TagSet::EMPTY,
            owned: TagSet::EMPTY,
            wake: Wakeup::None,
            fault: None,
        };
        let queue = Queue {
            state: RefCell::new(state),
            unanswered: Cell::new(0),
            descriptors: self.descriptors,
            buffers: ManuallyDrop::new(self.buffers),
            char_device: self.char_device,
            id: self.id,
            depth: self.depth,
        };
        let mut state = queue.state.borrow_mut();
        for tag in (0..self.depth).map(Tag::new) {
            queue.stage(&mut state, Command::FETCH_REQ, tag, 0)?;
        }
        state.ring.submit()?;
        drop(state);
        Ok(queue)
    }
}

/// A queue that is served by the thread that fetched it.
///
/// Dropping it submits the answers that are still staged. Its buffers are unmapped only if no command is in flight any
/// more, which is so once [`is_finished`](Queue::is_finished): otherwise they stay mapped until the process ends, because
/// the kernel may still write to them. A pending fetch cannot be withdrawn; only the end of the device ends it. So a
/// server stops its device first.
///
/// Invariant Q1: a tag is in `in_flight` from before its command is staged until the command's completion was taken.
/// Its buffer is then the kernel's. The buffers are unmapped only while `in_flight` is empty.
///
/// Invariant Q2: a tag is in `owned` from the completion that delivers its request until the answer is staged. For each
/// there is at most one [`Request`], made when the tag came into `owned`; answering consumes it. No tag is in both sets.
pub struct Queue {
    state: RefCell<State>,
    unanswered: Cell<u64>,
    descriptors: Descriptors,
    buffers: ManuallyDrop<Buffers>,
    char_device: Fd,
    id: QueueId,
    depth: u16,
}

/// What changes while a queue is served. It is borrowed for the length of one call of this file, never while code of the
/// target runs.
#[derive(Debug)]
struct State {
    ring: Ring<Local>,
    in_flight: TagSet,
    owned: TagSet,
    wake: Wakeup,
    /// What an answer ran into; every `wait` reports it from then on.
    fault: Option<Error>,
}

/// The poll of [`Queue::wake_on`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wakeup {
    None,
    Armed,
    Came,
}

static_assertions::assert_not_impl_any!(Queue: Send, Sync);

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("id", &self.id).field("depth", &self.depth).finish_non_exhaustive()
    }
}

impl Queue {
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
        let mut state = self.state.borrow_mut();
        match state.fault {
            Some(fault) => Err(fault),
            None => state.ring.submit_and_wait(timeout),
        }
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
    pub fn next_request(&self) -> Result<Option<Request<'_>>, Error> {
        let Some(tag) = self.next_delivery()? else { return Ok(None) };
        match self.delivered(tag) {
            Ok(request) => Ok(Some(request)),
            Err((what, value)) => {
                self.commit(tag, Errno::EIO.raw().saturating_neg());
                Err(Error::Implausible { what, value })
            }
        }
    }

    /// The request of a tag that `next_delivery` has just returned; `Err` with the name and the value of what in its
    /// descriptor cannot be true.
    fn delivered(&self, tag: Tag) -> Result<Request<'_>, (&'static str, u64)> {
        let outside = ("tag", tag.raw().into());
        let descriptor = self.descriptors.read(tag).ok_or(outside)?;
        let work = Work::read(&descriptor, self.buffers.len())?;
        let len = if work.has_data() { usize::try_from(work.len_bytes()).map_err(|_| outside)? } else { 0 };
        // SAFETY: `next_delivery` has just moved the tag from `in_flight` to `owned`: no command of it is in flight (Q1),
        // and none is staged before this request is answered, which consumes it and with it this TagBuffer. No other
        // TagBuffer of the tag lives (Q2).
        let buffer = unsafe { self.buffers.lend(tag, len) }.ok_or(outside)?;
        Ok(Request::new(self, tag, work, buffer))
    }

    /// Takes completions until one delivers a request.
    fn next_delivery(&self) -> Result<Option<Tag>, Error> {
        let mut state = self.state.borrow_mut();
        while let Some(completion) = state.ring.next_completion() {
            if completion.user_data == WAKE_USER_DATA {
                state.wake = Wakeup::None;
                Errno::check(completion.result).map_err(|errno| SystemCall::Poll.failed(errno))?;
                state.wake = Wakeup::Came;
                continue;
            }
            // User data is looked up, not believed: only a tag that has a command in flight can complete.
            let tag = u16::try_from(completion.user_data & !COMMIT_BIT).ok().map(Tag::new);
            let Some(tag) = tag.filter(|tag| state.in_flight.remove(*tag)) else {
                return Err(Error::Implausible { what: "a completion's user data", value: completion.user_data });
            };
            match completion.result {
                UBLK_IO_RES_OK => {
                    state.owned.insert(tag);
                    return Ok(Some(tag));
                }
                // The device was stopped; this tag is not fetched again.
                UBLK_IO_RES_ABORT => {}
                other => {
                    let committed = completion.user_data & COMMIT_BIT != 0;
                    let command = if committed { Command::COMMIT_AND_FETCH_REQ } else { Command::FETCH_REQ };
                    return Err(Error::Io { command, queue: self.id, tag, errno: Errno::from_raw(other) });
                }
            }
        }
        Ok(None)
    }

    /// Whether nothing is left to be served: every fetch ended because the device was stopped, and every request was
    /// answered.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        let state = self.state.borrow();
        state.in_flight.is_empty() && state.owned.is_empty()
    }

    /// Requests that were delivered and not answered yet.
    #[must_use]
    pub fn owned(&self) -> usize {
        self.state.borrow().owned.len()
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
        let mut state = self.state.borrow_mut();
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
        self.state.borrow().wake == Wakeup::Came
    }

    /// The ring's descriptor, to be polled with others: readable when [`next_request`](Queue::next_request) may have
    /// something. What was answered since the last [`wait`](Queue::wait) has to be submitted first, by a `wait` with a
    /// timeout of zero.
    ///
    /// Use it for nothing but polling: it is lent as long as the queue lives.
    #[must_use]
    pub fn ring_fd(&self) -> i32 {
        self.state.borrow().ring.fd().raw()
    }

    /// Answers with `EIO` every request that was delivered and forgotten (`mem::forget`), so that its client goes on. No
    /// request of the queue lives here: it would borrow the queue.
    pub fn fail_forgotten(&mut self) {
        while let Some(tag) = self.state.get_mut().owned.pop() {
            self.commit(tag, Errno::EIO.raw().saturating_neg());
        }
    }

    /// Answers a request that the server owns, and fetches the tag's next.
    fn commit(&self, tag: Tag, result: i32) {
        let mut state = self.state.borrow_mut();
        state.owned.remove(tag);
        if let Err(fault) = self.stage(&mut state, Command::COMMIT_AND_FETCH_REQ, tag, result) {
            state.fault.get_or_insert(fault);
        }
    }

    fn count_unanswered(&self) {
        self.unanswered.set(self.unanswered.get() + 1);
    }

    /// Stages a fetch or a commit of a tag that no request is out for.
    fn stage(&self, state: &mut State, command: Command, tag: Tag, result: i32) -> Result<(), Error> {
        let address = self.buffers.address(tag).ok_or(Error::Invalid { what: "a tag is below the queue's depth" })?;
        if !state.in_flight.insert(tag) {
            return Err(Error::Invalid { what: "a tag has one command in flight at a time" });
        }
        let mut sent = ublksrv_io_cmd::default();
        (sent.q_id, sent.tag, sent.result, sent.addr) = (self.id.raw(), tag.raw(), result, address);
        // SAFETY: the driver uses the tag's buffer because of this command. The tag is in `in_flight` from here on, so by
        // Q1 the buffer stays mapped until the completion was taken; no TagBuffer of it lives, since `commit` is called by
        // the request that is being consumed, `fetch` before there is any, and `fail_forgotten` when none can live (Q2). The char device
        // is open as long as `self`.
        let op = unsafe { Op::uring_cmd(&self.char_device, command.raw(), words(&sent)) };
        let commit_bit = if command == Command::COMMIT_AND_FETCH_REQ { COMMIT_BIT } else { 0 };
        state.ring.push(op, u64::from(tag.raw()) | commit_bit)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // Answers that were given are sent, and what has ended meanwhile is taken. Requests that this delivers stay with
        // the driver, unanswered. If the ring fails, so be it: then the tags stay in flight.
        if self.state.get_mut().ring.submit_and_wait(Some(Duration::ZERO)).is_ok() {
            while let Ok(Some(_)) = self.next_delivery() {}
        }
        let idle = self.state.get_mut().in_flight.is_empty();
        // SAFETY: `buffers` is not used again: this is the drop of the value that holds it.
        let buffers = unsafe { ManuallyDrop::take(&mut self.buffers) };
        // By Q1 an idle queue's buffers are nobody's. Any other queue's may still be the kernel's: the end of the ring,
        // which comes when its descriptor is closed, proves nothing, because the kernel works it off later.
        if !idle {
            buffers.leak();
        }
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
mod tests {
    use super::words;
    use ublk_sys::ublksrv_io_cmd;

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
}
