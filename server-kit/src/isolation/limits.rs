//! CPU, memory, processes, IO and storage of one Run.
#![allow(unsafe_code, reason = "a child enters its control group between clone and exec")]

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use kruntimes_proto::v1::IsolationLevel;
use nix::sys::resource::Resource;

use super::bounds::Bounds;
use super::cgroup::iops::{Iops, hold};
use super::cgroup::{Controller, Groups, Version};
use super::{Axis, ConfineError, Confinement, Crusher, Part, Place, Rung, Step, Subject};

/// Best first.
pub(super) fn rungs(place: &Place, groups: &Arc<Groups>) -> Vec<Arc<dyn Rung>> {
    vec![
        Arc::new(ControlGroups { groups: Arc::clone(groups), version: Version::V2, shares: place.shares }),
        Arc::new(ControlGroups { groups: Arc::clone(groups), version: Version::V1, shares: place.shares }),
        Arc::new(Policed {
            wanted: place.may_group(Axis::Limits, "cgroup-v1"),
            iops: place.iops,
            shares: place.shares,
        }),
    ]
}

/// What of the Pod or the node lets a server make control groups.
pub(super) const FOR_GROUPS: &str = "securityContext with runAsUser 0 and privileged gives it, or runAsUser 0 and a runtimeClassName whose handler makes control groups writable";

/// What a Run needs to be bounded as the issue has it, and beside that what is good to have.
const NEEDED: [Controller; 3] = [Controller::Memory, Controller::Cpu, Controller::Pids];

/// A leaf per Run whose controllers hold the limits.
struct ControlGroups {
    groups: Arc<Groups>,
    version: Version,
    shares: bool,
}

impl ControlGroups {
    fn lacks(&self) -> Vec<&'static str> {
        let lacking = NEEDED.into_iter().filter(|controller| self.groups.version_of(*controller).is_none());
        lacking.map(Controller::name).collect()
    }
}

impl Rung for ControlGroups {
    fn axis(&self) -> Axis {
        Axis::Limits
    }

    fn mechanism(&self) -> &'static str {
        match self.version {
            Version::V1 => "cgroup-v1",
            Version::V2 => "cgroup-v2",
        }
    }

    fn level(&self) -> IsolationLevel {
        if self.lacks().is_empty() { IsolationLevel::Hard } else { IsolationLevel::Soft }
    }

    fn probe(&self) -> Result<(), String> {
        if let Some(reason) = self.groups.missing(self.version) {
            return Err(reason.to_owned());
        }
        let offers = |controller: &&Controller| self.groups.version_of(**controller) == Some(self.version);
        if NEEDED.iter().filter(offers).count() == 0 {
            return Err("none of the controllers memory, cpu and pids can be used in it".into());
        }
        try_it(&self.groups)
    }

    fn weakness(&self, _ids: bool) -> String {
        let lacks = self.lacks();
        let mut reasons = Vec::new();
        if !lacks.is_empty() {
            reasons.push(format!("no controller for {}: not bounded", lacks.join(", ")));
        }
        if self.version == Version::V1 {
            reasons.push(
                "the kernel ends one process for want of memory, the server then ends the rest of the Run"
                    .into(),
            );
        }
        reasons.extend(self.groups.iops().told());
        reasons.join("; ")
    }

    fn confine(&self, run: &Subject<'_>, confinement: &mut Confinement) -> Result<(), ConfineError> {
        let bounds = Bounds::read(run.limits, run.resources)?;
        settle(&self.groups, confinement)?;
        if let Some(leaf) = &confinement.leaf {
            let mut held = leaf.bound(&bounds);
            if let (Some(iops), Iops::Held { disk, .. }) = (bounds.iops, self.groups.iops()) {
                held = held.and_then(|()| hold(leaf, disk, iops));
            }
            held.map_err(|(path, source)| ConfineError::Failed {
                axis: "limits",
                what: format!("cannot set {}", path.display()),
                source,
            })?;
        }
        bound_files(&bounds, self.shares, confinement);
        confinement.bounds = bounds;
        Ok(())
    }
}

