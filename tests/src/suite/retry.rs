//! Retries: how many, when, and where they stop.

use anyhow::ensure;
use kruntimes_api::Reason;
use kruntimes_api::run::{Phase, RunStatus};
use kube::api::LogParams;
use serde_json::{Value, json};

use crate::cluster::{bash_with, eventually, figure, phase};
use crate::{Case, Cluster};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("retry_until_success", until_success),
        Case::new("retry_exhausted", exhausted),
        Case::new("retry_only_named_reasons", only_named),
        Case::new("retry_timeout_has_a_new_budget", timeout_budget),
    ]
}

async fn until_success(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool(1, 2).await?;
    let script = r#"echo "attempt $KRUNTIME_ATTEMPT"; echo last=$KRUNTIME_ATTEMPT >> $KRUNTIME_OUTPUTS; [ "$KRUNTIME_ATTEMPT" = 3 ]"#;
    let policy = json!({"retryPolicy": {"maxAttempts": 5, "backoff": "100ms"}});
    cluster.submit("r", bash_with(script, policy)).await?;
    let status = cluster.end("r").await?;
    ensure!(phase(&status) == Phase::Succeeded && status.attempt == Some(3), "{status:?}");
    ensure!(
        status.outputs["last"] == "3" && status.outputs.len() == 1,
        "a fresh workspace each time: {status:?}"
    );
    let usage = status.usage.as_ref();
    let total = usage.and_then(|u| u.total.iter().find(|f| f.name == "wall_seconds")).map(|f| f.value);
    ensure!(total > figure(&status, "wall_seconds"), "the total spans attempts: {usage:?}");
    records(&cluster, &status, total.unwrap_or_default()).await
}

/// Each attempt has a record of its own in the log of `runtimed`: the status keeps the last and the sum.
async fn records(cluster: &Cluster, status: &RunStatus, total: f64) -> anyhow::Result<()> {
    let pod = status.assigned_pod.as_deref().unwrap_or_default();
    let params = LogParams { container: Some("runtimed".into()), ..LogParams::default() };
    let marks = async || -> anyhow::Result<Vec<Value>> {
        let log = cluster.pods().logs(pod, &params).await?;
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        Ok(lines.filter(|line| line["event"] == "end").collect())
    };
    // The last mark comes after the status.
    eventually("an end mark of each attempt", || async { Ok(marks().await?.len() == 3) }).await?;
    let marks = marks().await?;
    let attempts: Vec<i64> = marks.iter().filter_map(|mark| mark["attempt"].as_i64()).collect();
    ensure!(attempts == [1, 2, 3], "{attempts:?}");
    let wall = |mark: &Value| {
        let figures = mark["usage"]["figures"].as_array()?;
        figures.iter().find(|figure| figure["name"] == "wall_seconds")?["value"].as_f64()
    };
    let walls: Vec<f64> = marks.iter().filter_map(wall).collect();
    ensure!(walls.len() == 3 && walls.iter().all(|seconds| *seconds > 0.0), "{marks:?}");
    let last = figure(status, "wall_seconds").unwrap_or_default();
    // A number may lose its last bit on the way through JSON.
    ensure!(
        walls.last().is_some_and(|wall| (wall - last).abs() < 1e-6),
        "the last is the status's: {walls:?}"
    );
    let sum: f64 = walls.iter().sum();
    ensure!((sum - total).abs() < 1e-6, "the records add up to the total: {walls:?}, {total}");
    Ok(())
}

async fn exhausted(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool(1, 2).await?;
    let policy = json!({"retryPolicy": {"maxAttempts": 2, "backoff": "100ms"}});
    cluster.submit("r", bash_with("exit 9", policy)).await?;
    let waiting = cluster.until("r", |s| s.attempt == Some(2)).await?;
    ensure!(waiting.assignment <= Some(2), "{waiting:?}");
    let status = cluster.end("r").await?;
    ensure!(phase(&status) == Phase::Failed && status.attempt == Some(2), "{status:?}");
    ensure!(status.reason == Some(Reason::NonZeroExit) && status.exit_code == Some(9), "{status:?}");
    Ok(())
}

async fn only_named(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool(1, 2).await?;
    for (name, reasons, attempts) in
        [("word", json!(["RuntimeError"]), 2), ("other", json!(["Timeout", "Anything"]), 1)]
    {
        let policy =
            json!({"retryPolicy": {"maxAttempts": 2, "backoff": "50ms", "retryableReasons": reasons}});
        cluster.submit(name, bash_with("exit 1", policy)).await?;
        let status = cluster.end(name).await?;
        ensure!(status.attempt == Some(attempts), "{name}: {status:?}");
    }
    Ok(())
}

/// In the original one budget spanned all attempts, so that a retried timeout failed again at once.
async fn timeout_budget(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool(1, 2).await?;
    let script = r#"[ "$KRUNTIME_ATTEMPT" = 2 ] || sleep 600"#;
    let more = json!({"timeout": "2s", "retryPolicy": {"maxAttempts": 2, "backoff": "50ms"}});
    cluster.submit("r", bash_with(script, more)).await?;
    let status = cluster.end("r").await?;
    ensure!(phase(&status) == Phase::Succeeded && status.attempt == Some(2), "{status:?}");
    Ok(())
}
