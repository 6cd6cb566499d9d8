//! What a Runtime asks of the place, what the place gives, and who says so.

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Pod;
use kruntimes_api::run::{IsolationAxis, IsolationLevel, Phase, RunStatus};
use kruntimes_api::{Reason, RuntimeInstance};
use kube::api::{Api, ListParams};
use serde_json::{Value, json};

use crate::cluster::{BASH_IMAGE, bash_with, container, eventually, output, phase, stdout};
use crate::{Case, Cluster};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("isolation_network_none", network_none),
        Case::new("isolation_required_and_missing", required_and_missing),
        Case::new("isolation_required_and_there", required_and_there),
        Case::new("limit_on_memory_ends_the_run_alone", out_of_memory),
        Case::new("limit_on_memory_is_the_request", memory_of_a_request),
        Case::new("limit_on_processes_ends_the_run_alone", pids_exceeded),
        Case::new("limit_on_storage_ends_the_run_alone", storage_exceeded),
        Case::new("preflight_tells_what_a_pool_finds", preflight_tells),
        Case::new("preflight_says_what_is_wrong_and_leaves_nothing", preflight_wrong),
    ]
}

fn axis<'a>(axes: &'a [IsolationAxis], name: &str) -> anyhow::Result<&'a IsolationAxis> {
    axes.iter().find(|axis| axis.axis == name).with_context(|| format!("no axis {name} in {axes:?}"))
}

/// The Pods of a pool.
async fn pods_of(cluster: &Cluster, runtime: &str) -> anyhow::Result<Vec<Pod>> {
    Ok(cluster.pods().list(&ListParams::default().labels(&format!("runtime={runtime}"))).await?.items)
}

/// What the server of a pool's only Pod found.
async fn found(cluster: &Cluster, runtime: &str) -> anyhow::Result<Vec<IsolationAxis>> {
    let api: Api<RuntimeInstance> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let params = ListParams::default().labels(&format!("runtime={runtime}"));
    let told = async || -> anyhow::Result<Vec<IsolationAxis>> {
        let instance = api.list(&params).await?.items.into_iter().next();
        Ok(instance.and_then(|instance| instance.status).unwrap_or_default().isolation)
    };
    eventually("the RuntimeInstance to tell the ladder", || async { Ok(!told().await?.is_empty()) }).await?;
    told().await
}

/// What can be compared: no reasons, which name what was tried.
fn levels(axes: &[IsolationAxis]) -> Vec<(String, IsolationLevel, String)> {
    axes.iter().map(|axis| (axis.axis.clone(), axis.level, axis.mechanism.clone())).collect()
}

/// Runs a script that tries to connect to its own Pod's server, which listens for health checks.
async fn tries_to_connect(cluster: &Cluster, runtime: &str, name: &str) -> anyhow::Result<RunStatus> {
    let pods = pods_of(cluster, runtime).await?;
    let address = pods.first().and_then(|pod| pod.status.as_ref()?.pod_ip.clone()).context("no address")?;
    let script = format!(
        "if (exec 3<>/dev/tcp/{address}/9091) 2>/dev/null; then answer=yes; else answer=no; fi\n\
         echo connected=$answer >> $KRUNTIME_OUTPUTS"
    );
    let status = cluster.run(name, json!({"runtime": runtime, "source": {"inline": script}})).await?;
    ensure!(phase(&status) == Phase::Succeeded, "{status:?}");
    Ok(status)
}

