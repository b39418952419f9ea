// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device that this process added: where control and queues meet.

use core::fmt;
use core::marker::PhantomData;
use core::time::Duration;

use ublk_sys::UBLK_MAX_NR_QUEUES;

use crate::char_device::CharDevice;
use crate::control::{Control, Starting, Stopping};
use crate::deadline::Deadline;
use crate::device_info::{DeviceInfo, NewDevice, Shape, State};
use crate::errno::Errno;
use crate::error::{Command, Error};
use crate::features::Features;
use crate::id::{DeviceId, QueueId};
use crate::mode::{self, Mode};
use crate::overlays::Overlays;
use crate::params::Params;
use crate::queue::PreparedQueue;
use crate::syscall::{self, Fd};

/// How long a fresh char device may take to become ours: udev gives the node its owner.
pub(crate) const NODE_PATIENCE: Duration = Duration::from_secs(3);

/// How long is waited for a deleted device's id to become free: the kernel tears down the queues' rings first.
const FREE_PATIENCE: Duration = Duration::from_secs(3);

/// What became of the id of a device that was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeletedId {
    /// It can be used for another device.
    Free,
    /// Somebody still has the block device or the char device open, and the id is theirs until they close it.
    Held,
}

static_assertions::assert_impl_all!(DeletedId: Send, Sync);

/// How far a device has come. It comes to each step once: a driver before Linux 7.3 hangs for good over one that is started
/// again after a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Not started, so that nobody can have sent a request.
    New,
    /// A start or a stop was asked for. One that is given up may still succeed, so it counts from the first.
    Begun,
    Deleted,
}

/// A device with its parameters set and its char device open, which only this process can serve.
///
/// It is deleted when dropped, but for one that [outlives its server](crate::NewDevice::recovery): where that has a disk, or was
/// [recovered](Device::recover), it is let go, and waits for its next server. Only the handle that the driver gave the device to
/// deletes it: an id that somebody else has is `EEXIST` when it is asked for, and not touched.
///
/// The order that cannot hang: [`add`](Device::add), make every [`queue`](Device::queue), let each be fetched by its
/// thread, [`start`](Device::start) while they serve, [`stop`](Device::stop) while they serve, drop the queues,
/// [`delete`](Device::delete). Each queue is had once, before the start, and the start is taken once; anything else is
/// [`Error::Invalid`]. A device that is dropped before its queues waits for them a few seconds: in a struct the queues stand
/// before it.
///
/// After an [`Error::TimedOut`] the control handle in it answers nothing more. Drop the queues, and then the device: it is
/// deleted through a new handle.
#[must_use = "a device is deleted when it is dropped"]
pub struct Device<M: Mode = mode::Copy> {
    control: Control,
    /// What the driver says of the device whose char device is open.
    info: DeviceInfo,
    char_device: Option<CharDevice>,
    phase: Phase,
    /// Whether it was another server's before.
    is_recovered: bool,
    /// The queues that were handed out, a bit each.
    queues: [u64; 64],
    /// Operations of the ring that a request can have under way.
    shape: Shape,
    mode: PhantomData<M>,
}

const _: () = assert!(UBLK_MAX_NR_QUEUES == 64 * 64);

static_assertions::assert_impl_all!(Device: Send);
static_assertions::assert_not_impl_any!(Device: Sync);

impl<M: Mode> fmt::Debug for Device<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("info", &self.info).field("phase", &self.phase).finish_non_exhaustive()
    }
}

