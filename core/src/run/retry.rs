//! Whether and when an ended attempt is followed by another.

use std::time::Duration;

use kruntimes_api::run::{RunSpec, RunStatus};
use kruntimes_api::{Reason, duration};

/// Longest pause between attempts.
pub const MAX_BACKOFF: Duration = Duration::from_secs(60);
const DEFAULT_BACKOFF: Duration = Duration::from_secs(1);

/// What follows an ended attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing: the Run ends.
    End,
    /// Another attempt that counts in `maxAttempts`.
    Retry,
    /// Another attempt that counts in `maxInfrastructureRetries` only.
    RetryUncounted,
}

/// Decides for an attempt that ended with `reason`.
pub(super) fn verdict(spec: &RunSpec, status: &RunStatus, reason: Reason) -> Verdict {
    if spec.cancel_requested == Some(true) || is_always_final(reason) {
        return Verdict::End;
    }
    let policy = spec.retry_policy.as_ref();
    let uncounted = status.infrastructure_retries.unwrap_or(0);
    let infrastructure_budget = policy.and_then(|p| p.max_infrastructure_retries).unwrap_or(0);
    if reason.is_infrastructure() && uncounted < infrastructure_budget {
        return Verdict::RetryUncounted;
    }
    let Some(policy) = policy else { return Verdict::End };
    let counted = status.attempt.unwrap_or(1) - uncounted;
    let allowed = policy.retryable_reasons.is_empty()
        || policy
            .retryable_reasons
            .iter()
            .any(|word| word == reason.as_str() || word == reason.condition_word());
    if allowed && counted < policy.max_attempts.unwrap_or(1) { Verdict::Retry } else { Verdict::End }
}

/// Ends that another attempt would only repeat.
fn is_always_final(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Completed
            | Reason::Cancelled
            | Reason::InvalidRun
            | Reason::OutputsInvalid
            | Reason::OutputsTooLarge
            | Reason::ArtifactInvalid
            | Reason::PendingTimeout
    )
}

/// The pause after the `ended` attempt (1-based): `backoff * 2^(ended-1)`, at most [`MAX_BACKOFF`].
pub fn backoff(spec: &RunSpec, ended: i32) -> Duration {
    let base = spec
        .retry_policy
        .as_ref()
        .and_then(|p| p.backoff.as_deref())
        .and_then(|text| duration::parse(text).ok())
        .unwrap_or(DEFAULT_BACKOFF);
    let doublings = u32::try_from(ended - 1).unwrap_or(0).min(31);
    base.saturating_mul(1 << doublings).min(MAX_BACKOFF)
}
