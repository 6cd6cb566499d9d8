//! CPU, memory, processes, IO and storage of one Run.

use std::sync::Arc;

use kruntimes_proto::v1::IsolationLevel;

pub(super) use super::part::no_step as step;
use super::{Axis, Place, Plain, Rung};

/// Best first.
pub(super) fn rungs(_place: &Place) -> Vec<Arc<dyn Rung>> {
    const WEAKNESS: &str = "cgroups and rlimits are not used yet: nothing is bounded";
    vec![Plain::rung(Axis::Limits, "none", IsolationLevel::None, WEAKNESS)]
}
