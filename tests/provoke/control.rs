// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the rules of control commands are broken, but for parameters.

use core::time::Duration;
use std::fs::OpenOptions;
use std::thread;
use std::time::Instant;

use ublk::diagnosis::Environment;
use ublk::ring::WideOp;
use ublk::{Command, DeviceId, Error};
use ublk_sys::{
    IORING_OP_ASYNC_CANCEL, UBLK_F_INTEGRITY, UBLK_F_IO_DESC_SIZE, UBLK_F_QUIESCE, UBLK_F_SHMEM_ZC,
    UBLK_F_UNPRIVILEGED_DEV, UBLK_F_USER_COPY, UBLK_F_USER_RECOVERY, UBLK_F_USER_RECOVERY_REISSUE, UBLK_F_ZONED,
    UBLK_PARAM_TYPE_BASIC, UBLK_PARAM_TYPE_ZONED,
};

use super::machine::{Setting, drop_capabilities, nobody};
use super::scene::{Edit, Planted, Refused, Scene, answer_to};
use super::table::How::{Planted as So, PlantedBefore, PlantedFrom, Unreachable};
use super::table::Row;
use crate::commands::{Built, ID, PATH, Run};
use crate::harness::open_direct;
use crate::sender::{Control, PATIENCE, Server, entry, leaked_buffers};

const ADD: &str = "UBLK_U_CMD_ADD_DEV";
const INFO: &str = "UBLK_U_CMD_GET_DEV_INFO";
const INFO2: &str = "UBLK_U_CMD_GET_DEV_INFO2";
const FEATURES: &str = "UBLK_U_CMD_GET_FEATURES";
const AFFINITY: &str = "UBLK_U_CMD_GET_QUEUE_AFFINITY";
const START: &str = "UBLK_U_CMD_START_DEV";
const STOP: &str = "UBLK_U_CMD_STOP_DEV";
const TRY_STOP: &str = "UBLK_U_CMD_TRY_STOP_DEV";
const DEL: &str = "UBLK_U_CMD_DEL_DEV";
const DEL_ASYNC: &str = "UBLK_U_CMD_DEL_DEV_ASYNC";
const RESIZE: &str = "UBLK_U_CMD_UPDATE_SIZE";
const START_RECOVERY: &str = "UBLK_U_CMD_START_USER_RECOVERY";
const END_RECOVERY: &str = "UBLK_U_CMD_END_USER_RECOVERY";
const QUIESCE: &str = "UBLK_U_CMD_QUIESCE_DEV";
const REG_BUF: &str = "UBLK_U_CMD_REG_BUF";
const UNREG_BUF: &str = "UBLK_U_CMD_UNREG_BUF";

const NO_MEMORY: &str = "the kernel would have to run out of memory";
const KILLED: &str = "the process would have to be killed while it waits, and nobody is left to see the answer";
/// So long no answer is waited for where none is expected.
const SHORT: Duration = Duration::from_millis(200);
/// An address of which nothing is mapped.
const NOWHERE: u64 = 4096;
/// Where the features stand in what ADD_DEV points to.
const FLAGS: usize = 24;

