// SPDX-License-Identifier: MIT OR Apache-2.0
//! What opening a node and the system calls of a ring are refused for.

use crate::diagnosis::environment::Node;
use crate::diagnosis::rule::{
    Attempt, EACCES, EAGAIN, EBUSY, EEXIST, EINVAL, EMFILE, ENFILE, ENODEV, ENOENT, ENOMEM, ENOSYS, ENXIO, EPERM,
    Holds, certainly, possibly, rules, told,
};
use crate::diagnosis::seen::Seen;
use crate::error::SystemCall;

rules! {
    Attempt::OpenControl, "misc_open" {
        ENOENT, "open-control.not-loaded", |s| match s.environment.driver_loaded {
                Some(loaded) => certainly(!loaded && s.environment.driver_built != Some(false)),
                None => Holds::Possibly,
            },
            "the driver is not loaded (modprobe ublk_drv)",
            "run modprobe ublk_drv";
        ENOENT, "open-control.not-built", |s| match s.environment.driver_built {
                Some(built) => certainly(!built),
                None => possibly(s.environment.driver_loaded.is_none()),
            },
            "this kernel has no ublk driver (CONFIG_BLK_DEV_UBLK)",
            "run a kernel that has it: Debian's cloud kernels do from Linux 6.12 on";
        ENOENT, "open-control.no-node", |s| match s.environment.driver_loaded {
                Some(loaded) => certainly(loaded),
                None => Holds::Possibly,
            },
            "the driver's node is not in this /dev, which may be that of a container",
            "bind the host's /dev/ublk-control there; its numbers stand in /sys/class/misc/ublk-control/dev";
        ENODEV, "open-control.no-driver", |s| node_is(s.environment.control_node, Node::NotOurs),
            "the node has no driver behind it",
            "run modprobe ublk_drv, and make the node anew if it has other numbers then";
        ENXIO, "open-control.other-node", |s| node_is(s.environment.control_node, Node::NotOurs),
            "what is there is not the driver's node",
            "make it anew with the numbers in /sys/class/misc/ublk-control/dev";
        EACCES, "open-control.forbidden", |s| node_is(s.environment.control_node, Node::Forbidden),
            "the node belongs to root, and this process may not open it",
            "run as root, or give the node to this user";
        EPERM, "open-control.device-cgroup", |_| possibly(true),
            "the control group of this process may not use the device",
            "allow it there: --device=/dev/ublk-control for a container";
    }
    Attempt::OpenCharDevice, "ublk_ch_open" {
        ENOENT, "open-char.no-node", |s| match s.environment.device_exists {
                Some(exists) => certainly(exists),
                None => Holds::Possibly,
            },
            "nothing makes nodes in this /dev, which may be that of a container",
            "mount a devtmpfs there, run udev, or make the node with the numbers in /sys/class/ublk-char";
        ENOENT, "open-char.deleted", |s| told(s.environment.device_exists.map(|exists| !exists)),
            "the device was deleted",
            "add it anew";
        ENXIO, "open-char.left-node", |s| node_is(s.environment.char_node, Node::NotOurs),
            "the node is left of a device that was deleted",
            "remove the node, and see why nothing did";
        EACCES, "open-char.forbidden", |s| node_is(s.environment.char_node, Node::Forbidden),
            "the node belongs to somebody else",
            "run as its owner; udev gives it to the owner of an unprivileged device";
        EBUSY, "open-char.busy", |s| told(s.environment.char_device_is_open),
            "another server has it open, or the kernel has not let go of the last one: a descriptor, a mapping, a ring's registered file or a child of fork holds it",
            "end that server, or wait until it has ended";
    }
    Attempt::System(SystemCall::IoUringSetup), "io_uring_allowed" {
        EPERM, "io-uring.disabled", |s| match (s.environment.io_uring_disabled, s.environment.cap_sys_admin) {
                (Some(0), _) => Holds::No,
                (Some(1), Some(true)) => Holds::No,
                (Some(1), _) if s.environment.in_io_uring_group == Some(true) => Holds::No,
                (Some(1), None) => Holds::Possibly,
                (Some(_), _) => Holds::Certainly,
                (None, _) => Holds::Possibly,
            },
            "sysctl kernel.io_uring_disabled forbids it: 1 to all but CAP_SYS_ADMIN and kernel.io_uring_group, 2 to everybody",
            "run sysctl kernel.io_uring_disabled=0, or for 1 put this user into the group";
    }
    Attempt::System(SystemCall::IoUringSetup), "__seccomp_filter" {
        EPERM, "io-uring.seccomp", |s| filtered(s, s.environment.io_uring_disabled == Some(0)),
            "a seccomp filter, such as containers have, forbids io_uring",
            "allow io_uring_setup, io_uring_enter and io_uring_register there";
        ENOSYS, "io-uring.not-built", |s| match s.environment.io_uring_built {
                Some(built) => certainly(!built),
                None => possibly(s.environment.seccomp_filter != Some(true)),
            },
            "this kernel has no io_uring (CONFIG_IO_URING)",
            "run a kernel that has it";
        ENOSYS, "io-uring.seccomp-hides", |s| filtered(s, s.environment.io_uring_built == Some(true)),
            "a seccomp filter hides io_uring",
            "allow io_uring_setup, io_uring_enter and io_uring_register there";
    }
    Attempt::System(SystemCall::IoUringSetup), "io_uring_create" {
        EINVAL, "io-uring.entries", |s| possibly(s.environment.kernel.is_none_or(|kernel| kernel >= (6, 1))),
            "the number of entries is 0 or too large",
            "ask for 1 to 32768";
        EINVAL, "io-uring.old", |s| told(s.environment.kernel.map(|kernel| kernel < (6, 1))),
            "the kernel is older than Linux 6.1 and does not know a flag of the ring",
            "run Linux 6.5 or newer";
        ENOMEM, "io-uring.memlock", |s| match (s.environment.cap_ipc_lock, s.environment.memlock_bytes) {
                (Some(true), _) => Holds::No,
                (Some(false), Some(bytes)) => certainly(bytes < MEMLOCK_ENOUGH),
                (_, bytes) => possibly(bytes.is_none_or(|bytes| bytes < MEMLOCK_ENOUGH)),
            },
            "rings count as locked memory on this kernel, and this process may lock no more",
            "raise RLIMIT_MEMLOCK (ulimit -l)";
        ENOMEM, "io-uring.memory", |_| possibly(true),
            "the kernel has no memory for the ring",
            "give the machine, or the control group of this process, more memory";
    }
    Attempt::System(SystemCall::IoUringEnter), "io_uring_enter" {
        EEXIST, "io-uring.other-thread", |_| certainly(true),
            "the ring belongs to the thread that enabled it",
            "use a queue on the thread that fetched it";
        EAGAIN, "io-uring.busy-memory", |_| certainly(true),
            "the kernel is out of memory; what it did not take stays staged",
            "give the machine more memory, and enter the ring again";
        ENOMEM, "io-uring.no-memory", |_| certainly(true),
            "the kernel is out of memory; what it did not take stays staged",
            "give the machine more memory, and enter the ring again";
    }
    Attempt::System(SystemCall::EnableRings), "io_register_enable_rings" {
        EEXIST, "io-uring.enabled-elsewhere", |_| certainly(true),
            "another thread enabled the ring",
            "use a queue on the thread that fetched it";
    }
    Attempt::System(SystemCall::MmapAnonymous), "mmap_region" {
        ENOMEM, "mmap.address-space", |_| certainly(true),
            "the address space is limited (RLIMIT_AS, sysctl vm.overcommit_memory=2), or the mappings (sysctl vm.max_map_count)",
            "raise the limit that is reached";
        EAGAIN, "mmap.locked", |_| certainly(true),
            "this process locks its memory (mlockall) and may lock no more",
            "raise RLIMIT_MEMLOCK (ulimit -l)";
    }
    Attempt::System(SystemCall::MmapRing), "mmap_region" {
        ENOMEM, "mmap.ring-address-space", |_| certainly(true),
            "the address space is limited (RLIMIT_AS, sysctl vm.overcommit_memory=2), or the mappings (sysctl vm.max_map_count)",
            "raise the limit that is reached";
    }
    Attempt::System(SystemCall::MmapRing), "io_uring_mmap" {
        EAGAIN, "mmap.ring-locked", |_| certainly(true),
            "this process locks its memory (mlockall) and may lock no more",
            "raise RLIMIT_MEMLOCK (ulimit -l)";
    }
    Attempt::System(SystemCall::MmapDescriptors), "mmap_region" {
        ENOMEM, "mmap.descriptors-address-space", |_| certainly(true),
            "the address space is limited (RLIMIT_AS, sysctl vm.overcommit_memory=2), or the mappings (sysctl vm.max_map_count)",
            "raise the limit that is reached";
    }
    Attempt::System(SystemCall::MmapDescriptors), "ublk_ch_mmap" {
        EAGAIN, "mmap.descriptors-locked", |_| certainly(true),
            "this process locks its memory (mlockall) and may lock no more",
            "raise RLIMIT_MEMLOCK (ulimit -l)";
        EINVAL, "mmap.descriptors", |_| certainly(true),
            "another process has mapped a queue of this device, or it is not the device that was described",
            "map in the process that mapped first, queue_depth descriptors in whole pages, at queue times the room of 4096 descriptors";
        ENODEV, "mmap.not-ublk", |_| certainly(true),
            "the descriptor is not that of an open char device of ublk",
            "pass the open /dev/ublkcN";
        EPERM, "mmap.writable", |_| certainly(true),
            "the descriptors were to be mapped writable",
            "map them with PROT_READ alone";
    }
    Attempt::System(SystemCall::Thread), "copy_process" {
        EAGAIN, "thread.limit", |_| certainly(true),
            "no more threads are allowed",
            "raise RLIMIT_NPROC (ulimit -u), pids.max of the control group, or sysctl kernel.threads-max";
    }
    Attempt::System(SystemCall::IoFlusher), "SYSCALL_DEFINE5(prctl)" {
        EPERM, "hosting.io-flusher", |_| certainly(true),
            "the thread has no CAP_SYS_RESOURCE in the initial user namespace",
            "give it that right: AmbientCapabilities=CAP_SYS_RESOURCE in a unit file";
    }
    Attempt::System(SystemCall::LockMemory), "do_mlock" {
        EPERM, "hosting.lock-forbidden", |_| certainly(true),
            "the process has no CAP_IPC_LOCK, and without it may lock nothing (RLIMIT_MEMLOCK is 0)",
            "give it that right, or raise RLIMIT_MEMLOCK: LimitMEMLOCK= in a unit file";
        ENOMEM, "hosting.lock-limit", |_| certainly(true),
            "the process has no CAP_IPC_LOCK, and without it may lock no more (RLIMIT_MEMLOCK)",
            "give it that right, or raise RLIMIT_MEMLOCK: LimitMEMLOCK= in a unit file";
        EAGAIN, "hosting.lock-memory", |_| certainly(true),
            "there is not so much memory",
            "have fewer or smaller buffers, or more memory, also in the control group of this process";
    }
    Attempt::System(SystemCall::OomScore), "__set_oom_adj" {
        EACCES, "hosting.oom-score", |_| certainly(true),
            "it would get smaller, and the process has no CAP_SYS_RESOURCE in the initial user namespace",
            "give it that right, or have it set from outside: OOMScoreAdjust= in a unit file";
    }
    Attempt::Descriptor, "alloc_fd" {
        EMFILE, "descriptors.process", |_| certainly(true),
            "this process has as many descriptors as it may",
            "raise RLIMIT_NOFILE (ulimit -n)";
    }
    Attempt::Descriptor, "alloc_empty_file" {
        ENFILE, "descriptors.machine", |_| certainly(true),
            "the machine has as many open files as it may",
            "raise sysctl fs.file-max";
    }
}

/// What is enough for a control ring and one queue's, and more.
const MEMLOCK_ENOUGH: u64 = 1 << 20;

fn node_is(node: Option<Node>, wanted: Node) -> Holds {
    told(node.map(|node| node == wanted))
}

/// A filter was it, if there is one and nothing else can have been.
fn filtered(seen: &Seen<'_>, nothing_else: bool) -> Holds {
    match seen.environment.seccomp_filter {
        Some(false) => Holds::No,
        Some(true) if nothing_else => Holds::Certainly,
        _ => Holds::Possibly,
    }
}
