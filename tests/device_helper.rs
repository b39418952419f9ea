// SPDX-License-Identifier: MIT OR Apache-2.0
//! Zero copy off the queue's thread on a real driver: requests are handed to threads that register their pages with rings of their own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]
#![allow(clippy::print_stdout, reason = "what is refused is seen in the output")]

mod harness;

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use harness::{Aligned, nodes, open_direct, quiet_device};
use ublk::{
    Cache, Control, DeletedId, DetachedPages, Device, DeviceInfo, Errno, Error, Event, Fd, Features, HelpedRequest,
    Helper, NewDevice, Operation, Params, PreparedQueue, QueueId, RingFile, Sectors, mode,
};

const SECTORS: u64 = 16384;

fn params() -> Params {
    Params::new(Sectors::new(SECTORS), Cache::Volatile)
}

fn device() -> NewDevice<mode::ZeroCopy> {
    quiet_device(16).mode()
}

/// Whether this driver has what it takes. Where it has not, that is refused by name, and nothing is left.
fn can_help() -> bool {
    let before = nodes();
    let wanted = NewDevice::new().mode::<mode::ZeroCopy>().features(Features::BUF_REG_OFF_DAEMON);
    match Device::add(Control::open().unwrap(), &wanted, &params()) {
        Ok(device) => {
            assert_eq!(device.delete(), Ok(DeletedId::Free));
            true
        }
        Err(error) => {
            assert!(matches!(error, Error::Unsupported { .. }), "{error}");
            assert!(error.to_string().contains("UBLK_F_BUF_REG_OFF_DAEMON (since Linux 6.17)"), "{error}");
            assert_eq!(nodes(), before, "nothing is left");
            println!("refused: {error}");
            false
        }
    }
}

/// A file of its own, gone from its folder when it is open.
fn backing(len: u64) -> File {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let path = format!("/tmp/helped-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    file.set_len(len).unwrap();
    file
}

fn ours(file: &File) -> Fd {
    Fd::from(OwnedFd::from(file.try_clone().unwrap()))
}

fn pattern(len: usize, seed: usize) -> Aligned {
    let mut bytes = Aligned::filled(len, 0);
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::try_from((index + index / 512 * 7 + seed * 13) % 251).unwrap();
    }
    bytes
}

/// Gives whatever comes to this, until the queue is finished.
fn hand_out(prepared: PreparedQueue<mode::ZeroCopy>, give: impl Fn(DetachedPages)) {
    let queue = prepared.fetch().unwrap();
    while !queue.is_finished() {
        queue.wait(None).unwrap();
        while let Some(event) = queue.next_event().unwrap() {
            let Event::Request(request) = event else { panic!("no operation of the queue's ring was started") };
            give(request.detach_pages());
        }
    }
}

/// A device with these queues, whose requests go to `help` in one of so many threads, each with its helper; `while_live` is called when
/// it is live.
fn with_helpers(
    wanted: &NewDevice<mode::ZeroCopy>,
    (file, helpers): (&File, usize),
    help: impl Fn(&mut Helper, RingFile, DetachedPages) + Sync,
    while_live: impl FnOnce(&DeviceInfo),
) {
    let mut device = Device::add(Control::open().unwrap(), wanted, &params()).unwrap();
    let info = *device.info();
    let queues: Vec<_> = (0..info.queues()).map(|id| device.queue(QueueId::new(id)).unwrap()).collect();
    let helpers: Vec<(Helper, RingFile)> = (0..helpers)
        .map(|_| {
            let mut helper = queues[0].helper().unwrap();
            let file = helper.register_file(&ours(file)).unwrap();
            (helper, file)
        })
        .collect();
    let (give, requests) = mpsc::channel();
    let requests = Mutex::new(requests);
    thread::scope(|scope| {
        for (mut helper, file) in helpers {
            let (requests, help) = (&requests, &help);
            scope.spawn(move || {
                loop {
                    let next = requests.lock().unwrap().recv();
                    let Ok(request) = next else { return };
                    help(&mut helper, file, request);
                }
            });
        }
        for queue in queues {
            let give = give.clone();
            scope.spawn(move || hand_out(queue, |request| give.send(request).unwrap()));
        }
        drop(give);
        device.start().unwrap();
        while_live(&info);
        device.stop().unwrap();
    });
    assert_eq!(device.delete(), Ok(DeletedId::Free));
}

