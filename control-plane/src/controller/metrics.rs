//! What the controller counts.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use kruntimes_daemon::Metrics;
use kruntimes_daemon::prometheus_client::encoding::EncodeLabelSet;
use kruntimes_daemon::prometheus_client::metrics::counter::Counter;
use kruntimes_daemon::prometheus_client::metrics::family::Family;
use kruntimes_daemon::prometheus_client::metrics::gauge::Gauge;
use kruntimes_daemon::prometheus_client::metrics::histogram::Histogram;

use super::effects::Kind;
use super::ended::News;
use super::pool::Figures;
use crate::watch::WatchMetrics;
use crate::writer::WriteError;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Write {
    what: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Word {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolLabels {
    namespace: String,
    runtime: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    namespace: String,
    runtime: String,
    phase: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResourceLabels {
    namespace: String,
    runtime: String,
    resource: String,
}

type Amount = Family<ResourceLabels, Gauge<f64, AtomicU64>>;

/// Buckets in seconds for what a person waits for.
const DURATIONS: [f64; 14] =
    [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 1800.0, 7200.0, 86400.0];

/// Counters of the controller. Labels are bounded by the number of Runtimes.
#[derive(Debug, Clone)]
pub struct ControllerMetrics {
    writes: Family<Write, Counter>,
    lost: Family<Word, Counter>,
    stale: Counter,
    /// What goes wrong with the watches.
    pub(super) watches: WatchMetrics,
    ready: Family<PoolLabels, Gauge>,
    wanted: Family<PoolLabels, Gauge>,
    ending: Gauge,
    ended: Family<EndLabels, Counter>,
    completion: Histogram,
    capacity: Amount,
    in_use: Amount,
    heartbeat: Family<PoolLabels, Gauge<f64, AtomicU64>>,
    stale_threshold: Gauge<f64, AtomicU64>,
}

impl ControllerMetrics {
    /// Registers everything.
    pub fn new(metrics: &Metrics) -> Self {
        let this = Self {
            writes: Family::default(),
            lost: Family::default(),
            stale: Counter::default(),
            watches: WatchMetrics::new(metrics),
            ready: Family::default(),
            wanted: Family::default(),
            ending: Gauge::default(),
            ended: Family::default(),
            completion: Histogram::new(DURATIONS),
            capacity: Family::default(),
            in_use: Family::default(),
            heartbeat: Family::default(),
            stale_threshold: Gauge::default(),
        };
        metrics.register(|registry| {
            registry.register("writes", "Writes by what they are and how they ended", this.writes.clone());
            registry.register("lost_attempts", "Attempts that ended with their Pod", this.lost.clone());
            registry.register("stale_effects", "Verdicts dropped before the write", this.stale.clone());
            registry.register("pods_ready", "Pods that take Runs", this.ready.clone());
            registry.register("pods_wanted", "Replicas asked for", this.wanted.clone());
            registry.register(
                "runs_to_delete",
                "Ended Runs that wait for their deletion",
                this.ending.clone(),
            );
            registry.register("runs_ended", "Runs that were seen to end", this.ended.clone());
            let help = "From a Run's first sight by the scheduler to its end";
            registry.register("run_complete_duration_seconds", help, this.completion.clone());
            let help = "What the ready Pods of a Runtime offer, in the resource's own unit";
            registry.register("capacity", help, this.capacity.clone());
            let help = "What the Runs in the Pods of a Runtime hold, in the resource's own unit";
            registry.register("in_use", help, this.in_use.clone());
            let help = "Time since the longest silent Pod of a Runtime was heard of";
            registry.register("heartbeat_age_seconds", help, this.heartbeat.clone());
            let help = "Silence after which a Pod is lost, as this controller was told";
            registry.register("stale_threshold_seconds", help, this.stale_threshold.clone());
        });
        this
    }

    /// Says when a Pod counts as lost.
    pub(super) fn stale_after(&self, threshold: Duration) {
        self.stale_threshold.set(threshold.as_secs_f64());
    }

    pub(super) fn wrote(&self, what: &'static str, error: Option<&WriteError>) {
        let result = match error {
            None => "ok",
            Some(WriteError::Conflict) => "conflict",
            Some(WriteError::Gone) => "gone",
            Some(WriteError::Transient(_)) => "transient",
            Some(WriteError::Refused(_)) => "refused",
        };
        self.writes.get_or_create(&Write { what, result }).inc();
    }

    pub(super) fn passed(&self, errors: &[(Kind, String, WriteError)]) {
        self.wrote("pass", errors.first().map(|(_, _, error)| error));
        for (kind, name, error) in errors {
            tracing::warn!(?kind, name, %error, "object could not be written");
        }
    }

    pub(super) fn lost(&self, reason: &'static str) {
        self.lost.get_or_create(&Word { reason }).inc();
    }

    pub(super) fn stale(&self) {
        self.stale.inc();
    }

    pub(super) fn ended(&self, namespace: String, runtime: String, news: &News<'_>) {
        let labels = EndLabels { namespace, runtime, phase: news.phase, reason: news.reason };
        self.ended.get_or_create(&labels).inc();
        if let Some(took) = news.took {
            self.completion.observe(took);
        }
    }

    /// Sets the gauges.
    pub(super) fn figures<'a>(&self, figures: impl Iterator<Item = Figures<'a>>, ending: usize) {
        self.ready.clear();
        self.wanted.clear();
        self.capacity.clear();
        self.in_use.clear();
        self.heartbeat.clear();
        for pool in figures {
            let labels =
                PoolLabels { namespace: pool.namespace.to_owned(), runtime: pool.runtime.to_owned() };
            self.ready.get_or_create(&labels).set(pool.ready as i64);
            self.wanted.get_or_create(&labels).set(i64::from(pool.wanted));
            self.heartbeat.get_or_create(&labels).set(pool.silent.as_secs_f64());
            for (family, amounts) in [(&self.capacity, &pool.capacity), (&self.in_use, &pool.in_use)] {
                for (resource, amount) in amounts.iter() {
                    let PoolLabels { namespace, runtime } = labels.clone();
                    let labels = ResourceLabels { namespace, runtime, resource: resource.to_string() };
                    family.get_or_create(&labels).set(amount.nanos() as f64 / 1e9);
                }
            }
        }
        self.ending.set(ending as i64);
    }
}

#[cfg(test)]
impl ControllerMetrics {
    /// Gives each family a member: an empty one is not exported.
    pub(crate) fn touch(&self) {
        let (namespace, runtime) = (String::new(), String::new());
        let pool = PoolLabels { namespace: namespace.clone(), runtime: runtime.clone() };
        self.wrote("pass", None);
        self.lost("PodGone");
        self.watches.touch();
        self.ready.get_or_create(&pool).set(1);
        self.wanted.get_or_create(&pool).set(1);
        self.heartbeat.get_or_create(&pool).set(1.0);
        let ended = EndLabels { namespace, runtime, phase: "Failed", reason: "Timeout" };
        self.ended.get_or_create(&ended).inc();
        let PoolLabels { namespace, runtime } = pool;
        let amount = ResourceLabels { namespace, runtime, resource: "runs".into() };
        self.capacity.get_or_create(&amount).set(1.0);
        self.in_use.get_or_create(&amount).set(1.0);
    }
}
