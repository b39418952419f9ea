// SPDX-License-Identifier: MIT OR Apache-2.0
//! How each rule is broken, or why it cannot be; and whether the cause that was planted is the one that is named.

use std::fmt::Write;

use ublk::Errno;
use ublk::diagnosis::{Cause, Rule, Sqe, causes, causes_of_command, rules};

use super::scene::{Planted, Refused, Scene};

pub type Plant = fn(Scene) -> Planted;

/// How a rule is broken.
#[derive(Clone, Copy, Debug)]
pub enum How {
    /// So, on every kernel that has the rule.
    Planted(Plant),
    /// So, from this release on; on older ones it cannot be, for this reason.
    PlantedFrom((u16, u16), Plant, &'static str),
    /// So, before this release; from it on it cannot be, for this reason.
    PlantedBefore((u16, u16), Plant, &'static str),
    /// Not at all, for this reason.
    Unreachable(&'static str),
}

/// A rule by its id, and how it is broken.
pub type Row = (&'static str, How);

/// What a row comes to on one kernel.
pub enum Here {
    NotOnThisKernel,
    Unreachable(&'static str),
    Planted(Plant),
}

pub fn rule(id: &str) -> &'static Rule {
    rules().find(|rule| rule.id() == id).unwrap_or_else(|| panic!("there is no rule {id}"))
}

pub fn here(row: &Row, kernel: (u16, u16)) -> Here {
    match row.1 {
        _ if !rule(row.0).is_in(kernel) => Here::NotOnThisKernel,
        How::Unreachable(why) => Here::Unreachable(why),
        How::PlantedFrom(from, _, why) if kernel < from => Here::Unreachable(why),
        How::PlantedBefore(from, _, why) if kernel >= from => Here::Unreachable(why),
        How::Planted(plant) | How::PlantedFrom(_, plant, _) | How::PlantedBefore(_, plant, _) => Here::Planted(plant),
    }
}

/// What is wrong with what the crate says of a refusal.
pub fn wrong(id: &str, planted: &Planted) -> Option<String> {
    let rule = rule(id);
    let mut said = String::new();
    let mut expect = |what: &str, named: Vec<Cause>| {
        if named.first().map(Cause::id) != Some(id) {
            let named: Vec<(&str, bool)> = named.iter().map(|cause| (cause.id(), cause.is_certain())).collect();
            writeln!(said, "{id}: {what}: {named:?}").unwrap();
        }
        named.first().is_some_and(Cause::is_certain)
    };
    match &planted.refused {
        Refused::Error(error) => {
            expect(&format!("causes of {error:?}"), causes(error, &planted.environment).collect());
        }
        Refused::Entry(sqe, result) => {
            let sqe = Sqe::from_bytes(sqe).unwrap();
            let of = |errno| causes_of_command(&sqe, errno, &planted.environment).collect();
            let errno = (*result < 0).then(|| Errno::from_raw(-result));
            // What is certain has to be known without the answer too.
            if errno.is_none() || expect(&format!("causes of {errno:?}"), of(errno)) {
                expect("causes without the answer", of(None));
            }
            if rule.errno().is_some() && rule.errno() != errno {
                writeln!(said, "{id}: the rule says {:?}, and the kernel answered {result}", rule.errno()).unwrap();
            }
        }
    }
    if said.is_empty() {
        return None;
    }
    writeln!(said, "    {:?}", planted.environment).unwrap();
    Some(said)
}
