// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernels that the virtual machine boots: which there are, and how they get here.

use core::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::archive::{self, Package, Suite};
use crate::failure::{Context, Failure, Result};
use crate::workspace;

/// The series on which every ring and device test must pass, oldest first. Add one here to make it count.
pub(crate) const MUST_PASS: [Series; 2] = [Series(6, 12), Series(7, 3)];

/// Those that must pass, or of them the one that was asked for.
pub(crate) fn chosen(only: Option<Series>) -> Result<Vec<Series>> {
    let chosen: Vec<Series> = MUST_PASS.into_iter().filter(|series| only.is_none_or(|only| only == *series)).collect();
    if chosen.is_empty() { Err(Failure::new("--kernel: not one of the series that must pass")) } else { Ok(chosen) }
}

/// Series without ublk, on which the ring is tested.
pub(crate) const RING_ONLY: [Series; 1] = [Series(6, 1)];

/// The suite in which new series turn up.
const NEW_SERIES: &str = "trixie-backports";

/// Where a series is looked for, in this order.
fn suites(series: Series) -> &'static [&'static str] {
    match series {
        Series(6, 1) => &["bookworm"],
        Series(6, 12) => &["bookworm-security", "trixie"],
        _ => &[NEW_SERIES, "trixie", "bookworm-security", "bookworm"],
    }
}

/// The first two numbers of a kernel's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Series(pub(crate) u32, pub(crate) u32);

impl Series {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        Some(Self(major.parse().ok()?, minor.parse().ok()?))
    }

    /// The newest series that must pass.
    pub(crate) fn newest_listed() -> Self {
        MUST_PASS[MUST_PASS.len() - 1]
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// A kernel that can be booted.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// What a user calls it: the series, `host`, or the file.
    pub(crate) name: String,
    pub(crate) image: PathBuf,
    /// The folder with the `.ko` files, in whatever depth.
    pub(crate) modules: Option<PathBuf>,
}

impl Kernel {
    /// The newest kernel of `series`: the one that is kept under `target/kernels`, else fetched.
    ///
    /// Where the archive no longer has the series, the next newer one takes its place, and a line says so.
    pub(crate) fn of_series(series: Series) -> Result<Self> {
        match Self::exactly(series)? {
            Some(kernel) => Ok(kernel),
            None => Self::replacement(series),
        }
    }

    /// The same, and no other series: `None` where the archive no longer has it.
    pub(crate) fn exactly(series: Series) -> Result<Option<Self>> {
        match Self::kept(series) {
            Some(kernel) => Ok(Some(kernel)),
            None => Self::fetch(series),
        }
    }

    /// The kernel that runs this machine.
    pub(crate) fn host() -> Result<Self> {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease")
            .context(|| "cannot read the kernel's release".to_owned())?;
        let release = release.trim();
        let modules = PathBuf::from(format!("/lib/modules/{release}"));
        let places = [PathBuf::from(format!("/boot/vmlinuz-{release}")), modules.join("vmlinuz")];
        let image = places.iter().find(|image| image.exists()).unwrap_or(&places[0]).clone();
        if fs::File::open(&image).is_err() {
            return Err(Failure::new(format!(
                "the running kernel's image {} cannot be read (does it exist, and may you?): name another with `--kernel-image FILE --modules DIR`",
                image.display()
            )));
        }
        Ok(Self { name: "host".to_owned(), image, modules: modules.is_dir().then_some(modules) })
    }

    fn kept(series: Series) -> Option<Self> {
        let folder = folder(series);
        archive::is_whole(&folder).then(|| Self::in_folder(series, &folder))
    }

    fn in_folder(series: Series, folder: &Path) -> Self {
        Self { name: series.to_string(), image: folder.join("vmlinuz"), modules: Some(folder.join("modules")) }
    }

    /// `None` where no suite has the series.
    fn fetch(series: Series) -> Result<Option<Self>> {
        for name in suites(series) {
            let suite = Suite::open(name)?;
            let folder = folder(series);
            let found = archive::whole_folder(&folder, |draft| {
                let raw = draft.join("unpacked");
                let found = suite.unpack(|suite| Ok(newest(&image_packages(suite)?, series)), &raw)?;
                if found { lay_out(&raw, draft).map(|()| true) } else { Ok(false) }
            })?;
            if found {
                return Ok(Some(Self::in_folder(series, &folder)));
            }
        }
        Ok(None)
    }

    fn replacement(series: Series) -> Result<Self> {
        let newer = offered()?.into_iter().find(|other| *other > series).ok_or_else(|| {
            Failure::new(format!("the archive has no cloud kernel of series {series}, nor a newer one"))
        })?;
        eprintln!("the archive no longer has series {series}; series {newer} takes its place");
        if let Some(kernel) = Self::kept(newer) {
            return Ok(kernel);
        }
        Self::fetch(newer)?.ok_or_else(|| Failure::new(format!("series {newer} was there a moment ago")))
    }
}

/// The series that the archive offers where new ones turn up, oldest first.
pub(crate) fn offered() -> Result<Vec<Series>> {
    let packages = image_packages(&Suite::open(NEW_SERIES)?)?;
    let mut found: Vec<Series> =
        packages.iter().filter_map(|package| Some(KernelPackage::parse(package)?.series)).collect();
    found.sort_unstable();
    found.dedup();
    found.retain(|series| newest(&packages, *series).is_some());
    Ok(found)
}

/// The newest series in the archive if it is newer than all that are listed.
pub(crate) fn newer_than_listed() -> Result<Option<Series>> {
    Suite::open(NEW_SERIES)?.refresh()?;
    Ok(offered()?.pop().filter(|series| *series > Series::newest_listed()))
}

