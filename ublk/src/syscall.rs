// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every system call that this crate makes. No other file calls libc's functions.
//!
//! Each function here is one call: arguments in Rust's types, the answer as a value or an [`Errno`], nothing retried.
#![expect(unsafe_code, reason = "system calls; each block is one call, and says what it may touch")]

use core::ffi::{CStr, c_int, c_long, c_void};
use core::fmt;
use core::ptr::{self, NonNull};
use core::time::Duration;

use ublk_sys::{
    IORING_ENTER_EXT_ARG, IORING_ENTER_REGISTERED_RING, IORING_REGISTER_BUFFERS_UPDATE, IORING_REGISTER_BUFFERS2,
    IORING_REGISTER_ENABLE_RINGS, IORING_REGISTER_FILES_UPDATE, IORING_REGISTER_FILES2, IORING_REGISTER_PBUF_RING,
    IORING_REGISTER_RESTRICTIONS, IORING_REGISTER_RING_FDS, IORING_RSRC_REGISTER_SPARSE, IORING_UNREGISTER_PBUF_RING,
    IORING_UNREGISTER_RING_FDS, io_uring_buf_reg, io_uring_getevents_arg, io_uring_params, io_uring_restriction,
    io_uring_rsrc_register, io_uring_rsrc_update, io_uring_rsrc_update2,
};

use crate::errno::Errno;
use crate::units::u64_from;

/// An open file descriptor, closed when dropped.
///
/// Every descriptor that this crate makes has close-on-exec set.
pub struct Fd(c_int);

static_assertions::assert_impl_all!(Fd: Send, Sync);

impl fmt::Debug for Fd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fd({})", self.0)
    }
}

impl Fd {
    /// Opens `path` for reading and writing (`open(2)` with `O_RDWR|O_CLOEXEC`).
    ///
    /// # Errors
    ///
    /// The errno of `open(2)`.
    pub fn open(path: &CStr) -> Result<Fd, Errno> {
        // SAFETY: `path` is a C string that lives through the call, which writes no memory of ours.
        owned(unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) })
    }

    /// Another descriptor of the same open file (`fcntl(2)` with `F_DUPFD_CLOEXEC`).
    ///
    /// # Errors
    ///
    /// `EMFILE`: the process has as many descriptors as it may have.
    pub fn try_clone(&self) -> Result<Fd, Errno> {
        // SAFETY: F_DUPFD_CLOEXEC takes and gives descriptors, and touches no memory of ours.
        owned(unsafe { libc::fcntl(self.0, libc::F_DUPFD_CLOEXEC, 0) })
    }

    /// The descriptor's number, which is valid as long as this value lives.
    #[must_use]
    pub const fn raw(&self) -> i32 {
        self.0
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: this value owned the descriptor, so nobody else relies on it. An error leaves it closed all the same.
        unsafe { libc::close(self.0) };
    }
}

#[cfg(feature = "std")]
impl std::os::fd::AsFd for Fd {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as `self` is borrowed.
        unsafe { std::os::fd::BorrowedFd::borrow_raw(self.0) }
    }
}

#[cfg(feature = "std")]
impl From<std::os::fd::OwnedFd> for Fd {
    fn from(fd: std::os::fd::OwnedFd) -> Fd {
        Fd(std::os::fd::IntoRawFd::into_raw_fd(fd))
    }
}

#[cfg(feature = "std")]
impl From<Fd> for std::os::fd::OwnedFd {
    fn from(fd: Fd) -> std::os::fd::OwnedFd {
        // Not dropped, so that it stays open.
        let fd = core::mem::ManuallyDrop::new(fd);
        // SAFETY: the descriptor is open, and was owned by a value that is never dropped, so that it is nobody else's.
        unsafe { std::os::fd::FromRawFd::from_raw_fd(fd.0) }
    }
}

/// The errno that the last failed call of this thread left.
fn last_errno() -> Errno {
    // SAFETY: the function has no precondition.
    let location = unsafe { libc::__errno_location() };
    // SAFETY: it returned the place of this thread's errno, which lives as long as the thread.
    let errno = unsafe { *location };
    Errno::from_raw(errno)
}

