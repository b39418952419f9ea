// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's whole file system, packed for the kernel to unpack at boot.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufWriter, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::archive;
use crate::cpio;
use crate::failure::{Context, Failure, Result};
use crate::packages;

/// Programs here come first on the guest's PATH.
const PROGRAMS: &str = "usr/local/bin";

/// A file system being put together. Later entries replace earlier ones at the same path.
#[derive(Debug, Default)]
pub(crate) struct Initramfs {
    entries: BTreeMap<String, Entry>,
    /// Host programs whose libraries are packed already.
    resolved: BTreeSet<PathBuf>,
}

#[derive(Clone, Debug)]
enum Entry {
    Directory,
    Link(Vec<u8>),
    Bytes { mode: u32, bytes: Vec<u8> },
    Copy { mode: u32, from: PathBuf },
}

impl Initramfs {
    /// Busybox under all its names, a shell, and the folders that programs expect.
    pub(crate) fn with_busybox() -> Result<Self> {
        let mut tree = Self::default();
        for (link, target) in [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")] {
            tree.entries.insert(link.to_owned(), Entry::Link(target.into()));
        }
        for folder in ["dev", "proc", "sys", "run", "tmp", "mnt", "root", "var/tmp", "usr/bin", "usr/sbin", "usr/lib64"]
        {
            tree.directory(folder);
        }
        let busybox = packages::find(packages::BUSYBOX.name).ok_or_else(|| Failure::new("there is no busybox"))?;
        tree.program(&busybox, "usr/bin/busybox")?;
        for applet in archive::text(Command::new(&busybox).arg("--list"))?.lines() {
            if applet != "busybox" {
                tree.insert(&format!("usr/bin/{applet}"), Entry::Link(b"busybox".to_vec()));
            }
        }
        tree.file("etc/passwd", 0o644, b"root::0:0:root:/root:/bin/sh\n".to_vec());
        tree.file("etc/group", 0o644, b"root:x:0:\n".to_vec());
        tree.insert("etc/mtab", Entry::Link(b"/proc/mounts".to_vec()));
        Ok(tree)
    }

    pub(crate) fn directory(&mut self, path: &str) {
        self.insert(path, Entry::Directory);
    }

    pub(crate) fn file(&mut self, path: &str, mode: u32, bytes: Vec<u8>) {
        self.insert(path, Entry::Bytes { mode, bytes });
    }

    /// Packs the host's `program` as `path`, with the libraries that it is linked to at the paths where it looks for them.
    pub(crate) fn program(&mut self, program: &Path, path: &str) -> Result<()> {
        let about = fs::metadata(program).context(|| format!("cannot look at {}", program.display()))?;
        self.insert(path, Entry::Copy { mode: about.permissions().mode(), from: program.to_path_buf() });
        self.libraries(program)
    }

    /// Packs `program` so that it is found by its name.
    pub(crate) fn program_on_path(&mut self, program: &Path) -> Result<()> {
        self.program(program, &format!("{PROGRAMS}/{}", name_of(program)?))
    }

    /// What `--add FILE[:GUESTPATH]` asks for.
    ///
    /// Without a path in the guest a thing is packed at its own absolute path; a program is also linked into a folder of
    /// the guest's PATH. A FILE without a slash that is not in the current folder is looked for on PATH.
    pub(crate) fn add(&mut self, wanted: &str) -> Result<()> {
        let (file, guest) = match wanted.rsplit_once(':') {
            Some((file, guest)) if guest.starts_with('/') => (file, Some(guest)),
            _ => (wanted, None),
        };
        let found = if Path::new(file).exists() || file.contains('/') { None } else { packages::find(file) };
        let host = std::path::absolute(found.as_deref().unwrap_or(Path::new(file)))
            .context(|| format!("cannot tell where {file} is"))?;
        let about = fs::metadata(&host).context(|| format!("cannot add {file}"))?;
        let path = match guest {
            Some(guest) => guest.to_owned(),
            None => host.to_str().ok_or_else(|| Failure::new(format!("{file}: its path is no text")))?.to_owned(),
        };
        if about.is_dir() {
            return self.folder(&host, &path);
        }
        self.program(&host, &path)?;
        if guest.is_none() && about.permissions().mode() & 0o111 != 0 {
            self.insert(&format!("{PROGRAMS}/{}", name_of(&host)?), Entry::Link(path.into_bytes()));
        }
        Ok(())
    }

