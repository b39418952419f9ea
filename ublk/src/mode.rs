// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the data of requests travels, as types: what a mode forbids is not a method there.
//!
//! | mode | kernel | what a request gives |
//! |---|---|---|
//! | [`Copy`](enum@Copy) | 6.0 | the tag's buffer: a slice of a WRITE, a cursor for a READ; operations of the ring on it |
//! | [`GetData`] | 6.0 | the same, in a buffer that the queue chooses when a request needs one: it can have fewer than tags |
//! | [`UserCopy`] | 6.5 | [`read_at`](crate::Request::read_at) and [`write_at`](crate::Request::write_at) into the request; operations of the ring, through the tag's buffer |
//! | [`ZeroCopy`] | 6.15 | operations of the ring on the client's own pages, registered by a command; `read_at` and `write_at` beside them |
//! | [`AutoRegister`] | 6.16 | the same, registered by the driver before the request is delivered |
//!
//! A device has one mode, said when it is asked for ([`NewDevice::mode`](crate::NewDevice::mode)), and its queues and requests have it
//! as a type parameter. A target that only uses what all have, operations of the ring among it, is written once for all of them.
//!
//! [Zones](crate::NewDevice::zoned) and [metadata beside the data](crate::NewDevice::integrity) go with all but copy mode.
//!
//! A buffer is there in copy mode alone:
//!
//! ```compile_fail,E0599
//! use ublk::{Request, mode};
//! fn data(request: &Request<'_, mode::ZeroCopy>) -> &[u8] {
//!     request.data()
//! }
//! ```
//!
//! ```no_run
//! use ublk::{Request, mode};
//! fn data<'r>(request: &'r Request<'_, mode::Copy>) -> &'r [u8] {
//!     request.data()
//! }
//! ```
//!
//! And what is copied by call is so in the others alone:
//!
//! ```compile_fail,E0599
//! use ublk::{Errno, Request, mode};
//! fn first(request: &Request<'_, mode::Copy>, into: &mut [u8]) -> Result<(), Errno> {
//!     request.read_at(0, into)
//! }
//! ```
//!
//! ```no_run
//! use ublk::{Errno, Request, mode};
//! fn first(request: &Request<'_, mode::UserCopy>, into: &mut [u8]) -> Result<(), Errno> {
//!     request.read_at(0, into)
//! }
//! ```

use core::fmt;

pub(crate) use sealed::Data;

use crate::features::Features;

/// How the data of a device's requests travels.
pub trait Mode: sealed::Sealed + core::marker::Copy + Eq + fmt::Debug + Send + Sync {}

/// The data of a request is in a buffer of the server's, the tag's own.
pub trait Buffered: Mode {}

/// The data of a request can be copied by call (`pread(2)` and `pwrite(2)` on the char device). These modes alone have
/// [zones](crate::NewDevice::zoned) and [metadata](crate::NewDevice::integrity).
pub trait UserCopied: Mode {}

/// The data of a request is in a buffer of the server's, which the queue chooses when the request needs one: it can have fewer buffers
/// than tags ([`NewDevice::buffers`](crate::NewDevice::buffers)). The driver copies as in [`Copy`](enum@Copy), and is asked to by a command of
/// its own for each WRITE (`UBLK_F_NEED_GET_DATA`).
///
/// Since Linux 6.0. A queue whose buffers are all in use holds back what it has, until a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GetData {}

/// Operations of the ring move data through a buffer of the tag, so that sockets can be read and written too.
pub trait ThroughBuffer: Mode {}

/// The driver copies between the client's pages and the tag's buffer. The default, and no feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copy {}

/// The server copies, by calls or by operations of the ring on the char device (`UBLK_F_USER_COPY`).
///
/// Since Linux 6.5. Needs `CAP_SYS_ADMIN` when the device is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserCopy {}

/// Nobody copies: the client's pages are a buffer of the ring, registered for each request by a command
/// (`UBLK_F_SUPPORT_ZERO_COPY`, with `UBLK_F_USER_COPY` beside it).
///
/// Since Linux 6.15. Needs `CAP_SYS_ADMIN` when the device is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroCopy {}

/// Nobody copies, and no command registers: the driver does, before it delivers the request (`UBLK_F_AUTO_BUF_REG`, with
/// `UBLK_F_USER_COPY` beside it). Where it could not, the data of that request goes as in [`UserCopy`].
///
/// Since Linux 6.16. Needs `CAP_SYS_ADMIN` when the device is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoRegister {}

static_assertions::assert_impl_all!(Copy: Send, Sync);
static_assertions::assert_impl_all!(GetData: Send, Sync);
static_assertions::assert_impl_all!(UserCopy: Send, Sync);
static_assertions::assert_impl_all!(ZeroCopy: Send, Sync);
static_assertions::assert_impl_all!(AutoRegister: Send, Sync);

impl Mode for Copy {}
impl Mode for GetData {}
impl Mode for UserCopy {}
impl Mode for ZeroCopy {}
impl Mode for AutoRegister {}

impl Buffered for Copy {}
impl Buffered for GetData {}

impl UserCopied for UserCopy {}
impl UserCopied for ZeroCopy {}
impl UserCopied for AutoRegister {}

impl ThroughBuffer for Copy {}
impl ThroughBuffer for GetData {}
impl ThroughBuffer for UserCopy {}

/// Features that say how data travels: a device has those of its mode, and no other of these.
pub(crate) const FEATURES: [Features; 4] =
    [Features::SUPPORT_ZERO_COPY, Features::NEED_GET_DATA, Features::USER_COPY, Features::AUTO_BUF_REG];

/// Whether these are the features of a device of mode `M`, as far as they say how data travels.
pub(crate) fn is_of<M: Mode>(features: Features) -> bool {
    FEATURES.iter().all(|feature| features.contains(*feature) == M::FEATURES.contains(*feature))
}

pub(crate) mod sealed {
    use super::{AutoRegister, Copy, Features, GetData, UserCopy, ZeroCopy};

    /// Where the driver has the data of a request that it delivers.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Data {
        /// In the tag's buffer, whose address goes with every command.
        Buffer,
        /// In a buffer that is chosen when it comes.
        Chosen,
        /// To be copied by call.
        UserCopy,
        /// To be copied by call, or registered by a command.
        ByCommand,
        /// To be copied by call, and registered already.
        Registered,
    }

    pub trait Sealed: 'static {
        /// What the device is asked for.
        const FEATURES: Features;
        /// Where its data is.
        const DATA: Data;
    }

    impl Data {
        /// Whether the driver copies between the client's pages and a buffer of the server's.
        pub const fn is_in_buffer(self) -> bool {
            matches!(self, Data::Buffer | Data::Chosen)
        }
    }

    impl Sealed for Copy {
        const FEATURES: Features = Features::NONE;
        const DATA: Data = Data::Buffer;
    }

    impl Sealed for GetData {
        const FEATURES: Features = Features::NEED_GET_DATA;
        const DATA: Data = Data::Chosen;
    }

    impl Sealed for UserCopy {
        const FEATURES: Features = Features::USER_COPY;
        const DATA: Data = Data::UserCopy;
    }

    impl Sealed for ZeroCopy {
        const FEATURES: Features = Features::SUPPORT_ZERO_COPY.union(Features::USER_COPY);
        const DATA: Data = Data::ByCommand;
    }

    impl Sealed for AutoRegister {
        const FEATURES: Features = Features::AUTO_BUF_REG.union(Features::USER_COPY);
        const DATA: Data = Data::Registered;
    }
}