/// The descriptor that a call returned, now ours.
fn owned(returned: c_int) -> Result<Fd, Errno> {
    if returned < 0 { Err(last_errno()) } else { Ok(Fd(returned)) }
}

/// The value that a call returned, which is negative where it failed.
fn counted(returned: c_long) -> Result<u32, Errno> {
    u32::try_from(returned).map_err(|_| last_errno())
}

/// `io_uring_setup(2)`: makes a ring of `entries` submission slots and writes its geometry to `params`.
pub(crate) fn io_uring_setup(entries: u32, params: &mut io_uring_params) -> Result<Fd, Errno> {
    let params: *mut io_uring_params = params;
    // SAFETY: `params` points to a whole io_uring_params, borrowed for us alone while the kernel reads and writes it.
    let returned = unsafe { libc::syscall(libc::SYS_io_uring_setup, entries, params) };
    c_int::try_from(returned).map_or(Err(Errno::EOVERFLOW), owned)
}

/// How `io_uring_enter` finds the ring.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RingHandle {
    /// By its file descriptor.
    Fd(c_int),
    /// By its index among the calling thread's registered rings.
    Registered(u32),
}

/// A `struct __kernel_timespec`.
#[repr(C)]
struct KernelTimespec {
    tv_sec: i64,
    tv_nsec: i64,
}

/// `io_uring_enter(2)`: submits `to_submit` entries and waits for `min_complete` completions, for `timeout` at most.
///
/// What the kernel reads and writes on behalf of submitted entries was promised to it when each was made: see
/// `ring/op.rs`.
pub(crate) fn io_uring_enter(
    ring: RingHandle,
    to_submit: u32,
    min_complete: u32,
    flags: u32,
    timeout: Option<Duration>,
) -> Result<u32, Errno> {
    // A C long, on the machines that this crate is for.
    let (number, flags) = match ring {
        RingHandle::Fd(fd) => (i64::from(fd), flags),
        RingHandle::Registered(index) => (i64::from(index), flags | IORING_ENTER_REGISTERED_RING),
    };
    let Some(timeout) = timeout else {
        let none: *const c_void = ptr::null();
        // SAFETY: the argument pointer is null and its size 0, so beyond the entries the kernel touches no memory of ours.
        return counted(unsafe {
            libc::syscall(libc::SYS_io_uring_enter, number, to_submit, min_complete, flags, none, 0_usize)
        });
    };
    let timespec = KernelTimespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    };
    let mut argument = io_uring_getevents_arg::default();
    argument.ts = u64_from(ptr::from_ref(&timespec).expose_provenance());
    let address = ptr::from_ref(&argument).expose_provenance();
    let flags = flags | IORING_ENTER_EXT_ARG;
    // SAFETY: `argument` and the timespec it points to live through the call, in which alone the kernel reads them.
    counted(unsafe {
        libc::syscall(
            libc::SYS_io_uring_enter,
            number,
            to_submit,
            min_complete,
            flags,
            address,
            size_of::<io_uring_getevents_arg>(),
        )
    })
}

/// `IORING_REGISTER_ENABLE_RINGS`: wakes a ring that was made disabled, and makes this thread its submitter.
pub(crate) fn enable_ring(ring: &Fd) -> Result<(), Errno> {
    let none: *const c_void = ptr::null();
    // SAFETY: this operation takes a null argument and touches no memory of ours.
    let returned =
        unsafe { libc::syscall(libc::SYS_io_uring_register, ring.0, IORING_REGISTER_ENABLE_RINGS, none, 0_u32) };
    counted(returned).map(|_| ())
}

