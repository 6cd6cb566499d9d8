//! The charts, with the real helm: a first Run in two commands, wrong values, the optional verb `use`.

use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::api::rbac::v1::Role;
use kruntimes_api::run::Phase;
use kube::api::{Api, ListParams, PostParams};
use serde_json::json;

use crate::cluster::{bash, eventually, phase, stdout};
use crate::node::{IMAGES, RealNode, chart};
use crate::{Case, Cluster};

/// Cases that leave the platform as it is.
pub fn cases(node: &Arc<RealNode>) -> Vec<Case> {
    let (first, wrong) = (node.clone(), node.clone());
    vec![
        Case::new("charts_pool_first_run_test_uninstall", move |cluster| first_run(cluster, first.clone())),
        Case::new("charts_wrong_values_are_refused", move |_| wrong_values(wrong.clone())),
    ]
}

/// Cases that change the platform for all.
pub fn cases_alone(node: &Arc<RealNode>) -> Vec<Case> {
    let node = node.clone();
    vec![Case::new("charts_the_verb_use", move |cluster| verb_use(cluster, node.clone()))]
}

/// The second of the two commands of `docs/install.md` (the platform is installed by the first), and what follows it.
async fn first_run(cluster: Cluster, node: Arc<RealNode>) -> anyhow::Result<()> {
    let namespace = cluster.namespace.clone();
    let chart = chart("runtime-pool")?;
    node.helm(&["install", "bash", &chart, "--namespace", &namespace, "--set", IMAGES]).run()?;
    let said = stdout(cluster.krt(&["run", "--runtime", "bash", "-c", "echo hello from $HOSTNAME"])).await?;
    ensure!(said.starts_with("hello from runtime-bash-"), "{said:?}");
    let tested = node.helm(&["test", "bash", "--timeout=2m", "--namespace", &namespace]).text()?;
    ensure!(tested.contains("Phase:          Succeeded"), "{tested}");
    let runs = cluster.runs().list(&ListParams::default()).await?.items;
    let good =
        runs.iter().filter_map(|run| run.status.as_ref()).filter(|status| phase(status) == Phase::Succeeded);
    ensure!(good.count() == 2, "one Run of ours and one of the chart's test: {runs:?}");
    node.helm(&["uninstall", "bash", "--namespace", &namespace]).run()?;
    eventually("the Pods to be gone with the release", || async {
        Ok(cluster.pods().list(&ListParams::default().labels("runtime=bash")).await?.items.is_empty())
    })
    .await
}

async fn wrong_values(node: Arc<RealNode>) -> anyhow::Result<()> {
    let cases = [
        ("runtime-pool", "replicas=-1", "replicas"),
        ("runtime-pool", "replicas=two", "replicas"),
        ("runtime-pool", "server=cobol", "server"),
        ("runtime-pool", "server=custom", "image.repository"),
        ("runtime-pool", "port=70000", "port"),
        ("runtime-pool", "capacity.runs=0", "capacity"),
        ("runtime-pool", "capacity.memory=lots", "memory"),
        ("runtime-pool", "isolation.require.files=Maybe", "files"),
        ("runtime-pool", "runDefaults.timeout=soon", "timeout"),
        ("runtime-pool", "name=Not A Name", "name"),
        ("runtime-pool", "relpicas=3", "relpicas"),
        (
            "runtime-pool",
            "extraContainers[0].name=runtime,extraContainers[0].image=x",
            "the name runtime is taken",
        ),
        ("runtime-pool", "volumes[0].name=runtimed-token", "the controller's own"),
        ("kruntimes", "scheduler.replicas=-1", "replicas"),
        ("kruntimes", "scheduler.leaderElect=false", "leaderElect must be true"),
        ("kruntimes", "controller.staleThreshold=soon", "staleThreshold"),
        ("kruntimes", "kruntimes-crds.policies.validationActions[0]=Shout", "validationActions"),
        ("kruntimes", "log.format=xml", "format"),
        ("kruntimes-crds", "policies.requireUse=perhaps", "requireUse"),
    ];
    for (name, value, word) in cases {
        let rendered = node.helm(&["template", "x", &chart(name)?, "--set", value]).text();
        let error = rendered.err().with_context(|| format!("{name} took {value}"))?;
        ensure!(format!("{error:#}").contains(word), "{name} {value}: {word} is not named: {error:#}");
    }
    Ok(())
}

/// With `requireUse`, creating a Run takes the verb `use` on its Runtime.
async fn verb_use(cluster: Cluster, node: Arc<RealNode>) -> anyhow::Result<()> {
    cluster.bash_pool(1, 1).await?;
    let switch = |on: bool| {
        let value = format!("kruntimes-crds.policies.requireUse={on}");
        let chart = chart("kruntimes")?;
        let arguments =
            ["upgrade", "kruntimes", &chart, "--namespace", crate::node::SYSTEM, "--reuse-values", "--set"];
        node.helm(&arguments).args([value.as_str()]).run()
    };
    switch(true)?;
    let result = with_use_required(&cluster).await;
    switch(false)?;
    result
}

async fn with_use_required(cluster: &Cluster) -> anyhow::Result<()> {
    let alice = super::rights::person(cluster, "alice").await?;
    let run = |name: &str| serde_json::from_value(json!({"metadata": {"name": name}, "spec": bash("true")}));
    eventually("the policy to hold", || async {
        let name = format!("early-{}", jiff::Timestamp::now().as_millisecond());
        match alice.create(&PostParams::default(), &run(&name)?).await {
            Err(kube::Error::Api(status)) => {
                Ok(status.code == 403 && status.message.contains("the verb \"use\""))
            }
            other => other.map(|_| false).map_err(Into::into),
        }
    })
    .await?;
    // kubectl's own `create role` knows no verbs but Kubernetes' own.
    let role = json!({"metadata": {"name": "users"}, "rules": [
        {"apiGroups": ["kruntimes.io"], "resources": ["runtimes"], "resourceNames": ["bash"], "verbs": ["use"]}]});
    let roles: Api<Role> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    roles.create(&PostParams::default(), &serde_json::from_value(role)?).await?;
    let binding = cluster.kubectl(&["create", "rolebinding", "users", "--role=users", "--user=alice"]);
    stdout(binding.context("no kubectl")?).await?;
    eventually("alice to use the pool", || async {
        Ok(alice.create(&PostParams::default(), &run("r")?).await.is_ok())
    })
    .await?;
    ensure!(phase(&cluster.end("r").await?) == Phase::Succeeded, "it runs");
    let other = serde_json::from_value(
        json!({"metadata": {"name": "other"}, "spec": {"runtime": "other", "source": {"inline": "true"}}}),
    )?;
    let api: &Api<_> = &alice;
    ensure!(api.create(&PostParams::default(), &other).await.is_err(), "the verb is for one pool");
    Ok(())
}
