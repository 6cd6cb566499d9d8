//! From watch events to writes, without a clock or a network.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kruntimes_api::names::RUNTIME_LABEL;
use kruntimes_core::desired::Defaults;
use kruntimes_core::ids::{PodUid, RunUid};
use kruntimes_core::liveness::{self, Liveness, PodFacts};
use kruntimes_core::run::{self, Event as RunEvent, transition};
use kruntimes_core::schedule::{InstanceView, Now};

use super::ControllerMetrics;
use super::effects::Kind;
use super::ended::Ending;
use super::event::{Action, Done, Event};
use super::pool::{Figures, Pool};
use super::seen::name_of;
use crate::events::{About, Note};
use crate::writer::WriteError;

/// Deletions of ended Runs under way at most.
const DELETIONS: usize = 16;
/// Before a failed deletion is tried again.
const DELETE_AGAIN: Duration = Duration::from_secs(5);

/// Namespace and name.
pub(super) type Name = (String, String);

/// Which initial lists are complete, and what the list under way has shown.
#[derive(Debug, Default)]
pub(super) struct Lists {
    pub(super) complete: HashSet<&'static str>,
    pub(super) runs: HashSet<RunUid>,
    pub(super) ended: HashSet<RunUid>,
    pub(super) pods: HashSet<PodUid>,
    pub(super) runtimes: HashSet<Name>,
    pub(super) instances: HashSet<Name>,
    pub(super) owned: HashMap<Kind, HashSet<Name>>,
}

/// Lists that must be complete before anything is done.
const NEEDED: [&str; 9] = [
    "Run",
    "Pod",
    "Runtime",
    "RuntimeInstance",
    "Deployment",
    "ServiceAccount",
    "Role",
    "RoleBinding",
    "NetworkPolicy",
];

/// The controller's loop body.
#[derive(Debug)]
pub struct Engine {
    defaults: Defaults,
    pub(super) liveness: Liveness,
    pub(super) pools: BTreeMap<Name, Pool>,
    /// Which pool a Pod, or bound Run, is counted in.
    pub(super) pod_pools: HashMap<PodUid, Name>,
    pub(super) run_pools: HashMap<RunUid, Name>,
    pub(super) instances: HashMap<Name, InstanceView>,
    pub(super) ending: Ending,
    deleting: usize,
    pub(super) list_ended: bool,
    pub(super) lists: Lists,
    pub(super) metrics: ControllerMetrics,
    pub(super) notes: Vec<Note>,
}

impl Engine {
    /// Knows nothing yet.
    pub fn new(defaults: Defaults, liveness: liveness::Settings, metrics: ControllerMetrics) -> Self {
        Self {
            defaults,
            liveness: Liveness::new(liveness),
            pools: BTreeMap::new(),
            pod_pools: HashMap::new(),
            run_pools: HashMap::new(),
            instances: HashMap::new(),
            ending: Ending::default(),
            deleting: 0,
            list_ended: false,
            lists: Lists::default(),
            metrics,
            notes: Vec::new(),
        }
    }

    /// Every list that decisions need is complete.
    pub fn is_synced(&self) -> bool {
        NEEDED.iter().all(|kind| self.lists.complete.contains(kind))
    }

    /// Ended Runs that wait for their deletion.
    pub fn ending(&self) -> usize {
        self.ending.len()
    }

