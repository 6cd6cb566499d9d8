//! What the scheduler needs to know of Pods, Runtimes and RuntimeInstances.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kruntimes_api::names::{CAPACITY_ANNOTATION_PREFIX, DEFAULT_RUNS, RUNTIME_LABEL, RUNTIMED_READY};
use kruntimes_api::runtime::{ResourceKind, RunBounds, SchedulingMode, Tenancy};
use kruntimes_api::{Runtime, RuntimeInstance};
use kruntimes_resources::{Amount, Amounts, Kind, names};

use crate::ids::PodUid;

/// A Runtime Pod.
#[derive(Debug, Clone, PartialEq)]
pub struct PodView {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
    /// Uid.
    pub uid: PodUid,
    /// The Runtime it belongs to.
    pub runtime: Arc<str>,
    /// Running and ready.
    pub ready: bool,
    /// Asked to stop.
    pub deleting: bool,
    /// Time in the last heartbeat, while the heartbeat says that all is well.
    pub beat: Option<Timestamp>,
    /// What its annotations promise.
    pub capacity: Amounts,
}

impl PodView {
    /// Reads a Pod; `None` when it carries no Runtime's label or no identity.
    pub fn of(pod: &Pod) -> Option<Self> {
        let meta = &pod.metadata;
        let runtime = meta.labels.as_ref()?.get(RUNTIME_LABEL)?;
        let status = pod.status.as_ref();
        let condition = |kind: &str| {
            let conditions = status.and_then(|s| s.conditions.as_ref())?;
            conditions.iter().find(|c| c.type_ == kind && c.status == "True")
        };
        let running = status.and_then(|s| s.phase.as_deref()) == Some("Running");
        let mut capacity = Amounts::new();
        capacity.set(names::RUNS, Amount::whole(i64::from(DEFAULT_RUNS)));
        for (key, text) in meta.annotations.iter().flatten() {
            if let Some(name) = key.strip_prefix(CAPACITY_ANNOTATION_PREFIX)
                && let Ok(amount) = text.parse::<Amount>()
            {
                capacity.set(name, amount);
            }
        }
        Some(Self {
            namespace: meta.namespace.as_deref()?.into(),
            name: meta.name.as_deref()?.into(),
            uid: PodUid::from(meta.uid.as_deref()?),
            runtime: runtime.as_str().into(),
            ready: running && condition("Ready").is_some(),
            deleting: meta.deletion_timestamp.is_some(),
            beat: condition(RUNTIMED_READY).and_then(|c| c.last_probe_time.as_ref()).map(|t| t.0),
            capacity,
        })
    }
}

/// What a Pod's server really offers.
#[derive(Debug, Clone, PartialEq)]
pub struct InstanceView {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name; the Pod's.
    pub name: Arc<str>,
    /// The Pod it speaks of.
    pub pod: PodUid,
    /// Amounts; malformed ones are left out.
    pub allocatable: Amounts,
}

impl InstanceView {
    /// Reads a RuntimeInstance; `None` when it has no identity.
    pub fn of(instance: &RuntimeInstance) -> Option<Self> {
        let allocatable =
            instance.status.as_ref().map(|status| amounts(&status.allocatable)).unwrap_or_default();
        Some(Self {
            namespace: instance.metadata.namespace.as_deref()?.into(),
            name: instance.metadata.name.as_deref()?.into(),
            pod: PodUid::from(instance.spec.pod_uid.as_str()),
            allocatable,
        })
    }
}

fn amounts(quantities: &BTreeMap<String, Quantity>) -> Amounts {
    quantities
        .iter()
        .filter_map(|(name, quantity)| Some((name.as_str(), quantity.0.parse::<Amount>().ok()?)))
        .collect()
}

/// What a Runtime says about its Runs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RuntimeView {
    /// Wanted Pods.
    pub replicas: i32,
    /// Whose Runs may share a Pod.
    pub tenancy: Tenancy,
    /// The backend queues: only `runs` counts here.
    pub delegated: bool,
    /// For Runs that say nothing.
    pub defaults: Option<RunBounds>,
    /// Ceilings.
    pub maximums: Option<RunBounds>,
    /// A Run's request of memory is its limit where it sets none: so where the Runtime says anything of isolation.
    pub memory_by_request: bool,
    /// Kinds of the resources that it defines.
    pub kinds: BTreeMap<String, Kind>,
}

impl RuntimeView {
    /// Reads a Runtime; the template is not looked at.
    pub fn of(runtime: &Runtime) -> Self {
        let spec = &runtime.spec;
        let kind = |kind| match kind {
            ResourceKind::Indexed => Kind::Indexed,
            ResourceKind::Counted => Kind::Counted,
            ResourceKind::Divisible => Kind::Divisible,
        };
        Self {
            replicas: spec.replicas.unwrap_or(1),
            tenancy: spec.isolation.as_ref().and_then(|i| i.tenancy).unwrap_or_default(),
            delegated: spec.scheduling.as_ref().and_then(|s| s.mode) == Some(SchedulingMode::Delegated),
            defaults: spec.run_defaults.clone(),
            maximums: spec.run_maximums.clone(),
            memory_by_request: spec.isolation.is_some(),
            kinds: spec.resources.iter().map(|r| (r.name.clone(), kind(r.kind))).collect(),
        }
    }
}
