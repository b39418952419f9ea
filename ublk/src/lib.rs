// SPDX-License-Identifier: MIT OR Apache-2.0
//! Linux block devices in user space, over rings of our own.
//!
//! `ublk_drv` lets a process be a block device: the kernel hands it requests through io_uring commands on
//! `/dev/ublkcN`, and `/dev/ublkbN` is the disk. This crate maps the rings itself through raw system calls, and depends
//! on `ublk-sys`, `libc` and `static_assertions`, and on nothing else.
//!
//! # A server
//!
//! ```no_run
//! use std::sync::Mutex;
//! use ublk::{Cache, Errno, NewDevice, Operation, Params, Request, Sectors, Server};
//!
//! fn main() -> Result<(), ublk::Error> {
//!     let disk = Mutex::new(vec![0_u8; 64 << 20]);
//!     let answer = |mut request: Request<'_>| {
//!         let mut disk = disk.lock().unwrap();
//!         let start = request.offset_bytes() as usize;
//!         let bytes = &mut disk[start..start + request.len_bytes() as usize];
//!         match request.operation() {
//!             Operation::READ => { request.cursor().write(bytes); }
//!             Operation::WRITE => bytes.copy_from_slice(request.data()),
//!             _ => return request.fail(Errno::EOPNOTSUPP),
//!         }
//!         request.complete();
//!     };
//!     let params = Params::new(Sectors::new((64 << 20) / 512), Cache::None);
//!     let server = Server::new(NewDevice::new(), params).stop_on_signals();
//!     server.run(answer, |device| println!("/dev/ublkb{}", device.id()))?;
//!     Ok(())
//! }
//! ```
//!
//! # The life of a device
//!
//! ```text
//!            Control                     each queue's thread            the driver
//!   ─────────────────────────────────────────────────────────────────────────────────────
//!   Device::add ── ADD_DEV ──────────────────────────────────────────>  /dev/ublkcN
//!                  open, SET_PARAMS
//!   Device::queue ── PreparedQueue ──>  fetch()  ── FETCH_REQ x depth
//!   Device::start ── START_DEV ──────────────────────────────────────>  /dev/ublkbN
//!                                       wait()          <── request
//!                                       next_request()
//!                                       complete()  ── COMMIT_AND_FETCH_REQ ──>
//!   Device::stop ── STOP_DEV ────────────────────────────────────────>  no /dev/ublkbN
//!                                       is_finished()   <── every fetch ends
//!   Device::delete ── DEL_DEV_ASYNC, close ──────────────────────────>  no /dev/ublkcN
//! ```
//!
//! [`Server`] does all of it, with a thread for each queue. Whoever wants threads of their own uses [`Device`] and
//! [`Queue`], which make none.
//!
//! # Modules and features
//!
//! Everything but [`ring`] stands at the root. `ring` is the io_uring beneath; it knows nothing of ublk.
//!
//! - `std` (default): [`Server`], [`StopHandle`], and the standard library's traits on our types. Without it the crate is
//!   `no_std`, allocates nothing, and makes no threads.
//!
//! # What it does and does not do
//!
//! - It does no I/O of its own, writes no files, prints nothing, and has no globals.
//! - After its set-up it allocates nothing and makes one system call for all requests that wait together.
//! - A user of this crate who writes no `unsafe` cannot make the kernel write to memory that is not the queue's. That
//!   includes forgetting a request, dropping a queue early, and a panic in the target.
//! - It neither locks its buffers nor marks its threads as part of the I/O path (`mlockall`, `PR_SET_IO_FLUSHER`): a server
//!   whose own memory could be paged out to its own disk has to do that itself.
//! - It serves devices whose data goes through the server's buffers (copy mode). It does not recover, resize or quiesce
//!   devices, and serves none of the other data modes yet.
//! - It needs a 64-bit Linux 6.5, and is tested on 6.12 and 7.3.
#![no_std]
#![warn(clippy::alloc_instead_of_core, clippy::std_instead_of_core)]

#[cfg(any(feature = "std", test))]
extern crate std;

const _: () = assert!(size_of::<usize>() == 8, "this crate is for 64-bit Linux");

/// The README's code, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

mod char_device;
mod control;
mod device;
mod device_info;
mod disk;
mod errno;
mod error;
mod features;
mod flag_set;
mod id;
mod mapping;
mod params;
mod poll;
mod queue;
pub mod ring;
#[cfg(feature = "std")]
mod server;
#[cfg(feature = "std")]
mod signals;
mod syscall;
mod units;

pub use control::{Control, CpuSet, InFlight, Starting, Stopping};
pub use device::{DeletedId, Device, Stopper};
pub use device_info::{DeviceInfo, NewDevice, State};
pub use disk::{Discard, Disk, Flush, ReadAt, WriteAt, WriteZeroes};
pub use errno::Errno;
pub use error::{Command, Error, Message, SystemCall};
pub use features::Features;
pub use id::{DeviceId, QueueId, Tag};
pub use params::{Attributes, Cache, Params};
pub use poll::poll;
pub use queue::{DetachedRequest, Operation, PreparedQueue, Queue, ReadCursor, Request, RequestFlags};
pub use ring::Wake;
#[cfg(feature = "std")]
pub use server::{Server, StopHandle, Stopped};
#[cfg(feature = "std")]
pub use signals::Signals;
pub use syscall::Fd;
pub use units::{SECTOR_BYTES, Sectors};
