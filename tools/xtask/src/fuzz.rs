// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask fuzz`: what reads strangers' bytes is given arbitrary ones, by libFuzzer.
//!
//! The compiler's own flags make the counters that libFuzzer looks at; nothing of this takes another compiler.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use crate::archive;
use crate::failure::{Context, Failure, Result};
use crate::packages;
use crate::tally::Tally;
use crate::tool::Tool;
use crate::workspace;

/// The package of the programs.
const PACKAGE: &str = "fuzz-explain";

/// What is fuzzed, each by a program `fuzz-NAME`.
const NAMES: [&str; 2] = ["diagnosis", "explain"];

/// Said to cargo, so that build scripts are built without the flags.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Counters at every edge, their places, and both sides of every comparison.
const FLAGS: [&str; 6] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// The longest input: as long as the goldens. What a very long one does, a test says.
const MAX_LEN_BYTES: u32 = 4 << 10;

/// An input that takes so many seconds hangs, even beside machines.
const HANG_SECONDS: u32 = 20;

/// How long it is done if nothing else is asked for.
pub(crate) const SECONDS: u32 = 60;

/// What `cargo xtask fuzz` was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    seconds: u32,
}

impl Wanted {
    pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self> {
        let arguments: Vec<OsString> = arguments.into_iter().collect();
        let words: Vec<&str> = arguments.iter().map(|word| word.to_str().unwrap_or_default()).collect();
        let seconds = match words[..] {
            [] => Some(SECONDS),
            ["--seconds", number] => number.parse().ok().filter(|number| *number > 0),
            _ => None,
        };
        seconds
            .map(|seconds| Self { seconds })
            .ok_or_else(|| Failure::new(format!("fuzz [--seconds N]: not {}", words.join(" "))))
    }
}

/// The command; returns the exit status.
pub(crate) fn run(wanted: &Wanted) -> Result<u8> {
    let mut tally = Tally::default();
    println!("== {} s of arbitrary bytes", wanted.seconds);
    Fuzzing::start(wanted.seconds)?.finish(&mut tally)?;
    Ok(u8::from(!tally.failed.is_empty()))
}

/// The programs, running.
#[derive(Debug)]
pub(crate) struct Fuzzing {
    running: Vec<Running>,
}

#[derive(Debug)]
struct Running {
    name: &'static str,
    program: PathBuf,
    process: Child,
    /// What it says.
    log: PathBuf,
}

impl Fuzzing {
    /// Builds the programs and starts them, with little claim to the processors.
    pub(crate) fn start(seconds: u32) -> Result<Self> {
        packages::need(&[packages::CC, packages::CXX])?;
        let started = Instant::now();
        let programs = build()?;
        let folder = workspace::kept("fuzz");
        let seeds = folder.join("seeds");
        if seeds.exists() {
            fs::remove_dir_all(&seeds).context(|| format!("cannot remove {}", seeds.display()))?;
        }
        let mut write_seeds = Tool::named(PACKAGE).cargo("run");
        archive::text(write_seeds.args(["--quiet", "--example", "seeds", "--"]).arg(&seeds))?;
        println!("built in {:.1} s", started.elapsed().as_secs_f64());
        let mut fuzzing = Self { running: Vec::new() };
        for (name, program) in programs {
            // What a run found interesting the next one starts from.
            let corpus = folder.join("corpus").join(name);
            workspace::folder(&corpus)?;
            let log = folder.join(format!("{name}.log"));
            let complaint = || format!("cannot write {}", log.display());
            let output = File::create(&log).context(complaint)?;
            let errors = output.try_clone().context(complaint)?;
            let mut command = Command::new("nice");
            command.arg(&program).args([&corpus, &seeds.join(name)]);
            for (option, value) in [("max_total_time", seconds), ("max_len", MAX_LEN_BYTES), ("timeout", HANG_SECONDS)]
            {
                command.arg(format!("-{option}={value}"));
            }
            command.args(["-print_final_stats=1", &format!("-artifact_prefix={}/{name}-", folder.display())]);
            command.env("RUST_BACKTRACE", "0").current_dir(workspace::root());
            let process = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn();
            let process = process.context(|| format!("cannot run {}", program.display()))?;
            fuzzing.running.push(Running { name, program, process, log });
        }
        Ok(fuzzing)
    }

    /// Waits until the time is up, and counts each program: it has to have run, and found nothing.
    pub(crate) fn finish(mut self, tally: &mut Tally) -> Result<()> {
        for running in &mut self.running {
            let status = running.process.wait().context(|| format!("cannot wait for fuzz-{}", running.name))?;
            let log = fs::read(&running.log).context(|| format!("cannot read {}", running.log.display()))?;
            let log = String::from_utf8_lossy(&log);
            let report = Report::read(&log);
            let passed = status.success() && report.is_of_a_run();
            println!("{} fuzz {}: {report}", if passed { "ok" } else { "FAILED" }, running.name);
            if !passed {
                println!("{}", running.story(status, &report, &log));
            }
            tally.count(&format!("no arbitrary bytes make fuzz-{} fail", running.name), passed);
        }
        Ok(())
    }
}

/// Nobody else would end them.
impl Drop for Fuzzing {
    fn drop(&mut self) {
        for running in &mut self.running {
            // It may have ended, and been waited for: then there is nothing to do.
            let _ = running.process.kill();
            let _ = running.process.wait();
        }
    }
}

