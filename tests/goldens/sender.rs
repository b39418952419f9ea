// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sends commands to a real driver byte for byte: the goldens, or what somebody made of them; and serves their device.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]

use core::cell::RefCell;
use core::time::Duration;
use std::collections::BTreeSet;
use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{Write, stdout};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use ublk::ring::{Completion, Local, Op, Ring, Wide, WideOp};
use ublk::{DeviceId, Errno};
use ublk_sys::{
    IORING_CQE_BUFFER_SHIFT, IORING_CQE_F_MORE, IORING_REGISTER_PBUF_RING, UBLK_IO_OP_READ, UBLK_IO_OP_WRITE,
    UBLK_IO_RES_ABORT, UBLK_IO_RES_NEED_GET_DATA, io_uring_buf, io_uring_buf_reg, ublksrv_get_op, ublksrv_io_desc,
};

use crate::commands::{
    BUFFER_GROUP, Built, DEPTH, ID, IO_BYTES, MAX_IO_BYTES, PATH, Run, TAG, build, dev_info, golden,
};
use crate::golden::Golden;
use crate::harness::{Aligned, open_direct};

/// Nobody waits longer than this for the driver.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What has been accepted, by name.
#[derive(Clone, Debug, Default)]
pub struct Accepted(pub Rc<RefCell<BTreeSet<String>>>);

impl Accepted {
    /// What is sent: the golden with what differs from run to run filled in, or what it is to be made of.
    pub fn sent(&self, built: Built) -> Built {
        if env::var_os("UBLK_CAPTURE").is_some() {
            return built;
        }
        let golden = golden(&built.name);
        let sqe = Golden::filled(&golden.sqe, &built.sqe);
        let mut built = built.with(0, &sqe);
        // In place: its address stands in the command.
        let buffer = Golden::filled(&golden.buffer, &built.buffer);
        built.buffer.copy_from_slice(&buffer);
        built
    }

    /// The driver has taken the command, as it was sent.
    pub fn took(&self, sent: &Built, answer: &str) {
        self.0.borrow_mut().insert(sent.name.clone());
        if env::var_os("UBLK_CAPTURE").is_some() {
            let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
            let node = if sent.is_control() { "/dev/ublk-control" } else { "/dev/ublkcN" };
            let said = format!("{} to {node}: Linux {} on {} {answer}.", sent.name, release.trim(), env::consts::ARCH);
            let mut out = stdout();
            writeln!(out, "\n=== {}.txt\n{}=== end", sent.name, sent.text(&said)).unwrap();
        }
    }
}

/// The entry of these bytes, which have the size of the type.
#[expect(unsafe_code, reason = "bytes as they are in a file become an entry of a ring")]
pub fn entry<T>(bytes: &[u8]) -> T {
    assert_eq!(bytes.len(), size_of::<T>());
    // SAFETY: T is Op or WideOp: structs of integers, of which any bytes are a value, and as many bytes are there. What they
    // name is never unmapped: every buffer of this test is leaked, or stays until the command's completion was taken.
    unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
}

/// The control device.
pub struct Control {
    pub ring: Ring<Wide>,
    pub node: File,
    pub accepted: Accepted,
}

impl Control {
    pub fn open(accepted: &Accepted) -> Control {
        let node = OpenOptions::new().read(true).write(true).open("/dev/ublk-control").unwrap();
        Control { ring: Ring::wide(8, 8).unwrap(), node, accepted: accepted.clone() }
    }

    pub fn build(&self, name: &str, run: Run) -> Built {
        build(name, &Run { fd: self.node.as_raw_fd(), process: std::process::id(), ..run })
    }

    pub fn begin(&mut self, sent: &Built) {
        self.ring.push(entry::<WideOp>(&sent.sqe), 1).unwrap();
        self.ring.submit().unwrap();
    }

    pub fn send(&mut self, sent: &Built) -> i32 {
        self.begin(sent);
        self.ring.submit_and_wait(Some(PATIENCE)).unwrap();
        self.ring.next_completion().expect("an answer").result
    }

    /// Sends the golden of a command, which the driver has to take. What came back is in the buffer.
    pub fn accepts(&mut self, name: &str, run: Run) -> Built {
        let sent = self.accepted.sent(self.build(name, run));
        let before = sent.clone();
        let started = Instant::now();
        let mut result = self.send(&sent);
        // The driver is not through with the file that was closed.
        while result == Errno::EBUSY.raw().wrapping_neg() && started.elapsed() < PATIENCE {
            thread::yield_now();
            result = self.send(&sent);
        }
        assert!(result >= 0, "{name}: {result}");
        // `before` has the address of `sent`'s buffer, and what it held when it was sent.
        self.accepted.took(&before, &format!("answered {result}"));
        sent
    }

