//! What the answers mean. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kruntimes_api::names::RUNTIMED_READY;
use kruntimes_api::{Runtime, crds};
use kube::ResourceExt;
use serde_json::Value;

use super::{Answer, Facts, Finding, Part, runs};
use crate::render::age;

/// The oldest API server that has what is needed (selectable fields).
const OLDEST: (u32, u32) = (1, 32);
/// A clock that is off by less does no harm.
const SKEW: SignedDuration = SignedDuration::from_secs(5);
/// A heartbeat older than this stops binding.
const STALE: SignedDuration = SignedDuration::from_secs(25);
/// A Lease that was not renewed for so long is nobody's.
const LEASE: SignedDuration = SignedDuration::from_secs(15);
/// Findings of one check that are listed one by one.
pub(super) const LISTED: usize = 5;

/// The findings, in the order in which a person should mend them.
pub(crate) fn findings(facts: &Facts, now: Timestamp) -> Vec<Finding> {
    let now = now + facts.skew.unwrap_or_default();
    let mut findings = vec![server(facts)];
    findings.push(clock(facts));
    findings.extend(kinds(facts));
    findings.extend(rights(facts));
    findings.extend(control_plane(facts));
    findings.extend(pools(facts));
    findings.extend(pods(facts, now));
    findings.extend(runs::runs(facts, now));
    findings
}

fn server(facts: &Facts) -> Finding {
    const CHECK: &str = "API server";
    let version = match &facts.server {
        Ok(version) => version,
        Err(why) => return Finding::unknown(CHECK, why),
    };
    let mut numbers = version.trim_start_matches('v').split('.').map_while(|part| part.parse::<u32>().ok());
    match numbers.next().zip(numbers.next()) {
        Some(found) if found < OLDEST => Finding::error(
            CHECK,
            format!(
                "{version} is older than {}.{}: it cannot select by the fields of Runs",
                OLDEST.0, OLDEST.1
            ),
            "kubectl version",
        ),
        _ => Finding::ok(CHECK, format!("{version} at {}", facts.address)),
    }
}

fn clock(facts: &Facts) -> Finding {
    const CHECK: &str = "Clock";
    match facts.skew {
        None => Finding::unknown(CHECK, "the server does not say what time it is"),
        Some(skew) if skew.abs() > SKEW => {
            let word = if skew.is_positive() { "behind" } else { "ahead of" };
            let found = format!(
                "this machine is {} {word} the server: ages are shown wrongly",
                age::length(skew.abs())
            );
            Finding::warning(CHECK, found, "timedatectl set-ntp true")
        }
        Some(_) => Finding::ok(CHECK, "as the server's"),
    }
}

fn kinds(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "Kinds";
    let install =
        format!("helm upgrade --install kruntimes-crds charts/kruntimes-crds --version {}", facts.ours);
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

fn rights(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "Rights";
    let denied: Vec<_> = facts.rights.iter().filter(|right| !right.allowed).collect();
    let place = match &facts.namespace {
        Some(namespace) => format!("in namespace {namespace}"),
        None => "in all namespaces".to_owned(),
    };
    if facts.rights.is_empty() {
        return vec![Finding::unknown(CHECK, "the server does not say what you may do")];
    }
    if denied.is_empty() {
        let user = facts.user.as_deref().unwrap_or("you");
        return vec![Finding::ok(CHECK, format!("{user} may submit, watch, cancel and delete Runs {place}"))];
    }
    let user = facts.user.as_deref().unwrap_or("USER");
    let name: String = user.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let fix = match &facts.namespace {
        Some(namespace) => format!(
            "kubectl create rolebinding krt-{name} --clusterrole=edit --user={user} --namespace={namespace}"
        ),
        None => format!("kubectl create clusterrolebinding krt-{name} --clusterrole=edit --user={user}"),
    };
    let words: Vec<_> = denied.iter().map(|right| format!("{} {}", right.verb, right.resource)).collect();
    vec![Finding::warning(CHECK, format!("you may not {} {place}", words.join(", ")), fix)]
}

fn control_plane(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "Control plane";
    if facts.local {
        return vec![Finding::ok(CHECK, "of this machine; `krt local status` shows it")];
    }
    let parts = match &facts.parts {
        Ok(parts) => parts,
        Err(why) => return vec![Finding::unknown(CHECK, why)],
    };
    let mut findings = Vec::new();
    for component in ["scheduler", "controller"] {
        let these: Vec<_> = parts.iter().filter(|part| part.component == component).collect();
        if these.is_empty() {
            let fix =
                "helm install kruntimes charts/kruntimes --namespace kruntimes-system --create-namespace";
            findings.push(Finding::error(CHECK, format!("there is no {component}"), fix));
        }
        findings.extend(these.into_iter().map(|part| part_finding(part, facts)));
    }
    findings
}

fn part_finding(part: &Part, facts: &Facts) -> Finding {
    const CHECK: &str = "Control plane";
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
        let fix =
            format!("helm upgrade {name} charts/kruntimes --namespace {namespace} --version {}", facts.ours);
        return Finding::warning(CHECK, found, fix.replace(&format!("-{component} charts"), " charts"));
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

fn pools(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "Runtimes";
    let runtimes = match &facts.runtimes {
        Ok(runtimes) => runtimes,
        Err(why) => return vec![Finding::unknown(CHECK, why)],
    };
    if runtimes.is_empty() {
        return vec![Finding::warning(CHECK, "there is none", "krt runtime create NAME --image IMAGE")];
    }
    let mut findings: Vec<_> = runtimes.iter().filter_map(pool).collect();
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, format!("{} without a fault", runtimes.len())));
    }
    cut(findings)
}

