//! What happens to the scheduler's state when Runs change and writes are answered.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use kruntimes_api::duration;
use kruntimes_api::names::TRACEPARENT_ANNOTATION;
use kruntimes_api::run::Run;

use super::demand::{Demand, Resolved};
use super::intern::ByAddress;
use super::queue::{GroupKey, OrderKey};
use super::scheduler::{Answer, Entry, Note, Place, Urgent};
use super::timers::{Due, Timer};
use super::{Now, Outcome, Scheduler};
use crate::ids::{PodUid, RunUid};
use crate::run::{MAX_BACKOFF, State};

/// How many times longer than after a failed write the newer version is awaited after a conflict.
const CONFLICT_PATIENCE: u32 = 6;

impl Scheduler {
    /// A Run was seen. Ended and malformed ones are forgotten.
    pub fn run_seen(&mut self, run: &Run, now: Now) {
        let Some(uid) = run.metadata.uid.as_deref().map(RunUid::from) else { return };
        let Ok(state) = State::of(run) else { return self.run_gone(&uid, now) };
        if let State::Ended { .. } = state {
            return self.run_gone(&uid, now);
        }
        if self.is_echo(&uid, run, &state) {
            return;
        }
        let mut entry = self.entry_of(run, &uid, now);
        let bound = state.bound().map(|(pod, _)| pod.uid.clone());
        if let Some(old) = self.runs.remove(&uid) {
            entry.queued_at = old.queued_at;
            entry.explained_at = old.explained_at;
            // Time under suspension is no waiting for room.
            entry.waiting_since = if old.suspend && !entry.suspend { now.mono } else { old.waiting_since };
            entry.sent.clone_from(&old.sent);
            entry.avoid.clone_from(&old.avoid);
            entry.refused.clone_from(&old.refused);
            if let Place::Assumed { .. } | Place::Bound { .. } = old.place {
                self.note_return(&mut entry, &old, &state, now);
            }
            let keeps = self.keeps_place(&old, &entry, bound.as_ref());
            if keeps {
                self.unseen -= usize::from(old.place.is_assumed() && bound.is_some());
                entry.place = match bound {
                    Some(pod) => Place::Bound { pod },
                    None => old.place.clone(),
                };
                entry.held.clone_from(&old.held);
                entry.note = old.note;
                self.cancel_timers(&uid, &old);
                self.set_timers(&uid, &entry);
                self.runs.insert(uid, entry);
                return;
            }
            self.runs.insert(uid.clone(), old);
            self.take_out(&uid);
            // That this Run itself has left is no new room.
            if let Some((pod, inventory, until)) = &mut entry.refused
                && *until == now.mono + self.settings.refuse_for
            {
                *inventory = self.inventory(pod);
            }
        }
        self.queues[entry.queue].members.insert(uid.clone());
        self.set_timers(&uid, &entry);
        self.runs.insert(uid.clone(), entry);
        match bound {
            Some(pod) => self.hold(&uid, pod.clone(), Place::Bound { pod }),
            None => self.enqueue(&uid, now),
        }
    }

    /// An event from before our own write, which the write's answer overtook.
    fn is_echo(&self, uid: &RunUid, run: &Run, state: &State) -> bool {
        let Some(entry) = self.runs.get(uid) else { return false };
        let State::Pending { .. } = state else { return false };
        if let Place::Assumed { assignment, answer: Answer::Written, .. } = &entry.place {
            return run.status.as_ref().and_then(|status| status.assignment).unwrap_or(0) < *assignment;
        }
        entry.place == Place::Ending { written: true }
    }

