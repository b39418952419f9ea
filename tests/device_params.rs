// SPDX-License-Identifier: MIT OR Apache-2.0
//! Each parameter of a device on a real driver: what is wrong is refused by name, what is at the edge is taken, and what was
//! set is what the driver and the block layer say.
#![cfg_attr(not(have_ublk), allow(dead_code, reason = "the tests are ignored, not left out"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]

mod harness;
mod planted;

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use harness::{Aligned, Served, nodes, serve};
use ublk::mode;
use ublk::{
    Cache, Checksum, Command, Control, Device, DeviceId, Errno, Error, Features, Integrity, IntegrityFlags, NewDevice,
    Operation, ParamTypes, Params, Request, Sectors, Sent, SharedIndex, SharedMemory, SystemCall, Zones,
};

/// Ids are given from 0 up; nobody else has one up here.
const HIGH: DeviceId = DeviceId::new(4711);

const ZONED: Features = Features::ZONED.union(Features::USER_COPY);
const INTEGRITY: Features = Features::INTEGRITY.union(Features::USER_COPY);

fn open() -> Control {
    Control::open().unwrap()
}

fn offered() -> Features {
    open().features().unwrap()
}

fn sectors(count: u64) -> Sectors {
    Sectors::new(count)
}

/// 64 MiB.
fn disk() -> Params {
    Params::new(sectors(1 << 17), Cache::None)
}

fn forgetful(request: Request<'_>) {
    match request.operation() {
        Operation::READ | Operation::WRITE | Operation::DISCARD | Operation::WRITE_ZEROES | Operation::FLUSH => {
            request.complete()
        }
        _ => request.fail(Errno::EOPNOTSUPP),
    }
}

fn refused(command: Command, errno: Errno) -> Error {
    Error::Control { command, device: Some(HIGH), errno, sent: Sent::default() }
}

/// What the block layer says of a live device.
fn attribute(served: &Served, file: &str) -> String {
    let path = format!("/sys/block/ublkb{}/{file}", served.id());
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}")).trim().to_owned()
}

fn assert_attributes(served: &Served, expected: &[(&str, &str)]) {
    let said: Vec<(&str, String)> = expected.iter().map(|(file, _)| (*file, attribute(served, file))).collect();
    let expected: Vec<(&str, String)> = expected.iter().map(|(file, value)| (*file, (*value).to_owned())).collect();
    assert_eq!(said, expected);
}

/// Whether the driver is so old that it lacks the alignment and the segments of memory: what it offers first is from the
/// same release.
fn is_before_6_15() -> bool {
    !offered().contains(Features::SUPPORT_ZERO_COPY)
}

