// SPDX-License-Identifier: MIT OR Apache-2.0
//! The programs that must be on this machine, and the Debian packages that bring them.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::failure::{Context, Failure, Result};

/// A program and the Debian package that it comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    package: &'static str,
}

pub(crate) const QEMU: Program = Program { name: "qemu-system-x86_64", package: "qemu-system-x86" };
pub(crate) const BUSYBOX: Program = Program { name: "busybox", package: "busybox-static" };
pub(crate) const XZ: Program = Program { name: "xz", package: "xz-utils" };
pub(crate) const MKE2FS: Program = Program { name: "mkfs.ext4", package: "e2fsprogs" };
pub(crate) const E2FSCK: Program = Program { name: "e2fsck", package: "e2fsprogs" };
pub(crate) const MKFS_BTRFS: Program = Program { name: "mkfs.btrfs", package: "btrfs-progs" };
pub(crate) const BLKZONE: Program = Program { name: "blkzone", package: "util-linux" };
pub(crate) const MKXFS: Program = Program { name: "mkfs.xfs", package: "xfsprogs" };
pub(crate) const XFS_REPAIR: Program = Program { name: "xfs_repair", package: "xfsprogs" };
pub(crate) const BLKDISCARD: Program = Program { name: "blkdiscard", package: "util-linux" };
pub(crate) const DMSETUP: Program = Program { name: "dmsetup", package: "dmsetup" };
pub(crate) const FIO: Program = Program { name: "fio", package: "fio" };
pub(crate) const STRACE: Program = Program { name: "strace", package: "strace" };
pub(crate) const MANDOC: Program = Program { name: "mandoc", package: "mandoc" };
pub(crate) const CXX: Program = Program { name: "c++", package: "g++" };
pub(crate) const CC: Program = Program { name: "cc", package: "gcc" };

/// Where `name` is, by PATH and by the places that a user's PATH may lack.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    env::split_paths(&path)
        .chain(more.iter().map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// Makes sure that `programs` are there: installs what is missing where it may, else says what to type.
pub(crate) fn need(programs: &[Program]) -> Result<()> {
    let missing = missing(programs);
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if find("apt-get").is_none() {
        return Err(Failure::new(format!(
            "this needs the programs {}: install them with your system's package manager (Debian calls the packages {names})",
            programs
                .iter()
                .filter(|program| find(program.name).is_none())
                .map(|program| program.name)
                .collect::<Vec<_>>()
                .join(", ")
        )));
    }
    if !is_root() {
        return Err(Failure::new(format!("packages are missing; run `sudo apt-get install {names}` and try again")));
    }
    eprintln!("installing {names}");
    apt(&["update"])?;
    let mut install = vec!["install", "-y", "--no-install-recommends"];
    install.extend(&missing);
    apt(&install)
}

/// Whether this process is root's. (The owner of `/proc/self` is the user that the process runs as.)
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|self_| std::os::unix::fs::MetadataExt::uid(&self_) == 0)
}

fn missing(programs: &[Program]) -> Vec<&'static str> {
    let mut packages = Vec::new();
    for program in programs {
        if find(program.name).is_none() && !packages.contains(&program.package) {
            packages.push(program.package);
        }
    }
    // The compiler is of no use without the C library's headers.
    if packages.contains(&CC.package)
        || (programs.iter().any(|p| p.name == CC.name) && !Path::new("/usr/include/stdio.h").exists())
    {
        packages.push("libc6-dev");
    }
    packages
}

fn apt(arguments: &[&str]) -> Result<()> {
    let output = Command::new("apt-get")
        .arg("-q")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .context(|| "cannot run apt-get".to_owned())?;
    if output.status.success() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "`apt-get {}` failed\n{}{}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )))
}
