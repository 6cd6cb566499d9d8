//! The few controllers that the kinds need: Deployments, owner references, namespaces, old Events.

pub mod deployment;
pub mod gc;
pub mod namespace;
