//! Create, update and delete, with optimistic concurrency over the store.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Api;
use super::errors::ApiError;
use crate::kinds::Kind;
use crate::object::{self, list, metadata, text};
use crate::store::{Entry, Expect, Key, StoreError};

/// Times that an unconditional write is tried against faster writers.
const TRIES: usize = 32;

/// Which part of an object a write is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sub {
    Main,
    Status,
}

/// What to do about fields that the schema does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// How a write is to be done.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    pub dry_run: bool,
    pub validation: FieldValidation,
}

impl WriteOptions {
    /// For writes of the platform itself.
    pub fn internal() -> Self {
        Self { dry_run: false, validation: FieldValidation::Ignore }
    }
}

/// The outcome of a create or update.
#[derive(Debug)]
pub struct Written {
    pub entry: Arc<Entry>,
    pub warnings: Vec<String>,
    pub created: bool,
}

/// How a delete is to be done.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    /// Seconds; only Pods have a grace period.
    pub grace_period: Option<i64>,
    /// Dependents lose the owner instead of being removed.
    pub orphan: bool,
    pub dry_run: bool,
}

/// The outcome of a delete.
#[derive(Debug)]
pub enum Deleted {
    /// The object is gone; its last state.
    Gone(Arc<Entry>),
    /// The object waits for finalizers or a grace period.
    Marked(Arc<Entry>),
}

impl Api {
    /// Creates an object in `namespace` (empty for cluster-wide kinds).
    ///
    /// # Errors
    /// When it exists, is invalid, or its namespace does not take it.
    pub async fn create(
        &self,
        kind: &Arc<Kind>,
        namespace: &str,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let (object, warnings) = self.admit_create(kind, namespace, object, options)?;
        let key = Key::of(&object);
        let exists = || ApiError::AlreadyExists { resource: kind.resource(), name: key.name.clone() };
        if options.dry_run {
            return match self.store.get(kind, &key) {
                Some(_) => Err(exists()),
                None => Ok(Written { entry: unstored(kind, &object)?, warnings, created: true }),
            };
        }
        match self.store.put(kind, Expect::Absent, object).await {
            Ok(entry) => Ok(Written { entry, warnings, created: true }),
            Err(StoreError::Changed) => Err(exists()),
            Err(other) => Err(internal(&other)),
        }
    }

    /// Replaces an object by what `change` makes of it. A `metadata.resourceVersion` or `uid` in the
    /// outcome that is not the stored one is a conflict; an outcome equal to the stored one is no write.
    ///
    /// # Errors
    /// When the object is missing, has changed, or would be invalid.
    pub async fn update(
        &self,
        kind: &Arc<Kind>,
        key: &Key,
        sub: Sub,
        change: impl Fn(&Value) -> Result<Value, ApiError> + Send + Sync,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        for _ in 0..TRIES {
            let current = self.get(kind, key)?;
            let old = current.value();
            let new = change(&old)?;
            let (new, warnings) = self.admit_update(kind, sub, &old, new, options)?;
            let done = |entry| Written { entry, warnings: warnings.clone(), created: false };
            if new == old {
                return Ok(done(current));
            }
            if options.dry_run {
                return Ok(done(unstored(kind, &new)?));
            }
            let written = if released(kind, &new) {
                self.store.remove(kind, key, current.revision).await
            } else {
                self.store.put(kind, Expect::Revision(current.revision), new).await
            };
            match written {
                Ok(entry) => return Ok(done(entry)),
                Err(StoreError::Changed) => {}
                Err(other) => return Err(internal(&other)),
            }
        }
        Err(conflict(kind, &key.name, "too many writers at once; please try again"))
    }

    /// Deletes an object, or marks it when finalizers or a grace period stand before that.
    ///
    /// # Errors
    /// When the object is missing or a precondition does not hold.
    pub async fn delete(
        &self,
        kind: &Arc<Kind>,
        key: &Key,
        options: &DeleteOptions,
    ) -> Result<Deleted, ApiError> {
        for _ in 0..TRIES {
            let current = self.get(kind, key)?;
            check_preconditions(kind, &current, options)?;
            if options.dry_run {
                return Ok(Deleted::Gone(current));
            }
            if options.orphan {
                self.orphan_dependents(&current.uid).await?;
            }
            let written = match marked(kind, &current, options) {
                Mark::Waits => return Ok(Deleted::Marked(current)),
                Mark::Put(object) => {
                    let expect = Expect::Revision(current.revision);
                    self.store.put(kind, expect, object).await.map(Deleted::Marked)
                }
                Mark::Last(object) => {
                    match self.store.put(kind, Expect::Revision(current.revision), object).await {
                        Ok(_) => continue,
                        Err(error) => Err(error),
                    }
                }
                Mark::Remove => self.store.remove(kind, key, current.revision).await.map(Deleted::Gone),
            };
            match written {
                Ok(done) => return Ok(done),
                Err(StoreError::Changed) => {}
                Err(other) => return Err(internal(&other)),
            }
        }
        Err(conflict(kind, &key.name, "too many writers at once; please try again"))
    }

