// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the driver takes as parameters, a sentence for each rule.
//!
//! It answers all of them with the same `EINVAL`, and those of the block layer only when the device is started.

use ublk_sys::{
    UBLK_MIN_SEGMENT_SIZE, UBLK_PARAM_TYPE_BASIC, UBLK_PARAM_TYPE_DISCARD, UBLK_PARAM_TYPE_DMA_ALIGN,
    UBLK_PARAM_TYPE_INTEGRITY, UBLK_PARAM_TYPE_SEGMENT, UBLK_PARAM_TYPE_ZONED, ublk_params,
};

use super::{Checksum, IntegrityFlags};
use crate::features::Features;
use crate::units::{SECTOR_BYTES, u64_from};
use crate::zone::REPORTED_BYTES;

pub(super) const BLOCK: &str = "a logical block is a power of two of 512 bytes or more, and at most a page";

/// Parameters, and the device that they are for: as it is, or as it is to be added.
pub(super) struct Asked<'p> {
    pub(super) raw: &'p ublk_params,
    pub(super) page_bytes: u64,
    pub(super) features: Features,
    /// Bytes of the device's largest request.
    pub(super) max_io_bytes: u32,
}

/// The first rule that is broken.
pub(super) fn broken(asked: &Asked<'_>) -> Option<&'static str> {
    RULES.iter().find(|(_, is_broken)| is_broken(asked)).map(|(what, _)| *what)
}

/// A rule, and whether it is broken.
type Rule = (&'static str, fn(&Asked<'_>) -> bool);

