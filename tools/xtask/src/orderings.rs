// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask orderings`: the crate's memory orderings are enough, and each of them is needed.
//!
//! `tools/ring-model` runs the crate's own files with loom. That it passes says that the orderings are enough. Here the models
//! of a file are run once more for each ordering in it, weakened in a copy: every copy has to fail, else that ordering is not
//! needed, or the model does not look where it is.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::failure::{Context, Failure, Result};
use crate::tally::Tally;
use crate::workspace;

/// The package of the models.
const MODELS: &str = "tools/ring-model";

/// The folders whose files it includes.
const FOLDERS: [&str; 2] = ["ublk/src/queue", "ublk/src/ring"];

/// Each file that has orderings, and how the names of its models begin; in the order in which `tools/ring-model` has them.
const FILES: [(&str, &str); 5] = [
    ("ublk/src/ring/shared.rs", "ring: "),
    ("ublk/src/ring/provided.rs", "provided: "),
    ("ublk/src/queue/mailbox.rs", "mailbox: "),
    ("ublk/src/queue/references.rs", "references: "),
    ("ublk/src/queue/turn.rs", "turn: "),
];

/// What can be weakened, and what the next weaker are: where those fail, so does what is weaker still.
const WEAKER: [(&str, &[&str]); 4] = [
    ("Acquire", &["Relaxed"]),
    ("Release", &["Relaxed"]),
    ("AcqRel", &["Acquire", "Release"]),
    ("SeqCst", &["AcqRel"]),
];

/// How a program ends that panicked.
const PANICKED: i32 = 101;

/// The command: all of it, and the exit status.
pub(crate) fn run() -> Result<u8> {
    let mut tally = Tally::default();
    check(&mut tally)?;
    tally.print_details();
    println!("{tally}");
    Ok(u8::from(!tally.failed.is_empty()))
}

/// The models, and the models with each ordering weakened.
pub(crate) fn check(tally: &mut Tally) -> Result<()> {
    let started = Instant::now();
    println!("== memory orderings");
    let copy = Copy::make()?;
    let passed = Command::new(copy.program_of(&copy.sources)?).stdin(Stdio::null()).status();
    let passed = passed.context(|| format!("cannot run {MODELS}"))?.success();
    tally.count("the memory orderings are enough", passed);
    if passed {
        let elsewhere = copy.other_files_with_orderings()?;
        if !elsewhere.is_empty() {
            return Err(Failure::new(format!("no model has the orderings of {}", elsewhere.join(", "))));
        }
        for (number, (file, models)) in FILES.into_iter().enumerate() {
            weakened(&copy, number, file, models, tally)?;
        }
    }
    println!("{:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// Every ordering of the file with that number, weakened alone.
fn weakened(copy: &Copy, number: usize, file: &str, models: &str, tally: &mut Tally) -> Result<()> {
    let source = &copy.sources[number];
    let orderings = orderings(source);
    if orderings.is_empty() {
        return Err(Failure::new(format!("no ordering was found in {file}")));
    }
    for (ordering, weaker) in orderings.iter().flat_map(|ordering| ordering.weaker.iter().map(move |to| (ordering, to)))
    {
        let mut sources = copy.sources.clone();
        sources[number] = ordering.weaken(source, weaker);
        let output = Command::new(copy.program_of(&sources)?)
            .arg(models)
            .stdin(Stdio::null())
            .env("RUST_BACKTRACE", "0")
            .output()
            .context(|| format!("cannot run {MODELS}"))?;
        let failed = output.status.code() == Some(PANICKED);
        let name = format!("{file}:{} {}", ordering.line, ordering.name);
        if failed {
            let said = String::from_utf8_lossy(&output.stdout);
            let model = said.lines().rfind(|line| line.starts_with("model ")).unwrap_or_default();
            let complaint = String::from_utf8_lossy(&output.stderr);
            println!("{name} as {weaker}: fails, as it has to\n  {model}\n  {}", panic_message(&complaint));
        } else {
            println!("{name} as {weaker}: NO MODEL FAILS, {}\n  {}", output.status, ordering.code);
        }
        tally.count(&format!("{name} is needed, {weaker} is not enough"), failed);
    }
    Ok(())
}

/// A copy of what the models are made of, in which some files are written anew.
///
/// There is one, and what is checked is built there and nowhere else: cargo tells packages apart by where they lie in their
/// workspace, so that of two copies it takes one's program for the other's.
struct Copy {
    root: PathBuf,
    /// [`FILES`] as they are.
    sources: Vec<String>,
}

impl Copy {
    fn make() -> Result<Copy> {
        let root = workspace::kept("orderings").join("copy");
        if root.exists() {
            fs::remove_dir_all(&root).context(|| format!("cannot remove {}", root.display()))?;
        }
        for folder in FOLDERS.into_iter().chain([MODELS]) {
            copy(&workspace::root().join(folder), &root.join(folder))
                .context(|| format!("cannot copy {folder} to {}", root.display()))?;
        }
        let read = |(file, _)| fs::read_to_string(root.join(file)).context(|| format!("cannot read {file}"));
        let sources = FILES.into_iter().map(read).collect::<Result<_>>()?;
        Ok(Copy { root, sources })
    }

    /// The files beside [`FILES`] that have an ordering. What only tests use lies in folders below.
    fn other_files_with_orderings(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for folder in FOLDERS {
            let folder = self.root.join(folder);
            for entry in fs::read_dir(&folder).context(|| format!("cannot read {}", folder.display()))? {
                let path = entry.context(|| format!("cannot read {}", folder.display()))?.path();
                let known = FILES.iter().any(|(file, _)| path.ends_with(file));
                if path.is_file() && !known {
                    let text = fs::read_to_string(&path).context(|| format!("cannot read {}", path.display()))?;
                    if !orderings(&text).is_empty() {
                        found.push(path.strip_prefix(&self.root).unwrap_or(&path).display().to_string());
                    }
                }
            }
        }
        Ok(found)
    }

    /// The program with `sources` in place of [`FILES`].
    fn program_of(&self, sources: &[String]) -> Result<PathBuf> {
        for ((file, _), source) in FILES.iter().zip(sources) {
            fs::write(self.root.join(file), source).context(|| format!("cannot write {file}"))?;
        }
        let manifest = self.root.join(MODELS).join("Cargo.toml");
        let arguments = ["build", "--locked", "--manifest-path"].map(OsStr::new);
        let folders = [manifest.as_os_str(), OsStr::new("--target-dir"), target().as_os_str()].map(OsStr::to_owned);
        let built = workspace::build(arguments.map(OsStr::to_owned).into_iter().chain(folders))?;
        let program = built.into_iter().find(|built| built.target == "ring-model");
        let program = program.ok_or_else(|| Failure::new(format!("{MODELS} builds no program")))?.path;

        let output = Command::new(&program).arg("--source").stdin(Stdio::null()).output();
        let output = output.context(|| format!("cannot run {}", program.display()))?;
        if output.stdout != sources.concat().as_bytes() {
            return Err(Failure::new(format!("{} is not built from {}", program.display(), self.root.display())));
        }
        Ok(program)
    }
}

/// One place in a source where an ordering stronger than Relaxed is named.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ordering<'s> {
    /// The byte where the name starts.
    at: usize,
    name: &'static str,
    /// What to weaken it to.
    weaker: &'static [&'static str],
    /// The line, counted from 1, and what is in it.
    line: usize,
    code: &'s str,
}

