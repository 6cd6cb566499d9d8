//! The server's side of the fences: what was chosen, ids in use, and what each Run is told and gets.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use futures::future::{BoxFuture, FutureExt as _};
use kruntimes_proto::v1::IsolationAxis;

use super::choose::{Chosen, Held, Wish, choose};
use super::devices::DeviceFilter;
use super::fence::{Fences, FileTree, RunFence};
use super::folder::Owner;
use super::ids::{IdLease, IdRange, Ids};
use super::places::{Places, Tree as _};
use super::{
    AtMost, Axis, ConfineError, Confinement, Hold, Part, Subject, capabilities, folder, landlock, limits,
    mounts, trial,
};

/// What the flags say.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub work_dir: PathBuf,
    pub socket_dir: Option<PathBuf>,
    pub shared: Vec<PathBuf>,
    /// What Runs lease that has a path.
    pub leasable: Vec<PathBuf>,
    pub no_network: bool,
    /// Runs can lease a part of the network's bandwidth.
    pub bandwidth: bool,
    pub at_most: Vec<AtMost>,
    pub ids: IdRange,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Fencing {
    fences: Fences,
    /// As [`Chosen::guards_kit`].
    guards_kit: [bool; 2],
    /// As the caller names it; `fences.places` has it without links.
    work_dir: PathBuf,
    ids: Option<Ids>,
    range: IdRange,
    /// Where control groups hold devices.
    filter: Option<DeviceFilter>,
    /// For Runs with a folder of their own, and for those without.
    held: [Vec<IsolationAxis>; 2],
    /// Settings that would give more, by axis; for Runs with a folder of their own.
    remedies: Vec<(Axis, Vec<&'static str>)>,
}

impl Fencing {
    /// Tries what holds, where groups can filter devices as `filter` says. Must be called while this process has one
    /// thread.
    pub(crate) fn find(wanted: Wanted, filter: Result<DeviceFilter, String>) -> Self {
        let id = wanted.ids.first;
        Self::by(wanted, filter, |fences, own| trial::attempt(fences, if own { id } else { 0 }))
    }

    /// With another way to try.
    pub(crate) fn by(
        wanted: Wanted,
        filter: Result<DeviceFilter, String>,
        attempt: impl FnMut(&Fences, bool) -> Result<(), String>,
    ) -> Self {
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let places = Places {
            work: real(&wanted.work_dir),
            socket: wanted.socket_dir.as_deref().map(real),
            shared: wanted.shared.iter().map(|path| real(path)).collect(),
            leasable: wanted.leasable,
        };
        let mut accelerators = places.open_accelerators(&FileTree);
        accelerators.retain(|name| {
            let path = Path::new("/dev").join(name);
            // A folder of links leads nowhere by itself: /dev/dri/by-path.
            !path.is_dir() || !FileTree.names(&path).is_empty()
        });
        let wish = Wish {
            places,
            no_network: wanted.no_network,
            bandwidth: wanted.bandwidth,
            at_most: wanted.at_most,
            abi: landlock::abi(),
            keeps_capabilities: capabilities::can_pass_any()
                && nix::unistd::getuid().is_root()
                && !capabilities::has(capabilities::SETPCAP),
            over_modes: capabilities::has(capabilities::DAC_OVERRIDE),
            accelerators,
            device_groups: filter.as_ref().map(drop).map_err(Clone::clone),
        };
        let Chosen { fences, device_groups, guards_kit, held, held_shared } = choose(&wish, attempt);
        let filter = filter.ok().filter(|_| device_groups);
        let ids = fences.own_ids.then(|| Ids::new(wanted.ids, rand::random()));
        let remedies = held.iter().map(|held| (held.axis, held.remedies.clone())).collect();
        let held = [held, held_shared].map(|held| held.into_iter().map(Held::tell).collect());
        Self { fences, guards_kit, work_dir: wanted.work_dir, ids, range: wanted.ids, filter, held, remedies }
    }

    /// For the nursery.
    pub(crate) fn fences(&self) -> &Fences {
        &self.fences
    }

    /// Whether no Run with a folder of its own, or without one, can reach the kit's processes, its folder and the control groups.
    pub(crate) fn guards_kit(&self, own_folder: bool) -> bool {
        self.guards_kit[usize::from(!own_folder)]
    }

    /// What holds for Runs with a folder of their own, or for those without.
    pub(crate) fn held(&self, own_folder: bool) -> &[IsolationAxis] {
        &self.held[usize::from(!own_folder)]
    }

    /// Settings that would give more than is held.
    pub(crate) fn remedies(&self, axis: Axis) -> &[&'static str] {
        self.remedies.iter().find(|(other, _)| *other == axis).map_or(&[], |(_, remedies)| remedies)
    }

    /// What each Run's group lets through, where that is what holds devices.
    pub(crate) fn device_filter(&self) -> Option<&DeviceFilter> {
        self.filter.as_ref()
    }

    /// After a crash of an earlier server: what its Runs left. Blocks.
    pub(crate) fn sweep(&self) {
        if self.ids.is_none() {
            return;
        }
        let places = &self.fences.places;
        for path in &places.leasable {
            let left = folder::owner(path).ok().filter(|owner| self.range.contains(owner.uid));
            let Some(left) = left else { continue };
            let heir = folder::heir(&places.work).map(|heir| match path.is_dir() {
                true => heir,
                false => folder::Owner { mode: None, ..heir },
            });
            let back = heir.and_then(|heir| folder::reclaim(path, left.uid, heir));
            if let Err(error) = back {
                tracing::error!(%error, path = %path.display(), "cannot be taken back");
            }
        }
        match folder::sweep(&places.work, self.range) {
            Ok(0) => {}
            Ok(folders) => tracing::warn!(folders, "folders of ended Runs were taken back"),
            Err(error) => tracing::error!(%error, "folders of ended Runs cannot be taken back"),
        }
        if !self.fences.view {
            clear_shared_memory(|uid| self.range.contains(uid));
        }
    }

    /// The folder of a Run that starts in `working_dir`, if it has one of its own.
    pub(crate) fn own_folder(&self, working_dir: &Path) -> Option<PathBuf> {
        let places = &self.fences.places;
        places.own_folder(working_dir).or_else(|| {
            let below = working_dir.strip_prefix(&self.work_dir).ok()?;
            places.own_folder(&places.work.join(below))
        })
    }

    /// Why no Run could start `program`; what is hidden from them, or closed to their ids, is not there for them.
    pub(crate) fn unreachable(&self, program: &Path) -> Option<String> {
        let (fences, places) = (&self.fences, &self.fences.places);
        let real = program.canonicalize().unwrap_or_else(|_| program.to_owned());
        let below = |folder: &Path| program.starts_with(folder) || real.starts_with(folder);
        if (fences.view || fences.files) && !places.shared.iter().any(|shared| below(shared)) {
            let hidden = [Path::new("/tmp"), Path::new("/dev/shm"), &places.work];
            if let Some(folder) = hidden.into_iter().find(|folder| below(folder)) {
                return Some(format!("what the server has in {} is not there for Runs", folder.display()));
            }
        }
        if !fences.own_ids {
            return None;
        }
        let closed = |path: &Path| {
            mounts::closed_above(path).or_else(|| mounts::closed(path).then(|| path.to_owned()))
        };
        let closed = closed(program).or_else(|| closed(&real))?;
        Some(format!(
            "each Run has a user id of its own, and {} is closed to them (chmod o+x opens it)",
            closed.display()
        ))
    }

    /// Variables that say where a Run may write; the author's and the Run's own win.
    pub(crate) fn variables(&self, working_dir: &Path) -> Vec<(&'static str, Vec<u8>)> {
        let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
        let own = self.own_folder(working_dir);
        let mut variables = Vec::new();
        if let (Some(_), Some(own)) = (&self.ids, &own) {
            variables.push(("HOME", bytes(own)));
        }
        let shared_tmp = || self.fences.places.shared.iter().any(|path| path == Path::new("/tmp"));
        if self.fences.view {
            variables.push(("TMPDIR", b"/tmp".to_vec()));
        } else if self.fences.files && !shared_tmp() {
            variables.push(("TMPDIR", bytes(own.as_deref().unwrap_or(working_dir))));
        }
        variables
    }

    /// Adds what one Run gets.
    pub(crate) fn confine(
        &self,
        run: &Subject<'_>,
        confinement: &mut Confinement,
    ) -> Result<(), ConfineError> {
        let working_dir = run.working_dir;
        let own = self.own_folder(working_dir);
        let room = confinement.bounds.room();
        let mut fence = RunFence { leased: run.leased.to_vec(), room, ..RunFence::default() };
        if let (Some(ids), Some(folder)) = (&self.ids, &own) {
            let lease =
                ids.lease().ok_or_else(|| ConfineError::Busy("all ids for Runs are in use".into()))?;
            fence.id = lease.id();
            confinement.owner = Some(fence.id).filter(|_| !self.fences.view);
            if let Some(part) = limits::hold_processes(confinement) {
                confinement.parts.push(part);
            }
            let owned = |path: &PathBuf| (path.clone(), folder::owner(path).unwrap_or_default());
            let paths = [folder].into_iter().chain(run.leased).map(owned).collect();
            let private_memory = self.fences.view;
            confinement.holds.push(Box::new(Taken { paths, lease, private_memory }));
        }
        fence.folder = match own {
            Some(own) => own,
            None if self.may_write(working_dir) => working_dir.to_owned(),
            None => PathBuf::new(),
        };
        confinement.parts.push(Part { axis: Axis::Files, bytes: fence.encode() });
        Ok(())
    }

    /// A directory that the caller names may be written to, unless it holds what is the kit's.
    fn may_write(&self, working_dir: &Path) -> bool {
        let real = working_dir.canonicalize().unwrap_or_else(|_| working_dir.to_owned());
        let socket = self.fences.places.socket.as_deref();
        real != Path::new("/")
            && socket.is_none_or(|socket| !socket.starts_with(&real) && !real.starts_with(socket))
    }
}

/// What belongs to a Run's id as long as there is one: its folder, and what it leased.
struct Taken {
    /// Whose each was.
    paths: Vec<(PathBuf, Owner)>,
    lease: IdLease,
    private_memory: bool,
}

impl Taken {
    fn give_back(self, proven: bool) {
        let id = self.lease.id();
        let mut clean = (self.private_memory || clear_shared_memory(|uid| uid == id)) && proven;
        for (path, owner) in self.paths {
            match folder::reclaim(&path, id, owner) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::error!(%error, id, path = %path.display(), "cannot be taken back");
                    clean = false;
                }
                _ => {}
            }
        }
        if !clean {
            self.lease.withdraw();
        }
    }
}

impl Hold for Taken {
    fn release(self: Box<Self>, proven: bool) -> BoxFuture<'static, ()> {
        async move {
            // A Run may have made very many files.
            let _ = tokio::task::spawn_blocking(move || self.give_back(proven)).await;
        }
        .boxed()
    }
}

/// Removes what the ids left in the container's shared memory.
fn clear_shared_memory(belongs: impl Fn(u32) -> bool) -> bool {
    match folder::remove_left(Path::new("/dev/shm"), belongs) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::error!(%error, "/dev/shm cannot be cleared");
            false
        }
        _ => true,
    }
}
