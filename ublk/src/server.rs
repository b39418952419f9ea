// SPDX-License-Identifier: MIT OR Apache-2.0
//! A whole server in one call: a thread for each queue, started and stopped in the order that cannot hang.
//!
//! This is the one convenience on top of the core, and the only part that makes threads.

mod stop;

use core::panic::AssertUnwindSafe;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use std::format;
use std::panic;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;
use std::vec::Vec;

pub use stop::{StopHandle, Stopped};

use crate::control::Control;
use crate::device::Device;
use crate::device_info::{DeviceInfo, NewDevice};
use crate::errno::Errno;
use crate::error::{Error, Message, SystemCall};
use crate::features::Features;
use crate::id::QueueId;
use crate::params::Params;
use crate::queue::{Operation, PreparedQueue, Queue, Request};
use crate::signals::Signals;
use stop::{Event, Wakeups};

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
    patience: Duration,
}

/// How long a server that is to stop waits while its target answers nothing, unless it is told otherwise.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the threads of one server share.
struct Shared<T> {
    target: T,
    /// Set when the target has panicked: it is not called again, and every further request fails.
    panicked: AtomicBool,
    wakeups: Wakeups,
    /// Readable when every queue's thread is to leave, whatever is unanswered.
    abandon: Event,
    starting: AtomicBool,
    stopping: AtomicBool,
    /// Requests taken up while the device is being started or stopped, as a sign of progress. Reads count for the start,
    /// which reads the partition table, and not for the stop, which writes: a client that goes on reading is no progress.
    answered: AtomicU64,
}

impl<T> Shared<T> {
    /// Whether requests were answered since `before`, which is brought up to now.
    fn has_progressed(&self, before: &mut u64) -> bool {
        let answered = self.answered.load(Ordering::Relaxed);
        core::mem::replace(before, answered) != answered
    }
}

/// What the thread of a queue tells the one that started it.
enum Report {
    Fetched,
    Ended(Result<(), Error>),
}

impl Server {
    /// A server for a device that is yet to be added.
    pub const fn new(device: NewDevice, params: Params) -> Server {
        Server { device, params, on_signals: false, handle: None, patience: PATIENCE }
    }

    /// Stops on SIGINT and SIGTERM. While the server runs both are blocked in the calling thread, and in the threads that
    /// it makes, and taken from a signalfd. A thread that the program made before still has its own mask. One server of a
    /// process gets a signal; several are stopped with one [`StopHandle`].
    pub const fn stop_on_signals(mut self) -> Server {
        self.on_signals = true;
        self
    }

    /// Stops when this handle says so.
    pub fn stop_on(mut self, handle: &StopHandle) -> Server {
        self.handle = Some(handle.clone());
        self
    }

    /// Sets how long a server that is to stop waits while its target answers no request: 30 s unless set. What is not answered
    /// then fails with `EIO`. A target that is slow, and answers one request after the other, is waited for as long as it takes:
    /// the page cache is written back before the disk is gone.
    pub const fn stop_patience(mut self, patience: Duration) -> Server {
        self.patience = patience;
        self
    }

