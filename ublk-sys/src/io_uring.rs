// SPDX-License-Identifier: MIT OR Apache-2.0
//! The part of `include/uapi/linux/io_uring.h` that a ublk server and its own I/O need, in header order.

use crate::layout::{Table, assert_layout, constants};

/// Submission queue entry (`struct io_uring_sqe`): one operation.
///
/// In C nearly every field is a union, of which one operation uses one member. For `IORING_OP_URING_CMD` the command's
/// number is `cmd_op` in the first half of `off` (see [`io_uring_sqe_cmd_op`]), and its argument is the command area
/// `cmd`: bytes 48 to 63 here, which are `addr3` and `__pad2`, and 48 to 127 of a 128-byte SQE.
///
/// Since Linux 5.1.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct io_uring_sqe {
    /// One of `IORING_OP_*`.
    pub opcode: u8,
    /// Bits of `IOSQE_*`.
    pub flags: u8,
    /// Priority of the I/O; flags of some operations.
    pub ioprio: u16,
    /// File descriptor, or index of a registered file with [`IOSQE_FIXED_FILE`].
    pub fd: i32,
    /// Offset in the file. Also `addr2`, and `cmd_op` with `__pad1` behind it.
    pub off: u64,
    /// Address of a buffer or of an array of buffers. Also `splice_off_in`, `level` and `optname`.
    pub addr: u64,
    /// Bytes in the buffer, or buffers in the array.
    pub len: u32,
    /// Flags of the operation: `fsync_flags`, `poll32_events`, `msg_flags`, `timeout_flags`, `cancel_flags`,
    /// `msg_ring_flags`, `uring_cmd_flags`, `nop_flags` and more.
    pub rw_flags: u32,
    /// Comes back in the completion.
    pub user_data: u64,
    /// Index of a registered buffer. Also `buf_group`: group of provided buffers.
    pub buf_index: u16,
    /// Registered credentials to use, or 0.
    pub personality: u16,
    /// Slot for a registered file that the operation makes. Also `splice_fd_in`, `optlen`, `addr_len`,
    /// `write_stream`, `zcrx_ifq_idx`.
    pub file_index: u32,
    /// A third address. Also `attr_ptr` and `optval`, and the start of the command area `cmd`.
    pub addr3: u64,
    /// Zero, unless the command area reaches to here. Also `attr_type_mask`.
    pub __pad2: u64,
}
assert_layout!(io_uring_sqe, since = "5.1", size = 64, align = 8, {
    opcode: u8 = 0, flags: u8 = 1, ioprio: u16 = 2, fd: i32 = 4,
    off: u64 = 8 => [
        "off": u64 = 8, "addr2": u64 = 8 since "5.5", "cmd_op": u32 = 8 since "5.19", "__pad1": u32 = 12 since "6.0",
    ],
    addr: u64 = 16 => [
        "addr": u64 = 16, "splice_off_in": u64 = 16 since "5.7", "level": u32 = 16 since "6.7",
        "optname": u32 = 20 since "6.7",
    ],
    len: u32 = 24,
    rw_flags: u32 = 28 => [
        "rw_flags": u32 = 28, "fsync_flags": u32 = 28, "poll_events": u16 = 28, "poll32_events": u32 = 28 since "5.9",
        "sync_range_flags": u32 = 28 since "5.2", "msg_flags": u32 = 28 since "5.3",
        "timeout_flags": u32 = 28 since "5.4", "accept_flags": u32 = 28 since "5.5",
        "cancel_flags": u32 = 28 since "5.5", "open_flags": u32 = 28 since "5.6", "statx_flags": u32 = 28 since "5.6",
        "fadvise_advice": u32 = 28 since "5.6", "splice_flags": u32 = 28 since "5.7",
        "rename_flags": u32 = 28 since "5.11", "unlink_flags": u32 = 28 since "5.11",
        "hardlink_flags": u32 = 28 since "5.15", "xattr_flags": u32 = 28 since "5.19",
        "msg_ring_flags": u32 = 28 since "6.0", "uring_cmd_flags": u32 = 28 since "6.1",
        "waitid_flags": u32 = 28 since "6.7", "futex_flags": u32 = 28 since "6.7",
        "install_fd_flags": u32 = 28 since "6.8", "nop_flags": u32 = 28 since "6.10",
        "pipe_flags": u32 = 28 since "6.16",
    ],
    user_data: u64 = 32,
    buf_index: u16 = 40 => ["buf_index": u16 = 40, "buf_group": u16 = 40 since "5.7"],
    personality: u16 = 42 => ["personality": u16 = 42 since "5.6"],
    file_index: u32 = 44 => [
        "splice_fd_in": i32 = 44 since "5.7", "file_index": u32 = 44 since "5.15",
        "zcrx_ifq_idx": u32 = 44 since "6.15", "optlen": u32 = 44 since "6.7", "addr_len": u16 = 44 since "6.0",
        "__pad3": [u16; 1] = 46 since "6.0", "write_stream": u8 = 44 since "6.16", "__pad4": [u8; 3] = 45 since "6.16",
    ],
    addr3: u64 = 48 => [
        "addr3": u64 = 48 since "5.19", "attr_ptr": u64 = 48 since "6.14", "optval": u64 = 48 since "6.7",
        "cmd": [u8; 0] = 48 since "5.19",
    ],
    __pad2: u64 = 56 => ["__pad2": [u64; 1] = 56 since "5.19", "attr_type_mask": u64 = 56 since "6.14"],
});

/// The `off` of an `IORING_OP_URING_CMD`: `cmd_op` at byte 8 of the SQE, zero (`__pad1`) at byte 12.
#[must_use]
pub const fn io_uring_sqe_cmd_op(cmd_op: u32) -> u64 {
    let [c0, c1, c2, c3] = cmd_op.to_ne_bytes();
    u64::from_ne_bytes([c0, c1, c2, c3, 0, 0, 0, 0])
}

constants! { SQE_FLAGS:
    /// `fd` is the index of a registered file.
    pub const IOSQE_FIXED_FILE: u8 = 1 << 0, since "5.1";
    /// Start after everything before it has completed.
    pub const IOSQE_IO_DRAIN: u8 = 1 << 1, since "5.2";
    /// The next SQE starts after this one, and not at all if this one fails.
    pub const IOSQE_IO_LINK: u8 = 1 << 2, since "5.3";
    /// The next SQE starts after this one, failed or not.
    pub const IOSQE_IO_HARDLINK: u8 = 1 << 3, since "5.5";
    /// Run in a worker thread at once.
    pub const IOSQE_ASYNC: u8 = 1 << 4, since "5.6";
    /// Take a provided buffer of `buf_group`.
    pub const IOSQE_BUFFER_SELECT: u8 = 1 << 5, since "5.7";
    /// Post no completion unless it failed.
    pub const IOSQE_CQE_SKIP_SUCCESS: u8 = 1 << 6, since "5.17";
}

