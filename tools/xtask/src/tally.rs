// SPDX-License-Identifier: MIT OR Apache-2.0
//! How many checks and tests passed, failed and were skipped.

use core::fmt;
use std::collections::BTreeMap;

/// A test that is ignored on this machine: its target and name.
pub(crate) type Ignored = BTreeMap<(String, String), String>;

/// The counts of a run of `cargo xtask test`.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) passed: u32,
    /// What failed, as a human would find it.
    pub(crate) failed: Vec<String>,
    /// Ignored here, with the reason; a test that ran in a machine is taken out.
    pub(crate) ignored: Ignored,
    /// Steps that were left out, with the reason.
    pub(crate) left_out: Vec<String>,
}

impl Tally {
    /// Counts one check by its outcome.
    pub(crate) fn count(&mut self, name: &str, passed: bool) {
        if passed {
            self.passed += 1;
        } else {
            self.failed.push(name.to_owned());
        }
    }

    /// What failed and what was skipped, a line each.
    pub(crate) fn print_details(&self) {
        println!();
        for ((target, name), reason) in &self.ignored {
            println!("skipped {target}::{name}: {reason}");
        }
        for step in &self.left_out {
            println!("skipped {step}");
        }
        for name in &self.failed {
            println!("FAILED {}", name.lines().next().unwrap_or_default());
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let skipped = self.ignored.len() + self.left_out.len();
        write!(f, "{} passed, {} failed, {skipped} skipped", self.passed, self.failed.len())
    }
}
