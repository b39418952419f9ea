// SPDX-License-Identifier: MIT OR Apache-2.0
//! The log of a disk that device mapper's target `log-writes` keeps (`drivers/md/dm-log-writes.c`), and what the disk holds after a
//! power cut at a place of it.
//!
//! A sector with the head of the log, then for each entry a sector that says what it is, and the data if it has some. A write stands
//! ahead of the FLUSH that made it durable: of those that were sent after it had completed, the first. It is so however much later
//! that FLUSH came, and writes that none made durable stand behind all else. A write with FUA, a FLUSH and a mark stand where they
//! completed.
//!
//! So a write with FUA stands ahead of writes that completed before it and were not flushed yet. Of two to the same place the log
//! does not say which was first; `loop` sends no FUA, it flushes.

use core::ops::Range;
use std::io::{self, Read};

use crate::chance::Chance;
use crate::failure::{Context, Failure, Result};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
/// How long `struct log_write_entry` is, behind which a mark has what it says.
const ENTRY: usize = 32;

/// What the last mark says, which is made when the target is removed. A log without it is not whole: there was no room for it.
const END: &str = "dm-log-writes-end";

/// What a cache keeps or loses as one.
const PAGE: usize = 4096;

/// What an entry is.
const FLUSH: u64 = 1 << 0;
const FUA: u64 = 1 << 1;
const DISCARD: u64 = 1 << 2;
const MARK: u64 = 1 << 3;

/// The whole log, in its order.
#[derive(Clone, Debug, Default)]
pub(crate) struct WriteLog {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    flags: u64,
    /// Where on the disk, in bytes.
    start: usize,
    end: usize,
    /// As long as that place, or of a mark what it says; a discard has none.
    data: Vec<u8>,
}

impl WriteLog {
    /// Reads the log of a disk of so many bytes.
    pub(crate) fn read(mut from: impl Read, disk_bytes: usize) -> Result<Self> {
        let head = take(&mut from, 512).context(|| "the log's head".to_owned())?;
        let number = |at: usize| number(&head, at);
        if (number(0), number(8)) != (MAGIC, VERSION) {
            return Err(Failure::new("that is no log of log-writes, or of a version that is not known"));
        }
        let sector_bytes = usize::try_from(number(24) & u64::from(u32::MAX)).unwrap_or(0);
        if !sector_bytes.is_power_of_two() || !(512..=PAGE).contains(&sector_bytes) {
            return Err(Failure::new(format!("the log has sectors of {sector_bytes} bytes")));
        }
        take(&mut from, sector_bytes - 512).context(|| "the log's head".to_owned())?;
        let mut entries = Vec::new();
        for index in 0..number(16) {
            let complaint = || format!("entry {index} of the log");
            entries.push(Entry::read(&mut from, sector_bytes, disk_bytes).context(complaint)?);
        }
        let log = Self { entries };
        match log.marks().last() {
            Some((place, END)) if place + 1 == log.len() => Ok(log),
            _ => Err(Failure::new(format!("the log of {} entries is not whole", log.len()))),
        }
    }

    /// In entries.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Where the marks are, and what they say.
    pub(crate) fn marks(&self) -> impl Iterator<Item = (usize, &str)> {
        let marks = self.entries.iter().enumerate().filter(|(_, entry)| entry.is(MARK));
        marks.map(|(place, mark)| (place, core::str::from_utf8(&mark.data).unwrap_or_default()))
    }

    /// A disk of so many bytes, which held zeroes when the log began, after a power cut behind that many entries.
    ///
    /// What is ahead of the last FLUSH is there, and each write with FUA; of the rest what chance has the cache write back.
    pub(crate) fn disk_after(&self, cut: usize, disk_bytes: usize, chance: &mut Chance) -> Vec<u8> {
        let mut disk = vec![0; disk_bytes];
        let entries = self.entries.get(..cut).unwrap_or(&self.entries);
        let flushed = entries.iter().rposition(|entry| entry.is(FLUSH)).unwrap_or(0);
        // Of four pages: none at one cut, all at another.
        let written_back = chance.below(5);
        for (place, entry) in entries.iter().enumerate() {
            let is_durable = place < flushed || entry.is(FUA);
            for page in entry.pages() {
                if is_durable || chance.below(4) < written_back {
                    entry.write(page, &mut disk);
                }
            }
        }
        disk
    }
}

