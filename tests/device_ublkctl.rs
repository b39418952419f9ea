// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ublkctl` as a program in any language calls it: exit status, standard output, and what becomes of devices.
#![cfg_attr(not(have_ublk), allow(dead_code, reason = "the tests are ignored, not left out"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]

mod harness;
mod planted;

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use harness::held::HeldWrite;
use harness::program::Program;
use harness::{Aligned, Served, exists, nodes, open_direct, quiet_device, serve};
use planted::{NOBODY, add_unprivileged, is_nobody, open_to_all, run_as_nobody};
use ublk::{
    Cache, Control, DeviceId, Fd, Features, NewDevice, Operation, Params, Recovery, Request, Sectors, State, Stopped,
};

/// Ids are given from 0 up; nobody else has one up here.
const HIGH: DeviceId = DeviceId::new(4711);

/// How a program ended, and what it printed.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    status: Option<i32>,
    out: String,
    error: String,
}

fn run(command: &mut Command) -> Said {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { status: output.status.code(), out: text(output.stdout), error: text(output.stderr) }
}

fn ublkctl(arguments: &[&str]) -> Said {
    run(Command::new("ublkctl").args(arguments))
}

/// What it prints where it succeeds.
fn printed(arguments: &[&str]) -> String {
    let said = ublkctl(arguments);
    assert_eq!((said.status, said.error.as_str()), (Some(0), ""), "{arguments:?}");
    said.out
}

/// The value of the first member of this name in JSON that has a line for each, as it stands there.
fn member<'j>(json: &'j str, name: &str) -> &'j str {
    let start = format!("\"{name}\": ");
    let value = json.lines().find_map(|line| line.trim().strip_prefix(&start));
    value.unwrap_or_else(|| panic!("{name} is not in {json}")).trim_end_matches(',')
}

