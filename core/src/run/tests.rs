//! The Run machine under ordinary and random events.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use kruntimes_api::Reason;
use kruntimes_api::run::{DeviceHeld, Figure, Phase, RetryPolicy, Run, RunSpec, RunStatus};
use proptest::prelude::*;

use super::*;
use crate::ids::{Fence, PodRef, PodUid, RunUid};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn run(policy: Option<RetryPolicy>) -> Run {
    let mut run =
        Run::new("r", RunSpec { runtime: "bash".into(), retry_policy: policy, ..RunSpec::default() });
    run.metadata.uid = Some("uid-1".into());
    run.metadata.resource_version = Some("7".into());
    run.metadata.generation = Some(1);
    run
}

fn pod(name: &str) -> PodRef {
    PodRef { name: name.into(), uid: PodUid::from(format!("uid-of-{name}")) }
}

fn fence(attempt: i32, assignment: i64) -> Fence {
    Fence { run: RunUid::from("uid-1"), attempt, assignment }
}

fn bind(name: &str) -> Event {
    Event::Bind { pod: pod(name), queued_at: at(0) }
}

fn finish(reason: Reason) -> Finish {
    Finish {
        reason,
        message: "exit status 3".into(),
        exit_code: Some(if reason == Reason::Completed { 0 } else { 3 }),
        started_at: Some(at(2)),
        finished_at: at(3),
        outputs: BTreeMap::from([("answer".into(), "42".into())]),
        usage: Some(AttemptUsage {
            figures: vec![
                Figure {
                    name: "cpu_user_seconds".into(),
                    value: 2.0,
                    unit: "s".into(),
                    source: "rusage".into(),
                    scope: "attempt".into(),
                },
                Figure {
                    name: "memory_peak_bytes".into(),
                    value: 10.0,
                    unit: "bytes".into(),
                    source: "rusage".into(),
                    scope: "attempt".into(),
                },
            ],
            incomplete: false,
        }),
        devices: Vec::new(),
        isolation: Vec::new(),
        backend: None,
        log_tail: Some("tail".into()),
        resolved_sha: None,
    }
}

fn held() -> DeviceHeld {
    DeviceHeld { resource: "example.com/fpga".into(), id: "a".into(), amount: "1".into() }
}

fn finished(fence: Fence, reason: Reason) -> Event {
    Event::Finished { fence, finish: Box::new(finish(reason)) }
}

fn apply(run: &mut Run, event: &Event, seconds: i64) -> Result<(), Refusal> {
    run.status = Some(transition(run, event, at(seconds))?);
    Ok(())
}

fn condition(run: &Run, kind: &str) -> Option<(String, String)> {
    let status = run.status.as_ref()?;
    status.conditions.iter().find(|c| c.type_ == kind).map(|c| (c.status.clone(), c.reason.clone()))
}

fn word(status: &str, reason: &str) -> Option<(String, String)> {
    Some((status.into(), reason.into()))
}

#[test]
fn a_happy_run_carries_the_baseline_words() {
    let mut run = run(None);
    apply(&mut run, &bind("a"), 1).unwrap();
    assert_eq!(condition(&run, "Scheduled"), word("True", "Assigned"));
    apply(&mut run, &Event::Started { fence: fence(1, 1), at: at(2), devices: vec![held()] }, 2).unwrap();
    assert_eq!(condition(&run, "Running"), word("True", "Claimed"));
    assert_eq!(run.status.as_ref().unwrap().devices, [held()], "seen while it runs");
    apply(&mut run, &finished(fence(1, 1), Reason::Completed), 3).unwrap();
    let status = run.status.clone().unwrap();
    assert_eq!(status.phase, Some(Phase::Succeeded));
    assert_eq!(status.outputs["answer"], "42");
    assert_eq!(status.exit_code, Some(0));
    assert_eq!(condition(&run, "Running"), word("False", "Completed"));
    assert_eq!(condition(&run, "Completed"), word("True", "RunCompleted"));
    assert_eq!(
        apply(&mut run, &finished(fence(1, 1), Reason::Timeout), 4),
        Err(Refusal::Final { phase: Phase::Succeeded })
    );
}

#[test]
fn a_finish_may_be_the_first_write_after_the_bind() {
    let mut run = run(None);
    apply(&mut run, &bind("a"), 1).unwrap();
    apply(&mut run, &finished(fence(1, 1), Reason::NonZeroExit), 3).unwrap();
    let status = run.status.clone().unwrap();
    assert_eq!(status.phase, Some(Phase::Failed));
    assert_eq!(status.start_time.unwrap().0, at(2));
    assert!(status.outputs.is_empty(), "outputs count only on success");
    assert_eq!(condition(&run, "Completed"), word("False", "RuntimeError"));
}

