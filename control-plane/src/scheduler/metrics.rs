//! What the scheduler counts.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use jiff::Timestamp;
use kruntimes_core::schedule::{Outcome, QueueDepth, Rejection};
use kruntimes_daemon::prometheus_client::encoding::EncodeLabelSet;
use kruntimes_daemon::prometheus_client::metrics::counter::Counter;
use kruntimes_daemon::prometheus_client::metrics::family::Family;
use kruntimes_daemon::prometheus_client::metrics::gauge::Gauge;
use kruntimes_daemon::prometheus_client::metrics::histogram::Histogram;
use kruntimes_daemon::{LATENCY_BUCKETS, Metrics};

use super::engine::Write;
use crate::watch::WatchMetrics;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SyncLabels {
    runtime: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabels {
    namespace: String,
    runtime: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabels {
    namespace: String,
    runtime: String,
    phase: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    what: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RejectionLabels {
    plugin: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Source {
    source: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Stage {
    stage: &'static str,
}

/// Counters of the scheduler; those with a baseline name keep it. Labels are bounded by the
/// number of Runtimes.
#[derive(Debug, Clone)]
pub struct SchedulerMetrics {
    sync: Family<SyncLabels, Counter>,
    sync_duration: Histogram,
    writes: Family<WriteLabels, Counter>,
    rejections: Family<RejectionLabels, Counter>,
    runs: Family<PhaseLabels, Gauge>,
    no_pods: Counter,
    queued: Histogram,
    conflicts: Family<Stage, Counter>,
    wakeups: Family<Source, Counter>,
    depth: Family<QueueLabels, Gauge>,
    placed: Family<QueueLabels, Gauge>,
    oldest: Family<QueueLabels, Gauge<f64, AtomicU64>>,
    in_flight: Gauge,
    unseen: Gauge,
    stale: Counter,
    /// What goes wrong with the watches.
    pub(super) watches: WatchMetrics,
}

impl SchedulerMetrics {
    /// Registers everything.
    pub fn new(metrics: &Metrics) -> Self {
        let latency = || Histogram::new(LATENCY_BUCKETS);
        let this = Self {
            sync: Family::default(),
            sync_duration: latency(),
            writes: Family::default(),
            rejections: Family::default(),
            runs: Family::default(),
            no_pods: Counter::default(),
            queued: latency(),
            conflicts: Family::default(),
            wakeups: Family::default(),
            depth: Family::default(),
            placed: Family::default(),
            oldest: Family::default(),
            in_flight: Gauge::default(),
            unseen: Gauge::default(),
            stale: Counter::default(),
            watches: WatchMetrics::new(metrics),
        };
        metrics.register(|registry| {
            registry.register("sync", "Decisions written, by Runtime and result", this.sync.clone());
            registry.register(
                "sync_duration_seconds",
                "Time of one planning pass",
                this.sync_duration.clone(),
            );
            registry.register(
                "writes",
                "Writes to the API, by what they are and how they ended",
                this.writes.clone(),
            );
            let help = "Pods that could not take a Run that was looked into, by the check that said so";
            registry.register("filter_rejections", help, this.rejections.clone());
            registry.register("runs", "Runs that have not ended, by phase", this.runs.clone());
            registry.register("no_pods", "Runs that were told that no Pod fits", this.no_pods.clone());
            let help = "Time from a Run's first sight, or return to the queue, to its bind";
            registry.register("run_queue_duration_seconds", help, this.queued.clone());
            registry.register(
                "reservation_conflicts",
                "Writes refused as out of date",
                this.conflicts.clone(),
            );
            registry.register(
                "pending_run_wakeups",
                "Watch events that may let Runs go",
                this.wakeups.clone(),
            );
            registry.register("queue_depth", "Runs that wait for a Pod", this.depth.clone());
            registry.register("placed_runs", "Runs that hold room in a Pod", this.placed.clone());
            registry.register("queue_oldest_seconds", "Age of the oldest waiting Run", this.oldest.clone());
            registry.register("writes_in_flight", "Writes not answered yet", this.in_flight.clone());
            let help = "Binds that the watch has not shown yet";
            registry.register("binds_unseen", help, this.unseen.clone());
            registry.register("stale_decisions", "Decisions dropped before the write", this.stale.clone());
        });
        this
    }

    pub(super) fn settled(&self, write: &Write, outcome: Outcome) {
        let result = match outcome {
            Outcome::Written => write.what,
            Outcome::Conflict => "conflict",
            Outcome::Gone => "gone",
            Outcome::Failed => "error",
        };
        self.sync.get_or_create(&SyncLabels { runtime: write.runtime.clone(), result }).inc();
        let ended = if outcome == Outcome::Written { "ok" } else { result };
        self.writes.get_or_create(&WriteLabels { what: write.what, result: ended }).inc();
        match (outcome, write.what) {
            (Outcome::Written, "bound") => self.queued.observe(write.waited),
            (Outcome::Written, "unschedulable") => {
                self.no_pods.inc();
            }
            (Outcome::Conflict, what) => {
                self.conflicts.get_or_create(&Stage { stage: what }).inc();
            }
            _ => {}
        }
    }

    pub(super) fn woken(&self, source: &'static str) {
        self.wakeups.get_or_create(&Source { source }).inc();
    }

    pub(super) fn stale(&self) {
        self.stale.inc();
    }

    pub(super) fn planned(&self, took: Duration, in_flight: usize, unseen: usize) {
        self.sync_duration.observe(took.as_secs_f64());
        self.in_flight.set(in_flight as i64);
        self.unseen.set(unseen as i64);
    }

    pub(super) fn rejected(&self, rejections: BTreeMap<Rejection, u64>) {
        for (Rejection { plugin, reason }, pods) in rejections {
            self.rejections.get_or_create(&RejectionLabels { plugin, reason }).inc_by(pods);
        }
    }

    /// Sets the gauges of every queue.
    pub(super) fn depths(&self, depths: &[QueueDepth], now: Timestamp) {
        self.runs.clear();
        self.depth.clear();
        self.placed.clear();
        self.oldest.clear();
        for queue in depths {
            let labels =
                QueueLabels { namespace: queue.namespace.to_string(), runtime: queue.runtime.to_string() };
            self.depth.get_or_create(&labels).set(queue.waiting as i64);
            self.placed.get_or_create(&labels).set(queue.placed as i64);
            let age =
                queue.oldest.map_or(0.0, |oldest| (now - oldest).total(jiff::Unit::Second).unwrap_or(0.0));
            self.oldest.get_or_create(&labels).set(age.max(0.0));
            for (phase, runs) in &queue.phases {
                let QueueLabels { namespace, runtime } = labels.clone();
                let labels = PhaseLabels { namespace, runtime, phase: phase.as_str() };
                self.runs.get_or_create(&labels).set(*runs as i64);
            }
        }
    }
}

#[cfg(test)]
impl SchedulerMetrics {
    /// Gives each family a member: an empty one is not exported.
    pub(crate) fn touch(&self) {
        let (namespace, runtime) = (String::new(), String::new());
        let queue = QueueLabels { namespace: namespace.clone(), runtime: runtime.clone() };
        self.sync.get_or_create(&SyncLabels { runtime: runtime.clone(), result: "bound" }).inc();
        self.writes.get_or_create(&WriteLabels { what: "bound", result: "ok" }).inc();
        self.rejections.get_or_create(&RejectionLabels { plugin: "resources", reason: "busy" }).inc();
        self.runs.get_or_create(&PhaseLabels { namespace, runtime, phase: "Pending" }).set(1);
        self.conflicts.get_or_create(&Stage { stage: "bound" }).inc();
        self.woken("run");
        self.depth.get_or_create(&queue).set(1);
        self.placed.get_or_create(&queue).set(1);
        self.oldest.get_or_create(&queue).set(1.0);
        self.watches.touch();
    }
}
