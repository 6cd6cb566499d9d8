//! What the alerts and the operations page speak of exists.

use std::collections::BTreeSet;
use std::path::Path;

use kruntimes_daemon::Metrics;

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What `/metrics` of both programs says, and how many `register` there are in their sources.
fn programs() -> [(&'static str, Metrics, usize); 2] {
    let shared =
        ["watch.rs", "events.rs", "program.rs"].map(|file| read(&format!("control-plane/src/{file}")));
    let counted = |own: &str| {
        let own = read(&format!("control-plane/src/{own}/metrics.rs"));
        let text = own
            + &shared.concat()
            + &read("daemon/src/metrics.rs").replace("registry.register(\"things\"", "");
        text.matches("registry.register(").count()
    };
    let [scheduler, controller] = ["kruntimes_scheduler", "kruntimes_controller"].map(|prefix| {
        let metrics = Metrics::new(prefix);
        crate::program::leader(&metrics);
        crate::events::Counters::new(&metrics);
        metrics
    });
    crate::scheduler::SchedulerMetrics::new(&scheduler).touch();
    crate::controller::ControllerMetrics::new(&controller).touch();
    [
        ("kruntimes_scheduler_", scheduler, counted("scheduler")),
        ("kruntimes_controller_", controller, counted("controller")),
    ]
}

/// Names as a query has them; of a histogram the one without an ending.
fn exported(metrics: &Metrics) -> BTreeSet<String> {
    let text = metrics.encode();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let name = |(name, kind): (&str, &str)| match kind {
        "counter" => format!("{name}_total"),
        "info" => format!("{name}_info"),
        _ => name.to_owned(),
    };
    types.map(name).collect()
}

/// Names that begin with `prefix`.
fn spoken(text: &str, prefix: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_lowercase() && c != '_');
    words.filter(|word| word.starts_with(prefix)).map(str::to_owned).collect()
}

#[test]
fn every_metric_is_explained_and_no_other() {
    let page = read("docs/operations.md");
    // The name of the component is put in by the chart.
    let alerts = read("charts/kruntimes/templates/monitoring.yaml");
    let alerts =
        ["scheduler", "controller"].map(|program| alerts.replace("{{ $component }}", program)).concat();
    for (prefix, metrics, registered) in programs() {
        let exported = exported(&metrics);
        assert_eq!(exported.len(), registered, "each family is touched: {exported:#?}");
        assert_eq!(spoken(&page, prefix), exported, "docs/operations.md (left) and what is exported (right)");
        let alerts = spoken(&alerts, prefix);
        assert!(alerts.len() > 3, "{alerts:?}");
        assert!(alerts.is_subset(&exported), "alerts on what nobody exports: {:?}", &alerts - &exported);
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
            Some((_, template)) => {
                let ending = template.rsplit_once("}}").map_or("", |(_, ending)| ending);
                ["Scheduler", "Controller"].map(|word| format!("Kruntimes{word}{ending}")).to_vec()
            }
        };
        for name in names {
            assert!(
                page.lines()
                    .any(|line| line.starts_with("| `Kruntimes") && line.contains(&format!("`{name}`"))),
                "docs/operations.md does not say what to do for {name}"
            );
        }
    }
}
