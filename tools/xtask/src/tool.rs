// SPDX-License-Identifier: MIT OR Apache-2.0
//! The packages under `tools/` that stand by themselves: outside of the workspace, each with a lock file of its own.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::failure::{Context, Failure, Result};
use crate::workspace;

/// The package of the command [`UBLKCTL`].
pub(crate) const UBLK_CLI: &str = "ublk-cli";

/// The command, which is on the PATH of every guest.
pub(crate) const UBLKCTL: &str = "ublkctl";

/// A package under `tools/` that stands by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tool {
    /// Its folder's name.
    pub(crate) name: String,
}

impl Tool {
    /// All that there are, by name.
    pub(crate) fn all() -> Result<Vec<Self>> {
        Self::below(&workspace::root().join("tools"))
    }

    /// The one of that name.
    pub(crate) fn named(name: &str) -> Self {
        Self { name: name.to_owned() }
    }

    fn below(folder: &Path) -> Result<Vec<Self>> {
        let complaint = || format!("cannot read {}", folder.display());
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).context(complaint)? {
            let package = entry.context(complaint)?.path();
            let manifest = package.join("Cargo.toml");
            if !manifest.is_file() {
                continue;
            }
            let text = fs::read_to_string(&manifest).context(|| format!("cannot read {}", manifest.display()))?;
            if stands_by_itself(&text) {
                let name = package.file_name().and_then(|name| name.to_str());
                let name = name.ok_or_else(|| Failure::new(format!("{}: its name is no text", package.display())))?;
                found.push(Self::named(name));
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Cargo, about this package, by its lock file as it is.
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        let mut command = workspace::cargo();
        command.args(self.arguments(subcommand));
        command
    }

    /// What cargo is called with for that. Nothing lands in the source tree.
    pub(crate) fn arguments(&self, subcommand: &str) -> Vec<String> {
        let manifest = format!("tools/{}/Cargo.toml", self.name);
        let arguments = [subcommand, "--manifest-path", &manifest];
        // rustfmt builds nothing, and asks for no dependency.
        let building = ["--locked", "--target-dir", &format!("target/tools/{}", self.name)];
        arguments.into_iter().chain(building.into_iter().filter(|_| subcommand != "fmt")).map(str::to_owned).collect()
    }
}

/// Whether a manifest makes a workspace of its own.
fn stands_by_itself(manifest: &str) -> bool {
    manifest.lines().any(|line| line.trim() == "[workspace]")
}

#[cfg(test)]
mod tests {
    use super::{Tool, stands_by_itself};
    use crate::machine::Scratch;
    use std::fs;

    #[test]
    fn a_package_stands_by_itself_where_its_manifest_has_a_workspace() {
        assert!(stands_by_itself("# a comment\n[workspace]\n\n[package]\nname = \"a\"\n"));
        assert!(!stands_by_itself("[package]\nversion.workspace = true\n# [workspace]\n"));
    }

    #[test]
    fn tools_are_found_by_looking_and_sorted_by_name() {
        let folder = Scratch::new("tools").unwrap();
        for (name, manifest) in [("b", "[workspace]\n"), ("a", "[workspace]\n"), ("member", "[package]\n")] {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("Cargo.toml"), manifest).unwrap();
        }
        fs::create_dir(folder.path().join("no-package")).unwrap();
        assert_eq!(Tool::below(folder.path()).unwrap(), ["a", "b"].map(Tool::named));
    }

    #[test]
    fn the_lock_file_is_not_changed_in_passing() {
        let arguments = Tool::named("a").arguments("clippy");
        assert_eq!(
            arguments,
            ["clippy", "--manifest-path", "tools/a/Cargo.toml", "--locked", "--target-dir", "target/tools/a"]
        );
        assert_eq!(Tool::named("a").arguments("fmt"), ["fmt", "--manifest-path", "tools/a/Cargo.toml"]);
    }
}
