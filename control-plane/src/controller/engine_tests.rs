use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kruntimes_core::desired::Defaults;
use kruntimes_core::liveness::Settings;
use kruntimes_core::schedule::Now;
use kruntimes_daemon::Metrics;
use serde_json::{Value, json};

use super::effects::*;
use super::engine::*;
use super::event::*;
use super::service::carry_out;
use super::*;
use crate::watch::Watched;
use crate::writer::{RunWriter, WriteError};

fn at(seconds: u64) -> Now {
    let start = Timestamp::from_second(1_700_000_000).unwrap();
    Now { wall: start + Duration::from_secs(seconds), mono: Duration::from_secs(seconds) }
}

fn decode<T: serde::de::DeserializeOwned>(value: Value) -> Box<T> {
    Box::new(serde_json::from_value(value).unwrap())
}

/// Records every call as a line; fails those that start with a given text.
#[derive(Default)]
struct Recorder {
    calls: Mutex<Vec<String>>,
    /// The answer to whoever asks for a Pod.
    hidden: Mutex<Option<Value>>,
    refuse: Option<(&'static str, WriteError)>,
}

impl Recorder {
    fn refusing(prefix: &'static str, error: WriteError) -> Self {
        let mut recorder = Self::default();
        recorder.refuse = Some((prefix, error));
        recorder
    }

    fn call(&self, text: String) -> Result<(), WriteError> {
        let refused = self.refuse.as_ref().filter(|(prefix, _)| text.starts_with(prefix));
        let result = refused.map_or(Ok(()), |(_, error)| Err(error.clone()));
        self.calls.lock().unwrap().push(text);
        result
    }

    fn drain(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.drain(), [""; 0], "calls that no assertion has seen");
        }
    }
}

#[async_trait]
impl Cluster for Recorder {
    async fn apply(&self, kind: Kind, _: &str, name: &str, object: &Value) -> Result<Applied, WriteError> {
        let replicas = object.pointer("/spec/replicas").map(|n| format!(" replicas={n}")).unwrap_or_default();
        self.call(format!("apply {kind:?} {name}{replicas}"))?;
        let generation = (kind == Kind::Deployment).then_some(1);
        Ok(Applied { version: Some(format!("{kind:?}-1")), generation })
    }

    async fn delete(&self, kind: Kind, _: &str, name: &str, uid: &str) -> Result<(), WriteError> {
        self.call(format!("delete {kind:?} {name} {uid}"))
    }

    async fn runtime_status(&self, _: &str, name: &str, _: &str, status: &Value) -> Result<(), WriteError> {
        let conditions = status["conditions"].as_array().unwrap();
        let words: Vec<_> = conditions.iter().map(|c| c["reason"].as_str().unwrap()).collect();
        self.call(format!("status {name} {} {}", words.join("/"), status["inUse"]))
    }

    async fn annotate_pod(&self, _: &str, name: &str, key: &str, value: &str) -> Result<(), WriteError> {
        self.call(format!("annotate {name} {key}={value}"))
    }

    async fn pod(&self, _: &str, name: &str) -> Result<Option<Box<Pod>>, WriteError> {
        self.call(format!("get {name}"))?;
        Ok(self.hidden.lock().unwrap().clone().map(decode))
    }

    async fn probe(&self, _: &str, pod: &str) -> bool {
        self.call(format!("probe {pod}")).is_ok()
    }
}

#[async_trait]
impl RunWriter for Recorder {
    async fn patch_status(&self, _: &str, name: &str, patch: &Value) -> Result<(), WriteError> {
        self.call(format!("run {name} {} {}", patch["status"]["phase"], patch["status"]["reason"]))
    }
}

fn engine() -> Engine {
    let metrics = ControllerMetrics::new(&Metrics::new("kruntimes_controller"));
    Engine::new(Defaults::default(), Settings::default(), metrics)
}

/// Ends every list but that of the Runtimes.
fn lists_end(engine: &mut Engine) {
    let now = at(0);
    for kind in [Kind::ServiceAccount, Kind::Role, Kind::RoleBinding, Kind::NetworkPolicy] {
        engine.handle(Event::Owned(kind, Watched::ListEnds), now);
    }
    engine.handle(Event::Run(Watched::ListEnds), now);
    engine.handle(Event::Pod(Watched::ListEnds), now);
    engine.handle(Event::Instance(Watched::ListEnds), now);
    engine.handle(Event::Deployment(Watched::ListEnds), now);
}

