//! Traces, on a local platform of its own that is told of a collector; one case at a time: some keep it from answering.

use std::process::ExitCode;
use std::sync::Arc;

use kruntimes_tests::collector::Collector;
use kruntimes_tests::{Local, harness, suite};

fn main() -> ExitCode {
    let collector = match Collector::start() {
        Ok(collector) => Arc::new(collector),
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    let environment = [(kruntimes_api::names::OTLP_ENDPOINT_ENV, collector.address())];
    harness::main_shared(|| Local::start_with(&environment), 1, |_| suite::traces::cases(&collector))
}
