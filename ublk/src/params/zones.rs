// SPDX-License-Identifier: MIT OR Apache-2.0
//! The zones of a zoned device.

use ublk_sys::ublk_params;

use crate::units::Sectors;

/// The zones of a zoned device (`struct ublk_param_zoned`, and of `struct ublk_param_basic` the `chunk_sectors`).
///
/// ```
/// use ublk::{Cache, Params, Sectors, Zones};
///
/// let zones = Zones::new(Sectors::new(8192), Sectors::new(256)).max_open(8).max_active(16);
/// let params = Params::new(Sectors::new(64 * 8192), Cache::None).zoned(zones);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub struct Zones {
    /// How large each is: a power of two of sectors, and a whole number of logical blocks. The last may be smaller.
    pub size: Sectors,
    /// The largest zone append. The block layer sends none that is larger than a request or a zone.
    pub max_append: Sectors,
    /// Most zones that are open at once; 0 for no limit.
    pub max_open: u32,
    /// Most zones that are active at once, open ones included; 0 for no limit.
    pub max_active: u32,
}

static_assertions::assert_impl_all!(Zones: Send, Sync);

impl Zones {
    /// Zones of this size, and zone appends of up to `max_append`; any number of them may be open.
    pub const fn new(size: Sectors, max_append: Sectors) -> Zones {
        Zones { size, max_append, max_open: 0, max_active: 0 }
    }

    /// Most zones that are open at once, no more than there are, and no more than may be active.
    pub const fn max_open(mut self, zones: u32) -> Zones {
        self.max_open = zones;
        self
    }

    /// Most zones that are active at once, no more than there are.
    pub const fn max_active(mut self, zones: u32) -> Zones {
        self.max_active = zones;
        self
    }

    /// What is put into the struct; `None` where a number has no place there.
    pub(super) fn put(self, raw: &mut ublk_params) -> Option<()> {
        raw.basic.chunk_sectors = u32::try_from(self.size.raw()).ok()?;
        raw.zoned.max_zone_append_sectors = u32::try_from(self.max_append.raw()).ok()?;
        raw.zoned.max_open_zones = self.max_open;
        raw.zoned.max_active_zones = self.max_active;
        Some(())
    }

    pub(super) fn of(raw: &ublk_params) -> Zones {
        Zones {
            size: Sectors::new(raw.basic.chunk_sectors.into()),
            max_append: Sectors::new(raw.zoned.max_zone_append_sectors.into()),
            max_open: raw.zoned.max_open_zones,
            max_active: raw.zoned.max_active_zones,
        }
    }
}
