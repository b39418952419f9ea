// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `ublkctl` does, as a library: one module a noun, and `main` only chooses among them.
//!
//! | module | commands |
//! |---|---|
//! | [`arguments`] | the whole command line, from which the manual page and the completions are made too |
//! | [`explain`] | `explain`: what an SQE says, what the kernel would make of it, and what is wrong with it |
//! | [`doctor`] | `doctor`: what stands between this machine and a working device |
//! | [`devices`] | `features`, `list`, `info`, `params`, `stop`, `delete`, `collect`, `resize`, `quiesce`, `udev-owner`, `add` |
#![forbid(unsafe_code)]

pub mod arguments;
pub mod devices;
pub mod doctor;
pub mod explain;
mod machine;
