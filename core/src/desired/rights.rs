//! What the sidecar may do: exactly the requests that it makes. Admission policies
//! of the chart narrow each write down to the Pod of the token.

use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kruntimes_api::names::GROUP;

pub(super) fn role(metadata: ObjectMeta) -> Role {
    let rule = |group: &str, resource: &str, verbs: &[&str]| PolicyRule {
        api_groups: Some(vec![group.into()]),
        resources: Some(vec![resource.into()]),
        verbs: verbs.iter().map(|verb| (*verb).into()).collect(),
        ..PolicyRule::default()
    };
    Role {
        metadata,
        rules: Some(vec![
            rule(GROUP, "runs", &["get", "list", "watch"]),
            rule(GROUP, "runs/status", &["patch"]),
            // It makes its own and says in the status what its Pod offers; it reads none.
            rule(GROUP, "runtimeinstances", &["create"]),
            rule(GROUP, "runtimeinstances/status", &["patch"]),
            rule("", "pods/status", &["patch"]),
        ]),
    }
}

pub(super) fn role_binding(metadata: ObjectMeta, account: &str) -> RoleBinding {
    RoleBinding {
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".into(),
            kind: "Role".into(),
            name: metadata.name.clone().unwrap_or_default(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".into(),
            name: account.into(),
            namespace: metadata.namespace.clone(),
            ..Subject::default()
        }]),
        metadata,
    }
}
