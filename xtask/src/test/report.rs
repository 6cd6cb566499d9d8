//! Reading what test programs print.

/// A test that did not do its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    pub test: String,
    pub reason: String,
    /// The test program counted it as ignored, not as passed.
    pub is_ignored: bool,
}

/// What happened in all.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Test programs that said how they ended.
    pub programs: usize,
    pub passed: usize,
    pub failed: usize,
    /// Names of those that failed.
    pub failures: Vec<String>,
    /// Names of those that failed at first and passed then.
    pub unsteady: Vec<String>,
    pub skipped: Vec<Skipped>,
    /// Cargo said so: a test failed, or a program did not build or died.
    pub has_failed: bool,
    /// The exit status of the one command that this is of.
    pub status: Option<i32>,
}

impl Report {
    pub fn add(&mut self, other: Self) {
        self.programs += other.programs;
        self.passed += other.passed;
        self.failed += other.failed;
        self.failures.extend(other.failures);
        self.unsteady.extend(other.unsteady);
        self.skipped.extend(other.skipped);
        self.has_failed |= other.has_failed;
    }

    /// A run without any test is a mistake, not a success.
    pub fn is_good(&self) -> bool {
        !self.has_failed && self.failed == 0 && self.passed > 0
    }

    /// Runs each test that failed once more with `again`, if they are few: of many, something is broken. When all of them pass
    /// they are told as unsteady and no longer as failed.
    pub fn once_more<E>(mut self, again: impl Fn(&str) -> Result<Self, E>) -> Result<Self, E> {
        const FEW: usize = 3;
        // What failed without being named, a program that died for instance, is not tried again.
        if self.failures.len() != self.failed || !(1..=FEW).contains(&self.failed) {
            return Ok(self);
        }
        for test in &self.failures {
            if !again(test)?.is_good() {
                return Ok(self);
            }
        }
        self.passed += std::mem::take(&mut self.failed);
        self.unsteady.append(&mut self.failures);
        self.has_failed = false;
        Ok(self)
    }

    /// Tests that end well after they said that they skip.
    pub fn skipped_in_passed(&self) -> usize {
        self.skipped.iter().filter(|skipped| !skipped.is_ignored).count().min(self.passed)
    }
}

/// Where in the output of a test program we are.
#[derive(Debug, Default)]
pub struct Reader {
    /// In the part with the output of tests that passed: read, not shown.
    in_successes: bool,
    /// Whose output it is.
    test: String,
    is_after_blank: bool,
}

impl Reader {
    /// Takes a line; true: show it.
    pub fn read(&mut self, line: &str, report: &mut Report) -> bool {
        if let Some(numbers) = line.strip_prefix("test result: ") {
            self.in_successes = false;
            report.programs += 1;
            report.passed += number_before(numbers, " passed");
            report.failed += number_before(numbers, " failed");
            return true;
        }
        match line {
            "successes:" => self.in_successes = true,
            "failures:" => self.in_successes = false,
            _ => {}
        }
        if let Some(test) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
            self.test = test.to_owned();
        } else if let Some((test, outcome)) =
            line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... "))
        {
            // Some harnesses fill names up to the longest.
            let test = test.trim_end();
            self.test = test.to_owned();
            if outcome == "FAILED" {
                report.failures.push(test.to_owned());
            }
            if let Some(ignored) = outcome.strip_prefix("ignored") {
                // A doc test that is marked `ignore` is an example to read.
                if !test.contains(" - ") {
                    let reason = ignored.trim_start_matches(", ").to_owned();
                    report.skipped.push(Skipped { test: test.to_owned(), reason, is_ignored: true });
                }
            }
        } else if let Some(reason) = line.trim().strip_prefix("skipped: ") {
            self.skipped(reason, report);
        }
        self.shows(line)
    }

    fn skipped(&self, reason: &str, report: &mut Report) {
        // Programs that do not capture run several tests at once: there the line itself names the test.
        let named = reason.split_once(": ").filter(|(test, _)| !self.in_successes && !test.contains(' '));
        let (test, reason) = named.unwrap_or((&self.test, reason));
        // One test counts once, whatever it says.
        if !report.skipped.iter().any(|known| known.test == test && !known.is_ignored) {
            let (test, reason) = (test.to_owned(), reason.to_owned());
            report.skipped.push(Skipped { test, reason, is_ignored: false });
        }
    }

    fn shows(&mut self, line: &str) -> bool {
        let is_second_blank = line.is_empty() && std::mem::replace(&mut self.is_after_blank, line.is_empty());
        self.is_after_blank = line.is_empty();
        !self.in_successes && !is_second_blank
    }
}

