// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines on standard output and standard error.
//!
//! `Display` of an error would do, and link; but it is a quarter of the whole program.

use core::ffi::c_int;
use core::fmt::{self, Write};

use ublk::{DeviceId, Errno, Error};

/// Says where the block device is.
pub fn say_path(id: DeviceId) {
    let mut line = Line::default();
    // There is room for every id.
    let _ = writeln!(line, "/dev/ublkb{id}");
    line.send(libc::STDOUT_FILENO);
}

/// Says why the program ends; its exit status.
pub fn complain(error: Error) -> c_int {
    let (what, why) = match error {
        Error::System { errno, .. } => ("a system call", errno_name(errno)),
        Error::OpenControl { errno } => ("/dev/ublk-control", errno_name(errno)),
        Error::OpenCharDevice { errno, .. } => ("the char device", errno_name(errno)),
        Error::Control { command, errno, .. } | Error::Io { command, errno, .. } => {
            (command.name().unwrap_or("a command"), errno_name(errno))
        }
        Error::TimedOut { command, .. } => (command.name().unwrap_or("a command"), "no answer in time"),
        Error::Invalid { what } | Error::Implausible { what, .. } => (what, "wrong"),
        _ => ("the server", "cannot go on"),
    };
    let mut line = Line::default();
    for part in ["null-no-std: ", what, ": ", why, "\n"] {
        line.push(part);
    }
    line.send(libc::STDERR_FILENO);
    1
}

fn errno_name(errno: Errno) -> &'static str {
    errno.name().unwrap_or("an errno without a name here")
}

/// A line that is written in one go. What does not fit is cut off.
struct Line {
    bytes: [u8; 128],
    len: usize,
}

impl Default for Line {
    fn default() -> Line {
        Line { bytes: [0; 128], len: 0 }
    }
}

impl Line {
    fn push(&mut self, text: &str) {
        for (place, byte) in self.bytes.iter_mut().skip(self.len).zip(text.bytes()) {
            *place = byte;
            self.len += 1;
        }
    }

    /// Whether somebody reads it is not ours to know.
    fn send(&self, fd: c_int) {
        // SAFETY: `len` counts bytes of the array, which lives through the call, and is only read there.
        unsafe { libc::write(fd, self.bytes.as_ptr().cast(), self.len) };
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text);
        Ok(())
    }
}
