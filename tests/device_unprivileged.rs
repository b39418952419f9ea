// SPDX-License-Identifier: MIT OR Apache-2.0
//! A server without privileges: the example `unprivileged`, and queues made from a char device that somebody else opened.
#![cfg_attr(not(have_ublk), allow(dead_code, reason = "the tests are ignored, not left out"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test ends where something is wrong, and a server says what it serves"
)]

mod harness;
mod planted;

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::{Mutex, mpsc};
use std::thread;

use harness::program::Program;
use harness::{Aligned, nodes, open_direct, quiet_device};
use planted::open_to_all;
use ublk::{
    Cache, Control, DeletedId, Device, DeviceId, DeviceInfo, Errno, Error, Fd, Features, NewDevice, Operation, Params,
    PreparedQueue, Queue, QueueId, Sectors, Server, State, StopHandle, SystemCall,
};
use ublk_sys::ublksrv_ctrl_dev_info;

const NOBODY: u32 = 65534;

fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// The example `unprivileged`, live: its helper and its server.
struct Disk {
    helper: Child,
    server: u32,
    /// What both say to complain. It ends when both have ended.
    complaints: ChildStderr,
    path: String,
}

impl Disk {
    fn start(arguments: &[&str]) -> Disk {
        let mut command = Command::new("unprivileged");
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut helper = command.spawn().expect("unprivileged on the PATH");
        let mut complaints = helper.stderr.take().unwrap();
        let mut line = String::new();
        BufReader::new(helper.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let path = line.trim_end().to_owned();
        if !path.starts_with("/dev/ublkb") {
            let mut said = String::new();
            complaints.read_to_string(&mut said).unwrap();
            panic!("{line:?}, {:?}: {said}", helper.wait());
        }
        let server = child_of(helper.id());
        Disk { helper, server, complaints, path }
    }

    fn id(&self) -> DeviceId {
        DeviceId::new(self.path.strip_prefix("/dev/ublkb").unwrap().parse().unwrap())
    }

    /// A file of `/sys/block/ublkbN`.
    fn attribute(&self, file: &str) -> String {
        fs::read_to_string(format!("/sys/block/ublkb{}/{file}", self.id())).unwrap().trim().to_owned()
    }

    /// Waits for the end of both; the helper's status, and what was said.
    fn ended(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.complaints.read_to_string(&mut said).unwrap();
        (self.helper.wait().unwrap().code(), said)
    }
}

impl Drop for Disk {
    /// A test that fails leaves no server behind for the next to stumble over.
    fn drop(&mut self) {
        if let Ok(None) = self.helper.try_wait() {
            // There is nothing to add if this fails too.
            let _ = Control::open().and_then(|mut control| control.delete(self.id()));
            let _ = self.helper.kill().and_then(|()| self.helper.wait());
        }
    }
}

fn signal(process: u32, name: &str) {
    let killed = output(Command::new("kill").args([&format!("-{name}"), &process.to_string()]));
    assert!(killed.status.success());
}

/// A line of `/proc/PROCESS/status`.
fn status(process: u32, field: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(value.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The one child that a process has.
fn child_of(parent: u32) -> u32 {
    let names = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let processes = names.filter_map(|name| name.parse::<u32>().ok());
    let children: Vec<u32> = processes.filter(|process| status(*process, "PPid") == Some(parent.to_string())).collect();
    assert_eq!(children.len(), 1, "{children:?}");
    children[0]
}

/// Asserts that a process has no capability, not even one that it could take up, and is nobody throughout.
fn assert_unprivileged(process: u32) {
    for field in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
        assert_eq!(status(process, field).unwrap(), "0000000000000000", "{field}");
    }
    let nobody = format!("{NOBODY} {NOBODY} {NOBODY} {NOBODY}");
    assert_eq!((status(process, "Uid").unwrap(), status(process, "Gid").unwrap()), (nobody.clone(), nobody));
    assert_eq!(status(process, "Groups").unwrap(), "");
}

// The example.

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn fio_finds_no_error_on_a_disk_whose_server_has_no_capability_slow() {
    let disk = Disk::start(&["--size", "64M", "--queues", "2"]);
    assert_unprivileged(disk.server);
    let fio = Command::new("fio")
        .args(["--name=job", &format!("--filename={}", disk.path), "--direct=1", "--ioengine=libaio", "--rw=randrw"])
        .args(["--bsrange=4k-256k", "--iodepth=16", "--numjobs=2", "--size=32M", "--offset_increment=32M"])
        .args(["--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--serialize_overlap=1", "--group_reporting"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("fio on the PATH");
    let fio = fio.wait_with_output().unwrap();
    let printed = String::from_utf8_lossy(&fio.stdout) + String::from_utf8_lossy(&fio.stderr);
    assert!(fio.status.success() && printed.contains("err= 0"), "{}\n{printed}", fio.status);
    // It has gained nothing while it served.
    assert_unprivileged(disk.server);
    // Its descriptors: the char device, the rings and their bells.
    for file in fs::read_dir(format!("/proc/{}/fd", disk.server)).unwrap() {
        let file = fs::read_link(file.unwrap().path()).unwrap();
        assert!(!file.ends_with("ublk-control") && !file.to_string_lossy().contains("ublkb"), "{}", file.display());
    }
    // The driver names the process that opened the char device.
    let info = Control::open().unwrap().info(disk.id()).unwrap();
    assert_eq!((info.server_process(), info.state()), (Some(disk.helper.id()), State::LIVE));
    signal(disk.helper.id(), "TERM");
    assert_eq!(disk.ended(), (Some(0), String::new()));
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn whoever_is_the_server_cannot_open_the_control_device() {
    const ROLE: &str = "UBLK_TEST_NOBODY";
    if env::var_os(ROLE).is_some() {
        assert_unprivileged(std::process::id());
        assert_eq!(Control::open().unwrap_err(), Error::OpenControl { errno: Errno::EACCES });
        return;
    }
    let disk = Disk::start(&[]);
    let name = "whoever_is_the_server_cannot_open_the_control_device";
    let mut nobody = Command::new(env::current_exe().unwrap());
    nobody.args(["--exact", name, "--include-ignored", "--nocapture"]).env(ROLE, "1").uid(NOBODY).gid(NOBODY);
    let nobody = output(&mut nobody);
    assert!(nobody.status.success(), "{}", String::from_utf8_lossy(&nobody.stderr));
    signal(disk.helper.id(), "INT");
    assert_eq!(disk.ended(), (Some(0), String::new()));
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_server_that_is_killed_ends_the_helper_with_a_failure_and_no_node_stays() {
    let disk = Disk::start(&["--size", "8M", "--depth", "4"]);
    let path = disk.path.clone();
    let (wrote, has_written) = mpsc::channel();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|client| {
                let (file, wrote) = (open_direct(disk.id()), wrote.clone());
                scope.spawn(move || {
                    let block = Aligned::filled(64 << 10, 7);
                    // It ends with an error when the server is gone, and not before.
                    while file.write_all_at(&block, client * (1 << 20)).is_ok() {
                        let _ = wrote.send(());
                    }
                })
            })
            .collect();
        has_written.recv().unwrap();
        signal(disk.server, "KILL");
        let (status, said) = disk.ended();
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains("the server has died: signal: 9"), "{said}");
        for client in clients {
            client.join().unwrap();
        }
    });
    assert_eq!(nodes(), [""; 0]);
    assert!(!Path::new(&path).exists());
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_server_that_cannot_fetch_ends_the_start() {
    // No room for the buffers, of which each takes 4 GiB of address space.
    let limited = output(Command::new("sh").args(["-c", "ulimit -v 4000000; exec unprivileged --depth 64"]));
    let said = String::from_utf8_lossy(&limited.stderr);
    assert_eq!((limited.status.code(), &*limited.stdout), (Some(1), &b""[..]), "{said}");
    assert!(said.contains("ENOMEM") && said.contains("the server has died: exit status: 1"), "{said}");
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_helper_that_is_killed_leaves_a_server_that_serves_until_somebody_stops_the_device() {
    let mut disk = Disk::start(&["--size", "8M"]);
    let block = Aligned::filled(4096, 0x5a);
    open_direct(disk.id()).write_all_at(&block, 8192).unwrap();
    signal(disk.helper.id(), "KILL");
    disk.helper.wait().unwrap();
    let mut read = Aligned::filled(4096, 0);
    open_direct(disk.id()).read_exact_at(&mut read, 8192).unwrap();
    assert!(*read == *block);
    assert_unprivileged(disk.server);

    let id = disk.id();
    let mut control = Control::open().unwrap();
    control.stop(id).unwrap();
    // The server ends by itself, and says nothing.
    assert_eq!(disk.ended(), (None, String::new()));
    control.delete(id).unwrap();
    assert_eq!(nodes(), [""; 0]);
}

/// Writes a partition table with one partition to a disk, has the kernel read it, and says whether it would, and what it found.
fn partitions(path: &str) -> (bool, Vec<String>) {
    let mut table = Aligned::filled(4096, 0);
    // The first entry: type 0x83, from sector 64, 64 sectors long.
    table[450] = 0x83;
    table[454..458].copy_from_slice(&64_u32.to_le_bytes());
    table[458..462].copy_from_slice(&64_u32.to_le_bytes());
    table[510..512].copy_from_slice(&[0x55, 0xaa]);
    let name = path.strip_prefix("/dev/").unwrap();
    open_direct(DeviceId::new(name.strip_prefix("ublkb").unwrap().parse().unwrap())).write_all_at(&table, 0).unwrap();
    let asked = output(Command::new("blockdev").args(["--rereadpt", path]));
    let entries = fs::read_dir(format!("/sys/block/{name}")).unwrap();
    let entries = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    (asked.status.success(), entries.filter(|entry| entry.starts_with(name)).collect())
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn no_partitions_are_looked_for_on_a_disk_whose_server_has_no_privileges() {
    let disk = Disk::start(&["--size", "8M"]);
    assert_eq!(partitions(&disk.path), (false, Vec::new()));
    assert_eq!(disk.attribute("partscan"), "0");
    signal(disk.helper.id(), "TERM");
    assert_eq!(disk.ended(), (Some(0), String::new()));

    // The same disk with a server that has them.
    let mut ramdisk = Command::new("ramdisk");
    let mut ramdisk = ramdisk.args(["--size", "8M"]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut says = BufReader::new(ramdisk.stdout.take().unwrap());
    let mut path = String::new();
    says.read_line(&mut path).unwrap();
    let found = partitions(path.trim_end());
    signal(ramdisk.id(), "TERM");
    ramdisk.wait().unwrap();
    assert_eq!(found, (true, vec![format!("{}p1", path.trim_end().strip_prefix("/dev/").unwrap())]));
    assert_eq!(nodes(), [""; 0]);
}

// What the driver asks of whoever starts a device.

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_newer_driver_lets_nobody_start_a_device_but_the_process_that_opened_it() {
    const ROLE: &str = "UBLK_TEST_STARTS";
    if let Ok(id) = env::var(ROLE) {
        let started = Control::open().unwrap().start(DeviceId::new(id.parse().unwrap()));
        match started {
            Ok(()) => println!("it was started"),
            Err(Error::Control { errno: Errno::EINVAL, .. }) => println!("it was refused"),
            Err(other) => panic!("{other}"),
        }
        return;
    }
    let mut device = Device::add(Control::open().unwrap(), &quiet_device(4), &params()).unwrap();
    let prepared = device.queue(QueueId::new(0)).unwrap();
    let name = "a_newer_driver_lets_nobody_start_a_device_but_the_process_that_opened_it";
    let mut other = Command::new(env::current_exe().unwrap());
    other.args(["--exact", name, "--include-ignored", "--nocapture"]).env(ROLE, device.info().id().to_string());
    thread::scope(|scope| {
        let server = scope.spawn(|| serve_zeroes(&prepared.fetch().unwrap()));
        let said = output(&mut other);
        let said = String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr);
        let state = Control::open().unwrap().info(device.info().id()).unwrap().state();
        if fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().starts_with("6.12.") {
            assert!(said.contains("it was started") && state == State::LIVE, "{said}");
        } else {
            assert!(said.contains("it was refused") && state == State::DEAD, "{said}");
            device.start().unwrap();
        }
        device.stop().unwrap();
        server.join().unwrap();
    });
    assert_eq!(device.delete(), Ok(DeletedId::Free));
}

// Queues of a char device that was passed in, and what was said about it.

fn params() -> Params {
    Params::new(Sectors::new(16384), Cache::None)
}

/// What somebody may say of a device.
fn claimed(info: &DeviceInfo, change: impl FnOnce(&mut ublksrv_ctrl_dev_info)) -> DeviceInfo {
    let mut raw = *info.as_raw();
    change(&mut raw);
    DeviceInfo::from_raw(raw)
}

/// Answers until the device is stopped.
fn serve_zeroes(queue: &Queue) {
    while !queue.is_finished() {
        queue.wait(None).unwrap();
        while let Some(request) = queue.next_request().unwrap() {
            request.complete();
        }
    }
}

/// What the driver thinks of the next fetch that it has not taken.
fn next_refusal(queue: &Queue) -> Option<Error> {
    match queue.next_request() {
        Ok(Some(_)) => panic!("nobody has sent a request"),
        Ok(None) => None,
        Err(error) => Some(error),
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_queue_that_was_told_nothing_of_the_largest_request_serves_it_all_the_same() {
    let mut device = Device::add(Control::open().unwrap(), &quiet_device(4), &params()).unwrap();
    let info = claimed(device.info(), |raw| (raw.max_io_buf_bytes, raw.dev_id, raw.state) = (0, u32::MAX, 77));
    let prepared = PreparedQueue::adopt(device.char_device().unwrap(), &info, QueueId::new(0)).unwrap();
    thread::scope(|scope| {
        let server = scope.spawn(move || {
            let queue = prepared.fetch().unwrap();
            let mut disk = vec![0_u8; 8 << 20];
            while !queue.is_finished() {
                queue.wait(None).unwrap();
                while let Some(mut request) = queue.next_request().unwrap() {
                    let start = usize::try_from(request.offset_bytes()).unwrap();
                    let bytes = &mut disk[start..start + usize::try_from(request.len_bytes()).unwrap()];
                    match request.operation() {
                        Operation::WRITE => bytes.copy_from_slice(request.data()),
                        _ => assert_eq!(request.cursor().write(bytes), bytes.len()),
                    }
                    request.complete();
                }
            }
        });
        device.start().unwrap();
        let disk = open_direct(device.info().id());
        let mut written = Aligned::filled(1 << 20, 0);
        for (place, byte) in written.iter_mut().enumerate() {
            *byte = u8::try_from(place % 251).unwrap();
        }
        disk.write_all_at(&written, 0).unwrap();
        let mut read = Aligned::filled(1 << 20, 0);
        disk.read_exact_at(&mut read, 0).unwrap();
        assert!(*read == *written);
        drop(disk);
        device.stop().unwrap();
        server.join().unwrap();
    });
    assert_eq!(device.delete(), Ok(DeletedId::Free));
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn what_is_not_true_of_a_device_is_refused_by_the_driver_or_before() {
    let device = Device::add(Control::open().unwrap(), &quiet_device(4), &params()).unwrap();
    let adopt = |info: &DeviceInfo, id| PreparedQueue::adopt(device.char_device().unwrap(), info, QueueId::new(id));
    let told = |change: fn(&mut ublksrv_ctrl_dev_info)| claimed(device.info(), change);
    let mapping = Error::System { call: SystemCall::MmapDescriptors, errno: Errno::EINVAL };

    let invalid = |made: Result<PreparedQueue, Error>| matches!(made.unwrap_err(), Error::Invalid { .. });
    assert!(invalid(adopt(device.info(), 1)));
    assert!(invalid(adopt(&told(|raw| raw.queue_depth = 0), 0)));
    assert!(invalid(adopt(&told(|raw| raw.queue_depth = u16::MAX), 0)));
    assert!(invalid(adopt(&told(|raw| raw.nr_hw_queues = 0), 0)));
    assert!(invalid(adopt(&told(|raw| raw.flags |= Features::USER_COPY.bits()), 0)));
    for bytes in [0, 8, 25, u16::MAX] {
        let odd = claimed(device.info(), |raw| {
            (raw.flags, raw.io_desc_size) = (raw.flags | Features::IO_DESC_SIZE.bits(), bytes);
        });
        assert!(matches!(adopt(&odd, 0).unwrap_err(), Error::Implausible { what: "io_desc_size", .. }));
    }
    // Queues that it has not, and a depth whose descriptors take another number of pages.
    let more = told(|raw| raw.nr_hw_queues = u16::MAX);
    for id in [1, 2, 4095, u16::MAX - 1] {
        assert_eq!(adopt(&more, id).unwrap_err(), mapping);
    }
    assert_eq!(adopt(&told(|raw| raw.queue_depth = 4096), 0).unwrap_err(), mapping);
    assert_eq!(device.delete(), Ok(DeletedId::Free));
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn tags_that_a_queue_has_not_are_refused_one_by_one() {
    let device = Device::add(Control::open().unwrap(), &quiet_device(4), &params()).unwrap();
    // Its descriptors still end on the same page.
    let deeper = claimed(device.info(), |raw| raw.queue_depth = 100);
    let queue = PreparedQueue::adopt(device.char_device().unwrap(), &deeper, QueueId::new(0)).unwrap().fetch().unwrap();
    for tag in 4..100 {
        match next_refusal(&queue) {
            Some(Error::Io { tag: refused, errno: Errno::EINVAL, .. }) => assert_eq!(refused.raw(), tag),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(next_refusal(&queue), None);
    drop(queue);
    assert_eq!(device.delete(), Ok(DeletedId::Free));
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_queue_that_is_adopted_twice_is_refused_the_second_time() {
    let mut device = Device::add(Control::open().unwrap(), &quiet_device(4), &params()).unwrap();
    let info = *device.info();
    let adopt = || PreparedQueue::adopt(device.char_device().unwrap(), &info, QueueId::new(0)).unwrap();
    let (first, second) = (adopt().fetch().unwrap(), adopt().fetch().unwrap());
    assert_eq!(next_refusal(&first), None);
    for tag in 0..4 {
        match next_refusal(&second) {
            Some(Error::Io { tag: refused, errno: Errno::EINVAL | Errno::EBUSY, .. }) => assert_eq!(refused.raw(), tag),
            other => panic!("{other:?}"),
        }
    }
    drop(second);
    // The first is none the worse for it.
    thread::scope(|scope| {
        let device = &mut device;
        let client = scope.spawn(move || {
            device.start().unwrap();
            let disk = open_direct(info.id());
            disk.write_all_at(&Aligned::filled(4096, 1), 0).unwrap();
            drop(disk);
            device.stop().unwrap();
        });
        serve_zeroes(&first);
        client.join().unwrap();
    });
    drop(first);
    assert_eq!(device.delete(), Ok(DeletedId::Free));
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_device_that_moves_data_in_another_way_refuses_a_queue_that_was_told_otherwise() {
    let user_copy = quiet_device(4).mode::<ublk::mode::UserCopy>();
    let device = Device::add(Control::open().unwrap(), &user_copy, &params()).unwrap();
    let copy = claimed(device.info(), |raw| raw.flags = 0);
    let queue = PreparedQueue::adopt(device.char_device().unwrap(), &copy, QueueId::new(0)).unwrap().fetch().unwrap();
    assert!(matches!(next_refusal(&queue), Some(Error::Io { errno: Errno::EINVAL, .. })));
    drop(queue);
    assert_eq!(device.delete(), Ok(DeletedId::Free));
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_descriptor_that_is_no_char_device_of_ublk_is_an_error() {
    let device = Device::add(Control::open().unwrap(), &quiet_device(4), &params()).unwrap();
    let adopt = |file: OwnedFd| PreparedQueue::adopt(Fd::from(file), device.info(), QueueId::new(0));
    let open = |path: &str| OpenOptions::new().read(true).write(true).open(path).unwrap();
    let no_mapping = Error::System { call: SystemCall::MmapDescriptors, errno: Errno::ENODEV };

    let (socket, _other_end) = UnixStream::pair().unwrap();
    assert_eq!(adopt(socket.into()).unwrap_err(), no_mapping);
    // It takes every command of io_uring's, and answers 0.
    assert_eq!(adopt(open("/dev/null").into()).unwrap_err(), no_mapping);
    assert_eq!(adopt(open("/dev/ublk-control").into()).unwrap_err(), no_mapping);
    let write_only = OpenOptions::new().write(true).open("/dev/zero").unwrap();
    let refused = Error::System { call: SystemCall::MmapDescriptors, errno: Errno::EACCES };
    assert_eq!(adopt(write_only.into()).unwrap_err(), refused);

    // What can be mapped takes no command.
    let path = env::temp_dir().join(format!("ublk-test-{}", std::process::id()));
    fs::write(&path, [0xff; 4096]).unwrap();
    let regular = File::options().read(true).write(true).open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    for file in [regular, open("/dev/zero")] {
        let queue = adopt(file.into()).unwrap().fetch().unwrap();
        assert!(matches!(next_refusal(&queue), Some(Error::Io { errno: Errno::EOPNOTSUPP, .. })));
        while next_refusal(&queue).is_some() {}
        assert!(queue.is_finished());
    }
    assert_eq!(device.delete(), Ok(DeletedId::Free));
}

// Devices that a user without privileges adds.

/// The device of a server that has no right that nobody has not, from the start on.
struct Owned {
    server: Program,
    nodes: Vec<String>,
}

/// What udev does, by the rule in `tools/ublk-cli`, for a node that has come.
fn udev_owner(node: &str) -> Output {
    output(Command::new("ublkctl").args(["udev-owner", node]))
}

fn owner_of(path: &str) -> u32 {
    std::os::unix::fs::MetadataExt::uid(&fs::metadata(path).unwrap())
}

/// Plays udev until as many nodes have come, and gives each to whom it belongs.
fn give_nodes(count: usize, given: &mut Vec<String>) {
    while given.len() < count {
        for name in nodes().into_iter().map(|name| format!("/dev/{name}")) {
            if !given.contains(&name) {
                let done = udev_owner(&name);
                assert!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&done.stderr));
                given.push(name);
            }
        }
        thread::yield_now();
    }
}

const OWNER: &str = "UBLK_TEST_OWNER";

/// Starts this test again as nobody, in a role, and gives it the nodes of its device.
fn owned(test: &str, role: &str) -> Owned {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", test, "--include-ignored", "--nocapture"]).env(OWNER, role).uid(NOBODY).gid(NOBODY);
    let (say, said) = mpsc::channel();
    let server = thread::spawn(move || say.send(Program::start_as(&mut command)));
    let mut given = Vec::new();
    give_nodes(2, &mut given);
    let program = said.recv().unwrap();
    server.join().unwrap().unwrap();
    Owned { server: program, nodes: given }
}

/// As nobody: a disk in memory, until standard input ends. The last block is never answered.
fn serve_as_owner() {
    assert_unprivileged(std::process::id());
    let stop = StopHandle::new().unwrap();
    let server = Server::new(NewDevice::new().depth(4).unprivileged(), params()).stop_on(&stop);
    thread::spawn(move || {
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        stop.stop();
    });
    let (memory, kept) = (Mutex::new(vec![0_u8; 8 << 20]), Mutex::new(Vec::new()));
    let answer = |mut request: ublk::Request<'_>| {
        let start = usize::try_from(request.offset_bytes()).unwrap();
        let len = usize::try_from(request.len_bytes()).unwrap();
        let mut memory = memory.lock().unwrap();
        match request.operation() {
            Operation::WRITE if start + len == memory.len() => return kept.lock().unwrap().push(request.detach()),
            Operation::READ => drop(request.cursor().write(&memory[start..start + len])),
            Operation::WRITE => memory[start..start + len].copy_from_slice(request.data()),
            _ => return request.fail(Errno::EOPNOTSUPP),
        }
        request.complete();
    };
    let ended = server.run(answer, |device| println!("\n/dev/ublkb{}", device.id()));
    println!("\nended: {ended:?}");
}

#[test]
#[ignore = "opens the control device to everybody: run `cargo xtask test`"]
fn an_ordinary_user_adds_serves_and_deletes_a_device_of_his_own() {
    const NAME: &str = "an_ordinary_user_adds_serves_and_deletes_a_device_of_his_own";
    if env::var_os(OWNER).is_some() {
        return serve_as_owner();
    }
    let _opened = open_to_all();
    let Owned { server, nodes: given } = owned(NAME, "serves");
    let id = server.id();
    assert_eq!(given, [format!("/dev/ublkc{id}"), format!("/dev/ublkb{id}")]);
    assert!(given.iter().all(|node| owner_of(node) == NOBODY), "{given:?}");
    let disk = open_direct(id);
    let mut block = Aligned::filled(8192, 0x5a);
    disk.write_all_at(&block, 4096).unwrap();
    block.fill(0);
    disk.read_exact_at(&mut block, 4096).unwrap();
    assert!(block.iter().all(|byte| *byte == 0x5a));
    drop(disk);
    // The kernel looks for no partitions, whatever is written there.
    assert_eq!(partitions(&server.path), (false, Vec::new()));

    // Everybody, root too, says by which node; whoever may not read that is refused.
    let mut control = Control::open().unwrap();
    assert!(matches!(control.info(id), Err(Error::Control { errno: Errno::EINVAL, .. })));
    control.set_unprivileged(Some(id));
    let info = control.info(id).unwrap();
    assert_eq!((info.as_raw().owner_uid, info.as_raw().owner_gid, info.state()), (NOBODY, NOBODY, State::LIVE));
    let other = output(Command::new("ublkctl").args(["delete", &id.to_string()]).uid(NOBODY - 1).gid(NOBODY - 1));
    let said = String::from_utf8_lossy(&other.stderr);
    assert!(other.status.code() == Some(1) && (said.contains("EACCES") || said.contains("EINVAL")), "{said}");

    let (status, said) = server.hang_up();
    assert!(status.success() && said.contains("ended: Ok(Handle)"), "{said}");
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[ignore = "opens the control device to everybody: run `cargo xtask test`"]
fn a_node_is_given_to_the_owner_of_the_device_that_has_its_numbers_and_a_name_says_nothing() {
    const NAME: &str = "a_node_is_given_to_the_owner_of_the_device_that_has_its_numbers_and_a_name_says_nothing";
    if env::var_os(OWNER).is_some() {
        return serve_as_owner();
    }
    let run = |program: &str, arguments: &[&str]| planted::run(program, arguments);
    let _opened = open_to_all();
    let root = Program::start("ramdisk", &["--size", "8M", "--id", "77"]);
    let disk = owned_beside(NAME);
    let id = disk.id();
    // Nodes of root's own device, under names that belong to the user's, and one that leads there.
    let numbers = |path: &str| {
        let device = std::os::unix::fs::MetadataExt::rdev(&fs::metadata(path).unwrap());
        (libc::major(device).to_string(), libc::minor(device).to_string())
    };
    let (block, char) = (numbers("/dev/ublkb77"), numbers("/dev/null"));
    run("mkdir", &["/tmp/owner"]);
    run("mknod", &[&format!("/tmp/owner/ublkb{id}"), "b", &block.0, &block.1]);
    run("mknod", &[&format!("/tmp/owner/ublkc{id}"), "c", &char.0, &char.1]);
    std::os::unix::fs::symlink(format!("/dev/ublkb{id}"), "/tmp/owner/link").unwrap();
    fs::write("/tmp/owner/file", "").unwrap();
    for (path, status) in [
        (format!("/tmp/owner/ublkb{id}"), 0),
        (format!("/tmp/owner/ublkc{id}"), 0),
        ("/dev/ublkb77".to_owned(), 0),
        ("/dev/null".to_owned(), 0),
        ("/tmp/owner/link".to_owned(), 1),
        ("/tmp/owner/file".to_owned(), 1),
        ("/tmp/owner/none".to_owned(), 1),
    ] {
        let done = udev_owner(&path);
        assert_eq!(done.status.code(), Some(status), "{path}: {}", String::from_utf8_lossy(&done.stderr));
        if path != "/tmp/owner/none" && path != "/tmp/owner/link" {
            assert_eq!(owner_of(&path), 0, "{path}");
        }
    }
    // And a node under any name that has the numbers of the user's device.
    let own = numbers(&format!("/dev/ublkb{id}"));
    run("mknod", &["/tmp/owner/anything", "b", &own.0, &own.1]);
    assert!(udev_owner("/tmp/owner/anything").status.success());
    assert_eq!(owner_of("/tmp/owner/anything"), NOBODY);
    fs::remove_dir_all("/tmp/owner").unwrap();
    // Root deletes it by its number.
    let deleted = output(Command::new("ublkctl").args(["delete", &id.to_string()]));
    assert!(deleted.status.success(), "{}", String::from_utf8_lossy(&deleted.stderr));
    let (status, said) = disk.ended();
    assert!(status.success() && said.contains("ended: Ok(FromOutside)"), "{said}");
    root.stop();
    assert_eq!(nodes(), [""; 0]);
}

/// As [`owned`], beside a device of root's.
fn owned_beside(test: &str) -> Program {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", test, "--include-ignored", "--nocapture"]).env(OWNER, "serves").uid(NOBODY).gid(NOBODY);
    let (say, said) = mpsc::channel();
    let server = thread::spawn(move || say.send(Program::start_as(&mut command)));
    give_nodes(4, &mut Vec::new());
    server.join().unwrap().unwrap();
    said.recv().unwrap()
}

#[test]
#[ignore = "opens the control device to everybody: run `cargo xtask test`"]
fn the_server_of_an_unprivileged_device_that_holds_a_request_for_half_a_minute_is_killed_by_the_driver_slow() {
    const NAME: &str =
        "the_server_of_an_unprivileged_device_that_holds_a_request_for_half_a_minute_is_killed_by_the_driver_slow";
    if env::var_os(OWNER).is_some() {
        return serve_as_owner();
    }
    let _opened = open_to_all();
    let Owned { server, .. } = owned(NAME, "holds");
    let id = server.id();
    let written = open_direct(id).write_all_at(&Aligned::filled(4096, 1), (8 << 20) - 4096);
    assert_eq!(written.unwrap_err().raw_os_error(), Some(libc::EIO));
    let (status, _) = server.ended();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGKILL), "{status}");
    let deleted = output(Command::new("ublkctl").args(["delete", &id.to_string()]));
    assert!(deleted.status.success(), "{}", String::from_utf8_lossy(&deleted.stderr));
    assert_eq!(nodes(), [""; 0]);
}
