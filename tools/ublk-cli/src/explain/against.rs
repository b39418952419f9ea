// SPDX-License-Identifier: MIT OR Apache-2.0
//! An entry and a golden, byte by byte.

use serde_json::{Value, json};
use ublk::Command;
use ublk::diagnosis::Sqe;

use crate::explain::Bytes;
use crate::explain::fields::Field;
use crate::explain::golden::Golden;

/// A range of bytes that differ within one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    /// Of the entry, or of the buffer.
    pub(super) is_in_buffer: bool,
    pub(super) field: String,
    pub(super) offset: usize,
    pub(super) golden: Bytes,
    pub(super) here: Bytes,
    /// Whether it is none that has to be.
    pub(super) may: bool,
}

impl Difference {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "part": if self.is_in_buffer { "buffer" } else { "sqe" },
            "field": self.field,
            "offset": self.offset,
            "golden": super::hex(&self.golden),
            "here": super::hex(&self.here),
            "expected": self.may,
        })
    }
}

/// What may differ in a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum May {
    /// Everything.
    Differ,
    /// Everything but whether it is zero.
    DifferIfNotZero,
    Nothing,
}

/// What differs of an entry and, where both have one, of its buffer.
pub(super) fn differences(
    golden: &Golden,
    sqe: &Sqe,
    entry: (&[Option<u8>], &[Field]),
    buffer: Option<(&[Option<u8>], &[Field])>,
) -> Vec<Difference> {
    let command = sqe.command();
    let mut all = part(&golden.entry.bytes, entry.0, entry.1, |name| of_entry(name, command), false);
    if let (Some(of_golden), Some((bytes, fields))) = (&golden.entry.buffer, buffer) {
        all.extend(part(of_golden, bytes, fields, |name| of_buffer(name, command), true));
    }
    all
}

fn part(
    golden: &[Option<u8>],
    here: &[Option<u8>],
    fields: &[Field],
    may: impl Fn(&str) -> May,
    is_in_buffer: bool,
) -> Vec<Difference> {
    let mut all = Vec::new();
    for field in fields {
        // What the golden does not have at all is behind its end.
        let of_golden = field.of(golden);
        let of_here = field.of(here);
        let rule = may(&field.name);
        let differs = |(golden, here): (&Option<u8>, &Option<u8>)| golden.is_some() && here.is_some() && golden != here;
        let mut at = of_golden.iter().zip(of_here).enumerate().filter(|(_, pair)| differs(*pair)).map(|(at, _)| at);
        let zero = |bytes: &[Option<u8>]| bytes.iter().all(|byte| *byte == Some(0));
        // An address that the golden does not give is one all the same.
        let zeroes_differ = zero(of_golden) != zero(of_here) && !of_golden.is_empty();
        let (first, last) = match (at.next(), at.next_back()) {
            (Some(first), last) => (first, last.unwrap_or(first)),
            (None, _) if rule == May::DifferIfNotZero && zeroes_differ => (0, field.len.saturating_sub(1)),
            (None, _) => continue,
        };
        let cut = |bytes: &[Option<u8>]| bytes.get(first..=last).unwrap_or(&[]).to_vec();
        all.push(Difference {
            is_in_buffer,
            field: field.name.clone(),
            offset: field.offset + first,
            golden: cut(of_golden),
            here: cut(of_here),
            may: match rule {
                May::Differ => true,
                May::DifferIfNotZero => !zeroes_differ,
                May::Nothing => false,
            },
        });
    }
    if golden.len() != here.len() && !is_in_buffer {
        all.push(Difference {
            is_in_buffer,
            field: "(length)".to_owned(),
            offset: golden.len().min(here.len()),
            golden: golden.get(here.len()..).unwrap_or(&[]).to_vec(),
            here: here.get(golden.len()..).unwrap_or(&[]).to_vec(),
            may: false,
        });
    }
    all
}

