//! The built-in kinds: their names, columns and selectable fields.

use k8s_openapi::api::{apps, coordination, core, networking, rbac};
use serde_json::Value;

use super::{Column, Kind, ScalePaths};

fn decodes<T: serde::de::DeserializeOwned>(value: &Value) -> Result<(), serde_json::Error> {
    <T as serde::Deserialize>::deserialize(value).map(drop)
}

fn columns(list: &[(&str, &str, i64)]) -> Vec<Column> {
    list.iter()
        .map(|(name, kind, priority)| Column {
            name: (*name).into(),
            kind: (*kind).into(),
            description: String::new(),
            priority: *priority,
            path: String::new(),
        })
        .collect()
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|w| (*w).to_owned()).collect()
}

/// A namespaced kind with a name and an age column; the callers change what differs.
fn plain(group: &str, kind: &str, plural: &str, short: &[&str]) -> Kind {
    Kind {
        id: 0,
        group: group.into(),
        version: "v1".into(),
        kind: kind.into(),
        plural: plural.into(),
        singular: kind.to_lowercase(),
        short_names: words(short),
        categories: Vec::new(),
        namespaced: true,
        status: false,
        scale: None,
        columns: columns(&[("Name", "string", 0), ("Age", "string", 0)]),
        selectable: Vec::new(),
        schema: None,
        decodes: None,
        generation: false,
        writable: true,
    }
}

const RBAC: &str = "rbac.authorization.k8s.io";

/// Every built-in kind; `table.rs` fills the cells of their columns.
pub fn all() -> Vec<Kind> {
    let mut kinds = vec![pod(), deployment(), event()];
    kinds.push(Kind {
        namespaced: false,
        status: true,
        columns: columns(&[("Name", "string", 0), ("Status", "string", 0), ("Age", "string", 0)]),
        selectable: words(&["status.phase"]),
        decodes: Some(decodes::<core::v1::Namespace>),
        ..plain("", "Namespace", "namespaces", &["ns"])
    });
    kinds.push(Kind {
        columns: columns(&[("Name", "string", 0), ("Data", "string", 0), ("Age", "string", 0)]),
        decodes: Some(decodes::<core::v1::ConfigMap>),
        ..plain("", "ConfigMap", "configmaps", &["cm"])
    });
    kinds.push(Kind {
        columns: columns(&[
            ("Name", "string", 0),
            ("Type", "string", 0),
            ("Data", "string", 0),
            ("Age", "string", 0),
        ]),
        selectable: words(&["type"]),
        decodes: Some(decodes::<core::v1::Secret>),
        ..plain("", "Secret", "secrets", &[])
    });
    kinds.push(Kind {
        decodes: Some(decodes::<core::v1::ServiceAccount>),
        ..plain("", "ServiceAccount", "serviceaccounts", &["sa"])
    });
    kinds.push(Kind { decodes: Some(decodes::<rbac::v1::Role>), ..plain(RBAC, "Role", "roles", &[]) });
    kinds.push(Kind {
        columns: columns(&[("Name", "string", 0), ("Role", "string", 0), ("Age", "string", 0)]),
        decodes: Some(decodes::<rbac::v1::RoleBinding>),
        ..plain(RBAC, "RoleBinding", "rolebindings", &[])
    });
    kinds.push(Kind {
        namespaced: false,
        decodes: Some(decodes::<rbac::v1::ClusterRole>),
        ..plain(RBAC, "ClusterRole", "clusterroles", &[])
    });
    kinds.push(Kind {
        namespaced: false,
        columns: columns(&[("Name", "string", 0), ("Role", "string", 0), ("Age", "string", 0)]),
        decodes: Some(decodes::<rbac::v1::ClusterRoleBinding>),
        ..plain(RBAC, "ClusterRoleBinding", "clusterrolebindings", &[])
    });
    kinds.push(Kind {
        columns: columns(&[("Name", "string", 0), ("Pod-Selector", "string", 0), ("Age", "string", 0)]),
        generation: true,
        decodes: Some(decodes::<networking::v1::NetworkPolicy>),
        ..plain("networking.k8s.io", "NetworkPolicy", "networkpolicies", &["netpol"])
    });
    kinds.push(Kind {
        columns: columns(&[("Name", "string", 0), ("Holder", "string", 0), ("Age", "string", 0)]),
        decodes: Some(decodes::<coordination::v1::Lease>),
        ..plain("coordination.k8s.io", "Lease", "leases", &[])
    });
    kinds.push(Kind {
        namespaced: false,
        columns: columns(&[("Name", "string", 0), ("Created At", "date", 0)]),
        writable: false,
        ..plain(
            "apiextensions.k8s.io",
            "CustomResourceDefinition",
            "customresourcedefinitions",
            &["crd", "crds"],
        )
    });
    kinds
}

fn pod() -> Kind {
    Kind {
        status: true,
        categories: words(&["all"]),
        columns: columns(&[
            ("Name", "string", 0),
            ("Ready", "string", 0),
            ("Status", "string", 0),
            ("Restarts", "string", 0),
            ("Age", "string", 0),
            ("IP", "string", 1),
            ("Node", "string", 1),
            ("Readiness Gates", "string", 1),
        ]),
        selectable: words(&[
            "status.phase",
            "status.podIP",
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.serviceAccountName",
        ]),
        decodes: Some(decodes::<core::v1::Pod>),
        generation: true,
        ..plain("", "Pod", "pods", &["po"])
    }
}

fn deployment() -> Kind {
    Kind {
        status: true,
        categories: words(&["all"]),
        scale: Some(ScalePaths {
            spec_replicas: words(&["spec", "replicas"]),
            status_replicas: words(&["status", "replicas"]),
            selector: None,
        }),
        columns: columns(&[
            ("Name", "string", 0),
            ("Ready", "string", 0),
            ("Up-to-date", "string", 0),
            ("Available", "string", 0),
            ("Age", "string", 0),
            ("Containers", "string", 1),
            ("Images", "string", 1),
            ("Selector", "string", 1),
        ]),
        decodes: Some(decodes::<apps::v1::Deployment>),
        generation: true,
        ..plain("apps", "Deployment", "deployments", &["deploy"])
    }
}

fn event() -> Kind {
    Kind {
        columns: columns(&[
            ("Last Seen", "string", 0),
            ("Type", "string", 0),
            ("Reason", "string", 0),
            ("Object", "string", 0),
            ("Subobject", "string", 1),
            ("Source", "string", 1),
            ("Message", "string", 0),
            ("First Seen", "string", 1),
            ("Count", "string", 1),
            ("Name", "string", 1),
        ]),
        selectable: words(&[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ]),
        decodes: Some(decodes::<core::v1::Event>),
        ..plain("", "Event", "events", &["ev"])
    }
}
