// SPDX-License-Identifier: MIT OR Apache-2.0
//! The C compiler as an oracle: questions whose answers are integers, made from the tables of `ublk-sys`.

use core::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::header::{Headers, Release, names};
use ublk_sys::layout::{Layout, Member, TABLES};
use ublk_sys::{
    ublk_auto_buf_reg, ublk_auto_buf_reg_to_sqe_addr, ublk_shmem_zc_addr, ublk_shmem_zc_index, ublk_shmem_zc_offset,
    ublk_sqe_addr_to_auto_buf_reg, ublksrv_get_flags, ublksrv_get_op, ublksrv_io_desc,
};

/// What a release's stable updates brought before its time: later fixes needed it. It may be there or not.
const BACKPORTED: [(&str, &str); 5] = [
    ("6.1", "IORING_ASYNC_CANCEL_USERDATA"),
    ("6.1", "IORING_ASYNC_CANCEL_OP"),
    ("6.1", "IORING_SEND_ZC_REPORT_USAGE"),
    ("6.1", "IORING_NOTIF_USAGE_ZC_COPIED"),
    ("6.1", "IORING_OFF_MMAP_MASK"),
];

/// What a C expression should be.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    /// What is asked, in words.
    pub(crate) what: String,
    /// The expression.
    pub(crate) c: String,
    /// What Rust has.
    pub(crate) rust: i128,
}

/// Questions about every item that these headers have; and what is there too early, or not there.
pub(crate) fn questions(headers: &Headers) -> (Vec<Question>, Vec<String>) {
    let mut found = Found { headers, questions: Vec::new(), absences: Vec::new() };
    for table in TABLES {
        let text = headers.text(table.header);
        for constant in table.constants.iter().copied().flatten() {
            if found.expects(constant.name, text.names(constant.name), constant.since, "") {
                found.asks(constant.name, constant.name, constant.value);
            }
        }
        for layout in table.structs {
            let name = layout.name;
            let body = text.body(name);
            if found.expects(name, body.is_some(), layout.since, "") {
                found.asks(
                    &format!("size of {name}"),
                    &format!("sizeof(struct {name})"),
                    int(size(layout, headers.release)),
                );
                found.asks(&format!("alignment of {name}"), &format!("_Alignof(struct {name})"), int(layout.align));
            }
            for member in layout.fields.iter().flat_map(|field| field.members) {
                found.member(layout, member, body);
            }
        }
    }
    (found.questions, found.absences)
}

struct Found<'a> {
    headers: &'a Headers,
    questions: Vec<Question>,
    absences: Vec<String>,
}

impl Found<'_> {
    /// Notes it if `name` is not there although it should, or there although it should not. Gives whether it is there.
    fn expects(&mut self, name: &str, is_there: bool, since: &str, until: &str) -> bool {
        let release = self.headers.release;
        let expected = Release::of(since) <= release && (until.is_empty() || release < Release::of(until));
        let may_be_there = BACKPORTED.contains(&(&*release.to_string(), name));
        if is_there != expected && !may_be_there {
            let has = if is_there { "has" } else { "lacks" };
            let until = if until.is_empty() { String::new() } else { format!(" until {until}") };
            self.absences.push(format!("Linux {release} {has} {name}, which should be there since {since}{until}"));
        }
        is_there
    }

    fn asks(&mut self, what: &str, c: &str, rust: i128) {
        self.questions.push(Question { what: what.into(), c: c.into(), rust });
    }

    fn member(&mut self, layout: &Layout, member: &Member, body: Option<&str>) {
        let path = format!("{}.{}", layout.name, member.name);
        // One name can have stood in two places: `pad`, or a `resv` that shrank. Then each row is for its releases.
        let namesakes =
            layout.fields.iter().flat_map(|field| field.members).filter(|it| it.name == member.name).count();
        let is_named = body.is_some_and(|body| names(body, member.name));
        let release = self.headers.release;
        let is_its_time =
            Release::of(member.since) <= release && (member.until.is_empty() || release < Release::of(member.until));
        if namesakes > 1 && !is_its_time {
            return;
        }
        if self.expects(&path, is_named, member.since, member.until) {
            let (name, field) = (layout.name, member.name);
            self.asks(&format!("offset of {path}"), &format!("offsetof(struct {name}, {field})"), int(member.offset));
            if member.size > 0 {
                self.asks(
                    &format!("size of {path}"),
                    &format!("sizeof(((struct {name} *)0)->{field})"),
                    int(member.size),
                );
            }
        }
    }
}

/// The size that the struct had in that release.
fn size(layout: &Layout, release: Release) -> usize {
    let older = layout.older_sizes.iter().rev().find(|(since, _)| Release::of(since) <= release);
    older.map_or(layout.size, |(_, size)| *size)
}

