//! The patches: merge (RFC 7386), JSON (RFC 6902), strategic merge, and apply.

mod fields;
mod lists;
mod strategic;
#[cfg(test)]
mod tests;

use serde_json::{Value, json};

use super::errors::{ApiError, Cause};
use crate::kinds::Kind;
use crate::object::{map_of, metadata};

pub use fields::field_set;
pub use lists::Structure;

/// A patch as it came in.
#[derive(Debug, Clone)]
pub enum Patch {
    Merge(Value),
    Json(json_patch::Patch),
    Strategic(Value),
    Apply(Value),
}

impl Patch {
    /// Reads a body by its content type.
    ///
    /// # Errors
    /// When the type is none of the four or the body does not parse.
    pub fn parse(content_type: &str, body: &[u8]) -> Result<Self, ApiError> {
        let bad = |e: &dyn std::fmt::Display| ApiError::BadRequest(format!("the patch does not parse: {e}"));
        let as_json = || serde_json::from_slice::<Value>(body).map_err(|e| bad(&e));
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/merge-patch+json" => Ok(Self::Merge(as_json()?)),
            "application/json-patch+json" => {
                Ok(Self::Json(serde_json::from_slice(body).map_err(|e| bad(&e))?))
            }
            "application/strategic-merge-patch+json" => Ok(Self::Strategic(as_json()?)),
            "application/apply-patch+yaml" => {
                Ok(Self::Apply(serde_yaml::from_slice::<Value>(body).map_err(|e| bad(&e))?))
            }
            _ => Err(ApiError::UnsupportedMediaType(
                "application/json-patch+json, application/merge-patch+json, \
                 application/strategic-merge-patch+json, application/apply-patch+yaml",
            )),
        }
    }

    /// The object that a patch of this kind makes of `old`.
    ///
    /// # Errors
    /// When the patch does not fit the object, or its form the kind.
    pub fn apply_to(&self, kind: &Kind, old: &Value, manager: &str) -> Result<Value, ApiError> {
        let mut new = old.clone();
        match self {
            Self::Merge(patch) => json_patch::merge(&mut new, patch),
            Self::Json(patch) => json_patch::patch(&mut new, patch).map_err(|e| ApiError::Invalid {
                kind: kind.qualified(),
                name: crate::object::name(old).to_owned(),
                causes: vec![Cause::invalid("patch", &json!(e.path.to_string()), &e.kind)],
            })?,
            Self::Strategic(_) if kind.custom() => {
                return Err(ApiError::UnsupportedMediaType(
                    "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
                ));
            }
            Self::Strategic(patch) => strategic::merge(&mut new, patch, &Structure::of(kind), ""),
            Self::Apply(patch) => apply(kind, &mut new, patch, manager),
        }
        Ok(new)
    }
}

/// Apply without conflicts: what this manager applied before and names no longer is removed, unless
/// another manager applied it too; the rest is merged in.
fn apply(kind: &Kind, object: &mut Value, config: &Value, manager: &str) {
    let structure = Structure::of(kind);
    let before = applied_by(object, |m| m == manager);
    let others = applied_by(object, |m| m != manager);
    let now = field_set(config, &structure);
    for old in &before {
        fields::remove_missing(object, old, &now, &others.iter().collect::<Vec<_>>(), &structure);
    }
    lists::merge(object, config, &structure);
    remember(kind, object, manager, now);
}

fn applied_by(object: &Value, wanted: impl Fn(&str) -> bool) -> Vec<Value> {
    crate::object::list(object, "/metadata/managedFields")
        .iter()
        .filter(|f| f["operation"] == "Apply" && wanted(crate::object::text(f, "/manager")))
        .map(|f| f["fieldsV1"].clone())
        .collect()
}

/// Records in `metadata.managedFields` what `manager` applied.
pub fn remember(kind: &Kind, object: &mut Value, manager: &str, fields: Value) {
    let list = metadata(object).entry("managedFields").or_insert_with(|| json!([]));
    let Some(list) = list.as_array_mut() else { return };
    let position = list.iter().position(|f| f["manager"] == manager && f["operation"] == "Apply");
    if let Some(at) = position
        && list[at]["fieldsV1"] == fields
    {
        return;
    }
    let record = json!({
        "manager": manager, "operation": "Apply", "apiVersion": kind.api_version(),
        "time": crate::object::now(), "fieldsType": "FieldsV1", "fieldsV1": fields,
    });
    match position {
        Some(at) => list[at] = record,
        None => list.push(record),
    }
}

/// A first apply makes the object: the configuration without what only patches carry.
pub fn created_by_apply(kind: &Kind, config: &Value, manager: &str) -> Value {
    let mut object = config.clone();
    map_of(metadata(&mut object).entry("managedFields").or_insert(Value::Null)).clear();
    metadata(&mut object).remove("managedFields");
    remember(kind, &mut object, manager, field_set(config, &Structure::of(kind)));
    object
}
