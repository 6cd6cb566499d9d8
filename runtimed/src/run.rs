//! Putting the parts together, from flags to exit.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kruntimes_core::ids::{PodRef, PodUid};
use kruntimes_daemon::{Endpoints, HttpServer, Metrics, parse_address, parse_bind_ip};
use kruntimes_traces::Traces;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::config::{Config, ConfigError};
use crate::engine::{Engine, Event, Settings};
use crate::kubernetes::heartbeat::{Heartbeat, Own, PodInfo, Readiness};
use crate::kubernetes::instance::InstanceWriter;
use crate::kubernetes::{KubeRuns, RunWatch, fail_malformed, watch_runs};
use crate::logs::{Printer, start_printer};
use crate::metrics::{PREFIX, RuntimedMetrics};
use crate::server::{RequestContext, ServerView, Target, supervise};
use crate::source::Git;
use crate::stop::{Stopping, after_server};
use crate::traces::AttemptTraces;
use crate::work::Context;
use crate::workspace::Workspaces;
use crate::workspace::journal::Journal;

/// Work that ends within this time after its start gets no `Running` write.
const WINDOW: Duration = Duration::from_millis(25);
/// How long an unavailable server is asked before a Run is handed back.
const PATIENCE: Duration = Duration::from_secs(10);
/// Events on their way to the engine at most.
const QUEUE: usize = 256;
/// Malformed Runs that wait to be ended.
const MALFORMED: usize = 16;
/// For threads and output when everything is over.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// Why the program could not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A flag.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An address.
    #[error(transparent)]
    Address(#[from] kruntimes_daemon::AddressError),
    /// Listening.
    #[error(transparent)]
    Http(#[from] kruntimes_daemon::HttpError),
    /// A folder.
    #[error("cannot use {path}: {source}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The API's address or credentials.
    #[error("no access to the Kubernetes API: {0}")]
    Kube(String),
    /// The grace has ended before everything was written.
    #[error("the time to stop is over, and not everything has ended or was handed back")]
    GaveUp,
    /// A signal handler or thread.
    #[error("cannot start: {0}")]
    Io(#[from] std::io::Error),
}

impl RunError {
    fn folder(path: PathBuf) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Folder { path, source }
    }
}

/// Runs until the Pod stops, on one thread: that is plenty for one Pod, and small.
///
/// # Errors
/// When something needed from the start is missing.
pub fn run(config: Config) -> Result<(), RunError> {
    config.check()?;
    // What is made for a Run is for the Pod's group, too: the server may have another uid.
    rustix::process::umask(rustix::fs::Mode::WOTH);
    // Standard output in its raw form: blocks are whole lines already.
    let (printer, printing) = start_printer(std::io::stdout())?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(16).build()?;
    let ended = runtime.block_on(serve(config, printer));
    // A thread that is stuck in a file system does not hold us up, nor does a reader of our output.
    runtime.shutdown_timeout(LAST_MOMENT);
    if !printing.finish(LAST_MOMENT) {
        tracing::warn!("the last output of Runs was not taken and is lost");
    }
    ended
}

/// The cells through which the tasks see each other.
struct Cells {
    events: mpsc::Sender<Event>,
    views: watch::Receiver<ServerView>,
    info: watch::Receiver<Option<PodInfo>>,
    readiness: watch::Receiver<Option<Readiness>>,
    own: watch::Sender<Own>,
}

async fn serve(config: Config, printer: Printer) -> Result<(), RunError> {
    let pod = PodRef { name: config.pod()?, uid: PodUid::from(config.pod_uid.as_str()) };
    let signal = kruntimes_daemon::shutdown_signal()?;
    let (stop, give_up) = (CancellationToken::new(), CancellationToken::new());
    let client = kube_client(&config).await?;
    let metrics = Metrics::new(PREFIX);
    let counted = RuntimedMetrics::register(&metrics, &config.runtime_name);
    let (workspaces, journal) = disk(&config)?;
    let left = journal.load().map_err(RunError::folder(config.journal_folder()))?;
    let http = http(&config).await?;
    let target = Target::new(config.socket_dir.clone(), config.endpoint()?);

    let (events, receiver) = mpsc::channel(QUEUE);
    let cells = start_tasks(&config, &pod, &client, target, events, &counted, &stop);
    let said = cells.readiness.clone();
    tokio::spawn(http.serve(metrics, move || ready(&said.borrow()), stop.clone()));
    let stopping = Stopping {
        signal,
        events: cells.events.clone(),
        info: cells.info,
        readiness: cells.readiness,
        grace: Duration::from_secs(config.termination_grace_seconds),
        give_up: give_up.clone(),
    };
    tokio::spawn(stopping.run());
    let traces = Traces::from_environment("runtimed");
    let context = Context {
        workspaces,
        journal,
        git: Git::new(config.git_settings()),
        request: RequestContext {
            work_dir: config.work_dir.clone(),
            grace: config.grace,
            limit_by_request: config.require_isolation.is_some(),
            traced: traces.is_on(),
        },
        pod: pod.name.clone(),
        printer,
        views: cells.views.clone(),
        events: cells.events,
    };
    let app = App {
        engine: Engine::new(settings(&config, &pod), left),
        context: Arc::new(context),
        writer: Arc::new(KubeRuns::new(client, &config.pod_namespace, counted.clone())),
        events: receiver,
        own: cells.own,
        metrics: counted,
        traces: AttemptTraces::new(traces.clone(), &pod.name),
    };
    let is_done = app.run(give_up.clone()).await;
    after_server(cells.views, &give_up).await;
    stop.cancel();
    traces.flush().await;
    // Whoever sees that all ended well takes it that nothing was left here.
    if is_done { Ok(()) } else { Err(RunError::GaveUp) }
}

/// Everything that feeds the engine or tells of it.
fn start_tasks(
    config: &Config,
    pod: &PodRef,
    client: &kube::Client,
    target: Target,
    events: mpsc::Sender<Event>,
    counted: &RuntimedMetrics,
    stop: &CancellationToken,
) -> Cells {
    let (view, views) = watch::channel(ServerView::default());
    let (own, own_seen) = watch::channel(Own::default());
    let (info, info_seen) = watch::channel::<Option<PodInfo>>(None);
    let (written, readiness) = watch::channel::<Option<Readiness>>(None);
    let namespace = config.pod_namespace.clone();
    tokio::spawn(supervise(target, view, events.clone(), stop.clone()));
    let (malformed, mut bad) = mpsc::channel(MALFORMED);
    let watch = RunWatch {
        client: client.clone(),
        namespace: namespace.clone(),
        pod: pod.name.clone(),
        events: events.clone(),
        malformed,
    };
    tokio::spawn(watch_runs(watch, stop.clone()));
    let heartbeat = Heartbeat {
        pods: kube::Api::namespaced(client.clone(), &namespace),
        pod: pod.clone(),
        required: config.require_isolation.clone(),
        views: views.clone(),
        own: own_seen,
        info,
        written,
        metrics: counted.clone(),
    };
    tokio::spawn(heartbeat.run(stop.clone()));
    let instance = InstanceWriter {
        api: kube::Api::namespaced(client.clone(), &namespace),
        pod: pod.clone(),
        runtime: config.runtime_name.clone(),
        views: views.clone(),
        info: info_seen.clone(),
    };
    tokio::spawn(instance.run(stop.clone()));
    let (client, owner, counted) = (client.clone(), pod.clone(), counted.clone());
    tokio::spawn(async move {
        while let Some(run) = bad.recv().await {
            fail_malformed(client.clone(), &namespace, &owner, run, &counted).await;
        }
    });
    Cells { events, views, info: info_seen, readiness, own }
}

fn disk(config: &Config) -> Result<(Workspaces, Journal), RunError> {
    let workspaces = Workspaces::open(&config.work_dir).map_err(RunError::folder(config.work_dir.clone()))?;
    let path = config.journal_folder();
    let journal = Journal::open(&path).map_err(RunError::folder(path.clone()))?;
    Ok((workspaces, journal))
}

fn ready(said: &Option<Readiness>) -> Result<(), String> {
    match said {
        Some(Readiness { ready: true, .. }) => Ok(()),
        Some(not) => Err(format!("{}: {}", not.reason, not.message)),
        None => Err("no heartbeat was written yet".into()),
    }
}

async fn http(config: &Config) -> Result<HttpServer, RunError> {
    let ip = parse_bind_ip(&config.bind_address)?;
    let addresses = [
        (parse_address(&config.metrics_bind_address, ip)?, Endpoints::METRICS),
        (parse_address(&config.health_probe_bind_address, ip)?, Endpoints::HEALTH),
    ];
    Ok(HttpServer::bind(&addresses).await?)
}

async fn kube_client(config: &Config) -> Result<kube::Client, RunError> {
    let failed = |error: &dyn std::fmt::Display| RunError::Kube(error.to_string());
    let api = match &config.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|error| failed(&error))?;
            let options = KubeConfigOptions::default();
            kube::Config::from_custom_kubeconfig(file, &options).await.map_err(|error| failed(&error))?
        }
        None => kube::Config::infer().await.map_err(|error| failed(&error))?,
    };
    kube::Client::try_from(api).map_err(|error| failed(&error))
}

fn settings(config: &Config, pod: &PodRef) -> Settings {
    Settings {
        pod: pod.clone(),
        defaults: config.run_defaults.clone(),
        window: WINDOW,
        grace: config.grace,
        patience: PATIENCE,
    }
}
