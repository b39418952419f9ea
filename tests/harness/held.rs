// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device whose server sits on a request.

use std::os::unix::fs::FileExt;
use std::sync::{Mutex, mpsc};
use std::thread::{self, JoinHandle};

use ublk::{Cache, DeviceId, Errno, NewDevice, Operation, Params, Request, Sectors};

use super::{Aligned, Served, open_direct, quiet_device, serve};

/// A live device whose server sits on the WRITE of a client.
pub struct HeldWrite {
    pub served: Served,
    pub client: JoinHandle<std::io::Result<()>>,
    /// Dropping it lets the server answer.
    pub release: mpsc::Sender<()>,
}

impl HeldWrite {
    pub fn new(id: DeviceId) -> HeldWrite {
        // A partition scan would add requests of its own.
        HeldWrite::of(quiet_device(4).id(id))
    }

    /// The same of a device that is to be quiet too.
    pub fn of(device: NewDevice) -> HeldWrite {
        let (arrived, has_arrived) = mpsc::channel();
        let (release, is_released) = mpsc::channel::<()>();
        let is_released = Mutex::new(is_released);
        let target = move |request: Request<'_>| match request.operation() {
            Operation::READ => request.complete(),
            Operation::WRITE => {
                arrived.send(()).unwrap();
                // Until the other end is gone.
                let _ = is_released.lock().unwrap().recv();
                request.complete();
            }
            _ => request.fail(Errno::EOPNOTSUPP),
        };
        let params = Params::new(Sectors::new(2048), Cache::None);
        let served = serve(device, params, target).unwrap();
        let id = served.id();
        let client = thread::spawn(move || open_direct(id).write_all_at(&Aligned::filled(4096, 1), 0));
        has_arrived.recv().unwrap();
        HeldWrite { served, client, release }
    }
}
