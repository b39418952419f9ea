// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask test`: everything that is checked, here and in machines.

use std::ffi::OsString;
use std::time::Instant;

use crate::checks;
use crate::failure::{Failure, Result};
use crate::headers;
use crate::machine_tests;
use crate::packages;
use crate::tally::Tally;

/// What `cargo xtask test` was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    quick: bool,
    /// Only tests with this in their names, and nothing but tests.
    filter: Option<String>,
}

impl Wanted {
    pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self> {
        let mut wanted = Self::default();
        for argument in arguments {
            match argument.to_str() {
                Some("--quick") => wanted.quick = true,
                Some(filter) if !filter.starts_with('-') && wanted.filter.is_none() => {
                    wanted.filter = Some(filter.to_owned())
                }
                _ => return Err(Failure::new(format!("test [--quick] [FILTER]: not {}", argument.to_string_lossy()))),
            }
        }
        Ok(wanted)
    }
}

/// Runs the checks, prints the counts as the last line, and returns the exit status.
pub(crate) fn run(wanted: &Wanted) -> Result<u8> {
    let started = Instant::now();
    let filter = wanted.filter.as_deref();
    let mut tally = Tally::default();
    let outcome = steps(wanted, filter, &mut tally);
    tally.print_details();
    if let Err(failure) = outcome {
        println!("FAILED {failure}");
        tally.failed.push(failure.to_string());
    }
    println!("{} s", started.elapsed().as_secs());
    println!("{tally}");
    Ok(u8::from(!tally.failed.is_empty()))
}

fn steps(wanted: &Wanted, filter: Option<&str>, tally: &mut Tally) -> Result<()> {
    packages::need(&[packages::CC])?;
    headers::get()?;
    if filter.is_some() {
        println!("tests only, as some are asked for by name");
    } else {
        checks::form(tally)?;
        if wanted.quick {
            tally.left_out.push("the oldest compiler: --quick".to_owned());
        } else {
            checks::oldest_compiler(tally)?;
        }
    }
    checks::tests(filter, tally)?;
    machine_tests::run(wanted.quick, filter, tally)
}

#[cfg(test)]
mod tests {
    use super::Wanted;

    #[test]
    fn a_filter_is_a_word_and_there_is_one() {
        let parse = |line: &str| Wanted::parse(line.split(' ').map(Into::into));
        assert_eq!(parse("--quick ring").unwrap(), Wanted { quick: true, filter: Some("ring".into()) });
        assert!(parse("a b").is_err());
        assert!(parse("--fast").is_err());
    }
}
