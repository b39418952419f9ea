// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask pages`: the manual page and the completions of `ublkctl`, made from its own command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::archive;
use crate::failure::{Context, Failure, Result};
use crate::packages::{self, Program};
use crate::tally::Tally;
use crate::tool::{self, Tool};
use crate::workspace;

/// What looks at the page.
const NEEDS: [Program; 1] = [packages::MANDOC];

/// Presses the tabulator behind `ublkctl `, with the completions of the first argument.
const COMPLETE: &str = r#"
source "$1"
COMP_WORDS=(ublkctl "") COMP_CWORD=1
"$(complete -p ublkctl | sed 's/.*-F \([^ ]*\).*/\1/')" ublkctl "" ublkctl
printf '%s\n' "${COMPREPLY[@]}"
"#;

/// `cargo xtask pages`; returns the exit status.
pub(crate) fn run() -> Result<u8> {
    let mut tally = Tally::default();
    check(&mut tally)?;
    Ok(u8::from(!tally.failed.is_empty()))
}

/// Makes them anew, and says in which folder they are.
fn make() -> Result<PathBuf> {
    let folder = workspace::kept("pages");
    if folder.exists() {
        fs::remove_dir_all(&folder).context(|| format!("cannot remove {}", folder.display()))?;
    }
    let mut command = Tool::named(tool::UBLK_CLI).cargo("run");
    archive::text(command.args(["--quiet", "--example", "pages", "--"]).arg(&folder))?;
    Ok(folder)
}

/// They are made, name every command, and say it in a way that those who read them understand.
pub(crate) fn check(tally: &mut Tally) -> Result<()> {
    println!("== the manual page and the completions of {}", tool::UBLKCTL);
    let started = Instant::now();
    packages::need(&NEEDS)?;
    let folder = make()?;
    println!("{}", folder.display());
    let mut command = Tool::named(tool::UBLK_CLI).cargo("run");
    let help = archive::text(command.args(["--quiet", "--bin", tool::UBLKCTL, "--", "--help"]))?;
    let commands = commands(&help);
    if commands.is_empty() {
        return Err(Failure::new(format!("`{} --help` names no command", tool::UBLKCTL)));
    }
    let page = folder.join(format!("{}.1", tool::UBLKCTL));
    let text = archive::text(Command::new("mandoc").args(["-T", "utf8", "-O", "width=100"]).arg(&page))?;
    let text = without_overstrikes(&text);
    let bash = folder.join(format!("{}.bash", tool::UBLKCTL));
    let completed = Command::new("bash").args(["-c", COMPLETE, "bash"]).arg(&bash).stdin(Stdio::null()).output();
    let completed = completed.context(|| "cannot run bash".to_owned())?.stdout;
    let completed = String::from_utf8_lossy(&completed);
    for (what, missing) in [
        ("the manual page names every command", commands_missing(&commands, |name| text.contains(&headed(name)))),
        (
            "bash completes every command",
            commands_missing(&commands, |name| completed.lines().any(|word| word == name)),
        ),
    ] {
        count(what, &missing.iter().map(|name| format!("not {name}\n")).collect::<String>(), tally);
    }
    let checks: [(&str, &[&str], &Path); 2] = [
        ("mandoc has no complaint about the manual page", &["mandoc", "-T", "lint", "-W", "warning"], &page),
        ("bash reads the completions", &["bash", "-n"], &bash),
    ];
    for (what, program, file) in checks {
        let mut command = Command::new(program[0]);
        let output = command.args(&program[1..]).arg(file).stdin(Stdio::null()).output();
        let output = output.context(|| format!("cannot run {}", program[0]))?;
        let said = [output.stdout, output.stderr].concat();
        count(what, &String::from_utf8_lossy(&said), tally);
    }
    println!("{:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// It holds where there is no complaint.
fn count(what: &str, complaint: &str, tally: &mut Tally) {
    println!("{} {what}", if complaint.is_empty() { "ok" } else { "FAILED" });
    print!("{complaint}");
    tally.count(what, complaint.is_empty());
}

/// How a command is written at the start of its part of the page.
fn headed(command: &str) -> String {
    format!("\n       {} {command}", tool::UBLKCTL)
}

fn commands_missing<'a>(commands: &[&'a str], is_there: impl Fn(&str) -> bool) -> Vec<&'a str> {
    commands.iter().copied().filter(|name| !is_there(name)).collect()
}

/// The names below `Commands:`, up to the blank line.
fn commands(help: &str) -> Vec<&str> {
    let below = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    below.take_while(|line| !line.is_empty()).filter_map(|line| line.split_whitespace().next()).collect()
}

/// Text for a printer makes letters bold or underlined by printing twice: what comes before a step back is not text.
fn without_overstrikes(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        if character == '\u{8}' {
            plain.pop();
        } else {
            plain.push(character);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::{commands, commands_missing, without_overstrikes};

    #[test]
    fn the_commands_are_those_that_the_help_lists() {
        let help = "About\n\nUsage: a <COMMAND>\n\nCommands:\n  explain  Says what\n  add      Makes\n\nOptions:\n  -h  Help\n";
        assert_eq!(commands(help), ["explain", "add"]);
        assert!(commands("Usage: a\n").is_empty());
    }

    #[test]
    fn a_command_that_is_not_there_is_named() {
        assert_eq!(commands_missing(&["a", "b"], |name| name == "a"), ["b"]);
    }

    #[test]
    fn bold_and_underlined_letters_are_letters() {
        assert_eq!(without_overstrikes("N\u{8}NA\u{8}A _\u{8}f_\u{8}d"), "NA fd");
    }
}