    /// Adds the device, serves it until it is to stop, stops it and deletes it.
    ///
    /// `target` answers each request; the threads of all queues call it. `started` is called at most once, when the block
    /// device exists and nothing has asked the server to stop yet. A target that panics fails its request and all that follow, and ends the server.
    ///
    /// The device is deleted on every return, and when `started` panics; a client that still has the block device open keeps
    /// its id from being used again until it closes it. With `panic = "abort"`, and after SIGKILL, its id and its char device
    /// stay. A target that never returns keeps this from returning.
    ///
    /// # Errors
    ///
    /// - those of [`Device::add`], [`Device::queue`], [`Device::start`], [`Device::stop`] and [`Device::delete`];
    /// - those of a queue: [`PreparedQueue::fetch`], [`Queue::wait`], [`Queue::next_request`]. The requests that were under
    ///   way then fail with `EIO`;
    /// - [`Error::Panicked`]: the target did;
    /// - [`Error::Invalid`]: a feature was asked for that makes the device outlive its server;
    /// - [`Error::System`] with [`SystemCall::Thread`], [`SystemCall::Eventfd`], [`SystemCall::Signalfd`].
    pub fn run<T, S>(self, target: T, started: S) -> Result<Stopped, Error>
    where
        T: Fn(Request<'_>) + Sync,
        S: FnOnce(&DeviceInfo),
    {
        let outlives = [Features::USER_RECOVERY, Features::USER_RECOVERY_REISSUE, Features::USER_RECOVERY_FAIL_IO];
        if outlives.iter().any(|feature| self.device.asked_features().contains(*feature)) {
            return Err(Error::Invalid { what: "a server's device ends with it: recovery is not offered yet" });
        }
        let signals = if self.on_signals { Some(Signals::block()?) } else { None };
        let wakeups = Wakeups { news: Event::new()?, handle: self.handle, signals };
        let shared = Shared {
            target,
            panicked: AtomicBool::new(false),
            wakeups,
            abandon: Event::new()?,
            starting: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            answered: AtomicU64::new(0),
        };
        let mut device = Device::add(Control::open()?, &self.device, &self.params)?;
        device.control().set_stop_patience(self.patience);
        let queues = (0..device.info().queues()).map(|id| device.queue(QueueId::new(id)));
        let queues = queues.collect::<Result<Vec<_>, Error>>()?;

        let served = thread::scope(|scope| {
            let (report, reports) = mpsc::channel();
            let mut session = Session::new(&mut device, &shared, reports);
            for queue in queues {
                let name = format!("ublk{}q{}", session.device.info().id(), queue.id());
                let (report, shared) = (report.clone(), &shared);
                let spawned = thread::Builder::new().name(name).spawn_scoped(scope, move || {
                    let id = queue.id();
                    let served = panic::catch_unwind(AssertUnwindSafe(|| serve(queue, shared, &report)));
                    let ended = served.unwrap_or_else(|payload| {
                        // Whatever its drop does, the end of this thread has to be told.
                        core::mem::forget(payload);
                        Err(Error::Panicked { queue: id, message: Message::new("") })
                    });
                    // The other end is gone only where nobody wants to know any more.
                    let _ = report.send(Report::Ended(ended));
                    shared.wakeups.news.notify();
                });
                spawned.map_err(|error| {
                    // The one errno that pthread_create(3) documents for want of threads.
                    SystemCall::Thread.failed(error.raw_os_error().map_or(Errno::EAGAIN, Errno::from_raw))
                })?;
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
    /// Threads that have reported that their queue is fetched.
    fetched: usize,
    /// Why the first thread ended that had a reason to.
    failed: Result<(), Error>,
    /// Whether every thread was told to end, one way or the other.
    over: bool,
}

/// How long the threads of a device that is stopped, or abandoned, may take to notice.
const LEAVE_PATIENCE: Duration = Duration::from_secs(2);

impl<'s, T> Session<'s, T> {
    fn new(device: &'s mut Device, shared: &'s Shared<T>, reports: mpsc::Receiver<Report>) -> Session<'s, T> {
        Session { device, shared, reports, running: 0, fetched: 0, failed: Ok(()), over: false }
    }

    fn serve(mut self, started: impl FnOnce(&DeviceInfo)) -> Result<Stopped, Error> {
        let queues = self.running;
        // The driver waits for every fetch before it starts a device, so one that failed would never let it.
        self.wait_for_fetches();
        self.take_reports();
        self.failed?;
        if self.running < queues {
            return Ok(Stopped::FromOutside);
        }
        let stopped = match self.start() {
            Ok(Some(stopped)) => stopped,
            Ok(None) => {
                started(self.device.info());
                self.wait()?
            }
            // Its queues ended because somebody else stopped it, so the driver did not start it.
            Err(Error::Control { .. }) if self.running < queues && self.failed.is_ok() => Stopped::FromOutside,
            Err(error) => return Err(error),
        };
        let stop = self.stop();
        // Why a thread failed says more than that the stop waited for it in vain.
        self.take_reports();
        self.failed.and(stop).map(|()| stopped)
    }

    /// Waits until every thread has fetched its queue, or has ended.
    fn wait_for_fetches(&mut self) {
        while self.failed.is_ok() && self.fetched < self.running {
            match self.reports.recv() {
                Ok(report) => self.note(report),
                Err(mpsc::RecvError) => return,
            }
        }
    }

    /// Starts the device, and gives up as soon as a thread fails: the driver would wait for it. A reason to stop that comes
    /// meanwhile is returned when the device is live: on Linux 6.12 it cannot be stopped while the driver reads the partition
    /// table, and a thread that left then would hang it for good.
    fn start(&mut self) -> Result<Option<Stopped>, Error> {
        let mut reason = None;
        self.shared.starting.store(true, Ordering::Relaxed);
        let mut before = self.shared.answered.load(Ordering::Relaxed);
        let mut starting = self.device.begin_start()?;
        loop {
            match starting.poll() {
                Ok(true) => break,
                Ok(false) => {}
                // On Linux 6.12 it waits for the partition table, which a slow target may take its time over.
                Err(Error::TimedOut { .. }) if self.shared.has_progressed(&mut before) => starting.extend(),
                Err(error) => return Err(error),
            }
            let wakeups = &self.shared.wakeups;
            let stopped = wakeups.wait_or(starting.fd(), starting.time_left(), reason.is_none())?;
            // Not `take_reports`: the device is borrowed by the start.
            while let Ok(report) = self.reports.try_recv() {
                note(report, &mut self.running, &mut self.fetched, &mut self.failed);
            }
            self.failed?;
            reason = reason.or(stopped);
        }
        self.shared.starting.store(false, Ordering::Relaxed);
        Ok(reason)
    }

    /// Waits for a reason to stop.
    fn wait(&mut self) -> Result<Stopped, Error> {
        loop {
            self.take_reports();
            self.failed?;
            // The thread of a target that panicked serves on until the device is stopped, and then says so.
            if self.running == 0 || self.shared.panicked.load(Ordering::Acquire) {
                return Ok(Stopped::FromOutside);
            }
            if let Some(stopped) = self.shared.wakeups.wait()? {
                return Ok(stopped);
            }
        }
    }

    /// Stops the device, and waits until every thread has answered what it owned and left.
    fn stop(&mut self) -> Result<(), Error> {
        let shared = self.shared;
        shared.stopping.store(true, Ordering::Relaxed);
        let mut before = shared.answered.load(Ordering::Relaxed);
        self.device.stop_while(|| shared.has_progressed(&mut before))?;
        self.over = true;
        while self.running > 0 {
            match self.reports.recv_timeout(LEAVE_PATIENCE) {
                Ok(report) => self.note(report),
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }

    fn take_reports(&mut self) {
        while let Ok(report) = self.reports.try_recv() {
            self.note(report);
        }
    }

    fn note(&mut self, report: Report) {
        note(report, &mut self.running, &mut self.fetched, &mut self.failed);
    }
}

fn note(report: Report, running: &mut usize, fetched: &mut usize, failed: &mut Result<(), Error>) {
    match report {
        Report::Fetched => *fetched += 1,
        Report::Ended(ended) => {
            *running -= 1;
            if ended.is_ok() {
                // It was fetched before it ended, and is not to be counted for another.
                *fetched -= 1;
            }
            *failed = failed.and(ended);
        }
    }
}

impl<T> Drop for Session<'_, T> {
    fn drop(&mut self) {
        // A queue that is fetched after its device was stopped would not notice on Linux 6.12.
        self.wait_for_fetches();
        // A thread that has failed answers nothing more, and a stop would wait for it.
        if !self.over && self.running > 0 && self.failed.is_ok() {
            let _ = self.stop();
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
    let mut queue = queue.fetch()?;
    queue.wake_on(shared.abandon.fd())?;
    // What the driver refuses of the fetches, it has refused by now.
    let mut panicked = answer_all(&queue, shared)?;
    let _ = report.send(Report::Fetched);
    shared.wakeups.news.notify();
    while !queue.is_finished() && !queue.is_woken() {
        queue.wait(None)?;
        panicked |= answer_all(&queue, shared)?;
    }
    leave(&mut queue)?;
    if panicked { Err(Error::Panicked { queue: id, message: Message::new("") }) } else { Ok(()) }
}

/// Fails what is left of a queue that is abandoned, for as long as it takes a stop that waited for it to go on and end the
/// fetches. A ring that is closed with fetches in flight while a stop ends them makes Linux 7.3 warn.
fn leave(queue: &mut Queue) -> Result<(), Error> {
    let deadline = Instant::now() + LEAVE_PATIENCE;
    while !queue.is_finished() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        queue.fail_forgotten()?;
        queue.wait(Some(left))?;
        while let Some(request) = queue.next_request()? {
            request.fail(Errno::EIO);
        }
    }
    Ok(())
}

/// Answers every request that was delivered; whether the target panicked over one of them.
fn answer_all<T>(queue: &Queue, shared: &Shared<T>) -> Result<bool, Error>
where
    T: Fn(Request<'_>) + Sync,
{
    let mut panicked = false;
    while let Some(request) = queue.next_request()? {
        let stops = request.operation() != Operation::READ && shared.stopping.load(Ordering::Relaxed);
        if stops || shared.starting.load(Ordering::Relaxed) {
            shared.answered.fetch_add(1, Ordering::Relaxed);
        }
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
