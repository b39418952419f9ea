// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a program without unsafe code can do wrong, done with I/O in flight: nothing is written but to buffers that live.
//!
//! A device, four clients that write and read past the page cache until they get an error, and a thread that serves them until it
//! is told to misbehave. What is then allocated in the place of what was freed, and what was there before, has to stay as it is
//! until every client has ended: canaries of a pattern that no client writes.
//!
//! Meanwhile a second descriptor keeps the ring from ending, so that what the clients go on sending is still delivered to it, and
//! the thread lives on and goes in and out of the kernel, which is when a ring of another kind would have its memory written. The
//! descriptor is closed when the thread has ended, and not before: Linux 6.12 gives what is under way on a ring that ends to its
//! thread, and a request that this delivers to a thread that lives is never ended, nor is its device.
#![cfg_attr(not(have_ublk), allow(dead_code, reason = "the tests are ignored, not left out"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]
#![forbid(unsafe_code)]

mod harness;

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use harness::{Aligned, exists, is_mapped, nodes, open_direct, quiet_device};
use ublk::{
    Cache, Control, DeletedId, DetachedRequest, Device, DeviceId, Errno, Error, Fd, NewDevice, Operation, Params,
    PreparedQueue, Queue, QueueId, Request, Sectors, Server, StopHandle, Wake,
};

/// Bytes of a request, and so of a buffer.
const LARGEST: usize = 256 << 10;

/// More tags than clients: some are always fetched.
const DEPTH: u16 = 8;

const CLIENTS: u64 = 4;

/// Clients that begin to write when the misuse is done.
const LATE: u64 = 2;

/// What clients write.
const WRITTEN: u8 = 0xab;

/// What nobody writes but the canaries' own thread.
const PATTERN: u8 = 0x5c;

fn params() -> Params {
    Params::new(Sectors::new(16384), Cache::None)
}

fn device(queues: u16) -> Device {
    let wanted = quiet_device(DEPTH).queues(queues).max_io_bytes(u32::try_from(LARGEST).unwrap());
    Device::add(Control::open().unwrap(), &wanted, &params()).unwrap()
}

/// Memory that has to stay as it is. The parts are of lengths that the allocator gets from the kernel, which puts them where there is
/// room: where a queue's memory was unmapped, if it was, a long one and then a short one.
struct Canaries(Vec<Vec<u8>>);

impl Canaries {
    fn lay() -> Canaries {
        let long = LARGEST * usize::from(DEPTH) * 3 / 4;
        let lens = [long; 8].into_iter().chain([LARGEST + LARGEST / 4; 8]);
        Canaries(lens.map(|len| vec![PATTERN; len]).collect())
    }

    fn assert_intact(&self) {
        // Compared as a whole, which is fast.
        assert!(self.0.iter().all(|part| *part == vec![PATTERN; part.len()]));
    }

    /// Whether they lie where `address` is.
    fn hold(&self, address: usize) -> bool {
        self.0.iter().any(|part| part.as_ptr_range().contains(&std::ptr::without_provenance(address)))
    }
}

/// An event for [`Queue::wake_on`], and the end that sets it off.
fn event() -> (Fd, UnixStream) {
    let (read, write) = UnixStream::pair().unwrap();
    (Fd::from(OwnedFd::from(read)), write)
}

/// Writes, or reads zeroes, until that fails, with the errno that it returns; says when the first has succeeded.
fn client(id: DeviceId, number: u64, begun: &mpsc::Sender<()>) -> Option<i32> {
    let disk = open_direct(id);
    let mut bytes = Aligned::filled(LARGEST, WRITTEN);
    loop {
        let at = number * (1 << 20);
        let done = if number % 2 == 0 { disk.write_all_at(&bytes, at) } else { disk.read_exact_at(&mut bytes, at) };
        if let Err(error) = done {
            return error.raw_os_error();
        }
        assert!(number % 2 == 0 || bytes.iter().all(|byte| *byte == 0));
        // Whoever waited for it may be gone.
        let _ = begun.send(());
    }
}

/// The clients, each of which has had a success.
fn clients<'scope>(scope: &'scope Scope<'scope, '_>, id: DeviceId) -> Vec<ScopedJoinHandle<'scope, Option<i32>>> {
    static UNCOUNTED: AtomicU64 = AtomicU64::new(0);
    counted_clients(scope, id, &UNCOUNTED)
}

