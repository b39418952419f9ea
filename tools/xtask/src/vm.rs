// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask vm`: one command in a machine of its own.

use core::time::Duration;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::failure::{Context, Failure, Result};
use crate::guest_agent;
use crate::initramfs::Initramfs;
use crate::kernel::{Kernel, Series};
use crate::kvm;
use crate::machine::{Acceleration, Console, Ending, Machine, Scratch, Stream, Timeout};
use crate::modules::Modules;
use crate::packages;
use crate::tool::{self, Tool};
use crate::workspace;

/// The exit status of this tool's own failures.
pub(crate) const OWN_FAILURE: u8 = 125;

/// A shell lasts as long as its user likes.
const SHELL: Duration = Duration::from_secs(365 * 24 * 60 * 60);

const INIT: &str = include_str!("guest/init.sh");

/// What `cargo xtask vm` was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) kernel: WantedKernel,
    pub(crate) cpus: u32,
    /// In bytes.
    pub(crate) memory: u64,
    pub(crate) counted: bool,
    pub(crate) timeout: Duration,
    /// Sizes in bytes.
    pub(crate) disks: Vec<u64>,
    /// Of the kernel's own, beside those that every guest has.
    pub(crate) modules: Vec<&'static str>,
    pub(crate) add: Vec<String>,
    pub(crate) verbose: bool,
    /// Empty for a shell.
    pub(crate) command: Vec<OsString>,
}

/// Which kernel is booted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WantedKernel {
    Series(Series),
    Host,
    Files { image: PathBuf, modules: Option<PathBuf> },
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            kernel: WantedKernel::Series(Series::newest_listed()),
            cpus: 2,
            memory: 1 << 30,
            counted: false,
            timeout: Duration::from_secs(600),
            disks: Vec::new(),
            modules: Vec::new(),
            add: Vec::new(),
            verbose: false,
            command: Vec::new(),
        }
    }
}

impl Wanted {
    /// Reads what stands behind `cargo xtask vm`.
    pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self> {
        let mut wanted = Self::default();
        let (mut image, mut modules) = (None, None);
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let option = argument.to_str().unwrap_or_default().to_owned();
            if option == "--" {
                wanted.command = arguments.collect();
                break;
            }
            let mut value = || -> Result<String> {
                let value = arguments.next().ok_or_else(|| Failure::new(format!("{option} wants a value")))?;
                value
                    .into_string()
                    .map_err(|value| Failure::new(format!("{option}: {} is no text", value.to_string_lossy())))
            };
            match option.as_str() {
                "--kernel" => wanted.kernel = WantedKernel::parse(&value()?)?,
                "--kernel-image" => image = Some(PathBuf::from(value()?)),
                "--modules" => modules = Some(PathBuf::from(value()?)),
                "--smp" => wanted.cpus = number(&option, &value()?)?,
                "--mem" => wanted.memory = size(&value()?)?,
                "--icount" => wanted.counted = true,
                "--timeout" => wanted.timeout = Duration::from_secs(number(&option, &value()?)?.into()),
                "--disk" => wanted.disks.push(size(&value()?)?),
                "--add" => wanted.add.push(value()?),
                "--verbose" => wanted.verbose = true,
                _ => {
                    let argument = argument.to_string_lossy();
                    return Err(Failure::new(format!(
                        "{argument} is not an option (the command stands behind `--`); `cargo xtask help` lists them"
                    )));
                }
            }
        }
        match (image, modules) {
            (Some(image), modules) => wanted.kernel = WantedKernel::Files { image, modules },
            (None, Some(_)) => return Err(Failure::new("--modules goes with --kernel-image")),
            (None, None) => {}
        }
        Ok(wanted)
    }
}

impl WantedKernel {
    fn parse(text: &str) -> Result<Self> {
        if text == "host" {
            return Ok(Self::Host);
        }
        Series::parse(text)
            .map(Self::Series)
            .ok_or_else(|| Failure::new(format!("--kernel {text}: a series looks like 6.12")))
    }

    pub(crate) fn get(&self) -> Result<Kernel> {
        match self {
            Self::Series(series) => Kernel::of_series(*series),
            Self::Host => Kernel::host(),
            Self::Files { image, modules } => {
                Ok(Kernel { name: image.display().to_string(), image: absolute(image)?, modules: modules.clone() })
            }
        }
    }
}

fn absolute(path: &PathBuf) -> Result<PathBuf> {
    fs::canonicalize(path).context(|| format!("cannot find {}", path.display()))
}

