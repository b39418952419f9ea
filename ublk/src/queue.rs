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
use core::ops::Range;
use core::task::Poll;
use core::time::Duration;

use ublk_sys::{
    IORING_CQE_F_MORE, UBLK_AUTO_BUF_REG_FALLBACK, UBLK_IO_RES_ABORT, UBLK_IO_RES_NEED_GET_DATA, UBLK_IO_RES_OK,
    UBLK_MAX_QUEUE_DEPTH, ublk_auto_buf_reg, ublk_auto_buf_reg_to_sqe_addr, ublk_batch_io, ublksrv_io_cmd,
    ublksrv_io_desc,
};

pub use helper::{HelpedRequest, Helper};
pub use operations::{Completed, Operations, RingFile};
pub use request::{DetachedPages, DetachedRequest, Operation, ReadCursor, Request, RequestFlags, SharedPlace};
pub use ring_operation::RingOperation;

use crate::char_device::CharDevice;
use crate::device_info::{DeviceInfo, Shape};
use crate::errno::Errno;
use crate::error::{Command, Error, Sent, SystemCall};
use crate::features::Features;
use crate::hosting::BufferLock;
use crate::id::{QueueId, SharedIndex, Tag};
use crate::mode::{self, Data, Mode};
use crate::overlays::Overlays;
use crate::ring::{Completion, DisabledRing, Local, Op, Ring, Wake, registered};
use crate::shared_memory::SharedMemory;
use crate::syscall::{self, Fd};
use crate::units::{Sectors, usize_from};
use batch::{Batch, Elements, Form, Piece, PreparedBatch};
use descriptors::Descriptors;
use mailbox::{Letter, LetterBox};
use memory::{Memory, TagBuffer};
use operating::OPERATION_BIT;
use pool::Pool;
use request::{Held, Moved, Work, failed};
use ring_operation::Purpose;
use shares::{NOT_SHARED, SHARED, Shares};
use table::{Mark, Record, Table};
use tag_set::TagSet;
#[cfg(feature = "std")]
pub(crate) use watch::Watch;

/// Files that a queue's ring has room for.
const FILES: u32 = 64;

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

/// A queue with all its memory, made in one thread and sent to the one that will serve it.
#[derive(Debug)]
#[must_use = "a queue can be had once"]
pub struct PreparedQueue<M: Mode = mode::Copy> {
    id: QueueId,
    info: DeviceInfo,
    tags: Range<u16>,
    shape: Shape,
    ring: DisabledRing,
    files: Files,
    descriptors: Descriptors,
    memory: Memory,
    table: Table,
    shares: Option<Shares>,
    pool: Option<Pool>,
    largest: usize,
    char_device: Fd,
    /// In the batch transport.
    batch: Option<PreparedBatch>,
    mode: PhantomData<M>,
}

/// How many files a ring has, where it has a table of them.
#[derive(Clone, Copy, Debug)]
struct Files(Option<u32>);

impl Files {
    const NONE: Files = Files(None);

    fn register(&mut self, ring: &Fd, file: &Fd) -> Result<RingFile, Error> {
        let index = match self.0 {
            Some(FILES) => return Err(Error::Invalid { what: "a queue's ring has at most 64 files" }),
            Some(count) => count,
            None => {
                registered::register_files(ring, FILES)?;
                0
            }
        };
        self.0 = Some(index);
        registered::set_file(ring, index, file)?;
        self.0 = Some(index + 1);
        Ok(RingFile { ring: ring.raw(), index })
    }
}

/// What of a queue a thread is to have.
enum Part {
    /// These tags, with buffers for them.
    Tags(Range<u16>),
    /// Whichever tags come, with these buffers.
    Shared(Memory),
    /// All tags, to which nothing is delivered.
    Idle,
}

static_assertions::assert_impl_all!(PreparedQueue: Send);
static_assertions::assert_not_impl_any!(PreparedQueue: Sync);

