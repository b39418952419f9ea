// SPDX-License-Identifier: MIT OR Apache-2.0
//! Operations: submission entries that are ready but for their user data.
//!
//! This is where promises to the kernel are made. An operation that carries an address, or that has effects which the
//! ring cannot judge, is made by an `unsafe` function whose caller promises that the memory stays; everything after
//! that (push, submit, wait) is safe.
#![expect(unsafe_code, reason = "functions whose callers promise that what they name stays; nothing is accessed")]

use ublk_sys::{
    BLOCK_URING_CMD_DISCARD, IORING_FSYNC_DATASYNC, IORING_OP_ASYNC_CANCEL, IORING_OP_FALLOCATE, IORING_OP_FSYNC,
    IORING_OP_NOP, IORING_OP_POLL_ADD, IORING_OP_READ, IORING_OP_READ_FIXED, IORING_OP_READV, IORING_OP_READV_FIXED,
    IORING_OP_RECV, IORING_OP_SEND, IORING_OP_TIMEOUT, IORING_OP_URING_CMD, IORING_OP_WRITE, IORING_OP_WRITE_FIXED,
    IORING_OP_WRITEV, IORING_OP_WRITEV_FIXED, IORING_POLL_ADD_MULTI, IORING_URING_CMD_MULTISHOT, IOSQE_ASYNC,
    IOSQE_BUFFER_SELECT, IOSQE_CQE_SKIP_SUCCESS, IOSQE_FIXED_FILE, IOSQE_IO_HARDLINK, IOSQE_IO_LINK, io_uring_sqe,
    io_uring_sqe_cmd_op,
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

/// The file that an operation is about.
///
/// Where it is named by its descriptor, that has to stay open until the operation was submitted; if it does not, the operation
/// fails with `EBADF`, or goes to the file that took its number. From then on the kernel holds the file.
#[derive(Clone, Copy, Debug)]
pub enum OpFile<'f> {
    /// By its descriptor.
    Fd(&'f Fd),
    /// By its slot among the ring's registered files (`IOSQE_FIXED_FILE`, Linux 5.1), which spares the kernel a look-up. A slot
    /// without a file fails the operation with `EBADF`.
    Registered(u32),
}

static_assertions::assert_impl_all!(Op: Send, Sync);
static_assertions::assert_impl_all!(WideOp: Send, Sync);
static_assertions::assert_impl_all!(OpFile<'static>: Send, Sync);

const _: () = assert!(size_of::<Op>() == 64 && size_of::<WideOp>() == 128);

impl<'f> From<&'f Fd> for OpFile<'f> {
    fn from(fd: &'f Fd) -> OpFile<'f> {
        OpFile::Fd(fd)
    }
}

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

/// An operation on `file`, else zeroes.
fn on(opcode: u8, file: OpFile<'_>) -> io_uring_sqe {
    let mut sqe = io_uring_sqe::default();
    sqe.opcode = opcode;
    match file {
        OpFile::Fd(fd) => sqe.fd = fd.raw(),
        OpFile::Registered(index) => {
            sqe.flags = IOSQE_FIXED_FILE;
            // The kernel reads the 32 bits as unsigned.
            sqe.fd = i32::from_ne_bytes(index.to_ne_bytes());
        }
    }
    sqe
}

/// A command to the file's own driver, without its command area.
fn uring_cmd(file: OpFile<'_>, cmd_op: u32) -> io_uring_sqe {
    let mut sqe = on(IORING_OP_URING_CMD, file);
    sqe.off = io_uring_sqe_cmd_op(cmd_op);
    sqe
}

/// A transfer between `file` and memory.
fn transfer(opcode: u8, file: OpFile<'_>, offset: u64, addr: u64, len: u32, buffer: u16) -> Op {
    let mut sqe = on(opcode, file);
    sqe.off = offset;
    sqe.addr = addr;
    sqe.len = len;
    sqe.buf_index = buffer;
    Op { sqe }
}

/// Commands to a file's driver.
impl Op {
    /// A command to the file's own driver (`IORING_OP_URING_CMD`, Linux 5.19), with the 16 bytes of its command area,
    /// which stand at bytes 48 to 63 of the entry.
    ///
    /// # Safety
    ///
    /// Whatever the driver of `file` reads or writes because of this command stays valid, and is used by nobody else,
    /// until the command's completion was reaped.
    #[must_use]
    pub unsafe fn uring_cmd<'f>(file: impl Into<OpFile<'f>>, cmd_op: u32, area: [u64; 2]) -> Op {
        let mut sqe = uring_cmd(file.into(), cmd_op);
        [sqe.addr3, sqe.__pad2] = area;
        Op { sqe }
    }

    /// As [`uring_cmd`](Op::uring_cmd), and with `addr` at bytes 16 to 23, where some commands have an address or a value
    /// beside the command area.
    ///
    /// # Safety
    ///
    /// As for [`uring_cmd`](Op::uring_cmd), for what the driver makes of `addr` too.
    #[must_use]
    pub unsafe fn uring_cmd_addr<'f>(file: impl Into<OpFile<'f>>, cmd_op: u32, area: [u64; 2], addr: u64) -> Op {
        // SAFETY: the caller promises the same.
        let mut op = unsafe { Op::uring_cmd(file, cmd_op, area) };
        op.sqe.addr = addr;
        op
    }

    /// As [`uring_cmd`](Op::uring_cmd), and completes again and again, for as long as the completion has
    /// `IORING_CQE_F_MORE`; each time the driver writes to a buffer of this group of provided buffers, which the completion names
    /// (`IORING_URING_CMD_MULTISHOT` with `IOSQE_BUFFER_SELECT`, Linux 6.18).
    ///
    /// # Safety
    ///
    /// As for [`uring_cmd`](Op::uring_cmd), until the completion that says that no more come. The provided buffers are no part
    /// of the promise where they are a [`BufferRing`](super::BufferRing).
    #[must_use]
    pub unsafe fn uring_cmd_multishot<'f>(
        file: impl Into<OpFile<'f>>,
        cmd_op: u32,
        area: [u64; 2],
        buffer_group: u16,
    ) -> Op {
        // SAFETY: the caller promises the same.
        let mut op = unsafe { Op::uring_cmd(file, cmd_op, area) };
        op.sqe.rw_flags = IORING_URING_CMD_MULTISHOT;
        op.provided(buffer_group)
    }

    /// Discards `len` bytes of a block device from `offset`, both in bytes and whole logical blocks: what they hold is
    /// lost, and what is read from there then depends on the device (`BLOCK_URING_CMD_DISCARD`, Linux 6.12). Of a file that is no
    /// block device the result is as a rule `-EOPNOTSUPP`. In liburing: `io_uring_prep_cmd_discard()`.
    #[must_use]
    pub fn block_discard<'f>(file: impl Into<OpFile<'f>>, offset: u64, len: u64) -> Op {
        let mut sqe = uring_cmd(file.into(), BLOCK_URING_CMD_DISCARD);
        sqe.addr = offset;
        sqe.addr3 = len;
        Op { sqe }
    }
}

