//! Objects as JSON and YAML, always with apiVersion and kind.

use kube::Resource;
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::Format;
use crate::error::Error;

/// The object with its apiVersion and kind, as a manifest has it.
///
/// # Errors
/// When it has no JSON form, which no object of the API is without.
pub fn manifest<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Result<Value, Error> {
    let mut value = serde_json::to_value(object).map_err(odd)?;
    if let Value::Object(map) = &mut value {
        map.insert("apiVersion".into(), K::api_version(&()).into());
        map.insert("kind".into(), K::kind(&()).into());
        if let Some(Value::Object(metadata)) = map.get_mut("metadata") {
            // Written by the API server for its own use; kubectl hides it, too.
            metadata.remove("managedFields");
        }
    }
    Ok(value)
}

/// Several objects as one `List`.
///
/// # Errors
/// As [`manifest`].
pub fn list<K: Resource<DynamicType = ()> + Serialize>(objects: &[K]) -> Result<Value, Error> {
    let items = objects.iter().map(manifest).collect::<Result<Vec<Value>, Error>>()?;
    let kind = format!("{}List", K::kind(&()));
    Ok(json!({"apiVersion": K::api_version(&()), "kind": kind, "metadata": {}, "items": items}))
}

/// `KIND.GROUP/NAME`, as kubectl prints it.
pub fn name<K: Resource<DynamicType = ()>>(object: &K) -> String {
    let kind = K::kind(&()).to_lowercase();
    format!("{kind}.{}/{}\n", K::group(&()), object.meta().name.as_deref().unwrap_or_default())
}

/// `value` as text, or none when `format` is for people.
///
/// # Errors
/// As [`manifest`].
pub fn structured(value: &Value, format: Format) -> Result<Option<String>, Error> {
    match format {
        Format::Json => serde_json::to_string_pretty(value).map(|text| Some(text + "\n")).map_err(odd),
        Format::Yaml => serde_yaml::to_string(value).map(Some).map_err(odd),
        Format::Table | Format::Wide | Format::Name => Ok(None),
    }
}

fn odd(error: impl std::fmt::Display) -> Error {
    Error::Protocol { doing: "print the object".into(), why: error.to_string() }
}
