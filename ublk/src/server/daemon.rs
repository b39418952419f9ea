// SPDX-License-Identifier: MIT OR Apache-2.0
//! A thread of a server, and its queues.

use core::any::Any;
use core::panic::AssertUnwindSafe;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use core::time::Duration;
use std::boxed::Box;
use std::os::fd::{AsFd, OwnedFd};
use std::panic;
use std::string::String;
use std::sync::{Arc, mpsc};
use std::time::Instant;
use std::vec::Vec;

use crate::control::CpuSet;
use crate::errno::Errno;
use crate::error::{Error, Message};
use crate::hosting;
use crate::id::QueueId;
use crate::mode::Mode;
use crate::queue::{Answered, Event, Operation, PreparedQueue, Queue};
use crate::ring::Wake;
use crate::server::held::{Rounds, Watched};
use crate::server::stop::{Bell, hear};

/// How long the threads of a device that is stopped, or abandoned, may take to notice.
pub(super) const LEAVE_PATIENCE: Duration = Duration::from_secs(2);

/// How often the threads of a server that hands over look whether they are still to wait for the target.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What the threads of one server share.
pub(super) struct Shared<T> {
    pub(super) target: T,
    /// Whether the device outlives this server: what is not answered when a thread leaves is then the driver's to see to.
    pub(super) outlives: bool,
    /// Set when the target has panicked: it is not called again, and every further request fails.
    pub(super) panicked: AtomicBool,
    /// Notified when a thread has something to say.
    pub(super) news: Bell,
    /// Readable when every queue's thread is to leave, whatever is unanswered.
    pub(super) abandon: Bell,
    phase: AtomicU8,
    /// Counts on as requests are delivered and answered while the device is being started, stopped or let go, as a sign of progress.
    /// Reads count for the start, which reads the partition table, and not for the stop, which writes: a client that goes on
    /// reading is no progress.
    pub(super) moved: AtomicU64,
}

/// How far a server has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Serving,
    /// The driver was asked to start the device.
    Starting,
    /// The service is to end, and goes on until then.
    Ending,
    /// The driver was asked to stop the device.
    Stopping,
    /// The threads are to answer what the target has, to take nothing more, and to leave.
    HandingOver,
}

