// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask power`: a machine loses its power while a disk is written in it, again and again, and what was acknowledged has to be
//! there when it comes back.
//!
//! The power cut is the end of QEMU. `loop` serves files through the guest's page cache, which is lost with it: what is in the files
//! afterwards is what was written back. What was acknowledged has left the machine before it counts. What `loop` serves past the page
//! cache is judged by replay ([`crate::replay`]).

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::time::{Instant, SystemTime};

use crate::failure::{Failure, Result};
use crate::guest_power::{BLOCKS, FUA};
use crate::kernel::{self, Kernel, Series};
use crate::machine::{Ending, Stream, Timeout};
use crate::packages;
use crate::replay;
use crate::tally::Tally;
use crate::vm::{self, Guest};
use crate::workspace;

/// A server of a file whose FLUSH does nothing, which has to be found out.
pub(crate) const FORGETFUL: &str = "forgetful";

/// The server that is judged.
pub(crate) const JUDGED: &str = "loop";

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    cuts: u64,
    /// Where chance starts; the clock says where not.
    seed: Option<u64>,
    /// On this series alone.
    kernel: Option<Series>,
}

impl Wanted {
    pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self> {
        let mut wanted = Self { cuts: 50, seed: None, kernel: None };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let argument = argument.to_string_lossy().into_owned();
            let bad = || Failure::new(format!("power [--cuts N] [--seed N] [--kernel SERIES]: not {argument}"));
            let value = arguments.next().ok_or_else(bad)?;
            let value = value.to_string_lossy();
            match argument.as_str() {
                "--cuts" => wanted.cuts = value.parse().map_err(|_| bad())?,
                "--seed" => wanted.seed = Some(value.parse().map_err(|_| bad())?),
                "--kernel" => wanted.kernel = Some(Series::parse(&value).ok_or_else(bad)?),
                _ => return Err(bad()),
            }
        }
        Ok(wanted)
    }
}

/// Runs it on every series that must pass; the exit status.
pub(crate) fn run(wanted: &Wanted) -> Result<u8> {
    let chosen = kernel::chosen(wanted.kernel)?;
    let seed = wanted.seed.unwrap_or_else(seed_of_the_clock);
    let mut tally = Tally::default();
    for series in chosen {
        check(series, wanted.cuts, seed, &mut tally)?;
    }
    tally.print_details();
    println!("{tally}");
    Ok(u8::from(!tally.failed.is_empty()))
}

/// Where chance starts if nobody says where.
pub(crate) fn seed_of_the_clock() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs())
}

/// So many power cuts on that series, and some of a server that forgets to flush.
pub(crate) fn check(series: Series, cuts: u64, seed: u64, tally: &mut Tally) -> Result<()> {
    packages::need(&[packages::QEMU, packages::BUSYBOX, packages::XZ])?;
    packages::need(&[packages::MKE2FS, packages::E2FSCK, packages::DMSETUP])?;
    let kernel = Kernel::of_series(series)?;
    println!("== power cuts on Linux {}: seed {seed}", kernel.name);
    let judged = cut(&kernel, JUDGED, cuts, seed)?;
    for loss in judged.lost.iter().take(10) {
        println!("  {loss}");
    }
    tally.count(
        &format!("nothing that was durable is lost in {cuts} power cuts on Linux {}", kernel.name),
        judged.lost.is_empty(),
    );
    let forgetful = cut(&kernel, FORGETFUL, 1, seed)?;
    if let Some(loss) = forgetful.lost.first() {
        println!("a disk whose FLUSH does nothing, after one power cut: {loss}");
    }
    tally.count(
        &format!("a disk whose FLUSH does nothing is found out on Linux {}", kernel.name),
        !forgetful.lost.is_empty(),
    );
    replay::check(&kernel, cuts, seed, tally)
}

/// What came of it.
#[derive(Debug, Default)]
struct Judged {
    lost: Vec<String>,
}

