//! Bounds that no kernel holds for a Run: looked at now and then, and a Run that broke one is ended.
//!
//! With control groups that is a refused fork, a process that version 1 ended for want of memory while
//! others of the Run live on, and storage. Without them it is memory and processes as well. What a Run has in a
//! `/tmp` and a `/dev/shm` of its own is both: storage, and memory, which control groups count by themselves.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::isolation::{Bounds, Breach, Confinement, GroupCounters, Leaf, Rooms, folder};
use crate::supervisor::wire::Counters;

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(100);
/// Walking a folder must not take more than this part of the time.
const WALK_PART: u32 = 10;

/// What is looked at for one Run.
pub(crate) struct Police {
    bounds: Bounds,
    directory: PathBuf,
    /// Its groups say what was refused.
    events: bool,
    /// The supervisor must measure.
    policed: bool,
    next: Option<Instant>,
    /// The last measure was too much.
    suspected: bool,
    walk: Walk,
    storage_peak: Option<u64>,
    /// What it can fill beside its directory.
    rooms: Arc<Rooms>,
    /// No file may grow beyond the limit.
    bounded_files: bool,
}

/// The walk through a Run's folder.
enum Walk {
    Off,
    From(Instant),
    Now { since: Instant, task: JoinHandle<Option<u64>> },
}

/// What to do.
pub(crate) enum Finding {
    /// Ask the supervisor for a sample.
    Measure,
    /// End it.
    Broken(Breach),
}

impl Police {
    /// From the moment at which the Run was handed over.
    pub(crate) fn new(confinement: &Confinement, directory: &Path) -> Self {
        let bounds = confinement.bounds;
        let held = bounds.memory.is_some() || bounds.pids.is_some();
        let events = held && confinement.leaf.is_some() && !confinement.policed;
        let policed = held && confinement.policed;
        let start = Instant::now() + INTERVAL;
        let walk = if bounds.storage.is_some() { Walk::From(start) } else { Walk::Off };
        let next = (events || policed).then_some(start);
        Self {
            bounds,
            directory: directory.to_owned(),
            events,
            policed,
            next,
            suspected: false,
            walk,
            storage_peak: None,
            rooms: Arc::new(Rooms::of(Vec::new(), confinement.owner)),
            bounded_files: confinement.bounded_files,
        }
    }

    /// It has begun; `mounts` are its own, and memory.
    pub(crate) fn may_fill(&mut self, mounts: Vec<OwnedFd>) {
        if !mounts.is_empty() {
            self.rooms = Arc::new(Rooms::of(mounts, None));
        }
    }