pub const ROWS: &[Row] = &[
    ("device.none", So(|s| alone(s, INFO, same))),
    (
        "right.cap-sys-admin",
        So(|mut s| {
            s.add(0);
            let sent = s.golden(INFO);
            s.send_as(drop_capabilities, sent)
        }),
    ),
    ("right.not-for-unprivileged", So(|s| of_unprivileged(s, DEL_ASYNC, |sent| sent.with_path(PATH)))),
    ("right.path-len", So(|s| of_unprivileged(s, INFO, same))),
    ("right.path-in-len", So(|s| added(s, INFO2, |sent| sent.len(10)))),
    ("right.path-address", So(|s| added(s, INFO2, |sent| sent.addr(NOWHERE)).knowing(nothing_of_the_buffer))),
    ("right.path-missing", So(|s| added(s, INFO, |sent| sent.with(8, &[0x12]).with_path("/dev/ublkc4661")))),
    ("right.path-of-another", So(|s| added(s, INFO, |sent| sent.with(8, &[0x12]).with_path("/dev/null")))),
    (
        "right.path-forbidden",
        So(|mut s| {
            add_unprivileged(&mut s);
            let sent = s.golden(INFO).with_path(PATH);
            s.send_as(nobody, sent)
        }),
    ),
    ("command.unknown", So(|s| added(s, INFO, |sent| sent.with(8, &[0x1f])))),
    ("command.too-new", PlantedBefore((7, 1), |s| added(s, UNREG_BUF, same), "Linux 7.1 and later have every command")),
    ("get-features.before-6-5", Unreachable("no kernel so old has a driver in the archive")),
    ("get-features.len", So(|s| alone(s, FEATURES, |sent| sent.len(4)))),
    ("get-features.addr", So(|s| alone(s, FEATURES, |sent| sent.addr(0)))),
    ("get-features.address", So(|s| alone(s, FEATURES, |sent| sent.addr(NOWHERE)).knowing(nothing_of_the_buffer))),
    ("add-dev.len", So(|s| alone(s, ADD, |sent| sent.len(63)))),
    ("add-dev.addr", So(|s| alone(s, ADD, |sent| sent.addr(0)).knowing(nothing_of_the_buffer))),
    ("add-dev.queue-id", So(|s| alone(s, ADD, |sent| sent.with(52, &[0; 2])))),
    ("add-dev.address", So(|s| alone(s, ADD, |sent| sent.addr(NOWHERE)).knowing(nothing_of_the_buffer))),
    ("add-dev.queue-depth", So(|s| alone(s, ADD, |sent| sent.in_buffer(2, &4097_u16.to_ne_bytes())))),
    ("add-dev.queues", So(|s| alone(s, ADD, |sent| sent.in_buffer(0, &[0; 2])))),
    (
        "add-dev.cap-sys-admin",
        So(|mut s| {
            let sent = s.golden(ADD);
            s.send_as(drop_capabilities, sent)
        }),
    ),
    ("add-dev.recovery", So(|s| with_features(s, UBLK_F_USER_RECOVERY_REISSUE))),
    ("add-dev.quiesce", So(|s| with_features(s, UBLK_F_QUIESCE))),
    (
        "add-dev.unprivileged-data",
        So(|mut s| {
            let sent = asking(&s, UBLK_F_UNPRIVILEGED_DEV | UBLK_F_USER_COPY);
            s.send_as(drop_capabilities, sent)
        }),
    ),
    ("add-dev.integrity", So(|s| with_features(s, UBLK_F_INTEGRITY))),
    (
        "add-dev.io-desc-size",
        So(|mut s| {
            let sent = asking(&s, UBLK_F_IO_DESC_SIZE).in_buffer(6, &25_u16.to_ne_bytes());
            s.send(sent)
        }),
    ),
    ("add-dev.id-differs", So(|s| alone(s, ADD, |sent| sent.in_buffer(12, &(ID + 1).to_ne_bytes())))),
    (
        "add-dev.id-range",
        So(|s| alone(s, ADD, |sent| sent.dev_id(1 << 20).in_buffer(12, &(1_u32 << 20).to_ne_bytes()))),
    ),
    ("add-dev.killed", Unreachable(KILLED)),
    (
        "add-dev.ublks-max",
        So(|mut s| {
            let _none = Setting::put("/sys/module/ublk_drv/parameters/ublks_max", "0");
            let sent = asking(&s, UBLK_F_UNPRIVILEGED_DEV);
            s.send_as(drop_capabilities, sent).knowing(|environment| environment.unprivileged_devices = Some(0))
        }),
    ),
    ("add-dev.id-taken", So(|s| added(s, ADD, same))),
    ("add-dev.no-id", Unreachable("every one of 1048576 ids would have to be taken")),
    ("add-dev.zoned", So(|s| with_features(s, UBLK_F_ZONED))),
    ("add-dev.memory", Unreachable(NO_MEMORY)),
    ("add-dev.unknown-features", So(|s| with_features(s, 1 << 40))),
    (
        "add-dev.dropped-features",
        PlantedBefore((7, 3), |s| with_features(s, UBLK_F_IO_DESC_SIZE), "the newest kernel has every feature"),
    ),
    (
        "add-dev.max-io",
        So(|mut s| {
            let sent = asking(&s, 0).in_buffer(8, &[0; 4]);
            s.send(sent)
        }),
    ),
    (
        "add-dev.max-io-offset",
        So(|mut s| {
            let sent = asking(&s, UBLK_F_USER_COPY).in_buffer(8, &(64_u32 << 20).to_ne_bytes());
            s.send(sent)
        }),
    ),
    ("get-dev-info.len", So(|s| added(s, INFO, |sent| sent.len(63)))),
    ("get-dev-info.addr", So(|s| added(s, INFO, |sent| sent.addr(0)))),
    ("get-dev-info.address", So(|s| added(s, INFO, |sent| sent.addr(NOWHERE)).knowing(nothing_of_the_buffer))),
    ("get-dev-info2.len", So(|s| added(s, INFO2, |sent| sent.len(63)))),
    ("get-queue-affinity.len", So(|s| added(s, AFFINITY, |sent| sent.len(7)))),
    ("get-queue-affinity.addr", So(|s| added(s, AFFINITY, |sent| sent.addr(0)))),
    ("get-queue-affinity.queue", So(|s| added(s, AFFINITY, |sent| sent.data(1)))),
    (
        "get-queue-affinity.address",
        So(|s| added(s, AFFINITY, |sent| sent.addr(NOWHERE)).knowing(nothing_of_the_buffer)),
    ),
    ("start-dev.data", So(|s| added(s, START, |sent| sent.data(0)))),
    (
        "start-dev.no-params",
        So(|mut s| {
            s.add_bare(0);
            let sent = s.golden(START);
            s.send(sent)
        }),
    ),
    (
        "start-dev.interrupted",
        So(|mut s| {
            s.add(0);
            interrupted(s, START)
        }),
    ),
    ("start-dev.process", So(|s| fetched(s, 0, START, |sent| sent.data(1)).knowing(served_by_us))),
    (
        "start-dev.unfetched",
        So(|mut s| {
            s.add(0);
            unfetched(s, START, Command::START_DEV)
        }),
    ),
    (
        "start-dev.unserved",
        So(|mut s| {
            let mut server = s.open(0);
            server.fetch();
            let planted = unanswered(&mut s, START, Command::START_DEV).knowing(served_by_us);
            while s.control.ring.next_completion().is_none() {
                server.serve(SHORT);
                s.control.ring.submit().unwrap();
            }
            s.stop(&mut server);
            server.end();
            planted
        }),
    ),
    ("stop-dev.held", So(|s| held(s, STOP, Command::STOP_DEV))),
    ("del-dev.held", So(|s| held(s, DEL, Command::DEL_DEV))),
    (
        "del-dev-async.held",
        So(|s| {
            let planted = held(s, DEL_ASYNC, Command::DEL_DEV_ASYNC);
            Scene::new().wait_until_id_is_free();
            planted
        }),
    ),
    (
        "del-dev.file-held",
        So(|mut s| {
            let server = s.open(0);
            let planted = unanswered(&mut s, DEL, Command::DEL_DEV);
            drop(server);
            answered(&mut s);
            planted.knowing(|environment| environment.char_device_is_open = Some(true))
        }),
    ),
    ("add-dev.driver-busy", So(driver_busy)),
    (
        "end-recovery.unfetched",
        So(|mut s| {
            s.add(UBLK_F_USER_RECOVERY);
            unfetched(s, END_RECOVERY, Command::END_USER_RECOVERY)
        }),
    ),
    ("start-dev.live", So(|s| live(s, 0, |s, _| again(s, START)).knowing(served_by_us))),
    (
        "start-dev.disk-held",
        PlantedFrom(
            (7, 3),
            started_while_held,
            "the kernel hangs for good where a stopped device is fetched and started again",
        ),
    ),
    (
        "start-dev.stopping",
        So(|mut s| {
            let mut server = s.open(0);
            s.start(&mut server);
            s.stop(&mut server);
            again(&mut s, START).knowing(|environment| environment.was_stopped = Some(true))
        }),
    ),
    (
        "start-dev.limits",
        So(|mut s| {
            s.add_bare(UBLK_F_ZONED | UBLK_F_USER_COPY);
            // 2 zones that are open, of which 1 may be active.
            let types = UBLK_PARAM_TYPE_BASIC | UBLK_PARAM_TYPE_ZONED;
            let zoned = s.golden("UBLK_U_CMD_SET_PARAMS").in_buffer(4, &types.to_ne_bytes());
            let zoned = zoned.in_buffer(20, &0x1000_u32.to_ne_bytes()).in_buffer(76, &2_u32.to_ne_bytes());
            let zoned = zoned.in_buffer(80, &1_u32.to_ne_bytes()).in_buffer(84, &8_u32.to_ne_bytes());
            assert_eq!(s.control.send(&zoned), 0);
            let mut server = Server::open(&s.control.accepted);
            server.without_buffers = true;
            server.fetch();
            let planted = again(&mut s, START).knowing(served_by_us);
            drop(server);
            planted
        }),
    ),
    ("try-stop-dev.no-disk", So(|s| added(s, TRY_STOP, same))),
    (
        "try-stop-dev.open",
        So(|s| {
            live(s, 0, |s, _| {
                let _client = open_direct(DeviceId::new(ID));
                again(s, TRY_STOP).knowing(|environment| environment.block_device_is_open = Some(true))
            })
        }),
    ),
    ("del-dev.interrupted", Unreachable(KILLED)),
    (
        "update-size.no-disk",
        PlantedFrom(
            (7, 0),
            |s| added(s, RESIZE, same),
            "Linux 6.16 to 6.19 may have the bug by which this crashes them",
        ),
    ),
    ("start-recovery.feature", So(|s| added(s, START_RECOVERY, same))),
    (
        "start-recovery.server",
        So(|s| {
            live(s, UBLK_F_USER_RECOVERY, |s, _| {
                again(s, START_RECOVERY).knowing(|environment| environment.char_device_is_open = Some(true))
            })
        }),
    ),
    (
        "start-recovery.state",
        So(|mut s| {
            let mut server = s.open(UBLK_F_USER_RECOVERY);
            s.start(&mut server);
            s.stop(&mut server);
            server.end();
            s.wait_until_released();
            again(&mut s, START_RECOVERY).knowing(|environment| environment.char_device_is_open = Some(false))
        }),
    ),
    (
        "end-recovery.interrupted",
        So(|mut s| {
            s.add(UBLK_F_USER_RECOVERY);
            interrupted(s, END_RECOVERY)
        }),
    ),
    (
        "end-recovery.process",
        So(|s| fetched(s, UBLK_F_USER_RECOVERY, END_RECOVERY, |sent| sent.data(1)).knowing(served_by_us)),
    ),
    ("end-recovery.feature", So(|s| live(s, 0, |s, _| again(s, END_RECOVERY)).knowing(served_by_us))),
    ("end-recovery.state", So(|s| live(s, UBLK_F_USER_RECOVERY, |s, _| again(s, END_RECOVERY)).knowing(served_by_us))),
    ("quiesce-dev.feature", So(|s| added(s, QUIESCE, same))),
    (
        "quiesce-dev.no-disk",
        So(|mut s| {
            s.add(UBLK_F_QUIESCE | UBLK_F_USER_RECOVERY);
            again(&mut s, QUIESCE)
        }),
    ),
    ("quiesce-dev.time-out", Unreachable("the driver counts no request that it would have to wait for")),
    ("quiesce-dev.interrupted", Unreachable("the driver counts no request that it would have to wait for")),
    ("reg-buf.feature", So(|s| added(s, REG_BUF, same))),
    ("reg-buf.address", So(|s| shared(s, |sent| sent.in_buffer(0, &NOWHERE.to_ne_bytes())))),
    ("reg-buf.flags", So(|s| shared(s, |sent| sent.in_buffer(16, &8_u32.to_ne_bytes())))),
    ("reg-buf.range", So(|s| shared(s, |sent| sent.in_buffer(8, &100_u64.to_ne_bytes())))),
    (
        "reg-buf.registered",
        So(|mut s| {
            s.add(UBLK_F_SHMEM_ZC);
            let sent = s.control.build(REG_BUF, Run { addresses: leaked_buffers(), ..Run::default() });
            assert_eq!(s.control.send(&sent), 0);
            s.send(sent)
        }),
    ),
    (
        "reg-buf.full",
        Unreachable("the device would have to get 65536 registrations, each of which stops its requests for a moment"),
    ),
    ("reg-buf.memory", Unreachable(NO_MEMORY)),
    ("unreg-buf.feature", So(|s| added(s, UNREG_BUF, same))),
    (
        "unreg-buf.index",
        So(|mut s| {
            s.add(UBLK_F_SHMEM_ZC);
            let sent = s.golden(UNREG_BUF).data(1 << 16);
            s.send(sent)
        }),
    ),
    (
        "unreg-buf.unknown",
        So(|mut s| {
            s.add(UBLK_F_SHMEM_ZC);
            again(&mut s, UNREG_BUF)
        }),
    ),
];

