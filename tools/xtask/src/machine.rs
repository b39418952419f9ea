// SPDX-License-Identifier: MIT OR Apache-2.0
//! One virtual machine: QEMU, the sockets that its ports end in, and the watch over both.

use core::time::Duration;
use std::fs::{self, DirBuilder, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::Instant;

use crate::archive;
use crate::failure::{Context, Failure, Result};
use crate::guest_agent;
use crate::packages;
use crate::workspace;

/// How long a guest may take until its agent reports.
const BOOT: Duration = Duration::from_secs(60);

/// About one boot in thirty dies early under QEMU's multi-threaded TCG, when the kernel patches its own code.
const BOOTS: u32 = 3;

/// How long a guest that hangs may take to say where.
const REPORT: Duration = Duration::from_secs(30);

/// How long the last bytes may take to arrive after the command's end.
const LAST_BYTES: Duration = Duration::from_secs(30);

/// How long to listen on when QEMU is gone.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The guest's processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acceleration {
    /// Emulated, several processors at once.
    Emulated,
    /// Emulated, one processor, whose clock counts instructions: 2 ns each.
    Counted,
    /// The host's.
    Kvm,
}

/// What is booted.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) image: PathBuf,
    pub(crate) initrd: PathBuf,
    pub(crate) acceleration: Acceleration,
    pub(crate) cpus: u32,
    /// In bytes.
    pub(crate) memory: u64,
    pub(crate) disks: Vec<PathBuf>,
    pub(crate) console: Console,
}

/// Where the guest's serial console leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Console {
    /// It is kept, in case that the run fails.
    Kept,
    /// It is shown on standard error, too.
    Shown,
    /// It is the user's terminal, in both directions.
    Terminal,
}

/// How long the command may take.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Timeout {
    Whole(Duration),
    /// It may take as long as it likes, and be silent for so long.
    Silence(Duration),
}

impl Timeout {
    fn duration(self) -> Duration {
        match self {
            Self::Whole(duration) | Self::Silence(duration) => duration,
        }
    }

    fn complaint(self) -> String {
        match self {
            Self::Whole(duration) => format!("the command was not done after {} s", duration.as_secs()),
            Self::Silence(duration) => format!("the guest said nothing for {} s", duration.as_secs()),
        }
    }
}

/// Which of the command's two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Output,
    Error,
}

/// How a run in the machine ended.
#[derive(Debug)]
pub(crate) enum Ending {
    /// The command ended with this status.
    Exited(u8),
    /// The guest did not get so far.
    Lost(Lost),
}

/// A guest that died or hung.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) why: String,
    /// What the serial console showed.
    pub(crate) console: Vec<u8>,
    /// What the guest said of itself when asked.
    pub(crate) report: String,
}

impl Lost {
    /// Everything that is known, for the eyes of a human.
    pub(crate) fn story(&self) -> String {
        // The guest's own report has the kernel's messages, which is what the console shows.
        if !self.report.is_empty() {
            return self.report.clone();
        }
        let console = String::from_utf8_lossy(&self.console);
        let console: String = console.chars().filter(|c| !c.is_control() || *c == '\n' || *c == '\t').collect();
        format!("--- console of the guest\n{}", console.trim_end())
    }
}

#[derive(Debug)]
enum Event {
    Console(Vec<u8>),
    /// QEMU is gone.
    Ended,
    Bytes(Stream, Vec<u8>),
    /// The agent's port was connected; requests go here.
    Agent(UnixStream),
    Record(String),
}

impl Machine {
    /// Boots, runs the command that is in the initial file system, and hands its output to `heard` as it comes.
    pub(crate) fn run(
        &self,
        timeout: Timeout,
        mut heard: impl FnMut(Stream, &[u8]) -> io::Result<()>,
    ) -> Result<Ending> {
        let mut boot = 1;
        loop {
            let mut run = Run::start(self)?;
            let ending = run.watch(BOOT, timeout, &mut heard)?;
            drop(run);
            match ending {
                Watched::Ending(ending) => return Ok(ending),
                Watched::NotBooted(lost) if boot == BOOTS => {
                    let why = format!("{}, {BOOTS} times", lost.why);
                    return Ok(Ending::Lost(Lost { why, ..lost }));
                }
                Watched::NotBooted(lost) => {
                    if self.console == Console::Shown {
                        eprintln!("xtask vm: {}; booting again", lost.why);
                    }
                    boot += 1;
                }
            }
        }
    }

