// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the rules of opening nodes and of rings are broken.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::thread;

use ublk::diagnosis::{Environment, Node};
use ublk::ring::Ring;
use ublk::{
    BufferLock, Cache, Control, Device, DeviceId, Errno, Error, NewDevice, Params, QueueId, Sectors, SystemCall,
    hosting,
};

use super::machine::{
    Limit, Locked, Setting, drop_capabilities, empty_dev, forbid_rings, make_node, mapped_bytes, nobody, try_map,
    try_ring,
};
use super::scene::{Planted, Refused, Scene};
use super::table::How::{Planted as So, Unreachable};
use super::table::Row;
use crate::commands::{ID, PATH};

const NO_MEMORY: &str = "the kernel would have to run out of memory";
const NODE: &core::ffi::CStr = c"/dev/ublk-control";
const CHAR_NODE: &core::ffi::CStr = c"/dev/ublkc4660";
/// Where `cargo xtask vm` has the modules.
const MODULES: &str = "/usr/lib/xtask/modules";

pub const ROWS: &[Row] = &[
    ("open-control.not-loaded", So(not_loaded)),
    ("open-control.not-built", Unreachable("the kernels here have the driver (CONFIG_BLK_DEV_UBLK)")),
    (
        "open-control.no-node",
        So(|s| {
            let open = || {
                empty_dev();
                Control::open()
            };
            failed(s, open).knowing(|e| e.control_node = Some(Node::Missing))
        }),
    ),
    // Of the driver's major number 10, a minor that nobody has.
    ("open-control.no-driver", So(|s| failed(s, || open_other_node(10, 250)).knowing(not_ours))),
    ("open-control.other-node", So(|s| failed(s, || open_other_node(240, 77)).knowing(not_ours))),
    (
        "open-control.forbidden",
        So(|s| {
            let open = || {
                nobody();
                Control::open()
            };
            failed(s, open).knowing(|e| (e.control_node, e.cap_sys_admin) = (Some(Node::Forbidden), Some(false)))
        }),
    ),
    ("open-control.device-cgroup", Unreachable("a program for the kernel's BPF would have to forbid the node")),
    (
        "open-char.no-node",
        So(|mut s| {
            s.add(0);
            let open = || {
                empty_dev();
                open_char()
            };
            failed(s, open).knowing(|e| e.char_node = Some(Node::Missing))
        }),
    ),
    ("open-char.deleted", So(|s| failed(s, open_char))),
    ("open-char.left-node", So(left_node)),
    (
        "open-char.forbidden",
        So(|mut s| {
            s.add(0);
            let open = || {
                nobody();
                open_char()
            };
            failed(s, open).knowing(|e| (e.char_node, e.cap_sys_admin) = (Some(Node::Forbidden), Some(false)))
        }),
    ),
    (
        "open-char.busy",
        So(|mut s| {
            let _server = s.open(0);
            failed(s, open_char).knowing(|e| e.char_device_is_open = Some(true))
        }),
    ),
    (
        "io-uring.disabled",
        So(|s| {
            let setting = Setting::put("/proc/sys/kernel/io_uring_disabled", "1");
            let planted = failed(s, || {
                drop_capabilities();
                Ring::wide(4, 4)
            });
            drop(setting);
            planted.knowing(|e| (e.io_uring_disabled, e.cap_sys_admin) = (Some(1), Some(false)))
        }),
    ),
    ("io-uring.seccomp", So(|s| filtered(s, libc::EPERM))),
    ("io-uring.not-built", Unreachable("the kernels here have io_uring (CONFIG_IO_URING)")),
    ("io-uring.seccomp-hides", So(|s| filtered(s, libc::ENOSYS))),
    ("io-uring.entries", So(|s| failed(s, || Ring::wide(0, 4)))),
    ("io-uring.old", Unreachable("no kernel so old is in the archive with a driver")),
    ("io-uring.memlock", Unreachable("of the kernels of the archive only 6.16 to 6.18 count rings as locked memory")),
    ("io-uring.memory", Unreachable(NO_MEMORY)),
    ("io-uring.other-thread", So(|s| of_another_thread(s, SystemCall::IoUringEnter))),
    ("io-uring.busy-memory", Unreachable(NO_MEMORY)),
    ("io-uring.no-memory", Unreachable(NO_MEMORY)),
    ("io-uring.enabled-elsewhere", So(|s| of_another_thread(s, SystemCall::EnableRings))),
    ("mmap.address-space", So(|s| crowded(s, Control::open))),
    ("mmap.ring-address-space", So(|s| crowded(s, || Ring::wide(4, 4)))),
    (
        "mmap.descriptors-address-space",
        So(|mut s| {
            s.add(0);
            let node = node();
            crowded(s, || descriptors(node.as_raw_fd(), 4096, libc::PROT_READ))
        }),
    ),
    ("mmap.locked", So(|s| locked(s, |_| Control::open()))),
    ("mmap.ring-locked", So(|s| locked(s, |_| Ring::wide(4, 4)))),
    (
        "mmap.descriptors-locked",
        So(|mut s| {
            s.add(0);
            let node = node();
            locked(s, move |_| descriptors(node.as_raw_fd(), 4096, libc::PROT_READ))
        }),
    ),
    (
        "mmap.descriptors",
        So(|mut s| {
            s.add(0);
            let mapped = descriptors(node().as_raw_fd(), 8192, libc::PROT_READ);
            s.failed(mapped)
        }),
    ),
    (
        "mmap.not-ublk",
        So(|mut s| {
            let mapped = descriptors(File::open("/dev/null").unwrap().as_raw_fd(), 4096, libc::PROT_READ);
            s.failed(mapped)
        }),
    ),
    (
        "mmap.writable",
        So(|mut s| {
            s.add(0);
            let mapped = descriptors(node().as_raw_fd(), 4096, libc::PROT_READ | libc::PROT_WRITE);
            s.failed(mapped)
        }),
    ),
    (
        "thread.limit",
        So(|s| {
            let limit = Limit::put(libc::RLIMIT_NPROC, 1);
            let planted = failed(s, || {
                nobody();
                thread::Builder::new().spawn(|| ()).map(drop).map_err(|error| of_system(SystemCall::Thread, &error))
            });
            drop(limit);
            planted
        }),
    ),
    (
        "hosting.io-flusher",
        So(|s| {
            failed(s, || {
                drop_capabilities();
                hosting::mark_io_flusher()
            })
        }),
    ),
    ("hosting.lock-forbidden", So(|s| lock_with(s, 0))),
    ("hosting.lock-limit", So(|s| lock_with(s, 1 << 20))),
    ("hosting.lock-memory", Unreachable(NO_MEMORY)),
    (
        "hosting.oom-score",
        So(|s| {
            failed(s, || {
                drop_capabilities();
                hosting::adjust_oom_score(-1)
            })
        }),
    ),
    (
        "descriptors.process",
        So(|mut s| {
            let limit = Limit::put(libc::RLIMIT_NOFILE, 3);
            let opened = Control::open();
            drop(limit);
            s.failed(opened)
        }),
    ),
    (
        "descriptors.machine",
        So(|s| {
            let setting = Setting::put("/proc/sys/fs/file-max", "0");
            let planted = failed(s, || {
                drop_capabilities();
                Control::open()
            });
            drop(setting);
            planted
        }),
    ),
];

