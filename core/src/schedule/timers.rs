//! What becomes due, by either clock.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use super::Now;
use crate::ids::{PodUid, RunUid};

/// Something to look at again. A timer may be out of date when it fires.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A wait or deadline of a Run may be over.
    Run(RunUid),
    /// A waiting Run may be due for an explanation.
    Explain(RunUid),
    /// A heartbeat may have become stale.
    Beat(PodUid),
    /// The first Run of a group may have waited long enough for a reservation.
    Starving { queue: usize, group: usize },
}

/// Due times in order.
#[derive(Debug, Default)]
pub(super) struct Timers {
    wall: BTreeSet<(Timestamp, Timer)>,
    mono: BTreeSet<(Duration, Timer)>,
}

impl Timers {
    pub(super) fn at(&mut self, time: Timestamp, timer: Timer) {
        self.wall.insert((time, timer));
    }

    pub(super) fn after(&mut self, time: Duration, timer: Timer) {
        self.mono.insert((time, timer));
    }

    pub(super) fn cancel(&mut self, time: Timestamp, timer: &Timer) {
        self.wall.remove(&(time, timer.clone()));
    }

    /// Takes one timer that is due.
    pub(super) fn pop(&mut self, now: Now) -> Option<Timer> {
        if self.wall.first().is_some_and(|(time, _)| *time <= now.wall) {
            return self.wall.pop_first().map(|(_, timer)| timer);
        }
        if self.mono.first().is_some_and(|(time, _)| *time <= now.mono) {
            return self.mono.pop_first().map(|(_, timer)| timer);
        }
        None
    }

    /// How long until the next is due.
    pub(super) fn next(&self, now: Now) -> Option<Duration> {
        let wall =
            self.wall.first().map(|(time, _)| Duration::try_from(*time - now.wall).unwrap_or_default());
        let mono = self.mono.first().map(|(time, _)| time.saturating_sub(now.mono));
        [wall, mono].into_iter().flatten().min()
    }
}
