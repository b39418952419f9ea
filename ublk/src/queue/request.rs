// SPDX-License-Identifier: MIT OR Apache-2.0
//! One request of the block layer, from its delivery to its answer.

use core::fmt;
use core::mem::{self, ManuallyDrop};
use core::ops::Range;

use ublk_sys::{
    UBLK_IO_OP_DISCARD, UBLK_IO_OP_FLUSH, UBLK_IO_OP_READ, UBLK_IO_OP_REPORT_ZONES, UBLK_IO_OP_WRITE,
    UBLK_IO_OP_WRITE_ZEROES, UBLK_IO_OP_ZONE_APPEND, UBLK_IO_OP_ZONE_CLOSE, UBLK_IO_OP_ZONE_FINISH,
    UBLK_IO_OP_ZONE_OPEN, UBLK_IO_OP_ZONE_RESET, UBLK_IO_OP_ZONE_RESET_ALL, UBLK_SHMEM_ZC_IDX_OFF, ublk_shmem_zc_index,
    ublk_shmem_zc_offset, ublksrv_get_op, ublksrv_io_desc,
};

use crate::device_info::DeviceInfo;
use crate::errno::Errno;
use crate::error::Error;
use crate::flag_set::flag_set;
use crate::id::{QueueId, SharedIndex, Tag};
use crate::mode::{self, Buffered, Mode, UserCopied};
use crate::overlays::Overlays;
use crate::queue::Queue;
use crate::queue::mailbox::{Gone, Letter};
use crate::queue::memory::{Memory, TagBuffer};
use crate::queue::operations::Operations;
use crate::shared_memory::SharedMemory;
use crate::units::{SECTOR_BYTES, Sectors, u64_from, usize_from};
use crate::zone::REPORTED_BYTES;

/// What a request wants done (`UBLK_IO_OP_*`, bits 0 to 7 of `op_flags`).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Operation(u8);

static_assertions::assert_impl_all!(Operation: Send, Sync);

impl Operation {
    /// Give data.
    pub const READ: Operation = Operation(UBLK_IO_OP_READ);
    /// Take data.
    pub const WRITE: Operation = Operation(UBLK_IO_OP_WRITE);
    /// Make every completed write durable. Sent only where the cache is volatile.
    pub const FLUSH: Operation = Operation(UBLK_IO_OP_FLUSH);
    /// The data is not needed any more. Sent only where [`Params::discard`](crate::Params::discard) was set.
    pub const DISCARD: Operation = Operation(UBLK_IO_OP_DISCARD);
    /// Make the range read as zeroes. Sent only where [`Params::write_zeroes`](crate::Params::write_zeroes) was set.
    pub const WRITE_ZEROES: Operation = Operation(UBLK_IO_OP_WRITE_ZEROES);
    /// Open the zone that starts here. This and what follows is sent only where the device has zones; since Linux 6.6.
    pub const ZONE_OPEN: Operation = Operation(UBLK_IO_OP_ZONE_OPEN);
    /// Close the zone that starts here.
    pub const ZONE_CLOSE: Operation = Operation(UBLK_IO_OP_ZONE_CLOSE);
    /// Make the zone that starts here full.
    pub const ZONE_FINISH: Operation = Operation(UBLK_IO_OP_ZONE_FINISH);
    /// Take data, write it at the write pointer of the zone that starts here, and say where that was
    /// ([`Request::complete_append`]).
    pub const ZONE_APPEND: Operation = Operation(UBLK_IO_OP_ZONE_APPEND);
    /// Make every zone empty.
    pub const ZONE_RESET_ALL: Operation = Operation(UBLK_IO_OP_ZONE_RESET_ALL);
    /// Make the zone that starts here empty.
    pub const ZONE_RESET: Operation = Operation(UBLK_IO_OP_ZONE_RESET);
    /// Say what zones there are, from the one on that the start is in ([`Request::report_zones`]).
    pub const REPORT_ZONES: Operation = Operation(UBLK_IO_OP_REPORT_ZONES);

    /// Those of a device with zones.
    const OF_ZONES: [Operation; 7] = [
        Operation::ZONE_OPEN,
        Operation::ZONE_CLOSE,
        Operation::ZONE_FINISH,
        Operation::ZONE_APPEND,
        Operation::ZONE_RESET_ALL,
        Operation::ZONE_RESET,
        Operation::REPORT_ZONES,
    ];

    /// The driver's number.
    #[must_use]
    pub const fn raw(self) -> u8 {
        self.0
    }
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Operation::READ => f.write_str("READ"),
            Operation::WRITE => f.write_str("WRITE"),
            Operation::FLUSH => f.write_str("FLUSH"),
            Operation::DISCARD => f.write_str("DISCARD"),
            Operation::WRITE_ZEROES => f.write_str("WRITE_ZEROES"),
            Operation::ZONE_OPEN => f.write_str("ZONE_OPEN"),
            Operation::ZONE_CLOSE => f.write_str("ZONE_CLOSE"),
            Operation::ZONE_FINISH => f.write_str("ZONE_FINISH"),
            Operation::ZONE_APPEND => f.write_str("ZONE_APPEND"),
            Operation::ZONE_RESET_ALL => f.write_str("ZONE_RESET_ALL"),
            Operation::ZONE_RESET => f.write_str("ZONE_RESET"),
            Operation::REPORT_ZONES => f.write_str("REPORT_ZONES"),
            Operation(other) => write!(f, "operation {other}"),
        }
    }
}

