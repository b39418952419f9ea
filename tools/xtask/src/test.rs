// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask test`: everything that is checked, here and in machines.

use std::ffi::OsString;
use std::time::Instant;

use crate::checks;
use crate::failure::{Failure, Result};
use crate::fuzz::{self, Fuzzing};
use crate::headers;
use crate::kernel::Series;
use crate::liburing;
use crate::machine_tests;
use crate::orderings;
use crate::packages;
use crate::pages;
use crate::power;
use crate::sizes;
use crate::tally::Tally;
use crate::targets;

/// How often a machine loses its power; `cargo xtask power` does it more often, on each kernel.
const CUTS: u64 = 2;

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
    attempt("the packages that the tests need", &mut tally, |_| packages::need(&machine_tests::NEEDS));
    attempt("the kernel headers to compare with", &mut tally, |_| headers::get().map(drop));
    attempt("liburing for the C program of ABI.md", &mut tally, |_| liburing::get());
    if filter.is_some() {
        println!("tests only, as some are asked for by name");
    } else {
        attempt("form", &mut tally, checks::form);
        attempt("the manual page and the completions", &mut tally, pages::check);
        attempt("the null servers and ublkctl as static files", &mut tally, sizes::check);
        if wanted.quick {
            tally.left_out.push("the oldest compiler: --quick".to_owned());
            tally.left_out.push("the crates for other machines: --quick".to_owned());
            tally.left_out.push("fuzzing: --quick".to_owned());
            tally.left_out.push("power cuts: --quick".to_owned());
        } else {
            attempt("the oldest compiler", &mut tally, checks::oldest_compiler);
            attempt("the crates for other machines", &mut tally, targets::check);
        }
    }
    if filter.is_none() {
        attempt("memory orderings", &mut tally, orderings::check);
    }
    attempt("tests on this machine", &mut tally, |tally| checks::tests(filter, tally));
    // The machines leave time enough beside them.
    let mut fuzzing = None;
    if filter.is_none() && !wanted.quick {
        attempt("fuzzing", &mut tally, |_| {
            println!("== {} s of arbitrary bytes, beside the machines", fuzz::SECONDS);
            fuzzing = Some(Fuzzing::start(fuzz::SECONDS)?);
            Ok(())
        });
    }
    attempt("tests in machines", &mut tally, |tally| machine_tests::run(wanted.quick, filter, tally));
    if filter.is_none() && !wanted.quick {
        attempt("power cuts", &mut tally, |tally| {
            power::check(Series::newest_listed(), CUTS, power::seed_of_the_clock(), tally)
        });
    }
    if let Some(fuzzing) = fuzzing {
        attempt("fuzzing", &mut tally, |tally| fuzzing.finish(tally));
    }
    if tally.passed == 0 && tally.failed.is_empty() {
        tally.failed.push("no test has that in its name".to_owned());
    }
    tally.print_details();
    println!("{} s", started.elapsed().as_secs());
    println!("{tally}");
    Ok(u8::from(!tally.failed.is_empty()))
}

/// Takes a step; one that cannot be taken has failed, and the others are taken all the same.
fn attempt(name: &str, tally: &mut Tally, step: impl FnOnce(&mut Tally) -> Result<()>) {
    if let Err(failure) = step(tally) {
        println!("FAILED {name}: {failure}");
        tally.failed.push(format!("{name}: {failure}"));
    }
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
