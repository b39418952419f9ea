// SPDX-License-Identifier: MIT OR Apache-2.0
//! `include/uapi/linux/ublk_cmd.h`, whole and in header order.

use crate::ioctl::{_IOR, _IOWR, OWN_SPLIT};
use crate::layout::{Table, assert_layout, constants};

constants! { RAW_CONTROL_COMMANDS:
    /// Raw number of [`UBLK_U_CMD_GET_QUEUE_AFFINITY`]. A raw number is refused by a driver built without
    /// `CONFIG_BLKDEV_UBLK_LEGACY_OPCODES`.
    pub const UBLK_CMD_GET_QUEUE_AFFINITY: u32 = 0x01, since "6.0";
    /// Raw number of [`UBLK_U_CMD_GET_DEV_INFO`].
    pub const UBLK_CMD_GET_DEV_INFO: u32 = 0x02, since "6.0";
    /// Raw number of [`UBLK_U_CMD_ADD_DEV`].
    pub const UBLK_CMD_ADD_DEV: u32 = 0x04, since "6.0";
    /// Raw number of [`UBLK_U_CMD_DEL_DEV`].
    pub const UBLK_CMD_DEL_DEV: u32 = 0x05, since "6.0";
    /// Raw number of [`UBLK_U_CMD_START_DEV`].
    pub const UBLK_CMD_START_DEV: u32 = 0x06, since "6.0";
    /// Raw number of [`UBLK_U_CMD_STOP_DEV`].
    pub const UBLK_CMD_STOP_DEV: u32 = 0x07, since "6.0";
    /// Raw number of [`UBLK_U_CMD_SET_PARAMS`].
    pub const UBLK_CMD_SET_PARAMS: u32 = 0x08, since "6.0";
    /// Raw number of [`UBLK_U_CMD_GET_PARAMS`].
    pub const UBLK_CMD_GET_PARAMS: u32 = 0x09, since "6.0";
    /// Raw number of [`UBLK_U_CMD_START_USER_RECOVERY`].
    pub const UBLK_CMD_START_USER_RECOVERY: u32 = 0x10, since "6.1";
    /// Raw number of [`UBLK_U_CMD_END_USER_RECOVERY`].
    pub const UBLK_CMD_END_USER_RECOVERY: u32 = 0x11, since "6.1";
    /// Raw number of [`UBLK_U_CMD_GET_DEV_INFO2`].
    pub const UBLK_CMD_GET_DEV_INFO2: u32 = 0x12, since "6.3";
}

constants! { CONTROL_COMMANDS:
    /// Writes the CPU mask of the queue `data[0]` to the buffer.
    pub const UBLK_U_CMD_GET_QUEUE_AFFINITY: u32 =
        _IOR::<ublksrv_ctrl_cmd>(b'u', UBLK_CMD_GET_QUEUE_AFFINITY), since "6.4";
    /// Writes the device's [`ublksrv_ctrl_dev_info`] to the buffer.
    pub const UBLK_U_CMD_GET_DEV_INFO: u32 = _IOR::<ublksrv_ctrl_cmd>(b'u', UBLK_CMD_GET_DEV_INFO), since "6.4";
    /// Makes the char device that the [`ublksrv_ctrl_dev_info`] in the buffer describes, and writes back what it
    /// became.
    pub const UBLK_U_CMD_ADD_DEV: u32 = _IOWR::<ublksrv_ctrl_cmd>(b'u', UBLK_CMD_ADD_DEV), since "6.4";
    /// Deletes the device, after stopping it if it runs, and waits until its number is free.
    pub const UBLK_U_CMD_DEL_DEV: u32 = _IOWR::<ublksrv_ctrl_cmd>(b'u', UBLK_CMD_DEL_DEV), since "6.4";
    /// Makes the block device, once every tag was fetched. `data[0]` is the ublk server's pid.
    pub const UBLK_U_CMD_START_DEV: u32 = _IOWR::<ublksrv_ctrl_cmd>(b'u', UBLK_CMD_START_DEV), since "6.4";
    /// Removes the block device and ends every I/O command with [`UBLK_IO_RES_ABORT`].
    pub const UBLK_U_CMD_STOP_DEV: u32 = _IOWR::<ublksrv_ctrl_cmd>(b'u', UBLK_CMD_STOP_DEV), since "6.4";
    /// Sets the parameters, a [`ublk_params`] in the buffer, of a device that does not run.
    pub const UBLK_U_CMD_SET_PARAMS: u32 = _IOWR::<ublksrv_ctrl_cmd>(b'u', UBLK_CMD_SET_PARAMS), since "6.4";
    /// Writes the device's [`ublk_params`] to the buffer, as far as `ublk_params.len` there allows.
    pub const UBLK_U_CMD_GET_PARAMS: u32 = _IOR::<ublksrv_ctrl_cmd>(b'u', UBLK_CMD_GET_PARAMS), since "6.4";
    /// Makes a device whose ublk server has gone ready for another.
    pub const UBLK_U_CMD_START_USER_RECOVERY: u32 =
        _IOWR::<ublksrv_ctrl_cmd>(b'u', UBLK_CMD_START_USER_RECOVERY), since "6.4";
    /// Lets I/O flow again, once the new ublk server fetched every tag. `data[0]` is its pid.
    pub const UBLK_U_CMD_END_USER_RECOVERY: u32 =
        _IOWR::<ublksrv_ctrl_cmd>(b'u', UBLK_CMD_END_USER_RECOVERY), since "6.4";
    /// [`UBLK_U_CMD_GET_DEV_INFO`] for a device with [`UBLK_F_UNPRIVILEGED_DEV`]: the buffer starts with its path.
    pub const UBLK_U_CMD_GET_DEV_INFO2: u32 = _IOR::<ublksrv_ctrl_cmd>(b'u', UBLK_CMD_GET_DEV_INFO2), since "6.4";
    /// Writes the driver's `UBLK_F_*` bits, [`UBLK_FEATURES_LEN`] bytes, to the buffer. Needs no device.
    pub const UBLK_U_CMD_GET_FEATURES: u32 = _IOR::<ublksrv_ctrl_cmd>(b'u', 0x13), since "6.5";
    /// [`UBLK_U_CMD_DEL_DEV`] without the wait.
    pub const UBLK_U_CMD_DEL_DEV_ASYNC: u32 = _IOR::<ublksrv_ctrl_cmd>(b'u', 0x14), since "6.9";
    /// Makes the block device `data[0]` sectors large.
    pub const UBLK_U_CMD_UPDATE_SIZE: u32 = _IOWR::<ublksrv_ctrl_cmd>(b'u', 0x15), since "6.16";
    /// Takes a running device from its ublk server, so that another can recover it. `data[0]` is a timeout in
    /// milliseconds.
    pub const UBLK_U_CMD_QUIESCE_DEV: u32 = _IOWR::<ublksrv_ctrl_cmd>(b'u', 0x16), since "6.16";
    /// [`UBLK_U_CMD_STOP_DEV`], unless somebody has the block device open.
    pub const UBLK_U_CMD_TRY_STOP_DEV: u32 = _IOWR::<ublksrv_ctrl_cmd>(b'u', 0x17), since "7.0";
    /// Registers the shared memory that the [`ublk_shmem_buf_reg`] in the buffer names; the result is its index. The
    /// driver pins its pages. A request whose pages all lie in such memory is delivered with [`UBLK_IO_F_SHMEM_ZC`].
    pub const UBLK_U_CMD_REG_BUF: u32 = _IOWR::<ublksrv_ctrl_cmd>(b'u', 0x18), since "7.1";
    /// Unregisters the shared memory of index `data[0]`.
    pub const UBLK_U_CMD_UNREG_BUF: u32 = _IOWR::<ublksrv_ctrl_cmd>(b'u', 0x19), since "7.1";
}

