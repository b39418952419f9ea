// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a queue remembers of the operations that requests have under way: one mapping, made once.
//!
//! ```text
//!   tag 0: marks │ Record │ Slot 0 │ Slot 1 │ ...      tag 1: marks │ ...
//!                             └ status │ operation │ ranges, which the kernel reads
//! ```

use ublk_sys::io_uring_sqe;

use crate::error::Error;
use crate::hosting::BufferLock;
use crate::id::Tag;
use crate::mapping::{Mapping, Plain};
use crate::units::usize_from;

/// Ranges that one operation can have.
pub(super) const SEGMENTS: usize = 16;

/// A `struct iovec`, as the kernel reads it: in two words of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(super) address: u64,
    pub(super) len: u64,
}

impl Segment {
    pub(super) const EMPTY: Segment = Segment { address: 0, len: 0 };

    fn words(self) -> [u64; 2] {
        [self.address, self.len]
    }
}

/// What holds of a tag, a bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark(u64);

impl Mark {
    /// Its request has operations under way: nobody has a token.
    pub(super) const OPERATING: Mark = Mark(1);
    /// A command has registered its request's pages, or is to.
    pub(super) const REGISTERED: Mark = Mark(1 << 1);
    /// The registration has not completed.
    pub(super) const REGISTERING: Mark = Mark(1 << 2);
    /// The end of a registration has not completed.
    pub(super) const UNREGISTERING: Mark = Mark(1 << 3);
    /// The driver was to register its request's pages, and did not.
    pub(super) const UNREGISTERED: Mark = Mark(1 << 4);
    /// Its request's data is moved through the tag's buffer, although that is not where the driver has it.
    pub(super) const BOUNCED: Mark = Mark(1 << 5);
}

/// Where among the marks the number of the tag's buffer stands, and that it has one.
const BUFFER_SHIFT: u32 = 32;
const HAS_BUFFER: u64 = 1 << 48;

/// What a request was when its operations were started, and how many are under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    pub(super) op_flags: u32,
    pub(super) sectors: u32,
    pub(super) start: u64,
    pub(super) label: u64,
    pub(super) mark: u64,
    pub(super) end: u64,
    pub(super) integrity_mark: u64,
    /// How many operations there are.
    pub(super) count: u16,
    /// How many completions are still to come, that of a registration included.
    pub(super) left: u16,
    /// 1: a part does not do.
    pub(super) must_be_whole: u32,
    /// How operations name the first byte.
    pub(super) base: u64,
    /// Where the data is in shared memory, as the descriptor has it.
    pub(super) addr: u64,
}

impl Record {
    fn words(self) -> [u64; 9] {
        let counts = pair(pair16(self.count, self.left), self.must_be_whole);
        let (range, moved) = (pair(self.op_flags, self.sectors), [self.mark, self.end, self.integrity_mark]);
        let [mark, end, integrity_mark] = moved;
        [range, self.start, self.label, mark, end, integrity_mark, counts, self.base, self.addr]
    }

    fn of(words: [u64; 9]) -> Record {
        let [range, start, label, mark, end, integrity_mark, counts, base, addr] = words;
        let ((op_flags, sectors), (both, must_be_whole)) = (halves(range), halves(counts));
        let (count, left) = halves16(both);
        Record { op_flags, sectors, start, label, mark, end, integrity_mark, count, left, must_be_whole, base, addr }
    }
}

/// Of one operation, what is looked at when it completes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Status {
    result: i32,
    /// One of the constants below.
    state: u16,
    segments: u16,
    start: u32,
    len: u32,
}

impl Status {
    fn words(self) -> [u64; 2] {
        let [r0, r1, r2, r3] = self.result.to_le_bytes();
        let result = u32::from_le_bytes([r0, r1, r2, r3]);
        [pair(result, pair16(self.state, self.segments)), pair(self.start, self.len)]
    }

