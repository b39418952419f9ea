// SPDX-License-Identifier: MIT OR Apache-2.0
//! A disk made of a target that reads and writes at an offset. What the target can do is what the block layer is told.

#[cfg(feature = "std")]
mod file;

use core::fmt;

use crate::errno::Errno;
use crate::params::{Attributes, Cache, Params};
use crate::queue::{Operation, ReadCursor, Request, RequestFlags};
use crate::units::Sectors;

/// What can be read at an offset.
///
/// Its method is not called `read_at`, so that a target made of files can use `std::os::unix::fs::FileExt` beside it.
///
/// Every range that a [`Disk`] asks for lies within the disk, and is a whole number of its logical blocks.
pub trait ReadAt {
    /// Reads what stands at `offset`, in bytes, for as long as `into` has room. What is not filled reads as zeroes.
    ///
    /// # Errors
    ///
    /// The client gets the errno where the block layer passes it on ([`Request::fail`]), and none of the data.
    fn read_into(&self, offset: u64, into: &mut ReadCursor<'_>) -> Result<(), Errno>;
}

/// What can be written at an offset.
pub trait WriteAt: ReadAt {
    /// Writes all of `data` at `offset`, in bytes.
    ///
    /// # Errors
    ///
    /// As for [`ReadAt::read_into`]. How much of the range was written then is not said.
    fn write_from(&self, offset: u64, data: &[u8]) -> Result<(), Errno>;
}

/// What keeps completed writes in a cache that a power cut would empty.
pub trait Flush: WriteAt {
    /// Makes durable every write that had completed when this was called.
    ///
    /// # Errors
    ///
    /// As for [`ReadAt::read_into`]. The client has to take it that the writes are lost.
    fn flush(&self) -> Result<(), Errno>;
}

/// What can do without the data of a range.
pub trait Discard: WriteAt {
    /// Is told that nobody needs the `len` bytes at `offset` any more. What they read as from then on is the target's choice,
    /// and doing nothing is right too.
    ///
    /// # Errors
    ///
    /// As for [`ReadAt::read_into`].
    fn discard(&self, offset: u64, len: u64) -> Result<(), Errno>;
}

/// What can make a range read as zeroes without being sent them.
pub trait WriteZeroes: WriteAt {
    /// Makes the `len` bytes at `offset` read as zeroes. With [`RequestFlags::NOUNMAP`] their space has to stay theirs, so that
    /// a later write cannot run out of it; without, it may be given back.
    ///
    /// # Errors
    ///
    /// As for [`ReadAt::read_into`].
    fn write_zeroes(&self, offset: u64, len: u64, flags: RequestFlags) -> Result<(), Errno>;
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn read_into(&self, offset: u64, into: &mut ReadCursor<'_>) -> Result<(), Errno> {
        (**self).read_into(offset, into)
    }
}

impl<T: WriteAt + ?Sized> WriteAt for &T {
    fn write_from(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        (**self).write_from(offset, data)
    }
}

impl<T: Flush + ?Sized> Flush for &T {
    fn flush(&self) -> Result<(), Errno> {
        (**self).flush()
    }
}

impl<T: Discard + ?Sized> Discard for &T {
    fn discard(&self, offset: u64, len: u64) -> Result<(), Errno> {
        (**self).discard(offset, len)
    }
}

impl<T: WriteZeroes + ?Sized> WriteZeroes for &T {
    fn write_zeroes(&self, offset: u64, len: u64, flags: RequestFlags) -> Result<(), Errno> {
        (**self).write_zeroes(offset, len, flags)
    }
}

/// A target, and the parameters of the disk that it is.
///
/// A target says what it can do by the traits that it has, and a disk what of that is used. The parameters follow: neither can be
/// forgotten, and the two cannot differ.
///
/// | method | wants | the block layer then sends |
/// |---|---|---|
/// | [`Disk::read_only`] | [`ReadAt`] | READ |
/// | [`Disk::without_cache`] | [`WriteAt`] | READ, WRITE |
/// | [`Disk::with_volatile_cache`] | [`Flush`] | READ, WRITE, FLUSH |
/// | [`Disk::discard`] | [`Discard`] | DISCARD too |
/// | [`Disk::write_zeroes`] | [`WriteZeroes`] | WRITE_ZEROES too |
///
/// Which cache the target has is stated when the disk is made. There is no default: a disk that says it has none while a
/// power cut loses what it completed loses its clients' files.
///
/// ```no_run
/// use std::fs::File;
/// use ublk::{Disk, NewDevice, Sectors, Server};
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let file = File::options().read(true).write(true).open("disk.img")?;
///     let size = Sectors::new(file.metadata()?.len() / 512);
///     let disk = Disk::with_volatile_cache(size, file);
///     let server = Server::new(NewDevice::new(), *disk.params()).stop_on_signals();
///     server.run(|request| disk.answer(request), |device| println!("/dev/ublkb{}", device.id()))?;
///     Ok(())
/// }
/// ```
///
/// An operation that was not switched on is answered with `EOPNOTSUPP`, should it come all the same.
///
/// What a target cannot do does not compile. A volatile cache without [`Flush`], where
/// [`without_cache`](Disk::without_cache) in the same place does compile:
///
/// ```compile_fail,E0277
/// # use ublk::{Disk, Errno, ReadAt, ReadCursor, Sectors, WriteAt};
/// # struct Null;
/// # impl ReadAt for Null {
/// #     fn read_into(&self, _: u64, _: &mut ReadCursor<'_>) -> Result<(), Errno> { Ok(()) }
/// # }
/// # impl WriteAt for Null {
/// #     fn write_from(&self, _: u64, _: &[u8]) -> Result<(), Errno> { Ok(()) }
/// # }
/// Disk::with_volatile_cache(Sectors::new(8), Null);
/// ```
///
/// ```
/// # use ublk::{Disk, Errno, ReadAt, ReadCursor, Sectors, WriteAt};
/// # struct Null;
/// # impl ReadAt for Null {
/// #     fn read_into(&self, _: u64, _: &mut ReadCursor<'_>) -> Result<(), Errno> { Ok(()) }
/// # }
/// # impl WriteAt for Null {
/// #     fn write_from(&self, _: u64, _: &[u8]) -> Result<(), Errno> { Ok(()) }
/// # }
/// Disk::without_cache(Sectors::new(8), Null);
/// ```
///
/// A disk that is written, of what can only be read:
///
/// ```compile_fail,E0277
/// # use ublk::{Disk, Errno, ReadAt, ReadCursor, Sectors};
/// # struct Zeroes;
/// # impl ReadAt for Zeroes {
/// #     fn read_into(&self, _: u64, _: &mut ReadCursor<'_>) -> Result<(), Errno> { Ok(()) }
/// # }
/// Disk::without_cache(Sectors::new(8), Zeroes);
/// ```
///
/// ```
/// # use ublk::{Disk, Errno, ReadAt, ReadCursor, Sectors};
/// # struct Zeroes;
/// # impl ReadAt for Zeroes {
/// #     fn read_into(&self, _: u64, _: &mut ReadCursor<'_>) -> Result<(), Errno> { Ok(()) }
/// # }
/// Disk::read_only(Sectors::new(8), Zeroes);
/// ```
///
/// Discards for what has no [`Discard`]; it has [`WriteZeroes`]:
///
/// ```compile_fail,E0277
/// # use ublk::{Disk, Errno, ReadAt, ReadCursor, RequestFlags, Sectors, WriteAt, WriteZeroes};
/// # struct Null;
/// # impl ReadAt for Null {
/// #     fn read_into(&self, _: u64, _: &mut ReadCursor<'_>) -> Result<(), Errno> { Ok(()) }
/// # }
/// # impl WriteAt for Null {
/// #     fn write_from(&self, _: u64, _: &[u8]) -> Result<(), Errno> { Ok(()) }
/// # }
/// # impl WriteZeroes for Null {
/// #     fn write_zeroes(&self, _: u64, _: u64, _: RequestFlags) -> Result<(), Errno> { Ok(()) }
/// # }
/// Disk::without_cache(Sectors::new(8), Null).discard(4096, Sectors::new(8));
/// ```
///
/// ```
/// # use ublk::{Disk, Errno, ReadAt, ReadCursor, RequestFlags, Sectors, WriteAt, WriteZeroes};
/// # struct Null;
/// # impl ReadAt for Null {
/// #     fn read_into(&self, _: u64, _: &mut ReadCursor<'_>) -> Result<(), Errno> { Ok(()) }
/// # }
/// # impl WriteAt for Null {
/// #     fn write_from(&self, _: u64, _: &[u8]) -> Result<(), Errno> { Ok(()) }
/// # }
/// # impl WriteZeroes for Null {
/// #     fn write_zeroes(&self, _: u64, _: u64, _: RequestFlags) -> Result<(), Errno> { Ok(()) }
/// # }
/// Disk::without_cache(Sectors::new(8), Null).write_zeroes(Sectors::new(8));
/// ```
#[must_use]
pub struct Disk<T> {
    target: T,
    params: Params,
    // Each is there if the parameters say so, and comes from where the target was known to have the trait.
    write: Option<WriteFn<T>>,
    flush: Option<FlushFn<T>>,
    discard: Option<DiscardFn<T>>,
    write_zeroes: Option<WriteZeroesFn<T>>,
}

// As its target is.
static_assertions::assert_impl_all!(Disk<()>: Send, Sync);
static_assertions::assert_not_impl_any!(Disk<*const ()>: Send, Sync);

type WriteFn<T> = fn(&T, u64, &[u8]) -> Result<(), Errno>;
type FlushFn<T> = fn(&T) -> Result<(), Errno>;
type DiscardFn<T> = fn(&T, u64, u64) -> Result<(), Errno>;
type WriteZeroesFn<T> = fn(&T, u64, u64, RequestFlags) -> Result<(), Errno>;

impl<T> fmt::Debug for Disk<T> {
    /// Its parameters, whatever the target is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("params", &self.params).finish_non_exhaustive()
    }
}

