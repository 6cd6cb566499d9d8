//! Runtimes in a table and in a few lines.

use jiff::Timestamp;
use kruntimes_api::Runtime;
use kruntimes_api::names::DEFAULT_PORT;
use kube::ResourceExt;

use super::table::{Cell, Listed, pairs};
use super::{age, or_dash, printable, quantity};
use crate::term::{Palette, style};

/// Image of the Runtime Server.
pub fn image(runtime: &Runtime) -> String {
    let image = runtime.spec.template.pointer("/spec/containers/0/image").and_then(|image| image.as_str());
    or_dash(image)
}

/// Pods wanted and Pods that take Runs.
pub fn replicas(runtime: &Runtime) -> (i32, i32) {
    let ready = runtime.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
    (runtime.spec.replicas.unwrap_or(1), ready)
}

impl Listed for Runtime {
    const HEADER: &[&str] = &["IMAGE", "REPLICAS", "READY", "PORT", "AGE"];
    const WIDE: &[&str] = &["CAPACITY", "IN USE", "STATE"];

    fn cells(&self, now: Timestamp) -> Vec<Cell> {
        let (wanted, ready) = replicas(self);
        let look = if ready < wanted { style::WARN } else { style::GOOD };
        let created = self.metadata.creation_timestamp.as_ref().map(|time| time.0);
        vec![
            image(self).into(),
            wanted.to_string().into(),
            Cell::styled(ready.to_string(), look),
            self.spec.port.unwrap_or(DEFAULT_PORT.into()).to_string().into(),
            age::since(created, now).into(),
        ]
    }

    fn wide_cells(&self, _: Timestamp) -> Vec<Cell> {
        let status = self.status.clone().unwrap_or_default();
        vec![
            quantity::list(&status.capacity).into(),
            quantity::list(&status.in_use).into(),
            state(self).into(),
        ]
    }
}

/// The condition that matters most, in a word or two.
fn state(runtime: &Runtime) -> String {
    let conditions = runtime.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let held = |kind: &str| {
        conditions.iter().find(|condition| condition.type_ == kind && condition.status == "True")
    };
    if let Some(degraded) = held("Degraded") {
        return format!("Degraded: {}", printable(&degraded.reason, false));
    }
    match (held("Available"), held("Progressing")) {
        (Some(_), _) => "Available".into(),
        (None, Some(_)) => "Progressing".into(),
        (None, None) => "-".into(),
    }
}

/// What `krt runtime get` prints.
pub fn card(runtime: &Runtime, now: Timestamp, palette: Palette) -> String {
    let (wanted, ready) = replicas(runtime);
    let status = runtime.status.clone().unwrap_or_default();
    let created = runtime.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let per_pod = runtime.spec.capacity.clone().unwrap_or_default().resources;
    let lines = [
        ("Name", runtime.name_any()),
        ("Namespace", runtime.namespace().unwrap_or_default()),
        ("Image", image(runtime)),
        ("Replicas", wanted.to_string()),
        ("Ready", ready.to_string()),
        ("Port", runtime.spec.port.unwrap_or(DEFAULT_PORT.into()).to_string()),
        (
            "Capacity per Pod",
            if per_pod.is_empty() { "runs=2 (default)".into() } else { quantity::list(&per_pod) },
        ),
        ("Capacity", quantity::list(&status.capacity)),
        ("In Use", quantity::list(&status.in_use)),
        ("State", state(runtime)),
        ("Age", age::since(created, now)),
    ];
    pairs(&lines, palette)
}
