//! What keeps the processes of a container together.

use std::path::Path;
use std::process::Stdio;

use super::init::{INIT_NAME, PROBE};

/// From the strongest to the weakest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Its own PID namespace, made as root: nothing outlives the platform.
    PidNamespace,
    /// The same inside a user namespace, for other users.
    UserNamespace,
    /// The kernel allows neither: a process that leaves the group may outlive the platform.
    ProcessGroup,
}

impl Isolation {
    pub fn word(self) -> &'static str {
        match self {
            Self::PidNamespace => "pid-namespace",
            Self::UserNamespace => "user-namespace",
            Self::ProcessGroup => "process-group",
        }
    }

    /// Whether a kill of the platform leaves nothing behind.
    pub fn holds(self) -> bool {
        self != Self::ProcessGroup
    }

    /// What this machine gives the containers, found out by starting `init_program` once.
    pub async fn probe(init_program: &Path) -> Self {
        let output = tokio::process::Command::new(init_program)
            .arg0(INIT_NAME)
            .arg(PROBE)
            .stdin(Stdio::null())
            .output()
            .await;
        let said = output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default();
        let known = [Self::PidNamespace, Self::UserNamespace];
        known.into_iter().find(|i| i.word() == said).unwrap_or(Self::ProcessGroup)
    }
}
