// SPDX-License-Identifier: MIT OR Apache-2.0
//! A whole server in one call: a thread for each queue, started and stopped in the order that cannot hang.
//!
//! This is the one convenience on top of the core, and the only part that makes threads.

mod stop;

use core::panic::AssertUnwindSafe;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::format;
use std::panic;
use std::sync::mpsc;
use std::thread;
use std::vec::Vec;

pub use stop::{StopHandle, Stopped};

use crate::control::Control;
use crate::device::Device;
use crate::device_info::{DeviceInfo, NewDevice};
use crate::errno::Errno;
use crate::error::{Error, SystemCall};
use crate::id::QueueId;
use crate::params::Params;
use crate::queue::{PreparedQueue, Queue, Request};
use stop::{Event, Signals, Wakeups};

/// A server for one device.
///
/// ```no_run
/// use ublk::{Cache, Errno, NewDevice, Operation, Params, Sectors, Server};
///
/// // Every block of this disk reads as zeroes.
/// fn main() -> Result<(), ublk::Error> {
///     let params = Params::new(Sectors::new(1 << 20), Cache::None).read_only();
///     let server = Server::new(NewDevice::new().queues(2), params).stop_on_signals();
///     let stopped = server.run(
///         |request| match request.operation() {
///             Operation::READ => request.complete(),
///             _ => request.fail(Errno::EOPNOTSUPP),
///         },
///         |device| println!("/dev/ublkb{}", device.id()),
///     )?;
///     println!("{stopped}");
///     Ok(())
/// }
/// ```
#[derive(Debug)]
#[must_use]
pub struct Server {
    device: NewDevice,
    params: Params,
    on_signals: bool,
    handle: Option<StopHandle>,
}

/// What the threads of one server share.
struct Shared<T> {
    target: T,
    /// Set when the target has panicked: it is not called again, and every further request fails.
    panicked: AtomicBool,
    wakeups: Wakeups,
    /// Readable when every queue's thread is to leave, whatever is unanswered.
    abandon: Event,
}

/// What the thread of a queue tells the one that started it.
enum Report {
    Fetched,
    Ended(Result<(), Error>),
}

impl Server {
    /// A server for a device that is yet to be added.
    pub const fn new(device: NewDevice, params: Params) -> Server {
        Server { device, params, on_signals: false, handle: None }
    }

    /// Stops on SIGINT and SIGTERM. While the server runs both are blocked in the calling thread, and in the threads that
    /// it makes, and taken from a signalfd. A thread that the program made before still has its own mask.
    pub const fn stop_on_signals(mut self) -> Server {
        self.on_signals = true;
        self
    }

    /// Stops when this handle says so.
    pub fn stop_on(mut self, handle: &StopHandle) -> Server {
        self.handle = Some(handle.clone());
        self
    }

    /// Adds the device, serves it until it is to stop, stops it and deletes it.
    ///
    /// `target` answers each request; the threads of all queues call it. `started` is called once, when the block device
    /// exists. A target that panics fails its request and all that follow, and ends the server.
    ///
    /// The device is deleted on every return, and when `started` panics; a client that still has the block device open keeps
    /// its id from being used again until it closes it. With `panic = "abort"`, and after SIGKILL, its id
    /// and its char device stay.
    ///
    /// # Errors
    ///
    /// - those of [`Device::add`], [`Device::queue`], [`Device::start`], [`Device::stop`] and [`Device::delete`];
    /// - those of a queue: [`PreparedQueue::fetch`], [`Queue::wait`], [`Queue::next_request`]. The requests that were under
    ///   way then fail with `EIO`;
    /// - [`Error::Panicked`]: the target did;
    /// - [`Error::System`] with [`SystemCall::Thread`], [`SystemCall::Eventfd`], [`SystemCall::Signalfd`].
    pub fn run<T, S>(self, target: T, started: S) -> Result<Stopped, Error>
    where
        T: Fn(Request<'_>) + Sync,
        S: FnOnce(&DeviceInfo),
    {
        let signals = if self.on_signals { Some(Signals::block()?) } else { None };
        let wakeups = Wakeups { news: Event::new()?, handle: self.handle, signals };
        let shared = Shared { target, panicked: AtomicBool::new(false), wakeups, abandon: Event::new()? };
        let mut device = Device::add(Control::open()?, &self.device, &self.params)?;
        let queues = (0..device.info().queues()).map(|id| device.queue(QueueId::new(id)));
        let queues = queues.collect::<Result<Vec<_>, Error>>()?;

        let served = thread::scope(|scope| {
            let (report, reports) = mpsc::channel();
            let mut session = Session { device: &mut device, shared: &shared, reports, running: 0, failed: Ok(()) };
            for queue in queues {
                let name = format!("ublk{}q{}", session.device.info().id(), queue.id());
                let (report, shared) = (report.clone(), &shared);
                let spawned = thread::Builder::new().name(name).spawn_scoped(scope, move || {
                    let id = queue.id();
                    let served = panic::catch_unwind(AssertUnwindSafe(|| serve(queue, shared, &report)));
                    // The other end is gone only where nobody wants to know any more.
                    let _ = report.send(Report::Ended(served.unwrap_or(Err(Error::Panicked { queue: id }))));
                    shared.wakeups.news.notify();
                });
                spawned
                    .map_err(|error| SystemCall::Thread.failed(Errno::from_raw(error.raw_os_error().unwrap_or(0))))?;
                session.running += 1;
            }
            drop(report);
            session.serve(started)
        });
        let deleted = device.delete();
        let stopped = served?;
        deleted?;
        Ok(stopped)
    }
}

/// The time in which the threads of the queues run. Ends them on every way out, so that the scope that waits for them
/// ends too.
struct Session<'s, T> {
    device: &'s mut Device,
    shared: &'s Shared<T>,
    reports: mpsc::Receiver<Report>,
    /// Threads that have not reported their end.
    running: usize,
    /// Why the first thread ended that had a reason to.
    failed: Result<(), Error>,
}

