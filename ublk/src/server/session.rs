// SPDX-License-Identifier: MIT OR Apache-2.0
//! The time in which the threads of a server's queues run, as the thread that made them sees it.

use core::sync::atomic::Ordering;
use std::sync::mpsc;

use crate::device::Device;
use crate::device_info::DeviceInfo;
use crate::errno::Errno;
use crate::error::Error;
use crate::mode::Mode;
use crate::server::daemon::{LEAVE_PATIENCE, Report, Shared};
use crate::server::stop::{Stopped, Wakeups};

/// The time in which the threads of the queues run. Ends them on every way out, so that the scope that waits for them
/// ends too.
pub(super) struct Session<'s, T, M: Mode> {
    device: &'s mut Device<M>,
    shared: &'s Shared<T>,
    wakeups: &'s Wakeups,
    reports: &'s mpsc::Receiver<Report>,
    /// Threads that have not reported their end.
    running: usize,
    /// Threads that have reported that their queue is fetched.
    fetched: usize,
    /// Why the first thread ended that had a reason to.
    failed: Result<(), Error>,
    /// Whether every thread was told to end, one way or the other.
    over: bool,
}

impl<'s, T, M: Mode> Session<'s, T, M> {
    pub(super) fn new(
        device: &'s mut Device<M>,
        shared: &'s Shared<T>,
        wakeups: &'s Wakeups,
        reports: &'s mpsc::Receiver<Report>,
    ) -> Session<'s, T, M> {
        Session { device, shared, wakeups, reports, running: 0, fetched: 0, failed: Ok(()), over: false }
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
            if let Some(stopped) = self.wakeups.wait(&self.shared.news)? {
                return Ok(stopped);
            }
        }
    }

    /// Stops the device, and waits until every thread has answered what it owned and left.
    fn stop(&mut self) -> Result<(), Error> {
        let shared = self.shared;
        shared.stopping.store(true, Ordering::Relaxed);
        let mut before = shared.moved.load(Ordering::Relaxed);
        let mut stopping = self.device.begin_stop()?;
        loop {
            match stopping.poll() {
                Ok(true) => break,
                Ok(false) => {}
                Err(Error::TimedOut { .. }) if shared.has_progressed(&mut before) => stopping.extend(),
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

impl<T, M: Mode> Drop for Session<'_, T, M> {
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
