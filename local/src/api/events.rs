//! Events are kept as core/v1 Events and served a second time as events.k8s.io/v1.

use serde_json::{Value, json};

use crate::object::map_of;

/// Names in core/v1 and in events.k8s.io/v1.
const RENAMED: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// A core/v1 Event under its names in events.k8s.io/v1.
pub fn to_new(event: &mut Value) {
    rename(event, "events.k8s.io/v1", RENAMED.iter().copied());
}

/// An events.k8s.io/v1 Event under its names in core/v1.
pub fn to_core(event: &mut Value) {
    rename(event, "v1", RENAMED.iter().map(|(core, new)| (*new, *core)));
    // `kubectl get events` shows the age of these, which new-style writers leave out.
    let map = map_of(event);
    if let Some(time) = map.get("eventTime").filter(|t| t.is_string()).cloned() {
        for key in ["firstTimestamp", "lastTimestamp"] {
            if map.get(key).is_none_or(Value::is_null) {
                let at = time.as_str().and_then(|t| t.parse().ok()).map(crate::object::seconds);
                map.insert(key.into(), json!(at));
            }
        }
    }
}

fn rename<'a>(event: &mut Value, version: &str, names: impl Iterator<Item = (&'a str, &'a str)>) {
    let map = map_of(event);
    if map.contains_key("apiVersion") {
        map.insert("apiVersion".into(), json!(version));
    }
    for (from, to) in names {
        if let Some(value) = map.remove(from) {
            map.insert(to.into(), value);
        }
    }
}
