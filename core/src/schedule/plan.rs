//! Decisions.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kruntimes_api::names::TRACEPARENT_ANNOTATION;
use kruntimes_api::run::{Run, RunSpec};
use kruntimes_api::runtime::Tenancy;

use super::affinity::Neighbours;
use super::demand::Resolved;
use super::pods::PodSlot;
use super::queue::OrderKey;
use super::scheduler::{Answer, Entry, Place, QueueId, Urgent};
use super::timers::Timer;
use super::{Decision, Now, Plan, Scheduler};
use crate::ids::{PodRef, RunUid};
use crate::run::Event;

impl Scheduler {
    /// Up to `budget` decisions. Each must be answered by [`settled`](Self::settled).
    pub fn plan(&mut self, now: Now, budget: usize) -> Plan {
        self.fire_timers(now);
        let mut decisions = Vec::new();
        while decisions.len() < budget {
            let Some(uid) = self.urgent.pop_front() else { break };
            decisions.extend(self.end(&uid));
        }
        while decisions.len() < budget {
            let Some(id) = self.active.pop_front() else { break };
            match self.step(id, now) {
                Some(decision) => {
                    decisions.push(decision);
                    self.active.push_back(id);
                }
                None => self.queues[id].active = false,
            }
        }
        while decisions.len() < budget && self.note_at <= now.mono {
            let Some(uid) = self.notes.pop_front() else { break };
            if let Some(decision) = self.note(&uid, now) {
                self.note_at = now.mono + self.settings.explain_pause;
                decisions.push(decision);
            }
        }
        // One that is due and has no budget waits for whoever brings some.
        let note =
            self.note_at.checked_sub(now.mono).filter(|wait| !self.notes.is_empty() && !wait.is_zero());
        let next = [self.timers.next(now), note].into_iter().flatten().min();
        Plan { decisions, next }
    }