fn runtime(replicas: i32, generation: i64) -> Value {
    json!({
        "metadata": {"name": "bash", "namespace": "team", "uid": "rt", "generation": generation},
        "spec": {"replicas": replicas, "template": {"spec": {"containers": [{"name": "runtime", "image": "i"}]}}},
    })
}

fn pod(name: &str, beat: u64) -> Value {
    let beat = (at(beat).wall).to_string();
    json!({
        "metadata": {"name": name, "namespace": "team", "uid": format!("{name}-uid"), "labels": {"runtime": "bash"}},
        "status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True"},
            {"type": "kruntimes.io/RuntimedReady", "status": "True", "lastProbeTime": beat},
        ]},
    })
}

fn bound(name: &str, pod: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "team", "uid": format!("{name}-uid"), "resourceVersion": "3"},
        "spec": {"runtime": "bash"},
        "status": {"phase": "Scheduled", "assignedPod": pod, "assignedPodUID": format!("{pod}-uid"),
                   "attempt": 1, "assignment": 1},
    })
}

/// Plans and carries out until nothing is left, and returns what was called.
async fn act(engine: &mut Engine, recorder: &Recorder, now: Now) -> Vec<String> {
    let mut lists = Vec::new();
    loop {
        let (actions, _) = engine.plan(now);
        if actions.is_empty() {
            break;
        }
        for action in actions {
            match &action {
                Action::ListEnded => lists.push("list ended".to_owned()),
                Action::Note(note) => recorder.calls.lock().unwrap().push(format!(
                    "note {} {} {}: {}",
                    note.about.kind, note.about.name, note.reason, note.message
                )),
                _ => {}
            }
            if let Some(done) = carry_out(recorder, recorder, action).await {
                engine.handle(Event::Done(done), now);
            }
        }
    }
    lists.extend(recorder.drain());
    lists
}

const OBJECTS: [&str; 5] = [
    "apply ServiceAccount runtime-bash",
    "apply Role runtime-bash",
    "apply RoleBinding runtime-bash",
    "apply NetworkPolicy runtime-bash",
    "apply Deployment runtime-bash replicas=2",
];

async fn started(recorder: &Recorder) -> Engine {
    let mut engine = engine();
    lists_end(&mut engine);
    assert!(act(&mut engine, recorder, at(0)).await.is_empty(), "the Runtimes are not listed yet");
    engine.handle(Event::Runtime(Watched::Listed(decode(runtime(2, 1)))), at(0));
    engine.handle(Event::Runtime(Watched::ListEnds), at(0));
    let mut expected = vec!["list ended"];
    expected.extend(OBJECTS);
    let calls = act(&mut engine, recorder, at(0)).await;
    assert_eq!(calls[..6], expected);
    assert_eq!(calls[6], "status bash NoReadyPods/Rollout/AsExpected null");
    engine
}

#[tokio::test]
async fn a_runtime_is_applied_once_per_generation_and_again_when_somebody_interferes() {
    let recorder = Recorder::default();
    let mut engine = started(&recorder).await;
    let meta = |version: &str| {
        Box::new(ObjectMeta {
            name: Some("runtime-bash".into()),
            namespace: Some("team".into()),
            uid: Some("role-uid".into()),
            resource_version: Some(version.into()),
            labels: Some([("kruntimes.io/runtime".to_owned(), "bash".to_owned())].into()),
            ..ObjectMeta::default()
        })
    };
    engine.handle(Event::Owned(Kind::Role, Watched::Seen(meta("Role-1"))), at(1));
    engine.handle(Event::Runtime(Watched::Seen(decode(runtime(2, 1)))), at(1));
    assert!(
        !act(&mut engine, &recorder, at(2)).await.iter().any(|call| call.starts_with("apply")),
        "that was us"
    );
    engine.handle(Event::Owned(Kind::Role, Watched::Seen(meta("foreign"))), at(3));
    let calls = act(&mut engine, &recorder, at(5)).await;
    assert_eq!(calls[..5], OBJECTS);
    engine.handle(Event::Owned(Kind::Role, Watched::Seen(meta("Role-1"))), at(5));
    act(&mut engine, &recorder, at(9)).await;
    engine.handle(Event::Owned(Kind::Role, Watched::Gone(meta("Role-1"))), at(20));
    assert_eq!(act(&mut engine, &recorder, at(22)).await[..5], OBJECTS);
}