const RULES: &[Rule] = &[
    ("parameters have a size and blocks (UBLK_PARAM_TYPE_BASIC): these were never set", |a| {
        !a.has(UBLK_PARAM_TYPE_BASIC)
    }),
    ("a disk is a whole number of logical blocks, and not empty", |a| {
        let sectors = a.raw.basic.dev_sectors;
        sectors == 0 || sectors % a.block_sectors() != 0
    }),
    ("a disk has below 2^64 bytes", |a| a.raw.basic.dev_sectors > u64::MAX / SECTOR_BYTES),
    (BLOCK, |a| a.raw.basic.logical_bs_shift < 9 || a.block_sectors() * SECTOR_BYTES > a.page_bytes),
    ("a physical block is not smaller than a logical one", |a| {
        a.raw.basic.physical_bs_shift < a.raw.basic.logical_bs_shift
    }),
    ("a size that is a power of two is at most 256 MiB", |a| {
        let basic = &a.raw.basic;
        [basic.physical_bs_shift, basic.io_min_shift, basic.io_opt_shift].iter().any(|shift| *shift > 28)
    }),
    // 0 is filled in later.
    ("the largest request has a page or more", |a| {
        let bytes = u64::from(a.raw.basic.max_sectors) * SECTOR_BYTES;
        bytes != 0 && bytes < a.page_bytes
    }),
    ("the largest request is not larger than the device's", |a| {
        // The driver rounds what was asked for down to whole pages.
        u64::from(a.raw.basic.max_sectors) * SECTOR_BYTES > a.whole_pages()
    }),
    // Else the block layer would have to cut a block in two.
    ("a chunk is a whole number of logical blocks", |a| {
        !a.has(UBLK_PARAM_TYPE_ZONED) && u64::from(a.raw.basic.chunk_sectors) % a.block_sectors() != 0
    }),
    ("a virtual boundary is a power of two of 512 bytes or more", |a| {
        let mask = a.raw.basic.virt_boundary_mask;
        mask != 0 && (mask < 511 || mask & mask.wrapping_add(1) != 0)
    }),
    ("a discard has one segment", |a| {
        let discard = &a.raw.discard;
        a.has(UBLK_PARAM_TYPE_DISCARD) && discard.max_discard_sectors != 0 && discard.max_discard_segments != 1
    }),
    ("the first unit of discard starts before the second, and needs a discard", |a| {
        let discard = &a.raw.discard;
        let aligned = a.has(UBLK_PARAM_TYPE_DISCARD) && discard.discard_alignment != 0;
        aligned && (discard.max_discard_sectors == 0 || discard.discard_alignment >= discard.discard_granularity)
    }),
    // By 1, a mask of 0, the block layer understands 512.
    ("the alignment of memory is a power of two of 2 bytes or more, and at most a page", |a| {
        let mask = a.raw.dma.alignment;
        let is_mask = mask != 0 && mask & mask.wrapping_add(1) == 0;
        a.has(UBLK_PARAM_TYPE_DMA_ALIGN) && (!is_mask || u64::from(mask) >= a.page_bytes)
    }),
    ("the boundary of segments is a power of two of 4096 bytes or more", |a| {
        let bytes = a.raw.seg.seg_boundary_mask.wrapping_add(1);
        a.has(UBLK_PARAM_TYPE_SEGMENT) && (!bytes.is_power_of_two() || bytes < UBLK_MIN_SEGMENT_SIZE.into())
    }),
    ("the largest segment has 4096 bytes or more", |a| {
        a.has(UBLK_PARAM_TYPE_SEGMENT) && a.raw.seg.max_segment_size < UBLK_MIN_SEGMENT_SIZE
    }),
    // By 0 the block layer understands 128.
    ("a request has a segment or more", |a| a.has(UBLK_PARAM_TYPE_SEGMENT) && a.raw.seg.max_segments == 0),
    ("a zone is a power of two of sectors, and a whole number of logical blocks", |a| {
        let sectors = a.raw.basic.chunk_sectors;
        a.has(UBLK_PARAM_TYPE_ZONED) && (!sectors.is_power_of_two() || u64::from(sectors) % a.block_sectors() != 0)
    }),
    // The block layer misses a smaller last one, and the start fails.
    ("a zoned disk is a whole number of zones", |a| {
        let last = a.raw.basic.dev_sectors.checked_rem(a.raw.basic.chunk_sectors.into());
        a.has(UBLK_PARAM_TYPE_ZONED) && last != Some(0)
    }),
    // The driver asks for more in a second request, and puts these in front of the others.
    ("the largest request has room for a report of all zones, 64 bytes for each", |a| {
        let zones = a.raw.basic.dev_sectors.checked_div(a.raw.basic.chunk_sectors.into()).unwrap_or(0);
        let bytes = match a.raw.basic.max_sectors {
            0 => a.whole_pages(),
            sectors => u64::from(sectors) * SECTOR_BYTES,
        };
        a.has(UBLK_PARAM_TYPE_ZONED) && zones > bytes / u64_from(REPORTED_BYTES)
    }),
    ("a zone append has a largest size above 0", |a| {
        a.has(UBLK_PARAM_TYPE_ZONED) && a.raw.zoned.max_zone_append_sectors == 0
    }),
    ("no more zones are open or active than there are", |a| {
        let zones = a.raw.basic.dev_sectors.checked_div(a.raw.basic.chunk_sectors.into()).unwrap_or(0);
        let most = a.raw.zoned.max_open_zones.max(a.raw.zoned.max_active_zones);
        a.has(UBLK_PARAM_TYPE_ZONED) && u64::from(most) > zones
    }),
    ("no more zones are open than active", |a| {
        let zoned = &a.raw.zoned;
        let limited = a.has(UBLK_PARAM_TYPE_ZONED) && zoned.max_active_zones != 0;
        limited && zoned.max_open_zones > zoned.max_active_zones
    }),
    ("zones need a device with UBLK_F_ZONED", |a| {
        a.has(UBLK_PARAM_TYPE_ZONED) && !a.features.contains(Features::ZONED)
    }),
    ("a device with UBLK_F_ZONED has zones", |a| !a.has(UBLK_PARAM_TYPE_ZONED) && a.features.contains(Features::ZONED)),
    ("metadata needs a device with UBLK_F_INTEGRITY", |a| {
        a.has(UBLK_PARAM_TYPE_INTEGRITY) && !a.features.contains(Features::INTEGRITY)
    }),
    ("the flags of metadata are LBMD_PI_CAP_INTEGRITY and LBMD_PI_CAP_REFTAG", |a| {
        let known = IntegrityFlags::CAPABLE | IntegrityFlags::REFERENCE_TAG;
        a.has(UBLK_PARAM_TYPE_INTEGRITY) && a.raw.integrity.flags & !known.bits() != 0
    }),
    ("the checksum of metadata is NONE, IP, CRC16_T10DIF or CRC64_NVME", |a| {
        a.has(UBLK_PARAM_TYPE_INTEGRITY) && a.checksum().protection_bytes().is_none()
    }),
    ("metadata has a byte or more", |a| a.has(UBLK_PARAM_TYPE_INTEGRITY) && a.raw.integrity.metadata_size == 0),
    ("a reference tag needs a checksum", |a| {
        let flags = IntegrityFlags::from_bits(a.raw.integrity.flags);
        let tagged = a.has(UBLK_PARAM_TYPE_INTEGRITY) && flags.contains(IntegrityFlags::REFERENCE_TAG);
        tagged && a.checksum() == Checksum::NONE
    }),
    ("the protection information ends within the metadata: 8 bytes behind its offset, or 16 with a CRC64", |a| {
        let integrity = &a.raw.integrity;
        let end = u16::from(integrity.pi_offset) + u16::from(a.checksum().protection_bytes().unwrap_or(0));
        a.has(UBLK_PARAM_TYPE_INTEGRITY) && end > integrity.metadata_size.into()
    }),
    ("the interval of metadata is a power of two of 512 bytes or more, and at most a logical block", |a| {
        let exponents = 9..=a.raw.basic.logical_bs_shift;
        a.has(UBLK_PARAM_TYPE_INTEGRITY) && !exponents.contains(&a.raw.integrity.interval_exp)
    }),
];

impl Asked<'_> {
    fn has(&self, kind: u32) -> bool {
        self.raw.types & kind != 0
    }

    /// What the driver makes of the largest request that was asked for: whole pages.
    fn whole_pages(&self) -> u64 {
        u64::from(self.max_io_bytes) & !self.page_bytes.saturating_sub(1)
    }

    fn block_sectors(&self) -> u64 {
        1 << self.raw.basic.logical_bs_shift.saturating_sub(9).min(32)
    }

    fn checksum(&self) -> Checksum {
        Checksum::from_raw(self.raw.integrity.csum_type)
    }
}
