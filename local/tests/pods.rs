//! The pod runner: what a kubelet promises, with `/bin/sh` as every container's program.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod common;

use std::path::Path;

use common::*;
use kruntimes_local::{Isolation, Platform};
use serde_json::{Value, json};

fn pod(name: &str, script: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 5, "containers": [{"name": "main", "image": "sh", "args": ["-c", script]}]},
    })
}

fn path(name: &str) -> String {
    format!("{PODS}/{name}")
}

async fn until_pod(c: &Client, name: &str, what: &str, done: impl Fn(&Value) -> bool) -> Value {
    let path = path(name);
    until(what, || c.get(&path), |(code, pod)| *code == 200 && done(pod)).await.1
}

async fn until_gone(c: &Client, name: &str) {
    let path = path(name);
    until("it goes", || c.get(&path), |(code, _)| *code == 404).await;
}

fn condition(pod: &Value, kind: &str) -> String {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.iter().find(|c| c["type"] == kind).and_then(|c| c["status"].as_str());
    found.unwrap_or_default().to_owned()
}

fn ready(pod: &Value) -> bool {
    condition(pod, "Ready") == "True"
}

fn container(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

/// The log so far; before the start of the container, why there is none.
async fn log(c: &Client, name: &str) -> String {
    c.get(&format!("{}/log", path(name))).await.1.as_str().unwrap_or_default().to_owned()
}

/// Processes of this machine whose environment or arguments hold `mark`.
fn processes(mark: &str) -> Vec<String> {
    let holds = |pid: &str| {
        let read = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let text = [read("cmdline"), read("environ")].concat();
        String::from_utf8_lossy(&text).contains(mark)
    };
    let pids = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().into_string().ok());
    pids.filter(|p| p.parse::<u32>().is_ok_and(|p| p != std::process::id()) && holds(p)).collect()
}

#[tokio::test]
async fn a_pod_runs_is_ready_and_logs() {
    let cluster = cluster(true).await;
    let c = cluster.client.clone();
    c.post(PODS, &pod("p", "echo hello from $HOSTNAME; echo bad >&2; exec sleep 1000")).await;
    let running = until_pod(&c, "p", "ready", ready).await;
    assert_eq!(
        (&running["status"]["phase"], &running["spec"]["nodeName"]),
        (&json!("Running"), &json!("local"))
    );
    assert!(running["status"]["podIP"].as_str().unwrap().starts_with("127."));
    for kind in ["PodScheduled", "Initialized", "ContainersReady"] {
        assert_eq!(condition(&running, kind), "True", "{kind}");
    }
    let text = until("the log", || log(&c, "p"), |log| log.lines().count() == 2).await;
    assert!(text.contains("hello from p\n") && text.contains("bad\n"), "{text}");
    let (_, list) = c
        .get("/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dp,reason%3DStarted")
        .await;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1), "{list}");
}

#[tokio::test]
async fn logs_are_followed_to_the_end() {
    let cluster = cluster(true).await;
    let c = cluster.client.clone();
    let mut p = pod("p", "for i in 1 2 3; do echo line $i; sleep 0.1; done");
    p["spec"]["restartPolicy"] = json!("Never");
    c.post(PODS, &p).await;
    until_pod(&c, "p", "started", |p| p["status"]["phase"] != "Pending").await;
    let stream = c.lines(&format!("{}/log?follow=true&tailLines=100", path("p"))).await;
    let lines: Vec<String> = futures::StreamExt::collect(stream).await;
    assert_eq!(lines, ["line 1", "line 2", "line 3"]);
    let done = until_pod(&c, "p", "done", |p| p["status"]["phase"] == "Succeeded").await;
    assert_eq!(container(&done)["state"]["terminated"]["reason"], "Completed");
    assert_eq!(c.get(&format!("{}/log?container=none", path("p"))).await.0, 400);
}

