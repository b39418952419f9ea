// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which way the data goes: what was asked for, or else the best that the driver has.

use ublk::Features;

/// A mode of moving data, before it is a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    AutoRegister,
    ZeroCopy,
    UserCopy,
    Copy,
    GetData,
}

/// Each with the word for it, and with what the driver must have.
const MODES: [(Choice, &str, Features); 5] = [
    (Choice::AutoRegister, "auto-register", Features::AUTO_BUF_REG),
    (Choice::ZeroCopy, "zero-copy", Features::SUPPORT_ZERO_COPY),
    (Choice::UserCopy, "user-copy", Features::USER_COPY),
    (Choice::Copy, "copy", Features::NONE),
    (Choice::GetData, "get-data", Features::NEED_GET_DATA),
];

/// The best first. User copy is not among them: it copies as often as copy mode, and takes a system call more. Nor is get data, which
/// spares memory and nothing else.
const BEST: [Choice; 3] = [Choice::AutoRegister, Choice::ZeroCopy, Choice::Copy];

impl Choice {
    /// What an option says: `Some(None)` for `auto`, and `None` for a word that is none.
    pub(crate) fn parse(word: &str) -> Option<Option<Choice>> {
        if word == "auto" {
            return Some(None);
        }
        MODES.iter().find(|(_, name, _)| *name == word).map(|(choice, ..)| Some(*choice))
    }

    /// The mode, and why it is this one; or what the driver lacks.
    pub(crate) fn make(wanted: Option<Choice>, offered: Features) -> Result<(Choice, String), String> {
        if let Some(choice) = wanted {
            let (name, needs) = choice.about();
            need(&format!("--mode {name}"), needs, offered)?;
            return Ok((choice, format!("{name}: asked for")));
        }
        let mut lacks = Vec::new();
        for choice in BEST {
            let (name, needs) = choice.about();
            if !offered.contains(needs) {
                lacks.push(since("Linux", needs));
            } else if needs == Features::NONE {
                return Ok((choice, format!("{name}: the driver has neither {}", lacks.join(" nor "))));
            } else {
                return Ok((choice, format!("{name}: the driver has {}", since("Linux", needs))));
            }
        }
        Err("the driver has no mode".to_owned())
    }

    /// Whether the client's own pages are read and written.
    pub(crate) fn is_zero_copy(self) -> bool {
        matches!(self, Choice::AutoRegister | Choice::ZeroCopy)
    }

    fn about(self) -> (&'static str, Features) {
        let found = MODES.iter().find(|(choice, ..)| *choice == self);
        found.map_or(("copy", Features::NONE), |(_, name, needs)| (name, *needs))
    }
}

/// Says of an option what it takes that the driver has not.
pub(crate) fn need(option: &str, needs: Features, offered: Features) -> Result<(), String> {
    if offered.contains(needs) {
        return Ok(());
    }
    Err(format!("{option}: this driver has no {}", since("since Linux", needs)))
}

/// A feature, and the Linux that has it.
fn since(word: &str, feature: Features) -> String {
    format!("{feature} ({word} {})", feature.since().unwrap_or("unknown"))
}
