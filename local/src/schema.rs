//! Defaulting, pruning and validation of custom objects by their structural schema.
//!
//! Keywords are checked by `jsonschema`, rules by `kube-cel`; the messages are worded as the
//! API server words them. A part of the object that an update leaves alone is not checked again
//! (as the API server's ratcheting does), which keeps status writes cheap.

mod keywords;
mod structure;
#[cfg(test)]
mod tests;

use jsonschema::PatternOptions;
use kube_cel::{CompiledSchema, ErrorKind, SchemaFormat, compile_schema, validate_compiled};
use serde_json::{Map, Value, json};

use crate::api::errors::Cause;
use structure::list_map_causes;

/// Why a schema cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error("the schema does not compile: {0}")]
    Keywords(String),
    #[error("a rule at {path:?} does not compile: {why}")]
    Rule { path: String, why: String },
}

/// One top-level property (`spec`, `status`), compiled apart from the others.
#[derive(Debug)]
struct Part {
    name: String,
    schema: Value,
    keywords: jsonschema::Validator,
    rules: CompiledSchema,
}

/// A compiled structural schema.
#[derive(Debug)]
pub struct Schema {
    raw: Value,
    parts: Vec<Part>,
    required: Vec<String>,
    /// The rules at the root alone, if there are any.
    root: Option<CompiledSchema>,
}

impl Schema {
    /// Compiles the `openAPIV3Schema` of a CRD version.
    ///
    /// # Errors
    /// When a keyword or a rule does not compile.
    pub fn compile(raw: &Value) -> Result<Self, SchemaError> {
        let empty = Map::new();
        let properties = raw["properties"].as_object().unwrap_or(&empty);
        let mut parts = Vec::new();
        for (name, schema) in properties {
            if matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                continue;
            }
            let keywords = jsonschema::draft202012::options()
                .with_pattern_options(PatternOptions::regex())
                .should_validate_formats(false)
                .build(&keywords::json_schema(schema))
                .map_err(|e| SchemaError::Keywords(e.to_string()))?;
            let mut rules = compile_schema(schema);
            check_rules(name, &rules)?;
            trim(&mut rules);
            parts.push(Part { name: name.clone(), schema: schema.clone(), keywords, rules });
        }
        let root = raw.get("x-kubernetes-validations").map(|_| {
            let mut root = raw.clone();
            for (_, schema) in crate::object::map_at(&mut root, "properties") {
                structure::strip_rules(schema);
            }
            let mut root = compile_schema(&root);
            trim(&mut root);
            root
        });
        if let Some(root) = &root {
            check_rules("", root)?;
        }
        let required = raw["required"].as_array().into_iter().flatten();
        let required = required.filter_map(Value::as_str).map(str::to_owned).collect();
        Ok(Self { raw: raw.clone(), parts, required, root })
    }

    /// The schema as it stands in the CRD.
    pub fn raw(&self) -> &Value {
        &self.raw
    }

    /// Removes what the schema does not know and answers the paths of what was removed.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        let mut removed = Vec::new();
        structure::prune(&self.raw, object, "", true, &mut removed);
        removed
    }

    /// Fills in the defaults of absent fields (and of null ones that may not be null).
    pub fn default(&self, object: &mut Value) {
        structure::drop_nulls(&self.raw, object);
        structure::default(&self.raw, object);
    }

    /// Everything that is wrong with `object`; rules run only when the keywords hold.
    pub fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<Cause> {
        let mut causes = Vec::new();
        for name in &self.required {
            if object.get(name).is_none_or(Value::is_null) {
                causes.push(Cause::required(name, ""));
            }
        }
        let changed: Vec<_> = self
            .parts
            .iter()
            .filter_map(|part| Some((part, object.get(&part.name)?, old.and_then(|o| o.get(&part.name)))))
            .filter(|(_, value, old)| Some(*value) != *old)
            .collect();
        for (part, value, _) in &changed {
            causes.extend(keywords::causes(&part.name, part.keywords.iter_errors(value)));
            list_map_causes(&part.schema, value, &part.name, &mut causes);
        }
        if !causes.is_empty() {
            return causes;
        }
        for (part, value, old) in &changed {
            causes.extend(rule_causes(&part.rules, &part.name, value, *old));
        }
        if let Some(root) = &self.root {
            causes.extend(rule_causes(root, "", object, old));
        }
        causes
    }
}

/// A rule that does not compile would refuse every object: better say so at the start.
fn check_rules(path: &str, schema: &CompiledSchema) -> Result<(), SchemaError> {
    if let Some(error) = schema.compilation_errors().first() {
        return Err(SchemaError::Rule { path: path.to_owned(), why: error.to_string() });
    }
    for (name, child) in &schema.properties {
        check_rules(&format!("{path}.{name}"), child)?;
    }
    let nested = schema.items.iter().chain(&schema.additional_properties);
    for child in nested {
        check_rules(&format!("{path}[*]"), child)?;
    }
    Ok(())
}

/// Drops the parts of a compiled tree that have no rules and that convert to CEL as plain JSON does:
/// every node that stays is converted and visited anew for each object. Defaults are applied before.
fn trim(schema: &mut CompiledSchema) -> bool {
    schema.properties.retain(|_, child| trim(child));
    for child in [&mut schema.items, &mut schema.additional_properties] {
        if child.as_mut().is_some_and(|c| !trim(c)) {
            *child = None;
        }
    }
    for branches in [&mut schema.all_of, &mut schema.one_of, &mut schema.any_of] {
        branches.retain_mut(trim);
    }
    let plain = matches!(schema.format, SchemaFormat::None | SchemaFormat::IntOrString);
    !plain
        || schema.is_map
        || schema.embedded_resource
        || !schema.validations.is_empty()
        || !schema.properties.is_empty()
        || schema.items.is_some()
        || !(schema.all_of.is_empty() && schema.one_of.is_empty() && schema.any_of.is_empty())
}

fn rule_causes(rules: &CompiledSchema, prefix: &str, value: &Value, old: Option<&Value>) -> Vec<Cause> {
    let Err(errors) = validate_compiled(rules, value, old) else { return Vec::new() };
    errors
        .into_iter()
        .map(|error| {
            let field = match (prefix, error.field_path.as_str()) {
                ("", path) => path.trim_start_matches('.').to_owned(),
                (prefix, "") => prefix.to_owned(),
                (prefix, path) if path.starts_with(['[', '.']) => format!("{prefix}{path}"),
                (prefix, path) => format!("{prefix}.{path}"),
            };
            let message = match error.kind {
                ErrorKind::ValidationFailure => error.message.clone(),
                _ => format!("rule {:?}: {}", error.rule, error.message),
            };
            match error.reason.as_deref() {
                Some("FieldValueForbidden") => Cause::forbidden(&field, &message),
                Some("FieldValueRequired") => Cause::required(&field, &message),
                _ => {
                    let at = structure::at_path(value, &error.field_path);
                    Cause::invalid(&field, at.unwrap_or(&json!({})), message)
                }
            }
        })
        .collect()
}
