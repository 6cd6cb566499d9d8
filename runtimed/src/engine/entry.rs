//! One attempt and where it stands.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kruntimes_api::duration;
use kruntimes_api::run::{DeviceHeld, Run, RunSpec};
use kruntimes_core::ids::Fence;
use kruntimes_core::run::{AttemptUsage, Event as RunEvent, State};
use kruntimes_proto::v1::StopCause;

use super::{Now, Prepared, Record};
use crate::server::Execution;

/// Why an attempt is to end before its work does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    Cancelled,
    Suspended,
    Timeout,
    PendingTimeout,
    Draining,
}

impl Stop {
    /// What the server is told.
    pub(super) fn cause(self) -> StopCause {
        match self {
            Self::Cancelled => StopCause::Cancelled,
            Self::Suspended => StopCause::Suspended,
            Self::Timeout | Self::PendingTimeout => StopCause::Timeout,
            Self::Draining => StopCause::Evicted,
        }
    }
}

/// Where an attempt stands. The data of a place is in it.
#[derive(Debug)]
pub(super) enum Stage {
    /// Nothing is done before the server has said what it knows.
    Waiting,
    Preparing,
    /// Execute was sent, or waits to be sent again.
    Executing {
        prepared: Prepared,
        since: Instant,
        retry_at: Option<Instant>,
    },
    /// The server has it.
    Running,
    /// It ended; outputs and tail are being read.
    Collecting {
        execution: Box<Execution>,
    },
    /// The last write of this attempt waits or is under way.
    Writing {
        event: Box<RunEvent>,
    },
    /// Traces are being removed.
    Releasing,
}

/// Whether `Running` was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Announce {
    /// Not before this time.
    At(Instant),
    Done,
}

/// When the work started and what follows from it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Started {
    pub at: Timestamp,
    pub deadline: Option<Instant>,
    pub announce: Announce,
}

/// A write under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writing {
    Started,
    Last,
}

#[derive(Debug)]
pub(super) struct Entry {
    /// `None` for an execution that no Run owns.
    pub run: Option<Arc<Run>>,
    pub spec: Arc<RunSpec>,
    pub fence: Fence,
    pub stage: Stage,
    pub stop: Option<Stop>,
    pub started: Option<Started>,
    /// Not started by then: `pendingTimeout`.
    pub start_by: Option<Instant>,
    /// Not prepared by then: `timeout`, of which the work itself has the whole again.
    pub prepare_by: Option<Instant>,
    /// What the journal holds of this attempt.
    pub record: Record,
    /// This server, or one before it, had it.
    pub confirmed: bool,
    /// Execute was sent and not answered: it may run.
    pub unsure: bool,
    pub writing: Option<Writing>,
    /// The latest figures, should the server be lost.
    pub usage: Option<AttemptUsage>,
    /// What it holds, as the server said last.
    pub devices: Vec<DeviceHeld>,
    pub resolved_sha: Option<String>,
    /// The watch has taken the Run from us: it will not speak of this assignment again.
    pub left: bool,
    /// A newer assignment of the same Run, begun when this one is released.
    pub next: Option<Arc<Run>>,
}

impl Entry {
    pub(super) fn new(run: Arc<Run>, spec: Arc<RunSpec>, fence: Fence, record: Record, now: Now) -> Self {
        let start_by =
            spec.pending_timeout.as_deref().and_then(|text| duration::parse(text).ok()).and_then(|most| {
                let created = run.metadata.creation_timestamp.as_ref()?.0;
                now.mono.checked_add(most.saturating_sub(elapsed(created, now.wall)))
            });
        let resolved_sha = record.resolved_sha.clone();
        Self {
            run: Some(run),
            spec,
            fence,
            stage: Stage::Waiting,
            stop: None,
            started: None,
            start_by,
            prepare_by: None,
            record,
            confirmed: false,
            unsure: false,
            writing: None,
            usage: None,
            devices: Vec::new(),
            resolved_sha,
            left: false,
            next: None,
        }
    }

    /// An execution without a Run, which only has to go.
    pub(super) fn orphan(fence: Fence, now: Now) -> Self {
        let mut entry = Self::new(Arc::default(), Arc::default(), fence.clone(), Record::new(&fence), now);
        entry.run = None;
        entry.stage = Stage::Releasing;
        entry
    }

    /// Whether the server may have, or have had, this attempt.
    pub(super) fn may_run(&self) -> bool {
        self.record.sent_to.is_some()
            || self
                .run
                .as_ref()
                .is_some_and(|run| matches!(State::of(run), Ok(State::Running { .. } | State::Ready { .. })))
    }

    /// What is known of an attempt that left no record of its end.
    pub(super) fn last_seen(&self) -> Option<AttemptUsage> {
        self.may_run().then(|| AttemptUsage { incomplete: true, ..self.usage.clone().unwrap_or_default() })
    }

    /// What it used, as far as it got: the record of its end where there is one.
    pub(super) fn record_of_usage(&self) -> Option<AttemptUsage> {
        match &self.stage {
            Stage::Writing { event } => match &**event {
                RunEvent::Finished { finish, .. } => finish.usage.clone(),
                RunEvent::Suspended { usage, .. } => usage.clone(),
                _ => None,
            },
            Stage::Collecting { execution } => {
                Some(execution.usage.clone().unwrap_or_else(AttemptUsage::unknown))
            }
            _ => self.last_seen(),
        }
    }

    pub(super) fn timeout(&self) -> Option<Duration> {
        self.spec.timeout.as_deref().and_then(|text| duration::parse(text).ok())
    }

    pub(super) fn mark_started(&mut self, at: Timestamp, now: Now, window: Duration) {
        if self.started.is_some() {
            return;
        }
        let told = self
            .run
            .as_ref()
            .is_some_and(|run| matches!(State::of(run), Ok(State::Running { .. } | State::Ready { .. })));
        let deadline = self
            .timeout()
            .and_then(|timeout| now.mono.checked_add(timeout.saturating_sub(elapsed(at, now.wall))));
        let announce = if told { Announce::Done } else { Announce::At(now.mono + window) };
        self.started = Some(Started { at, deadline, announce });
    }

    /// The next time at which something is due.
    pub(super) fn due(&self) -> Option<Instant> {
        let announce = self.started.and_then(|started| match started.announce {
            Announce::At(at) if matches!(self.stage, Stage::Running) && self.writing.is_none() => Some(at),
            Announce::At(_) | Announce::Done => None,
        });
        let end =
            if self.stop.is_some() || !self.is_unfinished() { None } else { self.late().map(|(at, _)| at) };
        let retry = match &self.stage {
            Stage::Executing { retry_at, .. } => *retry_at,
            _ => None,
        };
        announce.into_iter().chain(end).chain(retry).min()
    }

    /// When the time for what is under way ends, and what that end is.
    pub(super) fn late(&self) -> Option<(Instant, Stop)> {
        if let Some(started) = self.started {
            return Some((started.deadline?, Stop::Timeout));
        }
        let prepare_by = self.prepare_by.filter(|_| matches!(self.stage, Stage::Preparing));
        let ends = [(self.start_by, Stop::PendingTimeout), (prepare_by, Stop::Timeout)];
        ends.into_iter().filter_map(|(at, stop)| Some((at?, stop))).min_by_key(|(at, _)| *at)
    }

    /// Work is still to be done or under way.
    pub(super) fn is_unfinished(&self) -> bool {
        matches!(self.stage, Stage::Waiting | Stage::Preparing | Stage::Executing { .. } | Stage::Running)
    }
}

/// Time since `then` by the wall clock; nothing when it lies in the future.
fn elapsed(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}
