//! What becomes due, by our own clock.

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

/// A time that an object carries, and when that is on our own clock: settled when it is first seen, so that a wall
/// clock that jumps afterwards neither ends a wait early nor makes it longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    wall: Timestamp,
    pub(super) mono: Duration,
}

impl Due {
    /// `known` is what was made of it before; `most` is how far ahead such a time can be at all, so that one written
    /// by a clock that was ahead of ours is not waited for.
    pub(super) fn of(wall: Timestamp, known: Option<Self>, most: Duration, now: Now) -> Self {
        let ahead = || Duration::try_from(wall - now.wall).unwrap_or_default().min(most);
        known.filter(|known| known.wall == wall).unwrap_or_else(|| Self { wall, mono: now.mono + ahead() })
    }
}

/// Due times in order.
#[derive(Debug, Default)]
pub(super) struct Timers {
    due: BTreeSet<(Duration, Timer)>,
}

impl Timers {
    pub(super) fn after(&mut self, time: Duration, timer: Timer) {
        self.due.insert((time, timer));
    }

    pub(super) fn cancel(&mut self, time: Duration, timer: &Timer) {
        self.due.remove(&(time, timer.clone()));
    }

    /// Takes one timer that is due.
    pub(super) fn pop(&mut self, now: Now) -> Option<Timer> {
        if self.due.first()?.0 > now.mono {
            return None;
        }
        self.due.pop_first().map(|(_, timer)| timer)
    }

    /// How long until the next is due.
    pub(super) fn next(&self, now: Now) -> Option<Duration> {
        self.due.first().map(|(time, _)| time.saturating_sub(now.mono))
    }
}
