//! The control plane alone at a size that no machine of ours has Pods for: the API server, etcd, scheduler and controller
//! are real; Pods and what runs in them are simulated.
//!
//! First the Runs are queued while no Pod takes any (memory by length of the queue), then the Pods become ready and the
//! queue drains (rate, and whether it falls as the queue gets shorter or was long). Halfway ten Runs come in a namespace of
//! their own, behind thousands of others: how long they take, beside the same ten on an idle platform, is the fairness.

mod pods;
mod programs;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kruntimes_api::{Run, RunSpec, Runtime, crds, run::Source};
use kube::api::{ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt as _};
use serde_json::json;

use crate::figures::{Figures, percentiles};
use crate::measure::{MIB, write_down};
use crate::processes::{self, Sample};
use pods::Fleet;
use programs::Programs;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write the figures as one flat JSON object
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Simulated Pods
    #[arg(long, value_name = "N", default_value_t = 200)]
    pods: usize,
    /// Runs that are queued
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    runs: usize,
    /// Runs that a Pod takes at once
    #[arg(long, value_name = "N", default_value_t = 8)]
    slots: usize,
}

/// Clients that submit at once.
const SUBMITTERS: usize = 32;
/// Share of the Runs in the first namespace; the others share the rest.
const BIG: (usize, usize) = (1, 2);
/// Namespaces with a queue, each with this many Runtimes.
const NAMESPACES: [&str; 4] = ["big", "second", "third", "fourth"];
const RUNTIMES: [&str; 2] = ["alpha", "beta"];
/// The namespace that comes late with a few Runs.
const SMALL: &str = "small";
const FEW: usize = 10;
/// Lengths of the queue at which memory is read, in quarters of the whole.
const QUARTERS: usize = 4;
const DEADLINE: Duration = Duration::from_secs(1200);
/// Without a single end for so long, the queue does not drain.
const STALL: Duration = Duration::from_secs(90);

pub async fn run(args: Args) -> Result<()> {
    eprintln!("starting an API server");
    let server = kruntimes_node::ApiServer::start()?;
    let clients = clients(&server, 10).await?;
    let client = clients[0].clone();
    let pools: Vec<(&str, &str)> = NAMESPACES
        .iter()
        .flat_map(|ns| RUNTIMES.map(|runtime| (*ns, runtime)))
        .chain([(SMALL, "alpha")])
        .collect();
    prepare(&client, &pools, args.pods, args.slots).await?;
    let programs = Programs::start(server.kubeconfig())?;
    let api_processes = server.processes();
    let processes = || -> Vec<processes::Process> {
        let mut all = programs.processes();
        all.extend(api_processes.iter().filter_map(|(name, pid)| processes::named(*pid, name)));
        all
    };
    let mut figures = Figures::default();
    figures.set("pods", args.pods as f64);
    figures.set("queued_runs", args.runs as f64);
    figures.set("slots", (args.pods * args.slots) as f64);

    eprintln!("{} Pods, and {FEW} Runs on the idle platform", args.pods);
    let fleet = Fleet::start(&clients, &pools, args.pods, args.slots).await?;
    fleet.ready(true);
    counted(&client, &pools, true).await?;
    let alone = few(&client, &fleet, "alone").await?;
    fleet.ready(false);
    counted(&client, &pools, false).await?;
    figures.set_percentiles("few_runs_alone", percentiles(alone));
    let wanted = |part: &str| part == "scheduler" || part == "controller";
    for (part, bytes) in processes::memory(&processes()).into_iter().filter(|(part, _)| wanted(part)) {
        figures.set(&format!("memory_{part}_0_queued_mib"), bytes / MIB);
    }

    queue(&client, &args, &mut figures, &processes).await?;
    drain(&client, &fleet, &args, &mut figures, &processes).await?;
    if let Some(error) = fleet.trouble() {
        bail!("a simulated Pod failed: {error}");
    }
    let command =
        format!("cargo xtask bench scale --pods {} --runs {} --slots {}", args.pods, args.runs, args.slots);
    write_down(&figures, &command, args.json.as_deref())
}

/// Several, each with connections of its own: a watch holds a stream of one.
async fn clients(server: &kruntimes_node::ApiServer, count: usize) -> Result<Vec<Client>> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let kubeconfig = Kubeconfig::read_from(server.kubeconfig())?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        clients.push(Client::try_from(config)?);
    }
    Ok(clients)
}