/// Argument of [`UBLK_U_CMD_REG_BUF`], in its buffer (`struct ublk_shmem_buf_reg`).
///
/// Since Linux 7.1.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ublk_shmem_buf_reg {
    /// Where the calling process has the memory mapped.
    pub addr: u64,
    /// Its length in bytes, a multiple of the page size.
    pub len: u64,
    /// Bits of `UBLK_SHMEM_BUF_*`.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}
assert_layout!(ublk_shmem_buf_reg, since = "7.1", size = 24, align = 8, {
    addr: u64 = 0, len: u64 = 8, flags: u32 = 16, reserved: u32 = 20,
});

constants! { CONTROL_VALUES:
    /// Bit of `ublk_shmem_buf_reg.flags`: the driver only reads the memory, which may be sealed against writes.
    pub const UBLK_SHMEM_BUF_READ_ONLY: u32 = 1 << 0, since "7.1";
    /// Bytes that [`UBLK_U_CMD_GET_FEATURES`] writes.
    pub const UBLK_FEATURES_LEN: u16 = 8, since "6.5";
}

// One command of each kind, spelled out.
static_assertions::const_assert_eq!(UBLK_U_CMD_ADD_DEV, 0xc020_7504);
static_assertions::const_assert_eq!(UBLK_U_CMD_GET_FEATURES, if OWN_SPLIT { 0x4020_7513 } else { 0x8020_7513 });
static_assertions::const_assert_eq!(UBLK_U_IO_FETCH_REQ, 0xc010_7520);
static_assertions::const_assert_eq!(UBLK_U_IO_FETCH_IO_CMDS, 0xc010_7527);

constants! { RAW_IO_COMMANDS:
    /// Raw number of [`UBLK_U_IO_FETCH_REQ`].
    pub const UBLK_IO_FETCH_REQ: u32 = 0x20, since "6.0";
    /// Raw number of [`UBLK_U_IO_COMMIT_AND_FETCH_REQ`].
    pub const UBLK_IO_COMMIT_AND_FETCH_REQ: u32 = 0x21, since "6.0";
    /// Raw number of [`UBLK_U_IO_NEED_GET_DATA`].
    pub const UBLK_IO_NEED_GET_DATA: u32 = 0x22, since "6.0";
}

constants! { IO_COMMANDS:
    /// Asks for the first request of a tag; completes when there is one. Once for each tag before the device starts.
    pub const UBLK_U_IO_FETCH_REQ: u32 = _IOWR::<ublksrv_io_cmd>(b'u', UBLK_IO_FETCH_REQ), since "6.4";
    /// Answers a tag's request and asks for the next; completes when there is one.
    pub const UBLK_U_IO_COMMIT_AND_FETCH_REQ: u32 =
        _IOWR::<ublksrv_io_cmd>(b'u', UBLK_IO_COMMIT_AND_FETCH_REQ), since "6.4";
    /// With [`UBLK_F_NEED_GET_DATA`]: names the buffer for a write request's data and completes once it was copied
    /// there.
    pub const UBLK_U_IO_NEED_GET_DATA: u32 = _IOWR::<ublksrv_io_cmd>(b'u', UBLK_IO_NEED_GET_DATA), since "6.4";
    /// Puts a request's pages in entry `ublksrv_io_cmd.addr` of the ring's buffer table.
    pub const UBLK_U_IO_REGISTER_IO_BUF: u32 = _IOWR::<ublksrv_io_cmd>(b'u', 0x23), since "6.15";
    /// Empties entry `ublksrv_io_cmd.addr` of the ring's buffer table.
    pub const UBLK_U_IO_UNREGISTER_IO_BUF: u32 = _IOWR::<ublksrv_io_cmd>(b'u', 0x24), since "6.15";
    /// Batch: makes the tags in the buffer known to the driver. The result is 0 or a negative errno.
    pub const UBLK_U_IO_PREP_IO_CMDS: u32 = _IOWR::<ublk_batch_io>(b'u', 0x25), since "7.0";
    /// Batch: answers the requests in the buffer. The result is how many of its bytes were handled, which may be
    /// fewer than all, or a negative errno if none were.
    pub const UBLK_U_IO_COMMIT_IO_CMDS: u32 = _IOWR::<ublk_batch_io>(b'u', 0x26), since "7.0";
    /// Batch: asks for requests, whose tags come in provided buffers. Must have `IORING_URING_CMD_MULTISHOT`.
    pub const UBLK_U_IO_FETCH_IO_CMDS: u32 = _IOWR::<ublk_batch_io>(b'u', 0x27), since "7.0";
}

