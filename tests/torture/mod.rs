// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parts of `tests/device_torture.rs`.
#![allow(unreachable_pub, reason = "a test program uses it")]

pub mod load;
pub mod race;