/// Cuts the power so often while that program serves.
fn cut(kernel: &Kernel, server: &str, cuts: u64, seed: u64) -> Result<Judged> {
    let programs = workspace::build(["build", "--release", "--workspace", "--bins", "--examples"])?;
    let machine = vm::Wanted { disks: vec![1 << 30], modules: vec!["ext4"], ..vm::Wanted::default() };
    let mut guest = Guest::new(kernel, &machine)?;
    for program in programs.iter().filter(|program| [server, FUA].contains(&program.target.as_str())) {
        guest.files.program_on_path(&program.path)?;
    }
    for tool in [packages::MKE2FS, packages::E2FSCK] {
        guest.files.add(tool.name)?;
    }
    // What was said and is on its way when the power is cut is lost with it: some kilobytes of lines.
    let (mut truth, mut chance) = (Truth { unheard: 10_000, ..Truth::default() }, seed);
    let started = Instant::now();
    // The last time only what is there is looked at.
    for boot in 0..=cuts {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let acknowledged = if boot == cuts { 0 } else { 20 + (chance >> 33) % 400 };
        let when = if boot == 0 { "first" } else { "again" };
        let command = ["/usr/lib/xtask/agent", "guest-power", when, server].map(OsString::from);
        let mut heard = Heard::new(&mut truth, boot > 0, acknowledged);
        let mut complaint = Vec::new();
        let ending = guest.run(&command, Timeout::Silence(Duration::from_secs(120)), |stream, bytes| match stream {
            Stream::Output => heard.take(bytes),
            Stream::Error => {
                complaint.extend_from_slice(bytes);
                Ok(())
            }
        });
        if !heard.is_cut {
            if let (true, Ok(Ending::Exited(status))) = (boot > 0, &ending) {
                // What is there cannot even be looked at, or written.
                let complaint = String::from_utf8_lossy(&complaint);
                truth.lost.push(format!("status {status} after power cut {boot}: {}", complaint.trim_end()));
                break;
            }
            let why = match ending {
                Ok(Ending::Exited(status)) => format!("status {status}: {}", String::from_utf8_lossy(&complaint)),
                Ok(Ending::Lost(lost)) => format!("{}\n{}", lost.why, lost.story()),
                Err(failure) => failure.to_string(),
            };
            return Err(Failure::new(format!("the machine did not come to its power cut {}: {why}", boot + 1)));
        }
        if boot % 10 == 0 && boot > 0 {
            println!("{boot} of {cuts} power cuts, {} s", started.elapsed().as_secs());
        }
    }
    println!(
        "figure: {server} on Linux {}: {cuts} power cuts; acknowledged: {} writes, of which {} by a FLUSH or with FUA, and {} files; lost: {}",
        kernel.name,
        truth.acknowledged,
        truth.made_durable,
        truth.files_synced,
        truth.lost.len()
    );
    Ok(Judged { lost: truth.lost })
}

/// What has to be there, and what was lost.
#[derive(Clone, Debug, Default)]
pub(crate) struct Truth {
    /// For each block the write that it holds at least.
    durable: BTreeMap<u64, u64>,
    /// For each block the last write that was acknowledged since the last FLUSH was asked for.
    written: BTreeMap<u64, u64>,
    files: BTreeSet<u64>,
    /// How many blocks were found, torn ones too.
    blocks: u64,
    pub(crate) acknowledged: u64,
    pub(crate) made_durable: u64,
    pub(crate) files_synced: u64,
    /// The last write of all that was acknowledged.
    pub(crate) last: u64,
    /// How many were acknowledged behind that at most, and not heard of any more.
    unheard: u64,
    pub(crate) lost: Vec<String>,
}

impl Truth {
    /// What was found after the power came back.
    pub(crate) fn found(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |index: usize| words.get(index).and_then(|word| word.parse::<u64>().ok()).unwrap_or(u64::MAX);
        self.blocks += u64::from(matches!(words.first(), Some(&("block" | "torn"))));
        match words.first().copied().unwrap_or_default() {
            "block" => {
                let (block, write, least) = (number(1), number(2), self.durable.get(&number(1)).copied().unwrap_or(0));
                // One may have been under way.
                if write < least || write > self.last.saturating_add(1 + self.unheard) {
                    self.lost.push(format!(
                        "block {block} holds write {write}, and {least} was durable; {} was the last",
                        self.last
                    ));
                }
                self.durable.insert(block, write);
            }
            "torn" => self.lost.push(format!("block {} is torn", number(1))),
            "file" => drop(self.files.remove(&number(1))),
            // One that was not synced may be there in parts.
            "bad" if self.files.contains(&number(1)) => {
                self.lost.push(format!("file {} was synced, and is not whole", number(1)))
            }
            "unmountable" => {
                self.lost.push("the file system cannot be mounted any more".to_owned());
                self.files.clear();
            }
            "unreadable" => self.lost.push(line.to_owned()),
            "fsck" if number(1) != 0 => self.lost.push(format!("e2fsck says {}", number(1))),
            _ => {}
        }
    }

    /// What was found is all there is, of a disk with so many blocks.
    pub(crate) fn all_found(&mut self, blocks: u64) {
        let found = core::mem::take(&mut self.blocks);
        if found != blocks {
            self.lost.push(format!("{found} of {blocks} blocks were found"));
        }
        // The oldest are removed again.
        let newest = self.files.last().copied().unwrap_or(0);
        for missing in core::mem::take(&mut self.files) {
            if missing + 900 > newest {
                self.lost.push(format!("file {missing} was synced, and is not there"));
            }
        }
        self.written.clear();
    }