constants! { IO_VALUES:
    /// Result of an I/O command: there is a request.
    pub const UBLK_IO_RES_OK: i32 = 0, since "6.0";
    /// Result of an I/O command: there is a write request, whose data must be asked for.
    pub const UBLK_IO_RES_NEED_GET_DATA: i32 = 1, since "6.0";
    /// Result of an I/O command: the device stops, fetch no more. `-ENODEV`.
    pub const UBLK_IO_RES_ABORT: i32 = -19, since "6.0";

    /// Offset in `/dev/ublkcN` at which queue 0's I/O descriptors are mapped.
    pub const UBLKSRV_CMD_BUF_OFFSET: u64 = 0, since "6.0";
    /// Offset in `/dev/ublkcN` of the first request's data, for [`UBLK_F_USER_COPY`].
    pub const UBLKSRV_IO_BUF_OFFSET: u64 = 0x8000_0000, since "6.0";

    /// Most tags that a queue can have.
    pub const UBLK_MAX_QUEUE_DEPTH: u16 = 4096, since "6.0";

    /// First bit of the byte within a request's data, in an offset into `/dev/ublkcN`.
    pub const UBLK_IO_BUF_OFF: u32 = 0, since "6.5";
    /// Bits of the byte within a request's data: it is at most 32 MiB.
    pub const UBLK_IO_BUF_BITS: u32 = 25, since "6.5";
    /// The byte within a request's data, before its shift.
    pub const UBLK_IO_BUF_BITS_MASK: u64 = (1 << UBLK_IO_BUF_BITS) - 1, since "6.5";
    /// First bit of the tag, in an offset into `/dev/ublkcN`.
    pub const UBLK_TAG_OFF: u32 = UBLK_IO_BUF_BITS, since "6.5";
    /// Bits of the tag.
    pub const UBLK_TAG_BITS: u32 = 16, since "6.5";
    /// The tag, before its shift.
    pub const UBLK_TAG_BITS_MASK: u64 = (1 << UBLK_TAG_BITS) - 1, since "6.5";
    /// First bit of the queue, in an offset into `/dev/ublkcN`.
    pub const UBLK_QID_OFF: u32 = UBLK_TAG_OFF + UBLK_TAG_BITS, since "6.5";
    /// Bits of the queue.
    pub const UBLK_QID_BITS: u32 = 12, since "6.5";
    /// The queue, before its shift.
    pub const UBLK_QID_BITS_MASK: u64 = (1 << UBLK_QID_BITS) - 1, since "6.5";
    /// Most queues that a device can have.
    pub const UBLK_MAX_NR_QUEUES: u16 = 1 << UBLK_QID_BITS, since "6.5";
    /// Bits of byte, tag and queue together.
    pub const UBLKSRV_IO_BUF_TOTAL_BITS: u32 = UBLK_QID_OFF + UBLK_QID_BITS, since "6.5";
    /// How much of `/dev/ublkcN`, from [`UBLKSRV_IO_BUF_OFFSET`] on, is requests' data.
    pub const UBLKSRV_IO_BUF_TOTAL_SIZE: u64 = 1 << UBLKSRV_IO_BUF_TOTAL_BITS, since "6.5";
    /// Bit of [`UBLKSRV_IO_INTEGRITY_FLAG`].
    pub const UBLK_INTEGRITY_FLAG_OFF: u32 = 62, since "7.0";
    /// Added to an offset into `/dev/ublkcN`, it means the request's integrity metadata instead of its data.
    pub const UBLKSRV_IO_INTEGRITY_FLAG: u64 = 1 << UBLK_INTEGRITY_FLAG_OFF, since "7.0";
}

constants! { FEATURES:
    /// A request's pages can be put in the ring's buffer table, and I/O be done on them there. The ublk server itself
    /// never sees the data. Drivers before 6.15 know the bit and clear it. Not with [`UBLK_F_UNPRIVILEGED_DEV`].
    pub const UBLK_F_SUPPORT_ZERO_COPY: u64 = 1 << 0, since "6.0";
    /// I/O commands complete in task work of the daemon. Always on.
    pub const UBLK_F_URING_CMD_COMP_IN_TASK: u64 = 1 << 1, since "6.0";
    /// A write request is announced first; its data is copied when [`UBLK_U_IO_NEED_GET_DATA`] asks for it.
    pub const UBLK_F_NEED_GET_DATA: u64 = 1 << 2, since "6.0";
    /// The device outlives its ublk server: requests that the server held fail, later ones wait for the next server.
    pub const UBLK_F_USER_RECOVERY: u64 = 1 << 3, since "6.1";
    /// With [`UBLK_F_USER_RECOVERY`]: requests that the server held are sent again to the next one.
    pub const UBLK_F_USER_RECOVERY_REISSUE: u64 = 1 << 4, since "6.1";
    /// The device belongs to the user who added it, who needs no privileges to control it. Each control command but
    /// [`UBLK_U_CMD_ADD_DEV`] proves that with the path of the char device in front of its buffer.
    pub const UBLK_F_UNPRIVILEGED_DEV: u64 = 1 << 5, since "6.3";
    /// Commands are ioctl-encoded (`UBLK_U_*`). Always on.
    pub const UBLK_F_CMD_IOCTL_ENCODE: u64 = 1 << 6, since "6.4";
    /// Data is moved by `pread` and `pwrite` on the char device. Not with [`UBLK_F_UNPRIVILEGED_DEV`].
    pub const UBLK_F_USER_COPY: u64 = 1 << 7, since "6.5";
    /// The block device is zoned.
    pub const UBLK_F_ZONED: u64 = 1 << 8, since "6.6";
    /// With [`UBLK_F_USER_RECOVERY`]: while there is no ublk server, requests fail instead of waiting.
    pub const UBLK_F_USER_RECOVERY_FAIL_IO: u64 = 1 << 9, since "6.13";
    /// The driver has [`UBLK_U_CMD_UPDATE_SIZE`].
    pub const UBLK_F_UPDATE_SIZE: u64 = 1 << 10, since "6.16";
    /// The driver itself puts a request's pages in the ring's buffer table before it delivers the request, and takes
    /// them out when the request is answered. The SQE's `addr` says where: a [`ublk_auto_buf_reg`].
    pub const UBLK_F_AUTO_BUF_REG: u64 = 1 << 11, since "6.16";
    /// The driver has [`UBLK_U_CMD_QUIESCE_DEV`]. Needs [`UBLK_F_USER_RECOVERY`].
    pub const UBLK_F_QUIESCE: u64 = 1 << 12, since "6.16";
    /// Each tag has a daemon of its own; without it, one daemon fetches all tags of a queue.
    pub const UBLK_F_PER_IO_DAEMON: u64 = 1 << 13, since "6.16";
    /// [`UBLK_U_IO_REGISTER_IO_BUF`] and [`UBLK_U_IO_UNREGISTER_IO_BUF`] may come from any task, and the latter
    /// needs no
    /// queue and tag. Without it both are for the tag's daemon.
    pub const UBLK_F_BUF_REG_OFF_DAEMON: u64 = 1 << 14, since "6.17";
    /// I/O commands come in batches: [`UBLK_U_IO_PREP_IO_CMDS`], [`UBLK_U_IO_COMMIT_IO_CMDS`] and
    /// [`UBLK_U_IO_FETCH_IO_CMDS`] take the place of the three for one tag.
    pub const UBLK_F_BATCH_IO: u64 = 1 << 15, since "7.0";
    /// Requests may have integrity metadata. Needs [`UBLK_F_USER_COPY`].
    pub const UBLK_F_INTEGRITY: u64 = 1 << 16, since "7.0";
    /// The driver has [`UBLK_U_CMD_TRY_STOP_DEV`].
    pub const UBLK_F_SAFE_STOP_DEV: u64 = 1 << 17, since "7.0";
    /// The new block device is not searched for partitions.
    pub const UBLK_F_NO_AUTO_PART_SCAN: u64 = 1 << 18, since "7.0";
    /// The driver has [`UBLK_U_CMD_REG_BUF`]; a request in registered memory comes with [`UBLK_IO_F_SHMEM_ZC`].
    pub const UBLK_F_SHMEM_ZC: u64 = 1 << 19, since "7.1";
    /// I/O descriptors stand `ublksrv_ctrl_dev_info.io_desc_size` bytes apart.
    pub const UBLK_F_IO_DESC_SIZE: u64 = 1 << 20, since "7.3";
}