/// Reading and writing. The result is the bytes done, which may be fewer than asked for, or a negative errno. An offset is in
/// bytes; `u64::MAX` stands for the file's own position, and a pipe or a socket looks at none.
impl Op {
    /// Reads `len` bytes of `file` at `offset` to `addr` (`IORING_OP_READ`, Linux 5.6; `pread(2)`). In liburing:
    /// `io_uring_prep_read()`.
    ///
    /// # Safety
    ///
    /// The `len` bytes at `addr` are memory that may be written, and used by nobody else, until the operation's completion was
    /// reaped.
    #[must_use]
    pub unsafe fn read<'f>(file: impl Into<OpFile<'f>>, offset: u64, addr: u64, len: u32) -> Op {
        transfer(IORING_OP_READ, file.into(), offset, addr, len, 0)
    }

    /// Writes the `len` bytes at `addr` to `file` at `offset` (`IORING_OP_WRITE`, Linux 5.6; `pwrite(2)`). In liburing:
    /// `io_uring_prep_write()`.
    ///
    /// # Safety
    ///
    /// The `len` bytes at `addr` stay, and are not written to, until the operation's completion was reaped.
    #[must_use]
    pub unsafe fn write<'f>(file: impl Into<OpFile<'f>>, offset: u64, addr: u64, len: u32) -> Op {
        transfer(IORING_OP_WRITE, file.into(), offset, addr, len, 0)
    }

    /// Reads `file` at `offset` to several places, one after the other: `iovecs` is the address of `count` `struct iovec`
    /// (`IORING_OP_READV`, Linux 5.1; `preadv(2)`). In liburing: `io_uring_prep_readv()`.
    ///
    /// # Safety
    ///
    /// The array stays until the operation was submitted. Each place is memory that may be written, and used by nobody else,
    /// until its completion was reaped.
    #[must_use]
    pub unsafe fn read_vectored<'f>(file: impl Into<OpFile<'f>>, offset: u64, iovecs: u64, count: u32) -> Op {
        transfer(IORING_OP_READV, file.into(), offset, iovecs, count, 0)
    }

    /// Writes to `file` at `offset` what several places have, one after the other: `iovecs` is the address of `count`
    /// `struct iovec` (`IORING_OP_WRITEV`, Linux 5.1; `pwritev(2)`). In liburing: `io_uring_prep_writev()`.
    ///
    /// # Safety
    ///
    /// The array stays until the operation was submitted. Each place stays, and is not written to, until its completion was
    /// reaped.
    #[must_use]
    pub unsafe fn write_vectored<'f>(file: impl Into<OpFile<'f>>, offset: u64, iovecs: u64, count: u32) -> Op {
        transfer(IORING_OP_WRITEV, file.into(), offset, iovecs, count, 0)
    }

    /// Reads `len` bytes of `file` at `offset` to a part of the ring's registered buffer `buffer` (`IORING_OP_READ_FIXED`,
    /// Linux 5.1). In liburing: `io_uring_prep_read_fixed()`.
    ///
    /// Of a buffer of the process `addr` is the address within it; of one that a driver registered, such as a request's,
    /// it counts the bytes from the buffer's start. What does not lie within the buffer fails with `EFAULT`, and so does an empty slot
    /// and a buffer of the other direction.
    ///
    /// # Safety
    ///
    /// The part is used by nobody else until the operation's completion was reaped.
    #[must_use]
    pub unsafe fn read_fixed<'f>(file: impl Into<OpFile<'f>>, offset: u64, addr: u64, len: u32, buffer: u16) -> Op {
        transfer(IORING_OP_READ_FIXED, file.into(), offset, addr, len, buffer)
    }

    /// Writes to `file` at `offset` the `len` bytes of a part of the ring's registered buffer `buffer`
    /// (`IORING_OP_WRITE_FIXED`, Linux 5.1). In liburing: `io_uring_prep_write_fixed()`. For `addr` see
    /// [`read_fixed`](Op::read_fixed).
    ///
    /// # Safety
    ///
    /// The part is not written to until the operation's completion was reaped.
    #[must_use]
    pub unsafe fn write_fixed<'f>(file: impl Into<OpFile<'f>>, offset: u64, addr: u64, len: u32, buffer: u16) -> Op {
        transfer(IORING_OP_WRITE_FIXED, file.into(), offset, addr, len, buffer)
    }

    /// As [`read_fixed`](Op::read_fixed), to several parts of the buffer, one after the other: `iovecs` is the address of
    /// `count` `struct iovec`, whose addresses are those of `read_fixed` (`IORING_OP_READV_FIXED`, Linux 6.15). In liburing:
    /// `io_uring_prep_readv_fixed()`.
    ///
    /// # Safety
    ///
    /// The array stays until the operation was submitted. The parts are used by nobody else until its completion was reaped.
    #[must_use]
    pub unsafe fn read_vectored_fixed<'f>(
        file: impl Into<OpFile<'f>>,
        offset: u64,
        iovecs: u64,
        count: u32,
        buffer: u16,
    ) -> Op {
        transfer(IORING_OP_READV_FIXED, file.into(), offset, iovecs, count, buffer)
    }

    /// As [`write_fixed`](Op::write_fixed), from several parts of the buffer, one after the other: `iovecs` is the address of
    /// `count` `struct iovec`, whose addresses are those of `read_fixed` (`IORING_OP_WRITEV_FIXED`, Linux 6.15). In liburing:
    /// `io_uring_prep_writev_fixed()`.
    ///
    /// # Safety
    ///
    /// The array stays until the operation was submitted. The parts are not written to until its completion was reaped.
    #[must_use]
    pub unsafe fn write_vectored_fixed<'f>(
        file: impl Into<OpFile<'f>>,
        offset: u64,
        iovecs: u64,
        count: u32,
        buffer: u16,
    ) -> Op {
        transfer(IORING_OP_WRITEV_FIXED, file.into(), offset, iovecs, count, buffer)
    }

    /// Has what was written to `file` reach its disk: all of it, or with `data_only` what is needed to read it back
    /// (`IORING_OP_FSYNC`, Linux 5.1; `fsync(2)`, `fdatasync(2)`). In liburing: `io_uring_prep_fsync()`.
    ///
    /// That is what was written before: a write that is under way is not waited for. Let the sync be
    /// [`linked`](Op::linked) to it. What is linked to the sync starts also where that fails, and with
    /// [`skip_success`](Op::skip_success) its failure is not heard of: the kernel does not count it as one.
    #[must_use]
    pub fn fsync<'f>(file: impl Into<OpFile<'f>>, data_only: bool) -> Op {
        let mut sqe = on(IORING_OP_FSYNC, file.into());
        sqe.rw_flags = if data_only { IORING_FSYNC_DATASYNC } else { 0 };
        Op { sqe }
    }

    /// Gives `len` bytes of `file` from `offset` their space, or with a `mode` of `FALLOC_FL_*` takes it away
    /// (`IORING_OP_FALLOCATE`, Linux 5.6; `fallocate(2)`). In liburing: `io_uring_prep_fallocate()`.
    ///
    /// As of an [`fsync`](Op::fsync), its failure does not count as one to what is linked to it and with
    /// [`skip_success`](Op::skip_success).
    #[must_use]
    pub fn fallocate<'f>(file: impl Into<OpFile<'f>>, mode: u32, offset: u64, len: u64) -> Op {
        // The length stands where others have an address.
        transfer(IORING_OP_FALLOCATE, file.into(), offset, len, mode, 0)
    }

    /// Sends the `len` bytes at `addr` to the socket `file`; `flags` are `MSG_*` (`IORING_OP_SEND`, Linux 5.6; `send(2)`). In
    /// liburing: `io_uring_prep_send()`.
    ///
    /// With `MSG_WAITALL` it is done only with all bytes, or fails; and what is linked to it with it.
    ///
    /// # Safety
    ///
    /// As for [`write`](Op::write).
    #[must_use]
    pub unsafe fn send<'f>(file: impl Into<OpFile<'f>>, addr: u64, len: u32, flags: u32) -> Op {
        let mut op = transfer(IORING_OP_SEND, file.into(), 0, addr, len, 0);
        op.sqe.rw_flags = flags;
        op
    }

    /// Receives at most `len` bytes from the socket `file` to `addr`; `flags` are `MSG_*` (`IORING_OP_RECV`, Linux 5.6;
    /// `recv(2)`). In liburing: `io_uring_prep_recv()`.
    ///
    /// With `MSG_WAITALL` it is done only with all bytes, or fails; and what is linked to it with it.
    ///
    /// # Safety
    ///
    /// As for [`read`](Op::read).
    #[must_use]
    pub unsafe fn recv<'f>(file: impl Into<OpFile<'f>>, addr: u64, len: u32, flags: u32) -> Op {
        let mut op = transfer(IORING_OP_RECV, file.into(), 0, addr, len, 0);
        op.sqe.rw_flags = flags;
        op
    }
}

