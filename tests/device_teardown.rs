// SPDX-License-Identifier: MIT OR Apache-2.0
//! What becomes of a queue's memory when the queue ends, on a real driver.
//!
//! The rule is that buffers are unmapped only when the completion of every command that names them was taken. Closing
//! the ring proves nothing. The last test here shows what happens without the rule and without `DEFER_TASKRUN`: the
//! kernel writes into whatever has taken the address.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]
#![expect(unsafe_code, reason = "plays a server that breaks the rule, with commands made by hand")]

mod harness;

use std::ffi::CString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::ptr::NonNull;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use harness::{Aligned, exists, is_mapped, nodes, open_direct, quiet_device};
use ublk::ring::{Kind, Local, Op, Ring, Wide, WideOp};
use ublk::{
    Cache, Command, Control, DeletedId, Device, DeviceInfo, Error, Fd, NewDevice, Operation, Params, PreparedQueue,
    Queue, QueueId, Sectors,
};

fn params() -> Params {
    Params::new(Sectors::new(2048), Cache::None)
}

/// An event for [`Queue::wake_on`], and the end that sets it off.
fn event() -> (Fd, UnixStream) {
    let (read, write) = UnixStream::pair().unwrap();
    (Fd::from(OwnedFd::from(read)), write)
}

/// Serves a queue until its device is stopped or `leave` is closed; where the buffer of the last WRITE is.
fn serve(prepared: PreparedQueue, fetched: &mpsc::Sender<()>, leave: &Fd) -> (Queue, Option<usize>) {
    let queue = prepared.fetch().unwrap();
    queue.wake_on(leave).unwrap();
    fetched.send(()).unwrap();
    let mut seen = None;
    while !queue.is_finished() && !queue.is_woken() {
        queue.wait(None).unwrap();
        while let Some(request) = queue.next_request().unwrap() {
            if request.operation() == Operation::WRITE {
                seen = Some(request.data().as_ptr().addr());
            }
            request.complete();
        }
    }
    (queue, seen)
}

