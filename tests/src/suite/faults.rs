//! Programs killed at every step of a Run's life: nothing lost, nothing twice at once, nothing left.
//!
//! Every Run here holds a file lock while it works, which the kernel drops with its
//! process; a second one at the same time would find it taken and end with 99.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Pod;
use kruntimes_api::run::{Phase, RunStatus};
use kruntimes_api::{Reason, RuntimeInstance};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams};
use serde_json::{Value, json};

use crate::cluster::{bash_with, eventually, pause, phase};
use crate::origin::Origin;
use crate::{Case, Cluster, Hurt, Victim};

/// When, in the life of a Run.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Moment {
    /// Before it exists, so that it is created while the program is away.
    Before,
    /// When it has just been bound.
    Bound,
    /// While its source is fetched.
    Preparing,
    /// While it works.
    Running,
    /// As soon as it has ended.
    Ended,
    /// Between a failed attempt and the next.
    Retrying,
    /// While it is asked to end.
    Cancelling,
}

const MOMENTS: [Moment; 7] = [
    Moment::Before,
    Moment::Bound,
    Moment::Preparing,
    Moment::Running,
    Moment::Ended,
    Moment::Retrying,
    Moment::Cancelling,
];

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
    let reached = |moment: &Moment| *moment != Moment::Preparing || place.pods_share_loopback();
    for moment in MOMENTS.into_iter().filter(reached) {
        let name = format!("{moment:?}").to_lowercase();
        killed_at(&cluster, place.as_ref(), victim, moment, &name).await.with_context(|| name.clone())?;
        no_rest(&cluster, place.as_ref()).await.with_context(|| name.clone())?;
        let after = cluster.run_script(&format!("after-{name}"), "true").await?;
        ensure!(phase(&after) == Phase::Succeeded, "{name}: the platform goes on: {after:?}");
        if matches!(victim, Victim::Runtimed | Victim::Server) {
            fresh_pods(&cluster, 1).await?;
        }
    }
    Ok(())
}

/// Puts `count` new Pods in the place of the pool's: a container that is killed again and again is given longer and longer
/// until its next start.
async fn fresh_pods(cluster: &Cluster, count: usize) -> anyhow::Result<()> {
    let now = DeleteParams::default().grace_period(0);
    let old = cluster.pods().list(&ListParams::default()).await?.items;
    for pod in &old {
        cluster.pods().delete(&pod.name_any(), &now).await?;
    }
    let is_new = |pod: &Pod| {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let is_ready = conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True");
        is_ready && old.iter().all(|other| other.uid() != pod.uid())
    };
    eventually("new Pods in the place of the old ones", || async {
        let pods = cluster.pods().list(&ListParams::default()).await?.items;
        Ok(pods.len() == count && pods.iter().all(is_new))
    })
    .await
}

async fn killed_at(
    cluster: &Cluster,
    place: &impl Hurt,
    victim: Victim,
    moment: Moment,
    name: &str,
) -> anyhow::Result<()> {
    match moment {
        Moment::Cancelling => killed_cancelling(cluster, place, victim, name).await,
        Moment::Retrying => {
            let policy = json!({"retryPolicy": {"maxAttempts": 6, "backoff": "3s"}});
            let script = "echo started=$KRUNTIME_ATTEMPT >> $KRUNTIME_OUTPUTS; [ $KRUNTIME_ATTEMPT -gt 1 ]";
            cluster.submit(name, bash_with(script, policy)).await?;
            cluster.until(name, |status| status.next_attempt_time.is_some()).await?;
            hurt(place, victim).await?;
            check(&cluster.end(name).await?, 2)
        }
        Moment::Before | Moment::Bound | Moment::Preparing | Moment::Running | Moment::Ended => {
            killed_working(cluster, place, victim, moment, name).await
        }
    }
}

