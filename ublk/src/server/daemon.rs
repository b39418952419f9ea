// SPDX-License-Identifier: MIT OR Apache-2.0
//! The thread of one queue.

use core::any::Any;
use core::panic::AssertUnwindSafe;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use std::boxed::Box;
use std::os::fd::{AsFd, OwnedFd};
use std::panic;
use std::string::String;
use std::sync::mpsc;
use std::time::Instant;

use crate::control::CpuSet;
use crate::errno::Errno;
use crate::error::{Error, Message};
use crate::mode::Mode;
use crate::queue::{Answered, Event, Operation, PreparedQueue, Queue};
use crate::server::stop::Bell;

/// How long the threads of a device that is stopped, or abandoned, may take to notice.
pub(super) const LEAVE_PATIENCE: Duration = Duration::from_secs(2);

/// What the threads of one server share.
pub(super) struct Shared<T> {
    pub(super) target: T,
    /// Set when the target has panicked: it is not called again, and every further request fails.
    pub(super) panicked: AtomicBool,
    /// Notified when a thread has something to say.
    pub(super) news: Bell,
    /// Readable when every queue's thread is to leave, whatever is unanswered.
    pub(super) abandon: Bell,
    pub(super) starting: AtomicBool,
    pub(super) stopping: AtomicBool,
    /// Counts on as requests are delivered and answered while the device is being started or stopped, as a sign of progress.
    /// Reads count for the start, which reads the partition table, and not for the stop, which writes: a client that goes on
    /// reading is no progress.
    pub(super) moved: AtomicU64,
}

