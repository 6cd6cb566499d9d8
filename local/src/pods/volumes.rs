//! Volumes as folders of this machine, and paths that lead into them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::api::Api;
use crate::credentials::write_private;
use crate::object::{self, list, text};
use crate::store::Key;

/// Where a container sees a volume, and where it really is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub path: String,
    pub folder: PathBuf,
    /// Whether the volume carries a service account token.
    pub token: bool,
}

/// Why a volume cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("volume {volume:?}: {source}")]
    Files { volume: String, source: io::Error },
    #[error("volume {volume:?}: {what} {name:?} not found")]
    NotFound { volume: String, what: &'static str, name: String },
    #[error("volume {volume:?} is of a kind that the local platform does not have")]
    Unknown { volume: String },
    #[error("volume {volume:?}: {path:?} leads out of it")]
    Escapes { volume: String, path: String },
}

/// Makes the folders of the volumes that `container` mounts; longer mount paths come first.
///
/// # Errors
/// When a volume's source is missing or of no known kind.
pub fn prepare(
    api: &Api,
    pod: &Value,
    container: &Value,
    folder: &Path,
    token: &str,
) -> Result<Vec<Mount>, VolumeError> {
    let mut mounts = Vec::new();
    for mount in list(container, "/volumeMounts") {
        let name = text(mount, "/name");
        let Some(volume) = list(pod, "/spec/volumes").iter().find(|v| text(v, "/name") == name) else {
            continue;
        };
        let place = folder.join("volumes").join(name);
        let mut place = fill(api, pod, volume, place, token)?;
        let sub = text(mount, "/subPath");
        if !sub.is_empty() {
            place = below(&place, sub, name)?;
            fs::create_dir_all(&place)
                .map_err(|source| VolumeError::Files { volume: name.to_owned(), source })?;
        }
        mounts.push(Mount {
            path: text(mount, "/mountPath").trim_end_matches('/').to_owned(),
            folder: place,
            token: has_token(volume),
        });
    }
    mounts.sort_by_key(|m| std::cmp::Reverse(m.path.len()));
    Ok(mounts)
}

fn has_token(volume: &Value) -> bool {
    list(volume, "/projected/sources").iter().any(|s| s.get("serviceAccountToken").is_some())
}

/// `folder/path`, refused when the path is absolute or climbs.
fn below(folder: &Path, path: &str, volume: &str) -> Result<PathBuf, VolumeError> {
    let inside = Path::new(path).components().all(|c| matches!(c, std::path::Component::Normal(_)));
    if inside {
        return Ok(folder.join(path));
    }
    Err(VolumeError::Escapes { volume: volume.to_owned(), path: path.to_owned() })
}

fn fill(
    api: &Api,
    pod: &Value,
    volume: &Value,
    folder: PathBuf,
    token: &str,
) -> Result<PathBuf, VolumeError> {
    let name = text(volume, "/name");
    if let Some(host) = volume.pointer("/hostPath/path").and_then(Value::as_str) {
        return Ok(PathBuf::from(host));
    }
    let files = |source| VolumeError::Files { volume: name.to_owned(), source };
    fs::create_dir_all(&folder).map_err(files)?;
    let namespace = object::namespace(pod);
    let mut contents: Vec<(String, Vec<u8>)> = Vec::new();
    if let Some(source) = volume.get("configMap") {
        contents.extend(map_files(api, "configmaps", namespace, text(source, "/name"), source, name)?);
    } else if let Some(source) = volume.get("secret") {
        contents.extend(map_files(api, "secrets", namespace, text(source, "/secretName"), source, name)?);
    } else if volume.get("projected").is_some() {
        for source in list(volume, "/projected/sources") {
            if let Some(wanted) = source.get("serviceAccountToken") {
                contents.push((text(wanted, "/path").to_owned(), token.as_bytes().to_vec()));
                contents.push(("namespace".into(), namespace.as_bytes().to_vec()));
            } else if let Some(map) = source.get("configMap") {
                // Every namespace of a cluster has this one; here the kubeconfig carries the certificate.
                if text(map, "/name") != "kube-root-ca.crt" {
                    contents.extend(map_files(api, "configmaps", namespace, text(map, "/name"), map, name)?);
                }
            } else if let Some(map) = source.get("secret") {
                contents.extend(map_files(api, "secrets", namespace, text(map, "/name"), map, name)?);
            } else if let Some(items) = source.get("downwardAPI") {
                contents.extend(downward_files(pod, items));
            }
        }
    } else if let Some(items) = volume.get("downwardAPI") {
        contents.extend(downward_files(pod, items));
    } else if volume.get("emptyDir").is_none() {
        return Err(VolumeError::Unknown { volume: name.to_owned() });
    }
    for (path, bytes) in contents {
        let path = below(&folder, &path, name)?;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(files)?;
        }
        write_private(&path, &bytes).map_err(files)?;
    }
    Ok(folder)
}

