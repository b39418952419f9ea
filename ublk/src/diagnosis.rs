// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why the kernel refused: the driver's rules as data, and which of them a refusal broke.
//!
//! The driver answers a wrong command with an errno and says nothing else. Here stands each [`Rule`] that it has, with the errno
//! that it gives, the Linux versions that have it, what to do, and the driver's own function. [`causes`] looks at what was sent and at
//! what is known beside it, and names the cause that holds, or the few that can.
//!
//! ```no_run
//! use ublk::diagnosis::{Environment, causes};
//! # let mut control = ublk::Control::open().unwrap();
//! # let id = ublk::DeviceId::new(0);
//! if let Err(error) = control.start(id) {
//!     let mut environment = Environment::default();
//!     environment.device = control.info(id).ok();
//!     for cause in causes(&error, &environment) {
//!         println!("{cause}");
//!     }
//! }
//! ```
//!
//! It makes no system call and allocates nothing: what it is to know of the machine stands in an [`Environment`], which the caller
//! fills as far as it likes. [`causes_of_command`] takes the bytes of any submission queue entry, whoever made it.
//!
//! Each rule is shown to be the driver's by a test that breaks it: `tests/device_diagnosis.rs`.

mod control;
mod environment;
mod io;
mod params;
mod rule;
mod seen;
mod sqe;
mod system;

use core::fmt;

pub use environment::{Environment, Node, TagState};
pub use rule::{Attempt, Rule};
pub use seen::Sqe;

use crate::errno::Errno;
use crate::error::{Error, Sent};
use rule::{Asked, Holds};
use seen::Seen;

/// The rules in the order in which the kernel looks.
const TABLES: [&[Rule]; 5] = [system::RULES, sqe::RULES, control::RULES, params::RULES, io::RULES];

/// The rules with what is the likelier cause first, where nothing tells: an entry is made once, and then is right for every command.
const LIKELIEST_FIRST: [&[Rule]; 5] = [io::RULES, system::RULES, control::RULES, params::RULES, sqe::RULES];

/// Every rule, in the order in which the kernel looks.
pub fn rules() -> impl Iterator<Item = &'static Rule> + Clone {
    TABLES.into_iter().flatten()
}

/// Why the kernel gave this error, most likely first.
///
/// If the error and what is known beside it show the cause, then it is that one, and behind it others that hold too and would come next.
/// Else it is those that can be. Of a command that was not answered ([`Error::TimedOut`]) it is what the driver can be waiting for.
/// Errors that are not the kernel's ([`Error::Invalid`] and the like) say themselves why, and have none.
#[must_use]
pub fn causes<'e>(error: &Error, environment: &Environment<'e>) -> Causes<'e> {
    let mut environment = *environment;
    let (attempt, asked, sqe) = match *error {
        Error::OpenControl { errno } => (Attempt::OpenControl, Asked::Errno(errno), Sqe::NONE),
        Error::OpenCharDevice { errno, .. } => (Attempt::OpenCharDevice, Asked::Errno(errno), Sqe::NONE),
        Error::System { call, errno } => (Attempt::System(call), Asked::Errno(errno), Sqe::NONE),
        Error::Control { command, errno, sent, .. } => {
            environment.offered = environment.offered.or(sent.offered());
            (Attempt::Command(command), Asked::Errno(errno), Sqe::of(command, &sent))
        }
        Error::Io { command, errno, sent, .. } => {
            (Attempt::Command(command), Asked::Errno(errno), Sqe::of(command, &sent))
        }
        Error::TimedOut { command, .. } => {
            (Attempt::Command(command), Asked::Silence, Sqe::of(command, &Sent::default()))
        }
        _ => return Causes::none(),
    };
    Causes::new(Seen::new(attempt, sqe, environment), asked)
}

