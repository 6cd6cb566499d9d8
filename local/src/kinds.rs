//! The kinds that this API serves: those of the given CRDs and a fixed set of built-in ones.

pub mod builtin;
mod custom;

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use crate::schema::Schema;

pub use custom::{CrdError, from_crd};

/// Index of a kind in [`Kinds`].
pub type KindId = usize;

/// A column of the table that `kubectl get` prints.
#[derive(Debug, Clone)]
pub struct Column {
    pub name: String,
    /// The OpenAPI type; `date` is shown as an age.
    pub kind: String,
    pub description: String,
    /// Columns above 0 are shown with `-o wide` only.
    pub priority: i64,
    /// JSONPath without braces; empty for columns computed in code.
    pub path: String,
}

/// Where the scale subresource finds its numbers, as dotted paths.
#[derive(Debug, Clone)]
pub struct ScalePaths {
    pub spec_replicas: Vec<String>,
    pub status_replicas: Vec<String>,
    pub selector: Option<Vec<String>>,
}

/// Tells why an object does not decode.
pub type DecodeCheck = fn(&Value) -> Result<(), serde_json::Error>;

/// One kind in its one served version.
#[derive(Debug)]
pub struct Kind {
    pub id: KindId,
    pub group: String,
    pub version: String,
    pub kind: String,
    pub plural: String,
    pub singular: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub namespaced: bool,
    /// Whether `status` is written through its own subresource only.
    pub status: bool,
    pub scale: Option<ScalePaths>,
    pub columns: Vec<Column>,
    /// Dotted paths usable in field selectors, besides metadata.name and metadata.namespace.
    pub selectable: Vec<String>,
    /// Custom kinds only: defaulting, pruning and validation.
    pub schema: Option<Schema>,
    /// Built-in kinds only: whether the object decodes as its Go type would.
    pub decodes: Option<DecodeCheck>,
    /// Whether `metadata.generation` counts the changes of the spec.
    pub generation: bool,
    /// Whether clients may write this kind.
    pub writable: bool,
}

impl Kind {
    pub fn api_version(&self) -> String {
        match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// `runs.kruntimes.io`, as messages name the resource.
    pub fn resource(&self) -> String {
        dotted(&self.plural, &self.group)
    }

    /// `Run.kruntimes.io`, as messages name the kind.
    pub fn qualified(&self) -> String {
        dotted(&self.kind, &self.group)
    }

    pub fn custom(&self) -> bool {
        self.schema.is_some()
    }
}

fn dotted(name: &str, group: &str) -> String {
    if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") }
}

/// All kinds, found by id or by group, version and plural.
#[derive(Debug)]
pub struct Kinds {
    all: Vec<Arc<Kind>>,
    by_path: HashMap<(String, String, String), KindId>,
}

/// The group under which core Events are served a second time, with other field names.
pub const EVENTS_GROUP: &str = "events.k8s.io";

impl Kinds {
    /// The built-in kinds and those of `crds` (CustomResourceDefinition objects of apiextensions.k8s.io/v1).
    ///
    /// # Errors
    /// When a CRD lacks a needed field, serves no version, or its schema or rules do not compile.
    pub fn new(crds: &[Value]) -> Result<Self, CrdError> {
        let mut all = builtin::all();
        for crd in crds {
            all.push(from_crd(crd)?);
        }
        let mut by_path = HashMap::new();
        for (id, kind) in all.iter_mut().enumerate() {
            kind.id = id;
            by_path.insert((kind.group.clone(), kind.version.clone(), kind.plural.clone()), id);
        }
        if let Some(&id) = by_path.get(&(String::new(), "v1".into(), "events".into())) {
            by_path.insert((EVENTS_GROUP.into(), "v1".into(), "events".into()), id);
        }
        Ok(Self { all: all.into_iter().map(Arc::new).collect(), by_path })
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.all.iter()
    }

    pub fn get(&self, id: KindId) -> &Arc<Kind> {
        &self.all[id]
    }

    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.by_path.get(&(group.into(), version.into(), plural.into())).map(|id| &self.all[*id])
    }

    /// A built-in kind by its plural; the set is fixed, so a missing one is a defect.
    pub fn core(&self, plural: &str) -> &Arc<Kind> {
        match self.all.iter().find(|k| k.plural == plural && !k.custom()) {
            Some(kind) => kind,
            None => unreachable!("{plural} is no built-in kind"),
        }
    }

    /// The served group versions, core first.
    pub fn group_versions(&self) -> Vec<(String, String)> {
        let mut found: Vec<_> = self.by_path.keys().map(|(g, v, _)| (g.clone(), v.clone())).collect();
        found.sort();
        found.dedup();
        found
    }

    /// The kinds of one group version.
    pub fn of_group(&self, group: &str, version: &str) -> Vec<&Arc<Kind>> {
        let mut ids: Vec<_> = self
            .by_path
            .iter()
            .filter(|((g, v, _), _)| g == group && v == version)
            .map(|(_, id)| *id)
            .collect();
        ids.sort_unstable();
        ids.into_iter().map(|id| &self.all[id]).collect()
    }
}