/// Runs of a pool without network reach nothing, those of another do, and each says what held.
async fn network_none(cluster: Cluster) -> anyhow::Result<()> {
    let one = json!({"capacity": {"resources": {"runs": 1}}});
    let mut closed = one.clone();
    closed["isolation"] = json!({"network": "None"});
    cluster.pool("closed", BASH_IMAGE, 1, closed).await?;
    cluster.pool("open", BASH_IMAGE, 1, one).await?;

    let status = tries_to_connect(&cluster, "open", "in-open").await?;
    ensure!(status.outputs.get("connected").map(String::as_str) == Some("yes"), "{status:?}");
    let told = axis(&status.isolation, "network")?;
    ensure!(told.level == IsolationLevel::None && told.mechanism == "shared", "{told:?}");
    ensure!(told.reason.contains("isolation.network Shared"), "{told:?}");

    let status = tries_to_connect(&cluster, "closed", "in-closed").await?;
    let told = axis(&status.isolation, "network")?;
    // Every kernel that the tests meet has at least seccomp.
    ensure!(told.level != IsolationLevel::None, "{told:?}");
    ensure!(status.outputs.get("connected").map(String::as_str) == Some("no"), "{status:?}");
    ensure!(told == axis(&found(&cluster, "closed").await?, "network")?, "the server and the Run agree");
    let shown = stdout(cluster.krt(&["describe", "in-closed"])).await?;
    ensure!(shown.contains(&told.mechanism), "{shown}");
    Ok(())
}

async fn out_of_memory(cluster: Cluster) -> anyhow::Result<()> {
    let script = "(head -c 96M /dev/zero; sleep 600) | tail; sleep 600";
    breaks(&cluster, ("memory", "32Mi"), script, Reason::OutOfMemory).await
}

/// A request for memory is a limit where the Runtime says anything about isolation, and only there.
async fn memory_of_a_request(cluster: Cluster) -> anyhow::Result<()> {
    let one = json!({"capacity": {"resources": {"runs": 2, "memory": "1Gi"}}});
    let mut kept = one.clone();
    kept["isolation"] = json!({});
    cluster.pool("kept", BASH_IMAGE, 1, kept).await?;
    cluster.pool("open", BASH_IMAGE, 1, one).await?;
    let hog = "(head -c 96M /dev/zero; sleep 3) | tail | wc -c";
    let asks = |runtime: &str| json!({"runtime": runtime, "source": {"inline": hog}, "resources": {"requests": {"memory": "32Mi"}}});
    let status = cluster.run("in-kept", asks("kept")).await?;
    ensure!(status.reason == Some(Reason::OutOfMemory), "{status:?}");
    ensure!(status.message.as_deref().is_some_and(|text| text.contains("limit of 32Mi")), "{status:?}");
    let status = cluster.run("in-open", asks("open")).await?;
    ensure!(phase(&status) == Phase::Succeeded, "as in the public API: {status:?}");
    Ok(())
}

async fn pids_exceeded(cluster: Cluster) -> anyhow::Result<()> {
    let script = "for i in $(seq 60); do sleep 600 & done; wait";
    breaks(&cluster, ("pids", "16"), script, Reason::PidsExceeded).await
}

async fn storage_exceeded(cluster: Cluster) -> anyhow::Result<()> {
    let script = "for i in $(seq 9); do head -c 1M /dev/zero > part-$i; done; sleep 600";
    breaks(&cluster, ("ephemeral-storage", "4Mi"), script, Reason::StorageExceeded).await
}

/// Who wants more than its limit ends, with limit and peak in the message; its neighbour goes on.
async fn breaks(
    cluster: &Cluster,
    (resource, limit): (&str, &str),
    script: &str,
    reason: Reason,
) -> anyhow::Result<()> {
    cluster.bash_pool(1, 4).await?;
    cluster.script("neighbour", "sleep 600").await?;
    cluster.phase("neighbour", Phase::Running).await?;
    let limits = json!({"resources": {"limits": {resource: limit}}});
    let status = cluster.run("greedy", bash_with(script, limits)).await?;
    ensure!(phase(&status) == Phase::Failed && status.reason == Some(reason), "{status:?}");
    let message = status.message.clone().unwrap_or_default();
    ensure!(message.contains(&format!("limit of {limit}")), "{message:?}");
    let peak = message.split_once("peak ").context("no peak")?.1;
    ensure!(peak.starts_with(|first: char| first.is_ascii_digit()), "{message:?}");
    let neighbour = cluster.status("neighbour").await?;
    ensure!(phase(&neighbour) == Phase::Running, "the neighbour was hurt: {neighbour:?}");
    Ok(())
}

