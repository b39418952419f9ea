// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a request costs on the server's side: no allocation, and one system call for all that wait together.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]
#![allow(clippy::print_stdout, reason = "what was counted, and what is refused, is seen in the output")]

mod harness;

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;

use harness::Aligned;
use ublk::{Cache, Control, DeletedId, Device, Error, NewDevice, Operation, Params, QueueId, Sectors};

/// The system's allocator, counting what each thread asks of it.
mod counting {
    #![expect(unsafe_code, reason = "the one way to see allocations; it passes them on")]

    use std::alloc::{GlobalAlloc, Layout, System};

    struct Counting;

    // SAFETY: each call is passed on to System as it came; the counter touches no memory that is being allocated.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            super::ALLOCATIONS.with(|count| count.set(count.get() + 1));
            // SAFETY: as the caller promised.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
            // SAFETY: as the caller promised.
            unsafe { System.dealloc(pointer, layout) }
        }
    }

    #[global_allocator]
    static ALLOCATOR: Counting = Counting;
}

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// How often a thread made each system call, counted by the kernel while `work` runs.
fn system_calls_of(thread: u32, work: impl FnOnce()) -> Vec<(u64, u64)> {
    let events = Path::new("/sys/kernel/tracing/events/raw_syscalls/sys_enter");
    let trigger = format!("hist:keys=common_pid,id if common_pid == {thread}");
    fs::write(events.join("trigger"), &trigger).unwrap();
    work();
    let histogram = fs::read_to_string(events.join("hist")).unwrap();
    fs::write(events.join("trigger"), format!("!{trigger}")).unwrap();
    let number_after = |line: &str, name: &str| {
        let (_, rest) = line.split_once(name).unwrap();
        rest.trim_start().split(|c: char| !c.is_ascii_digit()).next().unwrap().parse::<u64>().unwrap()
    };
    histogram
        .lines()
        .filter(|line| line.starts_with("{ common_pid:"))
        .map(|line| (number_after(line, " id:"), number_after(line, "hitcount:")))
        .collect()
}

/// The system calls of `thread` while `work` runs, and how many waits and requests there were meanwhile. Reads of the
/// partition table may be among them.
fn measure(thread: u32, waits: &AtomicU64, served: &AtomicU64, work: impl FnOnce()) -> (Vec<(u64, u64)>, u64, u64) {
    let before = (waits.load(Ordering::SeqCst), served.load(Ordering::SeqCst));
    let calls = system_calls_of(thread, work);
    (calls, waits.load(Ordering::SeqCst) - before.0, served.load(Ordering::SeqCst) - before.1)
}

/// The kernel's number of the calling thread.
fn thread_id() -> u32 {
    let link = fs::read_link("/proc/thread-self").unwrap();
    link.file_name().unwrap().to_str().unwrap().parse().unwrap()
}

/// A device of one queue.
fn device(wanted: NewDevice) -> Result<Device, Error> {
    let params = Params::new(Sectors::new(16384), Cache::None);
    Device::add(Control::open().unwrap(), &wanted.depth(16), &params)
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_request_costs_one_enter_no_other_system_call_and_no_allocation() {
    costs_one_enter(device(NewDevice::new()).unwrap());
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_batch_costs_one_enter_no_other_system_call_and_no_allocation() {
    match device(NewDevice::new().batch()) {
        Ok(device) => costs_one_enter(device),
        Err(error) => {
            assert!(matches!(error, Error::Unsupported { .. }), "{error}");
            assert!(error.to_string().contains("UBLK_F_BATCH_IO (since Linux 7.0)"), "{error}");
            println!("refused: {error}");
        }
    }
}

/// Has the kernel count what a thread calls that serves this device, and its allocator what it allocates.
fn costs_one_enter(mut device: Device) {
    const REQUESTS: u64 = 500;
    let prepared = device.queue(QueueId::new(0)).unwrap();
    let (fetched, is_fetched) = mpsc::channel();
    let (waits, served) = (AtomicU64::new(0), AtomicU64::new(0));
    let path = format!("/dev/ublkb{}", device.info().id());
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            let queue = prepared.fetch().unwrap();
            fetched.send(thread_id()).unwrap();
            let mut allocations = 0;
            while !queue.is_finished() {
                let before = ALLOCATIONS.with(Cell::get);
                waits.fetch_add(1, Ordering::SeqCst);
                queue.wait(None).unwrap();
                while let Some(mut request) = queue.next_request().unwrap() {
                    served.fetch_add(1, Ordering::SeqCst);
                    if request.operation() == Operation::WRITE {
                        std::hint::black_box(request.data());
                    } else {
                        request.cursor().write(&[7; 100]);
                    }
                    request.complete();
                }
                allocations += ALLOCATIONS.with(Cell::get) - before;
            }
            allocations
        });
        let thread = is_fetched.recv().unwrap();
        device.start().unwrap();

        // A client with one request at a time: each is a batch of its own.
        let disk = fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
        let mut buffer = Aligned::filled(4096, 1);
        disk.read_exact_at(&mut buffer, 0).unwrap();
        let (calls, waited, requests) = measure(thread, &waits, &served, || {
            for _ in 0..REQUESTS {
                disk.write_all_at(&buffer, 0).unwrap();
            }
        });
        println!("one at a time: {requests} requests, {waited} waits, system calls {calls:?}");
        check(&calls, waited);
        assert!(requests >= REQUESTS && waited <= requests + 2);

        // Many at a time: still one call for each wait, however many requests a wait brings.
        let (calls, waited, requests) = measure(thread, &waits, &served, || {
            thread::scope(|clients| {
                for client in 0..8_u64 {
                    let disk = &disk;
                    clients.spawn(move || {
                        let buffer = Aligned::filled(4096, 2);
                        for _ in 0..REQUESTS / 8 {
                            disk.write_all_at(&buffer, client * 4096).unwrap();
                        }
                    });
                }
            });
        });
        println!("eight at a time: {requests} requests, {waited} waits, system calls {calls:?}");
        check(&calls, waited);
        assert!(requests >= REQUESTS / 8 * 8 && waited <= requests + 2);

        drop(disk);
        device.stop().unwrap();
        assert_eq!(server.join().unwrap(), 0, "allocations on the I/O path");
    });
    assert_eq!(device.delete(), Ok(DeletedId::Free));
}

