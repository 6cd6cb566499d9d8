//! The whole `main` of a server: flags, parts, listeners, and the way down.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory as _, FromArgMatches as _};
use kruntimes_daemon::{
    AddressError, CancellationToken, Endpoints, HttpError, HttpServer, LoggingError, Metrics, init_logging,
    parse_address, shutdown_signal,
};
use kruntimes_proto::v1::runtime_events_server::RuntimeEventsServer;
use kruntimes_proto::v1::runtime_server::RuntimeServer;
use kruntimes_proto::v1::{DescribeResponse, StopCause};
use kruntimes_proto::{SOCKET_FILE, SocketName};
use kruntimes_resources::names;
use kruntimes_traces::Traces;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tonic::transport::server::{Router, TcpIncoming};

use crate::auth::Auth;
use crate::author::Author;
use crate::capture::Capturer;
use crate::connections::{bounded, strangers};
use crate::engine::{Engine, Parts};
use crate::environment::PassList;
use crate::gate::{Gate, Rule};
use crate::isolation::{Ladder, Place};
use crate::metrics::Counts;
use crate::probe;
use crate::resources::{self, Leases, ResourceProvider};
use crate::server::Server;
use crate::service::Service;
use crate::settings::{PASS_ENV, Settings, normalise};
use crate::supervisor::{MARKER, Pool, nursery_main, protect_process, raise_descriptors};
use crate::table::Bounds;
use crate::usage;

/// Largest request: 256 arguments of 8 KiB and 4096 variables fit many times.
const MAX_REQUEST: usize = 16 * 1024 * 1024;
/// After the last execution ended on the way down: time for its end to be fetched and forgotten.
const LINGER: Duration = Duration::from_secs(2);
/// Between TERM and KILL for what still runs when the shutdown grace is over.
const LAST_GRACE: Duration = Duration::from_secs(2);

/// Why a server cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Logging could not be set up.
    #[error(transparent)]
    Logging(#[from] LoggingError),
    /// An address flag is malformed.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The metrics listener failed.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The author's [`Server::prepare`] failed.
    #[error("the server could not prepare: {0}")]
    Prepare(String),
    /// Two providers of one resource, or a definition that makes no sense.
    #[error("resources: {0}")]
    Resources(String),
    /// Another server answers on the socket.
    #[error("another server answers on {0}")]
    InUse(PathBuf),
    /// A gRPC listener failed.
    #[error("serving failed: {0}")]
    Serve(#[from] tonic::transport::Error),
    /// Something of the machine failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// How it failed.
        source: io::Error,
    },
}

fn at(what: impl Into<String>) -> impl FnOnce(io::Error) -> RunError {
    let what = what.into();
    move |source| RunError::Io { what, source }
}