/// Makes a leaf, bounds it, puts a child in it, and looks whether it is there.
fn try_it(groups: &Groups) -> Result<(), String> {
    let modest =
        Bounds { memory: Some(1 << 30), pids: Some(1000), cpu_shares: Some(512), ..Bounds::default() };
    let mut leaf = groups.take().map_err(|error| error.to_string())?;
    leaf.bound(&modest).map_err(|(path, error)| format!("cannot set {}: {error}", path.display()))?;
    let entrance = leaf.entrance().ok_or("a leaf was used twice")?;
    let mut fds = Vec::new();
    let bytes = encode(entrance, &mut fds);
    let wrong = |errno| format!("its entrance cannot be used: {}", io::Error::from_raw_os_error(errno));
    let mut entry = Entry::decode(&bytes, &fds).map_err(wrong)?;
    entry.not_born().map_err(wrong)?;
    // SAFETY: the child makes system calls only and leaves with `_exit`.
    match unsafe { nix::unistd::fork() }.map_err(|errno| format!("cannot fork: {errno}"))? {
        nix::unistd::ForkResult::Child => {
            // SAFETY: as above.
            unsafe { libc_exit(entry.enter().err().unwrap_or(0)) }
        }
        nix::unistd::ForkResult::Parent { child } => match nix::sys::wait::waitpid(child, None) {
            Ok(nix::sys::wait::WaitStatus::Exited(_, 0)) => Ok(()),
            Ok(nix::sys::wait::WaitStatus::Exited(_, errno)) => {
                Err(format!("no process can be put in it: {}", io::Error::from_raw_os_error(errno)))
            }
            other => Err(format!("no process can be put in it: {other:?}")),
        },
    }
}

/// # Safety
/// In a forked child only.
unsafe fn libc_exit(code: c_int) -> ! {
    // SAFETY: ends this process.
    unsafe { nix::libc::_exit(code) }
}

/// Gives the execution a leaf unless it has one, and lets its child be born there.
pub(super) fn settle(groups: &Groups, confinement: &mut Confinement) -> Result<(), ConfineError> {
    if confinement.leaf.is_some() {
        return Ok(());
    }
    let mut leaf = groups.take()?;
    if let Some(entrance) = leaf.entrance() {
        let bytes = encode(entrance, &mut confinement.fds);
        confinement.parts.push(Part { axis: Axis::Limits, bytes });
    }
    confinement.leaf = Some(leaf);
    Ok(())
}

/// Which descriptor is which, by its place in the list: directory, freezer, tasks.
fn encode(entrance: super::cgroup::leaf::Entrance, fds: &mut Vec<OwnedFd>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut add = |kind: u8, fd: OwnedFd| {
        bytes.extend([kind, u8::try_from(fds.len()).unwrap_or(u8::MAX)]);
        fds.push(fd);
    };
    let directory = if entrance.kill { DIRECTORY } else { BIRTHPLACE };
    for (kind, fd) in [(directory, entrance.directory), (FREEZER, entrance.freezer)] {
        if let Some(fd) = fd {
            add(kind, fd);
        }
    }
    for fd in entrance.tasks {
        add(TASKS, fd);
    }
    bytes
}

const DIRECTORY: u8 = 0;
const FREEZER: u8 = 1;
const TASKS: u8 = 2;
const BIRTHPLACE: u8 = 3;

/// How a child gets into its leaf.
#[derive(Default)]
struct Entry {
    directory: Option<RawFd>,
    /// Everything in `directory` can be ended at once.
    kill: bool,
    /// `cgroup.procs` of `directory`, for kernels and places where no child can be born in a group.
    procs: Option<OwnedFd>,
    freezer: Option<RawFd>,
    tasks: Vec<RawFd>,
}

impl Entry {
    fn decode(bytes: &[u8], fds: &[OwnedFd]) -> Result<Self, c_int> {
        let mut entry = Self::default();
        for pair in bytes.chunks(2) {
            let [kind, index] = pair else { return Err(nix::libc::EPROTO) };
            let fd = fds.get(usize::from(*index)).ok_or(nix::libc::EPROTO)?;
            match *kind {
                DIRECTORY => (entry.directory, entry.kill) = (Some(fd.as_raw_fd()), true),
                BIRTHPLACE => entry.directory = Some(fd.as_raw_fd()),
                FREEZER => entry.freezer = Some(fd.as_raw_fd()),
                _ => entry.tasks.push(fd.as_raw_fd()),
            }
        }
        Ok(entry)
    }
}

/// The supervisor's side.
pub(super) fn step(bytes: &[u8], fds: &[OwnedFd]) -> Result<Box<dyn Step>, c_int> {
    match bytes.split_first() {
        Some((&FILE_SIZE, size)) => Ok(Box::new(ResourceLimit::decode(Resource::RLIMIT_FSIZE, size)?)),
        Some((&PROCESSES, most)) => Ok(Box::new(ResourceLimit::decode(Resource::RLIMIT_NPROC, most)?)),
        _ => Ok(Box::new(Entry::decode(bytes, fds)?)),
    }
}

/// Marks a part with the largest size of a file.
const FILE_SIZE: u8 = 0xff;
/// Marks a part with the most processes and threads of the Run's id.
const PROCESSES: u8 = 0xfe;

/// Where processes are only looked at now and then, and the Run has an id of its own: the kernel bounds what can come
/// between two looks. It counts by id over the whole node, where a Run of another Pod may have the same one: so there
/// is room for both, and the limit itself is the looks' matter.
pub(super) fn hold_processes(confinement: &Confinement) -> Option<Part> {
    let limit = confinement.bounds.pids.filter(|_| confinement.policed)?;
    let mut bytes = vec![PROCESSES];
    bytes.extend(limit.saturating_mul(2).saturating_add(64).to_le_bytes());
    Some(Part { axis: Axis::Limits, bytes })
}