impl PreparedQueue {
    /// Makes a queue of a device whose char device was opened by somebody else: a server without any privilege, behind a
    /// helper that has them.
    ///
    /// The helper adds the device, opens its char device, passes the descriptor and what [`DeviceInfo`] says to the server, and
    /// starts it ([`Device::char_device`](crate::Device::char_device), [`Device::start`](crate::Device::start)); every queue has
    /// to be had in one process. The server serves until [`is_finished`](Queue::is_finished). It cannot stop or delete the
    /// device. A device whose queues are fetched by a process without `CAP_SYS_ADMIN` is not scanned for partitions.
    ///
    /// Nothing that `info` says is relied on for memory safety, as anybody may have written it. So each buffer takes 4 GiB of
    /// address space, which is as large as a request of any device can be, and of memory what is used; after
    /// `mlockall(MCL_FUTURE)` it would take all of it. The depth, the features and the size of the I/O descriptors are believed
    /// for the data: with wrong ones the server may answer with the wrong bytes.
    ///
    /// # Errors
    ///
    /// - [`Error::Invalid`]: the device has no such queue, or moves data in another way; or its requests come in batches: whoever else
    ///   has its char device could have the driver write to any address of this process.
    /// - [`Error::System`]: `EINVAL` from [`MmapDescriptors`](SystemCall::MmapDescriptors) where `info` is another device's, or
    ///   another process has mapped a queue of this one; `ENODEV` where the descriptor is not a char device's of ublk; `ENOMEM`
    ///   from [`MmapAnonymous`](SystemCall::MmapAnonymous) where the address space is limited, or `vm.overcommit_memory` is 2.
    ///
    /// # Kernel
    ///
    /// Since Linux 6.0, with this ring 6.1. `ublk_ch_mmap()` takes one process; `ublk_fetch()` asks for no privilege.
    pub fn adopt(char_device: Fd, info: &DeviceInfo, id: QueueId) -> Result<PreparedQueue, Error> {
        if info.features().contains(Features::BATCH_IO) {
            // No tag has a daemon then, and a commit says where the next request's data goes.
            return Err(Error::Invalid { what: "a device whose requests come in batches is served by who added it" });
        }
        let tags = 0..info.depth();
        PreparedQueue::with_buffers(char_device, info, id, LARGEST_OF_ANY, Shape::default(), Part::Tags(tags))
    }
}

impl<M: Mode> PreparedQueue<M> {
    /// Makes the ring and maps the descriptors and the buffers of one queue.
    ///
    /// `info` is what the driver answered to the command that made the device of `char_device`. Nobody but
    /// [`Device`](crate::Device) can say so, which is why this is not public: with the buffers of another device's size
    /// the driver would write past their ends.
    pub(crate) fn new(
        char_device: &CharDevice,
        info: &DeviceInfo,
        id: QueueId,
        shape: Shape,
    ) -> Result<PreparedQueue<M>, Error> {
        let (largest, tags) = (usize_from(info.max_io_bytes()), Part::Tags(0..info.depth()));
        let char_device = char_device.duplicate()?;
        let queue = PreparedQueue::with_buffers(char_device, info, id, largest, shape, tags)?;
        if let Some(batch) = &queue.batch {
            batch.prepare(&queue.char_device, id, |tag| match M::DATA {
                Data::Buffer => queue.memory.buffer_address(tag),
                _ => Some(0),
            })?;
        }
        Ok(queue)
    }

    /// Fetches every tag of a queue of a device that waits for its server, to which therefore nothing is delivered, and lets go of
    /// them. What the ring is through with later is the kernel's own business.
    pub(crate) fn fetch_and_let_go(char_device: &CharDevice, info: &DeviceInfo, id: QueueId) -> Result<(), Error> {
        let (largest, char_device) = (usize_from(info.max_io_bytes()), char_device.duplicate()?);
        PreparedQueue::<M>::with_buffers(char_device, info, id, largest, Shape::default(), Part::Idle)?
            .fetch()
            .map(drop)
    }

    /// The same queue for another thread, which serves it too: with a ring of its own, and the same buffers. For a device whose requests
    /// come in batches ([`NewDevice::batch`](crate::NewDevice::batch)).
    ///
    /// The driver gives each request to one of them. Threads take turns: one gets the requests that come until it has had an eighth of
    /// the queue's depth, unless [`fetch_room`](PreparedQueue::fetch_room) says otherwise. Files are registered with each ring.
    ///
    /// All of them serve until their queue [is finished](Queue::is_finished). Where one is dropped earlier, the driver gives up the whole
    /// device as soon as it notices: every further request fails, and those that went to that one fail when the char device is closed.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: requests of this device come one by one, each to the thread that fetched its tag. [`Error::System`]: as for
    /// [`Device::queue`](crate::Device::queue).
    ///
    /// # Kernel
    ///
    /// Since Linux 7.0.
    pub fn share(&mut self) -> Result<PreparedQueue<M>, Error> {
        let alone = Error::Invalid { what: "a queue is served by several threads where its requests come in batches" };
        self.batch.as_mut().ok_or(alone)?.is_shared = true;
        let char_device = self.another_char_device()?;
        let (info, largest, all) = (&self.info, self.largest, Part::Shared(self.memory.beside()?));
        PreparedQueue::with_buffers(char_device, info, self.id, largest, self.shape, all)
    }