constants! { SETUP_FLAGS:
    /// Completions are polled for. `IORING_OP_URING_CMD` on ublk's files fails on such a ring.
    pub const IORING_SETUP_IOPOLL: u32 = 1 << 0, since "5.1";
    /// A kernel thread takes SQEs.
    pub const IORING_SETUP_SQPOLL: u32 = 1 << 1, since "5.1";
    /// `sq_thread_cpu` says where that thread runs.
    pub const IORING_SETUP_SQ_AFF: u32 = 1 << 2, since "5.1";
    /// `cq_entries` says how long the completion queue is.
    pub const IORING_SETUP_CQSIZE: u32 = 1 << 3, since "5.5";
    /// Lengths above the limit are lowered instead of refused.
    pub const IORING_SETUP_CLAMP: u32 = 1 << 4, since "5.6";
    /// Share the worker threads of the ring `wq_fd`.
    pub const IORING_SETUP_ATTACH_WQ: u32 = 1 << 5, since "5.6";
    /// Nothing runs until [`IORING_REGISTER_ENABLE_RINGS`].
    pub const IORING_SETUP_R_DISABLED: u32 = 1 << 6, since "5.10";
    /// An SQE that is refused does not stop those after it.
    pub const IORING_SETUP_SUBMIT_ALL: u32 = 1 << 7, since "5.18";
    /// Completions do not interrupt the task; they wait until it enters the kernel.
    pub const IORING_SETUP_COOP_TASKRUN: u32 = 1 << 8, since "5.19";
    /// [`IORING_SQ_TASKRUN`] tells that they wait. Needs one of the two `TASKRUN` modes.
    pub const IORING_SETUP_TASKRUN_FLAG: u32 = 1 << 9, since "5.19";
    /// SQEs are 128 bytes long.
    pub const IORING_SETUP_SQE128: u32 = 1 << 10, since "5.19";
    /// CQEs are 32 bytes long.
    pub const IORING_SETUP_CQE32: u32 = 1 << 11, since "5.19";
    /// One task only uses the ring.
    pub const IORING_SETUP_SINGLE_ISSUER: u32 = 1 << 12, since "6.0";
    /// Completions happen only when that task waits for them. Needs [`IORING_SETUP_SINGLE_ISSUER`].
    pub const IORING_SETUP_DEFER_TASKRUN: u32 = 1 << 13, since "6.1";
    /// The application brings the rings' memory.
    pub const IORING_SETUP_NO_MMAP: u32 = 1 << 14, since "6.5";
    /// The ring has no file descriptor, only a registered index.
    pub const IORING_SETUP_REGISTERED_FD_ONLY: u32 = 1 << 15, since "6.5";
    /// There is no index array between the ring and its SQEs.
    pub const IORING_SETUP_NO_SQARRAY: u32 = 1 << 16, since "6.6";
    /// Sleep for a while before polling.
    pub const IORING_SETUP_HYBRID_IOPOLL: u32 = 1 << 17, since "6.13";
    /// CQEs of 16 and of 32 bytes, told apart by [`IORING_CQE_F_32`].
    pub const IORING_SETUP_CQE_MIXED: u32 = 1 << 18, since "6.18";
    /// SQEs of 64 and of 128 bytes, told apart by opcode.
    pub const IORING_SETUP_SQE_MIXED: u32 = 1 << 19, since "6.19";
    /// Every submission starts at SQE 0. Needs [`IORING_SETUP_NO_SQARRAY`].
    pub const IORING_SETUP_SQ_REWIND: u32 = 1 << 20, since "7.0";
}

constants! { OPCODES:
    /// Does nothing.
    pub const IORING_OP_NOP: u8 = 0, since "5.1";
    /// `preadv2`.
    pub const IORING_OP_READV: u8 = 1, since "5.1";
    /// `pwritev2`.
    pub const IORING_OP_WRITEV: u8 = 2, since "5.1";
    /// `fsync`, or `fdatasync` with [`IORING_FSYNC_DATASYNC`].
    pub const IORING_OP_FSYNC: u8 = 3, since "5.1";
    /// Reads to a registered buffer.
    pub const IORING_OP_READ_FIXED: u8 = 4, since "5.1";
    /// Writes from a registered buffer.
    pub const IORING_OP_WRITE_FIXED: u8 = 5, since "5.1";
    /// Waits for events on a file.
    pub const IORING_OP_POLL_ADD: u8 = 6, since "5.1";
    /// Ends or changes an [`IORING_OP_POLL_ADD`].
    pub const IORING_OP_POLL_REMOVE: u8 = 7, since "5.1";
    /// `sync_file_range`.
    pub const IORING_OP_SYNC_FILE_RANGE: u8 = 8, since "5.2";
    /// `sendmsg`.
    pub const IORING_OP_SENDMSG: u8 = 9, since "5.3";
    /// `recvmsg`.
    pub const IORING_OP_RECVMSG: u8 = 10, since "5.3";
    /// Completes after a time, or after a number of completions.
    pub const IORING_OP_TIMEOUT: u8 = 11, since "5.4";
    /// Ends or changes an [`IORING_OP_TIMEOUT`].
    pub const IORING_OP_TIMEOUT_REMOVE: u8 = 12, since "5.5";
    /// Cancels other operations.
    pub const IORING_OP_ASYNC_CANCEL: u8 = 14, since "5.5";
    /// Cancels the operation it is linked to after a time.
    pub const IORING_OP_LINK_TIMEOUT: u8 = 15, since "5.5";
    /// `fallocate`.
    pub const IORING_OP_FALLOCATE: u8 = 17, since "5.6";
    /// `close`.
    pub const IORING_OP_CLOSE: u8 = 19, since "5.6";
    /// `pread`.
    pub const IORING_OP_READ: u8 = 22, since "5.6";
    /// `pwrite`.
    pub const IORING_OP_WRITE: u8 = 23, since "5.6";
    /// `send`.
    pub const IORING_OP_SEND: u8 = 26, since "5.6";
    /// `recv`.
    pub const IORING_OP_RECV: u8 = 27, since "5.6";
    /// Posts a completion to another ring.
    pub const IORING_OP_MSG_RING: u8 = 40, since "5.18";
    /// A command to the file's driver.
    pub const IORING_OP_URING_CMD: u8 = 46, since "5.19";
    /// `send` without a copy.
    pub const IORING_OP_SEND_ZC: u8 = 47, since "6.0";
    /// `sendmsg` without a copy.
    pub const IORING_OP_SENDMSG_ZC: u8 = 48, since "6.1";
    /// Reads to an array of places in a registered buffer.
    pub const IORING_OP_READV_FIXED: u8 = 60, since "6.15";
    /// Writes from an array of places in a registered buffer.
    pub const IORING_OP_WRITEV_FIXED: u8 = 61, since "6.15";
    /// Does nothing, in 128 bytes.
    pub const IORING_OP_NOP128: u8 = 63, since "6.19";
    /// A command to the file's driver, in 128 bytes.
    pub const IORING_OP_URING_CMD128: u8 = 64, since "6.19";
}

