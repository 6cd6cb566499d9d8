//! What is known of one Runtime, and when something is to be done about it.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kruntimes_api::names::POD_DELETION_COST;
use kruntimes_api::{Runtime, RuntimeStatus};
use kruntimes_core::desired::{Defaults, desired};
use kruntimes_core::ids::{PodUid, RunUid};
use kruntimes_core::runtime_status::{Fault, Observed, PodState, status};
use kruntimes_core::schedule::{Claim, PodView, RuntimeView};
use kruntimes_core::ttl::TtlBounds;
use kruntimes_resources::Amounts;
use serde_json::Value;

use super::effects::{Applied, Kind};
use crate::events::{About, Note};
use crate::writer::WriteError;

/// Between two passes over one Runtime that nobody changed.
const PASS_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// Between two status writes that say more than how much is in use.
const STATUS_PAUSE: Duration = Duration::from_millis(250);
/// Between two status writes that say nothing else.
const USAGE_PAUSE: Duration = Duration::from_secs(10);

/// Kind and name of an object.
pub(super) type ObjectKey = (Kind, String);

/// An object that carries the Runtime's label.
#[derive(Debug, Clone)]
struct Owned {
    uid: String,
    version: Option<String>,
    generation: Option<i64>,
    /// Uid of its controller.
    owner: Option<String>,
}

/// One of the Runtime's Pods.
#[derive(Debug)]
pub(super) struct PodRecord {
    pub(super) view: PodView,
    pub(super) state: PodState,
    pub(super) capacity: Amounts,
}

/// A bound Run.
#[derive(Debug)]
struct Bound {
    pod: PodUid,
    claim: Claim,
    /// What the claim means under the Runtime as last seen.
    held: Amounts,
}

/// Everything that one pass writes, in this order.
#[derive(Debug, Clone, PartialEq)]
pub struct Pass {
    /// Namespace of the Runtime.
    pub namespace: String,
    /// Name of the Runtime.
    pub name: String,
    /// Generation of the Runtime.
    pub generation: Option<i64>,
    /// Annotations `(pod, value)` to write before Pods are chosen to go.
    pub costs: Vec<(String, String)>,
    /// Objects to apply.
    pub objects: Vec<(Kind, String, Value)>,
    /// Objects to delete: kind, name, uid.
    pub prune: Vec<(Kind, String, String)>,
}

/// What became of a [`Pass`].
#[derive(Debug, Clone, PartialEq)]
pub struct PassResult {
    /// Namespace of the Runtime.
    pub namespace: String,
    /// Name of the Runtime.
    pub name: String,
    /// Generation of the Runtime.
    pub generation: Option<i64>,
    /// Objects as they are now.
    pub applied: Vec<(Kind, String, Applied)>,
    /// What failed.
    pub errors: Vec<(Kind, String, WriteError)>,
}

/// One Runtime.
#[derive(Debug, Default)]
pub(super) struct Pool {
    pub(super) runtime: Option<Box<Runtime>>,
    pub(super) view: Option<RuntimeView>,
    deployment: Option<Box<Deployment>>,
    owned: HashMap<ObjectKey, Owned>,
    applied: HashMap<ObjectKey, Applied>,
    pub(super) pods: BTreeMap<PodUid, PodRecord>,
    bound: HashMap<RunUid, Bound>,
    pass_at: Option<Duration>,
    passing: bool,
    failures: u32,
    fault: Option<Fault>,
    /// Generation that the last pass was about.
    passed: Option<i64>,
    status_at: Option<Duration>,
    writing: bool,
    written_at: Option<Duration>,
    /// What people are told when the status under way is written.
    news: Option<Note>,
}

/// What there is to say of a Runtime's Pods.
#[derive(Debug)]
pub(super) struct Figures<'a> {
    pub(super) namespace: &'a str,
    pub(super) runtime: &'a str,
    /// Pods that take Runs.
    pub(super) ready: usize,
    /// Replicas asked for.
    pub(super) wanted: i32,
    /// What ready Pods offer.
    pub(super) capacity: Amounts,
    /// What bound Runs hold.
    pub(super) in_use: Amounts,
    /// Age of the oldest heartbeat.
    pub(super) silent: Duration,
}