/// Waiting, and ending what waits.
impl Op {
    /// Completes when one of `events` (`POLLIN` ...) is there (`IORING_OP_POLL_ADD`, Linux 5.1). In liburing:
    /// `io_uring_prep_poll_add()`.
    #[must_use]
    pub fn poll_add<'f>(file: impl Into<OpFile<'f>>, events: u16) -> Op {
        let mut sqe = on(IORING_OP_POLL_ADD, file.into());
        // The kernel swaps the half-words of poll32_events on a big-endian machine.
        let events = u32::from(events);
        sqe.rw_flags = if cfg!(target_endian = "big") { events.rotate_left(16) } else { events };
        Op { sqe }
    }

    /// As [`poll_add`](Op::poll_add), and completes again each time that an event comes, for as long as the completion has
    /// `IORING_CQE_F_MORE` (`IORING_POLL_ADD_MULTI`, Linux 5.13).
    #[must_use]
    pub fn poll_add_multishot<'f>(file: impl Into<OpFile<'f>>, events: u16) -> Op {
        let mut op = Op::poll_add(file, events);
        op.sqe.len = IORING_POLL_ADD_MULTI;
        op
    }

    /// Completes with `-ETIME` when a time is over, or with 0 once `count` other operations have completed, if that is not 0
    /// (`IORING_OP_TIMEOUT`, Linux 5.4). `timespec` is the address of a [`__kernel_timespec`](ublk_sys::__kernel_timespec), a
    /// duration by `CLOCK_MONOTONIC`. In liburing: `io_uring_prep_timeout()`.
    ///
    /// # Safety
    ///
    /// The timespec stays, and is not written to, until the operation was submitted.
    #[must_use]
    pub unsafe fn timeout(timespec: u64, count: u32) -> Op {
        let mut sqe = io_uring_sqe::default();
        sqe.opcode = IORING_OP_TIMEOUT;
        sqe.fd = NO_FILE;
        sqe.off = count.into();
        sqe.addr = timespec;
        sqe.len = 1;
        Op { sqe }
    }

    /// Ends the first operation on this ring whose user data are these (`IORING_OP_ASYNC_CANCEL`, Linux 5.5). In liburing:
    /// `io_uring_prep_cancel64()`.
    ///
    /// Its result is 0; or `-ENOENT` where there is no such operation under way, `-EALREADY` where it has gone too far to be ended.
    /// The one that was ended has a completion of its own, as a rule with `-ECANCELED`; until that was reaped, it is under
    /// way.
    #[must_use]
    pub fn cancel(user_data: u64) -> Op {
        let mut sqe = io_uring_sqe::default();
        sqe.opcode = IORING_OP_ASYNC_CANCEL;
        sqe.fd = NO_FILE;
        sqe.addr = user_data;
        Op { sqe }
    }
}