/// The same, and `ended` is how many have ended.
fn counted_clients<'scope>(
    scope: &'scope Scope<'scope, '_>,
    id: DeviceId,
    ended: &'scope AtomicU64,
) -> Vec<ScopedJoinHandle<'scope, Option<i32>>> {
    let clients = (0..CLIENTS).map(|number| {
        let (begun, has_begun) = mpsc::channel();
        let client = scope.spawn(move || {
            let errno = client(id, number, &begun);
            ended.fetch_add(1, Ordering::Relaxed);
            errno
        });
        has_begun.recv().unwrap();
        client
    });
    clients.collect()
}

/// The errnos with which they ended.
fn join(clients: Vec<ScopedJoinHandle<'_, Option<i32>>>) -> Vec<Option<i32>> {
    clients.into_iter().map(|client| client.join().unwrap()).collect()
}

/// Answers what there is.
fn answer_all(queue: &Queue) {
    while let Some(request) = queue.next_request().unwrap() {
        request.complete();
    }
}

/// Serves until `leave` is set off, or the device is stopped.
fn serve_until(queue: &Queue, leave: &Fd) {
    queue.wake_on(leave).unwrap();
    while !queue.is_woken() && !queue.is_finished() {
        queue.wait(None).unwrap();
        answer_all(queue);
    }
}

/// Serves until the device is stopped.
fn serve_to_the_end(queue: &Queue) {
    while !queue.is_finished() {
        queue.wait(None).unwrap();
        answer_all(queue);
    }
}

/// The next request that the clients send.
fn next(queue: &Queue) -> Request<'_> {
    loop {
        if let Some(request) = queue.next_request().unwrap() {
            return request;
        }
        queue.wait(None).unwrap();
    }
}

/// The next WRITE, detached.
fn next_write(queue: &Queue) -> DetachedRequest {
    loop {
        let request = next(queue);
        if request.operation() == Operation::WRITE {
            return request.detach();
        }
        request.complete();
    }
}

/// Where the buffer of the next WRITE is, which is answered.
fn answered_write(queue: &Queue) -> usize {
    let request = next_write(queue);
    let buffer = request.data().as_ptr().addr();
    request.complete().unwrap();
    // The queue hears of it now, and not in the middle of what comes next.
    queue.wait(Some(Duration::ZERO)).unwrap();
    buffer
}

fn shows_what_was_written(request: &DetachedRequest) -> bool {
    request.data().len() == LARGEST && request.data().iter().all(|byte| *byte == WRITTEN)
}

/// Goes in and out of the kernel, each way out of which may bring what waits for this thread.
fn enter_the_kernel(times: u32) {
    for _ in 0..times {
        fs::metadata("/").unwrap();
    }
}

/// What the thread of a misused queue leaves behind when it ends.
struct Left<K> {
    kept: K,
    canaries: [Canaries; 2],
}

/// Serves a device until its clients are at work, and then has `early` misbehave. When every client has ended or waits, the thread
/// ends. The clients do when the ring has ended and the device was let go. What `early` returned is then looked at by `late`. The
/// clients' errnos.
fn misuse<K: Send>(early: impl FnOnce(Queue) -> K + Send, late: impl FnOnce(K)) -> Vec<Option<i32>> {
    let mut device = device(1);
    let prepared = device.queue(QueueId::new(0)).unwrap();
    let id = device.info().id();
    let (leave, set_off) = event();
    // The ring's second descriptor waits here.
    let (second, ring) = mpsc::channel();
    let (misbehaved, has_misbehaved) = mpsc::channel();
    let ended = &AtomicU64::new(0);
    let (left, errnos) = thread::scope(|scope| {
        let server = scope.spawn(move || {
            let before = Canaries::lay();
            let queue = prepared.fetch().unwrap();
            second.send(queue.as_fd().try_clone_to_owned().unwrap()).unwrap();
            serve_until(&queue, &leave);
            let buffer = answered_write(&queue);
            let kept = early(queue);
            let after = Canaries::lay();
            // It is the kernel's still, as that of every tag that is fetched, and nobody else has got it.
            assert!(is_mapped(buffer) && !after.hold(buffer));
            misbehaved.send(()).unwrap();
            while in_flight(id) + ended.load(Ordering::Relaxed) < CLIENTS + LATE {
                enter_the_kernel(1);
            }
            enter_the_kernel(1000);
            before.assert_intact();
            after.assert_intact();
            Left { kept, canaries: [before, after] }
        });
        device.start().unwrap();
        let clients = counted_clients(scope, id, ended);
        drop(set_off);
        // Where the thread has failed, its end is told below.
        if has_misbehaved.recv().is_ok() {
            // What these write is sent when the canaries are there.
            for number in 0..LATE {
                scope.spawn(move || {
                    client(id, CLIENTS + 2 * number, &mpsc::channel().0);
                    ended.fetch_add(1, Ordering::Relaxed);
                });
            }
        }
        let left = server.join();
        drop(ring);
        device.let_go();
        (left, join(clients))
    });
    let Left { kept, canaries } = left.unwrap();
    late(kept);
    for canaries in canaries {
        canaries.assert_intact();
    }
    assert_eq!(device.delete(), Ok(DeletedId::Free));
    assert_eq!(nodes(), [""; 0]);
    errnos
}

