// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which part of each header is in the mirror's scope, and what of it is left out, with the reason. This is the one place
//! that says so; whatever else a header has must be mirrored.

/// The part of a header that is in scope.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) header: &'static str,
    /// Names, or how they begin; empty for all of the header.
    only: &'static [&'static str],
}

impl Part {
    pub(crate) fn has(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|start| name.starts_with(start))
    }
}

/// The scope.
pub(crate) const PARTS: [Part; 6] = [
    Part { header: "linux/ublk_cmd.h", only: &[] },
    Part { header: "linux/io_uring.h", only: &[] },
    Part { header: "linux/time_types.h", only: &["__kernel_timespec"] },
    Part { header: "linux/blkzoned.h", only: &[] },
    // File systems' affairs else.
    Part { header: "linux/fs.h", only: &["LBMD_PI_"] },
    Part { header: "linux/blkdev.h", only: &[] },
];

/// Where what that header has goes.
pub(crate) fn file_of(header: &str) -> &'static str {
    match header {
        "linux/ublk_cmd.h" => "ublk-sys/src/ublk_cmd.rs",
        "linux/blkzoned.h" => "ublk-sys/src/blkzoned.rs",
        "linux/fs.h" => "ublk-sys/src/fs.rs",
        "linux/blkdev.h" => "ublk-sys/src/blkdev.rs",
        _ => "ublk-sys/src/io_uring.rs",
    }
}

/// Whether that constant, struct, or `struct.member` is left out, alone or with its struct.
pub(crate) fn is_left_out(name: &str) -> bool {
    LEFT_OUT.iter().any(|(_, names)| names.contains(&name))
}

