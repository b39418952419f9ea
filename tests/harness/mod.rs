// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device served by a thread of the test, and how a client sees it.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]

pub mod backing;
pub mod file_target;
pub mod group;
pub mod held;
pub mod program;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ublk::mode::Mode;
use ublk::{
    Control, DeviceId, DeviceInfo, Error, Event, Features, NewDevice, Params, PreparedQueue, Request, Server,
    StopHandle, Stopped,
};

/// A device that is live, served by a thread of this process.
pub struct Served {
    pub info: DeviceInfo,
    stop: StopHandle,
    thread: JoinHandle<Result<Stopped, Error>>,
}

/// Serves a device; returns when it is live, or with the reason why it is not.
pub fn serve<T, M: Mode>(device: NewDevice<M>, params: Params, target: T) -> Result<Served, Error>
where
    T: Fn(Request<'_, M>) + Send + Sync + 'static,
{
    serve_with(device, params, move |server, live| server.run(target, live))
}

/// As [`serve`], for a target whose queues are prepared, and which is given every event.
pub fn serve_events<P, T, M: Mode>(
    device: NewDevice<M>,
    params: Params,
    prepare: impl Fn(&mut PreparedQueue<M>) -> Result<P, Error> + Send + 'static,
    target: T,
) -> Result<Served, Error>
where
    P: Send,
    T: Fn(&P, Event<'_, M>) + Send + Sync + 'static,
{
    serve_with(device, params, move |server, live| server.run_events(prepare, target, live))
}

/// As [`serve_events`], with so many threads.
pub fn serve_on<P, T, M: Mode>(
    threads: u16,
    device: NewDevice<M>,
    params: Params,
    prepare: impl Fn(&mut PreparedQueue<M>) -> Result<P, Error> + Send + 'static,
    target: T,
) -> Result<Served, Error>
where
    P: Send,
    T: Fn(&P, Event<'_, M>) + Send + Sync + 'static,
{
    serve_with(device, params, move |server, live| server.threads(threads).run_events(prepare, target, live))
}

fn serve_with<M: Mode>(
    device: NewDevice<M>,
    params: Params,
    run: impl FnOnce(Server<M>, Box<dyn FnOnce(&DeviceInfo)>) -> Result<Stopped, Error> + Send + 'static,
) -> Result<Served, Error> {
    let stop = StopHandle::new()?;
    let server = Server::new(device, params).stop_on(&stop);
    let (live, is_live) = mpsc::channel();
    let thread = thread::spawn(move || run(server, Box::new(move |info| live.send(*info).unwrap())));
    match is_live.recv() {
        Ok(info) => Ok(Served { info, stop, thread }),
        // The server dropped the sender: it never got so far.
        Err(mpsc::RecvError) => Err(thread.join().unwrap().unwrap_err()),
    }
}

impl Served {
    pub fn id(&self) -> DeviceId {
        self.info.id()
    }

    pub fn block_path(&self) -> String {
        format!("/dev/ublkb{}", self.id())
    }

    /// The block device, past the page cache: each read and write is a request.
    pub fn open_direct(&self) -> File {
        open_direct(self.id())
    }

    pub fn stop(self) -> Result<Stopped, Error> {
        self.stop.stop();
        self.join()
    }

    /// Waits for the server to end by itself.
    pub fn join(self) -> Result<Stopped, Error> {
        self.thread.join().unwrap()
    }
}

/// One queue, without the scan for partitions where the driver can do without: nobody but the test sends requests then.
pub fn quiet_device(depth: u16) -> NewDevice {
    let offered = Control::open().unwrap().features().unwrap();
    let quiet = Features::NO_AUTO_PART_SCAN;
    let device = NewDevice::new().depth(depth);
    if offered.contains(quiet) { device.features(quiet) } else { device }
}

/// What a feature cannot be asked for without, or else one that every driver has.
pub fn needed_by(feature: Features) -> Features {
    match feature {
        Features::USER_RECOVERY_FAIL_IO | Features::QUIESCE => Features::USER_RECOVERY,
        _ => Features::CMD_IOCTL_ENCODE,
    }
}

/// Whether a feature says how data travels, or needs one that does, so that it is asked for by a mode: `device_modes`.
pub fn is_of_a_mode(feature: Features) -> bool {
    let modes = [Features::USER_COPY, Features::NEED_GET_DATA, Features::SUPPORT_ZERO_COPY, Features::AUTO_BUF_REG];
    modes.contains(&feature) || [Features::INTEGRITY, Features::ZONED].contains(&feature)
}

/// The block device, past the page cache: each read and write is a request.
pub fn open_direct(id: DeviceId) -> File {
    let path = format!("/dev/ublkb{id}");
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path).unwrap()
}

/// What this process has: descriptors, threads, mappings, and kilobytes of memory. io_uring's workers are the kernel's, and come and go.
pub fn possessions() -> [u64; 4] {
    let descriptors = fs::read_dir("/proc/self/fd").unwrap().count();
    let is_ours = |task: &fs::DirEntry| match fs::read_to_string(task.path().join("comm")) {
        Ok(name) => !name.starts_with("iou-"),
        // It has ended.
        Err(_) => false,
    };
    let threads = fs::read_dir("/proc/self/task").unwrap().map(Result::unwrap).filter(is_ours).count();
    let maps = fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let resident = resident.trim().strip_suffix(" kB").unwrap().trim().parse().unwrap();
    let [descriptors, threads, maps] = [descriptors, threads, maps].map(|count| u64::try_from(count).unwrap());
    [descriptors, threads, maps, resident]
}

/// What this process has once its descriptors and threads are as many as they were: whoever joined a thread may be faster than the
/// kernel. After ten seconds, whatever it has.
pub fn possessions_like(before: &[u64; 4]) -> [u64; 4] {
    let begun = Instant::now();
    loop {
        let now = possessions();
        if now[..2] == before[..2] || begun.elapsed() > Duration::from_secs(10) {
            return now;
        }
        thread::yield_now();
    }
}

/// Whether some mapping of this process holds `address`.
pub fn is_mapped(address: usize) -> bool {
    is_mapped_in(std::process::id(), address)
}

/// Whether some mapping of a process holds `address`.
pub fn is_mapped_in(process: u32, address: usize) -> bool {
    std::fs::read_to_string(format!("/proc/{process}/maps")).unwrap().lines().any(|line| {
        let (range, _) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let number = |text| usize::from_str_radix(text, 16).unwrap();
        (number(start)..number(end)).contains(&address)
    })
}

/// Whether there is a device of this id.
pub fn exists(control: &mut Control, id: DeviceId) -> bool {
    control.info(id).is_ok()
}

/// Every `/dev/ublk*` node but the control device.
pub fn nodes() -> Vec<String> {
    let names = std::fs::read_dir("/dev").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut nodes: Vec<String> = names.filter(|name| name.starts_with("ublk") && name != "ublk-control").collect();
    nodes.sort();
    nodes
}

/// Tells the others that it is over, also where a test fails.
pub struct Ends<'a>(pub &'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A buffer that O_DIRECT takes: its bytes start at a multiple of 4096.
pub struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    pub fn filled(len: usize, value: u8) -> Aligned {
        let bytes = vec![value; len + 4096];
        let start = bytes.as_ptr().align_offset(4096);
        Aligned { bytes, start, len }
    }
}

impl std::ops::Deref for Aligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

impl std::ops::DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}
