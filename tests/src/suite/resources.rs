//! Resources that a Runtime defines: which device a Run gets, who says so, and what it pays.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use kruntimes_api::run::{Phase, RunStatus};
use kruntimes_api::{Reason, RuntimeInstance};
use kube::api::{Api, DeleteParams, ListParams};
use serde_json::{Value, json};

use crate::cluster::{BASH_IMAGE, bash_with, eventually, figure, phase, stdout};
use crate::{Case, Cluster};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("resources_devices", devices),
        Case::new("resources_one_run_per_device", one_run_per_device),
        Case::new("resources_definitions", definitions),
        Case::new("resources_known_names", known_names),
        Case::new("resources_unknown", unknown),
        Case::new("resources_deleted_inventory", deleted_inventory),
        Case::new("resources_usage_over_attempts", usage_over_attempts),
    ]
}

const FPGA: &str = "example.com/fpga";

fn fpgas() -> Value {
    json!({
        "capacity": {"resources": {"runs": 8, "example.com/licence": 3, "example.com/bandwidth": "100M"}},
        "resources": [
            {"name": FPGA, "kind": "Indexed", "devices": ["/etc/hostname", "/etc/issue"], "env": "FPGAS"},
            {"name": "example.com/licence", "kind": "Counted", "env": "LICENCES"},
            {"name": "example.com/bandwidth", "kind": "Divisible"},
        ],
    })
}

fn asking(script: &str, amounts: Value) -> Value {
    bash_with(script, json!({"resources": {"requests": amounts}}))
}

async fn instance(cluster: &Cluster) -> anyhow::Result<RuntimeInstance> {
    let api: Api<RuntimeInstance> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    api.list(&ListParams::default()).await?.items.into_iter().next().context("no RuntimeInstance")
}

/// Holders by device.
async fn holders(cluster: &Cluster) -> anyhow::Result<BTreeMap<String, Vec<String>>> {
    let devices = instance(cluster).await?.status.unwrap_or_default().devices;
    let holders = |device: kruntimes_api::instance::Device| {
        (device.id, device.allocations.into_iter().map(|held| held.run_uid).collect())
    };
    Ok(devices.into_iter().map(holders).collect())
}

fn held(status: &RunStatus) -> Vec<(&str, &str, &str)> {
    status.devices.iter().map(|d| (d.resource.as_str(), d.id.as_str(), d.amount.as_str())).collect()
}

/// The Run is told by the variable of the definition, everybody else by the status and the RuntimeInstance.
async fn devices(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool_with(1, fpgas()).await?;
    let offered = instance(&cluster).await?.status.unwrap_or_default();
    let amount = |name: &str| offered.allocatable.get(name).map(|quantity| quantity.0.clone());
    ensure!(amount(FPGA).as_deref() == Some("2"), "{offered:?}");
    ensure!(amount("example.com/bandwidth").as_deref() == Some("100M"), "{offered:?}");
    let healthy =
        |d: &kruntimes_api::instance::Device| d.health.as_ref().is_some_and(|h| h.state == "Healthy");
    ensure!(offered.devices.len() == 2 && offered.devices.iter().all(healthy), "{offered:?}");

    let wants = json!({FPGA: 1, "example.com/licence": 2, "example.com/bandwidth": "25M"});
    let run = cluster.submit("r", asking("sleep 600", wants)).await?;
    let uid = run.metadata.uid.unwrap_or_default();
    let running = cluster.phase("r", Phase::Running).await?;
    ensure!(held(&running).contains(&(FPGA, "/etc/hostname", "1")), "seen while it runs: {running:?}");
    eventually("the RuntimeInstance to name the holder", || async {
        Ok(holders(&cluster).await?.get("/etc/hostname").is_some_and(|held| *held == [uid.clone()]))
    })
    .await?;
    let shown = stdout(cluster.krt(&["runtime", "describe", "bash"])).await?;
    for words in [FPGA, "/etc/hostname", "/etc/issue", "Healthy"] {
        ensure!(shown.contains(words), "{words:?} in {shown}");
    }
    cluster.patch_spec("r", json!({"cancelRequested": true})).await?;
    let status = cluster.end("r").await?;
    ensure!(
        held(&status)
            == [
                ("example.com/bandwidth", "", "25M"),
                (FPGA, "/etc/hostname", "1"),
                ("example.com/licence", "", "2"),
            ],
        "{:?}",
        status.devices
    );
    eventually("the device to be free", || async {
        Ok(holders(&cluster).await?.values().all(Vec::is_empty))
    })
    .await?;
    let run =
        cluster.run("told", asking("echo \"got=$FPGAS\" >> $KRUNTIME_OUTPUTS", json!({FPGA: 2}))).await?;
    ensure!(run.outputs.get("got").map(String::as_str) == Some("/etc/hostname,/etc/issue"), "{run:?}");
    let shown = stdout(cluster.krt(&["describe", "told"])).await?;
    for words in ["/etc/issue", "example.com/fpga_held_seconds", "lease", "allocation"] {
        ensure!(shown.contains(words), "{words:?} in {shown}");
    }
    Ok(())
}

