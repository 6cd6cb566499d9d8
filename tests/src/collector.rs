//! A collector for traces: takes what comes over OTLP and keeps it for the test to look at.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// A span that was told.
#[derive(Debug, Clone)]
pub struct Told {
    /// The program.
    pub service: String,
    /// Its name.
    pub name: String,
    /// Id of its trace, 32 hex digits.
    pub trace: String,
    /// Its own id, 16 hex digits.
    pub id: String,
    /// Id of what it is below; empty at the root.
    pub parent: String,
    /// Start and end in nanoseconds since 1970.
    pub times: (u64, u64),
    /// What it says.
    pub attributes: BTreeMap<String, String>,
    /// Why it failed; empty when it did not.
    pub failure: String,
}

/// The collector; it ends when it is dropped.
pub struct Collector {
    address: String,
    shared: Arc<Shared>,
    _runtime: tokio::runtime::Runtime,
}

#[derive(Default)]
struct Shared {
    told: Mutex<Vec<Told>>,
    mute: AtomicBool,
}

impl Collector {
    /// Listens on a free port of the loopback.
    ///
    /// # Errors
    /// When it cannot.
    pub fn start() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener =
            runtime.block_on(TcpListener::bind("127.0.0.1:0")).context("a port for the collector")?;
        let address = format!("http://{}", listener.local_addr()?);
        let shared = Arc::new(Shared::default());
        let service = TraceServiceServer::from_arc(Arc::clone(&shared));
        let server = tonic::transport::Server::builder().add_service(service);
        runtime.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Ok(Self { address, shared, _runtime: runtime })
    }

    /// `http://IP:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// From now on it takes calls and never answers; or it answers again.
    pub fn mute(&self, mute: bool) {
        self.shared.mute.store(mute, Ordering::Relaxed);
    }

    /// What was told of a trace so far, the earliest first.
    pub fn trace(&self, id: &str) -> Vec<Told> {
        let told = self.shared.told.lock().unwrap_or_else(PoisonError::into_inner);
        let mut spans: Vec<_> = told.iter().filter(|span| span.trace == id).cloned().collect();
        spans.sort_by_key(|span| span.times);
        spans
    }
}

#[tonic::async_trait]
impl TraceService for Shared {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        if self.mute.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let spans = request.into_inner().resource_spans.into_iter().flat_map(|resource| {
            let about = resource.resource.unwrap_or_default().attributes;
            let service = attributes(about).remove("service.name").unwrap_or_default();
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans.map(move |span| Told {
                service: service.clone(),
                name: span.name,
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                times: (span.start_time_unix_nano, span.end_time_unix_nano),
                attributes: attributes(span.attributes),
                failure: span.status.map(|status| status.message).unwrap_or_default(),
            })
        });
        self.told.lock().unwrap_or_else(PoisonError::into_inner).extend(spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn attributes(given: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::DoubleValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    given.into_iter().map(|one| (one.key, text(one.value))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The trace as a tree, with times in milliseconds from its beginning.
pub fn tree(spans: &[Told]) -> String {
    let Some(begin) = spans.iter().map(|span| span.times.0).min() else { return String::new() };
    let known = |id: &str| spans.iter().any(|span| span.id == id);
    let mut text = String::new();
    let mut open: Vec<_> =
        spans.iter().rev().filter(|span| !known(&span.parent)).map(|span| (0, span)).collect();
    while let Some((depth, span)) = open.pop() {
        let millis = |time: u64| time.saturating_sub(begin) as f64 / 1e6;
        let what = format!("{:indent$}{} {}", "", span.service, span.name, indent = 2 * depth);
        let (start, length) = (millis(span.times.0), millis(span.times.1) - millis(span.times.0));
        // Writing to a string does not fail.
        let _ = writeln!(text, "{what:<28}{start:>8.1} ms {length:>8.1} ms");
        let below = spans.iter().rev().filter(|other| other.parent == span.id);
        open.extend(below.map(|other| (depth + 1, other)));
    }
    text
}
