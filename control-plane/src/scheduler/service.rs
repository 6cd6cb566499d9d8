//! The scheduler as a program: watches in, patches out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use futures::StreamExt as _;
use futures::stream::{BoxStream, select_all};
use k8s_openapi::api::core::v1::Pod;
use kruntimes_api::names::RUNTIME_LABEL;
use kruntimes_api::{Run, Runtime, RuntimeInstance};
use kruntimes_core::schedule::{Outcome, Settings};
use kruntimes_daemon::{CancellationToken, Metrics};
use kruntimes_traces::{Place, Span, Traces};
use kube::Client;
use kube::runtime::watcher::Config;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::engine::{Action, Engine, Event, Write};
use super::{Options, SchedulerMetrics};
use crate::clock::Clock;
use crate::events::Recorder;
use crate::program::{Leading, Program};
use crate::slim::SlimRun;
use crate::watch::{NOT_ENDED, watch};
use crate::writer::{ApiRunWriter, RunWriter, WriteError, patch_status_stubbornly};

/// Events that are taken in before the next planning pass, at most.
const BATCH: usize = 1024;
/// Queue gauges are at most this old.
const GAUGES: Duration = Duration::from_secs(1);
/// Tries of one write.
const TRIES: u32 = 8;
/// Time for the writes in flight when the program is asked to stop.
const GRACE: Duration = Duration::from_secs(5);

/// Runs the scheduler until `stop`, or until the Lease is lost.
///
/// # Errors
/// When an address cannot be listened on, the API cannot be used, or the Lease was lost.
pub async fn run(options: Options, stop: CancellationToken) -> anyhow::Result<()> {
    let metrics = Metrics::new("kruntimes_scheduler");
    let own = SchedulerMetrics::new(&metrics);
    let program = Program {
        name: "kruntimes-scheduler",
        common: &options.common,
        metrics_address: &options.metrics_bind_address,
        health_address: &options.health_probe_bind_address,
        metrics,
    };
    let schedule = async |leading: Leading| {
        let Leading { client, recorder, ready, lost } = leading;
        let events = events(&client, options.common.namespace.as_deref());
        let engine = Engine::new(Settings::default(), usize::from(options.concurrent_binds), own.clone());
        let traces = Traces::from_environment("scheduler");
        let outputs = Outputs {
            writer: Arc::new(ApiRunWriter(client)),
            recorder,
            metrics: own,
            traces: traces.clone(),
        };
        let ended = drive(engine, events, outputs, &ready, &lost, &stop).await;
        traces.flush().await;
        ended
    };
    program.run(stop.clone(), schedule).await
}

/// Every watch of the scheduler as one stream.
fn events(client: &Client, namespace: Option<&str>) -> BoxStream<'static, Event> {
    let runs = watch(client, namespace, Config::default().fields(NOT_ENDED), |run: SlimRun| {
        Box::new(Run::from(run))
    });
    let pods = watch(client, namespace, Config::default().labels(RUNTIME_LABEL), |pod: Pod| Box::new(pod));
    let runtimes = watch(client, namespace, Config::default(), |runtime: Runtime| Box::new(runtime));
    let instances =
        watch(client, namespace, Config::default(), |instance: RuntimeInstance| Box::new(instance));
    select_all([
        runs.map(Event::Run).boxed(),
        pods.map(Event::Pod).boxed(),
        runtimes.map(Event::Runtime).boxed(),
        instances.map(Event::Instance).boxed(),
    ])
    .boxed()
}

/// Where the loop's actions go.
struct Outputs {
    writer: Arc<dyn RunWriter>,
    recorder: Recorder,
    metrics: SchedulerMetrics,
    traces: Traces,
}

