// SPDX-License-Identifier: MIT OR Apache-2.0
//! Each rule of `ublk::diagnosis` is broken on a real kernel, and the cause that was planted is the one that is named first.
//!
//! What cannot be broken says why, in the same table. How many causes are known, planted and out of reach is printed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]

#[path = "goldens/commands.rs"]
mod commands;
#[path = "goldens/golden.rs"]
mod golden;
mod harness;
mod provoke;
#[path = "goldens/sender.rs"]
mod sender;

use std::collections::BTreeSet;
use std::env;
use std::io::{Write, stdout};
use std::thread;

use commands::{GOLDENS, Run, build};
use harness::nodes;
use provoke::scene::{Scene, kernel};
use provoke::table::{Here, How, here, wrong};
use ublk::diagnosis::{Environment, Sqe, causes_of_command, rules};

#[test]
fn every_rule_is_planted_once_or_says_why_it_cannot_be() {
    let mut seen = BTreeSet::new();
    for (id, how) in provoke::rows() {
        assert!(seen.insert(*id), "{id} stands twice");
        if let How::Unreachable(why) | How::PlantedFrom(_, _, why) | How::PlantedBefore(_, _, why) = how {
            assert!(!why.is_empty() && !why.ends_with('.'), "{id}: {why:?}");
        }
    }
    let known: BTreeSet<&str> = rules().map(|rule| rule.id()).collect();
    let missing: Vec<_> = known.difference(&seen).collect();
    let unknown: Vec<_> = seen.difference(&known).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "not planted: {missing:?}; no such rule: {unknown:?}");
}

#[test]
fn what_a_driver_has_taken_has_no_cause() {
    let mut wrong = Vec::new();
    for (name, _) in GOLDENS {
        let run = Run { fd: 3, process: 4, addresses: [1 << 20, 2 << 20, 3 << 20, 4 << 20] };
        let built = build(name, &run);
        let mut environment = Environment::default();
        environment.buffer = &built.buffer;
        let sqe = Sqe::from_bytes(&built.sqe).unwrap();
        let named: Vec<&str> = causes_of_command(&sqe, None, &environment).map(|cause| cause.id()).collect();
        wrong.extend(named.iter().map(|id| format!("{name}: {id}")));
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
#[cfg_attr(not(target_endian = "little"), ignore = "the goldens are those of a little-endian machine")]
fn the_cause_that_was_planted_is_the_one_that_is_named_first() {
    assert_eq!(nodes(), [""; 0]);
    let kernel = kernel();
    let only = env::var("UBLK_PLANT").unwrap_or_default();
    let (mut planted, mut out_of_reach, mut of_others, mut failed) = (0, Vec::new(), 0, Vec::new());
    for row in provoke::rows().filter(|(id, _)| id.contains(&only)) {
        match here(row, kernel) {
            Here::NotOnThisKernel => of_others += 1,
            Here::Unreachable(why) => out_of_reach.push((row.0, why)),
            Here::Planted(plant) => {
                planted += 1;
                // A thread of its own, which may come to be able to do less, and whose rings end with it.
                match thread::spawn(move || wrong(row.0, &plant(Scene::new()))).join() {
                    Ok(wrong) => failed.extend(wrong),
                    Err(_) => failed.push(format!("{}: could not be planted\n", row.0)),
                }
                Scene::new().clear();
            }
        }
    }
    let mut out = stdout();
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let known = planted + out_of_reach.len();
    writeln!(
        out,
        "figure: diagnosis on Linux {}: {known} causes known, {planted} planted here, {} out of reach here; {of_others} are of other kernels",
        release.trim(),
        out_of_reach.len()
    )
    .unwrap();
    for (id, why) in out_of_reach {
        writeln!(out, "figure:   {id} is out of reach: {why}").unwrap();
    }
    assert!(failed.is_empty(), "{} wrong:\n{}", failed.len(), failed.concat());
    assert_eq!(nodes(), [""; 0]);
}
