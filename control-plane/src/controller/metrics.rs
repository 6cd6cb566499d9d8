//! What the controller counts.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kruntimes_daemon::Metrics;
use kruntimes_daemon::prometheus_client::encoding::EncodeLabelSet;
use kruntimes_daemon::prometheus_client::metrics::counter::Counter;
use kruntimes_daemon::prometheus_client::metrics::family::Family;
use kruntimes_daemon::prometheus_client::metrics::gauge::Gauge;

use super::effects::Kind;
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
struct KindLabel {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolLabels {
    namespace: String,
    runtime: String,
}

/// Counters of the controller. Labels are bounded by the number of Runtimes.
#[derive(Debug, Clone)]
pub struct ControllerMetrics {
    writes: Family<Write, Counter>,
    lost: Family<Word, Counter>,
    stale: Counter,
    malformed: Family<KindLabel, Counter>,
    watch_errors: Family<KindLabel, Counter>,
    ready: Family<PoolLabels, Gauge>,
    wanted: Family<PoolLabels, Gauge>,
    ending: Gauge,
}

impl ControllerMetrics {
    /// Registers everything.
    pub fn new(metrics: &Metrics) -> Self {
        let this = Self {
            writes: Family::default(),
            lost: Family::default(),
            stale: Counter::default(),
            malformed: Family::default(),
            watch_errors: Family::default(),
            ready: Family::default(),
            wanted: Family::default(),
            ending: Gauge::default(),
        };
        metrics.register(|registry| {
            registry.register("writes", "Writes by what they are and how they ended", this.writes.clone());
            registry.register("lost_attempts", "Attempts that ended with their Pod", this.lost.clone());
            registry.register("stale_effects", "Verdicts dropped before the write", this.stale.clone());
            registry.register(
                "malformed_objects",
                "Objects that could not be decoded",
                this.malformed.clone(),
            );
            registry.register(
                "watch_errors",
                "Watches that had to be started again",
                this.watch_errors.clone(),
            );
            registry.register("pods_ready", "Pods that take Runs", this.ready.clone());
            registry.register("pods_wanted", "Replicas asked for", this.wanted.clone());
            registry.register(
                "runs_to_delete",
                "Ended Runs that wait for their deletion",
                this.ending.clone(),
            );
        });
        this
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

    pub(super) fn malformed(&self, kind: &'static str, meta: &ObjectMeta, error: &str) {
        self.malformed.get_or_create(&KindLabel { kind }).inc();
        tracing::warn!(kind, namespace = meta.namespace, name = meta.name, error, "object cannot be decoded");
    }

    pub(super) fn trouble(&self, kind: &'static str, error: &str) {
        self.watch_errors.get_or_create(&KindLabel { kind }).inc();
        tracing::warn!(kind, error, "watch failed");
    }

    /// Sets the gauges.
    pub(super) fn sizes<'a>(
        &self,
        sizes: impl Iterator<Item = (&'a str, &'a str, usize, i32)>,
        ending: usize,
    ) {
        self.ready.clear();
        self.wanted.clear();
        for (namespace, runtime, ready, wanted) in sizes {
            let labels = PoolLabels { namespace: namespace.to_owned(), runtime: runtime.to_owned() };
            self.ready.get_or_create(&labels).set(ready as i64);
            self.wanted.get_or_create(&labels).set(i64::from(wanted));
        }
        self.ending.set(ending as i64);
    }
}
