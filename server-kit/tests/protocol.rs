//! The rules of the protocol, over a real socket and real processes.
#![allow(clippy::expect_used, reason = "a test fails by panic")]

mod common;

use std::collections::HashMap;

use common::*;
use kruntimes_proto::v1::watch_event::Event;
use kruntimes_proto::v1::{
    CancelRequest, DescribeRequest, ExecuteRequest, ExecutionState, IsolationLevel, ListRequest, LogsRequest,
    Scope, StopCause, Stream, Usage, WatchRequest,
};
use tonic::Code;

fn cancel(id: &str, grace_seconds: u32) -> CancelRequest {
    CancelRequest { id: id.into(), attempt: 1, assignment: 1, grace_seconds, ..CancelRequest::default() }
}

#[tokio::test]
async fn a_run_from_start_to_forget() {
    let mut server = TestServer::start(&["--cgroup-parent=none"]).await;
    server.execute(script("a", "echo out; echo err >&2; exit 3")).await.expect("accepted");
    let status = server.end("a").await;
    assert_eq!(status.state(), ExecutionState::Failed);
    assert_eq!((status.exit_code, status.error_message.as_str()), (3, "exit status 3"));
    assert_eq!((status.stdout.as_str(), status.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!((status.stop_cause(), status.signal), (StopCause::Exited, 0));
    assert!(status.started_at > 0 && status.finished_at >= status.started_at);

    let usage = status.usage.expect("usage");
    assert!(!usage.incomplete);
    for (name, source) in [
        ("wall_seconds", "clock"),
        ("cpu_user_seconds", "rusage"),
        ("cpu_system_seconds", "rusage"),
        ("memory_peak_bytes", "rusage-largest-process"),
    ] {
        let figure = usage.figures.iter().find(|figure| figure.name == name).expect(name);
        assert_eq!((figure.source.as_str(), figure.scope()), (source, Scope::Attempt));
        assert!(figure.value >= 0.0);
    }
    let kill = status.isolation.expect("isolation").axes.into_iter().find(|axis| axis.axis == "kill");
    let kill = kill.expect("kill axis");
    assert_eq!((kill.level(), kill.mechanism.as_str()), (IsolationLevel::Soft, "subreaper"));

    let listed = server.runtime.list(ListRequest {}).await.expect("list").into_inner().entries;
    assert_eq!(listed.len(), 1);
    assert!(listed[0].stdout.is_empty(), "no tails in a list");
    server.forget("a").await.expect("forgets");
    server.forget("a").await.expect("unknown ids are no error");
    assert_eq!(server.status("a").await.expect_err("gone").code(), Code::NotFound);
}

#[tokio::test]
async fn a_short_run_lasted_no_less_than_its_processor_time() {
    let mut server = TestServer::start(&["--cgroup-parent=none"]).await;
    for number in 0..20 {
        let id = format!("run-{number}");
        server.execute(job(&id, &["/bin/true"])).await.expect("accepted");
        let usage = server.end(&id).await.usage.expect("usage");
        let figure = |name: &str| usage.figures.iter().find(|f| f.name == name).expect("figure").value;
        let (wall, user, system) =
            (figure("wall_seconds"), figure("cpu_user_seconds"), figure("cpu_system_seconds"));
        assert!(wall >= user + system, "{wall} s for {user} and {system}");
    }
}

#[tokio::test]
async fn the_same_attempt_starts_once_and_newer_ones_wait_for_its_end() {
    let mut server = TestServer::start(&[]).await;
    let file = server.work_dir().join("starts");
    let request = script("a", &format!("echo x >> {}; read -t 60 < <(sleep 60)", file.display()));
    for _ in 0..3 {
        server.execute(request.clone()).await.expect("the same answer");
    }
    server.running("a").await;
    eventually("its script has begun", || file.exists()).await;
    let newer = ExecuteRequest { attempt: 2, assignment: 2, ..request.clone() };
    assert_eq!(server.execute(newer.clone()).await.expect_err("runs").code(), Code::AlreadyExists);
    let older = ExecuteRequest { attempt: 1, assignment: 0, ..script("a", "true") };
    server.execute(older).await.expect("an unsaid assignment is not compared");
    assert_eq!(server.forget("a").await.expect_err("runs").code(), Code::FailedPrecondition);
    server.runtime.cancel(cancel("a", 1)).await.expect("cancels");
    server.runtime.cancel(cancel("a", 1)).await.expect("again");
    let status = server.end("a").await;
    assert_eq!((status.stop_cause(), status.error_message.as_str()), (StopCause::Cancelled, "cancelled"));
    assert_eq!(status.exit_code, 143);
    assert_eq!(std::fs::read_to_string(&file).expect("file"), "x\n");
    server.execute(newer).await.expect("replaces");
    let refused = server.execute(request).await.expect_err("older");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("attempt 1"), "{}", refused.message());
}

#[tokio::test]
async fn clients_of_the_original_need_no_attempts() {
    let mut server = TestServer::start(&[]).await;
    let request = ExecuteRequest { attempt: 0, assignment: 0, ..script("a", "exit 1") };
    server.execute(request.clone()).await.expect("accepted");
    let first = server.end("a").await;
    server.execute(request).await.expect("replaces its finished self");
    let second = server.until("a", |s| s.started_at > first.started_at && s.finished_at > 0).await;
    assert_eq!(second.exit_code, 1);
}

#[tokio::test]
async fn bad_input_names_its_field_and_room_is_bounded() {
    let mut server = TestServer::start(&["--max-executions=1"]).await;
    let cases = [
        ("id: ", ExecuteRequest { id: "a b".into(), ..script("a", "true") }),
        (
            "options[gpu]: ",
            ExecuteRequest { options: HashMap::from([("gpu".into(), "1".into())]), ..script("a", "true") },
        ),
        (
            "env[A=B]: ",
            ExecuteRequest { env: HashMap::from([("A=B".into(), "1".into())]), ..script("a", "true") },
        ),
        ("args: ", job("a", &[])),
    ];
    for (field, request) in cases {
        let refused = server.execute(request).await.expect_err(field);
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().starts_with(field), "{refused}");
    }
    server.execute(script("a", "sleep 60")).await.expect("accepted");
    let full = server.execute(script("b", "true")).await.expect_err("full");
    assert_eq!(full.code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    let mut server = TestServer::start(&[]).await;
    let text = server.work_dir().join("text");
    std::fs::write(&text, "no program").expect("file");
    let here = ExecuteRequest { working_dir: "/nonexistent/dir".into(), ..job("cwd", &["true"]) };
    let many = ExecuteRequest { args: vec!["echo".into(), "x".repeat(200 * 1024)], ..job("long", &[]) };
    let cases = [
        (job("none", &["no-such-program"]), 127, "could not start \"no-such-program\": No such file"),
        (job("dir", &["/tmp"]), 126, "could not start \"/tmp\": Permission denied"),
        (job("text", &[&text.display().to_string()]), 126, "Permission denied"),
        (here, 126, "could not enter the working directory \"/nonexistent/dir\": No such file"),
        (many, 126, "Argument list too long"),
    ];
    for (request, code, message) in cases {
        let id = request.id.clone();
        server.execute(request).await.expect("accepted");
        let status = server.end(&id).await;
        assert_eq!((status.stop_cause(), status.exit_code), (StopCause::StartFailed, code), "{status:?}");
        assert!(status.error_message.contains(message), "{}", status.error_message);
        assert_eq!(status.started_at, 0, "nothing ran");
        assert_eq!(status.usage, Some(Usage::default()), "and that is known");
    }
    server.healthy().await.expect("still well");
}

#[tokio::test]
async fn time_that_is_over_is_a_timeout() {
    let mut server = TestServer::start(&[]).await;
    let ignoring = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    let request = ExecuteRequest { timeout_seconds: 1, grace_seconds: 1, ..script("a", ignoring) };
    server.execute(request).await.expect("accepted");
    let past = ExecuteRequest { deadline: 1, ..script("b", "sleep 60") };
    server.execute(past).await.expect("accepted");
    for (id, signal) in [("a", 9), ("b", 15)] {
        let status = server.end(id).await;
        assert_eq!((status.stop_cause(), status.exit_code), (StopCause::Timeout, -1), "{status:?}");
        assert_eq!((status.error_message.as_str(), status.state()), ("timeout", ExecutionState::Failed));
        assert!(status.signal == signal || status.started_at == 0, "{status:?}");
    }
    let warned = ExecuteRequest {
        timeout_seconds: 3,
        warn_signal: "USR1".into(),
        warn_seconds: 2,
        ..script("c", "trap 'echo warned; exit 7' USR1; while :; do sleep 0.05; done")
    };
    server.execute(warned).await.expect("accepted");
    let status = server.end("c").await;
    assert_eq!((status.stop_cause(), status.exit_code), (StopCause::Exited, 7));
    assert_eq!(status.stdout, "warned\n");
}

#[tokio::test]
async fn the_environment_is_the_runs_and_a_short_list() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut command = command(&example("shell"), dir.path(), &["--pass-env=EXTRA_*"]);
    command.env("SECRET", "x").env("EXTRA_ONE", "1").env("LANG", "C.UTF-8").env("TZ", "UTC");
    command.env("KRUNTIME_BIND_ADDRESS", "127.0.0.1");
    let mut server = TestServer::attach(command.spawn().expect("starts"), dir).await;
    let request = ExecuteRequest {
        env: HashMap::from([("TZ".into(), "CET".into()), ("MINE".into(), "a b".into())]),
        outputs_path: "/w/outputs".into(),
        options: HashMap::from([("stdin".into(), "from stdin\n".into())]),
        ..script("a", "cat; env; ls /proc/self/fd; grep -E 'NoNewPrivs|SigIgn|SigBlk' /proc/self/status")
    };
    server.execute(request).await.expect("accepted");
    let out = server.end("a").await.stdout;
    assert!(out.starts_with("from stdin\n"), "{out}");
    for line in
        ["TZ=CET", "MINE=a b", "EXTRA_ONE=1", "LANG=C.UTF-8", "KRUNTIME_OUTPUTS=/w/outputs", "NoNewPrivs:\t1"]
    {
        assert!(out.lines().any(|l| l == line), "{line} in {out}");
    }
    assert!(!out.contains("SECRET") && !out.contains("SOCKET_DIR") && !out.contains("BIND_ADDRESS"), "{out}");
    assert!(
        out.contains("\n0\n1\n2\n3\n") && !out.contains("\n4\n"),
        "no descriptor but three (and ls' own): {out}"
    );
    assert!(out.contains("SigBlk:\t0000000000000000") && out.contains("SigIgn:\t0000000000000000"), "{out}");
}

