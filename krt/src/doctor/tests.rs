use jiff::{SignedDuration, Timestamp};
use kruntimes_api::crds;
use serde_json::{Value, json};

use super::*;

const NOW: &str = "2026-08-08T10:10:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn decode<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn pod(name: &str, beat: &str) -> Pod {
    decode(json!({
        "metadata": {"name": name, "namespace": "team", "uid": format!("{name}-uid"), "labels": {"runtime": "bash"}},
        "spec": {"nodeName": "node1", "containers": []},
        "status": {"phase": "Running", "conditions": [
            {"type": "kruntimes.io/RuntimedReady", "status": "True", "lastProbeTime": beat},
        ]},
    }))
}

fn runtime(name: &str, status: Value) -> Runtime {
    decode(json!({
        "metadata": {"name": name, "namespace": "team", "generation": 1},
        "spec": {"replicas": 2, "template": {"spec": {"containers": []}}},
        "status": status,
    }))
}

fn run(name: &str, runtime: &str, created: &str, status: Value) -> Run {
    decode(json!({
        "metadata": {"name": name, "namespace": "team", "uid": format!("{name}-uid"), "creationTimestamp": created},
        "spec": {"runtime": runtime, "timeout": "1m"},
        "status": status,
    }))
}

fn release(name: &str, namespace: &str) -> Release {
    Release { name: name.into(), namespace: namespace.into() }
}

/// The kinds, made by a release.
fn kinds(
    of: &Release,
) -> Vec<k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition> {
    let mut kinds = crds::all().unwrap();
    for kind in &mut kinds {
        kind.annotations_mut().extend([
            ("meta.helm.sh/release-name".into(), of.name.clone()),
            ("meta.helm.sh/release-namespace".into(), of.namespace.clone()),
        ]);
    }
    kinds
}

fn part(component: &str) -> Part {
    Part {
        component: component.into(),
        namespace: "kruntimes-system".into(),
        name: format!("kruntimes-{component}"),
        release: Some(release("kruntimes", "kruntimes-system")),
        watches: None,
        version: Some(env!("CARGO_PKG_VERSION").into()),
        wanted: 2,
        ready: 2,
        elects: true,
        lease: Ok(Some((format!("{component}-1_5eed"), SignedDuration::from_secs(3)))),
    }
}

fn right(verb: &'static str, resource: &'static str, allowed: bool) -> Right {
    Right { verb, resource, allowed }
}

fn healthy() -> Facts {
    Facts {
        ours: env!("CARGO_PKG_VERSION"),
        namespace: Some("team".into()),
        local: false,
        address: "https://cluster:6443/".into(),
        user: Some("ada".into()),
        server: Ok("v1.36.3".into()),
        skew: Some(SignedDuration::from_secs(1)),
        kinds: Ok(kinds(&release("kruntimes", "kruntimes-system"))),
        policies: Ok([
            "pods-status",
            "runs-status",
            "runs-submitter",
            "runtimeinstances",
            "runtimes-template",
        ]
        .map(|name| format!("{name}.kruntimes.io"))
        .into()),
        rights: vec![right("create", "runs", true), right("get", "pods/log", true)],
        parts: Ok(vec![part("scheduler"), part("controller")]),
        runtimes: Ok(vec![runtime(
            "bash",
            json!({"readyReplicas": 2, "observedGeneration": 1, "capacity": {"runs": "4"}, "inUse": {"runs": "1"}}),
        )]),
        pods: Ok(vec![pod("p1", "2026-08-08T10:09:55Z"), pod("p2", "2026-08-08T10:09:51Z")]),
        runs: Ok(vec![run(
            "going",
            "bash",
            "2026-08-08T10:09:30Z",
            json!({"phase": "Running", "assignedPod": "p1", "assignedPodUID": "p1-uid", "startTime": "2026-08-08T10:09:31.0Z"}),
        )]),
    }
}

