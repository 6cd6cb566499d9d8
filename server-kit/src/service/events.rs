//! What our servers offer beside the baseline: authentication, Describe, Watch and Logs.

use kruntimes_proto::v1::runtime_events_server::RuntimeEvents;
use kruntimes_proto::v1::{
    AuthenticateRequest, AuthenticateResponse, DescribeRequest, DescribeResponse, LogChunk, LogsRequest,
    WatchEvent, WatchRequest, watch_event::Event,
};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Service, fence, logs};

/// Messages on their way to a slow reader; behind them the event backlog fills.
const IN_FLIGHT: usize = 16;

#[tonic::async_trait]
impl RuntimeEvents for Service {
    type WatchStream = ReceiverStream<Result<WatchEvent, Status>>;
    type LogsStream = ReceiverStream<Result<LogChunk, Status>>;

    async fn authenticate(
        &self,
        request: Request<AuthenticateRequest>,
    ) -> Result<Response<AuthenticateResponse>, Status> {
        let Some(auth) = &self.auth else {
            return Err(Status::unimplemented("this server takes calls without a token"));
        };
        let answer = auth
            .authenticate(&request.get_ref().client_nonce, rand::random())
            .map_err(|error| Status::unauthenticated(error.to_string()))?;
        let (server_nonce, server_proof) = (answer.nonce.to_vec(), answer.proof.to_vec());
        Ok(Response::new(AuthenticateResponse { server_nonce, server_proof }))
    }

    async fn describe(
        &self,
        _request: Request<DescribeRequest>,
    ) -> Result<Response<DescribeResponse>, Status> {
        Ok(Response::new(self.engine.describe()))
    }

    async fn watch(&self, _request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (sender, stream) = mpsc::channel(IN_FLIGHT);
        let (snapshot, mut events) = self.engine.watch();
        let (stop, instance_id) = (self.stop.clone(), self.instance_id.to_string());
        tokio::spawn(async move {
            let mut sequence = 0;
            let mut next = Event::Snapshot(snapshot);
            loop {
                sequence += 1;
                let event = WatchEvent { sequence, instance_id: instance_id.clone(), event: Some(next) };
                if sender.send(Ok(event)).await.is_err() {
                    return;
                }
                next = tokio::select! {
                    // A reader that is gone, and a server that stops, end the stream; so does a reader
                    // that lies too far behind: it watches again and gets a snapshot.
                    () = sender.closed() => return,
                    event = events.recv() => match event {
                        Ok(event) => event.as_ref().clone(),
                        Err(RecvError::Lagged(_) | RecvError::Closed) => return,
                    },
                    () = stop.cancelled() => return,
                };
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn logs(&self, request: Request<LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let request = request.into_inner();
        let (run, ended) = self.engine.run(&request.id, fence(request.attempt, 0))?;
        let (sender, stream) = mpsc::channel(IN_FLIGHT);
        let engine = std::sync::Arc::clone(&self.engine);
        let stop = self.stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = logs::send(&engine, &run, ended, &request, &sender) => {}
                () = sender.closed() => {}
                () = stop.cancelled() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
