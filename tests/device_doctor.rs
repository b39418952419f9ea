// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ublkctl doctor` on machines that lack something, each made so: that it names what is lacking first, and that nothing is left of
//! the device that it makes.
//!
//! Tests that change what the whole machine may do are ignored wherever they are not asked for by name; the virtual machine
//! asks for all, one after the other.
#![cfg_attr(not(have_ublk), allow(dead_code, reason = "the tests are ignored, not left out"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]

mod harness;
mod planted;

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use harness::held::HeldWrite;
use harness::{nodes, serve};
use planted::{
    CONTROL, NOBODY, Restored, add_unprivileged, delete_unprivileged, drop_capability, forbid, is_nobody, open_to_all,
    run_as_nobody, set, without_driver, without_node,
};
use ublk::{Cache, Control, DeviceId, Error, NewDevice, Operation, Params, Request, Sectors, Stopped};

const CAP_SYS_ADMIN: libc::c_ulong = 21;
const CAP_IPC_LOCK: libc::c_ulong = 14;

/// Ids are given from 0 up; nobody else has one up here.
const HIGH: u32 = 4711;

/// What `ublkctl doctor --json` said.
#[derive(Debug)]
struct Report {
    status: Option<i32>,
    text: String,
}

impl Report {
    fn of(command: &mut Command) -> Report {
        let output = command.output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(errors, "");
        Report { status: output.status.code(), text: String::from_utf8(output.stdout).unwrap() }
    }

    /// The values of a member, from where `from` stands to where `to` does.
    fn values(&self, from: &str, to: &str, member: &str) -> Vec<String> {
        let (_, rest) = self.text.split_once(&format!("\"{from}\": [")).unwrap_or_else(|| panic!("{}", self.text));
        let (part, _) = rest.split_once(&format!("\"{to}\": [")).unwrap_or((rest, ""));
        let member = format!("\"{member}\": ");
        let values = part.lines().filter_map(|line| line.trim().strip_prefix(&member));
        values.map(|value| value.trim_end_matches(',').trim_matches('"').to_owned()).collect()
    }

    /// The names of what is wrong, the likeliest first.
    fn causes(&self) -> Vec<String> {
        self.values("causes", "checks", "id")
    }

    fn steps(&self) -> Vec<(String, String)> {
        self.values("steps", "", "name").into_iter().zip(self.values("steps", "", "ok")).collect()
    }

    /// That this is what is wrong before anything else, and that no device was left.
    fn assert_first(&self, cause: &str) {
        let first = self.causes().into_iter().next();
        assert_eq!((self.status, first.as_deref()), (Some(1), Some(cause)), "{}", self.text);
        assert!(self.text.contains("\"healthy\": false"), "{}", self.text);
    }

    fn assert_healthy(&self) {
        assert_eq!(self.causes(), [""; 0], "{}", self.text);
        assert_eq!(self.status, Some(0), "{}", self.text);
        assert!(self.text.contains("\"healthy\": true"), "{}", self.text);
    }
}

fn doctor() -> Command {
    let mut command = Command::new("ublkctl");
    command.args(["doctor", "--json"]);
    command
}

/// The doctor in a shell that has set a limit before.
fn limited(limit: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit {limit} && exec ublkctl doctor --json")]);
    command
}

/// The doctor from a thread that has changed what its programs may do.
fn doctor_after(change: impl FnOnce() + Send, command: &mut (impl FnMut() -> Command + Send)) -> Report {
    thread::scope(|scope| {
        let report = scope.spawn(|| {
            change();
            Report::of(&mut command())
        });
        report.join().unwrap()
    })
}

