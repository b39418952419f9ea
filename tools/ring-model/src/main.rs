// SPDX-License-Identifier: MIT OR Apache-2.0
//! The orderings of `ublk/src/ring/shared.rs`, checked.
//!
//! The files of the ring that hold its logic are compiled here as they are. In place of `ring/memory.rs` stands a memory
//! of loom's atomics and watched slots, and in place of the kernel a thread that does what io_uring's kernel side does.
//! Loom runs both through every interleaving, and lets a load see older values too where the C11 memory model allows it, so
//! that a Release or Acquire that is missing shows on any machine. Two accesses to one slot that nothing orders are a
//! failure, whatever was read. An access that could be torn, or come too early or too late, is such a pair.
//!
//! Without an argument each model is run; with some, those whose names contain one of them. `cargo xtask ring-model` runs
//! them, and then once more for each ordering, weakened in a copy. `--source` prints the file whose orderings this program
//! checks: it is how xtask knows that it runs what it has just written.

mod error;
mod ring;

use std::env;

/// The file that has all the orderings.
const SOURCE: &str = include_str!("../../../ublk/src/ring/shared.rs");

fn main() {
    let wanted: Vec<String> = env::args().skip(1).collect();
    if wanted.iter().any(|argument| argument == "--source") {
        print!("{SOURCE}");
        return;
    }
    for (name, model) in ring::models::ALL {
        if wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str())) {
            println!("model {name}");
            println!("  {}", model());
        }
    }
}
