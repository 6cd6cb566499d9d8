//! A kind from its CustomResourceDefinition.

use serde_json::Value;

use super::{Column, Kind, ScalePaths};
use crate::object::{list, text};
use crate::schema::{Schema, SchemaError};

/// Why a CRD cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum CrdError {
    #[error("CustomResourceDefinition {name:?} has no {field}")]
    Missing { name: String, field: &'static str },
    #[error("CustomResourceDefinition {name:?}: {source}")]
    Schema { name: String, source: SchemaError },
}

/// The kind that `crd` defines, in its storage version.
///
/// # Errors
/// When a needed field is missing, or the schema or its rules do not compile.
pub fn from_crd(crd: &Value) -> Result<Kind, CrdError> {
    let name = text(crd, "/metadata/name").to_owned();
    let need = |pointer: &str, field: &'static str| match text(crd, pointer) {
        "" => Err(CrdError::Missing { name: name.clone(), field }),
        found => Ok(found.to_owned()),
    };
    let version = list(crd, "/spec/versions")
        .iter()
        .find(|v| v["storage"] == true && v["served"] != false)
        .ok_or_else(|| CrdError::Missing { name: name.clone(), field: "served storage version" })?;
    let kind = need("/spec/names/kind", "spec.names.kind")?;
    let group = need("/spec/group", "spec.group")?;
    let schema = version
        .pointer("/schema/openAPIV3Schema")
        .ok_or_else(|| CrdError::Missing { name: name.clone(), field: "schema.openAPIV3Schema" })?;
    let schema = Schema::compile(schema).map_err(|source| CrdError::Schema { name: name.clone(), source })?;
    let words =
        |pointer: &str| list(crd, pointer).iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let scale = version.pointer("/subresources/scale").map(|scale| ScalePaths {
        spec_replicas: path(text(scale, "/specReplicasPath")),
        status_replicas: path(text(scale, "/statusReplicasPath")),
        selector: scale.get("labelSelectorPath").and_then(Value::as_str).map(path),
    });
    Ok(Kind {
        id: 0,
        version: text(version, "/name").to_owned(),
        plural: need("/spec/names/plural", "spec.names.plural")?,
        singular: match text(crd, "/spec/names/singular") {
            "" => kind.to_lowercase(),
            singular => singular.to_owned(),
        },
        short_names: words("/spec/names/shortNames"),
        categories: words("/spec/names/categories"),
        namespaced: text(crd, "/spec/scope") != "Cluster",
        status: version.pointer("/subresources/status").is_some(),
        scale,
        columns: columns(version),
        selectable: list(version, "/selectableFields")
            .iter()
            .map(|f| text(f, "/jsonPath").trim_start_matches('.').to_owned())
            .collect(),
        schema: Some(schema),
        decodes: None,
        generation: true,
        writable: true,
        kind,
        group,
    })
}

fn path(dotted: &str) -> Vec<String> {
    dotted.trim_start_matches('.').split('.').map(str::to_owned).collect()
}

fn columns(version: &Value) -> Vec<Column> {
    let mut columns = vec![Column {
        name: "Name".into(),
        kind: "string".into(),
        description: "Name of the object".into(),
        priority: 0,
        path: ".metadata.name".into(),
    }];
    columns.extend(list(version, "/additionalPrinterColumns").iter().map(|c| Column {
        name: text(c, "/name").into(),
        kind: text(c, "/type").into(),
        description: text(c, "/description").into(),
        priority: c["priority"].as_i64().unwrap_or_default(),
        path: text(c, "/jsonPath").into(),
    }));
    if columns.len() == 1 {
        columns.push(Column {
            name: "Age".into(),
            kind: "date".into(),
            description: String::new(),
            priority: 0,
            path: ".metadata.creationTimestamp".into(),
        });
    }
    columns
}