constants! { OPERATION_FLAGS:
    /// `uring_cmd_flags`: the buffer is the registered one of `buf_index`.
    pub const IORING_URING_CMD_FIXED: u32 = 1 << 0, since "6.1";
    /// `uring_cmd_flags`: completes many times, each time with a provided buffer.
    pub const IORING_URING_CMD_MULTISHOT: u32 = 1 << 1, since "6.18";
    /// `fsync_flags`: `fdatasync`.
    pub const IORING_FSYNC_DATASYNC: u32 = 1 << 0, since "5.1";
    /// `timeout_flags`: the time is a moment, not a duration.
    pub const IORING_TIMEOUT_ABS: u32 = 1 << 0, since "5.5";
    /// `timeout_flags` of [`IORING_OP_TIMEOUT_REMOVE`]: change, do not end.
    pub const IORING_TIMEOUT_UPDATE: u32 = 1 << 1, since "5.11";
    /// `timeout_flags`: by `CLOCK_BOOTTIME`.
    pub const IORING_TIMEOUT_BOOTTIME: u32 = 1 << 2, since "5.15";
    /// `timeout_flags`: by `CLOCK_REALTIME`.
    pub const IORING_TIMEOUT_REALTIME: u32 = 1 << 3, since "5.15";
    /// `timeout_flags` of [`IORING_OP_TIMEOUT_REMOVE`]: change an [`IORING_OP_LINK_TIMEOUT`].
    pub const IORING_LINK_TIMEOUT_UPDATE: u32 = 1 << 4, since "5.15";
    /// `timeout_flags`: `-ETIME` is no failure to what is linked.
    pub const IORING_TIMEOUT_ETIME_SUCCESS: u32 = 1 << 5, since "5.16";
    /// `timeout_flags`: completes many times.
    pub const IORING_TIMEOUT_MULTISHOT: u32 = 1 << 6, since "6.4";
    /// `timeout_flags`: `addr` is the time itself, in nanoseconds.
    pub const IORING_TIMEOUT_IMMEDIATE_ARG: u32 = 1 << 7, since "7.1";
    /// The bits of `timeout_flags` that choose a clock.
    pub const IORING_TIMEOUT_CLOCK_MASK: u32 = IORING_TIMEOUT_BOOTTIME | IORING_TIMEOUT_REALTIME, since "5.15";
    /// The bits of `timeout_flags` that change a timeout.
    pub const IORING_TIMEOUT_UPDATE_MASK: u32 = IORING_TIMEOUT_UPDATE | IORING_LINK_TIMEOUT_UPDATE, since "5.15";
    /// `len` of [`IORING_OP_POLL_ADD`]: completes many times.
    pub const IORING_POLL_ADD_MULTI: u32 = 1 << 0, since "5.13";
    /// `len` of [`IORING_OP_POLL_REMOVE`]: change what is waited for.
    pub const IORING_POLL_UPDATE_EVENTS: u32 = 1 << 1, since "5.13";
    /// `len` of [`IORING_OP_POLL_REMOVE`]: change `user_data`.
    pub const IORING_POLL_UPDATE_USER_DATA: u32 = 1 << 2, since "5.13";
    /// `len` of [`IORING_OP_POLL_ADD`]: level triggered.
    pub const IORING_POLL_ADD_LEVEL: u32 = 1 << 3, since "6.0";
    /// `cancel_flags`: all that match, not the first.
    pub const IORING_ASYNC_CANCEL_ALL: u32 = 1 << 0, since "5.19";
    /// `cancel_flags`: match by `fd`.
    pub const IORING_ASYNC_CANCEL_FD: u32 = 1 << 1, since "5.19";
    /// `cancel_flags`: everything matches.
    pub const IORING_ASYNC_CANCEL_ANY: u32 = 1 << 2, since "5.19";
    /// `cancel_flags`: `fd` is a registered file.
    pub const IORING_ASYNC_CANCEL_FD_FIXED: u32 = 1 << 3, since "6.0";
    /// `cancel_flags`: match by `user_data`, which is also the rule when nothing is said.
    pub const IORING_ASYNC_CANCEL_USERDATA: u32 = 1 << 4, since "6.6";
    /// `cancel_flags`: match by opcode.
    pub const IORING_ASYNC_CANCEL_OP: u32 = 1 << 5, since "6.6";
    /// `ioprio` of a send or receive: wait before trying.
    pub const IORING_RECVSEND_POLL_FIRST: u16 = 1 << 0, since "5.19";
    /// `ioprio` of a receive: completes many times.
    pub const IORING_RECV_MULTISHOT: u16 = 1 << 1, since "6.0";
    /// `ioprio` of a send: from the registered buffer `buf_index`.
    pub const IORING_RECVSEND_FIXED_BUF: u16 = 1 << 2, since "6.0";
    /// `ioprio` of a zero-copy send: report in its notification whether it copied.
    pub const IORING_SEND_ZC_REPORT_USAGE: u16 = 1 << 3, since "6.2";
    /// `ioprio` of a send or receive: as many provided buffers as there are.
    pub const IORING_RECVSEND_BUNDLE: u16 = 1 << 4, since "6.10";
    /// `ioprio` of a send: `addr` is an array of buffers.
    pub const IORING_SEND_VECTORIZED: u16 = 1 << 5, since "6.17";
    /// Bit of the result of a zero-copy send's notification: something was copied.
    pub const IORING_NOTIF_USAGE_ZC_COPIED: u32 = 1 << 31, since "6.2";
    /// `addr` of [`IORING_OP_MSG_RING`]: send `len` as result and `off` as `user_data`.
    pub const IORING_MSG_DATA: u64 = 0, since "6.0";
    /// `addr` of [`IORING_OP_MSG_RING`]: send a registered file.
    pub const IORING_MSG_SEND_FD: u64 = 1, since "6.0";
    /// `msg_ring_flags`: post no completion to the other ring. Not with [`IORING_MSG_DATA`].
    pub const IORING_MSG_RING_CQE_SKIP: u32 = 1 << 0, since "6.0";
    /// `msg_ring_flags`: `file_index` becomes the flags of the other ring's completion.
    pub const IORING_MSG_RING_FLAGS_PASS: u32 = 1 << 1, since "6.3";
    /// `nop_flags`: the result is `len`.
    pub const IORING_NOP_INJECT_RESULT: u32 = 1 << 0, since "6.10";
    /// `nop_flags`: look up the file `fd`.
    pub const IORING_NOP_FILE: u32 = 1 << 1, since "6.13";
    /// `nop_flags`: `fd` is a registered file.
    pub const IORING_NOP_FIXED_FILE: u32 = 1 << 2, since "6.13";
    /// `nop_flags`: look up the registered buffer `buf_index`.
    pub const IORING_NOP_FIXED_BUFFER: u32 = 1 << 3, since "6.13";
    /// `nop_flags`: complete in task work.
    pub const IORING_NOP_TW: u32 = 1 << 4, since "6.17";
    /// `nop_flags`: post a completion of 32 bytes.
    pub const IORING_NOP_CQE32: u32 = 1 << 5, since "6.18";
}

