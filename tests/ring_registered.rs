// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a ring of the running kernel has registered: files, buffers, groups of provided buffers, and what it may do.
#![cfg_attr(not(have_io_uring), allow(dead_code, reason = "the tests are ignored, not left out"))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is wrong")]
#![expect(
    unsafe_code,
    reason = "operations that name memory, pipe2(2), poll(2), and io_uring_register(2) from a thread that may not: none has a safe equivalent"
)]

use core::time::Duration;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::thread;

use ublk::ring::{BufferRing, BufferUse, Completion, DisabledRing, Entry, Local, Op, OpFile, Restrictions, Ring, Wake};
use ublk::{Errno, Error, Fd, SystemCall};
use ublk_sys::{IORING_OP_FSYNC, IORING_OP_NOP, IORING_REGISTER_FILES_UPDATE, IOSQE_FIXED_FILE, io_uring_rsrc_update};

fn disabled() -> DisabledRing {
    Ring::local(8, 64).unwrap()
}

fn local() -> Ring<Local> {
    disabled().enable().unwrap()
}

fn next(ring: &mut Ring<Local>) -> Completion {
    loop {
        if let Some(completion) = ring.next_completion() {
            return completion;
        }
        assert_eq!(ring.submit_and_wait(None), Ok(Wake::Completions));
    }
}

fn result(ring: &mut Ring<Local>, op: Op) -> i32 {
    ring.push(op, 0).unwrap();
    next(ring).result
}

fn refused<T>(call: SystemCall, errno: Errno) -> Result<T, Error> {
    Err(Error::System { call, errno })
}

/// A pipe whose reading end is for the ring.
fn pipe_for_ring() -> (Fd, File) {
    let mut ends = [-1; 2];
    // SAFETY: room for two descriptors, borrowed for the call.
    let made = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) };
    assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
    let [reader, writer] = ends.map(|end| {
        // SAFETY: the descriptor was just made, and is nobody else's.
        unsafe { OwnedFd::from_raw_fd(end) }
    });
    (Fd::from(reader), File::from(writer))
}

