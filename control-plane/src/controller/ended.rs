//! Ended Runs that are to be deleted some day, and nothing else of them.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kruntimes_api::run::Phase;
use kruntimes_api::{Reason, Run};
use kruntimes_core::ids::RunUid;
use kruntimes_core::schedule::Now;
use kruntimes_core::ttl::{Ended, TtlBounds, delete_in};
use kube_derive::Resource;
use serde::Deserialize;

use crate::events::About;

/// Field selector of ended Runs: the counterpart of [`crate::watch::NOT_ENDED`].
pub(super) const ENDED: &str =
    "status.phase!=,status.phase!=Pending,status.phase!=Scheduled,status.phase!=Running,status.phase!=Ready";
/// An end older than this was seen by somebody before.
const FRESH: SignedDuration = SignedDuration::from_secs(30);
/// Ended Runs carry whole scripts and outputs: small pages bound what a list holds at once.
pub(super) const PAGE: u32 = 100;

/// An ended Run as the controller watches it.
#[derive(Debug, Clone, Deserialize, Resource)]
#[resource(inherit = "Run")]
pub struct EndedRun {
    metadata: ObjectMeta,
    spec: EndedSpec,
    #[serde(default)]
    status: EndedStatus,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct EndedSpec {
    runtime: String,
    #[serde(default)]
    ttl_seconds_after_finished: Option<i32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct EndedStatus {
    #[serde(default)]
    completion_time: Option<MicroTime>,
    #[serde(default)]
    queued_time: Option<MicroTime>,
    #[serde(default)]
    phase: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

/// An end that was just seen.
#[derive(Debug)]
pub(super) struct News<'a> {
    /// A word of the API.
    pub(super) phase: &'static str,
    /// A word of the API, or `other`.
    pub(super) reason: &'static str,
    /// Seconds from its first sight by a scheduler to its end.
    pub(super) took: Option<f64>,
    /// What its status says.
    pub(super) message: &'a str,
}

impl EndedRun {
    pub(super) fn uid(&self) -> Option<RunUid> {
        self.metadata.uid.as_deref().map(RunUid::from)
    }

    /// Namespace and name of its Runtime.
    pub(super) fn runtime(&self) -> (String, String) {
        (self.metadata.namespace.clone().unwrap_or_default(), self.spec.runtime.clone())
    }

    /// What the Run is, for people.
    pub(super) fn about(&self) -> About {
        let meta = &self.metadata;
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        About { kind: "Run", namespace: text(&meta.namespace), name: text(&meta.name), uid: text(&meta.uid) }
    }

    /// The end, if it is so fresh that nobody can have seen it before: a later change of an ended Run is no news.
    pub(super) fn news(&self, now: Timestamp) -> Option<News<'_>> {
        let EndedStatus { completion_time, queued_time, phase, reason, message } = &self.status;
        let end = completion_time.as_ref()?.0;
        (now.duration_since(end).abs() < FRESH).then_some(())?;
        let phase = Phase::ALL.into_iter().find(|known| known.as_str() == phase)?;
        let reason = Reason::ALL.into_iter().find(|known| known.as_str() == reason);
        Some(News {
            phase: phase.as_str(),
            reason: reason.map_or("other", Reason::as_str),
            took: queued_time.as_ref().map(|queued| end.duration_since(queued.0).as_secs_f64().max(0.0)),
            message,
        })
    }

    /// See [`delete_in`].
    fn due_in(&self, bounds: TtlBounds, now: Timestamp) -> Option<Duration> {
        let created = self.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let at = self.status.completion_time.as_ref().map(|time| time.0).or(created)?;
        delete_in(Ended { at, ttl: self.spec.ttl_seconds_after_finished }, bounds, now)
    }
}

/// The Runs that have a time to go, on our own clock: a wall clock that jumps must delete nothing early.
#[derive(Debug, Default)]
pub(super) struct Ending {
    runs: HashMap<RunUid, Leaving>,
    order: BTreeSet<(Duration, RunUid)>,
}

#[derive(Debug)]
struct Leaving {
    /// When it was first seen to have ended, by both clocks.
    seen: Now,
    due: Duration,
    namespace: String,
    name: String,
}

impl Ending {
    /// Keeps the Run if it has a time to go.
    pub(super) fn seen(&mut self, run: &EndedRun, bounds: TtlBounds, now: Now) {
        let Some(uid) = run.uid() else { return };
        let seen = self.gone(&uid).map_or(now, |old| old.seen);
        let Some(left) = run.due_in(bounds, seen.wall) else { return };
        let meta = &run.metadata;
        let (namespace, name) =
            (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
        let due = seen.mono.saturating_add(left);
        self.order.insert((due, uid.clone()));
        self.runs.insert(uid, Leaving { seen, due, namespace, name });
    }

    /// Forgets it.
    pub(super) fn forget(&mut self, uid: &RunUid) {
        self.gone(uid);
    }

    fn gone(&mut self, uid: &RunUid) -> Option<Leaving> {
        let leaving = self.runs.remove(uid)?;
        self.order.remove(&(leaving.due, uid.clone()));
        Some(leaving)
    }

    pub(super) fn retain(&mut self, listed: &std::collections::HashSet<RunUid>) {
        let gone: Vec<_> = self.runs.keys().filter(|uid| !listed.contains(*uid)).cloned().collect();
        for uid in gone {
            self.forget(&uid);
        }
    }

    /// Takes one that is due: uid, namespace, name. It stays known until it is gone.
    pub(super) fn pop(&mut self, now: Duration) -> Option<(RunUid, String, String)> {
        if self.order.first()?.0 > now {
            return None;
        }
        let (_, uid) = self.order.pop_first()?;
        let run = self.runs.get(&uid)?;
        let (namespace, name) = (run.namespace.clone(), run.name.clone());
        Some((uid, namespace, name))
    }

    /// The deletion failed: due again at `at`.
    pub(super) fn again(&mut self, uid: &RunUid, at: Duration) {
        if let Some(run) = self.runs.get_mut(uid) {
            run.due = at;
            self.order.insert((at, uid.clone()));
        }
    }

    pub(super) fn next(&self) -> Option<Duration> {
        self.order.first().map(|(due, _)| *due)
    }

    pub(super) fn len(&self) -> usize {
        self.runs.len()
    }
}
