// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask abi`: the mirror against every kernel that can be had.
//!
//! What is compared, and with what, is in `tests/abi`; here the headers and the drivers are brought to it.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use crate::failure::{Context, Failure, Result};
use crate::headers;
use crate::kernel::{self, Kernel, Series};
use crate::machine::{Ending, Stream, Timeout};
use crate::packages;
use crate::vm::{Guest, Wanted as Machine};
use crate::workspace;

/// The test that asks a driver for its features, and its program.
const PROGRAM: &str = "device_features";
const TEST: &str = "the_driver_has_each_feature_that_is_not_younger_than_it_and_no_other";

/// The program of the tests that set parameters and read them back, and what is in their names: `ublk_params` has had five
/// sizes, and each driver takes and gives its own.
const PARAMETERS: (&str, &str) = ("device_control", "parameters");

/// How the lines of `tests/abi` begin that are for the user.
const REPORT: &str = "abi: ";

/// How the line of [`TEST`] begins that says the features.
const FEATURES: &str = "features ";

/// What `cargo xtask abi` was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Write the records and the table instead of comparing with them.
    record: bool,
}

impl Wanted {
    pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self> {
        let mut wanted = Self::default();
        for argument in arguments {
            match argument.to_str() {
                Some("--record") => wanted.record = true,
                _ => return Err(Failure::new(format!("abi [--record]: not {}", argument.to_string_lossy()))),
            }
        }
        Ok(wanted)
    }
}

/// Fetches the headers, asks the drivers, and runs the tests with both; returns their exit status.
pub(crate) fn run(wanted: Wanted) -> Result<u8> {
    packages::need(&[packages::CC, packages::QEMU, packages::BUSYBOX, packages::XZ])?;
    headers::every()?;
    ask_drivers()?;
    compare(wanted)
}

/// Asks the driver of each kernel that can be had for its features, and its type information for its structs:
/// `target/abi/drivers/SERIES`.
fn ask_drivers() -> Result<()> {
    let programs = workspace::build(["test", "--test", PROGRAM, "--test", PARAMETERS.0, "--no-run"])?;
    let path_of = |name: &str| {
        let program = programs.iter().find(|program| program.target == name);
        program.map(|program| program.path.as_path()).ok_or_else(|| Failure::new(format!("cargo built no {name}")))
    };
    let programs = [path_of(PROGRAM)?, path_of(PARAMETERS.0)?];
    let folder = workspace::kept("abi/drivers");
    workspace::folder(&folder)?;
    let mut all: Vec<Series> = kernel::MUST_PASS.to_vec();
    all.extend(kernel::offered().unwrap_or_default());
    all.sort_unstable();
    all.dedup();
    for series in all {
        // What cannot be had is in the records.
        let kernel = match Kernel::exactly(series) {
            Ok(Some(kernel)) => kernel,
            Ok(None) => continue,
            Err(failure) => {
                eprintln!("no kernel of {series}: {failure}");
                continue;
            }
        };
        let said = ask_driver(&kernel, programs)?;
        println!("driver of Linux {series}: parameters are set, read back and compared as the crate does it");
        let file = folder.join(series.to_string());
        fs::write(&file, said).context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// What the driver of that kernel says, in lines as the records have them. An error too where it takes or gives parameters in
/// another way than the crate's tests have them.
fn ask_driver(kernel: &Kernel, [features, parameters]: [&Path; 2]) -> Result<String> {
    eprintln!("asking the driver of {}", kernel.name);
    let mut guest = Guest::new(kernel, &Machine::default())?;
    guest.files.program(features, "t")?;
    guest.files.program(parameters, "p")?;
    let mut text = String::new();
    // Whether the features are what the mirror says is for `tests/abi` to tell.
    let script = format!(
        "/p --include-ignored --test-threads=1 {} || exit 1; /t --exact {TEST} --include-ignored --nocapture; exec /usr/lib/xtask/agent guest-btf",
        PARAMETERS.1
    );
    let command = ["sh", "-c", &script].map(OsString::from);
    let ending = guest.run(&command, Timeout::Whole(Machine::default().timeout), |stream, bytes| {
        if stream == Stream::Output {
            text += &String::from_utf8_lossy(bytes);
        }
        Ok(())
    })?;
    let said = facts(&text);
    match (ending, said) {
        (Ending::Exited(0), Some(said)) => Ok(said),
        (Ending::Exited(_), _) => Err(Failure::new(format!("the driver of {} did not say:\n{text}", kernel.name))),
        (Ending::Lost(lost), _) => Err(Failure::new(format!("{}\n{}", lost.why, lost.story()))),
    }
}

/// The lines that are facts; `None` where the features are not among them.
fn facts(text: &str) -> Option<String> {
    let features = text.lines().find_map(|line| Some(line.split_once(FEATURES)?.1.trim()))?;
    let features = u64::from_str_radix(features.strip_prefix("0x")?, 16).ok()?;
    let of_structs = |line: &&str| ["sizeof ublk", "offsetof ublk"].iter().any(|start| line.starts_with(start));
    let structs: Vec<&str> = text.lines().filter(of_structs).collect();
    Some(format!("features {features}\n{}\n", structs.join("\n")))
}

/// Runs `tests/abi`. Its reports are shown, and all that it says where it fails.
fn compare(wanted: Wanted) -> Result<u8> {
    let mut command = workspace::cargo();
    command.args(["test", "--quiet", "--test", "abi", "--", "--nocapture", "--test-threads=1"]);
    if wanted.record {
        command.env("ABI_RECORD", "1");
    }
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context(|| "cannot run cargo".to_owned())?;
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines() {
            let line = line.context(|| "cannot read what cargo says".to_owned())?;
            if let Some((_, report)) = line.split_once(REPORT) {
                println!("{report}");
            }
        }
    }
    let status = child.wait().context(|| "cannot wait for cargo".to_owned())?;
    Ok(u8::from(!status.success()))
}

#[cfg(test)]
mod tests {
    use super::{Wanted, facts};

    #[test]
    fn facts_are_found_among_what_a_test_says() {
        let text = "running 1 test\ntest it ... \nfeatures 0x1fe\nok\nsizeof list_head 16\nsizeof ublk_params 112\n";
        assert_eq!(facts(text).unwrap(), "features 510\nsizeof ublk_params 112\n");
        assert_eq!(facts("sizeof ublk_params 112\n"), None);
    }

    #[test]
    fn there_is_one_option() {
        assert_eq!(Wanted::parse([]).unwrap(), Wanted { record: false });
        assert_eq!(Wanted::parse(["--record".into()]).unwrap(), Wanted { record: true });
        assert!(Wanted::parse(["6.1".into()]).is_err());
    }
}
