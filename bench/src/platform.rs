//! A local platform of its own, as `krt local up` starts it.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::processes::{self, Process};

pub const RUNTIME: &str = "bench";

/// Dropped, it is stopped.
pub struct Platform {
    programs: PathBuf,
    folder: tempfile::TempDir,
    is_up: bool,
}

impl Platform {
    /// Starts it with 2 Pods of 64 Runs each. The programs are those beside this one: same build, same profile.
    pub fn start() -> Result<Self> {
        let own = std::env::current_exe()?;
        let programs = own.parent().context("this program lies in no folder")?.to_owned();
        let folder = tempfile::Builder::new().prefix("krt-bench-").tempdir()?;
        let mut platform = Self { programs, folder, is_up: false };
        platform.krt(&["local", "up", "--detach"])?;
        platform.is_up = true;
        let pool = [
            "runtime",
            "create",
            RUNTIME,
            "--image",
            "bash-server:dev",
            "--replicas",
            "2",
            "--capacity",
            "runs=64",
        ];
        platform.krt(&[pool.as_slice(), &["--wait", "--timeout", "60s"]].concat())?;
        Ok(platform)
    }

    pub async fn client(&self) -> Result<Client> {
        let kubeconfig = Kubeconfig::read_from(self.data_dir().join("kubeconfig"))?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Ok(Client::try_from(config)?)
    }

    /// Every process of this platform.
    pub fn processes(&self) -> Result<Vec<Process>> {
        processes::of(&self.programs, &self.data_dir())
    }

    pub fn stop(mut self) -> Result<()> {
        self.is_up = false;
        self.krt(&["local", "down"])
    }

    fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn krt(&self, arguments: &[&str]) -> Result<()> {
        let mut krt = Command::new(self.programs.join("krt"));
        krt.args(arguments).stdin(Stdio::null());
        krt.env("KRT_DATA_DIR", self.data_dir()).env("KUBECONFIG", self.data_dir().join("kubeconfig"));
        let output = krt.output().context("cannot run krt")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("`krt {}` ended with {}: {}", arguments.join(" "), output.status, said.trim());
        }
        Ok(())
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        if self.is_up
            && let Err(error) = self.krt(&["local", "down"])
        {
            eprintln!("error: {error:#}");
        }
    }
}