impl Ordering<'_> {
    fn weaken(&self, source: &str, weaker: &str) -> String {
        let (before, after) = source.split_at(self.at);
        format!("{before}{weaker}{}", &after[self.name.len()..])
    }
}

/// Each in the order of the source, whatever stands before the name; comments are not code.
fn orderings(source: &str) -> Vec<Ordering<'_>> {
    let mut found = Vec::new();
    let mut start = 0;
    for (index, line) in source.split_inclusive('\n').enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        let is_part_of_word = |c: char| c.is_alphanumeric() || c == '_';
        for (name, weaker) in WEAKER {
            for (at, _) in code.match_indices(name) {
                let (before, after) = (&code[..at], &code[at + name.len()..]);
                if !before.ends_with(is_part_of_word) && !after.starts_with(is_part_of_word) {
                    found.push(Ordering { at: start + at, name, weaker, line: index + 1, code: code.trim() });
                }
            }
        }
        start += line.len();
    }
    found.sort_by_key(|ordering| ordering.at);
    found
}

/// The sentence of a panic, which follows the line that says where.
fn panic_message(output: &str) -> &str {
    output.lines().skip_while(|line| !line.contains(" panicked at ")).nth(1).unwrap_or_default()
}

/// What cargo builds; beside the copy, as it takes files below for its own.
fn target() -> PathBuf {
    workspace::kept("orderings").join("build")
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if !entry.file_type()?.is_dir() {
            fs::copy(source, target)?;
        } else if entry.file_name() != "target" {
            copy(&source, &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{orderings, panic_message};

    #[test]
    fn each_ordering_is_found_and_weakened_alone() {
        let source = "use Ordering::{Acquire, Relaxed};\n// Release\na.load(Acquire); b.swap(1, Ordering::AcqRel); // SeqCst\nReleased();\n";
        let found = orderings(source);
        let places: Vec<(usize, &str)> = found.iter().map(|ordering| (ordering.line, ordering.name)).collect();
        assert_eq!(places, [(1, "Acquire"), (3, "Acquire"), (3, "AcqRel")]);
        assert_eq!(found[2].weaker, ["Acquire", "Release"]);
        assert_eq!(found[2].weaken(source, "Release"), source.replace("Ordering::AcqRel", "Ordering::Release"));
    }

    #[test]
    fn the_message_of_a_panic_is_the_line_behind_its_place() {
        let output = "\nthread 'main' panicked at src/ring/kernel.rs:53:9:\nread too early\nnote: run with\n";
        assert_eq!(panic_message(output), "read too early");
    }
}
