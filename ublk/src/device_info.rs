// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a device is: asked for, and as the driver made it.

use core::fmt;
use core::marker::PhantomData;

use ublk_sys::{
    UBLK_MAX_NR_QUEUES, UBLK_MAX_QUEUE_DEPTH, UBLK_S_DEV_DEAD, UBLK_S_DEV_FAIL_IO, UBLK_S_DEV_LIVE,
    UBLK_S_DEV_QUIESCED, ublksrv_ctrl_dev_info, ublksrv_io_desc,
};

use crate::error::Error;
use crate::features::Features;
use crate::id::DeviceId;
use crate::mode::{self, Mode, UserCopied};
use crate::overlays::Overlays;
use crate::recovery::Recovery;

/// The most operations of the ring that a request can have under way at once.
pub(crate) const MAX_OPERATIONS: u16 = 64;

/// What the queues of a device are to have, as it was asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shape {
    /// Operations of the ring that a request can have under way at once.
    pub(crate) operations: u16,
    /// How many buffers a queue has that chooses them; one for each tag unless said.
    pub(crate) buffers: Option<u16>,
    pub(crate) overlays: Overlays,
}

/// Bytes of an I/O descriptor, where nothing else was asked for.
const DESCRIPTOR_BYTES: u16 = 24;
const _: () = assert!(size_of::<ublksrv_io_desc>() == 24);

/// What a device is doing (`UBLK_S_*`, `ublksrv_ctrl_dev_info.state`).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct State(u16);

static_assertions::assert_impl_all!(State: Send, Sync);

impl State {
    /// Not started, or stopped: there is no block device.
    pub const DEAD: State = State(UBLK_S_DEV_DEAD);
    /// There is a block device with a server behind it.
    pub const LIVE: State = State(UBLK_S_DEV_LIVE);
    /// The server is gone, and requests wait for the next. Since Linux 6.1.
    pub const QUIESCED: State = State(UBLK_S_DEV_QUIESCED);
    /// The server is gone, and requests fail until the next. Since Linux 6.13.
    pub const FAIL_IO: State = State(UBLK_S_DEV_FAIL_IO);

