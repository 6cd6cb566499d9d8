//! What a Run means under its Runtime's defaults.

use kruntimes_api::run::{Resources, RunSpec};
use kruntimes_api::runtime::RunBounds;

/// `spec` with every absent field filled from `defaults`.
pub fn effective(spec: &RunSpec, defaults: Option<&RunBounds>) -> RunSpec {
    let mut spec = spec.clone();
    let Some(defaults) = defaults else { return spec };
    if spec.timeout.is_none() {
        spec.timeout.clone_from(&defaults.timeout);
    }
    if spec.ttl_seconds_after_finished.is_none() {
        spec.ttl_seconds_after_finished = defaults.ttl_seconds_after_finished;
    }
    if defaults.requests.is_empty() && defaults.limits.is_empty() {
        return spec;
    }
    let resources = spec.resources.get_or_insert_with(Resources::default);
    for (name, amount) in &defaults.requests {
        resources.requests.entry(name.clone()).or_insert_with(|| amount.clone());
    }
    for (name, amount) in &defaults.limits {
        resources.limits.entry(name.clone()).or_insert_with(|| amount.clone());
    }
    spec
}
