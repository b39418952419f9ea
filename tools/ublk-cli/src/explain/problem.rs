// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is wrong with a command.

use serde_json::{Value, json};
use ublk::Errno;
use ublk::diagnosis::{Cause, Environment, Sqe, causes_of_command};

/// A cause: one of the kernel's rules ([`ublk::diagnosis`]), or something that only those who gave the bytes can have wrong.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    /// Its name, which stays the same: `group.what`.
    pub(super) id: &'static str,
    pub(super) text: String,
    pub(super) remedy: String,
    /// The kernel's function, where it is a rule of the kernel's.
    pub(super) function: Option<&'static str>,
    /// What the kernel answers, if that is one errno.
    pub(super) errno: Option<Errno>,
    /// Whether it is what it is, and not one of several that can be.
    pub(super) certain: bool,
}

/// The command stands at byte 64, so that nothing of what the driver reads is meant.
pub(super) const AT_64: &str = "sqe.command-at-64";

impl Problem {
    /// All that is wrong, or that can have been the reason for `errno`, the likeliest first.
    pub(super) fn all_of(sqe: &Sqe, errno: Option<Errno>, environment: &Environment<'_>) -> Vec<Problem> {
        causes_of_command(sqe, errno, environment).map(|cause| Problem::of(&cause)).collect()
    }

    /// Something that is no rule of the kernel's.
    pub(super) fn own(id: &'static str, text: String, remedy: &str) -> Problem {
        Problem { id, text, remedy: remedy.to_owned(), function: None, errno: None, certain: true }
    }

    fn of(cause: &Cause) -> Problem {
        Problem {
            id: cause.id(),
            text: cause.text().to_owned(),
            remedy: cause.remedy().to_owned(),
            function: Some(cause.function()),
            errno: cause.errno(),
            certain: cause.is_certain(),
        }
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "id": self.id,
            "text": self.text,
            "function": self.function,
            "errno": self.errno.map(Errno::raw),
            "remedy": self.remedy,
            "certain": self.certain,
        })
    }
}
