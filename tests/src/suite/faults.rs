//! Programs killed at every step of a Run's life: nothing lost, nothing twice at once, nothing left.
//!
//! Every Run here holds a file lock while it works, which the kernel drops with its
//! process; a second one at the same time would find it taken and end with 99.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use kruntimes_api::run::{Phase, RunStatus};
use serde_json::{Value, json};

use crate::cluster::{bash_with, eventually, pause, phase};
use crate::{Case, Cluster, Hurt, Victim};

/// When, in the life of a Run.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// Before it exists, so that it is created while the program is away.
    Before,
    /// While its source is being prepared or it has just been bound.
    Bound,
    /// While it works.
    Running,
    /// As soon as it has ended.
    Ended,
}

/// The cases for a place, which they hurt.
pub fn cases<P: Hurt + 'static>(place: &Arc<P>) -> Vec<Case> {
    let victims = [
        ("fault_scheduler_killed", Victim::Scheduler),
        ("fault_controller_killed", Victim::Controller),
        ("fault_runtimed_killed", Victim::Runtimed),
        ("fault_server_killed", Victim::Server),
        ("fault_platform_killed", Victim::Platform),
    ];
    let mut cases = Vec::new();
    for (name, victim) in victims {
        let place = place.clone();
        cases.push(Case::new(name, move |cluster| killed(cluster, place.clone(), victim)));
    }
    let (deleted, asked, away) = (place.clone(), place.clone(), place.clone());
    cases.push(Case::new("fault_pod_deleted_retry_lands_elsewhere", move |cluster| {
        pod_deleted(cluster, deleted.clone())
    }));
    cases.push(Case::new("fault_pod_deleted_gracefully_hands_back", move |cluster| {
        drained(cluster, asked.clone())
    }));
    cases.push(Case::new("fault_everything_at_random", move |cluster| at_random(cluster, away.clone())));
    cases
}

/// Works for `seconds` under a lock that two at once cannot hold.
pub(super) fn locked(cluster: &Cluster, name: &str, seconds: &str) -> anyhow::Result<Value> {
    let (_, lock) = cluster.shared_file(name)?;
    let script = format!(
        "umask 0; exec 9>{}; flock -n 9 || exit 99; echo started=$KRUNTIME_ATTEMPT >> $KRUNTIME_OUTPUTS; sleep {seconds}",
        lock.display()
    );
    let policy = json!({"retryPolicy": {"maxAttempts": 6, "backoff": "200ms",
        "retryableReasons": ["PodGone", "PodTerminating", "PodUnhealthy", "ServerLost"]}});
    Ok(bash_with(&script, policy))
}

/// One pool, one Run after the other, each with the program killed at another moment of its life.
async fn killed<P: Hurt>(cluster: Cluster, place: Arc<P>, victim: Victim) -> anyhow::Result<()> {
    cluster.sharing_pool(1, 4).await?;
    for moment in [Moment::Before, Moment::Bound, Moment::Running, Moment::Ended] {
        let name = format!("{moment:?}").to_lowercase();
        killed_at(&cluster, place.as_ref(), victim, moment, &name).await.with_context(|| name.clone())?;
        let after = cluster.run_script(&format!("after-{name}"), "true").await?;
        ensure!(phase(&after) == Phase::Succeeded, "{name}: the platform goes on: {after:?}");
    }
    Ok(())
}

async fn killed_at(
    cluster: &Cluster,
    place: &impl Hurt,
    victim: Victim,
    moment: Moment,
    name: &str,
) -> anyhow::Result<()> {
    let spec = locked(cluster, name, "1")?;
    match moment {
        Moment::Before => {
            kill(place, victim).await?;
            if victim == Victim::Platform {
                place.restore()?;
            }
            eventually("the API to take the Run", || async {
                Ok(cluster.submit(name, spec.clone()).await.is_ok())
            })
            .await?;
        }
        Moment::Bound => {
            cluster.submit(name, spec).await?;
            cluster.until(name, |s| phase(s) != Phase::Pending).await?;
            kill(place, victim).await?;
        }
        Moment::Running => {
            cluster.submit(name, spec).await?;
            cluster.phase(name, Phase::Running).await?;
            kill(place, victim).await?;
        }
        Moment::Ended => {
            cluster.submit(name, spec).await?;
            cluster.phase(name, Phase::Running).await?;
            // The lock is free the moment the process is gone, which is before anyone could write the end.
            let (lock, _) = cluster.shared_file(name)?;
            eventually("the process to end", || async { Ok(!is_locked(&lock)?) }).await?;
            kill(place, victim).await?;
        }
    }
    if victim == Victim::Platform && !matches!(moment, Moment::Before) {
        place.restore()?;
    }
    let status = cluster.end(name).await?;
    check(&status, most_attempts(place, victim))?;
    nothing_left(cluster, place).await
}

