// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Linux ublk ABI, and what a ublk server needs of the `io_uring` ABI beneath it: mirrored by hand, with no logic
//! and no system calls.
//!
//! What is mirrored is Linux 7.3.4. Each item says in its last line, or its struct's, since which release it is in the
//! header; none was ever removed or moved, only holes were filled and unions widened, so the newest mirror serves
//! every kernel. Whether the *running* kernel knows an item is for `UBLK_U_CMD_GET_FEATURES` and the ring's own
//! answers to say.
//!
//! # Names
//!
//! Every name is the C name, letter for letter, so that a search finds both sides; a C union is one field, named after
//! its first or its most used member, whose documentation lists the others. What had no name in C has one here, since
//! Rust must not have padding that nobody fills: `hole0`.
//!
//! | module | C header |
//! |---|---|
//! | [`ublk_cmd`] | `linux/ublk_cmd.h`, all of it, its inline functions as `const fn` |
//! | [`io_uring`] | `linux/io_uring.h`, in part, and `__kernel_timespec` of `linux/time_types.h` |
//! | [`blkzoned`] | `linux/blkzoned.h`: `blk_zone` and its values |
//! | [`fs`] | `linux/fs.h`: `LBMD_PI_*` |
//! | [`ioctl`] | `asm/ioctl.h`: `_IO`, `_IOR`, `_IOW`, `_IOWR` |
//!
//! All of it is also here at the root, [`layout`] excepted.
//!
//! # What is left out
//!
//! Of `io_uring.h`: operations on files by path, sockets' set-up, extended attributes, futexes, `epoll`, zero-copy
//! receive, NAPI, and the arguments of registrations that a block device server has no use for. The opcodes of
//! `io_uring_register(2)` are complete, since a restriction names them. Of `blkzoned.h`: the ioctls. A
//! server that wants them is free to have them from elsewhere; they are not ublk.
//!
//! # How it is known to be right
//!
//! Below each struct stands an assertion of its size, its alignment, each field's type and offset, and that the fields
//! fill it; a mistake there does not compile. Each assertion and each group of constants leaves a row in
//! [`layout::TABLES`], and the project's tests make a C program out of the rows, compile it against the headers of
//! many releases, and compare sizes, offsets and values: those of items that are there, and that no other is.
//! Another test reads `ublk_cmd.h` itself and finds nothing that is not mirrored.
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
#![allow(non_camel_case_types, reason = "every name is the C name")]

pub mod blkzoned;
pub mod fs;
pub mod io_uring;
pub mod ioctl;
pub mod layout;
pub mod ublk_cmd;

pub use blkzoned::*;
pub use fs::*;
pub use io_uring::*;
pub use ioctl::*;
pub use ublk_cmd::*;
