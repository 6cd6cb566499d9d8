//! The Kubernetes API as this program needs it.
//!
//! Owns the watch over this Pod's Runs, the fenced status writes, the heartbeat on the
//! Pod and the Pod's RuntimeInstance. Behind [`RunWriter`] stands a recording fake in tests.

mod client;
pub mod heartbeat;
pub mod instance;
mod malformed;
mod watch;
mod write;

use std::sync::Arc;

use async_trait::async_trait;
use kruntimes_api::run::Run;

pub use client::KubeRuns;
pub use malformed::fail_malformed;
pub use watch::{RunWatch, watch_runs};
pub use write::write_status;

/// A failed API call, by what is to be done about it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ApiError {
    /// The object changed since it was read.
    #[error("conflict: {0}")]
    Conflict(String),
    /// There is no such object.
    #[error("not found: {0}")]
    NotFound(String),
    /// The API refuses the content: trying the same again is useless.
    #[error("refused: {0}")]
    Refused(String),
    /// Worth trying again: the network, a timeout, an overloaded or restarting API, missing rights.
    #[error("{0}")]
    Transient(String),
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        let kube::Error::Api(status) = &error else { return Self::Transient(error.to_string()) };
        let message = status.message.clone();
        match status.code {
            404 => Self::NotFound(message),
            409 => Self::Conflict(message),
            400 | 413 | 415 | 422 => Self::Refused(message),
            _ => Self::Transient(message),
        }
    }
}

/// Reads and writes Runs of this Pod's namespace.
#[async_trait]
pub trait RunWriter: Send + Sync {
    /// The Run as it is now.
    async fn get(&self, name: &str) -> Result<Arc<Run>, ApiError>;
    /// Merge patch on `status`; the answer is the Run after it.
    async fn patch_status(&self, name: &str, patch: &serde_json::Value) -> Result<Arc<Run>, ApiError>;
}
