//! Walks of a structural schema beside a value: pruning, defaults, keys of list-maps.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::api::errors::Cause;

fn flag(schema: &Value, name: &str) -> bool {
    schema.get(name) == Some(&json!(true))
}

/// Removes unknown fields; at the root, and of embedded resources, the fields every object has stay.
pub fn prune(schema: &Value, value: &mut Value, path: &str, root: bool, removed: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            let keep_unknown = flag(schema, "x-kubernetes-preserve-unknown-fields");
            let properties = schema.get("properties");
            let additional = schema.get("additionalProperties");
            let embedded = root || flag(schema, "x-kubernetes-embedded-resource");
            map.retain(|key, child| {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                if embedded && matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
                    return true;
                }
                if let Some(schema) = properties.and_then(|p| p.get(key)) {
                    prune(schema, child, &path, false, removed);
                    return true;
                }
                match additional {
                    Some(schema @ Value::Object(_)) => {
                        prune(schema, child, &path, false, removed);
                        true
                    }
                    Some(Value::Bool(true)) => true,
                    _ if keep_unknown => true,
                    _ => {
                        removed.push(path);
                        false
                    }
                }
            });
        }
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                for (index, item) in items.iter_mut().enumerate() {
                    prune(schema, item, &format!("{path}[{index}]"), false, removed);
                }
            }
        }
        _ => {}
    }
}

/// Fills in defaults, from the outside in.
pub fn default(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
                for (name, schema) in properties {
                    let absent = match map.get(name) {
                        None => true,
                        Some(Value::Null) => !flag(schema, "nullable"),
                        Some(_) => false,
                    };
                    if absent && let Some(filling) = schema.get("default") {
                        map.insert(name.clone(), filling.clone());
                    }
                    if let Some(child) = map.get_mut(name) {
                        default(schema, child);
                    }
                }
            }
            if let Some(schema @ Value::Object(_)) = schema.get("additionalProperties") {
                map.values_mut().for_each(|child| default(schema, child));
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                items.iter_mut().for_each(|item| default(schema, item));
            }
        }
        _ => {}
    }
}

/// Removes nulls of fields that may not be null and have no default, as the API server does.
pub fn drop_nulls(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(map) => {
            let properties = schema.get("properties");
            map.retain(|key, child| {
                let Some(schema) = properties.and_then(|p| p.get(key)) else { return true };
                if child.is_null() && !flag(schema, "nullable") {
                    return false;
                }
                drop_nulls(schema, child);
                true
            });
        }
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                items.iter_mut().for_each(|item| drop_nulls(schema, item));
            }
        }
        _ => {}
    }
}

/// Duplicate keys of list-maps and duplicate items of sets.
pub fn list_map_causes(schema: &Value, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    match value {
        Value::Object(map) => {
            for (key, child) in map {
                let known = schema.get("properties").and_then(|p| p.get(key));
                if let Some(schema) = known.or_else(|| schema.get("additionalProperties")) {
                    list_map_causes(schema, child, &format!("{path}.{key}"), causes);
                }
            }
        }
        Value::Array(items) => {
            let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
            let set = schema.get("x-kubernetes-list-type") == Some(&json!("set"));
            let mut seen = BTreeSet::new();
            for (index, item) in items.iter().enumerate() {
                let identity = match keys {
                    Some(keys) => {
                        json!(keys.iter().map(|k| item.get(k.as_str()?)).collect::<Vec<_>>()).to_string()
                    }
                    None if set => item.to_string(),
                    None => continue,
                };
                if !seen.insert(identity) {
                    let shown = match keys {
                        Some(keys) => {
                            let pairs = keys.iter().filter_map(Value::as_str);
                            json!(
                                pairs
                                    .map(|k| (k.to_owned(), item[k].clone()))
                                    .collect::<serde_json::Map<_, _>>()
                            )
                        }
                        None => item.clone(),
                    };
                    causes.push(Cause {
                        field: format!("{path}[{index}]"),
                        reason: "FieldValueDuplicate",
                        message: format!("Duplicate value: {shown}"),
                    });
                }
            }
            if let Some(schema) = schema.get("items") {
                for (index, item) in items.iter().enumerate() {
                    list_map_causes(schema, item, &format!("{path}[{index}]"), causes);
                }
            }
        }
        _ => {}
    }
}

/// Removes every rule of a schema and below it.
pub fn strip_rules(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.remove("x-kubernetes-validations");
            map.values_mut().for_each(strip_rules);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_rules),
        _ => {}
    }
}

/// The value at a path such as `spec.env[0].name`.
pub fn at_path<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    let mut at = value;
    for part in path.split(['.', '[']).filter(|p| !p.is_empty()) {
        at = match part.strip_suffix(']') {
            Some(index) => at.get(index.parse::<usize>().ok()?)?,
            None => at.get(part)?,
        };
    }
    Some(at)
}
