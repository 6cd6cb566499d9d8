//! What is checked and filled in before an object is stored.

use std::sync::LazyLock;

use rand::RngExt;
use regex::Regex;
use serde_json::{Value, json};

use super::errors::{ApiError, Cause};
use super::write::{FieldValidation, Sub, WriteOptions, conflict};
use super::{Api, builtin};
use crate::kinds::Kind;
use crate::object::{self, map_of, metadata, strings, text};
use crate::store::Key;

const SUBDOMAIN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
const LABEL_VALUE: &str = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$";

static NAME: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(SUBDOMAIN).ok());
static VALUE: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(LABEL_VALUE).ok());

/// Letters of generated names, as the API server draws them.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// `count` random characters that are allowed in names.
pub fn random_suffix(count: usize) -> String {
    let mut rng = rand::rng();
    (0..count).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())])).collect()
}

impl Api {
    /// The object as it will be stored, and warnings for the client.
    pub(super) fn admit_create(
        &self,
        kind: &Kind,
        namespace: &str,
        mut object: Value,
        options: &WriteOptions,
    ) -> Result<(Value, Vec<String>), ApiError> {
        check_type(kind, &mut object)?;
        place(kind, namespace, &mut object)?;
        if !text(&object, "/metadata/resourceVersion").is_empty() {
            let why = "resourceVersion should not be set on objects to be created";
            return Err(ApiError::BadRequest(why.into()));
        }
        let meta = metadata(&mut object);
        if meta.get("name").and_then(Value::as_str).is_none_or(str::is_empty)
            && let Some(prefix) = meta.get("generateName").and_then(Value::as_str)
        {
            let prefix: String = prefix.chars().take(58).collect();
            meta.insert("name".into(), json!(format!("{prefix}{}", random_suffix(5))));
        }
        meta.retain(|key, value| {
            !value.is_null()
                && !matches!(key.as_str(), "deletionTimestamp" | "deletionGracePeriodSeconds" | "selfLink")
        });
        meta.insert("uid".into(), json!(uuid::Uuid::new_v4().to_string()));
        meta.insert("creationTimestamp".into(), json!(object::now()));
        if kind.generation {
            meta.insert("generation".into(), json!(1));
        }
        if kind.status {
            map_of(&mut object).remove("status");
        }
        builtin::default(kind, &mut object);
        let warnings = prune_and_default(kind, &mut object, options)?;
        check_object(kind, &object, None)?;
        self.check_namespace(kind, &object)?;
        Ok((object, warnings))
    }

    /// The outcome of an update as it will be stored, and warnings for the client.
    pub(super) fn admit_update(
        &self,
        kind: &Kind,
        sub: Sub,
        old: &Value,
        mut new: Value,
        options: &WriteOptions,
    ) -> Result<(Value, Vec<String>), ApiError> {
        check_type(kind, &mut new)?;
        check_identity(kind, old, &new)?;
        let mut result = match sub {
            Sub::Main => new,
            Sub::Status => {
                let mut result = old.clone();
                match map_of(&mut new).remove("status") {
                    Some(status) => map_of(&mut result).insert("status".into(), status),
                    None => map_of(&mut result).remove("status"),
                };
                if let Some(fields) = metadata(&mut new).remove("managedFields") {
                    metadata(&mut result).insert("managedFields".into(), fields);
                }
                result
            }
        };
        let meta = metadata(&mut result);
        for key in [
            "name",
            "namespace",
            "uid",
            "resourceVersion",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
            "generateName",
        ] {
            match old["metadata"].get(key) {
                Some(value) => meta.insert(key.into(), value.clone()),
                None => meta.remove(key),
            };
        }
        meta.retain(|key, value| !value.is_null() && key != "selfLink");
        if sub == Sub::Main && kind.status {
            match old.get("status") {
                Some(status) => map_of(&mut result).insert("status".into(), status.clone()),
                None => map_of(&mut result).remove("status"),
            };
        }
        builtin::default(kind, &mut result);
        let warnings = prune_and_default(kind, &mut result, options)?;
        if kind.generation && spec_changed(kind, old, &result) {
            let generation = old.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
            metadata(&mut result).insert("generation".into(), json!(generation + 1));
        }
        if result != *old {
            check_object(kind, &result, Some(old))?;
        }
        Ok((result, warnings))
    }

    fn check_namespace(&self, kind: &Kind, object: &Value) -> Result<(), ApiError> {
        let name = object::namespace(object);
        if !kind.namespaced {
            return Ok(());
        }
        let namespace = self.get(self.kinds.core("namespaces"), &Key::new("", name))?;
        if namespace.deleting {
            return Err(ApiError::Forbidden(format!(
                "{} \"{}\" is forbidden: unable to create new content in namespace {name} because it is being terminated",
                kind.resource(),
                object::name(object)
            )));
        }
        Ok(())
    }
}

/// The type in the body must be that of the path; a body without one gets it.
fn check_type(kind: &Kind, object: &mut Value) -> Result<(), ApiError> {
    if !object.is_object() {
        return Err(ApiError::BadRequest("the body of the request is not an object".into()));
    }
    let version = kind.api_version();
    for (key, wanted, what) in [("apiVersion", version.as_str(), "API version"), ("kind", &kind.kind, "kind")]
    {
        match text(object, &format!("/{key}")) {
            "" => drop(map_of(object).insert(key.into(), json!(wanted))),
            found if found == wanted => {}
            found => {
                return Err(ApiError::BadRequest(format!(
                    "the {what} in the data ({found}) does not match the expected {what} ({wanted})"
                )));
            }
        }
    }
    Ok(())
}

