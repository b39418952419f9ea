// SPDX-License-Identifier: MIT OR Apache-2.0
//! What threads share of a queue: its mailbox and its count of references from the crate's own files, the rest from here.

#[path = "../../../ublk/src/queue/mailbox.rs"]
#[expect(dead_code, reason = "since when a request is held is the queue's thread's alone")]
mod mailbox;
#[path = "../../../ublk/src/queue/references.rs"]
mod references;

mod atomic;
mod memory;
pub(crate) mod models;
