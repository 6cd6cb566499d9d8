//! Which lists merge by key: by schema for custom kinds, by field name for the built-in ones.

use serde_json::Value;

use crate::kinds::Kind;
use crate::object::map_of;

/// How the items of a list are told apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListKind {
    /// Replaced as a whole.
    Atomic,
    /// Scalars; merging adds what is missing.
    Set,
    /// Maps told apart by these members.
    Map(Vec<String>),
}

/// The merge structure at one place of an object.
#[derive(Debug, Clone, Copy)]
pub enum Structure<'a> {
    /// Looked up by field name, as the Go types of the built-in kinds are tagged.
    Builtin,
    /// A structural schema.
    Schema(&'a Value),
    /// Below schema-less parts: every list is atomic.
    Unknown,
}

/// Lists of the built-in kinds that merge by a member.
const BUILTIN: [(&str, &str); 16] = [
    ("conditions", "type"),
    ("containers", "name"),
    ("initContainers", "name"),
    ("ephemeralContainers", "name"),
    ("containerStatuses", "name"),
    ("volumes", "name"),
    ("env", "name"),
    ("ports", "containerPort"),
    ("volumeMounts", "mountPath"),
    ("volumeDevices", "devicePath"),
    ("imagePullSecrets", "name"),
    ("secrets", "name"),
    ("hostAliases", "ip"),
    ("podIPs", "ip"),
    ("ownerReferences", "uid"),
    ("topologySpreadConstraints", "topologyKey"),
];

impl<'a> Structure<'a> {
    pub fn of(kind: &'a Kind) -> Self {
        match &kind.schema {
            Some(schema) => Self::Schema(schema.raw()),
            None => Self::Builtin,
        }
    }

    /// The structure of the member `key`.
    pub fn member(&self, key: &str) -> Structure<'a> {
        match self {
            Self::Builtin => Structure::Builtin,
            Self::Unknown => Structure::Unknown,
            // Metadata has the same shape in every kind.
            Self::Schema(_) if key == "metadata" => Structure::Builtin,
            Self::Schema(schema) => schema
                .get("properties")
                .and_then(|p| p.get(key))
                .or_else(|| schema.get("additionalProperties").filter(|a| a.is_object()))
                .map_or(Structure::Unknown, Structure::Schema),
        }
    }

    /// The structure of the items of a list of this structure.
    pub fn item(&self) -> Structure<'a> {
        match self {
            Self::Schema(schema) => schema.get("items").map_or(Structure::Unknown, Structure::Schema),
            other => *other,
        }
    }

    /// How the list at the member `key` merges; `self` is the structure of that list.
    pub fn list(&self, key: &str) -> ListKind {
        match self {
            Self::Unknown => ListKind::Atomic,
            Self::Builtin if key == "finalizers" => ListKind::Set,
            Self::Builtin => match BUILTIN.iter().find(|(name, _)| *name == key) {
                Some((_, member)) => ListKind::Map(vec![(*member).to_owned()]),
                None => ListKind::Atomic,
            },
            Self::Schema(schema) => match crate::object::text(schema, "/x-kubernetes-list-type") {
                "set" => ListKind::Set,
                "map" => ListKind::Map(
                    crate::object::list(schema, "/x-kubernetes-list-map-keys")
                        .iter()
                        .filter_map(|k| k.as_str().map(str::to_owned))
                        .collect(),
                ),
                _ => ListKind::Atomic,
            },
        }
    }
}

/// Whether two items of a list-map are the same one.
pub fn same(left: &Value, right: &Value, keys: &[String]) -> bool {
    keys.iter().all(|key| left.get(key) == right.get(key))
}

/// Merges `patch` into `value`: maps by member, lists by their kind, all else replaced.
pub fn merge(value: &mut Value, patch: &Value, structure: &Structure<'_>) {
    let Value::Object(patch) = patch else {
        *value = patch.clone();
        return;
    };
    let map = map_of(value);
    for (key, new) in patch {
        let inner = structure.member(key);
        match (map.get_mut(key), new) {
            (_, Value::Null) => drop(map.remove(key)),
            (Some(old @ Value::Object(_)), Value::Object(_)) => merge(old, new, &inner),
            (Some(Value::Array(old)), Value::Array(items)) => merge_list(old, items, key, &inner),
            _ => drop(map.insert(key.clone(), new.clone())),
        }
    }
}

/// The new items first, in their order, then the old ones that they do not name.
fn merge_list(old: &mut Vec<Value>, items: &[Value], key: &str, structure: &Structure<'_>) {
    match structure.list(key) {
        ListKind::Atomic => *old = items.to_vec(),
        ListKind::Set => {
            for item in items {
                if !old.contains(item) {
                    old.push(item.clone());
                }
            }
        }
        ListKind::Map(keys) => {
            let mut merged = Vec::with_capacity(items.len());
            for item in items {
                let position = old.iter().position(|o| same(o, item, &keys));
                let mut value = position.map_or(Value::Null, |at| old.remove(at));
                merge(&mut value, item, &structure.item());
                merged.push(value);
            }
            merged.append(old);
            *old = merged;
        }
    }
}
