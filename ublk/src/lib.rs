// SPDX-License-Identifier: MIT OR Apache-2.0
//! Linux block devices in user space.
//!
//! Being written.
#![no_std]
#![warn(clippy::alloc_instead_of_core, clippy::std_instead_of_core)]

#[cfg(any(feature = "std", test))]
extern crate std;

mod char_device;
mod control;
mod device;
mod device_info;
mod errno;
mod error;
mod features;
mod flag_set;
mod id;
mod mapping;
mod params;
mod queue;
pub mod ring;
#[cfg(feature = "std")]
mod server;
mod syscall;
mod units;

pub use char_device::CharDevice;
pub use control::{Control, CpuSet};
pub use device::Device;
pub use device_info::{DeviceInfo, NewDevice, State};
pub use errno::Errno;
pub use error::{Command, Error, SystemCall};
pub use features::Features;
pub use id::{DeviceId, QueueId, Tag};
pub use params::{Attributes, Cache, Params};
pub use queue::{Operation, PreparedQueue, Queue, ReadCursor, Request, RequestFlags};
pub use ring::Wake;
#[cfg(feature = "std")]
pub use server::{Server, StopHandle, Stopped};
pub use syscall::Fd;
pub use units::{SECTOR_BYTES, Sectors};
