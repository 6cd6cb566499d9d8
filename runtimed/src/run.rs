//! Putting the parts together, from flags to exit.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kruntimes_core::ids::{PodRef, PodUid};
use kruntimes_daemon::{Endpoints, HttpServer, Metrics, parse_address, parse_bind_ip};
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::App;
use crate::config::{Config, ConfigError};
use crate::engine::{Engine, Event, Settings};
use crate::kubernetes::heartbeat::{Heartbeat, Own, PodInfo, Readiness};
use crate::kubernetes::instance::InstanceWriter;
use crate::kubernetes::{KubeRuns, RunWatch, fail_malformed, watch_runs};
use crate::logs::{Printer, start_printer};
use crate::metrics::{PREFIX, RuntimedMetrics};
use crate::server::{RequestContext, ServerView, Target, supervise};
use crate::source::{Git, GitSettings};
use crate::work::Context;
use crate::workspace::Workspaces;
use crate::workspace::journal::Journal;

/// Work that ends within this time after its start gets no `Running` write.
const WINDOW: Duration = Duration::from_millis(25);
/// How long an unavailable server is asked before a Run is handed back.
const PATIENCE: Duration = Duration::from_secs(10);
/// Events on their way to the engine at most.
const QUEUE: usize = 256;
/// The last part of the Pod's grace: for ending Runs and for writing how they ended.
const MARGIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// How long a server may go on after the last Run, before we go without it.
const AFTER_SERVER: Duration = Duration::from_secs(3);
/// For threads and output when everything is over.
const LAST_MOMENT: Duration = Duration::from_secs(1);
/// How long unsent Runs have to be handed back when only our container is restarted.
const RESTART: Duration = Duration::from_secs(2);

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
    /// A signal handler or thread.
    #[error("cannot start: {0}")]
    Io(#[from] std::io::Error),
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

async fn serve(config: Config, printer: Printer) -> Result<(), RunError> {
    let pod = PodRef { name: config.pod()?, uid: PodUid::from(config.pod_uid.as_str()) };
    let signal = kruntimes_daemon::shutdown_signal()?;
    let client = kube_client(&config).await?;
    let metrics = Metrics::new(PREFIX);
    let counted = RuntimedMetrics::register(&metrics, &config.runtime_name);
    let folder = |path: PathBuf| move |source| RunError::Folder { path, source };
    let workspaces = Workspaces::open(&config.work_dir).map_err(folder(config.work_dir.clone()))?;
    let journal_path = journal_folder(&config);
    let journal = Journal::open(&journal_path).map_err(folder(journal_path.clone()))?;
    let left = journal.load().map_err(folder(journal_path))?;

    let (events, receiver) = mpsc::channel(QUEUE);
    let (view, views) = watch::channel(ServerView::default());
    let (own, own_seen) = watch::channel(Own::default());
    let (info, info_seen) = watch::channel::<Option<PodInfo>>(None);
    let (written, readiness) = watch::channel::<Option<Readiness>>(None);
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());

    let http = http(&config).await?;
    let said = readiness.clone();
    tasks.spawn(http.serve(metrics, move || ready(&said.borrow()), stop.clone()));
    let target = Target::new(config.socket_dir.clone(), endpoint(&config)?);
    tasks.spawn(supervise(target, view, events.clone(), stop.clone()));
    let (malformed, mut bad) = mpsc::channel(16);
    let watch = RunWatch {
        client: client.clone(),
        namespace: config.pod_namespace.clone(),
        pod: pod.name.clone(),
        events: events.clone(),
        malformed,
    };
    tasks.spawn(watch_runs(watch, stop.clone()));
    let (bad_client, namespace, owner) = (client.clone(), config.pod_namespace.clone(), pod.clone());
    tasks.spawn(async move {
        while let Some(run) = bad.recv().await {
            fail_malformed(bad_client.clone(), &namespace, &owner, run).await;
        }
    });
    let heartbeat = Heartbeat {
        pods: Heartbeat::pods(client.clone(), &config.pod_namespace),
        pod: pod.clone(),
        required: config.require_isolation.clone(),
        views: views.clone(),
        own: own_seen,
        info,
        written,
    };
    tasks.spawn(heartbeat.run(stop.clone()));
    let instance = InstanceWriter {
        api: InstanceWriter::api(client.clone(), &config.pod_namespace),
        pod: pod.clone(),
        runtime: config.runtime_name.clone(),
        views: views.clone(),
        info: info_seen.clone(),
    };
    tasks.spawn(instance.run(stop.clone()));

    let engine = Engine::new(settings(&config, &pod), left);
    let context = Arc::new(Context {
        workspaces,
        journal,
        git: Git::new(git_settings(&config)),
        request: RequestContext {
            work_dir: config.work_dir.clone(),
            grace: config.grace,
            limit_by_request: config.require_isolation.is_some(),
        },
        pod: pod.name.clone(),
        printer,
        views: views.clone(),
        events: events.clone(),
    });
    let writer = Arc::new(KubeRuns::new(client, &config.pod_namespace));
    let app = App { engine, context, writer, events: receiver, own, metrics: counted };
    let give_up = CancellationToken::new();
    let stopping = Stopping {
        signal,
        events,
        info: info_seen,
        readiness: readiness.clone(),
        grace: Duration::from_secs(config.termination_grace_seconds),
        give_up: give_up.clone(),
    };
    tasks.spawn(stopping.run());
    app.run(give_up.clone()).await;
    after_server(views, &give_up).await;
    stop.cancel();
    Ok(())
}

