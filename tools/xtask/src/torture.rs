// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask torture`: the tests of `device_torture` and `device_faults` in full, in one machine after the other.

use core::time::Duration;
use std::ffi::OsString;
use std::io;
use std::time::Instant;

use crate::failure::{Failure, Result};
use crate::kernel::{self, Kernel, Series};
use crate::machine::{Ending, Stream, Timeout};
use crate::packages;
use crate::power;
use crate::vm::{self, Guest};
use crate::workspace;

/// The test programs.
const TARGETS: [&str; 2] = ["device_torture", "device_faults"];

/// The servers that they call.
const SERVERS: [&str; 2] = ["loop", "ramdisk"];

/// A machine in which nothing is said for so long hangs.
const SILENCE: Duration = Duration::from_secs(900);

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Where chance starts; the clock says where not.
    seed: Option<u64>,
    /// All of it again and again, with the seeds that follow, until so much time is over; once where not.
    minutes: Option<u64>,
    /// On this series alone.
    kernel: Option<Series>,
    /// Only tests with that in their names.
    filter: Option<String>,
}

impl Wanted {
    pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self> {
        let mut wanted = Self::default();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let argument = argument.to_string_lossy().into_owned();
            let bad =
                || Failure::new(format!("torture [--seed N] [--minutes N] [--kernel SERIES] [FILTER]: not {argument}"));
            if !argument.starts_with('-') && wanted.filter.is_none() {
                wanted.filter = Some(argument);
                continue;
            }
            let value = arguments.next().ok_or_else(bad)?;
            let value = value.to_string_lossy();
            match argument.as_str() {
                "--seed" => wanted.seed = Some(value.parse().map_err(|_| bad())?),
                "--minutes" => wanted.minutes = Some(value.parse().map_err(|_| bad())?),
                "--kernel" => wanted.kernel = Some(Series::parse(&value).ok_or_else(bad)?),
                _ => return Err(bad()),
            }
        }
        Ok(wanted)
    }
}

/// Runs it on every series that must pass; the exit status.
pub(crate) fn run(wanted: &Wanted) -> Result<u8> {
    let chosen = kernel::chosen(wanted.kernel)?;
    packages::need(&[packages::QEMU, packages::BUSYBOX, packages::XZ, packages::STRACE, packages::FIO])?;
    let mut programs = workspace::build(["build", "--release", "--workspace", "--bins", "--examples"])?;
    programs.extend(workspace::build(["test", "--no-run", "--test", TARGETS[0], "--test", TARGETS[1]])?);
    let mut seed = wanted.seed.unwrap_or_else(power::seed_of_the_clock);
    let (started, mut worst) = (Instant::now(), 0);
    loop {
        for series in &chosen {
            let kernel = Kernel::of_series(*series)?;
            println!("== Linux {}: seed {seed}", kernel.name);
            let machine = vm::Wanted { memory: 2 << 30, ..vm::Wanted::default() };
            let mut guest = Guest::new(&kernel, &machine)?;
            for tool in [packages::STRACE, packages::FIO] {
                guest.files.add(tool.name)?;
            }
            let filter = wanted.filter.as_deref().unwrap_or_default();
            let mut script = format!("export UBLK_TORTURE=full UBLK_TORTURE_SEED={seed}\nstatus=0\n");
            for program in &programs {
                let is_test = TARGETS.contains(&program.target.as_str());
                if is_test || SERVERS.contains(&program.target.as_str()) {
                    guest.files.program_on_path(&program.path)?;
                }
                if let (true, Some(name)) = (is_test, program.path.file_name()) {
                    let name = name.to_string_lossy();
                    let line = format!("{name} --include-ignored --nocapture --test-threads=1 {filter} || status=1\n");
                    script.push_str(&line);
                }
            }
            script.push_str(
                "dmesg | grep -E 'WARNING:|BUG:|Oops|blocked for more than|refcount_t' && status=1\nexit $status\n",
            );
            let command = ["sh", "-c", &script].map(OsString::from);
            let ending = guest.run(&command, Timeout::Silence(SILENCE), |stream, bytes| match stream {
                Stream::Output => vm::print(&mut io::stdout().lock(), bytes),
                Stream::Error => vm::print(&mut io::stderr().lock(), bytes),
            })?;
            match ending {
                Ending::Exited(status) => worst = worst.max(status),
                Ending::Lost(lost) => return Err(Failure::new(format!("{}\n{}", lost.why, lost.story()))),
            }
            println!("Linux {}: {} s in all", kernel.name, started.elapsed().as_secs());
        }
        seed = seed.wrapping_add(1);
        let is_over = wanted.minutes.is_none_or(|minutes| started.elapsed().as_secs() >= minutes.saturating_mul(60));
        if worst != 0 || is_over {
            println!("{}", if worst == 0 { "nothing lost" } else { "something failed" });
            return Ok(worst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Wanted;
    use crate::kernel::Series;

    #[test]
    fn a_seed_a_time_and_a_kernel_are_taken_and_what_is_none_is_refused() {
        let parse = |line: &str| Wanted::parse(line.split(' ').map(Into::into));
        let wanted = parse("--seed 7 --minutes 30 --kernel 6.12 kill").unwrap();
        let kernel = Some(Series(6, 12));
        assert_eq!(wanted, Wanted { seed: Some(7), minutes: Some(30), kernel, filter: Some("kill".to_owned()) });
        for line in ["--seed", "--seed x", "--minutes -1", "--kernel x", "--rounds 3", "a b"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