/// Storage is looked at now and then; that no single file is larger holds between two looks as well. Not where a
/// Run may write to other folders: what lies there has no limit.
fn bound_files(bounds: &Bounds, shares: bool, confinement: &mut Confinement) {
    let Some(size) = bounds.file().filter(|_| !shares) else { return };
    let mut bytes = vec![FILE_SIZE];
    bytes.extend(size.to_le_bytes());
    confinement.parts.push(Part { axis: Axis::Limits, bytes });
    confinement.bounded_files = true;
}

/// `RLIMIT_FSIZE`: a write beyond it ends the writer (SIGXFSZ) or fails. `RLIMIT_NPROC`: a fork beyond it fails.
struct ResourceLimit(Resource, nix::libc::rlimit);

impl ResourceLimit {
    fn decode(resource: Resource, bytes: &[u8]) -> Result<Self, c_int> {
        let bytes: [u8; 8] = bytes.try_into().map_err(|_| nix::libc::EPROTO)?;
        // The hard limit of the server itself cannot be raised.
        let (_, most) = nix::sys::resource::getrlimit(resource).map_err(|errno| errno as c_int)?;
        let limit = u64::from_le_bytes(bytes).min(most);
        Ok(Self(resource, nix::libc::rlimit { rlim_cur: limit, rlim_max: limit }))
    }
}

impl Step for ResourceLimit {
    unsafe fn enter(&self) -> Result<(), c_int> {
        // SAFETY: a system call on a value that lives as long as the call.
        match unsafe { nix::libc::setrlimit(self.0 as _, &raw const self.1) } {
            0 => Ok(()),
            _ => Err(nix::errno::Errno::last_raw()),
        }
    }
}

impl Step for Entry {
    fn birthplace(&self) -> Option<RawFd> {
        self.directory
    }

    fn not_born(&mut self) -> Result<(), c_int> {
        let Some(directory) = self.directory else { return Ok(()) };
        // SAFETY: the descriptor is among those that the supervisor keeps.
        let directory = unsafe { BorrowedFd::borrow_raw(directory) };
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
        let procs = rustix::fs::openat(directory, "cgroup.procs", flags, rustix::fs::Mode::empty());
        self.procs = Some(procs.map_err(rustix::io::Errno::raw_os_error)?);
        Ok(())
    }

    fn crusher(&self) -> Option<Crusher> {
        let kill = self.directory.filter(|_| self.kill).map(Crusher::Kill);
        self.freezer.map(Crusher::Freeze).or(kill)
    }

    unsafe fn enter(&self) -> Result<(), c_int> {
        let procs = self.procs.as_ref().map(|fd| fd.as_raw_fd());
        for fd in self.tasks.iter().copied().chain(procs) {
            // SAFETY: a system call on an open descriptor and a constant.
            if unsafe { nix::libc::write(fd, c"0".as_ptr().cast(), 1) } != 1 {
                return Err(nix::errno::Errno::last_raw());
            }
        }
        Ok(())
    }
}

/// Nothing but watching: what a Run uses is measured now and then, and a Run over its limit is ended.
struct Policed {
    /// Groups were not switched off.
    wanted: bool,
    /// Operations a second can be leased.
    iops: bool,
    shares: bool,
}

impl Rung for Policed {
    fn axis(&self) -> Axis {
        Axis::Limits
    }

    fn mechanism(&self) -> &'static str {
        "policing"
    }

    fn level(&self) -> IsolationLevel {
        IsolationLevel::Soft
    }

    fn probe(&self) -> Result<(), String> {
        Ok(())
    }

    fn weakness(&self, ids: bool) -> String {
        let weak = "memory and processes are measured several times a second and a Run over its limit is ended: what happens between is not held; memory that none of its processes has mapped (a memfd, the kernel's own) is not seen; CPU and IO are not bounded";
        let iops = Iops::Accounted("there are no control groups".into()).told().filter(|_| self.iops);
        let held = ids.then(|| "the kernel holds processes at twice their limit and 64".to_owned());
        [Some(weak.to_owned()), held, iops].into_iter().flatten().collect::<Vec<_>>().join("; ")
    }

    fn remedy(&self) -> &'static str {
        if self.wanted { FOR_GROUPS } else { "" }
    }

    fn confine(&self, run: &Subject<'_>, confinement: &mut Confinement) -> Result<(), ConfineError> {
        confinement.bounds = Bounds::read(run.limits, run.resources)?;
        bound_files(&confinement.bounds.clone(), self.shares, confinement);
        confinement.policed = true;
        Ok(())
    }
}
