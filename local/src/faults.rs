//! Faults on demand, for tests: what an API server does on a bad day.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// The faults to play; all of them off by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct FaultPlan {
    /// Every request waits this long, in milliseconds.
    pub latency_milliseconds: u64,
    /// So many of the next writes over HTTP are refused with 409 Conflict.
    pub conflicts: u32,
    /// So many of the next requests are refused with 500.
    pub errors: u32,
    /// So many of the next watches that continue from a revision are answered 410 Expired.
    pub expired: u32,
    /// Restricts `conflicts` and `errors` to this resource, `runs` or `runs/status`; empty means all.
    pub resource: String,
}

/// The faults of one running platform. They touch requests over HTTP only, never the platform's own parts.
#[derive(Debug)]
pub struct Faults {
    plan: Mutex<FaultPlan>,
    watches: watch::Sender<u64>,
}

impl Default for Faults {
    fn default() -> Self {
        Self { plan: Mutex::new(FaultPlan::default()), watches: watch::Sender::new(0) }
    }
}

impl Faults {
    fn lock(&self) -> MutexGuard<'_, FaultPlan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is still to be played.
    pub fn plan(&self) -> FaultPlan {
        self.lock().clone()
    }

    pub fn set(&self, plan: FaultPlan) {
        *self.lock() = plan;
    }

    /// Ends every open watch, as a server does that restarts or grows tired.
    pub fn close_watches(&self) {
        self.watches.send_modify(|generation| *generation += 1);
    }

    pub(crate) fn watch_generation(&self) -> watch::Receiver<u64> {
        self.watches.subscribe()
    }

    pub(crate) fn latency(&self) -> Option<Duration> {
        Some(self.lock().latency_milliseconds).filter(|ms| *ms > 0).map(Duration::from_millis)
    }

    pub(crate) fn take_conflict(&self, resource: &str) -> bool {
        let mut plan = self.lock();
        plan.applies(resource) && take(&mut plan.conflicts)
    }

    pub(crate) fn take_error(&self, resource: &str) -> bool {
        let mut plan = self.lock();
        plan.applies(resource) && take(&mut plan.errors)
    }

    pub(crate) fn take_expired(&self) -> bool {
        take(&mut self.lock().expired)
    }
}

impl FaultPlan {
    fn applies(&self, resource: &str) -> bool {
        self.resource.is_empty() || self.resource == resource
    }
}

fn take(count: &mut u32) -> bool {
    let left = *count > 0;
    *count = count.saturating_sub(1);
    left
}
