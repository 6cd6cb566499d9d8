//! What everything is compared with: the same writes by a plain client, and the same program started by nobody but us.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kruntimes_api::Run;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::runs::no_op;

pub struct Written {
    /// Duration of the three writes of each object.
    pub objects_ms: Vec<f64>,
    pub objects_per_second: f64,
}

/// Three writes for each object, as a short Run has them: create, a status as at the bind, a status as at the end.
///
/// The objects are Runs that carry what a real one (`example`) carried. They are suspended and name no Pod, so that the
/// platform leaves them alone.
pub async fn write(
    api: &Api<Run>,
    example: &Run,
    prefix: &str,
    count: usize,
    clients: usize,
) -> Result<Written> {
    let (bind, end) = statuses(example)?;
    let start = Instant::now();
    let writes = stream::iter((0..count).map(|i| {
        let (bind, end) = (&bind, &end);
        async move {
            let name = format!("{prefix}-{i}");
            let mut run = no_op(&name);
            run.spec.suspend = Some(true);
            let start = Instant::now();
            api.create(&PostParams::default(), &run)
                .await
                .with_context(|| format!("cannot create {name}"))?;
            for status in [bind, end] {
                let patch = Patch::Merge(status);
                let patched = api.patch_status(&name, &PatchParams::default(), &patch).await;
                patched.with_context(|| format!("cannot write the status of {name}"))?;
            }
            anyhow::Ok(start.elapsed().as_secs_f64() * 1e3)
        }
    }));
    let objects_ms: Vec<f64> = writes.buffer_unordered(clients).try_collect().await?;
    Ok(Written { objects_per_second: count as f64 / start.elapsed().as_secs_f64(), objects_ms })
}

fn statuses(example: &Run) -> Result<(Value, Value)> {
    let mut end = serde_json::to_value(example.status.as_ref().context("the example has a status")?)?;
    let fields = end.as_object_mut().context("a status is an object")?;
    // Without a Pod nobody looks after it.
    for name in ["assignedPod", "assignedPodUID"] {
        fields.remove(name);
    }
    let mut bind = end.clone();
    bind["phase"] = json!("Pending");
    for name in
        ["usage", "isolation", "completionTime", "startTime", "exitCode", "reason", "logTail", "outputs"]
    {
        bind.as_object_mut().context("a status is an object")?.remove(name);
    }
    Ok((json!({"status": bind}), json!({"status": end})))
}

/// Starts a bash that does nothing and waits for it, one after another; milliseconds of each.
pub fn spawn(count: usize) -> Result<Vec<f64>> {
    (0..count)
        .map(|_| {
            let start = Instant::now();
            Command::new("bash").args(["-c", ":"]).status().context("cannot start bash")?;
            Ok(start.elapsed().as_secs_f64() * 1e3)
        })
        .collect()
}
