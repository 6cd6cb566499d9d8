//! Objects of the snapshots, as a platform would write them.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Pod};
use kruntimes_api::{Run, Runtime, RuntimeInstance};
use serde::de::DeserializeOwned;

/// The present of every snapshot.
pub(crate) fn now() -> Timestamp {
    "2026-08-08T10:05:00Z".parse().unwrap()
}

fn from<T: DeserializeOwned>(yaml: &str) -> T {
    serde_yaml::from_str(yaml).unwrap()
}

/// A Run that has everything and ended well at its second attempt.
pub(crate) fn finished() -> Run {
    from(include_str!("../../tests/fixtures/finished.yaml"))
}

/// A Run that waits for room.
pub(crate) fn pending() -> Run {
    from(include_str!("../../tests/fixtures/pending.yaml"))
}

/// A Run that was killed for its memory.
pub(crate) fn failed() -> Run {
    from(include_str!("../../tests/fixtures/failed.yaml"))
}

/// A Run that is under way.
pub(crate) fn running() -> Run {
    from(include_str!("../../tests/fixtures/running.yaml"))
}

/// A Run that nobody has looked at.
pub(crate) fn fresh() -> Run {
    from("{metadata: {name: fresh, namespace: default, uid: u5}, spec: {runtime: bash}}")
}

pub(crate) fn events() -> Vec<Event> {
    from(include_str!("../../tests/fixtures/events.yaml"))
}

pub(crate) fn runtime() -> Runtime {
    from(include_str!("../../tests/fixtures/runtime.yaml"))
}

pub(crate) fn pods() -> Vec<Pod> {
    from(include_str!("../../tests/fixtures/pods.yaml"))
}

pub(crate) fn instances() -> Vec<RuntimeInstance> {
    from(include_str!("../../tests/fixtures/instances.yaml"))
}
