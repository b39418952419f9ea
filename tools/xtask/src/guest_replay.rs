// SPDX-License-Identifier: MIT OR Apache-2.0
//! `xtask guest-replay`, in the guest: disks that are served past the page cache, from a device that logs what is written to it, and
//! what they hold after power cuts at places of the log.
//!
//! Lines on standard output, those of `guest-power` and these:
//!
//! | line | says |
//! |---|---|
//! | `recording SERVER BLOCKS` | an empty disk, served by that program; so many blocks are found after a cut, or none but files |
//! | `m N` | the log has mark N, which was made when all that was said before had been acknowledged |
//! | `cut N M` | the power is cut behind mark N, and not behind mark M; what is found after it follows, up to `found` |
//! | `unreadable WHY` | it could not even be looked at |

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, Write};

use crate::chance::Chance;
use crate::failure::{Context, Failure, Result};
use crate::guest_power::{BLOCK, BLOCKS, FOLDER, done, say_blocks, say_files, serve, write_blocks, write_files};
use crate::write_log::WriteLog;

/// The disk that is logged, and made again.
const DISK: &str = "/dev/vda";
pub(crate) const DISK_BYTES: usize = 32 << 20;
const LOG: &str = "/dev/vdb";
pub(crate) const LOG_BYTES: usize = 256 << 20;

/// What stands before the disk and logs, for device mapper and as a device.
const LOGGED: &str = "logged";
const LOGGED_DISK: &str = "/dev/dm-0";
const LOGGED_CACHE: &str = "/sys/block/dm-0/queue/write_cache";

/// How often the power of the disk that forgets is cut: at one place by chance everything may have been written back.
const FORGETFUL_CUTS: u64 = 10;

/// `CUTS SEED SERVER FORGETFUL`: how often, where chance starts, and the programs that serve.
pub(crate) fn run(arguments: &[OsString]) -> Result<()> {
    let words: Vec<_> = arguments.iter().map(|word| word.to_string_lossy()).collect();
    let [cuts, seed, server, forgetful] = words.as_slice() else {
        return Err(Failure::new("guest-replay CUTS SEED SERVER FORGETFUL"));
    };
    let number = |word: &str| word.parse::<u64>().context(|| word.to_owned());
    let (cuts, mut chance) = (number(cuts)?, Chance::new(number(seed)?));
    blocks(server, cuts, &mut chance)?;
    files(server, cuts, &mut chance)?;
    blocks(forgetful, FORGETFUL_CUTS, &mut chance)
}

/// Blocks that are written to the bare disk.
fn blocks(server: &str, cuts: u64, chance: &mut Chance) -> Result<()> {
    println!("recording {server} {BLOCKS}");
    // A mark is a process, which takes its time: as many as there are cuts to make use of them.
    let enough = 100 + 10 * cuts;
    let log = logged(server, |disk, marks| {
        marks.mark()?;
        write_blocks(disk, |line| marks.acknowledged(line, enough))?;
        marks.mark()
    })?;
    let used = usize::try_from(BLOCKS).unwrap_or(0) * BLOCK;
    cut(&log, cuts, chance, |disk| {
        say_blocks(disk.get(..used).unwrap_or_default());
        Ok(())
    })
}

/// Files in a file system on the disk.
fn files(server: &str, cuts: u64, chance: &mut Chance) -> Result<()> {
    println!("recording {server} 0");
    let enough = 10 + cuts;
    let log = logged(server, |disk, marks| {
        done("mkfs.ext4", &["-q", disk])?;
        // Not before there is a file system.
        marks.mark()?;
        fs::create_dir_all(FOLDER).context(|| "cannot make a folder".to_owned())?;
        done("mount", &["-t", "ext4", disk, FOLDER])?;
        write_files(0, |line| marks.acknowledged(line, enough))?;
        done("umount", &[FOLDER])?;
        marks.mark()
    })?;
    cut(&log, cuts, chance, |disk| {
        fill(disk)?;
        say_files(DISK).map(drop)
    })
}

