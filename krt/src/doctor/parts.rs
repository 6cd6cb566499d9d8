//! Scheduler and controller: who works for the namespace that is looked at, and whether it does.

use jiff::SignedDuration;

use super::{Facts, Finding, Part, Release};
use crate::render::age;

const CHECK: &str = "Control plane";
/// A Lease that was not renewed for so long is nobody's.
const LEASE: SignedDuration = SignedDuration::from_secs(15);

pub(super) fn parts(facts: &Facts) -> Vec<Finding> {
    if facts.local {
        return vec![Finding::ok(CHECK, "of this machine; `krt local status` shows it")];
    }
    let parts = match &facts.parts {
        Ok(parts) => parts,
        Err(why) => return vec![Finding::unknown(CHECK, why)],
    };
    let mut findings = Vec::new();
    for component in ["scheduler", "controller"] {
        let these: Vec<_> =
            parts.iter().filter(|part| part.component == component && concerns(part, facts)).collect();
        if these.is_empty() {
            findings.push(nobody(component, parts, facts));
        }
        for (index, part) in these.iter().enumerate() {
            findings.push(part_finding(part, facts));
            let twice = these[..index].iter().find(|other| overlap(part, other));
            findings.extend(twice.map(|other| two(part, other)));
        }
    }
    findings
}

/// Whether it looks after the namespace that is looked at, or one of all.
fn concerns(part: &Part, facts: &Facts) -> bool {
    let (watches, namespace) = (part.watches.as_ref(), facts.namespace.as_ref());
    watches.is_none() || namespace.is_none() || watches == namespace
}

/// Whether there is a namespace that both look after.
fn overlap(one: &Part, other: &Part) -> bool {
    one.watches.is_none() || other.watches.is_none() || one.watches == other.watches
}

fn nobody(component: &str, parts: &[Part], facts: &Facts) -> Finding {
    match (&facts.namespace, parts.iter().find_map(|part| part.watches.as_ref())) {
        (Some(namespace), Some(elsewhere)) => Finding::error(
            CHECK,
            format!("there is no {component} for namespace {namespace}, only for others such as {elsewhere}"),
            format!(
                "helm install {namespace} charts/kruntimes --namespace {namespace} --set kruntimes-crds.enabled=false,watchNamespace={namespace}"
            ),
        ),
        _ => Finding::error(
            CHECK,
            format!("there is no {component}"),
            "helm install kruntimes charts/kruntimes --namespace kruntimes-system --create-namespace",
        ),
    }
}

/// They undo each other's work. The one for a single namespace goes: the other does its work too.
fn two(part: &Part, other: &Part) -> Finding {
    let (less, more) = if part.watches.is_some() { (part, other) } else { (other, part) };
    let place =
        less.watches.as_ref().map_or("every namespace".to_owned(), |name| format!("namespace {name}"));
    let who = |part: &Part| format!("{}/{}", part.namespace, part.name);
    let fix = match &less.release {
        Some(Release { name, namespace }) => format!("helm uninstall {name} --namespace {namespace}"),
        None => format!("kubectl -n {} delete deployment {}", less.namespace, less.name),
    };
    Finding::error(CHECK, format!("{} and {} both look after {place}", who(more), who(less)), fix)
}

fn part_finding(part: &Part, facts: &Facts) -> Finding {
    let Part { component, namespace, name, wanted, ready, .. } = part;
    let who = format!("{component} {namespace}/{name}");
    let describe = format!("kubectl -n {namespace} describe deployment {name}");
    if *ready == 0 {
        return Finding::error(CHECK, format!("{who}: none of {wanted} replicas is ready"), describe);
    }
    let restart = format!("kubectl -n {namespace} rollout restart deployment {name}");
    let leader = match &part.lease {
        _ if !part.elects => "it is alone".to_owned(),
        Err(why) => format!("its leader is not known: {why}"),
        Ok(None) => return Finding::error(CHECK, format!("{who}: nobody leads"), restart),
        Ok(Some((holder, renewed))) if *renewed + facts.skew.unwrap_or_default() > LEASE => {
            let since = age::length(*renewed + facts.skew.unwrap_or_default());
            let found = format!("{who}: {holder} leads, and has not renewed its Lease for {since}");
            return Finding::error(CHECK, found, restart);
        }
        Ok(Some((holder, _))) => format!("{holder} leads"),
    };
    if let Some(version) = part.version.as_deref().filter(|version| *version != facts.ours) {
        let found = format!("{who} is of version {version}, this krt of {}", facts.ours);
        let fix = part.release.as_ref().map_or(describe, |release| release.upgrade("kruntimes", None));
        return Finding::warning(CHECK, found, fix);
    }
    if ready < wanted {
        return Finding::warning(
            CHECK,
            format!("{who}: {ready} of {wanted} replicas are ready; {leader}"),
            describe,
        );
    }
    Finding::ok(CHECK, format!("{who}: {ready} of {wanted} ready, {leader}"))
}
