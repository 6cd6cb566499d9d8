//! From watch events to patches, without a clock or a network.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kruntimes_api::names::TRACEPARENT_ANNOTATION;
use kruntimes_api::run::{Phase, RunStatus};
use kruntimes_api::{Reason, Run, Runtime, RuntimeInstance};
use kruntimes_core::ids::{PodUid, RunUid};
use kruntimes_core::run::{self, transition};
use kruntimes_core::schedule::{
    Decision, InstanceView, Now, Outcome, PodView, QueueDepth, Rejection, RuntimeView, Scheduler, Settings,
};
use serde_json::Value;

use super::SchedulerMetrics;
use crate::events::{About, Note};
use crate::watch::Watched;

/// Everything that can happen to the scheduler.
#[derive(Debug)]
pub enum Event {
    /// A Run.
    Run(Watched<Box<Run>>),
    /// A Pod.
    Pod(Watched<Box<Pod>>),
    /// A Runtime.
    Runtime(Watched<Box<Runtime>>),
    /// A RuntimeInstance.
    Instance(Watched<Box<RuntimeInstance>>),
    /// A write was answered.
    Settled(Box<Write>, Outcome),
    /// Time has passed.
    Tick,
}

/// One fenced status write.
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    /// Whose.
    pub uid: RunUid,
    /// Namespace of the Run.
    pub namespace: String,
    /// Name of the Run.
    pub name: String,
    /// Runtime of the Run.
    pub runtime: String,
    /// What is written, in a word.
    pub what: &'static str,
    /// Merge patch for `runs/status`.
    pub patch: Value,
    /// Seconds from the Run's creation, or its return to the queue, to this decision.
    pub waited: f64,
    /// What a person is told once it is written.
    pub note: Option<Box<Note>>,
    /// For the trace, if it is a bind.
    pub bind: Option<Box<Bind>>,
}

/// What a trace tells of a bind.
#[derive(Debug, Clone, PartialEq)]
pub struct Bind {
    /// The Run's `kruntimes.io/traceparent`.
    pub traceparent: Option<String>,
    /// Name of the Pod.
    pub pod: String,
    /// The attempt that begins.
    pub attempt: i32,
    /// The bind counter.
    pub assignment: i64,
    /// Since when it waited.
    pub since: Timestamp,
}

/// What the loop must do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Write, and answer with [`Event::Settled`].
    Write(Box<Write>),
    /// Tell a person.
    Note(Box<Note>),
}

/// Objects of one kind during a list.
#[derive(Debug)]
struct Listing<K> {
    complete: bool,
    seen: HashSet<K>,
}

impl<K> Default for Listing<K> {
    fn default() -> Self {
        Self { complete: false, seen: HashSet::new() }
    }
}

/// The scheduler's loop body.
#[derive(Debug)]
pub struct Engine {
    scheduler: Scheduler,
    metrics: SchedulerMetrics,
    limit: usize,
    in_flight: usize,
    runs: Listing<RunUid>,
    pods: Listing<PodUid>,
    runtimes: Listing<(String, String)>,
    instances: Listing<(String, String)>,
    /// Assignments whose end was told, of Runs that wait for their next attempt.
    retried: HashMap<RunUid, i64>,
    notes: Vec<Note>,
}

impl Engine {
    /// `limit` writes in flight at most, and as many binds that the watch has not shown: an API server that falls behind with
    /// its watches gets no further behind, and what has to wait waits here, where queues take turns.
    pub fn new(settings: Settings, limit: usize, metrics: SchedulerMetrics) -> Self {
        Self {
            scheduler: Scheduler::new(settings),
            metrics,
            limit,
            in_flight: 0,
            runs: Listing::default(),
            pods: Listing::default(),
            runtimes: Listing::default(),
            instances: Listing::default(),
            retried: HashMap::new(),
            notes: Vec::new(),
        }
    }

    /// Every initial list is complete.
    pub fn is_synced(&self) -> bool {
        self.runs.complete && self.pods.complete && self.runtimes.complete && self.instances.complete
    }

    /// How full the queues are.
    pub fn depths(&self) -> Vec<QueueDepth> {
        self.scheduler.depths()
    }

