// SPDX-License-Identifier: MIT OR Apache-2.0
//! A whole server in one call: a thread for each queue, or as many as it is to have, started and stopped in the order that cannot hang.
//!
//! This is the one convenience on top of the core, and the only part that makes threads.

mod block_device;
mod daemon;
mod held;
mod session;
mod stop;

use core::time::Duration;
use std::format;
use std::sync::mpsc;
use std::thread;
use std::vec::Vec;

pub use stop::{StopHandle, Stopped};

use crate::control::{Control, CpuSet};
use crate::device::{DeletedId, Device};
use crate::device_info::{DeviceInfo, NewDevice};
#[cfg(doc)]
use crate::error::SystemCall;
use crate::error::{Command, Error, no_thread};
use crate::features::Features;
use crate::hosting::BufferLock;
use crate::id::QueueId;
use crate::mode::{self, Mode};
use crate::params::Params;
use crate::queue::{Event, PreparedQueue, Request, RingOperation};
use crate::signals::Signals;
use daemon::{Daemon, MAX_QUEUES, Report, Shared};
use held::Held;
use session::Session;
use stop::Wakeups;

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
///
/// A target is called by the threads of all queues:
///
/// ```compile_fail,E0277
/// # use ublk::{Error, Server};
/// fn count(server: Server) -> Result<(), Error> {
///     let counted = std::cell::Cell::new(0);
///     server.run(|request| drop((&counted, request)), |_| ())?;
///     Ok(())
/// }
/// ```
///
/// ```no_run
/// # use ublk::{Error, Server};
/// fn count(server: Server) -> Result<(), Error> {
///     let counted = std::sync::Mutex::new(0);
///     server.run(|request| drop((&counted, request)), |_| ())?;
///     Ok(())
/// }
/// ```
///
/// It keeps no request beyond the call, unless that is detached:
///
/// ```compile_fail,E0277
/// # use ublk::{Error, Server};
/// fn keep(server: Server) -> Result<(), Error> {
///     let kept = std::sync::Mutex::new(Vec::new());
///     server.run(|request| kept.lock().unwrap().push(request), |_| ())?;
///     Ok(())
/// }
/// ```
///
/// ```no_run
/// # use ublk::{Error, Server};
/// fn keep(server: Server) -> Result<(), Error> {
///     let kept = std::sync::Mutex::new(Vec::new());
///     server.run(|request| kept.lock().unwrap().push(request.detach()), |_| ())?;
///     Ok(())
/// }
/// ```
#[derive(Debug)]
#[must_use]
pub struct Server<M: Mode = mode::Copy> {
    device: NewDevice<M>,
    origin: Origin<M>,
    on_signals: bool,
    on_hand_over_signal: bool,
    handle: Option<StopHandle>,
    hand_over: Option<StopHandle>,
    when_in_use: Option<fn(&DeviceInfo)>,
    patience: Duration,
    pinned: bool,
    threads: Option<u16>,
    hosting: Hosting,
}

/// What is done to the threads and the queues of a server beyond what they need.
#[derive(Clone, Copy, Debug)]
struct Hosting {
    io_flusher: bool,
    lock: Option<BufferLock>,
    operations: Option<&'static [RingOperation]>,
}

static_assertions::assert_impl_all!(Server: Send, Sync);

/// Where a server has its device from.
#[derive(Clone, Copy, Debug)]
enum Origin<M: Mode> {
    /// It adds one with these parameters.
    Added(Params),
    /// It was another server's. How it is taken is a function, so that a program that takes none has no code for it.
    Found(DeviceInfo, Take<M>),
}

/// [`Device::recover`] or [`Device::take_over`].
type Take<M> = fn(Control, &DeviceInfo, &NewDevice<M>) -> Result<Device<M>, Error>;

/// How long a server that is to stop waits while its target answers nothing, unless it is told otherwise.
const PATIENCE: Duration = Duration::from_secs(30);

