//! Why a Run waits, for the person who waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kruntimes_resources::{Amount, Amounts, display};

use super::pods::PodSlot;
use super::queue::Queue;
use super::scheduler::{Entry, Note, Place, QueueId};
use super::timers::Timer;
use super::{Decision, Now, Scheduler};
use crate::ids::RunUid;
use crate::run::Event;

/// How long an explanation serves a whole group.
const KEEP: Duration = Duration::from_secs(1);

/// Why one Pod does not take a Run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Obstacle {
    /// It never offers so much.
    Offers(Arc<str>),
    /// So much is not free now.
    Lacks(Arc<str>),
    Affinity,
    OtherSubmitter,
    Reserved,
    Refused,
    NoHeartbeat,
    NotReady,
    Terminating,
}

/// Which check kept a Run out of a Pod, and why, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rejection {
    /// The check.
    pub plugin: &'static str,
    /// Why.
    pub reason: &'static str,
}

impl Obstacle {
    fn rejection(&self) -> Rejection {
        let (plugin, reason) = match self {
            Self::Offers(_) => ("resources", "capacity"),
            Self::Lacks(_) => ("resources", "in_use"),
            Self::Refused => ("resources", "refused"),
            Self::Reserved => ("resources", "reserved"),
            Self::Affinity => ("affinity", "affinity"),
            Self::OtherSubmitter => ("tenancy", "submitter"),
            Self::NoHeartbeat => ("pod", "no_heartbeat"),
            Self::NotReady => ("pod", "not_ready"),
            Self::Terminating => ("pod", "terminating"),
        };
        Rejection { plugin, reason }
    }
}

impl Scheduler {
    /// A waiting Run may be due for an explanation.
    pub(super) fn explain_due(&mut self, uid: &RunUid, now: Now) {
        let Some(entry) = self.runs.get(uid) else { return };
        let missing = self.queues[entry.queue].runtime.is_none();
        let open = matches!(entry.place, Place::Waiting(_)) || (entry.place == Place::Parked && missing);
        if !open || entry.suspend {
            return;
        }
        let busy_at = entry.waiting_since + self.settings.explain_busy_after;
        let (stuck, message) = self.explanation(uid, now);
        let Some(entry) = self.runs.get(uid) else { return };
        let known = entry.status.as_ref().and_then(|status| status.message.as_deref());
        if !stuck && busy_at > now.mono {
            self.timers.after(busy_at, Timer::Explain(uid.clone()));
        } else if known == Some(&*message) {
            self.timers.after(now.mono + self.settings.explain_every, Timer::Explain(uid.clone()));
        } else {
            self.notes.push_back(uid.clone());
        }
    }

    /// The Pods of a queue became fewer: who waits there is told early.
    pub(super) fn explain_soon(&mut self, id: QueueId, now: Now) {
        let firsts: Vec<_> =
            self.queues[id].groups().filter_map(|(_, group)| group.waiting.first()).collect();
        for order in firsts {
            let at = now.mono + self.settings.explain_stuck_after;
            self.timers.after(at, Timer::Explain(order.uid.clone()));
        }
    }

    /// The write of one explanation, if it still says something new.
    pub(super) fn note(&mut self, uid: &RunUid, now: Now) -> Option<Decision> {
        let entry = self.runs.get(uid)?;
        let missing = self.queues[entry.queue].runtime.is_none();
        let open = matches!(entry.place, Place::Waiting(_)) || (entry.place == Place::Parked && missing);
        if !open || entry.note.is_some() {
            return None;
        }
        let (_, message) = self.explanation(uid, now);
        let entry = self.runs.get_mut(uid)?;
        let again = now.mono + self.settings.explain_every;
        entry.explained_at = Some(now.mono);
        self.timers.after(again, Timer::Explain(uid.clone()));
        if entry.status.as_ref().and_then(|status| status.message.as_deref()) == Some(&*message) {
            return None;
        }
        entry.note = Some(Note::Sent);
        Some(self.decision(uid, Event::Unschedulable { message: message.to_string() }))
    }

    /// Whether only a change of the pool can help, and what to say.
    fn explanation(&mut self, uid: &RunUid, now: Now) -> (bool, Arc<str>) {
        let Some(entry) = self.runs.get(uid) else { return (false, "".into()) };
        let (id, place) = (entry.queue, entry.place.clone());
        let queue = &self.queues[id];
        let Place::Waiting(group) = place else {
            let message =
                format!("runtime {:?} does not exist in namespace {:?}", &*queue.name, &*queue.namespace);
            return (true, message.into());
        };
        if let Some((at, stuck, message)) = queue.group(group).and_then(|group| group.explained.clone())
            && at + KEEP > now.mono
        {
            return (stuck, message);
        }
        let (stuck, message, rejections) = self.explain(id, entry);
        for (rejection, pods) in rejections {
            *self.rejections.entry(rejection).or_default() += u64::from(pods);
        }
        let message: Arc<str> = message.into();
        if let Some(group) = self.queues[id].group_mut(group) {
            group.explained = Some((now.mono, stuck, Arc::clone(&message)));
        }
        (stuck, message)
    }

