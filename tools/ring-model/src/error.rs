// SPDX-License-Identifier: MIT OR Apache-2.0
//! The errors that the ring's files name.

/// Those of `ublk::Error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Error {
    RingFull,
    Implausible { what: &'static str, value: u64 },
    CompletionsLost { lost: u32 },
}
