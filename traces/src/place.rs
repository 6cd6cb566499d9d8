//! A place in a trace, and its text.

use std::fmt;

use opentelemetry::{SpanId, TraceFlags, TraceId};
use sha2::{Digest as _, Sha256};

/// Variable of a process with the span that it is below, as [W3C Trace Context](https://www.w3.org/TR/trace-context/)
/// writes it.
pub const PARENT_ENV: &str = "TRACEPARENT";

/// The only version that there is; texts of later ones begin with the same fields.
const VERSION: &str = "00";

/// Where in which trace something belongs: below a span, or at the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    trace: TraceId,
    /// [`SpanId::INVALID`] is the root.
    span: SpanId,
    flags: TraceFlags,
}

impl Place {
    /// Reads a `traceparent`. `None` when it is malformed: then there is no parent.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split('-');
        let version = fields.next().filter(|version| is_hex(version, 2) && *version != "ff")?;
        let trace = fields.next().filter(|trace| is_hex(trace, 32))?;
        let span = fields.next().filter(|span| is_hex(span, 16))?;
        let flags = fields.next().filter(|flags| is_hex(flags, 2))?;
        if version == VERSION && fields.next().is_some() {
            return None;
        }
        let trace = TraceId::from_hex(trace).ok().filter(|trace| *trace != TraceId::INVALID)?;
        let span = SpanId::from_hex(span).ok().filter(|span| *span != SpanId::INVALID)?;
        let flags = u8::from_str_radix(flags, 16).ok()?;
        // Of the flags, only the first is known to mean something for us to pass on.
        Some(Self { trace, span, flags: TraceFlags::new(flags) & TraceFlags::SAMPLED })
    }

    /// The root of the trace that a UUID names: its 128 bits are the trace's id. `None` for any other text.
    #[must_use]
    pub fn root_of(uuid: &str) -> Option<Self> {
        let digits = uuid.replace('-', "");
        if !is_hex(&digits, 32) {
            return None;
        }
        let trace = TraceId::from_hex(&digits).ok().filter(|trace| *trace != TraceId::INVALID)?;
        Some(Self { trace, span: SpanId::INVALID, flags: TraceFlags::SAMPLED })
    }

    /// Where the spans of something belong that has a UUID and perhaps a `traceparent`: below that, or at the root of
    /// its own trace.
    #[must_use]
    pub fn of(traceparent: Option<&str>, uuid: &str) -> Option<Self> {
        traceparent.and_then(Self::parse).or_else(|| Self::root_of(uuid))
    }

    /// The root of a trace of its own.
    #[must_use]
    pub fn new_root() -> Self {
        let trace = TraceId::from_bytes(rand::random::<u128>().max(1).to_be_bytes());
        Self { trace, span: SpanId::INVALID, flags: TraceFlags::SAMPLED }
    }

    /// The span below this that `key` names: always the same for the same trace and key.
    #[must_use]
    pub fn below(self, key: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.trace.to_bytes());
        hash.update(key);
        let mut id = [0; 8];
        id.copy_from_slice(&hash.finalize()[..8]);
        // Zero is no id; a hash that is zero is not seen in the life of the universe.
        Self { span: SpanId::from_bytes(u64::from_be_bytes(id).max(1).to_be_bytes()), ..self }
    }

    /// A span below this that nobody else has to know.
    #[must_use]
    pub fn below_by_chance(self) -> Self {
        Self { span: SpanId::from_bytes(rand::random::<u64>().max(1).to_be_bytes()), ..self }
    }

    /// Whether spans of this trace are wanted: who began it may have decided otherwise.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.flags.is_sampled()
    }

    /// The text for whoever goes on below this span; `None` at the root, which is no span.
    #[must_use]
    pub fn traceparent(&self) -> Option<String> {
        (self.span != SpanId::INVALID).then(|| self.to_string())
    }

    pub(crate) fn trace_id(&self) -> TraceId {
        self.trace
    }

    pub(crate) fn span_id(&self) -> SpanId {
        self.span
    }

    pub(crate) fn flags(&self) -> TraceFlags {
        self.flags
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION}-{}-{}-{:02x}", self.trace, self.span, self.flags)
    }
}

/// Lower case only, as the standard asks for.
fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_read_and_written() {
        let place = Place::parse(TEXT).expect("valid");
        assert!(place.is_sampled());
        assert_eq!(place.traceparent().as_deref(), Some(TEXT));
        let quiet = Place::parse(&TEXT.replace("-01", "-00")).expect("valid");
        assert!(!quiet.is_sampled());
        assert_eq!(quiet.below("x").traceparent().expect("a span").rsplit('-').next(), Some("00"));
        let more = Place::parse(&TEXT.replace("-01", "-03")).expect("valid");
        assert_eq!(more, place, "flags that we do not know are not ours to pass on");
        let later = format!("01{}-what-comes", &TEXT[2..]);
        assert_eq!(Place::parse(&later), Some(place), "a later version begins with the same fields");
    }

    #[test]
    fn what_is_malformed_is_no_place() {
        let bad = [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319ü-b7ad6b7169203331-01",
            " 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ];
        for text in bad {
            assert_eq!(Place::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_uuid_is_the_root_of_a_trace() {
        let uuid = "8f14e45f-ceea-467f-a9e1-3b1c5d0a7b21";
        let root = Place::root_of(uuid).expect("a UUID");
        assert_eq!(root.trace_id().to_string(), uuid.replace('-', ""));
        assert_eq!(root.traceparent(), None, "the root is no span");
        for text in
            ["", "u-1", "00000000-0000-0000-0000-000000000000", "8F14E45F-CEEA-467F-A9E1-3B1C5D0A7B21"]
        {
            assert_eq!(Place::root_of(text), None, "{text}");
        }
        assert_eq!(Place::of(Some(TEXT), uuid), Place::parse(TEXT));
        assert_eq!(Place::of(Some("nonsense"), uuid), Some(root), "as if it were not there");
        assert_eq!(Place::of(None, uuid), Some(root));
    }

    #[test]
    fn a_span_is_known_by_trace_and_key() {
        let place = Place::parse(TEXT).expect("valid");
        let span = place.below("attempt 1");
        assert_eq!(span.trace_id(), place.trace_id());
        assert_eq!(span, place.below("attempt 1"));
        assert_eq!(span, span.below("attempt 1"), "only the trace and the key count");
        assert_ne!(span, place.below("attempt 2"));
        assert_ne!(span.span_id(), Place::new_root().below("attempt 1").span_id());
        assert_ne!(place.below_by_chance(), place.below_by_chance());
    }
}
