// SPDX-License-Identifier: MIT OR Apache-2.0
//! The features of a real driver, and the releases that `ublk-sys` says they came with.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test ends where something is wrong")]

use std::fs;

use ublk::{Control, Features};

/// `6.12.9-amd64` is 6.12.
fn release(text: &str) -> (u32, u32) {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn the_driver_has_each_feature_that_is_not_younger_than_it_and_no_other() {
    let running = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let offered = Control::open().unwrap().features().unwrap();
    // `cargo xtask abi` reads this line.
    println!("\nfeatures {:#x}", offered.bits());

    let mut expected = Features::NONE;
    for bit in 0..u64::BITS {
        let feature = Features::from_bits(1 << bit);
        if feature.since().is_some_and(|since| release(since) <= release(&running)) {
            expected = expected | feature;
        }
    }
    // What came with a newer Linux than the mirror's has no name here.
    let unknown = release(&running) > release(ublk_sys::layout::LINUX);
    assert!(offered == expected || unknown && offered.contains(expected), "{running}: {offered}, not {expected}");
}
