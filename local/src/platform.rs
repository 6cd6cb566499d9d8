//! The life of a platform: start, addresses, stop, and how other programs find it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::errors::ApiError;
use crate::api::http::{Server, router};
use crate::api::{Api, Sub, WriteOptions};
use crate::components::{self, Component};
use crate::controllers;
use crate::credentials::{Credentials, CredentialsError, write_private};
use crate::faults::Faults;
use crate::kinds::{CrdError, Kinds};
use crate::pods::images::Images;
use crate::pods::logs::LogBook;
use crate::pods::runner::{Runner, RunnerConfig};
use crate::server::{self, ListenError};
use crate::store::{Key, PersistError, Store};

/// Namespaces that every platform has.
const NAMESPACES: [&str; 2] = ["default", "kube-system"];

/// What a platform is started with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Everything the platform keeps: `db.redb`, `kubeconfig`, `platform.json`, `credentials.json`, `pods/`, `logs/`.
    pub data_dir: PathBuf,
    /// Where to listen; must be loopback. Port 0 takes the port of the last time if it is free, else any.
    pub address: SocketAddr,
    /// CustomResourceDefinitions (apiextensions.k8s.io/v1) whose kinds are served.
    pub crds: Vec<Value>,
    /// Programs by image name (the last path segment, without tag and digest).
    pub images: BTreeMap<String, PathBuf>,
    /// Where programs of the known image names are looked for (`runtimed`, `bash-server`, ...).
    pub bin_dir: Option<PathBuf>,
    /// Programs to run beside the API, as a cluster would run control-plane Pods.
    pub components: Vec<Component>,
    /// The program that becomes the first process of each container; it must call
    /// [`crate::maybe_container_init`] first thing in `main`. None takes this executable.
    pub init_program: Option<PathBuf>,
    /// Whether Pods are run; without, they stay Pending (for tests that play the kubelet themselves).
    pub run_pods: bool,
    /// Whether whoever has the token may order faults over HTTP (`/debug/faults`), as tests do.
    pub debug_faults: bool,
}

impl Config {
    /// A platform in `data_dir` on any free port of 127.0.0.1, with no kinds of its own and no components.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            crds: Vec::new(),
            images: BTreeMap::new(),
            bin_dir: None,
            components: Vec::new(),
            init_program: None,
            run_pods: true,
            debug_faults: false,
        }
    }
}

/// Why a platform did not start.
#[derive(Debug, thiserror::Error)]
pub enum PlatformError {
    #[error("a platform is running already in {data_dir}{}", .pid.map(|p| format!(" (process {p})")).unwrap_or_default())]
    Running { data_dir: String, pid: Option<u32> },
    #[error("cannot use {path}: {source}")]
    Files { path: String, source: io::Error },
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error(transparent)]
    Crd(#[from] CrdError),
    #[error(transparent)]
    Database(#[from] PersistError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("cannot write the first objects: {0}")]
    Bootstrap(#[from] ApiError),
}

/// What `platform.json` says about a platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub pid: u32,
    /// `https://127.0.0.1:PORT`.
    pub address: String,
    pub kubeconfig: PathBuf,
    /// RFC 3339.
    pub started: String,
}

impl Status {
    /// The platform that runs in `data_dir`, if one does. What a killed one left behind does not count.
    pub fn read(data_dir: &Path) -> Option<Self> {
        let lock = File::open(data_dir.join("lock")).ok()?;
        match lock.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Self::last(data_dir),
            _ => None,
        }
    }

    fn last(data_dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(data_dir.join("platform.json")).ok()?).ok()
    }
}

/// A running platform. Dropping it without [`Platform::shutdown`] stops serving at once; what
/// containers it runs die with the process.
pub struct Platform {
    data_dir: PathBuf,
    address: SocketAddr,
    server: Arc<Server>,
    runner: Option<Runner>,
    stop: CancellationToken,
    tasks: TaskTracker,
    component_stop: CancellationToken,
    component_tasks: TaskTracker,
    /// Held as long as the platform runs.
    _lock: File,
}

