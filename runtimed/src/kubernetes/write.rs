//! One status change, carried through whatever the API does meanwhile.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kruntimes_api::run::Run;
use kruntimes_core::run::Refusal;
use kruntimes_core::run::{AttemptUsage, Event as RunEvent, Finish, patch, transition};
use tokio_util::sync::CancellationToken;

use super::{ApiError, RunWriter};
use crate::engine::Written;

/// After a transient error: the first pause, doubled up to the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// Refusals of the content after which the result is cut down to what must be said.
const MAX_REFUSED: u32 = 2;

/// Writes what `event` makes of `run`.
///
/// A conflict means: read again, decide again. A transient error is waited out for as long
/// as it takes: the result is not lost. Content that the API refuses is cut down to reason
/// and message, so that the Run ends all the same. `hurry` gives the write up when it would
/// have to wait.
pub async fn write_status(
    writer: &dyn RunWriter,
    run: Arc<Run>,
    event: RunEvent,
    hurry: &CancellationToken,
) -> Written {
    let name = run.metadata.name.clone().unwrap_or_default();
    let (mut run, mut event) = (run, event);
    let (mut pause, mut refused) = (BACKOFF.0, 0);
    loop {
        let status = match transition(&run, &event, Timestamp::now()) {
            Ok(status) => status,
            Err(refusal) => return Written::Refused(refusal),
        };
        let Some(change) = patch(&run, &status) else { return Written::Applied(run) };
        let error = match writer.patch_status(&name, &change).await {
            Ok(run) => return Written::Applied(run),
            Err(error) => error,
        };
        tracing::debug!(run = %name, %error, "status write did not go through");
        if let ApiError::Refused(message) = &error {
            refused += 1;
            if refused >= MAX_REFUSED {
                tracing::error!(run = %name, %message, "the API refuses this status, writing less of it");
                event = reduced(event, message);
            }
            if refused > 2 * MAX_REFUSED {
                return Written::Refused(Refusal::NotApplicable {
                    event: "refused status",
                    phase: phase_of(&run),
                });
            }
        }
        if let ApiError::NotFound(_) = error {
            return Written::Gone;
        }
        if let ApiError::Transient(_) = error {
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(BACKOFF.1),
                () = hurry.cancelled() => return Written::Abandoned,
            }
            // The same again: if it had gone through after all, this one is a conflict.
            continue;
        }
        match read_again(writer, &name, &run, hurry).await {
            Ok(fresh) => run = fresh,
            Err(end) => return end,
        }
    }
}

async fn read_again(
    writer: &dyn RunWriter,
    name: &str,
    before: &Run,
    hurry: &CancellationToken,
) -> Result<Arc<Run>, Written> {
    let mut pause = BACKOFF.0;
    loop {
        match writer.get(name).await {
            // A Run of the same name that was created anew is none of ours.
            Ok(run) if run.metadata.uid != before.metadata.uid => return Err(Written::Gone),
            Ok(run) => return Ok(run),
            Err(ApiError::NotFound(_)) => return Err(Written::Gone),
            Err(_) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(BACKOFF.1),
            () = hurry.cancelled() => return Err(Written::Abandoned),
        }
    }
}

/// The end of an attempt without everything that could offend. That it used something stays.
fn reduced(event: RunEvent, why: &str) -> RunEvent {
    let unknown = |usage: Option<AttemptUsage>| usage.map(|_| AttemptUsage::unknown());
    let (fence, finish) = match event {
        RunEvent::Finished { fence, finish } => (fence, finish),
        RunEvent::Suspended { fence, usage } => {
            return RunEvent::Suspended { fence, usage: unknown(usage) };
        }
        other => return other,
    };
    let message =
        format!("{} (details were dropped: {})", finish.message, crate::text::first_bytes(why, 512));
    RunEvent::Finished {
        fence,
        finish: Box::new(Finish {
            message: crate::text::first_bytes(&message, 1024).to_owned(),
            outputs: Default::default(),
            usage: unknown(finish.usage),
            devices: Vec::new(),
            isolation: Vec::new(),
            backend: None,
            log_tail: None,
            resolved_sha: None,
            ..*finish
        }),
    }
}

fn phase_of(run: &Run) -> kruntimes_api::Phase {
    run.status.as_ref().and_then(|status| status.phase).unwrap_or_default()
}

#[cfg(test)]
#[path = "write_tests.rs"]
mod tests;
