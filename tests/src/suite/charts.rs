//! The charts, with the real helm: a first Run in two commands, values right and wrong, rights, metrics, the optional verb `use`.

use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::api::rbac::v1::Role;
use kruntimes_api::run::Phase;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::cluster::{bash, eventually, output, phase, stdout};
use crate::node::{IMAGES, RealNode, chart};
use crate::{Case, Cluster};

/// Cases that leave the platform as it is.
pub fn cases(node: &Arc<RealNode>) -> Vec<Case> {
    let (first, wrong, values, parts) = (node.clone(), node.clone(), node.clone(), node.clone());
    let shared = node.clone();
    vec![
        Case::new("charts_pool_first_run_test_uninstall", move |cluster| first_run(cluster, first.clone())),
        Case::new("charts_shared_memory", move |cluster| shared_memory(cluster, shared.clone())),
        Case::new("charts_wrong_values_are_refused", move |_| wrong_values(wrong.clone())),
        Case::new("charts_values_reach_the_pool", move |cluster| pool_values(cluster, values.clone())),
        Case::new("charts_optional_parts", move |_| optional_parts(parts.clone())),
        Case::new("charts_metrics_are_served", metrics),
        Case::new("charts_rights_of_the_control_plane", least_rights),
    ]
}

/// Cases that change the platform for all.
pub fn cases_alone(node: &Arc<RealNode>) -> Vec<Case> {
    let node = node.clone();
    vec![Case::new("charts_the_verb_use", move |cluster| verb_use(cluster, node.clone()))]
}

/// From here on the namespace takes only Pods of the Pod Security level `restricted`.
pub(super) async fn restrict(cluster: &Cluster) -> anyhow::Result<()> {
    let label = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    cluster.namespaces().patch(&cluster.namespace, &PatchParams::default(), &Patch::Merge(label)).await?;
    Ok(())
}