flag_set! {
    /// Flags of a request (`UBLK_IO_F_*`, bits 8 to 31 of `op_flags`, at their own places there).
    RequestFlags(u32) {
        /// Do not try again after an error of the device.
        FAILFAST_DEV = UBLK_IO_F_FAILFAST_DEV,
        /// Do not try again after an error on the way.
        FAILFAST_TRANSPORT = UBLK_IO_F_FAILFAST_TRANSPORT,
        /// Do not try again after an error of the driver.
        FAILFAST_DRIVER = UBLK_IO_F_FAILFAST_DRIVER,
        /// Metadata of a filesystem.
        META = UBLK_IO_F_META,
        /// The write is durable when it completes.
        FUA = UBLK_IO_F_FUA,
        /// WRITE_ZEROES that must not give the space back.
        NOUNMAP = UBLK_IO_F_NOUNMAP,
        /// Swap.
        SWAP = UBLK_IO_F_SWAP,
        /// Automatic registration failed. Since Linux 6.16.
        NEED_REG_BUF = UBLK_IO_F_NEED_REG_BUF,
        /// There is protection information beside the data. Since Linux 7.0.
        INTEGRITY = UBLK_IO_F_INTEGRITY,
        /// The data is in a registered shared buffer. Since Linux 7.1.
        SHMEM_ZC = UBLK_IO_F_SHMEM_ZC,
    }
}

/// Flags that say that data is, or belongs, elsewhere than where it is looked for. A device has those that it was asked for.
const OTHER_PLACES: [RequestFlags; 2] = [RequestFlags::NEED_REG_BUF, RequestFlags::SHMEM_ZC];

/// What a request's descriptor says, once it was found to be believable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Work {
    pub(super) operation: Operation,
    pub(super) flags: RequestFlags,
    pub(super) start: Sectors,
    /// Of REPORT_ZONES how many zones.
    pub(super) sectors: u32,
    /// Bytes of metadata that come with the data, or are wanted with it; 0 where the request has none.
    pub(super) integrity_len: usize,
}

impl Work {
    /// Reads a descriptor; `Err` with the name and the value of a field that cannot be true of a queue whose largest request
    /// has `largest` bytes, and whose device can deliver data in these other `places`. What goes beyond plain data is only there as
    /// the device has it.
    pub(super) fn read(
        descriptor: &ublksrv_io_desc,
        largest: usize,
        places: RequestFlags,
        overlays: Overlays,
    ) -> Result<Work, (&'static str, u64)> {
        let operation = Operation(ublksrv_get_op(descriptor));
        // The header's ublksrv_get_flags() shifts by 8; its own constants are not shifted.
        let flags = RequestFlags::from_bits(descriptor.op_flags & !0xff);
        if operation == Operation::FLUSH {
            // It has no range: the driver passes on the block layer's sector "none", which is all ones.
            return Ok(Work { operation, flags, start: Sectors::new(0), sectors: 0, integrity_len: 0 });
        }
        let is_elsewhere = OTHER_PLACES.iter().any(|place| flags.contains(*place) && !places.contains(*place));
        let is_of_zones = Operation::OF_ZONES.contains(&operation) && !overlays.is_zoned();
        let op_flags = Err(("op_flags", descriptor.op_flags.into()));
        if is_elsewhere || is_of_zones {
            return op_flags;
        }
        let (start, sectors) = (descriptor.start_sector, descriptor.nr_sectors);
        let mut work = Work { operation, flags, start: Sectors::new(start), sectors, integrity_len: 0 };
        let is_report = operation == Operation::REPORT_ZONES;
        let fits = usize::try_from(work.len_bytes()).is_ok_and(|len| len <= largest);
        if (work.has_data() || is_report) && !fits || is_report && sectors == 0 {
            return Err((if is_report { "nr_zones" } else { "nr_sectors" }, sectors.into()));
        }
        if flags.contains(RequestFlags::INTEGRITY) {
            match overlays.metadata_len(work.len_bytes()).filter(|_| work.has_data()) {
                Some(len) => work.integrity_len = len,
                None => return op_flags,
            }
        }
        let sectors = if is_report { 0 } else { sectors };
        if start.checked_add(sectors.into()).is_none_or(|end| end > u64::MAX / SECTOR_BYTES) {
            return Err(("start_sector", start));
        }
        Ok(work)
    }

    /// Whether bytes move.
    pub(super) fn has_data(&self) -> bool {
        self.operation == Operation::READ || self.is_write()
    }

    /// Whether data comes with it.
    pub(super) fn is_write(&self) -> bool {
        matches!(self.operation, Operation::WRITE | Operation::ZONE_APPEND)
    }

    /// Bytes that move.
    pub(super) fn data_len(&self) -> usize {
        if self.has_data() { usize::try_from(self.len_bytes()).unwrap_or(usize::MAX) } else { 0 }
    }

    pub(super) fn len_bytes(&self) -> u64 {
        match self.operation {
            Operation::REPORT_ZONES => u64::from(self.sectors) * u64_from(REPORTED_BYTES),
            _ => Sectors::new(self.sectors.into()).bytes(),
        }
    }
}