/// `IORING_REGISTER_RING_FDS`: gives the ring an index of the calling thread's own, which spares the kernel a look-up
/// at every enter.
pub(crate) fn register_ring(ring: &Fd) -> Result<u32, Errno> {
    let mut update = io_uring_rsrc_update::default();
    update.offset = u32::MAX;
    update.data = u64::try_from(ring.0).map_err(|_| Errno::EBADF)?;
    let argument: *mut io_uring_rsrc_update = &mut update;
    // SAFETY: `argument` points to one io_uring_rsrc_update, borrowed for us alone while the kernel reads and writes it.
    let returned =
        unsafe { libc::syscall(libc::SYS_io_uring_register, ring.0, IORING_REGISTER_RING_FDS, argument, 1_u32) };
    match counted(returned)? {
        1 => Ok(update.offset),
        _ => Err(Errno::EINVAL),
    }
}

/// `IORING_UNREGISTER_RING_FDS`: gives the index back. Only the thread that registered can.
pub(crate) fn unregister_ring(ring: &Fd, index: u32) -> Result<(), Errno> {
    let mut update = io_uring_rsrc_update::default();
    update.offset = index;
    let argument: *mut io_uring_rsrc_update = &mut update;
    // SAFETY: `argument` points to one io_uring_rsrc_update, borrowed for us alone while the kernel reads it.
    let returned =
        unsafe { libc::syscall(libc::SYS_io_uring_register, ring.0, IORING_UNREGISTER_RING_FDS, argument, 1_u32) };
    counted(returned).map(|_| ())
}

/// A table of what a ring has registered.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Registered {
    /// Of files.
    Files,
    /// Of buffers.
    Buffers,
}

/// `IORING_REGISTER_FILES2` or `IORING_REGISTER_BUFFERS2`: gives the ring a table of `count` empty slots.
pub(crate) fn register_sparse(ring: &Fd, table: Registered, count: u32) -> Result<(), Errno> {
    let operation = match table {
        Registered::Files => IORING_REGISTER_FILES2,
        Registered::Buffers => IORING_REGISTER_BUFFERS2,
    };
    let mut register = io_uring_rsrc_register::default();
    register.nr = count;
    register.flags = IORING_RSRC_REGISTER_SPARSE;
    let argument: *const io_uring_rsrc_register = &register;
    // SAFETY: `argument` points to one io_uring_rsrc_register, whose size is told, and which lives through the call; its
    // addresses are 0.
    let returned = unsafe {
        libc::syscall(libc::SYS_io_uring_register, ring.0, operation, argument, size_of::<io_uring_rsrc_register>())
    };
    counted(returned).map(|_| ())
}

/// `IORING_REGISTER_FILES_UPDATE` of one slot of the ring's table of files; without a file it is emptied. How many slots were
/// changed.
pub(crate) fn update_file(ring: &Fd, index: u32, file: Option<&Fd>) -> Result<u32, Errno> {
    let fd: c_int = file.map_or(-1, Fd::raw);
    let mut update = io_uring_rsrc_update::default();
    update.offset = index;
    update.data = u64_from(ptr::from_ref(&fd).expose_provenance());
    let argument: *const io_uring_rsrc_update = &update;
    // SAFETY: `argument` points to one io_uring_rsrc_update, which names an array of one descriptor; both live through the
    // call, in which alone the kernel reads them.
    let returned =
        unsafe { libc::syscall(libc::SYS_io_uring_register, ring.0, IORING_REGISTER_FILES_UPDATE, argument, 1_u32) };
    counted(returned)
}

/// `IORING_REGISTER_BUFFERS_UPDATE` of one slot of the ring's table of buffers: the `len` bytes at `address`, whose pages the kernel
/// pins; no bytes empty it. How many slots were changed.
pub(crate) fn update_buffer(ring: &Fd, index: u32, address: u64, len: u64) -> Result<u32, Errno> {
    // A `struct iovec`.
    let vector = [address, len];
    let mut update = io_uring_rsrc_update2::default();
    update.offset = index;
    update.data = u64_from(ptr::from_ref(&vector).expose_provenance());
    update.nr = 1;
    let argument: *const io_uring_rsrc_update2 = &update;
    // SAFETY: `argument` points to one io_uring_rsrc_update2, whose size is told and which names one iovec; both live through the
    // call, in which alone the kernel reads them. What the iovec names it only pins here.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            ring.0,
            IORING_REGISTER_BUFFERS_UPDATE,
            argument,
            size_of::<io_uring_rsrc_update2>(),
        )
    };
    counted(returned)
}

