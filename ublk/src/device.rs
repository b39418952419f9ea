// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device that this process added: where control and queues meet.

use core::time::Duration;

use crate::char_device::CharDevice;
use crate::control::Control;
use crate::device_info::{DeviceInfo, NewDevice, State};
use crate::errno::Errno;
use crate::error::Error;
use crate::id::QueueId;
use crate::params::Params;
use crate::queue::PreparedQueue;
use crate::syscall;

/// How long a fresh char device may take to become ours: udev gives the node its owner.
const NODE_PATIENCE: Duration = Duration::from_secs(3);

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

/// A device with its parameters set and its char device open, which only this process can serve.
///
/// It is deleted when dropped. Only the handle that the driver gave the device to deletes it: an id that somebody else
/// has is `EEXIST` when it is asked for, and never touched.
///
/// The order that cannot hang: [`add`](Device::add), make every [`queue`](Device::queue), let each be fetched by its
/// thread, [`start`](Device::start) while they serve, [`stop`](Device::stop) while they serve, drop the queues,
/// [`delete`](Device::delete).
#[derive(Debug)]
pub struct Device {
    control: Control,
    info: DeviceInfo,
    char_device: Option<CharDevice>,
    /// Whether requests may be under way, so that a stop has to wait for somebody to answer them.
    started: bool,
    deleted: bool,
}

static_assertions::assert_impl_all!(Device: Send);

impl Device {
    /// Adds a device, sets its parameters and opens its char device. If any of that fails there is no device.
    ///
    /// # Errors
    ///
    /// Those of [`Control::add`], [`Control::set_params`] and [`CharDevice::open`].
    ///
    /// # Kernel
    ///
    /// `UBLK_U_CMD_ADD_DEV` and `UBLK_U_CMD_SET_PARAMS`.
    pub fn add(mut control: Control, device: &NewDevice, params: &Params) -> Result<Device, Error> {
        let info = control.add(device)?;
        let mut device = Device { control, info, char_device: None, started: false, deleted: false };
        device.control.set_params(&info, params)?;
        device.char_device = Some(CharDevice::open(info.id(), NODE_PATIENCE)?);
        Ok(device)
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

    /// Prepares one queue, for the thread that will serve it: makes its ring, and maps its descriptors and its buffers.
    ///
    /// # Errors
    ///
    /// - [`Error::Invalid`]: the device has no such queue, moves data in another way, or was [let go](Device::let_go).
    /// - [`Error::System`]: `ENOMEM` or `EMFILE` for want of memory or descriptors; `EINVAL` from
    ///   [`MmapDescriptors`](crate::SystemCall::MmapDescriptors) where another process has mapped them.
    ///
    /// # Kernel
    ///
    /// Since Linux 6.0, with this ring 6.1. `ublk_ch_mmap()`.
    pub fn queue(&self, id: QueueId) -> Result<PreparedQueue, Error> {
        let char_device = self.char_device.as_ref();
        let char_device = char_device.ok_or(Error::Invalid { what: "the char device was let go" })?;
        PreparedQueue::new(char_device, &self.info, id)
    }

    /// Starts the device. Every queue has to be fetched, and served meanwhile; see [`Control::start`].
    ///
    /// # Errors
    ///
    /// Those of [`Control::start`].
    pub fn start(&mut self) -> Result<(), Error> {
        // A start that is given up may still succeed.
        self.started = true;
        self.control.start(self.info.id())
    }

    /// Stops the device, while its queues serve on; see [`Control::stop`].
    ///
    /// # Errors
    ///
    /// Those of [`Control::stop`].
    pub fn stop(&mut self) -> Result<(), Error> {
        self.control.stop(self.info.id())?;
        self.started = false;
        Ok(())
    }

    /// Closes the char device. When the queues are dropped too, the driver fails every request that is left with `EIO`:
    /// the way out for a server that cannot answer any more.
    pub fn let_go(&mut self) {
        self.char_device = None;
        self.started = false;
    }

    /// Deletes the device, and waits a few seconds for its id to become free. The queues have to be dropped.
    ///
    /// The deletion is asked for while the char device is held, so that the id cannot have become somebody else's. Both
    /// nodes are gone when this returns. A client that still has the block device open, a mounted filesystem for
    /// instance, holds the id and nothing else.
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

    fn delete_now(&mut self) -> Result<(), Error> {
        self.deleted = true;
        if self.control.is_abandoned() {
            // The old handle's ring has an answer outstanding; a new one has not.
            self.control = Control::open()?;
        }
        if self.started {
            // Somebody may have to answer requests before the device stops, and this is not the moment to wait for it.
            self.let_go();
        }
        let id = self.info.id();
        let deleted = match self.control.delete_async(id) {
            Err(Error::Control { errno: Errno::EOPNOTSUPP | Errno::EINVAL, .. }) => {
                self.let_go();
                self.control.delete(id)
            }
            other => other,
        };
        self.let_go();
        match deleted {
            // Somebody else deleted it, which is what was wanted.
            Err(Error::Control { errno: Errno::ENODEV, .. }) => Ok(()),
            other => other,
        }
    }

    /// Nothing tells when the last reference to a deleted device went, so it is asked for.
    fn wait_until_free(&mut self) -> Result<DeletedId, Error> {
        let deadline = syscall::monotonic().saturating_add(FREE_PATIENCE);
        loop {
            match self.control.info(self.info.id()) {
                Err(Error::Control { errno: Errno::ENODEV, .. }) => return Ok(DeletedId::Free),
                Err(error) => return Err(error),
                // A deleted device stays dead, so one that lives has taken the free id.
                Ok(info) if info.state() != State::DEAD => return Ok(DeletedId::Free),
                Ok(_) if syscall::monotonic() < deadline => syscall::sleep(Duration::from_millis(5)),
                Ok(_) => return Ok(DeletedId::Held),
            }
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if !self.deleted {
            // There is nobody to tell.
            let _ = self.delete_now();
        }
    }
}
