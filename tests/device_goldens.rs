// SPDX-License-Identifier: MIT OR Apache-2.0
//! The goldens sent to a real driver, which takes them; and how they are made: with `UBLK_CAPTURE` set, the same commands as
//! `ublk-sys` makes them are sent, and each that was taken is printed as a golden.
//!
//! ```sh
//! cargo xtask vm --add TEST:/t -- env UBLK_CAPTURE=1 /t --include-ignored --nocapture
//! ```
#![cfg_attr(not(have_ublk), allow(dead_code, reason = "the tests are ignored, not left out"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]

#[path = "goldens/commands.rs"]
mod commands;
#[path = "goldens/golden.rs"]
mod golden;
mod harness;

#[path = "goldens/sender.rs"]
mod sender;

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::Instant;

use commands::{DEPTH, GOLDENS, ID, Run, TAG, build};
use harness::nodes;
use sender::{Accepted, Control, PATIENCE, Server, clients, leaked_buffers, provide, register};
use ublk_sys::{
    IORING_REGISTER_BUFFERS2, IORING_RSRC_REGISTER_SPARSE, UBLK_F_BATCH_IO, UBLK_F_NEED_GET_DATA, UBLK_F_QUIESCE,
    UBLK_F_SAFE_STOP_DEV, UBLK_F_SHMEM_ZC, UBLK_F_SUPPORT_ZERO_COPY, UBLK_F_UPDATE_SIZE, UBLK_F_USER_RECOVERY,
    UBLK_IO_RES_ABORT, UBLK_IO_RES_NEED_GET_DATA, UBLK_S_DEV_QUIESCED, io_uring_rsrc_register,
};

/// Plain reads, and the commands of a device's life.
fn copy(control: &mut Control, features: u64) {
    let none = Run::default();
    control.accepts("UBLK_U_CMD_ADD_DEV", none);
    control.accepts("UBLK_U_CMD_SET_PARAMS", none);
    let params = control.accepts("UBLK_U_CMD_GET_PARAMS", none);
    assert_eq!(params.buffer[24..32], 0x40000_u64.to_ne_bytes());
    let info = control.accepts("UBLK_U_CMD_GET_DEV_INFO", none);
    assert_eq!(info.buffer[12..16], ID.to_ne_bytes());
    let info = control.accepts("UBLK_U_CMD_GET_DEV_INFO2", none);
    assert_eq!(info.buffer[15 + 12..15 + 16], ID.to_ne_bytes());
    let cpus = control.accepts("UBLK_U_CMD_GET_QUEUE_AFFINITY", none);
    assert!(cpus.buffer.iter().any(|byte| *byte != 0));
    let mut server = Server::open(&control.accepted);
    server.fetch();
    control.accepts_while("UBLK_U_CMD_START_DEV", &mut server);
    let clients = server.hold(false);
    server.answer(clients);
    if features & UBLK_F_UPDATE_SIZE != 0 {
        control.accepts_while("UBLK_U_CMD_UPDATE_SIZE", &mut server);
        let size = fs::read_to_string(format!("/sys/block/ublkb{ID}/size")).unwrap();
        assert_eq!(size.trim().parse(), Ok(commands::NEW_SECTORS));
    }
    control.stop_and_delete(server);
}

/// Requests whose buffers are registered with the ring, and memory that is shared with clients.
fn zero_copy(control: &mut Control) {
    control.add(UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_SHMEM_ZC);
    let mut server = Server::open(&control.accepted);
    server.without_buffers = true;
    let mut table = io_uring_rsrc_register::default();
    (table.nr, table.flags) = (16, IORING_RSRC_REGISTER_SPARSE);
    register(&server.ring, IORING_REGISTER_BUFFERS2, &table, size_of_val(&table));
    server.fetch();
    control.accepts_while("UBLK_U_CMD_START_DEV", &mut server);
    let clients = server.hold(false);
    server.accepts("UBLK_U_IO_REGISTER_IO_BUF");
    server.accepts("UBLK_U_IO_UNREGISTER_IO_BUF");
    server.answer(clients);
    let addresses = server.run.addresses;
    control.accepts("UBLK_U_CMD_REG_BUF", Run { addresses, ..Run::default() });
    control.accepts("UBLK_U_CMD_UNREG_BUF", Run::default());
    control.stop_and_delete(server);
}

/// Commands for several tags at once.
fn batch(control: &mut Control) {
    control.add(UBLK_F_BATCH_IO);
    let mut server = Server::open(&control.accepted);
    let (tags, ring) = (leaked_buffers()[0], leaked_buffers()[0]);
    provide(&server.ring, ring, tags);
    let run = server.run;

    let sent = server.accepted.sent(build("UBLK_U_IO_PREP_IO_CMDS", &run));
    server.push(&sent, 1);
    assert_eq!(server.completion(PATIENCE).unwrap().result, 0);
    server.accepted.took(&sent, "answered 0");

    let fetch = server.accepted.sent(build("UBLK_U_IO_FETCH_IO_CMDS", &run));
    server.push(&fetch, 2);
    server.ring.submit().unwrap();
    let start = control.accepted.sent(control.build("UBLK_U_CMD_START_DEV", Run::default()));
    assert_eq!(control.send(&start), 0);

    let clients = clients(false);
    let answers = server.take_tags();
    server.accepted.took(&fetch, &format!("answered {}, the bytes of the tags that came, and went on", answers[0]));

    server.commit_batch(clients);

    let stop = control.accepted.sent(control.build("UBLK_U_CMD_STOP_DEV", Run::default()));
    assert_eq!(control.send(&stop), 0);
    assert_eq!(server.completion(PATIENCE).unwrap().result, UBLK_IO_RES_ABORT);
    drop(server);
    control.accepts("UBLK_U_CMD_DEL_DEV", Run::default());
}

