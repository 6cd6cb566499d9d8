//! What keeps Runs apart: one ladder of rungs per axis, probed once at start, told as it is.
//!
//! Every rung either holds here or says why not. The best one that holds is what a Run gets; unless that
//! is `Hard`, the reasons of the better ones that do not are told with it. A level is never what was wished for.
//!
//! Limits and kill are groups that a process is put in, each in its own file. Files, devices, network and
//! privileges are the fences: they are built from the same few mechanisms (namespaces, Landlock, seccomp,
//! ids), which depend on each other and are prepared ahead of need, so they are chosen together.
//!
//! | module | owns |
//! |---|---|
//! | `choose` | which fences hold, by trying, and what is told of them; pure |
//! | `trial` | the trying, in a forked child |
//! | `fence` | the order in which they are put up: nursery, supervisor, the Run's process |
//! | `fencing` | the server's side: ids and folders of Runs |
//! | `devices` | what the groups let through, where Landlock does not hold devices |
//! | `places`, `landlock`, `mounts`, `rooms`, `network`, `seccomp`, `capabilities`, `ids`, `folder` | one mechanism each |
//!
//! How limits and kill plug in:
//!
//! 1. `rungs(place)` gives its [`Rung`]s, best first. [`Rung::probe`] *tries* (in a forked child where the
//!    try would change this process); nothing is concluded from version numbers.
//! 2. For each execution the server calls [`Rung::confine`] of the rung that holds. It adds [`Part`]s (bytes
//!    that travel to the supervisor), descriptors, and [`Hold`]s (what must be given back at the end).
//! 3. The supervisor turns each part into a [`Step`] with the axis's `step(bytes, fds)`: it may allocate and
//!    open. The steps are entered in the child between clone and exec, in the order of [`Axis`] and
//!    within an axis in the order in which they were added; there only system calls are allowed. A step may
//!    also ask for clone flags, which is how a namespace is made.

mod bounds;
mod capabilities;
mod cgroup;
mod choose;
mod devices;
mod fence;
mod fencing;
mod folder;
mod ids;
mod kill;
mod landlock;
mod limits;
mod mounts;
mod network;
mod part;
mod places;
mod rooms;
mod seccomp;
pub(crate) mod stored;
mod trial;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cgroup::Groups;
use devices::DeviceFilter;
use futures::future::BoxFuture;
use kruntimes_proto::v1::{Isolation, IsolationAxis, IsolationLevel};

pub(crate) use bounds::{Bounds, Breach};
pub(crate) use cgroup::ParentFlag;
pub(crate) use cgroup::leaf::{GroupCounters, Leaf};
pub(crate) use fence::{Admitted, Ahead, FenceError, Fences, Once, RunFence};
pub(crate) use fencing::{Fencing, Wanted};
pub(crate) use ids::IdRange;
pub(crate) use part::{AxisStep, Crusher, Part, PartRef, Step, steps};
pub(crate) use rooms::Rooms;

/// What a rung protects. The order is the order of entry in the child: groups while the server's rights
/// are there, mounts before what forbids mounting, identity and system calls last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Axis {
    Limits,
    Kill,
    Files,
    Devices,
    Network,
    Privileges,
}

impl Axis {
    pub(crate) const ALL: [Self; 6] =
        [Self::Limits, Self::Kill, Self::Files, Self::Devices, Self::Network, Self::Privileges];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Limits => "limits",
            Self::Kill => "kill",
            Self::Files => "files",
            Self::Devices => "devices",
            Self::Network => "network",
            Self::Privileges => "privileges",
        }
    }

    /// What can be chosen by name, best first.
    pub(crate) fn mechanisms(self) -> &'static [&'static str] {
        match self {
            Self::Limits => &["cgroup-v2", "cgroup-v1", "policing"],
            Self::Kill => &["cgroup-v2", "cgroup-v1-freezer", "subreaper"],
            Self::Files => &["mount-namespace", "landlock", "directory"],
            Self::Devices => &["landlock", "cgroup", "variables"],
            Self::Network => &["namespace", "seccomp", "landlock-tcp", "shared"],
            Self::Privileges => &["own-uid", "seccomp", "no-new-privs"],
        }
    }
}

