//! Other ways to install it than the one that all other cases stand on, and what `krt doctor` says of a broken one.

use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use kruntimes_api::Reason;
use kruntimes_api::run::Phase;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;

use super::charts::restrict;
use crate::cluster::{bash, eventually, output, phase, stdout};
use crate::node::{IMAGES, RealNode, SYSTEM, chart};
use crate::{Case, Cluster};

/// Cases that put the platform that is there aside.
pub fn cases_alone(node: &Arc<RealNode>) -> Vec<Case> {
    let node = node.clone();
    vec![
        Case::new("install_doctor_well_and_broken", doctor),
        Case::new("install_namespaces_side_by_side", move |cluster| side_by_side(cluster, node.clone())),
    ]
}

/// Sets the replicas of Deployments and waits until so many are ready.
async fn scale(cluster: &Cluster, namespace: &str, all: &[(&str, i32)]) -> anyhow::Result<()> {
    let api: Api<Deployment> = Api::namespaced(cluster.client.clone(), namespace);
    for (name, replicas) in all {
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        api.patch(name, &PatchParams::default(), &patch).await.with_context(|| (*name).to_owned())?;
    }
    for (name, replicas) in all {
        eventually(&format!("{name} to have {replicas} replicas"), || async {
            let status = api.get(name).await?.status.unwrap_or_default();
            let ready = status.ready_replicas.unwrap_or(0);
            Ok(ready == *replicas && status.replicas.unwrap_or(0) == *replicas)
        })
        .await?;
    }
    Ok(())
}

/// Each finding of a broken platform comes with the command that mends it.
async fn doctor(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool(1, 1).await?;
    cluster.run_script("r", "true").await?;
    let well = output(cluster.krt(&["doctor"])).await?;
    let said = String::from_utf8_lossy(&well.stdout).into_owned();
    ensure!(well.status.success() && said.contains("Control plane"), "{said}");
    scale(&cluster, SYSTEM, &[("kruntimes-scheduler", 0)]).await?;
    let broken = output(cluster.krt(&["doctor"])).await;
    scale(&cluster, SYSTEM, &[("kruntimes-scheduler", 2)]).await?;
    let broken = broken?;
    let said = String::from_utf8_lossy(&broken.stdout).into_owned();
    ensure!(broken.status.code() == Some(1), "{said}");
    for words in [
        "scheduler kruntimes-system/kruntimes-scheduler: none of 0 replicas is ready",
        "kubectl -n kruntimes-system describe deployment kruntimes-scheduler",
    ] {
        ensure!(said.contains(words), "{words:?} in {said}");
    }
    Ok(())
}

/// The platform's own release, with this value.
fn platform(node: &RealNode, value: &str) -> anyhow::Result<()> {
    let upgrade = ["upgrade", "kruntimes", &chart("kruntimes")?, "--namespace", SYSTEM, "--reuse-values"];
    node.helm(&upgrade).args(["--set", value, "--wait", "--timeout=3m"]).run()
}

/// Two releases, each for a namespace of its own at the Pod Security level `restricted`, know nothing of each other. Beside one that
/// looks after all namespaces there are none, so that one is put aside: it looks after a namespace in which nobody is.
async fn side_by_side(cluster: Cluster, node: Arc<RealNode>) -> anyhow::Result<()> {
    let other = Cluster::new(cluster.platform.clone(), &format!("{}-b", cluster.namespace)).await?;
    let (refused, reason) = (install(&cluster, &node), "looks after every namespace");
    let refused = refused.err().context("a control plane beside that of the whole cluster was installed")?;
    ensure!(format!("{refused:#}").contains(reason), "{refused:#}");
    ensure!(
        !may_write(&cluster, "scheduler", &cluster.namespace).await?,
        "what of it is there has no rights"
    );
    node.helm(&["uninstall", "team", "--namespace", &cluster.namespace]).run()?;
    platform(&node, &format!("watchNamespace={SYSTEM}"))?;
    let result = two_releases(&cluster, &other, &node).await;
    let removed = other.remove().await;
    // The other one's release is still there: its namespace is not this one's to look after.
    let gone = eventually("the other namespace to be gone", || async {
        Ok(other.namespaces().get_opt(&other.namespace).await?.is_none())
    });
    let gone = removed.and(gone.await);
    for release in ["bash", "team"] {
        // What is left of a case that failed would stop the platform's release.
        node.helm(&["uninstall", release, "--namespace", &cluster.namespace, "--ignore-not-found"]).run()?;
    }
    platform(&node, "watchNamespace=")?;
    result.and(gone)
}

