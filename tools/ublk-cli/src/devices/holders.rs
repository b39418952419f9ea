// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which processes have which char device open or mapped, looked up in `/proc`.
//!
//! The driver lets one open file exist at a time, so opening a char device would tell whether it is served. But it would take the
//! device from a server that is about to open it, and letting go of it again is what the driver takes for a server's end: it fails
//! what is under way and forgets which tags were fetched. A look into `/proc` changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::machine;

/// Who has what.
#[derive(Debug, Default)]
pub(super) struct Holders {
    /// The number of a char device, as `stat(2)` gives it, and the processes that have it.
    processes: BTreeMap<u64, Vec<u32>>,
    /// The name of a char device, and the processes that have mapped it.
    mapped: BTreeMap<String, Vec<u32>>,
    /// Whether every process of the machine could be looked at.
    complete: bool,
}

impl Holders {
    /// Looks at every process.
    pub(super) fn look() -> Holders {
        let mut holders = Holders { complete: machine::is_initial_pid_namespace() == Some(true), ..Holders::default() };
        let Ok(entries) = fs::read_dir("/proc") else {
            holders.complete = false;
            return holders;
        };
        for entry in entries.flatten() {
            let Some(process) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let seen = holders
                .look_at_files(process, &entry.path())
                .and_then(|()| holders.look_at_maps(process, &entry.path()));
            // A process that has ended meanwhile holds nothing.
            if seen
                .is_err_and(|error| error.kind() != ErrorKind::NotFound && error.raw_os_error() != Some(machine::ESRCH))
            {
                holders.complete = false;
            }
        }
        holders
    }

    fn look_at_files(&mut self, process: u32, folder: &Path) -> std::io::Result<()> {
        for file in fs::read_dir(folder.join("fd"))?.flatten() {
            // The name is read first: asking for more about a file of a network filesystem may take long.
            if !fs::read_link(file.path()).is_ok_and(|path| path.to_string_lossy().contains("ublkc")) {
                continue;
            }
            if let Some(about) = fs::metadata(file.path()).ok().filter(|about| about.file_type().is_char_device()) {
                note(self.processes.entry(about.rdev()).or_default(), process);
            }
        }
        Ok(())
    }

    fn look_at_maps(&mut self, process: u32, folder: &Path) -> std::io::Result<()> {
        for line in fs::read_to_string(folder.join("maps"))?.lines() {
            if let Some((_, name)) = line.rsplit_once('/').filter(|(_, name)| name.starts_with("ublkc")) {
                let name = name.split_whitespace().next().unwrap_or(name);
                note(self.mapped.entry(name.to_owned()).or_default(), process);
            }
        }
        Ok(())
    }

    /// The processes that have a char device, by its number and its name. `None` where none was seen and not every process
    /// could be looked at.
    pub(super) fn of(&self, number: Option<u64>, name: &str) -> Option<Vec<u32>> {
        let mut found = number.and_then(|number| self.processes.get(&number)).cloned().unwrap_or_default();
        for process in self.mapped.get(name).into_iter().flatten() {
            note(&mut found, *process);
        }
        let sure = self.complete && number.is_some();
        (sure || !found.is_empty()).then_some(found)
    }
}

fn note(processes: &mut Vec<u32>, process: u32) {
    if !processes.contains(&process) {
        processes.push(process);
    }
}
