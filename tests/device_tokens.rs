// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests as tokens, on a real driver: answered late, out of order, from other threads, by nobody, and too late.
#![cfg_attr(not(have_ublk), allow(dead_code, reason = "the tests are ignored, not left out"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]

mod harness;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use harness::{Aligned, is_mapped, nodes, open_direct, quiet_device, serve};
use ublk::{
    Cache, Control, CpuSet, DeletedId, DetachedRequest, Device, DeviceId, Errno, Error, NewDevice, Operation, Params,
    Queue, QueueId, Request, Sectors, Server, StopHandle, Stopped,
};

const BLOCK: usize = 4096;

fn params() -> Params {
    Params::new(Sectors::new(2048), Cache::None)
}

/// The bytes of block `number`: each says where it stands.
fn block(number: u64) -> Aligned {
    let mut bytes = Aligned::filled(BLOCK, 0);
    for (index, word) in bytes.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(number * 512 + u64::try_from(index).unwrap() + 1).to_ne_bytes());
    }
    bytes
}

/// A disk in memory.
struct Ram(Mutex<Vec<u8>>);

impl Ram {
    fn new() -> Ram {
        Ram(Mutex::new(vec![0; 2048 * 512]))
    }

    fn answer(&self, mut request: DetachedRequest) -> Result<(), Error> {
        let start = usize::try_from(request.offset_bytes()).unwrap();
        let end = start + usize::try_from(request.len_bytes()).unwrap();
        let mut bytes = self.0.lock().unwrap();
        match request.operation() {
            Operation::READ => assert_eq!(request.cursor().write(&bytes[start..end]), end - start),
            Operation::WRITE => bytes[start..end].copy_from_slice(request.data()),
            _ => return request.fail(Errno::EOPNOTSUPP),
        }
        drop(bytes);
        request.complete()
    }
}

