// SPDX-License-Identifier: MIT OR Apache-2.0
//! A control command between its submission and its answer.

use core::marker::PhantomData;
use core::time::Duration;

use crate::control::Control;
use crate::deadline::Deadline;
use crate::errno::Errno;
use crate::error::{Command, Error, Sent};
use crate::id::DeviceId;
use crate::syscall::{self, Fd};

/// How long is waited where the kernel cannot wait for an answer just then.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// How often a command that was not run is sent again.
const AGAIN: u32 = 16;

/// A control command that was sent, and not answered yet: [`Starting`] or [`Stopping`].
///
/// It is polled beside the queues of its device, which have to be served meanwhile: one thread can do both. Dropped before
/// the answer came it gives up on it: the command may succeed all the same, or be taken back where the handle is closed too, and
/// the control handle answers nothing more.
#[derive(Debug)]
#[must_use = "a command whose answer is not waited for costs the control handle"]
pub struct InFlight<'c> {
    control: &'c mut Control,
    command: Command,
    device: Option<DeviceId>,
    /// The command as it was sent.
    words: [u64; 4],
    sent: Sent,
    /// How often it is still sent again.
    again: u32,
    patience: Duration,
    /// When its answer has been waited for long enough.
    deadline: Deadline,
    /// The driver's answer, once it came: a number that is 0 for most commands.
    answer: Option<Result<u32, Error>>,
    /// Linux works on the command on behalf of this thread, and ends it, or keeps the thread from ending, when that ends.
    thread: PhantomData<*const ()>,
}

static_assertions::assert_not_impl_any!(InFlight<'static>: Send, Sync);

/// A device that is being started ([`Control::begin_start`]).
pub type Starting<'c> = InFlight<'c>;

/// A device that is being stopped ([`Control::begin_stop`]).
pub type Stopping<'c> = InFlight<'c>;

impl<'c> InFlight<'c> {
    pub(super) fn new(
        control: &'c mut Control,
        command: Command,
        device: Option<DeviceId>,
        (words, sent): ([u64; 4], Sent),
        patience: Duration,
    ) -> InFlight<'c> {
        InFlight {
            control,
            command,
            device,
            words,
            sent,
            again: AGAIN,
            patience,
            deadline: Deadline::after(patience),
            answer: None,
            thread: PhantomData,
        }
    }

    /// Whether it is done; true for ever once it is. It makes no system call, but where the kernel has cancelled the command before it
    /// was run: signals that came all the time kept it from making the thread that was to run it. Then it is sent again, a few times.
    ///
    /// # Errors
    ///
    /// Those of the command: [`Control::start`], [`Control::stop`]. [`Error::TimedOut`] means that it has been waited for
    /// long enough. It may be [waited for longer](InFlight::extend), and costs the control handle only when this is dropped.
    pub fn poll(&mut self) -> Result<bool, Error> {
        if let Some(answer) = self.answer {
            return answer.map(|_| true);
        }
        let InFlight { command, device, sent, .. } = *self;
        if let Some(result) = self.control.answer() {
            if result == Err(Errno::ECANCELED) && self.again > 0 {
                self.again -= 1;
                self.control.submit(command, self.words)?;
                return Ok(false);
            }
            let answer = result.map_err(|errno| Error::Control { command, device, errno, sent });
            self.answer = Some(answer);
            return answer.map(|_| true);
        }
        if !self.deadline.is_over() {
            return Ok(false);
        }
        Err(Error::TimedOut { command, device, waited: self.patience })
    }

    /// Waits for as long again from now: something shows that there is progress.
    pub fn extend(&mut self) {
        self.deadline = Deadline::after(self.patience);
    }

    /// The same, and for so long from then on.
    #[cfg(feature = "std")]
    pub(crate) fn extend_by(&mut self, patience: Duration) {
        self.patience = patience;
        self.extend();
    }

    /// A descriptor that can be polled with others: readable until [`poll`](InFlight::poll) has taken the answer.
    #[must_use]
    pub fn fd(&self) -> &Fd {
        self.control.ring.fd()
    }

    /// How long an answer is still waited for, as a time-out for [`poll`](crate::poll()); `None` once it came. Whoever waits for
    /// longer hears of [`Error::TimedOut`] late.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        self.answer.is_none().then(|| self.deadline.time_left())
    }

    /// Waits until it is done, which is right where another thread serves the queues.
    ///
    /// # Errors
    ///
    /// Those of [`poll`](InFlight::poll).
    pub fn wait(mut self) -> Result<(), Error> {
        while !self.step()? {}
        Ok(())
    }

    /// Waits until it is done, and gives the number that the driver answered.
    pub(super) fn wait_for_number(mut self) -> Result<u32, Error> {
        loop {
            if let (true, Some(answer)) = (self.step()?, self.answer) {
                return answer;
            }
        }
    }

    /// Whether it is done; if not, waits until something comes or the time is over.
    pub(super) fn step(&mut self) -> Result<bool, Error> {
        if self.poll()? {
            return Ok(true);
        }
        let time_left = self.time_left();
        match self.control.ring.submit_and_wait(time_left) {
            Ok(_) => {}
            // The command is with the driver, and its answer comes all the same: it is not given up for want of memory.
            Err(Error::System { errno: Errno::EAGAIN | Errno::EBUSY | Errno::ENOMEM, .. }) => {
                syscall::sleep(LOOK_AGAIN)
            }
            Err(error) => return Err(error),
        }
        Ok(false)
    }
}