impl Running {
    /// What went wrong, the input, and how it is given again.
    fn story(&self, status: ExitStatus, report: &Report, log: &str) -> String {
        let Some(input) = &report.input else {
            return format!("it ended with {status}, and says:\n{log}");
        };
        let hex = fs::read(input).map_or_else(
            |error| format!("cannot be read: {error}"),
            |bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "),
        );
        format!(
            "{}\nthe input is {}:\n{hex}\nagain: {} {}\nkeep it: tools/{PACKAGE}/failed/{}/NAME is run by `cargo test`",
            complaint(log),
            input.display(),
            self.program.display(),
            input.display(),
            self.name
        )
    }
}

/// What a program said of itself.
#[derive(Debug, Default, PartialEq, Eq)]
struct Report {
    runs: u64,
    /// Edges that some input went over.
    coverage: u64,
    seed: u64,
    /// What made it fail.
    input: Option<PathBuf>,
}

impl Report {
    fn read(log: &str) -> Self {
        let mut report = Self::default();
        for line in log.lines() {
            if let Some(seed) = line.strip_prefix("INFO: Seed: ") {
                report.seed = seed.trim().parse().unwrap_or_default();
            } else if let Some(runs) = line.strip_prefix("stat::number_of_executed_units:") {
                report.runs = runs.trim().parse().unwrap_or_default();
            } else if let Some((_, path)) = line.split_once("Test unit written to ") {
                report.input = Some(Path::new(path.trim()).to_path_buf());
            } else if line.starts_with('#') {
                // `#4096 NEW    cov: 310 ft: 421 corp: 12/1Kb ...`
                let mut words = line.split_whitespace().skip_while(|word| *word != "cov:");
                report.coverage = words.nth(1).and_then(|edges| edges.parse().ok()).unwrap_or(report.coverage);
            }
        }
        report
    }

    /// Without the compiler's counters libFuzzer runs all the same, and finds nothing.
    fn is_of_a_run(&self) -> bool {
        self.runs > 0 && self.coverage > 0 && self.input.is_none()
    }
}

impl core::fmt::Display for Report {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} runs, coverage {} edges, seed {}", self.runs, self.coverage, self.seed)
    }
}

/// A panic, with where it was; else libFuzzer's own sentence.
fn complaint(log: &str) -> String {
    let panic: Vec<&str> = log.lines().skip_while(|line| !line.contains(" panicked at ")).take(2).collect();
    let own = log.lines().filter(|line| line.contains("SUMMARY: libFuzzer"));
    if panic.is_empty() { own.collect::<Vec<_>>().join("\n") } else { panic.join("\n") }
}

/// Each program with its name.
fn build() -> Result<Vec<(&'static str, PathBuf)>> {
    let mut arguments = Tool::named(PACKAGE).arguments("build");
    arguments.extend(["--release", "--features", "libfuzzer", "--bins", "--target", TARGET].map(str::to_owned));
    // A list of strings in Rust's notation is one in TOML's.
    arguments.extend(["--config".to_owned(), format!("target.{TARGET}.rustflags={FLAGS:?}")]);
    let built = workspace::build(arguments)?;
    let path = |name: &'static str| {
        let program = built.iter().find(|program| program.target == format!("fuzz-{name}"));
        let program = program.ok_or_else(|| Failure::new(format!("cargo built no fuzz-{name}")))?;
        Ok((name, program.path.clone()))
    };
    NAMES.into_iter().map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::{Report, Wanted, complaint};

    #[test]
    fn the_time_is_a_number_of_seconds_above_zero() {
        let parse = |line: &str| Wanted::parse(line.split_whitespace().map(Into::into));
        assert_eq!(parse("").unwrap().seconds, 60);
        assert_eq!(parse("--seconds 5").unwrap().seconds, 5);
        for nonsense in ["--seconds", "--seconds 0", "--seconds x", "5", "--seconds 5 6"] {
            assert!(parse(nonsense).is_err(), "{nonsense}");
        }
    }

    #[test]
    fn runs_coverage_and_seed_are_read_from_the_log() {
        let log = "INFO: Seed: 1746\n#2\tINITED cov: 7 ft: 7 corp: 1/1b\n#9\tNEW    cov: 12 ft: 9 corp: 2/3b\nDone 9 runs in 1 second(s)\nstat::number_of_executed_units: 9\n";
        let report = Report::read(log);
        assert_eq!(report, Report { runs: 9, coverage: 12, seed: 1746, input: None });
        assert!(report.is_of_a_run());
    }

    #[test]
    fn a_panic_says_more_than_that_there_was_a_signal() {
        let end = "==9== ERROR: libFuzzer: deadly signal\nSUMMARY: libFuzzer: deadly signal\n";
        let log = format!("#2 NEW\n\nthread '<unnamed>' panicked at src/a.rs:1:2:\nout of range\nnote: more\n{end}");
        assert_eq!(complaint(&log), "thread '<unnamed>' panicked at src/a.rs:1:2:\nout of range");
        assert_eq!(complaint(end), "SUMMARY: libFuzzer: deadly signal");
    }

    #[test]
    fn a_run_without_counters_or_with_a_failing_input_is_none() {
        assert!(!Report::read("#2\tINITED ft: 7\nstat::number_of_executed_units: 9\n").is_of_a_run());
        assert!(!Report::read("").is_of_a_run());
        let found = Report::read(
            "#2 NEW cov: 1\nartifact_prefix='t/'; Test unit written to t/crash-0a\nstat::number_of_executed_units: 2\n",
        );
        assert_eq!(found.input.as_deref(), Some("t/crash-0a".as_ref()));
        assert!(!found.is_of_a_run());
    }
}
