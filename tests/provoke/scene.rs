// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a refusal is planted in: the golden commands, a device in some state, and what an honest look at the machine tells.

use core::ffi::CStr;
use std::fs;
use std::path::Path;
use std::thread;

use ublk::diagnosis::{Environment, Node, TagState};
use ublk::ring::{Local, Op, Ring, WideOp};
use ublk::{DeviceId, Error, Features};
use ublk_sys::{
    IORING_REGISTER_BUFFERS2, IORING_RSRC_REGISTER_SPARSE, UBLK_F_AUTO_BUF_REG, UBLK_F_NO_AUTO_PART_SCAN,
    UBLK_F_SUPPORT_ZERO_COPY, UBLK_F_USER_COPY, io_uring_rsrc_register,
};

use crate::commands::{Built, ID, PATH, Run, build};
use crate::sender::{Accepted, Control, PATIENCE, Server, entry, register};

/// What was refused.
#[derive(Debug)]
pub enum Refused {
    /// An entry, with what the kernel answered: below 0, or for what it takes although it is wrong not.
    Entry(Vec<u8>, i32),
    /// What came as an error, of this crate or of a system call.
    Error(Error),
}

/// A refusal, and what was so when it was given.
#[derive(Debug)]
pub struct Planted {
    pub refused: Refused,
    pub environment: Environment<'static>,
}

/// Where a cause is planted. Each has a thread and a device id to itself.
pub struct Scene {
    pub control: Control,
    prober: ublk::Control,
    pub kernel: (u16, u16),
    pub features: u64,
}

const CHAR_DEVICE: &CStr = c"/dev/ublkc4660";

/// Entries of the table of buffers of a ring that has one.
pub const RING_BUFFERS: u32 = 16;

/// User data of a command that is to be refused.
const PLANTED: u64 = 1 << 32;

impl Scene {
    pub fn new() -> Scene {
        let mut control = Control::open(&Accepted::default());
        let asked = control.build("UBLK_U_CMD_GET_FEATURES", Run::default());
        assert_eq!(control.send(&asked), 0);
        Scene {
            control,
            prober: ublk::Control::open().unwrap(),
            kernel: kernel(),
            features: u64::from_ne_bytes(asked.buffer.try_into().unwrap()),
        }
    }

    /// The golden of a control command.
    pub fn golden(&self, name: &str) -> Built {
        self.control.build(name, Run::default())
    }

    /// Sends a control command, and looks about.
    pub fn send(&mut self, sent: Built) -> Planted {
        // What the driver answers may be in the buffer afterwards.
        let before = sent.buffer.clone();
        let result = self.control.send(&sent);
        self.refused(sent, result).knowing(|environment| environment.buffer = before.leak())
    }

    /// The same, from a thread of its own that may do less.
    pub fn send_as(&mut self, become_less: impl FnOnce() + Send, sent: Built) -> Planted {
        let result = answer_to(become_less, &sent);
        let mut planted = self.refused(sent, result);
        planted.environment.cap_sys_admin = Some(false);
        planted.environment.cap_ipc_lock = Some(false);
        planted
    }

    /// The refusal of an entry, in what is so now.
    pub fn refused(&mut self, sent: Built, result: i32) -> Planted {
        let mut environment = self.environment();
        environment.buffer = sent.buffer.leak();
        Planted { refused: Refused::Entry(sent.sqe, result), environment }
    }

    /// The failure of something that is no command.
    pub fn failed<T>(&mut self, tried: Result<T, Error>) -> Planted {
        Planted { refused: Refused::Error(tried.map(drop).expect_err("a refusal")), environment: self.environment() }
    }

