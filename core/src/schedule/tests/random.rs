//! Random histories: the state is checked after every event, and in the end everything has run.

use std::time::Duration;

use kruntimes_api::runtime::RunBounds;
use proptest::prelude::*;

use super::*;
use crate::run::Lost;

#[derive(Debug, Clone)]
enum Step {
    Submit {
        runs: u8,
        gpus: u8,
        priority: u8,
        submitter: u8,
        app: u8,
        choosy: u8,
    },
    Plan {
        budget: u8,
    },
    /// Applies the decision in flight of this index, or lets it fail.
    Answer {
        index: u8,
        outcome: u8,
    },
    /// Shows the stored version of a Run (late or repeated).
    Show(u8),
    Finish(u8),
    HandBack(u8),
    Lose(u8),
    Cancel(u8),
    Suspend(u8, bool),
    AddPod {
        runs: u8,
        gpus: u8,
    },
    RemovePod(u8),
    Ready(u8, bool),
    Capacity(u8, u8),
    /// GPUs come and get lost.
    Gpus(u8, u8),
    Runtime {
        single: bool,
        delegated: bool,
        /// Most `runs` of one Run; 0 for no ceiling.
        most: u8,
    },
    Pass(u8),
    Relist,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u8..4, 0u8..3, 0u8..3, 0u8..3, 0u8..3, 0u8..8).prop_map(|(runs, gpus, priority, submitter, app, choosy)| {
            Step::Submit { runs, gpus, priority, submitter, app, choosy }
        }),
        6 => (1u8..9).prop_map(|budget| Step::Plan { budget }),
        8 => (any::<u8>(), 0u8..8).prop_map(|(index, outcome)| Step::Answer { index, outcome }),
        5 => any::<u8>().prop_map(Step::Show),
        5 => any::<u8>().prop_map(Step::Finish),
        1 => any::<u8>().prop_map(Step::HandBack),
        1 => any::<u8>().prop_map(Step::Lose),
        1 => any::<u8>().prop_map(Step::Cancel),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(index, on)| Step::Suspend(index, on)),
        2 => (1u8..5, 0u8..3).prop_map(|(runs, gpus)| Step::AddPod { runs, gpus }),
        1 => any::<u8>().prop_map(Step::RemovePod),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(index, ready)| Step::Ready(index, ready)),
        1 => (any::<u8>(), 1u8..5).prop_map(|(index, runs)| Step::Capacity(index, runs)),
        1 => (any::<u8>(), 0u8..4).prop_map(|(index, gpus)| Step::Gpus(index, gpus)),
        1 => (any::<bool>(), any::<bool>(), 0u8..4)
            .prop_map(|(single, delegated, most)| Step::Runtime { single, delegated, most }),
        3 => (0u8..20).prop_map(Step::Pass),
        1 => Just(Step::Relist),
    ]
}

struct History {
    world: World,
    flying: Vec<Decision>,
    next: usize,
}

impl History {
    fn pick(&self, index: u8) -> Option<String> {
        let len = self.world.runs.len();
        (len > 0).then(|| self.world.runs.keys().nth(usize::from(index) % len).unwrap().clone())
    }

    fn pick_bound(&self, index: u8) -> Option<String> {
        let bound = |run: &&Run| State::of(run).unwrap().bound().is_some();
        let bound: Vec<_> = self.world.runs.values().filter(bound).collect();
        (!bound.is_empty()).then(|| bound[usize::from(index) % bound.len()].metadata.uid.clone().unwrap())
    }

    fn pick_pod(&self, index: u8) -> Option<String> {
        let mut names: Vec<_> = self.world.pods.keys().cloned().collect();
        names.sort();
        (!names.is_empty()).then(|| names[usize::from(index) % names.len()].clone())
    }