/// How much of a request's data was moved.
///
/// A READ never gives a client bytes that nobody put there: what lies behind the mark is zeroed when the request is completed, or
/// the request fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moved {
    /// Every byte before this was.
    pub(super) mark: usize,
    /// Nothing behind this was. Beyond the mark where something was left out.
    pub(super) end: usize,
    /// A part does not do: an operation of a READ has failed, operations of the ring were to do a WRITE, or the data is in shared
    /// memory, which is neither zeroed nor looked at unless the target does.
    pub(super) must_be_whole: bool,
    /// Every byte before this was, of the metadata of a READ.
    pub(super) integrity_mark: usize,
}

impl Moved {
    /// These bytes were moved too.
    pub(super) fn add(&mut self, range: Range<usize>) {
        self.end = self.end.max(range.end);
        if range.start <= self.mark {
            self.mark = self.mark.max(range.end);
        }
    }

    /// These bytes of metadata were moved too.
    pub(super) fn add_integrity(&mut self, range: Range<usize>) {
        if range.start <= self.integrity_mark {
            self.integrity_mark = self.integrity_mark.max(range.end);
        }
    }

    /// Where the request is completed now: what is to be zeroed of a READ of `len` bytes.
    pub(super) fn rest(&self, len: usize) -> Result<Range<usize>, Errno> {
        let is_done = self.mark >= len;
        if !is_done && (self.must_be_whole || self.end > self.mark) {
            return Err(Errno::EIO);
        }
        Ok(self.mark.min(len)..len)
    }
}

/// What the server holds of a request until it answers.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) tag: Tag,
    pub(super) work: Work,
    /// The bytes of a READ or a WRITE, where they are in the tag's buffer; else none.
    pub(super) buffer: TagBuffer,
    pub(super) moved: Moved,
    /// Where the data is, if it is in shared memory.
    pub(super) shared: Option<SharedPlace>,
}

/// Where the data of a request is that its client has in shared memory: in the piece that is registered under this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedPlace {
    /// The number that [`Control::register_shared`](crate::Control::register_shared) gave.
    pub index: SharedIndex,
    /// Where the first byte is in that memory.
    pub offset: usize,
}

static_assertions::assert_impl_all!(SharedPlace: Send, Sync);

impl SharedPlace {
    /// What a descriptor says of its data.
    pub(super) fn of(flags: RequestFlags, addr: u64) -> Option<SharedPlace> {
        flags.contains(RequestFlags::SHMEM_ZC).then(|| SharedPlace {
            index: SharedIndex::new(ublk_shmem_zc_index(addr)),
            offset: usize_from(ublk_shmem_zc_offset(addr)),
        })
    }

    /// The descriptor's `addr`.
    pub(super) fn addr(self) -> u64 {
        u64::from(self.index.raw()) << UBLK_SHMEM_ZC_IDX_OFF | u64_from(self.offset)
    }
}

impl Held {
    /// Moves all of it out; what stays has no bytes.
    fn take(&mut self) -> Held {
        let buffer = mem::replace(&mut self.buffer, TagBuffer::empty());
        Held { tag: self.tag, work: self.work, buffer, moved: self.moved, shared: self.shared }
    }

    fn data(&self) -> &[u8] {
        if self.work.operation == Operation::WRITE { self.buffer.bytes() } else { &[] }
    }

    fn cursor(&mut self) -> ReadCursor<'_> {
        let buffer = if self.work.operation == Operation::READ { self.buffer.bytes_mut() } else { &mut [] };
        ReadCursor { buffer, filled: &mut self.moved.mark }
    }

    /// `len` bytes from `offset` on, where they are data of this operation.
    pub(super) fn range(&self, operation: Operation, offset: usize, len: usize) -> Result<Range<usize>, Errno> {
        let end = offset.checked_add(len).filter(|end| *end <= self.work.data_len());
        let is_it = self.work.operation == operation || operation == Operation::WRITE && self.work.is_write();
        end.filter(|_| is_it).map(|end| offset..end).ok_or(Errno::EINVAL)
    }

    /// As [`range`](Held::range), of data that the driver has.
    pub(super) fn own_range(&self, operation: Operation, offset: usize, len: usize) -> Result<Range<usize>, Errno> {
        if self.shared.is_some() { Err(Errno::EINVAL) } else { self.range(operation, offset, len) }
    }

    /// As [`range`](Held::range), of data in shared memory, and where that starts there.
    fn shared_range(&self, operation: Operation, offset: usize, len: usize) -> Result<(usize, Range<usize>), Errno> {
        let place = self.shared.and_then(|place| place.offset.checked_add(offset)).ok_or(Errno::EINVAL)?;
        Ok((place, self.range(operation, offset, len)?))
    }

    /// What the driver is told where all of it was done, and which bytes of a READ are to be zeroed first.
    pub(super) fn completed(&self) -> Result<(i32, Range<usize>), Errno> {
        let rest = match self.work.operation {
            // Metadata that nobody gave would be what the kernel's memory held.
            Operation::READ if self.moved.integrity_mark < self.work.integrity_len => return Err(Errno::EIO),
            Operation::READ => self.moved.rest(self.work.data_len())?,
            Operation::WRITE if self.is_cut_short() => return Err(Errno::EIO),
            // Without a sector it would be 0 that the client is told.
            Operation::ZONE_APPEND => return Err(Errno::EIO),
            // A driver that gets no zone asks again, for ever; one that gets a part asks for the rest, and takes the first of that for
            // the first of all.
            Operation::REPORT_ZONES if u64_from(self.moved.mark) < self.work.len_bytes() => return Err(Errno::EIO),
            // All of its buffer, which may be larger than what it asked for.
            Operation::REPORT_ZONES => return Ok((i32::MAX, 0..0)),
            _ => 0..0,
        };
        // At most the buffer's length for what has data; for the rest any value that is not negative means success.
        Ok((i32::try_from(self.work.len_bytes()).unwrap_or(i32::MAX), rest))
    }

    /// Of a WRITE that the ring did, all has to be done; what a target did with the data itself is its own business.
    pub(super) fn is_cut_short(&self) -> bool {
        self.moved.must_be_whole && self.moved.mark < self.work.data_len()
    }

    /// As [`completed`](Held::completed), with the rest of a READ zeroed where it is in the tag's buffer.
    pub(super) fn completed_in_buffer(&mut self) -> i32 {
        match self.completed() {
            Ok((result, rest)) => {
                if let Some(rest) = self.buffer.bytes_mut().get_mut(rest) {
                    rest.fill(0);
                }
                result
            }
            Err(errno) => failed(errno),
        }
    }
}