/// How an operation goes: each is added to one.
impl Op {
    /// The next operation that is pushed starts when this one has completed, and not at all if this one fails: then it completes
    /// with `-ECANCELED` (`IOSQE_IO_LINK`, Linux 5.3). A read or write of fewer bytes than asked for has failed in this sense.
    ///
    /// A chain is all operations that are linked and the one behind them. It has to be submitted as a whole, since it ends where
    /// a submission does: see [`Ring::has_room`](super::Ring::has_room).
    #[must_use]
    pub const fn linked(self) -> Op {
        self.with(IOSQE_IO_LINK)
    }

    /// As [`linked`](Op::linked), and the next operation starts also if this one fails (`IOSQE_IO_HARDLINK`, Linux 5.5).
    ///
    /// One that the kernel refuses as it takes it, because there is something in it that it does not know, cancels its whole chain all
    /// the same, and so, before Linux 6.15, does one that names a registered buffer that there is not.
    #[must_use]
    pub const fn hard_linked(self) -> Op {
        self.with(IOSQE_IO_HARDLINK)
    }

    /// Has no completion unless it fails (`IOSQE_CQE_SKIP_SUCCESS`, Linux 5.17). Not for a [`fsync`](Op::fsync) or
    /// [`fallocate`](Op::fallocate) whose failure matters.
    ///
    /// What its maker has promised until its completion is then to be kept until something else shows that it has ended: the
    /// completion of what is linked to it.
    #[must_use]
    pub const fn skip_success(self) -> Op {
        self.with(IOSQE_CQE_SKIP_SUCCESS)
    }

