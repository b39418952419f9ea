// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is done with devices: `features`, `list`, `info`, `params`, `stop`, `delete`, `collect`, `resize`, `quiesce`, `udev-owner`, `add`.

mod add;
mod collect;
mod describe;
mod features;
mod holders;
pub(crate) mod list;
mod owner;
mod stop;

use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use clap::ArgMatches;
use serde_json::Value;
use ublk::{Control, DeviceId, Errno, Error, Sectors, State};

/// Runs the command of this name, and returns its exit status.
///
/// # Errors
///
/// What could not be written.
pub fn run(command: &str, matches: &ArgMatches) -> io::Result<u8> {
    let as_json = matches.try_get_one("json").ok().flatten().copied().unwrap_or(false);
    let done = match command {
        "features" => features::run(as_json),
        "list" => list::run(as_json),
        "info" => describe::info(id(matches), as_json),
        "params" => describe::params(id(matches), as_json),
        "stop" => stop::run(matches),
        "delete" => stop::delete(matches),
        "collect" => collect::run(matches, as_json),
        "resize" => patient(matches).and_then(|mut control| Ok(control.resize(id(matches), new_size(matches))?)),
        "quiesce" => patient(matches).and_then(|mut control| quiesce(&mut control, matches)),
        "udev-owner" => matches.get_one::<std::path::PathBuf>("NODE").map_or(Ok(()), |node| owner::run(node)),
        _ => add::run(matches, as_json),
    };
    match done {
        Ok(()) => Ok(0),
        Err(Failure::Device(sentence)) => {
            writeln!(io::stderr(), "ublkctl {command}: {sentence}")?;
            Ok(1)
        }
        Err(Failure::Output(error)) => Err(error),
    }
}

/// Why a command was not done.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What was asked for did not work, in a sentence.
    Device(String),
    /// What there was to say could not be written.
    Output(io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Device(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Output(error)
    }
}

/// When a device is quiesced again whose server has not let go.
const QUIESCE_AGAIN: Duration = Duration::from_millis(20);

/// Has the device that was named quiesced until its server has let go. The driver ends the fetches of idle tags alone, so that a server
/// which owned a request is to be told again when it has answered that.
fn quiesce(control: &mut Control, matches: &ArgMatches) -> Result<(), Failure> {
    let (id, seconds) = (id(matches), seconds(matches));
    let (before, begun) = (list::describe(control, id)?, Instant::now());
    loop {
        match control.quiesce(id, QUIESCE_AGAIN) {
            // The server owns every tag.
            Ok(()) | Err(Error::Control { errno: Errno::EBUSY, .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let now = list::describe(control, id)?;
        let server = now.server_process();
        // The next one, which is not to be relieved, may have been there already.
        if ![State::LIVE, State::DEAD].contains(&now.state()) || server != before.server_process() {
            return Ok(());
        }
        if begun.elapsed() >= Duration::from_secs(seconds.into()) {
            let server =
                server.map_or_else(|| "its server".to_owned(), |process| format!("its server, process {process},"));
            return Err(Failure::Device(format!(
                "device {id} is quiesced, but {server} has not let go of it in {seconds} s, and clients wait: quiesce it again \
                 when the server has answered what it owns, or end the server"
            )));
        }
        thread::sleep(QUIESCE_AGAIN);
    }
}

/// The size that was named, cut to whole sectors: the driver is not asked for what is not a whole number of blocks.
fn new_size(matches: &ArgMatches) -> Sectors {
    Sectors::from_bytes(matches.get_one("SIZE").copied().unwrap_or(0)).unwrap_or(Sectors::new(0))
}

/// The device that was named.
fn id(matches: &ArgMatches) -> DeviceId {
    // The argument is required, so it is there.
    DeviceId::new(matches.get_one("ID").copied().unwrap_or(u32::MAX))
}

/// How long the command may take.
fn seconds(matches: &ArgMatches) -> u32 {
    matches.get_one("timeout").copied().unwrap_or(30)
}

/// A control handle that waits as long as was asked for.
fn patient(matches: &ArgMatches) -> Result<Control, Failure> {
    let patience = Duration::from_secs(seconds(matches).into());
    let mut control = Control::open()?;
    control.set_patience(patience, patience);
    control.set_stop_patience(patience);
    // A device that a user without privileges has added wants to be asked by the path of its node.
    if list::is_unprivileged(&mut control, id(matches)) {
        control.set_unprivileged(Some(id(matches)));
    }
    Ok(control)
}

/// Prints a value as JSON, with a line for each member.
pub(crate) fn print_json(value: &Value) -> Result<(), Failure> {
    Ok(writeln!(io::stdout(), "{value:#}")?)
}