    /// What somebody who may look at everything finds out about the machine and the device.
    pub fn environment(&mut self) -> Environment<'static> {
        let mut environment = Environment::default();
        environment.kernel = Some(self.kernel);
        environment.offered = Some(Features::from_bits(self.features));
        let in_flight = fs::read_to_string(format!("/sys/block/ublkb{ID}/inflight")).unwrap_or_default();
        environment.requests_are_held = Some(in_flight.split_whitespace().any(|count| count != "0"));
        let id = DeviceId::new(ID);
        // An unprivileged device wants to be asked with its path.
        environment.device = self.prober.info(id).or_else(|_| self.prober.info_at(id, CHAR_DEVICE)).ok();
        environment.device_exists = Some(environment.device.is_some());
        environment.char_node = Some(if Path::new(PATH).exists() { Node::Usable } else { Node::Missing });
        environment.control_node = Some(Node::Usable);
        environment.entries_are_wide = Some(true);
        environment.fd_is_ublk = Some(true);
        environment.ring_polls = Some(false);
        environment.ring_is_restricted = Some(false);
        environment.cap_sys_admin = Some(true);
        environment.cap_ipc_lock = Some(true);
        environment.io_uring_disabled = number("/proc/sys/kernel/io_uring_disabled");
        environment.in_io_uring_group = Some(false);
        environment.seccomp_filter = Some(false);
        environment.io_uring_built = Some(true);
        environment.driver_built = Some(true);
        environment.driver_loaded = Some(true);
        environment.legacy_opcodes = Some(true);
        environment.zoned_built = Some(true);
        environment.unprivileged_devices_max = number("/sys/module/ublk_drv/parameters/ublks_max");
        environment.page_bytes = Some(4096);
        environment.params_types = self.prober.params(id).ok().map(|params| params.as_raw().types);
        environment
    }

    /// Adds the device with features, and sets its parameters.
    pub fn add(&mut self, features: u64) {
        self.control.add(features | UBLK_F_NO_AUTO_PART_SCAN & self.features);
    }

    /// Adds it with these features and no other, and sets no parameters.
    pub fn add_bare(&mut self, features: u64) {
        let sent = self.golden("UBLK_U_CMD_ADD_DEV").in_buffer(24, &features.to_ne_bytes());
        assert_eq!(self.control.send(&sent), 0);
    }

    /// Deletes the device, if there is one.
    pub fn clear(&mut self) {
        // An unprivileged device wants the path, and others do not look at it.
        let sent = self.golden("UBLK_U_CMD_DEL_DEV").with_path(PATH);
        let result = self.control.send(&sent);
        assert!(result == 0 || result == -libc::ENODEV, "DEL_DEV: {result}");
    }

    /// Adds it, and has a server that has fetched nothing, with a table of buffers in its ring where the features want one.
    pub fn open(&mut self, features: u64) -> Server {
        self.add(features);
        let mut server = Server::open(&self.control.accepted);
        server.without_buffers = features & (UBLK_F_USER_COPY | UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_AUTO_BUF_REG) != 0;
        if features & UBLK_F_SUPPORT_ZERO_COPY != 0 {
            let mut table = io_uring_rsrc_register::default();
            (table.nr, table.flags) = (RING_BUFFERS, IORING_RSRC_REGISTER_SPARSE);
            register(&server.ring, IORING_REGISTER_BUFFERS2, &table, size_of_val(&table));
        }
        server
    }

    /// Fetches every tag and starts the device.
    pub fn start(&mut self, server: &mut Server) {
        server.fetch();
        self.control.accepts_while("UBLK_U_CMD_START_DEV", server);
    }

    /// Stops it with its server, which has to have answered every request.
    pub fn stop(&mut self, server: &mut Server) {
        self.control.accepts_while("UBLK_U_CMD_STOP_DEV", server);
    }

    /// Sends the golden of an I/O command, changed, on the server's ring, and looks about.
    pub fn plant(&mut self, server: &mut Server, name: &str, change: impl FnOnce(Built) -> Built) -> Planted {
        let sent = change(golden_of(server, name));
        server.push(&sent, PLANTED);
        let completion = server.completion(PATIENCE).expect("an answer");
        assert_eq!(completion.user_data, PLANTED, "{completion:?}");
        let mut planted = self.refused(sent, completion.result);
        planted.environment.char_device_is_open = Some(true);
        planted
    }
}

