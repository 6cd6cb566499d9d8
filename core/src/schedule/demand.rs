//! What a Run asks for, and what that means under its Runtime.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kruntimes_api::duration;
use kruntimes_api::run::{Resources, Run, RunSpec};
use kruntimes_api::runtime::RunBounds;
use kruntimes_resources::{Amount, Amounts, Kind, check, display, kind_of, names};

use super::RuntimeView;
use super::affinity::Terms;
use crate::run::effective;

/// The part of a spec that decides where a Run fits; equal for Runs that differ in nothing of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Demand {
    requests: BTreeMap<String, String>,
    limits: BTreeMap<String, String>,
    timeout: Option<String>,
    ttl: Option<i32>,
    terms: Option<Terms>,
    /// Own labels, when an affinity term may look at them.
    labels: BTreeMap<String, String>,
}

impl Demand {
    pub(super) fn of(run: &Run) -> Self {
        let spec = &run.spec;
        let texts =
            |map: &BTreeMap<String, Quantity>| map.iter().map(|(k, v)| (k.clone(), v.0.clone())).collect();
        let terms = spec.affinity.as_ref().and_then(Terms::of);
        let labels = match terms {
            Some(_) => run.metadata.labels.clone().unwrap_or_default(),
            None => BTreeMap::new(),
        };
        Self {
            requests: spec.resources.as_ref().map(|r| texts(&r.requests)).unwrap_or_default(),
            limits: spec.resources.as_ref().map(|r| texts(&r.limits)).unwrap_or_default(),
            timeout: spec.timeout.clone(),
            ttl: spec.ttl_seconds_after_finished,
            terms,
            labels,
        }
    }

    /// The demand as a spec that `effective` can complete.
    fn spec(&self) -> RunSpec {
        let quantities = |map: &BTreeMap<String, String>| {
            map.iter().map(|(k, v)| (k.clone(), Quantity(v.clone()))).collect()
        };
        RunSpec {
            timeout: self.timeout.clone(),
            ttl_seconds_after_finished: self.ttl,
            resources: Some(Resources {
                requests: quantities(&self.requests),
                limits: quantities(&self.limits),
            }),
            ..RunSpec::default()
        }
    }

    /// What is asked for under `runtime` (its defaults applied, its ceilings kept).
    ///
    /// # Errors
    /// A sentence that names the field which cannot be met as written.
    pub(super) fn resolve(&self, runtime: &RuntimeView) -> Result<Resolved, String> {
        let spec = effective(&self.spec(), runtime.defaults.as_ref());
        let resources = spec.resources.clone().unwrap_or_default();
        let mut amounts = amounts("spec.resources.requests", &resources.requests, runtime)?;
        let limits = self::amounts("spec.resources.limits", &resources.limits, runtime)?;
        amounts.retain(|_, amount| amount.is_positive());
        if amounts.get(names::RUNS).is_zero() {
            amounts.set(names::RUNS, Amount::ONE);
        }
        if let Some(maximums) = &runtime.maximums {
            within(&spec, &amounts, &limits, maximums)?;
        }
        if let Some(error) = self.terms.as_ref().and_then(Terms::error) {
            return Err(format!("spec.affinity: {error}"));
        }
        if runtime.delegated {
            amounts.retain(|name, _| name == names::RUNS);
        }
        Ok(Resolved { amounts, terms: self.terms.clone(), labels: self.labels.clone() })
    }

    /// What a bound Run holds, even if nobody would bind it like that today.
    pub(super) fn held(&self, runtime: Option<&RuntimeView>) -> Resolved {
        let resolved = runtime.map(|runtime| self.resolve(runtime));
        match resolved.unwrap_or_else(|| self.resolve(&RuntimeView::default())) {
            Ok(resolved) => resolved,
            Err(_) => Resolved {
                amounts: [(names::RUNS, Amount::ONE)].into_iter().collect(),
                terms: None,
                labels: BTreeMap::new(),
            },
        }
    }
}

/// A demand under a Runtime.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Resolved {
    /// Amounts to hold; `runs` is at least one.
    pub(super) amounts: Amounts,
    /// Affinity.
    pub(super) terms: Option<Terms>,
    /// Own labels, for affinity to itself.
    pub(super) labels: BTreeMap<String, String>,
}

fn amounts(
    field: &str,
    quantities: &BTreeMap<String, Quantity>,
    runtime: &RuntimeView,
) -> Result<Amounts, String> {
    let mut amounts = Amounts::new();
    for (name, quantity) in quantities {
        let kind = runtime.kinds.get(name).copied().unwrap_or_else(|| kind_of(name));
        let amount = check(name, &quantity.0, kind).map_err(|error| format!("{field}: {error}"))?;
        amounts.set(name, amount);
    }
    Ok(amounts)
}

fn within(spec: &RunSpec, requests: &Amounts, limits: &Amounts, maximums: &RunBounds) -> Result<(), String> {
    let fields = [
        ("spec.resources.requests", requests, &maximums.requests),
        ("spec.resources.limits", limits, &maximums.limits),
    ];
    for (field, amounts, ceilings) in fields {
        for (name, ceiling) in ceilings {
            // A malformed ceiling cannot pass the API's validation; if it does, nothing is above it.
            let Ok(most) = check(name, &ceiling.0, Kind::Divisible) else { continue };
            let amount = amounts.get(name);
            if amount > most {
                let (amount, most) = (display(name, amount), display(name, most));
                return Err(format!(
                    "{field}[{name}]: {amount} is more than {most}, the Runtime's runMaximums"
                ));
            }
        }
    }
    if let Some((text, most)) =
        maximums.timeout.as_ref().and_then(|text| Some((text, duration::parse(text).ok()?)))
    {
        match spec.timeout.as_deref() {
            None => {
                return Err(format!(
                    "spec.timeout: none is set and the Runtime's runMaximums allow at most {text}; set one"
                ));
            }
            Some(own) if duration::parse(own).is_ok_and(|own| own > most) => {
                return Err(format!("spec.timeout: {own} is more than {text}, the Runtime's runMaximums"));
            }
            Some(_) => {}
        }
    }
    match (spec.ttl_seconds_after_finished, maximums.ttl_seconds_after_finished) {
        (Some(own), Some(most)) if own > most => {
            Err(format!("spec.ttlSecondsAfterFinished: {own} is more than {most}, the Runtime's runMaximums"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "demand_tests.rs"]
mod tests;
