// SPDX-License-Identifier: MIT OR Apache-2.0
//! The README's servers: their length, and that they are what is run. `tests/device_readme.rs` runs them.
#![allow(clippy::unwrap_used, reason = "a test ends where something is wrong")]

const README: &str = include_str!("../README.md");

/// What `build.rs` cut out, which is what `examples/readme-*.rs` are.
const PROGRAMS: [(&str, &str); 4] = [
    ("readme-type", include_str!(concat!(env!("OUT_DIR"), "/readme-type.rs"))),
    ("readme-closure", include_str!(concat!(env!("OUT_DIR"), "/readme-closure.rs"))),
    ("readme-poll", include_str!(concat!(env!("OUT_DIR"), "/readme-poll.rs"))),
    ("readme-block-on", include_str!(concat!(env!("OUT_DIR"), "/readme-block-on.rs"))),
];

/// The blocks of Rust in a text, as a reader of it sees them.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block: Option<String> = None;
    for line in text.lines() {
        match (&mut block, line) {
            (None, line) if line.starts_with("```rust") => block = Some(String::new()),
            (Some(_), "```") => blocks.extend(block.take()),
            (Some(text), line) => text.extend([line, "\n"]),
            (None, _) => {}
        }
    }
    blocks
}

#[test]
fn every_block_of_rust_in_the_readme_is_a_program_that_is_run() {
    let blocks = blocks(README);
    assert_eq!(blocks.len(), PROGRAMS.len());
    for (block, (name, program)) in blocks.iter().zip(PROGRAMS) {
        assert_eq!(block, program, "{name}");
    }
}

#[test]
fn the_documentation_of_the_crate_shows_the_servers_of_the_readme() {
    let source = include_str!("../ublk/src/lib.rs");
    let lines = source.lines().filter_map(|line| line.strip_prefix("//!"));
    let docs: String = lines.flat_map(|line| [line.strip_prefix(' ').unwrap_or(line), "\n"]).collect();
    assert_eq!(blocks(&docs), blocks(README));
}

#[test]
fn each_server_of_the_readme_has_20_lines_or_fewer_with_every_line_counted() {
    for (name, program) in PROGRAMS {
        // Lines of `use` and empty ones too.
        let lines = program.lines().count();
        println!("{name}: {lines} lines");
        assert!((1..=20).contains(&lines), "{name} has {lines}");
        let longest = program.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(longest <= 110, "{name} has a line of {longest} characters");
    }
}

#[test]
fn no_server_of_the_readme_has_unsafe_code() {
    for (name, program) in PROGRAMS {
        assert!(!program.contains("unsafe"), "{name}");
        // The compiler's own word for it.
        let path = format!("{}/examples/{name}.rs", env!("CARGO_MANIFEST_DIR"));
        let around = std::fs::read_to_string(path).unwrap();
        assert!(around.contains("#![forbid(unsafe_code)]\n"), "{name}");
        assert!(around.contains(&format!("include!(concat!(env!(\"OUT_DIR\"), \"/{name}.rs\"));\n")), "{name}");
    }
}
