//! `RuntimeInstance`: what one Runtime Pod really offers. Same name as the Pod and
//! owned by it; written by its `runtimed`, only when something changed.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::run::IsolationAxis;

/// Identity of the Pod that this speaks of.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[kube(
    group = "kruntimes.io",
    version = "v1alpha1",
    kind = "RuntimeInstance",
    plural = "runtimeinstances",
    shortname = "ri",
    category = "kruntimes",
    namespaced,
    status = "RuntimeInstanceStatus",
    derive = "PartialEq",
    derive = "Default",
    printcolumn = r#"{"name":"Runtime","type":"string","jsonPath":".spec.runtime"}"#,
    printcolumn = r#"{"name":"Server","type":"string","jsonPath":".status.server.name"}"#,
    printcolumn = r#"{"name":"Version","type":"string","jsonPath":".status.server.version"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    crates(kube_core = "::kube_core")
)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeInstanceSpec {
    /// Runtime of the Pod.
    #[schemars(length(min = 1, max = 63))]
    pub runtime: String,
    /// UID of the Pod.
    #[serde(rename = "podUID")]
    #[schemars(length(max = 253))]
    pub pod_uid: String,
}

/// What the Pod's Runtime Server said of itself.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeInstanceStatus {
    /// The program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerInfo>,
    /// Level and reason per axis.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub isolation: Vec<IsolationAxis>,
    /// Source per usage figure.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "accounting_schema")]
    pub accounting: BTreeMap<String, String>,
    /// Amount per resource; the truth for placement.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::crds::quantities")]
    pub allocatable: BTreeMap<String, Quantity>,
    /// Devices with identity.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub devices: Vec<Device>,
    /// The external system of a bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<BackendInfo>,
}

/// Name, version and protocol of a Runtime Server.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerInfo {
    /// Program name.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Program version.
    #[schemars(length(max = 253))]
    pub version: String,
    /// Protocol revision; 0 is a baseline server.
    pub protocol: i32,
    /// `token` or `none`: whether the two ends prove themselves.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 32))]
    pub authentication: String,
    /// What it can do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    pub features: Vec<String>,
}

/// One device.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// Resource name.
    #[schemars(length(max = 253))]
    pub resource: String,
    /// Device id.
    #[schemars(length(max = 253))]
    pub id: String,
    /// Driver.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub driver: String,
    /// Model.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub model: String,
    /// Memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
    /// PCI address.
    #[serde(default, rename = "pciBusID", skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub pci_bus_id: String,
    /// Pool of the driver, as in device plugins.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub pool: String,
    /// Whether it serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<DeviceHealth>,
    /// Who holds it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub allocations: Vec<Allocation>,
}

/// Health of a device.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceHealth {
    /// `Healthy`, `Quarantined` or `Lost`.
    #[schemars(length(max = 32))]
    pub state: String,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub reason: String,
    /// Who said so.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub source: String,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<MicroTime>,
}

/// An amount held by one attempt.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Allocation {
    /// UID of the Run.
    #[serde(rename = "runUID")]
    #[schemars(length(max = 253))]
    pub run_uid: String,
    /// Attempt.
    pub attempt: i32,
    /// Kubernetes quantity.
    #[schemars(length(max = 64))]
    pub amount: String,
}

/// The external system of a bridge.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendInfo {
    /// `ray`, `slurm`, `spark`.
    #[schemars(length(max = 63))]
    pub kind: String,
    /// Its version.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub version: String,
    /// Its address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 2048))]
    pub endpoint: String,
    /// Free amounts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::crds::quantities")]
    pub free: BTreeMap<String, Quantity>,
    /// Amounts in all.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::crds::quantities")]
    pub total: BTreeMap<String, Quantity>,
    /// In a word.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub health: String,
}

fn accounting_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    crate::crds::bounded_map(64, 63)
}
