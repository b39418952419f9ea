// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the driver refuses of a device's parameters.

use core::mem::offset_of;

use ublk_sys::{
    LBMD_PI_CAP_INTEGRITY, LBMD_PI_CAP_REFTAG, LBMD_PI_CSUM_CRC16_T10DIF, LBMD_PI_CSUM_CRC64_NVME, LBMD_PI_CSUM_IP,
    LBMD_PI_CSUM_NONE, UBLK_PARAM_TYPE_BASIC, UBLK_PARAM_TYPE_DEVT, UBLK_PARAM_TYPE_DISCARD, UBLK_PARAM_TYPE_DMA_ALIGN,
    UBLK_PARAM_TYPE_INTEGRITY, UBLK_PARAM_TYPE_SEGMENT, UBLK_PARAM_TYPE_ZONED, ublk_params,
};

use crate::device_info::State;
use crate::diagnosis::rule::{
    Answer, Attempt, EACCES, EFAULT, EINVAL, EOPNOTSUPP, Holds, certainly, possibly, rules, told,
};
use crate::diagnosis::seen::{Bytes, Seen};
use crate::error::Command;
use crate::features::Features;
use crate::units::usize_from;

/// Bytes of `len` and `types`, which every parameter block starts with.
const HEADER_BYTES: u16 = 8;

/// Each type's bit, where its struct stands and how many bytes it has.
const GROUPS: [(u32, usize, usize); 7] = [
    (UBLK_PARAM_TYPE_BASIC, offset_of!(ublk_params, basic), 32),
    (UBLK_PARAM_TYPE_DISCARD, offset_of!(ublk_params, discard), 20),
    (UBLK_PARAM_TYPE_DEVT, offset_of!(ublk_params, devt), 16),
    (UBLK_PARAM_TYPE_ZONED, offset_of!(ublk_params, zoned), 32),
    (UBLK_PARAM_TYPE_DMA_ALIGN, offset_of!(ublk_params, dma), 8),
    (UBLK_PARAM_TYPE_SEGMENT, offset_of!(ublk_params, seg), 16),
    (UBLK_PARAM_TYPE_INTEGRITY, offset_of!(ublk_params, integrity), 16),
];

