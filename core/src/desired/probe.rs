//! A Pod that finds out what a Runtime's Pods would give to Runs, and ends.

use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec};
use kruntimes_api::Runtime;
use kruntimes_api::names::RUNTIME_CONTAINER;

use super::{Defaults, TemplateError, object_name, pod};

/// The server prints what it finds as JSON and ends.
const PROBE_FLAG: &str = "--probe";

/// The container `runtime` of the Pods of `runtime` as the controller would build it, alone, with the place that it
/// would have: the same security settings, node and volumes. It takes no Runs, is selected by nobody and runs once.
///
/// # Errors
/// As [`super::desired`].
pub fn probe_template(runtime: &Runtime) -> Result<PodTemplateSpec, TemplateError> {
    let name = runtime.metadata.name.as_deref().unwrap_or_default();
    let mut template = pod::template(runtime, name, &Defaults::default())?;
    if let Some(metadata) = &mut template.metadata {
        // By its labels a Pod belongs to a pool.
        metadata.labels = None;
        metadata.finalizers = None;
        // Those of the author may say something to the node's container runtime.
        if let Some(annotations) = &mut metadata.annotations {
            annotations.retain(|key, _| !key.starts_with("kruntimes.io/"));
        }
    }
    if let Some(spec) = &mut template.spec {
        alone(spec);
        // Only the sidecar needs the pool's own account, which may not exist.
        if spec.service_account_name.as_deref() == Some(object_name(name).as_str()) {
            spec.service_account_name = None;
        }
    }
    Ok(template)
}

fn alone(spec: &mut PodSpec) {
    spec.containers.retain(|container| container.name == RUNTIME_CONTAINER);
    spec.init_containers = None;
    spec.readiness_gates = None;
    spec.restart_policy = Some("Never".into());
    let Some(server) = spec.containers.first_mut() else { return };
    server.args.get_or_insert_default().push(PROBE_FLAG.into());
    (server.liveness_probe, server.readiness_probe, server.startup_probe) = (None, None, None);
    server.ports = None;
    server.lifecycle = None;
    let mounted = |name: &str| server.volume_mounts.iter().flatten().any(|mount| mount.name == name);
    if let Some(volumes) = &mut spec.volumes {
        volumes.retain(|volume| mounted(&volume.name));
    }
}
