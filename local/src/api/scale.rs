//! The scale subresource (`autoscaling/v1` Scale).

use serde_json::{Value, json};

use super::errors::{ApiError, Cause};
use crate::kinds::{Kind, ScalePaths};
use crate::object::{self, strings};

fn at<'a>(object: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(object, |at, key| at.get(key))
}

/// The scale of `object`.
pub fn of(paths: &ScalePaths, object: &Value) -> Value {
    let selector = match &paths.selector {
        Some(path) => at(object, path).and_then(Value::as_str).unwrap_or_default().to_owned(),
        None => {
            let labels = strings(object, "/spec/selector/matchLabels");
            labels.map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",")
        }
    };
    let meta = &object["metadata"];
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"],
            "resourceVersion": meta["resourceVersion"], "creationTimestamp": meta["creationTimestamp"],
        },
        "spec": {"replicas": at(object, &paths.spec_replicas).cloned().unwrap_or(json!(0))},
        "status": {
            "replicas": at(object, &paths.status_replicas).cloned().unwrap_or(json!(0)),
            "selector": selector,
        },
    })
}

/// `object` with the replicas, and the fences, of `scale`.
///
/// # Errors
/// When the number is missing or negative.
pub fn apply(kind: &Kind, paths: &ScalePaths, object: &Value, scale: &Value) -> Result<Value, ApiError> {
    let replicas = scale.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
    if replicas < 0 {
        let why = "must be greater than or equal to 0";
        return Err(ApiError::Invalid {
            kind: kind.qualified(),
            name: object::name(object).to_owned(),
            causes: vec![Cause::invalid("spec.replicas", &json!(replicas), why)],
        });
    }
    let mut new = object.clone();
    let path: Vec<_> = paths.spec_replicas.iter().map(String::as_str).collect();
    object::set(&mut new, &path, json!(replicas));
    for key in ["uid", "resourceVersion"] {
        if let Some(value) = scale["metadata"].get(key).filter(|v| v.as_str().is_some_and(|s| !s.is_empty()))
        {
            object::set(&mut new, &["metadata", key], value.clone());
        }
    }
    Ok(new)
}
