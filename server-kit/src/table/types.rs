//! The words of the execution table.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kruntimes_proto::v1::StopCause;

use crate::isolation::Breach;
use crate::supervisor::wire::Ended;
use crate::usage::Measured;

/// An opaque id, checked to be 1..=128 bytes of `[A-Za-z0-9._-]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ExecutionId(Arc<str>);

impl From<&str> for ExecutionId {
    fn from(id: &str) -> Self {
        Self(id.into())
    }
}

impl ExecutionId {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ExecutionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which try of an execution a call means. Attempt 0 comes from clients that know no attempts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fence {
    pub attempt: u32,
    pub assignment: u64,
}

/// One fence seen from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Age {
    Older,
    Same,
    Newer,
}

impl Fence {
    pub(crate) fn is_baseline(self) -> bool {
        self.attempt == 0
    }

    /// How `self` stands to `known`. The same attempt with a higher assignment is newer: it was handed
    /// back and bound again. An assignment of 0 is not compared.
    pub(crate) fn against(self, known: Self) -> Age {
        let assignments = if self.assignment == 0 || known.assignment == 0 {
            Ordering::Equal
        } else {
            self.assignment.cmp(&known.assignment)
        };
        match self.attempt.cmp(&known.attempt).then(assignments) {
            Ordering::Less => Age::Older,
            Ordering::Equal => Age::Same,
            Ordering::Greater => Age::Newer,
        }
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "attempt {} (assignment {})", self.attempt, self.assignment)
    }
}

/// One accepted execution, never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot(pub(super) u64);

/// Times that the request sets, counted from its acceptance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    pub end_after: Option<Duration>,
    pub grace: Option<Duration>,
    pub warning: Option<Warning>,
}

/// A signal ahead of the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Warning {
    pub signal: i32,
    pub after: Duration,
}

/// What the table knows of one execution.
#[derive(Debug)]
pub(crate) struct Entry<P> {
    pub slot: Slot,
    pub fence: Fence,
    pub grace: Duration,
    pub payload: P,
    pub state: State,
}

/// Where an execution stands.
#[derive(Debug)]
pub(crate) enum State {
    Starting { stop: Option<Stop> },
    Running { started_at: i64, stop: Option<Stop>, sample: Option<Box<Measured>> },
    Finished(Box<Outcome>),
}

/// That an execution must end, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stop {
    pub cause: StopCause,
    pub grace: Duration,
    /// What the cause alone does not say.
    pub message: String,
}

/// The end of an execution as its task found it: from its supervisor, its control groups and its folder.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    pub end: Ended,
    pub measured: Measured,
    /// A bound that it broke, which ended it whether or not it noticed.
    pub breach: Option<Breach>,
}

/// How an execution ended; never changes. Times in Unix microseconds, 0 = never.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub cause: StopCause,
    pub code: i32,
    pub signal: i32,
    /// What the cause alone does not say.
    pub message: String,
    pub started_at: i64,
    pub finished_at: i64,
    pub measured: Measured,
    /// Nothing of it is left, by the kernel's word.
    pub proven: bool,
    /// All that it used was counted to its end.
    pub whole: bool,
}

impl Outcome {
    pub(super) fn never_started(at: i64) -> Self {
        Self {
            cause: StopCause::Unspecified,
            code: -1,
            signal: 0,
            message: String::new(),
            started_at: 0,
            finished_at: at,
            measured: Measured::default(),
            proven: true,
            whole: true,
        }
    }
}

/// What Execute came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Accepted<P> {
    New {
        slot: Slot,
        payload: P,
        actions: Vec<Action>,
    },
    /// In already, running or finished.
    Same(P),
}

/// What must be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// To the command's process group.
    Signal(Slot, i32),
    /// Everything, now.
    Kill(Slot),
    /// Call `timer` after that long.
    Arm(Slot, Timer, Duration),
    /// Tell the watchers.
    Publish(Slot),
}

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// Send this signal ahead of the end.
    Warn(i32),
    /// The time is over.
    End,
    /// The grace is over.
    Kill,
}

/// Why a call is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("no such execution")]
    Unknown,
    #[error("{given} is older than {known}")]
    Older { known: Fence, given: Fence },
    #[error("{fence} still runs")]
    StillRunning { fence: Fence },
    #[error("{active} executions run, which is all this server takes")]
    Full { active: usize },
    #[error("{finished} finished executions wait to be forgotten, which is all this server keeps")]
    NotForgotten { finished: usize },
    #[error("the server is stopping and takes no new work")]
    Draining,
}
