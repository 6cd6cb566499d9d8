//! The group of one Run: its bounds, its counters, its end.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;

use super::mounts::{Controller, Version};
use super::tree;
use super::{Bounds, Chore};

/// The groups of one Run, one in each tree. Made once, used once, removed by the server's own thread.
#[derive(Debug)]
pub(crate) struct Leaf {
    dirs: Vec<Dir>,
    /// What its supervisor gets, until it is handed over.
    entrance: Option<Entrance>,
    retire: Sender<Chore>,
}

/// A group in one tree.
#[derive(Clone, Debug)]
pub(super) struct Dir {
    pub version: Version,
    pub controllers: Vec<Controller>,
    pub path: PathBuf,
}

/// Descriptors through which a process gets in, and everything in it ends.
#[derive(Debug)]
pub(crate) struct Entrance {
    /// The directory in version 2.
    pub directory: Option<OwnedFd>,
    /// Whether that is also to end what is in it.
    pub kill: bool,
    /// The directory in the freezer hierarchy, where version 2 is not there or not to end what is in it.
    pub freezer: Option<OwnedFd>,
    /// `tasks` of each version 1 group: a thread that writes 0 there moves itself without the lock that
    /// `cgroup.procs` takes, and a child before exec has one thread.
    pub tasks: Vec<OwnedFd>,
}

/// What the kernel counted for one Run. `None` is what no controller counts here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupCounters {
    /// Microseconds.
    pub user: Option<u64>,
    /// Microseconds.
    pub system: Option<u64>,
    /// Periods in which it wanted more CPU than its limit.
    pub throttled_periods: Option<u64>,
    /// Microseconds, summed over its threads.
    pub throttled: Option<u64>,
    /// Bytes at most, page cache included, as the limit counts.
    pub memory_peak: Option<u64>,
    /// Processes that the kernel killed for want of memory.
    pub oom_kills: Option<u64>,
    /// Whether its own limit was the cause.
    pub oom_own: Option<bool>,
    /// Bytes from block devices.
    pub read: Option<u64>,
    /// Bytes to block devices.
    pub written: Option<u64>,
    pub pids_peak: Option<u64>,
    /// Forks that a limit refused: its own or, before Linux 6.11 and in version 1, one above it, such as the Pod's.
    pub pids_refused: Option<u64>,
    /// Whether its own limit was reached; without a peak (before Linux 6.1) only whether it is now.
    pub pids_own: Option<bool>,
}

impl GroupCounters {
    /// Whether they count all that a supervisor would have counted as well.
    pub(crate) fn are_whole(&self) -> bool {
        [self.user, self.system, self.memory_peak, self.read, self.written].iter().all(Option::is_some)
    }
}

impl Leaf {
    /// Makes the directories and opens what a child needs; with `by_freezer` version 2 does not end it.
    pub(super) fn make(dirs: Vec<Dir>, by_freezer: bool, retire: Sender<Chore>) -> io::Result<Self> {
        // From here on it is removed when it is dropped, also when it was only made in part.
        let mut leaf = Self { dirs, entrance: None, retire };
        for dir in &leaf.dirs {
            fs::create_dir(&dir.path)?;
            if dir.version == Version::V2 && dir.controllers.contains(&Controller::Memory) {
                // One Run is one unit, and its limit is on memory, wherever that lies.
                fs::write(dir.path.join("memory.oom.group"), "1")?;
                write_optional(&dir.path.join("memory.swap.max"), "0")?;
            }
        }
        let directory = leaf.find(|dir| dir.version == Version::V2).map(open_directory).transpose()?;
        let mut freezer = None;
        if directory.is_none() || by_freezer {
            freezer = leaf.dir(Controller::Freezer).map(open_directory).transpose()?;
        }
        let v1 = leaf.dirs.iter().filter(|dir| dir.version == Version::V1);
        let tasks = v1.map(|dir| open_tasks(&dir.path)).collect::<io::Result<_>>()?;
        leaf.entrance = Some(Entrance { directory, kill: !by_freezer, freezer, tasks });
        Ok(leaf)
    }

    fn find(&self, wanted: impl Fn(&Dir) -> bool) -> Option<&Path> {
        self.dirs.iter().find(|dir| wanted(dir)).map(|dir| dir.path.as_path())
    }

    /// In which version that controller is here, and where.
    pub(super) fn of(&self, controller: Controller) -> Option<(Version, &Path)> {
        let dir = self.dirs.iter().find(|dir| dir.controllers.contains(&controller))?;
        Some((dir.version, &dir.path))
    }

    /// The Run's group of that controller, for axes that bound something else with it.
    pub(crate) fn dir(&self, controller: Controller) -> Option<&Path> {
        self.of(controller).map(|(_, path)| path)
    }

    /// The Run's group in the tree of that version.
    pub(crate) fn home(&self, version: Version) -> Option<&Path> {
        self.find(|dir| dir.version == version)
    }

