//! What a stolen token is worth, tried with a token that was stolen: read out of runtimed's container.
//!
//! The local platform has no admission policies, so these hold on a real API server only.

use anyhow::{Context, bail, ensure};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kruntimes_api::RuntimeInstance;
use kruntimes_api::run::{Phase, Run};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::cluster::{bash, bash_with, eventually, phase, stdout};
use crate::{Case, Cluster};

/// The cases.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new("rights_stolen_token_and_runs", runs),
        Case::new("rights_stolen_token_and_the_own_run", own_run),
        Case::new("rights_stolen_token_beyond_runs", beyond_runs),
        Case::new("rights_what_a_stolen_token_reads", reading),
        Case::new("rights_stolen_token_and_pods", pods),
        Case::new("rights_stolen_token_dies_with_its_pod", dies_with_its_pod),
        Case::new("rights_token_of_no_pod", token_of_no_pod),
        Case::new("rights_submitter", submitter),
        Case::new("rights_runtime_container_has_no_token", no_token),
    ]
}

/// Where runtimed's container has its token.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// A pool of two Pods with one slot each; both have a Run, and the token of the first Run's Pod was stolen.
struct Theft {
    cluster: Cluster,
    thief: kube::Client,
    pod: String,
    pod_uid: String,
    other_pod: String,
    other_pod_uid: String,
}

impl Theft {
    async fn commit(cluster: Cluster) -> anyhow::Result<Self> {
        cluster.bash_pool(2, 1).await?;
        for name in ["mine", "foreign"] {
            cluster.script(name, "sleep 600").await?;
        }
        let mine = cluster.phase("mine", Phase::Running).await?;
        let foreign = cluster.phase("foreign", Phase::Running).await?;
        let pod = mine.assigned_pod.context("a running Run has a Pod")?;
        let token = steal(&cluster, &pod).await?;
        let thief = with_token(&cluster, &token).await?;
        Ok(Self {
            thief,
            pod,
            pod_uid: mine.assigned_pod_uid.context("and its uid")?,
            other_pod: foreign.assigned_pod.context("a running Run has a Pod")?,
            other_pod_uid: foreign.assigned_pod_uid.context("and its uid")?,
            cluster,
        })
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.thief.clone(), &self.cluster.namespace)
    }

    /// Writes the status of a Run as the thief.
    async fn status(&self, run: &str, status: Value) -> Result<Run, kube::Error> {
        let patch = Patch::Merge(json!({"status": status}));
        self.api::<Run>().patch_status(run, &PatchParams::default(), &patch).await
    }

    async fn status_is_refused(&self, run: &str, status: Value, word: &str) -> anyhow::Result<()> {
        refused(&format!("{run}: {status}"), word, self.status(run, status.clone()).await)
    }
}

async fn steal(cluster: &Cluster, pod: &str) -> anyhow::Result<String> {
    let cat = cluster.kubectl(&["exec", pod, "-c", "runtimed", "--", "cat", TOKEN]);
    let token = stdout(cat.context("no kubectl")?).await?;
    ensure!(token.split('.').count() == 3, "that is no token: {token:?}");
    Ok(token.trim().to_owned())
}

async fn config(cluster: &Cluster) -> anyhow::Result<kube::Config> {
    let kubeconfig = kube::config::Kubeconfig::read_from(cluster.platform.kubeconfig())?;
    Ok(kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?)
}

async fn with_token(cluster: &Cluster, token: &str) -> anyhow::Result<kube::Client> {
    let mut config = config(cluster).await?;
    config.auth_info = serde_json::from_value(json!({"token": token}))?;
    Ok(config.try_into()?)
}

/// The answer must be a refusal that says why with `word`.
pub(super) fn refused<T>(what: &str, word: &str, result: Result<T, kube::Error>) -> anyhow::Result<()> {
    match result {
        Err(kube::Error::Api(status)) if matches!(status.code, 403 | 422) => {
            ensure!(status.message.contains(word), "{what}: {word:?} is not in {:?}", status.message);
            Ok(())
        }
        Err(error) => bail!("{what}: refused for another reason: {error}"),
        Ok(_) => bail!("{what}: was done"),
    }
}

