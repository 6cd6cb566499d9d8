use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kruntimes_api::run::{Phase, RunStatus};
use proptest::prelude::*;

use super::*;
use crate::run::transition;

const SECOND: Duration = Duration::from_secs(1);

/// A cluster with a watch that can be cut, and what the plan made of it.
struct World {
    liveness: Liveness,
    now: Duration,
    beats: i64,
    deleted: Vec<PodUid>,
    lost: Vec<(String, Lost, String)>,
    api: bool,
    version: u64,
    /// Pods that exist although the watch does not show them.
    hidden: Vec<PodFacts>,
    asked: u32,
}

fn facts(name: &str, beat: i64) -> PodFacts {
    PodFacts {
        namespace: "team".into(),
        name: name.into(),
        uid: PodUid::from(format!("{name}-uid")),
        deleting: false,
        beat: Some(Timestamp::from_second(beat).unwrap()),
        ended: None,
        drained: false,
    }
}

impl World {
    fn new(settings: Settings) -> Self {
        Self {
            liveness: Liveness::new(settings),
            now: SECOND,
            beats: 0,
            deleted: vec![],
            lost: vec![],
            api: true,
            version: 0,
            hidden: vec![],
            asked: 0,
        }
    }

    fn beat(&mut self, name: &str) {
        self.beats += 1;
        self.liveness.pod_seen(facts(name, self.beats), self.now);
    }

    fn bind(&mut self, name: &str, pod: &str, phase: Phase) {
        self.version += 1;
        let run = Run {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some("team".into()),
                uid: Some(format!("{name}-uid")),
                resource_version: Some(self.version.to_string()),
                ..ObjectMeta::default()
            },
            status: Some(RunStatus {
                phase: Some(phase),
                assigned_pod: Some(pod.into()),
                assigned_pod_uid: Some(format!("{pod}-uid")),
                attempt: Some(1),
                assignment: Some(1),
                start_time: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(
                    Timestamp::UNIX_EPOCH,
                )),
                ..RunStatus::default()
            }),
            ..Run::default()
        };
        self.liveness.run_seen(&run, self.now);
    }

    /// Carries the plan out until it has nothing to do; returns when it wants to be asked again.
    fn act(&mut self) -> Option<Duration> {
        loop {
            let (actions, next) = self.liveness.plan(self.now);
            if actions.is_empty() {
                return next;
            }
            for action in actions {
                match action {
                    Action::Probe { .. } => self.liveness.probed(self.api, self.now),
                    Action::Confirm { uid, .. } => {
                        self.asked += 1;
                        match self.hidden.iter().find(|facts| facts.uid == uid) {
                            _ if !self.api => self.liveness.not_answered(&uid, self.now),
                            Some(facts) => drop(self.liveness.found(facts.clone(), self.now)),
                            None => self.liveness.confirmed_gone(&uid),
                        }
                    }
                    Action::DeletePod { uid, .. } => self.deleted.push(uid),
                    Action::Lost { run, event } => {
                        let Event::PodLost { lost, ref message, .. } = event else { panic!("{event:?}") };
                        transition(&run, &event, Timestamp::UNIX_EPOCH).expect("applies");
                        self.lost.push((run.metadata.name.clone().unwrap(), lost, message.clone()));
                        self.liveness.run_gone(&RunUid::from(run.metadata.uid.as_deref().unwrap()));
                    }
                }
            }
        }
    }

    /// Lets time pass second by second; `alive` Pods beat every ten.
    fn pass(&mut self, seconds: u64, alive: &[&str]) {
        for _ in 0..seconds {
            self.now += SECOND;
            if self.now.as_secs().is_multiple_of(10) {
                for name in alive {
                    self.beat(name);
                }
            }
            self.act();
        }
    }
}

#[test]
fn a_silent_pod_is_deleted_and_its_runs_wait_until_it_is_gone() {
    for phase in [Phase::Scheduled, Phase::Running, Phase::Ready] {
        let mut world = World::new(Settings::default());
        world.beat("p");
        world.bind("a", "p", phase);
        world.pass(29, &[]);
        assert!(world.deleted.is_empty());
        world.pass(4, &[]);
        assert_eq!(world.deleted, [PodUid::from("p-uid")], "{phase}");
        world.pass(100, &[]);
        assert!(world.lost.is_empty(), "never twice at once");
        world.liveness.pod_gone(&PodUid::from("p-uid"));
        world.act();
        assert_eq!(
            world.lost,
            [("a".into(), Lost::Unhealthy, "pod p had no heartbeat and was deleted".into())]
        );
    }
}

#[test]
fn a_silent_pod_without_runs_is_left_alone() {
    let mut world = World::new(Settings::default());
    world.beat("p");
    world.pass(1000, &[]);
    assert!(world.deleted.is_empty());
}

#[test]
fn a_pod_that_beats_is_never_touched() {
    let mut world = World::new(Settings::default());
    world.beat("p");
    world.bind("a", "p", Phase::Running);
    world.pass(1000, &["p"]);
    assert!(world.deleted.is_empty() && world.lost.is_empty());
}

