// SPDX-License-Identifier: MIT OR Apache-2.0
//! `xtask guest-power`, in the guest: writes to disks whose machine loses its power, and says what was acknowledged as soon as it was.
//!
//! A line each on standard output, which leaves the machine through a virtio-serial port:
//!
//! | line | says |
//! |---|---|
//! | `block N WRITE` | block N holds that write, as it was found after the power came back |
//! | `torn N` | block N holds parts of writes |
//! | `file N` | file N was found whole in the file system |
//! | `bad N` | it was found, and is not what was written |
//! | `unmountable` | the file system cannot be mounted any more |
//! | `fsck STATUS` | what e2fsck found, after the journal was replayed |
//! | `found` | that was all that there is |
//! | `w N WRITE` | the write was acknowledged |
//! | `f` | a FLUSH was, which was asked for behind all of those |
//! | `d N WRITE` | a write with FUA was |
//! | `s N` | file N was fsynced, and its folder |

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;

use crate::failure::{Context, Failure, Result};

pub(crate) const BLOCKS: u64 = 256;
pub(crate) const BLOCK: usize = 4096;
/// Bytes of a file in the file system: some blocks, and no whole number of them.
const FILE: usize = 5 * BLOCK + 100;
/// Where the file system of the files is mounted.
pub(crate) const FOLDER: &str = "/tmp/files";
const O_DIRECT: i32 = 0x4000;

/// What writes with FUA.
pub(crate) const FUA: &str = "fua";

/// `first|again SERVER`: after a power-on, the first or a later one, with the program that serves a file as a disk.
pub(crate) fn run(arguments: &[OsString]) -> Result<()> {
    let [when, server] = arguments else { return Err(Failure::new("guest-power first|again SERVER".to_owned())) };
    let server = server.to_string_lossy();
    let first = when == "first";
    if first {
        done("mkfs.ext4", &["-q", "/dev/vda"])?;
    }
    done("mount", &["-t", "ext4", "/dev/vda", "/mnt"])?;
    if first {
        // Every block of theirs is there already: what is lost is what was written to them.
        for (name, bytes) in [("blocks", usize::try_from(BLOCKS).unwrap_or(0) * BLOCK), ("files", 96 << 20)] {
            let made = fs::write(format!("/mnt/{name}"), vec![0; bytes]);
            made.context(|| format!("cannot make {name}"))?;
        }
        done("sync", &[])?;
    }
    say_blocks(&fs::read("/mnt/blocks").context(|| "cannot read the blocks".to_owned())?);
    let (_blocks_server, blocks) = serve(&server, "off", "/mnt/blocks")?;
    let (_files_server, files) = serve(&server, "off", "/mnt/files")?;
    if first {
        done("mkfs.ext4", &["-q", &files])?;
    }
    let Some(next) = say_files(&files)? else {
        println!("found");
        return write_blocks(&blocks, say);
    };
    done("mount", &["-t", "ext4", &files, FOLDER])?;
    println!("found");
    let writer = thread::spawn(move || write_files(next, say));
    write_blocks(&blocks, say)?;
    // Neither comes to an end; one that fails says why.
    writer.join().unwrap_or_else(|_| Err(Failure::new("the writer of files panicked".to_owned())))
}

/// Says it, and goes on.
fn say(line: &str) -> Result<bool> {
    println!("{line}");
    Ok(true)
}

pub(crate) fn done(program: &str, arguments: &[&str]) -> Result<()> {
    let status = Command::new(program).args(arguments).stdin(Stdio::null()).status();
    let status = status.context(|| format!("cannot run {program}"))?;
    if status.success() { Ok(()) } else { Err(Failure::new(format!("{program} {}: {status}", arguments.join(" ")))) }
}

