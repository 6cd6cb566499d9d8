//! Where the containers of a Pod send their traces.

use k8s_openapi::api::core::v1::{Container, EnvVar};
use kruntimes_api::names::OTLP_ENDPOINT_ENV;

use super::pod::env;

/// Both to one collector: the author's, if the template names one for the server, else the installation's.
pub(super) fn tell_collector(server: &mut Container, sidecar: &mut Container, installed: Option<&str>) {
    let installed = installed.map(|endpoint| env(OTLP_ENDPOINT_ENV, endpoint));
    let authors = server.env.iter().flatten().find(|variable| variable.name == OTLP_ENDPOINT_ENV).cloned();
    if authors.is_none() {
        server.env.get_or_insert_default().extend(installed.clone());
    }
    // What refers to other variables of the server means nothing in another container.
    let refers = |variable: &EnvVar| variable.value.as_deref().is_some_and(|value| value.contains("$("));
    let theirs = authors.filter(|variable| !refers(variable)).or(installed);
    sidecar.env.get_or_insert_default().extend(theirs);
}
