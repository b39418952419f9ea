// SPDX-License-Identifier: MIT OR Apache-2.0
//! The batch transport on a real driver: in every mode, with queues and threads in any ratio; an older driver refuses it by name.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]
#![allow(clippy::print_stdout, reason = "how many queues a machine gives, and what is refused, is seen in the output")]

mod harness;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use harness::file_target::{begin, file, go_on, pattern};
use harness::{Aligned, Served, is_mapped, nodes, open_direct, quiet_device, serve, serve_events, serve_on};
use ublk::mode::{self, Mode, UserCopied};
use ublk::{
    Cache, Control, DeletedId, Device, DeviceInfo, Errno, Error, Event, Fd, NewDevice, Operation, Params,
    PreparedQueue, Queue, QueueId, Request, RequestFlags, Sectors, Server, StopHandle, Stopped,
};

const SECTORS: u64 = 16384;

/// Queues and threads. The driver gives no more queues than there are CPUs.
const RATIOS: [(u16, u16); 4] = [(1, 1), (1, 4), (4, 1), (4, 4)];

fn params() -> Params {
    Params::new(Sectors::new(SECTORS), Cache::Volatile)
}

/// Whether this driver has the transport. Where it has not, that was refused by name, and nothing is left.
fn has_batches() -> bool {
    let before = nodes();
    let refused = serve(NewDevice::new().batch().depth(2), params(), |request| request.complete());
    match refused {
        Ok(served) => {
            assert_eq!(served.stop(), Ok(Stopped::Handle));
            true
        }
        Err(error) => {
            let text = error.to_string();
            assert!(matches!(error, Error::Unsupported { .. }), "{text}");
            assert!(text.contains("UBLK_F_BATCH_IO (since Linux 7.0)"), "{text}");
            assert_eq!(nodes(), before, "nothing is left");
            println!("refused: {text}");
            false
        }
    }
}

/// A disk that is a file, by operations of the rings.
fn serve_file<M: Mode>(file: &File, queues: u16, threads: u16) -> Served {
    let owned = Mutex::new(Fd::from(OwnedFd::from(file.try_clone().unwrap())));
    let device = NewDevice::new().mode::<M>().operations(2).depth(16).queues(queues).batch();
    serve_on(
        threads,
        device,
        params(),
        move |queue| queue.register_file(&owned.lock().unwrap()),
        |file, event| match event {
            Event::Request(request) => {
                // Whoever gave the last request of this tag back also gave back its pages.
                assert!(!request.flags().contains(RequestFlags::NEED_REG_BUF));
                begin(*file, request);
            }
            Event::Completed(completed) => go_on(*file, completed),
        },
    )
    .unwrap()
}

/// Writes and reads of every size, from several clients at once, through a disk that is a file.
fn a_file_is_served<M: Mode>(queues: u16, threads: u16) {
    let file = file(Sectors::new(SECTORS));
    let served = serve_file::<M>(&file, queues, threads);
    let got = served.info.queues();
    println!("figure: {queues} queues asked for, {got} there, {threads} threads");
    let id = served.id();
    let clients = (0..4_usize).map(|client| {
        let file = file.try_clone().unwrap();
        thread::spawn(move || {
            let disk = open_direct(id);
            for (seed, (len, place)) in
                [(512, 0), (4096, 4096), (1536, 512), (65536, 1 << 17), (512 << 10, 1 << 18), (1 << 20, 1 << 20)]
                    .into_iter()
                    .enumerate()
            {
                let offset = (client << 21) + place;
                let at = u64::try_from(offset).unwrap();
                let wanted = pattern(len, offset, seed);
                disk.write_all_at(&wanted, at).unwrap();
                let mut stored = vec![0; len];
                file.read_exact_at(&mut stored, at).unwrap();
                assert!(stored == wanted[..], "what was written is in the file, {len} bytes at {offset}");
                let mut read = Aligned::filled(len, 0xee);
                disk.read_exact_at(&mut read, at).unwrap();
                assert!(read[..] == wanted[..], "and is read back, {len} bytes at {offset}");
            }
            disk.sync_data().unwrap();
        })
    });
    clients.collect::<Vec<_>>().into_iter().for_each(|client| client.join().unwrap());
    assert_eq!(served.stop(), Ok(Stopped::Handle));
}