/// What the driver is told where it was not done. 0 would be success, and no errno is.
pub(super) fn failed(errno: Errno) -> i32 {
    errno.raw().max(1).saturating_neg()
}

/// What a request says and holds, whichever thread has it.
macro_rules! about_the_request {
    () => {
        /// What is to be done.
        #[must_use]
        pub const fn operation(&self) -> Operation {
            self.held.work.operation
        }

        /// How it is to be done.
        #[must_use]
        pub const fn flags(&self) -> RequestFlags {
            self.held.work.flags
        }

        /// The slot that the request has in its queue.
        #[must_use]
        pub const fn tag(&self) -> Tag {
            self.held.tag
        }

        /// Where it starts on the disk; 0 for FLUSH, which is about all of it.
        #[must_use]
        pub const fn start(&self) -> Sectors {
            self.held.work.start
        }

        /// Where it starts on the disk, in bytes.
        #[must_use]
        pub const fn offset_bytes(&self) -> u64 {
            self.held.work.start.bytes()
        }

        /// How long it is, in bytes. Operations without data may be longer than any buffer. Of REPORT_ZONES it is the report that
        /// has this length.
        #[must_use]
        pub fn len_bytes(&self) -> u64 {
            self.held.work.len_bytes()
        }
    };
}

/// Where a request's data is in the tag's buffer.
macro_rules! data_of_the_request {
    () => {
        /// The data of a WRITE; nothing for any other operation.
        #[must_use]
        pub fn data(&self) -> &[u8] {
            self.held.data()
        }

        /// Where the data of a READ goes; without room for any other operation.
        #[must_use]
        pub fn cursor(&mut self) -> ReadCursor<'_> {
            self.held.cursor()
        }
    };
}

/// A request that the server owns until it answers.
///
/// It is answered once, by [`complete`](Request::complete) or [`fail`](Request::fail): at once, or later, while others are
/// served, or from another thread, for which it is [detached](Request::detach) first. One that is dropped unanswered fails with `EIO`.
/// One that is forgotten (`mem::forget`) stays unanswered, and its client waits, until
/// [`Queue::fail_forgotten`](crate::Queue::fail_forgotten) or until the server has let go of the device.
#[derive(Debug)]
#[must_use = "a request that is dropped unanswered fails with EIO"]
pub struct Request<'q, M: Mode = mode::Copy> {
    pub(super) held: Held,
    pub(super) queue: &'q Queue<M>,
}

static_assertions::assert_not_impl_any!(Request<'static>: Send, Sync);

impl<'q, M: Mode> Request<'q, M> {
    pub(super) fn new(held: Held, queue: &'q Queue<M>) -> Request<'q, M> {
        Request { held, queue }
    }

    pub(super) fn held(&self) -> &Held {
        &self.held
    }

    pub(super) fn queue(&self) -> &'q Queue<M> {
        self.queue
    }

    /// Takes the token apart without answering.
    pub(super) fn into_held(self) -> Held {
        ManuallyDrop::new(self).held.take()
    }

    about_the_request!();

    /// Answers that all of it was done.
    ///
    /// What the target did not fill of a READ is zeroed first. The driver is never told of a part: Linux 7.3 takes a short
    /// result for the whole, and older ones ask again, for ever where the result is 0.
    ///
    /// If operations of the ring have moved a part of it and no more, or left a hole, it fails with `EIO` instead. So does a
    /// READ without all of the [metadata](Request::integrity_len) that it wants, a REPORT_ZONES without all of its
    /// [zones](Request::report_zones), and a ZONE_APPEND, which is [answered](Request::complete_append) with its place.
    pub fn complete(mut self) {
        let result = self.queue.settle(&mut self.held);
        if self.held.shared.is_some() && result < 0 {
            self.queue.count_unmoved();
        }
        self.answer(result);
    }

    /// Answers that it was not done, and why. The block layer passes some errnos on to its client (`EOPNOTSUPP`,
    /// `ENOSPC`, `ETIMEDOUT`, `EILSEQ`, ...) and turns the others into `EIO`.
    pub fn fail(self, errno: Errno) {
        self.answer(failed(errno));
    }

    /// Where the data is, if it is in memory that the client shares with the server, and the driver copies nothing. Any other way
    /// to the data has none then, whatever the mode. A target that looks at no such place, and completes such a request, fails it
    /// with `EIO`.
    ///
    /// # Kernel
    ///
    /// Since Linux 7.1. `UBLK_IO_F_SHMEM_ZC`.
    #[must_use]
    pub const fn shared(&self) -> Option<SharedPlace> {
        self.held.shared
    }

    /// Copies bytes of a WRITE out of shared memory, from `offset` in the request on, as many as `into` has. The client may change
    /// them meanwhile.
    ///
    /// # Errors
    ///
    /// `EINVAL`: the request is no WRITE, its data is not in shared memory, it has not so many bytes, or `memory` does not reach so
    /// far.
    pub fn read_shared(&mut self, memory: &SharedMemory, offset: usize, into: &mut [u8]) -> Result<(), Errno> {
        let (place, range) = self.held.shared_range(Operation::WRITE, offset, into.len())?;
        memory.copy_to(place, into).ok_or(Errno::EINVAL)?;
        self.held.moved.add(range);
        Ok(())
    }

    /// Copies bytes of a READ into shared memory, from `offset` in the request on: front to back, and all of them.
    ///
    /// # Errors
    ///
    /// As for [`read_shared`](Request::read_shared), of a READ; and `EINVAL` where `memory` is read-only.
    pub fn write_shared(&mut self, memory: &SharedMemory, offset: usize, from: &[u8]) -> Result<(), Errno> {
        let (place, range) = self.held.shared_range(Operation::READ, offset, from.len())?;
        memory.copy_from(place, from).ok_or(Errno::EINVAL)?;
        self.held.moved.add(range);
        Ok(())
    }

    /// Operations of the queue's ring on behalf of the request: see [`Operations`].
    pub fn operations(self) -> Operations<'q, M> {
        Operations::new(self)
    }

    fn answer(self, result: i32) {
        // Not dropped, as that would be an answer too.
        let request = ManuallyDrop::new(self);
        request.queue.commit(request.held.tag, result);
    }
}

