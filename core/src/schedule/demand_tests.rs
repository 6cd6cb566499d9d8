use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kruntimes_api::run::{Resources, Run};
use kruntimes_api::runtime::RunBounds;

use super::*;

fn quantities(pairs: &[(&str, &str)]) -> BTreeMap<String, Quantity> {
    pairs.iter().map(|(name, text)| ((*name).to_owned(), Quantity((*text).to_owned()))).collect()
}

fn demand(requests: &[(&str, &str)], timeout: Option<&str>) -> Demand {
    let mut run = Run::default();
    run.spec.resources = Some(Resources { requests: quantities(requests), limits: quantities(&[]) });
    run.spec.timeout = timeout.map(str::to_owned);
    Demand::of(&run)
}

#[test]
fn runs_default_to_one_and_zero_is_ignored() {
    let runtime = RuntimeView::default();
    for requests in [&[][..], &[("runs", "0")], &[("gpu", "0")]] {
        let resolved = demand(requests, None).resolve(&runtime).unwrap();
        assert_eq!(resolved.amounts.to_string(), "runs=1");
    }
    assert_eq!(
        demand(&[("runs", "3"), ("cpu", "1500m")], None).resolve(&runtime).unwrap().amounts.to_string(),
        "cpu=1500m, runs=3"
    );
}

#[test]
fn what_cannot_be_asked_for_names_its_field() {
    let runtime = RuntimeView::default();
    let error = demand(&[("nvidia.com/gpu", "0.5")], None).resolve(&runtime).unwrap_err();
    assert!(
        error.starts_with("spec.resources.requests: resource \"nvidia.com/gpu\": 500m is not a whole number"),
        "{error}"
    );
    let error = demand(&[("cpu", "-1")], None).resolve(&runtime).unwrap_err();
    assert!(error.contains("negative"), "{error}");
    let error = demand(&[("cpu", "many")], None).resolve(&runtime).unwrap_err();
    assert!(error.contains("many"), "{error}");
}

#[test]
fn a_runtime_may_define_a_divisible_resource() {
    let mut runtime = RuntimeView::default();
    assert!(demand(&[("licence", "0.5")], None).resolve(&runtime).is_err());
    runtime.kinds.insert("licence".into(), Kind::Divisible);
    assert!(demand(&[("licence", "0.5")], None).resolve(&runtime).is_ok());
}

#[test]
fn defaults_fill_in_and_maximums_refuse_by_name() {
    let runtime = RuntimeView {
        defaults: Some(RunBounds { requests: quantities(&[("cpu", "2")]), ..RunBounds::default() }),
        maximums: Some(RunBounds {
            requests: quantities(&[("cpu", "4")]),
            timeout: Some("1h".into()),
            ..RunBounds::default()
        }),
        ..RuntimeView::default()
    };
    assert_eq!(demand(&[], Some("1m")).resolve(&runtime).unwrap().amounts.to_string(), "cpu=2, runs=1");
    let error = demand(&[("cpu", "5")], Some("1m")).resolve(&runtime).unwrap_err();
    assert_eq!(error, "spec.resources.requests[cpu]: 5 is more than 4, the Runtime's runMaximums");
    let error = demand(&[], Some("2h")).resolve(&runtime).unwrap_err();
    assert_eq!(error, "spec.timeout: 2h is more than 1h, the Runtime's runMaximums");
    assert!(demand(&[], None).resolve(&runtime).unwrap_err().starts_with("spec.timeout: none is set"));
}

#[test]
fn a_delegated_pool_counts_slots_only() {
    let runtime = RuntimeView { delegated: true, ..RuntimeView::default() };
    let resolved = demand(&[("nvidia.com/gpu", "64"), ("runs", "2")], None).resolve(&runtime).unwrap();
    assert_eq!(resolved.amounts.to_string(), "runs=2");
}

