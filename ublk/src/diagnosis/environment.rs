// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is known beside a command.

use crate::device_info::DeviceInfo;
use crate::features::Features;

/// What is known of the machine, the device and the process beside a command that was refused.
///
/// `None` is "not known", and all of it is, in [`Environment::default`]: the more is filled in, the fewer causes are left. This
/// module looks at nothing itself. It can be filled before or after the refusal, as long as it says what was so when the command was sent.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Environment<'e> {
    /// What the command's buffer (`cmd.addr`, for batches `sqe.addr`) held when it was sent, the path in front included. Empty is "not
    /// known".
    pub buffer: &'e [u8],
    /// The kernel's release, its first two numbers.
    pub kernel: Option<(u16, u16)>,
    /// The features that the driver offers (`GET_FEATURES`).
    pub offered: Option<Features>,
    /// The device that the command is for (`GET_DEV_INFO`).
    pub device: Option<DeviceInfo>,
    /// Whether there is a device of the id in the command.
    pub device_exists: Option<bool>,
    /// Which parameters the driver has for the device (`types` of `GET_PARAMS`).
    pub params_types: Option<u32>,
    /// The process that opened the char device: its thread group's id, as the process that sent the command sees it.
    pub server_process: Option<u32>,
    /// Whether a process has the char device open.
    pub char_device_is_open: Option<bool>,
    /// Whether a process has the block device open, the one of before a stop included.
    pub block_device_is_open: Option<bool>,
    /// Whether the server has a request that it has not answered (`/sys/block/ublkbN/inflight`).
    pub requests_are_held: Option<bool>,
    /// Whether the device was stopped since its char device was opened.
    pub was_stopped: Option<bool>,
    /// What the tag of an I/O command was doing.
    pub tag: Option<TagState>,
    /// Whether every tag of every queue was fetched.
    pub queues_are_ready: Option<bool>,
    /// Whether the thread that sent an I/O command is the tag's daemon: the one that fetched it.
    pub is_daemon: Option<bool>,
    /// Whether the ring's entries have 128 bytes (`IORING_SETUP_SQE128`).
    pub entries_are_wide: Option<bool>,
    /// Whether the ring polls (`IORING_SETUP_IOPOLL`).
    pub ring_polls: Option<bool>,
    /// Whether the ring is restricted (`IORING_REGISTER_RESTRICTIONS`).
    pub ring_is_restricted: Option<bool>,
    /// The entries of the ring's table of buffers (`IORING_REGISTER_BUFFERS2`); 0 is no table.
    pub ring_buffers: Option<u32>,
    /// Whether the descriptor is one of ublk's, the control device or a char device.
    pub fd_is_ublk: Option<bool>,
    /// Whether the process has `CAP_SYS_ADMIN` in the initial user namespace.
    pub cap_sys_admin: Option<bool>,
    /// Whether the process has `CAP_IPC_LOCK`.
    pub cap_ipc_lock: Option<bool>,
    /// Sysctl `kernel.io_uring_disabled`.
    pub io_uring_disabled: Option<u8>,
    /// Whether the process is in the group of sysctl `kernel.io_uring_group`.
    pub in_io_uring_group: Option<bool>,
    /// Whether the process has a seccomp filter.
    pub seccomp_filter: Option<bool>,
    /// Whether the kernel has io_uring (`CONFIG_IO_URING`).
    pub io_uring_built: Option<bool>,
    /// Whether the kernel has the driver, loaded or as a module (`CONFIG_BLK_DEV_UBLK`).
    pub driver_built: Option<bool>,
    /// Whether the driver is loaded.
    pub driver_loaded: Option<bool>,
    /// Whether the driver takes commands as before Linux 6.4 (`CONFIG_BLKDEV_UBLK_LEGACY_OPCODES`).
    pub legacy_opcodes: Option<bool>,
    /// Whether the kernel has zoned block devices (`CONFIG_BLK_DEV_ZONED`).
    pub zoned_built: Option<bool>,
    /// What is at `/dev/ublk-control`.
    pub control_node: Option<Node>,
    /// What is at `/dev/ublkcN`.
    pub char_node: Option<Node>,
    /// How many unprivileged devices there are.
    pub unprivileged_devices: Option<u32>,
    /// How many there may be: the driver's module parameter `ublks_max`.
    pub unprivileged_devices_max: Option<u32>,
    /// How many descriptors the process may still open.
    pub free_descriptors: Option<u64>,
    /// How many bytes the process may lock (`RLIMIT_MEMLOCK`).
    pub memlock_bytes: Option<u64>,
    /// Bytes of a page, a power of two; 4096 where not known.
    pub page_bytes: Option<u32>,
}

static_assertions::assert_impl_all!(Environment<'static>: Send, Sync);

/// What is at the path of a device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Node {
    /// Nothing.
    Missing,
    /// Something else: not a character device, or one of other numbers.
    NotOurs,
    /// The node, which this process may not open.
    Forbidden,
    /// The node, which this process may open.
    Usable,
}

static_assertions::assert_impl_all!(Node: Send, Sync);

/// What a tag is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TagState {
    /// It was never fetched, or its fetch has ended with the device.
    Idle,
    /// It was fetched, and waits in the driver for a request.
    Fetching,
    /// The server has its request.
    Owned,
    /// The server has a WRITE of it without the data, and owes `NEED_GET_DATA` (result 1).
    WantsBuffer,
}

static_assertions::assert_impl_all!(TagState: Send, Sync);