impl Pool {
    /// Nothing is left to remember.
    pub(super) fn is_empty(&self) -> bool {
        self.runtime.is_none() && self.pods.is_empty() && self.bound.is_empty() && self.owned.is_empty()
    }

    /// Whether the Runtime's bounds for TTLs changed.
    pub(super) fn runtime_seen(&mut self, runtime: Box<Runtime>, now: Duration) -> bool {
        let bounds = self.bounds();
        let other = self.runtime.as_ref().is_none_or(|old| old.metadata.uid != runtime.metadata.uid);
        let changed = other || self.passed != runtime.metadata.generation;
        self.view_seen(RuntimeView::of(&runtime));
        self.runtime = Some(runtime);
        if changed {
            self.failures = 0;
            self.pass_at = Some(now);
        }
        self.status_at.get_or_insert(now);
        bounds != self.bounds()
    }

    /// Runs may be listed before their Runtime, and its defaults may change: what they hold follows.
    fn view_seen(&mut self, view: RuntimeView) {
        if self.view.as_ref() == Some(&view) {
            return;
        }
        for bound in self.bound.values_mut() {
            bound.held = bound.claim.held(Some(&view));
        }
        self.view = Some(view);
    }

    pub(super) fn runtime_gone(&mut self) {
        self.runtime = None;
        self.view = None;
        self.pass_at = None;
        self.passed = None;
        self.status_at = None;
        self.applied.clear();
    }

    pub(super) fn bounds(&self) -> TtlBounds {
        self.runtime.as_deref().map(TtlBounds::of).unwrap_or_default()
    }

    pub(super) fn deployment_seen(&mut self, deployment: Box<Deployment>, now: Duration) {
        self.object_seen(Kind::Deployment, &deployment.metadata, now);
        self.deployment = Some(deployment);
        self.touch(now);
    }

    /// An object with the Runtime's label was seen.
    pub(super) fn object_seen(&mut self, kind: Kind, meta: &ObjectMeta, now: Duration) {
        let key = (kind, meta.name.clone().unwrap_or_default());
        let controller = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
        let seen = Owned {
            uid: meta.uid.clone().unwrap_or_default(),
            version: meta.resource_version.clone(),
            generation: meta.generation,
            owner: controller.map(|owner| owner.uid.clone()),
        };
        // Status writes of others change the version, but not the generation.
        let ours =
            self.applied.get(&key).is_some_and(|applied| match (applied.generation, seen.generation) {
                (Some(applied), Some(seen)) => applied == seen,
                _ => applied.version == seen.version,
            });
        self.owned.insert(key, seen);
        if !ours && !self.passing {
            self.pass_soon(now);
        }
    }

    pub(super) fn object_gone(&mut self, kind: Kind, name: &str, now: Duration) {
        if kind == Kind::Deployment {
            self.deployment = None;
            self.touch(now);
        }
        let key = (kind, name.to_owned());
        self.owned.remove(&key);
        if self.applied.remove(&key).is_some() {
            self.pass_soon(now);
        }
    }

    /// Names of the known objects of a kind.
    pub(super) fn objects(&self, kind: Kind) -> Vec<String> {
        self.owned.keys().filter(|(other, _)| *other == kind).map(|(_, name)| name.clone()).collect()
    }

    fn pass_soon(&mut self, now: Duration) {
        if self.runtime.is_some() {
            self.pass_at.get_or_insert(now + PASS_PAUSE);
        }
    }

    /// Something that the status speaks of has changed.
    pub(super) fn touch(&mut self, now: Duration) {
        self.status_at.get_or_insert(now);
    }

    pub(super) fn bind(&mut self, uid: RunUid, pod: PodUid, claim: Claim, now: Duration) {
        let held = claim.held(self.view.as_ref());
        if self.bound.insert(uid, Bound { pod, claim, held }).is_none() {
            self.touch(now);
        }
    }

    pub(super) fn unbind(&mut self, uid: &RunUid, now: Duration) {
        if self.bound.remove(uid).is_some() {
            self.touch(now);
        }
    }

