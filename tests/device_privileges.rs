// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a server needs of the machine, and what it can do without: the system calls of each phase as SECURITY.md lists them, a filter
//! that allows these and no others, files that it cannot reach, and a server that gives up its user and every capability.
#![cfg_attr(not(have_ublk), allow(dead_code, reason = "the tests are ignored, not left out"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test ends where something is wrong"
)]
#![expect(
    unsafe_code,
    reason = "filters, rules and users are set by system calls, before a program starts or in all threads"
)]

mod harness;

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::task::Poll;
use std::thread;

use harness::program::Program;
use harness::{Aligned, nodes, open_direct};
use ublk::hosting::mark_io_flusher;
use ublk::mode::{self, Mode};
use ublk::{
    BufferLock, Cache, Control, Device, Errno, Error, NewDevice, Operation, Params, PreparedQueue, QueueId, Request,
    Sectors, Server, Signals, State, StopHandle,
};

const SECURITY: &str = include_str!("../SECURITY.md");
const ROLE: &str = "UBLK_TEST_PRIVILEGES";

// What SECURITY.md says.

/// A call as the paper has it: the names under which C libraries know it, of which one is used.
#[derive(Debug)]
struct Listed {
    names: Vec<&'static str>,
    /// Whether it is there only on some machines, or sometimes.
    optional: bool,
}

/// The rows of the paper's table: what is done, and by which calls.
fn listed() -> Vec<(&'static str, Vec<Listed>)> {
    let (_, table) = SECURITY.split_once("<!-- system calls -->\n").unwrap();
    let rows = table.lines().take_while(|line| line.starts_with('|')).skip(2);
    let rows = rows.map(|row| {
        let mut cells = row.trim_matches('|').split('|').map(str::trim);
        let (what, calls) = (cells.next().unwrap(), cells.next().unwrap());
        let calls = calls.split(", ").map(|call| Listed {
            names: call.split('`').skip(1).step_by(2).collect(),
            optional: call.starts_with('('),
        });
        (what, calls.collect())
    });
    rows.collect()
}

fn row(what: &str) -> Vec<Listed> {
    let row = listed().into_iter().find(|(listed, _)| *listed == what);
    row.unwrap_or_else(|| panic!("SECURITY.md has no row {what:?}")).1
}

/// Compares a row with what was seen.
fn differences(what: &str, seen: &BTreeSet<String>) -> Vec<String> {
    let row = row(what);
    let is_seen = |call: &&Listed| call.names.iter().any(|name| seen.contains(*name));
    let missing = row.iter().filter(|call| !call.optional && !is_seen(call));
    let missing = missing.map(|call| format!("{what}: {:?} is listed and was not seen", call.names));
    let known: BTreeSet<&str> = row.iter().flat_map(|call| call.names.iter().copied()).collect();
    let unknown = seen.iter().filter(|name| !known.contains(name.as_str()));
    missing.chain(unknown.map(|name| format!("{what}: {name} was seen and is not listed"))).collect()
}

/// The numbers of all calls that are listed.
fn numbers() -> Vec<libc::c_long> {
    let names: BTreeSet<&str> =
        listed().iter().flat_map(|(_, row)| row.iter().flat_map(|call| call.names.iter().copied())).collect();
    names.into_iter().map(number).collect()
}

macro_rules! numbers {
    ($($name:ident = $number:ident,)*) => {
        /// Of x86-64, whose calls the paper lists.
        #[cfg(target_arch = "x86_64")]
        fn number(name: &str) -> libc::c_long {
            match name {
                $(stringify!($name) => libc::$number,)*
                _ => panic!("{name}: this test does not know its number"),
            }
        }
    };
}

