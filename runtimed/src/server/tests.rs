use super::*;
use crate::tests::server::FakeServer;
use crate::tests::until;
use futures::StreamExt as _;
use std::path::Path;

fn fence() -> Fence {
    Fence { run: RunUid::from("uid-1"), attempt: 1, assignment: 2 }
}

fn request() -> v1::ExecuteRequest {
    v1::ExecuteRequest { id: "uid-1".into(), attempt: 1, assignment: 2, ..v1::ExecuteRequest::default() }
}

fn target(dir: &Path, endpoint: &str) -> Target {
    Target::new(Some(dir.to_owned()), endpoint.to_owned())
}

async fn next(session: &mut Session) -> ServerEvent {
    let next = tokio::time::timeout(Duration::from_secs(20), session.events.next());
    next.await.expect("an event in time").expect("a stream that goes on")
}

async fn ended(session: &mut Session) -> Execution {
    loop {
        if let ServerEvent::Execution(execution) = next(session).await
            && matches!(execution.state, ExecutionState::Ended(_))
        {
            return *execution;
        }
    }
}

#[tokio::test]
async fn a_server_of_ours_is_found_on_its_socket_and_pushes_everything() {
    let dir = tempfile::tempdir().unwrap();
    let server = FakeServer::new("i-1");
    server.on_socket(dir.path());
    let mut session = target(dir.path(), "127.0.0.1:1").connect().await.unwrap();
    assert_eq!(*session.client.instance(), Instance::Native("i-1".into()));
    assert!(session.executions.is_empty());
    assert_eq!(session.describe.as_ref().unwrap().name, "fake");
    // The token was taken and is not left lying about.
    assert!(!dir.path().join(kruntimes_proto::TOKEN_FILE).exists());

    session.client.execute(request()).await.unwrap();
    let ServerEvent::Execution(running) = next(&mut session).await else { panic!("no execution") };
    assert_eq!((running.of, running.state), (Some((1, 2)), ExecutionState::Running));
    server.finish("uid-1", 3, "out\n", "err\n");
    let ExecutionState::Ended(end) = ended(&mut session).await.state else { panic!("not ended") };
    assert_eq!((end.exit_code, end.cause, &*end.stderr_tail), (3, StopCause::Exited, "err\n"));

    let logs = session.client.logs(&fence(), Offsets { stdout: 1, stderr: 0 }).await.unwrap();
    let pieces: Vec<LogPiece> = logs.map(Result::unwrap).collect().await;
    let texts: Vec<_> = pieces.iter().map(|piece| (piece.stream, piece.offset, &piece.data[..])).collect();
    assert_eq!(texts, [(StreamName::Stdout, 1, &b"ut\n"[..]), (StreamName::Stderr, 0, &b"err\n"[..])]);
    session.client.forget(&fence()).await.unwrap();
    assert!(server.ids().is_empty());
}

#[tokio::test]
async fn a_restarted_server_gets_a_new_token() {
    let dir = tempfile::tempdir().unwrap();
    let mut target = target(dir.path(), "127.0.0.1:1");
    let first = FakeServer::new("i-1");
    first.on_socket(dir.path());
    let mut session = target.connect().await.unwrap();
    first.stop.cancel();
    assert!(tokio::time::timeout(Duration::from_secs(20), session.events.next()).await.unwrap().is_none());
    FakeServer::new("i-2").on_socket(dir.path());
    let session = target.connect().await.unwrap();
    assert_eq!(*session.client.instance(), Instance::Native("i-2".into()));
}

#[tokio::test]
async fn who_cannot_prove_the_token_is_not_talked_to() {
    let dir = tempfile::tempdir().unwrap();
    let server = FakeServer::new("i-1");
    server.state.lock().unwrap().impostor = true;
    server.on_socket(dir.path());
    // Nor is anybody else then.
    let baseline = FakeServer::new("b").on_tcp().await;
    let error = target(dir.path(), &baseline).connect().await.err().unwrap();
    assert!(matches!(error, ConnectError::Auth(auth::AuthError::Impostor)), "{error}");
}

#[tokio::test]
async fn nobody_takes_the_place_of_a_server_whose_socket_is_closed_or_gone() {
    let dir = tempfile::tempdir().unwrap();
    let baseline = FakeServer::new("b").on_tcp().await;
    let socket = dir.path().join(kruntimes_proto::SOCKET_FILE);
    let nobody = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    drop(nobody);
    let mut target = target(dir.path(), &baseline);
    assert!(matches!(target.connect().await.err().unwrap(), ConnectError::Connect { .. }));
    std::fs::remove_file(&socket).unwrap();
    let server = FakeServer::new("i-1");
    server.on_socket(dir.path());
    target.connect().await.unwrap();
    server.stop.cancel();
    let _ = std::fs::remove_file(&socket);
    assert!(matches!(target.connect().await.err().unwrap(), ConnectError::Socket { .. }));
}

#[tokio::test]
async fn a_gap_in_the_stream_is_followed_by_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let server = FakeServer::new("i-1");
    server.on_socket(dir.path());
    let mut session = target(dir.path(), "127.0.0.1:1").connect().await.unwrap();
    server.state.lock().unwrap().gap = true;
    session.client.execute(request()).await.unwrap();
    loop {
        if let ServerEvent::Snapshot(executions) = next(&mut session).await {
            assert_eq!(executions.len(), 1);
            break;
        }
    }
    server.finish("uid-1", 0, "", "");
    ended(&mut session).await;
}

