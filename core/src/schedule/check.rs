//! Proves that the scheduler's state hangs together; for tests, after every event.

use std::collections::{HashMap, HashSet};

use kruntimes_resources::Amounts;

use super::Scheduler;
use super::scheduler::Place;
use crate::ids::{PodUid, RunUid};

impl Scheduler {
    /// Recomputes from the Runs what all indices should say.
    ///
    /// # Errors
    /// The first contradiction, as a sentence.
    pub fn check(&self) -> Result<(), String> {
        let mut held: HashMap<&PodUid, (Amounts, HashSet<&RunUid>)> = HashMap::new();
        let mut waiting = 0;
        for (uid, entry) in &self.runs {
            let queue = &self.queues[entry.queue];
            if !queue.members.contains(uid) {
                return Err(format!("{uid} is no member of its queue"));
            }
            match (&entry.place, &entry.held) {
                (Place::Assumed { pod, .. } | Place::Bound { pod }, Some(resolved)) => {
                    let (amounts, runs) = held.entry(pod).or_default();
                    amounts.add(&resolved.amounts);
                    runs.insert(uid);
                }
                (Place::Waiting(group), None) => {
                    waiting += 1;
                    let group = queue.group(*group).ok_or_else(|| format!("{uid} waits in no group"))?;
                    if !group.waiting.contains(&entry.order) {
                        return Err(format!("{uid} is missing in its group"));
                    }
                    if (entry.suspend || entry.cancel) && entry.note.is_none() {
                        return Err(format!("{uid} waits though it is suspended or cancelled"));
                    }
                }
                (Place::Assumed { .. } | Place::Bound { .. }, None) => {
                    return Err(format!("{uid} holds nothing"));
                }
                (_, Some(_)) => return Err(format!("{uid} holds room while {:?}", entry.place)),
                (_, None) => {}
            }
        }
        let unseen = self.runs.values().filter(|entry| entry.place.is_assumed()).count();
        if unseen != self.unseen {
            return Err(format!("{unseen} Runs are assumed, {} are counted", self.unseen));
        }
        self.check_loads(&held)?;
        self.check_queues(waiting)
    }

    fn check_loads(&self, held: &HashMap<&PodUid, (Amounts, HashSet<&RunUid>)>) -> Result<(), String> {
        if held.len() != self.loads.len() {
            return Err(format!("{} Pods hold Runs, {} are counted", held.len(), self.loads.len()));
        }
        for (pod, (amounts, runs)) in held {
            let load = self.loads.get(*pod).ok_or_else(|| format!("the load of {pod} is not counted"))?;
            if load.runs.len() != runs.len() || runs.iter().any(|uid| !load.runs.contains(*uid)) {
                return Err(format!("{pod} counts other Runs than it has"));
            }
            if let Some((name, amount)) = amounts.iter().find(|(name, amount)| load.held.get(name) != *amount)
            {
                return Err(format!("{pod} counts {} {name} instead of {amount}", load.held.get(name)));
            }
            if load.submitters.values().sum::<u32>() as usize != runs.len() {
                return Err(format!("{pod} counts its submitters wrongly"));
            }
        }
        Ok(())
    }

    fn check_queues(&self, waiting: usize) -> Result<(), String> {
        let mut grouped = 0;
        for queue in &self.queues {
            for (id, group) in queue.groups() {
                grouped += group.waiting.len();
                if group.waiting.is_empty() {
                    return Err(format!("group {id} of {} is empty", queue.name));
                }
                if let Some(runtime) = &queue.runtime
                    && group.key.demand.0.resolve(runtime).as_ref() != Ok(&*group.resolved)
                {
                    return Err(format!(
                        "group {id} of {} asks for what its demand meant before",
                        queue.name
                    ));
                }
            }
            if let Some((id, order)) = queue.first() {
                if queue.group(id).and_then(|group| group.waiting.first()) != Some(&order) {
                    return Err(format!("{} lists group {id} at the wrong place", queue.name));
                }
                if queue.runtime.is_some() && !queue.active {
                    return Err(format!("{} has something to try and is not active", queue.name));
                }
            }
            for (slot, pod) in queue.pods.iter() {
                let mut free = pod.capacity.clone();
                if let Some(load) = self.loads.get(&pod.view.uid) {
                    free.subtract(&load.held);
                }
                if let Some((name, amount)) = free.iter().find(|(name, amount)| pod.free.get(name) != *amount)
                {
                    return Err(format!(
                        "{} has {amount} {name} free, not {}",
                        pod.view.uid,
                        pod.free.get(name)
                    ));
                }
                if pod.reservation.is_some() != queue.reserved.contains(&slot) {
                    return Err(format!("the reservation of {} is not listed", pod.view.uid));
                }
                if let Some(reservation) = &pod.reservation {
                    let place = self.runs.get(&reservation.holder.uid).map(|entry| &entry.place);
                    if !matches!(place, Some(Place::Waiting(_))) {
                        return Err(format!("{} is reserved for a Run that is {place:?}", pod.view.uid));
                    }
                    if !pod.takes || !reservation.amounts.fits(&pod.capacity) {
                        return Err(format!("{} is reserved for a Run that it can never take", pod.view.uid));
                    }
                }
            }
        }
        if grouped == waiting { Ok(()) } else { Err(format!("{waiting} Runs wait, {grouped} are in groups")) }
    }
}