impl<M: Buffered> Request<'_, M> {
    data_of_the_request!();

    /// Takes the request out of its queue's hands, for another thread to answer.
    ///
    /// The queue serves on meanwhile, and is to stay for the answer: [`is_finished`](Queue::is_finished) is not true before it
    /// came.
    ///
    /// # Kernel
    ///
    /// The answer wakes the queue through an eventfd, which its ring polls (`IORING_OP_POLL_ADD`, multishot since Linux 5.13):
    /// one `write(2)` for all the answers that come before the queue's thread has looked.
    #[must_use = "a request that is dropped unanswered fails with EIO"]
    pub fn detach(self) -> DetachedRequest {
        // Not dropped: it lives on, detached.
        let mut request = ManuallyDrop::new(self);
        let memory = request.queue.detach(request.held.tag);
        DetachedRequest { held: request.held.take(), memory, answered: false }
    }
}

impl Request<'_, mode::ZeroCopy> {
    /// Takes the request out of its queue's hands, for another thread to work on and answer: see
    /// [`PreparedQueue::helper`](crate::PreparedQueue::helper).
    ///
    /// The queue serves on meanwhile, and is to stay for the answer, as for [`Request::detach`].
    ///
    /// # Kernel
    ///
    /// As for [`Request::detach`].
    #[must_use = "a request that is dropped unanswered fails with EIO"]
    pub fn detach_pages(self) -> DetachedPages {
        // Not dropped: it lives on, detached.
        let mut request = ManuallyDrop::new(self);
        let queue = request.queue;
        let (memory, device, id) = (queue.detach(request.held.tag), queue.info, queue.id);
        DetachedPages { held: request.held.take(), memory, device, queue: id, answered: false }
    }
}

impl<M: UserCopied> Request<'_, M> {
    /// Copies bytes of a WRITE or a ZONE_APPEND, from `offset` in the request on, as many as `into` has.
    ///
    /// # Errors
    ///
    /// `EINVAL`: the request is no WRITE and no ZONE_APPEND, or has not so many bytes. `EFAULT`: the kernel could not write to `into`.
    ///
    /// # Kernel
    ///
    /// Since Linux 6.5. `pread(2)` on the char device, `ublk_user_copy()`.
    pub fn read_at(&self, offset: usize, into: &mut [u8]) -> Result<(), Errno> {
        let range = self.held.own_range(Operation::WRITE, offset, into.len())?;
        self.queue.copy_in(self.held.tag, range, into)
    }

    /// Copies bytes into a READ, from `offset` in the request on. They are to come front to back, without a hole: the request
    /// fails with `EIO` otherwise. What is not written reads as zeroes.
    ///
    /// # Errors
    ///
    /// `EINVAL`: the request is no READ, has not so many bytes, or its bytes were read by operations of the ring already.
    /// `EFAULT`: the kernel could not copy all of it.
    ///
    /// # Kernel
    ///
    /// Since Linux 6.5. `pwrite(2)` on the char device, `ublk_user_copy()`.
    pub fn write_at(&mut self, offset: usize, from: &[u8]) -> Result<(), Errno> {
        let range = self.held.own_range(Operation::READ, offset, from.len())?;
        if self.queue.is_bounced(self.held.tag) {
            return Err(Errno::EINVAL);
        }
        self.queue.copy_out(self.held.tag, range.start, from)?;
        self.held.moved.add(range);
        Ok(())
    }
}

