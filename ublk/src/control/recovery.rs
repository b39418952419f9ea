// SPDX-License-Identifier: MIT OR Apache-2.0
//! The control commands by which a device changes its server.

use core::time::Duration;

use crate::control::in_flight::Starting;
use crate::control::{Control, Header};
use crate::error::{Command, Error};
use crate::id::DeviceId;
use crate::syscall;

impl Control {
    /// Begins to give a device to another server, whose last one is gone. What comes next is its char device, which has to be
    /// opened, and every tag fetched. [`Device::recover`](crate::Device::recover) does all of it.
    ///
    /// # Errors
    ///
    /// - [`Error::Control`] with `EBUSY`: the device does not wait for a server, or the driver is not through with the last one.
    ///   `EINVAL`: it was added without [`Features::USER_RECOVERY`](crate::Features::USER_RECOVERY).
    /// - those of every command.
    ///
    /// # Kernel
    ///
    /// Since Linux 6.1. `UBLK_U_CMD_START_USER_RECOVERY`, `ublk_ctrl_start_recovery()`. On Linux 6.12 it makes the queues ready to be
    /// fetched; on 7.3, where the end of the last server does that, it only looks.
    pub fn start_recovery(&mut self, id: DeviceId) -> Result<(), Error> {
        self.simple(Command::START_USER_RECOVERY, id)
    }

    /// Ends what [`start_recovery`](Control::start_recovery) has begun: the device is live, with this process as its server. It waits for
    /// nothing; as [`start`](Control::start) does, it succeeds when every tag of every queue was fetched.
    ///
    /// # Errors
    ///
    /// Those of the ring. From [`Starting`] come [`Error::Control`] with `EINVAL`, another process opened the char device, and with
    /// `EBUSY`: the device does not wait for a server.
    ///
    /// # Kernel
    ///
    /// Since Linux 6.1. `UBLK_U_CMD_END_USER_RECOVERY`, `ublk_ctrl_end_recovery()`.
    pub fn begin_end_recovery(&mut self, id: DeviceId) -> Result<Starting<'_>, Error> {
        let header = Header { device: Some(id), data: syscall::process_id().into(), ..Header::default() };
        self.begin(Command::END_USER_RECOVERY, header, self.start_patience)
    }

    /// Has the driver take no further requests to a device's server: clients wait, or with
    /// [`Features::USER_RECOVERY_FAIL_IO`](crate::Features::USER_RECOVERY_FAIL_IO) their requests fail, until it has another server. The
    /// server's idle fetches end, as when the device is stopped, and it lets go of the char device when all have.
    ///
    /// A tag that the server owns just then has no fetch that could end, and the one with which it is answered stays: while one tag is
    /// owned, the server does not hear of it all, and the device stays [`LIVE`](crate::State::LIVE) with clients that wait. This is
    /// therefore repeated until the state is another. A device that was quiesced stays so, also where this fails.
    ///
    /// `patience` is how long the driver may wait for a server that owns every tag, in whole milliseconds. That of Linux 7.3 does not wait.
    ///
    /// # Errors
    ///
    /// - [`Error::Control`] with `EOPNOTSUPP`: the device was added without [`Features::QUIESCE`](crate::Features::QUIESCE), or the
    ///   driver is older. `ENODEV`: it has no disk. `EBUSY`: the server still owns every tag.
    /// - those of every command.
    ///
    /// # Kernel
    ///
    /// Since Linux 6.16. `UBLK_U_CMD_QUIESCE_DEV`, `ublk_ctrl_quiesce_dev()`.
    pub fn quiesce(&mut self, id: DeviceId, patience: Duration) -> Result<(), Error> {
        // 0 would be without end.
        let ms = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX).max(1);
        let header = Header { device: Some(id), data: ms.into(), ..Header::default() };
        let longest = self.patience.saturating_add(patience);
        self.send(Command::QUIESCE_DEV, header, longest)
    }
}
