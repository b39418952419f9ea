// SPDX-License-Identifier: MIT OR Apache-2.0
//! One line of a dump, a debug print or an initialiser.

use crate::explain::token::{Token, as_written, in_memory};

/// How many numbers a line has at least that says something beside them.
const LIST_AT_LEAST: usize = 16;

/// How often at most a number is repeated: an SQE has no more bytes.
const MOST_REPEATS: usize = 128;

/// What a line is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line<'l> {
    /// Nothing: it ends what was before.
    Blank,
    /// Nothing but a comment.
    Comment,
    /// `*`: the last row again, until the address of the next.
    Star,
    /// The title of a golden's entry, or of its buffer.
    Title(Part),
    /// Bytes behind their address.
    Row { address: &'l str, bytes: Vec<Option<u8>> },
    /// Numbers, and where a list of them ends; and what is among them and is none.
    List(Vec<Piece>, Option<&'l str>),
    /// Anything else; and what seems to be meant as a number.
    Text(Option<&'l str>),
}

/// What bytes are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Sqe,
    /// What the SQE before points to.
    Buffer,
}

/// A piece of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Number(Token),
    /// The number before, so many times in all.
    Repeat(usize),
    End,
}

impl Line<'_> {
    pub(super) fn read(line: &str) -> Line<'_> {
        let line = line.trim();
        if line.is_empty() {
            return Line::Blank;
        }
        if line == "*" {
            return Line::Star;
        }
        // What follows the bytes of a row as characters can look like a comment.
        if let Some(row) = behind_colon(line).or_else(|| before_bar(line)) {
            return row;
        }
        let line = without_comment(line).trim();
        match line.to_ascii_lowercase().trim_end_matches(':') {
            "" => return Line::Comment,
            "sqe" => return Line::Title(Part::Sqe),
            "buffer" => return Line::Title(Part::Buffer),
            _ => {}
        }
        behind_space(line).unwrap_or_else(|| list(line))
    }
}

/// `00000000: 2e00 0000  ....` of xxd, and `0x7ffe0000 <sqe+8>:  0x2e  0x00` of gdb.
fn behind_colon(line: &str) -> Option<Line<'_>> {
    // The name of a symbol may have colons.
    let symbol = line.split_once(">:").and_then(|(row, rest)| Some((row.split_once(" <")?.0, rest)));
    let (address, rest) = symbol.or_else(|| line.split_once(':'))?;
    let digits = address.strip_prefix("0x").unwrap_or(address);
    let least = if digits.len() < address.len() { 1 } else { 4 };
    if !is_address(digits, least) {
        return None;
    }
    let rest = rest.trim_start();
    let bytes = if rest.starts_with("0x") { gdb_words(rest)? } else { xxd_groups(rest)? };
    Some(Line::Row { address: digits, bytes })
}

/// Words that all have the digits of their width.
fn gdb_words(rest: &str) -> Option<Vec<Option<u8>>> {
    let mut bytes = Vec::new();
    let mut width = None;
    for word in rest.split_whitespace() {
        let digits = word.strip_prefix("0x")?;
        let own = match digits.len() {
            len @ (2 | 4 | 8 | 16) => len / 2,
            _ => return None,
        };
        if *width.get_or_insert(own) != own {
            return None;
        }
        bytes.extend(in_memory(u64::from_str_radix(digits, 16).ok()?, own).into_iter().map(Some));
    }
    Some(bytes)
}