impl Platform {
    /// Starts a platform and answers when its API serves.
    ///
    /// # Errors
    /// When one runs in the folder already, a CRD is unusable, or files or the port cannot be had.
    pub async fn start(config: Config) -> Result<Self, PlatformError> {
        let data_dir = config.data_dir.clone();
        let lock = take_folder(&data_dir)?;
        let last = Status::last(&data_dir);
        forget_status(&data_dir)?;
        let credentials = Credentials::load_or_make(&data_dir.join("credentials.json"))?;
        let kinds = Arc::new(Kinds::new(&config.crds)?);
        let store = Store::open(&data_dir.join("db.redb"), Arc::clone(&kinds))?;
        let pods_dir = data_dir.join("pods");
        let logs = Arc::new(LogBook::new(&pods_dir));
        let api = Arc::new(Api::new(kinds, store, logs));
        bootstrap(&api, &config.crds).await?;

        let mut wanted = config.address;
        if wanted.port() == 0
            && let Some(last) = last
            && let Some(port) = last.address.rsplit(':').next().and_then(|p| p.parse().ok())
        {
            wanted.set_port(port);
        }
        let (listener, address) = server::listen(wanted, config.address.port() == 0).await?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let server = Arc::new(Server::new(Arc::clone(&api), credentials.token.clone(), config.debug_faults));
        let accept =
            server::serve(listener, credentials.acceptor()?, router(Arc::clone(&server)), stop.clone());
        tasks.spawn(accept);
        tasks.spawn(controllers::gc::run(Arc::clone(&api), stop.clone()));
        tasks.spawn(controllers::namespace::run(Arc::clone(&api), stop.clone()));
        tasks.spawn(controllers::deployment::run(Arc::clone(&api), stop.clone()));

        let kubeconfig = credentials.kubeconfig(address, "default");
        let kubeconfig_path = data_dir.join("kubeconfig");
        write_file(&kubeconfig_path, &yaml(&kubeconfig))?;
        let status = Status {
            pid: std::process::id(),
            address: format!("https://{address}"),
            kubeconfig: kubeconfig_path.clone(),
            started: crate::object::seconds(Timestamp::now()),
        };
        write_file(&data_dir.join("platform.json"), format!("{:#}\n", json!(status)).as_bytes())?;

        let init_program = match config.init_program {
            Some(program) => program,
            None => std::env::current_exe().map_err(|source| files(Path::new("/proc/self/exe"), source))?,
        };
        let runner = config.run_pods.then(|| {
            let images = Images::new(config.images, config.bin_dir);
            let runner =
                RunnerConfig { pods_dir, init_program: init_program.clone(), images, credentials, address };
            Runner::start(Arc::clone(&api), runner)
        });
        let (component_stop, component_tasks) = (CancellationToken::new(), TaskTracker::new());
        for component in config.components {
            let place = components::Place {
                logs_dir: data_dir.join("logs"),
                init_program: init_program.clone(),
                kubeconfig: kubeconfig_path.clone(),
            };
            component_tasks.spawn(components::supervise(component, place, component_stop.clone()));
        }
        tracing::info!(%address, data_dir = %data_dir.display(), "the local platform serves");
        Ok(Self {
            data_dir,
            address,
            server,
            runner,
            stop,
            tasks,
            component_stop,
            component_tasks,
            _lock: lock,
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The kubeconfig for this platform (mode 0600).
    pub fn kubeconfig_path(&self) -> PathBuf {
        self.data_dir.join("kubeconfig")
    }

    /// The API without HTTP.
    pub fn api(&self) -> &Arc<Api> {
        &self.server.api
    }

    /// Faults on demand.
    pub fn faults(&self) -> &Faults {
        &self.server.api.faults
    }

    /// Requests over HTTP since the start: client, then `verb resource`, then how many.
    pub fn requests(&self) -> crate::api::http::RequestCounts {
        self.server.counts()
    }

    /// Comes back, with the reason, when the database has refused a write. It takes none from then on, and its
    /// readers may miss what was refused: whoever runs the platform must end it and say so.
    pub async fn broken(&self) -> String {
        self.server.api.store.broken().await
    }

    /// Stops the components, then the containers (TERM, and after `grace` KILL), then the API. Pods stay in the
    /// database and are started again by the next platform in this folder.
    pub async fn shutdown(mut self, grace: Duration) {
        self.component_stop.cancel();
        self.component_tasks.close();
        self.component_tasks.wait().await;
        if let Some(runner) = self.runner.take() {
            runner.stop(grace).await;
        }
        self.stop.cancel();
        self.server.api.faults.close_watches();
        self.tasks.close();
        self.tasks.wait().await;
        let api = Arc::clone(&self.server.api);
        // The writer thread is joined there, which must not hold up a worker of the runtime.
        if tokio::task::spawn_blocking(move || api.store.close()).await.is_err() {
            tracing::error!("closing the database has panicked");
        }
        tracing::info!("the local platform has stopped");
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        self.stop.cancel();
        self.component_stop.cancel();
    }
}

fn files(path: &Path, source: io::Error) -> PlatformError {
    PlatformError::Files { path: path.display().to_string(), source }
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), PlatformError> {
    write_private(path, bytes).map_err(|source| files(path, source))
}

fn yaml(value: &Value) -> Vec<u8> {
    // A kubeconfig holds strings only; JSON, which is YAML too, is as good should that ever fail.
    serde_yaml::to_string(value).unwrap_or_else(|_| value.to_string()).into_bytes()
}

/// What a former platform said of itself must not be taken for this one's word.
fn forget_status(data_dir: &Path) -> Result<(), PlatformError> {
    let path = data_dir.join("platform.json");
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(files(&path, error)),
        _ => Ok(()),
    }
}

/// The objects in YAML documents, as CRD files hold them.
///
/// # Errors
/// When one does not parse.
pub fn read_documents(text: &str) -> Result<Vec<Value>, serde_yaml::Error> {
    let documents = serde_yaml::Deserializer::from_str(text);
    let values: Result<Vec<Value>, _> = documents.map(Value::deserialize).collect();
    Ok(values?.into_iter().filter(|v| !v.is_null()).collect())
}

/// Makes the folder (mode 0700) and takes its lock.
fn take_folder(data_dir: &Path) -> Result<File, PlatformError> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    let builder = |path: &Path| fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    for path in [data_dir.to_owned(), data_dir.join("pods"), data_dir.join("logs")] {
        builder(&path).map_err(|source| files(&path, source))?;
    }
    let path = data_dir.join("lock");
    let mut options = OpenOptions::new();
    let lock = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
    let lock = lock.map_err(|source| files(&path, source))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(PlatformError::Running {
            data_dir: data_dir.display().to_string(),
            pid: Status::last(data_dir).map(|s| s.pid),
        }),
        Err(TryLockError::Error(source)) => Err(files(&path, source)),
    }
}

