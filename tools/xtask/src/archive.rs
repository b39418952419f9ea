// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packages of other Debian suites, fetched and unpacked without touching this machine's own set-up.
//!
//! apt does the work, with lists of its own under `target/`: it knows the mirror, the proxy and the keys, and it verifies
//! what it fetches. No address is written here: a suite is looked for where this machine gets its own packages from.

use core::time::Duration;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};

use crate::failure::{Context, Failure, Result};
use crate::packages;
use crate::workspace;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The file in a folder of fetched things that lists them with their sizes. It is written last.
const SEAL: &str = "whole";

/// How old the list of a suite may be before somebody who wants the newest asks again.
const FRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// A package as the lists describe it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) depends: String,
    pub(crate) len_bytes: u64,
}

/// One suite of the Debian archive, with lists under `target/apt/`.
#[derive(Debug)]
pub(crate) struct Suite {
    name: &'static str,
    folder: PathBuf,
}

impl Suite {
    /// The suite called `name`; its list is fetched where there is none yet.
    pub(crate) fn open(name: &'static str) -> Result<Self> {
        let suite = Self { name, folder: workspace::kept("apt").join(name) };
        if !suite.complete().exists() {
            suite.update()?;
        }
        Ok(suite)
    }

    /// Fetches the list again if it is older than a day.
    pub(crate) fn refresh(&self) -> Result<()> {
        let age =
            fs::metadata(self.complete()).and_then(|file| file.modified()).ok().and_then(|then| then.elapsed().ok());
        if age.is_some_and(|age| age < FRESH) { Ok(()) } else { self.update() }
    }

