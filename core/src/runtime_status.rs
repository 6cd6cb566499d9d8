//! The status of a Runtime, from what its Deployment and Pods look like.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kruntimes_api::bounds::NAMES;
use kruntimes_api::names::{HEARTBEAT_REASON, RUNTIME_CONTAINER, RUNTIMED_READY};
use kruntimes_api::{Runtime, RuntimeStatus};
use kruntimes_resources::{Amounts, display, names};

use crate::desired::selector_text;

/// Conditions carry at most so many bytes of text here.
const MAX_MESSAGE: usize = 1024;

/// What a heartbeat says that finds the server, or what it works for, not up yet.
const STARTING: [&str; 2] = ["ServerUnreachable", "ApiUnreachable"];
/// How long a server may take to come up: probes and heartbeats have looked twice by then.
const START: SignedDuration = SignedDuration::from_secs(15);

/// What is wrong, for the condition `Degraded`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// One word.
    pub reason: String,
    /// A sentence that a person can act on.
    pub message: String,
}

/// One Pod of the Runtime, reduced to what the status speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodState {
    /// Name.
    pub name: String,
    /// Takes Runs.
    pub ready: bool,
    /// Asked to stop.
    pub deleting: bool,
    /// Why it is not ready, if that can be said.
    pub fault: Option<Fault>,
}

impl PodState {
    /// Reads a Pod.
    pub fn of(pod: &Pod) -> Self {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let status = pod.status.as_ref();
        let conditions = status.and_then(|s| s.conditions.as_ref());
        let is = |kind: &str| conditions.into_iter().flatten().any(|c| c.type_ == kind && c.status == "True");
        let running = status.and_then(|s| s.phase.as_deref()) == Some("Running");
        let ready = running && is("Ready");
        let fault = if ready { None } else { fault_of(pod, &name) };
        Self { name, ready, deleting: pod.metadata.deletion_timestamp.is_some(), fault }
    }
}

/// What keeps a Pod from being ready, the deepest cause first.
fn fault_of(pod: &Pod, name: &str) -> Option<Fault> {
    let status = pod.status.as_ref()?;
    let fault = |reason: &str, message: String| {
        Some(Fault { reason: reason.into(), message: format!("pod {name}: {message}") })
    };
    let conditions = || status.conditions.iter().flatten();
    if matches!(status.phase.as_deref(), Some("Failed" | "Succeeded")) {
        let reason = status.reason.as_deref().unwrap_or("PodEnded");
        return fault(reason, status.message.clone().unwrap_or_else(|| "it has ended".into()));
    }
    if let Some(condition) = conditions().find(|c| c.type_ == "PodScheduled" && c.status == "False") {
        return fault("Unschedulable", condition.message.clone().unwrap_or_default());
    }
    let init = status.init_container_statuses.iter().flatten();
    for container in init.chain(status.container_statuses.iter().flatten()) {
        if let Some((reason, message)) = container_fault(container) {
            return fault(reason, message);
        }
    }
    let beat = conditions().find(|c| c.type_ == RUNTIMED_READY && c.status == "False");
    if let Some(condition) = beat.filter(|beat| !is_starting(status, beat)) {
        let reason =
            condition.reason.as_deref().filter(|reason| !reason.is_empty() && *reason != HEARTBEAT_REASON);
        return fault(reason.unwrap_or("RuntimedNotReady"), condition.message.clone().unwrap_or_default());
    }
    None
}

/// Whether the server has not had the time to come up when the heartbeat missed it: every Pod begins like that. Both times are of
/// the Pod's node; a heartbeat that misses it later says so.
fn is_starting(status: &PodStatus, beat: &PodCondition) -> bool {
    if !STARTING.contains(&beat.reason.as_deref().unwrap_or_default()) {
        return false;
    }
    let server = status.container_statuses.iter().flatten().find(|c| c.name == RUNTIME_CONTAINER);
    let running = server.and_then(|server| server.state.as_ref()?.running.as_ref()?.started_at.as_ref());
    match (running, &beat.last_probe_time) {
        (Some(started), Some(told)) => told.0.duration_since(started.0) < START,
        (None, _) => true,
        (Some(_), None) => false,
    }
}

fn container_fault(container: &ContainerStatus) -> Option<(&'static str, String)> {
    let state = container.state.as_ref()?;
    let name = &container.name;
    if let Some(waiting) = &state.waiting {
        let word = waiting.reason.as_deref().unwrap_or_default();
        let text = waiting.message.as_deref().unwrap_or_default();
        let reason = match word {
            "ErrImagePull"
            | "ImagePullBackOff"
            | "InvalidImageName"
            | "ErrImageNeverPull"
            | "RegistryUnavailable"
            | "ImageInspectError" => "ImagePullFailed",
            "CrashLoopBackOff" => "CrashLooping",
            "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => "ContainerFailed",
            _ => return None,
        };
        let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        let last = last.map(|t| format!("; it last exited with code {}", t.exit_code)).unwrap_or_default();
        let image = &container.image;
        return Some((reason, format!("container {name} (image {image}): {word}: {text}{last}")));
    }
    let terminated = state.terminated.as_ref()?;
    (terminated.exit_code != 0).then(|| {
        let why = terminated.message.as_deref().or(terminated.reason.as_deref()).unwrap_or_default();
        ("ContainerFailed", format!("container {name} exited with code {}: {why}", terminated.exit_code))
    })
}