/// The loop: a batch of events, one planning pass, its writes.
async fn drive(
    mut engine: Engine,
    events: BoxStream<'static, Event>,
    Outputs { writer, recorder, metrics, traces }: Outputs,
    ready: &AtomicBool,
    lost: &CancellationToken,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let clock = Clock::start();
    let mut events = events.ready_chunks(BATCH);
    let (answers, mut settled) = mpsc::unbounded_channel();
    let mut writes = JoinSet::new();
    let mut next: Option<Duration> = None;
    let mut gauges_due = clock.now().mono;
    let mut changed = true;
    loop {
        let gauges = changed.then(|| gauges_due.saturating_sub(clock.now().mono));
        let mut batch = Vec::new();
        tokio::select! {
            () = stop.cancelled() => break,
            () = lost.cancelled() => anyhow::bail!("the lease was lost"),
            Some(more) = events.next() => batch = more,
            count = settled.recv_many(&mut batch, BATCH) => debug_assert!(count > 0),
            Some(_) = writes.join_next() => continue,
            () = Clock::sleep([next, gauges].into_iter().flatten().min()) => batch.push(Event::Tick),
        }
        let now = clock.now();
        changed |= batch.iter().any(|event| !matches!(event, Event::Tick));
        for event in batch {
            engine.handle(event, now);
        }
        let (actions, due) = engine.plan(now);
        next = due;
        metrics.planned(clock.now().mono - now.mono, engine.in_flight(), engine.unseen());
        ready.store(engine.is_synced(), Ordering::Relaxed);
        for action in actions {
            let write = match action {
                Action::Write(write) => write,
                Action::Note(note) => {
                    recorder.note(*note);
                    continue;
                }
            };
            let (writer, answers, traces) = (Arc::clone(&writer), answers.clone(), traces.clone());
            writes.spawn(async move {
                let outcome = send(&*writer, &write).await;
                tell(&traces, &write, outcome);
                // Nobody listens any more only when the program stops.
                let _ = answers.send(Event::Settled(write, outcome));
            });
        }
        if changed && gauges_due <= now.mono {
            metrics.depths(&engine.depths(), now.wall);
            metrics.rejected(engine.take_rejections());
            gauges_due = now.mono + GAUGES;
            changed = false;
        }
    }
    let finish = async { while writes.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, finish).await.is_err() {
        tracing::warn!("stopping with writes in flight; the next scheduler sees their outcome");
    }
    Ok(())
}

/// The span of a bind, once it is written.
pub(super) fn tell(traces: &Traces, write: &Write, outcome: Outcome) {
    let Some(bind) = write.bind.as_ref().filter(|_| traces.is_on() && outcome == Outcome::Written) else {
        return;
    };
    let Some(parent) = Place::of(bind.traceparent.as_deref(), write.uid.as_str()) else { return };
    let place = parent.below(&format!("bind {} {}", write.uid, bind.assignment));
    let span = Span::new("bind", place, parent, bind.since.into(), SystemTime::now())
        .with("k8s.namespace.name", write.namespace.clone())
        .with("k8s.pod.name", bind.pod.clone())
        .with("kruntimes.run.name", write.name.clone())
        .with("kruntimes.run.uid", write.uid.to_string())
        .with("kruntimes.runtime", write.runtime.clone())
        .with("kruntimes.attempt", i64::from(bind.attempt));
    traces.record(span);
}

async fn send(writer: &dyn RunWriter, write: &Write) -> Outcome {
    let Write { namespace, name, patch, .. } = write;
    match patch_status_stubbornly(writer, namespace, name, patch, TRIES).await {
        Ok(()) => {
            tracing::debug!(namespace, run = name, what = write.what, waited = write.waited, "written");
            Outcome::Written
        }
        Err(WriteError::Conflict) => Outcome::Conflict,
        Err(WriteError::Gone) => Outcome::Gone,
        Err(error @ (WriteError::Transient(_) | WriteError::Refused(_))) => {
            tracing::error!(namespace, run = name, what = write.what, %error, "write failed");
            Outcome::Failed
        }
    }
}
