//! What an API server does on a bad day, played by the local one, and more hands than there should be.
//!
//! The Runs hold file locks as those of [`super::faults`]: one that ran twice at once would end with 99.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures::future::try_join_all;
use kruntimes_api::run::Phase;
use serde_json::{Value, json};

use super::faults::{check, locked};
use crate::cluster::{pause, phase};
use crate::{Case, Cluster, process};

/// Runs of which one is so short that only three requests are needed.
const TRIES: usize = 20;
/// Runs of each case.
const RUNS: usize = 24;

/// The cases of a place whose API plays faults (`/debug/faults`).
pub fn cases() -> Vec<Case> {
    vec![
        Case::new("lifecycle_three_requests", three_requests),
        Case::new("fault_api_conflicts", conflicts),
        Case::new("fault_api_errors", errors),
        Case::new("fault_api_slow", slow),
        Case::new("fault_watches_closed", watches_closed),
        Case::new("fault_history_too_old", too_old),
        Case::new("fault_two_schedulers", two_schedulers),
    ]
}

async fn debug(cluster: &Cluster, method: &str, path: &str, body: &Value) -> anyhow::Result<()> {
    let request = http::Request::builder()
        .method(method)
        .uri(format!("/debug/faults{path}"))
        .header("content-type", "application/json")
        .body(serde_json::to_vec(body)?)?;
    cluster.client.request_text(request).await.with_context(|| format!("{method} /debug/faults{path}"))?;
    Ok(())
}

/// Requests so far that write a Run, whatever became of them.
async fn writes(cluster: &Cluster) -> anyhow::Result<u64> {
    let request = http::Request::get("/debug/requests").body(Vec::new())?;
    let counts: BTreeMap<String, BTreeMap<String, u64>> = cluster.client.request(request).await?;
    let is_write = |request: &str| {
        let (verb, resource) = request.split_once(' ').unwrap_or_default();
        matches!(verb, "create" | "update" | "patch") && matches!(resource, "runs" | "runs/status")
    };
    Ok(counts.values().flatten().filter(|(request, _)| is_write(request)).map(|(_, count)| count).sum())
}

/// Create, bind and finish, and not one request more: no conflict, and nothing that changes nothing.
async fn three_requests(cluster: Cluster) -> anyhow::Result<()> {
    cluster.sharing_pool(1, 4).await?;
    cluster.run_script("warm", "true").await?;
    let mut all = Vec::new();
    for index in 0..TRIES {
        let before = writes(&cluster).await?;
        let status = cluster.run_script(&format!("r-{index:02}"), "true").await?;
        ensure!(phase(&status) == Phase::Succeeded, "{status:?}");
        let count = writes(&cluster).await? - before;
        // `Running` is written when the work outlives the coalescing window, as on a loaded machine.
        ensure!((3..=4).contains(&count), "{count} requests for one Run");
        all.push(count);
        if count == 3 {
            return Ok(());
        }
    }
    bail!("no short Run of {TRIES} took three requests: {all:?}")
}

async fn submit(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    cluster.sharing_pool(2, 4).await?;
    let names: Vec<String> = (0..RUNS).map(|i| format!("r-{i:02}")).collect();
    for name in &names {
        cluster.submit(name, locked(cluster, name, "0.3")?).await?;
    }
    Ok(names)
}

/// Every Run ran once and succeeded.
async fn all_well(cluster: &Cluster, names: &[String]) -> anyhow::Result<()> {
    try_join_all(names.iter().map(|name| async move {
        let status = cluster.end(name).await?;
        check(&status, 1).with_context(|| name.clone())?;
        anyhow::Ok(())
    }))
    .await?;
    Ok(())
}

/// Every third write of a status or so is refused as stale.
async fn conflicts(cluster: Cluster) -> anyhow::Result<()> {
    debug(&cluster, "PUT", "", &json!({"conflicts": RUNS, "resource": "runs/status"})).await?;
    let names = submit(&cluster).await?;
    all_well(&cluster, &names).await
}

async fn errors(cluster: Cluster) -> anyhow::Result<()> {
    let names = submit(&cluster).await?;
    debug(&cluster, "PUT", "", &json!({"errors": RUNS, "resource": "runs/status"})).await?;
    all_well(&cluster, &names).await
}

async fn slow(cluster: Cluster) -> anyhow::Result<()> {
    debug(&cluster, "PUT", "", &json!({"latencyMilliseconds": 300})).await?;
    let worked = async {
        let names = submit(&cluster).await?;
        all_well(&cluster, &names).await
    };
    let worked = worked.await;
    debug(&cluster, "PUT", "", &json!({})).await?;
    worked
}

async fn watches_closed(cluster: Cluster) -> anyhow::Result<()> {
    let names = submit(&cluster).await?;
    for _ in 0..10 {
        debug(&cluster, "POST", "/close-watches", &json!({})).await?;
        pause(Duration::from_millis(150)).await;
    }
    all_well(&cluster, &names).await
}

/// The place from which a watch would go on is no longer known: everything is listed anew.
async fn too_old(cluster: Cluster) -> anyhow::Result<()> {
    let names = submit(&cluster).await?;
    for _ in 0..4 {
        debug(&cluster, "PUT", "", &json!({"expired": 8})).await?;
        debug(&cluster, "POST", "/forget-history", &json!({})).await?;
        debug(&cluster, "POST", "/close-watches", &json!({})).await?;
        pause(Duration::from_millis(300)).await;
    }
    debug(&cluster, "PUT", "", &json!({})).await?;
    all_well(&cluster, &names).await
}

/// A second scheduler that does not ask who leads decides on the same Runs.
async fn two_schedulers(cluster: Cluster) -> anyhow::Result<()> {
    struct Ended(Child);
    impl Drop for Ended {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let second = Command::new(process::program("scheduler"))
        .arg("--kubeconfig")
        .arg(cluster.platform.kubeconfig())
        .args(["--metrics-bind-address=0", "--health-probe-bind-address=0"])
        .args(["--namespace", &cluster.namespace])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("starting a second scheduler")?;
    let mut second = Ended(second);
    let names = submit(&cluster).await?;
    all_well(&cluster, &names).await?;
    ensure!(second.0.try_wait()?.is_none(), "the second scheduler has ended by itself");
    // Each may fill a Pod that the other fills too: what its server has no room for comes back and waits.
    let mut spans = Vec::new();
    for name in &names {
        let status = cluster.status(name).await?;
        spans.push((
            status.assigned_pod,
            status.start_time.map(|t| t.0),
            status.completion_time.map(|t| t.0),
        ));
    }
    for (pod, start, _) in &spans {
        let at_once = spans.iter().filter(|(p, s, e)| p == pod && s <= start && start < e).count();
        ensure!(at_once <= 4, "{at_once} at once on {pod:?}");
    }
    Ok(())
}
