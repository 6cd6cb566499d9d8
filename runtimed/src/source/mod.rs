//! Fetching a Run's source into its workspace.

pub mod git;
mod process;
mod url;

use kruntimes_api::Reason;
use kruntimes_api::run::RunSpec;
use kruntimes_core::ids::RunUid;

use crate::engine::{PrepareFailure, Prepared};
use crate::workspace::{REPO_FOLDER, SCRIPT_FILE, WorkspaceError, Workspaces};

pub use git::{Git, GitSettings};
pub use url::UrlError;

/// Makes the workspace of an attempt and puts the source into it. Dropping the future ends
/// whatever was started; the workspace is then for the caller to remove.
///
/// # Errors
/// With a reason and the sentence for the Run's status.
pub async fn prepare(
    workspaces: &Workspaces,
    git: &Git,
    uid: &RunUid,
    spec: &RunSpec,
) -> Result<Prepared, PrepareFailure> {
    let source = spec.source.clone().unwrap_or_default();
    let function = spec.mode.as_ref().is_some_and(|mode| mode.function.is_some());
    let script = match (source.inline, source.inline_path) {
        (None, _) => None,
        (Some(_), None) if function => {
            return Err(invalid(
                "source.inlinePath is required with an inline source in function mode".into(),
            ));
        }
        (Some(text), Some(path)) if function => Some((path, text)),
        (Some(text), _) => Some((SCRIPT_FILE.to_owned(), text)),
    };
    let (folders, id) = (workspaces.clone(), uid.clone());
    let made = tokio::task::spawn_blocking(move || {
        let workspace = folders.create(&id)?;
        match &script {
            Some((path, text)) => workspace.write(path, text.as_bytes()),
            None => Ok(()),
        }
    });
    match made.await {
        Ok(Ok(())) => {}
        Ok(Err(error @ (WorkspaceError::Path { .. } | WorkspaceError::Name { .. }))) => {
            return Err(invalid(error.to_string()));
        }
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(error) => return Err(failed(format!("preparing the workspace failed: {error}"))),
    }
    let Some(url) = source.repo_url else { return Ok(Prepared::default()) };
    let folder = workspaces.path_of(uid).join(REPO_FOLDER);
    let sha = git
        .check_out(&url, source.commit_sha.as_deref(), &folder)
        .await
        .map_err(|error| failed(error.to_string()))?;
    Ok(Prepared { subfolder: REPO_FOLDER.into(), resolved_sha: Some(sha) })
}

fn invalid(message: String) -> PrepareFailure {
    PrepareFailure { reason: Reason::InvalidRun, message }
}

fn failed(message: String) -> PrepareFailure {
    PrepareFailure { reason: Reason::SourceFailed, message }
}
