//! The Pod condition `kruntimes.io/RuntimedReady`.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kruntimes_api::names::{HEARTBEAT_REASON, RUNTIMED_READY};
use kruntimes_api::run::IsolationAxis;
use kruntimes_api::runtime::RequiredIsolation;
use kruntimes_core::ids::PodRef;
use kruntimes_core::isolation::unmet;
use kruntimes_proto::v1;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::ApiError;
use crate::metrics::RuntimedMetrics;
use crate::server::{ServerView, Trouble, isolation_axes};

/// Between two heartbeats when nothing changes.
pub const PERIOD: Duration = Duration::from_secs(10);
/// After a failed write.
const RETRY: Duration = Duration::from_secs(1);

/// What the condition says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// Whether Runs may be bound to this Pod.
    pub ready: bool,
    /// A word.
    pub reason: &'static str,
    /// A sentence that a person can act on; empty when ready.
    pub message: String,
}

/// What this program itself adds to the server's state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Own {
    /// The list of Runs is complete.
    pub synced: bool,
    /// The Pod stops.
    pub draining: bool,
}

/// What the API said of our Pod in answer to a heartbeat.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodInfo {
    /// Capacity is in them.
    pub annotations: BTreeMap<String, String>,
    /// The Pod was asked to stop.
    pub deleting: bool,
}

/// Whether Runs may come, and if not, why.
pub fn readiness(own: Own, view: &ServerView, required: Option<&RequiredIsolation>) -> Readiness {
    let not = |reason, message: String| Readiness { ready: false, reason, message };
    if own.draining {
        return not("Draining", "the Pod is stopping".into());
    }
    match &view.trouble {
        Some(Trouble::Unreachable(why)) => return not("ServerUnreachable", why.clone()),
        Some(Trouble::Unhealthy(why)) => return not("ServerUnhealthy", why.clone()),
        None if view.client.is_none() => {
            return not("ServerUnreachable", "no Runtime Server was found yet".into());
        }
        None => {}
    }
    if !own.synced {
        return not("ApiUnreachable", "the Runs of this Pod were not listed yet".into());
    }
    match required.and_then(|required| missing_isolation(required, view.describe.as_deref())) {
        Some(why) => not("IsolationMissing", why),
        None => Readiness { ready: true, reason: HEARTBEAT_REASON, message: String::new() },
    }
}

/// The first axis that is weaker than required.
fn missing_isolation(
    required: &RequiredIsolation,
    describe: Option<&v1::DescribeResponse>,
) -> Option<String> {
    let given: Vec<IsolationAxis> =
        describe.and_then(|describe| describe.isolation.as_ref()).map(isolation_axes).unwrap_or_default();
    let unmet = unmet(required, &given);
    let first = unmet.first()?;
    let why = match first.given {
        Some(given) if !given.reason.is_empty() => &given.reason,
        Some(_) => "the server gives no reason",
        None => "the server does not report this axis",
    };
    Some(format!(
        "isolation.require.{} is {:?} but this Pod gives {:?}: {why}",
        first.axis,
        first.required,
        first.level()
    ))
}

/// Keeps the condition true to the state until `stop`; then it has been written a last time.
pub struct Heartbeat {
    /// Pods of our namespace.
    pub pods: Api<Pod>,
    /// Ourselves.
    pub pod: PodRef,
    /// From `Runtime.spec.isolation.require`.
    pub required: Option<RequiredIsolation>,
    /// The server's state.
    pub views: watch::Receiver<ServerView>,
    /// Ours.
    pub own: watch::Receiver<Own>,
    /// What the API answers.
    pub info: watch::Sender<Option<PodInfo>>,
    /// What was last written, for `/readyz`.
    pub written: watch::Sender<Option<Readiness>>,
    /// Counts what is written.
    pub metrics: RuntimedMetrics,
}

impl Heartbeat {
    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut said: Option<(Readiness, Timestamp)> = None;
        loop {
            let wanted = readiness(
                *self.own.borrow_and_update(),
                &self.views.borrow_and_update(),
                self.required.as_ref(),
            );
            let now = Timestamp::now();
            let since = match &said {
                Some((before, since)) if before.ready == wanted.ready => *since,
                Some(_) | None => now,
            };
            let mut pause = PERIOD;
            let answer = self.write(&wanted, since, now).await;
            self.metrics.heartbeat(answer.is_ok());
            match answer {
                Ok(pod) => {
                    if said.as_ref().map(|(before, _)| before) != Some(&wanted) {
                        tracing::info!(ready = wanted.ready, reason = wanted.reason, message = %wanted.message, "heartbeat");
                    }
                    said = Some((wanted.clone(), since));
                    self.written.send_replace(Some(wanted.clone()));
                    let info = PodInfo {
                        annotations: pod.metadata.annotations.unwrap_or_default(),
                        deleting: pod.metadata.deletion_timestamp.is_some(),
                    };
                    self.info.send_if_modified(|before| {
                        let changed = before.as_ref() != Some(&info);
                        *before = Some(info);
                        changed
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "heartbeat could not be written");
                    pause = RETRY;
                    if let ApiError::NotFound(_) | ApiError::Conflict(_) = ApiError::from(error) {
                        // Gone, or another Pod of our name: nothing is more deleted.
                        self.info.send_replace(Some(PodInfo { deleting: true, ..PodInfo::default() }));
                        self.written.send_replace(Some(wanted.clone()));
                    }
                }
            }
            if !self.wait_for_change(&wanted, pause, &stop).await {
                return;
            }
        }
    }

    /// Until something else is to be said or `pause` is over; false when `stop` came.
    async fn wait_for_change(&mut self, said: &Readiness, pause: Duration, stop: &CancellationToken) -> bool {
        let over = tokio::time::sleep(pause);
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = &mut over => return true,
                () = stop.cancelled() => return false,
                Ok(()) = self.own.changed() => {}
                Ok(()) = self.views.changed() => {}
            }
            let now = readiness(*self.own.borrow(), &self.views.borrow(), self.required.as_ref());
            if now != *said {
                return true;
            }
        }
    }

    async fn write(&self, wanted: &Readiness, since: Timestamp, now: Timestamp) -> Result<Pod, kube::Error> {
        let patch = condition_patch(&self.pod, wanted, since, now);
        self.pods.patch_status(&self.pod.name, &PatchParams::default(), &Patch::Strategic(patch)).await
    }
}

/// Strategic merge patch: conditions are merged by type, and the uid fences off a namesake.
fn condition_patch(pod: &PodRef, wanted: &Readiness, since: Timestamp, now: Timestamp) -> Value {
    let second = |time: Timestamp| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    json!({
        "metadata": {"uid": pod.uid.as_str()},
        "status": {"conditions": [{
            "type": RUNTIMED_READY,
            "status": if wanted.ready { "True" } else { "False" },
            "reason": wanted.reason,
            "message": crate::text::first_bytes(&wanted.message, 1024),
            "lastProbeTime": second(now),
            "lastTransitionTime": second(since),
        }]},
    })
}

#[cfg(test)]
#[path = "heartbeat_tests.rs"]
mod tests;
