//! OpenTelemetry traces: one per Run, from `krt` to the process that the Runtime Server started.
//!
//! Owns what a place in a trace is ([`Place`]), what is told of a piece of work ([`Span`]) and the way to a
//! collector ([`Traces`]): OTLP over gRPC. Comes in: [`ENDPOINT_ENV`], `traceparent` texts, spans whose times are
//! known. Goes out: batches of spans. Knows neither Runs nor Kubernetes.
//!
//! What must always hold: without an endpoint nothing is set up; nobody ever waits for a collector but
//! [`Traces::flush`], and that for at most [`FLUSH`]; what a collector does not take in time is dropped and counted;
//! a malformed `traceparent` is as none.
//!
//! Spans are made after the fact. Their ids are drawn from the trace and from what the span is of
//! ([`Place::below`]), so that whoever needs the id of a span that another program will tell can know it, also
//! after a restart, and a span that is told twice is one span.

mod export;
mod place;
mod span;

pub use export::{ENDPOINT_ENV, FLUSH, Recorded, Traces};
pub use place::{PARENT_ENV, Place};
pub use span::Span;
