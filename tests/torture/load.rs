// SPDX-License-Identifier: MIT OR Apache-2.0
//! Clients that write, read and compare while a server is killed or relieved: threads of this program that know the truth of each block,
//! torn and foreign ones included, and beside them fio, which knows nothing of it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use ublk::DeviceId;

use crate::DEADLINE;
use crate::chance::Chance;
use crate::harness::backing::Backing;
use crate::harness::{Aligned, open_direct};

pub const BLOCK: usize = 4096;
const BLOCK_BYTES: u64 = 4096;
const BLOCKS_OF_A_WRITER: u64 = 32;
const WRITERS: u64 = 3;
/// Where the blocks of the writers end, and fio's begin.
const FIO_STARTS: u64 = WRITERS * BLOCKS_OF_A_WRITER * BLOCK_BYTES;
const FIO_BYTES: u64 = 2 << 20;

/// A file with room for both.
pub fn backing() -> Backing {
    Backing::new(FIO_STARTS + FIO_BYTES)
}

/// What may stand in a block: what was acknowledged last, and each write after it that was not.
#[derive(Clone, Debug, Default)]
struct Truth {
    acknowledged: u64,
    attempted: Vec<u64>,
}

impl Truth {
    fn allows(&self, number: u64) -> bool {
        number == self.acknowledged || self.attempted.contains(&number)
    }
}

/// The bytes of the write of that number to that block: each word says both, so that a torn block and a foreign one are seen.
pub fn fill(bytes: &mut [u8], block: u64, number: u64) {
    for (index, word) in bytes.chunks_exact_mut(16).enumerate() {
        let place = block << 16 | u64::try_from(index).unwrap();
        word[..8].copy_from_slice(&place.to_le_bytes());
        word[8..].copy_from_slice(&number.to_le_bytes());
    }
}

/// Which write a block holds: 0 for none. Panics over one that is torn, or another's.
fn number_of(bytes: &[u8], block: u64) -> u64 {
    let number = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
    if number == 0 {
        assert!(bytes.iter().all(|byte| *byte == 0), "block {block} is torn: it holds more than nothing");
        return 0;
    }
    let mut whole = vec![0; bytes.len()];
    fill(&mut whole, block, number);
    assert!(whole == bytes, "block {block} is torn or foreign: write {number} is not whole in it");
    number
}

/// What writers have seen.
#[derive(Debug, Default)]
struct Counts {
    acknowledged: AtomicU64,
    failed: AtomicU64,
    longest_ms: AtomicU64,
    rounds: AtomicU64,
    fio_acknowledged: AtomicU64,
    fio_passes: AtomicU64,
}

/// A thread that writes, reads and compares in its own blocks, until it is told to stop; the truth of its blocks.
struct Writer {
    ends: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Truth>>,
}

impl Writer {
    /// `promised`: the errors that its requests may end with.
    fn start(id: DeviceId, index: u64, mut chance: Chance, promised: &'static [i32], counts: &Arc<Counts>) -> Writer {
        let ends = Arc::new(AtomicBool::new(false));
        let (stop, counts, disk) = (Arc::clone(&ends), Arc::clone(counts), open_direct(id));
        let thread = thread::spawn(move || {
            let mut truths = vec![Truth::default(); usize::try_from(BLOCKS_OF_A_WRITER).unwrap()];
            let mut bytes = Aligned::filled(BLOCK, 0);
            let mut number = 0;
            let check = |result: io::Result<()>| match result {
                Ok(()) => true,
                Err(error) => {
                    let errno = error.raw_os_error().unwrap();
                    assert!(promised.contains(&errno), "writer {index}: {error}, which this recovery does not promise");
                    counts.failed.fetch_add(1, Ordering::Relaxed);
                    false
                }
            };
            while !stop.load(Ordering::Relaxed) {
                let place = chance.below(BLOCKS_OF_A_WRITER);
                let block = index * BLOCKS_OF_A_WRITER + place;
                let truth = &mut truths[usize::try_from(place).unwrap()];
                let begun = Instant::now();
                if chance.below(3) == 0 {
                    if check(disk.read_exact_at(&mut bytes, block * BLOCK_BYTES)) {
                        let found = number_of(&bytes, block);
                        assert!(
                            truth.allows(found),
                            "writer {index}: block {block} holds write {found}, not {truth:?}"
                        );
                    }
                } else {
                    number += 1;
                    fill(&mut bytes, block, number);
                    if check(disk.write_all_at(&bytes, block * BLOCK_BYTES)) {
                        *truth = Truth { acknowledged: number, attempted: Vec::new() };
                        counts.acknowledged.fetch_add(1, Ordering::Relaxed);
                    } else {
                        truth.attempted.push(number);
                    }
                }
                let took = u64::try_from(begun.elapsed().as_millis()).unwrap();
                counts.longest_ms.fetch_max(took, Ordering::Relaxed);
                counts.rounds.fetch_add(1, Ordering::Relaxed);
            }
            truths
        });
        Writer { ends, thread }
    }
}

