// SPDX-License-Identifier: MIT OR Apache-2.0
//! A queue in a loop that is not ours: its descriptor in an epoll set, and answers that come from elsewhere.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]

mod harness;

use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::mpsc;
use std::task::Poll;
use std::thread;

use harness::{Aligned, nodes};
use ublk::{
    Cache, Control, DetachedRequest, Device, Error, NewDevice, Operation, Params, PreparedQueue, QueueId, Request,
    Sectors,
};

/// An epoll set of one descriptor.
struct Epoll(OwnedFd);

#[expect(unsafe_code, reason = "system calls that the standard library does not have")]
impl Epoll {
    /// `edges` asks for changes only: what is readable already is told once.
    fn new(of: &impl AsFd, edges: bool) -> Epoll {
        // SAFETY: it takes a number.
        let set = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        assert!(set >= 0);
        // SAFETY: it was just opened, and nobody else knows of it.
        let set = unsafe { OwnedFd::from_raw_fd(set) };
        let events = if edges { libc::EPOLLIN | libc::EPOLLET } else { libc::EPOLLIN };
        let mut event = libc::epoll_event { events: u32::try_from(events & i32::MAX).unwrap(), u64: 0 };
        event.events |= if edges { 1 << 31 } else { 0 };
        let fd = of.as_fd().as_raw_fd();
        // SAFETY: both descriptors are open, and `event` is ours.
        let added = unsafe { libc::epoll_ctl(set.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) };
        assert_eq!(added, 0);
        Epoll(set)
    }

    fn wait(&self) {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: `event` has room for the one that is asked for.
        let ready = unsafe { libc::epoll_wait(self.0.as_raw_fd(), &raw mut event, 1, -1) };
        assert_eq!(ready, 1);
    }
}

/// Serves a queue from an epoll loop until it is finished.
fn serve(queue: PreparedQueue, edges: bool, mut answer: impl FnMut(Request<'_>)) -> Result<(), Error> {
    let queue = queue.fetch()?;
    let epoll = Epoll::new(&queue, edges);
    loop {
        match queue.poll_request() {
            Poll::Ready(Some(request)) => answer(request?),
            Poll::Ready(None) => return Ok(()),
            Poll::Pending => epoll.wait(),
        }
    }
}

/// Adds a device, has its one queue served by `serve` in a thread, and reads and writes it with four clients.
fn with_clients(serve: impl FnOnce(PreparedQueue) -> Result<(), Error> + Send) {
    let params = Params::new(Sectors::new(8 * 2048), Cache::Volatile);
    let mut device = Device::add(Control::open().unwrap(), &NewDevice::new().depth(8), &params).unwrap();
    let path = format!("/dev/ublkb{}", device.info().id());
    let queue = device.queue(QueueId::new(0)).unwrap();
    thread::scope(|scope| {
        let server = scope.spawn(|| serve(queue));
        device.start().unwrap();
        thread::scope(|clients| {
            for client in 0..4_u64 {
                let path = &path;
                clients.spawn(move || {
                    let disk =
                        OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path).unwrap();
                    for round in 0..50 {
                        disk.write_all_at(&Aligned::filled(4096, 1), client * 4096).unwrap();
                        let mut read = Aligned::filled(8192, 1);
                        disk.read_exact_at(&mut read, (client * 50 + round) * 8192).unwrap();
                        assert!(read.iter().all(|byte| *byte == 0));
                    }
                    disk.sync_all().unwrap();
                });
            }
        });
        device.stop().unwrap();
        server.join().unwrap().unwrap();
    });
    device.delete().unwrap();
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn an_epoll_loop_serves_a_queue_told_of_levels_or_of_edges() {
    for edges in [false, true] {
        let mut flushes = 0;
        with_clients(|queue| {
            serve(queue, edges, |request| {
                flushes += u32::from(request.operation() == Operation::FLUSH);
                request.complete();
            })
        });
        assert!(flushes >= 1, "nobody was asked to flush");
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn an_epoll_loop_hears_the_answers_of_another_thread() {
    for edges in [false, true] {
        let (send, receive) = mpsc::channel::<DetachedRequest>();
        let worker = thread::spawn(move || receive.iter().map(|request| request.complete().unwrap()).count());
        with_clients(move |queue| serve(queue, edges, |request| send.send(request.detach()).unwrap()));
        assert!(worker.join().unwrap() >= 400);
    }
}
