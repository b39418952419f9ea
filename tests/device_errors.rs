// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a machine or a caller lacks, each made on a real kernel: which error it is, and that its sentence says what to do.
//!
//! Tests that change what the whole machine may do are ignored wherever they are not asked for by name; the virtual machine
//! asks for all, one after the other.
#![cfg_attr(not(have_ublk), allow(dead_code, reason = "the tests are ignored, not left out"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where something is wrong")]

mod harness;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command as Program;
use std::thread;

use harness::{nodes, serve};
use ublk::ring::Ring;
use ublk::{
    Cache, Command, Control, DeletedId, Device, DeviceId, Errno, Error, Features, NewDevice, Operation, Params,
    QueueId, Request, Sectors, Sent, Server, StopHandle, Stopped, SystemCall,
};

const CONTROL: &str = "/dev/ublk-control";

/// Ids are given from 0 up; nobody else has one up here.
const HIGH: DeviceId = DeviceId::new(4711);

fn open() -> Control {
    Control::open().unwrap()
}

/// 1 MiB that reads as zeroes and forgets what is written.
fn params() -> Params {
    Params::new(Sectors::new(2048), Cache::None)
}

fn forgetful(request: Request<'_>) {
    match request.operation() {
        Operation::READ | Operation::WRITE => request.complete(),
        _ => request.fail(Errno::EOPNOTSUPP),
    }
}

/// That this is the error, and that its sentence says so.
fn assert_says(error: Error, expected: Error, cause: &str) {
    assert_eq!(error, expected);
    let sentence = error.to_string();
    assert!(sentence.contains(cause), "{sentence}");
    assert!(!sentence.contains('\n') && !sentence.ends_with('.'), "{sentence}");
}

fn refused(command: Command, errno: Errno) -> Error {
    Error::Control { command, device: Some(HIGH), errno, sent: Sent::default() }
}

fn system(call: SystemCall, errno: Errno) -> Error {
    Error::System { call, errno }
}

/// Puts a setting of the machine back, whatever becomes of the test.
struct Restored<F: FnMut()>(F);

impl<F: FnMut()> Drop for Restored<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Writes to a file of the kernel's settings, and writes back what stood there in the end.
fn set(path: &'static str, value: &str) -> Restored<impl FnMut()> {
    let before = fs::read_to_string(path).unwrap();
    fs::write(path, value).unwrap();
    Restored(move || fs::write(path, before.trim()).unwrap())
}

/// Lets everybody open the control device.
fn open_to_all() -> Restored<impl FnMut()> {
    let before = fs::metadata(CONTROL).unwrap().permissions();
    fs::set_permissions(CONTROL, Permissions::from_mode(0o666)).unwrap();
    Restored(move || fs::set_permissions(CONTROL, before.clone()).unwrap())
}

/// What the tests below run as a process of its own, and as nobody: the same test, which finds the variable.
const AS_NOBODY: &str = "UBLK_TEST_AS_NOBODY";

fn is_nobody() -> bool {
    std::env::var_os(AS_NOBODY).is_some()
}

fn run_as_nobody(test: &str) {
    let mut again = Program::new(std::env::current_exe().unwrap());
    again.args(["--exact", test, "--include-ignored", "--nocapture", "--test-threads=1"]);
    let output = again.env(AS_NOBODY, "1").uid(65_534).gid(65_534).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && printed.contains("test result: ok. 1 passed"), "{printed}");
}

/// The running kernel's release: `6.12.9-amd64` is `(6, 12)`.
fn kernel_release() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// Limits of the process, and filters of the thread.
mod limit {
    #![expect(unsafe_code, reason = "the standard library sets neither limits nor filters")]

    /// What a process may have so much of.
    #[derive(Clone, Copy)]
    pub(super) enum Resource {
        Descriptors,
        AddressSpace,
        LockedMemory,
    }

