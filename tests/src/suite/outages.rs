//! Faults that only a real cluster has: its own components away, evictions, full volumes, deleted namespaces.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Node;
use kruntimes_api::Reason;
use kruntimes_api::run::Phase;
use kube::api::{Api, EvictParams, ListParams};
use serde_json::json;

use super::faults::{check, locked, nothing_left};
use crate::cluster::{bash, container, eventually, pause, phase};
use crate::node::{RealNode, SYSTEM, chart};
use crate::{Case, Cluster, Hurt, Victim};

/// The cases; one at a time.
pub fn cases(node: &Arc<RealNode>) -> Vec<Case> {
    let on = |name, body: fn(Cluster, Arc<RealNode>) -> Body| {
        let node = node.clone();
        Case::new(name, move |cluster| body(cluster, node.clone()))
    };
    vec![
        on("outage_kubelet_stopped", |c, n| Box::pin(kubelet(c, n))),
        on("outage_etcd_paused_for_20_s", |c, n| Box::pin(etcd(c, n))),
        on("outage_api_server_restarted_under_load", |c, n| Box::pin(api_server(c, n))),
        on("outage_control_plane_rolled_out_under_load", |c, n| Box::pin(rolled_out(c, n))),
        on("outage_namespace_deleted", |c, n| Box::pin(namespace_deleted(c, n))),
        on("outage_pod_evicted", |c, n| Box::pin(evicted(c, n))),
        on("outage_workspace_full", |c, n| Box::pin(workspace_full(c, n))),
        on("outage_two_hundred_cancelled_while_they_run", |c, n| Box::pin(cancelled(c, n))),
    ]
}

type Body = std::pin::Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

/// Submits `count` Runs, each under its lock.
async fn load(cluster: &Cluster, count: usize, seconds: &str) -> anyhow::Result<Vec<String>> {
    let names: Vec<String> = (0..count).map(|i| format!("r-{i:02}")).collect();
    for name in &names {
        cluster.submit(name, locked(cluster, name, seconds)?).await?;
    }
    Ok(names)
}

/// Every one succeeded in its first attempt, and never two at once.
async fn all_well(cluster: &Cluster, names: &[String]) -> anyhow::Result<()> {
    for name in names {
        check(&cluster.end(name).await?, 1).with_context(|| name.clone())?;
    }
    Ok(())
}

/// A node that the cluster takes for lost goes on working: its Runs end well, once.
async fn kubelet(cluster: Cluster, node: Arc<RealNode>) -> anyhow::Result<()> {
    cluster.sharing_pool(1, 4).await?;
    let (flag, inside) = cluster.shared_file("go")?;
    let script = format!("until [ -e {} ]; do sleep 0.2; done", inside.display());
    cluster.script("r", &script).await?;
    cluster.phase("r", Phase::Running).await?;
    node.node().stop("kubelet")?;
    let result = while_kubelet_is_away(&cluster, &flag).await;
    node.node().start("kubelet")?;
    result?;
    cluster.ready("bash", 1).await?;
    let after = cluster.run_script("after", "true").await?;
    ensure!(phase(&after) == Phase::Succeeded, "{after:?}");
    std::fs::remove_file(&flag)?;
    nothing_left(&cluster, node.as_ref()).await
}

async fn while_kubelet_is_away(cluster: &Cluster, flag: &std::path::Path) -> anyhow::Result<()> {
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    eventually("the node to be taken for lost", || async {
        let nodes = nodes.list(&ListParams::default()).await?.items;
        let mut conditions =
            nodes.iter().filter_map(|n| n.status.as_ref()).flat_map(|s| s.conditions.iter().flatten());
        Ok(conditions.any(|c| c.type_ == "Ready" && c.status == "Unknown"))
    })
    .await?;
    eventually("the pool to be taken for not ready", || async {
        let status = cluster.runtimes().get("bash").await?.status.unwrap_or_default();
        Ok(status.ready_replicas.unwrap_or(0) == 0)
    })
    .await?;
    ensure!(phase(&cluster.status("r").await?) == Phase::Running, "nothing ends because a kubelet is silent");
    std::fs::write(flag, "")?;
    let status = cluster.end("r").await?;
    ensure!(phase(&status) == Phase::Succeeded && status.attempt == Some(1), "{status:?}");
    Ok(())
}

async fn etcd(cluster: Cluster, node: Arc<RealNode>) -> anyhow::Result<()> {
    cluster.sharing_pool(2, 4).await?;
    let names = load(&cluster, 20, "1").await?;
    cluster.until(&names[0], |s| phase(s) != Phase::Pending).await?;
    node.node().signal("etcd", kruntimes_node::Signal::STOP)?;
    pause(Duration::from_secs(20)).await;
    node.node().signal("etcd", kruntimes_node::Signal::CONT)?;
    all_well(&cluster, &names).await?;
    nothing_left(&cluster, node.as_ref()).await
}

