//! Sees every change of every Run as it comes, over one watch.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result};
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use kruntimes_api::Run;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, ResourceExt as _};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

/// What was seen of a Run until it ended.
#[derive(Debug)]
pub struct End {
    /// Changes of the object, its creation included: each is one write.
    pub writes: u32,
    /// When its process started, by the clock of this machine.
    pub started: Option<Timestamp>,
    /// When its end was seen.
    pub at: Instant,
    pub run: Run,
}

#[derive(Default)]
struct Expected {
    writes: u32,
    waiter: Option<oneshot::Sender<End>>,
}

type All = Arc<Mutex<HashMap<String, Expected>>>;

/// One watch, many who wait. Dropped, it ends.
pub struct Watch {
    expected: All,
    task: AbortHandle,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watch {
    /// Starts to watch. A watch that breaks is followed by one from where it was; when that cannot be, everybody who waits
    /// gets an error.
    pub async fn start(api: Api<Run>) -> Result<Self> {
        let version = api.list_metadata(&ListParams::default().limit(1)).await?.metadata.resource_version;
        let mut version = version.context("the list of Runs has no resource version")?;
        let params = WatchParams::default().timeout(290);
        let mut events = api.watch(&params, &version).await?.boxed();
        let expected = All::default();
        let seen = Arc::clone(&expected);
        let task = tokio::spawn(async move {
            let error = loop {
                if let Err(error) = follow(events, &seen, &mut version).await {
                    break error;
                }
                match api.watch(&params, &version).await {
                    Ok(next) => events = next.boxed(),
                    Err(error) => break error.to_string(),
                }
            };
            let awaited = std::mem::take(&mut *lock(&seen)).into_values().any(|run| run.waiter.is_some());
            // At the end the platform goes first.
            if awaited {
                eprintln!("the Runs cannot be watched any more: {error}");
            }
        });
        Ok(Self { expected, task: task.abort_handle() })
    }

    /// Called before the Run is created, so that nothing is missed.
    pub fn expect(&self, name: &str) -> oneshot::Receiver<End> {
        let (waiter, end) = oneshot::channel();
        lock(&self.expected).insert(name.to_owned(), Expected { writes: 0, waiter: Some(waiter) });
        end
    }
}

/// Until the watch breaks; `version` is that of the last event then. An error is the API server's word that it cannot go on
/// from there.
async fn follow(
    mut events: BoxStream<'static, kube::Result<WatchEvent<Run>>>,
    seen: &All,
    version: &mut String,
) -> Result<(), String> {
    loop {
        match events.try_next().await {
            Ok(Some(WatchEvent::Added(run) | WatchEvent::Modified(run))) => {
                version.clone_from(&run.resource_version().unwrap_or_default());
                see(seen, run);
            }
            Ok(Some(WatchEvent::Deleted(run))) => {
                version.clone_from(&run.resource_version().unwrap_or_default());
            }
            Ok(Some(WatchEvent::Bookmark(mark))) => version.clone_from(&mark.metadata.resource_version),
            Ok(Some(WatchEvent::Error(status))) => return Err(status.to_string()),
            Ok(None) | Err(_) => return Ok(()),
        }
    }
}

fn see(all: &All, run: Run) {
    let at = Instant::now();
    let mut all = lock(all);
    let Some(expected) = all.get_mut(&run.name_any()) else { return };
    expected.writes += 1;
    let status = run.status.as_ref().filter(|status| status.phase.is_some_and(|phase| phase.is_terminal()));
    let Some(status) = status else { return };
    let started = status.start_time.as_ref().map(|time| time.0);
    if let Some(waiter) = expected.waiter.take() {
        // Nobody waits any more: then nobody needs it.
        let _ = waiter.send(End { writes: expected.writes, started, at, run });
    }
}

fn lock(all: &All) -> MutexGuard<'_, HashMap<String, Expected>> {
    all.lock().unwrap_or_else(PoisonError::into_inner)
}
