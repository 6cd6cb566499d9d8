use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kruntimes_core::schedule::Settings;
use kruntimes_daemon::Metrics;
use serde_json::{Value, json};

use super::engine::*;
use super::*;
use crate::watch::Watched;
use kruntimes_core::schedule::{Now, Outcome};

fn at(seconds: u64) -> Now {
    let start = Timestamp::from_second(1_700_000_000).unwrap();
    Now { wall: start + Duration::from_secs(seconds), mono: Duration::from_secs(seconds) }
}

fn engine(limit: usize) -> (Engine, Metrics) {
    let metrics = Metrics::new("kruntimes_scheduler");
    (Engine::new(Settings::default(), limit, SchedulerMetrics::new(&metrics)), metrics)
}

fn decode<T: serde::de::DeserializeOwned>(value: Value) -> Box<T> {
    Box::new(serde_json::from_value(value).unwrap())
}

fn run(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "team", "uid": format!("{name}-uid"), "resourceVersion": "7",
                     "creationTimestamp": "2023-11-14T22:13:20Z"},
        "spec": {"runtime": "bash"},
    })
}

fn pod(runs: &str) -> Value {
    json!({
        "metadata": {"name": "p", "namespace": "team", "uid": "p-uid", "labels": {"runtime": "bash"},
                     "annotations": {"kruntimes.io/capacity.runs": runs}},
        "status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True"},
            {"type": "kruntimes.io/RuntimedReady", "status": "True", "lastProbeTime": "2023-11-14T22:13:20Z"},
        ]},
    })
}

fn runtime() -> Value {
    json!({"metadata": {"name": "bash", "namespace": "team"}, "spec": {"template": {}}})
}

/// Lists everything: one Pod with `slots`, and `names` as Runs.
fn list(engine: &mut Engine, slots: &str, names: &[&str]) {
    let now = at(0);
    engine.handle(Event::Run(Watched::ListBegins), now);
    for name in names {
        engine.handle(Event::Run(Watched::Listed(decode(run(name)))), now);
    }
    engine.handle(Event::Run(Watched::ListEnds), now);
    engine.handle(Event::Pod(Watched::Listed(decode(pod(slots)))), now);
    engine.handle(Event::Pod(Watched::ListEnds), now);
    engine.handle(Event::Runtime(Watched::Listed(decode(runtime()))), now);
    engine.handle(Event::Runtime(Watched::ListEnds), now);
    assert!(engine.plan(now).0.is_empty(), "not every list is complete");
    assert!(!engine.is_synced());
    engine.handle(Event::Instance(Watched::ListEnds), now);
}

fn writes(engine: &mut Engine, now: Now) -> Vec<Write> {
    let write = |action| match action {
        Action::Write(write) => Some(*write),
        Action::Note(_) => None,
    };
    engine.plan(now).0.into_iter().filter_map(write).collect()
}

/// Answers every write as done, and returns what people are told.
fn told(engine: &mut Engine, now: Now) -> Vec<String> {
    let mut told = Vec::new();
    loop {
        let actions = engine.plan(now).0;
        if actions.is_empty() {
            return told;
        }
        for action in actions {
            match action {
                Action::Write(write) => engine.handle(Event::Settled(write, Outcome::Written), now),
                Action::Note(note) => {
                    told.push(format!("{} {}: {}", note.about.name, note.reason, note.message))
                }
            }
        }
    }
}

#[test]
fn people_are_told_of_trouble_and_its_end_and_of_nothing_ordinary() {
    let (mut engine, metrics) = engine(64);
    list(&mut engine, "1", &["a"]);
    assert_eq!(told(&mut engine, at(0)), [""; 0], "a Run that is simply bound");
    engine.handle(Event::Run(Watched::Seen(decode(run("b")))), at(1));
    assert_eq!(told(&mut engine, at(1)), [""; 0]);
    let waits = told(&mut engine, at(15));
    assert_eq!(waits, ["b Unschedulable: 0 of 1 Pods fit: 1 lack runs (want 1, free 0)"]);
    assert_eq!(engine.take_rejections().len(), 1);
    let mut noted = run("b");
    noted["metadata"]["resourceVersion"] = json!("8");
    noted["status"] = json!({"phase": "Pending", "reason": "Unschedulable", "message": "x"});
    engine.handle(Event::Run(Watched::Seen(decode(noted))), at(16));
    let gone: Box<ObjectMeta> = decode(run("a")["metadata"].clone());
    engine.handle(Event::Run(Watched::Gone(gone)), at(17));
    assert_eq!(told(&mut engine, at(17)), ["b Scheduled: attempt 1 goes to pod p"]);
    let text = metrics.encode();
    for (what, count) in [("bound", 2), ("unschedulable", 1)] {
        let line = format!("kruntimes_scheduler_writes_total{{what=\"{what}\",result=\"ok\"}} {count}");
        assert!(text.contains(&line), "{line}: {text}");
    }
}

