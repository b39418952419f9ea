// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an entry is compared with: a command that a driver has accepted.

use std::fs;

use crate::explain::dump::Dump;
use crate::explain::entry::{Entries, Entry};

#[path = "../../../../tests/goldens/texts.rs"]
mod texts;

pub(super) use texts::GOLDENS;

/// A golden, or what else was named.
#[derive(Clone, Debug)]
pub(crate) struct Golden {
    pub(super) name: String,
    pub(super) entry: Entry,
}

impl Golden {
    /// The golden of a command, or the first entry in a file.
    pub(super) fn named(name: &str) -> Result<Golden, String> {
        let upper = name.to_ascii_uppercase();
        let is_it = |whole: &str| {
            let short = whole.strip_prefix("UBLK_U_CMD_").or_else(|| whole.strip_prefix("UBLK_U_IO_"));
            whole == upper || short == Some(&upper)
        };
        if let Some((whole, text)) = GOLDENS.iter().find(|(whole, _)| is_it(whole)) {
            return Golden::read(whole, text.as_bytes());
        }
        match fs::read(name) {
            Ok(text) => Golden::read(name, &text),
            Err(error) => Err(format!(
                "--against {name}: {error}, and it is no command either; those are ADD_DEV, START_DEV, FETCH_REQ and so on"
            )),
        }
    }

    fn read(name: &str, text: &[u8]) -> Result<Golden, String> {
        let found = Entries::of(Dump::read(text));
        match found.entries.into_iter().next() {
            Some(entry) => Ok(Golden { name: name.to_owned(), entry }),
            None => Err(format!("--against {name}: there is no SQE in it")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{GOLDENS, Golden};

    #[test]
    fn every_golden_is_found_by_the_name_of_its_command() {
        for (name, _) in GOLDENS {
            let short = name.trim_start_matches("UBLK_U_CMD_").trim_start_matches("UBLK_U_IO_");
            for name in [name, short, short.to_ascii_lowercase().as_str()] {
                let golden = Golden::named(name).unwrap();
                assert!(matches!(golden.entry.bytes.len(), 64 | 128), "{name}");
            }
        }
        assert!(Golden::named("ADD_DEVICE").unwrap_err().contains("no command"));
    }
}