/// Everything that a Runtime's status is made of.
#[derive(Debug, Clone)]
pub struct Observed<'a> {
    /// Its Deployment, if there is one.
    pub deployment: Option<&'a Deployment>,
    /// Its Pods.
    pub pods: &'a [PodState],
    /// What ready Pods offer together.
    pub capacity: Amounts,
    /// What bound Runs hold together.
    pub in_use: Amounts,
    /// Why its objects could not be made.
    pub fault: Option<Fault>,
}

/// The whole status of `runtime`.
pub fn status(runtime: &Runtime, observed: &Observed<'_>, now: Timestamp) -> RuntimeStatus {
    let name = runtime.metadata.name.as_deref().unwrap_or_default();
    let wanted = runtime.spec.replicas.unwrap_or(1);
    let living = || observed.pods.iter().filter(|pod| !pod.deleting);
    let ready = count(living().filter(|pod| pod.ready).count());
    let deployment = observed.deployment.and_then(|d| d.status.as_ref());
    let updated = deployment.and_then(|status| status.updated_replicas).unwrap_or(0);
    let caught_up = observed.deployment.is_some_and(|d| {
        let observed = d.status.as_ref().and_then(|status| status.observed_generation);
        d.metadata.generation.is_none() || observed >= d.metadata.generation
    });
    let available = match (wanted, ready) {
        (0, _) => (false, "Parked", "replicas is 0".to_owned()),
        (_, 0) => (false, "NoReadyPods", format!("0 of {wanted} Pods take Runs")),
        _ => (true, "PodsReady", format!("{ready} of {wanted} Pods take Runs")),
    };
    let complete = caught_up && updated >= wanted && ready >= wanted && count(living().count()) == wanted;
    let progressing = match complete {
        true => (false, "Complete", String::new()),
        false => (true, "Rollout", format!("{updated} of {wanted} Pods are up to date, {ready} take Runs")),
    };
    let degraded = match fault(observed, wanted) {
        Some(fault) => (true, fault.reason, fault.message),
        None => (false, "AsExpected".to_owned(), String::new()),
    };
    let old = runtime.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let generation = runtime.metadata.generation;
    let condition = |kind: &str, holds: bool, reason: &str, message: &str| {
        condition(old, generation, now, kind, holds, reason, message)
    };
    RuntimeStatus {
        ready_replicas: Some(ready),
        replicas: Some(count(living().count())),
        selector: Some(selector_text(name)),
        capacity: quantities(&observed.capacity),
        in_use: quantities(&observed.in_use),
        observed_generation: generation,
        conditions: vec![
            condition("Available", available.0, available.1, &available.2),
            condition("Progressing", progressing.0, progressing.1, &progressing.2),
            condition("Degraded", degraded.0, &degraded.1, &degraded.2),
        ],
    }
}

/// The fault that a person should look at first.
fn fault(observed: &Observed<'_>, wanted: i32) -> Option<Fault> {
    if let Some(fault) = &observed.fault {
        return Some(fault.clone());
    }
    let conditions = observed.deployment.and_then(|d| d.status.as_ref()).and_then(|s| s.conditions.as_ref());
    let failure =
        conditions.into_iter().flatten().find(|c| c.type_ == "ReplicaFailure" && c.status == "True");
    if let Some(failure) = failure {
        let reason = failure.reason.clone().unwrap_or_else(|| "ReplicaFailure".into());
        return Some(Fault { reason, message: failure.message.clone().unwrap_or_default() });
    }
    let faults: Vec<&Fault> =
        observed.pods.iter().filter(|pod| !pod.deleting).filter_map(|pod| pod.fault.as_ref()).collect();
    let first = faults.first().filter(|_| wanted > 0)?;
    let others = faults.len() - 1;
    let more = if others > 0 { format!(" (and {others} more Pods with a fault)") } else { String::new() };
    Some(Fault { reason: first.reason.clone(), message: format!("{}{more}", first.message) })
}

fn condition(
    old: &[Condition],
    generation: Option<i64>,
    now: Timestamp,
    kind: &str,
    holds: bool,
    reason: &str,
    message: &str,
) -> Condition {
    let status = if holds { "True" } else { "False" };
    let since =
        old.iter().find(|c| c.type_ == kind && c.status == status).map(|c| c.last_transition_time.clone());
    Condition {
        type_: kind.into(),
        status: status.into(),
        reason: word(reason),
        message: cut(message),
        observed_generation: generation,
        last_transition_time: since.unwrap_or(Time(now)),
    }
}

/// A reason as the API takes it: a CamelCase word. Whatever else Pods say is reduced to that.
fn word(reason: &str) -> String {
    let letters: String = reason.chars().filter(char::is_ascii_alphanumeric).take(64).collect();
    if letters.starts_with(|c: char| c.is_ascii_alphabetic()) { letters } else { "Unknown".into() }
}

fn cut(text: &str) -> String {
    text.char_indices().take_while(|(index, c)| index + c.len_utf8() <= MAX_MESSAGE).map(|(_, c)| c).collect()
}

fn count(pods: usize) -> i32 {
    i32::try_from(pods).unwrap_or(i32::MAX)
}

/// As many as a status takes, by name, `runs` always among them: servers may bring more than their Runtime says.
fn quantities(amounts: &Amounts) -> BTreeMap<String, Quantity> {
    let is_runs = |name: &str| name == names::RUNS;
    let room = NAMES - usize::from(amounts.has(names::RUNS));
    let others = amounts.iter().filter(|(name, _)| !is_runs(name)).take(room);
    let chosen = amounts.iter().filter(|(name, _)| is_runs(name)).chain(others);
    chosen.map(|(name, amount)| (name.to_string(), Quantity(display(name, amount)))).collect()
}

#[cfg(test)]
#[path = "runtime_status_tests.rs"]
mod tests;
