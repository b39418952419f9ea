// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bytes in the shapes that people have them in: runs of them, as the lines of an input give them.

use std::borrow::Cow;

use crate::explain::Bytes;
use crate::explain::line::{Line, Part, Piece};
use crate::explain::token::{self, Token};

/// What is shorter is a number in a text, and not the bytes of anything.
const SHORTEST: usize = 16;

/// The most bytes that a `*` can stand for.
const LONGEST_REPEAT: u64 = 1 << 16;

/// The most bytes that all `*` and all repetitions together can stand for.
const MOST_REPEATED: usize = 1 << 20;

/// Bytes that stand together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The line that it starts in, from 1; 0 of bytes that are no text.
    pub(super) line: usize,
    pub(super) part: Part,
    pub(super) bytes: Bytes,
}

/// An input as far as it is bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Dump {
    pub(super) runs: Vec<Run>,
    /// The longest of those too short to be looked at.
    pub(super) longest_left_out: usize,
    /// What seems to be meant as bytes and is none, with its line.
    pub(super) malformed: Option<String>,
}

impl Dump {
    /// The runs of an input. What is no text is one run: the bytes themselves.
    pub(super) fn read(input: &[u8]) -> Dump {
        let Some(text) = as_text(input) else {
            let bytes = input.iter().copied().map(Some).collect();
            return Dump { runs: vec![Run { line: 0, part: Part::Sqe, bytes }], ..Dump::default() };
        };
        let mut reader = Reader::default();
        for (number, line) in text.lines().enumerate() {
            reader.take(number + 1, Line::read(line));
        }
        reader.end_run();
        reader.dump
    }
}

/// The text that an input is, without what a terminal takes for colours; `None` where it is none.
pub(super) fn as_text(input: &[u8]) -> Option<Cow<'_, str>> {
    let is_of_text = |byte: &u8| *byte >= b' ' || matches!(byte, b'\t' | b'\n' | b'\r' | 0x0b | 0x0c | 0x1b | 0x08);
    let text = core::str::from_utf8(input).ok().filter(|text| text.as_bytes().iter().all(is_of_text))?;
    if !text.contains('\u{1b}') {
        return Some(text.into());
    }
    let mut plain = String::with_capacity(text.len());
    let mut parts = text.split('\u{1b}');
    plain.push_str(parts.next().unwrap_or(""));
    for part in parts {
        // `ESC [ 3 1 m`
        let parameters = |c: char| c.is_ascii_digit() || c == ';';
        let sequence = part.strip_prefix('[').map(|rest| rest.trim_start_matches(parameters));
        plain.push_str(sequence.map_or(part, |rest| rest.get(1..).unwrap_or("")));
    }
    Some(plain.into())
}

/// The run that is being read.
#[derive(Debug)]
struct Open {
    line: usize,
    tokens: Vec<Token>,
    /// The last row, where rows have addresses.
    row: Option<Row>,
    /// How many numbers stand in the last line, and whether that is repeated.
    last: usize,
    repeats: bool,
}

#[derive(Debug)]
struct Row {
    address: Address,
    /// In what the addresses of the run are written, once two of them have shown it.
    radix: Option<u32>,
    bytes: Vec<Option<u8>>,
}

/// What is tried, in this order.
const RADIXES: [u32; 3] = [16, 8, 10];

/// What an address is in each of [`RADIXES`].
#[derive(Clone, Copy, Debug)]
struct Address([Option<u64>; 3]);

impl Address {
    fn read(digits: &str) -> Address {
        Address(RADIXES.map(|radix| u64::from_str_radix(digits, radix).ok()))
    }

    fn distance(&self, to: &Address, radix: u32) -> Option<u64> {
        let at = RADIXES.iter().position(|other| *other == radix)?;
        let value = |address: &Address| address.0.get(at).copied().flatten();
        value(to)?.checked_sub(value(self)?)
    }
}

impl Row {
    /// How many bytes are between this row and what is at `next`, repetitions of this one; `None` where that does not go on.
    fn gap(&mut self, next: &Address, repeats: bool) -> Option<usize> {
        let own = u64::try_from(self.bytes.len()).ok()?;
        let radixes = RADIXES.into_iter().filter(|radix| self.radix.is_none_or(|known| known == *radix));
        let gaps = radixes.filter_map(|radix| Some((radix, self.address.distance(next, radix)?.checked_sub(own)?)));
        let (radix, gap) = gaps.into_iter().find(|(_, gap)| {
            *gap == 0 || repeats && *gap <= LONGEST_REPEAT && gap.checked_rem(own).is_some_and(|rest| rest == 0)
        })?;
        self.radix = Some(radix);
        usize::try_from(gap).ok()
    }
}

#[derive(Debug, Default)]
struct Reader {
    dump: Dump,
    open: Option<Open>,
    part: Option<Part>,
    repeated: usize,
}

