//! One trace per Run, from `krt` to the process.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, ensure};
use kruntimes_api::Run;
use kruntimes_api::names::{OTLP_ENDPOINT_ENV, TRACEPARENT_ANNOTATION};
use kruntimes_api::run::Phase;
use kube::api::PostParams;
use serde_json::json;

use crate::cluster::{bash, container, eventually, output, phase, stdout};
use crate::collector::{Collector, Told, tree};
use crate::{Case, Cluster};

/// An address where nobody listens.
const NOBODY: &str = "http://127.0.0.1:9";
/// Where the caller of krt is.
const CALLER: (&str, &str) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
/// Every span of a Run that krt submits.
const ALL: [&str; 7] = [
    "krt run",
    "scheduler bind",
    "runtimed attempt",
    "runtimed prepare",
    "runtimed execute",
    "runtimed report",
    "bash-server process",
];

/// Cases on a platform whose programs know of `collector`.
pub fn cases(collector: &Arc<Collector>) -> Vec<Case> {
    let [krt, other, away, mute] = std::array::from_fn(|_| Arc::clone(collector));
    vec![
        Case::new("traces_of_krt_reach_the_process", move |cluster| of_krt(cluster, Arc::clone(&krt))),
        Case::new("traces_without_krt_are_the_runs_own", move |cluster| own(cluster, Arc::clone(&other))),
        Case::new("traces_without_a_collector_change_nothing", move |cluster| {
            away_from(cluster, Arc::clone(&away))
        }),
        Case::new("traces_of_a_silent_collector_hold_nothing_up", move |cluster| {
            silent(cluster, Arc::clone(&mute))
        }),
    ]
}

/// `krt run` of a script, told of the collector.
fn run(cluster: &Cluster, collector: &Collector, script: &str) -> Command {
    let mut command = cluster.krt(&["run", "-r", "bash", "--env", "SECRET=hidden", "-c", script]);
    command.env(OTLP_ENDPOINT_ENV, collector.address());
    command
}

/// The spans of a trace by program and name, once all that are `wanted` are there.
async fn spans(
    collector: &Collector,
    trace: &str,
    wanted: &[&str],
) -> anyhow::Result<BTreeMap<String, Told>> {
    let by_name = || {
        let told = collector.trace(trace);
        told.into_iter()
            .map(|span| (format!("{} {}", span.service, span.name), span))
            .collect::<BTreeMap<_, _>>()
    };
    let all =
        eventually("every span", || async { Ok(wanted.iter().all(|name| by_name().contains_key(*name))) });
    all.await.with_context(|| format!("trace {trace}:\n{}", tree(&collector.trace(trace))))?;
    let told = by_name();
    ensure!(
        told.len() == wanted.len() && collector.trace(trace).len() == wanted.len(),
        "each once: {told:?}"
    );
    Ok(told)
}

fn below(told: &BTreeMap<String, Told>, pairs: &[(&str, &str)]) -> anyhow::Result<()> {
    for (child, parent) in pairs {
        let (child, parent) = (&told[*child], &told[*parent]);
        ensure!(child.parent == parent.id, "{child:?} is not below {parent:?}");
    }
    Ok(())
}

const BELOW_ATTEMPT: [(&str, &str); 4] = [
    ("runtimed prepare", "runtimed attempt"),
    ("runtimed execute", "runtimed attempt"),
    ("runtimed report", "runtimed attempt"),
    ("bash-server process", "runtimed execute"),
];

async fn of_krt(cluster: Cluster, collector: Arc<Collector>) -> anyhow::Result<()> {
    let capacity = json!({"capacity": {"resources": {"runs": 4, "example.com/licence": 1}}});
    cluster.bash_pool_with(1, capacity).await?;
    let (trace, caller) = CALLER;
    let mut command = run(&cluster, &collector, "echo $TRACEPARENT; env | grep -c OTEL; sleep 0.2");
    command.args(["--request", "example.com/licence=1"]);
    command.env("TRACEPARENT", format!("00-{trace}-{caller}-01"));
    let said = stdout(command).await?;
    let told = spans(&collector, trace, &ALL).await?;
    print!("{}", tree(&collector.trace(trace)));
    ensure!(told["krt run"].parent == caller, "{:?}", told["krt run"]);
    below(&told, &[("scheduler bind", "krt run"), ("runtimed attempt", "krt run")])?;
    below(&told, &BELOW_ATTEMPT)?;
    let process = &told["bash-server process"];
    ensure!(said == format!("00-{trace}-{}-01\n0\n", process.id), "the process: {said:?}, {process:?}");
    ensure!(process.attributes["process.exit.code"] == "0", "{process:?}");
    for figure in ["wall_seconds", "example.com/licence_held_seconds"] {
        let told = &process.attributes[&format!("kruntimes.usage.{figure}")];
        ensure!(told.parse::<f64>()? >= 0.2, "{figure}: {process:?}");
    }
    ensure!(told["runtimed attempt"].attributes["kruntimes.reason"] == "Completed", "{told:?}");
    for span in told.values() {
        ensure!(span.times.0 <= span.times.1, "{span:?}");
        let text = format!("{span:?}");
        ensure!(
            !text.contains("hidden") && !text.contains("echo"),
            "source and environment are not told: {text}"
        );
    }
    let root = &told["krt run"].attributes;
    ensure!(
        told.values()
            .filter(|span| span.attributes.contains_key("kruntimes.run.uid"))
            .all(|span| { span.attributes["kruntimes.run.uid"] == root["kruntimes.run.uid"] })
    );
    let mut own = run(&cluster, &collector, "echo $TRACEPARENT; exit 3");
    own.args(["--env", "TRACEPARENT=mine"]);
    let own = output(own).await?;
    ensure!(own.status.code() == Some(3) && own.stdout == b"mine\n", "the Run's own wins: {own:?}");
    Ok(())
}