fn place(kind: &Kind, namespace: &str, object: &mut Value) -> Result<(), ApiError> {
    let meta = metadata(object);
    if !kind.namespaced {
        meta.remove("namespace");
        return Ok(());
    }
    match meta.get("namespace").and_then(Value::as_str).unwrap_or_default() {
        "" => drop(meta.insert("namespace".into(), json!(namespace))),
        found if found == namespace => {}
        _ => {
            let why = "the namespace of the provided object does not match the namespace sent on the request";
            return Err(ApiError::BadRequest(why.into()));
        }
    }
    Ok(())
}

/// Name, namespace, uid and revision in the outcome must be those of the stored object.
fn check_identity(kind: &Kind, old: &Value, new: &Value) -> Result<(), ApiError> {
    let name = object::name(old);
    for (what, old, new) in
        [("name", name, object::name(new)), ("namespace", object::namespace(old), object::namespace(new))]
    {
        if !new.is_empty() && new != old {
            return Err(ApiError::BadRequest(format!(
                "the {what} of the object ({new}) does not match the {what} on the URL ({old})"
            )));
        }
    }
    let (uid, given) = (object::uid(old), object::uid(new));
    if !given.is_empty() && given != uid {
        let why = format!("Precondition failed: UID in precondition: {given}, UID in object meta: {uid}");
        return Err(conflict(kind, name, &why));
    }
    let given = text(new, "/metadata/resourceVersion");
    if !given.is_empty() && given != text(old, "/metadata/resourceVersion") {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        return Err(conflict(kind, name, why));
    }
    Ok(())
}

fn prune_and_default(
    kind: &Kind,
    object: &mut Value,
    options: &WriteOptions,
) -> Result<Vec<String>, ApiError> {
    let Some(schema) = &kind.schema else { return Ok(Vec::new()) };
    let unknown = schema.prune(object);
    schema.default(object);
    let words: Vec<_> = unknown.iter().map(|path| format!("unknown field \"{path}\"")).collect();
    match options.validation {
        FieldValidation::Strict if !words.is_empty() => Err(ApiError::BadRequest(format!(
            "{} in version \"{}\" cannot be handled as a {}: strict decoding error: {}",
            kind.kind,
            kind.version,
            kind.kind,
            words.join(", ")
        ))),
        FieldValidation::Warn => Ok(words),
        _ => Ok(Vec::new()),
    }
}

fn check_object(kind: &Kind, object: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    if let Some(decodes) = kind.decodes {
        decodes(object).map_err(|e| {
            ApiError::BadRequest(format!(
                "{} in version \"{}\" cannot be handled as a {}: {e}",
                kind.kind, kind.version, kind.kind
            ))
        })?;
    }
    let mut causes = metadata_causes(kind, object);
    match &kind.schema {
        Some(schema) => causes.extend(schema.validate(object, old)),
        None => causes.extend(builtin::causes(kind, object, old)),
    }
    if causes.is_empty() {
        return Ok(());
    }
    Err(ApiError::Invalid { kind: kind.qualified(), name: object::name(object).to_owned(), causes })
}

fn metadata_causes(kind: &Kind, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let name = object::name(object);
    let rbac = kind.group == "rbac.authorization.k8s.io";
    if name.is_empty() {
        causes.push(Cause::required("metadata.name", "name or generateName is required"));
    } else if name.len() > 253 {
        causes.push(Cause::invalid("metadata.name", &json!(name), "must be no more than 253 characters"));
    } else if !rbac && !NAME.as_ref().is_some_and(|r| r.is_match(name)) {
        let why = format!(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
             and must start and end with an alphanumeric character (e.g. 'example.com', \
             regex used for validation is '{}')",
            SUBDOMAIN.trim_matches(['^', '$'])
        );
        causes.push(Cause::invalid("metadata.name", &json!(name), why));
    }
    for (_, value) in strings(object, "/metadata/labels") {
        if value.len() > 63 {
            causes.push(Cause::invalid("metadata.labels", &json!(value), "must be no more than 63 bytes"));
        } else if !VALUE.as_ref().is_some_and(|r| r.is_match(value)) {
            let why = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
                       and must start and end with an alphanumeric character";
            causes.push(Cause::invalid("metadata.labels", &json!(value), why));
        }
    }
    for map in ["labels", "annotations"] {
        let pointer = format!("/metadata/{map}");
        if object.pointer(&pointer).is_some_and(|m| !m.is_object()) {
            let at = format!("metadata.{map}");
            causes.push(Cause::invalid(&at, &object["metadata"][map], "must be a map of strings"));
        } else if let Some(found) = object.pointer(&pointer).and_then(Value::as_object)
            && found.values().any(|v| !v.is_string())
        {
            causes.push(Cause::invalid(
                &format!("metadata.{map}"),
                &json!(found),
                "must be a map of strings",
            ));
        }
    }
    causes
}

/// Whether an update changed what `metadata.generation` counts.
fn spec_changed(kind: &Kind, old: &Value, new: &Value) -> bool {
    if !kind.custom() {
        return old.get("spec") != new.get("spec");
    }
    let counted = |key: &str| key != "metadata" && !(kind.status && key == "status");
    let members = |o: &Value| -> Vec<_> {
        o.as_object()
            .into_iter()
            .flatten()
            .filter(|(k, _)| counted(k))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    };
    members(old) != members(new)
}
