// SPDX-License-Identifier: MIT OR Apache-2.0
//! A null device of one queue and one tag, made, read and removed, step by step.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use ublk::diagnosis::Environment;
use ublk::{
    Cache, Command, Control, DeviceId, DeviceInfo, Errno, Error, Fd, Features, InFlight, NewDevice, Params,
    PreparedQueue, Queue, QueueId, Sectors, Sent, SystemCall, Tag,
};
use ublk_sys::{UBLK_MAX_QUEUE_DEPTH, ublksrv_io_cmd, ublksrv_io_desc};

use crate::doctor::PATIENCE;
use crate::doctor::finding::{Finding, push_findings};

/// The largest buffer of a control command but for a path, `struct ublk_params`, and more.
const BUFFER_BYTES: usize = 256;

/// Bytes that are read of the disk.
const BLOCK_BYTES: usize = 4096;

/// One step and what came of it.
#[derive(Debug)]
pub(super) struct Step {
    name: &'static str,
    took: Duration,
    /// What was seen, or why it was not done.
    outcome: Result<String, Error>,
    sent: Option<SentBytes>,
    /// Why it was not done, the likeliest first.
    pub(super) findings: Vec<Finding>,
}

/// A command as it was sent.
#[derive(Debug)]
struct SentBytes {
    command: Command,
    /// What stands from byte 48 of the entry on.
    header: Vec<u8>,
    /// What the command was lent: for one that asks, the answer.
    buffer: Vec<u8>,
}

impl Step {
    pub(super) fn to_json(&self) -> Value {
        let sent = self.sent.as_ref();
        json!({
            "name": self.name,
            "ok": self.outcome.is_ok(),
            "microseconds": u64::try_from(self.took.as_micros()).ok(),
            "seen": self.outcome.as_ref().ok(),
            "command": sent.map(|sent| sent.command.to_string()),
            "header": sent.map(|sent| hex(&sent.header)),
            "buffer": sent.filter(|sent| !sent.buffer.is_empty()).map(|sent| hex(&sent.buffer)),
            "error": self.outcome.as_ref().err().map(Error::to_string),
            "cause": self.findings.first().map(|finding| finding.id),
        })
    }

