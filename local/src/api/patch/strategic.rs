//! Strategic merge patch: merge by list keys, with the `$` directives kubectl writes.

use serde_json::{Map, Value};

use super::lists::{ListKind, Structure, same};
use crate::object::map_of;

/// Merges `patch` into `value`; `key` is the member under which `value` stands.
pub fn merge(value: &mut Value, patch: &Value, structure: &Structure<'_>, key: &str) {
    match (value, patch) {
        (value, Value::Object(patch)) => merge_map(value, patch, structure),
        (Value::Array(old), Value::Array(patch)) => merge_list(old, patch, structure, key),
        (value, patch) => *value = cleaned(patch),
    }
}

fn merge_map(value: &mut Value, patch: &Map<String, Value>, structure: &Structure<'_>) {
    if patch.get("$patch").is_some_and(|d| d == "replace") {
        *value = cleaned(&Value::Object(patch.clone()));
        return;
    }
    let map = map_of(value);
    if patch.get("$patch").is_some_and(|d| d == "delete") {
        map.clear();
        return;
    }
    if let Some(Value::Array(keep)) = patch.get("$retainKeys") {
        map.retain(|key, _| keep.iter().any(|k| k == key));
    }
    for (key, new) in patch {
        if let Some(name) = key.strip_prefix("$deleteFromPrimitiveList/") {
            if let (Some(Value::Array(old)), Value::Array(gone)) = (map.get_mut(name), new) {
                old.retain(|item| !gone.contains(item));
            }
        } else if key.starts_with('$') {
            // Orders come last; the other directives were handled above.
        } else if new.is_null() {
            map.remove(key);
        } else {
            // A list that is new merges into an empty one, so that its directives are obeyed.
            let fresh = || if new.is_array() { Value::Array(Vec::new()) } else { Value::Null };
            let old = map.entry(key.clone()).or_insert_with(fresh);
            merge(old, new, &structure.member(key), key);
        }
    }
    for (key, order) in patch {
        if let (Some(name), Value::Array(order)) = (key.strip_prefix("$setElementOrder/"), order)
            && let Some(Value::Array(items)) = map.get_mut(name)
        {
            sort(items, order, &structure.member(name).list(name));
        }
    }
}

fn merge_list(old: &mut Vec<Value>, patch: &[Value], structure: &Structure<'_>, key: &str) {
    if patch.iter().any(|item| item["$patch"] == "replace") {
        let kept = patch.iter().filter(|item| item["$patch"] != "replace");
        *old = kept.map(cleaned).collect();
        return;
    }
    match structure.list(key) {
        ListKind::Atomic => *old = patch.iter().map(cleaned).collect(),
        ListKind::Set => {
            for item in patch {
                if !old.contains(item) {
                    old.push(item.clone());
                }
            }
        }
        ListKind::Map(keys) => {
            for item in patch {
                let position = old.iter().position(|o| same(o, item, &keys));
                match (position, item["$patch"] == "delete") {
                    (Some(at), true) => drop(old.remove(at)),
                    (None, true) => {}
                    (Some(at), false) => merge(&mut old[at], item, &structure.item(), key),
                    (None, false) => old.push(cleaned(item)),
                }
            }
        }
    }
}

/// Sorts `items` as `order` names them; those it does not name stay behind, in their order.
fn sort(items: &mut [Value], order: &[Value], kind: &ListKind) {
    items.sort_by_key(|item| {
        let found = order.iter().position(|o| match kind {
            ListKind::Map(keys) => same(o, item, keys),
            _ => o == item,
        });
        found.unwrap_or(order.len())
    });
}

/// A value without directives and nulls, as a new part of the object.
fn cleaned(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                .filter(|(k, v)| !k.starts_with('$') && !v.is_null())
                .map(|(k, v)| (k.clone(), cleaned(v)))
                .collect(),
        ),
        Value::Array(items) => {
            Value::Array(items.iter().filter(|i| i["$patch"] != "delete").map(cleaned).collect())
        }
        other => other.clone(),
    }
}