/// Runs `server` until SIGTERM or SIGINT: the whole `main` of a Runtime Server.
///
/// Must be called first in `main`, before any thread is started: the kit starts its own executable
/// again for the processes that supervise Runs, and those never come back from this call.
pub fn run<S: Server>(server: S) -> ExitCode {
    if std::env::args_os().next().is_some_and(|name| name == MARKER) {
        std::process::exit(nursery_main());
    }
    let describe = DescribeResponse {
        name: server.name(),
        version: server.version(),
        protocol: 1,
        instance_id: format!("{:032x}", rand::random::<u128>()),
        features: ["watch", "logs", "usage-snapshots", "cancel-cause", "deadline", "warning", "resources"]
            .map(Into::into)
            .into(),
        modes: vec!["task".into()],
        options: server.options(),
        ..DescribeResponse::default()
    };
    let command = Settings::command().name(describe.name.clone()).version(describe.version.clone());
    let matches = command.get_matches_from(normalise(std::env::args_os()));
    let mut settings = match Settings::from_arg_matches(&matches) {
        Ok(settings) => settings,
        Err(error) => error.exit(),
    };
    settings.pass_env.extend(server.pass_env());
    let of_the_pool = std::env::var(PASS_ENV).unwrap_or_default();
    settings.pass_env.extend(of_the_pool.split(',').map(|name| name.trim().to_owned()));
    let resources = server.resources();
    match start(settings, describe, resources, Arc::new(server)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(
    settings: Settings,
    mut describe: DescribeResponse,
    mut resources: Vec<Box<dyn ResourceProvider>>,
    author: Arc<dyn Author>,
) -> Result<(), RunError> {
    // A probe's output is its answer.
    if !settings.probe {
        init_logging("runtime-server", settings.log_format)?;
    }
    if let Err(errno) = protect_process() {
        tracing::warn!(error = errno.desc(), "this server's memory is not protected");
    }
    let place = Place {
        work_dir: settings.work_dir.clone(),
        cgroup_parent: settings.cgroup_parent.clone(),
        at_most: settings.isolation.clone(),
        iops: settings.offers(names::STORAGE_IOPS),
        shares: !settings.shared_path.is_empty(),
        idle: settings.idle_supervisors.into(),
    };
    // While there is one thread: a probe may fork.
    let ladder = Ladder::open(&place, settings.wanted(with_paths(&mut resources)));
    if settings.probe {
        let told = probe::tell(&describe, &ladder).map_err(at("cannot print what was found"));
        ladder.close();
        return told;
    }
    ladder.fencing().sweep();
    describe.isolation = Some(ladder.record().clone());
    let leases = open_leases(&settings, resources, &describe.instance_id)?;
    describe.accounting = usage::sources(ladder.counters());
    describe.accounting.extend(leases.sources());
    ladder.start().map_err(at("cannot start the thread of the control groups"))?;
    // Before the runtime: its threads must not be among what the nursery is started from.
    let descriptors = raise_descriptors();
    let pool = Pool::start(settings.idle_supervisors.into(), descriptors, ladder.fencing().fences())
        .map_err(at("cannot start the spawner"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_stack_size(512 * 1024)
        .enable_all()
        .build()
        .map_err(at("cannot start the async runtime"))?;
    let result = runtime.block_on(serve(settings, describe, author, pool, ladder, leases));
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

/// What the author's own resources have a path for.
fn with_paths(resources: &mut [Box<dyn ResourceProvider>]) -> Vec<PathBuf> {
    let devices = resources.iter_mut().flat_map(|provider| provider.discover().devices);
    devices.filter(|device| device.id.starts_with('/')).map(|device| device.id.into()).collect()
}

/// Leases are written down in the folder that only server and sidecar share, where there is one.
fn open_leases(
    settings: &Settings,
    resources: Vec<Box<dyn ResourceProvider>>,
    instance: &str,
) -> Result<Arc<Leases>, RunError> {
    let pool = resources::Pool::new(resources, settings.resources.0.clone()).map_err(RunError::Resources)?;
    let folder = settings.socket_dir.as_ref().unwrap_or(&settings.work_dir).join(".leases");
    Leases::open(pool, Some(&folder), instance)
        .map_err(at(format!("cannot keep leases in {}", folder.display())))
}

/// The author's part, and whether Runs can start what the author means to start.
async fn prepare(author: &dyn Author, work_dir: &Path, ladder: &Ladder) -> Result<(), String> {
    author.prepare(work_dir).await?;
    for program in author.programs() {
        if let Some(why) = ladder.fencing().unreachable(&program) {
            return Err(format!("Runs cannot start {}: {why}", program.display()));
        }
    }
    Ok(())
}

async fn serve(
    settings: Settings,
    mut describe: DescribeResponse,
    author: Arc<dyn Author>,
    pool: Pool,
    ladder: Ladder,
    leases: Arc<Leases>,
) -> Result<(), RunError> {
    let signal = shutdown_signal().map_err(at("cannot listen for signals"))?;
    prepare(&*author, &settings.work_dir, &ladder).await.map_err(RunError::Prepare)?;
    let metrics = Metrics::new("kruntimes_server");
    let counts = Counts::register(&metrics);
    let (captured, dropped) = (counts.captured_bytes.clone(), counts.dropped_bytes.clone());
    let capturer = Capturer::start(&settings.work_dir, settings.max_output_bytes, captured, dropped)
        .map_err(at("cannot start capturing output"))?;
    let auth = settings.socket_dir.as_deref().map(|directory| Arc::new(Auth::new(directory)));
    describe.authentication = if auth.is_some() { "token" } else { "none" }.to_owned();
    let instance_id = describe.instance_id.as_str().into();
    let traces = Traces::from_environment(&describe.name);
    let engine = Engine::new(Parts {
        author,
        pool,
        capturer,
        passed: PassList::new(std::env::vars_os(), &settings.pass_env),
        counts: counts.clone(),
        ladder,
        leases,
        traces: traces.clone(),
        describe,
        bounds: bounds(&settings),
        work_dir: settings.work_dir.clone(),
    });
    let stop = CancellationToken::new();
    let service =
        Service { engine: Arc::clone(&engine), auth: auth.clone(), instance_id, stop: stop.clone() };
    let listeners = Listeners::bind(&settings).await?;
    tokio::spawn(sample(Arc::clone(&engine), settings.usage_interval, stop.clone()));
    tokio::spawn(stop.clone().run_until_cancelled_owned(watch_leases(Arc::clone(&engine))));
    let ready = Arc::clone(&engine);
    let health = listeners.http.serve(metrics, move || ready.ready(), stop.clone());
    let rule = |rule| Gate { rule, refused: counts.unauthenticated.clone() };
    let tcp_rule = if auth.is_some() { Rule::HealthOnly } else { Rule::Open };
    let tcp = router(&service, rule(tcp_rule)).serve_with_incoming_shutdown(
        bounded(TcpIncoming::from(listeners.tcp).with_nodelay(Some(true))),
        stop.clone().cancelled_owned(),
    );
    let unix = async {
        let (Some(listener), Some(auth)) = (listeners.unix, auth) else { return Ok(()) };
        let callers = bounded(strangers(listener, counts.unauthenticated.clone()));
        router(&service, rule(Rule::Token(auth)))
            .serve_with_incoming_shutdown(callers, stop.clone().cancelled_owned())
            .await
    };
    let down = async {
        signal.cancelled().await;
        wind_down(&engine, settings.shutdown_grace).await;
        stop.cancel();
        Ok::<_, RunError>(())
    };
    let served = async {
        tokio::try_join!(
            async { Ok(health.await?) },
            async { Ok(tcp.await?) },
            async { Ok(unix.await?) },
            down
        )
        .map(drop)
    };
    let result = tokio::select! {
        result = served => result,
        () = overdue(&stop) => Ok(()),
    };
    if let Some(directory) = &settings.socket_dir {
        let _ = std::fs::remove_file(directory.join(SOCKET_FILE));
    }
    engine.pool.close();
    engine.ladder.close();
    traces.flush().await;
    result
}

fn bounds(settings: &Settings) -> Bounds {
    Bounds { active: settings.executions(), finished: settings.max_finished as usize, grace: settings.grace }
}

/// Ends a little after the stop: a connection that a client keeps open does not hold the server.
async fn overdue(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
}

fn router(
    service: &Service,
    gate: Gate,
) -> Router<tower::layer::util::Stack<Gate, tower::layer::util::Identity>> {
    let runtime = RuntimeServer::new(service.clone()).max_decoding_message_size(MAX_REQUEST);
    let events = RuntimeEventsServer::new(service.clone());
    tonic::transport::Server::builder().layer(gate).add_service(runtime).add_service(events)
}

/// Lets executions go on until they end or the grace is over, then until their ends were forgotten
/// or a moment has passed.
async fn wind_down(engine: &Engine, grace: Duration) {
    engine.drain();
    let running = engine.until(|active, _| active == 0);
    if tokio::time::timeout(grace, running).await.is_err() {
        tracing::warn!("the grace is over; stopping what still runs");
        engine.stop_all(StopCause::Evicted, LAST_GRACE);
        let gone = engine.until(|active, _| active == 0);
        if tokio::time::timeout(LAST_GRACE * 2, gone).await.is_err() {
            tracing::error!("some executions could not be ended in time");
        }
    }
    let _ = tokio::time::timeout(LINGER, engine.until(|_, kept| kept == 0)).await;
}

async fn sample(engine: Arc<Engine>, interval: Duration, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(interval.max(Duration::from_secs(1)));
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        if engine.is_watched() {
            engine.sample();
            engine.tell_inventory();
        }
    }
}

/// Tells changes of the inventory, a burst of them once, and looks whether executions of an earlier
/// server have given back what they held.
async fn watch_leases(engine: Arc<Engine>) {
    const BURST: Duration = Duration::from_millis(50);
    const SWEEP: Duration = Duration::from_millis(250);
    loop {
        let survivors = engine.leases.sweep();
        let changed = engine.leases.changed.notified();
        if !survivors {
            changed.await;
        } else if tokio::time::timeout(SWEEP, changed).await.is_err() {
            continue;
        }
        tokio::time::sleep(BURST).await;
        engine.tell_inventory();
    }
}

/// Everything that is listened on, opened before anything is answered.
struct Listeners {
    tcp: TcpListener,
    unix: Option<UnixListener>,
    http: HttpServer,
}

impl Listeners {
    async fn bind(settings: &Settings) -> Result<Self, RunError> {
        let address = SocketAddr::new(settings.bind_address, settings.port);
        let tcp = TcpListener::bind(address).await.map_err(at(format!("cannot listen on {address}")))?;
        let metrics = parse_address(&settings.metrics_bind_address, settings.bind_address)?;
        let http = HttpServer::bind(&[(metrics, Endpoints::ALL)]).await?;
        let unix = match &settings.socket_dir {
            Some(directory) => Some(bind_socket(directory).await?),
            None => None,
        };
        let address = tcp.local_addr().unwrap_or(address);
        let socket = settings.socket_dir.as_ref().map(|directory| directory.join(SOCKET_FILE));
        tracing::info!(%address, ?socket, work_dir = %settings.work_dir.display(), "listening");
        Ok(Self { tcp, unix, http })
    }
}

/// Takes the place of a socket that nobody answers on. Group members may connect: in a Pod `runtimed`
/// shares only the group when the images run as different users. The token keeps others out.
async fn bind_socket(directory: &Path) -> Result<UnixListener, RunError> {
    let path = directory.join(SOCKET_FILE);
    let cannot_listen = || at(format!("cannot listen on {}", path.display()));
    let name = SocketName::within(directory).map_err(cannot_listen())?;
    let old = std::fs::symlink_metadata(&path);
    if old.is_ok_and(|metadata| metadata.file_type().is_socket()) {
        if UnixStream::connect(name.path()).await.is_ok() {
            return Err(RunError::InUse(path));
        }
        std::fs::remove_file(&path).map_err(at(format!("cannot remove {}", path.display())))?;
    }
    let listener = UnixListener::bind(name.path()).map_err(cannot_listen())?;
    let mode = std::fs::Permissions::from_mode(0o660);
    std::fs::set_permissions(&path, mode)
        .map_err(at(format!("cannot set the mode of {}", path.display())))?;
    Ok(listener)
}
