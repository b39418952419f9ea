// SPDX-License-Identifier: MIT OR Apache-2.0
//! The text of a golden: the bytes of a command that a driver has accepted, some of which differ from run to run.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is wrong")]

use std::format;
use std::string::String;
use std::vec::Vec;

/// What is written for a byte that differs from run to run.
const VARIES: &str = "??";

/// A golden's bytes; `None` differs from run to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Golden {
    /// 128 or 64 bytes.
    pub sqe: Vec<Option<u8>>,
    /// What the command points to; empty where it points to nothing.
    pub buffer: Vec<Option<u8>>,
}

impl Golden {
    /// `sqe` and `buffer`, each alone on a line, open a part; a row is an offset and the bytes from there; `#` starts a comment.
    pub fn parse(text: &str) -> Golden {
        let mut golden = Golden::default();
        let mut part = None;
        for line in text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()) {
            match (line, &mut part) {
                ("", _) => {}
                ("sqe", _) => part = Some(&mut golden.sqe),
                ("buffer", _) => part = Some(&mut golden.buffer),
                (row, Some(bytes)) => {
                    let (at, row) = row.split_once(' ').unwrap();
                    assert_eq!(usize::from_str_radix(at, 16), Ok(bytes.len()), "{line}");
                    let byte = |byte| (byte != VARIES).then(|| u8::from_str_radix(byte, 16).unwrap());
                    bytes.extend(row.split_whitespace().map(byte));
                }
                (row, None) => panic!("{row:?} stands above `sqe` and `buffer`"),
            }
        }
        golden
    }

    /// The part `golden` with what differs from run to run as in `bytes`.
    pub fn filled(golden: &[Option<u8>], bytes: &[u8]) -> Vec<u8> {
        assert_eq!(golden.len(), bytes.len());
        golden.iter().zip(bytes).map(|(golden, byte)| golden.unwrap_or(*byte)).collect()
    }

    /// Compares all bytes that are the same in each run, and names the first that is not.
    pub fn compare(golden: &[Option<u8>], bytes: &[u8]) -> Result<(), String> {
        if golden.len() != bytes.len() {
            return Err(format!("{} bytes, and {} in the golden", bytes.len(), golden.len()));
        }
        let differing =
            golden.iter().zip(bytes).enumerate().find(|(_, (golden, byte))| golden.is_some_and(|it| it != **byte));
        match differing {
            Some((at, (golden, byte))) => Err(format!("byte {at} is {byte:02x}, and {golden:02x?} in the golden")),
            None => Ok(()),
        }
    }
}

/// A part of a golden as text: its rows.
pub fn rows(bytes: &[Option<u8>]) -> String {
    let mut text = String::new();
    for (row, bytes) in bytes.chunks(16).enumerate() {
        text += &format!("{:04x} ", row * 16);
        for byte in bytes {
            text += &byte.map_or_else(|| format!(" {VARIES}"), |byte| format!(" {byte:02x}"));
        }
        text += "\n";
    }
    text
}