/// A device whose WRITEs wait for a buffer, and whose server lets go of it; what was accepted.
fn served_and_left(features: u64) -> BTreeSet<String> {
    let accepted = Accepted::default();
    let mut control = Control::open(&accepted);
    let asked = UBLK_F_USER_RECOVERY | UBLK_F_NEED_GET_DATA;
    control.add(asked | if features & UBLK_F_QUIESCE != 0 { UBLK_F_QUIESCE } else { 0 });
    let mut server = Server::open(&accepted);
    server.fetch();
    control.accepts_while("UBLK_U_CMD_START_DEV", &mut server);
    let clients = server.hold(true);
    assert!(server.held.iter().all(|(_, result)| *result == UBLK_IO_RES_NEED_GET_DATA), "{:?}", server.held);
    for tag in (0..DEPTH).filter(|tag| *tag != TAG) {
        server.stage("UBLK_U_IO_NEED_GET_DATA", tag, 0);
        assert_eq!(server.completion(PATIENCE).unwrap().result, 0);
    }
    server.accepts("UBLK_U_IO_NEED_GET_DATA");
    server.answer(clients);
    if features & UBLK_F_QUIESCE != 0 {
        control.accepts_while("UBLK_U_CMD_QUIESCE_DEV", &mut server);
        server.end();
    } else {
        drop(server);
    }
    accepted.0.take()
}

/// A device that goes from one server to the next.
fn recovery(control: &mut Control, features: u64) {
    // Linux 6.12 warns in its log of a device that is recovered while the thread that served it lives.
    let accepted = thread::spawn(move || served_and_left(features)).join().unwrap();
    control.accepted.0.borrow_mut().extend(accepted);
    // Linux 6.12 refuses what is still live as invalid, and not as busy.
    let started = Instant::now();
    while control.state() != UBLK_S_DEV_QUIESCED {
        assert!(started.elapsed() < PATIENCE, "{}", control.state());
        thread::yield_now();
    }
    control.accepts("UBLK_U_CMD_START_USER_RECOVERY", Run::default());
    let mut server = Server::open(&control.accepted);
    server.fetch();
    control.accepts_while("UBLK_U_CMD_END_USER_RECOVERY", &mut server);
    let stop = if features & UBLK_F_SAFE_STOP_DEV != 0 { "UBLK_U_CMD_TRY_STOP_DEV" } else { "UBLK_U_CMD_STOP_DEV" };
    control.accepts_while(stop, &mut server);
    server.end();
    control.accepts("UBLK_U_CMD_DEL_DEV_ASYNC", Run::default());
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
#[cfg_attr(not(target_endian = "little"), ignore = "the goldens are those of a little-endian machine")]
fn the_driver_takes_each_golden_that_it_has_the_command_for() {
    assert_eq!(nodes(), [""; 0]);
    let accepted = Accepted::default();
    let mut control = Control::open(&accepted);
    let answer = control.accepts("UBLK_U_CMD_GET_FEATURES", Run::default()).buffer;
    let features = u64::from_ne_bytes(answer.try_into().unwrap());
    copy(&mut control, features);
    // Commands that no driver without the feature has.
    let mut missing = BTreeSet::new();
    let mut unless = |feature: u64, names: &[&'static str]| {
        let has = features & feature == feature;
        missing.extend(names.iter().filter(|_| !has).copied());
        has
    };
    unless(UBLK_F_UPDATE_SIZE, &["UBLK_U_CMD_UPDATE_SIZE"]);
    unless(UBLK_F_QUIESCE, &["UBLK_U_CMD_QUIESCE_DEV"]);
    unless(UBLK_F_SAFE_STOP_DEV, &["UBLK_U_CMD_TRY_STOP_DEV"]);
    let of_zero_copy =
        ["UBLK_U_CMD_REG_BUF", "UBLK_U_CMD_UNREG_BUF", "UBLK_U_IO_REGISTER_IO_BUF", "UBLK_U_IO_UNREGISTER_IO_BUF"];
    if unless(UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_SHMEM_ZC, &of_zero_copy) {
        zero_copy(&mut control);
    }
    let of_batches = ["UBLK_U_IO_PREP_IO_CMDS", "UBLK_U_IO_COMMIT_IO_CMDS", "UBLK_U_IO_FETCH_IO_CMDS"];
    if unless(UBLK_F_BATCH_IO, &of_batches) {
        batch(&mut control);
    }
    recovery(&mut control, features);

    let taken = accepted.0.borrow();
    for (name, _) in GOLDENS {
        assert_ne!(taken.contains(*name), missing.contains(name), "{name}");
    }
}
