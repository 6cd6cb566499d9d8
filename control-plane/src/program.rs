//! What both programs are around their work: metrics, health, the Lease, and an orderly end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kruntimes_daemon::prometheus_client::metrics::gauge::Gauge;
use kruntimes_daemon::{CancellationToken, Endpoints, HttpServer, Metrics};
use kube::Client;

use crate::events::Recorder;
use crate::lease;
use crate::options::Common;

/// One of the two programs.
pub(crate) struct Program<'a> {
    /// As Events and the Lease name it: `kruntimes-scheduler`.
    pub(crate) name: &'static str,
    pub(crate) common: &'a Common,
    pub(crate) metrics_address: &'a str,
    pub(crate) health_address: &'a str,
    pub(crate) metrics: Metrics,
}

/// What the work is done with, by the one replica that does it.
pub(crate) struct Leading {
    pub(crate) client: Client,
    pub(crate) recorder: Recorder,
    /// To be set when the initial lists are complete: what `/readyz` says.
    pub(crate) ready: Arc<AtomicBool>,
    /// Cancelled when another replica may lead.
    pub(crate) lost: CancellationToken,
}

impl Program<'_> {
    /// Serves metrics and health until `stop`, and does the work while the Lease is held, or at once without election.
    ///
    /// # Errors
    /// When an address cannot be listened on, the API cannot be used, or the work failed.
    pub(crate) async fn run<W>(self, stop: CancellationToken, work: W) -> anyhow::Result<()>
    where
        W: AsyncFnOnce(Leading) -> anyhow::Result<()>,
    {
        let Self { name, common, metrics_address, health_address, metrics } = self;
        let http = HttpServer::bind(&[
            (common.address(metrics_address)?, Endpoints::METRICS),
            (common.address(health_address)?, Endpoints::HEALTH),
        ])
        .await?;
        let client = common.client().await?;
        let ready = Arc::new(AtomicBool::new(false));
        let readiness = Arc::clone(&ready);
        let is_ready = move || match readiness.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err(String::from("the initial lists are not complete")),
        };
        let leader = leader(&metrics);
        let recorder = Recorder::start(client.clone(), name, &metrics);
        let serve = tokio::spawn(http.serve(metrics, is_ready, stop.clone()));
        let held = match common.leader_elect {
            true => {
                // A standby is ready: it has nothing to list until it leads.
                ready.store(true, Ordering::Relaxed);
                let default = format!("{name}.kruntimes.com");
                let lease = common.leader_elect_lease.as_deref().unwrap_or(&default);
                lease::acquire(&client, &common.leader_elect_namespace, lease, &stop).await?
            }
            false => None,
        };
        if !stop.is_cancelled() {
            let lost = held.as_ref().map(lease::Held::lost).unwrap_or_default();
            leader.set(1);
            work(Leading { client, recorder, ready, lost }).await?;
            leader.set(0);
        }
        if let Some(held) = held {
            held.release().await;
        }
        stop.cancel();
        serve.await??;
        Ok(())
    }
}

/// Says whether it is this replica that works.
pub(crate) fn leader(metrics: &Metrics) -> Gauge {
    let leader = Gauge::default();
    let help = "1 while this replica does the work, 0 while it waits for the Lease";
    metrics.register(|registry| registry.register("leader", help, leader.clone()));
    leader
}
