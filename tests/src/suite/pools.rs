//! Pools that change or cannot come up, with a real Deployment, kubelet and containerd behind them.

use std::sync::Arc;

use anyhow::ensure;
use kruntimes_api::run::Phase;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::cluster::{container, eventually, phase, stdout};
use crate::node::RealNode;
use crate::{Case, Cluster};

/// The cases.
pub fn cases(node: &Arc<RealNode>) -> Vec<Case> {
    let node = node.clone();
    vec![
        Case::new("pool_new_image_under_load", move |cluster| new_image(cluster, node.clone())),
        Case::new("pool_scaled_down_keeps_busy_pods", scaled_down),
        Case::new("pool_that_cannot_come_up_says_why", cannot_come_up),
    ]
}

/// The image of a pool changes while Runs run and wait: none fails, none runs twice.
async fn new_image(cluster: Cluster, node: Arc<RealNode>) -> anyhow::Result<()> {
    let next = format!("{}-next", crate::cluster::BASH_IMAGE);
    let mut tag = node.node().command("ctr")?;
    tag.args(["--address=/run/containerd/containerd.sock", "--namespace=k8s.io", "images", "tag", "--force"]);
    tag.args([crate::cluster::BASH_IMAGE, &next]);
    stdout(tag).await?;

    let template = |image: &str| {
        let mut container = container();
        container["image"] = json!(image);
        json!({"spec": {"terminationGracePeriodSeconds": 30, "containers": [container]}})
    };
    let spec =
        json!({"template": template(crate::cluster::BASH_IMAGE), "capacity": {"resources": {"runs": 2}}});
    cluster.bash_pool_with(2, spec).await?;
    let before = pods(&cluster).await?;
    let names: Vec<String> = (0..30).map(|i| format!("r-{i:02}")).collect();
    for name in &names {
        cluster.script(name, "sleep 1; echo attempt=$KRUNTIME_ATTEMPT >> $KRUNTIME_OUTPUTS").await?;
    }
    cluster.until(&names[3], |s| phase(s) != Phase::Pending).await?;
    let patch = Patch::Merge(json!({"spec": {"template": template(&next)}}));
    cluster.runtimes().patch("bash", &PatchParams::default(), &patch).await?;
    for name in &names {
        let status = cluster.end(name).await?;
        ensure!(phase(&status) == Phase::Succeeded && status.attempt == Some(1), "{name}: {status:?}");
    }
    cluster.ready("bash", 2).await?;
    eventually("the old Pods to be gone", || async {
        let now = pods(&cluster).await?;
        Ok(now.len() == 2 && now.iter().all(|pod| !before.contains(pod)))
    })
    .await
}

async fn pods(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let pods = cluster.pods().list(&ListParams::default().labels("runtime=bash")).await?.items;
    Ok(pods.into_iter().filter_map(|pod| pod.metadata.name).collect())
}

/// Of three Pods the two without a Run go.
async fn scaled_down(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool(3, 1).await?;
    cluster.script("r", "sleep 12").await?;
    let busy = cluster.phase("r", Phase::Running).await?.assigned_pod.unwrap_or_default();
    stdout(cluster.krt(&["runtime", "scale", "bash", "--replicas", "1"])).await?;
    eventually("one Pod to be left", || async { Ok(pods(&cluster).await?.len() == 1) }).await?;
    ensure!(pods(&cluster).await? == [busy.clone()], "{busy} has gone");
    let status = cluster.end("r").await?;
    ensure!(phase(&status) == Phase::Succeeded && status.attempt == Some(1), "{status:?}");
    Ok(())
}

/// What keeps the Pods from being ready is in the Runtime's status, and `krt runtime describe` shows it.
async fn cannot_come_up(cluster: Cluster) -> anyhow::Result<()> {
    let with = |more: Value| {
        let mut container = container();
        for (name, value) in more.as_object().into_iter().flatten() {
            container[name] = value.clone();
        }
        container
    };
    let none = json!({});
    let hard = json!({"isolation": {"require": {"limits": "Hard"}}});
    let huge = json!({"resources": {"requests": {"cpu": "1000"}}});
    let cases = [
        (
            "missing",
            with(json!({"image": "localhost/no-such-image:1"})),
            &none,
            &["ImagePullFailed"][..],
            "no-such-image",
        ),
        (
            "crashing",
            with(json!({"command": ["/bin/false"]})),
            &none,
            &["CrashLooping", "ContainerFailed"],
            "code 1",
        ),
        ("huge", with(huge), &none, &["Unschedulable"], "Insufficient cpu"),
        // An ordinary Pod may not make cgroups.
        ("strict", with(json!({})), &hard, &["IsolationMissing"], "isolation.require.limits"),
    ];
    for (name, container, more, reasons, word) in cases {
        let mut spec = json!({"replicas": 1, "template": {"spec": {"containers": [container]}}});
        for (name, value) in more.as_object().into_iter().flatten() {
            spec[name] = value.clone();
        }
        let runtime = json!({"metadata": {"name": name}, "spec": spec});
        cluster.runtimes().create(&PostParams::default(), &serde_json::from_value(runtime)?).await?;
        eventually(&format!("{name} to say {reasons:?} with {word:?}"), || async {
            let status = cluster.runtimes().get(name).await?.status.unwrap_or_default();
            let degraded = status.conditions.iter().find(|c| c.type_ == "Degraded");
            Ok(degraded.is_some_and(|c| reasons.contains(&c.reason.as_str()) && c.message.contains(word)))
        })
        .await?;
        let described = stdout(cluster.krt(&["runtime", "describe", name])).await?;
        ensure!(described.contains(word) && described.contains("Degraded"), "{described}");
    }
    Ok(())
}
