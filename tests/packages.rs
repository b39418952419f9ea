// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lock file is the audit: what the workspace can pull in is written there, and nowhere else.

#[test]
fn the_lock_file_holds_our_packages_and_two_more() {
    let lock = include_str!("../Cargo.lock");
    let mut names: Vec<&str> =
        lock.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"')).collect();
    names.sort_unstable();
    assert_eq!(names, ["libc", "static_assertions", "ublk", "ublk-conformance", "ublk-sys", "xtask"]);

    let sources = lock.lines().filter(|line| line.starts_with("source = ")).count();
    assert_eq!(sources, 2, "only libc and static_assertions come from outside");
}