/// Runs that are not the Pod's own.
async fn runs(cluster: Cluster) -> anyhow::Result<()> {
    let theft = Theft::commit(cluster.clone()).await?;
    let not_by = format!("not by pod {}", theft.pod);
    for status in
        [json!({"phase": "Succeeded"}), json!({"phase": "Failed", "exitCode": 1}), json!({"message": "x"})]
    {
        theft.status_is_refused("foreign", status, &not_by).await?;
    }
    cluster.submit("waiting", json!({"runtime": "nowhere", "source": {"inline": "true"}})).await?;
    theft.status_is_refused("waiting", json!({"phase": "Failed"}), &not_by).await?;
    let own = json!({"phase": "Scheduled", "assignedPod": theft.pod, "assignedPodUID": theft.pod_uid, "assignment": 1, "attempt": 1});
    theft.status_is_refused("waiting", own, &not_by).await?;
    let theirs = json!({"assignedPod": theft.pod, "assignedPodUID": theft.pod_uid});
    theft.status_is_refused("foreign", theirs, &not_by).await?;
    ensure!(phase(&cluster.status("foreign").await?) == Phase::Running, "nothing has happened to it");
    Ok(())
}

/// The Run that is the Pod's own: it may be ended and handed back, and nothing else.
async fn own_run(cluster: Cluster) -> anyhow::Result<()> {
    let theft = Theft::commit(cluster.clone()).await?;
    theft.status_is_refused("mine", json!({"phase": "Sleeping"}), "phase").await?;
    theft.status_is_refused("mine", json!({"phase": "Scheduled"}), "back to Scheduled").await?;
    theft.status_is_refused("mine", json!({"assignment": 99}), "the scheduler's").await?;
    theft
        .status_is_refused("mine", json!({"scheduledTime": "2020-01-01T00:00:00.000000Z"}), "the scheduler's")
        .await?;
    theft.status_is_refused("mine", json!({"attempt": 5}), "attempt").await?;
    let away = json!({"assignedPod": theft.other_pod, "assignedPodUID": theft.other_pod_uid});
    theft.status_is_refused("mine", away, "may not give it to another pod").await?;
    theft.status_is_refused("mine", json!({"phase": "Pending"}), "hand it back").await?;

    let api = theft.api::<Run>();
    let patch = |value: Value| {
        let api = api.clone();
        async move { api.patch("mine", &PatchParams::default(), &Patch::Merge(value)).await }
    };
    let word = "cannot patch resource \"runs\"";
    refused("spec", word, patch(json!({"spec": {"cancelRequested": true}})).await)?;
    refused("finalizers", word, patch(json!({"metadata": {"finalizers": ["example.com/stuck"]}})).await)?;
    refused("labels", word, patch(json!({"metadata": {"labels": {"a": "b"}}})).await)?;
    let through_status =
        Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}, "spec": {"cancelRequested": true}}));
    let answer = api.patch_status("mine", &PatchParams::default(), &through_status).await?;
    ensure!(answer.labels().is_empty() && answer.spec.cancel_requested != Some(true), "{answer:?}");
    refused("delete", "cannot delete", api.delete("mine", &DeleteParams::default()).await)?;

    // What the token is for.
    let end = json!({"phase": "Failed", "reason": "StartFailed", "message": "said the thief"});
    theft.status("mine", end).await.context("a Pod may end its own Run")?;
    for status in [json!({"phase": "Running"}), json!({"phase": "Succeeded"}), json!({"exitCode": 0})] {
        theft.status_is_refused("mine", status, "final").await?;
    }
    theft.status_is_refused("mine", Value::Null, "final").await?;
    ensure!(cluster.status("mine").await?.message.as_deref() == Some("said the thief"), "it stays as it was");
    Ok(())
}

/// Other kinds, other namespaces, more tokens.
async fn beyond_runs(cluster: Cluster) -> anyhow::Result<()> {
    let theft = Theft::commit(cluster.clone()).await?;
    let account = "runtime-bash";
    let request = serde_json::from_value(json!({"spec": {"audiences": []}}))?;
    let accounts = theft.api::<ServiceAccount>();
    refused(
        "a token",
        "serviceaccounts/token",
        accounts.create_token_request(account, &PostParams::default(), &request).await,
    )?;
    let new: Run = serde_json::from_value(json!({"metadata": {"name": "new"}, "spec": bash("true")}))?;
    refused(
        "a new Run",
        "cannot create resource \"runs\"",
        theft.api::<Run>().create(&PostParams::default(), &new).await,
    )?;
    let elsewhere: Api<Run> = Api::namespaced(theft.thief.clone(), "default");
    let patch = Patch::Merge(json!({"status": {"phase": "Failed"}}));
    refused(
        "a Run of another namespace",
        "cannot patch resource \"runs/status\"",
        elsewhere.patch_status("any", &PatchParams::default(), &patch).await,
    )
}