#[test]
fn a_pod_that_does_not_go_away_is_given_up_after_a_long_time() {
    let mut world = World::new(Settings::default());
    world.beat("p");
    world.bind("a", "p", Phase::Running);
    world.pass(629, &[]);
    assert!(world.lost.is_empty());
    world.pass(2, &[]);
    let (_, lost, message) = &world.lost[0];
    assert_eq!(*lost, Lost::Unhealthy);
    assert!(message.contains("may still run on p"), "{message}");

    let mut never = World::new(Settings { force_after: None, ..Settings::default() });
    never.beat("p");
    never.bind("a", "p", Phase::Running);
    never.pass(5000, &[]);
    assert!(never.lost.is_empty());
}

#[test]
fn gone_terminated_and_ended_pods() {
    let mut world = World::new(Settings::default());
    for (run, pod) in [("a", "gone"), ("b", "stopped"), ("c", "failed"), ("d", "drained"), ("e", "left")] {
        world.beat(pod);
        world.bind(run, pod, Phase::Running);
    }
    world.act();
    assert!(world.lost.is_empty());
    world.liveness.pod_seen(PodFacts { deleting: true, ..facts("stopped", 99) }, world.now);
    world.act();
    assert!(world.lost.is_empty(), "it may still hand back");
    world
        .liveness
        .pod_seen(PodFacts { ended: Some("Failed: Evicted".into()), ..facts("failed", 99) }, world.now);
    for name in ["drained", "left"] {
        let ended = Some("Succeeded".into());
        world
            .liveness
            .pod_seen(PodFacts { deleting: true, drained: true, ended, ..facts(name, 99) }, world.now);
    }
    world.liveness.pod_gone(&PodUid::from("gone-uid"));
    world.liveness.pod_gone(&PodUid::from("stopped-uid"));
    world.liveness.pod_gone(&PodUid::from("left-uid"));
    world.act();
    world.lost.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(
        world.lost,
        [
            ("a".into(), Lost::Gone, "pod gone is gone".into()),
            ("b".into(), Lost::Terminating, "pod stopped was terminated".into()),
            ("c".into(), Lost::Gone, "pod failed has ended: Failed: Evicted".into()),
            ("d".into(), Lost::Drained, "pod drained has ended: Succeeded".into()),
            ("e".into(), Lost::Drained, "pod left has ended: Succeeded".into()),
        ]
    );
}

#[test]
fn a_pod_that_only_lost_its_label_keeps_its_runs_and_is_asked_for() {
    let mut world = World::new(Settings::default());
    world.beat("p");
    world.bind("a", "p", Phase::Running);
    world.hidden = vec![facts("p", 1)];
    world.liveness.pod_gone(&PodUid::from("p-uid"));
    for beat in 2..20 {
        world.hidden = vec![facts("p", beat)];
        world.pass(10, &[]);
    }
    assert!(world.lost.is_empty() && world.deleted.is_empty(), "{:?}", world.lost);
    assert!((15..=25).contains(&world.asked), "{} times in three minutes", world.asked);
    // A list without it, and another controller that has never seen it, find the same.
    world.liveness.pods_listed(&HashSet::new());
    world.pass(5, &[]);
    let mut fresh = World::new(Settings::default());
    fresh.bind("a", "p", Phase::Running);
    fresh.hidden = vec![facts("p", 20)];
    fresh.pass(20, &[]);
    assert!(world.lost.is_empty() && fresh.lost.is_empty());
    // Its heartbeat counts as any other's: silent Pods are deleted.
    world.pass(40, &[]);
    assert_eq!(world.deleted, [PodUid::from("p-uid")]);
    world.hidden.clear();
    world.pass(11, &[]);
    assert_eq!(world.lost[0].1, Lost::Unhealthy);
    // An API that does not answer proves nothing.
    fresh.api = false;
    fresh.hidden.clear();
    fresh.pass(300, &[]);
    assert!(fresh.lost.is_empty());
    fresh.api = true;
    fresh.pass(4, &[]);
    assert_eq!(fresh.lost[0].1, Lost::Gone);
}

#[test]
fn a_pod_that_is_shown_again_is_no_longer_asked_for() {
    let mut world = World::new(Settings::default());
    world.beat("p");
    world.bind("a", "p", Phase::Running);
    world.hidden = vec![facts("p", 1)];
    world.liveness.pod_gone(&PodUid::from("p-uid"));
    world.pass(1, &[]);
    let asked = world.asked;
    world.beat("p");
    world.pass(100, &["p"]);
    assert_eq!(world.asked, asked);
}

#[test]
fn a_pod_that_was_never_seen_gets_a_moment() {
    let mut world = World::new(Settings::default());
    world.bind("a", "p", Phase::Scheduled);
    world.pass(9, &[]);
    assert!(world.lost.is_empty());
    world.pass(1, &[]);
    assert_eq!(world.lost[0].1, Lost::Gone);
}

