// SPDX-License-Identifier: MIT OR Apache-2.0
//! The batch transport on a real driver: in every mode, with queues and threads in any ratio; what an older driver lacks is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]

mod harness;

use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use harness::{Aligned, nodes, serve};
use ublk::mode::{self, Mode};
use ublk::{Cache, Error, NewDevice, Operation, Params, Request, Sectors, Stopped};

const SECTORS: u64 = 16384;

fn params() -> Params {
    Params::new(Sectors::new(SECTORS), Cache::Volatile)
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn smoke() {
    let memory = Mutex::new(vec![0_u8; usize::try_from(SECTORS * 512).unwrap()]);
    let served = serve(NewDevice::new().batch().depth(4), params(), move |mut request: Request<'_>| {
        let mut memory = memory.lock().unwrap();
        let (start, len) =
            (usize::try_from(request.offset_bytes()).unwrap(), usize::try_from(request.len_bytes()).unwrap());
        match request.operation() {
            Operation::READ => drop(request.cursor().write(&memory[start..start + len])),
            Operation::WRITE => memory[start..start + len].copy_from_slice(request.data()),
            _ => {}
        }
        request.complete();
    })
    .unwrap();
    let disk = served.open_direct();
    for len in [512, 4096, 512 << 10] {
        let wanted = Aligned::filled(len, 0x33);
        disk.write_all_at(&wanted, 8192).unwrap();
        let mut read = Aligned::filled(len, 0xee);
        disk.read_exact_at(&mut read, 8192).unwrap();
        assert!(read[..] == wanted[..]);
    }
    drop(disk);
    served.stop().unwrap();
}