    /// Every package of the suite that `wanted` likes the name of.
    pub(crate) fn packages(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<Package>> {
        let files =
            text(self.apt("apt-get").args(["indextargets", "--format", "$(FILENAME)", "Created-By: Packages"]))?;
        let mut found = Vec::new();
        for file in files.lines() {
            let list = text(Command::new("/usr/lib/apt/apt-helper").args(["cat-file", file]))?;
            found.extend(stanzas(&list).filter(|package| wanted(&package.name)));
        }
        Ok(found)
    }

    /// Fetches the packages that `choose` picks from the suite and unpacks them all into `to`.
    ///
    /// The list of packages may be old: where it lacks something, or something that it names is gone, it is fetched anew.
    /// Returns false where the suite does not have what is wanted.
    pub(crate) fn unpack(&self, choose: impl Fn(&Self) -> Result<Option<Vec<Package>>>, to: &Path) -> Result<bool> {
        if let Some(packages) = choose(self)? {
            if self.unpack_these(&packages, to).is_ok() {
                return Ok(true);
            }
            self.update()?;
        } else {
            self.refresh()?;
        }
        match choose(self)? {
            Some(packages) => self.unpack_these(&packages, to).map(|()| true),
            None => Ok(false),
        }
    }

    fn unpack_these(&self, packages: &[Package], to: &Path) -> Result<()> {
        let debs = to.join("debs");
        workspace::folder(&debs)?;
        for package in packages {
            eprintln!("fetching {} {} ({})", package.name, package.version, megabytes(package.len_bytes));
        }
        let mut fetch = self.apt("apt-get");
        fetch.current_dir(&debs).arg("download");
        fetch.args(packages.iter().map(|package| format!("{}={}", package.name, package.version)));
        heard(&mut fetch)?;
        for deb in fs::read_dir(&debs).context(|| format!("cannot read {}", debs.display()))? {
            let deb = deb.context(|| format!("cannot read {}", debs.display()))?.path();
            text(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(to))?;
        }
        fs::remove_dir_all(&debs).context(|| format!("cannot remove {}", debs.display()))
    }

    /// Fetches the list of what the suite holds now.
    pub(crate) fn update(&self) -> Result<()> {
        workspace::folder(&self.folder.join("lists/partial"))?;
        workspace::folder(&self.folder.join("archives/partial"))?;
        let address = address(self.name.ends_with("-security"))?;
        let key = if Path::new(KEYRING).exists() { format!("[signed-by={KEYRING}] ") } else { String::new() };
        let source = format!("deb {key}{address} {} main\n", self.name);
        let sources = self.folder.join("sources.list");
        fs::write(&sources, source).context(|| format!("cannot write {}", sources.display()))?;
        eprintln!("fetching the list of packages of {}", self.name);
        heard(self.apt("apt-get").args(["-o", "APT::Update::Error-Mode=any", "update"]))?;
        fs::write(self.complete(), "").context(|| format!("cannot write {}", self.complete().display()))
    }

    fn complete(&self) -> PathBuf {
        self.folder.join("complete")
    }

    /// An apt command that knows this suite only. Two of them wait for each other, where `flock` is at hand.
    fn apt(&self, program: &str) -> Command {
        let mut command = match packages::find("flock") {
            Some(flock) => {
                let mut command = Command::new(flock);
                command.arg(self.folder.join("lock")).arg(program);
                command
            }
            None => Command::new(program),
        };
        for (option, value) in [
            ("Dir::State::Lists", self.folder.join("lists").into_os_string()),
            ("Dir::Etc::SourceList", self.folder.join("sources.list").into_os_string()),
            ("Dir::Etc::SourceParts", "/dev/null".into()),
            ("Dir::Cache::archives", self.folder.join("archives").into_os_string()),
            ("Dir::Cache::pkgcache", OsString::new()),
            ("Dir::Cache::srcpkgcache", OsString::new()),
            ("APT::Sandbox::User", "root".into()),
            // Only the list of packages is wanted: no descriptions, no icons, nobody told about it.
            ("Acquire::Languages", "none".into()),
            ("Acquire::IndexTargets::deb::DEP-11::DefaultEnabled", "false".into()),
            ("APT::Update::Post-Invoke-Success", OsString::new()),
        ] {
            let mut argument = OsString::from(option);
            argument.push("=");
            argument.push(value);
            command.arg("-o").arg(argument);
        }
        command
    }
}

/// Where this machine gets its Debian packages from.
fn address(security: bool) -> Result<String> {
    if packages::find("apt-get").is_none() || packages::find("dpkg-deb").is_none() {
        return Err(Failure::new(
            "kernels are fetched with Debian's apt, which is not here: give one of your own with `--kernel-image FILE --modules DIR`, or use `--kernel host`",
        ));
    }
    let ask = ["indextargets", "--format", "$(ORIGIN) $(CODENAME) $(REPO_URI)", "Created-By: Packages"];
    let mut targets = text(Command::new("apt-get").args(ask))?;
    if targets.trim().is_empty() {
        // A bare machine has sources and no lists yet; apt tells of neither until it has fetched them.
        let folder = workspace::kept("apt/own");
        workspace::folder(&folder.join("lists/partial"))?;
        let lists = format!("Dir::State::Lists={}", folder.join("lists").display());
        let options = [
            "-o",
            &lists,
            "-o",
            "APT::Sandbox::User=root",
            "-o",
            "Dir::Cache::pkgcache=",
            "-o",
            "Dir::Cache::srcpkgcache=",
            "-o",
            "Acquire::Languages=none",
        ];
        eprintln!("fetching the list of this machine's packages");
        heard(Command::new("apt-get").args(options).arg("update"))?;
        targets = text(Command::new("apt-get").args(options).args(ask))?;
    }
    choose_address(&targets, security).ok_or_else(|| {
        Failure::new(
            "this machine's apt has no Debian archive among its sources, so no kernel can be fetched: \
             give one of your own with `--kernel-image FILE --modules DIR`, or use `--kernel host`",
        )
    })
}

/// Lines of origin, code name and address; the archive of security updates is one of its own.
fn choose_address(targets: &str, security: bool) -> Option<String> {
    targets.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let (origin, codename, address) = (words.next()?, words.next()?, words.next()?);
        (origin == "Debian" && codename.ends_with("-security") == security).then(|| address.to_owned())
    })
}

/// Reads a list of packages.
fn stanzas(list: &str) -> impl Iterator<Item = Package> {
    list.split("\n\n").filter_map(|stanza| {
        let mut package = Package::default();
        for line in stanza.lines() {
            let Some((field, value)) = line.split_once(": ") else { continue };
            match field {
                "Package" => value.clone_into(&mut package.name),
                "Version" => value.clone_into(&mut package.version),
                "Depends" => value.clone_into(&mut package.depends),
                "Size" => package.len_bytes = value.parse().ok()?,
                _ => {}
            }
        }
        (!package.name.is_empty()).then_some(package)
    })
}

fn megabytes(len_bytes: u64) -> String {
    format!("{}.{} MB", len_bytes / 1_000_000, len_bytes / 100_000 % 10)
}

/// Runs a program whose progress the user is to see; its standard output joins our standard error.
fn heard(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .stdout(io::stderr())
        .status()
        .context(|| format!("cannot run {}", command.get_program().to_string_lossy()))?;
    if status.success() { Ok(()) } else { Err(failed(command, &[])) }
}