/// The second of the two commands of `docs/install.md` (the platform is installed by the first), and what follows it.
async fn first_run(cluster: Cluster, node: Arc<RealNode>) -> anyhow::Result<()> {
    let namespace = cluster.namespace.clone();
    let chart = chart("runtime-pool")?;
    restrict(&cluster).await?;
    let notes = node.helm(&["install", "bash", &chart, "--namespace", &namespace, "--set", IMAGES]).text()?;
    ensure!(
        notes.contains(&format!("krt run --namespace {namespace} --runtime bash")),
        "the next command: {notes}"
    );
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

/// Python's locks and pools are made in `/dev/shm`, which Runs of one id have only if the pool asks for it.
async fn shared_memory(cluster: Cluster, node: Arc<RealNode>) -> anyhow::Result<()> {
    let chart = chart("runtime-pool")?;
    restrict(&cluster).await?;
    let code = "import multiprocessing\nprint(multiprocessing.Pool(2).map(abs, [-1, -2]))";
    for (name, values) in [("without", IMAGES.to_owned()), ("with", format!("{IMAGES},sharedMemory=64Mi"))] {
        let values = format!("{values},server=python,replicas=1");
        node.helm(&["install", name, &chart, "--namespace", &cluster.namespace, "--set", &values]).run()?;
    }
    let said = stdout(cluster.krt(&["run", "--runtime", "with", "-c", code])).await?;
    ensure!(said.trim() == "[1, 2]", "{said:?}");
    let refused = output(cluster.krt(&["run", "--runtime", "without", "-c", code])).await?;
    let log = String::from_utf8_lossy(&refused.stderr);
    ensure!(!refused.status.success() && log.contains("PermissionError"), "{refused:?}");
    Ok(())
}

async fn wrong_values(node: Arc<RealNode>) -> anyhow::Result<()> {
    let cases = [
        ("runtime-pool", "replicas=-1", "replicas"),
        ("runtime-pool", "replicas=two", "replicas"),
        ("runtime-pool", "server=cobol", "server"),
        ("runtime-pool", "server=custom", "image.repository"),
        ("runtime-pool", "port=70000", "port"),
        ("runtime-pool", "sharedMemory=lots", "sharedMemory"),
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
        (
            "runtime-pool",
            "extraContainers[0].name=x,extraContainers[0].image=x,extraContainers[0].volumeMounts[0].name=kruntimes-token",
            "x mounts kruntimes-token",
        ),
        ("runtime-pool", "port=9090", "port: 9090"),
        ("runtime-pool", "workspace.foo.a=b", "'/workspace': additional properties 'foo'"),
        ("runtime-pool", "capacity.a b=1", "'/capacity': additional properties 'a b'"),
        ("runtime-pool", "resources.limits.cpuu=1", "'/resources/limits': additional properties 'cpuu'"),
        ("kruntimes", "scheduler.resources.limits.cpuu=1", "additional properties 'cpuu'"),
        ("kruntimes", "scheduler.metricsPort=8081", "scheduler.probePort are both 8081"),
        ("kruntimes", "metrics.podMonitor.enabled=true", "runtimed.metrics.allowIngress"),
        ("kruntimes", "scheduler.replicas=-1", "replicas"),
        ("kruntimes", "scheduler.leaderElect=false", "leaderElect must be true"),
        ("kruntimes", "controller.staleThreshold=soon", "staleThreshold"),
        ("kruntimes", "kruntimes-crds.policies.validationActions[0]=Shout", "validationActions"),
        ("kruntimes", "log.format=xml", "format"),
        ("kruntimes", "tracing.otlpEndpoint=collector:4317", "otlpEndpoint"),
        ("kruntimes-crds", "policies.requireUse=perhaps", "requireUse"),
        ("kruntimes-crds", "policies.fillSubmitter=perhaps", "fillSubmitter"),
    ];
    for (name, value, word) in cases {
        let rendered = node.helm(&["template", "x", &chart(name)?, "--set", value]).text();
        let error = rendered.err().with_context(|| format!("{name} took {value}"))?;
        ensure!(format!("{error:#}").contains(word), "{name} {value}: {word} is not named: {error:#}");
    }
    Ok(())
}

/// Every value of a pool ends where it belongs in a Runtime that the API server takes.
async fn pool_values(cluster: Cluster, node: Arc<RealNode>) -> anyhow::Result<()> {
    let values = json!({
        "replicas": 3,
        "capacity": {"runs": 4, "memory": "1Gi", "example.com/licence": 2},
        "customResources": [{"name": "example.com/licence", "kind": "Counted", "env": "LICENCES"}],
        "resources": {"requests": {"cpu": "50m"}},
        "hostUsers": false,
        "podResources": {"limits": {"memory": "4Gi"}},
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "volumes": [{"name": "cache", "emptyDir": {}}],
        "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
        "sharedMemory": "2Gi",
        "imagePullSecrets": [{"name": "registry"}],
        "isolation": {"require": {"kill": "Soft"}, "tenancy": "SingleSubmitter"},
        "extraContainers": [{"name": "helper", "image": "localhost/helper:1"}],
        "runMaximums": {"timeout": "2h"},
        "env": [{"name": "A", "value": "b"}],
    });
    let expected = [
        ("/spec/replicas", json!(3)),
        ("/spec/capacity/resources/example.com~1licence", json!("2")),
        ("/spec/resources/0/env", json!("LICENCES")),
        ("/spec/isolation", values["isolation"].clone()),
        ("/spec/runMaximums/timeout", json!("2h")),
        ("/spec/template/spec/hostUsers", json!(false)),
        ("/spec/template/spec/resources/limits/memory", json!("4Gi")),
        ("/spec/template/spec/nodeSelector/disk", json!("fast")),
        ("/spec/template/spec/tolerations", values["tolerations"].clone()),
        ("/spec/template/spec/volumes/0/name", json!("cache")),
        ("/spec/template/spec/volumes/1/emptyDir", json!({"medium": "Memory", "sizeLimit": "2Gi"})),
        ("/spec/template/spec/imagePullSecrets/0/name", json!("registry")),
        ("/spec/template/spec/containers/0/volumeMounts/0/mountPath", json!("/cache")),
        ("/spec/template/spec/containers/0/volumeMounts/1/mountPath", json!("/dev/shm")),
        ("/spec/template/spec/containers/0/resources/requests/cpu", json!("50m")),
        ("/spec/template/spec/containers/0/env/0/name", json!("A")),
        ("/spec/template/spec/containers/1/name", json!("helper")),
    ];
    let folder = tempfile::tempdir()?;
    let (file, manifest) = (folder.path().join("values.json"), folder.path().join("runtime.yaml"));
    std::fs::write(&file, serde_json::to_vec(&values)?)?;
    let (file, manifest) = (file.to_string_lossy(), manifest.to_string_lossy());
    let chart = chart("runtime-pool")?;
    let template = ["template", "full", &chart, "--namespace", &cluster.namespace, "--values", &file];
    let text = node.helm(&template).args(["--show-only", "templates/runtime.yaml"]).text()?;
    std::fs::write(&*manifest, text)?;
    let apply = cluster.kubectl(&["apply", "--dry-run=server", "--output=json", "--filename", &manifest]);
    let runtime: Value = serde_json::from_str(&stdout(apply.context("no kubectl")?).await?)?;
    for (path, value) in expected {
        ensure!(runtime.pointer(path) == Some(&value), "{path}: {value} in {runtime}");
    }
    Ok(())
}

/// What other operators look at is made when it is asked for.
async fn optional_parts(node: Arc<RealNode>) -> anyhow::Result<()> {
    let chart = chart("kruntimes")?;
    let template = |values: &str| node.helm(&["template", "x", &chart, "--set", values]).text();
    let kinds = |text: &str| -> Vec<String> {
        text.lines().filter_map(|line| line.strip_prefix("kind: ")).map(str::to_owned).collect()
    };
    let open = "runtimed.metrics.allowIngress=true,metrics.podMonitor.enabled=true";
    let watched = "metrics.serviceMonitor.enabled=true,metrics.prometheusRule.enabled=true";
    let on = template(&format!("{open},{watched},kruntimes-crds.policies.fillSubmitter=true"))?;
    let off = template(
        "podDisruptionBudget.enabled=false,networkPolicy.enabled=false,kruntimes-crds.enabled=false,watchNamespace=x",
    )?;
    for (text, allowed) in [(&on, true), (&off, false)] {
        ensure!(
            text.contains(&format!("--allow-metrics-ingress={allowed}\n")),
            "the controller is told: {text}"
        );
    }
    let (on, off) = (kinds(&on), kinds(&off));
    for kind in [
        "ServiceMonitor",
        "PodMonitor",
        "MutatingAdmissionPolicy",
        "ValidatingAdmissionPolicy",
        "PrometheusRule",
        "PodDisruptionBudget",
        "NetworkPolicy",
        "CustomResourceDefinition",
    ] {
        ensure!(on.iter().any(|made| made == kind), "{kind} in {on:?}");
        ensure!(!off.iter().any(|made| made == kind), "no {kind} in {off:?}");
    }
    let collector = ["template", "x", chart.as_str(), "--set", "tracing.otlpEndpoint=http://collector:4317"];
    for (arguments, programs) in [(&collector[..3], 0), (&collector[..], 2)] {
        let told = node.helm(arguments).text()?.matches("name: OTEL_EXPORTER_OTLP_ENDPOINT").count();
        ensure!(told == programs, "{told} programs are told of a collector by {arguments:?}");
    }
    Ok(())
}

/// Through the chart's Services, and from the sidecar of a pool.
async fn metrics(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool(1, 1).await?;
    cluster.run_script("r", "true").await?;
    // A queue with nothing in it has no figures.
    cluster.submit("waits", json!({"runtime": "nowhere", "source": {"inline": "true"}})).await?;
    let pods = cluster.pods().list(&ListParams::default().labels("runtime=bash")).await?.items;
    let pod = pods.into_iter().find_map(|pod| pod.metadata.name).context("a ready pool has a Pod")?;
    let service =
        |component: &str| format!("{}/services/kruntimes-{component}-metrics:metrics", crate::node::SYSTEM);
    for (what, figure) in [
        (service("scheduler"), "kruntimes_scheduler_queue_depth"),
        (service("controller"), "kruntimes_controller_pods_ready"),
        (format!("{}/pods/{pod}:9090", cluster.namespace), "kruntimes_runtimed_run_duration_seconds_count"),
    ] {
        let url = format!("/api/v1/namespaces/{what}/proxy/metrics");
        eventually(&format!("{figure} at {url}"), || async {
            let text = cluster.client.request_text(http::Request::get(&url).body(Vec::new())?).await?;
            Ok(text.contains(figure))
        })
        .await?;
    }
    Ok(())
}

/// What scheduler and controller are for, and nothing that a thief would like.
async fn least_rights(cluster: Cluster) -> anyhow::Result<()> {
    let cases = [
        ("scheduler", "patch", "runs.kruntimes.io/status", true),
        ("scheduler", "delete", "runs.kruntimes.io", false),
        ("scheduler", "patch", "runs.kruntimes.io", false),
        ("scheduler", "create", "pods", false),
        ("scheduler", "get", "secrets", false),
        ("scheduler", "get", "configmaps", false),
        ("controller", "delete", "runs.kruntimes.io", true),
        ("controller", "create", "deployments.apps", true),
        ("controller", "patch", "runs.kruntimes.io", false),
        ("controller", "create", "pods", false),
        ("controller", "get", "secrets", false),
        ("controller", "create", "serviceaccounts/token", false),
        ("controller", "create", "clusterrolebindings.rbac.authorization.k8s.io", false),
        ("controller", "get", "pods/exec", false),
        ("controller", "update", "runtimes.kruntimes.io/finalizers", false),
        ("controller", "update", "runtimeinstances.kruntimes.io/status", false),
        ("controller", "create", "events.events.k8s.io", false),
        ("scheduler", "create", "events.events.k8s.io", false),
    ];
    for (component, verb, resource, allowed) in cases {
        let account = format!("--as=system:serviceaccount:{}:kruntimes-{component}", crate::node::SYSTEM);
        let (resource, part) = resource.split_once('/').unwrap_or((resource, ""));
        let part = format!("--subresource={part}");
        let may = cluster.kubectl(&["auth", "can-i", verb, resource, &part, &account]);
        let said = output(may.context("no kubectl")?).await?;
        let answer = String::from_utf8_lossy(&said.stdout).trim().to_owned();
        ensure!(
            answer == if allowed { "yes" } else { "no" },
            "{component} {verb} {resource} {part}: {said:?}"
        );
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