/// Whether a component of the test's own release may write Runs of a namespace.
async fn may_write(cluster: &Cluster, component: &str, namespace: &str) -> anyhow::Result<bool> {
    let account = format!("--as=system:serviceaccount:{}:team-kruntimes-{component}", cluster.namespace);
    let may = ["auth", "can-i", "patch", "runs.kruntimes.io", "--subresource=status", &account];
    let mut may = cluster.kubectl(&may).context("no kubectl")?;
    may.args(["--namespace", namespace]);
    let said = output(may).await?;
    // A `no` may come with a reason.
    match String::from_utf8_lossy(&said.stdout).split_whitespace().next() {
        Some("yes") => Ok(true),
        Some("no") => Ok(false),
        _ => anyhow::bail!("{said:?}"),
    }
}

/// A release for the test's own namespace.
fn install(place: &Cluster, node: &RealNode) -> anyhow::Result<()> {
    let namespace = &place.namespace;
    let values = format!("{IMAGES},kruntimes-crds.enabled=false,watchNamespace={namespace}");
    let install = ["install", "team", &chart("kruntimes")?, "--namespace", namespace, "--set", &values];
    node.helm(&install).args(["--wait", "--timeout=3m"]).run()
}

async fn two_releases(cluster: &Cluster, other: &Cluster, node: &RealNode) -> anyhow::Result<()> {
    for place in [cluster, other] {
        restrict(place).await?;
        install(place, node)?;
        let pool = ["install", "bash", &chart("runtime-pool")?, "--set", IMAGES, "--set", "replicas=1"];
        node.helm(&pool).args(["--namespace", &place.namespace, "--wait", "--timeout=3m"]).run()?;
    }
    let whole = platform(node, "watchNamespace=").err().context("one for all beside one for a namespace")?;
    ensure!(format!("{whole:#}").contains("has a control plane of its own (release team"), "{whole:#}");
    for (place, well) in [(SYSTEM, true), (cluster.namespace.as_str(), true), ("default", false)] {
        let there = Cluster { namespace: place.to_owned(), ..cluster.clone() };
        let said = output(there.krt(&["doctor"])).await?;
        let said = String::from_utf8_lossy(&said.stdout);
        let none = said.contains(&format!("there is no scheduler for namespace {place}"));
        ensure!(none != well, "krt doctor in {place}: {said}");
    }
    for place in [cluster, other] {
        let said =
            stdout(place.krt(&["run", "--runtime", "bash", "-c", "echo hello from $KRUNTIME_NAMESPACE"]));
        let said = said.await?;
        ensure!(said == format!("hello from {}\n", place.namespace), "{said:?}");
    }
    let (own, foreign) = (&cluster.namespace, &other.namespace);
    for component in ["scheduler", "controller"] {
        ensure!(may_write(cluster, component, own).await?, "{component} of {own}");
        ensure!(!may_write(cluster, component, foreign).await?, "{component} of {own} in {foreign}");
    }
    // Without its own scheduler nobody looks at a namespace, and the other one goes on.
    scale(cluster, own, &[("team-kruntimes-scheduler", 0)]).await?;
    cluster.script("waits", "true").await?;
    ensure!(phase(&other.run("goes", bash("true")).await?) == Phase::Succeeded, "the other goes on");
    let waits = cluster.status("waits").await?;
    ensure!(phase(&waits) == Phase::Pending && waits.reason != Some(Reason::Unschedulable), "{waits:?}");
    scale(cluster, own, &[("team-kruntimes-scheduler", 2)]).await?;
    ensure!(phase(&cluster.end("waits").await?) == Phase::Succeeded, "it is taken up again");
    uninstalled(cluster, node).await
}

/// As `docs/install.md` says: nothing waits for a finalizer, and Runs stay until they are deleted.
async fn uninstalled(cluster: &Cluster, node: &RealNode) -> anyhow::Result<()> {
    for release in ["bash", "team"] {
        node.helm(&["uninstall", release, "--namespace", &cluster.namespace, "--wait"]).run()?;
    }
    eventually("every Pod to be gone", || async {
        Ok(cluster.pods().list(&ListParams::default()).await?.items.is_empty())
    })
    .await?;
    ensure!(phase(&cluster.status("waits").await?) == Phase::Succeeded, "Runs stay");
    cluster.runs().delete("waits", &Default::default()).await?;
    cluster.gone("waits").await
}
