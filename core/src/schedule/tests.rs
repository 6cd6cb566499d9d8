mod clock;
mod namespaces;
mod random;
mod reserve;
mod rules;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, Time};
use kruntimes_api::run::{
    Affinity, AffinityTerm, AffinityTerms, Phase, Resources, Run, WeightedAffinityTerm,
};
use kruntimes_resources::Amount;

use super::*;
use crate::ids::{PodUid, RunUid};
use crate::run::{Event, State, transition};

pub(super) const NS: &str = "team";

/// The API server and the clock, as the scheduler sees them.
pub(super) struct World {
    pub(super) scheduler: Scheduler,
    /// Stored Runs by uid, with a version that grows.
    pub(super) runs: BTreeMap<String, Run>,
    pub(super) capacity: HashMap<PodUid, Amounts>,
    pub(super) pods: HashMap<String, PodView>,
    pub(super) version: u64,
    pub(super) mono: Duration,
    /// By how much the clock on the wall has jumped.
    pub(super) jump: SignedDuration,
    /// Names of Runs in the order in which they were bound.
    pub(super) bound: Vec<String>,
}

pub(super) fn amounts(pairs: &[(&str, i64)]) -> Amounts {
    pairs.iter().map(|(name, amount)| (*name, Amount::whole(*amount))).collect()
}

impl World {
    pub(super) fn new() -> Self {
        let mut world = Self {
            scheduler: Scheduler::new(Settings::default()),
            runs: BTreeMap::new(),
            capacity: HashMap::new(),
            pods: HashMap::new(),
            version: 0,
            mono: Duration::ZERO,
            jump: SignedDuration::ZERO,
            bound: Vec::new(),
        };
        world.runtime("bash", RuntimeView { replicas: 1, ..RuntimeView::default() });
        world
    }

    pub(super) fn now(&self) -> Now {
        let start = Timestamp::from_second(1_700_000_000).unwrap();
        Now { wall: start + self.mono + self.jump, mono: self.mono }
    }

    pub(super) fn runtime(&mut self, name: &str, view: RuntimeView) {
        let now = self.now();
        self.scheduler.runtime_seen(NS, name, Some(view), now);
    }

    pub(super) fn pod(&mut self, name: &str, capacity: &[(&str, i64)]) -> PodUid {
        self.pod_of("bash", name, capacity)
    }

    pub(super) fn pod_of(&mut self, runtime: &str, name: &str, capacity: &[(&str, i64)]) -> PodUid {
        self.pod_in(NS, runtime, name, capacity)
    }

    pub(super) fn pod_in(
        &mut self,
        namespace: &str,
        runtime: &str,
        name: &str,
        capacity: &[(&str, i64)],
    ) -> PodUid {
        let key = if namespace == NS { name.to_owned() } else { format!("{namespace}/{name}") };
        let uid = PodUid::from(format!("{key}-uid"));
        let view = PodView {
            namespace: namespace.into(),
            name: name.into(),
            uid: uid.clone(),
            runtime: runtime.into(),
            ready: true,
            deleting: false,
            beat: Some(self.now().wall),
            capacity: amounts(capacity),
        };
        self.capacity.insert(uid.clone(), view.capacity.clone());
        self.pods.insert(key, view.clone());
        let now = self.now();
        self.scheduler.pod_seen(view, now);
        uid
    }

    pub(super) fn change_pod(&mut self, name: &str, change: impl FnOnce(&mut PodView)) {
        let now = self.now();
        let view = self.pods.get_mut(name).unwrap();
        change(view);
        self.capacity.insert(view.uid.clone(), view.capacity.clone());
        let view = view.clone();
        self.scheduler.pod_seen(view, now);
    }

