// SPDX-License-Identifier: MIT OR Apache-2.0
//! One zone of a zoned device, as a zone report has it.

use core::fmt;

use ublk_sys::{
    BLK_ZONE_COND_CLOSED, BLK_ZONE_COND_EMPTY, BLK_ZONE_COND_EXP_OPEN, BLK_ZONE_COND_FULL, BLK_ZONE_COND_IMP_OPEN,
    BLK_ZONE_COND_NOT_WP, BLK_ZONE_COND_OFFLINE, BLK_ZONE_COND_READONLY, BLK_ZONE_TYPE_CONVENTIONAL,
    BLK_ZONE_TYPE_SEQWRITE_PREF, BLK_ZONE_TYPE_SEQWRITE_REQ, blk_zone,
};

use crate::units::Sectors;

/// Bytes of a zone in a report.
pub(crate) const REPORTED_BYTES: usize = size_of::<blk_zone>();

/// One zone of a zoned device (`struct blk_zone`), for [`Request::report_zones`](crate::Request::report_zones).
///
/// ```
/// use ublk::{Sectors, Zone, ZoneCondition};
///
/// // 4 MiB, of which the first 4 KiB were written.
/// let (start, size) = (Sectors::new(8192), Sectors::new(8192));
/// let zone = Zone::sequential(start, size).written_to(ZoneCondition::IMPLICITLY_OPEN, Sectors::new(8200));
/// assert_eq!(zone.write_pointer, Sectors::new(8200));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub struct Zone {
    /// Where it starts on the disk.
    pub start: Sectors,
    /// How long it is: every zone of a disk is as long as [`Zones::size`](crate::Zones::size) says.
    pub len: Sectors,
    /// How much of it can be written, from its start on.
    pub capacity: Sectors,
    /// How it is to be written.
    pub kind: ZoneType,
    /// What state it is in.
    pub condition: ZoneCondition,
    /// Where on the disk it is to be written next. A conventional zone has none.
    pub write_pointer: Sectors,
}

static_assertions::assert_impl_all!(Zone: Send, Sync);

impl Zone {
    /// A zone that is written in any order.
    pub const fn conventional(start: Sectors, len: Sectors) -> Zone {
        let (kind, condition) = (ZoneType::CONVENTIONAL, ZoneCondition::NOT_WRITE_POINTER);
        Zone { start, len, capacity: len, kind, condition, write_pointer: Sectors::new(u64::MAX) }
    }

    /// A zone that is written at its write pointer only, and is empty.
    pub const fn sequential(start: Sectors, len: Sectors) -> Zone {
        let (kind, condition) = (ZoneType::SEQUENTIAL_REQUIRED, ZoneCondition::EMPTY);
        Zone { start, len, capacity: len, kind, condition, write_pointer: start }
    }

    /// Of its length only so much can be written.
    pub const fn capacity(mut self, capacity: Sectors) -> Zone {
        self.capacity = capacity;
        self
    }

    /// It is in this state, and was written up to here.
    pub const fn written_to(mut self, condition: ZoneCondition, write_pointer: Sectors) -> Zone {
        self.condition = condition;
        self.write_pointer = write_pointer;
        self
    }

    /// The 64 bytes of the struct.
    pub(crate) fn to_bytes(self) -> [u8; REPORTED_BYTES] {
        let [start, len, write_pointer, capacity] =
            [self.start, self.len, self.write_pointer, self.capacity].map(Sectors::raw);
        let kinds = u64::from_ne_bytes([self.kind.raw(), self.condition.raw(), 0, 0, 0, 0, 0, 0]);
        let words = [start, len, write_pointer, kinds, capacity, 0, 0, 0];
        let mut bytes = [0; REPORTED_BYTES];
        for (to, byte) in bytes.iter_mut().zip(words.iter().flat_map(|word| word.to_ne_bytes())) {
            *to = byte;
        }
        bytes
    }
}

/// How a zone is to be written (`BLK_ZONE_TYPE_*`, `blk_zone.type`).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ZoneType(u8);

static_assertions::assert_impl_all!(ZoneType: Send, Sync);

impl ZoneType {
    /// In any order: it has no write pointer.
    pub const CONVENTIONAL: ZoneType = ZoneType(BLK_ZONE_TYPE_CONVENTIONAL);
    /// At its write pointer only.
    pub const SEQUENTIAL_REQUIRED: ZoneType = ZoneType(BLK_ZONE_TYPE_SEQWRITE_REQ);
    /// At its write pointer rather than elsewhere. The block layer takes no disk that has one.
    pub const SEQUENTIAL_PREFERRED: ZoneType = ZoneType(BLK_ZONE_TYPE_SEQWRITE_PREF);

