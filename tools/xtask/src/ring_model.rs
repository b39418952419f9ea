// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask ring-model`: the ring's orderings are enough, and each of them is needed.
//!
//! `tools/ring-model` runs the ring's own files with loom. That it passes says that the orderings are enough. Here it is
//! run once more for each Acquire and Release in `ring/shared.rs`, weakened to Relaxed in a copy: every copy has to fail, else
//! that ordering is not needed, or the model does not look where it is.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::failure::{Context, Failure, Result};
use crate::tally::Tally;
use crate::workspace;

/// The model's package, and the folder whose files it includes.
const MODEL: &str = "tools/ring-model";
const RING: &str = "ublk/src/ring";

/// The file that has all the orderings.
const ORDERINGS: &str = "ublk/src/ring/shared.rs";

/// What can be weakened.
const STRONG: [&str; 4] = ["Acquire", "Release", "AcqRel", "SeqCst"];

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

/// The package's form and lints, the models, and the models with each ordering weakened.
pub(crate) fn check(tally: &mut Tally) -> Result<()> {
    let started = Instant::now();
    println!("== the ring's orderings");
    for form in [&["fmt", "--check"][..], &["clippy", "--quiet", "--locked", "--", "-D", "warnings"]] {
        let mut command = workspace::cargo();
        command.current_dir(workspace::root().join(MODEL)).env("CARGO_TARGET_DIR", target()).args(form);
        let status = command.stdin(Stdio::null()).status().context(|| "cannot run cargo".to_owned())?;
        tally.count(&format!("cargo {} in {MODEL}", form.join(" ")), status.success());
    }

    let copy = Copy::make()?;
    let passed =
        Command::new(copy.program()?).stdin(Stdio::null()).status().context(|| format!("cannot run {MODEL}"))?;
    tally.count("the ring's orderings are enough", passed.success());
    if passed.success() {
        weakened(&copy, tally)?;
    }
    println!("{:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// Every ordering, weakened alone.
fn weakened(copy: &Copy, tally: &mut Tally) -> Result<()> {
    let orderings = orderings(&copy.source);
    if orderings.is_empty() {
        return Err(Failure::new(format!("no ordering was found in {ORDERINGS}")));
    }
    let elsewhere = copy.files_that_order()?;
    if elsewhere != [ORDERINGS] {
        return Err(Failure::new(format!("orderings have to stand in {ORDERINGS} alone: {}", elsewhere.join(", "))));
    }
    for ordering in orderings {
        let output = Command::new(copy.program_of(&ordering.weaken(&copy.source))?)
            .stdin(Stdio::null())
            .env("RUST_BACKTRACE", "0")
            .output()
            .context(|| format!("cannot run {MODEL}"))?;
        let failed = output.status.code() == Some(PANICKED);
        let name = format!("{ORDERINGS}:{} {}", ordering.line, ordering.name);
        if failed {
            let said = String::from_utf8_lossy(&output.stdout);
            let model = said.lines().rfind(|line| line.starts_with("model ")).unwrap_or_default();
            let complaint = String::from_utf8_lossy(&output.stderr);
            println!("weakened {name}: fails, as it has to\n  {model}\n  {}", panic_message(&complaint));
        } else {
            println!("weakened {name}: NO MODEL FAILS, {}\n  {}", output.status, ordering.code);
        }
        tally.count(&format!("{name} is needed"), failed);
    }
    Ok(())
}

/// A copy of what the model is made of, in which one file is written anew.
///
/// There is one, and what is checked is built there and nowhere else: cargo tells packages apart by where they lie in their
/// workspace, so that of two copies it takes one's program for the other's.
struct Copy {
    root: PathBuf,
    /// [`ORDERINGS`] as it is.
    source: String,
}

impl Copy {
    fn make() -> Result<Copy> {
        let root = workspace::kept("ring-model").join("copy");
        if root.exists() {
            fs::remove_dir_all(&root).context(|| format!("cannot remove {}", root.display()))?;
        }
        for folder in [MODEL, RING] {
            copy(&workspace::root().join(folder), &root.join(folder))
                .context(|| format!("cannot copy {folder} to {}", root.display()))?;
        }
        let file = root.join(ORDERINGS);
        let source = fs::read_to_string(&file).context(|| format!("cannot read {}", file.display()))?;
        Ok(Copy { root, source })
    }

    /// The ring's files that name an ordering. What only tests use lies in folders below.
    fn files_that_order(&self) -> Result<Vec<String>> {
        let folder = self.root.join(RING);
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder).context(|| format!("cannot read {}", folder.display()))? {
            let path = entry.context(|| format!("cannot read {}", folder.display()))?.path();
            if path.is_file() {
                let text = fs::read_to_string(&path).context(|| format!("cannot read {}", path.display()))?;
                if text.contains("Ordering") {
                    found.push(path.strip_prefix(&self.root).unwrap_or(&path).display().to_string());
                }
            }
        }
        Ok(found)
    }

    /// The program of the sources as they are.
    fn program(&self) -> Result<PathBuf> {
        self.program_of(&self.source)
    }

    /// The program with `source` in place of [`ORDERINGS`].
    fn program_of(&self, source: &str) -> Result<PathBuf> {
        let file = self.root.join(ORDERINGS);
        fs::write(&file, source).context(|| format!("cannot write {}", file.display()))?;
        let manifest = self.root.join(MODEL).join("Cargo.toml");
        let arguments = ["build", "--locked", "--manifest-path"].map(OsStr::new);
        let folders = [manifest.as_os_str(), OsStr::new("--target-dir"), target().as_os_str()].map(OsStr::to_owned);
        let built = workspace::build(arguments.map(OsStr::to_owned).into_iter().chain(folders))?;
        let program = built.into_iter().find(|built| built.target == "ring-model");
        let program = program.ok_or_else(|| Failure::new(format!("{MODEL} builds no program")))?.path;

        let output = Command::new(&program).arg("--source").stdin(Stdio::null()).output();
        let output = output.context(|| format!("cannot run {}", program.display()))?;
        if output.stdout != source.as_bytes() {
            return Err(Failure::new(format!("{} is not built from {}", program.display(), file.display())));
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
    /// The line, counted from 1, and what is in it.
    line: usize,
    code: &'s str,
}

impl Ordering<'_> {
    fn weaken(&self, source: &str) -> String {
        let (before, after) = source.split_at(self.at);
        format!("{before}Relaxed{}", &after[self.name.len()..])
    }
}

/// Each in the order of the source, whatever stands before the name; comments are not code.
fn orderings(source: &str) -> Vec<Ordering<'_>> {
    let mut found = Vec::new();
    let mut start = 0;
    for (index, line) in source.split_inclusive('\n').enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        let is_part_of_word = |c: char| c.is_alphanumeric() || c == '_';
        for name in STRONG {
            for (at, _) in code.match_indices(name) {
                let (before, after) = (&code[..at], &code[at + name.len()..]);
                if !before.ends_with(is_part_of_word) && !after.starts_with(is_part_of_word) {
                    found.push(Ordering { at: start + at, name, line: index + 1, code: code.trim() });
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
    workspace::kept("ring-model").join("build")
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
        let source = "use Ordering::{Acquire, Relaxed};\n// Release\na.load(Acquire); b.store(1, Ordering::Release); // SeqCst\nReleased();\n";
        let found = orderings(source);
        let places: Vec<(usize, &str)> = found.iter().map(|ordering| (ordering.line, ordering.name)).collect();
        assert_eq!(places, [(1, "Acquire"), (3, "Acquire"), (3, "Release")]);
        assert_eq!(found[2].weaken(source), source.replace("Ordering::Release", "Ordering::Relaxed"));
    }

    #[test]
    fn the_message_of_a_panic_is_the_line_behind_its_place() {
        let output = "\nthread 'main' panicked at src/ring/kernel.rs:53:9:\nread too early\nnote: run with\n";
        assert_eq!(panic_message(output), "read too early");
    }
}
