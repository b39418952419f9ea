// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ublkctl collect`: deletes the devices that nobody serves.

use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use clap::ArgMatches;
use serde_json::json;
use ublk::{DeletedId, DeviceId, DeviceInfo, Error, Orphan, State};

use crate::devices::{Failure, list, print_json};

/// Between the two looks: a server opens the device that it has added, and one that lives would have done so by then.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// A device that nobody serves, its state, and what its deletion came to.
type Collected = (DeviceId, String, Option<DeletedId>);

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
        // What was deleted is said, also where something else could not be.
        match collect(&before, recoverable) {
            Ok(found) => collected.extend(found),
            Err(error) => refused = Some(error),
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

/// Deletes a device that was found before, if it is still there; its state, and what became of it.
fn collect(before: &DeviceInfo, recoverable: bool) -> Result<Option<Collected>, Error> {
    let Some(orphan) = Orphan::find(before.id())?.filter(|orphan| orphan.is_same(before)) else { return Ok(None) };
    let (id, state) = (before.id(), orphan.info().state());
    let waits = orphan.info().recovery().is_some() && state != State::DEAD;
    let outcome = if waits && !recoverable { None } else { Some(orphan.delete()?) };
    Ok(Some((id, state.to_string(), outcome)))
}
