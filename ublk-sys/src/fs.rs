// SPDX-License-Identifier: MIT OR Apache-2.0
//! The part of `include/uapi/linux/fs.h` that `ublk_param_integrity` refers to.

use crate::layout::{Table, constants};

constants! { PROTECTION_INFORMATION:
    /// Bit of `ublk_param_integrity.flags`: the block layer makes and checks the metadata.
    pub const LBMD_PI_CAP_INTEGRITY: u32 = 1 << 0, since "6.17";
    /// Bit of `ublk_param_integrity.flags`: the metadata holds a reference tag, which is checked against the sector.
    pub const LBMD_PI_CAP_REFTAG: u32 = 1 << 1, since "6.17";
    /// `ublk_param_integrity.csum_type`: no checksum.
    pub const LBMD_PI_CSUM_NONE: u8 = 0, since "6.17";
    /// `ublk_param_integrity.csum_type`: the Internet checksum.
    pub const LBMD_PI_CSUM_IP: u8 = 1, since "6.17";
    /// `ublk_param_integrity.csum_type`: T10 DIF's 16-bit CRC.
    pub const LBMD_PI_CSUM_CRC16_T10DIF: u8 = 2, since "6.17";
    /// `ublk_param_integrity.csum_type`: NVMe's 64-bit CRC.
    pub const LBMD_PI_CSUM_CRC64_NVME: u8 = 4, since "6.17";
}

/// What is mirrored of `linux/fs.h`.
pub(crate) const TABLE: Table = Table { header: "linux/fs.h", structs: &[], constants: &[PROTECTION_INFORMATION] };
