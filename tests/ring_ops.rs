// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a target's own operations do, on a ring of the running kernel: files, pipes, sockets, chains.
#![cfg_attr(not(have_io_uring), allow(dead_code, reason = "the tests are ignored, not left out"))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is wrong")]
#![expect(clippy::multiple_unsafe_ops_per_block, reason = "operations that are submitted together share a promise")]
#![expect(
    unsafe_code,
    reason = "operations that name memory, memfd_create(2) and registered buffers: none has a safe equivalent"
)]

use core::time::Duration;
use std::fs::File;
use std::io::Write;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use ublk::Fd;
use ublk::ring::{Completion, Entry, Local, Op, OpFile, Ring, Wake};
use ublk_sys::__kernel_timespec;

const POLLIN: u16 = 1;

/// `sizeof(struct iovec)` entries of an array for the kernel.
type Places = Vec<libc::iovec>;

fn local(submissions: u32) -> Ring<Local> {
    Ring::local(submissions, 64).unwrap().enable().unwrap()
}

/// Submits these operations together and waits until all have completed; their results, in the order of the operations.
fn results(ring: &mut Ring<Local>, ops: &[Op]) -> Vec<i32> {
    let mut results = vec![None; ops.len()];
    assert!(ring.has_room(u32::try_from(ops.len()).unwrap()));
    for (index, op) in ops.iter().enumerate() {
        ring.push(*op, u64::try_from(index).unwrap()).unwrap();
    }
    while results.iter().any(Option::is_none) {
        assert_eq!(ring.submit_and_wait(None), Ok(Wake::Completions));
        while let Some(completion) = ring.next_completion() {
            let result = &mut results[usize::try_from(completion.user_data).unwrap()];
            assert_eq!(result.replace(completion.result), None, "it completed before");
        }
    }
    results.into_iter().flatten().collect()
}

fn result(ring: &mut Ring<Local>, op: Op) -> i32 {
    results(ring, &[op])[0]
}

