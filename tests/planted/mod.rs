// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a machine or a process lacks, made so for a test, and for the machine taken back whatever becomes of the test.
#![expect(unsafe_code, reason = "the standard library sets neither limits nor filters, and a command made by hand")]
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]

use std::ffi::CString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command as Program;

use ublk::ring::{Ring, WideOp};
use ublk::{Command, DeviceId, Errno, Error, Features};

pub const CONTROL: &str = "/dev/ublk-control";

/// Puts a setting of the machine back, whatever becomes of the test.
pub struct Restored<F: FnMut()>(pub F);

impl<F: FnMut()> Drop for Restored<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Writes to a file of the kernel's settings, and writes back what stood there in the end.
pub fn set(path: &'static str, value: &str) -> Restored<impl FnMut()> {
    let before = fs::read_to_string(path).unwrap();
    fs::write(path, value).unwrap();
    Restored(move || fs::write(path, before.trim()).unwrap())
}

/// Lets everybody open the control device.
pub fn open_to_all() -> Restored<impl FnMut()> {
    let before = fs::metadata(CONTROL).unwrap().permissions();
    fs::set_permissions(CONTROL, Permissions::from_mode(0o666)).unwrap();
    Restored(move || fs::set_permissions(CONTROL, before.clone()).unwrap())
}

/// Takes the node of the control device away.
pub fn without_node() -> Restored<impl FnMut()> {
    const ELSEWHERE: &str = "/dev/not-ublk-control";
    fs::rename(CONTROL, ELSEWHERE).unwrap();
    Restored(|| fs::rename(ELSEWHERE, CONTROL).unwrap())
}

/// Takes the driver out of the kernel.
pub fn without_driver() -> Restored<impl FnMut()> {
    let modules = fs::read_dir("/usr/lib/xtask/modules").unwrap().map(|entry| entry.unwrap().path());
    let module: PathBuf = modules.into_iter().find(|path| path.to_string_lossy().contains("ublk_drv")).unwrap();
    run("rmmod", &["ublk_drv"]);
    Restored(move || run("insmod", &[module.to_str().unwrap()]))
}

/// Runs a program that has to succeed.
pub fn run(program: &str, arguments: &[&str]) {
    let status = Program::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}");
}

/// A user and a group without any right.
pub const NOBODY: u32 = 65_534;

/// What [`run_as_nobody`] runs as a process of its own, and as nobody: the same test, which finds the variable.
const AS_NOBODY: &str = "UBLK_TEST_AS_NOBODY";

pub fn is_nobody() -> bool {
    std::env::var_os(AS_NOBODY).is_some()
}

pub fn run_as_nobody(test: &str) {
    let mut again = Program::new(std::env::current_exe().unwrap());
    again.args(["--exact", test, "--include-ignored", "--nocapture", "--test-threads=1"]);
    let output = again.env(AS_NOBODY, "1").uid(NOBODY).gid(NOBODY).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && printed.contains("test result: ok. 1 passed"), "{printed}");
}

/// The running kernel's release: `6.12.9-amd64` is `(6, 12)`.
pub fn kernel_release() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// What a process may have so much of.
#[derive(Clone, Copy)]
pub enum Resource {
    Descriptors,
    AddressSpace,
    LockedMemory,
}

/// Sets the soft limit, and says what it was.
pub fn set_soft(resource: Resource, value: libc::rlim_t) -> libc::rlim_t {
    // The type of these numbers is not the same in every C library.
    let resource = match resource {
        Resource::Descriptors => libc::RLIMIT_NOFILE,
        Resource::AddressSpace => libc::RLIMIT_AS,
        Resource::LockedMemory => libc::RLIMIT_MEMLOCK,
    };
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is one rlimit, borrowed for us alone.
    assert_eq!(unsafe { libc::getrlimit(resource, &mut limit) }, 0);
    let before = limit.rlim_cur;
    limit.rlim_cur = value;
    // SAFETY: `limit` is one rlimit, which the call reads.
    assert_eq!(unsafe { libc::setrlimit(resource, &limit) }, 0);
    before
}

/// Locks what the process maps from now on, or no longer.
pub fn lock_future(locked: bool) {
    if locked {
        // SAFETY: changes where pages are, and no byte of them.
        assert_eq!(unsafe { libc::mlockall(libc::MCL_FUTURE) }, 0);
    } else {
        // SAFETY: as above.
        assert_eq!(unsafe { libc::munlockall() }, 0);
    }
}

