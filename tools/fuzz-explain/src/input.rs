// SPDX-License-Identifier: MIT OR Apache-2.0
//! Arbitrary bytes as what a command and its environment are made of.

use ublk::diagnosis::{Environment, Node, TagState};
use ublk::{DeviceInfo, Errno, Features};
use ublk_sys::ublksrv_ctrl_dev_info;

/// Bytes that are taken from the front; there are zeroes behind the last.
#[derive(Debug)]
pub(crate) struct Input<'i> {
    left: &'i [u8],
}

impl<'i> Input<'i> {
    pub(crate) fn new(input: &'i [u8]) -> Self {
        Self { left: input }
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((byte, left)) = self.left.split_first() else { return 0 };
        self.left = left;
        *byte
    }

    pub(crate) fn bytes<const LEN: usize>(&mut self) -> [u8; LEN] {
        core::array::from_fn(|_| self.byte())
    }

    pub(crate) fn rest(self) -> &'i [u8] {
        self.left
    }

    /// Of a zero none; small numbers are those that errnos have.
    pub(crate) fn errno(&mut self) -> Option<Errno> {
        let number = self.byte();
        (number > 0).then(|| Errno::from_raw(number.into()))
    }

    fn flag(&mut self) -> Option<bool> {
        [None, Some(false), Some(true)][usize::from(self.byte() % 3)]
    }

    fn u32(&mut self) -> Option<u32> {
        (self.byte() % 2 == 1).then(|| u32::from_le_bytes(self.bytes()))
    }

    fn u64(&mut self) -> Option<u64> {
        (self.byte() % 2 == 1).then(|| u64::from_le_bytes(self.bytes()))
    }

    fn node(&mut self) -> Option<Node> {
        let all = [None, Some(Node::Missing), Some(Node::NotOurs), Some(Node::Forbidden), Some(Node::Usable)];
        all[usize::from(self.byte()) % all.len()]
    }

    fn device(&mut self) -> Option<DeviceInfo> {
        (self.byte() % 2 == 1).then(|| {
            let mut info = ublksrv_ctrl_dev_info::default();
            info.nr_hw_queues = u16::from_le_bytes(self.bytes());
            info.queue_depth = u16::from_le_bytes(self.bytes());
            info.state = self.byte().into();
            info.max_io_buf_bytes = u32::from_le_bytes(self.bytes());
            info.dev_id = u32::from_le_bytes(self.bytes());
            info.ublksrv_pid = i32::from_le_bytes(self.bytes());
            info.flags = u64::from_le_bytes(self.bytes());
            info.owner_uid = self.byte().into();
            info.owner_gid = self.byte().into();
            DeviceInfo::from_raw(info)
        })
    }

    /// All but the buffer. Of zeroes it is the default: nothing is known.
    pub(crate) fn environment(&mut self) -> Environment<'i> {
        let mut environment = Environment::default();
        environment.kernel = (self.byte() % 2 == 1).then(|| (self.byte().into(), self.byte().into()));
        environment.offered = self.u64().map(Features::from_bits);
        environment.device = self.device();
        environment.device_exists = self.flag();
        environment.params_types = self.u32();
        environment.server_process = self.u32();
        environment.char_device_is_open = self.flag();
        environment.block_device_is_open = self.flag();
        environment.was_stopped = self.flag();
        let tags =
            [None, Some(TagState::Idle), Some(TagState::Fetching), Some(TagState::Owned), Some(TagState::WantsBuffer)];
        environment.tag = tags[usize::from(self.byte()) % tags.len()];
        environment.queues_are_ready = self.flag();
        environment.is_daemon = self.flag();
        environment.entries_are_wide = self.flag();
        environment.ring_polls = self.flag();
        environment.ring_is_restricted = self.flag();
        environment.ring_buffers = self.u32();
        environment.fd_is_ublk = self.flag();
        environment.cap_sys_admin = self.flag();
        environment.cap_ipc_lock = self.flag();
        environment.io_uring_disabled = (self.byte() % 2 == 1).then(|| self.byte());
        environment.in_io_uring_group = self.flag();
        environment.seccomp_filter = self.flag();
        environment.io_uring_built = self.flag();
        environment.driver_built = self.flag();
        environment.driver_loaded = self.flag();
        environment.legacy_opcodes = self.flag();
        environment.zoned_built = self.flag();
        environment.control_node = self.node();
        environment.char_node = self.node();
        environment.unprivileged_devices = self.u32();
        environment.unprivileged_devices_max = self.u32();
        environment.free_descriptors = self.u64();
        environment.memlock_bytes = self.u64();
        environment.page_bytes = self.u32();
        environment
    }
}

/// How many bytes say that nothing is known: one for each of the 34 above.
pub(crate) const NOTHING_KNOWN: [u8; 34] = [0; 34];

#[cfg(test)]
mod tests {
    use super::{Input, NOTHING_KNOWN};
    use ublk::diagnosis::Environment;

    #[test]
    fn zeroes_are_an_environment_of_which_nothing_is_known() {
        let mut input = Input::new(&NOTHING_KNOWN);
        assert_eq!(format!("{:?}", input.environment()), format!("{:?}", Environment::default()));
        assert!(input.rest().is_empty(), "what follows is the buffer");
        assert_eq!(Input::new(&[]).bytes(), [0; 4]);
    }

    #[test]
    fn the_buffer_starts_behind_the_environment() {
        let bytes = [&NOTHING_KNOWN[..], &[7, 8]].concat();
        let mut input = Input::new(&bytes);
        let _ = input.environment();
        assert_eq!(input.rest(), [7, 8]);
    }
}