/// What no place gives to a pool that shares its Pod's network.
fn impossible() -> Value {
    json!({"isolation": {"require": {"network": "Hard"}, "network": "Shared"}})
}

/// A Pod that gives less takes no Runs; Runtime, Pod and `krt runtime describe` name the axis and why.
async fn required_and_missing(cluster: Cluster) -> anyhow::Result<()> {
    cluster.make_pool("strict", BASH_IMAGE, 1, impossible()).await?;
    cluster.submit("waits", json!({"runtime": "strict", "source": {"inline": "true"}})).await?;
    let words =
        ["isolation.require.network", "Hard", "this Pod gives None", "isolation.network Shared wants it"];
    eventually("the Runtime to say what is missing", || async {
        let status = cluster.runtimes().get("strict").await?.status.unwrap_or_default();
        let degraded = status.conditions.iter().find(|c| c.type_ == "Degraded" && c.status == "True");
        let told = degraded.is_some_and(|c| {
            c.reason == "IsolationMissing" && words.iter().all(|word| c.message.contains(word))
        });
        Ok(told && status.ready_replicas.unwrap_or(0) == 0)
    })
    .await?;
    for pod in pods_of(&cluster, "strict").await? {
        let conditions = pod.status.and_then(|status| status.conditions).unwrap_or_default();
        let holds = |kind: &str| conditions.iter().any(|c| c.type_ == kind && c.status == "True");
        ensure!(!holds("Ready") && !holds("kruntimes.io/RuntimedReady"), "{conditions:?}");
    }
    let shown = stdout(cluster.krt(&["runtime", "describe", "strict"])).await?;
    for word in words {
        ensure!(shown.contains(word), "{word:?} in {shown}");
    }
    ensure!(phase(&cluster.status("waits").await?) == Phase::Pending, "a Run was bound to it");
    Ok(())
}

/// What the Pod gives may be required, axis by axis as its server found it, and changes nothing then.
async fn required_and_there(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool(1, 1).await?;
    let axes = found(&cluster, "bash").await?;
    ensure!(axes.len() == 6, "{axes:?}");
    let required: serde_json::Map<String, Value> =
        axes.iter().map(|axis| (axis.axis.clone(), json!(axis.level))).collect();
    let spec = json!({"isolation": {"require": required}, "capacity": {"resources": {"runs": 1}}});
    cluster.pool("exact", BASH_IMAGE, 1, spec).await?;
    let status = cluster.run("r", json!({"runtime": "exact", "source": {"inline": "true"}})).await?;
    ensure!(phase(&status) == Phase::Succeeded, "{status:?}");
    ensure!(levels(&status.isolation) == levels(&axes), "{:?} and {axes:?}", status.isolation);
    Ok(())
}

/// The ladder of `krt preflight -o json`.
pub(super) fn ladder(answer: &Value) -> anyhow::Result<Vec<IsolationAxis>> {
    Ok(serde_json::from_value(answer["found"]["isolation"].clone())?)
}

/// Pods of `krt preflight` that are still there.
pub(super) async fn probes(cluster: &Cluster) -> anyhow::Result<usize> {
    let params = ListParams::default().labels("app.kubernetes.io/name=kruntimes-preflight");
    Ok(cluster.pods().list(&params).await?.items.len())
}