impl<T> Disk<T> {
    fn new(size: Sectors, target: T, cache: Cache) -> Disk<T> {
        let params = Params::new(size, cache);
        Disk { target, params, write: None, flush: None, discard: None, write_zeroes: None }
    }

    /// A disk that is only read.
    pub fn read_only(size: Sectors, target: T) -> Disk<T>
    where
        T: ReadAt,
    {
        let disk = Disk::new(size, target, Cache::None);
        Disk { params: disk.params.read_only(), ..disk }
    }

    /// A disk whose completed writes are as durable as they will ever be: on stable storage, or in memory that is lost with the
    /// server and is not meant to last. No flush is sent.
    pub fn without_cache(size: Sectors, target: T) -> Disk<T>
    where
        T: WriteAt,
    {
        Disk { write: Some(T::write_from), ..Disk::new(size, target, Cache::None) }
    }

    /// A disk whose completed writes may be lost until a flush has completed, as those of a file are.
    ///
    /// A single write that the client wants durable (`REQ_FUA`, a file system's journal for instance) is followed by a flush of
    /// the block layer's own making. A target that has a cheaper way for it takes a closure over requests, and
    /// [`Cache::VolatileWithFua`].
    pub fn with_volatile_cache(size: Sectors, target: T) -> Disk<T>
    where
        T: Flush,
    {
        Disk { write: Some(T::write_from), flush: Some(T::flush), ..Disk::new(size, target, Cache::Volatile) }
    }

