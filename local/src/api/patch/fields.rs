//! The set of fields that a manager applied, in the API's `FieldsV1` form.

use serde_json::{Map, Value, json};

use super::lists::{ListKind, Structure, same};

/// Members that identify an object and are never removed by an apply.
const IDENTITY: [&str; 2] = ["apiVersion", "kind"];
const IDENTITY_METADATA: [&str; 6] =
    ["name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp"];

/// The fields that `config` names.
pub fn field_set(config: &Value, structure: &Structure<'_>) -> Value {
    let mut set = Map::new();
    for (key, value) in config.as_object().into_iter().flatten() {
        if IDENTITY.contains(&key.as_str()) {
            continue;
        }
        let mut inner = member_set(value, &structure.member(key), key);
        if key == "metadata" {
            for name in IDENTITY_METADATA {
                crate::object::map_of(&mut inner).remove(&format!("f:{name}"));
            }
        }
        set.insert(format!("f:{key}"), inner);
    }
    Value::Object(set)
}

fn member_set(value: &Value, structure: &Structure<'_>, key: &str) -> Value {
    let mut set = Map::new();
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                set.insert(format!("f:{key}"), member_set(value, &structure.member(key), key));
            }
        }
        Value::Array(items) => match structure.list(key) {
            ListKind::Atomic => {}
            ListKind::Set => {
                for item in items {
                    set.insert(format!("v:{item}"), json!({}));
                }
            }
            ListKind::Map(keys) => {
                for item in items {
                    let identity: Map<_, _> =
                        keys.iter().filter_map(|k| Some((k.clone(), item.get(k)?.clone()))).collect();
                    let inner = member_set(item, &structure.item(), "");
                    set.insert(format!("k:{}", Value::Object(identity)), inner);
                }
            }
        },
        _ => {}
    }
    Value::Object(set)
}

/// Removes from `value` what `old` names and neither `new` nor one of `others` does.
pub fn remove_missing(
    value: &mut Value,
    old: &Value,
    new: &Value,
    others: &[&Value],
    structure: &Structure<'_>,
) {
    for (field, inner) in old.as_object().into_iter().flatten() {
        let below: Vec<_> = others.iter().filter_map(|o| o.get(field)).collect();
        let kept = new.get(field);
        if kept.is_none() && below.is_empty() {
            remove(value, field);
        } else if let Some((child, structure)) = child(value, field, structure) {
            remove_missing(child, inner, kept.unwrap_or(&Value::Null), &below, &structure);
        }
    }
}

fn child<'a, 's>(
    value: &'a mut Value,
    field: &str,
    structure: &Structure<'s>,
) -> Option<(&'a mut Value, Structure<'s>)> {
    if let Some(key) = field.strip_prefix("f:") {
        return Some((value.get_mut(key)?, structure.member(key)));
    }
    let (identity, keys) = identity(field)?;
    let item = value.as_array_mut()?.iter_mut().find(|i| same(i, &identity, &keys))?;
    Some((item, structure.item()))
}

/// The members in `k:{"name":"x"}` and their names.
fn identity(field: &str) -> Option<(Value, Vec<String>)> {
    let identity: Value = serde_json::from_str(field.strip_prefix("k:")?).ok()?;
    let keys = identity.as_object()?.keys().cloned().collect();
    Some((identity, keys))
}

fn remove(value: &mut Value, field: &str) {
    match value {
        Value::Object(map) => {
            if let Some(key) = field.strip_prefix("f:") {
                map.remove(key);
            }
        }
        Value::Array(items) => {
            if let Some((identity, keys)) = identity(field) {
                items.retain(|item| !same(item, &identity, &keys));
            } else if let Some(item) = field.strip_prefix("v:") {
                let gone: Value = serde_json::from_str(item).unwrap_or_default();
                items.retain(|i| *i != gone);
            }
        }
        _ => {}
    }
}