    /// For the supervisor; only once.
    pub(crate) fn entrance(&mut self) -> Option<Entrance> {
        self.entrance.take()
    }

    /// Sets the bounds. The error names the file. In version 1 each is read back, since some kernels take
    /// a value and keep another; version 2 refuses what it does not keep.
    pub(crate) fn bound(&self, bounds: &Bounds) -> Result<(), (PathBuf, io::Error)> {
        if let (Some((version, dir)), Some(bytes)) = (self.of(Controller::Memory), bounds.memory) {
            match version {
                Version::V2 => put(version, &dir.join("memory.max"), &bytes.to_string())?,
                Version::V1 => {
                    put_bytes(&dir.join("memory.limit_in_bytes"), bytes)?;
                    // Memory and swap together; only where swap is accounted.
                    let both = dir.join("memory.memsw.limit_in_bytes");
                    if both.exists() {
                        put_bytes(&both, bytes)?;
                    }
                }
            }
        }
        if let (Some((version, dir)), Some(pids)) = (self.of(Controller::Pids), bounds.pids) {
            put(version, &dir.join("pids.max"), &pids.min(PIDS_AT_MOST).to_string())?;
        }
        if let Some((version, dir)) = self.of(Controller::Cpu) {
            bound_cpu(version, dir, bounds)?;
        }
        Ok(())
    }

    /// What the kernel counted so far.
    pub(crate) fn counters(&self) -> GroupCounters {
        let mut counters = self.events();
        self.cpu(&mut counters);
        // Since Linux 6.10 version 1 counts nothing unless somebody throttles the device: a 0 would be a lie.
        if let Some((Version::V2, dir)) = self.of(Controller::Io) {
            (counters.read, counters.written) = bytes_moved(&dir.join("io.stat"));
        }
        counters
    }

    /// Of the counters those that tell of a broken bound.
    pub(crate) fn events(&self) -> GroupCounters {
        let mut counters = GroupCounters::default();
        if let Some((version, dir)) = self.of(Controller::Memory) {
            let (events, peak) = match version {
                Version::V2 => ("memory.events", "memory.peak"),
                Version::V1 => ("memory.oom_control", "memory.max_usage_in_bytes"),
            };
            let events = text(&dir.join(events));
            counters.memory_peak = number(&dir.join(peak));
            counters.oom_kills = keyed(&events, "oom_kill");
            counters.oom_own = match version {
                Version::V2 => keyed(&events, "oom").map(|times| times > 0),
                // `memory.failcnt` stays 0 on new kernels.
                Version::V1 => counters
                    .memory_peak
                    .zip(number(&dir.join("memory.limit_in_bytes")))
                    .map(|(peak, limit)| peak >= limit),
            };
        }
        if let Some((_, dir)) = self.of(Controller::Pids) {
            counters.pids_peak = number(&dir.join("pids.peak"));
            counters.pids_refused = keyed(&text(&dir.join("pids.events")), "max");
            if counters.pids_refused.is_some_and(|times| times > 0) {
                let most = counters.pids_peak.or_else(|| number(&dir.join("pids.current")));
                counters.pids_own =
                    most.zip(number(&dir.join("pids.max"))).map(|(most, limit)| most >= limit);
            }
        }
        counters
    }

    fn cpu(&self, counters: &mut GroupCounters) {
        // Version 2 counts CPU time in every group, whatever is enabled. Each look has the kernel add up anew: one does.
        let mut stat = String::new();
        if let Some(dir) = self.find(|dir| dir.version == Version::V2) {
            stat = text(&dir.join("cpu.stat"));
            counters.user = keyed(&stat, "user_usec");
            counters.system = keyed(&stat, "system_usec");
        } else if let Some(dir) = self.dir(Controller::CpuAcct) {
            counters.user = number(&dir.join("cpuacct.usage_user")).map(|nanos| nanos / 1000);
            counters.system = number(&dir.join("cpuacct.usage_sys")).map(|nanos| nanos / 1000);
        }
        if let Some((version, dir)) = self.of(Controller::Cpu) {
            if version == Version::V1 {
                stat = text(&dir.join("cpu.stat"));
            }
            counters.throttled_periods = keyed(&stat, "nr_throttled");
            counters.throttled = match version {
                Version::V2 => keyed(&stat, "throttled_usec"),
                Version::V1 => keyed(&stat, "throttled_time").map(|nanos| nanos / 1000),
            };
        }
    }

    /// Whether no process is left in any of its groups.
    pub(crate) fn is_empty(&self) -> bool {
        self.dirs.iter().all(|dir| match dir.version {
            Version::V2 => keyed(&text(&dir.path.join("cgroup.events")), "populated") == Some(0),
            Version::V1 => match fs::read_to_string(dir.path.join("cgroup.procs")) {
                Ok(pids) => pids.trim().is_empty(),
                // What cannot be read, for want of descriptors, proves nothing.
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            },
        })
    }

