//! The metrics registry, in the OpenMetrics text format.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// Bucket bounds in seconds for latencies from half a millisecond to a minute.
pub const LATENCY_BUCKETS: [f64; 14] =
    [0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 20.0, 60.0];

/// A shared registry. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
}

impl Metrics {
    /// An empty registry; every name gets `prefix` and an underscore in front,
    /// for instance `kruntimes_scheduler`. Holds the build version from the start.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        let mut registry = Registry::with_prefix(prefix);
        let build = crate::build_info();
        registry.register(
            "build",
            "What was built",
            Info::new(vec![("version", build.version), ("commit", build.commit), ("built", build.built)]),
        );
        let start = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0.0, |since| since.as_secs_f64());
        registry.register("start_time_seconds", "Start of the process, Unix time", ConstStart::new(start));
        Self { registry: Arc::new(Mutex::new(registry)) }
    }

    /// Adds metrics: the closure gets the registry and returns the handles it keeps.
    pub fn register<T>(&self, add: impl FnOnce(&mut Registry) -> T) -> T {
        add(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The text that `/metrics` answers.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        match prometheus_client::encoding::text::encode(&mut text, &registry) {
            Ok(()) => text,
            Err(error) => {
                tracing::error!(%error, "metrics could not be encoded");
                String::from("# EOF\n")
            }
        }
    }
}

type ConstStart = prometheus_client::metrics::gauge::ConstGauge<f64>;

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;

    #[test]
    fn what_is_registered_is_encoded_under_the_prefix() {
        let metrics = Metrics::new("kruntimes_test");
        let counter: Counter = metrics.register(|registry| {
            let counter = Counter::default();
            registry.register("things", "Things counted", counter.clone());
            counter
        });
        counter.inc_by(3);
        let text = metrics.clone().encode();
        assert!(text.contains("kruntimes_test_things_total 3"), "{text}");
        assert!(text.contains("kruntimes_test_build_info{version="), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
