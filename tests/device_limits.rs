// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a server may have too little of: each limit is reached at every step, the error says which it is, and what was made until
//! then is undone.
//!
//! Tests that change what the whole machine may do are ignored wherever they are not asked for by name; the virtual machine
//! asks for all, one after the other.
#![cfg_attr(not(have_ublk), allow(dead_code, reason = "the tests are ignored, not left out"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]

mod harness;
mod planted;

use std::collections::BTreeMap;
use std::fs;
use std::thread;

use harness::group::Threads;
use harness::{nodes, possessions};
use planted::{Resource, add_unprivileged, assert_says, is_nobody, kernel_release, open_to_all, run_as_nobody, set};
use ublk::ring::Ring;
use ublk::{
    Cache, Command, Control, DeletedId, Device, DeviceId, Errno, Error, NewDevice, Params, QueueId, Sectors, Sent,
    Server, StopHandle, SystemCall,
};

/// Ids are given from 0 up; nobody else has one up here.
const HIGH: DeviceId = DeviceId::new(4711);

fn params() -> Params {
    Params::new(Sectors::new(2048), Cache::None)
}

fn system(call: SystemCall, errno: Errno) -> Error {
    Error::System { call, errno }
}

/// Adds a device, serves it with so many queues, and stops it when it is live.
fn run_server(queues: u16) -> Result<(), Error> {
    let stop = StopHandle::new()?;
    let device = NewDevice::new().id(HIGH).depth(4).queues(queues);
    let server = Server::new(device, params()).stop_on(&stop).stop_on_signals();
    server.run(|request| request.complete(), |_| stop.stop()).map(drop)
}

/// Adds a device, fetches its queue in this thread, and stops and deletes it.
fn serve_once() -> Result<(), Error> {
    let wanted = NewDevice::new().id(HIGH).depth(4).max_io_bytes(64 << 10);
    let mut device = Device::add(Control::open()?, &wanted, &params())?;
    let queue = device.queue(QueueId::new(0))?.fetch()?;
    device.stop()?;
    while !queue.is_finished() {
        queue.wait(None)?;
        assert!(queue.next_request()?.is_none());
    }
    drop(queue);
    device.delete().map(drop)
}

