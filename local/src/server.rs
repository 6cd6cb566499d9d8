//! The listening end: loopback only, TLS and plain HTTP on one port.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A client that says nothing is dropped after this time.
const GREETING: Duration = Duration::from_secs(10);

/// The first byte of a TLS handshake.
const HANDSHAKE: u8 = 0x16;

/// Why the platform does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("{0} is no loopback address: the local platform serves this machine only")]
    NotLoopback(SocketAddr),
    #[error("cannot listen on {address}: {source}")]
    Bind { address: SocketAddr, source: io::Error },
}

/// Listens on `wanted`, or on a free port when that one is taken and `or_free` is set.
///
/// # Errors
/// [`ListenError::NotLoopback`] for any other address.
pub async fn listen(wanted: SocketAddr, or_free: bool) -> Result<(TcpListener, SocketAddr), ListenError> {
    if !wanted.ip().is_loopback() {
        return Err(ListenError::NotLoopback(wanted));
    }
    let bound = match TcpListener::bind(wanted).await {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && or_free => {
            TcpListener::bind(SocketAddr::new(wanted.ip(), 0)).await
        }
        other => other,
    };
    let failed = |source| ListenError::Bind { address: wanted, source };
    let listener = bound.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// Serves until `stop`; open connections are then dropped.
pub async fn serve(listener: TcpListener, tls: TlsAcceptor, router: Router, stop: CancellationToken) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) if peer.ip().is_loopback() => {
                let (tls, router, stop) = (tls.clone(), router.clone(), stop.clone());
                connections.spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = connection(stream, tls, router) => {}
                    }
                });
            }
            Ok((_, peer)) => tracing::warn!(%peer, "refused a client that is not on this machine"),
            Err(why) => {
                // Out of descriptors, most likely: give the others time to end.
                tracing::warn!(%why, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, router: Router) {
    if let Err(why) = stream.set_nodelay(true) {
        tracing::debug!(%why, "cannot set TCP_NODELAY");
    }
    let mut first = [0u8; 1];
    match tokio::time::timeout(GREETING, stream.peek(&mut first)).await {
        Ok(Ok(1)) => {}
        _ => return,
    }
    if first[0] != HANDSHAKE {
        return exchange(stream, router).await;
    }
    match tokio::time::timeout(GREETING, tls.accept(stream)).await {
        Ok(Ok(stream)) => exchange(stream, router).await,
        Ok(Err(why)) => tracing::debug!(%why, "TLS handshake failed"),
        Err(_) => tracing::debug!("TLS handshake took too long"),
    }
}

async fn exchange(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router) {
    let service = TowerToHyperService::new(router);
    if let Err(why) = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await
    {
        tracing::debug!(%why, "connection ended");
    }
}
