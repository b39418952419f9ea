// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ublkctl doctor`: what stands between this machine and a working device.

mod checks;
mod finding;
mod trial;

use std::io::{self, Write};
use std::time::Duration;

use clap::ArgMatches;
use serde_json::{Value, json};

use crate::machine::{self, Machine};
use checks::Check;
use finding::Finding;
use trial::Step;

/// How long one command may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs `ublkctl doctor`, and returns its exit status.
///
/// # Errors
///
/// What could not be written.
pub fn run(matches: &ArgMatches) -> io::Result<u8> {
    let machine = Machine::look();
    let environment = machine.environment();
    let checks = checks::all(&machine, &environment);
    let steps = if matches.get_flag("dry-run") { Vec::new() } else { trial::run(environment) };
    let findings =
        each_once(checks.iter().flat_map(Check::findings).chain(steps.iter().flat_map(|step| &step.findings)));
    let is_healthy = findings.is_empty();
    if matches.get_flag("json") {
        let report = json!({
            "healthy": is_healthy,
            "release": machine::release_text(),
            "causes": findings.iter().map(|finding| finding.to_json()).collect::<Vec<Value>>(),
            "checks": checks.iter().map(Check::to_json).collect::<Vec<Value>>(),
            "steps": steps.iter().map(Step::to_json).collect::<Vec<Value>>(),
        });
        writeln!(io::stdout(), "{report:#}")?;
    } else {
        let mut told = Vec::new();
        let mut text: String = checks.iter().map(|check| check.to_text(&mut told)).collect();
        if !steps.is_empty() {
            text.push_str("\nA null device of one queue and one tag, made, read and removed:\n\n");
            text.extend(steps.iter().map(|step| step.to_text(&mut told)));
        }
        text.push_str(&match findings.first() {
            None => "\nThis machine is healthy.\n".to_owned(),
            Some(first) => format!("\nThis machine is not healthy. First: {} ({}).\n", first.remedy, first.id),
        });
        io::stdout().write_all(text.as_bytes())?;
    }
    Ok(u8::from(!is_healthy))
}

/// Findings without those that were there before.
fn each_once<'f>(findings: impl Iterator<Item = &'f Finding>) -> Vec<&'f Finding> {
    let mut once: Vec<&Finding> = Vec::new();
    for finding in findings {
        if once.iter().all(|other| other.id != finding.id) {
            once.push(finding);
        }
    }
    once
}