impl Entry {
    fn read(from: &mut impl Read, sector_bytes: usize, disk_bytes: usize) -> io::Result<Self> {
        let bad = |what: &str| io::Error::other(what.to_owned());
        let head = take(from, sector_bytes)?;
        let number = |at: usize| number(&head, at);
        let bytes = |sectors: u64| usize::try_from(sectors).ok()?.checked_mul(sector_bytes);
        let (flags, said) = (number(16), usize::try_from(number(24)).unwrap_or(usize::MAX));
        if flags & MARK != 0 {
            let data = said
                .checked_add(ENTRY)
                .and_then(|end| head.get(ENTRY..end))
                .ok_or_else(|| bad("a mark behind its sector"))?;
            return Ok(Self { flags, start: 0, end: 0, data: data.to_vec() });
        }
        if said != 0 {
            return Err(bad("data that is no mark's and no write's"));
        }
        let place = bytes(number(0)).and_then(|start| Some((start, start.checked_add(bytes(number(8))?)?)));
        let (start, end) =
            place.filter(|(_, end)| *end <= disk_bytes).ok_or_else(|| bad("a place behind the disk's end"))?;
        let data = if flags & DISCARD == 0 { take(from, end - start)? } else { Vec::new() };
        Ok(Self { flags, start, end, data })
    }

    fn is(&self, flag: u64) -> bool {
        self.flags & flag != 0
    }

    /// Its place, page by page of the disk.
    fn pages(&self) -> impl Iterator<Item = Range<usize>> {
        let pages = self.start / PAGE..self.end.div_ceil(PAGE);
        pages.map(|page| self.start.max(page * PAGE)..self.end.min((page + 1) * PAGE))
    }

    /// What was discarded reads as zeroes.
    fn write(&self, place: Range<usize>, disk: &mut [u8]) {
        let data = self.data.get(place.start - self.start..place.end - self.start);
        match (disk.get_mut(place), data) {
            (Some(to), Some(data)) => to.copy_from_slice(data),
            (Some(to), None) => to.fill(0),
            (None, _) => {}
        }
    }
}

