// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which answers of `loop` and `stripe` may say "it is durable": their own module, without a driver.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is wrong")]

#[path = "../ublk/examples/backing/syncs.rs"]
mod syncs;

use std::sync::atomic::AtomicBool;

use syncs::{Syncs, Verdict};
use ublk::Tag;

const A: Tag = Tag::new(0);
const B: Tag = Tag::new(1);
const C: Tag = Tag::new(2);

#[test]
fn one_failure_counts_for_good_and_for_all_queues() {
    let lost = AtomicBool::new(false);
    let (first, second) = (Syncs::new(&lost, 3), Syncs::new(&lost, 3));
    assert!(first.begin(A) && second.begin(B));
    assert_eq!(first.end(A, true), Verdict::Lost);
    assert_eq!(second.end(B, false), Verdict::Lost, "it was under way");
    assert!(!first.begin(A) && !second.begin(A));
}

#[test]
fn what_is_alone_is_durable_at_once() {
    let lost = AtomicBool::new(false);
    let syncs = Syncs::new(&lost, 3);
    for _ in 0..3 {
        assert!(syncs.begin(A));
        assert_eq!(syncs.end(A, false), Verdict::Durable);
    }
}

#[test]
fn whoever_succeeds_beside_an_older_one_waits_for_what_that_was_told() {
    let lost = AtomicBool::new(false);
    let syncs = Syncs::new(&lost, 3);
    assert!(syncs.begin(A) && syncs.begin(B));
    // A may have been told already that something is lost.
    assert_eq!(syncs.end(B, false), Verdict::Again);
    assert!(syncs.begin(B));
    assert_eq!(syncs.end(A, true), Verdict::Lost);
    assert_eq!(syncs.end(B, false), Verdict::Lost);
}

#[test]
fn nobody_waits_for_ever_for_each_other_or_for_those_that_come_later() {
    let lost = AtomicBool::new(false);
    let syncs = Syncs::new(&lost, 3);
    assert!(syncs.begin(A) && syncs.begin(B));
    assert_eq!(syncs.end(B, false), Verdict::Again);
    assert!(syncs.begin(B) && syncs.begin(C));
    // It began after A, but before A was back.
    assert_eq!(syncs.end(A, false), Verdict::Again);
    assert!(syncs.begin(A));
    assert_eq!(syncs.end(B, false), Verdict::Durable, "A and C began after B was back for the first time");
    assert_eq!(syncs.end(A, false), Verdict::Again, "C is older than the first return of A");
    assert!(syncs.begin(A) && syncs.begin(B));
    assert_eq!(syncs.end(C, false), Verdict::Again);
    assert_eq!(syncs.end(A, false), Verdict::Durable);
    assert_eq!(syncs.end(B, false), Verdict::Durable);
}
