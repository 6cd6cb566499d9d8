//! Trees that do not want to end, servers and supervisors that are killed, output without end.
#![allow(clippy::expect_used, reason = "a test fails by panic")]

mod common;

use common::*;
use kruntimes_proto::v1::{CancelRequest, LogsRequest, StopCause, Stream};

/// Sessions of their own, orphans, and all of them deaf to TERM. `$0` is the marker.
const TREE: &str = r#"
trap '' TERM
deaf() { trap '' TERM HUP INT; while :; do sleep 0.05; done; }
export -f deaf
for n in 1 2 3; do setsid bash -c deaf "$0" & done
(setsid bash -c '(setsid bash -c deaf "$0" &) ; exit 0' "$0" &)
bash -c 'deaf' "$0" &
echo ready
while :; do sleep 0.05; done
"#;

fn tree(id: &str, marker: &str) -> kruntimes_proto::v1::ExecuteRequest {
    job(id, &["bash", "-c", TREE, marker])
}

async fn up(server: &mut TestServer, id: &str, marker: &str) {
    server.until(id, |status| status.stdout == "ready\n").await;
    eventually("the tree is up", || marked(marker).len() >= 6).await;
}

fn cancel(id: &str, grace_seconds: u32) -> CancelRequest {
    CancelRequest { id: id.into(), grace_seconds, ..CancelRequest::default() }
}

#[tokio::test]
async fn a_cancelled_tree_is_gone_before_its_end_is_told() {
    let Some(mut server) = TestServer::start_contained(&[]).await else { return };
    let marker = "marker-cancelled-tree";
    server.execute(tree("a", marker)).await.expect("accepted");
    up(&mut server, "a", marker).await;
    server.runtime.cancel(cancel("a", 1)).await.expect("cancels");
    let status = server.end("a").await;
    assert_eq!(marked(marker), [] as [i32; 0]);
    assert_eq!((status.stop_cause(), status.signal, status.exit_code), (StopCause::Cancelled, 9, 137));
    assert!(!status.usage.expect("usage").incomplete, "the kernel said that nothing is left");
}

#[tokio::test]
async fn what_a_command_leaves_behind_ends_with_it() {
    let Some(mut server) = TestServer::start_contained(&[]).await else { return };
    let marker = "marker-left-behind";
    let leave =
        "(setsid bash -c 'trap \"\" TERM; while :; do sleep 0.05; done' \"$0\" &) ; sleep 0.1; exit 4";
    server.execute(job("a", &["bash", "-c", leave, marker])).await.expect("accepted");
    let status = server.end("a").await;
    assert_eq!((status.stop_cause(), status.exit_code), (StopCause::Exited, 4));
    assert_eq!(marked(marker), [] as [i32; 0]);
}

#[tokio::test]
async fn processes_that_hop_between_parents_are_caught() {
    let Some(mut server) = TestServer::start_contained(&[]).await else { return };
    let marker = "marker-hopping";
    let hop = "hop() { setsid bash -c hop \"$0\" & exit 0; }; export -f hop; for n in 1 2 3 4; do bash -c hop \"$0\" & done; sleep 0.3; exit 0";
    server.execute(job("a", &["bash", "-c", hop, marker])).await.expect("accepted");
    let status = server.end("a").await;
    assert_eq!(marked(marker), [] as [i32; 0]);
    assert_eq!(status.stop_cause(), StopCause::Exited);
}

#[tokio::test]
async fn a_killed_server_leaves_no_process() {
    let Some(mut server) = TestServer::start_contained(&[]).await else { return };
    drop_with_marker(&mut server, "marker-contained").await;
    // Also where no PID namespace ends them for us.
    let mut server = TestServer::start(&[]).await;
    let marker = "marker-killed-server";
    server
        .execute(job("a", &["bash", "-c", "(setsid sleep 300 &); exec -a \"$0\" sleep 300", marker]))
        .await
        .expect("accepted");
    server.running("a").await;
    let nursery = children(server.pid());
    eventually("the command runs", || !marked(marker).is_empty()).await;
    server.kill();
    eventually("no process is left", || marked(marker).is_empty()).await;
    eventually("the nursery is gone", || {
        nursery.iter().all(|pid| !marked("kruntimes-nursery").contains(pid))
    })
    .await;
}