fn same(sent: Built) -> Built {
    sent
}

fn nothing_of_the_buffer(environment: &mut Environment<'_>) {
    environment.buffer = &[];
}

fn served_by_us(environment: &mut Environment<'_>) {
    environment.server_process = Some(std::process::id());
    environment.char_device_is_open = Some(true);
    environment.queues_are_ready = Some(true);
}

/// Where there is no device.
fn alone(mut s: Scene, name: &str, change: impl FnOnce(Built) -> Built) -> Planted {
    let sent = change(s.golden(name));
    s.send(sent)
}

/// On a device that has its parameters, and no server.
fn added(mut s: Scene, name: &str, change: impl FnOnce(Built) -> Built) -> Planted {
    s.add(0);
    alone(s, name, change)
}

/// On a live device.
fn live(mut s: Scene, features: u64, plant: impl FnOnce(&mut Scene, &mut Server) -> Planted) -> Planted {
    let mut server = s.open(features);
    s.start(&mut server);
    let planted = plant(&mut s, &mut server);
    s.stop(&mut server);
    server.end();
    planted
}

/// On a device whose tags are all fetched.
fn fetched(mut s: Scene, features: u64, name: &str, change: impl FnOnce(Built) -> Built) -> Planted {
    let mut server = s.open(features);
    server.fetch();
    let sent = change(s.golden(name));
    s.send(sent)
}

