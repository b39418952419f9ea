// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ring and device tests in the virtual machine: the test targets of the root package whose names start so.

use core::time::Duration;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Instant;

use crate::archive;
use crate::failure::{Failure, Result};
use crate::guest_tests;
use crate::kernel::{self, Kernel, Series};
use crate::libtest;
use crate::machine::{Ending, Stream, Timeout};
use crate::packages::{self, Program};
use crate::paths;
use crate::sizes;
use crate::tally::Tally;
use crate::vm::{self, Guest, Wanted};
use crate::workspace;

/// What tests call, beside the project's own programs.
const TOOLS: [Program; 7] = [
    packages::FIO,
    packages::MKE2FS,
    packages::E2FSCK,
    packages::MKFS_BTRFS,
    packages::BLKZONE,
    packages::BLKDISCARD,
    packages::STRACE,
];

/// Modules that a test loads if it needs them.
const MODULES: [&str; 1] = ["btrfs"];

/// Everything that `cargo xtask test` calls.
pub(crate) const NEEDS: [Program; 13] = [
    packages::CC,
    packages::CXX,
    packages::MANDOC,
    packages::QEMU,
    packages::BUSYBOX,
    packages::XZ,
    packages::FIO,
    packages::MKE2FS,
    packages::E2FSCK,
    packages::MKFS_BTRFS,
    packages::BLKZONE,
    packages::BLKDISCARD,
    packages::STRACE,
];

/// How often a machine may be lost before anything ran in it.
const FRUITLESS: u32 = 2;

/// A test executable and its tests.
#[derive(Debug)]
struct TestProgram {
    target: String,
    path: PathBuf,
    names: Vec<String>,
}

/// A test, by target and name.
type Test = (String, String);

/// Runs the tests on every kernel that they are for, and counts them.
pub(crate) fn run(quick: bool, filter: Option<&str>, tally: &mut Tally) -> Result<()> {
    packages::need(&NEEDS)?;
    let tests = test_programs()?;
    let mut own = vm::programs()?;
    // The static ones take the places of those of the same name. Where they cannot be built, their tests say what is missing.
    match sizes::build() {
        Ok(programs) => own.extend(programs.map(|program| program.path)),
        Err(failure) => println!("the null servers and ublkctl are not there as static files: {failure}"),
    }
    let newest = Series::newest_listed();
    let listed: Vec<Series> =
        kernel::RING_ONLY.into_iter().chain(kernel::MUST_PASS).filter(|series| !quick || *series == newest).collect();
    if quick {
        println!("--quick: machines with {newest} only");
    }
    let mut runs = Vec::new();
    for series in listed {
        let plan = plan(&tests, !kernel::RING_ONLY.contains(&series), filter);
        // What runs in a machine is not skipped.
        for test in &plan {
            tally.ignored.remove(test);
        }
        runs.push((Kernel::of_series(series)?, plan));
    }
    // Side by side where there are processors for it: a machine waits a good part of its time, for a test about patience, or with one
    // of its own two. With fewer, those would be late.
    let side_by_side = thread::available_parallelism().is_ok_and(|processors| processors.get() >= 4);
    let at_once = if side_by_side { runs.len().max(1) } else { 1 };
    let run_all = |runs: &[(Kernel, Vec<Test>)]| -> Vec<(Tally, Result<()>)> {
        thread::scope(|scope| {
            let (tests, own) = (&tests, &own);
            let start = |(on, plan)| {
                scope.spawn(move || {
                    let mut counted = Tally::default();
                    let ended = run_on(on, plan, tests, own, &mut counted);
                    (counted, ended)
                })
            };
            let threads: Vec<_> = runs.iter().map(|(on, plan)| start((on, plan))).collect();
            threads
                .into_iter()
                .map(|thread| {
                    thread
                        .join()
                        .unwrap_or_else(|_| (Tally::default(), Err(Failure::new("a machine's thread panicked"))))
                })
                .collect()
        })
    };
    for (counted, ended) in runs.chunks(at_once).flat_map(run_all) {
        tally.passed += counted.passed;
        tally.failed.extend(counted.failed);
        ended?;
    }
    if !quick {
        // What is not listed fails nothing, not even by being out of reach.
        if let Err(failure) = run_on_newer(&plan(&tests, true, filter), &tests, &own) {
            println!("no series newer than {newest} was tried: {failure}");
        }
    }
    Ok(())
}

/// Runs the tests on a series that is newer than those that must pass, should there be one, and counts nothing.
fn run_on_newer(plan: &[Test], tests: &[TestProgram], own: &[PathBuf]) -> Result<()> {
    let Some(series) = kernel::newer_than_listed()? else { return Ok(()) };
    println!("== series {series} is newer than those that must pass; its results are not counted");
    let mut uncounted = Tally::default();
    run_on(&Kernel::of_series(series)?, plan, tests, own, &mut uncounted)?;
    println!("== series {series}, not counted: {} passed, {} failed", uncounted.passed, uncounted.failed.len());
    Ok(())
}

/// The test executables of the root package that are for machines, with the names of their tests.
fn test_programs() -> Result<Vec<TestProgram>> {
    let root = workspace::root();
    let mut found = Vec::new();
    for executable in workspace::build(["test", "--workspace", "--no-run"])? {
        let of_root = root.to_str() == Some(executable.package.as_str());
        if of_root
            && executable.kind == "test"
            && ["ring", "device"].iter().any(|kind| executable.target.starts_with(kind))
        {
            let list = archive::text(Command::new(&executable.path).args(["--list", "--format", "terse"]))?;
            found.push(TestProgram { target: executable.target, path: executable.path, names: libtest::listed(&list) });
        }
    }
    found.sort_by(|a, b| a.target.cmp(&b.target));
    Ok(found)
}

