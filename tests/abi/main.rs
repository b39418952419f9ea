// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ublk-sys` against the C headers: a C compiler is asked what it makes of them, and the headers' text is searched for
//! what we lack.
#![allow(clippy::expect_used, reason = "a test that cannot go on says why")]

mod header;
mod oracle;

use std::collections::HashSet;

use header::{Headers, Release};
use oracle::Question;
use ublk_sys::layout::{Layout, TABLES};

/// Mirrored files, for tests that read them as text.
const SOURCES: [&str; 4] = [
    include_str!("../../ublk-sys/src/ublk_cmd.rs"),
    include_str!("../../ublk-sys/src/io_uring.rs"),
    include_str!("../../ublk-sys/src/blkzoned.rs"),
    include_str!("../../ublk-sys/src/fs.rs"),
];

/// What `ublk_cmd.h` defines and we do not mirror, and why.
const NOT_MIRRORED: [(&str, &str); 1] = [("USER_BLK_DRV_CMD_INC_H", "the header's include guard")];

/// Headers of the release that is mirrored.
fn mirrored_headers() -> Headers {
    let wanted = Release::of(ublk_sys::layout::LINUX);
    let found = Headers::all().into_iter().find(|headers| headers.release == wanted);
    found.expect("the headers of the mirrored release are in target/headers")
}

#[test]
#[cfg_attr(not(all(have_cc, have_headers)), ignore = "needs a C compiler, and kernel headers in target/headers")]
fn every_item_is_what_a_c_compiler_makes_of_the_mirrored_headers() {
    let headers = mirrored_headers();
    let (mut questions, absences) = oracle::questions(&headers);
    questions.extend(oracle::questions_about_functions());
    assert!(questions.len() > 700, "only {} questions", questions.len());
    let mut differences = oracle::ask(&headers, &questions, "mirrored");
    differences.extend(absences);
    assert!(differences.is_empty(), "\n{}", differences.join("\n"));
}

#[test]
#[cfg_attr(not(all(have_cc, have_headers)), ignore = "needs a C compiler, and kernel headers in target/headers")]
fn every_item_is_in_the_headers_of_each_release_since_the_one_it_names() {
    let mut differences = Vec::new();
    for headers in Headers::all() {
        if headers.release > Release::of(ublk_sys::layout::LINUX) {
            continue; // A newer release may fill a hole that has a name of its own here.
        }
        let (questions, absences) = oracle::questions(&headers);
        differences.extend(absences);
        differences.extend(oracle::ask(&headers, &questions, "release"));
    }
    assert!(differences.is_empty(), "\n{}", differences.join("\n"));
}

#[test]
#[cfg_attr(not(all(have_cc, have_headers)), ignore = "needs a C compiler, and kernel headers in target/headers")]
fn a_wrong_offset_or_value_is_seen() {
    let wrong = |what: &str, c: &str, rust| Question { what: what.into(), c: c.into(), rust };
    let differences = oracle::ask(
        &mirrored_headers(),
        &[
            wrong("offset of ublksrv_io_cmd.addr", "offsetof(struct ublksrv_io_cmd, addr)", 4),
            wrong("UBLK_IO_RES_ABORT", "UBLK_IO_RES_ABORT", 19),
            wrong("UBLK_F_QUIESCE", "UBLK_F_QUIESCE", 1 << 12),
            wrong("UBLKSRV_IO_INTEGRITY_FLAG", "UBLKSRV_IO_INTEGRITY_FLAG", 1 << 30),
        ],
        "wrong",
    );
    let linux = mirrored_headers().release;
    assert_eq!(
        differences,
        [
            format!("Linux {linux}: offset of ublksrv_io_cmd.addr: C has 8, Rust has 4"),
            format!("Linux {linux}: UBLK_IO_RES_ABORT: C has -19, Rust has 19"),
            format!("Linux {linux}: UBLKSRV_IO_INTEGRITY_FLAG: C has 4611686018427387904, Rust has 1073741824"),
        ]
    );
}

#[test]
#[cfg_attr(not(have_headers), ignore = "needs kernel headers in target/headers")]
fn nothing_of_ublk_cmd_h_is_missing() {
    let text = mirrored_headers().text("linux/ublk_cmd.h");
    let table = TABLES.iter().find(|table| table.header == "linux/ublk_cmd.h").expect("it is mirrored");
    let mut missing = Vec::new();

    let mut constants: HashSet<&str> = table.constants.iter().copied().flatten().map(|it| it.name).collect();
    constants.extend(NOT_MIRRORED.map(|(name, _)| name));
    let defines = text.defines();
    assert!(defines.len() > 100, "only {} macros found", defines.len());
    missing.extend(defines.into_iter().filter(|name| !constants.contains(name)).map(str::to_owned));

    let structs = text.structs();
    assert!(structs.len() > 15, "only {} structs found", structs.len());
    for (name, members) in structs {
        let layout = table.structs.iter().find(|it| it.name == name);
        let known: HashSet<&str> = layout.map(current_members).unwrap_or_default();
        missing.extend(members.iter().filter(|it| !known.contains(*it)).map(|it| format!("{name}.{it}")));
    }

    let functions = text.functions();
    assert!(functions.len() > 5, "only {} functions found", functions.len());
    let source = SOURCES[0];
    missing
        .extend(functions.into_iter().filter(|it| !source.contains(&format!("pub const fn {it}("))).map(str::to_owned));

    assert!(missing.is_empty(), "not mirrored: {}", missing.join(", "));
}

/// The C names of a struct's members, without those that have left the header.
fn current_members(layout: &Layout) -> HashSet<&'static str> {
    let members = layout.fields.iter().flat_map(|field| field.members);
    members.filter(|member| member.until.is_empty()).map(|member| member.name).collect()
}

#[test]
fn every_public_item_is_in_the_tables_and_says_since_when() {
    let structs: HashSet<&str> = TABLES.iter().flat_map(|table| table.structs).map(|it| it.name).collect();
    let constants: HashSet<&str> =
        TABLES.iter().flat_map(|table| table.constants).copied().flatten().map(|it| it.name).collect();
    let mut found = HashSet::new();
    for source in SOURCES {
        for line in source.lines().map(str::trim_start) {
            if let Some(rest) = line.strip_prefix("pub struct ") {
                let name = rest.trim_end_matches(" {");
                assert!(structs.contains(name), "struct {name} has no table row");
                found.insert(name);
            } else if let Some(rest) = line.strip_prefix("pub const ").filter(|rest| !rest.starts_with("fn ")) {
                let name = rest.split(':').next().unwrap_or_default();
                assert!(constants.contains(name), "{name} has no table row");
                found.insert(name);
            }
        }
    }
    assert_eq!(found.len(), structs.len() + constants.len(), "an item is made where this test does not look");

    for layout in TABLES.iter().flat_map(|table| table.structs) {
        let declaration = format!("pub struct {} {{", layout.name);
        let source = SOURCES.iter().find(|source| source.contains(&declaration)).expect("found above");
        let above = source.split(&declaration).next().unwrap_or_default();
        let documented = above.rsplit("/// Since Linux ").next().unwrap_or_default();
        assert!(documented.starts_with(&format!("{}.\n", layout.since)), "{} does not say since when", layout.name);
    }
}

#[test]
fn no_name_stands_twice() {
    let mut names = HashSet::new();
    for table in TABLES {
        let constants = table.constants.iter().copied().flatten().map(|it| it.name);
        for name in table.structs.iter().map(|it| it.name).chain(constants) {
            assert!(names.insert(name), "{name} stands twice");
        }
    }
}
