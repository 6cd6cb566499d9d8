//! From the stop signal to the exit.

use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::engine::Event;
use crate::kubernetes::heartbeat::{PodInfo, Readiness};
use crate::server::ServerView;

/// The last part of the Pod's grace: for ending Runs and for writing how they ended.
const MARGIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// How long a server may go on after the last Run, before we go without it.
const AFTER_SERVER: Duration = Duration::from_secs(3);
/// How long unsent Runs have to be handed back when only our container is restarted.
const RESTART: Duration = Duration::from_secs(2);

/// What stopping takes.
pub struct Stopping {
    /// TERM came.
    pub signal: CancellationToken,
    /// To the engine.
    pub events: mpsc::Sender<Event>,
    /// What the API says of our Pod.
    pub info: watch::Receiver<Option<PodInfo>>,
    /// The last heartbeat.
    pub readiness: watch::Receiver<Option<Readiness>>,
    /// The Pod's, counted from the signal.
    pub grace: Duration,
    /// Ends the loop.
    pub give_up: CancellationToken,
}

impl Stopping {
    /// On the signal, tells the engine that the Pod stops. Whether it does, or only this
    /// container is restarted, the API says in its answer to the last heartbeat: then
    /// executions go on without us, and our successor adopts them. Gives up at the very end
    /// of the grace: what is not written by then, the control plane finds out.
    pub async fn run(mut self) {
        self.signal.cancelled().await;
        let now = Instant::now();
        let margin = (self.grace / 3).clamp(MARGIN.0, MARGIN.1);
        let until = now + self.grace.saturating_sub(margin);
        let end = now + self.grace.saturating_sub(MARGIN.0 / 2);
        if self.events.send(Event::Drain { until, end_started: false }).await.is_err() {
            return;
        }
        let deleting = tokio::select! {
            deleting = self.pod_stops() => deleting,
            // Nobody answers: the signal is all we have.
            () = tokio::time::sleep_until(until.into()) => true,
        };
        let end = if deleting {
            if self.events.send(Event::Drain { until, end_started: true }).await.is_err() {
                return;
            }
            end
        } else {
            tracing::info!("only this container is stopped: executions go on");
            end.min(now + RESTART)
        };
        tokio::time::sleep_until(end.into()).await;
        self.give_up.cancel();
    }

    async fn pod_stops(&mut self) -> bool {
        let said =
            |readiness: &Option<Readiness>| readiness.as_ref().is_some_and(|said| said.reason == "Draining");
        if self.readiness.wait_for(said).await.is_err() {
            return true;
        }
        self.info.borrow().as_ref().is_none_or(|info| info.deleting)
    }
}

/// The server may still have something to say until it ends; a while, not for ever.
pub async fn after_server(mut views: watch::Receiver<ServerView>, give_up: &CancellationToken) {
    let gone = views.wait_for(|view| view.client.is_none());
    tokio::select! {
        _ = gone => {}
        () = tokio::time::sleep(AFTER_SERVER) => {}
        () = give_up.cancelled() => {}
    }
}
