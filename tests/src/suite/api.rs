//! What an API server says by itself: schema, rules and admission policies, on the oldest version that we claim as on the newest.

use anyhow::{Context, ensure};
use http::HeaderName;
use k8s_openapi::api::core::v1::Pod;
use kruntimes_api::Run;
use kruntimes_api::names::RUNTIMED_READY;
use kube::api::{Patch, PatchParams, PostParams};
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
        Case::new("api_a_pod_says_only_its_own_conditions", status_of_a_pod),
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
    let user = runtimed(&cluster).await?;
    let as_pod = async |run: &str, status: Value| {
        let url = format!("/apis/kruntimes.io/v1alpha1/namespaces/{}/runs/{run}/status", cluster.namespace);
        let request = as_pod_of(&user, ("p1", "uid-p1"), &url, json!({"status": status}))?;
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

/// A service account with the rights of a runtimed.
async fn runtimed(cluster: &Cluster) -> anyhow::Result<String> {
    let user = format!("system:serviceaccount:{}:pods", cluster.namespace);
    for arguments in [
        &[
            "create",
            "role",
            "runtimed",
            "--verb=get,patch",
            "--resource=runs.kruntimes.io,runs.kruntimes.io/status,pods/status",
        ][..],
        &["create", "rolebinding", "runtimed", "--role=runtimed", &format!("--user={user}")],
    ] {
        stdout(cluster.kubectl(arguments).context("no kubectl")?).await?;
    }
    Ok(user)
}

/// A patch by `user` with a token that is bound to this Pod (name and uid).
fn as_pod_of(
    user: &str,
    pod: (&str, &str),
    url: &str,
    body: Value,
) -> anyhow::Result<http::Request<Vec<u8>>> {
    let mut request = http::Request::patch(url)
        .header("content-type", "application/strategic-merge-patch+json")
        .header("impersonate-user", user)
        .body(serde_json::to_vec(&body)?)?;
    if url.contains("kruntimes.io") {
        request.headers_mut().insert("content-type", "application/merge-patch+json".parse()?);
    }
    for (word, value) in [("pod-name", pod.0), ("pod-uid", pod.1)] {
        let name = format!("impersonate-extra-authentication.kubernetes.io%2f{word}");
        request.headers_mut().insert(HeaderName::from_bytes(name.as_bytes())?, value.parse()?);
    }
    Ok(request)
}

/// Every other field of a Pod's status is the kubelet's, whichever this version of Kubernetes has.
async fn status_of_a_pod(cluster: Cluster) -> anyhow::Result<()> {
    let user = runtimed(&cluster).await?;
    let account = cluster.kubectl(&["create", "serviceaccount", "pods"]);
    stdout(account.context("no kubectl")?).await?;
    let mut uids = Vec::new();
    for name in ["mine", "foreign"] {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": name}, "spec": {
            "serviceAccountName": "pods", "automountServiceAccountToken": false,
            "containers": [{"name": "runtime", "image": "none"}]}}))?;
        uids.push(cluster.pods().create(&PostParams::default(), &pod).await?.metadata.uid.context("a uid")?);
    }
    // What a kubelet would have said before.
    let told = json!({"status": {"phase": "Running", "hostIP": "10.0.0.1", "hostIPs": [{"ip": "10.0.0.1"}], "conditions": [{"type": "Ready", "status": "False"}]}});
    cluster.pods().patch_status("mine", &PatchParams::default(), &Patch::Strategic(told)).await?;
    let write = async |pod: &str, status: Value| {
        let url = format!("/api/v1/namespaces/{}/pods/{pod}/status", cluster.namespace);
        let request = as_pod_of(&user, ("mine", &uids[0]), &url, json!({"status": status}))?;
        anyhow::Ok(cluster.client.request::<Pod>(request).await)
    };
    let condition = |kind: &str| json!({"conditions": [{"type": kind, "status": "True", "reason": "Thief"}]});
    eventually("rights and policies to hold", || async {
        let said = write("foreign", condition(RUNTIMED_READY)).await?;
        Ok(said.is_err_and(|error| error.to_string().contains("its own pod only")))
    })
    .await?;
    for status in [
        condition("Ready"),
        json!({"phase": "Failed"}),
        json!({"reason": "Evicted"}),
        json!({"message": "said the thief"}),
        json!({"podIP": "10.1.1.1", "podIPs": [{"ip": "10.1.1.1"}]}),
        json!({"hostIP": null, "hostIPs": null}),
        json!({"nominatedNodeName": "another"}),
        json!({"startTime": "2020-01-01T00:00:00Z"}),
        json!({"ephemeralContainerStatuses": [{"name": "x", "image": "x", "imageID": "x", "ready": true, "restartCount": 0}]}),
    ] {
        let what = status.to_string();
        refused(&what, "only the conditions kruntimes.io/*", write("mine", status).await?)?;
    }
    for _ in 0..2 {
        let written = write("mine", condition(RUNTIMED_READY)).await?.context("its heartbeat is its own")?;
        let status = written.status.unwrap_or_default();
        ensure!(status.host_ip.as_deref() == Some("10.0.0.1"), "{status:?}");
    }
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