#[test]
fn a_retry_waits_longer_each_time_and_may_land_elsewhere() {
    let policy = RetryPolicy { max_attempts: Some(3), backoff: Some("2s".into()), ..RetryPolicy::default() };
    let mut run = run(Some(policy));
    for (attempt, wait) in [(1, 2), (2, 4)] {
        apply(&mut run, &bind("a"), 10 * i64::from(attempt)).unwrap();
        apply(
            &mut run,
            &finished(fence(attempt, i64::from(attempt)), Reason::NonZeroExit),
            10 * i64::from(attempt),
        )
        .unwrap();
        let status = run.status.as_ref().unwrap();
        assert_eq!(status.phase, Some(Phase::Pending));
        assert_eq!(status.attempt, Some(attempt + 1));
        assert_eq!(status.assigned_pod, None);
        assert_eq!(status.next_attempt_time.as_ref().unwrap().0, at(10 * i64::from(attempt) + wait));
    }
    apply(&mut run, &bind("b"), 40).unwrap();
    apply(&mut run, &finished(fence(3, 3), Reason::NonZeroExit), 41).unwrap();
    let status = run.status.unwrap();
    assert_eq!(status.phase, Some(Phase::Failed));
    let usage = status.usage.unwrap();
    assert_eq!(usage.total[0].value, 6.0, "cpu seconds add up over attempts");
    assert_eq!(usage.total[1].value, 10.0, "a peak stays a peak");
    assert_eq!(usage.last[0].value, 2.0);
}

/// A status with more figures than the kind takes would be refused for ever, and the Run would never end.
#[test]
fn attempts_with_other_names_leave_as_many_figures_as_a_status_takes() {
    let policy = RetryPolicy { max_attempts: Some(2), backoff: Some("2s".into()), ..RetryPolicy::default() };
    let mut run = run(Some(policy));
    let bound = |field: &str| {
        let crds = serde_json::to_value(kruntimes_api::crds::all().unwrap()).unwrap();
        let schema = &crds[0]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"];
        schema["properties"]["usage"]["properties"][field]["maxItems"].as_u64().unwrap() as usize
    };
    for attempt in 1..=2 {
        let figure =
            |index: usize| Figure { name: format!("{attempt}-{index}"), value: 1.0, ..Figure::default() };
        let shared = Figure { name: "shared".into(), value: 1.0, ..Figure::default() };
        let figures: Vec<_> = (0..80).map(figure).chain([shared]).collect();
        let mut finish = finish(Reason::NonZeroExit);
        finish.usage = Some(AttemptUsage { figures, incomplete: false });
        let (fence, finish) = (fence(attempt, i64::from(attempt)), Box::new(finish));
        apply(&mut run, &bind("a"), 10 * i64::from(attempt)).unwrap();
        apply(&mut run, &Event::Finished { fence, finish }, 10 * i64::from(attempt)).unwrap();
        let usage = run.status.as_ref().unwrap().usage.as_ref().unwrap();
        assert_eq!(usage.incomplete, attempt == 2);
    }
    let usage = run.status.unwrap().usage.unwrap();
    assert_eq!((usage.total.len(), usage.last.len()), (bound("total"), 81));
    assert!(bound("last") >= bound("total"));
    let shared = usage.total.iter().find(|figure| figure.name == "shared").unwrap();
    assert_eq!(shared.value, 2.0, "what is there already still adds up");
}

#[test]
fn retryable_reasons_take_either_vocabulary_and_ignore_other_words() {
    for (words, retried) in
        [(vec!["NonZeroExit"], true), (vec!["RuntimeError"], true), (vec!["Whatever"], false)]
    {
        let policy = RetryPolicy {
            max_attempts: Some(2),
            retryable_reasons: words.iter().map(|w| (*w).to_owned()).collect(),
            ..RetryPolicy::default()
        };
        let mut run = run(Some(policy));
        apply(&mut run, &bind("a"), 1).unwrap();
        apply(&mut run, &finished(fence(1, 1), Reason::NonZeroExit), 2).unwrap();
        assert_eq!(run.status.unwrap().phase == Some(Phase::Pending), retried, "{words:?}");
    }
}