/// A server of the file, and the path of its disk. Its `direct` is "off" where the page cache is the cache which the power cut loses.
pub(crate) fn serve(server: &str, direct: &str, file: &str) -> Result<(Child, String)> {
    let mut child = Command::new(server)
        .args(["--direct", direct, file])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context(|| format!("cannot run {server}"))?;
    let mut line = String::new();
    let output = child.stdout.take().map(BufReader::new);
    let read = output.map_or(Ok(0), |mut output| {
        let read = output.read_line(&mut line);
        // It prints more, which nobody reads: the pipe has room for it.
        core::mem::forget(output);
        read
    });
    read.context(|| format!("cannot hear {server}"))?;
    let disk = line.trim_end().to_owned();
    if disk.starts_with("/dev/ublkb") {
        Ok((child, disk))
    } else {
        Err(Failure::new(format!("{server} said \"{disk}\"")))
    }
}

/// The bytes of that write to that place: each 16 of them say both.
fn fill(bytes: &mut [u8], place: u64, write: u64) {
    for (index, part) in (0_u64..).zip(bytes.chunks_mut(16)) {
        let mut words = [0; 16];
        words[..8].copy_from_slice(&(place << 16 | index).to_le_bytes());
        words[8..].copy_from_slice(&write.to_le_bytes());
        part.copy_from_slice(&words[..part.len()]);
    }
}

/// Which write the bytes are; `None` where they are not one.
fn write_in(bytes: &[u8], place: u64) -> Option<u64> {
    let write = u64::from_le_bytes(bytes.get(8..16)?.try_into().ok()?);
    let mut whole = vec![0; bytes.len()];
    if write > 0 {
        fill(&mut whole, place, write);
    }
    (whole == bytes).then_some(write)
}

/// Says which write each of the blocks holds.
pub(crate) fn say_blocks(bytes: &[u8]) {
    for (block, bytes) in (0..).zip(bytes.chunks(BLOCK)) {
        match write_in(bytes, block) {
            Some(write) => println!("block {block} {write}"),
            None => println!("torn {block}"),
        }
    }
}