    fn of([first, second]: [u64; 2]) -> Status {
        let ((result, both), (start, len)) = (halves(first), halves(second));
        let (state, segments) = halves16(both);
        Status { result: i32::from_le_bytes(result.to_le_bytes()), state, segments, start, len }
    }
}

fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

fn halves(word: u64) -> (u32, u32) {
    let [l0, l1, l2, l3, h0, h1, h2, h3] = word.to_le_bytes();
    (u32::from_le_bytes([l0, l1, l2, l3]), u32::from_le_bytes([h0, h1, h2, h3]))
}

fn pair16(low: u16, high: u16) -> u32 {
    u32::from(low) | u32::from(high) << 16
}

fn halves16(both: u32) -> (u16, u16) {
    let [l0, l1, h0, h1] = both.to_le_bytes();
    (u16::from_le_bytes([l0, l1]), u16::from_le_bytes([h0, h1]))
}

/// Not started, or completed.
const IDLE: u16 = 0;
/// Bit: in the kernel's hands.
const UNDER_WAY: u16 = 1;
/// Bit: it moves bytes of the request.
const DATA: u16 = 2;

/// Whether an operation moves bytes of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Other,
}

/// An operation as it is put together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) sqe: io_uring_sqe,
    /// The first range, in bytes of the request.
    pub(super) start: usize,
    pub(super) len: usize,
    /// How many ranges; more than one stand in the table too.
    pub(super) segments: usize,
}

const MARKS_BYTES: usize = size_of::<u64>();
const RECORD_BYTES: usize = size_of::<[u64; 9]>();
const STATUS_BYTES: usize = size_of::<[u64; 2]>();
const SEGMENT_BYTES: usize = size_of::<[u64; 2]>();
const OP_BYTES: usize = size_of::<io_uring_sqe>();
const SLOT_BYTES: usize = STATUS_BYTES + OP_BYTES + SEGMENTS * SEGMENT_BYTES;

/// What is remembered of all tags.
#[derive(Debug)]
pub(super) struct Table {
    /// `None` once it is leaked.
    mapping: Option<Mapping>,
    depth: u16,
    /// Operations of a tag.
    slots: u16,
}

impl Table {
    /// Room for `slots` operations of each of `depth` tags.
    pub(super) fn map(depth: u16, slots: u16) -> Result<Table, Error> {
        let len = usize::from(depth) * stride(slots);
        Ok(Table { mapping: Some(Mapping::anonymous(len)?), depth, slots })
    }

    /// Has the kernel leave it in memory.
    pub(super) fn lock(&self, when: BufferLock) -> Result<(), Error> {
        self.mapping.as_ref().map_or(Ok(()), |mapping| mapping.lock(when))
    }

    fn read<T: Plain>(&self, place: usize) -> Option<T> {
        self.mapping.as_ref()?.read(place)
    }

    fn write<T: Plain>(&self, place: usize, value: T) -> Option<()> {
        self.mapping.as_ref()?.write(place, value)
    }

    fn marks_offset(&self, tag: Tag) -> Option<usize> {
        (tag.raw() < self.depth).then(|| usize::from(tag.raw()) * stride(self.slots))
    }

    fn record_offset(&self, tag: Tag) -> Option<usize> {
        Some(self.marks_offset(tag)? + MARKS_BYTES)
    }

    fn slot_offset(&self, tag: Tag, index: u16) -> Option<usize> {
        let slots = self.record_offset(tag)? + RECORD_BYTES;
        (index < self.slots).then(|| slots + usize::from(index) * SLOT_BYTES)
    }

    /// Whether it holds.
    pub(super) fn has(&self, tag: Tag, mark: Mark) -> bool {
        self.marks_offset(tag).and_then(|place| self.read::<u64>(place)).is_some_and(|marks| marks & mark.0 != 0)
    }

    /// It holds from now on; false where it did already, or there is no such tag.
    pub(super) fn set(&self, tag: Tag, mark: Mark) -> bool {
        self.change(tag, |marks| (marks & mark.0 == 0).then_some(marks | mark.0))
    }

