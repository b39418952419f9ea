// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ublkctl features`: what this driver can do, and since when Linux can.

use std::io::{self, Write};

use serde_json::json;
use ublk::{Control, Features};
use ublk_sys::layout;

use crate::devices::list::print_table;
use crate::devices::{Failure, print_json};
use crate::machine;

/// How it can be told that a driver has a command, without sending it.
#[derive(Clone, Copy, Debug)]
enum Sign {
    /// It came with this feature.
    Feature(Features),
    /// The kernel is that of its first release, or newer.
    Release(u16, u16),
}

macro_rules! commands {
    ($($name:ident $sign:expr,)*) => {
        &[$((stringify!($name), ublk_sys::$name, $sign),)*]
    };
}

/// `GET_FEATURES` was answered, so the driver is that of Linux 6.5 or newer, and has every command of that release.
const ANSWERED: Sign = Sign::Feature(Features::NONE);

const COMMANDS: &[(&str, u32, Sign)] = commands! {
    UBLK_U_CMD_GET_QUEUE_AFFINITY ANSWERED,
    UBLK_U_CMD_GET_DEV_INFO ANSWERED,
    UBLK_U_CMD_ADD_DEV ANSWERED,
    UBLK_U_CMD_DEL_DEV ANSWERED,
    UBLK_U_CMD_START_DEV ANSWERED,
    UBLK_U_CMD_STOP_DEV ANSWERED,
    UBLK_U_CMD_SET_PARAMS ANSWERED,
    UBLK_U_CMD_GET_PARAMS ANSWERED,
    UBLK_U_CMD_START_USER_RECOVERY ANSWERED,
    UBLK_U_CMD_END_USER_RECOVERY ANSWERED,
    UBLK_U_CMD_GET_DEV_INFO2 ANSWERED,
    UBLK_U_CMD_GET_FEATURES ANSWERED,
    UBLK_U_CMD_DEL_DEV_ASYNC Sign::Release(6, 9),
    UBLK_U_CMD_UPDATE_SIZE Sign::Feature(Features::UPDATE_SIZE),
    UBLK_U_CMD_QUIESCE_DEV Sign::Feature(Features::QUIESCE),
    UBLK_U_CMD_TRY_STOP_DEV Sign::Feature(Features::SAFE_STOP_DEV),
    UBLK_U_CMD_REG_BUF Sign::Feature(Features::SHMEM_ZC),
    UBLK_U_CMD_UNREG_BUF Sign::Feature(Features::SHMEM_ZC),
    UBLK_U_IO_FETCH_REQ ANSWERED,
    UBLK_U_IO_COMMIT_AND_FETCH_REQ ANSWERED,
    UBLK_U_IO_NEED_GET_DATA ANSWERED,
    UBLK_U_IO_REGISTER_IO_BUF Sign::Feature(Features::SUPPORT_ZERO_COPY),
    UBLK_U_IO_UNREGISTER_IO_BUF Sign::Feature(Features::SUPPORT_ZERO_COPY),
    UBLK_U_IO_PREP_IO_CMDS Sign::Feature(Features::BATCH_IO),
    UBLK_U_IO_COMMIT_IO_CMDS Sign::Feature(Features::BATCH_IO),
    UBLK_U_IO_FETCH_IO_CMDS Sign::Feature(Features::BATCH_IO),
};

impl Sign {
    /// Whether a driver with these features on a kernel of this release has the command; `None` where that cannot be told.
    fn is_given(self, offered: Features, release: Option<(u16, u16)>) -> Option<bool> {
        match self {
            Sign::Feature(feature) => Some(offered.contains(feature)),
            Sign::Release(major, minor) => release.map(|release| release >= (major, minor)),
        }
    }
}

/// Prints what the driver has, and what it lacks.
pub(super) fn run(as_json: bool) -> Result<(), Failure> {
    let offered = Control::open()?.features()?;
    let (text, release) = (machine::release_text(), machine::release());
    let known = Features::KNOWN.iter().fold(Features::NONE, |all, (feature, _)| all | *feature);
    let unknown = offered.without(known).bits();
    let unknown = (0..64_u32).filter(|bit| unknown >> bit & 1 == 1);
    let commands = COMMANDS.iter().map(|(name, number, sign)| (name, number, sign.is_given(offered, release)));
    if as_json {
        let features = Features::KNOWN.iter().map(|(feature, name)| {
            let offered = offered.contains(*feature);
            json!({"name": name, "bit": feature.bits().trailing_zeros(), "since": feature.since(), "offered": offered})
        });
        let commands = commands
            .map(|(name, number, given)| json!({"name": name, "number": number, "since": layout::since(name), "offered": given}));
        return print_json(&json!({
            "release": text,
            "bits": offered.bits(),
            "features": features.collect::<Vec<_>>(),
            "unknown": unknown.collect::<Vec<_>>(),
            "commands": commands.collect::<Vec<_>>(),
        }));
    }
    writeln!(io::stdout(), "The driver of Linux {} has {:#x}.\n", text.as_deref().unwrap_or("?"), offered.bits())?;
    let mut rows = vec![["FEATURE", "BIT", "SINCE LINUX", "HERE"].map(str::to_owned)];
    for (feature, name) in Features::KNOWN {
        let bit = feature.bits().trailing_zeros().to_string();
        rows.push([(*name).to_owned(), bit, since(feature.since()), here(Some(offered.contains(*feature)))]);
    }
    rows.extend(
        unknown.map(|bit| ["(not known to this program)".to_owned(), bit.to_string(), since(None), here(Some(true))]),
    );
    rows.push(["", "", "", ""].map(str::to_owned));
    rows.push(["COMMAND", "NUMBER", "SINCE LINUX", "HERE"].map(str::to_owned));
    for (name, number, given) in commands {
        rows.push([(*name).to_owned(), format!("{number:#010x}"), since(layout::since(name)), here(given)]);
    }
    Ok(print_table(&rows)?)
}

fn since(release: Option<&str>) -> String {
    release.unwrap_or("-").to_owned()
}

fn here(given: Option<bool>) -> String {
    match given {
        Some(true) => "yes",
        Some(false) => "no",
        None => "cannot tell",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::{ANSWERED, COMMANDS, Sign};
    use ublk::Features;
    use ublk_sys::layout;

    #[test]
    fn every_command_of_the_header_is_listed_once() {
        let constants = layout::TABLES.iter().flat_map(|table| table.constants).flat_map(|group| group.iter());
        let mut names: Vec<&str> = constants
            .map(|constant| constant.name)
            .filter(|name| name.starts_with("UBLK_U_CMD_") || name.starts_with("UBLK_U_IO_"))
            .collect();
        let mut listed: Vec<&str> = COMMANDS.iter().map(|(name, ..)| *name).collect();
        names.sort_unstable();
        listed.sort_unstable();
        assert_eq!(listed, names);
    }

    #[test]
    fn a_command_without_a_feature_of_its_own_is_told_by_the_release() {
        assert_eq!(Sign::Release(6, 9).is_given(Features::NONE, Some((6, 8))), Some(false));
        assert_eq!(Sign::Release(6, 9).is_given(Features::NONE, Some((6, 12))), Some(true));
        assert_eq!(Sign::Release(6, 9).is_given(Features::NONE, None), None);
        assert_eq!(ANSWERED.is_given(Features::NONE, None), Some(true));
        assert_eq!(Sign::Feature(Features::BATCH_IO).is_given(Features::QUIESCE, None), Some(false));
    }
}
