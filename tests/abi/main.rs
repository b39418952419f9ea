// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ublk-sys` against the kernels: what a C compiler makes of each release's headers, and what each release's driver says
//! that it can.
//!
//! The answers are kept in `records/`, a file for each release, and compared with the mirror's tables wherever this runs.
//! Where there are headers and a C compiler, it is asked again, and must say the same.
#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot go on says why")]
#![allow(clippy::print_stdout, reason = "`cargo xtask abi` shows what they report")]

mod compare;
mod facts;
mod header;
mod oracle;
mod scope;
mod scratch;
mod shown;

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use compare::compare;
use facts::{Fact, Facts, is_recording};
use header::{Headers, Release};
use ublk_sys::layout::{Constant, Layout, Member, TABLES, Table};

/// Mirrored files, for tests that read them as text.
const SOURCES: [&str; 5] = [
    include_str!("../../ublk-sys/src/ublk_cmd.rs"),
    include_str!("../../ublk-sys/src/io_uring.rs"),
    include_str!("../../ublk-sys/src/blkzoned.rs"),
    include_str!("../../ublk-sys/src/fs.rs"),
    include_str!("../../ublk-sys/src/blkdev.rs"),
];

/// The table in ABI.md stands between these.
const TABLE_START: &str = "<!-- since: written by `cargo xtask abi --record` -->\n";
const TABLE_END: &str = "<!-- since: end -->\n";

/// Headers of the release that is mirrored.
fn mirrored_headers() -> Headers {
    let wanted = Release::of(ublk_sys::layout::LINUX);
    let found = Headers::all().into_iter().find(|headers| headers.release == wanted);
    found.expect("the headers of the mirrored release are in target/headers")
}

/// The record of the release that is mirrored.
fn mirrored_record() -> Facts {
    let wanted = Release::of(ublk_sys::layout::LINUX);
    facts::records().into_iter().find(|facts| facts.release == wanted).expect("the mirrored release has a record")
}

/// Compares what was found of a release with its record.
fn compare_with_record(found: &Facts, differences: &mut Vec<String>) {
    let Some(record) = facts::records().into_iter().find(|record| record.release == found.release) else {
        differences.push(format!("Linux {} has no record: `cargo xtask abi --record` writes it", found.release));
        return;
    };
    let of_driver = !found.have_headers();
    let record = Facts::new(record.release, record.of_section(|section| (section == facts::DRIVER) == of_driver));
    differences.extend(found.differences(&record, "its record"));
}

#[test]
#[cfg_attr(not(all(have_cc, have_headers)), ignore = "needs a C compiler, and kernel headers in target/headers")]
fn the_headers_at_hand_are_what_the_mirror_and_the_records_say() {
    let mut differences = Vec::new();
    for headers in Headers::all() {
        let found = Facts::of_headers(&headers);
        assert!(found.all.len() > 500, "only {} facts", found.all.len());
        let outcome = compare(TABLES, &found);
        println!(
            "\nabi: headers of Linux {}: {} items checked with {} answers, {} are not of its time",
            headers.version,
            outcome.compared,
            found.all.len(),
            outcome.younger
        );
        differences.extend(outcome.differences);
        compare_with_record(&found, &mut differences);
    }
    report(&differences);
}

#[test]
fn drivers_at_hand_say_what_the_mirror_and_the_records_say() {
    let mut differences = Vec::new();
    for found in facts::drivers_at_hand() {
        let outcome = compare(TABLES, &found);
        let features = found.features().unwrap_or_default();
        println!(
            "\nabi: driver of Linux {}, which says {features:#x}: {} items checked, {} features are not of its time",
            found.release, outcome.compared, outcome.younger
        );
        differences.extend(outcome.differences);
        compare_with_record(&found, &mut differences);
    }
    report(&differences);
}

#[test]
fn every_record_is_what_the_mirror_says() {
    let here: Vec<Release> = Headers::all().iter().map(|headers| headers.release).collect();
    let drivers: Vec<Release> = facts::drivers_at_hand().iter().map(|facts| facts.release).collect();
    let records = facts::records();
    assert!(records.len() >= 7, "only {} records", records.len());
    let mut differences = Vec::new();
    for record in records {
        let outcome = compare(TABLES, &record);
        assert!(outcome.compared >= 8, "Linux {}: only {} items compared", record.release, outcome.compared);
        let release = record.release;
        if record.have_headers() && !here.contains(&release) {
            println!("\nabi: headers of Linux {release}, as recorded: {} items checked", outcome.compared);
        }
        if record.features().is_some() && !drivers.contains(&release) {
            println!("\nabi: driver of Linux {release}, as recorded: its features and structs checked");
        }
        differences.extend(outcome.differences);
    }
    report(&differences);
}