    /// Lets time pass, with every Pod alive.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.mono + time;
        while self.mono < end {
            self.mono = (self.mono + Duration::from_secs(10)).min(end);
            let now = self.now();
            for pod in self.pods.values_mut() {
                pod.beat = Some(now.wall);
                self.scheduler.pod_seen(pod.clone(), now);
            }
        }
    }

    pub(super) fn submit(&mut self, name: &str, change: impl FnOnce(&mut Run)) -> String {
        let uid = format!("{name}-uid");
        let mut run = Run {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some(NS.into()),
                uid: Some(uid.clone()),
                creation_timestamp: Some(Time(self.now().wall)),
                ..ObjectMeta::default()
            },
            ..Run::default()
        };
        run.spec.runtime = "bash".into();
        change(&mut run);
        self.store(run);
        uid
    }

    /// Stores a Run and shows it to the scheduler.
    pub(super) fn store(&mut self, mut run: Run) {
        self.version += 1;
        run.metadata.resource_version = Some(self.version.to_string());
        let uid = run.metadata.uid.clone().unwrap();
        self.runs.insert(uid.clone(), run);
        self.show(&uid);
    }

    pub(super) fn show(&mut self, uid: &str) {
        let now = self.now();
        let run = &self.runs[uid];
        if run.status.as_ref().and_then(|s| s.phase).is_some_and(Phase::is_terminal) {
            self.scheduler.run_gone(&RunUid::from(uid), now);
        } else {
            self.scheduler.run_seen(run, now);
        }
        self.verify();
    }

    pub(super) fn change(&mut self, uid: &str, change: impl FnOnce(&mut Run)) {
        let mut run = self.runs[uid].clone();
        change(&mut run);
        self.store(run);
    }

    pub(super) fn event(&mut self, uid: &str, event: &Event) {
        let status = transition(&self.runs[uid], event, self.now().wall).unwrap();
        self.change(uid, |run| run.status = Some(status));
    }

    /// Ends a bound Run well.
    pub(super) fn finish(&mut self, uid: &str) {
        self.change(uid, |run| run.status.as_mut().unwrap().phase = Some(Phase::Succeeded));
    }

    /// Applies a decision like the API server would. True when it was not a conflict.
    pub(super) fn apply(&mut self, decision: &Decision) -> bool {
        let uid = decision.run.metadata.uid.clone().unwrap();
        let run_uid = RunUid::from(uid.as_str());
        let now = self.now();
        let stored = self.runs.get(&uid);
        if stored.is_none_or(|run| run.metadata.resource_version != decision.run.metadata.resource_version) {
            self.scheduler.settled(&run_uid, Outcome::Conflict, now);
            self.verify();
            return false;
        }
        let status = transition(&decision.run, &decision.event, now.wall).unwrap();
        if let Event::Bind { .. } = decision.event {
            self.bound.push(decision.run.metadata.name.clone().unwrap());
        }
        self.version += 1;
        let run = self.runs.get_mut(&uid).unwrap();
        run.status = Some(status);
        run.metadata.resource_version = Some(self.version.to_string());
        self.scheduler.settled(&run_uid, Outcome::Written, now);
        self.verify();
        true
    }

    /// Plans and applies until nothing is left to do now. Returns what was done, as `name:event`.
    pub(super) fn settle(&mut self) -> Vec<String> {
        let mut done = Vec::new();
        loop {
            let plan = self.scheduler.plan(self.now(), 8);
            self.verify();
            if plan.decisions.is_empty() {
                return done;
            }
            for decision in plan.decisions {
                self.apply(&decision);
                let name = decision.run.metadata.name.clone().unwrap();
                let what = match &decision.event {
                    Event::Bind { pod, .. } => format!("{name}>{}", pod.name),
                    Event::Unschedulable { message } => format!("{name}: {message}"),
                    Event::Invalid { message } => format!("{name}! {message}"),
                    other => format!("{name} {other:?}"),
                };
                done.push(what);
                self.show(decision.run.metadata.uid.as_deref().unwrap());
            }
        }
    }

    /// The scheduler's own state, and no stored state over capacity.
    pub(super) fn verify(&self) {
        self.scheduler.check().unwrap_or_else(|error| panic!("{error}"));
        let mut held: HashMap<PodUid, i64> = HashMap::new();
        for run in self.runs.values() {
            if let Ok(state) = State::of(run)
                && let Some((pod, _)) = state.bound()
            {
                let runs = run.spec.resources.as_ref().and_then(|r| r.requests.get("runs"));
                *held.entry(pod.uid.clone()).or_default() +=
                    runs.map_or(1, |q| q.0.parse::<i64>().unwrap().max(1));
            }
        }
        for (pod, runs) in held {
            if let Some(capacity) = self.capacity.get(&pod) {
                let most = capacity.get("runs").as_whole().unwrap();
                assert!(runs <= most, "{pod} holds {runs} of {most} runs");
            }
        }
    }
}

pub(super) fn request(run: &mut Run, pairs: &[(&str, &str)]) {
    let requests =
        pairs.iter().map(|(name, text)| ((*name).to_owned(), Quantity((*text).to_owned()))).collect();
    run.spec.resources = Some(Resources { requests, ..Resources::default() });
}

pub(super) fn label(run: &mut Run, key: &str, value: &str) {
    run.metadata.labels.get_or_insert_default().insert(key.into(), value.into());
}

pub(super) fn term(key: &str, value: &str) -> AffinityTerm {
    let match_labels = Some([(key.to_owned(), value.to_owned())].into());
    AffinityTerm {
        label_selector: LabelSelector { match_labels, ..LabelSelector::default() },
        topology_key: "kruntimes.io/runtime-pod".into(),
    }
}

pub(super) fn beside(run: &mut Run, required: Vec<AffinityTerm>, preferred: Vec<WeightedAffinityTerm>) {
    run.spec.affinity.get_or_insert_default().run_affinity = Some(AffinityTerms { required, preferred });
}

pub(super) fn away(run: &mut Run, required: Vec<AffinityTerm>) {
    let affinity: &mut Affinity = run.spec.affinity.get_or_insert_default();
    affinity.run_anti_affinity = Some(AffinityTerms { required, preferred: Vec::new() });
}