/// Groups up to two spaces, behind which stand the characters.
fn xxd_groups(rest: &str) -> Option<Vec<Option<u8>>> {
    let (groups, characters) = rest.split_once("  ").unwrap_or((rest, ""));
    let mut bytes = Vec::new();
    let (mut first, mut equal) = (0, true);
    for group in groups.split(' ').filter(|group| !group.is_empty()) {
        if group == "??" {
            bytes.push(None);
            continue;
        }
        if group.len() % 2 != 0 || !group.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        if first == 0 {
            first = group.len();
        }
        equal &= first == group.len();
        bytes.extend(as_written(group).map(Some));
    }
    // `xxd -e` has words, as its characters show.
    let width = first / 2;
    if equal && matches!(width, 2 | 4 | 8) && !shows(&bytes, characters) {
        let mut words = bytes.clone();
        words.chunks_mut(width).for_each(<[_]>::reverse);
        if shows(&words, characters) {
            return Some(words);
        }
    }
    (!bytes.is_empty()).then_some(bytes)
}

/// Whether these are the characters that xxd prints for the bytes.
fn shows(bytes: &[Option<u8>], characters: &str) -> bool {
    let shown = |byte: &Option<u8>| byte.filter(|byte| (0x20..0x7f).contains(byte)).unwrap_or(b'.');
    let characters = characters.trim_start().as_bytes();
    !characters.is_empty() && bytes.iter().map(shown).zip(characters).all(|(byte, character)| byte == *character)
}

/// `00000000  2e 00 00 00  |....|` of hexdump -C, and the same with `>....<` of od -tx1z.
fn before_bar(line: &str) -> Option<Line<'_>> {
    let of_od = || line.split_once("  >").filter(|(_, characters)| characters.ends_with('<'));
    let (row, _) = line.split_once("  |").or_else(of_od)?;
    let mut words = row.split_whitespace();
    let address = words.next().filter(|word| is_address(word, 6))?;
    let bytes: Option<Vec<Option<u8>>> = words.map(pair).collect();
    bytes.filter(|bytes| !bytes.is_empty()).map(|bytes| Line::Row { address, bytes })
}

/// `0000000 002e 0000` of hexdump and od, and the rows of a golden.
fn behind_space(line: &str) -> Option<Line<'_>> {
    let mut words = line.split_whitespace();
    let address = words.next().filter(|word| is_address(word, 4))?;
    let is_set_off = line.get(address.len()..).is_some_and(|rest| rest.starts_with("  "));
    let width = words.clone().next()?.len();
    if address.len() < 6 && !is_set_off {
        return None;
    }
    let bytes: Option<Vec<Option<u8>>> = match width {
        2 => words.map(pair).collect(),
        // As long as the address it can be one of them.
        4 | 8 | 16 if address.len() >= 6 && address.len() != width => {
            let mut bytes = Vec::new();
            for word in words {
                if word.len() != width {
                    return None;
                }
                bytes.extend(in_memory(u64::from_str_radix(word, 16).ok()?, width / 2).into_iter().map(Some));
            }
            Some(bytes)
        }
        _ => None,
    };
    bytes.map(|bytes| Line::Row { address, bytes })
}

fn pair(word: &str) -> Option<Option<u8>> {
    match Token::pair(word)? {
        Token::Byte(byte) => Some(byte),
        Token::Digits { .. } => None,
    }
}

/// Whether it can be an address, of so many digits at least.
pub(super) fn is_address(word: &str, least: usize) -> bool {
    (least..=16).contains(&word.len()) && word.bytes().all(|digit| digit.is_ascii_hexdigit())
}

/// A line up to `#` or `//`.
fn without_comment(line: &str) -> &str {
    let end = [line.find('#'), line.find("//")].into_iter().flatten().min();
    end.and_then(|end| line.get(..end)).unwrap_or(line)
}

