//! The execution table: what is known of each execution, and what follows from each event.
//!
//! Pure: no clock, no tokio, no processes. Events come in as calls, what must be done goes out as
//! [`Action`]s, and the caller does it in that order. Late events of an execution that was replaced
//! or forgotten carry a [`Slot`] that no longer exists; they change nothing and are counted.
//!
//! What must always hold: an execution is started at most once; a finished one never changes again
//! and is kept until it is forgotten; whatever is stopped gets a kill timer; active executions never
//! exceed the capacity.

mod types;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use kruntimes_proto::v1::StopCause;

use crate::isolation::{Breach, GroupCounters};
use crate::usage::Measured;
pub(crate) use types::*;

/// Grace of executions from baseline clients, which cannot say one and expect the original's.
const BASELINE_GRACE: Duration = Duration::from_secs(2);

/// Bounds of one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Executions that are not finished.
    pub active: usize,
    /// Finished executions that wait to be forgotten.
    pub finished: usize,
    /// Between TERM and KILL when the request does not say.
    pub grace: Duration,
}

/// All executions. `P` is what the caller keeps with each.
#[derive(Debug)]
pub(crate) struct Table<P> {
    entries: BTreeMap<ExecutionId, Entry<P>>,
    slots: HashMap<Slot, ExecutionId>,
    bounds: Bounds,
    active: usize,
    next_slot: u64,
    draining: bool,
    stale: u64,
}

