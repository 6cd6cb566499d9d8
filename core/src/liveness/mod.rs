//! When the Pod of a Run is lost.
//!
//! Owns how long each Pod has been silent, by the monotonic clock since *we saw* its
//! heartbeat change. Comes in: Pods, bound Runs, how the API answers our own probes.
//! Goes out: Pods to delete and [`Event::PodLost`](crate::run::Event) for their Runs.
//! Must always hold: a Run is given up only when its Pod is gone or has ended, or
//! after [`Settings::force_after`], with words that say so; and trouble between us
//! and the API starts every age anew, so that a pause of the API kills nothing.
//! A Pod that leaves the watch without having been asked to stop may only have lost
//! the label that we watch by: the API is asked before its Runs are given up.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use kruntimes_api::Run;

use crate::ids::{PodUid, RunUid};
use crate::run::{Event, Lost, State};
use verdict::{Verdict, verdict};

pub use facts::PodFacts;

mod facts;
#[cfg(test)]
mod tests;
mod verdict;

/// Times of the liveness check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// A Pod that was silent for this long is deleted, if Runs are bound to it.
    pub stale: Duration,
    /// Runs of a silent Pod that does not go away are retried anyway after this; `None`: never.
    pub force_after: Option<Duration>,
    /// A Pod that was never seen is taken for gone after this.
    pub unseen: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            stale: Duration::from_secs(30),
            force_after: Some(Duration::from_secs(600)),
            unseen: Duration::from_secs(10),
        }
    }
}

#[derive(Debug)]
struct Watched {
    facts: PodFacts,
    /// When the heartbeat was last seen to change, or we had trouble of our own.
    heard: Duration,
    /// When we last asked for its deletion.
    deleted: Option<Duration>,
}

/// What became of Pods that are no longer there; kept while Runs are bound to them.
#[derive(Debug, Clone)]
struct Grave {
    name: String,
    lost: Lost,
}

/// A Pod that the watch does not show, though nobody asked it to stop.
#[derive(Debug, Clone, Copy, Default)]
struct Missing {
    /// When the API is to be asked; `None` while it is.
    ask_at: Option<Duration>,
    /// The API has shown it.
    found: bool,
}

impl Missing {
    fn ask(at: Duration) -> Self {
        Self { ask_at: Some(at), found: false }
    }
}

#[derive(Debug)]
struct Bound {
    run: Box<Run>,
    pod: PodUid,
    pod_name: String,
    /// Since when it is known to be bound there.
    since: Duration,
    /// A verdict was given for this version; the next one comes with a newer.
    answered: Option<String>,
}

/// Something to do.
#[derive(Debug, Clone)]
pub enum Action {
    /// Ask the API for this Pod, past every cache, and answer with [`Liveness::probed`].
    Probe {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
    },
    /// Ask the API whether this Pod still exists, and answer with [`Liveness::found`],
    /// [`Liveness::confirmed_gone`] or [`Liveness::not_answered`].
    Confirm {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// Uid.
        uid: PodUid,
    },
    /// Delete this Pod, and no other of its name.
    DeletePod {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// Uid.
        uid: PodUid,
        /// For the log.
        message: String,
    },
    /// Put this Run through this event.
    Lost {
        /// As read.
        run: Box<Run>,
        /// [`Event::PodLost`].
        event: Event,
    },
}

/// See the [module](self).
#[derive(Debug)]
pub struct Liveness {
    settings: Settings,
    pods: HashMap<PodUid, Watched>,
    graves: HashMap<PodUid, Grave>,
    /// Pods with bound Runs that only the API can tell of; known ones are in `pods` as well.
    missing: HashMap<PodUid, Missing>,
    bound: BTreeMap<RunUid, Bound>,
    /// Since when the API has answered every probe; `None`: not known.
    healthy: Option<Duration>,
    probed: Option<Duration>,
    probing: bool,
    /// Something happened that only a look at every bound Run can judge.
    dirty: bool,
    /// When every bound Run must be looked at again, if nothing happens before.
    due: Option<Duration>,
}