#[tokio::test]
async fn one_object_that_fails_does_not_keep_the_others_back() {
    let recorder = Recorder::refusing("apply Role ", WriteError::Refused("forbidden".into()));
    let mut engine = engine();
    lists_end(&mut engine);
    engine.handle(Event::Runtime(Watched::Listed(decode(runtime(2, 1)))), at(0));
    engine.handle(Event::Runtime(Watched::ListEnds), at(0));
    let calls = act(&mut engine, &recorder, at(0)).await;
    assert_eq!(calls[1..6], OBJECTS);
    assert_eq!(calls[6], "status bash NoReadyPods/Rollout/ApplyFailed null");
    assert!(calls[7].starts_with("note Runtime bash ApplyFailed: Role runtime-bash: "), "{}", calls[7]);
}

#[tokio::test]
async fn a_bad_template_is_a_condition_and_waits_for_a_change() {
    let recorder = Recorder::default();
    let mut engine = engine();
    lists_end(&mut engine);
    let mut bad = runtime(1, 1);
    bad["spec"]["template"] = json!({"spec": {"containers": []}});
    engine.handle(Event::Runtime(Watched::Listed(decode(bad))), at(0));
    engine.handle(Event::Runtime(Watched::ListEnds), at(0));
    let calls = act(&mut engine, &recorder, at(0)).await;
    assert_eq!(calls[..2], ["list ended", "status bash NoReadyPods/Rollout/InvalidTemplate null"]);
    assert!(
        calls[2].starts_with("note Runtime bash InvalidTemplate: spec.template.spec.containers"),
        "{calls:?}"
    );
    assert_eq!(calls.len(), 3);
    assert!(act(&mut engine, &recorder, at(100)).await.is_empty());
    engine.handle(Event::Runtime(Watched::Seen(decode(runtime(2, 2)))), at(101));
    assert_eq!(act(&mut engine, &recorder, at(101)).await[..5], OBJECTS);
}

#[tokio::test]
async fn idle_pods_go_first_and_the_cost_is_written_only_before_a_scale_down() {
    let recorder = Recorder::default();
    let mut engine = started(&recorder).await;
    for name in ["a", "b"] {
        engine.handle(Event::Pod(Watched::Seen(decode(pod(name, 0)))), at(1));
    }
    engine.handle(Event::Run(Watched::Seen(decode(bound("r", "b")))), at(1));
    let deployment = json!({
        "metadata": {"name": "runtime-bash", "namespace": "team", "uid": "d", "generation": 1,
                     "labels": {"kruntimes.io/runtime": "bash"}},
        "spec": {"replicas": 2, "selector": {}, "template": {}},
    });
    engine.handle(Event::Deployment(Watched::Seen(decode(deployment))), at(1));
    act(&mut engine, &recorder, at(1)).await;
    engine.handle(Event::Runtime(Watched::Seen(decode(runtime(1, 2)))), at(2));
    let calls = act(&mut engine, &recorder, at(2)).await;
    let cost = "controller.kubernetes.io/pod-deletion-cost";
    assert_eq!(calls[..2], [format!("annotate a {cost}=0"), format!("annotate b {cost}=1")]);
    assert!(calls.contains(&"apply Deployment runtime-bash replicas=1".to_owned()));
}

