//! The API over HTTP: who asks (a bearer token), for what (the path), and how (the verb).

pub mod form;
mod protobuf;
mod query;
mod read;
mod reviews;
mod target;
mod writes;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, StatusCode, header};
use serde_json::{Value, json};

use super::errors::ApiError;
use super::{Api, discovery, openapi};
use crate::faults::FaultPlan;
use query::Query;
use target::Target;

/// Largest request body, as in the API server.
const BODY_LIMIT: usize = 3 * 1024 * 1024;

/// Requests served, by `VERB resource` and the client's name (the first word of its User-Agent).
pub type RequestCounts = BTreeMap<String, BTreeMap<String, u64>>;

/// What the handlers share.
pub struct Server {
    pub api: Arc<Api>,
    token: String,
    plays_faults: bool,
    counts: Mutex<RequestCounts>,
}

impl Server {
    /// `plays_faults`: whether faults can be ordered over HTTP.
    pub fn new(api: Arc<Api>, token: String, plays_faults: bool) -> Self {
        Self { api, token, plays_faults, counts: Mutex::default() }
    }

    /// Requests served since the start.
    pub fn counts(&self) -> RequestCounts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count(&self, verb: &str, resource: &str, headers: &HeaderMap) {
        let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("unknown");
        let client = agent.split([' ', '/']).next().unwrap_or(agent).to_owned();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(client).or_default().entry(format!("{verb} {resource}")).or_default() += 1;
    }

    fn authorized(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let given = given.strip_prefix("Bearer ").unwrap_or_default().as_bytes();
        // Every byte is looked at, so that the time taken tells nothing about the token.
        let differing = given.iter().zip(self.token.as_bytes()).fold(0, |sum, (a, b)| sum | (a ^ b));
        given.len() == self.token.len() && differing == 0
    }
}

/// The service for one platform.
pub fn router(server: Arc<Server>) -> Router {
    Router::new().fallback(handle).with_state(server)
}

async fn handle(State(server): State<Arc<Server>>, request: Request) -> Response {
    match answer(&server, request).await {
        Ok(response) => response,
        Err(error) => failure(&error),
    }
}

fn failure(error: &ApiError) -> Response {
    let code = StatusCode::from_u16(error.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json_response(code, &error.to_status())
}

fn json_response(code: StatusCode, body: &Value) -> Response {
    bytes_response(code, body.to_string().into())
}

fn bytes_response(code: StatusCode, body: Bytes) -> Response {
    (code, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// One request, with what handlers need of it.
struct Call<'a> {
    server: &'a Arc<Server>,
    method: Method,
    headers: HeaderMap,
    query: Query,
    body: Bytes,
}

impl Call<'_> {
    fn header(&self, name: header::HeaderName) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }

    /// The body as JSON; YAML is taken too, as kubectl's raw requests may send it.
    fn json(&self) -> Result<Value, ApiError> {
        let bad = |e: &dyn std::fmt::Display| ApiError::BadRequest(format!("the body does not parse: {e}"));
        let kind = self.header(header::CONTENT_TYPE);
        match kind.split(';').next().unwrap_or_default().trim() {
            "" | "application/json" => serde_json::from_slice(&self.body).map_err(|e| bad(&e)),
            "application/yaml" => serde_yaml::from_slice(&self.body).map_err(|e| bad(&e)),
            protobuf::MEDIA_TYPE => protobuf::decode(&self.body),
            _ => Err(ApiError::UnsupportedMediaType("application/json, application/yaml")),
        }
    }
}

