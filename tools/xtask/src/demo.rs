// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask demo`: a RAM disk served from user space holds the kernel's header files.

use core::time::Duration;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::failure::{Context, Failure, Result};
use crate::headers;
use crate::kernel::{Kernel, Series};
use crate::machine::{Ending, Scratch, Stream, Timeout};
use crate::packages::{self, Program};
use crate::vm::{self, Guest};
use crate::workspace;

const SCRIPT: &str = include_str!("guest/demo.sh");

/// The size of the disk.
const SIZE: &str = "256M";

/// Where the files to copy are in the guest.
const TREE: &str = "/usr/src/headers";

const TOOLS: [Program; 2] = [packages::MKE2FS, packages::E2FSCK];

/// Where the demo runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Machine,
    Here,
}

impl Wanted {
    pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self> {
        let mut wanted = Self::Machine;
        for argument in arguments {
            match argument.to_str() {
                Some("--here") => wanted = Self::Here,
                _ => return Err(Failure::new(format!("demo [--here]: not {}", argument.to_string_lossy()))),
            }
        }
        Ok(wanted)
    }
}

pub(crate) fn run(wanted: Wanted) -> Result<u8> {
    match wanted {
        Wanted::Machine => in_machine(),
        Wanted::Here => here(),
    }
}

fn in_machine() -> Result<u8> {
    packages::need(&[packages::QEMU, packages::BUSYBOX, packages::XZ])?;
    packages::need(&TOOLS)?;
    println!("building the project's programs");
    let programs = workspace::build(["build", "--release", "--workspace", "--bins", "--examples"])?;
    let headers = headers::get()?.join("usr");
    let kernel = Kernel::of_series(Series::newest_listed())?;
    let started = Instant::now();
    println!("booting Linux {} in a virtual machine", kernel.name);
    let mut guest = Guest::new(&kernel, &vm::Wanted::default())?;
    for program in programs {
        guest.files.program_on_path(&program.path)?;
    }
    for tool in TOOLS {
        guest.files.add(tool.name)?;
    }
    guest.files.folder(&headers, TREE)?;
    guest.files.file("usr/local/bin/demo", 0o755, SCRIPT.into());
    let command = ["demo", TREE, SIZE].map(OsString::from);
    let ending = guest.run(&command, Timeout::Whole(Duration::from_secs(600)), |stream, bytes| match stream {
        Stream::Output => vm::print(&mut io::stdout().lock(), bytes),
        Stream::Error => vm::print(&mut io::stderr().lock(), bytes),
    })?;
    match ending {
        Ending::Exited(0) => {
            println!("the machine ran for {:.1} s", started.elapsed().as_secs_f64());
            Ok(0)
        }
        Ending::Exited(status) => Ok(status),
        Ending::Lost(lost) => Err(Failure::new(format!("{}\n{}", lost.why, lost.story()))),
    }
}

/// The same on this machine's own driver.
fn here() -> Result<u8> {
    if !packages::is_root() {
        let tool = env::current_exe().context(|| "cannot tell where this program is".to_owned())?;
        return Err(Failure::new(format!(
            "making a block device and mounting it is root's; run `sudo -E {} demo --here`",
            tool.display()
        )));
    }
    packages::need(&TOOLS)?;
    if !Path::new("/dev/ublk-control").exists() {
        // Where this does not help, the next look says so.
        let _ = Command::new("modprobe").arg("ublk_drv").stdin(Stdio::null()).status();
    }
    if !Path::new("/dev/ublk-control").exists() {
        return Err(Failure::new(
            "this machine's kernel has no ublk driver (there is no /dev/ublk-control, and `modprobe ublk_drv` does not help); \
             `cargo xtask demo` brings a kernel that has it",
        ));
    }
    let programs = workspace::build(["build", "--release", "--workspace", "--bins", "--examples"])?;
    let headers = headers::get()?.join("usr");
    println!(
        "This makes a new block device in this machine, a RAM disk of {SIZE} at the next free /dev/ublkbN, formats that"
    );
    println!("with ext4, mounts it in a new folder below {}, and removes both at the end.", env::temp_dir().display());
    println!("No disk that is there now is touched.");
    print!("Go on? [y/N] ");
    let asked = io::stdout().flush();
    asked.context(|| "cannot ask".to_owned())?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).context(|| "cannot read the answer".to_owned())?;
    if !matches!(answer.trim(), "y" | "Y" | "yes") {
        println!("nothing was done");
        return Ok(1);
    }
    let ramdisk = programs.iter().find(|program| program.target == "ramdisk");
    let ramdisk = ramdisk.ok_or_else(|| Failure::new("cargo built no example ramdisk"))?;
    let mut path = ramdisk.path.parent().unwrap_or(Path::new("/")).as_os_str().to_owned();
    path.push(":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    let folder = Scratch::new("demo")?;
    let script = folder.path().join("demo.sh");
    fs::write(&script, SCRIPT).context(|| format!("cannot write {}", script.display()))?;
    let status =
        Command::new("sh").arg(&script).arg(&headers).arg(SIZE).env("PATH", path).stdin(Stdio::null()).status();
    let status = status.context(|| "cannot run the shell".to_owned())?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