/// `IORING_REGISTER_PBUF_RING`: has the ring take the buffers of a group from a ring of `entries` of them at `address`.
///
/// # Safety
///
/// The `entries` entries at `address` stay as long as the ring may use them, and so does each buffer that one of them comes to
/// name.
pub(crate) unsafe fn register_buffer_ring(
    ring: &Fd,
    address: u64,
    entries: u32,
    group: u16,
    flags: u16,
) -> Result<(), Errno> {
    let mut register = io_uring_buf_reg::default();
    register.ring_addr = address;
    register.ring_entries = entries;
    register.bgid = group;
    register.flags = flags;
    let argument: *const io_uring_buf_reg = &register;
    // SAFETY: `argument` points to one io_uring_buf_reg that lives through the call; the caller promises what it names.
    let returned =
        unsafe { libc::syscall(libc::SYS_io_uring_register, ring.0, IORING_REGISTER_PBUF_RING, argument, 1_u32) };
    counted(returned).map(|_| ())
}

/// `IORING_UNREGISTER_PBUF_RING`: has the ring forget a group of buffers. What an operation has taken of it, it may still use.
pub(crate) fn unregister_buffer_ring(ring: &Fd, group: u16) -> Result<(), Errno> {
    let mut register = io_uring_buf_reg::default();
    register.bgid = group;
    let argument: *const io_uring_buf_reg = &register;
    // SAFETY: `argument` points to one io_uring_buf_reg that lives through the call, which only reads it.
    let returned =
        unsafe { libc::syscall(libc::SYS_io_uring_register, ring.0, IORING_UNREGISTER_PBUF_RING, argument, 1_u32) };
    counted(returned).map(|_| ())
}

/// `IORING_REGISTER_RESTRICTIONS`: from when it is enabled the ring does nothing but this.
pub(crate) fn restrict_ring(ring: &Fd, allowed: &[io_uring_restriction]) -> Result<(), Errno> {
    // SAFETY: the restrictions live through the call, which only reads them, and their number is told.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            ring.0,
            IORING_REGISTER_RESTRICTIONS,
            allowed.as_ptr(),
            allowed.len(),
        )
    };
    counted(returned).map(|_| ())
}

/// What a mapping of a file may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Reading only.
    Read,
    /// Reading and writing.
    ReadWrite,
}

/// `mmap(2)` of `len` bytes of private zeroed memory, at an address of the kernel's choice.
pub(crate) fn mmap_anonymous(len: usize) -> Result<NonNull<u8>, Errno> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address that the kernel chooses replaces no memory.
    let address = unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    mapped(address)
}

/// `mmap(2)` of `len` bytes of `file` from `offset`, shared, at an address of the kernel's choice.
pub(crate) fn mmap_file(file: &Fd, offset: u64, len: usize, access: Access) -> Result<NonNull<u8>, Errno> {
    let protection = match access {
        Access::Read => libc::PROT_READ,
        Access::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
    };
    let offset = libc::off_t::try_from(offset).map_err(|_| Errno::EOVERFLOW)?;
    let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
    // SAFETY: a new mapping at an address that the kernel chooses replaces no memory.
    let address = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, file.0, offset) };
    mapped(address)
}

fn mapped(address: *mut c_void) -> Result<NonNull<u8>, Errno> {
    if address == libc::MAP_FAILED { Err(last_errno()) } else { NonNull::new(address.cast()).ok_or(Errno::ENOMEM) }
}

