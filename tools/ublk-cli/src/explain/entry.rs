// SPDX-License-Identifier: MIT OR Apache-2.0
//! The submission queue entries of an input.

use ublk::diagnosis::Sqe;

use crate::explain::dump::{Dump, Run};
use crate::explain::line::Part;
use crate::explain::{Bytes, filled, opcode, plural};

const PLAIN: usize = 64;
const WIDE: usize = 128;

/// So many are explained at once: as many as a queue of ublk's has tags.
const MOST: usize = 4096;

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
        let malformed = dump.malformed.map(|malformed| format!("; {malformed}")).unwrap_or_default();
        let mut is_behind_entry = false;
        for run in dump.runs {
            match run.part {
                Part::Buffer => match all.entries.last_mut().filter(|_| is_behind_entry) {
                    Some(entry) => entry.buffer = Some(run.bytes),
                    None => all.complaints.push(format!("{}: a buffer without its SQE before it", place(run.line))),
                },
                Part::Sqe => is_behind_entry = all.take(&run, &malformed),
            }
        }
        all.without_noise()
    }

    /// What is wrong once can be wrong many times: then not all is said. Of bytes that resemble nothing little is to be said.
    fn without_noise(mut self) -> Entries {
        /// So many things are named.
        const NAMED: usize = 8;
        let resembling = self.entries.iter().filter(|entry| is_plausible(&entry.bytes)).count();
        let count = self.entries.len();
        let others = self.complaints.len().saturating_sub(NAMED);
        if count > 2 && are_noise(resembling, count) || count == 0 && others > 0 {
            let first = self.complaints.first().map(|first| format!("; {first}")).unwrap_or_default();
            let places = plural(count + self.complaints.len(), "place");
            self.entries.clear();
            self.complaints =
                vec![format!("the input has bytes in {places}, and none could be a command to ublk{first}")];
            return self;
        }
        if others > 0 {
            self.complaints.truncate(NAMED);
            self.complaints.push(format!("and {others} more"));
        }
        if count > MOST {
            self.entries.truncate(MOST);
            self.complaints.push(format!("of {} the first {MOST} are explained", plural(count, "SQE")));
        }
        self
    }

    /// Adds what a run has; `false` where it has nothing.
    fn take(&mut self, run: &Run, malformed: &str) -> bool {
        let count = run.bytes.len();
        let mut entries: Vec<&[Option<u8>]> = Vec::new();
        let mut left = run.bytes.as_slice();
        while let Some((first, rest)) = left.split_at_checked(PLAIN) {
            let is_wide = rest.len() >= PLAIN && !is_command(rest);
            let (entry, rest) = left.split_at_checked(if is_wide { WIDE } else { PLAIN }).unwrap_or((first, rest));
            entries.push(entry);
            left = rest;
        }
        let commands = entries.iter().filter(|entry| is_plausible(entry)).count();
        let used = entries.iter().filter(|entry| !is_empty(entry)).count();
        if !left.is_empty() || entries.is_empty() {
            let (what, advice) = (plural(count, "byte"), advice(run));
            let place = place(run.line);
            self.complaints.push(format!("{place}: {what}, and an SQE has 64 or 128{malformed}{advice}"));
            return false;
        }
        if count == PLAIN && resembles_buffer(&run.bytes) {
            let place = place(run.line);
            self.complaints.push(format!("{place}: these 64 bytes are no SQE{}", advice(run)));
            return false;
        }
        // Of a few bytes anything can be explained. Of many, some have to be what they are said to be.
        if count > WIDE && are_noise(commands, used) {
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

/// Whether of so many entries too few resemble commands: there are others in a server's ring, but not as many.
fn are_noise(resembling: usize, count: usize) -> bool {
    resembling * 8 < count.max(1)
}

/// With what bytes are given that are no SQE.
fn advice(run: &Run) -> &'static str {
    match run.bytes.len() {
        16 => "; the 16 bytes of a struct ublksrv_io_cmd alone are given with --io-cmd",
        17..=WIDE if resembles_buffer(&run.bytes) => {
            "; a struct ublksrv_ctrl_dev_info alone is given with --dev-info, and a struct ublk_params with --params"
        }
        136 | 152 => "; a struct ublk_params alone is given with --params",
        129.. => "; where they are several, a blank line has to stand behind each",
        _ => "",
    }
}

/// Whether it can be a device info, or parameters: an SQE has nothing in common with both.
fn resembles_buffer(bytes: &[Option<u8>]) -> bool {
    let number = |at: usize| match bytes.get(at..at + 2) {
        Some([Some(low), Some(high)]) => Some(u16::from_ne_bytes([*low, *high])),
        _ => None,
    };
    let is_len = || number(0).map(usize::from) == Some(bytes.len()) && number(2) == Some(0);
    let is_count = |at| number(at).is_some_and(|count| (1..=4096).contains(&count));
    let is_info = || is_count(0) && (is_count(2) || is_count(4)) && number(20) == Some(0);
    !resembles_command(bytes) && (is_len() || is_info())
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

/// Whether an entry says that it is a command, or to ublk.
fn is_plausible(bytes: &[Option<u8>]) -> bool {
    resembles_command(bytes) || matches!(bytes.first(), Some(Some(opcode)) if opcode::is_command(*opcode))
}

/// Whether `cmd_op` is a command of ublk's, in any encoding.
fn resembles_command(bytes: &[Option<u8>]) -> bool {
    let mut filled = filled(bytes.get(..PLAIN).unwrap_or(bytes));
    filled.resize(PLAIN, 0);
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
        Entries::of(Dump { runs: vec![Run { line: 1, part: Part::Sqe, bytes }], ..Dump::default() })
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
    fn what_is_a_command_of_another_type_is_explained_and_more_than_a_queue_has_tags_is_not() {
        let mut wrong = entry(4, WIDE);
        wrong.splice(9..10, [b'U']);
        assert_eq!(lengths(&wrong.repeat(3)), [128; 3]);
        let many = of(&entry(0x20, PLAIN).repeat(5000));
        assert_eq!((many.entries.len(), many.complaints.len()), (4096, 1));
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