    /// What there is to say of each Runtime's Pods.
    pub(super) fn figures(&self, now: Now) -> impl Iterator<Item = Figures<'_>> {
        self.pools.iter().filter(|(_, pool)| pool.runtime.is_some()).map(move |((namespace, name), pool)| {
            let (ready, wanted) = pool.size();
            let (capacity, in_use) = pool.amounts();
            let silent = pool.pods.keys().filter_map(|uid| self.liveness.silence(uid, now.mono)).max();
            Figures {
                namespace,
                runtime: name,
                ready,
                wanted,
                capacity,
                in_use,
                silent: silent.unwrap_or_default(),
            }
        })
    }

    /// Takes one event in. What follows from it is said by [`plan`](Self::plan), once per batch.
    pub fn handle(&mut self, event: Event, now: Now) {
        match event {
            Event::Run(watched) => self.run(watched, now),
            Event::Ended(watched) => self.ended(watched, now),
            Event::Pod(watched) => self.pod(watched, now),
            Event::Runtime(watched) => self.runtime(watched, now),
            Event::Instance(watched) => self.instance(watched, now),
            Event::Deployment(watched) => self.deployment(watched, now),
            Event::Owned(kind, watched) => self.owned(kind, watched, now),
            Event::Done(done) => self.done(done, now),
            Event::Tick => {}
        }
    }

    fn done(&mut self, done: Done, now: Now) {
        match done {
            Done::Pass(result) => {
                self.metrics.passed(&result.errors);
                let key = (result.namespace.clone(), result.name.clone());
                if let Some(pool) = self.pools.get_mut(&key) {
                    pool.passed(*result, now.mono);
                }
            }
            Done::Status(namespace, name, written) => {
                self.metrics.wrote("status", written.as_ref().err());
                if let Some(pool) = self.pools.get_mut(&(namespace, name)) {
                    let note = pool.status_written(written.map(|status| *status), now.mono);
                    self.notes.extend(note);
                }
            }
            Done::Run(uid, result) => {
                self.metrics.wrote("lost", result.as_ref().err());
                match result {
                    Ok(()) => {}
                    // The newer version asks again; so does a failure.
                    Err(WriteError::Conflict | WriteError::Gone) => {}
                    Err(WriteError::Transient(_) | WriteError::Refused(_)) => self.liveness.unanswered(&uid),
                }
            }
            Done::DeletePod(uid, result) => {
                self.metrics.wrote("delete_pod", result.as_ref().err());
                if let Err(error @ (WriteError::Transient(_) | WriteError::Refused(_))) = result {
                    tracing::warn!(pod = %uid, %error, "the pod could not be deleted");
                }
            }
            Done::DeleteRun(uid, result) => {
                self.deleting = self.deleting.saturating_sub(1);
                self.metrics.wrote("delete_run", result.as_ref().err());
                match result {
                    // Its watch event takes it off the list.
                    Ok(()) | Err(WriteError::Gone | WriteError::Conflict) => {}
                    Err(WriteError::Transient(_) | WriteError::Refused(_)) => {
                        self.ending.again(&uid, now.mono + DELETE_AGAIN);
                    }
                }
            }
            Done::Confirmed(uid, answer) => self.confirmed(&uid, answer, now),
            Done::Probe(answered) => self.liveness.probed(answered, now.mono),
        }
    }

    /// Whether a Pod that the watch does not show exists.
    fn confirmed(&mut self, uid: &PodUid, answer: Result<Option<Box<Pod>>, WriteError>, now: Now) {
        match answer {
            Ok(pod) => match pod.as_deref().and_then(PodFacts::of).filter(|facts| facts.uid == *uid) {
                None => self.liveness.confirmed_gone(uid),
                Some(facts) => {
                    let about = About {
                        kind: "Pod",
                        namespace: facts.namespace.clone(),
                        name: facts.name.clone(),
                        uid: uid.to_string(),
                    };
                    if self.liveness.found(facts, now.mono) {
                        let message = format!(
                            "it has lost its label {RUNTIME_LABEL}: it gets no more Runs and keeps those that it has"
                        );
                        let reason = "LabelRemoved".to_owned();
                        self.notes.push(Note { about, warning: true, reason, message });
                    }
                }
            },
            Err(WriteError::Gone) => self.liveness.confirmed_gone(uid),
            Err(WriteError::Conflict | WriteError::Transient(_) | WriteError::Refused(_)) => {
                self.liveness.not_answered(uid, now.mono);
            }
        }
    }

    /// What to do now, and after what time to ask again. Nothing before the lists are complete.
    pub fn plan(&mut self, now: Now) -> (Vec<Action>, Option<Duration>) {
        let mut actions = Vec::new();
        if std::mem::take(&mut self.list_ended) {
            actions.push(Action::ListEnded);
        }
        if !self.is_synced() {
            return (actions, None);
        }
        let mut due: Vec<Duration> = Vec::new();
        for ((namespace, name), pool) in &mut self.pools {
            actions.extend(pool.pass(&self.defaults, now.mono).map(|pass| Action::Pass(Box::new(pass))));
            if let Some((uid, status)) = pool.status(now.mono, now.wall) {
                let (namespace, name) = (namespace.clone(), name.clone());
                actions.push(Action::Status { namespace, name, uid, status: Box::new(status) });
            }
            due.extend(pool.due().map(|at| at.saturating_sub(now.mono)));
        }
        let (verdicts, next) = self.liveness.plan(now.mono);
        due.extend(next);
        for verdict in verdicts {
            actions.extend(self.verdict(verdict, now));
        }
        actions.extend(std::mem::take(&mut self.notes).into_iter().map(|note| Action::Note(Box::new(note))));
        while self.deleting < DELETIONS
            && let Some((uid, namespace, name)) = self.ending.pop(now.mono)
        {
            self.deleting += 1;
            actions.push(Action::DeleteRun { namespace, name, uid });
        }
        if self.deleting < DELETIONS {
            due.extend(self.ending.next().map(|at| at.saturating_sub(now.mono)));
        }
        (actions, due.into_iter().min())
    }

    fn verdict(&mut self, action: liveness::Action, now: Now) -> Option<Action> {
        match action {
            liveness::Action::Probe { namespace, name } => Some(Action::Probe { namespace, name }),
            liveness::Action::Confirm { namespace, name, uid } => {
                Some(Action::Confirm { namespace, name, uid })
            }
            liveness::Action::DeletePod { namespace, name, uid, message } => {
                let about = About {
                    kind: "Pod",
                    namespace: namespace.clone(),
                    name: name.clone(),
                    uid: uid.to_string(),
                };
                let words = format!("{message} while Runs are bound to it: it is deleted");
                let reason = "HeartbeatLost".to_owned();
                self.notes.push(Note { about, warning: true, reason, message: words });
                Some(Action::DeletePod { namespace, name, uid, message })
            }
            liveness::Action::Lost { run, event } => {
                let uid = RunUid::from(run.metadata.uid.as_deref().unwrap_or_default());
                let status = match transition(&run, &event, now.wall) {
                    Ok(status) => status,
                    Err(refusal) => {
                        self.metrics.stale();
                        tracing::debug!(run = %uid, %refusal, "verdict dropped");
                        return None;
                    }
                };
                let patch = run::patch(&run, &status)?;
                if let RunEvent::PodLost { lost, message, .. } = &event {
                    self.metrics.lost(lost.reason().as_str());
                    let (namespace, name) = name_of(&run.metadata);
                    tracing::info!(
                        namespace,
                        run = name,
                        reason = lost.reason().as_str(),
                        message,
                        "pod lost"
                    );
                }
                let (namespace, name) = name_of(&run.metadata);
                Some(Action::Run { uid, namespace, name, patch })
            }
        }
    }
}
