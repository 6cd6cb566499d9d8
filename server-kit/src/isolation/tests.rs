//! The ladder takes the best rung that holds, and never claims more.

use super::*;

/// A rung whose probe and nature are given.
struct Fake {
    axis: Axis,
    probe: Result<(), &'static str>,
    guards: bool,
}

impl Rung for Fake {
    fn axis(&self) -> Axis {
        self.axis
    }

    fn mechanism(&self) -> &'static str {
        "fake"
    }

    fn level(&self) -> IsolationLevel {
        IsolationLevel::Hard
    }

    fn probe(&self) -> Result<(), String> {
        self.probe.map_err(ToOwned::to_owned)
    }

    fn weakness(&self) -> String {
        String::new()
    }

    fn guards_kit(&self) -> bool {
        self.guards
    }
}

fn fake(axis: Axis, probe: Result<(), &'static str>, guards: bool) -> Arc<dyn Rung> {
    Arc::new(Fake { axis, probe, guards })
}

fn probe(rungs: &[Arc<dyn Rung>]) -> Ladder {
    Ladder::probe(rungs, Groups::open(&Place::default()))
}

fn axis<'a>(isolation: &'a Isolation, name: &str) -> &'a IsolationAxis {
    isolation.axes.iter().find(|axis| axis.axis == name).expect("every axis is told")
}

#[test]
fn each_axis_is_told_once_and_what_is_not_hard_says_why() {
    let ladder = Ladder::open(&Place::default());
    let names: Vec<_> = ladder.record().axes.iter().map(|axis| axis.axis.as_str()).collect();
    assert_eq!(names, ["limits", "kill", "files", "devices", "network", "privileges"]);
    for axis in &ladder.record().axes {
        assert!(axis.level() == IsolationLevel::Hard || !axis.reason.is_empty(), "{axis:?}");
    }
}

#[test]
fn a_better_rung_that_does_not_hold_gives_its_reason() {
    let soft = Plain::rung(Axis::Kill, "subreaper", IsolationLevel::Soft, "weak");
    let ladder = probe(&[fake(Axis::Kill, Err("the tree is read-only"), false), soft]);
    let kill = axis(ladder.record(), "kill");
    assert_eq!((&*kill.mechanism, &*kill.reason), ("subreaper", "fake: the tree is read-only; weak"));
    let none = probe(&[]);
    assert!(none.record().axes.iter().all(|axis| axis.level() == IsolationLevel::None));
}

#[test]
fn limits_are_hard_only_when_a_run_cannot_lift_them() {
    let limits = || fake(Axis::Limits, Ok(()), false);
    let open = probe(&[limits()]);
    let told = axis(open.record(), "limits");
    assert_eq!((told.level(), &*told.reason), (IsolationLevel::Soft, UNGUARDED));
    let guarded = probe(&[limits(), fake(Axis::Privileges, Ok(()), true)]);
    assert_eq!(axis(guarded.record(), "limits").level(), IsolationLevel::Hard);
    let failed = probe(&[limits(), fake(Axis::Privileges, Err("no"), true)]);
    assert_eq!(axis(failed.record(), "limits").level(), IsolationLevel::Soft);
}
