//! Scheduler and controller as child processes.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};

use crate::processes::{self, Process};

/// Killed when dropped.
pub struct Programs(Vec<(&'static str, Child)>);

impl Programs {
    /// The programs are those beside this one: same build, same profile.
    pub fn start(kubeconfig: &Path) -> Result<Self> {
        let own = std::env::current_exe()?;
        let folder = own.parent().context("this program lies in no folder")?;
        let mut programs = Self(Vec::new());
        for name in ["scheduler", "controller"] {
            let mut command = Command::new(folder.join(name));
            command.arg("--kubeconfig").arg(kubeconfig);
            command.args(["--bind-address", "127.0.0.1", "--log-format", "json"]);
            for flag in ["--metrics-bind-address", "--health-probe-bind-address"] {
                command.arg(format!("{flag}=:{}", free_port()?));
            }
            command.env("KRUNTIME_LOG", "warn").stdin(Stdio::null()).stdout(Stdio::null());
            let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
            programs.0.push((name, child));
        }
        Ok(programs)
    }

    pub fn processes(&self) -> Vec<Process> {
        self.0.iter().filter_map(|(name, child)| processes::named(child.id(), name)).collect()
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        for (_, child) in &mut self.0 {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