fn number(option: &str, text: &str) -> Result<u32> {
    text.parse()
        .ok()
        .filter(|number| *number > 0)
        .ok_or_else(|| Failure::new(format!("{option} {text}: not a number above zero")))
}

/// Bytes, from a number that `K`, `M` or `G` may follow.
pub(crate) fn size(text: &str) -> Result<u64> {
    let digits = text.trim_end_matches(['K', 'M', 'G']);
    let unit = match &text[digits.len()..] {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => 0,
    };
    let size = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).filter(|size| *size > 0);
    size.ok_or_else(|| Failure::new(format!("{text}: a size looks like 512M")))
}

/// Runs what was asked for, with its output as ours, and returns its status.
pub(crate) fn run(wanted: &Wanted) -> Result<u8> {
    if wanted.command.is_empty() && !io::stdin().is_terminal() {
        return Err(Failure::new("a shell wants a terminal; give a command behind `--`"));
    }
    packages::need(&[packages::QEMU, packages::BUSYBOX, packages::XZ])?;
    let programs = programs()?;
    let kernel = wanted.kernel.get()?;
    let mut guest = Guest::new(&kernel, wanted)?;
    for program in programs {
        guest.files.program_on_path(&program)?;
    }
    for add in &wanted.add {
        guest.files.add(add)?;
    }
    let ending = if wanted.command.is_empty() {
        guest.shell()?
    } else {
        guest.run(&wanted.command, Timeout::Whole(wanted.timeout), |stream, bytes| match stream {
            Stream::Output => print(&mut io::stdout().lock(), bytes),
            Stream::Error => print(&mut io::stderr().lock(), bytes),
        })?
    };
    match ending {
        Ending::Exited(status) => Ok(status),
        Ending::Lost(lost) => Err(Failure::new(format!("{}\n{}", lost.why, lost.story()))),
    }
}

/// Puts modules, and what they depend on, into a guest's `folder`, under names in the order of loading. One that the kernel has
/// built in, or not at all, has no file.
pub(crate) fn put_modules(files: &mut Initramfs, modules: &Path, names: &[&str], folder: &str) -> Result<()> {
    let modules = Modules::below(modules)?;
    let mut order = Vec::new();
    for name in names {
        for (module, bytes) in modules.load_order(name)? {
            if !order.contains(&module) {
                files.file(&format!("{folder}/{:03}-{module}.ko", order.len()), 0o644, bytes);
                order.push(module);
            }
        }
    }
    Ok(())
}

/// This project's programs that are on a guest's PATH: those of the workspace with the examples, and `ublkctl`.
pub(crate) fn programs() -> Result<Vec<PathBuf>> {
    let mut programs = workspace::build(["build", "--release", "--workspace", "--bins", "--examples"])?;
    let released = ["--release", "--bins"].map(str::to_owned);
    programs.extend(workspace::build(Tool::named(tool::UBLK_CLI).arguments("build").into_iter().chain(released))?);
    Ok(programs.into_iter().map(|program| program.path).collect())
}

pub(crate) fn print(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

/// The user's terminal as it was: QEMU changes it, and does not change it back when it is ended.
#[derive(Debug)]
struct Terminal {
    settings: String,
    rows: String,
    columns: String,
}

impl Terminal {
    fn save() -> Result<Self> {
        let size = stty("size")?;
        // A terminal that does not know its size says 0 0.
        let (rows, columns) = size.split_once(' ').filter(|size| *size != ("0", "0")).unwrap_or(("24", "80"));
        Ok(Self { settings: stty("-g")?, rows: rows.to_owned(), columns: columns.to_owned() })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A terminal that is gone needs no settings.
        let _ = stty(&self.settings);
    }
}

fn stty(argument: &str) -> Result<String> {
    let output =
        Command::new("stty").arg(argument).stdin(Stdio::inherit()).output().context(|| "cannot run stty".to_owned())?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A machine with its file system, ready for commands: each gets a boot of its own.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) files: Initramfs,
    machine: Machine,
    /// Holds the disks and the initial file system.
    _folder: Scratch,
}

