// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel headers that `tests/abi` compares our structs with, and that the demo copies around.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use crate::archive::{self, Package, Suite};
use crate::failure::{Context, Failure, Result};
use crate::kernel::{self, Series};
use crate::workspace;

/// The series whose headers are mirrored, and where they are.
const MIRRORED: Series = Series(7, 3);
const SUITE: &str = "trixie-backports";

/// Where headers are looked for: whatever series these have.
const SUITES: [&str; 5] = ["bookworm", "bookworm-security", "trixie", "trixie-backports", "sid"];

const PACKAGE: &str = "linux-libc-dev";

/// The file beside the headers that says which version of the package they are from.
const VERSION: &str = "version";

/// `target/headers/SERIES`, with `usr/include` in it; fetched where it is not there yet.
///
/// Where the archive has moved on to a later series, its headers are taken, and a line says so: what a header promises
/// to user space stays.
pub(crate) fn get() -> Result<PathBuf> {
    let kept = folder(MIRRORED);
    if archive::is_whole(&kept) {
        return Ok(kept);
    }
    let suite = Suite::open(SUITE)?;
    let mut found = in_suite(&suite)?;
    if !found.contains_key(&MIRRORED) {
        suite.refresh()?;
        found = in_suite(&suite)?;
    }
    let (series, package) = found
        .range(MIRRORED..)
        .next()
        .ok_or_else(|| Failure::new(format!("{SUITE} has no kernel headers of {MIRRORED} or later")))?;
    if *series != MIRRORED {
        eprintln!("the headers of {MIRRORED} have left the archive; those of {series} take their place");
    }
    fetch(&suite, *series, package)
}

/// Fetches the newest headers of every series that the archive has, where they are not there yet.
///
/// A suite that cannot be reached is named, and the others are asked all the same.
pub(crate) fn every() -> Result<()> {
    let mut newest: BTreeMap<Series, (Suite, Package)> = BTreeMap::new();
    for name in SUITES {
        match Suite::open(name).and_then(|suite| suite.refresh().and_then(|()| in_suite(&suite))) {
            Ok(found) => {
                for (series, package) in found {
                    let better = newest.get(&series).is_none_or(|(_, other)| age(other) < age(&package));
                    if better {
                        newest.insert(series, (Suite::open(name)?, package));
                    }
                }
            }
            Err(failure) => eprintln!("no headers are looked for in {name}: {failure}"),
        }
    }
    for (series, (suite, package)) in &newest {
        fetch(suite, *series, package)?;
    }
    Ok(())
}

/// The newest headers of each series in the suite.
fn in_suite(suite: &Suite) -> Result<BTreeMap<Series, Package>> {
    Ok(newest(suite.packages(|name| name == PACKAGE)?))
}

fn newest(mut packages: Vec<Package>) -> BTreeMap<Series, Package> {
    packages.retain(|package| !package.version.contains("~rc"));
    packages.sort_by_key(age);
    packages.into_iter().filter_map(|package| Some((series(&package)?, package))).collect()
}

/// `target/headers/SERIES` with what the package has, fetched if something else is there.
fn fetch(suite: &Suite, series: Series, package: &Package) -> Result<PathBuf> {
    let folder = folder(series);
    let version = fs::read_to_string(folder.join(VERSION)).unwrap_or_default();
    if version == package.version && archive::is_whole(&folder) {
        return Ok(folder);
    }
    let choose = |suite: &Suite| Ok(in_suite(suite)?.remove(&series).map(|package| vec![package]));
    let found = archive::whole_folder(&folder, |draft| {
        let found = suite.unpack(choose, draft)?;
        let version = draft.join(VERSION);
        fs::write(&version, &package.version).context(|| format!("cannot write {}", version.display()))?;
        Ok(found)
    })?;
    if found { Ok(folder) } else { Err(Failure::new(format!("the headers of {series} were there a moment ago"))) }
}

fn folder(series: Series) -> PathBuf {
    workspace::kept("headers").join(series.to_string())
}

fn age(package: &Package) -> Vec<u32> {
    kernel::numbers(&package.version)
}

fn series(package: &Package) -> Option<Series> {
    let numbers = kernel::numbers(&package.version);
    Some(Series(*numbers.first()?, *numbers.get(1)?))
}

#[cfg(test)]
mod tests {
    use super::newest;
    use crate::archive::Package;
    use crate::kernel::Series;

    #[test]
    fn each_series_has_its_newest_headers_and_none_of_a_release_to_come() {
        let versions = ["6.1.176-1", "7.2.9-1~bpo13+1", "7.2.12-1~bpo13+1", "6.1.192-2", "7.4~rc3-1"];
        let packages = versions.map(|version| Package { version: version.into(), ..Package::default() });
        let found: Vec<_> =
            newest(packages.into()).into_iter().map(|(series, package)| (series, package.version)).collect();
        assert_eq!(found, [(Series(6, 1), "6.1.192-2".into()), (Series(7, 2), "7.2.12-1~bpo13+1".into())]);
    }
}
