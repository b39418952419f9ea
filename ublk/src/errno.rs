// SPDX-License-Identifier: MIT OR Apache-2.0
//! Error numbers, as the kernel gives them.

use core::fmt;

/// A Linux error number, kept exactly as the kernel gave it.
///
/// Any number is representable: one that this crate has no name for is printed as a number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Errno(i32);

static_assertions::assert_impl_all!(Errno: Send, Sync);

macro_rules! errnos {
    ($($name:ident $text:literal,)*) => {
        impl Errno {
            $(
                #[doc = concat!("`", stringify!($name), "`: ", $text, ".")]
                pub const $name: Errno = Errno(libc::$name);
            )*

            /// The C name, where this crate knows it.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $(libc::$name => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

errnos! {
    EPERM "not permitted",
    ENOENT "no such file",
    EINTR "interrupted by a signal",
    EIO "input/output error",
    ENXIO "no such device or address",
    E2BIG "too long a list",
    EBADF "not an open file",
    EAGAIN "try again",
    ENOMEM "out of memory",
    EACCES "permission denied",
    EFAULT "bad address",
    EBUSY "busy",
    EEXIST "exists already",
    ENODEV "no such device",
    ENOTDIR "not a folder",
    EISDIR "a folder",
    EINVAL "invalid argument",
    ENFILE "too many open files in the system",
    EMFILE "too many open files in the process",
    EFBIG "too large for a file",
    ENOSPC "no space left",
    ESPIPE "has no position",
    EROFS "read-only",
    EPIPE "nobody reads",
    ENAMETOOLONG "too long a name",
    ENOSYS "no such system call",
    ELOOP "too many symbolic links",
    EBADE "invalid exchange",
    ENODATA "no data",
    ETIME "timer expired",
    ENOLINK "link severed",
    EBADMSG "bad message",
    EOVERFLOW "value too large",
    EBADR "completions were dropped",
    EBADFD "ring is disabled",
    ENOBUFS "no buffer left",
    EILSEQ "protection information is wrong",
    EOPNOTSUPP "not supported",
    EREMOTEIO "no server behind the device",
    ETOOMANYREFS "too many references",
    ETIMEDOUT "timed out",
    EALREADY "under way already",
    ESTALE "no such file any more",
    EDQUOT "quota exceeded",
    ECANCELED "cancelled",
}

impl Errno {
    /// The errno with this number. The sign is ignored: `-22` and `22` are both `EINVAL`.
    #[must_use]
    pub const fn from_raw(number: i32) -> Errno {
        Errno(if number < 0 { number.saturating_neg() } else { number })
    }

    /// The number, positive.
    #[must_use]
    pub const fn raw(self) -> i32 {
        self.0
    }

    /// Splits a completion's `res` the way every ring operation and every ublk command means it: negative is an
    /// errno, anything else a value.
    pub(crate) fn check(result: i32) -> Result<u32, Errno> {
        u32::try_from(result).map_err(|_| Errno::from_raw(result))
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} ({})", self.0),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl core::error::Error for Errno {}

#[cfg(feature = "std")]
impl From<Errno> for std::io::Error {
    fn from(errno: Errno) -> Self {
        std::io::Error::from_raw_os_error(errno.raw())
    }
}

/// The errno of the operating system's errors, and `EIO` for those that the standard library found itself.
#[cfg(feature = "std")]
impl From<std::io::Error> for Errno {
    fn from(error: std::io::Error) -> Self {
        error.raw_os_error().filter(|number| *number > 0).map_or(Errno::EIO, Errno::from_raw)
    }
}

#[cfg(test)]
mod tests {
    use super::Errno;
    use std::format;

    #[test]
    fn a_negative_result_is_an_errno_and_any_other_a_value() {
        assert_eq!(Errno::check(-22), Err(Errno::EINVAL));
        assert_eq!(Errno::check(0), Ok(0));
        assert_eq!(Errno::check(i32::MAX), Ok(2_147_483_647));
        assert_eq!(Errno::check(i32::MIN).unwrap_err().raw(), i32::MAX);
    }

    #[test]
    fn an_errno_without_a_name_is_printed_as_its_number() {
        assert_eq!(format!("{}", Errno::from_raw(4000)), "errno 4000");
        assert_eq!(format!("{}", Errno::EINVAL), "EINVAL (22)");
    }
    #[cfg(feature = "std")]
    #[test]
    fn an_io_error_keeps_its_errno_and_is_eio_where_it_has_none() {
        use std::io::{Error, ErrorKind};
        let errno = |error: Error| Errno::from(error);
        assert_eq!(errno(Error::from_raw_os_error(28)), Errno::ENOSPC);
        assert_eq!(errno(Error::from_raw_os_error(0)), Errno::EIO);
        assert_eq!(errno(ErrorKind::UnexpectedEof.into()), Errno::EIO);
    }
}