    /// The driver's number.
    #[must_use]
    pub const fn raw(self) -> u16 {
        self.0
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            State::DEAD => f.write_str("DEAD"),
            State::LIVE => f.write_str("LIVE"),
            State::QUIESCED => f.write_str("QUIESCED"),
            State::FAIL_IO => f.write_str("FAIL_IO"),
            State(other) => write!(f, "state {other}"),
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A device as the driver describes it (`struct ublksrv_ctrl_dev_info`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct DeviceInfo(ublksrv_ctrl_dev_info);

static_assertions::assert_impl_all!(DeviceInfo: Send, Sync);

impl DeviceInfo {
    /// What a process was told by the one that added the device, for [`PreparedQueue::adopt`](crate::PreparedQueue::adopt):
    /// [`queues`](DeviceInfo::queues), [`depth`](DeviceInfo::depth) and [`features`](DeviceInfo::features) there.
    #[must_use]
    pub fn told(queues: u16, depth: u16, features: Features) -> DeviceInfo {
        let mut info = ublksrv_ctrl_dev_info::default();
        (info.nr_hw_queues, info.queue_depth, info.flags) = (queues, depth, features.bits());
        DeviceInfo(info)
    }

    /// The struct as the driver, or anybody, wrote it. Nothing in this crate relies on one that was made so.
    #[must_use]
    pub const fn from_raw(info: ublksrv_ctrl_dev_info) -> DeviceInfo {
        DeviceInfo(info)
    }

    /// The struct as the driver wrote it.
    #[must_use]
    pub const fn as_raw(&self) -> &ublksrv_ctrl_dev_info {
        &self.0
    }

    /// Whether both describe the same device, as far as what cannot change tells: not its state, nor its server.
    pub(crate) fn is_same_device(&self, other: &DeviceInfo) -> bool {
        let lasting = |info: &DeviceInfo| {
            let mut info = info.0;
            (info.state, info.ublksrv_pid) = (0, 0);
            info
        };
        lasting(self) == lasting(other)
    }

    /// The number in `/dev/ublkcN` and `/dev/ublkbN`.
    #[must_use]
    pub const fn id(&self) -> DeviceId {
        DeviceId::new(self.0.dev_id)
    }

    /// Hardware queues: what was asked for, or fewer, one for each CPU at most.
    #[must_use]
    pub const fn queues(&self) -> u16 {
        self.0.nr_hw_queues
    }

    /// Requests that a queue holds at once.
    #[must_use]
    pub const fn depth(&self) -> u16 {
        self.0.queue_depth
    }

    /// Bytes of the largest request, a multiple of the page size.
    #[must_use]
    pub const fn max_io_bytes(&self) -> u32 {
        self.0.max_io_buf_bytes
    }

    /// What the device is doing.
    #[must_use]
    pub const fn state(&self) -> State {
        State(self.0.state)
    }

    /// What the device can do.
    #[must_use]
    pub const fn features(&self) -> Features {
        Features::from_bits(self.0.flags)
    }

    /// What becomes of it when its server dies; `None` where it ends then.
    #[must_use]
    pub fn recovery(&self) -> Option<Recovery> {
        Recovery::of(self.features())
    }

    /// The process that serves it, as the caller's pid namespace numbers it. Not a sign of life: a process that is
    /// exiting is still named here.
    #[must_use]
    pub fn server_process(&self) -> Option<u32> {
        u32::try_from(self.0.ublksrv_pid).ok().filter(|pid| *pid > 0)
    }

    /// User and group of whoever added it. Since Linux 6.3.
    #[must_use]
    pub const fn owner(&self) -> (u32, u32) {
        (self.0.owner_uid, self.0.owner_gid)
    }

    /// Bytes from one I/O descriptor to the next. 24, but for devices with [`Features::IO_DESC_SIZE`]; before Linux 7.3
    /// the field is padding, and not looked at.
    pub(crate) fn descriptor_bytes(&self) -> usize {
        if self.features().contains(Features::IO_DESC_SIZE) {
            self.0.io_desc_size.into()
        } else {
            DESCRIPTOR_BYTES.into()
        }
    }
}

impl fmt::Debug for DeviceInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceInfo")
            .field("id", &self.id())
            .field("queues", &self.queues())
            .field("depth", &self.depth())
            .field("max_io_bytes", &self.max_io_bytes())
            .field("state", &self.state())
            .field("features", &self.features())
            .field("server_process", &self.server_process())
            .field("owner", &self.owner())
            .finish()
    }
}

/// A device to be added: what `ADD_DEV` is asked for.
///
/// ```
/// use ublk::{DeviceId, NewDevice};
///
/// let device = NewDevice::new().queues(2).depth(64).id(DeviceId::new(7));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct NewDevice<M: Mode = mode::Copy> {
    id: Option<DeviceId>,
    queues: u16,
    depth: u16,
    max_io_bytes: u32,
    descriptor_bytes: Option<u16>,
    features: Features,
    /// Those that have a method of their own.
    overlays: Features,
    operations: u16,
    buffers: Option<u16>,
    mode: PhantomData<M>,
}

static_assertions::assert_impl_all!(NewDevice: Send, Sync);

impl Default for NewDevice {
    fn default() -> NewDevice {
        NewDevice::new()
    }
}

impl NewDevice {
    /// One queue of 128 requests of up to 512 KiB, no feature, and an id of the driver's choice.
    pub const fn new() -> NewDevice {
        NewDevice {
            id: None,
            queues: 1,
            depth: 128,
            max_io_bytes: 512 << 10,
            descriptor_bytes: None,
            features: Features::NONE,
            overlays: Features::NONE,
            operations: 0,
            buffers: None,
            mode: PhantomData,
        }
    }
}

impl<M: Mode> NewDevice<M> {
    /// The same with another [mode] of moving data.
    ///
    /// ```
    /// use ublk::{NewDevice, mode};
    ///
    /// let device = NewDevice::new().mode::<mode::UserCopy>().depth(64);
    /// ```
    pub const fn mode<N: Mode>(self) -> NewDevice<N> {
        let NewDevice { id, queues, depth, max_io_bytes, descriptor_bytes, features, overlays, operations, .. } = self;
        let buffers = self.buffers;
        let mode = PhantomData;
        NewDevice { id, queues, depth, max_io_bytes, descriptor_bytes, features, overlays, operations, buffers, mode }
    }

