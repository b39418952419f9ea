// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the block device looks like to the block layer.

use ublk_sys::{
    UBLK_ATTR_FUA, UBLK_ATTR_READ_ONLY, UBLK_ATTR_ROTATIONAL, UBLK_ATTR_VOLATILE_CACHE, UBLK_PARAM_TYPE_BASIC,
    UBLK_PARAM_TYPE_DEVT, UBLK_PARAM_TYPE_DISCARD, ublk_params,
};

use crate::device_info::DeviceInfo;
use crate::error::Error;
use crate::flag_set::flag_set;
use crate::syscall;
use crate::units::{SECTOR_BYTES, Sectors, u64_from};

flag_set! {
    /// Attributes of the block device (`UBLK_ATTR_*`, `ublk_param_basic.attrs`). Since Linux 6.0.
    Attributes(u32) {
        /// Nothing may be written.
        READ_ONLY = UBLK_ATTR_READ_ONLY,
        /// Seeks are slow.
        ROTATIONAL = UBLK_ATTR_ROTATIONAL,
        /// A completed write may be lost until a flush has completed.
        VOLATILE_CACHE = UBLK_ATTR_VOLATILE_CACHE,
        /// A single write can be asked to be durable when it completes.
        FUA = UBLK_ATTR_FUA,
    }
}

/// What a completed write is worth. There is no default: who serves a disk has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cache {
    /// A write is as durable when it completes as it will ever be. The block layer sends no flush.
    None,
    /// A write may be lost until a flush has completed. The block layer sends FLUSH.
    Volatile,
    /// As `Volatile`, and the target honours [`FUA`](crate::RequestFlags::FUA) on single writes.
    VolatileWithFua,
}

static_assertions::assert_impl_all!(Cache: Send, Sync);

const BLOCK: &str = "a logical block is a power of two of 512 bytes or more, and at most a page";

/// Parameters of a block device (`struct ublk_params`).
///
/// ```
/// use ublk::{Cache, Params, Sectors};
///
/// let params = Params::new(Sectors::new(2048), Cache::None).block_bytes(4096).read_only();
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Params {
    raw: ublk_params,
    /// The first thing wrong with what was asked for.
    invalid: Option<&'static str>,
}

static_assertions::assert_impl_all!(Params: Send, Sync);

impl Params {
    /// A disk of `size` with logical blocks of 512 bytes, physical ones of 4096, and requests as large as the device's
    /// buffers.
    pub fn new(size: Sectors, cache: Cache) -> Params {
        let mut raw = ublk_params::default();
        raw.types = UBLK_PARAM_TYPE_BASIC;
        raw.basic.attrs = match cache {
            Cache::None => 0,
            Cache::Volatile => UBLK_ATTR_VOLATILE_CACHE,
            Cache::VolatileWithFua => UBLK_ATTR_VOLATILE_CACHE | UBLK_ATTR_FUA,
        };
        raw.basic.dev_sectors = size.raw();
        raw.basic.logical_bs_shift = 9;
        raw.basic.physical_bs_shift = 12;
        raw.basic.io_min_shift = 9;
        raw.basic.io_opt_shift = 12;
        Params { raw, invalid: None }
    }

    /// What the driver answered to `GET_PARAMS`.
    pub(crate) const fn from_driver(raw: ublk_params) -> Params {
        Params { raw, invalid: None }
    }

    /// Bytes of a logical block: a power of two, 512 to the page size. Every request is a whole number of them.
    pub fn block_bytes(mut self, bytes: u32) -> Params {
        match shift(bytes) {
            Some(shift) if (9..=16).contains(&shift) => {
                self.raw.basic.logical_bs_shift = shift;
                self.raw.basic.physical_bs_shift = self.raw.basic.physical_bs_shift.max(shift);
                self.raw.basic.io_min_shift = self.raw.basic.io_min_shift.max(shift);
                self.raw.basic.io_opt_shift = self.raw.basic.io_opt_shift.max(shift);
                self
            }
            _ => self.invalid(BLOCK),
        }
    }

