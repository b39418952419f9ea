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
    let (error, usage, status) = match parse(arguments()) {
        Ok(options) => match work(&options) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(error) => (error, "", 1),
        },
        Err(error) => (error, usage, 2),
    };
    eprint!("{name}: {error}\n{usage}");
    ExitCode::from(status)
}

/// A number of bytes as options have it, with K, M, G or T behind it for powers of 1024.
pub(crate) fn parse_bytes(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()?.to_ascii_uppercase() {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        b'T' => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}