    /// Whether the change from `old` to `new` leaves the Run where it is.
    fn keeps_place(&self, old: &Entry, new: &Entry, bound: Option<&PodUid>) -> bool {
        let same =
            old.queue == new.queue && Arc::ptr_eq(&old.demand, &new.demand) && old.labels == new.labels;
        if !same {
            return false;
        }
        match (&old.place, bound) {
            (Place::Assumed { pod, .. } | Place::Bound { pod }, Some(bound)) => pod == bound,
            (Place::Assumed { answer, .. }, None) => match answer {
                // The write in flight will be answered.
                Answer::Awaited => true,
                // Still the version that the doubtful write was decided on: nothing new is known.
                Answer::Doubtful { .. } => new.version == old.sent,
                Answer::Written => false,
            },
            // The write in flight will be answered; the change is looked at then.
            (Place::Parked | Place::Waiting(_), None) => old.note == Some(Note::Sent),
            (Place::Ending { .. }, None) => true,
            (Place::Ending { .. }, Some(_)) => false,
            (Place::Bound { .. }, None) => false,
            (Place::Parked | Place::Waiting(_), Some(_)) => false,
            (Place::Urgent(_) | Place::Held { .. }, _) => false,
        }
    }

    /// Remembers why a Run came back from its Pod.
    fn note_return(&self, entry: &mut Entry, old: &Entry, state: &State, now: Now) {
        let (Place::Assumed { pod, .. } | Place::Bound { pod }, State::Pending { .. }) = (&old.place, state)
        else {
            return;
        };
        let status = entry.status.as_deref();
        if let Place::Assumed { assignment, .. } = old.place
            && status.and_then(|status| status.assignment).unwrap_or(0) < assignment
        {
            // It never was there: the bind was not written.
            return;
        }
        entry.waiting_since = now.mono;
        match status.and_then(|status| status.reason) {
            Some(reason) if reason.is_infrastructure() => entry.avoid = Some(pod.clone()),
            Some(_) => {}
            // Handed back: the Pod has less room than it seemed to have.
            None => entry.refused = Some((pod.clone(), 0, now.mono + self.settings.refuse_for)),
        }
    }

    pub(super) fn inventory(&self, pod: &PodUid) -> u64 {
        let slot = self.pods.get(pod).and_then(|place| self.queues[place.queue].pods.get(place.slot));
        slot.map_or(0, |slot| slot.inventory)
    }

    fn entry_of(&mut self, run: &Run, uid: &RunUid, now: Now) -> Entry {
        let meta = &run.metadata;
        let namespace = self.names.share(meta.namespace.as_deref().unwrap_or_default());
        let queue = self.queue_id(&namespace, &run.spec.runtime);
        let created = meta.creation_timestamp.as_ref().map_or(now.wall, |time| time.0);
        let demand = self.demands.keep(Arc::new(Demand::of(run)));
        let status = run.status.as_ref();
        let old = self.runs.get(uid);
        let not_before = status
            .and_then(|s| s.next_attempt_time.as_ref())
            .map(|time| Due::of(time.0, old.and_then(|old| old.not_before), MAX_BACKOFF, now));
        // Once an attempt has run, the Run has started in time.
        let is_first = status.and_then(|s| s.attempt).unwrap_or(1) <= 1;
        let timeout = run.spec.pending_timeout.as_deref().filter(|_| is_first);
        let deadline = timeout.and_then(|text| duration::parse(text).ok()).and_then(|most| {
            Some(Due::of(created.checked_add(most).ok()?, old.and_then(|old| old.deadline), most, now))
        });
        Entry {
            order: OrderKey {
                priority: Reverse(run.spec.priority.unwrap_or(0)),
                created,
                name: meta.name.as_deref().unwrap_or_default().into(),
                uid: uid.clone(),
            },
            namespace,
            queue,
            version: meta.resource_version.as_deref().unwrap_or_default().into(),
            sent: "".into(),
            generation: meta.generation,
            demand,
            submitter: run
                .spec
                .submitter
                .as_deref()
                .filter(|submitter| !submitter.is_empty())
                .map(|submitter| self.names.share(submitter)),
            labels: meta.labels.clone().filter(|labels| !labels.is_empty()).map(Arc::new),
            trace: meta
                .annotations
                .as_ref()
                .and_then(|all| all.get(TRACEPARENT_ANNOTATION))
                .map(|text| text.as_str().into()),
            // One that is being deleted starts nothing any more.
            suspend: run.spec.suspend == Some(true) || meta.deletion_timestamp.is_some(),
            cancel: run.spec.cancel_requested == Some(true),
            not_before,
            deadline,
            status: run.status.clone().map(Box::new),
            place: Place::Parked,
            note: None,
            held: None,
            queued_at: now.wall,
            waiting_since: now.mono,
            explained_at: None,
            avoid: None,
            refused: None,
        }
    }

