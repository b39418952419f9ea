// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Linux ublk ABI, and what a ublk server needs of the `io_uring` ABI beneath it: mirrored by hand, with no logic
//! and no system calls.
//!
//! What is mirrored is Linux 7.3.4. Each item says since which release the header has it. Nothing has ever moved: holes
//! were filled, unions widened, and [`ublk_params`] grew at its end, so one mirror serves every kernel. What the
//! *running* kernel knows is for [`UBLK_U_CMD_GET_FEATURES`] and the ring's own answers to say.
//!
//! # Names
//!
//! Every name is the C name, letter for letter, so that a search finds both sides. A C union is one field, named after
//! the member that a ublk server uses most; its documentation names the others. A hole is a field too (`hole0`), since
//! padding that nobody writes must not reach the kernel.
//!
//! | module | C header |
//! |---|---|
//! | [`ublk_cmd`] | `linux/ublk_cmd.h`, all of it, its inline functions as `const fn` |
//! | [`io_uring`] | `linux/io_uring.h`, in part, and `__kernel_timespec` of `linux/time_types.h` |
//! | [`blkzoned`] | `linux/blkzoned.h`: `blk_zone` and its values |
//! | [`fs`] | `linux/fs.h`: `LBMD_PI_*` |
//! | [`blkdev`] | `linux/blkdev.h`, all of it: commands to block devices |
//! | [`ioctl`] | `asm/ioctl.h`: `_IO`, `_IOR`, `_IOW`, `_IOWR` |
//!
//! All of it is also here at the root, [`layout`] excepted.
//!
//! # What is left out
//!
//! Of `io_uring.h`: operations on files by path, sockets' set-up, extended attributes, futexes, `epoll`, zero-copy
//! receive, busy polling, and the arguments of registrations that a block device server has no use for. The opcodes of
//! `io_uring_register(2)` are complete, since a restriction names them. Of `blkzoned.h`: the ioctls. A server that wants
//! them is free to have them from elsewhere; they are not ublk's.
//!
//! Machines on which a `u64` is aligned to less than 8 bytes (32-bit x86): the kernel there has other offsets, and the
//! assertions refuse to compile.
//!
//! # How it is known to be right
//!
//! Below each struct stands an assertion of its size, its alignment, each field's type and offset, and that the fields
//! fill it; a mistake there does not compile. Each assertion and each group of constants leaves a row in
//! [`layout::TABLES`]. The project's tests make a C program out of the rows, compile it against kernel headers, and
//! compare every size, offset and value; headers of older releases must lack what is said to be younger. Another test
//! reads `ublk_cmd.h` itself and finds nothing that is not mirrored.
//!
//! # Making a struct
//!
//! Structs are `#[non_exhaustive]`, because holes do get filled: start from `Default`, which is all zeroes.
//!
//! ```
//! use ublk_sys::{UBLK_U_CMD_GET_FEATURES, ublksrv_ctrl_cmd};
//!
//! let mut features = 0_u64;
//! let mut command = ublksrv_ctrl_cmd::default();
//! command.dev_id = u32::MAX;
//! command.queue_id = u16::MAX;
//! command.len = ublk_sys::UBLK_FEATURES_LEN;
//! command.addr = (&raw mut features).expose_provenance() as u64;
//! # let _ = (command, UBLK_U_CMD_GET_FEATURES);
//! ```
#![no_std]
#![forbid(unsafe_code)]
#![allow(non_camel_case_types, reason = "every name is the C name")]

pub mod blkdev;
pub mod blkzoned;
pub mod fs;
pub mod io_uring;
pub mod ioctl;
pub mod layout;
pub mod ublk_cmd;

pub use blkdev::*;
pub use blkzoned::*;
pub use fs::*;
pub use io_uring::*;
pub use ioctl::*;
pub use ublk_cmd::*;