constants! { STATES:
    /// `ublksrv_ctrl_dev_info.state`: there is no block device.
    pub const UBLK_S_DEV_DEAD: u16 = 0, since "6.0";
    /// `ublksrv_ctrl_dev_info.state`: requests are served.
    pub const UBLK_S_DEV_LIVE: u16 = 1, since "6.0";
    /// `ublksrv_ctrl_dev_info.state`: the ublk server has gone and requests wait.
    pub const UBLK_S_DEV_QUIESCED: u16 = 2, since "6.1";
    /// `ublksrv_ctrl_dev_info.state`: the ublk server has gone and requests fail.
    pub const UBLK_S_DEV_FAIL_IO: u16 = 3, since "6.13";
}

/// One control command, issued to `/dev/ublk-control` in the 80-byte command area of a 128-byte SQE
/// (`struct ublksrv_ctrl_cmd`).
///
/// Since Linux 6.0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ublksrv_ctrl_cmd {
    /// Number of the device; for [`UBLK_U_CMD_ADD_DEV`] `u32::MAX` lets the driver choose.
    pub dev_id: u32,
    /// `u16::MAX`. Only [`UBLK_U_CMD_ADD_DEV`] looks at it, and refuses anything else.
    pub queue_id: u16,
    /// Bytes at `addr`, a path in front of them included.
    pub len: u16,
    /// Address of the command's buffer, which the driver reads or writes.
    pub addr: u64,
    /// An argument that needs no buffer.
    pub data: [u64; 1],
    /// With [`UBLK_F_UNPRIVILEGED_DEV`] and for [`UBLK_U_CMD_GET_DEV_INFO2`]: bytes at `addr` that are the path of
    /// the char
    /// device, its NUL included.
    pub dev_path_len: u16,
    /// Zero.
    pub pad: u16,
    /// Zero.
    pub reserved: u32,
}
assert_layout!(ublksrv_ctrl_cmd, since = "6.0", size = 32, align = 8, {
    dev_id: u32 = 0, queue_id: u16 = 4, len: u16 = 6, addr: u64 = 8,
    data: [u64; 1] = 16 => ["data": [u64; 1] = 16 since "6.3", "data": [u64; 2] = 16 until "6.3"],
    dev_path_len: u16 = 24 => ["dev_path_len": u16 = 24 since "6.3"],
    pad: u16 = 26 => ["pad": u16 = 26 since "6.3"],
    reserved: u32 = 28 => ["reserved": u32 = 28 since "6.3"],
});

/// What a device is: the argument of [`UBLK_U_CMD_ADD_DEV`], answer of [`UBLK_U_CMD_GET_DEV_INFO`]
/// (`struct ublksrv_ctrl_dev_info`).
///
/// Since Linux 6.0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ublksrv_ctrl_dev_info {
    /// Queues. The driver lowers it to the number of CPUs.
    pub nr_hw_queues: u16,
    /// Tags in each queue, `1..=UBLK_MAX_QUEUE_DEPTH`.
    pub queue_depth: u16,
    /// One of `UBLK_S_DEV_*`. Written by the driver.
    pub state: u16,
    /// Bytes from one I/O descriptor to the next, if [`UBLK_F_IO_DESC_SIZE`] is set. `pad0` in C before Linux 7.3.
    pub io_desc_size: u16,
    /// Largest request, in bytes. The driver rounds it down to whole pages.
    pub max_io_buf_bytes: u32,
    /// Number of the device.
    pub dev_id: u32,
    /// Process that serves the device, or -1. Written by the driver.
    pub ublksrv_pid: i32,
    /// Zero.
    pub pad1: u32,
    /// Bits of `UBLK_F_*`: those asked for, then those granted.
    pub flags: u64,
    /// The ublk server's own; the driver keeps it and gives it back.
    pub ublksrv_flags: u64,
    /// User who added the device. Written by the driver.
    pub owner_uid: u32,
    /// Group of the user who added the device. Written by the driver.
    pub owner_gid: u32,
    /// Kept and given back.
    pub reserved1: u64,
    /// Kept and given back.
    pub reserved2: u64,
}
assert_layout!(ublksrv_ctrl_dev_info, since = "6.0", size = 64, align = 8, {
    nr_hw_queues: u16 = 0, queue_depth: u16 = 2, state: u16 = 4,
    io_desc_size: u16 = 6 => ["io_desc_size": u16 = 6 since "7.3", "pad0": u16 = 6 until "7.3"],
    max_io_buf_bytes: u32 = 8, dev_id: u32 = 12, ublksrv_pid: i32 = 16, pad1: u32 = 20, flags: u64 = 24,
    ublksrv_flags: u64 = 32,
    owner_uid: u32 = 40 => ["owner_uid": u32 = 40 since "6.3", "reserved0": u64 = 40 until "6.3"],
    owner_gid: u32 = 44 => ["owner_gid": u32 = 44 since "6.3"],
    reserved1: u64 = 48, reserved2: u64 = 56,
});

