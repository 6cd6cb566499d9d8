//! What a Runtime consists of in the cluster.
//!
//! Owns the objects of a Runtime: names, labels, the Pod that runs server and
//! sidecar, and the rights of the sidecar. Comes in: the Runtime as it was read and
//! the installation's [`Defaults`]. Goes out: every object, whole, for server-side
//! apply. Must always hold: the same input gives the same objects, the `runtime`
//! container sees no API token, and a template that cannot be built is a
//! [`TemplateError`] that a person can act on.

mod error;
mod health;
mod pod;
mod probe;
mod resources;
mod rights;
mod traces;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::api::core::v1::{PodTemplateSpec, ServiceAccount};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kruntimes_api::names::{APP_LABEL, GROUP, OWNED_LABEL, RUNTIME_LABEL, RUNTIMED_METRICS_PORT, VERSION};
use kruntimes_api::{Runtime, bounds};

pub use error::TemplateError;
pub use probe::probe_template;

/// What the installation decides for every Runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    /// Image of `runtimed`, unless a Runtime names one.
    pub daemon_image: String,
    /// Service account of Runtime Pods, unless a template names one; `None`: one per Runtime.
    pub service_account: Option<String>,
    /// Whether the network policy lets anybody read the sidecar's metrics.
    pub metrics_ingress: bool,
    /// Where the containers of Runtime Pods send traces, unless a template says.
    pub otlp_endpoint: Option<String>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            daemon_image: "kruntimes-runtimed:latest".into(),
            service_account: None,
            metrics_ingress: false,
            otlp_endpoint: None,
        }
    }
}

/// Every object of one Runtime.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// `None` when the template or the installation names an account that exists already.
    pub service_account: Option<ServiceAccount>,
    /// What the sidecar may do.
    pub role: Role,
    /// Gives the role to the service account.
    pub role_binding: RoleBinding,
    /// Who may talk to the Pods.
    pub network_policy: NetworkPolicy,
    /// The Pods.
    pub deployment: Deployment,
}

/// Name of every object of the Runtime `name`.
pub fn object_name(name: &str) -> String {
    format!("runtime-{name}")
}

/// Labels by which the Pods of the Runtime `name` are selected.
pub fn selector(name: &str) -> BTreeMap<String, String> {
    [(RUNTIME_LABEL.to_owned(), name.to_owned()), (APP_LABEL.to_owned(), format!("kruntimes-{name}"))].into()
}

/// The selector as text, for `status.selector`.
pub fn selector_text(name: &str) -> String {
    format!("{RUNTIME_LABEL}={name},{APP_LABEL}=kruntimes-{name}")
}

/// Everything that `runtime` consists of.
///
/// # Errors
/// When the Runtime cannot be built as written; the error names the field.
pub fn desired(runtime: &Runtime, defaults: &Defaults) -> Result<Desired, TemplateError> {
    let name = runtime.metadata.name.as_deref().unwrap_or_default();
    // `app=kruntimes-NAME` must be a label value, at most 63 characters.
    if name.is_empty() || name.len() > bounds::RUNTIME_NAME {
        return Err(TemplateError::Name { name: name.to_owned() });
    }
    let template = pod::template(runtime, name, defaults)?;
    let meta = metadata(runtime, name);
    let account = template.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
    let account = account.unwrap_or_else(|| object_name(name));
    let own_account = account == object_name(name);
    Ok(Desired {
        service_account: own_account.then(|| ServiceAccount {
            metadata: meta.clone(),
            automount_service_account_token: Some(false),
            ..ServiceAccount::default()
        }),
        role: rights::role(meta.clone()),
        role_binding: rights::role_binding(meta.clone(), &account),
        network_policy: network_policy(meta.clone(), name, defaults),
        deployment: deployment(meta, runtime, name, template),
    })
}

fn metadata(runtime: &Runtime, name: &str) -> ObjectMeta {
    let mut labels = selector(name);
    labels.insert(OWNED_LABEL.into(), name.into());
    labels.insert("app.kubernetes.io/name".into(), "kruntimes".into());
    labels.insert("app.kubernetes.io/managed-by".into(), "kruntimes-controller".into());
    ObjectMeta {
        name: Some(object_name(name)),
        namespace: runtime.metadata.namespace.clone(),
        labels: Some(labels),
        owner_references: Some(vec![OwnerReference {
            api_version: format!("{GROUP}/{VERSION}"),
            kind: "Runtime".into(),
            name: name.into(),
            uid: runtime.metadata.uid.clone().unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: None,
        }]),
        ..ObjectMeta::default()
    }
}

fn deployment(metadata: ObjectMeta, runtime: &Runtime, name: &str, template: PodTemplateSpec) -> Deployment {
    let spec = DeploymentSpec {
        replicas: Some(runtime.spec.replicas.unwrap_or(1)),
        selector: LabelSelector { match_labels: Some(selector(name)), ..LabelSelector::default() },
        template,
        ..DeploymentSpec::default()
    };
    Deployment { metadata, spec: Some(spec), status: None }
}

fn network_policy(metadata: ObjectMeta, name: &str, defaults: &Defaults) -> NetworkPolicy {
    let metrics = NetworkPolicyIngressRule {
        ports: Some(vec![NetworkPolicyPort {
            port: Some(IntOrString::Int(RUNTIMED_METRICS_PORT.into())),
            protocol: Some("TCP".into()),
            ..NetworkPolicyPort::default()
        }]),
        ..NetworkPolicyIngressRule::default()
    };
    let spec = NetworkPolicySpec {
        pod_selector: Some(LabelSelector { match_labels: Some(selector(name)), ..LabelSelector::default() }),
        policy_types: Some(vec!["Ingress".into()]),
        ingress: defaults.metrics_ingress.then(|| vec![metrics]),
        ..NetworkPolicySpec::default()
    };
    NetworkPolicy { metadata, spec: Some(spec) }
}
