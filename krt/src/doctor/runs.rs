//! Runs that do not go on.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use kruntimes_api::names::RUNS_RESOURCE;
use kruntimes_api::{Phase, Reason, Run, Runtime, duration};
use kube::ResourceExt;

use super::judge::{cut, known};
use super::{Facts, Finding, Part};
use crate::render::age;

const CHECK: &str = "Runs";
/// What takes longer than this is stuck.
const PATIENCE: SignedDuration = SignedDuration::from_secs(60);

pub(super) fn runs(facts: &Facts, now: Timestamp) -> Vec<Finding> {
    let runs = match &facts.runs {
        Ok(runs) => runs,
        Err(why) => return vec![Finding::unknown(CHECK, why)],
    };
    let mut waiting: BTreeMap<(String, &str), Vec<&Run>> = BTreeMap::new();
    let mut findings = Vec::new();
    for run in runs {
        if let Some(finding) = undeleted(run, now) {
            findings.push(finding);
            continue;
        }
        match phase(run) {
            Phase::Pending => {
                let group = waiting.entry((run.namespace().unwrap_or_default(), &run.spec.runtime));
                group.or_default().push(run);
            }
            Phase::Scheduled | Phase::Running | Phase::Ready => findings.extend(bound(run, facts, now)),
            Phase::Succeeded | Phase::Failed | Phase::Timeout | Phase::Cancelled => {}
        }
    }
    for ((namespace, runtime), runs) in waiting {
        findings.extend(queue(&namespace, runtime, &runs, facts, now));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, format!("{} that have not ended, none stuck", runs.len())));
    }
    cut(findings)
}

fn phase(run: &Run) -> Phase {
    run.status.as_ref().and_then(|status| status.phase).unwrap_or_default()
}

fn since(time: Option<Timestamp>, now: Timestamp) -> SignedDuration {
    time.map(|time| now.duration_since(time)).unwrap_or_default()
}

