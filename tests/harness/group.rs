// SPDX-License-Identifier: MIT OR Apache-2.0
//! Control groups.

use std::fs;
use std::process::Command;

const ROOT: &str = "/sys/fs/cgroup";

/// Has the groups below the root take the limits of this controller.
pub fn enable(controller: &str) {
    if !fs::exists(format!("{ROOT}/cgroup.controllers")).unwrap() {
        let mounted = Command::new("mount").args(["-t", "cgroup2", "none", ROOT]).status();
        assert!(mounted.unwrap().success());
    }
    fs::write(format!("{ROOT}/cgroup.subtree_control"), format!("+{controller}")).unwrap();
}

/// A group in which this process alone is, which may make only so many threads; until this is dropped.
pub struct Threads {
    path: String,
}

impl Threads {
    pub fn limited() -> Threads {
        enable("pids");
        let path = format!("{ROOT}/ublk-threads");
        fs::create_dir(&path).unwrap();
        fs::write(format!("{path}/cgroup.procs"), "0").unwrap();
        Threads { path }
    }

    /// So many more than there are.
    pub fn at_most(&self, more: u64) {
        let threads: u64 = fs::read_to_string(format!("{}/pids.current", self.path)).unwrap().trim().parse().unwrap();
        fs::write(format!("{}/pids.max", self.path), (threads + more).to_string()).unwrap();
    }

    /// None, whoever ends meanwhile.
    pub fn none(&self) {
        fs::write(format!("{}/pids.max", self.path), "0").unwrap();
    }

    pub fn unlimited(&self) {
        fs::write(format!("{}/pids.max", self.path), "max").unwrap();
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        fs::write(format!("{ROOT}/cgroup.procs"), "0").unwrap();
        fs::remove_dir(&self.path).unwrap();
    }
}
