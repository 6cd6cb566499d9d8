//! Fences in the order in which a process passes them: once in the nursery, ahead of need in each supervisor,
//! with the Run known, in the Run's own process.
//!
//! Whatever can be done early is: between a request and exec lie one Landlock rule, the change of the folder's
//! owner where Runs have ids of their own, and two to six system calls.
#![allow(unsafe_code, reason = "raw calls that change ids between clone and exec")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use libc::sock_filter;

use super::folder;
use super::landlock::{self, Grant, Rule, Rules};
use super::network::{NetworkFence, loopback_up};
use super::places::{Mode, Places, Tree};
use super::rooms::Rooms;
use super::{Axis, capabilities, mounts, seccomp};

/// What every Run of this server gets. Chosen once at start, by trying.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fences {
    pub places: Places,
    /// The next two by way of a user namespace.
    pub user_namespace: bool,
    /// A mount and an IPC namespace, private `/tmp` and `/dev/shm`.
    pub view: bool,
    pub network: NetworkFence,
    /// Version of Landlock to use.
    pub abi: u32,
    /// Landlock over files.
    pub files: bool,
    /// Landlock over `/dev`.
    pub devices: bool,
    /// Runs with folders of their own have ids of their own.
    pub own_ids: bool,
    /// The seccomp deny list.
    pub filter: bool,
}

impl Fences {
    fn landlock(&self) -> bool {
        self.files || self.devices || self.network == NetworkFence::Tcp
    }

    /// Whether a Run, with an id of its own or the server's, cannot reach the kit's processes, its folder and the control groups.
    /// With the server's id it can change their modes, which does not bind a server that is `over_modes` (`CAP_DAC_OVERRIDE`).
    pub(crate) fn guard_kit(&self, own_id: bool, over_modes: bool) -> bool {
        /// The version that keeps signals within.
        const SIGNALS: u32 = 6;
        own_id || (over_modes && self.files && self.filter && self.abi >= SIGNALS)
    }

    /// For the nursery: one byte per choice, then the paths, each ended by NUL.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let flags = [self.user_namespace, self.view, self.files, self.devices, self.own_ids, self.filter]
            .map(u8::from);
        let mut bytes = flags.to_vec();
        bytes.push(self.network as u8);
        bytes.push(u8::try_from(self.abi).unwrap_or(u8::MAX));
        let none = PathBuf::new();
        let paths = [&self.places.work, self.places.socket.as_ref().unwrap_or(&none)];
        let counted = u8::try_from(self.places.shared.len()).unwrap_or(u8::MAX);
        bytes.push(counted);
        let shared = self.places.shared.iter().take(counted.into());
        for path in paths.into_iter().chain(shared).chain(&self.places.leasable) {
            bytes.extend_from_slice(path.as_os_str().as_encoded_bytes());
            bytes.push(0);
        }
        bytes
    }

    /// `None` for anything that [`Fences::encode`] did not write.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<9>()?;
        let [user_namespace, view, files, devices, own_ids, filter, network, abi, shared] = *head;
        let mut paths = read_paths(rest)?;
        let places = Places {
            work: paths.next()?,
            socket: Some(paths.next()?).filter(|path| !path.as_os_str().is_empty()),
            shared: paths.by_ref().take(shared.into()).collect(),
            leasable: paths.collect(),
        };
        let network = NetworkFence::ALL.into_iter().find(|fence| *fence as u8 == network)?;
        let [user_namespace, view, files, devices, own_ids, filter] =
            [user_namespace, view, files, devices, own_ids, filter].map(|byte| byte != 0);
        let abi = abi.into();
        Some(Self { places, user_namespace, view, network, abi, files, devices, own_ids, filter })
    }
}

/// Paths, each ended by NUL.
fn read_paths(bytes: &[u8]) -> Option<impl Iterator<Item = PathBuf>> {
    use std::os::unix::ffi::OsStrExt as _;
    let paths = bytes.strip_suffix(&[0])?.split(|byte| *byte == 0);
    Some(paths.map(|path| PathBuf::from(std::ffi::OsStr::from_bytes(path))))
}

/// What is different from Run to Run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RunFence {
    /// User and group id of its own; 0 = the server's.
    pub id: u32,
    /// Where it may write, and what belongs to its id; empty = nowhere.
    pub folder: PathBuf,
    /// Bytes that a private `/tmp` or `/dev/shm` may hold.
    pub room: u64,
    /// Devices and folders that it leased.
    pub leased: Vec<PathBuf>,
}

impl RunFence {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.id.to_le_bytes().to_vec();
        bytes.extend(self.room.to_le_bytes());
        for path in [&self.folder].into_iter().chain(&self.leased) {
            bytes.extend_from_slice(path.as_os_str().as_encoded_bytes());
            bytes.push(0);
        }
        bytes
    }

    /// `None` for anything that [`RunFence::encode`] did not write.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (id, rest) = bytes.split_first_chunk()?;
        let (room, paths) = rest.split_first_chunk()?;
        let (id, room) = (u32::from_le_bytes(*id), u64::from_le_bytes(*room));
        let mut paths = read_paths(paths)?;
        Some(Self { id, room, folder: paths.next()?, leased: paths.collect() })
    }
}

