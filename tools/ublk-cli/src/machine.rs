// SPDX-License-Identifier: MIT OR Apache-2.0
//! What this machine and this process are, as far as files tell: nothing here asks the driver, and nothing changes anything.

mod config;
mod node;
mod process;

use std::fs;
use std::path::PathBuf;

use ublk::diagnosis::Environment;

pub(crate) use config::Config;
pub(crate) use node::{ControlNode, Dev};
pub(crate) use process::Process;

/// The errno of a process that has ended while it was looked at.
pub(crate) const ESRCH: i32 = 3;

/// Where Linux 5.1 and newer say who may make a ring; the file is there since 6.6.
const IO_URING_DISABLED: &str = "/proc/sys/kernel/io_uring_disabled";
const IO_URING_GROUP: &str = "/proc/sys/kernel/io_uring_group";

/// The numbers of the first namespaces of their kinds, which Linux gives no other.
const INITIAL_USER_NAMESPACE: &str = "user:[4026531837]";
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Everything that was found out.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) release: Option<(u16, u16)>,
    pub(crate) config: Config,
    pub(crate) driver: Driver,
    pub(crate) process: Process,
    pub(crate) io_uring_disabled: Option<u8>,
    pub(crate) io_uring_group: Option<i64>,
    pub(crate) control_node: ControlNode,
    pub(crate) dev: Dev,
    pub(crate) page_bytes: Option<u32>,
}

/// The driver's module.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) is_loaded: bool,
    /// Whether it is part of the kernel.
    pub(crate) is_builtin: bool,
    /// The module's file, where the machine has one for this kernel.
    pub(crate) file: Option<PathBuf>,
    /// The module parameter `ublks_max`: how many unprivileged devices there may be.
    pub(crate) ublks_max: Option<u32>,
}

impl Machine {
    /// Looks at everything.
    pub(crate) fn look() -> Machine {
        let release = release_text();
        Machine {
            release: self::release(),
            config: Config::find(release.as_deref()),
            driver: Driver::find(release.as_deref()),
            process: Process::look(),
            io_uring_disabled: number(IO_URING_DISABLED),
            io_uring_group: number(IO_URING_GROUP),
            control_node: ControlNode::look(),
            dev: Dev::look(),
            page_bytes: page_bytes(),
        }
    }

    /// The same as the rules of the kernel know it.
    pub(crate) fn environment(&self) -> Environment<'static> {
        let mut environment = Environment::default();
        environment.kernel = self.release;
        environment.cap_sys_admin = self.process.has_sys_admin();
        environment.cap_ipc_lock = self.process.has_ipc_lock();
        environment.io_uring_disabled = self.io_uring_disabled;
        environment.in_io_uring_group = self.io_uring_group.map(|group| self.process.groups.contains(&group));
        environment.seccomp_filter = self.process.has_seccomp_filter;
        environment.io_uring_built = self.config.has("CONFIG_IO_URING");
        environment.driver_built = self.has_driver();
        environment.driver_loaded = Some(self.driver.is_loaded);
        environment.legacy_opcodes = self.config.has("CONFIG_BLKDEV_UBLK_LEGACY_OPCODES");
        environment.zoned_built = self.config.has("CONFIG_BLK_DEV_ZONED");
        environment.control_node = self.control_node.to_node();
        environment.unprivileged_devices_max = self.driver.ublks_max;
        environment.free_descriptors = self.process.free_descriptors();
        environment.memlock_bytes = self.process.memlock_bytes;
        environment.page_bytes = self.page_bytes;
        environment
    }

    /// Whether the driver is part of this kernel, or can be loaded.
    pub(crate) fn has_driver(&self) -> Option<bool> {
        if self.driver.is_loaded || self.driver.is_builtin || self.driver.file.is_some() {
            return Some(true);
        }
        self.config.has("CONFIG_BLK_DEV_UBLK")
    }
}

impl Driver {
    fn find(release: Option<&str>) -> Driver {
        let folder = release.map(|release| format!("/lib/modules/{release}"));
        let listed = |list: &str| {
            let folder = folder.as_deref()?;
            let text = fs::read_to_string(format!("{folder}/{list}")).ok()?;
            let mut paths = text.lines().map(|line| line.split(':').next().unwrap_or(line));
            paths.find(|path| path.contains("/ublk_drv.ko")).map(|path| PathBuf::from(format!("{folder}/{path}")))
        };
        Driver {
            is_loaded: fs::exists("/sys/module/ublk_drv").unwrap_or(false),
            is_builtin: listed("modules.builtin").is_some(),
            file: listed("modules.dep"),
            ublks_max: number("/sys/module/ublk_drv/parameters/ublks_max"),
        }
    }
}

/// The running kernel's release: `6.12.9-amd64`.
pub(crate) fn release_text() -> Option<String> {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    Some(text.trim().to_owned())
}

/// The first two numbers of the release.
pub(crate) fn release() -> Option<(u16, u16)> {
    let release = release_text()?;
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Whether a process of this number runs: one that has ended, and whose parent has not asked how, does not.
pub(crate) fn is_alive(process: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    field(&status, "State").is_some_and(|state| !state.starts_with(['Z', 'X']))
}

/// Whether this process sees every process of the machine by its number.
pub(crate) fn is_initial_pid_namespace() -> Option<bool> {
    is_namespace("pid", INITIAL_PID_NAMESPACE)
}

fn is_namespace(kind: &str, name: &str) -> Option<bool> {
    let link = fs::read_link(format!("/proc/self/ns/{kind}")).ok()?;
    Some(link.to_str() == Some(name))
}

/// What stands behind `NAME:` in a file of such lines.
fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
}

/// The number that a file of the kernel's settings holds.
fn number<T: std::str::FromStr>(path: &str) -> Option<T> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The page size, which the kernel told this process when it was started.
fn page_bytes() -> Option<u32> {
    const AT_PAGESZ: u64 = 6;
    let words = fs::read("/proc/self/auxv").ok()?;
    let mut words = words.chunks_exact(8).filter_map(|word| Some(u64::from_ne_bytes(word.try_into().ok()?)));
    while let (Some(kind), Some(value)) = (words.next(), words.next()) {
        if kind == AT_PAGESZ {
            return value.try_into().ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{field, is_alive, page_bytes, release};

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let status = "Name:\tx\nCapEff:\t0000\nSeccomp:\t2\nSeccomp_filters:\t1\n";
        assert_eq!(field(status, "Seccomp"), Some("2"));
        assert_eq!(field(status, "Cap"), None);
    }

    #[test]
    fn this_machine_is_looked_at_without_a_panic() {
        assert!(page_bytes().is_some_and(u32::is_power_of_two));
        assert!(release() > Some((2, 6)));
        assert!(is_alive(std::process::id()) && !is_alive(u32::MAX));
    }
}
