//! Sees every change of every Run as it comes, over one watch.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::Result;
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use kruntimes_api::Run;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{Config, Event, watcher};
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
    /// Starts to watch: what comes after this is seen. The watch goes on where it broke; when the API server no longer knows
    /// what came since, everybody who waits gets an error.
    pub async fn start(api: Api<Run>) -> Result<Self> {
        let mut events = watcher(api, Config::default()).default_backoff().boxed();
        while !matches!(events.try_next().await?, Some(Event::InitDone)) {}
        let expected = All::default();
        let seen = Arc::clone(&expected);
        let task = tokio::spawn(async move {
            while let Some(event) = events.next().await {
                match event {
                    Ok(Event::Apply(run)) => see(&seen, run),
                    Ok(Event::Init) => lock(&seen).clear(),
                    Ok(_) | Err(_) => {}
                }
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
