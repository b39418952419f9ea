// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is looked at before anything is made, in the order in which a server would meet it.

use serde_json::{Value, json};
use ublk::diagnosis::Environment;
use ublk::ring::Ring;
use ublk::{Command, Control, DeviceId, Errno, Error, Sent, SystemCall};

use crate::devices::list::Listed;
use crate::doctor::finding::{Finding, push_findings};
use crate::machine::{self, ControlNode, Machine};

/// The descriptors of a server with one queue, beside those that it needs for its disk: `Server::run` says so.
const DESCRIPTORS: u64 = 9;

/// Something that was looked at.
#[derive(Debug)]
pub(super) struct Check {
    /// Its name, which stays the same: `group.what`.
    id: &'static str,
    verdict: Verdict,
    /// What was seen, and where.
    seen: String,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Verdict {
    Fine,
    /// Why it is not; the likeliest first, and at least one.
    Problem(Vec<Finding>),
    /// It could not be found out.
    Unknown,
}

impl Check {
    fn new(id: &'static str, verdict: Verdict, seen: impl Into<String>) -> Check {
        Check { id, verdict, seen: seen.into() }
    }

    /// Fine, a problem, or not known: as the value says. A problem is what would be refused with `error`.
    fn told(
        id: &'static str,
        fine: Option<bool>,
        error: &Error,
        environment: &Environment<'_>,
        seen: impl Into<String>,
    ) -> Check {
        let verdict = match fine {
            Some(true) => Verdict::Fine,
            Some(false) => Verdict::Problem(Finding::all_of(error, environment)),
            None => Verdict::Unknown,
        };
        Check::new(id, verdict, seen)
    }

    pub(super) fn findings(&self) -> &[Finding] {
        match &self.verdict {
            Verdict::Problem(findings) => findings,
            _ => &[],
        }
    }

    pub(super) fn to_json(&self) -> Value {
        let verdict = match self.verdict {
            Verdict::Fine => "ok",
            Verdict::Problem(_) => "problem",
            Verdict::Unknown => "unknown",
        };
        let cause = self.findings().first().map(|finding| finding.id);
        json!({"id": self.id, "verdict": verdict, "seen": self.seen, "cause": cause})
    }

