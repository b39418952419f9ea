// SPDX-License-Identifier: MIT OR Apache-2.0
//! The control commands, one function each.
//!
//! Errors that every command shares, in the order in which the driver looks:
//!
//! - [`Error::Control`] with `EOPNOTSUPP`: the driver is older than the command (or than Linux 6.4, whose encoding this
//!   crate uses).
//! - [`Error::Control`] with `ENODEV`: there is no device of that id.
//! - [`Error::Control`] with `EPERM`: the caller lacks `CAP_SYS_ADMIN` in the initial user namespace.
//! - [`Error::TimedOut`], and from then on [`Error::ControlAbandoned`].
//! - [`Error::System`] or [`Error::CompletionsLost`]: the ring failed; the handle is abandoned as after a time-out.

use core::ffi::CStr;
use core::fmt;
use core::time::Duration;

use ublk_sys::{UBLK_FEATURES_LEN, UBLK_SHMEM_BUF_READ_ONLY, ublk_params, ublk_shmem_buf_reg, ublksrv_ctrl_dev_info};

use crate::control::in_flight::{Starting, Stopping};
use crate::control::{Control, Header, PAYLOAD, TOO_LONG};
use crate::deadline::Deadline;
use crate::device_info::{DeviceInfo, NewDevice, State};
use crate::errno::Errno;
use crate::error::{Command, Error, SystemCall};
use crate::features::Features;
use crate::id::{DeviceId, QueueId, SharedIndex};
use crate::mapping::Plain;
use crate::mode::Mode;
use crate::params::{ParamTypes, Params};
use crate::shared_memory::SharedMemory;
use crate::syscall;
use crate::units::{Sectors, u64_from};

/// The most CPUs of a [`CpuSet`]: what Linux can be configured for on the largest machines.
const MAX_CPUS: usize = 8192;

/// How long an id may take to become free after its device is gone.
const FREEING_PATIENCE: Duration = Duration::from_secs(1);

/// How often an id is asked for whose device is dead, 5 ms apart.
const LOOKS_AT_THE_DEAD: u32 = 4;

/// A set of CPUs (`cpumask`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CpuSet {
    bytes: [u8; MAX_CPUS / 8],
}

static_assertions::assert_impl_all!(CpuSet: Send, Sync);

impl CpuSet {
    /// No CPU.
    #[cfg(feature = "std")]
    pub(crate) const EMPTY: CpuSet = CpuSet { bytes: [0; MAX_CPUS / 8] };

    /// The CPUs that are in one of them.
    #[cfg(feature = "std")]
    pub(crate) fn union(mut self, other: &CpuSet) -> CpuSet {
        self.bytes.iter_mut().zip(other.bytes).for_each(|(byte, other)| *byte |= other);
        self
    }

    /// The numbers of the CPUs in the set, in their order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0..8192_u32).filter(|cpu| self.contains(*cpu))
    }

    /// Whether this CPU is in the set.
    #[must_use]
    pub fn contains(&self, cpu: u32) -> bool {
        // The kernel's mask is an array of longs, so on a big-endian machine the bytes of each are in the other order.
        let flip = if cfg!(target_endian = "big") { size_of::<core::ffi::c_long>() - 1 } else { 0 };
        let byte = usize::try_from(cpu / 8).ok().and_then(|index| self.bytes.get(index ^ flip));
        byte.is_some_and(|byte| byte >> (cpu % 8) & 1 == 1)
    }
}

impl CpuSet {
    /// Has the calling thread run on these CPUs only.
    ///
    /// # Errors
    ///
    /// [`Error::System`] with [`SystemCall::SetAffinity`]: `EINVAL`, none of them is online, or allowed to this process.
    ///
    /// # Kernel
    ///
    /// `sched_setaffinity(2)`.
    pub fn pin_thread(&self) -> Result<(), Error> {
        syscall::set_affinity(&self.bytes).map_err(|errno| SystemCall::SetAffinity.failed(errno))
    }
}

impl fmt::Debug for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl Control {
    /// Puts `value` into the buffer, for a command that reads it or writes over it.
    fn lend<T: Plain>(&self, value: T) -> Result<Header, Error> {
        let len = const { lent_len::<T>() };
        // The buffer is larger than any T that is lent, and page-aligned.
        self.buffer()?.write(PAYLOAD, value).ok_or(TOO_LONG)?;
        Ok(Header { len, buffer_offset: PAYLOAD, ..Header::default() })
    }

    /// What stands in the buffer at `offset` after the command.
    fn take<T: Plain>(&self, offset: usize) -> Result<T, Error> {
        self.buffer()?.read(offset).ok_or(TOO_LONG)
    }

    pub(super) fn simple(&mut self, command: Command, id: DeviceId) -> Result<(), Error> {
        let header = Header { device: Some(id), ..Header::default() };
        self.send(command, header, self.patience)
    }

