// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the block device looks like to the block layer.

mod integrity;
mod limits;
mod rules;
mod zones;

use core::fmt;

use ublk_sys::{
    UBLK_ATTR_FUA, UBLK_ATTR_READ_ONLY, UBLK_ATTR_ROTATIONAL, UBLK_ATTR_VOLATILE_CACHE, UBLK_PARAM_TYPE_BASIC,
    UBLK_PARAM_TYPE_DEVT, UBLK_PARAM_TYPE_DISCARD, UBLK_PARAM_TYPE_DMA_ALIGN, UBLK_PARAM_TYPE_INTEGRITY,
    UBLK_PARAM_TYPE_SEGMENT, UBLK_PARAM_TYPE_ZONED, ublk_params,
};

pub use integrity::{Checksum, Integrity, IntegrityFlags};
pub use limits::{DiscardLimits, Limits, Segments};
pub use zones::Zones;

use crate::device_info::DeviceInfo;
use crate::error::Error;
use crate::features::Features;
use crate::flag_set::flag_set;
use crate::syscall;
use crate::units::{Sectors, u64_from};

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

flag_set! {
    /// The groups of parameters that a device has (`UBLK_PARAM_TYPE_*`, `ublk_params.types`).
    ParamTypes(u32) {
        /// Size and blocks. Since Linux 6.0.
        BASIC = UBLK_PARAM_TYPE_BASIC,
        /// Discard and write zeroes. Since Linux 6.0.
        DISCARD = UBLK_PARAM_TYPE_DISCARD,
        /// Device numbers, which the driver tells and does not take. Since Linux 6.3.
        DEVT = UBLK_PARAM_TYPE_DEVT,
        /// Zones. Since Linux 6.6.
        ZONED = UBLK_PARAM_TYPE_ZONED,
        /// How the memory of requests is aligned. Since Linux 6.15.
        DMA_ALIGN = UBLK_PARAM_TYPE_DMA_ALIGN,
        /// How the memory of requests is cut. Since Linux 6.15.
        SEGMENT = UBLK_PARAM_TYPE_SEGMENT,
        /// Metadata beside the data. Since Linux 7.0.
        INTEGRITY = UBLK_PARAM_TYPE_INTEGRITY,
    }
}

impl ParamTypes {
    /// The first Linux whose driver has this group; `None` for several, for none, and for one that this crate does not know.
    #[must_use]
    pub fn since(self) -> Option<&'static str> {
        let (_, name) = ParamTypes::KNOWN.iter().find(|(known, _)| *known == self)?;
        ublk_sys::layout::since(name)
    }
}

/// Groups of parameters that a driver does not have, each with the Linux that has it.
pub(crate) struct MissingTypes(pub(crate) ParamTypes);