#[tokio::test]
async fn containers_are_restarted_with_a_pause_and_remember_their_end() {
    let cluster = cluster(true).await;
    let c = cluster.client.clone();
    c.post(PODS, &pod("p", "echo start; exit 3")).await;
    let waiting = until_pod(&c, "p", "back-off", |p| {
        container(p)["restartCount"] == 1 && container(p)["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    })
    .await;
    assert_eq!(container(&waiting)["lastState"]["terminated"]["exitCode"], 3);
    assert_eq!(c.text(&format!("{}/log?previous=true", path("p"))).await, "start\n");
}

#[tokio::test]
async fn an_unknown_image_says_what_to_do() {
    let cluster = cluster(true).await;
    let c = cluster.client.clone();
    let mut p = pod("p", "");
    p["spec"]["containers"][0]["image"] = json!("registry.example/team/nginx:1");
    c.post(PODS, &p).await;
    let waiting =
        until_pod(&c, "p", "waiting", |p| container(p)["state"]["waiting"]["reason"] == "ErrImagePull").await;
    let message = container(&waiting)["state"]["waiting"]["message"].as_str().unwrap();
    assert!(message.contains("--image nginx=PATH"), "{message}");
    let (_, list) = c.get("/api/v1/namespaces/default/events?fieldSelector=reason%3DFailed").await;
    assert_eq!(list["items"][0]["message"], message);
    assert_eq!(c.delete(&path("p")).await.0, 200);
    until_gone(&c, "p").await;
}

#[tokio::test]
async fn init_containers_run_first_and_volumes_are_shared() {
    let cluster = cluster(true).await;
    let c = &cluster.client;
    c.post(
        "/api/v1/namespaces/default/secrets",
        &json!({"metadata": {"name": "s"}, "stringData": {"key": "secret value"}}),
    )
    .await;
    c.post(MAPS, &json!({"metadata": {"name": "m"}, "data": {"file": "map value", "PLAIN": "from map"}}))
        .await;
    let mounts = json!([{"name": "work", "mountPath": "/work"}, {"name": "conf", "mountPath": "/conf"}, {"name": "token", "mountPath": "/var/token"}]);
    let p = json!({
        "metadata": {"name": "p", "labels": {"l": "label-value"}},
        "spec": {
            "restartPolicy": "Never",
            "volumes": [
                {"name": "work", "emptyDir": {}}, {"name": "conf", "configMap": {"name": "m"}},
                {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
            ],
            "initContainers": [{"name": "first", "image": "sh", "args": ["-c", "echo made by init > $0", "/work/file"], "volumeMounts": mounts}],
            "containers": [{
                "name": "main", "image": "sh", "volumeMounts": mounts,
                "command": ["/bin/sh", "-c"],
                "args": ["cat $WORK/file $CONF/file; echo; echo $SECRET $PLAIN $LABEL $NAME $POD_IP=$KRUNTIME_BIND_ADDRESS $BOTH; test -s $TOKEN && test -s $KUBECONFIG && echo credentials"],
                "envFrom": [{"configMapRef": {"name": "m"}}],
                "env": [
                    {"name": "WORK", "value": "/work"}, {"name": "CONF", "value": "/conf"}, {"name": "TOKEN", "value": "/var/token/token"},
                    {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "key"}}},
                    {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['l']"}}},
                    {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "BOTH", "value": "$(NAME)/$(PLAIN)"},
                ],
            }],
        },
    });
    assert_eq!(c.post(PODS, &p).await.0, 201);
    let done = until_pod(c, "p", "done", |p| p["status"]["phase"] == "Succeeded").await;
    let ip = done["status"]["podIP"].as_str().unwrap();
    let text = log_of(c, "p", "main").await;
    assert_eq!(
        text,
        format!(
            "made by init\nmap value\nsecret value from map label-value p {ip}={ip} p/from map\ncredentials\n"
        )
    );
    assert_eq!(done["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"], 0);
    let folder = cluster.folder.path().join("pods").join(done["metadata"]["uid"].as_str().unwrap());
    assert!(folder.exists());
    c.delete(&path("p")).await;
    until("the folder goes", || async { folder.exists() }, |exists| !exists).await;
}

async fn log_of(c: &Client, name: &str, container: &str) -> String {
    c.text(&format!("{}/log?container={container}", path(name))).await
}

#[tokio::test]
async fn probes_and_gates_decide_readiness() {
    let cluster = cluster(true).await;
    let c = cluster.client.clone();
    let mut p = pod("p", "exec sleep 1000");
    p["spec"]["volumes"] = json!([{"name": "d", "emptyDir": {}}]);
    p["spec"]["readinessGates"] = json!([{"conditionType": "example.test/gate"}]);
    p["spec"]["terminationGracePeriodSeconds"] = json!(1);
    let main = &mut p["spec"]["containers"][0];
    main["volumeMounts"] = json!([{"name": "d", "mountPath": "/d"}]);
    main["env"] = json!([{"name": "D", "value": "/d"}]);
    main["readinessProbe"] = json!({"exec": {"command": ["/usr/bin/test", "-e", "/d/go"]}, "periodSeconds": 1, "failureThreshold": 1});
    main["livenessProbe"] = json!({"exec": {"command": ["/bin/sh", "-c", "! test -e $D/broken"]}, "periodSeconds": 1, "failureThreshold": 1});
    let (_, made) = c.post(PODS, &p).await;
    let running = until_pod(&c, "p", "running", |p| container(p)["state"]["running"].is_object()).await;
    assert!(!ready(&running) && container(&running)["ready"] == false);
    let volume =
        cluster.folder.path().join("pods").join(made["metadata"]["uid"].as_str().unwrap()).join("volumes/d");
    std::fs::write(volume.join("go"), "").unwrap();
    let waiting = until_pod(&c, "p", "containers ready", |p| condition(p, "ContainersReady") == "True").await;
    assert!(!ready(&waiting), "the gate is closed");
    let gate = json!({"status": {"conditions": [{"type": "example.test/gate", "status": "True", "reason": "Heartbeat"}]}});
    assert_eq!(c.patch(&format!("{}/status", path("p")), STRATEGIC, &gate).await.0, 200);
    until_pod(&c, "p", "ready", ready).await;
    std::fs::remove_file(volume.join("go")).unwrap();
    until_pod(&c, "p", "unready", |p| !ready(p)).await;
    std::fs::write(volume.join("broken"), "").unwrap();
    let again = until_pod(&c, "p", "restarted", |p| container(p)["restartCount"].as_u64() >= Some(1)).await;
    let why = container(&again)["lastState"]["terminated"]["message"].as_str().unwrap();
    assert!(why.contains("livenessProbe failed"), "{why}");
    assert_eq!(condition(&again, "example.test/gate"), "True", "the conditions of others stay");
}

#[tokio::test]
async fn deleting_gives_grace_and_then_kills() {
    let cluster = cluster(true).await;
    let c = cluster.client.clone();
    c.post(PODS, &pod("polite", "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done")).await;
    until("up", || log(&c, "polite"), |log| log.contains("up")).await;
    let mut follow = c.lines(&format!("{}/log?follow=true", path("polite"))).await;
    let (code, marked) = c.delete(&path("polite")).await;
    assert_eq!((code, &marked["metadata"]["deletionGracePeriodSeconds"]), (200, &json!(5)));
    let mut lines = Vec::new();
    while let Some(line) = futures::StreamExt::next(&mut follow).await {
        lines.push(line);
    }
    assert_eq!(lines, ["up", "bye"]);
    until_gone(&c, "polite").await;

    c.post(PODS, &pod("plain", "echo up; exec sleep 1000")).await;
    until("up", || log(&c, "plain"), |log| log.contains("up")).await;
    let begun = std::time::Instant::now();
    c.delete(&path("plain")).await;
    until_gone(&c, "plain").await;
    assert!(
        begun.elapsed().as_secs() < 5,
        "TERM ends a program that does nothing about it, before the grace does"
    );

    let mut stubborn = pod(
        "stubborn",
        "trap '' TERM; echo up; setsid sh -c 'trap \"\" TERM; MARK=stubborn-child sleep 1000'",
    );
    stubborn["spec"]["terminationGracePeriodSeconds"] = json!(1);
    c.post(PODS, &stubborn).await;
    until("up", || log(&c, "stubborn"), |log| log.contains("up")).await;
    c.delete(&path("stubborn")).await;
    until_gone(&c, "stubborn").await;
    assert_eq!(processes("stubborn-child"), Vec::<String>::new());

    c.post(PODS, &pod("now", "trap '' TERM; sleep 1000")).await;
    until_pod(&c, "now", "ready", ready).await;
    let at_once = json!({"gracePeriodSeconds": 0}).to_string();
    assert_eq!(c.send("DELETE", &path("now"), "application/json", at_once.into()).await.0, 200);
    assert_eq!(c.get(&path("now")).await.0, 404);
}

#[tokio::test]
async fn deployments_make_replace_and_scale_pods() {
    let cluster = cluster(true).await;
    let c = cluster.client.clone();
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let mut d = json!({
        "metadata": {"name": "d"},
        "spec": {
            "replicas": 2, "selector": {"matchLabels": {"app": "d"}},
            "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"terminationGracePeriodSeconds": 0,
                "containers": [{"name": "main", "image": "sh", "args": ["-c", "exec sleep 1000"]}]}},
        },
    });
    assert_eq!(c.post(deployments, &d).await.0, 201);
    let one = format!("{deployments}/d");
    let settled = |replicas: u64| {
        move |(_, d): &(u16, Value)| {
            let status = &d["status"];
            status["observedGeneration"] == d["metadata"]["generation"]
                && ["replicas", "updatedReplicas", "readyReplicas"]
                    .iter()
                    .all(|k| status[k].as_u64().unwrap_or(0) == replicas)
        }
    };
    until("two ready", || c.get(&one), settled(2)).await;
    let names = || async {
        let (_, list) = c.get(&format!("{PODS}?labelSelector=app%3Dd")).await;
        let items = list["items"].as_array().unwrap().clone();
        items.iter().map(|p| p["metadata"]["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let first = names().await;
    c.delete(&path(&first[0])).await;
    until("replaced", names, |now| now.len() == 2 && !now.contains(&first[0])).await;
    let scale = json!({"spec": {"replicas": 3}});
    assert_eq!(c.patch(&format!("{one}/scale"), MERGE, &scale).await.0, 200);
    until("three ready", || c.get(&one), settled(3)).await;
    let before = names().await;
    d["spec"]["template"]["spec"]["containers"][0]["env"] = json!([{"name": "NEW", "value": "1"}]);
    d["spec"]["replicas"] = json!(3);
    assert_eq!(c.patch(&one, MERGE, &json!({"spec": d["spec"]})).await.0, 200);
    until("all new", names, |now| now.len() == 3 && now.iter().all(|n| !before.contains(n))).await;
    until("settled", || c.get(&one), settled(3)).await;
    c.delete(&one).await;
    until("all gone", names, |now| now.is_empty()).await;
}

#[tokio::test]
async fn a_killed_platform_leaves_no_process_and_the_next_one_starts_the_pods_again() {
    let isolation = Isolation::probe(&program()).await;
    if !isolation.holds() {
        println!("skipped: the kernel gives no PID namespace here ({})", isolation.word());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut first = start(folder.path());
    let kubeconfig = folder.path().join("kubeconfig");
    until("it serves", || async { kruntimes_local::Status::read(folder.path()) }, Option::is_some).await;
    let c = Client::new(&kubeconfig).await;
    let mark = format!("leftover-{}", std::process::id());
    let script = format!(
        "setsid sh -c 'MARK={mark} exec sleep 1000' & setsid setsid env MARK={mark} sleep 1000 & exec env MARK={mark} sleep 1000"
    );
    c.post(PODS, &pod("p", &script)).await;
    until_pod(&c, "p", "ready", ready).await;
    until("three processes", || async { processes(&mark).len() }, |count| *count >= 3).await;
    first.kill().unwrap();
    first.wait().unwrap();
    until("all gone", || async { processes(&mark) }, Vec::is_empty).await;

    let platform = Platform::start(config(folder.path())).await.unwrap();
    let c = Client::new(&kubeconfig).await;
    let again = until_pod(&c, "p", "ready again", |p| ready(p) && container(p)["restartCount"] == 1).await;
    assert_eq!(container(&again)["lastState"]["terminated"]["exitCode"], 137);
    platform.shutdown(DEADLINE).await;
    until("stopped", || async { processes(&mark) }, Vec::is_empty).await;
}

fn start(folder: &Path) -> std::process::Child {
    std::process::Command::new(program())
        .arg("--data-dir")
        .arg(folder)
        .args([
            "--crds",
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/crds.yaml"),
            "--image",
            "sh=/bin/sh",
        ])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = start(folder.path());
    until("it serves", || async { kruntimes_local::Status::read(folder.path()) }, Option::is_some).await;
    let c = Client::new(&folder.path().join("kubeconfig")).await;
    let (acknowledged, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (c, acknowledged) = (c.clone(), acknowledged.clone());
            tokio::spawn(async move {
                for index in 0.. {
                    let name = format!("w{writer}-{index}");
                    let body =
                        json!({"metadata": {"name": name}, "data": {"i": index.to_string()}}).to_string();
                    let request = http::Request::post(MAPS).header("content-type", "application/json");
                    match c.0.request::<Value>(request.body(body.into_bytes()).unwrap()).await {
                        Ok(made) => acknowledged.send(made).unwrap(),
                        Err(_) => return,
                    }
                }
            })
        })
        .collect();
    drop(acknowledged);
    let mut made = Vec::new();
    while made.len() < 500 {
        made.push(seen.recv().await.unwrap());
    }
    first.kill().unwrap();
    first.wait().unwrap();
    while let Some(more) = seen.recv().await {
        made.push(more);
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let platform = Platform::start(config(folder.path())).await.unwrap();
    let c = Client::new(&platform.kubeconfig_path()).await;
    let (_, list) = c.get(MAPS).await;
    let stored: std::collections::BTreeMap<_, _> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| (i["metadata"]["name"].as_str().unwrap(), i))
        .collect();
    let revision = |o: &Value| o["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
    for object in &made {
        assert_eq!(stored.get(object["metadata"]["name"].as_str().unwrap()), Some(&object));
        assert!(revision(&list) > revision(object));
    }
    platform.shutdown(DEADLINE).await;
}