/// What it tells beforehand is what the server of a pool then finds, and nothing is left.
async fn preflight_tells(cluster: Cluster) -> anyhow::Result<()> {
    let asked = stdout(cluster.krt(&["preflight", "--image", BASH_IMAGE, "-o", "json"])).await?;
    let answer: Value = serde_json::from_str(&asked)?;
    ensure!(answer["pod"] == json!({"profile": "restricted", "image": BASH_IMAGE}), "{answer}");
    ensure!(answer["unmet"] == json!([]), "{answer}");
    let closed = json!({"isolation": {"network": "None", "require": {"network": "Hard", "devices": "None"}},
        "capacity": {"resources": {"runs": 1}}});
    cluster.make_pool("closed", BASH_IMAGE, 1, closed).await?;
    let pool = found(&cluster, "closed").await?;
    ensure!(levels(&ladder(&answer)?) == levels(&pool), "{answer}\n{pool:?}");

    let shown = stdout(cluster.krt(&["preflight", "--image", BASH_IMAGE])).await?;
    println!("{shown}");
    for axis in &pool {
        ensure!(shown.contains(&axis.axis) && shown.contains(&axis.mechanism), "{axis:?} in {shown}");
    }
    let remedies = answer["found"]["isolation"].as_array().into_iter().flatten();
    let more = remedies.flat_map(|axis| axis["remedies"].as_array().into_iter().flatten()).count();
    ensure!(shown.contains("What would give more") == (more > 0), "{shown}");

    // As the Pods of a Runtime are, against what it requires.
    let lacks = axis(&pool, "network")?.level != IsolationLevel::Hard;
    let asked = output(cluster.krt(&["preflight", "--runtime", "closed", "-o", "yaml"])).await?;
    let text = String::from_utf8_lossy(&asked.stdout);
    ensure!(asked.status.code() == Some(i32::from(lacks)), "{asked:?}");
    ensure!(text.contains("runtime: closed") && text.contains("axis: privileges"), "{text}");
    let said = String::from_utf8_lossy(&asked.stderr).contains("isolation.require.network");
    ensure!(said == lacks && !text.contains("profile:"), "{asked:?}");
    ensure!(probes(&cluster).await? == 0, "a Pod was left");
    Ok(())
}

/// Every way out removes the Pod and says what to do.
async fn preflight_wrong(cluster: Cluster) -> anyhow::Result<()> {
    let failed = async |arguments: &[&str], code: i32, words: &[&str]| -> anyhow::Result<()> {
        let result = output(cluster.krt(arguments)).await?;
        let error = String::from_utf8_lossy(&result.stderr);
        ensure!(result.status.code() == Some(code), "{arguments:?}: {:?}\n{error}", result.status);
        for word in words {
            ensure!(error.contains(word), "{arguments:?} does not say {word:?}: {error}");
        }
        eventually("the Pod to be gone", || async { Ok(probes(&cluster).await? == 0) }).await
    };
    let missing = ["preflight", "--image", "localhost/no-such-image:1"];
    failed(&missing, 125, &["localhost/no-such-image:1", "hint:", "--image"]).await?;
    failed(&["preflight", "--runtime", "no-such-runtime"], 125, &["no-such-runtime"]).await?;
    failed(&["preflight", "--profile", "cosy"], 125, &["--profile", "user-namespaces"]).await?;

    // A server that never tells.
    let mut container = container();
    container["command"] = json!(["/bin/sh", "-c", "sleep 600"]);
    let spec = json!({"template": {"spec": {"containers": [container]}}, "replicas": 0});
    cluster.make_pool("silent", BASH_IMAGE, 0, spec).await?;
    failed(&["preflight", "--runtime", "silent", "--timeout", "3s"], 124, &["has not told"]).await?;

    let mut command = tokio::process::Command::from(cluster.krt(&["preflight", "--runtime", "silent"]));
    let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn()?;
    eventually("the Pod to be there", || async { Ok(probes(&cluster).await? == 1) }).await?;
    crate::process::signal(i32::try_from(child.id().context("it has ended")?)?, "INT")?;
    let ended = tokio::time::timeout(crate::cluster::PATIENCE, child.wait_with_output()).await??;
    ensure!(ended.status.code() == Some(130), "{ended:?}");
    eventually("the Pod to be gone", || async { Ok(probes(&cluster).await? == 0) }).await
}
