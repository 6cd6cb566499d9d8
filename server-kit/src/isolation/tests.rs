//! The ladder takes the best rung that holds, and never claims more.

use super::*;

/// A rung whose probe and nature are given.
struct Fake {
    axis: Axis,
    probe: Result<(), &'static str>,
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

    fn weakness(&self, _ids: bool) -> String {
        String::new()
    }
}

fn fake(axis: Axis, probe: Result<(), &'static str>) -> Arc<dyn Rung> {
    Arc::new(Fake { axis, probe })
}

/// A rung that needs nothing from the place and gives nothing to a Run.
struct Plain {
    axis: Axis,
    mechanism: &'static str,
    level: IsolationLevel,
    weakness: &'static str,
}

impl Plain {
    fn rung(
        axis: Axis,
        mechanism: &'static str,
        level: IsolationLevel,
        weakness: &'static str,
    ) -> Arc<dyn Rung> {
        Arc::new(Self { axis, mechanism, level, weakness })
    }
}

impl Rung for Plain {
    fn axis(&self) -> Axis {
        self.axis
    }

    fn mechanism(&self) -> &'static str {
        self.mechanism
    }

    fn level(&self) -> IsolationLevel {
        self.level
    }

    fn probe(&self) -> Result<(), String> {
        Ok(())
    }

    fn weakness(&self, _ids: bool) -> String {
        self.weakness.to_owned()
    }
}

/// With fences as they are where `holds` says so, all or none.
fn with_fences(rungs: &[Arc<dyn Rung>], holds: bool) -> Ladder {
    let wanted = Wanted {
        work_dir: "/nonexistent/work".into(),
        socket_dir: None,
        shared: Vec::new(),
        leasable: Vec::new(),
        no_network: false,
        bandwidth: false,
        at_most: Vec::new(),
        ids: IdRange::DEFAULT,
    };
    let filter = Err("not here".to_owned());
    let fencing = Fencing::by(wanted, filter, |_, _| if holds { Ok(()) } else { Err("not here".into()) });
    Ladder::probe(rungs, Groups::open(&Place::default()), fencing, &[])
}

fn ladder(rungs: &[Arc<dyn Rung>]) -> Ladder {
    with_fences(rungs, false)
}

fn axis<'a>(isolation: &'a Isolation, name: &str) -> &'a IsolationAxis {
    isolation.axes.iter().find(|axis| axis.axis == name).expect("every axis is told")
}

#[test]
fn each_axis_is_told_once_and_what_is_not_hard_says_why() {
    let place = Place::default();
    let told = ladder(&rungs(&place, &Groups::open(&place)));
    let names: Vec<_> = told.record().axes.iter().map(|axis| axis.axis.as_str()).collect();
    assert_eq!(names, ["limits", "kill", "files", "devices", "network", "privileges"]);
    for axis in &told.record().axes {
        assert!(axis.level() == IsolationLevel::Hard || !axis.reason.is_empty(), "{axis:?}");
    }
}

#[test]
fn a_better_rung_that_does_not_hold_gives_its_reason() {
    let soft = Plain::rung(Axis::Kill, "subreaper", IsolationLevel::Soft, "weak");
    let told = ladder(&[fake(Axis::Kill, Err("the tree is read-only")), soft]);
    let kill = axis(told.record(), "kill");
    assert_eq!((&*kill.mechanism, &*kill.reason), ("subreaper", "fake: the tree is read-only; weak"));
    let hard = Plain::rung(Axis::Kill, "freezer", IsolationLevel::Hard, "");
    let told = with_fences(&[fake(Axis::Kill, Err("the tree is read-only")), hard], true);
    assert_eq!(axis(told.record(), "kill").reason, "", "nothing is missing");
    let none = ladder(&[]);
    assert!(["limits", "kill"].iter().all(|name| axis(none.record(), name).level() == IsolationLevel::None));
}

#[test]
fn limits_are_hard_only_when_a_run_cannot_lift_them() {
    let limits = || fake(Axis::Limits, Ok(()));
    let open = ladder(&[limits()]);
    let told = axis(open.record(), "limits");
    assert_eq!(told.level(), IsolationLevel::Soft);
    assert!(told.reason.starts_with(UNGUARDED) && told.reason.contains(FOR_GUARD), "{}", told.reason);
    assert_eq!(open.remedies(Axis::Limits), [FOR_GUARD]);
    let guarded = with_fences(&[limits()], true);
    assert_eq!(axis(guarded.record(), "limits").level(), IsolationLevel::Hard);
    assert!(guarded.remedies(Axis::Limits).is_empty());
}

#[test]
fn what_would_give_more_is_in_the_reason_as_well() {
    let place = Place { cgroup_parent: "own".parse().expect("parses"), ..Place::default() };
    let told = ladder(&limits::rungs(&place, &Groups::open(&Place::default())));
    for name in ["limits", "files", "network", "privileges"] {
        let axis_told = axis(told.record(), name);
        let wanted = Axis::ALL.into_iter().find(|axis| axis.name() == name).expect("known");
        let remedies = told.remedies(wanted);
        assert!(!remedies.is_empty(), "{axis_told:?}");
        if wanted != Axis::Network {
            assert!(remedies.iter().all(|help| axis_told.reason.contains(help)), "{axis_told:?}");
        }
    }
    let off = ladder(&limits::rungs(&Place::default(), &Groups::open(&Place::default())));
    assert!(off.remedies(Axis::Limits).is_empty(), "it was switched off by a flag");
}

#[test]
fn a_run_without_a_folder_of_its_own_is_told_so() {
    let told = with_fences(&[], true);
    let files = |directory: &str| axis(told.record_of(Path::new(directory)), "files").level();
    assert_eq!(files("/nonexistent/work/a"), IsolationLevel::Hard);
    assert_eq!(files("/nonexistent/work"), IsolationLevel::None);
    assert_eq!(told.record(), told.record_of(Path::new("/nonexistent/work/a")));
}

#[test]
fn where_an_axis_begins_is_named_by_axis_and_mechanism() {
    for (text, wrong) in [
        ("files", "AXIS=MECHANISM"),
        ("luck=none", "none of limits, kill, files, devices, network, privileges"),
        ("limits=none", "cgroup-v2, cgroup-v1, policing"),
        ("files=hope", "mount-namespace, landlock, directory"),
    ] {
        let error = text.parse::<AtMost>().expect_err(text);
        assert!(error.contains(wrong), "{error}");
    }
    let limit: AtMost = "files=landlock".parse().expect("parses");
    assert_eq!(limit.to_string(), "files=landlock");
}
