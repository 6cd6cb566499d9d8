//! Conditions, derived from the status in one place.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kruntimes_api::Reason;
use kruntimes_api::run::{Phase, RunStatus};

use super::RunStatusExt;

const MAX_MESSAGE: usize = 1024;

/// The conditions that `status` implies; times of unchanged ones are kept.
pub(super) fn derive(status: &RunStatus, generation: Option<i64>, now: Timestamp) -> Vec<Condition> {
    let mut wanted: Vec<(&str, bool, &str)> = Vec::new();
    let ended_word = word(status, "RuntimeError");
    match status.phase.unwrap_or_default() {
        Phase::Pending if status.assignment.is_some() => {
            // Was bound before: nothing holds any more, and why is worth keeping.
            let word = word(status, "HandedBack");
            wanted.push(("Scheduled", false, word));
            if status.condition("Running").is_some() {
                wanted.push(("Running", false, word));
            }
        }
        Phase::Pending => {
            if let Some(reason) = status.reason {
                wanted.push(("Scheduled", false, reason.condition_word()));
            }
        }
        Phase::Scheduled => wanted.push(("Scheduled", true, "Assigned")),
        Phase::Running | Phase::Ready => {
            wanted.push(("Scheduled", true, "Assigned"));
            let word = if status.attempt.unwrap_or(1) > 1 { "Retrying" } else { "Claimed" };
            wanted.push(("Running", true, word));
            if status.phase == Some(Phase::Ready) {
                wanted.push(("Ready", true, "Ready"));
            }
        }
        Phase::Succeeded => {
            wanted.push(("Scheduled", true, "Assigned"));
            wanted.push(("Running", false, "Completed"));
            wanted.push(("Completed", true, "RunCompleted"));
        }
        Phase::Failed | Phase::Timeout | Phase::Cancelled => {
            if status.assigned_pod.is_some() {
                wanted.push(("Scheduled", true, "Assigned"));
            }
            wanted.push(("Running", false, ended_word));
            wanted.push(("Completed", false, ended_word));
        }
    }
    let message = super::transition::cut(status.message.as_deref().unwrap_or_default(), MAX_MESSAGE);
    wanted
        .into_iter()
        .map(|(kind, holds, reason)| condition(status, kind, holds, reason, &message, generation, now))
        .collect()
}

/// The word for the status' reason; the baseline has one of its own for requests that cannot be.
fn word(status: &RunStatus, without_reason: &'static str) -> &'static str {
    let about_resources = || status.message.as_deref().is_some_and(|m| m.starts_with("spec.resources"));
    match status.reason {
        None => without_reason,
        Some(Reason::InvalidRun) if about_resources() => "InvalidResources",
        Some(reason) => reason.condition_word(),
    }
}

fn condition(
    before: &RunStatus,
    kind: &str,
    holds: bool,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    let status = if holds { "True" } else { "False" };
    let last_transition_time = match before.condition(kind) {
        Some(old) if old.status == status => old.last_transition_time.clone(),
        Some(_) | None => Time(now),
    };
    Condition {
        type_: kind.into(),
        status: status.into(),
        reason: reason.into(),
        message: if holds && kind != "Completed" { String::new() } else { message.into() },
        observed_generation: generation,
        last_transition_time,
    }
}