macro_rules! in_each_mode {
    ($($mode:ident: $test:ident;)*) => {$(
        #[test]
        #[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
        fn $test() {
            if has_batches() {
                for (queues, threads) in RATIOS {
                    a_file_is_served::<mode::$mode>(queues, threads);
                }
            }
        }
    )*};
}

in_each_mode! {
    Copy: a_file_is_served_in_copy_mode_by_threads_and_queues_in_any_ratio;
    UserCopy: a_file_is_served_in_user_copy_by_threads_and_queues_in_any_ratio;
    ZeroCopy: a_file_is_served_in_zero_copy_by_threads_and_queues_in_any_ratio;
    AutoRegister: a_file_is_served_with_automatic_registration_by_threads_and_queues_in_any_ratio;
}

/// Answers from a disk in memory.
fn ram(memory: &Mutex<Vec<u8>>, mut request: Request<'_>) {
    let mut memory = memory.lock().unwrap();
    let (start, len) =
        (usize::try_from(request.offset_bytes()).unwrap(), usize::try_from(request.len_bytes()).unwrap());
    match request.operation() {
        Operation::READ => drop(request.cursor().write(&memory[start..start + len])),
        Operation::WRITE => memory[start..start + len].copy_from_slice(request.data()),
        _ => {}
    }
    request.complete();
}

fn memory() -> Mutex<Vec<u8>> {
    Mutex::new(vec![0_u8; usize::try_from(SECTORS * 512).unwrap()])
}