/// Completion queue entry (`struct io_uring_cqe`). With [`IORING_SETUP_CQE32`] 16 more bytes follow (`big_cqe`).
///
/// Since Linux 5.1.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct io_uring_cqe {
    /// What the SQE had.
    pub user_data: u64,
    /// Result, or a negative errno.
    pub res: i32,
    /// Bits of `IORING_CQE_F_*`; with [`IORING_CQE_F_BUFFER`] a buffer's id from [`IORING_CQE_BUFFER_SHIFT`] up.
    pub flags: u32,
}
assert_layout!(io_uring_cqe, since = "5.1", size = 16, align = 8, {
    user_data: u64 = 0, res: i32 = 8, flags: u32 = 12,
});

constants! { CQE_FLAGS:
    /// The upper 16 bits are the id of the provided buffer that was used.
    pub const IORING_CQE_F_BUFFER: u32 = 1 << 0, since "5.7";
    /// The SQE will post more completions.
    pub const IORING_CQE_F_MORE: u32 = 1 << 1, since "5.13";
    /// The socket has more to read.
    pub const IORING_CQE_F_SOCK_NONEMPTY: u32 = 1 << 2, since "5.19";
    /// A zero-copy send needs its buffer no more.
    pub const IORING_CQE_F_NOTIF: u32 = 1 << 3, since "6.0";
    /// The provided buffer is used in part and will be used on.
    pub const IORING_CQE_F_BUF_MORE: u32 = 1 << 4, since "6.12";
    /// To be ignored: it fills the end of the ring before a 32-byte CQE.
    pub const IORING_CQE_F_SKIP: u32 = 1 << 5, since "6.18";
    /// This CQE is 32 bytes long.
    pub const IORING_CQE_F_32: u32 = 1 << 15, since "6.18";
    /// Where a buffer's id starts in `io_uring_cqe.flags`.
    pub const IORING_CQE_BUFFER_SHIFT: u32 = 16, since "5.7";
}

constants! { MMAP_OFFSETS:
    /// Offset at which the submission ring is mapped, and with [`IORING_FEAT_SINGLE_MMAP`] the completion ring too.
    pub const IORING_OFF_SQ_RING: u64 = 0, since "5.1";
    /// Offset at which the completion ring is mapped.
    pub const IORING_OFF_CQ_RING: u64 = 0x800_0000, since "5.1";
    /// Offset at which the SQEs are mapped.
    pub const IORING_OFF_SQES: u64 = 0x1000_0000, since "5.1";
    /// Offset at which a ring of provided buffers is mapped, its group shifted by [`IORING_OFF_PBUF_SHIFT`] added.
    pub const IORING_OFF_PBUF_RING: u64 = 0x8000_0000, since "6.4";
    /// Where the group starts in that offset.
    pub const IORING_OFF_PBUF_SHIFT: u32 = 16, since "6.4";
    /// The bits of an offset that say what is mapped.
    pub const IORING_OFF_MMAP_MASK: u64 = 0xf800_0000, since "6.4";
}

/// Where the parts of the submission ring are in its mapping, in bytes (`struct io_sqring_offsets`).
///
/// Since Linux 5.1.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct io_sqring_offsets {
    /// Counter of SQEs that the kernel has taken.
    pub head: u32,
    /// Counter of SQEs that were submitted.
    pub tail: u32,
    /// Length of the ring less one.
    pub ring_mask: u32,
    /// Length of the ring.
    pub ring_entries: u32,
    /// Bits of `IORING_SQ_*`.
    pub flags: u32,
    /// Counter of indices in `array` that were out of range.
    pub dropped: u32,
    /// The index array; not there with [`IORING_SETUP_NO_SQARRAY`].
    pub array: u32,
    /// Zero.
    pub resv1: u32,
    /// Address of the memory with [`IORING_SETUP_NO_MMAP`], else 0.
    pub user_addr: u64,
}
assert_layout!(io_sqring_offsets, since = "5.1", size = 40, align = 8, {
    head: u32 = 0, tail: u32 = 4, ring_mask: u32 = 8, ring_entries: u32 = 12, flags: u32 = 16, dropped: u32 = 20,
    array: u32 = 24, resv1: u32 = 28,
    user_addr: u64 = 32 => ["user_addr": u64 = 32 since "6.5", "resv2": u64 = 32 until "6.5"],
});

constants! { SQ_FLAGS:
    /// The kernel thread sleeps; wake it with [`IORING_ENTER_SQ_WAKEUP`].
    pub const IORING_SQ_NEED_WAKEUP: u32 = 1 << 0, since "5.1";
    /// Completions wait because the ring is full.
    pub const IORING_SQ_CQ_OVERFLOW: u32 = 1 << 1, since "5.8";
    /// Completions wait until the task enters the kernel.
    pub const IORING_SQ_TASKRUN: u32 = 1 << 2, since "5.19";
}

/// Where the parts of the completion ring are in its mapping, in bytes (`struct io_cqring_offsets`).
///
/// Since Linux 5.1.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct io_cqring_offsets {
    /// Counter of CQEs that the application has taken.
    pub head: u32,
    /// Counter of CQEs that were posted.
    pub tail: u32,
    /// Length of the ring less one.
    pub ring_mask: u32,
    /// Length of the ring.
    pub ring_entries: u32,
    /// Counter of CQEs that were lost.
    pub overflow: u32,
    /// The CQEs.
    pub cqes: u32,
    /// Bits of `IORING_CQ_*`.
    pub flags: u32,
    /// Zero.
    pub resv1: u32,
    /// Address of the memory with [`IORING_SETUP_NO_MMAP`], else 0.
    pub user_addr: u64,
}
assert_layout!(io_cqring_offsets, since = "5.1", size = 40, align = 8, {
    head: u32 = 0, tail: u32 = 4, ring_mask: u32 = 8, ring_entries: u32 = 12, overflow: u32 = 16, cqes: u32 = 20,
    flags: u32 = 24 => ["flags": u32 = 24 since "5.8"],
    resv1: u32 = 28 => ["resv1": u32 = 28 since "5.8"],
    user_addr: u64 = 32 => ["user_addr": u64 = 32 since "6.5", "resv2": u64 = 32 since "5.8" until "6.5"],
});