/// What stopping takes.
struct Stopping {
    signal: CancellationToken,
    events: mpsc::Sender<Event>,
    info: watch::Receiver<Option<PodInfo>>,
    readiness: watch::Receiver<Option<Readiness>>,
    grace: Duration,
    give_up: CancellationToken,
}

impl Stopping {
    /// On the signal, tells the engine that the Pod stops. Whether it does, or only this
    /// container is restarted, the API says in its answer to the last heartbeat: then
    /// executions go on without us, and our successor adopts them. Gives up at the very end
    /// of the grace: what is not written by then, the control plane finds out.
    async fn run(mut self) {
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
async fn after_server(mut views: watch::Receiver<ServerView>, give_up: &CancellationToken) {
    let gone = views.wait_for(|view| view.client.is_none());
    tokio::select! {
        _ = gone => {}
        () = tokio::time::sleep(AFTER_SERVER) => {}
        () = give_up.cancelled() => {}
    }
}

/// Where several Pods share one machine, `localhost` is not the Pod's: the address that all
/// of the Pod listens on is.
fn endpoint(config: &Config) -> Result<String, RunError> {
    let ip = parse_bind_ip(&config.bind_address)?;
    Ok(match config.runtime_endpoint.strip_prefix("localhost:") {
        Some(port) if !ip.is_unspecified() => {
            std::net::SocketAddr::new(ip, port.parse().unwrap_or(0)).to_string()
        }
        _ => config.runtime_endpoint.clone(),
    })
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

/// Beside the socket, where Runs cannot reach; else in a folder that carries our Pod's uid,
/// since the volume may be shared with other Pods.
fn journal_folder(config: &Config) -> PathBuf {
    match &config.socket_dir {
        Some(dir) => dir.join("attempts"),
        None => config.work_dir.join(format!(".runtimed-{}", config.pod_uid)),
    }
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

fn git_settings(config: &Config) -> GitSettings {
    GitSettings {
        program: config.git.clone(),
        ca_file: config.git_ca_file.clone(),
        credentials_file: config.git_credentials_file.clone(),
        ssh_key: config.git_ssh_key_file.clone(),
        known_hosts: config.git_known_hosts_file.clone(),
        clone_timeout: config.git_timeout,
        max_tree: config.git_max_tree_bytes,
        parallel: config.workers,
        allow_file: false,
    }
}
