//! The Runtime Server as this program sees it, whichever kind it is.
//!
//! Owns the connection: which way leads to a server, who it is, what it says of its
//! executions. Two kinds stand behind one trait: [`native`] (unix socket, token, event
//! stream) and [`baseline`] (TCP, polled). Nothing outside of this module knows which.

mod auth;
pub mod baseline;
mod connect;
mod convert;
pub mod native;
mod request;
mod supervise;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use jiff::Timestamp;
use kruntimes_api::run::{BackendStatus, DeviceHeld, IsolationAxis};
use kruntimes_core::ids::{Fence, RunUid};
use kruntimes_core::run::AttemptUsage;
use kruntimes_proto::v1::{self, StopCause};
use serde::{Deserialize, Serialize};

pub use connect::{ConnectError, Target};
pub use convert::isolation_axes;
pub use request::{RequestContext, execute_request};
pub use supervise::{ServerView, Trouble, supervise};

/// Which start of a server something belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Instance {
    /// The `instance_id` of a server of ours.
    Native(String),
    /// A baseline server: it does not say.
    Baseline,
}

/// One execution as the server tells of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Execution {
    /// Its id: the Run's uid.
    pub id: RunUid,
    /// Attempt and assignment; absent from baseline servers.
    pub of: Option<(i32, i64)>,
    /// Where it is.
    pub state: ExecutionState,
    /// When its process started.
    pub started_at: Option<Timestamp>,
    /// So far, or in all.
    pub usage: Option<AttemptUsage>,
    /// What it holds or held.
    pub devices: Vec<DeviceHeld>,
    /// What really holds.
    pub isolation: Vec<IsolationAxis>,
    /// Remote work.
    pub backend: Option<BackendStatus>,
}

impl Execution {
    /// The fence it was accepted with.
    pub fn fence(&self, run: &RunUid) -> Option<Fence> {
        self.of.map(|(attempt, assignment)| Fence { run: run.clone(), attempt, assignment })
    }

    /// A copy for the record, without output.
    pub fn without_tails(&self) -> Self {
        let mut copy = self.clone();
        if let ExecutionState::Ended(end) = &mut copy.state {
            end.stdout_tail = String::new();
            end.stderr_tail = String::new();
        }
        copy
    }
}

/// Where an execution is.
#[derive(Debug, Clone, PartialEq)]
pub enum ExecutionState {
    /// Accepted, not started.
    Pending,
    /// Started.
    Running,
    /// Over.
    Ended(Box<End>),
}

/// How an execution ended.
#[derive(Debug, Clone, PartialEq)]
pub struct End {
    /// With exit code 0.
    pub succeeded: bool,
    /// As the server says; -1 is the baseline's "none".
    pub exit_code: i32,
    /// Terminating signal, 0 = none.
    pub signal: i32,
    /// Why.
    pub cause: StopCause,
    /// For a person.
    pub message: String,
    /// When.
    pub finished_at: Option<Timestamp>,
    /// Last bytes.
    pub stdout_tail: String,
    /// Last bytes.
    pub stderr_tail: String,
}

/// A call that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {message}")]
pub struct CallError {
    /// Which call.
    pub call: &'static str,
    /// The server's code, or the transport's.
    pub code: tonic::Code,
    /// The server's words, or the transport's.
    pub message: String,
    /// False when no answer came: it may have had its effect.
    pub answered: bool,
    /// False when it never left: there was nobody to connect to.
    pub sent: bool,
}

impl CallError {
    /// From tonic: a status that did not come over the wire has a source.
    pub(crate) fn of(call: &'static str, status: &tonic::Status) -> Self {
        use std::error::Error as _;
        let local = status.source().is_some() || status.code() == tonic::Code::Cancelled;
        Self {
            call,
            code: status.code(),
            message: status.message().to_owned(),
            answered: !local,
            sent: !never_connected(status),
        }
    }

    fn timed_out(call: &'static str, after: Duration) -> Self {
        Self {
            call,
            code: tonic::Code::DeadlineExceeded,
            message: format!("no answer within {}", kruntimes_api::duration::format(after)),
            answered: false,
            sent: true,
        }
    }

    /// The server says that it has no such execution.
    pub fn is_not_found(&self) -> bool {
        self.answered && self.code == tonic::Code::NotFound
    }
}

/// Where to go on reading an execution's output, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offsets {
    /// Of stdout.
    pub stdout: u64,
    /// Of stderr.
    pub stderr: u64,
}

/// Which output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamName {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        })
    }
}

/// Some output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPiece {
    /// Which.
    pub stream: StreamName,
    /// Of the first byte.
    pub offset: u64,
    /// What.
    pub data: Vec<u8>,
}

/// Pieces until the execution ended and everything was sent.
pub type LogStream = BoxStream<'static, Result<LogPiece, CallError>>;

/// The calls that this program makes. Every one is bounded in time.
#[async_trait]
pub trait RuntimeClient: Send + Sync {
    /// Which start of which server answers.
    fn instance(&self) -> &Instance;
    /// Starts an execution; answered once it is accepted.
    async fn execute(&self, request: v1::ExecuteRequest) -> Result<(), CallError>;
    /// Ends an execution; answered before it is dead.
    async fn cancel(&self, fence: &Fence, cause: StopCause, grace: Duration) -> Result<(), CallError>;
    /// Drops a finished execution.
    async fn forget(&self, fence: &Fence) -> Result<(), CallError>;
    /// One execution, with tails.
    async fn status(&self, fence: &Fence) -> Result<Execution, CallError>;
    /// `Ok` when the server can start work, else why not.
    async fn health(&self) -> Result<Result<(), String>, CallError>;
    /// Output from an offset, followed to the end.
    async fn logs(&self, fence: &Fence, from: Offsets) -> Result<LogStream, CallError>;
}

/// What a connected server says unasked.
#[derive(Debug)]
pub enum ServerEvent {
    /// Its whole view, after a gap.
    Snapshot(Vec<Execution>),
    /// One execution changed.
    Execution(Box<Execution>),
    /// An execution is not there any more.
    Missing(RunUid),
    /// It describes itself anew.
    Inventory(Box<v1::DescribeResponse>),
}

/// A connection. Its tasks end when it is dropped.
pub struct Session {
    /// For calls.
    pub client: Arc<dyn RuntimeClient>,
    /// What it knew when it was connected.
    pub executions: Vec<Execution>,
    /// What it says of itself; absent from baseline servers.
    pub describe: Option<v1::DescribeResponse>,
    /// Ends with the connection.
    pub events: BoxStream<'static, ServerEvent>,
    /// Held for its effect when dropped.
    pub guard: tokio_util::sync::DropGuard,
}

/// Whether the error began with a connection that could not be made.
fn never_connected(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .filter_map(|error| error.downcast_ref::<std::io::Error>())
        .any(|error| {
            matches!(error.kind(), std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::NotFound)
        })
}

/// Runs `call` for at most `limit`.
async fn bounded<T>(
    call: &'static str,
    limit: Duration,
    future: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(limit, future).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(CallError::of(call, &status)),
        Err(_) => Err(CallError::timed_out(call, limit)),
    }
}

/// Bound of Execute.
const EXECUTE_LIMIT: Duration = Duration::from_secs(10);
/// Bound of the other calls.
const CALL_LIMIT: Duration = Duration::from_secs(5);
/// Bound of Health.
const HEALTH_LIMIT: Duration = Duration::from_secs(2);