    /// Asks which features the driver knows.
    ///
    /// # Errors
    ///
    /// Those of every command. `ENODEV` or `EOPNOTSUPP` here mean a Linux before 6.5, which this crate does not support.
    ///
    /// # Kernel
    ///
    /// Since Linux 6.5. `UBLK_U_CMD_GET_FEATURES`, `ublk_ctrl_get_features()`. Needs no privilege but the open node.
    pub fn features(&mut self) -> Result<Features, Error> {
        const { assert!(lent_len::<u64>() == UBLK_FEATURES_LEN) };
        let header = self.lend(0_u64)?;
        self.send(Command::GET_FEATURES, header, self.patience)?;
        let offered = Features::from_bits(self.take(PAYLOAD)?);
        self.offered = Some(offered);
        Ok(offered)
    }

    /// Adds a device: `/dev/ublkcN` exists when this returns, `/dev/ublkbN` once it is started.
    ///
    /// The driver gives fewer queues than asked for where there are fewer CPUs, and rounds the largest request down to
    /// whole pages: what it returns is what counts from here on. It drops features that it does not know without a word;
    /// here that is an error, and the device is deleted before it returns. An id whose last device is just being freed is
    /// waited for, a second at most.
    ///
    /// # Errors
    ///
    /// - [`Error::Invalid`]: a number outside of what the driver takes, or features that a device
    ///   [cannot have together](Features::conflict); nothing was sent.
    /// - [`Error::Unsupported`]: the driver lacks a feature that was asked for; there is no device.
    /// - [`Error::Control`] with `EEXIST`: the id is taken. `EPERM`: no `CAP_SYS_ADMIN`. `ENOMEM`, `ENOSPC`: no memory, no id.
    /// - those of every command. After [`Error::TimedOut`] the device may exist.
    ///
    /// # Kernel
    ///
    /// Since Linux 6.0. `UBLK_U_CMD_ADD_DEV`, `ublk_ctrl_add_dev()`.
    pub fn add<M: Mode>(&mut self, device: &NewDevice<M>) -> Result<DeviceInfo, Error> {
        let mut sent = device.checked()?;
        // The driver keeps these bits for the server and gives them back: they tell this device from any other of its shape.
        let now = u64::try_from(syscall::monotonic().as_nanos()).unwrap_or(u64::MAX);
        sent.ublksrv_flags = now ^ u64::from(syscall::process_id()).rotate_right(22);
        let offered = self.features()?;
        let missing = device.asked_features().without(offered);
        if !missing.is_empty() {
            return Err(Error::Unsupported { missing, offered });
        }
        let (deadline, mut looks) = (Deadline::after(FREEING_PATIENCE), 0);
        loop {
            match self.add_once(device.asked_id(), sent) {
                Ok(()) => break,
                Err(taken) if !self.is_being_freed(device.asked_id(), taken, &mut looks) => return Err(taken),
                Err(taken) if deadline.is_over() => return Err(taken),
                // Nothing tells when the id is free. The refusal changed nothing, so it can be asked for again.
                Err(_) => syscall::sleep(Duration::from_millis(5)),
            }
        }
        let info = DeviceInfo::from_raw(self.take::<ublksrv_ctrl_dev_info>(PAYLOAD)?);
        self.unprivileged = info.features().contains(Features::UNPRIVILEGED_DEV).then(|| info.id());
        if let Err(error) = check_added(&sent, &info, device.asked_features()) {
            // Nobody else knows of it yet. If this fails too, the first error says more.
            let _ = self.delete(info.id());
            return Err(error);
        }
        Ok(info)
    }

    fn add_once(&mut self, id: Option<DeviceId>, sent: ublksrv_ctrl_dev_info) -> Result<(), Error> {
        let header = Header { device: id, ..self.lend(sent)? };
        self.send(Command::ADD_DEV, header, self.patience)
    }

    /// Whether an id was refused as taken although there is no device of it any more: the driver forgets a device before it
    /// has freed its memory, and its id only after that.
    fn is_being_freed(&mut self, id: Option<DeviceId>, refusal: Error, looks: &mut u32) -> bool {
        let is_taken = matches!(refusal, Error::Control { errno: Errno::EEXIST, .. });
        let Some(id) = id.filter(|_| is_taken) else { return false };
        match self.info(id) {
            Err(Error::Control { errno: Errno::ENODEV, .. }) => true,
            // Whoever asks about a device that was deleted keeps it for that moment, and it looks like one that was only added.
            Ok(info) if info.state() == State::DEAD => {
                *looks += 1;
                *looks <= LOOKS_AT_THE_DEAD
            }
            _ => false,
        }
    }