    fn take(&mut self, step: &Step) {
        let world = &mut self.world;
        match step {
            Step::Submit { runs, gpus, priority, submitter, app, choosy } => {
                self.next += 1;
                world.submit(&format!("run-{:04}", self.next), |run| {
                    request(run, &[("runs", &runs.to_string()), ("gpu", &gpus.to_string())]);
                    run.spec.priority = Some(i32::from(*priority));
                    run.spec.submitter = Some(format!("user-{submitter}"));
                    label(run, "app", &format!("app-{app}"));
                    match choosy {
                        0 => beside(run, vec![term("app", &format!("app-{app}"))], vec![]),
                        1 => away(run, vec![term("app", &format!("app-{app}"))]),
                        _ => {}
                    }
                });
            }
            Step::Plan { budget } => {
                let plan = world.scheduler.plan(world.now(), usize::from(*budget));
                assert!(plan.decisions.len() <= usize::from(*budget));
                for decision in &plan.decisions {
                    let uid = &decision.run.metadata.uid;
                    assert!(
                        self.flying.iter().all(|other| other.run.metadata.uid != *uid),
                        "two writes at once"
                    );
                }
                self.flying.extend(plan.decisions);
            }
            Step::Answer { index, outcome } => self.answer(*index, *outcome),
            Step::Show(index) => {
                if let Some(uid) = self.pick(*index) {
                    self.world.show(&uid);
                }
            }
            Step::Finish(index) => {
                if let Some(uid) = self.pick_bound(*index) {
                    self.world.finish(&uid);
                }
            }
            Step::HandBack(index) => {
                if let Some(uid) = self.pick_bound(*index) {
                    let fence = State::of(&self.world.runs[&uid]).unwrap().bound().unwrap().1.clone();
                    let delay = Duration::from_millis(500);
                    self.world.event(&uid, &Event::HandBack { fence, message: "no room".into(), delay });
                }
            }
            Step::Lose(index) => {
                if let Some(uid) = self.pick_bound(*index) {
                    let pod = State::of(&self.world.runs[&uid]).unwrap().bound().unwrap().0.uid.clone();
                    self.world.event(&uid, &Event::PodLost { pod, lost: Lost::Gone, message: "gone".into() });
                }
            }
            Step::Cancel(index) => {
                if let Some(uid) = self.pick(*index) {
                    self.world.change(&uid, |run| run.spec.cancel_requested = Some(true));
                }
            }
            Step::Suspend(index, on) => {
                if let Some(uid) = self.pick(*index) {
                    self.world.change(&uid, |run| run.spec.suspend = Some(*on));
                }
            }
            Step::AddPod { runs, gpus } => {
                self.next += 1;
                let capacity = [("runs", i64::from(*runs)), ("gpu", i64::from(*gpus))];
                world.pod(&format!("pod-{:04}", self.next), &capacity);
            }
            Step::RemovePod(index) => {
                if let Some(name) = self.pick_pod(*index) {
                    let pod = self.world.pods.remove(&name).unwrap();
                    let now = self.world.now();
                    self.world.scheduler.pod_gone(&pod.uid, now);
                }
            }
            Step::Ready(index, ready) => {
                if let Some(name) = self.pick_pod(*index) {
                    self.world.change_pod(&name, |pod| pod.ready = *ready);
                }
            }
            Step::Capacity(index, runs) => {
                if let Some(name) = self.pick_pod(*index) {
                    // Only growth: what shrinks below its load is over capacity through no fault of ours.
                    let now = i64::from(*runs);
                    self.world.change_pod(&name, |pod| {
                        let grown = pod.capacity.get("runs").max(Amount::whole(now));
                        pod.capacity.set("runs", grown);
                    });
                }
            }
            Step::Gpus(index, gpus) => {
                if let Some(name) = self.pick_pod(*index) {
                    let gpus = Amount::whole(i64::from(*gpus));
                    self.world.change_pod(&name, |pod| pod.capacity.set("gpu", gpus));
                }
            }
            Step::Runtime { single, delegated, most } => {
                let tenancy = match single {
                    true => kruntimes_api::runtime::Tenancy::SingleSubmitter,
                    false => kruntimes_api::runtime::Tenancy::Mixed,
                };
                let requests = [("runs".to_owned(), Quantity(most.to_string()))].into();
                let maximums = (*most > 0).then(|| RunBounds { requests, ..RunBounds::default() });
                let view = RuntimeView { tenancy, delegated: *delegated, maximums, ..RuntimeView::default() };
                world.runtime("bash", view);
            }
            Step::Pass(seconds) => world.pass(Duration::from_secs(u64::from(*seconds))),
            Step::Relist => {
                let ended = |run: &&Run| !matches!(State::of(run).unwrap(), State::Ended { .. });
                let runs: Vec<Run> = world.runs.values().filter(ended).cloned().collect();
                let now = world.now();
                for run in &runs {
                    world.scheduler.run_seen(run, now);
                }
                let listed =
                    runs.iter().map(|run| RunUid::from(run.metadata.uid.as_deref().unwrap())).collect();
                world.scheduler.runs_listed(&listed, now);
            }
        }
        self.world.verify();
    }