impl<M: Mode> Drop for Request<'_, M> {
    fn drop(&mut self) {
        self.queue.count_unanswered();
        self.queue.commit(self.held.tag, failed(Errno::EIO));
    }
}

/// A request that any thread may answer ([`Request::detach`]).
///
/// It keeps the memory of its queue, and not the queue: where that is gone, because the server had to let go of its device,
/// the request's client has got `EIO` from the driver, or will, and answering says [`Error::QueueGone`]. One that is dropped
/// unanswered fails with `EIO`. One that is forgotten (`mem::forget`) cannot be told from one that is still held: its client
/// waits until the server has let go of the device.
#[derive(Debug)]
#[must_use = "a request that is dropped unanswered fails with EIO"]
pub struct DetachedRequest {
    held: Held,
    memory: Memory,
    answered: bool,
}

static_assertions::assert_impl_all!(DetachedRequest: Send);
static_assertions::assert_not_impl_any!(DetachedRequest: Sync);

impl DetachedRequest {
    about_the_request!();
    data_of_the_request!();

    /// Answers that all of it was done, as [`Request::complete`] does.
    ///
    /// # Errors
    ///
    /// [`Error::QueueGone`]: nobody hears the answer.
    pub fn complete(mut self) -> Result<(), Error> {
        let result = self.held.completed_in_buffer();
        self.answer(Letter { result, unanswered: false })
    }

    /// Answers that it was not done, and why, as [`Request::fail`] does.
    ///
    /// # Errors
    ///
    /// [`Error::QueueGone`]: nobody hears the answer.
    pub fn fail(mut self, errno: Errno) -> Result<(), Error> {
        self.answer(Letter { result: failed(errno), unanswered: false })
    }

    fn answer(&mut self, letter: Letter) -> Result<(), Error> {
        self.answered = true;
        post(&self.memory, self.held.tag, letter)
    }
}

impl Drop for DetachedRequest {
    fn drop(&mut self) {
        if !self.answered {
            // Nobody is there to be told that the queue is gone.
            let _ = self.answer(DROPPED);
        }
    }
}

/// A request that any thread may answer, and whose data is in its client's pages ([`Request::detach_pages`]): a
/// [`Helper`](crate::Helper) works on it.
///
/// For its queue, and for who drops or forgets it, it is what a [`DetachedRequest`] is.
///
/// What of it only its queue can answer with more than success or an errno, a ZONE_APPEND, a REPORT_ZONES or a READ with
/// metadata, is not to be detached: completed, it fails with `EIO`.
#[derive(Debug)]
#[must_use = "a request that is dropped unanswered fails with EIO"]
pub struct DetachedPages {
    held: Held,
    memory: Memory,
    device: DeviceInfo,
    queue: QueueId,
    answered: bool,
}

static_assertions::assert_impl_all!(DetachedPages: Send);
static_assertions::assert_not_impl_any!(DetachedPages: Sync);

impl DetachedPages {
    about_the_request!();

    /// Answers that it was not done, and why, as [`Request::fail`] does.
    ///
    /// # Errors
    ///
    /// [`Error::QueueGone`]: nobody hears the answer.
    pub fn fail(mut self, errno: Errno) -> Result<(), Error> {
        self.answer(failed(errno))
    }

    pub(super) fn answer(&mut self, result: i32) -> Result<(), Error> {
        self.answered = true;
        post(&self.memory, self.held.tag, Letter { result, unanswered: false })
    }

    pub(super) fn held(&self) -> &Held {
        &self.held
    }

    pub(super) fn held_mut(&mut self) -> &mut Held {
        &mut self.held
    }

    pub(super) fn device(&self) -> &DeviceInfo {
        &self.device
    }

    pub(super) fn queue(&self) -> QueueId {
        self.queue
    }
}

impl Drop for DetachedPages {
    fn drop(&mut self) {
        if !self.answered {
            // As for a DetachedRequest.
            let _ = post(&self.memory, self.held.tag, DROPPED);
        }
    }
}

/// What is answered where nobody did.
const DROPPED: Letter = Letter { result: Errno::EIO.raw().saturating_neg(), unanswered: true };

/// Puts the answer to a detached request where its queue finds it, and wakes that.
fn post(memory: &Memory, tag: Tag, letter: Letter) -> Result<(), Error> {
    let letter_box = memory.letter_box(tag).ok_or(Error::QueueGone)?;
    letter_box.post(letter).map_err(|Gone| Error::QueueGone)?;
    memory.mailbox().ring();
    Ok(())
}

/// Where the data of a READ goes, front to back.
///
/// It never shows what the buffer held before: bytes are written to it, or zeroed and then handed out.
pub struct ReadCursor<'r> {
    buffer: &'r mut [u8],
    filled: &'r mut usize,
}

static_assertions::assert_impl_all!(ReadCursor<'static>: Send, Sync);

impl fmt::Debug for ReadCursor<'_> {
    /// How far it is, and no byte of what lies behind.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadCursor").field("len", &self.buffer.len()).field("filled", &self.filled).finish()
    }
}

