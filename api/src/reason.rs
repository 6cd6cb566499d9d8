//! `status.reason`: a closed list, the same words in metrics and in `krt`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why a Run is where it is. Nobody finds one by parsing text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Reason {
    /// Ended with exit code 0.
    Completed,
    /// Ended with another exit code.
    NonZeroExit,
    /// Ended for its memory limit.
    OutOfMemory,
    /// Ended for its GPU memory share.
    GpuMemoryExceeded,
    /// Ended for its process limit.
    PidsExceeded,
    /// Ended for its storage limit.
    StorageExceeded,
    /// Ran longer than `spec.timeout`.
    Timeout,
    /// `spec.cancelRequested`.
    Cancelled,
    /// The source could not be prepared.
    SourceFailed,
    /// The spec cannot be run as written.
    InvalidRun,
    /// The outputs file has a malformed line.
    OutputsInvalid,
    /// The outputs exceed their bounds.
    OutputsTooLarge,
    /// An artifact was refused.
    ArtifactInvalid,
    /// An artifact could not be stored.
    ArtifactFailed,
    /// The Runtime Server refused the execution.
    ServerRejected,
    /// The Runtime Server was lost with the execution.
    ServerLost,
    /// The Pod no longer exists.
    PodGone,
    /// The Pod was asked to stop.
    PodTerminating,
    /// The Pod's heartbeat stopped.
    PodUnhealthy,
    /// A device failed (hardware verdicts only).
    DeviceLost,
    /// An application-class GPU error.
    GpuFault,
    /// The backend reported a failure.
    BackendFailed,
    /// The backend lost the work.
    BackendLost,
    /// The command could not be started.
    StartFailed,
    /// The node evicted the work.
    Evicted,
    /// Not started within `spec.pendingTimeout`.
    PendingTimeout,
    /// `spec.suspend`.
    Suspended,
    /// No Pod can take it now (on a Pending Run).
    Unschedulable,
}

impl Reason {
    /// Every reason, in the order of the documentation.
    pub const ALL: [Self; 28] = [
        Self::Completed,
        Self::NonZeroExit,
        Self::OutOfMemory,
        Self::GpuMemoryExceeded,
        Self::PidsExceeded,
        Self::StorageExceeded,
        Self::Timeout,
        Self::Cancelled,
        Self::SourceFailed,
        Self::InvalidRun,
        Self::OutputsInvalid,
        Self::OutputsTooLarge,
        Self::ArtifactInvalid,
        Self::ArtifactFailed,
        Self::ServerRejected,
        Self::ServerLost,
        Self::PodGone,
        Self::PodTerminating,
        Self::PodUnhealthy,
        Self::DeviceLost,
        Self::GpuFault,
        Self::BackendFailed,
        Self::BackendLost,
        Self::StartFailed,
        Self::Evicted,
        Self::PendingTimeout,
        Self::Suspended,
        Self::Unschedulable,
    ];

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::NonZeroExit => "NonZeroExit",
            Self::OutOfMemory => "OutOfMemory",
            Self::GpuMemoryExceeded => "GpuMemoryExceeded",
            Self::PidsExceeded => "PidsExceeded",
            Self::StorageExceeded => "StorageExceeded",
            Self::Timeout => "Timeout",
            Self::Cancelled => "Cancelled",
            Self::SourceFailed => "SourceFailed",
            Self::InvalidRun => "InvalidRun",
            Self::OutputsInvalid => "OutputsInvalid",
            Self::OutputsTooLarge => "OutputsTooLarge",
            Self::ArtifactInvalid => "ArtifactInvalid",
            Self::ArtifactFailed => "ArtifactFailed",
            Self::ServerRejected => "ServerRejected",
            Self::ServerLost => "ServerLost",
            Self::PodGone => "PodGone",
            Self::PodTerminating => "PodTerminating",
            Self::PodUnhealthy => "PodUnhealthy",
            Self::DeviceLost => "DeviceLost",
            Self::GpuFault => "GpuFault",
            Self::BackendFailed => "BackendFailed",
            Self::BackendLost => "BackendLost",
            Self::StartFailed => "StartFailed",
            Self::Evicted => "Evicted",
            Self::PendingTimeout => "PendingTimeout",
            Self::Suspended => "Suspended",
            Self::Unschedulable => "Unschedulable",
        }
    }

    /// The word that conditions carry: the baseline's where it has one.
    pub fn condition_word(self) -> &'static str {
        match self {
            Self::NonZeroExit => "RuntimeError",
            Self::SourceFailed => "PrepareSource",
            Self::ServerRejected | Self::StartFailed => "RuntimeExecute",
            Self::ServerLost => "ExecutionLost",
            other => other.as_str(),
        }
    }

    /// Ends that are nobody's fault, counted by `maxInfrastructureRetries`.
    pub fn is_infrastructure(self) -> bool {
        matches!(
            self,
            Self::PodGone
                | Self::PodTerminating
                | Self::PodUnhealthy
                | Self::ServerLost
                | Self::DeviceLost
                | Self::BackendLost
                | Self::Evicted
        )
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_words_match_serde() {
        for reason in Reason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }
}
