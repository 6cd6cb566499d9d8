//! `Runtime`: a pool of warm Pods.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::run::IsolationLevel;

/// A pool of identical warm Pods and what each of them offers.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[kube(
    group = "kruntimes.io",
    version = "v1alpha1",
    kind = "Runtime",
    plural = "runtimes",
    shortname = "rt",
    category = "kruntimes",
    namespaced,
    status = "RuntimeStatus",
    derive = "PartialEq",
    derive = "Default",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn = r#"{"name":"Image","type":"string","jsonPath":".spec.template.spec.containers[0].image"}"#,
    printcolumn = r#"{"name":"Replicas","type":"integer","jsonPath":".spec.replicas"}"#,
    printcolumn = r#"{"name":"Ready","type":"integer","jsonPath":".status.readyReplicas"}"#,
    printcolumn = r#"{"name":"Available","type":"string","jsonPath":".status.conditions[?(@.type==\"Available\")].status","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    crates(kube_core = "::kube_core")
)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeSpec {
    /// PodTemplateSpec; the first container is named `runtime`.
    #[schemars(schema_with = "crate::crds::pod_template")]
    pub template: serde_json::Value,
    /// TCP port of the Runtime Server. Default 9091.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
    /// Pods. Default 1; 0 parks the pool.
    #[serde(default = "one", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0), extend("default" = 1))]
    pub replicas: Option<i32>,
    /// Image of the `runtimed` sidecar; default: the controller's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub daemon_image: Option<String>,
    /// What each Pod offers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Capacity>,
    /// Where artifacts go. Refused for now: not available yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::crds::preserved_object")]
    pub artifact_store: Option<serde_json::Value>,
    /// Volume source of `/workspace`; default emptyDir.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::crds::volume_source")]
    pub workspace: Option<serde_json::Value>,
    /// Custom resources that each Pod offers beside Kubernetes' own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub resources: Vec<ResourceDefinition>,
    /// What must hold between Runs of one Pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<IsolationSpec>,
    /// Who queues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduling: Option<SchedulingSpec>,
    /// Modules to import before Runs fork. Refused for now: not available yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 253)))]
    pub preload: Vec<String>,
    /// For Runs that say nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_defaults: Option<RunBounds>,
    /// Ceilings: a Run above one ends as InvalidRun with the field's name; so does one without a timeout or limit that has a
    /// ceiling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_maximums: Option<RunBounds>,
    /// Credentials and trust for Git sources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<GitSpec>,
}

fn one() -> Option<i32> {
    Some(1)
}

impl RuntimeSpec {
    /// Decodes the raw template.
    ///
    /// # Errors
    /// When it is not a PodTemplateSpec; the text names the field.
    pub fn pod_template(&self) -> Result<PodTemplateSpec, serde_json::Error> {
        serde_json::from_value(self.template.clone())
    }
}

/// Per-Pod capacity.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Capacity {
    /// Amounts per Pod; `runs` defaults to 2. With the names of `spec.resources` at most 32.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::crds::quantities")]
    pub resources: BTreeMap<String, Quantity>,
}

/// A resource that this Runtime defines.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourceDefinition {
    /// Name as requested by Runs.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// How amounts behave.
    pub kind: ResourceKind,
    /// Ids or paths of the devices, for `Indexed`. A path is a file that a Run with the device can open.
    /// Without, the devices are called 0, 1, 2, ...
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), inner(length(min = 1, max = 253)), extend("x-kubernetes-list-type" = "set"))]
    pub devices: Vec<String>,
    /// Variable that carries the leased ids (joined by commas), or the leased amount, to the Run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[A-Za-z_][A-Za-z0-9_]*$"))]
    pub env: Option<String>,
}

/// How amounts of a resource behave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ResourceKind {
    /// Devices with identity; whole numbers.
    Indexed,
    /// Interchangeable tokens; whole numbers.
    #[default]
    Counted,
    /// Any Kubernetes quantity.
    Divisible,
}

/// What a Pod must give, per axis; a Pod that cannot is not Ready and says why.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IsolationSpec {
    /// Lowest level per axis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require: Option<RequiredIsolation>,
    /// `Shared` (default), or `None`: Runs reach no network, as far as the Pod allows; `require.network` makes it a
    /// condition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// `Mixed` (default) or `SingleSubmitter`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenancy: Option<Tenancy>,
}

/// Lowest level per axis; absent axes require nothing.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RequiredIsolation {
    /// CPU, memory, processes, IO.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<IsolationLevel>,
    /// That nothing survives a Run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kill: Option<IsolationLevel>,
    /// That Runs cannot read each other's files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<IsolationLevel>,
    /// That Runs reach only their devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<IsolationLevel>,
    /// That Runs reach no network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<IsolationLevel>,
    /// That Runs hold no privileges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privileges: Option<IsolationLevel>,
}

/// Network of the Runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Network {
    /// The Pod's.
    #[default]
    Shared,
    /// None: at best a loopback of their own.
    None,
}

/// Whose Runs may share a Pod at one time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Tenancy {
    /// Anybody's.
    #[default]
    Mixed,
    /// Those of one submitter.
    SingleSubmitter,
}

/// Who queues the Runs.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SchedulingSpec {
    /// `Pool` (default) or `Delegated`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<SchedulingMode>,
}

/// See [`SchedulingSpec`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SchedulingMode {
    /// Our scheduler fits every requested resource.
    #[default]
    Pool,
    /// The backend queues: only `runs` is admitted here.
    Delegated,
}

/// Defaults or ceilings for Runs.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunBounds {
    /// Of `spec.timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = crate::duration::MAX_LENGTH), regex(pattern = crate::duration::PATTERN))]
    pub timeout: Option<String>,
    /// Of `spec.ttlSecondsAfterFinished`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub ttl_seconds_after_finished: Option<i32>,
    /// Of `spec.resources.limits`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::crds::quantities")]
    pub limits: BTreeMap<String, Quantity>,
    /// Of `spec.resources.requests`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::crds::quantities")]
    pub requests: BTreeMap<String, Quantity>,
}

/// Files for Git sources, mounted into `runtimed` only.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GitSpec {
    /// Secret with the key `credentials` (git's credential-store format) and/or `ssh-privatekey`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub credentials_secret_name: Option<String>,
    /// ConfigMap with the key `ca.crt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub ca_config_map_name: Option<String>,
    /// ConfigMap with the key `known_hosts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub known_hosts_config_map_name: Option<String>,
}

/// State of the pool.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeStatus {
    /// Pods that take Runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,
    /// Pods that exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Label selector of the Pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub selector: Option<String>,
    /// Summed over ready Pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::crds::quantities")]
    pub capacity: BTreeMap<String, Quantity>,
    /// Held by bound Runs; at most 10 s old.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::crds::quantities")]
    pub in_use: BTreeMap<String, Quantity>,
    /// Generation that the status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Available`, `Progressing`, `Degraded`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::crds::conditions")]
    pub conditions: Vec<Condition>,
}
