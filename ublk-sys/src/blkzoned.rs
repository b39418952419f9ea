// SPDX-License-Identifier: MIT OR Apache-2.0
//! `include/uapi/linux/blkzoned.h`: what a server answers `UBLK_IO_OP_REPORT_ZONES` with.
//!
//! The ioctls by which one asks another zoned disk for its zones are left out: they are not ublk's.

use crate::layout::{Table, assert_layout, constants};

constants! { ZONES:
    /// `blk_zone.type`: written in any order, has no write pointer.
    pub const BLK_ZONE_TYPE_CONVENTIONAL: u8 = 1, since "4.10";
    /// `blk_zone.type`: written at its write pointer only.
    pub const BLK_ZONE_TYPE_SEQWRITE_REQ: u8 = 2, since "4.10";
    /// `blk_zone.type`: best written at its write pointer.
    pub const BLK_ZONE_TYPE_SEQWRITE_PREF: u8 = 3, since "4.10";

    /// `blk_zone.cond`: a conventional zone.
    pub const BLK_ZONE_COND_NOT_WP: u8 = 0x0, since "4.10";
    /// `blk_zone.cond`: nothing written since the last reset.
    pub const BLK_ZONE_COND_EMPTY: u8 = 0x1, since "4.10";
    /// `blk_zone.cond`: opened by a write.
    pub const BLK_ZONE_COND_IMP_OPEN: u8 = 0x2, since "4.10";
    /// `blk_zone.cond`: opened by a request to open it.
    pub const BLK_ZONE_COND_EXP_OPEN: u8 = 0x3, since "4.10";
    /// `blk_zone.cond`: partly written and not open.
    pub const BLK_ZONE_COND_CLOSED: u8 = 0x4, since "4.10";
    /// `blk_zone.cond`: can be read only.
    pub const BLK_ZONE_COND_READONLY: u8 = 0xd, since "4.10";
    /// `blk_zone.cond`: written to its end, or finished.
    pub const BLK_ZONE_COND_FULL: u8 = 0xe, since "4.10";
    /// `blk_zone.cond`: can be neither read nor written.
    pub const BLK_ZONE_COND_OFFLINE: u8 = 0xf, since "4.10";
    /// `blk_zone.cond`: open or closed, which of them is not known. The block layer makes it from what it has cached;
    /// a device does not report it.
    pub const BLK_ZONE_COND_ACTIVE: u8 = 0xff, since "6.19";

    /// Flag of a zone report: `blk_zone.capacity` is filled.
    pub const BLK_ZONE_REP_CAPACITY: u32 = 1 << 0, since "5.9";
    /// Flag that asks for a report out of what the block layer has cached.
    pub const BLK_ZONE_REP_CACHED: u32 = 1 << 31, since "6.19";
}

/// One zone of a zone report (`struct blk_zone`). Every position and length is in sectors of 512 bytes, whatever the
/// logical block size.
///
/// Since Linux 4.10.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct blk_zone {
    /// First sector.
    pub start: u64,
    /// Length in sectors.
    pub len: u64,
    /// Sector of the write pointer.
    pub wp: u64,
    /// One of `BLK_ZONE_TYPE_*`.
    pub r#type: u8,
    /// One of `BLK_ZONE_COND_*`.
    pub cond: u8,
    /// Not 0: a sequential-preferred zone holds resources for having been written out of order.
    pub non_seq: u8,
    /// Not 0: the device recommends a reset.
    pub reset: u8,
    /// Zero.
    pub resv: [u8; 4],
    /// How many of the zone's sectors can be written.
    pub capacity: u64,
    /// Zero.
    pub reserved: [u8; 24],
}
assert_layout!(blk_zone, since = "4.10", size = 64, align = 8, {
    start: u64 = 0, len: u64 = 8, wp: u64 = 16,
    r#type: u8 = 24 => ["type": u8 = 24],
    cond: u8 = 25, non_seq: u8 = 26, reset: u8 = 27,
    resv: [u8; 4] = 28 => ["resv": [u8; 4] = 28 since "5.9", "reserved": [u8; 36] = 28 until "5.9"],
    capacity: u64 = 32 => ["capacity": u64 = 32 since "5.9"],
    reserved: [u8; 24] = 40 => ["reserved": [u8; 24] = 40 since "5.9"],
});

/// What is mirrored of `linux/blkzoned.h`.
pub(crate) const TABLE: Table = Table { header: "linux/blkzoned.h", structs: &[blk_zone::LAYOUT], constants: &[ZONES] };
