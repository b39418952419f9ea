// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a machine or a caller lacks, each made on a real kernel: which error it is, and that its sentence says what to do.
//!
//! Tests that change what the whole machine may do are ignored wherever they are not asked for by name; the virtual machine
//! asks for all, one after the other.
#![cfg_attr(not(have_ublk), allow(dead_code, reason = "the tests are ignored, not left out"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]

mod harness;
mod planted;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;

use harness::{is_of_a_mode, needed_by, nodes, possessions, serve};
use planted::{
    CONTROL, Restored, assert_says, is_nobody, kernel_release, open_to_all, run, run_as_nobody, set, without_driver,
};
use ublk::ring::Ring;
use ublk::{
    Cache, Command, Control, DeletedId, Device, DeviceId, Errno, Error, Features, NewDevice, Operation, Params,
    QueueId, Request, Sectors, Sent, Stopped, SystemCall,
};

/// Ids are given from 0 up; nobody else has one up here.
const HIGH: DeviceId = DeviceId::new(4711);

fn open() -> Control {
    Control::open().unwrap()
}

/// 1 MiB that reads as zeroes and forgets what is written.
fn params() -> Params {
    Params::new(Sectors::new(2048), Cache::None)
}

fn forgetful(request: Request<'_>) {
    match request.operation() {
        Operation::READ | Operation::WRITE => request.complete(),
        _ => request.fail(Errno::EOPNOTSUPP),
    }
}

fn refused(command: Command, errno: Errno) -> Error {
    Error::Control { command, device: Some(HIGH), errno, sent: Sent::default() }
}

fn system(call: SystemCall, errno: Errno) -> Error {
    Error::System { call, errno }
}

// What the caller got wrong.

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn what_the_caller_got_wrong_is_refused_before_anything_is_sent() {
    let new = || NewDevice::new().id(HIGH);
    let disk = |sectors| Params::new(Sectors::new(sectors), Cache::None);
    let devices = [
        (new().depth(0), "a queue has a depth of 1 to 4096"),
        (new().depth(4097), "a queue has a depth of 1 to 4096"),
        (new().queues(0), "a device has 1 to 4096 queues"),
        (new().queues(4097), "a device has 1 to 4096 queues"),
        (new().max_io_bytes(4095), "the largest request has 4 KiB to 32 MiB"),
        (new().max_io_bytes((32 << 20) + 1), "the largest request has 4 KiB to 32 MiB"),
        (new().id(DeviceId::new(1 << 20)), "a device id is below 1048576"),
    ];
    let block = "a logical block is a power of two of 512 bytes or more, and at most a page";
    let size = "a disk is a whole number of logical blocks, and not empty";
    let disks = [
        (disk(0), size),
        (disk(9).block_bytes(4096), size),
        (disk(2048).block_bytes(0), block),
        (disk(2048).block_bytes(256), block),
        (disk(2048).block_bytes(513), block),
        (disk(2048).block_bytes(3072), block),
        (disk(2048).block_bytes(8192), block),
        (disk(2048).block_bytes(131_072), block),
        (disk(2048).block_bytes(4096).physical_block_bytes(512), "a physical block is not smaller than a logical one"),
        (disk(2048).discard(0, Sectors::new(8)), "a discard has a granularity and a largest size above 0"),
        (disk(u64::MAX / 512 + 1), "a disk has below 2^64 bytes"),
    ];
    // A thread that can send nothing: whatever tries has another error.
    let tried = thread::spawn(move || {
        planted::forbid(libc::SYS_io_uring_enter, libc::EPERM);
        let add = |device: &NewDevice, params: &Params| Device::add(open(), device, params).map(drop);
        for (device, what) in devices {
            assert_eq!(add(&device, &params()), Err(Error::Invalid { what }), "{device:?}");
            assert_eq!(open().add(&device), Err(Error::Invalid { what }));
        }
        for (params, what) in disks {
            assert_eq!(add(&new(), &params), Err(Error::Invalid { what }), "{params:?}");
        }
        // That the filter works.
        assert_eq!(add(&new(), &params()), Err(system(SystemCall::IoUringEnter, Errno::EPERM)));
    });
    tried.join().unwrap();
    assert_eq!(nodes(), [""; 0]);
}

