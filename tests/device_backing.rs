// SPDX-License-Identifier: MIT OR Apache-2.0
//! `loop` and `stripe` as whoever calls them sees them: what they refuse, what is durable when they say so, and what is in the
//! files behind them.
#![cfg_attr(not(have_ublk), allow(dead_code, reason = "the tests are ignored, not left out"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]

mod harness;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use harness::backing::Backing;
use harness::program::Program;
use harness::{Aligned, Served, nodes, serve};
use ublk::{Cache, Control, Errno, Features, NewDevice, Operation, Params, QueueId, Request, RequestFlags, Sectors};

const MIB: u64 = 1 << 20;

/// A mode as an option names it, and what the driver must have for it.
const MODES: [(&str, Features); 4] = [
    ("copy", Features::NONE),
    ("user-copy", Features::USER_COPY),
    ("zero-copy", Features::SUPPORT_ZERO_COPY),
    ("auto-register", Features::AUTO_BUF_REG),
];

/// The modes that this driver has.
fn modes() -> Vec<&'static str> {
    let offered = Control::open().unwrap().features().unwrap();
    MODES.iter().filter(|(_, needs)| offered.contains(*needs)).map(|(name, _)| *name).collect()
}

fn output(program: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// The block device of a program, past the page cache; each write is durable when it returns.
fn open_durable(disk: &Program) -> File {
    OpenOptions::new().write(true).custom_flags(libc::O_DIRECT | libc::O_DSYNC).open(&disk.path).unwrap()
}

/// Bytes that say where they stand.
fn pattern(len: usize, seed: usize) -> Aligned {
    let mut bytes = Aligned::filled(len, 0);
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::try_from((index + index / 512 * 7 + seed * 13) % 251).unwrap();
    }
    bytes
}