/// The golden as it is.
fn again(s: &mut Scene, name: &str) -> Planted {
    let sent = s.golden(name);
    s.send(sent)
}

/// ADD_DEV of these features, and no other.
fn asking(s: &Scene, features: u64) -> Built {
    s.golden(ADD).in_buffer(FLAGS, &features.to_ne_bytes())
}

fn with_features(mut s: Scene, features: u64) -> Planted {
    let sent = asking(&s, features);
    s.send(sent)
}

fn add_unprivileged(s: &mut Scene) {
    let sent = asking(s, UBLK_F_UNPRIVILEGED_DEV);
    assert_eq!(answer_to(drop_capabilities, &sent), 0);
}

fn of_unprivileged(mut s: Scene, name: &str, change: impl FnOnce(Built) -> Built) -> Planted {
    add_unprivileged(&mut s);
    alone(s, name, change)
}

fn shared(mut s: Scene, change: impl FnOnce(Built) -> Built) -> Planted {
    s.add(UBLK_F_SHMEM_ZC);
    let sent = change(s.control.build(REG_BUF, Run { addresses: leaked_buffers(), ..Run::default() }));
    s.send(sent)
}

/// A command that waits for tags which nobody fetches, and is cancelled.
fn interrupted(mut s: Scene, name: &str) -> Planted {
    let sent = s.golden(name);
    let started = Instant::now();
    loop {
        assert!(started.elapsed() < PATIENCE);
        s.control.begin(&sent);
        // The kernel's worker has to have got so far that it waits, or nothing is interrupted.
        s.control.ring.submit_and_wait(Some(SHORT)).unwrap();
        let result = cancelled(&mut s);
        if result != -libc::ECANCELED {
            return s.refused(sent, result);
        }
    }
}

