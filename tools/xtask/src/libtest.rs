// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `cargo test` prints, read line by line.

/// Reads the output of `cargo test`, standard error included.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// The test target that is running.
    target: String,
    pub(crate) passed: u32,
    /// `TARGET::TEST`.
    pub(crate) failed: Vec<String>,
    failed_here: u32,
    /// Target, test, reason.
    pub(crate) ignored: Vec<(String, String, String)>,
}

impl Reader {
    pub(crate) fn line(&mut self, line: &str) {
        let words = line.trim_start();
        if let Some(running) = words.strip_prefix("Running ") {
            self.target = target_of(running).to_owned();
        } else if let Some(package) = words.strip_prefix("Doc-tests ") {
            self.target = format!("{package} documentation");
        } else if let Some((name, outcome)) = line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... ")) {
            if outcome == "FAILED" {
                self.failed.push(format!("{}::{name}", self.target));
                self.failed_here += 1;
            } else if let Some(reason) = outcome.strip_prefix("ignored") {
                let reason = reason.trim_start_matches(", ");
                let reason = if reason.is_empty() { "no reason is given" } else { reason };
                self.ignored.push((self.target.clone(), name.to_owned(), reason.to_owned()));
            }
        } else if let Some(result) = line.strip_prefix("test result: ") {
            self.passed += number_before(result, " passed").unwrap_or_default();
            // A test that prints in the middle of its line is counted here all the same.
            for _ in self.failed_here..number_before(result, " failed").unwrap_or_default() {
                self.failed.push(format!("{}::(a test whose line could not be read)", self.target));
            }
            self.failed_here = 0;
        }
    }
}

/// `ring` of `tests/ring.rs (target/debug/deps/ring-0123456789abcdef)`.
fn target_of(running: &str) -> &str {
    let executable = running.rsplit_once('(').map_or(running, |(_, path)| path.trim_end_matches(')'));
    let name = executable.rsplit('/').next().unwrap_or(executable);
    name.rsplit_once('-').map_or(name, |(name, _)| name)
}

fn number_before(text: &str, mark: &str) -> Option<u32> {
    text[..text.find(mark)?].rsplit(' ').next()?.parse().ok()
}

/// The tests that `--list --format terse` names.
pub(crate) fn listed(output: &str) -> Vec<String> {
    output.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::{Reader, listed};

    #[test]
    fn counts_come_from_the_result_and_names_from_the_lines() {
        let output = "\
     Running unittests src/lib.rs (target/debug/deps/ublk-0af)
test ring::wraps ... ok
test ring::full ... FAILED
test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
     Running tests/device.rs (target/debug/deps/device_add-12)
test adds ... ignored, no ublk driver here
test plain ... ignored
test result: ok. 0 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s
   Doc-tests ublk
test ublk/src/lib.rs - (line 3) - compile fail ... ok
test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        let mut reader = Reader::default();
        output.lines().for_each(|line| reader.line(line));
        assert_eq!(reader.passed, 2);
        assert_eq!(reader.failed, ["ublk::ring::full"]);
        assert_eq!(reader.ignored[0], ("device_add".into(), "adds".into(), "no ublk driver here".into()));
        assert_eq!(reader.ignored[1].2, "no reason is given");
    }

    #[test]
    fn a_failure_that_printed_into_its_line_is_counted() {
        let mut reader = Reader::default();
        for line in ["test a ... oops", "FAILED", "test result: FAILED. 0 passed; 1 failed; 0 ignored"] {
            reader.line(line);
        }
        assert_eq!(reader.failed.len(), 1);
    }

    #[test]
    fn a_list_names_tests_and_not_benchmarks() {
        assert_eq!(listed("a::b: test\nc: bench\n\nd: test\n"), ["a::b", "d"]);
    }
}
