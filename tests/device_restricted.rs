// SPDX-License-Identifier: MIT OR Apache-2.0
//! Queues whose rings are restricted to what their targets have declared: the kernel refuses everything else, and a target that keeps
//! to it notices nothing, in every mode that the driver has.
#![cfg_attr(not(have_ublk), allow(dead_code, reason = "the tests are ignored, not left out"))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is wrong")]
#![forbid(unsafe_code)]

mod harness;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use harness::{Aligned, nodes, open_direct, quiet_device, serve_events};
use ublk::mode::{self, Mode};
use ublk::{
    Cache, Control, DetachedRequest, Device, Errno, Error, Event, Fd, Features, NewDevice, Operation, Params,
    PreparedQueue, QueueId, Request, RingFile, RingOperation, Sectors, Server, StopHandle, Stopped, SystemCall,
};

const LEN: u64 = 1 << 20;

/// A file that is gone when the test is, with a byte in it that is not zero everywhere.
struct Backing {
    path: PathBuf,
    file: File,
}

impl Backing {
    fn new(name: &str) -> Backing {
        let path = std::env::temp_dir().join(format!("restricted-{}-{name}", std::process::id()));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        file.write_all_at(&vec![7; usize::try_from(LEN).unwrap()], 0).unwrap();
        Backing { path, file }
    }

    fn fd(&self) -> Fd {
        Fd::from(OwnedFd::from(self.file.try_clone().unwrap()))
    }

    fn byte(&self, at: u64) -> u8 {
        let mut byte = [0];
        self.file.read_exact_at(&mut byte, at).unwrap();
        byte[0]
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        // Whatever the test said, it is not about this.
        let _ = fs::remove_file(&self.path);
    }
}

fn params() -> Params {
    Params::new(Sectors::new(LEN / 512), Cache::Volatile).discard(4096, Sectors::new(LEN / 512))
}

/// What became of the operations of a request.
type Seen = Arc<Mutex<Vec<(Operation, Vec<Result<u32, Errno>>)>>>;

/// Notes what became of a request's operations, and answers it.
fn note<M: Mode>(seen: &Seen, completed: ublk::Completed<'_, M>) {
    let results: Vec<Result<u32, Errno>> = completed.results().collect();
    seen.lock().unwrap().push((completed.request().operation(), results));
    // A time-out says so when it is over.
    match completed.error().filter(|errno| *errno != Errno::ETIME) {
        Some(errno) => completed.into_request().fail(errno),
        None => completed.into_request().complete(),
    }
}

/// Starts for each request what a disk that is a file would, and for a FLUSH a time-out too.
fn start<M: Mode>(file: RingFile, request: Request<'_, M>) {
    let (operation, at) = (request.operation(), request.offset_bytes());
    let len = usize::try_from(request.len_bytes()).unwrap();
    let mut operations = request.operations();
    match operation {
        Operation::READ => {
            operations.read(file, at, 0..len / 2).unwrap();
            let rest = u64::try_from(len / 2).unwrap();
            operations.read_vectored(file, at + rest, &[len / 2..len / 4 * 3, len / 4 * 3..len]).unwrap();
        }
        Operation::WRITE => {
            operations.write(file, at, 0..len).unwrap();
            operations.link().unwrap();
            operations.fdatasync(file).unwrap();
            operations.in_worker().unwrap();
        }
        Operation::FLUSH => {
            operations.fsync(file).unwrap();
            operations.timeout(Duration::from_millis(1)).unwrap();
        }
        _ => operations.fallocate(file, 3, at, u64::try_from(len).unwrap()).unwrap(),
    }
    operations.submit();
}

/// Serves a file in a mode by a ring that may do this, does the client's part, and says what became of the operations.
fn served<M: Mode>(
    device: NewDevice<M>,
    backing: &Backing,
    allowed: &'static [RingOperation],
    client: impl FnOnce(&File),
) -> Vec<(Operation, Vec<Result<u32, Errno>>)> {
    let (seen, fd): (Seen, Fd) = (Seen::default(), backing.fd());
    let noted = seen.clone();
    let prepare = move |queue: &mut PreparedQueue<M>| {
        queue.restrict(allowed)?;
        queue.register_file(&fd)
    };
    let target = move |file: &RingFile, event: Event<'_, M>| match event {
        Event::Request(request) => start(*file, request),
        Event::Completed(completed) => note(&noted, completed),
    };
    let served = serve_events(device.operations(4), params(), prepare, target).unwrap();
    client(&open_direct(served.id()));
    assert_eq!(served.stop(), Ok(Stopped::Handle));
    assert_eq!(nodes(), [""; 0]);
    let seen = seen.lock().unwrap();
    seen.clone()
}

/// Does something with a device of each mode that this driver has, one by one and in batches.
macro_rules! in_each_mode {
    ($do:ident) => {
        let offered = Control::open().unwrap().features().unwrap();
        let has = |feature| offered.contains(feature);
        $do("copy", quiet_device(4));
        $do("user copy", quiet_device(4).mode::<mode::UserCopy>());
        if has(Features::SUPPORT_ZERO_COPY) {
            $do("zero copy", quiet_device(4).mode::<mode::ZeroCopy>());
        }
        if has(Features::AUTO_BUF_REG) {
            $do("automatic registration", quiet_device(4).mode::<mode::AutoRegister>());
        }
        if has(Features::BATCH_IO) {
            $do("copy in batches", quiet_device(4).batch());
            $do("automatic registration in batches", quiet_device(4).mode::<mode::AutoRegister>().batch());
        }
    };
}