/// Writes the namespaces and the CRDs that are not there, or are other ones than before.
async fn bootstrap(api: &Api, crds: &[Value]) -> Result<(), ApiError> {
    let options = WriteOptions::internal();
    for name in NAMESPACES {
        let object = json!({"metadata": {"name": name}});
        match api.create(api.kinds.core("namespaces"), "", object, &options).await {
            Ok(_) | Err(ApiError::AlreadyExists { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let kind = api.kinds.core("customresourcedefinitions");
    for crd in crds {
        let mut crd = crd.clone();
        let since = crate::object::now();
        let condition = |name: &str| json!({"type": name, "status": "True", "reason": "Fixed", "lastTransitionTime": since});
        crd["status"] = json!({
            "acceptedNames": crd["spec"]["names"],
            "storedVersions": [crd["spec"]["versions"][0]["name"]],
            "conditions": [condition("NamesAccepted"), condition("Established")],
        });
        match api.create(kind, "", crd.clone(), &options).await {
            Err(ApiError::AlreadyExists { .. }) => {
                let key = Key::of(&crd);
                let edit = |old: &Value| {
                    let mut new = old.clone();
                    if old["spec"] != crd["spec"] {
                        new["spec"] = crd["spec"].clone();
                        new["status"] = crd["status"].clone();
                    }
                    Ok(new)
                };
                api.update(kind, &key, Sub::Main, edit, &options).await?;
            }
            done => drop(done?),
        }
    }
    Ok(())
}