    /// How many requests come to this thread before a fetch is to be sent again: in batches, 2048 unless set, or an eighth of the
    /// depth where the queue is [shared](PreparedQueue::share). At least 1. It is without effect where requests come one by one.
    pub fn fetch_room(&mut self, requests: u16) {
        if let Some(batch) = &mut self.batch {
            batch.room = Some(requests);
        }
    }

    fn with_buffers(
        char_device: Fd,
        info: &DeviceInfo,
        id: QueueId,
        largest: usize,
        shape: Shape,
        part: Part,
    ) -> Result<PreparedQueue<M>, Error> {
        let Shape { operations, buffers, .. } = shape;
        let invalid = |what| Err(Error::Invalid { what });
        if id.raw() >= info.queues() {
            return invalid("a queue's number is below the number of the device's queues");
        }
        let depth = info.depth();
        if !(1..=UBLK_MAX_QUEUE_DEPTH).contains(&depth) {
            return invalid("a queue has a depth of 1 to 4096");
        }
        let shares = info.features().contains(Features::SHMEM_ZC);
        if !mode::is_of::<M>(info.features()) {
            return invalid("this device moves data in another way than the mode that its queue was asked for");
        }
        let registers = matches!(M::DATA, Data::ByCommand | Data::Registered);
        let buffer_len = match M::DATA {
            Data::Buffer | Data::Chosen => largest,
            Data::UserCopy | Data::Registered if operations > 0 => largest,
            Data::UserCopy | Data::Registered | Data::ByCommand => 0,
        };
        // A tag has one command staged or in flight, or its request's operations, with one that registers before them and one
        // that gives back before its commit. Two more are the polls that wake the queue.
        let per_tag = 1 + u32::from(operations) + if registers { 2 } else { 0 };
        let descriptors = match part {
            Part::Idle => Descriptors::none(info)?,
            Part::Tags(_) | Part::Shared(_) => Descriptors::map(&char_device, info, id)?,
        };
        let (tags, shared) = match part {
            Part::Tags(tags) => (tags, None),
            Part::Shared(memory) => (0..depth, Some(memory)),
            Part::Idle => (0..depth, None),
        };
        let count = u32::try_from(tags.len()).unwrap_or(depth.into());
        // So are, in batches, two fetches and a commit.
        let all = count * per_tag + 5;
        // What does not fit at once is submitted in between, and completions that do not fit are kept by the kernel.
        let submissions = all.min(SUBMISSIONS).max(count + 2);
        let ring = Ring::local(submissions, all.min(COMPLETIONS).max(submissions))?;
        if registers || shares {
            ring.register_buffers(u32::from(depth) + if shares { SHARED } else { 0 })?;
        }
        let in_batches = info.features().contains(Features::BATCH_IO);
        let form = Form::of::<M>(info.features());
        let batch = if in_batches { Some(PreparedBatch::map(depth, form, shared.is_some())?) } else { None };
        Ok(PreparedQueue {
            id,
            info: *info,
            tags,
            shape,
            ring,
            files: Files::NONE,
            descriptors,
            memory: shared.map_or_else(|| Memory::map(depth, buffer_len), Ok)?,
            table: Table::map(depth, operations)?,
            shares: if shares { Some(Shares::map()?) } else { None },
            pool: if M::DATA == Data::Chosen { Some(Pool::map(buffers.unwrap_or(depth).min(depth))?) } else { None },
            largest,
            char_device,
            batch,
            mode: PhantomData,
        })
    }

