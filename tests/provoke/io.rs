// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the rules of I/O commands are broken.

use std::thread;
use std::time::Instant;

use ublk::diagnosis::TagState;
use ublk_sys::{
    IORING_REGISTER_BUFFERS, UBLK_AUTO_BUF_REG_FALLBACK, UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK, UBLK_BATCH_F_HAS_BUF_ADDR,
    UBLK_BATCH_F_HAS_ZONE_LBA, UBLK_F_AUTO_BUF_REG, UBLK_F_BATCH_IO, UBLK_F_NEED_GET_DATA, UBLK_F_QUIESCE,
    UBLK_F_SUPPORT_ZERO_COPY, UBLK_F_USER_COPY, UBLK_F_USER_RECOVERY,
};

use super::scene::{Planted, RING_BUFFERS, Scene, alone, golden_of};
use super::table::How::{Planted as So, PlantedFrom, Unreachable};
use super::table::Row;
use crate::commands::{BUFFER_INDEX, Built, DEPTH, TAG, build};
use crate::harness::open_direct;
use crate::sender::{PATIENCE, Server, Serving, clients, leaked_buffers, provide, register};

const FETCH: &str = "UBLK_U_IO_FETCH_REQ";
const COMMIT: &str = "UBLK_U_IO_COMMIT_AND_FETCH_REQ";
const NEED_GET_DATA: &str = "UBLK_U_IO_NEED_GET_DATA";
const REGISTER: &str = "UBLK_U_IO_REGISTER_IO_BUF";
const UNREGISTER: &str = "UBLK_U_IO_UNREGISTER_IO_BUF";
const PREP: &str = "UBLK_U_IO_PREP_IO_CMDS";
const COMMIT_BATCH: &str = "UBLK_U_IO_COMMIT_IO_CMDS";
const FETCH_BATCH: &str = "UBLK_U_IO_FETCH_IO_CMDS";

const NO_MEMORY: &str = "the kernel would have to run out of memory";