    /// A Run has ended or was deleted.
    pub fn run_gone(&mut self, uid: &RunUid, _now: Now) {
        self.take_out(uid);
        if let Some(entry) = self.runs.remove(uid) {
            self.cancel_timers(uid, &entry);
            self.queues[entry.queue].members.remove(uid);
        }
    }

    /// Every Run that has not ended was listed: forgets the others.
    pub fn runs_listed(&mut self, listed: &HashSet<RunUid>, now: Now) {
        let gone: Vec<_> = self.runs.keys().filter(|uid| !listed.contains(*uid)).cloned().collect();
        for uid in gone {
            self.run_gone(&uid, now);
        }
    }

    /// Puts a known Run where it belongs by now, for instance after its Runtime changed.
    pub(super) fn replace(&mut self, uid: &RunUid, now: Now) {
        let Some(entry) = self.runs.get(uid) else { return };
        match entry.place.clone() {
            Place::Parked | Place::Urgent(_) | Place::Waiting(_) => {
                self.take_out(uid);
                self.enqueue(uid, now);
            }
            Place::Assumed { pod, .. } | Place::Bound { pod } => {
                let place = entry.place.clone();
                self.take_out(uid);
                self.hold(uid, pod, place);
            }
            Place::Ending { .. } | Place::Held { .. } => {}
        }
    }

    /// Decides where an unbound Run waits.
    pub(super) fn enqueue(&mut self, uid: &RunUid, now: Now) {
        let Some(entry) = self.runs.get(uid) else { return };
        let (id, demand) = (entry.queue, Arc::clone(&entry.demand));
        if entry.cancel {
            return self.urge(uid, Urgent::Cancel);
        }
        if entry.deadline.is_some_and(|deadline| deadline.mono <= now.mono) {
            return self.urge(uid, Urgent::PendingTimeout);
        }
        if entry.suspend || entry.not_before.is_some_and(|time| time.mono > now.mono) {
            return;
        }
        let Some(runtime) = &self.queues[id].runtime else {
            self.timers.after(now.mono + self.settings.explain_stuck_after, Timer::Explain(uid.clone()));
            return;
        };
        let single = runtime.tenancy == kruntimes_api::runtime::Tenancy::SingleSubmitter;
        let resolved = match self.queues[id].resolve(&demand) {
            Ok(resolved) => resolved,
            Err(message) => return self.urge(uid, Urgent::Invalid(message)),
        };
        let Some(entry) = self.runs.get_mut(uid) else { return };
        if let Some((_, _, until)) = &entry.refused {
            if *until <= now.mono {
                entry.refused = None;
            } else {
                self.timers.after(*until, Timer::Run(uid.clone()));
            }
        }
        let key = GroupKey {
            demand: ByAddress(demand),
            submitter: entry.submitter.clone().filter(|_| single),
            alone: (entry.avoid.is_some() || entry.refused.is_some()).then(|| uid.clone()),
        };
        let order = entry.order.clone();
        let explain_at = now.mono.max(entry.waiting_since + self.settings.explain_stuck_after);
        if resolved.terms.is_some() {
            self.choosy.entry(Arc::clone(&entry.namespace)).or_default().insert(id);
        }
        let groups = self.queues[id].group_count();
        let group = self.queues[id].join(key, resolved, order);
        entry.place = Place::Waiting(group);
        if self.queues[id].group_count() > groups {
            self.wake_starving(id, now);
        }
        if entry_never_explained(self.runs.get(uid)) {
            self.timers.after(explain_at, Timer::Explain(uid.clone()));
        }
        self.activate(id);
    }

    fn urge(&mut self, uid: &RunUid, urgent: Urgent) {
        // One write at a time: the answer to the other brings the Run here again.
        if let Some(entry) = self.runs.get_mut(uid).filter(|entry| entry.note != Some(Note::Sent)) {
            entry.place = Place::Urgent(urgent);
            self.urgent.push_back(uid.clone());
        }
    }

