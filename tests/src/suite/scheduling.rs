//! Who runs where, and in which order.

use std::collections::BTreeMap;

use anyhow::ensure;
use kruntimes_api::Reason;
use kruntimes_api::run::{Phase, Run};
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::cluster::{bash, bash_with, phase};
use crate::{Case, Cluster};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("scheduling_queue_order", queue_order),
        Case::new("scheduling_capacity", capacity),
        Case::new("scheduling_custom_resources", custom_resources),
        Case::new("scheduling_affinity", affinity),
        Case::new("scheduling_tenancy", tenancy),
        Case::new("scheduling_pending_timeout", pending_timeout),
        Case::new("scheduling_maximums_and_defaults", maximums_and_defaults),
        Case::new("scheduling_scale", scale),
    ]
}

/// 500 Runs on 4 slots are bound in queue order: priority, creation, name.
async fn queue_order(cluster: Cluster) -> anyhow::Result<()> {
    let names: Vec<String> = (0..500).map(|i| format!("r-{i:03}")).collect();
    for name in &names {
        cluster.script(name, "true").await?;
    }
    cluster.submit("urgent", bash_with("true", json!({"priority": 10}))).await?;
    cluster.bash_pool(2, 2).await?;
    for name in names.iter().map(String::as_str).chain(["urgent"]) {
        let status = cluster.end(name).await?;
        ensure!(phase(&status) == Phase::Succeeded && status.attempt == Some(1), "{name}: {status:?}");
    }
    let runs = cluster.runs().list(&ListParams::default()).await?.items;
    let bound_at = |run: &Run| run.status.as_ref().and_then(|s| s.scheduled_time.as_ref()).map(|t| t.0);
    let queue_key =
        |run: &Run| (-run.spec.priority.unwrap_or(0), run.creation_timestamp().map(|t| t.0), run.name_any());
    let mut in_queue = runs.clone();
    in_queue.sort_by_key(queue_key);
    // Pods of one pool become ready at different times; within each the order must hold exactly.
    let mut last: BTreeMap<String, _> = BTreeMap::new();
    // A server that had no room after all sent its Run back, to be bound anew: that is no order.
    let once = |run: &&Run| run.status.as_ref().is_some_and(|status| status.assignment == Some(1));
    for run in in_queue.iter().filter(once) {
        let pod = run.status.as_ref().and_then(|s| s.assigned_pod.clone()).unwrap_or_default();
        let before = last.insert(pod.clone(), (bound_at(run), run.name_any()));
        if let Some((time, name)) = before {
            ensure!(time <= bound_at(run), "{} was bound before {name} on {pod}", run.name_any());
        }
    }
    ensure!(in_queue.first().is_some_and(|run| run.name_any() == "urgent"), "priority goes first");
    // What is decided together has one time.
    let first = in_queue.iter().map(bound_at).min();
    let mut early: Vec<_> = runs.iter().map(|run| (bound_at(run), run.name_any())).collect();
    early.sort();
    early.truncate(8);
    ensure!(in_queue.first().map(bound_at) == first, "urgent: {:?}; first: {early:?}", in_queue[0].status);
    Ok(())
}

/// Never more at once than there are slots.
async fn capacity(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool(2, 2).await?;
    for i in 0..12 {
        cluster.script(&format!("r-{i:02}"), "sleep 0.5").await?;
    }
    let mut spans = Vec::new();
    for i in 0..12 {
        let status = cluster.end(&format!("r-{i:02}")).await?;
        let (start, end) = (status.start_time.map(|t| t.0), status.completion_time.map(|t| t.0));
        spans.push((status.assigned_pod.unwrap_or_default(), start, end));
    }
    for (pod, start, _) in &spans {
        let at_once = spans.iter().filter(|(p, s, e)| p == pod && s <= start && start < e).count();
        ensure!(at_once <= 2, "{at_once} at once on {pod}");
    }
    let pods: std::collections::BTreeSet<_> = spans.iter().map(|(pod, ..)| pod).collect();
    ensure!(pods.len() == 2, "both Pods were used: {pods:?}");
    Ok(())
}

async fn custom_resources(cluster: Cluster) -> anyhow::Result<()> {
    let spec = json!({
        "capacity": {"resources": {"runs": 8, "example.com/licence": 2, "memory": "1Gi"}},
        "resources": [{"name": "example.com/licence", "kind": "Counted"}],
    });
    cluster.bash_pool_with(1, spec).await?;
    let request = |amounts: Value| json!({"resources": {"requests": amounts}});
    for i in 0..4 {
        let spec = bash_with("sleep 0.4", request(json!({"example.com/licence": 1})));
        cluster.submit(&format!("l-{i}"), spec).await?;
    }
    cluster.submit("big", bash_with("true", request(json!({"memory": "2Gi"})))).await?;
    cluster.submit("odd", bash_with("true", request(json!({"example.com/unknown": 1})))).await?;
    let mut spans = Vec::new();
    for i in 0..4 {
        let status = cluster.end(&format!("l-{i}")).await?;
        ensure!(phase(&status) == Phase::Succeeded, "{status:?}");
        spans.push((status.start_time.map(|t| t.0), status.completion_time.map(|t| t.0)));
    }
    for (start, _) in &spans {
        let at_once = spans.iter().filter(|(s, e)| s <= start && start < e).count();
        ensure!(at_once <= 2, "{at_once} licences at once");
    }
    for (name, word) in [("big", "memory"), ("odd", "example.com/unknown")] {
        let status = cluster.until(name, |s| s.reason == Some(Reason::Unschedulable)).await?;
        ensure!(status.message.as_deref().unwrap_or_default().contains(word), "{name}: {status:?}");
    }
    Ok(())
}