impl<M: Mode> Device<M> {
    /// Adds a device, opens its char device and sets its parameters. If any of that fails there is no device.
    ///
    /// # Errors
    ///
    /// - [`Error::Invalid`]: the numbers or the parameters are outside of what the driver takes, or do not fit each other; nothing
    ///   was sent.
    /// - [`Error::UnsupportedParams`]: the driver is too old for parameters of a kind;
    /// - those of [`Control::add`] and [`Control::set_params`];
    /// - [`Error::OpenCharDevice`]: `EACCES`, the node was given to somebody else; `EBUSY`, somebody else has it open; `ENOENT`,
    ///   somebody else deleted the device meanwhile, or nothing has made a node in 3 seconds;
    /// - [`Error::WrongNode`]: `/dev/ublkcN` leads to another device;
    /// - [`Error::Replaced`]: somebody else deleted the device meanwhile, and added another of the same id.
    ///
    /// # Kernel
    ///
    /// `UBLK_U_CMD_ADD_DEV` and `UBLK_U_CMD_SET_PARAMS`.
    pub fn add(mut control: Control, device: &NewDevice<M>, params: &Params) -> Result<Device<M>, Error> {
        // Before anything is sent, so that what is wrong with them leaves no trace.
        params.checked(device.asked_features(), device.asked_max_io_bytes())?;
        let shape = device.asked_shape(Overlays::of(params));
        let info = control.add(device)?;
        let mut device = Device::new(control, info, shape);
        let char_device = CharDevice::open(&mut device.control, info.id(), NODE_PATIENCE)?;
        // The open file pins the id: what is true of it now stays true. Before, it could have become another device's: its
        // parameters would be overwritten, and the buffers made for the wrong size.
        let opened = device.control.info(info.id())?;
        // Nor is the name believed, which may have led to the node of a device with larger requests.
        if !char_device.is_of(&device.control.params(info.id())?) {
            return Err(Error::WrongNode { device: info.id() });
        }
        if !opened.is_same_device(&info) {
            device.phase = Phase::Deleted;
            return Err(Error::Replaced { device: info.id() });
        }
        device.char_device = Some(char_device);
        device.control.set_params(&info, params)?;
        Ok(device)
    }

    fn new(control: Control, info: DeviceInfo, shape: Shape) -> Device<M> {
        let (char_device, phase, is_recovered, queues) = (None, Phase::New, false, [0; 64]);
        Device { control, info, char_device, phase, is_recovered, queues, shape, mode: PhantomData }
    }

    /// A device of another server's, which this process has the char device of.
    pub(crate) fn recovered(control: Control, info: DeviceInfo, char_device: CharDevice, shape: Shape) -> Device<M> {
        let mut device = Device::new(control, info, shape);
        (device.char_device, device.is_recovered) = (Some(char_device), true);
        device
    }

    /// The device as the driver made it.
    #[must_use]
    pub const fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// The control handle, for commands about this device or another.
    pub const fn control(&mut self) -> &mut Control {
        &mut self.control
    }

    /// Prepares one queue, for the thread that will serve it: makes its ring, and maps its descriptors and its buffers. Each
    /// queue can be had once.
    ///
    /// # Errors
    ///
    /// - [`Error::Invalid`]: the device has no such queue, has given it out already, moves data in another way, was started, or
    ///   was [let go](Device::let_go).
    /// - [`Error::System`]: `ENOMEM` or `EMFILE` for want of memory or descriptors; `EINVAL` from
    ///   [`MmapDescriptors`](crate::SystemCall::MmapDescriptors) where another process has mapped them.
    ///
    /// # Kernel
    ///
    /// Since Linux 6.0, with this ring 6.1. `ublk_ch_mmap()`.
    pub fn queue(&mut self, id: QueueId) -> Result<PreparedQueue<M>, Error> {
        let invalid = |what| Err(Error::Invalid { what });
        if self.phase != Phase::New {
            return invalid("queues are made before a device is started");
        }
        let Some(char_device) = self.char_device.as_ref() else { return invalid("the char device was let go") };
        let index = usize::from(id.raw());
        let bit = 1_u64 << (index % 64);
        let given = self.queues.get(index / 64).is_some_and(|word| word & bit != 0);
        if given {
            return invalid("a queue can be had once");
        }
        let queue = PreparedQueue::new(char_device, &self.info, id, self.shape)?;
        if let Some(word) = self.queues.get_mut(index / 64) {
            *word |= bit;
        }
        Ok(queue)
    }

