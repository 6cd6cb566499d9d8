//! Process scaffolding that every long-running program of the project shares.
//!
//! Owns logging, stop signals, the metrics registry, the small HTTP server for
//! `/metrics`, `/healthz` and `/readyz`, listen addresses, a bound on connections and the build string.
//! Comes in: flags and environment, closures that tell readiness. Goes out: log
//! lines on standard error, plain HTTP/1 answers. Knows neither Kubernetes nor gRPC.
//!
//! What must always hold: a stop signal is never lost (the token stays cancelled),
//! and an HTTP listener that cannot be opened is an error at start, not a log line.
//!
//! ```no_run
//! use kruntimes_daemon::{Endpoints, HttpServer, LogFormat, Metrics, bind_ip, init_logging, parse_address, shutdown_signal};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! init_logging("controller", LogFormat::Json)?;
//! let stop = shutdown_signal()?;
//! let metrics = Metrics::new("kruntimes_controller");
//! let ip = bind_ip()?;
//! let http = HttpServer::bind(&[
//!     (parse_address(":8082", ip)?, Endpoints::METRICS),
//!     (parse_address(":8083", ip)?, Endpoints::HEALTH),
//! ])
//! .await?;
//! http.serve(metrics, || Ok(()), stop.clone()).await?;
//! # Ok(())
//! # }
//! ```

mod address;
mod build;
mod connections;
mod http;
mod logging;
mod metrics;
mod shutdown;

pub use address::{AddressError, BIND_ADDRESS_ENV, bind_ip, parse_address, parse_bind_ip};
pub use build::{BuildInfo, build_info, version};
pub use connections::{Placed, Places};
pub use http::{Endpoints, HttpError, HttpServer};
pub use logging::{LOG_ENV, LogFormat, LoggingError, init_logging};
pub use metrics::{LATENCY_BUCKETS, Metrics};
/// The metrics crate, so that every component registers with one version of it.
pub use prometheus_client;
pub use shutdown::shutdown_signal;
/// The token type that [`shutdown_signal`] returns.
pub use tokio_util::sync::CancellationToken;
