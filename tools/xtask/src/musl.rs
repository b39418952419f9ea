// SPDX-License-Identifier: MIT OR Apache-2.0
//! The standard library for static programs: the target `x86_64-unknown-linux-musl`.
//!
//! A toolchain may have it, or rustup may add it. Where neither is so, it is built under `target/musl`, and the toolchain
//! stays as it is: from Debian's source package of the compiler's own version, for Debian's musl.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::archive::{self, Package, Suite};
use crate::failure::{Context, Failure, Result};
use crate::packages;
use crate::workspace;

pub(crate) const TARGET: &str = "x86_64-unknown-linux-musl";

/// The suites that have compilers, those of released systems first.
const RUST_SUITES: [&str; 4] = ["trixie", "trixie-backports", "bookworm", "sid"];

/// The suite whose musl is taken: the first with 1.2.5, the version that Rust's own std for musl is made for.
const MUSL_SUITE: &str = "trixie";

/// A crate with nothing in it, that has std built for it.
const NOTHING: &str = "[workspace]\n[package]\nname = \"nothing\"\nedition = \"2024\"\n[lib]\npath = \"nothing.rs\"\n[profile.release]\npanic = \"abort\"\n";

/// Where the compiler finds the target's standard library; `None` where it has it of its own.
///
/// One that was built here is for programs with `panic = "abort"`: there is no unwinder with it.
pub(crate) fn sysroot() -> Result<Option<PathBuf>> {
    let toolchain = PathBuf::from(rustc(&["--print", "sysroot"])?);
    if has_std(&toolchain) {
        return Ok(None);
    }
    if let Some(rustup) = packages::find("rustup") {
        eprintln!("adding the target {TARGET} with rustup");
        let added = Command::new(rustup)
            .args(["target", "add", TARGET])
            .current_dir(workspace::root())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        // Where it cannot, the other way is left, and says what fails.
        if added.is_ok_and(|status| status.success()) && has_std(&toolchain) {
            return Ok(None);
        }
    }
    built(&toolchain).map(Some)
}

/// What `rustc` says of itself.
fn rustc(arguments: &[&str]) -> Result<String> {
    let output = archive::text(Command::new(compiler()).args(arguments).current_dir(workspace::root()))?;
    Ok(output.trim().to_owned())
}

fn compiler() -> OsString {
    env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())
}

/// The folder of the target's libraries in a sysroot.
fn libraries(sysroot: &Path) -> PathBuf {
    sysroot.join("lib/rustlib").join(TARGET).join("lib")
}

fn has_std(sysroot: &Path) -> bool {
    let files = fs::read_dir(libraries(sysroot)).into_iter().flatten().flatten();
    files.map(|file| file.file_name()).any(|name| {
        let name = name.to_string_lossy();
        name.starts_with("libstd-") && name.ends_with(".rlib")
    })
}

/// The sysroot of our own, built where it is not there yet.
fn built(toolchain: &Path) -> Result<PathBuf> {
    let version = rustc(&["--version"])?;
    // `rustc 1.95.0 (59807616e 2026-04-14)`
    let version = version.split(' ').nth(1).unwrap_or_default();
    let folder = workspace::kept("musl").join(version);
    if archive::is_whole(&folder) {
        return Ok(folder);
    }
    packages::need(&[packages::CC])?;
    let whole = archive::whole_folder(&folder, |draft| {
        let unpacked = draft.join("unpacked");
        fetch_source(version, &unpacked)?;
        fetch_musl(&unpacked)?;
        lay_out_musl(&unpacked.join("usr/lib/x86_64-linux-musl"), &libraries(draft).join("self-contained"))?;
        eprintln!("building std of Rust {version} for {TARGET}");
        build_std(toolchain, &unpacked.join("usr/src").join(format!("rustc-{version}/library")), draft)?;
        fs::remove_dir_all(&unpacked).context(|| format!("cannot remove {}", unpacked.display()))?;
        Ok(true)
    })?;
    if whole { Ok(folder) } else { Err(Failure::new(format!("{} could not be filled", folder.display()))) }
}

/// Unpacks the source of the compiler's own version.
fn fetch_source(version: &str, to: &Path) -> Result<()> {
    for name in RUST_SUITES {
        let suite = Suite::open(name)?;
        let choose = |suite: &Suite| Ok(of_version(suite.packages(|name| name == "rust-src")?, version));
        if suite.unpack(choose, to)? {
            return Ok(());
        }
    }
    Err(Failure::new(format!(
        "std for {TARGET} is not here, and Debian has no source of Rust {version} to build it from: run `rustup target add {TARGET}`"
    )))
}

/// The package of this version of Rust: `1.85.1+dfsg1-1` is one of 1.85.1.
fn of_version(packages: Vec<Package>, version: &str) -> Option<Vec<Package>> {
    let is_of = |package: &Package| package.version.split(['+', '-', '~']).next() == Some(version);
    packages.into_iter().find(is_of).map(|package| vec![package])
}