pub const ROWS: &[Row] = &[
    ("io.command", So(|s| opened(s, 0, FETCH, |sent| sent.with(8, &0xc010_7530_u32.to_ne_bytes())))),
    ("io.buffer-command", So(|s| opened(s, 0, REGISTER, same))),
    ("io.batch-command", So(|s| opened(s, 0, PREP, same))),
    ("io.queue", So(|s| opened(s, 0, FETCH, |sent| sent.with(48, &1_u16.to_ne_bytes())))),
    ("io.tag", So(|s| opened(s, 0, FETCH, |sent| sent.of_tag(DEPTH)))),
    ("io.needs-batch", So(|s| opened(s, 0, PREP, same))),
    ("io.needs-no-batch", So(|s| opened(s, UBLK_F_BATCH_IO, FETCH, same))),
    ("auto-buffer.reserved", So(|s| opened(s, UBLK_F_AUTO_BUF_REG, FETCH, |sent| auto_buffer(sent, 1 << 32)))),
    ("auto-buffer.flags", So(|s| opened(s, UBLK_F_AUTO_BUF_REG, FETCH, |sent| auto_buffer(sent, 1 << 23)))),
    ("fetch.addr", So(|s| opened(s, 0, FETCH, |sent| address(sent, 0)))),
    ("fetch.addr-unused", So(|s| opened(s, UBLK_F_USER_COPY, FETCH, |sent| address(sent, 4096)))),
    ("fetch.stopping", PlantedFrom((7, 3), |s| stopped(s, 0, FETCH), "the rule is of Linux 7.3")),
    ("fetch.pending", So(fetched_twice)),
    ("fetch.twice", So(fetched_twice)),
    ("fetch.ready", So(|s| started(s, |s, server| s.plant(server, FETCH, same).of(TagState::Fetching, true)))),
    (
        "fetch.daemon",
        So(|s| {
            started(s, |s, server| elsewhere(s, golden_of(server, FETCH)).of(TagState::Fetching, true).not_daemon())
        }),
    ),
    ("io.never-fetched", So(|s| opened(s, 0, COMMIT, same))),
    (
        "io.daemon",
        So(|s| {
            holding(s, 0, false, |s, server| {
                elsewhere(s, golden_of(server, COMMIT)).of(TagState::Owned, true).not_daemon()
            })
        }),
    ),
    ("io.not-owned", So(|s| started(s, |s, server| s.plant(server, COMMIT, same).of(TagState::Fetching, true)))),
    (
        "io.wants-buffer",
        So(|s| {
            holding(s, UBLK_F_NEED_GET_DATA, true, |s, server| {
                s.plant(server, COMMIT, same).of(TagState::WantsBuffer, true)
            })
        }),
    ),
    (
        "need-get-data.unasked",
        So(|s| holding(s, 0, false, |s, server| s.plant(server, NEED_GET_DATA, same).of(TagState::Owned, true))),
    ),
    ("commit.addr", So(|s| committed(s, 0, 0))),
    ("commit.addr-of-read", So(|s| committed(s, UBLK_F_NEED_GET_DATA, 0))),
    ("commit.addr-unused", So(|s| committed(s, UBLK_F_USER_COPY, 4096))),
    ("register-buffer.feature", So(|s| opened(s, UBLK_F_USER_COPY, REGISTER, same))),
    ("register-buffer.request", So(|s| opened(s, UBLK_F_SUPPORT_ZERO_COPY, REGISTER, same))),
    ("register-buffer.data", So(registered_flush)),
    ("register-buffer.index", So(|s| registered(s, |sent, _| address(sent, RING_BUFFERS.into())))),
    (
        "register-buffer.occupied",
        So(|s| {
            registered(s, |sent, server| {
                server.accepts(REGISTER);
                sent.of_tag(0)
            })
        }),
    ),
    ("register-buffer.memory", Unreachable(NO_MEMORY)),
    ("unregister-buffer.feature", So(|s| opened(s, UBLK_F_USER_COPY, UNREGISTER, same))),
    (
        "unregister-buffer.index",
        So(|mut s| {
            let mut server = s.open(UBLK_F_SUPPORT_ZERO_COPY);
            s.plant(&mut server, UNREGISTER, same).knowing(|environment| environment.ring_buffers = Some(RING_BUFFERS))
        }),
    ),
    ("unregister-buffer.users", So(unregistered_users)),
    ("batch.elements", So(|s| opened(s, UBLK_F_BATCH_IO, PREP, |sent| sent.with(52, &(DEPTH + 1).to_ne_bytes())))),
    ("batch.zone-lba", So(|s| opened(s, UBLK_F_BATCH_IO, PREP, |sent| layout(sent, UBLK_BATCH_F_HAS_ZONE_LBA, 16)))),
    ("batch.buffer-address", So(|s| opened(s, UBLK_F_BATCH_IO | UBLK_F_USER_COPY, PREP, same))),
    (
        "batch.fallback",
        So(|s| opened(s, UBLK_F_BATCH_IO, PREP, |sent| layout(sent, UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK, 8))),
    ),
    ("batch.flags", So(|s| opened(s, UBLK_F_BATCH_IO, PREP, |sent| layout(sent, UBLK_BATCH_F_HAS_BUF_ADDR | 8, 16)))),
    (
        "batch.element-bytes",
        So(|s| opened(s, UBLK_F_BATCH_IO, PREP, |sent| layout(sent, UBLK_BATCH_F_HAS_BUF_ADDR, 8))),
    ),
    (
        "batch.address",
        So(|s| {
            let nothing = |environment: &mut ublk::diagnosis::Environment<'_>| environment.buffer = &[];
            opened(s, UBLK_F_BATCH_IO, PREP, |sent| sent.with(16, &4096_u64.to_ne_bytes())).knowing(nothing)
        }),
    ),
    ("batch.memory", Unreachable(NO_MEMORY)),
    ("batch.tag", So(|s| opened(s, UBLK_F_BATCH_IO, PREP, |sent| in_elements(sent, 16, &DEPTH.to_ne_bytes())))),
    ("batch.addr", So(|s| opened(s, UBLK_F_BATCH_IO, PREP, |sent| in_elements(sent, 24, &[0; 8])))),
    ("prep.stopping", PlantedFrom((7, 3), |s| stopped(s, UBLK_F_BATCH_IO, PREP), "the rule is of Linux 7.3")),
    ("prep.ready", So(|s| prepared(s, PREP))),
    (
        "prep.twice",
        So(|mut s| {
            let mut server = s.open(UBLK_F_BATCH_IO);
            let first = golden_of(&server, PREP).with(52, &1_u16.to_ne_bytes());
            server.push(&first, 1);
            assert_eq!(server.completion(PATIENCE).unwrap().result, 0);
            s.plant(&mut server, PREP, same).of(TagState::Fetching, false)
        }),
    ),
    ("commit-batch.not-owned", So(|s| prepared(s, COMMIT_BATCH))),
    // io_uring wants the buffers' flag without the multishot flag to be clear, or refuses the entry itself.
    (
        "fetch-batch.multishot",
        So(|s| opened(s, UBLK_F_BATCH_IO, FETCH_BATCH, |sent| sent.with(28, &[0; 4]).with(1, &[0]))),
    ),
    ("fetch-batch.element-bytes", So(|s| opened(s, UBLK_F_BATCH_IO, FETCH_BATCH, |sent| sent.with(54, &[8])))),
    ("fetch-batch.flags", So(|s| opened(s, UBLK_F_BATCH_IO, FETCH_BATCH, |sent| sent.with(50, &[1, 0])))),
    ("fetch-batch.quiesced", So(fetched_while_quiesced)),
    ("fetch-batch.buffers", So(fetched_without_buffers)),
    (
        "io.stopped",
        So(|mut s| {
            let mut server = s.open(0);
            s.start(&mut server);
            let stop = s.golden("UBLK_U_CMD_STOP_DEV");
            assert_eq!(s.control.send(&stop), 0);
            let ended = server.completion(PATIENCE).expect("the end of a fetch");
            let sent = build(FETCH, &server.run).of_tag(ended.user_data.try_into().unwrap());
            s.refused(sent, ended.result).of(TagState::Fetching, true)
        }),
    ),
];

