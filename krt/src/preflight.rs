//! What a cluster would give to Runs: the Pod that finds out, how far it is, and what it found.
//!
//! Pure: the command in `commands::preflight` sends and reads.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Event, Pod};
use kruntimes_api::run::IsolationAxis;
use kruntimes_api::runtime::RuntimeSpec;
use kruntimes_api::{Runtime, names};
use kruntimes_core::desired::probe_template;
use kube::api::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::Error;

/// Says to whom the Pod belongs.
pub const LABEL: (&str, &str) = ("app.kubernetes.io/name", "kruntimes-preflight");

/// The server that looks unless another is named: the chart's; the local platform knows it by its last part.
pub const DEFAULT_IMAGE: &str = concat!("kruntimes/bash-server:", env!("CARGO_PKG_VERSION"));

/// A kind of Pod, as the table of `docs/isolation.md` has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// Not root, no capabilities, RuntimeDefault: a Runtime that says nothing.
    #[default]
    Restricted,
    /// Root in the container, the usual capabilities, RuntimeDefault.
    Root,
    /// Root of a user namespace (hostUsers false) with SYS_ADMIN.
    UserNamespaces,
    /// Everything.
    Privileged,
}

impl Profile {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Restricted => "restricted",
            Self::Root => "root",
            Self::UserNamespaces => "user-namespaces",
            Self::Privileged => "privileged",
        }
    }

    /// The Pod Security level that admits it.
    fn level(self) -> &'static str {
        match self {
            Self::Restricted => "restricted",
            Self::Root => "baseline",
            Self::UserNamespaces | Self::Privileged => "privileged",
        }
    }

    /// A Runtime of this kind, whose Runs ask for no network, so that also that axis tells what there is.
    pub fn runtime(self, image: &str, runtime_class: Option<&str>) -> Runtime {
        let default = json!({"type": "RuntimeDefault"});
        let security = match self {
            // The controller fills it in.
            Self::Restricted => Value::Null,
            Self::Root => json!({"runAsUser": 0, "seccompProfile": default}),
            Self::UserNamespaces => {
                json!({"runAsUser": 0, "seccompProfile": default, "capabilities": {"add": ["SYS_ADMIN"]}})
            }
            Self::Privileged => json!({"runAsUser": 0, "privileged": true}),
        };
        let amounts = |cpu: &str, memory: &str| json!({"cpu": cpu, "memory": memory});
        let mut container = json!({
            "name": names::RUNTIME_CONTAINER,
            "image": image,
            "resources": {"requests": amounts("10m", "32Mi"), "limits": amounts("1", "256Mi")},
        });
        if !security.is_null() {
            container["securityContext"] = security;
        }
        let mut pod = json!({"containers": [container]});
        if self == Self::UserNamespaces {
            pod["hostUsers"] = json!(false);
        }
        if let Some(class) = runtime_class {
            pod["runtimeClassName"] = json!(class);
        }
        let isolation = kruntimes_api::runtime::IsolationSpec {
            network: Some(kruntimes_api::runtime::Network::None),
            ..Default::default()
        };
        Runtime {
            metadata: ObjectMeta { name: Some("preflight".into()), ..ObjectMeta::default() },
            spec: RuntimeSpec {
                template: json!({"spec": pod}),
                isolation: Some(isolation),
                ..RuntimeSpec::default()
            },
            status: None,
        }
    }
}

/// The Pod `name` that probes the place of `runtime`; it ends itself after `seconds` should nobody remove it.
///
/// # Errors
/// When the Runtime's template cannot be built.
pub fn pod(runtime: &Runtime, name: &str, seconds: i64) -> Result<Pod, Error> {
    let template = probe_template(runtime).map_err(|error| {
        Error::failed(
            format!(
                "cannot build the Pod of Runtime {}: {error}",
                runtime.metadata.name.as_deref().unwrap_or("")
            ),
            "correct the Runtime, or name a kind of Pod with --profile",
        )
    })?;
    let mut metadata = template.metadata.unwrap_or_default();
    metadata.name = Some(name.to_owned());
    metadata.labels = Some(BTreeMap::from([(LABEL.0.to_owned(), LABEL.1.to_owned())]));
    let mut spec = template.spec.unwrap_or_default();
    spec.active_deadline_seconds = Some(seconds);
    spec.termination_grace_period_seconds = Some(0);
    Ok(Pod { metadata, spec: Some(spec), status: None })
}

/// How far the Pod is.
#[derive(Debug)]
pub enum Progress {
    /// Not there yet; in words.
    Waiting(String),
    /// Its log is complete.
    Ended {
        /// Exit code, if the server has ended by itself.
        code: Option<i32>,
        /// In words.
        how: String,
    },
    /// It will never get there.
    Stuck(Error),
}