    /// Bytes that the disk itself reads and writes at once: a power of two, not below the logical block.
    pub fn physical_block_bytes(mut self, bytes: u32) -> Params {
        match shift(bytes) {
            Some(shift) if (9..=28).contains(&shift) => {
                self.raw.basic.physical_bs_shift = shift;
                self.raw.basic.io_opt_shift = self.raw.basic.io_opt_shift.max(shift);
                self
            }
            _ => self.invalid("a physical block is a power of two of 512 bytes or more"),
        }
    }

    /// Nothing may be written.
    pub fn read_only(mut self) -> Params {
        self.raw.basic.attrs |= UBLK_ATTR_READ_ONLY;
        self
    }

    /// Seeks are slow: the block layer sorts.
    pub fn rotational(mut self) -> Params {
        self.raw.basic.attrs |= UBLK_ATTR_ROTATIONAL;
        self
    }

    /// The target takes DISCARD for up to `max` at once, and forgets whole units of `granularity_bytes`.
    pub fn discard(mut self, granularity_bytes: u32, max: Sectors) -> Params {
        let Ok(max) = u32::try_from(max.raw()) else {
            return self.invalid("the largest discard has below 2^32 sectors");
        };
        if granularity_bytes == 0 || max == 0 {
            return self.invalid("a discard has a granularity and a largest size above 0");
        }
        self.raw.types |= UBLK_PARAM_TYPE_DISCARD;
        self.raw.discard.discard_granularity = granularity_bytes;
        self.raw.discard.max_discard_sectors = max;
        // The driver takes no other number.
        self.raw.discard.max_discard_segments = 1;
        self
    }

    /// The target takes WRITE_ZEROES for up to `max` at once.
    pub fn write_zeroes(mut self, max: Sectors) -> Params {
        let Ok(max) = u32::try_from(max.raw()) else {
            return self.invalid("the largest write-zeroes has below 2^32 sectors");
        };
        self.raw.types |= UBLK_PARAM_TYPE_DISCARD;
        self.raw.discard.max_write_zeroes_sectors = max;
        self
    }

    /// The size of the disk.
    #[must_use]
    pub const fn size(&self) -> Sectors {
        Sectors::new(self.raw.basic.dev_sectors)
    }

    /// The attributes.
    #[must_use]
    pub const fn attributes(&self) -> Attributes {
        Attributes::from_bits(self.raw.basic.attrs)
    }

    /// The struct as the driver has it, or as it would be sent but for what the device decides.
    #[must_use]
    pub const fn as_raw(&self) -> &ublk_params {
        &self.raw
    }

    /// The struct once it is such as the driver takes, but for what the device decides. The driver answers each of these with
    /// a bare `EINVAL`, and has a device by then that is to be deleted again.
    pub(crate) fn checked(&self) -> Result<ublk_params, Error> {
        let mut raw = self.raw;
        let invalid = |what| Err(Error::Invalid { what });
        if let Some(what) = self.invalid {
            return invalid(what);
        }
        let block_sectors = 1_u64 << (raw.basic.logical_bs_shift.saturating_sub(9).min(32));
        if raw.basic.dev_sectors == 0 || raw.basic.dev_sectors % block_sectors != 0 {
            return invalid("a disk is a whole number of logical blocks, and not empty");
        }
        if raw.basic.dev_sectors > u64::MAX / SECTOR_BYTES {
            return invalid("a disk has below 2^64 bytes");
        }
        if block_sectors * SECTOR_BYTES > u64_from(syscall::page_bytes()) {
            return invalid(BLOCK);
        }
        if raw.basic.physical_bs_shift < raw.basic.logical_bs_shift {
            return invalid("a physical block is not smaller than a logical one");
        }
        if raw.types & UBLK_PARAM_TYPE_DISCARD != 0 && raw.discard.discard_granularity == 0 {
            // The driver wants one for WRITE_ZEROES alone too.
            raw.discard.discard_granularity = 1 << raw.basic.logical_bs_shift;
        }
        // What GET_PARAMS adds for the reader, SET_PARAMS refuses.
        raw.types &= !UBLK_PARAM_TYPE_DEVT;
        raw.len = const { size_of_params() };
        Ok(raw)
    }

