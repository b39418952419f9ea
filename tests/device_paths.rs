// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every way in which data can travel, judged by fio over `loop` and `stripe`: one cell of each row of the table that
//! `cargo xtask paths` prints, by the script that prints it, which is a program on the PATH.
#![cfg_attr(not(have_ublk), allow(dead_code, reason = "the tests are ignored, not left out"))]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test ends where something is wrong")]

mod harness;

use std::process::{Command, Stdio};

use harness::nodes;

/// Has the script do one thing, with its files in the folder for such.
fn judged(arguments: &str) {
    let folder = std::env::temp_dir();
    let output = Command::new("paths").arg(folder).args(arguments.split(' ')).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("paths on the PATH: {error}"));
    let printed = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    println!("{printed}");
    assert!(output.status.success(), "{arguments}: {}", output.status);
    assert_eq!(nodes(), [""; 0]);
}

macro_rules! judged {
    ($($name:ident: $arguments:literal;)*) => {$(
        #[test]
        #[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
        fn $name() {
            judged($arguments);
        }
    )*};
}

judged! {
    fio_finds_no_error_on_loop_in_copy_mode: "cell loop copy on 2 64 300";
    fio_finds_no_error_on_loop_in_user_copy: "cell loop user-copy on 2 64 300";
    fio_finds_no_error_on_loop_in_zero_copy: "cell loop zero-copy on 2 64 300";
    fio_finds_no_error_on_loop_with_automatic_registration: "cell loop auto-register on 2 64 300";
    fio_finds_no_error_on_loop_through_the_page_cache: "cell loop auto off 2 64 300";
    fio_finds_no_error_on_a_stripe_in_copy_mode: "cell stripe copy on 2 64 300";
    fio_finds_no_error_on_a_stripe_in_user_copy: "cell stripe user-copy on 2 64 300";
    fio_finds_no_error_on_a_stripe_in_zero_copy: "cell stripe zero-copy on 2 64 300";
    fio_finds_no_error_on_a_stripe_with_automatic_registration: "cell stripe auto-register on 2 64 300";
    blkdiscard_gives_back_the_space_of_the_file: "discard auto";
    each_flush_and_each_fua_of_copy_mode_waits_for_an_fdatasync_of_the_ring: "durable copy";
    each_flush_and_each_fua_of_the_best_mode_waits_for_an_fdatasync_of_the_ring: "durable auto";
}
