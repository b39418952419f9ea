// SPDX-License-Identifier: MIT OR Apache-2.0
//! Servers that are killed, relieved and raced under load, and programs that count what came of it.
//!
//! `cargo xtask test` runs a short form; `cargo xtask torture` runs the same in full, as `UBLK_TORTURE=full` wants it, with
//! `UBLK_TORTURE_SEED` as where chance starts. What was counted stands in the output behind `figure:`.
#![cfg_attr(not(have_ublk), allow(dead_code, reason = "the tests are ignored, not left out"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]
#![allow(clippy::print_stdout, reason = "what was counted is shown")]

mod chance;
mod harness;
mod torture;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use chance::Chance;
use harness::backing::Backing;
use harness::program::Program;
use harness::{Aligned, Ends, nodes, open_direct, possessions, possessions_like, quiet_device};
use torture::load::{self, BLOCK, Load, fill};
use torture::race::{Racer, is_clear, race, raced};
use ublk::{
    Cache, Control, DetachedRequest, Device, DeviceId, Errno, Error, Features, Operation, Params, QueueId, Recovery,
    Request, Sectors, Server, State, StopHandle, Stopped,
};

/// No wait for a server may take longer.
const DEADLINE: Duration = Duration::from_secs(60);

/// How often something is done.
fn rounds(short: u64, full: u64) -> u64 {
    if std::env::var("UBLK_TORTURE").is_ok_and(|text| text == "full") { full } else { short }
}

/// Where chance starts: what was asked for, or the clock. It is printed, so that a run can be had again.
fn chance(test: &str) -> Chance {
    let seed =
        std::env::var("UBLK_TORTURE_SEED").map_or_else(|_| Chance::seed_of_the_clock(), |text| text.parse().unwrap());
    println!("figure: {test}: seed {seed}");
    Chance::new(seed)
}

fn offered() -> Features {
    Control::open().unwrap().features().unwrap()
}

fn kinds() -> Vec<Recovery> {
    let all = [Recovery::Plain, Recovery::Reissue, Recovery::FailIo];
    all.into_iter().filter(|kind| offered().contains(kind.features())).collect()
}

/// Starts a server whose disk has to be there in time; how long it took.
fn start_in_time(arguments: &[&str]) -> (Program, Duration) {
    let begun = Instant::now();
    let program = Program::start("loop", arguments);
    let took = begun.elapsed();
    assert!(took < DEADLINE, "a server took {} ms", took.as_millis());
    (program, took)
}

