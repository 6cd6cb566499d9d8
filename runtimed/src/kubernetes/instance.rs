//! The Pod's RuntimeInstance: what it really offers, written when that changes.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kruntimes_api::bounds;
use kruntimes_api::instance::{
    Allocation, BackendInfo, Device, DeviceHealth, RuntimeInstance, RuntimeInstanceSpec,
    RuntimeInstanceStatus, ServerInfo,
};
use kruntimes_api::names::{
    CAPACITY_ANNOTATION, CAPACITY_ANNOTATION_PREFIX, DEFAULT_RUNS, RUNS_RESOURCE, RUNTIME_LABEL,
};
use kruntimes_core::ids::PodRef;
use kruntimes_proto::v1;
use kruntimes_resources::{Amount, MAX_DEVICES};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ApiError;
use super::heartbeat::PodInfo;
use crate::server::{ServerView, isolation_axes};
use crate::text::{self, cut};

const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// As the CRD has it.
const MAX_ALLOCATIONS: usize = 64;
const MAX_FEATURES: usize = 64;
const MAX_SOURCES: usize = 64;
/// Until the object is written again although nothing has changed: somebody may have removed it.
const AGAIN: Duration = Duration::from_secs(60);
/// Between two writes when only who holds which device has changed: that may be many times a second.
const SETTLE: Duration = Duration::from_secs(1);

/// The status for what the server and the Pod's annotations say.
pub fn instance_status(
    describe: Option<&v1::DescribeResponse>,
    annotations: &BTreeMap<String, String>,
) -> RuntimeInstanceStatus {
    let Some(describe) = describe else {
        let server = ServerInfo {
            name: "baseline".into(),
            protocol: 0,
            authentication: "none".into(),
            ..ServerInfo::default()
        };
        let allocatable = allocatable(&[], annotations);
        return RuntimeInstanceStatus {
            server: Some(server),
            allocatable,
            ..RuntimeInstanceStatus::default()
        };
    };
    RuntimeInstanceStatus {
        server: Some(ServerInfo {
            name: cut(&describe.name, text::NAME),
            version: cut(&describe.version, text::NAME),
            protocol: i32::try_from(describe.protocol).unwrap_or(i32::MAX),
            authentication: cut(&describe.authentication, text::WORD),
            features: describe
                .features
                .iter()
                .take(MAX_FEATURES)
                .map(|name| cut(name, text::LABEL))
                .collect(),
        }),
        isolation: describe.isolation.as_ref().map(isolation_axes).unwrap_or_default(),
        accounting: describe
            .accounting
            .iter()
            .take(MAX_SOURCES)
            .map(|a| (a.figure.clone(), cut(&a.source, text::LABEL)))
            .collect(),
        allocatable: allocatable(&describe.resources, annotations),
        devices: describe.devices.iter().take(MAX_DEVICES).map(device).collect(),
        backend: describe.backend.as_ref().map(backend),
    }
}

/// What the Runtime's author promised, corrected by what the server found.
fn allocatable(found: &[v1::Resource], annotations: &BTreeMap<String, String>) -> BTreeMap<String, Quantity> {
    let mut amounts = BTreeMap::from([(RUNS_RESOURCE.to_owned(), Quantity(DEFAULT_RUNS.to_string()))]);
    for (key, amount) in annotations {
        if let Some(name) = key.strip_prefix(CAPACITY_ANNOTATION_PREFIX) {
            amounts.insert(name.to_owned(), Quantity(amount.clone()));
        }
        if key == CAPACITY_ANNOTATION {
            match serde_json::from_str::<BTreeMap<String, Quantity>>(amount) {
                Ok(slashed) => amounts.extend(slashed),
                Err(error) => {
                    tracing::warn!(%error, annotation = key, "unreadable: its amounts are not offered")
                }
            }
        }
    }
    for resource in found {
        amounts.insert(resource.name.clone(), Quantity(resource.allocatable.clone()));
    }
    // What the object does not name nobody is sent for.
    while amounts.len() > bounds::NAMES {
        let Some(last) = amounts.keys().rev().find(|name| *name != RUNS_RESOURCE).cloned() else { break };
        amounts.remove(&last);
    }
    amounts
}

fn device(wire: &v1::InventoryDevice) -> Device {
    Device {
        resource: cut(&wire.resource, text::NAME),
        id: cut(&wire.id, text::NAME),
        driver: cut(&wire.driver, text::NAME),
        model: cut(&wire.model, text::NAME),
        memory: (wire.memory_bytes > 0).then(|| Quantity(bytes(wire.memory_bytes))),
        pci_bus_id: cut(&wire.pci_bus_id, text::LABEL),
        pool: cut(&wire.pool, text::NAME),
        health: wire.health.as_ref().map(|health| DeviceHealth {
            state: cut(&health.state, text::WORD),
            reason: cut(&health.reason, text::REASON),
            source: cut(&health.source, text::LABEL),
            since: (health.since > 0)
                .then(|| jiff::Timestamp::from_microsecond(health.since).ok())
                .flatten()
                .map(MicroTime),
        }),
        allocations: wire
            .allocations
            .iter()
            .take(MAX_ALLOCATIONS)
            .map(|held| Allocation {
                run_uid: cut(&held.id, text::NAME),
                attempt: i32::try_from(held.attempt).unwrap_or(i32::MAX),
                amount: cut(&held.amount, text::LABEL),
            })
            .collect(),
    }
}