    /// Takes discards, of up to `max` each, which the block layer cuts at multiples of `granularity_bytes`.
    pub fn discard(self, granularity_bytes: u32, max: Sectors) -> Disk<T>
    where
        T: Discard,
    {
        let params = self.writable().discard(granularity_bytes, max);
        Disk { params, discard: Some(T::discard), ..self }
    }

    /// Takes write-zeroes, of up to `max` each. Without it the block layer writes pages of zeroes.
    pub fn write_zeroes(self, max: Sectors) -> Disk<T>
    where
        T: WriteZeroes,
    {
        let params = self.writable().write_zeroes(max);
        Disk { params, write_zeroes: Some(T::write_zeroes), ..self }
    }

    /// The parameters of a disk that takes changes; of a read-only one they are invalid from here on.
    fn writable(&self) -> Params {
        match self.write {
            Some(_) => self.params,
            None => self.params.invalid("a read-only disk takes no discard and no write-zeroes"),
        }
    }

    /// Changes what else there is to be said of the disk, its logical block for instance.
    ///
    /// ```
    /// # fn size_blocks(file: std::fs::File) -> ublk::Disk<std::fs::File> {
    /// # use ublk::{Disk, Sectors};
    /// Disk::with_volatile_cache(Sectors::new(2048), file).with_params(|params| params.block_bytes(4096))
    /// # }
    /// ```
    ///
    /// The size, the cache, and what the disk takes are the disk's own. Parameters in which `change` has changed those are
    /// invalid: no device is made of them ([`Error::Invalid`](crate::Error::Invalid)).
    pub fn with_params(self, change: impl FnOnce(Params) -> Params) -> Disk<T> {
        let changed = change(self.params);
        let params = if own_part(&changed) == own_part(&self.params) {
            changed
        } else {
            changed.invalid("size, cache, read-only, discard and write-zeroes of a disk are stated by its own methods")
        };
        Disk { params, ..self }
    }

    /// The parameters, to add a device with.
    pub const fn params(&self) -> &Params {
        &self.params
    }

    /// The target.
    pub const fn target(&self) -> &T {
        &self.target
    }