#[tokio::test]
async fn watchers_get_a_snapshot_and_every_change_in_order() {
    let mut server = TestServer::start(&[]).await;
    server.execute(script("before", "true")).await.expect("accepted");
    server.end("before").await;
    let mut watch = server.events.watch(WatchRequest {}).await.expect("watch").into_inner();
    let first = in_time(watch.message()).await.expect("event").expect("event");
    let describe = server.events.describe(DescribeRequest {}).await.expect("describe").into_inner();
    assert_eq!((first.sequence, &first.instance_id), (1, &describe.instance_id));
    let Some(Event::Snapshot(snapshot)) = first.event else { panic!("no snapshot first: {first:?}") };
    assert_eq!(snapshot.executions.len(), 1);
    assert_eq!(snapshot.describe.as_ref(), Some(&describe));
    assert_eq!(describe.authentication, "token");
    assert_eq!(describe.options, ["stdin", "mistake"]);

    server.execute(script("a", "echo hi")).await.expect("accepted");
    let mut states = Vec::new();
    for sequence in 2.. {
        let event = in_time(watch.message()).await.expect("event").expect("event");
        assert_eq!(event.sequence, sequence);
        let Some(Event::Execution(status)) = event.event else { panic!("unexpected") };
        assert_eq!(status.id, "a");
        assert!(status.stdout.is_empty(), "no tails in events");
        states.push(status.state());
        if status.finished_at > 0 {
            break;
        }
    }
    assert_eq!(states, [ExecutionState::Running, ExecutionState::Succeeded]);
}

