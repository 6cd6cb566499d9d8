//! How every process of a Run is ended, and how that is proven.

use std::sync::Arc;

use kruntimes_proto::v1::IsolationLevel;

use super::cgroup::{Controller, Groups, Version};
use super::limits::{FOR_GROUPS, settle};

pub(super) use super::part::no_step as step;
use super::{Axis, ConfineError, Confinement, Place, Rung, Subject};

/// Best first.
pub(super) fn rungs(place: &Place, groups: &Arc<Groups>) -> Vec<Arc<dyn Rung>> {
    vec![
        Arc::new(KillGroup { groups: Arc::clone(groups), version: Version::V2 }),
        Arc::new(KillGroup { groups: Arc::clone(groups), version: Version::V1 }),
        Arc::new(Subreaper { wanted: place.may_group(Axis::Kill, "cgroup-v1-freezer") }),
    ]
}

/// Everything in the Run's group is ended at once: by `cgroup.kill`, or frozen first where there is only
/// version 1. The supervisor reaps until the kernel says that it has no child, and the group must be empty.
struct KillGroup {
    groups: Arc<Groups>,
    version: Version,
}

impl Rung for KillGroup {
    fn axis(&self) -> Axis {
        Axis::Kill
    }

    fn mechanism(&self) -> &'static str {
        match self.version {
            Version::V2 => "cgroup-v2",
            Version::V1 => "cgroup-v1-freezer",
        }
    }

    fn level(&self) -> IsolationLevel {
        IsolationLevel::Hard
    }

    fn probe(&self) -> Result<(), String> {
        if let Some(reason) = self.groups.missing(self.version) {
            return Err(reason.to_owned());
        }
        match self.version {
            Version::V2 => self.groups.can_kill(),
            Version::V1 if self.groups.version_of(Controller::Freezer).is_some() => Ok(()),
            Version::V1 => Err("the freezer hierarchy cannot be used".into()),
        }
    }

    fn weakness(&self, _ids: bool) -> String {
        String::new()
    }

    fn confine(&self, _run: &Subject<'_>, confinement: &mut Confinement) -> Result<(), ConfineError> {
        settle(&self.groups, confinement)
    }
}

/// One supervisor per Run that inherits, kills and reaps whatever the Run leaves.
struct Subreaper {
    /// Groups were not switched off.
    wanted: bool,
}

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

    fn weakness(&self, _ids: bool) -> String {
        "every process of an ended Run is killed and reaped with the kernel's proof, but a Run can signal supervisors of its own uid".to_owned()
    }

    fn remedy(&self) -> &'static str {
        if self.wanted { FOR_GROUPS } else { "" }
    }
}
