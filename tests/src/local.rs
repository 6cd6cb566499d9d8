//! The local platform, started by `krt local up` as a person starts it.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::process::{self, Process};
use crate::{Hurt, Platform, Victim};

const START: Duration = Duration::from_secs(60);

/// A platform in a folder of its own; stopped, it must leave no process.
pub struct Local {
    folder: tempfile::TempDir,
    krt: Mutex<Option<Child>>,
    environment: Vec<(String, String)>,
}

impl Local {
    /// Starts a platform and waits until it takes commands.
    ///
    /// # Errors
    /// When `krt local up` fails or is not ready in time; the error shows what it printed.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_with(&[])
    }

    /// As [`Self::start`], with more variables for `krt local up`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(environment: &[(&str, &str)]) -> anyhow::Result<Self> {
        let environment =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        // Like a person's home: nobody else can enter it, and it is not below /tmp, which Runs have for themselves.
        let folder = tempfile::Builder::new().prefix("krt-test-").tempdir_in("/var/tmp")?;
        let local = Self { folder, krt: Mutex::new(None), environment };
        std::fs::set_permissions(local.folder.path(), Permissions::from_mode(0o700))?;
        std::fs::create_dir(local.shared_folder())?;
        std::fs::set_permissions(local.shared_folder(), Permissions::from_mode(0o777))?;
        local.up()?;
        Ok(local)
    }

    /// Starts it again after [`Victim::Platform`] was killed.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn up(&self) -> anyhow::Result<()> {
        let log = self.folder.path().join("up.log");
        let file = std::fs::File::options().create(true).append(true).open(&log)?;
        let mut child = Command::new(process::program("krt"))
            .args(["local", "up", "--debug-faults", "--data-dir"])
            .arg(self.data_dir())
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .context("starting krt local up (is it built? see KRT_BIN_DIR)")?;
        let deadline = Instant::now() + START;
        while !self.answers() {
            if let Some(status) = child.try_wait()? {
                bail!("krt local up: {status}\n{}", std::fs::read_to_string(&log)?);
            }
            if Instant::now() > deadline {
                child.kill()?;
                bail!("krt local up is not ready after {START:?}\n{}", std::fs::read_to_string(&log)?);
            }
            park();
        }
        *lock(&self.krt) = Some(child);
        Ok(())
    }

    fn shared_folder(&self) -> PathBuf {
        self.folder.path().join("shared")
    }

    fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn answers(&self) -> bool {
        let status = Command::new(process::program("krt"))
            .args(["local", "status", "--data-dir"])
            .arg(self.data_dir())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        status.is_ok_and(|s| s.success())
    }

    /// Ends the platform's own process the hard way and waits until nothing of it is left.
    ///
    /// # Errors
    /// When a process survives.
    fn end(&self) -> anyhow::Result<()> {
        if let Some(mut child) = lock(&self.krt).take() {
            child.kill()?;
            child.wait()?;
        }
        self.nothing_left()
    }

    fn nothing_left(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START;
        loop {
            let left = self.processes();
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("processes survived the platform: {left:?}");
            }
            park();
        }
    }

    /// Processes of one of our programs, without the container's first process.
    fn programs(&self, name: &str) -> Vec<Process> {
        self.processes().into_iter().filter(|p| p.program == name).collect()
    }
}

impl Platform for Local {
    fn name(&self) -> &'static str {
        "local"
    }

    fn kubeconfig(&self) -> PathBuf {
        self.data_dir().join("kubeconfig")
    }

    fn shared(&self) -> Option<PathBuf> {
        Some(self.shared_folder())
    }

    fn shared_mount(&self) -> Option<PathBuf> {
        self.shared()
    }

    fn stop(&self) -> anyhow::Result<()> {
        let Some(mut child) = lock(&self.krt).take() else { return Ok(()) };
        let down = Command::new(process::program("krt"))
            .args(["local", "down", "--data-dir"])
            .arg(self.data_dir())
            .status();
        if !down.is_ok_and(|status| status.success()) {
            child.kill()?;
            child.wait()?;
            bail!("krt local down failed; the platform was killed");
        }
        child.wait()?;
        self.nothing_left()
    }
}

impl Hurt for Local {
    fn kill(&self, victim: Victim) -> anyhow::Result<()> {
        let name = match victim {
            Victim::Scheduler => "scheduler",
            Victim::Controller => "controller",
            Victim::Runtimed => "runtimed",
            Victim::Server => "bash-server",
            Victim::Platform => return self.end(),
        };
        process::kill_all(name, &self.programs(name))
    }

    fn restore(&self) -> anyhow::Result<()> {
        self.up()
    }

    fn pods_outlive_the_api(&self) -> bool {
        false
    }

    fn pods_share_loopback(&self) -> bool {
        true
    }

    fn workspace(&self, pod_uid: &str) -> PathBuf {
        self.data_dir().join("pods").join(pod_uid).join("volumes/workspace")
    }

    fn processes(&self) -> Vec<Process> {
        process::of_folder(self.folder.path())
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        // After a panic: the harness has stopped it otherwise, and has told what was wrong.
        if let Err(error) = Platform::stop(self) {
            eprintln!("{error:#}");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A look every 50 ms, inside waits that have a deadline.
fn park() {
    std::thread::park_timeout(Duration::from_millis(50));
}
