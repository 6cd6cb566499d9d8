//! The HTTP server over real sockets.
#![allow(clippy::expect_used, reason = "a test fails by panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kruntimes_daemon::{CancellationToken, Endpoints, HttpServer, Metrics};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

async fn get(address: std::net::SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("writes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("reads");
    answer
}

#[tokio::test]
async fn paths_are_split_over_addresses_and_readiness_is_told() {
    let any = Some("127.0.0.1:0".parse().expect("address"));
    let http =
        HttpServer::bind(&[(any, Endpoints::METRICS), (any, Endpoints::HEALTH), (None, Endpoints::ALL)])
            .await
            .expect("binds");
    let addresses: Vec<_> = http.addresses().collect();
    assert_eq!(addresses.len(), 2);
    let ready = Arc::new(AtomicBool::new(false));
    let stop = CancellationToken::new();
    let told = Arc::clone(&ready);
    let closure =
        move || if told.load(Ordering::SeqCst) { Ok(()) } else { Err("cache not synced".to_owned()) };
    let server = tokio::spawn(http.serve(Metrics::new("kruntimes_test"), closure, stop.clone()));

    let metrics = get(addresses[0], "/metrics").await;
    assert!(
        metrics.starts_with("HTTP/1.1 200") && metrics.contains("kruntimes_test_build_info"),
        "{metrics}"
    );
    assert!(get(addresses[0], "/healthz").await.starts_with("HTTP/1.1 404"));
    assert!(get(addresses[1], "/healthz").await.starts_with("HTTP/1.1 200"));
    let unready = get(addresses[1], "/readyz").await;
    assert!(unready.starts_with("HTTP/1.1 503") && unready.contains("cache not synced"), "{unready}");
    ready.store(true, Ordering::SeqCst);
    assert!(get(addresses[1], "/readyz").await.starts_with("HTTP/1.1 200"));

    stop.cancel();
    server.await.expect("joins").expect("stops cleanly");
    assert!(TcpStream::connect(addresses[0]).await.is_err(), "the listener is closed");
}

#[tokio::test]
async fn one_address_for_both_is_opened_once() {
    let probe = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = probe.local_addr().expect("address");
    drop(probe);
    let http = HttpServer::bind(&[(Some(address), Endpoints::METRICS), (Some(address), Endpoints::HEALTH)])
        .await
        .expect("binds once");
    assert_eq!(http.addresses().count(), 1);
    let error = HttpServer::bind(&[(Some(address), Endpoints::ALL)]).await.expect_err("in use");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}