    /// How it went, how long it took and what was seen; below that what was sent, and what is wrong and what to do.
    pub(super) fn to_text(&self, told: &mut Vec<&'static str>) -> String {
        let (verdict, seen) = match &self.outcome {
            Ok(seen) => ("ok", seen.clone()),
            Err(error) => ("problem", error.to_string()),
        };
        let took = format!("{:.3} ms", self.took.as_secs_f64() * 1000.0);
        let mut text = format!("{verdict:11}  {:23}  {took:>10}  {seen}\n", self.name);
        if let Some(sent) = &self.sent {
            let end = 47 + sent.header.len();
            text.push_str(&format!("{:11}  {} {:#010x}, bytes 48 to {end}\n", "", sent.command, sent.command.raw()));
            push_rows(&mut text, &sent.header);
            if !sent.buffer.is_empty() {
                text.push_str(&format!("{:11}  its buffer, {} bytes\n", "", sent.buffer.len()));
                push_rows(&mut text, &sent.buffer);
            }
        }
        push_findings(&mut text, &self.findings, told);
        text
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Rows of 16 bytes.
fn push_rows(text: &mut String, bytes: &[u8]) {
    for row in bytes.chunks(16) {
        let row: Vec<String> = row.iter().map(|byte| format!("{byte:02x}")).collect();
        text.push_str(&format!("{:13}{}\n", "", row.join(" ")));
    }
}

/// The steps that were done, and what is known by then.
#[derive(Debug)]
struct Log {
    steps: Vec<Step>,
    environment: Environment<'static>,
}

impl Log {
    /// Does one step. `None` where it did not work, and nothing that needs it is to be tried.
    fn step<T>(&mut self, name: &'static str, work: impl FnOnce() -> Result<(T, String), Error>) -> Option<T> {
        let started = Instant::now();
        let done = work();
        self.note(name, started, done, None)
    }

    /// Does one step that is a control command.
    fn command<T>(
        &mut self,
        name: &'static str,
        control: &mut Control,
        work: impl FnOnce(&mut Control) -> Result<(T, String), Error>,
    ) -> Option<T> {
        let started = Instant::now();
        let done = work(control);
        let sent = control.last_sent().map(|(command, sent)| {
            let mut buffer = vec![0; BUFFER_BYTES];
            let len = control.last_buffer(&mut buffer);
            buffer.truncate(len);
            SentBytes { command, header: sent.area().to_vec(), buffer }
        });
        self.note(name, started, done, sent)
    }

    fn note<T>(
        &mut self,
        name: &'static str,
        started: Instant,
        done: Result<(T, String), Error>,
        sent: Option<SentBytes>,
    ) -> Option<T> {
        let took = started.elapsed();
        let (value, outcome) = match done {
            Ok((value, seen)) => (Some(value), Ok(seen)),
            Err(error) => (None, Err(error)),
        };
        let findings = outcome.as_ref().err().map(|error| Finding::all_of(error, &self.environment));
        self.steps.push(Step { name, took, outcome, sent, findings: findings.unwrap_or_default() });
        value
    }
}

/// Makes the device, reads a block of it, and removes it. Whatever step fails, the device is removed.
pub(super) fn run(environment: Environment<'static>) -> Vec<Step> {
    let mut log = Log { steps: Vec::new(), environment };
    let Some(mut control) = log.step("open /dev/ublk-control", open_control) else { return log.steps };
    let offered = log.command("GET_FEATURES", &mut control, |control| {
        let offered = control.features()?;
        Ok((offered, format!("{:#x}", offered.bits())))
    });
    log.environment.offered = offered;
    let asked = NewDevice::new().depth(1).max_io_bytes(64 << 10);
    let quiet = Features::NO_AUTO_PART_SCAN;
    // There is no partition table to be read.
    let asked = if offered.is_some_and(|offered| offered.contains(quiet)) { asked.features(quiet) } else { asked };
    let info = log.command("ADD_DEV", &mut control, |control| {
        let info = control.add(&asked)?;
        let seen =
            format!("device {}, {} queue of {}, features {}", info.id(), info.queues(), info.depth(), info.features());
        Ok((info, seen))
    });
    let Some(info) = info else { return log.steps };
    log.environment.device = Some(info);
    log.environment.device_exists = Some(true);
    // The thread that served has ended, and the descriptor of its ring is closed, before the device is deleted: then nothing
    // is left of it in the kernel, however far it came.
    let served = thread::scope(|scope| {
        let serving = thread::Builder::new().spawn_scoped(scope, || serve(log, control, &info));
        serving.ok().and_then(|serving| serving.join().ok())
    });
    let Some((mut log, control, ring)) = served else {
        // The one way to come here with a device is that no thread could be made.
        let mut log = Log { steps: Vec::new(), environment };
        let error = Error::System { call: SystemCall::Thread, errno: Errno::EAGAIN };
        log.step::<()>("serve", || Err(error));
        delete(&mut log, None, &info);
        return log.steps;
    };
    drop(ring);
    log.environment.char_device_is_open = None;
    delete(&mut log, control, &info);
    log.steps
}

fn open_control() -> Result<(Control, String), Error> {
    let mut control = Control::open()?;
    control.set_patience(PATIENCE, PATIENCE);
    control.set_stop_patience(PATIENCE);
    Ok((control, "and a ring of 128-byte entries".to_owned()))
}

/// Serves the device until it was read and stopped, or something failed. The control handle comes back if it is of use, and a
/// descriptor of the ring.
fn serve(mut log: Log, mut control: Control, info: &DeviceInfo) -> (Log, Option<Control>, Option<OwnedFd>) {
    let mut ring = None;
    serve_until_stopped(&mut log, &mut control, info, &mut ring);
    let control = Some(control).filter(|control| !control.is_abandoned());
    (log, control, ring)
}

fn serve_until_stopped(
    log: &mut Log,
    control: &mut Control,
    info: &DeviceInfo,
    ring: &mut Option<OwnedFd>,
) -> Option<()> {
    let id = info.id();
    let char_device = log.step("open /dev/ublkcN", || {
        let char_device = open_char_device(id)?;
        Ok((char_device, format!("/dev/ublkc{id}")))
    })?;
    let params = Params::new(Sectors::new(2048), Cache::None).read_only();
    log.command("SET_PARAMS", control, |control| {
        control.set_params(info, &params)?;
        Ok(((), format!("{}, read-only", params.size())))
    })?;
    log.environment.params_types = Some(params.as_raw().types);
    log.environment.server_process = Some(std::process::id());
    log.environment.char_device_is_open = Some(true);
    let queue = log.step("map the descriptors", || {
        let queue = PreparedQueue::adopt(char_device, info, QueueId::new(0))?;
        Ok((queue, descriptors(info)))
    })?;
    let queue = fetch(log, queue)?;
    log.environment.queues_are_ready = Some(true);
    *ring = queue.as_fd().try_clone_to_owned().ok();
    log.command("START_DEV", control, |control| {
        serve_while(&queue, control.begin_start(id)?)?;
        Ok(((), format!("/dev/ublkb{id}, of process {}", std::process::id())))
    })?;
    // Whether or not it could be read, it is stopped.
    log.step("read a block", || read_block(&queue, id));
    log.command("STOP_DEV", control, |control| {
        serve_while(&queue, control.begin_stop(id)?)?;
        // The last fetch ends a moment after the disk.
        let until = Instant::now() + PATIENCE;
        loop {
            answer(&queue)?;
            let left = until.saturating_duration_since(Instant::now());
            if queue.is_finished() || left.is_zero() {
                break;
            }
            queue.wait(Some(left))?;
        }
        Ok(((), format!("/dev/ublkb{id} is gone, and its fetch has ended")))
    })
}

/// Opens the char device as a server does: udev may not have made or given the node yet.
fn open_char_device(id: DeviceId) -> Result<Fd, Error> {
    let errno = |errno| Error::OpenCharDevice { device: id, errno };
    let path = CString::new(format!("/dev/ublkc{id}")).map_err(|_| errno(Errno::EINVAL))?;
    let until = Instant::now() + Duration::from_secs(3);
    loop {
        match Fd::open(&path) {
            // Nothing tells when udev is through with it.
            Err(Errno::ENOENT | Errno::EACCES | Errno::EBUSY) if Instant::now() < until => {
                thread::sleep(Duration::from_millis(10));
            }
            opened => return opened.map_err(errno),
        }
    }
}

/// How the descriptors of a queue are mapped, and as what the kernel shows that.
fn descriptors(info: &DeviceInfo) -> String {
    let has_own = info.features().contains(Features::IO_DESC_SIZE);
    let stride = if has_own { info.as_raw().io_desc_size.into() } else { size_of::<ublksrv_io_desc>() };
    let room = usize::from(UBLK_MAX_QUEUE_DEPTH) * stride;
    let shown = fs::read_to_string("/proc/self/maps").ok().and_then(|maps| {
        let name = format!("/dev/ublkc{}", info.id());
        let line = maps.lines().find(|line| line.ends_with(&name))?;
        let mut words = line.split_whitespace();
        let (range, access, offset) = (words.next()?, words.next()?, words.next()?);
        let (start, end) = range.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        let len = number(end)?.checked_sub(number(start)?)?;
        Some(format!("mapped {len} bytes at offset {} as {access}", number(offset)?))
    });
    format!(
        "{stride} bytes apart; queue q at offset q x {room} in whole pages; {}: read-only, writable is EPERM",
        shown.unwrap_or_else(|| "/proc/self/maps does not show it".to_owned())
    )
}

/// Fetches the one tag.
fn fetch(log: &mut Log, queue: PreparedQueue) -> Option<Queue> {
    let started = Instant::now();
    let done = queue.fetch().map(|queue| (queue, "tag 0 of queue 0 waits in the driver".to_owned()));
    let sent = done.as_ref().ok().and_then(|(queue, _)| queue.fetch_sent(Tag::new(0))).map(|sent: Sent| SentBytes {
        command: Command::FETCH_REQ,
        header: sent.area().iter().take(size_of::<ublksrv_io_cmd>()).copied().collect(),
        buffer: Vec::new(),
    });
    log.note("FETCH_REQ", started, done, sent)
}

/// Answers what has come: every READ gives zeroes.
fn answer(queue: &Queue) -> Result<(), Error> {
    while let Some(request) = queue.next_request()? {
        request.complete();
    }
    Ok(())
}

/// Serves until a command is done.
fn serve_while(queue: &Queue, mut command: InFlight<'_>) -> Result<(), Error> {
    while !command.poll()? {
        answer(queue)?;
        submit(queue)?;
        ublk::poll([queue.ring_fd(), command.fd().raw()], command.time_left())?;
    }
    Ok(())
}

/// Submits what was answered, and waits for nothing.
fn submit(queue: &Queue) -> Result<(), Error> {
    queue.wait(Some(Duration::ZERO)).map(drop)
}

/// Reads the first block of the disk as any client does, in a thread of its own, while this one serves.
fn read_block(queue: &Queue, id: DeviceId) -> Result<((), String), Error> {
    let failed = |error: std::io::Error| Error::System { call: SystemCall::Open, errno: error.into() };
    let (reader, is_read) = UnixStream::pair().map_err(failed)?;
    let (send, receive) = mpsc::channel();
    let reading = thread::Builder::new().spawn(move || {
        let mut block = vec![0xff; BLOCK_BYTES];
        let read = File::open(format!("/dev/ublkb{id}")).and_then(|mut disk| disk.read_exact(&mut block));
        // Nobody listens to one that took too long.
        let _ = send.send(read.map(|()| block.iter().all(|byte| *byte == 0)));
        drop(reader);
    });
    drop(reading.map_err(|_| Error::System { call: SystemCall::Thread, errno: Errno::EAGAIN })?);
    let until = Instant::now() + PATIENCE;
    loop {
        answer(queue)?;
        submit(queue)?;
        let left = until.saturating_duration_since(Instant::now());
        let [_, done] = ublk::poll([queue.ring_fd(), is_read.as_raw_fd()], Some(left))?;
        if done || left.is_zero() {
            break;
        }
    }
    match receive.try_recv() {
        Ok(Ok(true)) => Ok(((), format!("{BLOCK_BYTES} bytes of /dev/ublkb{id}, all of them zero"))),
        Ok(Ok(false)) => Err(Error::Implausible { what: "a block of a disk of zeroes", value: 0 }),
        Ok(Err(error)) => Err(failed(error)),
        Err(_) => Err(Error::System { call: SystemCall::Open, errno: Errno::ETIMEDOUT }),
    }
}

/// Removes the device, and waits until its number is free. An old handle that gave up on a command is replaced.
fn delete(log: &mut Log, control: Option<Control>, info: &DeviceInfo) {
    let control = control.or_else(|| log.step("open /dev/ublk-control", open_control));
    let Some(mut control) = control else { return };
    log.command("DEL_DEV", &mut control, |control| {
        // What the driver keeps for whoever added it tells this device from another of the same number.
        let is_ours = control.info(info.id())?.as_raw().ublksrv_flags == info.as_raw().ublksrv_flags;
        if !is_ours {
            return Err(Error::Replaced { device: info.id() });
        }
        control.delete(info.id())?;
        Ok(((), format!("device {} is gone, and its number is free", info.id())))
    });
}
