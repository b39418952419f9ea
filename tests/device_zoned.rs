// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices with zones on a real driver: `zoned` as whoever calls it sees it, what tools for zoned disks make of it, and a target of
//! the test's own for what no program does.
#![cfg_attr(not(have_ublk), allow(dead_code, reason = "the tests are ignored, not left out"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]

mod harness;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use harness::program::Program;
use harness::{Aligned, Served, nodes, serve};
use ublk::mode::{self, UserCopied};
use ublk::{
    Cache, Control, Errno, Error, Features, NewDevice, Operation, Params, Request, Sectors, Zone, ZoneCondition, Zones,
};

/// Sectors of a zone.
const ZONE: u64 = 8192;

/// Bytes of a zone.
const ZONE_BYTES: u64 = ZONE * 512;

/// Runs a program; whether it succeeded, and what it printed.
fn output(program: &str, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let printed = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.success(), printed.into_owned())
}

/// Runs a program that has to succeed; what it printed.
fn run(program: &str, arguments: &[&str]) -> String {
    let (succeeded, printed) = output(program, arguments);
    assert!(succeeded, "{program} {}:\n{printed}", arguments.join(" "));
    printed
}

/// The modes of `zoned` that this driver has. The others are refused by name, and leave nothing.
fn modes() -> Vec<&'static str> {
    let offered = Control::open().unwrap().features().unwrap();
    let needed = [
        ("user-copy", Features::USER_COPY),
        ("zero-copy", Features::SUPPORT_ZERO_COPY),
        ("auto-register", Features::AUTO_BUF_REG),
    ];
    let mut modes = Vec::new();
    for (mode, feature) in needed {
        if offered.contains(feature) {
            modes.push(mode);
        } else {
            let (succeeded, printed) = output("zoned", &["--mode", mode]);
            assert!(!succeeded && printed.contains("since Linux 6.1"), "{mode}: {printed}");
            assert_eq!(nodes(), [""; 0]);
        }
    }
    modes
}

/// A line of `blkzone report`, of whose numbers only the last is not in sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reported {
    start: u64,
    len: u64,
    pointer: u64,
    condition: u8,
}

fn reported(path: &str) -> Vec<Reported> {
    let number = |line: &str, name: &str| {
        let (_, rest) = line.split_once(name).unwrap_or_else(|| panic!("no {name} in {line}"));
        let text = rest.trim_start();
        let end = text.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(text.len());
        let digits = text[..end].strip_prefix("0x");
        digits.map_or_else(|| text[..end].parse(), |digits| u64::from_str_radix(digits, 16)).unwrap()
    };
    let report = run("blkzone", &["report", path]);
    let lines = report.lines().map(|line| Reported {
        start: number(line, "start:"),
        len: number(line, "len"),
        pointer: number(line, "wptr"),
        condition: u8::try_from(number(line, "zcond:")).unwrap(),
    });
    lines.collect()
}

/// Where the write pointer of a zone is, in its zone, and its condition.
fn zone(path: &str, index: usize) -> (u64, ZoneCondition) {
    let zone = reported(path)[index];
    assert_eq!((zone.start, zone.len), (u64::try_from(index).unwrap() * ZONE, ZONE));
    (zone.pointer, ZoneCondition::from_raw(zone.condition))
}

/// What `blkzone` does with a zone.
fn manage(action: &str, path: &str, index: u64) {
    run("blkzone", &[action, "-o", &(index * ZONE).to_string(), "-l", &ZONE.to_string(), path]);
}

/// Bytes that say where they stand.
fn pattern(len: usize, offset: u64) -> Aligned {
    let mut bytes = Aligned::filled(len, 0);
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::try_from((offset + u64::try_from(index).unwrap()) / 512 % 251).unwrap() ^ 0x5a;
    }
    bytes
}

