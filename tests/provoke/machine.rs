// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine made worse, and better again: settings and limits, and threads that may do less.
#![expect(unsafe_code, reason = "system calls that change what this thread or process may do")]

use std::fs;
use std::io;

/// A file of the kernel's with another value, for as long as this lives.
pub struct Setting {
    path: &'static str,
    before: String,
}

impl Setting {
    pub fn put(path: &'static str, value: &str) -> Setting {
        let before = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        fs::write(path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
        Setting { path, before }
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        fs::write(self.path, &self.before).unwrap();
    }
}

/// A limit of this process that is lower, for as long as this lives.
pub struct Limit {
    resource: libc::__rlimit_resource_t,
    before: libc::rlimit,
}

impl Limit {
    pub fn put(resource: libc::__rlimit_resource_t, soft: u64) -> Limit {
        let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the kernel writes the struct.
        assert_eq!(unsafe { libc::getrlimit(resource, &mut before) }, 0);
        let limit = Limit { resource, before };
        limit.set(libc::rlimit { rlim_cur: soft, rlim_max: before.rlim_max });
        limit
    }

    fn set(&self, to: libc::rlimit) {
        // SAFETY: the kernel reads the struct.
        assert_eq!(unsafe { libc::setrlimit(self.resource, &to) }, 0, "{}", io::Error::last_os_error());
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        self.set(self.before);
    }
}

/// All memory that is mapped from now on is locked, for as long as this lives.
pub struct Locked;

impl Locked {
    pub fn put() -> Locked {
        // SAFETY: nothing of the memory that is there changes.
        assert_eq!(unsafe { libc::mlockall(libc::MCL_FUTURE) }, 0, "{}", io::Error::last_os_error());
        Locked
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // SAFETY: as above.
        assert_eq!(unsafe { libc::munlockall() }, 0);
    }
}

/// A system call of which nothing is expected but that it succeeds; libc's functions change every thread, and the calls one.
fn call(number: libc::c_long, arguments: [usize; 3]) {
    let [a, b, c] = arguments;
    // SAFETY: each caller below says what its arguments point to.
    let result = unsafe { libc::syscall(number, a, b, c) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// This thread has no capability from now on. It stays root's, whose files it may open.
pub fn drop_capabilities() {
    // `struct __user_cap_header_struct`, version 3 and this thread; `__user_cap_data_struct` twice.
    let (header, none) = ([0x2008_0522_u32, 0], [0_u32; 6]);
    // The kernel reads both, which live until it has.
    call(libc::SYS_capset, [header.as_ptr().addr(), none.as_ptr().addr(), 0]);
}

/// This thread is nobody's from now on.
pub fn nobody() {
    const ID: usize = 65534;
    // No argument points to anything.
    call(libc::SYS_setgroups, [0; 3]);
    call(libc::SYS_setresgid, [ID; 3]);
    call(libc::SYS_setresuid, [ID; 3]);
}

/// This thread has a filter from now on, which answers `io_uring_setup` with an errno.
pub fn forbid_rings(errno: i32) {
    const LOAD: u16 = 0x20;
    const EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    const ERRNO: u32 = 0x0005_0000;
    let instruction = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut filter = [
        // The number of the call.
        instruction(LOAD, 0, 0, 0),
        instruction(EQUAL, 0, 1, libc::SYS_io_uring_setup.try_into().unwrap()),
        instruction(RETURN, 0, 0, ERRNO | errno.unsigned_abs()),
        instruction(RETURN, 0, 0, ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    // The kernel reads the program and the filter, which live until it has.
    call(libc::SYS_seccomp, [1, 0, core::ptr::from_ref(&program).addr()]);
}

/// This thread has a `/dev` of its own from now on, which is empty.
pub fn empty_dev() {
    // SAFETY: no argument points to anything.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS | libc::CLONE_FS) }, 0, "{}", io::Error::last_os_error());
    let mount = |kind: &core::ffi::CStr, path: &core::ffi::CStr, flags| {
        let (kind, path) = (kind.as_ptr(), path.as_ptr());
        // SAFETY: the kernel reads the strings, and no data.
        let mounted = unsafe { libc::mount(kind, path, kind, flags, core::ptr::null()) };
        assert_eq!(mounted, 0, "{}", io::Error::last_os_error());
    };
    mount(c"none", c"/", libc::MS_REC | libc::MS_PRIVATE);
    mount(c"tmpfs", c"/dev", 0);
}

/// Makes the node of a character device.
pub fn make_node(path: &core::ffi::CStr, major: u32, minor: u32) {
    // SAFETY: the kernel reads the path.
    let made = unsafe { libc::mknod(path.as_ptr(), libc::S_IFCHR | 0o600, libc::makedev(major, minor)) };
    assert_eq!(made, 0, "{}", io::Error::last_os_error());
}

/// Maps a file, and takes the mapping away again.
pub fn try_map(fd: i32, len: usize, access: i32) -> Result<(), io::Error> {
    // SAFETY: a new mapping, wherever there is room.
    let place = unsafe { libc::mmap(core::ptr::null_mut(), len, access, libc::MAP_SHARED, fd, 0) };
    if place == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping is this function's, and nothing points there.
    assert_eq!(unsafe { libc::munmap(place, len) }, 0);
    Ok(())
}

/// Enters a ring to wait for nothing, or registers something with it.
pub fn try_ring(number: libc::c_long, ring: i32, operation: u32) -> Result<(), io::Error> {
    let nothing = core::ptr::null::<u8>();
    // SAFETY: no memory is passed.
    let result = unsafe { libc::syscall(number, ring, operation, nothing, 0, nothing, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// How many bytes this process has mapped.
pub fn mapped_bytes() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    pages.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 4096
}
