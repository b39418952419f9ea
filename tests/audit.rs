// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an auditor checks first: which packages come in, where unsafe code is, and that the papers say the same.
#![allow(clippy::unwrap_used, reason = "a test ends where something is wrong")]

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
    matches!(word.as_bytes(), [letter, digit] if b"MGSCQB".contains(letter) && digit.is_ascii_digit())
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
