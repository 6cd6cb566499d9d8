//! From submission to the end: exit codes, outputs, usage, environment, logs.

use anyhow::ensure;
use futures::{StreamExt, TryStreamExt};
use kruntimes_api::Reason;
use kruntimes_api::run::{Phase, Run};
use kube::ResourceExt;
use kube::api::{WatchEvent, WatchParams};
use serde_json::json;

use crate::cluster::{PATIENCE, bash, bash_with, conditions, container, figure, phase, stdout};
use crate::{Case, Cluster};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("lifecycle_success", success),
        Case::new("lifecycle_three_writes", three_writes),
        Case::new("lifecycle_exit_codes", exit_codes),
        Case::new("lifecycle_entrypoint_and_args", entrypoint_and_args),
        Case::new("lifecycle_environment", environment),
        Case::new("lifecycle_outputs", outputs),
        Case::new("lifecycle_huge_output", huge_output),
        Case::new("lifecycle_ttl", ttl),
        Case::new("lifecycle_baseline_manifest", baseline_manifest),
    ]
}

async fn success(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool(1, 4).await?;
    let status =
        cluster.run_script("r", "echo out; echo err >&2; echo answer=42 >> $KRUNTIME_OUTPUTS").await?;
    ensure!(phase(&status) == Phase::Succeeded, "{status:?}");
    ensure!(status.reason == Some(Reason::Completed) && status.exit_code == Some(0), "{status:?}");
    ensure!(status.outputs.get("answer").map(String::as_str) == Some("42"), "{:?}", status.outputs);
    ensure!(status.attempt == Some(1) && status.assignment == Some(1), "{status:?}");
    let found = conditions(&status);
    ensure!(found["Completed"] == ("True".into(), "RunCompleted".into()), "{found:?}");
    ensure!(found["Running"] == ("False".into(), "Completed".into()), "{found:?}");
    let times = [&status.queued_time, &status.scheduled_time, &status.start_time, &status.completion_time];
    let times: Vec<_> = times.iter().filter_map(|t| t.as_ref().map(|t| t.0)).collect();
    ensure!(times.len() == 4 && times.is_sorted(), "times in order: {times:?}");
    for name in ["wall_seconds", "cpu_user_seconds", "cpu_system_seconds", "memory_peak_bytes"] {
        ensure!(figure(&status, name).is_some(), "usage has {name}: {:?}", status.usage);
    }
    ensure!(figure(&status, "memory_peak_bytes") > Some(0.0), "{:?}", status.usage);
    let axes: Vec<_> = status.isolation.iter().map(|a| a.axis.as_str()).collect();
    for axis in ["limits", "kill", "files", "devices", "network", "privileges"] {
        ensure!(axes.contains(&axis), "isolation names {axis}: {axes:?}");
    }
    Ok(())
}

/// Create, bind and finish: a short Run is written three times. What was refused or changed nothing is counted where
/// the API counts requests: [`super::trouble`].
async fn three_writes(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool(1, 4).await?;
    cluster.run_script("warm", "true").await?;
    let version = cluster.runs().get("warm").await?.resource_version().unwrap_or_default();
    let parameters = WatchParams::default().fields("metadata.name=r").timeout(60);
    let api = cluster.runs();
    let mut events = api.watch(&parameters, &version).await?.boxed();
    cluster.script("r", "true").await?;
    let mut writes = Vec::new();
    while let Some(event) = events.try_next().await? {
        if let WatchEvent::Added(run) | WatchEvent::Modified(run) = event {
            let run: Run = run;
            let now = run.status.map(|s| phase(&s)).unwrap_or_default();
            writes.push(now);
            if now.is_terminal() {
                break;
            }
        }
    }
    // `Running` is written when the work outlives the coalescing window, as on a loaded machine.
    ensure!(writes.len() <= 4, "{writes:?}");
    ensure!(
        writes.first() == Some(&Phase::Pending) && writes.last() == Some(&Phase::Succeeded),
        "{writes:?}"
    );
    Ok(())
}

