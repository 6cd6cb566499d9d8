//! One hierarchy and the group in it that is this server's own, below which its leaves are.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fs::FlockOperation;

use super::mounts::{Controller, Hierarchy, Version};
use super::{Parent, failed};

/// Every group that a server makes for itself begins so. Its owner holds a lock on it.
const PREFIX: &str = "kruntimes-server-";
/// The group of the server's own processes, where one is needed.
const SERVER: &str = "server";
/// How long a group may take to become empty once everything in it was killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(super) version: Version,
    /// What its leaves can bound or count.
    pub(super) controllers: Vec<Controller>,
    base: PathBuf,
    /// Says that the owner lives: it is gone with this process, whatever way it goes.
    _lock: File,
}

impl Tree {
    /// Makes the server's own group, after removing those of servers that are gone.
    /// With `limits` version 2 hands its controllers down.
    pub(super) fn open(hierarchy: &Hierarchy, parent: &Parent, limits: bool) -> Result<Self, String> {
        let directory = match parent {
            Parent::Own => hierarchy.own.clone(),
            Parent::Path(path) => {
                let directory = hierarchy.mount.join(path.strip_prefix("/").unwrap_or(path));
                fs::create_dir_all(&directory).map_err(failed("cannot make", &directory))?;
                directory
            }
        };
        sweep(&directory);
        // Another server's sweep may come between the making and the locking.
        let own = own_group(&directory).or_else(|_| own_group(&directory)).or_else(|_| own_group(&directory));
        let (base, lock) = own.map_err(failed("cannot make a group in", &directory))?;
        let controllers = hierarchy.controllers.clone();
        let mut tree = Self { version: hierarchy.version, controllers, base, _lock: lock };
        if tree.version == Version::V2 && limits {
            tree.enable(hierarchy, parent, &directory);
        }
        Ok(tree)
    }

    /// Turns on what version 2 offers here. What cannot be turned on is then not among the controllers.
    fn enable(&mut self, hierarchy: &Hierarchy, parent: &Parent, directory: &Path) {
        let offered = words(&directory.join("cgroup.controllers"));
        let wanted: Vec<&str> = Controller::V2.iter().map(|(name, _)| *name).collect();
        if !wanted.iter().any(|name| offered.iter().any(|word| word == name)) {
            return;
        }
        // A group with controllers for its children may hold no process itself; the real root, which has
        // no type, may.
        let bound = directory.join("cgroup.type").exists();
        if bound && matches!(parent, Parent::Own) {
            self.move_out(directory, hierarchy.at_root);
        }
        let from = if matches!(parent, Parent::Own) { directory } else { hierarchy.mount.as_path() };
        let mut path = from.to_owned();
        let below = self.base.strip_prefix(from).map(Path::to_owned).unwrap_or_default();
        for step in [PathBuf::new()].into_iter().chain(below.iter().map(PathBuf::from)) {
            path.push(step);
            for name in &wanted {
                // Read below: what failed is not there.
                let _ = fs::write(path.join("cgroup.subtree_control"), format!("+{name}"));
            }
        }
        let enabled = words(&self.base.join("cgroup.subtree_control"));
        let known = Controller::V2.iter().filter(|(name, _)| enabled.iter().any(|word| word == name));
        self.controllers = known.map(|(_, controller)| *controller).collect();
    }

    /// Moves this process out of `directory`, and whatever else a container has there.
    fn move_out(&self, directory: &Path, everybody: bool) {
        let home = self.base.join(SERVER);
        if fs::create_dir(&home).is_err() {
            return;
        }
        let procs = home.join("cgroup.procs");
        let deadline = Instant::now() + Duration::from_millis(500);
        loop {
            let pids = if everybody { words(&directory.join("cgroup.procs")) } else { vec![own_pid()] };
            // 0 is a process that this PID namespace does not show.
            let pids = pids.into_iter().filter(|pid| pid != "0");
            let moved = pids.map(|pid| fs::write(&procs, pid)).filter(Result::is_ok).count();
            if moved == 0 || !everybody || Instant::now() > deadline {
                return;
            }
        }
    }

    /// Where a leaf of that name is or will be.
    pub(super) fn leaf(&self, name: &str) -> PathBuf {
        self.base.join(name)
    }

    /// Ends and removes everything below, and the group itself unless this server is in it.
    pub(super) fn close(&self) {
        for child in children(&self.base) {
            if child.file_name().is_some_and(|name| name != SERVER) {
                let _ = remove(&child, self.version);
            }
        }
        let _ = fs::remove_dir(self.base.join(SERVER));
        let _ = fs::remove_dir(&self.base);
    }
}

/// A new directory that is locked and still there.
fn own_group(parent: &Path) -> io::Result<(PathBuf, File)> {
    let base = parent.join(format!("{PREFIX}{:016x}", rand::random::<u64>()));
    fs::create_dir(&base)?;
    let lock = File::open(&base)?;
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    fs::metadata(&base)?;
    Ok((base, lock))
}

fn own_pid() -> String {
    std::process::id().to_string()
}

/// Removes the groups of servers that are gone: nobody holds their lock.
fn sweep(directory: &Path) {
    for child in children(directory) {
        let ours =
            child.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(PREFIX.as_bytes()));
        if !ours {
            continue;
        }
        let Ok(lock) = File::open(&child) else { continue };
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        let version = if child.join("cgroup.controllers").exists() { Version::V2 } else { Version::V1 };
        match remove(&child, version) {
            Ok(()) => tracing::info!(group = %child.display(), "removed the group of a server that is gone"),
            Err(error) => {
                tracing::warn!(group = %child.display(), %error, "cannot remove the group of a server that is gone")
            }
        }
    }
}

/// Ends whatever is in a group and below, and removes all of it.
pub(super) fn remove(directory: &Path, version: Version) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match remove_empty(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => {
                end(directory, version);
                std::thread::park_timeout(Duration::from_millis(2));
            }
        }
    }
}

/// One try, which fails while there is a process in it.
pub(super) fn remove_empty(directory: &Path) -> io::Result<()> {
    let Err(error) = fs::remove_dir(directory) else { return Ok(()) };
    // It has processes or children.
    for child in children(directory) {
        remove_empty(&child)?;
    }
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { fs::remove_dir(directory) }
}

/// One try to end every process in a group and below.
pub(super) fn end(directory: &Path, version: Version) {
    if version == Version::V2 && fs::write(directory.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    for pid in words(&directory.join("cgroup.procs")).iter().filter_map(|word| word.parse::<i32>().ok()) {
        // Never 0, 1 or a crowd.
        if pid > 1 {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    for child in children(directory) {
        end(&child, version);
    }
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let folders = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path()).collect()
}

/// The words of a small file; none when it cannot be read.
pub(super) fn words(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_ascii_whitespace().map(ToOwned::to_owned).collect()
}