    /// The same while `server` serves, for what waits for it.
    pub fn accepts_while(&mut self, name: &str, server: &mut Server) {
        let sent = self.accepted.sent(self.build(name, Run::default()));
        self.begin(&sent);
        let started = Instant::now();
        let result = loop {
            if let Some(completion) = self.ring.next_completion() {
                break completion.result;
            }
            assert!(started.elapsed() < PATIENCE, "{name} is not answered");
            server.serve(Duration::from_millis(10));
        };
        assert!(result >= 0, "{name}: {result}");
        self.accepted.took(&sent, &format!("answered {result}"));
    }

    /// Adds the device with these features, and sets its parameters.
    pub fn add(&mut self, features: u64) {
        let mut sent = self.build("UBLK_U_CMD_ADD_DEV", Run::default());
        sent.buffer[24..32].copy_from_slice(&(dev_info().flags | features).to_ne_bytes());
        assert_eq!(self.send(&sent), 0);
        let params = self.build("UBLK_U_CMD_SET_PARAMS", Run::default());
        assert_eq!(self.send(&params), 0);
    }

    pub fn state(&mut self) -> u16 {
        let sent = self.build("UBLK_U_CMD_GET_DEV_INFO", Run::default());
        assert_eq!(self.send(&sent), 0);
        u16::from_ne_bytes([sent.buffer[4], sent.buffer[5]])
    }

    pub fn stop_and_delete(&mut self, mut server: Server) {
        self.accepts_while("UBLK_U_CMD_STOP_DEV", &mut server);
        server.end();
        self.accepts("UBLK_U_CMD_DEL_DEV", Run::default());
    }
}

/// What a server does with the requests that come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serving {
    /// Answer them.
    Answer,
    /// Keep them, until each tag has one.
    Hold,
}

/// The one queue of the device, served by this thread.
pub struct Server {
    pub ring: Ring<Local>,
    pub node: File,
    descriptors: *mut libc::c_void,
    pub run: Run,
    pub serving: Serving,
    /// The tags whose requests are kept, and what the driver said of each.
    pub held: Vec<(u16, i32)>,
    pub in_flight: BTreeSet<u16>,
    pub accepted: Accepted,
    /// The fetch that is the golden, until it has brought a request.
    fetched: Option<Built>,
    /// Whether every command is told with the address 0: the data goes another way.
    pub without_buffers: bool,
}

/// Buffers that stay for ever, one for each tag: shared memory, so that each may be registered.
pub fn leaked_buffers() -> [u64; 4] {
    [(); 4].map(|()| {
        let len = usize::try_from(MAX_IO_BYTES).unwrap();
        map(len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_POPULATE, -1)
            .addr()
            .try_into()
            .unwrap()
    })
}

