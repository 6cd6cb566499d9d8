//! A baseline server: six calls over TCP, polled.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use kruntimes_core::ids::{Fence, RunUid};
use kruntimes_proto::v1::runtime_client::RuntimeClient as RuntimeRpc;
use kruntimes_proto::v1::{self, StopCause};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Channel;

use super::{
    CALL_LIMIT, CallError, EXECUTE_LIMIT, Execution, ExecutionState, HEALTH_LIMIT, Instance, LogPiece,
    LogStream, Offsets, RuntimeClient, ServerEvent, Session, StreamName, bounded,
};

/// Between two polls of one execution: the first, growing to the longest.
const POLL: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Messages of a baseline server hold whole outputs, in `List` those of every execution.
const MAX_MESSAGE: usize = 256 << 20;
/// Kept of each stream as a tail.
const TAIL: usize = 64 << 10;

/// The output of one execution, as far as it was polled.
#[derive(Debug, Clone, Default)]
struct Output {
    stdout: Arc<str>,
    stderr: Arc<str>,
    ended: bool,
}

struct Baseline {
    rpc: RuntimeRpc<Channel>,
    outputs: Arc<Outputs>,
    /// One task per execution that was not forgotten; they end with the session.
    polls: Mutex<HashMap<RunUid, AbortOnDropHandle<()>>>,
    events: mpsc::Sender<ServerEvent>,
    stop: CancellationToken,
}

type Outputs = Mutex<HashMap<RunUid, watch::Sender<Output>>>;

/// Starts a session with what `List` tells.
///
/// # Errors
/// When the server does not answer.
pub async fn connect(channel: Channel) -> Result<Session, CallError> {
    let mut rpc = RuntimeRpc::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let list = bounded("List", CALL_LIMIT, rpc.list(v1::ListRequest {})).await?;
    let (events, receiver) = mpsc::channel(64);
    let stop = CancellationToken::new();
    let client =
        Baseline { rpc, outputs: Arc::default(), polls: Mutex::default(), events, stop: stop.clone() };
    let mut executions = Vec::with_capacity(list.entries.len());
    for status in list.entries {
        let id = RunUid::from(status.id.as_str());
        let execution = client.take(&id, status);
        if !matches!(execution.state, ExecutionState::Ended(_)) {
            client.poll(id);
        }
        executions.push(execution);
    }
    Ok(Session {
        client: Arc::new(client),
        executions,
        describe: None,
        events: ReceiverStream::new(receiver).boxed(),
        guard: stop.drop_guard(),
    })
}

impl Baseline {
    /// Keeps the output of a status and gives the rest.
    fn take(&self, id: &RunUid, status: v1::StatusResponse) -> Execution {
        take(&self.outputs, id, status)
    }

    fn poll(&self, id: RunUid) {
        let (rpc, outputs, events) = (self.rpc.clone(), Arc::clone(&self.outputs), self.events.clone());
        let (stop, polled) = (self.stop.clone(), id.clone());
        let task = tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = poll(rpc, outputs, events, polled) => {}
            }
        });
        self.polls.lock().unwrap_or_else(PoisonError::into_inner).insert(id, AbortOnDropHandle::new(task));
    }
}

async fn poll(
    mut rpc: RuntimeRpc<Channel>,
    outputs: Arc<Outputs>,
    events: mpsc::Sender<ServerEvent>,
    id: RunUid,
) {
    let mut pause = POLL.0;
    let mut told = None;
    loop {
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(POLL.1);
        let request = v1::StatusRequest { id: id.to_string(), ..v1::StatusRequest::default() };
        let event = match bounded("Status", CALL_LIMIT, rpc.status(request)).await {
            Ok(status) => {
                let execution = take(&outputs, &id, status);
                let state = std::mem::discriminant(&execution.state);
                if told.replace(state) == Some(state) {
                    continue;
                }
                ServerEvent::Execution(Box::new(execution))
            }
            Err(error) if error.is_not_found() => {
                // Nothing more will be printed.
                if let Some(output) = outputs.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
                    output.send_modify(|output| output.ended = true);
                }
                ServerEvent::Missing(id.clone())
            }
            // Whether the server is still there is for its health to say.
            Err(_) => continue,
        };
        let last = match &event {
            ServerEvent::Execution(execution) => matches!(execution.state, ExecutionState::Ended(_)),
            _ => true,
        };
        if events.send(event).await.is_err() || last {
            return;
        }
    }
}

