//! Who is listened to: a bounded number of connections, and on the kit's own socket no Run.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::ready;
use futures::{Stream, StreamExt as _};
use kruntimes_daemon::{Placed, Places};
use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::server::Connected;

use crate::auth::is_own_run;

/// Each with a place, for which the oldest gives way.
pub(crate) fn bounded<S>(
    incoming: impl Stream<Item = io::Result<S>>,
) -> impl Stream<Item = io::Result<Connection<S>>> {
    let places = Places::default();
    incoming.map(move |accepted| accepted.map(|stream| Connection(places.take(stream))))
}

/// Hangs up on processes of Runs: with connections that say nothing they could take every place.
pub(crate) fn strangers(
    listener: UnixListener,
    refused: Counter,
) -> impl Stream<Item = io::Result<UnixStream>> {
    UnixListenerStream::new(listener).filter(move |accepted| {
        let peer = accepted.as_ref().ok().and_then(|stream| stream.peer_cred().ok()?.pid());
        let own = is_own_run(peer);
        refused.inc_by(own.into());
        ready(!own)
    })
}

/// A [`Placed`] one, as tonic takes it.
#[derive(Debug)]
pub(crate) struct Connection<S>(Placed<S>);

impl<S> Connected for Connection<S> {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}