impl ReadCursor<'_> {
    /// Bytes that are not filled yet.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.buffer.len().saturating_sub(*self.filled)
    }

    /// Fills with as many of `bytes` as there is room for, and returns how many that were.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let rest = self.rest();
        let count = rest.len().min(bytes.len());
        if let (Some(into), Some(from)) = (rest.get_mut(..count), bytes.get(..count)) {
            into.copy_from_slice(from);
        }
        *self.filled += count;
        count
    }

    /// Fills with `count` zeroes, or with as many as there is room for, and returns how many that were.
    pub fn write_zeroes(&mut self, count: usize) -> usize {
        let rest = self.rest();
        let count = rest.len().min(count);
        rest.get_mut(..count).unwrap_or_default().fill(0);
        *self.filled += count;
        count
    }

    /// Zeroes all that is not filled yet, counts it as filled, and hands it out to be written over.
    pub fn zeroed(&mut self) -> &mut [u8] {
        let start = (*self.filled).min(self.buffer.len());
        *self.filled = self.buffer.len();
        let rest = self.buffer.get_mut(start..).unwrap_or_default();
        rest.fill(0);
        rest
    }

    fn rest(&mut self) -> &mut [u8] {
        self.buffer.get_mut(*self.filled..).unwrap_or_default()
    }
}

