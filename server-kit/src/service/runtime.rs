//! The baseline's six calls.

use kruntimes_proto::v1::runtime_server::Runtime;
use kruntimes_proto::v1::{
    CancelRequest, CancelResponse, ExecuteRequest, ExecuteResponse, ForgetRequest, ForgetResponse,
    HealthRequest, HealthResponse, ListRequest, ListResponse, StatusRequest, StatusResponse,
};
use tonic::{Request, Response, Status};

use super::{Service, fence, seconds};
use crate::engine::CallError;
use crate::table::Refusal;

#[tonic::async_trait]
impl Runtime for Service {
    async fn execute(&self, request: Request<ExecuteRequest>) -> Result<Response<ExecuteResponse>, Status> {
        let request = request.into_inner();
        let id = request.id.clone();
        self.engine.execute(request).await?;
        Ok(Response::new(ExecuteResponse { id }))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let request = request.into_inner();
        let status = self.engine.status(&request.id, fence(request.attempt, request.assignment))?;
        Ok(Response::new(status))
    }

    async fn list(&self, _request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        Ok(Response::new(ListResponse { entries: self.engine.list() }))
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Result<Response<CancelResponse>, Status> {
        let request = request.into_inner();
        let fence = fence(request.attempt, request.assignment);
        self.engine.cancel(&request.id, fence, request.cause(), seconds(request.grace_seconds))?;
        Ok(Response::new(CancelResponse {}))
    }

    async fn forget(&self, request: Request<ForgetRequest>) -> Result<Response<ForgetResponse>, Status> {
        let request = request.into_inner();
        let fence = fence(request.attempt, request.assignment);
        match self.engine.forget(&request.id, fence) {
            Err(CallError::Refused(refusal @ Refusal::StillRunning { .. })) => {
                Err(Status::failed_precondition(refusal.to_string()))
            }
            other => Ok(other.map(|()| Response::new(ForgetResponse {}))?),
        }
    }

    async fn health(&self, _request: Request<HealthRequest>) -> Result<Response<HealthResponse>, Status> {
        let (healthy, message) = match self.engine.health().await {
            Ok(()) => (true, String::new()),
            Err(message) => (false, message),
        };
        Ok(Response::new(HealthResponse { healthy, message }))
    }
}
