//! What can go wrong, in words for a person: what failed, why, and what to do next.

use std::io;
use std::time::Duration;

use kube::core::Status;

use crate::exit;

/// A failure of `krt` itself. Permanent unless its text says otherwise; nothing here is retried.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A flag or argument that cannot be used; found before the first request.
    #[error("{flag}: {why}")]
    Flag {
        /// As the person wrote it, for instance `--env`.
        flag: String,
        /// What is wrong with it.
        why: String,
    },
    /// There is nothing to talk to.
    #[error("there is no cluster to talk to: no kubeconfig, and no local platform is running")]
    NoTarget,
    /// A kubeconfig that cannot be used.
    #[error("cannot use the kubeconfig{}: {why}", of_path(.path))]
    Kubeconfig {
        /// Empty when several files or the environment are meant.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// The API could not be reached.
    #[error("cannot {doing}: {address} does not answer: {why}")]
    Unreachable {
        /// The step, for instance `create the Run`.
        doing: String,
        /// Address of the API.
        address: String,
        /// The transport's innermost words.
        why: String,
        /// The address belongs to the local platform.
        local: bool,
    },
    /// The API refused.
    #[error("cannot {doing}: {}", refusal(.status))]
    Refused {
        /// The step.
        doing: String,
        /// The API's answer.
        status: Box<Status>,
    },
    /// The API did not answer in `--request-timeout`.
    #[error("cannot {doing}: no answer within {limit:?} (--request-timeout)")]
    Slow {
        /// The step.
        doing: String,
        /// The bound.
        limit: Duration,
    },
    /// The API answered something that is not understood.
    #[error("cannot {doing}: {why}")]
    Protocol {
        /// The step.
        doing: String,
        /// What is odd.
        why: String,
    },
    /// A file or stream of this machine.
    #[error("cannot {doing}: {source}")]
    Io {
        /// The step.
        doing: String,
        /// The system's answer.
        source: io::Error,
    },
    /// Not done before the person's own limit.
    #[error("{what} within {limit:?}")]
    Expired {
        /// What had not happened.
        what: String,
        /// The bound.
        limit: Duration,
    },
    /// Anything else, with what to do next.
    #[error("{message}")]
    Failed {
        /// What failed and why.
        message: String,
        /// What to do next; empty when there is nothing to say.
        hint: String,
    },
    /// Whoever read our standard output has gone; nobody is left to be told.
    #[error("standard output was closed")]
    ClosedPipe,
}

fn of_path(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!(" {path}") }
}

fn refusal(status: &Status) -> &str {
    if status.message.is_empty() { &status.reason } else { &status.message }
}

impl Error {
    /// A flag's mistake.
    pub fn flag(flag: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Flag { flag: flag.into(), why: why.into() }
    }

    /// A failure of this machine; a closed pipe keeps its own kind.
    pub fn io(doing: impl Into<String>, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::BrokenPipe => Self::ClosedPipe,
            _ => Self::Io { doing: doing.into(), source },
        }
    }

    /// A failure with advice.
    pub fn failed(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Failed { message: message.into(), hint: hint.into() }
    }

    /// Translates the client's error.
    pub fn from_kube(doing: &str, address: &str, local: bool, error: kube::Error) -> Self {
        let doing = doing.to_owned();
        match error {
            kube::Error::Api(status) => Self::Refused { doing, status },
            kube::Error::Service(source) => {
                Self::Unreachable { doing, address: address.to_owned(), why: innermost(&*source), local }
            }
            kube::Error::HyperError(source) => {
                Self::Unreachable { doing, address: address.to_owned(), why: innermost(&source), local }
            }
            kube::Error::Auth(source) => {
                Self::Kubeconfig { path: String::new(), why: innermost_chain(&source) }
            }
            other => Self::Protocol { doing, why: innermost_chain(&other) },
        }
    }

    /// The API's status code, if it was the API that refused.
    pub fn api_code(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(status.code),
            _ => None,
        }
    }

    /// What to do next.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::NoTarget => {
                "start one on this machine with `krt local up --detach`, or name a cluster with --kubeconfig"
            }
            Self::Unreachable { local: true, .. } => {
                "the local platform has stopped: `krt local up --detach` starts it again"
            }
            Self::Unreachable { .. } => {
                "check the address in the kubeconfig (or --server) and that the cluster is up"
            }
            Self::Refused { status, .. } => refusal_hint(status)?,
            Self::Failed { hint, .. } if !hint.is_empty() => hint,
            Self::Flag { .. }
            | Self::Kubeconfig { .. }
            | Self::Slow { .. }
            | Self::Protocol { .. }
            | Self::Io { .. }
            | Self::Expired { .. }
            | Self::Failed { .. }
            | Self::ClosedPipe => return None,
        };
        Some(text.to_owned())
    }

    /// See [`exit`].
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Expired { .. } => exit::TIMEOUT,
            Self::ClosedPipe => exit::CLOSED_PIPE,
            Self::Flag { .. }
            | Self::NoTarget
            | Self::Kubeconfig { .. }
            | Self::Unreachable { .. }
            | Self::Refused { .. }
            | Self::Slow { .. }
            | Self::Protocol { .. }
            | Self::Io { .. }
            | Self::Failed { .. } => exit::FAILED,
        }
    }
}

fn refusal_hint(status: &Status) -> Option<&'static str> {
    match status.code {
        401 => Some("the credentials were not accepted: check the kubeconfig's user, or --token"),
        403 => Some("you lack that right in this namespace: ask its owner, or choose another with -n"),
        // No object is meant: the kind itself is unknown to the server.
        404 if status.details.as_ref().is_none_or(|d| d.name.is_empty()) => Some(
            "kruntimes is not installed on this cluster: install the chart charts/kruntimes-crds, then charts/kruntimes",
        ),
        404 => status.details.as_ref().and_then(|details| where_it_might_be(&details.kind)),
        _ => None,
    }
}

/// The API names the kind by its plural; only a namespace that is missing is not ours.
fn where_it_might_be(plural: &str) -> Option<&'static str> {
    match plural {
        "runs" => Some("`krt list -A` shows every Run that you may see"),
        "runtimes" => Some("`krt runtime list -A` shows every Runtime that you may see"),
        "namespaces" => {
            Some("the namespace must exist first: `kubectl create namespace` makes it, -n names another")
        }
        _ => None,
    }
}

/// The last words of a chain of causes: there the reason is, without the layers above it.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut at = error;
    while let Some(source) = at.source() {
        at = source;
    }
    at.to_string()
}

/// The causes from outside in, without those that only repeat the next.
fn innermost_chain(error: &(dyn std::error::Error + 'static)) -> String {
    let outer = error.to_string();
    let inner = innermost(error);
    if outer.contains(&inner) { outer } else { format!("{outer}: {inner}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_decides_what_is_said() {
        let hint = |kind: &str, name: &str| {
            let status = serde_json::json!({
                "kind": "Status", "code": 404, "details": {"kind": kind, "name": name, "group": "kruntimes.io"},
            });
            let status: Status = serde_json::from_value(status).unwrap();
            Error::Refused { doing: "ask".into(), status: Box::new(status) }.hint().unwrap_or_default()
        };
        assert!(hint("runs", "a").contains("`krt list -A`"));
        assert!(hint("runtimes", "a").contains("`krt runtime list -A`"));
        assert!(hint("namespaces", "a").contains("namespace must exist"));
        assert_eq!(hint("leases", "a"), "");
        assert!(hint("runs", "").contains("not installed"));
    }
}
