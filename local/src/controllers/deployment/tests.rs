use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn deployment(replicas: usize, image: &str) -> Value {
    json!({
        "metadata": {"name": "d", "namespace": "default", "uid": "d-uid", "generation": 1},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "d"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": image}]}},
        },
    })
}

fn pod(of: &Value, number: usize, is_ready: bool, cost: i64) -> Value {
    json!({
        "metadata": {
            "name": format!("p{number}"), "uid": format!("p{number}"),
            "creationTimestamp": format!("2024-01-01T00:00:{:02}Z", number % 60),
            "labels": {HASH_LABEL: template_hash(of)},
            "annotations": {DELETION_COST: cost.to_string()},
        },
        "status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": if is_ready { "True" } else { "False" }}]},
    })
}

fn names(pods: &[&Value]) -> Vec<String> {
    pods.iter().map(|p| object::name(p).to_owned()).collect()
}

#[test]
fn scaling_down_gives_up_unready_then_cheap_pods() {
    let d = deployment(1, "a");
    let pods = [pod(&d, 1, true, 5), pod(&d, 2, true, -1), pod(&d, 3, false, 100)];
    assert_eq!(names(&plan(&d, &pods).delete), ["p3", "p2"]);
}

#[test]
fn failed_pods_are_replaced() {
    let d = deployment(2, "a");
    let mut broken = pod(&d, 1, false, 0);
    broken["status"]["phase"] = json!("Failed");
    let pods = [broken, pod(&d, 2, true, 0)];
    let plan = plan(&d, &pods);
    assert_eq!((plan.create, names(&plan.delete)), (1, vec!["p1".to_owned()]));
}

#[test]
fn recreate_waits_for_the_old_pods_to_go() {
    let old = deployment(2, "a");
    let mut new = deployment(2, "b");
    new["spec"]["strategy"] = json!({"type": "Recreate"});
    let mut pods = vec![pod(&old, 1, true, 0), pod(&old, 2, true, 0)];
    let first = plan(&new, &pods);
    assert_eq!((first.create, first.delete.len()), (0, 2));
    for pod in &mut pods {
        pod["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
    }
    assert_eq!(plan(&new, &pods).create, 0);
    assert_eq!(plan(&new, &[]).create, 2);
}

proptest! {
    /// However Pods come and go ready, a rollout ends with exactly the new Pods, never has more than
    /// the surge allows, and never takes a ready Pod below the minimum.
    #[test]
    fn a_rollout_keeps_its_bounds_and_ends(replicas in 0usize..9, start in 0usize..9, seed in prop::collection::vec(any::<bool>(), 200)) {
        let old = deployment(replicas, "a");
        let new = deployment(replicas, "b");
        let mut pods: Vec<Value> = (0..start).map(|n| pod(&old, n, true, 0)).collect();
        let mut number = start;
        let mut seed = seed.into_iter();
        for round in 0..100 {
            let plan = plan(&new, &pods);
            let before = pods.iter().filter(|p| ready(p)).count();
            let gone = names(&plan.delete);
            let create = plan.create;
            pods.retain(|p| !gone.contains(&object::name(p).to_owned()));
            let after = pods.iter().filter(|p| ready(p)).count();
            let minimum = replicas - amount(&json!("25%"), replicas, false);
            prop_assert!(after >= before.min(minimum), "{before} -> {after} of {replicas}");
            for _ in 0..create {
                number += 1;
                pods.push(pod(&new, number, false, 0));
            }
            prop_assert!(pods.len() <= (replicas + amount(&json!("25%"), replicas, true)).max(start));
            for p in &mut pods {
                if round > 50 || seed.next().unwrap_or(true) {
                    p["status"]["conditions"][0]["status"] = json!("True");
                }
            }
        }
        let last = plan(&new, &pods);
        prop_assert_eq!((last.create, last.delete.len(), last.counts.updated, last.counts.total), (0, 0, replicas, replicas));
    }
}
