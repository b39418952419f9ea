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
    /// As Linux numbers it: 6.12.107.
    pub(crate) version: String,
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
        let [major, minor, patch] = version_of(&folder).expect("linux/version.h says which release it is");
        // Where Debian has what differs between architectures; elsewhere all is in one folder.
        let of_architecture = folder.join(format!("{}-linux-gnu", env::consts::ARCH));
        let (release, version) = (Release { major, minor }, format!("{major}.{minor}.{patch}"));
        Self { folders: [folder, of_architecture], release, version }
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
fn version_of(folder: &Path) -> Option<[u32; 3]> {
    let text = fs::read_to_string(folder.join("linux/version.h")).ok()?;
    let code = text.lines().find_map(|line| line.strip_prefix("#define LINUX_VERSION_CODE "))?;
    let code: u32 = code.trim().parse().ok()?;
    Some([code >> 16, code >> 8 & 0xff, code & 0xff])
}

/// A header's text without its comments.
pub(crate) struct Text(String);

impl Text {
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

    /// The name of each macro that stands for something, without those that take arguments.
    pub(crate) fn values(&self) -> Vec<&str> {
        let directives = self.0.lines().filter_map(|line| line.trim_start().strip_prefix("#define"));
        let values = directives.map(str::trim_start).filter_map(|rest| rest.split_once([' ', '\t']));
        values.filter(|(name, _)| !name.contains('(')).map(|(name, _)| name).collect()
    }

    /// The name of each constant of each enum.
    pub(crate) fn enumerators(&self) -> Vec<&str> {
        let mut found = Vec::new();
        for text in self.0.split("enum ").skip(1) {
            let Some((head, rest)) = text.split_once('{') else { continue };
            // A field whose type is an enum has none of its constants.
            if head.contains([';', '(', ')', ',']) {
                continue;
            }
            let body = rest.split('}').next().unwrap_or_default();
            // A macro of the same name may stand among them.
            let lines = body.lines().filter(|line| !line.trim_start().starts_with('#'));
            found.extend(lines.flat_map(|line| line.split(',')).filter_map(enumerator));
        }
        found
    }

    /// Each struct's name, and its members with those of unnamed structs and unions in it.
    pub(crate) fn structs(&self) -> Vec<(&str, Vec<Declared<'_>>)> {
        let names = self.0.lines().filter_map(|line| line.strip_prefix("struct ")?.strip_suffix(" {"));
        names.filter_map(|name| Some((name, members(self.body(name)?)))).collect()
    }

    /// The name of each inline function, and of each macro that takes arguments.
    pub(crate) fn functions(&self) -> Vec<&str> {
        let definitions = self.0.split("static __inline__").skip(1);
        let functions = definitions.filter_map(|text| words(text.split('(').next()?).last());
        let directives = self.0.lines().filter_map(|line| line.trim_start().strip_prefix("#define"));
        let macros = directives.filter_map(|rest| {
            let (name, _) = rest.trim_start().split_once('(')?;
            (!name.contains(char::is_whitespace)).then_some(name)
        });
        functions.chain(macros).collect()
    }
}

/// The name at the start of `NAME = 1` or of `NAME`.
fn enumerator(text: &str) -> Option<&str> {
    let name = text.split('=').next()?.trim();
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && words(name).count() == 1;
    is_name.then_some(name)
}

/// A member that a struct's body declares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Declared<'a> {
    pub(crate) name: &'a str,
    /// An array without a length has no size.
    pub(crate) has_size: bool,
}

/// What a struct's body declares.
fn members(body: &str) -> Vec<Declared<'_>> {
    let mut found = Vec::new();
    for declaration in body.split(['{', '}', ';']) {
        // A macro may stand among the members. What it defines is not one of them.
        let Some(declaration) = declaration.rsplit('\n').find(|line| !line.trim().is_empty()) else { continue };
        // What stands behind the brace of an unnamed struct is no name.
        if declaration.trim_start().starts_with("__attribute__") {
            continue;
        }
        let flexible = declaration.contains("__DECLARE_FLEX_ARRAY");
        // Of `__u32 a, b[2]` each; of the macro the last argument.
        for declarator in declaration.split(',').skip(usize::from(flexible)) {
            let has_size = !flexible && !declarator.contains("[]");
            let name = declarator.split('[').next().and_then(|text| words(text).last());
            found.extend(name.map(|name| Declared { name, has_size }));
        }
    }
    found.retain(|member| !["struct", "union"].contains(&member.name));
    found
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
        "/* struct no { int a; }; */\n#define\tONE 1 // not TWO\n#define GUARD\n#define CALL(x) (x)\nstruct s {\n\t__u32 a; /* b */\n\
         #define IN 1\n\t__u8 c[4], f[];\n\tunion {\n\t\t__u64 d;\n\t\tstruct { __u32 e; } __attribute__((packed));\n\
         \t\t__DECLARE_FLEX_ARRAY(struct r, g);\n\t};\n};\nenum e {\n\tA\t= (1U << 0),\n#define A A\n\tB,\n\n\tC = 4\n};\n\
         static __inline__ __u8 f(const struct s *s)\n{\n}\n",
    ));
    assert_eq!(text.values(), ["ONE", "IN", "A"]);
    assert_eq!(text.enumerators(), ["A", "B", "C"]);
    let members = |sized: &[&'static str], other: &[&'static str]| {
        let members =
            |names: &[&'static str], has_size| names.iter().map(move |name| Declared { name, has_size }).collect();
        let (sized, other): (Vec<_>, Vec<_>) = (members(sized, true), members(other, false));
        [sized, other].concat()
    };
    let [(name, found)] = &text.structs()[..] else { panic!("there is one struct") };
    let mut found = found.clone();
    found.sort_by_key(|member| (!member.has_size, member.name));
    assert_eq!((*name, found), ("s", members(&["a", "c", "d", "e"], &["f", "g"])));
    assert_eq!(text.functions(), ["f", "CALL"]);
}
