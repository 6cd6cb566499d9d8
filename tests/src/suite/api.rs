//! What an API server says by itself: schema, rules and admission policies, on the oldest version that we claim as on the newest.

use anyhow::{Context, ensure};
use http::HeaderName;
use kruntimes_api::Run;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::rights::refused;
use crate::cluster::{bash_with, eventually, stdout};
use crate::{Case, Cluster};

/// The cases.
pub fn cases() -> Vec<Case> {
    let mut cases = super::input::cases_of_the_api();
    cases.extend([
        Case::new("api_terminal_is_final", terminal_is_final),
        Case::new("api_a_status_belongs_to_its_pod", status_of_its_pod),
        Case::new("api_submitter_is_who_asks", submitter),
        Case::new("api_selectable_fields", selectable_fields),
    ]);
    cases
}

async fn write(cluster: &Cluster, run: &str, status: Value) -> Result<Run, kube::Error> {
    let patch = Patch::Merge(json!({"status": status}));
    cluster.runs().patch_status(run, &PatchParams::default(), &patch).await
}

async fn terminal_is_final(cluster: Cluster) -> anyhow::Result<()> {
    cluster.script("r", "true").await?;
    write(&cluster, "r", json!({"phase": "Succeeded", "reason": "Completed", "attempt": 1})).await?;
    for status in
        [json!({"phase": "Failed"}), json!({"reason": "Timeout"}), json!(null), json!({"attempt": 7})]
    {
        let result = write(&cluster, "r", status.clone()).await;
        refused(&status.to_string(), "is final once the Run has ended", result)?;
    }
    Ok(())
}

/// Somebody with the words that the API server takes from a token bound to a Pod.
async fn status_of_its_pod(cluster: Cluster) -> anyhow::Result<()> {
    for (name, pod) in [("mine", "p1"), ("foreign", "p2")] {
        cluster.script(name, "true").await?;
        let own = json!({"phase": "Scheduled", "assignedPod": pod, "assignedPodUID": format!("uid-{pod}"),
            "assignment": 1, "attempt": 1});
        write(&cluster, name, own).await?;
    }
    let user = format!("system:serviceaccount:{}:pods", cluster.namespace);
    for arguments in [
        &[
            "create",
            "role",
            "runtimed",
            "--verb=get,patch",
            "--resource=runs.kruntimes.io,runs.kruntimes.io/status",
        ][..],
        &["create", "rolebinding", "runtimed", "--role=runtimed", &format!("--user={user}")],
    ] {
        stdout(cluster.kubectl(arguments).context("no kubectl")?).await?;
    }
    let as_pod = async |run: &str, status: Value| {
        let url = format!("/apis/kruntimes.io/v1alpha1/namespaces/{}/runs/{run}/status", cluster.namespace);
        let mut request = http::Request::patch(&url)
            .header("content-type", "application/merge-patch+json")
            .header("impersonate-user", &user)
            .body(serde_json::to_vec(&json!({"status": status}))?)?;
        for (word, value) in [("pod-name", "p1"), ("pod-uid", "uid-p1")] {
            let name = format!("impersonate-extra-authentication.kubernetes.io%2f{word}");
            request.headers_mut().insert(HeaderName::from_bytes(name.as_bytes())?, value.parse()?);
        }
        anyhow::Ok(cluster.client.request::<Run>(request).await)
    };
    eventually("rights and policies to hold", || async {
        let said = as_pod("foreign", json!({"message": "x"})).await?;
        Ok(said.is_err_and(|error| error.to_string().contains("not by pod p1")))
    })
    .await?;
    refused("a foreign end", "not by pod p1", as_pod("foreign", json!({"phase": "Failed"})).await?)?;
    let away = json!({"assignedPod": "p2", "assignedPodUID": "uid-p2"});
    refused("its Run for another", "may not give it to another pod", as_pod("mine", away).await?)?;
    refused("an assignment", "the scheduler's", as_pod("mine", json!({"assignment": 9})).await?)?;
    as_pod("mine", json!({"phase": "Running"})).await?.context("its own Run is its own")?;
    Ok(())
}

async fn submitter(cluster: Cluster) -> anyhow::Result<()> {
    eventually("the policy to hold", || async {
        let name = format!("r-{}", jiff::Timestamp::now().as_microsecond());
        let lie = cluster.try_submit(&name, bash_with("true", json!({"submitter": "bob"}))).await;
        Ok(lie.is_err_and(|error| error.to_string().contains("spec.submitter: must be your own name")))
    })
    .await?;
    cluster.submit_as("alice", "own", bash_with("true", json!({}))).await?;
    Ok(())
}

/// What every component's watch is limited by.
async fn selectable_fields(cluster: Cluster) -> anyhow::Result<()> {
    for name in ["a", "b"] {
        cluster.script(name, "true").await?;
    }
    write(&cluster, "b", json!({"phase": "Scheduled", "assignedPod": "p1", "assignedPodUID": "u"})).await?;
    let list = async |fields: &str| {
        let parameters = kube::api::ListParams::default().fields(fields);
        let names =
            cluster.runs().list(&parameters).await?.items.into_iter().filter_map(|run| run.metadata.name);
        anyhow::Ok(names.collect::<Vec<_>>())
    };
    for (fields, names) in [
        ("status.assignedPod=p1", &["b"][..]),
        ("status.phase=", &["a"]),
        ("status.phase!=,status.phase!=Succeeded", &["b"]),
    ] {
        let found = list(fields).await?;
        ensure!(found == names, "{fields}: {found:?}");
    }
    Ok(())
}