    pub(crate) fn acknowledged(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |index: usize| words.get(index).and_then(|word| word.parse::<u64>().ok()).unwrap_or(u64::MAX);
        match words.first().copied().unwrap_or_default() {
            word @ ("w" | "d") => {
                self.acknowledged += 1;
                self.last = number(2);
                if word == "d" {
                    self.made_durable += 1;
                    self.durable.insert(number(1), number(2));
                    self.written.remove(&number(1));
                } else {
                    self.written.insert(number(1), number(2));
                }
            }
            "f" => {
                self.made_durable += u64::try_from(self.written.len()).unwrap_or(0);
                self.durable.append(&mut self.written);
            }
            "s" => {
                self.files_synced += 1;
                self.files.insert(number(1));
            }
            _ => {}
        }
    }
}

/// Bytes that come in pieces, as whole lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Vec<String> {
        self.rest.extend_from_slice(bytes);
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return Vec::new() };
        let whole: Vec<u8> = self.rest.drain(..=end).collect();
        String::from_utf8_lossy(&whole).lines().map(str::to_owned).collect()
    }
}

/// What comes out of the machine, until the power is cut.
struct Heard<'t> {
    truth: &'t mut Truth,
    lines: Lines,
    /// Whether the machine was written in before.
    again: bool,
    is_found: bool,
    /// Lines until the cut.
    left: u64,
    is_cut: bool,
}

impl<'t> Heard<'t> {
    fn new(truth: &'t mut Truth, again: bool, left: u64) -> Self {
        Heard { truth, lines: Lines::default(), again, is_found: false, left, is_cut: false }
    }

    /// Takes what came; an error cuts the power.
    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        for line in self.lines.take(bytes) {
            if self.is_found {
                self.truth.acknowledged(&line);
                self.left = self.left.saturating_sub(1);
            } else if line == "found" {
                self.is_found = true;
                if self.again {
                    self.truth.all_found(BLOCKS);
                }
            } else if self.again {
                self.truth.found(&line);
            }
            // What came with it in one piece left the machine, too.
        }
        if self.is_found && self.left == 0 {
            self.is_cut = true;
            return Err(io::Error::other("the power is cut"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Heard, Truth, Wanted};
    use crate::kernel::Series;

    fn lost(acknowledged: &str, found: &str) -> Vec<String> {
        let mut truth = Truth::default();
        let mut first = Heard::new(&mut truth, false, 1000);
        first.take(format!("block 0 0\nfound\n{acknowledged}").as_bytes()).unwrap();
        let blocks: String = (found.lines().count()..256).map(|block| format!("block {} 0\n", block + 1000)).collect();
        let mut second = Heard::new(&mut truth, true, 1000);
        second.take(format!("{found}{blocks}fsck 0\nfound\n").as_bytes()).unwrap();
        truth.lost.into_iter().filter(|loss| !loss.contains("blocks were found")).collect()
    }

    #[test]
    fn what_is_behind_a_flush_or_a_fua_has_to_be_there_and_nothing_else() {
        assert_eq!(lost("w 1 1\nw 2 2\n", "block 1 0\nblock 2 2\n"), [""; 0]);
        assert_eq!(lost("w 1 1\nf\nw 1 2\n", "block 1 1\n"), [""; 0]);
        assert_eq!(lost("w 1 1\nf\nw 1 2\n", "block 1 2\n"), [""; 0]);
        assert_eq!(lost("w 1 1\nf\nw 1 2\n", "block 1 0\n").len(), 1);
        assert_eq!(lost("w 1 1\nd 1 2\n", "block 1 1\n").len(), 1);
        assert_eq!(lost("d 1 1\nw 1 2\n", "block 1 3\n"), [""; 0]);
        assert_eq!(lost("d 1 1\nw 1 2\n", "block 1 4\n").len(), 1);
        // Two acknowledgements that did not leave the machine any more.
        let mut truth = Truth { unheard: 2, ..Truth::default() };
        for line in ["block 1 3", "block 1 4"] {
            truth.found(line);
        }
        assert_eq!(truth.lost.len(), 1);
        assert_eq!(lost("w 1 1\n", "torn 1\n").len(), 1);
    }

    #[test]
    fn a_file_that_was_synced_has_to_be_there_and_whole() {
        assert_eq!(lost("s 0\ns 1\n", "file 0\nfile 1\nbad 2\n"), [""; 0]);
        assert_eq!(lost("s 0\ns 1\n", "file 0\n").len(), 1);
        assert!(!lost("s 0\n", "bad 0\n").is_empty());
        assert_eq!(lost("s 0\n", "file 0\nfsck 4\n").len(), 1);
    }

    #[test]
    fn a_number_of_cuts_a_seed_and_a_kernel_are_taken() {
        let parse = |line: &str| Wanted::parse(line.split(' ').map(Into::into));
        let wanted = Wanted { cuts: 3, seed: Some(9), kernel: Some(Series(6, 12)) };
        assert_eq!(parse("--cuts 3 --seed 9 --kernel 6.12").unwrap(), wanted);
        for line in ["--cuts", "--cuts x", "--seed", "3"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