/// `madvise(2)` with `MADV_DONTFORK`: a forked child does not get these pages.
///
/// # Safety
///
/// The `len` bytes at `address` are one mapping that the caller owns.
pub(crate) unsafe fn dont_fork(address: NonNull<u8>, len: usize) -> Result<(), Errno> {
    // SAFETY: the caller owns the mapping, and MADV_DONTFORK changes nothing in this process.
    let returned = unsafe { libc::madvise(address.as_ptr().cast(), len, libc::MADV_DONTFORK) };
    if returned == 0 { Ok(()) } else { Err(last_errno()) }
}

/// `munmap(2)`.
///
/// # Safety
///
/// The `len` bytes at `address` are one mapping that the caller owns, and nothing uses them after this call.
pub(crate) unsafe fn munmap(address: NonNull<u8>, len: usize) {
    // SAFETY: the caller owns the mapping, and it is not used again.
    // The call fails only for arguments that are no mapping's, which the caller excludes.
    unsafe { libc::munmap(address.as_ptr().cast(), len) };
}

/// Bytes of a page (`sysconf(_SC_PAGESIZE)`).
pub(crate) fn page_bytes() -> usize {
    // SAFETY: sysconf touches no memory of ours.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    // POSIX has it at 1 or more; every Linux page is a power of two.
    usize::try_from(bytes).ok().filter(|bytes| bytes.is_power_of_two()).unwrap_or(4096)
}

/// `fstat(2)`: the numbers, major and minor, of the character device that is open; `None` for any other file.
pub(crate) fn char_device_numbers(file: &Fd) -> Option<(u32, u32)> {
    let mut stat = core::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `stat` is one stat, borrowed for us alone while the kernel writes it.
    let returned = unsafe { libc::fstat(file.0, stat.as_mut_ptr()) };
    if returned < 0 {
        return None;
    }
    // SAFETY: fstat has initialised it.
    let stat = unsafe { stat.assume_init() };
    (stat.st_mode & libc::S_IFMT == libc::S_IFCHR).then(|| (libc::major(stat.st_rdev), libc::minor(stat.st_rdev)))
}

/// The flag by which a block device is opened only where nobody has it so, and then by nobody else (`O_EXCL`).
#[cfg(feature = "std")]
pub(crate) const OPEN_EXCLUSIVELY: i32 = libc::O_EXCL;

/// The major and the minor number in a `dev_t`.
#[cfg(feature = "std")]
pub(crate) fn device_numbers(device: u64) -> (u32, u32) {
    (libc::major(device), libc::minor(device))
}

/// `pread(2)` of as many bytes as `into` has, from `offset` on; how many came.
pub(crate) fn pread(file: &Fd, into: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let offset = libc::off_t::try_from(offset).map_err(|_| Errno::EOVERFLOW)?;
    // SAFETY: `into` has its bytes, borrowed for us alone while the kernel writes them.
    let read = unsafe { libc::pread(file.0, into.as_mut_ptr().cast(), into.len(), offset) };
    usize::try_from(read).map_err(|_| last_errno())
}

/// `pwritev(2)` of these pieces, one after the other, from `offset` on; how many bytes went.
pub(crate) fn pwrite<const N: usize>(file: &Fd, pieces: &[&[u8]; N], offset: u64) -> Result<usize, Errno> {
    let offset = libc::off_t::try_from(offset).map_err(|_| Errno::EOVERFLOW)?;
    let vectors = pieces.map(|piece| libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() });
    let count = const { small::<N>() };
    // SAFETY: `vectors` has its `count` elements through the call, and each names the bytes of a slice that is borrowed as long.
    // The kernel only reads all of them.
    let written = unsafe { libc::pwritev(file.0, vectors.as_ptr(), count, offset) };
    usize::try_from(written).map_err(|_| last_errno())
}

/// `N` in the type that pwritev(2) has for it.
#[expect(clippy::as_conversions, clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "asserted")]
const fn small<const N: usize>() -> c_int {
    const { assert!(N <= 1024) };
    N as c_int
}

