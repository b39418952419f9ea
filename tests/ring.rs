// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rings of the running kernel, through the public API. No ublk is needed: this machine's kernel will do, and so will any
//! from Linux 6.1.
#![cfg_attr(not(have_io_uring), allow(dead_code, reason = "the tests are ignored, not left out"))]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::as_conversions,
    reason = "a test ends where something is wrong, and libc takes a handler as a number"
)]
#![expect(
    unsafe_code,
    reason = "commands to /dev/null, a signal handler, poll(2) and mkfifo(3): none has a safe equivalent in std"
)]

mod signals;

use core::time::Duration;
use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::thread::JoinHandleExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use signals::handle_sigusr1;
use ublk::ring::{Completion, DisabledRing, Entry, Kind, Local, Op, Ring, Wake, Wide, WideOp};
use ublk::{Errno, Error, Fd, SystemCall};

const POLLIN: u16 = 1;

fn wide(submissions: u32, completions: u32) -> Ring<Wide> {
    Ring::wide(submissions, completions).unwrap()
}

fn local(submissions: u32, completions: u32) -> Ring<Local> {
    Ring::local(submissions, completions).unwrap().enable().unwrap()
}

fn nop<K: Kind>() -> K::Entry {
    <K::Entry as Entry>::nop()
}

/// Every completion that is there, without entering the kernel.
fn take_all<K: Kind>(ring: &mut Ring<K>) -> Vec<Completion> {
    std::iter::from_fn(|| ring.next_completion()).collect()
}

fn user_data(completions: &[Completion]) -> Vec<u64> {
    completions.iter().map(|completion| completion.user_data).collect()
}

/// Runs the rest of the test `name` in a process of its own, which no other test's rings and threads are in.
/// `false` in the process that has waited for that one.
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

/// The process's open descriptors, but for the one of this listing: number and what each is.
fn descriptors() -> BTreeSet<(String, PathBuf)> {
    let listing = PathBuf::from(format!("/proc/{}/fd", std::process::id()));
    fs::read_dir(&listing)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read_link(entry.path()).unwrap()))
        .filter(|(_, target)| *target != listing)
        .collect()
}

/// The `VmFlags` of each mapping of a ring.
fn ring_mappings() -> Vec<String> {
    let mut flags = Vec::new();
    let mut of_ring = false;
    for line in fs::read_to_string("/proc/self/smaps").unwrap().lines() {
        match line.split_once(' ') {
            Some(("VmFlags:", rest)) if of_ring => flags.push(rest.to_owned()),
            Some((first, _)) if !first.ends_with(':') => of_ring = line.ends_with("[io_uring]"),
            _ => {}
        }
    }
    flags
}

fn ring_descriptors() -> usize {
    descriptors().iter().filter(|(_, target)| target.as_os_str() == "anon_inode:[io_uring]").count()
}

fn mapping_count() -> usize {
    fs::read_to_string("/proc/self/maps").unwrap().lines().count()
}