fn write_once(info: &DeviceInfo) {
    let disk = open_direct(info.id());
    disk.write_all_at(&Aligned::filled(4096, 1), 0).unwrap();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn buffers_are_unmapped_after_the_last_completion_was_taken() {
    let mut device = Device::add(Control::open().unwrap(), &quiet_device(4), &params()).unwrap();
    let prepared = device.queue(QueueId::new(0)).unwrap();
    let (fetched, is_fetched) = mpsc::channel();
    let (leave, _kept_open) = event();
    let info = *device.info();
    let buffer = thread::scope(|scope| {
        let server = scope.spawn(|| {
            let (queue, seen) = serve(prepared, &fetched, &leave);
            assert!(queue.is_finished());
            assert!(is_mapped(seen.unwrap()));
            drop(queue);
            seen.unwrap()
        });
        is_fetched.recv().unwrap();
        device.start().unwrap();
        write_once(&info);
        device.stop().unwrap();
        server.join().unwrap()
    });
    assert!(!is_mapped(buffer));
    assert_eq!(device.delete(), Ok(DeletedId::Free));
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_queue_that_is_dropped_with_fetches_in_flight_leaves_its_buffers_mapped() {
    let mut device = Device::add(Control::open().unwrap(), &quiet_device(4), &params()).unwrap();
    let prepared = device.queue(QueueId::new(0)).unwrap();
    let (fetched, is_fetched) = mpsc::channel();
    let (leave, let_it_leave) = event();
    let info = *device.info();
    let buffer = thread::scope(|scope| {
        let server = scope.spawn(|| {
            let (queue, seen) = serve(prepared, &fetched, &leave);
            assert!(!queue.is_finished());
            drop(queue);
            seen.unwrap()
        });
        is_fetched.recv().unwrap();
        device.start().unwrap();
        write_once(&info);
        drop(let_it_leave);
        server.join().unwrap()
    });
    assert!(is_mapped(buffer));
    // With the char device let go the driver ends what the queue left behind, and the device can be deleted.
    device.let_go();
    assert_eq!(device.delete(), Ok(DeletedId::Free));
    assert!(is_mapped(buffer));
    assert_eq!(nodes(), Vec::<String>::new());
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn queues_that_were_never_fetched_leave_nothing() {
    let (mappings, files) = (mappings(), open_files());
    for _ in 0..10 {
        let mut device = Device::add(Control::open().unwrap(), &quiet_device(4).queues(2), &params()).unwrap();
        let queues: Vec<PreparedQueue> =
            (0..device.info().queues()).map(|id| device.queue(QueueId::new(id)).unwrap()).collect();
        drop(queues);
        assert_eq!(device.delete(), Ok(DeletedId::Free));
    }
    assert_eq!((self::mappings(), open_files()), (mappings, files));
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_fetched_device_that_is_not_started_is_stopped_and_leaves_nothing() {
    let (mappings, files) = (mappings(), open_files());
    for _ in 0..5 {
        let mut device = Device::add(Control::open().unwrap(), &quiet_device(8), &params()).unwrap();
        let prepared = device.queue(QueueId::new(0)).unwrap();
        let queue = prepared.fetch().unwrap();
        assert!(queue.next_request().unwrap().is_none());
        device.stop().unwrap();
        while !queue.is_finished() {
            queue.wait(None).unwrap();
            assert!(queue.next_request().unwrap().is_none());
        }
        drop(queue);
        assert_eq!(device.delete(), Ok(DeletedId::Free));
    }
    assert_eq!((self::mappings(), open_files()), (mappings, files));
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_request_that_nobody_answers_fails_when_the_server_lets_go() {
    let mut device = Device::add(Control::open().unwrap(), &quiet_device(2), &params()).unwrap();
    let prepared = device.queue(QueueId::new(0)).unwrap();
    let (fetched, is_fetched) = mpsc::channel();
    let (forgot, has_forgotten) = mpsc::channel();
    let (leave, let_it_leave) = event();
    let info = *device.info();
    thread::scope(|scope| {
        scope.spawn(|| {
            let queue = prepared.fetch().unwrap();
            queue.wake_on(&leave).unwrap();
            fetched.send(()).unwrap();
            while !queue.is_woken() {
                queue.wait(None).unwrap();
                while let Some(request) = queue.next_request().unwrap() {
                    if request.operation() == Operation::WRITE {
                        core::mem::forget(request);
                        forgot.send(()).unwrap();
                    } else {
                        request.complete();
                    }
                }
            }
            assert_eq!(queue.owned(), 1);
        });
        is_fetched.recv().unwrap();
        device.start().unwrap();
        let path = format!("/dev/ublkb{}", info.id());
        let client = scope.spawn(move || {
            let disk = fs::OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path).unwrap();
            disk.write_all_at(&Aligned::filled(4096, 1), 0).unwrap_err()
        });
        has_forgotten.recv().unwrap();
        drop(let_it_leave);
        device.let_go();
        assert_eq!(client.join().unwrap().raw_os_error(), Some(libc::EIO));
    });
    let id = info.id();
    assert_eq!(device.delete(), Ok(DeletedId::Free));
    assert!(!exists(&mut Control::open().unwrap(), id));
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_forgotten_request_can_be_failed_and_its_queue_serves_on_to_a_clean_end() {
    let mut device = Device::add(Control::open().unwrap(), &quiet_device(1), &params()).unwrap();
    let prepared = device.queue(QueueId::new(0)).unwrap();
    let (fetched, is_fetched) = mpsc::channel();
    let info = *device.info();
    let buffer = thread::scope(|scope| {
        let server = scope.spawn(move || {
            let mut queue = prepared.fetch().unwrap();
            fetched.send(()).unwrap();
            let mut forgotten = None;
            while !queue.is_finished() {
                queue.wait(None).unwrap();
                while let Some(request) = queue.next_request().unwrap() {
                    if request.operation() == Operation::WRITE && forgotten.is_none() {
                        forgotten = Some(request.data().as_ptr().addr());
                        core::mem::forget(request);
                    } else {
                        request.complete();
                    }
                }
                queue.fail_forgotten().unwrap();
                assert_eq!(queue.owned(), 0);
            }
            drop(queue);
            forgotten.unwrap()
        });
        is_fetched.recv().unwrap();
        device.start().unwrap();
        let disk = open_direct(info.id());
        let error = disk.write_all_at(&Aligned::filled(4096, 1), 0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        // The one tag there is goes on to the next request.
        disk.write_all_at(&Aligned::filled(4096, 1), 0).unwrap();
        drop(disk);
        device.stop().unwrap();
        server.join().unwrap()
    });
    assert!(!is_mapped(buffer));
    assert_eq!(device.delete(), Ok(DeletedId::Free));
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn each_step_of_a_devices_life_is_taken_once() {
    // On 6.12 a device that is fetched and started again after a stop hangs for good.
    let refused = |error: Error| matches!(error, Error::Invalid { .. });
    let mut device = Device::add(Control::open().unwrap(), &quiet_device(2), &params()).unwrap();
    let prepared = device.queue(QueueId::new(0)).unwrap();
    assert!(refused(device.queue(QueueId::new(0)).unwrap_err()));
    let (fetched, is_fetched) = mpsc::channel();
    let (leave, _kept_open) = event();
    thread::scope(|scope| {
        scope.spawn(|| drop(serve(prepared, &fetched, &leave)));
        is_fetched.recv().unwrap();
        device.start().unwrap();
        assert!(refused(device.start().unwrap_err()));
        assert!(refused(device.queue(QueueId::new(0)).unwrap_err()));
        device.stop().unwrap();
    });
    assert!(refused(device.start().unwrap_err()));
    assert!(refused(device.queue(QueueId::new(0)).unwrap_err()));
    assert_eq!(device.delete(), Ok(DeletedId::Free));
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn one_thread_starts_a_device_and_serves_it() {
    let mut device = Device::add(Control::open().unwrap(), &NewDevice::new().depth(4), &params()).unwrap();
    let queue = device.queue(QueueId::new(0)).unwrap().fetch().unwrap();
    let answer = |queue: &Queue| {
        while let Some(request) = queue.next_request().unwrap() {
            request.complete();
        }
    };
    let mut starting = device.begin_start().unwrap();
    while !starting.poll().unwrap() {
        queue.wait(Some(Duration::from_millis(10))).unwrap();
        answer(&queue);
    }
    let path = format!("/dev/ublkb{}", device.info().id());
    assert!(fs::exists(&path).unwrap());
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            let disk = fs::OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
            disk.write_all_at(&Aligned::filled(4096, 1), 0).unwrap();
        });
        while !client.is_finished() {
            queue.wait(Some(Duration::from_millis(10))).unwrap();
            answer(&queue);
        }
        client.join().unwrap();
        let stop = scope.spawn(|| device.stop());
        while !queue.is_finished() {
            queue.wait(None).unwrap();
            answer(&queue);
        }
        stop.join().unwrap().unwrap();
    });
    drop(queue);
    assert_eq!(device.delete(), Ok(DeletedId::Free));
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_queue_is_woken_once_for_each_time_it_asks() {
    let mut device = Device::add(Control::open().unwrap(), &quiet_device(1), &params()).unwrap();
    let queue = device.queue(QueueId::new(0)).unwrap().fetch().unwrap();
    for _ in 0..3 {
        let (event, set_off) = event();
        queue.wake_on(&event).unwrap();
        assert!(matches!(queue.wake_on(&event), Err(Error::Invalid { .. })));
        assert!(!queue.is_woken());
        drop(set_off);
        while !queue.is_woken() {
            queue.wait(None).unwrap();
            assert!(queue.next_request().unwrap().is_none());
        }
    }
    device.stop().unwrap();
    while !queue.is_finished() {
        queue.wait(None).unwrap();
        assert!(queue.next_request().unwrap().is_none());
    }
    drop(queue);
    assert_eq!(device.delete(), Ok(DeletedId::Free));
}

fn mappings() -> usize {
    fs::read_to_string("/proc/self/maps").unwrap().lines().count()
}

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// A ring that carries I/O commands made by hand.
trait ByHand: Kind {
    fn ring() -> Ring<Self>
    where
        Self: Sized;

    /// Fetches or commits tag 0 of queue 0 with the buffer at `address`.
    fn command(char_device: &Fd, command: Command, result: i32, address: u64) -> Self::Entry;
}

/// `q_id` 0, `tag` 0, and the result at bytes 4 to 7.
fn first_word(result: i32) -> u64 {
    let [r0, r1, r2, r3] = result.to_ne_bytes();
    u64::from_ne_bytes([0, 0, 0, 0, r0, r1, r2, r3])
}

impl ByHand for Wide {
    fn ring() -> Ring<Wide> {
        Ring::wide(4, 4).unwrap()
    }

    fn command(char_device: &Fd, command: Command, result: i32, address: u64) -> WideOp {
        // SAFETY: none; to break this promise is what the test is for. The memory at `address` is a mapping that only the
        // test looks at.
        unsafe { WideOp::uring_cmd(char_device, command.raw(), [first_word(result), address, 0, 0]) }
    }
}

impl ByHand for Local {
    fn ring() -> Ring<Local> {
        Ring::local(4, 4).unwrap().enable().unwrap()
    }

    fn command(char_device: &Fd, command: Command, result: i32, address: u64) -> Op {
        // SAFETY: as above.
        unsafe { Op::uring_cmd(char_device, command.raw(), [first_word(result), address]) }
    }
}

const LEN: usize = 512 << 10;

/// A page-aligned anonymous mapping, at `address` where one is given.
fn map_at(address: Option<NonNull<u8>>) -> NonNull<u8> {
    let fixed = if address.is_some() { libc::MAP_FIXED_NOREPLACE } else { 0 };
    let hint = address.map_or(std::ptr::null_mut(), |address| address.as_ptr().cast());
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | fixed;
    // SAFETY: it replaces no mapping, because of MAP_FIXED_NOREPLACE.
    let mapped = unsafe { libc::mmap(hint, LEN, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    assert_ne!(mapped, libc::MAP_FAILED);
    NonNull::new(mapped.cast()).unwrap()
}

/// A server with one tag that serves until it is live, then closes its ring while a fetch is in flight, unmaps the fetch's
/// buffer, and maps a canary there. A client then writes 0xab to the disk. Returns whether the canary was overwritten.
///
/// The ring's end is put off, as it may always be, by a second descriptor of it.
fn overwrites_the_canary<K: ByHand>() -> bool {
    let mut control = Control::open().unwrap();
    let info = control.add(&quiet_device(1)).unwrap();
    control.set_params(&info, &params()).unwrap();
    let (ready, is_ready) = mpsc::channel();
    let (live, is_live) = mpsc::channel();
    let (mapped, canary_is_mapped) = mpsc::channel();
    let path = format!("/dev/ublkb{}", info.id());
    let (path, id) = (path.as_str(), info.id());
    let overwritten = thread::scope(|scope| {
        let server = scope.spawn(move || {
            let char_device = Fd::open(&CString::new(format!("/dev/ublkc{id}")).unwrap()).unwrap();
            let buffer = map_at(None);
            let address = u64::try_from(buffer.as_ptr().expose_provenance()).unwrap();
            let mut ring = K::ring();
            ring.push(K::command(&char_device, Command::FETCH_REQ, 0, address), 0).unwrap();
            ring.submit().unwrap();
            ready.send(()).unwrap();
            // On 6.12 the driver reads the partition table before the device is live; it is all zeroes here.
            while is_live.try_recv().is_err() {
                ring.submit_and_wait(Some(Duration::from_millis(10))).unwrap();
                while let Some(completion) = ring.next_completion() {
                    assert_eq!(completion.result, 0);
                    let commit = K::command(&char_device, Command::COMMIT_AND_FETCH_REQ, 4096, address);
                    ring.push(commit, 0).unwrap();
                }
            }
            ring.submit().unwrap();
            let second_descriptor = ring.fd().try_clone().unwrap();
            drop(ring);
            // SAFETY: the mapping is the test's own, and no reference into it exists.
            assert_eq!(unsafe { libc::munmap(buffer.as_ptr().cast(), LEN) }, 0);
            let canary = map_at(Some(buffer));
            assert_eq!(canary, buffer);
            mapped.send(()).unwrap();

            // The request has reached the driver, which has told this thread. Any return from the kernel may bring it.
            while in_flight(path) == 0 {
                thread::yield_now();
            }
            let patience = Instant::now() + Duration::from_secs(2);
            let mut overwritten = false;
            while !overwritten && Instant::now() < patience {
                fs::metadata("/").unwrap();
                // SAFETY: one byte of the canary, which is mapped.
                overwritten = unsafe { canary.as_ptr().read_volatile() } == 0xab;
            }
            drop((second_descriptor, char_device));
            // SAFETY: the mapping is the test's own, and no reference into it exists.
            assert_eq!(unsafe { libc::munmap(canary.as_ptr().cast(), LEN) }, 0);
            overwritten
        });
        is_ready.recv().unwrap();
        control.start(info.id()).unwrap();
        live.send(()).unwrap();
        canary_is_mapped.recv().unwrap();
        let disk = fs::OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path).unwrap();
        // Nobody answers it: it fails when the server has let go of the char device. After a plain ring, 6.12 notices that
        // only at the block layer's timeout, 30 s later.
        let error = disk.write_all_at(&Aligned::filled(4096, 0xab), 0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        server.join().unwrap()
    });
    control.delete(info.id()).unwrap();
    overwritten
}

/// Requests that the block layer has given to the driver and not got back.
fn in_flight(block_path: &str) -> u64 {
    let name = block_path.trim_start_matches("/dev/");
    let counts = fs::read_to_string(format!("/sys/block/{name}/inflight")).unwrap();
    counts.split_whitespace().map(|count| count.parse::<u64>().unwrap()).sum()
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn without_deferred_task_work_the_kernel_writes_to_the_old_address_of_a_closed_ring_slow() {
    assert!(overwrites_the_canary::<Wide>());
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn with_deferred_task_work_the_kernel_leaves_the_old_address_of_a_closed_ring_alone() {
    assert!(!overwrites_the_canary::<Local>());
}