    /// The one with this number, known or not.
    #[must_use]
    pub const fn from_raw(number: u8) -> ZoneType {
        ZoneType(number)
    }

    /// The kernel's number.
    #[must_use]
    pub const fn raw(self) -> u8 {
        self.0
    }
}

impl fmt::Debug for ZoneType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            ZoneType::CONVENTIONAL => f.write_str("CONVENTIONAL"),
            ZoneType::SEQUENTIAL_REQUIRED => f.write_str("SEQUENTIAL_REQUIRED"),
            ZoneType::SEQUENTIAL_PREFERRED => f.write_str("SEQUENTIAL_PREFERRED"),
            ZoneType(other) => write!(f, "zone type {other}"),
        }
    }
}

/// What state a zone is in (`BLK_ZONE_COND_*`, `blk_zone.cond`).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ZoneCondition(u8);

static_assertions::assert_impl_all!(ZoneCondition: Send, Sync);

impl ZoneCondition {
    /// A conventional zone, which has no write pointer.
    pub const NOT_WRITE_POINTER: ZoneCondition = ZoneCondition(BLK_ZONE_COND_NOT_WP);
    /// Nothing was written since the last reset.
    pub const EMPTY: ZoneCondition = ZoneCondition(BLK_ZONE_COND_EMPTY);
    /// Opened by a write.
    pub const IMPLICITLY_OPEN: ZoneCondition = ZoneCondition(BLK_ZONE_COND_IMP_OPEN);
    /// Opened by ZONE_OPEN.
    pub const EXPLICITLY_OPEN: ZoneCondition = ZoneCondition(BLK_ZONE_COND_EXP_OPEN);
    /// Partly written, and not open.
    pub const CLOSED: ZoneCondition = ZoneCondition(BLK_ZONE_COND_CLOSED);
    /// It can be read only.
    pub const READ_ONLY: ZoneCondition = ZoneCondition(BLK_ZONE_COND_READONLY);
    /// Written to the end of its capacity, or finished.
    pub const FULL: ZoneCondition = ZoneCondition(BLK_ZONE_COND_FULL);
    /// It can be neither read nor written.
    pub const OFFLINE: ZoneCondition = ZoneCondition(BLK_ZONE_COND_OFFLINE);

    /// The one with this number, known or not.
    #[must_use]
    pub const fn from_raw(number: u8) -> ZoneCondition {
        ZoneCondition(number)
    }

    /// The kernel's number.
    #[must_use]
    pub const fn raw(self) -> u8 {
        self.0
    }
}

impl fmt::Debug for ZoneCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            ZoneCondition::NOT_WRITE_POINTER => f.write_str("NOT_WRITE_POINTER"),
            ZoneCondition::EMPTY => f.write_str("EMPTY"),
            ZoneCondition::IMPLICITLY_OPEN => f.write_str("IMPLICITLY_OPEN"),
            ZoneCondition::EXPLICITLY_OPEN => f.write_str("EXPLICITLY_OPEN"),
            ZoneCondition::CLOSED => f.write_str("CLOSED"),
            ZoneCondition::READ_ONLY => f.write_str("READ_ONLY"),
            ZoneCondition::FULL => f.write_str("FULL"),
            ZoneCondition::OFFLINE => f.write_str("OFFLINE"),
            ZoneCondition(other) => write!(f, "zone condition {other}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{REPORTED_BYTES, Zone, ZoneCondition};
    use crate::Sectors;
    use core::mem::offset_of;
    use ublk_sys::blk_zone;

    #[test]
    fn each_field_of_a_zone_stands_at_its_byte() {
        let zone = Zone::sequential(Sectors::new(0x0102), Sectors::new(0x0304))
            .capacity(Sectors::new(0x0506))
            .written_to(ZoneCondition::CLOSED, Sectors::new(0x0708));
        let mut expected = [0; REPORTED_BYTES];
        let numbers = [
            (offset_of!(blk_zone, start), 0x0102_u64),
            (offset_of!(blk_zone, len), 0x0304),
            (offset_of!(blk_zone, wp), 0x0708),
            (offset_of!(blk_zone, capacity), 0x0506),
        ];
        for (place, number) in numbers {
            expected[place..place + 8].copy_from_slice(&number.to_ne_bytes());
        }
        expected[offset_of!(blk_zone, r#type)] = 2;
        expected[offset_of!(blk_zone, cond)] = 4;
        assert_eq!(zone.to_bytes(), expected);
    }
}
