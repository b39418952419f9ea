// SPDX-License-Identifier: MIT OR Apache-2.0
//! A server that its own machine depends on: what its threads and buffers are marked as, who is refused that, and swap on its disk.
#![cfg_attr(not(have_ublk), allow(dead_code, reason = "the tests are ignored, not left out"))]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test ends where something is wrong")]
#![expect(unsafe_code, reason = "mlockall(2), and the calls by which one thread becomes nobody")]

mod harness;
mod planted;

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

use harness::program::Program;
use harness::{group, nodes, quiet_device};
use planted::{NOBODY, Resource, Restored, is_nobody, run, run_as_nobody, set_soft};
use ublk::hosting::{adjust_oom_score, mark_io_flusher};
use ublk::{
    BufferLock, Cache, Control, Device, Errno, Error, Features, NewDevice, Operation, Params, PreparedQueue, QueueId,
    Request, Sectors, Server, StopHandle, Stopped, SystemCall,
};

const PF_MEMALLOC_NOIO: u64 = 0x0008_0000;
const PF_LOCAL_THROTTLE: u64 = 0x0010_0000;

fn params() -> Params {
    Params::new(Sectors::new(16384), Cache::None)
}

/// Two queues whose buffers are 4 MiB each.
fn device() -> NewDevice {
    quiet_device(8).queues(2).max_io_bytes(512 << 10)
}

const BUFFERS: u64 = 2 * 8 * (512 << 10);

/// A line of `/proc/PROCESS/status`, in bytes.
fn status(process: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    value.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Of this process's mappings that are locked, the bytes that are there.
fn locked_and_there() -> u64 {
    let maps = fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut there, mut all) = (0, 0);
    for line in maps.lines() {
        if let Some(bytes) = line.strip_prefix("Rss:") {
            there = bytes.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10;
        } else if let Some(flags) = line.strip_prefix("VmFlags:") {
            all += if flags.split_whitespace().any(|flag| flag == "lo") { there } else { 0 };
        }
    }
    all
}

/// The flags of each thread of this process by its name: the ninth field of its `stat`.
fn task_flags() -> Vec<(String, u64)> {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let flags = tasks.map(|task| {
        let stat = fs::read_to_string(task.join("stat")).unwrap();
        let (name, rest) = stat.split_once('(').unwrap().1.rsplit_once(')').unwrap();
        (name.to_owned(), rest.split_whitespace().nth(6).unwrap().parse().unwrap())
    });
    flags.collect()
}

/// The flags of the threads that serve the device, and of all others.
fn flags_of_servers_and_others(prefix: &str) -> (Vec<u64>, Vec<u64>) {
    let (servers, others): (Vec<_>, Vec<_>) = task_flags().into_iter().partition(|(name, _)| name.starts_with(prefix));
    (servers.into_iter().map(|(_, flags)| flags).collect(), others.into_iter().map(|(_, flags)| flags).collect())
}

// What it is marked as.

