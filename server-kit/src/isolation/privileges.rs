//! As whom a Run runs, and which system calls it may make.

use std::sync::Arc;

use kruntimes_proto::v1::IsolationLevel;

pub(super) use super::part::no_step as step;
use super::{Axis, Place, Plain, Rung};

/// Best first.
pub(super) fn rungs(_place: &Place) -> Vec<Arc<dyn Rung>> {
    const WEAKNESS: &str = "no privilege can be gained, but all Runs share the server's uid and capabilities, and the server's token is kept from them by the server's own memory protection only";
    vec![Plain::rung(Axis::Privileges, "no-new-privs", IsolationLevel::Soft, WEAKNESS)]
}