/// Fails if there are any, and says them.
fn report(differences: &[String]) {
    for difference in differences {
        println!("\nabi: {difference}");
    }
    assert!(differences.is_empty(), "\n{}", differences.join("\n"));
}

#[test]
#[cfg_attr(not(all(have_cc, have_headers)), ignore = "needs a C compiler, and kernel headers in target/headers")]
fn what_the_mirrored_headers_compute_is_what_rust_computes() {
    let headers = mirrored_headers();
    let questions = oracle::computed();
    let answers = oracle::answers(&headers, questions.iter().map(|(c, _)| &**c), "computed");
    let pairs = questions.iter().zip(answers).filter(|((_, rust), answer)| rust != answer);
    let wrong: Vec<String> = pairs.map(|((c, rust), answer)| format!("{c}: C has {answer}, Rust has {rust}")).collect();
    report(&wrong);
}

#[test]
#[cfg_attr(not(have_headers), ignore = "needs kernel headers in target/headers")]
fn every_function_and_macro_with_arguments_of_ublk_cmd_h_is_mirrored() {
    for headers in Headers::all() {
        let text = headers.text("linux/ublk_cmd.h");
        let missing: Vec<String> = text
            .functions()
            .into_iter()
            .filter(|it| !SOURCES[0].contains(&format!("pub const fn {it}(")))
            .map(|it| {
                format!("Linux {} has {it}() in ublk_cmd.h: it goes to ublk-sys/src/ublk_cmd.rs", headers.release)
            })
            .collect();
        report(&missing);
    }
    assert!(mirrored_headers().text("linux/ublk_cmd.h").functions().len() > 5, "few functions found");
}

#[test]
fn what_is_left_out_is_there_and_is_not_mirrored() {
    let mirrored = compare::names(TABLES);
    let records = facts::records();
    for (reason, names) in scope::LEFT_OUT {
        assert!(!reason.is_empty());
        for name in *names {
            assert!(!mirrored.contains(*name), "{name} is mirrored and left out");
            let facts = [(*name).to_owned(), format!("sizeof {name}"), format!("offsetof {name}")];
            let there = records.iter().any(|record| facts.iter().any(|fact| record.value(fact).is_some()));
            assert!(there, "{name} is left out and nowhere");
        }
    }
    for table in TABLES {
        assert!(scope::PARTS.iter().any(|part| part.header == table.header), "{} is in no scope", table.header);
    }
}

#[test]
fn the_table_in_abi_md_is_what_the_records_show() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("ABI.md");
    let text = fs::read_to_string(&path).expect("ABI.md can be read");
    let (before, rest) = text.split_once(TABLE_START).expect("the start of the table is marked");
    let (table, after) = rest.split_once(TABLE_END).expect("the end of the table is marked");
    let shown = shown::table(&facts::records());
    for line in shown.lines() {
        println!("\nabi: {line}");
    }
    if is_recording() {
        fs::write(&path, [before, TABLE_START, &shown, "\n", TABLE_END, after].concat())
            .expect("ABI.md can be written");
        return;
    }
    let differing = shown.lines().zip(table.lines()).find(|(one, other)| one != other);
    let current = table.trim_end() == shown.trim_end();
    assert!(current, "`cargo xtask abi --record` writes the table anew: {differing:?}");
}

/// The tables of the mirror, with one of them changed.
fn altered(header: &str, change: impl FnOnce(&mut Vec<Constant>, &mut Vec<Layout>)) -> Vec<Table> {
    let mut tables = TABLES.to_vec();
    let table = tables.iter_mut().find(|table| table.header == header).expect("it is mirrored");
    let mut constants: Vec<Constant> = table.constants.iter().copied().flatten().copied().collect();
    let mut structs = table.structs.to_vec();
    change(&mut constants, &mut structs);
    table.constants = Box::leak(Box::new([&*constants.leak()]));
    table.structs = structs.leak();
    tables
}

fn constant<'a>(constants: &'a mut [Constant], name: &str) -> &'a mut Constant {
    constants.iter_mut().find(|constant| constant.name == name).expect("there is one of that name")
}