/// Reads it from the Pod.
pub fn progress(pod: &Pod) -> Progress {
    let status = pod.status.clone().unwrap_or_default();
    let container = status.container_statuses.iter().flatten().find(|c| c.name == names::RUNTIME_CONTAINER);
    let state = container.and_then(|container| container.state.clone()).unwrap_or_default();
    if let Some(ended) = state.terminated {
        let why = [ended.reason, ended.message].into_iter().flatten().filter(|word| !word.is_empty());
        let how = why.collect::<Vec<_>>().join(": ");
        return Progress::Ended { code: Some(ended.exit_code), how };
    }
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        let why = [status.reason, status.message].into_iter().flatten().filter(|word| !word.is_empty());
        return Progress::Ended { code: None, how: why.collect::<Vec<_>>().join(": ") };
    }
    if let Some(waiting) = state.waiting {
        let reason = waiting.reason.unwrap_or_default();
        let message = waiting.message.unwrap_or_default();
        let image = container.map(|container| container.image.clone()).unwrap_or_default();
        match stuck(&reason, &message, &image) {
            Some(error) => return Progress::Stuck(error),
            None if !reason.is_empty() => {
                let words = if message.is_empty() { reason } else { format!("{reason}: {message}") };
                return Progress::Waiting(words);
            }
            None => {}
        }
    }
    let conditions = status.conditions.unwrap_or_default();
    match conditions.into_iter().find(|c| c.type_ == "PodScheduled" && c.status == "False") {
        Some(condition) => {
            Progress::Waiting(format!("no node takes it: {}", condition.message.unwrap_or_default()))
        }
        None => Progress::Waiting(status.phase.unwrap_or_else(|| "Pending".into())),
    }
}

/// A reason for which a container waits that does not pass by itself.
fn stuck(reason: &str, message: &str, image: &str) -> Option<Error> {
    let hint = match reason {
        "ErrImagePull"
        | "ImagePullBackOff"
        | "InvalidImageName"
        | "ErrImageNeverPull"
        | "RegistryUnavailable"
        | "ImageInspectError" => {
            "name an image of a Runtime Server that the nodes can pull with --image, or a Runtime whose Pods do with --runtime"
        }
        "CreateContainerConfigError" => {
            "the container cannot be made as the profile or the Runtime's template has it"
        }
        "CreateContainerError" | "RunContainerError" => {
            "the node's container runtime refuses it; another --profile or --runtime-class may be taken"
        }
        _ => return None,
    };
    let told = if message.is_empty() { String::new() } else { format!(": {message}") };
    Some(Error::failed(format!("the Pod cannot start: image {image}: {reason}{told}"), hint))
}

/// Why the API refused the Pod, with what to do about it.
pub fn refused(error: Error, namespace: &str, profile: Option<Profile>) -> Error {
    let Error::Refused { doing, status } = &error else { return error };
    let text = &status.message;
    let hint = if text.contains("violates PodSecurity") {
        let level = profile.map_or("privileged", Profile::level);
        format!(
            "this namespace admits no such Pod: choose another with -n, or let its owner label it \
             pod-security.kubernetes.io/enforce={level} (`kubectl label namespace {namespace} ...`)"
        )
    } else if text.contains("exceeded quota") || text.contains("failed quota") {
        "make room in the namespace's ResourceQuota, or choose another namespace with -n".to_owned()
    } else if text.contains("namespaces") && text.contains("not found") {
        format!("make it with `kubectl create namespace {namespace}`, or choose another with -n")
    } else if text.contains("RuntimeClass") || text.contains("runtimeclass") {
        "name a RuntimeClass that the cluster has (`kubectl get runtimeclasses`)".to_owned()
    } else if status.code == 403 {
        format!(
            "you need the rights to create, get, watch and delete pods and to get pods/log in namespace {namespace}: \
             ask its owner, or choose another with -n"
        )
    } else {
        return error;
    };
    Error::failed(format!("cannot {doing}: {text}"), hint)
}

/// What the last warnings about the Pod say, for a Pod that does not start in time.
pub fn warnings(events: &[Event]) -> String {
    let told = events.iter().filter(|event| event.type_.as_deref() == Some("Warning"));
    let mut words: Vec<String> = told.filter_map(|event| event.message.clone()).collect();
    words.dedup();
    words.into_iter().rev().take(2).collect::<Vec<_>>().join("; ")
}

/// What the server in the Pod printed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Found {
    /// The server that looked.
    pub server: Server,
    /// Release of the node's kernel.
    pub kernel: String,
    /// The server's user id.
    pub user: u32,
    /// Axis by axis.
    pub isolation: Vec<Axis>,
    /// Where the figures of the bill come from.
    pub accounting: Vec<Source>,
}

/// Which server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
}

/// What holds, and what would give more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Axis {
    /// As in `Run.status.isolation`.
    #[serde(flatten)]
    pub held: IsolationAxis,
    /// Settings of the Pod, the node or the Runtime.
    #[serde(default)]
    pub remedies: Vec<String>,
}

/// Source of one figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// Its name.
    pub figure: String,
    /// Its source.
    pub source: String,
}

/// Finds it in the Pod's log.
///
/// # Errors
/// When it is not there: the image's server does not know the flag, or could not look.
pub fn read(log: &str, image: &str, code: Option<i32>, how: &str) -> Result<Found, Error> {
    let found = log.lines().rev().find_map(|line| serde_json::from_str::<Found>(line).ok());
    if let Some(found) = found {
        return Ok(found);
    }
    let last = log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing");
    let code = code.map_or_else(String::new, |code| format!(" with code {code}"));
    let how = if how.is_empty() { String::new() } else { format!(" ({how})") };
    Err(Error::failed(
        format!("image {image} tells nothing of its place: it ended{code}{how}, its last words: {last}"),
        "only servers of this version's server-kit know --probe: name the image of one with --image",
    ))
}

#[cfg(test)]
mod tests;
