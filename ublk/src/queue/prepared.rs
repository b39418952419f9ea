// SPDX-License-Identifier: MIT OR Apache-2.0
//! A queue before it is served: what it is given, until a thread fetches it.

use core::cell::{Cell, RefCell};
use core::marker::PhantomData;
use core::ops::Range;

use ublk_sys::UBLK_MAX_QUEUE_DEPTH;

use crate::char_device::CharDevice;
use crate::device_info::{DeviceInfo, Shape};
use crate::error::{Command, Error, SystemCall};
use crate::features::Features;
use crate::hosting::BufferLock;
use crate::id::{QueueId, SharedIndex, Tag};
use crate::mode::{self, Data, Mode};
use crate::queue::batch::{Form, PreparedBatch};
use crate::queue::descriptors::Descriptors;
use crate::queue::memory::Memory;
use crate::queue::operations::RingFile;
use crate::queue::pool::Pool;
use crate::queue::ring_operation::{Purpose, RingOperation};
use crate::queue::shares::{NOT_SHARED, SHARED, Shares};
use crate::queue::table::Table;
#[cfg(feature = "std")]
use crate::queue::watch::Watch;
use crate::queue::{Queue, State, places};
use crate::ring::{DisabledRing, Ring, registered};
use crate::shared_memory::SharedMemory;
use crate::syscall::Fd;
use crate::units::usize_from;

/// Bytes of the largest request that any device can have: `max_io_buf_bytes` has 32 bits, and is a whole number of pages.
const LARGEST_OF_ANY: usize = usize_from(u32::MAX - 0xfff);

/// Room in a queue's ring beyond which operations are submitted in between, and completions are kept by the kernel.
const SUBMISSIONS: u32 = 4096;

const COMPLETIONS: u32 = 32_768;

/// Files that a queue's ring has room for.
const FILES: u32 = 64;

/// A queue with all its memory, made in one thread and sent to the one that will serve it.
#[derive(Debug)]
#[must_use = "a queue can be had once"]
pub struct PreparedQueue<M: Mode = mode::Copy> {
    pub(super) id: QueueId,
    pub(super) info: DeviceInfo,
    pub(super) tags: Range<u16>,
    pub(super) shape: Shape,
    pub(super) ring: DisabledRing,
    pub(super) files: Files,
    pub(super) descriptors: Descriptors,
    pub(super) memory: Memory,
    pub(super) table: Table,
    pub(super) shares: Option<Shares>,
    pub(super) pool: Option<Pool>,
    pub(super) largest: usize,
    pub(super) char_device: Fd,
    /// In the batch transport.
    pub(super) batch: Option<PreparedBatch>,
    pub(super) mode: PhantomData<M>,
}

/// How many files a ring has, where it has a table of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Files(Option<u32>);

impl Files {
    pub(super) const NONE: Files = Files(None);

    pub(super) fn register(&mut self, ring: &Fd, file: &Fd) -> Result<RingFile, Error> {
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

    /// Gives a file to the queue's ring, for [operations](crate::Operations) of its requests: at most 64. The ring holds it open until
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

    pub(super) fn another_char_device(&self) -> Result<Fd, Error> {
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
