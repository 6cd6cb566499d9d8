//! The CustomResourceDefinitions, and schema pieces that the types share.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube_core::CustomResourceExt;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde_json::{Value, json};

use crate::{Run, Runtime, RuntimeInstance, rules};

/// The three definitions, with every rule of [`rules`] in place.
///
/// # Errors
/// Only when rules belong to a field that the schema does not have: a bug that the tests of this crate catch.
pub fn all() -> Result<Vec<CustomResourceDefinition>, serde_json::Error> {
    [
        definition(&Run::crd(), rules::run()),
        definition(&Runtime::crd(), rules::runtime()),
        definition(&RuntimeInstance::crd(), Vec::new()),
    ]
    .into_iter()
    .collect()
}

fn definition(
    crd: &CustomResourceDefinition,
    rules: Vec<rules::Placed>,
) -> Result<CustomResourceDefinition, serde_json::Error> {
    let mut value = serde_json::to_value(crd)?;
    let schema = &mut value["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    tidy(schema);
    for (at, rules) in rules {
        let node = schema.pointer_mut(&at).and_then(Value::as_object_mut);
        let node = node.ok_or_else(|| serde_json::Error::custom(format!("no {at} for its rules")))?;
        node.insert("x-kubernetes-validations".into(), serde_json::to_value(rules)?);
    }
    serde_json::from_value(value)
}

/// Drops what JSON Schema generators add and Kubernetes has no use for.
fn tidy(node: &mut Value) {
    match node {
        Value::Object(map) => {
            if let Some(Value::String(format)) = map.get("format")
                && matches!(format.as_str(), "uint" | "uint8" | "uint16" | "uint32" | "uint64")
            {
                map.remove("format");
            }
            // An absent field is absent: null is no second way to say it.
            map.remove("nullable");
            // The default of a field must not depend on how a Rust struct is built.
            if map
                .get("default")
                .is_some_and(|d| d.is_null() || d == &json!([]) || d == &json!({}) || d == "")
            {
                map.remove("default");
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// An object whose content is not described here.
pub fn preserved_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// A volume source: one member, of a kind that is not described here.
pub fn volume_source(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "maxProperties": 1, "x-kubernetes-preserve-unknown-fields": true})
}

/// Entries of a map of quantities that a rule compares one by one.
pub const FEW: u32 = 7;

/// Entries of a map of quantities.
pub const NAMES: u32 = 32;

/// Resource name to quantity, at most [`NAMES`] entries.
pub fn quantities(_: &mut SchemaGenerator) -> Schema {
    quantities_up_to(NAMES)
}

/// Resource name to quantity, at most [`FEW`] entries.
pub fn few_quantities(_: &mut SchemaGenerator) -> Schema {
    quantities_up_to(FEW)
}

fn quantities_up_to(entries: u32) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": entries,
        "additionalProperties": {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": true,
            "maxLength": 64,
            "pattern": r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$",
        },
    })
}

/// Strings by name.
pub fn bounded_map(entries: u32, value_length: u32) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": entries,
        "additionalProperties": {"type": "string", "maxLength": value_length},
    })
}

/// `metav1.Condition` list-map by type, at most 16.
pub fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": {"type": "string", "maxLength": 316},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
                "lastTransitionTime": {"type": "string", "format": "date-time"},
                "reason": {"type": "string", "minLength": 1, "maxLength": 1024},
                "message": {"type": "string", "maxLength": 32768},
            },
        },
    })
}

/// A non-empty label selector, bounded.
pub fn label_selector(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "properties": {
            "matchLabels": {
                "type": "object",
                "maxProperties": 32,
                "additionalProperties": {"type": "string", "maxLength": 63},
            },
            "matchExpressions": {
                "type": "array",
                "maxItems": 32,
                "x-kubernetes-list-type": "atomic",
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": {"type": "string", "maxLength": 316},
                        "operator": {"type": "string", "enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
                        "values": {
                            "type": "array",
                            "maxItems": 64,
                            "x-kubernetes-list-type": "atomic",
                            "items": {"type": "string", "maxLength": 63},
                        },
                    },
                },
            },
        },
        "x-kubernetes-validations": [{
            "rule": "(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)",
            "message": "labelSelector must name at least one label",
        }],
    })
}

/// A PodTemplateSpec: an object with the few rules that matter here.
pub fn pod_template(_: &mut SchemaGenerator) -> Schema {
    let objects = json!({
        "type": "array",
        "maxItems": 64,
        "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    });
    json_schema!({
        "type": "object",
        "required": ["spec"],
        "x-kubernetes-preserve-unknown-fields": true,
        "properties": {
            "metadata": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "spec": {
                "type": "object",
                "required": ["containers"],
                "x-kubernetes-preserve-unknown-fields": true,
                "properties": {
                    "restartPolicy": {"type": "string", "maxLength": 32},
                    "serviceAccountName": {"type": "string", "maxLength": 253},
                    "automountServiceAccountToken": {"type": "boolean"},
                    "shareProcessNamespace": {"type": "boolean"},
                    "hostPID": {"type": "boolean"},
                    "volumes": objects,
                    "initContainers": objects,
                    "ephemeralContainers": {
                        "type": "array", "maxItems": 0,
                        "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                    },
                    "containers": {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": 32,
                        "items": {
                            "type": "object",
                            "required": ["name"],
                            "x-kubernetes-preserve-unknown-fields": true,
                            "properties": {
                                "name": {"type": "string", "minLength": 1, "maxLength": 63},
                                "image": {"type": "string", "maxLength": 2048},
                                "volumeMounts": objects,
                            },
                        },
                    },
                },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The API server refuses a CRD whose rule points at a field the schema lacks.
    #[test]
    fn every_rule_names_a_field_of_the_schema() {
        for crd in all().unwrap() {
            let value = serde_json::to_value(&crd).unwrap();
            check_fields(&value["spec"]["versions"][0]["schema"]["openAPIV3Schema"]);
        }
    }

    fn check_fields(node: &Value) {
        for rule in node["x-kubernetes-validations"].as_array().into_iter().flatten() {
            let path = rule["fieldPath"].as_str().unwrap_or_default();
            let mut steps = path.split('.').filter(|step| !step.is_empty());
            let field = steps.try_fold(node, |node, step| node["properties"].get(step));
            assert!(field.is_some(), "{path}: {}", rule["message"]);
        }
        let properties = node["properties"].as_object().into_iter().flat_map(|all| all.values());
        properties.chain(node.get("items")).for_each(check_fields);
    }

    #[test]
    fn selectable_fields_and_subresources_are_there() {
        let crds = serde_json::to_value(all().unwrap()).unwrap();
        let run = &crds[0]["spec"]["versions"][0];
        assert_eq!(
            run["selectableFields"],
            json!([{"jsonPath": ".spec.runtime"}, {"jsonPath": ".status.phase"}, {"jsonPath": ".status.assignedPod"}])
        );
        assert_eq!(
            crds[1]["spec"]["versions"][0]["subresources"]["scale"]["labelSelectorPath"],
            ".status.selector"
        );
    }
}
