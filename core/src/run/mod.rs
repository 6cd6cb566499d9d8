//! The life of a Run: the one door to its status.
//!
//! [`transition`] takes the Run as read, what happened and the time, and returns
//! the whole new status; [`patch`] turns that into a fenced merge patch. Who calls
//! with what is written at each [`Event`].

mod conditions;
mod effective;
mod patch;
mod retry;
mod state;
mod transition;
mod usage;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kruntimes_api::Reason;
use kruntimes_api::run::{BackendStatus, DeviceHeld, Figure, IsolationAxis, Phase, RunStatus};

use crate::ids::{Fence, PodRef, PodUid};

pub use effective::effective;
pub use patch::patch;
pub use retry::{MAX_BACKOFF, backoff};
pub use state::{MalformedStatus, State};
pub use transition::transition;

/// Something that happened to a Run.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The scheduler chose a Pod.
    Bind {
        /// The Pod.
        pod: PodRef,
        /// When the scheduler first saw the Run.
        queued_at: Timestamp,
    },
    /// The scheduler found no Pod; changes only reason and message.
    Unschedulable {
        /// For a person: what is missing where.
        message: String,
    },
    /// The spec cannot be run as written; final.
    Invalid {
        /// Names the field.
        message: String,
    },
    /// Cancelled while nobody owns it (scheduler).
    CancelUnassigned,
    /// `spec.pendingTimeout` passed (scheduler).
    PendingTimeout,
    /// The process started (runtimed).
    Started {
        /// Whose.
        fence: Fence,
        /// When.
        at: Timestamp,
        /// What it holds.
        devices: Vec<DeviceHeld>,
    },
    /// Given back without having run: no room, or the Pod drains. Not counted (runtimed).
    HandBack {
        /// Whose.
        fence: Fence,
        /// For a person.
        message: String,
        /// Not bound again before this time has passed.
        delay: Duration,
    },
    /// Ended for `spec.suspend`. Not counted (runtimed).
    Suspended {
        /// Whose.
        fence: Fence,
        /// What the attempt used.
        usage: Option<AttemptUsage>,
    },
    /// The attempt ended (runtimed).
    Finished {
        /// Whose.
        fence: Fence,
        /// How.
        finish: Box<Finish>,
    },
    /// The Pod that owned the attempt is lost (liveness).
    PodLost {
        /// The Pod that was looked for.
        pod: PodUid,
        /// How it was lost.
        lost: Lost,
        /// For a person.
        message: String,
    },
}

/// How a Pod was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lost {
    /// It no longer exists.
    Gone,
    /// It was asked to stop and did not hand the Run back.
    Terminating,
    /// Its heartbeat stopped.
    Unhealthy,
    /// It ended well: its runtimed left when nothing that it knew of was to do any more. What is still `Scheduled` there was
    /// bound too late for it and never began.
    Drained,
}

impl Lost {
    /// The reason of an attempt that ended so.
    pub fn reason(self) -> Reason {
        match self {
            Self::Gone => Reason::PodGone,
            Self::Terminating | Self::Drained => Reason::PodTerminating,
            Self::Unhealthy => Reason::PodUnhealthy,
        }
    }
}

/// What one attempt used.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AttemptUsage {
    /// Figures with their sources.
    pub figures: Vec<Figure>,
    /// True when something is known to be missing.
    pub incomplete: bool,
}

impl AttemptUsage {
    /// What is known of an attempt that may have worked and left no record.
    pub fn unknown() -> Self {
        Self { figures: Vec::new(), incomplete: true }
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Finish {
    /// Why.
    pub reason: Reason,
    /// For a person; cut to 4096 bytes.
    pub message: String,
    /// 128+n after signal n.
    pub exit_code: Option<i32>,
    /// When the process started; absent when it never did.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Timestamp,
    /// Validated outputs; only with [`Reason::Completed`].
    pub outputs: BTreeMap<String, String>,
    /// What it used.
    pub usage: Option<AttemptUsage>,
    /// What it held.
    pub devices: Vec<DeviceHeld>,
    /// What really held.
    pub isolation: Vec<IsolationAxis>,
    /// Remote work.
    pub backend: Option<BackendStatus>,
    /// Last bytes of its output.
    pub log_tail: Option<String>,
    /// The commit that was executed.
    pub resolved_sha: Option<String>,
}

/// Looking things up in a status.
trait RunStatusExt {
    fn condition(&self, kind: &str) -> Option<&Condition>;
}

impl RunStatusExt for RunStatus {
    fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|c| c.type_ == kind)
    }
}

/// Why an event changes nothing.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// Terminal is final.
    #[error("the run has ended as {phase}")]
    Final {
        /// How.
        phase: Phase,
    },
    /// The event speaks of an older attempt, assignment or Pod.
    #[error("stale effect: meant for {meant}, the run is at {current}")]
    Stale {
        /// What the event carried.
        meant: String,
        /// What the Run carries.
        current: String,
    },
    /// The event makes no sense in this phase.
    #[error("{event} does not apply to a run in phase {phase}")]
    NotApplicable {
        /// Name of the event.
        event: &'static str,
        /// Phase of the Run.
        phase: Phase,
    },
    /// The status contradicts itself.
    #[error(transparent)]
    Malformed(#[from] MalformedStatus),
}