fn broken() -> Facts {
    let mut old = kinds(&release("kruntimes", "kruntimes-system"));
    old.pop();
    let mut first = serde_json::to_value(&old[0]).unwrap();
    let spec =
        &mut first["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    spec.as_object_mut().unwrap().remove("submitter");
    old[0] = decode(first);
    let mut scheduler = part("scheduler");
    scheduler.lease = Ok(Some(("scheduler-1_5eed".into(), SignedDuration::from_secs(90))));
    let mut deleted = run("stays", "bash", "2026-08-08T09:00:00Z", json!({"phase": "Running"}));
    deleted.metadata.deletion_timestamp = Some(decode(json!("2026-08-08T10:00:00Z")));
    deleted.metadata.finalizers = Some(vec!["example.com/keep".into()]);
    let gone = json!({"phase": "Running", "assignedPod": "gone", "assignedPodUID": "gone-uid",
        "scheduledTime": "2026-08-08T10:00:00.0Z", "startTime": "2026-08-08T10:00:01.0Z"});
    let idle = json!({"phase": "Scheduled", "assignedPod": "p1", "assignedPodUID": "p1-uid",
        "scheduledTime": "2026-08-08T10:05:00.0Z"});
    Facts {
        server: Ok("v1.31.2".into()),
        skew: Some(SignedDuration::from_secs(-40)),
        kinds: Ok(old),
        policies: Ok(vec!["runs-status.kruntimes.io".into()]),
        rights: vec![right("create", "runs", false), right("list", "pods", true)],
        parts: Ok(vec![scheduler]),
        runtimes: Ok(vec![
            runtime(
                "bash",
                json!({"readyReplicas": 2, "observedGeneration": 1, "capacity": {"runs": "4"}, "inUse": {"runs": "4"}}),
            ),
            runtime(
                "gpu",
                json!({"readyReplicas": 0, "observedGeneration": 1, "conditions": [
                    {"type": "Degraded", "status": "True", "reason": "ImagePullFailed", "lastTransitionTime": NOW,
                     "message": "pod gpu-1: container runtime (image nope:1): ErrImagePull: not found"},
                ]}),
            ),
        ]),
        pods: Ok(vec![pod("p1", "2026-08-08T10:08:00Z"), pod("p2", "2026-08-08T10:11:00Z")]),
        runs: Ok(vec![
            deleted,
            run("lost", "bash", "2026-08-08T10:00:00Z", gone),
            run("idle", "bash", "2026-08-08T10:00:00Z", idle),
            run("full", "bash", "2026-08-08T10:02:00Z", Value::Null),
            run("nowhere", "pyton", "2026-08-08T10:02:00Z", Value::Null),
            run("unseen", "gpu", "2026-08-08T10:02:00Z", Value::Null),
        ]),
        ..healthy()
    }
}

#[test]
fn a_healthy_platform() {
    let findings = judge::findings(&healthy(), now());
    assert!(findings.iter().all(|finding| finding.verdict == Verdict::Ok), "{findings:#?}");
    let version = env!("CARGO_PKG_VERSION");
    insta::assert_snapshot!(report(&findings, Palette::default()).replace(version, "VERSION"));
}

/// Every line that says that something is wrong comes with a command.
#[test]
fn a_broken_platform() {
    let findings = judge::findings(&broken(), now());
    for finding in &findings {
        let wrong = matches!(finding.verdict, Verdict::Warning | Verdict::Error);
        assert_eq!(finding.fix.is_some(), wrong, "{finding:#?}");
    }
    let version = env!("CARGO_PKG_VERSION");
    insta::assert_snapshot!(report(&findings, Palette::default()).replace(version, "VERSION"));
}

#[test]
fn what_may_not_be_seen_is_not_called_well() {
    let no = || "cannot list: forbidden".to_owned();
    let facts = Facts {
        server: Err(no()),
        skew: None,
        kinds: Err(no()),
        policies: Err(no()),
        rights: vec![],
        parts: Err(no()),
        runtimes: Err(no()),
        pods: Err(no()),
        runs: Err(no()),
        ..healthy()
    };
    let findings = judge::findings(&facts, now());
    assert!(findings.iter().all(|finding| finding.verdict == Verdict::Unknown), "{findings:#?}");
}

#[test]
fn many_of_a_kind_are_a_few_lines() {
    let pods = (0..50).map(|i| pod(&format!("p{i}"), "2026-08-08T10:00:00Z")).collect();
    let findings = judge::findings(&Facts { pods: Ok(pods), ..healthy() }, now());
    let pods: Vec<_> = findings.iter().filter(|finding| finding.check == "Pods").collect();
    assert_eq!(pods.len(), 5);
    assert!(pods[4].found.ends_with("(and 45 more of these)"), "{}", pods[4].found);
}

fn findings_of(facts: Facts, check: &str) -> Vec<Finding> {
    judge::findings(&facts, now()).into_iter().filter(|finding| finding.check == check).collect()
}

/// Helm lets only the release that made the kinds change them.
#[test]
fn kinds_are_mended_by_the_release_that_made_them() {
    let part_of = |name: &str, namespace: &str| Part {
        release: Some(release(name, namespace)),
        watches: Some("team".into()),
        ..part("scheduler")
    };
    let fix = |owner: Option<Release>, parts: Vec<Part>| {
        let mut kinds = owner.map_or_else(|| crds::all().unwrap(), |owner| kinds(&owner));
        kinds.pop();
        let facts = Facts { kinds: Ok(kinds), parts: Ok(parts), ..healthy() };
        findings_of(facts, "Kinds").pop().and_then(|finding| finding.fix).unwrap()
    };
    let of = |name: &str| Some(release(name, "ops"));
    let upgrade = |name: &str, chart: &str| {
        format!("helm upgrade --install {name} charts/{chart} --namespace ops --reset-then-reuse-values")
    };
    assert_eq!(fix(of("platform"), vec![part_of("platform", "ops")]), upgrade("platform", "kruntimes"));
    assert_eq!(fix(of("base"), vec![part_of("team", "team")]), upgrade("base", "kruntimes-crds"));
    assert_eq!(fix(of("kruntimes-crds"), vec![]), upgrade("kruntimes-crds", "kruntimes-crds"));
    assert!(fix(None, vec![part("scheduler")]).starts_with("helm template kruntimes-crds charts/"));
    let facts = Facts { kinds: Ok(vec![]), parts: Ok(vec![]), ..healthy() };
    let first = findings_of(facts, "Kinds").remove(0).fix.unwrap();
    assert!(first.starts_with("helm install kruntimes-crds charts/kruntimes-crds --namespace"), "{first}");
}

#[test]
fn another_version_is_mended_by_its_release() {
    let old =
        Part { version: Some("0.0.1".into()), name: "team-kruntimes-scheduler".into(), ..part("scheduler") };
    let fix = |release| {
        let parts = vec![Part { release, ..old.clone() }, part("controller")];
        findings_of(Facts { parts: Ok(parts), ..healthy() }, "Control plane").remove(0).fix.unwrap()
    };
    assert_eq!(
        fix(Some(release("team", "ops"))),
        "helm upgrade --install team charts/kruntimes --namespace ops --reset-then-reuse-values"
    );
    assert!(fix(None).starts_with("kubectl "));
}

/// A control plane for another namespace is none.
#[test]
fn only_those_count_that_look_after_the_namespace() {
    let of = |component: &str, namespace: &str| Part {
        namespace: namespace.into(),
        watches: Some(namespace.into()),
        release: Some(release("own", namespace)),
        ..part(component)
    };
    let elsewhere = || vec![of("scheduler", "other"), of("controller", "other")];
    let facts = Facts {
        parts: Ok(elsewhere()),
        runs: Ok(vec![run("r", "bash", "2026-08-08T10:00:00Z", Value::Null)]),
        ..healthy()
    };
    let findings = findings_of(facts, "Control plane");
    assert_eq!(findings.len(), 2);
    for finding in &findings {
        assert_eq!(finding.verdict, Verdict::Error);
        assert!(finding.found.ends_with("for namespace team, only for others such as other"), "{finding:?}");
        assert!(finding.fix.as_ref().unwrap().ends_with("watchNamespace=team"), "{finding:?}");
    }
    let facts = Facts { parts: Ok(elsewhere()), namespace: None, ..healthy() };
    assert!(findings_of(facts, "Control plane").iter().all(|finding| finding.verdict == Verdict::Ok));
    // One for all and one for a namespace of them.
    let both = vec![part("scheduler"), of("scheduler", "team"), part("controller")];
    let findings = findings_of(Facts { parts: Ok(both), ..healthy() }, "Control plane");
    let errors: Vec<_> = findings.iter().filter(|finding| finding.verdict == Verdict::Error).collect();
    let [two] = errors.as_slice() else { panic!("{findings:?}") };
    assert!(two.found.ends_with("both look after namespace team"), "{two:?}");
    assert_eq!(two.fix.as_deref(), Some("helm uninstall own --namespace team"));
}

#[test]
fn policies_that_are_not_there_are_a_finding() {
    let found = |policies: Vec<String>| {
        findings_of(Facts { policies: Ok(policies), ..healthy() }, "Policies").remove(0)
    };
    let none = found(vec![]);
    assert_eq!(none.verdict, Verdict::Warning);
    assert!(none.found.starts_with("no admission policy is enforced"), "{none:?}");
    let fix = none.fix.unwrap();
    assert!(
        fix.contains(
            "'kruntimes-crds.policies.enabled=true,kruntimes-crds.policies.validationActions={Deny}'"
        ),
        "{fix}"
    );
    let facts = Facts { local: true, policies: Ok(vec![]), ..healthy() };
    assert!(findings_of(facts, "Policies").is_empty());
}

#[test]
fn no_pods_are_no_fault_and_no_praise() {
    let findings = findings_of(Facts { pods: Ok(vec![]), ..healthy() }, "Pods");
    assert_eq!(findings[0].found, "no Runtime has any");
}

/// Waiting is no fault: for its time, because it was asked for, or for less than a minute.
#[test]
fn a_run_that_waits_as_it_should_is_not_stuck() {
    let mut suspended = run("s", "bash", "2026-08-08T09:00:00Z", Value::Null);
    suspended.spec.suspend = Some(true);
    let later = json!({"phase": "Pending", "attempt": 2, "nextAttemptTime": "2026-08-08T10:10:30.0Z"});
    let runs = vec![
        suspended,
        run("later", "bash", "2026-08-08T09:00:00Z", later),
        run("new", "bash", "2026-08-08T10:09:30Z", Value::Null),
    ];
    let findings = judge::findings(&Facts { runs: Ok(runs), ..healthy() }, now());
    assert_eq!(findings.last().map(|finding| finding.verdict), Some(Verdict::Ok), "{findings:#?}");
}