/// Kinds of a namespace, and whether a stolen token reads them there. A namespace is one trust domain: admission sees no reads.
const READABLE: [(&str, &str, bool); 17] = [
    ("apis/kruntimes.io/v1alpha1", "runs", true),
    ("apis/kruntimes.io/v1alpha1", "runtimes", false),
    ("apis/kruntimes.io/v1alpha1", "runtimeinstances", false),
    ("api/v1", "pods", false),
    ("api/v1", "secrets", false),
    ("api/v1", "configmaps", false),
    ("api/v1", "serviceaccounts", false),
    ("api/v1", "services", false),
    ("api/v1", "endpoints", false),
    ("api/v1", "events", false),
    ("api/v1", "persistentvolumeclaims", false),
    ("api/v1", "resourcequotas", false),
    ("apis/apps/v1", "deployments", false),
    ("apis/rbac.authorization.k8s.io/v1", "roles", false),
    ("apis/rbac.authorization.k8s.io/v1", "rolebindings", false),
    ("apis/coordination.k8s.io/v1", "leases", false),
    ("apis/networking.k8s.io/v1", "networkpolicies", false),
];
/// Kinds of the cluster: it reads none.
const OF_THE_CLUSTER: [(&str, &str); 5] = [
    ("api/v1", "namespaces"),
    ("api/v1", "nodes"),
    ("api/v1", "persistentvolumes"),
    ("apis/rbac.authorization.k8s.io/v1", "clusterroles"),
    ("apis/apiextensions.k8s.io/v1", "customresourcedefinitions"),
];

/// Every reading verb on every kind, in the own namespace, in another, and in all. `docs/security.md` says the same.
async fn reading(cluster: Cluster) -> anyhow::Result<()> {
    let theft = Theft::commit(cluster.clone()).await?;
    let (own, mut wrong, mut tried) = (cluster.namespace.as_str(), Vec::new(), 0);
    let mut requests = Vec::new();
    for (group, kind, readable) in READABLE {
        for (place, readable) in [(Some(own), readable), (Some("default"), false), (None, false)] {
            let place = place.map(|name| format!("namespaces/{name}/")).unwrap_or_default();
            requests.push((format!("/{group}/{place}{kind}"), !place.is_empty(), readable));
        }
    }
    requests.extend(OF_THE_CLUSTER.map(|(group, kind)| (format!("/{group}/{kind}"), true, false)));
    for (url, has_names, readable) in requests {
        let get = has_names.then(|| format!("{url}/any"));
        let watch = format!("{url}?watch=true&timeoutSeconds=1");
        for url in [Some(url), Some(watch), get].into_iter().flatten() {
            tried += 1;
            if reads(&theft, &url).await? != readable {
                wrong.push(format!("{url} {}", if readable { "is refused" } else { "is read" }));
            }
        }
    }
    for own in [format!("pods/{}", theft.pod), format!("pods/{}/log?container=runtimed", theft.pod)] {
        ensure!(!reads(&theft, &format!("/api/v1/namespaces/{}/{own}", cluster.namespace)).await?, "{own}");
    }
    ensure!(wrong.is_empty() && tried > 150, "of {tried}: {wrong:#?}");
    let seen = theft.api::<Run>().list(&ListParams::default()).await?;
    ensure!(seen.items.iter().any(|run| run.name_any() == "foreign"), "others' Runs are among them");
    Ok(())
}

/// Whether the thief gets an answer, be it that there is no such object.
async fn reads(theft: &Theft, url: &str) -> anyhow::Result<bool> {
    match theft.thief.request_text(http::Request::get(url).body(Vec::new())?).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(false),
        Err(error) => Err(error).context(url.to_owned()),
    }
}