numbers! {
    access = SYS_access, arch_prctl = SYS_arch_prctl, brk = SYS_brk, clock_gettime = SYS_clock_gettime,
    clock_nanosleep = SYS_clock_nanosleep, clone = SYS_clone, clone3 = SYS_clone3, close = SYS_close,
    eventfd2 = SYS_eventfd2, execve = SYS_execve, exit = SYS_exit, exit_group = SYS_exit_group, fallocate = SYS_fallocate,
    fcntl = SYS_fcntl, fstat = SYS_fstat, fsync = SYS_fsync, futex = SYS_futex, getpid = SYS_getpid,
    getrandom = SYS_getrandom, gettid = SYS_gettid, io_uring_enter = SYS_io_uring_enter,
    io_uring_register = SYS_io_uring_register, io_uring_setup = SYS_io_uring_setup, ioctl = SYS_ioctl, lseek = SYS_lseek,
    madvise = SYS_madvise, mlock2 = SYS_mlock2, mmap = SYS_mmap, mprotect = SYS_mprotect, mremap = SYS_mremap,
    munmap = SYS_munmap, nanosleep = SYS_nanosleep, newfstatat = SYS_newfstatat, open = SYS_open, openat = SYS_openat,
    poll = SYS_poll, ppoll = SYS_ppoll, prctl = SYS_prctl, pread64 = SYS_pread64, prlimit64 = SYS_prlimit64,
    pwritev = SYS_pwritev, read = SYS_read, readlink = SYS_readlink, readlinkat = SYS_readlinkat, restart_syscall = SYS_restart_syscall, rseq = SYS_rseq,
    rt_sigaction = SYS_rt_sigaction, rt_sigprocmask = SYS_rt_sigprocmask, rt_sigreturn = SYS_rt_sigreturn,
    sched_getaffinity = SYS_sched_getaffinity, sched_setaffinity = SYS_sched_setaffinity,
    sched_yield = SYS_sched_yield, set_robust_list = SYS_set_robust_list, set_tid_address = SYS_set_tid_address,
    sigaltstack = SYS_sigaltstack, signalfd4 = SYS_signalfd4, statx = SYS_statx, write = SYS_write, writev = SYS_writev,
}

#[cfg(not(target_arch = "x86_64"))]
fn number(name: &str) -> libc::c_long {
    panic!("{name}: SECURITY.md has the calls of x86-64");
}

// What is seen.

/// A file below the folder for such, which is gone when the test is.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        Scratch(env::temp_dir().join(format!("privileges-{}-{name}", std::process::id())))
    }

    fn of_bytes(name: &str, len: u64) -> Scratch {
        let scratch = Scratch::new(name);
        File::create(&scratch.0).unwrap().set_len(len).unwrap();
        scratch
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Whatever the test said, it is not about this.
        let _ = fs::remove_file(&self.0);
    }
}

/// Starts a program whose every system call is written to a file. It stays our child, and strace is somebody else's.
fn traced(program: &str, arguments: &[&str], role: &str, trace: &Scratch) -> Program {
    let mut command = Command::new("strace");
    command.args(["-D", "-f", "-q", "-e", "signal=none", "-s", "64", "-o", trace.path(), program]);
    Program::start_as(command.args(arguments).env(ROLE, role))
}

/// The calls of a trace, each with its thread and its line, once the process has ended.
fn calls(trace: &Scratch, process: u32) -> Vec<(String, String, String)> {
    let ended = |line: &str| {
        line.split_whitespace().next() == Some(&process.to_string()) && line.ends_with(" +++ exited with 0 +++")
    };
    let text = loop {
        let text = fs::read_to_string(&trace.0).unwrap();
        if text.lines().any(ended) {
            break text;
        }
        // strace writes the end when it has heard of it, and nothing tells.
        thread::yield_now();
    };
    let mut calls = Vec::new();
    for line in text.lines() {
        let (thread, said) = line.split_once(' ').unwrap();
        let said = said.trim_start();
        if let Some((name, _)) = said.split_once('(').filter(|_| !said.starts_with(['<', '+', '-', '?'])) {
            calls.push((thread.to_owned(), name.to_owned(), said.to_owned()));
        }
    }
    calls
}

// The core, without the standard library's threads, in one thread.

const OPEN: &str = "open, add, start";
const SERVE: &str = "serve";
const STOP: &str = "stop, delete";