/// Why a fence could not be put up: on which axis, and what happened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(crate) struct FenceError {
    pub axis: Axis,
    pub text: String,
}

fn at(axis: Axis) -> impl Fn(String) -> FenceError {
    move |text| FenceError { axis, text }
}

/// The nursery's part: shared by all supervisors.
#[derive(Debug)]
pub(crate) struct Once {
    fences: Fences,
    filter: Vec<sock_filter>,
    rules: Vec<Rule>,
    /// `/proc` for Runs with the server's id, and for those with their own.
    proc: Option<[Rule; 2]>,
}

impl Once {
    /// Changes this process: its namespaces, and what its children may gain. It must have one thread, and be
    /// dumpable where a user namespace is entered.
    pub(crate) fn prepare(fences: Fences) -> Result<Self, FenceError> {
        if fences.user_namespace {
            mounts::enter_user_namespace().map_err(at(Axis::Files))?;
        }
        if fences.view {
            mounts::hide_once(&fences.places, fences.own_ids).map_err(at(Axis::Files))?;
        }
        // Without the capability to do so the ladder has said that they stay.
        let _ = capabilities::pass_none();
        let no_sockets = fences.network == NetworkFence::Sockets;
        let no_ipc = fences.filter && !fences.view;
        let filter = seccomp::program(fences.filter, no_sockets, no_ipc).map_err(at(Axis::Privileges))?;
        let mut rules = Vec::new();
        let mut proc = None;
        if fences.landlock() {
            let open = |grant| Rule::open(Path::new("/proc"), grant);
            proc = open(Grant::Read).and_then(|read| Ok([read, open(Grant::Adjust)?])).ok();
            let planned = fences.places.rules(fences.mode(), &FileTree);
            let shared = planned.into_iter().filter(|(path, _)| !fences.is_own_view(path));
            // What is gone again, or was never to be opened, gets no rule: nobody reaches it then.
            rules.extend(shared.filter_map(|(path, grant)| Rule::open(&path, grant).ok()));
        }
        Ok(Self { fences, filter, rules, proc })
    }

    /// In a fresh supervisor, before it knows its Run.
    pub(crate) fn ahead(&self) -> Result<Ahead<'_>, FenceError> {
        let fences = &self.fences;
        let network = fences.network == NetworkFence::Namespace;
        let (mut work, mut rooms) = (None, Rooms::default());
        if fences.view {
            let own = mounts::own_view(&fences.places, network).map_err(at(Axis::Files))?;
            (work, rooms) = (Some(own.0), own.1);
        } else if network {
            mounts::own_network().map_err(at(Axis::Network))?;
        }
        if network {
            let failed = |error: io::Error| format!("the loopback interface does not come up: {error}");
            loopback_up().map_err(failed).map_err(at(Axis::Network))?;
        }
        if !fences.landlock() {
            return Ok(Ahead { once: self, work, rooms, rules: None });
        }
        let wrong = at(Axis::Files);
        let mut rules =
            Rules::new(fences.abi, &self.rules, fences.network == NetworkFence::Tcp).map_err(&wrong)?;
        if fences.view && fences.files {
            for path in mounts::own(&fences.places) {
                if let Ok(rule) = Rule::open(path, Grant::Write) {
                    rules.add(&rule).map_err(&wrong)?;
                }
            }
        }
        Ok(Ahead { once: self, work, rooms, rules: Some(rules) })
    }
}

impl Fences {
    fn mode(&self) -> Mode {
        Mode { files: self.files, private: self.view, devices: self.devices, ids: self.own_ids }
    }

    fn is_own_view(&self, path: &Path) -> bool {
        self.files && self.view && mounts::own(&self.places).contains(&path)
    }
}

/// The real tree.
pub(crate) struct FileTree;

impl Tree for FileTree {
    fn names(&self, folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let real = entries.filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_symlink()));
        real.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }
}

/// A supervisor's part, ready for a Run.
#[derive(Debug)]
pub(crate) struct Ahead<'a> {
    once: &'a Once,
    /// The real work folder, where the view has an empty one.
    work: Option<OwnedFd>,
    rooms: Rooms,
    rules: Option<Rules>,
}

