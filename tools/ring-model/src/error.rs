// SPDX-License-Identifier: MIT OR Apache-2.0
//! The errors that the crate's files name.

use std::convert::Infallible;

/// Those of `ublk::Error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Error {
    RingFull,
    Implausible { what: &'static str, value: u64 },
    CompletionsLost { lost: u32 },
}

/// Those of `ublk::SystemCall`, none of which fails here.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SystemCall {
    Eventfd,
}

impl SystemCall {
    pub(crate) fn failed(self, errno: Infallible) -> Error {
        match errno {}
    }
}
