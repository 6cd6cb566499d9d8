//! Why a Runtime cannot be built.

use kruntimes_resources::{AmountError, DefinitionError};

/// A fault in a Runtime's spec. Permanent: it becomes the condition `Degraded` and waits for a change.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TemplateError {
    /// The name does not fit into a label.
    #[error("metadata.name {name:?} must have 1 to 53 characters, because app=kruntimes-NAME is a label")]
    Name {
        /// Given.
        name: String,
    },
    /// Not a PodTemplateSpec.
    #[error("spec.template cannot be decoded: {why}")]
    Undecodable {
        /// The decoder's words.
        why: String,
    },
    /// The Runtime Server's container is missing.
    #[error("spec.template.spec.containers[0] must be named \"runtime\" and have an image{found}")]
    NoRuntimeContainer {
        /// What is there instead.
        found: String,
    },
    /// Two containers share a name.
    #[error("spec.template.spec: two containers are named {name:?}")]
    DuplicateContainer {
        /// Name.
        name: String,
    },
    /// Two volumes share a name.
    #[error("spec.template.spec.volumes: two volumes are named {name:?}")]
    DuplicateVolume {
        /// Name.
        name: String,
    },
    /// Restart policy other than Always.
    #[error("spec.template.spec.restartPolicy must be Always, not {given:?}")]
    RestartPolicy {
        /// Given.
        given: String,
    },
    /// Not allowed in templates.
    #[error("spec.template.spec.ephemeralContainers is not allowed")]
    EphemeralContainers,
    /// Outside of 1..65535, or taken by the sidecar.
    #[error("spec.port {port} {why}")]
    Port {
        /// Given.
        port: i32,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The Runtime Server, and with it every Run, would get the Pod's rights.
    #[error("{field} would give the container \"runtime\" a service account token; Runs could use it")]
    Token {
        /// Which part of the template.
        field: String,
    },
    /// An amount that cannot be offered.
    #[error("spec.capacity.resources: {0}")]
    Capacity(AmountError),
    /// Pods that take no Runs at all.
    #[error(
        "spec.capacity.resources.runs is {given}: Pods that take no Run are no pool; for none of them, set spec.replicas to 0"
    )]
    NoRuns {
        /// Given.
        given: String,
    },
    /// A resource whose definition and capacity do not go together.
    #[error("spec.resources: {0}")]
    Resource(DefinitionError),
    /// More than a status can tell of.
    #[error(
        "spec.capacity.resources and spec.resources: {given} names with `runs`, which is always one; at most {most} fit"
    )]
    TooManyNames {
        /// Names that are offered.
        given: usize,
        /// So many are allowed.
        most: usize,
    },
    /// Not a volume source.
    #[error("spec.workspace is not one volume source: {why}")]
    Workspace {
        /// Why.
        why: String,
    },
    /// A field whose machinery does not exist yet.
    #[error("{field} is not available yet")]
    NotAvailable {
        /// Field.
        field: &'static str,
    },
}

impl TemplateError {
    /// The condition's reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Token { .. } => "TokenRefused",
            Self::NotAvailable { .. } => "NotAvailable",
            Self::Capacity(_) | Self::NoRuns { .. } | Self::TooManyNames { .. } | Self::Resource(_) => {
                "InvalidCapacity"
            }
            Self::Name { .. }
            | Self::Undecodable { .. }
            | Self::NoRuntimeContainer { .. }
            | Self::DuplicateContainer { .. }
            | Self::DuplicateVolume { .. }
            | Self::RestartPolicy { .. }
            | Self::EphemeralContainers
            | Self::Port { .. }
            | Self::Workspace { .. } => "InvalidTemplate",
        }
    }
}
