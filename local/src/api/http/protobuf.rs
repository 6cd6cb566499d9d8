//! The few built-in kinds that kubectl's imperative commands (`create namespace`, `create secret`, ...)
//! send in the Kubernetes protobuf form whatever the server says it takes. Numbers are those of
//! `generated.proto` of the API modules. Answers are always JSON, which these clients take too.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::ApiError;

pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// Before every message.
const MAGIC: &[u8] = b"k8s\0";

#[derive(Clone, Copy)]
enum Type {
    Text,
    Bytes,
    Bool,
    Message(Fields),
    Texts,
    Messages(Fields),
    TextMap,
    BytesMap,
}

type Fields = &'static [(u64, &'static str, Type)];

const METADATA: Fields = &[
    (1, "name", Type::Text),
    (2, "generateName", Type::Text),
    (3, "namespace", Type::Text),
    (11, "labels", Type::TextMap),
    (12, "annotations", Type::TextMap),
    (14, "finalizers", Type::Texts),
];
const META: (u64, &str, Type) = (1, "metadata", Type::Message(METADATA));
const RULE: Fields = &[
    (1, "verbs", Type::Texts),
    (2, "apiGroups", Type::Texts),
    (3, "resources", Type::Texts),
    (4, "resourceNames", Type::Texts),
    (5, "nonResourceURLs", Type::Texts),
];
const SUBJECT: Fields = &[
    (1, "kind", Type::Text),
    (2, "apiGroup", Type::Text),
    (3, "name", Type::Text),
    (4, "namespace", Type::Text),
];
const ROLE_REF: Fields = &[(1, "apiGroup", Type::Text), (2, "kind", Type::Text), (3, "name", Type::Text)];

fn fields(kind: &str) -> Option<Fields> {
    Some(match kind {
        "Namespace" | "ServiceAccount" | "SelfSubjectReview" | "SelfSubjectAccessReview" => &[META],
        "ConfigMap" => &[
            META,
            (2, "data", Type::TextMap),
            (3, "binaryData", Type::BytesMap),
            (4, "immutable", Type::Bool),
        ],
        "Secret" => &[
            META,
            (2, "data", Type::BytesMap),
            (3, "type", Type::Text),
            (4, "stringData", Type::TextMap),
            (5, "immutable", Type::Bool),
        ],
        "Role" | "ClusterRole" => &[META, (2, "rules", Type::Messages(RULE))],
        "RoleBinding" | "ClusterRoleBinding" => {
            &[META, (2, "subjects", Type::Messages(SUBJECT)), (3, "roleRef", Type::Message(ROLE_REF))]
        }
        _ => return None,
    })
}

