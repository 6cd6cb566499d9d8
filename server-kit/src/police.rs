//! Bounds that no kernel holds for a Run: looked at now and then, and a Run that broke one is ended.
//!
//! With control groups that is a refused fork, a process that version 1 ended for want of memory while
//! others of the Run live on, and storage. Without them it is memory and processes as well. What a Run has in a
//! `/tmp` and a `/dev/shm` of its own is both: storage, and memory, which control groups count by themselves.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::isolation::stored::{Effort, Unmeasured, stored};
use crate::isolation::{Bounds, Breach, Confinement, GroupCounters, Leaf, Rooms};
use crate::supervisor::wire::Counters;

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(100);
/// Walking a folder must not take more than this part of the time, unless the pause would be so long that very much could be
/// stored in it.
const WALK_PART: u32 = 10;
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Walks at once in this server, since each takes a descriptor for each level of folders, and how long each may take. One
/// that takes longer goes to the second line, where nobody waits who is done sooner; what takes longer still cannot be measured.
static WALKS: [(Semaphore, Duration); 2] =
    [(Semaphore::const_new(2), Duration::from_secs(1)), (Semaphore::const_new(1), Duration::from_secs(60))];

/// What a walk brought, and how long it took.
type Walked = (Stored, Duration);
type Stored = Result<u64, Unmeasured>;

/// What is looked at for one Run.
pub(crate) struct Police {
    bounds: Bounds,
    directory: PathBuf,
    /// It is this Run's alone, so that nothing is mounted in it.
    own: bool,
    /// Its groups say what was refused.
    events: bool,
    /// The supervisor must measure.
    policed: bool,
    next: Option<Instant>,
    /// The last measure was too much.
    suspected: bool,
    walk: Walk,
    /// The last walk found too much.
    doubted: bool,
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
    Now(JoinHandle<Walked>),
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
    pub(crate) fn new(confinement: &Confinement, directory: &Path, own: bool) -> Self {
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
            own,
            events,
            policed,
            next,
            suspected: false,
            walk,
            doubted: false,
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
                    Walk::Now(task) => Some(task.await.unwrap_or((Err(Unmeasured::Short), Duration::ZERO))),
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

    /// A walk is due, or brought something. What is moved meanwhile may be counted twice: only what a second walk finds as well
    /// has broken the bound.
    fn walked(&mut self, walked: Option<Walked>) -> Option<Breach> {
        let Some((used, took)) = walked else {
            self.walk = Walk::Now(tokio::spawn(self.walk()));
            return None;
        };
        let before = self.storage_peak;
        let breach = self.stored(used);
        let first = !std::mem::replace(&mut self.doubted, breach.is_some());
        if breach.is_some() && first {
            self.storage_peak = before;
            self.walk = Walk::From(Instant::now());
            return None;
        }
        self.walk = Walk::From(Instant::now() + (took * WALK_PART).clamp(INTERVAL, LONGEST_PAUSE));
        breach
    }

    fn stored(&mut self, used: Stored) -> Option<Breach> {
        let limit = self.bounds.storage?;
        match used {
            Ok(used) => {
                let peak = self.storage_peak.unwrap_or(0).max(used);
                self.storage_peak = Some(peak);
                (used > limit).then(|| self.bounds.too_much_storage(Some(peak)))
            }
            Err(Unmeasured::Short) => None,
            Err(why) => Some(self.bounds.unmeasured_storage(why)),
        }
    }

    /// Bytes on the disk of everything below the directory, what is mounted there left out, and in the rooms.
    fn walk(&self) -> impl Future<Output = Walked> + use<> {
        let (enough, own) = (self.bounds.storage.unwrap_or(u64::MAX), self.own);
        let (directory, rooms) = (Arc::new(self.directory.clone()), Arc::clone(&self.rooms));
        async move {
            let mut walked = (Err(Unmeasured::Short), Duration::ZERO);
            for (line, at_most) in &WALKS {
                // It is never closed.
                let _turn = line.acquire().await;
                let began = Instant::now();
                let (directory, rooms) = (Arc::clone(&directory), Arc::clone(&rooms));
                let effort = Effort { enough, at_most: *at_most };
                let walk = tokio::task::spawn_blocking(move || {
                    let Ok(top) = rustix::fs::lstat(&*directory) else { return rooms.used(enough) };
                    let below = stored(&directory, effort, |stat| own || stat.st_dev == top.st_dev)?;
                    Ok(below + rooms.used(enough)?)
                });
                walked = (walk.await.unwrap_or(Err(Unmeasured::Short)), began.elapsed());
                if !matches!(walked.0, Err(Unmeasured::Long(_))) {
                    break;
                }
            }
            walked
        }
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
            let rooms = Arc::clone(&self.rooms);
            let left = tokio::task::spawn_blocking(move || rooms.used(limit)).await;
            let left = left.unwrap_or(Err(Unmeasured::Short));
            if left.is_ok_and(|left| left > limit) {
                breach = breach.or_else(|| Some(self.bounds.out_of_memory(left.ok(), true)));
            }
        }
        if self.bounds.storage.is_some() {
            if let Walk::Now(task) = std::mem::replace(&mut self.walk, Walk::Off) {
                // Two at once would open and close the same folders.
                let _ = task.await;
            }
            let (used, _) = self.walk().await;
            breach = breach.or(self.stored(used));
            if self.bounded_files && signal == nix::libc::SIGXFSZ {
                breach = breach.or_else(|| Some(self.bounds.too_large_a_file(self.storage_peak)));
            }
        }
        (breach, self.storage_peak)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_must_be_too_much_twice() {
        let bounds = Bounds { memory: Some(1000), ..Bounds::default() };
        let confinement = Confinement { bounds, policed: true, ..Confinement::default() };
        let mut police = Police::new(&confinement, Path::new("/"), false);
        let mut sampled =
            |resident_bytes| police.sampled(&Counters { resident_bytes, ..Counters::default() });
        assert_eq!((sampled(1001), sampled(1000), sampled(1001)), (None, None, None));
        assert!(sampled(1001).is_some_and(|breach| breach.message.contains("peak")));
    }

    #[test]
    fn what_a_walk_finds_must_be_found_twice_while_it_runs() {
        let bounds = Bounds { storage: Some(1000), ..Bounds::default() };
        let confinement = Confinement { bounds, ..Confinement::default() };
        let mut police = Police::new(&confinement, Path::new("/"), false);
        let mut walked = |used| police.walked(Some((used, Duration::ZERO))).map(|breach| breach.message);
        assert_eq!((walked(Ok(1001)), walked(Ok(1000)), walked(Ok(1001))), (None, None, None));
        assert!(walked(Ok(1001)).is_some_and(|message| message.contains("peak 1001")));
        assert_eq!((walked(Err(Unmeasured::Short)), walked(Err(Unmeasured::Deep))), (None, None));
        assert!(walked(Err(Unmeasured::Deep)).is_some_and(|message| message.contains("128 deep")));
        assert_eq!(police.storage(), Some(1001));
    }
}
