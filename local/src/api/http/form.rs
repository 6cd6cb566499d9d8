//! The forms in which objects travel: as they are, as tables, as metadata only.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::events;
use crate::api::table::{self, Include};
use crate::kinds::Kind;

/// How the client wants to see objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Object,
    /// Events under their names in events.k8s.io/v1.
    NewEvent,
    Table(Include),
    Metadata,
}

impl Form {
    /// From the `Accept` header and the `includeObject` parameter; the first known form wins.
    pub fn accepted(accept: &str, include: &str, new_events: bool) -> Self {
        for range in accept.split(',') {
            let mut parameters = range.split(';').map(str::trim);
            let media = parameters.next().unwrap_or_default();
            match parameters.find_map(|p| p.strip_prefix("as=")) {
                Some("Table") => {
                    return Self::Table(match include {
                        "None" => Include::Nothing,
                        "Object" => Include::Object,
                        _ => Include::Metadata,
                    });
                }
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") => return Self::Metadata,
                None if matches!(media, "application/json" | "*/*" | "application/*") => break,
                _ => {}
            }
        }
        if new_events { Self::NewEvent } else { Self::Object }
    }

    /// One object in this form; `head` adds the columns of a table.
    pub fn one(&self, kind: &Kind, mut object: Value, head: bool, now: Timestamp) -> Value {
        match self {
            Self::Object => object,
            Self::NewEvent => {
                events::to_new(&mut object);
                object
            }
            Self::Metadata => table::partial(&object),
            Self::Table(include) => {
                let meta = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                let columns = if head { table::columns(kind) } else { Value::Null };
                table::table(columns, vec![table::row(kind, &object, *include, now)], meta)
            }
        }
    }

    /// A bookmark's object.
    pub fn bookmark(&self, kind: &Kind, meta: Value) -> Value {
        match self {
            Self::Table(_) => table::table(Value::Null, Vec::new(), meta),
            Self::Metadata => table::partial(&json!({"metadata": meta})),
            Self::NewEvent => json!({"kind": kind.kind, "apiVersion": "events.k8s.io/v1", "metadata": meta}),
            Self::Object => json!({"kind": kind.kind, "apiVersion": kind.api_version(), "metadata": meta}),
        }
    }
}