/// What a Run holds was decided when it was bound; who lowers a ceiling later frees nothing by it.
#[test]
fn a_bound_run_holds_what_it_asked_for_whatever_is_allowed_today() {
    let asked = demand(&[("cpu", "5"), ("runs", "2"), ("licence", "0.5")], None);
    let maximums = RunBounds {
        requests: quantities(&[("cpu", "1")]),
        limits: quantities(&[("memory", "1Gi")]),
        timeout: Some("1s".into()),
        ..RunBounds::default()
    };
    let mut runtime = RuntimeView { maximums: Some(maximums), ..RuntimeView::default() };
    assert!(asked.resolve(&runtime).is_err());
    let held = |runtime: &RuntimeView| asked.held(Some(runtime)).amounts.to_string();
    assert_eq!(held(&runtime), "cpu=5, licence=500m, runs=2");
    runtime.defaults = Some(RunBounds { requests: quantities(&[("gpu", "1")]), ..RunBounds::default() });
    assert_eq!(held(&runtime), "cpu=5, gpu=1, licence=500m, runs=2");
    runtime.delegated = true;
    assert_eq!(held(&runtime), "runs=2");
    assert_eq!(asked.held(None).amounts.to_string(), "cpu=5, licence=500m, runs=2");
    let odd = demand(&[("cpu", "many"), ("gpu", "1")], None);
    assert_eq!(odd.held(None).amounts.to_string(), "gpu=1, runs=1", "what can be read counts");
}

/// As `desired` tells the sidecar: any word on isolation makes requests of memory limits.
#[test]
fn a_word_on_isolation_makes_requests_of_memory_limits() {
    let mut runtime = kruntimes_api::Runtime::default();
    assert!(!RuntimeView::of(&runtime).memory_by_request);
    runtime.spec.isolation = Some(kruntimes_api::runtime::IsolationSpec::default());
    assert!(RuntimeView::of(&runtime).memory_by_request);
}

#[test]
fn a_limit_with_a_ceiling_must_be_set() {
    let maximums =
        RunBounds { limits: quantities(&[("memory", "1Gi"), ("pids", "50")]), ..RunBounds::default() };
    let mut runtime = RuntimeView { maximums: Some(maximums), ..RuntimeView::default() };
    let resolve = |runtime: &RuntimeView, requests: &[(&str, &str)], limits: &[(&str, &str)]| {
        let mut run = Run::default();
        run.spec.resources = Some(Resources { requests: quantities(requests), limits: quantities(limits) });
        Demand::of(&run).resolve(runtime).map(|resolved| resolved.amounts.to_string())
    };
    let missing = |name: &str, most: &str| {
        Err(format!(
            "spec.resources.limits[{name}]: none is set and the Runtime's runMaximums allow at most {most}; set one"
        ))
    };
    assert_eq!(resolve(&runtime, &[], &[]), missing("memory", "1Gi"));
    assert_eq!(resolve(&runtime, &[], &[("memory", "1Gi")]), missing("pids", "50"));
    assert_eq!(resolve(&runtime, &[], &[("memory", "1Gi"), ("pids", "50")]), Ok("runs=1".into()));
    let above = "spec.resources.limits[memory]: 2Gi is more than 1Gi, the Runtime's runMaximums";
    assert_eq!(resolve(&runtime, &[], &[("memory", "2Gi"), ("pids", "50")]), Err(above.into()));

    runtime.defaults = Some(RunBounds { limits: quantities(&[("pids", "20")]), ..RunBounds::default() });
    assert_eq!(resolve(&runtime, &[], &[("memory", "1Gi")]), Ok("runs=1".into()), "a default will do");
    // Only where the Runtime says something of isolation is a request the limit.
    assert_eq!(resolve(&runtime, &[("memory", "1Gi")], &[]), missing("memory", "1Gi"));
    runtime.memory_by_request = true;
    assert_eq!(resolve(&runtime, &[("memory", "1Gi")], &[]), Ok("memory=1Gi, runs=1".into()));
    let above = "spec.resources.requests[memory]: 2Gi is the limit where none is set, and more than 1Gi, the Runtime's runMaximums";
    assert_eq!(resolve(&runtime, &[("memory", "2Gi")], &[]), Err(above.into()));
    assert_eq!(
        resolve(&runtime, &[("memory", "2Gi")], &[("memory", "1Gi")]),
        Ok("memory=2Gi, runs=1".into())
    );
}