const STEPS: [&str; 10] = [
    "open /dev/ublk-control",
    "GET_FEATURES",
    "ADD_DEV",
    "open /dev/ublkcN",
    "SET_PARAMS",
    "map the descriptors",
    "FETCH_REQ",
    "START_DEV",
    "read a block",
    "STOP_DEV",
];

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_healthy_machine_is_told_so_by_a_device_that_was_made_and_leaves_nothing() {
    let report = Report::of(&mut doctor());
    report.assert_healthy();
    let mut expected: Vec<(String, String)> =
        STEPS.iter().map(|name| ((*name).to_owned(), "true".to_owned())).collect();
    expected.push(("DEL_DEV".to_owned(), "true".to_owned()));
    assert_eq!(report.steps(), expected);
    assert_eq!(nodes(), [""; 0]);
    // Each command with what was sent: the struct of 32 bytes, which ADD_DEV sends for no device and no queue, with 64 bytes of buffer.
    let headers = report.values("steps", "", "header");
    assert!(headers.iter().any(|header| header.len() == 64 && header.starts_with("ffffffffffff4000")), "{headers:?}");
    // The descriptors as the kernel shows their mapping: shared, and for reading alone.
    let seen = report.values("steps", "", "seen").join("\n");
    assert!(seen.contains("24 bytes apart") && seen.contains("mapped 4096 bytes at offset 0 as r--s"), "{seen}");

    let looked = Report::of(doctor().arg("--dry-run"));
    looked.assert_healthy();
    assert_eq!(looked.steps(), []);
    let text = Command::new("ublkctl").arg("doctor").output().unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.ends_with("\nThis machine is healthy.\n"), "{text}");
    assert!(text.contains("UBLK_U_IO_FETCH_REQ 0xc0107520, bytes 48 to 63\n"), "{text}");
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_device_that_is_served_is_neither_stale_nor_disturbed() {
    let zeroes = |request: Request<'_>| match request.operation() {
        Operation::READ | Operation::WRITE => request.complete(),
        _ => request.fail(ublk::Errno::EOPNOTSUPP),
    };
    let served = serve(NewDevice::new(), Params::new(Sectors::new(2048), Cache::None), zeroes).unwrap();
    Report::of(&mut doctor()).assert_healthy();
    assert_eq!(Control::open().unwrap().info(served.id()).unwrap().state(), ublk::State::LIVE);
    let mut block = harness::Aligned::filled(4096, 1);
    std::os::unix::fs::FileExt::read_exact_at(&served.open_direct(), &mut block, 0).unwrap();
    assert_eq!(served.stop(), Ok(Stopped::Handle));
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[ignore = "takes the driver away from the whole machine: run `cargo xtask test`"]
fn no_module_is_named() {
    {
        let _loaded = without_driver();
        Report::of(&mut doctor()).assert_first("open-control.not-loaded");
    }
    Report::of(&mut doctor()).assert_healthy();
}

