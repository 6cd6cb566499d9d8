//! The cells of the built-in kinds, in the order of their columns in `kinds::builtin`.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::age_of;
use crate::kinds::Kind;
use crate::object::{deleting, list, name, strings, text};

pub fn builtin(kind: &Kind, object: &Value, now: Timestamp) -> Vec<Value> {
    let age = age_of(object, "/metadata/creationTimestamp", now);
    let name = json!(name(object));
    let count = |pointer: &str| object.pointer(pointer).and_then(Value::as_object).map_or(0, |m| m.len());
    match kind.kind.as_str() {
        "Pod" => pod(object, age),
        "Deployment" => deployment(object, age),
        "Event" => event(object, now),
        "Namespace" => vec![name, object["status"]["phase"].clone(), json!(age)],
        "ConfigMap" => vec![name, json!((count("/data") + count("/binaryData")).to_string()), json!(age)],
        "Secret" => vec![name, object["type"].clone(), json!(count("/data").to_string()), json!(age)],
        "RoleBinding" | "ClusterRoleBinding" => {
            let role = format!("{}/{}", text(object, "/roleRef/kind"), text(object, "/roleRef/name"));
            vec![name, json!(role), json!(age)]
        }
        "NetworkPolicy" => vec![name, json!(selector(object, "/spec/podSelector/matchLabels")), json!(age)],
        "Lease" => vec![name, object["spec"]["holderIdentity"].clone(), json!(age)],
        "CustomResourceDefinition" => vec![name, object["metadata"]["creationTimestamp"].clone()],
        _ => vec![name, json!(age)],
    }
}

fn selector(object: &Value, pointer: &str) -> String {
    let pairs: Vec<_> = strings(object, pointer).map(|(k, v)| format!("{k}={v}")).collect();
    if pairs.is_empty() { "<none>".into() } else { pairs.join(",") }
}

fn or_none(value: &str) -> Value {
    json!(if value.is_empty() { "<none>" } else { value })
}

fn pod(pod: &Value, age: String) -> Vec<Value> {
    let statuses = list(pod, "/status/containerStatuses");
    let ready = statuses.iter().filter(|s| s["ready"] == true).count();
    let total = list(pod, "/spec/containers").len();
    let restarts: i64 = statuses.iter().filter_map(|s| s["restartCount"].as_i64()).sum();
    let gates = list(pod, "/spec/readinessGates");
    let open = gates.iter().filter(|gate| {
        let is = |c: &&Value| c["type"] == gate["conditionType"] && c["status"] == "True";
        list(pod, "/status/conditions").iter().any(|c| is(&c))
    });
    let gates = match gates.len() {
        0 => "<none>".to_owned(),
        all => format!("{}/{all}", open.count()),
    };
    vec![
        json!(name(pod)),
        json!(format!("{ready}/{total}")),
        json!(pod_status(pod, statuses)),
        json!(restarts.to_string()),
        json!(age),
        or_none(text(pod, "/status/podIP")),
        or_none(text(pod, "/spec/nodeName")),
        json!(gates),
    ]
}

/// The word kubectl shows: why a container waits or ended, else the phase.
fn pod_status(pod: &Value, statuses: &[Value]) -> String {
    if deleting(pod) {
        return "Terminating".into();
    }
    let init = list(pod, "/status/initContainerStatuses");
    let initialised = init.iter().filter(|s| s.pointer("/state/terminated/exitCode") == Some(&json!(0)));
    let initialised = initialised.count();
    if let Some(current) = init.get(initialised) {
        return match text(current, "/state/waiting/reason") {
            "" => format!("Init:{initialised}/{}", init.len()),
            reason => format!("Init:{reason}"),
        };
    }
    let mut word = match text(pod, "/status/reason") {
        "" => text(pod, "/status/phase"),
        reason => reason,
    };
    for status in statuses.iter().rev() {
        for pointer in ["/state/waiting/reason", "/state/terminated/reason"] {
            let reason = text(status, pointer);
            if !reason.is_empty() {
                word = reason;
            }
        }
    }
    if word == "Completed" && statuses.iter().any(|s| s["ready"] == true) {
        word = "Running";
    }
    word.to_owned()
}

fn deployment(object: &Value, age: String) -> Vec<Value> {
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let containers = list(object, "/spec/template/spec/containers");
    let joined = |key: &str| {
        json!(containers.iter().map(|c| text(c, &format!("/{key}"))).collect::<Vec<_>>().join(","))
    };
    vec![
        json!(name(object)),
        json!(format!("{}/{}", number("/status/readyReplicas"), number("/spec/replicas"))),
        json!(number("/status/updatedReplicas").to_string()),
        json!(number("/status/availableReplicas").to_string()),
        json!(age),
        joined("name"),
        joined("image"),
        json!(selector(object, "/spec/selector/matchLabels")),
    ]
}

fn event(event: &Value, now: Timestamp) -> Vec<Value> {
    let first_of = |pointers: &[&str]| {
        pointers.iter().map(|p| text(event, p)).find(|t| !t.is_empty()).unwrap_or_default().to_owned()
    };
    let last = first_of(&["/series/lastObservedTime", "/lastTimestamp", "/eventTime"]);
    let first = first_of(&["/firstTimestamp", "/eventTime"]);
    let kind = text(event, "/involvedObject/kind").to_lowercase();
    vec![
        json!(super::age(&last, now)),
        event["type"].clone(),
        event["reason"].clone(),
        json!(format!("{kind}/{}", text(event, "/involvedObject/name"))),
        json!(text(event, "/involvedObject/fieldPath")),
        json!(first_of(&["/source/component", "/reportingComponent"])),
        json!(text(event, "/message").trim()),
        json!(super::age(&first, now)),
        json!(event["count"].as_i64().unwrap_or(1).to_string()),
        json!(name(event)),
    ]
}