// What the driver refuses.

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_refusal_with_one_meaning_says_it() {
    let mut control = open();
    let absent = control.info(HIGH).unwrap_err();
    assert_says(absent, refused(Command::GET_DEV_INFO, Errno::ENODEV), "; there is no device of the id in cmd.dev_id");

    let served = serve(NewDevice::new().id(HIGH), params(), forgetful).unwrap();
    let taken = control.add(&NewDevice::new().id(HIGH)).unwrap_err();
    let holds = "the id is taken; a device that was deleted has it as long as somebody holds its files";
    assert_says(taken, refused(Command::ADD_DEV, Errno::EEXIST), holds);
    let late = control.set_params(&served.info, &params()).unwrap_err();
    assert_says(
        late,
        refused(Command::SET_PARAMS, Errno::EACCES),
        "; the device was started, and parameters are set before",
    );
    let again = control.start(HIGH).unwrap_err();
    let live = "; the device is live already, or a client still has the block device of before the stop open";
    assert_says(again, refused(Command::START_DEV, Errno::EEXIST), live);
    let other = control.info_at(HIGH, c"/dev/null").unwrap_err();
    let path = "what is at the path is not the char device of the device in cmd.dev_id";
    assert_says(other, refused(Command::GET_DEV_INFO2, Errno::EPERM), path);
    let nothing = control.info_at(HIGH, c"/dev/nothing").unwrap_err();
    assert_says(nothing, refused(Command::GET_DEV_INFO2, Errno::ENOENT), "; there is nothing at the path");
    assert_eq!(served.stop(), Ok(Stopped::Handle));
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_driver_that_is_too_old_is_told_by_the_feature_and_the_linux_that_has_it() {
    let mut control = open();
    let offered = control.features().unwrap();
    let mut lacking: Vec<(Features, String)> = Features::KNOWN
        .iter()
        .filter(|(feature, _)| !offered.contains(*feature) && !is_of_a_mode(*feature))
        .map(|(feature, name)| (*feature, format!("{name} (since Linux {})", feature.since().unwrap())))
        .collect();
    lacking.push((Features::from_bits(1 << 40), "0x10000000000 (not in Linux 7.3.4)".to_owned()));
    for (missing, named) in lacking {
        let error = control.add(&NewDevice::new().id(HIGH).features(missing | needed_by(missing))).unwrap_err();
        let said = format!("the driver does not give {named}; it gives {offered}");
        assert_says(error, Error::Unsupported { missing, offered }, &said);
    }
    let old = kernel_release() < (7, 0);
    assert_eq!(old, !offered.contains(Features::BATCH_IO), "{offered}");
    assert_eq!(nodes(), [""; 0]);
}

// What the machine lacks.

#[test]
#[ignore = "forbids io_uring to the whole machine: run `cargo xtask test`"]
fn io_uring_that_is_forbidden_is_told_with_its_sysctl() {
    const NAME: &str = "io_uring_that_is_forbidden_is_told_with_its_sysctl";
    let forbidden = system(SystemCall::IoUringSetup, Errno::EPERM);
    if is_nobody() {
        assert_eq!(Ring::wide(4, 4).unwrap_err(), forbidden);
        return;
    }
    let cause = "; sysctl kernel.io_uring_disabled forbids it: 1 to all but CAP_SYS_ADMIN and kernel.io_uring_group, 2 to \
                 everybody, or a seccomp filter, such as containers have, forbids io_uring";
    let mut device = Device::add(open(), &NewDevice::new().id(HIGH), &params()).unwrap();
    let before = possessions()[0];
    {
        let _disabled = set("/proc/sys/kernel/io_uring_disabled", "2");
        assert_says(Control::open().unwrap_err(), forbidden, cause);
        assert_says(device.queue(QueueId::new(0)).unwrap_err(), forbidden, cause);
    }
    assert_eq!(possessions()[0], before);
    // Nothing is lost by it.
    drop(device.queue(QueueId::new(0)).unwrap());
    assert_eq!(device.delete(), Ok(DeletedId::Free));
    let _limited = set("/proc/sys/kernel/io_uring_disabled", "1");
    drop(open());
    run_as_nobody(NAME);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_kernel_or_a_filter_without_io_uring_is_told_from_one_that_forbids_it() {
    let mut device = Device::add(open(), &NewDevice::new().id(HIGH), &params()).unwrap();
    let before = possessions()[0];
    for (errno, cause) in [
        (Errno::ENOSYS, "; this kernel has no io_uring (CONFIG_IO_URING), or a seccomp filter hides io_uring"),
        (Errno::EPERM, "or a seccomp filter, such as containers have, forbids io_uring"),
    ] {
        thread::scope(|scope| {
            scope.spawn(|| {
                planted::forbid(libc::SYS_io_uring_setup, errno.raw());
                let expected = system(SystemCall::IoUringSetup, errno);
                assert_says(Control::open().unwrap_err(), expected, cause);
                assert_says(device.queue(QueueId::new(0)).unwrap_err(), expected, cause);
            });
        });
    }
    assert_eq!(possessions()[0], before);
    assert_eq!(device.delete(), Ok(DeletedId::Free));
}

#[test]
#[ignore = "takes the driver away from the whole machine: run `cargo xtask test`"]
fn a_driver_that_is_not_there_is_told_from_a_node_that_has_none_behind_it() {
    let number = fs::metadata(CONTROL).unwrap().rdev();
    let open_control = |errno| Error::OpenControl { errno };
    {
        let _loaded = without_driver();
        let cause = "; the driver is not loaded (modprobe ublk_drv), or this kernel has no ublk driver (CONFIG_BLK_DEV_UBLK), or the driver's node \
             is not in this /dev";
        assert_says(Control::open().unwrap_err(), open_control(Errno::ENOENT), cause);

        let (major, minor) = (libc::major(number).to_string(), libc::minor(number).to_string());
        run("mknod", &[CONTROL, "c", &major, &minor]);
        let _removed = Restored(|| fs::remove_file(CONTROL).unwrap());
        let cause = "; the node has no driver behind it: run modprobe ublk_drv";
        assert_says(Control::open().unwrap_err(), open_control(Errno::ENODEV), cause);
    }
    assert!(Path::new(CONTROL).exists());
    open().features().unwrap();
}

#[test]
#[ignore = "opens the control device to everybody: run `cargo xtask test`"]
fn whoever_has_no_rights_is_told_which() {
    const NAME: &str = "whoever_has_no_rights_is_told_which";
    let root_only = fs::metadata(CONTROL).unwrap().mode() & 0o007 == 0;
    if is_nobody() {
        if root_only {
            let cause = "; the node belongs to root, and this process may not open it: run as root, or give the node to this user";
            assert_says(Control::open().unwrap_err(), Error::OpenControl { errno: Errno::EACCES }, cause);
            return;
        }
        let mut control = open();
        let takes = "CAP_SYS_ADMIN in the initial user namespace";
        let refusals = [
            (Command::ADD_DEV, control.add(&NewDevice::new().id(HIGH)).unwrap_err()),
            (Command::GET_DEV_INFO, control.info(HIGH).unwrap_err()),
            (Command::STOP_DEV, control.stop(HIGH).unwrap_err()),
            (Command::DEL_DEV, control.delete(HIGH).unwrap_err()),
        ];
        for (command, error) in refusals {
            assert_says(error, refused(command, Errno::EPERM), takes);
        }
        return;
    }
    assert!(root_only);
    let mut control = open();
    let info = control.add(&NewDevice::new().id(HIGH)).unwrap();
    run_as_nobody(NAME);
    {
        let _opened = open_to_all();
        run_as_nobody(NAME);
    }
    assert_eq!(control.info(HIGH), Ok(info));
    control.delete(HIGH).unwrap();
}
