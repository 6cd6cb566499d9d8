//! [`RunWriter`] over kube.

use std::sync::Arc;

use async_trait::async_trait;
use kruntimes_api::run::Run;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};

use super::{ApiError, RunWriter};

/// Runs of one namespace.
#[derive(Clone)]
pub struct KubeRuns {
    api: Api<Run>,
}

impl KubeRuns {
    /// Of `namespace`.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self { api: Api::namespaced(client, namespace) }
    }
}

#[async_trait]
impl RunWriter for KubeRuns {
    async fn get(&self, name: &str) -> Result<Arc<Run>, ApiError> {
        Ok(Arc::new(self.api.get(name).await?))
    }

    async fn patch_status(&self, name: &str, patch: &serde_json::Value) -> Result<Arc<Run>, ApiError> {
        let done = self.api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(Arc::new(done))
    }
}