    /// Operations of the queue's ring that a request can have under way at once, 0 to 64: see [`Operations`](crate::Operations).
    /// 0 unless set. Each takes 336 bytes of memory for every tag, once it was used.
    pub const fn operations(mut self, operations: u16) -> NewDevice<M> {
        self.operations = operations;
        self
    }

    /// Asks for this id; the driver refuses with `EEXIST` where it is taken.
    pub const fn id(mut self, id: DeviceId) -> NewDevice<M> {
        self.id = Some(id);
        self
    }

    /// Hardware queues, 1 to 4096. The driver gives no more than one for each CPU.
    pub const fn queues(mut self, queues: u16) -> NewDevice<M> {
        self.queues = queues;
        self
    }

    /// Requests that each queue holds at once, 1 to 4096.
    pub const fn depth(mut self, depth: u16) -> NewDevice<M> {
        self.depth = depth;
        self
    }

    /// Bytes of the largest request, 4 KiB to 32 MiB. The driver rounds down to whole pages. Each tag gets a buffer of
    /// this size, of which only what is used takes memory, unless they are
    /// [locked](crate::PreparedQueue::lock_buffers): where a machine may run out of it when a WRITE comes.
    pub const fn max_io_bytes(mut self, bytes: u32) -> NewDevice<M> {
        self.max_io_bytes = bytes;
        self
    }

    /// Bytes from one I/O descriptor to the next: 24 to 256, a multiple of 8. The device must have
    /// [`IO_DESC_SIZE`](Features::IO_DESC_SIZE) then. What stands behind the first 24 is zero in Linux 7.3, and this crate does not
    /// look at it: with 64 no two descriptors share a cache line.
    ///
    /// # Kernel
    ///
    /// Since Linux 7.3. `ublksrv_ctrl_dev_info.io_desc_size`, `ublk_ctrl_add_dev()`.
    pub const fn descriptor_bytes(mut self, bytes: u16) -> NewDevice<M> {
        self.descriptor_bytes = Some(bytes);
        self
    }

    /// Features that the device must have, beside those of its mode. One that the driver does not give is an error, and so are two that
    /// [exclude each other](Features::conflict).
    pub const fn features(mut self, features: Features) -> NewDevice<M> {
        self.features = features;
        self
    }

    /// Has the requests come in batches: one completion brings many, and one command answers many. Threads and queues may then be of
    /// any number: see [`PreparedQueue::share`](crate::PreparedQueue::share).
    ///
    /// Since Linux 7.0 (`UBLK_F_BATCH_IO`). The driver does not give `UBLK_F_PER_IO_DAEMON` with it.
    pub const fn batch(mut self) -> NewDevice<M> {
        self.overlays = self.overlays.union(Features::BATCH_IO);
        self
    }

    /// Has the device outlive a server that dies, and wait for [another one](crate::Device::recover).
    ///
    /// Beside it [`Features::QUIESCE`] (Linux 6.16) lets a server be relieved that lives, whichever recovery this is.
    ///
    /// # Kernel
    ///
    /// `UBLK_F_USER_RECOVERY` (Linux 6.1), with `UBLK_F_USER_RECOVERY_REISSUE` (6.1) or `UBLK_F_USER_RECOVERY_FAIL_IO` (6.13). A user
    /// without privileges cannot have it.
    pub const fn recovery(mut self, recovery: Recovery) -> NewDevice<M> {
        let all = Recovery::Reissue.features().union(Recovery::FailIo.features());
        self.overlays = self.overlays.without(all).union(recovery.features());
        self
    }

    /// Has the device belong to the user who adds it, who needs no right for that, nor for serving and deleting it
    /// (`UBLK_F_UNPRIVILEGED_DEV`).
    ///
    /// The administrator allows it beforehand: `/dev/ublk-control` has to be everybody's, and udev has to give the nodes of such a
    /// device to their owner, which `ublkctl udev-owner` does. Where nobody does, the char device cannot be opened
    /// ([`Error::OpenCharDevice`] with `EACCES`), and the device stays until root deletes it. A process that has
    /// `CAP_SYS_ADMIN` is refused ([`Error::Unsupported`]): the driver drops the feature, as it would make others look for a path.
    ///
    /// The driver ends the server of such a device with SIGKILL when a request is 30 seconds old: so a target that is slow answers
    /// in parts, or fails what it cannot do in time. There is no other data mode than copy and get data, no recovery, and no scan for
    /// partitions; the number of such devices is limited by the module's parameter `ublks_max`.
    ///
    /// # Kernel
    ///
    /// Since Linux 6.3. `ublk_ctrl_uring_cmd_permission()`, `ublk_timeout()`.
    pub const fn unprivileged(mut self) -> NewDevice<M> {
        self.overlays = self.overlays.union(Features::UNPRIVILEGED_DEV);
        self
    }