fn pool(runtime: &Runtime) -> Option<Finding> {
    const CHECK: &str = "Runtimes";
    let (namespace, name) = (runtime.namespace().unwrap_or_default(), runtime.name_any());
    let fix = format!("krt runtime describe {name} -n {namespace}");
    let Some(status) = &runtime.status else {
        return Some(Finding::error(
            CHECK,
            format!("{namespace}/{name}: no controller has looked at it"),
            fix,
        ));
    };
    let ready = status.ready_replicas.unwrap_or(0);
    let wanted = runtime.spec.replicas.unwrap_or(1);
    let degraded = status.conditions.iter().find(|c| c.type_ == "Degraded" && c.status == "True");
    if let Some(condition) = degraded {
        let found = format!("{namespace}/{name}: {}: {}", condition.reason, condition.message);
        return Some(if ready == 0 {
            Finding::error(CHECK, found, fix)
        } else {
            Finding::warning(CHECK, found, fix)
        });
    }
    let behind = status.observed_generation < runtime.metadata.generation;
    if behind {
        let found = format!("{namespace}/{name}: its last change has not been carried out");
        return Some(Finding::warning(CHECK, found, fix));
    }
    (ready < wanted).then(|| {
        Finding::warning(CHECK, format!("{namespace}/{name}: {ready} of {wanted} Pods take Runs"), fix)
    })
}

fn pods(facts: &Facts, now: Timestamp) -> Vec<Finding> {
    const CHECK: &str = "Pods";
    let pods = match &facts.pods {
        Ok(pods) => pods,
        Err(why) => return vec![Finding::unknown(CHECK, why)],
    };
    let mut findings: Vec<_> = pods.iter().filter_map(|pod| heartbeat(pod, now)).collect();
    if findings.is_empty() {
        findings.push(Finding::ok(
            CHECK,
            format!("{}, each with a heartbeat of the last {}", pods.len(), age::length(STALE)),
        ));
    }
    cut(findings)
}

/// What is wrong with the heartbeat of a Pod that runs.
fn heartbeat(pod: &Pod, now: Timestamp) -> Option<Finding> {
    const CHECK: &str = "Pods";
    let status = pod.status.as_ref()?;
    if status.phase.as_deref() != Some("Running") || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let logs = format!("kubectl -n {namespace} logs {name} -c runtimed --tail 20");
    let condition = status.conditions.iter().flatten().find(|condition| condition.type_ == RUNTIMED_READY);
    let Some(beat) = condition.and_then(|condition| condition.last_probe_time.as_ref()) else {
        return Some(Finding::error(CHECK, format!("{namespace}/{name} has never had a heartbeat"), logs));
    };
    let age = now.duration_since(beat.0);
    if age > STALE {
        let found =
            format!("{namespace}/{name} has had no heartbeat for {}: it gets no Runs", age::length(age));
        return Some(Finding::error(CHECK, found, format!("kubectl -n {namespace} delete pod {name}")));
    }
    if -age > SKEW {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        let found = format!("{namespace}/{name}: the clock of node {node} is {} ahead", age::length(-age));
        return Some(Finding::warning(CHECK, found, format!("kubectl describe node {node}")));
    }
    None
}

/// The worst few, and how many more there are.
pub(super) fn cut(mut findings: Vec<Finding>) -> Vec<Finding> {
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.verdict));
    let more = findings.len().saturating_sub(LISTED);
    findings.truncate(LISTED);
    if more > 0
        && let Some(last) = findings.last_mut()
    {
        last.found.push_str(&format!(" (and {more} more of these)"));
    }
    findings
}

/// What is known, or nothing.
pub(super) fn known<T>(answer: &Answer<Vec<T>>) -> &[T] {
    answer.as_deref().unwrap_or_default()
}