fn downward_files(pod: &Value, source: &Value) -> Vec<(String, Vec<u8>)> {
    let file = |item: &Value| {
        let value = super::environment::field(pod, text(item, "/fieldRef/fieldPath"))?;
        Some((text(item, "/path").to_owned(), value.into_bytes()))
    };
    list(source, "/items").iter().filter_map(file).collect()
}

/// The keys of a ConfigMap or Secret, all or those that `items` names.
fn map_files(
    api: &Api,
    plural: &'static str,
    namespace: &str,
    name: &str,
    source: &Value,
    volume: &str,
) -> Result<Vec<(String, Vec<u8>)>, VolumeError> {
    let Some(data) = map_data(api, plural, namespace, name) else {
        if source["optional"] == true {
            return Ok(Vec::new());
        }
        let what = if plural == "secrets" { "secret" } else { "configmap" };
        return Err(VolumeError::NotFound { volume: volume.to_owned(), what, name: name.to_owned() });
    };
    let items = list(source, "/items");
    if items.is_empty() {
        return Ok(data);
    }
    let mut files = Vec::new();
    for item in items {
        let key = text(item, "/key");
        match data.iter().find(|(k, _)| k == key) {
            Some((_, bytes)) => files.push((text(item, "/path").to_owned(), bytes.clone())),
            None if source["optional"] == true => {}
            None => {
                return Err(VolumeError::NotFound {
                    volume: volume.to_owned(),
                    what: "key",
                    name: format!("{name}/{key}"),
                });
            }
        }
    }
    Ok(files)
}

/// The decoded contents of a ConfigMap or Secret; None when it does not exist.
pub fn map_data(api: &Api, plural: &str, namespace: &str, name: &str) -> Option<Vec<(String, Vec<u8>)>> {
    let object = api.get(api.kinds.core(plural), &Key::new(namespace, name)).ok()?.value();
    let coded = plural == "secrets";
    let mut data = Vec::new();
    for (key, value) in object::strings(&object, "/data") {
        let bytes = if coded { STANDARD.decode(value).unwrap_or_default() } else { value.into() };
        data.push((key.to_owned(), bytes));
    }
    for (key, value) in object::strings(&object, "/binaryData") {
        data.push((key.to_owned(), STANDARD.decode(value).unwrap_or_default()));
    }
    Some(data)
}

/// Replaces a path below a mount by the path that it really is. There is no mount namespace for
/// volumes here, so this is done with whole arguments and values (`/workspace/x`), and with the value of
/// a flag (`--work-dir=/workspace`).
pub fn real_path(value: &str, mounts: &[Mount]) -> String {
    if let Some((flag, path)) = value.split_once('=')
        && flag.starts_with('-')
    {
        return format!("{flag}={}", real_path(path, mounts));
    }
    for mount in mounts.iter().filter(|m| !m.path.is_empty()) {
        if let Some(rest) = value.strip_prefix(&mount.path)
            && (rest.is_empty() || rest.starts_with('/'))
        {
            return format!("{}{rest}", mount.folder.display());
        }
    }
    value.to_owned()
}
