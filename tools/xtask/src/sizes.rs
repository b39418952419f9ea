// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask sizes`: the null servers and `ublkctl` as static files, how large they are, and what they may not be.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use crate::failure::{Context, Failure, Result};
use crate::musl::{self, TARGET};
use crate::tally::Tally;
use crate::tool::{self, Tool};
use crate::workspace;

/// Nothing unwinds in a program with `panic = "abort"`, so the tables go (`small.ld`), and the headers of code and data
/// share their pages.
const SMALL: &str = "-z,noseparate-code";

/// What is read-only after relocation would start at a page of its own: up to 4 KiB of nothing in the file.
const NO_RELRO: &str = "-Crelro-level=off";

/// In the words of the programs with `std`; their function comes before the unwinder's, which is there too.
const NO_BACKTRACE: [&str; 2] = ["--cfg=no_backtrace", "-Clink-arg=-Wl,-z,muldefs"];

/// The server without std.
const NO_STD: &str = "null-no-std";

/// What the panic handler of the server without std calls, and nobody defines.
const REACHABLE: &str = "a_panic_is_reachable";

/// A program as one static file, and what was promised of it.
#[derive(Debug)]
pub(crate) struct StaticProgram {
    name: &'static str,
    pub(crate) path: PathBuf,
    most_bytes: u64,
    panics: &'static str,
}

impl StaticProgram {
    fn bytes(&self) -> Result<u64> {
        fs::metadata(&self.path).map(|about| about.len()).context(|| format!("cannot look at {}", self.path.display()))
    }

    /// Says what it is, and whether that is what was promised.
    fn check(&self) -> Result<bool> {
        let kib = |bytes: u64| format!("{}.{}", bytes / 1024, (bytes % 1024) * 10 / 1024);
        let (bytes, linked) = (self.bytes()?, is_static(&self.path)?);
        let kept = bytes <= self.most_bytes && linked;
        println!(
            "{} {:12} {:>6} KiB (at most {} KiB), {}, {}",
            if kept { "ok" } else { "FAILED" },
            self.name,
            kib(bytes),
            self.most_bytes / 1024,
            if linked { "static" } else { "not static" },
            self.panics
        );
        Ok(kept)
    }
}

/// Builds both servers, and `ublkctl`.
pub(crate) fn build() -> Result<[StaticProgram; 3]> {
    let flags = [rustflags(&NO_BACKTRACE)?, rustflags(&[])?];
    // Without the sentences that explain a refusal.
    let features = ["--no-default-features", "--features", "std"];
    let with_std = ["build", "--package", "ublk", "--example", "null", "--profile", "small"];
    let with_std = with_std.into_iter().chain(features).map(str::to_owned).collect();
    let released = |tool: &str| {
        let mut arguments = Tool::named(tool).arguments("build");
        arguments.extend(["--release", "--bins"].map(str::to_owned));
        arguments
    };
    Ok([
        StaticProgram {
            name: "null",
            path: built("null", with_std, &flags[0])?,
            most_bytes: 408 << 10,
            panics: "panic=abort: a panic says where, and ends the process",
        },
        StaticProgram {
            name: NO_STD,
            path: built(NO_STD, released(NO_STD), &flags[1])?,
            most_bytes: 72 << 10,
            panics: "panic=abort: no panic can be reached, or it would not link",
        },
        StaticProgram {
            name: tool::UBLKCTL,
            path: built(tool::UBLKCTL, released(tool::UBLK_CLI), &flags[0])?,
            most_bytes: 1 << 20,
            panics: "panic=abort: a panic says where, and ends the process",
        },
    ])
}

/// The checks alone.
pub(crate) fn run() -> Result<u8> {
    let mut tally = Tally::default();
    check(&mut tally)?;
    Ok(u8::from(!tally.failed.is_empty()))
}