    /// It does not hold any more; false where it did not.
    pub(super) fn clear(&self, tag: Tag, mark: Mark) -> bool {
        self.change(tag, |marks| (marks & mark.0 != 0).then_some(marks & !mark.0))
    }

    /// The buffer that was chosen for the tag.
    pub(super) fn buffer(&self, tag: Tag) -> Option<Tag> {
        let marks = self.read::<u64>(self.marks_offset(tag)?)?;
        let [_, _, _, _, b0, b1, _, _] = marks.to_le_bytes();
        (marks & HAS_BUFFER != 0).then(|| Tag::new(u16::from_le_bytes([b0, b1])))
    }

    pub(super) fn set_buffer(&self, tag: Tag, buffer: Option<Tag>) {
        let bits = buffer.map_or(0, |buffer| HAS_BUFFER | u64::from(buffer.raw()) << BUFFER_SHIFT);
        self.change(tag, |marks| Some(marks & ((1 << BUFFER_SHIFT) - 1) | bits));
    }

    fn change(&self, tag: Tag, change: impl FnOnce(u64) -> Option<u64>) -> bool {
        let Some(place) = self.marks_offset(tag) else { return false };
        let changed = self.read(place).and_then(change);
        changed.and_then(|marks| self.write(place, marks)).is_some()
    }

    pub(super) fn record(&self, tag: Tag) -> Option<Record> {
        self.read(self.record_offset(tag)?).map(Record::of)
    }

    pub(super) fn set_record(&self, tag: Tag, record: Record) -> Option<()> {
        self.write(self.record_offset(tag)?, record.words())
    }

    fn status(&self, tag: Tag, index: u16) -> Option<Status> {
        self.read(self.slot_offset(tag, index)?).map(Status::of)
    }

    fn set_status(&self, tag: Tag, index: u16, status: Status) -> Option<()> {
        self.write(self.slot_offset(tag, index)?, status.words())
    }

    pub(super) fn entry(&self, tag: Tag, index: u16) -> Option<Entry> {
        let status = self.status(tag, index)?;
        let sqe = self.read(self.slot_offset(tag, index)? + STATUS_BYTES)?;
        Some(Entry {
            kind: if status.state & DATA == 0 { Kind::Other } else { Kind::Data },
            sqe,
            start: usize_from(status.start),
            len: usize_from(status.len),
            segments: status.segments.into(),
        })
    }

    /// Notes an operation; `None` where there is no room for it.
    pub(super) fn set_entry(&self, tag: Tag, index: u16, entry: Entry) -> Option<()> {
        let small = |number: usize| u32::try_from(number).ok();
        let status = Status {
            result: 0,
            state: if entry.kind == Kind::Data { DATA } else { IDLE },
            segments: u16::try_from(entry.segments).ok()?,
            start: small(entry.start)?,
            len: small(entry.len)?,
        };
        self.set_status(tag, index, status)?;
        self.write(self.slot_offset(tag, index)? + STATUS_BYTES, entry.sqe)
    }

    fn segments_offset(&self, tag: Tag, index: u16) -> Option<usize> {
        Some(self.slot_offset(tag, index)? + STATUS_BYTES + OP_BYTES)
    }

    /// Where the kernel finds the ranges of an operation.
    pub(super) fn segments_address(&self, tag: Tag, index: u16) -> Option<u64> {
        self.mapping.as_ref()?.address(self.segments_offset(tag, index)?, SEGMENTS * SEGMENT_BYTES)
    }

    pub(super) fn set_segments(&self, tag: Tag, index: u16, segments: &[Segment]) -> Option<()> {
        let mut offset = self.segments_offset(tag, index)?;
        for segment in segments.iter().take(SEGMENTS) {
            self.write(offset, segment.words())?;
            offset += SEGMENT_BYTES;
        }
        Some(())
    }