#[test]
#[ignore = "takes the control device's node away from the whole machine: run `cargo xtask test`"]
fn a_control_node_that_is_not_there_or_another_is_named() {
    {
        let _node = without_node();
        Report::of(&mut doctor()).assert_first("open-control.no-node");
        fs::write(CONTROL, "").unwrap();
        let _file = Restored(|| fs::remove_file(CONTROL).unwrap());
        Report::of(&mut doctor()).assert_first("open-control.other-node");
    }
    Report::of(&mut doctor()).assert_healthy();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_control_node_that_may_not_be_opened_is_named_before_the_right_to_add_a_device() {
    let report = Report::of(doctor().uid(NOBODY).gid(NOBODY));
    report.assert_first("open-control.forbidden");
    assert_eq!(report.causes(), ["open-control.forbidden", "add-dev.cap-sys-admin"]);
}

#[test]
#[ignore = "forbids io_uring to the whole machine: run `cargo xtask test`"]
fn a_sysctl_that_forbids_io_uring_is_named() {
    {
        let _disabled = set("/proc/sys/kernel/io_uring_disabled", "2");
        Report::of(&mut doctor()).assert_first("io-uring.disabled");
    }
    {
        let _limited = set("/proc/sys/kernel/io_uring_disabled", "1");
        // It is for those without CAP_SYS_ADMIN.
        Report::of(&mut doctor()).assert_healthy();
        let _opened = open_to_all();
        let report = Report::of(doctor().uid(NOBODY).gid(NOBODY));
        report.assert_first("io-uring.disabled");
        assert_eq!(report.causes(), ["io-uring.disabled", "add-dev.cap-sys-admin"]);
    }
    Report::of(&mut doctor()).assert_healthy();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_seccomp_filter_that_forbids_or_hides_io_uring_is_named() {
    for (errno, cause) in [(libc::EPERM, "io-uring.seccomp"), (libc::ENOSYS, "io-uring.seccomp-hides")] {
        let report = doctor_after(|| forbid(libc::SYS_io_uring_setup, errno), &mut doctor);
        report.assert_first(cause);
        assert_eq!(report.causes(), [cause]);
    }
    // A filter that lets io_uring through is none.
    doctor_after(|| forbid(libc::SYS_mknodat, libc::EPERM), &mut doctor).assert_healthy();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_capability_that_is_missing_is_named_though_the_user_is_root() {
    let report = doctor_after(|| drop_capability(CAP_SYS_ADMIN), &mut doctor);
    report.assert_first("add-dev.cap-sys-admin");
    assert_eq!(report.causes(), ["add-dev.cap-sys-admin"]);
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn too_few_descriptors_are_named_however_few() {
    // Three are open, and a look into a folder takes another.
    for limit in [5, 7, 11] {
        Report::of(&mut limited(&format!("-n {limit}"))).assert_first("descriptors.process");
        assert_eq!(nodes(), [""; 0], "{limit}");
    }
    Report::of(&mut limited("-n 64")).assert_healthy();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn too_little_locked_memory_is_named_where_it_counts() {
    // In KiB.
    let mut limited = || limited("-l 64");
    // It is not counted for those with CAP_IPC_LOCK.
    Report::of(&mut limited()).assert_healthy();
    doctor_after(|| drop_capability(CAP_IPC_LOCK), &mut limited).assert_first("io-uring.memlock");
    doctor_after(|| drop_capability(CAP_IPC_LOCK), &mut doctor).assert_healthy();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn sixty_four_devices_without_a_server_are_named_and_a_device_is_made_beside_them() {
    let mut control = Control::open().unwrap();
    for id in HIGH..HIGH + 64 {
        control.add(&NewDevice::new().id(DeviceId::new(id)).depth(1)).unwrap();
    }
    let report = Report::of(&mut doctor());
    for id in HIGH..HIGH + 64 {
        control.delete(DeviceId::new(id)).unwrap();
    }
    report.assert_first("device.stale");
    assert_eq!(report.causes(), ["device.stale"]);
    assert!(
        report.text.contains("64 devices have no server") && report.text.contains("4711, 4712, "),
        "{}",
        report.text
    );
    assert!(report.steps().iter().all(|(_, ok)| ok == "true"), "{}", report.text);
    Report::of(&mut doctor()).assert_healthy();
}

#[test]
#[ignore = "opens the control device to everybody: run `cargo xtask test`"]
fn as_many_unprivileged_devices_as_there_may_be_are_named() {
    const NAME: &str = "as_many_unprivileged_devices_as_there_may_be_are_named";
    if is_nobody() {
        for _ in 0..64 {
            add_unprivileged().unwrap();
        }
        return;
    }
    let report = {
        let _opened = open_to_all();
        run_as_nobody(NAME);
        let added = nodes();
        assert_eq!(added.len(), 64);
        let report = Report::of(&mut doctor());
        for name in added {
            delete_unprivileged(DeviceId::new(name.strip_prefix("ublkc").unwrap().parse().unwrap()));
        }
        report
    };
    report.assert_first("add-dev.ublks-max");
    assert_eq!(report.causes(), ["add-dev.ublks-max", "device.stale"]);
    // It is for such devices alone.
    assert!(report.steps().iter().all(|(_, ok)| ok == "true"), "{}", report.text);
    Report::of(&mut doctor()).assert_healthy();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_step_that_fails_in_the_middle_leaves_no_device() {
    // The address space has no room for the buffers, in KiB.
    Report::of(&mut limited("-v 500000")).assert_first("mmap.address-space");
    assert_eq!(nodes(), [""; 0]);
    // Nor may a ring's memory be entered by whoever made it.
    let report = doctor_after(|| forbid(libc::SYS_io_uring_enter, libc::EPERM), &mut doctor);
    assert_eq!(report.status, Some(1), "{}", report.text);
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_driver_that_does_not_answer_is_named_in_bounded_time_and_what_was_asked_is_taken_back() {
    let id = DeviceId::new(HIGH);
    let held = HeldWrite::new(id);
    // It waits for the server, also when it is given up, and every other command that adds or deletes waits for it.
    let (gave_up, has_given_up) = mpsc::channel();
    let delete = thread::spawn(move || {
        let mut control = Control::open().unwrap();
        control.set_patience(Duration::from_secs(1), Duration::from_secs(1));
        gave_up.send(control.delete(id)).unwrap();
        // The kernel lets this thread end when the command has.
    });
    assert!(matches!(has_given_up.recv().unwrap(), Err(Error::TimedOut { .. })));
    let report = Report::of(&mut doctor());
    report.assert_first("add-dev.driver-busy");
    drop(held.release);
    assert!(held.client.join().unwrap().is_ok());
    assert_eq!(held.served.join(), Ok(Stopped::FromOutside));
    delete.join().unwrap();
    // A command that has the driver's attention only after that one: there is nothing left that could add a device.
    Report::of(&mut doctor()).assert_healthy();
    assert_eq!(nodes(), [""; 0]);
}