    /// Pods that could not take Runs, since the last call.
    pub fn take_rejections(&mut self) -> std::collections::BTreeMap<Rejection, u64> {
        self.scheduler.take_rejections()
    }

    /// Writes that are not answered yet.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Binds that the watch has not shown yet.
    pub fn unseen(&self) -> usize {
        self.scheduler.unseen()
    }

    /// Takes one event in. Decisions are made by [`plan`](Self::plan), once per batch.
    pub fn handle(&mut self, event: Event, now: Now) {
        match event {
            Event::Run(watched) => self.run(watched, now),
            Event::Pod(watched) => self.pod(watched, now),
            Event::Runtime(watched) => self.runtime(watched, now),
            Event::Instance(watched) => self.instance(watched, now),
            Event::Settled(write, outcome) => {
                self.in_flight = self.in_flight.saturating_sub(1);
                self.metrics.settled(&write, outcome);
                self.scheduler.settled(&write.uid, outcome, now);
                self.notes.extend(write.note.filter(|_| outcome == Outcome::Written).map(|note| *note));
            }
            Event::Tick => {}
        }
    }

    fn run(&mut self, watched: Watched<Box<Run>>, now: Now) {
        match watched {
            Watched::ListBegins => self.runs.seen.clear(),
            Watched::Listed(run) => {
                self.runs.seen.extend(run.metadata.uid.as_deref().map(RunUid::from));
                self.scheduler.run_seen(&run, now);
            }
            Watched::ListEnds => {
                self.runs.complete = true;
                let listed = std::mem::take(&mut self.runs.seen);
                self.retried.retain(|uid, _| listed.contains(uid));
                self.scheduler.runs_listed(&listed, now);
            }
            Watched::Seen(run) => {
                self.metrics.woken("run");
                self.retry_seen(&run);
                self.scheduler.run_seen(&run, now);
            }
            Watched::Gone(meta) => {
                if let Some(uid) = meta.uid.as_deref() {
                    self.metrics.woken("run");
                    self.retried.remove(&RunUid::from(uid));
                    self.scheduler.run_gone(&RunUid::from(uid), now);
                }
            }
            Watched::Malformed { meta, error } => {
                self.metrics.watches.malformed("Run", &meta, &error);
                if let Some(uid) = meta.uid.as_deref() {
                    self.scheduler.run_gone(&RunUid::from(uid), now);
                }
            }
            Watched::Trouble(error) => self.metrics.watches.trouble("Run", &error),
        }
    }

    /// Tells of an attempt that ended and is followed by another, once.
    fn retry_seen(&mut self, run: &Run) {
        let Some(uid) = run.metadata.uid.as_deref().map(RunUid::from) else { return };
        let status = run.status.as_ref().filter(|status| status.phase == Some(Phase::Pending));
        let Some((status, reason)) = status.and_then(|status| Some((status, status.reason?))) else {
            self.retried.remove(&uid);
            return;
        };
        let attempt = status.attempt.unwrap_or(1);
        if attempt < 2 || matches!(reason, Reason::Unschedulable | Reason::Suspended) {
            return;
        }
        let assignment = status.assignment.unwrap_or(0);
        if self.retried.insert(uid, assignment) != Some(assignment) {
            let why = status.message.as_deref().unwrap_or_default();
            let message =
                format!("attempt {} ended with {reason}: {why}; attempt {attempt} follows", attempt - 1);
            self.notes.push(Note { about: about(run), warning: true, reason: "Retrying".into(), message });
        }
    }