#[test]
fn one_offset_one_constant_one_since_and_one_deletion_are_each_seen() {
    let record = mirrored_record();
    let linux = record.release;
    assert_eq!(compare(TABLES, &record).differences, [""; 0]);

    let tables = altered("linux/io_uring.h", |_, structs| {
        let layout = structs.iter_mut().find(|layout| layout.name == "io_uring_sqe").expect("it is mirrored");
        let mut fields = layout.fields.to_vec();
        let field = fields.iter_mut().find(|field| field.name == "off").expect("it has one");
        let mut members: Vec<Member> = field.members.to_vec();
        members.iter_mut().find(|member| member.name == "cmd_op").expect("it is there").offset = 12;
        field.members = members.leak();
        layout.fields = fields.leak();
    });
    let differences = compare(&tables, &record).differences;
    assert_eq!(differences, [format!("Linux {linux}: offsetof io_uring_sqe.cmd_op: C has 8, Rust has 12")]);

    let tables = altered("linux/ublk_cmd.h", |constants, _| constant(constants, "UBLK_IO_RES_ABORT").value = 19);
    let differences = compare(&tables, &record).differences;
    assert_eq!(differences, [format!("Linux {linux}: UBLK_IO_RES_ABORT: C has -19, Rust has 19")]);

    let tables = altered("linux/ublk_cmd.h", |constants, _| constants.retain(|it| it.name != "UBLK_IO_RES_ABORT"));
    let differences = compare(&tables, &record).differences;
    let [difference] = &differences[..] else { panic!("{differences:?}") };
    assert!(
        difference.starts_with(&format!("Linux {linux} has UBLK_IO_RES_ABORT in linux/ublk_cmd.h")),
        "{difference}"
    );
    assert!(difference.contains("ublk-sys/src/ublk_cmd.rs"), "{difference}");
}

#[test]
fn a_newer_header_is_a_list_of_what_goes_where() {
    let record = mirrored_record();
    let mut all = record.of_section(|section| section != facts::DRIVER);
    all.retain(|fact| !fact.what.contains("ublksrv_ctrl_dev_info.pad1"));
    let new = ["UBLK_F_NEW", "sizeof ublk_new", "offsetof ublk_new.field", "offsetof ublksrv_ctrl_dev_info.new"];
    all.extend(new.map(|what| Fact { section: "linux/ublk_cmd.h".into(), what: what.into(), value: 1 }));
    let differences = compare(TABLES, &Facts::new(Release::of("9.9"), all)).differences;
    let [gone, flag, of_struct, member] = &differences[..] else { panic!("{differences:?}") };
    assert_eq!(gone, "Linux 9.9 lacks ublksrv_ctrl_dev_info.pad1, which should be there since 6.0");
    for (sentence, name) in [(flag, "UBLK_F_NEW"), (of_struct, "ublk_new"), (member, "ublksrv_ctrl_dev_info.new")] {
        assert_eq!(
            *sentence,
            format!(
                "Linux 9.9 has {name} in linux/ublk_cmd.h, which is not mirrored: it goes to \
                 ublk-sys/src/ublk_cmd.rs, or with a reason to LEFT_OUT in tests/abi/scope.rs"
            )
        );
    }
}

#[test]
fn a_drivers_struct_that_is_not_the_mirrors_is_seen() {
    let of_driver = Release::of("6.17");
    let record = facts::records().into_iter().find(|facts| facts.release == of_driver).expect("it has a record");
    let mut all = record.all.clone();
    for fact in &mut all {
        match &*fact.what {
            "sizeof ublk_params" => fact.value = 144,
            "offsetof ublk_params.seg" => fact.value = 128,
            "offsetof ublk_params.dma" => fact.what = "offsetof ublk_params.dna".into(),
            _ => {}
        }
    }
    assert_eq!(
        compare(TABLES, &Facts::new(of_driver, all)).differences,
        [
            "the driver of Linux 6.17 has ublk_params of 144 bytes, Rust of 136",
            "the driver of Linux 6.17 lacks ublk_params.dma, which should be there since 6.15",
            "the driver of Linux 6.17 has ublk_params.seg at 128, Rust at 120",
            "the driver of Linux 6.17 has ublk_params.dna, which is not mirrored",
        ]
    );
}

#[test]
fn a_since_across_a_border_that_headers_or_drivers_show_is_seen() {
    let differences = |name: &str, since: &'static str| {
        let tables = altered("linux/ublk_cmd.h", |constants, _| constant(constants, name).since = since);
        let records = facts::records();
        records.iter().flat_map(|record| compare(&tables, record).differences).collect::<Vec<_>>()
    };
    // It came with 7.1, between the headers of 6.12 and of 7.2.
    let name = "UBLK_IO_F_SHMEM_ZC";
    assert_eq!(differences(name, "6.13"), [""; 0]);
    assert_eq!(differences(name, "6.12"), [format!("Linux 6.12 lacks {name}, which should be there since 6.12")]);
    assert_eq!(differences(name, "7.3"), [format!("Linux 7.2 has {name}, which should be there since 7.3")]);
    // It came with 6.17: the drivers show it where there are no headers.
    let name = "UBLK_F_BUF_REG_OFF_DAEMON";
    assert_eq!(
        differences(name, "6.16"),
        [format!("the driver of Linux 6.16 lacks {name}, which should be there since 6.16")]
    );
    assert_eq!(
        differences(name, "6.18"),
        [format!("the driver of Linux 6.17 has {name}, which should be there since 6.18")]
    );
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