/// Where this server runs, as far as a rung must know.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    /// Below it lie the Runs' working directories.
    pub work_dir: PathBuf,
    /// Where control groups may be made; nowhere by default.
    pub cgroup_parent: ParentFlag,
    /// Where the ladder of an axis is to begin.
    pub at_most: Vec<AtMost>,
    /// Runs can lease operations a second on the disk of their folders.
    pub iops: bool,
    /// Runs may write to folders beside their own.
    pub shares: bool,
    /// How many executions may begin at once without waiting for what is made ahead.
    pub idle: usize,
}

impl Place {
    /// Whether no flag switches control groups off for that axis, whose last rung that has them is `last`.
    fn may_group(&self, axis: Axis, last: &str) -> bool {
        self.cgroup_parent.0.is_some() && unwanted(&self.at_most, axis, last).is_none()
    }
}

/// One execution, as far as a rung must know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    /// Its own working directory.
    pub working_dir: &'a Path,
    /// Requested amounts, name to Kubernetes quantity.
    pub resources: &'a BTreeMap<String, String>,
    /// Ceilings, name to Kubernetes quantity.
    pub limits: &'a BTreeMap<String, String>,
    /// Devices and folders that it leased.
    pub leased: &'a [PathBuf],
}

/// What one execution is put in, built up by all rungs.
#[derive(Default)]
pub(crate) struct Confinement {
    pub parts: Vec<Part>,
    /// Travel to the supervisor with the parts, which name them by their index here.
    pub fds: Vec<OwnedFd>,
    /// Given back when every process of the execution is gone, last one first.
    pub holds: Vec<Box<dyn Hold>>,
    /// Its own control groups, where there are any. Other axes may bound more with them.
    pub leaf: Option<Leaf>,
    pub bounds: Bounds,
    /// Nothing holds memory and processes but the server's own look at them.
    pub policed: bool,
    /// No file may grow beyond the limit on storage.
    pub bounded_files: bool,
    /// The id whose files in the container's `/dev/shm` are this Run's, where it has none of its own.
    pub owner: Option<u32>,
}

impl Confinement {
    /// Gives everything back: none was made, or the processes are gone, which is `proven` or not.
    pub(crate) async fn release(mut self, proven: bool) {
        while let Some(hold) = self.holds.pop() {
            hold.release(proven).await;
        }
    }
}

/// Something that an execution has for itself as long as it lives: a uid, a mount, a folder's owner.
pub(crate) trait Hold: Send {
    /// Takes it back; the end is told only after this. What a process that may be left could use must not come into other
    /// hands unless it is `proven` that there is none.
    fn release(self: Box<Self>, proven: bool) -> BoxFuture<'static, ()>;
}

/// Why an execution could not be confined. It is then refused, never started with less.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfineError {
    /// The request asks for what cannot be: which field, and why.
    #[error("{field}: {message}")]
    Invalid { field: String, message: String },
    /// Nothing free just now; it is tried again later.
    #[error("{0}")]
    Busy(String),
    /// A kernel call failed.
    #[error("{axis}: {what}: {source}")]
    Failed { axis: &'static str, what: String, source: io::Error },
}

/// One way to hold an axis.
pub(crate) trait Rung: Send + Sync {
    fn axis(&self) -> Axis;
    /// The mechanism's name.
    fn mechanism(&self) -> &'static str;
    fn level(&self) -> IsolationLevel;
    /// Tries whether it holds here; the error says what is missing.
    fn probe(&self) -> Result<(), String>;
    /// What it cannot do, as the reason why the level is no better; with `ids` each Run has an id of its own.
    fn weakness(&self, ids: bool) -> String;
    /// The setting of the Pod or the node that would give a better level; empty where none is known.
    fn remedy(&self) -> &'static str {
        ""
    }

    /// Adds what one execution needs. On the way of every start: microseconds, no waiting.
    fn confine(&self, _run: &Subject<'_>, _confinement: &mut Confinement) -> Result<(), ConfineError> {
        Ok(())
    }
}