impl Guest {
    /// A guest with this tool as its agent and with the modules that it needs.
    pub(crate) fn new(kernel: &Kernel, wanted: &Wanted) -> Result<Self> {
        let folder = Scratch::new("guest")?;
        let mut files = Initramfs::with_busybox()?;
        files.file("init", 0o755, INIT.into());
        let agent = std::env::current_exe().context(|| "cannot tell where this program is".to_owned())?;
        files.program(&agent, "usr/lib/xtask/agent")?;
        files.directory("usr/lib/xtask/modules");
        if let Some(modules) = &kernel.modules {
            let mut names = vec!["virtio_pci", "virtio_console", "ublk_drv"];
            if !wanted.disks.is_empty() {
                names.push("virtio_blk");
            }
            names.extend(&wanted.modules);
            put_modules(&mut files, modules, &names, "usr/lib/xtask/modules")?;
        }
        let mut disks = Vec::new();
        for (number, len_bytes) in wanted.disks.iter().enumerate() {
            let disk = folder.path().join(format!("disk{number}"));
            let made = File::create(&disk).and_then(|file| file.set_len(*len_bytes));
            made.context(|| format!("cannot make {}", disk.display()))?;
            disks.push(disk);
        }
        let machine = Machine {
            image: kernel.image.clone(),
            initrd: folder.path().join("initrd"),
            acceleration: if wanted.counted { Acceleration::Counted } else { Acceleration::Emulated },
            cpus: if wanted.counted { 1 } else { wanted.cpus },
            memory: wanted.memory,
            disks,
            console: if wanted.verbose { Console::Shown } else { Console::Kept },
        };
        let mut guest = Self { files, machine, _folder: folder };
        if !wanted.counted && kvm::works(|| guest.probe())? {
            guest.machine.acceleration = Acceleration::Kvm;
        }
        Ok(guest)
    }

    /// A machine that does nothing, under KVM.
    fn probe(&mut self) -> Result<Machine> {
        self.pack(&["true".into()])?;
        Ok(Machine { acceleration: Acceleration::Kvm, console: Console::Kept, ..self.machine.clone() })
    }

    /// Writes the file system with `command` in it.
    fn pack(&mut self, command: &[OsString]) -> Result<()> {
        self.files.file(guest_agent::COMMAND_FILE, 0o644, guest_agent::command_file(command)?);
        let len_bytes = self.files.write(&self.machine.initrd)?;
        // The kernel gives its first file system half of the memory.
        if len_bytes > self.machine.memory / 20 * 9 {
            return Err(Failure::new(format!(
                "the guest's files are {} MiB, and may take less than half of its memory of {} MiB: give it more with --mem",
                len_bytes >> 20,
                self.machine.memory >> 20
            )));
        }
        Ok(())
    }

    /// Boots and runs `command`.
    pub(crate) fn run(
        &mut self,
        command: &[OsString],
        timeout: Timeout,
        heard: impl FnMut(Stream, &[u8]) -> io::Result<()>,
    ) -> Result<Ending> {
        self.pack(command)?;
        self.machine.run(timeout, heard)
    }

    /// Boots and gives the user a shell on the terminal.
    fn shell(&mut self) -> Result<Ending> {
        let terminal = Terminal::save()?;
        let shell = format!("stty rows {} cols {}; exec sh -l", terminal.rows, terminal.columns);
        self.files.file(guest_agent::TERMINAL_FILE, 0o644, Vec::new());
        self.machine.console = Console::Terminal;
        self.run(&["setsid", "cttyhack", "sh", "-c", &shell].map(OsString::from), Timeout::Whole(SHELL), |_, _| Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::{Wanted, WantedKernel, size};
    use crate::kernel::Series;
    use core::time::Duration;

    fn parse(line: &str) -> crate::failure::Result<Wanted> {
        Wanted::parse(line.split(' ').map(Into::into))
    }

    #[test]
    fn what_stands_behind_two_dashes_is_the_command_untouched() {
        let wanted = parse("--kernel 6.12 --timeout 5 -- sh -c --kernel --").unwrap();
        assert_eq!(wanted.kernel, WantedKernel::Series(Series(6, 12)));
        assert_eq!(wanted.timeout, Duration::from_secs(5));
        assert_eq!(wanted.command, ["sh", "-c", "--kernel", "--"]);
    }

    #[test]
    fn nonsense_is_refused() {
        for line in ["uname", "--kernel x", "--kernel", "--smp 0", "--mem lots", "--disk 5X", "--modules /m"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_size_has_a_unit_or_none() {
        assert_eq!(size("512").unwrap(), 512);
        assert_eq!(size("3K").unwrap(), 3072);
        assert_eq!(size("2G").unwrap(), 2 << 30);
        for nonsense in ["", "K", "0", "1KK", "-1", "99999999999G"] {
            assert!(size(nonsense).is_err(), "{nonsense}");
        }
    }
}