    fn segment(&self, tag: Tag, index: u16, segment: usize) -> Option<Segment> {
        let offset = self.segments_offset(tag, index)?;
        (segment < SEGMENTS)
            .then(|| offset + segment * SEGMENT_BYTES)
            .and_then(|place| self.read::<[u64; 2]>(place))
            .map(|[address, len]| Segment { address, len })
    }

    /// The operation goes to the kernel.
    pub(super) fn begin(&self, tag: Tag, index: u16) -> Option<()> {
        let status = self.status(tag, index)?;
        self.set_status(tag, index, Status { state: status.state | UNDER_WAY, ..status })
    }

    /// The operation has completed; `None` where it was not under way.
    pub(super) fn end(&self, tag: Tag, index: u16, result: i32) -> Option<()> {
        let status = self.status(tag, index).filter(|status| status.state & UNDER_WAY != 0)?;
        self.set_status(tag, index, Status { state: status.state & !UNDER_WAY, result, ..status })
    }

    /// Whether the operation moves bytes of the request.
    pub(super) fn is_data(&self, tag: Tag, index: u16) -> bool {
        self.status(tag, index).is_some_and(|status| status.state & DATA != 0)
    }

    /// Whether the kernel has the operation.
    pub(super) fn is_under_way(&self, tag: Tag, index: u16) -> bool {
        self.status(tag, index).is_some_and(|status| status.state & UNDER_WAY != 0)
    }

    /// Never unmaps: the kernel may still read ranges.
    pub(super) fn leak(&mut self) {
        self.mapping.take().map(Mapping::leak).unwrap_or_default();
    }

    /// The operation was not started, for this reason.
    pub(super) fn refuse(&self, tag: Tag, index: u16, result: i32) {
        if let Some(status) = self.status(tag, index) {
            // It cannot fail where it could be read.
            let _ = self.set_status(tag, index, Status { result, ..status });
        }
    }

    pub(super) fn result(&self, tag: Tag, index: u16) -> Option<i32> {
        Some(self.status(tag, index)?.result)
    }

    /// Adds to the mark what the operations of a request have moved, each range as far as it goes, in whichever order they
    /// were; whether one of those that move bytes has failed. `base` is the address of the request's first byte.
    pub(super) fn moved(&self, tag: Tag, count: u16, base: u64, mut mark: u64, mut end: u64) -> (u64, u64, bool) {
        let mut failed = false;
        loop {
            let before = mark;
            for index in 0..count {
                let Some(status) = self.status(tag, index).filter(|status| status.state & DATA != 0) else { continue };
                let Ok(mut left) = u64::try_from(status.result) else {
                    failed = true;
                    continue;
                };
                for segment in 0..usize::from(status.segments) {
                    let (start, len) = match self.segment(tag, index, segment) {
                        Some(segment) if status.segments > 1 => (segment.address.saturating_sub(base), segment.len),
                        _ => (status.start.into(), status.len.into()),
                    };
                    // A result is not believed beyond what was asked for.
                    let moved = len.min(left);
                    left -= moved;
                    if moved > 0 {
                        end = end.max(start + moved);
                        if start <= mark {
                            mark = mark.max(start + moved);
                        }
                    }
                }
            }
            if mark == before {
                return (mark, end, failed);
            }
        }
    }
}

/// Bytes from one tag to the next.
fn stride(slots: u16) -> usize {
    MARKS_BYTES + RECORD_BYTES + usize::from(slots) * SLOT_BYTES
}

const _: () = assert!(SLOT_BYTES % 8 == 0);

#[cfg(test)]
mod tests {
    use super::{Entry, Kind, Mark, Record, Segment, Table};
    use crate::Tag;
    use ublk_sys::io_uring_sqe;

    const BASE: u64 = 0x7000_0000;

