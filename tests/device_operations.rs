// SPDX-License-Identifier: MIT OR Apache-2.0
//! A target's own operations on its queues' rings, on a real driver.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]
#![allow(clippy::print_stdout, reason = "a test says what was refused and what was counted")]

mod harness;
mod planted;

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command as Program, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use harness::{Aligned, Served, is_mapped, nodes, open_direct, quiet_device, serve_events};
use ublk::mode::{self, Mode};
use ublk::{
    Cache, Control, DeletedId, Device, Errno, Error, Event, Fd, Features, NewDevice, Operation, Params, PreparedQueue,
    QueueId, Request, RingFile, Sectors,
};

const SECTORS: u64 = 16384;

fn params() -> Params {
    Params::new(Sectors::new(SECTORS), Cache::Volatile)
}

/// Whether this driver has these features; if not, the output says what a test has left out.
fn offers(features: Features) -> bool {
    let has_them = Control::open().unwrap().features().unwrap().contains(features);
    if !has_them {
        println!("figure: left out, as this driver lacks {features}");
    }
    has_them
}

/// A file of its own, gone from its folder when it is open.
fn backing() -> File {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = PathBuf::from(format!("/tmp/operations-{}-{count}", std::process::id()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    file.set_len(SECTORS * 512).unwrap();
    file
}

fn fd(file: impl Into<OwnedFd>) -> Fd {
    Fd::from(file.into())
}

/// Serves with one file; other requests than READ and WRITE are completed.
fn serve_with_file<M: Mode>(
    device: NewDevice<M>,
    file: impl Into<OwnedFd>,
    target: impl Fn(RingFile, Event<'_, M>) + Send + Sync + 'static,
) -> Served {
    let file = Mutex::new(fd(file));
    let prepare = move |queue: &mut PreparedQueue<M>| queue.register_file(&file.lock().unwrap());
    serve_events(device, params(), prepare, move |file, event| target(*file, event)).unwrap()
}

fn len_of<M: Mode>(request: &Request<'_, M>) -> usize {
    usize::try_from(request.len_bytes()).unwrap()
}

fn read(disk: &File, len: usize, offset: u64) -> Result<Aligned, Option<i32>> {
    let mut read = Aligned::filled(len, 0x55);
    disk.read_exact_at(&mut read, offset).map(|()| read).map_err(|error| error.raw_os_error())
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn what_a_target_gets_wrong_is_refused_and_nothing_is_started() {
    let device = NewDevice::new().operations(2).depth(1);
    let served = serve_with_file(device, backing(), |file, event| {
        let Event::Request(request) = event else { panic!("nothing was started that moves data") };
        let (operation, len) = (request.operation(), len_of(&request));
        let mut operations = request.operations();
        let invalid = |refused: Result<(), Error>| matches!(refused, Err(Error::Invalid { .. }));
        assert!(invalid(operations.link()));
        if operation == Operation::READ {
            assert!(invalid(operations.write(file, 0, 0..512)));
            assert!(invalid(operations.read(file, 0, 0..len + 1)));
            assert!(invalid(operations.read(file, 0, len..len)));
            assert!(invalid(operations.read_vectored(file, 0, &[])));
            let many: Vec<_> = (0..17).map(|index| index..index + 1).collect();
            assert!(invalid(operations.read_vectored(file, 0, &many)));
            operations.read(file, 0, 0..len).unwrap();
            operations.read(file, 0, 0..len).unwrap();
            assert!(invalid(operations.read(file, 0, 0..len)), "two were asked for");
            assert_eq!(operations.count(), 2);
        }
        // Dropped before it is submitted: none is started, and the request fails.
    });
    let disk = served.open_direct();
    assert_eq!(read(&disk, 4096, 0).err(), Some(Some(Errno::EIO.raw())));
    drop(disk);
    served.stop().unwrap();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_file_of_another_queue_is_refused() {
    let served = {
        let file = Mutex::new(fd(backing()));
        let others = Mutex::new(None);
        let prepare = move |queue: &mut PreparedQueue| {
            let own = queue.register_file(&file.lock().unwrap())?;
            Ok(others.lock().unwrap().replace(own).unwrap_or(own))
        };
        let device = NewDevice::new().queues(2).operations(1);
        serve_events(device, params(), prepare, |file, event| match event {
            Event::Request(request) => {
                let len = len_of(&request);
                let mut operations = request.operations();
                if operations.read(*file, 0, 0..len).is_ok() {
                    operations.submit();
                }
            }
            Event::Completed(completed) => completed.finish(),
        })
        .unwrap()
    };
    if served.info.queues() == 2 {
        let read_on = |cpu: &str| {
            let dd = ["-c", cpu, "dd", "if=/dev/ublkb0", "of=/dev/null", "bs=4096", "count=1", "iflag=direct"];
            Program::new("taskset").args(dd).output()
        };
        // Each CPU has a queue of its own here; one of the two has the other's file.
        let results: Vec<bool> = ["0", "1"].iter().map(|cpu| read_on(cpu).unwrap().status.success()).collect();
        assert!(results.contains(&true) && results.contains(&false), "{results:?}");
    }
    served.stop().unwrap();
}

type Results = Vec<Result<u32, Errno>>;

/// Half of a request, in bytes of its file.
fn request_half(len: usize) -> u64 {
    u64::try_from(len / 2).unwrap()
}

/// Reads the two halves, the second first.
fn halves_are_joined<M: Mode>() {
    let file = backing();
    let bytes: Vec<u8> = (0..64 << 10).map(|index: usize| u8::try_from(index / 256 % 251).unwrap()).collect();
    file.write_all_at(&bytes, 0).unwrap();
    let device = NewDevice::new().mode::<M>().operations(4).depth(4);
    let served = serve_with_file(device, file.try_clone().unwrap(), |file, event| match event {
        Event::Request(request) if request.operation() == Operation::READ => {
            let (len, offset) = (len_of(&request), request.offset_bytes());
            let (half, quarter) = (len / 2, len / 4);
            let mut operations = request.operations();
            operations.read(file, offset + request_half(len), half..len).unwrap();
            // The first half by one operation whose ranges are not in the order of the request.
            match offset {
                0 => operations.read_vectored(file, 0, &[0..quarter, quarter..half]).unwrap(),
                _ => operations.read(file, offset, 0..half).unwrap(),
            }
            operations.label(7);
            operations.submit();
        }
        Event::Request(request) => request.complete(),
        Event::Completed(completed) => {
            assert_eq!(completed.label(), 7);
            assert_eq!(completed.results().count(), 2);
            assert!(completed.rest().is_empty());
            completed.finish();
        }
    });
    let disk = served.open_direct();
    assert!(read(&disk, 16384, 0).unwrap()[..] == bytes[..16384]);
    assert!(read(&disk, 16384, 32768).unwrap()[..] == bytes[32768..49152]);
    drop(disk);
    served.stop().unwrap();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn operations_that_complete_in_whatever_order_are_joined() {
    halves_are_joined::<mode::Copy>();
    halves_are_joined::<mode::UserCopy>();
    if offers(Features::SUPPORT_ZERO_COPY) {
        halves_are_joined::<mode::ZeroCopy>();
        halves_are_joined::<mode::AutoRegister>();
    }
}

/// Of each READ the first half is never read, or the file cannot be read at all; of each WRITE the second half is never written.
fn a_part_is_no_success<M: Mode>() {
    let path = format!("/tmp/write-only-{}", std::process::id());
    let write_only = OpenOptions::new().write(true).create(true).truncate(true).open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    write_only.set_len(SECTORS * 512).unwrap();
    let device = NewDevice::new().mode::<M>().operations(2).depth(4);
    let served = {
        let files = Mutex::new([fd(backing()), fd(write_only)]);
        let prepare = move |queue: &mut PreparedQueue<M>| {
            let files = files.lock().unwrap();
            Ok([queue.register_file(&files[0])?, queue.register_file(&files[1])?])
        };
        serve_events(device, params(), prepare, |[file, unreadable], event| match event {
            Event::Request(request) => {
                let (operation, offset, len) = (request.operation(), request.offset_bytes(), len_of(&request));
                let mut operations = request.operations();
                match (operation, offset) {
                    (Operation::READ, 65536) => operations.read(*file, 0, len / 2..len).unwrap(),
                    (Operation::READ, 131_072) => operations.read(*unreadable, 0, 0..len).unwrap(),
                    (Operation::WRITE, _) => operations.write(*file, offset, 0..len / 2).unwrap(),
                    _ => {}
                }
                operations.submit();
            }
            // Without a look at what became of them.
            Event::Completed(completed) => completed.into_request().complete(),
        })
        .unwrap()
    };
    let disk = served.open_direct();
    let eio = Some(Some(Errno::EIO.raw()));
    assert_eq!(read(&disk, 8192, 65536).err(), eio, "a hole");
    assert_eq!(read(&disk, 8192, 131_072).err(), eio, "an operation that failed");
    assert!(read(&disk, 8192, 0).unwrap().iter().all(|byte| *byte == 0), "nothing was read, and nothing failed");
    let written = disk.write_all_at(&Aligned::filled(8192, 1), 0);
    assert_eq!(written.err().and_then(|error| error.raw_os_error()), Some(Errno::EIO.raw()), "a half of a write");
    drop(disk);
    served.stop().unwrap();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_part_of_the_data_is_never_answered_as_all_of_it() {
    a_part_is_no_success::<mode::Copy>();
    a_part_is_no_success::<mode::UserCopy>();
    if offers(Features::SUPPORT_ZERO_COPY) {
        a_part_is_no_success::<mode::ZeroCopy>();
        a_part_is_no_success::<mode::AutoRegister>();
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_linked_operation_runs_after_the_one_before_and_not_at_all_where_that_failed() {
    let file = backing();
    let seen: Arc<Mutex<Vec<Results>>> = Arc::default();
    let results = seen.clone();
    let served = serve_with_file(NewDevice::new().operations(3).depth(4), file, move |file, event| match event {
        Event::Request(request) if request.operation() == Operation::WRITE => {
            let (offset, len) = (request.offset_bytes(), len_of(&request));
            let mut operations = request.operations();
            // A negative offset is refused by the kernel.
            let offset = if offset == 0 { 1 << 63 } else { offset };
            operations.write(file, offset, 0..len).unwrap();
            operations.link().unwrap();
            operations.fdatasync(file).unwrap();
            operations.submit();
        }
        Event::Request(request) => request.complete(),
        Event::Completed(completed) => {
            results.lock().unwrap().push(completed.results().collect());
            completed.finish();
        }
    });
    let disk = served.open_direct();
    disk.write_all_at(&Aligned::filled(4096, 1), 4096).unwrap();
    let refused = disk.write_all_at(&Aligned::filled(4096, 1), 0);
    assert!(refused.is_err());
    drop(disk);
    served.stop().unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!(seen[0], [Ok(4096), Ok(0)]);
    assert_eq!(seen[1], [Err(Errno::EINVAL), Err(Errno::ECANCELED)]);
}

/// The data of the disk is on the other side of a connection: 8 KiB are sent as they come, and given back.
fn the_data_travels_over_a_socket<M: Mode + mode::ThroughBuffer>() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let peer = thread::spawn(move || {
        let mut data = vec![0; 8192];
        theirs.read_exact(&mut data).unwrap();
        // In two parts, so that one receive has to wait for both.
        theirs.write_all(&data[..5000]).unwrap();
        theirs.write_all(&data[5000..]).unwrap();
    });
    let device = quiet_device(1).mode::<M>().operations(2);
    let served = serve_with_file(device, ours, |socket, event| match event {
        Event::Request(request) => {
            let (operation, len) = (request.operation(), len_of(&request));
            // Whoever looks for partitions.
            if len != 8192 {
                return request.complete();
            }
            let mut operations = request.operations();
            match operation {
                Operation::READ => operations.receive(socket, 0..len).unwrap(),
                _ => operations.send(socket, 0..len).unwrap(),
            }
            operations.submit();
        }
        Event::Completed(completed) => completed.finish(),
    });
    let disk = served.open_direct();
    let data: Vec<u8> = (0..8192_usize).map(|index| u8::try_from(index % 253).unwrap()).collect();
    let mut sent = Aligned::filled(8192, 0);
    sent.copy_from_slice(&data);
    disk.write_all_at(&sent, 0).unwrap();
    assert!(read(&disk, 8192, 0).unwrap()[..] == data[..]);
    drop(disk);
    served.stop().unwrap();
    peer.join().unwrap();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn data_can_be_sent_and_received() {
    the_data_travels_over_a_socket::<mode::Copy>();
    the_data_travels_over_a_socket::<mode::UserCopy>();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_request_waits_for_a_time_for_an_event_and_for_space() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let file = backing();
    file.write_all_at(&[1; 8192], 0).unwrap();
    let kept = file.try_clone().unwrap();
    let files = Mutex::new([fd(ours), fd(file)]);
    let prepare = move |queue: &mut PreparedQueue| {
        let files = files.lock().unwrap();
        Ok([queue.register_file(&files[0])?, queue.register_file(&files[1])?])
    };
    let (told, results) = mpsc::channel();
    let told = Mutex::new(told);
    let params = params().discard(4096, Sectors::new(1024));
    let served =
        serve_events(NewDevice::new().operations(3), params, prepare, move |[socket, file], event| match event {
            Event::Request(request) if request.operation() == Operation::DISCARD => {
                let (offset, len) = (request.offset_bytes(), request.len_bytes());
                let mut operations = request.operations();
                operations.timeout(Duration::from_millis(20)).unwrap();
                operations.poll(*socket, 1).unwrap();
                operations.fallocate(*file, 3, offset, len).unwrap();
                operations.submit();
            }
            Event::Request(request) => request.complete(),
            Event::Completed(completed) => {
                told.lock().unwrap().send(completed.results().collect::<Vec<_>>()).unwrap();
                completed.into_request().complete();
            }
        })
        .unwrap();
    theirs.write_all(b"!").unwrap();
    let discard = Program::new("blkdiscard").args(["-o", "0", "-l", "8192", &served.block_path()]).status();
    assert!(discard.unwrap().success());
    assert_eq!(results.recv().unwrap(), [Err(Errno::ETIME), Ok(1), Ok(0)]);
    let mut stored = [9; 8192];
    kept.read_exact_at(&mut stored, 0).unwrap();
    assert_eq!(stored, [0; 8192]);
    served.stop().unwrap();
}

/// The driver's registration finds no table, as the call that makes it is pretended.
#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn where_the_driver_cannot_register_the_data_is_copied() {
    if !offers(Features::AUTO_BUF_REG) {
        return;
    }
    let file = backing();
    let kept = file.try_clone().unwrap();
    let fell_back = Arc::new(AtomicU64::new(0));
    let count = fell_back.clone();
    thread::spawn(move || {
        planted::pretend_registration(15);
        let device = NewDevice::new().mode::<mode::AutoRegister>().operations(1).depth(4);
        let served = serve_with_file(device, file, move |file, event| match event {
            Event::Request(request) => {
                if request.flags().contains(ublk::RequestFlags::NEED_REG_BUF) {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                let (operation, offset, len) = (request.operation(), request.offset_bytes(), len_of(&request));
                let mut operations = request.operations();
                match operation {
                    Operation::READ => operations.read(file, offset, 0..len).unwrap(),
                    Operation::WRITE => operations.write(file, offset, 0..len).unwrap(),
                    _ => operations.fdatasync(file).unwrap(),
                }
                operations.submit();
            }
            Event::Completed(completed) => completed.finish(),
        });
        let disk = served.open_direct();
        disk.write_all_at(&Aligned::filled(65536, 0x42), 8192).unwrap();
        assert!(read(&disk, 65536, 8192).unwrap().iter().all(|byte| *byte == 0x42));
        drop(disk);
        served.stop().unwrap();
    })
    .join()
    .unwrap();
    let mut stored = [0; 65536];
    kept.read_exact_at(&mut stored, 8192).unwrap();
    assert_eq!(stored, [0x42; 65536]);
    assert!(fell_back.load(Ordering::Relaxed) >= 2, "the driver said that it could not");
}

/// Requests of which some fail in the file, some are cut short and some are dropped.
fn nothing_is_left_registered<M: Mode>() {
    const REQUESTS: u64 = 2_500;
    let file = backing();
    let served =
        serve_with_file(NewDevice::new().mode::<M>().operations(2).depth(8), file, |file, event| match event {
            Event::Request(request) => {
                let (operation, offset, len) = (request.operation(), request.offset_bytes(), len_of(&request));
                let number = offset / 4096;
                let mut operations = request.operations();
                let place = if number % 25 == 1 { 1 << 63 } else { offset };
                let part = if number % 25 == 2 { 0..len / 2 } else { 0..len };
                match operation {
                    Operation::READ => operations.read(file, place, part).unwrap(),
                    Operation::WRITE => operations.write(file, place, part).unwrap(),
                    _ => {}
                }
                if number % 25 != 3 {
                    operations.submit();
                }
            }
            Event::Completed(completed) if completed.request().offset_bytes() / 4096 % 25 == 4 => drop(completed),
            Event::Completed(completed) => completed.finish(),
        });
    let path = served.block_path();
    let (failed, done) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for client in 0..4 {
            let (path, failed, done) = (&path, &failed, &done);
            scope.spawn(move || {
                let _ = path;
                let disk = open_direct(ublk::DeviceId::new(path["/dev/ublkb".len()..].parse().unwrap()));
                let mut buffer = Aligned::filled(4096, 1);
                for number in (client..REQUESTS).step_by(4) {
                    let offset = number % 2000 * 4096;
                    let moved = match number % 3 {
                        0 => disk.write_all_at(&buffer, offset),
                        _ => disk.read_exact_at(&mut buffer, offset),
                    };
                    match moved {
                        Ok(()) => done.fetch_add(1, Ordering::Relaxed),
                        Err(error) if error.kind() != ErrorKind::UnexpectedEof => {
                            failed.fetch_add(1, Ordering::Relaxed)
                        }
                        Err(error) => panic!("{error}"),
                    };
                }
            });
        }
    });
    println!("figure: {REQUESTS} requests in {}: {done:?} done, {failed:?} failed", std::any::type_name::<M>());
    assert_eq!(done.into_inner() + failed.into_inner(), REQUESTS);
    assert_eq!(registered_buffers(), 0, "what was registered was given back");
    served.stop().unwrap();
    assert_eq!(nodes(), Vec::<String>::new());
}

/// Entries of the buffer tables of this process's rings that are not empty, as the kernel lists them.
fn registered_buffers() -> usize {
    let mut found = 0;
    for entry in std::fs::read_dir("/proc/self/fdinfo").unwrap() {
        let about = std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        let lines = about.lines().skip_while(|line| !line.starts_with("UserBufs"));
        found += lines.skip(1).take_while(|line| line.starts_with(' ')).filter(|line| !line.contains("<none>")).count();
    }
    found
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn after_ten_thousand_requests_with_errors_nothing_is_left_registered() {
    nothing_is_left_registered::<mode::Copy>();
    nothing_is_left_registered::<mode::UserCopy>();
    if offers(Features::SUPPORT_ZERO_COPY) {
        nothing_is_left_registered::<mode::ZeroCopy>();
        nothing_is_left_registered::<mode::AutoRegister>();
    }
}

/// Where the kernel's own thread reads a pipe into a tag's buffer, for as long as nobody writes.
fn a_queue_that_is_dropped_leaves_the_buffer<M: Mode + mode::Buffered>() {
    // Its output is a pipe, into which it writes what we give it.
    let mut cat = Program::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (pipe, mut written_late) = (cat.stdout.take().unwrap(), cat.stdin.take().unwrap());
    let mut device =
        Device::add(Control::open().unwrap(), &quiet_device(2).mode::<M>().operations(1), &params()).unwrap();
    let mut prepared = device.queue(QueueId::new(0)).unwrap();
    let file = prepared.register_file(&fd(pipe)).unwrap();
    let (fetched, is_fetched) = mpsc::channel();
    let (started, is_started) = mpsc::channel();
    let info = *device.info();
    let buffer = thread::scope(|scope| {
        let server = scope.spawn(move || {
            let queue = prepared.fetch().unwrap();
            fetched.send(()).unwrap();
            let buffer = loop {
                queue.wait(None).unwrap();
                match queue.next_event().unwrap() {
                    Some(Event::Request(mut request)) if request.offset_bytes() == 1 << 20 => {
                        let buffer = request.cursor().zeroed().as_ptr().addr();
                        let len = len_of(&request);
                        let mut operations = request.operations();
                        operations.read(file, 0, 0..len).unwrap();
                        operations.in_worker().unwrap();
                        operations.submit();
                        // Taken by the kernel, and then the queue goes.
                        queue.wait(Some(Duration::ZERO)).unwrap();
                        break buffer;
                    }
                    Some(Event::Request(request)) => request.complete(),
                    _ => {}
                }
            };
            drop(queue);
            started.send(()).unwrap();
            buffer
        });
        is_fetched.recv().unwrap();
        device.start().unwrap();
        let client = scope.spawn(move || read(&open_direct(info.id()), 4096, 1 << 20).err());
        is_started.recv().unwrap();
        let buffer = server.join().unwrap();
        device.let_go();
        assert_eq!(client.join().unwrap(), Some(Some(Errno::EIO.raw())));
        buffer
    });
    assert!(is_mapped(buffer), "the worker may still write there");
    written_late.write_all(&[0x77; 4096]).unwrap();
    drop(written_late);
    cat.wait().unwrap();
    assert_eq!(device.delete(), Ok(DeletedId::Free));
    assert!(is_mapped(buffer));
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_queue_that_is_dropped_with_an_operation_in_a_worker_leaves_its_buffers_mapped() {
    a_queue_that_is_dropped_leaves_the_buffer::<mode::Copy>();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn the_tags_of_a_queue_are_served_by_several_threads_where_the_driver_can() {
    let mut device = Device::add(Control::open().unwrap(), &NewDevice::new().depth(8), &params()).unwrap();
    let mut first = device.queue(QueueId::new(0)).unwrap();
    let second = match first.split_off(4) {
        Err(error) if !offers(Features::PER_IO_DAEMON) => {
            assert!(error.to_string().contains("UBLK_F_PER_IO_DAEMON (since Linux 6.16)"), "{error}");
            return;
        }
        split => split.unwrap(),
    };
    assert_eq!((first.tags(), second.tags()), (0..4, 4..8));
    assert!(matches!(first.split_off(4), Err(Error::Invalid { .. })));
    assert!(matches!(first.split_off(0), Err(Error::Invalid { .. })));
    let (fetched, is_fetched) = mpsc::channel();
    let info = *device.info();
    let tags: Vec<HashSet<u16>> = thread::scope(|scope| {
        let servers: Vec<_> = [first, second]
            .into_iter()
            .map(|prepared| {
                let fetched = fetched.clone();
                scope.spawn(move || {
                    let queue = prepared.fetch().unwrap();
                    fetched.send(()).unwrap();
                    let mut tags = HashSet::new();
                    while !queue.is_finished() {
                        queue.wait(None).unwrap();
                        while let Some(request) = queue.next_request().unwrap() {
                            tags.insert(request.tag().raw());
                            request.complete();
                        }
                    }
                    tags
                })
            })
            .collect();
        is_fetched.iter().take(2).for_each(drop);
        device.start().unwrap();
        thread::scope(|scope| {
            for client in 0..8_u64 {
                scope.spawn(move || {
                    let disk = open_direct(info.id());
                    for number in 0..100 {
                        read(&disk, 4096, (client * 100 + number) * 4096).unwrap();
                    }
                });
            }
        });
        device.stop().unwrap();
        servers.into_iter().map(|server| server.join().unwrap()).collect()
    });
    println!("figure: tags of two threads: {tags:?}");
    assert!(tags[0].iter().all(|tag| *tag < 4) && tags[1].iter().all(|tag| (4..8).contains(tag)));
    assert!(!tags[0].is_empty() && !tags[1].is_empty());
    assert_eq!(device.delete(), Ok(DeletedId::Free));
}