    fn pod(&mut self, watched: Watched<Box<Pod>>, now: Now) {
        match watched {
            Watched::ListBegins => self.pods.seen.clear(),
            Watched::Listed(pod) => {
                self.pods.seen.extend(pod.metadata.uid.as_deref().map(PodUid::from));
                self.pod_seen(&pod, now);
            }
            Watched::ListEnds => {
                self.pods.complete = true;
                self.scheduler.pods_listed(&std::mem::take(&mut self.pods.seen), now);
            }
            Watched::Seen(pod) => {
                self.metrics.woken("pod");
                self.pod_seen(&pod, now);
            }
            Watched::Gone(meta) => {
                if let Some(uid) = meta.uid.as_deref() {
                    self.metrics.woken("pod");
                    self.scheduler.pod_gone(&PodUid::from(uid), now);
                }
            }
            Watched::Malformed { meta, error } => {
                self.metrics.watches.malformed("Pod", &meta, &error);
                if let Some(uid) = meta.uid.as_deref() {
                    self.scheduler.pod_gone(&PodUid::from(uid), now);
                }
            }
            Watched::Trouble(error) => self.metrics.watches.trouble("Pod", &error),
        }
    }

    fn pod_seen(&mut self, pod: &Pod, now: Now) {
        match PodView::of(pod) {
            Some(view) => self.scheduler.pod_seen(view, now),
            // The label was taken away.
            None => {
                if let Some(uid) = pod.metadata.uid.as_deref() {
                    self.scheduler.pod_gone(&PodUid::from(uid), now);
                }
            }
        }
    }

    fn runtime(&mut self, watched: Watched<Box<Runtime>>, now: Now) {
        match watched {
            Watched::ListBegins => self.runtimes.seen.clear(),
            Watched::Listed(runtime) => {
                self.runtimes.seen.insert(identity(&runtime.metadata));
                self.runtime_seen(&runtime, now);
            }
            Watched::ListEnds => {
                self.runtimes.complete = true;
                self.scheduler.runtimes_listed(&std::mem::take(&mut self.runtimes.seen), now);
            }
            Watched::Seen(runtime) => {
                self.metrics.woken("runtime");
                self.runtime_seen(&runtime, now);
            }
            Watched::Gone(meta) => {
                let (namespace, name) = identity(&meta);
                self.scheduler.runtime_seen(&namespace, &name, None, now);
            }
            // What was known of it still holds; during a list it must not count as gone.
            Watched::Malformed { meta, error } => {
                self.runtimes.seen.insert(identity(&meta));
                self.metrics.watches.malformed("Runtime", &meta, &error);
            }
            Watched::Trouble(error) => self.metrics.watches.trouble("Runtime", &error),
        }
    }

    fn runtime_seen(&mut self, runtime: &Runtime, now: Now) {
        let (namespace, name) = identity(&runtime.metadata);
        self.scheduler.runtime_seen(&namespace, &name, Some(RuntimeView::of(runtime)), now);
    }

    fn instance(&mut self, watched: Watched<Box<RuntimeInstance>>, now: Now) {
        match watched {
            Watched::ListBegins => self.instances.seen.clear(),
            Watched::Listed(instance) => {
                self.instances.seen.insert(identity(&instance.metadata));
                self.instance_seen(&instance, now);
            }
            Watched::ListEnds => {
                self.instances.complete = true;
                self.scheduler.instances_listed(&std::mem::take(&mut self.instances.seen), now);
            }
            Watched::Seen(instance) => {
                self.metrics.woken("instance");
                self.instance_seen(&instance, now);
            }
            Watched::Gone(meta) => {
                let (namespace, name) = identity(&meta);
                self.scheduler.instance_gone(&namespace, &name, now);
            }
            Watched::Malformed { meta, error } => {
                self.metrics.watches.malformed("RuntimeInstance", &meta, &error);
                let (namespace, name) = identity(&meta);
                self.scheduler.instance_gone(&namespace, &name, now);
            }
            Watched::Trouble(error) => self.metrics.watches.trouble("RuntimeInstance", &error),
        }
    }

    fn instance_seen(&mut self, instance: &RuntimeInstance, now: Now) {
        if let Some(view) = InstanceView::of(instance) {
            self.scheduler.instance_seen(view, now);
        }
    }

    /// What to write now, and after what time to ask again. Nothing before every list is complete.
    pub fn plan(&mut self, now: Now) -> (Vec<Action>, Option<Duration>) {
        if !self.is_synced() {
            return (Vec::new(), None);
        }
        let mut actions: Vec<_> =
            std::mem::take(&mut self.notes).into_iter().map(|note| Action::Note(Box::new(note))).collect();
        loop {
            let free = self.limit.saturating_sub(self.in_flight.max(self.unseen()));
            let plan = self.scheduler.plan(now, free);
            if plan.decisions.is_empty() {
                return (actions, plan.next);
            }
            for decision in plan.decisions {
                actions.extend(self.write(decision, now).map(Action::Write));
            }
        }
    }

