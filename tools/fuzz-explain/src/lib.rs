// SPDX-License-Identifier: MIT OR Apache-2.0
//! What reads strangers' bytes, given arbitrary ones: each function here takes any input, and panics where one makes the code
//! below panic or contradict itself.
//!
//! `cargo xtask fuzz` has libFuzzer look for such an input. `cargo test` runs all that the project keeps.

#[path = "../../../tests/goldens/golden.rs"]
mod golden;
mod input;
pub mod seeds;

use input::Input;
use ublk::diagnosis::{self, Sqe, causes_of_command};

/// A command, what it points to, and what is known beside it.
///
/// The first byte says how large the entry is, 128 bytes are the entry, one is the errno, then follows what is known, and the rest
/// is the buffer.
///
/// # Panics
///
/// Where the diagnosis contradicts itself.
pub fn diagnosis(input: &[u8]) {
    let mut input = Input::new(input);
    let is_wide = input.byte() % 2 == 0;
    let bytes: [u8; 128] = input.bytes();
    let bytes = if is_wide { &bytes[..] } else { &bytes[..64] };
    let errno = input.errno();
    let mut environment = input.environment();
    environment.buffer = input.rest();

    let sqe = Sqe::from_bytes(bytes).expect("64 or 128 bytes are an entry");
    assert_eq!(sqe.as_bytes(), bytes);
    assert!(!format!("{sqe:?} {environment:?}").is_empty());
    let mut found = 0;
    for cause in causes_of_command(&sqe, errno, &environment) {
        found += 1;
        let agrees = errno.is_none() || cause.errno().is_none() || cause.errno() == errno;
        assert!(agrees, "{cause} is not why it was {errno:?}");
        assert!(!format!("{cause} {cause:?}").is_empty());
    }
    assert!(found <= diagnosis::rules().count(), "a cause is named twice");
}