    /// Takes a Run out of its place; it is parked then.
    pub(super) fn take_out(&mut self, uid: &RunUid) {
        let Some(entry) = self.runs.get_mut(uid) else { return };
        let place = std::mem::replace(&mut entry.place, Place::Parked);
        self.unseen -= usize::from(place.is_assumed());
        match place {
            Place::Waiting(group) => {
                let (id, order) = (entry.queue, entry.order.clone());
                self.queues[id].leave(group, &order);
                self.unreserve(id, uid);
                // The next in its group has not been tried itself.
                self.queues[id].list(group);
                self.activate(id);
            }
            Place::Assumed { pod, .. } | Place::Bound { pod } => {
                let held = entry.held.take();
                let (namespace, submitter) = (Arc::clone(&entry.namespace), entry.submitter.clone());
                if let Some(load) = self.loads.get_mut(&pod) {
                    if let Some(held) = held {
                        load.held.subtract(&held.amounts);
                    }
                    load.runs.remove(uid);
                    if let Some(count) = load.submitters.get_mut(&submitter) {
                        *count -= 1;
                        if *count == 0 {
                            load.submitters.remove(&submitter);
                        }
                    }
                    if load.runs.is_empty() {
                        self.loads.remove(&pod);
                    }
                }
                if let Some(placed) = self.placed.get_mut(&namespace) {
                    placed.remove(uid);
                    if placed.is_empty() {
                        self.placed.remove(&namespace);
                    }
                }
                self.refresh_pod(&pod);
                self.wake_choosy(&namespace);
            }
            Place::Parked | Place::Urgent(_) | Place::Ending { .. } | Place::Held { .. } => {}
        }
    }

    /// Counts an unplaced Run in on `pod`.
    pub(super) fn hold(&mut self, uid: &RunUid, pod: PodUid, place: Place) {
        let Some(entry) = self.runs.get_mut(uid) else { return };
        let queue = &mut self.queues[entry.queue];
        let held: Arc<Resolved> = match queue.resolve(&entry.demand) {
            Ok(resolved) => resolved,
            Err(_) => Arc::new(entry.demand.held(queue.runtime.as_ref())),
        };
        let load = self.loads.entry(pod.clone()).or_default();
        load.held.add(&held.amounts);
        load.runs.insert(uid.clone());
        *load.submitters.entry(entry.submitter.clone()).or_default() += 1;
        entry.held = Some(held);
        self.unseen += usize::from(place.is_assumed());
        entry.place = place;
        let namespace = Arc::clone(&entry.namespace);
        self.placed.entry(Arc::clone(&namespace)).or_default().insert(uid.clone());
        self.refresh_pod(&pod);
        self.wake_choosy(&namespace);
    }

    /// The answer to a decision.
    pub fn settled(&mut self, uid: &RunUid, outcome: Outcome, now: Now) {
        let Some(entry) = self.runs.get_mut(uid) else { return };
        let moved_on = entry.version != entry.sent;
        if entry.note == Some(Note::Sent) {
            return self.noted(uid, moved_on, outcome, now);
        }
        match (&mut entry.place, outcome) {
            (Place::Assumed { answer, .. }, Outcome::Written) => *answer = Answer::Written,
            (Place::Ending { written }, Outcome::Written) => *written = true,
            (Place::Assumed { answer, .. }, Outcome::Conflict | Outcome::Failed) if !moved_on => {
                // A conflict says that a newer version exists: the watch brings it, however late it is.
                let patience = if outcome == Outcome::Conflict { CONFLICT_PATIENCE } else { 1 };
                let until = now.mono + self.settings.settle * patience;
                *answer = Answer::Doubtful { until };
                self.timers.after(until, Timer::Run(uid.clone()));
            }
            (
                Place::Assumed { .. } | Place::Ending { .. },
                Outcome::Conflict | Outcome::Gone | Outcome::Failed,
            ) => self.try_later(uid, moved_on && outcome == Outcome::Conflict, now),
            // The watch was faster, or the Run has moved on.
            (
                Place::Parked
                | Place::Urgent(_)
                | Place::Waiting(_)
                | Place::Bound { .. }
                | Place::Held { .. },
                Outcome::Written | Outcome::Conflict | Outcome::Gone | Outcome::Failed,
            ) => {}
        }
    }

