// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the requests of a device have beside the plain data of reads and writes.

use crate::params::Params;

/// What a device has beside blocks of data, as far as its requests are read by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Overlays {
    /// Sectors of a zone; 0 where there are none.
    pub(crate) zone_sectors: u64,
    /// Bytes of metadata beside each interval of data; 0 where there is none.
    metadata_bytes: u8,
    /// Bytes of such an interval.
    interval_bytes: u32,
}

impl Overlays {
    /// Those of a device with these parameters.
    pub(crate) fn of(params: &Params) -> Overlays {
        let limits = params.limits();
        let (metadata_bytes, interval_bytes) =
            limits.integrity.map_or((0, 0), |integrity| (integrity.metadata_bytes, integrity.interval_bytes));
        Overlays { zone_sectors: limits.zones.map_or(0, |zones| zones.size.raw()), metadata_bytes, interval_bytes }
    }

    /// Whether the device has zones.
    pub(crate) const fn is_zoned(self) -> bool {
        self.zone_sectors > 0
    }

    /// Bytes of metadata beside this many bytes of data; `None` where the device has none.
    pub(crate) fn metadata_len(self, data_len: u64) -> Option<usize> {
        let intervals = data_len.checked_div(self.interval_bytes.into())?;
        usize::try_from(intervals.checked_mul(self.metadata_bytes.into())?).ok()
    }

    /// Of tests.
    #[cfg(test)]
    pub(crate) const fn new(zone_sectors: u64, metadata_bytes: u8, interval_bytes: u32) -> Overlays {
        Overlays { zone_sectors, metadata_bytes, interval_bytes }
    }
}
