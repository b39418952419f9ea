// SPDX-License-Identifier: MIT OR Apache-2.0
//! The program in the guest that runs the user's command and tells the host how it went (`xtask guest-agent`).
//!
//! Three ports lead to the host: the command's standard output, its standard error, and one for records, which are lines.
//!
//! | record | says |
//! |---|---|
//! | `mark` | the guest is up; the command starts now, and nothing is repeated from here on |
//! | `exit STATUS OUT ERR` | the command ended; so many bytes were written to the first two ports |
//! | `report TEXT` | a line of the answer to the host's `report` |
//! | `reported` | the answer is complete |
//!
//! A port can be opened only once, and a command may want to open its standard error by name: it gets pipes.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{self, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use crate::failure::{Context, Failure, Result};
use crate::guest_report;

/// Where the host puts the command: each argument with a zero byte behind it.
pub(crate) const COMMAND_FILE: &str = "/usr/lib/xtask/command";

/// Where this file is, the command gets the console instead of pipes.
pub(crate) const TERMINAL_FILE: &str = "/usr/lib/xtask/terminal";

/// The ports, by the number that QEMU was told.
pub(crate) const OUTPUT_PORT: u32 = 1;
pub(crate) const ERROR_PORT: u32 = 2;
pub(crate) const RECORD_PORT: u32 = 3;

/// The command is over and somebody still holds its output: so long may they take to die.
const STRAGGLERS: Duration = Duration::from_secs(5);

pub(crate) fn run() -> Result<()> {
    let output = port(OUTPUT_PORT)?;
    let error = port(ERROR_PORT)?;
    let records = port(RECORD_PORT)?;
    let requests = records.try_clone().context(|| "cannot share the port for records".to_owned())?;
    let records = Arc::new(Mutex::new(records));
    let reporter = Arc::clone(&records);
    thread::spawn(move || answer(requests, &reporter));

    let words = fs::read(COMMAND_FILE).context(|| format!("cannot read {COMMAND_FILE}"))?;
    let mut words = words.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec()));
    let program = words.next().unwrap_or_default();
    let mut arguments: Vec<OsString> = words.collect();
    arguments.pop();

    record(&records, "mark")?;
    let mut command = Command::new(&program);
    command.args(&arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if Path::new(TERMINAL_FILE).exists() {
        let console = || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/ttyS0")
                .context(|| "cannot open the console".to_owned())
        };
        command.stdin(console()?).stdout(console()?).stderr(console()?);
    }
    let (ended, relays) = mpsc::channel();
    let (status, out, err) = match command.spawn() {
        Ok(mut child) => {
            let out = relay(child.stdout.take(), output, ended.clone());
            let err = relay(child.stderr.take(), error, ended);
            let status = child.wait().context(|| "cannot wait for the command".to_owned())?;
            drain(&relays);
            (shell_status(status), out.load(Ordering::SeqCst), err.load(Ordering::SeqCst))
        }
        Err(problem) => {
            let line = format!("xtask vm: cannot run {} in the guest: {problem}\n", program.to_string_lossy());
            let mut error = error;
            error.write_all(line.as_bytes()).context(|| "cannot write to the host".to_owned())?;
            let status = if problem.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
            (status, 0, u64::try_from(line.len()).unwrap_or_default())
        }
    };
    record(&records, &format!("exit {status} {out} {err}"))?;
    // The host ends the machine once it has every byte. Powering off here would throw away what is still in the ports.
    thread::sleep(Duration::from_secs(60));
    Ok(())
}

/// Opens a port; the kernel makes the node a moment after it found the device.
fn port(number: u32) -> Result<File> {
    let path = format!("/dev/vport0p{number}");
    let patience = Instant::now() + Duration::from_secs(30);
    loop {
        match OpenOptions::new().read(true).write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && Instant::now() < patience => {
                thread::sleep(Duration::from_millis(5));
            }
            opened => return opened.context(|| format!("cannot open {path}")),
        }
    }
}

fn record(records: &Mutex<File>, line: &str) -> Result<()> {
    let mut port = records.lock().unwrap_or_else(PoisonError::into_inner);
    port.write_all(format!("{line}\n").as_bytes()).context(|| "cannot write to the host".to_owned())
}

/// Copies `from` to `port` in a thread of its own and counts the bytes; tells `ended` at the end.
fn relay<R: Read + Send + 'static>(from: Option<R>, mut port: File, ended: Sender<()>) -> Arc<AtomicU64> {
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 15];
        if let Some(mut from) = from {
            loop {
                match from.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(len) => {
                        if port.write_all(&buffer[..len]).is_err() {
                            break;
                        }
                        counted.fetch_add(u64::try_from(len).unwrap_or_default(), Ordering::SeqCst);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
        }
        // Nobody listens when the agent has given up on the relays.
        let _ = ended.send(());
    });
    count
}

/// Waits for both relays to see the end, and helps it along where something outlived the command.
fn drain(relays: &Receiver<()>) {
    let mut open = 2;
    let mut patience = Duration::from_millis(200);
    let end = Instant::now() + STRAGGLERS;
    while open > 0 && Instant::now() < end {
        match relays.recv_timeout(patience) {
            Ok(()) => open -= 1,
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                kill_all_others();
                patience = Duration::from_secs(1);
            }
        }
    }
}

/// Ends every process but the first one and this one.
fn kill_all_others() {
    let Ok(entries) = fs::read_dir("/proc") else { return };
    let own = process::id().to_string();
    let victims: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(|c: char| c.is_ascii_digit()) && *name != "1" && *name != own)
        // The kernel's own threads have no program.
        .filter(|name| fs::read_link(Path::new("/proc").join(name).join("exe")).is_ok())
        .collect();
    if !victims.is_empty() {
        // One that is gone already needs no killing.
        let _ = Command::new("kill").arg("-9").args(victims).stdin(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// The status as a shell has it: 128 and the signal's number for a command that was killed.
pub(crate) fn shell_status(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// Answers the host's requests until there are no more.
fn answer(requests: File, records: &Mutex<File>) {
    for request in BufReader::new(requests).lines() {
        match request.as_deref() {
            Ok("report") => {
                let mut text = String::new();
                for line in guest_report::everything().lines() {
                    text.push_str(&format!("report {line}\n"));
                }
                text.push_str("reported");
                if record(records, &text).is_err() {
                    return;
                }
            }
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

/// A command as [`COMMAND_FILE`] holds it.
pub(crate) fn command_file(words: &[OsString]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for word in words {
        let word = word.clone().into_vec();
        if word.contains(&0) {
            return Err(Failure::new("an argument holds a zero byte"));
        }
        bytes.extend(word);
        bytes.push(0);
    }
    Ok(bytes)
}