/// A live device of one queue, whose thread hands each request to `target` until the device is stopped.
fn with_queue<R>(
    device: &NewDevice,
    target: impl FnMut(&Queue, Request<'_>) + Send,
    client: impl FnOnce(&mut Device) -> R,
) -> (R, u64) {
    let mut target = target;
    let mut device = Device::add(Control::open().unwrap(), device, &params()).unwrap();
    let prepared = device.queue(QueueId::new(0)).unwrap();
    let (fetched, is_fetched) = mpsc::channel();
    let done = thread::scope(|scope| {
        let server = scope.spawn(move || {
            let queue = prepared.fetch().unwrap();
            fetched.send(()).unwrap();
            while !queue.is_finished() {
                queue.wait(None).unwrap();
                while let Some(request) = queue.next_request().unwrap() {
                    target(&queue, request);
                }
            }
            queue.unanswered()
        });
        is_fetched.recv().unwrap();
        device.start().unwrap();
        // A client that fails is not to leave the thread of the queue, and with it the test, waiting.
        let result = panic::catch_unwind(AssertUnwindSafe(|| client(&mut device)));
        device.stop().unwrap();
        let unanswered = server.join().unwrap();
        (result.unwrap_or_else(|panicked| panic::resume_unwind(panicked)), unanswered)
    });
    assert_eq!(device.delete(), Ok(DeletedId::Free));
    done
}

// Answered later, or elsewhere.

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn requests_are_answered_in_whatever_order_while_others_are_served() {
    let mut device = Device::add(Control::open().unwrap(), &quiet_device(8), &params()).unwrap();
    let queue = device.queue(QueueId::new(0)).unwrap().fetch().unwrap();
    let mut starting = device.begin_start().unwrap();
    while !starting.poll().unwrap() {
        queue.wait(Some(Duration::from_millis(10))).unwrap();
        while let Some(request) = queue.next_request().unwrap() {
            request.complete();
        }
    }
    let id = device.info().id();
    let answered = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4_u64)
            .map(|number| {
                let answered = &answered;
                scope.spawn(move || {
                    open_direct(id).write_all_at(&block(number), number * 4096).unwrap();
                    answered.lock().unwrap().push(number);
                })
            })
            .collect();
        // All four are held at once, and then answered from the last block to the first, each when the one before is through.
        let mut held = Vec::new();
        while held.len() < 4 {
            queue.wait(None).unwrap();
            while let Some(request) = queue.next_request().unwrap() {
                held.push(request);
            }
        }
        assert_eq!(queue.owned(), 4);
        held.sort_by_key(Request::offset_bytes);
        for (done, request) in held.into_iter().rev().enumerate() {
            assert_eq!(request.data(), &*block(request.offset_bytes() / 4096));
            request.complete();
            while answered.lock().unwrap().len() == done {
                queue.wait(Some(Duration::from_millis(1))).unwrap();
            }
        }
        clients.into_iter().for_each(|client| client.join().unwrap());
        let stopping = scope.spawn(|| device.stop());
        while !queue.is_finished() {
            queue.wait(None).unwrap();
            while let Some(request) = queue.next_request().unwrap() {
                request.complete();
            }
        }
        stopping.join().unwrap().unwrap();
    });
    assert_eq!(*answered.lock().unwrap(), [3, 2, 1, 0]);
    drop(queue);
    assert_eq!(device.delete(), Ok(DeletedId::Free));
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn what_several_threads_wrote_and_answered_is_read_back_through_them() {
    let ram = Ram::new();
    let (send, receive) = mpsc::channel::<DetachedRequest>();
    let receive = Mutex::new(receive);
    let served = thread::scope(|scope| {
        let (ram, receive) = (&ram, &receive);
        let next = || receive.lock().unwrap().recv().ok();
        let workers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(move || {
                    let mut answered = 0_u32;
                    while let Some(request) = next() {
                        ram.answer(request).unwrap();
                        answered += 1;
                    }
                    answered
                })
            })
            .collect();
        let target = move |_: &Queue, request: Request<'_>| send.send(request.detach()).unwrap();
        let ((), unanswered) = with_queue(&NewDevice::new().depth(16), target, |device| {
            let id = device.info().id();
            thread::scope(|clients| {
                for client in 0..4_u64 {
                    clients.spawn(move || {
                        let disk = open_direct(id);
                        for round in 0..50_u64 {
                            let number = client * 64 + round % 64;
                            disk.write_all_at(&block(number + round), number * 4096).unwrap();
                            let mut read = Aligned::filled(BLOCK, 0xee);
                            disk.read_exact_at(&mut read, number * 4096).unwrap();
                            assert_eq!(*read, *block(number + round));
                        }
                    });
                }
            });
        });
        assert_eq!(unanswered, 0);
        workers.into_iter().map(|worker| worker.join().unwrap()).sum::<u32>()
    });
    assert!(served >= 400, "{served}");
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn an_answer_from_another_thread_makes_the_polled_descriptor_readable() {
    let mut device = Device::add(Control::open().unwrap(), &quiet_device(2), &params()).unwrap();
    let queue = device.queue(QueueId::new(0)).unwrap().fetch().unwrap();
    let ready = || ublk::poll([queue.ring_fd()], Some(Duration::ZERO)).unwrap() == [true];
    let submit = || queue.wait(Some(Duration::ZERO)).unwrap();
    let mut starting = device.begin_start().unwrap();
    while !starting.poll().unwrap() {
        ublk::poll([queue.ring_fd(), starting.fd().raw()], starting.time_left()).unwrap();
        while let Some(request) = queue.next_request().unwrap() {
            request.complete();
        }
        submit();
    }
    let id = device.info().id();
    thread::scope(|scope| {
        let client = scope.spawn(move || open_direct(id).write_all_at(&block(1), 0));
        let request = loop {
            ublk::poll([queue.ring_fd()], None).unwrap();
            submit();
            if let Some(request) = queue.next_request().unwrap() {
                break request.detach();
            }
        };
        submit();
        assert!(!ready());
        scope.spawn(move || request.complete().unwrap()).join().unwrap();
        assert!(ready());
        submit();
        assert!(queue.next_request().unwrap().is_none());
        assert_eq!(queue.owned(), 0);
        submit();
        client.join().unwrap().unwrap();
        let stopping = scope.spawn(|| device.stop());
        while !queue.is_finished() {
            queue.wait(None).unwrap();
            assert!(queue.next_request().unwrap().is_none());
        }
        stopping.join().unwrap().unwrap();
    });
    drop(queue);
    assert_eq!(device.delete(), Ok(DeletedId::Free));
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_detached_request_that_is_dropped_fails_and_is_counted() {
    let (drops, dropped) = mpsc::channel();
    let target = move |_: &Queue, request: Request<'_>| match request.operation() {
        Operation::WRITE => drops.send(request.detach()).unwrap(),
        _ => request.complete(),
    };
    let ((), unanswered) = thread::scope(|scope| {
        scope.spawn(move || while dropped.recv().map(drop).is_ok() {});
        with_queue(&quiet_device(2), target, |device| {
            let disk = open_direct(device.info().id());
            for _ in 0..3 {
                let error = disk.write_all_at(&block(0), 0).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::EIO));
            }
        })
    });
    assert_eq!(unanswered, 3);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_stop_waits_for_an_answer_from_elsewhere() {
    let (held, is_held) = mpsc::channel();
    let target = move |_: &Queue, request: Request<'_>| match request.operation() {
        Operation::WRITE => held.send(request.detach()).unwrap(),
        _ => request.complete(),
    };
    with_queue(&quiet_device(2), target, |device| {
        let id = device.info().id();
        thread::scope(|scope| {
            let client = scope.spawn(move || open_direct(id).write_all_at(&block(0), 0));
            let request: DetachedRequest = is_held.recv().unwrap();
            let mut stopping = device.begin_stop().unwrap();
            assert_eq!(stopping.poll(), Ok(false));
            request.complete().unwrap();
            stopping.wait().unwrap();
            client.join().unwrap().unwrap();
        });
    });
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn the_oldest_request_is_known_by_its_tag_and_its_age() {
    let (held, is_held) = mpsc::channel::<DetachedRequest>();
    let (oldest, is_oldest) = mpsc::channel();
    let target = move |queue: &Queue, request: Request<'_>| {
        oldest.send(queue.oldest()).unwrap();
        if request.operation() == Operation::WRITE { held.send(request.detach()).unwrap() } else { request.complete() }
    };
    with_queue(&quiet_device(4), target, |device| {
        let id = device.info().id();
        thread::scope(|scope| {
            while is_oldest.try_recv().is_ok() {}
            let first = scope.spawn(move || open_direct(id).write_all_at(&block(0), 0));
            let older = is_held.recv().unwrap();
            let second = scope.spawn(move || open_direct(id).write_all_at(&block(1), 4096));
            let newer = is_held.recv().unwrap();
            let seen: Vec<Option<(ublk::Tag, Duration)>> = is_oldest.try_iter().collect();
            let (tag, age) = seen.last().unwrap().unwrap();
            assert_eq!(tag, older.tag());
            assert!(age > Duration::ZERO);
            older.complete().unwrap();
            newer.complete().unwrap();
            first.join().unwrap().unwrap();
            second.join().unwrap().unwrap();
        });
    });
}