/// Only `io_uring_enter`, once for each wait: the first and the last may lie half outside of the count.
fn check(calls: &[(u64, u64)], waits: u64) {
    let enter = u64::try_from(libc::SYS_io_uring_enter).unwrap();
    let [(call, count)] = calls else { panic!("other system calls than io_uring_enter ({enter}): {calls:?}") };
    assert_eq!(*call, enter);
    assert!(count.abs_diff(waits) <= 1, "{count} enters for {waits} waits");
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn an_answer_from_another_thread_costs_at_most_one_write_and_no_allocation() {
    const REQUESTS: u64 = 300;
    let mut device = device(NewDevice::new()).unwrap();
    let prepared = device.queue(QueueId::new(0)).unwrap();
    let (fetched, is_fetched) = mpsc::channel();
    let (worker, is_worker) = mpsc::channel();
    let (tokens, next_token) = mpsc::channel::<ublk::DetachedRequest>();
    let served = AtomicU64::new(0);
    let path = format!("/dev/ublkb{}", device.info().id());
    let allocated_by = |work: &mut dyn FnMut()| {
        let before = ALLOCATIONS.with(Cell::get);
        work();
        ALLOCATIONS.with(Cell::get) - before
    };
    let (served, allocated_by) = (&served, &allocated_by);
    thread::scope(|scope| {
        let server = scope.spawn(move || {
            let queue = prepared.fetch().unwrap();
            fetched.send(()).unwrap();
            let mut allocations = 0;
            while !queue.is_finished() {
                allocations += allocated_by(&mut || assert!(queue.wait(None).is_ok()));
                while let Some(request) = queue.next_request().unwrap() {
                    let mut request = Some(request);
                    let mut token = None;
                    allocations += allocated_by(&mut || token = request.take().map(ublk::Request::detach));
                    tokens.send(token.unwrap()).unwrap();
                }
            }
            allocations
        });
        let answers = scope.spawn(move || {
            worker.send(thread_id()).unwrap();
            let mut allocations = 0;
            while let Ok(token) = next_token.recv() {
                served.fetch_add(1, Ordering::SeqCst);
                let mut token = Some(token);
                allocations += allocated_by(&mut || token.take().unwrap().complete().unwrap());
            }
            allocations
        });
        is_fetched.recv().unwrap();
        device.start().unwrap();
        let disk = fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
        let buffer = Aligned::filled(4096, 1);
        let (before, thread) = (served.load(Ordering::SeqCst), is_worker.recv().unwrap());
        let calls = system_calls_of(thread, || {
            for _ in 0..REQUESTS {
                disk.write_all_at(&buffer, 0).unwrap();
            }
        });
        let requests = served.load(Ordering::SeqCst) - before;
        println!("{requests} answers from another thread, system calls {calls:?}");
        let writes = calls.iter().find(|(call, _)| *call == u64::try_from(libc::SYS_write).unwrap());
        assert!((1..=requests + 1).contains(&writes.unwrap().1));
        // Beside the bell there is only the channel of this test.
        let known = [libc::SYS_write, libc::SYS_futex].map(|call| u64::try_from(call).unwrap());
        assert!(calls.iter().all(|(call, _)| known.contains(call)), "{calls:?}");
        drop(disk);
        device.stop().unwrap();
        assert_eq!((server.join().unwrap(), answers.join().unwrap()), (0, 0), "allocations on the I/O path");
    });
    assert_eq!(device.delete(), Ok(DeletedId::Free));
}
