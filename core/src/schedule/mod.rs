//! Which Run goes into which Pod.
//!
//! Owns the queues, what each Pod has free, and the order of binds. Comes in:
//! objects as the watches deliver them, and what became of each decision. Goes out:
//! [`Decision`]s, each a Run as it was read and the [`run::Event`](crate::run::Event)
//! to put it through; [`Scheduler::plan`] says when to ask again. Must always hold
//! (and [`Scheduler::check`] proves): no Pod holds more than it offers, a Run is in
//! one place at a time, within one demand Runs go in queue order, and a Run that fits
//! somewhere does not wait.
//!
//! One queue per Runtime and namespace; queues take turns, so that a long one does
//! not starve a short one. Within a queue the order is priority, age, name. Runs with
//! the same demand form a group: when its first Run does not fit, none does, so a
//! decision costs about log(Pods) however many wait.

mod affinity;
mod check;
mod demand;
mod events;
mod explain;
mod intern;
mod plan;
mod pods;
mod queue;
mod reserve;
mod scheduler;
mod timers;
mod tree;
mod view;

#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::Timestamp;
use kruntimes_api::Run;
use kruntimes_resources::Amounts;

use crate::run::Event;

pub use explain::Rejection;
pub use pods::capacity_of;
pub use scheduler::{QueueDepth, Scheduler};
pub use view::{InstanceView, PodView, RuntimeView};

/// The time, twice: what clocks on the wall say, for times that objects carry, and
/// what passed since the process started, for ages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Wall clock; may jump.
    pub wall: Timestamp,
    /// Monotonic, from any fixed point of this process.
    pub mono: Duration,
}

/// Times of the scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// A heartbeat older than this stops binding to its Pod.
    pub fresh: Duration,
    /// A Run that waited this long for room gets room reserved.
    pub reserve_after: Duration,
    /// A Pod that handed a Run back for want of room is not offered it again for this
    /// long, unless its inventory changes.
    pub refuse_for: Duration,
    /// A Run that no Pod of the pool can take, as the pool is, is told so after this.
    pub explain_stuck_after: Duration,
    /// A Run that only waits for its turn is told so after this.
    pub explain_busy_after: Duration,
    /// An explanation is written again at most this often.
    pub explain_every: Duration,
    /// Time between two explanations of any Runs.
    pub explain_pause: Duration,
    /// How long to wait for the newer version of a Run after a conflict.
    pub settle: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            fresh: Duration::from_secs(25),
            reserve_after: Duration::from_secs(30),
            refuse_for: Duration::from_secs(10),
            explain_stuck_after: Duration::from_secs(1),
            explain_busy_after: Duration::from_secs(10),
            explain_every: Duration::from_secs(30),
            explain_pause: Duration::from_millis(50),
            settle: Duration::from_secs(5),
        }
    }
}

/// What a Run asks for, kept apart from the Run: what it holds depends on its Runtime, which may be seen later or change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim(demand::Demand);

impl Claim {
    /// Reads a Run.
    pub fn of(run: &Run) -> Self {
        Self(demand::Demand::of(run))
    }

    /// What the Run holds of its Pod while it is bound.
    pub fn held(&self, runtime: Option<&RuntimeView>) -> Amounts {
        self.0.held(runtime).amounts
    }
}

/// One write to do: put `run` through `event`.
#[derive(Debug, Clone)]
pub struct Decision {
    /// The Run as last seen: metadata, status and the mutable part of the spec.
    pub run: Box<Run>,
    /// What happens to it.
    pub event: Event,
}

/// What became of a [`Decision`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Written.
    Written,
    /// The Run changed since it was read.
    Conflict,
    /// The Run no longer exists.
    Gone,
    /// Refused for another reason; tried again after [`Settings::settle`].
    Failed,
}

/// What to do now, and when to ask again.
#[derive(Debug, Default)]
pub struct Plan {
    /// Writes, each to be answered by [`Scheduler::settled`].
    pub decisions: Vec<Decision>,
    /// Ask again after this long, even if nothing happens.
    pub next: Option<Duration>,
}