    /// Returns when there is something to do; never when nothing is to be policed. Can be cancelled.
    pub(crate) async fn look(&mut self, leaf: Option<&Leaf>) -> Finding {
        loop {
            let next = async {
                match self.next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let walked = async {
                match &mut self.walk {
                    Walk::Off => std::future::pending().await,
                    Walk::From(at) => {
                        tokio::time::sleep_until(*at).await;
                        None
                    }
                    Walk::Now { task, .. } => Some(task.await.unwrap_or(Some(0))),
                }
            };
            let used = tokio::select! {
                () = next => {
                    self.next = Some(Instant::now() + INTERVAL);
                    if self.policed {
                        return Finding::Measure;
                    }
                    match leaf.filter(|_| self.events).and_then(|leaf| self.refused(&leaf.events())) {
                        Some(breach) => return Finding::Broken(breach),
                        None => continue,
                    }
                }
                used = walked => used,
            };
            if let Some(breach) = self.walked(used) {
                return Finding::Broken(breach);
            }
        }
    }

    /// A walk is due, or brought what [`stored`] says.
    fn walked(&mut self, used: Option<Option<u64>>) -> Option<Breach> {
        let now = Instant::now();
        let Some(used) = used else {
            let (directory, rooms) = (self.directory.clone(), Arc::clone(&self.rooms));
            let task = tokio::task::spawn_blocking(move || stored(&directory, &rooms));
            self.walk = Walk::Now { since: now, task };
            return None;
        };
        if let Walk::Now { since, .. } = self.walk {
            self.walk = Walk::From(now + INTERVAL.max((now - since) * WALK_PART));
        }
        self.stored(used)
    }

    fn stored(&mut self, used: Option<u64>) -> Option<Breach> {
        let Some(used) = used else { return Some(self.bounds.storage_too_deep()) };
        self.storage_peak = Some(self.storage_peak.unwrap_or(0).max(used));
        (used > self.bounds.storage?).then(|| self.bounds.too_much_storage(self.storage_peak))
    }

    /// What the groups of a Run say about its bounds.
    fn refused(&self, counters: &GroupCounters) -> Option<Breach> {
        if counters.oom_kills.is_some_and(|times| times > 0) {
            return Some(self.bounds.out_of_memory(counters.memory_peak, counters.oom_own.unwrap_or(true)));
        }
        let refused = counters.pids_refused.is_some_and(|times| times > 0);
        // Else a neighbour has used up what the Pod may have: not this Run's fault.
        let own = counters.pids_own == Some(true);
        let limit = self.bounds.pids.filter(|_| refused && own)?;
        Some(self.bounds.too_many_processes(counters.pids_peak.or(Some(limit))))
    }

    /// The supervisor measured. That takes a while, in which what one process gives back may be counted as another's or
    /// as a file's: only what a second look finds as well has broken a bound.
    pub(crate) fn sampled(&mut self, counters: &Counters) -> Option<Breach> {
        let breach = self.exceeded(counters).filter(|_| self.policed);
        let first = !std::mem::replace(&mut self.suspected, breach.is_some());
        if breach.is_some() && first {
            self.next = Some(Instant::now());
            return None;
        }
        breach
    }

    fn exceeded(&self, counters: &Counters) -> Option<Breach> {
        if self.bounds.memory.is_some_and(|limit| counters.resident_bytes > limit) {
            return Some(self.bounds.out_of_memory(Some(counters.resident_bytes), true));
        }
        let crowd = self.bounds.pids.is_some_and(|limit| counters.tasks > limit);
        crowd.then(|| self.bounds.too_many_processes(Some(counters.tasks)))
    }

    /// The most that was stored so far.
    pub(crate) fn storage(&self) -> Option<u64> {
        self.storage_peak
    }

    /// Everything has ended, the command by `signal` or with 0: what it broke, and the most that it stored.
    pub(crate) async fn last_look(
        mut self,
        counters: &GroupCounters,
        signal: i32,
    ) -> (Option<Breach>, Option<u64>) {
        let mut breach = self.refused(counters);
        if let Some(limit) = self.bounds.memory.filter(|_| self.policed) {
            // Its processes' own memory is gone with them; this is still there.
            let left = self.rooms.used();
            if left.is_none_or(|left| left > limit) {
                breach = breach.or_else(|| Some(self.bounds.out_of_memory(left, true)));
            }
        }
        if self.bounds.storage.is_some() {
            let (directory, rooms) = (std::mem::take(&mut self.directory), Arc::clone(&self.rooms));
            let walk = tokio::task::spawn_blocking(move || stored(&directory, &rooms));
            let stored = self.stored(walk.await.unwrap_or(Some(0)));
            breach = breach.or(stored);
            if self.bounded_files && signal == nix::libc::SIGXFSZ {
                breach = breach.or_else(|| Some(self.bounds.too_large_a_file(self.storage_peak)));
            }
        }
        (breach, self.storage_peak)
    }
}

/// Bytes on the disk of everything below `directory` on its own file system, and in `rooms`; `None` as
/// [`folder::occupied`] says.
fn stored(directory: &Path, rooms: &Rooms) -> Option<u64> {
    let Ok(own) = rustix::fs::lstat(directory) else { return rooms.used() };
    Some(folder::occupied(directory, |stat| stat.st_dev == own.st_dev)? + rooms.used()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_must_be_too_much_twice() {
        let bounds = Bounds { memory: Some(1000), ..Bounds::default() };
        let confinement = Confinement { bounds, policed: true, ..Confinement::default() };
        let mut police = Police::new(&confinement, Path::new("/"));
        let mut sampled =
            |resident_bytes| police.sampled(&Counters { resident_bytes, ..Counters::default() });
        assert_eq!((sampled(1001), sampled(1000), sampled(1001)), (None, None, None));
        assert!(sampled(1001).is_some_and(|breach| breach.message.contains("peak")));
    }

    #[test]
    fn storage_is_what_the_disk_holds_and_links_are_not_followed() {
        let dir = tempfile::tempdir().expect("tempdir");
        let outside = tempfile::tempdir().expect("tempdir");
        std::fs::write(outside.path().join("big"), vec![1; 1 << 20]).expect("write");
        std::fs::create_dir(dir.path().join("deep")).expect("folder");
        std::fs::write(dir.path().join("deep/file"), vec![1; 100_000]).expect("write");
        std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).expect("link");
        let sparse = std::fs::File::create(dir.path().join("sparse")).expect("file");
        sparse.set_len(1 << 30).expect("length");
        let used = stored(dir.path(), &Rooms::default()).expect("measured");
        assert!((100_000..300_000).contains(&used), "{used}");
        assert_eq!(stored(Path::new("/nowhere/at/all"), &Rooms::default()), Some(0));
    }
}
