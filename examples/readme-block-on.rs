// SPDX-License-Identifier: MIT OR Apache-2.0
//! The README's executor, with a device around it. `build.rs` cuts the executor out of that text; it drives the queue in a
//! thread of its own, while this one starts the device and stops it.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program")]

use std::thread;
use ublk::{Cache, Control, Device, NewDevice, Params, QueueId, Sectors, Signals};

include!(concat!(env!("OUT_DIR"), "/readme-block-on.rs"));

fn main() -> Result<(), Error> {
    let signals = Signals::block()?;
    let params = Params::new(Sectors::new(1 << 20), Cache::None).read_only();
    let mut device = Device::add(Control::open()?, &NewDevice::new(), &params)?;
    let queue = device.queue(QueueId::new(0))?;
    let server = thread::spawn(|| {
        let queue = queue.fetch()?;
        block_on(&queue, serve(&queue))
    });
    device.start()?;
    println!("/dev/ublkb{}", device.info().id());
    while signals.take().is_none() {
        ublk::poll([signals.fd().raw()], None)?;
    }
    device.stop()?;
    server.join().unwrap()
}
