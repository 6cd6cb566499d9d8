//! What the server counts.

use kruntimes_daemon::prometheus_client::encoding::EncodeLabelSet;
use kruntimes_daemon::prometheus_client::metrics::counter::Counter;
use kruntimes_daemon::prometheus_client::metrics::family::Family;
use kruntimes_daemon::prometheus_client::metrics::gauge::Gauge;
use kruntimes_daemon::prometheus_client::metrics::histogram::Histogram;
use kruntimes_daemon::{LATENCY_BUCKETS, Metrics};

/// Labels of an ended execution.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Ending {
    pub cause: String,
}

/// Handles of everything that is counted.
#[derive(Clone, Debug)]
pub(crate) struct Counts {
    pub ended: Family<Ending, Counter>,
    pub active: Gauge,
    pub kept: Gauge,
    pub refused: Counter,
    pub unauthenticated: Counter,
    pub start_seconds: Histogram,
    pub captured_bytes: Counter,
    pub dropped_bytes: Counter,
    pub stale_events: Gauge,
}

impl Counts {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let counts = Self {
            ended: Family::default(),
            active: Gauge::default(),
            kept: Gauge::default(),
            refused: Counter::default(),
            unauthenticated: Counter::default(),
            start_seconds: Histogram::new(LATENCY_BUCKETS),
            captured_bytes: Counter::default(),
            dropped_bytes: Counter::default(),
            stale_events: Gauge::default(),
        };
        metrics.register(|r| {
            r.register("executions_ended", "Executions ended, by cause", counts.ended.clone());
            r.register("executions_active", "Executions not ended", counts.active.clone());
            r.register("executions_kept", "Executions not forgotten", counts.kept.clone());
            r.register("executions_refused", "Execute calls refused", counts.refused.clone());
            r.register("calls_refused", "Calls not let in", counts.unauthenticated.clone());
            r.register("start_seconds", "From Execute to exec", counts.start_seconds.clone());
            r.register("output_bytes", "Output read from executions", counts.captured_bytes.clone());
            r.register("output_dropped_bytes", "Output not kept", counts.dropped_bytes.clone());
            r.register("stale_events", "Events of executions that were gone", counts.stale_events.clone());
        });
        counts
    }
}