    fn write(&mut self, decision: Decision, now: Now) -> Option<Box<Write>> {
        let Decision { run, event } = decision;
        let uid = RunUid::from(run.metadata.uid.as_deref().unwrap_or_default());
        let status = match transition(&run, &event, now.wall) {
            Ok(status) => status,
            Err(refusal) => {
                self.metrics.stale();
                tracing::debug!(run = %uid, %refusal, "decision dropped");
                self.scheduler.settled(&uid, Outcome::Failed, now);
                return None;
            }
        };
        let Some(patch) = run::patch(&run, &status) else {
            self.scheduler.settled(&uid, Outcome::Failed, now);
            return None;
        };
        let what = match event {
            run::Event::Bind { .. } => "bound",
            run::Event::Unschedulable { .. } => "unschedulable",
            run::Event::Invalid { .. } => "invalid",
            run::Event::CancelUnassigned => "cancelled",
            run::Event::PendingTimeout => "pending_timeout",
            run::Event::Started { .. }
            | run::Event::HandBack { .. }
            | run::Event::Suspended { .. }
            | run::Event::Finished { .. }
            | run::Event::PodLost { .. } => "other",
        };
        let note = news(&run, &event, &status);
        let waited = self.scheduler.waiting_since(&uid).map_or(Duration::ZERO, |since| now.mono - since);
        let bind = bind(&run, &event, &status, now.wall.checked_sub(waited).unwrap_or(now.wall));
        self.in_flight += 1;
        Some(Box::new(Write {
            uid,
            namespace: run.metadata.namespace.clone().unwrap_or_default(),
            name: run.metadata.name.clone().unwrap_or_default(),
            runtime: run.spec.runtime.clone(),
            what,
            patch,
            waited: waited.as_secs_f64(),
            note,
            bind,
        }))
    }
}

/// What a trace will tell of this decision.
fn bind(run: &Run, event: &run::Event, status: &RunStatus, since: Timestamp) -> Option<Box<Bind>> {
    let run::Event::Bind { pod, .. } = event else { return None };
    let traceparent =
        run.metadata.annotations.as_ref().and_then(|all| all.get(TRACEPARENT_ANNOTATION)).cloned();
    let (attempt, assignment) = (status.attempt.unwrap_or(1), status.assignment.unwrap_or(0));
    Some(Box::new(Bind { traceparent, pod: pod.name.clone(), attempt, assignment, since }))
}

/// What a person should be told of a decision: that a Run waits and why, and that it goes on after
/// trouble. Nothing of a Run that is simply bound, nor of ends, which the controller tells.
fn news(run: &Run, event: &run::Event, status: &RunStatus) -> Option<Box<Note>> {
    let old = run.status.as_ref();
    let (warning, reason, message) = match event {
        run::Event::Unschedulable { message } => (true, "Unschedulable", message.clone()),
        run::Event::Bind { pod, .. } => {
            let attempt = status.attempt.unwrap_or(1);
            let waited = old.and_then(|status| status.reason) == Some(Reason::Unschedulable);
            (attempt > 1 || waited).then_some(())?;
            (false, "Scheduled", format!("attempt {attempt} goes to pod {}", pod.name))
        }
        run::Event::Invalid { .. }
        | run::Event::CancelUnassigned
        | run::Event::PendingTimeout
        | run::Event::Started { .. }
        | run::Event::HandBack { .. }
        | run::Event::Suspended { .. }
        | run::Event::Finished { .. }
        | run::Event::PodLost { .. } => return None,
    };
    Some(Box::new(Note { about: about(run), warning, reason: reason.into(), message }))
}

fn about(run: &Run) -> About {
    let (namespace, name) = identity(&run.metadata);
    About { kind: "Run", namespace, name, uid: run.metadata.uid.clone().unwrap_or_default() }
}

fn identity(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> (String, String) {
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}
