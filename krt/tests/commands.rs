//! The other commands from the shell's side.
#![cfg(feature = "local")]

mod support;

use serde_json::{Value, json};
use support::{World, finish, interrupt, program, said};

#[tokio::test(flavor = "multi_thread")]
async fn lists_select_by_phase_runtime_and_label() {
    let world = World::new().await;
    for (name, runtime, phase) in
        [("a", "bash", ""), ("b", "bash", "Running"), ("c", "gpu", "Failed"), ("d", "gpu", "Pending")]
    {
        world.run(name, runtime).await;
        if !phase.is_empty() {
            world.status(name, json!({ "phase": phase })).await;
        }
    }
    let names = async |args: &[&str]| {
        let done = world.done(&[&["list", "-o", "name"], args].concat()).await;
        assert_eq!(done.code, 0, "{}", done.err);
        done.out.replace("run.kruntimes.io/", "").replace('\n', " ")
    };
    assert_eq!(names(&[]).await, "a b c d ");
    assert_eq!(names(&["--phase", "Pending"]).await, "a d ", "an empty phase is Pending");
    assert_eq!(names(&["--phase", "failed"]).await, "c ");
    assert_eq!(names(&["--phase", "Failed,Running"]).await, "b c ");
    assert_eq!(names(&["--runtime", "gpu", "-A"]).await, "c d ");
    assert_eq!(names(&["-l", "team=ml"]).await, "");
    let table = world.done(&["list", "-A"]).await.out;
    assert!(table.starts_with("NAME   NAMESPACE   RUNTIME   PHASE"), "{table}");
    let list: Value = serde_json::from_str(&world.done(&["list", "-o", "json"]).await.out).unwrap();
    assert_eq!((list["kind"].as_str(), list["items"].as_array().unwrap().len()), (Some("RunList"), 4));
    let empty = world.done(&["list", "-n", "elsewhere"]).await;
    assert_eq!((empty.out.as_str(), empty.err.as_str()), ("", "no Runs in namespace elsewhere\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_list_goes_on_until_ctrl_c() {
    let world = World::new().await;
    world.run("a", "bash").await;
    let mut child = world.krt(&["list", "--watch"]).spawn().unwrap();
    let out = child.stdout.as_mut().unwrap();
    assert!(said(out, "Pending").await.starts_with("NAME"));
    world.status("a", json!({"phase": "Running"})).await;
    said(out, "Running").await;
    world.run("b", "bash").await;
    said(out, "b ").await;
    interrupt(&child);
    assert_eq!(finish(child).await.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_ends_with_the_runs_code_or_the_limit() {
    let world = World::new().await;
    for name in ["a", "b", "c"] {
        world.run(name, "bash").await;
    }
    let child = world.krt(&["wait", "a", "b"]).spawn().unwrap();
    world.status("a", json!({"phase": "Succeeded"})).await;
    world.status("b", json!({"phase": "Failed", "reason": "NonZeroExit", "exitCode": 3})).await;
    let done = finish(child).await;
    assert_eq!(done.code, 3, "{}", done.err);
    assert!(done.out.contains("a Succeeded") && done.out.contains("b Failed"), "{}", done.out);
    let done = world.done(&["wait", "c", "--timeout", "50ms"]).await;
    assert_eq!(done.code, 124);
    assert!(done.err.contains("1 of 1 Runs did not get there within 50ms"), "{}", done.err);
    let child = world.krt(&["wait", "c", "--for", "Running", "-q"]).spawn().unwrap();
    world.status("c", json!({"phase": "Running"})).await;
    let done = finish(child).await;
    assert_eq!((done.code, done.out.as_str()), (0, ""));
    let done = world.done(&["wait", "none"]).await;
    assert_eq!(done.code, 125);
    assert!(done.err.contains("not found"), "{}", done.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_writes_one_field() {
    let world = World::new().await;
    // A baseline client would spell this timeout differently and be refused.
    let run = json!({"apiVersion": "kruntimes.io/v1alpha1", "kind": "Run", "metadata": {"name": "a"},
        "spec": {"runtime": "bash", "timeout": "60s", "source": {"inline": "x"}}});
    let api: kube::Api<kruntimes_api::Run> = world.runs();
    api.create(&Default::default(), &serde_json::from_value(run).unwrap()).await.unwrap();
    let done = world.done(&["cancel", "run.kruntimes.io/a"]).await;
    assert_eq!((done.code, done.out.as_str()), (0, "Cancellation requested for Run a\n"), "{}", done.err);
    let run = world.runs().get("a").await.unwrap();
    assert_eq!((run.spec.cancel_requested, run.spec.timeout.as_deref()), (Some(true), Some("60s")));
    world.status("a", json!({"phase": "Cancelled"})).await;
    let done = world.done(&["cancel", "a", "--wait"]).await;
    assert!(done.out.starts_with("Run a has ended already (Cancelled)\n"), "{}", done.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_by_label_takes_only_those() {
    let world = World::new().await;
    for (name, team) in [("a", "ml"), ("b", "ml"), ("c", "ops")] {
        let label = format!("team={team}");
        assert_eq!(world.done(&["run", "-d", "-q", "-c", "x", "--name", name, "-l", &label]).await.code, 0);
    }
    let done = world.done(&["delete", "-l", "team=ml"]).await;
    assert_eq!(done.out, "Run a deleted\nRun b deleted\n", "{}", done.err);
    assert_eq!(world.done(&["list", "-o", "name"]).await.out, "run.kruntimes.io/c\n");
    assert_eq!(world.done(&["delete", "a"]).await.code, 125);
    assert_eq!(world.done(&["delete", "a", "--ignore-not-found"]).await.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_read_filtered_and_followed() {
    let world = World::new().await;
    let mut log = world.pod("p1").await;
    let run = world.run("a", "bash").await;
    let pending = world.done(&["logs", "a"]).await;
    assert_eq!((pending.code, pending.out.as_str()), (0, ""));
    assert!(pending.err.contains("Run a is Pending: it has no Pod"), "{}", pending.err);
    world.status("a", log.assigned("Running")).await;
    for n in 1..=5 {
        log.line(&run, 1, if n % 2 == 0 { "stderr" } else { "stdout" }, &n.to_string());
    }
    let done = world.done(&["logs", "a"]).await;
    assert_eq!((done.out.as_str(), done.err.as_str()), ("1\n3\n5\n", "2\n4\n"));
    let done = world.done(&["logs", "a", "--tail", "2"]).await;
    assert_eq!((done.out.as_str(), done.err.as_str()), ("5\n", "4\n"));
    let done = world.done(&["logs", "a", "--tail", "0", "--stream", "stderr"]).await;
    assert_eq!((done.out.as_str(), done.err.as_str()), ("", "2\n4\n"), "0 is all, as in the older krt");
    let timed = world.done(&["logs", "a", "--stream", "stdout", "--timestamps"]).await.out;
    assert!(timed.lines().all(|line| line.contains("Z ")), "{timed}");
    let missing = world.done(&["logs", "a", "--attempt", "2"]).await;
    assert!(missing.err.contains("no Pod of Runtime bash has output of attempt 2"), "{}", missing.err);

    let mut child = world.krt(&["logs", "-f", "a", "--tail", "1"]).spawn().unwrap();
    said(child.stdout.as_mut().unwrap(), "5\n").await;
    log.line(&run, 1, "stdout", "6");
    said(child.stdout.as_mut().unwrap(), "6\n").await;
    log.line(&run, 1, "stdout", "7");
    log.end(&run, 1);
    world.status("a", log.ended("Failed", "NonZeroExit", 1)).await;
    let done = finish(child).await;
    assert_eq!((done.code, done.out.as_str()), (0, "7\n"), "{}", done.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_attempt_is_found_in_its_own_pod() {
    let world = World::new().await;
    let (mut first, mut second) = (world.pod("p1").await, world.pod("p2").await);
    let run = world.run("a", "bash").await;
    first.line(&run, 1, "stdout", "one");
    second.line(&run, 2, "stdout", "two");
    let mut status = second.assigned("Running");
    status["attempt"] = 2.into();
    world.status("a", status).await;
    assert_eq!(world.done(&["logs", "a"]).await.out, "two\n");
    assert_eq!(world.done(&["logs", "a", "--attempt", "1"]).await.out, "one\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_fall_back_to_the_status_when_the_pod_is_gone() {
    let world = World::new().await;
    world.run("a", "bash").await;
    let status = json!({"phase": "Failed", "assignedPod": "gone", "attempt": 1, "logTail": "the end\n",
        "startTime": "2026-08-08T10:00:00.000000Z"});
    world.status("a", status).await;
    for line in [&["logs", "a"][..], &["logs", "-f", "a"]] {
        let done = world.done(line).await;
        assert_eq!((done.code, done.out.as_str()), (0, "the end\n"), "{line:?}: {}", done.err);
        assert!(done.err.contains("Pod gone and its log are gone"), "{line:?}: {}", done.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn runtimes_are_made_changed_and_described() {
    let world = World::new().await;
    let create = ["runtime", "create", "bash", "--image", "bash-server", "--capacity", "runs=4"];
    let done = world.done(&create).await;
    assert_eq!((done.code, done.out.as_str()), (0, "Runtime bash applied\n"), "{}", done.err);
    assert_eq!(
        world.done(&[&create[..], &["--replicas", "2"]].concat()).await.code,
        0,
        "applying again changes it"
    );
    let list = world.done(&["runtime", "list"]).await.out;
    assert!(list.starts_with("NAME") && list.contains("bash-server   2"), "{list}");
    let done = world.done(&["runtime", "scale", "bash", "--replicas", "0"]).await;
    assert_eq!((done.code, done.out.as_str()), (0, "Runtime bash scaled to 0\n"), "{}", done.err);
    world.pod("p1").await;
    let text = world.done(&["runtime", "describe", "rt/bash"]).await.out;
    assert!(text.contains("Replicas:") && text.contains("p1: runtimed has not reported yet"), "{text}");
    let object: Value =
        serde_json::from_str(&world.done(&["runtime", "get", "bash", "-o", "json"]).await.out).unwrap();
    assert_eq!((object["kind"].as_str(), object["spec"]["replicas"].as_i64()), (Some("Runtime"), Some(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn describe_has_the_objects_own_words() {
    let world = World::new().await;
    world.run("a", "bash").await;
    let text = world.done(&["describe", "a"]).await.out;
    assert!(text.contains("Phase:") && text.contains("Timeline:"), "{text}");
    let done = world.done(&["get", "a", "-o", "yaml"]).await;
    assert!(done.out.contains("apiVersion: kruntimes.io/v1alpha1"), "{}", done.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_with_and_without_a_server() {
    let world = World::new().await;
    let done = world.done(&["version"]).await;
    assert!(done.out.starts_with(&format!("krt {}\ncommit: ", env!("CARGO_PKG_VERSION"))), "{}", done.out);
    assert!(done.out.contains("server: Kubernetes API v"), "{}", done.out);
    let value: Value = serde_json::from_str(&world.done(&["version", "-o", "json"]).await.out).unwrap();
    assert!(value["server"]["kubernetes"].is_string() && value["client"]["version"].is_string());
    let done = finish(program(world.folder(), &["version"]).spawn().unwrap()).await;
    assert_eq!(done.code, 0);
    assert!(done.err.contains("server: none"), "{}", done.err);
    let done = finish(program(world.folder(), &["completion", "bash"]).spawn().unwrap()).await;
    assert!(done.code == 0 && done.out.contains("_krt()"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_pipe_is_no_error() {
    let world = World::new().await;
    let mut child = world.krt(&["completion", "bash"]).spawn().unwrap();
    drop(child.stdout.take());
    let done = finish(child).await;
    assert_eq!((done.code, done.err.as_str()), (141, ""));
}
