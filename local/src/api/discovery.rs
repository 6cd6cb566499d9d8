//! What clients ask before they ask for objects: versions, groups and resources.

use serde_json::{Value, json};

use crate::kinds::{Kind, Kinds};

/// The Kubernetes version whose behaviour this API follows.
pub const KUBERNETES: (&str, &str) = ("1", "35");

pub fn version() -> Value {
    let (major, minor) = KUBERNETES;
    json!({
        "major": major, "minor": minor, "gitVersion": format!("v{major}.{minor}.0+kruntimes-local"),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "", "goVersion": "",
        "compiler": "", "platform": format!("linux/{}", std::env::consts::ARCH),
    })
}

pub fn core_versions() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
}

/// Groups that hold only reviews.
const REVIEWS: [(&str, &str); 2] =
    [("authorization.k8s.io", "selfsubjectaccessreviews"), ("authentication.k8s.io", "selfsubjectreviews")];

/// The `/apis` list.
pub fn groups(kinds: &Kinds) -> Value {
    let mut groups: Vec<_> = kinds.group_versions().into_iter().filter(|(g, _)| !g.is_empty()).collect();
    groups.extend(REVIEWS.iter().map(|(group, _)| ((*group).to_owned(), "v1".to_owned())));
    let groups: Vec<_> = groups.iter().map(|(group, version)| group_of(group, version)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// One group, `/apis/GROUP`; every group has one version.
pub fn group(kinds: &Kinds, name: &str) -> Option<Value> {
    let found = kinds.group_versions().into_iter().find(|(g, _)| g == name)?;
    let mut group = group_of(&found.0, &found.1);
    group["kind"] = json!("APIGroup");
    group["apiVersion"] = json!("v1");
    Some(group)
}

fn group_of(group: &str, version: &str) -> Value {
    let version = json!({"groupVersion": format!("{group}/{version}"), "version": version});
    json!({"name": group, "versions": [version], "preferredVersion": version})
}

/// The resources of one group version.
pub fn resources(kinds: &Kinds, group: &str, version: &str) -> Option<Value> {
    let mut list: Vec<Value> = Vec::new();
    for kind in kinds.of_group(group, version) {
        resource(kind, group, &mut list);
    }
    if let Some((_, name)) = REVIEWS.iter().find(|(g, _)| *g == group && version == "v1") {
        let kind = if name.contains("access") { "SelfSubjectAccessReview" } else { "SelfSubjectReview" };
        list.push(json!({
            "name": name, "singularName": kind.to_lowercase(), "namespaced": false, "kind": kind, "verbs": ["create"],
        }));
    }
    if list.is_empty() {
        return None;
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list}),
    )
}

fn resource(kind: &Kind, group: &str, list: &mut Vec<Value>) {
    let reads = ["get", "list", "watch"];
    let writes = ["create", "delete", "deletecollection", "patch", "update"];
    let verbs: Vec<_> = reads.iter().chain(writes.iter().filter(|_| kind.writable)).collect();
    let mut entry = json!({
        "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind,
        "verbs": verbs,
    });
    if !kind.short_names.is_empty() {
        entry["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        entry["categories"] = json!(kind.categories);
    }
    list.push(entry);
    let mut sub = |name: &str, kind_name: &str, verbs: &[&str]| {
        list.push(json!({
            "name": format!("{}/{name}", kind.plural), "singularName": "", "namespaced": kind.namespaced,
            "kind": kind_name, "verbs": verbs,
        }));
    };
    if kind.status {
        sub("status", &kind.kind, &["get", "patch", "update"]);
    }
    if kind.scale.is_some() {
        sub("scale", "Scale", &["get", "patch", "update"]);
        if let Some(Value::Object(scale)) = list.last_mut() {
            scale.insert("group".into(), json!("autoscaling"));
            scale.insert("version".into(), json!("v1"));
        }
    }
    if group.is_empty() && kind.plural == "pods" {
        list.push(json!({
            "name": "pods/log", "singularName": "", "namespaced": true, "kind": "Pod", "verbs": ["get"],
        }));
    }
}