constants! { OPERATIONS:
    /// Read `nr_sectors` from `start_sector` on.
    pub const UBLK_IO_OP_READ: u8 = 0, since "6.0";
    /// Write `nr_sectors` from `start_sector` on.
    pub const UBLK_IO_OP_WRITE: u8 = 1, since "6.0";
    /// Make everything that was written durable.
    pub const UBLK_IO_OP_FLUSH: u8 = 2, since "6.0";
    /// The sectors' contents are needed no more.
    pub const UBLK_IO_OP_DISCARD: u8 = 3, since "6.0";
    /// Never sent.
    pub const UBLK_IO_OP_WRITE_SAME: u8 = 4, since "6.0";
    /// Write zeroes; with [`UBLK_IO_F_NOUNMAP`] keep the space allocated.
    pub const UBLK_IO_OP_WRITE_ZEROES: u8 = 5, since "6.0";
    /// Open the zone at `start_sector`.
    pub const UBLK_IO_OP_ZONE_OPEN: u8 = 10, since "6.6";
    /// Close the zone at `start_sector`.
    pub const UBLK_IO_OP_ZONE_CLOSE: u8 = 11, since "6.6";
    /// Make the zone at `start_sector` full.
    pub const UBLK_IO_OP_ZONE_FINISH: u8 = 12, since "6.6";
    /// Write at the write pointer of the zone at `start_sector`, and answer where that was.
    pub const UBLK_IO_OP_ZONE_APPEND: u8 = 13, since "6.6";
    /// Make every zone empty.
    pub const UBLK_IO_OP_ZONE_RESET_ALL: u8 = 14, since "6.6";
    /// Make the zone at `start_sector` empty.
    pub const UBLK_IO_OP_ZONE_RESET: u8 = 15, since "6.6";
    /// Report at most `nr_zones` zones from the one at `start_sector` on, as an array of
    /// [`blk_zone`](crate::blk_zone). An entry of zeroes ends a shorter report.
    pub const UBLK_IO_OP_REPORT_ZONES: u8 = 18, since "6.6";
}

constants! { REQUEST_FLAGS:
    /// Bit of `ublksrv_io_desc.op_flags`, where it stands (see [`ublksrv_get_flags`]): do not retry device errors.
    pub const UBLK_IO_F_FAILFAST_DEV: u32 = 1 << 8, since "6.0";
    /// Do not retry transport errors.
    pub const UBLK_IO_F_FAILFAST_TRANSPORT: u32 = 1 << 9, since "6.0";
    /// Do not retry driver errors.
    pub const UBLK_IO_F_FAILFAST_DRIVER: u32 = 1 << 10, since "6.0";
    /// The data is a file system's metadata.
    pub const UBLK_IO_F_META: u32 = 1 << 11, since "6.0";
    /// The write must be durable when it is answered.
    pub const UBLK_IO_F_FUA: u32 = 1 << 13, since "6.0";
    /// [`UBLK_IO_OP_WRITE_ZEROES`] must keep the space allocated.
    pub const UBLK_IO_F_NOUNMAP: u32 = 1 << 15, since "6.0";
    /// The data is swapped memory.
    pub const UBLK_IO_F_SWAP: u32 = 1 << 16, since "6.0";
    /// With [`UBLK_AUTO_BUF_REG_FALLBACK`]: the driver could not register the request's pages, the ublk server must.
    pub const UBLK_IO_F_NEED_REG_BUF: u32 = 1 << 17, since "6.16";
    /// The request has integrity metadata.
    pub const UBLK_IO_F_INTEGRITY: u32 = 1 << 18, since "7.0";
    /// The request's data lies in registered shared memory; `ublksrv_io_desc.addr` says where, see
    /// [`ublk_shmem_zc_index`] and [`ublk_shmem_zc_offset`].
    pub const UBLK_IO_F_SHMEM_ZC: u32 = 1 << 19, since "7.1";
}

/// One request, as the driver describes it in the memory that `/dev/ublkcN` maps (`struct ublksrv_io_desc`).
///
/// A queue's descriptors are an array by tag. Valid from a tag's fetch to its commit.
///
/// Since Linux 6.0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ublksrv_io_desc {
    /// One of `UBLK_IO_OP_*` in bits 0 to 7, and bits of `UBLK_IO_F_*`.
    pub op_flags: u32,
    /// Length in sectors. In C a union with `nr_zones`: for [`UBLK_IO_OP_REPORT_ZONES`], most zones to report.
    pub nr_sectors: u32,
    /// First sector.
    pub start_sector: u64,
    /// The buffer that the tag's last I/O command named; with [`UBLK_IO_F_SHMEM_ZC`] a place in shared memory.
    pub addr: u64,
}
assert_layout!(ublksrv_io_desc, since = "6.0", size = 24, align = 8, {
    op_flags: u32 = 0,
    nr_sectors: u32 = 4 => ["nr_sectors": u32 = 4, "nr_zones": u32 = 4 since "6.6"],
    start_sector: u64 = 8, addr: u64 = 16,
});

/// The request's operation, one of `UBLK_IO_OP_*`.
#[must_use]
pub const fn ublksrv_get_op(iod: &ublksrv_io_desc) -> u8 {
    iod.op_flags.to_le_bytes()[0]
}

/// The request's flags, shifted down by 8: not to be compared with `UBLK_IO_F_*`, which name bits of `op_flags`.
#[must_use]
pub const fn ublksrv_get_flags(iod: &ublksrv_io_desc) -> u32 {
    iod.op_flags >> 8
}

constants! { AUTO_BUF_REG:
    /// Bit of `ublk_auto_buf_reg.flags`: if the pages cannot be registered, deliver the request with
    /// [`UBLK_IO_F_NEED_REG_BUF`] instead of failing it.
    pub const UBLK_AUTO_BUF_REG_FALLBACK: u8 = 1 << 0, since "6.16";
    /// All bits of `ublk_auto_buf_reg.flags`.
    pub const UBLK_AUTO_BUF_REG_F_MASK: u8 = UBLK_AUTO_BUF_REG_FALLBACK, since "6.16";
}

