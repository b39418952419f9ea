// SPDX-License-Identifier: MIT OR Apache-2.0
//! Metadata beside the data, and the protection information in it.

use core::fmt;

use ublk_sys::{
    LBMD_PI_CSUM_CRC16_T10DIF, LBMD_PI_CSUM_CRC64_NVME, LBMD_PI_CSUM_IP, LBMD_PI_CSUM_NONE, ublk_param_integrity,
};

use crate::flag_set::flag_set;

flag_set! {
    /// What is promised of a device's metadata (`LBMD_PI_CAP_*`, `ublk_param_integrity.flags`). Since Linux 7.0.
    IntegrityFlags(u32) {
        /// The device stores metadata, and checks it (`device_is_integrity_capable` in sysfs).
        CAPABLE = LBMD_PI_CAP_INTEGRITY,
        /// The protection information holds a reference tag, which is compared with the sector.
        REFERENCE_TAG = LBMD_PI_CAP_REFTAG,
    }
}

/// How the data of an interval is summed up in its protection information (`LBMD_PI_CSUM_*`,
/// `ublk_param_integrity.csum_type`).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Checksum(u8);

static_assertions::assert_impl_all!(Checksum: Send, Sync);

impl Checksum {
    /// Not at all: the metadata has no protection information.
    pub const NONE: Checksum = Checksum(LBMD_PI_CSUM_NONE);
    /// By the Internet checksum; the protection information has 8 bytes.
    pub const IP: Checksum = Checksum(LBMD_PI_CSUM_IP);
    /// By T10 DIF's 16-bit CRC; the protection information has 8 bytes.
    pub const CRC16_T10DIF: Checksum = Checksum(LBMD_PI_CSUM_CRC16_T10DIF);
    /// By NVMe's 64-bit CRC; the protection information has 16 bytes.
    pub const CRC64_NVME: Checksum = Checksum(LBMD_PI_CSUM_CRC64_NVME);

    /// The one with this number, known or not.
    #[must_use]
    pub const fn from_raw(number: u8) -> Checksum {
        Checksum(number)
    }

    /// The kernel's number.
    #[must_use]
    pub const fn raw(self) -> u8 {
        self.0
    }

    /// Bytes of the protection information of an interval; `None` for a checksum that Linux 7.3 does not know.
    #[must_use]
    pub const fn protection_bytes(self) -> Option<u8> {
        match self {
            Checksum::NONE => Some(0),
            Checksum::IP | Checksum::CRC16_T10DIF => Some(8),
            Checksum::CRC64_NVME => Some(16),
            _ => None,
        }
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Checksum::NONE => f.write_str("NONE"),
            Checksum::IP => f.write_str("IP"),
            Checksum::CRC16_T10DIF => f.write_str("CRC16_T10DIF"),
            Checksum::CRC64_NVME => f.write_str("CRC64_NVME"),
            Checksum(other) => write!(f, "checksum {other}"),
        }
    }
}

/// Metadata of a device, a piece beside each interval of data (`struct ublk_param_integrity`).
///
/// ```
/// use ublk::{Checksum, Integrity, IntegrityFlags};
///
/// let integrity = Integrity::new(8, 512).checksum(Checksum::CRC16_T10DIF, 0).flags(IntegrityFlags::REFERENCE_TAG);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub struct Integrity {
    /// Bytes of metadata beside each interval, 1 to 255.
    pub metadata_bytes: u8,
    /// Bytes of data that a piece of metadata is about: a power of two, 512 to the logical block.
    pub interval_bytes: u32,
    /// The checksum in the protection information.
    pub checksum: Checksum,
    /// Bytes of the metadata before the protection information.
    pub protection_offset_bytes: u8,
    /// Bytes of the application's tag.
    pub tag_bytes: u8,
    /// What is promised.
    pub flags: IntegrityFlags,
    /// Most segments that a request's metadata is in; 0 for no limit.
    pub max_segments: u16,
}

static_assertions::assert_impl_all!(Integrity: Send, Sync);

impl Integrity {
    /// This many bytes of metadata beside each interval of data, without protection information.
    pub const fn new(metadata_bytes: u8, interval_bytes: u32) -> Integrity {
        Integrity {
            metadata_bytes,
            interval_bytes,
            checksum: Checksum::NONE,
            protection_offset_bytes: 0,
            tag_bytes: 0,
            flags: IntegrityFlags::NONE,
            max_segments: 0,
        }
    }

    /// Protection information with this checksum, from this byte of the metadata on.
    pub const fn checksum(mut self, checksum: Checksum, offset_bytes: u8) -> Integrity {
        self.checksum = checksum;
        self.protection_offset_bytes = offset_bytes;
        self
    }

    /// What is promised. A reference tag needs a checksum beside it.
    pub const fn flags(mut self, flags: IntegrityFlags) -> Integrity {
        self.flags = flags;
        self
    }

    /// Bytes of the application's tag.
    pub const fn tag_bytes(mut self, bytes: u8) -> Integrity {
        self.tag_bytes = bytes;
        self
    }

    /// Most segments that a request's metadata is in; 0 for no limit.
    pub const fn max_segments(mut self, segments: u16) -> Integrity {
        self.max_segments = segments;
        self
    }

    /// What is put into the struct; `None` where the interval has no place there.
    pub(super) fn put(self, raw: &mut ublk_param_integrity) -> Option<()> {
        raw.interval_exp = super::shift(self.interval_bytes)?;
        raw.flags = self.flags.bits();
        raw.max_integrity_segments = self.max_segments;
        raw.metadata_size = self.metadata_bytes;
        raw.pi_offset = self.protection_offset_bytes;
        raw.csum_type = self.checksum.raw();
        raw.tag_size = self.tag_bytes;
        Some(())
    }

    pub(super) fn of(raw: &ublk_param_integrity) -> Integrity {
        Integrity {
            metadata_bytes: raw.metadata_size,
            interval_bytes: super::power(raw.interval_exp),
            checksum: Checksum::from_raw(raw.csum_type),
            protection_offset_bytes: raw.pi_offset,
            tag_bytes: raw.tag_size,
            flags: IntegrityFlags::from_bits(raw.flags),
            max_segments: raw.max_integrity_segments,
        }
    }
}
