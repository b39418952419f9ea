// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ublkctl udev-owner`: gives a node of an unprivileged device to the user who added it.
//!
//! A name says nothing: whoever may write to a folder has any name there. So the node is opened, without following a link, and from then
//! on it is that open file whose numbers are looked at and whose owner is changed. Which device has these numbers the driver
//! says, and who added it.

use std::ffi::CString;
use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid, chownat, openat};
use ublk::{Control, DeviceId, DeviceInfo, Features, Params};

use crate::devices::Failure;
use crate::devices::list::{char_device, ids};

/// Which of a device's two nodes it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Char,
    Block,
}

/// Gives the node at `path` to the owner of its device, if that is an unprivileged one; leaves any other alone.
pub(super) fn run(path: &Path) -> Result<(), Failure> {
    let failed =
        |what: &str, error: std::io::Error| Failure::Device(format!("cannot {what} {}: {error}", path.display()));
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = openat(CWD, path, flags, Mode::empty()).map_err(|error| failed("open", error.into()))?;
    let node = File::from(node);
    let about = node.metadata().map_err(|error| failed("look at", error))?;
    let kind = match about.file_type() {
        kind if kind.is_char_device() => Kind::Char,
        kind if kind.is_block_device() => Kind::Block,
        _ => return Err(Failure::Device(format!("{} is no device", path.display()))),
    };
    let numbers = (rustix::fs::major(about.rdev()), rustix::fs::minor(about.rdev()));
    let mut control = Control::open()?;
    let found = ids().into_iter().filter_map(|id| unprivileged(&mut control, id));
    let of = found.into_iter().find(|(_, params)| numbers_of(params, kind) == Some(numbers));
    let Some((info, _)) = of else { return Ok(()) };
    let raw = info.as_raw();
    let (user, group) = (Uid::from_raw(raw.owner_uid), Gid::from_raw(raw.owner_gid));
    chownat(&node, c"", Some(user), Some(group), AtFlags::EMPTY_PATH).map_err(|error| failed("give away", error.into()))
}

/// What the driver says of a device, if it is an unprivileged one. It compares the numbers of the node that it is asked by with the
/// device's own.
fn unprivileged(control: &mut Control, id: DeviceId) -> Option<(DeviceInfo, Params)> {
    let path = CString::new(char_device(id)).ok()?;
    let info = control.info_at(id, &path).ok()?;
    if !info.features().contains(Features::UNPRIVILEGED_DEV) {
        return None;
    }
    control.set_unprivileged(Some(id));
    let params = control.params(id).ok()?;
    Some((info, params))
}

fn numbers_of(params: &Params, kind: Kind) -> Option<(u32, u32)> {
    let numbers = &params.as_raw().devt;
    let numbers = match kind {
        Kind::Char => (numbers.char_major, numbers.char_minor),
        Kind::Block => (numbers.disk_major, numbers.disk_minor),
    };
    // A device without a disk has no numbers of one.
    (numbers != (0, 0)).then_some(numbers)
}