    /// Verdict, name and what was seen, and below that what is wrong and what to do.
    pub(super) fn to_text(&self, told: &mut Vec<&'static str>) -> String {
        let verdict = match self.verdict {
            Verdict::Fine => "ok",
            Verdict::Problem(_) => "problem",
            Verdict::Unknown => "cannot tell",
        };
        let mut text = format!("{verdict:11}  {:23}  {}\n", self.id, self.seen);
        push_findings(&mut text, self.findings(), told);
        text
    }
}

/// Looks at everything.
pub(super) fn all(machine: &Machine, environment: &Environment<'_>) -> Vec<Check> {
    let mut checks = vec![
        release(machine, environment),
        driver_built(machine, environment),
        driver_loaded(machine, environment),
        config(machine),
        control_node(machine, environment),
        dev(machine, environment),
        sysctl(machine, environment),
        ring(machine, environment),
        security_module(machine),
        sys_admin(machine, environment),
        namespaces(machine),
        descriptors(machine, environment),
        memlock(machine, environment),
    ];
    checks.extend(devices(environment));
    checks
}

/// What the driver would answer to a command that it does not take.
fn refused(command: Command, errno: Errno) -> Error {
    Error::Control { command, device: None, errno, sent: Sent::default() }
}

fn no_control(errno: Errno) -> Error {
    Error::OpenControl { errno }
}

fn release(machine: &Machine, environment: &Environment<'_>) -> Check {
    let seen = machine::release_text().unwrap_or_else(|| "/proc/sys/kernel/osrelease cannot be read".to_owned());
    let new = machine.release.map(|release| release >= (6, 5));
    Check::told(
        "kernel.release",
        new,
        &refused(Command::GET_FEATURES, Errno::ENODEV),
        environment,
        format!("Linux {seen}"),
    )
}

fn driver_built(machine: &Machine, environment: &Environment<'_>) -> Check {
    let driver = &machine.driver;
    let seen = if let Some(file) = &driver.file {
        file.display().to_string()
    } else if driver.is_builtin {
        "part of the kernel (modules.builtin)".to_owned()
    } else if driver.is_loaded {
        "it is loaded".to_owned()
    } else {
        match &machine.config.path {
            Some(path) => format!("CONFIG_BLK_DEV_UBLK in {path}, and no module of this kernel's in /lib/modules"),
            None => "neither the kernel's configuration nor its modules in /lib/modules are here".to_owned(),
        }
    };
    Check::told("driver.built", machine.has_driver(), &no_control(Errno::ENOENT), environment, seen)
}

fn driver_loaded(machine: &Machine, environment: &Environment<'_>) -> Check {
    let seen = match (machine.driver.is_loaded, machine.driver.ublks_max) {
        (true, Some(most)) => format!("/sys/module/ublk_drv, with ublks_max {most}"),
        (true, None) => "/sys/module/ublk_drv".to_owned(),
        (false, _) => "there is no /sys/module/ublk_drv".to_owned(),
    };
    Check::told("driver.loaded", Some(machine.driver.is_loaded), &no_control(Errno::ENOENT), environment, seen)
}

/// Options that decide what a device can be, and whether old servers work; none of them keeps a device from working.
fn config(machine: &Machine) -> Check {
    let Some(path) = &machine.config.path else {
        return Check::new(
            "kernel.config",
            Verdict::Unknown,
            "neither /proc/config.gz nor /boot/config-* of this kernel is here",
        );
    };
    let options = ["BLKDEV_UBLK_LEGACY_OPCODES", "BLK_DEV_ZONED", "BLK_DEV_INTEGRITY", "IO_URING"];
    let states = options.map(|option| {
        let is_set = machine.config.has(&format!("CONFIG_{option}")) == Some(true);
        format!("{option} {}", if is_set { "on" } else { "off" })
    });
    Check::new("kernel.config", Verdict::Fine, format!("{path}: {}", states.join(", ")))
}

fn control_node(machine: &Machine, environment: &Environment<'_>) -> Check {
    let (errno, seen) = match &machine.control_node {
        ControlNode::Missing => (Some(Errno::ENOENT), "there is no /dev/ublk-control".to_owned()),
        ControlNode::NotOurs(why) => (Some(Errno::ENXIO), format!("/dev/ublk-control: {why}")),
        ControlNode::There { owner, opened: Ok(()) } => (None, format!("/dev/ublk-control is {owner}")),
        ControlNode::There { owner, opened: Err(errno) } => {
            (Some(*errno), format!("/dev/ublk-control is {owner}; opening it: {errno}"))
        }
    };
    let error = no_control(errno.unwrap_or(Errno::ENOENT));
    Check::told("node.control", Some(errno.is_none()), &error, environment, seen)
}

/// Whether the nodes of a new device will come into being.
fn dev(machine: &Machine, environment: &Environment<'_>) -> Check {
    let udev = if machine.dev.has_udev { "udev runs" } else { "udev does not run" };
    let (fine, seen) = match machine.dev.filesystem.as_deref() {
        Some("devtmpfs") => (Some(true), format!("/dev is a devtmpfs; {udev}")),
        Some(other) => (Some(machine.dev.has_udev), format!("/dev is a {other}; {udev}")),
        None => (None, format!("nothing is mounted at /dev; {udev}")),
    };
    let mut environment = *environment;
    environment.device_exists = Some(true);
    let error = Error::OpenCharDevice { device: DeviceId::new(0), errno: Errno::ENOENT };
    Check::told("node.dev", fine, &error, &environment, seen)
}

fn sysctl(machine: &Machine, environment: &Environment<'_>) -> Check {
    let error = Error::System { call: SystemCall::IoUringSetup, errno: Errno::EPERM };
    let Some(disabled) = machine.io_uring_disabled else {
        let seen = "there is no kernel.io_uring_disabled, which came with Linux 6.6";
        return Check::new("io-uring.sysctl", Verdict::Fine, seen);
    };
    let mut seen = format!("kernel.io_uring_disabled is {disabled}");
    if let Some(group) = machine.io_uring_group.filter(|_| disabled == 1) {
        seen.push_str(&format!(", kernel.io_uring_group {group}"));
    }
    let forbidden = Finding::certain_of(&error, environment).filter(|finding| finding.id == "io-uring.disabled");
    Check::told("io-uring.sysctl", Some(forbidden.is_none()), &error, environment, seen)
}

fn ring(machine: &Machine, environment: &Environment<'_>) -> Check {
    let filter = match machine.process.has_seccomp_filter {
        Some(true) => "this process has a seccomp filter",
        Some(false) => "this process has no seccomp filter",
        None => "whether there is a seccomp filter is not known",
    };
    match Ring::wide(4, 4) {
        Ok(_) => Check::new("io-uring.setup", Verdict::Fine, format!("a ring of wide entries was made; {filter}")),
        Err(error) => {
            let problem = Verdict::Problem(Finding::all_of(&error, environment));
            Check::new("io-uring.setup", problem, format!("{error}; {filter}"))
        }
    }
}

fn security_module(machine: &Machine) -> Check {
    let (verdict, seen) = match machine.process.selinux_enforces {
        Some(true) => {
            (Verdict::Unknown, "SELinux enforces; whether it allows io_uring commands shows when one is sent")
        }
        Some(false) => (Verdict::Fine, "SELinux is there, and only warns"),
        None => (Verdict::Fine, "there is no SELinux (/sys/fs/selinux/enforce)"),
    };
    Check::new("rights.security-module", verdict, seen)
}

fn sys_admin(machine: &Machine, environment: &Environment<'_>) -> Check {
    let process = &machine.process;
    let user = process.user.map_or_else(|| "?".to_owned(), |user| user.to_string());
    let namespace = match process.is_initial_user {
        Some(true) => "the machine's user namespace",
        Some(false) => "a user namespace of its own",
        None => "a user namespace that is not known",
    };
    let has = process.has_sys_admin();
    let capability = match has {
        Some(true) => "with",
        Some(false) => "without",
        None => "perhaps with",
    };
    let seen = format!("user {user} in {namespace}, {capability} CAP_SYS_ADMIN there");
    Check::told("rights.sys-admin", has, &refused(Command::ADD_DEV, Errno::EPERM), environment, seen)
}

/// The driver counts processes as the namespace of whoever asks numbers them, so it works in any; but what it says of others may
/// not be seen here.
fn namespaces(machine: &Machine) -> Check {
    let container =
        machine.process.container.map_or_else(String::new, |sign| format!("; {sign} says that this is a container"));
    let (verdict, seen) = match machine.process.is_initial_pid {
        Some(true) => (Verdict::Fine, "the machine's pid namespace"),
        Some(false) => (Verdict::Unknown, "a pid namespace of its own: servers outside of it are not seen here"),
        None => (Verdict::Unknown, "the pid namespace is not known"),
    };
    Check::new("rights.namespaces", verdict, format!("{seen}{container}"))
}

fn descriptors(machine: &Machine, environment: &Environment<'_>) -> Check {
    let free = machine.process.free_descriptors();
    let seen = match (machine.process.descriptors, free) {
        (Some(limit), Some(free)) => format!(
            "RLIMIT_NOFILE is {limit}, and {free} of them are free; a server with one queue takes {DESCRIPTORS}"
        ),
        _ => "/proc/self/limits or /proc/self/fd cannot be read".to_owned(),
    };
    let error = Error::System { call: SystemCall::IoUringSetup, errno: Errno::EMFILE };
    Check::told("limits.descriptors", free.map(|free| free >= DESCRIPTORS), &error, environment, seen)
}

/// Whether the limit is too small is the rule's to say: it is one only for kernels that count a ring's memory, and for a server that
/// locks its own.
fn memlock(machine: &Machine, environment: &Environment<'_>) -> Check {
    let error = Error::System { call: SystemCall::IoUringSetup, errno: Errno::ENOMEM };
    let limit = match machine.process.memlock_bytes {
        Some(u64::MAX) => "no limit".to_owned(),
        Some(bytes) => format!("{bytes} bytes"),
        None => return Check::new("limits.memlock", Verdict::Unknown, "/proc/self/limits cannot be read"),
    };
    let capability = if machine.process.has_ipc_lock() == Some(true) { "with" } else { "without" };
    let short = Finding::certain_of(&error, environment);
    let seen = format!("RLIMIT_MEMLOCK is {limit}, {capability} CAP_IPC_LOCK");
    Check::told("limits.memlock", Some(short.is_none()), &error, environment, seen)
}

/// The devices that there are. Without the driver, or the right to ask it, there is nothing to say of them.
fn devices(environment: &Environment<'_>) -> Vec<Check> {
    let Ok(mut control) = Control::open() else {
        let unknown = |id| Check::new(id, Verdict::Unknown, "the driver cannot be asked");
        return vec![unknown("devices.unprivileged"), unknown("devices.stale")];
    };
    control.set_patience(super::PATIENCE, super::PATIENCE);
    let devices = Listed::all(&mut control);
    vec![unprivileged(&devices, environment), stale(&devices)]
}

fn stale(devices: &[Listed]) -> Check {
    let there = devices.len();
    let of =
        |wanted: Option<bool>| devices.iter().filter(move |device| device.is_stale() == wanted).map(|device| device.id);
    let (stale, unknown) = (ids(of(Some(true))), of(None).count());
    if !stale.is_empty() {
        let count = of(Some(true)).count();
        let text = format!("{count} devices have no server, and keep their numbers: {stale}");
        let finding = Finding::own("device.stale", text, "delete them: ublkctl delete ID");
        return Check::new(
            "devices.stale",
            Verdict::Problem(vec![finding]),
            format!("{count} of {there} devices are stale"),
        );
    }
    if unknown > 0 {
        let seen = format!("{there} devices, and of {unknown} this process cannot see whether they are served");
        return Check::new("devices.stale", Verdict::Unknown, seen);
    }
    Check::new("devices.stale", Verdict::Fine, format!("{there} devices, none without a server"))
}

/// The numbers, as many as a line holds.
fn ids(devices: impl Iterator<Item = DeviceId>) -> String {
    const SHOWN: usize = 16;
    let all: Vec<String> = devices.map(|id| id.to_string()).collect();
    let shown = all.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if all.len() > SHOWN { format!("{shown} and {} more", all.len() - SHOWN) } else { shown }
}

/// The limit of devices is one for those that users without rights add, whoever asks here.
fn unprivileged(devices: &[Listed], environment: &Environment<'_>) -> Check {
    let count = devices.iter().filter(|device| device.is_unprivileged == Some(true)).count();
    let mut environment = *environment;
    environment.cap_sys_admin = Some(false);
    environment.unprivileged_devices = u32::try_from(count).ok();
    let error = refused(Command::ADD_DEV, Errno::EACCES);
    let Some(most) = environment.unprivileged_devices_max else {
        return Check::new("devices.unprivileged", Verdict::Unknown, format!("{count}, and ublks_max is not known"));
    };
    let reached = Finding::certain_of(&error, &environment);
    let seen = format!("{count}, and ublks_max allows {most}");
    Check::told("devices.unprivileged", Some(reached.is_none()), &error, &environment, seen)
}

#[cfg(test)]
mod tests {
    use super::{ids, refused};
    use crate::doctor::finding::Finding;
    use ublk::diagnosis::Environment;
    use ublk::{Command, DeviceId, Errno, Error, SystemCall};

