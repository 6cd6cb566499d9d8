//! What liveness looks at in a Pod.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kruntimes_api::names::RUNTIMED_READY;

use crate::ids::PodUid;

/// What is known of a Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFacts {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: PodUid,
    /// Asked to stop.
    pub deleting: bool,
    /// Time in the heartbeat, whatever it says otherwise.
    pub beat: Option<Timestamp>,
    /// Its containers have ended for good, and why.
    pub ended: Option<String>,
    /// All of them ended well: its runtimed had nothing left to do.
    pub drained: bool,
}

impl PodFacts {
    /// Reads a Pod; `None` without an identity.
    pub fn of(pod: &Pod) -> Option<Self> {
        let status = pod.status.as_ref();
        let phase = status.and_then(|s| s.phase.as_deref());
        let ended = phase.filter(|phase| matches!(*phase, "Failed" | "Succeeded")).map(|phase| {
            let words = status.map(|s| [s.reason.as_deref(), s.message.as_deref()]).unwrap_or_default();
            [Some(phase)].into_iter().chain(words).flatten().collect::<Vec<_>>().join(": ")
        });
        let conditions = status.and_then(|s| s.conditions.as_ref());
        let beat = conditions.into_iter().flatten().find(|condition| condition.type_ == RUNTIMED_READY);
        Some(Self {
            namespace: pod.metadata.namespace.clone()?,
            name: pod.metadata.name.clone()?,
            uid: PodUid::from(pod.metadata.uid.as_deref()?),
            deleting: pod.metadata.deletion_timestamp.is_some(),
            beat: beat.and_then(|condition| condition.last_probe_time.as_ref()).map(|time| time.0),
            ended,
            drained: phase == Some("Succeeded"),
        })
    }
}