/// A disk that is a file.
fn help(helper: &mut Helper, file: RingFile, request: DetachedPages) {
    let (operation, offset, len) =
        (request.operation(), request.offset_bytes(), usize::try_from(request.len_bytes()).unwrap());
    let mut helped = helper.serve(request).unwrap();
    let moved = match operation {
        Operation::READ => helped.read(file, offset, 0..len),
        Operation::WRITE => helped.write(file, offset, 0..len),
        Operation::FLUSH => helped.fdatasync(file).map(|()| 0),
        other => panic!("{other:?} was not switched on"),
    };
    match moved {
        Ok(_) => helped.complete().unwrap(),
        Err(errno) => helped.fail(errno).unwrap(),
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_file_is_served_by_threads_that_fetched_no_tag() {
    if !can_help() {
        return;
    }
    for wanted in [device(), device().queues(2), device().batch()] {
        let file = backing(SECTORS * 512);
        with_helpers(&wanted, (&file, 3), help, |info| {
            thread::scope(|scope| {
                for client in 0..4_usize {
                    let file = &file;
                    scope.spawn(move || {
                        let disk = open_direct(info.id());
                        for (seed, len) in [512, 4096, 1536, 65536, 512 << 10, 1 << 20].into_iter().enumerate() {
                            let at = u64::try_from(client << 21 | seed << 10).unwrap();
                            let wanted = pattern(len, seed + client);
                            disk.write_all_at(&wanted, at).unwrap();
                            let mut stored = vec![0; len];
                            file.read_exact_at(&mut stored, at).unwrap();
                            assert!(stored == wanted[..], "what was written is in the file, {len} bytes at {at}");
                            let mut read = Aligned::filled(len, 0xee);
                            disk.read_exact_at(&mut read, at).unwrap();
                            assert!(read[..] == wanted[..], "and is read back, {len} bytes at {at}");
                        }
                        disk.sync_data().unwrap();
                    });
                }
            });
        });
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn what_is_registered_is_given_back_before_each_answer_whichever_it_is() {
    if !can_help() {
        return;
    }
    let file = backing(SECTORS * 512);
    let count = AtomicU64::new(0);
    let end_somehow = |helper: &mut Helper, file, request: DetachedPages| {
        let (write, len) = (request.operation() == Operation::WRITE, usize::try_from(request.len_bytes()).unwrap());
        if !write {
            return help(helper, file, request);
        }
        match count.fetch_add(1, Ordering::Relaxed) % 6 {
            0 => help(helper, file, request),
            1 => helper.serve(request).unwrap().fail(Errno::ENOSPC).unwrap(),
            2 => request.fail(Errno::ENOSPC).unwrap(),
            3 => drop(helper.serve(request).unwrap()),
            4 => drop(request),
            _ => {
                // A part is not the whole; what no request has is no part of it.
                let mut helped: HelpedRequest<'_> = helper.serve(request).unwrap();
                assert_eq!(helped.read(file, 0, 0..len), Err(Errno::EINVAL));
                assert_eq!(helped.write(file, 0, 0..len + 1), Err(Errno::EINVAL));
                assert_eq!(helped.write(file, 0, len - 512..len), Ok(512));
                helped.complete().unwrap();
            }
        }
    };
    with_helpers(&device(), (&file, 2), end_somehow, |info| {
        let disk = open_direct(info.id());
        let expected =
            [None, Some(Errno::ENOSPC), Some(Errno::ENOSPC), Some(Errno::EIO), Some(Errno::EIO), Some(Errno::EIO)];
        for round in 0..240_usize {
            let at = u64::try_from(round % 64 * 4096).unwrap();
            let written = disk.write_all_at(&pattern(4096, round), at);
            let errno = written.err().map(|error| Errno::from_raw(error.raw_os_error().unwrap()));
            assert_eq!(errno, expected[round % 6], "round {round}");
        }
    });
    assert_eq!(count.load(Ordering::Relaxed), 240);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn what_a_helper_did_not_read_is_zeroes_and_a_hole_is_an_error() {
    if !can_help() {
        return;
    }
    // Half of the disk is behind the end of the file.
    let file = backing(SECTORS * 256);
    file.write_all_at(&vec![0x77; usize::try_from(SECTORS * 256).unwrap()], 0).unwrap();
    let read_parts = |helper: &mut Helper, file, request: DetachedPages| {
        let (offset, len) = (request.offset_bytes(), usize::try_from(request.len_bytes()).unwrap());
        let mut helped = helper.serve(request).unwrap();
        match (helped.request().operation(), offset) {
            // The second half alone.
            (Operation::READ, 0) => assert_eq!(helped.read(file, offset, len / 2..len), Ok(len / 2)),
            // The first half in two parts, the later one first.
            (Operation::READ, 65536) => {
                assert_eq!(helped.read(file, offset + 512, 512..len / 2), Ok(len / 2 - 512));
                assert_eq!(helped.read(file, offset, 0..512), Ok(512));
            }
            (Operation::READ, _) => drop(helped.read(file, offset, 0..len)),
            _ => {}
        }
        helped.complete().unwrap();
    };
    with_helpers(&device(), (&file, 1), read_parts, |info| {
        let disk = open_direct(info.id());
        let mut read = Aligned::filled(8192, 0xee);
        let hole = disk.read_exact_at(&mut read, 0).unwrap_err();
        assert_eq!(hole.raw_os_error(), Some(Errno::EIO.raw()));
        let halves = |at: u64| {
            let mut read = Aligned::filled(8192, 0xee);
            disk.read_exact_at(&mut read, at).unwrap();
            (read[..4096].to_vec(), read[4096..].to_vec())
        };
        assert!(halves(SECTORS * 256 - 4096) == (vec![0x77; 4096], vec![0; 4096]), "the end of the file");
        assert!(halves(SECTORS * 512 - 8192) == (vec![0; 4096], vec![0; 4096]), "behind it");
        // The mark goes on only where the parts come in a row.
        let mut read = Aligned::filled(8192, 0xee);
        let backwards = disk.read_exact_at(&mut read, 65536).unwrap_err();
        assert_eq!(backwards.raw_os_error(), Some(Errno::EIO.raw()));
    });
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_request_of_another_device_is_not_served_and_one_that_was_forgotten_keeps_no_pages() {
    if !can_help() {
        return;
    }
    let file = backing(SECTORS * 512);
    let mut other = Device::add(Control::open().unwrap(), &device(), &params()).unwrap();
    let strange = other.queue(QueueId::new(0)).unwrap().helper().unwrap();
    let strange = Mutex::new(Some(strange));
    let serve = |helper: &mut Helper, file, request: DetachedPages| {
        if request.operation() != Operation::WRITE {
            return help(helper, file, request);
        }
        match strange.lock().unwrap().take() {
            Some(mut strange) => {
                let refused = strange.serve(request).unwrap_err();
                assert!(matches!(refused, Error::Invalid { .. }), "{refused}");
            }
            None => help(helper, file, request),
        }
    };
    with_helpers(&device(), (&file, 1), serve, |info| {
        let disk = open_direct(info.id());
        let refused = disk.write_all_at(&pattern(4096, 1), 0).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(Errno::EIO.raw()));
        disk.write_all_at(&pattern(4096, 1), 0).unwrap();
    });
    assert_eq!(other.delete(), Ok(DeletedId::Free));
}

/// The server lets go of its device while a helper has the pages of one request, and has forgotten another.
#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_helper_that_outlives_its_queue_is_told_so_and_keeps_nobody_waiting_once_it_is_gone() {
    if !can_help() {
        return;
    }
    let file = backing(SECTORS * 512);
    let mut device = Device::add(Control::open().unwrap(), &device(), &params()).unwrap();
    let prepared = device.queue(QueueId::new(0)).unwrap();
    let mut helper = prepared.helper().unwrap();
    let file = helper.register_file(&ours(&file)).unwrap();
    let info = Arc::new(*device.info());
    let (give, requests) = mpsc::channel();
    let (fetched, is_fetched) = mpsc::channel();
    let server = thread::spawn(move || {
        let queue = prepared.fetch().unwrap();
        fetched.send(()).unwrap();
        let mut given = 0;
        while given < 2 {
            queue.wait(None).unwrap();
            while let Some(request) = queue.next_request().unwrap() {
                if request.operation() == Operation::WRITE {
                    give.send(request.detach_pages()).unwrap();
                    given += 1;
                } else {
                    request.complete();
                }
            }
        }
        // A duplicate of the ring's descriptor would be for Linux before 6.17, which has no helpers.
        drop(queue);
    });
    is_fetched.recv().unwrap();
    device.start().unwrap();
    let clients = [0, 8192].map(|at| {
        let info = info.clone();
        thread::spawn(move || open_direct(info.id()).write_all_at(&pattern(4096, 1), at))
    });
    let (first, second) = (requests.recv().unwrap(), requests.recv().unwrap());
    core::mem::forget(helper.serve(first).unwrap());
    let mut helped = helper.serve(second).unwrap();
    server.join().unwrap();
    device.let_go();
    let (at, len) = (helped.request().offset_bytes(), 4096);
    // The pages are there as long as they are registered.
    assert_eq!(helped.write(file, at, 0..len), Ok(len));
    assert_eq!(helped.complete(), Err(Error::QueueGone));
    drop(helper);
    for client in clients {
        let failed = client.join().unwrap().unwrap_err();
        assert_eq!(failed.raw_os_error(), Some(Errno::EIO.raw()));
    }
    assert_eq!(device.delete(), Ok(DeletedId::Free));
    assert_eq!(nodes(), Vec::<String>::new());
}
