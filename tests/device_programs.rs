// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ramdisk` as whoever calls it sees it: a program on the PATH, its block device, and what tools make of that.
#![cfg_attr(not(have_ublk), allow(dead_code, reason = "the tests are ignored, not left out"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]

mod harness;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use harness::program::Program;
use harness::{Aligned, exists, nodes, serve};
use ublk::{Cache, Control, DeviceId, Errno, NewDevice, Operation, Params, Request, Sectors};

/// `ramdisk`, not started yet.
fn ramdisk(arguments: &[&str]) -> Command {
    let mut command = Command::new("ramdisk");
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs a program to its end.
fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Runs a program that has to succeed; what it printed.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = output(Command::new(program).args(arguments));
    let printed = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {}\n{printed}", arguments.join(" "), output.status);
    printed.into_owned()
}

/// A RAM disk that can be used.
fn start(arguments: &[&str]) -> Program {
    Program::start("ramdisk", arguments)
}

/// Bytes of memory that a server has.
fn resident_bytes(disk: &Program) -> u64 {
    let status = disk.about("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

/// 4096 bytes at a block, which say where they stand and `mark`.
fn block(number: u64, mark: u64) -> Aligned {
    let mut bytes = Aligned::filled(4096, 0);
    for (index, word) in bytes.chunks_exact_mut(8).enumerate() {
        let word_number = u64::try_from(index).unwrap();
        word.copy_from_slice(&(number * 512 + word_number).wrapping_mul(mark | 1).to_ne_bytes());
    }
    bytes
}

fn read_block(disk: &File, number: u64) -> Aligned {
    let mut bytes = Aligned::filled(4096, 0xee);
    disk.read_exact_at(&mut bytes, number * 4096).unwrap();
    bytes
}

/// The kernel's messages from now on.
struct KernelLog(File);

impl KernelLog {
    /// What no server may make the kernel say.
    const ALARMS: [&str; 6] = ["WARNING:", "BUG:", "Oops", "general protection", "blocked for more than", "refcount_t"];

    fn from_now_on() -> KernelLog {
        let mut log =
            KernelLog(OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg").unwrap());
        log.news();
        log
    }

    /// Each read is one record. An error other than "nothing more" is a gap, behind which it goes on.
    fn news(&mut self) -> Vec<String> {
        let mut records = Vec::new();
        let mut record = [0; 8192];
        loop {
            match self.0.read(&mut record) {
                Ok(len) => records.push(String::from_utf8_lossy(&record[..len]).into_owned()),
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(_) => return records,
            }
        }
    }

    fn assert_quiet(&mut self) {
        let news = self.news();
        let alarm = news.iter().find(|record| KernelLog::ALARMS.iter().any(|alarm| record.contains(alarm)));
        assert_eq!(alarm, None);
    }
}

/// The running programs of this name.
fn processes(name: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    entries
        .filter(|path| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name))
        .map(|path| path.display().to_string())
        .collect()
}

// What it refuses.

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_wrong_option_is_status_2_with_the_usage_and_makes_no_device() {
    let wrong: [&[&str]; 10] = [
        &["--sizes", "1M"],
        &["disk"],
        &["--size"],
        &["--size", "much"],
        &["--size", "-1"],
        &["--size", "1MM"],
        &["--size", "99999999999999999999"],
        &["--queues", "65536"],
        &["--depth", "1.5"],
        &["--read-only", "--id"],
    ];
    for arguments in wrong {
        let output = output(&mut ramdisk(arguments));
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.starts_with("ramdisk: ") && error.contains("usage: ramdisk"), "{arguments:?}: {error}");
        assert_eq!(output.stdout, b"", "{arguments:?}");
    }
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_number_that_no_disk_can_have_is_a_failure_that_says_so_and_makes_no_device() {
    let wrong: [&[&str]; 9] = [
        &["--size", "0"],
        &["--size", "513"],
        &["--size", "512", "--block-size", "4096"],
        &["--block-size", "513"],
        &["--block-size", "256"],
        &["--queues", "0"],
        &["--depth", "0"],
        &["--depth", "4097"],
        &["--id", "1048576"],
    ];
    for arguments in wrong {
        let output = output(&mut ramdisk(arguments));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(matches!(output.status.code(), Some(1 | 2)), "{arguments:?}: {} {error}", output.status);
        assert!(error.starts_with("ramdisk: "), "{arguments:?}: {error}");
        assert_eq!(output.stdout, b"", "{arguments:?}");
    }
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn an_id_that_is_taken_is_a_failure_that_names_it_and_the_first_serves_on() {
    let first = start(&["--size", "1M", "--id", "7"]);
    assert_eq!(first.path, "/dev/ublkb7");
    first.open().write_all_at(&block(3, 5), 3 * 4096).unwrap();

    let second = output(&mut ramdisk(&["--size", "1M", "--id", "7"]));
    let error = String::from_utf8(second.stderr).unwrap();
    assert_eq!((second.status.code(), second.stdout), (Some(1), Vec::new()), "{error}");
    assert!(error.contains("UBLK_U_CMD_ADD_DEV") && error.contains("EEXIST"), "{error}");

    assert_eq!(*read_block(&first.open(), 3), *block(3, 5));
    first.stop();
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_read_only_disk_is_read_and_refuses_writes() {
    let disk = start(&["--size", "1M", "--read-only"]);
    assert_eq!(disk.attribute("ro"), "1");
    let mut bytes = Aligned::filled(4096, 1);
    File::open(&disk.path).unwrap().read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0));
    // Newer kernels refuse the opening, older ones the write.
    let written = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(&disk.path)
        .and_then(|file| file.write_all_at(&block(0, 1), 0));
    let errno = written.unwrap_err().raw_os_error().unwrap();
    assert!([libc::EPERM, libc::EACCES, libc::EROFS].contains(&errno), "errno {errno}");
    let discarded = output(Command::new("blkdiscard").arg(&disk.path));
    assert!(!discarded.status.success());
    disk.stop();
}

// What it is.

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn help_goes_to_standard_output_and_makes_no_device() {
    for option in ["--help", "-h"] {
        let output = output(&mut ramdisk(&[option]));
        assert!(output.status.success());
        assert!(String::from_utf8(output.stdout).unwrap().starts_with("usage: ramdisk"));
        assert_eq!(output.stderr, b"");
    }
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn the_path_stands_alone_on_the_first_line_and_the_device_can_be_used_by_then() {
    let disk = start(&[]);
    // Nothing is waited for here.
    let file = disk.open();
    file.write_all_at(&block(9, 1), 9 * 4096).unwrap();
    assert_eq!(*read_block(&file, 9), *block(9, 1));
    assert_eq!(nodes(), [format!("ublkb{}", disk.id()), format!("ublkc{}", disk.id())]);
    // 256M unless said otherwise.
    assert_eq!(disk.attribute("size"), "524288");
    drop(file);
    disk.stop();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn options_are_what_the_block_layer_reports() {
    let disk = start(&["--size", "17M", "--block-size", "4096", "--queues", "2", "--depth", "32", "--id", "11"]);
    assert_eq!(disk.path, "/dev/ublkb11");
    assert_eq!(disk.attribute("size"), (17 * 2048).to_string());
    assert_eq!(disk.attribute("queue/logical_block_size"), "4096");
    let queues = fs::read_dir("/sys/block/ublkb11/mq").unwrap().count();
    let info = Control::open().unwrap().info(DeviceId::new(11)).unwrap();
    assert_eq!((queues, info.depth()), (info.queues().into(), 32));
    assert_eq!(info.server_process(), Some(disk.process.id()));
    // Half of a block is not to be had.
    let half = disk.open().read_exact_at(&mut Aligned::filled(4096, 0)[..512], 512);
    assert_eq!(half.unwrap_err().raw_os_error(), Some(libc::EINVAL));
    disk.stop();

    for block_size in ["512", "1024", "2048"] {
        let disk = start(&["--size", "1M", "--block-size", block_size]);
        assert_eq!(disk.attribute("queue/logical_block_size"), block_size);
        disk.stop();
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn every_sector_of_an_odd_size_is_there_and_nothing_behind_it() {
    // No whole number of the chunks that it keeps: 195 sectors, each written alone, and read in one go.
    let disk = start(&["--size", "99840"]);
    let file = disk.open();
    let mut sector = Aligned::filled(512, 0);
    for number in 0..195_u8 {
        sector.fill(number + 1);
        file.write_all_at(&sector, u64::from(number) * 512).unwrap();
    }
    let mut read = Aligned::filled(99_840, 0);
    file.read_exact_at(&mut read, 0).unwrap();
    for (number, bytes) in (0..195_u8).zip(read.chunks_exact(512)) {
        assert!(bytes.iter().all(|byte| *byte == number + 1), "sector {number}");
    }
    assert_eq!(file.read_at(&mut read, 99_840).unwrap(), 0);
    assert_eq!(file.write_at(&sector, 99_840).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    drop(file);
    disk.stop();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn sigint_and_sigterm_stop_it_cleanly_and_it_says_which() {
    for (signal, says) in [("INT", "ramdisk: stopped by SIGINT\n"), ("TERM", "ramdisk: stopped by SIGTERM\n")] {
        let disk = start(&["--size", "1M"]);
        let id = disk.id();
        disk.open().write_all_at(&block(0, 1), 0).unwrap();
        disk.signal(signal);
        let (status, said) = disk.ended();
        assert_eq!((status.code(), said.as_str()), (Some(0), says), "{status}");
        assert_eq!(nodes(), [""; 0]);
        assert!(!exists(&mut Control::open().unwrap(), id));
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_client_that_keeps_the_device_open_does_not_keep_it_from_stopping_at_the_second_signal() {
    let disk = start(&["--size", "8M", "--id", "33"]);
    let client = OpenOptions::new().write(true).open(&disk.path).unwrap();
    // Through the page cache, and not synced: the server gets it while it stops.
    client.write_all_at(&vec![7; 4 << 20], 0).unwrap();
    disk.signal("TERM");
    disk.signal_if_in_use("INT");
    let (status, said) = disk.ended();
    assert!(status.success() && said.starts_with("ramdisk: stopped by SIG"), "{status}: {said}");
    assert_eq!(nodes(), [""; 0]);
    assert_eq!(client.sync_all().map_err(|error| error.raw_os_error()), Ok(()));
    drop(client);
    // Now that it is let go, the id is free.
    let again = start(&["--size", "8M", "--id", "33"]);
    again.stop();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_device_that_is_deleted_from_outside_ends_it_and_it_says_so() {
    let disk = start(&["--size", "1M"]);
    let mut control = Control::open().unwrap();
    control.delete(disk.id()).unwrap();
    let (status, said) = disk.ended();
    assert_eq!((status.code(), said.as_str()), (Some(0), "ramdisk: stopped from outside\n"));
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn killed_it_leaves_its_char_device_and_a_deletion_cleans_that_up() {
    let mut disk = start(&["--size", "1M", "--id", "21"]);
    disk.open().write_all_at(&block(0, 1), 0).unwrap();
    disk.process.kill().unwrap();
    let (status, said) = disk.ended();
    assert_eq!((status.signal(), said.as_str()), (Some(libc::SIGKILL), ""));
    let id = DeviceId::new(21);
    let mut control = Control::open().unwrap();
    assert!(exists(&mut control, id));
    assert!(nodes().contains(&"ublkc21".to_owned()), "{:?}", nodes());
    // The id is taken until then.
    let second = output(&mut ramdisk(&["--size", "1M", "--id", "21"]));
    assert!(String::from_utf8_lossy(&second.stderr).contains("EEXIST"));
    control.delete(id).unwrap();
    assert_eq!(nodes(), [""; 0]);
    let again = start(&["--size", "1M", "--id", "21"]);
    // Its memory died with it.
    assert!(read_block(&again.open(), 0).iter().all(|byte| *byte == 0));
    again.stop();
}

// What it keeps.

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn what_was_written_is_read_and_what_was_not_is_zeroes() {
    let disk = start(&["--size", "16M", "--queues", "2"]);
    let file = disk.open();
    // Every third block, backwards, across the chunks that it keeps.
    for number in (0..4096).rev().filter(|number| number % 3 == 0) {
        file.write_all_at(&block(number, 77), number * 4096).unwrap();
    }
    for number in 0..4096 {
        let expected = if number % 3 == 0 { block(number, 77) } else { Aligned::filled(4096, 0) };
        assert!(*read_block(&file, number) == *expected, "block {number}");
    }
    drop(file);
    disk.stop();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_discard_gives_memory_back_and_reads_as_zeroes() {
    const MIB: u64 = 1 << 20;
    // Few tags, so that their buffers are few too.
    let disk = start(&["--size", "128M", "--depth", "8"]);
    let file = disk.open();
    let empty = resident_bytes(&disk);
    let data = Aligned::filled(1 << 20, 0xa5);
    for mib in 0..96 {
        file.write_all_at(&data, mib * MIB).unwrap();
    }
    let full = resident_bytes(&disk);
    assert!(full > empty + 90 * MIB, "{empty} bytes before and {full} with 96 MiB written");

    // From the 8th to the 72nd MiB: what lies around it stays.
    run("blkdiscard", &["-o", &(8 * MIB).to_string(), "-l", &(64 * MIB).to_string(), &disk.path]);
    let mut bytes = Aligned::filled(1 << 20, 1);
    for mib in 0..128 {
        file.read_exact_at(&mut bytes, mib * MIB).unwrap();
        let expected = if (8..72).contains(&mib) || mib >= 96 { 0 } else { 0xa5 };
        assert!(bytes.iter().all(|byte| *byte == expected), "MiB {mib}");
    }
    let partly = resident_bytes(&disk);
    assert!(partly + 56 * MIB < full, "{full} bytes before, {partly} after a discard of 64 MiB");
    run("blkdiscard", &[&disk.path]);
    let discarded = resident_bytes(&disk);
    assert!(discarded + 80 * MIB < full, "{full} bytes before, {discarded} after a discard of everything");

    // A discard of less than a chunk clears no more and no less.
    file.write_all_at(&data, 0).unwrap();
    run("blkdiscard", &["-o", "4096", "-l", "512", &disk.path]);
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes[4096..4608].iter().all(|byte| *byte == 0));
    assert!(bytes[..4096].iter().chain(&bytes[4608..]).all(|byte| *byte == 0xa5));
    drop(file);
    disk.stop();
}

/// Every file below `folder`, by its path from there.
fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut left = vec![folder.to_path_buf()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(next).unwrap().map(|entry| entry.unwrap()) {
            let path = entry.path();
            if path.is_dir() {
                left.push(path);
            } else {
                files.insert(path.strip_prefix(folder).unwrap().to_path_buf(), fs::read(&path).unwrap());
            }
        }
    }
    files
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_file_system_holds_its_files_across_mounts_and_is_found_clean() {
    let disk = start(&["--size", "64M", "--queues", "2"]);
    let place = std::env::temp_dir().join(format!("ublk-test-{}", std::process::id()));
    fs::create_dir(&place).unwrap();
    let at = place.to_str().unwrap();
    run("mkfs.ext4", &["-q", &disk.path]);

    run("mount", &["-t", "ext4", &disk.path, at]);
    for folder in 0..10 {
        let folder_path = place.join(format!("folder{folder}/below"));
        fs::create_dir_all(&folder_path).unwrap();
        for file in 0..20_u64 {
            let len = usize::try_from((file * 7919 + 13) % 60_000).unwrap();
            let bytes: Vec<u8> = block(file, folder).iter().copied().cycle().take(len).collect();
            fs::write(folder_path.join(format!("file{file}")), bytes).unwrap();
        }
    }
    let written = tree(&place);
    assert!(written.len() >= 200);
    run("umount", &[at]);
    run("e2fsck", &["-fn", &disk.path]);

    run("mount", &["-t", "ext4", &disk.path, at]);
    assert!(tree(&place) == written);
    fs::remove_dir_all(place.join("folder3")).unwrap();
    run("umount", &[at]);
    run("e2fsck", &["-fn", &disk.path]);
    fs::remove_dir(&place).unwrap();
    disk.stop();
    assert_eq!(nodes(), [""; 0]);
}

/// Four jobs that write at random, each in a part of its own, read back and compare checksums.
fn fio_verifies(path: &str, mib_each: u32) -> Output {
    let size = format!("--size={mib_each}M");
    let apart = format!("--offset_increment={mib_each}M");
    output(Command::new("fio").args([
        "--name=job",
        &format!("--filename={path}"),
        "--direct=1",
        "--ioengine=libaio",
        "--rw=randrw",
        "--bsrange=4k-256k",
        "--iodepth=32",
        "--numjobs=4",
        "--verify=crc32c",
        "--do_verify=1",
        "--verify_fatal=1",
        // Two writes under way to one place could end in either order.
        "--serialize_overlap=1",
        "--group_reporting",
        &size,
        &apart,
    ]))
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn fio_finds_no_error_with_four_jobs_on_two_queues_slow() {
    let mut log = KernelLog::from_now_on();
    let disk = start(&["--size", "256M", "--queues", "2", "--depth", "64"]);
    let output = fio_verifies(&disk.path, 64);
    let printed = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    println!("{printed}");
    assert!(output.status.success(), "{}", output.status);
    assert!(printed.contains("err= 0"), "{printed}");
    disk.stop();
    log.assert_quiet();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn fio_finds_the_one_sector_that_a_disk_forgets() {
    // The test above proves something only if it can fail.
    const SECTORS: u64 = 4 * 2048;
    let memory: Vec<std::sync::Mutex<[u8; 512]>> = (0..SECTORS).map(|_| [0; 512].into()).collect();
    let target = move |mut request: Request<'_>| {
        let first = request.offset_bytes() / 512;
        let sectors = first..first + request.len_bytes() / 512;
        let sectors = sectors.map(|sector| &memory[usize::try_from(sector).unwrap()]);
        match request.operation() {
            Operation::READ => {
                let mut cursor = request.cursor();
                for sector in sectors {
                    cursor.write(&*sector.lock().unwrap());
                }
                request.complete();
            }
            Operation::WRITE => {
                for (index, (sector, data)) in sectors.zip(request.data().chunks_exact(512)).enumerate() {
                    if u64::try_from(index).unwrap() + first != 5000 {
                        sector.lock().unwrap().copy_from_slice(data);
                    }
                }
                request.complete();
            }
            _ => request.fail(Errno::EOPNOTSUPP),
        }
    };
    let params = Params::new(Sectors::new(SECTORS), Cache::None);
    let served = serve(NewDevice::new().queues(2), params, target).unwrap();
    let output = fio_verifies(&served.block_path(), 1);
    let printed = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{printed}");
    // EILSEQ, what fio calls a wrong checksum.
    assert!(printed.contains("err=84"), "{printed}");
    served.stop().unwrap();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_hundred_rounds_leave_no_node_no_process_and_no_complaint_of_the_kernel_slow() {
    let mut log = KernelLog::from_now_on();
    for round in 0..100 {
        let disk = start(&["--size", "4M", "--queues", "2", "--depth", "16"]);
        // Every id is given back.
        assert_eq!(disk.path, "/dev/ublkb0", "round {round}");
        let file = disk.open();
        for number in 0..8 {
            file.write_all_at(&block(number * 100, round), number * 100 * 4096).unwrap();
        }
        for number in 0..8 {
            assert!(*read_block(&file, number * 100) == *block(number * 100, round), "round {round}, block {number}");
        }
        drop(file);
        disk.signal(if round % 2 == 0 { "INT" } else { "TERM" });
        let (status, said) = disk.ended();
        assert!(status.success(), "round {round}: {status} {said}");
        assert_eq!(nodes(), [""; 0], "round {round}");
    }
    assert_eq!(processes("ramdisk"), [""; 0]);
    log.assert_quiet();
}