fn bytes(count: u64) -> String {
    Amount::whole(i64::try_from(count).unwrap_or(i64::MAX)).to_binary_string()
}

fn backend(wire: &v1::BackendInfo) -> BackendInfo {
    let amounts = |map: &std::collections::HashMap<String, String>| {
        map.iter()
            .take(bounds::NAMES)
            .map(|(name, amount)| (name.clone(), Quantity(amount.clone())))
            .collect()
    };
    BackendInfo {
        kind: cut(&wire.kind, text::LABEL),
        version: cut(&wire.version, text::NAME),
        endpoint: cut(&wire.endpoint, text::URL),
        free: amounts(&wire.free),
        total: amounts(&wire.total),
        health: cut(&wire.health, text::NAME),
    }
}

/// Whether nothing has changed but who holds which device.
fn only_allocations_differ(a: &RuntimeInstanceStatus, b: &RuntimeInstanceStatus) -> bool {
    let without = |status: &RuntimeInstanceStatus| {
        let mut status = status.clone();
        status.devices.iter_mut().for_each(|device| device.allocations.clear());
        status
    };
    a.devices != b.devices && without(a) == without(b)
}

/// Keeps the object true to the server.
pub struct InstanceWriter {
    /// Instances of our namespace.
    pub api: Api<RuntimeInstance>,
    /// Ourselves.
    pub pod: PodRef,
    /// Name of the Runtime.
    pub runtime: String,
    /// The server's state.
    pub views: watch::Receiver<ServerView>,
    /// The Pod's.
    pub info: watch::Receiver<Option<PodInfo>>,
}

impl InstanceWriter {
    /// Runs until `stop`. While no server is connected, what was last known stays.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut written: Option<RuntimeInstanceStatus> = None;
        let mut pause = BACKOFF.0;
        let mut last = Instant::now();
        loop {
            let mut wanted = self.wanted();
            let early = match (&written, &wanted) {
                (Some(written), Some(wanted)) if only_allocations_differ(written, wanted) => {
                    SETTLE.saturating_sub(last.elapsed())
                }
                _ => Duration::ZERO,
            };
            if !early.is_zero() {
                wanted = None;
            }
            let failed = match wanted.filter(|wanted| written.as_ref() != Some(wanted)) {
                None => None,
                Some(wanted) => match self.write(&wanted).await {
                    Ok(()) => {
                        written = Some(wanted);
                        last = Instant::now();
                        pause = BACKOFF.0;
                        None
                    }
                    Err(error) => Some(error),
                },
            };
            let again = failed.is_some();
            if let Some(error) = failed {
                tracing::warn!(%error, "the RuntimeInstance could not be written");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(early), if !early.is_zero() => {}
                () = tokio::time::sleep_until(last + AGAIN), if written.is_some() => written = None,
                () = tokio::time::sleep(pause), if again => pause = (pause * 2).min(BACKOFF.1),
                Ok(()) = self.views.changed() => {}
                Ok(()) = self.info.changed() => {}
            }
        }
    }

    fn wanted(&mut self) -> Option<RuntimeInstanceStatus> {
        let view = self.views.borrow_and_update().clone();
        let info = self.info.borrow_and_update().clone()?;
        view.client.as_ref()?;
        Some(instance_status(view.describe.as_deref(), &info.annotations))
    }

    async fn write(&self, status: &RuntimeInstanceStatus) -> Result<(), ApiError> {
        // As a whole: a merge would keep resources that are gone.
        let value = serde_json::to_value(status).map_err(|error| ApiError::Refused(error.to_string()))?;
        let operations = serde_json::json!([{"op": "add", "path": "/status", "value": value}]);
        let patch =
            serde_json::from_value(operations).map_err(|error| ApiError::Refused(error.to_string()))?;
        let patch: Patch<()> = Patch::Json(patch);
        let params = PatchParams::default();
        match self.api.patch_status(&self.pod.name, &params, &patch).await.map_err(ApiError::from) {
            Err(ApiError::NotFound(_)) => {}
            other => return other.map(drop),
        }
        self.api.create(&PostParams::default(), &self.object()).await?;
        self.api.patch_status(&self.pod.name, &params, &patch).await.map(drop).map_err(ApiError::from)
    }

    fn object(&self) -> RuntimeInstance {
        let uid = self.pod.uid.as_str().to_owned();
        RuntimeInstance {
            metadata: ObjectMeta {
                name: Some(self.pod.name.clone()),
                labels: Some(BTreeMap::from([(RUNTIME_LABEL.to_owned(), self.runtime.clone())])),
                owner_references: Some(vec![OwnerReference {
                    api_version: "v1".into(),
                    kind: "Pod".into(),
                    name: self.pod.name.clone(),
                    uid: uid.clone(),
                    ..OwnerReference::default()
                }]),
                ..ObjectMeta::default()
            },
            spec: RuntimeInstanceSpec { runtime: self.runtime.clone(), pod_uid: uid },
            status: None,
        }
    }
}

#[cfg(test)]
#[path = "instance_tests.rs"]
mod tests;
