//! Which files of others a Run can reach.

use std::sync::Arc;

use kruntimes_proto::v1::IsolationLevel;

pub(super) use super::part::no_step as step;
use super::{Axis, Place, Plain, Rung};

/// Best first.
pub(super) fn rungs(_place: &Place) -> Vec<Arc<dyn Rung>> {
    const WEAKNESS: &str = "all Runs share one uid and one file system: a working directory of mode 0700 does not keep them apart";
    vec![Plain::rung(Axis::Files, "directory", IsolationLevel::None, WEAKNESS)]
}
