//! The kinds and the admission policies beside them, and the command that brings both up to date.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kruntimes_api::crds;
use kube::ResourceExt;
use serde_json::Value;

use super::judge::known;
use super::{Facts, Finding, Release};

/// The policies that are always part of the chart.
const POLICIES: [&str; 5] = [
    "pods-status.kruntimes.io",
    "runs-status.kruntimes.io",
    "runs-submitter.kruntimes.io",
    "runtimeinstances.kruntimes.io",
    "runtimes-template.kruntimes.io",
];

pub(super) fn kinds(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "Kinds";
    let install = fix(facts, None);
    let (found, ours) = match (&facts.kinds, crds::all()) {
        (Ok(found), Ok(ours)) => (found, ours),
        (Err(why), _) => return vec![Finding::unknown(CHECK, why)],
        (_, Err(why)) => return vec![Finding::unknown(CHECK, &why.to_string())],
    };
    let mut findings = Vec::new();
    for ours in &ours {
        let name = ours.name_any();
        let Some(theirs) = found.iter().find(|kind| kind.name_any() == name) else {
            findings.push(Finding::error(CHECK, format!("{name} is not installed"), &install));
            continue;
        };
        let conditions = theirs.status.iter().flat_map(|status| status.conditions.iter().flatten());
        if let Some(bad) = conditions.into_iter().find(|c| c.type_ == "Established" && c.status != "True") {
            let why = bad.message.clone().unwrap_or_default();
            let fix = format!("kubectl describe crd {name}");
            findings.push(Finding::error(CHECK, format!("{name} is not served: {why}"), fix));
        }
        let missing = missing(ours, theirs);
        if let Some(first) = missing.first() {
            let more = match missing.len() - 1 {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let found = format!("{name} lacks {first}{more}: it is older than this krt ({})", facts.ours);
            findings.push(Finding::warning(CHECK, found, &install));
        }
    }
    if findings.is_empty() {
        findings
            .push(Finding::ok(CHECK, format!("{} of them, with every field of {}", ours.len(), facts.ours)));
    }
    findings
}

/// Fields of ours that their kind does not have.
fn missing(ours: &CustomResourceDefinition, theirs: &CustomResourceDefinition) -> Vec<String> {
    let schema = |kind: &CustomResourceDefinition| {
        let value = serde_json::to_value(&kind.spec.versions).unwrap_or_default();
        value[0]["schema"]["openAPIV3Schema"].clone()
    };
    let mut missing = Vec::new();
    compare(&schema(ours), &schema(theirs), "", &mut missing);
    missing
}

fn compare(ours: &Value, theirs: &Value, path: &str, missing: &mut Vec<String>) {
    for (name, field) in ours["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match theirs["properties"].get(name) {
            Some(theirs) => compare(field, theirs, &path, missing),
            None => missing.push(path),
        }
    }
    if ours["items"].is_object() {
        compare(&ours["items"], &theirs["items"], &format!("{path}[]"), missing);
    }
}

/// Whether the rights of the Pods are narrowed to what is theirs.
pub(super) fn policies(facts: &Facts) -> Option<Finding> {
    const CHECK: &str = "Policies";
    // The local platform has none: everybody on it is its owner.
    if facts.local {
        return None;
    }
    let enforced = match &facts.policies {
        Ok(enforced) => enforced,
        Err(why) => return Some(Finding::unknown(CHECK, why)),
    };
    let absent: Vec<_> = POLICIES.into_iter().filter(|name| !enforced.iter().any(|e| e == name)).collect();
    if absent.is_empty() {
        return Some(Finding::ok(CHECK, format!("{} of them are enforced", POLICIES.len())));
    }
    let found = match absent.len() {
        all if all == POLICIES.len() => {
            "no admission policy is enforced: a token stolen from a Pod can write every Run of its namespace"
                .into()
        }
        _ => format!("not enforced: {}", absent.join(", ")),
    };
    Some(Finding::warning(
        CHECK,
        found,
        fix(facts, Some("policies.enabled=true,policies.validationActions={Deny}")),
    ))
}

/// The command that brings kinds and policies up to date. They belong to the release that made them, and to no other: that of
/// `kruntimes`, of which they are a part unless somebody decided otherwise, or one of their own. `value`: of the chart of the kinds.
fn fix(facts: &Facts, value: Option<&str>) -> String {
    let (kinds, parts) = (known(&facts.kinds), known(&facts.parts));
    let as_a_part = |release: &Release| release.upgrade("kruntimes", value.map(part_of_the_whole).as_deref());
    if let Some(release) = kinds.iter().find_map(Release::of) {
        // Where the control plane is not seen, the name that the documentation gives them decides.
        let alone = match parts {
            [] => release.name == "kruntimes-crds",
            parts => parts.iter().all(|part| part.release.as_ref() != Some(&release)),
        };
        return if alone { release.upgrade("kruntimes-crds", value) } else { as_a_part(&release) };
    }
    if !kinds.is_empty() {
        let apply = "kubectl apply --server-side --force-conflicts --filename -";
        return format!("helm template kruntimes-crds charts/kruntimes-crds | {apply}");
    }
    let whole = parts.iter().find(|part| part.watches.is_none()).and_then(|part| part.release.as_ref());
    whole.map_or_else(
        || {
            let place = "--namespace kruntimes-system --create-namespace";
            format!("helm install kruntimes-crds charts/kruntimes-crds {place}")
        },
        as_a_part,
    )
}

/// Values of the chart of the kinds, as the chart of which it is a part takes them.
fn part_of_the_whole(values: &str) -> String {
    values.split(',').map(|value| format!("kruntimes-crds.{value}")).collect::<Vec<_>>().join(",")
}