/// Requests that the block layer has given to the driver and not got back.
fn in_flight(id: DeviceId) -> u64 {
    let counts = fs::read_to_string(format!("/sys/block/ublkb{id}/inflight")).unwrap();
    counts.split_whitespace().map(|count| count.parse::<u64>().unwrap()).sum()
}

// A queue that is dropped while its tags are in flight leaves its memory mapped, for good: that is the price.

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_queue_that_is_dropped_early_leaks_its_memory_and_nothing_else_is_written() {
    misuse(
        |queue| {
            let buffer = answered_write(&queue);
            drop(queue);
            buffer
        },
        |buffer| assert!(is_mapped(buffer)),
    );
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn answers_that_a_dropped_queue_had_staged_are_given() {
    let errnos = misuse(
        |queue| {
            let detached = next_write(&queue);
            let (first, second) = (next(&queue), next(&queue));
            first.complete();
            second.fail(Errno::ENOSPC);
            detached.fail(Errno::ETIMEDOUT).unwrap();
            assert_eq!((queue.owned(), queue.unanswered()), (1, 0));
            drop(queue);
        },
        |()| (),
    );
    let of = |errno: Errno| errnos.iter().filter(|other| **other == Some(errno.raw())).count();
    assert_eq!((of(Errno::ENOSPC), of(Errno::ETIMEDOUT)), (1, 1), "{errnos:?}");
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn requests_that_are_forgotten_or_dropped_before_the_queue_is_hurt_nobody() {
    misuse(
        |queue| {
            mem::forget(next(&queue));
            drop(next(&queue));
            mem::forget(next(&queue));
            assert_eq!((queue.owned(), queue.unanswered()), (2, 1));
            drop(queue);
        },
        |()| (),
    );
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_detached_request_that_is_forgotten_leaks_the_memory_of_its_queue() {
    misuse(
        |queue| {
            let request = next_write(&queue);
            let buffer = request.data().as_ptr().addr();
            mem::forget(request);
            drop(queue);
            buffer
        },
        |buffer| assert!(is_mapped(buffer)),
    );
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn what_a_token_shows_stays_as_it_is_beyond_its_queue_and_its_device() {
    misuse(
        |queue| {
            let (first, second) = (next_write(&queue), next_write(&queue));
            assert!(shows_what_was_written(&first) && shows_what_was_written(&second));
            drop(queue);
            assert!(shows_what_was_written(&first));
            (first, second)
        },
        |(first, second)| {
            assert!(shows_what_was_written(&first) && shows_what_was_written(&second));
            assert_eq!(first.complete(), Err(Error::QueueGone));
            // From another thread, with the first one gone.
            let second = thread::spawn(move || {
                assert!(shows_what_was_written(&second));
                second.fail(Errno::ENOSPC)
            });
            assert_eq!(second.join().unwrap(), Err(Error::QueueGone));
        },
    );
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_read_that_is_filled_after_its_queue_is_gone_is_filled_in_memory_of_its_own() {
    misuse(
        |queue| {
            let request = loop {
                let request = next(&queue);
                if request.operation() == Operation::READ {
                    break request.detach();
                }
                request.complete();
            };
            drop(queue);
            request
        },
        |mut request| {
            assert_eq!(request.cursor().write(&[0x77; LARGEST]), LARGEST);
            assert_eq!(request.complete(), Err(Error::QueueGone));
        },
    );
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_panic_with_requests_in_hand_drops_them_and_the_queue_and_hurts_nobody() {
    misuse(
        |queue| {
            let panicked = catch_unwind(AssertUnwindSafe(move || {
                let queue = queue;
                let held = next_write(&queue);
                let sent = next_write(&queue);
                let request = next(&queue);
                let other = thread::spawn(move || {
                    let _sent = sent;
                    panic!("planted, in another thread");
                });
                assert!(other.join().is_err());
                assert!(held.data().len() + request.data().len() > 0);
                panic!("planted, with a request in hand");
            }));
            assert!(panicked.is_err());
        },
        |()| (),
    );
}

/// Uses a queue when it is dropped, which a panic makes happen while the stack unwinds.
struct UsesInDrop<'q>(&'q Queue);

impl Drop for UsesInDrop<'_> {
    fn drop(&mut self) {
        assert!(thread::panicking());
        next(self.0).complete();
        drop(next(self.0));
        mem::forget(next(self.0));
        self.0.wait(Some(Duration::ZERO)).unwrap();
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_queue_that_is_used_while_a_panic_unwinds_is_as_good_as_ever() {
    misuse(
        |queue| {
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                let _request = next(&queue);
                let _uses = UsesInDrop(&queue);
                panic!("planted");
            }));
            assert!(panicked.is_err());
            // It serves on, until it is dropped.
            for _ in 0..10 {
                next(&queue).complete();
            }
            assert_eq!((queue.owned(), queue.unanswered()), (1, 2));
            drop(queue);
        },
        |()| (),
    );
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_descriptor_of_the_ring_that_outlives_the_queue_can_be_polled_and_takes_nothing_in() {
    misuse(
        |queue| {
            let ring = Fd::from(queue.as_fd().try_clone_to_owned().unwrap());
            let buffer = answered_write(&queue);
            drop(queue);
            let canaries = Canaries::lay();
            for _ in 0..100 {
                ublk::poll([ring.raw()], Some(Duration::ZERO)).unwrap();
                enter_the_kernel(10);
            }
            canaries.assert_intact();
            assert!(is_mapped(buffer) && !canaries.hold(buffer));
            canaries
        },
        |canaries| canaries.assert_intact(),
    );
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn an_answer_for_a_queue_that_is_gone_does_not_reach_the_next_one() {
    // The next queue's device has the same id, and its memory may well stand where the first queue's would.
    let mut late = None;
    misuse(
        |queue| {
            let request = next_write(&queue);
            drop(queue);
            request
        },
        |request| late = Some(request),
    );
    let late = late.unwrap();
    misuse(
        |queue| {
            let request = next_write(&queue);
            assert_eq!(late.complete(), Err(Error::QueueGone));
            queue.wait(Some(Duration::ZERO)).unwrap();
            // It is still owed.
            assert!(queue.owned() >= 1 && shows_what_was_written(&request));
            request.complete().unwrap();
            drop(queue);
        },
        |()| (),
    );
}

// What is no misuse, though it looks like it: the clients notice nothing.

/// Runs `serve` in a thread while the clients are at work, and stops the device; what the clients got is success until then.
fn use_oddly(serve: impl FnOnce(PreparedQueue, &Fd) + Send) {
    let mut device = device(1);
    let prepared = device.queue(QueueId::new(0)).unwrap();
    let id = device.info().id();
    let (leave, set_off) = event();
    let canaries = Canaries::lay();
    thread::scope(|scope| {
        let server = scope.spawn(move || serve(prepared, &leave));
        device.start().unwrap();
        let clients = clients(scope, id);
        drop(set_off);
        device.stop().unwrap();
        join(clients);
        server.join().unwrap();
    });
    assert_eq!(device.delete(), Ok(DeletedId::Free));
    canaries.assert_intact();
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_queue_is_used_by_whoever_answers_one_of_its_requests() {
    fn nested(queue: &Queue, request: Request<'_>, deep: u32) {
        if deep > 0 {
            queue.wait(Some(Duration::ZERO)).unwrap();
            if let Some(other) = queue.next_request().unwrap() {
                nested(queue, other, deep - 1);
            }
        }
        assert!(queue.owned() >= 1 && !queue.is_finished());
        assert!(format!("{queue:?} {request:?} {:?}", queue.oldest()).contains("Queue"));
        request.complete();
    }
    use_oddly(|prepared, _| {
        let queue = prepared.fetch().unwrap();
        while !queue.is_finished() {
            queue.wait(None).unwrap();
            while let Some(request) = queue.next_request().unwrap() {
                nested(&queue, request, 3);
            }
        }
        assert_eq!(queue.unanswered(), 0);
    });
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_queue_goes_through_threads_until_it_is_fetched() {
    use_oddly(|prepared, leave| {
        let prepared = thread::spawn(move || prepared).join().unwrap();
        thread::scope(|scope| {
            scope.spawn(move || {
                let queue = prepared.fetch().unwrap();
                serve_until(&queue, leave);
                serve_to_the_end(&queue);
            });
        });
    });
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn tokens_that_other_threads_hold_when_the_device_is_stopped_are_waited_for() {
    use_oddly(|prepared, leave| {
        let queue = prepared.fetch().unwrap();
        serve_until(&queue, leave);
        // From here on the device is being stopped.
        let (hand, handed) = mpsc::channel::<DetachedRequest>();
        let (go_on, goes_on) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(move || {
                // None is answered while more are coming.
                goes_on.recv().unwrap();
                for request in handed {
                    request.complete().unwrap();
                }
            });
            while !queue.is_finished() {
                if queue.wait(Some(Duration::from_millis(100))).unwrap() == Wake::TimedOut {
                    // No more are coming. It is enough to say so once.
                    let _ = go_on.send(());
                }
                while let Some(request) = queue.next_request().unwrap() {
                    hand.send(request.detach()).unwrap();
                }
            }
            let _ = go_on.send(());
            drop(hand);
        });
        assert_eq!((queue.owned(), queue.unanswered()), (0, 0));
    });
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn one_thread_serves_two_queues() {
    let mut device = device(2);
    let queues: Vec<PreparedQueue> =
        (0..device.info().queues()).map(|id| device.queue(QueueId::new(id)).unwrap()).collect();
    assert_eq!(queues.len(), 2);
    let id = device.info().id();
    thread::scope(|scope| {
        let server = scope.spawn(move || {
            let mut queues: Vec<Queue> = queues.into_iter().map(|queue| queue.fetch().unwrap()).collect();
            let second = queues.pop().unwrap();
            let first = queues.pop().unwrap();
            while !first.is_finished() || !second.is_finished() {
                for queue in [&first, &second] {
                    queue.wait(Some(Duration::ZERO)).unwrap();
                    answer_all(queue);
                    queue.wait(Some(Duration::ZERO)).unwrap();
                }
                // A moment at most: what one queue's answers set free may come on the other.
                let _ = ublk::poll([first.ring_fd(), second.ring_fd()], Some(Duration::from_millis(1))).unwrap();
            }
        });
        device.start().unwrap();
        let clients = clients(scope, id);
        device.stop().unwrap();
        join(clients);
        server.join().unwrap();
    });
    assert_eq!(device.delete(), Ok(DeletedId::Free));
}

// Devices and commands.

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_device_that_is_dropped_before_its_queue_is_deleted_while_the_queue_serves() {
    let mut device = device(1);
    let prepared = device.queue(QueueId::new(0)).unwrap();
    let id = device.info().id();
    thread::scope(|scope| {
        let server = scope.spawn(move || {
            let canaries = Canaries::lay();
            serve_to_the_end(&prepared.fetch().unwrap());
            canaries.assert_intact();
        });
        device.start().unwrap();
        let clients = clients(scope, id);
        drop(device);
        assert_eq!(nodes(), [""; 0]);
        join(clients);
        server.join().unwrap();
    });
    // The kernel frees it on its own time, and tells nobody.
    let deadline = Instant::now() + Duration::from_secs(60);
    while exists(&mut Control::open().unwrap(), id) {
        assert!(Instant::now() < deadline);
        thread::sleep(Duration::from_millis(5));
    }
}

/// What is left of a device whose number is known, with a handle that is not the device's own.
fn delete(id: DeviceId) {
    Control::open().unwrap().delete_async(id).unwrap();
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_device_that_is_forgotten_stays_until_somebody_deletes_it_and_leaks_its_descriptors() {
    let mut device = device(1);
    let prepared = device.queue(QueueId::new(0)).unwrap();
    let id = device.info().id();
    thread::scope(|scope| {
        let server = scope.spawn(move || serve_to_the_end(&prepared.fetch().unwrap()));
        device.start().unwrap();
        let clients = clients(scope, id);
        mem::forget(device);
        Control::open().unwrap().stop(id).unwrap();
        join(clients);
        server.join().unwrap();
    });
    delete(id);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_prepared_queue_that_is_forgotten_holds_the_id_and_leaks_its_memory() {
    let mut device = device(1);
    let id = device.info().id();
    mem::forget(device.queue(QueueId::new(0)).unwrap());
    assert_eq!(device.delete(), Ok(DeletedId::Held));
    assert_eq!(nodes(), [""; 0]);
    assert!(Control::open().unwrap().info(id).is_ok());
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_start_and_a_stop_that_nobody_waits_for_cost_their_control_handle_and_no_more() {
    let mut device = device(1);
    let prepared = device.queue(QueueId::new(0)).unwrap();
    let id = device.info().id();
    thread::scope(|scope| {
        let server = scope.spawn(move || serve_to_the_end(&prepared.fetch().unwrap()));
        let _ = device.begin_start().unwrap();
        assert_eq!(device.control().features(), Err(Error::ControlAbandoned));
        assert!(matches!(device.begin_stop(), Err(Error::ControlAbandoned)));
        let path = format!("/dev/ublkb{id}");
        // The node is there a moment before it can be opened.
        while fs::File::open(&path).is_err() {
            thread::yield_now();
        }
        let clients = clients(scope, id);
        let mut other = Control::open().unwrap();
        let _ = other.begin_stop(id).unwrap();
        assert_eq!(other.info(id), Err(Error::ControlAbandoned));
        join(clients);
        server.join().unwrap();
        // Not before: the end of its ring may take back a command that no worker has taken up yet.
        drop(other);
    });
    assert_eq!(device.delete(), Ok(DeletedId::Free));
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_queue_that_is_forgotten_holds_its_clients_until_its_process_ends() {
    // The clients are this process, and the server another: clients that wait cannot be killed, and a process that has some
    // keeps its descriptors.
    const ROLE: &str = "UBLK_TEST_FORGETS";
    if env::var_os(ROLE).is_some() {
        let mut device = device(1);
        let prepared = device.queue(QueueId::new(0)).unwrap();
        let id = device.info().id();
        let (leave, set_off) = event();
        thread::scope(|scope| {
            scope.spawn(move || {
                let before = Canaries::lay();
                let queue = prepared.fetch().unwrap();
                serve_until(&queue, &leave);
                mem::forget(queue);
                let after = Canaries::lay();
                while in_flight(id) < CLIENTS {
                    enter_the_kernel(1);
                }
                enter_the_kernel(10_000);
                before.assert_intact();
                after.assert_intact();
                println!("intact");
            });
            device.start().unwrap();
            println!("live {id}");
            // The clients are at work when the other end says so.
            std::io::stdin().read_line(&mut String::new()).unwrap();
            drop(set_off);
        });
        thread::park();
        return;
    }
    let name = "a_queue_that_is_forgotten_holds_its_clients_until_its_process_ends";
    let mut server = Command::new(env::current_exe().unwrap())
        .args(["--exact", name, "--include-ignored", "--nocapture"])
        .env(ROLE, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines().map(|line| line.unwrap());
    let live = lines.find_map(|line| line.split_once("live ")?.1.parse().ok()).unwrap();
    let id = DeviceId::new(live);
    thread::scope(|scope| {
        let clients = clients(scope, id);
        drop(server.stdin.take());
        assert!(lines.any(|line| line == "intact"));
        assert!(clients.iter().all(|client| !client.is_finished()));
        server.kill().unwrap();
        server.wait().unwrap();
        join(clients);
    });
    Control::open().unwrap().delete(id).unwrap();
    assert_eq!(nodes(), [""; 0]);
}

// Whole servers.

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_target_that_panics_with_tokens_in_other_threads_ends_its_server_and_hurts_nobody() {
    let canaries = Canaries::lay();
    let (hand, handed) = mpsc::channel();
    let panics = &AtomicBool::new(false);
    let wanted = quiet_device(DEPTH).queues(2).max_io_bytes(u32::try_from(LARGEST).unwrap());
    let (live, is_live) = mpsc::channel();
    thread::scope(|scope| {
        let server = scope.spawn(move || {
            let target = |request: Request<'_>| {
                assert!(!panics.load(Ordering::Relaxed), "planted");
                hand.send(request.detach()).unwrap();
            };
            Server::new(wanted, params()).run(target, |info| live.send(info.id()).unwrap())
        });
        scope.spawn(|| {
            for request in handed {
                request.complete().unwrap();
            }
        });
        let clients = clients(scope, is_live.recv().unwrap());
        panics.store(true, Ordering::Relaxed);
        assert!(matches!(server.join().unwrap(), Err(Error::Panicked { .. })));
        join(clients);
    });
    canaries.assert_intact();
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_panic_when_the_device_has_started_ends_the_server_under_its_clients() {
    let canaries = Canaries::lay();
    let wanted = quiet_device(DEPTH).max_io_bytes(u32::try_from(LARGEST).unwrap());
    thread::scope(|scope| {
        let mut at_work = None;
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            Server::new(wanted, params()).run(
                |request| request.complete(),
                |info| {
                    at_work = Some(clients(scope, info.id()));
                    panic!("planted");
                },
            )
        }));
        assert!(panicked.is_err());
        join(at_work.unwrap());
    });
    canaries.assert_intact();
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_server_is_stopped_by_its_own_target_and_by_its_started() {
    let wanted = quiet_device(DEPTH).max_io_bytes(u32::try_from(LARGEST).unwrap());
    let stop = StopHandle::new().unwrap();
    let target = |request: Request<'_>| {
        stop.stop();
        request.complete();
    };
    let stopped = Server::new(wanted, params()).stop_on(&stop).run(target, |_| stop.stop());
    assert_eq!(stopped, Ok(ublk::Stopped::Handle));
    assert_eq!(nodes(), [""; 0]);
}

// A thread that ends.

/// A device that is scanned for partitions when it is started, and whose one thread takes the first request and ends without an
/// answer. The start is given time to answer when the char device was let go.
fn thread_that_ends_with_the_first_request(depth: u16) {
    let mut device = Device::add(Control::open().unwrap(), &NewDevice::new().depth(depth), &params()).unwrap();
    let prepared = device.queue(QueueId::new(0)).unwrap();
    let id = device.info().id();
    // Not the device's own handle, so that the device can be let go while the start is under way.
    let mut control = Control::open().unwrap();
    let (ended, has_ended) = event();
    let server = thread::spawn(move || {
        let _ended = ended;
        let queue = prepared.fetch().unwrap();
        let request = next(&queue).detach();
        drop(queue);
        request
    });
    let starting = control.begin_start(id).unwrap();
    let ended = Fd::from(OwnedFd::from(has_ended));
    // Linux 6.12 answers the start only after the scan; a newer one has answered, and reads on its own time.
    while ublk::poll([ended.raw()], None).unwrap() == [false] {}
    let request = server.join().unwrap();
    device.let_go();
    let answer = starting.wait();
    assert!(!matches!(answer, Err(Error::TimedOut { .. })), "{answer:?}");
    assert_eq!(request.complete(), Err(Error::QueueGone));
    assert_eq!(device.delete(), Ok(DeletedId::Free));
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_thread_that_ends_with_the_read_of_the_partition_table_hangs_nobody_when_the_device_is_let_go() {
    thread_that_ends_with_the_first_request(4);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_thread_that_ends_with_its_only_tag_hangs_nobody_though_an_older_driver_takes_half_a_minute_to_notice_slow() {
    thread_that_ends_with_the_first_request(1);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_start_whose_thread_has_ended_is_given_up_and_its_device_deleted() {
    let mut device = Device::add(Control::open().unwrap(), &NewDevice::new().depth(4), &params()).unwrap();
    let prepared = device.queue(QueueId::new(0)).unwrap();
    let (ended, has_ended) = event();
    let server = thread::spawn(move || {
        let _ended = ended;
        let queue = prepared.fetch().unwrap();
        // Forgotten, as by a target that hangs on to it.
        mem::forget(next(&queue));
    });
    let mut starting = device.begin_start().unwrap();
    let ended = Fd::from(OwnedFd::from(has_ended));
    loop {
        let [_, is_over] = ublk::poll([starting.fd().raw(), ended.raw()], starting.time_left()).unwrap();
        if is_over {
            break;
        }
        starting.poll().unwrap();
    }
    // What `Server` does when one of its threads has ended: it waits for no command, and lets go.
    drop(starting);
    server.join().unwrap();
    assert_eq!(device.delete(), Ok(DeletedId::Free));
    assert_eq!(nodes(), [""; 0]);
}
