// SPDX-License-Identifier: MIT OR Apache-2.0
//! Numbers as a dump has them, and the bytes that they come to.

use crate::explain::Bytes;

/// One number of a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A byte; `None` is one that is written `??`.
    Byte(Option<u8>),
    /// Digits of which only all that stand beside them tell what they are.
    Digits {
        /// They as hexadecimal ones.
        value: u64,
        /// How many, 16 at most.
        count: u8,
        /// Whether `0x` stands before them.
        prefixed: bool,
    },
}

impl Token {
    /// One or two digits that are known to be hexadecimal, or `??`.
    pub(super) fn pair(word: &str) -> Option<Token> {
        match word {
            "??" => Some(Token::Byte(None)),
            _ if word.len() == 2 && is_hex(word) => Some(Token::Byte(u8::from_str_radix(word, 16).ok())),
            _ => None,
        }
    }

    /// The numbers that a word comes to: one, or of more than 16 digits as many bytes as it has pairs of them. `None` where it is
    /// no number.
    pub(super) fn all_of(word: &str, into: &mut Vec<Token>) -> Option<()> {
        if word == "??" {
            into.push(Token::Byte(None));
            return Some(());
        }
        if let Some(number) = word.parse::<i8>().ok().filter(|number| *number < 0) {
            into.push(Token::Byte(number.to_ne_bytes().first().copied()));
            return Some(());
        }
        let bare = word.strip_suffix("u8").unwrap_or(word);
        let prefix = bare.strip_prefix("0x").or_else(|| bare.strip_prefix("0X"));
        let digits = prefix.unwrap_or(bare);
        if !is_hex(digits) {
            let pairs = || word.split(':');
            let is_joined = pairs().count() >= 16 && pairs().all(|pair| pair.len() == 2 && is_hex(pair));
            return is_joined.then(|| into.extend(pairs().filter_map(Token::pair)));
        }
        match u8::try_from(digits.len()) {
            Ok(count @ 1..=16) => {
                let value = u64::from_str_radix(digits, 16).ok()?;
                into.push(Token::Digits { value, count, prefixed: prefix.is_some() });
                Some(())
            }
            _ if digits.len() % 2 == 0 => {
                into.extend(as_written(digits).map(|byte| Token::Byte(Some(byte))));
                Some(())
            }
            _ => None,
        }
    }
}

fn is_hex(digits: &str) -> bool {
    !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
}

/// The bytes of an even number of hexadecimal digits, in the order in which they stand.
pub(super) fn as_written(digits: &str) -> impl Iterator<Item = u8> + '_ {
    let value = |digit: u8| u8::try_from(char::from(digit).to_digit(16).unwrap_or(0)).unwrap_or(0);
    digits.as_bytes().chunks_exact(2).map(move |pair| pair.iter().fold(0, |byte: u8, digit| byte << 4 | value(*digit)))
}

/// The bytes of a word of 1, 2, 4 or 8 bytes, as they stand in this machine's memory.
pub(super) fn in_memory(value: u64, width: usize) -> Vec<u8> {
    let bytes = value.to_ne_bytes();
    let from = if cfg!(target_endian = "little") { 0 } else { bytes.len().saturating_sub(width) };
    bytes.into_iter().skip(from).take(width).collect()
}

/// What all numbers of a run come to; `None` where they are no bytes and no words of one width.
pub(super) fn bytes_of(tokens: &[Token]) -> Option<Bytes> {
    let digits = || {
        tokens.iter().filter_map(|token| match *token {
            Token::Digits { value, count, prefixed } => Some((value, count, prefixed)),
            Token::Byte(_) => None,
        })
    };
    let is_prefixed = digits().any(|(.., prefixed)| prefixed);
    let all_even = digits().all(|(_, count, _)| count % 2 == 0);
    if !is_prefixed && all_even {
        return Some(written(tokens));
    }
    // Debug prints without `0x`, of which one hexadecimal digit above 9 tells that all are.
    let is_hex = |value: u64| decimal(value).is_none();
    let bare_are_hex = digits().any(|(value, _, prefixed)| !prefixed && is_hex(value));
    let number = |value: u64, prefixed: bool| if prefixed || bare_are_hex { Some(value) } else { decimal(value) };
    let most = digits().filter_map(|(value, _, prefixed)| number(value, prefixed)).max()?;
    let padded = is_prefixed.then(|| same(digits().filter(|it| it.2).map(|it| it.1))).flatten();
    let padded = padded.filter(|digits| [2, 4, 8, 16].contains(digits)).map(|digits| usize::from(digits / 2));
    let width = padded.filter(|width| fits(most, *width)).unwrap_or_else(|| narrowest(most, tokens.len()));
    let mut bytes = Bytes::new();
    for token in tokens {
        match *token {
            Token::Byte(byte) => bytes.push(byte),
            Token::Digits { value, prefixed, .. } => {
                let value = number(value, prefixed)?;
                if !fits(value, width) {
                    return None;
                }
                bytes.extend(in_memory(value, width).into_iter().map(Some));
            }
        }
    }
    Some(bytes)
}