async fn drop_with_marker(server: &mut TestServer, marker: &str) {
    server.execute(tree("a", marker)).await.expect("accepted");
    up(server, "a", marker).await;
    server.kill();
    eventually("no process is left", || marked(marker).is_empty()).await;
}

#[tokio::test]
async fn a_killed_supervisor_loses_its_run_and_leaves_nothing() {
    let Some(mut server) = TestServer::start_contained(&[]).await else { return };
    let marker = "marker-killed-supervisor";
    server.execute(tree("a", marker)).await.expect("accepted");
    up(&mut server, "a", marker).await;
    let nursery = children(server.pid())[0];
    let supervisor = children(nursery).into_iter().find(|pid| !children(*pid).is_empty());
    signal(supervisor.expect("a supervisor with children"), "KILL");
    let status = server.end("a").await;
    assert_eq!(status.stop_cause(), StopCause::ServerLost, "{status:?}");
    assert_eq!(marked(marker), [] as [i32; 0]);
    server.execute(script("b", "echo on")).await.expect("accepted");
    assert_eq!(server.end("b").await.stdout, "on\n");
}

/// Where nothing keeps signals within, a Run may stop what is to end it.
#[tokio::test]
async fn a_run_that_stops_its_supervisor_still_ends() {
    let floor = "--isolation=files=directory,devices=variables,privileges=no-new-privs";
    let args = [floor, "--cgroup-parent=none", "--idle-supervisors=1"];
    let Some(mut server) = TestServer::start_contained(&args).await else { return };
    let marker = "marker-stopped-supervisor";
    let stop = "kill -STOP $PPID && exec -a \"$0\" sleep 300";
    server.execute(job("a", &["bash", "-c", stop, marker])).await.expect("accepted");
    let is_stopped = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.contains(") T ")
    };
    let nursery = children(server.pid())[0];
    eventually("its supervisor is stopped", || children(nursery).into_iter().any(is_stopped)).await;
    eventually("the command runs", || !marked(marker).is_empty()).await;
    server.runtime.cancel(cancel("a", 1)).await.expect("cancels");
    let status = server.end("a").await;
    assert_eq!((status.stop_cause(), marked(marker)), (StopCause::Cancelled, vec![]), "{status:?}");

    let mut hog = script("b", "kill -STOP $PPID && (head -c 64M /dev/zero; sleep 300) | tail");
    hog.limits.insert("memory".into(), "16Mi".into());
    server.execute(hog).await.expect("accepted");
    assert_eq!(server.end("b").await.stop_cause(), StopCause::OutOfMemory);

    // One that goes on with it, until its supervisor is ended and the nursery does the rest.
    let marker = "marker-goes-on";
    let on = "while :; do kill -STOP $PPID; done";
    server.execute(job("e", &["bash", "-c", on, marker])).await.expect("accepted");
    eventually("the command runs", || !marked(marker).is_empty()).await;
    server.runtime.cancel(cancel("e", 1)).await.expect("cancels");
    assert_eq!((server.end("e").await.stop_cause(), marked(marker)), (StopCause::Cancelled, vec![]));

    // And who makes supervisors: the next start finds that out.
    signal(nursery, "STOP");
    eventually("the nursery is stopped", || is_stopped(nursery)).await;
    server.execute(script("c", "echo on")).await.expect("one was ready");
    server.end("c").await;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while server.execute(script("d", "echo on")).await.is_err() {
        assert!(std::time::Instant::now() < deadline, "starts go on");
    }
    assert_eq!(server.end("d").await.stdout, "on\n");
}

#[tokio::test]
async fn a_killed_nursery_is_replaced_and_runs_go_on() {
    let Some(mut server) = TestServer::start_contained(&["--idle-supervisors=1"]).await else { return };
    let gate = server.work_dir().join("gate");
    let text = format!("until [ -e {} ]; do sleep 0.01; done; echo on", gate.display());
    server.execute(script("a", &text)).await.expect("accepted");
    server.running("a").await;
    signal(children(server.pid())[0], "KILL");
    for n in 0..5 {
        let id = format!("b{n}");
        server.execute(script(&id, "echo new")).await.expect("accepted");
        assert_eq!(server.end(&id).await.stdout, "new\n");
    }
    std::fs::write(gate, "").expect("gate");
    let status = server.end("a").await;
    assert_eq!((status.stdout.as_str(), status.stop_cause()), ("on\n", StopCause::Exited));
    server.healthy().await.expect("well again");
}