#[test]
#[ignore = "limits the devices of the whole machine: run `cargo xtask test`"]
fn a_limit_of_devices_is_told_where_it_counts() {
    const NAME: &str = "a_limit_of_devices_is_told_where_it_counts";
    if is_nobody() {
        let cause = "; there are as many unprivileged devices as the module parameter ublks_max allows \
                     (/sys/module/ublk_drv/parameters/ublks_max)";
        let error = Error::Control {
            command: Command::ADD_DEV,
            device: None,
            errno: add_unprivileged().unwrap_err(),
            sent: Sent::default(),
        };
        assert_says(
            error,
            Error::Control { command: Command::ADD_DEV, device: None, errno: Errno::EACCES, sent: Sent::default() },
            cause,
        );
        return;
    }
    let _limited = set("/sys/module/ublk_drv/parameters/ublks_max", "0");
    let _opened = open_to_all();
    run_as_nobody(NAME);
    // It is for unprivileged devices alone, on Linux 6.12 too.
    let mut control = Control::open().unwrap();
    control.add(&NewDevice::new().id(HIGH)).unwrap();
    control.delete(HIGH).unwrap();
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn every_step_that_finds_no_descriptor_left_says_so_and_leaves_nothing() {
    // Once without a limit, for what the process needs once and keeps.
    serve_once().unwrap();
    run_server(1).unwrap();
    let steps = steps_without_descriptors(serve_once);
    let expected =
        ["cannot open /dev/ublk-control", "io_uring_setup failed", "cannot open /dev/ublkc4711"].map(str::to_owned);
    assert!(expected.iter().all(|step| steps.contains(step)), "{steps:?}");
    assert!(steps.iter().filter(|step| *step == "io_uring_setup failed").count() >= 2, "{steps:?}");
    let steps = steps_without_descriptors(|| run_server(1));
    assert!(steps.contains(&"eventfd failed".to_owned()) && steps.contains(&"signalfd failed".to_owned()), "{steps:?}");
}

/// Lets `work` have one descriptor more each time, until it succeeds; the operations that failed on the way.
fn steps_without_descriptors(work: impl Fn() -> Result<(), Error>) -> Vec<String> {
    let mut steps = Vec::new();
    let [files, _, maps, _] = possessions();
    // The first number that is free.
    let first = libc::rlim_t::try_from(ublk::Fd::open(c"/dev/null").unwrap().raw()).unwrap();
    for more in 0.. {
        assert!(more < 64, "{steps:?}");
        let before = planted::set_soft(Resource::Descriptors, first + more);
        let done = work();
        planted::set_soft(Resource::Descriptors, before);
        assert_eq!((possessions()[0], nodes()), (files, Vec::new()), "with {more}: {done:?}");
        let Err(error) = done else { break };
        let sentence = error.to_string();
        let cause = ": EMFILE (24); this process has as many descriptors as it may: raise RLIMIT_NOFILE (ulimit -n)";
        let step = sentence.strip_suffix(cause).unwrap_or_else(|| panic!("{sentence}"));
        steps.push(step.to_owned());
    }
    let after = possessions()[2];
    assert!(after <= maps + 1, "{after} mappings after {maps}");
    steps
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn an_address_space_that_is_limited_is_told() {
    let mut device = Device::add(Control::open().unwrap(), &NewDevice::new().id(HIGH), &params()).unwrap();
    let [files, _, maps, _] = possessions();
    // The buffers take 64 MiB.
    let used = fs::read_to_string("/proc/self/statm").unwrap();
    let pages = used.split_whitespace().next().unwrap().parse::<libc::rlim_t>().unwrap();
    let before = planted::set_soft(Resource::AddressSpace, pages * 4096 + (16 << 20));
    let error = device.queue(QueueId::new(0)).map(drop);
    planted::set_soft(Resource::AddressSpace, before);
    let cause = "; the address space is limited (RLIMIT_AS, sysctl vm.overcommit_memory=2), or the mappings (sysctl \
                 vm.max_map_count)";
    assert_says(error.unwrap_err(), system(SystemCall::MmapAnonymous, Errno::ENOMEM), cause);
    let after = possessions();
    assert_eq!((after[0], after[2]), (files, maps));
    drop(device.queue(QueueId::new(0)).unwrap());
    assert_eq!(device.delete(), Ok(DeletedId::Free));
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn every_step_that_finds_no_address_space_left_says_so_and_leaves_nothing() {
    const PAGE: libc::rlim_t = 4096;
    // Without threads of std's: those end the process where there is no room for their stacks of signal handlers.
    // Once without a limit, for what the process needs once and keeps.
    serve_once().unwrap();
    let mut steps = BTreeMap::<String, u64>::new();
    for more in 0.. {
        assert!(more < 1 << 10, "{steps:?}");
        let files = possessions()[0];
        let used = fs::read_to_string("/proc/self/statm").unwrap();
        let pages = used.split_whitespace().next().unwrap().parse::<libc::rlim_t>().unwrap();
        let before = planted::set_soft(Resource::AddressSpace, (pages + more) * PAGE);
        let done = serve_once();
        planted::set_soft(Resource::AddressSpace, before);
        assert_eq!((possessions()[0], nodes()), (files, Vec::new()), "with {more} pages: {done:?}");
        let Err(error) = done else { break };
        let sentence = error.to_string();
        let (step, cause) = sentence.split_once("; ").unwrap_or_else(|| panic!("{sentence}"));
        assert!(cause.contains("RLIMIT_AS"), "{sentence}");
        *steps.entry(step.to_owned()).or_default() += 1;
    }
    // The ring's memory, the queue's, and the descriptors.
    assert!(steps.len() >= 3, "{steps:?}");
}

#[test]
#[ignore = "limits the processes of a group: run `cargo xtask test`"]
fn every_thread_that_a_limit_of_processes_forbids_is_told_and_nothing_is_left() {
    const QUEUES: u16 = 3;
    run_server(QUEUES).unwrap();
    let group = Threads::limited();
    let files = possessions()[0];
    // A worker of io_uring's, which runs the control commands, and a thread for each queue.
    let (mut workers, mut queues) = (0, 0);
    for more in 0.. {
        // In a thread that has no worker yet.
        let done = thread::scope(|scope| {
            let limited = || {
                if more == 0 {
                    group.none()
                } else {
                    group.at_most(more)
                }
                let done = run_server(QUEUES);
                group.unlimited();
                done
            };
            scope.spawn(limited).join().unwrap()
        });
        assert_eq!((possessions()[0], nodes()), (files, Vec::new()), "with {more} more: {done:?}");
        let Err(error) = done else { break };
        let is_worker = matches!(error, Error::Control { errno: Errno::ECANCELED, .. });
        if is_worker {
            workers += 1;
        } else {
            queues += 1;
            assert_eq!(error, Error::System { call: SystemCall::Thread, errno: Errno::EAGAIN });
        }
        let sentence = error.to_string();
        assert!(sentence.contains("no more threads are allowed"), "{sentence}");
        assert!(sentence.contains("raise RLIMIT_NPROC (ulimit -u), pids.max"), "{sentence}");
        assert!(workers + queues < 20, "{sentence}");
    }
    assert!(workers > 0 && queues > 0, "{workers} without a worker, {queues} without a thread");
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_limit_of_locked_memory_is_told_where_it_counts() {
    const NAME: &str = "a_limit_of_locked_memory_is_told_where_it_counts";
    if !is_nobody() {
        return run_as_nobody(NAME);
    }
    let before = planted::set_soft(Resource::LockedMemory, 0);
    let made = Ring::wide(32, 32).map(drop);
    planted::set_soft(Resource::LockedMemory, 4096);
    // Nothing may be allocated in between.
    planted::lock_future(true);
    let mapped = Ring::wide(256, 256).map(drop);
    planted::lock_future(false);
    planted::set_soft(Resource::LockedMemory, before);

    if let Err(error) = made {
        // Linux 6.18 counts the ring's pages; these two do not.
        assert!(!matches!(kernel_release(), (6, 12) | (7, 3)), "{error}");
        let cause = "; rings count as locked memory on this kernel, and this process may lock no more, or the kernel has no memory \
                     for the ring";
        assert_says(error, system(SystemCall::IoUringSetup, Errno::ENOMEM), cause);
        assert_eq!(mapped, made);
        return;
    }
    let cause = "; this process locks its memory (mlockall) and may lock no more: raise RLIMIT_MEMLOCK (ulimit -l)";
    assert_says(mapped.unwrap_err(), system(SystemCall::MmapRing, Errno::EAGAIN), cause);
}
