// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every way in which data can travel, judged by fio over `loop` and `stripe`: one cell of each row of the table that
//! `cargo xtask paths` prints, by the script that prints it, which is a program on the PATH.
#![cfg_attr(not(have_ublk), allow(dead_code, reason = "the tests are ignored, not left out"))]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test ends where something is wrong")]

mod harness;

use std::fs;
use std::process::{Command, Stdio};

use harness::nodes;

/// Has the script do one thing, with its files in the folder for such; what it printed.
fn run(arguments: &str) -> String {
    let folder = std::env::temp_dir();
    let output = Command::new("paths").arg(folder).args(arguments.split(' ')).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("paths on the PATH: {error}"));
    let printed = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    println!("{printed}");
    assert!(output.status.success(), "{arguments}: {}", output.status);
    assert_eq!(nodes(), [""; 0]);
    printed.into_owned()
}

/// As `run`, of what a driver can do, or is too old for.
fn judged(arguments: &str) {
    let printed = run(arguments);
    if printed.contains("refused") {
        let (_, since) = printed.split_once("(since Linux ").unwrap();
        let running = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert!(release(&running) < release(since), "{running} is not too old");
    }
}

/// `6.12.9-amd64` is 6.12.
fn release(text: &str) -> (u32, u32) {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn what_chooses_buffers_is_refused_in_batches_with_the_reason() {
    let printed = run("cells loop get-data batch on 150 2:64");
    let reasons = ["UBLK_F_BATCH_IO (since Linux 7.0)", "UBLK_F_NEED_GET_DATA excludes UBLK_F_BATCH_IO"];
    assert!(printed.contains("refused: ") && reasons.iter().any(|reason| printed.contains(reason)));
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
    fio_finds_no_error_on_loop_in_copy_mode: "cells loop copy per-tag on 150 2:64";
    fio_finds_no_error_on_loop_that_chooses_buffers: "cells loop get-data per-tag on 150 2:64";
    fio_finds_no_error_on_loop_in_user_copy: "cells loop user-copy per-tag on 150 2:64";
    fio_finds_no_error_on_loop_in_zero_copy: "cells loop zero-copy per-tag on 150 2:64";
    fio_finds_no_error_on_loop_with_automatic_registration: "cells loop auto-register per-tag on 150 2:64";
    fio_finds_no_error_on_loop_in_copy_mode_in_batches: "cells loop copy batch on 150 2:64";
    fio_finds_no_error_on_loop_in_user_copy_in_batches: "cells loop user-copy batch on 150 2:64";
    fio_finds_no_error_on_loop_in_zero_copy_in_batches: "cells loop zero-copy batch on 150 2:64";
    fio_finds_no_error_on_loop_with_automatic_registration_in_batches: "cells loop auto-register batch on 150 2:64";
    fio_finds_no_error_on_loop_whose_memory_it_shares: "cells loop copy per-tag+shared on 150 2:64";
    fio_finds_no_error_on_loop_whose_memory_it_shares_in_batches: "cells loop auto-register batch+shared on 150 2:64";
    fio_finds_no_error_on_loop_through_the_page_cache: "cells loop auto per-tag off 150 2:64";
    fio_finds_no_error_on_a_stripe_in_copy_mode: "cells stripe copy per-tag on 150 2:64";
    fio_finds_no_error_on_a_stripe_in_user_copy: "cells stripe user-copy per-tag on 150 2:64";
    fio_finds_no_error_on_a_stripe_in_zero_copy: "cells stripe zero-copy per-tag on 150 2:64";
    fio_finds_no_error_on_a_stripe_with_automatic_registration: "cells stripe auto-register per-tag on 150 2:64";
    blkdiscard_gives_back_the_space_of_the_file: "discard auto";
    each_flush_and_each_fua_of_copy_mode_waits_for_an_fdatasync_of_the_ring: "durable copy";
    each_flush_and_each_fua_of_the_best_mode_waits_for_an_fdatasync_of_the_ring: "durable auto";
}