impl<M: Mode> Server<M> {
    /// A server for a device that is yet to be added.
    pub const fn new(device: NewDevice<M>, params: Params) -> Server<M> {
        Server::of(device, Origin::Added(params))
    }

    /// A server for a device that has lost its server, as [`Control::info`](crate::Control::info) has found it; see
    /// [`Device::recover`]. Of `device` counts what is the server's own.
    pub const fn recover(device: NewDevice<M>, found: DeviceInfo) -> Server<M> {
        Server::of(device, Origin::Found(found, Device::recover))
    }

    /// A server for a device whose server is to be relieved; see [`Device::take_over`].
    pub const fn take_over(device: NewDevice<M>, found: DeviceInfo) -> Server<M> {
        Server::of(device, Origin::Found(found, Device::take_over))
    }

    const fn of(device: NewDevice<M>, origin: Origin<M>) -> Server<M> {
        Server {
            device,
            origin,
            on_signals: false,
            on_hand_over_signal: false,
            handle: None,
            hand_over: None,
            when_in_use: None,
            patience: PATIENCE,
            pinned: false,
            threads: None,
            hosting: Hosting { io_flusher: false, lock: None, operations: None },
        }
    }

    /// Stops on SIGINT and SIGTERM: on the first one as soon as nobody has the block device open, on the second at once. What clients
    /// have written to the page cache is written back before.
    ///
    /// Whether it is open is the driver's to say from Linux 7.0 on ([`Control::try_stop`](crate::Control::try_stop)). Before, an
    /// exclusive open of the block device is tried: that tells of a mounted file system, a volume group, swap, and not of a program
    /// that reads or writes. While the server runs both signals are blocked in the calling thread, and in the threads that
    /// it makes, and taken from a signalfd.
    ///
    /// If the program has other threads by then, a pool or because `run` is called in one, it calls
    /// [`Signals::block`](crate::Signals::block) first of all in `main`, and keeps the value: any thread that has not blocked them
    /// lets the signal end the process, and the device stays. One server of a process gets a signal; several are stopped with
    /// one [`StopHandle`]. A program that is run meanwhile inherits the block.
    pub const fn stop_on_signals(mut self) -> Server<M> {
        self.on_signals = true;
        self
    }

    /// Hands the device over on SIGUSR2, as [`hand_over_on`](Server::hand_over_on) does. It is blocked and taken as those of
    /// [`stop_on_signals`](Server::stop_on_signals) are, which come with it.
    pub const fn hand_over_on_signal(mut self) -> Server<M> {
        self.on_signals = true;
        self.on_hand_over_signal = true;
        self
    }

    /// Hands the device over when this handle says so: the server answers what it owns, and lets go of the device, which waits for its
    /// next server ([`Server::recover`]). Clients see a pause and no error; those of a device with
    /// [`Recovery::FailIo`](crate::Recovery::FailIo) see the errors that it has instead of the pause. The device has
    /// [`Features::QUIESCE`] for it, or [`Recovery::Reissue`](crate::Recovery::Reissue), else [`run`](Server::run) is refused: a request
    /// that comes at the wrong moment would fail.
    pub fn hand_over_on(mut self, handle: &StopHandle) -> Server<M> {
        self.hand_over = Some(handle.clone());
        self
    }

    /// Calls `tell` once when a signal has asked the server to stop, and somebody has the block device open.
    pub const fn when_in_use(mut self, tell: fn(&DeviceInfo)) -> Server<M> {
        self.when_in_use = Some(tell);
        self
    }

    /// Stops when this handle says so, whoever has the block device open.
    pub fn stop_on(mut self, handle: &StopHandle) -> Server<M> {
        self.handle = Some(handle.clone());
        self
    }

    /// Sets how long a server that is to stop waits while its target answers no request that it has, and then while the driver stops the
    /// device and the target gets and answers none: 30 s unless set. What is not answered then fails with `EIO`. A target that is slow,
    /// and answers one request after the other, is waited for as long as it takes: the page cache is written back before the disk is
    /// gone.
    pub const fn stop_patience(mut self, patience: Duration) -> Server<M> {
        self.patience = patience;
        self
    }

