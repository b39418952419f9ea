// SPDX-License-Identifier: MIT OR Apache-2.0
//! The mirror's tables against the facts of a release: what is there, since when, and with which value.

use std::collections::HashSet;

use crate::facts::{Facts, is_of};
use crate::header::Release;
use crate::scope;
use ublk_sys::layout::{Constant, Layout, Member, Table};

/// What a release's stable updates brought before its time, since later fixes needed it.
const BACKPORTED: [(&str, &str); 7] = [
    ("6.1", "IORING_ASYNC_CANCEL_USERDATA"),
    ("6.1", "IORING_ASYNC_CANCEL_OP"),
    ("6.1", "IORING_SEND_ZC_REPORT_USAGE"),
    ("6.1", "IORING_NOTIF_USAGE_ZC_COPIED"),
    ("6.1", "IORING_OFF_MMAP_MASK"),
    ("6.12", "io_uring_buf_reg.min_left"),
    ("6.12", "io_uring_buf_reg.resv"),
];

/// A feature whose bit every header has, and that no driver gave before that release.
const NOT_GIVEN: [(&str, &str); 1] = [("UBLK_F_SUPPORT_ZERO_COPY", "6.15")];

/// Constants whose names begin so are features of a driver.
const FEATURE: &str = "UBLK_F_";

pub(crate) fn is_backported(release: Release, name: &str) -> bool {
    BACKPORTED.contains(&(&*release.to_string(), name))
}

/// What came of a comparison.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// How many constants, structs and members were there and compared.
    pub(crate) compared: usize,
    /// How many were not there, and are younger.
    pub(crate) younger: usize,
    /// What is not so, a sentence each.
    pub(crate) differences: Vec<String>,
}

/// Compares the tables with what is known of a release.
pub(crate) fn compare(tables: &[Table], facts: &Facts) -> Outcome {
    let mut comparison = Comparison { facts, outcome: Outcome::default() };
    if facts.have_headers() {
        for table in tables {
            comparison.table(table);
        }
        comparison.missing(tables);
    }
    if let Some(features) = facts.features() {
        comparison.features(tables, features);
        comparison.drivers_structs(tables);
    }
    comparison.outcome
}

struct Comparison<'a> {
    facts: &'a Facts,
    outcome: Outcome,
}

