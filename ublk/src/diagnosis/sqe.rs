// SPDX-License-Identifier: MIT OR Apache-2.0
//! What io_uring refuses of an entry before the driver sees it, and what the driver looks at first.

use core::mem::offset_of;

use ublk_sys::{
    IORING_OP_URING_CMD, IORING_OP_URING_CMD128, IORING_URING_CMD_FIXED, IORING_URING_CMD_MULTISHOT,
    IOSQE_BUFFER_SELECT, IOSQE_CQE_SKIP_SUCCESS, io_uring_sqe,
};

use crate::diagnosis::rule::{
    Answer, Attempt, EACCES, EBADF, ECANCELED, EFAULT, EINVAL, ENODEV, ENOMEM, EOPNOTSUPP, Holds, certainly, possibly,
    rules, told,
};
use crate::diagnosis::seen::{Bytes, Seen};
use crate::errno::Errno;
use crate::error::Command;

const OPCODE: usize = offset_of!(io_uring_sqe, opcode);
const FLAGS: usize = offset_of!(io_uring_sqe, flags);
const IOPRIO: usize = offset_of!(io_uring_sqe, ioprio);
const FD: usize = offset_of!(io_uring_sqe, fd);
/// `__pad1`, behind `cmd_op`.
const PAD: usize = offset_of!(io_uring_sqe, off) + 4;
/// `uring_cmd_flags`.
const COMMAND_FLAGS: usize = offset_of!(io_uring_sqe, rw_flags);
const BUFFER_INDEX: usize = offset_of!(io_uring_sqe, buf_index);
const PERSONALITY: usize = offset_of!(io_uring_sqe, personality);