/// Whether poll(2) says at once that the ring's descriptor can be read.
fn is_readable<K: Kind>(ring: &Ring<K>) -> bool {
    let mut polled = libc::pollfd { fd: ring.fd().raw(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, borrowed for the call.
    let ready = unsafe { libc::poll(&raw mut polled, 1, 0) };
    assert!(ready >= 0, "{}", std::io::Error::last_os_error());
    ready == 1 && polled.revents & libc::POLLIN != 0
}

/// A pipe with a name: its reading end for the ring, and its writing end.
fn pipe(name: &str) -> (Fd, File) {
    let path = std::env::temp_dir().join(format!("ublk-test-{}-{name}", std::process::id()));
    let c_path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: a C string that lives through the call.
    let made = unsafe { libc::mkfifo(c_path.as_ptr(), 0o600) };
    assert_eq!(made, 0, "{}: {}", path.display(), std::io::Error::last_os_error());
    // Opened for reading and writing, so that neither end waits for the other.
    let read_end = Fd::open(&c_path).unwrap();
    let write_end = File::options().write(true).open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    (read_end, write_end)
}

// Refusals first.

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_ring_of_a_size_that_the_kernel_refuses_is_an_error_and_leaks_nothing() {
    if !alone("a_ring_of_a_size_that_the_kernel_refuses_is_an_error_and_leaks_nothing") {
        return;
    }
    let refused = Error::System { call: SystemCall::IoUringSetup, errno: Errno::EINVAL };
    let before = (descriptors(), mapping_count());
    // No entries at all; one more than there may be; fewer completions than submissions.
    for (submissions, completions) in
        [(0, 0), (0, 8), (8, 0), (32_769, 65_536), (1, 65_537), (u32::MAX, u32::MAX), (8, 4)]
    {
        assert_eq!(Ring::wide(submissions, completions).err(), Some(refused), "{submissions}, {completions}");
        assert_eq!(Ring::local(submissions, completions).err(), Some(refused), "{submissions}, {completions}");
    }
    assert_eq!((descriptors(), mapping_count()), before);
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn the_largest_ring_works() {
    let mut ring = local(32_768, 65_536);
    assert_eq!((ring.submission_entries(), ring.completion_entries()), (32_768, 65_536));
    ring.push(Op::nop(), 1).unwrap();
    assert_eq!(ring.submit_and_wait(None), Ok(Wake::Completions));
}

fn a_full_queue_refuses_and_goes_on_after_submit<K: Kind>(mut ring: Ring<K>) {
    // 3 were asked for; the kernel gives a power of two.
    assert_eq!(ring.submission_entries(), 4);
    for index in 0..4 {
        ring.push(nop::<K>(), index).unwrap();
    }
    assert_eq!(ring.push(nop::<K>(), 99), Err(Error::RingFull));
    assert_eq!(ring.push(nop::<K>(), 99), Err(Error::RingFull));
    assert_eq!(ring.staged(), 4);
    ring.submit().unwrap();
    assert_eq!(ring.staged(), 0);
    ring.push(nop::<K>(), 4).unwrap();
    ring.submit_and_wait(None).unwrap();
    assert_eq!(user_data(&take_all(&mut ring)), [0, 1, 2, 3, 4]);
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_full_submission_queue_refuses_and_goes_on_after_submit() {
    a_full_queue_refuses_and_goes_on_after_submit(wide(3, 8));
    a_full_queue_refuses_and_goes_on_after_submit(local(3, 8));
}

fn nothing_comes_and_the_wait_says_so<K: Kind>(mut ring: Ring<K>) {
    assert_eq!(ring.submit_and_wait(Some(Duration::ZERO)), Ok(Wake::TimedOut));
    assert_eq!(ring.submit_and_wait(Some(Duration::from_millis(20))), Ok(Wake::TimedOut));
    assert_eq!(ring.next_completion(), None);
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_wait_for_nothing_times_out() {
    nothing_comes_and_the_wait_says_so(wide(4, 8));
    nothing_comes_and_the_wait_says_so(local(4, 8));
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_wait_that_submits_too_ends_when_its_time_is_over() {
    let (read_end, mut write_end) = pipe("timed");
    let mut ring = local(4, 8);
    ring.push(Op::poll_add(&read_end, POLLIN), 7).unwrap();
    // Which of the two it was the kernel does not say of a call that submitted something.
    let wake = ring.submit_and_wait(Some(Duration::from_millis(20))).unwrap();
    assert!(matches!(wake, Wake::TimedOut | Wake::Interrupted), "{wake:?}");
    assert_eq!(ring.staged(), 0);
    // What was submitted is under way all the same.
    write_end.write_all(b"x").unwrap();
    assert_eq!(ring.submit_and_wait(None), Ok(Wake::Completions));
    assert_eq!(user_data(&take_all(&mut ring)), [7]);
}

/// Has `wait` called in a thread of its own that gets signals until it has returned.
fn interrupted<F>(wait: F) -> Result<Wake, Error>
where
    F: FnOnce() -> Result<Wake, Error> + Send + 'static,
{
    handle_sigusr1();
    let returned = Arc::new(AtomicBool::new(false));
    let says = Arc::clone(&returned);
    let waiting = thread::spawn(move || {
        let wake = wait();
        says.store(true, Ordering::SeqCst);
        wake
    });
    // One signal could come before the wait begins; they go on until one did not.
    while !returned.load(Ordering::SeqCst) {
        // SAFETY: the thread was not joined, so its handle is valid even if it has ended.
        let sent = unsafe { libc::pthread_kill(waiting.as_pthread_t(), libc::SIGUSR1) };
        assert_eq!(sent, 0);
        thread::yield_now();
    }
    waiting.join().unwrap()
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_signal_ends_a_wait_and_the_wait_says_so() {
    assert_eq!(interrupted(|| wide(4, 8).submit_and_wait(None)), Ok(Wake::Interrupted));
    assert_eq!(interrupted(|| local(4, 8).submit_and_wait(None)), Ok(Wake::Interrupted));
    let hour = Some(Duration::from_secs(3600));
    assert_eq!(interrupted(move || local(4, 8).submit_and_wait(hour)), Ok(Wake::Interrupted));
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn signals_lose_no_completion() {
    let ended = interrupted(|| {
        let mut ring = local(64, 128);
        for batch in 0..200_u64 {
            for index in 0..64 {
                ring.push(Op::nop(), batch * 64 + index).unwrap();
            }
            let mut next = batch * 64;
            while next < (batch + 1) * 64 {
                ring.submit_and_wait(None)?;
                for completion in take_all(&mut ring) {
                    assert_eq!(completion.user_data, next);
                    next += 1;
                }
            }
        }
        Ok(Wake::Completions)
    });
    assert_eq!(ended, Ok(Wake::Completions));
}

// What goes in comes out.

fn a_nop_completes_with_its_user_data<K: Kind>(mut ring: Ring<K>) {
    for sent in [0, 1, u64::MAX, 0x0123_4567_89ab_cdef] {
        ring.push(nop::<K>(), sent).unwrap();
        assert_eq!(ring.next_completion(), None);
        assert_eq!(ring.submit_and_wait(None), Ok(Wake::Completions));
        assert_eq!(ring.next_completion(), Some(Completion { user_data: sent, result: 0, flags: 0 }));
        assert_eq!(ring.next_completion(), None);
    }
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_nop_completes_with_its_user_data_on_both_kinds() {
    a_nop_completes_with_its_user_data(wide(1, 2));
    a_nop_completes_with_its_user_data(local(1, 1));
    a_nop_completes_with_its_user_data(local(8, 16));
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_command_reaches_the_files_driver_in_entries_of_64_and_of_128_bytes() {
    let null = Fd::open(c"/dev/null").unwrap();
    let mut ring = local(4, 8);
    // SAFETY: the driver of /dev/null looks at nothing that a command says.
    let op = unsafe { Op::uring_cmd(&null, 0x1234_5678, [u64::MAX; 2]) };
    ring.push(op, 64).unwrap();
    ring.submit_and_wait(None).unwrap();
    assert_eq!(ring.next_completion(), Some(Completion { user_data: 64, result: 0, flags: 0 }));

    let mut ring = wide(4, 8);
    // SAFETY: as above.
    let op = unsafe { WideOp::uring_cmd(&null, 0x1234_5678, [u64::MAX; 4]) };
    ring.push(op, 128).unwrap();
    ring.submit_and_wait(None).unwrap();
    assert_eq!(ring.next_completion(), Some(Completion { user_data: 128, result: 0, flags: 0 }));
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_command_to_a_file_whose_driver_takes_none_is_refused_and_the_ring_goes_on() {
    let zero = Fd::open(c"/dev/zero").unwrap();
    let mut ring = local(4, 8);
    for sent in 0..3 {
        // SAFETY: /dev/zero has no commands, so nothing looks at what this one says.
        let op = unsafe { Op::uring_cmd(&zero, sent, [0; 2]) };
        ring.push(op, sent.into()).unwrap();
    }
    ring.push(Op::nop(), 3).unwrap();
    ring.submit_and_wait(None).unwrap();
    let results: Vec<i32> = take_all(&mut ring).iter().map(|completion| completion.result).collect();
    assert_eq!(results, [-libc::EOPNOTSUPP, -libc::EOPNOTSUPP, -libc::EOPNOTSUPP, 0]);
}

fn one_call_submits_all_and_waits<K: Kind>(mut ring: Ring<K>) {
    for index in 0..8 {
        ring.push(nop::<K>(), index).unwrap();
    }
    assert_eq!(ring.staged(), 8);
    assert_eq!(ring.submit_and_wait(None), Ok(Wake::Completions));
    assert_eq!(ring.staged(), 0);
    assert_eq!(user_data(&take_all(&mut ring)), [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn all_that_is_staged_is_submitted_and_waited_for_in_one_call() {
    one_call_submits_all_and_waits(wide(8, 16));
    one_call_submits_all_and_waits(local(8, 16));
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_completion_that_is_there_already_is_not_waited_for_and_what_is_staged_goes_too() {
    let mut ring = local(4, 8);
    let (read_end, _write_end) = pipe("never");
    ring.push(Op::nop(), 1).unwrap();
    ring.submit().unwrap();
    // This one never completes: a wait for it would not return.
    ring.push(Op::poll_add(&read_end, POLLIN), 2).unwrap();
    assert_eq!(ring.submit_and_wait(None), Ok(Wake::Completions));
    assert_eq!(ring.staged(), 0);
    assert_eq!(user_data(&take_all(&mut ring)), [1]);
}

fn a_hundred_thousand_come_in_number_and_order<K: Kind>(mut ring: Ring<K>) {
    const ALL: u64 = 100_000;
    let (mut sent, mut received) = (0, 0);
    // The batches grow and shrink, so that they start at every slot.
    for batch in (1..=u64::from(ring.submission_entries())).cycle() {
        for _ in 0..batch.min(ALL - sent) {
            ring.push(nop::<K>(), sent).unwrap();
            sent += 1;
        }
        while received < sent {
            assert_eq!(ring.submit_and_wait(None), Ok(Wake::Completions));
            while let Some(completion) = ring.next_completion() {
                assert_eq!((completion.user_data, completion.result), (received, 0));
                received += 1;
            }
        }
        if received == ALL {
            break;
        }
    }
    assert_eq!(ring.submit_and_wait(Some(Duration::ZERO)), Ok(Wake::TimedOut));
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_hundred_thousand_operations_in_batches_come_in_number_and_order() {
    a_hundred_thousand_come_in_number_and_order(wide(128, 128));
    a_hundred_thousand_come_in_number_and_order(local(128, 128));
}

fn more_than_the_queue_holds_arrive<K: Kind>(mut ring: Ring<K>) {
    assert_eq!(ring.completion_entries(), 8);
    assert!(!ring.has_overflow());
    for index in 0..40 {
        ring.push(nop::<K>(), index).unwrap();
        if ring.staged() == ring.submission_entries() {
            ring.submit().unwrap();
        }
    }
    assert!(ring.has_overflow());
    let mut received = user_data(&take_all(&mut ring));
    assert_eq!(received.len(), 8);
    while received.len() < 40 {
        assert_eq!(ring.submit_and_wait(None), Ok(Wake::Completions));
        received.extend(user_data(&take_all(&mut ring)));
    }
    assert_eq!(received, (0..40).collect::<Vec<u64>>());
    assert_eq!(ring.submit_and_wait(Some(Duration::ZERO)), Ok(Wake::TimedOut));
    assert!(!ring.has_overflow());
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn more_completions_than_the_queue_holds_all_arrive() {
    more_than_the_queue_holds_arrive(wide(8, 8));
    more_than_the_queue_holds_arrive(local(8, 8));
}

fn a_poll_completes<K: Kind>(mut ring: Ring<K>, poll: fn(&Fd) -> K::Entry, name: &str) {
    let (read_end, mut write_end) = pipe(name);
    ring.push(poll(&read_end), 5).unwrap();
    ring.submit().unwrap();
    assert_eq!(ring.submit_and_wait(Some(Duration::ZERO)), Ok(Wake::TimedOut));
    // Another thread writes, while this one waits or before.
    let writer = thread::spawn(move || {
        write_end.write_all(b"x").unwrap();
        write_end
    });
    assert_eq!(ring.submit_and_wait(None), Ok(Wake::Completions));
    let completion = ring.next_completion().unwrap();
    assert_eq!(completion.user_data, 5);
    assert_eq!(completion.result & i32::from(POLLIN), i32::from(POLLIN));
    // Once is enough: it does not come again.
    writer.join().unwrap().write_all(b"y").unwrap();
    assert_eq!(ring.submit_and_wait(Some(Duration::ZERO)), Ok(Wake::TimedOut));
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_poll_completes_when_its_descriptor_can_be_read_and_not_before() {
    a_poll_completes(local(4, 8), |fd| Op::poll_add(fd, POLLIN), "poll");
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn the_rings_descriptor_can_be_read_when_a_completion_is_there_and_not_before() {
    fn check<K: Kind>(mut ring: Ring<K>) {
        assert!(!is_readable(&ring));
        ring.push(nop::<K>(), 1).unwrap();
        assert!(!is_readable(&ring), "nothing was submitted yet");
        ring.submit().unwrap();
        assert!(is_readable(&ring));
        assert!(ring.next_completion().is_some());
        assert!(!is_readable(&ring));
    }
    check(wide(4, 8));
    check(local(4, 8));
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn what_completes_later_makes_a_local_rings_descriptor_readable_too() {
    let (read_end, mut write_end) = pipe("deferred");
    let mut ring = local(4, 8);
    ring.push(Op::poll_add(&read_end, POLLIN), 1).unwrap();
    ring.submit().unwrap();
    assert!(!is_readable(&ring));
    write_end.write_all(b"x").unwrap();
    // The completion is made only when this thread enters the kernel; that there is one to make is known before.
    assert!(is_readable(&ring));
    assert_eq!(ring.next_completion(), None);
    assert_eq!(ring.submit_and_wait(None), Ok(Wake::Completions));
    assert_eq!(user_data(&take_all(&mut ring)), [1]);
}

// Threads and processes.

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_local_ring_is_made_in_one_thread_and_enabled_in_another() {
    let made: DisabledRing = Ring::local(8, 16).unwrap();
    thread::spawn(move || one_call_submits_all_and_waits(made.enable().unwrap())).join().unwrap();
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_wide_ring_goes_from_thread_to_thread_with_what_is_staged() {
    let mut ring = wide(4, 8);
    ring.push(WideOp::nop(), 1).unwrap();
    let (send, receive) = mpsc::channel();
    let other = thread::spawn(move || {
        ring.push(WideOp::nop(), 2).unwrap();
        ring.submit().unwrap();
        send.send(ring).unwrap();
    });
    let mut ring = receive.recv().unwrap();
    other.join().unwrap();
    assert_eq!(user_data(&take_all(&mut ring)), [1, 2]);
    a_nop_completes_with_its_user_data(ring);
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn no_child_inherits_a_rings_memory_or_its_descriptor() {
    if !alone("no_child_inherits_a_rings_memory_or_its_descriptor") {
        return;
    }
    let before = descriptors();
    let disabled = Ring::local(4, 8).unwrap();
    let rings = (wide(4, 8), local(4, 8), disabled);
    let flags = ring_mappings();
    assert_eq!(flags.len(), 6, "each ring has two mappings: {flags:?}");
    for flags in &flags {
        // `dc`: VM_DONTCOPY, what MADV_DONTFORK sets.
        assert!(flags.split_whitespace().any(|flag| flag == "dc"), "inherited: {flags}");
    }
    assert_eq!(ring_descriptors(), 3);
    for (number, target) in descriptors().difference(&before) {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
        let flags = i32::from_str_radix(flags, 8).unwrap();
        assert_ne!(flags & libc::O_CLOEXEC, 0, "inherited: {number} {}", target.display());
    }
    drop(rings);
    assert_eq!((ring_mappings().len(), ring_descriptors()), (0, 0));
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_descriptor_of_its_own_is_not_inherited_either() {
    let null = Fd::open(c"/dev/null").unwrap();
    for fd in [null.try_clone().unwrap(), null] {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.raw())).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
        assert_ne!(i32::from_str_radix(flags, 8).unwrap() & libc::O_CLOEXEC, 0);
    }
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn two_hundred_rings_leave_no_descriptor_no_mapping_and_no_registration() {
    if !alone("two_hundred_rings_leave_no_descriptor_no_mapping_and_no_registration") {
        return;
    }
    let round = || {
        one_call_submits_all_and_waits(wide(8, 16));
        let ring = local(8, 16);
        // A thread has 16 places for registered rings. One that is not given back would be missed within as many rounds.
        assert!(format!("{ring:?}").contains("registered: Some("), "{ring:?}");
        one_call_submits_all_and_waits(ring);
        drop(Ring::local(8, 16).unwrap());
    };
    round();
    let before = (descriptors(), mapping_count());
    for _ in 0..200 {
        round();
    }
    assert_eq!((descriptors(), mapping_count()), before);
    assert_eq!((ring_mappings().len(), ring_descriptors()), (0, 0));
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_thread_without_a_place_to_register_another_ring_gets_one_that_works() {
    let rings: Vec<Ring<Local>> = (0..20).map(|_| local(8, 16)).collect();
    assert!(rings.iter().any(|ring| format!("{ring:?}").contains("registered: None")), "{rings:?}");
    for ring in rings {
        one_call_submits_all_and_waits(ring);
    }
}

#[test]
#[cfg_attr(not(have_io_uring), ignore = "this process may not set up a ring")]
fn a_ring_dropped_with_operations_staged_and_under_way_goes_in_peace() {
    if !alone("a_ring_dropped_with_operations_staged_and_under_way_goes_in_peace") {
        return;
    }
    let (read_end, _write_end) = pipe("dropped");
    let before = (descriptors(), mapping_count());
    for _ in 0..50 {
        let mut ring = local(8, 16);
        ring.push(Op::poll_add(&read_end, POLLIN), 1).unwrap();
        ring.submit().unwrap();
        ring.push(Op::nop(), 2).unwrap();
    }
    assert_eq!((descriptors(), mapping_count()), before);
}
