// SPDX-License-Identifier: MIT OR Apache-2.0
//! What parameters come to, in bytes and sectors.

use ublk_sys::{
    UBLK_PARAM_TYPE_DISCARD, UBLK_PARAM_TYPE_DMA_ALIGN, UBLK_PARAM_TYPE_INTEGRITY, UBLK_PARAM_TYPE_SEGMENT,
    UBLK_PARAM_TYPE_ZONED, ublk_params,
};

use super::power;
use crate::params::{Integrity, Zones};
use crate::units::Sectors;

/// What parameters come to ([`Params::limits`](crate::Params::limits)), where the struct has shifts and masks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of a logical block.
    pub block_bytes: u32,
    /// Bytes that the disk itself reads and writes at once.
    pub physical_block_bytes: u32,
    /// Bytes of the smallest request that costs nothing extra.
    pub io_min_bytes: u32,
    /// Bytes of the best request.
    pub io_opt_bytes: u32,
    /// The largest request; of parameters that were not sent yet 0 where it is to be as large as the device's.
    pub max_request: Sectors,
    /// No request crosses a multiple of this. Of a zoned device it is the size of a zone.
    pub chunk: Option<Sectors>,
    /// Segments of a request meet only at multiples of this.
    pub virt_boundary_bytes: Option<u64>,
    /// Discard and write zeroes, if the target takes either.
    pub discard: Option<DiscardLimits>,
    /// What addresses of the memory of requests are multiples of, where that was said.
    pub dma_alignment_bytes: Option<u32>,
    /// How the memory of requests is cut, where that was said.
    pub segments: Option<Segments>,
    /// The zones of a zoned device.
    pub zones: Option<Zones>,
    /// The metadata of a device that has it.
    pub integrity: Option<Integrity>,
}

static_assertions::assert_impl_all!(Limits: Send, Sync);

/// What a target forgets (`struct ublk_param_discard`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiscardLimits {
    /// Bytes of a unit.
    pub granularity_bytes: u32,
    /// Where the first unit starts, in bytes.
    pub alignment_bytes: u32,
    /// The largest discard; 0 where there is none.
    pub max: Sectors,
    /// The largest write of zeroes; 0 where there is none.
    pub max_write_zeroes: Sectors,
}

static_assertions::assert_impl_all!(DiscardLimits: Send, Sync);

/// How the memory of requests is cut (`struct ublk_param_segment`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Segments {
    /// No segment crosses a multiple of this.
    pub boundary_bytes: u64,
    /// Bytes of the largest segment.
    pub max_bytes: u32,
    /// Most segments of a request.
    pub max_segments: u16,
}

static_assertions::assert_impl_all!(Segments: Send, Sync);

impl Limits {
    pub(super) fn of(raw: &ublk_params) -> Limits {
        let has = |kind| raw.types & kind != 0;
        let sectors = |count: u32| Sectors::new(count.into());
        let mask = raw.basic.virt_boundary_mask;
        Limits {
            block_bytes: power(raw.basic.logical_bs_shift),
            physical_block_bytes: power(raw.basic.physical_bs_shift),
            io_min_bytes: power(raw.basic.io_min_shift),
            io_opt_bytes: power(raw.basic.io_opt_shift),
            max_request: sectors(raw.basic.max_sectors),
            chunk: Some(sectors(raw.basic.chunk_sectors)).filter(|chunk| chunk.raw() != 0),
            virt_boundary_bytes: Some(mask.wrapping_add(1)).filter(|_| mask != 0),
            discard: has(UBLK_PARAM_TYPE_DISCARD).then(|| DiscardLimits {
                granularity_bytes: raw.discard.discard_granularity,
                alignment_bytes: raw.discard.discard_alignment,
                max: sectors(raw.discard.max_discard_sectors),
                max_write_zeroes: sectors(raw.discard.max_write_zeroes_sectors),
            }),
            dma_alignment_bytes: has(UBLK_PARAM_TYPE_DMA_ALIGN).then(|| raw.dma.alignment.wrapping_add(1)),
            segments: has(UBLK_PARAM_TYPE_SEGMENT).then(|| Segments {
                boundary_bytes: raw.seg.seg_boundary_mask.wrapping_add(1),
                max_bytes: raw.seg.max_segment_size,
                max_segments: raw.seg.max_segments,
            }),
            zones: has(UBLK_PARAM_TYPE_ZONED).then(|| Zones::of(raw)),
            integrity: has(UBLK_PARAM_TYPE_INTEGRITY).then(|| Integrity::of(&raw.integrity)),
        }
    }
}
