use k8s_openapi::api::core::v1::PodSpec;
use kruntimes_api::names::OTLP_ENDPOINT_ENV;
use kruntimes_api::runtime::RuntimeSpec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn runtime(spec: Value) -> Runtime {
    let spec: RuntimeSpec = serde_json::from_value(spec).unwrap();
    let mut runtime = Runtime::new("bash", spec);
    runtime.metadata.namespace = Some("team".into());
    runtime.metadata.uid = Some("u-1".into());
    runtime
}

fn template(pod: Value) -> Value {
    json!({"template": {"spec": pod}})
}

fn plain() -> Value {
    template(json!({"containers": [{"name": "runtime", "image": "bash:1"}]}))
}

fn build(spec: Value) -> Desired {
    desired(&runtime(spec), &Defaults::default()).unwrap()
}

fn pod(desired: &Desired) -> &PodSpec {
    desired.deployment.spec.as_ref().unwrap().template.spec.as_ref().unwrap()
}

fn refused(spec: Value) -> TemplateError {
    desired(&runtime(spec), &Defaults::default()).unwrap_err()
}

#[test]
fn a_baseline_runtime_gets_its_pod() {
    let desired = build(plain());
    let deployment = desired.deployment.spec.as_ref().unwrap();
    assert_eq!(desired.deployment.metadata.name.as_deref(), Some("runtime-bash"));
    assert_eq!(deployment.replicas, Some(1));
    let meta = deployment.template.metadata.as_ref().unwrap();
    let labels = meta.labels.as_ref().unwrap();
    assert_eq!((labels["runtime"].as_str(), labels["app"].as_str()), ("bash", "kruntimes-bash"));
    assert_eq!(meta.annotations.as_ref().unwrap()["kruntimes.io/capacity.runs"], "2");
    let pod = pod(&desired);
    let names: Vec<_> = pod.containers.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["runtime", "runtimed"]);
    let (server, sidecar) = (&pod.containers[0], &pod.containers[1]);
    assert_eq!(server.ports.as_ref().unwrap()[0].container_port, 9091);
    assert_eq!(server.liveness_probe.as_ref().unwrap().initial_delay_seconds, Some(5));
    assert_eq!(sidecar.readiness_probe.as_ref().unwrap().period_seconds, Some(5));
    for container in [server, sidecar] {
        let security = container.security_context.as_ref().unwrap();
        assert_eq!((security.run_as_non_root, security.read_only_root_filesystem), (Some(true), Some(true)));
        let paths: Vec<_> =
            container.volume_mounts.as_ref().unwrap().iter().map(|m| m.mount_path.as_str()).collect();
        assert!(paths.contains(&"/workspace") && paths.contains(&"/run/kruntimes"), "{paths:?}");
        let variables = container.env.as_ref().unwrap();
        assert!(
            variables
                .iter()
                .any(|e| e.name == "KRUNTIME_SOCKET_DIR" && e.value.as_deref() == Some("/run/kruntimes"))
        );
    }
    assert_eq!(pod.readiness_gates.as_ref().unwrap()[0].condition_type, "kruntimes.io/RuntimedReady");
    assert_eq!(pod.service_account_name.as_deref(), Some("runtime-bash"));
    assert_eq!(pod.security_context.as_ref().unwrap().fs_group, Some(65532));
    assert_eq!(desired.service_account.as_ref().unwrap().metadata.name.as_deref(), Some("runtime-bash"));
    let owner = &desired.deployment.metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!((owner.kind.as_str(), owner.uid.as_str(), owner.controller), ("Runtime", "u-1", Some(true)));
    assert!(desired.network_policy.spec.as_ref().unwrap().ingress.is_none(), "deny all");
}