#[test]
fn a_pause_of_the_api_kills_nothing() {
    let mut world = World::new(Settings::default());
    for pod in ["p", "q"] {
        world.beat(pod);
        world.bind(pod, pod, Phase::Running);
    }
    world.pass(12, &["p", "q"]);
    // The API answers nobody, for minutes; its watch stays open and silent.
    world.api = false;
    world.pass(300, &[]);
    world.api = true;
    // It answers us at once, and the sidecars within one heartbeat.
    world.pass(9, &[]);
    world.pass(60, &["p", "q"]);
    assert!(world.deleted.is_empty() && world.lost.is_empty(), "{:?}", world.deleted);
    // One that stays silent after that is dead.
    world.pass(40, &["q"]);
    assert_eq!(world.deleted, [PodUid::from("p-uid")]);
}

#[test]
fn what_we_slept_through_proves_nothing() {
    let mut world = World::new(Settings::default());
    world.beat("p");
    world.bind("a", "p", Phase::Running);
    world.pass(16, &[]);
    world.now += SECOND * 3600;
    world.act();
    world.pass(9, &[]);
    assert!(world.deleted.is_empty() && world.lost.is_empty());
}

#[test]
fn a_verdict_is_given_once_per_version() {
    let mut world = World::new(Settings::default());
    world.beat("p");
    world.bind("a", "p", Phase::Running);
    world.liveness.pod_gone(&PodUid::from("p-uid"));
    assert!(matches!(world.liveness.plan(world.now).0[..], [Action::Confirm { .. }]));
    assert_eq!(world.liveness.plan(world.now).0.len(), 0, "the question is on the way");
    world.liveness.confirmed_gone(&PodUid::from("p-uid"));
    assert_eq!(world.liveness.plan(world.now).0.len(), 1);
    assert_eq!(world.liveness.plan(world.now).0.len(), 0, "its write is on the way");
    world.liveness.unanswered(&RunUid::from("a-uid"));
    assert_eq!(world.liveness.plan(world.now).0.len(), 1);
    world.bind("a", "p", Phase::Running);
    assert_eq!(world.liveness.plan(world.now).0.len(), 1, "somebody else wrote");
}

proptest! {
    /// Whatever happens, no Run of a Pod that exists and beats is given up, and every Run
    /// of a Pod that is gone is.
    #[test]
    fn only_the_lost_are_given_up(steps in proptest::collection::vec((0u8..8, 0u8..4, 1u64..20), 1..80)) {
        let names = ["p0", "p1", "p2", "p3"];
        let mut world = World::new(Settings { force_after: None, ..Settings::default() });
        let mut there = [true; 4];
        let mut runs = 0;
        for name in names {
            world.beat(name);
        }
        let mut expected: Vec<String> = vec![];
        let mut bound: Vec<(String, usize)> = vec![];
        for (what, which, seconds) in steps {
            let which = usize::from(which);
            match what {
                0 | 1 if there[which] => {
                    runs += 1;
                    world.bind(&format!("r{runs}"), names[which], Phase::Running);
                    bound.push((format!("r{runs}"), which));
                }
                2 if there[which] => {
                    there[which] = false;
                    world.liveness.pod_gone(&PodUid::from(format!("{}-uid", names[which])));
                    expected.extend(bound.iter().filter(|(_, pod)| *pod == which).map(|(run, _)| run.clone()));
                    bound.retain(|(_, pod)| *pod != which);
                }
                3 => world.api = !world.api,
                4 => world.liveness.trouble(world.now),
                _ => {}
            }
            let alive: Vec<&str> = names.iter().zip(there).filter(|(_, there)| *there).map(|(name, _)| *name).collect();
            world.pass(seconds, &alive);
        }
        // The API must answer before a Pod counts as gone.
        world.api = true;
        let alive: Vec<&str> = names.iter().zip(there).filter(|(_, there)| *there).map(|(name, _)| *name).collect();
        world.pass(4, &alive);
        let mut lost: Vec<String> = world.lost.iter().map(|(run, ..)| run.clone()).collect();
        lost.sort();
        expected.sort();
        prop_assert_eq!(lost, expected);
        prop_assert!(world.deleted.is_empty());
    }
}

#[test]
fn a_clock_that_jumps_makes_no_live_pod_dead_and_no_dead_one_live() {
    for jump in [3600, -3600] {
        let mut world = World::new(Settings::default());
        for pod in ["live", "dead"] {
            world.beat(pod);
            world.bind(&format!("on-{pod}"), pod, Phase::Running);
        }
        for second in 1..=120 {
            world.now += SECOND;
            if second == 15 {
                world.beats += jump;
            }
            if second % 10 == 0 {
                world.beat("live");
            }
            world.act();
        }
        world.deleted.dedup();
        assert_eq!(world.deleted, [PodUid::from("dead-uid")], "{jump}");
        assert!(world.lost.is_empty(), "{jump}: a Run is lost only when its Pod is gone");
    }
}