/// `MSG_WAITALL | MSG_NOSIGNAL`: all of it, and no SIGPIPE.
#[expect(clippy::as_conversions, reason = "two positive constants of libc, and no const conversion exists")]
pub(crate) const WHOLE_MESSAGE: u32 = (libc::MSG_WAITALL | libc::MSG_NOSIGNAL) as u32;

/// `fstat(2)`: bytes of a file.
pub(crate) fn len(file: &Fd) -> Result<u64, Errno> {
    let mut stat = core::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `stat` is one stat, borrowed for us alone while the kernel writes it.
    let returned = unsafe { libc::fstat(file.0, stat.as_mut_ptr()) };
    if returned < 0 {
        return Err(last_errno());
    }
    // SAFETY: fstat has initialised it.
    let stat = unsafe { stat.assume_init() };
    u64::try_from(stat.st_size).map_err(|_| Errno::EINVAL)
}

/// `memfd_create(2)`: an empty file of memory that can be sealed.
pub(crate) fn memfd(name: &CStr) -> Result<Fd, Errno> {
    // SAFETY: `name` is a C string that lives through the call, which writes no memory of ours.
    owned(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_NOEXEC_SEAL) })
}

/// `ftruncate(2)`: gives a file this many bytes.
pub(crate) fn set_len(file: &Fd, len: u64) -> Result<(), Errno> {
    let len = libc::off_t::try_from(len).map_err(|_| Errno::EOVERFLOW)?;
    // SAFETY: ftruncate takes numbers, and touches no memory of ours: whoever has the file mapped checked its seals.
    let returned = unsafe { libc::ftruncate(file.0, len) };
    if returned == 0 { Ok(()) } else { Err(last_errno()) }
}

/// The file gets no smaller.
pub(crate) const SEAL_SHRINK: c_int = libc::F_SEAL_SHRINK;

/// The file gets no larger.
pub(crate) const SEAL_GROW: c_int = libc::F_SEAL_GROW;

/// `fcntl(2)` with `F_GET_SEALS`: what can no longer be done with a memfd.
pub(crate) fn seals(file: &Fd) -> Result<c_int, Errno> {
    // SAFETY: F_GET_SEALS takes and gives numbers, and touches no memory of ours.
    let returned = unsafe { libc::fcntl(file.0, libc::F_GET_SEALS) };
    if returned < 0 { Err(last_errno()) } else { Ok(returned) }
}

/// `fcntl(2)` with `F_ADD_SEALS`.
pub(crate) fn add_seals(file: &Fd, seals: c_int) -> Result<(), Errno> {
    // SAFETY: F_ADD_SEALS takes numbers, and touches no memory of ours.
    let returned = unsafe { libc::fcntl(file.0, libc::F_ADD_SEALS, seals) };
    if returned == 0 { Ok(()) } else { Err(last_errno()) }
}

