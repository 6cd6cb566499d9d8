//! Retries: how many, when, and where they stop.

use anyhow::ensure;
use kruntimes_api::Reason;
use kruntimes_api::run::Phase;
use serde_json::json;

use crate::cluster::{bash_with, figure, phase};
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