    fn answer(&mut self, index: u8, outcome: u8) {
        if self.flying.is_empty() {
            return;
        }
        let decision = self.flying.swap_remove(usize::from(index) % self.flying.len());
        let uid = RunUid::from(decision.run.metadata.uid.as_deref().unwrap());
        let now = self.world.now();
        match outcome {
            // The answer is lost, and whether the write arrived is not known.
            0 => {
                self.world.apply_silently(&decision);
                self.world.scheduler.settled(&uid, Outcome::Conflict, now);
            }
            1 => self.world.scheduler.settled(&uid, Outcome::Failed, now),
            // The watch is faster than the answer.
            2 => {
                if self.world.apply_silently(&decision) {
                    self.world.show(uid.as_str());
                    self.world.scheduler.settled(&uid, Outcome::Written, now);
                } else {
                    self.world.scheduler.settled(&uid, Outcome::Conflict, now);
                }
            }
            _ => {
                self.world.apply(&decision);
            }
        }
    }

    /// From here on nothing goes wrong: everything must come to its end.
    fn drain(&mut self) {
        while !self.flying.is_empty() {
            self.answer(0, 7);
        }
        self.world.runtime("bash", RuntimeView::default());
        for name in ["last-a", "last-b"] {
            self.world.pod(name, &[("runs", 4), ("gpu", 3)]);
        }
        for uid in self.world.runs.keys().cloned().collect::<Vec<_>>() {
            let ended = matches!(State::of(&self.world.runs[&uid]).unwrap(), State::Ended { .. });
            if !ended {
                self.world.change(&uid, |run| run.spec.suspend = None);
            }
        }
        for _ in 0..400 {
            self.world.settle();
            let Some(_) = self.pick_open() else { return };
            // One Run ends at a time, so that big ones see crowded Pods.
            if let Some(uid) = self.pick_bound(0) {
                self.world.finish(&uid);
            }
            self.world.pass(Duration::from_secs(4));
        }
        let open = self.pick_open().map(|uid| self.world.runs[&uid].clone());
        assert!(open.is_none(), "starved: {open:?}");
    }

    fn pick_open(&self) -> Option<String> {
        let open = |run: &&Run| !matches!(State::of(run).unwrap(), State::Ended { .. });
        self.world.runs.values().find(open).and_then(|run| run.metadata.uid.clone())
    }
}

impl World {
    /// Stores what a decision says without an answer or a watch event.
    pub(super) fn apply_silently(&mut self, decision: &Decision) -> bool {
        let uid = decision.run.metadata.uid.clone().unwrap();
        let wall = self.now().wall;
        let version = self.version + 1;
        let run = self.runs.get_mut(&uid).unwrap();
        if run.metadata.resource_version != decision.run.metadata.resource_version {
            return false;
        }
        run.status = Some(transition(&decision.run, &decision.event, wall).unwrap());
        run.metadata.resource_version = Some(version.to_string());
        self.version = version;
        true
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn no_history_breaks_the_state_or_starves_a_run(steps in proptest::collection::vec(step(), 1..120)) {
        let mut history = History { world: World::new(), flying: Vec::new(), next: 0 };
        for step in &steps {
            history.take(step);
        }
        history.drain();
    }
}
