// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is wrong and what to do about it.

use serde_json::{Value, json};
use ublk::Error;
use ublk::diagnosis::{Cause, Environment, causes};

/// A cause of something that does not work.
///
/// What the kernel refuses has its text from the kernel's rules ([`ublk::diagnosis`]); a few things are wrong that the kernel does not
/// refuse.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    /// Its name, which stays the same: `group.what`.
    pub(super) id: &'static str,
    pub(super) text: String,
    pub(super) remedy: String,
    /// The kernel's function, where it is a rule of the kernel's.
    function: Option<&'static str>,
    /// Whether it is what it is, and not one of several that can be.
    certain: bool,
}

impl Finding {
    /// Something that is wrong although the kernel refuses nothing.
    pub(super) fn own(id: &'static str, text: String, remedy: &str) -> Finding {
        Finding { id, text, remedy: remedy.to_owned(), function: None, certain: true }
    }

    /// Why this error came, or would come, most likely first; never empty.
    pub(super) fn all_of(error: &Error, environment: &Environment<'_>) -> Vec<Finding> {
        let found: Vec<Finding> = causes(error, environment).map(|cause| Finding::of(&cause)).collect();
        if found.is_empty() { vec![Finding::of_error(error)] } else { found }
    }

    /// The likeliest of these, if it is one that certainly is so.
    pub(super) fn certain_of(error: &Error, environment: &Environment<'_>) -> Option<Finding> {
        causes(error, environment).next().filter(Cause::is_certain).map(|cause| Finding::of(&cause))
    }

    fn of(cause: &Cause) -> Finding {
        Finding {
            id: cause.id(),
            text: cause.text().to_owned(),
            remedy: cause.remedy().to_owned(),
            function: Some(cause.function()),
            certain: cause.is_certain(),
        }
    }

    /// An error of which no rule knows more than it says itself.
    fn of_error(error: &Error) -> Finding {
        let (id, remedy) = match error {
            Error::TimedOut { .. } => (
                "driver.no-answer",
                "see whether a device is being stopped whose server does not answer (ublkctl list), and end that server",
            ),
            _ => ("error.unexplained", "see what the kernel says (dmesg)"),
        };
        Finding { certain: false, ..Finding::own(id, error.to_string(), remedy) }
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "id": self.id,
            "text": self.text,
            "remedy": self.remedy,
            "function": self.function,
            "certain": self.certain,
        })
    }
}

/// Says what is wrong and what to do, of each finding once: of one that was told before, its name.
pub(super) fn push_findings(text: &mut String, findings: &[Finding], told: &mut Vec<&'static str>) {
    for finding in findings {
        if told.contains(&finding.id) {
            text.push_str(&format!("{:11}  {}, as above\n", "", finding.id));
            continue;
        }
        told.push(finding.id);
        text.push_str(&format!("{:11}  {}: {}\n", "", finding.id, finding.text));
        text.push_str(&format!("{:11}  to do: {}\n", "", finding.remedy));
    }
}
