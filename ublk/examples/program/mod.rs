// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the examples have in common as programs: how they are called, and how they end.

use std::env::Args;
use std::iter::Skip;
use std::process::ExitCode;

/// Reads the options and does the work. 2 is for options that are none.
pub(crate) fn run<O>(
    name: &str,
    usage: &str,
    parse: impl FnOnce(Skip<Args>) -> Result<O, String>,
    work: impl FnOnce(&O) -> Result<(), String>,
) -> ExitCode {
    let arguments = || std::env::args().skip(1);
    if arguments().any(|argument| argument == "--help" || argument == "-h") {
        print!("{usage}");
        return ExitCode::SUCCESS;
    }
    let options = match parse(arguments()) {
        Ok(options) => options,
        Err(error) => {
            eprint!("{name}: {error}\n{usage}");
            return ExitCode::from(2);
        }
    };
    match work(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A number of bytes as options have it, with K, M, G or T behind it for powers of 1024.
pub(crate) fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(['K', 'M', 'G', 'T', 'k', 'm', 'g', 't']);
    let factor: u64 = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        "T" => 1 << 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}
