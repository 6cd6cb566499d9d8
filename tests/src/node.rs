//! A real Kubernetes with the product on it: images from the project's Dockerfile, installed by its charts.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, ensure};
use kruntimes_node::{Mode, Node, Programs};

use crate::process::{self, Process};
use crate::{Hurt, Platform, Victim};

/// Names the state folder of a node that is up and has the images: it is used, and left up.
const BORROWED: &str = "KRT_NODE";

/// Where the control plane is installed.
pub const SYSTEM: &str = "kruntimes-system";

/// A node of its own; dropped, it is taken down.
pub struct RealNode {
    node: Mutex<Node>,
    shared: PathBuf,
    guard: Option<Guard>,
}

impl RealNode {
    /// Starts a node, builds and loads the images, installs the charts, and waits until the control plane is ready.
    ///
    /// # Errors
    /// When one of these fails; what it printed is in the error.
    pub fn start() -> anyhow::Result<Self> {
        let (node, guard) = match std::env::var_os(BORROWED) {
            Some(folder) => {
                let node = Node::open(Path::new(&folder))?.filter(Node::is_alive);
                (node.with_context(|| format!("{BORROWED}: no node is up in {}", folder.display()))?, None)
            }
            None => {
                let parent = kruntimes_node::cache_folder()?.join("run");
                std::fs::create_dir_all(&parent)?;
                let folder = tempfile::Builder::new().prefix("test-").tempdir_in(&parent)?.keep();
                let guard = Guard::start(&folder)?;
                let node = Node::up(&folder, Mode::Full)?;
                kruntimes_node::load(&node, &[], &Programs::Folder(process::programs()))?;
                (node, Some(guard))
            }
        };
        let shared = node.kubeconfig().with_file_name("shared");
        std::fs::create_dir_all(&shared)?;
        // Runs have another user than the tests.
        std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o777))?;
        let node = Self { node: Mutex::new(node), shared, guard };
        node.install()?;
        Ok(node)
    }

    /// As `docs/install.md` says, with the images that were loaded, into a namespace that takes only Pods of the Pod
    /// Security level `restricted`.
    fn install(&self) -> anyhow::Result<()> {
        if self.kubectl_says(&["get", "namespace", SYSTEM]).is_err() {
            self.kubectl_says(&["create", "namespace", SYSTEM])?;
        }
        let level = "pod-security.kubernetes.io/enforce=restricted";
        self.kubectl_says(&["label", "namespace", SYSTEM, level, "--overwrite"])?;
        self.helm(&["upgrade", "--install", "kruntimes", &chart("kruntimes")?, "--wait", "--timeout=3m"])
            .args(["--namespace", SYSTEM])
            .args(["--set", IMAGES])
            .run()
    }

    /// The node itself, to be hurt.
    pub fn node(&self) -> MutexGuard<'_, Node> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The real helm.
    pub fn helm(&self, arguments: &[&str]) -> Tool {
        Tool(self.node().command("helm").map(|mut command| {
            command.args(arguments);
            command
        }))
    }
}

/// Values that make the charts use the images that were loaded.
pub const IMAGES: &str = "image.registry=localhost,image.tag=dev";

/// The folder of a chart of ours.
///
/// # Errors
/// When it is not there.
pub fn chart(name: &str) -> anyhow::Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("charts").join(name);
    ensure!(path.is_dir(), "no chart lies in {}", path.display());
    Ok(path.to_string_lossy().into_owned())
}

/// A command whose output matters only when it fails.
pub struct Tool(anyhow::Result<Command>);

impl Tool {
    /// With more arguments.
    #[must_use]
    pub fn args<'a>(mut self, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        if let Ok(command) = &mut self.0 {
            command.args(arguments);
        }
        self
    }

    /// What it printed on standard output, or, failed, an error with both streams.
    ///
    /// # Errors
    /// When it cannot be started or fails.
    pub fn text(self) -> anyhow::Result<String> {
        let mut command = self.0?;
        let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{:?}: {}\n{out}\n{err}", command.get_program(), output.status);
        Ok(out.into_owned())
    }

    /// Runs it for its effect.
    ///
    /// # Errors
    /// As [`Self::text`].
    pub fn run(self) -> anyhow::Result<()> {
        self.text().map(drop)
    }
}