    /// Describes a device.
    ///
    /// # Errors
    ///
    /// Those of every command. For an unprivileged device `EINVAL`: ask [`info_at`](Control::info_at) instead.
    ///
    /// # Kernel
    ///
    /// Since Linux 6.0. `UBLK_U_CMD_GET_DEV_INFO`, `ublk_ctrl_get_dev_info()`.
    pub fn info(&mut self, id: DeviceId) -> Result<DeviceInfo, Error> {
        let header = Header { device: Some(id), ..self.lend(ublksrv_ctrl_dev_info::default())? };
        self.send(Command::GET_DEV_INFO, header, self.patience)?;
        self.take(PAYLOAD).map(DeviceInfo::from_raw)
    }

    /// Describes the device whose char device is at `path`. Of an unprivileged device whoever can read the node may ask so;
    /// of any other it takes `CAP_SYS_ADMIN` too.
    ///
    /// # Errors
    ///
    /// - [`Error::Invalid`]: the path has 4096 bytes or more.
    /// - [`Error::Control`] with `EPERM`: `path` is another device's node, or none. `EACCES`: the node is not readable.
    ///   `ENOENT` and the like: there is nothing at `path`.
    /// - those of every command.
    ///
    /// # Kernel
    ///
    /// Since Linux 6.3. `UBLK_U_CMD_GET_DEV_INFO2`, `ublk_ctrl_uring_cmd_permission()`.
    pub fn info_at(&mut self, id: DeviceId, path: &CStr) -> Result<DeviceInfo, Error> {
        let path = path.to_bytes_with_nul();
        let what = "a path has at most 4096 bytes, its NUL included";
        let path_len = u16::try_from(path.len()).ok().filter(|len| *len <= 4096).ok_or(Error::Invalid { what })?;
        // The answer stands right behind the path, so the path ends at a multiple of 8.
        let payload = path.len().next_multiple_of(8);
        let start = payload - path.len();
        let buffer = self.buffer()?;
        buffer.write_bytes(start, path).ok_or(TOO_LONG)?;
        buffer.write(payload, ublksrv_ctrl_dev_info::default()).ok_or(TOO_LONG)?;
        let header = Header {
            device: Some(id),
            len: path_len + const { lent_len::<ublksrv_ctrl_dev_info>() },
            buffer_offset: start,
            path_len,
            data: 0,
        };
        self.send(Command::GET_DEV_INFO2, header, self.patience)?;
        self.take(payload).map(DeviceInfo::from_raw)
    }

    /// Sets a device's parameters. It has to be done once, before the device is started.
    ///
    /// # Errors
    ///
    /// - [`Error::Invalid`]: the parameters contradict themselves or the device; nothing was sent.
    /// - [`Error::Control`] with `EACCES`: the device was started. `EINVAL`: the driver does not take the parameters, and
    ///   has forgotten those from before.
    /// - [`Error::UnsupportedParams`]: the driver is too old for parameters of a kind, and has taken the others: the device is
    ///   to be deleted, or to get parameters without them.
    /// - those of every command.
    ///
    /// # Kernel
    ///
    /// Since Linux 6.0. `UBLK_U_CMD_SET_PARAMS`, `ublk_validate_params()`. Where there are parameters that the driver of Linux
    /// 6.5 does not have, `UBLK_U_CMD_GET_PARAMS` too: an older driver drops their kind from `types` without a word.
    pub fn set_params(&mut self, device: &DeviceInfo, params: &Params) -> Result<(), Error> {
        let sent = params.fitted(device)?;
        let header = Header { device: Some(device.id()), ..self.lend(sent)? };
        self.send(Command::SET_PARAMS, header, self.patience)?;
        let asked = ParamTypes::from_bits(sent.types);
        if asked.without(ParamTypes::BASIC | ParamTypes::DISCARD).is_empty() {
            return Ok(());
        }
        let missing = asked.without(self.params(device.id())?.types());
        if missing.is_empty() { Ok(()) } else { Err(Error::UnsupportedParams { missing }) }
    }

    /// Asks for a device's parameters. A driver older than a parameter leaves it zero.
    ///
    /// # Errors
    ///
    /// Those of every command.
    ///
    /// # Kernel
    ///
    /// Since Linux 6.0. `UBLK_U_CMD_GET_PARAMS`, `ublk_ctrl_get_params()`. The driver marks the device numbers as set and
    /// would refuse them in `SET_PARAMS`; [`set_params`](Control::set_params) takes the mark away.
    pub fn params(&mut self, id: DeviceId) -> Result<Params, Error> {
        let mut asked = ublk_params::default();
        asked.len = u32::from(const { lent_len::<ublk_params>() });
        let header = Header { device: Some(id), ..self.lend(asked)? };
        self.send(Command::GET_PARAMS, header, self.patience)?;
        self.take(PAYLOAD).map(Params::from_driver)
    }

