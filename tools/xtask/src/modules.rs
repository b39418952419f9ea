// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kernel modules: where they are, what they need first, and their bytes as `insmod` wants them.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::failure::{Context, Failure, Result};

/// The modules below a folder, by name.
#[derive(Debug, Default)]
pub(crate) struct Modules {
    files: HashMap<String, PathBuf>,
}

impl Modules {
    pub(crate) fn below(folder: &Path) -> Result<Self> {
        let mut files = HashMap::new();
        let mut folders = vec![folder.to_path_buf()];
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(&next).context(|| format!("cannot read {}", next.display()))?.flatten() {
                let path = entry.path();
                // `build` and `source` are links that lead out of the folder.
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(path);
                } else if let Some(name) = module_name(&path) {
                    files.insert(name, path);
                }
            }
        }
        Ok(Self { files })
    }

    /// `name` and what it depends on, in the order of loading; empty where the kernel has no such module.
    pub(crate) fn load_order(&self, name: &str) -> Result<Vec<(String, Vec<u8>)>> {
        let mut order = Vec::new();
        if self.files.contains_key(name) {
            self.add(name, &mut order)?;
        }
        Ok(order)
    }

    fn add(&self, name: &str, order: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
        if order.iter().any(|(loaded, _)| loaded == name) {
            return Ok(());
        }
        let file =
            self.files.get(name).ok_or_else(|| Failure::new(format!("the kernel's module {name} is missing")))?;
        let bytes = decompressed(file)?;
        for dependency in dependencies(&bytes) {
            self.add(&dependency, order)?;
        }
        order.push((name.to_owned(), bytes));
        Ok(())
    }
}

/// The kernel takes `-` and `_` for the same in a module's name.
fn module_name(path: &Path) -> Option<String> {
    let (name, rest) = path.file_name()?.to_str()?.split_once('.')?;
    ["ko", "ko.xz", "ko.zst", "ko.gz"].contains(&rest).then(|| name.replace('-', "_"))
}

fn decompressed(file: &Path) -> Result<Vec<u8>> {
    let program = match file.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(file).context(|| format!("cannot read {}", file.display())),
    };
    let output = Command::new(program)
        .arg("-dc")
        .arg(file)
        .stdin(Stdio::null())
        .output()
        .context(|| format!("cannot run {program}"))?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(Failure::new(format!(
            "{program} cannot unpack {}: {}",
            file.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        )))
    }
}

/// What `depends=a,b` among a module's strings names.
fn dependencies(module: &[u8]) -> Vec<String> {
    let line = module.split(|byte| *byte == 0).find_map(|text| text.strip_prefix(b"depends="));
    let names = String::from_utf8_lossy(line.unwrap_or_default()).replace('-', "_");
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::{dependencies, module_name};
    use std::path::Path;

    #[test]
    fn a_module_names_what_it_needs() {
        assert_eq!(dependencies(b"\x7fELF\0license=GPL\0depends=a-b,c\0name=x\0"), ["a_b", "c"]);
        assert!(dependencies(b"\0depends=\0").is_empty());
        assert!(dependencies(b"").is_empty());
    }

    #[test]
    fn a_file_is_a_module_by_its_suffix() {
        assert_eq!(module_name(Path::new("/m/dm-mod.ko.xz")).as_deref(), Some("dm_mod"));
        assert_eq!(module_name(Path::new("/m/ublk_drv.ko")).as_deref(), Some("ublk_drv"));
        assert_eq!(module_name(Path::new("/m/modules.dep")), None);
    }
}
