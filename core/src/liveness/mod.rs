//! When the Pod of a Run is lost.
//!
//! Owns how long each Pod has been silent, by the monotonic clock since *we saw* its
//! heartbeat change. Comes in: Pods, bound Runs, how the API answers our own probes.
//! Goes out: Pods to delete and [`Event::PodLost`](crate::run::Event) for their Runs.
//! Must always hold: a Run is given up only when its Pod is gone or has ended, or
//! after [`Settings::force_after`], with words that say so; and trouble between us
//! and the API starts every age anew, so that a pause of the API kills nothing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kruntimes_api::Run;
use kruntimes_api::names::RUNTIMED_READY;

use crate::ids::{PodUid, RunUid};
use crate::run::{Event, Lost, State};

#[cfg(test)]
mod tests;

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

/// What is known of a Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFacts {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: PodUid,
    /// Asked to stop.
    pub deleting: bool,
    /// Time in the heartbeat, whatever it says otherwise.
    pub beat: Option<Timestamp>,
    /// Its containers have ended for good, and why.
    pub ended: Option<String>,
}

impl PodFacts {
    /// Reads a Pod; `None` without an identity.
    pub fn of(pod: &Pod) -> Option<Self> {
        let status = pod.status.as_ref();
        let phase = status.and_then(|s| s.phase.as_deref());
        let ended = phase.filter(|phase| matches!(*phase, "Failed" | "Succeeded")).map(|phase| {
            let words = status.map(|s| [s.reason.as_deref(), s.message.as_deref()]).unwrap_or_default();
            [Some(phase)].into_iter().chain(words).flatten().collect::<Vec<_>>().join(": ")
        });
        let conditions = status.and_then(|s| s.conditions.as_ref());
        let beat = conditions.into_iter().flatten().find(|condition| condition.type_ == RUNTIMED_READY);
        Some(Self {
            namespace: pod.metadata.namespace.clone()?,
            name: pod.metadata.name.clone()?,
            uid: PodUid::from(pod.metadata.uid.as_deref()?),
            deleting: pod.metadata.deletion_timestamp.is_some(),
            beat: beat.and_then(|condition| condition.last_probe_time.as_ref()).map(|time| time.0),
            ended,
        })
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
            bound: BTreeMap::new(),
            healthy: None,
            probed: None,
            probing: false,
            dirty: true,
            due: None,
        }
    }

    /// A Pod was seen.
    pub fn pod_seen(&mut self, facts: PodFacts, now: Duration) {
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

    /// A Pod is gone.
    pub fn pod_gone(&mut self, uid: &PodUid) {
        let Some(pod) = self.pods.remove(uid) else { return };
        self.dirty = true;
        if self.bound.values().any(|bound| bound.pod == *uid) {
            let lost = match (pod.deleted, pod.facts.deleting) {
                (Some(_), _) => Lost::Unhealthy,
                (None, true) => Lost::Terminating,
                (None, false) => Lost::Gone,
            };
            self.graves.insert(uid.clone(), Grave { name: pod.facts.name, lost });
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
        if self.bound.values().all(|other| other.pod != bound.pod) {
            self.graves.remove(&bound.pod);
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
        for bound in self.bound.values_mut() {
            if bound.answered.is_some() && bound.answered == bound.run.metadata.resource_version {
                continue;
            }
            match verdict(&self.settings, bound, &self.pods, &self.graves, now) {
                Verdict::Alive { suspect_at, suspect } => {
                    due.push(suspect_at);
                    suspects.extend(suspect);
                }
                Verdict::Lost { lost, message } => {
                    bound.answered = bound.run.metadata.resource_version.clone();
                    let event = Event::PodLost { pod: bound.pod.clone(), lost, message };
                    actions.push(Action::Lost { run: bound.run.clone(), event });
                }
            }
        }
        suspects.sort();
        suspects.dedup();
        self.suspect(&suspects, now, &mut actions, &mut due);
        let next = due.into_iter().filter(|due| *due > now).min();
        self.due = next;
        (actions, next.map(|due| due - now))
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

    /// Number of Runs that are bound.
    pub fn bound_count(&self) -> usize {
        self.bound.len()
    }
}

enum Verdict {
    Alive { suspect_at: Duration, suspect: Option<PodUid> },
    Lost { lost: Lost, message: String },
}

fn verdict(
    settings: &Settings,
    bound: &Bound,
    pods: &HashMap<PodUid, Watched>,
    graves: &HashMap<PodUid, Grave>,
    now: Duration,
) -> Verdict {
    let name = &bound.pod_name;
    if let Some(grave) = graves.get(&bound.pod) {
        let name = &grave.name;
        let message = match grave.lost {
            Lost::Gone => format!("pod {name} is gone"),
            Lost::Terminating => format!("pod {name} was terminated"),
            Lost::Unhealthy => format!("pod {name} had no heartbeat and was deleted"),
        };
        return Verdict::Lost { lost: grave.lost, message };
    }
    let Some(pod) = pods.get(&bound.pod) else {
        // It may be so new that its watch event is still on the way.
        let at = bound.since + settings.unseen;
        return if at > now {
            Verdict::Alive { suspect_at: at, suspect: None }
        } else {
            Verdict::Lost { lost: Lost::Gone, message: format!("pod {name} is gone") }
        };
    };
    if let Some(why) = &pod.facts.ended {
        return Verdict::Lost { lost: Lost::Gone, message: format!("pod {name} has ended: {why}") };
    }
    // A Run may be bound to a Pod that is silent already.
    let heard = pod.heard;
    let suspect_at = heard + settings.stale / 2;
    if suspect_at > now {
        return Verdict::Alive { suspect_at, suspect: None };
    }
    match settings.force_after.map(|force| heard + settings.stale + force) {
        Some(at) if at <= now => {
            let silent = (now - heard).as_secs();
            let message =
                format!("no heartbeat of pod {name} for {silent} s; this attempt may still run on {name}");
            Verdict::Lost { lost: Lost::Unhealthy, message }
        }
        Some(at) => Verdict::Alive { suspect_at: at, suspect: Some(bound.pod.clone()) },
        None => Verdict::Alive { suspect_at: now + settings.stale, suspect: Some(bound.pod.clone()) },
    }
}
