//! Defaults and checks of the built-in kinds: what the platform and its users lean on, no more.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::errors::Cause;
use crate::kinds::Kind;
use crate::object::{list, map_at, map_of, strings, text};

/// Fills in what a real API server, or its scheduler, would.
pub fn default(kind: &Kind, object: &mut Value) {
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Pod") => {
            pod_spec(map_at(object, "spec"));
            let spec = map_at(object, "spec");
            spec.entry("nodeName").or_insert(json!(crate::pods::NODE));
            spec.entry("serviceAccountName").or_insert(json!("default"));
            let status = map_at(object, "status");
            status.entry("phase").or_insert(json!("Pending"));
        }
        ("", "Namespace") => {
            let name = json!(crate::object::name(object));
            map_at(crate::object::map_of(object).entry("metadata").or_insert(json!({})), "labels")
                .insert("kubernetes.io/metadata.name".into(), name);
            map_at(object, "status").entry("phase").or_insert(json!("Active"));
        }
        ("", "Secret") => {
            if let Some(Value::Object(plain)) = map_of(object).remove("stringData") {
                let data = map_at(object, "data");
                for (key, value) in plain {
                    data.insert(key, json!(STANDARD.encode(value.as_str().unwrap_or_default())));
                }
            }
            map_of(object).entry("type").or_insert(json!("Opaque"));
        }
        ("apps", "Deployment") => {
            let spec = map_at(object, "spec");
            spec.entry("replicas").or_insert(json!(1));
            let strategy = spec.entry("strategy").or_insert(json!({}));
            let rolling = map_of(strategy).entry("type").or_insert(json!("RollingUpdate")) == "RollingUpdate";
            if rolling {
                let rolling = map_at(strategy, "rollingUpdate");
                rolling.entry("maxSurge").or_insert(json!("25%"));
                rolling.entry("maxUnavailable").or_insert(json!("25%"));
            }
            spec.entry("progressDeadlineSeconds").or_insert(json!(600));
            let template = spec.entry("template").or_insert(json!({}));
            pod_spec(map_at(template, "spec"));
        }
        _ => {}
    }
}

fn pod_spec(spec: &mut serde_json::Map<String, Value>) {
    spec.entry("restartPolicy").or_insert(json!("Always"));
    spec.entry("terminationGracePeriodSeconds").or_insert(json!(30));
    for containers in ["containers", "initContainers"] {
        let Some(Value::Array(containers)) = spec.get_mut(containers) else { continue };
        for port in containers.iter_mut().filter_map(|c| c.get_mut("ports")?.as_array_mut()).flatten() {
            map_of(port).entry("protocol").or_insert(json!("TCP"));
        }
    }
}

/// What is wrong with an object of a built-in kind.
pub fn causes(kind: &Kind, object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Pod") => {
            pod_causes(&object["spec"], "spec", &mut causes);
            if let Some(old) = old
                && old["spec"] != object["spec"]
            {
                let why = "pod updates are not possible on the local platform; delete and create it anew";
                causes.push(Cause::forbidden("spec", why));
            }
        }
        ("apps", "Deployment") => {
            let spec = &object["spec"];
            if list(spec, "/selector/matchExpressions").is_empty()
                && strings(spec, "/selector/matchLabels").next().is_none()
            {
                causes.push(Cause::required("spec.selector", ""));
            }
            let labels = &spec["template"]["metadata"]["labels"];
            if strings(spec, "/selector/matchLabels").any(|(k, v)| labels[k] != v) {
                let why = "`selector` does not match template `labels`";
                causes.push(Cause::invalid("spec.template.metadata.labels", labels, why));
            }
            if old.is_some_and(|old| old["spec"]["selector"] != spec["selector"]) {
                causes.push(Cause::invalid("spec.selector", &spec["selector"], "field is immutable"));
            }
            if spec["replicas"].as_i64().is_some_and(|n| n < 0) {
                let why = "must be greater than or equal to 0";
                causes.push(Cause::invalid("spec.replicas", &spec["replicas"], why));
            }
            pod_causes(&spec["template"]["spec"], "spec.template.spec", &mut causes);
        }
        _ => {}
    }
    causes
}

fn pod_causes(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let containers = list(spec, "/containers");
    if containers.is_empty() {
        causes.push(Cause::required(&format!("{path}.containers"), ""));
    }
    let mut seen = std::collections::BTreeSet::new();
    for (index, container) in containers.iter().enumerate() {
        let at = format!("{path}.containers[{index}]");
        let name = text(container, "/name");
        if name.is_empty() {
            causes.push(Cause::required(&format!("{at}.name"), ""));
        } else if !seen.insert(name) {
            causes.push(Cause {
                field: format!("{at}.name"),
                reason: "FieldValueDuplicate",
                message: format!("Duplicate value: {name:?}"),
            });
        }
        if text(container, "/image").is_empty() {
            causes.push(Cause::required(&format!("{at}.image"), ""));
        }
        for (index, mount) in list(container, "/volumeMounts").iter().enumerate() {
            let volume = text(mount, "/name");
            if !list(spec, "/volumes").iter().any(|v| text(v, "/name") == volume) {
                causes.push(Cause {
                    field: format!("{at}.volumeMounts[{index}].name"),
                    reason: "FieldValueNotFound",
                    message: format!("Not found: {volume:?}"),
                });
            }
        }
    }
}