/// The ways in which data goes under the kills: copied, and the best that the driver has, in batches where it has those.
fn ways() -> Vec<&'static [&'static str]> {
    let copied: &[&str] = &["--mode", "copy"];
    let best: &[&str] = if offered().contains(Features::BATCH_IO) {
        &["--mode", "auto-register", "--batch"]
    } else if offered().contains(Features::AUTO_BUF_REG) {
        &["--mode", "auto-register"]
    } else {
        &["--mode", "user-copy"]
    };
    vec![copied, best]
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_server_that_is_killed_at_any_moment_loses_no_acknowledged_write() {
    let mut chance = chance("kills");
    for kind in kinds() {
        // And what the dead server owned.
        let promised = if kind == Recovery::Plain { &[libc::EIO] } else { promised_meanwhile(kind) };
        for way in ways() {
            killed(kind, way, rounds(3, 100), promised, &mut chance);
        }
    }
}

fn killed(kind: Recovery, way: &[&str], kills: u64, promised: &'static [i32], chance: &mut Chance) {
    let backing = load::backing();
    let name = kind.to_string();
    let mut arguments = vec!["--recovery", &name, "--queues", "2", "--depth", "16", "--direct", "off"];
    arguments.extend(way);
    arguments.push(backing.path());
    let (mut server, _) = start_in_time(&arguments);
    let id = server.id();
    let number = id.to_string();
    let load = Load::start(id, chance, promised);
    let mut longest = Duration::ZERO;
    for kill in 1..=kills {
        load.wait_for(chance.below(100));
        server.process.kill().unwrap();
        server.ended();
        let alive;
        (server, alive) = start_in_time(&["--recover", &number, "--direct", "off", backing.path()]);
        longest = longest.max(alive);
        if kill % 50 == 0 {
            println!("{kill} of {kills} kills ({kind}, {})", way.join(" "));
        }
    }
    load.wait_for(20);
    let seen = load.end(id, &backing);
    server.stop();
    assert_eq!(nodes(), [""; 0]);
    println!(
        "figure: {kind}, {}: {kills} kills, {} writes acknowledged, {} of them of {} runs of fio, 0 lost, {} requests failed as promised, alive again after {} ms at most",
        way.join(" "),
        seen.acknowledged,
        seen.by_fio,
        seen.fio_passes,
        seen.failed,
        longest.as_millis(),
    );
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_server_that_hands_over_under_load_costs_no_error_that_its_recovery_does_not_promise() {
    let mut chance = chance("hand-overs");
    let can_quiesce = offered().contains(Features::QUIESCE);
    // Without it a request that is owned at that moment can only be sent again.
    let kinds: Vec<Recovery> = kinds().into_iter().filter(|kind| can_quiesce || *kind == Recovery::Reissue).collect();
    let rounds = rounds(2, 100);
    for kind in kinds {
        handed_over(kind, can_quiesce, rounds, &mut chance);
    }
}

/// The errors that requests may end with while there is no server.
fn promised_meanwhile(kind: Recovery) -> &'static [i32] {
    if kind == Recovery::FailIo { &[libc::EIO, libc::EREMOTEIO] } else { &[] }
}

fn handed_over(kind: Recovery, can_quiesce: bool, rounds: u64, chance: &mut Chance) {
    let backing = load::backing();
    let name = kind.to_string();
    let (mut server, _) =
        start_in_time(&["--recovery", &name, "--queues", "2", "--depth", "16", "--direct", "off", backing.path()]);
    let id = server.id();
    let number = id.to_string();
    let load = Load::start(id, chance, promised_meanwhile(kind));
    for _ in 0..rounds {
        load.wait_for(chance.below(60));
        // By its own word, or relieved by the next.
        if can_quiesce && chance.below(2) == 0 {
            let (next, _) = start_in_time(&["--take-over", &number, "--direct", "off", backing.path()]);
            let (status, said) = std::mem::replace(&mut server, next).ended();
            assert!(status.success(), "{status}: {said}");
        } else {
            server.signal("USR2");
            let (status, said) = server.ended();
            assert!(status.success() && said.contains("handed over"), "{status}: {said}");
            (server, _) = start_in_time(&["--recover", &number, "--direct", "off", backing.path()]);
        }
    }
    load.wait_for(20);
    let seen = load.end(id, &backing);
    server.stop();
    println!(
        "figure: {kind}: {rounds} hand-overs, {} writes acknowledged, {} of them of {} runs of fio, {} failed as promised, the longest request took {} ms",
        seen.acknowledged, seen.by_fio, seen.fio_passes, seen.failed, seen.longest_ms,
    );
}

/// Where a server dies, in a child of this program.
const DIES_AT: &str = "UBLK_TORTURE_DIES_AT";

/// The steps of a server's life; those from `recover` on are of one that takes a device over.
const STEPS: [&str; 12] = [
    "add",
    "queue",
    "fetch one",
    "fetch all",
    "start asked",
    "live",
    "stop asked",
    "stopped",
    "recover",
    "recover queue",
    "recover fetch one",
    "recover live",
];

/// Ends this process as SIGKILL does, if this is where it is to.
fn die_at(step: &str) {
    if std::env::var(DIES_AT).is_ok_and(|at| at == step) {
        let status = Command::new("kill").args(["-KILL", &std::process::id().to_string()]).status();
        unreachable!("the kill did not end this: {status:?}");
    }
}

/// The child: a server that comes as far as the environment says.
fn come_so_far(at: &str) {
    let params = Params::new(Sectors::new(2048), Cache::None);
    let id = DeviceId::new(40);
    let is_recovery = at.starts_with("recover");
    let mut control = Control::open().unwrap();
    let (mut device, prefix) = if is_recovery {
        let found = control.info(id).unwrap();
        (Device::recover(control, &found, &ublk::NewDevice::new()).unwrap(), "recover ")
    } else {
        let new = quiet_device(4).queues(2).id(id).recovery(Recovery::Plain);
        (Device::add(control, &new, &params).unwrap(), "")
    };
    die_at(if is_recovery { "recover" } else { "add" });
    let at = |step: &str| die_at(&format!("{prefix}{step}"));
    let queues: Vec<_> = (0..device.info().queues()).map(|queue| device.queue(QueueId::new(queue)).unwrap()).collect();
    at("queue");
    let fetched = AtomicU32::new(0);
    thread::scope(|scope| {
        let (count, fetched) = (queues.len(), &fetched);
        for (index, queue) in queues.into_iter().enumerate() {
            scope.spawn(move || {
                let queue = queue.fetch().unwrap();
                fetched.fetch_add(1, Ordering::Relaxed);
                while !queue.is_finished() {
                    queue.wait(None).unwrap();
                    while let Some(request) = queue.next_request().unwrap() {
                        request.complete();
                    }
                }
            });
            if index == 0 {
                while fetched.load(Ordering::Relaxed) == 0 {
                    thread::yield_now();
                }
                at("fetch one");
            }
        }
        while usize::try_from(fetched.load(Ordering::Relaxed)).unwrap() < count {
            thread::yield_now();
        }
        at("fetch all");
        let starting = device.begin_start().unwrap();
        at("start asked");
        starting.wait().unwrap();
        at("live");
        let stopping = device.begin_stop().unwrap();
        at("stop asked");
        stopping.wait().unwrap();
        at("stopped");
    });
}

/// Deletes the device of which a server died, as the next run of a program would; what it was. There is one after every step.
fn end_of(id: DeviceId) -> &'static str {
    let mut control = Control::open().unwrap();
    let info = control.info(id).unwrap();
    let waits = |state| state == State::QUIESCED || state == State::FAIL_IO;
    let begun = Instant::now();
    let mut state = info.state();
    // The driver is on its way to it.
    while state == State::LIVE {
        assert!(begun.elapsed() < DEADLINE, "device {id} stays live without a server");
        thread::yield_now();
        state = control.info(id).unwrap().state();
    }
    let left = if waits(state) { "a device that waits" } else { "a dead device" };
    control.delete(id).unwrap();
    left
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_server_that_dies_at_any_step_of_its_life_leaves_what_the_next_can_end() {
    if let Ok(at) = std::env::var(DIES_AT) {
        return come_so_far(&at);
    }
    let run = |step: &str| {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_server_that_dies_at_any_step_of_its_life_leaves_what_the_next_can_end"])
            .arg("--include-ignored")
            .env(DIES_AT, step)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status();
        let status = status.unwrap();
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(status.signal(), Some(libc::SIGKILL), "{step}: {status}");
    };
    let id = DeviceId::new(40);
    println!("figure: not run here: \"stop asked\" over a request that is not answered, over which every driver hangs");
    for step in STEPS {
        if step == "start asked" && !offered().contains(Features::NO_AUTO_PART_SCAN) {
            // An I/O thread that ends while it owns the read of the partition table hangs the driver of 6.12 for good.
            println!("figure: not run here: {step}, over which this driver itself may hang");
            continue;
        }
        if step.starts_with("recover") {
            run("live");
            assert!(Control::open().unwrap().info(id).is_ok());
            let mut control = Control::open().unwrap();
            while control.info(id).unwrap().state() == State::LIVE {
                thread::yield_now();
            }
        }
        run(step);
        println!("figure: dead at \"{step}\": left {}", end_of(id));
        assert_eq!(nodes(), [""; 0], "{step}");
    }
}

/// What a collector did with an id.
#[derive(Debug, Default)]
struct Fights {
    rounds: AtomicU64,
    served: AtomicU64,
    stopped: AtomicU64,
    lost: AtomicU64,
    collected: AtomicU64,
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn those_who_add_and_those_who_delete_one_id_come_to_an_end_and_leave_nothing() {
    if !offered().contains(Features::NO_AUTO_PART_SCAN) {
        // 6.12 reads the partition table in START_DEV. A stop or a deletion from outside that comes then hangs it for good.
        println!("figure: not run here: fights over an id, over which this driver itself may hang");
        return;
    }
    let mut chance = chance("fights over an id");
    let rounds = rounds(50, 10_000);
    let id = DeviceId::new(41);
    let fights = Fights::default();
    let ends = AtomicBool::new(false);
    let params = Params::new(Sectors::new(2048), Cache::None);
    thread::scope(|scope| {
        let (fights, ends) = (&fights, &ends);
        let _ends = Ends(ends);
        let mut collector = chance.split();
        scope.spawn(move || {
            let mut control = Control::open().unwrap();
            while !ends.load(Ordering::Relaxed) {
                let deleted = if collector.below(2) == 0 { control.stop(id) } else { control.delete_async(id) };
                match deleted {
                    Ok(()) => fights.collected.fetch_add(1, Ordering::Relaxed),
                    Err(Error::Control { errno: Errno::ENODEV, .. }) => 0,
                    // Before Linux 6.9 there is another command; every series that is tested has this one.
                    Err(error) => panic!("{error}"),
                };
                // Some rounds it leaves alone, some it enters early and some late.
                let (seen, pause) = (fights.rounds.load(Ordering::Relaxed), collector.below(2000));
                for spin in 0.. {
                    let goes_on =
                        if pause % 2 == 0 { spin < pause } else { fights.rounds.load(Ordering::Relaxed) == seen };
                    if !goes_on || ends.load(Ordering::Relaxed) {
                        break;
                    }
                    thread::yield_now();
                }
            }
        });
        for round in 1..=rounds {
            fights.rounds.store(round, Ordering::Relaxed);
            let stop = StopHandle::new().unwrap();
            let server = Server::new(quiet_device(4).id(id), params).stop_on(&stop);
            // Stopped by us as soon as it is live, or by the other one.
            match server.run(|request| request.complete(), |_| stop.stop()) {
                Ok(Stopped::Handle) => drop(fights.served.fetch_add(1, Ordering::Relaxed)),
                Ok(_) => drop(fights.stopped.fetch_add(1, Ordering::Relaxed)),
                Err(error) => {
                    fights.lost.fetch_add(1, Ordering::Relaxed);
                    assert!(is_clear(&error), "{error:?}");
                }
            }
            if round % 1000 == 0 {
                println!("{round} of {rounds} rounds");
            }
        }
    });
    let mut control = Control::open().unwrap();
    // The last one of the other's may have come to nothing.
    let _ = control.delete(id);
    assert_eq!(nodes(), [""; 0]);
    println!(
        "figure: {rounds} rounds over one id: served {}, stopped by the other {}, lost to it {}; it stopped or deleted {}",
        fights.served.load(Ordering::Relaxed),
        fights.stopped.load(Ordering::Relaxed),
        fights.lost.load(Ordering::Relaxed),
        fights.collected.load(Ordering::Relaxed),
    );
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn devices_that_are_made_and_deleted_leave_no_descriptor_thread_or_mapping() {
    let rounds = rounds(25, 1000);
    let params = Params::new(Sectors::new(2048), Cache::None);
    let round = || {
        let served = harness::serve(quiet_device(4).queues(2), params, |request| request.complete()).unwrap();
        served.stop().unwrap();
    };
    let fresh = possessions();
    // What a first one makes the C library keep.
    for _ in 0..3 {
        round();
    }
    let before = possessions_like(&fresh);
    for number in 1..=rounds {
        round();
        if number % 250 == 0 {
            println!("{number} of {rounds} devices");
        }
    }
    let after = possessions_like(&before);
    assert_eq!(after[..3], before[..3], "descriptors, threads, mappings");
    println!(
        "figure: {rounds} devices made and deleted: {} descriptors, {} threads, {} mappings, {} kB before; {}, {}, {}, {} kB after",
        before[0], before[1], before[2], before[3], after[0], after[1], after[2], after[3],
    );
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_disk_whose_file_is_on_another_such_disk_is_written_and_stopped() {
    let backing = Backing::new(8 << 20);
    let lower = Program::start("loop", &["--direct", "on", backing.path()]);
    let upper = Program::start("loop", &["--direct", "on", &lower.path]);
    let disk = upper.open();
    let mut bytes = Aligned::filled(1 << 20, 0);
    for (block, bytes) in (0..).zip(bytes.chunks_mut(BLOCK)) {
        fill(bytes, block, 1);
    }
    disk.write_all_at(&bytes, 0).unwrap();
    let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&backing.path).unwrap();
    let mut found = Aligned::filled(1 << 20, 0);
    file.read_exact_at(&mut found, 0).unwrap();
    assert!(found[..] == bytes[..]);
    drop(disk);
    upper.stop();
    lower.stop();
    assert_eq!(nodes(), [""; 0]);
}

/// Threads and a process that do what they like to one device while it is used.
#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn commands_that_race_over_a_device_in_use_end_in_order_or_in_a_clear_error() {
    if raced() {
        return;
    }
    let mut chance = chance("races");
    let rounds = rounds(20, 1000);
    let params = Params::new(Sectors::new(2048), Cache::None);
    let id = DeviceId::new(42);
    let mut answers = BTreeMap::<String, u64>::new();
    let mut racer = Racer::start(id, "commands_that_race_over_a_device_in_use_end_in_order_or_in_a_clear_error");
    let before = possessions();
    let mut longest = Duration::ZERO;
    for round in 1..=rounds {
        let begun = Instant::now();
        let served = loop {
            let device = quiet_device(8).queues(2).id(id);
            match harness::serve(device, params, |request| request.complete()) {
                Ok(served) => break served,
                // The last one, which a racer has deleted without a wait, is still on its way.
                Err(Error::Control { errno: Errno::EEXIST, .. }) if begun.elapsed() < DEADLINE => thread::yield_now(),
                Err(error) => panic!("{error:?}"),
            }
        };
        let disk = open_direct(id);
        let ends = AtomicBool::new(false);
        racer.go(chance.next());
        let heard = thread::scope(|scope| {
            let (ends, disk) = (&ends, &disk);
            for _ in 0..2 {
                scope.spawn(move || {
                    let mut bytes = Aligned::filled(BLOCK, 0);
                    // Until the disk is gone.
                    while !ends.load(Ordering::Relaxed) && disk.read_exact_at(&mut bytes, 0).is_ok() {}
                });
            }
            let start = |mut chance| scope.spawn(move || race(id, &mut chance));
            let racers = [start(chance.split()), start(chance.split())];
            let mut heard = racer.answers();
            heard.extend(racers.into_iter().flat_map(|racer| racer.join().unwrap()));
            ends.store(true, Ordering::Relaxed);
            heard
        });
        drop(disk);
        match served.stop() {
            Ok(_) => {}
            Err(error) => {
                assert!(is_clear(&error) && heard.contains(&"delete: done".to_owned()), "{error:?}: {heard:?}")
            }
        }
        assert_eq!(nodes(), [""; 0], "{heard:?}");
        longest = longest.max(begun.elapsed());
        assert!(longest < DEADLINE, "{} ms: {heard:?}", longest.as_millis());
        for answer in heard {
            *answers.entry(answer).or_default() += 1;
        }
        if round % 250 == 0 {
            println!("{round} of {rounds} devices");
        }
    }
    assert_eq!(possessions_like(&before)[..2], before[..2], "descriptors, threads");
    racer.end();
    println!(
        "figure: {rounds} devices raced over by 2 threads and a process, with 2 readers, {} ms at most for one:",
        longest.as_millis()
    );
    for (answer, count) in answers {
        println!("figure:   {count} {answer}");
    }
}

/// What a target does with some request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Misdeed {
    /// It panics.
    Panics,
    /// It answers when the server has been told to stop, from another thread.
    IsLate,
    /// It never answers.
    Holds,
    /// It drops the token.
    Drops,
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn targets_that_panic_or_answer_late_or_never_cost_their_clients_an_error_and_nobody_else_anything() {
    // With whoever never answers.
    const PATIENCE: Duration = Duration::from_millis(500);
    let mut chance = chance("misdeeds");
    let rounds = rounds(12, 400);
    let params = Params::new(Sectors::new(2048), Cache::None);
    let mut counts = BTreeMap::<String, u64>::new();
    let before = possessions();
    let mut mappings = before[2];
    for round in 0..rounds {
        // What a first one makes the C library keep; and by then there was each once.
        if round == 4 {
            mappings = possessions()[2];
        }
        let misdeed = match if round < 4 { round } else { chance.below(4) } {
            0 => Misdeed::Panics,
            1 => Misdeed::IsLate,
            2 => Misdeed::Holds,
            _ => Misdeed::Drops,
        };
        let when = chance.below(40);
        let (seen, kept) = (AtomicU64::new(0), Mutex::new(Vec::<DetachedRequest>::new()));
        let (misdone, is_misdone) = mpsc::channel();
        let stop = StopHandle::new().unwrap();
        // Another queue goes on meanwhile.
        let server = Server::new(quiet_device(4).queues(2), params).stop_on(&stop);
        let server = if misdeed == Misdeed::Holds { server.stop_patience(PATIENCE) } else { server };
        let (live, is_live) = mpsc::channel();
        let target = |request: Request<'_>| {
            if request.operation() != Operation::WRITE || seen.fetch_add(1, Ordering::Relaxed) != when {
                return request.complete();
            }
            misdone.send(()).unwrap();
            match misdeed {
                Misdeed::Panics => panic!("planted"),
                Misdeed::IsLate | Misdeed::Holds => kept.lock().unwrap().push(request.detach()),
                Misdeed::Drops => drop(request),
            }
        };
        let ends = AtomicBool::new(false);
        let (ended, errors) = thread::scope(|scope| {
            let server = scope.spawn(|| server.run(target, move |info| live.send(info.id()).unwrap()));
            let id = is_live.recv().unwrap();
            let ends = &ends;
            let client = move |disk: File| {
                let (bytes, mut errors) = (Aligned::filled(BLOCK, 0), 0);
                while !ends.load(Ordering::Relaxed) {
                    match disk.write_all_at(&bytes, 0) {
                        Ok(()) => {}
                        Err(error) if error.raw_os_error() == Some(libc::EIO) => errors += 1,
                        // The disk is gone.
                        Err(_) => break,
                    }
                }
                errors
            };
            // Both are open before there is a WRITE that may end it.
            let clients = [open_direct(id), open_direct(id)].map(|disk| scope.spawn(move || client(disk)));
            is_misdone.recv().unwrap();
            stop.stop();
            if misdeed == Misdeed::IsLate {
                let late = loop {
                    if let Some(late) = kept.lock().unwrap().pop() {
                        break late;
                    }
                    thread::yield_now();
                };
                late.complete().unwrap();
            }
            let ended = server.join().unwrap();
            ends.store(true, Ordering::Relaxed);
            (ended, clients.into_iter().map(|client| client.join().unwrap()).sum::<u64>())
        });
        let is_right = match (misdeed, &ended) {
            (Misdeed::Panics, Err(Error::Panicked { .. })) | (Misdeed::Drops, Ok(_)) => errors > 0,
            // Where the machine is slow the command that waits for the request is late before the request is.
            (Misdeed::Holds, Err(Error::Held { .. } | Error::TimedOut { .. })) => errors > 0,
            (Misdeed::IsLate, Ok(_)) => true,
            _ => false,
        };
        assert!(is_right, "{misdeed:?}: {ended:?}, {errors} errors at the clients");
        assert_eq!(nodes(), [""; 0], "{misdeed:?}");
        let name = if ended.is_ok() { "in order" } else { "with an error that says so" };
        *counts.entry(format!("{misdeed:?}: ended {name}")).or_default() += 1;
    }
    let after = possessions_like(&before);
    let names =
        || fs::read_dir("/proc/self/task").unwrap().map(|task| fs::read_to_string(task.unwrap().path().join("comm")));
    assert_eq!(after[..2], before[..2], "descriptors, threads: {:?}", names().collect::<Vec<_>>());
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    assert!(!maps.contains("[io_uring]") && !maps.contains("/dev/ublkc"), "{maps}");
    // The C library keeps stacks and heaps of threads, a few of each.
    assert!(after[2] < mappings + 32, "{} mappings after {mappings}: {maps}", after[2]);
    println!("figure: {rounds} targets that misbehaved:");
    for (what, count) in counts {
        println!("figure:   {count} {what}");
    }
}
