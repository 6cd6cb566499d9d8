//! One list and one watch over the Runs of this Pod that have not ended.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use kruntimes_api::run::{Phase, Run};
use kruntimes_core::ids::RunUid;
use kube::core::DeserializeGuard;
use kube::core::error_boundary::InvalidObject;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, Resource as _};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::engine::Event;

/// Runs per page of the first list.
const PAGE: u32 = 100;
/// After an error: the first pause, doubled up to the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What to watch and where to report.
pub struct RunWatch {
    /// For the API.
    pub client: Client,
    /// Of the Pod.
    pub namespace: String,
    /// Name of the Pod.
    pub pod: String,
    /// For the engine.
    pub events: mpsc::Sender<Event>,
    /// Runs of this Pod that cannot be decoded.
    pub malformed: mpsc::Sender<InvalidObject>,
}

/// Watches until `stop`. The watch goes on where it broke off; only when the API says that
/// this is too long ago is everything listed again.
pub async fn watch_runs(watch: RunWatch, stop: CancellationToken) {
    let api: Api<DeserializeGuard<Run>> = Api::namespaced(watch.client.clone(), &watch.namespace);
    let config = watcher::Config::default().fields(&selector(&watch.pod)).page_size(PAGE);
    let mut stream = watcher(api, config).backoff(Pause::default()).into_stream().boxed();
    let mut listing: Option<Vec<Arc<Run>>> = None;
    loop {
        let next = tokio::select! {
            next = stream.next() => next,
            () = stop.cancelled() => return,
        };
        let event = match next {
            None => return,
            Some(Err(error)) => {
                tracing::warn!(%error, "watching Runs failed, trying again");
                continue;
            }
            Some(Ok(event)) => event,
        };
        let sent = match event {
            watcher::Event::Init => {
                listing = Some(Vec::new());
                continue;
            }
            watcher::Event::InitDone => Event::Listed(listing.take().unwrap_or_default()),
            watcher::Event::InitApply(DeserializeGuard(Ok(run))) => {
                listing.get_or_insert_default().push(Arc::new(run));
                continue;
            }
            watcher::Event::Apply(DeserializeGuard(Ok(run))) => Event::Seen(Arc::new(run)),
            watcher::Event::Delete(run) => match &run.meta().uid {
                Some(uid) => Event::Gone(RunUid::from(uid.as_str())),
                None => continue,
            },
            watcher::Event::InitApply(DeserializeGuard(Err(bad)))
            | watcher::Event::Apply(DeserializeGuard(Err(bad))) => {
                if watch.malformed.try_send(bad).is_err() {
                    tracing::warn!("too many malformed Runs at once");
                }
                continue;
            }
        };
        if watch.events.send(sent).await.is_err() {
            return;
        }
    }
}

/// The server filters: nobody downloads the finished Runs of a long-lived Pod.
fn selector(pod: &str) -> String {
    let ended = Phase::ALL.into_iter().filter(|phase| phase.is_terminal());
    ended.fold(format!("status.assignedPod={pod}"), |selector, phase| {
        format!("{selector},status.phase!={phase}")
    })
}

/// Doubling pauses, with no end to the tries.
#[derive(Debug)]
struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(BACKOFF.0)
    }
}

impl Iterator for Pause {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let now = self.0;
        self.0 = (now * 2).min(BACKOFF.1);
        Some(now)
    }
}

impl Backoff for Pause {
    fn reset(&mut self) {
        self.0 = BACKOFF.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_living_runs_of_this_pod() {
        assert_eq!(
            selector("p-1"),
            "status.assignedPod=p-1,status.phase!=Succeeded,status.phase!=Failed,status.phase!=Timeout,\
             status.phase!=Cancelled"
        );
    }
}