    /// The answer to the write of an explanation. The watch brings the version that the next write needs, if it
    /// has not yet.
    fn noted(&mut self, uid: &RunUid, moved_on: bool, outcome: Outcome, now: Now) {
        let Some(entry) = self.runs.get_mut(uid) else { return };
        if outcome == Outcome::Written {
            entry.explained_at = Some(now.mono);
        }
        if moved_on && matches!(outcome, Outcome::Written | Outcome::Conflict) {
            entry.note = None;
            return self.replace(uid, now);
        }
        let until = now.mono + self.settings.settle;
        entry.note = Some(Note::Settling(until));
        self.timers.after(until, Timer::Run(uid.clone()));
    }

    /// Gives up what a Run has and queues it: at once if its newer version is known, else when that
    /// is seen or after [`Settings::settle`](super::Settings).
    fn try_later(&mut self, uid: &RunUid, at_once: bool, now: Now) {
        self.take_out(uid);
        if at_once {
            return self.enqueue(uid, now);
        }
        let until = now.mono + self.settings.settle;
        if let Some(entry) = self.runs.get_mut(uid) {
            entry.place = Place::Held { until };
            self.timers.after(until, Timer::Run(uid.clone()));
        }
    }

    /// A wait or deadline of a Run may be over.
    pub(super) fn run_due(&mut self, uid: &RunUid, now: Now) {
        let Some(entry) = self.runs.get_mut(uid) else { return };
        let expired = entry.refused.as_ref().is_some_and(|(_, _, until)| *until <= now.mono);
        let overdue = entry.deadline.is_some_and(|deadline| deadline.mono <= now.mono);
        match entry.note {
            Some(Note::Sent) => return,
            Some(Note::Settling(until)) if until > now.mono => return,
            Some(Note::Settling(_)) => {
                entry.note = None;
                return self.replace(uid, now);
            }
            None => {}
        }
        match entry.place {
            Place::Held { until } if until <= now.mono => {
                entry.place = Place::Parked;
                self.enqueue(uid, now);
            }
            Place::Assumed { answer: Answer::Doubtful { until }, .. } if until <= now.mono => {
                self.take_out(uid);
                self.enqueue(uid, now);
            }
            Place::Parked => {
                // What it waited for before this does not count as waiting for room.
                entry.waiting_since = now.mono;
                self.enqueue(uid, now);
            }
            Place::Waiting(_) if expired || overdue => self.replace(uid, now),
            Place::Urgent(_)
            | Place::Waiting(_)
            | Place::Assumed { .. }
            | Place::Bound { .. }
            | Place::Ending { .. }
            | Place::Held { .. } => {}
        }
    }

    fn set_timers(&mut self, uid: &RunUid, entry: &Entry) {
        for time in [entry.not_before, entry.deadline].into_iter().flatten() {
            if !is_placed(entry) {
                self.timers.after(time.mono, Timer::Run(uid.clone()));
            }
        }
    }

    fn cancel_timers(&mut self, uid: &RunUid, entry: &Entry) {
        for time in [entry.not_before, entry.deadline].into_iter().flatten() {
            self.timers.cancel(time.mono, &Timer::Run(uid.clone()));
        }
    }

    /// Since when, on the monotonic clock, a Run could have been bound.
    pub fn waiting_since(&self, uid: &RunUid) -> Option<Duration> {
        self.runs.get(uid).map(|entry| entry.waiting_since)
    }
}

fn is_placed(entry: &Entry) -> bool {
    matches!(entry.place, Place::Bound { .. })
}

fn entry_never_explained(entry: Option<&Entry>) -> bool {
    entry.is_some_and(|entry| entry.explained_at.is_none())
}
