// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ublkctl stop` and `ublkctl delete`: so that nothing is lost that was written.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::ArgMatches;
use ublk::{Control, DeviceId, DeviceInfo, Errno, Error, Features, State};

use crate::devices::{Failure, id, list, patient, seconds};

/// Stops the device that was named, if nobody has its disk open or `--force` is given.
pub(super) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    stop(&mut patient(matches)?, matches)
}

/// The same, and then deletes it.
pub(super) fn delete(matches: &ArgMatches) -> Result<(), Failure> {
    let (mut control, id) = (patient(matches)?, id(matches));
    let before = list::describe(&mut control, id)?;
    // What waits for its next server has a disk, and clients.
    let stopped = if before.state() == State::DEAD { Ok(()) } else { stop(&mut control, matches) };
    if control.is_abandoned() {
        return stopped;
    }
    match list::describe(&mut control, id) {
        // Its server has deleted it, and another device may have its number.
        Err(Error::Control { errno: Errno::ENODEV, .. }) => return Ok(()),
        Ok(now) if !is_same(&before, &now) => return Ok(()),
        now => stopped.and(now.map_err(Failure::from).and_then(is_stopped))?,
    }
    match control.delete(id) {
        Err(Error::Control { errno: Errno::ENODEV, .. }) => Ok(()),
        deleted => Ok(deleted?),
    }
}

/// Whether both describe the same device, as far as what cannot change tells: not its state, nor its server.
fn is_same(one: &DeviceInfo, other: &DeviceInfo) -> bool {
    let lasting = |info: &DeviceInfo| {
        let mut info = *info.as_raw();
        (info.state, info.ublksrv_pid) = (0, 0);
        info
    };
    lasting(one) == lasting(other)
}

/// Refuses a device that somebody has started since it was looked at, or that is another with the same description.
fn is_stopped(now: DeviceInfo) -> Result<(), Failure> {
    if now.state() == State::DEAD {
        return Ok(());
    }
    Err(Failure::Device(format!("device {} was started meanwhile, and is left alone", now.id())))
}

fn stop(control: &mut Control, matches: &ArgMatches) -> Result<(), Failure> {
    let (id, force) = (id(matches), matches.get_flag("force"));
    let (info, disk) = (list::describe(control, id)?, list::block_device(id));
    let in_use = || Failure::Device(format!("{disk} is open; --force stops it all the same"));
    if control.features()?.contains(Features::SAFE_STOP_DEV) {
        match control.try_stop(id) {
            Err(Error::Control { errno: Errno::EBUSY, .. }) if force => {}
            Err(Error::Control { errno: Errno::EBUSY, .. }) => return Err(in_use()),
            // It has no disk.
            Err(Error::Control { errno: Errno::ENODEV, .. }) => return Ok(control.stop(id)?),
            // Whoever had it open last has written back what was written.
            stopped => return Ok(stopped?),
        }
    }
    let outlives = info.recovery().is_some();
    if info.state() == State::DEAD || (force && !outlives) {
        return Ok(control.stop(id)?);
    }
    // As long as it is open, nobody mounts it.
    let _opened = match look(control, &info, !force, matches)? {
        Looked::Open(opened) => Some(opened),
        Looked::InUse => return Err(in_use()),
        // Nobody opens by that name what the driver itself writes back.
        Looked::NoNode if !outlives => None,
        looked => {
            let why = looked.to_string();
            let lost = format!("what was written to {disk} could not be written back: {why}");
            if force {
                writeln!(io::stderr(), "ublkctl: {lost}; it is given up")?;
                None
            } else if outlives {
                return Err(Failure::Device(format!("{lost}; --force gives it up")));
            } else {
                let unknown = format!("whether {disk} is in use could not be told: {why}");
                return Err(Failure::Device(format!("{unknown}; --force stops it all the same")));
            }
        }
    };
    Ok(control.stop(id)?)
}

/// What came of looking at the disk.
#[derive(Debug)]
enum Looked {
    /// It is open, by us, and what had to be written back was.
    Open(File),
    InUse,
    /// Nobody serves it, so that nothing can be written back.
    Unserved,
    NoNode,
    WrongNode,
    NotOpened(io::Error),
    NotSynced(io::Error),
    /// After so many seconds.
    Late(u32),
}

impl fmt::Display for Looked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Looked::Open(_) => f.write_str("it is open"),
            Looked::InUse => f.write_str("somebody else has it open"),
            Looked::Unserved => f.write_str("nobody serves it"),
            Looked::NoNode => f.write_str("it has no node"),
            Looked::WrongNode => f.write_str("its node leads to something else"),
            Looked::NotOpened(error) => write!(f, "it cannot be opened: {error}"),
            Looked::NotSynced(error) => error.fmt(f),
            Looked::Late(seconds) => write!(f, "its server was not done in {seconds} s"),
        }
    }
}

/// Opens the disk, exclusively where that is to tell whether it is in use, and writes back what the driver of a device that outlives
/// its server would throw away. In a thread of its own, as a server that hangs would have it wait without end.
fn look(control: &mut Control, info: &DeviceInfo, exclusively: bool, matches: &ArgMatches) -> Result<Looked, Failure> {
    let numbers = control.params(info.id())?.as_raw().devt;
    let numbers = (numbers.disk_major, numbers.disk_minor);
    let (id, outlives, is_served) = (info.id(), info.recovery().is_some(), info.state() == State::LIVE);
    let (seen, sees) = mpsc::channel();
    thread::Builder::new().spawn(move || {
        let looked = open(id, numbers, exclusively).and_then(|disk| match outlives {
            true if !is_served => Err(Looked::Unserved),
            true => disk.sync_all().map(|()| disk).map_err(Looked::NotSynced),
            false => Ok(disk),
        });
        // Who asked may have gone.
        let _ = seen.send(looked.map_or_else(|other| other, Looked::Open));
    })?;
    let seconds = seconds(matches);
    Ok(sees.recv_timeout(Duration::from_secs(seconds.into())).unwrap_or(Looked::Late(seconds)))
}

fn open(id: DeviceId, numbers: (u32, u32), exclusively: bool) -> Result<File, Looked> {
    let exclusive = if exclusively { libc::O_EXCL } else { 0 };
    let opened = OpenOptions::new().read(true).custom_flags(exclusive).open(list::block_device(id));
    let disk = opened.map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY) => Looked::InUse,
        Some(libc::ENOENT) => Looked::NoNode,
        _ => Looked::NotOpened(error),
    })?;
    let about = disk.metadata().map_err(Looked::NotOpened)?;
    let has = (libc::major(about.rdev()), libc::minor(about.rdev()));
    if about.file_type().is_block_device() && has == numbers { Ok(disk) } else { Err(Looked::WrongNode) }
}
