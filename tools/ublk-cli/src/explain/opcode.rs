// SPDX-License-Identifier: MIT OR Apache-2.0
//! The operations of io_uring by their numbers.

/// `IORING_OP_*` of Linux 7.3 without its prefix, by number.
const NAMES: [&str; 65] = [
    "NOP",
    "READV",
    "WRITEV",
    "FSYNC",
    "READ_FIXED",
    "WRITE_FIXED",
    "POLL_ADD",
    "POLL_REMOVE",
    "SYNC_FILE_RANGE",
    "SENDMSG",
    "RECVMSG",
    "TIMEOUT",
    "TIMEOUT_REMOVE",
    "ACCEPT",
    "ASYNC_CANCEL",
    "LINK_TIMEOUT",
    "CONNECT",
    "FALLOCATE",
    "OPENAT",
    "CLOSE",
    "FILES_UPDATE",
    "STATX",
    "READ",
    "WRITE",
    "FADVISE",
    "MADVISE",
    "SEND",
    "RECV",
    "OPENAT2",
    "EPOLL_CTL",
    "SPLICE",
    "PROVIDE_BUFFERS",
    "REMOVE_BUFFERS",
    "TEE",
    "SHUTDOWN",
    "RENAMEAT",
    "UNLINKAT",
    "MKDIRAT",
    "SYMLINKAT",
    "LINKAT",
    "MSG_RING",
    "FSETXATTR",
    "SETXATTR",
    "FGETXATTR",
    "GETXATTR",
    "SOCKET",
    "URING_CMD",
    "SEND_ZC",
    "SENDMSG_ZC",
    "READ_MULTISHOT",
    "WAITID",
    "FUTEX_WAIT",
    "FUTEX_WAKE",
    "FUTEX_WAITV",
    "FIXED_FD_INSTALL",
    "FTRUNCATE",
    "BIND",
    "LISTEN",
    "RECV_ZC",
    "EPOLL_WAIT",
    "READV_FIXED",
    "WRITEV_FIXED",
    "PIPE",
    "NOP128",
    "URING_CMD128",
];

/// The name of an operation; `None`: Linux 7.3 has none of that number.
pub(super) fn name(opcode: u8) -> Option<&'static str> {
    NAMES.get(usize::from(opcode)).copied()
}

/// Whether it is one that carries commands.
pub(super) fn is_command(opcode: u8) -> bool {
    [ublk_sys::IORING_OP_URING_CMD, ublk_sys::IORING_OP_URING_CMD128].contains(&opcode)
}

#[cfg(test)]
mod tests {
    use super::name;
    use ublk_sys::layout::TABLES;

    #[test]
    fn the_names_are_those_of_the_mirror() {
        let constants = TABLES.iter().flat_map(|table| table.constants).flat_map(|group| group.iter());
        let mut found = 0;
        for constant in constants {
            if let Some(own) = constant.name.strip_prefix("IORING_OP_") {
                assert_eq!(name(u8::try_from(constant.value).unwrap()), Some(own));
                found += 1;
            }
        }
        assert!(found > 20, "{found}");
        assert_eq!(name(51), Some("FUTEX_WAIT"));
        assert_eq!(name(65), None);
    }
}