/// `fallocate(2)` of `len` bytes at `offset`, in this mode.
#[cfg(feature = "std")]
pub(crate) fn fallocate(file: c_int, mode: c_int, offset: u64, len: u64) -> Result<(), Errno> {
    let large = |number| libc::off_t::try_from(number).map_err(|_| Errno::EOVERFLOW);
    let (offset, len) = (large(offset)?, large(len)?);
    // SAFETY: fallocate takes numbers, and touches no memory of ours.
    let returned = unsafe { libc::fallocate(file, mode, offset, len) };
    if returned == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Gives the space back, and reads as zeroes from then on.
#[cfg(feature = "std")]
pub(crate) const PUNCH_HOLE: c_int = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;

/// Reads as zeroes from then on, with its space.
#[cfg(feature = "std")]
pub(crate) const ZERO_RANGE: c_int = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;

/// `mlock2(2)`: the memory at `address` stays in memory, all of it or, `lazily`, what is used of it.
///
/// # Safety
///
/// The `len` bytes at `address` are one mapping that the caller owns.
pub(crate) unsafe fn lock_memory(address: NonNull<u8>, len: usize, lazily: bool) -> Result<(), Errno> {
    // MLOCK_ONFAULT, which not every libc has.
    let flags = u32::from(lazily);
    // SAFETY: the caller owns the mapping, of which no byte changes. The system call itself, as not every libc has the function.
    let returned = unsafe { libc::syscall(libc::SYS_mlock2, address.as_ptr(), len, flags) };
    counted(returned).map(|_| ())
}

/// `prctl(2)` with `PR_SET_IO_FLUSHER`, of the calling thread.
pub(crate) fn set_io_flusher() -> Result<(), Errno> {
    // PR_SET_IO_FLUSHER, which libc does not have.
    const SET_IO_FLUSHER: c_int = 57;
    // SAFETY: it takes numbers, and touches no memory of ours.
    let returned = unsafe { libc::prctl(SET_IO_FLUSHER, 1, 0, 0, 0) };
    if returned == 0 { Ok(()) } else { Err(last_errno()) }
}

/// `getpid(2)`.
pub(crate) fn process_id() -> u32 {
    // SAFETY: getpid always succeeds and touches no memory of ours.
    let pid = unsafe { libc::getpid() };
    pid.unsigned_abs()
}

/// Time since some moment before the program began (`clock_gettime(2)` with `CLOCK_MONOTONIC`).
pub(crate) fn monotonic() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let pointer: *mut libc::timespec = &mut now;
    // SAFETY: `pointer` points to one timespec, borrowed for us alone while the kernel writes it.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, pointer) };
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    Duration::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0)))
}

/// `nanosleep(2)`, shorter where a signal arrives.
pub(crate) fn sleep(time: Duration) {
    let request = libc::timespec {
        tv_sec: i32::try_from(time.as_secs()).unwrap_or(i32::MAX).into(),
        tv_nsec: i32::try_from(time.subsec_nanos()).unwrap_or(0).into(),
    };
    let pointer: *const libc::timespec = &request;
    // SAFETY: `pointer` points to one timespec that lives through the call; the remaining time is not asked for.
    unsafe { libc::nanosleep(pointer, ptr::null_mut()) };
}

/// `sched_setaffinity(2)` of the calling thread, which then runs on the CPUs of this mask only.
pub(crate) fn set_affinity(cpus: &[u8]) -> Result<(), Errno> {
    // SAFETY: the mask has its bytes through the call, which only reads them. The system call itself, as libc's function
    // wants a type of a fixed size.
    let returned = unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, cpus.len(), cpus.as_ptr()) };
    counted(returned).map(|_| ())
}

/// `eventfd(2)`, not blocking.
pub(crate) fn eventfd() -> Result<Fd, Errno> {
    // SAFETY: eventfd touches no memory of ours.
    owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })
}

/// `write(2)` of 1 to an eventfd.
pub(crate) fn write_event(event: &Fd) -> Result<(), Errno> {
    let one = 1_u64.to_ne_bytes();
    // SAFETY: `one` has its 8 bytes through the call, which only reads them.
    let written = unsafe { libc::write(event.0, one.as_ptr().cast(), one.len()) };
    if written < 0 { Err(last_errno()) } else { Ok(()) }
}

/// `read(2)` of an eventfd's counter, which it sets to 0.
#[cfg(feature = "std")]
pub(crate) fn read_event(event: &Fd) -> Result<(), Errno> {
    let mut count = [0; 8];
    // SAFETY: `count` has its 8 bytes, borrowed for us alone while the kernel writes them.
    let read = unsafe { libc::read(event.0, count.as_mut_ptr().cast(), count.len()) };
    if read < 0 { Err(last_errno()) } else { Ok(()) }
}

/// `poll(2)` until one of the descriptors can be read, or has failed, for `time` at most; which of them. A negative
/// descriptor is passed over.
pub(crate) fn poll<const N: usize>(fds: [c_int; N], time: Option<Duration>) -> Result<[bool; N], Errno> {
    let mut polled = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    let count = const { nfds::<N>() };
    // A part of a millisecond is waited for too.
    let milliseconds = time.map_or(-1, |time| {
        let whole = i32::try_from(time.as_millis()).unwrap_or(i32::MAX);
        if time.subsec_nanos() % 1_000_000 == 0 { whole } else { whole.saturating_add(1) }
    });
    // SAFETY: `polled` has its `count` elements, borrowed for us alone while the kernel writes them.
    let ready = unsafe { libc::poll(polled.as_mut_ptr(), count, milliseconds) };
    if ready < 0 { Err(last_errno()) } else { Ok(polled.map(|fd| fd.revents != 0)) }
}