impl<T> Shared<T> {
    /// Counts what the queue has answered since `seen`, which is brought up to now, and what was delivered.
    fn note_progress<M: Mode>(&self, queue: &Queue<M>, seen: &mut Answered, delivered: Option<Operation>) {
        let starting = self.starting.load(Ordering::Relaxed);
        if starting || self.stopping.load(Ordering::Relaxed) {
            let before = core::mem::replace(seen, queue.answered());
            let reads = starting && seen.reads != before.reads;
            let others = seen.others != before.others || delivered.is_some_and(|what| what != Operation::READ);
            if reads || others {
                self.moved.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Whether anything has moved since `before`, which is brought up to now.
    pub(super) fn has_progressed(&self, before: &mut u64) -> bool {
        let now = self.moved.load(Ordering::Relaxed);
        core::mem::replace(before, now) != now
    }
}

/// What the thread of a queue tells the one that started it.
pub(super) enum Report {
    Fetched,
    Ended(Result<(), Error>),
}

/// A queue, and the CPUs that its thread is to run on.
pub(super) struct Daemon<M: Mode, P> {
    pub(super) queue: PreparedQueue<M>,
    /// What the target has of its own for this queue.
    pub(super) own: P,
    pub(super) cpus: Option<CpuSet>,
}

impl<M: Mode, P> Daemon<M, P> {
    /// Serves the queue, and reports its end, whatever that is.
    ///
    /// What is returned of a queue that was not finished is to be dropped when the thread has ended: on Linux 6.12 a request
    /// that is being delivered to a ring that ends before its thread does is never ended itself.
    pub(super) fn run<T>(self, shared: &Shared<T>, report: &mpsc::Sender<Report>) -> Option<OwnedFd>
    where
        T: Fn(&P, Event<'_, M>) + Sync,
    {
        let id = self.queue.id();
        let mut ring = None;
        let served = panic::catch_unwind(AssertUnwindSafe(|| self.serve(shared, report, &mut ring)));
        let ended = served.unwrap_or_else(|payload| Err(Error::Panicked { queue: id, message: said(payload) }));
        // The other end is gone only where nobody wants to know any more.
        let _ = report.send(Report::Ended(ended));
        shared.news.notify();
        ring
    }

    /// Serves until the device is stopped, or the server is to be abandoned.
    fn serve<T>(
        self,
        shared: &Shared<T>,
        report: &mpsc::Sender<Report>,
        ring: &mut Option<OwnedFd>,
    ) -> Result<(), Error>
    where
        T: Fn(&P, Event<'_, M>) + Sync,
    {
        let id = self.queue.id();
        if let Some(cpus) = self.cpus {
            cpus.pin_thread()?;
        }
        let own = self.own;
        let mut served = Served { queue: self.queue.fetch()?, ring };
        let queue = &mut served.queue;
        queue.wake_on(shared.abandon.fd())?;
        // What the driver refuses of the fetches, it has refused by now.
        let mut seen = Answered::default();
        let mut panicked = answer_all(queue, &own, shared, &mut seen)?;
        let _ = report.send(Report::Fetched);
        shared.news.notify();
        while !queue.is_finished() && !queue.is_woken() {
            queue.wait(None)?;
            panicked = panicked.or(answer_all(queue, &own, shared, &mut seen)?);
        }
        leave(queue)?;
        panicked.map_or(Ok(()), |message| Err(Error::Panicked { queue: id, message }))
    }
}

/// A queue that is served; of one that is dropped unfinished, its ring's descriptor stays in `ring`.
struct Served<'r, M: Mode> {
    queue: Queue<M>,
    ring: &'r mut Option<OwnedFd>,
}

impl<M: Mode> Drop for Served<'_, M> {
    fn drop(&mut self) {
        if !self.queue.is_finished() {
            *self.ring = self.queue.as_fd().try_clone_to_owned().ok();
        }
    }
}

/// Fails what is left of a queue that is abandoned, for as long as it takes a stop that waited for it to go on and end the
/// fetches: a ring that is closed with fetches in flight while a stop ends them makes Linux 7.3 warn. What is detached is
/// left to whoever has it, and to the driver.
fn leave<M: Mode>(queue: &mut Queue<M>) -> Result<(), Error> {
    let held = queue.oldest().map(|(tag, age)| Error::Held { queue: queue.id(), tag, age });
    let deadline = Instant::now() + LEAVE_PATIENCE;
    while !queue.is_finished() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        queue.fail_forgotten()?;
        queue.wait(Some(left))?;
        while let Some(event) = queue.next_event()? {
            fail(event);
        }
    }
    held.map_or(Ok(()), Err)
}

fn fail<M: Mode>(event: Event<'_, M>) {
    match event {
        Event::Request(request) => request.fail(Errno::EIO),
        Event::Completed(completed) => completed.into_request().fail(Errno::EIO),
    }
}

/// Gives every request that was delivered, or whose operations have completed, to the target; what the target said if it panicked over one of them. Answers count
/// as progress one by one, those that came from other threads meanwhile too.
fn answer_all<T, M: Mode, P>(
    queue: &Queue<M>,
    own: &P,
    shared: &Shared<T>,
    seen: &mut Answered,
) -> Result<Option<Message>, Error>
where
    T: Fn(&P, Event<'_, M>) + Sync,
{
    let mut panicked = None;
    while let Some(event) = queue.next_event()? {
        let request = match &event {
            Event::Request(request) => request,
            Event::Completed(completed) => completed.request(),
        };
        shared.note_progress(queue, seen, Some(request.operation()));
        if shared.panicked.load(Ordering::Acquire) {
            fail(event);
            continue;
        }
        // The target is not called again after a panic; what it left half done is seen by those calls only that are under way
        // on other queues. The request is answered with EIO where it is dropped. The thread lives on: the driver would wait for
        // its tags for ever.
        let target = AssertUnwindSafe(|| (shared.target)(own, event));
        if let Err(payload) = panic::catch_unwind(target) {
            panicked = panicked.or(Some(said(payload)));
            shared.panicked.store(true, Ordering::Release);
            shared.news.notify();
        }
    }
    shared.note_progress(queue, seen, None);
    Ok(panicked)
}

/// What a panic said.
fn said(payload: Box<dyn Any + Send>) -> Message {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = Message::new(text.unwrap_or_default());
    // Whatever its drop does, the end of this thread has to be told.
    core::mem::forget(payload);
    message
}
