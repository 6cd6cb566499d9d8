//! Room for Runs that small ones would pass for ever.

use std::sync::Arc;

use kruntimes_api::runtime::Tenancy;

use super::affinity::Neighbours;
use super::demand::Resolved;
use super::pods::{PodSlot, Reservation};
use super::queue::OrderKey;
use super::scheduler::{Entry, QueueId};
use super::timers::Timer;
use super::{Now, Scheduler};
use crate::ids::RunUid;

impl Scheduler {
    /// The first Run of a group fits nowhere: later ones may pass it, for a while.
    pub(super) fn block(&mut self, id: QueueId, group: usize, order: &OrderKey, now: Now) {
        self.queues[id].unlist(group);
        let Some(entry) = self.runs.get(&order.uid) else { return };
        let starving_at = entry.waiting_since + self.settings.reserve_after;
        if starving_at > now.mono {
            self.timers.after(starving_at, Timer::Starving { queue: id, group });
        } else {
            self.reserve(id, group, order);
        }
    }

    /// The first Run of a group may have waited long enough.
    pub(super) fn starving_due(&mut self, id: QueueId, group: usize, now: Now) {
        let Some(order) = self.queues[id].group(group).and_then(|group| group.waiting.first().cloned())
        else {
            return;
        };
        if !self.queues[id].is_listed(group) {
            self.block(id, group, &order, now);
        }
    }

    /// Another kind of demand has come: those who starve are looked at again.
    pub(super) fn wake_starving(&mut self, id: QueueId, now: Now) {
        let starving = self.queues[id].blocked(|group| {
            let first = group.waiting.first().and_then(|order| self.runs.get(&order.uid));
            first.is_some_and(|entry| entry.waiting_since + self.settings.reserve_after <= now.mono)
        });
        for group in starving {
            self.queues[id].list(group);
        }
    }

    /// Lists the groups that may fit into `slot` once it is empty: who starves among them may have it reserved.
    pub(super) fn wake_starving_for(&mut self, id: QueueId, slot: u32) {
        let queue = &mut self.queues[id];
        let Some(pod) = queue.pods.get(slot).filter(|pod| pod.takes) else { return };
        for group in queue.blocked(|group| group.resolved.amounts.fits(&pod.capacity)) {
            queue.list(group);
        }
        self.activate(id);
    }

    /// Keeps the room of one Pod for `order`, unless nobody could take it anyway.
    fn reserve(&mut self, id: QueueId, group: usize, order: &OrderKey) {
        let queue = &self.queues[id];
        if queue.group_count() == 1 {
            return;
        }
        let holds = |slot: &u32| {
            let reservation = queue.pods.get(*slot).and_then(|pod| pod.reservation.as_ref());
            reservation.is_some_and(|reservation| reservation.holder == *order)
        };
        let held = queue.reserved.iter().copied().find(holds);
        let (Some(group), Some(entry)) = (queue.group(group), self.runs.get(&order.uid)) else { return };
        let resolved = Arc::clone(&group.resolved);
        let neighbours = self.neighbours(entry, &resolved);
        let near = |pod: &PodSlot| neighbours.as_ref().is_none_or(|near| near.near(&pod.view.uid));
        if let Some(slot) = held {
            // Those whom it wants to be near to may have left that Pod: then it is tried again without it.
            if !queue.pods.get(slot).is_some_and(near) {
                self.unreserve_slot(id, slot);
            }
            return;
        }
        let single = queue.runtime.as_ref().is_some_and(|r| r.tenancy == Tenancy::SingleSubmitter);
        let nothing = kruntimes_resources::Amounts::new();
        let slot = queue.pods.search(&nothing, |pod| {
            pod.reservation.is_none() && resolved.amounts.fits(&pod.capacity) && near(pod)
        });
        let Some(slot) = slot else { return };
        let reservation = Reservation {
            holder: order.clone(),
            amounts: resolved.amounts.clone(),
            closed: single || resolved.terms.is_some(),
        };
        let queue = &mut self.queues[id];
        if let Some(pod) = queue.pods.get_mut(slot) {
            pod.reservation = Some(reservation);
            queue.reserved.insert(slot);
            queue.pods.index(slot);
        }
    }

    /// A Pod that is reserved for this Run, or for one behind it, and has room now.
    pub(super) fn reserved_for(
        &self,
        id: QueueId,
        entry: &Entry,
        resolved: &Resolved,
        near: Option<&Neighbours>,
    ) -> Option<u32> {
        let queue = &self.queues[id];
        queue.reserved.iter().copied().find(|slot| {
            let Some(pod) = queue.pods.get(*slot).filter(|pod| pod.takes) else { return false };
            let before =
                pod.reservation.as_ref().is_some_and(|reservation| entry.order <= reservation.holder);
            before && resolved.amounts.fits(&pod.free) && self.accepts(id, entry, near, pod)
        })
    }

    /// Gives up the reservation of a Run that has no more use for it.
    pub(super) fn unreserve(&mut self, id: QueueId, uid: &RunUid) {
        let queue = &self.queues[id];
        let held = queue.reserved.iter().copied().find(|slot| {
            let reservation = queue.pods.get(*slot).and_then(|pod| pod.reservation.as_ref());
            reservation.is_some_and(|reservation| reservation.holder.uid == *uid)
        });
        if let Some(slot) = held {
            self.unreserve_slot(id, slot);
        }
    }

    /// Ends the reservation on a Pod; its holder looks for another, and who starves may have this one.
    pub(super) fn unreserve_slot(&mut self, id: QueueId, slot: u32) {
        let queue = &mut self.queues[id];
        if !queue.reserved.remove(&slot) {
            return;
        }
        let reservation = queue.pods.get_mut(slot).and_then(|pod| pod.reservation.take());
        queue.pods.index(slot);
        if let Some(reservation) = reservation {
            self.try_again(&reservation.holder.uid);
        }
        self.wake_starving_for(id, slot);
    }
}