constants! { ENTER_FLAGS:
    /// Bit of the completion ring's flags, set by the application: do not signal the eventfd.
    pub const IORING_CQ_EVENTFD_DISABLED: u32 = 1 << 0, since "5.8";
    /// Wait for completions.
    pub const IORING_ENTER_GETEVENTS: u32 = 1 << 0, since "5.1";
    /// Wake the kernel thread of [`IORING_SETUP_SQPOLL`].
    pub const IORING_ENTER_SQ_WAKEUP: u32 = 1 << 1, since "5.1";
    /// Wait until the submission ring has room.
    pub const IORING_ENTER_SQ_WAIT: u32 = 1 << 2, since "5.10";
    /// The argument is an [`io_uring_getevents_arg`].
    pub const IORING_ENTER_EXT_ARG: u32 = 1 << 3, since "5.11";
    /// The ring is given by its registered index.
    pub const IORING_ENTER_REGISTERED_RING: u32 = 1 << 4, since "5.18";
    /// The timeout is a moment, not a duration.
    pub const IORING_ENTER_ABS_TIMER: u32 = 1 << 5, since "6.12";
    /// The argument is an offset in registered memory.
    pub const IORING_ENTER_EXT_ARG_REG: u32 = 1 << 6, since "6.13";
    /// The wait does not count as waiting for I/O.
    pub const IORING_ENTER_NO_IOWAIT: u32 = 1 << 7, since "6.15";
}

/// Argument of `io_uring_setup(2)`, and its answer (`struct io_uring_params`).
///
/// Since Linux 5.1.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct io_uring_params {
    /// SQEs in the submission ring. Written by the kernel.
    pub sq_entries: u32,
    /// CQEs in the completion ring: asked for with [`IORING_SETUP_CQSIZE`], then what it became.
    pub cq_entries: u32,
    /// Bits of `IORING_SETUP_*`.
    pub flags: u32,
    /// CPU of the kernel thread, with [`IORING_SETUP_SQ_AFF`].
    pub sq_thread_cpu: u32,
    /// Milliseconds before the kernel thread sleeps.
    pub sq_thread_idle: u32,
    /// Bits of `IORING_FEAT_*`. Written by the kernel.
    pub features: u32,
    /// Ring to share workers with, with [`IORING_SETUP_ATTACH_WQ`].
    pub wq_fd: u32,
    /// Zero.
    pub resv: [u32; 3],
    /// Written by the kernel.
    pub sq_off: io_sqring_offsets,
    /// Written by the kernel.
    pub cq_off: io_cqring_offsets,
}
assert_layout!(io_uring_params, since = "5.1", size = 120, align = 8, {
    sq_entries: u32 = 0, cq_entries: u32 = 4, flags: u32 = 8, sq_thread_cpu: u32 = 12, sq_thread_idle: u32 = 16,
    features: u32 = 20 => ["features": u32 = 20 since "5.4"],
    wq_fd: u32 = 24 => ["wq_fd": u32 = 24 since "5.6"],
    resv: [u32; 3] = 28 => ["resv": [u32; 3] = 28 since "5.6", "resv": [u32; 4] = 24 since "5.4" until "5.6"],
    sq_off: io_sqring_offsets = 40, cq_off: io_cqring_offsets = 80,
});

constants! { RING_FEATURES:
    /// One mapping holds both rings.
    pub const IORING_FEAT_SINGLE_MMAP: u32 = 1 << 0, since "5.4";
    /// Completions wait when the ring is full, instead of being lost.
    pub const IORING_FEAT_NODROP: u32 = 1 << 1, since "5.5";
    /// What an SQE points to may be gone once it is submitted.
    pub const IORING_FEAT_SUBMIT_STABLE: u32 = 1 << 2, since "5.5";
    /// Offset -1 means the file's position.
    pub const IORING_FEAT_RW_CUR_POS: u32 = 1 << 3, since "5.6";
    /// Operations run with the credentials of who submits them.
    pub const IORING_FEAT_CUR_PERSONALITY: u32 = 1 << 4, since "5.6";
    /// Operations that would block wait for readiness instead of in a worker.
    pub const IORING_FEAT_FAST_POLL: u32 = 1 << 5, since "5.7";
    /// Polls take 32 bits of events.
    pub const IORING_FEAT_POLL_32BITS: u32 = 1 << 6, since "5.9";
    /// [`IORING_SETUP_SQPOLL`] needs no registered files.
    pub const IORING_FEAT_SQPOLL_NONFIXED: u32 = 1 << 7, since "5.11";
    /// [`IORING_ENTER_EXT_ARG`] is known.
    pub const IORING_FEAT_EXT_ARG: u32 = 1 << 8, since "5.11";
    /// Workers are threads of the process.
    pub const IORING_FEAT_NATIVE_WORKERS: u32 = 1 << 9, since "5.12";
    /// Registered files and buffers can have tags.
    pub const IORING_FEAT_RSRC_TAGS: u32 = 1 << 10, since "5.13";
    /// [`IOSQE_CQE_SKIP_SUCCESS`] is known.
    pub const IORING_FEAT_CQE_SKIP: u32 = 1 << 11, since "5.17";
    /// A file is looked up when its operation starts, after those it is linked to.
    pub const IORING_FEAT_LINKED_FILE: u32 = 1 << 12, since "5.17";
    /// [`IORING_REGISTER_USE_REGISTERED_RING`] is known.
    pub const IORING_FEAT_REG_REG_RING: u32 = 1 << 13, since "6.3";
    /// Sends and receives can use many provided buffers.
    pub const IORING_FEAT_RECVSEND_BUNDLE: u32 = 1 << 14, since "6.10";
    /// `io_uring_getevents_arg.min_wait_usec` is known.
    pub const IORING_FEAT_MIN_TIMEOUT: u32 = 1 << 15, since "6.12";
    /// Reads and writes can have attributes.
    pub const IORING_FEAT_RW_ATTR: u32 = 1 << 16, since "6.14";
    /// [`IORING_ENTER_NO_IOWAIT`] is known.
    pub const IORING_FEAT_NO_IOWAIT: u32 = 1 << 17, since "6.15";
}