/// Runs a program that should say nothing unless it fails, and returns what it printed.
pub(crate) fn text(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .context(|| format!("cannot run {}", command.get_program().to_string_lossy()))?;
    if !output.status.success() {
        return Err(failed(command, &output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn failed(command: &Command, complaint: &[u8]) -> Failure {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().map(|argument| argument.to_string_lossy()));
    Failure::new(format!("`{}` failed\n{}", words.join(" "), String::from_utf8_lossy(complaint)))
}

/// A folder that appears whole or not at all: filled in another place, then renamed.
///
/// What an interrupted run left behind is removed, what another run is filling is not. Where `fill` returns false there
/// is nothing to keep, and no folder.
pub(crate) fn whole_folder(folder: &Path, fill: impl FnOnce(&Path) -> Result<bool>) -> Result<bool> {
    let drafts = workspace::kept("drafts");
    workspace::folder(&drafts)?;
    remove_abandoned(&drafts)?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let draft = drafts.join(format!(".{}.{name}", process::id()));
    workspace::folder(&draft)?;
    let filled = fill(&draft);
    if !matches!(filled, Ok(true)) {
        // What cannot be removed now is removed by the next run.
        let _ = fs::remove_dir_all(&draft);
        return filled;
    }
    let seal = draft.join(SEAL);
    fs::write(&seal, contents(&draft)?).context(|| format!("cannot write {}", seal.display()))?;
    if folder.exists() {
        fs::remove_dir_all(folder).context(|| format!("cannot remove {}", folder.display()))?;
    }
    workspace::folder(folder.parent().unwrap_or(folder))?;
    fs::rename(&draft, folder).map(|()| true).context(|| format!("cannot name {}", folder.display()))
}

/// Whether `folder` still holds what it was filled with, by the sizes of its files.
pub(crate) fn is_whole(folder: &Path) -> bool {
    fs::read_to_string(folder.join(SEAL)).is_ok_and(|sealed| contents(folder).is_ok_and(|now| now == sealed))
}

/// One line for each file below `folder`, in order: size and path.
fn contents(folder: &Path) -> Result<String> {
    let mut lines = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).context(|| format!("cannot read {}", next.display()))? {
            let path = entry.context(|| format!("cannot read {}", next.display()))?.path();
            let about = fs::symlink_metadata(&path).context(|| format!("cannot look at {}", path.display()))?;
            if about.is_dir() {
                folders.push(path);
            } else if let Ok(name) = path.strip_prefix(folder) {
                if name != Path::new(SEAL) {
                    lines.push(format!("{} {}\n", about.len(), name.display()));
                }
            }
        }
    }
    lines.sort_unstable();
    Ok(lines.concat())
}

/// Removes the folders `.PID.NAME` in `parent` of processes that are no more.
pub(crate) fn remove_abandoned(parent: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(parent) else { return Ok(()) };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix('.').and_then(|name| name.split_once('.')).map(|(owner, _)| owner);
        if let Some(owner) = owner.filter(|owner| owner.parse::<u32>().is_ok()) {
            if !Path::new("/proc").join(owner).exists() {
                fs::remove_dir_all(entry.path()).context(|| format!("cannot remove {}", entry.path().display()))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{choose_address, stanzas};

    #[test]
    fn a_stanza_without_size_is_a_package_too() {
        let list =
            "Package: a\nVersion: 1-2\n\nPackage: b\nVersion: 3\nDepends: c, d\nDescription: has: colons\nSize: 12\n";
        let packages: Vec<_> = stanzas(list).collect();
        assert_eq!(packages.len(), 2);
        assert_eq!((packages[0].name.as_str(), packages[0].version.as_str(), packages[0].len_bytes), ("a", "1-2", 0));
        assert_eq!((packages[1].depends.as_str(), packages[1].len_bytes), ("c, d", 12));
    }

    #[test]
    fn the_security_archive_is_told_from_the_main_one_and_from_strangers() {
        let targets = "Acme stable http://acme/\nDebian bookworm http://mirror/debian/\nDebian bookworm-security http://mirror/s/\n";
        assert_eq!(choose_address(targets, false).as_deref(), Some("http://mirror/debian/"));
        assert_eq!(choose_address(targets, true).as_deref(), Some("http://mirror/s/"));
        assert_eq!(choose_address("Acme stable http://acme/", false), None);
    }
}