async fn exit_codes(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool(1, 8).await?;
    let failed = cluster.run_script("three", "echo the last words >&2; exit 3").await?;
    ensure!(phase(&failed) == Phase::Failed && failed.reason == Some(Reason::NonZeroExit), "{failed:?}");
    ensure!(failed.exit_code == Some(3), "{failed:?}");
    ensure!(failed.log_tail.as_deref().unwrap_or_default().contains("the last words"), "{failed:?}");
    ensure!(conditions(&failed)["Completed"] == ("False".into(), "RuntimeError".into()), "{failed:?}");
    let killed = cluster.run_script("killed", "kill -KILL $$").await?;
    ensure!(phase(&killed) == Phase::Failed && killed.exit_code == Some(137), "{killed:?}");
    let spec = bash_with("sleep 600", json!({"timeout": "1s"}));
    cluster.submit("slow", spec).await?;
    let slow = cluster.end("slow").await?;
    ensure!(phase(&slow) == Phase::Timeout && slow.reason == Some(Reason::Timeout), "{slow:?}");
    ensure!(slow.message.as_deref().unwrap_or_default().contains("1s"), "{slow:?}");
    Ok(())
}

async fn entrypoint_and_args(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool(1, 4).await?;
    let one =
        json!({"runtime": "bash", "mode": {"task": {"args": ["echo word=$((40+2)) >> $KRUNTIME_OUTPUTS"]}}});
    cluster.submit("one", one).await?;
    ensure!(
        cluster.end("one").await?.outputs.get("word").map(String::as_str) == Some("42"),
        "one argument is a command"
    );
    let lines = json!({"runtime": "bash", "mode": {"task": {"args": ["word=42", "echo word=$word >> $KRUNTIME_OUTPUTS"]}}});
    cluster.submit("lines", lines).await?;
    ensure!(
        cluster.end("lines").await?.outputs.get("word").map(String::as_str) == Some("42"),
        "several are lines"
    );
    cluster.submit("nothing", json!({"runtime": "bash"})).await?;
    let nothing = cluster.end("nothing").await?;
    ensure!(phase(&nothing) == Phase::Failed, "{nothing:?}");
    ensure!(nothing.message.as_deref().unwrap_or_default().contains("no args or script"), "{nothing:?}");
    Ok(())
}

/// The server's environment never wins, and little of it reaches a Run.
async fn environment(cluster: Cluster) -> anyhow::Result<()> {
    let mut container = container();
    container["env"] = json!([{"name": "CLASH", "value": "server"}, {"name": "SECRET", "value": "server"}]);
    let template = json!({"spec": {"containers": [container]}});
    cluster.bash_pool_with(1, json!({"template": template})).await?;
    let script = r#"for v in CLASH SECRET QUOTED EMPTY KRUNTIME_RUN_NAME KRUNTIME_NAMESPACE KRUNTIME_ATTEMPT KRUNTIME_RUNTIME KRUNTIME_SOCKET_DIR; do
        echo "$v=<${!v}>" >> $KRUNTIME_OUTPUTS; done"#;
    let env = json!([{"name": "CLASH", "value": "run"}, {"name": "QUOTED", "value": "a \"b\" $c 'd' ü"}, {"name": "EMPTY"}]);
    cluster.submit("r", bash_with(script, json!({"env": env}))).await?;
    let outputs = cluster.end("r").await?.outputs;
    let expected = [
        ("CLASH", "<run>"),
        ("SECRET", "<>"),
        ("QUOTED", "<a \"b\" $c 'd' ü>"),
        ("EMPTY", "<>"),
        ("KRUNTIME_RUN_NAME", "<r>"),
        ("KRUNTIME_NAMESPACE", &format!("<{}>", cluster.namespace)),
        ("KRUNTIME_ATTEMPT", "<1>"),
        ("KRUNTIME_RUNTIME", "<bash>"),
        ("KRUNTIME_SOCKET_DIR", "<>"),
    ];
    for (name, value) in expected {
        ensure!(outputs.get(name).map(String::as_str) == Some(value), "{name}: {outputs:?}");
    }
    Ok(())
}