/// Why the kernel answers this entry as it does, most likely first.
///
/// With an errno: as [`causes`]. Without: everything in the entry, and in the buffer that it points to, that is wrong, in the order in
/// which the kernel looks; the first is what it answers. That includes what the kernel takes although it cannot be meant, such as a
/// feature that no driver has: [`Cause::errno`] is `None` there.
#[must_use]
pub fn causes_of_command<'e>(sqe: &Sqe, errno: Option<Errno>, environment: &Environment<'e>) -> Causes<'e> {
    Causes::new(Seen::new(Attempt::Entry, *sqe, *environment), errno.map_or(Asked::Everything, Asked::Errno))
}

/// The causes of one refusal, most likely first.
#[derive(Clone, Debug)]
pub struct Causes<'e> {
    seen: Seen<'e>,
    asked: Asked,
    /// Whether there is a rule that certainly was broken.
    certain: bool,
    /// Of the rules, how many have been looked at.
    next: usize,
}

static_assertions::assert_impl_all!(Causes<'static>: Send, Sync);

impl<'e> Causes<'e> {
    fn new(seen: Seen<'e>, asked: Asked) -> Causes<'e> {
        let mut causes = Causes { seen, asked, certain: true, next: 0 };
        // Without an answer nothing shows that anything is wrong but what certainly is.
        causes.certain = asked == Asked::Everything || causes.clone().next().is_some();
        causes
    }

    fn none() -> Causes<'e> {
        let seen = Seen::new(Attempt::OpenControl, Sqe::NONE, Environment::default());
        Causes { seen, asked: Asked::Everything, certain: true, next: usize::MAX }
    }
}

impl Iterator for Causes<'_> {
    type Item = Cause;

    fn next(&mut self) -> Option<Cause> {
        let (wanted, tables) =
            if self.certain { (Holds::Certainly, TABLES) } else { (Holds::Possibly, LIKELIEST_FIRST) };
        for rule in tables.into_iter().flatten().skip(self.next) {
            self.next += 1;
            if rule.explains(self.asked) && self.seen.holds(rule) == wanted {
                return Some(Cause { rule, certain: self.certain });
            }
        }
        None
    }
}

/// A rule that was broken, or that can have been.
#[derive(Clone, Copy, Debug)]
pub struct Cause {
    rule: &'static Rule,
    certain: bool,
}

static_assertions::assert_impl_all!(Cause: Send, Sync);

impl Cause {
    /// The rule.
    #[must_use]
    pub const fn rule(&self) -> &'static Rule {
        self.rule
    }

    /// Whether what was sent and what is known show that the rule was broken. If not, it can have been.
    #[must_use]
    pub const fn is_certain(&self) -> bool {
        self.certain
    }

    /// The rule's name, which stays the same from release to release: `add-dev.queue-depth`.
    #[must_use]
    pub const fn id(&self) -> &'static str {
        self.rule.id()
    }

    /// What is wrong: a clause without a full stop.
    #[must_use]
    pub const fn text(&self) -> &'static str {
        self.rule.text()
    }

    /// What to do: a clause in the imperative, without a full stop.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        self.rule.remedy()
    }

    /// The kernel's function that answers so.
    #[must_use]
    pub const fn function(&self) -> &'static str {
        self.rule.function()
    }

    /// What the kernel answers, if that is one errno; `None` where it takes the command, where it does not answer, or where it
    /// depends.
    #[must_use]
    pub const fn errno(&self) -> Option<Errno> {
        self.rule.errno()
    }
}

/// What is wrong and what to do, in one line.
impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.text(), self.remedy())
    }
}

#[cfg(test)]
mod tests {
    use super::{Environment, Sqe, causes, causes_of_command, rules};
    use crate::{Command, DeviceId, DeviceInfo, Errno, Error, Features, Sent};
    use std::collections::HashSet;
    use std::vec::Vec;