#[test]
fn a_retry_is_told_once() {
    let (mut engine, _) = engine(64);
    list(&mut engine, "1", &[]);
    let mut retried = run("a");
    retried["status"] = json!({"phase": "Pending", "reason": "NonZeroExit", "message": "exit code 7", "attempt": 2,
        "assignment": 1, "nextAttemptTime": "2023-11-14T22:14:20.000000Z"});
    for version in ["8", "9"] {
        retried["metadata"]["resourceVersion"] = json!(version);
        engine.handle(Event::Run(Watched::Seen(decode(retried.clone()))), at(1));
    }
    let line = "a Retrying: attempt 1 ended with NonZeroExit: exit code 7; attempt 2 follows";
    assert_eq!(told(&mut engine, at(1)), [line]);
    retried["status"]["attempt"] = json!(3);
    retried["status"]["assignment"] = json!(2);
    engine.handle(Event::Run(Watched::Seen(decode(retried))), at(2));
    assert!(told(&mut engine, at(2))[0].contains("attempt 3 follows"));
}

#[test]
fn nothing_is_written_before_every_list_is_complete_and_then_a_fenced_bind() {
    let (mut engine, _) = engine(64);
    list(&mut engine, "2", &["a"]);
    let writes = writes(&mut engine, at(0));
    assert_eq!(writes.len(), 1);
    let patch = &writes[0].patch;
    assert_eq!(patch["metadata"], json!({"uid": "a-uid", "resourceVersion": "7"}));
    assert_eq!(patch["status"]["phase"], "Scheduled");
    assert_eq!(patch["status"]["assignedPod"], "p");
    assert_eq!(patch["status"]["assignedPodUID"], "p-uid");
    assert_eq!(
        (patch["status"]["attempt"].as_i64(), patch["status"]["assignment"].as_i64()),
        (Some(1), Some(1))
    );
    assert!(patch.get("spec").is_none());
}

#[test]
fn writes_in_flight_are_bounded() {
    let (mut engine, _) = engine(2);
    list(&mut engine, "10", &["a", "b", "c"]);
    let first = writes(&mut engine, at(0));
    assert_eq!(first.len(), 2);
    assert!(writes(&mut engine, at(0)).is_empty());
    engine.handle(Event::Settled(Box::new(first[0].clone()), Outcome::Conflict), at(0));
    engine.handle(Event::Settled(Box::new(first[1].clone()), Outcome::Gone), at(0));
    assert_eq!(writes(&mut engine, at(0)).len(), 1, "the one with a conflict is not decided again yet");
    assert_eq!(engine.in_flight(), 1);
}

#[test]
fn binds_that_the_watch_has_not_shown_are_bounded() {
    let (mut engine, _) = engine(2);
    list(&mut engine, "10", &["a", "b", "c", "d"]);
    let first = writes(&mut engine, at(0));
    for write in &first {
        engine.handle(Event::Settled(Box::new(write.clone()), Outcome::Written), at(0));
    }
    assert!(writes(&mut engine, at(0)).is_empty(), "an API server that is behind gets no further behind");
    assert_eq!((engine.in_flight(), engine.unseen()), (0, 2));
    let mut bound = run(&first[0].name);
    bound["metadata"]["resourceVersion"] = json!("8");
    bound["status"] = first[0].patch["status"].clone();
    engine.handle(Event::Run(Watched::Seen(decode(bound))), at(1));
    let next = writes(&mut engine, at(1));
    assert_eq!(next.len(), 1);
    let gone: Box<ObjectMeta> = decode(run(&first[1].name)["metadata"].clone());
    engine.handle(Event::Run(Watched::Gone(gone)), at(2));
    assert_eq!(writes(&mut engine, at(2)).len(), 1, "one that was deleted is awaited no longer");
}

#[test]
fn a_bind_whose_fate_is_not_known_holds_nobody_up_for_long() {
    let (mut engine, _) = engine(1);
    list(&mut engine, "10", &["a", "b"]);
    let first = writes(&mut engine, at(0));
    engine.handle(Event::Settled(Box::new(first[0].clone()), Outcome::Failed), at(0));
    let mut then = at(0);
    for _ in 0..8 {
        let (actions, next) = engine.plan(then);
        if !actions.is_empty() {
            return;
        }
        then.mono += next.expect("it wakes up by itself");
    }
    panic!("nothing is bound until {:?}", then.mono);
}