    fn fire_timers(&mut self, now: Now) {
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                Timer::Run(uid) => self.run_due(&uid, now),
                Timer::Explain(uid) => self.explain_due(&uid, now),
                Timer::Beat(uid) => self.beat_due(&uid, now),
                Timer::Starving { queue, group } => self.starving_due(queue, group, now),
            }
        }
    }

    /// The write that ends an unbound Run.
    fn end(&mut self, uid: &RunUid) -> Option<Decision> {
        let entry = self.runs.get_mut(uid)?;
        let Place::Urgent(urgent) = &entry.place else { return None };
        let event = match urgent {
            Urgent::Cancel => Event::CancelUnassigned,
            Urgent::PendingTimeout => Event::PendingTimeout,
            Urgent::Invalid(message) => Event::Invalid { message: message.to_string() },
        };
        entry.place = Place::Ending { written: false };
        Some(self.decision(uid, event))
    }

    /// The next bind of a queue.
    fn step(&mut self, id: QueueId, now: Now) -> Option<Decision> {
        self.queues[id].runtime.as_ref()?;
        while let Some((group, order)) = self.queues[id].first() {
            if self.runs.get(&order.uid).is_some_and(|entry| entry.note.is_some()) {
                self.queues[id].unlist(group);
                continue;
            }
            match self.choose(id, group, &order) {
                Some(slot) => return self.bind(id, slot, &order),
                None => self.block(id, group, &order, now),
            }
        }
        None
    }

    fn bind(&mut self, id: QueueId, slot: u32, order: &OrderKey) -> Option<Decision> {
        let uid = &order.uid;
        let view = &self.queues[id].pods.get(slot)?.view;
        let pod = PodRef { name: view.name.to_string(), uid: view.uid.clone() };
        self.take_out(uid);
        let entry = self.runs.get_mut(uid)?;
        let assignment = entry.status.as_ref().and_then(|status| status.assignment).unwrap_or(0) + 1;
        let queued_at = entry.queued_at;
        entry.avoid = None;
        entry.refused = None;
        entry.explained_at = None;
        let place = Place::Assumed { pod: pod.uid.clone(), assignment, answer: Answer::Awaited };
        self.hold(uid, pod.uid.clone(), place);
        Some(self.decision(uid, Event::Bind { pod, queued_at }))
    }

    /// The Run as it was read, with what a transition needs of it.
    pub(super) fn decision(&mut self, uid: &RunUid, event: Event) -> Decision {
        let Some(entry) = self.runs.get_mut(uid) else { return Decision { run: Box::default(), event } };
        entry.sent.clone_from(&entry.version);
        let metadata = ObjectMeta {
            namespace: Some(entry.namespace.to_string()),
            name: Some(entry.order.name.to_string()),
            uid: Some(uid.to_string()),
            resource_version: Some(entry.version.to_string()),
            generation: entry.generation,
            annotations: entry
                .trace
                .as_deref()
                .map(|text| [(TRACEPARENT_ANNOTATION.to_owned(), text.to_owned())].into()),
            ..ObjectMeta::default()
        };
        let spec = RunSpec {
            runtime: self.queues[entry.queue].name.to_string(),
            cancel_requested: entry.cancel.then_some(true),
            suspend: entry.suspend.then_some(true),
            ..RunSpec::default()
        };
        Decision { run: Box::new(Run { metadata, spec, status: entry.status.as_deref().cloned() }), event }
    }

    /// What the affinity of a Run sees, if it has one.
    pub(super) fn neighbours(&self, entry: &Entry, resolved: &Resolved) -> Option<Neighbours> {
        let terms = resolved.terms.as_ref()?;
        let placed = self.placed.get(&entry.namespace).into_iter().flatten();
        let placed = placed.filter_map(|uid| match self.runs.get(uid) {
            Some(Entry {
                labels: Some(labels),
                place: Place::Assumed { pod, .. } | Place::Bound { pod },
                ..
            }) => Some((&**labels, pod)),
            _ => None,
        });
        Some(terms.neighbours(&resolved.labels, placed))
    }

    /// The Pod for the first Run of a group.
    fn choose(&self, id: QueueId, group: usize, order: &OrderKey) -> Option<u32> {
        let queue = &self.queues[id];
        let group = queue.group(group)?;
        let entry = self.runs.get(&order.uid)?;
        let resolved = &group.resolved;
        let neighbours = self.neighbours(entry, resolved);
        let fair = |pod: &PodSlot| self.accepts(id, entry, neighbours.as_ref(), pod);
        let elsewhere = |pod: &PodSlot| entry.avoid.as_ref() != Some(&pod.view.uid);
        if let Some(neighbours) =
            neighbours.as_ref().filter(|_| resolved.terms.as_ref().is_some_and(|t| t.prefers()))
        {
            let fitting = queue.pods.fitting(&resolved.amounts).filter(|(_, pod)| fair(pod));
            let ranked = |(slot, pod): (u32, _)| {
                let pod: &PodSlot = pod;
                (slot, &pod.view.uid, pod.load, &*pod.view.name)
            };
            let best = neighbours.best(fitting.clone().filter(|(_, pod)| elsewhere(pod)).map(ranked));
            if let Some(slot) = best.or_else(|| neighbours.best(fitting.map(ranked))) {
                return Some(slot);
            }
        } else {
            let mut slot = queue.pods.search(&resolved.amounts, |pod| elsewhere(pod) && fair(pod));
            if slot.is_none() && entry.avoid.is_some() {
                slot = queue.pods.search(&resolved.amounts, fair);
            }
            if slot.is_some() {
                return slot;
            }
        }
        self.reserved_for(id, entry, resolved, neighbours.as_ref())
    }

    /// Whether a Pod with room may take this Run.
    pub(super) fn accepts(
        &self,
        id: QueueId,
        entry: &Entry,
        near: Option<&Neighbours>,
        pod: &PodSlot,
    ) -> bool {
        let refused = entry
            .refused
            .as_ref()
            .is_some_and(|(uid, inventory, _)| *uid == pod.view.uid && *inventory == pod.inventory);
        let alone = self.queues[id].runtime.as_ref().is_some_and(|r| r.tenancy == Tenancy::SingleSubmitter);
        let load = self.loads.get(&pod.view.uid);
        !refused
            && near.is_none_or(|neighbours| neighbours.allow(&pod.view.uid))
            && (!alone || load.is_none_or(|load| load.is_only(entry.submitter.as_ref())))
    }

    /// A waiting Run's amounts, for tests and explanations.
    pub(super) fn wanted(&self, entry: &Entry) -> Option<Arc<Resolved>> {
        let Place::Waiting(group) = entry.place else { return None };
        self.queues[entry.queue].group(group).map(|group| Arc::clone(&group.resolved))
    }
}
