//! Control groups: one per Run, made ahead, of either version, wherever this server may make them.
//!
//! ```text
//!  the group this server is in, or --cgroup-parent
//!   '── kruntimes-server-ID      locked by its server; without a living owner it is swept
//!        |── server             the server itself, where its old group must be empty
//!        |── run-1              one leaf per Run, used once: peaks and counters begin at zero
//!        '── run-2 ...
//! ```
//!
//! On a machine with version 1 the same names are made in every hierarchy that is used. What must always
//! hold: a Run's first process is in its leaf before it executes anything; a leaf is removed whatever
//! happens; no more leaves exist than executions may run, and a few.

pub(super) mod iops;
pub(super) mod leaf;
mod mounts;
mod tree;

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::bounds::Bounds;
use super::{AtMost, Axis, ConfineError, Place, unwanted};
use iops::Iops;
use leaf::{Dir, Leaf};
use mounts::Hierarchy;
pub(crate) use mounts::{Controller, Version};
use tree::Tree;

/// Where the kit makes its groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Parent {
    /// In the group that the server was started in.
    Own,
    /// In this one, seen from the root of each hierarchy.
    Path(PathBuf),
}

/// `--cgroup-parent`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ParentFlag(pub(crate) Option<Parent>);

impl FromStr for ParentFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "own" => Ok(Self(Some(Parent::Own))),
            "none" => Ok(Self(None)),
            path if path.starts_with('/') && !path.split('/').any(|part| part == "..") => {
                Ok(Self(Some(Parent::Path(path.into()))))
            }
            _ => Err("must be \"own\", \"none\" or a path that begins with /".into()),
        }
    }
}

/// Work of the thread that makes and removes leaves.
#[derive(Debug)]
enum Chore {
    /// As many as are missing.
    Make,
    Remove(Vec<Dir>),
    /// Everything, and no more.
    Close(Sender<()>),
}

/// What each version may be used for, by version.
struct Uses {
    limits: [bool; 2],
    kill: [bool; 2],
}

impl Uses {
    fn of(at_most: &[AtMost]) -> Self {
        // In the order of the versions.
        let may = |axis: Axis, names: [&str; 2]| names.map(|name| unwanted(at_most, axis, name).is_none());
        Self {
            limits: may(Axis::Limits, ["cgroup-v1", "cgroup-v2"]),
            kill: may(Axis::Kill, ["cgroup-v1-freezer", "cgroup-v2"]),
        }
    }

    /// Whether a hierarchy is good for something; with `v2` there is one of version 2 already.
    fn hierarchy(&self, hierarchy: &Hierarchy, v2: bool) -> bool {
        let [old, new] = [Version::V1, Version::V2].map(|version| version as usize);
        if hierarchy.version == Version::V2 {
            return self.limits[new] || self.kill[new];
        }
        hierarchy.controllers.iter().any(|controller| match controller {
            // Version 2 does what they are good for without any controller.
            Controller::CpuAcct => !v2,
            Controller::Freezer => self.kill[old] && !(v2 && self.kill[new]),
            Controller::Devices => true,
            Controller::Cpu | Controller::Memory | Controller::Pids | Controller::Io => self.limits[old],
        })
    }
}

/// All groups of this server.
pub(crate) struct Groups {
    shared: Arc<Shared>,
    /// What was in the way of each version.
    missing: [Option<String>; 2],
    iops: Iops,
    chores: Mutex<Option<Receiver<Chore>>>,
}

struct Shared {
    trees: Vec<Tree>,
    /// Version 2 is not to end what is in a leaf.
    by_freezer: bool,
    ready: Mutex<VecDeque<Leaf>>,
    /// Leaves to keep ready.
    target: usize,
    next: AtomicU64,
    chores: Sender<Chore>,
}

impl Groups {
    /// Looks for hierarchies and makes this server's own group in each that may be written.
    pub(super) fn open(place: &Place) -> Arc<Self> {
        let mut missing = [const { Some(String::new()) }; 2];
        let mut trees = Vec::new();
        match &place.cgroup_parent.0 {
            None => missing = [(); 2].map(|()| Some("switched off by --cgroup-parent=none".to_owned())),
            Some(parent) => {
                let use_of = Uses::of(&place.at_most);
                let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
                let (mounted, own) = (read("/proc/self/mountinfo"), read("/proc/self/cgroup"));
                let found = mounts::hierarchies(&mounted, &own, place.iops);
                for version in [Version::V2, Version::V1] {
                    let reason = &mut missing[version as usize];
                    *reason = Some("not mounted here".to_owned());
                    let both = trees.iter().any(|tree: &Tree| tree.version == Version::V2);
                    let useful = |hierarchy: &&Hierarchy| {
                        hierarchy.version == version && use_of.hierarchy(hierarchy, both)
                    };
                    for hierarchy in found.iter().filter(useful) {
                        match Tree::open(hierarchy, parent, use_of.limits[version as usize]) {
                            Ok(tree) => {
                                trees.push(tree);
                                *reason = None;
                            }
                            Err(error) if reason.is_some() => *reason = Some(error),
                            Err(_) => {}
                        }
                    }
                }
            }
        }
        let (chores, receiver) = channel();
        let shared = Shared {
            trees,
            by_freezer: !Uses::of(&place.at_most).kill[Version::V2 as usize],
            ready: Mutex::default(),
            target: place.idle,
            next: AtomicU64::new(1),
            chores,
        };
        let mut iops = Iops::Unknown;
        if place.iops {
            iops = Iops::find(&place.work_dir, Path::new("/sys"), || shared.make());
        }
        Arc::new(Self { shared: Arc::new(shared), missing, iops, chores: Mutex::new(Some(receiver)) })
    }

