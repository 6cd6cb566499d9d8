//! Finds the least loaded Pod that has room, in about log(Pods).

use std::sync::Arc;

use kruntimes_resources::Amount;

const NONE: u32 = u32::MAX;

/// What orders two Pods: load in millionths, then name.
type Rank = (u32, Arc<str>);

/// A binary tree over slots. Each node knows, of the slots below that take Runs, the
/// first in rank and per resource the most that is free in one of them.
#[derive(Debug)]
pub(super) struct Tree {
    /// A power of two.
    leaves: usize,
    /// Resources per slot.
    width: usize,
    ranks: Vec<Rank>,
    first: Vec<u32>,
    free: Vec<Amount>,
}

/// Less than any free amount.
const NOTHING: Amount = Amount::whole(i64::MIN + 1);

impl Tree {
    pub(super) fn new(slots: usize, width: usize) -> Self {
        let leaves = slots.next_power_of_two();
        Self {
            leaves,
            width,
            ranks: vec![(0, "".into()); leaves],
            first: vec![NONE; 2 * leaves],
            free: vec![NOTHING; 2 * leaves * width],
        }
    }

    pub(super) fn holds(&self, slot: u32, width: usize) -> bool {
        (slot as usize) < self.leaves && width == self.width
    }

    /// Slot `slot` takes Runs and has `free` (in the order of the resources).
    pub(super) fn set(&mut self, slot: u32, rank: Rank, free: &[Amount]) {
        let leaf = self.leaves + slot as usize;
        self.ranks[slot as usize] = rank;
        self.first[leaf] = slot;
        self.free[leaf * self.width..(leaf + 1) * self.width].copy_from_slice(free);
        self.climb(leaf);
    }

    /// Slot `slot` takes no Runs.
    pub(super) fn clear(&mut self, slot: u32) {
        let leaf = self.leaves + slot as usize;
        self.first[leaf] = NONE;
        self.free[leaf * self.width..(leaf + 1) * self.width].fill(NOTHING);
        self.climb(leaf);
    }

    fn climb(&mut self, leaf: usize) {
        let mut node = leaf / 2;
        while node >= 1 {
            let (left, right) = (2 * node, 2 * node + 1);
            self.first[node] = match (self.first[left], self.first[right]) {
                (a, NONE) => a,
                (NONE, b) => b,
                (a, b) => {
                    if self.before(a, b) {
                        a
                    } else {
                        b
                    }
                }
            };
            for resource in 0..self.width {
                self.free[node * self.width + resource] =
                    self.free[left * self.width + resource].max(self.free[right * self.width + resource]);
            }
            node /= 2;
        }
    }

    fn before(&self, a: u32, b: u32) -> bool {
        self.ranks[a as usize] < self.ranks[b as usize]
    }

    /// The first slot in rank that has `want` free and that `accept` takes.
    pub(super) fn search(
        &self,
        want: &[(usize, Amount)],
        mut accept: impl FnMut(u32) -> bool,
    ) -> Option<u32> {
        let mut found = None;
        self.visit(1, want, &mut accept, &mut found);
        found
    }

    fn visit(
        &self,
        node: usize,
        want: &[(usize, Amount)],
        accept: &mut impl FnMut(u32) -> bool,
        found: &mut Option<u32>,
    ) {
        let candidate = self.first[node];
        if candidate == NONE
            || found.is_some_and(|found| !self.before(candidate, found))
            || want.iter().any(|(resource, amount)| *amount > self.free[node * self.width + resource])
        {
            return;
        }
        if node >= self.leaves {
            if accept(candidate) {
                *found = Some(candidate);
            }
            return;
        }
        let (left, right) = (2 * node, 2 * node + 1);
        let left_first = self.first[left] == candidate;
        for child in if left_first { [left, right] } else { [right, left] } {
            self.visit(child, want, accept, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn finds_what_a_linear_search_finds(
            slots in proptest::collection::vec((proptest::bool::ANY, 0u32..4, 0i64..4, 0i64..4), 1..40),
            want in (0i64..5, 0i64..5),
            refused in 0u32..40,
        ) {
            let mut tree = Tree::new(slots.len(), 2);
            for (slot, (takes, load, a, b)) in slots.iter().enumerate() {
                let name: Arc<str> = format!("pod-{slot:02}").into();
                tree.set(slot as u32, (*load, name), &[Amount::whole(*a), Amount::whole(*b)]);
                if !takes {
                    tree.clear(slot as u32);
                }
            }
            let request = [(0, Amount::whole(want.0)), (1, Amount::whole(want.1))];
            let expected = slots
                .iter()
                .enumerate()
                .filter(|(slot, (takes, _, a, b))| *takes && *a >= want.0 && *b >= want.1 && *slot as u32 != refused)
                .min_by_key(|(slot, (_, load, ..))| (*load, *slot))
                .map(|(slot, _)| slot as u32);
            prop_assert_eq!(tree.search(&request, |slot| slot != refused), expected);
        }
    }
}