fn fetch_musl(to: &Path) -> Result<()> {
    let suite = Suite::open(MUSL_SUITE)?;
    let choose = |suite: &Suite| Ok(suite.packages(|name| name == "musl-dev")?.pop().map(|package| vec![package]));
    if suite.unpack(choose, to)? { Ok(()) } else { Err(Failure::new(format!("{MUSL_SUITE} has no musl-dev"))) }
}

/// Puts the files that every program is linked with where the compiler looks for them.
fn lay_out_musl(musl: &Path, to: &Path) -> Result<()> {
    workspace::folder(to)?;
    let copy = |from: &Path, name: &str| {
        fs::copy(from, to.join(name)).map(drop).context(|| format!("cannot copy {}", from.display()))
    };
    for name in ["crt1.o", "rcrt1.o", "Scrt1.o", "crti.o", "crtn.o", "libc.a"] {
        copy(&musl.join(name), name)?;
    }
    for name in ["crtbegin.o", "crtbeginS.o", "crtbeginT.o", "crtend.o", "crtendS.o"] {
        let path = archive::text(Command::new("cc").arg(format!("-print-file-name={name}")))?;
        copy(Path::new(path.trim()), name)?;
    }
    // std names the unwinder's library; nobody calls it where a panic aborts. This is an archive with nothing in it.
    let unwinder = to.join("libunwind.a");
    fs::write(&unwinder, "!<arch>\n").context(|| format!("cannot write {}", unwinder.display()))
}

/// Builds std from `library` into the sysroot.
fn build_std(toolchain: &Path, library: &Path, sysroot: &Path) -> Result<()> {
    let work = sysroot.join("unpacked/nothing");
    workspace::folder(&work)?;
    let link = |to: &Path, at: &Path| {
        workspace::folder(at.parent().unwrap_or(at))?;
        symlink(to, at).context(|| format!("cannot make {}", at.display()))
    };
    // Cargo looks for the source where the compiler says that its sysroot is, and build scripts want the host's std there.
    link(library, &sysroot.join("lib/rustlib/src/rust/library"))?;
    let host = rustc(&["-vV"])?;
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
    link(&toolchain.join("lib/rustlib").join(host), &sysroot.join("lib/rustlib").join(host))?;

    // Cargo leaves the bitcode out that link-time optimisation wants; and `panic_abort` is to be what it is for.
    let wrapper = work.join("rustc");
    let script = format!(
        "#!/bin/sh\nrustc=$1; shift\nexec \"$rustc\" --sysroot '{}' \"$@\" -C embed-bitcode=yes\n",
        sysroot.display()
    );
    let write = |name: &Path, text: &str| fs::write(name, text).context(|| format!("cannot write {}", name.display()));
    write(&wrapper, &script)?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))
        .context(|| format!("cannot make {} a program", wrapper.display()))?;
    write(&work.join("Cargo.toml"), NOTHING)?;
    write(&work.join("nothing.rs"), "")?;
    // The compiler lets nobody but itself build std, unless this is set. No backtraces: they would be most of a program.
    archive::text(
        workspace::cargo()
            .current_dir(&work)
            .args(["build", "--release", "--target", TARGET, "--target-dir"])
            .arg(work.join("target"))
            .args(["-Zbuild-std=std,panic_abort", "-Zbuild-std-features="])
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTC_WRAPPER", &wrapper)
            .env_remove("RUSTFLAGS"),
    )?;
    let made = work.join("target").join(TARGET).join("release/deps");
    let files = fs::read_dir(&made).context(|| format!("cannot read {}", made.display()))?;
    for file in files {
        let file = file.context(|| format!("cannot read {}", made.display()))?.path();
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".rlib") && !name.starts_with("libnothing") {
            fs::copy(&file, libraries(sysroot).join(name)).context(|| format!("cannot copy {}", file.display()))?;
        }
    }
    for link in ["src/rust/library", host] {
        let link = sysroot.join("lib/rustlib").join(link);
        fs::remove_file(&link).context(|| format!("cannot remove {}", link.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::of_version;
    use crate::archive::Package;

    #[test]
    fn a_source_package_is_of_the_compilers_version_or_of_none() {
        let package = |version: &str| Package { version: version.to_owned(), ..Package::default() };
        let all = || ["1.85.1+dfsg1-1", "1.95.0+dfsg1-2~bpo13+1", "1.9-1"].map(package).to_vec();
        let version = |wanted| of_version(all(), wanted).map(|found| found[0].version.clone());
        assert_eq!(version("1.95.0").as_deref(), Some("1.95.0+dfsg1-2~bpo13+1"));
        assert_eq!(version("1.9").as_deref(), Some("1.9-1"));
        assert_eq!(version("1.95.1"), None);
    }
}
