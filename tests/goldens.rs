// SPDX-License-Identifier: MIT OR Apache-2.0
//! The goldens: commands that a driver has accepted, byte by byte. Here they are compared with what `ublk-sys` makes;
//! `tests/device_goldens.rs` sends them, and unit tests of `ublk` compare them with what the crate puts into its rings.
#![cfg_attr(not(target_endian = "little"), allow(dead_code, unused_imports, reason = "the tests are ignored"))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is wrong")]

#[path = "goldens/commands.rs"]
mod commands;
#[path = "goldens/golden.rs"]
mod golden;

use commands::{GOLDENS, Run, build, names};
use golden::Golden;

#[test]
fn every_command_of_the_mirror_has_a_golden() {
    let mut goldens: Vec<&str> = GOLDENS.iter().map(|(name, _)| *name).collect();
    let mut names = names();
    goldens.sort_unstable();
    names.sort_unstable();
    assert_eq!(goldens, names, "add the command to tests/goldens/commands.rs, and capture it");
}

#[test]
#[cfg_attr(not(target_endian = "little"), ignore = "the goldens are those of a little-endian machine")]
fn each_command_as_the_mirror_makes_it_is_its_golden_byte_by_byte() {
    for (name, text) in GOLDENS {
        let (built, golden) = (build(name, &Run::default()), Golden::parse(text));
        Golden::compare(&golden.sqe, &built.sqe).unwrap_or_else(|error| panic!("{name}: sqe: {error}"));
        Golden::compare(&golden.buffer, &built.buffer).unwrap_or_else(|error| panic!("{name}: buffer: {error}"));
        assert!(matches!(golden.sqe.len(), 64 | 128), "{name}");
        // The names, the values in words, and what differs from run to run.
        let (said, _) = text.strip_prefix("# ").unwrap().split_once('\n').unwrap();
        assert_eq!(built.text(said), *text, "{name}");
    }
}

#[test]
fn a_golden_says_of_which_command_and_which_linux_it_is() {
    for (name, text) in GOLDENS {
        let said = text.lines().next().unwrap_or_default();
        let end = if name.starts_with("UBLK_U_CMD") { "/dev/ublk-control" } else { "/dev/ublkcN" };
        assert!(said.starts_with(&format!("# {name} to {end}: Linux ")), "{said}");
        assert!(said.contains(" answered "), "{said}");
    }
}

#[test]
fn a_byte_that_differs_is_named() {
    let golden = Golden::parse("sqe\n0000  01 ?? # 03\n0002  03\nbuffer\n0000 ff");
    assert_eq!((golden.sqe.as_slice(), golden.buffer.as_slice()), (&[Some(1), None, Some(3)][..], &[Some(255)][..]));
    assert_eq!(Golden::compare(&golden.sqe, &[1, 9, 3]), Ok(()));
    assert!(Golden::compare(&golden.sqe, &[1, 9, 4]).unwrap_err().starts_with("byte 2 is 04"));
    assert!(Golden::compare(&golden.sqe, &[1, 9]).is_err());
    assert_eq!(Golden::filled(&golden.sqe, &[7, 8, 9]), [1, 8, 3]);
}
