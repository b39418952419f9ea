// SPDX-License-Identifier: MIT OR Apache-2.0
//! Power cuts of disks that are served past the page cache: the volatile cache is that of the device behind the server, and no end of
//! QEMU loses it. What came to that device is logged, and replayed up to places that chance chooses ([`crate::guest_replay`]).

use core::time::Duration;
use std::ffi::OsString;
use std::io;

use crate::failure::{Failure, Result};
use crate::guest_power::FUA;
use crate::guest_replay::{DISK_BYTES, LOG_BYTES};
use crate::kernel::Kernel;
use crate::machine::{Ending, Stream, Timeout};
use crate::packages;
use crate::power::{FORGETFUL, JUDGED, Lines, Truth};
use crate::tally::Tally;
use crate::vm::{self, Guest};
use crate::workspace;

/// So many power cuts of blocks and as many of files on that kernel, and some of a server that forgets to flush.
pub(crate) fn check(kernel: &Kernel, cuts: u64, seed: u64, tally: &mut Tally) -> Result<()> {
    let (mut judged, mut forgetful) = (Recording::default(), Recording::default());
    for recording in record(kernel, cuts, seed)? {
        let whole = if recording.server == JUDGED { &mut judged } else { &mut forgetful };
        whole.add(recording);
    }
    if judged.cuts != 2 * cuts {
        return Err(Failure::new(format!("{} power cuts by replay, and not {}", judged.cuts, 2 * cuts)));
    }
    for loss in judged.lost.iter().take(10) {
        println!("  {loss}");
    }
    println!(
        "figure: {JUDGED}, O_DIRECT, on Linux {}: {cuts} power cuts by replay; acknowledged: {} writes, of which {} durable, and {} files; lost: {}",
        kernel.name,
        judged.truth.acknowledged,
        judged.truth.made_durable,
        judged.truth.files_synced,
        judged.lost.len()
    );
    tally.count(
        &format!(
            "nothing that was durable past the page cache is lost in {cuts} power cuts by replay on Linux {}",
            kernel.name
        ),
        judged.lost.is_empty(),
    );
    if let Some(loss) = forgetful.lost.first() {
        println!("a disk past the page cache whose FLUSH does nothing, {loss}");
    }
    tally.count(
        &format!("a disk past the page cache whose FLUSH does nothing is found out on Linux {}", kernel.name),
        !forgetful.lost.is_empty(),
    );
    Ok(())
}

/// One machine, in which all of them are made and looked at.
fn record(kernel: &Kernel, cuts: u64, seed: u64) -> Result<Vec<Recording>> {
    let programs = workspace::build(["build", "--release", "--workspace", "--bins", "--examples"])?;
    let disks = [DISK_BYTES, LOG_BYTES].map(|bytes| u64::try_from(bytes).unwrap_or(u64::MAX)).to_vec();
    let machine = vm::Wanted { disks, modules: vec!["ext4", "dm_log_writes"], ..vm::Wanted::default() };
    let mut guest = Guest::new(kernel, &machine)?;
    for program in programs.iter().filter(|program| [JUDGED, FORGETFUL, FUA].contains(&program.target.as_str())) {
        guest.files.program_on_path(&program.path)?;
    }
    for tool in [packages::MKE2FS, packages::E2FSCK, packages::DMSETUP] {
        guest.files.add(tool.name)?;
    }
    let (cuts, seed) = (cuts.to_string(), seed.to_string());
    let command = ["/usr/lib/xtask/agent", "guest-replay", &cuts, &seed, JUDGED, FORGETFUL].map(OsString::from);
    let mut heard = Heard::default();
    let mut complaint = Vec::new();
    let ending = guest.run(&command, Timeout::Silence(Duration::from_secs(120)), |stream, bytes| match stream {
        Stream::Output => heard.take(bytes),
        Stream::Error => {
            complaint.extend_from_slice(bytes);
            Ok(())
        }
    })?;
    match ending {
        Ending::Exited(0) => Ok(heard.recordings),
        Ending::Exited(status) => {
            Err(Failure::new(format!("guest-replay: status {status}: {}", String::from_utf8_lossy(&complaint))))
        }
        Ending::Lost(lost) => Err(Failure::new(format!("{}\n{}", lost.why, lost.story()))),
    }
}

/// A disk that was logged, and what was found of it after the power cuts.
#[derive(Debug, Default)]
struct Recording {
    server: String,
    /// How many are found after each cut.
    blocks: u64,
    truth: Truth,
    /// What was acknowledged when each mark was made.
    marks: Vec<Truth>,
    /// Between `cut` and `found`.
    cut: Option<Truth>,
    cuts: u64,
    lost: Vec<String>,
}

