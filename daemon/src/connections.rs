//! A bound on the connections that a listener keeps: whoever can reach it cannot take all descriptors of the process.

use std::collections::VecDeque;
use std::future::Future as _;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

/// Connections of one listener at once.
const AT_MOST: usize = 128;

/// The places that the connections of one listener take, oldest first. Each is cancelled when its connection ends, or is to.
#[derive(Clone, Debug, Default)]
pub struct Places(Arc<Mutex<VecDeque<CancellationToken>>>);

impl Places {
    /// `stream` with a place that it has until it is dropped. When all are taken the oldest connection ends: who holds
    /// many keeps nobody out, such as the probes of a kubelet.
    pub fn take<S>(&self, stream: S) -> Placed<S> {
        let place = CancellationToken::new();
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.retain(|other| !other.is_cancelled());
        if taken.len() >= AT_MOST
            && let Some(oldest) = taken.pop_front()
        {
            oldest.cancel();
        }
        taken.push_back(place.clone());
        Placed { stream, over: Box::pin(place.clone().cancelled_owned()), _place: place.drop_guard() }
    }
}

/// A connection with its place. It has ended once that is another's.
#[derive(Debug)]
pub struct Placed<S> {
    stream: S,
    over: Pin<Box<WaitForCancellationFutureOwned>>,
    _place: DropGuard,
}

impl<S> Placed<S> {
    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        self.over.as_mut().poll(context).is_ready()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Placed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_over(context) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Placed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // Also for who asks and does not read the answer.
        if self.is_over(context) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_over(context) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Accepts as [`TcpListener`] does, each with a place.
#[derive(Debug)]
pub(crate) struct Bounded {
    listener: TcpListener,
    places: Places,
}

impl Bounded {
    pub(crate) fn new(listener: TcpListener) -> Self {
        Self { listener, places: Places::default() }
    }
}

impl axum::serve::Listener for Bounded {
    type Io = Placed<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, address) = axum::serve::Listener::accept(&mut self.listener).await;
        (self.places.take(stream), address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn the_oldest_gives_way() {
        let places = Places::default();
        let (mut first, other) = tokio::io::duplex(1);
        let mut oldest = places.take(other);
        first.write_all(b"x").await.expect("room for one");
        assert_eq!(oldest.read_u8().await.expect("it lives"), b'x');
        drop(places.take(tokio::io::duplex(1).0));
        let held: Vec<_> = (1..AT_MOST).map(|_| places.take(tokio::io::duplex(1).0)).collect();
        first.write_all(b"y").await.expect("room for one");
        assert_eq!(oldest.read_u8().await.expect("one has ended: all have a place"), b'y');
        // The reader is gone: writing waits until the place is another's.
        oldest.write_all(b"z").await.expect("room for one");
        let stuck = tokio::spawn(async move { (oldest.write_all(b"zz").await.is_err(), oldest) });
        tokio::task::yield_now().await;
        let _newest = places.take(tokio::io::duplex(1).0);
        let (over, mut oldest) = stuck.await.expect("it ends");
        assert!(over);
        assert_eq!(oldest.read(&mut [0]).await.expect("ended"), 0);
        drop(held);
    }
}
