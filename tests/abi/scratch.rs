// SPDX-License-Identifier: MIT OR Apache-2.0
//! A copy of the mirror and of these tests, in which the mirror can be changed to see them fail.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the copy has of the project.
const FILES: [&str; 3] = ["Cargo.toml", "Cargo.lock", "ublk-sys/Cargo.toml"];
const FOLDERS: [&str; 3] = ["ublk-sys/src", "tests/abi", "tests/abi/records"];

/// The test that is run in the copy: it needs no compiler of C and no headers.
const TEST: &str = "every_record_is_what_the_mirror_says";

struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("abi-scratch");
        let scratch = Self(folder);
        for folder in FOLDERS {
            let copy = scratch.0.join(folder);
            // What an earlier run changed, or the project has no more, is not to be found there.
            let _ = fs::remove_dir_all(&copy);
            fs::create_dir_all(&copy).expect("the target folder can be written");
            for file in fs::read_dir(project().join(folder)).expect("the project's folder can be read") {
                let file = file.expect("the project's folder can be read");
                if file.file_type().expect("a file has a type").is_file() {
                    scratch.copy(Path::new(folder).join(file.file_name()));
                }
            }
        }
        FILES.into_iter().for_each(|file| scratch.copy(file.into()));
        // The crate `ublk` and what finds C compilers are no part of it.
        let manifest = scratch.0.join("Cargo.toml");
        let text = fs::read_to_string(&manifest).expect("the copy can be read");
        let is_of_it = |line: &&str| !["libc.", "ublk = { workspace", "build ="].iter().any(|it| line.starts_with(it));
        let lines = text.lines().filter(is_of_it).map(|line| match line.split_once(" = ") {
            Some(("members", _)) => "members = [\"ublk-sys\"]\n".to_owned(),
            _ => format!("{line}\n"),
        });
        fs::write(&manifest, lines.collect::<String>()).expect("the copy can be written");
        scratch
    }

    fn copy(&self, path: PathBuf) {
        fs::copy(project().join(&path), self.0.join(&path)).expect("a file can be copied");
    }

    /// Whether the test passes, and what cargo and the test say.
    fn test(&self) -> (bool, String) {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&self.0).args(["test", "--offline", "--quiet", "--test", "abi", "--", "--exact", TEST]);
        command.env("CARGO_TARGET_DIR", self.0.join("target"));
        // Warnings about what the copy leaves out are no errors.
        command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS").env_remove("ABI_RECORD");
        let output = command.output().expect("cargo starts");
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (output.status.success(), text)
    }

    /// What the test says with `from` in the mirror's `file` changed to `to`; it has to fail.
    fn fails_with(&self, file: &str, from: &str, to: &str) -> String {
        let path = self.0.join("ublk-sys/src").join(file);
        let text = fs::read_to_string(&path).expect("the copy can be read");
        assert_eq!(text.matches(from).count(), 1, "{file} has not one {from:?}");
        fs::write(&path, text.replace(from, to)).expect("the copy can be written");
        let (passed, said) = self.test();
        fs::write(&path, text).expect("the copy can be written");
        assert!(!passed, "{from:?} became {to:?}, and nothing was seen");
        said
    }
}

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_change_of_the_mirrors_source_fails_by_name() {
    let scratch = Scratch::new();
    let (passed, said) = scratch.test();
    assert!(passed && said.contains("1 passed"), "{said}");
    for (file, from, to, sentence) in [
        // An offset that Rust has, too, does not even compile.
        (
            "ublk_cmd.rs",
            "q_id: u16 = 0, tag: u16 = 2, result",
            "q_id: u16 = 0, tag: u16 = 4, result",
            "ublksrv_io_cmd.tag is not at 4",
        ),
        (
            "io_uring.rs",
            "\"cmd_op\": u32 = 8",
            "\"cmd_op\": u32 = 12",
            "offsetof io_uring_sqe.cmd_op: C has 8, Rust has 12",
        ),
        (
            "ublk_cmd.rs",
            "UBLK_IO_RES_ABORT: i32 = -19",
            "UBLK_IO_RES_ABORT: i32 = -5",
            "UBLK_IO_RES_ABORT: C has -19, Rust has -5",
        ),
        (
            "ublk_cmd.rs",
            "UBLK_IO_F_SHMEM_ZC: u32 = 1 << 19, since \"7.1\"",
            "UBLK_IO_F_SHMEM_ZC: u32 = 1 << 19, since \"7.3\"",
            "Linux 7.2 has UBLK_IO_F_SHMEM_ZC, which should be there since 7.3",
        ),
        (
            "ublk_cmd.rs",
            "pub const UBLK_S_DEV_QUIESCED: u16 = 2, since \"6.1\";",
            "",
            "Linux 7.3 has UBLK_S_DEV_QUIESCED in linux/ublk_cmd.h, which is not mirrored",
        ),
    ] {
        let said = scratch.fails_with(file, from, to);
        assert!(said.contains(sentence), "{from:?} became {to:?}, and this was said:\n{said}");
    }
}
