//! When an ended Run is deleted.

use std::time::Duration;

use jiff::Timestamp;
use kruntimes_api::Runtime;

/// What decides about the deletion of one ended Run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// `status.completionTime`, or when it was created if that is missing.
    pub at: Timestamp,
    /// `spec.ttlSecondsAfterFinished`.
    pub ttl: Option<i32>,
}

/// A Runtime's default and ceiling, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TtlBounds {
    /// For Runs that say nothing.
    pub default: Option<i32>,
    /// No Run is kept longer, even one that says nothing or 0.
    pub maximum: Option<i32>,
}

impl TtlBounds {
    /// Reads them from a Runtime.
    pub fn of(runtime: &Runtime) -> Self {
        Self {
            default: runtime.spec.run_defaults.as_ref().and_then(|bounds| bounds.ttl_seconds_after_finished),
            maximum: runtime.spec.run_maximums.as_ref().and_then(|bounds| bounds.ttl_seconds_after_finished),
        }
    }
}

/// How long after `now` `run` is to be deleted; `None`: never. A TTL of 0 keeps, as in the baseline.
///
/// At most the whole TTL: a clock that was ahead of ours when the Run ended does not keep it for longer.
pub fn delete_in(run: Ended, bounds: TtlBounds, now: Timestamp) -> Option<Duration> {
    let positive = |seconds: Option<i32>| seconds.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0);
    let own = if run.ttl.is_some() { positive(run.ttl) } else { positive(bounds.default) };
    let seconds = match (own, positive(bounds.maximum)) {
        (Some(own), Some(most)) => own.min(most),
        (Some(only), None) | (None, Some(only)) => only,
        (None, None) => return None,
    };
    let age = Duration::try_from(now.duration_since(run.at)).unwrap_or_default();
    Some(Duration::from_secs(seconds).saturating_sub(age))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_kept_as_long_as_it_and_its_runtime_say() {
        let at = Timestamp::from_second(1000).unwrap();
        let seconds = |ttl, default, maximum| {
            delete_in(Ended { at, ttl }, TtlBounds { default, maximum }, at).map(|left| left.as_secs())
        };
        assert_eq!(seconds(None, None, None), None);
        assert_eq!(seconds(Some(0), Some(60), None), None, "0 keeps, whatever the default");
        assert_eq!(seconds(Some(5), Some(60), None), Some(5));
        assert_eq!(seconds(None, Some(60), None), Some(60));
        assert_eq!(seconds(None, Some(60), Some(30)), Some(30));
        assert_eq!(seconds(Some(0), None, Some(30)), Some(30));
        assert_eq!(seconds(Some(i32::MAX), None, None), Some(i32::MAX.unsigned_abs().into()));
        let left = |now| {
            let ended = Ended { at, ttl: Some(9) };
            delete_in(ended, TtlBounds::default(), Timestamp::from_second(now).unwrap()).unwrap().as_secs()
        };
        assert_eq!((left(1004), left(2000)), (5, 0), "what is over is due");
        assert_eq!(left(0), 9, "an end that lies ahead of us is now");
    }
}