/// fio behind the blocks of the writers, again and again until it is told to stop: it writes each block once, with its place and which
/// time this is all over it, and reads and compares each write that was acknowledged.
fn fio(id: DeviceId, promised: &[i32], ends: &AtomicBool, counts: &Counts) {
    let mut pass = 0;
    while !ends.load(Ordering::Relaxed) {
        pass += 1;
        let mut fio = Command::new("fio");
        fio.args(["--name=load", "--direct=1", "--ioengine=libaio", "--iodepth=8", "--rw=randwrite", "--bs=4k"])
            .args(["--verify=pattern", "--do_verify=1", "--verify_fatal=1", "--minimal"])
            .arg(format!("--verify_pattern=%o\"{pass:08}\""))
            .args([format!("--filename=/dev/ublkb{id}"), format!("--randseed={pass}")])
            .args([format!("--offset={FIO_STARTS}"), format!("--size={FIO_BYTES}")]);
        if !promised.is_empty() {
            // What fails is not compared; what is read and is wrong ends it all the same.
            fio.arg("--continue_on_error=io");
        }
        let output = fio.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("fio on the PATH: {error}"));
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        // The fields of fio's terse output, version 3.
        let line = said.lines().find(|line| line.starts_with("3;")).unwrap_or_else(|| panic!("fio said {said}"));
        let field = |index| line.split(';').nth(index).and_then(|field| field.parse::<u64>().ok());
        let (error, written_kib) = (field(4).unwrap(), field(46).unwrap());
        let is_promised = error == 0 || promised.iter().any(|errno| u64::try_from(*errno) == Ok(error));
        assert!(is_promised && !said.contains("verify"), "fio, pass {pass}: {said}");
        counts.fio_acknowledged.fetch_add(written_kib / 4, Ordering::Relaxed);
        counts.fio_passes.fetch_add(1, Ordering::Relaxed);
    }
}

/// Everybody who writes, and what they have seen together.
pub struct Load {
    writers: Vec<Writer>,
    fio: JoinHandle<()>,
    fio_ends: Arc<AtomicBool>,
    counts: Arc<Counts>,
}

impl Load {
    /// `promised`: the errors that requests may end with.
    pub fn start(id: DeviceId, chance: &mut Chance, promised: &'static [i32]) -> Load {
        let counts = Arc::new(Counts::default());
        let start = |index| Writer::start(id, index, chance.split(), promised, &counts);
        let writers = (0..WRITERS).map(start).collect();
        let fio_ends = Arc::new(AtomicBool::new(false));
        let (ends, seen) = (Arc::clone(&fio_ends), Arc::clone(&counts));
        let fio = thread::spawn(move || fio(id, promised, &ends, &seen));
        Load { writers, fio, fio_ends, counts }
    }

    /// Waits until the writers have done so much more.
    pub fn wait_for(&self, more: u64) {
        let begun = Instant::now();
        let until = self.counts.rounds.load(Ordering::Relaxed) + more;
        while self.counts.rounds.load(Ordering::Relaxed) < until {
            assert!(self.writers.iter().all(|writer| !writer.thread.is_finished()), "a writer has ended");
            assert!(!self.fio.is_finished(), "fio has ended");
            assert!(begun.elapsed() < DEADLINE, "the writers stand still");
            thread::yield_now();
        }
    }

    /// Ends them, and compares each block of the writers with its truth: as the disk gives it, and in the file behind it.
    pub fn end(self, id: DeviceId, backing: &Backing) -> Seen {
        for writer in &self.writers {
            writer.ends.store(true, Ordering::Relaxed);
        }
        self.fio_ends.store(true, Ordering::Relaxed);
        let truths: Vec<Truth> = self.writers.into_iter().flat_map(|writer| writer.thread.join().unwrap()).collect();
        self.fio.join().unwrap();
        let (disk, file) = (open_direct(id), File::open(&backing.path).unwrap());
        for (block, truth) in (0..).zip(&truths) {
            for source in [&disk, &file] {
                let mut bytes = Aligned::filled(BLOCK, 0);
                source.read_exact_at(&mut bytes, block * BLOCK_BYTES).unwrap();
                let found = number_of(&bytes, block);
                assert!(truth.allows(found), "block {block} holds write {found}, not {truth:?}");
            }
        }
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        let counts = &self.counts;
        Seen {
            acknowledged: count(&counts.acknowledged) + count(&counts.fio_acknowledged),
            by_fio: count(&counts.fio_acknowledged),
            fio_passes: count(&counts.fio_passes),
            failed: count(&counts.failed),
            longest_ms: count(&counts.longest_ms),
        }
    }
}

/// What came of it. Nothing was lost, or there were a panic.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Writes, of all of them.
    pub acknowledged: u64,
    pub by_fio: u64,
    pub fio_passes: u64,
    /// Requests of the writers that failed as promised.
    pub failed: u64,
    /// The request of a writer that took longest.
    pub longest_ms: u64,
}
