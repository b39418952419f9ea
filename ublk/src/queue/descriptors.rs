// SPDX-License-Identifier: MIT OR Apache-2.0
//! The I/O descriptors of a queue: what the driver says of each request.

use ublk_sys::{UBLK_MAX_QUEUE_DEPTH, UBLKSRV_CMD_BUF_OFFSET, ublksrv_io_desc};

use crate::device_info::DeviceInfo;
use crate::error::{Error, SystemCall};
use crate::id::{QueueId, Tag};
use crate::mapping::Mapping;
use crate::syscall::{self, Access, Fd};
use crate::units::{round_up, u64_from};

/// The descriptors, mapped read-only: one for each tag, `stride` bytes apart.
#[derive(Debug)]
pub(super) struct Descriptors {
    mapping: Mapping,
    stride: usize,
}

impl Descriptors {
    /// Maps the descriptors of one queue (`ublk_ch_mmap()`).
    ///
    /// The queues lie as far apart as the deepest queue would need, whatever the depth is.
    pub(super) fn map(char_device: &Fd, info: &DeviceInfo, queue: QueueId) -> Result<Descriptors, Error> {
        let stride = info.descriptor_bytes();
        if stride < size_of::<ublksrv_io_desc>() || stride % 8 != 0 {
            return Err(Error::Implausible { what: "io_desc_size", value: u64_from(stride) });
        }
        let page = syscall::page_bytes();
        let implausible = Error::Implausible { what: "io_desc_size", value: u64_from(stride) };
        let apart = round_up(usize::from(UBLK_MAX_QUEUE_DEPTH) * stride, page).ok_or(implausible)?;
        let len = round_up(usize::from(info.depth()) * stride, page).ok_or(implausible)?;
        let offset = UBLKSRV_CMD_BUF_OFFSET + u64::from(queue.raw()) * u64_from(apart);
        let mapping = Mapping::of_file(char_device, offset, len, Access::Read, SystemCall::MmapDescriptors)?;
        Ok(Descriptors { mapping, stride })
    }

    /// Those of a queue to which nothing is delivered: zeroes.
    pub(super) fn none(info: &DeviceInfo) -> Result<Descriptors, Error> {
        let stride = info.descriptor_bytes();
        let len = usize::from(info.depth()).saturating_mul(stride);
        Ok(Descriptors { mapping: Mapping::anonymous(len)?, stride })
    }

    /// Copies out the descriptor of `tag`. What it says is the driver's until the tag's completion was taken, and then
    /// stays until the tag is committed.
    pub(super) fn read(&self, tag: Tag) -> Option<ublksrv_io_desc> {
        self.mapping.read(usize::from(tag.raw()) * self.stride)
    }
}
