// SPDX-License-Identifier: MIT OR Apache-2.0
//! Operations: submission entries that are ready but for their user data.
//!
//! This is where promises to the kernel are made. An operation that carries an address, or that has effects which the
//! ring cannot judge, is made by an `unsafe` function whose caller promises that the memory stays; everything after
//! that (push, submit, wait) is safe.
#![expect(unsafe_code, reason = "functions whose callers promise that what they name stays; nothing is accessed")]

use ublk_sys::{
    IORING_OP_NOP, IORING_OP_POLL_ADD, IORING_OP_URING_CMD, IORING_POLL_ADD_MULTI, io_uring_sqe, io_uring_sqe_cmd_op,
};

use crate::syscall::Fd;

/// An operation of 64 bytes, for a [`Local`](super::Local) ring.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Op {
    sqe: io_uring_sqe,
}

/// An operation of 128 bytes, for a [`Wide`](super::Wide) ring: its command area goes on through the second half.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WideOp {
    sqe: io_uring_sqe,
    /// Bytes 64 to 127.
    rest: [u64; 8],
}

static_assertions::assert_impl_all!(Op: Send, Sync);
static_assertions::assert_impl_all!(WideOp: Send, Sync);

const _: () = assert!(size_of::<Op>() == 64 && size_of::<WideOp>() == 128);

/// An entry of a submission queue.
pub trait Entry: sealed::Sealed + Copy {
    /// An operation that does nothing and completes with 0 (`IORING_OP_NOP`, Linux 5.1).
    fn nop() -> Self;
}

pub(super) mod sealed {
    pub trait Sealed {
        fn set_user_data(&mut self, user_data: u64);
    }
}

impl sealed::Sealed for Op {
    fn set_user_data(&mut self, user_data: u64) {
        self.sqe.user_data = user_data;
    }
}

impl sealed::Sealed for WideOp {
    fn set_user_data(&mut self, user_data: u64) {
        self.sqe.user_data = user_data;
    }
}

impl Entry for Op {
    fn nop() -> Op {
        let mut sqe = io_uring_sqe::default();
        sqe.opcode = IORING_OP_NOP;
        Op { sqe }
    }
}

impl Entry for WideOp {
    fn nop() -> WideOp {
        WideOp { sqe: Op::nop().sqe, rest: [0; 8] }
    }
}

/// A command to the file's own driver, without its command area.
fn uring_cmd(fd: &Fd, cmd_op: u32) -> io_uring_sqe {
    let mut sqe = io_uring_sqe::default();
    sqe.opcode = IORING_OP_URING_CMD;
    sqe.fd = fd.raw();
    sqe.off = io_uring_sqe_cmd_op(cmd_op);
    sqe
}

impl Op {
    /// A command to the file's own driver (`IORING_OP_URING_CMD`, Linux 5.19), with the 16 bytes of its command area,
    /// which stand at bytes 48 to 63 of the entry.
    ///
    /// # Safety
    ///
    /// Whatever the driver of `fd` reads or writes because of this command stays valid, and is used by nobody else,
    /// until the command's completion was reaped. `fd` stays open until the operation was submitted.
    #[must_use]
    pub unsafe fn uring_cmd(fd: &Fd, cmd_op: u32, area: [u64; 2]) -> Op {
        let mut sqe = uring_cmd(fd, cmd_op);
        [sqe.addr3, sqe.__pad2] = area;
        Op { sqe }
    }

    /// Completes when one of `events` (`POLLIN` ...) is there (`IORING_OP_POLL_ADD`, Linux 5.1).
    ///
    /// `fd` has to stay open until the operation was submitted; if it does not, the operation fails with `EBADF`, or
    /// polls the file that took its number.
    #[must_use]
    pub fn poll_add(fd: &Fd, events: u16) -> Op {
        let mut sqe = io_uring_sqe::default();
        sqe.opcode = IORING_OP_POLL_ADD;
        sqe.fd = fd.raw();
        // The kernel swaps the half-words of poll32_events on a big-endian machine.
        let events = u32::from(events);
        sqe.rw_flags = if cfg!(target_endian = "big") { events.rotate_left(16) } else { events };
        Op { sqe }
    }

    /// As [`poll_add`](Op::poll_add), and completes again each time that an event comes, for as long as the completion has
    /// `IORING_CQE_F_MORE` (`IORING_POLL_ADD_MULTI`, Linux 5.13).
    #[must_use]
    pub fn poll_add_multishot(fd: &Fd, events: u16) -> Op {
        let mut op = Op::poll_add(fd, events);
        op.sqe.len = IORING_POLL_ADD_MULTI;
        op
    }
}

impl WideOp {
    /// A command to the file's own driver (`IORING_OP_URING_CMD`, Linux 5.19), with the first 32 of the 80 bytes of its
    /// command area, which stand at bytes 48 to 79 of the entry: the area starts in the first half and goes on in the
    /// second. The rest is zero.
    ///
    /// # Safety
    ///
    /// As for [`Op::uring_cmd`].
    #[must_use]
    pub unsafe fn uring_cmd(fd: &Fd, cmd_op: u32, area: [u64; 4]) -> WideOp {
        let mut sqe = uring_cmd(fd, cmd_op);
        let [first, second, third, fourth] = area;
        [sqe.addr3, sqe.__pad2] = [first, second];
        WideOp { sqe, rest: [third, fourth, 0, 0, 0, 0, 0, 0] }
    }
}
