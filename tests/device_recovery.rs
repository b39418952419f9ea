// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device that outlives its server: what its clients see meanwhile, how it gets the next one, and how it is stopped.
#![cfg_attr(not(have_ublk), allow(dead_code, reason = "the tests are ignored, not left out"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]

mod harness;
mod planted;

use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use harness::backing::Backing;
use harness::program::Program;
use harness::{Aligned, nodes, open_direct, quiet_device};
use planted::{Direction, direct};
use ublk::{
    Cache, Control, Device, DeviceId, DeviceInfo, Errno, Error, Features, NewDevice, Operation, Params, Queue, QueueId,
    Recovery, Request, Sectors, Server, SharedIndex, SharedMemory, State, StopHandle, Stopped, mode,
};

const SECTORS: Sectors = Sectors::new(2048);

fn offered() -> Features {
    Control::open().unwrap().features().unwrap()
}

fn kinds() -> Vec<Recovery> {
    let all = [Recovery::Plain, Recovery::Reissue, Recovery::FailIo];
    all.into_iter().filter(|kind| offered().contains(kind.features())).collect()
}

/// A disk in memory that every server of one device has.
type Ram = Arc<Mutex<Vec<u8>>>;

fn ram() -> Ram {
    Arc::new(Mutex::new(vec![0; usize::try_from(SECTORS.bytes()).unwrap()]))
}

fn answer(ram: &Ram, mut request: Request<'_>) {
    let mut ram = ram.lock().unwrap();
    let start = usize::try_from(request.offset_bytes()).unwrap();
    let bytes = &mut ram[start..start + usize::try_from(request.len_bytes()).unwrap()];
    match request.operation() {
        Operation::READ => drop(request.cursor().write(bytes)),
        Operation::WRITE => bytes.copy_from_slice(request.data()),
        _ => return request.fail(Errno::EOPNOTSUPP),
    }
    request.complete();
}

fn byte(ram: &Ram, at: usize) -> u8 {
    ram.lock().unwrap()[at]
}

fn params() -> Params {
    Params::new(SECTORS, Cache::None)
}

/// A server in a thread of the test.
struct Running {
    info: DeviceInfo,
    stop: StopHandle,
    hand_over: StopHandle,
    thread: JoinHandle<Result<Stopped, Error>>,
}

impl Running {
    /// Runs the server until it is stopped; with `hands_over` it does so at a word.
    fn start(server: Server, hands_over: bool, ram: &Ram) -> Result<Running, Error> {
        let ram = Arc::clone(ram);
        Running::with(server, hands_over, move |request| answer(&ram, request))
    }

