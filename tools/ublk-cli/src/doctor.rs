// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ublkctl doctor`: what stands between this machine and a working device.

use std::io;

use clap::ArgMatches;

/// Runs `ublkctl doctor`, and returns its exit status.
///
/// # Errors
///
/// What could not be read or written.
pub fn run(_matches: &ArgMatches) -> io::Result<u8> {
    Err(io::Error::other("is not written yet"))
}