impl Liveness {
    /// Knows nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            pods: HashMap::new(),
            graves: HashMap::new(),
            missing: HashMap::new(),
            bound: BTreeMap::new(),
            healthy: None,
            probed: None,
            probing: false,
            dirty: true,
            due: None,
        }
    }

    /// A Pod was seen by the watch.
    pub fn pod_seen(&mut self, facts: PodFacts, now: Duration) {
        self.missing.remove(&facts.uid);
        self.observe(facts, now);
    }

    fn observe(&mut self, facts: PodFacts, now: Duration) {
        match self.pods.get_mut(&facts.uid) {
            Some(known) => {
                if known.facts.beat != facts.beat {
                    known.heard = now;
                    known.deleted = None;
                }
                // Heartbeats are most of the traffic: they only put off what is due.
                self.dirty |= known.facts.deleting != facts.deleting || known.facts.ended != facts.ended;
                known.facts = facts;
            }
            None => {
                self.dirty = true;
                self.graves.remove(&facts.uid);
                self.pods.insert(facts.uid.clone(), Watched { facts, heard: now, deleted: None });
            }
        }
    }

    /// A Pod has left the watch.
    pub fn pod_gone(&mut self, uid: &PodUid) {
        let Some(pod) = self.pods.get(uid) else { return };
        self.dirty = true;
        let is_bound = self.bound.values().any(|bound| bound.pod == *uid);
        if is_bound && pod.deleted.is_none() && !pod.facts.deleting && pod.facts.ended.is_none() {
            self.missing.entry(uid.clone()).or_insert(Missing::ask(Duration::ZERO));
            return;
        }
        self.bury(uid);
    }

    fn bury(&mut self, uid: &PodUid) {
        self.dirty = true;
        self.missing.remove(uid);
        let Some(pod) = self.pods.remove(uid) else { return };
        if self.bound.values().any(|bound| bound.pod == *uid) {
            let lost = match (pod.facts.drained, pod.deleted, pod.facts.deleting) {
                (true, ..) => Lost::Drained,
                (false, Some(_), _) => Lost::Unhealthy,
                (false, None, true) => Lost::Terminating,
                (false, None, false) => Lost::Gone,
            };
            self.graves.insert(uid.clone(), Grave { name: pod.facts.name, lost });
        }
    }

    /// The answer to [`Action::Confirm`]: it is there. Asked for again as long as the watch does not show it.
    /// True the first time.
    pub fn found(&mut self, facts: PodFacts, now: Duration) -> bool {
        let uid = facts.uid.clone();
        let again = now + self.settings.stale / 3;
        let missing = self.missing.get_mut(&uid);
        let first = missing.is_some_and(|missing| {
            missing.ask_at = Some(again);
            !std::mem::replace(&mut missing.found, true)
        });
        self.dirty = true;
        self.observe(facts, now);
        first
    }

    /// The answer to [`Action::Confirm`]: it is not there.
    pub fn confirmed_gone(&mut self, uid: &PodUid) {
        self.bury(uid);
        if let Some(bound) = self.bound.values().find(|bound| bound.pod == *uid) {
            let grave = Grave { name: bound.pod_name.clone(), lost: Lost::Gone };
            self.graves.entry(uid.clone()).or_insert(grave);
        }
    }

    /// The answer to [`Action::Confirm`] did not come.
    pub fn not_answered(&mut self, uid: &PodUid, now: Duration) {
        self.dirty = true;
        let again = now + self.probe_every();
        if let Some(missing) = self.missing.get_mut(uid) {
            missing.ask_at = Some(again);
        }
    }

    /// Every Pod was listed: the others are gone.
    pub fn pods_listed(&mut self, listed: &HashSet<PodUid>) {
        let gone: Vec<_> = self.pods.keys().filter(|uid| !listed.contains(*uid)).cloned().collect();
        for uid in gone {
            self.pod_gone(&uid);
        }
    }

    /// A Run was seen; only bound ones matter.
    pub fn run_seen(&mut self, run: &Run, now: Duration) {
        let Some(uid) = run.metadata.uid.as_deref().map(RunUid::from) else { return };
        let state = State::of(run).ok();
        let Some((pod, _)) = state.as_ref().and_then(State::bound) else { return self.run_gone(&uid) };
        let old = self.bound.remove(&uid);
        let since = old.as_ref().filter(|old| old.pod == pod.uid).map_or(now, |old| old.since);
        let answered = old.and_then(|old| old.answered);
        match self.pods.get(&pod.uid) {
            Some(known) if known.facts.ended.is_none() => {
                let suspect_at = known.heard + self.suspicion();
                self.due = Some(self.due.map_or(suspect_at, |due| due.min(suspect_at)));
            }
            Some(_) | None => self.dirty = true,
        }
        let bound = Bound {
            run: Box::new(run.clone()),
            pod: pod.uid.clone(),
            pod_name: pod.name.clone(),
            since,
            answered,
        };
        self.bound.insert(uid, bound);
    }

    /// A Run has ended, was handed back or deleted.
    pub fn run_gone(&mut self, uid: &RunUid) {
        let Some(bound) = self.bound.remove(uid) else { return };
        if (self.graves.contains_key(&bound.pod) || self.missing.contains_key(&bound.pod))
            && self.bound.values().all(|other| other.pod != bound.pod)
        {
            self.graves.remove(&bound.pod);
            if self.missing.remove(&bound.pod).is_some() {
                self.pods.remove(&bound.pod);
            }
        }
    }

    /// Every Run was listed: forgets the others.
    pub fn runs_listed(&mut self, listed: &HashSet<RunUid>) {
        let gone: Vec<_> = self.bound.keys().filter(|uid| !listed.contains(*uid)).cloned().collect();
        for uid in gone {
            self.run_gone(&uid);
        }
    }

    /// The write of a verdict failed; it is given again.
    pub fn unanswered(&mut self, uid: &RunUid) {
        if let Some(bound) = self.bound.get_mut(uid) {
            bound.answered = None;
            self.dirty = true;
        }
    }

    /// Something went wrong between us and the API: what we did not hear proves nothing.
    pub fn trouble(&mut self, now: Duration) {
        self.dirty = true;
        self.healthy = None;
        for pod in self.pods.values_mut() {
            pod.heard = now;
        }
    }

    /// The answer to [`Action::Probe`].
    pub fn probed(&mut self, answered: bool, now: Duration) {
        self.dirty = true;
        self.probing = false;
        self.probed = Some(now);
        match answered {
            true => {
                self.healthy.get_or_insert(now);
            }
            false => self.trouble(now),
        }
    }

    /// Age at which a silent Pod is suspected, and for how long the API must have been healthy
    /// before the silence is held against the Pod.
    fn suspicion(&self) -> Duration {
        self.settings.stale / 2
    }

    fn probe_every(&self) -> Duration {
        (self.settings.stale / 10).max(Duration::from_millis(100))
    }

    /// What to do now, and after what time to ask again.
    pub fn plan(&mut self, now: Duration) -> (Vec<Action>, Option<Duration>) {
        // Stopped, swapped out or starved ourselves: then we have not listened either.
        if self.due.is_some_and(|due| now > due + self.suspicion()) {
            self.trouble(now);
        }
        if !self.dirty
            && let Some(due) = self.due.filter(|due| *due > now)
        {
            return (Vec::new(), Some(due - now));
        }
        self.dirty = false;
        let mut actions = Vec::new();
        let mut due: Vec<Duration> = Vec::new();
        let mut suspects = Vec::new();
        let mut unseen = Vec::new();
        for bound in self.bound.values_mut() {
            if bound.answered.is_some() && bound.answered == bound.run.metadata.resource_version {
                continue;
            }
            match verdict(&self.settings, bound, &self.pods, &self.graves, now) {
                Verdict::Alive { suspect_at, suspect } => {
                    due.push(suspect_at);
                    suspects.extend(suspect);
                }
                Verdict::Unseen => unseen.push(bound.pod.clone()),
                Verdict::Lost { lost, message } => {
                    bound.answered = bound.run.metadata.resource_version.clone();
                    let event = Event::PodLost { pod: bound.pod.clone(), lost, message };
                    actions.push(Action::Lost { run: bound.run.clone(), event });
                }
            }
        }
        for uid in unseen {
            self.missing.entry(uid).or_insert(Missing::ask(Duration::ZERO));
        }
        self.confirm(now, &mut actions, &mut due);
        suspects.sort();
        suspects.dedup();
        self.suspect(&suspects, now, &mut actions, &mut due);
        let next = due.into_iter().filter(|due| *due > now).min();
        self.due = next;
        (actions, next.map(|due| due - now))
    }

    /// Asks the API for Pods that the watch does not show.
    fn confirm(&mut self, now: Duration, actions: &mut Vec<Action>, due: &mut Vec<Duration>) {
        for (uid, missing) in &mut self.missing {
            match missing.ask_at {
                None => {}
                Some(at) if at > now => due.push(at),
                Some(_) => {
                    let Some(bound) = self.bound.values().find(|bound| bound.pod == *uid) else { continue };
                    missing.ask_at = None;
                    actions.push(Action::Confirm {
                        namespace: bound.run.metadata.namespace.clone().unwrap_or_default(),
                        name: bound.pod_name.clone(),
                        uid: uid.clone(),
                    });
                }
            }
        }
    }

    /// Looks into silent Pods: is it them, or is it the API?
    fn suspect(
        &mut self,
        suspects: &[PodUid],
        now: Duration,
        actions: &mut Vec<Action>,
        due: &mut Vec<Duration>,
    ) {
        let Some(first) = suspects.first() else {
            self.healthy = None;
            self.probed = None;
            return;
        };
        let probe_at = self.probed.map_or(now, |last| last + self.probe_every());
        if self.probing {
            // Its answer wakes us.
        } else if probe_at <= now {
            if let Some(pod) = self.pods.get(first) {
                self.probing = true;
                let (namespace, name) = (pod.facts.namespace.clone(), pod.facts.name.clone());
                actions.push(Action::Probe { namespace, name });
            }
        } else {
            due.push(probe_at);
        }
        let Some(healthy) = self.healthy else { return };
        for uid in suspects {
            let (stale, trusted) = (self.settings.stale, healthy + self.suspicion());
            let Some(pod) = self.pods.get_mut(uid) else { continue };
            let at =
                trusted.max(pod.heard + stale).max(pod.deleted.map_or(Duration::ZERO, |last| last + stale));
            if at > now {
                due.push(at);
            } else if !pod.facts.deleting {
                pod.deleted = Some(now);
                let silent = (now - pod.heard).as_secs();
                actions.push(Action::DeletePod {
                    namespace: pod.facts.namespace.clone(),
                    name: pod.facts.name.clone(),
                    uid: uid.clone(),
                    message: format!("no heartbeat for {silent} s"),
                });
                due.push(now + stale);
            }
        }
    }

    /// For how long a Pod has been silent.
    pub fn silence(&self, uid: &PodUid, now: Duration) -> Option<Duration> {
        self.pods.get(uid).map(|pod| now.saturating_sub(pod.heard))
    }

    /// Number of Runs that are bound.
    pub fn bound_count(&self) -> usize {
        self.bound.len()
    }
}