fn number_before(text: &str, word: &str) -> usize {
    let before = text.split(word).next().unwrap_or_default();
    let digits = before.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
running 4 tests
test a::first ... ok
test a::second ... ok
test a::third ... ignored, needs a GPU
test a::fourth     ... FAILED

successes:

---- a::first stdout ----
skipped: no cgroup v2 here
skipped: twice

successes:
    a::first
    a::second

failures:

---- a::fourth stdout ----
why

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s";

    fn read(output: &str) -> (Report, Vec<&str>) {
        let (mut report, mut reader) = (Report::default(), Reader::default());
        let shown = output.lines().filter(|line| reader.read(line, &mut report)).collect();
        (report, shown)
    }

    #[test]
    fn results_and_skips_are_counted() {
        let (report, _) = read(OUTPUT);
        assert_eq!((report.programs, report.passed, report.failed), (1, 2, 1));
        assert_eq!(report.failures, ["a::fourth"]);
        let skipped: Vec<_> =
            report.skipped.iter().map(|s| (s.test.as_str(), s.reason.as_str(), s.is_ignored)).collect();
        assert_eq!(skipped, [("a::third", "needs a GPU", true), ("a::first", "no cgroup v2 here", false)]);
        assert_eq!(report.skipped_in_passed(), 1);
    }

    #[test]
    fn the_output_of_tests_that_passed_is_not_shown_and_that_of_failures_is() {
        let (_, shown) = read(OUTPUT);
        assert!(!shown.iter().any(|line| line.contains("twice")));
        assert!(shown.contains(&"why"));
        assert!(shown.contains(&"test a::second ... ok"));
    }

    #[test]
    fn a_program_that_captures_nothing_names_the_test_itself() {
        let (report, _) = read(
            "test other ... ok\nskipped: kubectl_verbs: no kubectl\ntest result: ok. 2 passed; 0 failed",
        );
        assert_eq!(
            (report.skipped[0].test.as_str(), report.skipped[0].reason.as_str()),
            ("kubectl_verbs", "no kubectl")
        );
    }

    #[test]
    fn few_failures_are_tried_once_more() {
        let good = || Report { passed: 1, ..Report::default() };
        let bad = || Report { has_failed: true, ..read(OUTPUT).0 };
        let never = |_: &str| -> Result<Report, ()> { panic!("there is nothing to try again") };
        assert_eq!(good().once_more(never), Ok(good()));
        let passed = bad().once_more(|_| Ok::<_, ()>(good())).unwrap();
        assert!(passed.is_good());
        assert_eq!((passed.passed, passed.failed, passed.unsteady), (3, 0, vec!["a::fourth".to_owned()]));
        assert_eq!(bad().once_more(|_| Ok::<_, ()>(bad())), Ok(bad()));
        let died = || Report { has_failed: true, ..good() };
        assert_eq!(died().once_more(never), Ok(died()));
        let many = || Report { failed: 9, failures: vec!["a".to_owned(); 9], ..bad() };
        assert_eq!(many().once_more(never), Ok(many()));
    }

    #[test]
    fn a_run_without_a_test_is_no_success() {
        assert!(!Report::default().is_good());
        assert!(Report { passed: 1, ..Report::default() }.is_good());
        assert!(!Report { passed: 1, has_failed: true, ..Report::default() }.is_good());
    }
}
