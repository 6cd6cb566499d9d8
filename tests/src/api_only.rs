//! An API server alone with our kinds and policies on it, installed by their chart: no Pods, no controllers.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, ensure};
use kruntimes_node::ApiServer;

use crate::Platform;
use crate::node::chart;

/// Dropped, it ends.
pub struct ApiOnly(ApiServer);

impl ApiOnly {
    /// Starts it, of the version that `KRT_KUBERNETES` names, and installs the chart `kruntimes-crds`.
    ///
    /// # Errors
    /// When one of both fails; what helm printed is in the error.
    pub fn start() -> anyhow::Result<Self> {
        let server = ApiServer::start()?;
        let mut helm = server.helm()?;
        helm.args(["install", "kruntimes-crds", &chart("kruntimes-crds")?, "--namespace=default"]);
        let output = helm.stdin(Stdio::null()).output().context("cannot run helm")?;
        ensure!(output.status.success(), "helm: {}", String::from_utf8_lossy(&output.stderr));
        Ok(Self(server))
    }
}

impl Platform for ApiOnly {
    fn name(&self) -> &'static str {
        "api"
    }

    fn kubeconfig(&self) -> PathBuf {
        self.0.kubeconfig().to_owned()
    }

    fn shared(&self) -> Option<PathBuf> {
        None
    }

    fn shared_mount(&self) -> Option<PathBuf> {
        None
    }

    fn kubectl(&self) -> Option<PathBuf> {
        kruntimes_node::ensure_kubectl().ok()
    }
}
