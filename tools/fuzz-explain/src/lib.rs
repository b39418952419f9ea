// SPDX-License-Identifier: MIT OR Apache-2.0
//! What reads strangers' bytes, given arbitrary ones: each function here takes any input, and panics where one makes the code
//! below panic or contradict itself.
//!
//! `cargo xtask fuzz` has libFuzzer look for such an input. `cargo test` runs all that the project keeps.

#[path = "../../../tests/goldens/golden.rs"]
mod golden;
mod input;
pub mod seeds;

use std::sync::OnceLock;

use input::Input;
use ublk::Errno;
use ublk::diagnosis::{self, Sqe, causes_of_command};
use ublk_cli::explain::{Explanation, Wanted};

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

/// A file that `ublkctl explain` was given, with nothing beside it, and with all that there can be.
///
/// # Panics
///
/// Where what is said of it contradicts itself.
pub fn explain(input: &[u8]) {
    let golden = |name| Wanted::default().against(name).expect("there is such a command");
    // Read once: what is read again and again is the input.
    static GOLDENS: OnceLock<[Wanted; 2]> = OnceLock::new();
    let [add_dev, fetch] = GOLDENS.get_or_init(|| [golden("ADD_DEV"), golden("FETCH_REQ")]);
    let plain = Wanted::default();
    let refused = add_dev.clone().with_errno(Errno::EINVAL);
    let buffers = fetch.clone().with_buffers(input);
    let counts = [&plain, &refused, &buffers].map(|wanted| {
        let found = Explanation::of(Some(input), wanted);
        let (text, json) = (found.to_text(false), found.to_json());
        let all = json.as_array().expect("an array");
        // What is no SQE has a sentence, and what is one a report.
        assert_eq!(text.is_empty(), all.is_empty());
        assert!(found.status() <= 2 && (found.status() == 2 || !all.is_empty()), "{}", found.status());
        let plainly_right = all.iter().all(|one| one["causes"].as_array().is_some_and(Vec::is_empty));
        assert!(found.status() != 1 || !plainly_right || !all.iter().all(|one| one["against"].is_null()), "{json}");
        for one in all {
            let bytes = one["bytes"].as_str().expect("digits").len() / 2;
            let fields = one["fields"].as_array().expect("an array").iter();
            let covered: u64 = fields.map(|field| field["len"].as_u64().expect("a number")).sum();
            assert_eq!(usize::try_from(covered), Ok(bytes), "{one}");
        }
        assert!(!text.contains('\u{1b}'));
        all.len()
    });
    // What stands beside an input does not change what is in it; with a whole struct ublksrv_io_cmd comes an entry.
    assert_eq!(counts[0], counts[1]);
    assert_eq!(counts[0] + usize::from(input.len() >= 16), counts[2]);
    // Without an input, the buffers alone.
    let alone = Explanation::of(None, &buffers);
    assert!(alone.status() <= 2 && alone.to_json().is_array());
}