impl Platform for RealNode {
    fn name(&self) -> &'static str {
        "node"
    }

    fn kubeconfig(&self) -> PathBuf {
        self.node().kubeconfig()
    }

    fn shared(&self) -> Option<PathBuf> {
        Some(self.shared.clone())
    }

    fn kubectl(&self) -> Option<PathBuf> {
        kruntimes_node::ensure_kubectl().ok()
    }

    fn shared_mount(&self) -> Option<PathBuf> {
        Some("/shared".into())
    }
}

impl RealNode {
    /// What kubectl says, about the platform's own namespace.
    fn kubectl_says(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut kubectl = self.node().kubectl()?;
        kubectl.args(["--namespace", SYSTEM]).args(arguments);
        Tool(Ok(kubectl)).text()
    }

    /// Processes of the Pod of the scheduler that leads.
    fn leader(&self) -> anyhow::Result<Vec<Process>> {
        let holder = self.kubectl_says(&[
            "get",
            "lease",
            "kruntimes-scheduler",
            "-o",
            "jsonpath={.spec.holderIdentity}",
        ])?;
        let pod = holder.split('_').next().unwrap_or_default();
        let uid = self.kubectl_says(&["get", "pod", pod, "-o", "jsonpath={.metadata.uid}"])?;
        Ok(process::of_cgroup(&format!("pod{uid}")))
    }
}

impl Hurt for RealNode {
    fn kill(&self, victim: Victim) -> anyhow::Result<()> {
        let (name, among) = match victim {
            Victim::Scheduler => ("scheduler", self.leader()?),
            Victim::Controller => ("controller", self.processes()),
            Victim::Runtimed => ("runtimed", self.processes()),
            Victim::Server => ("bash-server", self.processes()),
            Victim::Platform => return self.node().stop("kube-apiserver"),
        };
        let of_name = |among: Vec<Process>| -> Vec<Process> {
            among.into_iter().filter(|process| process.program == name).collect()
        };
        let found = match of_name(among) {
            // The Lease names one that was killed a moment ago: then those that wait for it.
            none if none.is_empty() => of_name(self.processes()),
            found => found,
        };
        process::kill_all(name, &found)
    }

    fn restore(&self) -> anyhow::Result<()> {
        self.node().start("kube-apiserver")
    }

    fn pods_outlive_the_api(&self) -> bool {
        true
    }

    fn pods_share_loopback(&self) -> bool {
        false
    }

    fn workspace(&self, pod_uid: &str) -> PathBuf {
        self.node().empty_dirs(pod_uid).join("workspace")
    }

    fn processes(&self) -> Vec<Process> {
        process::of_cgroup(self.node().cgroup())
    }
}

impl Drop for RealNode {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.guard.take().map(Guard::end) {
            eprintln!("the node was not taken down: {error:#}");
        }
    }
}

/// Takes the node down when its standard input closes: when this ends, also by being killed.
struct Guard(Child);

impl Guard {
    fn start(folder: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", r#"read -r _; exec "$1" down --state-dir "$2""#, "guard"]);
        // In a group of its own: a signal to ours must not end the one that clears up after us.
        command.arg(process::program("node")).arg(folder).process_group(0);
        // Its messages are for whoever reads the test's output; a killed test leaves nobody to read them.
        let guard = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Ok(Self(guard.context("cannot start sh")?))
    }

    fn end(mut self) -> anyhow::Result<()> {
        if let Some(mut stdin) = self.0.stdin.take() {
            stdin.write_all(b"\n")?;
        }
        let status = self.0.wait()?;
        ensure!(status.success(), "`node down` ended with {status}");
        Ok(())
    }
}
