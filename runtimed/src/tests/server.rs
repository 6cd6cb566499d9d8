//! A Runtime Server in memory: of our kind over a socket, or of the baseline's over TCP.

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures::{Stream, StreamExt as _};
use hmac::{Hmac, KeyInit as _, Mac as _};
use kruntimes_proto::v1::{self, runtime_events_server, runtime_server};
use kruntimes_proto::{CLIENT_CONTEXT, PROOF_KEY, SERVER_CONTEXT, SESSION_KEY, SOCKET_FILE, TOKEN_FILE};
use sha2::Sha256;
use tokio::sync::broadcast;
use tokio_stream::wrappers::{BroadcastStream, TcpListenerStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

const NONCE: [u8; 32] = [7; 32];

pub(crate) struct State {
    pub executions: BTreeMap<String, v1::StatusResponse>,
    pub requests: Vec<v1::ExecuteRequest>,
    pub cancels: Vec<v1::CancelRequest>,
    pub forgotten: Vec<String>,
    /// Refusals of the next Execute calls.
    pub refuse: Vec<Status>,
    /// Executions end by themselves at once.
    pub at_once: bool,
    /// The next event gets a number too high.
    pub gap: bool,
    pub unhealthy: Option<String>,
    /// Proves with another token.
    pub impostor: bool,
    /// Answers only Health, as our servers do over TCP.
    pub health_only: bool,
    token: Option<Vec<u8>>,
    proof: Option<Vec<u8>>,
    folder: Option<std::path::PathBuf>,
}

/// The server. Cloning shares it; it stops when `stop` is cancelled.
#[derive(Clone)]
pub(crate) struct FakeServer {
    pub state: Arc<Mutex<State>>,
    pub instance: String,
    pub stop: CancellationToken,
    events: broadcast::Sender<v1::StatusResponse>,
}

impl FakeServer {
    pub(crate) fn new(instance: &str) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                executions: BTreeMap::new(),
                requests: Vec::new(),
                cancels: Vec::new(),
                forgotten: Vec::new(),
                refuse: Vec::new(),
                at_once: false,
                gap: false,
                unhealthy: None,
                impostor: false,
                health_only: false,
                token: None,
                proof: None,
                folder: None,
            })),
            instance: instance.into(),
            stop: CancellationToken::new(),
            events: broadcast::channel(64).0,
        }
    }

    /// Our kind, on the socket in `dir`.
    pub(crate) fn on_socket(&self, dir: &Path) {
        self.state.lock().unwrap().folder = Some(dir.to_owned());
        let path = dir.join(SOCKET_FILE);
        let _ = std::fs::remove_file(&path);
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let router = tonic::transport::Server::builder()
            .add_service(runtime_server::RuntimeServer::new(self.clone()))
            .add_service(runtime_events_server::RuntimeEventsServer::new(self.clone()));
        let stop = self.stop.clone();
        let serving =
            router.serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop.cancelled_owned());
        self.until_stopped(serving);
    }

    /// The baseline's kind; gives its address.
    pub(crate) async fn on_tcp(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let router =
            tonic::transport::Server::builder().add_service(runtime_server::RuntimeServer::new(self.clone()));
        self.until_stopped(router.serve_with_incoming(TcpListenerStream::new(listener)));
        address
    }

    /// Stops at once: open streams are cut.
    fn until_stopped(
        &self,
        serving: impl Future<Output = Result<(), tonic::transport::Error>> + Send + 'static,
    ) {
        let stop = self.stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = serving => {}
                () = stop.cancelled() => {}
            }
        });
    }

    pub(crate) fn finish(&self, id: &str, code: i32, stdout: &str, stderr: &str) {
        let mut state = self.state.lock().unwrap();
        let native = state.folder.is_some();
        let execution = state.executions.get_mut(id).unwrap();
        execution.exit_code = code;
        let ended = if code == 0 { v1::ExecutionState::Succeeded } else { v1::ExecutionState::Failed };
        execution.set_state(ended);
        // The baseline's servers have no such field.
        if native && execution.stop_cause() == v1::StopCause::Unspecified {
            execution.set_stop_cause(v1::StopCause::Exited);
        }
        execution.stdout = stdout.into();
        execution.stderr = stderr.into();
        execution.finished_at = jiff::Timestamp::now().as_microsecond();
        let _ = self.events.send(execution.clone());
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        self.state.lock().unwrap().executions.keys().cloned().collect()
    }

    fn check<T>(&self, request: &Request<T>) -> Result<(), Status> {
        if self.stop.is_cancelled() {
            return Err(Status::unavailable("stopped"));
        }
        let state = self.state.lock().unwrap();
        if state.health_only {
            return Err(Status::unimplemented("only Health"));
        }
        if state.folder.is_none() {
            return Ok(());
        }
        let given = |key| request.metadata().get_bin(key).and_then(|value| value.to_bytes().ok());
        match (given(SESSION_KEY), given(PROOF_KEY)) {
            (Some(_), Some(proof)) if state.proof.as_deref() == Some(&proof[..]) => Ok(()),
            _ => Err(Status::unauthenticated("no proof")),
        }
    }

    fn describe(&self) -> v1::DescribeResponse {
        v1::DescribeResponse {
            name: "fake".into(),
            version: "1".into(),
            protocol: 1,
            instance_id: self.instance.clone(),
            ..v1::DescribeResponse::default()
        }
    }
}