/// The object in a protobuf body.
///
/// # Errors
/// When the kind is none of the few, or the bytes are damaged.
pub fn decode(body: &[u8]) -> Result<Value, ApiError> {
    let damaged = || ApiError::BadRequest("the protobuf body is damaged".into());
    let unknown = body.strip_prefix(MAGIC).ok_or_else(damaged)?;
    let (mut kind, mut version, mut raw) = (String::new(), String::new(), &b""[..]);
    for (number, value) in parse(unknown).ok_or_else(damaged)? {
        match (number, value) {
            (1, Wire::Bytes(meta)) => {
                for (number, value) in parse(meta).ok_or_else(damaged)? {
                    match (number, value) {
                        (1, Wire::Bytes(text)) => version = String::from_utf8_lossy(text).into_owned(),
                        (2, Wire::Bytes(text)) => kind = String::from_utf8_lossy(text).into_owned(),
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let fields = fields(&kind).ok_or(ApiError::UnsupportedMediaType("application/json, application/yaml"))?;
    let mut object = message(raw, fields).ok_or_else(damaged)?;
    object.insert("apiVersion".into(), json!(version));
    object.insert("kind".into(), json!(kind));
    Ok(Value::Object(object))
}

enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message; None when it is damaged.
fn parse(mut bytes: &[u8]) -> Option<Vec<(u64, Wire<'_>)>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let value = match tag & 7 {
            0 => Wire::Number(varint(&mut bytes)?),
            1 => Wire::Bytes(take(&mut bytes, 8)?),
            2 => {
                let length = varint(&mut bytes)?;
                Wire::Bytes(take(&mut bytes, usize::try_from(length).ok()?)?)
            }
            5 => Wire::Bytes(take(&mut bytes, 4)?),
            _ => return None,
        };
        found.push((tag >> 3, value));
    }
    Some(found)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, tail) = bytes.split_at_checked(length)?;
    *bytes = tail;
    Some(head)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// A message as a JSON object; empty texts are what Go leaves out in JSON.
fn message(bytes: &[u8], fields: Fields) -> Option<Map<String, Value>> {
    let mut object = Map::new();
    for (number, wire) in parse(bytes)? {
        let Some((_, name, kind)) = fields.iter().find(|(n, _, _)| *n == number) else { continue };
        let text = |bytes: &[u8]| Value::String(String::from_utf8_lossy(bytes).into_owned());
        let list = |object: &mut Map<String, Value>, item: Value| {
            if let Some(list) = object.entry(*name).or_insert_with(|| json!([])).as_array_mut() {
                list.push(item);
            }
        };
        match (kind, wire) {
            (Type::Text, Wire::Bytes(b"")) => {}
            (Type::Text, Wire::Bytes(bytes)) => drop(object.insert((*name).into(), text(bytes))),
            (Type::Bytes, Wire::Bytes(bytes)) => {
                object.insert((*name).into(), json!(STANDARD.encode(bytes)));
            }
            (Type::Bool, Wire::Number(number)) => drop(object.insert((*name).into(), json!(number != 0))),
            (Type::Message(inner), Wire::Bytes(bytes)) => {
                object.insert((*name).into(), Value::Object(message(bytes, inner)?));
            }
            (Type::Texts, Wire::Bytes(bytes)) => list(&mut object, text(bytes)),
            (Type::Messages(inner), Wire::Bytes(bytes)) => {
                list(&mut object, Value::Object(message(bytes, inner)?));
            }
            (Type::TextMap | Type::BytesMap, Wire::Bytes(bytes)) => {
                let value = if matches!(kind, Type::TextMap) { Type::Text } else { Type::Bytes };
                let entry = map_entry(bytes, value)?;
                crate::object::map_of(object.entry(*name).or_insert_with(|| json!({}))).extend(entry);
            }
            _ => return None,
        }
    }
    Some(object)
}

fn map_entry(bytes: &[u8], value: Type) -> Option<Option<(String, Value)>> {
    let (mut key, mut found) = (None, json!(""));
    for (number, wire) in parse(bytes)? {
        match (number, wire, value) {
            (1, Wire::Bytes(bytes), _) => key = Some(String::from_utf8_lossy(bytes).into_owned()),
            (2, Wire::Bytes(bytes), Type::Text) => found = json!(String::from_utf8_lossy(bytes)),
            (2, Wire::Bytes(bytes), _) => found = json!(STANDARD.encode(bytes)),
            _ => {}
        }
    }
    Some(key.map(|key| (key, found)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
    }

    fn envelope(kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [field(1, b"v1"), field(2, kind.as_bytes())].concat();
        [MAGIC, &field(1, &meta), &field(2, raw)].concat()
    }

    #[test]
    fn a_secret_is_read() {
        let meta = [field(1, b"s"), field(11, &[field(1, b"l"), field(2, b"v")].concat())].concat();
        let data = [field(1, b"key"), field(2, b"\xff")].concat();
        let raw = [field(1, &meta), field(2, &data), field(3, b"Opaque"), vec![5 << 3, 1]].concat();
        assert_eq!(
            decode(&envelope("Secret", &raw)).unwrap(),
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "labels": {"l": "v"}},
                   "data": {"key": "/w=="}, "type": "Opaque", "immutable": true})
        );
    }

    #[test]
    fn other_kinds_and_damage_are_refused() {
        assert!(matches!(decode(&envelope("Pod", b"")), Err(ApiError::UnsupportedMediaType(_))));
        for damaged in
            [&b"k8s"[..], b"k8s\0\x0a\xff", &envelope("Secret", &[0x0a, 0x7f]), &envelope("Secret", &[0x0b])]
        {
            assert!(matches!(decode(damaged), Err(ApiError::BadRequest(_))), "{damaged:?}");
        }
    }
}