/// Writes behind what was written; a failure, where the client gets one.
fn sync(disk: &File) -> io::Result<()> {
    disk.sync_all()
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn an_operation_that_was_not_declared_is_refused_by_the_kernel_and_reaches_no_file() {
    fn of<M: Mode>(name: &str, device: NewDevice<M>) {
        let backing = Backing::new("less");
        let seen = served(device, &backing, &[RingOperation::Read], |disk| {
            let mut block = Aligned::filled(4096, 0);
            disk.read_exact_at(&mut block, 8192).unwrap();
            assert!(block.iter().all(|byte| *byte == 7), "{name}");
            let written = disk.write_all_at(&Aligned::filled(4096, 9), 8192);
            assert_eq!(written.unwrap_err().raw_os_error(), Some(libc::EIO), "{name}");
            assert_eq!(sync(disk).unwrap_err().raw_os_error(), Some(libc::EIO), "{name}");
            // It serves on.
            disk.read_exact_at(&mut block, 0).unwrap();
        });
        let refused = Err(Errno::EACCES);
        // An older kernel reads the partition table too.
        let (reads, others): (Vec<_>, Vec<_>) =
            seen.into_iter().partition(|(operation, _)| *operation == Operation::READ);
        assert!(reads.len() >= 2 && reads.iter().all(|(_, results)| results[..] == [Ok(2048), Ok(2048)]), "{reads:?}");
        let expected = [(Operation::WRITE, vec![refused, refused]), (Operation::FLUSH, vec![refused, refused])];
        assert_eq!(others, expected, "{name}");
        assert_eq!(backing.byte(8192), 7, "{name}");
    }
    in_each_mode!(of);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_target_that_keeps_to_what_it_declared_notices_nothing() {
    const ALL: &[RingOperation] = &[
        RingOperation::Read,
        RingOperation::Write,
        RingOperation::Sync,
        RingOperation::Fallocate,
        RingOperation::Timeout,
        RingOperation::Send,
        RingOperation::Receive,
    ];
    fn of<M: Mode>(name: &str, device: NewDevice<M>) {
        let backing = Backing::new("all");
        let seen = served(device, &backing, ALL, |disk| {
            disk.write_all_at(&Aligned::filled(8192, 9), 4096).unwrap();
            sync(disk).unwrap();
            let status = std::process::Command::new("blkdiscard")
                .args(["-o", "4096", "-l", "4096", &format!("/dev/{}", nodes()[0])])
                .status()
                .unwrap();
            assert!(status.success(), "{name}");
            let mut block = Aligned::filled(12288, 1);
            disk.read_exact_at(&mut block, 0).unwrap();
            assert!(block[..4096].iter().all(|byte| *byte == 7), "{name}");
            assert!(block[4096..8192].iter().all(|byte| *byte == 0), "{name}");
            assert!(block[8192..].iter().all(|byte| *byte == 9), "{name}");
        });
        let of_kind = |kind| seen.iter().find(|(operation, _)| *operation == kind).map(|(_, results)| results.clone());
        assert_eq!(of_kind(Operation::WRITE), Some(vec![Ok(8192), Ok(0)]), "{name}");
        assert_eq!(of_kind(Operation::FLUSH), Some(vec![Ok(0), Err(Errno::ETIME)]), "{name}");
        assert_eq!(of_kind(Operation::DISCARD), Some(vec![Ok(0)]), "{name}");
        assert!(seen.contains(&(Operation::READ, vec![Ok(6144), Ok(6144)])), "{name}: {seen:?}");
        assert_eq!((backing.byte(4096), backing.byte(8192)), (0, 9), "{name}");
    }
    in_each_mode!(of);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_target_that_declared_nothing_answers_at_once_and_from_other_threads() {
    let stop = StopHandle::new().unwrap();
    let server = Server::new(quiet_device(4).queues(2), params()).threads(2).stop_on(&stop).restrict(&[]);
    let (give, get) = mpsc::channel::<DetachedRequest>();
    thread::scope(|scope| {
        scope.spawn(move || get.into_iter().for_each(|request| request.complete().unwrap()));
        let stopped = server.run(
            |request| match request.operation() {
                Operation::READ => give.send(request.detach()).unwrap(),
                _ => request.complete(),
            },
            |info| {
                let disk = open_direct(info.id());
                let mut block = Aligned::filled(4096, 1);
                disk.write_all_at(&block, 0).unwrap();
                disk.read_exact_at(&mut block, 0).unwrap();
                assert!(block.iter().all(|byte| *byte == 0));
                stop.stop();
            },
        );
        assert_eq!(stopped, Ok(Stopped::Handle));
        drop(give);
    });
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_queue_is_restricted_once() {
    let mut device = Device::add(Control::open().unwrap(), &quiet_device(4), &params()).unwrap();
    let mut queue = device.queue(QueueId::new(0)).unwrap();
    assert_eq!(queue.restrict(&[RingOperation::Read]), Ok(()));
    let again = Err(Error::System { call: SystemCall::Restrict, errno: Errno::EBUSY });
    assert_eq!(queue.restrict(&[RingOperation::Read]), again);
}
