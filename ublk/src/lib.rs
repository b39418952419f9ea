// SPDX-License-Identifier: MIT OR Apache-2.0
//! Linux block devices in user space, over rings of our own.
//!
//! `ublk_drv` lets a process be a block device: the kernel hands it requests through io_uring commands on
//! `/dev/ublkcN`, and `/dev/ublkbN` is the disk. This crate maps the rings itself through raw system calls, and depends
//! on `ublk-sys`, `libc` and `static_assertions`, and on nothing else.
//!
//! # A server
//!
//! There are three ways to write one, from the least to do to the most to say.
//!
//! **A type that reads and writes at an offset**: [`ReadAt`], [`WriteAt`], and what it can do beyond that. A [`Disk`] of it has the
//! parameters that follow, and has to be told which cache it has. With `std` a file is such a type.
//!
//! ```rust,no_run
//! use std::sync::Mutex;
//! use ublk::{Disk, Errno, NewDevice, ReadAt, ReadCursor, Sectors, Server, WriteAt};
//! struct Ram(Mutex<Vec<u8>>);
//! impl ReadAt for Ram {
//!     fn read_into(&self, offset: u64, into: &mut ReadCursor<'_>) -> Result<(), Errno> {
//!         into.write(&self.0.lock().unwrap()[offset as usize..]);
//!         Ok(())
//!     }
//! }
//! impl WriteAt for Ram {
//!     fn write_from(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
//!         self.0.lock().unwrap()[offset as usize..][..data.len()].copy_from_slice(data);
//!         Ok(())
//!     }
//! }
//! fn main() -> Result<(), ublk::Error> {
//!     let disk = Disk::without_cache(Sectors::new((64 << 20) / 512), Ram(Mutex::new(vec![0; 64 << 20])));
//!     let server = Server::new(NewDevice::new(), *disk.params()).stop_on_signals();
//!     server.run(|request| disk.answer(request), |device| println!("/dev/ublkb{}", device.id())).map(drop)
//! }
//! ```
//!
//! **A closure over requests**, which sees each [`Request`] as it is.
//!
//! ```rust,no_run
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
//!             Operation::READ => drop(request.cursor().write(bytes)),
//!             Operation::WRITE => bytes.copy_from_slice(request.data()),
//!             _ => return request.fail(Errno::EOPNOTSUPP),
//!         }
//!         request.complete();
//!     };
//!     let params = Params::new(Sectors::new((64 << 20) / 512), Cache::None);
//!     let server = Server::new(NewDevice::new(), params).stop_on_signals();
//!     server.run(answer, |device| println!("/dev/ublkb{}", device.id())).map(drop)
//! }
//! ```
//!
//! Both run until SIGINT or SIGTERM, and [`Server`] takes care of the rest, with a thread for each queue.
//!
//! **A loop of your own**, which makes no thread. [`Queue::ring_fd`] can be polled, by [`poll()`] or by any event loop, and so can a start
//! or a stop that is under way ([`InFlight::fd`]). At the end of `main` the queue is dropped, and then the device, which deletes it.
//!
//! ```rust,no_run
//! use ublk::{Cache, Control, Device, Error, NewDevice, Params, QueueId, Sectors, Signals};
//! fn main() -> Result<(), Error> {
//!     let signals = Signals::block()?;
//!     let params = Params::new(Sectors::new(1 << 20), Cache::None).read_only();
//!     let mut device = Device::add(Control::open()?, &NewDevice::new(), &params)?;
//!     let queue = device.queue(QueueId::new(0))?.fetch()?;
//!     println!("/dev/ublkb{}", device.info().id());
//!     let mut command = device.begin_start()?;
//!     while !queue.is_finished() {
//!         let signal = if command.poll()? { signals.fd().raw() } else { -1 };
//!         ublk::poll([queue.ring_fd(), command.fd().raw(), signal], command.time_left())?;
//!         while let std::task::Poll::Ready(Some(request)) = queue.poll_request()? {
//!             request.complete(); // A READ that nothing was written to gives zeroes.
//!         }
//!         if signal != -1 && signals.take().is_some() {
//!             command = device.begin_stop()?;
//!         }
//!     }
//!     command.wait()
//! }
//! ```
//!
//! The same for an executor, of which none is a dependency. This one is written by hand, and waits on the queue's descriptor; a queue
//! is served by `block_on(&queue, serve(&queue))`. Another one waits for the descriptor in its own way, and polls the task again.
//!
//! ```rust,no_run
//! use std::future::poll_fn;
//! use std::pin::pin;
//! use std::task::{Context, Waker};
//! use ublk::{Error, Queue};
//!
//! async fn serve(queue: &Queue) -> Result<(), Error> {
//!     while let Some(request) = poll_fn(|_| queue.poll_request()).await {
//!         request?.complete();
//!     }
//!     Ok(())
//! }
//!
//! fn block_on(queue: &Queue, task: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
//!     let (mut task, mut context) = (pin!(task), Context::from_waker(Waker::noop()));
//!     while task.as_mut().poll(&mut context)?.is_pending() {
//!         ublk::poll([queue.ring_fd()], None)?;
//!     }
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
//! [`Server`] does all of it, with a thread for each queue. [`Device`] and [`Queue`] make no threads.
//!
//! # Modules and features
//!
//! Everything but [`ring`], [`hosting`] and [`diagnosis`] stands at the root. `ring` is the io_uring beneath; it knows nothing of
//! ublk. `hosting` is for servers whose disk the same machine uses. `diagnosis` has the rules of the kernel's that a command can break, and names the one that was broken.
//!
//! - `explain` (default): [`diagnosis`], and with it the end of an [`Error`]'s sentence, which says why. Without it an error keeps
//!   nothing of what was sent.
//! - `std` (default): [`Server`], [`StopHandle`], and the standard library's traits on our types. Without it the crate is
//!   `no_std`, allocates nothing, and makes no threads: `tools/null-no-std` is a whole server of that kind.
//!
//! # What it does and does not do
//!
//! - It does no I/O of its own, writes no files, prints nothing, and has no globals.
//! - After its set-up it allocates nothing and makes one system call for all requests that wait together.
//! - A user of this crate who writes no `unsafe` cannot make the kernel write to memory that is not the queue's. That
//!   includes forgetting a request, dropping a queue early, and a panic in the target.
//! - It locks its buffers, and marks its threads as part of the I/O path, where it is told to: [`hosting`] says when a server needs
//!   that, and what is left to the program.
//! - A process that has a device, a queue or a request must not `fork`, other than to `exec` (`std::process::Command` does both):
//!   the child would get no mapping, but the descriptors, and hold the device's id and the answers of requests until it ends.
//! - How data travels is the [`mode`] of a device, and what becomes of it when its server dies its [`Recovery`].
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
mod deadline;
mod device;
mod device_info;
#[cfg(feature = "explain")]
pub mod diagnosis;
mod disk;
mod errno;
mod error;
mod features;
mod flag_set;
/// What a driver has accepted, to compare with.
#[cfg(test)]
#[path = "../../tests/goldens/golden.rs"]
mod golden;
pub mod hosting;
mod id;
mod mapping;
pub mod mode;
mod orphan;
mod overlays;
mod params;
mod poll;
mod queue;
mod recovery;
pub mod ring;
#[cfg(feature = "std")]
mod server;
mod shared_memory;
mod signals;
mod syscall;
mod units;
mod zone;

