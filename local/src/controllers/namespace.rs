//! Empties namespaces that are being deleted, then removes them.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::api::errors::ApiError;
use crate::api::{Api, DeleteOptions};

/// How often a namespace that waits for its contents is looked at again.
const RETRY: Duration = Duration::from_millis(200);

/// Runs until `stop`.
pub async fn run(api: Arc<Api>, stop: CancellationToken) {
    let kind = Arc::clone(api.kinds.core("namespaces"));
    let mut changes = api.store.changes(&kind);
    loop {
        changes.borrow_and_update();
        let (namespaces, _) = api.store.list(&kind, "", None);
        let mut waiting = false;
        for namespace in namespaces.iter().filter(|n| n.deleting) {
            match empty(&api, &namespace.key.name).await {
                Ok(true) => drop(api.finalize_namespace(namespace).await),
                Ok(false) => waiting = true,
                Err(why) => {
                    tracing::warn!(%why, namespace = namespace.key.name, "cannot empty a namespace");
                    waiting = true;
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETRY), if waiting => {}
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

/// Deletes everything in a namespace; true when nothing is left.
async fn empty(api: &Api, namespace: &str) -> Result<bool, ApiError> {
    let mut left = false;
    for kind in api.kinds.iter().filter(|k| k.namespaced) {
        for entry in api.store.list(kind, namespace, None).0 {
            if !entry.deleting {
                match api.delete(kind, &entry.key, &DeleteOptions::default()).await {
                    Ok(_) | Err(ApiError::NotFound { .. } | ApiError::Conflict { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            left = true;
        }
    }
    Ok(!left)
}
