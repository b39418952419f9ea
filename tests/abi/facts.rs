// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is known of a release: the answers of a C compiler with its headers, and of its driver.
//!
//! The driver gives its features, and its type information (BTF) the size of each struct that it uses and where the members
//! are. All is kept as text in `records/`.

use core::fmt;
use std::collections::HashMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;

use crate::header::{Headers, Release};
use crate::oracle;
use ublk_sys::layout::{Layout, TABLES};

/// The section of what a driver says of itself; the others are named after headers.
pub(crate) const DRIVER: &str = "driver";

/// The fact that GET_FEATURES gives.
pub(crate) const FEATURES: &str = "features";

/// One fact: `sizeof ublk_params` is 152.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fact {
    /// The header that it is of, or [`DRIVER`].
    pub(crate) section: String,
    /// A constant's name; or `sizeof`, `alignof`, `offsetof` and what is meant.
    pub(crate) what: String,
    pub(crate) value: i128,
}

impl Fact {
    pub(crate) fn is_drivers(&self) -> bool {
        self.section == DRIVER
    }
}

/// The facts of one release.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) release: Release,
    pub(crate) all: Vec<Fact>,
    /// Whether the driver says so, and the fact's name.
    by_name: HashMap<(bool, String), i128>,
}

impl Facts {
    pub(crate) fn new(release: Release, all: Vec<Fact>) -> Self {
        let by_name = all.iter().map(|fact| ((fact.is_drivers(), fact.what.clone()), fact.value)).collect();
        Self { release, all, by_name }
    }

    /// What the compiler makes of these headers.
    pub(crate) fn of_headers(headers: &Headers) -> Self {
        let questions = oracle::facts_to_ask(headers);
        let answers = oracle::answers(headers, questions.iter().map(|question| &*question.c), "facts");
        let facts = questions.into_iter().zip(answers);
        let facts =
            facts.map(|(question, value)| Fact { section: question.section.into(), what: question.what, value });
        Self::new(headers.release, facts.collect())
    }

    /// By the headers.
    pub(crate) fn value(&self, what: &str) -> Option<i128> {
        self.by_name.get(&(false, what.to_owned())).copied()
    }

    /// By the driver.
    pub(crate) fn drivers(&self, what: &str) -> Option<i128> {
        self.by_name.get(&(true, what.to_owned())).copied()
    }

    fn same(&self, fact: &Fact) -> Option<i128> {
        if fact.is_drivers() { self.drivers(&fact.what) } else { self.value(&fact.what) }
    }

    /// The features of the driver.
    pub(crate) fn features(&self) -> Option<u64> {
        self.drivers(FEATURES)?.try_into().ok()
    }

    /// Whether the headers are known, and not the driver alone.
    pub(crate) fn have_headers(&self) -> bool {
        self.all.iter().any(|fact| !fact.is_drivers())
    }

    pub(crate) fn of_section(&self, is_of: impl Fn(&str) -> bool) -> Vec<Fact> {
        self.all.iter().filter(|fact| is_of(&fact.section)).cloned().collect()
    }

    /// What is in one and not in the other.
    pub(crate) fn differences(&self, other: &Self, whose: &str) -> Vec<String> {
        let mut found = Vec::new();
        for fact in &self.all {
            let (release, what, value) = (self.release, &fact.what, fact.value);
            match other.same(fact) {
                Some(same) if same == value => {}
                Some(has) => found.push(format!("Linux {release}: {what} is {value}, {whose} has {has}")),
                None => found.push(format!("Linux {release}: {what} is {value}, {whose} lacks it")),
            }
        }
        let missing = other.all.iter().filter(|fact| self.same(fact).is_none());
        found.extend(missing.map(|fact| format!("Linux {}: {} is not there, {whose} has it", self.release, fact.what)));
        found
    }

    fn read(path: &Path) -> Self {
        let release = Release::of(&path.file_stem().expect("a record has a name").to_string_lossy());
        Self::new(release, facts_in(&fs::read_to_string(path).expect("a record can be read"), ""))
    }
}

/// The facts that stand in a text, as records have them; the first are of that section.
fn facts_in(text: &str, section: &str) -> Vec<Fact> {
    let mut section = section;
    let mut all = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name;
            continue;
        }
        let (what, value) = line.rsplit_once(' ').expect("a fact is a name and a number");
        let value = value.parse().expect("a fact is a number");
        all.push(Fact { section: section.into(), what: what.into(), value });
    }
    all
}

/// As it is kept.
impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# What a C compiler makes of the headers of Linux {}, and what its driver says.", self.release)?;
        writeln!(f, "# Written by `cargo xtask abi --record`.")?;
        let mut section = "";
        for fact in &self.all {
            if fact.section != section {
                section = &fact.section;
                writeln!(f, "\n[{section}]")?;
            }
            writeln!(f, "{} {}", fact.what, fact.value)?;
        }
        Ok(())
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/abi/records")
}

/// The records, oldest release first; with `cargo xtask abi --record` as they are after it.
pub(crate) fn records() -> Vec<Facts> {
    static RECORDED: Once = Once::new();
    if is_recording() {
        RECORDED.call_once(|| {
            Headers::all().iter().map(Facts::of_headers).chain(drivers_at_hand()).for_each(|facts| record(&facts));
        });
    }
    let files = fs::read_dir(folder()).expect("the folder of the records is there");
    let mut all: Vec<Facts> = files.map(|file| Facts::read(&file.expect("the folder can be read").path())).collect();
    all.sort_by_key(|facts| facts.release);
    all
}

/// What drivers said to `cargo xtask abi` on this machine.
pub(crate) fn drivers_at_hand() -> Vec<Facts> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/abi/drivers");
    let Ok(files) = fs::read_dir(folder) else { return Vec::new() };
    let structs: Vec<&Layout> = TABLES.iter().flat_map(|table| table.structs).collect();
    let mut all = Vec::new();
    for file in files {
        let path = file.expect("the folder can be read").path();
        let text = fs::read_to_string(&path).expect("the file can be read");
        let release = Release::of(&path.file_name().expect("it has a name").to_string_lossy());
        let mut found = facts_in(&text, DRIVER);
        // What the driver does not share with user space is its own affair.
        found.retain(|fact| fact.what == FEATURES || structs.iter().any(|layout| is_of(&fact.what, layout.name)));
        all.push(Facts::new(release, found));
    }
    all.sort_by_key(|facts| facts.release);
    all
}

/// Whether the fact is of that struct.
pub(crate) fn is_of(what: &str, name: &str) -> bool {
    what.split_once(' ').is_some_and(|(_, path)| path.split('.').next() == Some(name))
}

/// Whether records and tables are to be written.
pub(crate) fn is_recording() -> bool {
    env::var_os("ABI_RECORD").is_some()
}

/// Writes the record of that release: the facts, and those of other sections that the record had.
fn record(facts: &Facts) {
    let path = folder().join(format!("{}.txt", facts.release));
    let of_driver = !facts.have_headers();
    let mut all = Vec::new();
    if path.exists() {
        all = Facts::read(&path).of_section(|section| (section == DRIVER) != of_driver);
    }
    if of_driver {
        all.splice(0..0, facts.all.iter().cloned());
    } else {
        all.extend(facts.all.iter().cloned());
    }
    fs::write(&path, Facts::new(facts.release, all).to_string()).expect("a record can be written");
}
