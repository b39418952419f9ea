// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an errno means where it has one meaning, and what to do about it: the end of an error's one sentence.
//!
//! An operation that is not in a table with an errno can answer it for more than one reason, or for none that is known, and
//! then the sentence ends with the errno. Where each stands in the kernel: `drivers/block/ublk_drv.c` by the function that
//! the command's documentation names, `io_uring/` for the ring.

use crate::errno::Errno;
use crate::error::{Command, SystemCall};

/// Opening `/dev/ublk-control`.
const OPEN_CONTROL: &[(Errno, &str)] = &[
    (
        Errno::ENOENT,
        "the driver is not loaded (modprobe ublk_drv), not in this kernel, or its node is not in this /dev",
    ),
    (Errno::ENODEV, "the node has no driver behind it (modprobe ublk_drv)"),
    (Errno::EACCES, "the node belongs to root: run as root, or give the node to this user"),
];

/// Opening `/dev/ublkcN`.
const OPEN_CHAR_DEVICE: &[(Errno, &str)] = &[
    (Errno::ENOENT, "the device was deleted, or nothing makes nodes in this /dev"),
    (Errno::ENXIO, "the node is left of a device that was deleted"),
    (Errno::EACCES, "the node belongs to somebody else"),
    (Errno::EBUSY, "another server has it open, or the kernel has not let go of the last one yet"),
];

/// Whatever makes a descriptor.
const DESCRIPTORS: &[(Errno, &str)] = &[
    (Errno::EMFILE, "this process has as many descriptors as it may: raise RLIMIT_NOFILE (ulimit -n)"),
    (Errno::ENFILE, "the machine has as many open files as it may: raise sysctl fs.file-max"),
];

const SYSTEM_CALLS: &[(SystemCall, Errno, &str)] = &[
    (
        SystemCall::IoUringSetup,
        Errno::EPERM,
        "io_uring is forbidden here, by sysctl kernel.io_uring_disabled (0 allows it to all, 1 to CAP_SYS_ADMIN) or by a \
         seccomp filter such as containers have",
    ),
    (
        SystemCall::IoUringSetup,
        Errno::ENOSYS,
        "this kernel has no io_uring (CONFIG_IO_URING), or a seccomp filter hides it",
    ),
    (
        SystemCall::IoUringSetup,
        Errno::EINVAL,
        "the number of entries is 0 or too large, or the kernel is older than Linux 6.1",
    ),
    (
        SystemCall::IoUringSetup,
        Errno::ENOMEM,
        "the kernel has no memory, or counts rings as locked memory, as Linux 6.18 does: raise RLIMIT_MEMLOCK (ulimit -l)",
    ),
    (SystemCall::IoUringEnter, Errno::EEXIST, "the ring belongs to the thread that enabled it"),
    (SystemCall::IoUringEnter, Errno::EAGAIN, "the kernel is out of memory; what it did not take stays staged"),
    (SystemCall::IoUringEnter, Errno::ENOMEM, "the kernel is out of memory; what it did not take stays staged"),
    (SystemCall::MmapAnonymous, Errno::ENOMEM, NO_ADDRESS_SPACE),
    (SystemCall::MmapAnonymous, Errno::EAGAIN, LOCKED_MEMORY),
    (SystemCall::MmapRing, Errno::EAGAIN, LOCKED_MEMORY),
    (SystemCall::MmapDescriptors, Errno::EAGAIN, LOCKED_MEMORY),
    (
        SystemCall::MmapDescriptors,
        Errno::EINVAL,
        "another process has mapped a queue of this device, or it is not the device that was described",
    ),
    (SystemCall::MmapDescriptors, Errno::ENODEV, "the descriptor is not that of an open char device of ublk"),
    (
        SystemCall::Thread,
        Errno::EAGAIN,
        "no more threads are allowed: raise RLIMIT_NPROC (ulimit -u), pids.max of the cgroup, or sysctl kernel.threads-max",
    ),
];

const NO_ADDRESS_SPACE: &str = "the address space is limited (RLIMIT_AS, sysctl vm.overcommit_memory=2), or the mappings (sysctl vm.max_map_count)";

const LOCKED_MEMORY: &str =
    "this process locks its memory (mlockall) and may lock no more: raise RLIMIT_MEMLOCK (ulimit -l)";

/// Control commands that answer an errno for a reason of their own.
const CONTROL: &[(Command, Errno, &str)] = &[
    (Command::GET_FEATURES, Errno::ENODEV, BEFORE_6_5),
    (Command::GET_FEATURES, Errno::EACCES, "a security module (SELinux) forbids io_uring commands on this file"),
    (
        Command::ADD_DEV,
        Errno::EPERM,
        "adding a device that is not unprivileged takes CAP_SYS_ADMIN outside of any user namespace",
    ),
    (
        Command::ADD_DEV,
        Errno::EEXIST,
        "the id is taken; a device that was deleted has it as long as somebody holds its files",
    ),
    // The driver of Linux 6.12, and that of 7.3, counts only unprivileged devices, and refuses only them.
    (
        Command::ADD_DEV,
        Errno::EACCES,
        "there are as many devices as the module parameter ublks_max allows \
         (/sys/module/ublk_drv/parameters/ublks_max): delete one, or raise it",
    ),
    (Command::ADD_DEV, Errno::EINVAL, "the features that were asked for exclude or need one another"),
    (Command::ADD_DEV, Errno::ENOSPC, "every id is taken"),
    (Command::ADD_DEV, Errno::ENOMEM, "the kernel has no memory for so many queues of this depth"),
    (Command::GET_DEV_INFO, Errno::EINVAL, UNPRIVILEGED),
    (Command::GET_DEV_INFO2, Errno::EPERM, "the path is not that of the device's node, or CAP_SYS_ADMIN is missing"),
    (Command::GET_DEV_INFO2, Errno::EACCES, "the path may not be searched, or the node not be read"),
    (Command::GET_DEV_INFO2, Errno::ENOENT, "there is nothing at the path"),
    (Command::SET_PARAMS, Errno::EACCES, "parameters are set before a device is started"),
    (Command::START_DEV, Errno::EEXIST, "it is live already, or a client still has its last block device open"),
    (Command::START_DEV, Errno::EBUSY, "it was stopped, and its server has not let go of the char device"),
    (Command::STOP_DEV, Errno::EINVAL, UNPRIVILEGED),
    (Command::DEL_DEV, Errno::EINVAL, UNPRIVILEGED),
    (Command::DEL_DEV_ASYNC, Errno::EINVAL, UNPRIVILEGED),
];