impl Reader {
    fn take(&mut self, number: usize, line: Line<'_>) {
        match line {
            Line::Comment => {}
            Line::Blank => self.end_run(),
            Line::Text(malformed) => {
                self.malformed(number, malformed);
                self.end_run();
            }
            Line::Star => {
                if let Some(open) = self.open.as_mut() {
                    open.repeats = true;
                }
            }
            Line::Title(part) => {
                self.end_run();
                self.part = Some(part);
            }
            Line::Row { address, bytes } => self.row(number, Address::read(address), bytes),
            Line::List(pieces, malformed) => {
                self.malformed(number, malformed);
                let is_address = self.last_address(&pieces);
                if let Some(address) = is_address {
                    self.fill(&address);
                    return self.end_run();
                }
                if self.open.as_ref().is_some_and(|open| open.row.is_some() || open.repeats) {
                    self.end_run();
                }
                let mut count = 0;
                for piece in pieces {
                    match piece {
                        Piece::End => self.end_run(),
                        Piece::Repeat(times) => self.repeat(times.saturating_sub(1)),
                        Piece::Number(token) => {
                            count += 1;
                            let open = self.open(number);
                            open.tokens.push(token);
                            open.last = count;
                        }
                    }
                }
            }
        }
    }

    /// The last number so many times more.
    fn repeat(&mut self, more: usize) {
        self.repeated = self.repeated.saturating_add(more);
        let Some(open) = self.open.as_mut().filter(|_| self.repeated <= MOST_REPEATED) else { return };
        if let Some(last) = open.tokens.last().copied() {
            open.tokens.extend(core::iter::repeat_n(last, more));
        }
    }

    /// Keeps the first word that is no number.
    fn malformed(&mut self, line: usize, word: Option<&str>) {
        let Some(word) = word.filter(|_| self.dump.malformed.is_none()) else { return };
        let digits = word.strip_prefix("0x").unwrap_or(word);
        self.dump.malformed = Some(match digits.chars().position(|c| !c.is_ascii_hexdigit()) {
            Some(at) if digits.len() > 16 => {
                let character = digits.chars().nth(at).unwrap_or('?');
                format!("line {line} has {character:?} behind {at} hexadecimal digits")
            }
            None if digits.len() > 16 => format!("line {line} has {} hexadecimal digits, an odd number", digits.len()),
            _ => format!("line {line} has {word:?} among its numbers"),
        });
    }

    /// Behind rows the address of their end stands alone.
    fn last_address(&self, pieces: &[Piece]) -> Option<Address> {
        self.open.as_ref()?.row.as_ref()?;
        match pieces {
            [Piece::Number(Token::Digits { value, count: 6..=16, .. })] => Some(Address::read(&format!("{value:x}"))),
            _ => None,
        }
    }

    fn open(&mut self, line: usize) -> &mut Open {
        self.open.get_or_insert_with(|| Open { line, tokens: Vec::new(), row: None, last: 0, repeats: false })
    }

    fn row(&mut self, number: usize, address: Address, bytes: Vec<Option<u8>>) {
        let radix = self.fill(&address);
        if radix.is_none() {
            self.end_run();
        }
        let open = self.open(number);
        open.tokens.extend(bytes.iter().copied().map(Token::Byte));
        open.last = bytes.len();
        open.repeats = false;
        open.row = Some(Row { address, radix: radix.flatten(), bytes });
    }

    /// Repeats the last row up to an address, if that goes on from it; returns in what addresses are written.
    fn fill(&mut self, next: &Address) -> Option<Option<u32>> {
        let open = self.open.as_mut()?;
        let row = open.row.as_mut()?;
        let gap = row.gap(next, open.repeats)?;
        self.repeated = self.repeated.saturating_add(gap);
        if self.repeated > MOST_REPEATED {
            return None;
        }
        open.tokens.extend(row.bytes.iter().copied().map(Token::Byte).cycle().take(gap));
        open.repeats = false;
        Some(row.radix)
    }

    fn end_run(&mut self) {
        let Some(Open { line, mut tokens, last, repeats, .. }) = self.open.take() else { return };
        if repeats {
            repeat_to_end(&mut tokens, last);
        }
        let part = self.part.unwrap_or(Part::Sqe);
        match token::bytes_of(&tokens) {
            Some(bytes) if bytes.len() >= SHORTEST || part == Part::Buffer => {
                self.dump.runs.push(Run { line, part, bytes });
                self.part = None;
            }
            bytes => {
                let len = bytes.map_or(0, |bytes| bytes.len());
                self.dump.longest_left_out = self.dump.longest_left_out.max(len);
            }
        }
    }
}

/// What is repeated with no address behind it goes on to the end of an entry.
fn repeat_to_end(tokens: &mut Vec<Token>, last: usize) {
    /// Bytes of the shorter entry.
    const PLAIN: usize = 64;
    // Only of bytes is it known how long an entry is.
    let is_bytes = |token: &Token| matches!(token, Token::Byte(_) | Token::Digits { count: 2, prefixed: false, .. });
    if last == 0 || tokens.len() >= 2 * PLAIN || !tokens.iter().all(is_bytes) {
        return;
    }
    // Commands for I/O have the numbers from 0x20 on.
    let is_io = match tokens.get(8) {
        Some(Token::Byte(Some(number))) => *number >= 0x20,
        Some(Token::Digits { value, .. }) => *value >= 0x20,
        _ => false,
    };
    let end = if is_io && tokens.len() < PLAIN { PLAIN } else { 2 * PLAIN };
    let row: Vec<Token> = tokens.iter().copied().skip(tokens.len().saturating_sub(last)).collect();
    let missing = end - tokens.len();
    if missing % row.len() == 0 {
        tokens.extend(row.into_iter().cycle().take(missing));
    }
}