rules! {
    Attempt::Command(Command::SET_PARAMS), "ublk_ctrl_set_params" {
        Answer::Any, "set-params.packed", |s| certainly(s.params(|p| p.is_packed()) == Holds::Certainly),
            "the parameters are packed by type, and the driver reads each struct at its own offset, whatever types says",
            "send struct ublk_params as it is, with len to the end of the last struct that is used: discard at 40, devt at 60, zoned at 76, dma at 108, seg at 120, integrity at 136";
        EINVAL, "set-params.len", |s| certainly(s.payload_len() <= HEADER_BYTES),
            "cmd.len, bytes 54 and 55, is 8 or less",
            "set cmd.len to the bytes of struct ublk_params";
        EINVAL, "set-params.addr", |s| certainly(s.addr() == 0),
            "cmd.addr, bytes 56 to 63, is 0",
            "write the address of a struct ublk_params there";
        EFAULT, "set-params.address", |s| possibly(s.addr() != 0),
            "struct ublk_params cannot be read at cmd.addr",
            "keep the buffer mapped, and write its address to bytes 56 to 63 of the entry";
        EINVAL, "set-params.own-len", |s| s.params(|p| p.len() == 0 || p.len() > u32::from(s.payload_len())),
            "len, bytes 0 to 3 of the parameters, is 0 or more than cmd.len",
            "set both to the bytes of struct ublk_params";
        EINVAL, "set-params.types", |s| s.params(|p| p.0.u32(offset_of!(ublk_params, types)) == 0),
            "types, bytes 4 to 7 of the parameters, is 0",
            "set UBLK_PARAM_TYPE_BASIC there, and the types of what else is filled";
        EACCES, "set-params.started", |s| told(s.environment.device.map(|device| device.state() != State::DEAD).filter(|started| *started).or(s.environment.block_device_is_open)),
            "the device was started, and parameters are set before",
            "delete it and add it anew; UPDATE_SIZE changes the size of a live one";
    }
    Attempt::Command(Command::SET_PARAMS), "ublk_validate_params" {
        EINVAL, "set-params.basic", |s| s.params(|p| !p.has(UBLK_PARAM_TYPE_BASIC)),
            "types, bytes 4 to 7 of the parameters, is without UBLK_PARAM_TYPE_BASIC",
            "set bit 0 of types, and fill basic";
        EINVAL, "set-params.logical-block", |s| s.basic(|p| !(9..=s.page_shift()).contains(&p.logical_shift())),
            "basic.logical_bs_shift, byte 12 of the parameters, is not 9 to 12, or what a page has",
            "set it to 9 for blocks of 512 bytes, or to 12 for 4096";
        EINVAL, "set-params.block-shifts" since (7, 3), |s| s.basic(|p| [p.physical_shift(), p.0.u8(offset_of!(ublk_params, basic.io_min_shift)), p.0.u8(offset_of!(ublk_params, basic.io_opt_shift))].iter().any(|shift| *shift > 28)),
            "basic.physical_bs_shift, io_opt_shift or io_min_shift, bytes 13 to 15 of the parameters, is more than 28",
            "set a shift, not a size: 12 for 4096 bytes";
        EINVAL, "set-params.physical-block", |s| s.basic(|p| p.logical_shift() > p.physical_shift()),
            "basic.physical_bs_shift, byte 13 of the parameters, is less than logical_bs_shift, or was left 0",
            "set it to logical_bs_shift or more";
        EINVAL, "set-params.max-sectors", |s| match s.basic(|p| p.max_sectors() > s.most_sectors()) {
                Holds::Certainly if s.environment.device.is_none() => Holds::Possibly,
                known => known,
            },
            "basic.max_sectors, bytes 16 to 19 of the parameters, is more than the max_io_buf_bytes of the device has sectors of 512 bytes",
            "set it to max_io_buf_bytes / 512, as ADD_DEV gave that back";
        EINVAL, "set-params.max-sectors-page", |s| s.basic(|p| p.max_sectors() < s.page_bytes() / 512),
            "basic.max_sectors, bytes 16 to 19 of the parameters, is less than a page: it counts in sectors of 512 bytes",
            "set it to 8 or more, and where a page is larger than 4096 bytes to a page or more";
        EINVAL, "set-params.chunk" since (6, 6), |s| s.if_zoned(|p| !p.0.u32(offset_of!(ublk_params, basic.chunk_sectors)).is_power_of_two()),
            "basic.chunk_sectors, bytes 20 to 23 of the parameters, is the size of a zone, and not a power of two",
            "set it to a power of two of sectors";
        EINVAL, "set-params.discard-segments", |s| s.params(|p| p.has(UBLK_PARAM_TYPE_DISCARD) && p.0.u32(offset_of!(ublk_params, discard.max_discard_sectors)) != 0 && p.0.u16(offset_of!(ublk_params, discard.max_discard_segments)) != 1),
            "discard.max_discard_segments, bytes 56 and 57 of the parameters, is not 1",
            "set it to 1, which is all that the driver takes";
        EINVAL, "set-params.discard-granularity", |s| s.params(|p| p.has(UBLK_PARAM_TYPE_DISCARD) && p.0.u32(offset_of!(ublk_params, discard.discard_granularity)) == 0),
            "discard.discard_granularity, bytes 44 to 47 of the parameters, is 0, also where only write zeroes is wanted",
            "set it to a logical block or more";
        EINVAL, "set-params.devt", |s| s.params(|p| p.has(UBLK_PARAM_TYPE_DEVT)),
            "types, bytes 4 to 7 of the parameters, has UBLK_PARAM_TYPE_DEVT, which is read-only; GET_PARAMS sets it",
            "clear bit 2 of types before what GET_PARAMS gave is set again";
        EOPNOTSUPP, "set-params.zoned-kernel" since (6, 6), |s| match s.params(|p| p.has(UBLK_PARAM_TYPE_ZONED)) {
                Holds::Certainly => told(s.environment.zoned_built.map(|built| !built)),
                unknown => unknown,
            },
            "the kernel has no zoned block devices (CONFIG_BLK_DEV_ZONED)",
            "run a kernel that has them";
        EINVAL, "set-params.not-zoned" since (6, 6), |s| match s.params(|p| p.has(UBLK_PARAM_TYPE_ZONED)) {
                Holds::Certainly => told(s.device_lacks(Features::ZONED)),
                unknown => unknown,
            },
            "types, bytes 4 to 7 of the parameters, has UBLK_PARAM_TYPE_ZONED, and the device was added without UBLK_F_ZONED",
            "add it with that feature and UBLK_F_USER_COPY or UBLK_F_SUPPORT_ZERO_COPY";
        EINVAL, "set-params.zone-append" since (6, 6), |s| s.if_zoned(|p| p.has(UBLK_PARAM_TYPE_ZONED) && p.0.u32(offset_of!(ublk_params, zoned.max_zone_append_sectors)) == 0),
            "zoned.max_zone_append_sectors, bytes 84 to 87 of the parameters, is 0",
            "set how many sectors a zone append takes";
        EINVAL, "set-params.zone-counts" since (6, 6), |s| s.if_zoned(|p| p.has(UBLK_PARAM_TYPE_ZONED) && p.has_too_few_zones()),
            "zoned.max_open_zones or max_active_zones, bytes 76 to 83 of the parameters, is more than dev_sectors / chunk_sectors",
            "set no more than there are zones; 0 is no limit";
        EINVAL, "set-params.no-zones" since (6, 6), |s| s.if_zoned(|p| !p.has(UBLK_PARAM_TYPE_ZONED)),
            "the device was added with UBLK_F_ZONED, and types, bytes 4 to 7 of the parameters, is without UBLK_PARAM_TYPE_ZONED",
            "set bit 3 of types, and fill zoned";
        EINVAL, "set-params.dma-alignment" since (6, 15), |s| s.unless_zoned(|p| {
                let mask = p.0.u32(offset_of!(ublk_params, dma.alignment));
                p.has(UBLK_PARAM_TYPE_DMA_ALIGN) && (mask >= s.page_bytes() || !(mask + 1).is_power_of_two())
            }),
            "dma.alignment, bytes 108 to 111 of the parameters, is not a mask below a page: 511 or 4095",
            "set the alignment less 1";
        EINVAL, "set-params.segment-boundary" since (6, 15), |s| s.unless_zoned(|p| {
                let end = p.0.u64(offset_of!(ublk_params, seg.seg_boundary_mask)).wrapping_add(1);
                p.has(UBLK_PARAM_TYPE_SEGMENT) && (!end.is_power_of_two() || end < 4096)
            }),
            "seg.seg_boundary_mask, bytes 120 to 127 of the parameters, is not a mask of 4095 or more",
            "set the boundary, a power of two, less 1";
        EINVAL, "set-params.segment-size" since (6, 15), |s| s.unless_zoned(|p| p.has(UBLK_PARAM_TYPE_SEGMENT) && p.0.u32(offset_of!(ublk_params, seg.max_segment_size)) < 4096),
            "seg.max_segment_size, bytes 128 to 131 of the parameters, is less than 4096",
            "set it to 4096 or more";
        EINVAL, "set-params.integrity-feature" since (7, 0), |s| match s.unless_zoned(|p| p.has(UBLK_PARAM_TYPE_INTEGRITY)) {
                Holds::Certainly => told(s.device_lacks(Features::INTEGRITY)),
                unknown => unknown,
            },
            "types, bytes 4 to 7 of the parameters, has UBLK_PARAM_TYPE_INTEGRITY, and the device was added without UBLK_F_INTEGRITY",
            "add it with that feature and UBLK_F_USER_COPY";
        EINVAL, "set-params.integrity-flags" since (7, 0), |s| s.integrity(|p| p.0.u32(offset_of!(ublk_params, integrity.flags)) & !(LBMD_PI_CAP_INTEGRITY | LBMD_PI_CAP_REFTAG) != 0),
            "integrity.flags, bytes 136 to 139 of the parameters, has a bit that the driver does not know",
            "set LBMD_PI_CAP_INTEGRITY and LBMD_PI_CAP_REFTAG alone";
        EINVAL, "set-params.integrity-checksum" since (7, 0), |s| s.integrity(|p| p.tuple_bytes().is_none()),
            "integrity.csum_type, byte 145 of the parameters, is no checksum that the driver knows",
            "set one of LBMD_PI_CSUM_NONE, _IP, _CRC16_T10DIF and _CRC64_NVME";
        EINVAL, "set-params.integrity-metadata" since (7, 0), |s| s.integrity(|p| p.0.u8(offset_of!(ublk_params, integrity.metadata_size)) == 0),
            "integrity.metadata_size, byte 143 of the parameters, is 0",
            "set the bytes of metadata of an interval";
        EINVAL, "set-params.integrity-reftag" since (7, 0), |s| s.integrity(|p| p.0.u8(offset_of!(ublk_params, integrity.csum_type)) == LBMD_PI_CSUM_NONE && p.0.u32(offset_of!(ublk_params, integrity.flags)) & LBMD_PI_CAP_REFTAG != 0),
            "integrity.flags has LBMD_PI_CAP_REFTAG, which needs a checksum in csum_type, byte 145 of the parameters",
            "set a checksum, or drop the flag";
        EINVAL, "set-params.integrity-tuple" since (7, 0), |s| s.integrity(|p| {
                let offset = u16::from(p.0.u8(offset_of!(ublk_params, integrity.pi_offset)));
                p.tuple_bytes().is_some_and(|bytes| offset + bytes > p.0.u8(offset_of!(ublk_params, integrity.metadata_size)).into())
            }),
            "the protection information ends behind the metadata: pi_offset, byte 144 of the parameters, and 8 bytes for it, or 16 for CRC64, are more than metadata_size",
            "make the metadata larger, or the offset smaller";
        EINVAL, "set-params.integrity-interval" since (7, 0), |s| s.integrity(|p| !(9..=p.logical_shift()).contains(&p.0.u8(offset_of!(ublk_params, integrity.interval_exp)))),
            "integrity.interval_exp, byte 142 of the parameters, is not 9 to logical_bs_shift",
            "set it to logical_bs_shift";
        Answer::Taken, "set-params.cut", |s| s.params(|p| !p.is_packed() && p.len() >= HEADER_BYTES.into() && p.end() > usize_from(p.len())),
            "types, bytes 4 to 7 of the parameters, has a type whose struct ends behind len; the driver takes the rest of it from the SET_PARAMS before, or zero",
            "set len to the end of the last struct that is used, or to all of struct ublk_params";
    }
    Attempt::Command(Command::GET_PARAMS), "ublk_ctrl_get_params" {
        EINVAL, "get-params.len", |s| certainly(s.payload_len() <= HEADER_BYTES),
            "cmd.len, bytes 54 and 55, is 8 or less",
            "set cmd.len to the bytes of struct ublk_params";
        EINVAL, "get-params.addr", |s| certainly(s.addr() == 0),
            "cmd.addr, bytes 56 to 63, is 0",
            "write the address of a struct ublk_params there";
        EFAULT, "get-params.address", |s| possibly(s.addr() != 0),
            "struct ublk_params cannot be read and written at cmd.addr",
            "keep the buffer mapped and writable, and write its address to bytes 56 to 63 of the entry";
        EINVAL, "get-params.own-len", |s| s.params(|p| p.len() == 0 || p.len() > u32::from(s.payload_len())),
            "len, bytes 0 to 3 of the parameters, is 0 or more than cmd.len; the driver reads it before it writes them",
            "set both to the bytes of struct ublk_params";
    }
}