    /// Sets how many threads serve the device's queues: one for each queue unless set. Where there are fewer threads than queues, a thread
    /// serves several, 63 at most. Where there are more, several serve one: which [share](PreparedQueue::share) it where requests come
    /// in batches, and have [some of its tags](PreparedQueue::split_off) each otherwise (Linux 6.16).
    pub const fn threads(mut self, threads: u16) -> Server<M> {
        self.threads = Some(threads);
        self
    }

    /// Has each thread run on the CPUs that the block layer gives to its queues, and on no others
    /// (`UBLK_U_CMD_GET_QUEUE_AFFINITY`, `sched_setaffinity(2)`).
    pub const fn pin_queues(mut self) -> Server<M> {
        self.pinned = true;
        self
    }

    /// Marks each thread that serves as part of the I/O of a disk ([`hosting::mark_io_flusher`](crate::hosting::mark_io_flusher)), which
    /// needs `CAP_SYS_RESOURCE`.
    pub const fn io_flusher(mut self) -> Server<M> {
        self.hosting.io_flusher = true;
        self
    }

    /// Has the buffers of each queue stay in memory ([`PreparedQueue::lock_buffers`]), which needs `CAP_IPC_LOCK`, or a
    /// `RLIMIT_MEMLOCK` that is enough for all of them.
    pub const fn lock_buffers(mut self, when: BufferLock) -> Server<M> {
        self.hosting.lock = Some(when);
        self
    }

    /// Has the kernel let the queues' rings do what the queues need, and these operations for the target, and nothing else
    /// ([`PreparedQueue::restrict`]).
    pub const fn restrict(mut self, operations: &'static [RingOperation]) -> Server<M> {
        self.hosting.operations = Some(operations);
        self
    }

    /// Adds the device, serves it until it is to stop, stops it and deletes it.
    ///
    /// `target` answers each request, or [detaches](Request::detach) it for another thread to answer; the threads of all queues
    /// call it. `started` is called at most once, by the calling thread, when the block device exists and nothing has asked the
    /// server to stop yet; requests are served meanwhile, and a reason to stop is heeded when it returns. A target that panics
    /// fails its request and all that follow, and ends the server.
    ///
    /// It takes 5 descriptors, 3 more for each queue or each thread, whichever are more, and one for the signals.
    ///
    /// The device is deleted on every return, and when `started` panics. One that [outlives its server](NewDevice::recovery) is deleted
    /// after a stop only, or one that was given up: it waits for its next server after any other error, a panic of the target, or a
    /// hand-over. A client that still has the block device open keeps its id from being used again until it closes it. With
    /// `panic = "abort"`, and after SIGKILL, its id and its char device stay. A target that never returns keeps this from returning.
    ///
    /// A server that is to stop waits until the target has answered what it has, and asks the driver then. SIGKILL ends it up to there, and
    /// must not come while the driver writes back the page cache: the kernel then waits within this process for requests of its own
    /// that are not answered, for good. A stop that another process asks for knows no such moment. Over a target that does not return
    /// for the whole [patience](Server::stop_patience) the driver is not asked: it fails with [`Error::TimedOut`], once the target returns.
    ///
    /// # Errors
    ///
    /// - those of [`Device::add`], [`Device::queue`], [`Device::start`], [`Device::stop`] and [`Device::delete`];
    /// - those of a queue: [`PreparedQueue::fetch`](crate::PreparedQueue::fetch), [`Queue::wait`](crate::Queue::wait),
    ///   [`Queue::next_request`](crate::Queue::next_request). The requests that were under way then fail with `EIO`;
    /// - [`Error::Panicked`]: the target did, and said this;
    /// - [`Error::Held`]: the server was to stop, and the target sat on a request, or had forgotten it. The device is gone;
    ///   whoever waits for such a request gets `EIO`;
    /// - [`Error::TimedOut`] of [`Command::STOP_DEV`](crate::Command::STOP_DEV): the same, and the target answered as it had been given
    ///   up. Where the driver was not even asked, as the target did not return, a device that outlives its server waits for the next;
    /// - [`Error::Invalid`]: the device cannot be [handed over](Server::hand_over_on) without an error at its clients; or no
    ///   [thread](Server::threads), too few of them, or more than there are tags;
    /// - those of [`Device::recover`] and [`Device::take_over`]; [`SystemCall::Fsync`]: what was in the page cache of a device
    ///   that outlives its server could not be written back before it was stopped, as its node could not be opened for instance;
    /// - [`Error::System`] with [`SystemCall::Thread`], [`SystemCall::Eventfd`], [`SystemCall::Signalfd`],
    ///   [`SystemCall::SetAffinity`]; and of what else was asked for, [`SystemCall::IoFlusher`], [`SystemCall::LockMemory`],
    ///   [`SystemCall::Restrict`].
    pub fn run<T, S>(self, target: T, started: S) -> Result<Stopped, Error>
    where
        T: Fn(Request<'_, M>) + Sync,
        S: FnOnce(&DeviceInfo),
    {
        let target = |(): &(), event: Event<'_, M>| match event {
            Event::Request(request) => target(request),
            // Whoever starts operations asks for events.
            Event::Completed(completed) => completed.finish(),
        };
        self.run_events(|_| Ok(()), target, started)
    }

