// SPDX-License-Identifier: MIT OR Apache-2.0
//! The C compiler as an oracle: it is asked for the value of everything that headers declare.

use core::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::header::Headers;
use crate::scope::PARTS;
use ublk_sys::{
    ublk_auto_buf_reg, ublk_auto_buf_reg_to_sqe_addr, ublk_shmem_zc_addr, ublk_shmem_zc_index, ublk_shmem_zc_offset,
    ublk_sqe_addr_to_auto_buf_reg, ublksrv_get_flags, ublksrv_get_op, ublksrv_io_desc,
};

/// A fact that is to be known.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    /// The header that it is of.
    pub(crate) section: &'static str,
    /// The fact's name.
    pub(crate) what: String,
    /// A C expression for it.
    pub(crate) c: String,
}

/// A question for everything that these headers declare, as far as it is in the mirror's scope.
pub(crate) fn facts_to_ask(headers: &Headers) -> Vec<Question> {
    let mut questions: Vec<Question> = Vec::new();
    for part in PARTS {
        let section = part.header;
        let text = headers.text(section);
        let mut names = text.values();
        names.extend(text.enumerators());
        for name in names.into_iter().filter(|name| part.has(name)) {
            // An enumerator may be a macro too.
            if questions.iter().all(|question| question.what != name) {
                questions.push(Question { section, what: name.into(), c: name.into() });
            }
        }
        let mut asks = |what: String, c: String| questions.push(Question { section, what, c });
        for (name, members) in text.structs().into_iter().filter(|(name, _)| part.has(name)) {
            asks(format!("sizeof {name}"), format!("sizeof(struct {name})"));
            asks(format!("alignof {name}"), format!("_Alignof(struct {name})"));
            for member in members {
                let field = member.name;
                asks(format!("offsetof {name}.{field}"), format!("offsetof(struct {name}, {field})"));
                if member.has_size {
                    asks(format!("sizeof {name}.{field}"), format!("sizeof(((struct {name} *)0)->{field})"));
                }
            }
        }
    }
    questions
}

/// What the headers compute: C expressions, and what Rust says.
pub(crate) fn computed() -> Vec<(String, i128)> {
    let mut questions = Vec::new();
    let mut asks = |c: &str, rust: i128| questions.push((c.to_owned(), rust));

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

/// What a C compiler with these headers answers. `purpose` names the program.
pub(crate) fn answers<'a>(headers: &Headers, questions: impl IntoIterator<Item = &'a str>, purpose: &str) -> Vec<i128> {
    let questions: Vec<&str> = questions.into_iter().collect();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let program_file = folder.join(format!("abi-{purpose}-{}", headers.release));
    let source = folder.join(format!("abi-{purpose}-{}.c", headers.release));
    fs::write(&source, program(headers, &questions)).expect("the target folder can be written");

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
    answers
}

/// A program that prints the answers, one a line.
fn program(headers: &Headers, questions: &[&str]) -> String {
    let mut text = String::from(
        "#include <errno.h>\n#include <stddef.h>\n#include <stdio.h>\n#include <linux/ioctl.h>\n#include <linux/types.h>\n",
    );
    for part in PARTS.iter().filter(|part| headers.has(part.header)) {
        let _ = writeln!(text, "#include <{}>", part.header);
    }
    text += "#define ASK(it) ((it) < 0 ? printf(\"%lld\\n\", (long long)(it)) : printf(\"%llu\\n\", (unsigned long long)(it)))\n";
    text += "int main(void)\n{\n";
    for question in questions {
        let _ = writeln!(text, "\tASK(({}));", question);
    }
    text += "\treturn 0;\n}\n";
    text
}
