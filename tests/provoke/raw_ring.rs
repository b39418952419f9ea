// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rings that the crate does not make: one that polls, and one that is restricted.
#![expect(unsafe_code, reason = "io_uring without the crate")]

use core::sync::atomic::{AtomicU32, Ordering};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// A ring of wide entries, into which one is put at a time.
pub struct RawRing {
    fd: OwnedFd,
    /// `struct io_uring_params`.
    params: [u32; 30],
    ring: *mut u8,
    entries: *mut u8,
}

const SETUP_IOPOLL: u32 = 1 << 0;
const SETUP_R_DISABLED: u32 = 1 << 6;
const SETUP_SQE128: u32 = 1 << 10;
const REGISTER_RESTRICTIONS: u32 = 11;
const REGISTER_ENABLE_RINGS: u32 = 12;
/// IORING_RESTRICTION_SQE_OP, and IORING_OP_NOP.
const ALLOW_NOP: [u32; 4] = [1, 0, 0, 0];

impl RawRing {
    pub fn polling() -> RawRing {
        RawRing::set_up(SETUP_IOPOLL)
    }

    /// Takes nothing but IORING_OP_NOP.
    pub fn restricted() -> RawRing {
        let ring = RawRing::set_up(SETUP_R_DISABLED);
        // `u16` operation and `u8` opcode stand in the first word.
        ring.register(REGISTER_RESTRICTIONS, ALLOW_NOP.as_ptr(), 1);
        ring.register(REGISTER_ENABLE_RINGS, core::ptr::null(), 0);
        ring
    }

    fn register(&self, operation: u32, argument: *const u32, count: u32) {
        // SAFETY: the kernel reads at most the argument, which is alive.
        let result =
            unsafe { libc::syscall(libc::SYS_io_uring_register, self.fd.as_raw_fd(), operation, argument, count) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
    }

    fn set_up(flags: u32) -> RawRing {
        let mut params = [0_u32; 30];
        params[2] = flags | SETUP_SQE128;
        // SAFETY: the kernel reads and writes the 120 bytes of `params`.
        let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr()) };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        // SAFETY: the kernel has just made the descriptor, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd.try_into().unwrap()) };
        let map = |offset| {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: a new mapping, wherever there is room, of a page at least: both parts of so small a ring fit in one.
            let place =
                unsafe { libc::mmap(core::ptr::null_mut(), 4096, access, libc::MAP_SHARED, fd.as_raw_fd(), offset) };
            assert_ne!(place, libc::MAP_FAILED, "{}", io::Error::last_os_error());
            place.cast::<u8>()
        };
        let (ring, entries) = (map(0), map(0x1000_0000));
        RawRing { fd, params, ring, entries }
    }

    fn word(&self, offset: u32) -> &AtomicU32 {
        let place = self.ring.wrapping_add(offset.try_into().unwrap());
        // SAFETY: the kernel's offsets are in the page that is mapped, aligned, and stay so as long as `self`.
        unsafe { AtomicU32::from_ptr(place.cast()) }
    }

    /// Sends an entry of 128 bytes; what the kernel answers.
    pub fn send(&mut self, sqe: &[u8]) -> i32 {
        assert_eq!(sqe.len(), 128);
        // SAFETY: the only slot has 128 bytes, and the kernel does not read it before the tail moves.
        unsafe { self.entries.copy_from_nonoverlapping(sqe.as_ptr(), 128) };
        let (tail, array) = (self.params[11], self.params[16]);
        self.word(array).store(0, Ordering::Relaxed);
        self.word(tail).fetch_add(1, Ordering::Release);
        const GETEVENTS: u32 = 1;
        // SAFETY: no memory is passed.
        let sent = unsafe {
            libc::syscall(libc::SYS_io_uring_enter, self.fd.as_raw_fd(), 1, 1, GETEVENTS, core::ptr::null::<u8>(), 0)
        };
        assert_eq!(sent, 1, "{}", io::Error::last_os_error());
        let (cq_tail, cqes) = (self.params[21], self.params[25]);
        assert_eq!(self.word(cq_tail).load(Ordering::Acquire), 1, "one answer");
        // Behind the user data of the first entry.
        i32::from_ne_bytes(self.word(cqes + 8).load(Ordering::Relaxed).to_ne_bytes())
    }
}
