// SPDX-License-Identifier: MIT OR Apache-2.0
//! A disk that keeps nothing: reads give zeroes, and what is written is forgotten.
//!
//! ```text
//! null [--size 256M] [--queues N] [--depth N] [--block-size N] [--id N]
//! ```
//!
//! It prints the path of the block device once that can be used, and serves until SIGINT or SIGTERM. What is left of the
//! time that a request takes is the kernel's and this crate's.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

mod program;

use std::process::ExitCode;

use program::parse_bytes;
use ublk::{Cache, DeviceId, Errno, NewDevice, Operation, Params, Request, Sectors, Server};

const USAGE: &str = "\
usage: null [--size BYTES[K|M|G|T]] [--queues N] [--depth N] [--block-size BYTES] [--id N]

A disk that keeps nothing: reads give zeroes, and what is written is forgotten.
Prints the path of the block device once it can be used, and serves until SIGINT
or SIGTERM.

  --size BYTES        size of the disk (256M)
  --queues N          hardware queues, a thread for each (1)
  --depth N           requests that a queue holds at once (128)
  --block-size BYTES  logical block: 512, 1024, 2048 or 4096 (512)
  --id N              be /dev/ublkbN (the driver's choice)
";

fn answer(request: Request<'_>) {
    match request.operation() {
        // What is not filled of a READ is zeroes.
        Operation::READ | Operation::WRITE => request.complete(),
        _ => request.fail(Errno::EOPNOTSUPP),
    }
}

/// Says that there is nothing to trace, so that the compiler sees that std's reader of debug information is never called, and
/// leaves it out: a third of the program, where a panic aborts and the file is stripped. `cargo xtask sizes` asks for it.
#[cfg(no_backtrace)]
#[expect(unsafe_code, reason = "takes the place of the unwinder's function")]
mod no_backtrace {
    use core::ffi::{c_int, c_void};

    const URC_END_OF_STACK: c_int = 5;

    // SAFETY: it does what the C ABI of this function allows it to do on any stack: to find no frame.
    #[unsafe(no_mangle)]
    extern "C" fn _Unwind_Backtrace(_: *const c_void, _: *mut c_void) -> c_int {
        URC_END_OF_STACK
    }
}

struct Options {
    size: u64,
    block_bytes: u32,
    device: NewDevice,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options { size: 256 << 20, block_bytes: 512, device: NewDevice::new() };
        while let Some(option) = arguments.next() {
            if !["--size", "--queues", "--depth", "--block-size", "--id"].contains(&option.as_str()) {
                return Err(format!("unknown option {option}"));
            }
            let value = arguments.next().ok_or_else(|| format!("{option} needs a value"))?;
            options.set(&option, &value).ok_or_else(|| format!("{option} {value} is not a number that it takes"))?;
        }
        Ok(options)
    }

    fn set(&mut self, option: &str, value: &str) -> Option<()> {
        let number = parse_bytes(value)?;
        match option {
            "--size" => self.size = number,
            "--queues" => self.device = self.device.queues(number.try_into().ok()?),
            "--depth" => self.device = self.device.depth(number.try_into().ok()?),
            "--block-size" => self.block_bytes = number.try_into().ok()?,
            _ => self.device = self.device.id(DeviceId::new(number.try_into().ok()?)),
        }
        Some(())
    }
}

fn serve(options: &Options) -> Result<(), String> {
    let size = Sectors::from_bytes(options.size).ok_or("--size is a multiple of 512")?;
    // There is nothing to lose, so there is nothing to flush.
    let params = Params::new(size, Cache::None).block_bytes(options.block_bytes);
    let stopped = Server::new(options.device, params)
        .stop_on_signals()
        .when_in_use(|device| {
            eprintln!("null: /dev/ublkb{} is in use: a second signal ends it all the same", device.id())
        })
        .run(answer, |device| println!("/dev/ublkb{}", device.id()))
        .map_err(|error| error.to_string())?;
    println!("null: {stopped}");
    Ok(())
}

fn main() -> ExitCode {
    program::run("null", USAGE, Options::parse, serve)
}
