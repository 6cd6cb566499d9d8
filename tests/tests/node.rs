//! The behaviour suite on a real Kubernetes node.

use std::process::ExitCode;

use kruntimes_tests::{RealNode, Stage, harness, suite};

fn main() -> ExitCode {
    if let Err(reason) = kruntimes_node::Node::is_possible() {
        println!("skipped: node: {reason}");
        return ExitCode::SUCCESS;
    }
    harness::main_in_stages(RealNode::start, |node| {
        // Each case mostly waits for the platform; a few at a time keep two cores busy.
        let beside = [
            suite::behaviour(),
            suite::rights::cases(),
            suite::charts::cases(node),
            suite::pools::cases(node),
            suite::preflight::cases(),
            suite::ladder::cases(),
        ];
        let alone = [
            suite::charts::cases_alone(node),
            suite::installs::cases_alone(node),
            suite::upgrade::cases_alone(node),
            suite::faults::cases(node),
            suite::losses::cases(node),
            suite::outages::cases(node),
        ];
        vec![
            Stage { at_once: 4, cases: beside.into_iter().flatten().collect() },
            Stage { at_once: 1, cases: alone.into_iter().flatten().collect() },
        ]
    })
}