constants! { REGISTER_OPCODES:
    /// Registers buffers.
    pub const IORING_REGISTER_BUFFERS: u32 = 0, since "5.1";
    /// Drops the buffer table.
    pub const IORING_UNREGISTER_BUFFERS: u32 = 1, since "5.1";
    /// Registers files.
    pub const IORING_REGISTER_FILES: u32 = 2, since "5.1";
    /// Drops the file table.
    pub const IORING_UNREGISTER_FILES: u32 = 3, since "5.1";
    /// Registers an eventfd that completions signal.
    pub const IORING_REGISTER_EVENTFD: u32 = 4, since "5.2";
    /// Drops the eventfd.
    pub const IORING_UNREGISTER_EVENTFD: u32 = 5, since "5.2";
    /// Changes a part of the file table: [`io_uring_rsrc_update`].
    pub const IORING_REGISTER_FILES_UPDATE: u32 = 6, since "5.5";
    /// Registers an eventfd that completions from workers signal.
    pub const IORING_REGISTER_EVENTFD_ASYNC: u32 = 7, since "5.6";
    /// Asks which operations are known: [`io_uring_probe`].
    pub const IORING_REGISTER_PROBE: u32 = 8, since "5.6";
    /// Registers the caller's credentials.
    pub const IORING_REGISTER_PERSONALITY: u32 = 9, since "5.6";
    /// Drops credentials.
    pub const IORING_UNREGISTER_PERSONALITY: u32 = 10, since "5.6";
    /// Says what the ring may do: [`io_uring_restriction`].
    pub const IORING_REGISTER_RESTRICTIONS: u32 = 11, since "5.10";
    /// Ends [`IORING_SETUP_R_DISABLED`].
    pub const IORING_REGISTER_ENABLE_RINGS: u32 = 12, since "5.10";
    /// Registers files, or an empty table for them: [`io_uring_rsrc_register`].
    pub const IORING_REGISTER_FILES2: u32 = 13, since "5.13";
    /// Changes a part of the file table: [`io_uring_rsrc_update2`].
    pub const IORING_REGISTER_FILES_UPDATE2: u32 = 14, since "5.13";
    /// Registers buffers, or an empty table for them: [`io_uring_rsrc_register`].
    pub const IORING_REGISTER_BUFFERS2: u32 = 15, since "5.13";
    /// Changes a part of the buffer table: [`io_uring_rsrc_update2`].
    pub const IORING_REGISTER_BUFFERS_UPDATE: u32 = 16, since "5.13";
    /// Sets on which CPUs workers run.
    pub const IORING_REGISTER_IOWQ_AFF: u32 = 17, since "5.14";
    /// Lets workers run anywhere.
    pub const IORING_UNREGISTER_IOWQ_AFF: u32 = 18, since "5.14";
    /// Sets how many workers there may be.
    pub const IORING_REGISTER_IOWQ_MAX_WORKERS: u32 = 19, since "5.15";
    /// Registers rings, for [`IORING_ENTER_REGISTERED_RING`]: [`io_uring_rsrc_update`].
    pub const IORING_REGISTER_RING_FDS: u32 = 20, since "5.18";
    /// Drops registered rings.
    pub const IORING_UNREGISTER_RING_FDS: u32 = 21, since "5.18";
    /// Registers a ring of provided buffers: [`io_uring_buf_reg`].
    pub const IORING_REGISTER_PBUF_RING: u32 = 22, since "5.19";
    /// Drops a ring of provided buffers.
    pub const IORING_UNREGISTER_PBUF_RING: u32 = 23, since "5.19";
    /// Cancels operations and waits: [`io_uring_sync_cancel_reg`].
    pub const IORING_REGISTER_SYNC_CANCEL: u32 = 24, since "6.0";
    /// Sets which slots of the file table the kernel may choose.
    pub const IORING_REGISTER_FILE_ALLOC_RANGE: u32 = 25, since "6.0";
    /// Asks how far a ring of provided buffers was used.
    pub const IORING_REGISTER_PBUF_STATUS: u32 = 26, since "6.8";
    /// Sets busy polling of network devices.
    pub const IORING_REGISTER_NAPI: u32 = 27, since "6.9";
    /// Ends busy polling of network devices.
    pub const IORING_UNREGISTER_NAPI: u32 = 28, since "6.9";
    /// Sets the clock of waits.
    pub const IORING_REGISTER_CLOCK: u32 = 29, since "6.12";
    /// Takes over another ring's buffer table: [`io_uring_clone_buffers`].
    pub const IORING_REGISTER_CLONE_BUFFERS: u32 = 30, since "6.12";
    /// [`IORING_OP_MSG_RING`] without a ring of one's own.
    pub const IORING_REGISTER_SEND_MSG_RING: u32 = 31, since "6.13";
    /// Registers a network queue for zero-copy receive.
    pub const IORING_REGISTER_ZCRX_IFQ: u32 = 32, since "6.15";
    /// Changes the rings' lengths.
    pub const IORING_REGISTER_RESIZE_RINGS: u32 = 33, since "6.13";
    /// Registers memory for arguments.
    pub const IORING_REGISTER_MEM_REGION: u32 = 34, since "6.13";
    /// Asks what the kernel knows.
    pub const IORING_REGISTER_QUERY: u32 = 35, since "6.18";
    /// Controls zero-copy receive.
    pub const IORING_REGISTER_ZCRX_CTRL: u32 = 36, since "6.19";
    /// Registers a BPF filter.
    pub const IORING_REGISTER_BPF_FILTER: u32 = 37, since "7.0";
    /// Added to an opcode: the ring is given by its registered index.
    pub const IORING_REGISTER_USE_REGISTERED_RING: u32 = 1 << 31, since "6.3";
}

constants! { REGISTER_FLAGS:
    /// Bit of `io_uring_rsrc_register.flags`: an empty table.
    pub const IORING_RSRC_REGISTER_SPARSE: u32 = 1 << 0, since "5.19";
}

/// Argument of [`IORING_REGISTER_FILES2`] and [`IORING_REGISTER_BUFFERS2`] (`struct io_uring_rsrc_register`).
///
/// Since Linux 5.13.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct io_uring_rsrc_register {
    /// Length of the table.
    pub nr: u32,
    /// Bits of `IORING_RSRC_REGISTER_*`.
    pub flags: u32,
    /// Zero.
    pub resv2: u64,
    /// Address of the array of files or buffers; 0 for an empty table.
    pub data: u64,
    /// Address of the array of tags, or 0.
    pub tags: u64,
}
assert_layout!(io_uring_rsrc_register, since = "5.13", size = 32, align = 8, {
    nr: u32 = 0,
    flags: u32 = 4 => ["flags": u32 = 4 since "5.19", "resv": u32 = 4 until "5.19"],
    resv2: u64 = 8, data: u64 = 16, tags: u64 = 24,
});