async fn own(cluster: Cluster, collector: Arc<Collector>) -> anyhow::Result<()> {
    cluster.bash_pool(1, 4).await?;
    let words = [("plain", None), ("malformed", Some("00-nonsense"))];
    for (name, word) in words {
        let annotations: BTreeMap<_, _> =
            word.map(|word| (TRACEPARENT_ANNOTATION, word)).into_iter().collect();
        let run: Run = serde_json::from_value(json!({
            "apiVersion": "kruntimes.io/v1alpha1", "kind": "Run", "spec": bash("exit 4"),
            "metadata": {"name": name, "annotations": annotations},
        }))?;
        let created = cluster.runs().create(&PostParams::default(), &run).await?;
        ensure!(phase(&cluster.end(name).await?) == Phase::Failed, "{name}");
        let trace = created.metadata.uid.context("a uid")?.replace('-', "");
        let told = spans(&collector, &trace, &ALL[1..]).await?;
        for root in ["scheduler bind", "runtimed attempt"] {
            ensure!(told[root].parent.is_empty(), "{name}: {:?}", told[root]);
        }
        below(&told, &BELOW_ATTEMPT)?;
        ensure!(told["runtimed attempt"].failure == "NonZeroExit", "{:?}", told["runtimed attempt"]);
        let after = cluster.runs().get(name).await?.metadata.annotations.unwrap_or_default();
        ensure!(after.get(TRACEPARENT_ANNOTATION).map(String::as_str) == word, "nobody writes it: {after:?}");
    }
    // What decides is the caller's.
    let (_, caller) = CALLER;
    let trace = "1af7651916cd43dd8448eb211c80319c";
    let mut command = run(&cluster, &collector, "echo $TRACEPARENT");
    command.env("TRACEPARENT", format!("00-{trace}-{caller}-00"));
    let said = stdout(command).await?;
    ensure!(said.starts_with(&format!("00-{trace}-")) && said.ends_with("-00\n"), "{said:?}");
    let mut next = run(&cluster, &collector, "true");
    next.env("TRACEPARENT", format!("00-{}-{caller}-01", trace.replace("1af", "2af")));
    stdout(next).await?;
    spans(&collector, &trace.replace("1af", "2af"), &ALL).await?;
    ensure!(collector.trace(trace).is_empty(), "a trace that nobody wants is told by nobody");
    Ok(())
}

/// The author of the Runtime names another collector, where nobody is; so does whoever starts krt.
async fn away_from(cluster: Cluster, collector: Arc<Collector>) -> anyhow::Result<()> {
    let mut container = container();
    container["env"] = json!([{"name": OTLP_ENDPOINT_ENV, "value": NOBODY}]);
    let template = json!({"spec": {"terminationGracePeriodSeconds": 5, "containers": [container]}});
    cluster.bash_pool_with(1, json!({"template": template})).await?;
    for (trace, endpoint) in
        [("3af7651916cd43dd8448eb211c80319c", NOBODY), ("4af7651916cd43dd8448eb211c80319c", "nonsense")]
    {
        let mut command = run(&cluster, &collector, "echo $TRACEPARENT");
        command.env(OTLP_ENDPOINT_ENV, endpoint).env("TRACEPARENT", format!("00-{trace}-{}-01", CALLER.1));
        let said = output(command).await?;
        ensure!(said.status.success() && said.stderr.ends_with(b"exit 0)\n"), "{said:?}");
        ensure!(said.stdout.starts_with(format!("00-{trace}-").as_bytes()), "{said:?}");
        let told = spans(&collector, trace, &["scheduler bind"]).await?;
        ensure!(!told["scheduler bind"].parent.is_empty(), "{told:?}");
    }
    Ok(())
}

async fn silent(cluster: Cluster, collector: Arc<Collector>) -> anyhow::Result<()> {
    cluster.bash_pool(1, 4).await?;
    let trace = |first: usize| format!("{first:x}bf7651916cd43dd8448eb211c80319c");
    let traced = |first: usize| {
        let mut command = run(&cluster, &collector, "echo done");
        command.env("TRACEPARENT", format!("00-{}-{}-01", trace(first), CALLER.1));
        command
    };
    collector.mute(true);
    for first in 0..4 {
        ensure!(stdout(traced(first)).await? == "done\n", "Run {first}");
    }
    ensure!((0..4).all(|first| collector.trace(&trace(first)).is_empty()), "it was silent");
    collector.mute(false);
    ensure!(stdout(traced(5)).await? == "done\n");
    spans(&collector, &trace(5), &ALL).await?;
    Ok(())
}