/// Kills it, and starts what does not come back by itself; what was killed a moment ago is given the time to come back.
async fn hurt(place: &impl Hurt, victim: Victim) -> anyhow::Result<()> {
    if victim == Victim::Platform {
        place.kill(victim)?;
        return place.restore();
    }
    eventually(&format!("{victim:?} to run, to be killed"), || async { place.kill(victim).map(|()| true) })
        .await
}

async fn killed_working(
    cluster: &Cluster,
    place: &impl Hurt,
    victim: Victim,
    moment: Moment,
    name: &str,
) -> anyhow::Result<()> {
    let attempts = attempts(place, victim, moment);
    // An attempt that must die works until then.
    let dies = *attempts.start() > 1;
    let seconds = if dies { "$([ $KRUNTIME_ATTEMPT -gt 1 ] && echo 1 || echo 600)" } else { "1" };
    let mut spec = locked(cluster, name, seconds)?;
    match moment {
        Moment::Before => {
            hurt(place, victim).await?;
            eventually("the API to take the Run", || async {
                Ok(cluster.submit(name, spec.clone()).await.is_ok())
            })
            .await?;
        }
        Moment::Preparing => {
            let script = spec["source"]["inline"].as_str().context("a script")?;
            let origin = Origin::start("work.sh", script)?;
            spec["source"] = json!({"repoURL": origin.url(), "commitSHA": origin.commit});
            spec["mode"] = json!({"task": {"entrypoint": "work.sh"}});
            cluster.submit(name, spec).await?;
            eventually("its source to be fetched", || async { Ok(origin.is_asked()) }).await?;
            hurt(place, victim).await?;
            origin.open();
            return check_within(&cluster.end(name).await?, attempts);
        }
        _ => {
            cluster.submit(name, spec).await?;
            let bound = cluster.until(name, |status| phase(status) != Phase::Pending).await?;
            if moment != Moment::Bound && phase(&bound) != Phase::Running {
                cluster.phase(name, Phase::Running).await?;
            }
            let (lock, _) = cluster.shared_file(name)?;
            if moment == Moment::Running {
                eventually("the process to work", || async { is_locked(&lock) }).await?;
            }
            if moment == Moment::Ended {
                // The lock is free the moment the process is gone, which is before anyone could write the end.
                eventually("the process to end", || async { Ok(!is_locked(&lock)?) }).await?;
            }
            hurt(place, victim).await?;
        }
    }
    check_within(&cluster.end(name).await?, attempts)
}

/// It works on for a second when it is asked to end, and in that second the program is killed.
async fn killed_cancelling(
    cluster: &Cluster,
    place: &impl Hurt,
    victim: Victim,
    name: &str,
) -> anyhow::Result<()> {
    let mut spec = locked(cluster, name, "0; trap 'sleep 1; exit 0' TERM; while :; do sleep 0.1; done")?;
    spec["retryPolicy"]["retryableReasons"] = json!([]);
    cluster.submit(name, spec).await?;
    let (lock, _) = cluster.shared_file(name)?;
    eventually("the process to work", || async { is_locked(&lock) }).await?;
    cluster.patch_spec(name, json!({"cancelRequested": true})).await?;
    hurt(place, victim).await?;
    let status = cluster.end(name).await?;
    let lost = matches!(status.reason, Some(Reason::ServerLost | Reason::PodGone | Reason::PodTerminating));
    let as_asked = phase(&status) == Phase::Cancelled
        // Its process died of something else before it could be asked.
        || (ends_with(place, victim) && phase(&status) == Phase::Failed && lost);
    ensure!(as_asked && status.attempt == Some(1), "a cancelled Run is not tried again: {status:?}");
    eventually("its process to be gone", || async { Ok(!is_locked(&lock)?) }).await
}

/// The Run succeeded at this very attempt: only a loss of its own process costs one.
pub(super) fn check(status: &RunStatus, attempt: i32) -> anyhow::Result<()> {
    check_within(status, attempt..=attempt)
}

