use k8s_openapi::api::core::v1::Pod;
use kruntimes_resources::Amount;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn pod(status: Value) -> PodState {
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap();
    PodState::of(&pod)
}

fn ready() -> PodState {
    pod(json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}))
}

fn runtime(replicas: i32) -> Runtime {
    let mut runtime = Runtime::default();
    runtime.metadata.name = Some("bash".into());
    runtime.metadata.generation = Some(4);
    runtime.spec.replicas = Some(replicas);
    runtime
}

fn observe<'a>(pods: &'a [PodState], deployment: Option<&'a Deployment>) -> Observed<'a> {
    Observed { deployment, pods, capacity: Amounts::new(), in_use: Amounts::new(), fault: None }
}

fn deployment(updated: i32) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"generation": 2}, "status": {"observedGeneration": 2, "updatedReplicas": updated}
    }))
    .unwrap()
}

fn words(status: &RuntimeStatus) -> Vec<String> {
    status.conditions.iter().map(|c| format!("{}={}/{}", c.type_, c.status, c.reason)).collect()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

#[test]
fn a_healthy_pool() {
    let (pods, deployment) = ([ready(), ready()], deployment(2));
    let mut observed = observe(&pods, Some(&deployment));
    observed.capacity =
        [("runs", Amount::whole(4)), ("memory", Amount::whole(1 << 31))].into_iter().collect();
    let status = status(&runtime(2), &observed, at(0));
    assert_eq!(
        words(&status),
        ["Available=True/PodsReady", "Progressing=False/Complete", "Degraded=False/AsExpected"]
    );
    assert_eq!(
        (status.ready_replicas, status.replicas, status.observed_generation),
        (Some(2), Some(2), Some(4))
    );
    assert_eq!(status.selector.as_deref(), Some("runtime=bash,app=kruntimes-bash"));
    assert_eq!(status.capacity["memory"].0, "2Gi");
}

/// A status with more names than the kind takes would be refused for ever.
#[test]
fn a_status_names_no_more_resources_than_the_kind_takes() {
    let crds = serde_json::to_value(kruntimes_api::crds::all().unwrap()).unwrap();
    let schema = &crds[1]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"];
    let bound = |field: &str| schema["properties"][field]["maxProperties"].as_u64().unwrap() as usize;
    let names = |count: usize| (0..count).map(|index| (format!("z-{index:02}"), Amount::ONE));
    let mut observed = observe(&[], None);
    observed.capacity = names(40).chain([("runs".to_owned(), Amount::ONE)]).collect();
    observed.in_use = names(40).collect();
    let status = status(&runtime(1), &observed, at(0));
    assert_eq!((status.capacity.len(), status.in_use.len()), (bound("capacity"), bound("inUse")));
    assert!(status.capacity.contains_key("runs"));
    let first = |map: &BTreeMap<String, Quantity>| map.contains_key("z-00") && !map.contains_key("z-39");
    assert!(first(&status.capacity) && first(&status.in_use), "by name");
}

#[test]
fn a_parked_pool_is_not_degraded() {
    let deployment = deployment(0);
    let status = status(&runtime(0), &observe(&[], Some(&deployment)), at(0));
    assert_eq!(
        words(&status),
        ["Available=False/Parked", "Progressing=False/Complete", "Degraded=False/AsExpected"]
    );
}

#[test]
fn each_trouble_of_a_pod_has_a_word_and_a_sentence() {
    let container = |state: Value| {
        json!({"phase": "Pending", "containerStatuses": [{"name": "runtime", "image": "i:1", "imageID": "", "ready": false,
               "restartCount": 3, "state": state, "lastState": {"terminated": {"exitCode": 7}}}]})
    };
    for (status_of_pod, reason, text) in [
        (
            container(json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}})),
            "ImagePullFailed",
            "i:1",
        ),
        (container(json!({"waiting": {"reason": "CrashLoopBackOff"}})), "CrashLooping", "code 7"),
        (
            container(json!({"waiting": {"reason": "CreateContainerConfigError", "message": "secret x"}})),
            "ContainerFailed",
            "secret x",
        ),
        (container(json!({"terminated": {"exitCode": 2, "reason": "Error"}})), "ContainerFailed", "code 2"),
        (
            json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "message": "no gpu"}]}),
            "Unschedulable",
            "no gpu",
        ),
        (
            json!({"phase": "Running", "conditions": [{"type": "kruntimes.io/RuntimedReady", "status": "False",
                "reason": "IsolationMissing", "message": "kill is Soft"}]}),
            "IsolationMissing",
            "kill is Soft",
        ),
        (json!({"phase": "Failed", "reason": "Evicted", "message": "disk"}), "Evicted", "disk"),
    ] {
        let pods = [ready(), pod(status_of_pod)];
        let deployment = deployment(2);
        let status = status(&runtime(2), &observe(&pods, Some(&deployment)), at(0));
        let degraded = &status.conditions[2];
        assert_eq!((degraded.status.as_str(), degraded.reason.as_str()), ("True", reason));
        assert!(
            degraded.message.contains(text) && degraded.message.contains("pod p"),
            "{}",
            degraded.message
        );
        assert_eq!(status.conditions[0].status, "True", "one Pod still takes Runs");
    }
    let starting = container(json!({"waiting": {"reason": "ContainerCreating"}}));
    assert_eq!(pod(starting).fault, None);
}