/// `struct ublk_params` as the driver reads it: up to its `len`, and zero behind.
struct Given<'p>(&'p [u8]);

impl Given<'_> {
    fn len(&self) -> u32 {
        self.0.u32(offset_of!(ublk_params, len))
    }

    fn has(&self, kind: u32) -> bool {
        self.0.u32(offset_of!(ublk_params, types)) & kind != 0
    }

    fn logical_shift(&self) -> u8 {
        self.0.u8(offset_of!(ublk_params, basic.logical_bs_shift))
    }

    fn physical_shift(&self) -> u8 {
        self.0.u8(offset_of!(ublk_params, basic.physical_bs_shift))
    }

    fn max_sectors(&self) -> u32 {
        self.0.u32(offset_of!(ublk_params, basic.max_sectors))
    }

    fn has_too_few_zones(&self) -> bool {
        let zone = u64::from(self.0.u32(offset_of!(ublk_params, basic.chunk_sectors)));
        let zones = self.0.u64(offset_of!(ublk_params, basic.dev_sectors)).checked_div(zone).unwrap_or(0);
        let most = |at| u64::from(self.0.u32(at)) > zones;
        most(offset_of!(ublk_params, zoned.max_active_zones)) || most(offset_of!(ublk_params, zoned.max_open_zones))
    }

    /// Bytes of the protection information of an interval.
    fn tuple_bytes(&self) -> Option<u16> {
        match self.0.u8(offset_of!(ublk_params, integrity.csum_type)) {
            LBMD_PI_CSUM_NONE => Some(0),
            LBMD_PI_CSUM_IP | LBMD_PI_CSUM_CRC16_T10DIF => Some(8),
            LBMD_PI_CSUM_CRC64_NVME => Some(16),
            _ => None,
        }
    }

    /// Where the last struct ends that `types` names.
    fn end(&self) -> usize {
        let ends = GROUPS.iter().filter(|(kind, ..)| self.has(*kind)).map(|(_, at, bytes)| at + bytes);
        ends.max().unwrap_or(0)
    }

    /// Whether it has as many bytes as its structs have together, and those are too few.
    fn is_packed(&self) -> bool {
        let together: usize = GROUPS.iter().filter(|(kind, ..)| self.has(*kind)).map(|(.., bytes)| bytes).sum();
        let packed = usize::from(HEADER_BYTES) + together;
        packed < self.end() && (usize_from(self.len()) == packed || self.0.len() == packed)
    }
}

