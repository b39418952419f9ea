// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask paths`: every way in which data can travel, judged by programs that know nothing of it.

use core::time::Duration;
use std::ffi::OsString;
use std::io;
use std::time::Instant;

use crate::failure::{Failure, Result};
use crate::headers;
use crate::kernel::{self, Kernel, Series};
use crate::machine::{Ending, Stream, Timeout};
use crate::packages::{self, Program};
use crate::vm::{self, Guest};
use crate::workspace;

/// What a guest runs, one cell at a time. Tests run it too.
pub(crate) const SCRIPT: &str = include_str!("guest/paths.sh");

/// The script's name on the guest's PATH.
pub(crate) const COMMAND: &str = "paths";

/// Where the files to copy are in the guest.
const TREE: &str = "/usr/src/headers";

/// The modes that an option of the programs names.
const MODES: [&str; 5] = ["copy", "get-data", "user-copy", "zero-copy", "auto-register"];

/// Those whose file systems are made in a quick run too.
const USUAL: [&str; 2] = ["copy", "auto-register"];

/// How requests come to `loop`, and whether clients share its memory. What a mode has not is refused by name.
const TRANSPORTS: [&str; 2] = ["per-tag", "batch"];
const SHARED: [&str; 2] = ["per-tag+shared", "batch+shared"];

/// Queues and requests at a time.
const SHAPES: [&str; 4] = ["1:1", "1:64", "4:1", "4:64"];

/// What a guest calls, beside the project's own programs.
const TOOLS: [Program; 6] =
    [packages::FIO, packages::MKE2FS, packages::E2FSCK, packages::MKXFS, packages::XFS_REPAIR, packages::BLKDISCARD];

/// The programs that are judged.
const JUDGED: [&str; 2] = ["loop", "stripe"];

/// What was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Four cells of fio for each way, where else there is one, and both file systems in every mode.
    full: bool,
    /// On this series alone.
    kernel: Option<Series>,
}

impl Wanted {
    pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self> {
        let mut wanted = Self::default();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let value = if argument == "--kernel" { arguments.next() } else { None };
            match (argument.to_str(), value.as_ref().and_then(|value| Series::parse(value.to_str()?))) {
                (Some("--full"), _) => wanted.full = true,
                (Some("--kernel"), Some(series)) => wanted.kernel = Some(series),
                _ => {
                    let argument = argument.to_string_lossy();
                    return Err(Failure::new(format!("paths [--full] [--kernel SERIES]: not {argument}")));
                }
            }
        }
        Ok(wanted)
    }

    /// The script's arguments, behind the folder: a line for each thing that it is to do.
    fn steps(self) -> Vec<String> {
        let mut steps = vec!["head".to_owned()];
        let (ios, shapes) = if self.full { (600, SHAPES.join(" ")) } else { (400, SHAPES[3].to_owned()) };
        let mut cells = |server, mode, transport, direct| {
            steps.push(format!("cells {server} {mode} {transport} {direct} {ios} {shapes}"));
        };
        for mode in MODES {
            for transport in TRANSPORTS {
                cells("loop", mode, transport, "on");
                cells("loop", mode, transport, "off");
            }
            for transport in SHARED {
                cells("loop", mode, transport, "on");
            }
            cells("stripe", mode, TRANSPORTS[0], "on");
        }
        for mode in MODES {
            for filesystem in ["ext4", "xfs"] {
                if self.full || USUAL.contains(&mode) {
                    steps.push(format!("tree {mode} {filesystem} {TREE}"));
                }
            }
        }
        for mode in MODES {
            steps.push(format!("discard {mode}"));
            steps.push(format!("short {mode}"));
            steps.push(format!("durable {mode}"));
        }
        steps
    }
}

/// Runs it on every series that must pass; the exit status.
pub(crate) fn run(wanted: Wanted) -> Result<u8> {
    let chosen = kernel::chosen(wanted.kernel)?;
    packages::need(&[packages::QEMU, packages::BUSYBOX, packages::XZ])?;
    packages::need(&TOOLS)?;
    let programs = workspace::build(["build", "--release", "--workspace", "--bins", "--examples"])?;
    let headers = headers::get()?.join("usr");
    let mut worst = 0;
    for series in chosen {
        let started = Instant::now();
        let kernel = Kernel::of_series(series)?;
        // The files behind the disks are on a disk, so that direct I/O is what it says.
        let machine = vm::Wanted {
            cpus: 4,
            memory: 2 << 30,
            disks: vec![3 << 30],
            modules: vec!["xfs"],
            ..vm::Wanted::default()
        };
        let mut guest = Guest::new(&kernel, &machine)?;
        for program in programs.iter().filter(|program| JUDGED.contains(&program.target.as_str())) {
            guest.files.program_on_path(&program.path)?;
        }
        for tool in TOOLS {
            guest.files.add(tool.name)?;
        }
        guest.files.folder(&headers, TREE)?;
        guest.files.file(&format!("usr/local/bin/{COMMAND}"), 0o755, SCRIPT.into());
        let mut script = "set -e\nmkfs.ext4 -q /dev/vda\nmount -t ext4 /dev/vda /mnt\nset +e\nwrong=0\n".to_owned();
        for step in wanted.steps() {
            script.push_str(&format!("{COMMAND} /mnt {step} || wrong=1\n"));
        }
        script.push_str(
            "dmesg | grep -E 'WARNING:|BUG:|Oops|blocked for more than' && wrong=1\numount /mnt\nexit $wrong\n",
        );
        let command = ["sh", "-c", &script].map(OsString::from);
        let limit = Timeout::Silence(Duration::from_secs(600));
        let ending = guest.run(&command, limit, |stream, bytes| match stream {
            Stream::Output => vm::print(&mut io::stdout().lock(), bytes),
            Stream::Error => vm::print(&mut io::stderr().lock(), bytes),
        })?;
        match ending {
            Ending::Exited(status) => worst = worst.max(status),
            Ending::Lost(lost) => return Err(Failure::new(format!("{}\n{}", lost.why, lost.story()))),
        }
        println!("Linux {}: {:.0} s", kernel.name, started.elapsed().as_secs_f64());
    }
    println!("{}", if worst == 0 { "no error" } else { "there were errors" });
    Ok(worst)
}

#[cfg(test)]
mod tests {
    use super::Wanted;
    use crate::kernel::Series;

    #[test]
    fn every_mode_goes_with_every_transport_and_a_full_run_has_four_cells_where_a_quick_one_has_one() {
        let (quick, full) = (Wanted::default(), Wanted { full: true, kernel: None });
        let count = |wanted: Wanted, word: &str| wanted.steps().iter().filter(|step| step.starts_with(word)).count();
        let cells = |wanted: Wanted| wanted.steps().iter().map(|step| step.matches(':').count()).sum::<usize>();
        // Five modes: of loop by two transports with direct I/O or without, and by both with shared memory; and of stripe.
        assert_eq!((count(quick, "cells "), count(full, "cells ")), (35, 35));
        assert_eq!((cells(quick), cells(full)), (35, 140));
        assert_eq!((count(quick, "tree "), count(full, "tree ")), (4, 10));
    }

    #[test]
    fn what_it_does_not_take_is_refused() {
        let parse = |line: &str| Wanted::parse(line.split(' ').map(Into::into));
        assert_eq!(parse("--full --kernel 6.12").unwrap(), Wanted { full: true, kernel: Some(Series(6, 12)) });
        for line in ["--quick", "--kernel", "--kernel x", "--full on"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
