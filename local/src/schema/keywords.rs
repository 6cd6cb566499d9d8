//! From a structural schema to a JSON schema, and from its errors to the API server's wording.

use jsonschema::error::{TypeKind, ValidationErrorKind};
use serde_json::{Map, Value, json};

use crate::api::errors::{Cause, shown};

/// The same constraints in JSON Schema: `nullable` and `x-kubernetes-int-or-string` become types,
/// number formats become bounds, extensions fall away.
pub fn json_schema(schema: &Value) -> Value {
    let Value::Object(schema) = schema else { return schema.clone() };
    let mut out = Map::new();
    for (key, value) in schema {
        let value = match key.as_str() {
            "properties" => Value::Object(
                value.as_object().into_iter().flatten().map(|(k, v)| (k.clone(), json_schema(v))).collect(),
            ),
            "items" | "additionalProperties" | "not" => json_schema(value),
            "allOf" | "anyOf" | "oneOf" => {
                Value::Array(value.as_array().into_iter().flatten().map(json_schema).collect())
            }
            "exclusiveMinimum" | "exclusiveMaximum" | "default" | "description" | "title" | "example"
            | "externalDocs" | "nullable" | "format" => continue,
            key if key.starts_with("x-kubernetes-") => continue,
            _ => value.clone(),
        };
        out.insert(key.clone(), value);
    }
    for (flag, bound) in [("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")] {
        if schema.get(flag) == Some(&json!(true))
            && let Some(limit) = out.remove(bound)
        {
            out.insert(flag.into(), limit);
        }
    }
    if schema.get("format") == Some(&json!("int32")) {
        out.entry("minimum").or_insert(json!(i32::MIN));
        out.entry("maximum").or_insert(json!(i32::MAX));
    }
    if schema.get("x-kubernetes-int-or-string") == Some(&json!(true)) {
        out.remove("anyOf");
        out.insert("type".into(), json!(["integer", "string"]));
    }
    if schema.get("nullable") == Some(&json!(true))
        && let Some(one) = out.get("type").cloned()
    {
        let mut types = one.as_array().cloned().unwrap_or_else(|| vec![one]);
        types.push(json!("null"));
        out.insert("type".into(), Value::Array(types));
        if let Some(options) = out.get_mut("enum").and_then(Value::as_array_mut) {
            options.push(Value::Null);
        }
    }
    Value::Object(out)
}

/// The refusals for keyword errors below the property `root`. Of one string only the first is told, its
/// length before its pattern, as the API server does.
pub fn causes<'a>(root: &str, errors: impl Iterator<Item = jsonschema::ValidationError<'a>>) -> Vec<Cause> {
    let errors: Vec<_> = errors.collect();
    let length = |e: &jsonschema::ValidationError<'_>| {
        matches!(e.kind(), ValidationErrorKind::MinLength { .. } | ValidationErrorKind::MaxLength { .. })
    };
    let told = |error: &&jsonschema::ValidationError<'_>| {
        !matches!(error.kind(), ValidationErrorKind::Pattern { .. })
            || !errors.iter().any(|e| length(e) && e.instance_path() == error.instance_path())
    };
    errors.iter().filter(told).map(|error| cause(root, error)).collect()
}

/// The refusal for one keyword error.
fn cause(root: &str, error: &jsonschema::ValidationError<'_>) -> Cause {
    let field = field_path(root, error.instance_path().as_str());
    let value = error.instance();
    let body = |why: String| Cause::invalid(&field, value, format!("{field} in body {why}"));
    let sized = |message: String, reason| Cause { field: field.clone(), reason, message };
    match error.kind() {
        ValidationErrorKind::Required { property } => {
            Cause::required(&format!("{field}.{}", property.as_str().unwrap_or_default()), "")
        }
        ValidationErrorKind::Type { kind } => {
            let wanted = match kind {
                TypeKind::Single(one) => one.to_string(),
                TypeKind::Multiple(_) => "integer or string".into(),
            };
            Cause {
                field: field.clone(),
                reason: "FieldValueTypeInvalid",
                message: format!(
                    "Invalid value: \"{}\": {field} in body must be of type {wanted}: \"{0}\"",
                    type_name(value)
                ),
            }
        }
        ValidationErrorKind::Enum { options } => {
            let options = options.as_array().map(Vec::as_slice).unwrap_or_default();
            let list = options.iter().filter(|o| !o.is_null()).map(shown).collect::<Vec<_>>().join(", ");
            let message = format!("Unsupported value: {}: supported values: {list}", shown(value));
            sized(message, "FieldValueNotSupported")
        }
        ValidationErrorKind::Minimum { limit } => body(format!("should be greater than or equal to {limit}")),
        ValidationErrorKind::Maximum { limit } => body(format!("should be less than or equal to {limit}")),
        ValidationErrorKind::ExclusiveMinimum { limit } => body(format!("should be greater than {limit}")),
        ValidationErrorKind::ExclusiveMaximum { limit } => body(format!("should be less than {limit}")),
        ValidationErrorKind::MinLength { limit } => body(format!("should be at least {limit} chars long")),
        ValidationErrorKind::MaxLength { limit } => {
            sized(format!("Too long: may not be more than {limit} bytes"), "FieldValueTooLong")
        }
        ValidationErrorKind::Pattern { pattern } => body(format!("should match '{pattern}'")),
        ValidationErrorKind::MaxItems { limit } => {
            let count = value.as_array().map_or(0, Vec::len);
            sized(format!("Too many: {count}: must have at most {limit} items"), "FieldValueTooMany")
        }
        ValidationErrorKind::MinItems { limit } => body(format!("should have at least {limit} items")),
        ValidationErrorKind::MaxProperties { limit } => {
            let count = value.as_object().map_or(0, Map::len);
            sized(format!("Too many: {count}: must have at most {limit} items"), "FieldValueTooMany")
        }
        ValidationErrorKind::MinProperties { limit } => {
            body(format!("should have at least {limit} properties"))
        }
        ValidationErrorKind::UniqueItems => body("shouldn't contain duplicates".into()),
        ValidationErrorKind::MultipleOf { multiple_of } => {
            body(format!("should be a multiple of {multiple_of}"))
        }
        ValidationErrorKind::AnyOf { .. } => body("must validate at least one schema (anyOf)".into()),
        ValidationErrorKind::OneOfMultipleValid { .. } | ValidationErrorKind::OneOfNotValid { .. } => {
            body("must validate one and only one schema (oneOf)".into())
        }
        ValidationErrorKind::Not { .. } => body("must not validate the schema (not)".into()),
        _ => Cause::invalid(&field, value, error),
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// `spec` and `/env/0/name` make `spec.env[0].name`.
fn field_path(root: &str, pointer: &str) -> String {
    let mut path = root.to_owned();
    for part in pointer.split('/').skip(1) {
        let part = part.replace("~1", "/").replace("~0", "~");
        if part.parse::<usize>().is_ok() {
            path.push_str(&format!("[{part}]"));
        } else {
            path.push('.');
            path.push_str(&part);
        }
    }
    path
}
