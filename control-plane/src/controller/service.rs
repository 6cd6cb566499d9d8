//! The controller as a program: watches in, writes out.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{BoxStream, select_all};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kruntimes_api::names::{OWNED_LABEL, RUNTIME_LABEL};
use kruntimes_api::{Run, Runtime, RuntimeInstance};
use kruntimes_core::liveness::Settings;
use kruntimes_daemon::{CancellationToken, Metrics};
use kube::runtime::watcher::Config;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::effects::{ApiCluster, Cluster, Kind};
use super::ended::{ENDED, EndedRun, PAGE};
use super::engine::Engine;
use super::event::{Action, Done, Event};
use super::pool::{COST, Pass, PassResult};
use super::{ControllerMetrics, Options};
use crate::clock::Clock;
use crate::events::Recorder;
use crate::program::{Leading, Program};
use crate::slim::SlimRun;
use crate::watch::{NOT_ENDED, watch};
use crate::writer::{ApiRunWriter, RunWriter, patch_status_stubbornly};

/// Events that are taken in before the next planning pass, at most.
const BATCH: usize = 1024;
/// Writes under way at most.
const CONCURRENCY: usize = 32;
/// Gauges are at most this old.
const GAUGES: Duration = Duration::from_secs(1);
/// Tries of one Run status write.
const TRIES: u32 = 4;
/// Time for the writes under way when the program is asked to stop.
const GRACE: Duration = Duration::from_secs(5);

/// Runs the controller until `stop`, or until the Lease is lost.
///
/// # Errors
/// When an address cannot be listened on, the API cannot be used, or the Lease was lost.
pub async fn run(options: Options, stop: CancellationToken) -> anyhow::Result<()> {
    let metrics = Metrics::new("kruntimes_controller");
    let own = ControllerMetrics::new(&metrics);
    own.stale_after(options.stale_threshold);
    let program = Program {
        name: "kruntimes-controller",
        common: &options.common,
        metrics_address: &options.metrics_bind_address,
        health_address: &options.health_probe_bind_address,
        metrics,
    };
    let control = async |leading: Leading| {
        let Leading { client, recorder, ready, lost } = leading;
        let liveness = Settings {
            stale: options.stale_threshold,
            force_after: Some(options.force_retry_after).filter(|after| !after.is_zero()),
            ..Settings::default()
        };
        let service = Service {
            engine: Engine::new(options.defaults(), liveness, own.clone()),
            metrics: own,
            recorder,
            client: client.clone(),
            namespace: options.common.namespace.clone(),
            writer: Arc::new(Writer { cluster: ApiCluster(client.clone()), runs: ApiRunWriter(client) }),
            ready,
        };
        service.drive(&lost, &stop).await
    };
    program.run(stop.clone(), control).await
}

struct Writer {
    cluster: ApiCluster,
    runs: ApiRunWriter,
}

struct Service {
    engine: Engine,
    metrics: ControllerMetrics,
    recorder: Recorder,
    client: Client,
    namespace: Option<String>,
    writer: Arc<Writer>,
    ready: Arc<AtomicBool>,
}