    /// Goes to a worker thread of the kernel's at once, so that submitting does not take the time that it takes
    /// (`IOSQE_ASYNC`, Linux 5.6).
    #[must_use]
    pub const fn asynchronous(self) -> Op {
        self.with(IOSQE_ASYNC)
    }

    /// Takes its memory from this group of provided buffers, instead of what it names, when there is something to put there
    /// (`IOSQE_BUFFER_SELECT`, Linux 5.7); its length is then the most that it puts there, 0 for the whole buffer. The
    /// completion says which buffer it was. For [`read`](Op::read) and [`recv`](Op::recv). See
    /// [`BufferRing`](super::BufferRing).
    #[must_use]
    pub const fn provided(mut self, buffer_group: u16) -> Op {
        self.sqe.buf_index = buffer_group;
        self.with(IOSQE_BUFFER_SELECT)
    }

    const fn with(mut self, flag: u8) -> Op {
        self.sqe.flags |= flag;
        self
    }
}

/// The descriptor of an operation that is about no file.
const NO_FILE: i32 = -1;

impl Op {
    /// The entry, but for its user data.
    pub(crate) const fn as_raw(&self) -> &io_uring_sqe {
        &self.sqe
    }

    /// The operation whose entry this is.
    ///
    /// # Safety
    ///
    /// It is what [`as_raw`](Op::as_raw) gave of an operation, flags that link it to others apart, and what that operation's maker
    /// promised is kept for this one.
    pub(crate) const unsafe fn from_raw(sqe: io_uring_sqe) -> Op {
        Op { sqe }
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
    pub unsafe fn uring_cmd<'f>(file: impl Into<OpFile<'f>>, cmd_op: u32, area: [u64; 4]) -> WideOp {
        let mut sqe = uring_cmd(file.into(), cmd_op);
        let [first, second, third, fourth] = area;
        [sqe.addr3, sqe.__pad2] = [first, second];
        WideOp { sqe, rest: [third, fourth, 0, 0, 0, 0, 0, 0] }
    }
}