    fn explain(&self, id: QueueId, entry: &Entry) -> (bool, String, Vec<(Rejection, u32)>) {
        let queue = &self.queues[id];
        let total = queue.pods.iter().count();
        if total == 0 {
            let replicas = queue.runtime.as_ref().map_or(0, |runtime| runtime.replicas);
            let why =
                if replicas == 0 { " (its replicas are 0)" } else { "; see the conditions of that Runtime" };
            return (true, format!("runtime {:?} has no Pods{why}", &*queue.name), Vec::new());
        }
        let Some(resolved) = self.wanted(entry) else { return (false, String::new(), Vec::new()) };
        if let Some(message) = unknown(queue, &resolved.amounts) {
            let rejection = Rejection { plugin: "resources", reason: "unknown" };
            return (true, message, vec![(rejection, total as u32)]);
        }
        let neighbours = self.neighbours(entry, &resolved);
        let mut obstacles: BTreeMap<Obstacle, (u32, Amount)> = BTreeMap::new();
        let mut fit = 0;
        for (_, pod) in queue.pods.iter() {
            let (obstacle, best) = if let Some(obstacle) = state_of(pod) {
                (obstacle, Amount::ZERO)
            } else if let Some(short) = resolved.amounts.shortage(&pod.capacity) {
                (Obstacle::Offers(short.name), short.free)
            } else if neighbours.as_ref().is_some_and(|neighbours| !neighbours.allow(&pod.view.uid)) {
                (Obstacle::Affinity, Amount::ZERO)
            } else if let Some(short) = resolved.amounts.shortage(&pod.free) {
                (Obstacle::Lacks(short.name), short.free)
            } else if entry.refused.as_ref().is_some_and(|(uid, ..)| *uid == pod.view.uid) {
                (Obstacle::Refused, Amount::ZERO)
            } else if !self.accepts(id, entry, neighbours.as_ref(), pod) {
                (Obstacle::OtherSubmitter, Amount::ZERO)
            } else if pod.reservation.is_some() {
                (Obstacle::Reserved, Amount::ZERO)
            } else {
                fit += 1;
                continue;
            };
            let (count, most) = obstacles.entry(obstacle).or_insert((0, best));
            *count += 1;
            *most = (*most).max(best);
        }
        let stuck = fit == 0
            && obstacles.keys().all(|obstacle| {
                !matches!(
                    obstacle,
                    Obstacle::Lacks(_) | Obstacle::OtherSubmitter | Obstacle::Reserved | Obstacle::Refused
                )
            });
        let parts: Vec<String> = obstacles
            .iter()
            .map(|(obstacle, (count, most))| {
                let want = |name: &Arc<str>| display(name, resolved.amounts.get(name));
                match obstacle {
                    Obstacle::Offers(name) => {
                        format!("{count} lack {name} (want {}, offered {})", want(name), display(name, *most))
                    }
                    Obstacle::Lacks(name) => {
                        format!("{count} lack {name} (want {}, free {})", want(name), display(name, *most))
                    }
                    Obstacle::Affinity => format!("{count} excluded by spec.affinity"),
                    Obstacle::OtherSubmitter if entry.submitter.is_none() => {
                        format!("{count} in use, which a Run without spec.submitter does not share")
                    }
                    Obstacle::OtherSubmitter => format!("{count} in use by another submitter"),
                    Obstacle::Reserved => format!("{count} reserved for a Run that waits longer"),
                    Obstacle::Refused => format!("{count} had no room after all"),
                    Obstacle::NoHeartbeat => format!("{count} without a heartbeat"),
                    Obstacle::NotReady => format!("{count} not ready"),
                    Obstacle::Terminating => format!("{count} terminating"),
                }
            })
            .collect();
        let rejections = obstacles.iter().map(|(obstacle, (count, _))| (obstacle.rejection(), *count));
        (stuck, format!("{fit} of {total} Pods fit: {}", parts.join(", ")), rejections.collect())
    }
}

/// What to say of a Run that asks for something that its Runtime does not define and none of its Pods has: a name with a mistake in
/// it, or the wrong Runtime. Nothing while no Pod is there to say what it has. It waits all the same: what there is, servers say,
/// and the next one may have it.
fn unknown(queue: &Queue, amounts: &Amounts) -> Option<String> {
    queue.pods.iter().find(|(_, pod)| state_of(pod).is_none())?;
    let mut known: BTreeSet<&str> =
        queue.runtime.iter().flat_map(|r| r.kinds.keys()).map(String::as_str).collect();
    for (_, pod) in queue.pods.iter() {
        known.extend(pod.capacity.iter().map(|(name, _)| &**name));
    }
    let unknown: Vec<&str> =
        amounts.iter().map(|(name, _)| &**name).filter(|name| !known.contains(name)).collect();
    let noun = match unknown.len() {
        0 => return None,
        1 => "resource",
        _ => "resources",
    };
    let known: Vec<&str> = known.into_iter().collect();
    Some(format!(
        "unknown {noun} {}: Runtime {:?} offers {}",
        unknown.join(", "),
        &*queue.name,
        known.join(", ")
    ))
}

fn state_of(pod: &PodSlot) -> Option<Obstacle> {
    if pod.view.deleting {
        Some(Obstacle::Terminating)
    } else if !pod.view.ready {
        Some(Obstacle::NotReady)
    } else if !pod.fresh {
        Some(Obstacle::NoHeartbeat)
    } else {
        None
    }
}