/// Where [`UBLK_F_AUTO_BUF_REG`] registers a request's pages (`struct ublk_auto_buf_reg`). It travels in the SQE's
/// `addr`, see [`ublk_auto_buf_reg_to_sqe_addr`].
///
/// Since Linux 6.16.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ublk_auto_buf_reg {
    /// Entry of the ring's buffer table.
    pub index: u16,
    /// Bits of `UBLK_AUTO_BUF_REG_*`.
    pub flags: u8,
    /// Zero.
    pub reserved0: u8,
    /// Zero.
    pub reserved1: u32,
}
assert_layout!(ublk_auto_buf_reg, since = "6.16", size = 8, align = 4, {
    index: u16 = 0, flags: u8 = 2, reserved0: u8 = 3, reserved1: u32 = 4,
});

/// The [`ublk_auto_buf_reg`] in an SQE's `addr`: from its low bits up, in the order of the fields.
#[must_use]
pub const fn ublk_sqe_addr_to_auto_buf_reg(sqe_addr: u64) -> ublk_auto_buf_reg {
    let [i0, i1, flags, reserved0, r0, r1, r2, r3] = sqe_addr.to_le_bytes();
    ublk_auto_buf_reg {
        index: u16::from_le_bytes([i0, i1]),
        flags,
        reserved0,
        reserved1: u32::from_le_bytes([r0, r1, r2, r3]),
    }
}

/// The SQE's `addr` for a [`ublk_auto_buf_reg`].
#[must_use]
pub const fn ublk_auto_buf_reg_to_sqe_addr(buf: &ublk_auto_buf_reg) -> u64 {
    let [i0, i1] = buf.index.to_le_bytes();
    let [r0, r1, r2, r3] = buf.reserved1.to_le_bytes();
    u64::from_le_bytes([i0, i1, buf.flags, buf.reserved0, r0, r1, r2, r3])
}

/// One I/O command, issued to `/dev/ublkcN` in the 16-byte command area of an SQE (`struct ublksrv_io_cmd`).
///
/// Since Linux 6.0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ublksrv_io_cmd {
    /// Queue of the request, `0..nr_hw_queues`.
    pub q_id: u16,
    /// Slot of the request in its queue, `0..queue_depth`.
    pub tag: u16,
    /// Bytes done, or a negative errno. Read for [`UBLK_U_IO_COMMIT_AND_FETCH_REQ`] only.
    pub result: i32,
    /// Address of the ublk server's buffer; zero with [`UBLK_F_USER_COPY`]. In C a union with `zone_append_lba`: for an
    /// answer to [`UBLK_IO_OP_ZONE_APPEND`], the sector that was written.
    pub addr: u64,
}
assert_layout!(ublksrv_io_cmd, since = "6.0", size = 16, align = 8, {
    q_id: u16 = 0, tag: u16 = 2, result: i32 = 4,
    addr: u64 = 8 => ["addr": u64 = 8, "zone_append_lba": u64 = 8 since "6.6"],
});

/// Start of each element of a batch (`struct ublk_elem_header`). After it come, if the batch's flags say so, the
/// address of a buffer and the sector of a zone append, each a `u64`, in this order.
///
/// Since Linux 7.0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ublk_elem_header {
    /// Slot of the request in its queue.
    pub tag: u16,
    /// With [`UBLK_F_AUTO_BUF_REG`]: entry of the ring's buffer table for the next request's pages.
    pub buf_index: u16,
    /// Bytes done, or a negative errno. Read for [`UBLK_U_IO_COMMIT_IO_CMDS`] only.
    pub result: i32,
}
assert_layout!(ublk_elem_header, since = "7.0", size = 8, align = 4, {
    tag: u16 = 0, buf_index: u16 = 2, result: i32 = 4,
});

constants! { BATCH_FLAGS:
    /// Bit of `ublk_batch_io.flags`: each element has the sector of a zone append.
    pub const UBLK_BATCH_F_HAS_ZONE_LBA: u16 = 1 << 0, since "7.0";
    /// Bit of `ublk_batch_io.flags`: each element has the address of a buffer.
    pub const UBLK_BATCH_F_HAS_BUF_ADDR: u16 = 1 << 1, since "7.0";
    /// Bit of `ublk_batch_io.flags`: [`UBLK_AUTO_BUF_REG_FALLBACK`] for every element.
    pub const UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK: u16 = 1 << 2, since "7.0";
}

/// One batch command, issued to `/dev/ublkcN` in the 16-byte command area of an SQE (`struct ublk_batch_io`). The SQE's
/// `addr` is where its elements are.
///
/// Since Linux 7.0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ublk_batch_io {
    /// Queue of all the requests.
    pub q_id: u16,
    /// Bits of `UBLK_BATCH_F_*`.
    pub flags: u16,
    /// Elements.
    pub nr_elem: u16,
    /// Bytes of an element: 8, and 8 for each optional part.
    pub elem_bytes: u8,
    /// Zero.
    pub reserved: u8,
    /// Zero.
    pub reserved2: u64,
}
assert_layout!(ublk_batch_io, since = "7.0", size = 16, align = 8, {
    q_id: u16 = 0, flags: u16 = 2, nr_elem: u16 = 4, elem_bytes: u8 = 6, reserved: u8 = 7, reserved2: u64 = 8,
});

constants! { ATTRIBUTES:
    /// Bit of `ublk_param_basic.attrs`: the block device cannot be written.
    pub const UBLK_ATTR_READ_ONLY: u32 = 1 << 0, since "6.0";
    /// Bit of `ublk_param_basic.attrs`: seeks cost time.
    pub const UBLK_ATTR_ROTATIONAL: u32 = 1 << 1, since "6.0";
    /// Bit of `ublk_param_basic.attrs`: a write is durable after a flush only, so flushes are sent.
    pub const UBLK_ATTR_VOLATILE_CACHE: u32 = 1 << 2, since "6.0";
    /// Bit of `ublk_param_basic.attrs`: [`UBLK_IO_F_FUA`] is understood.
    pub const UBLK_ATTR_FUA: u32 = 1 << 3, since "6.0";
}