/// What a Pod offers is told again when somebody deleted it.
async fn deleted_inventory(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool_with(1, fpgas()).await?;
    let told = || async { instance(&cluster).await.ok().filter(|told| told.status.is_some()) };
    eventually("an inventory", || async { Ok(told().await.is_some()) }).await?;
    let before = instance(&cluster).await?;
    let name = before.metadata.name.context("no name")?;
    let api: Api<RuntimeInstance> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    api.delete(&name, &DeleteParams::default()).await?;
    eventually("the inventory again", || async {
        let now = told().await.filter(|now| now.metadata.uid != before.metadata.uid);
        Ok(now.is_some_and(|now| now.status == before.status))
    })
    .await
}

/// Two names mean something by themselves: what becomes of them is in the record of each Run.
async fn known_names(cluster: Cluster) -> anyhow::Result<()> {
    let (bandwidth, iops) = ("kruntimes.io/network-bandwidth", "kruntimes.io/storage-iops");
    let spec = json!({
        "capacity": {"resources": {bandwidth: "1G", iops: "20k"}},
        "resources": [
            {"name": bandwidth, "kind": "Divisible"},
            {"name": iops, "kind": "Divisible", "env": "IOPS"},
        ],
    });
    cluster.bash_pool_with(1, spec).await?;
    let script = "echo \"iops=$IOPS\" >> $KRUNTIME_OUTPUTS";
    let status = cluster.run("r", asking(script, json!({bandwidth: "250M", iops: "5k"}))).await?;
    ensure!(status.outputs.get("iops").map(String::as_str) == Some("5000"), "{status:?}");
    ensure!(held(&status) == [(bandwidth, "", "250M"), (iops, "", "5k")], "{:?}", status.devices);
    let reason = |axis: &str| {
        let told = status.isolation.iter().find(|told| told.axis == axis);
        told.map(|told| told.reason.clone()).unwrap_or_default()
    };
    ensure!(reason("network").contains(&format!("{bandwidth} is accounted only")), "{:?}", status.isolation);
    let limits = reason("limits");
    ensure!(
        ["is held on disk", "is accounted only"]
            .iter()
            .any(|word| limits.contains(&format!("{iops} {word}"))),
        "{limits}"
    );
    Ok(())
}

/// Ten Runs on two devices: each has one, no two have the same at once, and all come to their turn.
async fn one_run_per_device(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool_with(1, fpgas()).await?;
    for i in 0..10 {
        let script = "echo \"device=$FPGAS\" >> $KRUNTIME_OUTPUTS; sleep 0.2";
        cluster.submit(&format!("r-{i}"), asking(script, json!({FPGA: 1}))).await?;
    }
    let mut spans: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for i in 0..10 {
        let status = cluster.end(&format!("r-{i}")).await?;
        ensure!(phase(&status) == Phase::Succeeded, "{status:?}");
        let device = status.outputs.get("device").cloned().unwrap_or_default();
        ensure!(held(&status) == [(FPGA, device.as_str(), "1")], "{device}: {:?}", status.devices);
        spans.entry(device).or_default().push((status.start_time, status.completion_time));
    }
    ensure!(spans.len() == 2, "both devices were used: {spans:?}");
    for (device, mut spans) in spans {
        spans.sort_by_key(|(start, _)| start.as_ref().map(|t| t.0));
        let apart =
            spans.windows(2).all(|two| two[0].1.as_ref().map(|t| t.0) <= two[1].0.as_ref().map(|t| t.0));
        ensure!(apart, "{device} had two Runs at once: {spans:?}");
    }
    Ok(())
}