impl<P: Clone> Table<P> {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            entries: BTreeMap::new(),
            slots: HashMap::new(),
            bounds,
            active: 0,
            next_slot: 0,
            draining: false,
            stale: 0,
        }
    }

    /// Takes an execution in, or says that it is in already. `payload` is called only for a new one.
    pub(crate) fn execute(
        &mut self,
        id: &ExecutionId,
        fence: Fence,
        limits: Limits,
        payload: impl FnOnce() -> P,
    ) -> Result<Accepted<P>, Refusal> {
        if let Some(entry) = self.entries.get(id) {
            let finished = matches!(entry.state, State::Finished(_));
            match fence.against(entry.fence) {
                Age::Same if fence.is_baseline() && finished => {}
                Age::Same => return Ok(Accepted::Same(entry.payload.clone())),
                Age::Newer if finished => {}
                Age::Newer => return Err(Refusal::StillRunning { fence: entry.fence }),
                Age::Older => return Err(Refusal::Older { known: entry.fence, given: fence }),
            }
        }
        if self.draining {
            return Err(Refusal::Draining);
        }
        if self.active >= self.bounds.active {
            return Err(Refusal::Full { active: self.active });
        }
        let replaced = self.remove(id);
        let finished = self.entries.len() - self.active;
        if finished >= self.bounds.finished {
            if let Some(entry) = replaced {
                self.insert(id.clone(), entry);
            }
            return Err(Refusal::NotForgotten { finished });
        }
        let grace = if fence.is_baseline() { BASELINE_GRACE } else { self.bounds.grace };
        let slot = Slot(self.next_slot);
        self.next_slot += 1;
        let payload = payload();
        let entry = Entry {
            slot,
            fence,
            grace: limits.grace.unwrap_or(grace),
            payload: payload.clone(),
            state: State::Starting { stop: None },
        };
        self.insert(id.clone(), entry);
        let mut actions = Vec::new();
        actions.extend(limits.end_after.map(|after| Action::Arm(slot, Timer::End, after)));
        actions.extend(
            limits.warning.map(|warning| Action::Arm(slot, Timer::Warn(warning.signal), warning.after)),
        );
        Ok(Accepted::New { slot, payload, actions })
    }

    /// The author refused: as if it had never been taken in.
    pub(crate) fn refused(&mut self, slot: Slot) {
        if let Some(id) = self.slots.get(&slot).cloned() {
            self.remove(&id);
        }
    }

    /// Asked right before a process is made: false when it was stopped meanwhile, and is finished now.
    pub(crate) fn may_start(&mut self, slot: Slot, now: i64) -> (bool, Vec<Action>) {
        let Some(entry) = self.entry(slot) else { return (false, Vec::new()) };
        let State::Starting { stop } = &entry.state else { return (false, Vec::new()) };
        let Some(stop) = stop.clone() else { return (true, Vec::new()) };
        let outcome = Outcome { cause: stop.cause, message: stop.message, ..Outcome::never_started(now) };
        (false, self.finish(slot, outcome))
    }

    /// The process runs.
    pub(crate) fn started(&mut self, slot: Slot, at: i64) -> Vec<Action> {
        let Some(entry) = self.entry(slot) else { return Vec::new() };
        let State::Starting { stop } = &mut entry.state else { return Vec::new() };
        let stop = stop.take();
        let mut actions = vec![Action::Publish(slot)];
        actions.extend(stop.iter().flat_map(|stop| stop_actions(slot, stop.grace)));
        entry.state = State::Running { started_at: at, stop, sample: None };
        actions
    }

    /// Nothing runs and nothing ever did.
    pub(crate) fn start_failed(&mut self, slot: Slot, at: i64, code: i32, message: String) -> Vec<Action> {
        let outcome = Outcome { cause: StopCause::StartFailed, code, message, ..Outcome::never_started(at) };
        self.finish(slot, outcome)
    }

    /// Every process of it is gone (or, without proof, was killed).
    pub(crate) fn ended(&mut self, slot: Slot, found: Found) -> Vec<Action> {
        let Found { end, measured, breach } = found;
        let Some(entry) = self.entry(slot) else { return Vec::new() };
        let (started_at, stop) = match &entry.state {
            State::Starting { stop } => (end.at, stop.clone()),
            State::Running { started_at, stop, .. } => (*started_at, stop.clone()),
            State::Finished(_) => return Vec::new(),
        };
        // A stop that came too late to reach the command did not cause its end.
        let natural = if end.signal == 0 { StopCause::Exited } else { StopCause::Signalled };
        let stopped = stop.filter(|_| end.stopped).map(|stop| (stop.cause, stop.message));
        let broken = breach.map(|breach| (breach.cause, breach.message));
        let (cause, message) = stopped.or(broken).unwrap_or((natural, String::new()));
        let outcome = Outcome {
            cause,
            code: end.code,
            signal: end.signal,
            message,
            started_at,
            finished_at: end.at,
            measured,
            proven: end.proven,
            whole: end.proven,
        };
        self.finish(slot, outcome)
    }

    /// Its supervisor is gone without a report, `wall` microseconds after its process began. `proven` when its processes are
    /// known to be gone.
    pub(crate) fn lost(
        &mut self,
        slot: Slot,
        at: i64,
        wall: Option<u64>,
        proven: bool,
        group: GroupCounters,
    ) -> Vec<Action> {
        let Some(entry) = self.entry(slot) else { return Vec::new() };
        let (started_at, stop, sample) = match &entry.state {
            State::Starting { stop } => (0, stop.clone(), None),
            State::Running { started_at, stop, sample } => {
                (*started_at, stop.clone(), sample.as_deref().copied())
            }
            State::Finished(_) => return Vec::new(),
        };
        let measured = Measured { wall, group, ..sample.unwrap_or_default() };
        // What its supervisor had reaped went with it: only its groups still know all of it.
        let whole = proven && group.are_whole();
        let killed = "the supervisor of this execution was killed".to_owned();
        // What was being stopped was to end.
        let (cause, message) =
            stop.map_or((StopCause::ServerLost, killed), |stop| (stop.cause, stop.message));
        let signal = nix::libc::SIGKILL;
        let outcome =
            Outcome { cause, code: 0, signal, message, started_at, finished_at: at, measured, proven, whole };
        self.finish(slot, outcome)
    }

    /// What it used so far.
    pub(crate) fn sampled(&mut self, slot: Slot, measured: Measured) -> Vec<Action> {
        match self.entry(slot).map(|entry| &mut entry.state) {
            Some(State::Running { sample, .. }) => {
                *sample = Some(Box::new(measured));
                vec![Action::Publish(slot)]
            }
            _ => Vec::new(),
        }
    }

    /// It broke a bound that nothing but its end holds: it is ended without a grace. One that is being stopped keeps that
    /// cause.
    pub(crate) fn exceeded(&mut self, slot: Slot, breach: Breach) -> Vec<Action> {
        match self.entry(slot).map(|entry| &mut entry.state) {
            Some(State::Running { stop: stop @ None, .. }) => {
                let grace = Duration::ZERO;
                *stop = Some(Stop { cause: breach.cause, grace, message: breach.message });
                vec![Action::Arm(slot, Timer::Kill, grace)]
            }
            Some(State::Running { stop: Some(first), .. }) if !first.grace.is_zero() => {
                first.grace = Duration::ZERO;
                vec![Action::Arm(slot, Timer::Kill, first.grace)]
            }
            _ => Vec::new(),
        }
    }

    /// Stops an execution. Repeated calls keep the first cause and can only shorten the grace.
    pub(crate) fn cancel(
        &mut self,
        id: &ExecutionId,
        fence: Fence,
        cause: StopCause,
        grace: Option<Duration>,
    ) -> Result<Vec<Action>, Refusal> {
        let slot = self.find(id, fence)?.slot;
        Ok(self.stop(slot, cause, grace))
    }

    /// Drops a finished execution. Unknown ones, and attempts that are not here, are no error.
    pub(crate) fn forget(&mut self, id: &ExecutionId, fence: Fence) -> Result<Option<P>, Refusal> {
        match self.find(id, fence) {
            Err(Refusal::Unknown) => Ok(None),
            Err(refusal) => Err(refusal),
            Ok(entry) if !matches!(entry.state, State::Finished(_)) => {
                Err(Refusal::StillRunning { fence: entry.fence })
            }
            Ok(_) => Ok(self.remove(id).map(|entry| entry.payload)),
        }
    }

    /// A timer that was armed has run out.
    pub(crate) fn timer(&mut self, slot: Slot, timer: Timer) -> Vec<Action> {
        match timer {
            Timer::End => self.stop(slot, StopCause::Timeout, None),
            Timer::Warn(signal) => match self.entry(slot).map(|entry| &entry.state) {
                Some(State::Running { stop: None, .. }) => vec![Action::Signal(slot, signal)],
                _ => Vec::new(),
            },
            Timer::Kill => match self.entry(slot).map(|entry| &entry.state) {
                Some(State::Running { stop: Some(_), .. }) => vec![Action::Kill(slot)],
                _ => Vec::new(),
            },
        }
    }

    /// No new work from now on.
    pub(crate) fn drain(&mut self) {
        self.draining = true;
    }

    /// Stops whatever is not finished.
    pub(crate) fn stop_all(&mut self, cause: StopCause, grace: Duration) -> Vec<Action> {
        let slots: Vec<Slot> = self.entries.values().map(|entry| entry.slot).collect();
        slots.into_iter().flat_map(|slot| self.stop(slot, cause, Some(grace))).collect()
    }

    fn stop(&mut self, slot: Slot, cause: StopCause, grace: Option<Duration>) -> Vec<Action> {
        let Some(entry) = self.entry(slot) else { return Vec::new() };
        let grace = grace.unwrap_or(entry.grace);
        match &mut entry.state {
            State::Finished(_) => Vec::new(),
            // Carried out by `may_start` or `started`, whichever comes.
            State::Starting { stop } => {
                let first = stop.get_or_insert(Stop { cause, grace, message: String::new() });
                first.grace = first.grace.min(grace);
                Vec::new()
            }
            State::Running { stop: stop @ None, .. } => {
                *stop = Some(Stop { cause, grace, message: String::new() });
                stop_actions(slot, grace)
            }
            State::Running { stop: Some(first), .. } if grace < first.grace => {
                first.grace = grace;
                vec![Action::Arm(slot, Timer::Kill, grace)]
            }
            State::Running { .. } => Vec::new(),
        }
    }

    fn finish(&mut self, slot: Slot, outcome: Outcome) -> Vec<Action> {
        let Some(entry) = self.entry(slot) else { return Vec::new() };
        if matches!(entry.state, State::Finished(_)) {
            return Vec::new();
        }
        entry.state = State::Finished(Box::new(outcome));
        self.active -= 1;
        vec![Action::Publish(slot)]
    }

    /// The execution that a call means: its own attempt, or the current one when the call names none.
    pub(crate) fn find(&self, id: &ExecutionId, fence: Fence) -> Result<&Entry<P>, Refusal> {
        let entry = self.entries.get(id).ok_or(Refusal::Unknown)?;
        if fence.is_baseline() {
            return Ok(entry);
        }
        match fence.against(entry.fence) {
            Age::Same => Ok(entry),
            Age::Newer => Err(Refusal::Unknown),
            Age::Older => Err(Refusal::Older { known: entry.fence, given: fence }),
        }
    }

    /// By slot; `None` once it was replaced or forgotten.
    pub(crate) fn at(&self, slot: Slot) -> Option<(&ExecutionId, &Entry<P>)> {
        self.entries.get_key_value(self.slots.get(&slot)?)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ExecutionId, &Entry<P>)> {
        self.entries.iter()
    }

    /// Executions that are not finished.
    pub(crate) fn active(&self) -> usize {
        self.active
    }

    /// All that were not forgotten.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining
    }

    /// Events that came too late to mean anything.
    pub(crate) fn stale(&self) -> u64 {
        self.stale
    }

    fn entry(&mut self, slot: Slot) -> Option<&mut Entry<P>> {
        let found = self.slots.get(&slot).and_then(|id| self.entries.get_mut(id));
        if found.is_none() {
            self.stale += 1;
        }
        found
    }

    fn insert(&mut self, id: ExecutionId, entry: Entry<P>) {
        self.active += usize::from(!matches!(entry.state, State::Finished(_)));
        self.slots.insert(entry.slot, id.clone());
        self.entries.insert(id, entry);
    }

    fn remove(&mut self, id: &ExecutionId) -> Option<Entry<P>> {
        let entry = self.entries.remove(id)?;
        self.slots.remove(&entry.slot);
        self.active -= usize::from(!matches!(entry.state, State::Finished(_)));
        Some(entry)
    }
}

fn stop_actions(slot: Slot, grace: Duration) -> Vec<Action> {
    vec![Action::Signal(slot, nix::libc::SIGTERM), Action::Arm(slot, Timer::Kill, grace)]
}

#[cfg(test)]
mod tests;
