use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::kinds::Kinds;

fn kinds() -> Kinds {
    let crds = crate::platform::read_documents(include_str!("../../../tests/data/crds.yaml")).unwrap();
    Kinds::new(&crds).unwrap()
}

fn pods() -> Arc<Kind> {
    Arc::clone(kinds().core("pods"))
}

fn widgets() -> Arc<Kind> {
    Arc::clone(kinds().find("example.test", "v1", "widgets").unwrap())
}

fn strategic(old: Value, patch: Value) -> Value {
    Patch::Strategic(patch).apply_to(&pods(), &old, "").unwrap()
}

#[test]
fn content_types_choose_the_patch() {
    let parse = |kind: &str, body: &str| Patch::parse(kind, body.as_bytes());
    assert!(matches!(parse("application/merge-patch+json; charset=utf-8", "{}"), Ok(Patch::Merge(_))));
    assert!(matches!(parse("application/json-patch+json", "[]"), Ok(Patch::Json(_))));
    assert!(matches!(parse("application/apply-patch+yaml", "a: b"), Ok(Patch::Apply(_))));
    assert!(matches!(parse("application/json", "{}"), Err(ApiError::UnsupportedMediaType(_))));
    assert!(matches!(parse("application/merge-patch+json", "{"), Err(ApiError::BadRequest(_))));
    let strategic = Patch::Strategic(json!({})).apply_to(&widgets(), &json!({}), "");
    assert!(
        matches!(strategic, Err(ApiError::UnsupportedMediaType(_))),
        "custom kinds have no strategic merge"
    );
}

#[test]
fn conditions_merge_by_type() {
    let old = json!({"status": {"conditions": [{"type": "A", "status": "True"}, {"type": "B", "status": "False", "reason": "x"}]}});
    let new = strategic(
        old,
        json!({"status": {"conditions": [{"type": "B", "status": "True"}, {"type": "C", "status": "True"}]}}),
    );
    assert_eq!(
        new["status"]["conditions"],
        json!([{"type": "A", "status": "True"}, {"type": "B", "status": "True", "reason": "x"}, {"type": "C", "status": "True"}])
    );
}

#[test]
fn strategic_directives_are_obeyed() {
    let old = json!({"metadata": {"finalizers": ["a", "b"]}, "spec": {"containers": [{"name": "x", "image": "1"}, {"name": "y", "args": ["1", "2"]}], "nodeSelector": {"a": "b"}}});
    let patch = json!({
        "metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]},
        "spec": {
            "$setElementOrder/containers": [{"name": "z"}, {"name": "y"}],
            "containers": [{"name": "x", "$patch": "delete"}, {"name": "y", "args": ["3"]}, {"name": "z", "image": "2", "env": null}],
            "nodeSelector": {"$patch": "replace", "c": "d"},
        },
    });
    assert_eq!(
        strategic(old, patch),
        json!({"metadata": {"finalizers": ["b"]}, "spec": {"containers": [{"name": "z", "image": "2"}, {"name": "y", "args": ["3"]}], "nodeSelector": {"c": "d"}}})
    );
}

#[test]
fn json_patches_that_do_not_fit_are_refused() {
    let patch: json_patch::Patch =
        serde_json::from_value(json!([{"op": "test", "path": "/a", "value": 2}])).unwrap();
    let refused = Patch::Json(patch).apply_to(&pods(), &json!({"a": 1}), "");
    assert!(matches!(refused, Err(ApiError::Invalid { .. })));
}

fn apply_as(manager: &str, old: &Value, config: Value) -> Value {
    Patch::Apply(config).apply_to(&widgets(), old, manager).unwrap()
}

#[test]
fn apply_merges_and_removes_what_its_manager_no_longer_names() {
    let first = created_by_apply(
        &widgets(),
        &json!({"spec": {"color": "red", "labels": {"a": "1", "b": "2"}, "env": [{"name": "X", "value": "1"}, {"name": "Y"}]}}),
        "me",
    );
    let mut object = first;
    object["spec"]["replicas"] = json!(3);
    let object = apply_as(
        "me",
        &object,
        json!({"spec": {"color": "red", "labels": {"a": "9"}, "env": [{"name": "Y", "value": "2"}]}}),
    );
    assert_eq!(
        object["spec"],
        json!({"color": "red", "labels": {"a": "9"}, "env": [{"name": "Y", "value": "2"}], "replicas": 3})
    );
}

#[test]
fn apply_leaves_what_another_manager_applied() {
    let object = created_by_apply(&widgets(), &json!({"spec": {"color": "red", "labels": {"a": "1"}}}), "me");
    let object = apply_as("you", &object, json!({"spec": {"labels": {"a": "1"}, "env": [{"name": "Z"}]}}));
    let object = apply_as("me", &object, json!({"spec": {"color": "red"}}));
    assert_eq!(object["spec"], json!({"color": "red", "labels": {"a": "1"}, "env": [{"name": "Z"}]}));
    let object = apply_as("you", &object, json!({"spec": {}}));
    assert_eq!(object["spec"], json!({"color": "red"}));
}

#[test]
fn applying_the_same_again_changes_nothing() {
    let config = json!({"metadata": {"name": "w", "labels": {"l": "1"}}, "spec": {"color": "red", "tags": ["a", "b"], "free": {"x": [{"y": 1}]}}});
    let object = created_by_apply(&widgets(), &config, "me");
    assert_eq!(apply_as("me", &object, config), object);
}