/// What a thread of its own is refused.
fn failed<T>(mut s: Scene, try_it: impl FnOnce() -> Result<T, Error> + Send) -> Planted {
    let tried = thread::scope(|scope| scope.spawn(|| try_it().map(drop)).join().unwrap());
    s.failed(tried)
}

fn not_ours(environment: &mut Environment<'_>) {
    environment.control_node = Some(Node::NotOurs);
}

fn open_other_node(major: u32, minor: u32) -> Result<Control, Error> {
    empty_dev();
    make_node(NODE, major, minor);
    Control::open()
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap())
}

fn of_system(call: SystemCall, error: &io::Error) -> Error {
    Error::System { call, errno: errno(error) }
}

fn try_open() -> Result<File, io::Error> {
    OpenOptions::new().read(true).write(true).open(PATH)
}

fn open_char() -> Result<File, Error> {
    try_open().map_err(|error| Error::OpenCharDevice { device: DeviceId::new(ID), errno: errno(&error) })
}

fn node() -> File {
    try_open().unwrap()
}

/// Takes the driver out of the kernel, and puts it back.
fn not_loaded(s: Scene) -> Planted {
    drop(s);
    let run = |program: &str, argument: &str| {
        let status = Command::new(program).arg(argument).status().unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(status.success(), "{program} {argument}");
    };
    run("rmmod", "ublk_drv");
    let opened = Control::open();
    let mut environment = Environment::default();
    environment.driver_loaded = Some(Path::new("/sys/module/ublk_drv").exists());
    environment.driver_built = Some(true);
    environment.control_node = Some(Node::Missing);
    match fs::read_dir(MODULES) {
        Ok(modules) => {
            let paths = modules.map(|module| module.unwrap().path());
            let driver = paths.into_iter().find(|path| path.to_string_lossy().contains("ublk_drv")).unwrap();
            run("insmod", driver.to_str().unwrap());
        }
        Err(_) => run("modprobe", "ublk_drv"),
    }
    Planted { refused: Refused::Error(opened.expect_err("a refusal")), environment }
}

