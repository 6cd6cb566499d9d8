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
        let requests = with_a_slot(amounts("spec.resources.requests", &resources.requests, runtime)?);
        let limits = amounts("spec.resources.limits", &resources.limits, runtime)?;
        if let Some(maximums) = &runtime.maximums {
            within("requests", &requests, &maximums.requests)?;
            within("limits", &limits, &maximums.limits)?;
            limited(&limits, runtime.memory_by_request.then_some(&requests), &maximums.limits)?;
            times_within(&spec, maximums)?;
        }
        if let Some(error) = self.terms.as_ref().and_then(Terms::error) {
            return Err(format!("spec.affinity: {error}"));
        }
        Ok(self.resolved(requests, runtime.delegated))
    }

    /// What a bound Run holds, even if nobody would bind it like that today: ceilings and kinds of resources may have
    /// changed since, and what cannot be read was not counted then either.
    pub(super) fn held(&self, runtime: Option<&RuntimeView>) -> Resolved {
        let spec = effective(&self.spec(), runtime.and_then(|runtime| runtime.defaults.as_ref()));
        let requests = spec.resources.unwrap_or_default().requests;
        let readable = requests.iter().filter_map(|(name, quantity)| {
            Some((name.as_str(), check(name, &quantity.0, Kind::Divisible).ok()?))
        });
        self.resolved(with_a_slot(readable.collect()), runtime.is_some_and(|runtime| runtime.delegated))
    }

    /// With what `amounts` mean for a Pod: where the backend queues, only the slots.
    fn resolved(&self, mut amounts: Amounts, delegated: bool) -> Resolved {
        if delegated {
            amounts.retain(|name, _| name == names::RUNS);
        }
        Resolved { amounts, terms: self.terms.clone(), labels: self.labels.clone() }
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

/// What is asked for; every Run takes a slot.
fn with_a_slot(mut requests: Amounts) -> Amounts {
    requests.retain(|_, amount| amount.is_positive());
    if requests.get(names::RUNS).is_zero() {
        requests.set(names::RUNS, Amount::ONE);
    }
    requests
}

/// The ceilings that say something. A malformed one cannot pass the API's validation; if it does, nothing is above it.
fn readable(ceilings: &BTreeMap<String, Quantity>) -> impl Iterator<Item = (&str, Amount)> {
    ceilings.iter().filter_map(|(name, most)| Some((&**name, check(name, &most.0, Kind::Divisible).ok()?)))
}

fn within(field: &str, amounts: &Amounts, ceilings: &BTreeMap<String, Quantity>) -> Result<(), String> {
    match readable(ceilings).find(|(name, most)| amounts.get(name) > *most) {
        None => Ok(()),
        Some((name, most)) => {
            let (amount, most) = (display(name, amounts.get(name)), display(name, most));
            Err(format!(
                "spec.resources.{field}[{name}]: {amount} is more than {most}, the Runtime's runMaximums"
            ))
        }
    }
}

/// A limit that has a ceiling must be set: what has no limit may use all that there is. `by_request` are the requests
/// where one of memory is the limit.
fn limited(
    limits: &Amounts,
    by_request: Option<&Amounts>,
    ceilings: &BTreeMap<String, Quantity>,
) -> Result<(), String> {
    for (name, most) in readable(ceilings).filter(|(name, _)| !limits.has(name)) {
        let request = by_request.filter(|requests| name == names::MEMORY && requests.has(name));
        let text = display(name, most);
        match request.map(|requests| requests.get(name)) {
            None => {
                return Err(format!(
                    "spec.resources.limits[{name}]: none is set and the Runtime's runMaximums allow at most {text}; set one"
                ));
            }
            Some(amount) if amount > most => {
                return Err(format!(
                    "spec.resources.requests[{name}]: {} is the limit where none is set, and more than {text}, the Runtime's runMaximums",
                    display(name, amount)
                ));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn times_within(spec: &RunSpec, maximums: &RunBounds) -> Result<(), String> {
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