/// As many clients write blocks of their own and read them back, again and again.
fn clients(info: &DeviceInfo, clients: u8, rounds: u8) {
    let id = info.id();
    thread::scope(|scope| {
        for client in 0..clients {
            scope.spawn(move || {
                let disk = open_direct(id);
                for round in 0..rounds {
                    let offset = (u64::from(client) * 64 + u64::from(round % 64)) * 4096;
                    disk.write_all_at(&Aligned::filled(4096, client ^ round), offset).unwrap();
                    let mut read = Aligned::filled(4096, 0xee);
                    disk.read_exact_at(&mut read, offset).unwrap();
                    assert!(read.iter().all(|byte| *byte == client ^ round), "client {client}, round {round}");
                }
            });
        }
    });
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn ten_thousand_requests_are_each_answered_once_and_every_thread_has_its_turn() {
    if !has_batches() {
        return;
    }
    let (memory, served_by) = (memory(), Arc::new(Mutex::new(BTreeMap::<String, usize>::new())));
    let counts = Arc::clone(&served_by);
    let served = serve_on(
        4,
        NewDevice::new().batch().depth(32),
        params(),
        |_| Ok(()),
        move |(), event| {
            if let Event::Request(request) = event {
                let name = thread::current().name().unwrap().to_owned();
                *counts.lock().unwrap().entry(name).or_default() += 1;
                ram(&memory, request);
            }
        },
    )
    .unwrap();
    clients(&served.info, 25, 200);
    assert_eq!(served.stop(), Ok(Stopped::Handle));
    let counts = served_by.lock().unwrap();
    println!("{counts:?}");
    assert!(counts.values().sum::<usize>() >= 10_000, "{counts:?}");
    assert!(counts.len() == 4 && counts.values().all(|count| *count >= 100), "{counts:?}");
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_server_has_other_than_one_thread_for_each_queue_without_batches_too() {
    for (queues, threads) in [(4, 1), (1, 3)] {
        let (before, memory) = (nodes(), memory());
        let device = NewDevice::new().queues(queues).depth(8);
        let target = move |(): &(), event: Event<'_>| {
            let Event::Request(request) = event else { panic!("no operation was started") };
            ram(&memory, request);
        };
        match serve_on(threads, device, params(), |_| Ok(()), target) {
            Ok(served) => {
                clients(&served.info, 6, 20);
                assert_eq!(served.stop(), Ok(Stopped::Handle));
            }
            Err(error) => {
                assert!(threads > queues && matches!(error, Error::Unsupported { .. }), "{error}");
                println!("refused: {error}");
            }
        }
        assert_eq!(nodes(), before);
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_server_whose_target_forgets_a_request_names_it_and_ends_however_many_threads_it_has() {
    let has_batches = has_batches();
    for (in_batches, queues, threads) in [(false, 4, 1), (true, 4, 1), (true, 1, 4)] {
        if in_batches && !has_batches {
            continue;
        }
        let device = quiet_device(8).queues(queues);
        let device = if in_batches { device.batch() } else { device };
        let (handle, (forgot, has_forgotten)) = (StopHandle::new().unwrap(), mpsc::channel());
        let forgot = Mutex::new(forgot);
        let server = Server::new(device, params()).threads(threads).stop_on(&handle);
        let mut client = None;
        let ended = server.stop_patience(Duration::from_secs(1)).run(
            |request| {
                if request.operation() == Operation::WRITE {
                    core::mem::forget(request);
                    forgot.lock().unwrap().send(()).unwrap();
                } else {
                    request.complete();
                }
            },
            |info| {
                let info = *info;
                client = Some(thread::spawn(move || write_blocks(&info, 1)));
                has_forgotten.recv().unwrap();
                handle.stop();
            },
        );
        assert!(matches!(ended, Err(Error::Held { .. })), "{ended:?}");
        let failed = client.unwrap().join().unwrap().unwrap_err();
        assert_eq!(failed.raw_os_error(), Some(Errno::EIO.raw()));
        assert_eq!(nodes(), Vec::<String>::new());
    }
}

/// An event for [`Queue::wake_on`], and the end that sets it off.
fn event() -> (Fd, UnixStream) {
    let (read, write) = UnixStream::pair().unwrap();
    (Fd::from(OwnedFd::from(read)), write)
}

/// Adds a device with one queue, which `serve` serves in a thread of its own and returns; `while_live` is called when it is live.
fn with_queue<R: Send>(
    device: &NewDevice,
    serve: impl FnOnce(PreparedQueue) -> R + Send,
    while_live: impl FnOnce(&DeviceInfo),
) -> R {
    let mut device = Device::add(Control::open().unwrap(), device, &params()).unwrap();
    let prepared = device.queue(QueueId::new(0)).unwrap();
    let info = *device.info();
    let served = thread::scope(|scope| {
        let server = scope.spawn(|| serve(prepared));
        device.start().unwrap();
        while_live(&info);
        device.stop().unwrap();
        server.join().unwrap()
    });
    assert_eq!(device.delete(), Ok(DeletedId::Free));
    served
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_fetch_that_ends_for_want_of_buffers_is_sent_again_and_nothing_is_lost() {
    if !has_batches() {
        return;
    }
    for room in [1, 3] {
        let memory = memory();
        let again = with_queue(
            &quiet_device(32).batch(),
            |mut prepared| {
                prepared.fetch_room(room);
                let queue = prepared.fetch().unwrap();
                while !queue.is_finished() {
                    queue.wait(None).unwrap();
                    while let Some(request) = queue.next_request().unwrap() {
                        ram(&memory, request);
                    }
                }
                assert_eq!(queue.owned(), 0);
                queue.fetches_sent_again()
            },
            |info| clients(info, 8, 60),
        );
        println!("figure: room for {room}: sent again {again} times");
        // 960 requests, two fetches, of which the last may not be used up.
        assert!(again >= 960 / u64::from(room) - 2, "{again}");
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn more_answers_go_with_one_commit_than_the_driver_copies_at_once() {
    if !has_batches() {
        return;
    }
    // A write of 512 KiB is 128 requests of 4 KiB. The driver copies 480 bytes of elements at a time: 30 of them.
    let device = quiet_device(128).max_io_bytes(4096).batch();
    let most = with_queue(
        &device,
        |prepared| {
            let (queue, mut held, mut most) = (prepared.fetch().unwrap(), Vec::new(), 0);
            while !queue.is_finished() {
                queue.wait(None).unwrap();
                while let Some(request) = queue.next_request().unwrap() {
                    match request.operation() {
                        Operation::WRITE => held.push(request),
                        _ => request.complete(),
                    }
                }
                if held.len() == 128 {
                    most = held.len();
                    held.drain(..).for_each(Request::complete);
                }
            }
            drop(held);
            most
        },
        |info| open_direct(info.id()).write_all_at(&Aligned::filled(512 << 10, 1), 0).unwrap(),
    );
    assert_eq!(most, 128);
}

/// A target that fills nothing.
fn zeroes<M: Mode>(request: Request<'_, M>) {
    request.complete();
}

fn reads_nothing<M: Mode>() {
    let device = NewDevice::new().mode::<M>().depth(2).batch();
    let served = serve_events(
        device,
        params(),
        |_| Ok(()),
        |(), event| match event {
            Event::Request(request) => zeroes(request),
            Event::Completed(completed) => completed.finish(),
        },
    )
    .unwrap();
    let disk = served.open_direct();
    disk.write_all_at(&Aligned::filled(64 << 10, 0x77), 0).unwrap();
    let mut read = Aligned::filled(64 << 10, 0x55);
    disk.read_exact_at(&mut read, 0).unwrap();
    assert!(read.iter().all(|byte| *byte == 0));
    drop(disk);
    served.stop().unwrap();
}

fn copies_by_call<M: UserCopied>() {
    let memory = memory();
    let device = NewDevice::new().mode::<M>().depth(4).batch();
    let served = serve_on(
        2,
        device,
        params(),
        |_| Ok(()),
        move |(), event| {
            let Event::Request(mut request) = event else { panic!("no operation was started") };
            let mut memory = memory.lock().unwrap();
            let (start, len) =
                (usize::try_from(request.offset_bytes()).unwrap(), usize::try_from(request.len_bytes()).unwrap());
            match request.operation() {
                Operation::READ => request.write_at(0, &memory[start..start + len]).unwrap(),
                Operation::WRITE => request.read_at(0, &mut memory[start..start + len]).unwrap(),
                _ => {}
            }
            request.complete();
        },
    )
    .unwrap();
    clients(&served.info, 4, 20);
    served.stop().unwrap();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_read_that_nobody_filled_gives_zeroes_and_bytes_are_copied_by_call() {
    if has_batches() {
        reads_nothing::<mode::Copy>();
        reads_nothing::<mode::UserCopy>();
        reads_nothing::<mode::AutoRegister>();
        copies_by_call::<mode::UserCopy>();
        copies_by_call::<mode::AutoRegister>();
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn requests_are_detached_and_answered_elsewhere() {
    if !has_batches() {
        return;
    }
    let (memory, (give, requests)) = (memory(), mpsc::channel::<ublk::DetachedRequest>());
    let answerer = thread::spawn(move || {
        for mut request in requests {
            let mut memory = memory.lock().unwrap();
            let (start, len) =
                (usize::try_from(request.offset_bytes()).unwrap(), usize::try_from(request.len_bytes()).unwrap());
            match request.operation() {
                Operation::READ => drop(request.cursor().write(&memory[start..start + len])),
                Operation::WRITE => memory[start..start + len].copy_from_slice(request.data()),
                _ => {}
            }
            request.complete().unwrap();
        }
    });
    let give = Mutex::new(give);
    let served = serve_on(
        3,
        NewDevice::new().batch().depth(16),
        params(),
        |_| Ok(()),
        move |(), event| {
            let Event::Request(request) = event else { panic!("no operation was started") };
            let give = give.lock().unwrap().clone();
            give.send(request.detach()).unwrap();
        },
    )
    .unwrap();
    clients(&served.info, 6, 50);
    served.stop().unwrap();
    answerer.join().unwrap();
}

/// Serves a queue until its device is stopped or `leave` is closed; where the buffer of the last WRITE is.
fn serve_until(prepared: PreparedQueue, fetched: &mpsc::Sender<()>, leave: &Fd, seen: &AtomicUsize) -> Queue {
    let queue = prepared.fetch().unwrap();
    queue.wake_on(leave).unwrap();
    fetched.send(()).unwrap();
    while !queue.is_finished() && !queue.is_woken() {
        queue.wait(None).unwrap();
        while let Some(request) = queue.next_request().unwrap() {
            if request.operation() == Operation::WRITE {
                seen.store(request.data().as_ptr().addr(), Ordering::Relaxed);
            }
            request.complete();
        }
    }
    queue
}

/// A queue's device, which two threads are to serve, and a part of the queue that nobody does.
fn shared_by_three() -> (Device, [PreparedQueue; 3]) {
    let mut device = Device::add(Control::open().unwrap(), &quiet_device(4).batch(), &params()).unwrap();
    let mut first = device.queue(QueueId::new(0)).unwrap();
    let mut second = first.share().unwrap();
    let third = second.share().unwrap();
    (device, [first, second, third])
}

fn write_blocks(info: &DeviceInfo, blocks: u64) -> std::io::Result<()> {
    let disk = open_direct(info.id());
    (0..blocks).try_for_each(|block| disk.write_all_at(&Aligned::filled(4096, 1), block % 16 * 4096))
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn buffers_are_unmapped_with_the_last_of_the_threads_that_serve_a_queue() {
    if !has_batches() {
        return;
    }
    let (mut device, [first, second, never_fetched]) = shared_by_three();
    let (fetched, is_fetched) = mpsc::channel();
    let (leave, _kept_open) = event();
    let seen = AtomicUsize::new(0);
    let info = *device.info();
    thread::scope(|scope| {
        let servers = [first, second].map(|prepared| {
            let (fetched, leave, seen) = (fetched.clone(), &leave, &seen);
            scope.spawn(move || {
                let queue = serve_until(prepared, &fetched, leave, seen);
                assert!(queue.is_finished());
            })
        });
        servers.iter().for_each(|_| is_fetched.recv().unwrap());
        device.start().unwrap();
        write_blocks(&info, 16).unwrap();
        device.stop().unwrap();
        servers.into_iter().for_each(|server| server.join().unwrap());
    });
    let buffer = seen.load(Ordering::Relaxed);
    assert!(is_mapped(buffer), "the third keeps them");
    drop(never_fetched);
    assert!(!is_mapped(buffer));
    assert_eq!(device.delete(), Ok(DeletedId::Free));
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn buffers_stay_mapped_where_one_of_the_threads_left_with_fetches_under_way() {
    if !has_batches() {
        return;
    }
    let (mut device, [first, second, never_fetched]) = shared_by_three();
    drop(never_fetched);
    let (fetched, is_fetched) = mpsc::channel();
    let (events, ends): (Vec<Fd>, Vec<UnixStream>) = (0..2).map(|_| event()).unzip();
    let mut ends = ends.into_iter();
    let seen = AtomicUsize::new(0);
    let info = *device.info();
    thread::scope(|scope| {
        let servers = [first, second].into_iter().zip(&events).map(|(prepared, leave)| {
            let (fetched, seen) = (fetched.clone(), &seen);
            scope.spawn(move || {
                let queue = serve_until(prepared, &fetched, leave, seen);
                assert!(!queue.is_finished());
            })
        });
        let mut servers = servers.collect::<Vec<_>>().into_iter();
        (0..2).for_each(|_| is_fetched.recv().unwrap());
        device.start().unwrap();
        write_blocks(&info, 16).unwrap();
        // The driver notices that a ring has ended, and gives up the device. What it has given to that ring by then fails when
        // the char device is let go.
        drop(ends.next());
        servers.next().unwrap().join().unwrap();
        let client = scope.spawn(move || write_blocks(&info, u64::MAX));
        drop(ends.next());
        servers.next().unwrap().join().unwrap();
        device.let_go();
        // What is under way fails; a write that comes when the disk is gone is behind its end.
        let errno = client.join().unwrap().unwrap_err().raw_os_error();
        assert!([Errno::EIO, Errno::ENOSPC].map(|errno| Some(errno.raw())).contains(&errno), "{errno:?}");
    });
    assert!(is_mapped(seen.load(Ordering::Relaxed)));
    assert_eq!(device.delete(), Ok(DeletedId::Free));
    assert!(is_mapped(seen.load(Ordering::Relaxed)));
}

/// KiB of the mappings that a child would not get: all that the crate makes, and none of the standard library's.
fn mappings() -> usize {
    let (mut size, mut all) = (0, 0);
    for line in std::fs::read_to_string("/proc/self/smaps").unwrap().lines() {
        if let Some(number) = line.strip_prefix("Size:") {
            size = number.trim_end_matches("kB").trim().parse().unwrap();
        } else if line.starts_with("VmFlags:") && line.split(' ').any(|flag| flag == "dc") {
            all += size;
        }
    }
    all
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn queues_that_were_prepared_and_never_fetched_leave_nothing() {
    if !has_batches() {
        return;
    }
    let before = (mappings(), open_files());
    for _ in 0..10 {
        let mut device = Device::add(Control::open().unwrap(), &quiet_device(4).batch(), &params()).unwrap();
        let mut queue = device.queue(QueueId::new(0)).unwrap();
        drop((queue.share().unwrap(), queue));
        assert_eq!(device.delete(), Ok(DeletedId::Free));
    }
    assert_eq!((mappings(), open_files()), before);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_server_stops_again_and_again_however_many_threads_it_has() {
    if !has_batches() {
        return;
    }
    let before = (mappings(), open_files());
    for _ in 0..20 {
        let device = NewDevice::new().batch().depth(8);
        let complete = |(): &(), event: Event<'_>| match event {
            Event::Request(request) => request.complete(),
            Event::Completed(completed) => completed.finish(),
        };
        let served = serve_on(4, device, params(), |_| Ok(()), complete).unwrap();
        let disks: Vec<File> = (0..3).map(|_| served.open_direct()).collect();
        thread::scope(|scope| {
            for (disk, client) in disks.into_iter().zip(0..) {
                // The disk goes away under them.
                scope.spawn(move || while disk.write_all_at(&Aligned::filled(4096, 1), client * 4096).is_ok() {});
            }
            assert_eq!(served.stop(), Ok(Stopped::Handle));
        });
    }
    assert_eq!((mappings(), open_files()), before);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn what_takes_batches_is_refused_without_and_what_does_not_with_them() {
    let invalid = |result: Result<(), Error>| assert!(matches!(result, Err(Error::Invalid { .. })), "{result:?}");
    let mut device = Device::add(Control::open().unwrap(), &quiet_device(4), &params()).unwrap();
    let mut queue = device.queue(QueueId::new(0)).unwrap();
    invalid(queue.share().map(drop));
    drop(queue);
    device.delete().unwrap();
    let nobody = serve_on(0, NewDevice::new(), params(), |_| Ok(()), |(), event: Event<'_>| drop(event));
    invalid(nobody.map(|_| ()));
    assert_eq!(nodes(), Vec::<String>::new());
    if !has_batches() {
        return;
    }
    let device = Device::add(Control::open().unwrap(), &quiet_device(4).batch(), &params()).unwrap();
    invalid(device.char_device().map(drop));
    let told = DeviceInfo::told(1, 4, device.info().features());
    invalid(PreparedQueue::adopt(Fd::open(c"/dev/null").unwrap(), &told, QueueId::new(0)).map(drop));
    device.delete().unwrap();
}