// Answered too late.

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_token_outlives_its_queue_with_its_bytes_and_is_told_when_it_answers() {
    let mut device = Device::add(Control::open().unwrap(), &quiet_device(1), &params()).unwrap();
    let prepared = device.queue(QueueId::new(0)).unwrap();
    let (fetched, is_fetched) = mpsc::channel();
    let id = device.info().id();
    thread::scope(|scope| {
        let server = scope.spawn(move || {
            let queue = prepared.fetch().unwrap();
            fetched.send(()).unwrap();
            loop {
                queue.wait(None).unwrap();
                while let Some(request) = queue.next_request().unwrap() {
                    if request.operation() == Operation::WRITE {
                        // With its one tag held, the queue has nothing in flight, so that its end leaks nothing.
                        return request.detach();
                    }
                    request.complete();
                }
            }
        });
        is_fetched.recv().unwrap();
        device.start().unwrap();
        let client = scope.spawn(move || open_direct(id).write_all_at(&block(7), 0).unwrap_err());
        let token = server.join().unwrap();
        device.let_go();
        assert_eq!(client.join().unwrap().raw_os_error(), Some(libc::EIO));
        assert_eq!(token.data(), &*block(7));
        let address = token.data().as_ptr().addr();
        assert!(is_mapped(address));
        assert_eq!(token.complete(), Err(Error::QueueGone));
        assert!(!is_mapped(address));
    });
    assert_eq!(device.delete(), Ok(DeletedId::Free));
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn an_answer_that_came_before_the_queue_was_dropped_is_committed() {
    let mut device = Device::add(Control::open().unwrap(), &quiet_device(1), &params()).unwrap();
    let prepared = device.queue(QueueId::new(0)).unwrap();
    let (fetched, is_fetched) = mpsc::channel();
    let id = device.info().id();
    thread::scope(|scope| {
        scope.spawn(move || {
            let queue = prepared.fetch().unwrap();
            fetched.send(()).unwrap();
            loop {
                queue.wait(None).unwrap();
                while let Some(request) = queue.next_request().unwrap() {
                    if request.operation() == Operation::WRITE {
                        let token = request.detach();
                        thread::scope(|scope| scope.spawn(move || token.complete().unwrap()).join().unwrap());
                        return;
                    }
                    request.complete();
                }
            }
        });
        is_fetched.recv().unwrap();
        device.start().unwrap();
        let client = scope.spawn(move || open_direct(id).write_all_at(&block(7), 0));
        client.join().unwrap().unwrap();
        device.let_go();
    });
    assert_eq!(device.delete(), Ok(DeletedId::Free));
}

/// A server that is told to stop while its target sits on the client's write; how it ended, and what the client got.
fn stopped_while_held(
    target: impl Fn(Request<'_>) + Sync + Send,
    is_held: &Receiver<()>,
) -> (Result<Stopped, Error>, i32) {
    let handle = StopHandle::new().unwrap();
    let server = Server::new(quiet_device(4).queues(2), params()).stop_on(&handle).stop_patience(PATIENCE);
    let (live, is_live) = mpsc::channel();
    let ended = thread::scope(|scope| {
        let server = scope.spawn(move || server.run(target, move |info| live.send(info.id()).unwrap()));
        let id = is_live.recv().unwrap();
        let client = scope.spawn(move || open_direct(id).write_all_at(&block(0), 0).unwrap_err());
        is_held.recv().unwrap();
        handle.stop();
        (server.join().unwrap(), client.join().unwrap().raw_os_error().unwrap())
    });
    assert_eq!(nodes(), Vec::<String>::new());
    ended
}

const PATIENCE: Duration = Duration::from_millis(300);

fn assert_names_what_was_held(ended: Result<Stopped, Error>, tag: ublk::Tag) {
    let Err(Error::Held { queue, tag: named, age }) = ended else { panic!("{ended:?}") };
    assert!(queue.raw() < 2);
    assert_eq!(named, tag);
    assert!(age >= PATIENCE);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_server_that_is_stopped_over_a_held_request_names_it_and_its_client_gets_eio() {
    let (held, is_held) = mpsc::channel();
    let kept: Mutex<Option<DetachedRequest>> = Mutex::new(None);
    let target = |request: Request<'_>| match request.operation() {
        Operation::WRITE => {
            *kept.lock().unwrap() = Some(request.detach());
            held.send(()).unwrap();
        }
        _ => request.complete(),
    };
    let (ended, client) = stopped_while_held(target, &is_held);
    let token = kept.lock().unwrap().take().unwrap();
    assert_names_what_was_held(ended, token.tag());
    assert_eq!(client, libc::EIO);
    assert_eq!(token.data(), &*block(0));
    assert_eq!(token.complete(), Err(Error::QueueGone));
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_server_that_is_stopped_over_a_forgotten_request_names_it_and_its_client_gets_eio() {
    let (held, is_held) = mpsc::channel();
    let forgotten = Mutex::new(None);
    let target = |request: Request<'_>| match request.operation() {
        Operation::WRITE => {
            *forgotten.lock().unwrap() = Some(request.tag());
            core::mem::forget(request);
            held.send(()).unwrap();
        }
        _ => request.complete(),
    };
    let (ended, client) = stopped_while_held(target, &is_held);
    assert_names_what_was_held(ended, forgotten.lock().unwrap().unwrap());
    assert_eq!(client, libc::EIO);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_server_that_lets_go_of_a_held_request_under_load_hangs_nobody() {
    // On Linux 6.12 a request on its way to a ring that ends before its thread is never ended, and no stop after it.
    for _ in 0..3 {
        let handle = StopHandle::new().unwrap();
        let server =
            Server::new(NewDevice::new().depth(32).queues(2), params()).stop_on(&handle).stop_patience(PATIENCE);
        let (live, is_live) = mpsc::channel();
        let (held, is_held) = mpsc::channel();
        let target = |request: Request<'_>| {
            if request.operation() == Operation::WRITE && request.offset_bytes() == 0 {
                held.send(request.detach()).unwrap();
            } else {
                request.complete();
            }
        };
        thread::scope(|scope| {
            let server = scope.spawn(move || server.run(target, move |info| live.send(info.id()).unwrap()));
            let id = is_live.recv().unwrap();
            let (writes, is_written) = mpsc::channel();
            let clients: Vec<_> = (0..6_u64)
                .map(|client| {
                    let (disk, writes) = (open_direct(id), writes.clone());
                    scope.spawn(move || {
                        while disk.write_all_at(&block(client), client * 4096).is_ok() {
                            writes.send(()).unwrap();
                        }
                    })
                })
                .collect();
            let token: DetachedRequest = is_held.recv().unwrap();
            (0..20).for_each(|_| is_written.recv().unwrap());
            handle.stop();
            let ended = server.join().unwrap();
            assert!(matches!(ended, Err(Error::Held { .. })), "{ended:?}");
            clients.into_iter().for_each(|client| client.join().unwrap());
            assert_eq!(token.complete(), Err(Error::QueueGone));
        });
        assert_eq!(nodes(), Vec::<String>::new());
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_server_waits_for_what_is_answered_from_elsewhere_within_its_patience() {
    let (send, receive): (Sender<DetachedRequest>, Receiver<DetachedRequest>) = mpsc::channel();
    let ram = Ram::new();
    thread::scope(|scope| {
        let ram = &ram;
        scope.spawn(move || {
            while let Ok(request) = receive.recv() {
                ram.answer(request).unwrap();
            }
        });
        let handle = StopHandle::new().unwrap();
        let server = Server::new(NewDevice::new().depth(8), params()).stop_on(&handle);
        let stopped = server.run(
            move |request| send.send(request.detach()).unwrap(),
            |info| {
                // Through the page cache: the stop writes it back.
                let disk = OpenOptions::new().write(true).open(format!("/dev/ublkb{}", info.id())).unwrap();
                (0..64).for_each(|number| disk.write_all_at(&block(number), number * 4096).unwrap());
                handle.stop();
            },
        );
        assert_eq!(stopped, Ok(Stopped::Handle));
    });
    let bytes = ram.0.into_inner().unwrap();
    assert!((0..64).all(|number| bytes[usize::try_from(number).unwrap() * BLOCK..][..BLOCK] == *block(number)));
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_server_that_stops_waits_for_a_slow_thread_for_as_long_as_it_answers() {
    // The write-back is delivered all at once, and takes longer than the patience; each answer takes less.
    let (send, receive): (Sender<DetachedRequest>, Receiver<DetachedRequest>) = mpsc::channel();
    let handle = StopHandle::new().unwrap();
    thread::scope(|scope| {
        let answers = scope.spawn(move || {
            let mut writes = 0;
            while let Ok(request) = receive.recv() {
                if request.operation() == Operation::WRITE {
                    writes += 1;
                    thread::sleep(Duration::from_millis(400));
                }
                request.complete().unwrap();
            }
            writes
        });
        let device = quiet_device(32).max_io_bytes(64 << 10);
        let server = Server::new(device, params()).stop_on(&handle).stop_patience(Duration::from_secs(2));
        let stopped = server.run(
            move |request| send.send(request.detach()).unwrap(),
            |info| {
                let disk = OpenOptions::new().write(true).open(format!("/dev/ublkb{}", info.id())).unwrap();
                disk.write_all_at(&vec![1; 1 << 20], 0).unwrap();
                handle.stop();
            },
        );
        assert_eq!(stopped, Ok(Stopped::Handle));
        assert_eq!(answers.join().unwrap(), 16);
    });
}

// What a device and a server say and do.

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_stopper_stops_its_device_from_another_thread_and_no_other_of_that_id() {
    let target = |_: &Queue, request: Request<'_>| request.complete();
    let ((mut stopper, id), _) = with_queue(&quiet_device(2), target, |device| {
        let mut stopper = device.stopper().unwrap();
        let id = device.info().id();
        let path = format!("/dev/ublkb{}", device.info().id());
        let stopped = thread::spawn(move || {
            stopper.stop().unwrap();
            stopper
        });
        let stopper = stopped.join().unwrap();
        assert!(!fs::exists(path).unwrap());
        (stopper, id)
    });
    assert!(matches!(stopper.stop(), Err(Error::Control { errno: Errno::ENODEV, .. })));
    // The id is free, and another device takes it.
    let ((), _) = with_queue(&quiet_device(4).id(id), target, |_| {
        assert_eq!(stopper.stop(), Err(Error::Replaced { device: id }));
        assert!(fs::exists(format!("/dev/ublkb{id}")).unwrap());
    });
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_server_ends_with_what_its_target_said_as_it_panicked() {
    let said = |target: fn()| {
        let served = serve(quiet_device(2), params(), move |request| match request.operation() {
            Operation::WRITE => target(),
            _ => request.complete(),
        })
        .unwrap();
        let error = served.open_direct().write_all_at(&block(0), 0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        let Err(Error::Panicked { queue, message }) = served.join() else { panic!("it did not panic") };
        assert_eq!(queue, QueueId::new(0));
        message.as_str().to_owned()
    };
    assert_eq!(said(|| panic!("a plain text")), "a plain text");
    assert_eq!(said(|| panic!("block {}", std::hint::black_box(7))), "block 7");
    assert_eq!(said(|| std::panic::panic_any(7)), "");
    assert_eq!(nodes(), Vec::<String>::new());
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_target_that_has_panicked_is_not_called_again() {
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    let id = DeviceId::new(77);
    let served = serve(quiet_device(2).id(id), params(), move |request| {
        if request.operation() == Operation::WRITE && counted.fetch_add(1, Ordering::Relaxed) == 0 {
            // The other one is with the driver, or on its way to this thread.
            let inflight = format!("/sys/block/ublkb{id}/inflight");
            while fs::read_to_string(&inflight).unwrap().split_whitespace().nth(1) != Some("2") {
                thread::yield_now();
            }
            panic!("planted");
        }
        request.complete();
    })
    .unwrap();
    let disk = Arc::new(served.open_direct());
    let clients = [0, 4096].map(|offset| {
        let disk = Arc::clone(&disk);
        thread::spawn(move || disk.write_all_at(&block(0), offset).unwrap_err().raw_os_error())
    });
    assert_eq!(clients.map(|client| client.join().unwrap()), [Some(libc::EIO); 2]);
    // The id is free as soon as nobody has the disk open.
    drop(disk);
    assert!(matches!(served.join(), Err(Error::Panicked { .. })));
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_pinned_queue_runs_on_the_cpus_that_the_driver_gives_it() {
    let allowed = || {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim().to_owned()
    };
    let list = |cpus: &CpuSet| {
        // One CPU or a few neighbours, in the kernel's way of writing.
        let cpus: Vec<u32> =
            cpus.iter().filter(|cpu| fs::exists(format!("/sys/devices/system/cpu/cpu{cpu}")).unwrap()).collect();
        let (first, last) = (cpus[0], cpus[cpus.len() - 1]);
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    let unpinned = allowed();
    let seen = Mutex::new(Vec::new());
    let handle = StopHandle::new().unwrap();
    let mut expected = Vec::new();
    let server = Server::new(NewDevice::new().queues(2).depth(2), params()).stop_on(&handle).pin_queues();
    let stopped = server.run(
        |request| {
            let name = thread::current().name().unwrap().to_owned();
            seen.lock().unwrap().push((name, allowed()));
            request.complete();
        },
        |info| {
            let mut control = Control::open().unwrap();
            for queue in 0..info.queues() {
                let cpus = control.queue_affinity(info.id(), QueueId::new(queue)).unwrap();
                expected.push((format!("ublk{}q{queue}", info.id()), list(&cpus)));
                // From one of its own CPUs, so that the request comes to this queue.
                let id = info.id();
                thread::spawn(move || {
                    cpus.pin_thread().unwrap();
                    open_direct(id).write_all_at(&block(0), 0).unwrap();
                })
                .join()
                .unwrap();
            }
            handle.stop();
        },
    );
    assert_eq!(stopped, Ok(Stopped::Handle));
    let seen = seen.into_inner().unwrap();
    for pinned in &expected {
        assert!(seen.contains(pinned), "{pinned:?} is not in {seen:?}");
    }
    assert!(seen.iter().all(|one| expected.contains(one)), "{seen:?}");
    assert_eq!(allowed(), unpinned);
}