#[test]
fn only_the_sidecar_has_a_token() {
    let desired = build(plain());
    let pod = pod(&desired);
    assert_eq!(pod.automount_service_account_token, Some(false));
    let token = |container: usize| {
        pod.containers[container].volume_mounts.as_ref().unwrap().iter().any(|m| m.name == "runtimed-token")
    };
    assert_eq!((token(0), token(1)), (false, true));
    for spec in [
        json!({"automountServiceAccountToken": true, "containers": [{"name": "runtime", "image": "i"}]}),
        json!({"containers": [{"name": "runtime", "image": "i", "volumeMounts": [{"name": "t", "mountPath": "/t"}]}],
               "volumes": [{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}]}),
        json!({"containers": [{"name": "runtime", "image": "i",
                               "volumeMounts": [{"name": "runtimed-token", "mountPath": "/t"}]}]}),
        json!({"containers": [{"name": "runtime", "image": "i",
               "volumeMounts": [{"name": "s", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount/"}]}],
               "volumes": [{"name": "s", "secret": {"secretName": "x"}}]}),
    ] {
        let error = refused(template(spec));
        assert_eq!(error.reason(), "TokenRefused", "{error}");
    }
}

#[test]
fn the_role_is_exactly_what_the_sidecar_needs() {
    let desired = build(plain());
    let rules: Vec<String> = desired
        .role
        .rules
        .unwrap()
        .into_iter()
        .map(|rule| format!("{}: {}", rule.resources.unwrap().join(","), rule.verbs.join(",")))
        .collect();
    assert_eq!(
        rules,
        [
            "runs: get,list,watch",
            "runs/status: patch",
            "runtimeinstances: create",
            "runtimeinstances/status: patch",
            "pods/status: patch",
        ]
    );
}

#[test]
fn the_metrics_port_is_open_where_the_installation_says_so() {
    let open = Defaults { metrics_ingress: true, ..Defaults::default() };
    let policy = desired(&runtime(plain()), &open).unwrap().network_policy.spec.unwrap();
    let rules = policy.ingress.unwrap();
    let [rule] = rules.as_slice() else { panic!("{rules:?}") };
    let [port] = rule.ports.as_deref().unwrap() else { panic!("{rule:?}") };
    assert_eq!((port.port.clone(), rule.from.clone()), (Some(IntOrString::Int(9090)), None));
}

#[test]
fn the_authors_choices_are_kept() {
    let desired = build(json!({
        "port": 7000, "replicas": 3, "daemonImage": "mine:2",
        "capacity": {"resources": {"runs": "64", "nvidia.com/gpu": 2, "tokens": "5", "none": "0", "less": "-1"}},
        "template": {
            "metadata": {"labels": {"team": "a", "runtime": "spoofed"}, "annotations": {"x": "y"}},
            "spec": {
                "serviceAccountName": "theirs", "terminationGracePeriodSeconds": 90,
                "containers": [
                    {"name": "runtime", "image": "i", "ports": [{"name": "grpc", "containerPort": 1}, {"containerPort": 8000}],
                     "resources": {"limits": {"nvidia.com/gpu": 2}}, "securityContext": {"runAsUser": 1000},
                     "env": [{"name": "KRUNTIME_SOCKET_DIR", "value": "/elsewhere"}],
                     "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "other", "mountPath": "/workspace"}]},
                    {"name": "runtimed", "image": "spoofed"},
                    {"name": "helper", "image": "h"}
                ],
                "volumes": [{"name": "data", "emptyDir": {}}, {"name": "workspace", "hostPath": {"path": "/"}}]
            }
        },
        "workspace": {"persistentVolumeClaim": {"claimName": "big"}},
        "runDefaults": {"timeout": "1h"}, "isolation": {"require": {"kill": "Hard"}},
        "git": {"credentialsSecretName": "cred", "caConfigMapName": "ca", "knownHostsConfigMapName": "kh"}
    }));
    assert!(desired.service_account.is_none());
    assert_eq!(desired.role_binding.subjects.as_ref().unwrap()[0].name, "theirs");
    let spec = desired.deployment.spec.as_ref().unwrap();
    let meta = spec.template.metadata.as_ref().unwrap();
    assert_eq!(meta.labels.as_ref().unwrap()["team"], "a");
    assert_eq!(meta.labels.as_ref().unwrap()["runtime"], "bash");
    let annotations: Vec<_> =
        meta.annotations.as_ref().unwrap().iter().filter(|(k, _)| k.contains("capacity")).collect();
    assert_eq!(annotations.len(), 3, "{annotations:?}");
    let pod = pod(&desired);
    let names: Vec<_> = pod.containers.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["runtime", "helper", "runtimed"]);
    let server = &pod.containers[0];
    assert_eq!(server.ports.as_ref().unwrap().len(), 2);
    assert_eq!(server.security_context.as_ref().unwrap().run_as_user, Some(1000));
    assert!(server.resources.as_ref().unwrap().requests.is_none());
    assert_eq!(server.env.as_ref().unwrap()[0].value.as_deref(), Some("/run/kruntimes"));
    let sidecar = &pod.containers[2];
    assert_eq!(sidecar.image.as_deref(), Some("mine:2"));
    let args = sidecar.args.as_ref().unwrap();
    for wanted in [
        "--runtime-name=bash",
        "--work-dir=/workspace",
        "--runtime-endpoint=localhost:7000",
        "--run-defaults={\"timeout\":\"1h\"}",
        "--require-isolation={\"kill\":\"Hard\"}",
        "--git-credentials-file=/etc/kruntimes/git/credentials",
        "--git-ca-file=/etc/kruntimes/git/ca.crt",
        "--git-known-hosts-file=/etc/kruntimes/git/known_hosts",
        "--git-ssh-key-file=/etc/kruntimes/git/ssh-privatekey",
    ] {
        assert!(args.iter().any(|arg| arg == wanted), "{wanted} in {args:?}");
    }
    assert!(sidecar.env.as_ref().unwrap().iter().any(|e| e.value.as_deref() == Some("90")));
    let workspace = pod.volumes.as_ref().unwrap().iter().find(|v| v.name == "workspace").unwrap();
    assert_eq!(workspace.persistent_volume_claim.as_ref().unwrap().claim_name, "big");
}

#[test]
fn the_server_is_told_of_the_network_and_the_sidecar_of_the_isolation() {
    let told = |isolation: Value, env: Value| {
        let container = json!({"name": "runtime", "image": "bash:1", "env": env});
        let mut spec = template(json!({"containers": [container]}));
        spec["isolation"] = isolation;
        let desired = build(spec);
        let [server, sidecar] = [0, 1].map(|index| pod(&desired).containers[index].clone());
        let network = server.env.unwrap().into_iter().find(|v| v.name == "KRUNTIME_RUN_NETWORK");
        let required = sidecar.args.unwrap().into_iter().find(|arg| arg.starts_with("--require-isolation="));
        (network.and_then(|v| v.value), required)
    };
    let required = |text: &str| Some(format!("--require-isolation={text}"));
    let own = json!([{"name": "KRUNTIME_RUN_NETWORK", "value": "none"}]);
    let none = Some("none".to_owned());
    assert_eq!(told(json!(null), json!([])), (None, None));
    assert_eq!(told(json!({"network": "None"}), json!([])), (none.clone(), required("{}")));
    assert_eq!(told(json!({"tenancy": "Mixed"}), own.clone()), (none, required("{}")));
    assert_eq!(
        told(json!({"network": "Shared", "require": {"kill": "Soft"}}), own),
        (Some("shared".to_owned()), required("{\"kill\":\"Soft\"}"))
    );
}

#[test]
fn a_probe_is_the_server_alone_in_the_same_place() {
    let mounts = json!([{"name": "models", "mountPath": "/models"}]);
    let server = json!({"name": "runtime", "image": "bash:1", "args": ["--x"], "securityContext": {"privileged": true},
        "livenessProbe": {"tcpSocket": {"port": 1}}, "volumeMounts": mounts});
    let spec = json!({
        "isolation": {"network": "None"}, "git": {"credentialsSecretName": "cred"},
        "template": {
            "metadata": {"annotations": {"io.example/cgroups": "rw"}},
            "spec": {
                "hostUsers": false, "runtimeClassName": "rw-cgroups", "nodeSelector": {"gpu": "yes"},
                "containers": [server, {"name": "helper", "image": "h"}], "initContainers": [{"name": "i", "image": "i"}],
                "volumes": [{"name": "models", "emptyDir": {}}, {"name": "helpers", "emptyDir": {}}],
            },
        },
    });
    let mut runtime = runtime(spec);
    let template = probe_template(&runtime).unwrap();
    let metadata = template.metadata.unwrap();
    assert_eq!(metadata.labels, None);
    let annotations = metadata.annotations.unwrap();
    assert_eq!(annotations.get("io.example/cgroups").map(String::as_str), Some("rw"));
    assert!(annotations.keys().all(|key| !key.starts_with("kruntimes.io/")), "{annotations:?}");
    let pod = template.spec.unwrap();
    assert_eq!((pod.host_users, pod.runtime_class_name.as_deref()), (Some(false), Some("rw-cgroups")));
    assert_eq!(
        (pod.restart_policy.as_deref(), pod.readiness_gates, pod.init_containers),
        (Some("Never"), None, None)
    );
    assert_eq!(pod.automount_service_account_token, Some(false));
    let [server] = pod.containers.as_slice() else { panic!("{:?}", pod.containers) };
    assert_eq!(server.args.as_deref(), Some(&["--x".to_owned(), "--probe".to_owned()][..]));
    assert_eq!((&server.liveness_probe, &server.readiness_probe), (&None, &None));
    assert_eq!(server.security_context.as_ref().unwrap().privileged, Some(true));
    assert!(server.env.iter().flatten().any(|v| v.name == "KRUNTIME_RUN_NETWORK"));
    let volumes: Vec<_> = pod.volumes.iter().flatten().map(|volume| volume.name.as_str()).collect();
    assert_eq!(volumes, ["models", "workspace", "kruntimes"]);
    assert_eq!(pod.service_account_name, None);
    runtime.spec.template["spec"]["serviceAccountName"] = json!("theirs");
    let account = probe_template(&runtime).unwrap().spec.unwrap().service_account_name;
    assert_eq!(account.as_deref(), Some("theirs"));
}

#[test]
fn volumes_that_the_author_mounts_stay_writable_for_runs() {
    let shared = |mounts: Value| {
        let container = json!({"name": "runtime", "image": "bash:1", "volumeMounts": mounts});
        let desired = build(template(json!({"containers": [container]})));
        let variables = pod(&desired).containers[0].env.clone().unwrap();
        variables.into_iter().find(|v| v.name == "KRUNTIME_SHARED_PATHS").and_then(|v| v.value)
    };
    assert_eq!(shared(json!([])), None);
    let mounts = json!([
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "models", "mountPath": "/models", "readOnly": true},
        {"name": "data", "mountPath": "/data"},
        {"name": "workspace", "mountPath": "/elsewhere"},
    ]);
    assert_eq!(shared(mounts).as_deref(), Some("/tmp,/data"));
}

#[test]
fn every_bad_template_is_an_error_that_names_its_field() {
    let container = json!({"name": "runtime", "image": "i"});
    for (spec, wanted) in [
        (template(json!({"containers": []})), "containers[0]"),
        (template(json!({"containers": [{"name": "server", "image": "i"}]})), "\"server\""),
        (template(json!({"containers": [{"name": "runtime"}]})), "image"),
        (template(json!({"containers": "none"})), "spec.template cannot be decoded"),
        (template(json!({"containers": [container, container]})), "two containers are named \"runtime\""),
        (template(json!({"containers": [container], "initContainers": [{"name": "runtimed"}]})), "runtimed"),
        (template(json!({"containers": [container], "restartPolicy": "Never"})), "restartPolicy"),
        (
            template(json!({"containers": [container], "ephemeralContainers": [{"name": "x"}]})),
            "ephemeralContainers",
        ),
        (template(json!({"containers": [container], "volumes": [{"name": "a"}, {"name": "a"}]})), "\"a\""),
        (json!({"template": plain()["template"], "port": 0}), "spec.port 0"),
        (json!({"template": plain()["template"], "port": 9094}), "sidecar"),
        (json!({"template": plain()["template"], "capacity": {"resources": {"runs": "0.5"}}}), "runs"),
        (
            json!({"template": plain()["template"], "capacity": {"resources": {"runs": 0}}}),
            "resources.runs is 0",
        ),
        (json!({"template": plain()["template"], "capacity": {"resources": {"cpu": "many"}}}), "cpu"),
        (
            json!({"template": plain()["template"], "workspace": {"emptyDir": {}, "hostPath": {"path": "/"}}}),
            "spec.workspace",
        ),
        (json!({"template": plain()["template"], "workspace": {"floppy": {}}}), "no known kind"),
        (json!({"template": plain()["template"], "artifactStore": {"driver": "x"}}), "spec.artifactStore"),
        (json!({"template": 7}), "spec.template cannot be decoded"),
    ] {
        let text = refused(spec).to_string();
        assert!(text.contains(wanted), "{wanted:?} in {text}");
    }
    let mut long = runtime(plain());
    long.metadata.name = Some("a".repeat(54));
    assert!(matches!(desired(&long, &Defaults::default()), Err(TemplateError::Name { .. })));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from)
    ];
    let keys = prop_oneof![
        Just("spec"),
        Just("containers"),
        Just("volumes"),
        Just("name"),
        Just("image"),
        Just("metadata"),
        Just("ports"),
        Just("env"),
        Just("projected"),
        Just("labels"),
        Just("volumeMounts"),
        Just("securityContext")
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(keys.clone().prop_map(str::to_owned), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_template_panics_and_the_same_input_gives_the_same_objects(template in any_json(), workspace in any_json()) {
        let mut runtime = runtime(json!({"template": template}));
        runtime.spec.workspace = workspace.is_object().then_some(workspace);
        let once = desired(&runtime, &Defaults::default());
        prop_assert_eq!(once, desired(&runtime, &Defaults::default()));
    }
}

#[test]
fn both_containers_are_told_of_one_collector() {
    let endpoints = |env: Value, installed: Option<&str>| {
        let container = json!({"name": "runtime", "image": "i", "env": env});
        let defaults = Defaults { otlp_endpoint: installed.map(Into::into), ..Defaults::default() };
        let desired = desired(&runtime(template(json!({"containers": [container]}))), &defaults).unwrap();
        let endpoint = |container: usize| {
            let variables = pod(&desired).containers[container].env.clone().unwrap_or_default();
            let found: Vec<_> =
                variables.into_iter().filter(|variable| variable.name == OTLP_ENDPOINT_ENV).collect();
            assert!(found.len() < 2, "{found:?}");
            found.into_iter().next().map(|variable| variable.value.unwrap_or_else(|| "from".into()))
        };
        [endpoint(0), endpoint(1)].map(|found| found.unwrap_or_else(|| "none".into()))
    };
    let own = |value: &str| json!([{"name": OTLP_ENDPOINT_ENV, "value": value}]);
    assert_eq!(endpoints(json!([]), None), ["none", "none"]);
    assert_eq!(endpoints(json!([]), Some("http://a:1")), ["http://a:1", "http://a:1"]);
    assert_eq!(
        endpoints(own("http://b:2"), Some("http://a:1")),
        ["http://b:2", "http://b:2"],
        "the author's wins"
    );
    assert_eq!(endpoints(own(""), Some("http://a:1")), ["", ""], "also for none");
    assert_eq!(endpoints(own("http://b:2"), None), ["http://b:2", "http://b:2"]);
    let host = "http://$(HOST_IP):2";
    assert_eq!(
        endpoints(own(host), Some("http://a:1")),
        [host, "http://a:1"],
        "HOST_IP is the server's alone"
    );
    let secret =
        json!([{"name": OTLP_ENDPOINT_ENV, "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]);
    assert_eq!(endpoints(secret, Some("http://a:1")), ["from", "from"]);
}
