//! The scheduler: Runs to Pods.

mod engine;
mod metrics;
mod service;

#[cfg(test)]
mod engine_tests;

use clap::Parser;

use crate::options::Common;

pub use engine::{Action, Bind, Engine, Event, Write};
pub use metrics::SchedulerMetrics;
pub use service::run;

/// Puts Runs into warm Runtime Pods.
#[derive(Debug, Clone, Parser)]
#[command(name = "scheduler", version = kruntimes_daemon::version())]
pub struct Options {
    /// Flags of both programs.
    #[command(flatten)]
    pub common: Common,
    /// Where /metrics is served; 0 is off.
    #[arg(long, default_value = ":8080")]
    pub metrics_bind_address: String,
    /// Where /healthz and /readyz are served; 0 is off.
    #[arg(long, default_value = ":8081")]
    pub health_probe_bind_address: String,
    /// Writes in flight at most, and binds at most that the watch has not shown yet.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub concurrent_binds: u16,
}
