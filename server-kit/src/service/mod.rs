//! Both gRPC services over the engine: only the wire's own matters are here.

mod events;
mod logs;
mod runtime;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::auth::Auth;
use crate::engine::{CallError, Engine};
use crate::server::LaunchError;
use crate::table::{Fence, Refusal};

/// Serves `executor.v1.Runtime` and `executor.v1.RuntimeEvents`.
#[derive(Clone)]
pub(crate) struct Service {
    pub engine: Arc<Engine>,
    /// `None` where callers prove nothing (plain TCP).
    pub auth: Option<Arc<Auth>>,
    pub instance_id: Arc<str>,
    /// Ends the streams.
    pub stop: CancellationToken,
}

impl From<CallError> for Status {
    fn from(error: CallError) -> Self {
        let message = error.to_string();
        match error {
            CallError::Invalid(_) | CallError::Launch(LaunchError::Invalid { .. }) => {
                Self::invalid_argument(message)
            }
            CallError::Launch(LaunchError::Busy(_)) => Self::resource_exhausted(message),
            CallError::Launch(LaunchError::Unavailable(_)) => Self::unavailable(message),
            CallError::Refused(refusal) => match refusal {
                Refusal::Unknown => Self::not_found(message),
                Refusal::Older { .. } => Self::failed_precondition(message),
                Refusal::StillRunning { .. } => Self::already_exists(message),
                Refusal::Full { .. } | Refusal::NotForgotten { .. } => Self::resource_exhausted(message),
                Refusal::Draining => Self::unavailable(message),
            },
        }
    }
}

fn fence(attempt: u32, assignment: u64) -> Fence {
    Fence { attempt, assignment }
}

/// 0 on the wire is the server's default.
fn seconds(seconds: u32) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds.into()))
}
