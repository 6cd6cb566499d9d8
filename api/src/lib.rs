//! The Kubernetes API of the project: `Run`, `Runtime` and `RuntimeInstance`,
//! group `kruntimes.io`, version `v1alpha1`.
//!
//! Owns the types, their bounds and rules, the generated CRDs and the names
//! that objects, labels and conditions carry on the wire. Comes in: nothing;
//! goes out: types for every other crate and the CRD manifests of the charts.
//! No client and no decision lives here. Must always hold: a manifest that uses
//! only the baseline's fields is accepted and keeps its meaning.

pub mod bounds;
pub mod crds;
pub mod duration;
pub mod instance;
pub mod names;
mod reason;
pub mod rules;
pub mod run;
pub mod runtime;

pub use instance::{RuntimeInstance, RuntimeInstanceStatus};
pub use reason::Reason;
pub use run::{Phase, Run, RunSpec, RunStatus};
pub use runtime::{Runtime, RuntimeSpec, RuntimeStatus};
