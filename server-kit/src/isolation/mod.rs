//! What keeps Runs apart: one ladder of rungs per axis, probed once at start, told as it is.
//!
//! Every rung either holds here or says why not. The best one that holds is what a Run gets; the
//! reasons of the better ones that do not are told with it. A level is never what was wished for.

use kruntimes_proto::v1::{Isolation, IsolationAxis, IsolationLevel};

/// What a rung protects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Axis {
    Limits,
    Kill,
    Files,
    Devices,
    Network,
    Privileges,
}

impl Axis {
    const ALL: [Self; 6] =
        [Self::Limits, Self::Kill, Self::Files, Self::Devices, Self::Network, Self::Privileges];

    fn name(self) -> &'static str {
        match self {
            Self::Limits => "limits",
            Self::Kill => "kill",
            Self::Files => "files",
            Self::Devices => "devices",
            Self::Network => "network",
            Self::Privileges => "privileges",
        }
    }
}

/// One way to hold an axis.
pub(crate) trait Rung: Send + Sync {
    fn axis(&self) -> Axis;
    /// The mechanism's name.
    fn mechanism(&self) -> &'static str;
    fn level(&self) -> IsolationLevel;
    /// Tries whether it holds here; the error says what is missing.
    fn probe(&self) -> Result<(), String>;
    /// What it cannot do, as the reason why the level is no better.
    fn weakness(&self) -> &'static str;
}

/// The rungs of this build, best first within an axis.
pub(crate) fn rungs() -> Vec<Box<dyn Rung>> {
    use IsolationLevel::{None, Soft};
    let plain = |axis, mechanism, level, weakness| {
        Box::new(Plain { axis, mechanism, level, weakness }) as Box<dyn Rung>
    };
    vec![
        plain(Axis::Limits, "none", None, "cgroups and rlimits are not used yet: nothing is bounded"),
        Box::new(Subreaper),
        plain(
            Axis::Files,
            "directory",
            None,
            "all Runs share one uid and one file system: a working directory of mode 0700 does not keep them apart",
        ),
        plain(Axis::Devices, "none", None, "every device of the container is open to every Run"),
        plain(Axis::Network, "shared", None, "every Run shares the Pod's network"),
        plain(
            Axis::Privileges,
            "no-new-privs",
            Soft,
            "no privilege can be gained, but all Runs share the server's uid and capabilities, and the server's token is kept from them by the server's own memory protection only",
        ),
    ]
}

/// Probes every rung and takes the best that holds on each axis.
pub(crate) fn probe(rungs: &[Box<dyn Rung>]) -> Isolation {
    let axes = Axis::ALL.map(|axis| {
        let mut missing: Vec<String> = Vec::new();
        for rung in rungs.iter().filter(|rung| rung.axis() == axis) {
            match rung.probe() {
                Ok(()) => {
                    missing.extend((!rung.weakness().is_empty()).then(|| rung.weakness().to_owned()));
                    return told(axis, rung.level(), rung.mechanism(), &missing);
                }
                Err(reason) => missing.push(format!("{}: {reason}", rung.mechanism())),
            }
        }
        told(axis, IsolationLevel::None, "none", &missing)
    });
    Isolation { axes: axes.into() }
}

fn told(axis: Axis, level: IsolationLevel, mechanism: &str, reasons: &[String]) -> IsolationAxis {
    IsolationAxis {
        axis: axis.name().to_owned(),
        level: level.into(),
        mechanism: mechanism.to_owned(),
        reason: reasons.join("; "),
    }
}

/// A rung that needs nothing from the place.
struct Plain {
    axis: Axis,
    mechanism: &'static str,
    level: IsolationLevel,
    weakness: &'static str,
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

    fn weakness(&self) -> &'static str {
        self.weakness
    }
}

/// One supervisor per Run that inherits, kills and reaps whatever the Run leaves.
struct Subreaper;

impl Rung for Subreaper {
    fn axis(&self) -> Axis {
        Axis::Kill
    }

    fn mechanism(&self) -> &'static str {
        "subreaper"
    }

    fn level(&self) -> IsolationLevel {
        IsolationLevel::Soft
    }

    fn probe(&self) -> Result<(), String> {
        // The kill loop reads who is whose child.
        std::fs::read_dir("/proc/self/task")
            .map(drop)
            .map_err(|error| format!("/proc cannot be read: {error}"))
    }

    fn weakness(&self) -> &'static str {
        "every process of an ended Run is killed and reaped with the kernel's proof, but a Run can signal supervisors of its own uid"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Missing;

    impl Rung for Missing {
        fn axis(&self) -> Axis {
            Axis::Kill
        }

        fn mechanism(&self) -> &'static str {
            "cgroup-v2"
        }

        fn level(&self) -> IsolationLevel {
            IsolationLevel::Hard
        }

        fn probe(&self) -> Result<(), String> {
            Err("the tree is read-only".into())
        }

        fn weakness(&self) -> &'static str {
            ""
        }
    }

    #[test]
    fn each_axis_is_told_once_and_none_claims_more_than_it_has() {
        let isolation = probe(&rungs());
        let names: Vec<_> = isolation.axes.iter().map(|axis| axis.axis.as_str()).collect();
        assert_eq!(names, ["limits", "kill", "files", "devices", "network", "privileges"]);
        for axis in &isolation.axes {
            assert_ne!(axis.level(), IsolationLevel::Hard, "{axis:?}");
            assert!(!axis.reason.is_empty(), "{axis:?}");
        }
    }

    #[test]
    fn a_better_rung_that_does_not_hold_gives_its_reason() {
        let mut all: Vec<Box<dyn Rung>> = vec![Box::new(Missing)];
        all.extend(rungs());
        let isolation = probe(&all);
        let kill = isolation.axes.iter().find(|axis| axis.axis == "kill").expect("kill");
        assert_eq!(kill.mechanism, "subreaper");
        assert!(kill.reason.starts_with("cgroup-v2: the tree is read-only; "), "{}", kill.reason);
        let none = probe(&[]);
        assert!(none.axes.iter().all(|axis| axis.level() == IsolationLevel::None));
    }
}
