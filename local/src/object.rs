//! Small helpers over objects kept as plain JSON.

use serde_json::{Map, Value, json};

/// The string at a JSON pointer, empty when it is absent or no string.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The items of the list at a JSON pointer, empty when absent.
pub fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The members of the map at a JSON pointer whose values are strings.
pub fn strings<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
    object
        .pointer(pointer)
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(k, v)| Some((k.as_str(), v.as_str()?)))
}

pub fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

pub fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

pub fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

pub fn deleting(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some_and(|v| !v.is_null())
}

/// The map at `key` of `object`, made if it is missing or something else.
pub fn map_at<'a>(object: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    let slot = map_of(object).entry(key).or_insert_with(|| json!({}));
    map_of(slot)
}

/// `value` as a map; anything else is replaced by an empty one.
pub fn map_of(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("made an object above"),
    }
}

pub fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    map_at(object, "metadata")
}

/// Sets `path` (keys of nested maps) to `value`, making the maps on the way.
pub fn set(object: &mut Value, path: &[&str], value: Value) {
    let Some((last, parents)) = path.split_last() else { return };
    let mut at = object;
    for key in parents {
        at = map_of(at).entry(*key).or_insert_with(|| json!({}));
    }
    map_of(at).insert((*last).to_owned(), value);
}

/// Now, as RFC 3339 with whole seconds (`metav1.Time`).
pub fn now() -> String {
    seconds(jiff::Timestamp::now())
}

/// `at` as RFC 3339 with whole seconds.
pub fn seconds(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Sets the condition `kind` in `status.conditions`; `lastTransitionTime` moves only with the status.
pub fn set_condition(object: &mut Value, kind: &str, status: bool, reason: &str, message: &str) {
    let word = if status { "True" } else { "False" };
    let conditions = map_at(object, "status").entry("conditions").or_insert_with(|| json!([]));
    let Some(conditions) = conditions.as_array_mut() else { return };
    let position = conditions.iter().position(|c| text(c, "/type") == kind);
    let since = position
        .map(|at| &conditions[at])
        .filter(|c| text(c, "/status") == word)
        .map(|c| text(c, "/lastTransitionTime").to_owned())
        .filter(|t| !t.is_empty())
        .unwrap_or_else(now);
    let mut condition = json!({"type": kind, "status": word, "lastTransitionTime": since});
    if !reason.is_empty() {
        condition["reason"] = json!(reason);
    }
    if !message.is_empty() {
        condition["message"] = json!(message);
    }
    match position {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
}
