//! Metrics, under the baseline's names where it has them.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use kruntimes_api::run::{Phase, RunStatus};
use kruntimes_core::run::AttemptUsage;
use kruntimes_daemon::prometheus_client::encoding::EncodeLabelSet;
use kruntimes_daemon::prometheus_client::metrics::counter::Counter;
use kruntimes_daemon::prometheus_client::metrics::family::Family;
use kruntimes_daemon::prometheus_client::metrics::gauge::Gauge;
use kruntimes_daemon::prometheus_client::metrics::histogram::Histogram;
use kruntimes_daemon::{LATENCY_BUCKETS, Metrics};

use crate::kubernetes::ApiError;

/// Prefix of every name.
pub const PREFIX: &str = "kruntimes_runtimed";
/// Buckets for the length of Runs, in seconds.
const DURATIONS: [f64; 12] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 1800.0, 7200.0, 86400.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    runtime: Arc<str>,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RetryLabels {
    runtime: Arc<str>,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    runtime: Arc<str>,
    phase: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CpuLabels {
    runtime: Arc<str>,
    mode: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BlockLabels {
    runtime: Arc<str>,
    direction: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BeatLabels {
    result: &'static str,
}

/// The handles of everything that is counted.
#[derive(Debug, Clone)]
pub struct RuntimedMetrics {
    runtime: Arc<str>,
    runs: Family<ResultLabels, Counter>,
    retries: Family<RetryLabels, Counter>,
    failures: Family<FailureLabels, Counter>,
    durations: Histogram,
    dispatch: Histogram,
    heartbeats: Family<BeatLabels, Counter>,
    cpu: Family<CpuLabels, Counter<f64, AtomicU64>>,
    blocks: Family<BlockLabels, Counter<f64, AtomicU64>>,
    /// Attempts that are not finished.
    pub active: Gauge,
    /// Effects of older attempts that were dropped.
    pub stale: Counter,
    writes: Family<WriteLabels, Counter>,
}

impl RuntimedMetrics {
    /// Registers everything.
    pub fn register(metrics: &Metrics, runtime: &str) -> Self {
        metrics.register(|registry| {
            let these = Self {
                runtime: runtime.into(),
                runs: Family::default(),
                retries: Family::default(),
                failures: Family::default(),
                durations: Histogram::new(DURATIONS),
                dispatch: Histogram::new(LATENCY_BUCKETS),
                heartbeats: Family::default(),
                cpu: Family::default(),
                blocks: Family::default(),
                active: Gauge::default(),
                stale: Counter::default(),
                writes: Family::default(),
            };
            registry.register("runs", "Runs that ended here", these.runs.clone());
            registry.register("run_retries", "Attempts that are followed by another", these.retries.clone());
            registry.register("run_failures", "Runs that did not succeed", these.failures.clone());
            registry.register(
                "run_duration_seconds",
                "From the start of the process to its end",
                these.durations.clone(),
            );
            registry.register(
                "dispatch_duration_seconds",
                "From the bind to the start of the process",
                these.dispatch.clone(),
            );
            registry.register(
                "heartbeats",
                "Heartbeats, by whether the API took them",
                these.heartbeats.clone(),
            );
            registry.register(
                "run_cpu_seconds",
                "CPU time in the usage records of the attempts that ended here",
                these.cpu.clone(),
            );
            registry.register(
                "run_block_bytes",
                "Bytes from and to block devices in the usage records of the attempts that ended here",
                these.blocks.clone(),
            );
            // From zero: a rate does not see the value that a series begins with.
            these.attempt_used(&AttemptUsage::default());
            registry.register("active_runs", "Attempts that are not finished", these.active.clone());
            registry.register(
                "stale_effects",
                "Effects of older attempts that were dropped",
                these.stale.clone(),
            );
            let help = "Requests that write a Run's status, by how they ended";
            registry.register("status_writes", help, these.writes.clone());
            these
        })
    }

    /// Counts a heartbeat.
    pub fn heartbeat(&self, taken: bool) {
        let result = if taken { "ok" } else { "error" };
        self.heartbeats.get_or_create(&BeatLabels { result }).inc();
    }

    /// Counts what the record of an attempt bills: whoever has the Pod's own counter sees what is nobody's.
    pub fn attempt_used(&self, usage: &AttemptUsage) {
        let billed = |name: &str| {
            let figures = usage.figures.iter().filter(|figure| figure.name == name && figure.value > 0.0);
            figures.map(|figure| figure.value).sum()
        };
        for (mode, figure) in [("user", "cpu_user_seconds"), ("system", "cpu_system_seconds")] {
            let labels = CpuLabels { runtime: self.runtime.clone(), mode };
            self.cpu.get_or_create(&labels).inc_by(billed(figure));
        }
        for (direction, figure) in [("read", "block_read_bytes"), ("write", "block_write_bytes")] {
            let labels = BlockLabels { runtime: self.runtime.clone(), direction };
            self.blocks.get_or_create(&labels).inc_by(billed(figure));
        }
    }

    /// Counts a request that writes a Run's status.
    pub fn wrote(&self, error: Option<&ApiError>) {
        let result = match error {
            None => "ok",
            Some(ApiError::Conflict(_)) => "conflict",
            Some(ApiError::NotFound(_)) => "gone",
            Some(ApiError::Transient(_)) => "transient",
            Some(ApiError::Refused(_)) => "refused",
        };
        self.writes.get_or_create(&WriteLabels { result }).inc();
    }

    /// Counts what a status that ended an attempt says.
    pub fn attempt_ended(&self, status: &RunStatus) {
        let phase = status.phase.unwrap_or_default();
        let reason = status.reason.map_or("none", |reason| reason.as_str());
        if phase == Phase::Pending {
            if status.reason.is_some() {
                self.retries.get_or_create(&RetryLabels { runtime: self.runtime.clone(), reason }).inc();
            }
            return;
        }
        if !phase.is_terminal() {
            return;
        }
        let result = phase.as_str();
        self.runs.get_or_create(&ResultLabels { runtime: self.runtime.clone(), result }).inc();
        if phase != Phase::Succeeded {
            let labels = FailureLabels { runtime: self.runtime.clone(), phase: result, reason };
            self.failures.get_or_create(&labels).inc();
        }
        let Some(start) = status.start_time.as_ref() else { return };
        if let Some(bound) = &status.scheduled_time {
            self.dispatch.observe(seconds(start.0.duration_since(bound.0)));
        }
        if let Some(end) = &status.completion_time {
            self.durations.observe(seconds(end.0.duration_since(start.0)));
        }
    }
}

fn seconds(span: jiff::SignedDuration) -> f64 {
    Duration::try_from(span).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod all_of_them;

#[cfg(test)]
mod tests {
    use super::*;
    use kruntimes_api::run::Figure;

    #[test]
    fn the_bill_of_all_attempts_can_be_added_up() {
        let metrics = Metrics::new(PREFIX);
        let counted = RuntimedMetrics::register(&metrics, "bash");
        assert!(metrics.encode().contains("mode=\"user\"} 0"), "from zero");
        let figure = |name: &str, value| Figure { name: name.into(), value, ..Figure::default() };
        for value in [0.25, 1.5, f64::NAN, -1.0] {
            let figures = vec![figure("cpu_user_seconds", value), figure("block_write_bytes", 4096.0)];
            counted.attempt_used(&AttemptUsage { figures, incomplete: false });
        }
        let text = metrics.encode();
        let user = "kruntimes_runtimed_run_cpu_seconds_total{runtime=\"bash\",mode=\"user\"} 1.75";
        assert!(text.contains(user), "{text}");
        assert!(text.contains("mode=\"system\"} 0"), "{text}");
        assert!(
            text.contains("direction=\"write\"} 16384") && text.contains("direction=\"read\"} 0"),
            "{text}"
        );
    }
}
