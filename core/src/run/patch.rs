//! A status change as a fenced merge patch.

use kruntimes_api::run::{Run, RunStatus};
use serde_json::{Map, Value, json};

/// JSON merge patch (RFC 7386) for `runs/status` that turns what was read into
/// `new`. It carries `metadata.uid` and `metadata.resourceVersion`, so the API
/// answers 409 when the Run changed since. `None` when nothing changes.
pub fn patch(run: &Run, new: &RunStatus) -> Option<Value> {
    let before = run.status.as_ref().map(to_value).unwrap_or_else(|| json!({}));
    let status = diff(&before, &to_value(new))?;
    Some(json!({
        "metadata": {"uid": run.metadata.uid, "resourceVersion": run.metadata.resource_version},
        "status": status,
    }))
}

fn to_value(status: &RunStatus) -> Value {
    // A status is maps, lists, strings and finite numbers: it always serializes.
    serde_json::to_value(status).unwrap_or_else(|_| json!({}))
}

/// The merge patch from `old` to `new`, `None` when they are equal. Lists are replaced whole.
fn diff(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    let (Value::Object(old), Value::Object(new)) = (old, new) else { return Some(new.clone()) };
    let mut patch = Map::new();
    for (key, value) in new {
        match old.get(key) {
            None => {
                patch.insert(key.clone(), value.clone());
            }
            Some(before) => {
                if let Some(change) = diff(before, value) {
                    patch.insert(key.clone(), change);
                }
            }
        }
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    Some(Value::Object(patch))
}