/// Size and block sizes (`struct ublk_param_basic`).
///
/// Since Linux 6.0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ublk_param_basic {
    /// Bits of `UBLK_ATTR_*`.
    pub attrs: u32,
    /// Logical block size, as a power of two.
    pub logical_bs_shift: u8,
    /// Physical block size, as a power of two.
    pub physical_bs_shift: u8,
    /// Optimal size of a request, as a power of two.
    pub io_opt_shift: u8,
    /// Smallest size of a request that costs nothing extra, as a power of two.
    pub io_min_shift: u8,
    /// Largest request, in sectors.
    pub max_sectors: u32,
    /// No request crosses a multiple of this many sectors; 0 for no such rule.
    pub chunk_sectors: u32,
    /// Size of the block device, in sectors.
    pub dev_sectors: u64,
    /// Segments of a request meet only where no bit of this is set; 0 for no such rule.
    pub virt_boundary_mask: u64,
}
assert_layout!(ublk_param_basic, since = "6.0", size = 32, align = 8, {
    attrs: u32 = 0, logical_bs_shift: u8 = 4, physical_bs_shift: u8 = 5, io_opt_shift: u8 = 6, io_min_shift: u8 = 7,
    max_sectors: u32 = 8, chunk_sectors: u32 = 12, dev_sectors: u64 = 16, virt_boundary_mask: u64 = 24,
});

/// Discard and write zeroes (`struct ublk_param_discard`).
///
/// Since Linux 6.0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ublk_param_discard {
    /// Where the first unit of discard starts, in bytes.
    pub discard_alignment: u32,
    /// Unit of discard, in bytes.
    pub discard_granularity: u32,
    /// Largest discard, in sectors.
    pub max_discard_sectors: u32,
    /// Largest write of zeroes, in sectors.
    pub max_write_zeroes_sectors: u32,
    /// Most ranges in one discard. The driver accepts 1 only.
    pub max_discard_segments: u16,
    /// Zero.
    pub reserved0: u16,
}
assert_layout!(ublk_param_discard, since = "6.0", size = 20, align = 4, {
    discard_alignment: u32 = 0, discard_granularity: u32 = 4, max_discard_sectors: u32 = 8,
    max_write_zeroes_sectors: u32 = 12, max_discard_segments: u16 = 16, reserved0: u16 = 18,
});

/// Device numbers (`struct ublk_param_devt`). Read only; those of the disk are there once it is.
///
/// Since Linux 6.3.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ublk_param_devt {
    /// Major number of `/dev/ublkcN`.
    pub char_major: u32,
    /// Minor number of `/dev/ublkcN`.
    pub char_minor: u32,
    /// Major number of `/dev/ublkbN`.
    pub disk_major: u32,
    /// Minor number of `/dev/ublkbN`.
    pub disk_minor: u32,
}
assert_layout!(ublk_param_devt, since = "6.3", size = 16, align = 4, {
    char_major: u32 = 0, char_minor: u32 = 4, disk_major: u32 = 8, disk_minor: u32 = 12,
});

/// Limits of a zoned device (`struct ublk_param_zoned`).
///
/// Since Linux 6.6.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ublk_param_zoned {
    /// Most zones open at a time; 0 for no limit.
    pub max_open_zones: u32,
    /// Most zones active at a time; 0 for no limit.
    pub max_active_zones: u32,
    /// Largest zone append, in sectors.
    pub max_zone_append_sectors: u32,
    /// Zero.
    pub reserved: [u8; 20],
}
assert_layout!(ublk_param_zoned, since = "6.6", size = 32, align = 4, {
    max_open_zones: u32 = 0, max_active_zones: u32 = 4, max_zone_append_sectors: u32 = 8, reserved: [u8; 20] = 12,
});

/// How requests' memory is aligned (`struct ublk_param_dma_align`).
///
/// Since Linux 6.15.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ublk_param_dma_align {
    /// The alignment less one, in bytes: a mask.
    pub alignment: u32,
    /// Zero.
    pub pad: [u8; 4],
}
assert_layout!(ublk_param_dma_align, since = "6.15", size = 8, align = 4, { alignment: u32 = 0, pad: [u8; 4] = 4 });

constants! { SEGMENTS:
    /// Least `max_segment_size`, and least `seg_boundary_mask + 1`.
    pub const UBLK_MIN_SEGMENT_SIZE: u32 = 4096, since "6.15";
}

/// How requests' memory is cut into segments (`struct ublk_param_segment`). None of the three may be 0.
///
/// Since Linux 6.15.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ublk_param_segment {
    /// No segment crosses a multiple of this plus one, which is a power of two and at least [`UBLK_MIN_SEGMENT_SIZE`].
    pub seg_boundary_mask: u64,
    /// Largest segment, in bytes, at least [`UBLK_MIN_SEGMENT_SIZE`]. `virt_boundary_mask` can override it.
    pub max_segment_size: u32,
    /// Most segments of a request.
    pub max_segments: u16,
    /// Zero.
    pub pad: [u8; 2],
}
assert_layout!(ublk_param_segment, since = "6.15", size = 16, align = 8, {
    seg_boundary_mask: u64 = 0, max_segment_size: u32 = 8, max_segments: u16 = 12, pad: [u8; 2] = 14,
});

/// Integrity metadata (`struct ublk_param_integrity`).
///
/// Since Linux 7.0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ublk_param_integrity {
    /// Bits of `LBMD_PI_CAP_*`.
    pub flags: u32,
    /// Most segments of a request's metadata; 0 for no limit.
    pub max_integrity_segments: u16,
    /// How much data one unit of metadata describes, as a power of two.
    pub interval_exp: u8,
    /// Bytes of a unit of metadata. Not 0.
    pub metadata_size: u8,
    /// Where in the unit the protection information starts, in bytes.
    pub pi_offset: u8,
    /// One of `LBMD_PI_CSUM_*`.
    pub csum_type: u8,
    /// Bytes of the application's tag.
    pub tag_size: u8,
    /// Zero.
    pub pad: [u8; 5],
}
assert_layout!(ublk_param_integrity, since = "7.0", size = 16, align = 4, {
    flags: u32 = 0, max_integrity_segments: u16 = 4, interval_exp: u8 = 6, metadata_size: u8 = 7, pi_offset: u8 = 8,
    csum_type: u8 = 9, tag_size: u8 = 10, pad: [u8; 5] = 11,
});

