// SPDX-License-Identifier: MIT OR Apache-2.0
//! Control commands, each on a real driver: what it does, and what it refuses.
#![cfg_attr(not(have_ublk), allow(dead_code, reason = "the tests are ignored, not left out"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]

mod harness;

use core::time::Duration;
use std::ffi::CString;
use std::fs;
use std::fs::Permissions;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::process::Command as Program;
use std::thread;

use harness::{Aligned, exists, is_of_a_mode, needed_by, nodes, serve};
use ublk::{
    Attributes, Cache, Command, Control, DeletedId, Device, DeviceId, DeviceInfo, Errno, Error, Features, NewDevice,
    Operation, Params, QueueId, Request, Sectors, Sent, State, Stopped,
};

fn open() -> Control {
    Control::open().unwrap()
}

/// 1 MiB that reads as zeroes and forgets what is written.
fn params() -> Params {
    Params::new(Sectors::new(2048), Cache::None)
}

/// What the driver says of a device. Linux 6.18 answers ADD_DEV with a server of 0, and later with -1: nobody, both times.
fn said(info: DeviceInfo) -> String {
    format!("{info:?} {:#x}", info.as_raw().ublksrv_flags)
}

fn forgetful(request: Request<'_>) {
    match request.operation() {
        Operation::READ | Operation::WRITE => request.complete(),
        _ => request.fail(Errno::EOPNOTSUPP),
    }
}

fn refused(command: Command, device: DeviceId, errno: Errno) -> Error {
    Error::Control { command, device: Some(device), errno, sent: Sent::default() }
}

/// That the device is gone: no node, and its id answers nothing.
fn assert_gone(control: &mut Control, id: DeviceId) {
    assert_eq!(control.info(id), Err(refused(Command::GET_DEV_INFO, id, Errno::ENODEV)));
    let name = format!("ublkc{id}");
    assert!(!nodes().contains(&name), "{:?}", nodes());
}

/// Ids are given from 0 up; nobody else has one up here.
const HIGH: DeviceId = DeviceId::new(4711);

/// One more than the highest CPU that the machine could have (`nr_cpu_ids`).
fn possible_cpus() -> u16 {
    let possible = fs::read_to_string("/sys/devices/system/cpu/possible").unwrap();
    let last = possible.trim().rsplit(['-', ',']).next().unwrap();
    last.parse::<u16>().unwrap() + 1
}