fn take(from: &mut impl Read, len_bytes: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // As much memory as there are bytes, whatever was said.
    from.take(u64::try_from(len_bytes).unwrap_or(u64::MAX)).read_to_end(&mut bytes)?;
    if bytes.len() == len_bytes { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn number(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::{DISCARD, FLUSH, FUA, MAGIC, MARK, WriteLog};
    use crate::chance::Chance;

    const DISK: usize = 1 << 16;

    fn head(entries: u64, sector_bytes: u64) -> Vec<u8> {
        let mut bytes: Vec<u8> = [MAGIC, 1, entries, sector_bytes].into_iter().flat_map(u64::to_le_bytes).collect();
        bytes.resize(512, 0);
        bytes
    }

    fn entry(sector: u64, sectors: u64, flags: u64, data: &[u8]) -> Vec<u8> {
        let said = if flags & MARK == 0 { 0 } else { u64::try_from(data.len()).unwrap() };
        let mut bytes: Vec<u8> = [sector, sectors, flags, said].into_iter().flat_map(u64::to_le_bytes).collect();
        if flags & MARK == 0 {
            bytes.resize(512, 0);
        }
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    /// A page full of that.
    fn page(page: u64, fill: u8, flags: u64) -> Vec<u8> {
        entry(page * 8, 8, flags, &[fill; 4096])
    }

    fn log(entries: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = head(u64::try_from(entries.len()).unwrap() + 1, 512);
        bytes.extend(entries.concat());
        bytes.extend(entry(0, 0, MARK, b"dm-log-writes-end"));
        bytes
    }

    /// What the first bytes of the first four pages may be after a power cut there, each once.
    fn disks(entries: &[Vec<u8>], cut: usize) -> Vec<[u8; 4]> {
        let log = WriteLog::read(log(entries).as_slice(), DISK).unwrap();
        let mut chance = Chance::new(1);
        let mut disks: Vec<[u8; 4]> = (0..500)
            .map(|_| {
                let disk = log.disk_after(cut, DISK, &mut chance);
                assert!(disk.chunks(4096).all(|page| page.iter().all(|byte| *byte == page[0])), "a page is whole");
                [disk[0], disk[4096], disk[8192], disk[12288]]
            })
            .collect();
        disks.sort_unstable();
        disks.dedup();
        disks
    }

    #[test]
    fn what_is_ahead_of_a_flush_is_there_and_what_is_behind_it_may_be() {
        let entries = [page(0, 1, 0), page(1, 2, 0), entry(0, 0, FLUSH, &[]), page(1, 3, 0), page(2, 4, 0)];
        assert_eq!(disks(&entries, 0), [[0, 0, 0, 0]]);
        assert_eq!(disks(&entries, 2), [[0, 0, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [1, 2, 0, 0]]);
        assert_eq!(disks(&entries, 3), [[1, 2, 0, 0]]);
        assert_eq!(disks(&entries, 5), [[1, 2, 0, 0], [1, 2, 4, 0], [1, 3, 0, 0], [1, 3, 4, 0]]);
        // The end mark, and a place that there is not.
        assert_eq!(disks(&entries, 6), disks(&entries, 5));
        assert_eq!(disks(&entries, 100), disks(&entries, 5));
    }

    #[test]
    fn a_write_with_fua_is_there_and_makes_no_other_durable() {
        assert_eq!(disks(&[page(0, 1, 0), page(1, 2, FUA)], 2), [[0, 2, 0, 0], [1, 2, 0, 0]]);
        // The data of a FLUSH come behind it.
        assert_eq!(disks(&[page(0, 1, 0), page(1, 2, FLUSH)], 2), [[1, 0, 0, 0], [1, 2, 0, 0]]);
        assert_eq!(disks(&[page(0, 1, 0), page(1, 2, FLUSH | FUA)], 2), [[1, 2, 0, 0]]);
    }

    #[test]
    fn a_cache_writes_back_or_loses_whole_pages() {
        let two = entry(4, 16, 0, &[1; 8192]);
        let log = WriteLog::read(log(&[two]).as_slice(), DISK).unwrap();
        let mut chance = Chance::new(1);
        let pages = [2048..4096, 4096..8192, 8192..10240];
        let mut seen = [false; 8];
        for _ in 0..500 {
            let disk = log.disk_after(1, DISK, &mut chance);
            let is_there = pages.clone().map(|page| disk[page].iter().all(|byte| *byte == 1));
            let is_gone = pages.clone().map(|page| disk[page].iter().all(|byte| *byte == 0));
            assert!((0..3).all(|page| is_there[page] != is_gone[page]));
            assert_eq!(disk.iter().filter(|byte| **byte != 0).count() % 2048, 0);
            seen[is_there.iter().fold(0, |number, page| number * 2 + usize::from(*page))] = true;
        }
        assert_eq!(seen, [true; 8]);
    }

    #[test]
    fn what_was_discarded_reads_as_zeroes() {
        let entries =
            [page(0, 1, 0), page(1, 2, 0), entry(8, 16, DISCARD, &[]), entry(0, 0, FLUSH, &[]), page(2, 3, FUA)];
        assert_eq!(disks(&entries, 5), [[1, 0, 3, 0]]);
    }

    #[test]
    fn marks_are_found_where_they_are() {
        let entries = [entry(0, 0, MARK, b"0"), page(0, 1, 0), entry(0, 0, MARK, b"17")];
        let log = WriteLog::read(log(&entries).as_slice(), DISK).unwrap();
        assert_eq!(log.marks().collect::<Vec<_>>(), [(0, "0"), (2, "17"), (3, "dm-log-writes-end")]);
    }

    #[test]
    fn a_log_that_is_short_or_says_what_cannot_be_is_an_error() {
        let read = |bytes: &[u8]| WriteLog::read(bytes, DISK);
        let good = log(&[page(0, 1, 0), entry(0, 0, MARK, b"0"), entry(0, 128, DISCARD, &[])]);
        assert_eq!(read(&good).unwrap().len(), 4);
        for len in 0..good.len() {
            assert!(read(&good[..len]).is_err(), "{len} bytes");
        }
        let with = |at: usize, bytes: &[u8]| {
            let mut bad = good.clone();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            bad
        };
        let many = [0xff; 8];
        // The magic number, the version, how many entries, too few of them, and the size of a sector.
        for bad in [with(0, b"x"), with(8, &[2]), with(16, &many), with(16, &[3]), with(24, &[0, 0]), with(24, &[1, 2])]
        {
            assert!(read(&bad).is_err());
        }
        // The first entry: where it is, how long, and with data of its own; the second: a mark that is longer than its sector.
        for bad in [with(512, &many), with(520, &many), with(520, &[129]), with(536, &[1]), with(512 * 10 + 24, &many)]
        {
            assert!(read(&bad).is_err());
        }
        let behind = log(&[entry(121, 8, 0, &[1; 4096])]);
        assert!(read(&behind).is_err(), "a write across the disk's end");
        assert!(read(&head(u64::MAX, 4096)).is_err());
    }
}
