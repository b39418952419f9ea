// SPDX-License-Identifier: MIT OR Apache-2.0
//! The numbers that name things: device, queue, tag, shared memory.

use core::fmt;

macro_rules! id {
    ($(#[$meta:meta])* $name:ident($raw:ty)) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name($raw);

        static_assertions::assert_impl_all!($name: Send, Sync);

        impl $name {
            /// The id with this number.
            #[must_use]
            pub const fn new(number: $raw) -> Self {
                Self(number)
            }

            /// The number.
            #[must_use]
            pub const fn raw(self) -> $raw {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

id! {
    /// The number of a device: the `N` of `/dev/ublkcN` and `/dev/ublkbN` (`ublksrv_ctrl_cmd.dev_id`).
    DeviceId(u32)
}

id! {
    /// A hardware queue of a device, `0..queues` (`q_id`).
    QueueId(u16)
}

id! {
    /// The slot of a request in its queue, `0..depth` (`tag`).
    Tag(u16)
}

id! {
    /// The number of a piece of memory that is registered with a device: what `UBLK_U_CMD_REG_BUF` gives, and bits 32 to 47 of
    /// `ublksrv_io_desc.addr` with `UBLK_IO_F_SHMEM_ZC`.
    SharedIndex(u16)
}