#[cfg(test)]
#[expect(clippy::undocumented_unsafe_blocks, reason = "no entry that is made here is ever submitted")]
mod tests {
    use super::{Op, OpFile};
    use crate::ring::{Local, Ring};
    use crate::syscall::Fd;
    use std::format;
    use std::string::String;
    use std::vec::Vec;

    const OFFSET: u64 = 0x1111_2222_3333_4444;
    const ADDRESS: u64 = 0x5555_6666_7777_8888;

    /// Each field of an entry that is not 0: where it starts, its name in `struct io_uring_sqe`, and what it has.
    fn fields(op: Op) -> String {
        const PLACES: [(usize, &str, usize); 13] = [
            (0, "opcode", 1),
            (1, "flags", 1),
            (2, "ioprio", 2),
            (4, "fd", 4),
            (8, "off", 8),
            (16, "addr", 8),
            (24, "len", 4),
            (28, "rw_flags", 4),
            (32, "user_data", 8),
            (40, "buf_index", 2),
            (42, "personality", 2),
            (44, "file_index", 4),
            (48, "cmd", 16),
        ];
        let mut ring: Ring<Local> = Ring::fake();
        ring.push(op, 0).unwrap();
        let bytes = &ring.staged_bytes()[0];
        assert_eq!(PLACES.iter().map(|(_, _, len)| len).sum::<usize>(), bytes.len());
        let value = |start: usize, len: usize| {
            let mut value = [0; 16];
            let place = if cfg!(target_endian = "big") { 16 - len..16 } else { 0..len };
            value[place].copy_from_slice(&bytes[start..start + len]);
            u128::from_ne_bytes(value)
        };
        let values = PLACES.iter().map(|(start, name, len)| (start, name, value(*start, *len)));
        let set = values.filter(|(_, _, value)| *value != 0);
        set.map(|(start, name, value)| format!("{start} {name} {value:#x}")).collect::<Vec<String>>().join(", ")
    }