/// Pods and what they say of themselves.
async fn pods(cluster: Cluster) -> anyhow::Result<()> {
    let theft = Theft::commit(cluster.clone()).await?;
    let api = theft.api::<Pod>();
    let write = |pod: &str, value: Value| {
        let (api, pod) = (api.clone(), pod.to_owned());
        // Conditions are merged by type.
        async move { api.patch_status(&pod, &PatchParams::default(), &Patch::Strategic(value)).await }
    };
    let condition =
        |kind: &str| json!({"status": {"conditions": [{"type": kind, "status": "True", "reason": "Thief"}]}});
    let heartbeat = kruntimes_api::names::RUNTIMED_READY;
    refused("another Pod", "its own pod only", write(&theft.other_pod, condition(heartbeat)).await)?;
    refused("readiness", "only the conditions kruntimes.io/*", write(&theft.pod, condition("Ready")).await)?;
    refused(
        "address",
        "only the conditions",
        write(&theft.pod, json!({"status": {"podIP": "10.1.1.1"}})).await,
    )?;
    for field in [
        json!({"reason": "Evicted"}),
        json!({"message": "said the thief"}),
        json!({"ephemeralContainerStatuses": [
            {"name": "x", "image": "x", "imageID": "x", "ready": true, "restartCount": 0}]}),
        json!({"startTime": "2020-01-01T00:00:00Z"}),
    ] {
        let what = field.to_string();
        let word = "only the conditions kruntimes.io/*";
        refused(&what, word, write(&theft.pod, json!({"status": field})).await)?;
    }
    refused(
        "labels",
        "labels",
        write(&theft.pod, json!({"metadata": {"labels": {"runtime": "other"}}})).await,
    )?;
    refused(
        "annotations",
        "annotations",
        write(&theft.pod, json!({"metadata": {"annotations": {"a": "b"}}})).await,
    )?;
    write(&theft.pod, condition(heartbeat)).await.context("a Pod's own heartbeat is its own")?;

    let instances = theft.api::<RuntimeInstance>();
    let patch = Patch::Merge(json!({"status": {"allocatable": {"runs": "1000"}}}));
    let word = "written by the pod";
    refused(
        "another's instance",
        word,
        instances.patch_status(&theft.other_pod, &PatchParams::default(), &patch).await,
    )?;
    let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": theft.pod, "uid": theft.pod_uid}]);
    let new = |name: &str| -> anyhow::Result<RuntimeInstance> {
        Ok(serde_json::from_value(json!({"metadata": {"name": name, "ownerReferences": owner},
            "spec": {"runtime": "bash", "podUID": theft.pod_uid}}))?)
    };
    refused("a false instance", word, instances.create(&PostParams::default(), &new("false")?).await)?;
    let mut stuck = new(&theft.pod)?;
    stuck.finalizers_mut().push("example.com/stuck".into());
    refused("finalizers", "finalizers", instances.create(&PostParams::default(), &stuck).await)?;
    let change = Patch::Merge(json!({"metadata": {"labels": {"runtime": "other"}}}));
    let word = "cannot patch resource \"runtimeinstances\"";
    refused("its labels", word, instances.patch(&theft.pod, &PatchParams::default(), &change).await)?;
    let gone = instances.delete(&theft.pod, &DeleteParams::default()).await;
    refused("its deletion", "cannot delete resource", gone)?;
    instances.patch_status(&theft.pod, &PatchParams::default(), &patch).await.context("its own instance")?;
    Ok(())
}

async fn dies_with_its_pod(cluster: Cluster) -> anyhow::Result<()> {
    let theft = Theft::commit(cluster.clone()).await?;
    theft.api::<Run>().get("mine").await.context("before")?;
    cluster.pods().delete(&theft.pod, &DeleteParams::default().grace_period(0)).await?;
    eventually("the token to be worth nothing", || async {
        Ok(matches!(theft.api::<Run>().get("mine").await, Err(kube::Error::Api(status)) if status.code == 401))
    })
    .await
}

/// A token of the same service account, made without a Pod, writes nothing.
async fn token_of_no_pod(cluster: Cluster) -> anyhow::Result<()> {
    let mut theft = Theft::commit(cluster.clone()).await?;
    let make = cluster.kubectl(&["create", "token", "runtime-bash"]).context("no kubectl")?;
    theft.thief = with_token(&cluster, stdout(make).await?.trim()).await?;
    for run in ["mine", "foreign"] {
        theft.status_is_refused(run, json!({"phase": "Failed"}), "not by user").await?;
    }
    let patch = Patch::Merge(json!({"status": {"allocatable": {"runs": "1000"}}}));
    let instances = theft.api::<RuntimeInstance>();
    let written = instances.patch_status(&theft.pod, &PatchParams::default(), &patch).await;
    refused("an instance", "written by the pod", written)
}