/// Changes of a command.
pub trait Edit {
    fn dev_id(self, id: u32) -> Self;
    fn len(self, len: u16) -> Self;
    fn addr(self, addr: u64) -> Self;
    fn data(self, data: u64) -> Self;
    fn path_len(self, len: u16) -> Self;
    /// Changes what the command points to.
    fn in_buffer(self, at: usize, bytes: &[u8]) -> Self;
    /// Points to something else.
    fn points_to(self, buffer: Vec<u8>) -> Self;
    /// Puts a path in front of the buffer, as commands to unprivileged devices have it.
    fn with_path(self, path: &str) -> Self;
}

impl Edit for Built {
    fn dev_id(self, id: u32) -> Built {
        self.with(48, &id.to_ne_bytes())
    }

    fn len(self, len: u16) -> Built {
        self.with(54, &len.to_ne_bytes())
    }

    fn addr(self, addr: u64) -> Built {
        self.with(56, &addr.to_ne_bytes())
    }

    fn data(self, data: u64) -> Built {
        self.with(64, &data.to_ne_bytes())
    }

    fn path_len(self, len: u16) -> Built {
        self.with(72, &len.to_ne_bytes())
    }

    fn in_buffer(mut self, at: usize, bytes: &[u8]) -> Built {
        // In place: its address stands in the command.
        self.buffer[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn points_to(mut self, buffer: Vec<u8>) -> Built {
        self.buffer = buffer;
        let address = self.buffer.as_ptr().addr().try_into().unwrap();
        let len = self.buffer.len().try_into().unwrap();
        self.addr(address).len(len)
    }

    fn with_path(self, path: &str) -> Built {
        let with_path = [path.as_bytes(), &[0], &self.buffer].concat();
        self.points_to(with_path).path_len((path.len() + 1).try_into().unwrap())
    }
}

impl Planted {
    pub fn knowing(mut self, tell: impl FnOnce(&mut Environment<'static>)) -> Planted {
        tell(&mut self.environment);
        self
    }

    /// What the server itself knows.
    pub fn of(mut self, tag: TagState, queues_are_ready: bool) -> Planted {
        self.environment.tag = Some(tag);
        self.environment.queues_are_ready = Some(queues_are_ready);
        self.environment.is_daemon = Some(tag != TagState::Idle);
        self
    }

    pub fn not_daemon(self) -> Planted {
        self.knowing(|environment| environment.is_daemon = Some(false))
    }
}

/// The golden of an I/O command, for the server's tag.
pub fn golden_of(server: &Server, name: &str) -> Built {
    let sent = build(name, &server.run);
    if server.without_buffers && !name.ends_with("REGISTER_IO_BUF") { sent.with(56, &[0; 8]) } else { sent }
}

/// Sends a command from a thread of its own that may do less; what the kernel answers.
pub fn answer_to(become_less: impl FnOnce() + Send, sent: &Built) -> i32 {
    thread::scope(|scope| {
        let send = || {
            become_less();
            alone(&sent.sqe)
        };
        scope.spawn(send).join().unwrap()
    })
}

/// Sends an entry on a ring of this thread's own; what the kernel answers.
pub fn alone(sqe: &[u8]) -> i32 {
    if sqe.len() == 128 {
        let mut ring = Ring::wide(4, 4).unwrap();
        ring.push(entry::<WideOp>(sqe), PLANTED).unwrap();
        ring.submit().unwrap();
        ring.submit_and_wait(Some(PATIENCE)).unwrap();
        return ring.next_completion().expect("an answer").result;
    }
    let mut ring: Ring<Local> = Ring::local(4, 4).unwrap().enable().unwrap();
    ring.push(entry::<Op>(sqe), PLANTED).unwrap();
    ring.submit().unwrap();
    ring.submit_and_wait(Some(PATIENCE)).unwrap();
    ring.next_completion().expect("an answer").result
}

/// The running kernel's release: `6.12.9-amd64` is `(6, 12)`.
pub fn kernel() -> (u16, u16) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

fn number<T: std::str::FromStr>(path: &str) -> Option<T> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