    pub(crate) const fn asked_features(&self) -> Features {
        let features = self.features.union(self.overlays).union(M::FEATURES);
        match self.descriptor_bytes {
            Some(_) => features.union(Features::IO_DESC_SIZE),
            None => features,
        }
    }

    pub(crate) const fn asked_shape(&self, overlays: Overlays) -> Shape {
        Shape { operations: self.operations, buffers: self.buffers, overlays }
    }

    pub(crate) const fn asked_max_io_bytes(&self) -> u32 {
        self.max_io_bytes
    }

    pub(crate) const fn asked_id(&self) -> Option<DeviceId> {
        self.id
    }

    /// Checks what is the server's own, for queues of this depth.
    pub(crate) fn check_own(&self, depth: u16) -> Result<(), Error> {
        let invalid = |what| Err(Error::Invalid { what });
        if self.buffers.is_some_and(|buffers| !(1..=depth).contains(&buffers)) {
            return invalid("a queue has at least one buffer, and at most one for each tag");
        }
        if self.operations > MAX_OPERATIONS {
            return invalid("a request has at most 64 operations of the ring under way");
        }
        Ok(())
    }

    /// What is sent, once the numbers are such as the driver takes: it answers each of these with a bare `EINVAL`.
    pub(crate) fn checked(&self) -> Result<ublksrv_ctrl_dev_info, Error> {
        let invalid = |what| Err(Error::Invalid { what });
        if !(1..=UBLK_MAX_NR_QUEUES).contains(&self.queues) {
            return invalid("a device has 1 to 4096 queues");
        }
        if !(1..=UBLK_MAX_QUEUE_DEPTH).contains(&self.depth) {
            return invalid("a queue has a depth of 1 to 4096");
        }
        // The driver takes any number, but then refuses every parameter block, or has no offset for the bytes past 32 MiB.
        if !(4096..=32 << 20).contains(&self.max_io_bytes) {
            return invalid("the largest request has 4 KiB to 32 MiB");
        }
        if self.id.is_some_and(|id| id.raw() >= 1 << 20) {
            return invalid("a device id is below 1048576");
        }
        let descriptor_bytes = self.descriptor_bytes.unwrap_or(DESCRIPTOR_BYTES);
        if !(24..=256).contains(&descriptor_bytes) || descriptor_bytes % 8 != 0 {
            return invalid("an I/O descriptor has 24 to 256 bytes, a multiple of 8");
        }
        let features = self.asked_features();
        if let Some(what) = features.conflict() {
            return invalid(what);
        }
        if self.features.contains(Features::UNPRIVILEGED_DEV) {
            return invalid("that a device is unprivileged is said by NewDevice::unprivileged, and not by a feature");
        }
        if !mode::is_of::<M>(features) {
            return invalid("how data travels is said by NewDevice::mode, and not by a feature");
        }
        self.check_own(self.depth)?;
        // The driver's queue of tags to be fetched has no size of 1.
        if features.contains(Features::BATCH_IO) && self.depth < 2 {
            return invalid("a queue whose requests come in batches has a depth of at least 2");
        }
        let mut info = ublksrv_ctrl_dev_info::default();
        info.nr_hw_queues = self.queues;
        info.queue_depth = self.depth;
        info.max_io_buf_bytes = self.max_io_bytes;
        info.dev_id = self.id.map_or(u32::MAX, DeviceId::raw);
        info.flags = features.bits();
        // Before Linux 7.3 the field is padding.
        if features.contains(Features::IO_DESC_SIZE) {
            info.io_desc_size = descriptor_bytes;
        }
        Ok(info)
    }
}

