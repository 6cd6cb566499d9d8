//! A server of ours: everything is pushed.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use kruntimes_core::ids::Fence;
use kruntimes_proto::v1::runtime_client::RuntimeClient as RuntimeRpc;
use kruntimes_proto::v1::runtime_events_client::RuntimeEventsClient as EventsRpc;
use kruntimes_proto::v1::{self, StopCause, watch_event};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use super::auth::Proof;
use super::{
    CALL_LIMIT, CallError, EXECUTE_LIMIT, Execution, HEALTH_LIMIT, Instance, LogPiece, LogStream, Offsets,
    RuntimeClient, ServerEvent, Session, bounded, convert,
};

type Service = InterceptedService<Channel, Proof>;

struct Native {
    instance: Instance,
    runtime: RuntimeRpc<Service>,
    /// On a connection of its own: output that nobody takes must not hold up anything else.
    logs: EventsRpc<Service>,
}

/// Starts a session: watches, and takes the snapshot.
///
/// # Errors
/// When the server does not answer, or its stream does not begin with a snapshot.
pub async fn connect(channel: Channel, logs: Channel, proof: Proof) -> Result<Session, CallError> {
    let mut events = EventsRpc::with_interceptor(channel.clone(), proof.clone());
    let mut stream = bounded("Watch", CALL_LIMIT, events.watch(v1::WatchRequest {})).await?;
    let first = Opening::read(&mut stream).await?;
    let instance = Instance::Native(first.instance);
    let client = Arc::new(Native {
        instance,
        runtime: RuntimeRpc::with_interceptor(channel, proof.clone()),
        logs: EventsRpc::with_interceptor(logs, proof),
    });
    let (sender, receiver) = mpsc::channel(64);
    let stop = CancellationToken::new();
    let guard = stop.clone().drop_guard();
    let reader =
        Reader { events, stream, sequence: first.sequence, instance: client.instance.clone(), sender };
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = reader.run() => {}
        }
    });
    Ok(Session {
        client,
        executions: first.executions,
        describe: first.describe,
        events: ReceiverStream::new(receiver).boxed(),
        guard,
    })
}

/// The first event of a stream.
struct Opening {
    sequence: u64,
    instance: String,
    executions: Vec<Execution>,
    describe: Option<v1::DescribeResponse>,
}

impl Opening {
    async fn read(stream: &mut tonic::Streaming<v1::WatchEvent>) -> Result<Self, CallError> {
        let message = tokio::time::timeout(CALL_LIMIT, stream.message())
            .await
            .map_err(|_| CallError::timed_out("Watch", CALL_LIMIT))?
            .map_err(|status| CallError::of("Watch", &status))?;
        let sequence = message.as_ref().map_or(0, |event| event.sequence);
        match message {
            Some(v1::WatchEvent {
                instance_id, event: Some(watch_event::Event::Snapshot(snapshot)), ..
            }) => Ok(Self {
                sequence,
                instance: instance_id,
                executions: snapshot.executions.into_iter().map(Execution::from).collect(),
                describe: snapshot.describe,
            }),
            _ => Err(CallError {
                call: "Watch",
                code: tonic::Code::DataLoss,
                message: "the stream does not begin with a snapshot".into(),
                answered: true,
                sent: true,
            }),
        }
    }
}

/// Forwards the event stream; a gap in it starts it anew.
struct Reader {
    events: EventsRpc<Service>,
    stream: tonic::Streaming<v1::WatchEvent>,
    sequence: u64,
    instance: Instance,
    sender: mpsc::Sender<ServerEvent>,
}

impl Reader {
    async fn run(mut self) {
        while let Ok(Some(event)) = self.stream.message().await {
            // Another instance under the same connection is a new server: connect anew.
            if Instance::Native(event.instance_id) != self.instance {
                return;
            }
            let expected = self.sequence + 1;
            self.sequence = event.sequence;
            if event.sequence != expected {
                tracing::warn!(expected, got = event.sequence, "gap in the event stream, watching again");
                if self.watch_again().await.is_none() {
                    return;
                }
                continue;
            }
            let forwarded = match event.event {
                Some(watch_event::Event::Snapshot(snapshot)) => {
                    ServerEvent::Snapshot(snapshot.executions.into_iter().map(Execution::from).collect())
                }
                Some(watch_event::Event::Execution(status)) => {
                    ServerEvent::Execution(Box::new(status.into()))
                }
                Some(watch_event::Event::Inventory(describe)) => ServerEvent::Inventory(Box::new(describe)),
                None => continue,
            };
            if self.sender.send(forwarded).await.is_err() {
                return;
            }
        }
    }

