//! The program around the engine: one loop that takes events and carries out actions.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use kruntimes_core::ids::{Fence, RunUid};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::engine::{Action, Engine, Event, Now, Written};
use crate::kubernetes::heartbeat::Own;
use crate::kubernetes::{RunWriter, write_status};
use crate::metrics::RuntimedMetrics;
use crate::traces::AttemptTraces;
use crate::work::{Attempt, Context, Step};

/// The task of an attempt, as the loop sees it.
struct Handle {
    fence: Fence,
    steps: mpsc::UnboundedSender<Step>,
    abort: CancellationToken,
    /// Of the write under way.
    hurry: CancellationToken,
}

/// The loop.
pub struct App {
    /// Decides.
    pub engine: Engine,
    /// For attempts.
    pub context: Arc<Context>,
    /// For statuses.
    pub writer: Arc<dyn RunWriter>,
    /// From everywhere.
    pub events: mpsc::Receiver<Event>,
    /// For the heartbeat.
    pub own: watch::Sender<Own>,
    /// Counted.
    pub metrics: RuntimedMetrics,
    /// Looks on.
    pub traces: AttemptTraces,
}

impl App {
    /// Runs until `stop`, or until the Pod stops and nothing is left to do: then true.
    pub async fn run(mut self, stop: CancellationToken) -> bool {
        let mut attempts: HashMap<RunUid, Handle> = HashMap::new();
        let mut draining = false;
        loop {
            let due = self.engine.due();
            let tick = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let event = tokio::select! {
                event = self.events.recv() => match event {
                    Some(event) => event,
                    None => return false,
                },
                () = tick => Event::Tick,
                () = stop.cancelled() => return self.engine.is_idle(),
            };
            draining |= matches!(event, Event::Drain { .. });
            let now = Now { wall: Timestamp::now(), mono: Instant::now() };
            self.traces.event(&event, now.wall);
            for action in self.engine.handle(event, now) {
                self.traces.action(&action, now.wall);
                self.carry_out(action, &mut attempts);
            }
            self.metrics.active.set(i64::try_from(self.engine.active()).unwrap_or(i64::MAX));
            let own = Own { synced: self.engine.is_synced(), draining };
            self.own.send_if_modified(|before| {
                let changed = *before != own;
                *before = own;
                changed
            });
            if draining && self.engine.is_idle() {
                return true;
            }
        }
    }

    fn carry_out(&self, action: Action, attempts: &mut HashMap<RunUid, Handle>) {
        tracing::debug!(?action, "action");
        let (fence, step) = match action {
            Action::CountStale => {
                self.metrics.stale.inc();
                return;
            }
            Action::Write { fence, run, event } => {
                let hurry = self.attempt(attempts, &fence).hurry.clone();
                let (writer, events, metrics) =
                    (Arc::clone(&self.writer), self.context.events.clone(), self.metrics.clone());
                let ends = !matches!(*event, kruntimes_core::run::Event::Started { .. });
                tokio::spawn(async move {
                    let outcome = write_status(&*writer, run, *event, &hurry).await;
                    match &outcome {
                        Written::Applied(run) => {
                            if let Some(status) = run.status.as_ref().filter(|_| ends) {
                                metrics.attempt_ended(status);
                            }
                        }
                        Written::Refused(refusal) => {
                            tracing::info!(%fence, %refusal, "a status write was dropped")
                        }
                        Written::Gone | Written::Abandoned => {}
                    }
                    let _ = events.send(Event::Written { fence, outcome }).await;
                });
                return;
            }
            Action::HurryWrite { fence } => {
                let handle = self.attempt(attempts, &fence);
                handle.hurry.cancel();
                handle.hurry = CancellationToken::new();
                return;
            }
            Action::Abort { fence } => return self.attempt(attempts, &fence).abort.cancel(),
            Action::Prepare { fence, spec } => (fence, Step::Prepare(spec)),
            Action::Execute { fence, run, spec, prepared, instance } => {
                (fence, Step::Execute { run, spec, prepared, instance })
            }
            Action::Ask { fence } => (fence, Step::Ask),
            Action::Follow { fence, run } => (fence, Step::Follow(run)),
            Action::Cancel { fence, cause, grace } => (fence, Step::Cancel(cause, grace)),
            Action::Collect { fence, execution } => (fence, Step::Collect(execution)),
            Action::Release { fence, run, usage, executed, cancel } => {
                if let Some(usage) = &usage {
                    self.metrics.attempt_used(usage);
                }
                // The last step: the task ends after it, and so does our interest in it.
                let release = Step::Release { run, usage, executed, cancel };
                let _ = self.attempt(attempts, &fence).steps.send(release);
                attempts.remove(&fence.run);
                return;
            }
        };
        // A task that is gone has released the attempt already.
        let _ = self.attempt(attempts, &fence).steps.send(step);
    }

    /// The task of an attempt, started at its first action.
    fn attempt<'a>(&self, attempts: &'a mut HashMap<RunUid, Handle>, fence: &Fence) -> &'a mut Handle {
        let stale = attempts.get(&fence.run).is_some_and(|handle| handle.fence != *fence);
        if stale {
            attempts.remove(&fence.run);
        }
        attempts.entry(fence.run.clone()).or_insert_with(|| {
            let (steps, receiver) = mpsc::unbounded_channel();
            let abort = CancellationToken::new();
            Attempt::start(Arc::clone(&self.context), fence.clone(), receiver, abort.clone());
            Handle { fence: fence.clone(), steps, abort, hurry: CancellationToken::new() }
        })
    }
}

#[cfg(test)]
#[path = "app_tests.rs"]
mod tests;