pub use control::{Control, CpuSet, InFlight, Starting, Stopping};
pub use device::{DeletedId, Device, Stopper};
pub use device_info::{DeviceInfo, NewDevice, State};
pub use disk::{Discard, Disk, Flush, ReadAt, WriteAt, WriteZeroes};
pub use errno::Errno;
pub use error::{Command, Error, Message, Sent, SystemCall};
pub use features::Features;
pub use hosting::BufferLock;
pub use id::{DeviceId, QueueId, SharedIndex, Tag};
pub use orphan::Orphan;
pub use params::{
    Attributes, Cache, Checksum, DiscardLimits, Integrity, IntegrityFlags, Limits, ParamTypes, Params, Segments, Zones,
};
pub use poll::poll;
pub use queue::{
    Answered, Completed, DetachedPages, DetachedRequest, Event, HelpedRequest, Helper, Operation, Operations,
    PreparedQueue, Queue, ReadCursor, Request, RequestFlags, RingFile, RingOperation, SharedPlace,
};
pub use recovery::Recovery;
pub use ring::Wake;
#[cfg(feature = "std")]
pub use server::{Server, StopHandle, Stopped};
pub use shared_memory::{SharedMemory, SharedView};
pub use signals::Signals;
pub use syscall::Fd;
pub use units::{SECTOR_BYTES, Sectors};
pub use zone::{Zone, ZoneCondition, ZoneType};
