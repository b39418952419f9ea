// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the rules of the entry itself are broken.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::thread;

use ublk::ring::WideOp;
use ublk::{DeviceId, NewDevice};

use super::raw_ring::RawRing;
use super::scene::{Edit, Planted, Scene, alone};
use super::table::How::{Planted as So, PlantedBefore, Unreachable};
use super::table::Row;
use crate::commands::{Built, ID};
use crate::harness::group::Threads;
use crate::sender::{PATIENCE, entry};

const INFO: &str = "UBLK_U_CMD_GET_DEV_INFO";
const FEATURES: &str = "UBLK_U_CMD_GET_FEATURES";

pub const ROWS: &[Row] = &[
    // FUTEX_WAIT, with the length of a struct where it wants 0: Linux 6.12 and later refuse it at once.
    ("sqe.opcode", So(|s| sent(s, |sent| sent.with(0, &[51]).with(24, &64_u32.to_ne_bytes())))),
    (
        "sqe.opcode-128",
        PlantedBefore((6, 19), |s| sent(s, |sent| sent.with(0, &[64])), "Linux 6.19 and later have the opcode"),
    ),
    ("sqe.flags", So(|s| sent(s, |sent| sent.with(1, &[0x80])))),
    ("sqe.buffer-select", So(|s| sent(s, |sent| sent.with(1, &[0x20])))),
    (
        "ring.restricted",
        So(|s| on_another_ring(s, RawRing::restricted()).knowing(|e| e.ring_is_restricted = Some(true))),
    ),
    ("sqe.ioprio", So(|s| sent(s, |sent| sent.with(2, &[1])))),
    ("sqe.personality", So(|s| sent(s, |sent| sent.with(42, &[1])))),
    ("sqe.pad", So(|s| sent(s, |sent| sent.with(12, &[1])))),
    ("sqe.command-flags", So(|s| sent(s, |sent| sent.with(31, &[1])))),
    ("sqe.multishot", So(|s| sent(s, |sent| sent.with(28, &2_u32.to_ne_bytes())))),
    (
        "sqe.fixed-buffer",
        So(|s| sent(s, |sent| sent.with(28, &1_u32.to_ne_bytes())).knowing(|e| e.ring_buffers = Some(0))),
    ),
    ("sqe.fd", So(|s| sent(s, |sent| sent.with(4, &(-1_i32).to_ne_bytes())))),
    (
        "sqe.file",
        So(|s| {
            let file = File::open("/proc/version").unwrap();
            sent(s, |sent| sent.with(4, &file.as_raw_fd().to_ne_bytes())).knowing(|e| e.fd_is_ublk = Some(false))
        }),
    ),
    ("sqe.security-module", Unreachable("no security module is set up on these machines")),
    ("ring.polls", So(|s| on_another_ring(s, RawRing::polling()).knowing(|e| e.ring_polls = Some(true)))),
    ("sqe.memory", Unreachable("the kernel would have to run out of memory")),
    ("sqe.cancelled", So(cancelled)),
    ("command.no-worker", So(without_worker)),
    (
        "sqe.size",
        So(|mut s| {
            let mut sent = s.golden(FEATURES);
            sent.sqe.truncate(64);
            let result = alone(&sent.sqe);
            s.refused(sent, result).knowing(|e| e.entries_are_wide = Some(false))
        }),
    ),
    (
        "sqe.command-at-64",
        So(|s| {
            sent(s, |mut sent| {
                sent.sqe.copy_within(48..80, 64);
                sent.with(48, &[0; 16])
            })
        }),
    ),
    (
        "encoding.legacy",
        Unreachable("the kernels here take the numbers of before Linux 6.4 (CONFIG_BLKDEV_UBLK_LEGACY_OPCODES)"),
    ),
    ("encoding.type", So(|s| sent(s, |sent| sent.with(9, b"x")))),
    ("encoding.get-features", So(|s| sent(s, |sent| sent.with(10, &[0x10])))),
    (
        "encoding.size",
        So(|mut s| {
            s.add(0);
            let sent = s.golden(INFO).with(10, &[0x30]);
            s.send(sent)
        }),
    ),
];

/// GET_FEATURES, which needs neither a device nor a right, changed.
fn sent(mut s: Scene, change: impl FnOnce(Built) -> Built) -> Planted {
    let sent = change(s.golden(FEATURES));
    s.send(sent)
}

fn on_another_ring(mut s: Scene, mut ring: RawRing) -> Planted {
    let sent = s.golden(FEATURES);
    let result = ring.send(&sent.sqe);
    s.refused(sent, result)
}

/// Linked to one that is refused.
/// A control command of a thread that has sent none before, and so has no worker.
fn without_worker(mut s: Scene) -> Planted {
    let group = Threads::limited();
    let asked = thread::scope(|scope| {
        let ask = || {
            let mut control = ublk::Control::open()?;
            group.none();
            control.add(&NewDevice::new().id(DeviceId::new(ID)))
        };
        scope.spawn(ask).join().unwrap()
    });
    drop(group);
    s.failed(asked.map(drop))
}

fn cancelled(mut s: Scene) -> Planted {
    const LINK: u8 = 4;
    let first = s.golden(FEATURES).len(0).with(1, &[LINK]);
    let second = s.golden(FEATURES);
    s.control.ring.push(entry::<WideOp>(&first.sqe), 1).unwrap();
    s.control.ring.push(entry::<WideOp>(&second.sqe), 2).unwrap();
    s.control.ring.submit().unwrap();
    loop {
        s.control.ring.submit_and_wait(Some(PATIENCE)).unwrap();
        while let Some(completion) = s.control.ring.next_completion() {
            if completion.user_data == 2 {
                return s.refused(second, completion.result);
            }
            assert!(completion.result < 0, "{completion:?}");
        }
    }
}
