// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices with metadata beside their data on a real driver: the block layer sums up what it writes, and checks what it reads.
#![cfg_attr(not(have_ublk), allow(dead_code, reason = "the tests are ignored, not left out"))]
#![allow(clippy::print_stdout, reason = "a test says what was refused and what was counted")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]

mod harness;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use harness::{Aligned, Served, nodes, serve};
use ublk::mode::{self, UserCopied};
use ublk::{
    Cache, Checksum, Control, Errno, Error, Features, Integrity, IntegrityFlags, NewDevice, Operation, Params, Request,
    RequestFlags, Sectors,
};

const SECTORS: u64 = 16384;

/// A disk in memory with a piece of metadata beside each sector.
struct Target {
    metadata_bytes: usize,
    memory: Mutex<(Vec<u8>, Vec<u8>)>,
    /// A READ gets all its metadata but the last byte.
    is_stingy: AtomicBool,
    /// Requests that were of more than one interval.
    long: AtomicU64,
}

impl Target {
    fn new(metadata_bytes: u8) -> Target {
        let metadata_bytes = usize::from(metadata_bytes);
        let sectors = usize::try_from(SECTORS).unwrap();
        // All ones is what nobody has written: there is nothing to check.
        let memory = Mutex::new((vec![0; sectors * 512], vec![0xff; sectors * metadata_bytes]));
        Target { metadata_bytes, memory, is_stingy: AtomicBool::new(false), long: AtomicU64::new(0) }
    }

    fn answer<M: UserCopied>(&self, mut request: Request<'_, M>) {
        let start = usize::try_from(request.start().raw()).unwrap();
        let count = usize::try_from(request.len_bytes() / 512).unwrap();
        if ![Operation::READ, Operation::WRITE].contains(&request.operation()) {
            assert_eq!(request.integrity_len(), 0);
            return request.complete();
        }
        assert!(request.flags().contains(RequestFlags::INTEGRITY));
        assert_eq!(request.integrity_len(), count * self.metadata_bytes);
        self.long.fetch_add(u64::from(count > 1), Ordering::Relaxed);
        let mut memory = self.memory.lock().unwrap();
        let (data, metadata) = &mut *memory;
        let data = &mut data[start * 512..(start + count) * 512];
        let metadata = &mut metadata[start * self.metadata_bytes..(start + count) * self.metadata_bytes];
        // The other direction, and what is behind the end, are refused before the driver is asked.
        assert_eq!(request.read_integrity_at(metadata.len(), &mut [0]), Err(Errno::EINVAL));
        assert_eq!(request.write_integrity_at(metadata.len(), &[0]), Err(Errno::EINVAL));
        let moved = if request.operation() == Operation::READ {
            assert_eq!(request.read_integrity_at(0, &mut [0]), Err(Errno::EINVAL));
            let given = metadata.len() - usize::from(self.is_stingy.load(Ordering::Relaxed));
            // In two parts, as a target may have it.
            let (first, second) = metadata[..given].split_at(given / 2);
            let moved = request.write_integrity_at(0, first);
            let moved = moved.and_then(|()| request.write_integrity_at(first.len(), second));
            moved.and_then(|()| request.write_at(0, data))
        } else {
            assert_eq!(request.write_integrity_at(0, &[0]), Err(Errno::EINVAL));
            let (first, second) = metadata.split_at_mut(self.metadata_bytes / 2);
            let moved = request.read_integrity_at(0, first);
            let moved = moved.and_then(|()| request.read_integrity_at(first.len(), second));
            moved.and_then(|()| request.read_at(0, data))
        };
        match moved {
            Ok(()) => request.complete(),
            Err(errno) => {
                println!("{:?} of {count} sectors at {start}: {errno}", request.operation());
                request.fail(errno);
            }
        }
    }

    /// Changes a byte of a sector's metadata.
    fn spoil(&self, sector: usize, byte: usize) {
        self.memory.lock().unwrap().1[sector * self.metadata_bytes + byte] ^= 1;
    }

    fn metadata(&self, sector: usize) -> Vec<u8> {
        self.memory.lock().unwrap().1[sector * self.metadata_bytes..][..self.metadata_bytes].to_vec()
    }
}

fn new_device<M: UserCopied>() -> NewDevice<M> {
    NewDevice::new().mode::<M>().integrity().depth(16)
}

fn serve_target<M: UserCopied>(device: NewDevice<M>, integrity: Integrity) -> Result<(Arc<Target>, Served), Error> {
    let target = Arc::new(Target::new(integrity.metadata_bytes));
    let params = Params::new(Sectors::new(SECTORS), Cache::None).integrity(integrity);
    let served = serve(device, params, {
        let target = Arc::clone(&target);
        move |request| target.answer(request)
    });
    served.map(|served| (target, served))
}

/// Whether this driver has metadata. Where it has not, that is refused by name, and nothing is left.
fn is_offered() -> bool {
    let offered = Control::open().unwrap().features().unwrap().contains(Features::INTEGRITY);
    if !offered {
        let before = nodes();
        let error = serve_target(new_device::<mode::UserCopy>(), Integrity::new(8, 512)).err().expect("it is refused");
        println!("{error}");
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains("UBLK_F_INTEGRITY (since Linux 7.0)"), "{error}");
        assert_eq!(nodes(), before);
    }
    offered
}

fn with_checksum(metadata_bytes: u8, checksum: Checksum, offset: u8) -> Integrity {
    Integrity::new(metadata_bytes, 512).checksum(checksum, offset).flags(IntegrityFlags::REFERENCE_TAG)
}

