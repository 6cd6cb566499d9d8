//! The controller: Runtimes to Pools, lost Pods, and the end of ended Runs.

mod effects;
mod ended;
mod engine;
mod event;
mod metrics;
mod pool;
mod seen;
mod service;

#[cfg(test)]
mod engine_tests;

use clap::Parser;
use kruntimes_api::duration;
use kruntimes_api::names::OTLP_ENDPOINT_ENV;
use kruntimes_core::desired::Defaults;
use std::time::Duration;

use crate::options::Common;

pub use effects::{ApiCluster, Applied, Cluster, Kind};
pub use ended::EndedRun;
pub use engine::Engine;
pub use event::{Action, Done, Event};
pub use metrics::ControllerMetrics;
pub use pool::{Pass, PassResult};
pub use service::run;

/// Field manager of everything that the controller applies.
pub const FIELD_MANAGER: &str = "kruntimes-controller";

/// Keeps Runtimes, gives lost Runs back, deletes ended ones in time.
#[derive(Debug, Clone, Parser)]
#[command(name = "controller", version = kruntimes_daemon::version())]
pub struct Options {
    /// Flags of both programs.
    #[command(flatten)]
    pub common: Common,
    /// Where /metrics is served; 0 is off.
    #[arg(long, default_value = ":8082")]
    pub metrics_bind_address: String,
    /// Where /healthz and /readyz are served; 0 is off.
    #[arg(long, default_value = ":8083")]
    pub health_probe_bind_address: String,
    /// A Pod without a heartbeat for this long is deleted if Runs are bound to it.
    #[arg(long, default_value = "30s", value_parser = go_duration)]
    pub stale_threshold: Duration,
    /// Runs of such a Pod that does not go away are retried after this; 0 is never.
    #[arg(long, default_value = "10m", value_parser = go_duration)]
    pub force_retry_after: Duration,
    /// Image of runtimed for Runtimes that name none.
    #[arg(long, default_value = "kruntimes-runtimed:latest")]
    pub default_daemon_image: String,
    /// Service account of Runtime Pods whose template names none; default: one per Runtime.
    #[arg(long, default_value = "")]
    pub runtimed_service_account_name: String,
    /// Let anybody reach the metrics port of Runtime Pods through their network policy.
    #[arg(long, default_value = "false", default_missing_value = "true", num_args = 0..=1, require_equals = true,
          action = clap::ArgAction::Set)]
    pub allow_metrics_ingress: bool,
    /// Where server and sidecar of Runtime Pods send traces whose template does not say: OTLP over gRPC,
    /// http://HOST:PORT; default: nowhere.
    #[arg(long, env = OTLP_ENDPOINT_ENV)]
    pub otlp_endpoint: Option<String>,
    /// Accepted for the baseline's sake; artifacts are not available yet.
    #[arg(long, default_value = "", hide = true)]
    pub runtime_maintainer_image: String,
    /// Accepted for the baseline's sake; artifacts are not available yet.
    #[arg(long, default_value = "", hide = true)]
    pub runtime_maintainer_image_pull_secrets: String,
}

impl Options {
    /// What these flags decide for every Runtime.
    pub fn defaults(&self) -> Defaults {
        let account = Some(self.runtimed_service_account_name.clone()).filter(|account| !account.is_empty());
        let image = Some(self.default_daemon_image.clone()).filter(|image| !image.is_empty());
        Defaults {
            daemon_image: image.unwrap_or_else(|| Defaults::default().daemon_image),
            service_account: account,
            metrics_ingress: self.allow_metrics_ingress,
            otlp_endpoint: self.otlp_endpoint.clone().filter(|endpoint| !endpoint.is_empty()),
        }
    }
}

fn go_duration(text: &str) -> Result<Duration, duration::ParseDurationError> {
    if text == "0" { Ok(Duration::ZERO) } else { duration::parse(text) }
}
