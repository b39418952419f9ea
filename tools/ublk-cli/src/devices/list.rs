// SPDX-License-Identifier: MIT OR Apache-2.0
//! The devices of the machine: `ublkctl list`, and what `ublkctl doctor` has to know of them.

use std::ffi::CString;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use serde_json::{Value, json};
use ublk::{Control, DeviceId, DeviceInfo, Errno, Error, Features, Sectors, State};

use crate::devices::holders::Holders;
use crate::devices::{Failure, print_json};
use crate::machine;

/// Where the driver lists its char devices, as `ublkcN`.
const CLASS: &str = "/sys/class/ublk-char";

/// A device as far as it could be looked at.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) id: DeviceId,
    /// What the driver says of it.
    pub(crate) info: Result<DeviceInfo, Error>,
    /// Whether a user without privileges added it; `None` where that cannot be told.
    pub(crate) is_unprivileged: Option<bool>,
    /// The processes that have its char device; `None` where that cannot be told.
    holders: Option<Vec<u32>>,
    /// The size of its disk, where it has one.
    size: Option<Sectors>,
}

impl Listed {
    /// Every device of the machine, by its number.
    pub(crate) fn all(control: &mut Control) -> Vec<Listed> {
        let holders = Holders::look();
        ids().into_iter().map(|id| Listed::look(control, &holders, id)).collect()
    }

    fn look(control: &mut Control, holders: &Holders, id: DeviceId) -> Listed {
        let name = format!("ublkc{id}");
        let node = fs::metadata(char_device(id)).ok().filter(|node| node.file_type().is_char_device());
        let sectors = fs::read_to_string(format!("/sys/block/ublkb{id}/size"));
        let first = control.info(id);
        let info = described(control, id, first);
        let is_unprivileged = match (&info, first) {
            (Ok(info), _) => Some(info.features().contains(Features::UNPRIVILEGED_DEV)),
            // It was sent as it has to be, but for the path that every command to such a device carries.
            (_, Err(Error::Control { errno: Errno::EINVAL, .. })) => Some(true),
            (_, Err(Error::Control { errno: Errno::EPERM, .. })) => Some(false),
            _ => None,
        };
        Listed {
            id,
            info,
            is_unprivileged,
            holders: holders.of(node.map(|node| node.rdev()), &name),
            size: sectors.ok().and_then(|text| text.trim().parse().ok()).map(Sectors::new),
        }
    }

    /// Whether nobody serves it, and nobody can any more; `None` where that cannot be told.
    pub(crate) fn is_stale(&self) -> Option<bool> {
        match &self.info {
            Ok(info) if info.state() == State::DEAD => self.holders.as_ref().map(Vec::is_empty),
            Ok(_) => Some(false),
            Err(_) => None,
        }
    }

    fn to_json(&self) -> Value {
        let info = self.info.as_ref().ok();
        let server = info.and_then(DeviceInfo::server_process);
        json!({
            "id": self.id.raw(),
            "char_device": char_device(self.id),
            "block_device": self.size.map(|_| block_device(self.id)),
            "state": info.map(|info| info.state().to_string()),
            "queues": info.map(DeviceInfo::queues),
            "depth": info.map(DeviceInfo::depth),
            "server": server,
            "server_alive": server.map(machine::is_alive),
            "holders": self.holders,
            "stale": self.is_stale(),
            "size_bytes": self.size.map(Sectors::bytes),
            "flags": info.map(|info| info.features().bits()),
            "features": info.map(|info| names(info.features())),
            "error": self.info.as_ref().err().map(Error::to_string),
        })
    }

    /// Who serves it, in a few words.
    fn server(&self, info: &DeviceInfo) -> String {
        let holder = |process: &u32| format!("process {process}");
        let holders = || self.holders.iter().flatten().map(holder).collect::<Vec<_>>().join(", ");
        match (info.server_process(), self.is_stale()) {
            (Some(process), _) if machine::is_alive(process) => holder(&process),
            (Some(process), _) => match holders() {
                others if others.is_empty() => format!("process {process}, which is gone"),
                others => format!("process {process}, which is gone; {others} has it open"),
            },
            (None, Some(true)) => "nobody: stale".to_owned(),
            (None, None) => "nobody that this process can see".to_owned(),
            (None, Some(false)) => match holders() {
                others if others.is_empty() => "nobody: waits for a server".to_owned(),
                others => others,
            },
        }
    }
}

/// Prints every device.
pub(super) fn run(as_json: bool) -> Result<(), Failure> {
    let devices = Listed::all(&mut Control::open()?);
    if as_json {
        return print_json(&devices.iter().map(Listed::to_json).collect());
    }
    let mut rows = vec![["ID", "STATE", "QUEUES", "SERVER", "SIZE", "FEATURES"].map(str::to_owned)];
    for device in &devices {
        let size = device.size.map_or_else(|| "-".to_owned(), |size| format!("{} B", size.bytes()));
        rows.push(match &device.info {
            Ok(info) => [
                device.id.to_string(),
                info.state().to_string(),
                format!("{} x {}", info.queues(), info.depth()),
                device.server(info),
                size,
                names(info.features()).join(" "),
            ],
            Err(error) => [device.id.to_string(), "?".into(), "-".into(), error.to_string(), size, "-".into()],
        });
    }
    Ok(print_table(&rows)?)
}

/// Prints rows whose columns stand below each other; the last is as wide as it is.
pub(super) fn print_table<const N: usize>(rows: &[[String; N]]) -> io::Result<()> {
    let widest = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let mut out = io::stdout().lock();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widest(column).unwrap_or_default() + 2;
            line.push_str(&format!("{cell:width$}"));
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// The numbers of the devices that the driver has, or that there are nodes of where the driver's list cannot be read.
pub(super) fn ids() -> Vec<DeviceId> {
    let entries = fs::read_dir(CLASS).or_else(|_| fs::read_dir("/dev"));
    let names = entries.into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut ids: Vec<u32> = names.filter_map(|name| name.strip_prefix("ublkc")?.parse().ok()).collect();
    ids.sort_unstable();
    ids.into_iter().map(DeviceId::new).collect()
}

/// What the driver says of a device.
pub(super) fn describe(control: &mut Control, id: DeviceId) -> Result<DeviceInfo, Error> {
    let first = control.info(id);
    described(control, id, first)
}

/// Whether a device was added by a user without privileges, as far as it can be told.
pub(super) fn is_unprivileged(control: &mut Control, id: DeviceId) -> bool {
    let info = describe(control, id);
    info.is_ok_and(|info| info.features().contains(Features::UNPRIVILEGED_DEV))
}

/// A device that was added by a user without privileges is asked for by the path of its node, and refuses any other question.
fn described(control: &mut Control, id: DeviceId, first: Result<DeviceInfo, Error>) -> Result<DeviceInfo, Error> {
    let Err(refusal @ Error::Control { errno: Errno::EINVAL, .. }) = first else { return first };
    // A path of digits and letters has no NUL in it.
    let path = CString::new(char_device(id)).map_err(|_| refusal)?;
    control.info_at(id, &path)
}

pub(super) fn char_device(id: DeviceId) -> String {
    format!("/dev/ublkc{id}")
}

pub(super) fn block_device(id: DeviceId) -> String {
    format!("/dev/ublkb{id}")
}

/// The C names of features; bits without one as numbers.
pub(super) fn names(features: Features) -> Vec<String> {
    let shown = features.to_string();
    if features.is_empty() { Vec::new() } else { shown.split('|').map(str::to_owned).collect() }
}
