// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sectors, and the conversions between integer widths that Linux makes safe.

use core::fmt;

/// Bytes of a sector. The block layer counts in these whatever a device's logical block size is.
pub const SECTOR_BYTES: u64 = 512;

/// A count or a position in sectors of 512 bytes, whatever the logical block size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sectors(u64);

static_assertions::assert_impl_all!(Sectors: Send, Sync);

impl Sectors {
    /// This many sectors.
    #[must_use]
    pub const fn new(sectors: u64) -> Sectors {
        Sectors(sectors)
    }

    /// The sectors in `bytes`, which must be a whole number of them.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Option<Sectors> {
        if bytes % SECTOR_BYTES == 0 { Some(Sectors(bytes / SECTOR_BYTES)) } else { None }
    }

    /// The number of sectors.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The same in bytes; `u64::MAX` where that does not fit.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0.saturating_mul(SECTOR_BYTES)
    }
}

impl fmt::Display for Sectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sectors", self.0)
    }
}

/// Widens to `usize`, which has at least 32 bits wherever Linux runs.
#[expect(
    clippy::as_conversions,
    reason = "no const conversion exists, and the assertion below shows that none is lost"
)]
pub(crate) const fn usize_from(value: u32) -> usize {
    const { assert!(size_of::<usize>() >= size_of::<u32>()) };
    value as usize
}

/// Widens to `u64`, which has at least as many bits as `usize` wherever Linux runs.
#[expect(
    clippy::as_conversions,
    reason = "no const conversion exists, and the assertion below shows that none is lost"
)]
pub(crate) const fn u64_from(value: usize) -> u64 {
    const { assert!(size_of::<u64>() >= size_of::<usize>()) };
    value as u64
}

/// `value` rounded up to a multiple of `step`, a power of two; `None` where that overflows.
pub(crate) fn round_up(value: usize, step: usize) -> Option<usize> {
    debug_assert!(step.is_power_of_two());
    value.checked_add(step - 1).map(|sum| sum & !(step - 1))
}

#[cfg(test)]
mod tests {
    use super::{Sectors, round_up};

    #[test]
    fn a_part_of_a_sector_is_not_rounded_away() {
        assert_eq!(Sectors::from_bytes(511), None);
        assert_eq!(Sectors::from_bytes(1024), Some(Sectors::new(2)));
    }

    #[test]
    fn rounding_up_past_the_last_address_is_refused() {
        assert_eq!(round_up(4097, 4096), Some(8192));
        assert_eq!(round_up(4096, 4096), Some(4096));
        assert_eq!(round_up(usize::MAX, 4096), None);
    }
}