/// The rungs of this build, best first within an axis.
fn rungs(place: &Place, groups: &Arc<Groups>) -> Vec<Arc<dyn Rung>> {
    [limits::rungs(place, groups), kill::rungs(place, groups)].concat()
}

/// What holds here: at most one rung for limits and kill, the fences, and the records that tell of all.
pub(crate) struct Ladder {
    held: Vec<Arc<dyn Rung>>,
    fencing: Fencing,
    /// For Runs with a folder of their own, and for those without.
    records: [Isolation; 2],
    /// Settings that would give more for limits and kill.
    remedies: Vec<(Axis, Vec<&'static str>)>,
    groups: Arc<Groups>,
}

impl Ladder {
    /// Looks what this place gives. Call while there is one thread: a probe may fork.
    pub(crate) fn open(place: &Place, wanted: Wanted) -> Self {
        let groups = Groups::open(place);
        let filter = DeviceFilter::find(&groups, &wanted.leasable);
        Self::probe(&rungs(place, &groups), groups, Fencing::find(wanted, filter), &place.at_most)
    }

    /// Probes every rung and takes the best that holds on each axis.
    fn probe(rungs: &[Arc<dyn Rung>], groups: Arc<Groups>, fencing: Fencing, at_most: &[AtMost]) -> Self {
        let found = [Axis::Limits, Axis::Kill].map(|axis| {
            let mut missing: Vec<String> = Vec::new();
            for rung in rungs.iter().filter(|rung| rung.axis() == axis) {
                let wanted = unwanted(at_most, axis, rung.mechanism()).map_or(Ok(()), Err);
                match wanted.and_then(|()| rung.probe()) {
                    Ok(()) => return (axis, Some(Arc::clone(rung)), missing),
                    Err(reason) => missing.push(format!("{}: {reason}", rung.mechanism())),
                }
            }
            (axis, None, missing)
        });
        let told = |own| {
            let told = found
                .iter()
                .map(|(axis, rung, missing)| told(*axis, rung.as_deref(), missing, &fencing, own));
            let (told, remedies): (Vec<_>, Vec<_>) = told.unzip();
            (Isolation { axes: [told.as_slice(), fencing.held(own)].concat() }, remedies)
        };
        let ((own, remedies), (shared, _)) = (told(true), told(false));
        let remedies = found.iter().map(|(axis, ..)| *axis).zip(remedies).collect();
        let records = [own, shared];
        let held = found.into_iter().filter_map(|(_, rung, _)| rung).collect();
        Self { held, fencing, records, remedies, groups }
    }

    /// Begins to make ahead what executions will need.
    pub(crate) fn start(&self) -> io::Result<()> {
        self.groups.start()
    }

    /// As [`crate::supervisor::Pool::refill`], for what the ladder makes ahead.
    pub(crate) fn refill(&self) {
        self.groups.refill();
    }

    /// Removes what was made. Every execution has ended.
    pub(crate) fn close(&self) {
        self.groups.close();
    }

    /// Which counters an execution's own control groups have here.
    pub(crate) fn counters(&self) -> GroupCounters {
        self.groups.sample()
    }

    /// What Describe tells, and every Run with a folder of its own.
    pub(crate) fn record(&self) -> &Isolation {
        &self.records[0]
    }

    /// Settings of the Pod, the node or the Runtime that would give more on an axis.
    pub(crate) fn remedies(&self, axis: Axis) -> &[&'static str] {
        let own = self.remedies.iter().find(|(other, _)| *other == axis);
        own.map_or_else(|| self.fencing.remedies(axis), |(_, remedies)| remedies)
    }

    /// What a Run tells that starts in `working_dir`.
    pub(crate) fn record_of(&self, working_dir: &Path) -> &Isolation {
        &self.records[usize::from(self.fencing.own_folder(working_dir).is_none())]
    }

    pub(crate) fn fencing(&self) -> &Fencing {
        &self.fencing
    }