/// Bytes in the order in which their digits stand; words, if only so they are a command.
fn written(tokens: &[Token]) -> Bytes {
    let read = |in_memory_order: bool| -> Bytes {
        let mut bytes = Bytes::new();
        for token in tokens {
            match *token {
                Token::Byte(byte) => bytes.push(byte),
                Token::Digits { value, count, .. } => {
                    let width = usize::from(count / 2);
                    let mut word = in_memory(value, width);
                    if in_memory_order != cfg!(target_endian = "little") {
                        word.reverse();
                    }
                    bytes.extend(word.into_iter().map(Some));
                }
            }
        }
        bytes
    };
    let is_command =
        |bytes: &Bytes| matches!((bytes.first(), bytes.get(9)), (Some(Some(46 | 64)), Some(Some(0 | b'u'))));
    let written = read(false);
    if is_command(&written) {
        return written;
    }
    let words = read(true);
    if is_command(&words) { words } else { written }
}

/// Hexadecimal digits read as decimal ones, if they can be.
fn decimal(hexadecimal: u64) -> Option<u64> {
    let mut value: u64 = 0;
    for shift in (0..64_u32).step_by(4).rev() {
        let digit = hexadecimal >> shift & 15;
        if digit > 9 {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(digit)?;
    }
    Some(value)
}

/// What all are, if they are the same.
fn same(mut counts: impl Iterator<Item = u8>) -> Option<u8> {
    let first = counts.next()?;
    counts.all(|other| other == first).then_some(first)
}

/// Whether a word of so many bytes can have the value.
fn fits(value: u64, width: usize) -> bool {
    width >= 8 || value >> (8 * width) == 0
}

/// The fewest bytes that a word of the largest value can have, or if only with more the words come to whole entries, those.
fn narrowest(most: u64, count: usize) -> usize {
    let widths = || [1, 2, 4, 8].into_iter().filter(|width| fits(most, *width));
    let least = widths().next().unwrap_or(8);
    if least == 1 {
        return 1;
    }
    widths().find(|width| count.checked_mul(*width).is_some_and(|bytes| bytes % 64 == 0)).unwrap_or(least)
}

#[cfg(test)]
mod tests {
    use super::{Token, bytes_of};

    fn read(text: &str) -> Option<Vec<u8>> {
        let mut tokens = Vec::new();
        for word in text.split_whitespace() {
            Token::all_of(word, &mut tokens)?;
        }
        bytes_of(&tokens)?.into_iter().collect()
    }

    #[test]
    fn all_numbers_beside_each_other_tell_what_each_of_them_is() {
        // Pairs are hexadecimal bytes.
        assert_eq!(read("46 10 00"), Some(vec![0x46, 0x10, 0]));
        // Of unequal lengths they are decimal, unless one of them cannot be.
        assert_eq!(read("46 0 192"), Some(vec![46, 0, 192]));
        assert_eq!(read("46 0 c0"), Some(vec![0x46, 0, 0xc0]));
        assert_eq!(read("46 0 -64"), Some(vec![46, 0, 0xc0]));
        // Beside a 0x a number without one is decimal.
        assert_eq!(read("0x2e 0 10"), Some(vec![0x2e, 0, 10]));
        // Of one length, words are padded, and as wide as their digits say.
        assert_eq!(read("0x002e 0x0000"), Some([0x2e_u16.to_ne_bytes(), [0; 2]].concat()));
        assert_eq!(read("2e000000 030000"), Some(vec![0x2e, 0, 0, 0, 3, 0, 0]));
        assert_eq!(read("0x2e 256"), Some([0x2e_u16.to_ne_bytes(), 256_u16.to_ne_bytes()].concat()));
    }

    #[test]
    fn words_that_are_a_command_only_in_the_order_of_memory_are_read_so() {
        let words = "0000002e 00000003 c0207504 00000000";
        let bytes = [0x2e_u32, 3, 0xc020_7504, 0].map(u32::to_ne_bytes).concat();
        assert_eq!(read(words), Some(bytes.clone()));
        assert_eq!(read("2e000000 03000000 047520c0 00000000"), Some(bytes));
    }

    #[test]
    fn words_without_zeroes_before_them_are_as_wide_as_makes_whole_entries() {
        // 16 words, of which the largest would fit 4 bytes.
        let words: String = (0..16_u32).map(|word| format!("0x{:x} ", word << 20)).collect();
        assert_eq!(read(&words).map(|bytes| bytes.len()), Some(64));
        let words: String = (0..8_u32).map(|word| format!("0x{:x} ", word << 20)).collect();
        assert_eq!(read(&words).map(|bytes| bytes.len()), Some(64));
    }

    #[test]
    fn what_is_no_number_is_none() {
        for word in ["", "sqe", "0x", "-129", "--1", "1.5", "12:30", "0x123g", &"1".repeat(17)] {
            let mut tokens = Vec::new();
            assert_eq!(Token::all_of(word, &mut tokens), None, "{word}");
            assert!(tokens.is_empty(), "{word}");
        }
    }
}
