//! The scheduler's state, and what happens to it when Pods and Runtimes change.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kruntimes_api::run::{Phase, RunStatus};

use super::demand::{Demand, Resolved};
use super::intern::Interner;
use super::pods::{Load, capacity_of};
use super::queue::{OrderKey, Queue};
use super::timers::{Due, Timer, Timers};
use super::{InstanceView, Now, PodView, Rejection, RuntimeView, Settings};
use crate::ids::{PodUid, RunUid};

pub(super) type QueueId = usize;

/// Where a known Run is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Place {
    /// Suspended, waiting for a time, or without a Runtime.
    Parked,
    /// A write that needs no Pod is due.
    Urgent(Urgent),
    /// In a group of its queue.
    Waiting(usize),
    /// A bind was decided; it holds its room until the outcome is seen.
    Assumed { pod: PodUid, assignment: i64, answer: Answer },
    /// Bound, as the watch says.
    Bound { pod: PodUid },
    /// Its end is being written.
    Ending { written: bool },
    /// Waits for a newer version after a conflict.
    Held { until: Duration },
}

impl Place {
    pub(super) fn is_assumed(&self) -> bool {
        matches!(self, Self::Assumed { .. })
    }
}

/// What is known of a bind that was sent.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    /// Nothing yet.
    Awaited,
    /// It was written.
    Written,
    /// It may have been written by a try whose answer was lost: its room stays taken until a newer
    /// version is seen, at most until the given time.
    Doubtful { until: Duration },
}

/// How far the write of an explanation is. The Run keeps its place in the queue meanwhile, and nobody of its
/// kind passes it: its bind must be decided on the version that the write makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Note {
    /// Sent, not answered.
    Sent,
    /// Answered; the version it made is awaited until then.
    Settling(Duration),
}

/// A write that needs no Pod.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Urgent {
    Cancel,
    PendingTimeout,
    Invalid(Arc<str>),
}

/// One Run that has not ended.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) namespace: Arc<str>,
    pub(super) queue: QueueId,
    pub(super) order: OrderKey,
    pub(super) version: Box<str>,
    /// Version that the write in flight was decided on.
    pub(super) sent: Box<str>,
    pub(super) generation: Option<i64>,
    pub(super) demand: Arc<Demand>,
    pub(super) submitter: Option<Arc<str>>,
    pub(super) labels: Option<Arc<std::collections::BTreeMap<String, String>>>,
    /// Its `kruntimes.io/traceparent`, for whoever tells of its bind.
    pub(super) trace: Option<Box<str>>,
    pub(super) suspend: bool,
    pub(super) cancel: bool,
    pub(super) not_before: Option<Due>,
    pub(super) deadline: Option<Due>,
    pub(super) status: Option<Box<RunStatus>>,
    pub(super) place: Place,
    /// The explanation that is being written.
    pub(super) note: Option<Note>,
    /// What it holds while assumed or bound.
    pub(super) held: Option<Arc<Resolved>>,
    /// When it was first seen.
    pub(super) queued_at: Timestamp,
    /// Since when it could have been bound.
    pub(super) waiting_since: Duration,
    pub(super) explained_at: Option<Duration>,
    /// Pod of the last infrastructure end.
    pub(super) avoid: Option<PodUid>,
    /// Pod that handed it back, its inventory then, and until when that counts.
    pub(super) refused: Option<(PodUid, u64, Duration)>,
}

/// Where a known Pod is.
#[derive(Debug)]
pub(super) struct PodPlace {
    pub(super) queue: QueueId,
    pub(super) slot: u32,
    /// The last heartbeat, and when it was seen to change; `None` while it is too old to count.
    pub(super) beat: Option<Timestamp>,
    pub(super) beat_seen: Option<Duration>,
}

/// How full one Runtime's queue is.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueDepth {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Runtime.
    pub runtime: Arc<str>,
    /// Runs that wait.
    pub waiting: usize,
    /// Runs that hold room.
    pub placed: usize,
    /// Since when the longest waiting Run waits.
    pub oldest: Option<Timestamp>,
    /// Runs by phase, as last seen.
    pub phases: BTreeMap<Phase, usize>,
}

