//! [`RunWriter`] over kube.

use std::sync::Arc;

use async_trait::async_trait;
use kruntimes_api::run::Run;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};

use super::{ApiError, RunWriter};
use crate::metrics::RuntimedMetrics;

/// Runs of one namespace.
#[derive(Clone)]
pub struct KubeRuns {
    api: Api<Run>,
    metrics: RuntimedMetrics,
}

impl KubeRuns {
    /// Of `namespace`; each write is counted.
    pub fn new(client: Client, namespace: &str, metrics: RuntimedMetrics) -> Self {
        Self { api: Api::namespaced(client, namespace), metrics }
    }
}

#[async_trait]
impl RunWriter for KubeRuns {
    async fn get(&self, name: &str) -> Result<Arc<Run>, ApiError> {
        Ok(Arc::new(self.api.get(name).await?))
    }

    async fn patch_status(&self, name: &str, patch: &serde_json::Value) -> Result<Arc<Run>, ApiError> {
        let done = self.api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        let done = done.map_err(ApiError::from);
        self.metrics.wrote(done.as_ref().err());
        Ok(Arc::new(done?))
    }
}