/// Kinds, namespaces and Runtimes.
async fn prepare(client: &Client, pools: &[(&str, &str)], pods: usize, slots: usize) -> Result<()> {
    let kinds: Api<CustomResourceDefinition> = Api::all(client.clone());
    for kind in crds::all()? {
        kinds.create(&PostParams::default(), &kind).await?;
        let established = kube::runtime::conditions::is_crd_established();
        let name = kind.name_any();
        let wait = kube::runtime::wait::await_condition(kinds.clone(), &name, established);
        tokio::time::timeout(Duration::from_secs(60), wait).await.context("the kinds are not served")??;
    }
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for name in NAMESPACES.iter().chain([&SMALL]) {
        let namespace = json!({"metadata": {"name": name}});
        namespaces.create(&PostParams::default(), &serde_json::from_value(namespace)?).await?;
    }
    for (namespace, name) in pools {
        let runtime: Runtime = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {
                "replicas": pods / pools.len(),
                "capacity": {"resources": {"runs": slots}},
                "template": {"spec": {"containers": [{"name": "runtime", "image": "simulated"}]}},
            },
        }))?;
        let api: Api<Runtime> = Api::namespaced(client.clone(), namespace);
        // The kind may be served a moment before it can be written.
        let start = Instant::now();
        while let Err(error) = api.create(&PostParams::default(), &runtime).await {
            if start.elapsed() > Duration::from_secs(30) {
                return Err(error).context("the Runtimes cannot be created");
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    Ok(())
}

/// Until the controller counts ready Pods in every pool, or none in any, which is after the scheduler could have seen it.
async fn counted(client: &Client, pools: &[(&str, &str)], ready: bool) -> Result<()> {
    for (namespace, name) in pools {
        let api: Api<Runtime> = Api::namespaced(client.clone(), namespace);
        let is_so = |runtime: Option<&Runtime>| {
            let count = runtime.and_then(|r| r.status.as_ref()?.ready_replicas);
            (count.unwrap_or(0) > 0) == ready
        };
        let wait = kube::runtime::wait::await_condition(api, name, is_so);
        let waited = tokio::time::timeout(Duration::from_secs(120), wait).await;
        waited.with_context(|| format!("the Pods of {namespace}/{name} are not counted as they are"))??;
    }
    Ok(())
}

async fn submit(client: &Client, namespace: &str, runtime: &str, name: &str) -> Result<()> {
    let source = Source { inline: Some(":".to_owned()), ..Source::default() };
    let spec = RunSpec { runtime: runtime.to_owned(), source: Some(source), ..RunSpec::default() };
    let api: Api<Run> = Api::namespaced(client.clone(), namespace);
    let created = api.create(&PostParams::default(), &Run::new(name, spec)).await;
    created.with_context(|| format!("cannot create {namespace}/{name}"))?;
    Ok(())
}

/// Submits [`FEW`] Runs of the small namespace at once; milliseconds of each from before its create to its end.
async fn few(client: &Client, fleet: &Fleet, prefix: &str) -> Result<Vec<f64>> {
    let ends = fleet.ends();
    let all = stream::iter((0..FEW).map(|i| {
        let name = format!("{prefix}-{i}");
        let end = ends.expect(&name);
        async move {
            let start = Instant::now();
            submit(client, SMALL, "alpha", &name).await?;
            tokio::time::timeout(DEADLINE, end).await.with_context(|| format!("{name} has not ended"))??;
            anyhow::Ok(start.elapsed().as_secs_f64() * 1e3)
        }
    }));
    all.buffer_unordered(FEW).try_collect().await
}

/// Queues everything while no Pod takes any Run.
async fn queue(
    client: &Client,
    args: &Args,
    figures: &mut Figures,
    processes: &impl Fn() -> Vec<processes::Process>,
) -> Result<()> {
    let places: Vec<(&str, &str)> = (0..args.runs)
        .map(|i| {
            let namespace = if i % BIG.1 < BIG.0 { NAMESPACES[0] } else { NAMESPACES[1 + i / BIG.1 % 3] };
            (namespace, RUNTIMES[i / 7 % 2])
        })
        .collect();
    let quarter = args.runs / QUARTERS;
    for part in 0..QUARTERS {
        let range = part * quarter..if part + 1 == QUARTERS { args.runs } else { (part + 1) * quarter };
        eprintln!("queueing {} of {}", range.end, args.runs);
        let (start, before) = (Instant::now(), Sample::take(&processes()));
        stream::iter(range.clone().map(|i| (i, places[i])))
            .map(|(i, (namespace, runtime))| async move {
                submit(client, namespace, runtime, &format!("r-{i}")).await
            })
            .buffer_unordered(SUBMITTERS)
            .try_collect::<()>()
            .await?;
        let rate = range.len() as f64 / start.elapsed().as_secs_f64();
        // What is behind the last create is on its way to the watches.
        tokio::time::sleep(Duration::from_secs(2)).await;
        figures.set(&format!("creates_per_second_q{}", part + 1), rate);
        let now = processes();
        for (name, seconds) in Sample::take(&now).since(&before) {
            figures
                .set(&format!("cpu_ms_per_create_{name}_q{}", part + 1), seconds * 1e3 / range.len() as f64);
        }
        for (name, bytes) in processes::memory(&now) {
            figures.set(&format!("memory_{name}_q{}_queued_mib", part + 1), bytes / MIB);
        }
    }
    Ok(())
}

/// The Runs whose end no Pod has seen, in words: how many by phase and reason, with an example of each.
async fn unfinished(client: &Client, fleet: &Fleet) -> Result<String> {
    let runs: Api<Run> = Api::all(client.clone());
    let mut found = BTreeMap::<String, (usize, String)>::new();
    for run in runs.list(&ListParams::default()).await? {
        let status = run.status.clone().unwrap_or_default();
        let phase = status.phase.unwrap_or_default();
        if !fleet.has_seen(&run) {
            let kind = format!("{phase} {}", status.reason.map_or("", |reason| reason.as_str()));
            let pod = status.assigned_pod.unwrap_or_default();
            let example = format!("{}/{} on {pod:?}", run.namespace().unwrap_or_default(), run.name_any());
            found.entry(kind).or_insert((0, example)).0 += 1;
        }
    }
    let words = found.iter().map(|(kind, (count, example))| format!("{count} {kind} (as {example})"));
    Ok(words.collect::<Vec<_>>().join(", "))
}

/// Lets the Pods take Runs until all have ended.
async fn drain(
    client: &Client,
    fleet: &Fleet,
    args: &Args,
    figures: &mut Figures,
    processes: &impl Fn() -> Vec<processes::Process>,
) -> Result<()> {
    eprintln!("the Pods become ready");
    let before = Sample::take(&processes());
    let start = Instant::now();
    fleet.ready(true);
    let fair = Arc::new(AtomicUsize::new(0));
    let mut marks = Vec::new();
    let mut late = None;
    let (mut before_this, mut moved) = (0, Instant::now());
    loop {
        let ended = fleet.finished() - FEW - fair.load(Ordering::Relaxed);
        if ended != before_this {
            (before_this, moved) = (ended, Instant::now());
        }
        while marks.len() < QUARTERS && ended >= args.runs * (marks.len() + 1) / QUARTERS {
            marks.push(start.elapsed().as_secs_f64());
            eprintln!("{ended} have ended after {:.0} s", start.elapsed().as_secs_f64());
        }
        if marks.len() == QUARTERS {
            break;
        }
        if late.is_none() && ended >= args.runs / 8 {
            eprintln!("{FEW} Runs of another namespace, behind {}", args.runs - ended);
            figures.set("few_runs_behind", (args.runs - ended) as f64);
            late = Some(few(client, fleet, "late").await?);
            fair.store(FEW, Ordering::Relaxed);
        }
        if let Some(error) = fleet.trouble() {
            bail!("a simulated Pod failed when {ended} of {} Runs had ended: {error}", args.runs);
        }
        if start.elapsed() > DEADLINE || moved.elapsed() > STALL {
            let left = unfinished(client, fleet).await?;
            bail!(
                "{ended} of {} Runs have ended after {:.0} s, the last {:.0} s ago; not seen: {left}",
                args.runs,
                start.elapsed().as_secs_f64(),
                moved.elapsed().as_secs_f64()
            );
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let took = start.elapsed().as_secs_f64();
    figures.set("drain_seconds", took);
    figures.set("runs_per_second", args.runs as f64 / took);
    let mut last = 0.0;
    for (part, mark) in marks.iter().enumerate() {
        let rate = args.runs as f64 / QUARTERS as f64 / (mark - last);
        figures.set(&format!("runs_per_second_q{}", part + 1), rate);
        last = *mark;
    }
    let late = percentiles(late.context("the queue was too short for a late comer")?);
    figures.set_percentiles("few_runs_late", late);
    let now = processes();
    for (name, seconds) in Sample::take(&now).since(&before) {
        figures.set(&format!("cpu_ms_per_run_{name}"), seconds * 1e3 / args.runs as f64);
    }
    for (name, bytes) in processes::memory(&now) {
        figures.set(&format!("memory_{name}_drained_mib"), bytes / MIB);
    }
    for (place, rate) in fleet.shares(start) {
        figures.set(&format!("first_half_share_{place}"), rate);
    }
    Ok(())
}