constants! { PARAM_TYPES:
    /// Bit of `ublk_params.types`: `basic` is meant.
    pub const UBLK_PARAM_TYPE_BASIC: u32 = 1 << 0, since "6.0";
    /// Bit of `ublk_params.types`: `discard` is meant.
    pub const UBLK_PARAM_TYPE_DISCARD: u32 = 1 << 1, since "6.0";
    /// Bit of `ublk_params.types`: `devt` is meant. Refused in [`UBLK_U_CMD_SET_PARAMS`].
    pub const UBLK_PARAM_TYPE_DEVT: u32 = 1 << 2, since "6.3";
    /// Bit of `ublk_params.types`: `zoned` is meant.
    pub const UBLK_PARAM_TYPE_ZONED: u32 = 1 << 3, since "6.6";
    /// Bit of `ublk_params.types`: `dma` is meant.
    pub const UBLK_PARAM_TYPE_DMA_ALIGN: u32 = 1 << 4, since "6.15";
    /// Bit of `ublk_params.types`: `seg` is meant.
    pub const UBLK_PARAM_TYPE_SEGMENT: u32 = 1 << 5, since "6.15";
    /// Bit of `ublk_params.types`: `integrity` is meant. Needs [`UBLK_F_INTEGRITY`].
    pub const UBLK_PARAM_TYPE_INTEGRITY: u32 = 1 << 6, since "7.0";
}

/// Parameters of a device (`struct ublk_params`). Every group has its place, whether `types` names it or not.
///
/// Since Linux 6.0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ublk_params {
    /// Bytes of this struct that the caller has, set before [`UBLK_U_CMD_SET_PARAMS`] and [`UBLK_U_CMD_GET_PARAMS`]
    /// alike. The
    /// driver may know a shorter or a longer struct.
    pub len: u32,
    /// Bits of `UBLK_PARAM_TYPE_*`: the groups that are meant. The driver drops bits that it does not know.
    pub types: u32,
    /// Size and block sizes.
    pub basic: ublk_param_basic,
    /// Discard and write zeroes.
    pub discard: ublk_param_discard,
    /// Device numbers.
    pub devt: ublk_param_devt,
    /// Limits of a zoned device.
    pub zoned: ublk_param_zoned,
    /// How requests' memory is aligned.
    pub dma: ublk_param_dma_align,
    /// The hole before `seg`, which has no name in C. Zero.
    pub hole0: [u8; 4],
    /// How requests' memory is cut into segments.
    pub seg: ublk_param_segment,
    /// Integrity metadata.
    pub integrity: ublk_param_integrity,
}
assert_layout!(ublk_params, since = "6.0", size = 152,
    older = { "6.0": 64, "6.3": 80, "6.6": 112, "6.15": 136, "7.0": 152 }, align = 8, {
    len: u32 = 0, types: u32 = 4, basic: ublk_param_basic = 8, discard: ublk_param_discard = 40,
    devt: ublk_param_devt = 60 => ["devt": ublk_param_devt = 60 since "6.3"],
    zoned: ublk_param_zoned = 76 => ["zoned": ublk_param_zoned = 76 since "6.6"],
    dma: ublk_param_dma_align = 108 => ["dma": ublk_param_dma_align = 108 since "6.15"],
    hole0: [u8; 4] = 116 => [],
    seg: ublk_param_segment = 120 => ["seg": ublk_param_segment = 120 since "6.15"],
    integrity: ublk_param_integrity = 136 => ["integrity": ublk_param_integrity = 136 since "7.0"],
});

constants! { SHARED_MEMORY:
    /// The offset within the shared memory, in an `addr` with [`UBLK_IO_F_SHMEM_ZC`].
    pub const UBLK_SHMEM_ZC_OFF_MASK: u64 = 0xffff_ffff, since "7.1";
    /// First bit of the index, in an `addr` with [`UBLK_IO_F_SHMEM_ZC`].
    pub const UBLK_SHMEM_ZC_IDX_OFF: u32 = 32, since "7.1";
    /// The index, before its shift.
    pub const UBLK_SHMEM_ZC_IDX_MASK: u64 = 0xffff, since "7.1";
}

/// The `addr` that means `offset` bytes into the shared memory of index `index`.
#[must_use]
pub const fn ublk_shmem_zc_addr(index: u16, offset: u32) -> u64 {
    let [i0, i1] = index.to_le_bytes();
    let [o0, o1, o2, o3] = offset.to_le_bytes();
    u64::from_le_bytes([o0, o1, o2, o3, i0, i1, 0, 0])
}

/// The index of the shared memory that an `addr` with [`UBLK_IO_F_SHMEM_ZC`] means.
#[must_use]
pub const fn ublk_shmem_zc_index(addr: u64) -> u16 {
    let [_, _, _, _, i0, i1, _, _] = addr.to_le_bytes();
    u16::from_le_bytes([i0, i1])
}

/// The offset in bytes that an `addr` with [`UBLK_IO_F_SHMEM_ZC`] means.
#[must_use]
pub const fn ublk_shmem_zc_offset(addr: u64) -> u32 {
    let [o0, o1, o2, o3, _, _, _, _] = addr.to_le_bytes();
    u32::from_le_bytes([o0, o1, o2, o3])
}

/// What is mirrored of `linux/ublk_cmd.h`.
pub(crate) const TABLE: Table = Table {
    header: "linux/ublk_cmd.h",
    structs: &[
        ublk_shmem_buf_reg::LAYOUT,
        ublksrv_ctrl_cmd::LAYOUT,
        ublksrv_ctrl_dev_info::LAYOUT,
        ublksrv_io_desc::LAYOUT,
        ublk_auto_buf_reg::LAYOUT,
        ublksrv_io_cmd::LAYOUT,
        ublk_elem_header::LAYOUT,
        ublk_batch_io::LAYOUT,
        ublk_param_basic::LAYOUT,
        ublk_param_discard::LAYOUT,
        ublk_param_devt::LAYOUT,
        ublk_param_zoned::LAYOUT,
        ublk_param_dma_align::LAYOUT,
        ublk_param_segment::LAYOUT,
        ublk_param_integrity::LAYOUT,
        ublk_params::LAYOUT,
    ],
    constants: &[
        RAW_CONTROL_COMMANDS,
        CONTROL_COMMANDS,
        CONTROL_VALUES,
        RAW_IO_COMMANDS,
        IO_COMMANDS,
        IO_VALUES,
        FEATURES,
        STATES,
        OPERATIONS,
        REQUEST_FLAGS,
        AUTO_BUF_REG,
        BATCH_FLAGS,
        ATTRIBUTES,
        SEGMENTS,
        PARAM_TYPES,
        SHARED_MEMORY,
    ],
};