    /// Takes some of the queue's tags away, for another thread to fetch and serve: `count` of them, which come as a queue of the
    /// same number, with a ring and buffers of its own.
    ///
    /// The driver gives a request whichever tag is free, so that both threads get some. Files are registered with each of the two.
    ///
    /// # Errors
    ///
    /// - [`Error::Unsupported`]: the driver wants all tags of a queue fetched by one thread.
    /// - [`Error::Invalid`]: there are not more tags than that, or none was asked for.
    /// - [`Error::System`]: as for [`Device::queue`](crate::Device::queue).
    ///
    /// # Kernel
    ///
    /// Since Linux 6.16. `UBLK_F_PER_IO_DAEMON`.
    pub fn split_off(&mut self, count: u16) -> Result<PreparedQueue<M>, Error> {
        let offered = self.info.features();
        if !offered.contains(Features::PER_IO_DAEMON) {
            return Err(Error::Unsupported { missing: Features::PER_IO_DAEMON, offered });
        }
        let start = self.tags.end.checked_sub(count).filter(|start| count > 0 && *start > self.tags.start);
        let start = start.ok_or(Error::Invalid { what: "a queue is split so that both parts have tags" })?;
        let char_device = self.another_char_device()?;
        let (info, largest, tags) = (&self.info, self.largest, Part::Tags(start..self.tags.end));
        let part = PreparedQueue::with_buffers(char_device, info, self.id, largest, self.shape, tags)?;
        self.tags.end = start;
        Ok(part)
    }

    /// The tags that are fetched here: all of the queue's, unless it was [split](PreparedQueue::split_off).
    #[must_use]
    pub fn tags(&self) -> Range<u16> {
        self.tags.clone()
    }

    /// Gives a file to the queue's ring, for [operations](Operations) of its requests: at most 64. The ring holds it open until
    /// it ends, whatever becomes of `file`.
    ///
    /// # Errors
    ///
    /// - [`Error::Invalid`]: the ring has 64 files.
    /// - [`Error::System`]: the kernel has no memory, or the file is one that a ring cannot hold (`EBADF`).
    ///
    /// # Kernel
    ///
    /// `IORING_REGISTER_FILES2` with `IORING_RSRC_REGISTER_SPARSE` (Linux 5.19), `IORING_REGISTER_FILES_UPDATE` (5.5). In liburing:
    /// `io_uring_register_files_sparse()`, `io_uring_register_files_update()`.
    pub fn register_file(&mut self, file: &Fd) -> Result<RingFile, Error> {
        self.files.register(self.ring.fd(), file)
    }

    fn another_char_device(&self) -> Result<Fd, Error> {
        self.char_device.try_clone().map_err(|errno| SystemCall::Dup.failed(errno))
    }

    /// As [`Queue::register_shared`], before the queue is fetched: then no request comes whose data the ring cannot find.
    ///
    /// Every part of a queue that is [split](PreparedQueue::split_off) or [shared](PreparedQueue::share) has a ring of its own, and so
    /// its own registrations.
    ///
    /// # Errors
    ///
    /// As for [`Queue::register_shared`].
    ///
    /// # Kernel
    ///
    /// As there.
    pub fn register_shared(&mut self, index: SharedIndex, memory: &SharedMemory) -> Result<(), Error> {
        let (ring, depth) = (&self.ring, self.info.depth());
        self.shares
            .as_ref()
            .ok_or(NOT_SHARED)?
            .add(index, memory, |slot, address, len| ring.set_buffer(u32::from(depth) + u32::from(slot), address, len))
    }

    /// Has the kernel leave the buffers of requests in memory, and whatever else the queue has mapped, for as long as the queue has
    /// them: all of it from now on, or what is used, from then on. See [`hosting`](crate::hosting).
    ///
    /// As much as that is counts as locked, also where it is locked as it is used: the depth times the largest request, and a few pages. The
    /// right to lock more than `RLIMIT_MEMLOCK` says is `CAP_IPC_LOCK`, in the initial user namespace. Of a queue that is
    /// [shared](PreparedQueue::share) or [split](PreparedQueue::split_off), each part is locked by itself.
    ///
    /// The ring and the I/O descriptors are the kernel's own pages, which it never takes away.
    ///
    /// # Errors
    ///
    /// - [`Error::System`] with [`SystemCall::LockMemory`]. Without `CAP_IPC_LOCK`: `EPERM`, `RLIMIT_MEMLOCK` is 0; `ENOMEM`, it is
    ///   not enough. `EAGAIN`: there is not so much memory. A part may be locked then.
    /// - [`Error::Invalid`]: the buffers are those of a queue that was [adopted](PreparedQueue::adopt), of 4 GiB each, and
    ///   were to be had at once.
    ///
    /// # Kernel
    ///
    /// Since Linux 4.4. mlock2(2), with `MLOCK_ONFAULT` where it is lazy.
    pub fn lock_buffers(&mut self, when: BufferLock) -> Result<(), Error> {
        if when == BufferLock::Prefaulted && self.largest == LARGEST_OF_ANY {
            return Err(Error::Invalid { what: "buffers of 4 GiB are locked as they are used" });
        }
        self.memory.lock(when)?;
        self.table.lock(when)?;
        self.shares.as_ref().map_or(Ok(()), |shares| shares.lock(when))?;
        self.pool.as_ref().map_or(Ok(()), |pool| pool.lock(when))?;
        self.batch.as_mut().map_or(Ok(()), |batch| batch.lock(when))
    }

