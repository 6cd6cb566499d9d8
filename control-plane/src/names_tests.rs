//! What the alerts and the operations page speak of exists.

use std::collections::BTreeSet;
use std::path::Path;

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Names that begin with `kruntimes_PROGRAM_`, without the endings that the text format adds.
fn names(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
    text.split(|c| !is_part(c))
        .filter(|word| {
            ["scheduler", "controller", "runtimed"]
                .iter()
                .any(|p| word.starts_with(&format!("kruntimes_{p}_")))
        })
        .map(|word| word.trim_end_matches("_total").to_owned())
        .collect()
}

#[test]
fn every_metric_that_is_spoken_of_is_registered() {
    let watch = read("control-plane/src/watch.rs");
    let sources = [
        ("kruntimes_scheduler_", read("control-plane/src/scheduler/metrics.rs") + &watch),
        ("kruntimes_controller_", read("control-plane/src/controller/metrics.rs") + &watch),
        ("kruntimes_runtimed_", read("runtimed/src/metrics.rs")),
    ];
    for page in ["charts/kruntimes/templates/monitoring.yaml", "docs/operations.md"] {
        let spoken = names(&read(page));
        assert!(spoken.len() > 8, "{page}: {spoken:?}");
        for name in spoken {
            let known = sources.iter().any(|(prefix, source)| {
                name.strip_prefix(prefix).is_some_and(|name| source.contains(&format!("\"{name}\"")))
            });
            assert!(known, "{page} speaks of {name}, which nobody registers");
        }
    }
}

#[test]
fn every_alert_is_explained() {
    let page = read("docs/operations.md");
    let chart = read("charts/kruntimes/templates/monitoring.yaml");
    let alerts: Vec<_> = chart.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 8, "{alerts:?}");
    for alert in alerts {
        let names = match alert.split_once("{{") {
            None => vec![alert.to_owned()],
            Some(_) => ["Scheduler", "Controller"].map(|word| format!("Kruntimes{word}Down")).to_vec(),
        };
        for name in names {
            assert!(
                page.contains(&format!("| `{name}` |")),
                "docs/operations.md does not say what to do for {name}"
            );
        }
    }
}
