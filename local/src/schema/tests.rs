use serde_json::json;

use super::*;

fn widget() -> Schema {
    let crds = crate::platform::read_documents(include_str!("../../tests/data/crds.yaml")).unwrap();
    Schema::compile(&crds[0]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]).unwrap()
}

fn texts(schema: &Schema, object: &Value, old: Option<&Value>) -> Vec<String> {
    schema.validate(object, old).iter().map(Cause::to_string).collect()
}

#[test]
fn messages_name_the_field_as_the_api_server_does() {
    let schema = widget();
    for (spec, wanted) in [
        (json!({}), "spec.color: Required value"),
        (
            json!({"color": ""}),
            "spec.color: Invalid value: \"\": spec.color in body should be at least 1 chars long",
        ),
        (
            json!({"color": "RED"}),
            "spec.color: Invalid value: \"RED\": spec.color in body should match '^[a-z]+$'",
        ),
        (json!({"color": "r".repeat(64)}), "spec.color: Too long: may not be more than 63 bytes"),
        (
            json!({"color": "red", "size": "huge"}),
            "spec.size: Unsupported value: \"huge\": supported values: \"small\", \"large\"",
        ),
        (
            json!({"color": "red", "replicas": 101}),
            "spec.replicas: Invalid value: 101: spec.replicas in body should be less than or equal to 100",
        ),
        (
            json!({"color": "red", "replicas": "x"}),
            "spec.replicas: Invalid value: \"string\": spec.replicas in body must be of type integer: \"string\"",
        ),
        (
            json!({"color": "red", "amount": true}),
            "spec.amount: Invalid value: \"boolean\": spec.amount in body must be of type integer or string: \"boolean\"",
        ),
        (
            json!({"color": "red", "tags": ["1", "2", "3", "4", "5"]}),
            "spec.tags: Too many: 5: must have at most 4 items",
        ),
        (
            json!({"color": "red", "labels": {"a": "", "b": "", "c": ""}}),
            "spec.labels: Too many: 3: must have at most 2 items",
        ),
        (json!({"color": "red", "env": [{"value": "x"}]}), "spec.env[0].name: Required value"),
        (
            json!({"color": "red", "env": [{"name": "a"}, {"name": "a"}]}),
            "spec.env[1]: Duplicate value: {\"name\":\"a\"}",
        ),
        (
            json!({"color": "red", "max": 2, "replicas": 3}),
            "spec.replicas: Invalid value: 3: at most 2 replicas",
        ),
    ] {
        assert_eq!(texts(&schema, &json!({"spec": spec}), None), [wanted], "{spec}");
    }
    assert_eq!(texts(&schema, &json!({}), None), ["spec: Required value"]);
    let fine = json!({"spec": {"color": "red", "amount": "1Gi", "note": null, "free": {"x": [1]}}});
    assert!(texts(&schema, &fine, None).is_empty());
}

#[test]
fn transition_rules_see_the_old_object() {
    let schema = widget();
    let old = json!({"spec": {"color": "red"}, "status": {"phase": "Done"}});
    let repainted = json!({"spec": {"color": "blue"}, "status": {"phase": "Done"}});
    assert_eq!(
        texts(&schema, &repainted, Some(&old)),
        ["spec.color: Invalid value: \"blue\": color is immutable"]
    );
    assert!(texts(&schema, &repainted, None).is_empty());
    let reopened = json!({"spec": {"color": "red"}, "status": {"phase": "Working"}});
    assert_eq!(
        texts(&schema, &reopened, Some(&old)),
        ["status.phase: Invalid value: \"Working\": status.phase is final"]
    );
}

#[test]
fn what_an_update_leaves_alone_is_not_checked_again() {
    let schema = widget();
    let old = json!({"spec": {"color": "OLD RULES"}, "status": {}});
    let new = json!({"spec": {"color": "OLD RULES"}, "status": {"phase": "Working"}});
    assert!(texts(&schema, &new, Some(&old)).is_empty());
}

#[test]
fn unknown_fields_go_and_defaults_come() {
    let schema = widget();
    let mut object = json!({
        "kind": "Widget", "metadata": {"anything": 1}, "bogus": 1,
        "spec": {"color": "red", "size": null, "note": null, "extra": 1, "free": {"x": 1}, "labels": {"k": "v"},
                 "env": [{"name": "a", "other": 1}]},
    });
    assert_eq!(schema.prune(&mut object), ["bogus", "spec.env[0].other", "spec.extra"]);
    schema.default(&mut object);
    assert_eq!(
        object["spec"],
        json!({"color": "red", "size": "small", "note": null, "replicas": 1, "free": {"x": 1}, "labels": {"k": "v"},
               "env": [{"name": "a"}]})
    );
}

#[test]
fn a_rule_that_does_not_compile_is_found_at_the_start() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "a": {"type": "string", "x-kubernetes-validations": [{"rule": "self.("}]}}}}});
    assert!(matches!(Schema::compile(&schema), Err(SchemaError::Rule { path, .. }) if path == "spec.a"));
}
