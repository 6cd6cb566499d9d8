//! A real Kubernetes node as a place to measure: the project's images, installed by its charts as anybody installs them.

mod soak;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kruntimes_node::{Mode, Node, Programs};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::figures::Figures;
use crate::measure::{self, Place};
use crate::platform::RUNTIME;
use crate::processes::{self, Process};
use crate::requests::Requests;

/// What takes part.
const PROGRAMS: [&str; 4] = ["scheduler", "controller", "runtimed", "bash-server"];
const PODS: f64 = 2.0;
/// How long nothing is submitted while requests are counted: several heartbeats.
const IDLE: Duration = Duration::from_secs(60);
const IMAGES: &str = "image.registry=localhost,image.tag=dev";

#[derive(Debug, clap::Args)]
#[group(id = "node")]
pub struct Args {
    #[command(flatten)]
    measure: measure::Args,
    /// Instead: a steady rate for this long, and what has grown after it
    #[arg(long, value_name = "MINUTES", value_parser = clap::value_parser!(u32).range(1..))]
    soak: Option<u32>,
    /// Runs a second of the soak
    #[arg(long, value_name = "N", default_value_t = 5, requires = "soak", value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
}

pub async fn run(args: Args) -> Result<()> {
    eprintln!("starting a Kubernetes node with 2 Pods x 64 Runs");
    let cluster = Cluster::start()?;
    match args.soak {
        Some(minutes) => soak::run(cluster, minutes, args.rate, args.measure.json.as_deref()).await,
        None => measure::run(cluster, args.measure).await,
    }
}

/// Dropped, it is taken down.
struct Cluster {
    node: Option<Node>,
}

impl Cluster {
    /// The programs are those beside this one: same build, same profile.
    fn start() -> Result<Self> {
        let own = std::env::current_exe()?;
        let programs = own.parent().context("this program lies in no folder")?.to_owned();
        let parent = kruntimes_node::cache_folder()?.join("run");
        std::fs::create_dir_all(&parent)?;
        let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(&parent)?.keep();
        let cluster = Self { node: Some(Node::up(&folder, Mode::Full)?) };
        kruntimes_node::load(cluster.node()?, &PROGRAMS.map(str::to_owned), &Programs::Folder(programs))?;
        let platform = ["install", "kruntimes", "--namespace=kruntimes-system", "--create-namespace"];
        cluster.helm("kruntimes", &platform)?;
        let slots = ["install", RUNTIME, "--namespace=default", "--set=replicas=2,capacity.runs=64"];
        cluster.helm("runtime-pool", &slots)?;
        let ready =
            ["wait", "runtime", RUNTIME, "--for=jsonpath={.status.readyReplicas}=2", "--timeout=120s"];
        run_quietly(cluster.node()?.kubectl()?.args(["--namespace=default"]).args(ready))?;
        Ok(cluster)
    }

    fn node(&self) -> Result<&Node> {
        self.node.as_ref().context("the node is down")
    }

    fn helm(&self, chart: &str, arguments: &[&str]) -> Result<()> {
        let chart: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("charts").join(chart);
        let mut helm = self.node()?.command("helm")?;
        helm.args(arguments).arg(chart).args(["--wait", "--timeout=3m", "--set", IMAGES]);
        run_quietly(&mut helm)
    }
}

impl Place for Cluster {
    const NAME: &'static str = "node";

    async fn client(&self) -> Result<Client> {
        let kubeconfig = Kubeconfig::read_from(self.node()?.kubeconfig())?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Ok(Client::try_from(config)?)
    }

    fn processes(&self) -> Result<Vec<Process>> {
        let node = self.node()?;
        let mut all = processes::of_cgroup(node.cgroup())?;
        let components = node.components().into_iter().filter_map(|(name, process)| Some((name, process?)));
        all.extend(components.filter_map(|(name, process)| processes::named(process.pid, name)));
        Ok(all)
    }

    async fn more(&self, client: &Client, figures: &mut Figures) -> Result<()> {
        eprintln!("idle: the API's requests of {} s", IDLE.as_secs());
        let before = Requests::read(client).await?;
        tokio::time::sleep(IDLE).await;
        let idle = Requests::read(client).await?.since(&before);
        figures.set("idle_api_requests_per_second_per_pod", idle.total() / IDLE.as_secs_f64() / PODS);
        figures.set("idle_api_lists", idle.by_verb().remove("list").unwrap_or_default());
        Ok(())
    }

    async fn around<T>(
        &self,
        client: &Client,
        figures: &mut Figures,
        count: usize,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let before = Requests::read(client).await?;
        let result = work.await?;
        let mut verbs: BTreeMap<String, f64> = Requests::read(client).await?.since(&before).by_verb();
        figures.set("api_lists_under_load", verbs.remove("list").unwrap_or_default());
        for (verb, requests) in verbs {
            figures.set(&format!("api_calls_per_run_{verb}"), requests / count as f64);
        }
        Ok(result)
    }

    fn stop(mut self) -> Result<()> {
        self.node.take().context("the node is down")?.down()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.node.take().map(Node::down) {
            eprintln!("error: {error:#}");
        }
    }
}

fn run_quietly(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
