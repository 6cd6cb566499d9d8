//! OpenAPI v3, as far as kubectl reads it: the schemas of the custom kinds (`kubectl explain`), and
//! for every kind a patch operation that takes `fieldValidation`, so that kubectl leaves the
//! validation to this API.

use serde_json::{Map, Value, json};

use crate::kinds::{Kind, Kinds};

/// `/openapi/v3`: where the document of each group version is.
pub fn index(kinds: &Kinds) -> Value {
    let paths: Map<_, _> = kinds
        .group_versions()
        .into_iter()
        .map(|(group, version)| {
            let path =
                if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
            let link = json!({"serverRelativeURL": format!("/openapi/v3/{path}")});
            (path, link)
        })
        .collect();
    json!({"paths": paths})
}

/// `/openapi/v3/apis/GROUP/VERSION`.
pub fn document(kinds: &Kinds, group: &str, version: &str) -> Option<Value> {
    let found = kinds.of_group(group, version);
    if found.is_empty() {
        return None;
    }
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for kind in found {
        let name = component(kind, group);
        let gvk = json!({"group": group, "version": version, "kind": kind.kind});
        let mut schema = match &kind.schema {
            Some(schema) => schema.raw().clone(),
            None => json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
        };
        schema["x-kubernetes-group-version-kind"] = json!([gvk]);
        schemas.insert(name.clone(), schema);
        let root =
            if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        let namespace = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
        let answer = json!({"200": {"description": "OK", "content": {"application/json": {
            "schema": {"$ref": format!("#/components/schemas/{name}")}}}}});
        let query = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string"}});
        paths.insert(
            format!("{root}{namespace}/{}/{{name}}", kind.plural),
            json!({
                "get": {"x-kubernetes-action": "get", "x-kubernetes-group-version-kind": gvk, "responses": answer},
                "patch": {
                    "x-kubernetes-action": "patch", "x-kubernetes-group-version-kind": gvk,
                    "parameters": [query("dryRun"), query("fieldManager"), query("fieldValidation")],
                    "requestBody": {"content": {
                        "application/apply-patch+yaml": {}, "application/json-patch+json": {},
                        "application/merge-patch+json": {},
                    }},
                    "responses": answer,
                },
            }),
        );
    }
    Some(json!({
        "openapi": "3.0.0", "info": {"title": "kruntimes local", "version": "v1"},
        "paths": paths, "components": {"schemas": schemas},
    }))
}

/// `io.kruntimes.v1alpha1.Run`.
fn component(kind: &Kind, group: &str) -> String {
    let mut words: Vec<_> = if group.is_empty() { vec!["core", "io"] } else { group.split('.').collect() };
    words.reverse();
    format!("{}.{}.{}", words.join("."), kind.version, kind.kind)
}