    /// As [`run`](Server::run), for a target that has [operations](crate::Operations) of the queues' rings under way.
    ///
    /// `prepare` is called for each queue before any is fetched, by the calling thread: to
    /// [register files](PreparedQueue::register_file), for instance. What it returns goes to the queue's thread, and `target` is
    /// given it with each event of that queue. Where several threads serve one queue, it is called for each of them, of which each
    /// has a ring.
    ///
    /// # Errors
    ///
    /// As for [`run`](Server::run), and those of `prepare`.
    pub fn run_events<P, T, S>(
        self,
        prepare: impl Fn(&mut PreparedQueue<M>) -> Result<P, Error>,
        target: T,
        started: S,
    ) -> Result<Stopped, Error>
    where
        P: Send,
        T: Fn(&P, Event<'_, M>) + Sync,
        S: FnOnce(&DeviceInfo),
    {
        let features = match &self.origin {
            Origin::Added(_) => self.device.asked_features(),
            Origin::Found(found, _) => found.features(),
        };
        let can_hand_over =
            [Features::QUIESCE, Features::USER_RECOVERY_REISSUE].iter().any(|way| features.contains(*way));
        if (self.hand_over.is_some() || self.on_hand_over_signal) && !can_hand_over {
            return Err(Error::Invalid {
                what: "a device is handed over with UBLK_F_QUIESCE, or with UBLK_F_USER_RECOVERY_REISSUE",
            });
        }
        let signals = match (self.on_signals, self.on_hand_over_signal) {
            (false, _) => None,
            (true, false) => Some(Signals::block()?),
            (true, true) => Some(Signals::block_with_hand_over()?),
        };
        let wakeups = Wakeups { handle: self.handle, hand_over: self.hand_over, signals };
        let shared = Shared::new(target, features.contains(Features::USER_RECOVERY))?;
        let control = Control::open()?;
        let mut device = match &self.origin {
            Origin::Added(params) => Device::add(control, &self.device, params)?,
            Origin::Found(found, take) => take(control, found, &self.device)?,
        };
        device.control().set_stop_patience(self.patience);
        let mut daemons = daemons(&mut device, self.threads, self.hosting, prepare)?;
        if self.pinned {
            let id = device.info().id();
            for daemon in &mut daemons {
                let mut cpus = CpuSet::EMPTY;
                for (queue, _) in &daemon.queues {
                    cpus = cpus.union(&device.control().queue_affinity(id, queue.id())?);
                }
                daemon.cpus = Some(cpus);
            }
        }

        let (count, queues) = (daemons.len(), usize::from(device.info().queues()));
        let (report, reports) = mpsc::channel();
        let served = thread::scope(|scope| {
            let held = Held::new(daemons.iter().map(Daemon::watched).collect());
            let mut session = Session::new(&mut device, &shared, &wakeups, &reports, held, self.when_in_use);
            let mut threads = Vec::new();
            for (number, daemon) in daemons.into_iter().enumerate() {
                let name = match &*daemon.queues {
                    [(queue, _)] if queues >= count => format!("ublk{}q{}", session.device().id(), queue.id()),
                    _ => format!("ublk{}t{number}", session.device().id()),
                };
                let (report, shared) = (report.clone(), &shared);
                let spawned =
                    thread::Builder::new().name(name).spawn_scoped(scope, move || daemon.run(shared, &report));
                threads.push(spawned.map_err(|error| no_thread(&error))?);
                session.note_spawned();
            }
            drop(report);
            let served = session.serve(started);
            // What a thread returns is let go when the thread is gone.
            threads.into_iter().for_each(|thread| drop(thread.join()));
            served
        });
        // One that was stopped is dead, and not kept, whatever it could have outlived.
        let deleted = if device.is_to_be_kept() {
            drop(device);
            Ok(DeletedId::Held)
        } else {
            device.delete()
        };
        match served {
            // What was not answered says more than that the stop waited for it in vain.
            Err(Error::TimedOut { command: Command::STOP_DEV, .. }) => {
                served.map_err(|late| held(&reports).unwrap_or(late))
            }
            Err(error) => Err(error),
            Ok(stopped) => deleted.map(|_| stopped),
        }
    }
}

/// What each thread of a server is to serve: thread and queue number so and so, of whichever there are more, and of the others the same
/// ones again.
fn daemons<M: Mode, P>(
    device: &mut Device<M>,
    threads: Option<u16>,
    hosting: Hosting,
    prepare: impl Fn(&mut PreparedQueue<M>) -> Result<P, Error>,
) -> Result<Vec<Daemon<M, P>>, Error> {
    let (queues, depth) = (device.info().queues(), device.info().depth());
    let in_batches = device.info().features().contains(Features::BATCH_IO);
    let threads = threads.unwrap_or(queues);
    if threads == 0 || usize::from(queues.div_ceil(threads)) > MAX_QUEUES {
        return Err(Error::Invalid { what: "a server has a thread at least, and each serves at most 63 queues" });
    }
    let mut all: Vec<Daemon<M, P>> = (0..threads).map(|_| Daemon::new(hosting.io_flusher)).collect();
    let mut give = |number: usize, mut queue: PreparedQueue<M>| -> Result<(), Error> {
        if let Some(when) = hosting.lock {
            queue.lock_buffers(when)?;
        }
        if let Some(operations) = hosting.operations {
            queue.restrict(operations)?;
        }
        let own = prepare(&mut queue)?;
        let count = all.len().max(1);
        if let Some(daemon) = all.get_mut(number % count) {
            daemon.queues.push((queue, own));
        }
        Ok(())
    };
    for id in 0..queues {
        let mut queue = device.queue(QueueId::new(id))?;
        let numbers = (id..threads).step_by(queues.into());
        let tags = depth / u16::try_from(numbers.len()).unwrap_or(u16::MAX).max(1);
        for number in numbers.skip(1) {
            give(number.into(), if in_batches { queue.share()? } else { queue.split_off(tags)? })?;
        }
        give(id.into(), queue)?;
    }
    Ok(all)
}

/// The request that was held longest when the queues were abandoned.
fn held(reports: &mpsc::Receiver<Report>) -> Option<Error> {
    let ended = reports.try_iter().filter_map(|report| match report {
        Report::Ended(Err(error @ Error::Held { age, .. })) => Some((age, error)),
        _ => None,
    });
    ended.max_by_key(|(age, _)| *age).map(|(_, error)| error)
}