    /// Starts a device: `/dev/ublkbN` exists when this returns.
    ///
    /// It returns only when every tag of every queue was fetched, by this process, which has to have opened the char
    /// device. On Linux 6.12 it also waits until the partition table was read, so the queues have to be served by other
    /// threads meanwhile. A device that was stopped is to be deleted, not started again: before Linux 7.3 that hangs the
    /// driver for good ([`Device`](crate::Device) does not allow it).
    ///
    /// # Errors
    ///
    /// - [`Error::Control`] with `EINVAL`: no parameters are set, or (since some Linux after 6.12) another process opened
    ///   the char device. `EEXIST`: the device is live, or its last block device is still open somewhere. `EBUSY`: it was
    ///   stopped, and the server has not let go of the char device.
    /// - those of every command. [`Error::TimedOut`] where a tag was never fetched; 60 s unless
    ///   [set](Control::set_patience).
    ///
    /// # Kernel
    ///
    /// Since Linux 6.0. `UBLK_U_CMD_START_DEV`, `ublk_ctrl_start_dev()`.
    pub fn start(&mut self, id: DeviceId) -> Result<(), Error> {
        self.begin_start(id)?.wait()
    }

    /// Begins to start a device, and waits for nothing; see [`start`](Control::start). One thread can so start a device
    /// and serve its queues.
    ///
    /// # Errors
    ///
    /// Those of the ring. What the driver thinks of it comes from [`Starting`].
    ///
    /// # Kernel
    ///
    /// As for [`start`](Control::start).
    pub fn begin_start(&mut self, id: DeviceId) -> Result<Starting<'_>, Error> {
        let header = Header { device: Some(id), data: syscall::process_id().into(), ..Header::default() };
        self.begin(Command::START_DEV, header, self.start_patience)
    }

    /// Stops a device: the block device is gone when this returns, and every idle fetch ends.
    ///
    /// Dirty pages are written through the server first, so it has to serve on until then. A device that can recover
    /// ([`Features::USER_RECOVERY`]) loses them instead: sync it before.
    ///
    /// # Errors
    ///
    /// Those of every command. [`Error::TimedOut`] where the server sits on a request: this process then cannot exit
    /// before the request is answered or the char device let go.
    ///
    /// # Kernel
    ///
    /// Since Linux 6.0. `UBLK_U_CMD_STOP_DEV`, `ublk_ctrl_stop_dev()`.
    pub fn stop(&mut self, id: DeviceId) -> Result<(), Error> {
        self.stop_while(id, || false)
    }

    /// As [`stop`](Control::stop), and whenever the time is over and `progress` says that something has been done since it was
    /// asked last, waits for as long again: a page cache full of writes takes its time to reach a slow disk.
    ///
    /// # Errors
    ///
    /// Those of [`stop`](Control::stop).
    pub fn stop_while(&mut self, id: DeviceId, mut progress: impl FnMut() -> bool) -> Result<(), Error> {
        let mut stopping = self.begin_stop(id)?;
        loop {
            match stopping.step() {
                Ok(true) => return Ok(()),
                Err(Error::TimedOut { .. }) if progress() => stopping.extend(),
                Ok(false) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Begins to stop a device, and waits for nothing; see [`stop`](Control::stop). One thread can so stop a device and
    /// serve its queues until the driver is through with them.
    ///
    /// # Errors
    ///
    /// Those of the ring. What the driver thinks of it comes from [`Stopping`].
    ///
    /// # Kernel
    ///
    /// As for [`stop`](Control::stop).
    pub fn begin_stop(&mut self, id: DeviceId) -> Result<Stopping<'_>, Error> {
        let header = Header { device: Some(id), ..Header::default() };
        self.begin(Command::STOP_DEV, header, self.stop_patience)
    }

    /// Stops a device that nobody has open, and changes nothing where somebody has: a mounted file system, a program, udev for
    /// a moment. Otherwise as [`stop`](Control::stop).
    ///
    /// # Errors
    ///
    /// - [`Error::Control`] with `EBUSY`: the block device is open somewhere. `ENODEV`: there is none. `EOPNOTSUPP`: the driver is
    ///   older.
    /// - those of [`stop`](Control::stop).
    ///
    /// # Kernel
    ///
    /// Since Linux 7.0, where the driver offers [`Features::SAFE_STOP_DEV`]. `UBLK_U_CMD_TRY_STOP_DEV`, `ublk_ctrl_try_stop_dev()`. A
    /// device that was stopped so is to be deleted: started again it would let nobody open it who lacks `CAP_SYS_ADMIN`.
    pub fn try_stop(&mut self, id: DeviceId) -> Result<(), Error> {
        self.begin_try_stop(id)?.wait()
    }

    /// Begins to stop a device that nobody has open, and waits for nothing; see [`try_stop`](Control::try_stop).
    ///
    /// # Errors
    ///
    /// Those of the ring. What the driver thinks of it comes from [`Stopping`].
    ///
    /// # Kernel
    ///
    /// As for [`try_stop`](Control::try_stop).
    pub fn begin_try_stop(&mut self, id: DeviceId) -> Result<Stopping<'_>, Error> {
        let header = Header { device: Some(id), ..Header::default() };
        self.begin(Command::TRY_STOP_DEV, header, self.stop_patience)
    }

    /// Makes the block device of a device `size` large, while it is served. Whoever has it open sees the new size when this returns, and
    /// is told of it (`RESIZE=1` in a uevent). Requests in flight are not waited for: where it becomes smaller, some may lie behind
    /// its end.
    ///
    /// What serves it has to be ready for the new size before.
    ///
    /// # Errors
    ///
    /// - [`Error::Unsupported`]: the driver does not offer [`Features::UPDATE_SIZE`]; nothing was sent.
    /// - [`Error::Invalid`]: the device has no disk (some drivers from Linux 6.16 to 6.19 crash over that), or has zones; or the size is
    ///   nothing, or not a whole number of its logical blocks. Nothing was changed.
    /// - [`Error::Control`] with `ENODEV`: the disk has gone meanwhile.
    /// - those of every command.
    ///
    /// # Kernel
    ///
    /// Since Linux 6.16. `UBLK_U_CMD_UPDATE_SIZE`, `ublk_ctrl_set_size()`.
    pub fn resize(&mut self, id: DeviceId, size: Sectors) -> Result<(), Error> {
        let offered = self.features()?;
        let missing = Features::UPDATE_SIZE.without(offered);
        if !missing.is_empty() {
            return Err(Error::Unsupported { missing, offered });
        }
        let info = self.info(id)?;
        if info.state() == State::DEAD {
            return Err(Error::Invalid { what: "a device without a disk has no size to change" });
        }
        if info.features().contains(Features::ZONED) {
            return Err(Error::Invalid { what: "a disk with zones keeps its size" });
        }
        let block = 1_u64.checked_shl(self.params(id)?.as_raw().basic.logical_bs_shift.into()).unwrap_or(0);
        if size.raw() == 0 || size.bytes().checked_rem(block) != Some(0) {
            return Err(Error::Invalid { what: "the size of a disk is a whole number of its logical blocks" });
        }
        let header = Header { device: Some(id), data: size.raw(), ..Header::default() };
        self.send(Command::UPDATE_SIZE, header, self.patience)
    }

    /// Deletes a device, stopping it first, and waits until its id is free.
    ///
    /// The id is free when nobody holds the char device or the block device any more: a thread that holds the char device
    /// itself must not wait here.
    ///
    /// # Errors
    ///
    /// Those of every command. [`Error::TimedOut`] where somebody holds on to the device.
    ///
    /// # Kernel
    ///
    /// Since Linux 6.0. `UBLK_U_CMD_DEL_DEV`, `ublk_ctrl_del_dev()`.
    pub fn delete(&mut self, id: DeviceId) -> Result<(), Error> {
        self.simple(Command::DEL_DEV, id)
    }

    /// Deletes a device, stopping it first, without waiting for its id to become free.
    ///
    /// # Errors
    ///
    /// Those of every command. `EINVAL` for an unprivileged device: the driver leaves this command out of its list there.
    ///
    /// # Kernel
    ///
    /// Since Linux 6.9. `UBLK_U_CMD_DEL_DEV_ASYNC`, `ublk_ctrl_del_dev()`.
    pub fn delete_async(&mut self, id: DeviceId) -> Result<(), Error> {
        self.simple(Command::DEL_DEV_ASYNC, id)
    }

    /// Asks which CPUs a queue serves, those that are offline included.
    ///
    /// # Errors
    ///
    /// Those of every command. `EINVAL`: the device has no such queue, or the machine more than 8192 CPUs.
    ///
    /// # Kernel
    ///
    /// Since Linux 6.0. `UBLK_U_CMD_GET_QUEUE_AFFINITY`, `ublk_ctrl_get_queue_affinity()`, which takes the queue from
    /// `data[0]`, not from `queue_id`.
    pub fn queue_affinity(&mut self, id: DeviceId, queue: QueueId) -> Result<CpuSet, Error> {
        let mut cpus = CpuSet { bytes: [0; MAX_CPUS / 8] };
        let header = Header {
            device: Some(id),
            len: const { lent_len::<CpuSet>() },
            data: queue.raw().into(),
            buffer_offset: PAYLOAD,
            ..Header::default()
        };
        self.send(Command::GET_QUEUE_AFFINITY, header, self.patience)?;
        self.buffer()?.read_bytes(PAYLOAD, &mut cpus.bytes).ok_or(TOO_LONG)?;
        Ok(cpus)
    }

    /// Registers memory with a device, whose clients can then have their data there: see [`SharedMemory`]. The driver pins its
    /// pages, and says under which number a request names it.
    ///
    /// The registration is the device's, not this process's: it lasts, with the memory pinned, until it is
    /// [taken back](Control::unregister_shared) or the device deleted, whatever becomes of the server and of its mapping. A
    /// server that [recovers](crate::Device::recover) a device has no way to ask for the registrations that there are: their numbers are
    /// below the one that the driver gives next, and each can be taken back, `ENOENT` for those that are none. Until then a client's
    /// request may name one. It is completed as any other, and fails with `EIO`, as nobody moves its data
    /// ([`Queue::unmoved_shared`](crate::Queue::unmoved_shared)).
    ///
    /// The device may be live. The driver lets its requests end before, so the queues have to be served by other threads
    /// meanwhile: in a thread that serves one this would wait for itself.
    ///
    /// # Errors
    ///
    /// - [`Error::Control`] with `EOPNOTSUPP`: the device was added without [`Features::SHMEM_ZC`], or the driver is older.
    ///   `EEXIST`: a page of it is registered already. `ENOSPC`: the device has 65536 registrations. `ENOMEM`: the pages cannot
    ///   be pinned.
    /// - those of every command.
    ///
    /// # Kernel
    ///
    /// Since Linux 7.1. `UBLK_U_CMD_REG_BUF`, `ublk_ctrl_reg_buf()`.
    pub fn register_shared(&mut self, id: DeviceId, memory: &SharedMemory) -> Result<SharedIndex, Error> {
        // The driver pins the pages that are there when it looks, and neither reads nor writes them. So nothing happens to
        // what takes the place of `memory` after an answer that was not waited for.
        let mut sent = ublk_shmem_buf_reg::default();
        sent.addr = memory.address().ok_or(TOO_LONG)?;
        sent.len = u64_from(memory.len_bytes());
        sent.flags = if memory.is_read_only() { UBLK_SHMEM_BUF_READ_ONLY } else { 0 };
        let header = Header { device: Some(id), ..self.lend(sent)? };
        let number = self.begin(Command::REG_BUF, header, self.patience)?.wait_for_number()?;
        let implausible = Error::Implausible { what: "the index of shared memory", value: number.into() };
        u16::try_from(number).map(SharedIndex::new).map_err(|_| implausible)
    }

    /// Takes back a registration: the driver lets go of the memory, and no request names it from then on. As for
    /// [`register_shared`](Control::register_shared), the requests of the device end before.
    ///
    /// # Errors
    ///
    /// - [`Error::Control`] with `ENOENT`: nothing is registered under this number. `EOPNOTSUPP`: as for registering.
    /// - those of every command.
    ///
    /// # Kernel
    ///
    /// Since Linux 7.1. `UBLK_U_CMD_UNREG_BUF`, `ublk_ctrl_unreg_buf()`.
    pub fn unregister_shared(&mut self, id: DeviceId, index: SharedIndex) -> Result<(), Error> {
        let header = Header { device: Some(id), data: index.raw().into(), ..Header::default() };
        self.send(Command::UNREG_BUF, header, self.patience)
    }

    /// Takes back what servers before this one have registered, of a device that was [recovered](crate::Device::recover) and is live:
    /// the driver keeps it, and a request that names it fails with `EIO` ([`Queue::unmoved_shared`](crate::Queue::unmoved_shared)). What
    /// this server has registered itself is `kept`. How many there were.
    ///
    /// By a thread that serves no queue: the requests of the device end before, as for
    /// [`register_shared`](Control::register_shared). The driver gives the lowest number that is free, and tells none: they are tried
    /// from 0 up, until 4 in a row behind those that are kept are none.
    ///
    /// # Errors
    ///
    /// Those of [`unregister_shared`](Control::unregister_shared), but for `ENOENT`.
    ///
    /// # Kernel
    ///
    /// Since Linux 7.1. `UBLK_U_CMD_UNREG_BUF`, `ublk_ctrl_unreg_buf()`.
    pub fn unregister_shared_but(&mut self, id: DeviceId, kept: &[SharedIndex]) -> Result<u32, Error> {
        const NONE_IN_A_ROW: u16 = 4;
        let (mut taken_back, mut none) = (0, 0);
        for index in (0..=u16::MAX).map(SharedIndex::new) {
            if kept.iter().any(|kept| kept.raw() >= index.raw()) {
                none = 0;
            }
            if kept.contains(&index) {
                continue;
            }
            match self.unregister_shared(id, index) {
                Ok(()) => (taken_back, none) = (taken_back + 1, 0),
                Err(Error::Control { errno: Errno::ENOENT, .. }) => none += 1,
                Err(error) => return Err(error),
            }
            if none == NONE_IN_A_ROW {
                break;
            }
        }
        Ok(taken_back)
    }
}