    /// What becomes of leased operations a second.
    pub(super) fn iops(&self) -> &Iops {
        &self.iops
    }

    /// Why there is no group of that version; `None` when there is.
    pub(super) fn missing(&self, version: Version) -> Option<&str> {
        self.missing[version as usize].as_deref()
    }

    /// The version in which that controller can be used here.
    pub(super) fn version_of(&self, controller: Controller) -> Option<Version> {
        let tree = self.shared.trees.iter().find(|tree| tree.controllers.contains(&controller))?;
        Some(tree.version)
    }

    /// Whether the kernel can end a whole group of version 2 at once (since Linux 5.14).
    pub(super) fn can_kill(&self) -> Result<(), String> {
        let leaf = self.take().map_err(|error| error.to_string())?;
        leaf.can_kill().then_some(()).ok_or_else(|| "this kernel has no cgroup.kill".to_owned())
    }

    /// The counters of a leaf in which nothing ran.
    pub(super) fn sample(&self) -> leaf::GroupCounters {
        if self.shared.trees.is_empty() {
            return leaf::GroupCounters::default();
        }
        self.take().map(|leaf| leaf.counters()).unwrap_or_default()
    }

    /// Starts the thread. Not before: a probe may fork, and wants to be alone.
    pub(super) fn start(&self) -> io::Result<()> {
        let Some(receiver) = lock(&self.chores).take() else { return Ok(()) };
        if self.shared.trees.is_empty() {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        std::thread::Builder::new()
            .name("leaves".into())
            .stack_size(128 * 1024)
            .spawn(move || shared.serve(&receiver))?;
        self.refill();
        Ok(())
    }

    /// Asks for as many leaves as are missing. Call once a started command is on its way.
    pub(super) fn refill(&self) {
        if lock(&self.shared.ready).len() < self.shared.target {
            let _ = self.shared.chores.send(Chore::Make);
        }
    }

    /// One made ahead or, in a burst, a fresh one.
    pub(super) fn take(&self) -> Result<Leaf, ConfineError> {
        let ready = lock(&self.shared.ready).pop_front();
        ready.map_or_else(|| self.shared.make(), Ok).map_err(|source| match source.raw_os_error() {
            // cgroup.max.descendants of a group above, or of the Pod.
            Some(nix::libc::EAGAIN | nix::libc::ENOSPC) => {
                ConfineError::Busy("no more control groups may be made here".to_owned())
            }
            _ => ConfineError::Failed { axis: "limits", what: "cannot make a control group".into(), source },
        })
    }

    /// Ends and removes everything. Bounded by a few seconds.
    pub(super) fn close(&self) {
        const PATIENCE: Duration = Duration::from_secs(10);
        let (done, finished) = channel();
        let sent = self.shared.chores.send(Chore::Close(done)).is_ok();
        if !sent || lock(&self.chores).is_some() || finished.recv_timeout(PATIENCE).is_err() {
            self.shared.close();
        }
    }
}

impl Shared {
    fn serve(&self, chores: &Receiver<Chore>) {
        // Those with a process in them that could not be ended.
        let mut left: Vec<Dir> = Vec::new();
        for chore in chores {
            left.retain(|dir| tree::remove_empty(&dir.path).is_err());
            match chore {
                Chore::Make => self.fill(),
                Chore::Remove(dirs) => left.extend(dirs.into_iter().filter(|dir| !remove(dir))),
                Chore::Close(done) => {
                    self.close();
                    let _ = done.send(());
                    return;
                }
            }
        }
    }

    fn fill(&self) {
        while lock(&self.ready).len() < self.target {
            match self.make() {
                Ok(leaf) => lock(&self.ready).push_back(leaf),
                Err(error) => {
                    tracing::warn!(%error, "cannot make a control group ahead");
                    return;
                }
            }
        }
    }

    fn make(&self) -> io::Result<Leaf> {
        let name = format!("run-{}", self.next.fetch_add(1, Ordering::Relaxed));
        let dirs = self.trees.iter().map(|tree| Dir {
            version: tree.version,
            controllers: tree.controllers.clone(),
            path: tree.leaf(&name),
        });
        Leaf::make(dirs.collect(), self.by_freezer, self.chores.clone())
    }

    fn close(&self) {
        lock(&self.ready).clear();
        for tree in &self.trees {
            tree.close();
        }
    }
}

/// False when it is still there.
fn remove(dir: &Dir) -> bool {
    let removed = tree::remove(&dir.path, dir.version);
    if let Err(error) = &removed {
        tracing::error!(group = %dir.path.display(), %error, "cannot remove a control group yet");
    }
    removed.is_ok()
}

/// `cannot make /path: permission denied`.
fn failed(what: &str, path: &Path) -> impl FnOnce(io::Error) -> String {
    let what = format!("{what} {}", path.display());
    move |error| format!("{what}: {error}")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
