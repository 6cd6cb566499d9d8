//! Which devices a Run can open.

use std::sync::Arc;

use kruntimes_proto::v1::IsolationLevel;

pub(super) use super::part::no_step as step;
use super::{Axis, Place, Plain, Rung};

/// Best first.
pub(super) fn rungs(_place: &Place) -> Vec<Arc<dyn Rung>> {
    const WEAKNESS: &str = "every device of the container is open to every Run";
    vec![Plain::rung(Axis::Devices, "none", IsolationLevel::None, WEAKNESS)]
}