#[test]
fn a_conflict_is_counted_and_decided_again_on_the_newer_version() {
    let (mut engine, metrics) = engine(64);
    list(&mut engine, "1", &["a"]);
    let first = writes(&mut engine, at(0));
    engine.handle(Event::Settled(Box::new(first[0].clone()), Outcome::Conflict), at(0));
    assert!(writes(&mut engine, at(0)).is_empty());
    let mut newer = run("a");
    newer["metadata"]["resourceVersion"] = json!("8");
    engine.handle(Event::Run(Watched::Seen(decode(newer))), at(1));
    let second = writes(&mut engine, at(1));
    assert_eq!(second[0].patch["metadata"]["resourceVersion"], "8");
    let text = metrics.encode();
    assert!(text.contains("kruntimes_scheduler_reservation_conflicts_total{stage=\"bound\"} 1"), "{text}");
    assert!(
        text.contains("kruntimes_scheduler_sync_total{runtime=\"bash\",result=\"conflict\"} 1"),
        "{text}"
    );
}

#[test]
fn an_object_that_cannot_be_decoded_blinds_nobody() {
    let (mut engine, metrics) = engine(64);
    list(&mut engine, "2", &["a"]);
    let meta = |name: &str| {
        Box::new(ObjectMeta {
            name: Some(name.into()),
            namespace: Some("team".into()),
            uid: Some(format!("{name}-uid")),
            ..ObjectMeta::default()
        })
    };
    engine.handle(Event::Run(Watched::Malformed { meta: meta("x"), error: "bad".into() }), at(0));
    engine.handle(Event::Runtime(Watched::Malformed { meta: meta("bash"), error: "bad".into() }), at(0));
    assert_eq!(writes(&mut engine, at(0)).len(), 1, "the Runtime is still known as it was");
    assert!(metrics.encode().contains("malformed_objects_total{kind=\"Run\"} 1"));
}

#[test]
fn what_a_new_list_does_not_show_is_gone() {
    let (mut engine, _) = engine(64);
    list(&mut engine, "1", &["a", "b"]);
    assert_eq!(writes(&mut engine, at(0)).len(), 1);
    engine.handle(Event::Run(Watched::ListBegins), at(1));
    engine.handle(Event::Run(Watched::Listed(decode(run("b")))), at(1));
    engine.handle(Event::Run(Watched::ListEnds), at(1));
    let bound = writes(&mut engine, at(1));
    assert_eq!(bound[0].name, "b", "the slot of the deleted Run is free");
}

#[test]
fn it_wakes_up_for_what_is_due() {
    let (mut engine, _) = engine(64);
    list(&mut engine, "1", &[]);
    let mut later = run("a");
    later["status"] = json!({"phase": "Pending", "nextAttemptTime": "2023-11-14T22:13:25.000000Z"});
    engine.handle(Event::Run(Watched::Seen(decode(later))), at(0));
    let (actions, next) = engine.plan(at(0));
    assert!(actions.is_empty());
    assert_eq!(next, Some(Duration::from_secs(5)));
    assert_eq!(writes(&mut engine, at(5)).len(), 1);
}

#[test]
fn a_bind_carries_what_its_trace_tells() {
    let (mut engine, _) = engine(64);
    list(&mut engine, "1", &[]);
    let mut traced = run("a");
    traced["metadata"]["annotations"] = json!({"kruntimes.io/traceparent": "x"});
    engine.handle(Event::Run(Watched::Seen(decode(traced))), at(1));
    let [write] = &writes(&mut engine, at(3))[..] else { panic!("one write") };
    let bind = Bind {
        traceparent: Some("x".into()),
        pod: "p".into(),
        attempt: 1,
        assignment: 1,
        since: at(3).wall - Duration::from_secs_f64(write.waited),
    };
    assert_eq!(write.bind.as_deref(), Some(&bind));
    let (traces, mut recorded) = kruntimes_traces::Traces::recorded();
    super::service::tell(&traces, write, Outcome::Conflict);
    assert!(recorded.take().is_empty(), "it was not bound");
    super::service::tell(&traces, write, Outcome::Written);
    assert!(recorded.take().is_empty(), "neither a traceparent nor a UUID");
    let uid = "8f14e45f-ceea-467f-a9e1-3b1c5d0a7b21";
    let write = Write { uid: uid.into(), ..write.clone() };
    super::service::tell(&traces, &write, Outcome::Written);
    let [span] = &recorded.take()[..] else { panic!("one span") };
    assert_eq!((span.name(), span.parent(), span.times().0), ("bind", None, bind.since.into()));
    assert_eq!(span.attribute("k8s.pod.name").as_deref(), Some("p"));
}