    /// Packs the host's `folder` and all below it; links stay links.
    pub(crate) fn folder(&mut self, folder: &Path, path: &str) -> Result<()> {
        self.directory(path);
        let entries = fs::read_dir(folder).context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let entry = entry.context(|| format!("cannot read {}", folder.display()))?;
            let host = entry.path();
            let inside = format!("{}/{}", path.trim_end_matches('/'), name_of(&host)?);
            let kind = entry.file_type().context(|| format!("cannot look at {}", host.display()))?;
            if kind.is_dir() {
                self.folder(&host, &inside)?;
            } else if kind.is_symlink() {
                let target = fs::read_link(&host).context(|| format!("cannot read {}", host.display()))?;
                self.insert(&inside, Entry::Link(target.into_os_string().into_vec()));
            } else if kind.is_file() {
                self.program(&host, &inside)?;
            } else {
                return Err(Failure::new(format!("{} is neither file, folder nor link", host.display())));
            }
        }
        Ok(())
    }

    /// Writes the archive and returns its size.
    pub(crate) fn write(&self, to: &Path) -> Result<u64> {
        let complaint = || format!("cannot write {}", to.display());
        let mut writer = cpio::Writer::new(BufWriter::with_capacity(1 << 20, File::create(to).context(complaint)?));
        for (path, entry) in &self.entries {
            match entry {
                Entry::Directory => writer.directory(path),
                Entry::Link(target) => writer.symlink(path, target),
                Entry::Bytes { mode, bytes } => writer.file(path, *mode, bytes),
                Entry::Copy { mode, from } => File::open(from)
                    .and_then(|file| Ok((file.metadata()?.len(), file)))
                    .and_then(|(len_bytes, file)| writer.stream(path, *mode, len_bytes, file)),
            }
            .context(|| format!("cannot pack {path}"))?;
        }
        writer.finish().context(complaint)?;
        Ok(fs::metadata(to).context(complaint)?.len())
    }

    fn insert(&mut self, path: &str, entry: Entry) {
        let path = merged(path);
        let mut folder = path.as_str();
        while let Some((parent, _)) = folder.rsplit_once('/') {
            self.entries.entry(parent.to_owned()).or_insert(Entry::Directory);
            folder = parent;
        }
        if !path.is_empty() {
            self.entries.insert(path, entry);
        }
    }

    fn libraries(&mut self, program: &Path) -> Result<()> {
        if !is_elf(program) || !self.resolved.insert(program.to_path_buf()) {
            return Ok(());
        }
        let output =
            Command::new("ldd").arg(program).stdin(Stdio::null()).output().context(|| "cannot run ldd".to_owned())?;
        if !output.status.success() {
            // A static program, or one of another machine: nothing to bring along.
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stdout);
        for library in libraries(&text) {
            let library = library
                .map_err(|name| Failure::new(format!("{} needs {name}, which is not here", program.display())))?;
            let mode = 0o755;
            self.insert(&library, Entry::Copy { mode, from: PathBuf::from(&library) });
        }
        Ok(())
    }
}

/// The libraries and the loader that `ldd` lists; `Err` for one that it did not find.
fn libraries(ldd: &str) -> impl Iterator<Item = core::result::Result<String, String>> {
    ldd.lines().filter_map(|line| {
        let line = line.trim();
        if let Some((name, rest)) = line.split_once(" => ") {
            if rest.starts_with("not found") {
                return Some(Err(name.to_owned()));
            }
            return Some(Ok(rest.split_once(" (").map_or(rest, |(path, _)| path).to_owned()));
        }
        let (path, _) = line.split_once(" (")?;
        path.starts_with('/').then(|| Ok(path.to_owned()))
    })
}

fn is_elf(file: &Path) -> bool {
    let mut start = [0; 4];
    File::open(file).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == *b"\x7fELF"
}

/// A guest path as the archive spells it: without the leading slash, with `/bin` and its like below `/usr`.
fn merged(path: &str) -> String {
    let path = Path::new(path)
        .components()
        .filter_map(|part| match part {
            std::path::Component::Normal(name) => name.to_str(),
            _ => None,
        })
        .collect::<Vec<_>>()
        .join("/");
    let top = path.split('/').next().unwrap_or_default();
    if ["bin", "sbin", "lib", "lib64"].contains(&top) && path != top { format!("usr/{path}") } else { path }
}

fn name_of(path: &Path) -> Result<&str> {
    let name = path.file_name().and_then(|name| core::str::from_utf8(name.as_bytes()).ok());
    name.ok_or_else(|| Failure::new(format!("{} has no name that could be packed", path.display())))
}

#[cfg(test)]
mod tests {
    use super::{Entry, Initramfs, libraries, merged};

    #[test]
    fn the_loader_and_every_library_are_listed() {
        let ldd = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibz.so.1 => /lib/x/libz.so.1 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n\tlibq.so => not found\n";
        let found: Vec<_> = libraries(ldd).collect();
        assert_eq!(
            found,
            [
                Ok("/lib/x/libz.so.1".to_owned()),
                Ok("/lib64/ld-linux-x86-64.so.2".to_owned()),
                Err("libq.so".to_owned())
            ]
        );
    }

    #[test]
    fn the_guest_is_merged_below_usr() {
        assert_eq!(merged("/bin/sh"), "usr/bin/sh");
        assert_eq!(merged("/lib64//ld.so"), "usr/lib64/ld.so");
        assert_eq!(merged("lib"), "lib");
        assert_eq!(merged("/library/a"), "library/a");
    }

    #[test]
    fn an_entry_brings_the_folders_above_it() {
        let mut tree = Initramfs::default();
        tree.file("/a/b/c", 0o644, Vec::new());
        assert!(matches!(tree.entries["a"], Entry::Directory));
        assert!(matches!(tree.entries["a/b"], Entry::Directory));
        assert!(matches!(tree.entries["a/b/c"], Entry::Bytes { .. }));
    }
}