/// See the [module](super).
#[derive(Debug)]
pub struct Scheduler {
    pub(super) settings: Settings,
    pub(super) queues: Vec<Queue>,
    queue_ids: HashMap<(Arc<str>, Arc<str>), QueueId>,
    pub(super) runs: HashMap<RunUid, Entry>,
    pub(super) loads: HashMap<PodUid, Load>,
    pub(super) pods: HashMap<PodUid, PodPlace>,
    instances: HashMap<(Arc<str>, Arc<str>), InstanceView>,
    /// Placed Runs per namespace.
    pub(super) placed: HashMap<Arc<str>, HashSet<RunUid>>,
    /// Queues per namespace that have had Runs with affinity.
    pub(super) choosy: HashMap<Arc<str>, HashSet<QueueId>>,
    pub(super) demands: Interner<Demand>,
    pub(super) names: Interner<str>,
    pub(super) active: VecDeque<QueueId>,
    pub(super) urgent: VecDeque<RunUid>,
    pub(super) notes: VecDeque<RunUid>,
    pub(super) note_at: Duration,
    pub(super) timers: Timers,
    pub(super) rejections: BTreeMap<Rejection, u64>,
    /// Runs that are assumed.
    pub(super) unseen: usize,
}

impl Scheduler {
    /// Knows nothing yet. Feed it everything that exists before the first [`plan`](Self::plan).
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            queues: Vec::new(),
            queue_ids: HashMap::new(),
            runs: HashMap::new(),
            loads: HashMap::new(),
            pods: HashMap::new(),
            instances: HashMap::new(),
            placed: HashMap::new(),
            choosy: HashMap::new(),
            demands: Interner::new(),
            names: Interner::new(),
            active: VecDeque::new(),
            urgent: VecDeque::new(),
            notes: VecDeque::new(),
            note_at: Duration::ZERO,
            timers: Timers::default(),
            rejections: BTreeMap::new(),
            unseen: 0,
        }
    }

    /// How many Pods could not take a Run that was looked into, since the last call.
    pub fn take_rejections(&mut self) -> BTreeMap<Rejection, u64> {
        std::mem::take(&mut self.rejections)
    }

    /// Binds that were decided and that the watch has not shown yet, answered or not.
    pub fn unseen(&self) -> usize {
        self.unseen
    }

    pub(super) fn queue_id(&mut self, namespace: &str, runtime: &str) -> QueueId {
        let key = (self.names.share(namespace), self.names.share(runtime));
        if let Some(id) = self.queue_ids.get(&key) {
            return *id;
        }
        let id = self.queues.len();
        self.queues.push(Queue::new(Arc::clone(&key.0), Arc::clone(&key.1)));
        self.queue_ids.insert(key, id);
        id
    }

    /// The queue has something to try.
    pub(super) fn activate(&mut self, id: QueueId) {
        let queue = &mut self.queues[id];
        if !queue.active && queue.runtime.is_some() && queue.has_ready() {
            queue.active = true;
            self.active.push_back(id);
        }
    }

    /// A Runtime was seen, or (`None`) is gone.
    pub fn runtime_seen(&mut self, namespace: &str, name: &str, runtime: Option<RuntimeView>, now: Now) {
        let id = self.queue_id(namespace, name);
        if self.queues[id].runtime == runtime {
            return;
        }
        self.queues[id].runtime = runtime;
        self.queues[id].unresolve();
        let members: Vec<RunUid> = self.queues[id].members.iter().cloned().collect();
        // All leave before the first comes back: no group may outlive what its demand meant before.
        for uid in &members {
            if self.runs.get(uid).is_some_and(|entry| matches!(entry.place, Place::Waiting(_))) {
                self.take_out(uid);
            }
        }
        for uid in members {
            self.replace(&uid, now);
        }
    }

    /// Every Runtime was listed: forgets the others.
    pub fn runtimes_listed(&mut self, listed: &HashSet<(String, String)>, now: Now) {
        let is_gone = |queue: &&Queue| {
            queue.runtime.is_some()
                && !listed.contains(&(queue.namespace.to_string(), queue.name.to_string()))
        };
        let gone: Vec<_> =
            self.queues.iter().filter(is_gone).map(|q| (q.namespace.clone(), q.name.clone())).collect();
        for (namespace, name) in gone {
            self.runtime_seen(&namespace, &name, None, now);
        }
    }

    /// A Pod was seen.
    pub fn pod_seen(&mut self, pod: PodView, now: Now) {
        let queue = self.queue_id(&pod.namespace, &pod.runtime);
        if self.pods.get(&pod.uid).is_some_and(|place| place.queue != queue) {
            self.pod_gone(&pod.uid, now);
        }
        let uid = pod.uid.clone();
        match self.pods.get_mut(&uid) {
            None => {
                // A heartbeat that was old when first seen counts only once it changes.
                let is_old = |beat: Timestamp| {
                    Duration::try_from(now.wall - beat).is_ok_and(|age| age > self.settings.fresh)
                };
                let beat_seen = pod.beat.filter(|beat| !is_old(*beat)).map(|_| now.mono);
                let beat = pod.beat;
                let slot = self.queues[queue].pods.insert(pod);
                self.pods.insert(uid.clone(), PodPlace { queue, slot, beat, beat_seen });
                self.watch_beat(&uid);
            }
            Some(place) => {
                if pod.beat != place.beat {
                    place.beat = pod.beat;
                    let watched = place.beat_seen.is_some();
                    place.beat_seen = pod.beat.map(|_| now.mono);
                    if !watched {
                        self.watch_beat(&uid);
                    }
                }
                let slot = self.pods.get(&uid).map_or(0, |place| place.slot);
                let Some(known) = self.queues[queue].pods.get_mut(slot) else { return };
                // Heartbeats are most of the traffic: nothing else changed, nothing else to do.
                let same =
                    PodView { beat: None, ..known.view.clone() } == PodView { beat: None, ..pod.clone() };
                let fresh = self.pods.get(&uid).is_some_and(|place| place.beat_seen.is_some());
                let was_fresh = known.fresh;
                known.view = pod;
                if same && fresh == was_fresh {
                    return;
                }
            }
        }
        self.update_pod(&uid, now);
    }

    /// A Pod is gone.
    pub fn pod_gone(&mut self, uid: &PodUid, now: Now) {
        let Some(place) = self.pods.remove(uid) else { return };
        let queue = &mut self.queues[place.queue];
        queue.reserved.remove(&place.slot);
        if let Some(pod) = queue.pods.remove(place.slot)
            && let Some(reservation) = pod.reservation
        {
            self.try_again(&reservation.holder.uid);
        }
        self.explain_soon(place.queue, now);
    }

    /// Every Pod was listed: forgets the others.
    pub fn pods_listed(&mut self, listed: &HashSet<PodUid>, now: Now) {
        let gone: Vec<_> = self.pods.keys().filter(|uid| !listed.contains(*uid)).cloned().collect();
        for uid in gone {
            self.pod_gone(&uid, now);
        }
    }

    /// A RuntimeInstance was seen.
    pub fn instance_seen(&mut self, instance: InstanceView, now: Now) {
        let key = (self.names.share(&*instance.namespace), self.names.share(&*instance.name));
        let uid = instance.pod.clone();
        if self.instances.get(&key) == Some(&instance) {
            return;
        }
        self.instances.insert(key, instance);
        self.update_pod(&uid, now);
    }

    /// A RuntimeInstance is gone.
    pub fn instance_gone(&mut self, namespace: &str, name: &str, now: Now) {
        let key = (self.names.share(namespace), self.names.share(name));
        if let Some(instance) = self.instances.remove(&key) {
            self.update_pod(&instance.pod, now);
        }
    }

    /// Every RuntimeInstance was listed: forgets the others.
    pub fn instances_listed(&mut self, listed: &HashSet<(String, String)>, now: Now) {
        let is_gone = |key: &&(Arc<str>, Arc<str>)| !listed.contains(&(key.0.to_string(), key.1.to_string()));
        let gone: Vec<_> = self.instances.keys().filter(is_gone).cloned().collect();
        for (namespace, name) in gone {
            self.instance_gone(&namespace, &name, now);
        }
    }

    fn watch_beat(&mut self, uid: &PodUid) {
        if let Some(seen) = self.pods.get(uid).and_then(|place| place.beat_seen) {
            self.timers.after(seen + self.settings.fresh, Timer::Beat(uid.clone()));
        }
    }

    /// A heartbeat may have become too old.
    pub(super) fn beat_due(&mut self, uid: &PodUid, now: Now) {
        let fresh = self.settings.fresh;
        let Some(place) = self.pods.get_mut(uid) else { return };
        match place.beat_seen {
            Some(seen) if seen + fresh > now.mono => self.watch_beat(uid),
            Some(_) => {
                place.beat_seen = None;
                self.update_pod(uid, now);
            }
            None => {}
        }
    }

    /// Recomputes one Pod after it, its instance or its heartbeat changed.
    fn update_pod(&mut self, uid: &PodUid, now: Now) {
        let Some(place) = self.pods.get(uid) else { return };
        let (id, slot, fresh) = (place.queue, place.slot, place.beat_seen.is_some());
        let Some(pod) = self.queues[id].pods.get_mut(slot) else { return };
        pod.fresh = fresh;
        let key = (Arc::clone(&pod.view.namespace), Arc::clone(&pod.view.name));
        let offered = capacity_of(&pod.view, self.instances.get(&key));
        let mut changed = !pod.takes;
        if offered != pod.capacity {
            pod.inventory += 1;
            pod.capacity = offered;
            changed = true;
        }
        self.refresh_pod(uid);
        let Some(pod) = self.queues[id].pods.get(slot) else { return };
        if !pod.takes || pod.reservation.as_ref().is_some_and(|kept| !kept.amounts.fits(&pod.capacity)) {
            self.unreserve_slot(id, slot);
            self.explain_soon(id, now);
        } else if changed {
            self.wake_starving_for(id, slot);
        }
    }

    /// Recomputes what a Pod has free, and wakes who may fit now.
    pub(super) fn refresh_pod(&mut self, uid: &PodUid) {
        let Some(place) = self.pods.get(uid) else { return };
        let (id, slot) = (place.queue, place.slot);
        if self.queues[id].pods.refresh(slot, self.loads.get(uid)) {
            self.wake(id, slot);
        }
    }

    /// Lists the groups that may fit into `slot` now.
    pub(super) fn wake(&mut self, id: QueueId, slot: u32) {
        let queue = &mut self.queues[id];
        let Some(pod) = queue.pods.get(slot).filter(|pod| pod.takes) else { return };
        for group in queue.blocked(|group| group.resolved.amounts.fits(&pod.free)) {
            queue.list(group);
        }
        self.activate(id);
    }

    /// Lists the groups with affinity in a namespace: somebody came or went.
    pub(super) fn wake_choosy(&mut self, namespace: &Arc<str>) {
        let Some(queues) = self.choosy.get(namespace) else { return };
        for id in queues.clone() {
            let queue = &mut self.queues[id];
            for group in queue.blocked(|group| group.resolved.terms.is_some()) {
                queue.list(group);
            }
            self.activate(id);
        }
    }

    /// Lists the group of a waiting Run.
    pub(super) fn try_again(&mut self, uid: &RunUid) {
        let Some(entry) = self.runs.get(uid) else { return };
        if let Place::Waiting(group) = entry.place {
            let id = entry.queue;
            self.queues[id].list(group);
            self.activate(id);
        }
    }

    /// How full every queue is that has Runs.
    pub fn depths(&self) -> Vec<QueueDepth> {
        let used = self.queues.iter().filter(|queue| !queue.members.is_empty());
        let depth = |queue: &Queue| {
            let mut depth = QueueDepth {
                namespace: Arc::clone(&queue.namespace),
                runtime: Arc::clone(&queue.name),
                waiting: 0,
                placed: 0,
                oldest: None,
                phases: BTreeMap::new(),
            };
            for entry in queue.members.iter().filter_map(|uid| self.runs.get(uid)) {
                let phase = entry.status.as_ref().and_then(|status| status.phase).unwrap_or_default();
                *depth.phases.entry(phase).or_default() += 1;
                depth.placed += usize::from(entry.held.is_some());
                if matches!(entry.place, Place::Waiting(_)) {
                    depth.waiting += 1;
                    let created = entry.order.created;
                    depth.oldest = Some(depth.oldest.map_or(created, |oldest| oldest.min(created)));
                }
            }
            depth
        };
        used.map(depth).collect()
    }
}