    /// Does what a request wants, and answers it.
    ///
    /// Of the range nothing is believed: one that is not on the disk fails with `EIO`, and the target is not called.
    pub fn answer(&self, mut request: Request<'_>)
    where
        T: ReadAt,
    {
        match self.perform(&mut request) {
            Ok(()) => request.complete(),
            Err(errno) => request.fail(errno),
        }
    }

    fn perform(&self, request: &mut Request<'_>) -> Result<(), Errno>
    where
        T: ReadAt,
    {
        let (target, offset, len) = (&self.target, request.offset_bytes(), request.len_bytes());
        if offset.checked_add(len).is_none_or(|end| end > self.params.size().bytes()) {
            return Err(Errno::EIO);
        }
        let absent = Errno::EOPNOTSUPP;
        match request.operation() {
            Operation::READ => target.read_into(offset, &mut request.cursor()),
            Operation::WRITE => self.write.ok_or(absent)?(target, offset, request.data()),
            Operation::FLUSH => self.flush.ok_or(absent)?(target),
            Operation::DISCARD => self.discard.ok_or(absent)?(target, offset, len),
            Operation::WRITE_ZEROES => self.write_zeroes.ok_or(absent)?(target, offset, len, request.flags()),
            _ => Err(absent),
        }
    }
}

/// What a disk says of its parameters by its own methods: size, attributes but for the speed of seeks, discard and
/// write-zeroes.
fn own_part(params: &Params) -> impl PartialEq + use<> {
    let attributes = params.attributes().without(Attributes::ROTATIONAL);
    (params.size(), attributes, params.as_raw().discard)
}

#[cfg(test)]
mod tests {
    use super::{Discard, Disk, Flush, ReadAt, WriteAt, WriteZeroes};
    use crate::{Attributes, Cache, DeviceInfo, Errno, Error, Params, ReadCursor, RequestFlags, Sectors};
    use ublk_sys::ublksrv_ctrl_dev_info;

    /// It can do everything, and does nothing.
    struct Null;

    impl ReadAt for Null {
        fn read_into(&self, _: u64, _: &mut ReadCursor<'_>) -> Result<(), Errno> {
            Ok(())
        }
    }

    impl WriteAt for Null {
        fn write_from(&self, _: u64, _: &[u8]) -> Result<(), Errno> {
            Ok(())
        }
    }

    impl Flush for Null {
        fn flush(&self) -> Result<(), Errno> {
            Ok(())
        }
    }

    impl Discard for Null {
        fn discard(&self, _: u64, _: u64) -> Result<(), Errno> {
            Ok(())
        }
    }

    impl WriteZeroes for Null {
        fn write_zeroes(&self, _: u64, _: u64, _: RequestFlags) -> Result<(), Errno> {
            Ok(())
        }
    }

    const SIZE: Sectors = Sectors::new(2048);

    fn is_refused(disk: &Disk<Null>) -> bool {
        let mut info = ublksrv_ctrl_dev_info::default();
        info.max_io_buf_bytes = 1 << 20;
        matches!(disk.params().fitted(&DeviceInfo::from_raw(info)), Err(Error::Invalid { .. }))
    }

    #[test]
    fn the_parameters_say_what_was_switched_on_and_nothing_else() {
        let params = |disk: Disk<Null>| *disk.params();
        assert_eq!(params(Disk::read_only(SIZE, Null)), Params::new(SIZE, Cache::None).read_only());
        assert_eq!(params(Disk::without_cache(SIZE, Null)), Params::new(SIZE, Cache::None));
        assert_eq!(params(Disk::with_volatile_cache(SIZE, Null)), Params::new(SIZE, Cache::Volatile));
        assert_eq!(
            params(Disk::without_cache(SIZE, Null).discard(4096, SIZE).write_zeroes(SIZE)),
            Params::new(SIZE, Cache::None).discard(4096, SIZE).write_zeroes(SIZE)
        );
    }

    #[test]
    fn what_a_disk_says_by_its_methods_cannot_be_changed_behind_them() {
        let disk = || Disk::without_cache(SIZE, Null).write_zeroes(SIZE);
        assert!(is_refused(&disk().with_params(|params| params.discard(512, SIZE))));
        assert!(is_refused(&disk().with_params(|params| params.write_zeroes(Sectors::new(8)))));
        assert!(is_refused(&disk().with_params(Params::read_only)));
        assert!(is_refused(&disk().with_params(|_| Params::new(SIZE, Cache::None))));
        assert!(is_refused(&disk().with_params(|_| Params::new(SIZE, Cache::Volatile).write_zeroes(SIZE))));
        assert!(is_refused(&disk().with_params(|_| Params::new(Sectors::new(8), Cache::None).write_zeroes(SIZE))));
        let changed = disk().with_params(|params| params.block_bytes(4096).rotational());
        assert!(!is_refused(&changed));
        assert_eq!(changed.params().attributes(), Attributes::ROTATIONAL);
    }

    #[test]
    fn a_read_only_disk_takes_no_other_change_either() {
        assert!(is_refused(&Disk::read_only(SIZE, Null).discard(512, SIZE)));
        assert!(is_refused(&Disk::read_only(SIZE, Null).write_zeroes(SIZE)));
        assert!(!is_refused(&Disk::read_only(SIZE, Null)));
    }
}