    /// The pass that is due, if one is.
    pub(super) fn pass(&mut self, defaults: &Defaults, now: Duration) -> Option<Pass> {
        if self.passing || self.pass_at.is_none_or(|at| at > now) {
            return None;
        }
        self.pass_at = None;
        let runtime = self.runtime.as_deref().filter(|r| r.metadata.deletion_timestamp.is_none())?;
        self.passed = runtime.metadata.generation;
        let desired = match desired(runtime, defaults) {
            Ok(desired) => desired,
            Err(error) => {
                // Permanent: the next pass comes with the next generation.
                self.fault = Some(Fault { reason: error.reason().into(), message: error.to_string() });
                self.touch(now);
                return None;
            }
        };
        let costs = self.costs(runtime.spec.replicas.unwrap_or(1));
        let account =
            desired.service_account.map(|o| (Kind::ServiceAccount, o.metadata.name.clone(), json(&o)));
        let objects = account.into_iter().chain([
            (Kind::Role, desired.role.metadata.name.clone(), json(&desired.role)),
            (Kind::RoleBinding, desired.role_binding.metadata.name.clone(), json(&desired.role_binding)),
            (
                Kind::NetworkPolicy,
                desired.network_policy.metadata.name.clone(),
                json(&desired.network_policy),
            ),
            (Kind::Deployment, desired.deployment.metadata.name.clone(), json(&desired.deployment)),
        ]);
        let objects: Vec<_> =
            objects.map(|(kind, name, value)| (kind, name.unwrap_or_default(), value)).collect();
        let wanted = |key: &ObjectKey| objects.iter().any(|(kind, name, _)| (*kind, name) == (key.0, &key.1));
        let uid = runtime.metadata.uid.as_deref();
        let stray = |(key, owned): &(&ObjectKey, &Owned)| owned.owner.as_deref() == uid && !wanted(key);
        let prune =
            self.owned.iter().filter(stray).map(|(key, owned)| (key.0, key.1.clone(), owned.uid.clone()));
        let pass = Pass {
            namespace: runtime.metadata.namespace.clone().unwrap_or_default(),
            name: runtime.metadata.name.clone().unwrap_or_default(),
            generation: runtime.metadata.generation,
            costs,
            prune: prune.collect(),
            objects,
        };
        self.passing = true;
        Some(pass)
    }

    /// How dear each Pod is, if Pods are about to be taken away: idle ones go first.
    fn costs(&self, wanted: i32) -> Vec<(String, String)> {
        let current = self.deployment.as_ref().and_then(|d| d.spec.as_ref()).and_then(|spec| spec.replicas);
        if current.is_none_or(|current| current <= wanted) {
            return Vec::new();
        }
        let mut runs: HashMap<&PodUid, u32> = HashMap::new();
        for bound in self.bound.values() {
            *runs.entry(&bound.pod).or_default() += 1;
        }
        let cost = |(uid, pod): (&PodUid, &PodRecord)| {
            (pod.view.name.to_string(), runs.get(uid).copied().unwrap_or(0).to_string())
        };
        self.pods.iter().map(cost).collect()
    }

    /// A pass has ended.
    pub(super) fn passed(&mut self, result: PassResult, now: Duration) {
        self.passing = false;
        for (kind, name, applied) in result.applied {
            self.applied.insert((kind, name), applied);
        }
        let first = result.errors.first();
        self.fault = first.map(|(kind, name, error)| Fault {
            reason: "ApplyFailed".into(),
            message: format!("{kind:?} {name}: {error}"),
        });
        // What the API refuses stays refused until the Runtime, or an owned object, changes.
        let repeatable = |error: &WriteError| !matches!(error, WriteError::Refused(_));
        if result.errors.iter().any(|(_, _, error)| repeatable(error)) {
            self.failures += 1;
            let backoff = PASS_PAUSE.saturating_mul(1 << self.failures.min(6)).min(LONGEST_BACKOFF);
            self.pass_at.get_or_insert(now + backoff);
        } else if first.is_some() {
            self.pass_at.get_or_insert(now + LONGEST_BACKOFF);
        } else {
            self.failures = 0;
            // Somebody may have changed an object after we applied it.
            let differs = |(key, owned): (&ObjectKey, &Owned)| {
                self.applied.get(key).is_some_and(|applied| match (applied.generation, owned.generation) {
                    (Some(applied), Some(seen)) => seen > applied,
                    // Ours may still be on its way: then the next pass changes nothing.
                    _ => applied.version != owned.version,
                })
            };
            if self.owned.iter().any(differs) {
                self.pass_soon(now);
            }
        }
        self.touch(now);
    }