#[tokio::test]
async fn usage_alone_is_written_every_ten_seconds_at_most() {
    let recorder = Recorder::default();
    let mut engine = started(&recorder).await;
    engine.handle(Event::Pod(Watched::Seen(decode(pod("a", 0)))), at(1));
    assert_eq!(act(&mut engine, &recorder, at(1)).await, ["status bash PodsReady/Rollout/AsExpected null"]);
    engine.handle(Event::Run(Watched::Seen(decode(bound("r", "a")))), at(2));
    assert!(act(&mut engine, &recorder, at(2)).await.is_empty());
    assert!(act(&mut engine, &recorder, at(10)).await.is_empty());
    assert_eq!(
        act(&mut engine, &recorder, at(11)).await,
        [r#"status bash PodsReady/Rollout/AsExpected {"runs":"1"}"#]
    );
}

#[tokio::test]
async fn what_runs_hold_follows_the_runtime_that_is_seen_later_and_changes() {
    let recorder = Recorder::default();
    let mut engine = engine();
    lists_end(&mut engine);
    let mut run = bound("r", "a");
    run["spec"]["resources"] = json!({"requests": {"licence": "0.5"}});
    engine.handle(Event::Run(Watched::Listed(decode(run))), at(0));
    let mut seen = runtime(2, 1);
    seen["spec"]["resources"] = json!([{"name": "licence", "kind": "Divisible"}]);
    seen["spec"]["capacity"] = json!({"resources": {"licence": "2"}});
    seen["spec"]["runDefaults"] = json!({"requests": {"cpu": "2"}});
    engine.handle(Event::Runtime(Watched::Listed(decode(seen.clone()))), at(0));
    engine.handle(Event::Runtime(Watched::ListEnds), at(0));
    let usage = |calls: &[String]| {
        let status = calls.iter().rev().find(|call| call.starts_with("status bash")).unwrap();
        status.rsplit(' ').next().unwrap().to_owned()
    };
    let calls = act(&mut engine, &recorder, at(0)).await;
    assert_eq!(usage(&calls), r#"{"cpu":"2","licence":"500m","runs":"1"}"#, "{calls:?}");
    seen["metadata"]["generation"] = json!(2);
    seen["spec"]["runDefaults"]["requests"]["cpu"] = json!("3");
    seen["spec"]["runMaximums"] = json!({"requests": {"licence": "0.1"}});
    engine.handle(Event::Runtime(Watched::Seen(decode(seen))), at(20));
    let calls = act(&mut engine, &recorder, at(20)).await;
    assert_eq!(usage(&calls), r#"{"cpu":"3","licence":"500m","runs":"1"}"#, "{calls:?}");
}

#[tokio::test]
async fn what_is_no_longer_wanted_is_pruned_and_what_is_not_ours_is_left() {
    let recorder = Recorder::default();
    let mut engine = started(&recorder).await;
    let account = |name: &str, owner: &str| -> Box<ObjectMeta> {
        decode(
            json!({"name": name, "namespace": "team", "uid": format!("{name}-uid"), "labels": {"kruntimes.io/runtime": "bash"},
            "ownerReferences": [{"apiVersion": "x", "kind": "Runtime", "name": "bash", "uid": owner, "controller": true}]}),
        )
    };
    engine.handle(Event::Owned(Kind::ServiceAccount, Watched::Seen(account("runtime-bash", "rt"))), at(1));
    engine.handle(Event::Owned(Kind::ServiceAccount, Watched::Seen(account("foreign", "other"))), at(1));
    let mut own = runtime(2, 2);
    own["spec"]["template"]["spec"]["serviceAccountName"] = json!("theirs");
    engine.handle(Event::Runtime(Watched::Seen(decode(own))), at(2));
    let calls = act(&mut engine, &recorder, at(2)).await;
    let deletes: Vec<_> = calls.iter().filter(|call| call.starts_with("delete")).collect();
    assert_eq!(deletes, ["delete ServiceAccount runtime-bash runtime-bash-uid"]);
}

#[tokio::test]
async fn runs_of_a_pod_that_is_gone_end_or_wait_for_their_retry() {
    let recorder = Recorder::default();
    let mut engine = started(&recorder).await;
    engine.handle(Event::Pod(Watched::Seen(decode(pod("a", 0)))), at(1));
    engine.handle(Event::Run(Watched::Seen(decode(bound("once", "a")))), at(1));
    let mut again = bound("again", "a");
    again["spec"]["retryPolicy"] = json!({"maxAttempts": 2});
    engine.handle(Event::Run(Watched::Seen(decode(again))), at(1));
    let mut cancelled = bound("cancelled", "a");
    cancelled["spec"]["cancelRequested"] = json!(true);
    engine.handle(Event::Run(Watched::Seen(decode(cancelled))), at(1));
    act(&mut engine, &recorder, at(1)).await;
    let meta: Box<ObjectMeta> = decode(json!({"name": "a", "namespace": "team", "uid": "a-uid"}));
    engine.handle(Event::Pod(Watched::Gone(meta)), at(2));
    let mut calls = act(&mut engine, &recorder, at(2)).await;
    calls.retain(|call| call.starts_with("run"));
    calls.sort();
    assert_eq!(
        calls,
        [
            r#"run again "Pending" "PodGone""#,
            r#"run cancelled "Cancelled" "Cancelled""#,
            r#"run once "Failed" "PodGone""#
        ]
    );
}

/// Taking the label off a Pod is how people put it aside to look into it: what runs there goes on.
#[tokio::test]
async fn a_pod_that_lost_its_label_is_not_gone() {
    let recorder = Recorder::default();
    let mut engine = started(&recorder).await;
    engine.handle(Event::Pod(Watched::Seen(decode(pod("a", 0)))), at(1));
    engine.handle(Event::Run(Watched::Seen(decode(bound("r", "a")))), at(1));
    act(&mut engine, &recorder, at(1)).await;
    let meta: Box<ObjectMeta> = decode(json!({"name": "a", "namespace": "team", "uid": "a-uid"}));
    *recorder.hidden.lock().unwrap() = Some(pod("a", 0));
    engine.handle(Event::Pod(Watched::Gone(meta)), at(2));
    let mut calls = Vec::new();
    for second in 2..60 {
        *recorder.hidden.lock().unwrap() = Some(pod("a", second / 10 * 10));
        calls.extend(act(&mut engine, &recorder, at(second)).await);
    }
    assert!(!calls.iter().any(|call| call.starts_with("run") || call.starts_with("delete")), "{calls:?}");
    let notes: Vec<_> = calls.iter().filter(|call| call.starts_with("note")).collect();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].starts_with("note Pod a LabelRemoved: "), "{notes:?}");
    // Another Pod of the same name is not the one.
    let mut other = pod("a", 60);
    other["metadata"]["uid"] = json!("other");
    *recorder.hidden.lock().unwrap() = Some(other);
    let calls = act(&mut engine, &recorder, at(75)).await;
    assert!(calls.contains(&r#"run r "Failed" "PodGone""#.to_owned()), "{calls:?}");
}

#[tokio::test]
async fn a_failure_is_told_and_counted_once_and_an_old_one_is_no_news() {
    let recorder = Recorder::default();
    let mut engine = started(&recorder).await;
    let ended = |name: &str, phase: &str, second: u64| -> Box<EndedRun> {
        decode(json!({
            "metadata": {"name": name, "namespace": "team", "uid": format!("{name}-uid")}, "spec": {"runtime": "bash"},
            "status": {"phase": phase, "reason": "NonZeroExit", "message": "exit code 7",
                       "queuedTime": at(0).wall.to_string(), "completionTime": at(second).wall.to_string()},
        }))
    };
    engine.handle(Event::Ended(Watched::Listed(ended("listed", "Failed", 100))), at(100));
    engine.handle(Event::Ended(Watched::Seen(ended("old", "Failed", 10))), at(100));
    engine.handle(Event::Ended(Watched::Seen(ended("well", "Succeeded", 99))), at(100));
    engine.handle(Event::Ended(Watched::Seen(ended("bad", "Failed", 99))), at(100));
    assert_eq!(act(&mut engine, &recorder, at(100)).await, ["note Run bad Failed: NonZeroExit: exit code 7"]);
}

#[tokio::test]
async fn a_silent_pod_is_deleted_by_uid_after_the_api_proved_to_be_there() {
    let recorder = Recorder::default();
    let mut engine = started(&recorder).await;
    engine.handle(Event::Pod(Watched::Seen(decode(pod("a", 0)))), at(1));
    engine.handle(Event::Run(Watched::Seen(decode(bound("r", "a")))), at(1));
    let mut calls = Vec::new();
    for second in 1..40 {
        calls.extend(act(&mut engine, &recorder, at(second)).await);
    }
    let deletes: Vec<_> = calls.iter().filter(|call| call.starts_with("delete")).collect();
    assert_eq!(deletes, ["delete Pod a a-uid"]);
    assert!(calls.iter().filter(|call| *call == "probe a").count() >= 5);
    assert!(!calls.iter().any(|call| call.starts_with("run")));
}

#[tokio::test]
async fn ended_runs_go_when_their_time_has_come() {
    let recorder = Recorder::default();
    let mut engine = started(&recorder).await;
    let ended = |name: &str, ttl: Option<i32>| -> Box<EndedRun> {
        decode(json!({
            "metadata": {"name": name, "namespace": "team", "uid": format!("{name}-uid")},
            "spec": {"runtime": "bash", "ttlSecondsAfterFinished": ttl},
            "status": {"phase": "Succeeded", "completionTime": at(0).wall.to_string()},
        }))
    };
    for run in [ended("keep", None), ended("short", Some(5)), ended("long", Some(50))] {
        engine.handle(Event::Ended(Watched::Seen(run)), at(1));
    }
    assert_eq!(engine.ending(), 2);
    assert!(act(&mut engine, &recorder, at(4)).await.is_empty());
    assert_eq!(act(&mut engine, &recorder, at(5)).await, ["delete Run short short-uid"]);
    assert_eq!(act(&mut engine, &recorder, at(50)).await, ["delete Run long long-uid"]);
    // A default for Runs that say nothing: the ended ones are looked at again.
    let mut bounds = runtime(2, 2);
    bounds["spec"]["runDefaults"] = json!({"ttlSecondsAfterFinished": 60});
    engine.handle(Event::Runtime(Watched::Seen(decode(bounds))), at(51));
    assert!(act(&mut engine, &recorder, at(51)).await.contains(&"list ended".to_owned()));
    engine.handle(Event::Ended(Watched::Listed(ended("keep", None))), at(52));
    assert_eq!(act(&mut engine, &recorder, at(60)).await, ["delete Run keep keep-uid"]);
}

#[tokio::test]
async fn a_clock_that_jumps_deletes_nothing_early_and_keeps_nothing_longer() {
    for jump in [3600, -3600] {
        let recorder = Recorder::default();
        let mut engine = started(&recorder).await;
        let jumped = |second| Now { wall: at(second).wall + SignedDuration::from_secs(jump), ..at(second) };
        let ended = |name: &str, end: Timestamp| -> Box<EndedRun> {
            decode(json!({
                "metadata": {"name": name, "namespace": "team", "uid": format!("{name}-uid")},
                "spec": {"runtime": "bash", "ttlSecondsAfterFinished": 50},
                "status": {"phase": "Succeeded", "completionTime": end.to_string()},
            }))
        };
        engine.handle(Event::Ended(Watched::Seen(ended("a", at(0).wall))), at(0));
        // Seen anew after the jump, as by a watch that was closed.
        engine.handle(Event::Ended(Watched::Seen(ended("a", at(0).wall))), jumped(10));
        assert!(act(&mut engine, &recorder, jumped(49)).await.is_empty(), "{jump}");
        assert_eq!(act(&mut engine, &recorder, jumped(50)).await, ["delete Run a a-uid"], "{jump}");
    }
    // Ended by a clock ahead of ours: kept for its time from when it was seen, and no hour more.
    let recorder = Recorder::default();
    let mut engine = started(&recorder).await;
    let ahead = at(0).wall + SignedDuration::from_secs(3600);
    let run = decode(json!({
        "metadata": {"name": "a", "namespace": "team", "uid": "a-uid"},
        "spec": {"runtime": "bash", "ttlSecondsAfterFinished": 30},
        "status": {"phase": "Succeeded", "completionTime": ahead.to_string()},
    }));
    engine.handle(Event::Ended(Watched::Seen(run)), at(1));
    assert!(act(&mut engine, &recorder, at(30)).await.is_empty());
    assert_eq!(act(&mut engine, &recorder, at(31)).await, ["delete Run a a-uid"]);
}
