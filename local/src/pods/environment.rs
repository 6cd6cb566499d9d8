//! The environment and the arguments of a container.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde_json::Value;

use super::volumes::{Mount, map_data, real_path};
use crate::api::Api;
use crate::object::{self, list, text};

/// What every container gets without asking.
#[derive(Debug)]
pub struct Given<'a> {
    pub ip: Ipv4Addr,
    /// For containers that mount a service account token.
    pub kubeconfig: &'a str,
    pub mounts: &'a [Mount],
}

/// The variables of `container`, in the order of their definition.
///
/// # Errors
/// A sentence naming what a variable refers to and is not there.
pub fn variables(
    api: &Api,
    pod: &Value,
    container: &Value,
    given: &Given<'_>,
) -> Result<Vec<(String, String)>, String> {
    let mut env = vec![
        ("HOSTNAME".to_owned(), object::name(pod).to_owned()),
        ("KRUNTIME_BIND_ADDRESS".to_owned(), given.ip.to_string()),
        // On a person's own machine a Run is that person: what they may read and start, their Runs may.
        ("KRUNTIME_ISOLATION".to_owned(), "privileges=seccomp".to_owned()),
    ];
    if given.mounts.iter().any(|m| m.token) {
        env.push(("KUBECONFIG".to_owned(), given.kubeconfig.to_owned()));
    }
    let namespace = object::namespace(pod);
    for source in list(container, "/envFrom") {
        let prefix = text(source, "/prefix");
        for (member, plural) in [("configMapRef", "configmaps"), ("secretRef", "secrets")] {
            let Some(wanted) = source.get(member) else { continue };
            let name = text(wanted, "/name");
            match map_data(api, plural, namespace, name) {
                Some(data) => env.extend(data.into_iter().map(|(key, value)| {
                    (format!("{prefix}{key}"), String::from_utf8_lossy(&value).into_owned())
                })),
                None if wanted["optional"] == true => {}
                None => return Err(format!("{} {name:?} not found", plural.trim_end_matches('s'))),
            }
        }
    }
    let mut known: BTreeMap<String, String> = env.iter().cloned().collect();
    for variable in list(container, "/env") {
        let value = match variable.get("valueFrom") {
            Some(source) => value_from(api, pod, given, source)?,
            None => Some(expand(text(variable, "/value"), &known)),
        };
        if let Some(value) = value {
            let value = real_path(&value, given.mounts);
            known.insert(text(variable, "/name").to_owned(), value.clone());
            env.push((text(variable, "/name").to_owned(), value));
        }
    }
    Ok(env)
}

/// None leaves the variable out.
fn value_from(api: &Api, pod: &Value, given: &Given<'_>, source: &Value) -> Result<Option<String>, String> {
    let path = text(source, "/fieldRef/fieldPath");
    if !path.is_empty() {
        if matches!(path, "status.podIP" | "status.podIPs" | "status.hostIP") {
            return Ok(Some(given.ip.to_string()));
        }
        return field(pod, path).map(Some).ok_or_else(|| format!("fieldRef {path:?} is not available"));
    }
    for (member, plural) in [("secretKeyRef", "secrets"), ("configMapKeyRef", "configmaps")] {
        let Some(wanted) = source.get(member) else { continue };
        let (name, key) = (text(wanted, "/name"), text(wanted, "/key"));
        let data = map_data(api, plural, object::namespace(pod), name).unwrap_or_default();
        return match data.into_iter().find(|(k, _)| k == key) {
            Some((_, value)) => Ok(Some(String::from_utf8_lossy(&value).into_owned())),
            None if wanted["optional"] == true => Ok(None),
            None => Err(format!("{} {name:?} with key {key:?} not found", plural.trim_end_matches('s'))),
        };
    }
    Err("valueFrom of this kind is not available on the local platform".into())
}

/// A field of the Pod by its downward API path.
pub fn field(pod: &Value, path: &str) -> Option<String> {
    if let Some((map, key)) = path.split_once('[') {
        let key = key.strip_suffix(']')?.trim_matches(['\'', '"']);
        let map = map.strip_prefix("metadata.").filter(|m| matches!(*m, "labels" | "annotations"))?;
        return Some(pod["metadata"][map][key].as_str().unwrap_or_default().to_owned());
    }
    match path {
        "metadata.labels" | "metadata.annotations" => {
            let pairs = object::strings(pod, &format!("/{}", path.replace('.', "/")));
            Some(pairs.map(|(k, v)| format!("{k}={v:?}")).collect::<Vec<_>>().join("\n"))
        }
        "metadata.name"
        | "metadata.namespace"
        | "metadata.uid"
        | "spec.nodeName"
        | "spec.serviceAccountName"
        | "status.podIP"
        | "status.hostIP" => Some(text(pod, &format!("/{}", path.replace('.', "/"))).to_owned()),
        _ => None,
    }
}

/// Replaces `$(NAME)` by known variables; `$$` stands for `$`, unknown names stay as they are.
pub fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$$") {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix("$(").and_then(|r| r.split_once(')')) {
            match known.get(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&rest[..name.len() + 3]),
            }
            rest = after;
        } else {
            out.push('$');
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    out
}

/// The program (when the container names one) and its arguments.
pub fn command(
    container: &Value,
    env: &[(String, String)],
    mounts: &[Mount],
) -> (Option<String>, Vec<String>) {
    let known: BTreeMap<_, _> = env.iter().cloned().collect();
    let words = |pointer: &str| -> Vec<String> {
        let words = list(container, pointer).iter().filter_map(Value::as_str);
        words.map(|w| real_path(&expand(w, &known), mounts)).collect()
    };
    let mut command = words("/command").into_iter();
    let program = command.next();
    (program, command.chain(words("/args")).collect())
}

#[cfg(test)]
mod tests;
