//! What the answers mean. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kruntimes_api::Runtime;
use kruntimes_api::names::RUNTIMED_READY;
use kruntimes_core::schedule::Settings;
use kube::ResourceExt;

use super::{Answer, Facts, Finding, kinds, parts, runs};
use crate::render::age;

/// The oldest API server that has what is needed (selectable fields).
const OLDEST: (u32, u32) = (1, 32);
/// A clock that is off by less does no harm.
const SKEW: SignedDuration = SignedDuration::from_secs(5);
/// Findings of one check that are listed one by one.
pub(super) const LISTED: usize = 5;

/// The findings, in the order in which a person should mend them.
pub(crate) fn findings(facts: &Facts, now: Timestamp) -> Vec<Finding> {
    let now = now + facts.skew.unwrap_or_default();
    let mut findings = vec![server(facts)];
    findings.push(clock(facts));
    findings.extend(kinds::kinds(facts));
    findings.extend(kinds::policies(facts));
    findings.extend(rights(facts));
    findings.extend(parts::parts(facts));
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
    // As the scheduler has it.
    let fresh = SignedDuration::try_from(Settings::default().fresh).unwrap_or(SignedDuration::MAX);
    let mut findings: Vec<_> = pods.iter().filter_map(|pod| heartbeat(pod, fresh, now)).collect();
    if findings.is_empty() {
        findings.push(Finding::ok(
            CHECK,
            match pods.len() {
                0 => "no Runtime has any".to_owned(),
                count => format!("{count}, each with a heartbeat of the last {} s", fresh.as_secs()),
            },
        ));
    }
    cut(findings)
}

/// What is wrong with the heartbeat of a Pod that runs.
fn heartbeat(pod: &Pod, fresh: SignedDuration, now: Timestamp) -> Option<Finding> {
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
    if age > fresh {
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