async fn api_server(cluster: Cluster, node: Arc<RealNode>) -> anyhow::Result<()> {
    cluster.sharing_pool(2, 4).await?;
    let names = load(&cluster, 40, "1").await?;
    for _ in 0..2 {
        cluster.until(&names[0], |s| phase(s) != Phase::Pending).await?;
        node.kill(Victim::Platform)?;
        node.restore()?;
        eventually("the API server to be ready", || async {
            Ok(cluster.client.apiserver_version().await.is_ok())
        })
        .await?;
    }
    all_well(&cluster, &names).await?;
    nothing_left(&cluster, node.as_ref()).await
}

/// New Pods of scheduler and controller while Runs are bound: the lease changes hands, nothing runs twice.
async fn rolled_out(cluster: Cluster, node: Arc<RealNode>) -> anyhow::Result<()> {
    cluster.sharing_pool(2, 4).await?;
    let names = load(&cluster, 40, "1").await?;
    let stamp = jiff::Timestamp::now().as_second().to_string();
    let set =
        format!("scheduler.podAnnotations.rollout=at-{stamp},controller.podAnnotations.rollout=at-{stamp}");
    let chart = chart("kruntimes")?;
    let upgrade =
        node.helm(&["upgrade", "kruntimes", &chart, "--namespace", SYSTEM, "--reuse-values", "--set", &set]);
    let upgrade = upgrade.args(["--wait", "--timeout=2m"]);
    let upgraded = tokio::task::spawn_blocking(move || upgrade.run());
    all_well(&cluster, &names).await?;
    upgraded.await??;
    nothing_left(&cluster, node.as_ref()).await
}

/// Nothing holds the namespace, nothing of its Runs is left, and others are not held up.
async fn namespace_deleted(cluster: Cluster, node: Arc<RealNode>) -> anyhow::Result<()> {
    let doomed = Cluster::new(cluster.platform.clone(), &format!("{}-doomed", cluster.namespace)).await?;
    doomed.bash_pool(2, 4).await?;
    for i in 0..8 {
        doomed.script(&format!("r-{i}"), "sleep 600").await?;
    }
    doomed.phase("r-0", Phase::Running).await?;
    doomed.remove().await?;
    cluster.bash_pool(1, 4).await?;
    let status = cluster.run_script("r", "true").await?;
    ensure!(phase(&status) == Phase::Succeeded, "{status:?}");
    eventually("the namespace to be gone", || async {
        Ok(cluster.namespaces().get_opt(&doomed.namespace).await?.is_none())
    })
    .await?;
    nothing_left(&cluster, node.as_ref()).await
}

/// An eviction is a request to stop: what runs may finish, the pool comes back.
async fn evicted(cluster: Cluster, node: Arc<RealNode>) -> anyhow::Result<()> {
    cluster.sharing_pool(2, 1).await?;
    cluster.submit("r", locked(&cluster, "r", "2")?).await?;
    let pod = cluster.phase("r", Phase::Running).await?.assigned_pod.unwrap_or_default();
    cluster.pods().evict(&pod, &EvictParams::default()).await?;
    check(&cluster.end("r").await?, 1)?;
    cluster.ready("bash", 2).await?;
    nothing_left(&cluster, node.as_ref()).await
}

/// As many processes as there may be in two Pods end at once, and with them whatever they started.
async fn cancelled(cluster: Cluster, node: Arc<RealNode>) -> anyhow::Result<()> {
    const COUNT: usize = 200;
    cluster.bash_pool(2, COUNT as u32 / 2).await?;
    let names: Vec<String> = (0..COUNT).map(|i| format!("r-{i:03}")).collect();
    for name in &names {
        cluster.script(name, "sleep 600 & sleep 600").await?;
    }
    for name in &names {
        cluster.phase(name, Phase::Running).await?;
    }
    try_join_all(names.iter().map(|name| cluster.patch_spec(name, json!({"cancelRequested": true})))).await?;
    for name in &names {
        let status = cluster.end(name).await?;
        ensure!(status.reason == Some(Reason::Cancelled) && status.attempt == Some(1), "{name}: {status:?}");
    }
    nothing_left(&cluster, node.as_ref()).await
}

/// A Run that fills the volume fails by itself; the Pod and the Runs after it do not.
async fn workspace_full(cluster: Cluster, node: Arc<RealNode>) -> anyhow::Result<()> {
    let spec = json!({
        "template": {"spec": {"containers": [container()]}},
        "workspace": {"emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
    });
    cluster.bash_pool_with(1, spec).await?;
    let greedy = "head -c 64M /dev/zero > big; code=$?; sleep 3; exit $code";
    cluster.script("greedy", greedy).await?;
    cluster.phase("greedy", Phase::Running).await?;
    cluster.submit("beside", bash("true")).await?;
    let greedy = cluster.end("greedy").await?;
    ensure!(phase(&greedy) == Phase::Failed, "{greedy:?}");
    ensure!(greedy.log_tail.as_deref().unwrap_or_default().contains("No space left"), "{greedy:?}");
    let beside = cluster.end("beside").await?;
    let told = beside.message.as_deref().unwrap_or_default().to_lowercase();
    ensure!(phase(&beside) == Phase::Succeeded || told.contains("no space left"), "{beside:?}");
    let after = cluster.run_script("after", "head -c 1M /dev/zero > small").await?;
    ensure!(phase(&after) == Phase::Succeeded, "the room is free again: {after:?}");
    nothing_left(&cluster, node.as_ref()).await
}
