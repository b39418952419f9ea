// SPDX-License-Identifier: MIT OR Apache-2.0
//! `/dev/ublk-control`, and the `/dev` that it is in.

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use rustix::fs::{major, minor};
use ublk::Errno;
use ublk::diagnosis::Node;

/// The control device's node.
pub(crate) const CONTROL: &str = "/dev/ublk-control";

/// What stands at the path of the control device.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ControlNode {
    /// Nothing.
    Missing,
    /// Something that is not the driver's device, in a few words.
    NotOurs(String),
    /// A character device with the right numbers, as far as they are known; whose it is, and what opening it came to.
    There { owner: String, opened: Result<(), Errno> },
}

impl ControlNode {
    pub(super) fn look() -> ControlNode {
        // What cannot be looked at is as good as not there.
        let Ok(about) = fs::metadata(CONTROL) else { return ControlNode::Missing };
        if !about.file_type().is_char_device() {
            return ControlNode::NotOurs("it is no character device".to_owned());
        }
        let (major, minor) = (major(about.rdev()), minor(about.rdev()));
        let wanted = fs::read_to_string("/proc/misc").ok().and_then(|misc| misc_minor(&misc));
        if let Some(wanted) = wanted.filter(|wanted| (major, minor) != (MISC_MAJOR, *wanted)) {
            return ControlNode::NotOurs(format!(
                "it is device {major}:{minor}, and the driver's is {MISC_MAJOR}:{wanted} (/proc/misc)"
            ));
        }
        let owner = format!("{major}:{minor}, mode {:04o}, of {}:{}", about.mode() & 0o7777, about.uid(), about.gid());
        // A misc device: opening it, and letting go of it, changes nothing.
        let opened = File::options().read(true).write(true).open(CONTROL).map(drop).map_err(Errno::from);
        ControlNode::There { owner, opened }
    }

    /// The same as the rules of the kernel know it.
    pub(super) fn to_node(&self) -> Option<Node> {
        match self {
            ControlNode::Missing => Some(Node::Missing),
            ControlNode::NotOurs(_) => Some(Node::NotOurs),
            ControlNode::There { opened: Ok(()), .. } => Some(Node::Usable),
            ControlNode::There { opened: Err(Errno::EACCES), .. } => Some(Node::Forbidden),
            ControlNode::There { .. } => None,
        }
    }
}

/// The `/dev` of this process.
#[derive(Debug)]
pub(crate) struct Dev {
    /// The type of its filesystem.
    pub(crate) filesystem: Option<String>,
    pub(crate) has_udev: bool,
}

impl Dev {
    pub(super) fn look() -> Dev {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Dev {
            filesystem: filesystem_at(&mounts, "/dev").map(str::to_owned),
            has_udev: fs::exists("/run/udev/control").unwrap_or(false),
        }
    }
}

/// The type of what was mounted last at a path.
fn filesystem_at<'m>(mountinfo: &'m str, path: &str) -> Option<&'m str> {
    let at = |line: &'m str| {
        let (mount, filesystem) = line.split_once(" - ")?;
        (mount.split(' ').nth(4) == Some(path)).then(|| filesystem.split(' ').next()).flatten()
    };
    mountinfo.lines().rev().find_map(at)
}

const MISC_MAJOR: u32 = 10;

/// The number of the control device in `/proc/misc`.
fn misc_minor(misc: &str) -> Option<u32> {
    let number = |line: &str| line.trim().strip_suffix(" ublk-control").map(str::trim).map(str::to_owned);
    misc.lines().find_map(number)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{filesystem_at, misc_minor};

    #[test]
    fn the_driver_is_found_among_the_misc_devices() {
        assert_eq!(misc_minor(" 58 ublk-control\n183 hw_random\n"), Some(58));
        assert_eq!(misc_minor("183 hw_random\n"), None);
    }

    #[test]
    fn what_was_mounted_last_counts() {
        let mounts =
            "1 2 0:5 / / rw - ext4 x rw\n3 1 0:6 / /dev rw shared:2 - devtmpfs x rw\n4 1 0:7 / /dev rw - tmpfs x rw\n";
        assert_eq!(filesystem_at(mounts, "/dev"), Some("tmpfs"));
        assert_eq!(filesystem_at(mounts, "/de"), None);
    }
}