/// Cancels the command under way; what it is answered then.
fn cancelled(s: &mut Scene) -> i32 {
    let mut cancel = vec![0; 128];
    cancel[0] = IORING_OP_ASYNC_CANCEL;
    cancel[4..8].fill(0xff);
    // The user data of what is cancelled.
    cancel[16..24].copy_from_slice(&1_u64.to_ne_bytes());
    s.control.ring.push(entry::<WideOp>(&cancel), 2).unwrap();
    let mut answers = [None; 2];
    while answers.contains(&None) {
        s.control.ring.submit_and_wait(Some(PATIENCE)).unwrap();
        while let Some(completion) = s.control.ring.next_completion() {
            answers[usize::from(completion.user_data == 2)] = Some(completion.result);
        }
    }
    answers[0].unwrap()
}

/// A command to which no answer comes.
fn unanswered(s: &mut Scene, name: &str, command: Command) -> Planted {
    // The driver may tell nothing of the device while it waits.
    let environment = s.environment();
    let sent = s.golden(name);
    s.control.begin(&sent);
    s.control.ring.submit_and_wait(Some(SHORT)).unwrap();
    let completion = s.control.ring.next_completion();
    assert!(completion.is_none(), "{name}: {completion:?}");
    let error = Error::TimedOut { command, device: Some(DeviceId::new(ID)), waited: SHORT };
    Planted { refused: Refused::Error(error), environment }
}