    /// Removes a namespace for good; its contents must be gone.
    ///
    /// # Errors
    /// When it changed at the same time.
    pub async fn finalize_namespace(&self, entry: &Entry) -> Result<(), ApiError> {
        let kind = self.kinds.core("namespaces");
        match self.store.remove(kind, &entry.key, entry.revision).await {
            Ok(_) => Ok(()),
            Err(StoreError::Changed) => Err(conflict(kind, &entry.key.name, "the object has been modified")),
            Err(other) => Err(internal(&other)),
        }
    }

    async fn orphan_dependents(&self, uid: &str) -> Result<(), ApiError> {
        for (kind, key) in self.store.dependents(uid) {
            self.drop_owner(&kind, &key, uid).await?;
        }
        Ok(())
    }

    /// Takes the owner `uid` from an object.
    ///
    /// # Errors
    /// Any refusal but that the object is gone.
    pub async fn drop_owner(&self, kind: &Arc<Kind>, key: &Key, uid: &str) -> Result<(), ApiError> {
        let edit = |old: &Value| {
            let mut new = old.clone();
            if let Some(owners) = metadata(&mut new).get_mut("ownerReferences").and_then(Value::as_array_mut)
            {
                owners.retain(|o| text(o, "/uid") != uid);
            }
            Ok(new)
        };
        match self.update(kind, key, Sub::Main, edit, &WriteOptions::internal()).await {
            Ok(_) | Err(ApiError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

enum Mark {
    Remove,
    Put(Value),
    /// To be removed right after: whoever watches learns first that it was asked to stop.
    Last(Value),
    /// Marked before; nothing changes.
    Waits,
}

/// What deleting `current` means: the API's rules for finalizers, grace periods and namespaces.
fn marked(kind: &Kind, current: &Entry, options: &DeleteOptions) -> Mark {
    let mut object = current.value();
    let finalizers = !list(&object, "/metadata/finalizers").is_empty();
    let namespace = kind.group.is_empty() && kind.kind == "Namespace";
    let grace = if is_pod(kind) { pod_grace(&object, options) } else { 0 };
    let at_once = grace == 0 && !finalizers && !namespace;
    if at_once && (current.deleting || !is_pod(kind)) {
        return Mark::Remove;
    }
    if current.deleting {
        let before = object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
        if before.is_none_or(|before| grace >= before) {
            return Mark::Waits;
        }
    }
    let at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(grace);
    let meta = metadata(&mut object);
    meta.insert("deletionTimestamp".into(), json!(object::seconds(at)));
    meta.insert("deletionGracePeriodSeconds".into(), json!(grace));
    if namespace {
        object::set(&mut object, &["status", "phase"], json!("Terminating"));
    }
    if at_once { Mark::Last(object) } else { Mark::Put(object) }
}

fn pod_grace(pod: &Value, options: &DeleteOptions) -> i64 {
    if matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") {
        return 0;
    }
    let own = pod.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64);
    options.grace_period.or(own).unwrap_or(30).clamp(0, i64::from(u32::MAX))
}

fn is_pod(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.kind == "Pod"
}

/// Whether a marked object has nothing left to wait for.
fn released(kind: &Kind, object: &Value) -> bool {
    let waits = if is_pod(kind) {
        object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64) != Some(0)
    } else {
        kind.group.is_empty() && kind.kind == "Namespace"
    };
    object::deleting(object) && list(object, "/metadata/finalizers").is_empty() && !waits
}

fn check_preconditions(kind: &Kind, entry: &Entry, options: &DeleteOptions) -> Result<(), ApiError> {
    if let Some(uid) = &options.uid
        && *uid != entry.uid
    {
        let why =
            format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", entry.uid);
        return Err(conflict(kind, &entry.key.name, &why));
    }
    if let Some(version) = &options.resource_version
        && *version != entry.revision.to_string()
    {
        let why = format!(
            "Precondition failed: ResourceVersion in precondition: {version}, \
             ResourceVersion in object meta: {}",
            entry.revision
        );
        return Err(conflict(kind, &entry.key.name, &why));
    }
    Ok(())
}

pub fn conflict(kind: &Kind, name: &str, why: &str) -> ApiError {
    ApiError::Conflict { resource: kind.resource(), name: name.to_owned(), why: why.to_owned() }
}

fn internal(error: &StoreError) -> ApiError {
    ApiError::Internal(error.to_string())
}

fn unstored(kind: &Kind, object: &Value) -> Result<Arc<Entry>, ApiError> {
    let json = serde_json::to_vec(object).map_err(|e| ApiError::Internal(e.to_string()))?;
    Ok(Arc::new(Entry::new(kind, object, json.into())))
}
