//! Stock kubectl on our kinds and on Pods.

use anyhow::ensure;
use serde_json::Value;

use crate::cluster::{output, stdout};
use crate::{Case, Cluster};

pub(super) fn cases() -> Vec<Case> {
    vec![Case::new("kubectl_verbs", verbs)]
}

async fn verbs(cluster: Cluster) -> anyhow::Result<()> {
    let Some(version) = cluster.kubectl(&["version"]) else {
        println!("skipped: kubectl_verbs: KUBECTL names no kubectl");
        return Ok(());
    };
    stdout(version).await?;
    let kubectl = |arguments: &[&str]| {
        let command = cluster.kubectl(arguments);
        async move {
            match command {
                Some(command) => stdout(command).await,
                None => anyhow::bail!("no kubectl"),
            }
        }
    };
    let manifest = tempfile::Builder::new().suffix(".yaml").tempfile()?;
    std::fs::write(
        manifest.path(),
        "apiVersion: kruntimes.io/v1alpha1\nkind: Runtime\nmetadata: {name: bash}\nspec:\n  replicas: 1\n  template:\n    \
         spec:\n      containers: [{name: runtime, image: 'localhost/kruntimes/bash-server:dev'}]\n---\n\
         apiVersion: kruntimes.io/v1alpha1\nkind: Run\nmetadata: {name: hello}\nspec:\n  runtime: bash\n  source: {inline: 'echo hello; sleep 1'}\n",
    )?;
    let file = manifest.path().to_string_lossy().into_owned();
    ensure!(kubectl(&["apply", "-f", &file]).await?.contains("run.kruntimes.io/hello created"));
    ensure!(kubectl(&["apply", "-f", &file]).await?.contains("unchanged"), "a second apply changes nothing");
    kubectl(&["wait", "--for=jsonpath={.status.phase}=Succeeded", "run/hello", "--timeout=100s"]).await?;
    kubectl(&["wait", "--for=condition=Completed", "run/hello", "--timeout=100s"]).await?;
    let table = kubectl(&["get", "runs"]).await?;
    ensure!(table.starts_with("NAME") && table.contains("PHASE") && table.contains("Succeeded"), "{table}");
    let watched = kubectl(&["get", "runs", "-w", "--request-timeout=2s"]).await;
    ensure!(watched.is_ok_and(|out| out.contains("hello")), "get -w");
    ensure!(kubectl(&["describe", "run", "hello"]).await?.contains("Exit Code"), "describe");
    ensure!(
        kubectl(&["get", "pods", "-l", "runtime=bash"]).await?.contains("2/2"),
        "the Pod's two containers"
    );
    let pod = kubectl(&["get", "pods", "-l", "runtime=bash", "-o", "name"]).await?;
    let logs = kubectl(&["logs", pod.trim(), "-c", "runtimed"]).await?;
    ensure!(
        logs.lines().any(|line| line.contains("hello") && serde_json::from_str::<Value>(line).is_ok()),
        "{logs}"
    );
    kubectl(&["patch", "run", "hello", "--type=merge", "-p", r#"{"spec":{"ttlSecondsAfterFinished":3600}}"#])
        .await?;
    ensure!(
        kubectl(&["get", "run", "hello", "-o", "jsonpath={.spec.ttlSecondsAfterFinished}"]).await? == "3600"
    );
    kubectl(&["scale", "runtime/bash", "--replicas=2"]).await?;
    cluster.ready("bash", 2).await?;
    kubectl(&["get", "events"]).await?;
    kubectl(&["delete", "run", "hello"]).await?;
    if let Some(command) = cluster.kubectl(&["get", "run", "hello"]) {
        let gone = output(command).await?;
        ensure!(String::from_utf8_lossy(&gone.stderr).contains("NotFound"), "{gone:?}");
    }
    Ok(())
}