fn errno<T>(result: std::io::Result<T>) -> Option<Errno> {
    result.err().and_then(|error| error.raw_os_error()).map(Errno::from_raw)
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn blkzone_reports_opens_closes_finishes_and_resets_in_each_mode() {
    for mode in modes() {
        println!("{mode}");
        let disk = Program::start("zoned", &["--size", "512M", "--queues", "2", "--mode", mode]);
        assert_eq!(disk.attribute("queue/zoned"), "host-managed");
        assert_eq!(disk.attribute("queue/nr_zones"), "128");
        // More zones than one call copies.
        let all = reported(&disk.path);
        assert_eq!(all.len(), 128);
        for (index, zone) in (0..).zip(&all) {
            assert_eq!(*zone, Reported { start: index * ZONE, len: ZONE, pointer: 0, condition: 1 });
        }

        let file = disk.open();
        let wanted = pattern(192 << 10, 0);
        file.write_all_at(&wanted, 0).unwrap();
        assert_eq!(zone(&disk.path, 0), (384, ZoneCondition::IMPLICITLY_OPEN));
        // Some was written, and what is behind it is zeroes.
        let mut read = Aligned::filled(256 << 10, 0xee);
        file.read_exact_at(&mut read, 0).unwrap();
        assert!(read[..wanted.len()] == wanted[..] && read[wanted.len()..].iter().all(|byte| *byte == 0));
        file.read_exact_at(&mut read, 5 * ZONE_BYTES).unwrap();
        assert!(read.iter().all(|byte| *byte == 0));

        manage("close", &disk.path, 0);
        assert_eq!(zone(&disk.path, 0), (384, ZoneCondition::CLOSED));
        manage("open", &disk.path, 0);
        assert_eq!(zone(&disk.path, 0), (384, ZoneCondition::EXPLICITLY_OPEN));
        file.write_all_at(&pattern(4096, 192 << 10), 192 << 10).unwrap();
        assert_eq!(zone(&disk.path, 0), (392, ZoneCondition::EXPLICITLY_OPEN));
        manage("open", &disk.path, 127);
        assert_eq!(zone(&disk.path, 127), (0, ZoneCondition::EXPLICITLY_OPEN));
        manage("close", &disk.path, 127);
        assert_eq!(zone(&disk.path, 127), (0, ZoneCondition::EMPTY));

        manage("finish", &disk.path, 0);
        assert_eq!(zone(&disk.path, 0), (ZONE, ZoneCondition::FULL));
        assert_eq!(errno(file.write_at(&pattern(4096, 0), 196 << 10)), Some(Errno::EIO), "a full zone");
        manage("reset", &disk.path, 0);
        assert_eq!(zone(&disk.path, 0), (0, ZoneCondition::EMPTY));
        file.read_exact_at(&mut read, 0).unwrap();
        assert!(read.iter().all(|byte| *byte == 0), "nothing is left of what was there before");

        // All of a zone, and then all zones.
        for at in (ZONE_BYTES..2 * ZONE_BYTES).step_by(1 << 20) {
            file.write_all_at(&pattern(1 << 20, at), at).unwrap();
        }
        assert_eq!(zone(&disk.path, 1), (ZONE, ZoneCondition::FULL));
        run("blkzone", &["reset", &disk.path]);
        assert_eq!(reported(&disk.path), all);
        drop(file);
        disk.stop();
    }
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_write_elsewhere_and_a_zone_too_many_are_refused_by_their_own_errnos() {
    let disk = Program::start("zoned", &["--max-open", "2", "--max-active", "3"]);
    assert_eq!(
        (disk.attribute("queue/max_open_zones"), disk.attribute("queue/max_active_zones")),
        ("2".into(), "3".into())
    );
    let file = disk.open();
    let write = |zone: u64| errno(file.write_at(&pattern(4096, 0), zone * ZONE_BYTES));
    assert_eq!(
        errno(file.write_at(&pattern(4096, 0), 9 * ZONE_BYTES + 4096)),
        Some(Errno::EIO),
        "not at the write pointer"
    );
    // A zone that was opened by a write makes room for the next.
    assert_eq!((write(0), write(1), write(2)), (None, None, None));
    assert_eq!(zone(&disk.path, 0), (8, ZoneCondition::CLOSED));
    assert_eq!(zone(&disk.path, 2), (8, ZoneCondition::IMPLICITLY_OPEN));
    assert_eq!(write(3), Some(Errno::EOVERFLOW), "three are active");
    manage("finish", &disk.path, 0);
    // The block layer has a write fail after one that did, until it was told where the write pointer is.
    assert_eq!(zone(&disk.path, 3), (0, ZoneCondition::EMPTY));
    assert_eq!(write(3), None);
    // One that was opened by name does not.
    manage("reset", &disk.path, 3);
    manage("open", &disk.path, 1);
    manage("open", &disk.path, 2);
    assert_eq!(write(4), Some(Errno::ETOOMANYREFS), "two are open");
    drop(file);
    disk.stop();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn conventional_zones_are_written_in_any_order_and_never_reset() {
    let disk = Program::start("zoned", &["--conventional", "2"]);
    let report = run("blkzone", &["report", &disk.path]);
    assert_eq!(report.matches("CONVENTIONAL").count(), 2, "{report}");
    assert_eq!(report.matches("SEQ_WRITE_REQUIRED").count(), 62, "{report}");
    let file = disk.open();
    for at in [2 << 20, 0, 3 << 20, 1 << 20] {
        file.write_all_at(&pattern(4096, at), at).unwrap();
    }
    file.write_all_at(&pattern(4096, 0), 2 * ZONE_BYTES).unwrap();
    // It passes over what cannot be reset.
    let (_, printed) = output("blkzone", &["reset", "-o", "0", "-l", &ZONE.to_string(), &disk.path]);
    println!("{printed}");
    run("blkzone", &["reset", "-o", &(2 * ZONE).to_string(), &disk.path]);
    let mut read = Aligned::filled(4096, 0);
    file.read_exact_at(&mut read, 3 << 20).unwrap();
    assert!(read[..] == pattern(4096, 3 << 20)[..]);
    assert_eq!(zone(&disk.path, 2), (0, ZoneCondition::EMPTY));
    drop(file);
    disk.stop();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn fio_verifies_what_it_wrote_zone_by_zone_in_each_mode_slow() {
    for mode in modes() {
        let options =
            ["--size", "128M", "--conventional", "1", "--max-open", "8", "--max-active", "12", "--queues", "2"];
        let disk = Program::start("zoned", &[&options[..], &["--mode", mode]].concat());
        for pattern in ["write", "randwrite"] {
            let printed = run(
                "fio",
                &[
                    "--name=job",
                    &format!("--filename={}", disk.path),
                    &format!("--rw={pattern}"),
                    "--zonemode=zbd",
                    "--direct=1",
                    "--ioengine=libaio",
                    "--iodepth=16",
                    "--bs=64k",
                    "--offset=4M",
                    "--size=28M",
                    "--max_open_zones=6",
                    "--verify=crc32c",
                    "--do_verify=1",
                    "--verify_fatal=1",
                ],
            );
            assert!(printed.contains("err= 0"), "{printed}");
            println!("{mode} {pattern}: {}", printed.lines().find(|line| line.contains("WRITE:")).unwrap_or_default());
        }
        disk.stop();
    }
}

// btrfs, which has its data written by ZONE_APPEND.

/// Loads the kernel's btrfs, where it is a module.
fn load_btrfs() {
    let has_it = || fs::read_to_string("/proc/filesystems").unwrap().contains("btrfs");
    if has_it() {
        return;
    }
    let folder = fs::read_dir("/usr/lib/xtask/tests/modules").expect("a guest of `cargo xtask test` has the module");
    let mut modules: Vec<_> = folder.map(|entry| entry.unwrap().path()).collect();
    modules.sort();
    for module in modules {
        // One that is there already is refused.
        output("insmod", &[module.to_str().unwrap()]);
    }
    assert!(has_it());
}

/// Makes a btrfs, writes to it, and finds all of it again when it is mounted once more.
fn btrfs_keeps_files(disk: &str) {
    load_btrfs();
    run("mkfs.btrfs", &["-f", "-O", "zoned", "-d", "single", "-m", "single", disk]);
    let place = format!("/tmp/btrfs-{}", std::process::id());
    fs::create_dir(&place).unwrap();
    run("mount", &["-t", "btrfs", disk, &place]);
    let content = |number: usize| pattern(3 << 20, u64::try_from(number).unwrap() << 20);
    let file = |number: usize| Path::new(&place).join(format!("file{number}"));
    for number in 0..6 {
        fs::write(file(number), &content(number)[..]).unwrap();
    }
    run("sync", &[]);
    // A place that was written is written elsewhere.
    fs::write(file(2), &content(20)[..]).unwrap();
    fs::remove_file(file(3)).unwrap();
    run("umount", &[&place]);
    run("mount", &["-t", "btrfs", disk, &place]);
    for number in [0, 1, 4, 5] {
        assert!(fs::read(file(number)).unwrap() == content(number)[..], "file {number}");
    }
    assert!(fs::read(file(2)).unwrap() == content(20)[..]);
    assert!(!file(3).exists());
    run("umount", &[&place]);
    fs::remove_dir(&place).unwrap();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_filesystem_for_zones_keeps_its_files_in_the_newest_mode_slow() {
    // In user copy it does so in the test of appends below.
    let all = modes();
    let mode = all.last().unwrap();
    println!("{mode}");
    let disk = Program::start("zoned", &["--size", "400M", "--mode", mode]);
    btrfs_keeps_files(&disk.path);
    disk.stop();
}

// A target of the test's own: all zones have a write pointer, data is copied by call, and it can be told to answer wrongly.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reports {
    AsAsked,
    /// All but the last.
    Short,
    Nothing,
    /// Zones of half the size.
    Smaller,
}

struct Target {
    reports: Reports,
    /// The write pointer of each zone, and the bytes of the disk.
    zones: Mutex<(Vec<u64>, Vec<u8>)>,
    asked: AtomicU64,
    appends: AtomicU64,
}

impl Target {
    fn new(sectors: u64, reports: Reports) -> Target {
        let starts = (0..sectors.div_ceil(ZONE)).map(|index| index * ZONE).collect();
        let memory = vec![0; usize::try_from(sectors * 512).unwrap()];
        Target { reports, zones: Mutex::new((starts, memory)), asked: AtomicU64::new(0), appends: AtomicU64::new(0) }
    }

    fn report<M: UserCopied>(&self, request: &mut Request<'_, M>) {
        let zones = self.zones.lock().unwrap();
        let size = if self.reports == Reports::Smaller { ZONE / 2 } else { ZONE };
        let report = (0_u64..).zip(&zones.0).map(|(index, pointer)| {
            let condition = match pointer - index * ZONE {
                0 => ZoneCondition::EMPTY,
                ZONE => ZoneCondition::FULL,
                _ => ZoneCondition::CLOSED,
            };
            Zone::sequential(Sectors::new(index * size), Sectors::new(size))
                .written_to(condition, Sectors::new(*pointer))
        });
        let from = usize::try_from(request.start().raw() / ZONE).unwrap();
        let count = match self.reports {
            Reports::AsAsked | Reports::Smaller => usize::MAX,
            Reports::Short => usize::try_from(request.zone_count()).unwrap() - 1,
            Reports::Nothing => 0,
        };
        assert!(request.zone_count() > 0);
        assert_eq!(request.report_zones([Zone::conventional(Sectors::new(0), Sectors::new(0))]), Err(Errno::EINVAL));
        assert_eq!(request.write_at(0, &[0; 64]), Err(Errno::EINVAL));
        request.report_zones(report.skip(from).take(count)).unwrap();
    }

    fn answer<M: UserCopied>(&self, mut request: Request<'_, M>) {
        let (start, len) = (request.start().raw(), usize::try_from(request.len_bytes()).unwrap());
        let zone = usize::try_from(start / ZONE).unwrap();
        if request.operation() == Operation::REPORT_ZONES {
            self.asked.fetch_add(1, Ordering::Relaxed);
            self.report(&mut request);
            return request.complete();
        }
        assert_eq!(request.report_zones([]), Err(Errno::EINVAL));
        let mut zones = self.zones.lock().unwrap();
        let (pointers, memory) = &mut *zones;
        let place = |sector: u64| usize::try_from(sector * 512).unwrap();
        match request.operation() {
            Operation::READ => request.write_at(0, &memory[place(start)..place(start) + len]).unwrap(),
            operation @ (Operation::WRITE | Operation::ZONE_APPEND) => {
                let at = pointers[zone];
                request.read_at(0, &mut memory[place(at)..place(at) + len]).unwrap();
                pointers[zone] += u64::try_from(len / 512).unwrap();
                if operation == Operation::ZONE_APPEND {
                    self.appends.fetch_add(1, Ordering::Relaxed);
                    return request.complete_append(Sectors::new(at));
                }
                if at != start {
                    return request.fail(Errno::EIO);
                }
            }
            Operation::ZONE_RESET => pointers[zone] = start,
            Operation::ZONE_RESET_ALL => (0..).zip(pointers).for_each(|(index, pointer)| *pointer = index * ZONE),
            Operation::ZONE_FINISH => pointers[zone] = start + ZONE,
            _ => {}
        }
        request.complete();
    }
}

fn zoned_device() -> NewDevice<mode::UserCopy> {
    NewDevice::new().mode::<mode::UserCopy>().zoned().depth(16)
}

fn serve_target(sectors: u64, reports: Reports) -> (Arc<Target>, Result<Served, Error>) {
    serve_as(zoned_device(), sectors, reports)
}

fn serve_as<M: UserCopied>(
    device: NewDevice<M>,
    sectors: u64,
    reports: Reports,
) -> (Arc<Target>, Result<Served, Error>) {
    let target = Arc::new(Target::new(sectors, reports));
    let params =
        Params::new(Sectors::new(sectors), Cache::None).zoned(Zones::new(Sectors::new(ZONE), Sectors::new(256)));
    let served = serve(device, params, {
        let target = Arc::clone(&target);
        move |request| target.answer(request)
    });
    (target, served)
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn an_append_is_answered_with_its_place_and_found_there_slow() {
    let mut devices = vec![zoned_device()];
    if Control::open().unwrap().features().unwrap().contains(Features::BATCH_IO) {
        devices.push(zoned_device().batch());
    }
    for device in devices {
        let (target, served) = serve_as(device, 100 * ZONE, Reports::AsAsked);
        let served = served.unwrap();
        btrfs_keeps_files(&served.block_path());
        let appends = target.appends.load(Ordering::Relaxed);
        println!("figure: {appends} appends");
        assert!(appends > 18);
        served.stop().unwrap();
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_report_that_comes_short_fails() {
    // The driver would ask for the rest, and put it in front; and for ever where it gets nothing.
    for reports in [Reports::Short, Reports::Nothing] {
        let (target, served) = serve_target(8 * ZONE, reports);
        assert_eq!(refused(served), Errno::EIO, "{reports:?}");
        assert_eq!(target.asked.load(Ordering::Relaxed), 1, "{reports:?}");
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn zones_that_do_not_make_up_the_disk_end_the_start() {
    let (_, served) = serve_target(8 * ZONE, Reports::Smaller);
    assert_eq!(refused(served), Errno::ENODEV);
    // Of these nothing is sent: the driver would never ask for the last, and the block layer miss it.
    let (_, served) = serve_target(8 * ZONE + ZONE / 2, Reports::AsAsked);
    assert!(matches!(served, Err(Error::Invalid { what: "a zoned disk is a whole number of zones" })));
}

/// Why the device was not started; nothing is left of it.
fn refused(served: Result<Served, Error>) -> Errno {
    match served {
        Err(Error::Control { errno, .. }) => {
            assert_eq!(nodes(), [""; 0]);
            errno
        }
        Err(error) => panic!("{error}"),
        Ok(served) => {
            served.stop().unwrap();
            panic!("it was started");
        }
    }
}
