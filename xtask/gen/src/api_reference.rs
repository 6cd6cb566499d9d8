//! The API reference, from the schemas that the API server enforces.

use serde_json::Value;

use crate::{cell, header};

/// A chapter for each kind.
pub fn page(crds: &Value) -> String {
    let mut page = header("api/");
    page += "# API reference\n\nGroup `kruntimes.io`, version `v1alpha1`. *Required* fields are marked with a star.\n\n";
    for crd in crds.as_array().into_iter().flatten() {
        chapter(&mut page, crd);
    }
    page
}

fn chapter(page: &mut String, crd: &Value) {
    let names = &crd["spec"]["names"];
    let version = &crd["spec"]["versions"][0];
    let schema = &version["schema"]["openAPIV3Schema"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    *page += &format!("## {}\n\n", text(&names["kind"]));
    *page += &format!("`{}`, short `{}`.", text(&names["plural"]), text(&names["shortNames"][0]));
    let selectable: Vec<_> = version["selectableFields"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|field| format!("`{}`", text(&field["jsonPath"]).trim_start_matches('.')))
        .collect();
    if !selectable.is_empty() {
        *page += &format!(" Fields for `--field-selector`: {}.", selectable.join(", "));
    }
    *page += "\n\n";
    for part in ["spec", "status"] {
        let node = &schema["properties"][part];
        if node.is_object() {
            *page += &format!("| field of `{part}` | type | bounds | |\n|---|---|---|---|\n");
            fields(page, node, "");
            page.push('\n');
        }
    }
    let mut messages = Vec::new();
    rules(&mut messages, schema, "");
    if !messages.is_empty() {
        *page += "Rules between fields:\n\n";
        for message in messages {
            *page += &format!("* {message}\n");
        }
        page.push('\n');
    }
}

fn fields(page: &mut String, node: &Value, before: &str) {
    let required: Vec<_> =
        node["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in node["properties"].as_object().into_iter().flatten() {
        let path = format!("{before}{name}");
        let star = if required.contains(&name.as_str()) { "*" } else { "" };
        let description = field["description"].as_str().unwrap_or_default();
        *page +=
            &format!("| `{path}`{star} | {} | {} | {} |\n", kind(field), bounds(field), cell(description));
        fields(page, field, &format!("{path}."));
        fields(page, &field["items"], &format!("{path}[]."));
    }
}

fn kind(field: &Value) -> String {
    if field["x-kubernetes-int-or-string"] == true {
        return "quantity".to_owned();
    }
    match field["type"].as_str() {
        Some("array") => format!("list of {}", kind(&field["items"])),
        Some("object") if field["additionalProperties"].is_object() => {
            format!("map to {}", kind(&field["additionalProperties"]))
        }
        Some("string") if field["format"] == "date-time" => "time".to_owned(),
        Some(other) => other.to_owned(),
        None => "any".to_owned(),
    }
}

fn bounds(field: &Value) -> String {
    let mut parts = Vec::new();
    if let Some(words) = field["enum"].as_array() {
        let words: Vec<_> = words.iter().filter_map(Value::as_str).map(|word| format!("`{word}`")).collect();
        parts.push(words.join(", "));
    }
    for (low, high, unit) in [
        ("minimum", "maximum", ""),
        ("minLength", "maxLength", " characters"),
        ("minItems", "maxItems", " items"),
        ("minProperties", "maxProperties", " entries"),
    ] {
        match (number(&field[low]), number(&field[high])) {
            (Some(low), Some(high)) => parts.push(format!("{low} to {high}{unit}")),
            (None, Some(high)) => parts.push(format!("at most {high}{unit}")),
            (Some(low), None) => parts.push(format!("at least {low}{unit}")),
            (None, None) => {}
        }
    }
    if field.get("default").is_some() {
        parts.push(format!("default `{}`", field["default"]));
    }
    parts.join("; ")
}

/// Bounds are written as `1.0` by the generator of the schemas.
fn number(value: &Value) -> Option<String> {
    value.as_f64().map(|number| number.to_string())
}

fn rules(messages: &mut Vec<String>, node: &Value, path: &str) {
    for rule in node["x-kubernetes-validations"].as_array().into_iter().flatten() {
        if let Some(message) = rule["message"].as_str() {
            let place = format!("{path}{}", rule["fieldPath"].as_str().unwrap_or_default());
            messages.push(format!("`{}`: {}", place.trim_start_matches('.'), cell(message)));
        }
    }
    for (name, field) in node["properties"].as_object().into_iter().flatten() {
        rules(messages, field, &format!("{path}.{name}"));
    }
    if node["items"].is_object() {
        rules(messages, &node["items"], &format!("{path}[]"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_every_kind_is_there() {
        let crds = serde_json::to_value(kruntimes_api::crds::all().unwrap()).unwrap();
        let page = page(&crds);
        for (path, words) in [
            ("`runtime`*", "1 to 63 characters"),
            ("`source.inline`", "at most 262144 characters"),
            ("`env[].name`*", "string"),
            ("`retryPolicy.maxAttempts`", "1 to 100"),
            ("`phase`", "`Pending`, `Scheduled`"),
            ("`resources.requests`", "map to quantity"),
        ] {
            let row = page.lines().find(|line| line.starts_with(&format!("| {path} |")));
            assert!(row.is_some_and(|row| row.contains(words)), "{path}: {row:?}");
        }
        assert!(page.contains("is immutable"), "rules are listed");
    }
}
