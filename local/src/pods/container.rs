//! One container as a running process: started, told to stop, waited for, its output logged.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::init::INIT_NAME;
use super::logs::{LineCutter, LogWriter};
use super::volumes::Mount;

/// How long output is still read after the container has ended. Only a process that left its group,
/// where there is no namespace, can hold the pipes that long.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Variables of the platform's own environment that containers keep; all others are theirs alone.
const KEPT: [&str; 8] = ["PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "KRUNTIME_LOG"];

/// What to start.
#[derive(Debug, Clone)]
pub struct Launch {
    /// See [`crate::Config::init_program`].
    pub init_program: PathBuf,
    /// Held while anything of the container lives.
    pub lock: PathBuf,
    pub program: OsString,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub dir: PathBuf,
    /// Where the volumes are that the container sees; its probes see them too.
    pub mounts: Vec<Mount>,
}

/// Where the output goes.
pub enum Output {
    Log(LogWriter),
    /// Both streams as they are, appended.
    File(File),
    Nowhere,
}

/// A started container. Dropping it kills what it started.
pub struct Process {
    child: Child,
    control: File,
    pumps: Vec<JoinHandle<()>>,
}

impl Launch {
    /// Starts the container.
    ///
    /// # Errors
    /// When the init program cannot be started; that the container's own program cannot be is its exit
    /// code 126 or 127.
    pub fn start(&self, output: Output) -> io::Result<Process> {
        let mut command = Command::new(&self.init_program);
        command.arg0(INIT_NAME).arg(&self.lock).arg(&self.program).args(&self.args);
        command.env_clear().envs(KEPT.iter().filter_map(|key| Some((key, std::env::var_os(key)?))));
        command.envs(self.env.iter().map(|(k, v)| (k, v))).current_dir(&self.dir);
        command.stdin(Stdio::piped()).process_group(0);
        let log = match output {
            Output::Log(writer) => {
                command.stdout(Stdio::piped()).stderr(Stdio::piped());
                Some(Arc::new(Mutex::new(writer)))
            }
            Output::File(file) => {
                command.stdout(file.try_clone()?).stderr(file);
                None
            }
            Output::Nowhere => {
                command.stdout(Stdio::null()).stderr(Stdio::null());
                None
            }
        };
        let mut child = command.spawn()?;
        let stdin = child.stdin.take().ok_or_else(|| io::Error::other("the child has no standard input"))?;
        let control = File::from(stdin.into_owned_fd()?);
        let mut pumps = Vec::new();
        if let Some(log) = log {
            pumps.extend(child.stdout.take().map(|out| tokio::spawn(pump(out, "stdout", Arc::clone(&log)))));
            pumps.extend(child.stderr.take().map(|err| tokio::spawn(pump(err, "stderr", log))));
        }
        Ok(Process { child, control, pumps })
    }
}

impl Process {
    /// Sends TERM to the container's program.
    pub fn terminate(&mut self) {
        self.order(b"t");
    }

    /// Kills everything in the container.
    pub fn kill(&mut self) {
        self.order(b"k");
    }

    fn order(&mut self, word: &[u8]) {
        if let Err(why) = self.control.write_all(word) {
            // It has ended already; waiting for it says how.
            tracing::debug!(%why, "a container takes no orders");
        }
    }

    /// Waits until nothing of the container is left and its output is in the log; answers its exit code.
    pub async fn wait(&mut self) -> i32 {
        let code = match self.child.wait().await {
            Ok(status) => status.code().unwrap_or(137),
            Err(why) => {
                tracing::error!(%why, "cannot wait for a container");
                255
            }
        };
        for pump in self.pumps.drain(..) {
            let stop = pump.abort_handle();
            if tokio::time::timeout(LAST_WORDS, pump).await.is_err() {
                stop.abort();
            }
        }
        code
    }
}

async fn pump(mut from: impl AsyncRead + Unpin, stream: &'static str, log: Arc<Mutex<LogWriter>>) {
    let mut cutter = LineCutter::default();
    let mut buffer = vec![0u8; 32 * 1024];
    loop {
        let (lines, over) = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => (cutter.finish(), true),
            Ok(count) => (cutter.push(&buffer[..count]), false),
        };
        if !lines.is_empty()
            && let Err(why) = log.lock().unwrap_or_else(PoisonError::into_inner).write(stream, &lines)
        {
            tracing::warn!(%why, "cannot write a container's log");
        }
        if over {
            return;
        }
    }
}
