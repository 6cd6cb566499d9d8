//! The fault suite on a local platform of its own, one case at a time: each kills what the others need.

use std::process::ExitCode;

use kruntimes_tests::{Local, harness, suite};

fn main() -> ExitCode {
    harness::main_shared(Local::start, 1, |place| {
        let mut cases = suite::faults::cases(place);
        cases.extend(suite::losses::cases(place));
        cases.extend(suite::trouble::cases());
        cases
    })
}