/// Runs a server until it is live, looks at the process then, and says what was seen.
fn looked_at<T>(ask: impl FnOnce(Server) -> Server, look: impl FnOnce(&str) -> T) -> T {
    let handle = StopHandle::new().unwrap();
    let mut seen = None;
    let stopped = ask(Server::new(device(), params()).stop_on(&handle)).run(
        |request| request.complete(),
        |info| {
            seen = Some(look(&format!("ublk{}q", info.id())));
            handle.stop();
        },
    );
    assert_eq!(stopped, Ok(Stopped::Handle));
    seen.unwrap()
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn the_threads_that_serve_are_io_flushers_where_that_was_asked_for_and_no_other_thread_is() {
    const BOTH: u64 = PF_MEMALLOC_NOIO | PF_LOCAL_THROTTLE;
    let (servers, others) = looked_at(Server::io_flusher, flags_of_servers_and_others);
    assert_eq!(servers.iter().map(|flags| flags & BOTH).collect::<Vec<_>>(), [BOTH; 2]);
    assert!(!others.is_empty() && others.iter().all(|flags| flags & BOTH == 0), "{others:x?}");
    let (servers, _) = looked_at(|server| server, flags_of_servers_and_others);
    assert_eq!(servers.iter().map(|flags| flags & BOTH).collect::<Vec<_>>(), [0; 2]);
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn buffers_are_locked_at_once_or_as_they_are_used_or_not_at_all() {
    let own = std::process::id();
    let look = |_: &str| (status(own, "VmLck"), locked_and_there());
    assert_eq!(looked_at(|server| server, look), (0, 0));
    let (locked, there) = looked_at(|server| server.lock_buffers(BufferLock::Lazy), look);
    assert!(locked >= BUFFERS && there < BUFFERS / 2, "{locked} {there}");
    let (locked, there) = looked_at(|server| server.lock_buffers(BufferLock::Prefaulted), look);
    assert!(locked >= BUFFERS && there >= BUFFERS, "{locked} {there}");
    // They are gone with the queues.
    assert_eq!((status(own, "VmLck"), nodes()), (0, Vec::new()));
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn what_a_queue_has_beside_its_buffers_is_locked_too_in_batches_when_it_is_fetched() {
    let offered = Control::open().unwrap().features().unwrap();
    let own = std::process::id();
    for in_batches in [false, true] {
        if in_batches && !offered.contains(Features::BATCH_IO) {
            println!("this driver has no batches");
            continue;
        }
        let device = quiet_device(8).max_io_bytes(64 << 10).operations(4);
        let device = if in_batches { device.batch() } else { device };
        let mut device = Device::add(Control::open().unwrap(), &device, &params()).unwrap();
        let mut queue = device.queue(QueueId::new(0)).unwrap();
        queue.lock_buffers(BufferLock::Prefaulted).unwrap();
        // Every mapping that the queue has made of memory of its own: those that a child would not get, but for the control buffer.
        let before = unlocked();
        let server = thread::scope(|scope| {
            let fetched = scope.spawn(|| {
                let queue = queue.fetch().unwrap();
                let seen = (status(own, "VmLck"), unlocked());
                assert!(!queue.is_finished());
                seen
            });
            fetched.join().unwrap()
        });
        assert!(server.0 >= 8 * (64 << 10), "{server:?}");
        assert_eq!((before, server.1), (1, 1), "in batches: {in_batches}");
        drop(device);
    }
    assert_eq!(nodes(), [""; 0]);
}

/// How many mappings of memory that belongs to no file a child would not get, and are not locked.
fn unlocked() -> usize {
    let maps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut count = 0;
    let mut is_anonymous = false;
    for line in maps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.first().is_some_and(|word| word.contains('-')) {
            is_anonymous = words.len() == 5;
        } else if words.first() == Some(&"VmFlags:") {
            count += usize::from(is_anonymous && words.contains(&"dc") && !words.contains(&"lo"));
        }
    }
    count
}

// Who is refused.

/// Has one thread become nobody, and try something.
fn as_nobody<T: Send>(try_it: impl FnOnce() -> T + Send) -> T {
    let id = libc::c_long::from(NOBODY);
    let work = move || {
        // The calls themselves, as libc's functions change every thread.
        // SAFETY: it takes numbers only.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, id, id, id) }, 0);
        try_it()
    };
    thread::scope(|scope| scope.spawn(work).join().unwrap())
}

fn refused<T>(call: SystemCall, errno: Errno) -> Result<T, Error> {
    Err(Error::System { call, errno })
}

/// Asserts that an error says which right it was.
fn names(error: Result<(), Error>, right: &str) {
    let said = error.unwrap_err().to_string();
    assert!(said.contains(right), "{said}");
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn each_refusal_has_its_errno_and_names_the_right() {
    if is_nobody() {
        assert_eq!(mark_io_flusher(), refused(SystemCall::IoFlusher, Errno::EPERM));
        names(mark_io_flusher(), "CAP_SYS_RESOURCE");
        adjust_oom_score(500).unwrap();
        assert_eq!(fs::read_to_string("/proc/self/oom_score_adj").unwrap(), "500\n");
        // What was never lower than 0 may be 0 again.
        adjust_oom_score(0).unwrap();
        assert_eq!(adjust_oom_score(-1), refused(SystemCall::OomScore, Errno::EACCES));
        names(adjust_oom_score(-1), "CAP_SYS_RESOURCE");
        assert_eq!(fs::read_to_string("/proc/self/oom_score_adj").unwrap(), "0\n");
        return;
    }
    run_as_nobody("each_refusal_has_its_errno_and_names_the_right");
    // Whoever has the right.
    thread::scope(|scope| scope.spawn(mark_io_flusher).join().unwrap()).unwrap();
    adjust_oom_score(-500).unwrap();
    assert_eq!(fs::read_to_string("/proc/self/oom_score_adj").unwrap(), "-500\n");
    adjust_oom_score(0).unwrap();

    let mut device = Device::add(Control::open().unwrap(), &device(), &params()).unwrap();
    let mut queue: PreparedQueue = device.queue(QueueId::new(0)).unwrap();
    for when in [BufferLock::Prefaulted, BufferLock::Lazy] {
        for (limit, errno) in [(0, Errno::EPERM), (1 << 20, Errno::ENOMEM)] {
            let before = set_soft(Resource::LockedMemory, limit);
            let restored = Restored(move || {
                let _ = set_soft(Resource::LockedMemory, before);
            });
            let tried = as_nobody(|| queue.lock_buffers(when));
            drop(restored);
            assert_eq!(tried, refused(SystemCall::LockMemory, errno), "{when:?}");
            names(tried, "CAP_IPC_LOCK");
            names(tried, "RLIMIT_MEMLOCK");
        }
    }
    // The limit, and no right: that is enough.
    assert_eq!(as_nobody(|| queue.lock_buffers(BufferLock::Prefaulted)), Ok(()));
    drop(queue);
    drop(device);
    assert_eq!(nodes(), [""; 0]);
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn a_server_that_is_refused_what_it_asked_for_ends_with_that_and_leaves_nothing() {
    let before = set_soft(Resource::LockedMemory, 1 << 20);
    let restored = Restored(move || {
        let _ = set_soft(Resource::LockedMemory, before);
    });
    const ROLE: &str = "UBLK_TEST_LESS";
    if env::var_os(ROLE).is_some() {
        let flusher = Server::new(device(), params()).io_flusher();
        let ended = flusher.run(|request| request.complete(), |_| panic!("it started"));
        assert_eq!(ended, refused(SystemCall::IoFlusher, Errno::EPERM));
        let locker = Server::new(device(), params()).lock_buffers(BufferLock::Lazy);
        let ended = locker.run(|request| request.complete(), |_| panic!("it started"));
        assert_eq!(ended, refused(SystemCall::LockMemory, Errno::ENOMEM));
        assert_eq!(nodes(), [""; 0]);
        return;
    }
    // The same process without the two rights.
    let name = "a_server_that_is_refused_what_it_asked_for_ends_with_that_and_leaves_nothing";
    let test = format!("{} --exact {name} --include-ignored --nocapture", env::current_exe().unwrap().display());
    let less = thread::spawn(move || {
        planted::drop_capability(24);
        planted::drop_capability(14);
        Command::new("sh").args(["-c", &test]).env(ROLE, "1").stdin(Stdio::null()).output().unwrap()
    });
    let less = less.join().unwrap();
    drop(restored);
    assert!(less.status.success(), "{}", String::from_utf8_lossy(&less.stdout) + String::from_utf8_lossy(&less.stderr));
}

// Swap.

const SWAP: usize = 64 << 20;
const HOG: usize = 48 << 20;
/// What the server's 64 MiB and this leave is less than the hog wants.
const LIMIT: usize = 100 << 20;
const GROUP: &str = "/sys/fs/cgroup/ublk-test";
const ROLE: &str = "UBLK_TEST_SWAP";
const SWAP_TEST: &str =
    "swap_on_a_disk_whose_server_is_short_of_memory_too_keeps_every_page_and_takes_none_of_the_servers_slow";

/// This test again, in the group, in a role.
fn in_group(role: &str) -> Command {
    let mut command = Command::new("sh");
    let test = env::current_exe().unwrap();
    let join = format!(
        "echo $$ > {GROUP}/cgroup.procs && exec {} --exact {SWAP_TEST} --include-ignored --nocapture",
        test.display()
    );
    command.args(["-c", &join]).env(ROLE, role);
    command
}

/// Serves a disk in memory, and has everything of this process stay where it is.
fn serve_swap() {
    let memory = Mutex::new(vec![1_u8; SWAP]);
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
    adjust_oom_score(-1000).unwrap();
    let params = Params::new(Sectors::from_bytes(SWAP.try_into().unwrap()).unwrap(), Cache::None).block_bytes(4096);
    let device = NewDevice::new().depth(16).max_io_bytes(128 << 10);
    let stop = StopHandle::new().unwrap();
    let server = Server::new(device, params).stop_on(&stop).io_flusher().lock_buffers(BufferLock::Prefaulted);
    thread::spawn(move || {
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        stop.stop();
    });
    let stopped = server.run(answer, |device| {
        // The disk's contents, code and stacks, which are the program's own.
        // SAFETY: changes where pages are, and no byte of them.
        assert_eq!(unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) }, 0);
        println!("\n/dev/ublkb{}", device.id());
    });
    assert_eq!(stopped, Ok(Stopped::Handle));
}

/// Writes more memory than there is, and reads it back, twice.
fn hog() {
    let mut memory = vec![0_u8; HOG];
    for round in 0..2_u8 {
        for (number, page) in memory.chunks_mut(4096).enumerate() {
            page[..8].copy_from_slice(&number.to_le_bytes());
            page[4095] = round;
        }
        for (number, page) in memory.chunks(4096).enumerate() {
            assert!(page[..8] == number.to_le_bytes() && page[4095] == round, "page {number} in round {round}");
        }
    }
}

/// A counter of `/proc/vmstat`.
fn vmstat(name: &str) -> u64 {
    let all = fs::read_to_string("/proc/vmstat").unwrap();
    all.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok()).unwrap()
}

#[test]
#[cfg_attr(not(have_ublk), ignore = "no ublk driver here: run `cargo xtask test`")]
fn swap_on_a_disk_whose_server_is_short_of_memory_too_keeps_every_page_and_takes_none_of_the_servers_slow() {
    match env::var(ROLE).as_deref() {
        Ok("server") => return serve_swap(),
        Ok(_) => return hog(),
        Err(_) => {}
    }
    group::enable("memory");
    fs::create_dir(GROUP).unwrap();
    fs::write(format!("{GROUP}/memory.max"), LIMIT.to_string()).unwrap();

    let server = Program::start_as(&mut in_group("server"));
    let process = server.process.id();
    let locked = status(process, "VmLck");
    assert!(locked >= u64::try_from(SWAP).unwrap(), "{locked}");
    assert_eq!(fs::read_to_string(format!("/proc/{process}/oom_score_adj")).unwrap(), "-1000\n");
    run("mkswap", &[&server.path]);
    run("swapon", &[&server.path]);
    let (out, back) = (vmstat("pswpout"), vmstat("pswpin"));
    let hog = in_group("hog").stdin(Stdio::null()).output().unwrap();
    assert!(hog.status.success(), "{}", String::from_utf8_lossy(&hog.stdout) + String::from_utf8_lossy(&hog.stderr));
    let (out, back) = (vmstat("pswpout") - out, vmstat("pswpin") - back);
    writeln!(std::io::stdout(), "figure: {out} pages swapped to the disk, {back} back, 0 of the server's").unwrap();
    // A few MiB at least, both ways.
    assert!(out > 1000 && back > 1000, "{out} out, {back} back");
    assert_eq!(status(process, "VmSwap"), 0, "of the server");
    run("swapoff", &[&server.path]);
    let (status, said) = server.hang_up();
    assert!(status.success(), "{said}");
    fs::remove_dir(GROUP).unwrap();
    assert_eq!(nodes(), [""; 0]);
}
