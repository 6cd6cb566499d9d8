//! The behaviour suite on the local platform.

use std::process::ExitCode;

use kruntimes_tests::{Local, main as run, suite};

fn main() -> ExitCode {
    run(Local::start, suite::behaviour())
}