fn of_entry(name: &str, command: Option<Command>) -> May {
    match name {
        "fd" | "user_data" | "buf_group" | "cmd.dev_id" | "cmd.q_id" | "cmd.tag" | "cmd.result" => May::Differ,
        // The elements of a batch stand there; nothing else reads it but `UBLK_F_AUTO_BUF_REG`.
        "addr" => match command {
            Some(Command::PREP_IO_CMDS | Command::COMMIT_IO_CMDS) => May::DifferIfNotZero,
            _ => May::Differ,
        },
        // Nothing reads them.
        "len" | "buf_index" => May::Differ,
        // Looked at in ADD_DEV alone.
        "cmd.queue_id" if command != Some(Command::ADD_DEV) => May::Differ,
        "cmd.addr" => match command {
            Some(Command::REGISTER_IO_BUF | Command::UNREGISTER_IO_BUF) => May::Differ,
            _ => May::DifferIfNotZero,
        },
        "cmd.data" => match command {
            Some(Command::START_DEV | Command::END_USER_RECOVERY) => May::DifferIfNotZero,
            Some(Command::UPDATE_SIZE | Command::QUIESCE_DEV | Command::GET_QUEUE_AFFINITY | Command::UNREG_BUF) => {
                May::Differ
            }
            _ => May::Nothing,
        },
        "cmd.len" | "cmd.dev_path_len" | "cmd.nr_elem" => May::DifferIfNotZero,
        "cmd.flags" | "cmd.elem_bytes" if command != Some(Command::FETCH_IO_CMDS) => May::Differ,
        _ => May::Nothing,
    }
}

fn of_buffer(name: &str, command: Option<Command>) -> May {
    let is_answer = command.and_then(Command::name).is_some_and(|name| name.contains("_GET_"));
    match name {
        // What the driver writes there.
        _ if is_answer && name != "len" => May::Differ,
        "nr_hw_queues" | "queue_depth" | "max_io_buf_bytes" | "len" | "types" | "addr" => May::DifferIfNotZero,
        _ if name.ends_with(" buffer") => May::DifferIfNotZero,
        _ if name.contains("pad") || name.contains("reserved") || name.contains("hole") => May::Nothing,
        "state" => May::Nothing,
        _ => May::Differ,
    }
}

#[cfg(test)]
mod tests {
    use super::{Difference, differences};
    use crate::explain::fields::of_entry;
    use crate::explain::golden::Golden;
    use crate::explain::numbers::sqe_of;

    /// What differs from the golden of ADD_DEV once these bytes were written into it.
    fn with(changes: &[(usize, &[u8])]) -> Vec<(String, usize, bool)> {
        let golden = Golden::named("ADD_DEV").unwrap();
        let mut bytes = golden.entry.bytes.clone();
        for (at, new) in changes {
            bytes.splice(at..&(at + new.len()), new.iter().copied().map(Some));
        }
        let sqe = sqe_of(&bytes).unwrap();
        let fields = of_entry(sqe.command(), false, bytes.len());
        let found = differences(&golden, &sqe, (&bytes, &fields), None);
        found.into_iter().map(|Difference { field, offset, may, .. }| (field, offset, may)).collect()
    }

    #[test]
    fn a_golden_does_not_differ_from_itself() {
        assert_eq!(with(&[]), []);
        assert_eq!(with(&[(4, &[3, 0, 0, 0]), (32, &[9]), (56, &[0, 0, 1, 0, 0, 0, 0, 0])]), []);
    }

    #[test]
    fn what_names_one_run_may_differ_and_what_says_which_command_it_is_must_not() {
        assert_eq!(with(&[(48, &[0; 4])]), [("cmd.dev_id".to_owned(), 48, true)]);
        assert_eq!(with(&[(0, &[51])]), [("opcode".to_owned(), 0, false)]);
        assert_eq!(with(&[(13, &[1])]), [("__pad1".to_owned(), 13, false)]);
        assert_eq!(with(&[(100, &[1, 0, 2])]), [("(zero)".to_owned(), 100, false)]);
        assert_eq!(with(&[(54, &[80])]), [("cmd.len".to_owned(), 54, true)]);
    }

    #[test]
    fn an_address_or_a_length_that_is_zero_where_the_golden_has_one_is_wrong() {
        assert_eq!(with(&[(54, &[0])]), [("cmd.len".to_owned(), 54, false)]);
        assert_eq!(with(&[(56, &[0; 8])]), [("cmd.addr".to_owned(), 56, false)]);
    }
}