impl<M: UserCopied> NewDevice<M> {
    /// The device has zones, which its parameters have to [describe](crate::Params::zoned).
    ///
    /// # Kernel
    ///
    /// Since Linux 6.6, where it was built with `CONFIG_BLK_DEV_ZONED`; where not, adding the device is `EINVAL`. `UBLK_F_ZONED`.
    pub const fn zoned(mut self) -> NewDevice<M> {
        self.overlays = self.overlays.union(Features::ZONED);
        self
    }

    /// The device has metadata beside its data, which its parameters have to [describe](crate::Params::integrity).
    ///
    /// # Kernel
    ///
    /// Since Linux 7.0, where it was built with `CONFIG_BLK_DEV_INTEGRITY`. `UBLK_F_INTEGRITY`.
    pub const fn integrity(mut self) -> NewDevice<M> {
        self.overlays = self.overlays.union(Features::INTEGRITY);
        self
    }
}

impl NewDevice<mode::GetData> {
    /// How many buffers each queue has, 1 to its depth: one for each tag unless set.
    ///
    /// Memory is taken for as many requests at once as there are buffers, however deep the queue is.
    pub const fn buffers(mut self, buffers: u16) -> NewDevice<mode::GetData> {
        self.buffers = Some(buffers);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::NewDevice;
    use crate::{DeviceId, Features, Recovery, mode};

    #[test]
    fn zones_and_metadata_go_with_a_mode_in_whatever_order_they_are_asked_for() {
        let both = Features::ZONED | Features::INTEGRITY;
        let device = NewDevice::new().mode::<mode::UserCopy>().zoned().integrity().features(Features::UPDATE_SIZE);
        let asked = Features::from_bits(device.checked().unwrap().flags);
        assert_eq!(asked, both | Features::USER_COPY | Features::UPDATE_SIZE);
        assert!(device.mode::<mode::Copy>().checked().is_err());
    }

    #[test]
    fn recovery_and_batches_are_asked_for_beside_features_in_whatever_order() {
        let flags = |device: NewDevice| Features::from_bits(device.checked().unwrap().flags);
        let all = Features::QUIESCE | Recovery::FailIo.features() | Features::BATCH_IO;
        let device = NewDevice::new().recovery(Recovery::Reissue).recovery(Recovery::FailIo).batch();
        assert_eq!(flags(device.features(Features::QUIESCE)), all);
        assert_eq!(flags(NewDevice::new().features(Features::QUIESCE).batch().recovery(Recovery::FailIo)), all);
    }

    #[test]
    fn numbers_that_the_driver_refuses_are_refused_before_it() {
        let refused = [
            NewDevice::new().queues(0),
            NewDevice::new().queues(4097),
            NewDevice::new().depth(0),
            NewDevice::new().depth(4097),
            NewDevice::new().max_io_bytes(4095),
            NewDevice::new().max_io_bytes((32 << 20) + 1),
            NewDevice::new().id(DeviceId::new(1 << 20)),
            NewDevice::new().features(Features::UNPRIVILEGED_DEV),
            NewDevice::new().depth(1).batch(),
            NewDevice::new().descriptor_bytes(16),
            NewDevice::new().descriptor_bytes(28),
            NewDevice::new().descriptor_bytes(264),
            NewDevice::new().features(Features::QUIESCE),
        ];
        for device in refused {
            assert!(device.checked().is_err(), "{device:?}");
        }
        assert_eq!(NewDevice::new().checked().unwrap().dev_id, u32::MAX);
    }

    #[test]
    fn larger_descriptors_are_a_feature_in_whatever_order_it_is_asked_for() {
        let sent = |device: NewDevice| {
            let info = device.checked().unwrap();
            (info.io_desc_size, Features::from_bits(info.flags))
        };
        let both = Features::IO_DESC_SIZE | Features::UPDATE_SIZE;
        assert_eq!(sent(NewDevice::new().descriptor_bytes(64).features(Features::UPDATE_SIZE)), (64, both));
        assert_eq!(sent(NewDevice::new().features(both).descriptor_bytes(256)), (256, both));
        // The feature alone has the size that there always was; without it the field is padding.
        assert_eq!(sent(NewDevice::new().features(both)), (24, both));
        assert_eq!(sent(NewDevice::new()), (0, Features::NONE));
    }
}