/// `spec.submitter` is the name of whoever asks.
async fn submitter(cluster: Cluster) -> anyhow::Result<()> {
    let alice = person(&cluster, "alice").await?;
    let create = |name: &str, more: Value| -> anyhow::Result<Run> {
        Ok(serde_json::from_value(json!({"metadata": {"name": name}, "spec": bash_with("true", more)}))?)
    };
    let post = PostParams::default();
    let run = alice.create(&post, &create("silent", json!({}))?).await?;
    ensure!(run.spec.submitter.as_deref() == Some("alice"), "filled in: {:?}", run.spec.submitter);
    let run = alice.create(&post, &create("own", json!({"submitter": "alice"}))?).await?;
    ensure!(run.spec.submitter.as_deref() == Some("alice"), "taken: {:?}", run.spec.submitter);
    let lie = alice.create(&post, &create("lie", json!({"submitter": "bob"}))?).await;
    refused("another's name", "spec.submitter: must be your own name, alice, not bob", lie)?;
    // A client that does not know the field writes the whole object back without it.
    let later = Patch::Merge(json!({"spec": {"submitter": null, "ttlSecondsAfterFinished": 60}}));
    let run = alice.patch("own", &PatchParams::default(), &later).await?;
    ensure!(run.spec.submitter.as_deref() == Some("alice"), "kept: {:?}", run.spec.submitter);
    let change = Patch::Merge(json!({"spec": {"submitter": "bob"}}));
    refused("a change", "submitter", alice.patch("own", &PatchParams::default(), &change).await)?;
    let status = Patch::Merge(json!({"status": {"phase": "Succeeded"}}));
    let word = "cannot patch resource \"runs/status\"";
    refused("a status", word, alice.patch_status("own", &PatchParams::default(), &status).await)
}

/// Runs of the namespace, for somebody who has the role `edit` in it.
pub(super) async fn person(cluster: &Cluster, name: &str) -> anyhow::Result<Api<Run>> {
    let binding = cluster.kubectl(&["create", "rolebinding", name, "--clusterrole=edit", "--user", name]);
    stdout(binding.context("no kubectl")?).await?;
    let mut config = config(cluster).await?;
    config.auth_info.impersonate = Some(name.to_owned());
    let client: kube::Client = config.try_into()?;
    let api: Api<Run> = Api::namespaced(client, &cluster.namespace);
    eventually("the rights to be known", || async { Ok(api.list(&ListParams::default()).await.is_ok()) })
        .await?;
    Ok(api)
}

/// A Run finds no token, and no template brings one to it.
async fn no_token(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool(1, 1).await?;
    let look = format!(
        "! ls {TOKEN} && ! grep -raslE 'eyJ[A-Za-z0-9_-]{{20,}}[.]' /var/run /run /tmp /proc/[0-9]*/environ 2>/dev/null"
    );
    let status = cluster.run_script("look", &look).await?;
    ensure!(phase(&status) == Phase::Succeeded, "{status:?}");

    let projected = |source: Value| json!([{"name": "t", "projected": {"sources": [source]}}]);
    let token = projected(json!({"serviceAccountToken": {"path": "token"}}));
    let mount = |volume: &str| json!([{"name": volume, "mountPath": "/t"}]);
    let cases = [
        (
            "a projected token",
            json!({"volumes": token}),
            mount("t"),
            "the container runtime must not mount volume t",
        ),
        ("runtimed's volume", json!({}), mount("runtimed-token"), "controller's own"),
        (
            "every container's token",
            json!({"automountServiceAccountToken": true}),
            json!([]),
            "automountServiceAccountToken",
        ),
        ("processes", json!({"shareProcessNamespace": true}), json!([]), "shareProcessNamespace"),
        ("the host's processes", json!({"hostPID": true}), json!([]), "hostPID"),
    ];
    for (what, mut spec, mounts, word) in cases {
        let container =
            json!({"name": "runtime", "image": crate::cluster::BASH_IMAGE, "volumeMounts": mounts});
        spec["containers"] = json!([container]);
        let runtime = json!({"metadata": {"name": "thief"}, "spec": {"template": {"spec": spec}}});
        let made = cluster.runtimes().create(&PostParams::default(), &serde_json::from_value(runtime)?).await;
        refused(what, word, made)?;
    }
    Ok(())
}
