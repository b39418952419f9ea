// SPDX-License-Identifier: MIT OR Apache-2.0
//! Targets as disks on a real driver: what is switched on is what the block layer is told, and what reaches the target.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]

mod harness;

use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::process::Command;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};

use harness::{Aligned, Served, serve};
use ublk::ring::{Op, Ring};
use ublk::{
    Cache, Discard, Disk, Errno, Error, Fd, Flush, NewDevice, Params, ReadAt, ReadCursor, RequestFlags, Sectors,
    WriteAt, WriteZeroes,
};

/// What reached the target, with offset and length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Read(u64, usize),
    Write(u64, usize),
    Flush,
    Discard(u64, u64),
    WriteZeroes(u64, u64, RequestFlags),
}

/// Memory that can do everything, and remembers what it was called for.
struct Memory {
    bytes: Mutex<Vec<u8>>,
    calls: Mutex<Vec<Call>>,
    /// What every call fails with; 0 for success.
    errno: AtomicI32,
}

impl Memory {
    fn new(size: Sectors) -> Memory {
        let bytes = vec![0; usize::try_from(size.bytes()).unwrap()];
        Memory { bytes: Mutex::new(bytes), calls: Mutex::new(Vec::new()), errno: AtomicI32::new(0) }
    }

    fn note(&self, call: Call) -> Result<(), Errno> {
        self.calls.lock().unwrap().push(call);
        match self.errno.load(Ordering::Relaxed) {
            0 => Ok(()),
            errno => Err(Errno::from_raw(errno)),
        }
    }

    /// What reached it since the last time.
    fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }

    fn clear(&self, offset: u64, len: u64) {
        let (start, len) = (usize::try_from(offset).unwrap(), usize::try_from(len).unwrap());
        self.bytes.lock().unwrap()[start..start + len].fill(0);
    }
}

impl ReadAt for Memory {
    fn read_into(&self, offset: u64, into: &mut ReadCursor<'_>) -> Result<(), Errno> {
        let len = into.remaining();
        into.write(&self.bytes.lock().unwrap()[usize::try_from(offset).unwrap()..][..len]);
        self.note(Call::Read(offset, len))
    }
}

impl WriteAt for Memory {
    fn write_from(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.bytes.lock().unwrap()[usize::try_from(offset).unwrap()..][..data.len()].copy_from_slice(data);
        self.note(Call::Write(offset, data.len()))
    }
}

impl Flush for Memory {
    fn flush(&self) -> Result<(), Errno> {
        self.note(Call::Flush)
    }
}

impl Discard for Memory {
    fn discard(&self, offset: u64, len: u64) -> Result<(), Errno> {
        self.clear(offset, len);
        self.note(Call::Discard(offset, len))
    }
}

impl WriteZeroes for Memory {
    fn write_zeroes(&self, offset: u64, len: u64, flags: RequestFlags) -> Result<(), Errno> {
        self.clear(offset, len);
        // What else the block layer marks a request with is its own affair.
        let flags = RequestFlags::from_bits(flags.bits() & RequestFlags::NOUNMAP.bits());
        self.note(Call::WriteZeroes(offset, len, flags))
    }
}

const SIZE: Sectors = Sectors::new(2048);

/// A disk that is served.
struct Live<T> {
    disk: Arc<Disk<T>>,
    served: Served,
}

fn live<T: ReadAt + Send + Sync + 'static>(disk: Disk<T>) -> Live<T> {
    let params = *disk.params();
    live_as(disk, params)
}

/// Serves a disk that says of itself what `params` says.
fn live_as<T: ReadAt + Send + Sync + 'static>(disk: Disk<T>, params: Params) -> Live<T> {
    let disk = Arc::new(disk);
    let answering = disk.clone();
    let served = serve(NewDevice::new(), params, move |request| answering.answer(request)).unwrap();
    Live { disk, served }
}