fn check_within(status: &RunStatus, attempts: RangeInclusive<i32>) -> anyhow::Result<()> {
    ensure!(status.exit_code != Some(99), "two at once: {status:?}");
    ensure!(phase(status) == Phase::Succeeded, "{status:?}");
    let attempt = status.attempt.unwrap_or(0);
    ensure!(attempts.contains(&attempt), "attempt {attempt}, not {attempts:?}: {status:?}");
    let outputs = status.outputs.get("started").map(String::as_str);
    ensure!(outputs == Some(attempt.to_string().as_str()), "the outputs are the last attempt's: {status:?}");
    Ok(())
}

/// Whether the processes of Runs end with it.
fn ends_with(place: &impl Hurt, victim: Victim) -> bool {
    match victim {
        Victim::Scheduler | Victim::Controller | Victim::Runtimed => false,
        Victim::Server => true,
        Victim::Platform => !place.pods_outlive_the_api(),
    }
}

/// At which attempt a Run succeeds.
fn attempts(place: &impl Hurt, victim: Victim, moment: Moment) -> RangeInclusive<i32> {
    match moment {
        _ if !ends_with(place, victim) => 1..=1,
        Moment::Before => 1..=1,
        Moment::Running => 2..=2,
        // Whether its process had begun, or its end was known by then, is a race that nobody sees from outside.
        Moment::Bound | Moment::Preparing | Moment::Ended => 1..=2,
        Moment::Retrying | Moment::Cancelling => 1..=1,
    }
}

/// [`no_rest`], where nobody killed a program of a Pod: then no container was started again either.
pub(super) async fn nothing_left(cluster: &Cluster, place: &impl Hurt) -> anyhow::Result<()> {
    no_rest(cluster, place).await?;
    for pod in cluster.pods().list(&ListParams::default()).await?.items {
        let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        for container in containers {
            ensure!(container.restart_count == 0, "{}: {container:?} was started again", pod.name_any());
        }
    }
    Ok(())
}

/// No process of a Run and no workspace outlives the Runs, and no RuntimeInstance its Pod.
pub(super) async fn no_rest(cluster: &Cluster, place: &impl Hurt) -> anyhow::Result<()> {
    let instances: Api<RuntimeInstance> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    eventually("workspaces, processes and instances to be gone", || async {
        let instances = instances.list(&ListParams::default()).await?.items;
        let pods = cluster.pods().list(&ListParams::default()).await?.items;
        let pods: Vec<String> = pods.into_iter().filter_map(|pod| pod.metadata.uid).collect();
        for uid in &pods {
            let workspace = place.workspace(uid);
            if workspace.exists()
                && std::fs::read_dir(&workspace)?.any(|e| e.is_ok_and(|e| is_run_folder(&e.file_name())))
            {
                return Ok(false);
            }
        }
        let owned = instances.iter().all(|instance| pods.contains(&instance.spec.pod_uid));
        Ok(owned && !place.processes().iter().any(|process| process.of_run))
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
    let now = DeleteParams::default().grace_period(0);
    cluster.pods().delete(&first, &now).await?;
    let status = cluster.end("r").await?;
    check(&status, 2).context("a lost Pod costs an attempt")?;
    ensure!(status.assigned_pod.as_deref() != Some(first.as_str()), "{status:?}");
    nothing_left(&cluster, place.as_ref()).await
}

/// A Pod that is asked to stop lets its Run finish within the grace period.
async fn drained<P: Hurt>(cluster: Cluster, place: Arc<P>) -> anyhow::Result<()> {
    cluster.sharing_pool(2, 1).await?;
    cluster.submit("r", locked(&cluster, "r", "2")?).await?;
    let pod = cluster.phase("r", Phase::Running).await?.assigned_pod.unwrap_or_default();
    cluster.pods().delete(&pod, &DeleteParams::default()).await?;
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
        hurt(place.as_ref(), victim).await?;
    }
    for name in &names {
        check(&cluster.end(name).await?, 1).with_context(|| name.clone())?;
    }
    no_rest(&cluster, place.as_ref()).await
}
