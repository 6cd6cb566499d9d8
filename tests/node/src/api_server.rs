//! An API server for one test or suite, which ends with whoever started it.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};

use crate::go::{cache_folder, ensure_helm};
use crate::layout::Mode;
use crate::node::Node;

/// etcd and kube-apiserver with a data folder of their own, on free ports of loopback.
///
/// ```no_run
/// let server = kruntimes_node::ApiServer::start()?;
/// server.kubectl()?.args(["apply", "--server-side", "-f", "charts/kruntimes-crds/files"]).status()?;
/// # anyhow::Ok(())
/// ```
///
/// There are no controllers: nothing is garbage-collected, a Deployment makes no Pods, namespaces do not finish their deletion.
#[derive(Debug)]
pub struct ApiServer {
    node: Node,
    kubeconfig: PathBuf,
    _guard: Guard,
}

/// Names another version of Kubernetes, such as `1.32.13`.
const VERSION: &str = "KRT_KUBERNETES";

impl ApiServer {
    /// Starts one and waits until it is ready: seconds, or minutes where the programs are still to be built. `KRT_KUBERNETES`
    /// in the environment names another version than the tests' own.
    pub fn start() -> Result<Self> {
        let parent = cache_folder()?.join("run");
        std::fs::create_dir_all(&parent)?;
        let folder = tempfile::Builder::new().prefix("api-").tempdir_in(&parent)?.keep();
        let mut guard = Command::new("sh");
        guard
            .args(["-c", GUARD, "guard"])
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A signal to our whole group must not end the one that clears up after us.
            .process_group(0);
        let guard = Guard(guard.spawn().context("cannot start sh")?);
        let node = match std::env::var(VERSION) {
            Ok(version) => Node::up_api(&folder, &version)?,
            Err(_) => Node::up(&folder, Mode::Api)?,
        };
        Ok(Self { kubeconfig: node.kubeconfig(), node, _guard: guard })
    }

    /// Administrator of everything.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// etcd and kube-apiserver: name and process id.
    pub fn processes(&self) -> Vec<(&'static str, u32)> {
        let components = self.node.components().into_iter();
        components.filter_map(|(name, process)| Some((name, process?.pid))).collect()
    }

    /// A kubectl that talks to this server: arguments are to be added.
    pub fn kubectl(&self) -> Result<Command> {
        self.node.kubectl()
    }

    /// A helm that talks to this server: arguments are to be added.
    ///
    /// # Errors
    /// When helm is not there and does not build.
    pub fn helm(&self) -> Result<Command> {
        ensure_helm()?;
        self.node.command("helm")
    }
}

impl Drop for ApiServer {
    /// Waits until the processes are gone, which the guard cannot do; the folder is the guard's.
    fn drop(&mut self) {
        for (component, _) in self.node.components() {
            // Nothing could be done about a failure here, and the guard tries once more.
            let _ = self.node.stop(component);
        }
    }
}

/// A shell that kills the server and removes its folder when its standard input closes: when this is dropped, also for a
/// start that failed, or when our process ends, however suddenly.
#[derive(Debug)]
struct Guard(Child);

/// The processes are children of ours, whose ids are not given away before we wait for them.
const GUARD: &str = r#"cat; kill -KILL $(cat "$1/pids"); rm -rf "$1""#;

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // Nothing could be done about a failure here.
        let _ = self.0.wait();
    }
}
