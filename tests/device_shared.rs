// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that a client shares with the server, so that nothing is copied by the driver (`UBLK_F_SHMEM_ZC`), on a real driver.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]

mod harness;
mod planted;

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::thread;

use harness::{Aligned, nodes, open_direct, quiet_device, serve};
use planted::{Direction, direct};
use ublk::mode::{self, Mode};
use ublk::{
    Cache, Control, DeletedId, Device, Errno, Error, Event, Fd, Features, NewDevice, Operation, Params, QueueId,
    Request, Sectors, SharedIndex, SharedMemory,
};

const SECTORS: u64 = 16384;
const LEN: usize = 256 << 10;

fn params() -> Params {
    Params::new(Sectors::new(SECTORS), Cache::None)
}

fn device<M: Mode>() -> NewDevice<M> {
    quiet_device(4).mode::<M>().features(quiet_features() | Features::SHMEM_ZC)
}

/// What `quiet_device` asks for, which `features` replaces.
fn quiet_features() -> Features {
    let offered = Control::open().unwrap().features().unwrap();
    if offered.contains(Features::NO_AUTO_PART_SCAN) { Features::NO_AUTO_PART_SCAN } else { Features::NONE }
}

/// Whether this driver shares memory; if not, it says so by name, and nothing is left.
fn can_share() -> bool {
    match serve(device::<mode::Copy>(), params(), |request| request.complete()) {
        Ok(served) => served.stop().is_ok(),
        Err(error) => {
            assert!(matches!(error, Error::Unsupported { .. }), "{error}");
            assert!(error.to_string().contains("UBLK_F_SHMEM_ZC (since Linux 7.1)"), "{error}");
            assert_eq!(nodes(), Vec::<String>::new());
            false
        }
    }
}

fn pattern(seed: usize) -> Vec<u8> {
    (0..LEN).map(|index| u8::try_from((index / 512 * 3 + index + seed) % 251).unwrap()).collect()
}

fn place_of<M: Mode>(request: &Request<'_, M>) -> (usize, usize) {
    (usize::try_from(request.offset_bytes()).unwrap(), usize::try_from(request.len_bytes()).unwrap())
}