impl Seen<'_> {
    fn params(&self, broken: impl FnOnce(&Given<'_>) -> bool) -> Holds {
        self.payload_is(|payload| {
            let given = usize_from(payload.u32(offset_of!(ublk_params, len))).max(HEADER_BYTES.into());
            broken(&Given(payload.get(..given).unwrap_or(payload)))
        })
    }

    fn basic(&self, broken: impl FnOnce(&Given<'_>) -> bool) -> Holds {
        self.params(|given| given.has(UBLK_PARAM_TYPE_BASIC) && broken(given))
    }

    fn if_zoned(&self, broken: impl FnOnce(&Given<'_>) -> bool) -> Holds {
        if self.device_has(Features::ZONED) { self.params(broken) } else { Holds::No }
    }

    /// What the driver does not look at once it has looked at zones.
    fn unless_zoned(&self, broken: impl FnOnce(&Given<'_>) -> bool) -> Holds {
        self.params(|given| !given.has(UBLK_PARAM_TYPE_ZONED) && broken(given))
    }

    fn integrity(&self, broken: impl FnOnce(&Given<'_>) -> bool) -> Holds {
        self.unless_zoned(|given| given.has(UBLK_PARAM_TYPE_INTEGRITY) && broken(given))
    }

    /// Sectors of the device's largest request.
    fn most_sectors(&self) -> u32 {
        // Not known: what the driver gives unless it was asked for less.
        self.environment.device.map_or(u32::MAX, |device| device.max_io_bytes() / 512)
    }
}