fn take(outputs: &Outputs, id: &RunUid, mut status: v1::StatusResponse) -> Execution {
    let output = Output {
        stdout: std::mem::take(&mut status.stdout).into(),
        stderr: std::mem::take(&mut status.stderr).into(),
        ended: matches!(status.state(), v1::ExecutionState::Succeeded | v1::ExecutionState::Failed),
    };
    status.stdout = tail(&output.stdout);
    status.stderr = tail(&output.stderr);
    let mut outputs = outputs.lock().unwrap_or_else(PoisonError::into_inner);
    outputs.entry(id.clone()).or_insert_with(|| watch::Sender::new(Output::default())).send_replace(output);
    // What a baseline server says of attempts is nothing, whatever the fields hold.
    status.attempt = 0;
    Execution::from(status)
}

fn tail(text: &str) -> String {
    crate::text::last_bytes(text, TAIL).to_owned()
}

#[async_trait]
impl RuntimeClient for Baseline {
    fn instance(&self) -> &Instance {
        &Instance::Baseline
    }

    async fn execute(&self, request: v1::ExecuteRequest) -> Result<(), CallError> {
        let id = RunUid::from(request.id.as_str());
        bounded("Execute", EXECUTE_LIMIT, self.rpc.clone().execute(request)).await?;
        let mut outputs = self.outputs.lock().unwrap_or_else(PoisonError::into_inner);
        outputs.insert(id.clone(), watch::Sender::new(Output::default()));
        drop(outputs);
        self.poll(id);
        Ok(())
    }

    async fn cancel(&self, fence: &Fence, _cause: StopCause, _grace: Duration) -> Result<(), CallError> {
        let request = v1::CancelRequest { id: fence.run.to_string(), ..v1::CancelRequest::default() };
        bounded("Cancel", CALL_LIMIT, self.rpc.clone().cancel(request)).await.map(drop)
    }

    async fn forget(&self, fence: &Fence) -> Result<(), CallError> {
        let request = v1::ForgetRequest { id: fence.run.to_string(), ..v1::ForgetRequest::default() };
        match bounded("Forget", CALL_LIMIT, self.rpc.clone().forget(request)).await {
            Err(error)
                if error.answered
                    && matches!(error.code, tonic::Code::NotFound | tonic::Code::Unimplemented) => {}
            other => drop(other?),
        }
        self.polls.lock().unwrap_or_else(PoisonError::into_inner).remove(&fence.run);
        self.outputs.lock().unwrap_or_else(PoisonError::into_inner).remove(&fence.run);
        Ok(())
    }

    async fn status(&self, fence: &Fence) -> Result<Execution, CallError> {
        let request = v1::StatusRequest { id: fence.run.to_string(), ..v1::StatusRequest::default() };
        let status = bounded("Status", CALL_LIMIT, self.rpc.clone().status(request)).await?;
        Ok(self.take(&fence.run, status))
    }

    async fn health(&self) -> Result<Result<(), String>, CallError> {
        match bounded("Health", HEALTH_LIMIT, self.rpc.clone().health(v1::HealthRequest {})).await {
            Ok(health) if health.healthy => Ok(Ok(())),
            Ok(health) => Ok(Err(health.message)),
            // It answers, which is as much as an older server can say.
            Err(error) if error.answered && error.code == tonic::Code::Unimplemented => Ok(Ok(())),
            Err(error) => Err(error),
        }
    }

    async fn logs(&self, fence: &Fence, from: Offsets) -> Result<LogStream, CallError> {
        let outputs = self.outputs.lock().unwrap_or_else(PoisonError::into_inner);
        let receiver = outputs.get(&fence.run).map(watch::Sender::subscribe);
        drop(outputs);
        let Some(receiver) = receiver else {
            return Ok(futures::stream::empty().boxed());
        };
        let pieces = futures::stream::unfold((receiver, from), |(mut receiver, mut at)| async move {
            loop {
                let output = receiver.borrow_and_update().clone();
                if let Some(piece) = suffix(&output, &mut at) {
                    return Some((Ok(piece), (receiver, at)));
                }
                if output.ended || receiver.changed().await.is_err() {
                    return None;
                }
            }
        });
        Ok(pieces.boxed())
    }
}

/// What of `output` lies beyond `at`, one stream at a time.
fn suffix(output: &Output, at: &mut Offsets) -> Option<LogPiece> {
    for (stream, text) in [(StreamName::Stdout, &output.stdout), (StreamName::Stderr, &output.stderr)] {
        let from = match stream {
            StreamName::Stdout => &mut at.stdout,
            StreamName::Stderr => &mut at.stderr,
        };
        let start = usize::try_from(*from).unwrap_or(usize::MAX);
        if let Some(data) = text.as_bytes().get(start..).filter(|data| !data.is_empty()) {
            let offset = *from;
            *from += data.len() as u64;
            return Some(LogPiece { stream, offset, data: data.to_vec() });
        }
    }
    None
}
