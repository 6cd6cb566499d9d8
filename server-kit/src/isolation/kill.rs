//! How every process of a Run is ended, and how that is proven.

use std::sync::Arc;

use kruntimes_proto::v1::IsolationLevel;

pub(super) use super::part::no_step as step;
use super::{Axis, Place, Rung};

/// Best first.
pub(super) fn rungs(_place: &Place) -> Vec<Arc<dyn Rung>> {
    vec![Arc::new(Subreaper)]
}

/// One supervisor per Run that inherits, kills and reaps whatever the Run leaves.
struct Subreaper;

impl Rung for Subreaper {
    fn axis(&self) -> Axis {
        Axis::Kill
    }

    fn mechanism(&self) -> &'static str {
        "subreaper"
    }

    fn level(&self) -> IsolationLevel {
        IsolationLevel::Soft
    }

    fn probe(&self) -> Result<(), String> {
        // The kill loop reads who is whose child.
        std::fs::read_dir("/proc/self/task")
            .map(drop)
            .map_err(|error| format!("/proc cannot be read: {error}"))
    }

    fn weakness(&self) -> String {
        "every process of an ended Run is killed and reaped with the kernel's proof, but a Run can signal supervisors of its own uid".to_owned()
    }
}