/// T10 DIF's checksum.
fn crc16(data: &[u8]) -> u16 {
    data.iter().fold(0, |crc: u16, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| crc << 1 ^ if crc & 0x8000 == 0 { 0 } else { 0x8bb7 })
    })
}

/// A byte for each place of the disk.
fn pattern(len: usize, offset: u64) -> Aligned {
    let mut bytes = Aligned::filled(len, 0);
    for (index, byte) in bytes.iter_mut().enumerate() {
        let place = offset + u64::try_from(index).unwrap();
        *byte = u8::try_from((place + place / 512 * 7) % 251).unwrap();
    }
    bytes
}

fn read_error(disk: &File, offset: u64) -> Option<Errno> {
    let error = disk.read_exact_at(&mut Aligned::filled(8192, 0), offset).err()?;
    error.raw_os_error().map(Errno::from_raw)
}

/// What was written is read back, and one bit of the metadata that is another is found.
fn protects<M: UserCopied>(integrity: Integrity) {
    protects_on(new_device::<M>(), integrity);
}

fn protects_on<M: UserCopied>(device: NewDevice<M>, integrity: Integrity) {
    let (target, served) = serve_target(device, integrity).unwrap();
    let disk = served.open_direct();
    for (len, offset) in [(512, 0), (4096, 4096), (65536, 1 << 20), (512 << 10, 2 << 20), (1 << 20, 4 << 20)] {
        disk.write_all_at(&pattern(len, offset), offset).unwrap();
        let mut read = Aligned::filled(len, 0xee);
        disk.read_exact_at(&mut read, offset).unwrap();
        assert!(read[..] == pattern(len, offset)[..], "{len} bytes at {offset}");
    }
    assert!(target.long.load(Ordering::Relaxed) > 0);
    // What nobody wrote, and what nobody protects.
    assert_eq!(read_error(&disk, 6 << 20), None);

    let sector = (1 << 20) / 512 + 9;
    let offset = u64::try_from(sector / 16 * 16 * 512).unwrap();
    assert_eq!(read_error(&disk, offset), None);
    target.spoil(sector, usize::from(integrity.protection_offset_bytes));
    assert_eq!(read_error(&disk, offset), Some(Errno::EILSEQ));
    target.spoil(sector, usize::from(integrity.protection_offset_bytes));
    assert_eq!(read_error(&disk, offset), None);

    // A READ without all of its metadata is none.
    target.is_stingy.store(true, Ordering::Relaxed);
    assert_eq!(read_error(&disk, offset), Some(Errno::EIO));
    target.is_stingy.store(false, Ordering::Relaxed);
    drop(disk);
    served.stop().unwrap();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_bit_that_was_changed_is_found_by_each_checksum() {
    if is_offered() {
        protects::<mode::UserCopy>(with_checksum(8, Checksum::CRC16_T10DIF, 0));
        protects::<mode::UserCopy>(with_checksum(8, Checksum::IP, 0));
        protects::<mode::UserCopy>(with_checksum(64, Checksum::CRC16_T10DIF, 56));
        protects::<mode::UserCopy>(with_checksum(16, Checksum::CRC64_NVME, 0));
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn metadata_is_there_in_every_mode_that_copies_by_call() {
    if is_offered() {
        protects::<mode::ZeroCopy>(with_checksum(8, Checksum::CRC16_T10DIF, 0));
        protects::<mode::AutoRegister>(with_checksum(8, Checksum::CRC16_T10DIF, 0));
    }
}

/// A driver that has metadata has batches too: both came with Linux 7.0.
#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn metadata_is_there_in_batches_too() {
    if is_offered() {
        protects_on(new_device::<mode::UserCopy>().batch(), with_checksum(8, Checksum::CRC16_T10DIF, 0));
        protects_on(new_device::<mode::ZeroCopy>().batch(), with_checksum(8, Checksum::CRC16_T10DIF, 0));
        protects_on(new_device::<mode::AutoRegister>().batch(), with_checksum(16, Checksum::CRC64_NVME, 0));
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn the_metadata_of_a_sector_is_its_checksum_and_its_number() {
    if !is_offered() {
        return;
    }
    let (target, served) =
        serve_target(new_device::<mode::UserCopy>(), with_checksum(8, Checksum::CRC16_T10DIF, 0)).unwrap();
    let disk = served.open_direct();
    disk.write_all_at(&pattern(4096, 8192), 8192).unwrap();
    for sector in 16..24 {
        let data = pattern(512, sector * 512);
        let metadata = target.metadata(usize::try_from(sector).unwrap());
        assert_eq!(metadata[..2], crc16(&data).to_be_bytes(), "sector {sector}");
        assert_eq!(metadata[4..], u32::try_from(sector).unwrap().to_be_bytes(), "sector {sector}");
    }
    drop(disk);
    served.stop().unwrap();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn requests_that_the_block_layer_has_joined_keep_their_metadata() {
    if !is_offered() {
        return;
    }
    let (target, served) =
        serve_target(new_device::<mode::UserCopy>(), with_checksum(8, Checksum::CRC16_T10DIF, 0)).unwrap();
    target.long.store(0, Ordering::Relaxed);
    let output = Command::new("fio")
        .args([
            "--name=job",
            &format!("--filename={}", served.block_path()),
            "--rw=write",
            "--bs=512",
            "--size=1M",
            "--direct=1",
            "--ioengine=libaio",
            "--iodepth=16",
            "--iodepth_batch=16",
            "--iodepth_batch_complete=16",
            "--verify=crc32c",
            "--do_verify=1",
            "--verify_fatal=1",
        ])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}");
    // fio asks for single sectors, sixteen at once.
    assert!(target.long.load(Ordering::Relaxed) > 0, "none was joined");
    served.stop().unwrap();
}