/// Kills a part; one that was killed a moment ago is given the time to come back first.
async fn kill(place: &impl Hurt, victim: Victim) -> anyhow::Result<()> {
    if victim == Victim::Platform {
        return place.kill(victim);
    }
    eventually(&format!("{victim:?} to run, to be killed"), || async { place.kill(victim).map(|()| true) })
        .await
}

/// The Run succeeded, and only a loss of its own process cost an attempt.
pub(super) fn check(status: &RunStatus, most: i32) -> anyhow::Result<()> {
    ensure!(status.exit_code != Some(99), "two at once: {status:?}");
    ensure!(phase(status) == Phase::Succeeded, "{status:?}");
    let attempt = status.attempt.unwrap_or(0);
    ensure!((1..=most).contains(&attempt), "attempt {attempt}, at most {most}: {status:?}");
    let outputs = status.outputs.get("started").map(String::as_str);
    ensure!(outputs == Some(attempt.to_string().as_str()), "the outputs are the last attempt's: {status:?}");
    Ok(())
}

fn most_attempts(place: &impl Hurt, victim: Victim) -> i32 {
    match victim {
        Victim::Scheduler | Victim::Controller | Victim::Runtimed => 1,
        Victim::Platform if place.pods_outlive_the_api() => 1,
        Victim::Server | Victim::Platform => 2,
    }
}

/// No process of a Run and no workspace outlives the Runs.
pub(super) async fn nothing_left(cluster: &Cluster, place: &impl Hurt) -> anyhow::Result<()> {
    eventually("workspaces and processes to be gone", || async {
        let pods = cluster.pods().list(&kube::api::ListParams::default()).await?.items;
        for pod in pods {
            let uid = pod.metadata.uid.unwrap_or_default();
            let workspace = place.workspace(&uid);
            if workspace.exists()
                && std::fs::read_dir(&workspace)?.any(|e| e.is_ok_and(|e| is_run_folder(&e.file_name())))
            {
                return Ok(false);
            }
        }
        Ok(!place.processes().iter().any(|process| process.of_run))
    })
    .await
}

/// Workspaces are called by the Run's uid.
fn is_run_folder(name: &std::ffi::OsStr) -> bool {
    name.len() == 36
}

fn is_locked(path: &std::path::Path) -> anyhow::Result<bool> {
    let file = std::fs::File::options().write(true).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(false),
        Err(std::fs::TryLockError::WouldBlock) => Ok(true),
        Err(std::fs::TryLockError::Error(error)) => Err(error.into()),
    }
}

/// The first Pod is gone for good; the retry runs on the other.
async fn pod_deleted<P: Hurt>(cluster: Cluster, place: Arc<P>) -> anyhow::Result<()> {
    cluster.sharing_pool(2, 1).await?;
    cluster.submit("r", locked(&cluster, "r", "3")?).await?;
    let first = cluster.phase("r", Phase::Running).await?.assigned_pod.unwrap_or_default();
    let now = kube::api::DeleteParams::default().grace_period(0);
    cluster.pods().delete(&first, &now).await?;
    let status = cluster.end("r").await?;
    check(&status, 2)?;
    ensure!(status.attempt == Some(2), "a lost Pod costs an attempt: {status:?}");
    ensure!(status.assigned_pod.as_deref() != Some(first.as_str()), "{status:?}");
    nothing_left(&cluster, place.as_ref()).await
}

/// A Pod that is asked to stop lets its Run finish within the grace period.
async fn drained<P: Hurt>(cluster: Cluster, place: Arc<P>) -> anyhow::Result<()> {
    cluster.sharing_pool(2, 1).await?;
    cluster.submit("r", locked(&cluster, "r", "2")?).await?;
    let pod = cluster.phase("r", Phase::Running).await?.assigned_pod.unwrap_or_default();
    cluster.pods().delete(&pod, &kube::api::DeleteParams::default()).await?;
    let status = cluster.end("r").await?;
    ensure!(phase(&status) == Phase::Succeeded && status.attempt == Some(1), "{status:?}");
    nothing_left(&cluster, place.as_ref()).await
}

/// Twenty Runs while programs are killed one after the other.
async fn at_random<P: Hurt>(cluster: Cluster, place: Arc<P>) -> anyhow::Result<()> {
    cluster.sharing_pool(2, 4).await?;
    let names: Vec<String> = (0..20).map(|i| format!("r-{i:02}")).collect();
    for name in &names {
        cluster.submit(name, locked(&cluster, name, "1")?).await?;
    }
    for victim in
        [Victim::Scheduler, Victim::Runtimed, Victim::Controller, Victim::Runtimed, Victim::Scheduler]
    {
        pause(Duration::from_millis(700)).await;
        place.kill(victim)?;
    }
    for name in &names {
        check(&cluster.end(name).await?, 1).with_context(|| name.clone())?;
    }
    nothing_left(&cluster, place.as_ref()).await
}