/// What is said of a device in the list of all, as one object.
fn listed(id: DeviceId) -> Option<String> {
    let list = printed(&["list", "--json"]);
    let start = format!("\"id\": {id},\n");
    let at = list.find(&start)?;
    let end = list[at..].find("\n  }").unwrap();
    Some(list[at..at + end].to_owned())
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn every_feature_has_a_row_with_the_linux_that_has_it_and_whether_this_driver_has() {
    let offered = Control::open().unwrap().features().unwrap();
    let json = printed(&["features", "--json"]);
    assert_eq!(member(&json, "bits"), offered.bits().to_string());
    for (feature, name) in Features::KNOWN {
        let (_, row) = json.split_once(&format!("\"name\": \"{name}\"")).unwrap_or_else(|| panic!("{name}: {json}"));
        assert_eq!(member(row, "since"), format!("\"{}\"", feature.since().unwrap()), "{name}");
        assert_eq!(member(row, "offered"), offered.contains(*feature).to_string(), "{name}");
    }
    // What is younger than the driver is not there; that is asked of the driver by no command.
    let (_, row) = json.split_once("\"name\": \"UBLK_U_CMD_TRY_STOP_DEV\"").unwrap();
    assert_eq!(member(row, "offered"), offered.contains(Features::SAFE_STOP_DEV).to_string());
    let (_, row) = json.split_once("\"name\": \"UBLK_U_CMD_DEL_DEV_ASYNC\"").unwrap();
    assert_eq!(member(row, "offered"), "true");
    let text = printed(&["features"]);
    assert!(text.contains("UBLK_F_BATCH_IO ") && text.contains("UBLK_U_CMD_ADD_DEV "), "{text}");
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_device_that_is_served_is_listed_with_its_server_and_described() {
    let disk =
        Program::start("ublkctl", &["add", "ram", "--size", "8M", "--id", "4711", "--depth", "32", "--queues", "2"]);
    let info = Control::open().unwrap().info(HIGH).unwrap();
    let row = listed(HIGH).unwrap();
    let server = disk.process.id().to_string();
    for (name, value) in [
        ("state", "\"LIVE\""),
        ("queues", "2"),
        ("depth", "32"),
        ("server", server.as_str()),
        ("server_alive", "true"),
        ("stale", "false"),
        ("block_device", "\"/dev/ublkb4711\""),
        ("size_bytes", "8388608"),
        ("error", "null"),
    ] {
        assert_eq!(member(&row, name), value, "{name}");
    }
    let text = printed(&["list"]);
    assert!(text.contains("4711  LIVE   2 x 32  ") && text.contains(&format!("process {server} ")), "{text}");

    let described = printed(&["info", "4711", "--json"]);
    assert_eq!(member(&described, "flags"), info.features().bits().to_string());
    assert_eq!(member(&described, "max_io_buf_bytes"), info.max_io_bytes().to_string());
    assert_eq!(member(&described, "state_name"), "\"LIVE\"");
    let params = printed(&["params", "4711", "--json"]);
    assert_eq!(member(&params, "dev_sectors"), "16384");
    assert_eq!(member(&params, "zoned"), "null");
    assert!(printed(&["params", "4711"]).contains("basic.dev_sectors                  16384   0x4000\n"));
    disk.stop();
    assert_eq!(listed(HIGH), None);
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_device_is_stale_where_nobody_has_its_char_device_open() {
    let mut control = Control::open().unwrap();
    control.add(&NewDevice::new().id(HIGH)).unwrap();
    assert_eq!(member(&listed(HIGH).unwrap(), "stale"), "true");
    {
        let _server = Fd::open(c"/dev/ublkc4711").unwrap();
        let row = listed(HIGH).unwrap();
        assert_eq!(member(&row, "stale"), "false");
        assert!(row.contains(&format!("\"holders\": [\n      {}\n", std::process::id())), "{row}");
    }
    assert_eq!(member(&listed(HIGH).unwrap(), "stale"), "true");
    // Looking has changed nothing: the device can be opened, by whoever is to serve it.
    drop(Fd::open(c"/dev/ublkc4711").unwrap());
    assert_eq!(printed(&["delete", "4711"]), "");
    assert!(!exists(&mut control, HIGH));
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_server_that_was_killed_leaves_a_device_that_is_listed_as_stale() {
    let mut disk = Program::start("ublkctl", &["add", "null", "--id", "4711"]);
    disk.process.kill().unwrap();
    disk.ended();
    // The driver lets go on its own time.
    let mut control = Control::open().unwrap();
    while control.info(HIGH).unwrap().state() != State::DEAD {
        std::thread::yield_now();
    }
    let row = listed(HIGH).unwrap();
    assert_eq!((member(&row, "state"), member(&row, "stale"), member(&row, "server")), ("\"DEAD\"", "true", "null"));
    assert!(printed(&["list"]).contains("nobody: stale"));
    assert_eq!(printed(&["delete", "4711"]), "");
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_device_that_is_not_there_is_status_1_with_a_sentence() {
    for command in ["info", "params", "stop", "delete", "quiesce"] {
        let said = ublkctl(&[command, "4711"]);
        assert_eq!((said.status, said.out.as_str()), (Some(1), ""), "{said:?}");
        let start = format!("ublkctl {command}: the driver refused UBLK_U_CMD_");
        assert!(said.error.starts_with(&start) && said.error.contains("ENODEV"), "{said:?}");
        assert_eq!(said.error.lines().count(), 1, "{said:?}");
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn wrong_arguments_are_status_2_and_help_is_0_and_neither_makes_a_device() {
    let wrong: [&[&str]; 12] = [
        &[],
        &["nonsense"],
        &["info"],
        &["info", "zero"],
        &["stop", "-1"],
        &["delete", "1", "--timeout", "0"],
        &["add"],
        &["add", "disk"],
        &["add", "null", "--size", "0"],
        &["add", "ram", "--size", "1000"],
        &["add", "ram", "--queues", "65536"],
        &["doctor", "--jsn"],
    ];
    for arguments in wrong {
        let said = ublkctl(arguments);
        assert_eq!((said.status, said.out.as_str()), (Some(2), ""), "{arguments:?}: {said:?}");
        assert!(!said.error.is_empty(), "{arguments:?}");
    }
    let commands =
        ["features", "list", "info", "params", "stop", "delete", "collect", "resize", "quiesce", "add", "doctor"];
    for command in commands {
        let said = ublkctl(&[command, "--help"]);
        assert_eq!((said.status, said.error.as_str()), (Some(0), ""), "{command}");
        assert!(said.out.contains("Exit status: 0"), "{}", said.out);
    }
    // A number that no device can have is the driver's, or the crate's, to refuse.
    for arguments in [["--depth", "0"], ["--depth", "4097"], ["--block-size", "513"], ["--id", "1048576"]] {
        let said = ublkctl(&[&["add", "null"][..], &arguments].concat());
        assert_eq!((said.status, said.out.as_str()), (Some(1), ""), "{arguments:?}: {said:?}");
        assert!(said.error.starts_with("ublkctl add: "), "{said:?}");
    }
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn what_was_written_to_a_ram_disk_is_read_and_what_was_discarded_is_zeroes() {
    let disk = Program::start("ublkctl", &["add", "ram", "--size", "4M", "--block-size", "4096"]);
    assert_eq!(disk.attribute("queue/logical_block_size"), "4096");
    let (file, mut read) = (disk.open(), Aligned::filled(4096, 1));
    file.write_all_at(&Aligned::filled(4096, 7), 8192).unwrap();
    file.read_exact_at(&mut read, 8192).unwrap();
    assert!(read.iter().all(|byte| *byte == 7));
    file.read_exact_at(&mut read, 4096).unwrap();
    assert!(read.iter().all(|byte| *byte == 0));
    drop(file);
    assert_eq!(run(Command::new("blkdiscard").args(["-o", "8192", "-l", "4096", &disk.path])).status, Some(0));
    disk.open().read_exact_at(&mut read, 8192).unwrap();
    assert!(read.iter().all(|byte| *byte == 0));
    disk.stop();

    let disk = Program::start("ublkctl", &["add", "ram", "--size", "1M", "--read-only"]);
    assert_eq!(disk.attribute("ro"), "1");
    disk.stop();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_null_disk_forgets_what_is_written() {
    let disk = Program::start("ublkctl", &["add", "null", "--size", "1T"]);
    assert_eq!(disk.attribute("size"), (1_u64 << 31).to_string());
    let (file, mut read) = (disk.open(), Aligned::filled(4096, 1));
    file.write_all_at(&Aligned::filled(4096, 7), 1 << 39).unwrap();
    file.read_exact_at(&mut read, 1 << 39).unwrap();
    assert!(read.iter().all(|byte| *byte == 0));
    drop(file);
    disk.stop();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_supervisor_reads_a_line_when_the_disk_is_live_and_one_at_the_end() {
    let mut server = Command::new("ublkctl")
        .args(["add", "ram", "--size", "1M", "--id", "4711", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let live = lines.next().unwrap().unwrap();
    let pid = server.id();
    assert_eq!(
        live,
        format!(
            "{{\"id\":4711,\"block_device\":\"/dev/ublkb4711\",\"char_device\":\"/dev/ublkc4711\",\"pid\":{pid},\"queues\":1,\
             \"depth\":128,\"size_bytes\":1048576}}"
        )
    );
    // Nothing is waited for here.
    open_direct(HIGH).read_exact_at(&mut Aligned::filled(4096, 1), 0).unwrap();
    assert_eq!(printed(&["stop", "4711"]), "");
    assert_eq!(lines.next().unwrap().unwrap(), "{\"id\":4711,\"stopped\":\"stopped from outside\"}");
    assert!(server.wait().unwrap().success());
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn collect_deletes_what_nobody_serves_and_leaves_what_lives_or_waits() {
    let file = std::env::temp_dir().join(format!("ublkctl-{}", std::process::id()));
    File::create(&file).unwrap().set_len(1 << 20).unwrap();
    let path = file.to_str().unwrap();
    let alive = Program::start("ublkctl", &["add", "null", "--id", "4711"]);
    let dead = Program::start("ublkctl", &["add", "null", "--id", "4712"]);
    let waiting = Program::start("loop", &["--recovery", "plain", "--id", "4713", path]);
    for mut killed in [dead, waiting] {
        killed.process.kill().unwrap();
        killed.ended();
    }
    let mut control = Control::open().unwrap();
    for id in [4712, 4713] {
        while control.info(DeviceId::new(id)).unwrap().state() == State::LIVE {
            std::thread::yield_now();
        }
    }
    let said = printed(&["collect"]);
    assert_eq!(
        said,
        "4712 DEAD deleted\n4713 QUIESCED left: it waits for its next server (--recoverable deletes it)\n"
    );
    assert_eq!(printed(&["collect", "4711", "4712"]), "");
    let row = printed(&["collect", "4713", "--recoverable", "--json"]);
    assert_eq!(
        (member(&row, "state"), member(&row, "deleted"), member(&row, "number_free")),
        ("\"QUIESCED\"", "true", "true")
    );
    assert_eq!(nodes(), ["ublkb4711", "ublkc4711"]);
    alive.stop();
    fs::remove_file(&file).unwrap();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn collect_says_what_it_has_deleted_also_where_another_device_could_not_be() {
    let mut control = Control::open().unwrap();
    for id in 4711..4714 {
        control.add(&NewDevice::new().id(DeviceId::new(id))).unwrap();
    }
    let collect = Command::new("ublkctl").arg("collect").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Between the two looks it sleeps, and nowhere else.
    while !fs::read_to_string(format!("/proc/{}/wchan", collect.id())).unwrap().contains("nanosleep") {
        std::thread::yield_now();
    }
    let (node, kept) = ("/dev/ublkc4712", "/dev/kept");
    fs::rename(node, kept).unwrap();
    std::os::unix::fs::symlink(node, node).unwrap();
    let output = collect.wait_with_output().unwrap();
    fs::remove_file(node).unwrap();
    fs::rename(kept, node).unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert_eq!((output.status.code(), said[0].as_str()), (Some(1), "4711 DEAD deleted\n4713 DEAD deleted\n"));
    assert!(said[1].starts_with("ublkctl collect: ") && said[1].contains("ublkc4712"), "{said:?}");
    assert_eq!(printed(&["collect"]), "4712 DEAD deleted\n");
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn stop_and_delete_leave_a_disk_alone_that_is_in_use_unless_they_are_forced() {
    for command in ["stop", "delete"] {
        let disk = Program::start("ublkctl", &["add", "ram", "--size", "8M", "--id", "4711"]);
        // Before Linux 7.0 whoever has it exclusively is seen alone.
        let user = OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(&disk.path).unwrap();
        let refused = ublkctl(&[command, "4711"]);
        let sentence = format!("ublkctl {command}: /dev/ublkb4711 is open; --force stops it all the same\n");
        assert_eq!((refused.status, refused.error), (Some(1), sentence));
        assert!(control_sees_it_live());
        if command == "stop" {
            drop(user);
            // udev, or whoever else looks at a disk that was closed, may have it for a moment.
            while ublkctl(&[command, "4711"]).status != Some(0) {}
        } else {
            let forced = std::thread::spawn(|| ublkctl(&["delete", "4711", "--force"]));
            while control_sees_it_live() {
                std::thread::yield_now();
            }
            // It waits for the number to become free.
            drop(user);
            assert_eq!(forced.join().unwrap().status, Some(0));
        }
        disk.ended();
        assert_eq!(nodes(), [""; 0]);
    }
}

/// A live device that outlives its server, whose server takes a while for each write.
fn slow_to_write() -> Served {
    let device = quiet_device(2).max_io_bytes(64 << 10).recovery(Recovery::Plain).id(HIGH);
    serve(device, Params::new(Sectors::new(4096), Cache::None), |request: Request<'_>| {
        if request.operation() == Operation::WRITE {
            std::thread::sleep(Duration::from_millis(100));
        }
        request.complete();
    })
    .unwrap()
}

/// Has the disk open, with data in the page cache that the server has not been given.
fn dirtied(len: usize) -> File {
    let file = OpenOptions::new().write(true).open("/dev/ublkb4711").unwrap();
    file.write_all_at(&vec![0x5a; len], 0).unwrap();
    file
}

/// Why a disk that is open is left alone: the driver tells that it is, or it has to be found out, which did not do for this reason.
fn refusal(command: &str, why: &str) -> String {
    let told = Control::open().unwrap().features().unwrap().contains(Features::SAFE_STOP_DEV);
    let because = if told {
        "/dev/ublkb4711 is open; --force stops it all the same".to_owned()
    } else {
        format!("what was written to /dev/ublkb4711 could not be written back: {why}; --force gives it up")
    };
    format!("ublkctl {command}: {because}\n")
}

/// What is said where that is stopped all the same.
fn given_up(why: &str) -> String {
    format!("ublkctl: what was written to /dev/ublkb4711 could not be written back: {why}; it is given up\n")
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn what_is_not_written_back_in_time_is_a_refusal_and_given_up_by_force_alone_which_says_so() {
    let why = "its server was not done in 1 s";
    let served = slow_to_write();
    let user = dirtied(2 << 20);
    for command in ["stop", "delete"] {
        let refused = ublkctl(&[command, "4711", "--timeout", "1"]);
        assert_eq!((refused.status, refused.error), (Some(1), refusal(command, why)));
        assert!(control_sees_it_live());
        user.sync_all().unwrap();
        user.write_all_at(&vec![0x5a; 2 << 20], 0).unwrap();
    }
    let forced = ublkctl(&["stop", "4711", "--timeout", "1", "--force"]);
    assert_eq!((forced.status, forced.error), (Some(0), given_up(why)));
    user.sync_all().unwrap_err();
    drop(user);
    assert_eq!(served.join(), Ok(Stopped::FromOutside));
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_disk_that_cannot_be_opened_is_left_alone_unless_it_is_forced_or_has_no_node_and_nothing_to_lose() {
    let path = "/dev/ublkb4711";
    let served = slow_to_write();
    let user = dirtied(64 << 10);
    fs::remove_file(path).unwrap();
    for command in ["stop", "delete"] {
        let refused = ublkctl(&[command, "4711"]);
        assert_eq!((refused.status, refused.error), (Some(1), refusal(command, "it has no node")));
        assert!(control_sees_it_live());
    }
    let forced = ublkctl(&["stop", "4711", "--force"]);
    assert_eq!((forced.status, forced.error), (Some(0), given_up("it has no node")));
    user.sync_all().unwrap_err();
    drop(user);
    assert_eq!(served.join(), Ok(Stopped::FromOutside));

    let disk = Program::start("ublkctl", &["add", "ram", "--size", "8M", "--id", "4711"]);
    fs::remove_file(path).unwrap();
    assert_eq!(printed(&["stop", "4711"]), "");
    disk.ended();

    let disk = Program::start("ublkctl", &["add", "ram", "--size", "8M", "--id", "4711"]);
    fs::remove_file(path).unwrap();
    // It can be opened by nobody.
    std::os::unix::fs::symlink(path, path).unwrap();
    let stopped = ublkctl(&["stop", "4711"]);
    if !Control::open().unwrap().features().unwrap().contains(Features::SAFE_STOP_DEV) {
        let start = "ublkctl stop: whether /dev/ublkb4711 is in use could not be told: it cannot be opened: ";
        assert!(stopped.status == Some(1) && stopped.error.starts_with(start), "{stopped:?}");
        assert!(control_sees_it_live());
        assert_eq!(printed(&["stop", "4711", "--force"]), "");
    } else {
        assert_eq!((stopped.status, stopped.error.as_str()), (Some(0), ""));
    }
    disk.ended();
    fs::remove_file(path).unwrap();
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_disk_that_waits_for_its_next_server_with_what_was_written_is_kept_for_it_unless_it_is_forced() {
    let file = std::env::temp_dir().join(format!("ublkctl-waits-{}", std::process::id()));
    File::create(&file).unwrap().set_len(1 << 20).unwrap();
    let path = file.to_str().unwrap();
    let wait = || {
        while control_sees_it_live() {
            std::thread::yield_now();
        }
        assert_eq!(Control::open().unwrap().info(HIGH).unwrap().state(), State::QUIESCED);
    };
    let mut server = Program::start("loop", &["--id", "4711", "--recovery", "plain", path]);
    let user = dirtied(1 << 20);
    server.process.kill().unwrap();
    server.ended();
    wait();
    for command in ["stop", "delete"] {
        let refused = ublkctl(&[command, "4711"]);
        assert_eq!((refused.status, refused.error), (Some(1), refusal(command, "nobody serves it")));
        wait();
    }
    let mut server = Program::start("loop", &["--recover", "4711", path]);
    user.sync_all().unwrap();
    assert!(fs::read(&file).unwrap().iter().all(|byte| *byte == 0x5a));

    user.write_all_at(&vec![0; 1 << 20], 0).unwrap();
    server.process.kill().unwrap();
    server.ended();
    wait();
    let forced = std::thread::spawn(|| ublkctl(&["delete", "4711", "--force"]));
    while Control::open().unwrap().info(HIGH).is_ok_and(|info| info.state() != State::DEAD) {
        std::thread::yield_now();
    }
    user.sync_all().unwrap_err();
    // It waits for the number to become free.
    drop(user);
    let forced = forced.join().unwrap();
    assert_eq!((forced.status, forced.error), (Some(0), given_up("nobody serves it")));
    assert_eq!(nodes(), [""; 0]);
    fs::remove_file(&file).unwrap();
}

/// The letter by which the kernel says what a worker of io_uring's, on behalf of this process, does.
fn worker_state(process: u32) -> Option<char> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).ok()?;
    let stats = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
    // Behind the number and the name in parentheses.
    stats.filter(|stat| stat.contains("(iou-wrk-")).find_map(|stat| stat.rsplit(") ").next()?.chars().next())
}

fn kill(process: u32, signal: &str) {
    assert!(Command::new("kill").args([signal, &process.to_string()]).status().unwrap().success());
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_device_that_its_own_server_deletes_is_deleted_and_the_next_of_its_number_is_not() {
    for successor in [false, true] {
        let held = HeldWrite::new(HIGH);
        let delete = Command::new("ublkctl")
            .args(["delete", "4711", "--force"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The stop is on its way, and waits for the server.
        let mut waits = 0;
        while waits < 20 {
            waits = if worker_state(delete.id()) == Some('D') { waits + 1 } else { 0 };
            std::thread::sleep(Duration::from_millis(10));
        }
        kill(delete.id(), "-STOP");
        drop(held.release);
        assert!(held.client.join().unwrap().is_ok());
        assert_eq!(held.served.join(), Ok(Stopped::FromOutside));
        assert!(!exists(&mut Control::open().unwrap(), HIGH));
        let next = successor.then(|| Program::start("ublkctl", &["add", "null", "--id", "4711"]));
        kill(delete.id(), "-CONT");
        let output = delete.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), said.as_str()), (Some(0), ""), "successor: {successor}");
        if let Some(next) = next {
            assert!(control_sees_it_live());
            next.stop();
        }
        assert_eq!(nodes(), [""; 0]);
    }
}

fn control_sees_it_live() -> bool {
    Control::open().unwrap().info(HIGH).is_ok_and(|info| info.state() == State::LIVE)
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn resize_changes_the_size_and_quiesce_is_refused_where_it_was_not_asked_for() {
    let offered = Control::open().unwrap().features().unwrap();
    let disk = Program::start("ublkctl", &["add", "null", "--size", "8M", "--id", "4711"]);
    if offered.contains(Features::UPDATE_SIZE) {
        assert_eq!(printed(&["resize", "4711", "4M"]), "");
        assert_eq!(disk.attribute("size"), "8192");
    } else {
        let refused = ublkctl(&["resize", "4711", "4M"]);
        assert!(refused.status == Some(1) && refused.error.contains("since Linux 6.16"), "{refused:?}");
    }
    let refused = ublkctl(&["quiesce", "4711"]);
    assert!(refused.status == Some(1) && refused.error.contains("EOPNOTSUPP"), "{refused:?}");
    disk.stop();
    assert_eq!(nodes(), [""; 0]);
}

/// What a device that can be quiesced is added with, beside what makes it quiet.
fn quiescing() -> Features {
    let offered = Control::open().unwrap().features().unwrap();
    let quiet = Features::NO_AUTO_PART_SCAN;
    if offered.contains(quiet) { Features::QUIESCE | quiet } else { Features::QUIESCE }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn quiesce_ends_when_the_server_has_let_go_and_not_before() {
    if !Control::open().unwrap().features().unwrap().contains(Features::QUIESCE) {
        let refused = ublkctl(&["quiesce", "4711"]);
        assert!(refused.status == Some(1) && refused.error.starts_with("ublkctl quiesce: "), "{refused:?}");
        return;
    }
    for released_meanwhile in [true, false] {
        // One tag of four is the server's.
        let held = HeldWrite::of(quiet_device(4).id(HIGH).recovery(Recovery::Plain).features(quiescing()));
        if released_meanwhile {
            let quiesced = std::thread::spawn(|| ublkctl(&["quiesce", "4711"]));
            std::thread::sleep(Duration::from_millis(500));
            assert!(control_sees_it_live() && !quiesced.is_finished());
            drop(held.release);
            let quiesced = quiesced.join().unwrap();
            assert_eq!((quiesced.status, quiesced.error.as_str()), (Some(0), ""));
        } else {
            let late = ublkctl(&["quiesce", "4711", "--timeout", "1"]);
            let sentence = format!("its server, process {}, has not let go of it in 1 s", std::process::id());
            assert!(late.status == Some(1) && late.error.contains(&sentence), "{late:?}");
            assert!(control_sees_it_live());
            drop(held.release);
            assert_eq!(printed(&["quiesce", "4711"]), "");
        }
        assert_eq!(Control::open().unwrap().info(HIGH).unwrap().state(), State::QUIESCED);
        assert!(held.client.join().unwrap().is_ok());
        assert_eq!(held.served.join(), Ok(Stopped::HandedOver));
        assert_eq!(printed(&["delete", "4711"]), "");
        assert_eq!(nodes(), [""; 0]);
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_stop_that_is_not_answered_in_time_says_so_and_is_done_later() {
    let held = HeldWrite::new(HIGH);
    let mut stop = Command::new("ublkctl")
        .args(["stop", "4711", "--force", "--timeout", "1"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut errors = BufReader::new(stop.stderr.take().unwrap());
    errors.read_line(&mut said).unwrap();
    assert!(
        said.starts_with("ublkctl stop: the driver did not answer UBLK_U_CMD_STOP_DEV for device 4711 in 1000 ms"),
        "{said}"
    );
    drop(held.release);
    assert!(held.client.join().unwrap().is_ok());
    assert_eq!(held.served.join(), Ok(Stopped::FromOutside));
    errors.read_to_string(&mut said).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert_eq!(stop.wait().unwrap().code(), Some(1));
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[ignore = "opens the control device to everybody: run `cargo xtask test`"]
fn a_device_of_a_user_without_rights_is_listed_and_a_user_without_rights_is_told() {
    const NAME: &str = "a_device_of_a_user_without_rights_is_listed_and_a_user_without_rights_is_told";
    if is_nobody() {
        let id = add_unprivileged().unwrap();
        // The node is root's until udev gives it to its owner, and udev does not run here.
        let row = listed(id).unwrap();
        assert!(member(&row, "error").contains("EACCES") && member(&row, "stale") == "null", "{row}");
        return;
    }
    let refused = run(Command::new("ublkctl").arg("list").uid(NOBODY).gid(NOBODY));
    assert_eq!((refused.status, refused.out.as_str()), (Some(1), ""));
    assert!(refused.error.starts_with("ublkctl list: cannot open /dev/ublk-control: EACCES"), "{refused:?}");

    let id = {
        let _opened = open_to_all();
        run_as_nobody(NAME);
        let added = nodes();
        assert_eq!(added.len(), 1);
        DeviceId::new(added[0].strip_prefix("ublkc").unwrap().parse().unwrap())
    };
    let row = listed(id).unwrap();
    let described = printed(&["info", &id.to_string()]);
    let deleted = ublkctl(&["delete", &id.to_string()]);
    assert_eq!((member(&row, "state"), member(&row, "error"), member(&row, "stale")), ("\"DEAD\"", "null", "true"));
    assert!(row.contains("UBLK_F_UNPRIVILEGED_DEV"), "{row}");
    assert!(described.contains(&format!("owner_uid                          {NOBODY} ")), "{described}");
    // Each command to it carries the path of its node.
    assert_eq!((deleted.status, deleted.error.as_str()), (Some(0), ""));
    assert_eq!(fs::exists(format!("/dev/ublkc{id}")).ok(), Some(false));
}