/// Says in the trace that another phase begins.
fn mark(phase: &str) {
    let mut line = [b' '; 32];
    line[..phase.len()].copy_from_slice(phase.as_bytes());
    line[31] = b'\n';
    assert_eq!(io::stderr().write(&line).unwrap(), line.len());
}

/// What is played while it is traced.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extra {
    None,
    Signals,
    Hosting,
}

fn params() -> Params {
    Params::new(Sectors::new(16384), Cache::None)
}

/// A whole server in one thread, which allocates nothing, until its standard input ends.
fn play<M: Mode>(new: NewDevice<M>, extra: Extra, answer: impl Fn(Request<'_, M>)) {
    mark(OPEN);
    let signals = (extra == Extra::Signals).then(|| Signals::block().unwrap());
    let mut device = Device::add(Control::open().unwrap(), &new, &params()).unwrap();
    let id = device.info().id();
    let mut queue: PreparedQueue<M> = device.queue(QueueId::new(0)).unwrap();
    if extra == Extra::Hosting {
        mark_io_flusher().unwrap();
        queue.lock_buffers(BufferLock::Prefaulted).unwrap();
        queue.restrict(&[]).unwrap();
    }
    let queue = queue.fetch().unwrap();
    let mut command = device.begin_start().unwrap();
    let (mut is_live, mut is_stopping) = (false, false);
    while !queue.is_finished() {
        let done = command.poll().unwrap();
        if done && !is_live {
            is_live = true;
            mark("-");
            println!("\n/dev/ublkb{id}");
            mark(SERVE);
        }
        let input = if is_live && !is_stopping { 0 } else { -1 };
        let signal = signals.as_ref().map_or(-1, |signals| signals.fd().raw());
        let fds = [queue.ring_fd(), command.fd().raw(), input, signal];
        let [_, _, hung_up, signalled] = ublk::poll(fds, command.time_left()).unwrap();
        while let Poll::Ready(Some(request)) = queue.poll_request() {
            answer(request.unwrap());
        }
        let told = signalled && signals.as_ref().is_some_and(|signals| signals.take().is_some());
        if (hung_up || told) && !is_stopping {
            is_stopping = true;
            mark(STOP);
            command = device.begin_stop().unwrap();
        }
    }
    command.wait().unwrap();
    drop(queue);
    device.delete().unwrap();
    drop(signals);
    mark("-");
}

fn answer_by_call(mut request: Request<'_, mode::UserCopy>) {
    let mut bytes = [0; 4096];
    let len = bytes.len().min(usize::try_from(request.len_bytes()).unwrap());
    match request.operation() {
        Operation::WRITE => request.read_at(0, &mut bytes[..len]).unwrap(),
        // What is left is zeroed.
        _ => request.write_at(0, &bytes[..len / 2]).unwrap(),
    }
    request.complete();
}

/// Plays a role if this process is to, and says so.
fn plays() -> bool {
    let none = NewDevice::new().depth(8);
    match env::var(ROLE).as_deref() {
        Ok("core") => play(none, Extra::None, |request| request.complete()),
        Ok("user copy") => play(none.mode::<mode::UserCopy>(), Extra::None, answer_by_call),
        Ok("signals") => play(none, Extra::Signals, |request| request.complete()),
        Ok("hosting") => play(none, Extra::Hosting, |request| request.complete()),
        Ok("gives up") => give_up(),
        _ => return false,
    }
    true
}

/// Reads and writes the disk.
fn use_disk(disk: &Program) {
    let mut block = Aligned::filled(8192, 7);
    let file = disk.open();
    file.write_all_at(&block, 4096).unwrap();
    file.read_exact_at(&mut block, 4096).unwrap();
}

/// Sends SIGTERM to the thread of a process that is called after a test.
fn signal_thread(process: u32, test: &str) {
    for task in fs::read_dir(format!("/proc/{process}/task")).unwrap() {
        let task = task.unwrap();
        let name = fs::read_to_string(task.path().join("comm")).unwrap();
        if test.starts_with(name.trim_end()) {
            let thread: usize = task.file_name().to_str().unwrap().parse().unwrap();
            let signal = usize::try_from(libc::SIGTERM).unwrap();
            // No argument points to anything.
            call(libc::SYS_tgkill, [usize::try_from(process).unwrap(), thread, signal, 0]).unwrap();
            return;
        }
    }
    panic!("no thread is called after {test}");
}

/// The calls of this test in a role, phase by phase.
fn calls_in_role(test: &str, role: &str) -> Vec<(&'static str, BTreeSet<String>)> {
    let trace = Scratch::new("role");
    let program = env::current_exe().unwrap();
    let arguments = ["--exact", test, "--include-ignored", "--nocapture"];
    let disk = traced(program.to_str().unwrap(), &arguments, role, &trace);
    let process = disk.process.id();
    use_disk(&disk);
    if role == "signals" {
        // To the thread that takes it, which libtest has called after the test: another does not block it.
        signal_thread(process, test);
    }
    let (status, said) = if role == "signals" { disk.ended() } else { disk.hang_up() };
    assert!(status.success(), "{role}: {said}");
    let mut phases: Vec<(&'static str, BTreeSet<String>)> = Vec::new();
    let (mut player, mut phase) = (None, "-");
    for (thread, name, line) in calls(&trace, process) {
        let marked =
            [OPEN, SERVE, STOP, "-"].into_iter().find(|phase| line.starts_with(&format!("write(2, \"{phase} ")));
        if let Some(marked) = marked {
            (player, phase) = (Some(thread), marked);
            if phase != "-" {
                phases.push((phase, BTreeSet::new()));
            }
        } else if player.as_ref() == Some(&thread) && phase != "-" {
            phases.last_mut().unwrap().1.insert(name);
        }
    }
    assert_eq!(phases.iter().map(|(phase, _)| *phase).collect::<Vec<_>>(), [OPEN, SERVE, STOP], "{role}");
    phases
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn the_system_calls_of_each_phase_are_those_that_security_md_lists_slow() {
    const NAME: &str = "the_system_calls_of_each_phase_are_those_that_security_md_lists_slow";
    if plays() {
        return;
    }
    let core = calls_in_role(NAME, "core");
    let mut wrong = Vec::new();
    let mut base = BTreeSet::new();
    for (phase, seen) in core {
        wrong.extend(differences(phase, &seen));
        base.extend(seen);
    }
    // What may be seen of the core in any phase.
    for phase in [OPEN, SERVE, STOP] {
        base.extend(row(phase).iter().flat_map(|call| call.names.iter().map(|name| (*name).to_owned())));
    }
    for role in ["user copy", "signals", "hosting"] {
        let all: BTreeSet<String> = calls_in_role(NAME, role).into_iter().flat_map(|(_, seen)| seen).collect();
        wrong.extend(differences(role, &all.difference(&base).cloned().collect()));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(nodes(), [""; 0]);
}

/// The row of what programs with `std` add.
const STD: &str = "with `std`";

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn the_system_calls_that_ramdisk_and_loop_add_are_those_that_security_md_lists_slow() {
    let backing = Scratch::of_bytes("traced", 8 << 20);
    let mut seen = BTreeSet::new();
    for (program, arguments) in [("ramdisk", vec!["--size", "8M"]), ("loop", vec![backing.path()])] {
        let trace = Scratch::new(program);
        let disk = traced(program, &arguments, "none", &trace);
        let process = disk.process.id();
        use_disk(&disk);
        disk.stop();
        seen.extend(calls(&trace, process).into_iter().map(|(_, name, _)| name));
    }
    for (_, row) in listed().iter().filter(|(what, _)| *what != STD) {
        seen.retain(|name| !row.iter().any(|call| call.names.contains(&name.as_str())));
    }
    let wrong = differences(STD, &seen);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(nodes(), [""; 0]);
}

// What is allowed.

const LANDLOCK_EXECUTE: u64 = 1;
const LANDLOCK_WRITE_FILE: u64 = 1 << 1;
const LANDLOCK_READ_FILE: u64 = 1 << 2;
const LANDLOCK_READ_DIR: u64 = 1 << 3;
const LANDLOCK_IOCTL_DEV: u64 = 1 << 15;
/// Every right over files that Linux 6.10 knows.
const LANDLOCK_ALL: u64 = 0xffff;

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct Beneath {
    allowed: u64,
    fd: i32,
}

/// A system call that has to succeed; its result.
fn call(number: libc::c_long, arguments: [usize; 4]) -> io::Result<libc::c_long> {
    let [a, b, c, d] = arguments;
    // prctl(2) wants a fifth, which is 0.
    // SAFETY: each caller below says what its arguments point to.
    let result = unsafe { libc::syscall(number, a, b, c, d, 0_usize) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Has a command start with a filter that ends it at any call but these, and reach no file but these.
fn confine(command: &mut Command, calls: &[libc::c_long], files: &[(&Path, u64)]) {
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: u16::try_from(code).unwrap(), jt, jf, k };
    // The number is the first word of struct seccomp_data.
    let mut filter = vec![step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)];
    for (index, number) in calls.iter().enumerate() {
        // To the last step, over those that are left and the one that ends it.
        let left = u8::try_from(calls.len() - index).unwrap();
        filter.push(step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, left, 0, u32::try_from(*number).unwrap()));
    }
    filter.push(step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_KILL_PROCESS));
    filter.push(step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW));
    let opened = files.iter().filter(|(path, _)| path.exists()).map(|(path, rights)| {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path).unwrap();
        (file, *rights)
    });
    let opened: Vec<(File, u64)> = opened.collect();
    let start = move || {
        call(libc::SYS_prctl, [libc::PR_SET_NO_NEW_PRIVS.try_into().unwrap_or(0), 1, 0, 0])?;
        let handled = LANDLOCK_ALL;
        // The kernel reads the 8 bytes, which live through the call.
        let rules = call(libc::SYS_landlock_create_ruleset, [(&raw const handled).addr(), 8, 0, 0])?;
        let rules = usize::try_from(rules).map_err(io::Error::other)?;
        for (file, rights) in &opened {
            let rule = Beneath { allowed: *rights, fd: file.as_raw_fd() };
            // The kernel reads the rule, which lives through the call.
            call(libc::SYS_landlock_add_rule, [rules, 1, (&raw const rule).addr(), 0])?;
        }
        call(libc::SYS_landlock_restrict_self, [rules, 0, 0, 0])?;
        call(libc::SYS_close, [rules, 0, 0, 0])?;
        let len = u16::try_from(filter.len()).map_err(io::Error::other)?;
        let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut() };
        // The kernel reads the program and its steps, which live through the call. 1: SECCOMP_SET_MODE_FILTER.
        call(libc::SYS_seccomp, [1, 0, (&raw const program).addr(), 0]).map(drop)
    };
    // SAFETY: between fork and exec it makes system calls, and takes no lock.
    unsafe { command.pre_exec(start) };
}

