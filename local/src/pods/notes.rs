//! Events about Pods, as a kubelet writes them: the same note again only counts up.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::NODE;
use crate::api::errors::ApiError;
use crate::api::{Api, Sub, WriteOptions};
use crate::object;
use crate::store::Key;

/// Longest message, as the API server takes it.
const MESSAGE_LIMIT: usize = 1024;

/// Writes (or counts up) an Event about `pod`; trouble is only logged, since a note is no truth.
pub async fn note(
    api: &Api,
    pod: &Value,
    warning: bool,
    reason: &str,
    message: &str,
    container: Option<&str>,
) {
    if let Err(why) = write(api, pod, warning, reason, message, container).await {
        tracing::debug!(%why, reason, message, "cannot write an event");
    }
}

async fn write(
    api: &Api,
    pod: &Value,
    warning: bool,
    reason: &str,
    message: &str,
    container: Option<&str>,
) -> Result<(), ApiError> {
    let message: String = message.chars().take(MESSAGE_LIMIT).collect();
    let hash = Sha256::digest(format!("{}\0{reason}\0{message}", object::uid(pod)).as_bytes());
    let hash: String = hash.iter().take(8).map(|b| format!("{b:02x}")).collect();
    let key = Key::new(object::namespace(pod), &format!("{}.{hash}", object::name(pod)));
    let now = object::now();
    let field_path = container.map(|c| format!("spec.containers{{{c}}}"));
    let event = json!({
        "metadata": {"name": key.name},
        "involvedObject": {
            "kind": "Pod", "apiVersion": "v1", "namespace": key.namespace, "name": object::name(pod),
            "uid": object::uid(pod), "fieldPath": field_path,
        },
        "type": if warning { "Warning" } else { "Normal" }, "reason": reason, "message": message,
        "source": {"component": "kubelet", "host": NODE}, "reportingComponent": "kubelet", "reportingInstance": NODE,
        "firstTimestamp": now, "lastTimestamp": now, "count": 1,
    });
    let kind = api.kinds.core("events");
    let options = WriteOptions::internal();
    match api.create(kind, &key.namespace, event, &options).await {
        Err(ApiError::AlreadyExists { .. }) => {}
        done => return done.map(drop),
    }
    let count_up = |old: &Value| {
        let mut new = old.clone();
        new["count"] = json!(old["count"].as_i64().unwrap_or(1) + 1);
        new["lastTimestamp"] = json!(now);
        Ok(new)
    };
    api.update(kind, &key, Sub::Main, count_up, &options).await.map(drop)
}
