// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask torture`: the tests of `device_torture` in full, in one machine after the other.

use core::time::Duration;
use std::ffi::OsString;
use std::io;
use std::time::{Instant, SystemTime};

use crate::failure::{Failure, Result};
use crate::kernel::{self, Kernel, Series};
use crate::machine::{Ending, Stream, Timeout};
use crate::packages;
use crate::vm::{self, Guest};
use crate::workspace;

/// The test program.
const TARGET: &str = "device_torture";

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
    if wanted.kernel.is_some_and(|only| !kernel::MUST_PASS.contains(&only)) {
        return Err(Failure::new("--kernel: not one of the series that must pass"));
    }
    packages::need(&[packages::QEMU, packages::BUSYBOX, packages::XZ])?;
    let mut programs = workspace::build(["build", "--release", "--workspace", "--bins", "--examples"])?;
    programs.extend(workspace::build(["test", "--no-run", "--test", TARGET])?);
    let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let mut seed = wanted.seed.unwrap_or_else(clock);
    let (started, mut worst) = (Instant::now(), 0);
    loop {
        for series in kernel::MUST_PASS.into_iter().filter(|series| wanted.kernel.is_none_or(|only| only == *series)) {
            let kernel = Kernel::of_series(series)?;
            println!("== Linux {}: seed {seed}", kernel.name);
            let machine = vm::Wanted { memory: 2 << 30, ..vm::Wanted::default() };
            let mut guest = Guest::new(&kernel, &machine)?;
            for program in &programs {
                if program.target == "loop" || program.target == TARGET {
                    guest.files.program_on_path(&program.path)?;
                }
            }
            let test = programs.iter().find(|program| program.target == TARGET);
            let test =
                test.and_then(|test| test.path.file_name()).ok_or_else(|| Failure::new("cargo built no test"))?;
            let script = format!(
                "UBLK_TORTURE=full UBLK_TORTURE_SEED={seed} {} --include-ignored --nocapture --test-threads=1 {}\n\
                 status=$?\n\
                 dmesg | grep -E 'WARNING:|BUG:|Oops|blocked for more than|refcount_t' && status=1\n\
                 exit $status\n",
                test.to_string_lossy(),
                wanted.filter.as_deref().unwrap_or_default(),
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
