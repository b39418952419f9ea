// SPDX-License-Identifier: MIT OR Apache-2.0
//! A whole ublk server with neither the standard library nor an allocator: a disk of 256 MiB whose reads give zeroes, and
//! whose writes are forgotten.
//!
//! It prints the path of the block device once that can be used, and serves until SIGINT or SIGTERM, or until somebody else
//! stops the device. Everything runs in one thread, on a stack of 16 KiB.
//!
//! The panic handler calls a function that does not exist, so that this program links only if the compiler has proved of
//! every panic, in this file and in `ublk`, that nothing reaches it.
#![no_std]
#![no_main]

mod console;
mod everything;
mod small_thread;

use core::ffi::{c_char, c_int};
use core::time::Duration;

use ublk::{
    Cache, Control, Device, Errno, Error, InFlight, NewDevice, Operation, Params, Queue, QueueId, Sectors, Signals,
    SystemCall,
};

/// Bytes of stack for all that happens from the first command to the last.
const STACK_BYTES: usize = 16 << 10;

const SIZE: Sectors = Sectors::new((256 << 20) / ublk::SECTOR_BYTES);

// With std, the C library would be linked by that.
#[link(name = "c", kind = "static", modifiers = "-bundle")]
unsafe extern "C" {
    /// Nobody defines this: whoever can reach a panic cannot be linked.
    safe fn a_panic_is_reachable() -> !;
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    a_panic_is_reachable()
}

/// What the C library calls.
#[unsafe(no_mangle)]
extern "C" fn main(arguments: c_int, _: *const *const c_char) -> c_int {
    #[expect(clippy::indexing_slicing, reason = "only with the feature that is to show what does not link")]
    if cfg!(feature = "panic") && [false, true][usize::try_from(arguments).unwrap_or(0)] {
        return 2;
    }
    match run() {
        Ok(status) => status,
        Err(error) => console::complain(error),
    }
}

/// The program; its exit status.
fn run() -> Result<c_int, Error> {
    // Before there is a second thread, which so has them blocked too.
    let signals = Signals::block()?;
    let stop = signals.fd().raw();
    let server = || serve(stop).map_or_else(console::complain, |()| 0);
    let ended = small_thread::run(STACK_BYTES, server);
    // The signal that ended it is not to be let through now.
    signals.take();
    ended.map_err(|errno| Error::System { call: SystemCall::Thread, errno })
}

fn serve(stop: i32) -> Result<(), Error> {
    let params = Params::new(SIZE, Cache::None);
    let mut device = Device::add(Control::open()?, &NewDevice::new(), &params)?;
    let mut queue = device.queue(QueueId::new(0))?.fetch()?;
    if cfg!(feature = "everything") {
        everything::of_queue(&mut queue, core::hint::black_box(&[1; 16]))?;
        let id = core::hint::black_box(queue.id());
        let path = core::hint::black_box(c"/dev/ublkc0");
        let done = everything::of_device(device, id, path);
        return done.map(|_| ()).inspect_err(|error| everything::of_error(*error, path.to_bytes()));
    }
    let served = live(&mut device, &queue, stop);
    // The device goes last, on every way out.
    drop(queue);
    let deleted = device.delete();
    served?;
    deleted.map(|_| ())
}

/// From the start of the device to its stop, which comes when `stop` can be read.
fn live(device: &mut Device, queue: &Queue, stop: i32) -> Result<(), Error> {
    serve_until_done(queue, device.begin_start()?)?;
    console::say_path(device.info().id());
    while !queue.is_finished() {
        let [_, signal] = ublk::poll([queue.ring_fd(), stop], None)?;
        answer(queue)?;
        if signal {
            serve_until_done(queue, device.begin_stop()?)?;
            break;
        }
    }
    // Each fetch ends of its own when the device is stopped.
    while !queue.is_finished() {
        queue.wait(None)?;
        answer(queue)?;
    }
    Ok(())
}

/// Serves until the driver has answered a command: it waits for us as we wait for it.
fn serve_until_done(queue: &Queue, mut command: InFlight<'_>) -> Result<(), Error> {
    while !command.poll()? {
        answer(queue)?;
        ublk::poll([queue.ring_fd(), command.fd().raw()], command.time_left())?;
    }
    Ok(())
}

/// Answers what was delivered, and sends the answers.
fn answer(queue: &Queue) -> Result<(), Error> {
    while let Some(request) = queue.next_request()? {
        match request.operation() {
            // What is not filled of a READ is zeroes.
            Operation::READ | Operation::WRITE => request.complete(),
            _ => request.fail(Errno::EOPNOTSUPP),
        }
    }
    queue.wait(Some(Duration::ZERO)).map(|_| ())
}