/// Argument of [`IORING_REGISTER_FILES_UPDATE`] and [`IORING_REGISTER_RING_FDS`] (`struct io_uring_rsrc_update`).
///
/// Since Linux 5.13.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct io_uring_rsrc_update {
    /// First entry to change.
    pub offset: u32,
    /// Zero.
    pub resv: u32,
    /// Address of the array of files; for rings, the ring itself.
    pub data: u64,
}
assert_layout!(io_uring_rsrc_update, since = "5.13", size = 16, align = 8, {
    offset: u32 = 0, resv: u32 = 4, data: u64 = 8,
});

/// Argument of [`IORING_REGISTER_FILES_UPDATE2`] and [`IORING_REGISTER_BUFFERS_UPDATE`]
/// (`struct io_uring_rsrc_update2`).
///
/// Since Linux 5.13.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct io_uring_rsrc_update2 {
    /// First entry to change.
    pub offset: u32,
    /// Zero.
    pub resv: u32,
    /// Address of the array of files or buffers.
    pub data: u64,
    /// Address of the array of tags, or 0.
    pub tags: u64,
    /// Entries to change.
    pub nr: u32,
    /// Zero.
    pub resv2: u32,
}
assert_layout!(io_uring_rsrc_update2, since = "5.13", size = 32, align = 8, {
    offset: u32 = 0, resv: u32 = 4, data: u64 = 8, tags: u64 = 16, nr: u32 = 24, resv2: u32 = 28,
});

constants! { PROBE_FLAGS:
    /// In an array of files: leave this entry as it is.
    pub const IORING_REGISTER_FILES_SKIP: i32 = -2, since "5.12";
    /// Bit of `io_uring_probe_op.flags`: the operation is known.
    pub const IO_URING_OP_SUPPORTED: u16 = 1 << 0, since "5.6";
}

/// What is known of one operation (`struct io_uring_probe_op`).
///
/// Since Linux 5.6.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct io_uring_probe_op {
    /// One of `IORING_OP_*`.
    pub op: u8,
    /// Zero.
    pub resv: u8,
    /// Bits of `IO_URING_OP_*`.
    pub flags: u16,
    /// Zero.
    pub resv2: u32,
}
assert_layout!(io_uring_probe_op, since = "5.6", size = 8, align = 4, {
    op: u8 = 0, resv: u8 = 1, flags: u16 = 2, resv2: u32 = 4,
});

/// Start of the answer of [`IORING_REGISTER_PROBE`] (`struct io_uring_probe`). An array of [`io_uring_probe_op`]
/// follows.
///
/// Since Linux 5.6.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct io_uring_probe {
    /// Last operation known.
    pub last_op: u8,
    /// Length of the array.
    pub ops_len: u8,
    /// Zero.
    pub resv: u16,
    /// Zero.
    pub resv2: [u32; 3],
}
assert_layout!(io_uring_probe, since = "5.6", size = 16, align = 4, {
    last_op: u8 = 0, ops_len: u8 = 1, resv: u16 = 2, resv2: [u32; 3] = 4,
});

/// One thing that a ring may do (`struct io_uring_restriction`).
///
/// Since Linux 5.10.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct io_uring_restriction {
    /// One of `IORING_RESTRICTION_*`.
    pub opcode: u16,
    /// Which one: also `sqe_op`, `sqe_flags`.
    pub register_op: u8,
    /// Zero.
    pub resv: u8,
    /// Zero.
    pub resv2: [u32; 3],
}
assert_layout!(io_uring_restriction, since = "5.10", size = 16, align = 4, {
    opcode: u16 = 0,
    register_op: u8 = 2 => ["register_op": u8 = 2, "sqe_op": u8 = 2, "sqe_flags": u8 = 2],
    resv: u8 = 3, resv2: [u32; 3] = 4,
});

constants! { CLONE_FLAGS:
    /// Bit of `io_uring_clone_buffers.flags`: `src_fd` is a registered index.
    pub const IORING_REGISTER_SRC_REGISTERED: u32 = 1 << 0, since "6.12";
    /// Bit of `io_uring_clone_buffers.flags`: replace what is there.
    pub const IORING_REGISTER_DST_REPLACE: u32 = 1 << 1, since "6.13";
}

/// Argument of [`IORING_REGISTER_CLONE_BUFFERS`] (`struct io_uring_clone_buffers`).
///
/// Since Linux 6.12.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct io_uring_clone_buffers {
    /// The other ring.
    pub src_fd: u32,
    /// Bits of `IORING_REGISTER_SRC_REGISTERED` and `IORING_REGISTER_DST_REPLACE`.
    pub flags: u32,
    /// First entry to take.
    pub src_off: u32,
    /// Where it goes.
    pub dst_off: u32,
    /// Entries to take; 0 for all.
    pub nr: u32,
    /// Zero.
    pub pad: [u32; 3],
}
assert_layout!(io_uring_clone_buffers, since = "6.12", size = 32, align = 4, {
    src_fd: u32 = 0, flags: u32 = 4,
    src_off: u32 = 8 => ["src_off": u32 = 8 since "6.13", "pad": [u32; 6] = 8 until "6.13"],
    dst_off: u32 = 12 => ["dst_off": u32 = 12 since "6.13"],
    nr: u32 = 16 => ["nr": u32 = 16 since "6.13"],
    pad: [u32; 3] = 20 => ["pad": [u32; 3] = 20 since "6.13"],
});

/// One provided buffer (`struct io_uring_buf`), an entry of a ring of them. In the first entry `resv` is the ring's
/// tail
/// (in C `io_uring_buf_ring.tail`).
///
/// Since Linux 5.19.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct io_uring_buf {
    /// Address.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
    /// Its id.
    pub bid: u16,
    /// The ring's tail in the first entry, else not looked at.
    pub resv: u16,
}
assert_layout!(io_uring_buf, since = "5.19", size = 16, align = 8, {
    addr: u64 = 0, len: u32 = 8, bid: u16 = 12, resv: u16 = 14,
});

/// First entry of a ring of provided buffers, seen as the place of its tail (`struct io_uring_buf_ring`).
///
/// Since Linux 5.19.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct io_uring_buf_ring {
    /// Part of the first [`io_uring_buf`].
    pub resv1: u64,
    /// Part of the first [`io_uring_buf`].
    pub resv2: u32,
    /// Part of the first [`io_uring_buf`].
    pub resv3: u16,
    /// Counter of buffers that were provided.
    pub tail: u16,
}
assert_layout!(io_uring_buf_ring, since = "5.19", size = 16, align = 8, {
    resv1: u64 = 0, resv2: u32 = 8, resv3: u16 = 12, tail: u16 = 14,
});