impl Comparison<'_> {
    fn table(&mut self, table: &Table) {
        for constant in table.constants.iter().copied().flatten() {
            let name = constant.name;
            if self.is_there(name, name, constant.since, "") {
                self.equals(name, constant.value);
            }
        }
        for layout in table.structs {
            let name = layout.name;
            if self.is_there(name, &format!("sizeof {name}"), layout.since, "") {
                self.equals(&format!("sizeof {name}"), int(size(layout, self.facts.release)));
                self.equals(&format!("alignof {name}"), int(layout.align));
            }
            for member in layout.fields.iter().flat_map(|field| field.members) {
                self.member(layout, member);
            }
        }
    }

    fn member(&mut self, layout: &Layout, member: &Member) {
        let path = format!("{}.{}", layout.name, member.name);
        // One name can have stood in two places: `pad`, or a `resv` that shrank. Then each row is for its releases.
        let is_its_time = self.is_time(&path, member.since, member.until);
        if has_namesake(layout, member) && !is_its_time {
            return;
        }
        let offset = format!("offsetof {path}");
        if self.is_there(&path, &offset, member.since, member.until) {
            self.equals(&offset, int(member.offset));
            if member.size > 0 {
                self.equals(&format!("sizeof {path}"), int(member.size));
            }
        }
    }

    /// Whether a release has, by what we say, what came and left with these.
    fn is_time(&self, name: &str, since: &str, until: &str) -> bool {
        let release = self.facts.release;
        if is_backported(release, name) {
            return until.is_empty();
        }
        Release::of(since) <= release && (until.is_empty() || release < Release::of(until))
    }

    /// Whether the release has it. Notes it if that is not as it should be.
    fn is_there(&mut self, name: &str, fact: &str, since: &str, until: &str) -> bool {
        let is_there = self.facts.value(fact).is_some();
        if is_there != self.is_time(name, since, until) {
            let release = self.facts.release;
            let has = if is_there { "has" } else { "lacks" };
            let until = if until.is_empty() { String::new() } else { format!(" until {until}") };
            self.differs(format!("Linux {release} {has} {name}, which should be there since {since}{until}"));
        }
        if is_there {
            self.outcome.compared += 1;
        } else {
            self.outcome.younger += 1;
        }
        is_there
    }

    fn equals(&mut self, what: &str, rust: i128) {
        let release = self.facts.release;
        match self.facts.value(what) {
            Some(c) if c == rust => {}
            Some(c) => self.differs(format!("Linux {release}: {what}: C has {c}, Rust has {rust}")),
            None => self.differs(format!("Linux {release}: {what}: C has none, Rust has {rust}")),
        }
    }

    /// Notes what the release has, and neither the mirror nor the list of what is left out.
    fn missing(&mut self, tables: &[Table]) {
        let mirrored = names(tables);
        let mut seen = HashSet::new();
        for fact in self.facts.all.iter().filter(|fact| !fact.is_drivers()) {
            let name = fact.what.rsplit(' ').next().unwrap_or_default();
            // A struct that is not there is named once, and its members are not.
            let of = name.split('.').next().unwrap_or_default();
            let name = if mirrored.contains(of) { name } else { of };
            if mirrored.contains(name) || scope::is_left_out(name) || !seen.insert(name) {
                continue;
            }
            let (release, header) = (self.facts.release, &fact.section);
            self.differs(format!(
                "Linux {release} has {name} in {header}, which is not mirrored: it goes to {}, or with a reason to \
                 LEFT_OUT in tests/abi/scope.rs",
                scope::file_of(header)
            ));
        }
    }

    fn features(&mut self, tables: &[Table], features: u64) {
        let release = self.facts.release;
        let mut known = 0;
        for constant in constants(tables).filter(|constant| constant.name.starts_with(FEATURE)) {
            let given = NOT_GIVEN.iter().find(|(name, _)| *name == constant.name);
            let since = given.map_or(constant.since, |(_, since)| since);
            let bit = u64::try_from(constant.value).unwrap_or_default();
            known |= bit;
            let has = features & bit != 0;
            if has != (Release::of(since) <= release) {
                let has = if has { "has" } else { "lacks" };
                let name = constant.name;
                self.differs(format!(
                    "the driver of Linux {release} {has} {name}, which should be there since {since}"
                ));
            }
            if !self.facts.have_headers() {
                *(if has { &mut self.outcome.compared } else { &mut self.outcome.younger }) += 1;
            }
        }
        if features & !known != 0 {
            let unknown = features & !known;
            self.differs(format!("the driver of Linux {release} has features {unknown:#x}, which no {FEATURE} names"));
        }
    }

    /// A driver need not have a struct to be of a release that has it; its type information lacks what it does not use.
    fn drivers_structs(&mut self, tables: &[Table]) {
        let release = self.facts.release;
        let mirrored = names(tables);
        for layout in tables.iter().flat_map(|table| table.structs) {
            let name = layout.name;
            let Some(has) = self.facts.drivers(&format!("sizeof {name}")) else { continue };
            let mut compared = 1;
            let mut wrong = Vec::new();
            if !self.is_time(name, layout.since, "") {
                wrong.push(format!("has {name}, which should be there since {}", layout.since));
            }
            let size = int(size(layout, release));
            if has != size {
                wrong.push(format!("has {name} of {has} bytes, Rust of {size}"));
            }
            for member in layout.fields.iter().flat_map(|field| field.members) {
                let path = format!("{name}.{}", member.name);
                let is_its_time = self.is_time(&path, member.since, member.until);
                if has_namesake(layout, member) && !is_its_time {
                    continue;
                }
                match self.facts.drivers(&format!("offsetof {path}")) {
                    Some(_) if !is_its_time => {
                        wrong.push(format!("has {path}, which should be there since {}", member.since))
                    }
                    None if is_its_time => {
                        wrong.push(format!("lacks {path}, which should be there since {}", member.since))
                    }
                    Some(at) if at != int(member.offset) => {
                        wrong.push(format!("has {path} at {at}, Rust at {}", member.offset))
                    }
                    Some(_) => compared += 1,
                    None => {}
                }
            }
            for fact in self.facts.all.iter().filter(|fact| fact.is_drivers() && is_of(&fact.what, name)) {
                let path = fact.what.rsplit(' ').next().unwrap_or_default();
                if !mirrored.contains(path) {
                    wrong.push(format!("has {path}, which is not mirrored"));
                }
            }
            for what in wrong {
                self.differs(format!("the driver of Linux {release} {what}"));
            }
            if !self.facts.have_headers() {
                self.outcome.compared += compared;
            }
        }
    }

    fn differs(&mut self, sentence: String) {
        self.outcome.differences.push(sentence);
    }
}

/// Whether another row of the struct has that name.
pub(crate) fn has_namesake(layout: &Layout, member: &Member) -> bool {
    layout.fields.iter().flat_map(|field| field.members).filter(|it| it.name == member.name).count() > 1
}

/// Whether the driver of that release has that feature: `None` for what is no feature, or tells nothing.
pub(crate) fn driver_has(facts: &Facts, constant: &Constant) -> Option<bool> {
    let bit = u64::try_from(constant.value).ok()?;
    let tells = constant.name.starts_with(FEATURE) && NOT_GIVEN.iter().all(|(name, _)| *name != constant.name);
    tells.then_some(facts.features()? & bit != 0)
}

fn constants(tables: &[Table]) -> impl Iterator<Item = &Constant> {
    tables.iter().flat_map(|table| table.constants.iter().copied().flatten())
}

/// Every name that the mirror has; a member is `struct.member`.
pub(crate) fn names(tables: &[Table]) -> HashSet<String> {
    let mut names: HashSet<String> = constants(tables).map(|constant| constant.name.to_owned()).collect();
    for layout in tables.iter().flat_map(|table| table.structs) {
        names.insert(layout.name.to_owned());
        let members = layout.fields.iter().flat_map(|field| field.members);
        names.extend(members.map(|member| format!("{}.{}", layout.name, member.name)));
    }
    names
}

/// The size that the struct had in that release.
fn size(layout: &Layout, release: Release) -> usize {
    let older = layout.older_sizes.iter().rev().find(|(since, _)| Release::of(since) <= release);
    older.map_or(layout.size, |(_, size)| *size)
}

fn int(size: usize) -> i128 {
    size.try_into().expect("a size in a table is small")
}
