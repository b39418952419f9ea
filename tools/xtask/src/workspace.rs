// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the project lies, and what cargo builds of it.

use core::time::Duration;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;

use crate::failure::{Context, Failure, Result};

/// How long cargo may work before the user is told.
const PATIENCE: Duration = Duration::from_secs(2);

/// The project's folder.
pub(crate) fn root() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let tool = Path::new(&manifest);
    tool.ancestors().nth(2).unwrap_or(tool).to_path_buf()
}

/// What is fetched and made by these commands is kept here, whatever `CARGO_TARGET_DIR` says.
pub(crate) fn kept(name: &str) -> PathBuf {
    root().join("target").join(name)
}

/// `folder`, made if need be.
pub(crate) fn folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).context(|| format!("cannot make {}", folder.display()))
}

/// Cargo, in the project's folder.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    // Cargo sets these for the program that it runs; they are about xtask, not about what xtask builds.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_PKG_NAME", "RUST_RECURSION_COUNT"] {
        command.env_remove(name);
    }
    command
}

/// An executable that cargo built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Executable {
    pub(crate) target: String,
    pub(crate) kind: String,
    pub(crate) package: String,
    pub(crate) path: PathBuf,
}

/// Builds with cargo and says what executables there are now.
///
/// Cargo is heard only where it fails: standard error belongs to whatever is run later. On a terminal a line tells what
/// takes so long.
pub(crate) fn build<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Result<Vec<Executable>> {
    let mut command = cargo();
    command.args(arguments).arg("--message-format=json-render-diagnostics").stdin(Stdio::null());
    let (done, end) = mpsc::channel::<()>();
    let patience = thread::spawn(move || {
        if end.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) && io::stderr().is_terminal() {
            eprintln!("building the project's programs");
        }
    });
    let output = command.output().context(|| "cannot run cargo".to_owned());
    drop(done);
    // It only prints; nothing is lost with it.
    let _ = patience.join();
    let output = output?;
    if !output.status.success() {
        let complaints = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::new(format!("cargo could not build the project's programs\n{complaints}")));
    }
    Ok(executables(&String::from_utf8_lossy(&output.stdout)))
}

/// The executables named by cargo's messages, one message a line.
fn executables(messages: &str) -> Vec<Executable> {
    messages
        .lines()
        .filter(|line| line.contains("\"reason\":\"compiler-artifact\""))
        .filter_map(|line| {
            let path = string_after(line, "\"executable\":\"")?;
            let target = &line[line.find("\"target\":{")?..];
            let kind = string_after(target, "\"kind\":[\"")?;
            let package = string_after(line, "\"manifest_path\":\"")?;
            let package = Path::new(&package).parent()?.to_string_lossy().into_owned();
            Some(Executable { target: string_after(target, "\"name\":\"")?, kind, package, path: path.into() })
        })
        .collect()
}

/// The JSON string that starts right behind `mark`.
fn string_after(text: &str, mark: &str) -> Option<String> {
    let mut found = String::new();
    let mut characters = text[text.find(mark)? + mark.len()..].chars();
    loop {
        match characters.next()? {
            '"' => return Some(found),
            '\\' => found.push(characters.next()?),
            other => found.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::executables;

    #[test]
    fn an_executable_is_found_in_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","manifest_path":"/p/ublk/Cargo.toml","target":{"kind":["lib"],"name":"ublk"},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","manifest_path":"/p/ublk/Cargo.toml","target":{"kind":["example"],"crate_types":["bin"],"name":"ramdisk"},"executable":"/t/a \"b\"/ramdisk"}"#,
        );
        let found = executables(messages);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].target.as_str(), found[0].kind.as_str()), ("ramdisk", "example"));
        assert_eq!(found[0].path.to_str(), Some("/t/a \"b\"/ramdisk"));
        assert_eq!(found[0].package, "/p/ublk");
    }
}