#[test]
fn bad_outputs_and_cancels_are_never_retried() {
    for reason in [Reason::OutputsInvalid, Reason::OutputsTooLarge, Reason::Cancelled, Reason::InvalidRun] {
        let mut run = run(Some(RetryPolicy { max_attempts: Some(9), ..RetryPolicy::default() }));
        apply(&mut run, &bind("a"), 1).unwrap();
        apply(&mut run, &finished(fence(1, 1), reason), 2).unwrap();
        assert!(run.status.unwrap().phase.unwrap().is_terminal(), "{reason}");
    }
}

/// The original never looked at a Run again whose Pod vanished before the claim.
#[test]
fn a_pod_lost_before_the_claim_counts_an_attempt() {
    let mut lost = run(Some(RetryPolicy { max_attempts: Some(2), ..RetryPolicy::default() }));
    apply(&mut lost, &bind("a"), 1).unwrap();
    let event = Event::PodLost { pod: pod("a").uid, lost: Lost::Gone, message: "pod a is gone".into() };
    apply(&mut lost, &event, 2).unwrap();
    assert_eq!(lost.status.as_ref().unwrap().attempt, Some(2));
    apply(&mut lost, &bind("b"), 5).unwrap();
    assert!(matches!(apply(&mut lost, &event, 6), Err(Refusal::Stale { .. })), "pod a no longer owns it");
    let event =
        Event::PodLost { pod: pod("b").uid, lost: Lost::Unhealthy, message: "pod b is silent".into() };
    apply(&mut lost, &event, 7).unwrap();
    let status = lost.status.clone().unwrap();
    assert_eq!((status.phase, status.reason), (Some(Phase::Failed), Some(Reason::PodUnhealthy)));
    assert_eq!(condition(&lost, "Completed"), word("False", "PodUnhealthy"));
}

/// A scheduler that has not yet heard of a Pod's end binds to it: nothing was begun, nothing is counted.
#[test]
fn what_was_bound_to_a_pod_after_its_runtimed_had_left_is_handed_back() {
    let lost = |name: &str| Event::PodLost {
        pod: pod(name).uid,
        lost: Lost::Drained,
        message: "pod a has ended: Succeeded".into(),
    };
    let mut late = run(None);
    apply(&mut late, &bind("a"), 1).unwrap();
    apply(&mut late, &lost("a"), 2).unwrap();
    let status = late.status.clone().unwrap();
    assert_eq!((status.phase, status.attempt, status.assigned_pod), (Some(Phase::Pending), Some(1), None));
    apply(&mut late, &bind("b"), 3).unwrap();
    assert_eq!(late.status.as_ref().unwrap().assignment, Some(2));
    // What has begun was lost with it.
    let begun = Event::Started { fence: fence(1, 2), at: at(4), devices: Vec::new() };
    apply(&mut late, &begun, 4).unwrap();
    apply(&mut late, &lost("b"), 5).unwrap();
    let status = late.status.unwrap();
    assert_eq!((status.phase, status.reason), (Some(Phase::Failed), Some(Reason::PodTerminating)));
    let mut cancelled = run(None);
    apply(&mut cancelled, &bind("a"), 1).unwrap();
    cancelled.spec.cancel_requested = Some(true);
    apply(&mut cancelled, &lost("a"), 2).unwrap();
    assert_eq!(cancelled.status.unwrap().phase, Some(Phase::Cancelled));
}

#[test]
fn what_a_lost_attempt_used_is_missing_from_the_sum_and_the_status_says_so() {
    let policy = RetryPolicy { max_attempts: Some(2), ..RetryPolicy::default() };
    let mut run = run(Some(policy));
    apply(&mut run, &bind("a"), 1).unwrap();
    let event = Event::PodLost { pod: pod("a").uid, lost: Lost::Gone, message: "pod a is gone".into() };
    apply(&mut run, &event, 2).unwrap();
    let usage = run.status.as_ref().unwrap().usage.clone().unwrap();
    assert!(usage.incomplete && usage.total.is_empty(), "{usage:?}");
    apply(&mut run, &bind("b"), 5).unwrap();
    apply(&mut run, &finished(fence(2, 2), Reason::Completed), 6).unwrap();
    let usage = run.status.unwrap().usage.unwrap();
    assert!(usage.incomplete && usage.total[0].value == usage.last[0].value, "{usage:?}");
}

#[test]
fn an_attempt_in_which_nothing_was_executed_leaves_no_hole() {
    let mut run = run(Some(RetryPolicy { max_attempts: Some(3), ..RetryPolicy::default() }));
    apply(&mut run, &bind("a"), 1).unwrap();
    apply(&mut run, &finished(fence(1, 1), Reason::NonZeroExit), 2).unwrap();
    apply(&mut run, &bind("a"), 5).unwrap();
    let Event::Finished { fence, mut finish } = finished(fence(2, 2), Reason::SourceFailed) else { panic!() };
    finish.usage = None;
    apply(&mut run, &Event::Finished { fence, finish }, 6).unwrap();
    assert!(!run.status.unwrap().usage.unwrap().incomplete);
}

