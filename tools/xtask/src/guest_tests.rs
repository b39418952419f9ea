// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs tests in the guest, each in a process of its own (`xtask guest-tests`), and says on standard output how each went.
//!
//! The host reads one record a line:
//!
//! | record | says |
//! |---|---|
//! | `start TARGET NAME` | the test runs now |
//! | `text TEXT` | a line about the test that is running |
//! | `end passed MILLISECONDS` | it passed |
//! | `end failed MILLISECONDS` | it failed; the lines of text before say how |
//! | `reboot` | it left something behind: the rest wants a fresh machine |
//! | `done` | nothing is left to run |

use core::time::Duration;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use crate::failure::{Context, Failure, Result};
use crate::guest_agent::shell_status;
use crate::guest_report;

/// The tests to run: a line each, the target, a blank, the name.
pub(crate) const PLAN: &str = "/usr/lib/xtask/tests/plan";

/// The folder of the test programs, which are called after their targets.
pub(crate) const PROGRAMS: &str = "/usr/lib/xtask/tests/bin";

/// The folder of modules that tests may load, in the order of their names: `tests/device_zoned.rs` does.
pub(crate) const MODULES: &str = "/usr/lib/xtask/tests/modules";

/// What a test may not make the kernel say.
const ALARMS: [&str; 6] = ["WARNING:", "BUG:", "Oops", "general protection", "blocked for more than", "refcount_t"];

/// What a test is about, and so may make the kernel say after all: its name, and what stands in the line. A ring that ends with a fetch
/// in flight while its device is stopped makes the driver warn, once, and nothing is lost by it; the diagnosis is shown what such a
/// fetch answers.
const EXPECTED: [(&str, &str); 1] =
    [("the_cause_that_was_planted_is_the_one_that_is_named_first", "at drivers/block/ublk_drv.c")];

/// How long a block device's nodes may take to go after the test that made it.
const LEAVING: Duration = Duration::from_secs(5);

/// So much of what a test printed is shown.
const OUTPUT_SHOWN: u64 = 64 << 10;

/// So many of the kernel's messages are shown.
const NEWS_SHOWN: usize = 400;

/// How long a test may take.
pub(crate) fn deadline(name: &str) -> Duration {
    Duration::from_secs(if name.ends_with("_slow") { 600 } else { 120 })
}

pub(crate) fn run() -> Result<()> {
    let plan = fs::read_to_string(PLAN).context(|| format!("cannot read {PLAN}"))?;
    let mut kernel = KernelLog::open()?;
    kernel.news();
    for line in plan.lines() {
        let (target, name) = line.split_once(' ').ok_or_else(|| Failure::new(format!("{PLAN}: {line}")))?;
        say(&format!("start {target} {name}"))?;
        let started = Instant::now();
        let mut verdict = run_one(target, name)?;
        let taken = started.elapsed().as_millis();
        let news = kernel.news();
        if let Some(alarm) = news.iter().find(|line| is_alarm(name, line)) {
            verdict.text.push_str(&format!("the kernel said: {alarm}\n"));
            verdict.passed = false;
        }
        let left = leftovers();
        if !left.is_empty() {
            verdict.text.push_str(&format!("left behind: {}\n", left.join(" ")));
            verdict.passed = false;
        }
        if !verdict.passed {
            verdict.text.push_str("--- dmesg since the test's start\n");
            verdict.text.push_str(&news[news.len().saturating_sub(NEWS_SHOWN)..].join("\n"));
            for line in verdict.text.lines() {
                say(&format!("text {line}"))?;
            }
        } else {
            for figure in verdict.text.lines().filter_map(figure) {
                say(&format!("text {figure}"))?;
            }
        }
        say(&format!("end {} {taken}", if verdict.passed { "passed" } else { "failed" }))?;
        if verdict.hung || !left.is_empty() {
            return say("reboot");
        }
    }
    say("done")
}

/// Whether the kernel is not to say this, in this test.
fn is_alarm(test: &str, line: &str) -> bool {
    let is_expected = EXPECTED.iter().any(|(name, about)| *name == test && line.contains(about));
    ALARMS.iter().any(|alarm| line.contains(alarm)) && !is_expected
}

/// What a test has counted is told of one that has passed too. libtest's own line may stand before it.
fn figure(line: &str) -> Option<&str> {
    line.split_once("figure: ").map(|(_, figure)| figure)
}

fn say(record: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    let said = out.write_all(format!("{record}\n").as_bytes()).and_then(|()| out.flush());
    said.context(|| "cannot write to the host".to_owned())
}