async fn affinity(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool(2, 4).await?;
    let term = |labels: Value| {
        json!({"requiredDuringSchedulingIgnoredDuringExecution":
        [{"labelSelector": {"matchLabels": labels}, "topologyKey": "kruntimes.io/runtime-pod"}]})
    };
    let labelled = |name: &str, script: &str, affinity: Value| {
        let run = json!({"metadata": {"name": name, "labels": {"group": "a"}},
            "spec": bash_with(script, json!({"affinity": affinity}))});
        serde_json::from_value::<Run>(run)
    };
    let create = kube::api::PostParams::default();
    cluster.runs().create(&create, &labelled("first", "sleep 600", json!({}))?).await?;
    let home = cluster.phase("first", Phase::Running).await?.assigned_pod;
    let near = json!({"runAffinity": term(json!({"group": "a"}))});
    for i in 0..2 {
        let name = format!("near-{i}");
        cluster.runs().create(&create, &labelled(&name, "true", near.clone())?).await?;
        ensure!(cluster.end(&name).await?.assigned_pod == home, "{name} is beside first");
    }
    let far = json!({"runAntiAffinity": term(json!({"group": "a"}))});
    cluster.runs().create(&create, &labelled("far", "sleep 600", far.clone())?).await?;
    let away = cluster.phase("far", Phase::Running).await?.assigned_pod;
    ensure!(away != home, "far is elsewhere");
    cluster.runs().create(&create, &labelled("nowhere", "true", far)?).await?;
    cluster.until("nowhere", |s| s.reason == Some(Reason::Unschedulable)).await?;
    for name in ["first", "far"] {
        cluster.patch_spec(name, json!({"cancelRequested": true})).await?;
    }
    ensure!(phase(&cluster.end("nowhere").await?) == Phase::Succeeded, "free when the others are gone");
    Ok(())
}

async fn tenancy(cluster: Cluster) -> anyhow::Result<()> {
    let spec = json!({"isolation": {"tenancy": "SingleSubmitter"}, "capacity": {"resources": {"runs": 4}}});
    cluster.bash_pool_with(1, spec).await?;
    cluster.submit_as("alice", "a-1", bash("sleep 600")).await?;
    cluster.phase("a-1", Phase::Running).await?;
    cluster.submit_as("bob", "b-1", bash("true")).await?;
    cluster.submit_as("alice", "a-2", bash("true")).await?;
    ensure!(phase(&cluster.end("a-2").await?) == Phase::Succeeded, "alice shares with herself");
    let waits = cluster.until("b-1", |s| s.reason == Some(Reason::Unschedulable)).await?;
    ensure!(phase(&waits) == Phase::Pending, "{waits:?}");
    cluster.patch_spec("a-1", json!({"cancelRequested": true})).await?;
    ensure!(phase(&cluster.end("b-1").await?) == Phase::Succeeded, "bob comes when alice is gone");
    Ok(())
}

async fn pending_timeout(cluster: Cluster) -> anyhow::Result<()> {
    cluster.submit("r", bash_with("true", json!({"pendingTimeout": "1s"}))).await?;
    let status = cluster.end("r").await?;
    ensure!(phase(&status) == Phase::Failed && status.reason == Some(Reason::PendingTimeout), "{status:?}");
    Ok(())
}

async fn maximums_and_defaults(cluster: Cluster) -> anyhow::Result<()> {
    let spec = json!({"runMaximums": {"timeout": "10m"}, "runDefaults": {"timeout": "1s", "ttlSecondsAfterFinished": 2}});
    cluster.bash_pool_with(1, spec).await?;
    cluster
        .submit("long", bash_with("true", json!({"timeout": "20m", "ttlSecondsAfterFinished": 0})))
        .await?;
    let long = cluster.end("long").await?;
    ensure!(long.reason == Some(Reason::InvalidRun), "{long:?}");
    ensure!(long.message.as_deref().unwrap_or_default().contains("timeout"), "{long:?}");
    cluster.submit("slow", bash_with("sleep 600", json!({}))).await?;
    let slow = cluster.end("slow").await?;
    ensure!(slow.reason == Some(Reason::Timeout), "the default timeout holds: {slow:?}");
    cluster.gone("slow").await
}

/// The scale subresource, up and down; Runs go on.
async fn scale(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool(1, 2).await?;
    for replicas in [3, 1] {
        let patch = kube::api::Patch::Merge(json!({"spec": {"replicas": replicas}}));
        cluster.runtimes().patch_scale("bash", &kube::api::PatchParams::default(), &patch).await?;
        cluster.ready("bash", replicas).await?;
        let status = cluster.run_script(&format!("r-{replicas}"), "true").await?;
        ensure!(phase(&status) == Phase::Succeeded, "{status:?}");
    }
    crate::cluster::eventually("one Pod to be left", || async {
        Ok(cluster.pods().list(&ListParams::default()).await?.items.len() == 1)
    })
    .await
}
