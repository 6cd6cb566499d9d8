//! Whom a Run can talk to.

use std::sync::Arc;

use kruntimes_proto::v1::IsolationLevel;

pub(super) use super::part::no_step as step;
use super::{Axis, Place, Plain, Rung};

/// Best first.
pub(super) fn rungs(_place: &Place) -> Vec<Arc<dyn Rung>> {
    const WEAKNESS: &str = "every Run shares the Pod's network";
    vec![Plain::rung(Axis::Network, "shared", IsolationLevel::None, WEAKNESS)]
}