impl<T> Live<T> {
    /// What the block layer says in this file of `/sys/block/ublkbN`.
    fn attribute(&self, file: &str) -> String {
        let path = format!("/sys/block/ublkb{}/{file}", self.served.id());
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}")).trim().to_owned()
    }

    /// `ro`, `write_cache`, `discard_max_bytes`, `write_zeroes_max_bytes`.
    fn capabilities(&self) -> [String; 4] {
        ["ro", "queue/write_cache", "queue/discard_max_bytes", "queue/write_zeroes_max_bytes"]
            .map(|file| self.attribute(file))
    }

    fn open(&self) -> File {
        self.served.open_direct()
    }

    fn stop(self) {
        self.served.stop().unwrap();
    }
}

impl Live<Memory> {
    /// What reached the target since the last time.
    fn calls(&self) -> Vec<Call> {
        self.disk.target().calls()
    }

    /// As `calls`, but for reads.
    fn changes(&self) -> Vec<Call> {
        self.calls().into_iter().filter(|call| !matches!(call, Call::Read(..))).collect()
    }
}

/// Gives the range back, and has it read as zeroes. It fails where the disk cannot write zeroes.
fn punch_hole(disk: &File, offset: i64, len: i64) -> Result<(), i32> {
    fallocate(disk, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, offset, len)
}

/// Has the range read as zeroes, and keeps its space. Where the disk cannot write zeroes, zeroes are written to it.
fn zero_range(disk: &File, offset: i64, len: i64) -> Result<(), i32> {
    fallocate(disk, libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE, offset, len)
}

#[expect(
    unsafe_code,
    reason = "a system call that the standard library does not have, on a descriptor of the test's own"
)]
fn fallocate(disk: &File, mode: i32, offset: i64, len: i64) -> Result<(), i32> {
    // SAFETY: it takes numbers, and the descriptor is open as long as `disk` is borrowed.
    match unsafe { libc::fallocate(disk.as_raw_fd(), mode, offset, len) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error().raw_os_error().unwrap()),
    }
}