/// From now on a system call of this thread, and of the programs that it starts, fails with this errno.
pub fn forbid(call: libc::c_long, errno: i32) {
    let code = |code: u32| u16::try_from(code).unwrap();
    let answer = libc::SECCOMP_RET_ERRNO | u32::try_from(errno).unwrap();
    let step = |op: u32, jt, jf, k| libc::sock_filter { code: code(op), jt, jf, k };
    let mut program = [
        // The number is the first word of struct seccomp_data.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, u32::try_from(call).unwrap()),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, answer),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
    // SAFETY: takes numbers only.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: `filter` names the four steps of `program`, which live through the call.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) }, 0);
}

/// From now on this operation of io_uring_register(2) does nothing in this thread and those that it starts, and says that it did.
pub fn pretend_registration(operation: u32) {
    let code = |code: u32| u16::try_from(code).unwrap();
    let step = |op: u32, jt, jf, k| libc::sock_filter { code: code(op), jt, jf, k };
    let equals = |jf, k| step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, jf, k);
    let mut program = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        equals(3, u32::try_from(libc::SYS_io_uring_register).unwrap()),
        // The low half of the second argument, on a little-endian machine.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 24),
        equals(1, operation),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: 6, filter: program.as_mut_ptr() };
    // SAFETY: takes numbers only.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: `filter` names the six steps of `program`, which live through the call.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) }, 0);
}

/// From now on no program that this thread starts has this capability, not even as root.
pub fn drop_capability(capability: libc::c_ulong) {
    // SAFETY: takes numbers only.
    assert_eq!(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) }, 0);
}

/// Which way a client's direct I/O goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Bytes of the memory go to the disk.
    Write,
    /// Bytes of the disk go to the memory.
    Read,
}

/// A client's direct I/O on `disk`, from or to `len` bytes at `start` of a memfd that it has mapped: how many bytes went.
pub fn direct(
    disk: &fs::File,
    at: i64,
    memory: &ublk::Fd,
    start: i64,
    len: usize,
    way: Direction,
) -> std::io::Result<usize> {
    use std::os::fd::AsRawFd;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice replaces none.
    let mapped = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, libc::MAP_SHARED, memory.raw(), start) };
    assert_ne!(mapped, libc::MAP_FAILED);
    let moved = match way {
        // SAFETY: the `len` bytes at `mapped` are this function's own; nobody makes references to them.
        Direction::Write => unsafe { libc::pwrite(disk.as_raw_fd(), mapped, len, at) },
        // SAFETY: as above.
        Direction::Read => unsafe { libc::pread(disk.as_raw_fd(), mapped, len, at) },
    };
    let failed = std::io::Error::last_os_error();
    // SAFETY: it was made above, and the I/O on it is over.
    assert_eq!(unsafe { libc::munmap(mapped, len) }, 0);
    usize::try_from(moved).map_err(|_| failed)
}

/// Adds a device as a user without rights may, which this crate does not offer yet.
pub fn add_unprivileged() -> Result<DeviceId, Errno> {
    let mut info = ublk_sys::ublksrv_ctrl_dev_info::default();
    (info.nr_hw_queues, info.queue_depth, info.max_io_buf_bytes, info.dev_id) = (1, 1, 4096, u32::MAX);
    info.flags = Features::UNPRIVILEGED_DEV.bits();
    let address = u64::try_from((&raw mut info).expose_provenance()).unwrap();
    // dev_id, queue_id and len; addr; no data; no path.
    let words = [u64::from_ne_bytes([255, 255, 255, 255, 255, 255, 64, 0]), address, 0, 0];
    send_by_hand(Command::ADD_DEV, words)?;
    Ok(DeviceId::new(info.dev_id))
}

/// Deletes such a device: every command to it has the path of its node in front of its buffer.
pub fn delete_unprivileged(id: DeviceId) {
    let path = CString::new(format!("/dev/ublkc{id}")).unwrap();
    let len = u16::try_from(path.as_bytes_with_nul().len()).unwrap();
    let address = u64::try_from(path.as_ptr().expose_provenance()).unwrap();
    let first = u64::from(id.raw()) | u64::from(u16::MAX) << 32 | u64::from(len) << 48;
    assert_eq!(send_by_hand(Command::DEL_DEV, [first, address, 0, len.into()]), Ok(()));
}

/// Sends these words of the command area, whose address, if it has one, is that of memory that the caller keeps.
fn send_by_hand(command: Command, words: [u64; 4]) -> Result<(), Errno> {
    let control = ublk::Fd::open(c"/dev/ublk-control").unwrap();
    let mut ring = Ring::wide(4, 4).unwrap();
    // SAFETY: the callers above keep what is at the address, and use it only after the completion was taken below.
    let op = unsafe { WideOp::uring_cmd(&control, command.raw(), words) };
    ring.push(op, 1).unwrap();
    loop {
        ring.submit_and_wait(None).unwrap();
        if let Some(completion) = ring.next_completion() {
            return if completion.result < 0 { Err(Errno::from_raw(completion.result)) } else { Ok(()) };
        }
    }
}

/// That this is the error, and that its sentence says so.
pub fn assert_says(error: Error, expected: Error, cause: &str) {
    assert_eq!(error, expected);
    let sentence = error.to_string();
    assert!(sentence.contains(cause), "{sentence}");
    assert!(!sentence.contains('\n') && !sentence.ends_with('.'), "{sentence}");
}
