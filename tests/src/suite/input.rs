//! Bad input: one clear error that names the field, and the platform goes on.

use anyhow::{Context, bail, ensure};
use kruntimes_api::Reason;
use kruntimes_api::run::Phase;
use serde_json::{Value, json};

use crate::cluster::{BASH_IMAGE, bash, bash_with, eventually, phase};
use crate::{Case, Cluster};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = cases_of_the_api();
    cases.extend([
        Case::new("input_terminal_is_final", terminal_is_final),
        Case::new("input_unknown_runtime", unknown_runtime),
        Case::new("input_fractional_request", fractional_request),
        Case::new("input_git", git),
        Case::new("input_bad_runtime", bad_runtime),
    ]);
    cases
}

/// What the API itself refuses, without anything behind it.
pub(super) fn cases_of_the_api() -> Vec<Case> {
    vec![Case::new("input_refused_by_the_api", refused), Case::new("input_immutable_fields", immutable)]
}

async fn refused(cluster: Cluster) -> anyhow::Result<()> {
    let many: Vec<Value> = (0..10_000).map(|i| json!({"name": format!("V{i}"), "value": "1"})).collect();
    let cases = [
        ("runtime", json!({"runtime": "a b"})),
        ("runtime", json!({})),
        ("timeout", bash_with("true", json!({"timeout": "abc"}))),
        ("timeout", bash_with("true", json!({"timeout": "0s"}))),
        ("entrypoint", json!({"runtime": "bash", "mode": {"task": {"entrypoint": "/bin/sh"}}})),
        ("entrypoint", json!({"runtime": "bash", "mode": {"task": {"entrypoint": "a/../../b"}}})),
        ("inline", bash(&"x".repeat(300 * 1024))),
        ("env", bash_with("true", json!({"env": many}))),
        ("env", bash_with("true", json!({"env": [{"name": "A"}, {"name": "A"}]}))),
        (
            "valueFrom",
            bash_with("true", json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s"}}}]})),
        ),
        ("requests", bash_with("true", json!({"resources": {"requests": {"runs": -1}}}))),
        ("limits", bash_with("true", json!({"resources": {"limits": {"bananas": 1}}}))),
        ("maxAttempts", bash_with("true", json!({"retryPolicy": {"maxAttempts": 0}}))),
        ("mode", json!({"runtime": "bash", "mode": {"task": {}, "function": {"handler": "a.b"}}})),
        ("source", json!({"runtime": "bash", "source": {"inline": "x", "repoURL": "https://localhost/x"}})),
        ("commitSHA", json!({"runtime": "bash", "source": {"commitSHA": "main"}})),
        ("ttlSecondsAfterFinished", bash_with("true", json!({"ttlSecondsAfterFinished": -1}))),
        (
            "labelSelector",
            bash_with(
                "true",
                json!({"affinity": {"runAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            [{"labelSelector": {}, "topologyKey": "kruntimes.io/runtime-pod"}]}}}),
            ),
        ),
    ];
    for (field, spec) in cases {
        match cluster.try_submit("bad", spec).await {
            Err(kube::Error::Api(status)) => {
                ensure!(status.code == 422 || status.code == 400, "{field}: {status:?}");
                ensure!(status.message.contains(field), "{field} is not named: {}", status.message);
            }
            Err(error) => bail!("{field}: {error}"),
            Ok(_) => bail!("{field} was accepted"),
        }
    }
    let name = "n".repeat(254);
    ensure!(cluster.try_submit(&name, bash("true")).await.is_err(), "a name of 254 characters was accepted");
    Ok(())
}

async fn immutable(cluster: Cluster) -> anyhow::Result<()> {
    let env = json!([{"name": "A", "value": "1"}, {"name": "B"}]);
    let spec = json!({"suspend": true, "env": env, "timeout": "60s", "priority": 1, "resources": {"requests": {"cpu": "500m"}},
        "mode": {"task": {"args": ["a"]}}});
    cluster.submit("r", bash_with("true", spec)).await?;
    let allowed = [
        json!({"timeout": "1m0s"}),
        json!({"env": [{"name": "A", "value": "1"}, {"name": "B", "value": ""}]}),
        json!({"resources": {"requests": {"cpu": "0.5"}}}),
        json!({"retryPolicy": {"maxAttempts": 1, "backoff": null}}),
        json!({"retryPolicy": null}),
        json!({"retryPolicy": {}}),
        json!({"options": {}}),
        json!({"mode": {"task": {"entrypoint": ""}}}),
        json!({"ttlSecondsAfterFinished": 100}),
        json!({"cancelRequested": false}),
    ];
    for spec in allowed {
        cluster.patch_spec("r", spec.clone()).await.map_err(|e| anyhow::anyhow!("{spec}: {e}"))?;
    }
    let refused = [
        ("timeout", json!({"timeout": "61s"})),
        ("timeout", json!({"timeout": null})),
        ("runtime", json!({"runtime": "other"})),
        ("priority", json!({"priority": 2})),
        ("env", json!({"env": [{"name": "A", "value": "2"}, {"name": "B"}]})),
        ("env", json!({"env": null})),
        ("inline", json!({"source": {"inline": "false"}})),
        ("requests", json!({"resources": {"requests": {"cpu": "600m"}}})),
        ("args", json!({"mode": {"task": {"args": ["x"]}}})),
        ("mode", json!({"mode": null})),
        ("source", json!({"source": null})),
        ("resources", json!({"resources": null})),
        ("maxAttempts", json!({"retryPolicy": {"maxAttempts": 2}})),
        ("workspace", json!({"workspace": {"name": "w"}})),
        ("options", json!({"options": {"a": "b"}})),
    ];
    for (field, spec) in refused {
        match cluster.patch_spec("r", spec.clone()).await {
            Err(kube::Error::Api(status)) => {
                ensure!(status.message.contains(field), "{field}: {}", status.message)
            }
            other => bail!("{spec}: {other:?}"),
        }
    }
    cluster.patch_spec("r", json!({"cancelRequested": true})).await?;
    ensure!(
        cluster.patch_spec("r", json!({"cancelRequested": false})).await.is_err(),
        "a cancel was taken back"
    );
    Ok(())
}

async fn terminal_is_final(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool(1, 2).await?;
    cluster.run_script("r", "true").await?;
    for status in
        [json!({"phase": "Failed"}), json!({"reason": "Timeout"}), json!(null), json!({"attempt": 7})]
    {
        let patch = kube::api::Patch::Merge(json!({"status": status}));
        let result = cluster.runs().patch_status("r", &kube::api::PatchParams::default(), &patch).await;
        ensure!(result.is_err(), "{status} was accepted on an ended Run");
    }
    Ok(())
}

async fn unknown_runtime(cluster: Cluster) -> anyhow::Result<()> {
    cluster.submit("r", json!({"runtime": "nowhere", "source": {"inline": "true"}})).await?;
    let status = cluster.until("r", |s| s.reason == Some(Reason::Unschedulable)).await?;
    ensure!(phase(&status) == Phase::Pending, "{status:?}");
    ensure!(status.message.as_deref().unwrap_or_default().contains("nowhere"), "{status:?}");
    cluster.patch_spec("r", json!({"cancelRequested": true})).await?;
    ensure!(phase(&cluster.end("r").await?) == Phase::Cancelled, "cancelled while Pending");
    Ok(())
}

async fn fractional_request(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool(1, 2).await?;
    cluster.submit("r", bash_with("true", json!({"resources": {"requests": {"runs": "1500m"}}}))).await?;
    let status = cluster.end("r").await?;
    ensure!(phase(&status) == Phase::Failed && status.reason == Some(Reason::InvalidRun), "{status:?}");
    ensure!(status.message.as_deref().unwrap_or_default().contains("runs"), "{status:?}");
    Ok(())
}

/// Nothing answers on port 1; the error is git's own last line.
async fn git(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool(1, 2).await?;
    let spec = json!({"runtime": "bash", "source": {"repoURL": "http://127.0.0.1:1/none.git"}, "mode": {"task": {"entrypoint": "x.sh"}}});
    cluster.submit("closed", spec).await?;
    let closed = cluster.end("closed").await?;
    ensure!(closed.reason == Some(Reason::SourceFailed), "{closed:?}");
    ensure!(closed.message.as_deref().unwrap_or_default().contains("127.0.0.1"), "{closed:?}");
    for (name, url) in
        [("file", "file:///etc"), ("option", "--upload-pack=x"), ("plain", "http://example.invalid/x.git")]
    {
        let spec =
            json!({"runtime": "bash", "source": {"repoURL": url}, "mode": {"task": {"entrypoint": "x.sh"}}});
        cluster.submit(name, spec).await?;
        let status = cluster.end(name).await?;
        ensure!(phase(&status) == Phase::Failed, "{url}: {status:?}");
        ensure!(status.message.as_deref().unwrap_or_default().contains("repoURL"), "{url}: {status:?}");
    }
    Ok(())
}

/// A Runtime that cannot work is refused by the API, or says so in a condition; others are not held up.
async fn bad_runtime(cluster: Cluster) -> anyhow::Result<()> {
    let container = json!({"name": "runtime", "image": BASH_IMAGE});
    let of = |containers: Value| json!({"replicas": 1, "template": {"spec": {"containers": containers}}});
    let with = |field: &str, value: Value| {
        let mut spec = of(json!([container]));
        spec[field] = value;
        spec
    };
    let runs = |amount: Value| with("capacity", json!({"resources": {"runs": amount}}));
    let refused = [
        ("name", of(json!([{"name": "main", "image": "a"}])), "must be named runtime"),
        ("no-list", of(json!("none")), "containers"),
        ("port", with("port", json!(0)), "port"),
        ("less", runs(json!(-1)), "must not be negative"),
        ("store", with("artifactStore", json!({"driver": "floppy"})), "artifactStore is not available yet"),
    ];
    for (name, spec, word) in refused {
        match cluster.client.request::<Value>(cluster.runtime_creation(name, spec)?).await {
            Err(kube::Error::Api(status)) => {
                ensure!(matches!(status.code, 400 | 422), "{name}: {status:?}");
                ensure!(status.message.contains(word), "{name}: {word:?} in {}", status.message);
            }
            other => bail!("{name}: {other:?}"),
        }
    }
    let degraded = [
        ("image", of(json!([{"name": "runtime", "image": "localhost/no-such-server:1"}])), "no-such-server"),
        ("twice", of(json!([container, {"name": "x", "image": "a"}, {"name": "x", "image": "b"}])), "\"x\""),
        ("sidecars-port", with("port", json!(9094)), "spec.port 9094"),
        ("no-runs", runs(json!(0)), "capacity.resources.runs is 0"),
        ("half", runs(json!("500m")), "runs"),
        ("volume", with("workspace", json!({"floppy": {}})), "spec.workspace"),
        (
            "no-template",
            of(json!([{"name": "runtime", "image": BASH_IMAGE, "env": 7}])),
            "spec.template cannot be decoded",
        ),
    ];
    for (name, spec, _) in &degraded {
        let request = cluster.runtime_creation(name, spec.clone())?;
        cluster.client.request::<Value>(request).await.with_context(|| (*name).to_owned())?;
    }
    cluster.bash_pool(1, 2).await?;
    for (name, _, word) in degraded {
        eventually(&format!("runtime {name} to say {word}"), || async {
            let status = cluster.runtimes().get(name).await?.status.unwrap_or_default();
            let degraded = status.conditions.iter().find(|c| c.type_ == "Degraded");
            Ok(degraded.is_some_and(|c| c.status == "True" && c.message.contains(word)))
        })
        .await?;
    }
    ensure!(phase(&cluster.run_script("r", "true").await?) == Phase::Succeeded, "the good pool works");
    Ok(())
}
