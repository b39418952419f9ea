// SPDX-License-Identifier: MIT OR Apache-2.0
//! What threads share of a queue: its mailbox, its count of references and the turns of its threads from the crate's own files, the rest from here.

#[path = "../../../ublk/src/queue/mailbox.rs"]
#[expect(dead_code, reason = "since when a request is held is no part of the answer")]
mod mailbox;
#[path = "../../../ublk/src/queue/references.rs"]
mod references;
#[path = "../../../ublk/src/queue/turn.rs"]
mod turn;

mod atomic;
mod memory;
pub(crate) mod models;