/// The size of `T` in the type of `ublksrv_ctrl_cmd.len`.
#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "asserted, and no const conversion exists")]
const fn lent_len<T>() -> u16 {
    assert!(size_of::<T>() <= 4096);
    size_of::<T>() as u16
}

/// Compares what ADD_DEV returned with what was asked.
fn check_added(asked: &ublksrv_ctrl_dev_info, info: &DeviceInfo, features: Features) -> Result<(), Error> {
    let implausible = |what, value| Err(Error::Implausible { what, value });
    let missing = features.without(info.features());
    if !missing.is_empty() {
        return Err(Error::Unsupported { missing, offered: info.features() });
    }
    if info.queues() == 0 || info.queues() > asked.nr_hw_queues {
        return implausible("nr_hw_queues", info.queues().into());
    }
    if info.depth() != asked.queue_depth {
        return implausible("queue_depth", info.depth().into());
    }
    if info.max_io_bytes() == 0 || info.max_io_bytes() > asked.max_io_buf_bytes {
        return implausible("max_io_buf_bytes", info.max_io_bytes().into());
    }
    if features.contains(Features::IO_DESC_SIZE) && info.as_raw().io_desc_size != asked.io_desc_size {
        return implausible("io_desc_size", info.as_raw().io_desc_size.into());
    }
    if asked.dev_id != u32::MAX && info.id().raw() != asked.dev_id {
        return implausible("dev_id", info.id().raw().into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{CpuSet, check_added};
    use crate::control::Control;
    use crate::device_info::DeviceInfo;
    use crate::golden::Golden;
    use crate::ring::Ring;
    use crate::{Cache, DeviceId, Error, Fd, Features, NewDevice, Params, QueueId, Sectors, SharedIndex, SharedMemory};
    use core::time::Duration;
    use std::vec;
    use std::vec::Vec;
    use ublk_sys::ublksrv_ctrl_dev_info;

    fn asked() -> ublksrv_ctrl_dev_info {
        let mut info = ublksrv_ctrl_dev_info::default();
        (info.nr_hw_queues, info.queue_depth, info.max_io_buf_bytes, info.dev_id) = (4, 64, 1 << 20, u32::MAX);
        info
    }

    fn returned(change: impl FnOnce(&mut ublksrv_ctrl_dev_info)) -> DeviceInfo {
        let mut info = asked();
        info.dev_id = 3;
        change(&mut info);
        DeviceInfo::from_raw(info)
    }

    #[test]
    fn a_feature_that_was_dropped_in_silence_is_an_error_that_names_it() {
        let asked_features = Features::USER_COPY | Features::QUIESCE;
        let info = returned(|info| info.flags = Features::USER_COPY.bits());
        assert_eq!(
            check_added(&asked(), &info, asked_features),
            Err(Error::Unsupported { missing: Features::QUIESCE, offered: Features::USER_COPY })
        );
    }

    #[test]
    fn fewer_queues_are_taken_and_more_are_not() {
        assert!(check_added(&asked(), &returned(|info| info.nr_hw_queues = 2), Features::NONE).is_ok());
        assert!(check_added(&asked(), &returned(|info| info.nr_hw_queues = 5), Features::NONE).is_err());
        assert!(check_added(&asked(), &returned(|info| info.nr_hw_queues = 0), Features::NONE).is_err());
        assert!(check_added(&asked(), &returned(|info| info.queue_depth = 65), Features::NONE).is_err());
        assert!(check_added(&asked(), &returned(|info| info.max_io_buf_bytes = 2 << 20), Features::NONE).is_err());
        let mut larger = asked();
        (larger.io_desc_size, larger.flags) = (64, Features::IO_DESC_SIZE.bits());
        let given = |bytes| {
            let info = returned(|info| (info.io_desc_size, info.flags) = (bytes, Features::IO_DESC_SIZE.bits()));
            check_added(&larger, &info, Features::IO_DESC_SIZE)
        };
        assert_eq!(given(64), Ok(()));
        assert!(given(24).is_err());
    }

    #[test]
    fn a_cpu_mask_is_read_bit_by_bit() {
        let mut set = CpuSet { bytes: [0; 1024] };
        set.bytes[..8].copy_from_slice(&(1_u64 << 63 | 0b101).to_le_bytes());
        if cfg!(target_endian = "little") {
            assert_eq!(set.iter().collect::<Vec<_>>(), [0, 2, 63]);
        }
        assert!(!set.contains(8192));
    }

    /// What the crate puts into its ring and its buffer for one command.
    fn sent<T>(send: impl FnOnce(&mut Control) -> Result<T, Error>) -> [Vec<u8>; 2] {
        let mut control = Control {
            ring: Ring::fake(),
            fd: Fd::open(c"/dev/null").unwrap(),
            buffer: core::mem::ManuallyDrop::new(crate::mapping::Mapping::anonymous(8192).unwrap()),
            lent: false,
            serial: 1,
            patience: Duration::ZERO,
            start_patience: Duration::ZERO,
            stop_patience: Duration::ZERO,
            offered: None,
            last: None,
            unprivileged: None,
        };
        // Nobody serves the ring.
        assert!(matches!(send(&mut control), Err(Error::System { .. })));
        let sqe: Vec<u8> = control.ring.staged_bytes().concat();
        assert_eq!(sqe[4..8], control.fd.raw().to_ne_bytes());
        let mut buffer = vec![0; u16::from_ne_bytes([sqe[54], sqe[55]]).into()];
        if !buffer.is_empty() {
            let address = u64::from_ne_bytes(sqe[56..64].try_into().unwrap());
            let offset = usize::try_from(address - control.buffer.address(0, 1).unwrap()).unwrap();
            control.buffer.read_bytes(offset, &mut buffer).unwrap();
        }
        [sqe, buffer]
    }

    #[test]
    fn a_command_to_an_unprivileged_device_has_the_path_of_its_node_in_front_of_what_it_lends() {
        let id = DeviceId::new(1_048_575);
        for other in [None, Some(DeviceId::new(7))] {
            let [sqe, buffer] = sent(|control| {
                control.set_unprivileged(other);
                control.stop(id)
            });
            assert_eq!((&sqe[54..56], &sqe[72..74], buffer.len()), (&[0, 0][..], &[0, 0][..], 0));
        }
        let path = b"/dev/ublkc1048575\0";
        let [sqe, buffer] = sent(|control| {
            control.set_unprivileged(Some(id));
            control.stop(id)
        });
        assert_eq!((&*buffer, &sqe[72..74]), (&path[..], &[18, 0][..]));
        let [sqe, buffer] = sent(|control| {
            control.set_unprivileged(Some(id));
            control.params(id)
        });
        assert_eq!((&buffer[..18], &sqe[72..74]), (&path[..], &[18, 0][..]));
        assert_eq!(buffer.len(), 18 + size_of::<ublk_sys::ublk_params>());
        // The payload, which says its own length, right behind the path.
        assert_eq!(buffer[18..22], u32::try_from(size_of::<ublk_sys::ublk_params>()).unwrap().to_ne_bytes());
        // A path of one's own stays.
        let [_, buffer] = sent(|control| {
            control.set_unprivileged(Some(id));
            control.info_at(id, c"/dev/other")
        });
        assert!(buffer.starts_with(b"/dev/other\0"));
    }

    macro_rules! assert_golden {
        ($name:literal, $send:expr) => {
            let golden = Golden::parse(include_str!(concat!("../../../tests/goldens/UBLK_U_CMD_", $name, ".txt")));
            let [sqe, buffer] = sent($send);
            assert_eq!(Golden::compare(&golden.sqe, &sqe), Ok(()), $name);
            assert_eq!(Golden::compare(&golden.buffer, &buffer), Ok(()), $name);
        };
    }

    #[test]
    #[cfg_attr(not(target_endian = "little"), ignore = "the goldens are those of a little-endian machine")]
    fn each_command_in_the_ring_is_the_golden_that_a_driver_has_accepted() {
        const ID: DeviceId = DeviceId::new(0x1234);
        let device = NewDevice::new().id(ID).depth(4).features(Features::UPDATE_SIZE | Features::NO_AUTO_PART_SCAN);
        let asked = device.checked().unwrap();
        let params = Params::new(Sectors::new(0x40000), Cache::VolatileWithFua)
            .discard(4096, Sectors::new(0x800))
            .write_zeroes(Sectors::new(0x1000));
        assert_golden!("GET_FEATURES", Control::features);
        assert_golden!("ADD_DEV", |control| control.add_once(device.asked_id(), asked));
        assert_golden!("SET_PARAMS", |control| control.set_params(&DeviceInfo::from_raw(asked), &params));
        assert_golden!("GET_PARAMS", |control| control.params(ID));
        assert_golden!("GET_DEV_INFO", |control| control.info(ID));
        assert_golden!("GET_DEV_INFO2", |control| control.info_at(ID, c"/dev/ublkc4660"));
        assert_golden!("GET_QUEUE_AFFINITY", |control| control.queue_affinity(ID, QueueId::new(0)));
        assert_golden!("START_DEV", |control| control.start(ID));
        assert_golden!("STOP_DEV", |control| control.stop(ID));
        assert_golden!("DEL_DEV", |control| control.delete(ID));
        assert_golden!("DEL_DEV_ASYNC", |control| control.delete_async(ID));
        let memory = SharedMemory::new(0x10000).unwrap();
        assert_golden!("REG_BUF", |control| control.register_shared(ID, &memory));
        assert_golden!("UNREG_BUF", |control| control.unregister_shared(ID, SharedIndex::new(0)));
        let [_, mut sent_for] = sent(|control| control.register_shared(ID, &memory));
        assert_eq!(sent_for[..8], memory.address().unwrap().to_ne_bytes());
        let reader = SharedMemory::read_only(memory.fd().try_clone().unwrap()).unwrap();
        [_, sent_for] = sent(|control| control.register_shared(ID, &reader));
        assert_eq!(sent_for[16..24], [1, 0, 0, 0, 0, 0, 0, 0]);
        let [start, _] = sent(|control| control.start(ID));
        assert_eq!(start[64..72], u64::from(std::process::id()).to_ne_bytes());
    }
}
