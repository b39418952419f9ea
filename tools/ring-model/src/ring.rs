// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ring: its logic from the crate's own files, its memory and its kernel from here.

#[path = "../../../ublk/src/ring/cq.rs"]
mod cq;
#[path = "../../../ublk/src/ring/position.rs"]
mod position;
#[path = "../../../ublk/src/ring/provided.rs"]
#[expect(dead_code, reason = "a queue that begins anew has no kernel at its other end")]
mod provided;
#[path = "../../../ublk/src/ring/shared.rs"]
mod shared;
#[path = "../../../ublk/src/ring/sq.rs"]
mod sq;

mod kernel;
mod memory;
pub(crate) mod models;
mod op;