/// A node with the numbers of a device that was deleted.
fn left_node(mut s: Scene) -> Planted {
    s.add(0);
    let numbers = fs::metadata(PATH).unwrap().rdev();
    let delete = s.golden("UBLK_U_CMD_DEL_DEV");
    assert_eq!(s.control.send(&delete), 0);
    let open = move || {
        empty_dev();
        make_node(CHAR_NODE, libc::major(numbers), libc::minor(numbers));
        open_char()
    };
    failed(s, open).knowing(|e| e.char_node = Some(Node::NotOurs))
}

fn filtered(s: Scene, errno: i32) -> Planted {
    let set_up = move || {
        forbid_rings(errno);
        Ring::wide(4, 4)
    };
    failed(s, set_up).knowing(|e| e.seccomp_filter = Some(true))
}

fn of_another_thread(s: Scene, call: SystemCall) -> Planted {
    const ENABLE_RINGS: u32 = 12;
    let ring = Ring::local(4, 4).unwrap().enable().unwrap();
    let fd = ring.fd().raw();
    failed(s, move || {
        let tried = match call {
            SystemCall::EnableRings => try_ring(libc::SYS_io_uring_register, fd, ENABLE_RINGS),
            _ => try_ring(libc::SYS_io_uring_enter, fd, 1),
        };
        tried.map_err(|error| of_system(call, &error))
    })
}

fn descriptors(fd: i32, len: usize, access: i32) -> Result<(), Error> {
    try_map(fd, len, access).map_err(|error| of_system(SystemCall::MmapDescriptors, &error))
}

/// Locks the buffers of a queue, which are 2 MiB, where no more than this may be locked.
fn lock_with(mut s: Scene, limit: u64) -> Planted {
    let device = NewDevice::new().depth(4).max_io_bytes(512 << 10);
    let mut device =
        Device::add(Control::open().unwrap(), &device, &Params::new(Sectors::new(2048), Cache::None)).unwrap();
    let mut queue = device.queue(QueueId::new(0)).unwrap();
    let limit = Limit::put(libc::RLIMIT_MEMLOCK, limit);
    let tried = thread::scope(|scope| {
        let lock = || {
            drop_capabilities();
            queue.lock_buffers(BufferLock::Prefaulted)
        };
        scope.spawn(lock).join().unwrap()
    });
    drop(limit);
    s.failed(tried).knowing(|e| e.cap_ipc_lock = Some(false))
}

/// Where all memory is locked, and none may be.
/// With no address space left.
fn crowded<T>(mut s: Scene, try_it: impl FnOnce() -> Result<T, Error>) -> Planted {
    let limit = Limit::put(libc::RLIMIT_AS, mapped_bytes());
    let tried = try_it();
    drop(limit);
    s.failed(tried)
}

fn locked<T>(mut s: Scene, try_it: impl FnOnce(()) -> Result<T, Error> + Send) -> Planted {
    let limit = Limit::put(libc::RLIMIT_MEMLOCK, 0);
    let tried = thread::scope(|scope| {
        let work = || {
            let locked = Locked::put();
            drop_capabilities();
            let tried = try_it(()).map(drop);
            drop(locked);
            tried
        };
        scope.spawn(work).join().unwrap()
    });
    drop(limit);
    s.failed(tried).knowing(|e| (e.cap_ipc_lock, e.memlock_bytes) = (Some(false), Some(0)))
}