/// Questions about what the header computes.
pub(crate) fn questions_about_functions() -> Vec<Question> {
    let mut questions = Vec::new();
    let mut asks = |c: &str, rust: i128| questions.push(Question { what: c.into(), c: c.into(), rust });

    let mut iod = ublksrv_io_desc::default();
    iod.op_flags = 0x8765_4321;
    let c = "&(struct ublksrv_io_desc){ .op_flags = 0x87654321 }";
    asks(&format!("ublksrv_get_op({c})"), ublksrv_get_op(&iod).into());
    asks(&format!("ublksrv_get_flags({c})"), ublksrv_get_flags(&iod).into());

    let reg: ublk_auto_buf_reg = ublk_sqe_addr_to_auto_buf_reg(0x0123_4567_89ab_cdef);
    let c = "ublk_sqe_addr_to_auto_buf_reg(0x0123456789abcdefULL)";
    asks(&format!("{c}.index"), reg.index.into());
    asks(&format!("{c}.flags"), reg.flags.into());
    asks(&format!("{c}.reserved0"), reg.reserved0.into());
    asks(&format!("{c}.reserved1"), reg.reserved1.into());
    let c = "ublk_auto_buf_reg_to_sqe_addr(&(struct ublk_auto_buf_reg){ 0xcdef, 0xab, 0x89, 0x01234567 })";
    asks(c, ublk_auto_buf_reg_to_sqe_addr(&reg).into());

    asks("ublk_shmem_zc_addr(0xfedc, 0x89abcdef)", ublk_shmem_zc_addr(0xfedc, 0x89ab_cdef).into());
    let addr = 0x0123_4567_89ab_cdef;
    asks("ublk_shmem_zc_index(0x0123456789abcdefULL)", ublk_shmem_zc_index(addr).into());
    asks("ublk_shmem_zc_offset(0x0123456789abcdefULL)", ublk_shmem_zc_offset(addr).into());

    let c = "((struct io_uring_sqe){ .cmd_op = 0xc0207504 }).off";
    asks(c, ublk_sys::io_uring_sqe_cmd_op(0xc020_7504).into());

    asks("_IO('u', 1)", ublk_sys::_IO(b'u', 1).into());
    asks("_IOR('u', 2, __u64)", ublk_sys::_IOR::<u64>(b'u', 2).into());
    asks("_IOW('u', 3, __u64)", ublk_sys::_IOW::<u64>(b'u', 3).into());
    asks("_IOWR('u', 4, __u64)", ublk_sys::_IOWR::<u64>(b'u', 4).into());
    questions
}

/// Asks a C compiler with these headers; gives the answers that are not Rust's. `purpose` names the program.
pub(crate) fn ask(headers: &Headers, questions: &[Question], purpose: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let program_file = folder.join(format!("abi-{purpose}-{}", headers.release));
    let source = folder.join(format!("abi-{purpose}-{}.c", headers.release));
    fs::write(&source, program(headers, questions)).expect("the target folder can be written");

    let mut compiler = option_env!("ABI_CC").unwrap_or("cc").split_whitespace();
    let mut command = Command::new(compiler.next().expect("the command has a word"));
    command.args(compiler).args(["-std=gnu11", "-o"]).arg(&program_file).arg(&source);
    for folder in &headers.folders {
        command.arg("-I").arg(folder);
    }
    let output = command.output().expect("the C compiler starts");
    assert!(output.status.success(), "{command:?}:\n{}", String::from_utf8_lossy(&output.stderr));

    let output = Command::new(&program_file).output().expect("the C program starts");
    assert!(output.status.success(), "{}: {}", program_file.display(), output.status);
    let answers = String::from_utf8(output.stdout).expect("the C program prints digits");
    let answers: Vec<i128> = answers.lines().map(|line| line.parse().expect("the C program prints numbers")).collect();
    assert_eq!(answers.len(), questions.len(), "an answer for each question");
    differences(headers.release, questions, &answers)
}

/// A program that prints the answers, one a line.
fn program(headers: &Headers, questions: &[Question]) -> String {
    let mut text = String::from(
        "#include <errno.h>\n#include <stddef.h>\n#include <stdio.h>\n#include <linux/ioctl.h>\n#include <linux/types.h>\n",
    );
    for table in TABLES.iter().filter(|table| headers.has(table.header)) {
        let _ = writeln!(text, "#include <{}>", table.header);
    }
    text += "#define ASK(it) ((it) < 0 ? printf(\"%lld\\n\", (long long)(it)) : printf(\"%llu\\n\", (unsigned long long)(it)))\n";
    text += "int main(void)\n{\n";
    for question in questions {
        let _ = writeln!(text, "\tASK(({}));", question.c);
    }
    text += "\treturn 0;\n}\n";
    text
}

fn differences(release: Release, questions: &[Question], answers: &[i128]) -> Vec<String> {
    let pairs = questions.iter().zip(answers).filter(|(question, answer)| question.rust != **answer);
    pairs
        .map(|(question, answer)| {
            format!("Linux {release}: {}: C has {answer}, Rust has {}", question.what, question.rust)
        })
        .collect()
}

fn int(size: usize) -> i128 {
    size.try_into().expect("a size in a table is small")
}
