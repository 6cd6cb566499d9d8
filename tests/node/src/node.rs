//! A node's life: up, the handling of its components one by one, down. What is known of it lies in `node.json` in its state folder.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::components::{self, CONTAINERD, NODE};
use crate::host::{self, Namespaces};
use crate::layout::{Layout, Mode};
use crate::process::{Process, run, tail, text, wait_until, write};
use crate::{go, images, other_version, packages, pki};

const STATE: &str = "node.json";
const FORWARDER: &str = "forward";

/// How long a component may take to become ready on a slow, busy machine; seconds are usual.
const START: Duration = Duration::from_secs(120);

/// A node, or an API server alone.
#[derive(Debug, Serialize, Deserialize)]
pub struct Node {
    layout: Layout,
    namespaces: Option<Namespaces>,
    components: BTreeMap<String, Process>,
    /// Folders of the host that were made for this node.
    mount_points: Vec<PathBuf>,
}

/// The state folder when no other is named: one node per user.
pub fn default_folder() -> Result<PathBuf> {
    Ok(go::cache_folder()?.join("run/node"))
}

impl Node {
    /// Starts a node and waits until it is ready. One that is up already in this folder is given back as it is; the rest of
    /// one that was killed is cleared away first.
    ///
    /// # Errors
    /// Missing root rights, Go or Debian packages; a component that does not become ready (its log's end is in the error, the
    /// logs stay until `down`).
    pub fn up(folder: &Path, mode: Mode) -> Result<Self> {
        Self::up_with(folder, mode, || match mode {
            Mode::Full => go::ensure_all(),
            Mode::Api => go::ensure_kubectl().and_then(|_| go::ensure_kubernetes()),
        })
    }

    /// Like [`Self::up`] for an API server alone, of another version of Kubernetes, such as `1.32.13`.
    ///
    /// # Errors
    /// As there, or when that version does not build.
    pub fn up_api(folder: &Path, version: &str) -> Result<Self> {
        Self::up_with(folder, Mode::Api, || {
            go::ensure_kubectl()?;
            other_version::ensure_api_server(version)
        })
    }