/// Waits until nobody has the other end open.
fn wait_until_let_go(writer: &File) {
    let mut polled = libc::pollfd { fd: writer.as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: one pollfd, borrowed for the call.
    let ready = unsafe { libc::poll(&raw mut polled, 1, -1) };
    assert_eq!((ready, polled.revents), (1, libc::POLLERR));
}

/// The running Linux.
fn release() -> (u32, u32) {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = text.split(['.', '-']).map(|number| number.trim().parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

// Files.

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_table_of_no_files_of_too_many_and_a_second_one_are_refused() {
    let ring = disabled();
    let call = SystemCall::RegisterFiles;
    for count in [0, (1 << 20) + 1, u32::MAX] {
        assert!(matches!(
            ring.register_files(count),
            Err(Error::System { call: SystemCall::RegisterFiles, errno: Errno::EINVAL | Errno::EMFILE })
        ));
    }
    assert_eq!(ring.register_files(8), Ok(()));
    assert_eq!(ring.register_files(8), refused(call, Errno::EBUSY));
    assert_eq!(ring.enable().unwrap().register_files(8), refused(call, Errno::EBUSY));
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_slot_that_there_is_not_is_an_error() {
    let null = Fd::open(c"/dev/null").unwrap();
    let ring = disabled();
    let call = SystemCall::UpdateFiles;
    assert_eq!(ring.set_file(0, &null), refused(call, Errno::ENXIO));
    ring.register_files(8).unwrap();
    for index in [8, 9, 1 << 31] {
        assert_eq!(ring.set_file(index, &null), refused(call, Errno::EINVAL), "{index}");
        assert_eq!(ring.clear_file(index), refused(call, Errno::EINVAL), "{index}");
    }
    // One past it is 2^32.
    assert_eq!(ring.set_file(u32::MAX, &null), refused(call, Errno::EOVERFLOW));
    assert_eq!(ring.set_file(7, &null), Ok(()));
    assert_eq!(ring.set_file(7, wide_ring().fd()), refused(call, Errno::EBADF));
}

fn wide_ring() -> Ring<ublk::ring::Wide> {
    Ring::wide(4, 8).unwrap()
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_registered_file_stays_open_after_its_descriptor_was_closed_until_its_slot_is_emptied() {
    let (reader, mut writer) = pipe_for_ring();
    let ring = disabled();
    ring.register_files(2).unwrap();
    ring.set_file(1, &reader).unwrap();
    drop(reader);
    let mut ring = ring.enable().unwrap();
    writer.write_all(b"abc").unwrap();
    let mut memory = [0_u8; 4];
    let start = u64::try_from(memory.as_mut_ptr().expose_provenance()).unwrap();
    // SAFETY: `memory` lives until the completion was taken, and nobody else uses it before.
    let read = unsafe { Op::read(OpFile::Registered(1), 0, start, 4) };
    assert_eq!((result(&mut ring, read), &memory), (3, b"abc\0"));
    ring.clear_file(1).unwrap();
    wait_until_let_go(&writer);
    assert_eq!(result(&mut ring, read), -libc::EBADF);
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_registered_file_is_let_go_when_its_slot_gets_another_and_when_the_ring_ends() {
    let (first, first_writer) = pipe_for_ring();
    let (second, second_writer) = pipe_for_ring();
    let ring = local();
    ring.register_files(1).unwrap();
    ring.set_file(0, &first).unwrap();
    ring.set_file(0, &second).unwrap();
    drop((first, second));
    wait_until_let_go(&first_writer);
    drop(ring);
    wait_until_let_go(&second_writer);
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_disabled_ring_takes_registrations_from_any_thread() {
    let null = Fd::open(c"/dev/null").unwrap();
    let ring = disabled();
    ring.register_files(2).unwrap();
    let ring = thread::spawn(move || {
        ring.set_file(0, &null).unwrap();
        ring.register_buffers(2).unwrap();
        ring
    });
    let mut ring = ring.join().unwrap().enable().unwrap();
    // SAFETY: the driver of /dev/null looks at nothing that a command says.
    let command = unsafe { Op::uring_cmd(OpFile::Registered(0), 1, [0; 2]) };
    assert_eq!(result(&mut ring, command), 0);
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_ring_that_a_thread_has_enabled_takes_registrations_from_no_other() {
    let ring = local();
    ring.register_files(2).unwrap();
    let number = ring.fd().raw();
    let elsewhere = thread::spawn(move || {
        let none = -1;
        let mut update = io_uring_rsrc_update::default();
        update.data = u64::try_from((&raw const none).expose_provenance()).unwrap();
        let (call, operation) = (libc::SYS_io_uring_register, IORING_REGISTER_FILES_UPDATE);
        // SAFETY: one io_uring_rsrc_update and the one number that it names, which live through the call.
        let returned = unsafe { libc::syscall(call, number, operation, &raw const update, 1_u32) };
        (returned, std::io::Error::last_os_error().raw_os_error())
    });
    assert_eq!(elsewhere.join().unwrap(), (-1, Some(libc::EEXIST)));
    assert_eq!(ring.clear_file(0), Ok(()));
}

// Buffers.

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_table_of_no_buffers_of_too_many_and_a_second_one_are_refused() {
    let ring = disabled();
    let call = SystemCall::RegisterBuffers;
    for count in [0, (1 << 14) + 1, u32::MAX] {
        assert_eq!(ring.register_buffers(count), refused(call, Errno::EINVAL), "{count}");
    }
    assert_eq!(ring.register_buffers(1 << 14), Ok(()));
    assert_eq!(ring.register_buffers(8), refused(call, Errno::EBUSY));
    let mut ring = ring.enable().unwrap();
    assert_eq!(ring.register_buffers(8), refused(call, Errno::EBUSY));
    // The slots are there, and empty.
    let null = Fd::open(c"/dev/null").unwrap();
    for slot in [0, 8, (1 << 14) - 1, 1 << 14, u16::MAX] {
        // SAFETY: there is no such buffer.
        assert_eq!(result(&mut ring, unsafe { Op::read_fixed(&null, 0, 0, 8, slot) }), -libc::EFAULT);
    }
}

// Provided buffers.

/// A read of the pipe into a buffer of that group.
fn read(reader: &Fd, group: u16) -> Op {
    // SAFETY: the memory is the group's, which is not unmapped.
    unsafe { Op::read(reader, 0, 0, 0) }.provided(group)
}

/// What the completion brought.
fn take(buffers: &mut BufferRing, completion: Completion) -> Vec<u8> {
    let mut into = [0; 256];
    let len = buffers.take(&completion, &mut into).unwrap().unwrap();
    assert_eq!(len, usize::try_from(completion.result).unwrap());
    into[..len].to_vec()
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn groups_of_a_number_that_there_cannot_be_and_a_second_of_one_number_are_refused() {
    let ring = disabled();
    for (count, bytes) in [(0, 64), (3, 64), (u16::MAX, 64), (8, 0)] {
        let made = ring.register_buffer_ring(0, count, bytes, BufferUse::Whole);
        assert!(matches!(made, Err(Error::Invalid { .. })), "{made:?}");
    }
    let made = ring.register_buffer_ring(7, 8, 64, BufferUse::Whole).unwrap();
    assert_eq!((made.group(), made.count(), made.buffer_bytes()), (7, 8, 64));
    let again = ring.register_buffer_ring(7, 8, 64, BufferUse::Whole);
    assert_eq!(again.map(|_| ()), refused(SystemCall::RegisterBufferRing, Errno::EEXIST));
    ring.register_buffer_ring(u16::MAX, 1 << 15, 1, BufferUse::Whole).unwrap();
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn each_operation_takes_a_whole_buffer_and_with_none_left_it_fails_until_one_is_given_back() {
    let (reader, mut writer) = pipe_for_ring();
    let mut ring = local();
    let mut buffers = ring.register_buffer_ring(3, 2, 64, BufferUse::Whole).unwrap();
    let mut brought = Vec::new();
    for text in [&b"one"[..], b"two"] {
        writer.write_all(text).unwrap();
        ring.push(read(&reader, 3), 0).unwrap();
        brought.push(next(&mut ring));
    }
    assert_eq!(brought.iter().map(Completion::buffer).collect::<Vec<_>>(), [Some(0), Some(1)]);
    writer.write_all(b"three").unwrap();
    assert_eq!(result(&mut ring, read(&reader, 3)), -libc::ENOBUFS);
    assert_eq!(result(&mut ring, read(&reader, 4)), -libc::ENOBUFS, "of a group that there is not");
    assert_eq!(take(&mut buffers, brought[0]), b"one");
    ring.push(read(&reader, 3), 0).unwrap();
    let third = next(&mut ring);
    assert_eq!(third.buffer(), Some(0));
    assert_eq!(take(&mut buffers, brought[1]), b"two");
    assert_eq!(take(&mut buffers, third), b"three");
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn buffers_are_used_piece_by_piece_from_linux_6_12_on_and_refused_before() {
    let (reader, mut writer) = pipe_for_ring();
    let mut ring = local();
    let made = ring.register_buffer_ring(0, 2, 8, BufferUse::Piecewise);
    if release() < (6, 12) {
        assert_eq!(made.map(|_| ()), refused(SystemCall::RegisterBufferRing, Errno::EINVAL));
        return;
    }
    let mut buffers = made.unwrap();
    let mut used = Vec::new();
    for text in ["ab", "cde", "fgh", "ijklmnop", "q", "rstuvwx", "y"] {
        writer.write_all(text.as_bytes()).unwrap();
        ring.push(read(&reader, 0), 0).unwrap();
        let completion = next(&mut ring);
        used.push(completion.buffer().unwrap());
        assert_eq!(take(&mut buffers, completion), text.as_bytes());
    }
    assert_eq!(used, [0, 0, 0, 1, 0, 0, 1]);
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn what_provided_buffers_bring_is_right_after_their_counter_has_wrapped() {
    const BATCH: usize = 8;
    let (from, to) = UnixDatagram::pair().unwrap();
    let [from, to] = [from, to].map(|end| Fd::from(OwnedFd::from(end)));
    let mut ring = Ring::local(16, 64).unwrap().enable().unwrap();
    let mut buffers = ring.register_buffer_ring(0, 16, 8, BufferUse::Whole).unwrap();
    // 2^16 is in the middle of the last batches.
    for batch in 0..8200_u64 {
        let messages: [[u8; 8]; BATCH] = std::array::from_fn(|index| [batch, u64::try_from(index).unwrap()])
            .map(|[batch, index]| (batch * 8 + index).to_ne_bytes());
        for message in &messages {
            let start = u64::try_from(message.as_ptr().expose_provenance()).unwrap();
            // SAFETY: the messages live, and are not written to, until all completions of the batch were taken.
            ring.push(unsafe { Op::send(&from, start, 8, 0) }, 0).unwrap();
        }
        for index in 1..=BATCH {
            // SAFETY: the memory is the group's, which is not unmapped.
            let receive = unsafe { Op::recv(&to, 0, 0, 0) }.provided(0);
            ring.push(receive, u64::try_from(index).unwrap()).unwrap();
        }
        let mut received = Vec::new();
        for _ in 0..2 * BATCH {
            let completion = next(&mut ring);
            assert_eq!(completion.result, 8);
            if completion.user_data > 0 {
                received.push((completion.user_data, completion));
            }
        }
        received.sort_by_key(|(number, _)| *number);
        for ((_, completion), message) in received.into_iter().zip(messages) {
            assert_eq!(take(&mut buffers, completion), message);
        }
    }
}

/// Runs the rest of the test `name` in a process of its own, whose mappings are this test's. `false` in the process that has
/// waited for that one.
fn alone(name: &str) -> bool {
    const MARK: &str = "UBLK_TEST_ALONE";
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", name, "--include-ignored", "--nocapture", "--test-threads=1"]).env(MARK, "1");
    let output = again.output().unwrap();
    let printed = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "in a process of its own:\n{printed}");
    assert!(printed.contains("test result: ok. 1 passed"), "it did not run:\n{printed}");
    false
}

/// Bytes of this process's mappings that no child inherits, those of rings left out.
fn kept_from_children() -> u64 {
    let (mut all, mut kilobytes, mut of_ring) = (0, 0, false);
    for line in fs::read_to_string("/proc/self/smaps").unwrap().lines() {
        match line.split_once(':') {
            Some(("Size", rest)) => kilobytes = rest.trim().trim_end_matches(" kB").parse().unwrap(),
            Some(("VmFlags", flags)) if flags.split_whitespace().any(|flag| flag == "dc") && !of_ring => {
                all += kilobytes * 1024;
            }
            Some((first, _)) if first.contains('-') => of_ring = line.ends_with("[io_uring]"),
            _ => {}
        }
    }
    all
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn provided_buffers_that_are_dropped_stay_mapped_for_the_kernel_and_those_that_are_unmapped_end() {
    if !alone("provided_buffers_that_are_dropped_stay_mapped_for_the_kernel_and_those_that_are_unmapped_end") {
        return;
    }
    let (reader, mut writer) = pipe_for_ring();
    let mut ring = local();
    assert_eq!(kept_from_children(), 0);
    let mapped = {
        let _buffers = ring.register_buffer_ring(0, 4, 1 << 20, BufferUse::Whole).unwrap();
        // The read waits for the pipe when its buffers are dropped, and takes one afterwards.
        ring.push(read(&reader, 0), 0).unwrap();
        ring.submit().unwrap();
        kept_from_children()
    };
    assert!(mapped > 4 << 20);
    assert_eq!(kept_from_children(), mapped);
    writer.write_all(b"late").unwrap();
    assert_eq!((next(&mut ring).result, kept_from_children()), (4, mapped));

    let refused = ring.register_buffer_ring(0, 4, 1 << 20, BufferUse::Whole);
    assert!(refused.is_err());
    assert_eq!(kept_from_children(), mapped, "what the kernel did not take is unmapped");
    let other = ring.register_buffer_ring(1, 4, 1 << 20, BufferUse::Whole).unwrap();
    assert_eq!(kept_from_children(), 2 * mapped);
    // SAFETY: no operation names this group.
    unsafe { other.unmap() };
    assert_eq!(kept_from_children(), mapped);
}

// Restrictions.

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_restricted_ring_does_what_is_allowed_and_nothing_else() {
    let null = Fd::open(c"/dev/null").unwrap();
    let ring = disabled();
    ring.register_files(1).unwrap();
    ring.set_file(0, &null).unwrap();
    let allowed = Restrictions::new().operation(IORING_OP_NOP).operation(IORING_OP_FSYNC).flags(IOSQE_FIXED_FILE);
    assert_eq!(ring.restrict(&allowed), Ok(()));
    assert_eq!(ring.restrict(&allowed), refused(SystemCall::Restrict, Errno::EBUSY));
    // They hold once it is enabled.
    ring.set_file(0, &null).unwrap();
    let mut ring = ring.enable().unwrap();
    assert_eq!(result(&mut ring, Op::nop()), 0);
    assert_eq!(result(&mut ring, Op::fsync(OpFile::Registered(0), false)), -libc::EINVAL, "it gets to /dev/null");
    assert_eq!(result(&mut ring, Op::poll_add(&null, 1)), -libc::EACCES);
    assert_eq!(result(&mut ring, Op::nop().linked()), -libc::EACCES);
    assert_eq!(ring.set_file(0, &null), refused(SystemCall::UpdateFiles, Errno::EACCES));
    assert_eq!(ring.register_buffers(1), refused(SystemCall::RegisterBuffers, Errno::EACCES));
    assert_eq!(ring.submit_and_wait(Some(Duration::ZERO)), Ok(Wake::TimedOut));
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_restricted_ring_is_registered_with_its_thread_and_gives_its_place_back() {
    // A thread has 16 places.
    for round in 0..40 {
        let ring = disabled();
        ring.restrict(&Restrictions::new().operation(IORING_OP_NOP)).unwrap();
        let ring = ring.enable().unwrap();
        assert!(format!("{ring:?}").contains("registered: Some("), "round {round}: {ring:?}");
    }
}
