//! The Kubernetes API over the [`Store`]: what a request means, apart from how it travels.
//!
//! The controllers and the pod runner of this process use [`Api`] directly; everyone else comes
//! through [`http`]. Every write goes through admission here, whoever makes it.

mod admission;
mod builtin;
pub mod discovery;
pub mod errors;
pub mod events;
pub mod http;
mod jsonpath;
mod openapi;
pub mod patch;
mod scale;
pub mod selector;
mod table;
mod watch;
mod write;

use std::sync::Arc;

use serde_json::Value;

use crate::faults::Faults;
use crate::kinds::{Kind, Kinds};
use crate::pods::logs::LogBook;
use crate::store::{Entry, Key, Store};
use errors::ApiError;

pub use admission::random_suffix;
pub use write::{DeleteOptions, Deleted, FieldValidation, Sub, WriteOptions, Written};

/// The API of one platform.
pub struct Api {
    pub kinds: Arc<Kinds>,
    pub store: Store,
    pub faults: Faults,
    /// The logs of the containers that run, or ran, here.
    pub logs: Arc<LogBook>,
}

impl Api {
    pub fn new(kinds: Arc<Kinds>, store: Store, logs: Arc<LogBook>) -> Self {
        Self { kinds, store, faults: Faults::default(), logs }
    }

    /// One object.
    ///
    /// # Errors
    /// [`ApiError::NotFound`].
    pub fn get(&self, kind: &Kind, key: &Key) -> Result<Arc<Entry>, ApiError> {
        self.store
            .get(kind, key)
            .ok_or_else(|| ApiError::NotFound { resource: kind.resource(), name: key.name.clone() })
    }

    /// The decoded objects of a built-in kind in a namespace (all when empty).
    pub fn objects(&self, plural: &str, namespace: &str) -> Vec<Value> {
        let (entries, _) = self.store.list(self.kinds.core(plural), namespace, None);
        entries.iter().map(|e| e.value()).collect()
    }

    /// Changes the status of an object of a built-in kind; an object that is gone is left alone.
    ///
    /// # Errors
    /// Any refusal but [`ApiError::NotFound`].
    pub async fn change_status(
        &self,
        plural: &str,
        key: &Key,
        uid: &str,
        change: impl Fn(&mut Value) + Send + Sync,
    ) -> Result<(), ApiError> {
        let kind = Arc::clone(self.kinds.core(plural));
        let edit = |old: &Value| {
            let mut new = old.clone();
            if crate::object::uid(old) == uid {
                change(&mut new);
            }
            Ok(new)
        };
        match self.update(&kind, key, Sub::Status, edit, &WriteOptions::internal()).await {
            Ok(_) | Err(ApiError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
