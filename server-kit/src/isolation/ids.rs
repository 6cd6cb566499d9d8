//! User ids for Runs: one each, none twice at a time.

use std::collections::HashSet;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

/// The ids that Runs may get: `FIRST-LAST`. A user id is also the Run's group id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdRange {
    pub first: u32,
    pub last: u32,
}

impl IdRange {
    /// Above the ids of users and of usual images, below 65536 so that a Pod with a user namespace has them.
    pub(crate) const DEFAULT: Self = Self { first: 33_000, last: 64_999 };

    pub(crate) fn contains(self, id: u32) -> bool {
        (self.first..=self.last).contains(&id)
    }

    fn size(self) -> u32 {
        self.last - self.first + 1
    }
}

impl FromStr for IdRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<u32>().ok();
        let range = text.split_once('-').and_then(|(first, last)| Some((number(first)?, number(last)?)));
        match range {
            Some((first, last)) if first >= 1000 && first <= last && last < u32::MAX => {
                Ok(Self { first, last })
            }
            _ => Err(format!("{text:?} is not FIRST-LAST with 1000 <= FIRST <= LAST < {}", u32::MAX)),
        }
    }
}

impl std::fmt::Display for IdRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// Leases ids. Goes round, so that an id comes again as late as can be: whatever was missed of an ended Run
/// does not meet its successor soon.
#[derive(Clone, Debug)]
pub(crate) struct Ids {
    shared: Arc<Mutex<Held>>,
}

#[derive(Debug)]
struct Held {
    range: IdRange,
    next: u32,
    held: HashSet<u32>,
}

impl Ids {
    /// `start` is where to begin, any number: servers of one machine begin at different places.
    pub(crate) fn new(range: IdRange, start: u32) -> Self {
        let next = range.first + start % range.size();
        Self { shared: Arc::new(Mutex::new(Held { range, next, held: HashSet::new() })) }
    }

    /// `None` when all are held.
    pub(crate) fn lease(&self) -> Option<IdLease> {
        let mut held = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..held.range.size() {
            let id = held.next;
            held.next = if id == held.range.last { held.range.first } else { id + 1 };
            if held.held.insert(id) {
                return Some(IdLease { id, shared: Arc::clone(&self.shared) });
            }
        }
        None
    }
}

/// One id; given back when dropped. Keep it until nothing of the Run is left.
#[derive(Debug)]
pub(crate) struct IdLease {
    id: u32,
    shared: Arc<Mutex<Held>>,
}

impl IdLease {
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Keeps the id out of use for good: something of the Run could not be taken back.
    pub(crate) fn withdraw(self) {
        std::mem::forget(self);
    }
}

impl Drop for IdLease {
    fn drop(&mut self) {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).held.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_range_is_two_numbers() {
        assert_eq!("2000-2001".parse(), Ok(IdRange { first: 2000, last: 2001 }));
        assert_eq!(IdRange::DEFAULT.to_string().parse(), Ok(IdRange::DEFAULT));
        for text in ["", "2000", "2001-2000", "0-10", "2000-4294967295", "a-b", "2000-2001-2002"] {
            let error = text.parse::<IdRange>().expect_err(text);
            assert!(error.contains("FIRST-LAST"), "{error}");
        }
    }

    #[test]
    fn an_id_that_was_withdrawn_never_comes_again() {
        let ids = Ids::new(IdRange { first: 2000, last: 2001 }, 0);
        ids.lease().expect("first").withdraw();
        for _ in 0..4 {
            assert_eq!(ids.lease().expect("the other").id(), 2001);
        }
    }

    proptest! {
        #[test]
        fn no_id_is_held_twice_and_none_is_lost(
            size in 1u32..6,
            start: u32,
            steps in proptest::collection::vec(proptest::option::of(0usize..6), 0..60),
        ) {
            let range = IdRange { first: 5000, last: 4999 + size };
            let ids = Ids::new(range, start);
            let mut held: Vec<IdLease> = Vec::new();
            for step in steps {
                match step {
                    Some(index) if index < held.len() => drop(held.remove(index)),
                    Some(_) => {}
                    None => match ids.lease() {
                        Some(lease) => {
                            prop_assert!(range.contains(lease.id()));
                            prop_assert!(held.iter().all(|other| other.id() != lease.id()));
                            held.push(lease);
                        }
                        None => prop_assert_eq!(held.len(), size as usize),
                    },
                }
            }
        }
    }
}
