// SPDX-License-Identifier: MIT OR Apache-2.0
//! The block device of the server's own device, opened and synced in a thread that serves no queue.
//!
//! Whoever opens it, or syncs it, may wait for requests that this very server has to answer.

use std::format;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::errno::Errno;
use crate::error::{Error, no_thread};
use crate::id::DeviceId;
use crate::server::stop::Bell;
use crate::syscall;

/// What came of looking at the block device.
#[derive(Debug)]
pub(super) enum Looked {
    /// It is open, and what was in the page cache is written, if that was wanted.
    Open(File),
    /// Somebody has it open exclusively: it is mounted, for instance.
    InUse,
    /// It could not be opened: `ENOENT`, there is no node of it here; `ENODEV`, the node is another's.
    NotOpened(Errno),
    /// What was in the page cache could not be written.
    NotSynced(Errno),
}

/// How it is looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) id: DeviceId,
    /// The numbers of the block device, as the driver gives them.
    pub(super) numbers: (u32, u32),
    /// Whether nobody else is to have it so.
    pub(super) exclusively: bool,
    /// Whether the page cache is to be written back.
    pub(super) syncs: bool,
}

impl Look {
    /// Begins to look, in a thread that is not waited for: one that hangs in the kernel hangs alone, as long as nobody kills the process.
    pub(super) fn begin(self) -> Result<Arc<Looking>, Error> {
        let looking = Arc::new(Looking { done: Bell::new()?, seen: Mutex::new(None) });
        let told = Arc::clone(&looking);
        let spawned = thread::Builder::new().spawn(move || {
            let seen = self.look();
            // Nobody panics while it is locked, and nobody may want to know any more.
            if let Ok(mut place) = told.seen.lock() {
                *place = Some(seen);
            }
            told.done.notify();
        });
        match spawned {
            Ok(_) => Ok(looking),
            Err(error) => Err(no_thread(&error)),
        }
    }

    fn look(self) -> Looked {
        let exclusive = if self.exclusively { syscall::OPEN_EXCLUSIVELY } else { 0 };
        let opened = OpenOptions::new().read(true).custom_flags(exclusive).open(format!("/dev/ublkb{}", self.id));
        let disk = match opened {
            Ok(disk) if self.is_of(&disk) => disk,
            // A name may lead anywhere.
            Ok(_) => return Looked::NotOpened(Errno::ENODEV),
            Err(error) => match errno_of(&error) {
                Errno::EBUSY => return Looked::InUse,
                errno => return Looked::NotOpened(errno),
            },
        };
        let synced = if self.syncs { disk.sync_all() } else { Ok(()) };
        match synced {
            Ok(()) => Looked::Open(disk),
            Err(error) => Looked::NotSynced(errno_of(&error)),
        }
    }

    fn is_of(self, disk: &File) -> bool {
        let (major, minor) = self.numbers;
        disk.metadata().is_ok_and(|about| {
            about.file_type().is_block_device() && syscall::device_numbers(about.rdev()) == (major, minor)
        })
    }
}

fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// A look that is under way.
#[derive(Debug)]
pub(super) struct Looking {
    /// Notified when something was seen.
    pub(super) done: Bell,
    seen: Mutex<Option<Looked>>,
}

impl Looking {
    /// What was seen, once it was.
    pub(super) fn seen(&self) -> Option<Looked> {
        self.seen.lock().ok()?.take()
    }
}