/// What a program needs beside its backing: its own file and libraries, to be read, and the driver's nodes.
fn confined(program: &str, arguments: &[&str], backing: Option<&Scratch>) -> Command {
    const LIBRARIES: u64 = LANDLOCK_EXECUTE | LANDLOCK_READ_FILE | LANDLOCK_READ_DIR;
    const FILE: u64 = LANDLOCK_READ_FILE | LANDLOCK_WRITE_FILE;
    let mut files = vec![
        (Path::new("/usr"), LIBRARIES),
        (Path::new("/lib"), LIBRARIES),
        (Path::new("/lib64"), LIBRARIES),
        (Path::new("/etc/ld.so.cache"), LANDLOCK_READ_FILE),
        // The node of a device that is yet to be made is named by its folder alone.
        (Path::new("/dev"), FILE | LANDLOCK_IOCTL_DEV),
    ];
    files.extend(backing.map(|backing| (&*backing.0, FILE)));
    let mut command = Command::new(program);
    command.args(arguments);
    confine(&mut command, &numbers(), &files);
    command
}

fn fio(disk: &str) {
    let fio = Command::new("fio")
        .args(["--name=job", &format!("--filename={disk}"), "--direct=1", "--ioengine=libaio", "--rw=randrw"])
        .args(["--bsrange=4k-128k", "--iodepth=8", "--size=8M", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1"])
        .args(["--serialize_overlap=1", "--fdatasync=16"])
        .stdin(Stdio::null())
        .output()
        .expect("fio on the PATH");
    let printed = String::from_utf8_lossy(&fio.stdout) + String::from_utf8_lossy(&fio.stderr);
    assert!(fio.status.success() && printed.contains("err= 0"), "{}\n{printed}", fio.status);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn ramdisk_and_loop_serve_with_no_call_but_the_listed_ones_and_no_file_but_the_backing_slow() {
    let backing = Scratch::of_bytes("confined", 16 << 20);
    let ramdisk = confined("ramdisk", &["--size", "16M", "--queues", "2"], None);
    let looped = confined("loop", &["--queues", "2", backing.path()], Some(&backing));
    for mut command in [ramdisk, looped] {
        let disk = Program::start_as(&mut command);
        // Both hold for every thread: mode 2 is a filter.
        for task in fs::read_dir(format!("/proc/{}/task", disk.process.id())).unwrap() {
            let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            assert!(status.contains("\nSeccomp:\t2\n") && status.contains("\nNoNewPrivs:\t1\n"), "{status}");
        }
        fio(&disk.path);
        let discard = Command::new("blkdiscard").args(["-l", "1M", &disk.path]).status().unwrap();
        assert!(discard.success());
        disk.stop();
        assert_eq!(nodes(), [""; 0]);
    }

    // Another file is none that it can open.
    let other = Scratch::of_bytes("other", 1 << 20);
    let refused = confined("loop", &[other.path()], Some(&backing)).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(1) && said.contains("ermission denied"), "{:?} {said}", refused.status);
    // And another call is the end. (`mkdir` is not needed for a disk.)
    let ended = confined("mkdir", &["/tmp/not-made"], None).stdin(Stdio::null()).status().unwrap();
    assert_eq!(ended.signal(), Some(libc::SIGSYS), "{ended:?}");
    assert!(!Path::new("/tmp/not-made").exists());
}

// What is given up.

const NOBODY: u32 = 65_534;

/// Serves a disk in memory, and is nobody once that can be used.
fn give_up() {
    let memory = Mutex::new(vec![0_u8; 8 << 20]);
    let answer = |mut request: Request<'_>| {
        let mut memory = memory.lock().unwrap();
        let start = usize::try_from(request.offset_bytes()).unwrap();
        let len = usize::try_from(request.len_bytes()).unwrap();
        match request.operation() {
            Operation::READ => drop(request.cursor().write(&memory[start..start + len])),
            Operation::WRITE => memory[start..start + len].copy_from_slice(request.data()),
            _ => return request.fail(Errno::EOPNOTSUPP),
        }
        request.complete();
    };
    let stop = StopHandle::new().unwrap();
    let server = Server::new(NewDevice::new().queues(2).depth(8), params()).stop_on(&stop);
    thread::spawn(move || {
        io::stdin().read_to_end(&mut Vec::new()).unwrap();
        stop.stop();
    });
    let ended = server.run(answer, |device| {
        // libc's functions change every thread. Without the user 0 there is no capability left.
        // SAFETY: no list of groups is read, as it has no members.
        assert_eq!(unsafe { libc::setgroups(0, std::ptr::null()) }, 0);
        // SAFETY: takes numbers only.
        assert_eq!(unsafe { libc::setresgid(NOBODY, NOBODY, NOBODY) }, 0);
        // SAFETY: takes numbers only.
        assert_eq!(unsafe { libc::setresuid(NOBODY, NOBODY, NOBODY) }, 0);
        println!("\n/dev/ublkb{}", device.id());
    });
    println!("\nended: {ended:?}");
}

/// A server that has given up everything.
fn unprivileged(test: &str) -> Program {
    let mut command = Command::new(env::current_exe().unwrap());
    let arguments = ["--exact", test, "--include-ignored", "--nocapture"];
    let disk = Program::start_as(command.args(arguments).env(ROLE, "gives up"));
    let mut threads = 0;
    for task in fs::read_dir(format!("/proc/{}/task", disk.process.id())).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let of = |field: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
            value.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        // The kernel's own threads for the control ring's commands have what the process had when they were made. They run no code of the
        // process, and work with the rights of whoever submitted.
        if of("Name").starts_with("iou-wrk-") {
            continue;
        }
        for field in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
            assert_eq!(of(field), "0000000000000000", "{field} of {}", of("Name"));
        }
        let nobody = [NOBODY.to_string(), NOBODY.to_string(), NOBODY.to_string(), NOBODY.to_string()].join(" ");
        assert_eq!((of("Uid"), of("Gid"), of("Groups")), (nobody.clone(), nobody, String::new()));
        threads += 1;
    }
    assert!(threads >= 3, "{threads}");
    disk
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_server_that_gave_up_its_user_and_every_capability_serves_until_somebody_else_stops_and_deletes_its_device() {
    const NAME: &str =
        "a_server_that_gave_up_its_user_and_every_capability_serves_until_somebody_else_stops_and_deletes_its_device";
    if plays() {
        return;
    }
    let disk = unprivileged(NAME);
    fio(&disk.path);
    let (id, mut control) = (disk.id(), Control::open().unwrap());
    control.stop(id).unwrap();
    let (status, said) = disk.ended();
    // It serves until then, and is not allowed to end what is left, which it says.
    assert!(status.success() && said.contains("ended: Err(") && said.contains("EPERM"), "{said}");
    assert_eq!(control.info(id).unwrap().state(), State::DEAD);
    control.delete(id).unwrap();
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_device_that_its_process_may_not_delete_any_more_is_an_error_and_stays() {
    let device = Device::add(Control::open().unwrap(), &NewDevice::new().depth(8), &params()).unwrap();
    let id = device.info().id();
    let nobody = usize::try_from(NOBODY).unwrap();
    let deleted = thread::scope(|scope| {
        let delete = move || {
            // No argument points to anything; the call itself, as libc's function changes every thread.
            call(libc::SYS_setresuid, [nobody, nobody, nobody, 0]).unwrap();
            device.delete()
        };
        scope.spawn(delete).join().unwrap()
    });
    assert!(matches!(deleted, Err(Error::Control { errno: Errno::EPERM, .. })), "{deleted:?}");
    let mut control = Control::open().unwrap();
    assert_eq!(control.info(id).unwrap().state(), State::DEAD);
    control.delete(id).unwrap();
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_server_that_gave_up_its_rights_cannot_stop_its_device_says_so_and_leaves_it_to_somebody_who_can() {
    const NAME: &str =
        "a_server_that_gave_up_its_rights_cannot_stop_its_device_says_so_and_leaves_it_to_somebody_who_can";
    if plays() {
        return;
    }
    let disk = unprivileged(NAME);
    let (id, path) = (disk.id(), disk.path.clone());
    let client = open_direct(id);
    client.read_exact_at(&mut Aligned::filled(4096, 1), 0).unwrap();
    drop(client);
    let (status, said) = disk.hang_up();
    assert!(status.success() && said.contains("UBLK_U_CMD_STOP_DEV") && said.contains("EPERM"), "{said}");
    // The driver has taken the disk away, as after any server that is gone; its number stays.
    let mut control = Control::open().unwrap();
    while control.info(id).unwrap().state() != State::DEAD {
        thread::yield_now();
    }
    assert!(!Path::new(&path).exists());
    control.delete(id).unwrap();
    assert_eq!(nodes(), [""; 0]);
}