    fn up_with(folder: &Path, mode: Mode, programs: impl FnOnce() -> Result<PathBuf>) -> Result<Self> {
        let folder = &std::path::absolute(folder)?;
        if let Some(node) = Self::open(folder)? {
            if node.is_alive() && node.layout.mode == mode {
                return Ok(node);
            }
            node.down()?;
        }
        if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
            bail!("{} is not empty and no node's state folder", folder.display());
        }
        if mode == Mode::Full {
            Self::is_possible()?;
            packages::ensure(packages::NODE)?;
        }
        let (layout, socket) = Layout::choose(mode, folder, programs()?)?;
        fs::create_dir_all(folder.join("logs"))
            .with_context(|| format!("cannot make {}", folder.display()))?;
        pki::make(folder, layout.port)?;
        let mut node =
            Self { layout, namespaces: None, components: BTreeMap::new(), mount_points: Vec::new() };
        node.save()?;
        if let Err(error) = node.start_all(socket) {
            node.end()?;
            return Err(error.context(format!(
                "the node did not come up; its logs are in {}",
                folder.join("logs").display()
            )));
        }
        Ok(node)
    }

    /// The node of a state folder, running or not.
    pub fn open(folder: &Path) -> Result<Option<Self>> {
        let path = std::path::absolute(folder)?.join(STATE);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .with_context(|| format!("cannot read {}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Ends everything and removes it: processes, mounts, interfaces, cgroups, files.
    pub fn down(self) -> Result<()> {
        self.end()?;
        let folder = &self.layout.folder;
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))
    }

    /// Whether the namespaces (of a full node) or any component (of an API server alone) are there.
    pub fn is_alive(&self) -> bool {
        match self.namespaces {
            Some(namespaces) => namespaces.are_alive(),
            None => self.components.values().any(|process| process.is_alive()),
        }
    }

    /// Whether a full node can be started by whoever asks; the error says what is missing.
    pub fn is_possible() -> Result<()> {
        if !rustix::process::geteuid().is_root() {
            bail!("a node makes namespaces and runs containers: it needs root (`--api-only` does not)");
        }
        Ok(())
    }

    /// The cgroup below which all Pods run, in every hierarchy.
    pub fn cgroup(&self) -> &str {
        &self.layout.cgroup
    }

    /// The folder of a Pod's volumes of kind emptyDir, as this machine sees it.
    pub fn empty_dirs(&self, pod_uid: &str) -> PathBuf {
        self.layout.folder.join("var/lib/kubelet/pods").join(pod_uid).join("volumes/kubernetes.io~empty-dir")
    }

    pub fn mode(&self) -> Mode {
        self.layout.mode
    }

    /// For the host and for the inside alike.
    pub fn kubeconfig(&self) -> PathBuf {
        self.layout.kubeconfig()
    }

    /// The folder with one log per component.
    pub fn logs(&self) -> PathBuf {
        self.layout.folder.join("logs")
    }

    /// The components in the order of their start, each with its process if it is alive.
    pub fn components(&self) -> Vec<(&'static str, Option<Process>)> {
        let process = |name: &str| self.components.get(name).copied().filter(|process| process.is_alive());
        self.layout.components().iter().map(|&name| (name, process(name))).collect()
    }

    /// Sends a signal to a component: STOP and CONT pause it.
    pub fn signal(&self, component: &str, signal: Signal) -> Result<()> {
        let process = self.process(component)?;
        match signal {
            Signal::CONT => process.resume(),
            _ => process.signal(signal),
        }
    }

    /// Kills a component and waits until it is gone.
    pub fn stop(&self, component: &str) -> Result<()> {
        self.process(component)?.kill()
    }

    /// Starts a component that was stopped, with the flags it had. Does not wait until it is ready.
    pub fn start(&mut self, component: &str) -> Result<()> {
        if self.components.get(component).is_some_and(|process| process.is_alive()) {
            bail!("{component} is running");
        }
        self.launch(component)?;
        self.save()
    }

    /// A kubectl that talks to this node: arguments are to be added.
    pub fn kubectl(&self) -> Result<Command> {
        let mut command = Command::new(go::ensure_kubectl()?);
        self.environment(&mut command)?;
        Ok(command)
    }

    /// A program to be run inside the node, with kubectl and helm on its path: arguments are to be added.
    pub fn command(&self, program: &str) -> Result<Command> {
        let mut command = match self.namespaces {
            Some(namespaces) => {
                let mut command = namespaces.enter();
                command.arg(format!("--wdns={}", std::env::current_dir()?.display())).args(["--", program]);
                command
            }
            None => Command::new(program),
        };
        self.environment(&mut command)?;
        Ok(command)
    }

    /// containerd's own client, on the images and containers of the kubelet.
    pub(crate) fn ctr(&self) -> Result<Command> {
        let mut command = self.command("ctr")?;
        command.arg(format!("--address={CONTAINERD}")).arg("--namespace=k8s.io");
        Ok(command)
    }

    /// What the API server says when asked whether it is ready.
    pub fn is_ready(&self) -> bool {
        self.kubectl()
            .and_then(|mut kubectl| run(kubectl.args(["get", "--raw=/readyz", "--request-timeout=5s"])))
            .is_ok()
    }

    /// Environment of a client: nothing of this node is written into the user's own folders.
    fn environment(&self, command: &mut Command) -> Result<()> {
        let bin = go::cache_folder()?.join("bin");
        let path = std::env::var_os("PATH").unwrap_or_default();
        command
            .env("PATH", std::env::join_paths(std::iter::once(bin).chain(std::env::split_paths(&path)))?)
            .env("KUBECONFIG", self.kubeconfig())
            .env("KUBECACHEDIR", self.layout.path("client/kube"))
            .env("HELM_CACHE_HOME", self.layout.path("client/helm-cache"))
            .env("HELM_CONFIG_HOME", self.layout.path("client/helm-config"))
            .env("HELM_DATA_HOME", self.layout.path("client/helm-data"));
        Ok(())
    }

    fn start_all(&mut self, socket: TcpListener) -> Result<()> {
        match self.layout.mode {
            Mode::Api => {
                // From here on the port is the API server's to take.
                drop(socket);
                for component in ["etcd", "kube-apiserver"] {
                    self.launch(component)?;
                    self.save()?;
                }
                self.await_api()
            }
            Mode::Full => self.start_full(socket),
        }
    }

    fn start_full(&mut self, socket: TcpListener) -> Result<()> {
        let pause = images::pause_archive()?;
        let snapshotter = if host::can_overlay(&self.layout.folder)? { "overlayfs" } else { "native" };
        components::configure(&self.layout, snapshotter)?;
        self.mount_points = host::make_mount_points()?;
        self.save()?;
        host::make_cgroup(&self.layout.cgroup)?;
        self.namespaces = Some(Namespaces::make(&self.layout.folder, &self.layout.log("init"))?);
        self.save()?;
        self.reserve_port()?;
        self.forward(socket)?;
        for component in ["etcd", "kube-apiserver", "containerd"] {
            self.launch(component)?;
        }
        self.save()?;
        self.await_component("containerd", "containerd to answer", |node| run(node.ctr()?.arg("version")))?;
        run(self.ctr()?.args(["images", "import"]).arg(pause))?;
        self.await_api()?;
        for component in ["kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet"] {
            self.launch(component)?;
        }
        self.save()?;
        self.await_component("kubelet", "the node to be ready", |node| {
            let ready = text(node.kubectl()?.args([
                "get",
                "node",
                NODE,
                "-o",
                r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#,
            ]))?;
            if ready != "True" {
                bail!("the node is not ready: {ready:?}");
            }
            Ok(())
        })?;
        // Pods of the default namespace can be made only once it has its service account.
        self.await_component("kube-controller-manager", "the default service account", |node| {
            run(node.kubectl()?.args(["get", "serviceaccount", "default", "--namespace=default"]))
        })
    }

    /// While the API server is away, its clients try again and again from ports that the kernel chooses. One day it chooses
    /// the very port that they connect to, the client is connected to itself, and the server cannot come back.
    fn reserve_port(&self) -> Result<()> {
        let namespaces = self.namespaces.context("an API server alone shares the machine's ports")?;
        let reserve = format!("echo {} >/proc/sys/net/ipv4/ip_local_reserved_ports", self.layout.port);
        run(namespaces.enter().args(["sh", "-c", &reserve]))
    }

    fn await_api(&self) -> Result<()> {
        self.await_component("kube-apiserver", "the API server to be ready", |node| {
            run(node.kubectl()?.args(["get", "--raw=/readyz", "--request-timeout=5s"]))
        })
    }

    /// Waits until a question is answered without error, or the component that should answer it has ended.
    fn await_component(&self, component: &str, what: &str, ask: impl Fn(&Self) -> Result<()>) -> Result<()> {
        let process = self.process(component)?;
        let mut last = None;
        let waited = wait_until(what, START, || {
            if !process.is_alive() {
                bail!("{component} ended");
            }
            match ask(self) {
                Ok(()) => Ok(Some(())),
                Err(error) => {
                    last = Some(error);
                    Ok(None)
                }
            }
        });
        waited.map_err(|error| {
            let log = fs::read_to_string(self.layout.log(component)).unwrap_or_default();
            let last = last.map(|error| format!("\nlast answer: {error:#}")).unwrap_or_default();
            error.context(format!("{component} failed; the end of its log:\n{}{last}", tail(&log, 15)))
        })
    }

    /// Starts the process that carries connections from the socket, which is the host's, into the node's network.
    fn forward(&mut self, socket: TcpListener) -> Result<()> {
        let namespaces = self.namespaces.context("an API server alone needs no forwarder")?;
        let mut command = namespaces.enter();
        command.arg(go::ensure_helper(FORWARDER)?).arg(format!("127.0.0.1:{}", self.layout.port));
        let child = self.spawn(FORWARDER, command.stdin(OwnedFd::from(socket)))?;
        self.adopt(FORWARDER, &child)
    }

    fn launch(&mut self, component: &str) -> Result<()> {
        let line = components::command_line(component, &self.layout)?;
        let mut command = match self.namespaces {
            Some(namespaces) => {
                let mut command = namespaces.enter();
                command.args(&line);
                command
            }
            None => {
                let mut command = Command::new(&line[0]);
                command.args(&line[1..]);
                command
            }
        };
        let child = self.spawn(component, command.stdin(Stdio::null()))?;
        self.adopt(component, &child)
    }

    /// Starts a process in a group of its own, so that a Ctrl-C at the terminal is not for it. Its log is appended to.
    fn spawn(&self, name: &str, command: &mut Command) -> Result<Child> {
        let path = self.layout.log(name);
        let log = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        command
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name}"))
    }

    /// Remembers the component's process: the started one, or its child where `nsenter` stands before it.
    fn adopt(&mut self, name: &str, child: &Child) -> Result<()> {
        let started = Process::of(child.id());
        let process = match self.namespaces {
            None => started,
            Some(_) => wait_until(name, Duration::from_secs(10), || match started {
                Some(started) if started.is_alive() => Ok(started.child()),
                _ => bail!("{name} ended at once"),
            })
            .map(Some)?,
        };
        let log = || tail(&fs::read_to_string(self.layout.log(name)).unwrap_or_default(), 5);
        let process = process.with_context(|| format!("{name} ended at once: {}", log()))?;
        self.components.insert(name.to_owned(), process);
        Ok(())
    }

    fn process(&self, component: &str) -> Result<Process> {
        let names = self.layout.components().join(", ");
        self.components
            .get(component)
            .copied()
            .with_context(|| format!("no component is called {component:?}: there are {names}"))
    }

    /// Ends all processes and removes what lies outside the state folder.
    fn end(&self) -> Result<()> {
        for process in self.components.values() {
            process.resume()?;
        }
        if let Some(namespaces) = self.namespaces {
            namespaces.end()?;
        }
        for process in self.components.values() {
            process.kill()?;
        }
        if self.layout.mode == Mode::Full {
            host::remove_cgroup(&self.layout.cgroup)?;
        }
        for folder in &self.mount_points {
            if folder.exists() {
                fs::remove_dir(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
            }
        }
        Ok(())
    }

    /// Writes what is known into the state folder; `pids` is for those who cannot read JSON.
    fn save(&self) -> Result<()> {
        let pids: Vec<String> = self.components.values().map(|process| process.pid.to_string()).collect();
        write(&self.layout.folder.join("pids"), pids.join(" "))?;
        let path = self.layout.folder.join(STATE);
        let new = path.with_extension("json.new");
        write(&new, serde_json::to_vec_pretty(self)?)?;
        fs::rename(&new, &path).with_context(|| format!("cannot write {}", path.display()))
    }
}