    /// Another descriptor of the open char device, for the process that is to serve it: see [`PreparedQueue::adopt`]. The
    /// device can be used again, and its id is free, only when that process has closed it.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: the char device was let go; or its requests come in batches, so that whoever has it could have the driver
    /// write to any address of this process. [`Error::System`] with `EMFILE`: no descriptor is left.
    pub fn char_device(&self) -> Result<Fd, Error> {
        if self.info.features().contains(Features::BATCH_IO) {
            return Err(Error::Invalid { what: "a device whose requests come in batches is served by who added it" });
        }
        self.char_device.as_ref().ok_or(Error::Invalid { what: "the char device was let go" })?.duplicate()
    }

    /// Starts the device, or where it was [recovered](Device::recover) has it go on with this server. Every queue has to be fetched, and
    /// served meanwhile; see [`Control::start`].
    ///
    /// # Errors
    ///
    /// Those of [`Control::start`]; [`Error::Invalid`] where the device was started or stopped before.
    pub fn start(&mut self) -> Result<(), Error> {
        self.begin_start()?.wait()
    }

    /// Begins to start the device, and waits for nothing; see [`Control::begin_start`].
    ///
    /// It is the device's own business until its answer came, or was given up:
    ///
    /// ```compile_fail,E0499
    /// fn start(mut device: ublk::Device) -> Result<(), ublk::Error> {
    ///     let starting = device.begin_start()?;
    ///     device.let_go();
    ///     println!("{starting:?}");
    ///     Ok(())
    /// }
    /// ```
    ///
    /// ```no_run
    /// fn start(mut device: ublk::Device) -> Result<(), ublk::Error> {
    ///     let starting = device.begin_start()?.wait()?;
    ///     device.let_go();
    ///     println!("{starting:?}");
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Control::begin_start`]; [`Error::Invalid`] where the device was started or stopped before.
    pub fn begin_start(&mut self) -> Result<Starting<'_>, Error> {
        if self.phase != Phase::New {
            return Err(Error::Invalid { what: "a device is started once" });
        }
        self.begin()?;
        if self.is_recovered {
            self.control.begin_end_recovery(self.info.id())
        } else {
            self.control.begin_start(self.info.id())
        }
    }

    /// Stops the device, while its queues serve on; see [`Control::stop`].
    ///
    /// # Errors
    ///
    /// Those of [`Control::stop`]; where the device was [let go](Device::let_go), [`Error::Replaced`] too, and of it the moment that
    /// [`Stopper::stop`] has.
    pub fn stop(&mut self) -> Result<(), Error> {
        self.stop_while(|| false)
    }

    /// As [`stop`](Device::stop), for as long as there is progress; see [`Control::stop_while`].
    ///
    /// # Errors
    ///
    /// Those of [`Control::stop`].
    pub fn stop_while(&mut self, progress: impl FnMut() -> bool) -> Result<(), Error> {
        self.begin()?;
        self.control.stop_while(self.info.id(), progress)
    }

    /// Begins to stop the device if nobody has it open, and waits for nothing; see [`Control::begin_try_stop`].
    ///
    /// # Errors
    ///
    /// Those of [`Control::begin_try_stop`].
    pub fn begin_try_stop(&mut self) -> Result<Stopping<'_>, Error> {
        self.begin()?;
        self.control.begin_try_stop(self.info.id())
    }

    /// Begins to stop the device, and waits for nothing; see [`Control::begin_stop`].
    ///
    /// # Errors
    ///
    /// Those of [`Control::begin_stop`].
    pub fn begin_stop(&mut self) -> Result<Stopping<'_>, Error> {
        self.begin()?;
        self.control.begin_stop(self.info.id())
    }

    fn begin(&mut self) -> Result<(), Error> {
        if self.phase == Phase::New {
            self.phase = Phase::Begun;
        }
        // The open file pins the id.
        if self.char_device.is_some() { Ok(()) } else { is_still(&mut self.control, &self.info) }
    }

    /// A handle that stops this device from any thread, whatever this one is doing: with a ring and a descriptor of its own.
    ///
    /// # Errors
    ///
    /// Those of [`Control::open`].
    pub fn stopper(&self) -> Result<Stopper, Error> {
        let mut control = Control::open()?;
        control.set_unprivileged(self.unprivileged());
        Ok(Stopper { control, info: self.info })
    }

    /// Closes the char device. When the queues are dropped too, the driver fails every request that is left with `EIO`:
    /// the way out for a server that cannot answer any more.
    ///
    /// Before some Linux after 6.12 the driver hears of it through the fetches that end then. Of a queue whose every request is
    /// held it hears nothing, and the clients wait for the block layer's time-out, 30 s.
    pub fn let_go(&mut self) {
        self.char_device = None;
    }

    /// Deletes the device, and waits a few seconds for its id to become free. The queues have to be dropped.
    ///
    /// The char device is let go, and opened again when the driver is through with what the queues left, requests that
    /// nobody answered included; they fail with `EIO`. The deletion is asked for while that file is held, and only if the
    /// device is still ours: an id that has become somebody else's is left alone. Where somebody else holds the file, and
    /// before Linux 6.9, it is asked for without; then a moment is left between the look and the deletion.
    ///
    /// Both nodes are gone when this returns. A client that still has the block device open, a mounted filesystem for
    /// instance, holds the id and nothing else.
    ///
    /// Nothing is done with a device that is deleted:
    ///
    /// ```compile_fail,E0382
    /// fn end(mut device: ublk::Device) -> Result<(), ublk::Error> {
    ///     device.delete()?;
    ///     device.stop()
    /// }
    /// ```
    ///
    /// ```no_run
    /// fn end(mut device: ublk::Device) -> Result<(), ublk::Error> {
    ///     println!("{:?}", device.info());
    ///     device.stop()
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Control::delete_async`] and [`Control::delete`].
    ///
    /// # Kernel
    ///
    /// `UBLK_U_CMD_DEL_DEV_ASYNC` (Linux 6.9), before that `UBLK_U_CMD_DEL_DEV`.
    pub fn delete(mut self) -> Result<DeletedId, Error> {
        self.delete_now()?;
        self.wait_until_free()
    }

    /// Whether it is to be kept where its server ends without a stop: it can have another, and somebody may have it open.
    pub(crate) fn is_to_be_kept(&mut self) -> bool {
        match self.phase {
            // It was another's, and is as it was found; or it is ours alone.
            Phase::New => return self.is_recovered,
            Phase::Deleted => return false,
            Phase::Begun if self.info.recovery().is_none() => return false,
            Phase::Begun => {}
        }
        // A stop that was given up is done all the same, as soon as what it waits for was let go.
        let last = self.control.last_sent().map(|(command, _)| command);
        if self.control.is_abandoned() && matches!(last, Some(Command::STOP_DEV | Command::TRY_STOP_DEV)) {
            return false;
        }
        if self.renew_control().is_err() {
            return true;
        }
        let found = self.control.info(self.info.id());
        !found.is_ok_and(|found| found.state() == State::DEAD && found.is_same_device(&self.info))
    }

    /// A control handle that answers.
    fn renew_control(&mut self) -> Result<(), Error> {
        if self.control.is_abandoned() {
            // The old handle's ring has an answer outstanding; a new one has not. Its descriptors come out of those that are
            // let go here.
            self.let_go();
            self.control = Control::open()?;
            self.control.set_unprivileged(self.unprivileged());
        }
        Ok(())
    }

    fn delete_now(&mut self) -> Result<(), Error> {
        let id = self.info.id();
        self.renew_control()?;
        // Whoever served it, this process or one that adopted its queues, may have left requests behind.
        if self.phase == Phase::Begun || self.queues.iter().any(|word| *word != 0) {
            // The queues' rings end on the kernel's own time. The char device can be had again when the driver is through with
            // them, and has answered what they left.
            self.let_go();
            match CharDevice::reopen(id, FREE_PATIENCE) {
                Ok(char_device) => self.char_device = Some(char_device),
                // Somebody else deleted it, which is what was wanted.
                Err(Error::OpenCharDevice { errno: Errno::ENOENT, .. }) => {
                    self.phase = Phase::Deleted;
                    return Ok(());
                }
                // Somebody holds on to it, and is to lose it.
                Err(_) => {}
            }
        }
        let mut deleted = Ok(());
        if self.is_ours()? {
            deleted = self.control.delete_async(id);
        }
        if let Err(Error::Control { errno: Errno::EOPNOTSUPP | Errno::EINVAL, .. }) = deleted {
            // Before Linux 6.9, and of an unprivileged device, there is only the command that waits for our own open file too.
            self.let_go();
            deleted = if self.is_ours()? { self.control.delete(id) } else { Ok(()) };
        }
        self.let_go();
        // A ring that failed has sent nothing, maybe. It is asked for once more when this value is dropped.
        if !matches!(deleted, Err(Error::System { .. } | Error::CompletionsLost { .. })) {
            self.phase = Phase::Deleted;
        }
        match deleted {
            // Somebody else was faster.
            Err(Error::Control { errno: Errno::ENODEV, .. }) => Ok(()),
            other => other,
        }
    }

    /// The device, if commands to it carry the path of its node.
    fn unprivileged(&self) -> Option<DeviceId> {
        self.info.features().contains(Features::UNPRIVILEGED_DEV).then(|| self.info.id())
    }

    /// Whether the device of our id is still the one that we added, as far as its description tells.
    fn is_ours(&mut self) -> Result<bool, Error> {
        match self.control.info(self.info.id()) {
            Ok(info) => Ok(info.is_same_device(&self.info)),
            // Nothing is known of it then: this process has given up the right to ask, and so to delete.
            Err(error @ Error::Control { errno: Errno::EPERM, .. }) => Err(error),
            Err(Error::Control { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Nothing tells when the last reference to a deleted device went, so it is asked for.
    fn wait_until_free(&mut self) -> Result<DeletedId, Error> {
        let deadline = Deadline::after(FREE_PATIENCE);
        loop {
            match self.control.info(self.info.id()) {
                // A deleted device stays dead, so one that lives has taken the free id.
                Ok(info) if info.state() == State::DEAD && info.is_same_device(&self.info) => {}
                Ok(_) | Err(Error::Control { .. }) => return Ok(DeletedId::Free),
                Err(error) => return Err(error),
            }
            if deadline.is_over() {
                return Ok(DeletedId::Held);
            }
            syscall::sleep(Duration::from_millis(5));
        }
    }
}

/// An error where the id has become another device's.
fn is_still(control: &mut Control, info: &DeviceInfo) -> Result<(), Error> {
    let device = info.id();
    if control.info(device)?.is_same_device(info) { Ok(()) } else { Err(Error::Replaced { device }) }
}

/// Stops a device from another thread than the one that has the [`Device`] ([`Device::stopper`]).
#[derive(Debug)]
pub struct Stopper {
    control: Control,
    info: DeviceInfo,
}

static_assertions::assert_impl_all!(Stopper: Send);
static_assertions::assert_not_impl_any!(Stopper: Sync);

impl Stopper {
    /// Stops the device, while its queues serve on; see [`Control::stop`].
    ///
    /// # Errors
    ///
    /// Those of [`Control::stop`]; [`Error::Replaced`] where the id has become another device's, which is left alone. A moment
    /// lies between the look and the command: do not keep one beyond the device.
    pub fn stop(&mut self) -> Result<(), Error> {
        self.begin_stop()?.wait()
    }

    /// Begins to stop the device, and waits for nothing; see [`Control::begin_stop`].
    ///
    /// # Errors
    ///
    /// Those of [`Control::begin_stop`] and [`Control::info`]; [`Error::Replaced`] where the id has become another device's.
    pub fn begin_stop(&mut self) -> Result<Stopping<'_>, Error> {
        is_still(&mut self.control, &self.info)?;
        self.control.begin_stop(self.info.id())
    }

    /// The control handle, to set how long it waits for instance.
    pub const fn control(&mut self) -> &mut Control {
        &mut self.control
    }
}

impl<M: Mode> Drop for Device<M> {
    fn drop(&mut self) {
        if self.phase != Phase::Deleted && !self.is_to_be_kept() {
            // There is nobody to tell.
            let _ = self.delete_now();
        }
    }
}
