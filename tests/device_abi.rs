// SPDX-License-Identifier: MIT OR Apache-2.0
//! The C program of ABI.md, as it stands there: compiled here by `build.rs`, run on a real driver.
#![cfg_attr(not(have_ublk), allow(dead_code, unused_imports, reason = "the tests are ignored, not left out"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]

mod harness;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;

use harness::nodes;
use ublk::{Control, DeviceId, Features, State};

#[cfg(have_add_dev)]
const PROGRAM: (&[u8], &str) = (include_bytes!(concat!(env!("OUT_DIR"), "/add-dev")), env!("ADD_DEV_SAID"));
/// It was not compiled.
#[cfg(not(have_add_dev))]
const PROGRAM: (&[u8], &str) = (&[], "no C compiler, kernel headers or liburing were there");

#[test]
#[cfg_attr(not(have_add_dev), ignore = "no C compiler, kernel headers or liburing here: run `cargo xtask test`")]
fn the_c_program_of_abi_md_compiles_without_a_warning() {
    let (program, said) = PROGRAM;
    assert!(said.is_empty() && !program.is_empty(), "{said}");
    let marked = include_str!(concat!(env!("OUT_DIR"), "/add-dev.c")).matches("<-- HERE").count();
    assert_eq!(marked, 1, "the line that everybody gets wrong is marked");
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn the_c_program_of_abi_md_adds_a_device() {
    let (program, said) = PROGRAM;
    assert!(said.is_empty() && !program.is_empty(), "{said}");
    let path = std::env::temp_dir().join("ublk-add-dev");
    let mut file = File::options().write(true).create_new(true).mode(0o700).open(&path).unwrap();
    file.write_all(program).unwrap();
    drop(file);
    let output = Command::new(&path).output().unwrap();
    fs::remove_file(&path).unwrap();
    assert!(output.status.success(), "{output:?}");
    let id = DeviceId::new(String::from_utf8(output.stdout).unwrap().trim_end().parse().unwrap());

    let mut control = Control::open().unwrap();
    let info = control.info(id).unwrap();
    assert_eq!((info.queues(), info.depth(), info.max_io_bytes(), info.state()), (1, 64, 512 << 10, State::DEAD));
    assert!(info.features().contains(Features::CMD_IOCTL_ENCODE));
    assert_eq!(nodes(), [format!("ublkc{id}")]);
    control.delete(id).unwrap();
    assert_eq!(nodes(), [""; 0]);
}