fn same(sent: Built) -> Built {
    sent
}

fn auto_buffer(sent: Built, bits: u64) -> Built {
    let registration = u64::from(BUFFER_INDEX) | u64::from(UBLK_AUTO_BUF_REG_FALLBACK) << 16 | bits;
    address(sent, 0).with(16, &registration.to_ne_bytes())
}

fn address(sent: Built, address: u64) -> Built {
    sent.with(56, &address.to_ne_bytes())
}

fn layout(sent: Built, flags: u16, elem_bytes: u8) -> Built {
    sent.with(50, &flags.to_ne_bytes()).with(54, &[elem_bytes])
}

fn in_elements(mut sent: Built, at: usize, bytes: &[u8]) -> Built {
    sent.buffer[at..at + bytes.len()].copy_from_slice(bytes);
    sent
}

/// On a device of which nothing was fetched.
fn opened(mut s: Scene, features: u64, name: &str, change: impl FnOnce(Built) -> Built) -> Planted {
    let mut server = s.open(features);
    s.plant(&mut server, name, change).of(TagState::Idle, false)
}

/// On a live device whose tags wait for requests.
fn started(mut s: Scene, plant: impl FnOnce(&mut Scene, &mut Server) -> Planted) -> Planted {
    let mut server = s.open(0);
    s.start(&mut server);
    let planted = plant(&mut s, &mut server);
    s.stop(&mut server);
    server.end();
    planted
}

/// On a live device whose server has a request of each tag.
fn holding(
    mut s: Scene,
    features: u64,
    write: bool,
    plant: impl FnOnce(&mut Scene, &mut Server) -> Planted,
) -> Planted {
    let mut server = s.open(features);
    s.start(&mut server);
    let clients = server.hold(write);
    let planted = plant(&mut s, &mut server);
    if write {
        for tag in 0..DEPTH {
            server.stage(NEED_GET_DATA, tag, 0);
            assert_eq!(server.completion(PATIENCE).unwrap().result, 0);
        }
    }
    server.answer(clients);
    s.stop(&mut server);
    server.end();
    planted
}

fn elsewhere(s: &mut Scene, sent: Built) -> Planted {
    let sqe = sent.sqe.clone();
    let result = thread::spawn(move || alone(&sqe)).join().unwrap();
    s.refused(sent, result).knowing(|environment| environment.char_device_is_open = Some(true))
}

fn committed(s: Scene, features: u64, to: u64) -> Planted {
    holding(s, features, false, |s, server| s.plant(server, COMMIT, |sent| address(sent, to)).of(TagState::Owned, true))
}

fn fetched_twice(mut s: Scene) -> Planted {
    let mut server = s.open(0);
    let sent = golden_of(&server, FETCH);
    server.push(&sent, TAG.into());
    server.ring.submit().unwrap();
    s.plant(&mut server, FETCH, same).of(TagState::Fetching, false)
}

/// On a device that was stopped, with its server still there.
fn stopped(mut s: Scene, features: u64, name: &str) -> Planted {
    let mut server = s.open(features);
    if features & UBLK_F_BATCH_IO == 0 {
        s.start(&mut server);
        s.stop(&mut server);
        while !server.in_flight.is_empty() {
            server.serve(PATIENCE);
        }
    } else {
        let prep = golden_of(&server, PREP);
        server.push(&prep, 1);
        assert_eq!(server.completion(PATIENCE).unwrap().result, 0);
        for name in ["UBLK_U_CMD_START_DEV", "UBLK_U_CMD_STOP_DEV"] {
            let sent = s.golden(name);
            assert_eq!(s.control.send(&sent), 0);
        }
    }
    let stopped = |environment: &mut ublk::diagnosis::Environment<'_>| environment.was_stopped = Some(true);
    s.plant(&mut server, name, same).of(TagState::Idle, true).knowing(stopped)
}