impl fmt::Display for MissingTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        let mut unknown = self.0;
        for (kind, name) in ParamTypes::KNOWN.iter().filter(|(kind, _)| self.0.contains(*kind)) {
            write!(f, "{separator}{name}")?;
            if let Some(release) = kind.since() {
                write!(f, " (since Linux {release})")?;
            }
            (separator, unknown) = (", ", unknown.without(*kind));
        }
        if unknown.is_empty() { Ok(()) } else { write!(f, "{separator}{unknown}") }
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
            _ => self.invalid(rules::BLOCK),
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

    /// Bytes of the smallest request that costs nothing extra, a power of two up to 256 MiB: 512 unless said. The block layer
    /// tells its users of a physical block where that is larger (`queue/minimum_io_size` in sysfs).
    pub fn io_min_bytes(mut self, bytes: u32) -> Params {
        match shift(bytes) {
            Some(shift) if (9..=28).contains(&shift) => {
                self.raw.basic.io_min_shift = shift;
                self
            }
            _ => self.invalid("the smallest good request is a power of two, 512 bytes to 256 MiB"),
        }
    }

    /// Bytes of the best request, a power of two up to 256 MiB: a physical block unless said (`queue/optimal_io_size`).
    pub fn io_opt_bytes(mut self, bytes: u32) -> Params {
        match shift(bytes) {
            Some(shift) if (9..=28).contains(&shift) => {
                self.raw.basic.io_opt_shift = shift;
                self
            }
            _ => self.invalid("the best request is a power of two, 512 bytes to 256 MiB"),
        }
    }

    /// The largest request, from a page up to that of the device ([`NewDevice::max_io_bytes`](crate::NewDevice::max_io_bytes)),
    /// which it is unless said. The block layer cuts what is larger.
    pub fn max_request(mut self, max: Sectors) -> Params {
        match u32::try_from(max.raw()) {
            Ok(sectors) if sectors > 0 => {
                self.raw.basic.max_sectors = sectors;
                self
            }
            _ => self.invalid("the largest request has a page or more, and below 2^32 sectors"),
        }
    }

    /// No request crosses a multiple of `size`, a whole number of logical blocks: the block layer cuts it there. A device with
    /// [zones](Params::zoned) has them instead.
    pub fn chunk(mut self, size: Sectors) -> Params {
        match u32::try_from(size.raw()) {
            Ok(sectors) if sectors > 0 && !self.types().contains(ParamTypes::ZONED) => {
                self.raw.basic.chunk_sectors = sectors;
                self
            }
            _ => self.invalid("a chunk has 1 to 2^32 - 1 sectors, and on a zoned device it is the zone"),
        }
    }

    /// Within a request segments of memory meet only at multiples of this, a power of two of 512 bytes or more, as NVMe wants
    /// it of 4096: what a server with zero copy says for the disk behind it. The block layer cuts a request that is not so.
    pub fn virt_boundary_bytes(mut self, bytes: u64) -> Params {
        if !bytes.is_power_of_two() || bytes < 512 {
            return self.invalid("a virtual boundary is a power of two of 512 bytes or more");
        }
        self.raw.basic.virt_boundary_mask = bytes - 1;
        self
    }

    /// The target takes DISCARD for up to `max` at once, and forgets whole units of `granularity_bytes`. Each is one range: the
    /// driver takes no discard of several.
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

    /// The first unit of [discard](Params::discard) starts at this byte, and not at the start of the disk. It is below the
    /// granularity.
    pub fn discard_alignment_bytes(mut self, bytes: u32) -> Params {
        self.raw.types |= UBLK_PARAM_TYPE_DISCARD;
        self.raw.discard.discard_alignment = bytes;
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

    /// Addresses of the memory of requests are multiples of this, a power of two, 2 bytes to a page, and 4 unless said: what a
    /// server with zero copy says for the file behind it. The block layer refuses direct I/O from memory that is not so.
    ///
    /// # Kernel
    ///
    /// Since Linux 6.15; an older one is [`Error::UnsupportedParams`]. `UBLK_PARAM_TYPE_DMA_ALIGN`.
    pub fn dma_alignment(mut self, bytes: u32) -> Params {
        self.raw.types |= UBLK_PARAM_TYPE_DMA_ALIGN;
        // 0 has no mask, and is refused as 1 is.
        self.raw.dma.alignment = bytes.saturating_sub(1);
        self
    }

    /// The memory of a request is in at most `max_segments` pieces, 1 or more, each of `max_segment_bytes` at most, 4096 or more,
    /// and none crosses a multiple of `boundary_bytes`, a power of two of 4096 or more. The block layer cuts a request that is
    /// not so.
    ///
    /// # Kernel
    ///
    /// Since Linux 6.15; an older one is [`Error::UnsupportedParams`]. `UBLK_PARAM_TYPE_SEGMENT`.
    pub fn segments(mut self, boundary_bytes: u64, max_segment_bytes: u32, max_segments: u16) -> Params {
        if boundary_bytes == 0 {
            return self.invalid("the boundary of segments is a power of two of 4096 bytes or more");
        }
        self.raw.types |= UBLK_PARAM_TYPE_SEGMENT;
        self.raw.seg.seg_boundary_mask = boundary_bytes - 1;
        self.raw.seg.max_segment_size = max_segment_bytes;
        self.raw.seg.max_segments = max_segments;
        self
    }

    /// The disk has zones. The device has to have [`Features::ZONED`], and a device that has it needs them.
    ///
    /// # Kernel
    ///
    /// Since Linux 6.6. `UBLK_PARAM_TYPE_ZONED`, `ublk_dev_param_zoned_validate()`.
    pub fn zoned(mut self, zones: Zones) -> Params {
        if self.raw.basic.chunk_sectors != 0 && !self.types().contains(ParamTypes::ZONED) {
            return self.invalid("a chunk has 1 to 2^32 - 1 sectors, and on a zoned device it is the zone");
        }
        self.raw.types |= UBLK_PARAM_TYPE_ZONED;
        match zones.put(&mut self.raw) {
            Some(()) => self,
            None => self.invalid("a zone and a zone append have below 2^32 sectors"),
        }
    }

    /// There is metadata beside the data. The device has to have [`Features::INTEGRITY`].
    ///
    /// # Kernel
    ///
    /// Since Linux 7.0. `UBLK_PARAM_TYPE_INTEGRITY`, `ublk_integrity_params_validate()`.
    pub fn integrity(mut self, integrity: Integrity) -> Params {
        self.raw.types |= UBLK_PARAM_TYPE_INTEGRITY;
        match integrity.put(&mut self.raw.integrity) {
            Some(()) => self,
            None => self.invalid(
                "the interval of metadata is a power of two of 512 bytes or more, and at most a logical block",
            ),
        }
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

    /// The groups of parameters that are there.
    #[must_use]
    pub const fn types(&self) -> ParamTypes {
        ParamTypes::from_bits(self.raw.types)
    }

    /// What the parameters come to, in bytes and sectors: those that are to be set, or those that the driver
    /// [told](crate::Control::params).
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits::of(&self.raw)
    }

    /// The struct as the driver has it, or as it would be sent but for what the device decides.
    #[must_use]
    pub const fn as_raw(&self) -> &ublk_params {
        &self.raw
    }

    /// The struct once it is such as the driver takes for a device that is to have these features, and requests of this size at
    /// most. The driver answers each of these with a bare `EINVAL`, and has a device by then that is to be deleted again.
    pub(crate) fn checked(&self, features: Features, max_io_bytes: u32) -> Result<ublk_params, Error> {
        if let Some(what) = self.invalid {
            return Err(Error::Invalid { what });
        }
        let mut raw = self.raw;
        let page_bytes = u64_from(syscall::page_bytes());
        let asked = rules::Asked { raw: &raw, page_bytes, features, max_io_bytes };
        if let Some(what) = rules::broken(&asked) {
            return Err(Error::Invalid { what });
        }
        if raw.types & UBLK_PARAM_TYPE_DISCARD != 0 && raw.discard.discard_granularity == 0 {
            // The driver wants one for WRITE_ZEROES alone too.
            raw.discard.discard_granularity = 1 << raw.basic.logical_bs_shift;
        }
        if raw.basic.max_sectors == 0 {
            raw.basic.max_sectors = max_io_bytes >> 9;
        }
        // What GET_PARAMS adds for the reader, SET_PARAMS refuses.
        raw.types &= !UBLK_PARAM_TYPE_DEVT;
        raw.len = const { size_of_params() };
        Ok(raw)
    }

    /// What is sent for this device.
    pub(crate) fn fitted(&self, device: &DeviceInfo) -> Result<ublk_params, Error> {
        self.checked(device.features(), device.max_io_bytes())
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

/// The power of two with this exponent; 0 where 32 bits have no room for it.
fn power(exponent: u8) -> u32 {
    1_u32.checked_shl(exponent.into()).unwrap_or(0)
}

/// The exponent of a power of two.
fn shift(bytes: u32) -> Option<u8> {
    bytes.is_power_of_two().then(|| u8::try_from(bytes.trailing_zeros()).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::{Attributes, Cache, Checksum, Integrity, IntegrityFlags, ParamTypes, Params, Zones};
    use crate::device_info::DeviceInfo;
    use crate::{Error, Features, Sectors};
    use std::format;
    use ublk_sys::{UBLK_PARAM_TYPE_DEVT, ublk_params, ublksrv_ctrl_dev_info};

    const ZONED: Features = Features::ZONED.union(Features::USER_COPY);
    const INTEGRITY: Features = Features::INTEGRITY.union(Features::USER_COPY);

    fn device_with(features: Features) -> DeviceInfo {
        let mut info = ublksrv_ctrl_dev_info::default();
        (info.max_io_buf_bytes, info.flags) = (1 << 20, features.bits());
        DeviceInfo::from_raw(info)
    }

    fn device() -> DeviceInfo {
        device_with(Features::NONE)
    }

    fn new(sectors: u64) -> Params {
        Params::new(Sectors::new(sectors), Cache::None)
    }

    fn of(change: impl FnOnce(Params) -> Params) -> Params {
        change(new(1 << 20))
    }

    fn refused(params: Params) -> bool {
        refused_with(Features::NONE, params)
    }

    fn refused_with(features: Features, params: Params) -> bool {
        matches!(params.fitted(&device_with(features)), Err(Error::Invalid { .. }))
    }

    #[test]
    fn shapes_that_the_driver_refuses_are_refused_before_it() {
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
    fn each_number_is_taken_up_to_its_edge_and_refused_past_it() {
        let sectors = |params: fn(Params, Sectors) -> Params, count| of(|new| params(new, Sectors::new(count)));
        assert!(refused(sectors(Params::max_request, 7)) && refused(sectors(Params::max_request, 2049)));
        assert!(refused(sectors(Params::max_request, 0)) && refused(sectors(Params::max_request, 1 << 32)));
        assert!(!refused(sectors(Params::max_request, 8)) && !refused(sectors(Params::max_request, 2048)));
        assert!(
            refused(sectors(Params::chunk, 0)) && refused(sectors(|new, size| new.block_bytes(4096).chunk(size), 9))
        );
        assert!(!refused(sectors(Params::chunk, 9)) && refused(sectors(Params::chunk, 1 << 32)));
        for (bytes, is_refused) in
            [(0, true), (256, true), (768, true), (512, false), (1 << 28, false), (1 << 29, true)]
        {
            assert_eq!(refused(of(|new| new.io_min_bytes(bytes))), is_refused, "{bytes}");
            assert_eq!(refused(of(|new| new.io_opt_bytes(bytes))), is_refused, "{bytes}");
        }
        for (bytes, is_refused) in [(0, true), (256, true), (4097, true), (512, false), (4096, false), (1 << 63, false)]
        {
            assert_eq!(refused(of(|new| new.virt_boundary_bytes(bytes))), is_refused, "{bytes}");
        }
        for (bytes, is_refused) in [(0, true), (1, true), (3, true), (2, false), (4096, false), (u32::MAX, true)] {
            assert_eq!(refused(of(|new| new.dma_alignment(bytes))), is_refused, "{bytes}");
        }
        assert!(refused(of(|new| new.dma_alignment(1 << 20))));
        let discard = |alignment| of(|new| new.discard(4096, Sectors::new(8)).discard_alignment_bytes(alignment));
        assert!(!refused(discard(4095)) && refused(discard(4096)));
        assert!(refused(of(|new| new.write_zeroes(Sectors::new(8)).discard_alignment_bytes(512))));
        let segments = |boundary, bytes, count| refused(of(|new| new.segments(boundary, bytes, count)));
        assert!(!segments(4096, 4096, 1) && !segments(1 << 63, u32::MAX, u16::MAX));
        assert!(segments(0, 4096, 1) && segments(2048, 4096, 1) && segments(4097, 4096, 1));
        assert!(segments(4096, 4095, 1) && segments(4096, 4096, 0));
    }

    #[test]
    fn zones_are_for_zoned_devices_which_have_them() {
        let zones = |change: fn(Zones) -> Zones| {
            of(|new| new.zoned(change(Zones::new(Sectors::new(1 << 14), Sectors::new(256)))))
        };
        assert!(!refused_with(ZONED, zones(|zones| zones)));
        assert!(refused(zones(|zones| zones)) && refused_with(ZONED, new(1 << 20)));
        // There are 64.
        assert!(!refused_with(ZONED, zones(|zones| zones.max_open(64).max_active(64))));
        assert!(refused_with(ZONED, zones(|zones| zones.max_open(65))));
        assert!(refused_with(ZONED, zones(|zones| zones.max_active(65))));
        assert!(refused_with(ZONED, zones(|zones| zones.max_open(9).max_active(8))));
        for (size, append) in [(0, 256), (3 << 14, 256), (1 << 14, 0), (1 << 32, 256), (1 << 14, 1 << 32)] {
            let zones = Zones::new(Sectors::new(size), Sectors::new(append));
            assert!(refused_with(ZONED, of(|new| new.zoned(zones))), "{zones:?}");
        }
        // A block is not cut by a zone.
        let small = Zones::new(Sectors::new(4), Sectors::new(4));
        assert!(refused_with(ZONED, of(|new| new.block_bytes(4096).zoned(small))));
        assert!(refused_with(ZONED, of(|new| new.chunk(Sectors::new(8)).zoned(small))));
        assert!(refused_with(ZONED, of(|new| new.zoned(small).chunk(Sectors::new(8)))));
    }

    #[test]
    fn metadata_is_for_devices_with_integrity_and_holds_its_protection_information() {
        let with = |integrity| of(|new| new.integrity(integrity));
        let crc = |checksum, metadata, offset| with(Integrity::new(metadata, 512).checksum(checksum, offset));
        assert!(refused(with(Integrity::new(8, 512))) && !refused_with(INTEGRITY, with(Integrity::new(8, 512))));
        assert!(!refused_with(INTEGRITY, new(8)), "the feature needs no parameters");
        assert!(refused_with(INTEGRITY, with(Integrity::new(0, 512))));
        for interval in [0, 256, 513, 1024] {
            assert!(refused_with(INTEGRITY, with(Integrity::new(8, interval))), "{interval}");
        }
        assert!(!refused_with(INTEGRITY, of(|new| new.block_bytes(4096).integrity(Integrity::new(8, 4096)))));
        assert!(!refused_with(INTEGRITY, crc(Checksum::IP, 8, 0)) && refused_with(INTEGRITY, crc(Checksum::IP, 8, 1)));
        assert!(!refused_with(INTEGRITY, crc(Checksum::CRC64_NVME, 255, 239)));
        assert!(refused_with(INTEGRITY, crc(Checksum::CRC64_NVME, 255, 240)));
        assert!(refused_with(INTEGRITY, crc(Checksum::from_raw(3), 16, 0)));
        let tagged = Integrity::new(8, 512).flags(IntegrityFlags::REFERENCE_TAG);
        assert!(refused_with(INTEGRITY, with(tagged)));
        assert!(!refused_with(INTEGRITY, with(tagged.checksum(Checksum::CRC16_T10DIF, 0))));
        assert!(refused_with(INTEGRITY, with(Integrity::new(8, 512).flags(IntegrityFlags::from_bits(4)))));
    }

    #[test]
    fn what_was_set_is_what_is_told() {
        let zones = Zones::new(Sectors::new(1 << 14), Sectors::new(256)).max_open(3).max_active(4);
        let integrity = Integrity::new(24, 4096).checksum(Checksum::CRC64_NVME, 8).tag_bytes(6).max_segments(5);
        let asked =
            new(1 << 20).block_bytes(4096).io_min_bytes(8192).io_opt_bytes(1 << 20).max_request(Sectors::new(64));
        let asked = asked.virt_boundary_bytes(4096).dma_alignment(4).segments(65_536, 8192, 7);
        let asked = asked.discard(8192, Sectors::new(64)).discard_alignment_bytes(4096).write_zeroes(Sectors::new(128));
        let asked = asked.zoned(zones).integrity(integrity);
        let sent = asked.fitted(&device_with(ZONED | INTEGRITY)).unwrap();
        let told = Params::from_driver(sent).limits();
        assert_eq!(told, asked.limits());
        assert_eq!((told.block_bytes, told.physical_block_bytes), (4096, 4096));
        assert_eq!((told.io_min_bytes, told.io_opt_bytes, told.max_request.raw()), (8192, 1 << 20, 64));
        assert_eq!((told.virt_boundary_bytes, told.dma_alignment_bytes), (Some(4096), Some(4)));
        assert_eq!((told.zones, told.integrity), (Some(zones), Some(integrity)));
        let segments = told.segments.unwrap();
        assert_eq!((segments.boundary_bytes, segments.max_bytes, segments.max_segments), (65_536, 8192, 7));
        let discard = told.discard.unwrap();
        assert_eq!((discard.granularity_bytes, discard.alignment_bytes), (8192, 4096));
        assert_eq!((discard.max.raw(), discard.max_write_zeroes.raw()), (64, 128));
        let bare = new(8).limits();
        assert_eq!(
            (bare.chunk, bare.virt_boundary_bytes, bare.discard, bare.dma_alignment_bytes),
            (None, None, None, None)
        );
        assert_eq!((bare.segments, bare.zones, bare.integrity), (None, None, None));
    }

    #[test]
    fn what_a_driver_tells_in_nonsense_is_no_panic() {
        for byte in [0, 1, 9, 28, 29, 31, 32, 64, 255] {
            let mut raw = ublk_params::default();
            (raw.types, raw.basic.logical_bs_shift, raw.integrity.interval_exp) = (u32::MAX, byte, byte);
            let wide = u64::from(byte).wrapping_mul(u64::MAX / 255);
            (raw.basic.dev_sectors, raw.seg.seg_boundary_mask, raw.basic.virt_boundary_mask) = (wide, wide, wide);
            raw.dma.alignment = u32::from(byte) * 0x0101_0101;
            let params = Params::from_driver(raw);
            assert!(refused_with(ZONED | INTEGRITY, params), "{params:?}");
            assert!(!format!("{:?}", params.limits()).is_empty());
        }
    }

    #[test]
    fn parameters_that_were_never_set_are_not_sent() {
        assert!(refused(Params::from_driver(ublk_params::default())));
    }

    #[test]
    fn each_kind_of_parameters_says_since_when_in_its_documentation_and_as_data() {
        let source = include_str!("params.rs");
        for (kind, name) in ParamTypes::KNOWN {
            let since = kind.since().unwrap();
            let documented = source.split(&format!(" = {name},")).next().unwrap().rsplit("///").next().unwrap();
            assert!(documented.contains(&format!("Since Linux {since}.")), "{name}: {since}, {documented}");
        }
        assert_eq!(ParamTypes::from_bits(1 << 20).since(), None);
    }

    #[test]
    fn requests_are_as_large_as_the_buffers_unless_said_otherwise() {
        let sent = new(8).fitted(&device()).unwrap();
        assert_eq!((sent.basic.max_sectors, sent.len), (2048, 152));
        let smaller = new(8).max_request(Sectors::new(16)).fitted(&device()).unwrap();
        assert_eq!(smaller.basic.max_sectors, 16);
        // What is asked for before the device is there is rounded as the driver will.
        assert!(new(8).max_request(Sectors::new(16)).checked(Features::NONE, 8193).is_ok());
        assert!(new(8).max_request(Sectors::new(17)).checked(Features::NONE, 12_287).is_err());
    }

    #[test]
    fn write_zeroes_alone_brings_the_granularity_that_the_driver_wants() {
        let sent = new(8).write_zeroes(Sectors::new(8)).fitted(&device()).unwrap();
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
