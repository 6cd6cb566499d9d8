//! One stored object: its JSON, and beside it what selectors and indexes ask for.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::Value;

use crate::kinds::Kind;
use crate::object::{self, list, strings, text};

/// Namespace (empty for cluster-wide kinds) and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    pub fn of(object: &Value) -> Self {
        Self::new(object::namespace(object), object::name(object))
    }
}

/// One state of one object.
#[derive(Debug)]
pub struct Entry {
    pub key: Key,
    pub uid: String,
    pub revision: u64,
    pub labels: BTreeMap<String, String>,
    /// Values of the kind's selectable fields, in the kind's order; empty when absent.
    pub fields: Vec<String>,
    /// Uids of the owners.
    pub owners: Vec<String>,
    pub deleting: bool,
    /// The whole object, encoded once.
    pub json: Bytes,
}

impl Entry {
    pub fn new(kind: &Kind, object: &Value, json: Bytes) -> Self {
        let field = |path: &String| {
            let at = path.split('.').try_fold(object, |at, key| at.get(key));
            match at {
                Some(Value::String(s)) => s.clone(),
                Some(Value::Null) | None => String::new(),
                Some(other) => other.to_string(),
            }
        };
        Self {
            key: Key::of(object),
            uid: object::uid(object).to_owned(),
            revision: text(object, "/metadata/resourceVersion").parse().unwrap_or_default(),
            labels: strings(object, "/metadata/labels").map(|(k, v)| (k.into(), v.into())).collect(),
            fields: kind.selectable.iter().map(field).collect(),
            owners: list(object, "/metadata/ownerReferences")
                .iter()
                .map(|o| text(o, "/uid").to_owned())
                .collect(),
            deleting: object::deleting(object),
            json,
        }
    }

    /// The object, decoded anew.
    pub fn value(&self) -> Value {
        // The bytes were encoded from a value by this process, or checked when they were loaded.
        serde_json::from_slice(&self.json).unwrap_or_default()
    }
}
