//! The door in front of both services, by path: one place that no call can pass by.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::{Either, Ready, ready};
use prometheus_client::metrics::counter::Counter;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::metadata::MetadataMap;

use crate::auth::Auth;

const AUTHENTICATE: &str = "/executor.v1.RuntimeEvents/Authenticate";
const HEALTH: &str = "/executor.v1.Runtime/Health";

/// Who is let in.
#[derive(Clone, Debug)]
pub(crate) enum Rule {
    /// Everybody: plain TCP without a shared folder, as the baseline has it.
    Open,
    /// `Health` only: plain TCP beside a socket.
    HealthOnly,
    /// Who proved the token.
    Token(Arc<Auth>),
}

/// A tower layer with a [`Rule`].
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    pub rule: Rule,
    pub refused: Counter,
}

/// A service behind a [`Gate`].
#[derive(Clone, Debug)]
pub(crate) struct Guarded<S> {
    inner: S,
    gate: Gate,
}

impl<S> tower::Layer<S> for Gate {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Guarded { inner, gate: self.clone() }
    }
}

impl<S> tower::Service<http::Request<Body>> for Guarded<S>
where
    S: tower::Service<http::Request<Body>, Response = http::Response<Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<S::Response, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        match self.gate.rule.judge(&mut request) {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(status) => {
                self.gate.refused.inc();
                Either::Right(ready(Ok(status.into_http())))
            }
        }
    }
}

impl Rule {
    fn judge(&self, request: &mut http::Request<Body>) -> Result<(), Status> {
        match self {
            Self::Open => Ok(()),
            Self::HealthOnly if request.uri().path() == HEALTH => Ok(()),
            Self::HealthOnly => {
                Err(Status::permission_denied("this server takes calls on its unix socket only"))
            }
            Self::Token(_) if request.uri().path() == AUTHENTICATE => Ok(()),
            Self::Token(auth) => {
                let metadata = MetadataMap::from_headers(std::mem::take(request.headers_mut()));
                let verdict = auth.check(&metadata);
                *request.headers_mut() = metadata.into_headers();
                verdict.map_err(|error| Status::unauthenticated(error.to_string()))
            }
        }
    }
}