    /// The 16 bytes of a command area.
    fn area(words: [u64; 2]) -> String {
        let [first, second] = words.map(u64::to_ne_bytes);
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&first);
        bytes[8..].copy_from_slice(&second);
        format!("48 cmd {:#x}", u128::from_ne_bytes(bytes))
    }

    /// What `op` makes of a file has this opcode and `rest`, with the file by its descriptor and by its slot.
    #[track_caller]
    fn assert_fields(op: impl Fn(OpFile<'_>) -> Op, opcode: u8, rest: &str) {
        let null = Fd::open(c"/dev/null").unwrap();
        let rest = if rest.is_empty() { String::new() } else { format!(", {rest}") };
        assert_eq!(fields(op(OpFile::Fd(&null))), format!("0 opcode {opcode:#x}, 4 fd {:#x}{rest}", null.raw()));
        assert_eq!(
            fields(op(OpFile::Registered(u32::MAX))),
            format!("0 opcode {opcode:#x}, 1 flags 0x1, 4 fd 0xffffffff{rest}")
        );
    }

    #[test]
    fn reads_and_writes_have_offset_address_and_length_where_the_kernel_looks() {
        let rest = "8 off 0x1111222233334444, 16 addr 0x5555666677778888, 24 len 0x99";
        assert_fields(|file| unsafe { Op::read(file, OFFSET, ADDRESS, 0x99) }, 22, rest);
        assert_fields(|file| unsafe { Op::write(file, OFFSET, ADDRESS, 0x99) }, 23, rest);
        assert_fields(|file| unsafe { Op::read_vectored(file, OFFSET, ADDRESS, 0x99) }, 1, rest);
        assert_fields(|file| unsafe { Op::write_vectored(file, OFFSET, ADDRESS, 0x99) }, 2, rest);
        let rest = &format!("{rest}, 40 buf_index 0xabc");
        assert_fields(|file| unsafe { Op::read_fixed(file, OFFSET, ADDRESS, 0x99, 0xabc) }, 4, rest);
        assert_fields(|file| unsafe { Op::write_fixed(file, OFFSET, ADDRESS, 0x99, 0xabc) }, 5, rest);
        assert_fields(|file| unsafe { Op::read_vectored_fixed(file, OFFSET, ADDRESS, 0x99, 0xabc) }, 60, rest);
        assert_fields(|file| unsafe { Op::write_vectored_fixed(file, OFFSET, ADDRESS, 0x99, 0xabc) }, 61, rest);
    }

    #[test]
    fn what_has_no_address_has_its_numbers_where_the_kernel_looks() {
        assert_fields(|file| Op::fsync(file, false), 3, "");
        assert_fields(|file| Op::fsync(file, true), 3, "28 rw_flags 0x1");
        let rest = "8 off 0x1111222233334444, 16 addr 0x5555666677778888, 24 len 0x3";
        assert_fields(|file| Op::fallocate(file, 3, OFFSET, ADDRESS), 17, rest);
        // The command's number stands in `off`, the length where the command area begins.
        let number = ublk_sys::io_uring_sqe_cmd_op(0x1200);
        let rest = format!("8 off {number:#x}, 16 addr {OFFSET:#x}, {}", area([ADDRESS, 0]));
        assert_fields(|file| Op::block_discard(file, OFFSET, ADDRESS), 46, &rest);
        let events = if cfg!(target_endian = "big") { "0x10000" } else { "0x1" };
        assert_fields(|file| Op::poll_add(file, 1), 6, &format!("28 rw_flags {events}"));
        assert_fields(|file| Op::poll_add_multishot(file, 1), 6, &format!("24 len 0x1, 28 rw_flags {events}"));
        assert_eq!(fields(Op::cancel(ADDRESS)), "0 opcode 0xe, 4 fd 0xffffffff, 16 addr 0x5555666677778888");
    }

    #[test]
    fn messages_and_times_have_their_parts_where_the_kernel_looks() {
        let rest = "16 addr 0x5555666677778888, 24 len 0x99, 28 rw_flags 0x100";
        assert_fields(|file| unsafe { Op::send(file, ADDRESS, 0x99, 0x100) }, 26, rest);
        assert_fields(|file| unsafe { Op::recv(file, ADDRESS, 0x99, 0x100) }, 27, rest);
        let timeout = unsafe { Op::timeout(ADDRESS, 7) };
        let rest = "8 off 0x7, 16 addr 0x5555666677778888, 24 len 0x1";
        assert_eq!(fields(timeout), format!("0 opcode 0xb, 4 fd 0xffffffff, {rest}"));
    }

    #[test]
    fn a_command_has_its_number_its_area_and_what_stands_beside_it_where_the_kernel_looks() {
        let number = ublk_sys::io_uring_sqe_cmd_op(0xc010_7520);
        let area = area([0x12, 0x34]);
        let rest = format!("8 off {number:#x}, {area}");
        assert_fields(|file| unsafe { Op::uring_cmd(file, 0xc010_7520, [0x12, 0x34]) }, 46, &rest);
        let rest = format!("8 off {number:#x}, 16 addr {ADDRESS:#x}, {area}");
        assert_fields(|file| unsafe { Op::uring_cmd_addr(file, 0xc010_7520, [0x12, 0x34], ADDRESS) }, 46, &rest);

        let null = Fd::open(c"/dev/null").unwrap();
        let expected = |flags, file| {
            format!(
                "0 opcode 0x2e, 1 flags {flags}, 4 fd {file:#x}, 8 off {number:#x}, 28 rw_flags 0x2, 40 buf_index 0x7, {area}"
            )
        };
        let op = unsafe { Op::uring_cmd_multishot(&null, 0xc010_7520, [0x12, 0x34], 7) };
        assert_eq!(fields(op), expected("0x20", null.raw()));
        let op = unsafe { Op::uring_cmd_multishot(OpFile::Registered(9), 0xc010_7520, [0x12, 0x34], 7) };
        assert_eq!(fields(op), expected("0x21", 9));
    }

    #[test]
    fn how_an_operation_goes_is_added_bit_by_bit() {
        let flags = |op: Op| op.sqe.flags;
        let plain = Op::fsync(OpFile::Registered(0), false);
        assert_eq!(flags(plain), 1);
        assert_eq!(flags(plain.linked()), 1 | 4);
        assert_eq!(flags(plain.hard_linked()), 1 | 8);
        assert_eq!(flags(plain.asynchronous()), 1 | 16);
        assert_eq!(flags(plain.skip_success()), 1 | 64);
        assert_eq!((flags(plain.provided(5)), plain.provided(5).sqe.buf_index), (1 | 32, 5));
        assert_eq!(flags(plain.linked().skip_success().asynchronous()), 1 | 4 | 64 | 16);
        assert_eq!(fields(plain.linked()), "0 opcode 0x3, 1 flags 0x5");
    }
}