/// On a live device whose requests can be registered, and whose server has one of each tag.
fn registered(s: Scene, change: impl FnOnce(Built, &mut Server) -> Built) -> Planted {
    holding(s, UBLK_F_SUPPORT_ZERO_COPY, false, |s, server| {
        let sent = change(golden_of(server, REGISTER), server);
        let planted = s.plant(server, REGISTER, |_| sent).of(TagState::Owned, true);
        // What is registered would keep its request from its end.
        server.push(&golden_of(server, UNREGISTER), 0);
        server.completion(PATIENCE).unwrap();
        planted.knowing(|environment| environment.ring_buffers = Some(RING_BUFFERS))
    })
}

/// The buffer of a FLUSH, which has none.
fn registered_flush(mut s: Scene) -> Planted {
    let mut server = s.open(UBLK_F_SUPPORT_ZERO_COPY);
    s.start(&mut server);
    server.serving = Serving::Hold;
    let client = thread::spawn(|| open_direct(ublk::DeviceId::new(crate::commands::ID)).sync_all().unwrap());
    let started = Instant::now();
    while server.held.is_empty() {
        assert!(started.elapsed() < PATIENCE);
        server.serve(PATIENCE);
    }
    server.serving = Serving::Answer;
    let (tag, _) = server.held[0];
    let planted = s.plant(&mut server, REGISTER, |sent| sent.of_tag(tag)).of(TagState::Owned, true);
    server.answer(vec![client]);
    s.stop(&mut server);
    server.end();
    planted.knowing(|environment| environment.ring_buffers = Some(RING_BUFFERS))
}

fn unregistered_users(mut s: Scene) -> Planted {
    s.add(UBLK_F_SUPPORT_ZERO_COPY);
    let mut server = Server::open(&s.control.accepted);
    // One `struct iovec`: address and length.
    let memory = [server.run.addresses[0], 4096];
    register(&server.ring, IORING_REGISTER_BUFFERS, &memory, 1);
    s.plant(&mut server, UNREGISTER, |sent| address(sent, 0)).knowing(|environment| environment.ring_buffers = Some(1))
}

/// On a device of which every tag was prepared.
fn prepared(mut s: Scene, name: &str) -> Planted {
    let mut server = s.open(UBLK_F_BATCH_IO);
    let prep = golden_of(&server, PREP);
    server.push(&prep, 1);
    assert_eq!(server.completion(PATIENCE).unwrap().result, 0);
    s.plant(&mut server, name, same).of(TagState::Fetching, true)
}

/// The driver lets a server go, which fetches on.
fn fetched_while_quiesced(mut s: Scene) -> Planted {
    let mut server = s.open(UBLK_F_BATCH_IO | UBLK_F_USER_RECOVERY | UBLK_F_QUIESCE);
    let prep = golden_of(&server, PREP);
    server.push(&prep, 1);
    assert_eq!(server.completion(PATIENCE).unwrap().result, 0);
    for name in ["UBLK_U_CMD_START_DEV", "UBLK_U_CMD_QUIESCE_DEV"] {
        let sent = s.golden(name);
        assert_eq!(s.control.send(&sent), 0);
    }
    s.plant(&mut server, FETCH_BATCH, same).of(TagState::Fetching, true)
}

/// Tags come while the group has no buffers; then it has some, and all ends well.
fn fetched_without_buffers(mut s: Scene) -> Planted {
    let mut server = s.open(UBLK_F_BATCH_IO);
    let fetch = golden_of(&server, FETCH_BATCH);
    let prep = golden_of(&server, PREP);
    server.push(&prep, 1);
    assert_eq!(server.completion(PATIENCE).unwrap().result, 0);
    server.push(&fetch, 2);
    server.ring.submit().unwrap();
    let start = s.golden("UBLK_U_CMD_START_DEV");
    assert_eq!(s.control.send(&start), 0);
    let clients = clients(false);
    let completion = server.completion(PATIENCE).expect("the fetch that has no buffer");
    let planted = s.refused(fetch.clone(), completion.result).of(TagState::Owned, true);
    provide(&server.ring, leaked_buffers()[0], leaked_buffers()[0]);
    server.push(&fetch, 2);
    server.take_tags();
    server.commit_batch(clients);
    let stop = s.golden("UBLK_U_CMD_STOP_DEV");
    assert_eq!(s.control.send(&stop), 0);
    planted
}