async fn answer(server: &Arc<Server>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().trim_matches('/').to_owned();
    if matches!(path.as_str(), "healthz" | "livez" | "readyz") {
        return Ok((StatusCode::OK, "ok").into_response());
    }
    if !server.authorized(&parts.headers) {
        return Err(ApiError::Unauthorized);
    }
    let body = to_bytes(body, BODY_LIMIT).await.map_err(|_| ApiError::TooLarge(BODY_LIMIT))?;
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let call = Call { server, method: parts.method, headers: parts.headers, query, body };
    if let Some(answer) = fixed(&call, &path)? {
        return Ok(answer);
    }
    let target = Target::parse(&server.api.kinds, &path)?;
    let resource = target.resource();
    server.count(target.verb(&call.method, &call.query), &resource, &call.headers);
    let faults = &server.api.faults;
    // A sleep of nothing still waits for the next tick of the timer, a millisecond.
    if let Some(latency) = faults.latency() {
        tokio::time::sleep(latency).await;
    }
    if faults.take_error(&resource) {
        return Err(ApiError::Internal("a fault was asked for".into()));
    }
    if call.method == Method::GET || call.method == Method::HEAD {
        return read::answer(&call, &target).await;
    }
    if faults.take_conflict(&resource) {
        let name = target.name.clone().unwrap_or_default();
        return Err(super::write::conflict(&target.kind, &name, "a fault was asked for"));
    }
    writes::answer(&call, &target).await
}

/// The paths that are no objects.
fn fixed(call: &Call<'_>, path: &str) -> Result<Option<Response>, ApiError> {
    let kinds = &call.server.api.kinds;
    let parts: Vec<_> = path.split('/').collect();
    if let ["apis", "authorization.k8s.io" | "authentication.k8s.io", "v1", review] = parts[..]
        && call.method == Method::POST
    {
        return reviews::answer(review, call.json()?).map(Some);
    }
    if let ["debug", what @ ..] = &parts[..] {
        return debug(call, what).map(Some);
    }
    if call.method != Method::GET {
        return Ok(None);
    }
    let document = match parts[..] {
        ["version"] => Some(discovery::version()),
        ["api"] => Some(discovery::core_versions()),
        ["apis"] => Some(discovery::groups(kinds)),
        ["apis", group] => discovery::group(kinds, group),
        ["api", version] => discovery::resources(kinds, "", version),
        ["apis", group, version] => discovery::resources(kinds, group, version),
        ["openapi", "v3"] => Some(openapi::index(kinds)),
        ["openapi", "v3", "api", version] => openapi::document(kinds, "", version),
        ["openapi", "v3", "apis", group, version] => openapi::document(kinds, group, version),
        _ => return Ok(None),
    };
    match document {
        Some(document) => Ok(Some(json_response(StatusCode::OK, &document))),
        None => Err(ApiError::UnknownPath),
    }
}

/// `/debug/faults` (GET, PUT a [`FaultPlan`]), `/debug/faults/close-watches`,
/// `/debug/faults/forget-history` (POST), all of them only where that was asked for; `/debug/requests` (GET).
fn debug(call: &Call<'_>, what: &[&str]) -> Result<Response, ApiError> {
    let api = &call.server.api;
    let ok = |value: Value| Ok(json_response(StatusCode::OK, &value));
    match (&call.method, what) {
        (_, ["faults", ..]) if !call.server.plays_faults => Err(ApiError::UnknownPath),
        (&Method::GET, ["faults"]) => ok(json!(api.faults.plan())),
        (&Method::PUT, ["faults"]) => {
            let plan: FaultPlan =
                serde_json::from_value(call.json()?).map_err(|e| ApiError::BadRequest(e.to_string()))?;
            api.faults.set(plan.clone());
            ok(json!(plan))
        }
        (&Method::POST, ["faults", "close-watches"]) => {
            api.faults.close_watches();
            ok(json!({}))
        }
        (&Method::POST, ["faults", "forget-history"]) => {
            api.store.forget_history();
            ok(json!({}))
        }
        (&Method::GET, ["requests"]) => ok(json!(call.server.counts())),
        _ => Err(ApiError::UnknownPath),
    }
}

/// A response whose body comes bit by bit.
fn streamed(
    content_type: &'static str,
    stream: impl futures::Stream<Item = Result<Bytes, std::convert::Infallible>> + Send + 'static,
) -> Response {
    (StatusCode::OK, [(header::CONTENT_TYPE, content_type)], Body::from_stream(stream)).into_response()
}