/// A file without a name, which has these bytes: for the ring, and for the test.
fn file(bytes: &[u8]) -> (Fd, File) {
    // SAFETY: a C string that lives through the call.
    let number = unsafe { libc::memfd_create(c"ublk-test".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(number >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the descriptor was just made, and is nobody else's.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(number) });
    file.write_all_at(bytes, 0).unwrap();
    (Fd::from(OwnedFd::from(file.try_clone().unwrap())), file)
}

fn content(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn pair() -> (Fd, UnixStream) {
    let (one, other) = UnixStream::pair().unwrap();
    (Fd::from(OwnedFd::from(one)), other)
}

fn address(memory: &mut [u8]) -> u64 {
    u64::try_from(memory.as_mut_ptr().expose_provenance()).unwrap()
}

fn length(memory: &[u8]) -> u32 {
    u32::try_from(memory.len()).unwrap()
}

/// These pieces, for the kernel; and where it finds their array.
fn places(pieces: &mut [&mut [u8]]) -> (Places, u64) {
    let place = |piece: &mut &mut [u8]| libc::iovec { iov_base: piece.as_mut_ptr().cast(), iov_len: piece.len() };
    let places: Places = pieces.iter_mut().map(place).collect();
    let array = u64::try_from(places.as_ptr().expose_provenance()).unwrap();
    (places, array)
}

/// Registers one buffer of the process with the ring, as buffer 0.
fn register_buffer(ring: &Ring<Local>, memory: &mut [u8]) {
    let place = libc::iovec { iov_base: memory.as_mut_ptr().cast(), iov_len: memory.len() };
    let (call, operation) = (libc::SYS_io_uring_register, ublk_sys::IORING_REGISTER_BUFFERS);
    // SAFETY: one iovec that lives through the call. What it names is used only by operations whose makers say for how long.
    let registered = unsafe { libc::syscall(call, ring.fd().raw(), operation, &raw const place, 1_u32) };
    assert_eq!(registered, 0, "{}", std::io::Error::last_os_error());
}

/// The running Linux.
fn release() -> (u32, u32) {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = text.split(['.', '-']).map(|number| number.trim().parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

// Refusals first.

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn an_operation_on_a_slot_without_a_file_fails_and_the_ring_goes_on() {
    let mut ring = local(8);
    let registered = |index| Op::fsync(OpFile::Registered(index), false);
    // Without a table; with one, a slot that is empty and slots that there are not.
    assert_eq!(result(&mut ring, registered(0)), -libc::EBADF);
    ring.register_files(4).unwrap();
    let ops = [registered(3), registered(4), registered(u32::MAX), Op::nop()];
    assert_eq!(results(&mut ring, &ops), [-libc::EBADF, -libc::EBADF, -libc::EBADF, 0]);
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn memory_that_there_is_not_is_an_error_of_the_operation() {
    let (fd, kept) = file(b"abcd");
    let mut ring = local(8);
    // SAFETY: nothing is mapped at the first page, so that the kernel writes nowhere, and there is nothing to read.
    let ops = unsafe { [Op::read(&fd, 0, 8, 4), Op::write(&fd, 0, 8, 4), Op::read_vectored(&fd, 0, 8, 1)] };
    assert_eq!(results(&mut ring, &ops), [-libc::EFAULT; 3]);
    assert_eq!(content(&kept), b"abcd");
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_discard_of_what_is_no_block_device_is_refused() {
    let zero = Fd::open(c"/dev/zero").unwrap();
    assert_eq!(result(&mut local(4), Op::block_discard(&zero, 0, 4096)), -libc::EOPNOTSUPP);
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_part_that_is_not_within_a_registered_buffer_is_refused() {
    let (fd, kept) = file(b"abcdefgh");
    let mut ring = local(8);
    let mut memory = vec![0; 4096];
    let start = address(&mut memory);
    // SAFETY: there is no buffer yet.
    let op = unsafe { Op::read_fixed(&fd, 0, start, 8, 0) };
    assert_eq!(result(&mut ring, op), -libc::EFAULT);
    register_buffer(&ring, &mut memory);
    // SAFETY: what lies within the buffer is `memory`, which nobody else uses.
    let ops = unsafe {
        [
            Op::read_fixed(&fd, 0, start - 1, 8, 0),
            Op::read_fixed(&fd, 0, start + 4089, 8, 0),
            Op::write_fixed(&fd, 0, start + 4089, 8, 0),
            Op::read_fixed(&fd, 0, start, 8, 1),
        ]
    };
    assert_eq!(results(&mut ring, &ops), [-libc::EFAULT; 4]);
    assert_eq!((content(&kept), memory), (b"abcdefgh".to_vec(), vec![0; 4096]));
}

// Reading and writing.

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_read_brings_what_is_at_its_offset_and_less_at_the_end_of_the_file() {
    let (fd, _kept) = file(b"0123456789");
    let mut ring = local(8);
    ring.register_files(2).unwrap();
    ring.set_file(1, &fd).unwrap();
    for named in [OpFile::Fd(&fd), OpFile::Registered(1)] {
        let mut memory = vec![0; 6];
        for (offset, len, bytes) in [(2, 6, &b"234567"[..]), (7, 3, b"789567"), (10, 0, b"789567")] {
            let start = address(&mut memory);
            // SAFETY: `memory` lives until the completion was taken, below, and nobody else uses it before.
            let op = unsafe { Op::read(named, offset, start, 6) };
            assert_eq!(result(&mut ring, op), len);
            assert_eq!(memory, bytes);
        }
    }
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_write_goes_to_its_offset_whether_the_file_is_named_by_descriptor_or_by_slot() {
    let (fd, kept) = file(b"0123456789");
    let mut ring = local(8);
    ring.register_files(2).unwrap();
    ring.set_file(0, &fd).unwrap();
    let mut memory = *b"abcd";
    let start = address(&mut memory);
    // SAFETY: `memory` lives, and is not written to, until the completions were taken.
    let ops = unsafe { [Op::write(&fd, 1, start, 3), Op::write(OpFile::Registered(0), 8, start, 4)] };
    assert_eq!(results(&mut ring, &ops), [3, 4]);
    assert_eq!(content(&kept), b"0abc4567abcd");
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn vectored_operations_go_through_several_places_and_need_their_array_until_they_are_submitted() {
    let (fd, kept) = file(b"0123456789");
    let mut ring = local(8);
    let (mut one, mut two) = (*b"....", *b"......");
    let (array, start) = places(&mut [&mut one, &mut two]);
    // SAFETY: the array lives until it is submitted, and the places until the completion was taken.
    ring.push(unsafe { Op::read_vectored(&fd, 1, start, 2) }, 0).unwrap();
    ring.submit().unwrap();
    drop(array);
    assert_eq!(ring.submit_and_wait(None), Ok(Wake::Completions));
    assert_eq!(ring.next_completion().unwrap().result, 9);
    assert_eq!((&one, &two), (b"1234", b"56789."));

    let (_array, start) = places(&mut [&mut two, &mut one]);
    // SAFETY: as above; nobody writes to the places.
    assert_eq!(result(&mut ring, unsafe { Op::write_vectored(&fd, 8, start, 2) }), 10);
    assert_eq!(content(&kept), b"0123456756789.1234");
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn fixed_operations_use_a_part_of_a_registered_buffer() {
    let (fd, kept) = file(b"0123456789");
    let mut ring = local(8);
    let mut memory = vec![b'.'; 4096];
    register_buffer(&ring, &mut memory);
    let start = address(&mut memory);
    // SAFETY: the buffer lives until the completion was taken, and nobody else uses it before.
    assert_eq!(result(&mut ring, unsafe { Op::read_fixed(&fd, 4, start + 100, 4, 0) }), 4);
    assert_eq!(&memory[99..105], b".4567.");
    // SAFETY: as above.
    assert_eq!(result(&mut ring, unsafe { Op::write_fixed(&fd, 9, start + 101, 3, 0) }), 3);
    assert_eq!(content(&kept), b"012345678567");
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn vectored_fixed_operations_use_several_parts_from_linux_6_15_on_and_are_refused_before() {
    let (fd, kept) = file(b"0123456789");
    let mut ring = local(8);
    let mut memory = vec![b'.'; 4096];
    register_buffer(&ring, &mut memory);
    let (before, behind) = memory.split_at_mut(200);
    let (_array, start) = places(&mut [&mut behind[..2], &mut before[..3]]);
    // SAFETY: the array and the buffer live until the completion was taken, and nobody else uses the buffer before.
    let read = result(&mut ring, unsafe { Op::read_vectored_fixed(&fd, 3, start, 2, 0) });
    // SAFETY: as above.
    let wrote = result(&mut ring, unsafe { Op::write_vectored_fixed(&fd, 0, start, 2, 0) });
    if release() < (6, 15) {
        assert_eq!((read, wrote), (-libc::EINVAL, -libc::EINVAL));
    } else {
        assert_eq!((read, wrote), (5, 5));
        assert_eq!((&memory[200..203], &memory[..4]), (&b"34."[..], &b"567."[..]));
        assert_eq!(content(&kept), b"3456756789");
    }
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_sync_reaches_a_file_and_is_refused_by_what_has_no_disk() {
    let (fd, _kept) = file(b"0123456789");
    let (socket, _other) = pair();
    let ops = [Op::fsync(&fd, false), Op::fsync(&fd, true), Op::fsync(&socket, false)];
    assert_eq!(results(&mut local(8), &ops), [0, 0, -libc::EINVAL]);
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn fallocate_makes_a_hole_in_a_file_and_makes_it_longer() {
    let (fd, kept) = file(&[b'x'; 3 * 4096]);
    let mut ring = local(8);
    let hole = u32::try_from(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE).unwrap();
    assert_eq!(result(&mut ring, Op::fallocate(&fd, hole, 4096, 4096)), 0);
    let bytes = content(&kept);
    assert!(bytes[..4096].iter().chain(&bytes[8192..]).all(|byte| *byte == b'x'));
    assert_eq!((bytes.len(), &bytes[4096..8192]), (3 * 4096, &[0; 4096][..]));
    assert_eq!(result(&mut ring, Op::fallocate(&fd, 0, 4096, 7 * 4096)), 0);
    assert_eq!(kept.metadata().unwrap().len(), 8 * 4096);
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn what_is_sent_is_received_and_a_receive_waits_for_it() {
    let (one, two) = UnixStream::pair().unwrap();
    let [one, two] = [one, two].map(|end| Fd::from(OwnedFd::from(end)));
    let mut ring = local(8);
    let (mut from, mut to) = (*b"message", [0; 16]);
    let (source, target) = (address(&mut from), address(&mut to));
    // SAFETY: `from` and `to` live until both completions were taken, and nobody else uses them before.
    let ops = unsafe { [Op::recv(&two, target, length(&to), 0), Op::send(&one, source, length(&from), 0)] };
    assert_eq!(results(&mut ring, &ops), [7, 7]);
    assert_eq!(&to[..8], b"message\0");
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_receive_of_all_bytes_completes_when_all_are_there() {
    let (socket, mut other) = pair();
    let mut ring = local(8);
    let mut to = [0; 4];
    let target = address(&mut to);
    let all = u32::try_from(libc::MSG_WAITALL).unwrap();
    other.write_all(b"ab").unwrap();
    // SAFETY: `to` lives until the completion was taken, and nobody else uses it before.
    ring.push(unsafe { Op::recv(&socket, target, 4, all) }, 1).unwrap();
    assert_eq!(ring.submit_and_wait(Some(Duration::ZERO)).map(|_| ring.next_completion()), Ok(None));
    other.write_all(b"cd").unwrap();
    assert_eq!(ring.submit_and_wait(None), Ok(Wake::Completions));
    assert_eq!(ring.next_completion().map(|completion| completion.result), Some(4));
    assert_eq!(&to, b"abcd");
}

// Waiting, and ending what waits.

fn timespec(seconds: i64, nanoseconds: i64) -> __kernel_timespec {
    let mut time = __kernel_timespec::default();
    (time.tv_sec, time.tv_nsec) = (seconds, nanoseconds);
    time
}

/// A time-out, submitted; what it named is gone then.
fn submit_timeout(ring: &mut Ring<Local>, time: __kernel_timespec, count: u32, user_data: u64) {
    let place = u64::try_from((&raw const time).expose_provenance()).unwrap();
    // SAFETY: `time` lives until it is submitted.
    ring.push(unsafe { Op::timeout(place, count) }, user_data).unwrap();
    ring.submit().unwrap();
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_timeout_completes_when_its_time_is_over() {
    let mut ring = local(4);
    submit_timeout(&mut ring, timespec(0, 2_000_000), 0, 3);
    assert_eq!(ring.submit_and_wait(None), Ok(Wake::Completions));
    assert_eq!(ring.next_completion(), Some(Completion { user_data: 3, result: -libc::ETIME, flags: 0 }));
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_timeout_with_a_count_completes_with_as_many_others() {
    let mut ring = local(4);
    submit_timeout(&mut ring, timespec(3600, 0), 2, 3);
    ring.push(Op::nop(), 1).unwrap();
    ring.submit_and_wait(None).unwrap();
    assert_eq!(ring.next_completion().map(|completion| completion.user_data), Some(1));
    assert_eq!(ring.submit_and_wait(Some(Duration::ZERO)), Ok(Wake::TimedOut));
    ring.push(Op::nop(), 2).unwrap();
    let mut ended = Vec::new();
    while ended.len() < 2 {
        assert_eq!(ring.submit_and_wait(None), Ok(Wake::Completions));
        ended.extend(std::iter::from_fn(|| ring.next_completion()).map(|it| (it.user_data, it.result)));
    }
    ended.sort_unstable();
    assert_eq!(ended, [(2, 0), (3, 0)]);
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_poll_that_waits_is_cancelled_and_one_that_there_is_not_is_not_found() {
    let (socket, _other) = pair();
    let mut ring = local(4);
    ring.push(Op::poll_add(&socket, POLLIN), 77).unwrap();
    ring.submit().unwrap();
    ring.push(Op::cancel(78), 1).unwrap();
    ring.push(Op::cancel(77), 2).unwrap();
    let mut ended = Vec::new();
    while ended.len() < 3 {
        assert_eq!(ring.submit_and_wait(None), Ok(Wake::Completions));
        ended.extend(std::iter::from_fn(|| ring.next_completion()).map(|it| (it.user_data, it.result)));
    }
    ended.sort_unstable();
    assert_eq!(ended, [(1, -libc::ENOENT), (2, 0), (77, -libc::ECANCELED)]);
}

// Chains.

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn what_is_linked_starts_when_what_is_before_it_has_completed() {
    let (fd, _kept) = file(b"");
    let mut ring = local(8);
    for round in 0..100_u8 {
        let (mut from, mut to) = ([round; 4096], [0; 4096]);
        let (source, target) = (address(&mut from), address(&mut to));
        // SAFETY: both live until all completions were taken, and nobody else uses them before.
        let [write, read] = unsafe { [Op::write(&fd, 0, source, 4096), Op::read(&fd, 0, target, 4096)] };
        let chain = [write.asynchronous().linked(), Op::fsync(&fd, true).linked(), read];
        assert_eq!(results(&mut ring, &chain), [4096, 0, 4096]);
        assert_eq!(from, to);
    }
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_short_read_cancels_what_is_linked_to_it_and_not_what_comes_after_the_chain() {
    let (fd, _kept) = file(b"0123456789");
    let mut ring = local(8);
    let mut memory = [0; 16];
    let target = address(&mut memory);
    // SAFETY: `memory` lives until all completions were taken, and nobody else uses it before.
    let read = unsafe { Op::read(&fd, 0, target, 16) };
    let ops = [read.linked(), Op::fsync(&fd, false).linked(), Op::nop(), Op::nop()];
    assert_eq!(results(&mut ring, &ops), [10, -libc::ECANCELED, -libc::ECANCELED, 0]);
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn what_is_hard_linked_starts_also_where_what_is_before_it_failed() {
    let (fd, _kept) = file(b"0123456789");
    let mut ring = local(8);
    let mut memory = [0; 16];
    let target = address(&mut memory);
    // SAFETY: `memory` lives until all completions were taken, and nobody else uses it before.
    let read = unsafe { Op::read(&fd, 0, target, 16) };
    // SAFETY: nothing is mapped at the first page, so that the kernel writes nowhere.
    let fails = unsafe { Op::read(&fd, 0, 8, 16) };
    let ops = [read.hard_linked(), fails.hard_linked(), Op::fsync(&fd, false)];
    assert_eq!(results(&mut ring, &ops), [10, -libc::EFAULT, 0]);
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn what_is_refused_as_it_is_submitted_cancels_its_whole_chain_hard_linked_or_not() {
    let mut ring = local(8);
    // SAFETY: nothing is mapped at the first page, so that there is nothing to read.
    let refused = unsafe { Op::timeout(8, 0) };
    let ops = [Op::nop().hard_linked(), refused.hard_linked(), Op::nop(), Op::nop()];
    assert_eq!(results(&mut ring, &ops), [-libc::ECANCELED, -libc::EFAULT, -libc::ECANCELED, 0]);
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_chain_ends_where_its_submission_does() {
    let (fd, _kept) = file(b"0123456789");
    let mut ring = local(8);
    let mut memory = [0; 16];
    let target = address(&mut memory);
    // SAFETY: `memory` lives until the completion was taken, and nobody else uses it before.
    let read = unsafe { Op::read(&fd, 0, target, 16) };
    // As a whole the second one would be cancelled.
    assert_eq!(result(&mut ring, read.linked()), 10);
    assert_eq!(result(&mut ring, Op::nop()), 0);
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn whether_a_chain_has_room_is_known_before_it_is_staged() {
    let mut ring = local(8);
    assert_eq!([0, 8, 9, u32::MAX].map(|count| ring.has_room(count)), [true, true, false, false]);
    for index in 0..6 {
        ring.push(Op::nop(), index).unwrap();
    }
    assert_eq!([0, 2, 3].map(|count| ring.has_room(count)), [true, true, false]);
    ring.submit().unwrap();
    assert!(ring.has_room(8));
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn what_skips_its_success_has_a_completion_only_if_it_fails() {
    let (fd, _kept) = file(b"");
    let mut ring = local(8);
    ring.push(Op::fsync(&fd, false).skip_success(), 1).unwrap();
    // SAFETY: there is no such buffer.
    ring.push(unsafe { Op::read_fixed(&fd, 0, 0, 16, 9) }.skip_success(), 2).unwrap();
    ring.push(Op::fsync(&fd, false).skip_success().linked(), 3).unwrap();
    ring.push(Op::nop(), 4).unwrap();
    let mut ended = Vec::new();
    while ended.len() < 2 {
        assert_eq!(ring.submit_and_wait(None), Ok(Wake::Completions));
        ended.extend(std::iter::from_fn(|| ring.next_completion()).map(|it| (it.user_data, it.result)));
    }
    ended.sort_unstable();
    assert_eq!(ended, [(2, -libc::EFAULT), (4, 0)]);
    assert_eq!(ring.submit_and_wait(Some(Duration::ZERO)), Ok(Wake::TimedOut));
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_sync_or_fallocate_that_fails_is_no_failure_to_its_chain_and_is_not_heard_of_where_it_skips_its_success() {
    let (socket, _other) = pair();
    let mut ring = local(8);
    let [sync, space] = [Op::fsync(&socket, false), Op::fallocate(&socket, 0, 0, 1)];
    let ops = [sync.linked(), Op::nop(), space.linked(), Op::nop()];
    assert_eq!(results(&mut ring, &ops), [-libc::EINVAL, 0, -libc::ENODEV, 0]);
    ring.push(sync.skip_success().linked(), 1).unwrap();
    ring.push(space.skip_success().linked(), 2).unwrap();
    ring.push(Op::nop(), 3).unwrap();
    assert_eq!(ring.submit_and_wait(None), Ok(Wake::Completions));
    assert_eq!(ring.next_completion(), Some(Completion { user_data: 3, result: 0, flags: 0 }));
    assert_eq!(ring.submit_and_wait(Some(Duration::ZERO)), Ok(Wake::TimedOut));
}
