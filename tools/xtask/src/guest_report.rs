// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a guest knows about its own trouble: the kernel's messages, and where tasks stand.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};

/// The kernel's messages and the stacks of every task that is stuck, or of a program that started after this one.
pub(crate) fn everything() -> String {
    let mut text = String::from("--- stacks of tasks that wait uninterruptibly (D), and of programs\n");
    text.push_str(&stacks(|task| task.state == 'D' || (task.has_program && task.process > process::id())));
    text.push_str("--- dmesg\n");
    text.push_str(&dmesg());
    text
}

/// The kernel's messages.
pub(crate) fn dmesg() -> String {
    let output = Command::new("dmesg").stdin(Stdio::null()).output();
    output.map_or_else(
        |error| format!("(no dmesg: {error})\n"),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

/// A thread, as `/proc` shows it.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) process: u32,
    pub(crate) state: char,
    /// Not one of the kernel's own.
    pub(crate) has_program: bool,
    folder: PathBuf,
}

/// The kernel stacks of the tasks that `wanted` picks. Tasks that end meanwhile are left out.
pub(crate) fn stacks(wanted: impl Fn(&Task) -> bool) -> String {
    let mut text = String::new();
    for process in numbered(Path::new("/proc")) {
        let has_program = fs::read_link(process.join("exe")).is_ok();
        for folder in numbered(&process.join("task")) {
            let Ok(stat) = fs::read_to_string(folder.join("stat")) else { continue };
            let Some((name, state)) = name_and_state(&stat) else { continue };
            let number =
                |path: &Path| path.file_name().and_then(|name| name.to_str()?.parse().ok()).unwrap_or_default();
            let task = Task { process: number(&process), state, has_program, folder };
            if wanted(&task) {
                let stack =
                    fs::read_to_string(task.folder.join("stack")).unwrap_or_else(|error| format!("({error})\n"));
                text.push_str(&format!(
                    "task {} ({name}) of process {}, state {state}\n",
                    number(&task.folder),
                    task.process
                ));
                for line in stack.lines() {
                    text.push_str(&format!("    {line}\n"));
                }
            }
        }
    }
    text
}

/// The entries of `folder` whose name is a number.
fn numbered(folder: &Path) -> Vec<PathBuf> {
    let is_number = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().parse::<u32>().is_ok());
    fs::read_dir(folder)
        .map(|entries| entries.flatten().map(|entry| entry.path()).filter(is_number).collect())
        .unwrap_or_default()
}

/// From `PID (NAME) STATE ...`; the name may hold blanks and brackets.
fn name_and_state(stat: &str) -> Option<(&str, char)> {
    let (start, rest) = stat.rsplit_once(") ")?;
    Some((start.split_once('(')?.1, rest.chars().next()?))
}

#[cfg(test)]
mod tests {
    use super::name_and_state;

    #[test]
    fn a_name_with_brackets_does_not_hide_the_state() {
        assert_eq!(name_and_state("12 (a) b (c) D 1 2"), Some(("a) b (c", 'D')));
        assert_eq!(name_and_state("12"), None);
    }
}