fn sign(token: &[u8], context: &[u8], client: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(token).unwrap();
    mac.update(context);
    mac.update(client);
    mac.update(&NONCE);
    mac.finalize().into_bytes().to_vec()
}

#[tonic::async_trait]
impl runtime_server::Runtime for FakeServer {
    async fn execute(
        &self,
        request: Request<v1::ExecuteRequest>,
    ) -> Result<Response<v1::ExecuteResponse>, Status> {
        self.check(&request)?;
        let request = request.into_inner();
        let (id, at_once) = (request.id.clone(), {
            let mut state = self.state.lock().unwrap();
            if let Some(refusal) = state.refuse.pop() {
                return Err(refusal);
            }
            let status = v1::StatusResponse {
                id: request.id.clone(),
                state: v1::ExecutionState::Running.into(),
                started_at: jiff::Timestamp::now().as_microsecond(),
                attempt: request.attempt,
                assignment: request.assignment,
                ..v1::StatusResponse::default()
            };
            state.executions.insert(request.id.clone(), status.clone());
            let _ = self.events.send(status);
            state.requests.push(request);
            state.at_once
        });
        if at_once {
            self.finish(&id, 0, "hello\n", "");
        }
        Ok(Response::new(v1::ExecuteResponse { id }))
    }

    async fn status(
        &self,
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        self.check(&request)?;
        let state = self.state.lock().unwrap();
        let found = state.executions.get(&request.get_ref().id).cloned();
        found.map(Response::new).ok_or_else(|| Status::not_found("no such execution"))
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<v1::ListResponse>, Status> {
        self.check(&request)?;
        let entries = self.state.lock().unwrap().executions.values().cloned().collect();
        Ok(Response::new(v1::ListResponse { entries }))
    }

    async fn cancel(
        &self,
        request: Request<v1::CancelRequest>,
    ) -> Result<Response<v1::CancelResponse>, Status> {
        self.check(&request)?;
        let request = request.into_inner();
        let (id, known) = {
            let mut state = self.state.lock().unwrap();
            let id = request.id.clone();
            let cause = request.cause;
            state.cancels.push(request);
            let running = v1::ExecutionState::Running;
            let known = state.executions.get_mut(&id).filter(|execution| execution.state() == running);
            (id, known.map(|execution| execution.stop_cause = cause).is_some())
        };
        if known {
            self.finish(&id, 143, "", "");
        }
        Ok(Response::new(v1::CancelResponse {}))
    }

    async fn forget(
        &self,
        request: Request<v1::ForgetRequest>,
    ) -> Result<Response<v1::ForgetResponse>, Status> {
        self.check(&request)?;
        let id = request.into_inner().id;
        let mut state = self.state.lock().unwrap();
        let running =
            state.executions.get(&id).is_some_and(|there| there.state() == v1::ExecutionState::Running);
        if running {
            return Err(Status::failed_precondition("it runs"));
        }
        state.executions.remove(&id);
        state.forgotten.push(id);
        Ok(Response::new(v1::ForgetResponse {}))
    }

    async fn health(
        &self,
        _request: Request<v1::HealthRequest>,
    ) -> Result<Response<v1::HealthResponse>, Status> {
        let trouble = self.state.lock().unwrap().unhealthy.clone();
        let message = trouble.clone().unwrap_or_default();
        Ok(Response::new(v1::HealthResponse { healthy: trouble.is_none(), message }))
    }
}

type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl runtime_events_server::RuntimeEvents for FakeServer {
    type WatchStream = Events<v1::WatchEvent>;
    type LogsStream = Events<v1::LogChunk>;

    async fn authenticate(
        &self,
        request: Request<v1::AuthenticateRequest>,
    ) -> Result<Response<v1::AuthenticateResponse>, Status> {
        let client = request.into_inner().client_nonce;
        let mut state = self.state.lock().unwrap();
        let file = state.folder.as_ref().unwrap().join(TOKEN_FILE);
        if let Ok(text) = std::fs::read_to_string(&file) {
            std::fs::remove_file(&file).unwrap();
            let bytes = (0..32).map(|at| u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).unwrap());
            state.token = Some(bytes.collect());
        }
        let mut token = state.token.clone().ok_or_else(|| Status::unauthenticated("no token"))?;
        state.proof = Some(sign(&token, CLIENT_CONTEXT, &client));
        if state.impostor {
            token[0] ^= 1;
        }
        let server_proof = sign(&token, SERVER_CONTEXT, &client);
        Ok(Response::new(v1::AuthenticateResponse { server_nonce: NONCE.to_vec(), server_proof }))
    }