    #[test]
    fn every_problem_that_can_be_found_has_a_rule() {
        let mut environment = Environment::default();
        environment.kernel = Some((6, 1));
        environment.unprivileged_devices = Some(64);
        environment.unprivileged_devices_max = Some(64);
        environment.cap_sys_admin = Some(false);
        environment.cap_ipc_lock = Some(false);
        environment.memlock_bytes = Some(4096);
        environment.io_uring_disabled = Some(2);
        environment.driver_built = Some(true);
        environment.driver_loaded = Some(false);
        environment.device_exists = Some(true);
        let ring = |errno| Error::System { call: SystemCall::IoUringSetup, errno };
        let node = Error::OpenCharDevice { device: DeviceId::new(0), errno: Errno::ENOENT };
        for (error, id) in [
            (Error::OpenControl { errno: Errno::ENOENT }, "open-control.not-loaded"),
            (node, "open-char.no-node"),
            (ring(Errno::EPERM), "io-uring.disabled"),
            (ring(Errno::EMFILE), "descriptors.process"),
            (ring(Errno::ENOMEM), "io-uring.memlock"),
            (refused(Command::ADD_DEV, Errno::EPERM), "add-dev.cap-sys-admin"),
            (refused(Command::ADD_DEV, Errno::EACCES), "add-dev.ublks-max"),
        ] {
            assert_eq!(Finding::certain_of(&error, &environment).map(|finding| finding.id), Some(id), "{error}");
        }
        let old = Finding::all_of(&refused(Command::GET_FEATURES, Errno::ENODEV), &environment);
        assert_eq!(old.first().map(|finding| finding.id), Some("get-features.before-6-5"));
    }

    #[test]
    fn many_devices_are_told_in_a_line() {
        let devices = |count| (0..count).map(DeviceId::new);
        assert_eq!(ids(devices(3)), "0, 1, 2");
        assert!(ids(devices(64)).ends_with(", 15 and 48 more"));
    }
}