#[tokio::test]
async fn a_gibibyte_of_output_is_bounded_and_hurts_nobody() {
    let mut server = TestServer::start(&["--max-output-bytes=1048576"]).await;
    let text = "echo begin; head -c 1G /dev/zero; echo; printf 'end\\xff\\xe2\\x82'";
    server.execute(script("a", text)).await.expect("accepted");
    let status = server.end("a").await;
    assert_eq!(status.exit_code, 0);
    assert!(status.stdout.len() <= 64 * 1024 + 16 && status.stdout.ends_with("\nend\u{fffd}\u{fffd}"));
    let total: u64 = 6 + (1 << 30) + 1 + 6;
    let chunks = server.logs(LogsRequest { id: "a".into(), ..LogsRequest::default() }).await;
    let out: Vec<_> = chunks.iter().filter(|chunk| chunk.stream() == Stream::Stdout).collect();
    let kept: u64 = out.iter().map(|chunk| chunk.data.len() as u64).sum();
    assert_eq!(kept, 1 << 20);
    assert!(out[0].offset == 0 && out[0].data.starts_with(b"begin\n"));
    let last = out.last().expect("chunks");
    assert!(last.end && last.offset + last.data.len() as u64 == total);
    let jumps = out.windows(2).filter(|w| w[0].offset + w[0].data.len() as u64 != w[1].offset).count();
    assert_eq!(jumps, 1, "the dropped middle shows as one jump");
    assert!(resident(server.pid()) < 64 << 20, "{} bytes", resident(server.pid()));
}

#[tokio::test]
async fn cancel_may_come_at_any_moment() {
    let mut server = TestServer::start(&[]).await;
    let mut causes = std::collections::HashMap::new();
    for n in 0..150u64 {
        let id = format!("a{n}");
        // Ends by itself at about the time of the cancel.
        let request = job(&id, &["sleep", &format!("0.00{}", n % 8)]);
        let mut other = server.runtime.clone();
        let (accepted, _) = tokio::join!(server.runtime.execute(request), async {
            tokio::time::sleep(std::time::Duration::from_micros(n * 60)).await;
            other.cancel(cancel(&id, 1)).await
        });
        accepted.expect("accepted");
        let _ = server.runtime.cancel(cancel(&id, 1)).await.expect("known now");
        let status = server.end(&id).await;
        match status.stop_cause() {
            // Between the look whether it lives and the signal it may still end by itself.
            StopCause::Cancelled => {
                assert!(status.signal == 15 || status.started_at == 0 || status.exit_code == 0, "{status:?}");
            }
            StopCause::Exited => assert_eq!(status.exit_code, 0, "{status:?}"),
            other => panic!("{other:?}: {status:?}"),
        }
        *causes.entry(status.stop_cause()).or_insert(0) += 1;
        server.forget(&id).await.expect("forgets");
    }
    assert!(causes.contains_key(&StopCause::Cancelled), "{causes:?}");
}

#[tokio::test]
async fn many_runs_leave_nothing_and_idle_is_small() {
    let mut server = TestServer::start(&[]).await;
    let pid = server.pid();
    server.execute(script("warm", "true")).await.expect("accepted");
    server.end("warm").await;
    server.forget("warm").await.expect("forgets");
    assert!(resident(pid) <= 20 << 20, "{} bytes resident", resident(pid));
    let descriptors = || std::fs::read_dir(format!("/proc/{pid}/fd")).expect("fds").count();
    let (before, memory) = (descriptors(), resident(pid));
    for round in 0..20 {
        let ids: Vec<_> = (0..16).map(|n| format!("r{round}-{n}")).collect();
        for id in &ids {
            server.execute(job(id, &["true"])).await.expect("accepted");
        }
        for id in &ids {
            assert_eq!(server.end(id).await.exit_code, 0);
            server.forget(id).await.expect("forgets");
        }
    }
    // A burst may leave twice the idle supervisors, each with one descriptor; a leak would be hundreds.
    eventually("descriptors are closed", || descriptors() <= before + 8).await;
    assert!(resident(pid) < memory + (5 << 20), "{memory} to {} bytes", resident(pid));
    let nursery = children(pid)[0];
    eventually("only idle supervisors are left", || children(nursery).len() <= 8).await;
}