    /// What is sent for this device.
    pub(crate) fn fitted(&self, device: &DeviceInfo) -> Result<ublk_params, Error> {
        let mut raw = self.checked()?;
        if raw.basic.max_sectors == 0 {
            raw.basic.max_sectors = device.max_io_bytes() >> 9;
        }
        Ok(raw)
    }

    /// Parameters that no device is made of; the first reason counts.
    pub(crate) fn invalid(mut self, what: &'static str) -> Params {
        self.invalid = self.invalid.or(Some(what));
        self
    }
}

/// `size_of::<ublk_params>()` in the type of its `len`.
#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "152, and no const conversion exists")]
const fn size_of_params() -> u32 {
    size_of::<ublk_params>() as u32
}

/// The exponent of a power of two.
fn shift(bytes: u32) -> Option<u8> {
    bytes.is_power_of_two().then(|| u8::try_from(bytes.trailing_zeros()).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::{Attributes, Cache, Params};
    use crate::device_info::DeviceInfo;
    use crate::{Error, Sectors};
    use ublk_sys::{UBLK_PARAM_TYPE_DEVT, ublk_params, ublksrv_ctrl_dev_info};

    fn device() -> DeviceInfo {
        let mut info = ublksrv_ctrl_dev_info::default();
        info.max_io_buf_bytes = 1 << 20;
        DeviceInfo::from_raw(info)
    }

    fn refused(params: Params) -> bool {
        matches!(params.checked(), Err(Error::Invalid { .. })) && params.fitted(&device()) == params.checked()
    }

    #[test]
    fn shapes_that_the_driver_refuses_are_refused_before_it() {
        let new = |sectors| Params::new(Sectors::new(sectors), Cache::None);
        assert!(refused(new(0)));
        assert!(refused(new(9).block_bytes(4096)));
        assert!(refused(new(8).block_bytes(513)));
        assert!(refused(new(8).block_bytes(256)));
        assert!(refused(new(8).block_bytes(4096).physical_block_bytes(512)));
        assert!(refused(new(8).discard(0, Sectors::new(8))));
        assert!(refused(new(8).discard(512, Sectors::new(1 << 32))));
        assert!(refused(new(u64::MAX / 512 + 1)));
        assert!(refused(new(256).block_bytes(131_072)));
        assert!(!refused(new(8).block_bytes(4096)));
    }

    #[test]
    fn requests_are_as_large_as_the_buffers_unless_said_otherwise() {
        let sent = Params::new(Sectors::new(8), Cache::None).fitted(&device()).unwrap();
        assert_eq!((sent.basic.max_sectors, sent.len), (2048, 152));
    }

    #[test]
    fn write_zeroes_alone_brings_the_granularity_that_the_driver_wants() {
        let sent = Params::new(Sectors::new(8), Cache::None).write_zeroes(Sectors::new(8)).fitted(&device()).unwrap();
        assert_eq!((sent.discard.discard_granularity, sent.discard.max_discard_sectors), (512, 0));
    }

    #[test]
    fn what_get_params_adds_is_not_sent_back() {
        let mut raw = ublk_params::default();
        raw.types = UBLK_PARAM_TYPE_DEVT | 1;
        raw.basic.dev_sectors = 8;
        raw.basic.logical_bs_shift = 9;
        raw.basic.physical_bs_shift = 9;
        assert_eq!(Params::from_driver(raw).fitted(&device()).unwrap().types, 1);
    }

    #[test]
    fn the_cache_decides_which_flushes_come() {
        let attributes = |cache| Params::new(Sectors::new(8), cache).attributes();
        assert_eq!(attributes(Cache::None), Attributes::NONE);
        assert_eq!(attributes(Cache::Volatile), Attributes::VOLATILE_CACHE);
        assert_eq!(attributes(Cache::VolatileWithFua), Attributes::VOLATILE_CACHE | Attributes::FUA);
    }
}
