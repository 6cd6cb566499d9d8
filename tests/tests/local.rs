//! The behaviour suite on the local platform.

use std::process::ExitCode;

use kruntimes_tests::{Local, main as run, suite};

fn main() -> ExitCode {
    let mut cases = suite::behaviour();
    cases.extend(suite::python::local_cases());
    cases.extend(suite::ladder::local_cases());
    run(Local::start, cases)
}