    fn with(
        server: Server,
        hands_over: bool,
        target: impl Fn(Request<'_>) + Send + Sync + 'static,
    ) -> Result<Running, Error> {
        let (stop, hand_over) = (StopHandle::new()?, StopHandle::new()?);
        let mut server = server.stop_on(&stop);
        if hands_over {
            server = server.hand_over_on(&hand_over);
        }
        let (live, is_live) = mpsc::channel();
        let thread = thread::spawn(move || server.run(target, move |info| live.send(*info).unwrap()));
        match is_live.recv() {
            Ok(info) => Ok(Running { info, stop, hand_over, thread }),
            Err(mpsc::RecvError) => Err(thread.join().unwrap().unwrap_err()),
        }
    }

    fn stop(self) {
        self.stop.stop();
        assert_eq!(self.thread.join().unwrap(), Ok(Stopped::Handle));
        assert_eq!(nodes(), [""; 0]);
    }

    fn hand_over(self) {
        self.hand_over.stop();
        assert_eq!(self.thread.join().unwrap(), Ok(Stopped::HandedOver));
    }
}

fn found(id: DeviceId) -> DeviceInfo {
    Control::open().unwrap().info(id).unwrap()
}

fn recover(id: DeviceId, ram: &Ram) -> Running {
    Running::start(Server::recover(NewDevice::new(), found(id)), false, ram).unwrap()
}

fn write_at(id: DeviceId, value: u8, offset: u64) -> JoinHandle<io::Result<()>> {
    let disk = open_direct(id);
    thread::spawn(move || disk.write_all_at(&Aligned::filled(4096, value), offset))
}

fn errno(result: io::Result<()>) -> Option<i32> {
    result.err().map(|error| error.raw_os_error().unwrap())
}

/// Serves a device until the first WRITE comes, and dies over it: as far as the driver can tell, which sees the end of the rings and
/// of the open file.
fn die_over_a_write(device: NewDevice) -> (DeviceId, JoinHandle<io::Result<()>>) {
    let (live, is_live) = mpsc::channel();
    let server = thread::spawn(move || {
        let mut device = Device::add(Control::open().unwrap(), &device, &params()).unwrap();
        let id = device.info().id();
        let queue = device.queue(QueueId::new(0)).unwrap().fetch().unwrap();
        let mut starting = device.begin_start().unwrap();
        while !starting.poll().unwrap() {
            serve_reads(&queue);
            ublk::poll([queue.ring_fd(), starting.fd().raw()], starting.time_left()).unwrap();
        }
        drop(starting);
        live.send(id).unwrap();
        while !serve_reads(&queue) {
            queue.wait(None).unwrap();
        }
        drop(queue);
        // It has a disk, and so is kept.
        drop(device);
    });
    let id = is_live.recv().unwrap();
    let client = write_at(id, 7, 0);
    server.join().unwrap();
    (id, client)
}

/// Answers the READs that there are; whether a WRITE came, which nobody answers.
fn serve_reads(queue: &Queue) -> bool {
    while let std::task::Poll::Ready(Some(request)) = queue.poll_request() {
        let request = request.unwrap();
        if request.operation() == Operation::WRITE {
            std::mem::forget(request);
            return true;
        }
        request.complete();
    }
    false
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn memory_that_the_last_server_shared_is_no_data_until_it_is_taken_back() {
    let features = Features::from_bits(Features::SHMEM_ZC.bits() | quiet_features());
    if !offered().contains(Features::SHMEM_ZC) {
        println!("figure: this driver shares no memory");
        return;
    }
    let (id, _) = die_over_a_write(quiet_device(4).features(features).recovery(Recovery::Plain));
    wait_until_orphaned(id);
    let mut control = Control::open().unwrap();
    let memory = SharedMemory::new(64 << 10).unwrap();
    let (live, is_live) = mpsc::channel();
    let server = thread::spawn(move || {
        let mut device = Device::recover(Control::open().unwrap(), &found(id), &NewDevice::new()).unwrap();
        let queue = device.queue(QueueId::new(0)).unwrap().fetch().unwrap();
        let mut starting = device.begin_start().unwrap();
        let mut told = false;
        loop {
            while let std::task::Poll::Ready(Some(request)) = queue.poll_request() {
                request.unwrap().complete();
            }
            if !told && starting.poll().unwrap() {
                told = true;
                live.send(()).unwrap();
            }
            if queue.is_finished() {
                break;
            }
            let command = if told { -1 } else { starting.fd().raw() };
            ublk::poll([queue.ring_fd(), command], None).unwrap();
        }
        drop(starting);
        let counted = queue.unmoved_shared();
        drop(queue);
        device.delete().unwrap();
        counted
    });
    is_live.recv().unwrap();
    // Somebody else's registration, of which this server knows nothing.
    let index = control.register_shared(id, &memory).unwrap();
    memory.copy_from(0, &[1; 4096]).unwrap();
    let disk = open_direct(id);
    let write = |offset| direct(&disk, offset, memory.fd(), 0, 4096, Direction::Write);
    assert_eq!(write(0).unwrap_err().raw_os_error(), Some(libc::EIO));
    // What is this server's own stays.
    let (own, another) = (SharedMemory::new(4096).unwrap(), SharedMemory::new(4096).unwrap());
    let own = control.register_shared(id, &own).unwrap();
    control.register_shared(id, &another).unwrap();
    assert_eq!(control.unregister_shared_but(id, &[own]), Ok(2));
    assert_eq!(write(0).unwrap(), 4096);
    for gone in [index, SharedIndex::new(own.raw() + 1)] {
        let error = control.unregister_shared(id, gone);
        assert!(matches!(error, Err(Error::Control { errno: Errno::ENOENT, .. })), "{error:?}");
    }
    control.unregister_shared(id, own).unwrap();
    assert_eq!(control.unregister_shared_but(id, &[]), Ok(0));
    drop(disk);
    control.stop(id).unwrap();
    assert_eq!(server.join().unwrap(), 1);
    assert_eq!(nodes(), [""; 0]);
}

/// Waits until nobody serves the device.
fn wait_until_orphaned(id: DeviceId) -> State {
    let mut control = Control::open().unwrap();
    loop {
        match control.info(id).unwrap().state() {
            State::LIVE => thread::yield_now(),
            state => return state,
        }
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn what_a_dead_server_owned_fails_or_goes_to_the_next_one_as_its_recovery_says() {
    for kind in kinds() {
        let (id, owned) = die_over_a_write(quiet_device(4).recovery(kind));
        let state = wait_until_orphaned(id);
        assert_eq!(state, if kind == Recovery::FailIo { State::FAIL_IO } else { State::QUIESCED }, "{kind}");
        assert_eq!(found(id).recovery(), Some(kind));
        let meanwhile = write_at(id, 9, 8192);
        if kind == Recovery::FailIo {
            assert_eq!(errno(meanwhile.join().unwrap()), Some(libc::EREMOTEIO), "{kind}");
            assert_eq!(errno(owned.join().unwrap()), Some(libc::EIO), "{kind}");
            let ram = ram();
            let server = recover(id, &ram);
            write_at(id, 9, 8192).join().unwrap().unwrap();
            assert_eq!(byte(&ram, 8192), 9);
            server.stop();
            continue;
        }
        if kind == Recovery::Plain {
            assert_eq!(errno(owned.join().unwrap()), Some(libc::EIO), "{kind}");
            let ram = ram();
            let server = recover(id, &ram);
            meanwhile.join().unwrap().unwrap();
            assert_eq!([0, 8192].map(|at| byte(&ram, at)), [0, 9]);
            server.stop();
        } else {
            let ram = ram();
            let server = recover(id, &ram);
            meanwhile.join().unwrap().unwrap();
            owned.join().unwrap().unwrap();
            assert_eq!([0, 8192].map(|at| byte(&ram, at)), [7, 9]);
            server.stop();
        }
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_server_that_dies_while_it_takes_over_leaves_the_device_to_the_next() {
    for kind in kinds() {
        let device = quiet_device(4).queues(2).recovery(kind);
        let (id, owned) = die_over_a_write_of_any(device);
        wait_until_orphaned(id);
        for step in 0..4 {
            let mut device = Device::recover(Control::open().unwrap(), &found(id), &NewDevice::new()).unwrap();
            let queues = device.info().queues();
            let prepared: Vec<_> =
                (0..queues.min(step)).map(|queue| device.queue(QueueId::new(queue)).unwrap()).collect();
            // Where it comes so far, one of the queues is fetched, and so not all of them on a machine with more than one CPU.
            if step == 3 {
                thread::scope(|scope| {
                    let mut prepared = prepared;
                    let first = prepared.remove(0);
                    scope.spawn(move || drop(first.fetch().unwrap()));
                });
            }
            drop(device);
            wait_until_orphaned(id);
        }
        let ram = ram();
        let server = recover(id, &ram);
        assert_eq!(owned.join().unwrap().is_ok(), kind == Recovery::Reissue);
        write_at(id, 3, 4096).join().unwrap().unwrap();
        server.stop();
    }
}

/// As [`die_over_a_write`], of a device of several queues: the server is a [`Server`] whose target panics.
fn die_over_a_write_of_any(device: NewDevice) -> (DeviceId, JoinHandle<io::Result<()>>) {
    let held = Arc::new(AtomicBool::new(false));
    let dies = Arc::clone(&held);
    let target = move |request: Request<'_>| match request.operation() {
        Operation::WRITE => {
            std::mem::forget(request);
            dies.store(true, Ordering::Relaxed);
            std::panic::panic_any("this target dies");
        }
        _ => request.complete(),
    };
    let server = Running::with(Server::new(device, params()), false, target).unwrap();
    let id = server.info.id();
    let client = write_at(id, 7, 0);
    let ended = server.thread.join().unwrap();
    assert!(held.load(Ordering::Relaxed) && matches!(ended, Err(Error::Panicked { .. })), "{ended:?}");
    (id, client)
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn what_cannot_be_recovered_is_refused_by_name_and_left_as_it_is() {
    let ram = ram();
    let recover = |found: &DeviceInfo| {
        let mut control = Control::open().unwrap();
        control.set_patience(Duration::from_millis(100), Duration::from_secs(60));
        Device::recover(control, found, &NewDevice::new()).map(drop)
    };
    let plain = Running::start(Server::new(quiet_device(4), params()), false, &ram).unwrap();
    let refused = recover(&plain.info).unwrap_err();
    assert!(refused.to_string().contains("UBLK_F_USER_RECOVERY"), "{refused}");
    let gone = plain.info;
    plain.stop();
    let live = Running::start(Server::new(quiet_device(4).recovery(Recovery::Plain), params()), false, &ram).unwrap();
    let id = live.info.id();
    assert_eq!(recover(&live.info), Err(Error::NotWaiting { device: id, state: State::LIVE }));
    // The same numbers, and another device's.
    let told = ublk::DeviceInfo::from_raw(*gone.as_raw());
    assert!(recover(&told).is_err());
    let control = Control::open().unwrap();
    let other_mode = Device::recover(control, &live.info, &NewDevice::new().mode::<mode::UserCopy>()).unwrap_err();
    assert!(other_mode.to_string().contains("mode"), "{other_mode}");
    if !live.info.features().contains(Features::QUIESCE) {
        let refused = Device::take_over(Control::open().unwrap(), &live.info, &NewDevice::new()).unwrap_err();
        assert!(refused.to_string().contains("UBLK_F_QUIESCE"), "{refused}");
    }
    write_at(id, 1, 0).join().unwrap().unwrap();
    live.stop();
    // Added, and never started.
    let new = quiet_device(4).recovery(Recovery::Plain);
    let device: Device = Device::add(Control::open().unwrap(), &new, &params()).unwrap();
    let id = device.info().id();
    assert_eq!(recover(device.info()), Err(Error::NotWaiting { device: id, state: State::DEAD }));
    drop(device);
    assert_eq!(nodes(), [""; 0]);
}

/// Clients that write and read back all the time, each in its place, until they are told to stop; how often they did.
struct Clients {
    ends: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Clients {
    fn start(id: DeviceId, count: u8) -> Clients {
        let (ends, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..count).map(|client| {
            let (ends, rounds, disk) = (Arc::clone(&ends), Arc::clone(&rounds), open_direct(id));
            thread::spawn(move || {
                let (place, mut value) = (u64::from(client) * 8192, client);
                while !ends.load(Ordering::Relaxed) {
                    value = value.wrapping_add(count);
                    disk.write_all_at(&Aligned::filled(8192, value), place)?;
                    let mut read = Aligned::filled(8192, 0);
                    disk.read_exact_at(&mut read, place)?;
                    assert!(read.iter().all(|byte| *byte == value), "client {client} reads what it did not write");
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        });
        let threads = threads.collect();
        Clients { ends, rounds, threads }
    }

    /// Waits until they have done so much more.
    fn wait_for(&self, more: u64) {
        let until = self.rounds.load(Ordering::Relaxed) + more;
        while self.rounds.load(Ordering::Relaxed) < until {
            assert!(self.threads.iter().any(|client| !client.is_finished()), "every client has ended");
            thread::yield_now();
        }
    }

    fn end(self) {
        self.ends.store(true, Ordering::Relaxed);
        for client in self.threads {
            client.join().unwrap().unwrap();
        }
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_hand_over_under_load_is_a_pause_and_no_error() {
    let mut ways = vec![(Recovery::Reissue, Features::NONE)];
    if offered().contains(Features::QUIESCE) {
        ways.extend(kinds().into_iter().map(|kind| (kind, Features::QUIESCE)));
    }
    for (kind, features) in ways {
        // While nobody serves it, such a device fails everything.
        if kind == Recovery::FailIo {
            continue;
        }
        let ram = ram();
        let device = quiet_device(8).queues(2);
        let asked = Features::from_bits(features.bits() | quiet_features());
        let device = device.recovery(kind).features(asked);
        let mut server = Running::start(Server::new(device, params()), true, &ram).unwrap();
        let id = server.info.id();
        let clients = Clients::start(id, 6);
        for _ in 0..5 {
            clients.wait_for(20);
            server.hand_over();
            server = Running::start(Server::recover(NewDevice::new(), found(id)), true, &ram).unwrap();
        }
        clients.wait_for(20);
        clients.end();
        server.stop();
    }
}

/// That no partitions are looked for, where the driver can do without.
fn quiet_features() -> u64 {
    (Features::NO_AUTO_PART_SCAN.bits()) & offered().bits()
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_server_that_lives_is_relieved_by_the_next_where_the_driver_can_quiesce() {
    if !offered().contains(Features::QUIESCE) {
        let refused = NewDevice::new().recovery(Recovery::Plain).features(Features::QUIESCE);
        let error = Running::start(Server::new(refused, params()), true, &ram()).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("UBLK_F_QUIESCE (since Linux 6.16)"), "{error}");
        assert_eq!(nodes(), [""; 0]);
        return;
    }
    let ram = ram();
    let features = Features::from_bits(Features::QUIESCE.bits() | quiet_features());
    let device = quiet_device(8).queues(2).recovery(Recovery::Plain).features(features);
    let mut server = Running::start(Server::new(device, params()), false, &ram).unwrap();
    let id = server.info.id();
    let clients = Clients::start(id, 6);
    for _ in 0..5 {
        clients.wait_for(20);
        let next = Running::start(Server::take_over(NewDevice::new(), found(id)), false, &ram).unwrap();
        assert_eq!(server.thread.join().unwrap(), Ok(Stopped::HandedOver));
        server = next;
    }
    clients.wait_for(20);
    clients.end();
    server.stop();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_hand_over_that_would_fail_a_request_is_refused_before_there_is_a_device() {
    for device in [quiet_device(4), quiet_device(4).recovery(Recovery::Plain)] {
        let refused = Running::start(Server::new(device, params()), true, &ram()).map(|_| ()).unwrap_err();
        let said = refused.to_string();
        assert!(said.contains("UBLK_F_QUIESCE") && said.contains("UBLK_F_USER_RECOVERY_REISSUE"), "{said}");
        assert_eq!(nodes(), [""; 0]);
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_hand_over_that_waits_in_vain_for_the_target_says_so_and_the_device_waits_for_the_next() {
    let device = quiet_device(4).recovery(Recovery::Reissue);
    let held = Mutex::new(Vec::new());
    let (came, has_come) = mpsc::channel();
    let target = move |request: Request<'_>| match request.operation() {
        Operation::WRITE => {
            held.lock().unwrap().push(request.detach());
            came.send(()).unwrap();
        }
        _ => request.complete(),
    };
    let server = Server::new(device, params()).stop_patience(Duration::from_millis(200));
    let server = Running::with(server, true, target).unwrap();
    let id = server.info.id();
    let client = write_at(id, 5, 0);
    has_come.recv().unwrap();
    server.hand_over.stop();
    let ended = server.thread.join().unwrap();
    assert!(matches!(ended, Err(Error::Held { .. } | Error::TimedOut { .. })), "{ended:?}");
    let ram = ram();
    let server = recover(id, &ram);
    client.join().unwrap().unwrap();
    assert_eq!(byte(&ram, 0), 5);
    server.stop();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn loop_that_is_killed_or_hands_over_is_followed_by_another_with_the_same_bytes() {
    let backing = Backing::new(1 << 20);
    let first = Program::start("loop", &["--recovery", "reissue", "--queues", "2", backing.path()]);
    let id = first.id();
    let number = id.to_string();
    let disk = first.open();
    disk.write_all_at(&Aligned::filled(4096, 1), 0).unwrap();
    first.signal("KILL");
    let (status, _) = first.ended();
    assert!(!status.success());
    let other = Backing::new(1 << 20);
    other.file.set_len(1 << 19).unwrap();
    let refused = std::process::Command::new("loop").args(["--recover", &number, other.path()]).output().unwrap();
    assert!(
        !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("does not have"),
        "{refused:?}"
    );
    let second = Program::start("loop", &["--recover", &number, backing.path()]);
    let mut read = Aligned::filled(4096, 0);
    disk.read_exact_at(&mut read, 0).unwrap();
    assert_eq!(read[0], 1);
    second.signal("USR2");
    let (status, said) = second.ended();
    assert!(status.success() && said.contains("handed over"), "{status}: {said}");
    let third = Program::start("loop", &["--recover", &number, backing.path()]);
    disk.read_exact_at(&mut read, 0).unwrap();
    let last = if offered().contains(Features::QUIESCE) {
        let fourth = Program::start("loop", &["--take-over", &number, backing.path()]);
        let (status, said) = third.ended();
        assert!(status.success() && said.contains("handed over"), "{status}: {said}");
        fourth
    } else {
        third
    };
    disk.read_exact_at(&mut read, 0).unwrap();
    assert_eq!(read[4095], 1);
    drop(disk);
    last.stop();
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_disk_in_use_is_stopped_when_it_is_closed_or_at_the_second_signal() {
    let backing = Backing::new(1 << 20);
    // Before Linux 7.0 whoever has it exclusively is seen alone.
    let open = |disk: &Program| OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(&disk.path).unwrap();
    let (first, mut complaints) = Program::start_heard("loop", &["--id", "5", backing.path()]);
    let user = open(&first);
    first.signal("TERM");
    let mut complaint = String::new();
    complaints.read_line(&mut complaint).unwrap();
    assert!(complaint.contains("/dev/ublkb5 is in use"), "{complaint}");
    let mut byte = Aligned::filled(4096, 0);
    user.read_exact_at(&mut byte, 0).unwrap();
    assert_eq!(nodes(), ["ublkb5", "ublkc5"]);
    drop(user);
    let (status, said) = first.ended();
    assert!(status.success() && said.contains("SIGTERM"), "{status}: {said}");
    assert_eq!(nodes(), [""; 0]);
    let second = Program::start("loop", &["--id", "5", backing.path()]);
    let user = open(&second);
    second.signal("TERM");
    second.signal("INT");
    let (status, said) = second.ended();
    assert!(status.success() && said.contains("SIG"), "{status}: {said}");
    assert!(user.read_exact_at(&mut byte, 4096).is_err());
    drop(user);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn what_a_client_has_left_in_the_page_cache_is_written_before_a_forced_stop_whatever_the_recovery() {
    let kinds = kinds().into_iter().map(|kind| Some(kind.to_string())).chain([None]);
    for kind in kinds {
        let backing = Backing::new(1 << 20);
        let mut arguments = vec!["--id", "6", backing.path()];
        if let Some(kind) = &kind {
            arguments.extend(["--recovery", kind]);
        }
        let server = Program::start("loop", &arguments);
        let mut disk = OpenOptions::new().write(true).custom_flags(libc::O_EXCL).open(&server.path).unwrap();
        disk.write_all(&vec![0x5a; 1 << 20]).unwrap();
        server.signal("TERM");
        server.signal("INT");
        let (status, said) = server.ended();
        assert!(status.success(), "{status}: {said}");
        assert!(fs::read(&backing.path).unwrap().iter().all(|byte| *byte == 0x5a), "{kind:?}");
        drop(disk);
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn what_a_client_has_left_in_the_page_cache_is_written_though_another_request_is_never_answered() {
    let held = SECTORS.bytes() - 4096;
    for kind in kinds().into_iter().map(Some).chain([None]) {
        let (ram, stop) = (ram(), StopHandle::new().unwrap());
        let (arrived, has_arrived) = mpsc::channel();
        let (live, is_live) = mpsc::channel();
        let target = |request: Request<'_>| {
            if request.operation() != Operation::READ || request.offset_bytes() != held {
                return answer(&ram, request);
            }
            core::mem::forget(request.detach());
            arrived.send(()).unwrap();
        };
        let device = quiet_device(4);
        let device = kind.map_or(device, |kind| device.recovery(kind));
        let server = Server::new(device, params()).stop_on(&stop).stop_patience(Duration::from_millis(500));
        thread::scope(|scope| {
            let server = scope.spawn(|| server.run(target, move |info| live.send(info.id()).unwrap()));
            let id = is_live.recv().unwrap();
            let mut disk = OpenOptions::new().write(true).open(format!("/dev/ublkb{id}")).unwrap();
            let client = scope.spawn(move || open_direct(id).read_exact_at(&mut Aligned::filled(4096, 0), held));
            has_arrived.recv().unwrap();
            disk.write_all(&vec![0x5a; 512 << 10]).unwrap();
            stop.stop();
            let ended = server.join().unwrap();
            assert!(matches!(ended, Err(Error::Held { .. } | Error::TimedOut { .. })), "{kind:?}: {ended:?}");
            assert_eq!(errno(client.join().unwrap()), Some(libc::EIO), "{kind:?}");
        });
        assert!(ram.lock().unwrap()[..512 << 10].iter().all(|byte| *byte == 0x5a), "{kind:?}");
        assert_eq!(nodes(), [""; 0], "{kind:?}");
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_disk_whose_node_is_gone_is_in_use_for_all_that_the_server_can_tell_and_what_is_lost_by_a_second_signal_is_an_error()
 {
    let backing = Backing::new(1 << 20);
    let (mut server, complaints) = Program::start_heard("loop", &["--id", "7", "--recovery", "plain", backing.path()]);
    let disk = OpenOptions::new().write(true).custom_flags(libc::O_EXCL).open(&server.path).unwrap();
    (&disk).write_all(&vec![0x5a; 1 << 20]).unwrap();
    fs::remove_file(&server.path).unwrap();
    server.signal("TERM");
    // It says that the disk is in use, and serves on.
    let mut complaints = complaints.lines();
    let said = complaints.next().unwrap().unwrap();
    assert!(said.contains("in use"), "{said}");
    assert!(server.process.try_wait().unwrap().is_none());
    server.signal("TERM");
    let (status, _) = server.ended();
    let said: String = complaints.map(Result::unwrap).collect();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("writing back the page cache of the block device failed: ENOENT"), "{said}");
    drop(disk);
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_live_disk_gets_another_size_where_the_driver_can_and_a_wrong_one_is_refused_before() {
    let ram = ram();
    let server = Running::start(Server::new(quiet_device(4), params().block_bytes(4096)), false, &ram).unwrap();
    let (id, mut control) = (server.info.id(), Control::open().unwrap());
    let size = || fs::read_to_string(format!("/sys/block/ublkb{id}/size")).unwrap().trim().to_owned();
    let half = Sectors::new(1024);
    if offered().contains(Features::UPDATE_SIZE) {
        control.resize(id, half).unwrap();
        assert_eq!((size().as_str(), control.params(id).unwrap().size()), ("1024", half));
        control.resize(id, SECTORS).unwrap();
        open_direct(id).write_all_at(&Aligned::filled(4096, 8), 4096 * 255).unwrap();
        for wrong in [Sectors::new(0), Sectors::new(1025)] {
            let refused = control.resize(id, wrong);
            assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
        }
    } else {
        let refused = control.resize(id, half).unwrap_err();
        assert!(refused.to_string().contains("UBLK_F_UPDATE_SIZE (since Linux 6.16)"), "{refused}");
    }
    assert_eq!(size(), "2048");
    server.stop();
    if offered().contains(Features::UPDATE_SIZE) {
        let device: Device = Device::add(Control::open().unwrap(), &quiet_device(4), &params()).unwrap();
        let refused = control.resize(device.info().id(), half);
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    }
    assert_eq!(nodes(), [""; 0]);
}
