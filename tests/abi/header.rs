// SPDX-License-Identifier: MIT OR Apache-2.0
//! A release's C headers: where they are, which release they are of, and what their text defines.

use core::fmt;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// A Linux release: `6.12`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Release {
    major: u32,
    minor: u32,
}

impl Release {
    /// The release that `6.12` or `6.12.9` names.
    pub(crate) fn of(name: &str) -> Self {
        let mut numbers = name.split('.').map(|number| number.parse().expect("a release is numbers and dots"));
        let mut next = || numbers.next().expect("a release has two numbers");
        Self { major: next(), minor: next() }
    }
}

impl fmt::Display for Release {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)
    }
}

/// The headers of one release.
#[derive(Debug)]
pub(crate) struct Headers {
    /// Folders for the compiler to search.
    pub(crate) folders: [PathBuf; 2],
    pub(crate) release: Release,
}

impl Headers {
    /// Those in `target/headers`, oldest first.
    pub(crate) fn all() -> Vec<Self> {
        let folders = env::split_paths(option_env!("ABI_HEADERS").unwrap_or_default());
        let mut all: Vec<Self> = folders.filter(|folder| folder.is_dir()).map(Self::at).collect();
        all.sort_by_key(|headers| headers.release);
        all
    }

    fn at(folder: PathBuf) -> Self {
        let release = release_of(&folder).expect("linux/version.h says which release it is");
        // Where Debian has what differs between architectures; elsewhere all is in one folder.
        let of_architecture = folder.join(format!("{}-linux-gnu", env::consts::ARCH));
        Self { folders: [folder, of_architecture], release }
    }

    /// The text of the header `name`; empty where the release does not have it.
    pub(crate) fn text(&self, name: &str) -> Text {
        let text = fs::read_to_string(self.folders[0].join(name)).unwrap_or_default();
        Text(without_comments(&text))
    }

    /// Whether the release has the header `name`.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.folders[0].join(name).is_file()
    }
}

/// What `linux/version.h` says.
fn release_of(folder: &Path) -> Option<Release> {
    let text = fs::read_to_string(folder.join("linux/version.h")).ok()?;
    let code = text.lines().find_map(|line| line.strip_prefix("#define LINUX_VERSION_CODE "))?;
    let code: u32 = code.trim().parse().ok()?;
    Some(Release { major: code >> 16, minor: code >> 8 & 0xff })
}

/// A header's text without its comments.
pub(crate) struct Text(String);

impl Text {
    /// Whether `name` stands anywhere.
    pub(crate) fn names(&self, name: &str) -> bool {
        names(&self.0, name)
    }

    /// Between the braces of `struct name { ... };`.
    pub(crate) fn body(&self, name: &str) -> Option<&str> {
        let start = format!("struct {name} {{");
        let body = &self.0[self.0.find(&start)? + start.len()..];
        let mut depth = 1_u32;
        let end = body.find(|c: char| {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            depth == 0
        })?;
        Some(&body[..end])
    }

    /// The name of each macro.
    pub(crate) fn defines(&self) -> Vec<&str> {
        let directives = self.0.lines().filter_map(|line| line.trim_start().strip_prefix("#define"));
        directives.filter_map(|rest| words(rest).next()).collect()
    }

    /// Each struct's name, and its members' names with those of unnamed structs and unions in it.
    pub(crate) fn structs(&self) -> Vec<(&str, Vec<&str>)> {
        let names = self.0.lines().filter_map(|line| line.strip_prefix("struct ")?.strip_suffix(" {"));
        names.filter_map(|name| Some((name, members(self.body(name)?)))).collect()
    }

    /// The name of each inline function.
    pub(crate) fn functions(&self) -> Vec<&str> {
        let definitions = self.0.split("static __inline__").skip(1);
        definitions.filter_map(|text| words(text.split('(').next()?).last()).collect()
    }
}

/// The names that a struct's body declares.
fn members(body: &str) -> Vec<&str> {
    let declarations = body.split(['{', '}', ';']);
    declarations
        .filter_map(|declaration| {
            // A macro may stand among the members. What it defines is not one of them.
            let declaration = declaration.rsplit('\n').find(|line| !line.trim().is_empty())?;
            words(declaration.split('[').next()?).last()
        })
        .filter(|word| !["struct", "union"].contains(word))
        .collect()
}

/// Whether `name` stands anywhere in `text`.
pub(crate) fn names(text: &str, name: &str) -> bool {
    words(text).any(|word| word == name)
}

/// What could be a name in C.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

fn without_comments(text: &str) -> String {
    let mut rest = text;
    let mut code = String::new();
    while let Some((before, after)) = rest.split_once("/*") {
        code += before;
        rest = after.split_once("*/").map_or("", |(_, after)| after);
    }
    let code = code + rest;
    code.lines().map(|line| line.split("//").next().unwrap_or_default().trim_end()).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_header_is_read_as_c_reads_it() {
    let text = Text(without_comments(
        "/* struct no { int a; }; */\n#define\tONE 1 // not TWO\nstruct s {\n\t__u32 a; /* b */\n#define IN 1\n\t__u8 c[4];\n\
         \tunion {\n\t\t__u64 d;\n\t\tstruct { __u32 e; } ;\n\t};\n};\nstatic __inline__ __u8 f(const struct s *s)\n{\n}\n",
    ));
    assert_eq!(text.defines(), ["ONE", "IN"]);
    assert_eq!(text.structs(), [("s", vec!["a", "c", "d", "e"])]);
    assert_eq!(text.functions(), ["f"]);
    assert!(text.names("ONE") && !text.names("TWO") && !text.names("ON"));
}