    /// Whether everything in it can be ended at once.
    pub(super) fn can_kill(&self) -> bool {
        self.find(|dir| dir.version == Version::V2).is_some_and(|dir| dir.join("cgroup.kill").exists())
    }

    /// One try to end whatever is in it.
    pub(crate) fn end(&self) {
        for dir in &self.dirs {
            tree::end(&dir.path, dir.version);
        }
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        // The thread is gone only when the whole tree is being removed.
        let _ = self.retire.send(Chore::Remove(std::mem::take(&mut self.dirs)));
    }
}

/// What `pids.max` takes at most: `PID_MAX_LIMIT` of 64-bit machines (linux/threads.h), more than which there cannot be.
const PIDS_AT_MOST: u64 = 4 << 20;

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(fs::File::open(path)?.into())
}

fn open_tasks(path: &Path) -> io::Result<OwnedFd> {
    Ok(fs::OpenOptions::new().write(true).open(path.join("tasks"))?.into())
}

/// The file is not there where the kernel has no swap accounting.
fn write_optional(path: &Path, text: &str) -> io::Result<()> {
    match fs::write(path, text) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn bound_cpu(version: Version, dir: &Path, bounds: &Bounds) -> Result<(), (PathBuf, io::Error)> {
    if let Some((quota, period)) = bounds.cpu_quota() {
        let bounded = match version {
            Version::V2 => put(version, &dir.join("cpu.max"), &format!("{quota} {period}")),
            Version::V1 => {
                put(version, &dir.join("cpu.cfs_period_us"), &period.to_string())?;
                put(version, &dir.join("cpu.cfs_quota_us"), &quota.to_string())
            }
        };
        match bounded {
            // More than the group above may use, such as the Pod's, which version 1 refuses; or than there can be. What
            // holds above holds here.
            Err((_, error)) if error.kind() == io::ErrorKind::InvalidInput => {}
            other => other?,
        }
    }
    if let Some(shares) = bounds.cpu_shares {
        match version {
            Version::V2 => put(version, &dir.join("cpu.weight"), &weight(shares).to_string())?,
            Version::V1 => put(version, &dir.join("cpu.shares"), &shares.to_string())?,
        }
    }
    Ok(())
}

/// As the kubelet and runc map the shares of version 1 (2..=262144) to the weight of version 2 (1..=10000).
fn weight(shares: u64) -> u64 {
    1 + (shares.saturating_sub(2) * 9999) / 262_142
}

/// Writes a value; in version 1 also makes sure that it is the one that is kept.
fn put(version: Version, path: &Path, text: &str) -> Result<(), (PathBuf, io::Error)> {
    let written = fs::write(path, text).and_then(|()| {
        if version == Version::V2 {
            return Ok(());
        }
        let kept = fs::read_to_string(path)?;
        if kept.trim() == text { Ok(()) } else { Err(other_value(text, kept.trim())) }
    });
    written.map_err(|error| (path.to_owned(), error))
}

/// As [`put`], for amounts that the kernel rounds down to whole pages.
fn put_bytes(path: &Path, bytes: u64) -> Result<(), (PathBuf, io::Error)> {
    const LARGEST_PAGE: u64 = 64 * 1024;
    let written = fs::write(path, bytes.to_string()).and_then(|()| {
        let kept = number(path);
        let near = kept.is_some_and(|kept| kept <= bytes && bytes - kept < LARGEST_PAGE);
        if near { Ok(()) } else { Err(other_value(&bytes.to_string(), &format!("{kept:?}"))) }
    });
    written.map_err(|error| (path.to_owned(), error))
}

pub(super) fn other_value(wanted: &str, kept: &str) -> io::Error {
    io::Error::other(format!("the kernel keeps {kept} instead of {wanted}"))
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Empty where there is no such file.
fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The number behind `key` in lines of `key number`.
fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// `MAJOR:MINOR rbytes=N wbytes=N ...` per device.
fn bytes_moved(path: &Path) -> (Option<u64>, Option<u64>) {
    let Ok(text) = fs::read_to_string(path) else { return (None, None) };
    let sum = |key: &str| {
        let values = text.lines().filter_map(|line| {
            let (device, rest) = line.split_once(' ')?;
            let value = rest.split(' ').find_map(|word| word.strip_prefix(key)?.parse::<u64>().ok())?;
            Some((device, value))
        });
        total(values)
    };
    (Some(sum("rbytes=")), Some(sum("wbytes=")))
}

/// A device that lies on others is left out: they count the same bytes again.
fn total<'a>(values: impl Iterator<Item = (&'a str, u64)>) -> u64 {
    let stacked = |device: &str| {
        let slaves = fs::read_dir(format!("/sys/dev/block/{device}/slaves"));
        slaves.is_ok_and(|mut entries| entries.next().is_some())
    };
    values
        .filter(|(_, value)| *value > 0)
        .filter(|(device, _)| !stacked(device))
        .map(|(_, value)| value)
        .sum()
}

#[cfg(test)]
#[path = "leaf_tests.rs"]
pub(super) mod tests;
