// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a queue's ring works for a request: starts its operations, has its data where they look for it, and counts what they moved.
//!
//! Where that is:
//!
//! | mode | operations name | before the first that moves data | with the answer |
//! |---|---|---|---|
//! | copy | the tag's buffer | nothing | the driver copies |
//! | user copy | the tag's buffer | `pread(2)` of a WRITE | `pwrite(2)` of a READ |
//! | zero copy | the client's pages | REGISTER_IO_BUF, in the same `io_uring_enter` | UNREGISTER_IO_BUF, likewise |
//! | automatic registration | the client's pages | nothing | nothing |
//!
//! The driver registers pages, and gives them back, as it takes the command from the ring, before the kernel looks at the next entry.
//! So neither command is linked to what comes after it: operations of one request run beside each other, a short one is followed by
//! another with the pages still registered, and the commit is staged behind what gives them back.
#![expect(unsafe_code, reason = "names buffers in operations; Invariants Q1 and Q2 say when")]

use core::ops::Range;

use ublk_sys::{ublksrv_io_cmd, ublksrv_io_desc};

use crate::device_info::MAX_OPERATIONS;
use crate::errno::Errno;
use crate::error::{Command, Error};
use crate::id::{QueueId, SharedIndex, Tag};
use crate::mode::{Data, Mode};
use crate::queue::operations::Completed;
use crate::queue::request::{Held, Moved, Operation, Request, SharedPlace, Work, failed};
use crate::queue::shares::NOT_SHARED;
use crate::queue::table::{Mark, Record, SEGMENTS, Segment, Table};
use crate::queue::{NO_TAG, Queue, State, push, words};
use crate::ring::{Completion, Op, OpFile};
use crate::shared_memory::SharedMemory;
use crate::syscall::{self, Fd};
use crate::units::u64_from;

/// User data of an operation of the ring for a request has this bit, its tag at bit 0, and its index at bit 16.
pub(super) const OPERATION_BIT: u64 = 1 << 34;

/// The index of the command that registers a request's pages, and of the one that gives them back.
const REGISTER: u16 = u16::MAX;
const UNREGISTER: u16 = u16::MAX - 1;

const _: () = assert!(MAX_OPERATIONS < UNREGISTER);

/// Where operations find a request's data.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// How they name its first byte.
    pub(super) base: u64,
    /// The entry of the ring's table of buffers, where it is in one; else in the tag's buffer.
    pub(super) buffer: Option<u16>,
}

/// Makes an operation on memory of this process: of a file, from an offset on, at an address, of a length.
type Plain<'f> = unsafe fn(OpFile<'f>, u64, u64, u32) -> Op;

/// Makes an operation on memory of this process: of a socket, at an address, of a length, with flags.
type Socket<'f> = unsafe fn(OpFile<'f>, u64, u32, u32) -> Op;

/// Makes an operation on a buffer of the ring, whose index comes last.
type Fixed<'f> = unsafe fn(OpFile<'f>, u64, u64, u32, u16) -> Op;

