//! From what the loop sees to spans.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kruntimes_core::run::Finish;
use kruntimes_traces::Recorded;
use serde_json::json;

use super::*;
use crate::engine::{Collected, PrepareFailure, Prepared};
use crate::server::{Execution, ExecutionState, Instance};

const UID: &str = "8f14e45f-ceea-467f-a9e1-3b1c5d0a7b21";
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn run(annotation: Option<&str>, status: serde_json::Value) -> Arc<Run> {
    let annotations: BTreeMap<_, _> =
        annotation.map(|text| (TRACEPARENT_ANNOTATION, text)).into_iter().collect();
    let run = json!({
        "apiVersion": "kruntimes.io/v1alpha1", "kind": "Run", "spec": {"runtime": "bash"}, "status": status,
        "metadata": {"name": "r", "namespace": "n", "uid": UID, "annotations": annotations},
    });
    Arc::new(serde_json::from_value(run).unwrap())
}

fn bound(annotation: Option<&str>) -> Arc<Run> {
    run(annotation, json!({"phase": "Scheduled", "scheduledTime": "1970-01-01T00:00:01.000000Z"}))
}

fn fence() -> Fence {
    Fence { run: RunUid::from(UID), attempt: 2, assignment: 3 }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn end(fence: &Fence, run: &Arc<Run>) -> Action {
    let finish = Finish {
        reason: Reason::Completed,
        message: String::new(),
        exit_code: Some(0),
        started_at: None,
        finished_at: at(0),
        outputs: BTreeMap::new(),
        usage: None,
        devices: Vec::new(),
        isolation: Vec::new(),
        backend: None,
        log_tail: None,
        resolved_sha: None,
    };
    let event = RunEvent::Finished { fence: fence.clone(), finish: Box::new(finish) };
    Action::Write { fence: fence.clone(), run: Arc::clone(run), event: Box::new(event) }
}

fn release(run: &Arc<Run>) -> Action {
    Action::Release { fence: fence(), run: Some(Arc::clone(run)), executed: true, usage: None, cancel: false }
}

fn collect(started_at: Option<Timestamp>) -> Action {
    let execution = Execution {
        id: RunUid::from(UID),
        of: Some((2, 3)),
        state: ExecutionState::Running,
        started_at,
        usage: None,
        devices: Vec::new(),
        isolation: Vec::new(),
        backend: None,
    };
    Action::Collect { fence: fence(), execution: Box::new(execution) }
}

fn observer() -> (AttemptTraces, Recorded) {
    let (traces, recorded) = Traces::recorded();
    (AttemptTraces::new(traces, "pod-1"), recorded)
}

/// Name, seconds of start and end, and the place that it is below, of each span.
fn told(recorded: &mut Recorded) -> BTreeMap<&'static str, (u64, u64, Span)> {
    let seconds =
        |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let spans = recorded.take().into_iter().map(|span| {
        let (start, end) = span.times();
        (span.name(), (seconds(start), seconds(end), span))
    });
    spans.collect()
}

/// An attempt from its start at 2 to its release at 9.
fn ordinary(traces: &mut AttemptTraces, annotation: Option<&str>) {
    let (fence, before) = (fence(), bound(annotation));
    let spec = Arc::new(before.spec.clone());
    traces.action(&Action::Prepare { fence: fence.clone(), spec: Arc::clone(&spec) }, at(2));
    let prepared = Prepared::default();
    traces.event(&Event::Prepared { fence: fence.clone(), result: Ok(prepared.clone()) }, at(3));
    let instance = Instance::Native("i".into());
    let execute =
        Action::Execute { fence: fence.clone(), run: Arc::clone(&before), spec, prepared, instance };
    traces.action(&execute, at(4));
    traces.event(&Event::Executed { fence: fence.clone(), result: Ok(()) }, at(5));
    traces.action(&Action::Follow { fence: fence.clone(), run: Arc::clone(&before) }, at(5));
    traces.action(&collect(Some(at(5))), at(7));
    let collected = Collected { outputs: Ok(BTreeMap::new()), log_tail: None };
    traces.event(&Event::Collected { fence: fence.clone(), collected }, at(8));
    traces.action(&end(&fence, &before), at(8));
    let after = run(annotation, json!({"phase": "Succeeded", "reason": "Completed"}));
    traces.event(&Event::Written { fence, outcome: Written::Applied(Arc::clone(&after)) }, at(9));
    traces.action(&release(&after), at(9));
}

