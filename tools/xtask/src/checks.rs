// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is checked on this machine: form, lints, documents, the oldest compiler, and every test that can run here.

use core::iter;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::failure::{Context, Result};
use crate::libtest;
use crate::msrv;
use crate::tally::Tally;
use crate::tool::Tool;
use crate::workspace;

/// Formatting, lints and documents.
pub(crate) fn form(tally: &mut Tally) -> Result<()> {
    let of_workspace: [&[&str]; 4] = [
        &["fmt", "--all", "--check"],
        &["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"],
        &["clippy", "--package", "ublk", "--no-default-features", "--lib", "--quiet", "--", "-D", "warnings"],
        &["doc", "--no-deps", "--workspace", "--quiet"],
    ];
    for arguments in of_workspace {
        let mut command = workspace::cargo();
        command.args(arguments);
        check_form(&format!("cargo {}", arguments.join(" ")), &mut command, tally)?;
    }
    // A target that cannot be built as a test says so in its own manifest.
    let of_tool: [(&str, &[&str]); 3] = [
        ("fmt", &["--check"]),
        ("clippy", &["--all-targets", "--quiet", "--", "-D", "warnings"]),
        ("doc", &["--no-deps", "--quiet"]),
    ];
    for tool in Tool::all()? {
        for (subcommand, arguments) in of_tool {
            let name = format!("cargo {subcommand} {} in tools/{}", arguments.join(" "), tool.name);
            check_form(&name, tool.cargo(subcommand).args(arguments), tally)?;
        }
    }
    Ok(())
}

fn check_form(name: &str, command: &mut Command, tally: &mut Tally) -> Result<()> {
    check(name, command.env("RUSTDOCFLAGS", "-Dwarnings"), tally)
}

/// Everything compiles with the oldest compiler that the project promises.
pub(crate) fn oldest_compiler(tally: &mut Tally) -> Result<()> {
    let compiler = msrv::compiler()?;
    let mut command = workspace::cargo();
    command.args(["check", "--workspace", "--target-dir"]).arg(workspace::kept("msrv-build"));
    let of_workspace = ("cargo check with the oldest compiler".to_owned(), command);
    let of_tools = Tool::all()?
        .into_iter()
        .map(|tool| (format!("cargo check with the oldest compiler in tools/{}", tool.name), tool.cargo("check")));
    for (name, mut command) in iter::once(of_workspace).chain(of_tools) {
        command.args(["--all-targets", "--quiet"]).env("RUSTC", &compiler);
        check(&name, command.env_remove("RUSTC_WRAPPER").env_remove("RUSTUP_TOOLCHAIN"), tally)?;
    }
    Ok(())
}

fn check(name: &str, command: &mut Command, tally: &mut Tally) -> Result<()> {
    println!("== {name}");
    let started = Instant::now();
    let status = command.stdin(Stdio::null()).status().context(|| "cannot run cargo".to_owned())?;
    println!("{} {:.1} s", if status.success() { "ok" } else { "FAILED" }, started.elapsed().as_secs_f64());
    tally.count(name, status.success());
    Ok(())
}

/// `cargo test` on this machine; what is ignored is noted, in case that it runs in a machine later.
pub(crate) fn tests(filter: Option<&str>, tally: &mut Tally) -> Result<()> {
    let mut command = workspace::cargo();
    command.args(["test", "--workspace"]);
    tests_of("tests on this machine", &mut command, filter, tally)?;
    for tool in Tool::all()? {
        tests_of(&format!("tests of tools/{}", tool.name), &mut tool.cargo("test"), filter, tally)?;
    }
    Ok(())
}

fn tests_of(name: &str, command: &mut Command, filter: Option<&str>, tally: &mut Tally) -> Result<()> {
    println!("== {name}");
    let started = Instant::now();
    command.arg("--no-fail-fast").args(filter);
    // Which program a line is from stands on standard error: the two are read as one, in order.
    let mut both = Command::new("sh");
    both.args(["-c", "exec \"$@\" 2>&1", "sh"]).arg(command.get_program()).args(command.get_args());
    both.current_dir(workspace::root()).stdin(Stdio::null()).stdout(Stdio::piped());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => both.env(name, value),
            None => both.env_remove(name),
        };
    }
    let mut child = both.spawn().context(|| "cannot run cargo".to_owned())?;
    let mut reader = libtest::Reader::default();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).split(b'\n') {
            let line = line.context(|| "cannot read what cargo says".to_owned())?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            reader.line(&line);
        }
    }
    let status = child.wait().context(|| "cannot wait for cargo".to_owned())?;
    tally.passed += reader.passed;
    if !status.success() && reader.failed.is_empty() {
        reader.failed.push(format!("{name}: cargo test"));
    }
    println!("{:.1} s", started.elapsed().as_secs_f64());
    tally.failed.append(&mut reader.failed);
    for (target, name, reason) in reader.ignored {
        tally.ignored.insert((target, name), reason);
    }
    Ok(())
}
