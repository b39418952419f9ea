// SPDX-License-Identifier: MIT OR Apache-2.0
//! The crates for machines of another kind: every assertion of the mirror is evaluated for them, for which nothing has to
//! be linked or run.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::archive;
use crate::failure::{Context, Result};
use crate::packages;
use crate::tally::Tally;
use crate::workspace;

/// A target, and the sentence with which each crate refuses it; `None` where it has to compile.
struct Target {
    name: &'static str,
    kind: &'static str,
    crates: [(&'static str, Option<&'static str>); 2],
}

const NOT_64_BIT: &str = "this crate is for 64-bit Linux";
const NOT_ALIGNED: &str = "ublk-sys is for machines whose 64-bit integers are aligned to 8 bytes";

const TARGETS: [Target; 4] = [
    Target {
        name: "aarch64-unknown-linux-gnu",
        kind: "64-bit, little-endian",
        crates: [("ublk-sys", None), ("ublk", None)],
    },
    Target {
        name: "s390x-unknown-linux-gnu",
        kind: "64-bit, big-endian",
        crates: [("ublk-sys", None), ("ublk", None)],
    },
    Target {
        name: "armv7-unknown-linux-gnueabihf",
        kind: "32-bit, 64-bit integers aligned to 8 bytes",
        crates: [("ublk-sys", None), ("ublk", Some(NOT_64_BIT))],
    },
    Target {
        name: "i686-unknown-linux-gnu",
        kind: "32-bit, 64-bit integers aligned to 4 bytes",
        crates: [("ublk-sys", Some(NOT_ALIGNED)), ("ublk", Some(NOT_ALIGNED))],
    },
];

/// `cargo xtask targets`; returns the exit status.
pub(crate) fn run() -> Result<u8> {
    let mut tally = Tally::default();
    check(&mut tally)?;
    println!("{tally}");
    Ok(u8::from(!tally.failed.is_empty()))
}

/// Checks both crates for every target that can be had; one that cannot is left out, and said to be.
pub(crate) fn check(tally: &mut Tally) -> Result<()> {
    println!("== the crates for other machines");
    for target in &TARGETS {
        if !is_there(target.name)? {
            let reason =
                format!("{}: this toolchain has no std for it, and rustup is not there or cannot add it", target.name);
            println!("left out {reason}");
            tally.left_out.push(reason);
            continue;
        }
        for (package, refusal) in target.crates {
            let mut command = workspace::cargo();
            command
                .args(["check", "--quiet", "--package", package, "--target", target.name, "--target-dir"])
                .arg(workspace::kept("targets"));
            let output = command.stdin(Stdio::null()).output().context(|| "cannot run cargo".to_owned())?;
            let said = String::from_utf8_lossy(&output.stderr);
            let as_wanted = match refusal {
                None => output.status.success(),
                Some(sentence) => !output.status.success() && is_alone(&said, sentence),
            };
            let verdict = if refusal.is_some() { "is refused in one sentence" } else { "compiles" };
            let name = format!("{package} {verdict} for {} ({})", target.name, target.kind);
            println!("{} {name}", if as_wanted { "ok" } else { "FAILED" });
            if !as_wanted {
                println!("{said}");
            }
            tally.count(&name, as_wanted);
        }
    }
    Ok(())
}

/// Whether the compiler says this, and no other error but that it ends.
fn is_alone(said: &str, sentence: &str) -> bool {
    let mut errors = said.lines().filter(|line| line.starts_with("error"));
    errors.next().is_some_and(|error| error.ends_with(sentence))
        && errors.all(|error| error.starts_with("error: could not compile"))
}

/// Whether the toolchain has the target's libraries, or rustup could add them.
fn is_there(target: &str) -> Result<bool> {
    if has_std(target)? {
        return Ok(true);
    }
    let Some(rustup) = packages::find("rustup") else { return Ok(false) };
    eprintln!("adding the target {target} with rustup");
    let mut add = Command::new(rustup);
    add.args(["target", "add", target]).current_dir(workspace::root());
    let added = add.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    Ok(added.is_ok_and(|status| status.success()) && has_std(target)?)
}

/// Both crates are checked as they are by default, which takes std.
fn has_std(target: &str) -> Result<bool> {
    let libraries = ["--print", "target-libdir", "--target", target];
    let folder = archive::text(Command::new(compiler()).args(libraries).current_dir(workspace::root()))?;
    let files = fs::read_dir(PathBuf::from(folder.trim())).into_iter().flatten().flatten();
    Ok(files.map(|file| file.file_name()).any(|name| name.to_string_lossy().starts_with("libstd-")))
}

fn compiler() -> std::ffi::OsString {
    std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())
}

#[cfg(test)]
mod tests {
    use super::is_alone;

    #[test]
    fn a_refusal_is_one_sentence_and_no_other_error() {
        let end = "error: could not compile `ublk` (lib) due to 1 previous error";
        assert!(is_alone(&format!("error[E0080]: evaluation panicked: no\n  --> here\n{end}"), "no"));
        assert!(!is_alone(&format!("error[E0080]: evaluation panicked: no\nerror[E0277]: more\n{end}"), "no"));
        assert!(!is_alone(end, "no"));
        assert!(!is_alone("", "no"));
    }
}
