//! Deployments make Pods, without ReplicaSets between them.
//!
//! A pass reads a Deployment and its Pods, plans without side effects, and then acts.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::api::errors::ApiError;
use crate::api::{Api, DeleteOptions, WriteOptions, random_suffix};
use crate::object::{self, list, map_at, metadata, text};
use crate::store::Key;

/// The label that tells the Pods of one template from those of another.
pub const HASH_LABEL: &str = "pod-template-hash";

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Changes this close together are handled in one pass.
const GATHER: Duration = Duration::from_millis(5);

/// How soon a pass that failed is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// Runs until `stop`.
pub async fn run(api: Arc<Api>, stop: CancellationToken) {
    let mut deployments = api.store.changes(api.kinds.core("deployments"));
    let mut pods = api.store.changes(api.kinds.core("pods"));
    loop {
        deployments.borrow_and_update();
        pods.borrow_and_update();
        let mut failed = false;
        for deployment in api.objects("deployments", "") {
            if let Err(why) = reconcile(&api, &deployment).await {
                failed = true;
                tracing::warn!(%why, deployment = object::name(&deployment), "cannot reconcile");
            }
        }
        let changed = tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETRY), if failed => Ok(()),
            changed = deployments.changed() => changed,
            changed = pods.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
        tokio::time::sleep(GATHER).await;
    }
}

async fn reconcile(api: &Api, deployment: &Value) -> Result<(), ApiError> {
    if object::deleting(deployment) {
        return Ok(());
    }
    let uid = object::uid(deployment);
    let namespace = object::namespace(deployment);
    let mut pods = api.objects("pods", namespace);
    pods.retain(|pod| list(pod, "/metadata/ownerReferences").iter().any(|o| text(o, "/uid") == uid));
    let plan = plan(deployment, &pods);
    let kind = api.kinds.core("pods");
    for pod in &plan.delete {
        let options = DeleteOptions { uid: Some(object::uid(pod).to_owned()), ..DeleteOptions::default() };
        match api.delete(kind, &Key::of(pod), &options).await {
            Ok(_) | Err(ApiError::NotFound { .. } | ApiError::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    for _ in 0..plan.create {
        let pod = pod_of(deployment, &plan.hash);
        api.create(kind, namespace, pod, &WriteOptions::internal()).await?;
    }
    api.change_status("deployments", &Key::of(deployment), uid, |d| set_status(d, &plan.counts)).await
}

/// What a Deployment needs now.
#[derive(Debug, PartialEq)]
pub struct Plan<'a> {
    pub hash: String,
    pub create: usize,
    pub delete: Vec<&'a Value>,
    pub counts: Counts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub desired: usize,
    pub total: usize,
    pub updated: usize,
    pub ready: usize,
    /// Most that may be missing while Pods are replaced.
    pub may_miss: usize,
    pub generation: i64,
}

pub fn ready(pod: &Value) -> bool {
    list(pod, "/status/conditions").iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

fn ended(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

fn cost(pod: &Value) -> i64 {
    pod["metadata"]["annotations"][DELETION_COST].as_str().and_then(|c| c.parse().ok()).unwrap_or(0)
}

/// The order in which Pods are given up: not ready, cheap, young ones first.
fn give_up_order(pods: &mut [&Value]) {
    pods.sort_by(|a, b| {
        let born = |pod: &Value| text(pod, "/metadata/creationTimestamp").to_owned();
        ready(a).cmp(&ready(b)).then(cost(a).cmp(&cost(b))).then(born(b).cmp(&born(a)))
    });
}

/// A number of Pods, or a share of `of` in percent.
fn amount(value: &Value, of: usize, round_up: bool) -> usize {
    match value {
        Value::Number(n) => n.as_u64().unwrap_or(0) as usize,
        Value::String(text) => {
            let percent: usize = text.trim_end_matches('%').parse().unwrap_or(0);
            if round_up { (of * percent).div_ceil(100) } else { of * percent / 100 }
        }
        _ => 0,
    }
}

/// Ten hex digits that change with the template.
pub fn template_hash(deployment: &Value) -> String {
    let template = deployment["spec"]["template"].to_string();
    Sha256::digest(template.as_bytes()).iter().take(5).map(|b| format!("{b:02x}")).collect()
}

/// Pure: what to create and delete, and what the status will say.
pub fn plan<'a>(deployment: &Value, pods: &'a [Value]) -> Plan<'a> {
    let hash = template_hash(deployment);
    let spec = &deployment["spec"];
    let desired = spec["replicas"].as_u64().unwrap_or(1) as usize;
    let rolling = &spec["strategy"]["rollingUpdate"];
    let recreate = text(spec, "/strategy/type") == "Recreate";
    let surge = if recreate { 0 } else { amount(&rolling["maxSurge"], desired, true) };
    let mut may_miss = if recreate { desired } else { amount(&rolling["maxUnavailable"], desired, false) };
    if surge == 0 {
        may_miss = may_miss.max(1);
    }
    let (gone, living): (Vec<_>, Vec<_>) = pods.iter().partition(|p| object::deleting(p) || ended(p));
    let mut delete: Vec<_> = gone.iter().filter(|p| !object::deleting(p)).copied().collect();
    let (mut new, mut old): (Vec<_>, Vec<_>) =
        living.into_iter().partition(|p| p["metadata"]["labels"][HASH_LABEL] == hash.as_str());
    let counts = Counts {
        desired,
        total: new.len() + old.len(),
        updated: new.len(),
        ready: new.iter().chain(&old).filter(|p| ready(p)).count(),
        may_miss,
        generation: deployment.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0),
    };
    give_up_order(&mut new);
    give_up_order(&mut old);
    let surplus = new.len().saturating_sub(desired);
    delete.extend(new.drain(..surplus));
    // Recreate waits until the last old Pod is really gone.
    let held = recreate && pods.iter().any(|p| p["metadata"]["labels"][HASH_LABEL] != hash.as_str());
    let room = (desired + surge).saturating_sub(new.len() + old.len());
    let create = if held { 0 } else { room.min(desired.saturating_sub(new.len())) };
    // Old Pods that are not ready serve nobody; ready ones go while enough others are ready.
    let ready_left = new.iter().chain(&old).filter(|p| ready(p)).count();
    let mut spare = ready_left.saturating_sub(desired.saturating_sub(may_miss));
    for pod in old {
        let is_ready = ready(pod);
        if !is_ready || spare > 0 {
            spare -= usize::from(is_ready);
            delete.push(pod);
        }
    }
    Plan { hash, create, delete, counts }
}

/// A new Pod of the Deployment's template.
fn pod_of(deployment: &Value, hash: &str) -> Value {
    let name = object::name(deployment);
    let template = &deployment["spec"]["template"];
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"], "spec": template["spec"],
    });
    let meta = metadata(&mut pod);
    meta.remove("creationTimestamp");
    meta.insert("name".into(), json!(format!("{name}-{hash}-{}", random_suffix(5))));
    meta.insert(
        "ownerReferences".into(),
        json!([{
            "apiVersion": "apps/v1", "kind": "Deployment", "name": name, "uid": object::uid(deployment),
            "controller": true, "blockOwnerDeletion": true,
        }]),
    );
    map_at(&mut pod["metadata"], "labels").insert(HASH_LABEL.into(), json!(hash));
    pod
}