fn folder(series: Series) -> PathBuf {
    workspace::kept("kernels").join(series.to_string())
}

/// The packages that hold cloud kernels or their modules.
fn image_packages(suite: &Suite) -> Result<Vec<Package>> {
    suite.packages(|name| name.starts_with("linux-") && name.ends_with("-cloud-amd64"))
}

/// A package of a kernel, by its name: `linux-KIND-RELEASE`.
#[derive(Clone, Copy, Debug)]
struct KernelPackage<'a> {
    release: &'a str,
    series: Series,
}

impl<'a> KernelPackage<'a> {
    fn parse(package: &'a Package) -> Option<Self> {
        let (kind, release) = package.name.strip_prefix("linux-")?.split_once('-')?;
        let mut numbers = numbers(release).into_iter();
        let series = Series(numbers.next()?, numbers.next()?);
        (["image", "binary", "modules"].contains(&kind) && release.starts_with(|c: char| c.is_ascii_digit()))
            .then_some(Self { release, series })
    }
}

/// The packages that make up the newest kernel of `series`.
///
/// Since 7.2 Debian splits a kernel into `linux-binary-*` and `linux-modules-*`, and `linux-image-*` is an empty shell;
/// a series on its way out may have lost one of the two.
fn newest(packages: &[Package], series: Series) -> Option<Vec<Package>> {
    let mut releases: Vec<&str> =
        packages.iter().filter_map(KernelPackage::parse).filter(|p| p.series == series).map(|p| p.release).collect();
    releases.sort_by_key(|release| numbers(release));
    releases.dedup();
    let pick = |kind: &str, release: &str| {
        packages
            .iter()
            .filter(|p| p.name == format!("linux-{kind}-{release}"))
            .max_by_key(|p| numbers(&p.version))
            .cloned()
    };
    releases.iter().rev().find_map(|release| {
        if let (Some(binary), Some(modules)) = (pick("binary", release), pick("modules", release)) {
            return Some(vec![binary, modules]);
        }
        let image = pick("image", release)?;
        (!image.depends.contains("linux-modules-") && !image.depends.contains("linux-binary-")).then(|| vec![image])
    })
}

/// The numbers of a version, in order: what comes later compares greater.
pub(crate) fn numbers(version: &str) -> Vec<u32> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// Makes `vmlinuz` and `modules/` in `draft` of what the packages in `raw` hold.
fn lay_out(raw: &Path, draft: &Path) -> Result<()> {
    let modules = ["usr/lib/modules", "lib/modules"].iter().find_map(|place| entry(&raw.join(place), "").ok());
    let modules = modules.ok_or_else(|| Failure::new("the kernel's package holds no modules"))?;
    // The split packages keep the image beside the modules.
    let image = entry(&raw.join("boot"), "vmlinuz-").or_else(|_| entry(&modules, "vmlinuz"))?;
    rename(&image, &draft.join("vmlinuz"))?;
    rename(&modules, &draft.join("modules"))?;
    fs::remove_dir_all(raw).context(|| format!("cannot remove {}", raw.display()))
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).context(|| format!("cannot move {}", from.display()))
}

/// The first thing in `folder` whose name starts with `prefix`.
fn entry(folder: &Path, prefix: &str) -> Result<PathBuf> {
    fs::read_dir(folder)
        .context(|| format!("cannot read {}", folder.display()))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
        .ok_or_else(|| Failure::new(format!("there is no {prefix}* in {}", folder.display())))
}

#[cfg(test)]
mod tests {
    use super::{Series, newest, numbers};
    use crate::archive::Package;

    fn packages(names: &[(&str, &str)]) -> Vec<Package> {
        let package = |(name, depends): &(&str, &str)| Package {
            name: (*name).to_owned(),
            depends: (*depends).to_owned(),
            ..Package::default()
        };
        names.iter().map(package).collect()
    }

    fn names(series: Series, from: &[(&str, &str)]) -> Option<Vec<String>> {
        Some(newest(&packages(from), series)?.into_iter().map(|package| package.name).collect())
    }

    #[test]
    fn numbers_order_versions_as_people_do() {
        assert!(numbers("6.12.9+deb12") < numbers("6.12.10+deb12"));
        assert!(numbers("6.1.0-9") < numbers("6.1.0-53"));
    }

    #[test]
    fn a_series_is_not_another_that_starts_alike() {
        let from = [("linux-image-6.1.0-53-cloud-amd64", ""), ("linux-image-6.12.1+deb12-cloud-amd64", "")];
        assert_eq!(names(Series(6, 1), &from).unwrap(), ["linux-image-6.1.0-53-cloud-amd64"]);
        assert_eq!(names(Series(6, 2), &from), None);
    }

    #[test]
    fn an_empty_shell_is_no_kernel_and_half_a_kernel_neither() {
        let from = [
            (
                "linux-image-7.3.5-cloud-amd64",
                "linux-binary-7.3.5-cloud-amd64 (= 1), linux-modules-7.3.5-cloud-amd64 (= 1)",
            ),
            ("linux-binary-7.3.5-cloud-amd64", ""),
            ("linux-binary-7.3.4-cloud-amd64", ""),
            ("linux-modules-7.3.4-cloud-amd64", ""),
        ];
        let expected = ["linux-binary-7.3.4-cloud-amd64", "linux-modules-7.3.4-cloud-amd64"];
        assert_eq!(names(Series(7, 3), &from).unwrap(), expected);
    }
}
