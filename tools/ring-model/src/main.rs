// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory orderings of `ublk`, checked.
//!
//! The crate's files that have them are compiled here as they are, with loom's atomics. What they order accesses to is a memory
//! of watched slots. Loom runs all threads of a model through every interleaving, and lets a load see older values too where
//! the C11 memory model allows it, so that a Release or Acquire that is missing shows on any machine. Two accesses to one slot
//! that nothing orders are a failure, whatever was read. An access that could be torn, or come too early or too late, is such a
//! pair.
//!
//! - [`ring`]: what is shared with the kernel. In its place is a thread that does what io_uring's kernel side does.
//! - [`queue`]: what a queue's thread shares with those that answer its requests.
//!
//! Without an argument each model is run; with some, those whose names contain one of them. `cargo xtask orderings` runs
//! them, and then those of a file once more for each of its orderings, weakened in a copy. `--source` prints the files whose
//! orderings this program checks: it is how xtask knows that it runs what it has just written.

mod error;
mod explore;
mod queue;
mod ring;
mod slot;
mod syscall;

use std::env;

/// The files that have all the orderings.
const SOURCES: [&str; 5] = [
    include_str!("../../../ublk/src/ring/shared.rs"),
    include_str!("../../../ublk/src/ring/provided.rs"),
    include_str!("../../../ublk/src/queue/mailbox.rs"),
    include_str!("../../../ublk/src/queue/references.rs"),
    include_str!("../../../ublk/src/queue/turn.rs"),
];

fn main() {
    let wanted: Vec<String> = env::args().skip(1).collect();
    if wanted.iter().any(|argument| argument == "--source") {
        print!("{}", SOURCES.concat());
        return;
    }
    for (name, model) in ring::models::ALL.into_iter().chain(queue::models::ALL) {
        if wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str())) {
            println!("model {name}");
            println!("  {}", model());
        }
    }
}