    /// Operations of one request that moved these ranges of it, each with what the kernel answered.
    fn moved(operations: &[(&[core::ops::Range<usize>], i32)], mark: u64) -> (u64, u64, bool) {
        let (table, tag) = (Table::map(2, 8).unwrap(), Tag::new(1));
        let mut count = 0;
        for (ranges, result) in operations {
            let segments: std::vec::Vec<Segment> = ranges
                .iter()
                .map(|range| Segment {
                    address: BASE + u64::try_from(range.start).unwrap(),
                    len: range.len().try_into().unwrap(),
                })
                .collect();
            let (start, len, segments_count) = (ranges[0].start, ranges[0].len(), ranges.len());
            let sqe = io_uring_sqe::default();
            table.set_segments(tag, count, &segments).unwrap();
            table.set_entry(tag, count, Entry { kind: Kind::Data, sqe, start, len, segments: segments_count }).unwrap();
            table.begin(tag, count).unwrap();
            table.end(tag, count, *result).unwrap();
            count += 1;
        }
        table.moved(tag, count, BASE, mark, mark)
    }

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "an operation of one range")]
    fn the_mark_is_the_end_of_what_was_moved_without_a_gap_in_whichever_order() {
        assert_eq!(moved(&[(&[0..512], 512)], 0), (512, 512, false));
        assert_eq!(moved(&[(&[512..1024], 512), (&[0..512], 512)], 0), (1024, 1024, false));
        assert_eq!(moved(&[(&[512..1024], 512), (&[0..512], 100)], 0), (100, 1024, false));
        assert_eq!(moved(&[(&[0..512, 1024..1536], 700), (&[512..1024], 512)], 0), (1212, 1212, false));
        assert_eq!(moved(&[(&[1024..1536, 0..512], 1024), (&[512..1024], 512)], 0), (1536, 1536, false));
        assert_eq!(moved(&[(&[700..1024], 324)], 700), (1024, 1024, false));
    }

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "an operation of one range")]
    fn an_operation_that_failed_moved_nothing_and_one_that_lies_no_more_than_it_was_to() {
        assert_eq!(moved(&[(&[0..512], -5)], 0), (0, 0, true));
        assert_eq!(moved(&[(&[0..512], i32::MAX)], 0), (512, 512, false));
        assert_eq!(moved(&[(&[0..512], i32::MIN), (&[0..512], 512)], 0), (512, 512, true));
        assert_eq!(moved(&[(&[0..512], 0)], 0), (0, 0, false));
    }

    #[test]
    fn what_is_remembered_of_a_request_is_what_was_noted() {
        let (table, tag) = (Table::map(1, 1).unwrap(), Tag::new(0));
        let mut record = Record { op_flags: 1, sectors: 2, start: 3, label: 4, mark: 5, end: 6, ..Record::default() };
        (record.integrity_mark, record.count, record.left, record.must_be_whole) = (7, 8, u16::MAX, u32::MAX - 1);
        (record.base, record.addr) = (u64::MAX, 9);
        table.set_record(tag, record).unwrap();
        assert_eq!(table.record(tag), Some(record));
    }

    #[test]
    fn what_is_not_under_way_does_not_end_and_no_tag_or_slot_beyond_the_last_is_there() {
        let (table, tag) = (Table::map(2, 1).unwrap(), Tag::new(0));
        assert_eq!(table.end(tag, 0, 0), None);
        table.begin(tag, 0).unwrap();
        assert_eq!(table.end(tag, 0, 7), Some(()));
        assert_eq!((table.end(tag, 0, 8), table.result(tag, 0)), (None, Some(7)));
        assert!(table.begin(tag, 1).is_none() && table.begin(Tag::new(2), 0).is_none());
        assert!(table.set_record(Tag::new(2), Record::default()).is_none());
        assert!(!table.set(Tag::new(2), Mark::OPERATING) && !table.has(Tag::new(2), Mark::OPERATING));
        assert!(table.set(tag, Mark::OPERATING) && !table.set(tag, Mark::OPERATING));
        assert!(!table.has(Tag::new(1), Mark::OPERATING) && !table.has(tag, Mark::BOUNCED));
        assert!(table.clear(tag, Mark::OPERATING) && !table.clear(tag, Mark::OPERATING));
    }
}
