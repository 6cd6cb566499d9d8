//! `/metrics`, `/healthz` and `/readyz` on one or more addresses.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Metrics;
use crate::connections::Bounded;

/// Which paths one address answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    metrics: bool,
    health: bool,
}

impl Endpoints {
    /// `/metrics` only.
    pub const METRICS: Self = Self { metrics: true, health: false };
    /// `/healthz` and `/readyz` only.
    pub const HEALTH: Self = Self { metrics: false, health: true };
    /// All three.
    pub const ALL: Self = Self { metrics: true, health: true };
}

/// Why the HTTP server could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A listener failed later.
    #[error("http listener on {address} failed: {source}")]
    Serve {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

type Readiness = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Listeners that are open already; [`HttpServer::serve`] answers on them.
#[derive(Debug)]
pub struct HttpServer {
    listeners: Vec<(TcpListener, SocketAddr, Endpoints)>,
}

impl HttpServer {
    /// Opens every address that is not `None` (off, see [`crate::parse_address`]).
    /// An address given twice is opened once and answers the paths of both.
    ///
    /// # Errors
    /// When an address cannot be listened on.
    pub async fn bind(addresses: &[(Option<SocketAddr>, Endpoints)]) -> Result<Self, HttpError> {
        let mut wanted: Vec<(SocketAddr, Endpoints)> = Vec::new();
        for (address, endpoints) in addresses.iter().filter_map(|(a, e)| a.map(|a| (a, *e))) {
            match wanted.iter_mut().find(|(other, _)| *other == address && address.port() != 0) {
                Some((_, both)) => {
                    both.metrics |= endpoints.metrics;
                    both.health |= endpoints.health;
                }
                None => wanted.push((address, endpoints)),
            }
        }
        let mut listeners = Vec::with_capacity(wanted.len());
        for (address, endpoints) in wanted {
            let bind_error = |source| HttpError::Bind { address, source };
            let listener = TcpListener::bind(address).await.map_err(bind_error)?;
            let bound = listener.local_addr().map_err(bind_error)?;
            listeners.push((listener, bound, endpoints));
        }
        Ok(Self { listeners })
    }

    /// The addresses in use, in the order given (port 0 resolved).
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.listeners.iter().map(|(_, address, _)| *address)
    }

    /// Answers until `stop` is cancelled, then finishes the requests in flight.
    ///
    /// `/healthz` is 200 as long as the process answers; `/readyz` is 200 when `ready` gives `Ok`,
    /// else 503 with its text. `ready` is called on each request and must not block: keep the
    /// result of anything slow (an RPC, a list) in a cell that it reads.
    ///
    /// # Errors
    /// When a listener fails.
    pub async fn serve(
        self,
        metrics: Metrics,
        ready: impl Fn() -> Result<(), String> + Send + Sync + 'static,
        stop: CancellationToken,
    ) -> Result<(), HttpError> {
        let ready: Readiness = Arc::new(ready);
        let mut servers = JoinSet::new();
        for (listener, address, endpoints) in self.listeners {
            let app = router(endpoints, &metrics, &ready);
            let stopped = stop.clone().cancelled_owned();
            servers.spawn(async move {
                axum::serve(Bounded::new(listener), app)
                    .with_graceful_shutdown(stopped)
                    .await
                    .map_err(|source| HttpError::Serve { address, source })
            });
        }
        if servers.is_empty() {
            stop.cancelled().await;
        }
        while let Some(ended) = servers.join_next().await {
            if let Ok(result) = ended {
                result?;
            }
        }
        Ok(())
    }
}

fn router(endpoints: Endpoints, metrics: &Metrics, ready: &Readiness) -> Router {
    const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let mut app = Router::new();
    if endpoints.metrics {
        let metrics = metrics.clone();
        let answer = move || async move { ([(header::CONTENT_TYPE, OPENMETRICS)], metrics.encode()) };
        app = app.route("/metrics", get(answer));
    }
    if endpoints.health {
        let ready = Arc::clone(ready);
        let readyz = move || async move {
            match ready() {
                Ok(()) => "ok\n".into_response(),
                Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
            }
        };
        app = app.route("/healthz", get(|| async { "ok\n" })).route("/readyz", get(readyz));
    }
    app
}
