//! What a path names.

use std::sync::Arc;

use http::Method;

use super::ApiError;
use super::query::Query;
use crate::kinds::{EVENTS_GROUP, Kind, Kinds};
use crate::store::Key;

/// A resource, a namespace's share of it, one object, or a subresource of one.
#[derive(Debug)]
pub struct Target {
    pub kind: Arc<Kind>,
    /// Events under events.k8s.io.
    pub new_events: bool,
    /// Empty for cluster-wide kinds and for all namespaces.
    pub namespace: String,
    pub name: Option<String>,
    pub sub: Option<String>,
}

impl Target {
    /// # Errors
    /// [`ApiError::UnknownPath`] when nothing is served there.
    pub fn parse(kinds: &Kinds, path: &str) -> Result<Self, ApiError> {
        let parts: Vec<_> = path.split('/').collect();
        let (group, version, rest) = match &parts[..] {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return Err(ApiError::UnknownPath),
        };
        let (namespace, rest) = match rest {
            // `namespaces/NAME/status` and the like are about the namespace itself.
            ["namespaces", _, "status" | "finalize"] | ["namespaces"] | ["namespaces", _] => ("", rest),
            ["namespaces", namespace, rest @ ..] => (*namespace, rest),
            _ => ("", rest),
        };
        let [plural, rest @ ..] = rest else { return Err(ApiError::UnknownPath) };
        let (name, sub) = match rest {
            [] => (None, None),
            [name] => (Some((*name).to_owned()), None),
            [name, sub] => (Some((*name).to_owned()), Some((*sub).to_owned())),
            _ => return Err(ApiError::UnknownPath),
        };
        let kind = kinds.find(group, version, plural).ok_or(ApiError::UnknownPath)?;
        if !kind.namespaced && !namespace.is_empty()
            || kind.namespaced && namespace.is_empty() && name.is_some()
        {
            return Err(ApiError::UnknownPath);
        }
        Ok(Self {
            kind: Arc::clone(kind),
            new_events: group == EVENTS_GROUP,
            namespace: namespace.to_owned(),
            name,
            sub,
        })
    }

    /// `runs` or `runs/status`.
    pub fn resource(&self) -> String {
        match &self.sub {
            Some(sub) => format!("{}/{sub}", self.kind.plural),
            None => self.kind.plural.clone(),
        }
    }

    /// The API's word for what is asked.
    pub fn verb(&self, method: &Method, query: &Query) -> &'static str {
        match (method.as_str(), &self.name) {
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("PATCH", _) => "patch",
            ("DELETE", Some(_)) => "delete",
            ("DELETE", None) => "deletecollection",
            _ if query.flag("watch") => "watch",
            (_, Some(_)) => "get",
            (_, None) => "list",
        }
    }

    pub fn key(&self) -> Option<Key> {
        Some(Key::new(&self.namespace, self.name.as_deref()?))
    }
}