/// Numbers of a list, in brackets or without, with words before them or none.
fn list(line: &str) -> Line<'_> {
    let mut pieces = Vec::new();
    let mut has_words = false;
    let mut malformed = None;
    let mut segment = Segment::default();
    let mut at = line;
    loop {
        at = at.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '"' | '\''));
        at = at.strip_prefix("\\x").unwrap_or(at);
        if let Some(comment) = at.strip_prefix("/*") {
            at = comment.split_once("*/").map_or("", |(_, rest)| rest);
            continue;
        }
        let Some(first) = at.chars().next() else { break };
        if matches!(first, '[' | '{' | '(' | ']' | '}' | ')') {
            segment.bracket(matches!(first, '[' | '{' | '('));
            at = at.get(1..).unwrap_or("");
            continue;
        }
        if let Some((times, rest)) = repeats(at) {
            segment.repeat(times);
            at = rest;
            continue;
        }
        let end = at.find(|c: char| c.is_whitespace() || ",;\"'[]{}()\\".contains(c)).unwrap_or(at.len()).max(1);
        let (word, rest) = at.split_at_checked(end).unwrap_or((at, ""));
        if !segment.number(word) {
            if malformed.is_none() && (is_nearly_hex(word) || segment.numbers > 0 && is_short(word)) {
                malformed = Some(word);
            }
            segment.end_before_word(&mut pieces);
            has_words = true;
            pieces.push(Piece::End);
        }
        at = rest;
    }
    segment.end(has_words, &mut pieces);
    if pieces.iter().any(|piece| matches!(piece, Piece::Number(_))) || !has_words {
        Line::List(pieces, malformed)
    } else {
        Line::Text(malformed.filter(|word| is_nearly_hex(word)))
    }
}

/// Whether a word is as long as a byte or a small number, and can be one that was mistyped.
fn is_short(word: &str) -> bool {
    word.len() <= 4 && word.bytes().any(|digit| digit.is_ascii_hexdigit())
}

/// Whether it has many digits, and few characters that are none, or is one digit short of whole bytes.
fn is_nearly_hex(word: &str) -> bool {
    let others = word.chars().filter(|c| !c.is_ascii_hexdigit()).count();
    word.len() >= 32 && others * 8 <= word.len()
}

/// Numbers without a word between them.
#[derive(Debug, Default)]
struct Segment {
    pieces: Vec<Piece>,
    numbers: usize,
    /// The numbers behind the last bracket that opened, if it was not closed.
    open: Option<usize>,
    scratch: Vec<Token>,
}

impl Segment {
    fn bracket(&mut self, opens: bool) {
        self.pieces.push(Piece::End);
        self.open = opens.then_some(self.pieces.len());
    }

    /// Adds what a word comes to; `false` where it is no number.
    fn number(&mut self, word: &str) -> bool {
        self.scratch.clear();
        if Token::all_of(word, &mut self.scratch).is_none() {
            return false;
        }
        self.numbers += self.scratch.len();
        self.pieces.extend(self.scratch.drain(..).map(Piece::Number));
        true
    }

    /// The last number stands for so many.
    fn repeat(&mut self, times: usize) {
        if let Some(Piece::Number(_)) = self.pieces.last() {
            let times = times.min(MOST_REPEATS);
            self.numbers += times;
            self.pieces.push(Piece::Repeat(times));
        }
    }

    /// What stands before a word is a list if it is a long one.
    fn end_before_word(&mut self, pieces: &mut Vec<Piece>) {
        let ended = core::mem::take(self);
        if ended.numbers >= LIST_AT_LEAST {
            pieces.extend(ended.pieces);
        }
    }

    /// At the line's end it is one too if a bracket is open, and in a line without words whatever it is.
    fn end(self, has_words: bool, pieces: &mut Vec<Piece>) {
        if !has_words || self.numbers >= LIST_AT_LEAST {
            pieces.extend(self.pieces);
        } else if let Some(from) = self.open {
            pieces.extend(self.pieces.into_iter().skip(from));
        }
    }
}

/// `<repeats 15 times>` of gdb, and what follows it.
fn repeats(at: &str) -> Option<(usize, &str)> {
    let rest = at.strip_prefix("<repeats ")?;
    let digits = rest.bytes().take(9).take_while(u8::is_ascii_digit).count();
    let (times, rest) = rest.split_at_checked(digits)?;
    Some((times.parse().ok()?, rest.strip_prefix(" times>")?))
}