    /// Sets the soft limit, and says what it was.
    pub(super) fn set_soft(resource: Resource, value: libc::rlim_t) -> libc::rlim_t {
        // The type of these numbers is not the same in every C library.
        let resource = match resource {
            Resource::Descriptors => libc::RLIMIT_NOFILE,
            Resource::AddressSpace => libc::RLIMIT_AS,
            Resource::LockedMemory => libc::RLIMIT_MEMLOCK,
        };
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limit` is one rlimit, borrowed for us alone.
        assert_eq!(unsafe { libc::getrlimit(resource, &mut limit) }, 0);
        let before = limit.rlim_cur;
        limit.rlim_cur = value;
        // SAFETY: `limit` is one rlimit, which the call reads.
        assert_eq!(unsafe { libc::setrlimit(resource, &limit) }, 0);
        before
    }

    /// Locks what the process maps from now on, or no longer.
    pub(super) fn lock_future(locked: bool) {
        if locked {
            // SAFETY: changes where pages are, and no byte of them.
            assert_eq!(unsafe { libc::mlockall(libc::MCL_FUTURE) }, 0);
        } else {
            // SAFETY: as above.
            assert_eq!(unsafe { libc::munlockall() }, 0);
        }
    }

    /// From now on a system call of this thread fails with this errno.
    pub(super) fn forbid(call: libc::c_long, errno: i32) {
        let code = |code: u32| u16::try_from(code).unwrap();
        let answer = libc::SECCOMP_RET_ERRNO | u32::try_from(errno).unwrap();
        let step = |op: u32, jt, jf, k| libc::sock_filter { code: code(op), jt, jf, k };
        let mut program = [
            // The number is the first word of struct seccomp_data.
            step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
            step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, u32::try_from(call).unwrap()),
            step(libc::BPF_RET | libc::BPF_K, 0, 0, answer),
            step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let filter = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
        // SAFETY: takes numbers only.
        assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
        // SAFETY: `filter` names the four steps of `program`, which live through the call.
        assert_eq!(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) }, 0);
    }
}

use limit::Resource;

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn mappings() -> usize {
    fs::read_to_string("/proc/self/maps").unwrap().lines().count()
}

// What the caller got wrong.

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn what_the_caller_got_wrong_is_refused_before_anything_is_sent() {
    let new = || NewDevice::new().id(HIGH);
    let disk = |sectors| Params::new(Sectors::new(sectors), Cache::None);
    let devices = [
        (new().depth(0), "a queue has a depth of 1 to 4096"),
        (new().depth(4097), "a queue has a depth of 1 to 4096"),
        (new().queues(0), "a device has 1 to 4096 queues"),
        (new().queues(4097), "a device has 1 to 4096 queues"),
        (new().max_io_bytes(4095), "the largest request has 4 KiB to 32 MiB"),
        (new().max_io_bytes((32 << 20) + 1), "the largest request has 4 KiB to 32 MiB"),
        (new().id(DeviceId::new(1 << 20)), "a device id is below 1048576"),
    ];
    let block = "a logical block is a power of two of 512 bytes or more, and at most a page";
    let size = "a disk is a whole number of logical blocks, and not empty";
    let disks = [
        (disk(0), size),
        (disk(9).block_bytes(4096), size),
        (disk(2048).block_bytes(0), block),
        (disk(2048).block_bytes(256), block),
        (disk(2048).block_bytes(513), block),
        (disk(2048).block_bytes(3072), block),
        (disk(2048).block_bytes(8192), block),
        (disk(2048).block_bytes(131_072), block),
        (disk(2048).block_bytes(4096).physical_block_bytes(512), "a physical block is not smaller than a logical one"),
        (disk(2048).discard(0, Sectors::new(8)), "a discard has a granularity and a largest size above 0"),
        (disk(u64::MAX / 512 + 1), "a disk has below 2^64 bytes"),
    ];
    // A thread that can send nothing: whatever tries has another error.
    let tried = thread::spawn(move || {
        limit::forbid(libc::SYS_io_uring_enter, libc::EPERM);
        let add = |device: &NewDevice, params: &Params| Device::add(open(), device, params).map(drop);
        for (device, what) in devices {
            assert_eq!(add(&device, &params()), Err(Error::Invalid { what }), "{device:?}");
            assert_eq!(open().add(&device), Err(Error::Invalid { what }));
        }
        for (params, what) in disks {
            assert_eq!(add(&new(), &params), Err(Error::Invalid { what }), "{params:?}");
        }
        // That the filter works.
        assert_eq!(add(&new(), &params()), Err(system(SystemCall::IoUringEnter, Errno::EPERM)));
    });
    tried.join().unwrap();
    assert_eq!(nodes(), [""; 0]);
}

// What the driver refuses.

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_refusal_with_one_meaning_says_it() {
    let mut control = open();
    let absent = control.info(HIGH).unwrap_err();
    assert_says(absent, refused(Command::GET_DEV_INFO, Errno::ENODEV), "; there is no device of the id in cmd.dev_id");

    let served = serve(NewDevice::new().id(HIGH), params(), forgetful).unwrap();
    let taken = control.add(&NewDevice::new().id(HIGH)).unwrap_err();
    let holds = "the id is taken; a device that was deleted has it as long as somebody holds its files";
    assert_says(taken, refused(Command::ADD_DEV, Errno::EEXIST), holds);
    let late = control.set_params(&served.info, &params()).unwrap_err();
    assert_says(
        late,
        refused(Command::SET_PARAMS, Errno::EACCES),
        "; the device was started, and parameters are set before",
    );
    let again = control.start(HIGH).unwrap_err();
    let live = "; the device is live already, or a client still has the block device of before the stop open";
    assert_says(again, refused(Command::START_DEV, Errno::EEXIST), live);
    let other = control.info_at(HIGH, c"/dev/null").unwrap_err();
    let path = "what is at the path is not the char device of the device in cmd.dev_id";
    assert_says(other, refused(Command::GET_DEV_INFO2, Errno::EPERM), path);
    let nothing = control.info_at(HIGH, c"/dev/nothing").unwrap_err();
    assert_says(nothing, refused(Command::GET_DEV_INFO2, Errno::ENOENT), "; there is nothing at the path");
    assert_eq!(served.stop(), Ok(Stopped::Handle));
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_driver_that_is_too_old_is_told_by_the_feature_and_the_linux_that_has_it() {
    let mut control = open();
    let offered = control.features().unwrap();
    let mut lacking: Vec<(Features, String)> = Features::KNOWN
        .iter()
        .filter(|(feature, _)| !offered.contains(*feature))
        .map(|(feature, name)| (*feature, format!("{name} (since Linux {})", feature.since().unwrap())))
        .collect();
    lacking.push((Features::from_bits(1 << 40), "0x10000000000 (not in Linux 7.3.4)".to_owned()));
    for (missing, named) in lacking {
        let error = control.add(&NewDevice::new().id(HIGH).features(missing)).unwrap_err();
        let said = format!("the driver does not give {named}; it gives {offered}");
        assert_says(error, Error::Unsupported { missing, offered }, &said);
    }
    let old = kernel_release() < (7, 0);
    assert_eq!(old, !offered.contains(Features::BATCH_IO), "{offered}");
    assert_eq!(nodes(), [""; 0]);
}

// What the machine lacks.

#[test]
#[ignore = "forbids io_uring to the whole machine: run `cargo xtask test`"]
fn io_uring_that_is_forbidden_is_told_with_its_sysctl() {
    const NAME: &str = "io_uring_that_is_forbidden_is_told_with_its_sysctl";
    let forbidden = system(SystemCall::IoUringSetup, Errno::EPERM);
    if is_nobody() {
        assert_eq!(Ring::wide(4, 4).unwrap_err(), forbidden);
        return;
    }
    let cause = "; sysctl kernel.io_uring_disabled forbids it: 1 to all but CAP_SYS_ADMIN and kernel.io_uring_group, 2 to \
                 everybody, or a seccomp filter, such as containers have, forbids io_uring";
    let mut device = Device::add(open(), &NewDevice::new().id(HIGH), &params()).unwrap();
    let before = open_files();
    {
        let _disabled = set("/proc/sys/kernel/io_uring_disabled", "2");
        assert_says(Control::open().unwrap_err(), forbidden, cause);
        assert_says(device.queue(QueueId::new(0)).unwrap_err(), forbidden, cause);
    }
    assert_eq!(open_files(), before);
    // Nothing is lost by it.
    drop(device.queue(QueueId::new(0)).unwrap());
    assert_eq!(device.delete(), Ok(DeletedId::Free));
    let _limited = set("/proc/sys/kernel/io_uring_disabled", "1");
    drop(open());
    run_as_nobody(NAME);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_kernel_or_a_filter_without_io_uring_is_told_from_one_that_forbids_it() {
    let mut device = Device::add(open(), &NewDevice::new().id(HIGH), &params()).unwrap();
    let before = open_files();
    for (errno, cause) in [
        (Errno::ENOSYS, "; this kernel has no io_uring (CONFIG_IO_URING), or a seccomp filter hides io_uring"),
        (Errno::EPERM, "or a seccomp filter, such as containers have, forbids io_uring"),
    ] {
        thread::scope(|scope| {
            scope.spawn(|| {
                limit::forbid(libc::SYS_io_uring_setup, errno.raw());
                let expected = system(SystemCall::IoUringSetup, errno);
                assert_says(Control::open().unwrap_err(), expected, cause);
                assert_says(device.queue(QueueId::new(0)).unwrap_err(), expected, cause);
            });
        });
    }
    assert_eq!(open_files(), before);
    assert_eq!(device.delete(), Ok(DeletedId::Free));
}

#[test]
#[ignore = "takes the driver away from the whole machine: run `cargo xtask test`"]
fn a_driver_that_is_not_there_is_told_from_a_node_that_has_none_behind_it() {
    let number = fs::metadata(CONTROL).unwrap().rdev();
    let module = fs::read_dir("/usr/lib/xtask/modules").unwrap().map(|entry| entry.unwrap().path());
    let module = module.into_iter().find(|path| path.to_string_lossy().contains("ublk_drv")).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let status = Program::new(program).args(arguments).status().unwrap();
        assert!(status.success(), "{program} {arguments:?}");
    };
    let open_control = |errno| Error::OpenControl { errno };
    {
        run("rmmod", &["ublk_drv"]);
        let _loaded = Restored(|| run("insmod", &[module.to_str().unwrap()]));
        let cause = "; the driver is not loaded (modprobe ublk_drv), or this kernel has no ublk driver (CONFIG_BLK_DEV_UBLK), or the driver's node \
             is not in this /dev";
        assert_says(Control::open().unwrap_err(), open_control(Errno::ENOENT), cause);

        let (major, minor) = (libc::major(number).to_string(), libc::minor(number).to_string());
        run("mknod", &[CONTROL, "c", &major, &minor]);
        let _removed = Restored(|| fs::remove_file(CONTROL).unwrap());
        let cause = "; the node has no driver behind it: run modprobe ublk_drv";
        assert_says(Control::open().unwrap_err(), open_control(Errno::ENODEV), cause);
    }
    assert!(Path::new(CONTROL).exists());
    open().features().unwrap();
}

#[test]
#[ignore = "opens the control device to everybody: run `cargo xtask test`"]
fn whoever_has_no_rights_is_told_which() {
    const NAME: &str = "whoever_has_no_rights_is_told_which";
    let root_only = fs::metadata(CONTROL).unwrap().mode() & 0o007 == 0;
    if is_nobody() {
        if root_only {
            let cause = "; the node belongs to root, and this process may not open it: run as root, or give the node to this user";
            assert_says(Control::open().unwrap_err(), Error::OpenControl { errno: Errno::EACCES }, cause);
            return;
        }
        let mut control = open();
        let takes = "CAP_SYS_ADMIN in the initial user namespace";
        let refusals = [
            (Command::ADD_DEV, control.add(&NewDevice::new().id(HIGH)).unwrap_err()),
            (Command::GET_DEV_INFO, control.info(HIGH).unwrap_err()),
            (Command::STOP_DEV, control.stop(HIGH).unwrap_err()),
            (Command::DEL_DEV, control.delete(HIGH).unwrap_err()),
        ];
        for (command, error) in refusals {
            assert_says(error, refused(command, Errno::EPERM), takes);
        }
        return;
    }
    assert!(root_only);
    let mut control = open();
    let info = control.add(&NewDevice::new().id(HIGH)).unwrap();
    run_as_nobody(NAME);
    {
        let _opened = open_to_all();
        run_as_nobody(NAME);
    }
    assert_eq!(control.info(HIGH), Ok(info));
    control.delete(HIGH).unwrap();
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
            errno: add_unprivileged(),
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
    let mut control = open();
    control.add(&NewDevice::new().id(HIGH)).unwrap();
    control.delete(HIGH).unwrap();
    assert_eq!(nodes(), [""; 0]);
}

/// What the driver answers to a device that a user without rights may add, which this crate does not offer yet.
fn add_unprivileged() -> Errno {
    #![expect(unsafe_code, reason = "a command made by hand")]
    let control = ublk::Fd::open(c"/dev/ublk-control").unwrap();
    let mut info = ublk_sys::ublksrv_ctrl_dev_info::default();
    (info.nr_hw_queues, info.queue_depth, info.max_io_buf_bytes, info.dev_id) = (1, 1, 4096, u32::MAX);
    info.flags = Features::UNPRIVILEGED_DEV.bits();
    let address = u64::try_from((&raw mut info).expose_provenance()).unwrap();
    // dev_id, queue_id and len; addr; no data; no path.
    let words = [u64::from_ne_bytes([255, 255, 255, 255, 255, 255, 64, 0]), address, 0, 0];
    let mut ring = Ring::wide(4, 4).unwrap();
    // SAFETY: the 64 bytes at `address` are `info`, which nothing else uses until the completion is taken below.
    let op = unsafe { ublk::ring::WideOp::uring_cmd(&control, Command::ADD_DEV.raw(), words) };
    ring.push(op, 1).unwrap();
    loop {
        ring.submit_and_wait(None).unwrap();
        if let Some(completion) = ring.next_completion() {
            assert!(completion.result < 0, "{}", completion.result);
            return Errno::from_raw(completion.result);
        }
    }
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn every_step_that_finds_no_descriptor_left_says_so_and_leaves_nothing() {
    let serve_once = || -> Result<(), Error> {
        let mut device = Device::add(Control::open()?, &NewDevice::new().id(HIGH).depth(4), &params())?;
        let queue = device.queue(QueueId::new(0))?.fetch()?;
        device.stop()?;
        while !queue.is_finished() {
            queue.wait(None)?;
            assert!(queue.next_request()?.is_none());
        }
        drop(queue);
        device.delete().map(drop)
    };
    let run_server = || -> Result<(), Error> {
        let stop = StopHandle::new()?;
        let server = Server::new(NewDevice::new().id(HIGH).depth(4), params()).stop_on(&stop).stop_on_signals();
        server.run(forgetful, |_| stop.stop()).map(drop)
    };
    // Once without a limit, for what the process needs once and keeps.
    serve_once().unwrap();
    run_server().unwrap();
    let steps = steps_without_descriptors(serve_once);
    let expected =
        ["cannot open /dev/ublk-control", "io_uring_setup failed", "cannot open /dev/ublkc4711"].map(str::to_owned);
    assert!(expected.iter().all(|step| steps.contains(step)), "{steps:?}");
    assert!(steps.iter().filter(|step| *step == "io_uring_setup failed").count() >= 2, "{steps:?}");
    let steps = steps_without_descriptors(run_server);
    assert!(steps.contains(&"eventfd failed".to_owned()) && steps.contains(&"signalfd failed".to_owned()), "{steps:?}");
}

/// Lets `work` have one descriptor more each time, until it succeeds; the operations that failed on the way.
fn steps_without_descriptors(work: impl Fn() -> Result<(), Error>) -> Vec<String> {
    let mut steps = Vec::new();
    let (files, maps) = (open_files(), mappings());
    // The first number that is free.
    let first = libc::rlim_t::try_from(ublk::Fd::open(c"/dev/null").unwrap().raw()).unwrap();
    for more in 0.. {
        assert!(more < 64, "{steps:?}");
        let before = limit::set_soft(Resource::Descriptors, first + more);
        let done = work();
        limit::set_soft(Resource::Descriptors, before);
        assert_eq!((open_files(), nodes()), (files, Vec::new()), "with {more}: {done:?}");
        let Err(error) = done else { break };
        let sentence = error.to_string();
        let cause = ": EMFILE (24); this process has as many descriptors as it may: raise RLIMIT_NOFILE (ulimit -n)";
        let step = sentence.strip_suffix(cause).unwrap_or_else(|| panic!("{sentence}"));
        steps.push(step.to_owned());
    }
    assert!(mappings() <= maps + 1, "{} mappings after {maps}", mappings());
    steps
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn an_address_space_that_is_limited_is_told() {
    let mut device = Device::add(open(), &NewDevice::new().id(HIGH), &params()).unwrap();
    let (files, maps) = (open_files(), mappings());
    // The buffers take 64 MiB.
    let used = fs::read_to_string("/proc/self/statm").unwrap();
    let pages = used.split_whitespace().next().unwrap().parse::<libc::rlim_t>().unwrap();
    let before = limit::set_soft(Resource::AddressSpace, pages * 4096 + (16 << 20));
    let error = device.queue(QueueId::new(0)).map(drop);
    limit::set_soft(Resource::AddressSpace, before);
    let cause = "; the address space is limited (RLIMIT_AS, sysctl vm.overcommit_memory=2), or the mappings (sysctl \
                 vm.max_map_count)";
    assert_says(error.unwrap_err(), system(SystemCall::MmapAnonymous, Errno::ENOMEM), cause);
    assert_eq!((open_files(), mappings()), (files, maps));
    drop(device.queue(QueueId::new(0)).unwrap());
    assert_eq!(device.delete(), Ok(DeletedId::Free));
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_limit_of_locked_memory_is_told_where_it_counts() {
    const NAME: &str = "a_limit_of_locked_memory_is_told_where_it_counts";
    if !is_nobody() {
        return run_as_nobody(NAME);
    }
    let before = limit::set_soft(Resource::LockedMemory, 0);
    let made = Ring::wide(32, 32).map(drop);
    limit::set_soft(Resource::LockedMemory, 4096);
    // Nothing may be allocated in between.
    limit::lock_future(true);
    let mapped = Ring::wide(256, 256).map(drop);
    limit::lock_future(false);
    limit::set_soft(Resource::LockedMemory, before);

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
