// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ublkctl explain` as it is run: what it reads, what it names first, and its exit status.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::expect_used,
    reason = "a test ends where something is wrong"
)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// What the files of `fixtures/shapes` are: ADD_DEV, with characters in its `user_data` that look like those around bytes.
const SHAPED: &str = "2e000000030000000475 20c0 00000000 00000000000000000000000000000000 232f2f7c2001205b 0000000000000000 \
                      ffffffffffff4000 403a2b1cfd7f0000";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens")
}

/// Every file of a folder, which has some.
fn files(folder: PathBuf, extension: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| extension.is_empty() || path.extension().is_some_and(|its| its == extension));
    files.sort();
    assert!(files.len() > 5, "{}", folder.display());
    files
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ublkctl"));
    command.arg("explain").args(arguments).stdin(Stdio::null()).env_remove("NO_COLOR");
    command
}

fn run(arguments: &[&str]) -> Run {
    Run::of(&command(arguments).output().unwrap())
}

fn piped(arguments: &[&str], input: &[u8]) -> Run {
    let mut child =
        command(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    Run::of(&output)
}

#[derive(Debug)]
struct Run {
    status: i32,
    out: String,
    err: String,
}

impl Run {
    fn of(output: &Output) -> Run {
        Run {
            status: output.status.code().expect("it ends by itself"),
            out: String::from_utf8(output.stdout.clone()).unwrap(),
            err: String::from_utf8(output.stderr.clone()).unwrap(),
        }
    }

    fn json(&self) -> Vec<Value> {
        serde_json::from_str::<Value>(&self.out)
            .unwrap_or_else(|error| panic!("{error}: {self:?}"))
            .as_array()
            .unwrap()
            .clone()
    }

    /// The ids of the causes of the only object.
    fn causes(&self) -> Vec<String> {
        let [only] = self.json().try_into().unwrap_or_else(|all| panic!("{all:?}"));
        ids(&only)
    }
}

fn ids(report: &Value) -> Vec<String> {
    report["causes"].as_array().unwrap().iter().map(|cause| cause["id"].as_str().unwrap().to_owned()).collect()
}

/// Explains a fixture with further arguments, as JSON.
fn explained(name: &str, more: &[&str]) -> Run {
    let file = fixture(name);
    run(&[&[file.to_str().unwrap(), "--json"], more].concat())
}

/// A buffer of a fixture, as the argument that names its file.
fn at(name: &str) -> String {
    format!("@{}", fixture(name).display())
}

#[test]
#[cfg_attr(not(target_endian = "little"), ignore = "the fixtures are those of a little-endian machine")]
fn the_same_bytes_are_read_from_every_shape_that_people_have_them_in() {
    let bytes = format!("{:0<256}", SHAPED.replace(' ', ""));
    for file in files(fixture("shapes"), "") {
        let read = run(&[file.to_str().unwrap(), "--json"]);
        let [only] = read.json().try_into().unwrap_or_else(|all| panic!("{}: {all:?}", file.display()));
        assert_eq!(only["bytes"], bytes.as_str(), "{}", file.display());
        assert_eq!(read.status, 0, "{}: {read:?}", file.display());
        // Not only from a file.
        assert_eq!(piped(&["--json", "-"], &fs::read(&file).unwrap()).out, read.out, "{}", file.display());
    }
}

#[test]
#[cfg_attr(not(target_endian = "little"), ignore = "the fixtures are those of a little-endian machine")]
fn of_each_attempt_of_the_go_case_the_true_cause_is_named_first() {
    for (name, result, first) in [
        ("1-opcode-51", None, "sqe.opcode"),
        ("1-opcode-51", Some("-22"), "sqe.opcode"),
        ("2-opcode-50", None, "sqe.opcode"),
        ("2-opcode-50", Some("EINVAL"), "sqe.opcode"),
        // The kernel of the time was built without the numbers of before Linux 6.4, which its answer shows; others are not.
        ("3-bare-number", Some("-95"), "encoding.legacy"),
        ("3-bare-number", Some("EOPNOTSUPP"), "encoding.legacy"),
        ("3-bare-number", Some("-22"), "sqe.command-at-64"),
        ("3-bare-number", None, "sqe.command-at-64"),
        ("4-struct-at-64", None, "sqe.command-at-64"),
        ("4-struct-at-64", Some("22"), "sqe.command-at-64"),
        ("5-struct-of-48-bytes", None, "sqe.command-at-64"),
        ("5-struct-of-48-bytes", Some("-EINVAL"), "sqe.command-at-64"),
        ("start-dev-of-process-0", None, "start-dev.data"),
        ("start-dev-of-process-0", Some("-22"), "start-dev.data"),
        ("fetch-at-64", None, "sqe.command-at-64"),
        ("fetch-at-64", Some("-22"), "sqe.command-at-64"),
        ("fetch-of-tag-0-at-64", Some("-22"), "sqe.command-at-64"),
    ] {
        let name = format!("go-case/{name}");
        let run = explained(&name, &result.map(|result| vec!["--errno", result]).unwrap_or_default());
        assert_eq!(run.causes().first().map(String::as_str), Some(first), "{name} {result:?}");
        assert_eq!(run.status, 1, "{name} {result:?}");
    }
}

#[test]
#[cfg_attr(not(target_endian = "little"), ignore = "the fixtures are those of a little-endian machine")]
fn what_would_have_worked_in_the_go_case_is_right() {
    for name in ["6-struct-at-48", "start-dev", "fetch"] {
        let run = explained(&format!("go-case/{name}"), &[]);
        assert_eq!((run.status, run.causes()), (0, vec![]), "{name}");
    }
    // 16 bytes more than the driver reads do no harm.
    for name in ["dev-info", "dev-info-of-80-bytes"] {
        let alone = run(&["--json", "--dev-info", &at(&format!("go-case/{name}"))]);
        assert_eq!((alone.status, alone.causes()), (0, vec![]), "{name}");
        let pointed_to = explained("go-case/6-struct-at-48", &["--dev-info", &at(&format!("go-case/{name}"))]);
        assert_eq!((pointed_to.status, pointed_to.causes()), (0, vec![]), "{name}");
    }
    let params = run(&["--json", "--params", &at("go-case/params")]);
    assert_eq!((params.status, params.causes()), (0, vec![]));
}

#[test]
#[cfg_attr(not(target_endian = "little"), ignore = "the fixtures are those of a little-endian machine")]
fn parameters_that_are_packed_by_type_are_named_alone_and_behind_their_command() {
    let alone = run(&["--json", "--params", &at("go-case/params-packed")]);
    assert_eq!((alone.status, alone.causes()[0].as_str()), (1, "set-params.packed"));
    let refused = run(&["--json", "--errno", "-22", "--params", &at("go-case/params-packed")]);
    assert_eq!((refused.status, refused.causes()[0].as_str()), (1, "set-params.packed"));
    let pointed_to = explained("go-case/set-params", &["--params", &at("go-case/params-packed")]);
    assert_eq!(pointed_to.causes()[0], "set-params.packed");
    assert_eq!(pointed_to.json()[0]["buffer"]["fields"][0]["value"], 64);
}

#[test]
#[cfg_attr(not(target_endian = "little"), ignore = "the fixtures are those of a little-endian machine")]
fn of_each_other_mistake_the_cause_is_named_first() {
    let device = at("go-case/dev-info");
    for (name, more, first) in [
        ("ioprio", &[][..], "sqe.ioprio"),
        ("pad-behind-cmd-op", &[], "sqe.pad"),
        ("queue-id-0", &[], "add-dev.queue-id"),
        ("control-in-64-bytes", &[], "sqe.size"),
        ("wrong-type", &[], "encoding.type"),
        ("get-features-bare", &["--errno", "ENODEV"], "encoding.get-features"),
        ("size-in-the-number", &[], "encoding.size"),
        ("id-differs", &["--dev-info", &device], "add-dev.id-differs"),
        ("fetch-of-queue-3", &["--dev-info", &device], "io.queue"),
    ] {
        let run = explained(&format!("mistakes/{name}"), more);
        assert_eq!((run.status, run.causes()[0].as_str()), (1, first), "{name}");
    }
    let shifted = run(&["--json", "--dev-info", &at("mistakes/dev-info-shifted")]);
    assert_eq!((shifted.status, shifted.causes()[0].as_str()), (1, "add-dev.queue-depth"));
    let cut = run(&["--json", "--dev-info", &at("mistakes/dev-info-cut")]);
    assert_eq!((cut.status, cut.causes()), (1, vec!["buffer.short".to_owned()]));
}

#[test]
#[cfg_attr(not(target_endian = "little"), ignore = "the goldens are those of a little-endian machine")]
fn every_golden_is_right_and_differs_from_itself_in_nothing() {
    for file in files(goldens(), "txt") {
        let path = file.to_str().unwrap();
        let name = file.file_stem().unwrap().to_str().unwrap();
        for arguments in [vec![path], vec![path, "--against", name], vec![path, "--against", path]] {
            let run = run(&[arguments.as_slice(), &["--json"]].concat());
            assert_eq!((run.status, run.causes()), (0, vec![]), "{name}");
            let report = &run.json()[0];
            assert_eq!(report["command"], name);
            if arguments.len() > 1 {
                assert_eq!(report["against"]["differences"], Value::Array(vec![]), "{name}");
            }
        }
    }
}

#[test]
#[cfg_attr(not(target_endian = "little"), ignore = "the fixtures are those of a little-endian machine")]
fn a_golden_tells_byte_by_byte_what_must_not_differ() {
    let right = explained("go-case/6-struct-at-48", &["--against", "ADD_DEV"]);
    assert_eq!(right.status, 0, "{right:?}");
    let wrong = explained("go-case/4-struct-at-64", &["--against", "add_dev"]);
    let report = &wrong.json()[0];
    let differences = report["against"]["differences"].as_array().unwrap();
    let of = |field: &str| differences.iter().find(|difference| difference["field"] == field).unwrap();
    assert_eq!((of("cmd.len")["golden"].as_str(), of("cmd.len")["here"].as_str()), (Some("40"), Some("00")));
    assert_eq!(of("cmd.queue_id")["expected"], false);
    assert_eq!(of("cmd.addr")["expected"], false, "the golden has an address, whichever it was");
    assert_eq!(of("cmd.dev_id")["expected"], true);
    assert_eq!(of("addr")["expected"], true, "nothing reads it");
    // What is wrong beside the golden is wrong too: another command.
    let other = explained("go-case/start-dev", &["--against", "ADD_DEV"]);
    assert_eq!((other.status, other.causes()), (1, vec![]));
    let unknown = explained("go-case/start-dev", &["--against", "NO_SUCH_DEV"]);
    assert_eq!(unknown.status, 2);
    assert!(unknown.err.contains("NO_SUCH_DEV"), "{unknown:?}");
}

#[test]
fn many_sqes_are_explained_one_by_one_and_the_worst_is_the_status() {
    let all = explained("go-case/all-attempts", &[]);
    assert_eq!((all.json().len(), all.status), (6, 1));
    let right = fs::read_to_string(fixture("shapes/xxd")).unwrap();
    assert_eq!(piped(&["--json"], format!("{right}\n{right}").as_bytes()).status, 0);
    // Two entries without anything between them, of one address.
    assert_eq!(piped(&["--json"], right.repeat(2).as_bytes()).json().len(), 2);
    let with_noise = piped(&["--json"], format!("{right}\n{}\n", "2e ".repeat(100)).as_bytes());
    assert_eq!((with_noise.json().len(), with_noise.status), (1, 2));
    assert!(with_noise.err.contains("100 bytes"), "{with_noise:?}");
}

#[test]
fn the_json_has_every_field_with_its_bytes_and_of_each_cause_what_scripts_ask_for() {
    let run = explained("go-case/4-struct-at-64", &[]);
    let report = &run.json()[0];
    let mut end = 0;
    for field in report["fields"].as_array().unwrap() {
        assert_eq!(field["offset"], end, "{field}");
        end += field["len"].as_u64().unwrap();
        assert!(field["name"].is_string() && (field["value"].is_u64() || field["value"].is_array()), "{field}");
    }
    assert_eq!(end, 128);
    assert_eq!(report["bytes"].as_str().unwrap().len(), 256);
    let cause = &report["causes"][0];
    assert!(cause["text"].is_string() && cause["remedy"].is_string() && cause["certain"] == true, "{cause}");
    assert_eq!(cause["function"], "ublk_ctrl_uring_cmd");
}

#[test]
fn what_has_no_sqe_gets_a_sentence_that_says_what_to_capture_instead() {
    for (name, said) in [
        ("127-bytes", "127 bytes, and an SQE has 64 or 128"),
        ("empty", "the input is empty"),
        ("blank", "the input is empty"),
        ("odd-digits", "255 hexadecimal digits, an odd number"),
        ("not-hex", "'x' behind 100 hexadecimal digits"),
        ("prose", "no bytes"),
        ("strace", "strace shows system calls"),
        ("strace", "x/128bx"),
        ("tracepoint", "x/128bx"),
        ("gdb-pointer", "x/128bx 0x7ffff7fbe000"),
        ("gdb-struct", "gdb prints the fields"),
        ("gdb-struct-pretty", "gdb prints the fields"),
        ("gdb-no-memory", "gdb could not read there"),
    ] {
        let run = explained(&format!("no-sqe/{name}"), &[]);
        assert!(run.err.contains(said), "{name}: {run:?}");
        assert_eq!((run.status, run.err.lines().count(), run.json().len()), (2, 1, 0), "{name}: {run:?}");
    }
    for file in files(fixture("no-sqe"), "") {
        assert_eq!(run(&[file.to_str().unwrap()]).status, 2, "{}", file.display());
    }
    // A buffer in the place of an SQE.
    for name in ["dev-info", "dev-info-of-80-bytes", "params", "params-packed"] {
        let run = explained(&format!("go-case/{name}"), &[]);
        assert_eq!(run.status, 2, "{name}");
        assert!(run.err.contains("--dev-info") || run.err.contains("--params"), "{name}: {run:?}");
    }
}

/// Bytes that are always the same and look like none of anything.
fn noise(len: usize) -> impl Iterator<Item = u8> {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    (0..len).map(move |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
}

#[test]
fn noise_gets_one_sentence_and_ten_megabytes_of_it_too() {
    const LEN: usize = 10 << 20;
    /// What takes longer by the byte, so that the test does not.
    const LESS: usize = 1 << 20;
    let printable = |byte: u8| b' ' + byte % 95;
    let digit = |byte: u8| b"0123456789abcdef"[usize::from(byte % 16)];
    let number = |byte: u8| b"[{0x2,f 1}]\n<*#"[usize::from(byte % 15)];
    let kinds: [(&str, Vec<u8>); 5] = [
        ("bytes", noise(LEN).collect()),
        ("one line", noise(LEN).map(printable).collect()),
        ("digits in one line", noise(LESS).map(digit).collect()),
        ("numbers", noise(LESS).map(number).collect()),
        ("repetitions", b"0 <repeats 99999999 times>,[<repeats ".iter().copied().cycle().take(LESS).collect()),
    ];
    for (kind, input) in kinds {
        let run = piped(&["--json"], &input);
        assert_eq!((run.status, run.json().len()), (2, 0), "{kind}");
        assert!(run.err.lines().count() == 1 && run.err.len() < 1000, "{kind}: {}", run.err);
    }
    let run = piped(&[], &vec![b'0'; 17 << 20]);
    assert_eq!(run.status, 2);
    assert!(run.err.contains("16 MiB"), "{run:?}");
}

#[test]
fn a_buffer_is_explained_alone_and_its_fields_have_names() {
    let info = run(&["--dev-info", &at("go-case/dev-info")]);
    assert_eq!(info.status, 0);
    assert!(info.out.contains("nr_hw_queues") && info.out.contains("max_io_buf_bytes"), "{info:?}");
    let fetch = run(&["--json", "--io-cmd", "0000 0500 00000000 0000200000c00000"]);
    assert_eq!((fetch.status, fetch.causes()), (0, vec![]));
    assert_eq!(fetch.json()[0]["command"], "UBLK_U_IO_FETCH_REQ");
    // Of the device that it is for it is known that it copies.
    let no_buffer =
        ["--json", "--io-cmd", "0000 0500 00000000 0000000000000000", "--dev-info", &at("go-case/dev-info")];
    assert_eq!(run(&no_buffer).json().iter().flat_map(ids).collect::<Vec<_>>(), ["fetch.addr"]);
    for arguments in
        [["--io-cmd", "00"], ["--io-cmd", "0000050000000000000020"], ["--dev-info", "@/nowhere"], ["--params", "x"]]
    {
        let run = run(&arguments);
        assert_eq!(run.status, 2, "{arguments:?}");
        assert!(run.err.contains(arguments[0]), "{run:?}");
    }
}

#[test]
fn standard_input_is_read_where_it_is_one_and_an_empty_one_leaves_the_buffers() {
    let right = fs::read(fixture("go-case/6-struct-at-48")).unwrap();
    let info = at("go-case/dev-info");
    let both = piped(&["--json", "--dev-info", &info], &right);
    assert_eq!((both.json().len(), both.json()[0]["bytes"].as_str().unwrap().len()), (1, 256));
    assert!(both.json()[0]["buffer"].is_object());
    let alone = piped(&["--json", "--dev-info", &info], b"");
    assert_eq!(alone.json()[0]["bytes"].as_str().unwrap().len(), 128);
    assert_eq!(run(&["--json"]).status, 2);
}

#[test]
fn the_result_is_an_errno_by_its_name_or_number_and_anything_else_is_refused() {
    let file = "go-case/3-bare-number";
    for result in ["95", "-95", "EOPNOTSUPP", "-EOPNOTSUPP", "eopnotsupp", "ENOTSUP"] {
        assert_eq!(explained(file, &["--errno", result]).causes(), ["encoding.legacy"], "{result}");
    }
    for wrong in ["0", "", "-", "EWHAT", "4096", "1.5"] {
        let run = explained(file, &["--errno", wrong]);
        assert_eq!(run.status, 2, "{wrong}");
        assert!(run.err.contains("--errno"), "{run:?}");
    }
    // What no rule gives is said to be so.
    let unknown = run(&[fixture("go-case/6-struct-at-48").to_str().unwrap(), "--errno", "ELOOP"]);
    assert_eq!(unknown.status, 1);
    assert!(unknown.out.contains("nothing that is known of gives ELOOP"), "{unknown:?}");
}

#[test]
fn there_is_no_colour_where_it_is_no_terminal() {
    for name in ["4-struct-at-64", "6-struct-at-48"] {
        let run = run(&[fixture(&format!("go-case/{name}")).to_str().unwrap(), "--against", "ADD_DEV"]);
        assert!(!run.out.contains('\u{1b}') && !run.out.is_empty(), "{run:?}");
    }
}

#[test]
#[cfg_attr(not(target_endian = "little"), ignore = "the fixtures are those of a little-endian machine")]
fn what_the_readme_shows_is_what_its_command_prints() {
    let readme = include_str!("../../../README.md");
    let (_, section) = readme.split_once("<!-- explain -->\n").unwrap();
    let mut blocks = section.split("```");
    let (command, shown) = (blocks.nth(1).unwrap(), blocks.nth(1).unwrap().trim_start_matches("text\n"));
    let (_, arguments) = command.split_once("explain ").unwrap();
    let (arguments, _) = arguments.split_once(" | tail -n 5").unwrap();
    let mut command = command_in_package(&arguments.split(' ').collect::<Vec<_>>());
    let printed = Run::of(&command.output().unwrap()).out;
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines[lines.len() - 5..].join("\n"), shown.trim_end());
}

fn command_in_package(arguments: &[&str]) -> Command {
    let mut command = command(arguments);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}
