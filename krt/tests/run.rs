//! `krt run` from the shell's side: output, words, codes.
#![cfg(feature = "local")]

mod support;

use serde_json::json;
use support::{World, finish, interrupt, program, said};

const MULTI: &str = "multi-line";

#[tokio::test(flavor = "multi_thread")]
async fn output_and_exit_code_are_the_runs_own() {
    let world = World::new().await;
    world.runtime("bash").await;
    let mut log = world.pod("p1").await;
    let child = world.krt(&["run", "-c", "echo", "--name", "a", "-e", "A=1"]).spawn().unwrap();
    let run = world.until(|run| run.metadata.name.as_deref() == Some("a")).await;
    log.line(&run, 1, "stdout", "first");
    world.status("a", log.assigned("Running")).await;
    log.line(&run, 1, "stderr", "problem");
    log.raw(json!({"run_uid": "another", "attempt": 1, "stream": "stdout", "message": "not mine"}));
    log.raw(json!({"run_uid": run.metadata.uid, "attempt": 1, "stream": "stdout", "message": "no end", "partial": true}));
    log.end(&run, 1);
    world.status("a", log.ended("Failed", "NonZeroExit", 7)).await;
    let done = finish(child).await;
    assert_eq!((done.code, done.out.as_str()), (7, "first\nno end"), "{}", done.err);
    assert!(done.err.starts_with("problem\n"), "{}", done.err);
    assert!(done.err.contains("a Failed in 1.50s") && done.err.contains("exit 7"), "{}", done.err);
    assert!(!done.err.contains('\x1b'), "no colours without a terminal");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_submitter_is_whom_the_api_knows_and_not_what_a_kubeconfig_calls_them() {
    let world = World::new().await;
    let renamed = world.folder().join("renamed");
    let text = std::fs::read_to_string(world.platform.kubeconfig_path()).unwrap();
    let mut kubeconfig: serde_json::Value = serde_yaml::from_str(&text).unwrap();
    kubeconfig["users"][0]["name"] = "laptop".into();
    kubeconfig["contexts"][0]["context"]["user"] = "laptop".into();
    std::fs::write(&renamed, kubeconfig.to_string()).unwrap();
    let file = renamed.to_str().unwrap();
    let done = world.done(&["run", "--detach", "-c", "x", "--name", "a", "--kubeconfig", file]).await;
    assert_eq!(done.code, 0, "{}", done.err);
    let run = world.runs().get("a").await.unwrap();
    assert_eq!(run.spec.submitter.as_deref(), Some("kruntimes-local"));
    let done = world.done(&["run", "--detach", "-c", "x", "--name", "b", "--submitter", "eve"]).await;
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(world.runs().get("b").await.unwrap().spec.submitter.as_deref(), Some("eve"));
    let done = world.done(&["run", "--dry-run", "-c", "x"]).await;
    assert!(!done.out.contains("submitter"), "whoever applies it submits it: {}", done.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn quiet_says_nothing_of_its_own_and_success_is_zero() {
    let world = World::new().await;
    world.runtime("bash").await;
    let mut log = world.pod("p1").await;
    let child = world.krt(&["run", "-q", "-c", "echo", "--name", MULTI]).spawn().unwrap();
    let run = world.until(|run| run.metadata.name.as_deref() == Some(MULTI)).await;
    // Ended before anybody looked; and the older runtimed marks no end.
    log.raw(json!({"run_uid": run.metadata.uid, "stream": "stdout", "message": "one"}));
    log.raw(json!({"run_uid": run.metadata.uid, "stream": "stdout", "message": "two"}));
    world.status(MULTI, log.ended("Succeeded", "Completed", 0)).await;
    let done = finish(child).await;
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (0, "one\ntwo\n", ""));
}

/// The second attempt runs in another Pod; both are shown, in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_elsewhere_is_followed() {
    let world = World::new().await;
    world.runtime("bash").await;
    let (mut first, mut second) = (world.pod("p1").await, world.pod("p2").await);
    let mut child = world.krt(&["run", "-c", "x", "--name", "a", "--retries", "1"]).spawn().unwrap();
    let run = world.until(|run| run.metadata.name.as_deref() == Some("a")).await;
    assert_eq!(run.spec.retry_policy.as_ref().and_then(|policy| policy.max_attempts), Some(2));
    world.status("a", first.assigned("Running")).await;
    first.line(&run, 1, "stdout", "one");
    first.end(&run, 1);
    said(child.stdout.as_mut().unwrap(), "one\n").await;
    world
        .status(
            "a",
            json!({"phase": "Pending", "assignedPod": null, "attempt": 2, "reason": "NonZeroExit",
            "nextAttemptTime": "2026-08-08T10:00:01.000000Z"}),
        )
        .await;
    said(child.stderr.as_mut().unwrap(), "attempt 1 did not finish (NonZeroExit)").await;
    second.line(&run, 2, "stdout", "two");
    second.end(&run, 2);
    let mut status = second.ended("Succeeded", "Completed", 0);
    status["attempt"] = 2.into();
    status["assignment"] = 2.into();
    world.status("a", status).await;
    let done = finish(child).await;
    assert_eq!((done.code, done.out.as_str()), (0, "two\n"), "{}", done.err);
    assert!(done.err.contains("attempt 2"), "{}", done.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn detached_prints_the_name_and_nothing_else() {
    let world = World::new().await;
    world.runtime("bash").await;
    let done = world.done(&["run", "--detach", "--", "echo hi"]).await;
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    let name = done.out.strip_suffix('\n').unwrap();
    assert!(name.starts_with("run-") && name.len() > 4);
    assert_eq!(world.runs().get(name).await.unwrap().spec.mode.unwrap().task.unwrap().args, ["echo hi"]);
    let done = world.done(&["run", "-d", "-o", "name", "-c", "x", "--name", "b"]).await;
    assert_eq!(done.out, "run.kruntimes.io/b\n");
    let done = world.done(&["run", "--wait=false", "-o", "json", "-c", "x", "--name", "c"]).await;
    let object: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!((object["kind"].as_str(), object["metadata"]["name"].as_str()), (Some("Run"), Some("c")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_runtime_is_told_with_those_that_exist_and_the_run_waits() {
    let world = World::new().await;
    world.runtime("bash").await;
    world.runtime("python").await;
    let done = world.done(&["run", "-d", "-r", "pyhton", "-c", "x", "--name", "a"]).await;
    assert_eq!((done.code, done.out.as_str()), (0, "a\n"));
    for words in [
        "there is no Runtime pyhton in namespace default",
        "bash, python",
        "did you mean python?",
        "krt cancel a",
    ] {
        assert!(done.err.contains(words), "{words}: {}", done.err);
    }
    let mut child = world.krt(&["run", "-r", "gpu", "-c", "x", "--name", "b"]).spawn().unwrap();
    world.until(|run| run.metadata.name.as_deref() == Some("b")).await;
    world
        .status(
            "b",
            json!({"phase": "Pending", "reason": "Unschedulable", "message": "Runtime gpu does not exist"}),
        )
        .await;
    said(child.stderr.as_mut().unwrap(), "b is waiting: Unschedulable: Runtime gpu does not exist").await;
    world
        .status(
            "b",
            json!({"phase": "Failed", "reason": "PendingTimeout", "message": "not started within 1s"}),
        )
        .await;
    let done = finish(child).await;
    assert_eq!(done.code, 124, "{}", done.err);
    assert!(done.err.contains("PendingTimeout: not started within 1s"), "{}", done.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_cancels_and_a_second_one_leaves() {
    let world = World::new().await;
    world.runtime("bash").await;
    let mut log = world.pod("p1").await;
    let mut child = world.krt(&["run", "-c", "x", "--name", "a"]).spawn().unwrap();
    let run = world.until(|run| run.metadata.name.as_deref() == Some("a")).await;
    world.status("a", log.assigned("Running")).await;
    log.line(&run, 1, "stdout", "up");
    said(child.stdout.as_mut().unwrap(), "up").await;
    interrupt(&child);
    world.until(|run| run.spec.cancel_requested == Some(true)).await;
    log.line(&run, 1, "stdout", "bye");
    log.end(&run, 1);
    world.status("a", log.ended("Cancelled", "Cancelled", 143)).await;
    let done = finish(child).await;
    assert_eq!((done.code, done.out.as_str()), (130, "bye\n"), "{}", done.err);
    assert!(done.err.contains("cancelling a; press ctrl-c again"), "{}", done.err);

    let mut child = world.krt(&["run", "-c", "x", "--name", "b"]).spawn().unwrap();
    let run = world.until(|run| run.metadata.name.as_deref() == Some("b")).await;
    world.status("b", log.assigned("Running")).await;
    log.line(&run, 1, "stdout", "up");
    said(child.stdout.as_mut().unwrap(), "up").await;
    interrupt(&child);
    said(child.stderr.as_mut().unwrap(), "cancelling b").await;
    interrupt(&child);
    let done = finish(child).await;
    assert_eq!(done.code, 130);
    assert!(done.err.contains("left b to itself"), "{}", done.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_gone_is_replaced_by_what_the_status_kept() {
    let world = World::new().await;
    world.runtime("bash").await;
    let child = world.krt(&["run", "-c", "x", "--name", "a"]).spawn().unwrap();
    world.until(|run| run.metadata.name.as_deref() == Some("a")).await;
    world
        .status("a", json!({"phase": "Failed", "reason": "PodGone", "assignedPod": "gone", "attempt": 1, "assignment": 1,
            "startTime": "2026-08-08T10:00:00.000000Z", "logTail": "last words"}))
        .await;
    let done = finish(child).await;
    assert_eq!((done.code, done.out.as_str()), (125, "last words\n"), "{}", done.err);
    assert!(done.err.contains("Pod gone and its log are gone"), "{}", done.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_finished_object_can_be_had_as_data() {
    let world = World::new().await;
    world.runtime("bash").await;
    let mut log = world.pod("p1").await;
    let child = world.krt(&["run", "-c", "x", "--name", "a", "-o", "json"]).spawn().unwrap();
    let run = world.until(|run| run.metadata.name.as_deref() == Some("a")).await;
    log.line(&run, 1, "stdout", "output");
    log.end(&run, 1);
    world.status("a", log.ended("Succeeded", "Completed", 0)).await;
    let done = finish(child).await;
    let object: serde_json::Value = serde_json::from_str(&done.out).expect("nothing but the object");
    assert_eq!(object["status"]["phase"], "Succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_run_ends_the_wait() {
    let world = World::new().await;
    world.runtime("bash").await;
    let log = world.pod("p1").await;
    let child = world.krt(&["run", "-c", "x", "--name", "a"]).spawn().unwrap();
    world.until(|run| run.metadata.name.as_deref() == Some("a")).await;
    world.status("a", log.assigned("Running")).await;
    assert_eq!(world.done(&["delete", "run/a", "--wait"]).await.out, "Run a deleted\n");
    let done = finish(child).await;
    assert_eq!(done.code, 125);
    assert!(done.err.contains("Run a was deleted"), "{}", done.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_created_by_a_dry_run_even_without_a_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let done = finish(
        program(folder.path(), &["run", "-c", "x", "--dry-run", "-n", "ns", "--submitter", "me"])
            .spawn()
            .unwrap(),
    )
    .await;
    assert_eq!(done.code, 0, "{}", done.err);
    let expected = "metadata:\n  generateName: run-\n  namespace: ns\n";
    assert!(
        done.out.contains(expected) && done.out.contains("kind: Run") && done.out.contains("submitter: me"),
        "{}",
        done.out
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_target_the_error_says_how_to_get_one() {
    let folder = tempfile::tempdir().unwrap();
    let done = finish(program(folder.path(), &["run", "-c", "x"]).spawn().unwrap()).await;
    assert_eq!(done.code, 125);
    assert!(done.err.contains("no cluster") && done.err.contains("krt local up --detach"), "{}", done.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_found_before_anything_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    // Nobody listens there: only a mistake that is found first can be the answer.
    let dead = ["--server", "http://127.0.0.1:9"];
    let script = "x".repeat(100_000);
    let file = folder.path().join("long.sh");
    std::fs::write(&file, script.repeat(3)).unwrap();
    for (line, words) in [
        (&["run", "-c", "x", "--timeout", "abc"][..], "--timeout"),
        (&["run", "-c", "x", "--env", "NOT_SET"], "--env: NOT_SET is not set"),
        (&["run", file.to_str().unwrap()], "FILE: an inline script has at most 256 KiB"),
        (&["run", "-c", "x", "--request", "nvidia.com/gpu=0.5"], "whole numbers only"),
    ] {
        let done = finish(program(folder.path(), &[line, &dead].concat()).spawn().unwrap()).await;
        assert_eq!(done.code, 125, "{line:?}");
        assert!(done.err.contains(words), "{line:?}: {}", done.err);
    }
    let done =
        finish(program(folder.path(), &[&["run", "-c", "x"][..], &dead].concat()).spawn().unwrap()).await;
    assert_eq!(done.code, 125);
    assert!(done.err.contains("cannot create the Run: http://127.0.0.1:9/ does not answer"), "{}", done.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_api_refuses_is_told_in_its_words() {
    let world = World::new().await;
    world.run("taken", "bash").await;
    let done = world.done(&["run", "-c", "x", "--name", "taken"]).await;
    assert_eq!(done.code, 125);
    assert!(
        done.err.contains("cannot create the Run:") && done.err.contains("already exists"),
        "{}",
        done.err
    );
    let done = world.done(&["get", "none"]).await;
    assert_eq!(done.code, 125);
    assert!(done.err.contains("not found") && done.err.contains("krt list"), "{}", done.err);
}
