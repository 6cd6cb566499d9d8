//! Finding the server: its socket or, where it never had one, TCP.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use kruntimes_proto::{SOCKET_FILE, SocketName, v1};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use super::auth::{AuthError, Proof, Token, authenticate};
use super::{CALL_LIMIT, CallError, Session, baseline, bounded, native};

const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// HTTP/2 window per stream: enough for a burst of events or output, little enough to be kept idle.
const WINDOW: u32 = 256 << 10;

/// Why one way to the server failed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The socket is not there.
    #[error("socket {path}: {source}")]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket or address does not answer.
    #[error("cannot connect to {target}: {why}")]
    Connect {
        /// Where.
        target: String,
        /// Why.
        why: String,
    },
    /// The token cannot be left for the server.
    #[error("cannot write the token in {dir}: {source}")]
    Token {
        /// Where.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No proof.
    #[error("authentication on the socket failed: {0}")]
    Auth(#[from] AuthError),
    /// A call failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Only Health is answered over TCP: the server listens on a socket that we cannot find.
    #[error("the server at {endpoint} answers only Health over TCP: it expects calls on its socket")]
    SocketOnly {
        /// Where.
        endpoint: String,
    },
    /// Neither way.
    #[error("no Runtime Server: {socket}; {tcp}")]
    Neither {
        /// The first.
        socket: Box<ConnectError>,
        /// The second.
        tcp: Box<ConnectError>,
    },
}

/// Where a server may be.
pub struct Target {
    socket_dir: Option<PathBuf>,
    endpoint: String,
    /// Written once; anew when the server does not know it.
    token: Option<Token>,
    /// A server proved the token.
    proven: bool,
}

impl Target {
    /// `endpoint` is `HOST:PORT`.
    pub fn new(socket_dir: Option<PathBuf>, endpoint: String) -> Self {
        Self { socket_dir, endpoint, token: None, proven: false }
    }

    /// Connects to whichever server is there.
    ///
    /// # Errors
    /// Names both ways when neither leads to one.
    pub async fn connect(&mut self) -> Result<Session, ConnectError> {
        let Some(dir) = self.socket_dir.clone() else { return self.connect_tcp().await };
        let socket = match self.connect_socket(&dir).await {
            Ok(session) => return Ok(session),
            Err(error) => error,
        };
        // Nobody proves anything over TCP, where a Run could answer in the place of a server whose socket it closed: only a
        // server that has none is looked for there.
        let none =
            matches!(&socket, ConnectError::Socket { source, .. } if source.kind() == ErrorKind::NotFound);
        if self.proven || !none {
            return Err(socket);
        }
        self.connect_tcp()
            .await
            .map_err(|tcp| ConnectError::Neither { socket: Box::new(socket), tcp: Box::new(tcp) })
    }

    async fn connect_socket(&mut self, dir: &Path) -> Result<Session, ConnectError> {
        if self.token.is_none() {
            self.renew_token(dir)?;
        }
        let path = dir.join(SOCKET_FILE);
        if let Err(source) = std::fs::symlink_metadata(&path) {
            return Err(ConnectError::Socket { path, source });
        }
        let channel = unix_channel(dir).await?;
        let proof = match self.prove(&channel).await {
            Err(AuthError::Unknown | AuthError::Impostor) => {
                self.renew_token(dir)?;
                self.prove(&channel).await?
            }
            other => other?,
        };
        self.proven = true;
        let logs = unix_channel(dir).await?;
        Ok(native::connect(channel, logs, proof).await?)
    }

    fn renew_token(&mut self, dir: &Path) -> Result<(), ConnectError> {
        let token =
            Token::write_new(dir).map_err(|source| ConnectError::Token { dir: dir.to_owned(), source })?;
        self.token = Some(token);
        Ok(())
    }

    async fn prove(&self, channel: &Channel) -> Result<Proof, AuthError> {
        match &self.token {
            Some(token) => authenticate(channel.clone(), token).await,
            None => Err(AuthError::Unknown),
        }
    }

    async fn connect_tcp(&self) -> Result<Session, ConnectError> {
        let channel = tcp_channel(&self.endpoint).await?;
        let mut events = v1::runtime_events_client::RuntimeEventsClient::new(channel.clone());
        match bounded("Describe", CALL_LIMIT, events.describe(v1::DescribeRequest {})).await {
            Ok(_) => {
                let logs = tcp_channel(&self.endpoint).await?;
                Ok(native::connect(channel, logs, Proof::default()).await?)
            }
            Err(error) if is_unimplemented(&error) => match baseline::connect(channel).await {
                Err(error) if is_unimplemented(&error) => {
                    Err(ConnectError::SocketOnly { endpoint: self.endpoint.clone() })
                }
                other => Ok(other?),
            },
            Err(error) => Err(error.into()),
        }
    }
}

fn is_unimplemented(error: &CallError) -> bool {
    error.answered && error.code == tonic::Code::Unimplemented
}

async fn unix_channel(folder: &Path) -> Result<Channel, ConnectError> {
    let target = folder.join(SOCKET_FILE).display().to_string();
    let folder = folder.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let folder = folder.clone();
        async move {
            let name = SocketName::within(&folder)?;
            UnixStream::connect(name.path()).await.map(TokioIo::new)
        }
    });
    // The address is not used: the connector knows the way.
    settings(Endpoint::from_static("http://server"))
        .connect_with_connector(connector)
        .await
        .map_err(|error| ConnectError::Connect { target, why: innermost(&error) })
}

async fn tcp_channel(endpoint: &str) -> Result<Channel, ConnectError> {
    let failed = |error: &tonic::transport::Error| ConnectError::Connect {
        target: endpoint.to_owned(),
        why: innermost(error),
    };
    let address = Endpoint::from_shared(format!("http://{endpoint}")).map_err(|error| failed(&error))?;
    settings(address).tcp_nodelay(true).connect().await.map_err(|error| failed(&error))
}

fn settings(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_LIMIT)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW * 2)
}

/// The last error of a chain says what happened; those above only where.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