constants! { PBUF_FLAGS:
    /// Bit of `io_uring_buf_reg.flags`: the kernel brings the memory, which is then mapped at [`IORING_OFF_PBUF_RING`].
    pub const IOU_PBUF_RING_MMAP: u16 = 1, since "6.4";
    /// Bit of `io_uring_buf_reg.flags`: a buffer is used up piece by piece.
    pub const IOU_PBUF_RING_INC: u16 = 2, since "6.12";
}

/// Argument of [`IORING_REGISTER_PBUF_RING`] and [`IORING_UNREGISTER_PBUF_RING`] (`struct io_uring_buf_reg`).
///
/// Since Linux 5.19.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct io_uring_buf_reg {
    /// Address of the ring.
    pub ring_addr: u64,
    /// Its length, a power of two.
    pub ring_entries: u32,
    /// Its group.
    pub bgid: u16,
    /// Bits of `IOU_PBUF_RING_*`.
    pub flags: u16,
    /// With [`IOU_PBUF_RING_INC`]: a buffer with less than this left is used up.
    pub min_left: u32,
    /// Zero.
    pub resv: [u32; 5],
}
assert_layout!(io_uring_buf_reg, since = "5.19", size = 40, align = 8, {
    ring_addr: u64 = 0, ring_entries: u32 = 8, bgid: u16 = 12,
    flags: u16 = 14 => ["flags": u16 = 14 since "6.4", "pad": u16 = 14 until "6.4"],
    min_left: u32 = 16 => ["min_left": u32 = 16 since "7.1", "resv": [u64; 3] = 16 until "7.1"],
    resv: [u32; 5] = 20 => ["resv": [u32; 5] = 20 since "7.1"],
});

constants! { RESTRICTIONS:
    /// A registration is allowed.
    pub const IORING_RESTRICTION_REGISTER_OP: u16 = 0, since "5.10";
    /// An operation is allowed.
    pub const IORING_RESTRICTION_SQE_OP: u16 = 1, since "5.10";
    /// Bits of `IOSQE_*` are allowed.
    pub const IORING_RESTRICTION_SQE_FLAGS_ALLOWED: u16 = 2, since "5.10";
    /// Bits of `IOSQE_*` are required.
    pub const IORING_RESTRICTION_SQE_FLAGS_REQUIRED: u16 = 3, since "5.10";
}

/// Argument of `io_uring_enter(2)` with [`IORING_ENTER_EXT_ARG`] (`struct io_uring_getevents_arg`).
///
/// Since Linux 5.11.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct io_uring_getevents_arg {
    /// Address of the signal mask during the wait, or 0.
    pub sigmask: u64,
    /// Size of that mask in bytes.
    pub sigmask_sz: u32,
    /// Microseconds to wait at least, for more completions than one.
    pub min_wait_usec: u32,
    /// Address of the timeout, a [`__kernel_timespec`], or 0.
    pub ts: u64,
}
assert_layout!(io_uring_getevents_arg, since = "5.11", size = 24, align = 8, {
    sigmask: u64 = 0, sigmask_sz: u32 = 8,
    min_wait_usec: u32 = 12 => ["min_wait_usec": u32 = 12 since "6.12", "pad": u32 = 12 until "6.12"],
    ts: u64 = 16,
});

/// Argument of [`IORING_REGISTER_SYNC_CANCEL`] (`struct io_uring_sync_cancel_reg`).
///
/// Since Linux 6.0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct io_uring_sync_cancel_reg {
    /// `user_data` to match.
    pub addr: u64,
    /// File to match.
    pub fd: i32,
    /// Bits of `IORING_ASYNC_CANCEL_*`.
    pub flags: u32,
    /// How long to wait; -1 in both fields for ever.
    pub timeout: __kernel_timespec,
    /// Opcode to match.
    pub opcode: u8,
    /// Zero.
    pub pad: [u8; 7],
    /// Zero.
    pub pad2: [u64; 3],
}
assert_layout!(io_uring_sync_cancel_reg, since = "6.0", size = 64, align = 8, {
    addr: u64 = 0, fd: i32 = 8, flags: u32 = 12, timeout: __kernel_timespec = 16,
    opcode: u8 = 32 => ["opcode": u8 = 32 since "6.6", "pad": [u64; 4] = 32 until "6.6"],
    pad: [u8; 7] = 33 => ["pad": [u8; 7] = 33 since "6.6"],
    pad2: [u64; 3] = 40 => ["pad2": [u64; 3] = 40 since "6.6"],
});

/// A time, or a duration (`struct __kernel_timespec` of `linux/time_types.h`).
///
/// Since Linux 5.1.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct __kernel_timespec {
    /// Seconds.
    pub tv_sec: i64,
    /// Nanoseconds, `0..1_000_000_000`.
    pub tv_nsec: i64,
}
assert_layout!(__kernel_timespec, since = "5.1", size = 16, align = 8, { tv_sec: i64 = 0, tv_nsec: i64 = 8 });

/// What is mirrored of `linux/io_uring.h`.
pub(crate) const TABLE: Table = Table {
    header: "linux/io_uring.h",
    structs: &[
        io_uring_sqe::LAYOUT,
        io_uring_cqe::LAYOUT,
        io_sqring_offsets::LAYOUT,
        io_cqring_offsets::LAYOUT,
        io_uring_params::LAYOUT,
        io_uring_rsrc_register::LAYOUT,
        io_uring_rsrc_update::LAYOUT,
        io_uring_rsrc_update2::LAYOUT,
        io_uring_probe_op::LAYOUT,
        io_uring_probe::LAYOUT,
        io_uring_restriction::LAYOUT,
        io_uring_clone_buffers::LAYOUT,
        io_uring_buf::LAYOUT,
        io_uring_buf_ring::LAYOUT,
        io_uring_buf_reg::LAYOUT,
        io_uring_getevents_arg::LAYOUT,
        io_uring_sync_cancel_reg::LAYOUT,
    ],
    constants: &[
        SQE_FLAGS,
        SETUP_FLAGS,
        OPCODES,
        OPERATION_FLAGS,
        CQE_FLAGS,
        MMAP_OFFSETS,
        SQ_FLAGS,
        ENTER_FLAGS,
        RING_FEATURES,
        REGISTER_OPCODES,
        REGISTER_FLAGS,
        PROBE_FLAGS,
        CLONE_FLAGS,
        PBUF_FLAGS,
        RESTRICTIONS,
    ],
};

/// What is mirrored of `linux/time_types.h`.
pub(crate) const TIME_TYPES: Table =
    Table { header: "linux/time_types.h", structs: &[__kernel_timespec::LAYOUT], constants: &[] };
