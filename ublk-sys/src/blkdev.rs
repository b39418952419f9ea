// SPDX-License-Identifier: MIT OR Apache-2.0
//! `include/uapi/linux/blkdev.h`: commands to block devices, as `IORING_OP_URING_CMD`.

use crate::ioctl::_IO;
use crate::layout::{Table, constants};

constants! { COMMANDS:
    /// Discards bytes of a block device: in the SQE `addr` says from which on, and `addr3` how many.
    pub const BLOCK_URING_CMD_DISCARD: u32 = _IO(0x12, 0), since "6.12";
    /// Resets all zones of a zoned block device.
    pub const BLOCK_URING_CMD_ZONE_RESET_ALL: u32 = _IO(0x12, 1), since "7.3";
}

/// What is mirrored of `linux/blkdev.h`.
pub(crate) const TABLE: Table = Table { header: "linux/blkdev.h", structs: &[], constants: &[COMMANDS] };