fn plan(programs: &[TestProgram], devices: bool, filter: Option<&str>) -> Vec<Test> {
    programs
        .iter()
        .filter(|program| devices || program.target.starts_with("ring"))
        .flat_map(|program| program.names.iter().map(|name| (program.target.clone(), name.clone())))
        .filter(|(target, name)| filter.is_none_or(|filter| format!("{target}::{name}").contains(filter)))
        .collect()
}

/// Runs `plan` on one kernel, in as many boots as it takes.
fn run_on(on: &Kernel, plan: &[Test], programs: &[TestProgram], own: &[PathBuf], tally: &mut Tally) -> Result<()> {
    println!("== {} tests on {}", plan.len(), on.name);
    let mut left: VecDeque<Test> = plan.iter().cloned().collect();
    let mut fruitless = 0;
    let mut ran = 0;
    while !left.is_empty() {
        let mut guest = Guest::new(on, &Wanted { memory: 3 << 30, ..Wanted::default() })?;
        for program in own {
            guest.files.program_on_path(program)?;
        }
        for tool in TOOLS {
            guest.files.add(tool.name)?;
        }
        if let Some(modules) = &on.modules {
            vm::put_modules(&mut guest.files, modules, &MODULES, guest_tests::MODULES)?;
        }
        guest.files.file(&format!("usr/local/bin/{}", paths::COMMAND), 0o755, paths::SCRIPT.into());
        for program in programs {
            guest.files.program(&program.path, &format!("{}/{}", guest_tests::PROGRAMS, program.target))?;
        }
        let text: String = left.iter().map(|(target, name)| format!("{target} {name}\n")).collect();
        guest.files.file(guest_tests::PLAN, 0o644, text.into_bytes());
        // The guest keeps the deadlines; the host looks after a guest that says nothing any more.
        let silence = left.iter().map(|(_, name)| guest_tests::deadline(name)).max().unwrap_or_default()
            + Duration::from_secs(60);
        let mut watch =
            Watch { on, left: &mut left, tally, running: None, text: String::new(), ran: 0, line: Vec::new() };
        let command = ["xtask".into(), "guest-tests".into()];
        let ending = guest.run(&command, Timeout::Silence(silence), |stream, bytes| {
            watch.hear(stream, bytes);
            Ok(())
        })?;
        let lost = match ending {
            Ending::Exited(0) => {
                watch.running.is_some().then(|| "the runner in the guest ended in the middle of a test".to_owned())
            }
            Ending::Exited(status) => Some(format!("the runner in the guest ended with status {status}")),
            Ending::Lost(lost) => Some(format!("{}\n{}", lost.why, lost.story())),
        };
        if let Some(story) = lost {
            if watch.running.is_some() {
                watch.text.push_str(&story);
                watch.end(false, 0.0);
            } else {
                println!("{story}");
            }
        }
        fruitless = if watch.ran == 0 { fruitless + 1 } else { 0 };
        ran += watch.ran;
        if fruitless == FRUITLESS {
            break;
        }
    }
    for (target, name) in &left {
        println!("FAILED {} {target}::{name}: it did not run", on.name);
        tally.failed.push(format!("{} {target}::{name}: it did not run", on.name));
    }
    if ran + left.len() != plan.len() {
        return Err(Failure::new(format!("{} tests were listed and {ran} ran on {}", plan.len(), on.name)));
    }
    Ok(())
}

/// Listens to the runner in the guest.
#[derive(Debug)]
struct Watch<'a> {
    on: &'a Kernel,
    left: &'a mut VecDeque<Test>,
    tally: &'a mut Tally,
    running: Option<(Test, Instant)>,
    /// What was said about the running test.
    text: String,
    ran: usize,
    /// The start of a line whose end has not arrived.
    line: Vec<u8>,
}

impl Watch<'_> {
    fn hear(&mut self, stream: Stream, bytes: &[u8]) {
        if stream == Stream::Error {
            eprintln!("{}: {}", self.on.name, String::from_utf8_lossy(bytes).trim_end());
            return;
        }
        self.line.extend(bytes);
        while let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.line.drain(..=end).collect();
            self.record(String::from_utf8_lossy(&line).trim_end_matches('\n'));
        }
    }

    fn record(&mut self, record: &str) {
        let (word, rest) = record.split_once(' ').unwrap_or((record, ""));
        match word {
            "start" => {
                let (target, name) = rest.split_once(' ').unwrap_or((rest, ""));
                self.running = Some(((target.to_owned(), name.to_owned()), Instant::now()));
                self.text.clear();
            }
            "text" => {
                self.text.push_str(rest);
                self.text.push('\n');
            }
            "end" => {
                let (verdict, milliseconds) = rest.split_once(' ').unwrap_or((rest, ""));
                let seconds = Duration::from_millis(milliseconds.parse().unwrap_or_default()).as_secs_f64();
                self.end(verdict == "passed", seconds);
            }
            _ => {}
        }
    }

    fn end(&mut self, passed: bool, seconds: f64) {
        let Some((test, started)) = self.running.take() else { return };
        let seconds = if seconds > 0.0 { seconds } else { started.elapsed().as_secs_f64() };
        let name = format!("{} {}::{}", self.on.name, test.0, test.1);
        self.left.retain(|other| *other != test);
        self.ran += 1;
        self.tally.count(&name, passed);
        let mut said = format!("{} {name} {seconds:.1} s\n", if passed { "ok" } else { "FAILED" });
        // Of a test that has passed it is what it counted. In one piece: other machines have something to say, too.
        for line in self.text.lines() {
            said.push_str(&format!("    {line}\n"));
        }
        print!("{said}");
    }
}