#[tokio::test]
async fn a_baseline_server_is_polled() {
    let dir = tempfile::tempdir().unwrap();
    let server = FakeServer::new("");
    let address = server.on_tcp().await;
    let mut session = target(dir.path(), &address).connect().await.unwrap();
    assert_eq!((session.client.instance(), session.describe.is_none()), (&Instance::Baseline, true));
    session.client.execute(request()).await.unwrap();
    let mut logs = session.client.logs(&fence(), Offsets::default()).await.unwrap();
    server.finish("uid-1", -1, "out\n", "");
    {
        let mut state = server.state.lock().unwrap();
        let execution = state.executions.get_mut("uid-1").unwrap();
        execution.error_message = "timeout".into();
        execution.stop_cause = 0;
    }
    let execution = ended(&mut session).await;
    let ExecutionState::Ended(end) = execution.state else { panic!("not ended") };
    assert_eq!((execution.of, end.cause, &*end.stdout_tail), (None, StopCause::Timeout, "out\n"));
    let piece = logs.next().await.unwrap().unwrap();
    assert_eq!(piece.data, b"out\n");
    assert!(logs.next().await.is_none());
}

#[tokio::test]
async fn an_execution_that_a_baseline_server_forgot_is_missing() {
    let server = FakeServer::new("");
    let address = server.on_tcp().await;
    let mut session = Target::new(None, address).connect().await.unwrap();
    session.client.execute(request()).await.unwrap();
    server.state.lock().unwrap().executions.clear();
    loop {
        if let ServerEvent::Missing(id) = next(&mut session).await {
            assert_eq!(id, fence().run);
            break;
        }
    }
}

#[tokio::test]
async fn errors_name_both_ways() {
    let dir = tempfile::tempdir().unwrap();
    let error = target(dir.path(), "127.0.0.1:1").connect().await.err().unwrap().to_string();
    assert!(error.contains("server.sock") && error.contains("127.0.0.1:1"), "{error}");
    // A server of ours whose socket is elsewhere answers only Health over TCP.
    let server = FakeServer::new("");
    server.state.lock().unwrap().health_only = true;
    let address = server.on_tcp().await;
    let error = target(dir.path(), &address).connect().await.err().unwrap().to_string();
    assert!(error.contains("only Health"), "{error}");
}

#[tokio::test]
async fn the_view_follows_health_and_connection() {
    let dir = tempfile::tempdir().unwrap();
    let server = FakeServer::new("i-1");
    server.state.lock().unwrap().unhealthy = Some("no cgroup".into());
    server.on_socket(dir.path());
    let (view, views) = tokio::sync::watch::channel(ServerView::default());
    let (events, mut received) = tokio::sync::mpsc::channel(16);
    let stop = tokio_util::sync::CancellationToken::new();
    tokio::spawn(supervise(target(dir.path(), "127.0.0.1:1"), view, events, stop.clone()));
    assert!(matches!(received.recv().await, Some(crate::engine::Event::ServerUp { .. })));
    assert_eq!(views.borrow().trouble, Some(Trouble::Unhealthy("no cgroup".into())));
    server.state.lock().unwrap().unhealthy = None;
    until("health", || views.borrow().trouble.is_none().then_some(())).await;
    server.stop.cancel();
    assert!(matches!(received.recv().await, Some(crate::engine::Event::ServerDown)));
    assert!(matches!(views.borrow().trouble, Some(Trouble::Unreachable(_))));
    FakeServer::new("i-2").on_socket(dir.path());
    let Some(crate::engine::Event::ServerUp { instance, .. }) = received.recv().await else {
        panic!("not up")
    };
    assert_eq!(instance, Instance::Native("i-2".into()));
    stop.cancel();
}

/// A status that the API refuses would leave its Run without an end.
#[test]
fn what_a_server_tells_fits_the_status() {
    let axis = |axis: &str, text: &str| v1::IsolationAxis {
        axis: axis.into(),
        level: v1::IsolationLevel::Soft.into(),
        mechanism: text.into(),
        reason: text.into(),
    };
    let long = "\u{fc}".repeat(2000);
    let mut axes = vec![axis("files", &long), axis("files", "twice"), axis("", "nameless")];
    axes.extend((0..40).map(|number| axis(&format!("{number} {long}"), "x")));
    let told = isolation_axes(&v1::Isolation { axes });
    assert_eq!(told.len(), 16);
    assert_eq!(told.iter().filter(|told| told.axis == "files").count(), 1);
    let fits = |text: &str, most: usize| text.chars().count() <= most;
    assert!(
        told.iter()
            .all(|told| fits(&told.axis, 32) && fits(&told.mechanism, 253) && fits(&told.reason, 1024))
    );
    assert!(told.iter().all(|told| !told.axis.is_empty()));
    let figure = |name: &str| v1::Figure {
        name: name.into(),
        unit: long.clone(),
        source: long.clone(),
        ..v1::Figure::default()
    };
    let device = v1::Device { resource: long.clone(), id: long.clone(), amount: long.clone() };
    let no_number = v1::Figure { value: f64::NAN, ..figure("x") };
    let execution = Execution::from(v1::StatusResponse {
        usage: Some(v1::Usage { figures: vec![figure(&long), figure(""), no_number], incomplete: false }),
        devices: vec![device; 200],
        ..v1::StatusResponse::default()
    });
    let usage = execution.usage.unwrap();
    let figures = usage.figures;
    assert_eq!(figures.len(), 1, "one has no name, one is no number");
    assert!(usage.incomplete, "and that is told");
    let told = &figures[0];
    assert!(fits(&told.name, 300) && fits(&told.unit, 32) && fits(&told.source, 63));
    assert_eq!(execution.devices.len(), 128);
    let told = &execution.devices[0];
    assert!(fits(&told.resource, 253) && fits(&told.id, 253) && fits(&told.amount, 64));
}