#[test]
fn conditions_say_what_the_baseline_says_of_requests_and_nothing_false_of_the_rest() {
    for (message, expected) in [
        ("spec.resources.requests: resource \"x\" must not be negative", "InvalidResources"),
        ("handler: must be MODULE.FUNCTION", "InvalidRun"),
    ] {
        let mut run = run(None);
        apply(&mut run, &Event::Invalid { message: message.into() }, 1).unwrap();
        assert_eq!(condition(&run, "Completed"), word("False", expected));
    }
    let mut run = run(None);
    apply(&mut run, &bind("a"), 1).unwrap();
    let message = String::from("no room");
    apply(&mut run, &Event::HandBack { fence: fence(1, 1), message, delay: Duration::ZERO }, 2).unwrap();
    assert_eq!(condition(&run, "Scheduled"), word("False", "HandedBack"));
}

#[test]
fn infrastructure_retries_do_not_count_as_attempts() {
    let policy =
        RetryPolicy { max_attempts: Some(1), max_infrastructure_retries: Some(1), ..RetryPolicy::default() };
    let mut run = run(Some(policy));
    apply(&mut run, &bind("a"), 1).unwrap();
    apply(&mut run, &finished(fence(1, 1), Reason::ServerLost), 2).unwrap();
    assert_eq!(run.status.as_ref().unwrap().phase, Some(Phase::Pending));
    apply(&mut run, &bind("a"), 5).unwrap();
    apply(&mut run, &finished(fence(2, 2), Reason::ServerLost), 6).unwrap();
    assert_eq!(run.status.unwrap().phase, Some(Phase::Failed));
}

#[test]
fn hand_back_and_suspend_are_not_counted() {
    let mut run = run(None);
    apply(&mut run, &bind("a"), 1).unwrap();
    let back =
        Event::HandBack { fence: fence(1, 1), message: "no room".into(), delay: Duration::from_secs(1) };
    apply(&mut run, &back, 2).unwrap();
    assert!(matches!(apply(&mut run, &back, 2), Err(Refusal::NotApplicable { .. })));
    apply(&mut run, &bind("a"), 4).unwrap();
    assert!(
        matches!(apply(&mut run, &back, 4), Err(Refusal::Stale { .. })),
        "the old assignment is fenced off"
    );
    apply(&mut run, &Event::Suspended { fence: fence(1, 2), usage: None }, 5).unwrap();
    let status = run.status.unwrap();
    assert_eq!((status.attempt, status.assignment), (Some(1), Some(2)));
    assert_eq!(status.reason, Some(Reason::Suspended));
    assert_eq!(status.next_attempt_time, None);
}

#[test]
fn a_cancelled_run_whose_pod_is_lost_ends_as_cancelled() {
    let mut run = run(Some(RetryPolicy { max_attempts: Some(5), ..RetryPolicy::default() }));
    apply(&mut run, &bind("a"), 1).unwrap();
    run.spec.cancel_requested = Some(true);
    apply(
        &mut run,
        &Event::PodLost { pod: pod("a").uid, lost: Lost::Gone, message: "pod a is gone".into() },
        2,
    )
    .unwrap();
    assert_eq!(run.status.unwrap().phase, Some(Phase::Cancelled));
}

#[test]
fn the_patch_is_fenced_and_minimal() {
    let mut run = run(None);
    apply(&mut run, &bind("a"), 1).unwrap();
    let next = transition(
        &run,
        &Event::HandBack { fence: fence(1, 1), message: "no room".into(), delay: Duration::ZERO },
        at(2),
    )
    .unwrap();
    let patch = patch(&run, &next).unwrap();
    assert_eq!(patch["metadata"], serde_json::json!({"uid": "uid-1", "resourceVersion": "7"}));
    assert_eq!(patch["status"]["assignedPod"], serde_json::Value::Null);
    assert!(patch["status"].get("assignment").is_none(), "unchanged fields do not travel");
    assert!(super::patch(&run, &run.status.clone().unwrap()).is_none());
}

#[test]
fn long_messages_are_cut_at_a_character() {
    let mut run = run(None);
    apply(&mut run, &Event::Invalid { message: "ä".repeat(5000) }, 1).unwrap();
    let message = run.status.unwrap().message.unwrap();
    assert!(message.len() <= 4096 && message.ends_with("..."));
}