impl<T> Shared<T> {
    pub(super) fn new(target: T, outlives: bool) -> Result<Shared<T>, Error> {
        Ok(Shared {
            target,
            outlives,
            panicked: AtomicBool::new(false),
            news: Bell::new()?,
            abandon: Bell::new()?,
            phase: AtomicU8::new(0),
            moved: AtomicU64::new(0),
        })
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.store(
            match phase {
                Phase::Serving => 0,
                Phase::Starting => 1,
                Phase::Ending => 2,
                Phase::Stopping => 3,
                Phase::HandingOver => 4,
            },
            Ordering::Relaxed,
        );
    }

    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            1 => Phase::Starting,
            2 => Phase::Ending,
            3 => Phase::Stopping,
            4 => Phase::HandingOver,
            _ => Phase::Serving,
        }
    }

    /// Counts what the queue has answered since `seen`, which is brought up to now, and what was delivered.
    fn note_progress<M: Mode>(&self, queue: &Queue<M>, seen: &mut Option<Answered>, delivered: Option<Operation>) {
        let phase = self.phase();
        if phase == Phase::Serving {
            *seen = None;
        } else {
            let seen = seen.get_or_insert_with(|| queue.answered());
            let before = core::mem::replace(seen, queue.answered());
            let reads = phase == Phase::Starting && seen.reads != before.reads;
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

/// The queues of one thread, and the CPUs that it is to run on.
pub(super) struct Daemon<M: Mode, P> {
    /// Each with what the target has of its own for it.
    pub(super) queues: Vec<(PreparedQueue<M>, P)>,
    pub(super) cpus: Option<CpuSet>,
    pub(super) io_flusher: bool,
    pub(super) rounds: Arc<Rounds>,
}

/// The most queues of a thread that has several: it polls their rings, and the bell that tells it to leave.
pub(super) const MAX_QUEUES: usize = 63;

impl<M: Mode, P> Daemon<M, P> {
    /// Of no queue yet.
    pub(super) fn new(io_flusher: bool) -> Daemon<M, P> {
        Daemon { queues: Vec::new(), cpus: None, io_flusher, rounds: Arc::default() }
    }

    /// For the thread that stops the device.
    pub(super) fn watched(&self) -> Watched {
        Watched::new(self.queues.iter().map(|(queue, _)| queue.watch()).collect(), &self.rounds)
    }

    /// Serves the queues, and reports their end, whatever that is.
    ///
    /// What is returned of queues that were not finished is to be dropped when the thread has ended: on Linux 6.12 a request
    /// that is being delivered to a ring that ends before its thread does is never ended itself.
    pub(super) fn run<T>(self, shared: &Shared<T>, report: &mpsc::Sender<Report>) -> Vec<OwnedFd>
    where
        T: Fn(&P, Event<'_, M>) + Sync,
    {
        let queue = self.queues.first().map_or(QueueId::new(0), |(queue, _)| queue.id());
        let mut rings = Vec::new();
        let rounds = Arc::clone(&self.rounds);
        rounds.step();
        let served = panic::catch_unwind(AssertUnwindSafe(|| self.serve(shared, report, &mut rings)));
        let ended = served.unwrap_or_else(|payload| Err(Error::Panicked { queue, message: said(payload) }));
        rounds.end();
        // The other end is gone only where nobody wants to know any more.
        let _ = report.send(Report::Ended(ended));
        shared.news.notify();
        rings
    }

    /// Serves until the device is stopped, or the server is to be abandoned.
    fn serve<T>(self, shared: &Shared<T>, report: &mpsc::Sender<Report>, rings: &mut Vec<OwnedFd>) -> Result<(), Error>
    where
        T: Fn(&P, Event<'_, M>) + Sync,
    {
        if let Some(cpus) = self.cpus {
            cpus.pin_thread()?;
        }
        if self.io_flusher {
            hosting::mark_io_flusher()?;
        }
        let mut served = Served { queues: Vec::new(), rounds: &self.rounds, rings };
        for (queue, own) in self.queues {
            served.queues.push(Serving { queue: queue.fetch()?, own, seen: None, left: 0 });
        }
        if let [only] = &*served.queues {
            only.queue.wake_on(shared.abandon.fd())?;
        }
        // What the driver refuses of the fetches, it has refused by now.
        let mut ready = [true; MAX_QUEUES];
        let mut panicked = served.answer(shared, &ready)?;
        let _ = report.send(Report::Fetched);
        shared.news.notify();
        let mut abandoned = false;
        while !served.is_finished() && !abandoned {
            (ready, abandoned) = served.wait(Some(&shared.abandon), None)?;
            panicked = panicked.or(served.answer(shared, &ready)?);
            // That the bell has rung is known when what has completed was taken.
            abandoned |= served.queues.iter().any(|serving| serving.queue.is_woken());
            // A target that has panicked would fail all that comes; the next server will not.
            abandoned |= shared.outlives && shared.panicked.load(Ordering::Acquire);
        }
        // What is answered last goes out when the queues are dropped. Whoever waits for this has a deadline, and then says so.
        while shared.phase() == Phase::HandingOver && !served.is_handed_over() {
            (ready, _) = served.wait(None, Some(LOOK_AGAIN))?;
            panicked = panicked.or(served.answer(shared, &ready)?);
        }
        match (shared.outlives, shared.phase()) {
            (true, Phase::HandingOver) => {}
            // What is not answered is the driver's to see to.
            (true, Phase::Serving | Phase::Starting | Phase::Ending) if shared.panicked.load(Ordering::Acquire) => {}
            (true, Phase::Serving | Phase::Starting | Phase::Ending) => served.held().map_or(Ok(()), Err)?,
            _ => served.leave()?,
        }
        panicked.map_or(Ok(()), |(queue, message)| Err(Error::Panicked { queue, message }))
    }
}

/// A queue that is served.
struct Serving<M: Mode, P> {
    queue: Queue<M>,
    own: P,
    /// What the queue had answered, while somebody wants to know whether anything moves.
    seen: Option<Answered>,
    /// Requests that were delivered and are left to the driver, and to the next server.
    left: usize,
}

/// The queues of a thread; of those that are dropped unfinished, the rings' descriptors stay in `rings`.
struct Served<'r, M: Mode, P> {
    queues: Vec<Serving<M, P>>,
    rounds: &'r Rounds,
    rings: &'r mut Vec<OwnedFd>,
}

impl<M: Mode, P> Served<'_, M, P> {
    fn is_finished(&self) -> bool {
        self.queues.iter().all(|serving| serving.queue.is_finished())
    }

    /// Submits what was answered, and waits until a queue has something; which ones may, and whether `abandon` says so, which the ring
    /// of a single queue waits for itself.
    fn wait(&self, abandon: Option<&Bell>, time: Option<Duration>) -> Result<([bool; MAX_QUEUES], bool), Error> {
        self.queues.iter().for_each(|serving| serving.queue.note_held());
        self.rounds.step();
        let waited = self.wait_for(abandon, time);
        self.rounds.step();
        waited
    }

    fn wait_for(&self, abandon: Option<&Bell>, time: Option<Duration>) -> Result<([bool; MAX_QUEUES], bool), Error> {
        if let [only] = &*self.queues {
            only.queue.wait(time)?;
            return Ok(([true; MAX_QUEUES], false));
        }
        // `answer` has submitted everything.
        let mut fds = [-1; MAX_QUEUES + 1];
        let (bell, rings) = fds.split_first_mut().map_or((None, &mut [][..]), |(bell, rings)| (Some(bell), rings));
        if let (Some(bell), Some(abandon)) = (bell, abandon) {
            *bell = abandon.fd().raw();
        }
        for (fd, serving) in rings.iter_mut().zip(&self.queues) {
            if !serving.queue.is_finished() {
                *fd = serving.queue.ring_fd();
            }
        }
        let polled = hear(fds, time)?;
        let ready = core::array::from_fn(|index| polled.get(index + 1).copied().unwrap_or(false));
        Ok((ready, polled.first().copied().unwrap_or(false)))
    }

    /// Answers what the queues that are ready have; what the target said if it panicked.
    fn answer<T>(&mut self, shared: &Shared<T>, ready: &[bool]) -> Result<Option<(QueueId, Message)>, Error>
    where
        T: Fn(&P, Event<'_, M>) + Sync,
    {
        let mut panicked = None;
        let is_alone = self.queues.len() == 1;
        for (serving, _) in self.queues.iter_mut().zip(ready).filter(|(_, ready)| **ready) {
            let Serving { queue, own, seen, left } = serving;
            loop {
                let said = answer_all(queue, own, shared, self.rounds, seen, left)?;
                panicked = panicked.or(said.map(|message| (queue.id(), message)));
                // The ring of one among several is not waited for, and so it is left with nothing to submit or to take.
                if is_alone || queue.wait(Some(Duration::ZERO))? != Wake::Completions {
                    break;
                }
                // It would not wait while one queue has something all the time.
                self.rounds.step();
                self.rounds.step();
            }
        }
        Ok(panicked)
    }

    /// Whether the target has nothing left to answer; what was delivered and not given to it stays with the driver.
    fn is_handed_over(&self) -> bool {
        self.queues.iter().all(|serving| serving.queue.owned_by_target() <= serving.left)
    }

    /// Fails what is left of queues that are abandoned, for as long as it takes a stop that waited for it to go on and end the
    /// fetches: a ring that is closed with fetches in flight while a stop ends them makes Linux 7.3 warn. What is detached is
    /// left to whoever has it, and to the driver.
    fn leave(&mut self) -> Result<(), Error> {
        let held = self.held();
        let deadline = Instant::now() + LEAVE_PATIENCE;
        while !self.is_finished() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let is_alone = self.queues.len() == 1;
            for Serving { queue, .. } in &mut self.queues {
                queue.fail_forgotten()?;
                while !is_alone && queue.wait(Some(Duration::ZERO))? == Wake::Completions {
                    fail_all(queue)?;
                }
            }
            self.wait(None, Some(left))?;
            for Serving { queue, .. } in &self.queues {
                fail_all(queue)?;
            }
        }
        held.map_or(Ok(()), Err)
    }

    /// The request that the target has held longest.
    fn held(&self) -> Option<Error> {
        let held = self.queues.iter().filter_map(|serving| {
            serving.queue.oldest().map(|(tag, age)| (age, Error::Held { queue: serving.queue.id(), tag, age }))
        });
        held.max_by_key(|(age, _)| *age).map(|(_, error)| error)
    }
}

impl<M: Mode, P> Drop for Served<'_, M, P> {
    fn drop(&mut self) {
        for Serving { queue, .. } in self.queues.iter().filter(|serving| !serving.queue.is_finished()) {
            self.rings.extend(queue.as_fd().try_clone_to_owned());
        }
    }
}

fn fail_all<M: Mode>(queue: &Queue<M>) -> Result<(), Error> {
    while let Some(event) = queue.next_event()? {
        fail(event);
    }
    Ok(())
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
    rounds: &Rounds,
    seen: &mut Option<Answered>,
    left: &mut usize,
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
        let panicked_before = shared.panicked.load(Ordering::Acquire);
        let is_new = matches!(event, Event::Request(_));
        if shared.outlives && (panicked_before || is_new && shared.phase() == Phase::HandingOver) {
            // The token is the promise of an answer, which the next server gives, or the driver.
            core::mem::forget(event);
            *left += 1;
            continue;
        }
        if panicked_before {
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
        rounds.note_return();
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