// What they refuse.

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_wrong_option_of_loop_or_stripe_is_status_2_with_the_usage_and_makes_no_device() {
    let backing = Backing::new(MIB);
    let file = backing.path();
    let wrong: [&[&str]; 7] = [
        &[],
        &["--mode", "fast", file],
        &["--direct", "maybe", file],
        &["--queues", "65536", file],
        &["--max-io", "much", file],
        &["--sizes", "1M", file],
        &[file, "--id"],
    ];
    for arguments in wrong {
        for program in ["loop", "stripe"] {
            let (status, said, complaint) = output(program, arguments);
            assert_eq!((status, said.as_str()), (Some(2), ""), "{program} {arguments:?}: {complaint}");
            assert!(complaint.starts_with(&format!("{program}: ")) && complaint.contains("usage: "), "{complaint}");
        }
    }
    let (status, _, complaint) = output("loop", &[file, file]);
    assert_eq!(status, Some(2), "{complaint}");
    for chunk in ["2048", "1M", "6K"] {
        let (status, _, complaint) = output("stripe", &["--chunk", chunk, file]);
        assert_eq!(status, Some(2), "{complaint}");
    }
    assert_eq!(output("stripe", &[file; 17]).0, Some(2));
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn what_cannot_be_a_disk_is_a_failure_that_names_it() {
    let small = Backing::new(511);
    let two = [Backing::new(MIB), Backing::new(4095)];
    let wrong: [(&str, Vec<&str>); 6] = [
        ("loop", vec!["/tmp/there-is-no-such-file"]),
        ("loop", vec!["/tmp"]),
        ("loop", vec!["/dev/null"]),
        ("loop", vec![small.path()]),
        ("stripe", vec!["--chunk", "4K", two[0].path(), two[1].path()]),
        ("stripe", vec!["--chunk", "4K", "--max-io", "32M", two[0].path()]),
    ];
    for (program, arguments) in wrong {
        let (status, said, complaint) = output(program, &arguments);
        assert_eq!((status, said.as_str()), (Some(1), ""), "{program} {arguments:?}: {complaint}");
        assert!(complaint.starts_with(&format!("{program}: ")), "{complaint}");
        assert_eq!(complaint.lines().count(), 1, "{complaint}");
    }
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_mode_is_had_or_refused_by_what_the_driver_lacks_and_the_best_is_found() {
    let backing = Backing::new(MIB);
    let had = modes();
    for (mode, needs) in MODES {
        if had.contains(&mode) {
            let disk = Program::start("loop", &["--mode", mode, backing.path()]);
            disk.signal("TERM");
            let (status, said) = disk.ended();
            assert!(status.success() && said.starts_with(&format!("loop: {mode}: asked for; past the")), "{said}");
            continue;
        }
        let (status, _, complaint) = output("loop", &["--mode", mode, backing.path()]);
        let since = needs.since().unwrap();
        assert_eq!(status, Some(1));
        assert_eq!(complaint, format!("loop: --mode {mode}: this driver has no {needs} (since Linux {since})\n"));
    }
    let disk = Program::start("loop", &[backing.path()]);
    disk.signal("INT");
    let (_, said) = disk.ended();
    let best = if had.contains(&"auto-register") {
        "loop: auto-register: the driver has UBLK_F_AUTO_BUF_REG (Linux 6.16);"
    } else {
        "loop: copy: the driver has neither UBLK_F_AUTO_BUF_REG (Linux 6.16) nor UBLK_F_SUPPORT_ZERO_COPY (Linux 6.15);"
    };
    assert!(said.starts_with(best) && said.ends_with("loop: stopped by SIGINT\n"), "{said}");
}

// What is in the files.

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn the_end_of_a_file_that_is_no_block_is_left_alone_and_the_last_block_is_not() {
    for mode in modes() {
        let backing = Backing::new(0);
        backing.file.write_all_at(&[7; 5 * 512 + 300], 0).unwrap();
        let disk = Program::start("loop", &["--mode", mode, backing.path()]);
        assert_eq!((disk.attribute("size"), disk.attribute("queue/fua")), ("5".to_owned(), "1".to_owned()));
        let wanted = pattern(512, 3);
        disk.open().write_all_at(&wanted, 4 * 512).unwrap();
        disk.stop();
        assert_eq!(backing.file.metadata().unwrap().len(), 5 * 512 + 300);
        assert_eq!(backing.read(4 * 512, 512), wanted[..]);
        assert_eq!(backing.read(5 * 512, 300), [7; 300]);
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_file_that_is_shortened_reads_as_zeroes_and_a_write_makes_it_longer() {
    for mode in modes() {
        for direct in ["on", "off"] {
            let backing = Backing::new(0);
            backing.file.write_all_at(&vec![7; 1 << 20], 0).unwrap();
            let disk = Program::start("loop", &["--mode", mode, "--direct", direct, backing.path()]);
            let client = disk.open();
            let mut read = Aligned::filled(256 << 10, 0x55);
            client.read_exact_at(&mut read, 0).unwrap();
            assert!(read.iter().all(|byte| *byte == 7));
            backing.file.set_len(100_000).unwrap();
            client.read_exact_at(&mut read, 0).unwrap();
            assert!(read[..100_000].iter().all(|byte| *byte == 7), "{mode} {direct}");
            assert!(read[100_000..].iter().all(|byte| *byte == 0), "{mode} {direct}");
            client.read_exact_at(&mut read, 512 << 10).unwrap();
            assert!(read.iter().all(|byte| *byte == 0), "{mode} {direct}");
            let wanted = pattern(4096, 5);
            client.write_all_at(&wanted, 512 << 10).unwrap();
            drop(client);
            disk.stop();
            assert_eq!(backing.read(512 << 10, 4096), wanted[..]);
        }
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_read_only_disk_refuses_writes_and_sends_none() {
    let backing = Backing::new(MIB);
    let disk = Program::start("loop", &["--read-only", backing.path()]);
    assert_eq!(disk.attribute("ro"), "1");
    let written = OpenOptions::new().write(true).open(&disk.path).and_then(|file| {
        file.write_all_at(&[1; 4096], 0)?;
        file.sync_all()
    });
    assert!(written.is_err());
    disk.stop();
    assert!(backing.read(0, 1 << 20).iter().all(|byte| *byte == 0));
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_stripe_lies_in_its_files_by_turns() {
    const CHUNK: usize = 8 << 10;
    for mode in modes() {
        for files in [1, 3] {
            let backings: Vec<Backing> = (0..files).map(|_| Backing::new(MIB + 300)).collect();
            let mut arguments = vec!["--chunk", "8K", "--mode", mode];
            arguments.extend(backings.iter().map(Backing::path));
            let disk = Program::start("stripe", &arguments);
            let bytes = files << 20;
            assert_eq!(disk.attribute("size"), (bytes / 512).to_string());
            let client = disk.open();
            let wanted = pattern(bytes, files);
            // From within a chunk on, in requests of the largest size and what is left: more chunks in a file than one operation takes.
            client.write_all_at(&wanted[..1536], 0).unwrap();
            client.write_all_at(&copied(&wanted[1536..]), 1536).unwrap();
            let mut read = Aligned::filled(bytes, 0);
            client.read_exact_at(&mut read, 0).unwrap();
            assert!(read[..] == wanted[..], "{mode}, {files} files");
            client.sync_data().unwrap();
            drop(client);
            disk.stop();
            for (number, chunk) in wanted.chunks(CHUNK).enumerate() {
                let stored = backings[number % files].read(u64::try_from(number / files * CHUNK).unwrap(), CHUNK);
                assert!(stored == chunk, "{mode}, {files} files, chunk {number}");
            }
        }
    }
}

fn copied(bytes: &[u8]) -> Aligned {
    let mut copy = Aligned::filled(bytes.len(), 0);
    copy.copy_from_slice(bytes);
    copy
}

// What is durable: the disk behind is another ublk device, which sees what it is asked.

/// What a disk was asked, and whether it is to fail the next flush.
#[derive(Default)]
struct Asked {
    log: Mutex<Vec<String>>,
    fails: AtomicBool,
    /// The id of the disk in front, once there is one.
    front: AtomicU32,
}

impl Asked {
    /// Takes what was logged since.
    fn news(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }

    /// Writes of the disk in front that are not answered yet.
    fn waiting_in_front(&self) -> String {
        let front = self.front.load(Ordering::SeqCst);
        let inflight = fs::read_to_string(format!("/sys/block/ublkb{front}/inflight")).unwrap_or_default();
        inflight.split_whitespace().nth(1).unwrap_or("?").to_owned()
    }
}

fn behind(asked: &Arc<Asked>) -> Served {
    let asked = Arc::clone(asked);
    let memory = Mutex::new(vec![0_u8; 1 << 20]);
    let target = move |mut request: Request<'_>| {
        let start = usize::try_from(request.offset_bytes()).unwrap();
        let range = start..start + usize::try_from(request.len_bytes()).unwrap();
        let log = |entry: String| asked.log.lock().unwrap().push(entry);
        match request.operation() {
            Operation::READ => {
                request.cursor().write(&memory.lock().unwrap()[range]);
            }
            Operation::WRITE => {
                log(format!("WRITE {start}"));
                memory.lock().unwrap()[range].copy_from_slice(request.data());
            }
            Operation::FLUSH => {
                log(format!("FLUSH, {} waiting", asked.waiting_in_front()));
                if asked.fails.swap(false, Ordering::SeqCst) {
                    return request.fail(Errno::EIO);
                }
            }
            Operation::DISCARD => log(format!("DISCARD {start}+{}", range.len())),
            Operation::WRITE_ZEROES => {
                let keeps = request.flags().contains(RequestFlags::NOUNMAP);
                log(format!("WRITE_ZEROES {start}+{}, keeps: {keeps}", range.len()));
                memory.lock().unwrap()[range].fill(0);
            }
            _ => return request.fail(Errno::EOPNOTSUPP),
        }
        request.complete();
    };
    let params = Params::new(Sectors::new(2048), Cache::Volatile);
    let params = params.discard(4096, Sectors::new(2048)).write_zeroes(Sectors::new(2048));
    serve(NewDevice::new(), params, target).unwrap()
}

/// A program in front of a disk.
fn in_front(program: &str, mode: &str, asked: &Asked, served: &Served) -> Program {
    let disk = Program::start(program, &["--mode", mode, "--queues", "2", &served.block_path()]);
    asked.front.store(disk.id().raw(), Ordering::SeqCst);
    disk
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_write_with_fua_is_answered_when_the_disk_behind_was_flushed_and_not_before() {
    for program in ["loop", "stripe"] {
        for mode in modes() {
            let asked = Arc::new(Asked::default());
            let served = behind(&asked);
            let disk = in_front(program, mode, &asked, &served);
            let client = open_durable(&disk);
            asked.news();
            client.write_all_at(&pattern(4096, 1), 8192).unwrap();
            // The write with FUA, and the FLUSH that Linux sends behind it.
            let wanted = ["WRITE 8192", "FLUSH, 1 waiting", "FLUSH, 0 waiting"];
            assert_eq!(asked.news(), wanted, "{program} {mode}");
            drop(client);
            disk.stop();
            served.stop().unwrap();
        }
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn when_a_flush_has_failed_once_nothing_is_durable_any_more_on_any_queue_until_it_is_started_again() {
    for mode in modes() {
        let asked = Arc::new(Asked::default());
        let served = behind(&asked);
        let disk = in_front("loop", mode, &asked, &served);
        let (client, durable) = (disk.open(), open_durable(&disk));
        client.write_all_at(&pattern(4096, 1), 0).unwrap();
        client.sync_data().unwrap();
        durable.write_all_at(&pattern(4096, 2), 0).unwrap();

        asked.fails.store(true, Ordering::SeqCst);
        let errno = |done: std::io::Result<()>| done.map_err(|error| error.raw_os_error());
        assert_eq!(errno(client.sync_data()), Err(Some(libc::EIO)), "{mode}");
        assert!(!asked.fails.load(Ordering::SeqCst), "the disk behind has failed once");
        asked.news();
        let queues = Control::open().unwrap().info(disk.id()).unwrap().queues();
        for queue in (0..queues).map(QueueId::new) {
            // A thread on the CPUs of a queue sends to that queue.
            let cpus = Control::open().unwrap().queue_affinity(disk.id(), queue).unwrap();
            let (client, durable, block) = (&client, &durable, pattern(4096, 3));
            thread::scope(|scope| {
                let sent = scope.spawn(move || {
                    cpus.pin_thread().unwrap();
                    assert_eq!(errno(client.sync_data()), Err(Some(libc::EIO)), "{mode} {queue}");
                    assert_eq!(errno(durable.write_all_at(&block, 4096)), Err(Some(libc::EIO)), "{mode} {queue}");
                    // What nobody promised to keep is written and read as ever.
                    client.write_all_at(&block, 8192).unwrap();
                    let mut read = Aligned::filled(4096, 0);
                    client.read_exact_at(&mut read, 8192).unwrap();
                    assert!(read[..] == block[..]);
                });
                sent.join().unwrap();
            });
        }
        assert!(!asked.news().iter().any(|entry| entry.starts_with("FLUSH")), "the disk behind is not asked again");
        drop((client, durable));
        disk.stop();

        let again = in_front("loop", mode, &asked, &served);
        again.open().sync_data().unwrap();
        again.stop();
        served.stop().unwrap();
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_block_device_behind_is_discarded_and_zeroed_where_the_one_in_front_is() {
    for mode in modes() {
        let asked = Arc::new(Asked::default());
        let served = behind(&asked);
        let disk = in_front("loop", mode, &asked, &served);
        asked.news();
        let run = |arguments: &[&str]| {
            let (status, _, complaint) = output("blkdiscard", arguments);
            assert_eq!(status, Some(0), "{arguments:?}: {complaint}");
        };
        run(&["-o", "65536", "-l", "131072", &disk.path]);
        run(&["-z", "-o", "8192", "-l", "4096", &disk.path]);
        let news = asked.news();
        assert!(news.contains(&"DISCARD 65536+131072".to_owned()), "{mode}: {news:?}");
        assert!(news.contains(&"WRITE_ZEROES 8192+4096, keeps: true".to_owned()), "{mode}: {news:?}");
        disk.stop();
        served.stop().unwrap();
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_block_device_that_somebody_has_is_refused() {
    let asked = Arc::new(Asked::default());
    let served = behind(&asked);
    let first = in_front("loop", "copy", &asked, &served);
    let (status, _, complaint) = output("loop", &[&served.block_path()]);
    assert_eq!(status, Some(1), "{complaint}");
    assert!(complaint.contains("busy"), "{complaint}");
    first.stop();
    served.stop().unwrap();
}
