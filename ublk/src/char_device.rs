// SPDX-License-Identifier: MIT OR Apache-2.0
//! `/dev/ublkcN`: the file that a server holds while it serves.

use core::ffi::CStr;
use core::fmt::Write;
use core::time::Duration;

use crate::control::Control;
use crate::deadline::Deadline;
use crate::errno::Errno;
use crate::error::{Error, SystemCall};
use crate::id::DeviceId;
use crate::params::Params;
use crate::syscall::{self, Fd};

/// The open char device of a device.
///
/// The driver lets one open file exist at a time: whoever has it is the server. It is let go when this value and
/// every queue made with it are gone, and the kernel has torn down their rings.
#[derive(Debug)]
pub(crate) struct CharDevice {
    fd: Fd,
}

impl CharDevice {
    /// Opens the char device of a device that was just added (`ublk_ch_open()`), waiting up to `patience` for a node that is
    /// not there yet, not ours yet, or looked at by udev; not for one whose device somebody has deleted meanwhile.
    pub(crate) fn open(control: &mut Control, id: DeviceId, patience: Duration) -> Result<CharDevice, Error> {
        CharDevice::open_while(id, patience, &mut |errno| match errno {
            Errno::ENOENT => !matches!(control.info(id), Err(Error::Control { errno: Errno::ENODEV, .. })),
            _ => matches!(errno, Errno::EACCES | Errno::EBUSY),
        })
    }

    /// Opens the char device of a device that was served, waiting up to `patience` until the driver is through with the
    /// last file.
    pub(crate) fn reopen(id: DeviceId, patience: Duration) -> Result<CharDevice, Error> {
        CharDevice::open_while(id, patience, &mut |errno| errno == Errno::EBUSY)
    }

    fn open_while(
        id: DeviceId,
        patience: Duration,
        passes: &mut dyn FnMut(Errno) -> bool,
    ) -> Result<CharDevice, Error> {
        let path = Path::of(id);
        let deadline = Deadline::after(patience);
        loop {
            match Fd::open(path.as_c_str()) {
                Ok(fd) => return Ok(CharDevice { fd }),
                // Nothing tells when udev has made or given the node, or when the driver has let go of the last file.
                Err(errno) if !deadline.is_over() && passes(errno) => {
                    syscall::sleep(Duration::from_millis(10));
                }
                Err(errno) => return Err(Error::OpenCharDevice { device: id, errno }),
            }
        }
    }

    /// Whether it is that of the device with these parameters, as the driver gives them, whatever its name led to.
    pub(crate) fn is_of(&self, params: &Params) -> bool {
        let numbers = params.as_raw().devt;
        syscall::char_device_numbers(&self.fd) == Some((numbers.char_major, numbers.char_minor))
    }

    /// Another descriptor of the same open file, for a queue or another process.
    pub(crate) fn duplicate(&self) -> Result<Fd, Error> {
        self.fd.try_clone().map_err(|errno| SystemCall::Dup.failed(errno))
    }
}

/// More than 10 letters, at most 10 digits, and a NUL.
const PATH_BYTES: usize = 24;

/// `/dev/ublkcN` with its NUL, made without memory of its own.
pub(crate) struct Path {
    bytes: [u8; PATH_BYTES],
    len: usize,
}

impl Path {
    pub(crate) fn of(id: DeviceId) -> Path {
        let mut path = Path { bytes: [0; PATH_BYTES], len: 0 };
        // It has room for the longest.
        let _ = write!(path, "/dev/ublkc{id}");
        path
    }

    pub(crate) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }
}

impl Write for Path {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let end = self.len + text.len();
        // The last byte stays NUL.
        let place = self.bytes.get_mut(self.len..end).filter(|_| end < PATH_BYTES).ok_or(core::fmt::Error)?;
        for (place, byte) in place.iter_mut().zip(text.bytes()) {
            *place = byte;
        }
        self.len = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Path;
    use crate::DeviceId;

    #[test]
    fn the_longest_id_fits_into_the_path() {
        assert_eq!(Path::of(DeviceId::new(u32::MAX)).as_c_str(), c"/dev/ublkc4294967295");
        assert_eq!(Path::of(DeviceId::new(0)).as_c_str(), c"/dev/ublkc0");
    }
}
