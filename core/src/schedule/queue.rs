//! The waiting Runs of one Runtime, in groups of equal demand.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::RuntimeView;
use super::demand::{Demand, Resolved};
use super::intern::ByAddress;
use super::pods::PodTable;
use crate::ids::RunUid;

/// Queue order: higher priority, then older, then name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct OrderKey {
    pub(super) priority: Reverse<i32>,
    pub(super) created: Timestamp,
    pub(super) name: Arc<str>,
    pub(super) uid: RunUid,
}

/// What makes two Runs the same to every Pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct GroupKey {
    pub(super) demand: ByAddress<Demand>,
    /// Only where it matters.
    pub(super) submitter: Option<Arc<str>>,
    /// A Run with something of its own, such as a Pod to avoid, is alone.
    pub(super) alone: Option<RunUid>,
}

/// Waiting Runs with the same demand.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) key: GroupKey,
    pub(super) resolved: Arc<Resolved>,
    pub(super) waiting: BTreeSet<OrderKey>,
    /// Its place in [`Queue::ready`]; `None` while its first Run fits nowhere.
    listed: Option<OrderKey>,
    /// The last explanation: when, whether only a change of the pool can help, the text.
    pub(super) explained: Option<(Duration, bool, Arc<str>)>,
}

/// One Runtime's queue and Pods.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) runtime: Option<RuntimeView>,
    pub(super) pods: PodTable,
    groups: Vec<Option<Group>>,
    vacant: Vec<usize>,
    by_key: HashMap<GroupKey, usize>,
    ready: BTreeSet<(OrderKey, usize)>,
    resolved: HashMap<ByAddress<Demand>, Result<Arc<Resolved>, Arc<str>>>,
    /// Every Run of this Runtime that is known.
    pub(super) members: HashSet<RunUid>,
    /// Slots that hold a reservation.
    pub(super) reserved: BTreeSet<u32>,
    /// Is in the scheduler's list of queues to look at.
    pub(super) active: bool,
}

impl Queue {
    pub(super) fn new(namespace: Arc<str>, name: Arc<str>) -> Self {
        Self {
            namespace,
            name,
            runtime: None,
            pods: PodTable::new(),
            groups: Vec::new(),
            vacant: Vec::new(),
            by_key: HashMap::new(),
            ready: BTreeSet::new(),
            resolved: HashMap::new(),
            members: HashSet::new(),
            reserved: BTreeSet::new(),
            active: false,
        }
    }

    /// The demand under this queue's Runtime.
    pub(super) fn resolve(&mut self, demand: &Arc<Demand>) -> Result<Arc<Resolved>, Arc<str>> {
        let Some(runtime) = &self.runtime else { return Ok(Arc::new(demand.held(None))) };
        if self.resolved.len() > 4096 {
            self.resolved.clear();
        }
        let known = self.resolved.entry(ByAddress(Arc::clone(demand)));
        known.or_insert_with(|| demand.resolve(runtime).map(Arc::new).map_err(Arc::from)).clone()
    }

    /// Forgets what demands meant; the Runtime changed.
    pub(super) fn unresolve(&mut self) {
        self.resolved.clear();
    }

    pub(super) fn group(&self, id: usize) -> Option<&Group> {
        self.groups.get(id).and_then(Option::as_ref)
    }

    pub(super) fn group_mut(&mut self, id: usize) -> Option<&mut Group> {
        self.groups.get_mut(id).and_then(Option::as_mut)
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = (usize, &Group)> {
        self.groups.iter().enumerate().filter_map(|(id, group)| Some((id, group.as_ref()?)))
    }

    pub(super) fn group_count(&self) -> usize {
        self.by_key.len()
    }

    /// Adds a Run to its group; a new group is ready to be tried.
    pub(super) fn join(&mut self, key: GroupKey, resolved: Arc<Resolved>, order: OrderKey) -> usize {
        if let Some(id) = self.by_key.get(&key).copied() {
            if let Some(group) = self.group_mut(id) {
                group.waiting.insert(order);
                if group.listed.is_some() {
                    self.list(id);
                }
            }
            return id;
        }
        let group =
            Group { key: key.clone(), resolved, waiting: [order].into(), listed: None, explained: None };
        let id = self.vacant.pop().unwrap_or_else(|| {
            self.groups.push(None);
            self.groups.len() - 1
        });
        self.groups[id] = Some(group);
        self.by_key.insert(key, id);
        self.list(id);
        id
    }

    /// Takes a Run out of its group; an empty group is gone.
    pub(super) fn leave(&mut self, id: usize, order: &OrderKey) {
        let Some(group) = self.group_mut(id) else { return };
        group.waiting.remove(order);
        if !group.waiting.is_empty() {
            if group.listed.is_some() {
                self.list(id);
            }
            return;
        }
        self.unlist(id);
        if let Some(group) = self.groups[id].take() {
            self.by_key.remove(&group.key);
            self.vacant.push(id);
        }
    }

    /// The group is to be tried, at the place of its first Run.
    pub(super) fn list(&mut self, id: usize) {
        let Some(group) = self.groups.get_mut(id).and_then(Option::as_mut) else { return };
        let first = group.waiting.first().cloned();
        if group.listed == first {
            return;
        }
        if let Some(old) = std::mem::replace(&mut group.listed, first.clone()) {
            self.ready.remove(&(old, id));
        }
        if let Some(first) = first {
            self.ready.insert((first, id));
        }
    }

    /// The group's first Run fits nowhere for now.
    pub(super) fn unlist(&mut self, id: usize) {
        let Some(group) = self.group_mut(id) else { return };
        if let Some(old) = group.listed.take() {
            self.ready.remove(&(old, id));
        }
    }

    pub(super) fn is_listed(&self, id: usize) -> bool {
        self.group(id).is_some_and(|group| group.listed.is_some())
    }

    /// The group to try next.
    pub(super) fn first(&self) -> Option<(usize, OrderKey)> {
        self.ready.first().map(|(order, id)| (*id, order.clone()))
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Ids of the groups that wait for room and of which `wanted` holds.
    pub(super) fn blocked(&self, wanted: impl Fn(&Group) -> bool) -> Vec<usize> {
        self.groups().filter(|(_, group)| group.listed.is_none() && wanted(group)).map(|(id, _)| id).collect()
    }
}