/// How one test went.
#[derive(Debug)]
struct Verdict {
    passed: bool,
    hung: bool,
    text: String,
}

fn run_one(target: &str, name: &str) -> Result<Verdict> {
    let output = PathBuf::from("/run/test-output");
    let mut heard =
        OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&output).context(no_output)?;
    // Appending, so that both streams may write without one overwriting the other.
    let append = || OpenOptions::new().append(true).open(&output);
    let mut child = Command::new(Path::new(PROGRAMS).join(target))
        .args(["--exact", name, "--include-ignored", "--nocapture", "--test-threads=1"])
        .stdin(Stdio::null())
        .stdout(append().context(no_output)?)
        .stderr(append().context(no_output)?)
        .env("RUST_BACKTRACE", "1")
        .current_dir("/root")
        .process_group(0)
        .spawn()
        .context(|| format!("cannot run {target}"))?;
    let process = child.id();
    let (ended, end) = mpsc::channel();
    thread::spawn(move || {
        // Past the deadline nobody listens.
        let _ = ended.send(child.wait());
    });
    let allowed = deadline(name);
    let status = end.recv_timeout(allowed);
    let mut text = String::new();
    let hung = status.is_err();
    if hung {
        text.push_str(&format!("not done after {} s\n", allowed.as_secs()));
        text.push_str(&guest_report::stacks(|task| task.state == 'D' || (task.has_program && task.process >= process)));
    }
    kill_group(process);
    if hung {
        // A process that cannot die keeps its place; the machine is rebooted anyway.
        let _ = end.recv_timeout(LEAVING);
    }
    let printed = tail(&mut heard).context(no_output)?;
    let passed = match status {
        Ok(Ok(status)) => {
            let ran = printed.contains("test result: ok. 1 passed");
            if !status.success() {
                text.push_str(&format!("ended with status {}\n", shell_status(status)));
            } else if !ran {
                text.push_str("the program ran no test of that name\n");
            }
            status.success() && ran
        }
        Ok(Err(error)) => {
            text.push_str(&format!("cannot wait for the test: {error}\n"));
            false
        }
        Err(_) => false,
    };
    Ok(Verdict { passed, hung, text: format!("{printed}{text}") })
}

fn no_output() -> String {
    "cannot keep what the test prints".to_owned()
}

/// Ends what a test started and did not wait for.
fn kill_group(process: u32) {
    let group = format!("-{process}");
    // Mostly there is nobody left to kill.
    let _ = Command::new("kill").args(["-9", "--", &group]).stdin(Stdio::null()).stderr(Stdio::null()).status();
}

fn tail(file: &mut File) -> io::Result<String> {
    let len_bytes = file.metadata()?.len();
    file.seek(SeekFrom::Start(len_bytes.saturating_sub(OUTPUT_SHOWN)))?;
    let mut bytes = Vec::new();
    file.take(OUTPUT_SHOWN).read_to_end(&mut bytes)?;
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// The nodes of block devices that are still there once they had time to go.
fn leftovers() -> Vec<String> {
    let end = Instant::now() + LEAVING;
    loop {
        let mut names: Vec<String> = fs::read_dir("/dev")
            .map(|nodes| nodes.flatten().filter_map(|node| node.file_name().into_string().ok()).collect())
            .unwrap_or_default();
        names.retain(|name| name.starts_with("ublk") && name != "ublk-control");
        if names.is_empty() || Instant::now() > end {
            names.sort_unstable();
            return names;
        }
        // The kernel removes nodes on its own time, and tells nobody who has no netlink socket.
        thread::sleep(Duration::from_millis(50));
    }
}

/// The kernel's messages, each read once.
#[derive(Debug)]
struct KernelLog {
    messages: File,
}

impl KernelLog {
    fn open() -> Result<Self> {
        const O_NONBLOCK: i32 = 0o4000;
        let messages = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open("/dev/kmsg");
        Ok(Self { messages: messages.context(|| "cannot open /dev/kmsg".to_owned())? })
    }

    /// What came since the last look.
    fn news(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut record = vec![0; 8192];
        // Each read is one record: `PRIORITY,NUMBER,MICROSECONDS,FLAGS;TEXT`.
        loop {
            match self.messages.read(&mut record) {
                Ok(len @ 1..) => {
                    let record = String::from_utf8_lossy(&record[..len]).into_owned();
                    lines.push(record.split_once(';').map_or(record.as_str(), |(_, text)| text).trim_end().to_owned());
                }
                // EPIPE: records were overwritten before they could be read. The next read goes on behind the gap.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                _ => return lines,
            }
        }
    }
}
