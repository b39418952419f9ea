// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ublkctl collect`: deletes the devices that nobody serves.

use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use clap::ArgMatches;
use serde_json::json;
use ublk::{DeletedId, DeviceId, DeviceInfo, Orphan, State};

use crate::devices::{Failure, list, print_json};

/// Between the two looks: a server opens the device that it has added, and one that lives would have done so by then.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// Deletes what nobody has served in either look. What waits for its next server is deleted with `--recoverable` alone.
pub(super) fn run(matches: &ArgMatches, as_json: bool) -> Result<(), Failure> {
    let recoverable = matches.get_flag("recoverable");
    let wanted: Vec<DeviceId> = matches.get_many("ID").into_iter().flatten().copied().map(DeviceId::new).collect();
    let ids = if wanted.is_empty() { list::ids() } else { wanted };
    let (mut first, mut refused): (Vec<DeviceInfo>, _) = (Vec::new(), None);
    for id in ids {
        // One that cannot be looked at is no reason to leave the others.
        match Orphan::find(id) {
            Ok(found) => first.extend(found.map(|orphan| *orphan.info())),
            Err(error) => refused = Some(error),
        }
    }
    if !first.is_empty() {
        thread::sleep(BETWEEN_LOOKS);
    }
    let mut collected = Vec::new();
    for before in first {
        let found = Orphan::find(before.id())?;
        if let Some(orphan) = found.filter(|orphan| orphan.is_same(&before)) {
            let (id, state) = (before.id(), orphan.info().state().to_string());
            let waits = orphan.info().recovery().is_some() && orphan.info().state() != State::DEAD;
            let outcome = if waits && !recoverable { None } else { Some(orphan.delete()?) };
            collected.push((id, state, outcome));
        }
    }
    if as_json {
        let values = collected.iter().map(|(id, state, outcome)| {
            json!({ "id": id.raw(), "state": state, "deleted": outcome.is_some(), "number_free": *outcome == Some(DeletedId::Free) })
        });
        print_json(&values.collect())?;
        return refused.map_or(Ok(()), |error| Err(error.into()));
    }
    for (id, state, outcome) in collected {
        let said = match outcome {
            Some(DeletedId::Free) => "deleted",
            Some(DeletedId::Held) => "deleted; somebody has its disk open, and so its number",
            None => "left: it waits for its next server (--recoverable deletes it)",
        };
        writeln!(io::stdout(), "{id} {state} {said}")?;
    }
    refused.map_or(Ok(()), |error| Err(error.into()))
}