fn any_event() -> impl Strategy<Value = (u8, i32, i64, u8)> {
    (0u8..11, 1i32..5, 1i64..8, 0u8..4)
}

fn build((kind, attempt, assignment, which): (u8, i32, i64, u8)) -> Event {
    let reasons = [Reason::Completed, Reason::NonZeroExit, Reason::ServerLost, Reason::Timeout];
    let name = ["a", "b", "c", "d"][usize::from(which)];
    match kind {
        0..=2 => bind(name),
        3 => Event::Unschedulable { message: "no room".into() },
        4 => Event::CancelUnassigned,
        5 => Event::Started { fence: fence(attempt, assignment), at: at(2), devices: Vec::new() },
        6 => Event::HandBack {
            fence: fence(attempt, assignment),
            message: "full".into(),
            delay: Duration::from_secs(1),
        },
        7 => Event::Suspended { fence: fence(attempt, assignment), usage: None },
        8 => Event::PodLost { pod: pod(name).uid, lost: Lost::Gone, message: "gone".into() },
        9 => Event::PendingTimeout,
        _ => finished(fence(attempt, assignment), reasons[usize::from(which)]),
    }
}

/// What must hold between any two statuses in a row.
fn check_step(before: &RunStatus, after: &RunStatus, run: &Run) -> Result<(), TestCaseError> {
    let (old, new) = (before.phase.unwrap_or_default(), after.phase.unwrap_or_default());
    prop_assert!(!old.is_terminal(), "left {old} for {new}");
    prop_assert!(after.assignment.unwrap_or(0) >= before.assignment.unwrap_or(0));
    prop_assert!(after.attempt.unwrap_or(1) >= before.attempt.unwrap_or(1));
    let bound = matches!(new, Phase::Scheduled | Phase::Running | Phase::Ready);
    prop_assert!(!bound || (after.assigned_pod.is_some() && after.assigned_pod_uid.is_some()));
    prop_assert!(new != Phase::Pending || after.assigned_pod.is_none());
    prop_assert_eq!(new.is_terminal(), after.completion_time.is_some());
    prop_assert!(!new.is_terminal() || after.reason.is_some());
    let max = run
        .spec
        .retry_policy
        .as_ref()
        .map_or(1, |p| p.max_attempts.unwrap_or(1) + p.max_infrastructure_retries.unwrap_or(0));
    prop_assert!(after.attempt.unwrap_or(1) <= max, "attempt {:?} of {max}", after.attempt);
    let kinds: Vec<_> = after.conditions.iter().map(|c| &c.type_).collect();
    prop_assert!(kinds.iter().all(|k| kinds.iter().filter(|other| other == &k).count() == 1));
    Ok(())
}

proptest! {
    #[test]
    fn no_sequence_of_events_breaks_a_run(
        events in prop::collection::vec(any_event(), 1..60),
        max_attempts in 1i32..4,
        infrastructure in 0i32..3,
    ) {
        let mut run = run(Some(RetryPolicy {
            max_attempts: Some(max_attempts),
            max_infrastructure_retries: Some(infrastructure),
            ..RetryPolicy::default()
        }));
        for (second, event) in events.into_iter().enumerate() {
            let event = build(event);
            let before = run.status.clone().unwrap_or_default();
            match transition(&run, &event, at(second as i64)) {
                Ok(after) => {
                    check_step(&before, &after, &run)?;
                    let patched = apply_patch(&run, &after);
                    prop_assert_eq!(&patched, &after, "the patch leads to the same status");
                    run.status = Some(after);
                }
                Err(_) => prop_assert_eq!(run.status.clone().unwrap_or_default(), before),
            }
        }
    }
}

/// RFC 7386 applied as the API server does.
fn apply_patch(run: &Run, new: &RunStatus) -> RunStatus {
    fn merge(target: &mut serde_json::Value, patch: &serde_json::Value) {
        let serde_json::Value::Object(patch) = patch else {
            *target = patch.clone();
            return;
        };
        if !target.is_object() {
            *target = serde_json::json!({});
        }
        for (key, value) in patch {
            if value.is_null() {
                target.as_object_mut().unwrap().remove(key);
            } else {
                merge(
                    target.as_object_mut().unwrap().entry(key.clone()).or_insert(serde_json::Value::Null),
                    value,
                );
            }
        }
    }
    let mut status = serde_json::to_value(run.status.clone().unwrap_or_default()).unwrap();
    if let Some(patch) = patch(run, new) {
        merge(&mut status, &patch["status"]);
    }
    serde_json::from_value(status).unwrap()
}
