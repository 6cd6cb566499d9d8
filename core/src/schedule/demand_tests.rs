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