#[cfg(feature = "std")]
impl std::io::Write for ReadCursor<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(ReadCursor::write(self, bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Held, Moved, Operation, Overlays, ReadCursor, RequestFlags, TagBuffer, Work};
    use crate::{Errno, Sectors, Tag};
    use ublk_sys::{
        UBLK_IO_F_FUA, UBLK_IO_F_INTEGRITY, UBLK_IO_F_NEED_REG_BUF, UBLK_IO_F_SHMEM_ZC, UBLK_IO_OP_REPORT_ZONES,
        UBLK_IO_OP_ZONE_APPEND, ublksrv_io_desc,
    };

    /// Zones of 4 MiB, and 8 bytes beside each 512.
    const OVERLAYS: Overlays = Overlays::new(8192, 8, 512);

    fn held(operation: u32, count: u32) -> Held {
        let work = Work::read(&descriptor(operation, count, 8192), 4096, RequestFlags::NONE, OVERLAYS).unwrap();
        Held { tag: Tag::new(0), work, buffer: TagBuffer::empty(), moved: Moved::default(), shared: None }
    }

    fn descriptor(op_flags: u32, nr_sectors: u32, start_sector: u64) -> ublksrv_io_desc {
        let mut descriptor = ublksrv_io_desc::default();
        (descriptor.op_flags, descriptor.nr_sectors, descriptor.start_sector) = (op_flags, nr_sectors, start_sector);
        descriptor
    }

    #[test]
    fn a_descriptor_is_split_into_operation_flags_and_range() {
        let work =
            Work::read(&descriptor(1 | UBLK_IO_F_FUA, 8, 16), 4096, RequestFlags::NONE, Overlays::default()).unwrap();
        assert_eq!(work.operation, Operation::WRITE);
        assert_eq!(work.flags, RequestFlags::FUA);
        assert_eq!((work.start, work.len_bytes()), (Sectors::new(16), 4096));
    }

    #[test]
    fn data_longer_than_the_buffer_is_not_believed() {
        assert_eq!(
            Work::read(&descriptor(0, 9, 0), 4096, RequestFlags::NONE, Overlays::default()),
            Err(("nr_sectors", 9))
        );
        assert_eq!(
            Work::read(&descriptor(1, u32::MAX, 0), 4096, RequestFlags::NONE, Overlays::default()),
            Err(("nr_sectors", u32::MAX.into()))
        );
        // A discard moves no data, and may be as long as it likes.
        assert!(Work::read(&descriptor(3, u32::MAX, 0), 4096, RequestFlags::NONE, Overlays::default()).is_ok());
    }

    #[test]
    fn a_request_whose_data_is_elsewhere_is_not_believed() {
        for flag in [UBLK_IO_F_NEED_REG_BUF, UBLK_IO_F_SHMEM_ZC] {
            let op_flags = 1 | flag;
            assert_eq!(
                Work::read(&descriptor(op_flags, 8, 0), 4096, RequestFlags::NONE, Overlays::default()),
                Err(("op_flags", op_flags.into()))
            );
        }
    }

    #[test]
    fn a_range_past_the_last_byte_is_not_believed() {
        assert_eq!(
            Work::read(&descriptor(3, 1, u64::MAX), 4096, RequestFlags::NONE, Overlays::default()),
            Err(("start_sector", u64::MAX))
        );
        assert!(Work::read(&descriptor(0, 1, u64::MAX / 512), 4096, RequestFlags::NONE, Overlays::default()).is_err());
    }

    #[test]
    fn what_a_device_does_not_have_is_not_believed() {
        for operation in Operation::OF_ZONES {
            let op_flags = operation.raw().into();
            let read = |overlays| Work::read(&descriptor(op_flags, 1, 0), 4096, RequestFlags::NONE, overlays);
            assert_eq!(read(Overlays::default()), Err(("op_flags", op_flags.into())), "{operation:?}");
            assert!(read(OVERLAYS).is_ok(), "{operation:?}");
        }
        // Only data has metadata beside it.
        for operation in [0, 1, 2, 3, UBLK_IO_OP_REPORT_ZONES.into()] {
            let op_flags = operation | UBLK_IO_F_INTEGRITY;
            let read = |overlays| Work::read(&descriptor(op_flags, 1, 0), 4096, RequestFlags::NONE, overlays);
            assert_eq!(read(OVERLAYS).is_ok(), operation < 3, "{operation}");
            assert_eq!(read(Overlays::new(8192, 0, 0)).is_ok(), operation == 2, "{operation}");
        }
    }

    #[test]
    fn a_zone_report_is_as_long_as_its_zones_and_no_longer_than_a_request() {
        let report = |zones, start| {
            let descriptor = descriptor(UBLK_IO_OP_REPORT_ZONES.into(), zones, start);
            Work::read(&descriptor, 4096, RequestFlags::NONE, OVERLAYS)
        };
        assert_eq!(report(64, 8192).unwrap().len_bytes(), 4096);
        assert_eq!(report(64, 8192).unwrap().data_len(), 0);
        assert_eq!(report(65, 0), Err(("nr_zones", 65)));
        assert_eq!(report(u32::MAX, 0), Err(("nr_zones", u32::MAX.into())));
        assert_eq!(report(0, 0), Err(("nr_zones", 0)));
        assert_eq!(report(1, u64::MAX), Err(("start_sector", u64::MAX)));
    }

    #[test]
    fn an_append_has_the_data_of_a_write() {
        let append = held(UBLK_IO_OP_ZONE_APPEND.into(), 8);
        assert_eq!(append.work.data_len(), 4096);
        assert_eq!(append.range(Operation::WRITE, 0, 4096), Ok(0..4096));
        assert_eq!(append.range(Operation::READ, 0, 4096), Err(Errno::EINVAL));
        let descriptor = descriptor(UBLK_IO_OP_ZONE_APPEND.into(), 9, 0);
        assert_eq!(Work::read(&descriptor, 4096, RequestFlags::NONE, OVERLAYS), Err(("nr_sectors", 9)));
    }

    #[test]
    fn what_is_completed_without_what_it_asked_for_fails() {
        // A place, a zone, and metadata: what the client would be told in their stead was made by nobody.
        assert_eq!(held(UBLK_IO_OP_ZONE_APPEND.into(), 8).completed(), Err(Errno::EIO));
        let mut report = held(UBLK_IO_OP_REPORT_ZONES.into(), 2);
        assert_eq!(report.completed(), Err(Errno::EIO));
        report.moved.add(0..64);
        assert_eq!(report.completed(), Err(Errno::EIO));
        report.moved.add(64..128);
        assert_eq!(report.completed(), Ok((i32::MAX, 0..0)));
        let mut read = held(UBLK_IO_F_INTEGRITY, 8);
        assert_eq!(read.work.integrity_len, 64);
        read.moved.add(0..512);
        read.moved.add_integrity(8..64);
        assert_eq!(read.completed(), Err(Errno::EIO));
        read.moved.add_integrity(0..63);
        assert_eq!(read.completed(), Err(Errno::EIO));
        read.moved.add_integrity(63..64);
        assert_eq!(read.completed(), Ok((4096, 512..4096)));
        assert_eq!(held(1 | UBLK_IO_F_INTEGRITY, 8).completed(), Ok((4096, 0..0)));
    }

    #[test]
    fn an_append_goes_into_the_zone_that_it_names() {
        let mut append = held(UBLK_IO_OP_ZONE_APPEND.into(), 8);
        let at = |append: &Held, sector| append.appended(Sectors::new(sector), OVERLAYS);
        for sector in [8192, 8200, 16376] {
            assert_eq!(at(&append, sector), Ok(4096), "{sector}");
        }
        for sector in [0, 8191, 16377, 16384, u64::MAX] {
            assert_eq!(at(&append, sector), Err(Errno::EIO), "{sector}");
        }
        append.moved.must_be_whole = true;
        assert_eq!(at(&append, 8192), Err(Errno::EIO));
        assert_eq!(at(&held(1, 8), 8192), Err(Errno::EIO));
    }

    #[test]
    fn a_flush_has_no_range_whatever_its_descriptor_says() {
        let work = Work::read(&descriptor(2, 0, u64::MAX), 4096, RequestFlags::NONE, Overlays::default()).unwrap();
        assert_eq!((work.start, work.len_bytes()), (Sectors::new(0), 0));
    }

    #[test]
    fn a_cursor_fills_front_to_back_and_zeroes_the_rest() {
        let (mut buffer, mut filled) = ([0xee_u8; 8], 0);
        let mut cursor = ReadCursor { buffer: &mut buffer, filled: &mut filled };
        assert_eq!(cursor.write(&[1, 2, 3]), 3);
        assert_eq!(cursor.write_zeroes(1), 1);
        assert_eq!(cursor.remaining(), 4);
        assert_eq!(cursor.zeroed(), [0; 4]);
        assert_eq!((cursor.remaining(), cursor.write(&[9])), (0, 0));
        assert_eq!((buffer, filled), ([1, 2, 3, 0, 0, 0, 0, 0], 8));
    }

    #[test]
    fn a_cursor_shows_no_byte_of_what_the_buffer_held() {
        let (mut buffer, mut filled) = ([0xee_u8; 8], 2);
        let cursor = ReadCursor { buffer: &mut buffer, filled: &mut filled };
        assert_eq!(std::format!("{cursor:?}"), "ReadCursor { len: 8, filled: 2 }");
    }

    #[test]
    fn a_cursor_takes_no_more_than_it_has_room_for() {
        let (mut buffer, mut filled) = ([0xee_u8; 4], 2);
        let mut cursor = ReadCursor { buffer: &mut buffer, filled: &mut filled };
        assert_eq!(cursor.write(&[1, 2, 3]), 2);
        assert_eq!(buffer, [0xee, 0xee, 1, 2]);
    }
}