impl Recording {
    fn line(&mut self, line: &str) -> Result<()> {
        let bad = || Failure::new(format!("the guest said \"{line}\""));
        let words: Vec<&str> = line.split(' ').collect();
        let number = |index: usize| words.get(index).and_then(|word| word.parse::<usize>().ok()).ok_or_else(bad);
        match words.first().copied().unwrap_or_default() {
            "m" if number(1)? == self.marks.len() => self.marks.push(self.truth.clone()),
            "m" => return Err(bad()),
            "cut" => {
                let mark = |number: usize| self.marks.get(number).ok_or_else(bad);
                let (ahead, behind) = (mark(number(1)?)?, mark(number(2)?)?);
                let mut truth = ahead.clone();
                // What was written behind the next mark cannot be there.
                truth.last = behind.last;
                self.cut = Some(truth);
            }
            "found" => {
                let mut truth = self.cut.take().ok_or_else(bad)?;
                truth.all_found(self.blocks);
                self.cuts += 1;
                self.lost.extend(truth.lost.iter().map(|loss| format!("power cut {}: {loss}", self.cuts)));
            }
            _ => match &mut self.cut {
                Some(truth) => truth.found(line),
                None => self.truth.acknowledged(line),
            },
        }
        Ok(())
    }

    fn add(&mut self, other: Self) {
        self.truth.acknowledged += other.truth.acknowledged;
        self.truth.made_durable += other.truth.made_durable;
        self.truth.files_synced += other.truth.files_synced;
        self.cuts += other.cuts;
        self.lost.extend(other.lost);
    }
}

/// What comes out of the machine.
#[derive(Debug, Default)]
struct Heard {
    lines: Lines,
    recordings: Vec<Recording>,
}

impl Heard {
    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        for line in self.lines.take(bytes) {
            match (line.split(' ').collect::<Vec<_>>().as_slice(), self.recordings.last_mut()) {
                (["recording", server, blocks], _) => {
                    let blocks = blocks.parse().map_err(io::Error::other)?;
                    self.recordings.push(Recording { server: (*server).to_owned(), blocks, ..Recording::default() });
                }
                (_, Some(recording)) => {
                    recording.line(&line).map_err(|failure| io::Error::other(failure.to_string()))?
                }
                (_, None) => return Err(io::Error::other(format!("the guest said \"{line}\""))),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Heard;

    fn heard(lines: &str) -> std::io::Result<Vec<String>> {
        let mut heard = Heard::default();
        heard.take(lines.as_bytes())?;
        Ok(heard.recordings.into_iter().flat_map(|recording| recording.lost).collect())
    }

    /// What is lost where one block was found at a cut, with that acknowledged.
    fn lost(acknowledged: &str, cut: &str, found: &str) -> usize {
        heard(&format!("recording loop 1\nm 0\n{acknowledged}cut {cut}\n{found}\nfound\n")).unwrap().len()
    }

    #[test]
    fn what_was_durable_at_the_mark_ahead_of_the_cut_has_to_be_there() {
        let written = "w 3 1\nf\nm 1\nw 3 2\nd 3 3\nm 2\n";
        for (cut, write, losses) in
            [("0 1", 0, 0), ("1 2", 0, 1), ("1 2", 1, 0), ("1 2", 3, 0), ("2 2", 2, 1), ("2 2", 3, 0)]
        {
            assert_eq!(lost(written, cut, &format!("block 3 {write}")), losses, "{cut}: {write}");
        }
    }

    #[test]
    fn what_was_written_behind_the_cut_what_is_torn_and_what_was_not_looked_at_is_wrong() {
        let written = "w 3 1\nw 3 2\nw 3 3\nm 1\n";
        assert_eq!(lost(written, "0 1", "block 3 3"), 0);
        assert_eq!(lost(written, "0 0", "block 3 3"), 1);
        assert_eq!(lost(written, "0 1", "torn 3"), 1);
        assert_eq!(lost(written, "0 1", "fsck 0"), 1);
        assert_eq!(lost(written, "0 1", "block 3 3\nunreadable why"), 1);
    }

    #[test]
    fn each_cut_is_judged_by_its_own_mark_and_each_recording_by_itself() {
        let one = "recording loop 0\nm 0\ns 0\nm 1\ns 1\nm 2\n";
        let cuts =
            "cut 2 2\nfile 0\nfile 1\nfsck 0\nfound\ncut 0 1\nfsck 0\nfound\ncut 1 2\nfile 0\nbad 1\nfsck 0\nfound\n";
        assert_eq!(heard(&format!("{one}{cuts}{one}{cuts}")).unwrap(), [""; 0]);
        assert_eq!(heard(&format!("{one}cut 1 2\nfile 1\nfsck 0\nfound\n")).unwrap().len(), 1);
        assert_eq!(heard(&format!("{one}cut 1 2\nunmountable\nfound\n")).unwrap().len(), 1);
    }

    #[test]
    fn what_the_guest_may_not_say_is_an_error() {
        for lines in [
            "m 0\n",
            "recording loop x\n",
            "recording loop 1\nm 1\n",
            "recording loop 1\nm 0\ncut 0 1\n",
            "recording loop 1\nfound\n",
        ] {
            assert!(heard(lines).is_err(), "{lines}");
        }
    }
}
