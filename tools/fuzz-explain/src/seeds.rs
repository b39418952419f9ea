// SPDX-License-Identifier: MIT OR Apache-2.0
//! The inputs that the project keeps: the goldens, the fixtures of `ublkctl explain`, and what once made a program fail.

use std::fs;
use std::io;
use std::path::Path;

use crate::golden::Golden;
use crate::input::NOTHING_KNOWN;

/// An input, and the file that it is from.
pub type Seed = (String, Vec<u8>);

/// Texts that `ublkctl explain` reads.
///
/// # Errors
///
/// What could not be read.
pub fn explain() -> io::Result<Vec<Seed>> {
    let mut seeds = files("tests/goldens", "txt")?;
    seeds.extend(files("tools/ublk-cli/tests/fixtures", "")?);
    seeds.extend(files("tools/fuzz-explain/failed/explain", "")?);
    Ok(seeds)
}

/// Those of [`crate::diagnosis()`].
///
/// # Errors
///
/// What could not be read.
pub fn diagnosis() -> io::Result<Vec<Seed>> {
    let mut seeds = files("tests/goldens", "txt")?;
    for (_, text) in &mut seeds {
        *text = of_golden(&Golden::parse(&String::from_utf8_lossy(text)));
    }
    seeds.extend(files("tools/fuzz-explain/failed/diagnosis", "")?);
    Ok(seeds)
}

/// The command and its buffer, with zeroes for what differs from run to run, and nothing known beside.
fn of_golden(golden: &Golden) -> Vec<u8> {
    let filled = |bytes: &[Option<u8>]| Golden::filled(bytes, &vec![0; bytes.len()]);
    let mut sqe = filled(&golden.sqe);
    let is_plain = u8::from(sqe.len() == 64);
    sqe.resize(128, 0);
    let no_errno = [0];
    [&[is_plain], &sqe[..], &no_errno, &NOTHING_KNOWN, &filled(&golden.buffer)].concat()
}

/// The files below a folder of the project whose names end so; none where there is no such folder.
fn files(folder: &str, extension: &str) -> io::Result<Vec<Seed>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new("/"));
    let mut folders = vec![root.join(folder)];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop().filter(|folder| folder.is_dir()) {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if extension.is_empty() || path.extension().is_some_and(|its| its == extension) {
                let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
                found.push((name, fs::read(path)?));
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::{diagnosis, explain};

    /// Each of `inputs` by name, as it is run.
    fn run(inputs: Vec<(String, Vec<u8>)>, program: fn(&[u8])) {
        assert!(inputs.len() > 20, "the goldens alone are more");
        for (name, input) in inputs {
            println!("{name}");
            program(&input);
        }
    }

    #[test]
    fn every_kept_input_is_explained() {
        run(explain().unwrap(), crate::explain);
        run(diagnosis().unwrap(), crate::explain);
    }

    #[test]
    fn every_kept_input_is_diagnosed() {
        run(diagnosis().unwrap(), crate::diagnosis);
        run(explain().unwrap(), crate::diagnosis);
    }
}
