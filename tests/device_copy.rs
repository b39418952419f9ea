// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests in copy mode, from a client's read or write to the target's answer, on a real driver.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]

mod harness;

use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use harness::{Aligned, Served, exists, nodes, serve};
use ublk::{
    Cache, Control, DeletedId, Device, Errno, Error, NewDevice, Operation, Params, QueueId, Request, RequestFlags,
    Sectors, Server, StopHandle, Stopped, Wake,
};

/// 8 MiB, one queue, one request at a time: every request uses the same buffer.
fn one_at_a_time<T>(target: T) -> Served
where
    T: Fn(Request<'_>) + Send + Sync + 'static,
{
    serve(NewDevice::new().depth(1), params(), target).unwrap()
}

fn params() -> Params {
    Params::new(Sectors::new(16384), Cache::None)
}

/// A disk whose every byte says where it stands: the low byte of its 512-byte sector's number, and its place there.
fn pattern(offset: u64, len: usize) -> Vec<u8> {
    (offset..)
        .take(len)
        .map(|byte| u8::try_from((byte / 512).wrapping_mul(31).wrapping_add(byte) % 251).unwrap())
        .collect()
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn what_the_target_does_not_fill_reads_as_zeroes_not_as_an_earlier_request() {
    let served = one_at_a_time(|request| request.complete());
    let disk = served.open_direct();
    disk.write_all_at(&Aligned::filled(64 << 10, 0xaa), 0).unwrap();
    let mut read = Aligned::filled(64 << 10, 0x55);
    disk.read_exact_at(&mut read, 0).unwrap();
    assert!(read.iter().all(|byte| *byte == 0));
    drop(disk);
    assert_eq!(served.stop(), Ok(Stopped::Handle));
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_read_that_is_filled_in_part_has_zeroes_behind_it() {
    let served = one_at_a_time(|mut request| {
        let mut cursor = request.cursor();
        cursor.write(&[0x11; 700]);
        request.complete();
    });
    let disk = served.open_direct();
    disk.write_all_at(&Aligned::filled(8192, 0xaa), 0).unwrap();
    let mut read = Aligned::filled(8192, 0x55);
    disk.read_exact_at(&mut read, 4096).unwrap();
    assert!(read[..700].iter().all(|byte| *byte == 0x11));
    assert!(read[700..].iter().all(|byte| *byte == 0));
    drop(disk);
    served.stop().unwrap();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_failed_read_gives_the_client_no_bytes() {
    let live = Arc::new(AtomicBool::new(false));
    let fail = live.clone();
    let served = one_at_a_time(move |mut request| {
        if request.operation() == Operation::READ && fail.load(Ordering::Acquire) {
            request.cursor().write(&[0x77; 4096]);
            return request.fail(Errno::EIO);
        }
        request.complete();
    });
    live.store(true, Ordering::Release);
    let disk = served.open_direct();
    let mut read = Aligned::filled(4096, 0x55);
    let error = disk.read_exact_at(&mut read, 0).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert!(read.iter().all(|byte| *byte == 0x55));
    drop(disk);
    served.stop().unwrap();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn data_of_every_length_arrives_in_both_directions_over_two_queues() {
    let disk = Arc::new(Mutex::new(vec![0_u8; 8 << 20]));
    let memory = disk.clone();
    let target = move |mut request: Request<'_>| {
        let mut disk = memory.lock().unwrap();
        let start = usize::try_from(request.offset_bytes()).unwrap();
        let range = start..start + usize::try_from(request.len_bytes()).unwrap();
        match request.operation() {
            Operation::WRITE => disk[range].copy_from_slice(request.data()),
            Operation::READ => assert_eq!(request.cursor().write(&disk[range.clone()]), range.len()),
            _ => return request.fail(Errno::EOPNOTSUPP),
        }
        drop(disk);
        request.complete();
    };
    let served = serve(NewDevice::new().queues(2).depth(16), params(), target).unwrap();
    thread::scope(|scope| {
        for half in 0..2_u64 {
            let file = served.open_direct();
            scope.spawn(move || {
                let (mut offset, end) = (half * (4 << 20), (half + 1) * (4 << 20));
                for len in [512, 1024, 4096, 4608, 65536, 512 << 10, 1 << 20].iter().cycle() {
                    if offset + len > end {
                        break;
                    }
                    let len = usize::try_from(*len).unwrap();
                    let mut buffer = Aligned::filled(len, 0);
                    buffer.copy_from_slice(&pattern(offset, len));
                    file.write_all_at(&buffer, offset).unwrap();
                    buffer.fill(0);
                    file.read_exact_at(&mut buffer, offset).unwrap();
                    assert!(*buffer == *pattern(offset, len), "{len} bytes at {offset}");
                    offset += u64::try_from(len).unwrap();
                }
            });
        }
    });
    // What the client wrote is where it belongs on the disk, too.
    assert!(disk.lock().unwrap()[..512] == pattern(0, 512));
    served.stop().unwrap();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_request_that_is_dropped_fails_with_eio_and_the_next_is_served() {
    let served = one_at_a_time(|request| match request.operation() {
        Operation::WRITE => drop(request),
        _ => request.complete(),
    });
    let disk = served.open_direct();
    for _ in 0..3 {
        let error = disk.write_all_at(&Aligned::filled(4096, 1), 0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
    }
    disk.read_exact_at(&mut Aligned::filled(4096, 1), 0).unwrap();
    drop(disk);
    served.stop().unwrap();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn an_errno_that_the_block_layer_knows_reaches_the_client() {
    let served = one_at_a_time(|request| match request.operation() {
        Operation::WRITE => request.fail(Errno::ENOSPC),
        _ => request.complete(),
    });
    let disk = served.open_direct();
    let error = disk.write_all_at(&Aligned::filled(4096, 1), 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    drop(disk);
    served.stop().unwrap();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_target_that_panics_ends_the_server_and_hangs_nobody() {
    let served = serve(NewDevice::new().queues(2).depth(4), params(), |request| {
        assert!(request.operation() != Operation::WRITE, "the target does not like writes");
        request.complete();
    })
    .unwrap();
    let id = served.id();
    let disk = served.open_direct();
    let error = disk.write_all_at(&Aligned::filled(4096, 1), 0).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    drop(disk);
    assert!(matches!(served.join(), Err(Error::Panicked { .. })));
    assert!(!exists(&mut Control::open().unwrap(), id));
    assert_eq!(nodes(), Vec::<String>::new());
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_panic_between_live_and_serving_on_leaves_no_device() {
    let thread = thread::spawn(|| {
        Server::new(NewDevice::new(), params())
            .run(|request| request.complete(), |info| panic!("device {} is not wanted", info.id()))
    });
    assert!(thread.join().is_err());
    assert_eq!(nodes(), Vec::<String>::new());
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_flush_comes_where_the_cache_is_volatile_and_not_where_there_is_none() {
    for (cache, expected) in [(Cache::Volatile, true), (Cache::VolatileWithFua, true), (Cache::None, false)] {
        let flushes = Arc::new(AtomicU64::new(0));
        let count = flushes.clone();
        let served = serve(NewDevice::new(), Params::new(Sectors::new(2048), cache), move |request| {
            if request.operation() == Operation::FLUSH {
                assert_eq!((request.len_bytes(), request.data().len()), (0, 0));
                count.fetch_add(1, Ordering::SeqCst);
            }
            request.complete();
        })
        .unwrap();
        let disk = served.open_direct();
        disk.write_all_at(&Aligned::filled(4096, 1), 0).unwrap();
        disk.sync_all().unwrap();
        assert_eq!(flushes.load(Ordering::SeqCst) > 0, expected, "{cache:?}");
        drop(disk);
        served.stop().unwrap();
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_synchronous_write_carries_fua_where_the_target_honours_it() {
    let forced = Arc::new(AtomicU64::new(0));
    let count = forced.clone();
    let params = Params::new(Sectors::new(2048), Cache::VolatileWithFua);
    let served = serve(NewDevice::new(), params, move |request| {
        if request.operation() == Operation::WRITE && request.flags().contains(RequestFlags::FUA) {
            count.fetch_add(1, Ordering::SeqCst);
        }
        request.complete();
    })
    .unwrap();
    let flags = libc::O_DIRECT | libc::O_DSYNC;
    let disk = std::fs::OpenOptions::new().write(true).custom_flags(flags).open(served.block_path()).unwrap();
    disk.write_all_at(&Aligned::filled(4096, 1), 0).unwrap();
    assert_eq!(forced.load(Ordering::SeqCst), 1);
    drop(disk);
    served.stop().unwrap();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_request_can_be_kept_and_answered_after_others() {
    let mut device = Device::add(Control::open().unwrap(), &NewDevice::new().depth(4), &params()).unwrap();
    let prepared = device.queue(QueueId::new(0)).unwrap();
    let block_path = format!("/dev/ublkb{}", device.info().id());
    let (fetched, is_fetched) = mpsc::channel();
    let (has_first, first_is_there) = mpsc::channel();
    let order = Mutex::new(Vec::new());
    let write = |offset: u64, value: u8| {
        let mut options = std::fs::OpenOptions::new();
        let file = options.write(true).custom_flags(libc::O_DIRECT).open(&block_path).unwrap();
        file.write_all_at(&Aligned::filled(4096, value), offset).unwrap();
        order.lock().unwrap().push(value);
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            let queue = prepared.fetch().unwrap();
            fetched.send(()).unwrap();
            let mut kept = None;
            while !queue.is_finished() {
                assert_ne!(queue.wait(None).unwrap(), Wake::TimedOut);
                while let Some(request) = queue.next_request().unwrap() {
                    if request.operation() == Operation::WRITE && request.offset_bytes() == 0 {
                        kept = Some(request);
                        has_first.send(()).unwrap();
                    } else if request.operation() == Operation::WRITE {
                        request.complete();
                        // The kept one's data is still what its client wrote.
                        let first: Request<'_> = kept.take().expect("the first write came first");
                        assert!(first.data().iter().all(|byte| *byte == 1));
                        first.complete();
                    } else {
                        request.complete();
                    }
                }
            }
        });
        is_fetched.recv().unwrap();
        device.start().unwrap();
        let first = scope.spawn(|| write(0, 1));
        // The second write is what releases the first, so it must come after it.
        first_is_there.recv().unwrap();
        write(8192, 2);
        first.join().unwrap();
        device.stop().unwrap();
    });
    assert_eq!(device.delete(), Ok(DeletedId::Free));
    assert_eq!(order.lock().unwrap().len(), 2);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn two_devices_in_one_process_serve_side_by_side() {
    let first = serve(NewDevice::new(), params(), |mut request| {
        request.cursor().zeroed().fill(1);
        request.complete();
    })
    .unwrap();
    let second = serve(NewDevice::new(), params(), |mut request| {
        request.cursor().zeroed().fill(2);
        request.complete();
    })
    .unwrap();
    assert_ne!(first.id(), second.id());
    for (served, value) in [(&first, 1), (&second, 2)] {
        let mut read = Aligned::filled(4096, 0);
        served.open_direct().read_exact_at(&mut read, 0).unwrap();
        assert!(read.iter().all(|byte| *byte == value));
    }
    first.stop().unwrap();
    let mut read = Aligned::filled(4096, 0);
    second.open_direct().read_exact_at(&mut read, 0).unwrap();
    assert_eq!(read[0], 2);
    second.stop().unwrap();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn one_handle_stops_every_server_that_has_it() {
    let stop = StopHandle::new().unwrap();
    let (live, is_live) = mpsc::channel();
    let servers: Vec<_> = (0..3)
        .map(|_| {
            let (server, live) = (Server::new(NewDevice::new(), params()).stop_on(&stop), live.clone());
            thread::spawn(move || server.run(|request| request.complete(), |_| live.send(()).unwrap()))
        })
        .collect();
    for _ in &servers {
        is_live.recv().unwrap();
    }
    stop.stop();
    for server in servers {
        assert_eq!(server.join().unwrap(), Ok(Stopped::Handle));
    }
    assert_eq!(nodes(), Vec::<String>::new());
    // A server that is made when the handle has said so stops as soon as it is live.
    let late = Server::new(NewDevice::new(), params()).stop_on(&stop);
    assert_eq!(late.run(|request| request.complete(), |_| ()), Ok(Stopped::Handle));
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_device_that_somebody_else_stops_ends_its_server_and_is_deleted() {
    let served = serve(NewDevice::new().queues(2), params(), |request| request.complete()).unwrap();
    let id = served.id();
    let mut control = Control::open().unwrap();
    control.stop(id).unwrap();
    assert_eq!(served.join(), Ok(Stopped::FromOutside));
    assert!(!exists(&mut control, id));
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_server_stops_while_a_client_writes() {
    let served = serve(NewDevice::new().queues(2).depth(8), params(), |request| request.complete()).unwrap();
    let (wrote, has_written) = mpsc::channel();
    let disk = served.open_direct();
    let client = thread::spawn(move || {
        let buffer = Aligned::filled(4096, 3);
        // Until the disk is gone.
        while disk.write_all_at(&buffer, 0).is_ok() {
            let _ = wrote.send(());
        }
    });
    for _ in 0..100 {
        has_written.recv().unwrap();
    }
    assert_eq!(served.stop(), Ok(Stopped::Handle));
    client.join().unwrap();
    assert_eq!(nodes(), Vec::<String>::new());
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_stop_waits_for_a_slow_target_as_long_as_it_answers() {
    const BYTES: u64 = 8 << 20;
    let written = Arc::new(AtomicU64::new(0));
    let count = written.clone();
    let stop = StopHandle::new().unwrap();
    let server = Server::new(NewDevice::new(), params()).stop_on(&stop).stop_patience(Duration::from_millis(1500));
    let (live, is_live) = mpsc::channel();
    let thread = thread::spawn(move || {
        let target = |request: Request<'_>| {
            if request.operation() == Operation::WRITE {
                // A disk that takes its time: for all of it many times the patience.
                thread::sleep(Duration::from_millis(250));
                count.fetch_add(request.len_bytes(), Ordering::SeqCst);
            }
            request.complete();
        };
        server.run(target, |info| live.send(info.id()).unwrap())
    });
    let id = is_live.recv().unwrap();
    let disk = std::fs::OpenOptions::new().write(true).open(format!("/dev/ublkb{id}")).unwrap();
    disk.write_all_at(&vec![1; usize::try_from(BYTES).unwrap()], 0).unwrap();
    stop.stop();
    assert_eq!(thread.join().unwrap(), Ok(Stopped::Handle));
    assert_eq!(written.load(Ordering::SeqCst), BYTES);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_client_that_keeps_the_disk_open_keeps_its_id_and_nothing_else() {
    let served = serve(NewDevice::new(), params(), |request| request.complete()).unwrap();
    let id = served.id();
    let disk = std::fs::OpenOptions::new().write(true).open(served.block_path()).unwrap();
    disk.write_all_at(&[1; 4096], 0).unwrap();
    assert_eq!(served.stop(), Ok(Stopped::Handle));
    assert_eq!(nodes(), Vec::<String>::new());
    let mut control = Control::open().unwrap();
    assert_eq!(control.info(id).unwrap().state(), ublk::State::DEAD);
    drop(disk);
    // Waits until the id is free, if it is not by now.
    assert!(matches!(control.delete(id), Ok(()) | Err(Error::Control { errno: Errno::ENODEV, .. })));
    assert!(!exists(&mut control, id));
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_read_only_disk_refuses_to_be_written() {
    let served = serve(NewDevice::new(), params().read_only(), |request| {
        assert_eq!(request.operation(), Operation::READ);
        request.complete();
    })
    .unwrap();
    let opened = std::fs::OpenOptions::new().write(true).open(served.block_path());
    let refused = match opened {
        Err(error) => error,
        Ok(file) => file.write_all_at(&[1; 4096], 0).unwrap_err(),
    };
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
    served.stop().unwrap();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_server_that_runs_out_of_descriptors_anywhere_fails_and_leaves_no_device() {
    // From a server that gets no descriptor at all to one that lacks the last.
    let before = rlimit_files();
    let mut refused = 0;
    for spare in 1.. {
        set_rlimit_files(open_files() + spare);
        let served = serve(NewDevice::new().queues(2), params(), |request| request.complete());
        set_rlimit_files(before);
        let error = match served {
            Ok(served) => {
                served.stop().unwrap();
                break;
            }
            Err(error) => error,
        };
        refused += 1;
        let out_of_files = match error {
            Error::System { errno, .. } | Error::OpenControl { errno } | Error::OpenCharDevice { errno, .. } => {
                errno == Errno::EMFILE
            }
            _ => false,
        };
        assert!(out_of_files, "{error:?}");
        assert_eq!(nodes(), Vec::<String>::new());
    }
    assert!(refused > 4, "{refused}");
}

fn open_files() -> u64 {
    u64::try_from(std::fs::read_dir("/proc/self/fd").unwrap().count() - 1).unwrap()
}

#[expect(unsafe_code, reason = "a resource limit of this process, with memory of its own")]
fn rlimit_files() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is borrowed for the length of the call.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) }, 0);
    limit.rlim_cur
}

#[expect(unsafe_code, reason = "a resource limit of this process, with memory of its own")]
fn set_rlimit_files(files: u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is borrowed for the length of the call.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) }, 0);
    limit.rlim_cur = files;
    // SAFETY: `limit` is borrowed for the length of the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
}