/// How long the threads of a stopped device may take to answer what they own.
const LEAVE_PATIENCE: Duration = Duration::from_secs(30);

impl<T> Session<'_, T> {
    fn serve(mut self, started: impl FnOnce(&DeviceInfo)) -> Result<Stopped, Error> {
        // The driver waits for every fetch before it starts a device, so one that failed would never let it.
        for _ in 0..self.running {
            if let Ok(report) = self.reports.recv() {
                self.note(report);
            }
            self.failed?;
        }
        self.device.start()?;
        started(self.device.info());
        let stopped = self.wait()?;
        self.device.stop()?;
        self.wait_for_threads();
        self.failed?;
        Ok(stopped)
    }

    /// Waits for a reason to stop.
    fn wait(&mut self) -> Result<Stopped, Error> {
        loop {
            let stopped = self.shared.wakeups.wait()?;
            while let Ok(report) = self.reports.try_recv() {
                self.note(report);
            }
            self.failed?;
            if let Some(stopped) = stopped {
                return Ok(stopped);
            }
            // The thread of a target that panicked serves on until the device is stopped, and then says so.
            if self.running == 0 || self.shared.panicked.load(Ordering::Acquire) {
                return Ok(Stopped::ByItself);
            }
        }
    }

    fn note(&mut self, report: Report) {
        if let Report::Ended(ended) = report {
            self.running -= 1;
            self.failed = self.failed.and(ended);
        }
    }

    /// Waits until every thread has ended by itself, which it does when its device is stopped.
    fn wait_for_threads(&mut self) {
        while self.running > 0 {
            match self.reports.recv_timeout(LEAVE_PATIENCE) {
                Ok(report) => self.note(report),
                Err(_) => return,
            }
        }
    }
}

impl<T> Drop for Session<'_, T> {
    fn drop(&mut self) {
        while let Ok(report) = self.reports.try_recv() {
            self.note(report);
        }
        // A thread that has failed answers nothing more, and a stop would wait for it.
        if self.running > 0 && self.failed.is_ok() && self.device.stop().is_ok() {
            self.wait_for_threads();
        }
        self.shared.abandon.notify();
    }
}

/// Serves one queue until its device is stopped, or the server is to be abandoned.
fn serve<T>(queue: PreparedQueue, shared: &Shared<T>, report: &mpsc::Sender<Report>) -> Result<(), Error>
where
    T: Fn(Request<'_>) + Sync,
{
    let id = queue.id();
    let queue = queue.fetch()?;
    queue.wake_on(shared.abandon.fd())?;
    // What the driver refuses of the fetches, it has refused by now.
    let mut panicked = answer_all(&queue, shared)?;
    let _ = report.send(Report::Fetched);
    while !queue.is_finished() && !queue.is_woken() {
        queue.wait(None)?;
        panicked |= answer_all(&queue, shared)?;
    }
    if panicked { Err(Error::Panicked { queue: id }) } else { Ok(()) }
}

/// Answers every request that was delivered; whether the target panicked over one of them.
fn answer_all<T>(queue: &Queue, shared: &Shared<T>) -> Result<bool, Error>
where
    T: Fn(Request<'_>) + Sync,
{
    let mut panicked = false;
    while let Some(request) = queue.next_request()? {
        if shared.panicked.load(Ordering::Acquire) {
            request.fail(Errno::EIO);
            continue;
        }
        // The target is not called again after a panic, so nobody sees what it left half done. The request is answered with
        // EIO where it is dropped. The thread lives on: the driver would wait for its tags for ever.
        let target = AssertUnwindSafe(|| (shared.target)(request));
        if panic::catch_unwind(target).is_err() {
            panicked = true;
            shared.panicked.store(true, Ordering::Release);
            shared.wakeups.news.notify();
        }
    }
    Ok(panicked)
}