/// The sizes, and what links and what does not, as checks.
pub(crate) fn check(tally: &mut Tally) -> Result<()> {
    println!("== the null servers and ublkctl as static files");
    let started = Instant::now();
    for program in build()? {
        tally.count(&format!("{} is static and small", program.name), program.check()?);
    }
    let undefined = format!("undefined reference to `{REACHABLE}'");
    let everything = complaint_about("everything")?;
    let panic = complaint_about("panic")?;
    let links = [
        ("everything that `ublk` has without std links without a panic", everything.is_none()),
        ("a panic that can be reached does not link", panic.is_some_and(|complaint| complaint.contains(&undefined))),
    ];
    for (name, holds) in links {
        println!("{} {name}", if holds { "ok" } else { "FAILED" });
        tally.count(name, holds);
    }
    if let Some(complaint) = everything {
        println!("{complaint}");
    }
    println!("{:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// What cargo says against the server without std with this feature of it; `None` where it links.
fn complaint_about(feature: &str) -> Result<Option<String>> {
    // In a profile of its own, so that the server that is to be measured stays where it is.
    let output = Tool::named(NO_STD)
        .cargo("build")
        .args(["--profile", "checked", "--target", TARGET, "--features", feature, "--config", &rustflags(&[])?])
        .stdin(Stdio::null())
        .output()
        .context(|| "cannot run cargo".to_owned())?;
    Ok((!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned()))
}

/// Cargo's setting that makes the target's programs small, and finds its standard library.
fn rustflags(more: &[&str]) -> Result<String> {
    let script = workspace::root().join("tools/xtask/src/small.ld");
    let mut flags = vec![format!("-Clink-arg=-Wl,{SMALL},-T,{}", text(&script)?), NO_RELRO.to_owned()];
    flags.extend(more.iter().map(|flag| (*flag).to_owned()));
    if let Some(sysroot) = musl::sysroot()? {
        flags.push(format!("--sysroot={}", text(&sysroot)?));
    }
    // A list of strings in Rust's notation is one in TOML's.
    Ok(format!("target.{TARGET}.rustflags={flags:?}"))
}

fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| Failure::new(format!("{}: its path is no text", path.display())))
}

/// The program of that name that cargo builds when it is called so, for the target and with these flags.
fn built(name: &str, arguments: Vec<String>, flags: &str) -> Result<PathBuf> {
    let for_target = ["--target", TARGET, "--config", flags].map(str::to_owned);
    let programs = workspace::build(arguments.into_iter().chain(for_target))?;
    let program = programs.into_iter().find(|program| program.target == name);
    program.map(|program| program.path).ok_or_else(|| Failure::new(format!("cargo built no {name}")))
}

/// Whether a program asks for no loader, which is who brings libraries.
fn is_static(program: &Path) -> Result<bool> {
    let bytes = fs::read(program).context(|| format!("cannot read {}", program.display()))?;
    let types = segment_types(&bytes).ok_or_else(|| Failure::new(format!("{} is no ELF file", program.display())))?;
    Ok(!types.contains(&PT_INTERP))
}

const PT_INTERP: u32 = 3;

/// The types of a 64-bit little-endian ELF file's segments.
fn segment_types(file: &[u8]) -> Option<Vec<u32>> {
    let number = |at: usize, len: usize| {
        let bytes = file.get(at..at.checked_add(len)?)?;
        bytes.iter().rev().try_fold(0_usize, |number, byte| Some(number.checked_mul(256)? + usize::from(*byte)))
    };
    if file.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (start, entry_bytes, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    (0..count).map(|index| number(start.checked_add(index * entry_bytes)?, 4)?.try_into().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::{PT_INTERP, segment_types};

    #[test]
    fn this_dynamic_program_asks_for_a_loader() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let types = segment_types(&own).unwrap();
        assert_eq!(types.contains(&PT_INTERP), cfg!(not(target_feature = "crt-static")));
    }

    #[test]
    fn what_is_cut_off_or_no_elf_file_has_no_segments() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert_eq!(segment_types(&own[..100]), None);
        assert_eq!(segment_types(b"#!/bin/sh\n"), None);
    }
}
