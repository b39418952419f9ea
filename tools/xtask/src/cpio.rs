// SPDX-License-Identifier: MIT OR Apache-2.0
//! The archive format that the kernel unpacks as its first file system ("newc" of cpio).
//!
//! Layout: `Documentation/driver-api/early-userspace/buffer-format.rst`.

use std::io::{self, Read, Write};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

/// Writes one archive.
#[derive(Debug)]
pub(crate) struct Writer<W> {
    to: W,
    inode: u32,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(to: W) -> Self {
        Self { to, inode: 0 }
    }

    pub(crate) fn directory(&mut self, path: &str) -> io::Result<()> {
        self.header(path, DIRECTORY | 0o755, 0)
    }

    pub(crate) fn symlink(&mut self, path: &str, target: &[u8]) -> io::Result<()> {
        self.header(path, SYMLINK | 0o777, length(target.len())?)?;
        self.to.write_all(target)?;
        self.pad(target.len())
    }

    pub(crate) fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        self.header(path, REGULAR | (mode & 0o7777), length(bytes.len())?)?;
        self.to.write_all(bytes)?;
        self.pad(bytes.len())
    }

    /// Packs what `from` holds; a file that grows or shrinks meanwhile is an error, not a broken archive.
    pub(crate) fn stream(&mut self, path: &str, mode: u32, len_bytes: u64, from: impl Read) -> io::Result<()> {
        self.header(path, REGULAR | (mode & 0o7777), length(len_bytes)?)?;
        let copied = io::copy(&mut from.take(len_bytes), &mut self.to)?;
        if copied != len_bytes {
            return Err(io::Error::other(format!("{path} changed while it was packed")));
        }
        self.pad(length(len_bytes)?.try_into().map_err(io::Error::other)?)
    }

    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.header("TRAILER!!!", 0, 0)?;
        self.to.flush()
    }

    fn header(&mut self, path: &str, mode: u32, len_bytes: u32) -> io::Result<()> {
        self.inode += 1;
        let inode = self.inode;
        let name_len = length(path.len() + 1)?;
        // inode mode uid gid links mtime size, device major and minor, special major and minor, name size, check
        write!(
            self.to,
            "070701{inode:08x}{mode:08x}{0:08x}{0:08x}{1:08x}{0:08x}{len_bytes:08x}{0:08x}{0:08x}{0:08x}{0:08x}{name_len:08x}{0:08x}{path}\0",
            0, 1
        )?;
        self.pad(110 + path.len() + 1)
    }

    fn pad(&mut self, written: usize) -> io::Result<()> {
        let missing = written.next_multiple_of(4) - written;
        self.to.write_all(&[0; 3][..missing])
    }
}

fn length(len_bytes: impl TryInto<u32>) -> io::Result<u32> {
    len_bytes.try_into().map_err(|_| io::Error::other("the archive format has no file of 4 GiB or more"))
}

#[cfg(test)]
mod tests {
    use super::Writer;

    fn archive(fill: impl FnOnce(&mut Writer<&mut Vec<u8>>)) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        fill(&mut writer);
        writer.finish().unwrap();
        bytes
    }

    #[test]
    fn every_entry_starts_at_a_multiple_of_four() {
        for len in 0..9_usize {
            let bytes = archive(|writer| writer.file(&"n".repeat(len + 1), 0o644, &vec![b'x'; len]).unwrap());
            let starts: Vec<usize> =
                bytes.windows(6).enumerate().filter(|(_, w)| w == b"070701").map(|(at, _)| at).collect();
            assert_eq!(starts.len(), 2);
            assert!(starts.iter().all(|at| at % 4 == 0), "{starts:?}");
        }
    }

    #[test]
    fn a_header_says_mode_size_and_name_length() {
        let bytes = archive(|writer| writer.file("etc/a", 0o755, b"hello").unwrap());
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(&text[14..22], "000081ed");
        assert_eq!(&text[54..62], "00000005");
        assert_eq!(&text[94..102], "00000006");
        assert_eq!(&text[110..116], "etc/a\0");
        assert_eq!(&text[116..121], "hello");
    }

    #[test]
    fn a_file_that_shrinks_is_refused() {
        let mut bytes = Vec::new();
        assert!(Writer::new(&mut bytes).stream("a", 0o644, 6, &b"hello"[..]).is_err());
    }
}