impl Service {
    /// Every watch but that of the ended Runs as one stream.
    fn events(&self) -> BoxStream<'static, Event> {
        let (client, namespace) = (&self.client, self.namespace.as_deref());
        let labelled = || Config::default().labels(OWNED_LABEL);
        let runs = watch(client, namespace, Config::default().fields(NOT_ENDED), |run: SlimRun| {
            Box::new(Run::from(run))
        });
        let pods =
            watch(client, namespace, Config::default().labels(RUNTIME_LABEL), |pod: Pod| Box::new(pod));
        let runtimes = watch(client, namespace, Config::default(), |runtime: Runtime| Box::new(runtime));
        let instances = watch(client, namespace, Config::default(), |i: RuntimeInstance| Box::new(i));
        let deployments = watch(client, namespace, labelled(), |deployment: Deployment| Box::new(deployment));
        select_all([
            runs.map(Event::Run).boxed(),
            pods.map(Event::Pod).boxed(),
            runtimes.map(Event::Runtime).boxed(),
            instances.map(Event::Instance).boxed(),
            deployments.map(Event::Deployment).boxed(),
            self.owned::<ServiceAccount>(Kind::ServiceAccount),
            self.owned::<Role>(Kind::Role),
            self.owned::<RoleBinding>(Kind::RoleBinding),
            self.owned::<NetworkPolicy>(Kind::NetworkPolicy),
        ])
        .boxed()
    }

    /// Metadata of the labelled objects of one kind.
    fn owned<K>(&self, kind: Kind) -> BoxStream<'static, Event>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + DeserializeOwned
            + Clone
            + Debug
            + Send
            + 'static,
    {
        let config = Config::default().labels(OWNED_LABEL);
        let metas = watch(&self.client, self.namespace.as_deref(), config, |mut object: K| {
            Box::new(std::mem::take(object.meta_mut()))
        });
        metas.map(move |watched| Event::Owned(kind, watched)).boxed()
    }

    fn ended(&self) -> BoxStream<'static, Event> {
        let config = Config::default().fields(ENDED).page_size(PAGE);
        let ended = watch(&self.client, self.namespace.as_deref(), config, |run: EndedRun| Box::new(run));
        ended.map(Event::Ended).boxed()
    }

    /// The loop: a batch of events, one planning pass, its writes.
    async fn drive(mut self, lost: &CancellationToken, stop: &CancellationToken) -> anyhow::Result<()> {
        let clock = Clock::start();
        let mut events = self.events().ready_chunks(BATCH);
        // Begins when the Runtimes are known, whose bounds decide which ended Runs matter.
        let mut ended = futures::stream::pending().boxed().ready_chunks(BATCH);
        let (answers, mut answered) = mpsc::unbounded_channel();
        let slots = Arc::new(Semaphore::new(CONCURRENCY));
        let mut writes = JoinSet::new();
        let mut next: Option<Duration> = None;
        let mut gauges_due = Duration::ZERO;
        let mut changed = true;
        loop {
            let gauges = changed.then(|| gauges_due.saturating_sub(clock.now().mono));
            let mut batch = Vec::new();
            tokio::select! {
                () = stop.cancelled() => break,
                () = lost.cancelled() => anyhow::bail!("the lease was lost"),
                Some(more) = events.next() => batch = more,
                Some(more) = ended.next() => batch = more,
                count = answered.recv_many(&mut batch, BATCH) => debug_assert!(count > 0),
                Some(_) = writes.join_next() => continue,
                () = Clock::sleep([next, gauges].into_iter().flatten().min()) => batch.push(Event::Tick),
            }
            let now = clock.now();
            changed |= batch.iter().any(|event| !matches!(event, Event::Tick));
            for event in batch {
                self.engine.handle(event, now);
            }
            let (actions, due) = self.engine.plan(now);
            next = due;
            self.ready.store(self.engine.is_synced(), Ordering::Relaxed);
            for action in actions {
                let action = match action {
                    Action::ListEnded => {
                        ended = self.ended().ready_chunks(BATCH);
                        continue;
                    }
                    Action::Note(note) => {
                        self.recorder.note(*note);
                        continue;
                    }
                    action => action,
                };
                let (writer, answers, slots) =
                    (Arc::clone(&self.writer), answers.clone(), Arc::clone(&slots));
                writes.spawn(async move {
                    // The semaphore is never closed.
                    let _slot = slots.acquire().await;
                    if let Some(done) = carry_out(&writer.cluster, &writer.runs, action).await {
                        // Nobody listens any more only when the program stops.
                        let _ = answers.send(Event::Done(done));
                    }
                });
            }
            if changed && gauges_due <= now.mono {
                self.metrics.figures(self.engine.figures(now), self.engine.ending());
                gauges_due = now.mono + GAUGES;
                changed = false;
            }
        }
        let finish = async { while writes.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, finish).await.is_err() {
            tracing::warn!("stopping with writes under way; the next controller sees their outcome");
        }
        Ok(())
    }
}

/// Carries one action out.
pub(super) async fn carry_out(cluster: &dyn Cluster, runs: &dyn RunWriter, action: Action) -> Option<Done> {
    Some(match action {
        Action::Pass(pass) => Done::Pass(Box::new(apply(cluster, *pass).await)),
        Action::Status { namespace, name, uid, status } => {
            let value = serde_json::to_value(&*status).unwrap_or_default();
            let result = cluster.runtime_status(&namespace, &name, &uid, &value).await;
            Done::Status(namespace, name, result.map(|()| status))
        }
        Action::Run { uid, namespace, name, patch } => {
            Done::Run(uid, patch_status_stubbornly(runs, &namespace, &name, &patch, TRIES).await)
        }
        Action::DeletePod { namespace, name, uid, message } => {
            tracing::warn!(namespace, pod = name, message, "deleting a silent pod");
            let result = cluster.delete(Kind::Pod, &namespace, &name, uid.as_str()).await;
            Done::DeletePod(uid, result)
        }
        Action::DeleteRun { namespace, name, uid } => {
            let result = cluster.delete(Kind::Run, &namespace, &name, uid.as_str()).await;
            Done::DeleteRun(uid, result)
        }
        Action::Probe { namespace, name } => Done::Probe(cluster.probe(&namespace, &name).await),
        Action::Confirm { namespace, name, uid } => {
            Done::Confirmed(uid, cluster.pod(&namespace, &name).await)
        }
        Action::ListEnded | Action::Note(_) => return None,
    })
}

/// One pass: every object, whatever became of the one before it.
async fn apply(cluster: &dyn Cluster, pass: Pass) -> PassResult {
    let Pass { namespace, name, generation, costs, objects, prune } = pass;
    for (pod, cost) in costs {
        if let Err(error) = cluster.annotate_pod(&namespace, &pod, COST, &cost).await {
            tracing::warn!(namespace, pod, %error, "the pod's deletion cost could not be written");
        }
    }
    let (mut applied, mut errors) = (Vec::new(), Vec::new());
    for (kind, object, value) in objects {
        match cluster.apply(kind, &namespace, &object, &value).await {
            Ok(result) => applied.push((kind, object, result)),
            Err(error) => errors.push((kind, object, error)),
        }
    }
    for (kind, object, uid) in prune {
        match cluster.delete(kind, &namespace, &object, &uid).await {
            Ok(()) | Err(crate::writer::WriteError::Gone) => {}
            Err(error) => errors.push((kind, object, error)),
        }
    }
    tracing::info!(namespace, runtime = name, generation, errors = errors.len(), "runtime applied");
    PassResult { namespace, name, generation, applied, errors }
}