#[tokio::test]
async fn logs_are_followed_from_an_offset() {
    let mut server = TestServer::start(&[]).await;
    let gate = server.work_dir().join("gate");
    let text =
        format!("echo one; echo err >&2; until [ -e {} ]; do sleep 0.01; done; echo two", gate.display());
    server.execute(script("a", &text)).await.expect("accepted");
    let follow = LogsRequest { id: "a".into(), follow: true, stdout_offset: 1, ..LogsRequest::default() };
    let mut stream = server.events.logs(follow).await.expect("logs").into_inner();
    let mut chunks = Vec::new();
    while joined(&chunks, Stream::Stdout, 1) != b"ne\n" {
        chunks.push(in_time(stream.message()).await.expect("chunk").expect("chunk"));
    }
    std::fs::write(gate, "").expect("gate");
    while let Some(chunk) = in_time(stream.message()).await.expect("chunk") {
        chunks.push(chunk);
    }
    assert_eq!(joined(&chunks, Stream::Stdout, 1), b"ne\ntwo\n");
    assert_eq!(joined(&chunks, Stream::Stderr, 0), b"err\n");
    assert_eq!(chunks.iter().filter(|chunk| chunk.end).count(), 2, "each stream ends");
    let unknown = server.events.logs(LogsRequest { id: "b".into(), ..LogsRequest::default() }).await;
    assert_eq!(unknown.expect_err("unknown").code(), Code::NotFound);
}