/// Says what is in the file system, and what e2fsck finds; the number that no file has, or `None` where it cannot be mounted.
pub(crate) fn say_files(disk: &str) -> Result<Option<u64>> {
    fs::create_dir_all(FOLDER).context(|| "cannot make a folder".to_owned())?;
    // The mount replays the journal.
    if let Err(failure) = done("mount", &["-t", "ext4", disk, FOLDER]) {
        println!("unmountable");
        eprintln!("{failure}");
        return Ok(None);
    }
    let next = found_files(Path::new(FOLDER));
    done("umount", &[FOLDER])?;
    let next = next?;
    let checked = Command::new("e2fsck").args(["-f", "-n", disk]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let checked = checked.context(|| "cannot run e2fsck".to_owned())?;
    println!("fsck {}", checked.code().unwrap_or(-1));
    Ok(Some(next))
}

/// Says which files there are; the number that none has.
fn found_files(folder: &Path) -> Result<u64> {
    let mut next = 0;
    for entry in fs::read_dir(folder).context(|| format!("cannot read {}", folder.display()))? {
        let path = entry.context(|| format!("cannot read {}", folder.display()))?.path();
        let Some(number) = path.file_name().and_then(|name| name.to_str()?.parse::<u64>().ok()) else { continue };
        let bytes = fs::read(&path).context(|| format!("cannot read {}", path.display()))?;
        let is_whole = bytes.len() == FILE && write_in(&bytes, number) == Some(1);
        println!("{} {number}", if is_whole { "file" } else { "bad" });
        next = next.max(number + 1);
    }
    Ok(next)
}

/// Writes to the blocks until `acknowledged`, which hears of each write and each flush as soon as it was, has had enough.
pub(crate) fn write_blocks(disk: &str, mut acknowledged: impl FnMut(&str) -> Result<bool>) -> Result<()> {
    let plain = OpenOptions::new().read(true).write(true).custom_flags(O_DIRECT).open(disk);
    let plain = plain.context(|| format!("cannot open {disk}"))?;
    let mut durable = Fua::start(disk)?;
    let mut memory = vec![0; 2 * BLOCK];
    let start = memory.as_ptr().align_offset(BLOCK);
    let bytes = &mut memory[start..start + BLOCK];
    let mut write = 0;
    for block in 0..BLOCKS {
        plain.read_exact_at(bytes, block * 4096).context(|| format!("cannot read {disk}"))?;
        write = write.max(write_in(bytes, block).unwrap_or(0));
    }
    loop {
        write += 1;
        // Every third goes to a few blocks, which are so written over before they are flushed.
        let block = if write % 3 == 0 { write % 7 } else { write * 37 % BLOCKS };
        fill(bytes, block, write);
        let is_durable = write % 11 == 0;
        let written =
            if is_durable { durable.write(bytes, block * 4096) } else { plain.write_all_at(bytes, block * 4096) };
        written.context(|| format!("cannot write to {disk}"))?;
        let mut goes_on = acknowledged(&format!("{} {block} {write}", if is_durable { "d" } else { "w" }))?;
        if write % 16 == 0 {
            plain.sync_all().context(|| format!("cannot flush {disk}"))?;
            goes_on = acknowledged("f")?;
        }
        if !goes_on {
            return durable.end();
        }
    }
}

/// The program that writes with FUA, and with no FLUSH behind it: write(2) cannot.
struct Fua {
    program: Child,
    blocks: ChildStdin,
    answers: ChildStdout,
}

impl Fua {
    fn start(disk: &str) -> Result<Self> {
        let program = Command::new(FUA).arg(disk).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut program = program.context(|| format!("cannot run {FUA}"))?;
        let (Some(blocks), Some(answers)) = (program.stdin.take(), program.stdout.take()) else {
            return Err(Failure::new(format!("{FUA} has no pipes")));
        };
        Ok(Self { program, blocks, answers })
    }

    /// The block is durable when this returns.
    fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.blocks.write_all(&offset.to_le_bytes())?;
        self.blocks.write_all(bytes)?;
        self.answers.read_exact(&mut [0])
    }

    /// It has the disk open no more.
    fn end(self) -> Result<()> {
        let Self { mut program, blocks, .. } = self;
        drop(blocks);
        let status = program.wait().context(|| format!("cannot wait for {FUA}"))?;
        if status.success() { Ok(()) } else { Err(Failure::new(format!("{FUA}: {status}"))) }
    }
}

/// Writes files, with that number first, until `acknowledged`, which hears of each as soon as it was synced, has had enough.
pub(crate) fn write_files(first: u64, mut acknowledged: impl FnMut(&str) -> Result<bool>) -> Result<()> {
    let folder = Path::new(FOLDER);
    let complain = |number: u64| move || format!("cannot write file {number}");
    for number in first.. {
        let mut bytes = vec![0; FILE];
        fill(&mut bytes, number, 1);
        let mut file = File::create(folder.join(number.to_string())).context(complain(number))?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).context(complain(number))?;
        File::open(folder).and_then(|folder| folder.sync_all()).context(complain(number))?;
        if !acknowledged(&format!("s {number}"))? {
            return Ok(());
        }
        // The file system is not to become full.
        if let Some(old) = number.checked_sub(1000) {
            fs::remove_file(folder.join(old.to_string())).context(complain(old))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{BLOCK, FILE, fill, write_in};

    #[test]
    fn a_write_is_told_from_another_from_a_torn_one_and_from_one_to_another_place() {
        for len in [BLOCK, FILE] {
            let mut bytes = vec![0; len];
            assert_eq!(write_in(&bytes, 3), Some(0));
            fill(&mut bytes, 3, 7);
            assert_eq!((write_in(&bytes, 3), write_in(&bytes, 4)), (Some(7), None));
            fill(&mut bytes[..16], 3, 8);
            assert_eq!(write_in(&bytes, 3), None);
            fill(&mut bytes, 3, 7);
            bytes[len - 1] ^= 1;
            assert_eq!(write_in(&bytes, 3), None);
        }
    }
}