fn set_status(deployment: &mut Value, counts: &Counts) {
    let status = map_at(deployment, "status");
    for (key, count) in [
        ("replicas", counts.total),
        ("updatedReplicas", counts.updated),
        ("readyReplicas", counts.ready),
        ("availableReplicas", counts.ready),
        ("unavailableReplicas", counts.desired.saturating_sub(counts.ready)),
    ] {
        if count == 0 {
            status.remove(key);
        } else {
            status.insert(key.into(), json!(count));
        }
    }
    status.insert("observedGeneration".into(), json!(counts.generation));
    let available = counts.ready >= counts.desired.saturating_sub(counts.may_miss);
    if available {
        let message = "Deployment has minimum availability.";
        object::set_condition(deployment, "Available", true, "MinimumReplicasAvailable", message);
    } else {
        let message = "Deployment does not have minimum availability.";
        object::set_condition(deployment, "Available", false, "MinimumReplicasUnavailable", message);
    }
    let Counts { desired, total, updated, ready, .. } = *counts;
    if updated == desired && ready >= desired && total == updated {
        let message = "All Pods of the template are available.";
        object::set_condition(deployment, "Progressing", true, "NewReplicaSetAvailable", message);
    } else {
        object::set_condition(
            deployment,
            "Progressing",
            true,
            "ReplicaSetUpdated",
            "Pods are being replaced.",
        );
    }
}

#[cfg(test)]
mod tests;
