// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ublkctl stop` and `ublkctl delete`: so that nothing is lost that was written.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::ArgMatches;
use ublk::{Control, DeviceId, DeviceInfo, Errno, Error, Features, State};

use crate::devices::{Failure, id, list, patient};

/// Stops the device that was named, if nobody has its disk open or `--force` is given.
pub(super) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    stop(&mut patient(matches)?, matches)
}

/// The same, and then deletes it.
pub(super) fn delete(matches: &ArgMatches) -> Result<(), Failure> {
    let mut control = patient(matches)?;
    let info = list::describe(&mut control, id(matches))?;
    if info.state() == State::LIVE {
        stop(&mut control, matches)?;
    }
    Ok(control.delete(info.id())?)
}

fn stop(control: &mut Control, matches: &ArgMatches) -> Result<(), Failure> {
    let (id, force) = (id(matches), matches.get_flag("force"));
    let info = list::describe(control, id)?;
    let in_use = || Failure::Device(format!("{} is open; --force stops it all the same", list::block_device(id)));
    if !force && control.features()?.contains(Features::SAFE_STOP_DEV) {
        return match control.try_stop(id) {
            Err(Error::Control { errno: Errno::EBUSY, .. }) => Err(in_use()),
            // It has no disk.
            Err(Error::Control { errno: Errno::ENODEV, .. }) => Ok(control.stop(id)?),
            stopped => Ok(stopped?),
        };
    }
    let disk = if info.state() == State::DEAD { None } else { look(control, &info, !force, matches)? };
    match disk {
        Some(Looked::InUse) => return Err(in_use()),
        Some(Looked::NotSynced(error)) if !force => {
            return Err(Failure::Device(format!(
                "what was written to {} could not be written back: {error}; --force gives it up",
                list::block_device(id)
            )));
        }
        // As long as it is open, nobody mounts it.
        _ => {}
    }
    Ok(control.stop(id)?)
}

/// What came of looking at the disk.
#[derive(Debug)]
enum Looked {
    /// It is open, by us.
    Open(#[expect(dead_code, reason = "to be kept open")] File),
    InUse,
    NotSynced(io::Error),
}

/// Opens the disk, exclusively where that is to tell whether it is in use, and writes back what the driver of a device that outlives
/// its server would throw away. In a thread of its own, as a server that hangs would have it wait without end; `None` where it does,
/// or where there is no node to be opened.
fn look(
    control: &mut Control,
    info: &DeviceInfo,
    exclusively: bool,
    matches: &ArgMatches,
) -> Result<Option<Looked>, Failure> {
    let numbers = control.params(info.id())?.as_raw().devt;
    let numbers = (numbers.disk_major, numbers.disk_minor);
    let (id, syncs) = (info.id(), info.recovery().is_some() && info.state() == State::LIVE);
    let (seen, sees) = mpsc::channel();
    thread::Builder::new().spawn(move || {
        // Who asked may have gone.
        let _ = seen.send(look_now(id, numbers, exclusively, syncs));
    })?;
    let seconds = matches.get_one::<u32>("timeout").copied().unwrap_or(30);
    Ok(sees.recv_timeout(Duration::from_secs(seconds.into())).ok().flatten())
}

fn look_now(id: DeviceId, numbers: (u32, u32), exclusively: bool, syncs: bool) -> Option<Looked> {
    let exclusive = if exclusively { libc::O_EXCL } else { 0 };
    let disk = match OpenOptions::new().read(true).custom_flags(exclusive).open(list::block_device(id)) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => return Some(Looked::InUse),
        opened => opened.ok()?,
    };
    let about = disk.metadata().ok()?;
    let has = (libc::major(about.rdev()), libc::minor(about.rdev()));
    if !about.file_type().is_block_device() || has != numbers {
        return None;
    }
    match if syncs { disk.sync_all() } else { Ok(()) } {
        Ok(()) => Some(Looked::Open(disk)),
        Err(error) => Some(Looked::NotSynced(error)),
    }
}
