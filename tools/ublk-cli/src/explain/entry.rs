// SPDX-License-Identifier: MIT OR Apache-2.0
//! The submission queue entries of an input.

use ublk::diagnosis::Sqe;

use crate::explain::dump::{Dump, Run};
use crate::explain::line::Part;
use crate::explain::{Bytes, filled, plural};

const PLAIN: usize = 64;
const WIDE: usize = 128;

/// One entry, and what it points to where that stands behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// The line that it starts in; 0 where it is in none.
    pub(super) line: usize,
    /// 64 or 128; `None` differs from run to run.
    pub(super) bytes: Bytes,
    pub(super) buffer: Option<Bytes>,
}

/// The entries, and a sentence for all that is none.
#[derive(Clone, Debug, Default)]
pub(super) struct Entries {
    pub(super) entries: Vec<Entry>,
    pub(super) complaints: Vec<String>,
    /// How many slots of a ring have nothing in them.
    pub(super) empty_slots: usize,
}

impl Entries {
    pub(super) fn of(dump: Dump) -> Entries {
        let mut all = Entries::default();
        let mut is_behind_entry = false;
        for run in dump.runs {
            match run.part {
                Part::Buffer => match all.entries.last_mut().filter(|_| is_behind_entry) {
                    Some(entry) => entry.buffer = Some(run.bytes),
                    None => all.complaints.push(format!("{}: a buffer without its SQE before it", place(run.line))),
                },
                Part::Sqe => is_behind_entry = all.take(&run),
            }
        }
        all
    }

    /// Adds what a run has; `false` where it has nothing.
    fn take(&mut self, run: &Run) -> bool {
        let count = run.bytes.len();
        let mut entries: Vec<&[Option<u8>]> = Vec::new();
        let mut left = run.bytes.as_slice();
        while let Some((first, rest)) = left.split_at_checked(PLAIN) {
            let is_wide = rest.len() >= PLAIN && !is_command(rest);
            let (entry, rest) = left.split_at_checked(if is_wide { WIDE } else { PLAIN }).unwrap_or((first, rest));
            entries.push(entry);
            left = rest;
        }
        let commands = entries.iter().filter(|entry| resembles_command(entry)).count();
        let used = entries.iter().filter(|entry| !is_empty(entry)).count();
        if !left.is_empty() || entries.is_empty() {
            let what = plural(count, "byte");
            self.complaints.push(format!(
                "{}: {what}, and an SQE has 64 or 128{}",
                place(run.line),
                advice(count, run)
            ));
            return false;
        }
        // Of a few bytes anything can be explained. Of many, some have to be what they are said to be.
        if count > WIDE && commands * 8 < used.max(1) {
            self.complaints.push(format!(
                "{}: {}, of which few or none could be commands to ublk, so they are no SQEs",
                place(run.line),
                plural(count, "byte")
            ));
            return false;
        }
        if used > 0 {
            self.empty_slots += entries.len() - used;
            entries.retain(|entry| !is_empty(entry));
        }
        let made = |bytes: &[Option<u8>]| Entry { line: run.line, bytes: bytes.to_vec(), buffer: None };
        self.entries.extend(entries.into_iter().map(made));
        true
    }
}

fn advice(count: usize, run: &Run) -> &'static str {
    match count {
        16 => "; the 16 bytes of a struct ublksrv_io_cmd alone are given with --io-cmd",
        // The smallest and the largest `struct ublk_params` there were, and those whose third word says that they are one.
        72 | 80 | 112 | 136 | 152 if run.bytes.first() == Some(&u8::try_from(count).ok()) => {
            "; a struct ublk_params alone is given with --params"
        }
        WIDE.. => "; a blank line has to end each",
        _ => "",
    }
}

/// Where a run starts.
pub(super) fn place(line: usize) -> String {
    if line == 0 { "the input".to_owned() } else { format!("line {line}") }
}

fn is_empty(bytes: &[Option<u8>]) -> bool {
    bytes.iter().all(|byte| *byte == Some(0))
}

/// Whether it is a whole command in the encoding of today, which what stands behind the first 64 bytes of a wide entry never is.
fn is_command(bytes: &[Option<u8>]) -> bool {
    resembles_command(bytes) && bytes.first() != Some(&Some(0)) && bytes.get(9) == Some(&Some(b'u'))
}

/// Whether `cmd_op` is a command of ublk's, in any encoding.
fn resembles_command(bytes: &[Option<u8>]) -> bool {
    let filled = filled(bytes.get(..PLAIN).unwrap_or(bytes));
    Sqe::from_bytes(&filled).is_some_and(|sqe| {
        let [_, kind, size, high] = sqe.cmd_op().to_le_bytes();
        sqe.command().is_some() && (kind == b'u' || [kind, size, high] == [0; 3])
    })
}

#[cfg(test)]
mod tests {
    use super::{Entries, PLAIN, WIDE};
    use crate::explain::dump::{Dump, Run};
    use crate::explain::line::Part;

    fn entry(number: u8, len: usize) -> Vec<u8> {
        let head = [&[46, 0, 0, 0, 0, 0, 0, 0][..], &(0xc010_7500_u32 | u32::from(number)).to_le_bytes()].concat();
        head.into_iter().chain(core::iter::repeat(0)).take(len).collect()
    }

    fn of(bytes: &[u8]) -> Entries {
        let bytes = bytes.iter().copied().map(Some).collect();
        Entries::of(Dump { runs: vec![Run { line: 1, part: Part::Sqe, bytes }], longest_left_out: 0 })
    }

    fn lengths(bytes: &[u8]) -> Vec<usize> {
        of(bytes).entries.iter().map(|entry| entry.bytes.len()).collect()
    }

    #[test]
    fn a_run_is_cut_into_entries_of_64_bytes_where_a_command_starts_there() {
        let (plain, wide) = (entry(0x20, PLAIN), entry(4, WIDE));
        assert_eq!(lengths(&plain), [64]);
        assert_eq!(lengths(&wide), [128]);
        assert_eq!(lengths(&[plain.as_slice(), &plain].concat()), [64, 64]);
        assert_eq!(lengths(&[wide.as_slice(), &plain, &wide].concat()), [128, 64, 128]);
    }

    #[test]
    fn slots_with_nothing_in_them_are_left_out_beside_others() {
        let ring = [vec![0; PLAIN], entry(0x20, PLAIN), vec![0; WIDE]].concat();
        let found = of(&ring);
        assert_eq!((found.entries.len(), found.empty_slots), (1, 2));
        assert_eq!(lengths(&[0; WIDE]), [128]);
    }

    #[test]
    fn what_has_another_length_or_is_noise_is_no_entry() {
        for len in [1, 63, 65, 127, 129] {
            let found = of(&vec![1; len]);
            assert_eq!((found.entries.len(), found.complaints.len()), (0, 1), "{len}");
            assert!(found.complaints.concat().contains("64 or 128"), "{:?}", found.complaints);
        }
        let noise: Vec<u8> = (0..64 * 100_u32).map(|i| u8::try_from(i * 37 % 251).unwrap()).collect();
        assert!(of(&noise).entries.is_empty());
    }
}