async fn outputs(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool(1, 4).await?;
    let text = "printf ' a = 1 \\n# comment\\n\\nb=x=y\\r\\na=2\\n' > $KRUNTIME_OUTPUTS";
    let good = cluster.run_script("good", text).await?;
    ensure!(
        good.outputs.len() == 2 && good.outputs["a"] == "2" && good.outputs["b"] == "x=y",
        "{:?}",
        good.outputs
    );
    let bad = cluster.run_script("bad", "printf 'a=1\\nno equals sign\\n' > $KRUNTIME_OUTPUTS").await?;
    ensure!(phase(&bad) == Phase::Failed && bad.reason == Some(Reason::OutputsInvalid), "{bad:?}");
    ensure!(bad.message.as_deref().unwrap_or_default().contains("line 2"), "{bad:?}");
    let large = cluster
        .run_script("large", "printf 'a=%s\\n' $(head -c 9000 /dev/zero | tr '\\0' x) > $KRUNTIME_OUTPUTS")
        .await?;
    ensure!(large.reason == Some(Reason::OutputsTooLarge), "{large:?}");
    let many =
        cluster.run_script("many", "for i in $(seq 65); do echo k$i=1; done > $KRUNTIME_OUTPUTS").await?;
    ensure!(many.reason == Some(Reason::OutputsTooLarge), "{many:?}");
    let link = cluster.run_script("link", "ln -s /etc/passwd $KRUNTIME_OUTPUTS").await?;
    ensure!(
        link.reason == Some(Reason::OutputsInvalid) && link.outputs.is_empty(),
        "a link is not followed: {link:?}"
    );
    let failed = cluster.run_script("failed", "echo a=1 > $KRUNTIME_OUTPUTS; exit 1").await?;
    ensure!(failed.outputs.is_empty(), "outputs count only on success: {failed:?}");
    Ok(())
}

/// 1 GiB of invalid UTF-8 neither blocks the Run nor hurts the Pod.
async fn huge_output(cluster: Cluster) -> anyhow::Result<()> {
    // Not a time that anybody is promised: a gigabyte through two pipes on a machine that does much else.
    let cluster = Cluster { patience: 4 * PATIENCE, ..cluster };
    cluster.bash_pool(1, 4).await?;
    let script = "head -c 1G /dev/zero | tr '\\0' '\\377'; echo; echo done >&2";
    let status = cluster.run_script("huge", script).await?;
    ensure!(phase(&status) == Phase::Succeeded, "{status:?}");
    let after = cluster.run_script("after", "echo still here").await?;
    ensure!(phase(&after) == Phase::Succeeded, "{after:?}");
    Ok(())
}

async fn ttl(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool(1, 4).await?;
    cluster.submit("short", bash_with("true", json!({"ttlSecondsAfterFinished": 1}))).await?;
    cluster.submit("kept", bash_with("true", json!({"ttlSecondsAfterFinished": 0}))).await?;
    cluster.gone("short").await?;
    ensure!(phase(&cluster.end("kept").await?) == Phase::Succeeded, "0 keeps");
    Ok(())
}

/// What the original's manifests say means the same here, also when a client writes the whole object back.
async fn baseline_manifest(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool(1, 4).await?;
    let spec = json!({
        "runtime": "bash",
        "mode": {"task": {"entrypoint": "script"}},
        "source": {"inline": "echo \"v=$V\" >> $KRUNTIME_OUTPUTS; sleep 2"},
        "env": [{"name": "V", "value": "1"}],
        "resources": {"requests": {"runs": 1}},
        "timeout": "90s",
        "retryPolicy": {"maxAttempts": 2, "backoff": "1s"},
        "workspace": {"name": "shared"},
    });
    cluster.submit("r", spec).await?;
    let rewritten = json!({
        "timeout": "1m30s",
        "mode": {"task": {"entrypoint": "script", "args": []}},
        "resources": {"requests": {"runs": "1"}},
        "workspace": {"name": "shared", "kind": "PersistentWorkspace", "apiGroup": "kruntimes.io/v1alpha1"},
    });
    cluster.patch_spec("r", rewritten).await?;
    let status = cluster.end("r").await?;
    ensure!(phase(&status) == Phase::Succeeded && status.outputs["v"] == "1", "{status:?}");
    if let Some(kubectl) = cluster.kubectl(&["get", "rn", "r", "-o", "name"]) {
        ensure!(stdout(kubectl).await?.trim() == "run.kruntimes.io/r", "the short name works");
    }
    cluster.submit("again", bash("true")).await?;
    ensure!(phase(&cluster.end("again").await?) == Phase::Succeeded, "mode may be left out");
    Ok(())
}
