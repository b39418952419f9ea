// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel headers that `tests/abi.rs` compares our structs with, and that the demo copies around.

use std::path::PathBuf;

use crate::archive::{self, Package, Suite};
use crate::failure::{Failure, Result};
use crate::kernel::{self, Series};
use crate::workspace;

/// The series whose headers are mirrored, and where they are.
const MIRRORED: Series = Series(7, 3);
const SUITE: &str = "trixie-backports";

/// `target/headers/SERIES`, with `usr/include` in it; fetched where it is not there yet.
///
/// Where the archive has moved on to a later series, its headers are taken, and a line says so: what a header promises
/// to user space stays.
pub(crate) fn get() -> Result<PathBuf> {
    let folder = workspace::kept("headers").join(MIRRORED.to_string());
    if archive::is_whole(&folder) {
        return Ok(folder);
    }
    let suite = Suite::open(SUITE)?;
    let choose =
        |suite: &Suite| Ok(newest(suite.packages(|name| name == "linux-libc-dev")?).map(|package| vec![package]));
    let found = archive::whole_folder(&folder, |draft| suite.unpack(choose, draft))?;
    if found { Ok(folder) } else { Err(Failure::new(format!("{SUITE} has no kernel headers of {MIRRORED} or later"))) }
}

/// The newest package of the mirrored series, else the oldest later one.
fn newest(mut packages: Vec<Package>) -> Option<Package> {
    packages.sort_by_key(|package| kernel::numbers(&package.version));
    let is_mirrored = |package: &Package| series(package) == Some(MIRRORED);
    if let Some(package) = packages.iter().rfind(|package| is_mirrored(package)) {
        return Some(package.clone());
    }
    let package = packages.into_iter().find(|package| series(package).is_some_and(|series| series > MIRRORED))?;
    eprintln!("the headers of {MIRRORED} have left the archive; those of {} take their place", package.version);
    Some(package)
}

fn series(package: &Package) -> Option<Series> {
    let numbers = kernel::numbers(&package.version);
    Some(Series(*numbers.first()?, *numbers.get(1)?))
}