    /// Has the kernel let the queue's ring do what the queue needs, and `operations` for its target, and nothing else from when it is
    /// fetched. Once, for each part of a queue that is shared or split.
    ///
    /// An operation of another kind fails with `EACCES`, also one that somebody puts into the ring who has taken over the process.
    /// Files are registered before, as ever; the kernel takes none later.
    ///
    /// # Errors
    ///
    /// [`Error::System`] with [`SystemCall::Restrict`]: `EBUSY`, the ring is restricted already.
    ///
    /// # Kernel
    ///
    /// Since Linux 5.10. `IORING_REGISTER_RESTRICTIONS`, io_uring_register(2). It needs no right.
    pub fn restrict(&mut self, operations: &[RingOperation]) -> Result<(), Error> {
        let shares = self.shares.is_some();
        let has_buffers = shares || matches!(M::DATA, Data::ByCommand | Data::Registered);
        let purpose = Purpose { has_buffers, shares, in_batches: self.batch.is_some() };
        self.ring.restrict(&purpose.rules(operations))
    }

    /// The queue's number.
    #[must_use]
    pub const fn id(&self) -> QueueId {
        self.id
    }

    /// The device that it is a queue of.
    #[must_use]
    pub const fn device(&self) -> &DeviceInfo {
        &self.info
    }

    /// For a thread that does not serve it.
    #[cfg(feature = "std")]
    pub(crate) fn watch(&self) -> Watch {
        Watch::of(&self.memory)
    }

    /// Makes the calling thread the daemon of every tag of the queue, by fetching each. In batches there are no daemons: it is one of the
    /// threads that requests go to.
    ///
    /// When every queue of the device has returned from this, the device can be started. The driver does not notice that one was
    /// dropped meanwhile. A daemon that ends leaves its requests unanswered until the whole server lets go of the char device.
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
    pub fn fetch(self) -> Result<Queue<M>, Error> {
        let ring = self.ring.enable()?;
        let batch = self.batch.map(|batch| batch.on(&ring)).transpose()?;
        let in_batches = batch.is_some();
        let queue = Queue {
            ring_fd: ring.fd().raw(),
            state: RefCell::new(State::over(ring, batch)),
            unanswered: Cell::new(0),
            unmoved_shared: Cell::new(0),
            info: self.info,
            descriptors: self.descriptors,
            memory: self.memory,
            table: self.table,
            shares: self.shares,
            pool: self.pool,
            places: places::<M>(self.info.features()),
            depth: self.info.depth(),
            largest: self.largest,
            overlays: self.shape.overlays,
            char_device: self.char_device,
            id: self.id,
            mode: self.mode,
        };
        let mut state = queue.state()?;
        if in_batches {
            queue.send_batch(&mut state)?;
        } else {
            for tag in self.tags.map(Tag::new) {
                queue.stage(&mut state, Command::FETCH_REQ, tag, 0)?;
            }
        }
        state.ring.submit()?;
        drop(state);
        Ok(queue)
    }
}

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
        if !state.owned.is_empty() {
            self.note_held(&mut state);
        }
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

    /// Notes when the requests that are held through a wait for the first time were.
    fn note_held(&self, state: &mut State) {
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
        if state.timed.remove(tag) {
            if let Some(letter_box) = self.memory.letter_box(tag) {
                letter_box.hold_no_more();
            }
        }
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

/// Room in a queue's ring beyond which operations are submitted in between, and completions are kept by the kernel.
const SUBMISSIONS: u32 = 4096;
const COMPLETIONS: u32 = 32_768;

/// Bytes of the largest request that any device can have: `max_io_buf_bytes` has 32 bits, and is a whole number of pages.
const LARGEST_OF_ANY: usize = usize_from(u32::MAX - 0xfff);

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
