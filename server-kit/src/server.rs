//! What a server author writes: the [`Server`] trait and its vocabulary.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::future::Future;
use std::path::{Path, PathBuf};

use crate::resources::{Held, ResourceProvider};

/// A native Runtime Server: turns a request into a command line. Everything else is the kit's.
pub trait Server: Send + Sync + 'static {
    /// How to start this job. Called once per accepted execution, concurrently for many; it must not
    /// start anything itself, and should take microseconds.
    ///
    /// An error refuses the execution: the caller sees it, nothing is kept. A panic, and an answer that is awaited for more than five
    /// seconds, are [`LaunchError::Unavailable`].
    fn launch(&self, job: &Job) -> impl Future<Output = Result<Launch, LaunchError>> + Send;

    /// Name in Describe; the executable's name unless overridden.
    fn name(&self) -> String {
        let program = std::env::args_os().next().map(PathBuf::from);
        let name = program.as_deref().and_then(Path::file_name).map(OsStr::to_string_lossy);
        name.map_or_else(|| "server".to_owned(), |name| name.into_owned())
    }

    /// Version in Describe.
    fn version(&self) -> String {
        kruntimes_daemon::version().to_owned()
    }

    /// Keys of `options` that [`Server::launch`] understands. Any other key is refused by name.
    fn options(&self) -> Vec<String> {
        Vec::new()
    }

    /// More variables of the server's own environment that Runs may see, beside the kit's short list.
    /// A trailing `*` stands for any ending.
    fn pass_env(&self) -> Vec<String> {
        Vec::new()
    }

    /// Resources that this server brings along, beside those that its Runtime defines. Called once.
    fn resources(&self) -> Vec<Box<dyn ResourceProvider>> {
        Vec::new()
    }

    /// Called once, before the server takes calls. An error stops the program with that message.
    fn prepare(&self, _work_dir: &Path) -> impl Future<Output = Result<(), String>> + Send {
        async { Ok(()) }
    }

    /// Programs that every Run starts, by their paths; asked after [`Server::prepare`]. Where Runs cannot reach
    /// one of them, because of their own ids or of what is hidden from them, this server stops and says so.
    fn programs(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Whether work can be started now; the text says why not. Must answer within a second.
    fn health(&self) -> impl Future<Output = Result<(), String>> + Send {
        async { Ok(()) }
    }

    /// Called once an execution that was taken has ended, none of its processes is left, and that was told: the next one may be
    /// running. What the next must find clean is cleaned by [`ResourceProvider::release`], before the end is told. Not called
    /// where a process may be left.
    fn finished(&self, _job: &Job) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// One execution, as the author sees it. Checked: names and strings hold no NUL, the entrypoint is
/// relative without `..`, the working directory is absolute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Job {
    /// Opaque, 1..=128 bytes of `[A-Za-z0-9._-]`.
    pub id: String,
    /// 1-based; 0 from a baseline client.
    pub attempt: u32,
    /// Words after the entrypoint, or the whole command of a server that knows no entrypoint.
    pub args: Vec<String>,
    /// The Run's own environment; it wins over everything the author sets in [`Launch`].
    pub env: BTreeMap<String, String>,
    /// A file below [`Job::working_dir`], or empty.
    pub entrypoint: String,
    /// Function to call, or empty; its meaning is the server's.
    pub handler: String,
    /// Where the command starts.
    pub working_dir: PathBuf,
    /// Server-specific options, keys as named by [`Server::options`].
    pub options: BTreeMap<String, String>,
    /// Requested amounts, name to Kubernetes quantity.
    pub resources: BTreeMap<String, String>,
    /// What of them the Run holds: devices by id, amounts without one.
    pub held: Vec<Held>,
    /// Device files that it must be able to open.
    pub device_paths: Vec<PathBuf>,
    /// Ceilings, name to Kubernetes quantity. What is enforced is told by the isolation record.
    pub limits: BTreeMap<String, String>,
    /// Namespace of the Run, or empty.
    pub namespace: String,
    /// Name of the Run, or empty.
    pub run_name: String,
    /// Who submitted it, or empty.
    pub submitter: String,
}

impl Job {
    /// The entrypoint's full path; `None` without one.
    #[must_use]
    pub fn entrypoint_path(&self) -> Option<PathBuf> {
        (!self.entrypoint.is_empty()).then(|| self.working_dir.join(&self.entrypoint))
    }
}

/// A command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Launch {
    pub(crate) program: OsString,
    pub(crate) args: Vec<OsString>,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) stdin: Vec<u8>,
    pub(crate) cwd: Option<PathBuf>,
}

impl Launch {
    /// Starts `program`: a path, or a name looked up in the Run's `PATH`.
    #[must_use]
    pub fn new(program: impl Into<OsString>) -> Self {
        Self { program: program.into(), ..Self::default() }
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// A variable, unless the Run sets it itself.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// What the command reads from standard input; nothing by default.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Where it starts, instead of the job's working directory.
    #[must_use]
    pub fn cwd(mut self, path: impl Into<PathBuf>) -> Self {
        self.cwd = Some(path.into());
        self
    }
}

/// Why an execution is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// The request is wrong and will stay so: `INVALID_ARGUMENT`.
    #[error("{field}: {message}")]
    Invalid {
        /// The field of `ExecuteRequest` at fault.
        field: String,
        /// What is wrong with it.
        message: String,
    },
    /// No room just now: `RESOURCE_EXHAUSTED`. The Run is handed back uncounted.
    #[error("{0}")]
    Busy(String),
    /// Something that the server needs is away: `UNAVAILABLE`.
    #[error("{0}")]
    Unavailable(String),
}

impl LaunchError {
    /// A request that can never work.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), message: message.into() }
    }
}