impl<'a> Ahead<'a> {
    /// Opens the fences for one Run's own things. `outputs` are the pipes that it writes to.
    pub(crate) fn admit(
        self,
        run: &RunFence,
        outputs: [BorrowedFd<'_>; 2],
    ) -> Result<Admitted<'a>, FenceError> {
        let folder = run.folder.as_path();
        let places = &self.once.fences.places;
        if let Some(work) = &self.work {
            let own = Some(folder).filter(|folder| folder.parent() == Some(&places.work));
            mounts::show(places, work, own).map_err(at(Axis::Files))?;
            mounts::make_room(places, run.room).map_err(at(Axis::Files))?;
        }
        if run.id != 0 {
            let wrong = |error: io::Error| FenceError {
                axis: Axis::Files,
                text: format!("{} cannot be given to id {}: {error}", folder.display(), run.id),
            };
            match folder::give(folder, run.id) {
                // A working directory that is not there is the command's own failure, told as such.
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(wrong(error)),
                _ => {}
            }
            for leased in &run.leased {
                folder::lend(leased, run.id).map_err(wrong)?;
            }
            for output in outputs {
                own_pipe(output, run.id).map_err(wrong)?;
            }
        }
        let rooms = if self.work.is_none() && run.id != 0 { self.rooms.owned_by(run.id) } else { self.rooms };
        let mut admitted = Admitted { filter: &self.once.filter, rules: None, id: run.id, rooms };
        if let Some(mut rules) = self.rules {
            let wrong = at(Axis::Files);
            if let Some(proc) = &self.once.proc {
                rules.add(&proc[usize::from(run.id != 0)]).map_err(&wrong)?;
            }
            let writable = !folder.as_os_str().is_empty() && self.once.fences.files;
            if writable && let Ok(rule) = Rule::open(folder, Grant::Write) {
                rules.add(&rule).map_err(&wrong)?;
            }
            for leased in &run.leased {
                let grant = if leased.is_dir() { Grant::Write } else { Grant::Device };
                if let Ok(rule) = Rule::open(leased, grant) {
                    rules.add(&rule).map_err(&wrong)?;
                }
            }
            admitted.rules = Some(rules.finish().map_err(&wrong)?);
        }
        Ok(admitted)
    }
}

/// So that `/dev/stdout` can be opened by who writes to it.
fn own_pipe(pipe: BorrowedFd<'_>, id: u32) -> io::Result<()> {
    use rustix::fs::{FileType, Gid, Uid};
    let stat = rustix::fs::fstat(pipe)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Fifo {
        rustix::fs::fchown(pipe, Some(Uid::from_raw(id)), Some(Gid::from_raw(id)))?;
    }
    Ok(())
}

/// What the Run's process passes.
#[derive(Debug)]
pub(crate) struct Admitted<'a> {
    filter: &'a [sock_filter],
    rules: Option<OwnedFd>,
    id: u32,
    /// What it can fill beside its folder.
    pub(crate) rooms: Rooms,
}

impl Admitted<'_> {
    /// In the Run's process: its own ids. Only system calls; false leaves the cause in errno.
    pub(crate) fn take_ids(&self) -> bool {
        if self.id == 0 {
            return true;
        }
        let id = self.id;
        // SAFETY: plain system calls. Raw ones, because the C library's tell every thread of a process, and
        // this one still shares its memory with another.
        unsafe {
            libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) == 0
                && libc::syscall(libc::SYS_setresgid, id, id, id) == 0
                && libc::syscall(libc::SYS_setresuid, id, id, id) == 0
                // The change took it away.
                && libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0
        }
    }

    /// In the Run's process, last before exec. Only system calls; an error leaves the cause in errno.
    pub(crate) fn close(&self) -> Result<(), Axis> {
        if self.rules.as_ref().is_some_and(|rules| !landlock::enter(rules)) {
            return Err(Axis::Files);
        }
        if !self.filter.is_empty() && !seccomp::install(self.filter) {
            return Err(Axis::Privileges);
        }
        Ok(())
    }
}

/// A borrowed end, for tests and trials that have no pipes.
pub(crate) fn no_outputs(file: &OwnedFd) -> [BorrowedFd<'_>; 2] {
    [file.as_fd(), file.as_fd()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_supervisor_reads_what_its_run_gets() {
        for folder in ["", "/workspace/a b"] {
            for leased in [vec![], vec!["/dev/a".into(), "/b".into()]] {
                let fence = RunFence { id: 33_000, folder: folder.into(), room: 1 << 40, leased };
                assert_eq!(RunFence::decode(&fence.encode()), Some(fence));
            }
        }
        assert_eq!(RunFence::decode(&[1, 2, 3]), None);
    }

    #[test]
    fn the_nursery_reads_what_the_server_chose() {
        for network in NetworkFence::ALL {
            for socket in [None, Some(PathBuf::from("/run/k"))] {
                for shared in [vec![], vec!["/a".into(), "/b c".into()]] {
                    let leasable = shared.clone();
                    let places = Places { work: "/w".into(), socket: socket.clone(), shared, leasable };
                    let fences = Fences {
                        places,
                        user_namespace: true,
                        view: false,
                        network,
                        abi: 7,
                        files: true,
                        devices: false,
                        own_ids: true,
                        filter: false,
                    };
                    assert_eq!(Fences::decode(&fences.encode()), Some(fences));
                }
            }
        }
        for wrong in [&b""[..], &[0; 8], &[0, 0, 0, 0, 0, 0, 9, 0, 0, b'/', 0, 0]] {
            assert_eq!(Fences::decode(wrong), None);
        }
    }
}
