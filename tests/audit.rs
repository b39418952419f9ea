// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an auditor checks first: which packages come in, where unsafe code is, and that the papers say the same.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is wrong")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Every Rust file of the project below `folder`, as a path from the root.
fn rust_files(folder: &str) -> Vec<String> {
    let mut folders: Vec<PathBuf> = vec![root().join(folder)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            } else if name.ends_with(".rs") {
                files.push(path.strip_prefix(root()).unwrap().to_string_lossy().into_owned());
            }
        }
    }
    files.sort();
    files
}

#[test]
fn the_lock_file_holds_our_packages_and_two_more() {
    let lock = read("Cargo.lock");
    let mut names: Vec<&str> =
        lock.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"')).collect();
    names.sort_unstable();
    assert_eq!(names, ["libc", "static_assertions", "ublk", "ublk-conformance", "ublk-sys", "xtask"]);

    let sources = lock.lines().filter(|line| line.starts_with("source = ")).count();
    assert_eq!(sources, 2, "only libc and static_assertions come from outside");
}

#[test]
fn the_crates_depend_on_what_the_readme_says_and_build_nothing_of_their_own() {
    let dependencies = |manifest: &str| {
        let manifest = read(manifest);
        assert!(!manifest.contains("build ="), "no build script");
        assert!(!manifest.contains("proc-macro"), "no proc macro");
        let (_, section) = manifest.split_once("[dependencies]\n").unwrap();
        let section = section.split("\n[").next().unwrap();
        section
            .lines()
            .filter_map(|line| line.split('.').next())
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(dependencies("ublk-sys/Cargo.toml"), ["static_assertions"]);
    assert_eq!(dependencies("ublk/Cargo.toml"), ["libc", "static_assertions", "ublk-sys"]);
    assert!(!root().join("ublk/build.rs").exists() && !root().join("ublk-sys/build.rs").exists());
}

#[test]
fn every_file_states_its_licence() {
    for file in rust_files(".") {
        assert!(read(&file).starts_with("// SPDX-License-Identifier: MIT OR Apache-2.0\n"), "{file}");
    }
}

#[test]
fn safety_md_lists_exactly_the_files_with_unsafe_code() {
    let opened: BTreeSet<String> = ["ublk/src", "ublk-sys/src"]
        .iter()
        .flat_map(|folder| rust_files(folder))
        .filter(|file| read(file).contains("#![expect(unsafe_code"))
        .collect();
    let safety = read("SAFETY.md");
    // The table's rows start with the path in backticks.
    let listed: BTreeSet<String> = safety
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .filter(|path| path.ends_with(".rs"))
        .map(str::to_owned)
        .collect();
    assert_eq!(opened, listed);
    assert!(opened.len() <= 10, "unsafe code is in at most ten files");
    for file in rust_files("ublk/src").iter().chain(&rust_files("ublk-sys/src")) {
        assert!(opened.contains(file) || !read(file).contains("unsafe {"), "{file} is not on the list");
    }
}

#[test]
fn every_invariant_that_a_comment_names_is_in_safety_md() {
    let safety = read("SAFETY.md");
    for file in rust_files("ublk/src") {
        for line in read(&file).lines().filter(|line| line.trim_start().starts_with("//")) {
            let words = line.split(|c: char| !c.is_ascii_alphanumeric());
            for word in words.filter(|word| is_invariant(word)) {
                assert!(safety.contains(&format!("**{word}**")), "{file} names {word}");
            }
        }
    }
}

/// A letter and a digit: M1, Q2.
fn is_invariant(word: &str) -> bool {
    matches!(word.as_bytes(), [letter, digit] if b"MGSCQBPR".contains(letter) && digit.is_ascii_digit())
}

#[test]
fn only_one_file_calls_libc() {
    for file in rust_files("ublk/src").iter().filter(|file| *file != "ublk/src/syscall.rs") {
        for line in read(file).lines().filter(|line| !line.trim_start().starts_with("//")) {
            for (_, behind) in line.match_indices("libc::").map(|(at, found)| line.split_at(at + found.len())) {
                // Constants are upper case, and `$name` is the errno table's.
                let constant = behind.starts_with(|c: char| c.is_ascii_uppercase() || c == '$');
                assert!(constant, "{file}: {line}");
            }
        }
    }
}

/// The code blocks of a file's doc comments: what stands behind the opening fence, and the lines.
fn code_blocks(source: &str) -> Vec<(String, Vec<String>)> {
    let mut blocks: Vec<(String, Vec<String>)> = Vec::new();
    let mut open = false;
    for line in source.lines() {
        let line = line.trim_start();
        let Some(text) = line.strip_prefix("///").or_else(|| line.strip_prefix("//!")) else { continue };
        let text = text.strip_prefix(' ').unwrap_or(text);
        match (text.strip_prefix("```"), blocks.last_mut()) {
            (Some(_), _) if open => open = false,
            (Some(kind), _) => {
                blocks.push((kind.to_owned(), Vec::new()));
                open = true;
            }
            (None, Some((_, lines))) if open => lines.push(text.to_owned()),
            (None, _) => {}
        }
    }
    blocks
}

#[test]
fn what_must_not_compile_stands_before_a_twin_that_does_and_differs_in_one_line() {
    let mut pairs = 0;
    for file in rust_files("ublk/src") {
        let blocks = code_blocks(&read(&file));
        for (at, (kind, lines)) in blocks.iter().enumerate() {
            let Some(code) = kind.strip_prefix("compile_fail") else { continue };
            assert!(code.starts_with(",E0"), "{file}: {kind} does not say for which error");
            let (twin_kind, twin) = blocks.get(at + 1).unwrap_or_else(|| panic!("{file}: no twin of {lines:#?}"));
            assert!(!twin_kind.contains("compile_fail") && !twin_kind.contains("ignore"), "{file}: {lines:#?}");
            assert_eq!(lines.len(), twin.len(), "{file}: {lines:#?}");
            let differing = lines.iter().zip(twin).filter(|(one, other)| one != other).count();
            assert_eq!(differing, 1, "{file}: {lines:#?}");
            pairs += 1;
        }
    }
    assert!(pairs > 0);
}

#[test]
fn whether_a_public_type_is_send_and_sync_is_asserted() {
    let sources: Vec<String> = rust_files("ublk/src").iter().map(|file| read(file)).collect();
    let all = sources.concat();
    let mut types: BTreeSet<String> = BTreeSet::new();
    for line in all.lines() {
        let declared = ["pub struct ", "pub enum "].iter().find_map(|words| line.strip_prefix(words));
        let name = declared.map(|rest| rest.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default());
        types.extend(name.map(str::to_owned));
    }
    // These two have no value.
    let without = |name: &&String| !["Wide", "Local"].contains(&name.as_str());
    for name in types.iter().filter(without) {
        let asserted = |trait_name: &str| {
            all.lines().filter(|line| line.trim_start().starts_with("static_assertions::assert_")).any(|line| {
                let (_, about) = line.split_once("!(").unwrap_or_default();
                let (subject, traits) = about.split_once(": ").unwrap_or_default();
                subject.split(['<']).next() == Some(name) && traits.contains(trait_name)
            })
        };
        assert!(asserted("Send") && asserted("Sync"), "{name}");
    }
}

#[test]
fn every_test_that_security_md_names_exists_and_every_claim_of_its_tables_has_one() {
    let sources: String =
        ["tests", "ublk/src"].iter().flat_map(|folder| rust_files(folder)).map(|file| read(&file)).collect();
    let security = read("SECURITY.md");
    // A test's name is a sentence; nothing else in the paper looks like that.
    let is_test = |word: &&str| {
        word.matches('_').count() >= 3 && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let named: BTreeSet<&str> = security.split('`').skip(1).step_by(2).filter(is_test).collect();
    assert!(named.len() > 40, "{}", named.len());
    for name in named {
        assert!(sources.contains(&format!("fn {name}()")), "SECURITY.md names {name}, which is no test");
    }
    // The tables of threats have three columns, the last of which names tests, unless nothing stops it.
    for row in security.lines().filter(|line| line.starts_with("| ") && line.matches(" |").count() == 3) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [what, stops, shown] = cells[..] else { panic!("{row}") };
        let is_shown = shown == "shown by" || shown.split('`').skip(1).step_by(2).any(|word| is_test(&word));
        assert!(is_shown || stops.starts_with("nothing"), "{what}: no test shows it");
    }
}
