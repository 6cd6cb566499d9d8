//! The page about reasons. What follows each is asked of the Run machine itself.

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use kruntimes_api::run::{RetryPolicy, RunStatus};
use kruntimes_api::{Phase, Reason, Run, RunSpec};
use kruntimes_core::ids::{PodRef, PodUid};
use kruntimes_core::run::{Event, Finish, State, transition};

use crate::{cell, header};

const INTRODUCTION: &str = "# Reasons

`status.reason` says why a Run is where it is. The list is closed; the same words are used by `krt` and in metrics, and
nobody finds a reason by parsing text. Conditions carry the public API's word where it has one;
`spec.retryPolicy.retryableReasons` takes either.

*Final phase* is what a Run ends in when no attempt is left. *Retried* says whether another attempt may follow: `counted`
attempts are bounded by `retryPolicy.maxAttempts`; ends that are nobody's fault have `retryPolicy.maxInfrastructureRetries`
extra attempts before they are counted.

| reason | meaning | word in conditions | final phase | retried |
|---|---|---|---|---|
";

/// A row for each reason, in the order of [`Reason::ALL`].
pub fn page() -> Result<String> {
    let mut page = header("api/src/reason.rs and core/src/run");
    page += INTRODUCTION;
    for reason in Reason::ALL {
        let (phase, retried) = match reason {
            Reason::Suspended => ("-", "waits as Pending until resumed; not counted"),
            Reason::Unschedulable => ("-", "waits as Pending until a Pod has room"),
            ended => (after(ended, 1, 0)?.as_str(), retried(ended)?),
        };
        page += &format!(
            "| `{reason}` | {} | `{}` | {phase} | {retried} |\n",
            cell(&meaning(reason)?),
            reason.condition_word()
        );
    }
    Ok(page)
}

fn retried(reason: Reason) -> Result<&'static str> {
    let extra = after(reason, 1, 1)? == Phase::Pending;
    let counted = after(reason, 2, 0)? == Phase::Pending;
    Ok(match (counted, extra) {
        (true, true) => "extra, then counted",
        (true, false) => "counted",
        (false, true) => "extra",
        (false, false) => "never",
    })
}

/// The phase of a Run whose first attempt ended with `reason`, under a policy.
fn after(reason: Reason, max_attempts: i32, extra: i32) -> Result<Phase> {
    let now = Timestamp::UNIX_EPOCH;
    let retry_policy = RetryPolicy {
        max_attempts: Some(max_attempts),
        max_infrastructure_retries: Some(extra),
        ..RetryPolicy::default()
    };
    let mut run = Run::new("example", RunSpec { retry_policy: Some(retry_policy), ..RunSpec::default() });
    run.metadata.uid = Some("run".to_owned());
    let pod = PodRef { name: "pod".to_owned(), uid: PodUid::from("pod") };
    run.status = Some(step(&run, &Event::Bind { pod, queued_at: now }, now)?);
    let State::Scheduled { fence, .. } = State::of(&run)? else {
        anyhow::bail!("a bound Run is not Scheduled")
    };
    let finish = Finish {
        reason,
        message: String::new(),
        exit_code: None,
        started_at: Some(now),
        finished_at: now,
        outputs: Default::default(),
        usage: None,
        devices: Vec::new(),
        isolation: Vec::new(),
        backend: None,
        log_tail: None,
        resolved_sha: None,
    };
    let status = step(&run, &Event::Finished { fence, finish: Box::new(finish) }, now)?;
    status.phase.context("an ended Run has no phase")
}

fn step(run: &Run, event: &Event, now: Timestamp) -> Result<RunStatus> {
    transition(run, event, now).with_context(|| format!("the Run machine refuses {event:?}"))
}

/// The comment at the reason, which the schema carries.
fn meaning(reason: Reason) -> Result<String> {
    let schema = serde_json::to_value(schemars::schema_for!(Reason))?;
    let found = schema["oneOf"].as_array().into_iter().flatten().find(|one| one["const"] == reason.as_str());
    let text = found.and_then(|one| one["description"].as_str());
    text.map(str::to_owned).with_context(|| format!("{reason} has no comment"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_asked() {
        assert_eq!(retried(Reason::NonZeroExit).unwrap(), "counted");
        assert_eq!(retried(Reason::PodGone).unwrap(), "extra, then counted");
        assert_eq!(retried(Reason::Cancelled).unwrap(), "never");
        assert_eq!(after(Reason::Completed, 1, 0).unwrap(), Phase::Succeeded);
    }

    #[test]
    fn every_reason_has_a_row_with_a_meaning() {
        let page = page().unwrap();
        for reason in Reason::ALL {
            let rows = page.lines().filter(|line| line.starts_with(&format!("| `{reason}` | "))).count();
            assert_eq!(rows, 1, "{reason}");
        }
    }
}
