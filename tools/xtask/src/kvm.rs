// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether this machine can lend its own processor to a guest.
//!
//! That `/dev/kvm` is there does not say so: guests may hang all the same. A guest is booted once to find out, and the
//! answer is kept for this QEMU on this kernel.

use core::time::Duration;
use std::fs;
use std::process::Command;

use crate::archive;
use crate::failure::{Context, Result};
use crate::machine::Machine;
use crate::packages;
use crate::workspace;

/// How long the guest may take that shows that it works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Whether `probe`, a machine whose command does nothing, runs under KVM.
pub(crate) fn works(probe: impl FnOnce() -> Result<Machine>) -> Result<bool> {
    if fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(false);
    }
    let kernel =
        fs::read_to_string("/proc/sys/kernel/osrelease").context(|| "cannot read the kernel's release".to_owned())?;
    let qemu = archive::text(Command::new(packages::find(packages::QEMU.name).unwrap_or_default()).arg("--version"))?;
    let about = format!("{} on Linux {}", qemu.lines().next().unwrap_or_default(), kernel.trim());
    let file = workspace::kept("vm").join("kvm");
    let (yes, no) = (format!("KVM works: {about}\n"), format!("KVM does not work: {about}\n"));
    match fs::read_to_string(&file) {
        Ok(answer) if answer == yes => return Ok(true),
        Ok(answer) if answer == no => return Ok(false),
        _ => {}
    }
    let works = probe()?.runs_within(PATIENCE)?;
    fs::write(&file, if works { yes } else { no }).context(|| format!("cannot write {}", file.display()))?;
    Ok(works)
}