    /// Whether the guest runs its command within `patience`, from power-on to end. It gets one try.
    pub(crate) fn runs_within(&self, patience: Duration) -> Result<bool> {
        let watched = Run::start(self)?.watch(patience, Timeout::Whole(patience), &mut |_, _| Ok(()))?;
        Ok(matches!(watched, Watched::Ending(Ending::Exited(0))))
    }

    fn command(&self) -> Command {
        let mut command = dying_with_us(packages::QEMU.name);
        let (accel, cpu) = match self.acceleration {
            Acceleration::Emulated => ("tcg,thread=multi", "max"),
            Acceleration::Counted => ("tcg,thread=single", "max"),
            Acceleration::Kvm => ("kvm", "host"),
        };
        command.args(["-accel", accel, "-cpu", cpu]);
        if self.acceleration == Acceleration::Counted {
            command.args(["-icount", "shift=1,sleep=off"]);
        }
        command.args(["-smp", &self.cpus.to_string(), "-m", &format!("{}M", self.memory >> 20)]);
        command.args(["-nodefaults", "-no-reboot", "-nic", "none", "-display", "none"]);
        command.args(["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]);
        command.arg("-kernel").arg(&self.image).arg("-initrd").arg(&self.initrd);
        let quiet = if self.console == Console::Terminal { " quiet" } else { "" };
        command.args(["-append", &format!("console=ttyS0 panic=-1{quiet}")]);
        command.args(["-device", "virtio-serial-pci"]);
        for (number, name) in PORTS {
            command.args(["-chardev", &format!("socket,id={name},path={name}")]);
            command.args(["-device", &format!("virtserialport,chardev={name},nr={number},name=xtask.{name}")]);
        }
        for (number, disk) in self.disks.iter().enumerate() {
            // A comma in an option's value is written twice.
            let file = disk.to_string_lossy().replace(',', ",,");
            command.args([
                "-drive",
                &format!("file={file},if=none,id=disk{number},format=raw,cache=unsafe,discard=unmap"),
            ]);
            command.args(["-device", &format!("virtio-blk-pci,drive=disk{number}")]);
        }
        command
    }
}

const PORTS: [(u32, &str); 3] =
    [(guest_agent::OUTPUT_PORT, "output"), (guest_agent::ERROR_PORT, "error"), (guest_agent::RECORD_PORT, "records")];

/// `program`, killed by the kernel should this process die first (where util-linux is there to ask for it).
fn dying_with_us(program: &str) -> Command {
    let path = packages::find(program).unwrap_or_else(|| program.into());
    match packages::find("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(path);
            command
        }
        None => Command::new(path),
    }
}

/// One power-on.
#[derive(Debug)]
struct Run {
    qemu: Child,
    events: Receiver<Event>,
    console: Vec<u8>,
    _folder: Scratch,
}

/// What the watch over one power-on saw.
enum Watched {
    Ending(Ending),
    NotBooted(Lost),
}

impl Run {
    fn start(machine: &Machine) -> Result<Self> {
        let folder = Scratch::new("machine")?;
        let (sender, events) = mpsc::sync_channel(64);
        for (number, name) in PORTS {
            let listener = folder.listen(name)?;
            let sender = sender.clone();
            thread::spawn(move || receive(&listener, number, &sender));
        }
        // The sockets are named from QEMU's folder: their full paths could be longer than a socket's address may be.
        let mut command = machine.command();
        command.current_dir(folder.path()).stderr(Stdio::piped());
        if machine.console == Console::Terminal {
            command.stdin(Stdio::inherit()).stdout(Stdio::inherit());
        } else {
            command.stdin(Stdio::null()).stdout(Stdio::piped());
        }
        let mut qemu = command.spawn().context(|| format!("cannot run {}", packages::QEMU.name))?;
        let shown = machine.console == Console::Shown;
        if let Some(stdout) = qemu.stdout.take() {
            let sender = sender.clone();
            thread::spawn(move || console(stdout, &sender, shown));
        }
        if let Some(stderr) = qemu.stderr.take() {
            thread::spawn(move || {
                console(stderr, &sender, shown);
                // Nobody listens any more when the run is over.
                let _ = sender.send(Event::Ended);
            });
        }
        Ok(Self { qemu, events, console: Vec::new(), _folder: folder })
    }

