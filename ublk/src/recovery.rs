// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a device gets another server.

use core::fmt;
use core::time::Duration;

use crate::char_device::CharDevice;
use crate::control::Control;
use crate::device::{Device, NODE_PATIENCE};
use crate::device_info::{DeviceInfo, NewDevice, State};
use crate::errno::Errno;
use crate::error::Error;
#[cfg(feature = "std")]
use crate::error::no_thread;
use crate::features::Features;
use crate::id::QueueId;
use crate::mode::{self, Mode};
use crate::overlays::Overlays;
use crate::params::Params;
use crate::queue::PreparedQueue;
use crate::syscall;

/// How long is waited between two looks at a device whose server is about to let go of it. Nothing tells when it has.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What becomes of a device's requests when its server dies, and until [another one](Device::recover) takes it over.
///
/// | | requests that the dead server owned | requests that come meanwhile |
/// |---|---|---|
/// | no recovery | EIO | there is no device any more |
/// | [`Plain`](Recovery::Plain) | EIO | wait |
/// | [`Reissue`](Recovery::Reissue) | are sent to the next server | wait |
/// | [`FailIo`](Recovery::FailIo) | EIO | fail at once, with `EREMOTEIO` |
///
/// A server that lives is relieved without an error at a client in two ways: the device has [`Features::QUIESCE`] (Linux 6.16), and
/// any process has the driver [quiesce](Control::quiesce) it, the next server for instance ([`Device::take_over`]); or its recovery
/// is `Reissue`, and the server answers what it owns and lets go. With `FailIo` what the server owns is answered too, and what comes
/// before the next server is there fails, as that recovery has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Recovery {
    /// `UBLK_F_USER_RECOVERY`, since Linux 6.1.
    Plain,
    /// `UBLK_F_USER_RECOVERY_REISSUE` beside it, since Linux 6.1.
    ///
    /// A request may be done twice: by the server that died over it, or by what that server had begun and the kernel ends after its
    /// death, and by the next. That is right for a target which gives the same bytes a second time.
    Reissue,
    /// `UBLK_F_USER_RECOVERY_FAIL_IO` beside it, since Linux 6.13.
    FailIo,
}

static_assertions::assert_impl_all!(Recovery: Send, Sync);

impl Recovery {
    /// The features that a device of this kind has.
    #[must_use]
    pub const fn features(self) -> Features {
        match self {
            Recovery::Plain => Features::USER_RECOVERY,
            Recovery::Reissue => Features::USER_RECOVERY.union(Features::USER_RECOVERY_REISSUE),
            Recovery::FailIo => Features::USER_RECOVERY.union(Features::USER_RECOVERY_FAIL_IO),
        }
    }

    /// That of a device with these features; `None` where it ends with its server.
    pub(crate) fn of(features: Features) -> Option<Recovery> {
        let has = |feature| features.contains(feature);
        has(Features::USER_RECOVERY).then(|| match () {
            () if has(Features::USER_RECOVERY_REISSUE) => Recovery::Reissue,
            () if has(Features::USER_RECOVERY_FAIL_IO) => Recovery::FailIo,
            () => Recovery::Plain,
        })
    }
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Recovery::Plain => "plain",
            Recovery::Reissue => "reissue",
            Recovery::FailIo => "fail-io",
        })
    }
}

impl<M: Mode> Device<M> {
    /// Takes over a device whose server is gone, or about to let go of it.
    ///
    /// `found` is the device as [`Control::info`] has described it, and [`Control::params`] says what its target has to be. Of `serving`
    /// counts what is the server's own: the [mode](NewDevice::mode), which has to be the device's, the
    /// [operations](NewDevice::operations), the [buffers](NewDevice::buffers). All else is as the device was added.
    ///
    /// From here it goes on as after [`add`](Device::add): make the queues, have them fetched, [start](Device::start). A server that
    /// fails or dies before that leaves the device waiting, and the next one begins anew.
    ///
    /// A last server that is on its way out is waited for, as long as the control handle waits for a command: 30 s unless
    /// [set](Control::set_patience).
    ///
    /// # Errors
    ///
    /// - [`Error::Invalid`]: the device was added without recovery, or with another mode. Nothing was done.
    /// - [`Error::NotWaiting`]: its server has not let go of it, or it was stopped. Nothing was done.
    /// - [`Error::Replaced`]: the id has become another device's. Nothing was done.
    /// - [`Error::OpenCharDevice`]: `EBUSY`, another server was faster; `EACCES`, the node is somebody else's.
    /// - [`Error::WrongNode`]: `/dev/ublkcN` leads to another device.
    /// - those of [`Control::start_recovery`].
    ///
    /// # Kernel
    ///
    /// Since Linux 6.1. `UBLK_U_CMD_START_USER_RECOVERY`; `start` then sends `UBLK_U_CMD_END_USER_RECOVERY`.
    pub fn recover(control: Control, found: &DeviceInfo, serving: &NewDevice<M>) -> Result<Device<M>, Error> {
        Device::take(control, found, serving, false)
    }