/// `N` in the type that poll(2) has for it.
#[expect(clippy::as_conversions, reason = "no const conversion exists, and the assertion shows that none is lost")]
const fn nfds<const N: usize>() -> libc::nfds_t {
    const { assert!(size_of::<libc::nfds_t>() == size_of::<usize>()) };
    N as libc::nfds_t
}

/// The signals that a server can be told by: to end by the first two, to hand over by the third.
pub(crate) const SIGNALS: [c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGUSR2];

/// A set of those of [`SIGNALS`] that are true in `wanted`.
fn signal_set(wanted: [bool; 3]) -> libc::sigset_t {
    let mut set = core::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `set` is one sigset_t, borrowed for us alone; sigemptyset initialises the whole of it.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: sigemptyset has initialised it.
    let mut set = unsafe { set.assume_init() };
    for (signal, wanted) in SIGNALS.into_iter().zip(wanted) {
        if wanted {
            let pointer: *mut libc::sigset_t = &mut set;
            // SAFETY: `pointer` points to an initialised set, borrowed for us alone.
            unsafe { libc::sigaddset(pointer, signal) };
        }
    }
    set
}

/// `pthread_sigmask(3)`: blocks those of [`SIGNALS`] in this thread that are true in `wanted`; which of them were not blocked
/// before.
pub(crate) fn block_signals(wanted: [bool; 3]) -> Result<[bool; 3], Errno> {
    let set = signal_set(wanted);
    let mut before = signal_set([false; 3]);
    let pointer: *mut libc::sigset_t = &mut before;
    // SAFETY: both point to initialised sets that live through the call; `before` is borrowed for us alone.
    let errno = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, pointer) };
    if errno != 0 {
        return Err(Errno::from_raw(errno));
    }
    let mut blocked = wanted;
    for (blocked, signal) in blocked.iter_mut().zip(SIGNALS) {
        // SAFETY: the set is initialised and lives through the call, which only reads it.
        let was_blocked = unsafe { libc::sigismember(&before, signal) };
        *blocked &= was_blocked == 0;
    }
    Ok(blocked)
}

/// `pthread_sigmask(3)`: lets those of [`SIGNALS`] through that are true in `wanted`.
pub(crate) fn unblock_signals(wanted: [bool; 3]) {
    let set = signal_set(wanted);
    // SAFETY: the set is initialised and lives through the call; the old mask is not asked for. It fails only for a wrong
    // first argument.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, ptr::null_mut()) };
}

/// `signalfd(2)` for those of [`SIGNALS`] that are true in `wanted`, not blocking.
pub(crate) fn signalfd(wanted: [bool; 3]) -> Result<Fd, Errno> {
    let set = signal_set(wanted);
    // SAFETY: the set is initialised and lives through the call, which only reads it.
    owned(unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) })
}

/// `read(2)` of a signalfd: the number of a signal that came.
pub(crate) fn read_signal(signals: &Fd) -> Result<i32, Errno> {
    let mut info = [0_u8; size_of::<libc::signalfd_siginfo>()];
    // SAFETY: `info` has all its bytes, borrowed for us alone while the kernel writes them.
    let read = unsafe { libc::read(signals.0, info.as_mut_ptr().cast(), info.len()) };
    if read < 0 {
        return Err(last_errno());
    }
    // `ssi_signo`, the first field.
    let [n0, n1, n2, n3, ..] = info;
    i32::try_from(u32::from_ne_bytes([n0, n1, n2, n3])).map_err(|_| Errno::EINVAL)
}
