//! The Pods of one Runtime and what each has free.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use kruntimes_resources::{Amount, Amounts};

use super::queue::OrderKey;
use super::tree::Tree;
use super::{InstanceView, PodView};
use crate::ids::RunUid;

/// What a Pod offers: its annotations, overruled name by name by what its server says.
pub fn capacity_of(pod: &PodView, instance: Option<&InstanceView>) -> Amounts {
    let mut capacity = pod.capacity.clone();
    if let Some(instance) = instance.filter(|instance| instance.pod == pod.uid) {
        for (name, amount) in instance.allocatable.iter() {
            capacity.set(name, amount);
        }
    }
    capacity
}

/// What the Runs of one Pod hold together. Kept also for Pods that were not seen yet.
#[derive(Debug, Default)]
pub(super) struct Load {
    pub(super) held: Amounts,
    pub(super) runs: HashSet<RunUid>,
    /// Runs per submitter.
    pub(super) submitters: HashMap<Option<Arc<str>>, u32>,
}

impl Load {
    /// Whether nobody but `submitter` is here. Two Runs that name nobody may be of two people.
    pub(super) fn is_only(&self, submitter: Option<&Arc<str>>) -> bool {
        match submitter {
            None => self.submitters.is_empty(),
            Some(_) => self.submitters.keys().all(|other| other.as_ref() == submitter),
        }
    }
}

/// Room kept for a Run that waited too long.
#[derive(Debug, Clone)]
pub(super) struct Reservation {
    pub(super) holder: OrderKey,
    pub(super) amounts: Amounts,
    /// Nobody behind the holder may enter at all.
    pub(super) closed: bool,
}

/// One Pod.
#[derive(Debug)]
pub(super) struct PodSlot {
    pub(super) view: PodView,
    pub(super) capacity: Amounts,
    /// Capacity less what is held; below zero when capacity shrank.
    pub(super) free: Amounts,
    /// Share of the scarcest resource that is held, in millionths.
    pub(super) load: u32,
    /// Takes Runs: ready, fresh, not deleting.
    pub(super) takes: bool,
    pub(super) fresh: bool,
    /// Changes whenever the Pod may have more to offer than before.
    pub(super) inventory: u64,
    pub(super) reservation: Option<Reservation>,
}

/// The Pods of one Runtime.
#[derive(Debug)]
pub(super) struct PodTable {
    slots: Vec<Option<PodSlot>>,
    vacant: Vec<u32>,
    resources: Vec<Arc<str>>,
    tree: Tree,
}

impl PodTable {
    pub(super) fn new() -> Self {
        Self { slots: Vec::new(), vacant: Vec::new(), resources: Vec::new(), tree: Tree::new(1, 0) }
    }

    pub(super) fn get(&self, slot: u32) -> Option<&PodSlot> {
        self.slots.get(slot as usize).and_then(Option::as_ref)
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut PodSlot> {
        self.slots.get_mut(slot as usize).and_then(Option::as_mut)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &PodSlot)> + Clone {
        self.slots.iter().enumerate().filter_map(|(index, slot)| Some((index as u32, slot.as_ref()?)))
    }

    pub(super) fn insert(&mut self, view: PodView) -> u32 {
        let pod = PodSlot {
            view,
            capacity: Amounts::new(),
            free: Amounts::new(),
            load: 0,
            takes: false,
            fresh: false,
            inventory: 0,
            reservation: None,
        };
        match self.vacant.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(pod);
                slot
            }
            None => {
                self.slots.push(Some(pod));
                (self.slots.len() - 1) as u32
            }
        }
    }

    pub(super) fn remove(&mut self, slot: u32) -> Option<PodSlot> {
        let pod = self.slots.get_mut(slot as usize)?.take()?;
        self.vacant.push(slot);
        if self.tree.holds(slot, self.resources.len()) {
            self.tree.clear(slot);
        }
        Some(pod)
    }

    /// Recomputes what the Pod has free. True when it may take more than before.
    pub(super) fn refresh(&mut self, slot: u32, load: Option<&Load>) -> bool {
        let Some(pod) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) else { return false };
        let could = (pod.takes, std::mem::take(&mut pod.free));
        pod.free = pod.capacity.clone();
        pod.load = 0;
        if let Some(load) = load {
            pod.free.subtract(&load.held);
            for (name, amount) in pod.capacity.iter() {
                pod.load = pod.load.max(load.held.get(name).millionths_of(amount));
            }
        }
        pod.takes = pod.view.ready && pod.fresh && !pod.view.deleting;
        let grew =
            pod.takes && (!could.0 || pod.free.iter().any(|(name, amount)| amount > could.1.get(name)));
        if grew {
            pod.inventory += 1;
        }
        for (name, _) in pod.capacity.iter() {
            if !self.resources.contains(name) {
                self.resources.push(Arc::clone(name));
            }
        }
        self.index(slot);
        grew
    }

    /// Brings the tree up to date with one slot.
    pub(super) fn index(&mut self, slot: u32) {
        if self.tree.holds(slot, self.resources.len()) {
            self.place(slot);
            return;
        }
        self.tree = Tree::new(self.slots.len().max(2 * slot as usize), self.resources.len());
        for slot in 0..self.slots.len() as u32 {
            self.place(slot);
        }
    }

    fn place(&mut self, slot: u32) {
        let Some(pod) = self.get(slot) else { return };
        let closed = pod.reservation.as_ref().is_some_and(|reservation| reservation.closed);
        if !pod.takes || closed {
            self.tree.clear(slot);
            return;
        }
        let reserved = |name| pod.reservation.as_ref().map_or(Amount::ZERO, |r| r.amounts.get(name));
        let free: Vec<Amount> =
            self.resources.iter().map(|name| pod.free.get(name) - reserved(name)).collect();
        let rank = (pod.load, Arc::clone(&pod.view.name));
        self.tree.set(slot, rank, &free);
    }

    /// The first Pod, by load and name, with room for `amounts` beside all reservations, that `accept` takes.
    pub(super) fn search(&self, amounts: &Amounts, mut accept: impl FnMut(&PodSlot) -> bool) -> Option<u32> {
        let mut want = Vec::with_capacity(amounts.len());
        for (name, amount) in amounts.iter() {
            let resource = self.resources.iter().position(|resource| resource == name);
            want.push((resource?, amount));
        }
        self.tree.search(&want, |slot| self.get(slot).is_some_and(&mut accept))
    }

    /// Every Pod with room for `amounts` beside all reservations.
    pub(super) fn fitting<'a>(
        &'a self,
        amounts: &'a Amounts,
    ) -> impl Iterator<Item = (u32, &'a PodSlot)> + Clone {
        self.iter().filter(move |(_, pod)| {
            let room = |reservation: &Reservation| {
                !reservation.closed
                    && amounts
                        .iter()
                        .all(|(name, want)| want <= pod.free.get(name) - reservation.amounts.get(name))
            };
            pod.takes && amounts.fits(&pod.free) && pod.reservation.as_ref().is_none_or(room)
        })
    }
}
