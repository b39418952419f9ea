// SPDX-License-Identifier: MIT OR Apache-2.0
//! What this process may do.

use std::fs;
use std::path::Path;

use crate::machine::{INITIAL_USER_NAMESPACE, field, is_initial_pid_namespace, is_namespace};

const CAP_IPC_LOCK: u32 = 14;
const CAP_SYS_ADMIN: u32 = 21;

/// `Seccomp:` of a process whose system calls are filtered.
const SECCOMP_FILTER: &str = "2";

/// Rights and limits of this process.
#[derive(Debug)]
pub(crate) struct Process {
    /// The effective capabilities.
    capabilities: Option<u64>,
    /// Whether its user namespace is the machine's.
    pub(crate) is_initial_user: Option<bool>,
    /// Whether its pid namespace is the machine's.
    pub(crate) is_initial_pid: Option<bool>,
    /// The effective user.
    pub(crate) user: Option<u32>,
    /// The effective group and the others.
    pub(crate) groups: Vec<i64>,
    pub(crate) has_seccomp_filter: Option<bool>,
    pub(crate) memlock_bytes: Option<Limit>,
    pub(crate) descriptors: Option<Limit>,
    pub(crate) open_descriptors: Option<u64>,
    /// What makes it look like one of a container.
    pub(crate) container: Option<&'static str>,
    /// Whether SELinux is there, and enforces.
    pub(crate) selinux_enforces: Option<bool>,
}

/// A limit of a process: `u64::MAX` for none.
pub(crate) type Limit = u64;

impl Process {
    pub(super) fn look() -> Process {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let ids =
            |name| field(&status, name).unwrap_or_default().split_whitespace().filter_map(|id| id.parse::<i64>().ok());
        let effective = |name| ids(name).nth(1);
        Process {
            capabilities: field(&status, "CapEff").and_then(|mask| u64::from_str_radix(mask, 16).ok()),
            is_initial_user: is_initial_user(),
            is_initial_pid: is_initial_pid_namespace(),
            user: effective("Uid").and_then(|id| id.try_into().ok()),
            groups: effective("Gid").into_iter().chain(ids("Groups")).collect(),
            has_seccomp_filter: field(&status, "Seccomp").map(|mode| mode == SECCOMP_FILTER),
            memlock_bytes: soft_limit(&limits, "Max locked memory"),
            descriptors: soft_limit(&limits, "Max open files"),
            open_descriptors: open_descriptors(),
            container: container(),
            selinux_enforces: fs::read_to_string("/sys/fs/selinux/enforce").ok().map(|text| text.trim() == "1"),
        }
    }

    /// Whether it has `CAP_SYS_ADMIN` where the driver asks for it.
    pub(crate) fn has_sys_admin(&self) -> Option<bool> {
        self.has(CAP_SYS_ADMIN)
    }

    /// Whether its memory may be locked without a limit.
    pub(crate) fn has_ipc_lock(&self) -> Option<bool> {
        self.has(CAP_IPC_LOCK)
    }

    /// A capability counts for the driver only if the user namespace is the machine's.
    fn has(&self, capability: u32) -> Option<bool> {
        let held = self.capabilities? >> capability & 1 == 1;
        if held { self.is_initial_user } else { Some(false) }
    }

    /// How many descriptors it may still have.
    pub(crate) fn free_descriptors(&self) -> Option<u64> {
        Some(self.descriptors?.saturating_sub(self.open_descriptors?))
    }
}

/// Whether the user namespace is the first one: it has every user, each under its own number, and its known name.
fn is_initial_user() -> Option<bool> {
    let map = fs::read_to_string("/proc/self/uid_map").ok()?;
    let is_identity = map.split_whitespace().eq(["0", "0", "4294967295"]);
    Some(is_identity && is_namespace("user", INITIAL_USER_NAMESPACE) != Some(false))
}

/// The soft limit of this name in `/proc/self/limits`.
fn soft_limit(limits: &str, name: &str) -> Option<Limit> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(Limit::MAX),
        number => number.parse().ok(),
    }
}

/// The descriptors that are open, but for the one that looks.
fn open_descriptors() -> Option<u64> {
    let entries = fs::read_dir("/proc/self/fd").ok()?;
    u64::try_from(entries.count()).ok()?.checked_sub(1)
}

fn container() -> Option<&'static str> {
    ["/.dockerenv", "/run/.containerenv", "/run/systemd/container"].into_iter().find(|path| Path::new(path).exists())
}

#[cfg(test)]
mod tests {
    use super::soft_limit;

    #[test]
    fn the_soft_limit_is_the_one_that_holds() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max open files            1024                 524288               files     \n\
                      Max locked memory         unlimited            unlimited            bytes     \n";
        assert_eq!(soft_limit(limits, "Max open files"), Some(1024));
        assert_eq!(soft_limit(limits, "Max locked memory"), Some(u64::MAX));
        assert_eq!(soft_limit(limits, "Max cpu time"), None);
    }
}