/// A RAM disk that looks at where the data is, and at the tag's own where it is not shared.
fn is_served_from_shared_memory<M: Mode>(
    device: NewDevice<M>,
    own: impl Fn(&mut Request<'_, M>, &mut [u8]) + Send + Sync + 'static,
) {
    let memory = Arc::new(SharedMemory::new(LEN).unwrap());
    let index = Arc::new(OnceLock::<SharedIndex>::new());
    let (shared, others) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let disk = Mutex::new(vec![0_u8; usize::try_from(SECTORS * 512).unwrap()]);
    let (theirs, known, counted) = (memory.clone(), index.clone(), (shared.clone(), others.clone()));
    let served = serve(device, params(), move |mut request: Request<'_, M>| {
        let (start, len) = place_of(&request);
        let mut disk = disk.lock().unwrap();
        let bytes = &mut disk[start..start + len];
        match (request.shared(), request.operation()) {
            (Some(place), operation) => {
                assert_eq!(Some(&place.index), known.get());
                counted.0.fetch_add(1, Ordering::Relaxed);
                match operation {
                    Operation::WRITE => request.read_shared(&theirs, 0, bytes).unwrap(),
                    _ => request.write_shared(&theirs, 0, bytes).unwrap(),
                }
                assert_eq!(request.read_shared(&theirs, len, &mut [0]), Err(Errno::EINVAL), "behind its end");
            }
            (None, _) => {
                counted.1.fetch_add(1, Ordering::Relaxed);
                assert_eq!(request.read_shared(&theirs, 0, &mut [0]), Err(Errno::EINVAL), "it is not shared");
                own(&mut request, bytes);
            }
        }
        request.complete();
    })
    .unwrap();
    let mut control = Control::open().unwrap();
    index.set(control.register_shared(served.id(), &memory).unwrap()).unwrap();

    let disk = served.open_direct();
    let wanted = pattern(1);
    memory.copy_from(0, &wanted).unwrap();
    assert_eq!(direct(&disk, 8192, memory.fd(), 0, LEN, Direction::Write).unwrap(), LEN);
    assert!(shared.load(Ordering::Relaxed) > 0, "the driver has seen that it is shared");
    let mut read = Aligned::filled(LEN, 0);
    disk.read_exact_at(&mut read, 8192).unwrap();
    assert!(read[..] == wanted[..], "what was shared was written");
    assert!(others.load(Ordering::Relaxed) > 0, "memory of its own is none that is shared");

    let other = pattern(2);
    let mut write = Aligned::filled(LEN, 0);
    write.copy_from_slice(&other);
    disk.write_all_at(&write, 8192).unwrap();
    let before = shared.load(Ordering::Relaxed);
    assert_eq!(direct(&disk, 8192 + 4096, memory.fd(), 4096, LEN - 4096, Direction::Read).unwrap(), LEN - 4096);
    assert!(shared.load(Ordering::Relaxed) > before);
    let mut seen = vec![0; LEN];
    memory.copy_to(0, &mut seen).unwrap();
    assert!(
        seen[..4096] == wanted[..4096] && seen[4096..] == other[4096..],
        "what was read is shared, and no byte more"
    );

    control.unregister_shared(served.id(), *index.get().unwrap()).unwrap();
    let before = shared.load(Ordering::Relaxed);
    assert_eq!(direct(&disk, 0, memory.fd(), 0, LEN, Direction::Write).unwrap(), LEN);
    assert_eq!(shared.load(Ordering::Relaxed), before, "it is shared no longer");
    drop(disk);
    served.stop().unwrap();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn what_a_client_shares_is_copied_by_nobody_but_the_target() {
    if can_share() {
        // A driver that shares memory has batches too, since Linux 7.0.
        for device in [device::<mode::Copy>(), device().batch()] {
            is_served_from_shared_memory(device, |request, bytes| match request.operation() {
                Operation::WRITE => bytes.copy_from_slice(request.data()),
                _ => assert_eq!(request.cursor().write(bytes), bytes.len()),
            });
        }
        is_served_from_shared_memory(device::<mode::GetData>().buffers(1), |request, bytes| {
            match request.operation() {
                Operation::WRITE => bytes.copy_from_slice(request.data()),
                _ => assert_eq!(request.cursor().write(bytes), bytes.len()),
            }
        });
        for device in [device::<mode::UserCopy>(), device().batch()] {
            is_served_from_shared_memory(device, |request, bytes| match request.operation() {
                Operation::WRITE => request.read_at(0, bytes).unwrap(),
                _ => request.write_at(0, bytes).unwrap(),
            });
        }
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_target_that_does_not_look_at_shared_memory_loses_nothing_in_silence() {
    if !can_share() {
        return;
    }
    let served = serve(device::<mode::Copy>(), params(), |request| {
        if request.shared().is_some() {
            assert!(request.data().is_empty(), "nothing is in the tag's buffer");
        }
        request.complete();
    })
    .unwrap();
    let memory = SharedMemory::new(LEN).unwrap();
    let mut control = Control::open().unwrap();
    control.register_shared(served.id(), &memory).unwrap();
    let disk = served.open_direct();
    for way in [Direction::Write, Direction::Read] {
        let moved = direct(&disk, 0, memory.fd(), 0, 4096, way);
        assert_eq!(moved.err().and_then(|error| error.raw_os_error()), Some(Errno::EIO.raw()));
    }
    drop(disk);
    served.stop().unwrap();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn operations_of_the_ring_reach_what_a_client_shares() {
    if can_share() {
        let device = device::<mode::Copy>().operations(1);
        operations_reach_what_a_client_shares(&device, Registered::WhileServed);
        operations_reach_what_a_client_shares(&device, Registered::Before);
        operations_reach_what_a_client_shares(&device.batch(), Registered::WhileServed);
        operations_reach_what_a_client_shares(&device.batch(), Registered::Before);
        operations_reach_what_a_client_shares(&device.mode::<mode::GetData>(), Registered::Before);
    }
}

/// When the memory is registered, with the device and with the queue's ring.
#[derive(Clone, Copy, PartialEq)]
enum Registered {
    /// Before the queue is fetched.
    Before,
    /// While the device is live, by the queue's thread.
    WhileServed,
}

/// The disk is a file, which operations of the ring read into and write from shared memory.
fn operations_reach_what_a_client_shares<M: Mode>(wanted: &NewDevice<M>, when: Registered) {
    let path = format!("/tmp/shared-{}", std::process::id());
    let file: File = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    file.set_len(SECTORS * 512).unwrap();
    let ours = Fd::from(OwnedFd::from(file.try_clone().unwrap()));
    let memory = SharedMemory::new(LEN).unwrap();
    let mut device = Device::add(Control::open().unwrap(), wanted, &params()).unwrap();
    let mut prepared = device.queue(QueueId::new(0)).unwrap();
    if when == Registered::Before {
        assert_eq!(prepared.device().id(), device.info().id());
        let index = device.control().register_shared(prepared.device().id(), &memory).unwrap();
        prepared.register_shared(index, &memory).unwrap();
        assert!(prepared.register_shared(index, &memory).is_err(), "once");
    }
    let backing = prepared.register_file(&ours).unwrap();
    let (fetched, is_fetched) = mpsc::channel();
    let (index, known) = mpsc::channel::<SharedIndex>();
    let used_shared = AtomicBool::new(false);
    let info = *device.info();
    thread::scope(|scope| {
        let (memory, used_shared) = (&memory, &used_shared);
        scope.spawn(move || {
            let queue = prepared.fetch().unwrap();
            fetched.send(()).unwrap();
            while !queue.is_finished() {
                queue.wait(None).unwrap();
                while let Some(event) = queue.next_event().unwrap() {
                    let request = match event {
                        Event::Completed(completed) => {
                            completed.finish();
                            continue;
                        }
                        Event::Request(request) => request,
                    };
                    if let Ok(index) = known.try_recv() {
                        queue.register_shared(index, memory).unwrap();
                        assert!(queue.register_shared(index, memory).is_err(), "once");
                    }
                    used_shared.fetch_or(request.shared().is_some(), Ordering::Relaxed);
                    let (operation, offset, (_, len)) =
                        (request.operation(), request.offset_bytes(), place_of(&request));
                    let mut operations = request.operations();
                    match operation {
                        Operation::READ => operations.read(backing, offset, 0..len).unwrap(),
                        _ => operations.write(backing, offset, 0..len).unwrap(),
                    }
                    operations.submit();
                }
            }
        });
        is_fetched.recv().unwrap();
        device.start().unwrap();
        if when == Registered::WhileServed {
            index.send(device.control().register_shared(info.id(), memory).unwrap()).unwrap();
        }
        let disk = open_direct(info.id());
        let bytes = pattern(3);
        memory.copy_from(0, &bytes).unwrap();
        assert_eq!(direct(&disk, 65536, memory.fd(), 0, LEN, Direction::Write).unwrap(), LEN);
        let mut stored = vec![0; LEN];
        file.read_exact_at(&mut stored, 65536).unwrap();
        assert!(stored == bytes);
        memory.copy_from(0, &vec![0; LEN]).unwrap();
        assert_eq!(direct(&disk, 65536, memory.fd(), 0, LEN, Direction::Read).unwrap(), LEN);
        let mut seen = vec![0; LEN];
        memory.copy_to(0, &mut seen).unwrap();
        assert!(seen == bytes && used_shared.load(Ordering::Relaxed));
        drop(disk);
        device.stop().unwrap();
    });
    assert_eq!(device.delete(), Ok(DeletedId::Free));
}
