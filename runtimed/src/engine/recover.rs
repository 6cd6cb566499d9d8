//! What to do with a Run that is bound to this Pod, given what everybody knows of it.

use kruntimes_core::ids::Fence;
use kruntimes_core::run::State;
use serde::{Deserialize, Serialize};

use super::Prepared;
use crate::server::{Execution, Instance};

/// What the journal keeps of an attempt, so that a restart of this program neither
/// forgets an execution nor starts one twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Attempt.
    pub attempt: i32,
    /// Bind counter.
    pub assignment: i64,
    /// Set before Execute is sent, once the source is prepared.
    #[serde(default)]
    pub sent_to: Option<Instance>,
    /// See [`Prepared`].
    #[serde(default)]
    pub subfolder: String,
    /// See [`Prepared`].
    #[serde(default)]
    pub resolved_sha: Option<String>,
}

impl Record {
    /// Of an attempt that was not sent.
    pub fn new(fence: &Fence) -> Self {
        Self {
            attempt: fence.attempt,
            assignment: fence.assignment,
            sent_to: None,
            subfolder: String::new(),
            resolved_sha: None,
        }
    }

    /// Whether it speaks of `fence`.
    pub fn is_of(&self, fence: &Fence) -> bool {
        self.attempt == fence.attempt && self.assignment == fence.assignment
    }
}

/// How to go on.
#[derive(Debug, PartialEq)]
pub(super) enum Plan {
    /// Never started: from the beginning.
    Begin,
    /// The server has it.
    Adopt(Box<Execution>),
    /// Sent to this very instance, which does not know it: sending again cannot start it twice.
    Resend(Prepared),
    /// Sent to this very instance, but not in what it says that it knows: which may be older than
    /// the sending. It has to be asked.
    Ask,
    /// It started, or may have, and is nowhere now.
    Lost(&'static str),
    /// An older attempt is in the way.
    Clear(Fence),
    /// The server has a newer one: what we know of the Run is out of date.
    OutOfDate,
}

/// Decides; `state` is the Run's, `confirmed` that a server had it since we look after it, `known`
/// what the server has under its id now.
pub(super) fn plan(
    state: &State,
    confirmed: bool,
    fence: &Fence,
    record: &Record,
    instance: &Instance,
    known: Option<&Execution>,
) -> Plan {
    let started = confirmed || matches!(state, State::Running { .. } | State::Ready { .. });
    if let Some(execution) = known {
        // A baseline server knows no attempts: what it runs under this id is what we sent last.
        let theirs = execution.fence(&fence.run).unwrap_or_else(|| {
            if record.sent_to.is_some() || started {
                fence.clone()
            } else {
                Fence { run: fence.run.clone(), attempt: 0, assignment: 0 }
            }
        });
        return match theirs.assignment.cmp(&fence.assignment) {
            std::cmp::Ordering::Equal => Plan::Adopt(Box::new(execution.clone())),
            std::cmp::Ordering::Less if record.sent_to.as_ref() == Some(instance) => Plan::Ask,
            std::cmp::Ordering::Less => Plan::Clear(theirs),
            std::cmp::Ordering::Greater => Plan::OutOfDate,
        };
    }
    match &record.sent_to {
        Some(sent) if sent != instance => {
            Plan::Lost("the Runtime Server was restarted while it had this execution")
        }
        Some(_) if started || *instance == Instance::Baseline => Plan::Ask,
        Some(_) => Plan::Resend(Prepared {
            subfolder: record.subfolder.clone(),
            resolved_sha: record.resolved_sha.clone(),
        }),
        None if started => Plan::Lost("the Runtime Server does not know this execution"),
        None => Plan::Begin,
    }
}