#[test]
fn a_server_that_starts_is_no_trouble_and_one_that_does_not_come_up_is() {
    let missed = |running: Value, reason: &str, at: &str| {
        let told = json!({"type": "kruntimes.io/RuntimedReady", "status": "False", "reason": reason,
            "message": "socket: No such file or directory", "lastProbeTime": at});
        let container = json!({"name": "runtime", "image": "i:1", "imageID": "", "ready": false, "restartCount": 0,
            "state": running});
        pod(json!({"phase": "Running", "conditions": [told], "containerStatuses": [container]})).fault
    };
    let running = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
    assert_eq!(missed(running.clone(), "ServerUnreachable", "2026-01-01T00:00:01Z"), None);
    assert_eq!(missed(running.clone(), "ApiUnreachable", "2026-01-01T00:00:01Z"), None);
    let lasts = missed(running.clone(), "ServerUnreachable", "2026-01-01T00:00:20Z");
    assert_eq!(lasts.map(|fault| fault.reason).as_deref(), Some("ServerUnreachable"));
    let own = missed(running, "ServerUnhealthy", "2026-01-01T00:00:01Z");
    assert_eq!(
        own.map(|fault| fault.reason).as_deref(),
        Some("ServerUnhealthy"),
        "what it says itself counts"
    );
    let creating = json!({"waiting": {"reason": "ContainerCreating"}});
    assert_eq!(missed(creating, "ServerUnreachable", "2026-01-01T00:05:00Z"), None, "it is not there yet");
}

#[test]
fn a_template_that_cannot_be_built_comes_first() {
    let mut observed = observe(&[], None);
    observed.fault = Some(Fault { reason: "InvalidTemplate".into(), message: "spec.port 0".into() });
    let status = status(&runtime(1), &observed, at(0));
    assert_eq!(words(&status)[2], "Degraded=True/InvalidTemplate");
}

#[test]
fn a_condition_keeps_its_time_while_it_holds() {
    let (pods, deployment) = ([ready()], deployment(1));
    let mut runtime = runtime(1);
    runtime.status = Some(status(&runtime, &observe(&pods, Some(&deployment)), at(10)));
    let later = status(&runtime, &observe(&pods, Some(&deployment)), at(20));
    assert_eq!(later.conditions[0].last_transition_time.0, at(10));
    let worse = status(&runtime, &observe(&[], Some(&deployment)), at(30));
    assert_eq!(worse.conditions[0].last_transition_time.0, at(30));
}

proptest! {
    #[test]
    fn whatever_pods_say_the_conditions_are_valid(reason in "\\PC{0,80}", message in "\\PC{0,3000}") {
        let mut observed = observe(&[], None);
        observed.fault = Some(Fault { reason, message });
        for condition in status(&runtime(1), &observed, at(0)).conditions {
            prop_assert!(condition.message.len() <= MAX_MESSAGE);
            let mut letters = condition.reason.chars();
            prop_assert!(letters.next().is_some_and(|c| c.is_ascii_alphabetic()));
            prop_assert!(letters.all(|c| c.is_ascii_alphanumeric()));
        }
    }
}
