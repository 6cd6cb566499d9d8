//! What becomes of Runs, in each of their states, when what they run on is lost, and which reason they end with.

use std::sync::Arc;

use anyhow::{Context, ensure};
use kruntimes_api::Reason;
use kruntimes_api::run::Phase;
use kube::api::DeleteParams;
use serde_json::json;

use super::faults::{check, locked, no_rest, nothing_left};
use crate::cluster::{bash_with, phase};
use crate::{Case, Cluster, Hurt, Victim, process};

/// The cases for a place, which they hurt.
pub fn cases<P: Hurt + 'static>(place: &Arc<P>) -> Vec<Case> {
    let (first, second) = (place.clone(), place.clone());
    vec![
        Case::new("loss_reasons", move |cluster| reasons(cluster, first.clone())),
        Case::new("loss_of_a_pod_with_runs_in_each_state", move |cluster| {
            each_state(cluster, second.clone())
        }),
    ]
}

/// A Run that may not be retried ends with what has happened to it.
async fn reasons<P: Hurt>(cluster: Cluster, place: Arc<P>) -> anyhow::Result<()> {
    cluster.sharing_pool(2, 1).await?;
    let now = DeleteParams::default().grace_period(0);
    let losses = [
        ("server", Reason::ServerLost, None),
        // Whoever deletes a Pod asks it to stop, however little time it is given.
        ("at-once", Reason::PodTerminating, Some(now)),
        ("in-time", Reason::PodTerminating, Some(DeleteParams::default())),
    ];
    for (name, reason, deletion) in losses {
        let mut spec = locked(&cluster, name, "600")?;
        spec["retryPolicy"] = json!(null);
        cluster.submit(name, spec).await?;
        let pod = cluster.phase(name, Phase::Running).await?.assigned_pod.context("it has a Pod")?;
        match deletion {
            Some(deletion) => drop(cluster.pods().delete(&pod, &deletion).await?),
            None => place.kill(Victim::Server)?,
        }
        let status = cluster.end(name).await?;
        ensure!(phase(&status) == Phase::Failed && status.reason == Some(reason), "{name}: {status:?}");
        ensure!(status.attempt == Some(1), "{name}: {status:?}");
        ensure!(status.message.is_some_and(|message| !message.is_empty()), "{name} says nothing to a person");
    }
    no_rest(&cluster, place.as_ref()).await
}

/// The one Pod is gone for good, with Runs before, in and behind it.
async fn each_state<P: Hurt>(cluster: Cluster, place: Arc<P>) -> anyhow::Result<()> {
    cluster.sharing_pool(1, 3).await?;
    let ended = cluster.run_script("ended", "true").await?;
    let policy = json!({"retryPolicy": {"maxAttempts": 5, "backoff": "5s"}});
    cluster.submit("retrying", bash_with("[ $KRUNTIME_ATTEMPT -ge 2 ]", policy)).await?;
    cluster.until("retrying", |status| status.next_attempt_time.is_some()).await?;
    cluster.submit("running", locked(&cluster, "running", "2")?).await?;
    let pod = cluster.phase("running", Phase::Running).await?.assigned_pod.context("it has a Pod")?;
    // A runtimed that does nothing leaves what is bound to it as it is.
    for daemon in place.processes().iter().filter(|process| process.program == "runtimed") {
        process::signal(daemon.pid, "STOP")?;
    }
    cluster.submit("scheduled", locked(&cluster, "scheduled", "1")?).await?;
    cluster.phase("scheduled", Phase::Scheduled).await?;
    let mut pending = locked(&cluster, "pending", "1")?;
    pending["resources"] = json!({"requests": {"runs": 3}});
    cluster.submit("pending", pending).await?;
    cluster.pods().delete(&pod, &DeleteParams::default().grace_period(0)).await?;

    for (name, attempts) in [("running", 2), ("scheduled", 2), ("pending", 1)] {
        let status = cluster.end(name).await?;
        check(&status, attempts).with_context(|| name.to_owned())?;
        ensure!(status.assigned_pod.as_ref() != Some(&pod), "{name}: {status:?}");
    }
    ensure!(phase(&cluster.end("retrying").await?) == Phase::Succeeded, "its retry came");
    ensure!(cluster.status("ended").await? == ended, "what has ended stays as it is");
    nothing_left(&cluster, place.as_ref()).await
}
