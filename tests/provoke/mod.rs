// SPDX-License-Identifier: MIT OR Apache-2.0
//! How each rule of `ublk::diagnosis` is broken on a real kernel, or why it cannot be.
#![allow(dead_code, unreachable_pub, reason = "without a driver the table is looked at, and nothing is planted")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]

mod control;
mod entry;
mod io;
mod machine;
mod params;
mod raw_ring;
pub mod scene;
mod system;
pub mod table;

use table::Row;

/// A row for each rule.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    [system::ROWS, entry::ROWS, control::ROWS, params::ROWS, io::ROWS].into_iter().flatten()
}
