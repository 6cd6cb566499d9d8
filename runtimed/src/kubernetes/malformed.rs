//! Runs that cannot be decoded: one of them must neither blind this Pod nor hold its
//! slots for ever.

use kruntimes_api::run::{Run, RunSpec, RunStatus};
use kruntimes_core::ids::PodRef;
use kruntimes_core::run::{Event as RunEvent, State, patch, transition};
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::error_boundary::InvalidObject;
use kube::{Api, Client, Resource as _};

use super::ApiError;
use crate::metrics::RuntimedMetrics;

/// Ends a malformed Run of this Pod as `InvalidRun`.
pub async fn fail_malformed(
    client: Client,
    namespace: &str,
    pod: &PodRef,
    bad: InvalidObject,
    metrics: &RuntimedMetrics,
) {
    let name = bad.metadata.name.clone().unwrap_or_default();
    tracing::warn!(run = %name, error = %bad.error, "malformed Run");
    let api: Api<DynamicObject> = Api::namespaced_with(client, namespace, &ApiResource::erase::<Run>(&()));
    let raw = match api.get(&name).await {
        Ok(raw) => raw,
        Err(error) => return tracing::warn!(run = %name, %error, "cannot read a malformed Run"),
    };
    // Its status is ours to read, whatever the spec holds.
    let status: Option<RunStatus> =
        raw.data.get("status").cloned().and_then(|status| serde_json::from_value(status).ok());
    let run = Run { metadata: raw.meta().clone(), spec: RunSpec::default(), status };
    let bound =
        State::of(&run).is_ok_and(|state| state.bound().is_some_and(|(owner, _)| owner.uid == pod.uid));
    if !bound {
        return;
    }
    let event = RunEvent::Invalid { message: format!("the Run cannot be read: {}", bad.error) };
    let Ok(status) = transition(&run, &event, jiff::Timestamp::now()) else { return };
    let Some(change) = patch(&run, &status) else { return };
    let written = api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&change)).await;
    let written = written.map_err(ApiError::from);
    metrics.wrote(written.as_ref().err());
    if let Err(error) = written {
        tracing::warn!(run = %name, %error, "cannot end a malformed Run");
    }
}
