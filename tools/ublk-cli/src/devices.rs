// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is done with devices: `features`, `list`, `info`, `params`, `stop`, `delete`, `add`.

use std::io;

use clap::ArgMatches;

/// Runs the command of this name, and returns its exit status.
///
/// # Errors
///
/// What could not be read or written.
pub fn run(_command: &str, _matches: &ArgMatches) -> io::Result<u8> {
    Err(io::Error::other("is not written yet"))
}
