//! Fenced writes of Run status.

use std::time::Duration;

use async_trait::async_trait;
use kruntimes_api::Run;
use kube::api::{Patch, PatchParams};
use kube::core::Request;
use kube::{Client, Resource};
use serde::Deserialize;
use serde_json::Value;

/// Longest time that one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Why a write did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The object changed since it was read. Conflict: read again, decide again.
    #[error("the object changed since it was read")]
    Conflict,
    /// The object does not exist.
    #[error("the object no longer exists")]
    Gone,
    /// The outcome is unknown, or the server is busy. Transient: the same fenced write can be repeated.
    #[error("the API cannot be reached or is busy: {0}")]
    Transient(String),
    /// The server refuses it. Permanent.
    #[error("the API refused the write: {0}")]
    Refused(String),
}

impl From<kube::Error> for WriteError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => match status.code {
                409 => Self::Conflict,
                404 | 410 => Self::Gone,
                429 | 500..=599 | 408 => Self::Transient(status.message.clone()),
                _ => Self::Refused(status.message.clone()),
            },
            error @ (kube::Error::BuildRequest(_) | kube::Error::SerdeError(_)) => {
                Self::Refused(error.to_string())
            }
            error => Self::Transient(error.to_string()),
        }
    }
}

/// Writes the status of Runs.
#[async_trait]
pub trait RunWriter: Send + Sync + 'static {
    /// Sends one merge patch to `runs/NAME/status`.
    async fn patch_status(&self, namespace: &str, name: &str, patch: &Value) -> Result<(), WriteError>;
}

/// [`RunWriter`] over the API.
#[derive(Clone)]
pub struct ApiRunWriter(pub Client);

/// The answer's body is not looked at: the watch brings the object.
#[derive(Deserialize)]
struct Ignored {}

#[async_trait]
impl RunWriter for ApiRunWriter {
    async fn patch_status(&self, namespace: &str, name: &str, patch: &Value) -> Result<(), WriteError> {
        let request = Request::new(Run::url_path(&(), Some(namespace)));
        let mut request = request
            .patch_subresource("status", name, &PatchParams::default(), &Patch::Merge(patch))
            .map_err(|error| WriteError::Refused(error.to_string()))?;
        request.extensions_mut().insert("patch_run_status");
        match tokio::time::timeout(REQUEST_TIMEOUT, self.0.request::<Ignored>(request)).await {
            Ok(Ok(Ignored {})) => Ok(()),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(WriteError::Transient("no answer in time".into())),
        }
    }
}

/// Repeats a fenced write while it fails for reasons that pass; the fence makes that safe:
/// if an earlier try did arrive, the next one is a conflict.
pub async fn patch_status_stubbornly(
    writer: &dyn RunWriter,
    namespace: &str,
    name: &str,
    patch: &Value,
    tries: u32,
) -> Result<(), WriteError> {
    let mut pause = FIRST_PAUSE;
    let mut result = writer.patch_status(namespace, name, patch).await;
    for _ in 1..tries {
        let Err(WriteError::Transient(error)) = &result else { return result };
        tracing::warn!(namespace, run = name, %error, "write will be repeated");
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(LONGEST_PAUSE);
        result = writer.patch_status(namespace, name, patch).await;
    }
    result
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
