// SPDX-License-Identifier: MIT OR Apache-2.0
//! The time in which the threads of a server's queues run, as the thread that made them sees it.

use core::sync::atomic::Ordering;
use core::time::Duration;
use std::sync::mpsc;

use crate::control::Stopping;
use crate::deadline::Deadline;
use crate::device::Device;
use crate::device_info::DeviceInfo;
use crate::errno::Errno;
use crate::error::{Command, Error, SystemCall};
use crate::features::Features;
use crate::mode::Mode;
use crate::server::block_device::{Look, Looked};
use crate::server::daemon::{LEAVE_PATIENCE, Phase, Report, Shared};
use crate::server::held::{Held, Left};
use crate::server::stop::{Stopped, Wakeups};

/// How often a server that was asked to stop looks whether the block device is open still.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// How long it looks before it tells that somebody has it open: udev does for a moment.
const TELL_AFTER: Duration = Duration::from_secs(1);

/// How often it looks whether the target has answered what it had.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How long the driver may take over a stop of which it is known that it waits for a request that nobody answers, until others are.
const LATE_PATIENCE: Duration = Duration::from_secs(1);

/// How long a driver that is quiescing a device may wait for a tag to become idle, before it is asked again.
const QUIESCE_AGAIN: Duration = Duration::from_millis(20);

/// What has become of the requests that the target had when it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answers {
    /// They are answered.
    All,
    /// Some are not, and are waited for.
    Coming,
    /// Some are not, and have been waited for in vain.
    Late,
    /// The same, and a thread is in a call of the target that does not return.
    Stuck,
}

/// A wait for them.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    left: Left,
    deadline: Deadline,
}

/// The time in which the threads of the queues run. Ends them on every way out, so that the scope that waits for them
/// ends too.
pub(super) struct Session<'s, T, M: Mode> {
    device: &'s mut Device<M>,
    shared: &'s Shared<T>,
    wakeups: &'s Wakeups,
    reports: &'s mpsc::Receiver<Report>,
    held: Held,
    when_in_use: Option<fn(&DeviceInfo)>,
    /// Threads that have not reported their end.
    running: usize,
    /// Threads that have reported that their queue is fetched.
    fetched: usize,
    /// Why the first thread ended that had a reason to.
    failed: Result<(), Error>,
    /// Whether every thread was told to end, one way or the other.
    over: bool,
    /// How long the target may take over an answer when the device is to be stopped.
    patience: Duration,
    /// Whether it has taken longer.
    is_late: bool,
}