const BEFORE_6_5: &str = "the kernel is older than Linux 6.5";

const UNPRIVILEGED: &str = "the device is unprivileged: its commands carry a path, or it is deleted by DEL_DEV alone";

/// What every control command may answer.
const EVERY_CONTROL: &[(Errno, &str)] = &[
    (Errno::ENODEV, "there is no device of that id"),
    (Errno::EPERM, "it takes CAP_SYS_ADMIN outside of any user namespace"),
    // The release stands behind it.
    (Errno::EOPNOTSUPP, "the driver is older than the command"),
];

const IO: &[(Command, Errno, &str)] =
    &[(Command::FETCH_REQ, Errno::EBUSY, "it was fetched already: a device is served by one server, once")];

/// What it comes to that a commit was refused, whatever the errno.
const UNANSWERED: &str = "the request stays unanswered until the server lets go of the char device";

/// What may still come of a command that was not answered in time.
const TIMED_OUT: &[(Command, &str)] = &[
    (
        Command::ADD_DEV,
        "it may still be done and leave a device; the driver adds none while another device waits to be stopped",
    ),
    (
        Command::START_DEV,
        "it may still be done; the driver waits until every tag of every queue was fetched and served",
    ),
    (Command::STOP_DEV, HELD),
    (Command::DEL_DEV, HELD),
    (Command::DEL_DEV_ASYNC, HELD),
];

const HELD: &str = "it may still be done, and this process cannot exit before, not even by SIGKILL: the driver waits until \
                    the server answers what it holds, or lets go of the device";

fn row<K: Copy + PartialEq>(table: &[(K, Errno, &'static str)], key: K, errno: Errno) -> Option<&'static str> {
    table.iter().find(|(k, e, _)| *k == key && *e == errno).map(|(_, _, text)| *text)
}

fn entry<K: Copy + PartialEq>(table: &[(K, &'static str)], key: K) -> Option<&'static str> {
    table.iter().find(|(k, _)| *k == key).map(|(_, text)| *text)
}

pub(super) fn of_open_control(errno: Errno) -> Option<&'static str> {
    entry(OPEN_CONTROL, errno).or_else(|| entry(DESCRIPTORS, errno))
}

pub(super) fn of_open_char_device(errno: Errno) -> Option<&'static str> {
    entry(OPEN_CHAR_DEVICE, errno).or_else(|| entry(DESCRIPTORS, errno))
}

pub(super) fn of_system_call(call: SystemCall, errno: Errno) -> Option<&'static str> {
    row(SYSTEM_CALLS, call, errno).or_else(|| entry(DESCRIPTORS, errno))
}

pub(super) fn of_control(command: Command, errno: Errno) -> Option<&'static str> {
    row(CONTROL, command, errno).or_else(|| entry(EVERY_CONTROL, errno))
}

pub(super) fn of_io(command: Command, errno: Errno) -> Option<&'static str> {
    let unanswered = (command == Command::COMMIT_AND_FETCH_REQ).then_some(UNANSWERED);
    row(IO, command, errno).or(unanswered)
}

pub(super) fn of_time_out(command: Command) -> &'static str {
    entry(TIMED_OUT, command).unwrap_or("it may still be done")
}

#[cfg(test)]
mod tests {
    use super::{CONTROL, DESCRIPTORS, EVERY_CONTROL, IO, OPEN_CHAR_DEVICE, OPEN_CONTROL, SYSTEM_CALLS, TIMED_OUT};
    use std::collections::HashSet;
    use std::format;
    use std::string::String;
    use std::vec::Vec;

    #[test]
    fn every_cause_is_the_end_of_a_sentence_and_stands_once() {
        let mut rows: Vec<(String, &str)> = Vec::new();
        rows.extend(SYSTEM_CALLS.iter().map(|(call, errno, text)| (format!("{call} {errno}"), *text)));
        for (name, table) in [("control", CONTROL), ("io", IO)] {
            rows.extend(table.iter().map(|(command, errno, text)| (format!("{name} {command} {errno}"), *text)));
        }
        for (name, table) in [
            ("/dev/ublk-control", OPEN_CONTROL),
            ("/dev/ublkc", OPEN_CHAR_DEVICE),
            ("a descriptor", DESCRIPTORS),
            ("a command", EVERY_CONTROL),
        ] {
            rows.extend(table.iter().map(|(errno, text)| (format!("{name} {errno}"), *text)));
        }
        rows.extend(TIMED_OUT.iter().map(|(command, text)| (format!("late {command}"), *text)));
        let mut keys = HashSet::new();
        for (key, text) in rows {
            assert!(!text.ends_with('.') && !text.contains(". ") && !text.contains("  "), "{text}");
            assert!(!text.starts_with(|c: char| c.is_ascii_uppercase()), "{text}");
            assert!(keys.insert(key.clone()), "{key} stands twice");
        }
    }
}
