// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices that nobody serves.

use core::fmt;
use core::time::Duration;

use crate::char_device::CharDevice;
use crate::control::Control;
use crate::device::{DeletedId, Device};
use crate::device_info::{DeviceInfo, Shape, State};
use crate::errno::Errno;
use crate::error::Error;
use crate::id::DeviceId;

/// A device whose server is gone: killed for instance, which leaves the device's number and its char device, and with
/// [recovery](DeviceInfo::recovery) its disk.
///
/// That nobody serves it is shown by having its char device open, which the driver gives to one at a time. What
/// [`DeviceInfo::server_process`] names is no sign of life. As long as this value lives nobody can become the device's server;
/// dropped, it leaves the device as it was.
///
/// A device that somebody adds just now, and whose char device is not open yet, looks the same: whoever deletes orphans looks twice, a
/// second apart, and deletes what was the same device both times ([`is_same`](Orphan::is_same)).
#[must_use = "as long as it lives nobody can serve the device"]
pub struct Orphan {
    device: Device,
}

static_assertions::assert_impl_all!(Orphan: Send);
static_assertions::assert_not_impl_any!(Orphan: Sync);

impl fmt::Debug for Orphan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Orphan").field("info", self.info()).finish_non_exhaustive()
    }
}

impl Orphan {
    /// Looks whether anybody serves the device of this number; `None` where somebody does, or there is no such device.
    ///
    /// The state [`State::QUIESCED`] or [`State::FAIL_IO`] of [`info`](Orphan::info) says that it has a disk, with clients that
    /// wait for the next server: it is to be [recovered](Device::recover), and is deleted only where that is wanted.
    ///
    /// # Errors
    ///
    /// - [`Error::OpenCharDevice`], or [`Error::Control`] with `EACCES` where the device is an unprivileged one: the node is somebody
    ///   else's, so that it cannot be told.
    /// - those of [`Control::open`] and [`Control::info`].
    ///
    /// # Kernel
    ///
    /// Since Linux 6.0. `ublk_ch_open()`.
    pub fn find(id: DeviceId) -> Result<Option<Orphan>, Error> {
        let mut control = Control::open()?;
        let mut described = control.info(id);
        if let Err(Error::Control { errno: Errno::EINVAL, .. }) = described {
            // An unprivileged device is asked for by the path of its node.
            control.set_unprivileged(Some(id));
            described = control.info(id);
        }
        let before = match described {
            Ok(info) if info.state() != State::LIVE => info,
            // Live is what has its char device open, or had it a moment ago.
            Ok(_) | Err(Error::Control { errno: Errno::ENODEV, .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let char_device = match CharDevice::reopen(id, Duration::ZERO) {
            Ok(char_device) => char_device,
            Err(Error::OpenCharDevice { errno: Errno::EBUSY | Errno::ENOENT | Errno::ENXIO, .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        // The open file pins the id, if it is this device's.
        let info = control.info(id)?;
        let is_its = char_device.is_of(&control.params(id)?);
        if !is_its || !info.is_same_device(&before) || info.state() == State::LIVE {
            return Ok(None);
        }
        Ok(Some(Orphan { device: Device::recovered(control, info, char_device, Shape::default()) }))
    }

    /// The device.
    #[must_use]
    pub const fn info(&self) -> &DeviceInfo {
        self.device.info()
    }

    /// Whether it is the device that was found before under the same number, as far as its description tells.
    #[must_use]
    pub fn is_same(&self, before: &DeviceInfo) -> bool {
        self.info().is_same_device(before)
    }

    /// Deletes the device, with its disk if it has one. The requests of clients that wait for a server fail.
    ///
    /// # Errors
    ///
    /// Those of [`Device::delete`].
    pub fn delete(self) -> Result<DeletedId, Error> {
        self.device.delete()
    }
}