    fn ids(sqe: &[u8], errno: Option<i32>, buffer: &[u8]) -> Vec<&'static str> {
        let environment = Environment { buffer, ..Environment::default() };
        let sqe = Sqe::from_bytes(sqe).unwrap();
        causes_of_command(&sqe, errno.map(Errno::from_raw), &environment).map(|cause| cause.id()).collect()
    }

    /// ADD_DEV of the driver's choice of id, one queue, depth 128.
    fn add_dev() -> ([u8; 128], [u8; 64]) {
        let (mut sqe, mut info) = ([0_u8; 128], [0_u8; 64]);
        sqe[0] = 46;
        sqe[8..12].copy_from_slice(&Command::ADD_DEV.raw().to_ne_bytes());
        sqe[48..54].fill(0xff);
        sqe[54..56].copy_from_slice(&64_u16.to_ne_bytes());
        sqe[56..64].copy_from_slice(&0x7fff_0000_0000_u64.to_ne_bytes());
        info[0..2].copy_from_slice(&1_u16.to_ne_bytes());
        info[2..4].copy_from_slice(&128_u16.to_ne_bytes());
        info[8..12].copy_from_slice(&(512_u32 << 10).to_ne_bytes());
        info[12..16].fill(0xff);
        (sqe, info)
    }

    #[test]
    fn a_right_command_has_no_cause_and_with_an_errno_the_few_that_can_be() {
        let (sqe, info) = add_dev();
        assert_eq!(ids(&sqe, None, &info), [""; 0]);
        let environment = Environment { buffer: &info, ..Environment::default() };
        let sqe = Sqe::from_bytes(&sqe).unwrap();
        let mut left = causes_of_command(&sqe, Some(Errno::EACCES), &environment);
        assert!(left.any(|cause| cause.id() == "add-dev.ublks-max" && !cause.is_certain()));
    }

    #[test]
    fn a_command_at_byte_64_is_named_first_and_what_the_driver_reads_in_its_place_is_not() {
        let (mut sqe, info) = add_dev();
        sqe.copy_within(48..80, 64);
        sqe[48..64].fill(0);
        assert_eq!(ids(&sqe, None, &info), ["sqe.command-at-64"]);
        assert_eq!(ids(&sqe, Some(22), &info), ["sqe.command-at-64"]);
        // Of a bare number the driver may refuse the encoding, before it reads the command.
        sqe[8..12].copy_from_slice(&4_u32.to_ne_bytes());
        assert_eq!(ids(&sqe, None, &info), ["sqe.command-at-64", "encoding.legacy"]);
        assert_eq!(ids(&sqe, Some(95), &info), ["encoding.legacy"]);
        // START_DEV of device 0 says no more than its process, at 64.
        let mut start = [0_u8; 128];
        start[0] = 46;
        start[8..12].copy_from_slice(&Command::START_DEV.raw().to_ne_bytes());
        start[64..68].copy_from_slice(&4711_u32.to_ne_bytes());
        assert_eq!(ids(&start, None, &[]), [""; 0]);
    }

    #[test]
    fn what_only_an_answer_shows_is_not_wrong_without_one() {
        for command in [Command::DEL_DEV, Command::TRY_STOP_DEV, Command::UNREG_BUF, Command::REG_BUF] {
            let (mut sqe, _) = add_dev();
            sqe[8..12].copy_from_slice(&command.raw().to_ne_bytes());
            sqe[48..52].fill(0);
            sqe[54..56].copy_from_slice(&24_u16.to_ne_bytes());
            assert_eq!(ids(&sqe, None, &[]), [""; 0], "{command:?}");
        }
        let (mut sqe, _) = add_dev();
        sqe[8..12].copy_from_slice(&Command::DEL_DEV.raw().to_ne_bytes());
        sqe[48..52].fill(0);
        assert_eq!(ids(&sqe, Some(4), &[]), ["del-dev.interrupted"]);
    }

    #[test]
    fn what_elements_can_have_wrong_is_no_cause_of_a_command_without_them() {
        for command in [Command::FETCH_REQ, Command::FETCH_IO_CMDS, Command::REGISTER_IO_BUF] {
            let (mut sqe, _) = add_dev();
            sqe[8..12].copy_from_slice(&command.raw().to_ne_bytes());
            assert!(!ids(&sqe, Some(22), &[]).contains(&"batch.tag"), "{command:?}");
        }
    }

    #[test]
    fn the_first_of_several_faults_is_the_one_that_the_kernel_meets_first() {
        let (mut sqe, mut info) = add_dev();
        (sqe[0], sqe[52], info[2]) = (51, 0, 0);
        assert_eq!(ids(&sqe, None, &info), ["sqe.opcode", "add-dev.queue-id", "add-dev.queue-depth"]);
    }

    #[test]
    fn a_refusal_of_the_crates_own_is_explained_by_what_it_sent_and_what_is_known() {
        let (sqe, _) = add_dev();
        let mut area = [0; 32];
        area.copy_from_slice(&sqe[48..80]);
        area[16] = 1;
        let refused = |command, errno| Error::Control {
            command,
            device: Some(DeviceId::new(0)),
            errno,
            sent: Sent::new(area, Some(Features::NONE)),
        };
        let mut environment = Environment { cap_sys_admin: Some(false), ..Environment::default() };
        let first = |error, environment: &Environment<'_>| causes(&error, environment).next().unwrap();
        assert_eq!(first(refused(Command::ADD_DEV, Errno::EPERM), &environment).id(), "add-dev.cap-sys-admin");
        environment.params_types = Some(0);
        let bare = first(refused(Command::START_DEV, Errno::EINVAL), &environment);
        assert_eq!((bare.id(), bare.is_certain(), bare.errno()), ("start-dev.no-params", true, Some(Errno::EINVAL)));
        environment.params_types = Some(1);
        environment.server_process = Some(2);
        assert_eq!(first(refused(Command::START_DEV, Errno::EINVAL), &environment).id(), "start-dev.process");
        let late = Error::TimedOut { command: Command::STOP_DEV, device: None, waited: core::time::Duration::ZERO };
        assert_eq!(first(late, &environment).id(), "stop-dev.held");
        // What is not the kernel's errno says itself what it is.
        assert_eq!(causes(&Error::RingFull, &environment).count(), 0);
    }

    #[test]
    fn an_unprivileged_device_is_looked_at_as_one() {
        let device = Some(DeviceInfo::told(1, 1, Features::UNPRIVILEGED_DEV));
        let environment = Environment { device, ..Environment::default() };
        let error = Error::Control {
            command: Command::DEL_DEV_ASYNC,
            device: Some(DeviceId::new(0)),
            errno: Errno::EINVAL,
            sent: Sent::default(),
        };
        assert_eq!(causes(&error, &environment).next().unwrap().id(), "right.not-for-unprivileged");
    }

    #[test]
    fn every_rule_has_a_name_of_its_own_and_says_what_is_wrong_and_what_to_do() {
        let mut names = HashSet::new();
        for rule in rules() {
            let id = rule.id();
            assert!(names.insert(id), "{id} stands twice");
            let (group, what) = id.split_once('.').unwrap();
            let kebab = |part: &str| {
                !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            };
            assert!(kebab(group) && kebab(what), "{id}");
            for text in [rule.text(), rule.remedy()] {
                assert!(
                    !text.is_empty() && !text.ends_with('.') && !text.contains(". ") && !text.contains("  "),
                    "{id}: {text}"
                );
                assert!(
                    !text.starts_with(|c: char| c.is_ascii_uppercase())
                        || text.starts_with("IORING_")
                        || text.starts_with("UBLK_"),
                    "{id}: {text}"
                );
            }
            assert!(!rule.function().is_empty() && rule.until().is_none_or(|until| rule.since() < until), "{id}");
        }
    }
}
