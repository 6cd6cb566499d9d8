//! A Run's status as a typed state.

use jiff::Timestamp;
use kruntimes_api::run::{Phase, Run};

use crate::ids::{Fence, PodRef, PodUid, RunUid};

/// Where a Run is, with the data that the place implies.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// Not bound.
    Pending {
        /// The attempt it waits for, from 1.
        attempt: i32,
        /// Not bound before this time.
        not_before: Option<Timestamp>,
    },
    /// Bound; may have started already.
    Scheduled {
        /// Where.
        pod: PodRef,
        /// Current fence.
        fence: Fence,
    },
    /// Started.
    Running {
        /// Where.
        pod: PodRef,
        /// Current fence.
        fence: Fence,
        /// When.
        started: Timestamp,
    },
    /// A function that takes calls.
    Ready {
        /// Where.
        pod: PodRef,
        /// Current fence.
        fence: Fence,
    },
    /// Final.
    Ended {
        /// How.
        phase: Phase,
    },
}

/// A status that our own transitions never write.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("run {run} in phase {phase} has no {field}")]
pub struct MalformedStatus {
    /// Name.
    pub run: String,
    /// Phase.
    pub phase: Phase,
    /// Missing field.
    pub field: &'static str,
}

impl State {
    /// Reads the state of `run`; an absent status or phase is Pending.
    ///
    /// # Errors
    /// When a bound phase lacks Pod or uid.
    pub fn of(run: &Run) -> Result<Self, MalformedStatus> {
        let status = run.status.as_ref();
        let phase = status.and_then(|s| s.phase).unwrap_or_default();
        let attempt = status.and_then(|s| s.attempt).unwrap_or(1).max(1);
        if phase.is_terminal() {
            return Ok(Self::Ended { phase });
        }
        if phase == Phase::Pending {
            let not_before = status.and_then(|s| s.next_attempt_time.as_ref()).map(|t| t.0);
            return Ok(Self::Pending { attempt, not_before });
        }
        let missing =
            |field| MalformedStatus { run: run.metadata.name.clone().unwrap_or_default(), phase, field };
        let name = status.and_then(|s| s.assigned_pod.clone()).ok_or_else(|| missing("assignedPod"))?;
        let uid =
            status.and_then(|s| s.assigned_pod_uid.as_deref()).ok_or_else(|| missing("assignedPodUID"))?;
        let pod = PodRef { name, uid: PodUid::from(uid) };
        let fence = Fence {
            run: RunUid::from(run.metadata.uid.as_deref().unwrap_or_default()),
            attempt,
            assignment: status.and_then(|s| s.assignment).unwrap_or(1),
        };
        Ok(match phase {
            Phase::Running => {
                let started =
                    status.and_then(|s| s.start_time.as_ref()).ok_or_else(|| missing("startTime"))?.0;
                Self::Running { pod, fence, started }
            }
            Phase::Ready => Self::Ready { pod, fence },
            Phase::Scheduled
            | Phase::Pending
            | Phase::Succeeded
            | Phase::Failed
            | Phase::Timeout
            | Phase::Cancelled => Self::Scheduled { pod, fence },
        })
    }

    /// The phase of this state.
    pub fn phase(&self) -> Phase {
        match self {
            Self::Pending { .. } => Phase::Pending,
            Self::Scheduled { .. } => Phase::Scheduled,
            Self::Running { .. } => Phase::Running,
            Self::Ready { .. } => Phase::Ready,
            Self::Ended { phase } => *phase,
        }
    }

    /// The Pod and fence of a bound state.
    pub fn bound(&self) -> Option<(&PodRef, &Fence)> {
        match self {
            Self::Scheduled { pod, fence }
            | Self::Running { pod, fence, .. }
            | Self::Ready { pod, fence } => Some((pod, fence)),
            Self::Pending { .. } | Self::Ended { .. } => None,
        }
    }
}
