//! Objects as the table that `kubectl get` prints (`meta.k8s.io/v1` Table).

mod cells;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::jsonpath;
use crate::kinds::{Column, Kind};
use crate::object::text;

/// What a row carries of its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Include {
    Nothing,
    Metadata,
    Object,
}

/// The columns, as the table's head describes them.
pub fn columns(kind: &Kind) -> Value {
    let column = |c: &Column| {
        json!({
            "name": c.name, "type": c.kind, "description": c.description, "priority": c.priority,
            "format": if c.name == "Name" { "name" } else { "" },
        })
    };
    kind.columns.iter().map(column).collect()
}

/// One row.
pub fn row(kind: &Kind, object: &Value, include: Include, now: Timestamp) -> Value {
    let cells =
        if kind.custom() { custom_cells(kind, object, now) } else { cells::builtin(kind, object, now) };
    let mut row = json!({"cells": cells});
    match include {
        Include::Nothing => {}
        Include::Metadata => row["object"] = partial(object),
        Include::Object => row["object"] = object.clone(),
    }
    row
}

/// The object's metadata alone (`meta.k8s.io/v1` PartialObjectMetadata).
pub fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

/// A whole table around `rows`.
pub fn table(columns: Value, rows: Vec<Value>, list_metadata: Value) -> Value {
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": list_metadata,
        "columnDefinitions": columns, "rows": rows,
    })
}

fn custom_cells(kind: &Kind, object: &Value, now: Timestamp) -> Vec<Value> {
    let cell = |column: &Column| {
        let Some(value) = jsonpath::find(object, &column.path) else { return Value::Null };
        match (column.kind.as_str(), value) {
            ("date", Value::String(at)) => json!(age(at, now)),
            ("string", Value::String(_)) => value.clone(),
            ("string", other) => json!(other.to_string()),
            _ => value.clone(),
        }
    };
    kind.columns.iter().map(cell).collect()
}

/// The time since `at` as kubectl writes it; `<unknown>` when there is none.
pub fn age(at: &str, now: Timestamp) -> String {
    match at.parse::<Timestamp>() {
        Ok(at) => human_duration(now.as_second() - at.as_second()),
        Err(_) => "<unknown>".into(),
    }
}

pub fn age_of(object: &Value, pointer: &str, now: Timestamp) -> String {
    age(text(object, pointer), now)
}

/// Seconds in the two-unit form of kubectl (`duration.HumanDuration` of apimachinery).
pub fn human_duration(seconds: i64) -> String {
    if seconds < -1 {
        return "<invalid>".into();
    }
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let two = |big: i64, big_unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big}{big_unit}"),
        _ => format!("{big}{big_unit}{small}{small_unit}"),
    };
    match seconds {
        s if s < 120 => format!("{s}s"),
        s if minutes < 10 => two(minutes, "m", s % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 192 => two(days, "d", hours % 24, "h"),
        _ if days < 730 => format!("{days}d"),
        _ if days < 8 * 365 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests;
