// SPDX-License-Identifier: MIT OR Apache-2.0
//! One rule of the kernel.

use crate::diagnosis::seen::Seen;
use crate::errno::Errno;
use crate::error::{Command, SystemCall};

/// What was tried when a rule was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Attempt {
    /// To open `/dev/ublk-control`.
    OpenControl,
    /// To open `/dev/ublkcN`.
    OpenCharDevice,
    /// Anything that makes a descriptor.
    Descriptor,
    /// A system call.
    System(SystemCall),
    /// To submit an entry, whatever is in it.
    Entry,
    /// Any control command.
    EveryControl,
    /// Any I/O command.
    EveryIo,
    /// This command.
    Command(Command),
}

static_assertions::assert_impl_all!(Attempt: Send, Sync);

/// What the kernel answers where a rule is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// This.
    Errno(Errno),
    /// Whatever: another operation was asked for.
    Any,
    /// Whatever the driver gives once it reads the command, which is not this: it gives this before.
    AnyBut(Errno),
    /// It takes the command.
    Taken,
    /// Nothing: the command waits.
    Silence,
}

/// What is to be explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// This answer.
    Errno(Errno),
    /// That there is no answer.
    Silence,
    /// Whatever is wrong.
    Everything,
}

/// Whether a rule was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    No,
    /// Nothing that is known says whether.
    Possibly,
    Certainly,
}

/// One rule of the kernel: what it refuses, with which errno, since when, and where that stands.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    pub(super) id: &'static str,
    pub(super) attempt: Attempt,
    pub(super) answer: Answer,
    pub(super) since: (u16, u16),
    /// The first release that has it no more.
    pub(super) until: Option<(u16, u16)>,
    pub(super) text: &'static str,
    pub(super) remedy: &'static str,
    pub(super) function: &'static str,
    pub(super) holds: fn(&Seen<'_>) -> Holds,
}

static_assertions::assert_impl_all!(Rule: Send, Sync);

impl Rule {
    /// Its name, which stays the same from release to release: `add-dev.queue-depth`.
    #[must_use]
    pub const fn id(&self) -> &'static str {
        self.id
    }

    /// What has to be tried for it to matter.
    #[must_use]
    pub const fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// What the kernel answers, if that is one errno; `None` where it takes the command, where it does not answer, or where it
    /// depends.
    #[must_use]
    pub const fn errno(&self) -> Option<Errno> {
        match self.answer {
            Answer::Errno(errno) => Some(errno),
            Answer::Any | Answer::AnyBut(_) | Answer::Taken | Answer::Silence => None,
        }
    }

    /// The first Linux that has it. What is older than Linux 6.5 was not looked at beyond 6.1.
    #[must_use]
    pub const fn since(&self) -> (u16, u16) {
        self.since
    }

    /// The first Linux that has it no more, if there is one.
    #[must_use]
    pub const fn until(&self) -> Option<(u16, u16)> {
        self.until
    }

    /// What is wrong where it is broken: a clause without a full stop.
    #[must_use]
    pub const fn text(&self) -> &'static str {
        self.text
    }

    /// What to do: a clause in the imperative, without a full stop.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        self.remedy
    }

    /// The kernel's function that answers so.
    #[must_use]
    pub const fn function(&self) -> &'static str {
        self.function
    }

    /// Whether it can be what is asked for.
    pub(super) fn explains(&self, asked: Asked) -> bool {
        match (self.answer, asked) {
            (_, Asked::Everything) => true,
            (Answer::Errno(own), Asked::Errno(errno)) => own == errno,
            (Answer::AnyBut(not), Asked::Errno(errno)) => not != errno,
            (answer, Asked::Errno(_)) => answer == Answer::Any,
            (answer, Asked::Silence) => answer == Answer::Silence,
        }
    }

    /// Whether a kernel of this release has it.
    #[must_use]
    pub fn is_in(&self, kernel: (u16, u16)) -> bool {
        self.since <= kernel && self.until.is_none_or(|until| kernel < until)
    }
}

/// It was broken if this is so.
pub(super) const fn certainly(broken: bool) -> Holds {
    if broken { Holds::Certainly } else { Holds::No }
}

/// It may have been broken if this is so: nothing that is known says more.
pub(super) const fn possibly(broken: bool) -> Holds {
    if broken { Holds::Possibly } else { Holds::No }
}

/// It was broken if this is so, as far as it is known.
pub(super) const fn told(broken: Option<bool>) -> Holds {
    match broken {
        Some(broken) => certainly(broken),
        None => Holds::Possibly,
    }
}

/// A table of rules, in the order in which the kernel looks.
///
/// A group has what is tried and the function that refuses it. A rule in it is its answer, its id with `since` and `until` if they are
/// not Linux 6.0 and none, the test of whether it was broken, and what is wrong and what to do.
macro_rules! rules {
    ($($attempt:expr, $function:literal {
        $($answer:expr, $id:literal $(since $since:tt)? $(until $until:tt)?, $holds:expr, $text:literal, $remedy:literal;)*
    })*) => {
        pub(super) const RULES: &[$crate::diagnosis::rule::Rule] = &[$($($crate::diagnosis::rule::Rule {
            id: $id,
            attempt: $attempt,
            answer: $answer,
            since: $crate::diagnosis::rule::first!($($since,)? (6, 0)),
            until: $crate::diagnosis::rule::first!($(Some($until),)? None),
            text: $text,
            remedy: $remedy,
            function: $function,
            holds: $holds,
        },)*)*];
    };
}
pub(super) use rules;

/// The first of one or two.
macro_rules! first {
    ($first:expr $(, $second:expr)?) => {
        $first
    };
}
pub(super) use first;

/// The answers by their names, for the tables.
macro_rules! answers {
    ($($errno:ident)*) => {
        $(pub(super) const $errno: Answer = Answer::Errno(Errno::$errno);)*
    };
}
answers! {
    E2BIG EACCES EAGAIN EBADF EBUSY ECANCELED EEXIST EFAULT EINTR EINVAL EMFILE ENFILE ENOBUFS ENODEV ENOENT ENOMEM ENOSPC ENOSYS
    ENXIO EOPNOTSUPP EPERM
}