rules! {
    Attempt::Entry, "io_init_req" {
        Answer::Any, "sqe.opcode", |s| certainly(![IORING_OP_URING_CMD, IORING_OP_URING_CMD128].contains(&s.sqe.u8(OPCODE))),
            "the opcode, byte 0, is not IORING_OP_URING_CMD, so another operation was asked for and the driver never saw the command",
            "set byte 0 of the entry to 46 (0x2e), which IORING_OP_URING_CMD is on every kernel";
        EINVAL, "sqe.opcode-128", |s| if s.sqe.u8(OPCODE) == IORING_OP_URING_CMD128 { told(s.environment.kernel.map(|kernel| kernel < (6, 19))) } else { Holds::No },
            "the opcode, byte 0, is IORING_OP_URING_CMD128, which needs Linux 6.19 and a ring made with IORING_SETUP_SQE_MIXED or IORING_SETUP_SQE128",
            "set byte 0 of the entry to 46 (0x2e), and make the ring with IORING_SETUP_SQE128";
        EINVAL, "sqe.flags", |s| certainly(s.sqe.u8(FLAGS) >= IOSQE_CQE_SKIP_SUCCESS << 1),
            "byte 1, flags, has a bit that io_uring does not know",
            "clear bit 7 of byte 1; IOSQE_FIXED_FILE is all that a ublk command needs there";
        EOPNOTSUPP, "sqe.buffer-select" until (6, 18), |s| certainly(s.has_flag(IOSQE_BUFFER_SELECT)),
            "byte 1, flags, has IOSQE_BUFFER_SELECT, which commands do not take before Linux 6.18",
            "clear bit 5 of byte 1";
        EACCES, "ring.restricted", |s| unless_ours(s, s.environment.ring_is_restricted),
            "the ring is restricted to other operations (IORING_REGISTER_RESTRICTIONS)",
            "allow IORING_OP_URING_CMD, with the flags that are used, before the ring is enabled";
        EINVAL, "sqe.ioprio", |s| certainly(s.sqe.u16(IOPRIO) != 0),
            "bytes 2 and 3, ioprio, are not 0",
            "write zeroes there: clear the whole entry before it is filled";
        EINVAL, "sqe.personality", |s| possibly(s.sqe.u16(PERSONALITY) != 0),
            "bytes 42 and 43, personality, are not 0, and name no registered personality",
            "write zeroes there: clear the whole entry before it is filled";
    }
    Attempt::Entry, "io_uring_cmd_prep" {
        EINVAL, "sqe.pad", |s| certainly(s.sqe.u32(PAD) != 0),
            "bytes 12 to 15, behind cmd_op, are not 0",
            "write cmd_op as 32 bits at byte 8, and zeroes behind it";
        EINVAL, "sqe.command-flags", |s| certainly(s.sqe.u32(COMMAND_FLAGS) & !s.known_command_flags() != 0),
            "bytes 28 to 31, uring_cmd_flags, have a bit that this kernel does not know",
            "write zeroes there, but for the multishot flag of FETCH_IO_CMDS (Linux 6.18)";
        EINVAL, "sqe.multishot" since (6, 18), |s| certainly(s.command_flag(IORING_URING_CMD_MULTISHOT) != s.has_flag(IOSQE_BUFFER_SELECT)
                || s.command_flag(IORING_URING_CMD_MULTISHOT) && s.command_flag(IORING_URING_CMD_FIXED)),
            "IORING_URING_CMD_MULTISHOT (bytes 28 to 31) and IOSQE_BUFFER_SELECT (byte 1) go together, and never with IORING_URING_CMD_FIXED",
            "set both for FETCH_IO_CMDS, and neither for any other command";
        EFAULT, "sqe.fixed-buffer" until (6, 15), |s| match s.environment.ring_buffers {
                _ if !s.command_flag(IORING_URING_CMD_FIXED) => Holds::No,
                Some(buffers) if u32::from(s.sqe.u16(BUFFER_INDEX)) >= buffers => Holds::Certainly,
                _ => Holds::Possibly,
            },
            "IORING_URING_CMD_FIXED names an entry of the ring's table of buffers that is empty",
            "clear bytes 28 to 31: no command of ublk uses a registered buffer in that way";
    }
    Attempt::Entry, "io_assign_file" {
        EBADF, "sqe.fd", |s| unless_ours(s, (s.sqe.i32(FD) < 0).then_some(true)),
            "bytes 4 to 7, fd, are not an open file; with IOSQE_FIXED_FILE they are an index of the ring's registered files",
            "put the open /dev/ublk-control there for a control command, and the open /dev/ublkcN for an I/O command";
    }
    Attempt::Entry, "io_uring_cmd" {
        EOPNOTSUPP, "sqe.file", |s| unless_ours(s, s.environment.fd_is_ublk.map(|is_ublk| !is_ublk)),
            "the file of bytes 4 to 7, fd, takes no commands",
            "put the open /dev/ublk-control there for a control command, and the open /dev/ublkcN for an I/O command";
        EACCES, "sqe.security-module", |s| possibly(s.environment.ring_is_restricted != Some(true)),
            "a security module, such as SELinux, forbids io_uring commands on this file",
            "allow it there (SELinux: io_uring cmd), or look in its log";
        EOPNOTSUPP, "ring.polls" until (7, 3), |s| unless_ours(s, s.environment.ring_polls),
            "the ring was made with IORING_SETUP_IOPOLL, and ublk's files cannot be polled so",
            "make the ring without that flag";
        ENOMEM, "sqe.memory", |_| possibly(true),
            "the kernel has no memory to keep the command in",
            "give the machine, or the control group of this process, more memory";
        ECANCELED, "sqe.cancelled", |s| possibly(!(s.is_ours() && s.is_control())),
            "the command was cancelled before it ran, by IORING_OP_ASYNC_CANCEL or because its ring or thread ended",
            "keep the thread and the ring until the command's completion was taken";
    }
    Attempt::Entry, "io_wq_enqueue" {
        ECANCELED, "command.no-worker", |s| if s.is_control() { told(s.is_ours().then_some(true)) } else { Holds::No },
            "a control command that may wait is run by a worker thread of io_uring's, and the kernel could not make one: no more threads are allowed, or signals interrupted it each time",
            "raise RLIMIT_NPROC (ulimit -u), pids.max of the control group, or sysctl kernel.threads-max";
    }
    Attempt::Entry, "ublk_ctrl_uring_cmd" {
        EINVAL, "sqe.size", |s| if !s.is_control() { Holds::No } else if s.sqe.is_wide() { unless_ours(s, s.environment.entries_are_wide.map(|wide| !wide)) } else { Holds::Certainly },
            "a control command is in an entry of 64 bytes, and the driver needs 128",
            "make the ring with IORING_SETUP_SQE128";
        Answer::AnyBut(Errno::EOPNOTSUPP), "sqe.command-at-64", |s| certainly(s.is_command_at_64()),
            "the command stands at byte 64 of the entry, and the driver reads it at byte 48, where there is nothing: it sees length 0, device 0, queue 0 and tag 0",
            "write the command at byte 48: it starts in the first half of the entry, and what IORING_SETUP_SQE128 adds is where a control command goes on";
    }
    Attempt::Entry, "ublk_check_cmd_op" {
        EOPNOTSUPP, "encoding.legacy", |s| if s.ioctl_type() == 0 && s.environment.kernel.is_none_or(|kernel| kernel >= (6, 4)) { certainly(s.environment.legacy_opcodes != Some(true)) } else { Holds::No },
            "cmd_op is the bare number of before Linux 6.4, which the driver takes only if it was built with CONFIG_BLKDEV_UBLK_LEGACY_OPCODES",
            "send UBLK_U_CMD_* and UBLK_U_IO_*, which are numbers made by _IOR and _IOWR: ADD_DEV is 0xc0207504";
        EOPNOTSUPP, "encoding.type", |s| certainly(![0, b'u'].contains(&s.ioctl_type())),
            "bits 8 to 15 of cmd_op are not 'u' (0x75), so the driver does not take it for a command of its own",
            "send UBLK_U_CMD_* and UBLK_U_IO_* as <linux/ublk_cmd.h> has them";
        ENODEV, "encoding.get-features", |s| certainly(s.is(Command::GET_FEATURES) && s.sqe.cmd_op() != Command::GET_FEATURES.raw()),
            "cmd_op has the number of GET_FEATURES, which is taken in its full encoding only; any other is looked up as a command to a device",
            "send 0x80207513, which is UBLK_U_CMD_GET_FEATURES on most machines";
        Answer::Taken, "encoding.size", |s| certainly(s.ioctl_type() == b'u' && s.sqe.command().is_some_and(|command| command.raw() != s.sqe.cmd_op() && command != Command::GET_FEATURES)),
            "the size or the direction in cmd_op is not that of the command; the driver looks at the number alone and takes it, but whoever wrote it may have the struct's size wrong",
            "send UBLK_U_CMD_* (32 bytes) and UBLK_U_IO_* (16 bytes) as <linux/ublk_cmd.h> has them";
    }
}

/// This, unless this crate made the entry and the ring.
fn unless_ours(seen: &Seen<'_>, broken: Option<bool>) -> Holds {
    if seen.is_ours() { Holds::No } else { told(broken) }
}

impl Seen<'_> {
    fn has_flag(&self, flag: u8) -> bool {
        self.sqe.u8(FLAGS) & flag != 0
    }

    fn command_flag(&self, flag: u32) -> bool {
        self.sqe.u32(COMMAND_FLAGS) & flag != 0
    }

    fn known_command_flags(&self) -> u32 {
        let is_old = self.environment.kernel.is_some_and(|kernel| kernel < (6, 18));
        IORING_URING_CMD_FIXED | if is_old { 0 } else { IORING_URING_CMD_MULTISHOT }
    }

    /// `_IOC_TYPE` of `cmd_op`.
    fn ioctl_type(&self) -> u8 {
        self.sqe.cmd_op().to_le_bytes()[1]
    }
}