    /// Watches until the command has ended and all it printed has arrived, or until it is clear that it will not.
    fn watch(
        &mut self,
        boot: Duration,
        timeout: Timeout,
        heard: &mut impl FnMut(Stream, &[u8]) -> io::Result<()>,
    ) -> Result<Watched> {
        let mut deadline = Instant::now() + boot;
        let mut ended = false;
        let mut phase = Phase::Booting;
        let mut agent = None;
        let mut report = String::new();
        let (mut out, mut err) = (0, 0);
        loop {
            if let Phase::Exited { status, out: all_out, err: all_err } = phase {
                if (out, err) == (all_out, all_err) {
                    return Ok(Watched::Ending(Ending::Exited(status)));
                }
            }
            let event = match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) => event,
                Err(_) if ended => return Ok(self.ended(&phase, timeout, report)),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(self.ended(&phase, timeout, report)),
                Err(mpsc::RecvTimeoutError::Timeout) => match phase {
                    Phase::Booting => {
                        let why = format!("the guest was not up after {} s", boot.as_secs());
                        return Ok(Watched::NotBooted(self.lost(why, report)));
                    }
                    Phase::Running => {
                        phase = Phase::Reporting;
                        deadline = Instant::now() + REPORT;
                        if let Some(agent) = &mut agent {
                            // A guest that cannot be asked is ended all the same.
                            let _ = UnixStream::write_all(agent, b"report\n");
                        }
                        continue;
                    }
                    Phase::Reporting => {
                        return Ok(Watched::Ending(Ending::Lost(self.lost(timeout.complaint(), report))));
                    }
                    Phase::Exited { .. } => {
                        let why = format!("{out} bytes of output and {err} of error output arrived, and not the rest");
                        return Ok(Watched::Ending(Ending::Lost(self.lost(why, report))));
                    }
                },
            };
            match event {
                Event::Console(bytes) => self.console.extend(bytes),
                Event::Bytes(stream, bytes) => {
                    let count = if stream == Stream::Output { &mut out } else { &mut err };
                    *count += u64::try_from(bytes.len()).unwrap_or_default();
                    if let (Timeout::Silence(duration), Phase::Running) = (timeout, &phase) {
                        deadline = Instant::now() + duration;
                    }
                    heard(stream, &bytes).context(|| "cannot pass on what the command printed".to_owned())?;
                }
                Event::Agent(port) => agent = Some(port),
                Event::Record(record) => {
                    match (record.split_once(' ').map_or(record.as_str(), |(word, _)| word), &phase) {
                        ("mark", Phase::Booting) => {
                            phase = Phase::Running;
                            deadline = Instant::now() + timeout.duration();
                        }
                        ("exit", Phase::Running | Phase::Reporting) => {
                            phase =
                                exited(&record).ok_or_else(|| Failure::new(format!("the guest said \"{record}\"")))?;
                            deadline = Instant::now() + if ended { LAST_WORDS } else { LAST_BYTES };
                        }
                        ("report", _) => {
                            report.push_str(record.strip_prefix("report ").unwrap_or_default());
                            report.push('\n');
                        }
                        ("reported", Phase::Reporting) => {
                            return Ok(Watched::Ending(Ending::Lost(self.lost(timeout.complaint(), report))));
                        }
                        _ => {}
                    }
                }
                Event::Ended => {
                    // What is still on its way through the ports and the console is heard first.
                    ended = true;
                    deadline = Instant::now() + LAST_WORDS;
                }
            }
        }
    }

    /// QEMU is gone before the command's end was known.
    fn ended(&mut self, phase: &Phase, timeout: Timeout, report: String) -> Watched {
        let status = self.qemu.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        match phase {
            Phase::Booting => Watched::NotBooted(
                self.lost(format!("the machine ended before the guest was up (QEMU: {status})"), report),
            ),
            Phase::Reporting => Watched::Ending(Ending::Lost(self.lost(timeout.complaint(), report))),
            Phase::Running | Phase::Exited { .. } => {
                let why = format!("the machine ended before the command did (QEMU: {status})");
                Watched::Ending(Ending::Lost(self.lost(why, report)))
            }
        }
    }

    fn lost(&mut self, why: String, report: String) -> Lost {
        Lost { why, console: core::mem::take(&mut self.console), report }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // It may be gone already; then there is nothing to end.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// How far the guest has got.
enum Phase {
    Booting,
    Running,
    /// Out of time, and asked where it hangs.
    Reporting,
    Exited {
        status: u8,
        out: u64,
        err: u64,
    },
}

/// Reads `exit STATUS OUT ERR`.
fn exited(record: &str) -> Option<Phase> {
    let mut words = record.split(' ').skip(1);
    let phase = Phase::Exited {
        status: words.next()?.parse().ok()?,
        out: words.next()?.parse().ok()?,
        err: words.next()?.parse().ok()?,
    };
    words.next().is_none().then_some(phase)
}

/// Waits for QEMU to connect, then passes on what comes through one port.
fn receive(listener: &UnixListener, number: u32, events: &SyncSender<Event>) {
    let Ok((mut port, _)) = listener.accept() else { return };
    if number == guest_agent::RECORD_PORT {
        let Ok(requests) = port.try_clone() else { return };
        if events.send(Event::Agent(requests)).is_err() {
            return;
        }
        for line in BufReader::new(port).split(b'\n') {
            let Ok(line) = line else { return };
            if events.send(Event::Record(String::from_utf8_lossy(&line).into_owned())).is_err() {
                return;
            }
        }
        return;
    }
    let stream = if number == guest_agent::OUTPUT_PORT { Stream::Output } else { Stream::Error };
    pass_on(&mut port, |bytes| events.send(Event::Bytes(stream, bytes)).is_ok());
}

fn console(mut from: impl Read, events: &SyncSender<Event>, shown: bool) {
    pass_on(&mut from, |bytes| {
        if shown {
            // A closed standard error is no reason to stop the guest.
            let _ = io::stderr().write_all(&bytes);
        }
        events.send(Event::Console(bytes)).is_ok()
    });
}

fn pass_on(from: &mut impl Read, mut to: impl FnMut(Vec<u8>) -> bool) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        if !to(buffer[..len].to_vec()) {
            return;
        }
    }
}

/// A folder under `target/vm` that goes with its owner; one that was left behind goes with the next run.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let parent = workspace::kept("vm");
        workspace::folder(&parent)?;
        archive::remove_abandoned(&parent)?;
        for number in 0_u32.. {
            let path = parent.join(format!(".{}.{name}{number}", process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => {
                    return made
                        .map(|()| Self { path: path.clone() })
                        .context(|| format!("cannot make {}", path.display()));
                }
            }
        }
        Err(Failure::new("no name is left for a folder"))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A socket called `name` in this folder, reached through a descriptor of the folder: the path may be too long.
    fn listen(&self, name: &str) -> Result<UnixListener> {
        let folder = File::open(&self.path).context(|| format!("cannot open {}", self.path.display()))?;
        UnixListener::bind(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))
            .context(|| "cannot make a socket".to_owned())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next run.
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::{Phase, exited};

    #[test]
    fn an_exit_record_has_three_numbers() {
        assert!(matches!(exited("exit 7 12 0"), Some(Phase::Exited { status: 7, out: 12, err: 0 })));
        assert!(exited("exit 7 12").is_none());
        assert!(exited("exit 256 0 0").is_none());
        assert!(exited("exit 1 2 3 4").is_none());
    }
}
