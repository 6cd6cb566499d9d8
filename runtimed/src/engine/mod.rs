//! What this Pod does with each of its Runs: one synchronous machine.
//!
//! Comes in: [`Event`]s (what the API, the Runtime Server and our own tasks said) and
//! the time. Goes out: [`Action`]s, carried out elsewhere; each that matters answers
//! with an event. Nothing here waits, reads a clock or touches a file.
//!
//! What must always hold, whatever the order of events: at most one attempt of a Run
//! is worked on at a time; an execution that may be alive is never started again
//! elsewhere or anew; a result is kept until it is written, and forgotten by the
//! server only after that.

mod entry;
mod finish;
mod machine;
mod recover;
mod serving;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world_tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kruntimes_api::Reason;
use kruntimes_api::run::{Run, RunSpec};
use kruntimes_api::runtime::RunBounds;
use kruntimes_core::ids::{Fence, PodRef, RunUid};
use kruntimes_core::run::{AttemptUsage, Event as RunEvent, Refusal};
use kruntimes_proto::v1::StopCause;

use crate::server::{Execution, Instance};
use crate::workspace::outputs::OutputsError;

pub use machine::Engine;
pub use recover::Record;

/// The time by both clocks: the wall for what is written, the monotonic for what is awaited.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For timestamps.
    pub wall: Timestamp,
    /// For deadlines: no clock jump ends a Run.
    pub mono: Instant,
}

/// What does not change while the program runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Ourselves.
    pub pod: PodRef,
    /// For Runs that say nothing.
    pub defaults: Option<RunBounds>,
    /// Work that ends within this time after its start gets no `Running` write.
    pub window: Duration,
    /// Between TERM and KILL of an execution.
    pub grace: Duration,
    /// How long an unavailable server is asked again before the Run is handed back.
    pub patience: Duration,
}

/// A source that was prepared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prepared {
    /// Below the Run's folder: empty, or `repo` for a Git source.
    pub subfolder: String,
    /// The commit that was checked out.
    pub resolved_sha: Option<String>,
}

/// Why a source could not be prepared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrepareFailure {
    /// `SourceFailed` or `InvalidRun`.
    pub reason: Reason,
    /// For a person.
    pub message: String,
}

/// Why an execution was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecuteFailure {
    /// `RESOURCE_EXHAUSTED`.
    NoRoom(String),
    /// `INVALID_ARGUMENT`: the Run cannot be run as written.
    Invalid(String),
    /// The server answered `UNAVAILABLE`: not now.
    Unavailable(String),
    /// Any other answer.
    Rejected(String),
    /// No answer: it may have been accepted.
    Unknown(String),
}

/// What was gathered after an execution ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Collected {
    /// The outputs; empty when the execution failed.
    pub outputs: Result<BTreeMap<String, String>, OutputsError>,
    /// Last bytes of its output.
    pub log_tail: Option<String>,
}

/// What became of a status write.
#[derive(Debug, Clone)]
pub enum Written {
    /// Done; the Run as it is now.
    Applied(Arc<Run>),
    /// The Run has moved on without us.
    Refused(Refusal),
    /// The Run no longer exists.
    Gone,
    /// Given up for a newer write, see [`Action::HurryWrite`].
    Abandoned,
}

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// Every Run of this Pod that has not ended: the list is complete.
    Listed(Vec<Arc<Run>>),
    /// A Run appeared or changed.
    Seen(Arc<Run>),
    /// A Run was deleted, ended or is not this Pod's any more.
    Gone(RunUid),
    /// Connected, or the view of the server was taken anew.
    ServerUp {
        /// Which start of the server.
        instance: Instance,
        /// Everything it knows.
        executions: Vec<Execution>,
    },
    /// The connection was lost.
    ServerDown,
    /// An execution changed.
    Execution(Box<Execution>),
    /// The server no longer knows an execution.
    Missing(RunUid),
    /// Answer to [`Action::Prepare`].
    Prepared {
        /// Whose.
        fence: Fence,
        /// How it went.
        result: Result<Prepared, PrepareFailure>,
    },
    /// Answer to [`Action::Execute`].
    Executed {
        /// Whose.
        fence: Fence,
        /// How it went.
        result: Result<(), ExecuteFailure>,
    },
    /// Answer to [`Action::Collect`].
    Collected {
        /// Whose.
        fence: Fence,
        /// What was found.
        collected: Collected,
    },
    /// Answer to [`Action::Write`].
    Written {
        /// Whose.
        fence: Fence,
        /// How it went.
        outcome: Written,
    },
    /// Answer to [`Action::Release`].
    Released {
        /// Whose.
        fence: Fence,
    },
    /// The Pod stops. May come again with better knowledge.
    Drain {
        /// When started Runs are ended.
        until: Instant,
        /// False when only this container is restarted: then executions are left to our successor.
        end_started: bool,
    },
    /// Time passed.
    Tick,
}

/// Something to do. Actions of one attempt are carried out in order, except writes,
/// which go beside them.
#[derive(Debug, Clone)]
pub enum Action {
    /// Make the workspace and fetch the source.
    Prepare {
        /// Whose.
        fence: Fence,
        /// With defaults filled in.
        spec: Arc<RunSpec>,
    },
    /// Stop preparing; [`Event::Prepared`] need not come any more.
    Abort {
        /// Whose.
        fence: Fence,
    },
    /// Send it to the server.
    Execute {
        /// Whose.
        fence: Fence,
        /// For names.
        run: Arc<Run>,
        /// With defaults filled in.
        spec: Arc<RunSpec>,
        /// What to run in.
        prepared: Prepared,
        /// The server's start that this is meant for.
        instance: Instance,
    },
    /// Ask the server for it: [`Event::Execution`] or [`Event::Missing`]; neither while the
    /// connection is lost.
    Ask {
        /// Whose.
        fence: Fence,
    },
    /// Stream its output to ours from now on.
    Follow {
        /// Whose.
        fence: Fence,
        /// For names.
        run: Arc<Run>,
    },
    /// Tell the server to end it.
    Cancel {
        /// Whose.
        fence: Fence,
        /// Why.
        cause: StopCause,
        /// Between TERM and KILL.
        grace: Duration,
    },
    /// Read outputs and log tail.
    Collect {
        /// Whose.
        fence: Fence,
        /// How it ended.
        execution: Box<Execution>,
    },
    /// Write a status.
    Write {
        /// Whose.
        fence: Fence,
        /// As last known.
        run: Arc<Run>,
        /// Through `core::run::transition`.
        event: Box<RunEvent>,
    },
    /// The write under way is of no interest if it has to wait.
    HurryWrite {
        /// Whose.
        fence: Fence,
    },
    /// Remove every trace: execution, workspace, journal.
    Release {
        /// Whose.
        fence: Fence,
        /// For the log's end mark; `None` for what no Run owns.
        run: Option<Arc<Run>>,
        /// For the mark as well: what it used, as far as that is known; `None` when nothing was executed.
        usage: Option<AttemptUsage>,
        /// The server may know it.
        executed: bool,
        /// It may run.
        cancel: bool,
    },
    /// An effect of an older attempt was dropped.
    CountStale,
}
