// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the requests of a device with zones want beyond those of another.
//!
//! The driver gives zones to the modes that can copy by call, and to no other:
//!
//! ```compile_fail,E0599
//! use ublk::{Request, Sectors, mode};
//! fn appended(request: Request<'_, mode::Copy>, at: Sectors) {
//!     request.complete_append(at);
//! }
//! ```
//!
//! ```no_run
//! use ublk::{Request, Sectors, mode};
//! fn appended(request: Request<'_, mode::UserCopy>, at: Sectors) {
//!     request.complete_append(at);
//! }
//! ```

use core::mem::ManuallyDrop;

use crate::errno::Errno;
use crate::mode::UserCopied;
use crate::overlays::Overlays;
use crate::queue::request::{Held, Operation, Request};
use crate::units::Sectors;
use crate::zone::{REPORTED_BYTES, Zone};

/// Zones that are copied by one call.
const TOGETHER: usize = 64;

impl Held {
    /// What the driver is told of a ZONE_APPEND that went to this sector.
    pub(super) fn appended(&self, at: Sectors, overlays: Overlays) -> Result<i32, Errno> {
        let sectors = u64::from(self.work.sectors);
        let zone_end = self.work.start.raw().saturating_add(overlays.zone_sectors);
        let is_within = at >= self.work.start && at.raw().checked_add(sectors).is_some_and(|end| end <= zone_end);
        if self.work.operation != Operation::ZONE_APPEND || !is_within || self.is_cut_short() {
            return Err(Errno::EIO);
        }
        i32::try_from(self.work.len_bytes()).map_err(|_| Errno::EIO)
    }
}

impl<M: UserCopied> Request<'_, M> {
    /// How many zones a REPORT_ZONES asks for, from the one on that [`start`](Request::start) is in; 0 for any other operation.
    #[must_use]
    pub const fn zone_count(&self) -> u32 {
        if self.held.work.operation.raw() == Operation::REPORT_ZONES.raw() { self.held.work.sectors } else { 0 }
    }

    /// Says what zones there are, front to back: the first is the one that [`start`](Request::start) is in. What comes after as many
    /// as were asked for is not looked at. It can be called again for those that follow, up to as many: they all exist, and a
    /// request that is completed with fewer fails with `EIO`, because the driver would put the rest in the wrong places.
    ///
    /// While the device starts the block layer asks for every zone of it, and the start fails with `ENODEV` if they are not all as
    /// long as [`Zones::size`](crate::Zones::size) says, one behind the other up to the end of the disk.
    ///
    /// # Errors
    ///
    /// `EINVAL`: the request is no REPORT_ZONES, or a zone is empty, which would end the list. `EFAULT`: the kernel could not copy
    /// all of it.
    ///
    /// # Kernel
    ///
    /// Since Linux 6.6. `pwrite(2)` on the char device for each 64 zones; `ublk_report_zones()`.
    pub fn report_zones(&mut self, zones: impl IntoIterator<Item = Zone>) -> Result<(), Errno> {
        if self.operation() != Operation::REPORT_ZONES {
            return Err(Errno::EINVAL);
        }
        let asked = usize::try_from(self.len_bytes()).map_err(|_| Errno::EINVAL)?;
        let room = asked.saturating_sub(self.held.moved.mark) / REPORTED_BYTES;
        let (mut batch, mut count) = ([[0; REPORTED_BYTES]; TOGETHER], 0);
        for zone in zones.into_iter().take(room) {
            if zone.len.raw() == 0 {
                return Err(Errno::EINVAL);
            }
            if count == TOGETHER {
                self.report(&batch)?;
                count = 0;
            }
            if let Some(place) = batch.get_mut(count) {
                *place = zone.to_bytes();
                count += 1;
            }
        }
        self.report(batch.get(..count).unwrap_or_default())
    }

    /// Copies zones behind those that were copied before.
    fn report(&mut self, zones: &[[u8; REPORTED_BYTES]]) -> Result<(), Errno> {
        let (start, bytes) = (self.held.moved.mark, zones.as_flattened());
        self.queue.copy_out(self.held.tag, start, bytes)?;
        self.held.moved.add(start..start + bytes.len());
        Ok(())
    }

    /// Answers that the data of a ZONE_APPEND was written, all of it, from sector `at` of the disk on: where the write pointer of its
    /// zone was.
    ///
    /// The request fails with `EIO` instead if it is no ZONE_APPEND, if the place is not in the zone that starts at
    /// [`start`](Request::start), or if operations of the ring have moved a part of the data and no more.
    ///
    /// # Kernel
    ///
    /// Since Linux 6.6. `ublksrv_io_cmd.zone_append_lba` of `UBLK_U_IO_COMMIT_AND_FETCH_REQ`.
    pub fn complete_append(self, at: Sectors) {
        match self.held.appended(at, self.queue.overlays()) {
            Ok(result) => {
                // Not dropped, as that would be an answer too.
                let request = ManuallyDrop::new(self);
                request.queue.commit_append(request.held.tag, result, at);
            }
            Err(errno) => self.fail(errno),
        }
    }
}
