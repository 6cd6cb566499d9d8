//! The way of spans to a collector.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::InstrumentationScope;
use opentelemetry::KeyValue;
use opentelemetry_otlp::{RetryPolicy, SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanExporter as _;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use crate::Span;

/// Variable with the address of the collector, `http://HOST:PORT`. Absent or empty: no traces.
pub const ENDPOINT_ENV: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// How long [`Traces::flush`] waits at most.
pub const FLUSH: Duration = Duration::from_secs(1);

/// Spans that wait for the collector at most, about a megabyte of them.
const QUEUE: usize = 2048;
/// Spans in one request at most.
const BATCH: usize = 512;
/// How long a span waits for others to go with.
const AGE: Duration = Duration::from_secs(1);
/// A connection that broke unseen costs one try.
const RETRIES: usize = 1;
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Where spans are told; cloning shares it. By default nowhere.
#[derive(Clone, Debug, Default)]
pub struct Traces {
    to: Option<Queue>,
}

#[derive(Clone, Debug)]
struct Queue {
    sender: mpsc::Sender<Message>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Message {
    Span(Box<Span>),
    /// Dropped when everything before it is sent or given up.
    Flush(oneshot::Sender<()>),
}

impl Traces {
    /// To the collector that [`ENDPOINT_ENV`] names; nowhere without it. An address that cannot be used is an error in
    /// the log: traces never keep a program from its work. Must be called within a tokio runtime.
    #[must_use]
    pub fn from_environment(component: &str) -> Self {
        match std::env::var(ENDPOINT_ENV) {
            Ok(endpoint) if !endpoint.is_empty() => Self::start(component, &endpoint),
            _ => Self::default(),
        }
    }

    /// To the collector at `endpoint`, as the service `component`. Must be called within a tokio runtime.
    #[must_use]
    pub fn start(component: &str, endpoint: &str) -> Self {
        let exporter = match exporter(component, endpoint) {
            Ok(exporter) => exporter,
            Err(error) => {
                tracing::error!(endpoint, error, "no traces: the address in {ENDPOINT_ENV} cannot be used");
                return Self::default();
            }
        };
        let (sender, queue) = mpsc::channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let to = Sending { exporter, endpoint: endpoint.to_owned(), dropped: Arc::clone(&dropped), lost: 0 };
        tokio::spawn(to.run(queue));
        tracing::info!(endpoint, "traces are on");
        Self { to: Some(Queue { sender, dropped }) }
    }

    /// To whoever holds the other end: for tests of those who record.
    #[must_use]
    pub fn recorded() -> (Self, Recorded) {
        let (sender, queue) = mpsc::channel(QUEUE);
        (Self { to: Some(Queue { sender, dropped: Arc::default() }) }, Recorded { queue })
    }

    /// Whether anybody wants spans: without, nothing need be gathered for them.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.to.is_some()
    }

    /// Tells a span, if its trace is wanted. Never waits: where there is no room it is dropped and counted.
    pub fn record(&self, span: Span) {
        let Some(queue) = self.to.as_ref().filter(|_| span.is_sampled()) else { return };
        if queue.sender.try_send(Message::Span(Box::new(span))).is_err() {
            queue.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until what was recorded is sent or given up, and for at most [`FLUSH`]: for the end of a program.
    pub async fn flush(&self) {
        let Some(queue) = &self.to else { return };
        let done = async {
            let (flush, flushed) = oneshot::channel();
            if queue.sender.send(Message::Flush(flush)).await.is_ok() {
                // That it is dropped is the answer.
                let _ = flushed.await;
            }
        };
        if timeout(FLUSH, done).await.is_err() {
            tracing::warn!("the last spans were not taken in time and are lost");
        }
    }
}

/// What [`Traces::recorded`] was told.
#[derive(Debug)]
pub struct Recorded {
    queue: mpsc::Receiver<Message>,
}

impl Recorded {
    /// The spans since the last call.
    pub fn take(&mut self) -> Vec<Span> {
        let messages = std::iter::from_fn(|| self.queue.try_recv().ok());
        let spans = messages.filter_map(|message| match message {
            Message::Span(span) => Some(*span),
            Message::Flush(_) => None,
        });
        spans.collect()
    }
}

fn exporter(component: &str, endpoint: &str) -> Result<SpanExporter, String> {
    if !endpoint.starts_with("http://") {
        return Err("must have the form http://HOST:PORT (gRPC without TLS)".to_owned());
    }
    let retry = RetryPolicy::disabled()
        .with_max_retries(RETRIES)
        .with_initial_delay(RETRY_PAUSE)
        .with_max_delay(RETRY_PAUSE);
    let mut exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_retry_policy(retry)
        .build()
        .map_err(|error| error.to_string())?;
    // What OTEL_RESOURCE_ATTRIBUTES says is in it already.
    let resource = Resource::builder()
        .with_service_name(component.to_owned())
        .with_attribute(KeyValue::new("service.namespace", "kruntimes"))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    exporter.set_resource(&resource);
    Ok(exporter)
}

/// The task that sends.
struct Sending {
    exporter: SpanExporter,
    endpoint: String,
    /// Those that found no room.
    dropped: Arc<AtomicU64>,
    /// Those that were not taken since the collector took some.
    lost: u64,
}

impl Sending {
    /// Until nobody can record any more.
    async fn run(mut self, mut queue: mpsc::Receiver<Message>) {
        let scope =
            InstrumentationScope::builder("kruntimes").with_version(env!("CARGO_PKG_VERSION")).build();
        while let Some(first) = queue.recv().await {
            let until = Instant::now() + AGE;
            let mut batch = Vec::new();
            let mut next = Some(first);
            // Held until the batch is sent.
            let mut flush = None;
            while let Some(message) = next.take() {
                match message {
                    Message::Span(span) => batch.push(span.data(scope.clone())),
                    Message::Flush(asked) => {
                        flush = Some(asked);
                        break;
                    }
                }
                if batch.len() < BATCH {
                    next = timeout_at(until, queue.recv()).await.ok().flatten();
                }
            }
            if !batch.is_empty() {
                let spans = batch.len() as u64;
                let result = self.exporter.export(batch).await;
                self.tell(spans, result.err().map(|error| error.to_string()));
            }
            drop(flush);
        }
    }

    /// One line when the collector begins to take nothing, and one when it takes again.
    fn tell(&mut self, spans: u64, error: Option<String>) {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        match error {
            Some(error) => {
                if self.lost == 0 {
                    let endpoint = &self.endpoint;
                    tracing::warn!(endpoint, %error, "the collector does not take spans; they are dropped");
                }
                self.lost += spans + dropped;
            }
            None if self.lost + dropped > 0 => {
                let lost = std::mem::take(&mut self.lost) + dropped;
                tracing::warn!(endpoint = self.endpoint, lost, "the collector takes spans again");
            }
            None => {}
        }
    }
}

#[cfg(test)]
#[path = "export_tests.rs"]
mod tests;