#[tokio::test]
async fn only_what_the_pool_names_of_its_environment_reaches_runs() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut command = command(&example("shell"), dir.path(), &[]);
    command.env("KRUNTIME_PASS_ENV", "POOL_*, ONE").envs([("POOL_A", "a"), ("ONE", "1"), ("SECRET", "s")]);
    let mut server = TestServer::attach(command.spawn().expect("server starts"), dir).await;
    server.execute(script("a", "echo $POOL_A$ONE$SECRET")).await.expect("accepted");
    assert_eq!(server.end("a").await.stdout, "a1\n");
}

#[tokio::test]
async fn a_mistake_of_the_author_costs_no_slot() {
    let mut server = TestServer::start(&["--max-executions=1"]).await;
    for (mistake, words) in [("panic", "the server panicked"), ("hang", "has not said in 5s")] {
        let mut request = script("a", "true");
        request.options.insert("mistake".into(), mistake.into());
        let refused = server.execute(request).await.expect_err("refused");
        assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
        assert!(refused.message().contains(words), "{refused:?}");
        assert_eq!(server.status("a").await.expect_err("not kept").code(), Code::NotFound);
    }
    server.execute(script("b", "true")).await.expect("the slot is free");
    assert_eq!(server.end("b").await.state(), ExecutionState::Succeeded);
}

#[tokio::test]
async fn what_runs_is_measured_while_somebody_watches() {
    let mut server = TestServer::start(&["--usage-interval=1"]).await;
    // The burner is a grandchild that nobody has waited for yet.
    server.execute(script("a", "bash -c 'while :; do :; done' & wait")).await.expect("accepted");
    let mut watch = server.events.watch(WatchRequest {}).await.expect("watch").into_inner();
    let used = loop {
        let event = in_time(watch.message()).await.expect("event").expect("event").event;
        let Some(Event::Execution(status)) = event else { continue };
        let Some(usage) = &status.usage else { continue };
        assert_eq!(status.state(), ExecutionState::Running);
        assert!(usage.incomplete, "it still runs");
        let figure = |name: &str| usage.figures.iter().find(|f| f.name == name).expect("figure").value;
        if figure("cpu_user_seconds") > 0.2 && figure("memory_peak_bytes") > 100_000.0 {
            break figure("cpu_user_seconds");
        }
    };
    server.runtime.cancel(cancel("a", 1)).await.expect("cancels");
    let total = server.end("a").await.usage.expect("usage");
    let user = total.figures.iter().find(|f| f.name == "cpu_user_seconds").expect("figure").value;
    assert!(user >= used && !total.incomplete, "{user} after {used}");
}

#[tokio::test]
async fn health_tells_what_is_in_the_way() {
    let mut server = TestServer::start(&[]).await;
    server.healthy().await.expect("well");
    std::fs::remove_dir(server.work_dir()).expect("removed");
    let reason = server.healthy().await.expect_err("no work dir");
    assert!(reason.contains("work dir") && reason.contains("No such file"), "{reason}");
}
