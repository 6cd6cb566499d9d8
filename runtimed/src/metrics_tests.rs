use std::collections::BTreeSet;
use std::path::Path;

use super::*;

/// A registry with everything in it, each family with one member: an empty one is not exported.
fn all() -> Metrics {
    let metrics = Metrics::new(PREFIX);
    let counted = RuntimedMetrics::register(&metrics, "bash");
    counted.heartbeat(true);
    counted.wrote(None);
    counted.attempt_used(&AttemptUsage::default());
    for phase in [Phase::Pending, Phase::Failed] {
        let reason = Some(kruntimes_api::Reason::NonZeroExit);
        counted.attempt_ended(&RunStatus { phase: Some(phase), reason, ..RunStatus::default() });
    }
    metrics
}

#[test]
fn every_metric_is_registered_and_explained() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let text = all().encode();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let exported: BTreeSet<String> = types
        .map(|(name, kind)| match kind {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name.to_owned(),
        })
        .collect();
    let shared = read("daemon/src/metrics.rs").replace("registry.register(\"things\"", "");
    let registered = (read("runtimed/src/metrics.rs") + &shared).matches("registry.register(").count();
    assert_eq!(exported.len(), registered, "each family is touched: {exported:#?}");
    let page = read("docs/operations.md");
    let words = page.split(|c: char| !c.is_ascii_lowercase() && c != '_');
    let explained: BTreeSet<String> =
        words.filter(|word| word.starts_with(PREFIX)).map(str::to_owned).collect();
    assert_eq!(explained, exported, "docs/operations.md (left) and what runtimed exports (right)");
}

#[test]
fn a_write_is_counted_by_how_it_ended() {
    let metrics = Metrics::new(PREFIX);
    let counted = RuntimedMetrics::register(&metrics, "bash");
    let why = || "why".to_owned();
    for error in [ApiError::Conflict(why()), ApiError::Conflict(why()), ApiError::Transient(why())] {
        counted.wrote(Some(&error));
    }
    counted.wrote(None);
    let text = metrics.encode();
    for (result, count) in [("ok", 1), ("conflict", 2), ("transient", 1)] {
        let line = format!("{PREFIX}_status_writes_total{{result=\"{result}\"}} {count}");
        assert!(text.contains(&line), "{line} in {text}");
    }
}