impl<'s, T, M: Mode> Session<'s, T, M> {
    pub(super) fn new(
        device: &'s mut Device<M>,
        shared: &'s Shared<T>,
        wakeups: &'s Wakeups,
        reports: &'s mpsc::Receiver<Report>,
        held: Held,
        when_in_use: Option<fn(&DeviceInfo)>,
    ) -> Session<'s, T, M> {
        let patience = device.control().stop_patience();
        Session {
            device,
            shared,
            wakeups,
            reports,
            held,
            when_in_use,
            running: 0,
            fetched: 0,
            failed: Ok(()),
            over: false,
            patience,
            is_late: false,
        }
    }

    /// The device that is served.
    pub(super) const fn device(&self) -> &DeviceInfo {
        self.device.info()
    }

    /// There is one more thread.
    pub(super) const fn note_spawned(&mut self) {
        self.running += 1;
    }

    pub(super) fn serve(mut self, started: impl FnOnce(&DeviceInfo)) -> Result<Stopped, Error> {
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
                if !self.shared.panicked.load(Ordering::Acquire) {
                    started(self.device.info());
                }
                self.wait()?
            }
            // Its queues ended because somebody else stopped it, so the driver did not start it.
            Err(Error::Control { .. }) if self.running < queues && self.failed.is_ok() => Stopped::FromOutside,
            Err(error) => return Err(error),
        };
        let ended = self.end(stopped);
        // Why a thread failed says more than that the stop waited for it in vain.
        self.take_reports();
        self.failed.and(ended)
    }

    /// Ends the service, for that reason.
    fn end(&mut self, reason: Stopped) -> Result<Stopped, Error> {
        match reason {
            Stopped::HandedOver => self.hand_over().map(|()| reason),
            // The threads of a target that has panicked leave by themselves, and the device waits for its next server.
            _ if self.shared.outlives && self.shared.panicked.load(Ordering::Acquire) => {
                self.wait_for_ends();
                Ok(reason)
            }
            // They have ended because somebody has quiesced the device, or stopped it.
            Stopped::FromOutside if self.device.is_to_be_kept() => {
                self.over = true;
                Ok(Stopped::HandedOver)
            }
            Stopped::FromOutside => self.stop().map(|()| reason),
            Stopped::Handle => self.stop_in_use().map(|()| reason),
            Stopped::Signal(_) => self.stop_unused(reason),
        }
    }

    /// Stops the device as soon as nobody has it open, or at once where it is asked for again.
    fn stop_unused(&mut self, reason: Stopped) -> Result<Stopped, Error> {
        let asked = Deadline::after(TELL_AFTER);
        let mut tell = self.when_in_use.take();
        let mut waiting = self.ask();
        loop {
            match self.answers(&mut waiting) {
                // A stop would wait for a thread that cannot leave, so that it cannot even be asked whether somebody has it open.
                Answers::Coming | Answers::Stuck => {}
                answers => {
                    self.set_late(answers == Answers::Late);
                    if self.try_stop()? {
                        return Ok(reason);
                    }
                    self.set_late(false);
                    waiting = self.ask();
                }
            }
            if asked.is_over() {
                if let Some(tell) = tell.take() {
                    tell(self.device.info());
                }
            }
            // Nothing tells when a block device was closed by the last one who had it open.
            let again = self.wakeups.wait_for(&self.shared.news, TRY_AGAIN, true)?;
            self.take_reports();
            self.failed?;
            if self.running == 0 || self.shared.panicked.load(Ordering::Acquire) {
                return self.end(Stopped::FromOutside);
            }
            match again {
                Some(Stopped::HandedOver) => return self.end(Stopped::HandedOver),
                Some(again) => return self.stop_in_use().map(|()| again),
                None => {}
            }
        }
    }

    /// Stops the device if nobody has it open. Whether it is stopped.
    fn try_stop(&mut self) -> Result<bool, Error> {
        if self.device.control().features()?.contains(Features::SAFE_STOP_DEV) {
            return match self.stop_by(Device::begin_try_stop) {
                Err(Error::Control { errno: Errno::EBUSY, .. }) => {
                    self.shared.enter(Phase::Serving);
                    Ok(false)
                }
                // Somebody else has stopped it.
                Err(Error::Control { errno: Errno::ENODEV, .. }) => self.stop_by(Device::begin_stop).map(|()| true),
                other => other.map(|()| true),
            };
        }
        match self.look(true)? {
            // As long as it is open nobody else mounts it.
            Some(Looked::Open(disk)) => self.stop().map(|()| drop(disk)).map(|()| true),
            // There is nothing that somebody could have opened.
            Some(Looked::NotOpened(Errno::ENOENT)) if !self.shared.outlives => self.stop().map(|()| true),
            Some(Looked::NotSynced(errno)) => self.stop().and(Err(SystemCall::Fsync.failed(errno))),
            // And where it cannot be told.
            Some(Looked::InUse | Looked::NotOpened(_)) | None => {
                self.shared.enter(Phase::Serving);
                Ok(false)
            }
        }
    }

    /// Stops the device, whoever has it open. Of one that outlives its server the driver throws away what is in the page cache, which
    /// therefore is written before.
    fn stop_in_use(&mut self) -> Result<(), Error> {
        if !self.shared.outlives {
            return self.stop();
        }
        self.wait_for_answers()?;
        let synced = match self.look(false)? {
            Some(Looked::Open(_)) => Ok(()),
            Some(Looked::NotOpened(errno) | Looked::NotSynced(errno)) => Err(SystemCall::Fsync.failed(errno)),
            // Of those that ask for it exclusively.
            Some(Looked::InUse) => Err(SystemCall::Fsync.failed(Errno::EBUSY)),
            None => Err(SystemCall::Fsync.failed(Errno::ETIMEDOUT)),
        };
        self.stop().and(synced)
    }

    /// Opens the block device, and syncs it where the driver would not; `None` where that comes to no end.
    fn look(&mut self, exclusively: bool) -> Result<Option<Looked>, Error> {
        let (shared, id) = (self.shared, self.device.info().id());
        let numbers = self.device.control().params(id)?.as_raw().devt;
        let numbers = (numbers.disk_major, numbers.disk_minor);
        shared.enter(Phase::Ending);
        let mut before = shared.moved.load(Ordering::Relaxed);
        let looking = Look { id, numbers, exclusively, syncs: shared.outlives }.begin()?;
        let mut deadline = Deadline::after(self.first_patience());
        loop {
            if let Some(seen) = looking.seen() {
                return Ok(Some(seen));
            }
            if deadline.is_over() {
                if !shared.has_progressed(&mut before) {
                    self.set_late(true);
                    return Ok(None);
                }
                deadline = self.deadline();
            }
            self.wakeups.wait_or(&shared.news, looking.done.fd(), Some(deadline.time_left()), false)?;
            self.take_reports();
            self.failed?;
        }
    }

    /// Lets another server have the device, when the target has answered what it has.
    fn hand_over(&mut self) -> Result<(), Error> {
        let (shared, id) = (self.shared, self.device.info().id());
        let quiesces = self.device.info().features().contains(Features::QUIESCE);
        shared.enter(if quiesces { Phase::Ending } else { Phase::HandingOver });
        let mut before = shared.moved.load(Ordering::Relaxed);
        if !quiesces {
            shared.abandon.notify();
        }
        let mut deadline = self.deadline();
        while self.running > 0 {
            if quiesces {
                match self.device.control().quiesce(id, QUIESCE_AGAIN) {
                    // It tells nothing to a server that owns every tag, and so it is asked for again.
                    Ok(()) | Err(Error::Control { errno: Errno::EBUSY, .. }) => {}
                    // It was stopped meanwhile.
                    Err(Error::Control { errno: Errno::ENODEV, .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            if let Ok(report) = self.reports.recv_timeout(QUIESCE_AGAIN) {
                self.note(report);
            }
            self.failed?;
            if deadline.is_over() {
                if !shared.has_progressed(&mut before) {
                    return Err(self.give_up_waiting(Command::QUIESCE_DEV));
                }
                deadline = self.deadline();
            }
        }
        self.over = true;
        Ok(())
    }

    /// Has the threads leave although the target has not answered what it has, which is the driver's to see to; what to say of it.
    fn give_up_waiting(&mut self, command: Command) -> Error {
        self.shared.enter(Phase::Ending);
        self.over = true;
        self.wait_for_ends();
        let device = Some(self.device.info().id());
        let late = Error::TimedOut { command, device, waited: self.patience };
        self.failed.err().unwrap_or(late)
    }

    fn deadline(&self) -> Deadline {
        Deadline::after(self.patience)
    }

    /// Asks what the target has.
    fn ask(&mut self) -> Waiting {
        self.held.ask();
        Waiting { left: self.held.left(), deadline: self.deadline() }
    }

    fn answers(&mut self, waiting: &mut Waiting) -> Answers {
        let left = self.held.left();
        if left.is_nothing() || self.running == 0 {
            return Answers::All;
        }
        if left != waiting.left {
            *waiting = Waiting { left, deadline: self.deadline() };
        }
        match (waiting.deadline.is_over(), left.busy) {
            (false, _) => Answers::Coming,
            (true, 0) => Answers::Late,
            (true, _) => Answers::Stuck,
        }
    }

    /// Waits until the target has answered what it has, as long as it answers that: here, where SIGKILL ends this process, and not within
    /// the driver's stop, where it would not. One that does not return has the server end without a stop.
    fn wait_for_answers(&mut self) -> Result<(), Error> {
        self.shared.enter(Phase::Ending);
        let mut waiting = self.ask();
        // A stop that was given up is not asked for again.
        while !self.is_late && !self.device.control().is_abandoned() {
            match self.answers(&mut waiting) {
                Answers::All => break,
                Answers::Coming => {}
                Answers::Late => self.set_late(true),
                Answers::Stuck => return Err(self.give_up_waiting(Command::STOP_DEV)),
            }
            self.wakeups.wait_for(&self.shared.news, LOOK_AGAIN, false)?;
            self.take_reports();
            self.failed?;
        }
        Ok(())
    }

    /// Whether the target has a request for longer than it may.
    fn set_late(&mut self, is_late: bool) {
        self.is_late = is_late;
        let patience = self.first_patience();
        self.device.control().set_stop_patience(patience);
    }

    /// How long the driver may take, until the target has answered something.
    fn first_patience(&self) -> Duration {
        if self.is_late { LATE_PATIENCE.min(self.patience) } else { self.patience }
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
        self.shared.enter(Phase::Starting);
        let mut before = self.shared.moved.load(Ordering::Relaxed);
        let mut starting = self.device.begin_start()?;
        loop {
            match starting.poll() {
                Ok(true) => break,
                Ok(false) => {}
                // On Linux 6.12 it waits for the partition table, which a slow target may take its time over.
                Err(Error::TimedOut { .. }) if self.shared.has_progressed(&mut before) => starting.extend(),
                Err(error) => return Err(error),
            }
            let (fd, time_left) = (starting.fd(), starting.time_left());
            let stopped = self.wakeups.wait_or(&self.shared.news, fd, time_left, reason.is_none())?;
            // Not `take_reports`: the device is borrowed by the start.
            while let Ok(report) = self.reports.try_recv() {
                note(report, &mut self.running, &mut self.fetched, &mut self.failed);
            }
            self.failed?;
            reason = reason.or(stopped);
        }
        self.shared.enter(Phase::Serving);
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
            if let Some(stopped) = self.wakeups.wait(&self.shared.news)? {
                return Ok(stopped);
            }
        }
    }

    /// Stops the device, and waits until every thread has answered what it owned and left.
    fn stop(&mut self) -> Result<(), Error> {
        self.wait_for_answers()?;
        self.stop_by(Device::begin_stop)
    }

    /// Stops the device by this command.
    fn stop_by<B>(&mut self, begin: B) -> Result<(), Error>
    where
        B: for<'d> FnOnce(&'d mut Device<M>) -> Result<Stopping<'d>, Error>,
    {
        let shared = self.shared;
        shared.enter(Phase::Stopping);
        let mut before = shared.moved.load(Ordering::Relaxed);
        let mut stopping = begin(self.device)?;
        loop {
            match stopping.poll() {
                Ok(true) => break,
                Ok(false) => {}
                Err(Error::TimedOut { .. }) if shared.has_progressed(&mut before) => stopping.extend_by(self.patience),
                Err(Error::TimedOut { command, device, .. }) => {
                    return Err(Error::TimedOut { command, device, waited: self.patience });
                }
                // Of an unprivileged device, whose node is gone: somebody has deleted it.
                Err(Error::Control { errno: Errno::ENOENT, .. }) => break,
                Err(error) => return Err(error),
            }
            self.wakeups.wait_or(&shared.news, stopping.fd(), stopping.time_left(), false)?;
            // Not `take_reports`: the device is borrowed by the stop, which waits in vain for a thread that has failed.
            while let Ok(report) = self.reports.try_recv() {
                note(report, &mut self.running, &mut self.fetched, &mut self.failed);
            }
            self.failed?;
        }
        self.over = true;
        self.wait_for_reports();
        Ok(())
    }

    /// Tells the threads to leave, and waits a moment until they have.
    fn wait_for_ends(&mut self) {
        self.shared.abandon.notify();
        self.wait_for_reports();
    }

    fn wait_for_reports(&mut self) {
        while self.running > 0 {
            match self.reports.recv_timeout(LEAVE_PATIENCE) {
                Ok(report) => self.note(report),
                Err(_) => return,
            }
        }
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

impl<T, M: Mode> Drop for Session<'_, T, M> {
    fn drop(&mut self) {
        // A queue that is fetched after its device was stopped would not notice on Linux 6.12.
        self.wait_for_fetches();
        // A thread that has failed answers nothing more, and a stop would wait for it.
        if !self.over && self.running > 0 && self.failed.is_ok() && !self.device.is_to_be_kept() {
            let _ = self.stop();
        }
        self.shared.abandon.notify();
    }
}
