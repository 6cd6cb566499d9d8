//! Cancel and suspend in every state, and what is left of the process tree.

use anyhow::ensure;
use kruntimes_api::Reason;
use kruntimes_api::run::Phase;
use serde_json::json;

use crate::cluster::{bash_with, eventually, phase};
use crate::{Case, Cluster};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("cancel_pending", pending),
        Case::new("cancel_running", running),
        Case::new("cancel_waiting_for_retry", waiting_for_retry),
        Case::new("cancel_two_hundred_at_once", many),
        Case::new("cancel_ends_a_stubborn_tree", stubborn_tree),
        Case::new("suspend_and_resume", suspend),
    ]
}

async fn cancel(cluster: &Cluster, name: &str) -> anyhow::Result<()> {
    cluster.patch_spec(name, json!({"cancelRequested": true})).await?;
    Ok(())
}

async fn pending(cluster: Cluster) -> anyhow::Result<()> {
    cluster.submit("r", json!({"runtime": "nowhere", "source": {"inline": "true"}})).await?;
    cancel(&cluster, "r").await?;
    let status = cluster.end("r").await?;
    ensure!(phase(&status) == Phase::Cancelled && status.attempt.is_none(), "{status:?}");
    Ok(())
}

async fn running(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool(1, 2).await?;
    let policy = json!({"retryPolicy": {"maxAttempts": 3}});
    cluster.submit("r", bash_with("sleep 600", policy)).await?;
    cluster.phase("r", Phase::Running).await?;
    cancel(&cluster, "r").await?;
    let status = cluster.end("r").await?;
    ensure!(phase(&status) == Phase::Cancelled && status.reason == Some(Reason::Cancelled), "{status:?}");
    ensure!(status.attempt == Some(1), "a cancelled Run is never retried: {status:?}");
    ensure!(status.usage.is_some(), "what it used is known: {status:?}");
    Ok(())
}

async fn waiting_for_retry(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool(1, 2).await?;
    let policy = json!({"retryPolicy": {"maxAttempts": 2, "backoff": "60s"}});
    cluster.submit("r", bash_with("exit 1", policy)).await?;
    cluster.until("r", |s| s.next_attempt_time.is_some()).await?;
    cancel(&cluster, "r").await?;
    ensure!(phase(&cluster.end("r").await?) == Phase::Cancelled, "without waiting for the back-off");
    Ok(())
}

async fn many(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool(1, 8).await?;
    let names: Vec<String> = (0..200).map(|i| format!("r-{i:03}")).collect();
    for name in &names {
        cluster.script(name, "sleep 600").await?;
    }
    futures::future::try_join_all(names.iter().map(|name| cancel(&cluster, name))).await?;
    for name in &names {
        let status = cluster.end(name).await?;
        ensure!(phase(&status) == Phase::Cancelled, "{name}: {status:?}");
    }
    Ok(())
}

/// Children that left the session, were orphaned and ignore TERM are gone when the Run is.
async fn stubborn_tree(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool(1, 2).await?;
    let mark = format!("stubborn-{}", cluster.namespace);
    let script = format!(
        r#"trap '' TERM
        for i in 1 2 3; do (setsid bash -c 'trap "" TERM; exec -a {mark} sleep 6000' &) ; done
        exec -a {mark} sleep 6000"#
    );
    cluster.script("r", &script).await?;
    cluster.phase("r", Phase::Running).await?;
    let count = || crate::process::with_argument(&mark).len();
    eventually("the tree to stand", || async { Ok(count() >= 4) }).await?;
    cancel(&cluster, "r").await?;
    ensure!(phase(&cluster.end("r").await?) == Phase::Cancelled, "cancelled");
    ensure!(count() == 0, "{:?} survived the Run", crate::process::with_argument(&mark));
    // The next Run looks for it from inside the Pod.
    let look = format!("! grep -la '[s]{}' /proc/[0-9]*/cmdline 2>/dev/null", &mark[1..]);
    let status = cluster.run_script("look", &look).await?;
    ensure!(phase(&status) == Phase::Succeeded, "{status:?}");
    Ok(())
}

async fn suspend(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool(1, 2).await?;
    let script = r#"[ -n "$(find . -maxdepth 0)" ]; [ "$KRUNTIME_GO" = 1 ] || sleep 5"#;
    cluster.submit("r", bash_with(script, json!({"suspend": true}))).await?;
    cluster.submit("other", bash_with("true", json!({}))).await?;
    cluster.end("other").await?;
    ensure!(phase(&cluster.status("r").await?) == Phase::Pending, "a suspended Run is not bound");
    cluster.patch_spec("r", json!({"suspend": false})).await?;
    cluster.phase("r", Phase::Running).await?;
    cluster.patch_spec("r", json!({"suspend": true})).await?;
    let status = cluster.until("r", |s| s.reason == Some(Reason::Suspended)).await?;
    ensure!(phase(&status) == Phase::Pending && status.assigned_pod.is_none(), "{status:?}");
    cluster.patch_spec("r", json!({"suspend": false})).await?;
    let status = cluster.end("r").await?;
    ensure!(phase(&status) == Phase::Succeeded, "{status:?}");
    ensure!(
        status.attempt == Some(1) && status.assignment == Some(2),
        "a suspension is not counted: {status:?}"
    );
    Ok(())
}
