// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finds what this machine can test, so that a test that cannot run here is ignored with its reason; cuts the programs out
//! of the README, for `examples/readme-*.rs` to be that very text; and compiles the C program of ABI.md.
//!
//! | cfg | means |
//! |---|---|
//! | `have_cc` | a C compiler whose programs run here; its command is in `ABI_CC` at compile time |
//! | `have_headers` | kernel headers in `target/headers/SERIES/usr/include`; the folders are in `ABI_HEADERS` |
//! | `have_add_dev` | ABI.md's C program was compiled, with liburing in `target/liburing/SUITE/usr`; `ADD_DEV_SAID` is what the compiler said |
//! | `have_io_uring` | this process may set up a ring |
//! | `have_ublk` | the ublk driver is there: `/dev/ublk-control` |
//!
//! The last two are not watched while they are missing: after `modprobe ublk_drv`, touch this file.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

const CONTROL_DEVICE: &str = "/dev/ublk-control";

/// Each is the comment `<!-- NAME -->` in the README, on the line above a block of Rust.
const README_PROGRAMS: [&str; 4] = ["readme-type", "readme-closure", "readme-poll", "readme-block-on"];

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    for name in ["have_cc", "have_headers", "have_add_dev", "have_io_uring", "have_ublk"] {
        println!("cargo::rustc-check-cfg=cfg({name})");
    }

    println!("cargo::rerun-if-changed=README.md");
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md"))?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("cargo says OUT_DIR"))?);
    for name in README_PROGRAMS {
        let program = program_of(&readme, name, "rust,no_run")
            .ok_or_else(|| io::Error::other(format!("README.md has no {name}")))?;
        fs::write(out.join(format!("{name}.rs")), program)?;
    }

    println!("cargo::rerun-if-env-changed=CC");
    let compiler = c_compiler();
    if let Some(compiler) = &compiler {
        println!("cargo::rustc-cfg=have_cc");
        println!("cargo::rustc-env=ABI_CC={compiler}");
    }

    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/headers");
    fs::create_dir_all(&folder)?; // Cargo can watch only what exists.
    println!("cargo::rerun-if-changed={}", folder.display());
    let sets = header_sets(&folder)?;
    if !sets.is_empty() {
        println!("cargo::rustc-cfg=have_headers");
    }
    println!("cargo::rerun-if-changed=ABI.md");
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ABI.md"))?;
    let program = program_of(&text, "add-dev", "c").ok_or_else(|| io::Error::other("ABI.md has no add-dev"))?;
    fs::write(out.join("add-dev.c"), program)?;
    if let (Some(compiler), Some(headers)) = (&compiler, sets.last()) {
        compile_add_dev(compiler, headers, &out)?;
    }
    let sets = env::join_paths(sets).map_err(io::Error::other)?;
    println!("cargo::rustc-env=ABI_HEADERS={}", sets.to_string_lossy());

    if has_io_uring() {
        println!("cargo::rustc-cfg=have_io_uring");
    }
    if Path::new(CONTROL_DEVICE).exists() {
        println!("cargo::rustc-cfg=have_ublk");
        println!("cargo::rerun-if-changed={CONTROL_DEVICE}");
    }
    Ok(())
}

/// The block of a text below the comment with its name.
fn program_of<'t>(text: &'t str, name: &str, language: &str) -> Option<&'t str> {
    let (_, below) = text.split_once(&format!("\n<!-- {name} -->\n```{language}\n"))?;
    let end = below.find("\n```\n")?;
    below.get(..=end)
}

/// Compiles the C program of ABI.md, `add-dev.c`, to the static file `add-dev`, for a test to run. What is wrong with it is the
/// test's to say: the file is empty then.
fn compile_add_dev(compiler: &str, headers: &Path, out: &Path) -> io::Result<()> {
    fs::write(out.join("add-dev"), "")?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/liburing");
    fs::create_dir_all(&folder)?; // Cargo can watch only what exists.
    println!("cargo::rerun-if-changed={}", folder.display());
    let Some(suite) = fs::read_dir(&folder)?.next().transpose()? else { return Ok(()) };
    let liburing = suite.path().join("usr");
    let Some(library) = library_in(&liburing.join("lib"))? else { return Ok(()) };
    let mut words = compiler.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).args(["-Wall", "-Wextra", "-Werror", "-static", "-isystem"]).arg(headers);
    command.arg("-isystem").arg(liburing.join("include"));
    command.arg("-o").arg(out.join("add-dev")).arg(out.join("add-dev.c")).arg(library);
    let output = command.output()?;
    println!("cargo::rustc-cfg=have_add_dev");
    // A value has one line.
    let said = String::from_utf8_lossy(&output.stderr).replace('\n', " | ");
    println!("cargo::rustc-env=ADD_DEV_SAID={said}");
    Ok(())
}

/// `liburing.a` in the folder of a machine's libraries.
fn library_in(folder: &Path) -> io::Result<Option<PathBuf>> {
    for machine in fs::read_dir(folder)? {
        let library = machine?.path().join("liburing.a");
        if library.is_file() {
            return Ok(Some(library));
        }
    }
    Ok(None)
}

/// The command of `CC`, else the first C compiler on the `PATH`. A cross build has none: its programs do not run here.
fn c_compiler() -> Option<String> {
    let host = env::var("HOST").ok()?;
    let target = env::var("CARGO_CFG_TARGET_ARCH").ok()?;
    if host.split('-').next() != Some(&*target) {
        return None;
    }
    if let Some(command) = env::var("CC").ok().filter(|command| !command.trim().is_empty()) {
        return Some(command);
    }
    let path = env::var_os("PATH")?;
    let on_path = |name: &&str| env::split_paths(&path).any(|folder| folder.join(name).is_file());
    ["cc", "gcc", "clang"].into_iter().find(on_path).map(str::to_owned)
}

/// The header folders below `target/headers`, sorted by name.
fn header_sets(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut sets = Vec::new();
    for series in fs::read_dir(folder)? {
        let set = series?.path().join("usr/include");
        if set.join("linux").is_dir() {
            sets.push(set);
        }
    }
    sets.sort();
    Ok(sets)
}

/// Whether this process may set up a ring, as far as files tell.
fn has_io_uring() -> bool {
    match fs::read_to_string("/proc/sys/kernel/io_uring_disabled") {
        Ok(disabled) => match disabled.trim() {
            "0" => true,
            "1" => is_root(),
            _ => false,
        },
        // The file came with Linux 6.6, the system call with 5.1.
        Err(_) => kernel_release().is_some_and(|release| ((5, 1)..(6, 6)).contains(&release)),
    }
}

/// Whether the effective user is root.
fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uids.and_then(|uids| uids.split_whitespace().nth(1)) == Some("0")
}

/// The running kernel's release: `6.12.9-amd64` is `(6, 12)`.
fn kernel_release() -> Option<(u32, u32)> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}
