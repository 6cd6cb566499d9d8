//! Who may call what, on which listener, and how a server goes down and comes back.
#![allow(clippy::expect_used, reason = "a test fails by panic")]

mod common;

use common::*;
use kruntimes_proto::v1::runtime_client::RuntimeClient;
use kruntimes_proto::v1::runtime_events_client::RuntimeEventsClient;
use kruntimes_proto::v1::{
    AuthenticateRequest, DescribeRequest, HealthRequest, ListRequest, StatusRequest, StopCause,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;

fn free_port() -> u16 {
    let probe = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    probe.local_addr().expect("address").port()
}

#[tokio::test]
async fn nothing_is_answered_without_proof() {
    let mut server = TestServer::start(&[]).await;
    let channel = connect(&server.socket_dir()).await;
    let mut nobody = RuntimeClient::new(channel.clone());
    let refused = nobody.list(ListRequest {}).await.expect_err("no session");
    assert_eq!(refused.code(), Code::Unauthenticated);
    let refused = nobody.health(HealthRequest {}).await.expect_err("not even that");
    assert_eq!(refused.code(), Code::Unauthenticated);
    let forged = Session { proof: vec![0; 32], ..server.session.clone() };
    let mut forger = RuntimeClient::with_interceptor(channel.clone(), forged);
    assert_eq!(forger.list(ListRequest {}).await.expect_err("forged").code(), Code::Unauthenticated);
    let mut events = RuntimeEventsClient::new(channel);
    let refused = events.describe(DescribeRequest {}).await.expect_err("no session");
    assert_eq!(refused.code(), Code::Unauthenticated);
    let short = AuthenticateRequest { client_nonce: vec![1; 31] };
    assert_eq!(events.authenticate(short).await.expect_err("short").code(), Code::Unauthenticated);
    server.runtime.list(ListRequest {}).await.expect("the session itself still holds");
    assert!(!server.socket_dir().join("token").exists(), "the token does not stay around");
}

#[tokio::test]
async fn beside_a_socket_tcp_tells_health_only() {
    let port = free_port();
    let server = TestServer::start(&[&format!("--port={port}")]).await;
    let mut tcp = RuntimeClient::connect(format!("http://127.0.0.1:{port}")).await.expect("connects");
    assert!(tcp.health(HealthRequest {}).await.expect("health").into_inner().healthy);
    let refused = tcp.execute(script("a", "true")).await.expect_err("refused");
    assert_eq!(refused.code(), Code::PermissionDenied);
    drop(server);
}

/// A server that answers everything on a TCP port, within `limits` as `ulimit` takes them.
async fn plain(limits: &str, dir: &std::path::Path) -> (std::process::Child, u16) {
    let port = free_port();
    let child = std::process::Command::new("sh")
        .args(["-c", &format!("ulimit {limits}; exec \"$0\" \"$@\"")])
        .arg(example("shell"))
        .args([&format!("-port={port}"), "--bind-address=127.0.0.1", "-v=2"])
        .arg(format!("--work-dir={}", dir.display()))
        .env_remove("KRUNTIME_SOCKET_DIR")
        .env("KRUNTIME_LOG", "warn")
        .spawn()
        .expect("starts");
    eventually("listening", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
    (child, port)
}

#[tokio::test]
async fn connections_that_say_nothing_take_nothing_from_runs() {
    let dir = tempfile::tempdir().expect("tempdir");
    // Few enough to be used up, and fewer that a Run sees.
    let (mut child, port) = plain("-Sn 200; ulimit -Hn 400", dir.path()).await;
    let idle: Vec<_> =
        (0..600).filter_map(|_| std::net::TcpStream::connect(("127.0.0.1", port)).ok()).collect();
    assert!(idle.len() > 400, "{}", idle.len());
    let address = format!("http://127.0.0.1:{port}");
    let mut runtime = in_time(RuntimeClient::connect(address)).await.expect("room for one more");
    for number in 0..20 {
        runtime.execute(script(&format!("r{number}"), "ulimit -Sn; ulimit -Hn")).await.expect("accepted");
    }
    for number in 0..20 {
        let request = StatusRequest { id: format!("r{number}"), ..StatusRequest::default() };
        let ended = async {
            loop {
                let status = runtime.status(request.clone()).await.expect("status").into_inner();
                if status.finished_at > 0 {
                    return status;
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        assert_eq!(in_time(ended).await.stdout, "200\n400\n");
    }
    drop(idle);
    signal(child.id().cast_signed(), "TERM");
    eventually("the server ends", || child.try_wait().expect("wait").is_some()).await;
}

#[tokio::test]
async fn without_a_socket_tcp_serves_everything() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (mut child, port) = plain("-c 0", dir.path()).await;
    let address = format!("http://127.0.0.1:{port}");
    let mut runtime = RuntimeClient::connect(address.clone()).await.expect("connects");
    let mut events = RuntimeEventsClient::connect(address).await.expect("connects");
    runtime.execute(script("a", "true")).await.expect("accepted");
    let describe = events.describe(DescribeRequest {}).await.expect("describe").into_inner();
    assert_eq!(describe.authentication, "none");
    let refused = events.authenticate(AuthenticateRequest { client_nonce: vec![1; 32] }).await;
    assert_eq!(refused.expect_err("no token here").code(), Code::Unimplemented);
    signal(child.id().cast_signed(), "TERM");
    eventually("the server ends", || child.try_wait().expect("wait").is_some()).await;
}

#[tokio::test]
async fn a_restarted_server_is_another_instance_and_wants_a_fresh_token() {
    let mut server = TestServer::start(&[]).await;
    let first = server.events.describe(DescribeRequest {}).await.expect("describe").into_inner();
    server.execute(script("a", "sleep 60")).await.expect("accepted");
    server.kill();
    let args = command(&example("shell"), server.dir.path(), &[]).spawn().expect("starts again");
    server.child = args;
    let stale = connect(&server.socket_dir()).await;
    let mut stale = RuntimeClient::with_interceptor(stale, server.session.clone());
    assert_eq!(stale.list(ListRequest {}).await.expect_err("stale").code(), Code::Unauthenticated);
    let (channel, session) = authenticate(&server.socket_dir(), [0xcd; 32]).await;
    let mut events = RuntimeEventsClient::with_interceptor(channel.clone(), session.clone());
    let second = events.describe(DescribeRequest {}).await.expect("describe").into_inner();
    assert_ne!(first.instance_id, second.instance_id);
    let mut runtime = RuntimeClient::with_interceptor(channel, session);
    assert!(runtime.list(ListRequest {}).await.expect("list").into_inner().entries.is_empty());
}

#[tokio::test]
async fn a_second_server_on_the_same_socket_gives_way() {
    let server = TestServer::start(&[]).await;
    let second = command(&example("shell"), server.dir.path(), &[]).output().expect("runs");
    assert!(!second.status.success());
    let message = String::from_utf8_lossy(&second.stderr);
    assert!(message.contains("another server answers on"), "{message}");
}

#[tokio::test]
async fn on_the_way_down_work_goes_on_and_none_is_taken() {
    let mut server = TestServer::start(&[]).await;
    let gate = server.work_dir().join("gate");
    let text = format!("until [ -e {} ]; do sleep 0.01; done; echo done", gate.display());
    server.execute(script("a", &text)).await.expect("accepted");
    server.running("a").await;
    signal(server.pid(), "TERM");
    let deadline = std::time::Instant::now() + PATIENCE;
    while server.healthy().await.is_ok() {
        assert!(std::time::Instant::now() < deadline);
    }
    assert!(server.healthy().await.expect_err("draining").contains("draining"));
    let refused = server.execute(script("b", "true")).await.expect_err("refused");
    assert_eq!(refused.code(), Code::Unavailable);
    std::fs::write(gate, "").expect("gate");
    let status = server.end("a").await;
    assert_eq!((status.stop_cause(), status.stdout.as_str()), (StopCause::Exited, "done\n"));
    server.forget("a").await.expect("forgets");
    eventually("the server ends", || server.child.try_wait().expect("wait").is_some()).await;
    assert!(!server.socket_dir().join("server.sock").exists());
}

#[tokio::test]
async fn when_the_grace_is_over_what_runs_is_stopped() {
    let mut server = TestServer::start(&["--shutdown-grace=1"]).await;
    server
        .execute(script("a", "trap '' TERM; while :; do sleep 0.05; done # marker-grace-over"))
        .await
        .expect("accepted");
    server.running("a").await;
    signal(server.pid(), "TERM");
    let status = server.end("a").await;
    assert_eq!(status.stop_cause(), StopCause::Evicted);
    eventually("the server ends", || server.child.try_wait().expect("wait").is_some()).await;
    eventually("no process is left", || marked("marker-grace-over").is_empty()).await;
}

#[tokio::test]
async fn what_happens_is_counted() {
    let port = free_port();
    let mut server = TestServer::start(&[&format!("--metrics-bind-address=127.0.0.1:{port}")]).await;
    server.execute(script("a", "echo 1234567")).await.expect("accepted");
    server.end("a").await;
    server.execute(job("b", &[])).await.expect_err("refused");
    let get = async |path: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("connects");
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("reads");
        answer
    };
    let text = get("/metrics").await;
    for line in [
        "kruntimes_server_executions_ended_total{cause=\"exited\"} 1",
        "kruntimes_server_executions_refused_total 1",
        "kruntimes_server_executions_active 0",
        "kruntimes_server_start_seconds_count 1",
        "kruntimes_server_output_bytes_total 8",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in {text}");
    }
    assert!(get("/readyz").await.starts_with("HTTP/1.1 200"));
    std::fs::remove_dir(server.work_dir()).expect("removed");
    assert!(get("/readyz").await.starts_with("HTTP/1.1 503"));
}
