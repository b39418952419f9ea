// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the records show of the release that each item names: the table in ABI.md.

use core::fmt::Write as _;
use std::collections::BTreeMap;

use crate::compare::{driver_has, has_namesake, is_backported};
use crate::facts::Facts;
use crate::header::Release;
use ublk_sys::layout::{Constant, Layout, Member, TABLES, Table};

/// Between which releases something came, as far as is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Interval {
    /// The last release that lacks it.
    after: Option<Release>,
    /// The first release that has it.
    by: Option<Release>,
}

impl Interval {
    /// From each release, oldest first: whether it has the thing, or that it tells nothing.
    fn of(releases: impl IntoIterator<Item = (Release, Option<bool>)>) -> Self {
        let mut interval = Self::default();
        for (release, has) in releases {
            match has {
                Some(true) => {
                    interval.by = Some(release);
                    break;
                }
                Some(false) => interval.after = Some(release),
                None => {}
            }
        }
        interval
    }
}

/// `6.12 < since <= 7.2`.
impl core::fmt::Display for Interval {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match (self.after, self.by) {
            (None, None) => f.write_str("nothing"),
            (Some(after), None) => write!(f, "{after} < since"),
            (None, Some(by)) => write!(f, "since <= {by}"),
            (Some(after), Some(by)) => write!(f, "{after} < since <= {by}"),
        }
    }
}

/// The rows of the table: by header, release and interval, the names.
type Rows = BTreeMap<(usize, Release, String), Vec<String>>;

/// The table, as it stands in ABI.md.
pub(crate) fn table(records: &[Facts]) -> String {
    let mut rows = Rows::new();
    for (position, table) in TABLES.iter().enumerate() {
        rows_of(position, table, records, &mut rows);
    }
    let mut text = String::new();
    let mut current = None;
    for ((position, since, interval), names) in rows {
        if current != Some(position) {
            let header = TABLES.get(position).map_or("", |table| table.header);
            let _ = writeln!(text, "\n`{header}`:\n\n| since | shown | items |\n|---|---|---|");
            current = Some(position);
        }
        let _ = writeln!(text, "| {since} | {interval} | {} |", names.join(", "));
    }
    text
}

fn rows_of(position: usize, table: &Table, records: &[Facts], rows: &mut Rows) {
    let mut row = |since: &str, interval: Interval, name: String| {
        rows.entry((position, Release::of(since), interval.to_string())).or_default().push(name);
    };
    for constant in table.constants.iter().copied().flatten() {
        let shown = Interval::of(records.iter().map(|facts| (facts.release, has_constant(facts, constant))));
        row(constant.since, shown, format!("`{}`", constant.name));
    }
    for layout in table.structs {
        let fact = format!("sizeof {}", layout.name);
        // A driver that does not use a struct has no type of it.
        let drivers = |facts: &Facts| facts.drivers(&fact).map(|_| true);
        let shown =
            records.iter().map(|facts| (facts.release, has(facts, layout.name, &fact).or_else(|| drivers(facts))));
        let shown = Interval::of(shown);
        row(layout.since, shown, format!("`struct {}`", layout.name));
        // The other members came with their struct.
        let members = layout.fields.iter().flat_map(|field| field.members);
        for member in members.filter(|member| member.since != layout.since) {
            let shown = Interval::of(records.iter().map(|facts| (facts.release, has_member(facts, layout, member))));
            let until = if member.until.is_empty() { String::new() } else { format!(" until {}", member.until) };
            row(member.since, shown, format!("`{}.{}`{until}", layout.name, member.name));
        }
    }
}

/// What the release's headers show; what was brought to them early shows nothing.
fn has(facts: &Facts, name: &str, fact: &str) -> Option<bool> {
    (facts.have_headers() && !is_backported(facts.release, name)).then(|| facts.value(fact).is_some())
}

fn has_constant(facts: &Facts, constant: &Constant) -> Option<bool> {
    has(facts, constant.name, constant.name).or_else(|| driver_has(facts, constant))
}

fn has_member(facts: &Facts, layout: &Layout, member: &Member) -> Option<bool> {
    // A release that has it no more tells nothing of when it came.
    if !member.until.is_empty() && Release::of(member.until) <= facts.release {
        return None;
    }
    let path = format!("{}.{}", layout.name, member.name);
    let fact = format!("offsetof {path}");
    let Some(there) = has(facts, &path, &fact) else {
        facts.drivers(&format!("sizeof {}", layout.name))?;
        return Some(facts.drivers(&fact) == member.offset.try_into().ok());
    };
    // Another of that name, at another place or of another size, is not this one.
    let is_this = !has_namesake(layout, member)
        || facts.value(&fact) == member.offset.try_into().ok()
            && facts.value(&format!("sizeof {path}")).is_none_or(|size| Ok(size) == member.size.try_into());
    Some(there && is_this)
}

#[test]
fn an_interval_is_what_the_releases_around_it_show() {
    let release = Release::of;
    let interval = Interval::of([
        (release("6.1"), Some(false)),
        (release("6.12"), None),
        (release("6.16"), Some(false)),
        (release("7.2"), Some(true)),
        (release("7.3"), Some(true)),
    ]);
    assert_eq!(interval.to_string(), "6.16 < since <= 7.2");
    assert_eq!(Interval::of([(release("6.1"), Some(true))]).to_string(), "since <= 6.1");
    assert_eq!(Interval::of([(release("7.3"), Some(false))]).to_string(), "7.3 < since");
    assert_eq!(Interval::of([(release("7.3"), None)]).to_string(), "nothing");
}