impl<M: Mode> Queue<M> {
    /// A request whose operations have all completed.
    pub(super) fn next_completed(&self) -> Result<Option<Completed<'_, M>>, Error> {
        let mut state = self.state()?;
        let Some(tag) = state.completed.first() else { return Ok(None) };
        state.completed.remove(tag);
        drop(state);
        let lost = Error::Implausible { what: "the tag of a completed operation", value: tag.raw().into() };
        let record = self.table.record(tag).ok_or(lost)?;
        Ok(Some(Completed::new(Request::new(self.held(tag, &record)?, self), record.count, record.label)))
    }

    /// What the server holds of a request whose operations have completed.
    fn held(&self, tag: Tag, record: &Record) -> Result<Held, Error> {
        let implausible = |(what, value)| Error::Implausible { what, value };
        let mut descriptor = ublksrv_io_desc::default();
        (descriptor.op_flags, descriptor.nr_sectors) = (record.op_flags, record.sectors);
        descriptor.start_sector = record.start;
        let work = self.work(&descriptor).map_err(implausible)?;
        let shared = if work.has_data() { SharedPlace::of(work.flags, record.addr) } else { None };
        // SAFETY: the tag is in `owned`, and its request's token was consumed by `start`; its operations have completed, and
        // none of its commands is in flight (Q1, Q2). The new token is the only one.
        let buffer =
            unsafe { self.lend_to_request(tag, &work, shared) }.ok_or(implausible(("tag", tag.raw().into())))?;
        let moved = Moved {
            mark: usize::try_from(record.mark).unwrap_or(0),
            end: usize::try_from(record.end).unwrap_or(usize::MAX),
            must_be_whole: record.must_be_whole != 0,
            integrity_mark: usize::try_from(record.integrity_mark).unwrap_or(0),
        };
        Ok(Held { tag, work, buffer, moved, shared })
    }

    /// An operation of a request has completed, or a registration of its pages.
    pub(super) fn operation_ended(&self, state: &mut State, completion: Completion) -> Result<(), Error> {
        // User data is looked up, not believed: only what was started can complete.
        let unknown = Error::Implausible { what: "a completion's user data", value: completion.user_data };
        let [t0, t1, i0, i1, ..] = completion.user_data.to_le_bytes();
        let (tag, index) = (Tag::new(u16::from_le_bytes([t0, t1])), u16::from_le_bytes([i0, i1]));
        if operation_user_data(tag, index) != completion.user_data {
            return Err(unknown);
        }
        if index == UNREGISTER {
            if !self.table.clear(tag, Mark::UNREGISTERING) {
                return Err(unknown);
            }
            // The driver would wait for it for ever: so says whoever reads this.
            let given_back = Errno::check(completion.result);
            return given_back.map(drop).map_err(|errno| self.refused(Command::UNREGISTER_IO_BUF, tag, errno));
        }
        if !self.table.has(tag, Mark::OPERATING) {
            return Err(unknown);
        }
        if index == REGISTER {
            if !self.table.clear(tag, Mark::REGISTERING) {
                return Err(unknown);
            }
            if completion.result < 0 {
                // The operations that were to use it have failed, or will.
                self.table.clear(tag, Mark::REGISTERED);
            }
        } else {
            self.table.end(tag, index, completion.result).ok_or(unknown)?;
        }
        let mut record = self.table.record(tag).filter(|record| record.left > 0).ok_or(unknown)?;
        record.left -= 1;
        self.table.set_record(tag, record).ok_or(unknown)?;
        if record.left == 0 {
            self.all_ended(state, tag, record);
        }
        Ok(())
    }

    /// Every operation of the tag's request has completed: counts what they have moved.
    fn all_ended(&self, state: &mut State, tag: Tag, mut record: Record) {
        let (mark, end, failed) = self.table.moved(tag, record.count, record.base, record.mark, record.end);
        (record.mark, record.end) = (mark, end);
        if failed {
            record.must_be_whole = 1;
        }
        // The place was there when they were started.
        let _ = self.table.set_record(tag, record);
        if self.table.clear(tag, Mark::OPERATING) {
            state.operating = state.operating.saturating_sub(1);
        }
        state.completed.insert(tag);
    }

    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    /// Whether operations find the data in the client's pages that are registered with the ring, and not in the tag's buffer.
    fn is_registered(&self, tag: Tag) -> bool {
        match M::DATA {
            Data::Buffer | Data::Chosen | Data::UserCopy => false,
            Data::ByCommand => true,
            Data::Registered => !self.table.has(tag, Mark::UNREGISTERED),
        }
    }

    /// Where operations find a request's data.
    pub(super) fn place(&self, held: &Held) -> Result<Place, Error> {
        if let Some(shared) = held.shared {
            let found = self.shares.as_ref().and_then(|shares| shares.find(shared, held.work.data_len()));
            let (slot, base) = found.ok_or(Error::Invalid {
                what: "operations reach the shared memory that the queue was given: Queue::register_shared",
            })?;
            return Ok(Place { base, buffer: Some(self.depth.saturating_add(slot)) });
        }
        if self.is_registered(held.tag) {
            return Ok(Place { base: 0, buffer: Some(held.tag.raw()) });
        }
        let was_written = held.moved.end > 0 && !self.is_bounced(held.tag);
        if was_written && !M::DATA.is_in_buffer() {
            return Err(Error::Invalid {
                what: "the bytes of a READ are written by calls or by operations, not by both",
            });
        }
        Ok(Place { base: self.buffer_address(held.tag)?, buffer: None })
    }

    /// Lets operations reach memory that is shared with clients and registered with the device under this number: at most 64 pieces.
    /// The ring pins its pages, whatever becomes of `memory`, until [`unregister_shared`](Queue::unregister_shared), or until it ends.
    ///
    /// # Errors
    ///
    /// - [`Error::Invalid`]: the device was added without [`Features::SHMEM_ZC`](crate::Features::SHMEM_ZC), the number is shared
    ///   already, or 64 are.
    /// - [`Error::System`]: `ENOMEM`, as more would be locked than the process may; `EFAULT`, the memory is read-only.
    ///
    /// # Kernel
    ///
    /// `IORING_REGISTER_BUFFERS_UPDATE` (Linux 5.13).
    pub fn register_shared(&self, index: SharedIndex, memory: &SharedMemory) -> Result<(), Error> {
        let shares = self.shares.as_ref().ok_or(NOT_SHARED)?;
        let state = self.state()?;
        shares.add(index, memory, |slot, address, len| {
            state.ring.set_buffer(u32::from(self.depth) + u32::from(slot), address, len)
        })
    }

    /// Takes back what [`register_shared`](Queue::register_shared) gave. Operations that are under way on it go on.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: nothing is shared under that number.
    ///
    /// # Kernel
    ///
    /// As for [`register_shared`](Queue::register_shared).
    pub fn unregister_shared(&self, index: SharedIndex) -> Result<(), Error> {
        let shares = self.shares.as_ref().ok_or(NOT_SHARED)?;
        let slot = shares.slot(index).ok_or(NOT_SHARED)?;
        self.state()?.ring.clear_buffer(u32::from(self.depth) + u32::from(slot))?;
        shares.clear(slot);
        Ok(())
    }

    /// Whether operations have moved the data through the tag's buffer.
    pub(super) fn is_bounced(&self, tag: Tag) -> bool {
        self.table.has(tag, Mark::BOUNCED)
    }

    /// An operation that moves these ranges of a request's data, which lie within it, as the table has them or is to have them.
    pub(super) fn data_op(
        &self,
        tag: Tag,
        index: u16,
        operation: Operation,
        (file, offset): (OpFile<'_>, u64),
        (buffer, segments): (Option<u16>, &[Segment]),
    ) -> Result<Op, Error> {
        let reads = operation == Operation::READ;
        let wrong = Error::Invalid { what: "an operation moves at most 4 GiB" };
        if let [only] = segments {
            let (addr, len) = (only.address, u32::try_from(only.len).map_err(|_| wrong)?);
            if let Some(buffer) = buffer {
                return Ok(pages_op(reads, file, offset, addr, len, buffer));
            }
            let make: Plain<'_> = if reads { Op::read } else { Op::write };
            // SAFETY: the bytes lie within the tag's buffer. That stays mapped until the operation has completed, and nobody else
            // uses it: an operation is submitted by `start` alone, which has consumed the token and counts the tag as operating
            // (Q1, Q2).
            return Ok(unsafe { make(file, offset, addr, len) });
        }
        let count = u32::try_from(segments.len().min(SEGMENTS)).map_err(|_| wrong)?;
        let list = self.table.segments_address(tag, index).ok_or(NO_TAG)?;
        if let Some(buffer) = buffer {
            let make: Fixed<'_> = if reads { Op::read_vectored_fixed } else { Op::write_vectored_fixed };
            // SAFETY: of the bytes as above. The list stands in the table, which is unmapped only when the buffers may be, and is
            // not written between `start` and the operation's completion: no Operations of this tag exists then.
            return Ok(unsafe { make(file, offset, list, count, buffer) });
        }
        let make: Plain<'_> = if reads { Op::read_vectored } else { Op::write_vectored };
        // SAFETY: of the bytes and the list as above.
        Ok(unsafe { make(file, offset, list, count) })
    }

    /// An operation that sends or receives a range of a request's data, which is in the tag's buffer.
    pub(super) fn socket_op(
        &self,
        held: &Held,
        operation: Operation,
        socket: OpFile<'_>,
        range: Range<usize>,
    ) -> Result<Op, Error> {
        let place = self.place(held)?;
        if place.buffer.is_some() {
            return Err(Error::Invalid { what: "what a client shares is not sent or received" });
        }
        let addr = place.base + u64_from(range.start);
        let len = u32::try_from(range.len()).map_err(|_| NO_TAG)?;
        let flags = syscall::WHOLE_MESSAGE;
        let make: Socket<'_> = if operation == Operation::READ { Op::recv } else { Op::send };
        // SAFETY: as in `data_op`: the bytes lie within the tag's buffer, as `M` is ThroughBuffer.
        Ok(unsafe { make(socket, addr, len, flags) })
    }

    /// An operation that waits for the time that stands at `address` in the table.
    pub(super) fn timeout_op(&self, address: u64) -> Op {
        // SAFETY: as in `data_op` of a list of ranges.
        unsafe { Op::timeout(address, 0) }
    }

    /// Starts the operations that the table has of a request, whose token is consumed.
    pub(super) fn start(&self, held: Held, count: u16, label: u64) {
        // It cannot be borrowed: see `state`.
        let Ok(mut state) = self.state() else { return };
        // The buffer is the kernel's until the operations have completed: the value that lends it ends here.
        let base = self.place(&held).map_or(0, |place| place.base);
        let Held { tag, work, moved, shared, .. } = held;
        let moves_data = (0..count).any(|index| self.table.is_data(tag, index));
        let is_write = work.is_write();
        let mut record = Record {
            op_flags: u32::from(work.operation.raw()) | work.flags.bits(),
            sectors: work.sectors,
            start: work.start.raw(),
            label,
            mark: u64_from(moved.mark),
            end: u64_from(moved.end),
            integrity_mark: u64_from(moved.integrity_mark),
            count,
            left: 0,
            must_be_whole: u32::from(moved.must_be_whole || moves_data && is_write),
            base,
            addr: shared.map_or(0, SharedPlace::addr),
        };
        let moves_own = moves_data && shared.is_none();
        let refused = if moves_own { self.make_ready(&mut state, tag, &work, &mut record) } else { Ok(()) };
        let started = refused.and_then(|()| self.push_operations(&mut state, tag, &mut record));
        if let Err(errno) = started {
            (0..count).filter(|index| !self.table.is_under_way(tag, *index)).for_each(|index| {
                self.table.refuse(tag, index, failed(errno));
            });
        }
        // The place is there: the tag's operations are.
        let _ = self.table.set_record(tag, record);
        if record.left > 0 {
            self.table.set(tag, Mark::OPERATING);
            state.operating += 1;
        } else {
            self.all_ended(&mut state, tag, record);
        }
    }

    /// Has the data of a request where its operations look for it.
    fn make_ready(&self, state: &mut State, tag: Tag, work: &Work, record: &mut Record) -> Result<(), Errno> {
        if M::DATA.is_in_buffer() {
            return Ok(());
        }
        if !self.is_registered(tag) {
            let is_new = self.table.set(tag, Mark::BOUNCED);
            if is_new && work.is_write() {
                // SAFETY: the token was consumed, nothing of the tag is under way, and the result is gone when this returns.
                let mut buffer = unsafe { self.memory.lend(tag, work.data_len()) }.ok_or(Errno::ENOMEM)?;
                self.copy_in(tag, 0..work.data_len(), buffer.bytes_mut())?;
            }
            return Ok(());
        }
        if M::DATA == Data::ByCommand && self.table.set(tag, Mark::REGISTERED) {
            // The driver registers as the command is taken from the ring, before the kernel looks at what comes after it. If it
            // fails, the operations find nothing there, and fail with EFAULT.
            let op = registration(&self.char_device, Command::REGISTER_IO_BUF, self.id, tag, tag.raw());
            if push(&mut state.ring, op, operation_user_data(tag, REGISTER)).is_err() {
                self.table.clear(tag, Mark::REGISTERED);
                return Err(Errno::EAGAIN);
            }
            self.table.set(tag, Mark::REGISTERING);
            record.left += 1;
        }
        Ok(())
    }

    fn push_operations(&self, state: &mut State, tag: Tag, record: &mut Record) -> Result<(), Errno> {
        // A chain that is submitted in two parts is two chains.
        if !state.ring.has_room(record.count.into()) {
            state.ring.submit().map_err(|_| Errno::EAGAIN)?;
        }
        for index in 0..record.count {
            let entry = self.table.entry(tag, index).ok_or(Errno::EINVAL)?;
            // SAFETY: the table has it from an Op of this request (Operations), whose promises are kept: see `data_op`.
            let op = unsafe { Op::from_raw(entry.sqe) };
            push(&mut state.ring, op, operation_user_data(tag, index)).map_err(|_| Errno::EAGAIN)?;
            self.table.begin(tag, index).ok_or(Errno::EINVAL)?;
            record.left += 1;
        }
        Ok(())
    }

    /// What the driver is told of a request that is completed. Of a READ, no byte is left that nobody put there.
    pub(super) fn settle(&self, held: &mut Held) -> i32 {
        if M::DATA.is_in_buffer() {
            return held.completed_in_buffer();
        }
        let settled = held.completed().and_then(|(result, rest)| {
            if held.work.operation == Operation::READ && self.is_bounced(held.tag) {
                let len = held.work.data_len();
                // SAFETY: the token is being consumed, its operations have completed, and the result is gone when this returns.
                let mut buffer = unsafe { self.memory.lend(held.tag, len) }.ok_or(Errno::ENOMEM)?;
                if let Some(rest) = buffer.bytes_mut().get_mut(rest) {
                    rest.fill(0);
                }
                self.copy_out(held.tag, 0, buffer.bytes())?;
            } else {
                self.zero_out(held.tag, rest)?;
            }
            Ok(result)
        });
        settled.unwrap_or_else(failed)
    }

    /// Gives back the pages that a command has registered, ahead of the commit: both are done as they are taken from the ring, in
    /// this order.
    pub(super) fn give_back(&self, state: &mut State, tag: Tag) -> Result<(), Error> {
        if M::DATA.is_in_buffer() {
            return Ok(());
        }
        self.table.clear(tag, Mark::BOUNCED);
        self.table.clear(tag, Mark::UNREGISTERED);
        if self.table.clear(tag, Mark::REGISTERED) {
            let op = registration(&self.char_device, Command::UNREGISTER_IO_BUF, self.id, tag, tag.raw());
            push(&mut state.ring, op, operation_user_data(tag, UNREGISTER))?;
            self.table.set(tag, Mark::UNREGISTERING);
        }
        Ok(())
    }
}

/// Registers a request's pages as buffer `index` of the ring that does it, or gives them back.
pub(super) fn registration(char_device: &Fd, command: Command, queue: QueueId, tag: Tag, index: u16) -> Op {
    let mut sent = ublksrv_io_cmd::default();
    (sent.q_id, sent.tag, sent.addr) = (queue.raw(), tag.raw(), index.into());
    // SAFETY: the command names an entry of the ring's table, and no memory of this process.
    unsafe { Op::uring_cmd(char_device, command.raw(), words(&sent)) }
}

/// An operation that moves bytes of buffer `index` of the ring that does it, from a file or to it.
pub(super) fn pages_op(reads: bool, file: OpFile<'_>, offset: u64, addr: u64, len: u32, index: u16) -> Op {
    let make: Fixed<'_> = if reads { Op::read_fixed } else { Op::write_fixed };
    // SAFETY: the bytes lie within pages that the ring holds, those of a request or of memory that is shared with clients and of which
    // nobody has a reference. The kernel checks against them.
    unsafe { make(file, offset, addr, len, index) }
}

/// User data of an operation of a tag's request.
fn operation_user_data(tag: Tag, index: u16) -> u64 {
    OPERATION_BIT | u64::from(index) << 16 | u64::from(tag.raw())
}
