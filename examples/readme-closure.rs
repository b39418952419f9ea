// SPDX-License-Identifier: MIT OR Apache-2.0
//! The README's server that is a closure over requests. The text is the README's own: `build.rs` cuts it out.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::as_conversions, clippy::cast_possible_truncation, reason = "it has to be short")]
#![allow(clippy::print_stdout, reason = "a program")]

include!(concat!(env!("OUT_DIR"), "/readme-closure.rs"));