#[test]
fn an_attempt_is_told_with_its_parts() {
    let (mut traces, mut recorded) = observer();
    ordinary(&mut traces, Some(PARENT));
    let told = told(&mut recorded);
    let times: Vec<_> = told.iter().map(|(name, (start, end, _))| (*name, *start, *end)).collect();
    assert_eq!(times, [("attempt", 1, 9), ("execute", 4, 7), ("prepare", 2, 3), ("report", 7, 9)]);
    let attempt = &told["attempt"].2;
    assert_eq!(attempt.parent(), Place::parse(PARENT));
    assert!(
        ["prepare", "execute", "report"].iter().all(|part| told[part].2.parent() == Some(attempt.place()))
    );
    let said = |name| attempt.attribute(name).unwrap_or_default();
    assert_eq!((said("kruntimes.attempt"), said("kruntimes.reason")), ("2".into(), "Completed".into()));
    assert_eq!((said("k8s.pod.name"), said("kruntimes.run.name")), ("pod-1".into(), "r".into()));
    assert_eq!(attempt.failure(), None);
    let server = traceparent(&bound(Some(PARENT)), &fence(), true);
    assert_eq!(server, told["execute"].2.place().traceparent(), "the process is below the execution");
    assert!(traces.open.is_empty());
}

#[test]
fn a_run_without_a_word_of_its_trace_is_its_own() {
    let (mut traces, mut recorded) = observer();
    for annotation in [None, Some("nonsense")] {
        ordinary(&mut traces, annotation);
        let told = told(&mut recorded);
        assert_eq!(told["attempt"].2.parent(), None);
        assert_eq!(told["attempt"].2.place(), span_of(Place::root_of(UID).unwrap(), "attempt", &fence()));
    }
}

#[test]
fn what_was_executed_before_a_restart_has_the_same_ids() {
    let (mut traces, mut recorded) = observer();
    ordinary(&mut traces, Some(PARENT));
    let whole = told(&mut recorded);
    let run = bound(Some(PARENT));
    traces.action(&Action::Follow { fence: fence(), run: Arc::clone(&run) }, at(20));
    traces.action(&collect(Some(at(5))), at(21));
    traces.action(&end(&fence(), &run), at(22));
    traces.action(&release(&run), at(23));
    let rest = told(&mut recorded);
    let times: Vec<_> = rest.iter().map(|(name, (start, end, _))| (*name, *start, *end)).collect();
    assert_eq!(times, [("attempt", 1, 23), ("execute", 5, 21), ("report", 21, 23)]);
    assert!(rest.iter().all(|(name, (_, _, span))| span.place() == whole[name].2.place()));
}

#[test]
fn an_attempt_that_came_to_nothing_says_so() {
    let (mut traces, mut recorded) = observer();
    let run = bound(None);
    let prepare = Action::Prepare { fence: fence(), spec: Arc::new(run.spec.clone()) };
    traces.action(&prepare, at(2));
    traces.action(&release(&run), at(4));
    let lost = told(&mut recorded);
    assert_eq!((lost["prepare"].1, lost["attempt"].2.failure()), (4, Some("taken away")));
    traces.action(&prepare, at(2));
    let failure = PrepareFailure { reason: Reason::SourceFailed, message: "secret".into() };
    traces.event(&Event::Prepared { fence: fence(), result: Err(failure) }, at(3));
    traces.action(&end(&fence(), &run), at(3));
    let after = self::run(None, json!({"phase": "Failed", "reason": "SourceFailed", "message": "secret"}));
    traces.event(&Event::Written { fence: fence(), outcome: Written::Applied(Arc::clone(&after)) }, at(4));
    traces.action(&release(&after), at(4));
    let failed = told(&mut recorded);
    assert_eq!(failed["prepare"].2.failure(), Some("SourceFailed"));
    assert_eq!(failed["attempt"].2.failure(), Some("SourceFailed"));
    assert!(!format!("{failed:?}").contains("secret"), "messages may hold what is nobody's business");
}

#[test]
fn without_a_collector_what_the_run_carries_is_passed_on() {
    let word = |annotation, told| traceparent(&bound(annotation), &fence(), told);
    assert_eq!(word(Some(PARENT), false).as_deref(), Some(PARENT));
    assert_eq!(word(Some("nonsense"), false), None);
    assert_eq!(word(None, false), None);
    assert!(word(None, true).unwrap().starts_with("00-8f14e45fceea467fa9e13b1c5d0a7b21-"));
    let mut off = AttemptTraces::new(Traces::default(), "pod-1");
    ordinary(&mut off, Some(PARENT));
    assert!(off.open.is_empty());
}