#[expect(unsafe_code, reason = "memory that is shared with the driver")]
pub fn map(len: usize, access: i32, flags: i32, fd: i32) -> *mut libc::c_void {
    // SAFETY: a new mapping, wherever there is room; it touches no memory that is there.
    let start = unsafe { libc::mmap(core::ptr::null_mut(), len, access, flags, fd, 0) };
    assert_ne!(start, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
    start
}

/// Clients that ask for as many requests as there are tags.
pub fn clients(write: bool) -> Vec<JoinHandle<()>> {
    let client = |number: u64| {
        thread::spawn(move || {
            let disk = open_direct(DeviceId::new(ID));
            let mut bytes = Aligned::filled(usize::try_from(IO_BYTES).unwrap(), 1);
            match write {
                true => disk.write_all_at(&bytes, number * 4096).unwrap(),
                false => disk.read_exact_at(&mut bytes, number * 4096).unwrap(),
            }
        })
    };
    (0..u64::from(DEPTH)).map(client).collect()
}

/// Registers something with a ring, which copies what `argument` says.
#[expect(unsafe_code, reason = "the crate registers no buffers yet")]
pub fn register<T>(ring: &Ring<Local>, opcode: u32, argument: &T, count: usize) {
    let (fd, argument) = (ring.fd().raw(), core::ptr::from_ref(argument));
    // SAFETY: the kernel reads a T, which `opcode` says. What that names in turn is leaked.
    let result = unsafe { libc::syscall(libc::SYS_io_uring_register, fd, opcode, argument, count) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

impl Server {
    pub fn open(accepted: &Accepted) -> Server {
        let started = Instant::now();
        let node = loop {
            match OpenOptions::new().read(true).write(true).open(PATH) {
                Ok(node) => break node,
                Err(error) => assert!(started.elapsed() < PATIENCE, "{PATH}: {error}"),
            }
            thread::yield_now();
        };
        let run = Run { fd: node.as_raw_fd(), process: 0, addresses: leaked_buffers() };
        // Four descriptors of 24 bytes.
        let descriptors = map(4096, libc::PROT_READ, libc::MAP_SHARED, node.as_raw_fd());
        Server {
            ring: Ring::local(16, 64).unwrap().enable().unwrap(),
            node,
            descriptors,
            run,
            serving: Serving::Answer,
            held: Vec::new(),
            in_flight: BTreeSet::new(),
            accepted: accepted.clone(),
            fetched: None,
            without_buffers: false,
        }
    }

    #[expect(unsafe_code, reason = "what the driver says of a request")]
    pub fn descriptor(&self, tag: u16) -> ublksrv_io_desc {
        let place = self.descriptors.cast::<ublksrv_io_desc>().wrapping_add(tag.into());
        // SAFETY: the tag is below 4, so the descriptor is in the page that is mapped; any bytes are one.
        unsafe { place.read_volatile() }
    }

    /// Stages one tag's command: for the tag of the goldens the golden, as what `name` says; for others its like.
    pub fn stage(&mut self, name: &str, tag: u16, result: i32) -> Built {
        let run = self.run;
        let mut built = build(name, &run);
        if tag == TAG && (name != "UBLK_U_IO_COMMIT_AND_FETCH_REQ" || result == IO_BYTES) {
            built = self.accepted.sent(built);
        } else {
            built = built.of_tag(tag).with(52, &result.to_ne_bytes());
            if built.name != "UBLK_U_IO_REGISTER_IO_BUF" {
                built = built.with(56, &run.addresses[usize::from(tag)].to_ne_bytes());
            }
        }
        if self.without_buffers && !name.ends_with("REGISTER_IO_BUF") {
            built = built.with(56, &[0; 8]);
        }
        self.push(&built, tag.into());
        built
    }

    pub fn push(&mut self, built: &Built, user_data: u64) {
        self.ring.push(entry::<Op>(&built.sqe), user_data).unwrap();
    }

    pub fn fetch(&mut self) {
        for tag in 0..DEPTH {
            let fetched = self.stage("UBLK_U_IO_FETCH_REQ", tag, 0);
            self.in_flight.insert(tag);
            if tag == TAG && !self.without_buffers {
                self.fetched = Some(fetched);
            }
        }
        self.ring.submit().unwrap();
    }

    pub fn commit(&mut self, tag: u16) -> Built {
        let descriptor = self.descriptor(tag);
        let moves = matches!(ublksrv_get_op(&descriptor), UBLK_IO_OP_READ | UBLK_IO_OP_WRITE);
        let bytes = if moves { i32::try_from(descriptor.nr_sectors * 512).unwrap() } else { 0 };
        self.in_flight.insert(tag);
        self.stage("UBLK_U_IO_COMMIT_AND_FETCH_REQ", tag, bytes)
    }

    /// The next completion, within that time.
    pub fn completion(&mut self, patience: Duration) -> Option<Completion> {
        if let Some(completion) = self.ring.next_completion() {
            return Some(completion);
        }
        self.ring.submit_and_wait(Some(patience)).unwrap();
        self.ring.next_completion()
    }

    /// Takes what has come, or comes within that time.
    pub fn serve(&mut self, patience: Duration) {
        let Some(completion) = self.completion(patience) else { return };
        let tag = u16::try_from(completion.user_data).unwrap();
        assert!(self.in_flight.remove(&tag), "{completion:?}");
        match (completion.result, self.serving) {
            (UBLK_IO_RES_ABORT, _) => {}
            (result @ (0 | UBLK_IO_RES_NEED_GET_DATA), Serving::Hold) => self.held.push((tag, result)),
            (0, Serving::Answer) => drop(self.commit(tag)),
            (refused, _) => panic!("tag {tag}: {refused}"),
        }
        self.ring.submit().unwrap();
    }

    /// Has clients ask for as many requests as there are tags, and keeps them all.
    pub fn hold(&mut self, write: bool) -> Vec<JoinHandle<()>> {
        self.serving = Serving::Hold;
        let clients = clients(write);
        let started = Instant::now();
        while self.held.len() < DEPTH.into() {
            assert!(started.elapsed() < PATIENCE, "{:?}", self.held);
            self.serve(PATIENCE);
        }
        self.serving = Serving::Answer;
        if let Some(fetched) = self.fetched.take() {
            self.accepted.took(&fetched, "answered 0, when it had a request for the tag");
        }
        clients
    }

    /// Sends a golden of the tag of the goldens that is answered at once.
    pub fn accepts(&mut self, name: &str) {
        let sent = self.stage(name, TAG, 0);
        let completion = self.completion(PATIENCE).unwrap();
        assert_eq!((completion.user_data, completion.result), (TAG.into(), 0), "{name}");
        self.accepted.took(&sent, "answered 0");
    }

    /// Answers all that is held, and waits for those who asked.
    pub fn answer(&mut self, clients: Vec<JoinHandle<()>>) {
        let mut sent = None;
        for (tag, _) in core::mem::take(&mut self.held) {
            let committed = self.commit(tag);
            if tag == TAG && !self.without_buffers {
                sent = Some(committed);
            }
        }
        for client in clients {
            // The driver refuses a wrong commit at once, which `serve` does not let pass.
            while !client.is_finished() {
                self.serve(Duration::from_millis(10));
            }
            client.join().unwrap();
        }
        if let Some(sent) = sent {
            self.accepted.took(&sent, "answered its client, and itself when the tag had its next request or its end");
        }
    }

    /// Takes what a batch fetch with the user data 2 brings, until every tag has come; what it answered each time.
    pub fn take_tags(&mut self) -> Vec<i32> {
        let mut came = 0;
        let mut answers = Vec::new();
        while came < DEPTH {
            let completion = self.completion(PATIENCE).unwrap();
            assert!(completion.user_data == 2 && completion.result > 0, "{completion:?}");
            assert_ne!(completion.flags & IORING_CQE_F_MORE, 0, "{completion:?}");
            assert!(completion.flags >> IORING_CQE_BUFFER_SHIFT < 4);
            came += u16::try_from(completion.result).unwrap() / 2;
            answers.push(completion.result);
        }
        answers
    }

    /// Answers every tag's request by one command, and waits for those who asked.
    pub fn commit_batch(&mut self, clients: Vec<JoinHandle<()>>) {
        let sent = self.accepted.sent(build("UBLK_U_IO_COMMIT_IO_CMDS", &self.run));
        self.push(&sent, 3);
        let completion = self.completion(PATIENCE).unwrap();
        assert_eq!((completion.user_data, completion.result), (3, 64));
        self.accepted.took(&sent, "answered 64, the bytes of the elements");
        for client in clients {
            client.join().unwrap();
        }
    }

    /// Takes the end of every fetch, and lets go of the device.
    pub fn end(mut self) {
        let started = Instant::now();
        while !self.in_flight.is_empty() {
            assert!(started.elapsed() < PATIENCE, "{:?}", self.in_flight);
            self.serve(PATIENCE);
        }
    }
}

impl Drop for Server {
    #[expect(unsafe_code, reason = "ends the mapping that this type has made")]
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's, which nobody uses any more.
        assert_eq!(unsafe { libc::munmap(self.descriptors, 4096) }, 0);
    }
}

/// Gives the ring four buffers of 64 bytes for the tags that a batch fetch brings.
#[expect(unsafe_code, reason = "a ring of provided buffers")]
pub fn provide(ring: &Ring<Local>, place: u64, buffers: u64) {
    let entries = core::ptr::with_exposed_provenance_mut::<io_uring_buf>(usize::try_from(place).unwrap());
    for id in 0..4_u16 {
        let mut buffer = io_uring_buf::default();
        (buffer.addr, buffer.len, buffer.bid) = (buffers + u64::from(id) * 64, 64, id);
        // The tail, which stands in the first entry.
        buffer.resv = 4;
        // SAFETY: the memory is a leaked mapping of more than 64 bytes, which the kernel does not have yet.
        unsafe { entries.wrapping_add(id.into()).write_volatile(buffer) };
    }
    let mut registered = io_uring_buf_reg::default();
    (registered.ring_addr, registered.ring_entries, registered.bgid) = (place, 4, BUFFER_GROUP);
    register(ring, IORING_REGISTER_PBUF_RING, &registered, 1);
}