    async fn watch_again(&mut self) -> Option<()> {
        let mut stream = bounded("Watch", CALL_LIMIT, self.events.watch(v1::WatchRequest {})).await.ok()?;
        let first = Opening::read(&mut stream).await.ok()?;
        if Instance::Native(first.instance) != self.instance {
            return None;
        }
        self.stream = stream;
        self.sequence = first.sequence;
        if let Some(describe) = first.describe {
            self.sender.send(ServerEvent::Inventory(Box::new(describe))).await.ok()?;
        }
        self.sender.send(ServerEvent::Snapshot(first.executions)).await.ok()
    }
}

#[async_trait]
impl RuntimeClient for Native {
    fn instance(&self) -> &Instance {
        &self.instance
    }

    async fn execute(&self, request: v1::ExecuteRequest) -> Result<(), CallError> {
        bounded("Execute", EXECUTE_LIMIT, self.runtime.clone().execute(request)).await.map(drop)
    }

    async fn cancel(&self, fence: &Fence, cause: StopCause, grace: Duration) -> Result<(), CallError> {
        let (attempt, assignment) = wire(fence);
        let request = v1::CancelRequest {
            id: fence.run.to_string(),
            attempt,
            assignment,
            grace_seconds: u32::try_from(grace.as_secs()).unwrap_or(u32::MAX),
            cause: cause.into(),
        };
        bounded("Cancel", CALL_LIMIT, self.runtime.clone().cancel(request)).await.map(drop)
    }

    async fn forget(&self, fence: &Fence) -> Result<(), CallError> {
        let (attempt, assignment) = wire(fence);
        let request = v1::ForgetRequest { id: fence.run.to_string(), attempt, assignment };
        bounded("Forget", CALL_LIMIT, self.runtime.clone().forget(request)).await.map(drop)
    }

    async fn status(&self, fence: &Fence) -> Result<Execution, CallError> {
        let (attempt, assignment) = wire(fence);
        let request = v1::StatusRequest { id: fence.run.to_string(), attempt, assignment };
        bounded("Status", CALL_LIMIT, self.runtime.clone().status(request)).await.map(Execution::from)
    }

    async fn health(&self) -> Result<Result<(), String>, CallError> {
        let health =
            bounded("Health", HEALTH_LIMIT, self.runtime.clone().health(v1::HealthRequest {})).await?;
        Ok(if health.healthy { Ok(()) } else { Err(health.message) })
    }

    async fn logs(&self, fence: &Fence, from: Offsets) -> Result<LogStream, CallError> {
        let request = v1::LogsRequest {
            id: fence.run.to_string(),
            attempt: wire(fence).0,
            stdout_offset: from.stdout,
            stderr_offset: from.stderr,
            follow: true,
        };
        let stream = bounded("Logs", CALL_LIMIT, self.logs.clone().logs(request)).await?;
        let pieces = stream.filter_map(|chunk| async {
            match chunk {
                Ok(chunk) => {
                    let stream = convert::stream_name(chunk.stream())?;
                    (!chunk.data.is_empty()).then_some(Ok(LogPiece {
                        stream,
                        offset: chunk.offset,
                        data: chunk.data,
                    }))
                }
                Err(status) => Some(Err(CallError::of("Logs", &status))),
            }
        });
        Ok(pieces.boxed())
    }
}

/// Attempt and assignment on the wire; 0 means whichever there is.
fn wire(fence: &Fence) -> (u32, u64) {
    (u32::try_from(fence.attempt).unwrap_or(0), u64::try_from(fence.assignment).unwrap_or(0))
}
