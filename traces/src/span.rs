//! What is told of a piece of work that is over.

use std::borrow::Cow;
use std::time::SystemTime;

use opentelemetry::trace::{SpanContext, SpanKind, Status, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, SpanId, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use crate::Place;

/// A piece of work with its times.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    name: &'static str,
    place: Place,
    parent: Option<Place>,
    start: SystemTime,
    end: SystemTime,
    attributes: Vec<KeyValue>,
    status: Status,
}

impl Span {
    /// The span `place`, below `parent` or at the root of the trace.
    #[must_use]
    pub fn new(name: &'static str, place: Place, parent: Place, start: SystemTime, end: SystemTime) -> Self {
        Self {
            name,
            place,
            parent: (parent.span_id() != SpanId::INVALID).then_some(parent),
            start,
            // A clock that was set back meanwhile must not make a span that ends before it starts.
            end: end.max(start),
            attributes: Vec::new(),
            status: Status::Unset,
        }
    }

    /// With one more attribute.
    #[must_use]
    pub fn with(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Value>) -> Self {
        self.attributes.push(KeyValue::new(name.into(), value));
        self
    }

    /// With one more attribute, if there is something to say.
    #[must_use]
    pub fn with_some(self, name: &'static str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// It did not come to what it was for.
    #[must_use]
    pub fn failed(mut self, why: impl Into<Cow<'static, str>>) -> Self {
        self.status = Status::error(why);
        self
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Where it is.
    #[must_use]
    pub fn place(&self) -> Place {
        self.place
    }

    /// What it is below; `None` at the root of its trace.
    #[must_use]
    pub fn parent(&self) -> Option<Place> {
        self.parent
    }

    /// When it started and ended.
    #[must_use]
    pub fn times(&self) -> (SystemTime, SystemTime) {
        (self.start, self.end)
    }

    /// An attribute as text.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<String> {
        self.attributes.iter().find(|known| known.key.as_str() == name).map(|known| known.value.to_string())
    }

    /// Why it failed, if it did.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        match &self.status {
            Status::Error { description } => Some(description),
            Status::Unset | Status::Ok => None,
        }
    }

    pub(crate) fn is_sampled(&self) -> bool {
        self.place.is_sampled()
    }

    pub(crate) fn data(self, scope: InstrumentationScope) -> SpanData {
        SpanData {
            span_context: SpanContext::new(
                self.place.trace_id(),
                self.place.span_id(),
                self.place.flags(),
                false,
                TraceState::NONE,
            ),
            parent_span_id: self.parent.map_or(SpanId::INVALID, |parent| parent.span_id()),
            parent_span_is_remote: self.parent.is_some(),
            span_kind: SpanKind::Internal,
            name: self.name.into(),
            start_time: self.start,
            end_time: self.end,
            attributes: self.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: self.status,
            instrumentation_scope: scope,
        }
    }
}