    /// Adds everything that one execution is put in. What it holds must be released also after an error.
    pub(crate) fn confine(
        &self,
        run: &Subject<'_>,
        confinement: &mut Confinement,
    ) -> Result<(), ConfineError> {
        self.held.iter().try_for_each(|rung| rung.confine(run, confinement))?;
        if let Some(filter) = self.fencing.device_filter() {
            limits::settle(&self.groups, confinement)?;
            let held = confinement.leaf.as_ref().map_or(Ok(()), |leaf| filter.hold(leaf, run.leased));
            held.map_err(|(path, source)| ConfineError::Failed {
                axis: "devices",
                what: format!("cannot close the devices of {}", path.display()),
                source,
            })?;
        }
        self.fencing.confine(run, confinement)
    }
}

/// The first rung of an axis that is to be tried: `AXIS=MECHANISM`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AtMost {
    pub axis: Axis,
    pub mechanism: String,
}

impl std::str::FromStr for AtMost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (axis, mechanism) =
            text.split_once('=').ok_or_else(|| format!("{text:?} is not AXIS=MECHANISM"))?;
        let named = Axis::ALL.into_iter().find(|known| known.name() == axis);
        let axis =
            named.ok_or_else(|| format!("{axis:?} is none of {}", Axis::ALL.map(Axis::name).join(", ")))?;
        if !axis.mechanisms().contains(&mechanism) {
            let known = axis.mechanisms().join(", ");
            return Err(format!("{mechanism:?} is not one of what {} has: {known}", axis.name()));
        }
        Ok(Self { axis, mechanism: mechanism.to_owned() })
    }
}

impl std::fmt::Display for AtMost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.axis.name(), self.mechanism)
    }
}

/// Why `mechanism` is not to be tried.
fn unwanted(at_most: &[AtMost], axis: Axis, mechanism: &str) -> Option<String> {
    let wanted = at_most.iter().find(|limit| limit.axis == axis)?;
    let rank = |name: &str| axis.mechanisms().iter().position(|known| *known == name);
    (rank(mechanism)? < rank(&wanted.mechanism)?).then(|| format!("not wanted: --isolation {wanted}"))
}

/// What a Run without a rung that guards the kit can undo.
const UNGUARDED: &str =
    "Runs have the server's id, so that a hostile one could reach the kit's control groups itself";

/// What would give Runs less than the server's rights.
const FOR_GUARD: &str =
    "a user id for each Run gives it, or files with Landlock of Linux 6.12 or later where the server is root";

/// What is told of limits or kill, and the settings that would give more.
fn told(
    axis: Axis,
    rung: Option<&dyn Rung>,
    missing: &[String],
    fencing: &Fencing,
    own_folder: bool,
) -> (IsolationAxis, Vec<&'static str>) {
    let mut reasons = missing.to_vec();
    let mut level = IsolationLevel::None;
    let mut remedies = Vec::new();
    if let Some(rung) = rung {
        level = rung.level();
        let weakness = Some(rung.weakness(own_folder && fencing.fences().own_ids))
            .filter(|weakness| !weakness.is_empty());
        let help = Some(rung.remedy()).filter(|remedy| !remedy.is_empty());
        reasons.extend(weakness.map(|text| help.map_or(text.clone(), |help| format!("{text} ({help})"))));
        remedies.extend(help);
        if level == IsolationLevel::Hard && !fencing.guards_kit(own_folder) {
            level = IsolationLevel::Soft;
            reasons.push(format!("{UNGUARDED} ({FOR_GUARD})"));
            remedies.push(FOR_GUARD);
        }
    }
    if level == IsolationLevel::Hard {
        // Nothing is missing: another way to the same is no reason.
        reasons.drain(..missing.len());
    }
    let told = IsolationAxis {
        axis: axis.name().to_owned(),
        level: level.into(),
        mechanism: rung.map_or("none", Rung::mechanism).to_owned(),
        reason: reasons.join("; "),
    };
    (told, remedies)
}

#[cfg(test)]
mod tests;
