// SPDX-License-Identifier: MIT OR Apache-2.0
//! The oldest compiler that the project promises to build with: Debian's own rustc of that version, unpacked.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::archive::{self, Package, Suite};
use crate::failure::{Context, Failure, Result};
use crate::workspace;

/// `rust-version` in the workspace's `Cargo.toml`.
const VERSION: &str = "1.85";

/// The suite that has it; built for an older C library than the next Debian's, it runs on both.
const SUITE: &str = "bookworm";

/// Libraries that every machine with a compiler has.
const EVERYWHERE: [&str; 3] = ["libc6", "libgcc-s1", "libstdc++6"];

/// A command that runs the compiler; fetched where it is not there yet.
pub(crate) fn compiler() -> Result<PathBuf> {
    let folder = workspace::kept("msrv").join(VERSION);
    if !archive::is_whole(&folder) {
        let suite = Suite::open(SUITE)?;
        let found = archive::whole_folder(&folder, |draft| {
            let found = suite.unpack(packages, draft)?;
            if found { trim(draft).map(|()| true) } else { Ok(false) }
        })?;
        if !found {
            return Err(Failure::new(format!("{SUITE} has no rustc {VERSION}")));
        }
    }
    wrapper(&folder)
}

/// The compiler, its library, and the libraries that it needs and this machine lacks.
fn packages(suite: &Suite) -> Result<Option<Vec<Package>>> {
    let all = suite.packages(|name| name.starts_with("lib") || name == "rustc-web")?;
    let is_ours = |package: &&Package| package.version.starts_with(&format!("{VERSION}."));
    let find = |name: &str| {
        let mut candidates = all.iter().filter(|package| package.name == name);
        if name.contains("rust") { candidates.find(is_ours) } else { candidates.next_back() }
    };
    let Some(compiler) = find("rustc-web") else { return Ok(None) };
    let mut wanted = vec![compiler.clone()];
    let mut next = 0;
    while let Some(package) = wanted.get(next) {
        for name in dependencies(&package.depends) {
            if wanted.iter().any(|package| package.name == name)
                || !name.starts_with("lib")
                || EVERYWHERE.contains(&name.as_str())
            {
                continue;
            }
            if let Some(package) = find(&name).filter(|_| !is_installed(&name)) {
                wanted.push(package.clone());
            }
        }
        next += 1;
    }
    Ok(Some(wanted))
}

/// The names in `a (>= 1), b | c`, of alternatives the first.
fn dependencies(depends: &str) -> Vec<String> {
    let name = |one: &str| one.split([' ', '|', ':']).find(|word| !word.is_empty()).map(str::to_owned);
    depends.split(',').filter_map(name).collect()
}

fn is_installed(package: &str) -> bool {
    let output = Command::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Status}\n", package])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    output.is_ok_and(|output| output.stdout.starts_with(b"installed"))
}

/// Removes what a compiler does not need.
fn trim(folder: &Path) -> Result<()> {
    let unneeded = folder.join("usr/share");
    if unneeded.exists() {
        fs::remove_dir_all(&unneeded).context(|| format!("cannot remove {}", unneeded.display()))?;
    }
    Ok(())
}

/// A script that runs the compiler in `folder` with the libraries there; written anew each time, as folders move.
fn wrapper(folder: &Path) -> Result<PathBuf> {
    let script = workspace::kept("msrv").join(format!("rustc-{VERSION}"));
    let text = format!(
        "#!/bin/sh\nLD_LIBRARY_PATH='{0}/usr/lib/x86_64-linux-gnu:{0}/lib/x86_64-linux-gnu' exec '{0}/usr/bin/rustc' --sysroot '{0}/usr' \"$@\"\n",
        folder.display()
    );
    if fs::read_to_string(&script).is_ok_and(|old| old == text) {
        return Ok(script);
    }
    let written =
        fs::write(&script, text).and_then(|()| fs::set_permissions(&script, fs::Permissions::from_mode(0o755)));
    written.context(|| format!("cannot write {}", script.display()))?;
    Ok(script)
}

#[cfg(test)]
mod tests {
    use super::{VERSION, dependencies};

    #[test]
    fn a_dependency_is_a_name_without_its_version() {
        let names = dependencies("libc6 (>= 2.34), gcc:amd64, libllvm19, a | b (= 1)");
        assert_eq!(names, ["libc6", "gcc", "libllvm19", "a"]);
    }

    #[test]
    fn the_version_is_the_one_that_the_workspace_promises() {
        let manifest = include_str!("../../../Cargo.toml");
        assert!(manifest.contains(&format!("rust-version = \"{VERSION}\"")));
    }
}