    async fn describe(
        &self,
        request: Request<v1::DescribeRequest>,
    ) -> Result<Response<v1::DescribeResponse>, Status> {
        self.check(&request)?;
        Ok(Response::new(self.describe()))
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.check(&request)?;
        let changes = BroadcastStream::new(self.events.subscribe());
        let executions = self.state.lock().unwrap().executions.values().cloned().collect();
        let snapshot = v1::Snapshot { executions, describe: Some(self.describe()) };
        let first = v1::watch_event::Event::Snapshot(snapshot);
        let rest = changes.filter_map(|status| async { status.ok().map(v1::watch_event::Event::Execution) });
        let (mut sequence, server) = (0, self.clone());
        let events = futures::stream::iter([first]).chain(rest).map(move |event| {
            sequence += 1 + u64::from(std::mem::take(&mut server.state.lock().unwrap().gap));
            Ok(v1::WatchEvent { sequence, instance_id: server.instance.clone(), event: Some(event) })
        });
        Ok(Response::new(Box::pin(events.take_until(self.stop.clone().cancelled_owned()))))
    }

    async fn logs(&self, request: Request<v1::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        self.check(&request)?;
        let request = request.into_inner();
        let server = self.clone();
        let chunks = async_chunks(server, request).take_until(self.stop.clone().cancelled_owned());
        Ok(Response::new(Box::pin(chunks)))
    }
}

/// Waits for the end and sends everything then.
fn async_chunks(
    server: FakeServer,
    request: v1::LogsRequest,
) -> impl Stream<Item = Result<v1::LogChunk, Status>> {
    futures::stream::once(async move {
        let ended = crate::tests::until("the end of an execution", || {
            let state = server.state.lock().unwrap();
            let found = state.executions.get(&request.id).cloned()?;
            (found.state() != v1::ExecutionState::Running).then_some(found)
        });
        let ended = ended.await;
        let chunk = |stream: v1::Stream, text: &str, from: u64| v1::LogChunk {
            stream: stream.into(),
            offset: from,
            data: text.as_bytes().get(usize::try_from(from).unwrap()..).unwrap_or_default().to_vec(),
            end: true,
        };
        futures::stream::iter([
            Ok(chunk(v1::Stream::Stdout, &ended.stdout, request.stdout_offset)),
            Ok(chunk(v1::Stream::Stderr, &ended.stderr, request.stderr_offset)),
        ])
    })
    .flatten()
}