/// What is in scope and is not mirrored, by reason.
pub(crate) const LEFT_OUT: &[(&str, &[&str])] = &[
    (
        "BLKREPORTZONE and its like are ioctls of zoned disks: the client's side",
        &[
            "BLKCLOSEZONE",
            "BLKFINISHZONE",
            "BLKGETNRZONES",
            "BLKGETZONESZ",
            "BLKOPENZONE",
            "BLKREPORTZONE",
            "BLKRESETZONE",
            "blk_zone_range",
            "blk_zone_report",
            "BLKREPORTZONEV2",
        ],
    ),
    (
        "the number of a bit that is mirrored as a mask",
        &[
            "IOSQE_ASYNC_BIT",
            "IOSQE_BUFFER_SELECT_BIT",
            "IOSQE_CQE_SKIP_SUCCESS_BIT",
            "IOSQE_FIXED_FILE_BIT",
            "IOSQE_IO_DRAIN_BIT",
            "IOSQE_IO_HARDLINK_BIT",
            "IOSQE_IO_LINK_BIT",
        ],
    ),
    (
        "it grows with each release, and bounds what that release's headers know",
        &["IORING_OP_LAST", "IORING_REGISTER_LAST", "IORING_RESTRICTION_LAST", "IORING_URING_CMD_MASK"],
    ),
    (
        "an array without a length at the end of a struct that is mirrored: its elements follow",
        &["io_uring_buf_ring.bufs", "io_uring_cqe.big_cqe", "io_uring_probe.ops"],
    ),
    (
        "files by path and their attributes: a target has its files open",
        &[
            "IORING_OP_OPENAT",
            "IORING_OP_OPENAT2",
            "IORING_OP_STATX",
            "IORING_OP_RENAMEAT",
            "IORING_OP_UNLINKAT",
            "IORING_OP_MKDIRAT",
            "IORING_OP_SYMLINKAT",
            "IORING_OP_LINKAT",
            "IORING_OP_FSETXATTR",
            "IORING_OP_SETXATTR",
            "IORING_OP_FGETXATTR",
            "IORING_OP_GETXATTR",
            "IORING_OP_FTRUNCATE",
        ],
    ),
    (
        "advice, and pipes: no part of reading and writing blocks",
        &[
            "IORING_OP_FADVISE",
            "IORING_OP_MADVISE",
            "IORING_OP_SPLICE",
            "IORING_OP_TEE",
            "IORING_OP_PIPE",
            "SPLICE_F_FD_IN_FIXED",
        ],
    ),
    (
        "sockets' set-up: a target has its connections open",
        &[
            "IORING_ACCEPT_MULTISHOT",
            "IORING_ACCEPT_DONTWAIT",
            "IORING_ACCEPT_POLL_FIRST",
            "SOCKET_URING_OP_GETSOCKOPT",
            "SOCKET_URING_OP_SETSOCKOPT",
            "SOCKET_URING_OP_SIOCINQ",
            "SOCKET_URING_OP_SIOCOUTQ",
            "SOCKET_URING_OP_GETSOCKNAME",
            "SOCKET_URING_OP_TX_TIMESTAMP",
            "IORING_OP_ACCEPT",
            "IORING_OP_CONNECT",
            "IORING_OP_SHUTDOWN",
            "IORING_OP_SOCKET",
            "IORING_OP_BIND",
            "IORING_OP_LISTEN",
            "IORING_CQE_F_TSTAMP_HW",
            "IORING_TIMESTAMP_HW_SHIFT",
            "IORING_TIMESTAMP_TYPE_SHIFT",
            "io_timespec",
        ],
    ),
    (
        "streams in pieces: zero-copy receive, and messages and reads without an end",
        &["IORING_OP_RECV_ZC", "IORING_OP_READ_MULTISHOT", "io_uring_recvmsg_out"],
    ),
    (
        "waiting for what is no I/O: epoll, futexes and processes",
        &[
            "IORING_OP_EPOLL_CTL",
            "IORING_OP_EPOLL_WAIT",
            "IORING_OP_FUTEX_WAIT",
            "IORING_OP_FUTEX_WAITV",
            "IORING_OP_FUTEX_WAKE",
            "IORING_OP_WAITID",
        ],
    ),
    (
        "busy polling of networks",
        &[
            "io_uring_napi",
            "IO_URING_NAPI_REGISTER_OP",
            "IO_URING_NAPI_STATIC_ADD_ID",
            "IO_URING_NAPI_STATIC_DEL_ID",
            "IO_URING_NAPI_TRACKING_DYNAMIC",
            "IO_URING_NAPI_TRACKING_INACTIVE",
            "IO_URING_NAPI_TRACKING_STATIC",
        ],
    ),
    (
        "older than buffer rings, which are mirrored",
        &["IORING_OP_PROVIDE_BUFFERS", "IORING_OP_REMOVE_BUFFERS", "io_uring_buf_status"],
    ),
    (
        "registered files are changed with io_uring_rsrc_update2, in slots that the server chooses",
        &[
            "IORING_OP_FILES_UPDATE",
            "io_uring_files_update",
            "IORING_FILE_INDEX_ALLOC",
            "io_uring_file_index_range",
            "IORING_OP_FIXED_FD_INSTALL",
            "IORING_FIXED_FD_NO_CLOEXEC",
        ],
    ),
    (
        "arguments of waiting and of clocks in registered memory",
        &[
            "io_uring_clock_register",
            "IORING_MEM_REGION_REG_WAIT_ARG",
            "IORING_MEM_REGION_TYPE_USER",
            "IORING_REG_WAIT_TS",
            "io_uring_mem_region_reg",
            "io_uring_reg_wait",
            "io_uring_region_desc",
        ],
    ),
    (
        "worker threads' and tasks' limits: the administrator's affair",
        &["IO_WQ_BOUND", "IO_WQ_UNBOUND", "io_uring_task_restriction"],
    ),
    (
        "protection information with reads and writes of files: no target of ours has any",
        &["IORING_RW_ATTR_FLAG_PI", "io_uring_attr_pi"],
    ),
    (
        "left the header again, and no release had a use for it",
        &["io_uring_notification_register", "io_uring_notification_slot"],
    ),
];
