//! Kinds, rules and policies on an API server alone, of any version that builds: `KRT_KUBERNETES=1.32.13`.

use std::process::ExitCode;

use kruntimes_tests::{ApiOnly, main as run, suite};

fn main() -> ExitCode {
    run(ApiOnly::start, suite::api::cases())
}
