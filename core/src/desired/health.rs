//! When a container of a Pod is healthy: how often it is asked, and how long it may take.

use k8s_openapi::api::core::v1::Probe;

/// Of one answer, seconds: a machine may be busy.
const TIMEOUT: i32 = 5;

/// A restart ends the Runs of the Pod. It is for what has hung for a minute, not for what waits for a processor.
pub(super) fn liveness(asked: Probe) -> Probe {
    Probe {
        initial_delay_seconds: Some(5),
        period_seconds: Some(10),
        timeout_seconds: Some(TIMEOUT),
        failure_threshold: Some(6),
        ..asked
    }
}

pub(super) fn readiness(asked: Probe) -> Probe {
    Probe { initial_delay_seconds: Some(1), period_seconds: Some(5), timeout_seconds: Some(TIMEOUT), ..asked }
}