// What the driver does not have.

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_feature_that_is_not_offered_is_named_and_leaves_no_device() {
    let mut control = open();
    let offered = control.features().unwrap();
    let unknown = Features::from_bits(1 << 40);
    let mut asked: Vec<Features> = Features::KNOWN.iter().map(|(feature, _)| *feature).collect();
    asked.retain(|feature| !offered.contains(*feature) && !is_of_a_mode(*feature));
    asked.push(unknown);
    asked.push(Features::from_bits(1 << 63));
    for missing in asked {
        // With one that is there, so that only the missing one is named, and with what it needs.
        let features = missing | needed_by(missing);
        let added = control.add(&NewDevice::new().id(HIGH).features(features));
        assert_eq!(added, Err(Error::Unsupported { missing, offered }));
        assert_gone(&mut control, HIGH);
    }
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn the_driver_offers_what_linux_6_5_has_and_takes_commands_as_this_crate_encodes_them() {
    let needed = Features::URING_CMD_COMP_IN_TASK
        | Features::NEED_GET_DATA
        | Features::USER_RECOVERY
        | Features::USER_RECOVERY_REISSUE
        | Features::UNPRIVILEGED_DEV
        | Features::CMD_IOCTL_ENCODE
        | Features::USER_COPY;
    let offered = open().features().unwrap();
    assert_eq!(needed.without(offered), Features::NONE);
    // The same from a handle that asks twice.
    let mut control = open();
    assert_eq!((control.features(), control.features()), (Ok(offered), Ok(offered)));
}

// No such device.

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_device_that_does_not_exist_is_enodev_for_every_command() {
    let mut control = open();
    for id in [HIGH, DeviceId::new(1 << 20), DeviceId::new(1 << 31)] {
        assert_eq!(control.info(id), Err(refused(Command::GET_DEV_INFO, id, Errno::ENODEV)));
        assert_eq!(control.info_at(id, c"/dev/null"), Err(refused(Command::GET_DEV_INFO2, id, Errno::ENODEV)));
        assert_eq!(control.params(id), Err(refused(Command::GET_PARAMS, id, Errno::ENODEV)));
        assert_eq!(control.start(id), Err(refused(Command::START_DEV, id, Errno::ENODEV)));
        assert_eq!(control.stop(id), Err(refused(Command::STOP_DEV, id, Errno::ENODEV)));
        assert_eq!(control.delete(id), Err(refused(Command::DEL_DEV, id, Errno::ENODEV)));
        assert_eq!(control.delete_async(id), Err(refused(Command::DEL_DEV_ASYNC, id, Errno::ENODEV)));
        let affinity = control.queue_affinity(id, QueueId::new(0));
        assert_eq!(affinity, Err(refused(Command::GET_QUEUE_AFFINITY, id, Errno::ENODEV)));
    }
    assert!(!control.is_abandoned());
}

// Add, describe, delete.

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_device_is_added_described_and_deleted_and_its_id_is_free_again() {
    let mut control = open();
    let wanted = NewDevice::new().id(HIGH).depth(7).max_io_bytes(1 << 20);
    for _ in 0..3 {
        let added = control.add(&wanted).unwrap();
        assert_eq!((added.id(), added.queues(), added.depth(), added.max_io_bytes()), (HIGH, 1, 7, 1 << 20));
        assert_eq!((added.state(), added.server_process()), (State::DEAD, None));
        assert_eq!(added.owner(), (0, 0));
        assert!(added.features().contains(Features::CMD_IOCTL_ENCODE | Features::URING_CMD_COMP_IN_TASK));
        assert_eq!(nodes(), [format!("ublkc{HIGH}")]);
        let path = CString::new(format!("/dev/ublkc{HIGH}")).unwrap();
        assert_eq!(control.info(HIGH).map(said), Ok(said(added)));
        assert_eq!(control.info_at(HIGH, &path).map(said), Ok(said(added)));
        control.delete(HIGH).unwrap();
        assert_gone(&mut control, HIGH);
    }
    assert_eq!(control.delete(HIGH), Err(refused(Command::DEL_DEV, HIGH, Errno::ENODEV)));
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn the_driver_chooses_ids_that_are_free() {
    let mut control = open();
    let add = |control: &mut Control| control.add(&NewDevice::new().depth(1)).unwrap().id();
    let ids: Vec<DeviceId> = (0..3).map(|_| add(&mut control)).collect();
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2]);
    // The lowest one that is free: this one, or one that an earlier device has left by now.
    control.delete(ids[1]).unwrap();
    let again = add(&mut control);
    assert!(again <= ids[1] && again != ids[0] && again != ids[2]);
    for id in [ids[0], again, ids[2]] {
        control.delete(id).unwrap();
    }
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_deletion_that_does_not_wait_deletes_too() {
    let mut control = open();
    control.add(&NewDevice::new().id(HIGH)).unwrap();
    control.delete_async(HIGH).unwrap();
    assert_gone(&mut control, HIGH);
    control.add(&NewDevice::new().id(HIGH)).unwrap();
    control.delete_async(HIGH).unwrap();
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn the_largest_id_that_the_driver_takes_works() {
    let mut control = open();
    let last = DeviceId::new((1 << 20) - 1);
    let device = Device::add(control, &NewDevice::new().id(last), &params()).unwrap();
    assert_eq!(nodes(), ["ublkc1048575"]);
    assert_eq!(device.delete(), Ok(DeletedId::Free));
    control = open();
    assert_gone(&mut control, last);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn more_queues_than_cpus_become_one_for_each_cpu_and_all_of_them_serve() {
    let served = serve(NewDevice::new().queues(64).depth(4), params(), forgetful).unwrap();
    assert_eq!(served.info.queues(), possible_cpus().min(64));
    let mut bytes = Aligned::filled(4096, 1);
    served.open_direct().read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0));
    let queues = fs::read_dir(format!("/sys/block/ublkb{}/mq", served.id())).unwrap().count();
    assert_eq!(queues, usize::from(served.info.queues()));
    served.stop().unwrap();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn the_largest_request_is_rounded_down_to_whole_pages() {
    let mut control = open();
    for (asked, given) in [(4096, 4096), (4097, 4096), (8191, 4096), (65_537, 65_536), (32 << 20, 32 << 20)] {
        let info = control.add(&NewDevice::new().id(HIGH).max_io_bytes(asked)).unwrap();
        assert_eq!(info.max_io_bytes(), given, "{asked}");
        // Parameters fit what was given, not what was asked for.
        control.set_params(&info, &params()).unwrap();
        assert_eq!(u64::from(control.params(HIGH).unwrap().as_raw().basic.max_sectors) * 512, u64::from(given));
        control.delete(HIGH).unwrap();
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn numbers_at_the_edge_are_taken_and_past_it_nothing_is_sent() {
    let mut control = open();
    for depth in [1, 4096] {
        assert_eq!(control.add(&NewDevice::new().id(HIGH).depth(depth)).unwrap().depth(), depth);
        control.delete(HIGH).unwrap();
    }
    let queues = control.add(&NewDevice::new().id(HIGH).queues(4096).depth(1)).unwrap().queues();
    assert_eq!(queues, possible_cpus());
    control.delete(HIGH).unwrap();
    for device in [NewDevice::new().depth(4097), NewDevice::new().queues(4097), NewDevice::new().depth(0)] {
        assert!(matches!(control.add(&device), Err(Error::Invalid { .. })), "{device:?}");
    }
    assert_eq!(nodes(), [""; 0]);
}

// Somebody else's device.

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn an_id_that_is_taken_is_eexist_and_the_others_device_is_untouched() {
    let (mut first, mut second) = (open(), open());
    let info = first.add(&NewDevice::new().id(HIGH).depth(3)).unwrap();
    first.set_params(&info, &params()).unwrap();
    let before = first.params(HIGH).unwrap();
    let taken = refused(Command::ADD_DEV, HIGH, Errno::EEXIST);
    assert_eq!(second.add(&NewDevice::new().id(HIGH)), Err(taken));
    assert_eq!(Device::add(second, &NewDevice::new().id(HIGH), &params()).unwrap_err(), taken);
    assert_eq!((first.info(HIGH).map(said), first.params(HIGH)), (Ok(said(info)), Ok(before)));
    assert_eq!(nodes(), [format!("ublkc{HIGH}")]);
    first.delete(HIGH).unwrap();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn an_id_that_a_live_device_has_is_eexist_and_that_device_serves_on() {
    let served = serve(NewDevice::new().id(HIGH), params(), forgetful).unwrap();
    let disk = served.open_direct();
    let mut bytes = Aligned::filled(4096, 1);
    disk.read_exact_at(&mut bytes, 0).unwrap();

    let taken = refused(Command::ADD_DEV, HIGH, Errno::EEXIST);
    assert_eq!(open().add(&NewDevice::new().id(HIGH)), Err(taken));
    assert_eq!(Device::add(open(), &NewDevice::new().id(HIGH), &params()).unwrap_err(), taken);
    assert_eq!(serve(NewDevice::new().id(HIGH), params(), forgetful).err(), Some(taken));

    assert_eq!(open().info(HIGH).unwrap().state(), State::LIVE);
    let mut bytes = Aligned::filled(4096, 1);
    disk.read_exact_at(&mut bytes, 8192).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0));
    drop(disk);
    assert_eq!(served.stop(), Ok(Stopped::Handle));
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_tool_deletes_a_device_that_another_serves_and_that_server_ends_by_itself() {
    let served = serve(NewDevice::new().id(HIGH), params(), forgetful).unwrap();
    let mut tool = open();
    assert_eq!(tool.info(HIGH).unwrap().server_process(), Some(std::process::id()));
    tool.delete(HIGH).unwrap();
    assert_gone(&mut tool, HIGH);
    assert_eq!(served.join(), Ok(Stopped::FromOutside));
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_tool_stops_a_device_that_another_serves_and_that_server_deletes_it() {
    let served = serve(NewDevice::new().id(HIGH), params(), forgetful).unwrap();
    let mut tool = open();
    tool.stop(HIGH).unwrap();
    assert_eq!(served.join(), Ok(Stopped::FromOutside));
    assert!(!exists(&mut tool, HIGH));
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_live_device_takes_no_parameters_and_no_second_start() {
    let served = serve(NewDevice::new().id(HIGH), params(), forgetful).unwrap();
    let mut tool = open();
    let before = tool.params(HIGH).unwrap();
    assert_eq!(
        tool.set_params(&served.info, &Params::new(Sectors::new(8), Cache::None)),
        Err(refused(Command::SET_PARAMS, HIGH, Errno::EACCES))
    );
    assert_eq!(tool.params(HIGH), Ok(before));
    assert_eq!(tool.start(HIGH), Err(refused(Command::START_DEV, HIGH, Errno::EEXIST)));
    served.open_direct().read_exact_at(&mut Aligned::filled(4096, 1), 0).unwrap();
    served.stop().unwrap();
}

// Parameters.

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn parameters_that_were_set_are_read_back_and_can_be_set_again() {
    let mut control = open();
    let info = control.add(&NewDevice::new().id(HIGH)).unwrap();
    let wanted = Params::new(Sectors::new(8 * 1021), Cache::VolatileWithFua)
        .block_bytes(4096)
        .physical_block_bytes(16_384)
        .rotational()
        .read_only()
        .discard(8192, Sectors::new(4096))
        .write_zeroes(Sectors::new(2048));
    // Once with what was asked for, then with what the driver gave back, its mark for device numbers included.
    let mut sent = wanted;
    for _ in 0..3 {
        control.set_params(&info, &sent).unwrap();
        let got = control.params(HIGH).unwrap();
        assert_eq!(got.size(), Sectors::new(8 * 1021));
        let attributes = Attributes::VOLATILE_CACHE | Attributes::FUA | Attributes::ROTATIONAL | Attributes::READ_ONLY;
        assert_eq!(got.attributes(), attributes);
        let (basic, asked) = (&got.as_raw().basic, &wanted.as_raw().basic);
        assert_eq!((basic.logical_bs_shift, basic.physical_bs_shift), (12, 14));
        assert_eq!((basic.io_min_shift, basic.io_opt_shift), (asked.io_min_shift, asked.io_opt_shift));
        assert_eq!(got.as_raw().discard, wanted.as_raw().discard);
        assert_eq!(got.as_raw().types & wanted.as_raw().types, wanted.as_raw().types);
        sent = got;
    }
    // Another set of parameters takes the place of the first.
    control.set_params(&info, &params()).unwrap();
    let got = control.params(HIGH).unwrap();
    assert_eq!((got.size(), got.attributes()), (Sectors::new(2048), Attributes::NONE));
    assert_eq!(got.as_raw().types & wanted.as_raw().types, params().as_raw().types);
    control.delete(HIGH).unwrap();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn parameters_that_are_refused_are_not_sent_and_those_from_before_stay() {
    let mut control = open();
    let info = control.add(&NewDevice::new().id(HIGH)).unwrap();
    // The driver wants some before it starts a device.
    assert_eq!(control.start(HIGH), Err(refused(Command::START_DEV, HIGH, Errno::EINVAL)));
    control.set_params(&info, &params()).unwrap();
    // The driver would answer each with a bare EINVAL, and forget what it had.
    let larger_than_a_page = Params::new(Sectors::new(2048), Cache::None).block_bytes(65_536);
    for refused in [larger_than_a_page, Params::new(Sectors::new(0), Cache::None)] {
        assert!(matches!(control.set_params(&info, &refused), Err(Error::Invalid { .. })));
    }
    assert_eq!(control.params(HIGH).unwrap().size(), Sectors::new(2048));
    control.delete(HIGH).unwrap();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_device_whose_parameters_are_refused_does_not_stay() {
    // Nothing of these is sent: this crate refuses them, after the device was added.
    let refusals = [
        params().block_bytes(65_536),
        Params::new(Sectors::new(0), Cache::None),
        Params::new(Sectors::new(9), Cache::None).block_bytes(4096),
    ];
    for params in refusals {
        let error = Device::add(open(), &NewDevice::new().id(HIGH), &params).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
        assert_gone(&mut open(), HIGH);
    }
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn the_block_layer_has_the_disk_that_the_parameters_describe() {
    let params = Params::new(Sectors::new(8 * 333), Cache::Volatile)
        .block_bytes(2048)
        .physical_block_bytes(8192)
        .rotational()
        .discard(16_384, Sectors::new(64));
    let served = serve(NewDevice::new().max_io_bytes(64 << 10), params, forgetful).unwrap();
    let disk = format!("/sys/block/ublkb{}", served.id());
    let says = |file: &str| fs::read_to_string(format!("{disk}/{file}")).unwrap().trim().to_owned();
    assert_eq!(says("size"), "2664");
    assert_eq!(says("ro"), "0");
    assert_eq!(says("queue/logical_block_size"), "2048");
    assert_eq!(says("queue/physical_block_size"), "8192");
    assert_eq!(says("queue/rotational"), "1");
    assert_eq!(says("queue/write_cache"), "write back");
    assert_eq!(says("queue/fua"), "0");
    assert_eq!(says("queue/discard_granularity"), "16384");
    assert_eq!(says("queue/discard_max_bytes"), "32768");
    assert_eq!(says("queue/max_hw_sectors_kb"), "64");
    served.stop().unwrap();
}

// Affinity.

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn each_cpu_is_served_by_one_queue_and_a_queue_out_of_range_is_einval() {
    let mut control = open();
    let info = control.add(&NewDevice::new().id(HIGH).queues(64)).unwrap();
    let mut cpus = Vec::new();
    for queue in (0..info.queues()).map(QueueId::new) {
        let set = control.queue_affinity(HIGH, queue).unwrap();
        assert!(set.iter().next().is_some(), "queue {queue} serves no CPU");
        cpus.extend(set.iter());
    }
    cpus.sort_unstable();
    assert_eq!(cpus, (0..u32::from(possible_cpus())).collect::<Vec<u32>>());
    for queue in [info.queues(), u16::MAX] {
        let affinity = control.queue_affinity(HIGH, QueueId::new(queue));
        assert_eq!(affinity, Err(refused(Command::GET_QUEUE_AFFINITY, HIGH, Errno::EINVAL)), "queue {queue}");
    }
    control.delete(HIGH).unwrap();
}

// Paths.

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_path_that_is_not_the_devices_is_refused() {
    let mut control = open();
    let info = control.add(&NewDevice::new().id(HIGH)).unwrap();
    let other = control.add(&NewDevice::new()).unwrap();
    let others_path = CString::new(format!("/dev/ublkc{}", other.id())).unwrap();
    let expect = |errno| Err(refused(Command::GET_DEV_INFO2, HIGH, errno));
    assert_eq!(control.info_at(HIGH, &others_path), expect(Errno::EPERM));
    assert_eq!(control.info_at(HIGH, c"/dev/null"), expect(Errno::EPERM));
    assert_eq!(control.info_at(HIGH, c"/dev"), expect(Errno::EPERM));
    assert_eq!(control.info_at(HIGH, c"/dev/nothing-of-this-name"), expect(Errno::ENOENT));
    // The driver takes the empty path for the folder that the caller is in.
    assert_eq!(control.info_at(HIGH, c""), expect(Errno::EPERM));
    assert_eq!(control.info_at(other.id(), &others_path).map(said), Ok(said(other)));
    assert_eq!(control.info(HIGH).map(said), Ok(said(info)));
    control.delete(HIGH).unwrap();
    control.delete(other.id()).unwrap();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_path_of_any_length_that_fits_finds_the_device_and_a_longer_one_is_not_sent() {
    let mut control = open();
    let info = control.add(&NewDevice::new().id(HIGH)).unwrap();
    let name = format!("ublkc{HIGH}");
    // Each length of a whole word, since the answer stands behind the path.
    for slashes in 1..=9 {
        let path = CString::new(format!("/dev{}{name}", "/".repeat(slashes))).unwrap();
        assert_eq!(control.info_at(HIGH, &path).map(said), Ok(said(info)), "{path:?}");
    }
    let with_len = |len: usize| CString::new(format!("/dev{}{name}", "/".repeat(len - 4 - name.len()))).unwrap();
    assert_eq!(with_len(4095).as_bytes_with_nul().len(), 4096);
    assert_eq!(control.info_at(HIGH, &with_len(4095)).map(said), Ok(said(info)));
    for len in [4096, 70_000] {
        let answer = control.info_at(HIGH, &with_len(len));
        assert!(matches!(answer, Err(Error::Invalid { .. })), "{len}: {answer:?}");
    }
    control.delete(HIGH).unwrap();
}

// Char devices and queues.

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_char_device_that_is_open_is_ebusy_and_one_that_is_not_there_enoent() {
    let device = Device::add(open(), &NewDevice::new().id(HIGH), &params()).unwrap();
    let path = format!("/dev/ublkc{HIGH}");
    assert_eq!(fs::File::open(&path).unwrap_err().raw_os_error(), Some(libc::EBUSY));
    assert_eq!(device.delete(), Ok(DeletedId::Free));
    assert_eq!(fs::File::open(&path).unwrap_err().raw_os_error(), Some(libc::ENOENT));
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_queue_is_made_with_a_number_in_range_and_not_without_the_char_device() {
    let mut device = Device::add(open(), &NewDevice::new().id(HIGH).queues(2).depth(4), &params()).unwrap();
    for queue in (0..device.info().queues()).map(QueueId::new) {
        assert_eq!(device.queue(queue).unwrap().id(), queue);
    }
    assert!(matches!(device.queue(QueueId::new(device.info().queues())), Err(Error::Invalid { .. })));
    assert!(matches!(device.queue(QueueId::new(u16::MAX)), Err(Error::Invalid { .. })));
    device.let_go();
    assert!(matches!(device.queue(QueueId::new(0)), Err(Error::Invalid { .. })));
    assert_eq!(device.delete(), Ok(DeletedId::Free));
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn how_data_travels_is_said_by_a_mode_and_a_feature_that_says_it_makes_no_device() {
    let modes = [Features::USER_COPY, Features::NEED_GET_DATA, Features::SUPPORT_ZERO_COPY, Features::AUTO_BUF_REG];
    for mode in modes {
        let added = Device::add(open(), &NewDevice::new().id(HIGH).features(mode), &params());
        assert!(matches!(added, Err(Error::Invalid { .. })), "{mode}: {added:?}");
        assert_eq!(nodes(), [""; 0]);
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_device_that_is_dropped_leaves_no_node() {
    let device = Device::add(open(), &NewDevice::new().id(HIGH), &params()).unwrap();
    assert_eq!(nodes(), [format!("ublkc{HIGH}")]);
    drop(device);
    assert_eq!(nodes(), [""; 0]);
    // With a queue that is prepared and never fetched, and one that outlives its device.
    let mut device = Device::add(open(), &NewDevice::new(), &params()).unwrap();
    let queue = device.queue(QueueId::new(0)).unwrap();
    drop(device);
    assert_eq!(nodes(), [""; 0]);
    drop(queue);
    let device = Device::add(open(), &NewDevice::new().id(HIGH), &params()).unwrap();
    assert_eq!(device.delete(), Ok(DeletedId::Free));
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn no_child_inherits_a_servers_descriptors_or_its_mappings() {
    let served = serve(NewDevice::new().queues(2).depth(4), params(), forgetful).unwrap();
    let mut ours = 0;
    for entry in fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap()) {
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let target = target.to_str().unwrap();
        let of_server = ["ublk", "io_uring", "eventfd", "signalfd"].iter().any(|part| target.contains(part));
        if of_server {
            let number = entry.file_name().into_string().unwrap();
            let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
            // O_CLOEXEC.
            assert_ne!(u32::from_str_radix(flags, 8).unwrap() & 0o2_000_000, 0, "inherited: {number} {target}");
            ours += 1;
        }
    }
    // The control device and its ring, and for each queue a ring and the char device, are the least.
    assert!(ours >= 2 + 2 * served.info.queues(), "{ours}");

    let (mut of_server, mut mappings) = (None, 0);
    for line in fs::read_to_string("/proc/self/smaps").unwrap().lines() {
        match line.split_once(' ') {
            Some(("VmFlags:", flags)) => {
                if let Some(what) = of_server {
                    assert!(flags.split_whitespace().any(|flag| flag == "dc"), "inherited: {what}");
                    mappings += 1;
                }
            }
            Some((first, _)) if !first.ends_with(':') => {
                of_server = ["ublk", "io_uring"]
                    .iter()
                    .any(|part| line.contains(&format!("/dev/{part}")) || line.contains(&format!("[{part}]")))
                    .then_some(line);
            }
            _ => {}
        }
    }
    // For each queue its descriptors and two of its ring, and two of the control ring.
    assert!(mappings >= 2 + 3 * served.info.queues(), "{mappings}");
    served.stop().unwrap();
}

// Starts that cannot be.

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_start_without_parameters_is_einval() {
    let mut control = open();
    control.add(&NewDevice::new().id(HIGH)).unwrap();
    assert_eq!(control.start(HIGH), Err(refused(Command::START_DEV, HIGH, Errno::EINVAL)));
    assert_eq!(control.info(HIGH).unwrap().state(), State::DEAD);
    control.delete(HIGH).unwrap();
}

/// Small, and what is waited for never comes.
const SHORT: Duration = Duration::from_millis(200);

fn timed_out(command: Command) -> Error {
    Error::TimedOut { command, device: Some(HIGH), waited: SHORT }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_start_that_nobody_fetched_for_is_given_up_and_its_handle_answers_nothing_more() {
    let (mut control, mut other) = (open(), open());
    let info = control.add(&NewDevice::new().id(HIGH)).unwrap();
    control.set_params(&info, &params()).unwrap();
    control.set_patience(Duration::from_secs(30), SHORT);
    assert_eq!(control.start(HIGH), Err(timed_out(Command::START_DEV)));
    assert!(control.is_abandoned());
    assert_eq!(control.features(), Err(Error::ControlAbandoned));
    assert_eq!(control.delete(HIGH), Err(Error::ControlAbandoned));
    // Another handle is none the worse.
    assert_eq!(other.info(HIGH).unwrap().state(), State::DEAD);
    // The start ends with the ring that it was sent on, and then its device can go.
    drop(control);
    other.delete(HIGH).unwrap();
    assert_gone(&mut other, HIGH);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_device_whose_start_was_given_up_is_deleted_when_it_is_dropped() {
    let mut device = Device::add(open(), &NewDevice::new().id(HIGH), &params()).unwrap();
    device.control().set_patience(Duration::from_secs(30), SHORT);
    assert_eq!(device.start(), Err(timed_out(Command::START_DEV)));
    assert!(device.control().is_abandoned());
    drop(device);
    assert_eq!(nodes(), [""; 0]);
    let mut control = open();
    // It may take the kernel a moment to let go of the id; a deletion waits for that.
    let deleted = control.delete(HIGH);
    assert!(deleted.is_ok() || deleted == Err(refused(Command::DEL_DEV, HIGH, Errno::ENODEV)), "{deleted:?}");
    assert_gone(&mut control, HIGH);
}

/// What the test below runs as a process of its own.
const GIVES_UP_AND_ENDS: &str = "UBLK_TEST_GIVES_UP_AND_ENDS";

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_process_that_gave_up_a_start_with_one_queue_fetched_ends_all_the_same() {
    if std::env::var_os(GIVES_UP_AND_ENDS).is_some() {
        let device = NewDevice::new().id(HIGH).queues(2).depth(4);
        let mut device = Device::add(open(), &device, &params()).unwrap();
        device.control().set_patience(Duration::from_secs(30), SHORT);
        let (first, second) = (device.queue(QueueId::new(0)).unwrap(), device.queue(QueueId::new(1)));
        let queue = first.fetch().unwrap();
        assert_eq!(device.start(), Err(timed_out(Command::START_DEV)));
        // The end comes as it may: nothing is dropped, nothing deleted.
        core::mem::forget((queue, second, device));
        std::process::exit(0);
    }
    let mut again = Program::new(std::env::current_exe().unwrap());
    again.args(["--exact", "a_process_that_gave_up_a_start_with_one_queue_fetched_ends_all_the_same"]);
    again.args(["--include-ignored", "--nocapture", "--test-threads=1"]).env(GIVES_UP_AND_ENDS, "1");
    let output = again.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Nobody deleted the device, and nobody holds it any more.
    let mut control = open();
    assert_eq!(control.info(HIGH).unwrap().state(), State::DEAD);
    assert_eq!(nodes(), [format!("ublkc{HIGH}")]);
    control.delete(HIGH).unwrap();
    assert_gone(&mut control, HIGH);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_deletion_that_waits_for_somebody_who_holds_on_is_given_up() {
    let device = Device::add(open(), &NewDevice::new().id(HIGH), &params()).unwrap();
    // Somebody else, with a thread of their own.
    thread::spawn(|| {
        let mut control = open();
        control.set_patience(SHORT, SHORT);
        assert_eq!(control.delete(HIGH), Err(timed_out(Command::DEL_DEV)));
        assert!(control.is_abandoned());
        assert_eq!(control.info(HIGH), Err(Error::ControlAbandoned));
    })
    .join()
    .unwrap();
    // Deleted it is, but for its id.
    assert_eq!(nodes(), [""; 0]);
    assert_eq!(open().add(&NewDevice::new().id(HIGH)), Err(refused(Command::ADD_DEV, HIGH, Errno::EEXIST)));
    // Its server lets go, and finds it deleted.
    assert_eq!(device.delete(), Ok(DeletedId::Free));
    assert_gone(&mut open(), HIGH);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_command_that_hangs_holds_up_no_other_handle_of_its_thread() {
    let device = Device::add(open(), &NewDevice::new().id(HIGH), &params()).unwrap();
    let mut hanging = open();
    hanging.set_patience(SHORT, SHORT);
    assert_eq!(hanging.delete(HIGH), Err(timed_out(Command::DEL_DEV)));
    // The kernel has a thread work off what may sleep, and the deletion sleeps.
    let mut other = open();
    let info = other.add(&NewDevice::new()).unwrap();
    other.delete(info.id()).unwrap();
    assert_eq!(device.delete(), Ok(DeletedId::Free));
    assert_gone(&mut other, HIGH);
    drop(hanging);
}

// Privilege.

/// What the test below runs as a process of its own, and as nobody.
const AS_NOBODY: &str = "UBLK_TEST_AS_NOBODY";

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn who_may_open_the_control_device_and_no_more_may_ask_for_features_and_no_more() {
    let refused = |command, device| Error::Control { command, device, errno: Errno::EPERM, sent: Sent::default() };
    let own_path = CString::new(format!("/dev/ublkc{HIGH}")).unwrap();
    if std::env::var_os(AS_NOBODY).is_some() {
        let mut control = open();
        assert!(control.features().is_ok());
        assert_eq!(control.add(&NewDevice::new()), Err(refused(Command::ADD_DEV, None)));
        assert_eq!(control.info(HIGH), Err(refused(Command::GET_DEV_INFO, Some(HIGH))));
        assert_eq!(control.info_at(HIGH, &own_path), Err(refused(Command::GET_DEV_INFO2, Some(HIGH))));
        assert_eq!(control.stop(HIGH), Err(refused(Command::STOP_DEV, Some(HIGH))));
        assert_eq!(control.delete(HIGH), Err(refused(Command::DEL_DEV, Some(HIGH))));
        assert_eq!(control.delete_async(HIGH), Err(refused(Command::DEL_DEV_ASYNC, Some(HIGH))));
        return;
    }
    const CONTROL: &str = "/dev/ublk-control";
    let mut control = open();
    let info = control.add(&NewDevice::new().id(HIGH)).unwrap();
    let before = fs::metadata(CONTROL).unwrap().permissions();
    fs::set_permissions(CONTROL, Permissions::from_mode(0o666)).unwrap();
    let mut again = Program::new(std::env::current_exe().unwrap());
    again.args(["--exact", "who_may_open_the_control_device_and_no_more_may_ask_for_features_and_no_more"]);
    again.args(["--include-ignored", "--nocapture", "--test-threads=1"]).env(AS_NOBODY, "1").uid(65_534).gid(65_534);
    let output = again.output();
    fs::set_permissions(CONTROL, before).unwrap();
    let output = output.unwrap();
    let printed = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && printed.contains("test result: ok. 1 passed"), "{printed}");
    assert_eq!(control.info(HIGH).map(said), Ok(said(info)));
    control.delete(HIGH).unwrap();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_device_that_was_replaced_while_it_was_opened_is_refused_and_the_other_left_alone() {
    let path = format!("/dev/ublkc{HIGH}");
    let mut control = open();
    for attempt in 0.. {
        assert!(attempt < 1000, "the device was never replaced between two looks");
        // The node is not there before there is another device.
        symlink("/dev/nowhere", &path).unwrap();
        let error = thread::scope(|scope| {
            let adder =
                scope.spawn(|| Device::add(open(), &NewDevice::new().id(HIGH).max_io_bytes(8192), &params()).map(drop));
            while control.info(HIGH).is_err() {
                thread::yield_now();
            }
            control.delete(HIGH).unwrap();
            control.add(&NewDevice::new().id(HIGH).max_io_bytes(1 << 20)).unwrap();
            let numbers = control.params(HIGH).unwrap().as_raw().devt;
            fs::remove_file(&path).unwrap();
            let (major, minor) = (numbers.char_major.to_string(), numbers.char_minor.to_string());
            assert!(Program::new("mknod").args([&path, "c", &major, &minor]).status().unwrap().success());
            adder.join().unwrap().unwrap_err()
        });
        assert_eq!(control.info(HIGH).unwrap().max_io_bytes(), 1 << 20, "the other is left alone");
        control.delete(HIGH).unwrap();
        fs::remove_file(&path).unwrap();
        match error {
            Error::Replaced { device: HIGH } => break,
            // It looked when there was neither.
            Error::OpenCharDevice { errno: Errno::ENOENT, .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(nodes(), [""; 0]);
}