/// What makes no sense is refused by name, when it is written or as a condition of the Runtime.
async fn definitions(cluster: Cluster) -> anyhow::Result<()> {
    let refused = async |resources: Value, capacity: Value| -> anyhow::Result<String> {
        let spec = json!({"resources": resources, "capacity": {"resources": capacity}});
        let made = cluster.make_pool("odd", BASH_IMAGE, 1, spec).await;
        Ok(made.err().context("it was accepted")?.to_string())
    };
    let tokens = json!([{"name": "a", "kind": "Counted", "devices": ["x"]}]);
    ensure!(refused(tokens, json!({})).await?.contains("Indexed"), "devices of tokens");
    let twice =
        json!([{"name": "a", "kind": "Counted", "env": "E"}, {"name": "b", "kind": "Counted", "env": "E"}]);
    ensure!(refused(twice, json!({})).await?.contains("resources[].env"), "one variable for two");
    let ours = json!([{"name": "a", "kind": "Counted", "env": "KRUNTIME_OUTPUTS"}]);
    ensure!(refused(ours, json!({})).await?.contains("KRUNTIME_*"), "a variable of ours");
    let slots = json!([{"name": "runs", "kind": "Counted"}]);
    ensure!(refused(slots, json!({})).await?.contains("runs"), "the slots");
    let spec = json!({
        "resources": [{"name": FPGA, "kind": "Indexed", "devices": ["x", "y"]}],
        "capacity": {"resources": {FPGA: 3}},
    });
    cluster.make_pool("odd", BASH_IMAGE, 1, spec).await?;
    eventually("the Runtime to say what is wrong", || async {
        let status = cluster.runtimes().get("odd").await?.status.unwrap_or_default();
        let degraded = status.conditions.iter().find(|c| c.type_ == "Degraded" && c.status == "True");
        Ok(degraded.is_some_and(|c| c.reason == "InvalidCapacity" && c.message.contains(FPGA)))
    })
    .await
}

/// A name that neither the Runtime nor a server knows: not the words for too little of a known one. It waits, for the next Pod may
/// have it; whoever does not want to wait says for how long.
async fn unknown(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool_with(1, fpgas()).await?;
    let told = async |name: &str, amounts: Value, words: &[&str]| -> anyhow::Result<()> {
        cluster.submit(name, asking("true", amounts)).await?;
        let has = |status: &RunStatus| {
            let message = status.message.as_deref().unwrap_or_default();
            words.iter().all(|word| message.contains(word))
        };
        let status = cluster.until(name, has).await.with_context(|| format!("{words:?}"))?;
        ensure!(
            phase(&status) == Phase::Pending && status.reason == Some(Reason::Unschedulable),
            "{status:?}"
        );
        Ok(())
    };
    let offers = format!("Runtime \"bash\" offers example.com/bandwidth, {FPGA}, example.com/licence, runs");
    told("gpu", json!({"nvidia.com/gpu": 1}), &["unknown resource nvidia.com/gpu: ", &offers]).await?;
    let share = json!({"kruntimes.io/gpu-memory": "20Gi", FPGA: 1});
    told("share", share, &["unknown resource kruntimes.io/gpu-memory: ", &offers]).await?;
    told("many", json!({FPGA: 3}), &["1 lack example.com/fpga (want 3, offered 2)"]).await?;
    let mut spec = asking("true", json!({"nvidia.com/gpu": 1}));
    spec["pendingTimeout"] = json!("8s");
    let status = cluster.run("impatient", spec).await?;
    ensure!(status.reason == Some(Reason::PendingTimeout), "{status:?}");
    let message = status.message.unwrap_or_default();
    ensure!(message.contains("unknown resource nvidia.com/gpu"), "it says why it did not start: {message:?}");
    Ok(())
}

/// Each attempt has its record; the status has the last one's and the sum.
async fn usage_over_attempts(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool_with(1, fpgas()).await?;
    let script = "sleep 0.3; [ \"$KRUNTIME_ATTEMPT\" = 3 ]";
    let mut spec = asking(script, json!({"example.com/licence": 2}));
    spec["retryPolicy"] = json!({"maxAttempts": 3, "backoff": "0s"});
    let status = cluster.run("r", spec).await?;
    ensure!(phase(&status) == Phase::Succeeded && status.attempt == Some(3), "{status:?}");
    let name = "example.com/licence_held_seconds";
    let last = figure(&status, name).context("the last attempt's")?;
    let total = status.usage.as_ref().and_then(|usage| usage.total.iter().find(|f| f.name == name));
    let total = total.context("the sum")?;
    let wall = figure(&status, "wall_seconds").context("wall time")?;
    ensure!(last >= 2.0 * wall && wall >= 0.3, "two licences: {last} for {wall}");
    ensure!(total.value >= last + 2.0 * 2.0 * 0.3, "three attempts: {total:?}, the last {last}");
    ensure!((&*total.unit, &*total.source, &*total.scope) == ("s", "lease", "allocation"), "{total:?}");
    Ok(())
}
