// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `loop` and `stripe` keep their blocks in: a file, or a block device.

pub(crate) mod choice;
pub(crate) mod syncs;

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};

use ublk::Fd;

/// Blocks that O_DIRECT may want, the smallest first.
const BLOCKS: [u16; 2] = [512, 4096];

/// Whether the page cache stands between the disk and what is behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direct {
    /// It does not, where that is possible.
    Auto,
    /// It does not (`O_DIRECT`).
    On,
    /// It does.
    Off,
}

impl Direct {
    /// What an option says; `None` for a word that is none.
    pub(crate) fn parse(word: &str) -> Option<Direct> {
        match word {
            "auto" => Some(Direct::Auto),
            "on" => Some(Direct::On),
            "off" => Some(Direct::Off),
            _ => None,
        }
    }
}

/// A file or a block device that is open.
#[derive(Debug)]
pub(crate) struct Backing {
    file: File,
    /// Bytes of all its whole blocks.
    pub(crate) len_bytes: u64,
    /// Bytes behind them, which the disk has not.
    pub(crate) cut_bytes: u64,
    /// Bytes of a block: with O_DIRECT offsets and lengths are multiples of it, and so are addresses of memory.
    pub(crate) block_bytes: u32,
    pub(crate) is_direct: bool,
    pub(crate) is_read_only: bool,
    /// Of a block device, where sysfs says what the block layer knows of it.
    pub(crate) queue: Option<String>,
}

impl Backing {
    /// Opens it; for reading alone where it cannot be written, or is not to be.
    pub(crate) fn open(path: &str, direct: Direct, read_only: bool) -> Result<Backing, String> {
        let complain = |error: io::Error| format!("{path}: {error}");
        let about = fs::metadata(path).map_err(complain)?;
        let is_device = about.file_type().is_block_device();
        if !is_device && !about.is_file() {
            return Err(format!("{path}: neither a file nor a block device"));
        }
        // On a block device O_EXCL refuses what is mounted, or somebody's else.
        let exclusive = if is_device { libc::O_EXCL } else { 0 };
        let is_refused = |error: &io::Error| {
            matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::EROFS | libc::ETXTBSY))
        };
        let (file, is_read_only) = match open(path, !read_only, exclusive) {
            Err(error) if !read_only && is_refused(&error) => (open(path, false, exclusive).map_err(complain)?, true),
            opened => (opened.map_err(complain)?, read_only),
        };
        let queue = is_device.then(|| queue_of(&about));
        // Whoever opens a block device that is read-only may be told so only when writing.
        let is_read_only = is_read_only || attribute(queue.as_deref(), "../ro") == Some(1);
        let (len, block_bytes) = if is_device {
            let len = (&file).seek(SeekFrom::End(0)).map_err(complain)?;
            (len, attribute(queue.as_deref(), "logical_block_size").unwrap_or(4096))
        } else {
            (about.len(), BLOCKS[0].into())
        };
        let mut backing =
            Backing { file, len_bytes: len, cut_bytes: 0, block_bytes, is_direct: false, is_read_only, queue };
        if direct != Direct::Off {
            match backing.past_the_cache() {
                Ok((file, block_bytes)) => {
                    (backing.block_bytes, backing.is_direct) = (block_bytes, true);
                    // A block device is ours as long as the first one is open.
                    if !is_device {
                        backing.file = file;
                    }
                }
                Err(error) if direct == Direct::On => return Err(format!("{path}: no direct I/O: {error}")),
                Err(_) => {}
            }
        }
        backing.cut_bytes = len % u64::from(backing.block_bytes);
        backing.len_bytes = len - backing.cut_bytes;
        if backing.len_bytes == 0 {
            return Err(format!("{path}: {len} bytes are not one block of {}", backing.block_bytes));
        }
        Ok(backing)
    }

    /// The file once more, with a position and an error of its own: Linux reports that writing back has failed once to each that
    /// has it open.
    pub(crate) fn reopen(&self) -> Result<Fd, String> {
        let flags = if self.is_direct { libc::O_DIRECT } else { 0 };
        let opened = open(&self.link(), !self.is_read_only, flags);
        opened.map(|file| Fd::from(OwnedFd::from(file))).map_err(|error| format!("cannot open it again: {error}"))
    }

    /// What the block layer says of a block device, where it is a number.
    pub(crate) fn limit(&self, name: &str) -> Option<u32> {
        attribute(self.queue.as_deref(), name)
    }

    /// The file opened with O_DIRECT, and the smallest block that can be read so. Of a block device that is known; of a file only
    /// statx(2) would tell, and so it is tried, from memory that is aligned no better.
    fn past_the_cache(&self) -> io::Result<(File, u32)> {
        let file = open(&self.link(), !self.is_read_only, libc::O_DIRECT)?;
        let mut memory = vec![0; 3 * 4096];
        let page = memory.as_ptr().align_offset(4096);
        let mut refused = io::Error::from(io::ErrorKind::InvalidInput);
        for block in BLOCKS.iter().filter(|block| u32::from(**block) >= self.block_bytes) {
            let start = page + usize::from(*block) % 4096;
            match file.read_at(&mut memory[start..start + usize::from(*block)], u64::from(*block)) {
                Ok(_) => return Ok((file, (*block).into())),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    /// A path that leads to this very file, whatever became of its name.
    fn link(&self) -> String {
        format!("/proc/self/fd/{}", self.file.as_raw_fd())
    }
}

fn open(path: &str, writes: bool, flags: i32) -> io::Result<File> {
    OpenOptions::new().read(true).write(writes).custom_flags(flags).open(path)
}

/// Where sysfs describes the queue of a block device; of a partition it is that of its disk.
fn queue_of(device: &Metadata) -> String {
    let number = device.rdev();
    let major = (number >> 8) & 0xfff | (number >> 32) & !0xfff;
    let minor = number & 0xff | (number >> 12) & 0xffff_ff00;
    let folder = format!("/sys/dev/block/{major}:{minor}");
    let own = format!("{folder}/queue");
    if fs::exists(&own).unwrap_or(false) { own } else { format!("{folder}/../queue") }
}

fn attribute(queue: Option<&str>, name: &str) -> Option<u32> {
    fs::read_to_string(format!("{}/{name}", queue?)).ok()?.trim().parse().ok()
}