    /// As [`recover`](Device::recover), of a device whose server may live: the driver is asked to [quiesce](Control::quiesce) it, again
    /// and again until the server has answered what it owns, and has let go. Clients see a pause and no error; those of a device with
    /// [`Recovery::FailIo`] see that errors are what this recovery has instead of the pause.
    ///
    /// # Errors
    ///
    /// Those of [`recover`](Device::recover) and of [`Control::quiesce`]; [`Error::Invalid`] also where the device was added without
    /// [`Features::QUIESCE`]. After [`Error::NotWaiting`] the device may be quiesced, with a server that has not let go: clients wait
    /// until this succeeds.
    ///
    /// # Kernel
    ///
    /// Since Linux 6.16. `UBLK_U_CMD_QUIESCE_DEV`.
    pub fn take_over(control: Control, found: &DeviceInfo, serving: &NewDevice<M>) -> Result<Device<M>, Error> {
        if !found.features().contains(Features::QUIESCE) {
            return Err(Error::Invalid {
                what: "a device without UBLK_F_QUIESCE is taken over when its server has let go",
            });
        }
        Device::take(control, found, serving, true)
    }

    fn take(
        mut control: Control,
        found: &DeviceInfo,
        serving: &NewDevice<M>,
        quiesces: bool,
    ) -> Result<Device<M>, Error> {
        let id = found.id();
        if found.recovery().is_none() {
            return Err(Error::Invalid { what: "a device without UBLK_F_USER_RECOVERY ends with its server" });
        }
        if !mode::is_of::<M>(found.features()) {
            return Err(Error::Invalid { what: "a device is served in the mode that it was added with" });
        }
        serving.check_own(found.depth())?;
        let deadline = control.command_deadline();
        let mut touched = control.features()?.contains(Features::PER_IO_DAEMON);
        loop {
            let info = control.info(id)?;
            if !info.is_same_device(found) {
                return Err(Error::Replaced { device: id });
            }
            let not_waiting = Error::NotWaiting { device: id, state: info.state() };
            let answer = match info.state() {
                State::DEAD => return Err(not_waiting),
                State::LIVE if quiesces => control.quiesce(id, LOOK_AGAIN).map(|()| false),
                State::LIVE => Ok(false),
                _ if !touched => touch::<M>(found).map(|()| {
                    touched = true;
                    false
                }),
                _ => control.start_recovery(id).map(|()| true),
            };
            match answer {
                Ok(true) => break,
                // The driver is not through with the last server, or another one is just taking the device over.
                Ok(false)
                | Err(Error::Control { errno: Errno::EBUSY, .. } | Error::OpenCharDevice { errno: Errno::EBUSY, .. }) =>
                    {}
                // It was stopped just now, which the next look tells.
                Err(Error::Control { errno: Errno::ENODEV, .. }) => {}
                Err(error) => return Err(error),
            }
            if deadline.is_over() {
                return Err(not_waiting);
            }
            syscall::sleep(LOOK_AGAIN);
        }
        let (char_device, info, params) = open_found(&mut control, found, NODE_PATIENCE)?;
        let shape = serving.asked_shape(Overlays::of(&params));
        Ok(Device::recovered(control, info, char_device, shape))
    }
}

/// Has every queue of a device that waits fetched whole once, by a thread that has ended when this returns.
///
/// Of a server that died while it took the device over Linux 6.12 keeps what it had come to: from then on `START_USER_RECOVERY` is `EINVAL`
/// where it had fetched no queue, and a null pointer in the kernel where it had fetched one and not another. A queue that was fetched
/// refuses this, and nothing is changed. What is delivered to nobody is nothing: the device has no server.
///
/// Without `std` it is done by the calling thread, and the kernel warns of it where it was not refused: that thread lives on.
fn touch<M: Mode>(found: &DeviceInfo) -> Result<(), Error> {
    let fetch = || {
        let (char_device, info, _) = open_found(&mut Control::open()?, found, Duration::ZERO)?;
        (0..info.queues())
            .try_for_each(|queue| PreparedQueue::<M>::fetch_and_let_go(&char_device, &info, QueueId::new(queue)))
    };
    #[cfg(feature = "std")]
    return std::thread::scope(|scope| {
        let spawned = std::thread::Builder::new().spawn_scoped(scope, fetch);
        spawned
            .map_err(|error| no_thread(&error))?
            .join()
            .unwrap_or(Err(Error::Invalid { what: "a thread of a recovery panicked" }))
    });
    #[cfg(not(feature = "std"))]
    fetch()
}

/// Opens the char device of a device that waits, if it is still the one that was found.
fn open_found(
    control: &mut Control,
    found: &DeviceInfo,
    patience: Duration,
) -> Result<(CharDevice, DeviceInfo, Params), Error> {
    let id = found.id();
    let char_device = CharDevice::open(control, id, patience)?;
    // As when a device is added: the open file pins the id, and what is true of it now stays true.
    let info = control.info(id)?;
    let params = control.params(id)?;
    if !char_device.is_of(&params) {
        return Err(Error::WrongNode { device: id });
    }
    if !info.is_same_device(found) {
        return Err(Error::Replaced { device: id });
    }
    Ok((char_device, info, params))
}

#[cfg(test)]
mod tests {
    use super::Recovery;
    use crate::Features;

    #[test]
    fn the_recovery_of_a_device_is_the_one_whose_features_it_has() {
        for recovery in [Recovery::Plain, Recovery::Reissue, Recovery::FailIo] {
            assert_eq!(Recovery::of(recovery.features() | Features::QUIESCE), Some(recovery));
            assert_eq!(recovery.features().conflict(), None);
        }
        assert_eq!(Recovery::of(Features::QUIESCE), None);
    }
}