fn created(run: &Run) -> Option<Timestamp> {
    run.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

/// A Run whose deletion waits for somebody.
fn undeleted(run: &Run, now: Timestamp) -> Option<Finding> {
    let waits = since(run.metadata.deletion_timestamp.as_ref().map(|time| time.0), now);
    let finalizers = run.metadata.finalizers.as_ref().filter(|finalizers| !finalizers.is_empty())?;
    if waits <= PATIENCE {
        return None;
    }
    let (namespace, name) = (run.namespace().unwrap_or_default(), run.name_any());
    let found = format!(
        "{namespace}/{name} was deleted {} ago and waits for {}",
        age::length(waits),
        finalizers.join(", ")
    );
    let fix = format!(
        "kubectl -n {namespace} patch run {name} --type merge -p '{{\"metadata\":{{\"finalizers\":null}}}}'"
    );
    Some(Finding::warning(CHECK, found, fix))
}

/// A Run that a Pod has.
fn bound(run: &Run, facts: &Facts, now: Timestamp) -> Option<Finding> {
    let status = run.status.as_ref()?;
    let (namespace, name) = (run.namespace().unwrap_or_default(), run.name_any());
    let pod = status.assigned_pod.as_deref().unwrap_or_default();
    let uid = status.assigned_pod_uid.as_deref();
    let bound_for = since(status.scheduled_time.as_ref().map(|time| time.0), now);
    let there = facts.pods.is_err()
        || known(&facts.pods)
            .iter()
            .any(|known| known.name_any() == pod && known.metadata.uid.as_deref() == uid);
    if !there && bound_for > PATIENCE {
        let found = format!("{namespace}/{name} is bound to pod {pod}, which is gone or has lost its label");
        return Some(Finding::error(CHECK, found, program_of("controller", &namespace, facts)));
    }
    if phase(run) == Phase::Scheduled && bound_for > PATIENCE {
        let found = format!(
            "{namespace}/{name} was bound to pod {pod} {} ago and has not begun",
            age::length(bound_for)
        );
        return Some(Finding::warning(
            CHECK,
            found,
            format!("kubectl -n {namespace} logs {pod} -c runtimed --tail 20"),
        ));
    }
    let limit = run.spec.timeout.as_deref().and_then(|text| duration::parse(text).ok())?;
    let limit = SignedDuration::try_from(limit).ok()?;
    let ran = since(status.start_time.as_ref().map(|time| time.0), now);
    (ran > limit + PATIENCE).then(|| {
        let found = format!(
            "{namespace}/{name} has run for {}, its timeout is {}",
            age::length(ran),
            age::length(limit)
        );
        Finding::error(CHECK, found, format!("kubectl -n {namespace} delete pod {pod}"))
    })
}

/// Runs of one Runtime that wait.
fn queue(namespace: &str, name: &str, runs: &[&Run], facts: &Facts, now: Timestamp) -> Option<Finding> {
    let ready = |run: &&&Run| {
        let status = run.status.as_ref();
        let later =
            status.and_then(|status| status.next_attempt_time.as_ref()).is_some_and(|time| time.0 > now);
        run.spec.suspend != Some(true) && !later
    };
    let runs: Vec<_> = runs.iter().filter(ready).collect();
    let oldest = runs.iter().max_by_key(|run| since(created(run), now))?;
    let waits = since(created(oldest), now);
    if waits <= PATIENCE {
        return None;
    }
    let count = if runs.len() == 1 { "1 Run waits".to_owned() } else { format!("{} Runs wait", runs.len()) };
    let (first, waited) = (oldest.name_any(), age::length(waits));
    let who = format!("{count} for runtime {namespace}/{name}, the oldest ({first}) for {waited}");
    let runtimes = facts.runtimes.as_ref().ok()?;
    let runtime =
        runtimes.iter().find(|r| r.name_any() == name && r.namespace().as_deref() == Some(namespace));
    let Some(runtime) = runtime else {
        let fix = format!("krt runtime create {name} --image IMAGE -n {namespace}");
        return Some(Finding::error(CHECK, format!("{who}: it does not exist"), fix));
    };
    let wanted = runtime.spec.replicas.unwrap_or(1);
    let scale = format!("krt runtime scale {name} --replicas {} -n {namespace}", wanted + 1);
    if is_full(runtime) {
        return Some(Finding::warning(CHECK, format!("{who}: every slot is taken"), scale));
    }
    let told = runs.iter().find_map(|run| {
        let status = run.status.as_ref().filter(|status| status.reason == Some(Reason::Unschedulable))?;
        Some((run, status.message.clone().unwrap_or_default()))
    });
    match told {
        Some((run, message)) => {
            let fix = format!("krt describe {} -n {namespace}", run.name_any());
            Some(Finding::warning(CHECK, format!("{who}: {message}"), fix))
        }
        None => Some(Finding::error(
            CHECK,
            format!("{who}: no scheduler has looked at them"),
            program_of("scheduler", namespace, facts),
        )),
    }
}

fn is_full(runtime: &Runtime) -> bool {
    let Some(status) = &runtime.status else { return false };
    let slots = |map: &BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>| {
        map.get(RUNS_RESOURCE).and_then(|quantity| quantity.0.parse::<i64>().ok()).unwrap_or(0)
    };
    let capacity = slots(&status.capacity);
    capacity > 0 && slots(&status.in_use) >= capacity
}

/// The log of the program that should have acted.
fn program_of(component: &str, namespace: &str, facts: &Facts) -> String {
    if facts.local {
        return "krt local status".to_owned();
    }
    let acts = |part: &&Part| {
        part.component == component && part.watches.as_deref().is_none_or(|watched| watched == namespace)
    };
    match known(&facts.parts).iter().find(acts) {
        Some(part) => format!("kubectl -n {} logs deployment/{} --tail 50", part.namespace, part.name),
        None => format!("kubectl get deployments -A -l app.kubernetes.io/component={component}"),
    }
}