fn answered(s: &mut Scene) {
    s.control.ring.submit_and_wait(Some(PATIENCE)).unwrap();
    assert_eq!(s.control.ring.next_completion().expect("an answer").result, 0);
}

fn unfetched(mut s: Scene, name: &str, command: Command) -> Planted {
    let planted = unanswered(&mut s, name, command);
    cancelled(&mut s);
    planted.knowing(|environment| environment.queues_are_ready = Some(false))
}

/// The server has requests that it does not answer.
fn held(mut s: Scene, name: &str, command: Command) -> Planted {
    let mut server = s.open(0);
    s.start(&mut server);
    let clients = server.hold(false);
    let planted = unanswered(&mut s, name, command);
    server.answer(clients);
    server.end();
    answered(&mut s);
    planted
}

/// The driver deletes a device whose server has requests that it does not answer.
fn driver_busy(mut s: Scene) -> Planted {
    let mut server = s.open(0);
    s.start(&mut server);
    let clients = server.hold(false);
    unanswered(&mut s, DEL, Command::DEL_DEV);
    let mut other = Control::open(&s.control.accepted);
    let another = |sent: Built| sent.dev_id(ID + 1);
    let add = another(other.build(ADD, Run::default())).in_buffer(12, &(ID + 1).to_ne_bytes());
    other.begin(&add);
    other.ring.submit_and_wait(Some(SHORT)).unwrap();
    assert!(other.ring.next_completion().is_none());
    server.answer(clients);
    server.end();
    answered(&mut s);
    other.ring.submit_and_wait(Some(PATIENCE)).unwrap();
    assert_eq!(other.ring.next_completion().expect("an answer").result, 0);
    let delete = another(other.build(DEL, Run::default()));
    assert_eq!(other.send(&delete), 0);
    let error = Error::TimedOut { command: Command::ADD_DEV, device: None, waited: SHORT };
    s.failed::<()>(Err(error))
}

/// A client keeps the disk of before the stop open.
fn started_while_held(mut s: Scene) -> Planted {
    let mut server = s.open(0);
    s.start(&mut server);
    let client = open_direct(DeviceId::new(ID));
    s.stop(&mut server);
    server.end();
    s.wait_until_released();
    let mut server = Server::open(&s.control.accepted);
    server.fetch();
    let planted = again(&mut s, START).knowing(served_by_us);
    drop(server);
    drop(client);
    planted.knowing(|environment| environment.block_device_is_open = Some(true))
}

impl Scene {
    /// Waits until the device that is being deleted has given its id back, and takes it.
    fn wait_until_id_is_free(&mut self) {
        let started = Instant::now();
        let sent = self.golden(ADD);
        loop {
            match self.control.send(&sent) {
                0 => return,
                busy => assert!(busy == -libc::EEXIST && started.elapsed() < PATIENCE, "{busy}"),
            }
            thread::yield_now();
        }
    }

    /// Waits until nobody has the char device open.
    fn wait_until_released(&mut self) {
        let started = Instant::now();
        while let Err(error) = OpenOptions::new().read(true).write(true).open(PATH) {
            assert!(started.elapsed() < PATIENCE, "{error}");
            thread::yield_now();
        }
    }
}
