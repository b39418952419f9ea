// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ublkctl explain`: what an SQE says, what the kernel would make of it, and what is wrong with it.

use std::io;

use clap::ArgMatches;

/// Runs `ublkctl explain`, and returns its exit status.
///
/// # Errors
///
/// What could not be read or written.
pub fn run(_matches: &ArgMatches) -> io::Result<u8> {
    Err(io::Error::other("is not written yet"))
}