    /// The status write that is due, if one is: uid and the whole status.
    pub(super) fn status(&mut self, now: Duration, wall: Timestamp) -> Option<(String, RuntimeStatus)> {
        // A pass ends with one status write; before, there is nothing final to say.
        if self.passing || self.writing || self.status_at.is_none_or(|at| at > now) {
            return None;
        }
        let runtime = self.runtime.as_deref()?;
        let pods: Vec<PodState> = self.pods.values().map(|pod| pod.state.clone()).collect();
        let (capacity, in_use) = self.amounts();
        let observed = Observed {
            deployment: self.deployment.as_deref(),
            pods: &pods,
            capacity,
            in_use,
            fault: self.fault.clone(),
        };
        let wanted = status(runtime, &observed, wall);
        let known = runtime.status.clone().unwrap_or_default();
        self.status_at = None;
        if known == wanted {
            return None;
        }
        let only_usage = RuntimeStatus { in_use: wanted.in_use.clone(), ..known.clone() } == wanted;
        let pause = if only_usage { USAGE_PAUSE } else { STATUS_PAUSE };
        let at = self.written_at.map_or(now, |last| last + pause);
        if at > now {
            self.status_at = Some(at);
            return None;
        }
        self.writing = true;
        self.written_at = Some(now);
        self.news = degradation(runtime, &known, &wanted);
        Some((runtime.metadata.uid.clone().unwrap_or_default(), wanted))
    }

    /// What ready Pods offer together, and what bound Runs hold.
    pub(super) fn amounts(&self) -> (Amounts, Amounts) {
        let (mut capacity, mut in_use) = (Amounts::new(), Amounts::new());
        for pod in self.pods.values().filter(|pod| pod.state.ready && !pod.state.deleting) {
            capacity.add(&pod.capacity);
        }
        for bound in self.bound.values() {
            in_use.add(&bound.held);
        }
        (capacity, in_use)
    }

    /// A status write was answered. Returns what people are to be told of it.
    pub(super) fn status_written(
        &mut self,
        written: Result<RuntimeStatus, WriteError>,
        now: Duration,
    ) -> Option<Note> {
        self.writing = false;
        let news = self.news.take().filter(|_| written.is_ok());
        match written {
            // The watch brings it too, but maybe later than the next change.
            Ok(status) => {
                if let Some(runtime) = &mut self.runtime {
                    runtime.status = Some(status);
                }
            }
            Err(_) => {
                self.status_at.get_or_insert(now + PASS_PAUSE);
            }
        }
        news
    }

    /// When to look again.
    pub(super) fn due(&self) -> Option<Duration> {
        let pass = self.pass_at.filter(|_| !self.passing && self.runtime.is_some());
        let status = self.status_at.filter(|_| !self.writing && !self.passing && self.runtime.is_some());
        [pass, status].into_iter().flatten().min()
    }

    /// Ready Pods and wanted Pods.
    pub(super) fn size(&self) -> (usize, i32) {
        let ready = self.pods.values().filter(|pod| pod.state.ready && !pod.state.deleting).count();
        (ready, self.runtime.as_ref().map_or(0, |runtime| runtime.spec.replicas.unwrap_or(1)))
    }
}

/// News of a pool that has a problem, has another one, or none any more.
fn degradation(runtime: &Runtime, old: &RuntimeStatus, new: &RuntimeStatus) -> Option<Note> {
    let degraded = |status: &RuntimeStatus| {
        let condition = status.conditions.iter().find(|condition| condition.type_ == "Degraded")?;
        (condition.status == "True").then(|| (condition.reason.clone(), condition.message.clone()))
    };
    let (warning, reason, message) = match (degraded(old), degraded(new)) {
        (None, None) => return None,
        (Some((before, _)), Some((now, _))) if before == now => return None,
        (_, Some((reason, message))) => (true, reason, message),
        (Some((before, _)), None) => (false, "Recovered".to_owned(), format!("{before} is over")),
    };
    let meta = &runtime.metadata;
    let about = About {
        kind: "Runtime",
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
    };
    Some(Note { about, warning, reason, message })
}

/// Typed objects always serialize.
fn json(object: &impl serde::Serialize) -> Value {
    serde_json::to_value(object).unwrap_or(Value::Null)
}

/// The annotation that [`Pass::costs`] writes.
pub(super) const COST: &str = POD_DELETION_COST;