// Refused by name.

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn parameters_that_are_wrong_or_do_not_fit_the_device_are_refused_by_name_before_anything_is_sent() {
    let request = "the largest request has a page or more";
    let boundary = "the boundary of segments is a power of two of 4096 bytes or more";
    let memory = "the alignment of memory is a power of two of 2 bytes or more, and at most a page";
    let first = "the first unit of discard starts before the second, and needs a discard";
    let interval = "the interval of metadata is a power of two of 512 bytes or more, and at most a logical block";
    let zone = "a zone is a power of two of sectors, and a whole number of logical blocks";
    let zones = |size, append| Zones::new(sectors(size), sectors(append));
    let plain: [(Params, &str); 15] = [
        (disk().max_request(sectors(7)), request),
        (disk().max_request(sectors(1025)), "the largest request is not larger than the device's"),
        (disk().io_min_bytes(768), "the smallest good request is a power of two, 512 bytes to 256 MiB"),
        (disk().io_opt_bytes(1 << 29), "the best request is a power of two, 512 bytes to 256 MiB"),
        (disk().physical_block_bytes(1 << 29), "a physical block is a power of two of 512 bytes or more"),
        (disk().block_bytes(4096).chunk(sectors(9)), "a chunk is a whole number of logical blocks"),
        (disk().virt_boundary_bytes(4097), "a virtual boundary is a power of two of 512 bytes or more"),
        (disk().discard(4096, sectors(8)).discard_alignment_bytes(4096), first),
        (disk().dma_alignment(8192), memory),
        (disk().dma_alignment(1), memory),
        (disk().segments(2048, 4096, 1), boundary),
        (disk().segments(4096, 4095, 1), "the largest segment has 4096 bytes or more"),
        (disk().segments(4096, 4096, 0), "a request has a segment or more"),
        (disk().zoned(zones(8192, 256)), "zones need a device with UBLK_F_ZONED"),
        (disk().integrity(Integrity::new(8, 512)), "metadata needs a device with UBLK_F_INTEGRITY"),
    ];
    let zoned = [
        (disk(), "a device with UBLK_F_ZONED has zones"),
        (disk().zoned(zones(8191, 256)), zone),
        (disk().block_bytes(4096).zoned(zones(4, 4)), zone),
        (disk().zoned(zones(1 << 18, 256)), "a zoned disk is a whole number of zones"),
        (disk().zoned(zones(8, 8)), "the largest request has room for a report of all zones, 64 bytes for each"),
        (disk().zoned(zones(8192, 0)), "a zone append has a largest size above 0"),
        (disk().zoned(zones(8192, 256).max_open(17)), "no more zones are open or active than there are"),
        (disk().zoned(zones(8192, 256).max_active(17)), "no more zones are open or active than there are"),
        (disk().zoned(zones(8192, 256).max_open(3).max_active(2)), "no more zones are open than active"),
    ];
    let tuple = "the protection information ends within the metadata: 8 bytes behind its offset, or 16 with a CRC64";
    let flags = "the flags of metadata are LBMD_PI_CAP_INTEGRITY and LBMD_PI_CAP_REFTAG";
    let with_metadata = [
        (Integrity::new(0, 512), "metadata has a byte or more"),
        (Integrity::new(8, 256), interval),
        (Integrity::new(8, 1024), interval),
        (Integrity::new(8, 513), interval),
        (Integrity::new(8, 512).flags(IntegrityFlags::from_bits(4)), flags),
        (Integrity::new(8, 512).flags(IntegrityFlags::REFERENCE_TAG), "a reference tag needs a checksum"),
        (Integrity::new(8, 512).checksum(Checksum::IP, 1), tuple),
        (
            Integrity::new(8, 512).checksum(Checksum::from_raw(9), 0),
            "the checksum of metadata is NONE, IP, CRC16_T10DIF or CRC64_NVME",
        ),
    ];
    let mut all: Vec<(Features, Params, &str)> = Vec::new();
    all.extend(plain.map(|(params, what)| (Features::NONE, params, what)));
    all.extend(zoned.map(|(params, what)| (ZONED, params, what)));
    all.extend(with_metadata.map(|(integrity, what)| (INTEGRITY, disk().integrity(integrity), what)));
    // A thread that can send nothing: whatever tries has another error.
    let tried = thread::spawn(move || {
        planted::forbid(libc::SYS_io_uring_enter, libc::EPERM);
        let add = |features, params: &Params| {
            Device::add(open(), &NewDevice::new().id(HIGH).features(features), params).map(drop)
        };
        for (features, params, what) in all {
            assert_eq!(add(features, &params), Err(Error::Invalid { what }), "{params:?}");
        }
        // That the filter works.
        let sent = Error::System { call: SystemCall::IoUringEnter, errno: Errno::EPERM };
        assert_eq!(add(Features::NONE, &disk()), Err(sent));
    });
    tried.join().unwrap();
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn parameters_that_the_driver_is_too_old_for_are_named_with_their_first_linux_and_leave_no_device() {
    let asked = [
        (disk().dma_alignment(512), ParamTypes::DMA_ALIGN),
        (disk().segments(4096, 4096, 1), ParamTypes::SEGMENT),
        (disk().dma_alignment(512).segments(4096, 4096, 1), ParamTypes::DMA_ALIGN | ParamTypes::SEGMENT),
    ];
    for (params, missing) in asked {
        let added = Device::add(open(), &NewDevice::new().id(HIGH), &params).map(drop);
        if is_before_6_15() {
            assert_eq!(added, Err(Error::UnsupportedParams { missing }));
            let sentence = added.unwrap_err().to_string();
            assert!(sentence.contains("(since Linux 6.15)"), "{sentence}");
        } else {
            assert_eq!(added, Ok(()));
        }
        assert_eq!(nodes(), [""; 0]);
    }
    let integrity = disk().integrity(Integrity::new(8, 512));
    let added =
        Device::add(open(), &NewDevice::new().id(HIGH).mode::<mode::UserCopy>().integrity(), &integrity).map(drop);
    if offered().contains(Features::INTEGRITY) {
        assert_eq!(added, Ok(()));
    } else {
        assert_eq!(added, Err(Error::Unsupported { missing: Features::INTEGRITY, offered: offered() }));
    }
    assert_eq!(nodes(), [""; 0]);
}

// Taken.

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn what_is_set_is_what_the_driver_and_the_block_layer_say() {
    let params = Params::new(sectors(1 << 17), Cache::VolatileWithFua).rotational().block_bytes(1024);
    let params = params.physical_block_bytes(4096).io_min_bytes(8192).io_opt_bytes(65_536);
    let params = params.max_request(sectors(256)).chunk(sectors(512));
    let params = params.discard(16_384, sectors(4096)).discard_alignment_bytes(8192).write_zeroes(sectors(2048));
    let served = serve(NewDevice::new(), params, forgetful).unwrap();
    let told = open().params(served.id()).unwrap();
    assert_eq!(told.limits(), params.limits());
    assert_eq!((told.size(), told.attributes()), (params.size(), params.attributes()));
    // The disk's own `discard_alignment` is of no use: since Linux 5.19 it shows another number (`alignment_offset`).
    let expected = [
        ("size", "131072"),
        ("ro", "0"),
        ("queue/rotational", "1"),
        ("queue/write_cache", "write back"),
        ("queue/fua", "1"),
        ("queue/logical_block_size", "1024"),
        ("queue/physical_block_size", "4096"),
        ("queue/minimum_io_size", "8192"),
        ("queue/optimal_io_size", "65536"),
        ("queue/max_hw_sectors_kb", "128"),
        ("queue/chunk_sectors", "512"),
        ("queue/discard_granularity", "16384"),
        ("queue/discard_max_hw_bytes", "2097152"),
        ("queue/write_zeroes_max_bytes", "1048576"),
    ];
    assert_attributes(&served, &expected);
    served.stop().unwrap();

    let params = disk().read_only().virt_boundary_bytes(4096);
    let served = serve(NewDevice::new(), params, forgetful).unwrap();
    assert_eq!(open().params(served.id()).unwrap().limits().virt_boundary_bytes, Some(4096));
    assert_attributes(
        &served,
        &[("ro", "1"), ("queue/virt_boundary_mask", "4095"), ("queue/write_cache", "write through")],
    );
    served.stop().unwrap();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn the_memory_of_requests_is_aligned_and_cut_as_it_was_said() {
    if is_before_6_15() {
        let missing = ParamTypes::DMA_ALIGN | ParamTypes::SEGMENT;
        let started = serve(NewDevice::new(), disk().dma_alignment(512).segments(4096, 4096, 1), forgetful).map(drop);
        assert_eq!(started, Err(Error::UnsupportedParams { missing }));
        assert_eq!(nodes(), [""; 0]);
        return;
    }
    for (alignment, boundary, bytes, count) in
        [(2, 4096, 4096, 1), (512, 65_536, 8192, 7), (4096, 1 << 32, 1 << 20, 128)]
    {
        let params = disk().dma_alignment(alignment).segments(boundary, bytes, count);
        let served = serve(NewDevice::new(), params, forgetful).unwrap();
        let told = open().params(served.id()).unwrap().limits();
        assert_eq!(told.dma_alignment_bytes, Some(alignment));
        let segments = told.segments.unwrap();
        assert_eq!((segments.boundary_bytes, segments.max_bytes, segments.max_segments), (boundary, bytes, count));
        let expected = [alignment - 1, bytes, count.into()].map(|number| number.to_string());
        let files = ["queue/dma_alignment", "queue/max_segment_size", "queue/max_segments"];
        assert_eq!(files.map(|file| attribute(&served, file)), expected);
        // A request of many pieces is cut, and none of it is lost.
        let mut bytes = Aligned::filled(256 << 10, 1);
        served.open_direct().read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0));
        served.stop().unwrap();
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn what_is_at_the_edge_is_taken_and_the_disk_starts() {
    let mut edges = vec![
        disk().max_request(sectors(8)),
        disk().max_request(sectors(1024)),
        disk().max_request(sectors(9)).block_bytes(4096),
        disk().io_min_bytes(512).io_opt_bytes(512),
        disk().io_min_bytes(1 << 28).io_opt_bytes(1 << 28),
        disk().physical_block_bytes(1 << 28),
        disk().chunk(sectors(1)),
        disk().chunk(sectors(9)),
        disk().block_bytes(4096).chunk(sectors(8)),
        disk().chunk(sectors(u64::from(u32::MAX))),
        disk().virt_boundary_bytes(512),
        disk().virt_boundary_bytes(1 << 63),
        disk().discard(1, sectors(1)),
        disk().discard(4096, sectors(u64::from(u32::MAX))).discard_alignment_bytes(4095),
        disk().write_zeroes(sectors(u64::from(u32::MAX))),
    ];
    if !is_before_6_15() {
        edges.extend([
            disk().dma_alignment(2),
            disk().dma_alignment(4096),
            disk().segments(4096, 4096, 1),
            disk().segments(1 << 63, u32::MAX, u16::MAX),
            disk().segments(4096, 65_536, 1).virt_boundary_bytes(4096),
        ]);
    }
    for params in edges {
        let served = serve(NewDevice::new(), params, forgetful).unwrap_or_else(|error| panic!("{error}: {params:?}"));
        let mut bytes = Aligned::filled(32 << 10, 1);
        served.open_direct().read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0), "{params:?}");
        served.stop().unwrap();
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn the_zones_of_a_zoned_device_are_read_back_and_set_again() {
    let mut control = open();
    for zones in [
        Zones::new(sectors(8192), sectors(256)),
        Zones::new(sectors(8192), sectors(8192)).max_open(16).max_active(16),
        Zones::new(sectors(16), sectors(1)).max_open(2).max_active(3),
    ] {
        let info = control.add(&NewDevice::new().id(HIGH).mode::<mode::UserCopy>().zoned()).unwrap();
        let params = disk().zoned(zones);
        control.set_params(&info, &params).unwrap();
        let told = control.params(HIGH).unwrap();
        assert_eq!((told.limits().zones, told.limits().chunk), (Some(zones), Some(zones.size)));
        // What the driver says can be set as it is, although it marks what it would refuse.
        assert!(told.types().contains(ParamTypes::DEVT));
        control.set_params(&info, &told).unwrap();
        assert_eq!(control.params(HIGH), Ok(told));
        control.delete(HIGH).unwrap();
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn the_metadata_of_a_device_with_integrity_is_read_back() {
    let mut control = open();
    if !offered().contains(Features::INTEGRITY) {
        let added = control.add(&NewDevice::new().id(HIGH).mode::<mode::UserCopy>().integrity());
        assert_eq!(added, Err(Error::Unsupported { missing: Features::INTEGRITY, offered: offered() }));
        assert_eq!(Features::INTEGRITY.since(), Some("7.0"));
        assert_eq!(nodes(), [""; 0]);
        return;
    }
    let flags = IntegrityFlags::CAPABLE | IntegrityFlags::REFERENCE_TAG;
    for integrity in [
        Integrity::new(1, 512),
        Integrity::new(8, 4096).checksum(Checksum::IP, 0).flags(flags),
        Integrity::new(64, 512).checksum(Checksum::CRC16_T10DIF, 56).tag_bytes(2).max_segments(3),
        Integrity::new(255, 1024).checksum(Checksum::CRC64_NVME, 239).flags(IntegrityFlags::CAPABLE).tag_bytes(255),
    ] {
        let info = control.add(&NewDevice::new().id(HIGH).mode::<mode::UserCopy>().integrity()).unwrap();
        control.set_params(&info, &disk().block_bytes(4096).integrity(integrity)).unwrap();
        assert_eq!(control.params(HIGH).unwrap().limits().integrity, Some(integrity));
        control.delete(HIGH).unwrap();
    }
}

// Partitions, and larger descriptors.

/// One partition of 1 MiB from 1 MiB on, of type Linux.
fn partition_table() -> [u8; 512] {
    let mut sector = [0; 512];
    sector[450] = 0x83;
    sector[454..458].copy_from_slice(&2048_u32.to_le_bytes());
    sector[458..462].copy_from_slice(&2048_u32.to_le_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

#[expect(unsafe_code, reason = "the standard library has no ioctl")]
fn read_partition_table(disk: &File) -> io::Result<()> {
    const BLKRRPART: libc::Ioctl = 0x125f;
    // SAFETY: this ioctl has no argument.
    let result = unsafe { libc::ioctl(disk.as_raw_fd(), BLKRRPART) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn the_partition_table_is_read_at_the_start_unless_the_device_was_asked_not_to() {
    let quiet = Features::NO_AUTO_PART_SCAN;
    let table = partition_table();
    for features in [Features::NONE, quiet] {
        let reads = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&reads);
        let target = move |mut request: Request<'_>| match request.operation() {
            Operation::READ => {
                counted.fetch_add(1, Ordering::SeqCst);
                if request.offset_bytes() == 0 {
                    request.cursor().write(&table);
                }
                request.complete();
            }
            _ => request.fail(Errno::EOPNOTSUPP),
        };
        let served = match serve(NewDevice::new().features(features), disk(), target) {
            Err(error) if !offered().contains(features) => {
                assert_eq!(error, Error::Unsupported { missing: quiet, offered: offered() });
                assert!(error.to_string().contains("(since Linux 7.0)"), "{error}");
                assert_eq!(nodes(), [""; 0]);
                continue;
            }
            served => served.unwrap(),
        };
        let partition = format!("/sys/block/ublkb{0}/ublkb{0}p1/size", served.id());
        if features.contains(quiet) {
            assert!(!Path::new(&partition).exists());
            assert_eq!(reads.load(Ordering::SeqCst), 0);
            // Whoever wants it asks for it.
            read_partition_table(&served.open_direct()).unwrap();
        }
        // Newer drivers look beside the start.
        while !Path::new(&partition).exists() {
            thread::yield_now();
        }
        assert_eq!(fs::read_to_string(&partition).unwrap().trim(), "2048");
        assert!(reads.load(Ordering::SeqCst) > 0);
        served.stop().unwrap();
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_disk_that_was_asked_not_to_is_never_read_from_its_start_to_its_end() {
    let quiet = Features::NO_AUTO_PART_SCAN;
    if !offered().contains(quiet) {
        assert_eq!(quiet.since(), Some("7.0"));
        return;
    }
    let reads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&reads);
    let target = move |request: Request<'_>| {
        counted.fetch_add(1, Ordering::SeqCst);
        forgetful(request);
    };
    let served = serve(NewDevice::new().features(quiet), disk(), target).unwrap();
    // The end of the disk waits for whatever was under way.
    served.stop().unwrap();
    assert_eq!(reads.load(Ordering::SeqCst), 0);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_device_with_larger_descriptors_is_served_as_any_other() {
    for bytes in [24, 64, 256] {
        let memory = Arc::new(Mutex::new(vec![0_u8; 1 << 20]));
        let target = move |mut request: Request<'_>| {
            let mut memory = memory.lock().unwrap();
            let start = usize::try_from(request.offset_bytes()).unwrap();
            let range = start..start + usize::try_from(request.len_bytes()).unwrap();
            match request.operation() {
                Operation::WRITE => memory[range].copy_from_slice(request.data()),
                Operation::READ => assert_eq!(request.cursor().write(&memory[range.clone()]), range.len()),
                _ => return request.fail(Errno::EOPNOTSUPP),
            }
            request.complete();
        };
        let device = NewDevice::new().queues(2).depth(32).descriptor_bytes(bytes);
        let served = match serve(device, Params::new(sectors(2048), Cache::None), target) {
            Err(error) if !offered().contains(Features::IO_DESC_SIZE) => {
                assert_eq!(error, Error::Unsupported { missing: Features::IO_DESC_SIZE, offered: offered() });
                assert!(error.to_string().contains("(since Linux 7.3)"), "{error}");
                assert_eq!(nodes(), [""; 0]);
                continue;
            }
            served => served.unwrap(),
        };
        assert_eq!(served.info.as_raw().io_desc_size, bytes);
        // Enough at once for every tag to have its turn.
        thread::scope(|scope| {
            for client in 0..16_u8 {
                let disk = served.open_direct();
                scope.spawn(move || {
                    for round in 0..8_u8 {
                        let offset = u64::from(client) * 65_536 + u64::from(round) * 4096;
                        let value = client.wrapping_mul(8).wrapping_add(round);
                        disk.write_all_at(&Aligned::filled(4096, value), offset).unwrap();
                        let mut back = Aligned::filled(4096, !value);
                        disk.read_exact_at(&mut back, offset).unwrap();
                        assert!(back.iter().all(|byte| *byte == value), "{bytes}: {client} {round}");
                    }
                });
            }
        });
        served.stop().unwrap();
    }
}

// Shared memory.

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn shared_memory_is_registered_until_it_is_taken_back_or_the_device_deleted() {
    let mut control = open();
    let memory = SharedMemory::new(65_536).unwrap();
    let reg_buf = |errno| Err(refused(Command::REG_BUF, errno));
    let unreg_buf = |errno| Err(refused(Command::UNREG_BUF, errno));
    // A device without the feature, as on a driver without the command.
    control.add(&NewDevice::new().id(HIGH)).unwrap();
    let registered = control.register_shared(HIGH, &memory);
    assert_eq!(registered, reg_buf(Errno::EOPNOTSUPP));
    let sentence = registered.unwrap_err().to_string();
    assert!(sentence.contains("which is in Linux 7.1"), "{sentence}");
    assert_eq!(
        control.unregister_shared(HIGH, SharedIndex::new(0)),
        Err(refused(Command::UNREG_BUF, Errno::EOPNOTSUPP))
    );
    control.delete(HIGH).unwrap();
    assert_eq!(control.register_shared(HIGH, &memory), reg_buf(Errno::ENODEV));
    if !offered().contains(Features::SHMEM_ZC) {
        return;
    }

    let shared = NewDevice::new().id(HIGH).features(Features::SHMEM_ZC);
    control.add(&shared).unwrap();
    let first = control.register_shared(HIGH, &memory).unwrap();
    let other = SharedMemory::new(4096).unwrap();
    let second = control.register_shared(HIGH, &other).unwrap();
    assert_eq!((first, second), (SharedIndex::new(0), SharedIndex::new(1)));
    // The pages are what is registered, whoever has them mapped, and where.
    let again = SharedMemory::of_memfd(memory.fd().try_clone().unwrap()).unwrap();
    assert_eq!(control.register_shared(HIGH, &again), reg_buf(Errno::EEXIST));
    let file = memory.fd().try_clone().unwrap();
    drop((memory, again));
    let again = SharedMemory::read_only(file).unwrap();
    assert_eq!(control.register_shared(HIGH, &again), reg_buf(Errno::EEXIST));
    control.unregister_shared(HIGH, first).unwrap();
    assert_eq!(control.unregister_shared(HIGH, first), unreg_buf(Errno::ENOENT));
    assert_eq!(control.register_shared(HIGH, &again), Ok(first));
    control.delete(HIGH).unwrap();

    control.add(&shared).unwrap();
    assert_eq!(control.unregister_shared(HIGH, first), unreg_buf(Errno::ENOENT));
    assert_eq!(control.register_shared(HIGH, &other), Ok(first));
    control.delete(HIGH).unwrap();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
#[expect(unsafe_code, reason = "the standard library makes no memfd")]
fn huge_pages_are_shared_memory_too() {
    use std::os::fd::{FromRawFd, OwnedFd};

    const HUGE: u64 = 2 << 20;
    let _one = planted::set("/proc/sys/vm/nr_hugepages", "1");
    // SAFETY: the name is a C string.
    let file = unsafe {
        libc::memfd_create(c"huge".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_HUGETLB | libc::MFD_ALLOW_SEALING)
    };
    assert!(file >= 0, "{}", io::Error::last_os_error());
    // SAFETY: the descriptor is new, and nobody else's.
    let file = unsafe { OwnedFd::from_raw_fd(file) };
    File::from(file.try_clone().unwrap()).set_len(HUGE).unwrap();
    let unsealed = SharedMemory::of_memfd(file.try_clone().unwrap().into()).unwrap_err();
    assert!(unsealed.to_string().contains("F_SEAL_SHRINK"), "{unsealed}");
    // SAFETY: the call takes numbers.
    assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_SHRINK) }, 0);
    let memory = SharedMemory::of_memfd(file.into()).unwrap();
    assert_eq!(u64::try_from(memory.len_bytes()), Ok(HUGE));
    memory.copy_from(memory.len_bytes() - 3, b"end").unwrap();
    let mut control = open();
    if offered().contains(Features::SHMEM_ZC) {
        control.add(&NewDevice::new().id(HIGH).features(Features::SHMEM_ZC)).unwrap();
        assert_eq!(control.register_shared(HIGH, &memory), Ok(SharedIndex::new(0)));
        control.delete(HIGH).unwrap();
    }
    let mut end = [0; 3];
    memory.copy_to(memory.len_bytes() - 3, &mut end).unwrap();
    assert_eq!(&end, b"end");
}