/// `blkdiscard`; whether it succeeded, and what it said.
fn blkdiscard(path: &str, offset: u64, len: u64) -> (bool, String) {
    let output =
        Command::new("blkdiscard").args(["-o", &offset.to_string(), "-l", &len.to_string(), path]).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn errno_of<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

// What is not switched on.

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn what_was_not_switched_on_never_reaches_the_target() {
    let live = live(Disk::without_cache(SIZE, Memory::new(SIZE)));
    assert_eq!(live.capabilities(), ["0", "write through", "0", "0"]);
    let file = live.open();
    file.write_all_at(&Aligned::filled(8192, 7), 4096).unwrap();
    file.sync_all().unwrap();
    assert_eq!(punch_hole(&file, 0, 4096), Err(libc::EOPNOTSUPP));
    let (discarded, said) = blkdiscard(&live.served.block_path(), 0, 65536);
    assert!(!discarded, "{said}");
    // The block layer writes zeroes where the target cannot.
    zero_range(&file, 8192, 4096).unwrap();
    assert_eq!(live.changes(), [Call::Write(4096, 8192), Call::Write(8192, 4096)]);
    drop(file);
    live.stop();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn what_was_not_switched_on_is_not_supported_should_it_come_all_the_same() {
    // The driver is told more than the disk takes.
    let params = Params::new(SIZE, Cache::Volatile).discard(512, SIZE).write_zeroes(SIZE);
    let live = live_as(Disk::read_only(SIZE, Memory::new(SIZE)), params);
    let file = live.open();
    assert_eq!(errno_of(file.write_all_at(&Aligned::filled(512, 7), 0)), Some(libc::EOPNOTSUPP));
    assert_eq!(punch_hole(&file, 0, 4096), Err(libc::EOPNOTSUPP));
    // The block layer tells its clients nothing of a flush or a discard that is not supported.
    file.sync_all().unwrap();
    blkdiscard(&live.served.block_path(), 0, 65536);
    assert_eq!(live.changes(), []);
    drop(file);
    live.stop();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_read_only_disk_is_read_and_its_target_is_never_written() {
    let live = live(Disk::read_only(SIZE, Memory::new(SIZE)));
    assert_eq!(live.capabilities(), ["1", "write through", "0", "0"]);
    live.disk.target().bytes.lock().unwrap()[512..1024].fill(9);
    let path = live.served.block_path();
    let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
    let mut bytes = Aligned::filled(1536, 1);
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes[..512].iter().chain(&bytes[1024..]).all(|byte| *byte == 0));
    assert!(bytes[512..1024].iter().all(|byte| *byte == 9));
    // Newer kernels refuse the opening, older ones the write.
    let written = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(&path)
        .and_then(|file| file.write_all_at(&Aligned::filled(512, 1), 0));
    let errno = errno_of(written).unwrap();
    assert!([libc::EPERM, libc::EACCES, libc::EROFS].contains(&errno), "errno {errno}");
    assert_eq!(live.changes(), []);
    drop(file);
    live.stop();
}

// What is switched on.

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_volatile_cache_is_flushed_when_a_client_syncs_and_no_cache_never() {
    let volatile = live(Disk::with_volatile_cache(SIZE, Memory::new(SIZE)));
    assert_eq!(volatile.capabilities(), ["0", "write back", "0", "0"]);
    let file = volatile.open();
    file.write_all_at(&Aligned::filled(4096, 7), 0).unwrap();
    assert_eq!(volatile.changes(), [Call::Write(0, 4096)]);
    file.sync_all().unwrap();
    assert_eq!(volatile.changes(), [Call::Flush]);

    let durable = live(Disk::without_cache(SIZE, Memory::new(SIZE)));
    let other = durable.open();
    other.write_all_at(&Aligned::filled(4096, 7), 0).unwrap();
    other.sync_all().unwrap();
    assert_eq!(durable.changes(), [Call::Write(0, 4096)]);
    drop((file, other));
    volatile.stop();
    durable.stop();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_write_that_is_to_be_durable_is_flushed_after_it() {
    let live = live(Disk::with_volatile_cache(SIZE, Memory::new(SIZE)));
    let durable = libc::O_DIRECT | libc::O_DSYNC;
    let file = OpenOptions::new().write(true).custom_flags(durable).open(live.served.block_path()).unwrap();
    file.write_all_at(&Aligned::filled(4096, 7), 0).unwrap();
    assert_eq!(live.changes()[..2], [Call::Write(0, 4096), Call::Flush]);
    drop(file);
    live.stop();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn discards_come_in_pieces_of_at_most_what_was_stated() {
    let live = live(Disk::without_cache(SIZE, Memory::new(SIZE)).discard(4096, Sectors::new(128)));
    assert_eq!(live.capabilities(), ["0", "write through", "65536", "0"]);
    assert_eq!(live.attribute("queue/discard_granularity"), "4096");
    let file = live.open();
    file.write_all_at(&Aligned::filled(512 << 10, 7), 0).unwrap();
    live.calls();
    let (discarded, said) = blkdiscard(&live.served.block_path(), 65536, 196_608);
    assert!(discarded, "{said}");
    let pieces = live.changes();
    let expected = [65536, 131_072, 196_608].map(|offset| Call::Discard(offset, 65536));
    assert!(expected.iter().all(|piece| pieces.contains(piece)) && pieces.len() == 3, "{pieces:?}");
    let mut bytes = Aligned::filled(512 << 10, 1);
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes[65536..262_144].iter().all(|byte| *byte == 0));
    assert!(bytes[..65536].iter().chain(&bytes[262_144..]).all(|byte| *byte == 7));
    drop(file);
    live.stop();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_discard_that_a_ring_sends_to_a_disk_discards_there_and_its_completion_says_so() {
    let live = live(Disk::without_cache(SIZE, Memory::new(SIZE)).discard(4096, Sectors::new(128)));
    let file = live.open();
    file.write_all_at(&Aligned::filled(256 << 10, 7), 0).unwrap();
    live.calls();
    let disk = Fd::from(OwnedFd::from(file.try_clone().unwrap()));
    let mut ring = Ring::local(4, 8).unwrap().enable().unwrap();
    // A part; what is past the end; what is no whole logical block.
    for (number, (offset, len)) in [(8192, 131_072), (1 << 20, 4096), (0, 100)].into_iter().enumerate() {
        ring.push(Op::block_discard(&disk, offset, len), u64::try_from(number).unwrap()).unwrap();
    }
    let mut results = [None; 3];
    while results.contains(&None) {
        ring.submit_and_wait(None).unwrap();
        while let Some(completion) = ring.next_completion() {
            results[usize::try_from(completion.user_data).unwrap()] = Some(completion.result);
        }
    }
    assert_eq!(results, [Some(0), Some(-libc::EINVAL), Some(-libc::EINVAL)]);
    assert_eq!(live.changes(), [Call::Discard(8192, 65536), Call::Discard(73_728, 65536)]);
    let mut bytes = Aligned::filled(256 << 10, 1);
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes[8192..139_264].iter().all(|byte| *byte == 0));
    assert!(bytes[..8192].iter().chain(&bytes[139_264..]).all(|byte| *byte == 7));
    drop((file, disk, ring));
    live.stop();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn write_zeroes_says_whether_the_space_has_to_stay() {
    let live = live(Disk::without_cache(SIZE, Memory::new(SIZE)).write_zeroes(Sectors::new(256)));
    assert_eq!(live.capabilities(), ["0", "write through", "0", "131072"]);
    let file = live.open();
    file.write_all_at(&Aligned::filled(65536, 7), 0).unwrap();
    live.calls();
    zero_range(&file, 0, 4096).unwrap();
    assert_eq!(live.changes(), [Call::WriteZeroes(0, 4096, RequestFlags::NOUNMAP)]);
    punch_hole(&file, 8192, 4096).unwrap();
    assert_eq!(live.changes(), [Call::WriteZeroes(8192, 4096, RequestFlags::NONE)]);
    let mut bytes = Aligned::filled(65536, 1);
    file.read_exact_at(&mut bytes, 0).unwrap();
    let zero = |at: usize| at < 4096 || (8192..12288).contains(&at);
    assert!(bytes.iter().enumerate().all(|(at, byte)| *byte == if zero(at) { 0 } else { 7 }));
    drop(file);
    live.stop();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn everything_at_once_is_told_to_the_block_layer() {
    let disk = Disk::with_volatile_cache(SIZE, Memory::new(SIZE))
        .discard(8192, Sectors::new(1024))
        .write_zeroes(Sectors::new(64))
        .with_params(|params| params.block_bytes(4096).rotational());
    let live = live(disk);
    assert_eq!(live.capabilities(), ["0", "write back", "524288", "32768"]);
    let others = ["queue/logical_block_size", "queue/rotational", "queue/discard_granularity", "size"];
    assert_eq!(others.map(|file| live.attribute(file)), ["4096", "1", "8192", "2048"]);
    live.stop();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn parameters_that_contradict_the_disk_make_no_device() {
    let disk = Disk::without_cache(SIZE, Memory::new(SIZE)).with_params(|params| params.discard(512, SIZE));
    let refused = serve(NewDevice::new(), *disk.params(), move |request| disk.answer(request));
    assert!(matches!(refused, Err(Error::Invalid { .. })));
    assert_eq!(harness::nodes(), [""; 0]);
}

// What a target says, and what it is asked.

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn the_error_of_each_method_reaches_the_client() {
    let disk = Disk::with_volatile_cache(SIZE, Memory::new(SIZE)).discard(4096, SIZE).write_zeroes(SIZE);
    let live = live(disk);
    let file = live.open();
    let fail_with = |errno| live.disk.target().errno.store(errno, Ordering::Relaxed);
    let mut bytes = Aligned::filled(4096, 3);

    fail_with(libc::ENODATA);
    assert_eq!(errno_of(file.read_exact_at(&mut bytes, 0)), Some(libc::ENODATA));
    assert!(bytes.iter().all(|byte| *byte == 3), "a read that failed gave data");
    fail_with(libc::ENOSPC);
    assert_eq!(errno_of(file.write_all_at(&bytes, 0)), Some(libc::ENOSPC));
    fail_with(libc::ETIMEDOUT);
    assert_eq!(errno_of(file.sync_all()), Some(libc::ETIMEDOUT));
    assert_eq!(punch_hole(&file, 0, 4096), Err(libc::ETIMEDOUT));
    // What the block layer does not know is EIO.
    fail_with(libc::EXDEV);
    assert_eq!(errno_of(file.write_all_at(&bytes, 0)), Some(libc::EIO));
    let (discarded, said) = blkdiscard(&live.served.block_path(), 0, 65536);
    assert!(!discarded && said.contains("Input/output error"), "{said}");

    fail_with(0);
    file.read_exact_at(&mut bytes, 0).unwrap();
    drop(file);
    live.stop();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn the_first_and_the_last_sector_of_an_odd_disk_hold_their_bytes() {
    let size = Sectors::new(2051);
    let live = live(Disk::without_cache(size, Memory::new(size)));
    assert_eq!(live.attribute("size"), "2051");
    let file = live.open();
    let last = size.bytes() - 512;
    file.write_all_at(&Aligned::filled(512, 1), 0).unwrap();
    file.write_all_at(&Aligned::filled(512, 2), last).unwrap();
    assert_eq!(live.changes(), [Call::Write(0, 512), Call::Write(last, 512)]);
    // A read across the end is cut there.
    let mut bytes = Aligned::filled(2048, 3);
    assert_eq!(file.read_at(&mut bytes, last - 512).unwrap(), 1024);
    assert_eq!((bytes[511], bytes[512], bytes[1023], bytes[1024]), (0, 2, 2, 3));
    assert_eq!(file.read_at(&mut bytes, size.bytes()).unwrap(), 0);
    assert_eq!(errno_of(file.write_all_at(&Aligned::filled(512, 1), size.bytes())), Some(libc::ENOSPC));
    let memory = live.disk.target().bytes.lock().unwrap();
    assert_eq!((memory[0], memory[511], memory[512], memory[memory.len() - 1]), (1, 1, 0, 2));
    drop((memory, file));
    live.stop();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_range_that_is_not_on_the_disk_fails_and_the_target_is_not_called() {
    // The driver is told of twice the disk that there is.
    let params = Params::new(Sectors::new(4096), Cache::None).discard(512, SIZE);
    let live = live_as(Disk::without_cache(SIZE, Memory::new(SIZE)).discard(512, SIZE), params);
    let file = live.open();
    live.calls();
    let end = SIZE.bytes();
    assert_eq!(errno_of(file.read_exact_at(&mut Aligned::filled(1024, 1), end - 512)), Some(libc::EIO));
    assert_eq!(errno_of(file.write_all_at(&Aligned::filled(512, 1), end)), Some(libc::EIO));
    assert!(!blkdiscard(&live.served.block_path(), end - 4096, 8192).0);
    assert_eq!(live.calls(), []);
    file.write_all_at(&Aligned::filled(512, 1), end - 512).unwrap();
    assert_eq!(live.calls(), [Call::Write(end - 512, 512)]);
    drop(file);
    live.stop();
}

// A file.

/// A file of a test, gone when the test is over.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new(name: &str, bytes: &[u8]) -> Scratch {
        let path = std::env::temp_dir().join(format!("ublk-test-{name}-{}", std::process::id()));
        fs::write(&path, bytes).unwrap();
        Scratch(path)
    }

    fn open(&self) -> File {
        OpenOptions::new().read(true).write(true).open(&self.0).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Where it is gone, so much the better.
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_file_as_a_disk_keeps_its_data_from_one_server_to_the_next() {
    let scratch = Scratch::new("kept", &[0; 1 << 20]);
    let first = live(Disk::with_volatile_cache(SIZE, scratch.open()));
    let file = first.open();
    file.write_all_at(&Aligned::filled(65536, 5), 512).unwrap();
    file.sync_all().unwrap();
    drop(file);
    first.stop();

    let bytes = fs::read(&scratch.0).unwrap();
    assert_eq!(bytes.len(), 1 << 20);
    assert!(bytes[512..66048].iter().all(|byte| *byte == 5));
    assert!(bytes[..512].iter().chain(&bytes[66048..]).all(|byte| *byte == 0));

    // A borrowed target is a target too.
    let held: &'static File = Box::leak(Box::new(scratch.open()));
    let second = live(Disk::with_volatile_cache(SIZE, held));
    let file = second.open();
    let mut read = Aligned::filled(65536, 1);
    file.read_exact_at(&mut read, 512).unwrap();
    assert!(read.iter().all(|byte| *byte == 5));
    file.write_all_at(&Aligned::filled(512, 6), SIZE.bytes() - 512).unwrap();
    file.sync_all().unwrap();
    drop(file);
    second.stop();
    assert_eq!(fs::read(&scratch.0).unwrap()[(1 << 20) - 512..], [6; 512]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_file_that_is_shorter_than_its_disk_reads_as_zeroes_behind_its_end() {
    let scratch = Scratch::new("short", &[8; 4196]);
    let live = live(Disk::with_volatile_cache(SIZE, scratch.open()));
    let file = live.open();
    // The end of the file lies in the middle of a sector.
    let mut bytes = Aligned::filled(8192, 1);
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes[..4196].iter().all(|byte| *byte == 8) && bytes[4196..].iter().all(|byte| *byte == 0));
    file.read_exact_at(&mut bytes, SIZE.bytes() - 8192).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0));
    // It grows as far as it is written.
    file.write_all_at(&Aligned::filled(512, 9), 65536).unwrap();
    file.sync_all().unwrap();
    assert_eq!(fs::metadata(&scratch.0).unwrap().len(), 66048);
    drop(file);
    live.stop();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_file_gets_a_hole_for_a_discard_and_for_zeroes_that_need_no_space_and_for_no_others() {
    // /dev is a tmpfs, which makes holes and does not know FALLOC_FL_ZERO_RANGE.
    let path = format!("/dev/scratch-{}", std::process::id());
    let scratch = Scratch(path.into());
    fs::write(&scratch.0, vec![5; 1 << 20]).unwrap();
    let blocks = || fs::metadata(&scratch.0).unwrap().blocks();
    let disk = Disk::with_volatile_cache(SIZE, scratch.open());
    let live = live(disk.discard(4096, Sectors::new(256)).write_zeroes(Sectors::new(256)));
    let (file, before) = (live.open(), blocks());
    assert!(blkdiscard(&live.served.block_path(), 8192, 8192).0);
    assert_eq!(before - blocks(), 16);
    punch_hole(&file, 32768, 4096).unwrap();
    assert_eq!(before - blocks(), 24);
    // The block layer writes zeroes where the file cannot be asked for them.
    zero_range(&file, 65536, 4096).unwrap();
    assert_eq!(before - blocks(), 24);
    file.sync_all().unwrap();
    let zero = |at: usize| [8192..16384, 32768..36864, 65536..69632].iter().any(|range| range.contains(&at));
    let bytes = fs::read(&scratch.0).unwrap();
    assert!(bytes.iter().enumerate().all(|(at, byte)| *byte == if zero(at) { 0 } else { 5 }));
    drop(file);
    live.stop();
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn the_errno_of_a_file_is_the_errno_of_the_disk() {
    // A full device says so. A file that was opened for reading cannot be written: EBADF, which the block layer makes EIO.
    let full =
        live(Disk::with_volatile_cache(SIZE, OpenOptions::new().read(true).write(true).open("/dev/full").unwrap()));
    let file = full.open();
    assert_eq!(errno_of(file.write_all_at(&Aligned::filled(512, 1), 0)), Some(libc::ENOSPC));
    // It cannot be synced either, so that the client hears whether that was asked of it. Older block layers make that EIO.
    assert!(matches!(errno_of(file.sync_all()), Some(libc::EINVAL | libc::EIO)));
    drop(file);
    full.stop();
    let scratch = Scratch::new("closed", &[1; 4096]);
    let closed = live(Disk::with_volatile_cache(SIZE, File::open(&scratch.0).unwrap()));
    let file = closed.open();
    assert_eq!(errno_of(file.write_all_at(&Aligned::filled(512, 1), 0)), Some(libc::EIO));
    drop(file);
    closed.stop();
    assert_eq!(fs::read(&scratch.0).unwrap(), [1; 4096]);
}