/// What `write` writes to a disk that is that server's, as it was logged.
fn logged(server: &str, write: impl FnOnce(&str, &mut Marks) -> Result<()>) -> Result<WriteLog> {
    fill(&vec![0; DISK_BYTES])?;
    let table = format!("0 {} log-writes {DISK} {LOG}", DISK_BYTES / 512);
    done("dmsetup", &["create", LOGGED, "--noudevsync", "--table", &table])?;
    // Else no FLUSH would come so far, and there would be nothing to judge.
    let cache = fs::read_to_string(LOGGED_CACHE).context(|| format!("cannot read {LOGGED_CACHE}"))?;
    if cache.trim_end() != "write back" {
        return Err(Failure::new(format!("the logged disk has a cache that is \"{}\"", cache.trim_end())));
    }
    let (mut child, disk) = serve(server, "on", LOGGED_DISK)?;
    write(&disk, &mut Marks::default())?;
    done("kill", &["-TERM", &child.id().to_string()])?;
    let status = child.wait().context(|| format!("cannot wait for {server}"))?;
    if !status.success() {
        return Err(Failure::new(format!("{server}: {status}")));
    }
    // A ring may give its files back a moment after its process is gone.
    done("dmsetup", &["remove", "--retry", "--noudevsync", LOGGED])?;
    let log = File::open(LOG).context(|| format!("cannot open {LOG}"))?;
    WriteLog::read(BufReader::with_capacity(1 << 20, log), DISK_BYTES)
}

/// Has the disk hold that.
fn fill(bytes: &[u8]) -> Result<()> {
    let disk = OpenOptions::new().write(true).open(DISK);
    disk.and_then(|mut disk| disk.write_all(bytes).and_then(|()| disk.sync_all()))
        .context(|| format!("cannot write to {DISK}"))
}

/// Cuts the power at places that chance has chosen, and has `look` say what the disk then holds.
fn cut(log: &WriteLog, cuts: u64, chance: &mut Chance, mut look: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let numbered = |(place, text): (usize, &str)| Some((place, text.parse::<u64>().ok()?));
    let marks: Vec<(usize, u64)> = log.marks().filter_map(numbered).collect();
    let (Some((first, _)), Some((_, last))) = (marks.first(), marks.last()) else {
        return Err(Failure::new("the log has no mark"));
    };
    for _ in 0..cuts {
        // Somewhere behind the first mark, up to the log's end.
        let places = u64::try_from(log.len() - first).unwrap_or(1);
        let place = first + 1 + usize::try_from(chance.below(places)).unwrap_or(0);
        let ahead = marks.iter().rfind(|(mark, _)| *mark < place).map_or(0, |(_, number)| *number);
        let behind = marks.iter().find(|(mark, _)| *mark >= place).map_or(*last, |(_, number)| *number);
        println!("cut {ahead} {behind}");
        if let Err(failure) = look(&log.disk_after(place, DISK_BYTES, chance)) {
            println!("unreadable {}", failure.to_string().replace('\n', " "));
        }
        println!("found");
    }
    Ok(())
}

/// Ties what was acknowledged to places of the log.
#[derive(Debug, Default)]
struct Marks {
    made: u64,
    acknowledged: u64,
}

impl Marks {
    fn mark(&mut self) -> Result<()> {
        done("dmsetup", &["message", LOGGED, "0", "mark", &self.made.to_string()])?;
        println!("m {}", self.made);
        self.made += 1;
        Ok(())
    }

    /// Says it, and marks where something became durable; whether that is not enough yet.
    fn acknowledged(&mut self, line: &str, enough: u64) -> Result<bool> {
        println!("{line}");
        if !line.starts_with("w ") {
            self.mark()?;
        }
        self.acknowledged += u64::from(line != "f");
        Ok(self.acknowledged < enough)
    }
}
