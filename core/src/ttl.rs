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

/// When `run` is to be deleted; `None`: never. A TTL of 0 keeps, as in the baseline.
pub fn delete_at(run: Ended, bounds: TtlBounds) -> Option<Timestamp> {
    let positive = |seconds: Option<i32>| seconds.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0);
    let own = if run.ttl.is_some() { positive(run.ttl) } else { positive(bounds.default) };
    let seconds = match (own, positive(bounds.maximum)) {
        (Some(own), Some(most)) => own.min(most),
        (Some(only), None) | (None, Some(only)) => only,
        (None, None) => return None,
    };
    Some(run.at.checked_add(Duration::from_secs(seconds)).unwrap_or(Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_kept_as_long_as_it_and_its_runtime_say() {
        let at = Timestamp::from_second(1000).unwrap();
        let seconds = |ttl, default, maximum| {
            delete_at(Ended { at, ttl }, TtlBounds { default, maximum }).map(|time| time.as_second() - 1000)
        };
        assert_eq!(seconds(None, None, None), None);
        assert_eq!(seconds(Some(0), Some(60), None), None, "0 keeps, whatever the default");
        assert_eq!(seconds(Some(5), Some(60), None), Some(5));
        assert_eq!(seconds(None, Some(60), None), Some(60));
        assert_eq!(seconds(None, Some(60), Some(30)), Some(30));
        assert_eq!(seconds(Some(0), None, Some(30)), Some(30));
        assert_eq!(seconds(Some(i32::MAX), None, None), Some(i64::from(i32::MAX)));
        assert_eq!(
            delete_at(Ended { at: Timestamp::MAX, ttl: Some(9) }, TtlBounds::default()),
            Some(Timestamp::MAX)
        );
    }
}
