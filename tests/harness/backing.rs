// SPDX-License-Identifier: MIT OR Apache-2.0
//! A file behind a disk.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// A file that is gone when the test is.
pub struct Backing {
    pub path: PathBuf,
    pub file: File,
}

impl Backing {
    /// So many bytes of zeroes.
    pub fn new(len_bytes: u64) -> Backing {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("backing-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        file.set_len(len_bytes).unwrap();
        Backing { path, file }
    }

    pub fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, offset).unwrap();
        bytes
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        // Whatever the test said, it is not about this.
        let _ = fs::remove_file(&self.path);
    }
}
